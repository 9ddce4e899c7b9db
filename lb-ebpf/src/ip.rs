//! Addresses as the program computes with them: two words instead of sixteen bytes.

use crate::packet;

const _: () = assert!(cfg!(target_endian = "little"), "built for bpfel only");

/// The 16 bytes of an address, as two words in memory order. Equal addresses have equal words;
/// nothing else may be read from them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ip {
    /// The first eight bytes.
    pub(crate) high: u64,
    /// The last eight bytes.
    pub(crate) low: u64,
}

impl Ip {
    /// Returns the address that stands in a map or a header as these bytes.
    #[inline(always)]
    pub(crate) fn of(bytes: &[u8; 16]) -> Self {
        let [high, low] = packet::words(bytes);
        Self { high, low }
    }

    /// Returns an IPv4 address, four bytes as in the header, in mapped form.
    #[inline(always)]
    pub(crate) fn v4(bytes: [u8; 4]) -> Self {
        Self {
            high: 0,
            low: u64::from(u32::from_ne_bytes(bytes)) << 32 | 0xffff_0000,
        }
    }

    /// Returns the four bytes of an IPv4 address in mapped form.
    #[inline(always)]
    pub(crate) fn to_v4(self) -> [u8; 4] {
        ((self.low >> 32) as u32).to_ne_bytes()
    }

    /// Returns the bytes of the address.
    #[inline(always)]
    pub(crate) fn bytes(self) -> [u8; 16] {
        // SAFETY: both types are 16 plain bytes.
        unsafe { core::mem::transmute([self.high, self.low]) }
    }

    /// Writes the address into a map's value.
    #[inline(always)]
    pub(crate) fn store(self, to: &mut [u8; 16]) {
        packet::store_words(to, [self.high, self.low]);
    }
}
