//! Affinity: which backend a client belongs to. It is remembered once the backend has answered.

use crate::layout::assert_layout;

/// Key of `affinity`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct AffinityKey {
    /// The client's address, cut to the service's prefix.
    pub client: [u8; 16],
    /// Number of the group; see [`group_number`].
    pub group: u32,
}

assert_layout!(AffinityKey, size = 20, align = 4);

/// Value of `affinity`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Affinity {
    /// Second of the client's last packet; each service applies its own timeout to it.
    pub last_seen: u32,
    /// Number of the backend.
    pub backend: u16,
    /// Zero.
    pub _reserved: u16,
}

assert_layout!(Affinity, size = 8, align = 4);

/// Returns the number of the affinity group called `name`: the same on every node.
#[must_use]
pub fn group_number(name: &str) -> u32 {
    let hash = crate::hash::bytes(name.as_bytes());
    (hash ^ (hash >> 32)) as u32
}

/// Returns the seconds after the last packet for which a client belongs to its backend.
///
/// An entry does not age while one of the client's flows lives, so it never counts as expired
/// before a flow that was seen at the same moment would. A flow's packets mark the entry once in
/// [`TOUCH_S`] seconds, so it may be that much older than the client's last packet.
#[inline(always)]
#[must_use]
pub const fn lifetime_s(affinity_timeout_s: u32, flow_timeout_s: u32) -> u32 {
    let longer = if affinity_timeout_s > flow_timeout_s {
        affinity_timeout_s
    } else {
        flow_timeout_s
    };
    longer.saturating_add(TOUCH_S)
}

/// Seconds between two marks that the packets of one flow leave on the client's entry.
pub const TOUCH_S: u32 = 16;

/// Returns whether a flow whose packets were last seen in second `before` marks its client's entry
/// with a packet in second `now`.
#[inline(always)]
#[must_use]
pub const fn is_touch_due(before: u32, now: u32) -> bool {
    before / TOUCH_S != now / TOUCH_S
}
