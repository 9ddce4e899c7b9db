//! Addresses as both sides store them.

/// Returns an IPv4 address in its IPv6-mapped form.
#[inline(always)]
#[must_use]
pub const fn mapped(v4: [u8; 4]) -> [u8; 16] {
    from_words([0, 0xffff << 32 | u32::from_be_bytes(v4) as u64])
}

/// Returns whether `address` is an IPv4 address in mapped form.
#[inline(always)]
#[must_use]
pub fn is_mapped(address: &[u8; 16]) -> bool {
    words(address)[0] == 0 && (words(address)[1] >> 32) == 0xffff
}

/// Returns the four bytes of an IPv4 address in mapped form.
#[inline(always)]
#[must_use]
pub const fn unmapped(address: &[u8; 16]) -> [u8; 4] {
    [address[12], address[13], address[14], address[15]]
}

/// Returns `address` with every bit after the first `prefix` cleared.
///
/// `prefix` counts the bits of the 16-byte form: an IPv4 prefix of 24 is 120 here. Above 128 it
/// counts as 128.
#[inline(always)]
#[must_use]
pub fn masked(address: &[u8; 16], prefix: u8) -> [u8; 16] {
    let [high, low] = words(address);
    let (high_bits, low_bits) = if prefix >= 64 {
        (64, (prefix - 64) as u32)
    } else {
        (prefix as u32, 0)
    };
    from_words([high & leading_ones(high_bits), low & leading_ones(low_bits)])
}

/// Returns the two halves of an address as numbers, most significant first.
#[inline(always)]
#[must_use]
pub fn words(a: &[u8; 16]) -> [u64; 2] {
    // Whole chunks compile to one load each; byte by byte the kernel program would run out of
    // registers.
    let (Some(high), Some(low)) = (a.first_chunk(), a.last_chunk()) else {
        return [0; 2];
    };
    [u64::from_be_bytes(*high), u64::from_be_bytes(*low)]
}

#[inline(always)]
const fn from_words([high, low]: [u64; 2]) -> [u8; 16] {
    ((high as u128) << 64 | low as u128).to_be_bytes()
}

/// Returns a number whose first `bits` bits are set; above 64 counts as 64.
#[inline(always)]
fn leading_ones(bits: u32) -> u64 {
    if bits == 0 {
        0
    } else if bits >= 64 {
        u64::MAX
    } else {
        u64::MAX << (64 - bits)
    }
}

#[cfg(feature = "user")]
mod user {
    use std::net::{IpAddr, Ipv6Addr};

    /// Returns the 16 bytes under which `address` stands in the maps.
    #[must_use]
    pub fn bytes(address: IpAddr) -> [u8; 16] {
        match address {
            IpAddr::V4(v4) => super::mapped(v4.octets()),
            IpAddr::V6(v6) => v6.octets(),
        }
    }

    /// Returns the address that stands in the maps as these 16 bytes.
    #[must_use]
    pub fn address(bytes: [u8; 16]) -> IpAddr {
        Ipv6Addr::from(bytes).to_canonical()
    }
}

#[cfg(feature = "user")]
pub use user::{address, bytes};

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_mapped_address_is_known_as_one_and_comes_back() {
        let address = mapped([10, 1, 2, 3]);

        assert!(is_mapped(&address));
        assert_eq!(unmapped(&address), [10, 1, 2, 3]);
        assert!(!is_mapped(&[0xfd; 16]));
        assert!(!is_mapped(&[0; 16]));
    }

    #[test]
    fn an_ipv4_prefix_counts_from_the_mapped_form() {
        assert_eq!(
            masked(&mapped([10, 1, 2, 3]), 96 + 24),
            mapped([10, 1, 2, 0])
        );
        assert_eq!(masked(&mapped([10, 1, 2, 3]), 128), mapped([10, 1, 2, 3]));
    }

    proptest! {
        #[test]
        fn masking_equals_masking_bit_by_bit(address: [u8; 16], prefix in 0_u8..=128) {
            let mut expected = [0_u8; 16];
            for bit in 0..usize::from(prefix) {
                expected[bit / 8] |= address[bit / 8] & (0x80 >> (bit % 8));
            }
            prop_assert_eq!(masked(&address, prefix), expected);
        }
    }
}
