//! Counters.

use crate::{
    layout::assert_layout,
    limits::{MAX_BACKENDS, MAX_SERVICES},
};

/// Value of `stats`, per processor: the traffic of one service or backend.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counters {
    /// Packets from clients.
    pub packets_in: u64,
    /// Bytes from clients, with the Ethernet header.
    pub bytes_in: u64,
    /// Packets to clients.
    pub packets_out: u64,
    /// Bytes to clients, with the Ethernet header.
    pub bytes_out: u64,
    /// Flows begun.
    pub flows_new: u64,
    /// Flows that came here because their backend could not serve them any more.
    pub flows_moved: u64,
    /// Clients that were answered and not remembered because the affinity table was full.
    pub affinity_full: u64,
    /// Packets dropped, whatever the reason.
    pub dropped: u64,
    /// ICMP errors in which a backend itself says that nothing listens on its port.
    pub unreachable: u64,
}

assert_layout!(Counters, size = 72, align = 8);

/// Entries of `stats`.
pub const STATS_ENTRIES: u32 = MAX_SERVICES + MAX_BACKENDS;

/// Returns the index in `stats` of a service.
#[inline(always)]
#[must_use]
pub const fn service_index(service: u32) -> u32 {
    service
}

/// Returns the index in `stats` of a backend.
#[inline(always)]
#[must_use]
pub const fn backend_index(backend: u32) -> u32 {
    MAX_SERVICES + backend
}

impl core::ops::AddAssign for Counters {
    fn add_assign(&mut self, other: Self) {
        self.packets_in += other.packets_in;
        self.bytes_in += other.bytes_in;
        self.packets_out += other.packets_out;
        self.bytes_out += other.bytes_out;
        self.flows_new += other.flows_new;
        self.flows_moved += other.flows_moved;
        self.affinity_full += other.affinity_full;
        self.dropped += other.dropped;
        self.unreachable += other.unreachable;
    }
}
