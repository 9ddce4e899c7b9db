//! The link layer as the program computes with it.

use lb_common::backend::VlanTags;

/// A MAC address in the low 48 bits, in memory order.
pub(crate) type Mac = u64;

/// Returns the MAC address that stands in a map or a header as these bytes.
#[inline(always)]
pub(crate) fn mac(bytes: &[u8; 6]) -> Mac {
    let start = bytes.as_ptr();
    // SAFETY: six bytes are there: four, and two behind them. Nothing is assumed of alignment.
    unsafe {
        u64::from(start.cast::<u32>().read_unaligned())
            | u64::from(start.add(4).cast::<u16>().read_unaligned()) << 32
    }
}

/// Writes a MAC address into a map's value or a header.
#[inline(always)]
pub(crate) fn store_mac(mac: Mac, to: &mut [u8; 6]) {
    let start = to.as_mut_ptr();
    // SAFETY: as in `mac`.
    unsafe {
        start.cast::<u32>().write_unaligned(mac as u32);
        start
            .add(4)
            .cast::<u16>()
            .write_unaligned((mac >> 32) as u16);
    }
}

/// The tags of a frame in one number: EtherType of the outer tag (zero: none), control information
/// of the outer and of the inner tag ([`VlanTags::ABSENT`] where there is none), 16 bits each.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tags(u64);

impl Tags {
    /// No tag.
    pub(crate) const NONE: Self = Self::new(0, [VlanTags::ABSENT; 2]);

    #[inline(always)]
    pub(crate) const fn new(outer_protocol: u16, control: [u16; 2]) -> Self {
        Self(outer_protocol as u64 | (control[0] as u64) << 16 | (control[1] as u64) << 32)
    }

    /// Returns the tags that stand in a map.
    #[inline(always)]
    pub(crate) fn of(tags: &VlanTags) -> Self {
        Self::new(tags.outer_protocol, tags.control)
    }

    /// Returns the tags as they stand in a map.
    #[inline(always)]
    pub(crate) const fn plain(self) -> VlanTags {
        VlanTags {
            outer_protocol: self.0 as u16,
            control: [(self.0 >> 16) as u16, (self.0 >> 32) as u16],
        }
    }
}
