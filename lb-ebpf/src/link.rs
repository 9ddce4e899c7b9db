//! The link layer as the program computes with it.

use lb_common::backend::VlanTags;

use crate::packet;

/// A MAC address in the low 48 bits, in memory order.
pub(crate) type Mac = u64;

/// Returns the MAC address that stands in a map or a header as these bytes.
#[inline(always)]
pub(crate) fn mac(bytes: &[u8; 6]) -> Mac {
    let (low, high) = packet::six_bytes(bytes);
    u64::from(low) | u64::from(high) << 32
}

/// Writes a MAC address into a map's value or a header.
#[inline(always)]
pub(crate) fn store_mac(mac: Mac, to: &mut [u8; 6]) {
    packet::store_six_bytes(to, (mac as u32, (mac >> 32) as u16));
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
