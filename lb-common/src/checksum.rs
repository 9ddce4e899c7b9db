//! Internet checksum arithmetic (RFC 1071), updated incrementally (RFC 1624).
//!
//! A change is first collected as a [`Delta`], then applied to each checksum that covers it: an
//! address is covered by the IPv4 header's and, through the pseudo-header, by UDP's.

use crate::addr::words;

/// The difference that changed words make to a checksum, in one's complement arithmetic.
#[derive(Clone, Copy, Debug, Default)]
pub struct Delta(u64);

impl Delta {
    /// No change.
    #[inline(always)]
    #[must_use]
    pub const fn new() -> Self {
        Self(0)
    }

    /// Adds the change of one 16-bit word from `old` to `new`, as numbers in host order.
    ///
    /// RFC 1624 section 3, equation 3: `HC' = ~(~HC + ~m + m')`; this collects `~m + m'`.
    #[inline(always)]
    #[must_use]
    pub const fn word(self, old: u16, new: u16) -> Self {
        Self(self.0 + !old as u64 + new as u64)
    }

    /// Adds the change of four bytes at an even offset.
    #[inline(always)]
    #[must_use]
    pub const fn bytes4(self, old: [u8; 4], new: [u8; 4]) -> Self {
        self.number32(u32::from_be_bytes(old), u32::from_be_bytes(new))
    }

    /// Adds the change of an IPv6 address.
    #[inline(always)]
    #[must_use]
    pub fn bytes16(self, old: &[u8; 16], new: &[u8; 16]) -> Self {
        let ([old_high, old_low], [new_high, new_low]) = (words(old), words(new));
        self.number64(old_high, new_high).number64(old_low, new_low)
    }

    /// Adds another difference.
    #[inline(always)]
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    #[inline(always)]
    const fn number64(self, old: u64, new: u64) -> Self {
        self.number32((old >> 32) as u32, (new >> 32) as u32)
            .number32(old as u32, new as u32)
    }

    /// Adds the change of four bytes, read as one number in memory order.
    ///
    /// A sum whose words are all in memory order is the sum in memory order (RFC 1071 section 2,
    /// point B): do not mix the two.
    #[inline(always)]
    #[must_use]
    pub const fn raw32(self, old: u32, new: u32) -> Self {
        self.number32(old, new)
    }

    /// The same for eight bytes.
    #[inline(always)]
    #[must_use]
    pub const fn raw64(self, old: u64, new: u64) -> Self {
        self.number64(old, new)
    }

    /// Adds two words at once: their sum is congruent to the 32-bit number modulo 0xffff
    /// (RFC 1071 section 2, point C), and the complement of the number is that of its words.
    #[inline(always)]
    const fn number32(self, old: u32, new: u32) -> Self {
        Self(self.0 + !old as u64 + new as u64)
    }

    /// Returns the same difference in 16 bits.
    #[inline(always)]
    #[must_use]
    pub const fn folded(self) -> FoldedDelta {
        FoldedDelta(fold(self.0))
    }

    /// Returns `checksum` after the change.
    #[inline(always)]
    #[must_use]
    pub const fn apply(self, checksum: u16) -> u16 {
        !fold(self.0 + !checksum as u64)
    }

    /// Like [`Delta::apply`], for a UDP checksum, where zero means that none was sent.
    ///
    /// An absent checksum stays absent; a result of zero is sent as 0xffff (RFC 768).
    #[inline(always)]
    #[must_use]
    pub const fn apply_udp(self, checksum: u16) -> u16 {
        udp(checksum, self.apply(checksum))
    }
}

/// Returns a sum of words in 16 bits.
#[inline(always)]
const fn fold(sum: u64) -> u16 {
    // At most some forty numbers of 32 bits are ever collected: the sum is below 2^38, the first fold
    // leaves 23 bits, the second 17, and the third none to fold.
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// A [`Delta`] that is kept, and applied to the checksums of many packets.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FoldedDelta(u16);

impl FoldedDelta {
    /// Returns the difference that was kept as this number.
    #[inline(always)]
    #[must_use]
    pub const fn from_bits(bits: u16) -> Self {
        Self(bits)
    }

    /// Returns the number to keep.
    #[inline(always)]
    #[must_use]
    pub const fn to_bits(self) -> u16 {
        self.0
    }

    /// As [`Delta::apply`].
    #[inline(always)]
    #[must_use]
    pub const fn apply(self, checksum: u16) -> u16 {
        let sum = self.0 as u32 + !checksum as u32;
        !((sum & 0xffff) + (sum >> 16)) as u16
    }

    /// As [`Delta::apply_udp`].
    #[inline(always)]
    #[must_use]
    pub const fn apply_udp(self, checksum: u16) -> u16 {
        udp(checksum, self.apply(checksum))
    }
}

/// Returns what stands in a UDP header in place of an updated checksum.
#[inline(always)]
const fn udp(before: u16, updated: u16) -> u16 {
    match (before, updated) {
        (0, _) => 0,
        (_, 0) => 0xffff,
        _ => updated,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 1071 section 4.1, from scratch; the checksum field counts as zero.
    fn full(bytes: &[u8]) -> u16 {
        let mut sum = 0_u64;
        for pair in bytes.chunks(2) {
            sum += u64::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        }
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    proptest! {
        #[test]
        fn an_incremental_update_equals_a_full_recomputation(
            mut packet in prop::collection::vec(any::<u8>(), 40..200),
            address: [u8; 16],
            port: u16,
            v4: [u8; 4],
        ) {
            // Two checksums that differ only in the sign of zero are the same number; a packet
            // of zeros alone has no other representation, and no header is one.
            packet[0] |= 0x45;
            let before = full(&packet);

            let old: [u8; 16] = packet[4..20].try_into().expect("16 bytes");
            let old4: [u8; 4] = packet[20..24].try_into().expect("4 bytes");
            let old_port = u16::from_be_bytes([packet[24], packet[25]]);
            let delta = Delta::new()
                .bytes16(&old, &address)
                .bytes4(old4, v4)
                .word(old_port, port);
            packet[4..20].copy_from_slice(&address);
            packet[20..24].copy_from_slice(&v4);
            packet[24..26].copy_from_slice(&port.to_be_bytes());

            prop_assert_eq!(delta.apply(before), full(&packet));
            let kept = FoldedDelta::from_bits(delta.folded().to_bits());
            prop_assert_eq!(kept.apply(before), full(&packet));
        }

        #[test]
        fn an_absent_udp_checksum_stays_absent_and_a_present_one_present(
            checksum: u16, old: [u8; 16], new: [u8; 16],
        ) {
            let delta = Delta::new().bytes16(&old, &new);
            let updated = delta.apply_udp(checksum);
            prop_assert_eq!(updated == 0, checksum == 0);
            prop_assert_eq!(delta.folded().apply_udp(checksum), updated);
        }
    }

    #[test]
    fn the_example_of_rfc_1624_section_4_holds() {
        assert_eq!(Delta::new().word(0x5555, 0x3285).apply(0xdd2f), 0x0000);
    }
}
