//! Pools: the backends that a service chooses from.

use crate::{
    layout::assert_layout,
    limits::{MAGLEV_SLOTS, MAX_POOL_MEMBERS, NAME_BYTES},
};

/// Value of `pools`, an array by pool number.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Pool {
    /// Half of the pool's Maglev table that is in use, 0 or 1.
    ///
    /// One write of this value switches to a table that has been completely written.
    pub half: u32,
    /// Members that take new clients and stand in the table; zero: the table is empty.
    pub eligible: u32,
    /// Entries of `members` in use.
    pub member_count: u32,
    /// Backends that may take new clients when up, tried in turn when the table's choice cannot
    /// serve: between a backend's failure and the next table, and when only one service fails.
    pub members: [u16; MAX_POOL_MEMBERS],
    /// Name in UTF-8, filled up with zeros; all zero: the number is free.
    pub name: [u8; NAME_BYTES],
}

assert_layout!(Pool, size = 204, align = 4);

/// Returns the index in `maglev` of `slot` in the given half of a pool's table.
#[inline(always)]
#[must_use]
pub const fn maglev_index(pool: u32, half: u32, slot: u32) -> u32 {
    (pool * 2 + (half & 1)) * MAGLEV_SLOTS + slot
}

/// A slot of `maglev` that holds no backend.
pub const MAGLEV_EMPTY: u32 = u32::MAX;
