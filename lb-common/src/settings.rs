//! What the XDP program must know of the node.

use crate::{
    layout::assert_layout,
    limits::{MAX_INTERFACES, MAX_SNAT_ADDRESSES},
};

/// The one value of `settings`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Settings {
    /// Makes the places of flows and sources in hash tables unknown to senders. Chosen at random
    /// when the maps are made; nothing outside this node depends on it.
    pub seed: u64,
    /// The last set of the flow cache that is in use: one less than a power of two. A cache that is
    /// no larger than its flows need stays in the processor's own caches.
    pub cache_mask: u32,
    /// The same of the exact match cache; zero: it is not in use.
    pub exact_mask: u32,
    /// Makes the slot of a record's index by a multiplication; see [`reciprocal`].
    pub slot_reciprocal: u64,
    /// Seconds after which a flow without packets has ended.
    pub flow_timeout_s: u32,
    /// Seconds for which a freed SNAT port rests.
    pub quarantine_s: u32,
    /// [`crate::LAYOUT_VERSION`] of the daemon that made the maps.
    pub layout_version: u32,
    /// Endpoint slots that `records` has room for.
    pub slots: u32,
    /// Lowest SNAT port.
    pub snat_port_first: u16,
    /// SNAT ports of each endpoint; zero while no configuration has been applied.
    pub snat_port_count: u16,
    /// Entries of `snat_addresses` in use.
    pub snat_address_count: u32,
    /// Addresses that flows are translated to; a place keeps its meaning while flows use it.
    pub snat_addresses: [[u8; 16]; MAX_SNAT_ADDRESSES],
    /// Interfaces that the program is attached to, by place; records name the place.
    pub interfaces: [Interface; MAX_INTERFACES],
}

assert_layout!(Settings, size = 272, align = 8);

impl Settings {
    /// Returns how far into the SNAT range a port lies; `None` if it does not.
    #[inline(always)]
    #[must_use]
    pub const fn snat_offset(&self, port: u16) -> Option<u32> {
        let offset = (port as u32).wrapping_sub(self.snat_port_first as u32);
        if offset < self.snat_port_count as u32 {
            Some(offset)
        } else {
            None
        }
    }
}

/// Returns the number that [`slot`] needs for slots of `count` records; zero for none.
#[must_use]
pub const fn reciprocal(count: u16) -> u64 {
    if count == 0 {
        0
    } else {
        (1 << RECIPROCAL_BITS) / count as u64 + 1
    }
}

/// Returns `index / count` for the `count` that `reciprocal` was made from, and any index below
/// [`crate::limits::MAX_FLOWS`].
#[inline(always)]
#[must_use]
pub const fn slot(index: u32, reciprocal: u64) -> u32 {
    ((index as u64 * reciprocal) >> RECIPROCAL_BITS) as u32
}

/// An index has 24 bits and a count 16: what rounding adds to the quotient stays below one part in
/// `count`.
const RECIPROCAL_BITS: u32 = 40;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::MAX_FLOWS;

    #[test]
    fn a_slot_is_the_quotient_for_every_count_at_every_edge() {
        for count in 1..=u16::MAX {
            let reciprocal = reciprocal(count);
            for quotient in [0, 1, 2, 255, MAX_FLOWS / u32::from(count)] {
                for index in [
                    (quotient * u32::from(count)).saturating_sub(1),
                    quotient * u32::from(count),
                    MAX_FLOWS - 1,
                ] {
                    if index < MAX_FLOWS {
                        assert_eq!(slot(index, reciprocal), index / u32::from(count));
                    }
                }
            }
        }
    }
}

/// An interface that the program is attached to.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Interface {
    /// Interface index; zero: the place is free.
    pub index: u32,
    /// Its own address: frames for another pass untouched, and ours leave with it.
    pub mac: [u8; 6],
    /// Largest IP packet that it carries, in bytes.
    pub mtu: u16,
}

assert_layout!(Interface, size = 12, align = 4);
