//! Services: what a VIP and port stand for.

use crate::{backend::Backend, layout::assert_layout, limits::NAME_BYTES};

/// Key of `services`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ServiceKey {
    /// The VIP.
    pub vip: [u8; 16],
    /// The port; zero in a VIP's marker.
    pub port: u16,
    /// IANA protocol number; zero in a VIP's marker.
    pub protocol: u8,
    _reserved: u8,
}

assert_layout!(ServiceKey, size = 20, align = 2);

impl ServiceKey {
    /// Returns the key of the service on `vip`, `port` and `protocol`.
    #[inline(always)]
    #[must_use]
    pub const fn new(vip: [u8; 16], port: u16, protocol: u8) -> Self {
        Self {
            vip,
            port,
            protocol,
            _reserved: 0,
        }
    }

    /// Returns the key that stands for the VIP as a whole.
    ///
    /// Packets without readable ports (fragments, truncated headers) are known by it as ours.
    #[inline(always)]
    #[must_use]
    pub const fn marker(vip: [u8; 16]) -> Self {
        Self::new(vip, 0, 0)
    }
}

/// Value of `services`. All zero in a VIP's marker.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Service {
    /// Number of the service: below [`crate::limits::MAX_SERVICES`], stable across reloads.
    pub id: u16,
    /// Number of its pool.
    pub pool: u16,
    /// Port of backends that have none of their own.
    pub backend_port: u16,
    /// [`Service::AFFINITY`] or zero.
    pub flags: u16,
    /// Affinity group: services with the same number share entries.
    pub group: u32,
    /// Seconds for which a client belongs to its backend after its last packet.
    pub affinity_timeout_s: u32,
    /// Bits of an IPv4 client's address that count, in the 16-byte form: 97 to 128.
    pub ipv4_prefix: u8,
    /// Bits of an IPv6 client's address that count: 1 to 128.
    pub ipv6_prefix: u8,
    /// Zero.
    pub _reserved: [u8; 2],
    /// First of the service's entries in `ranges`.
    pub ranges_first: u32,
    /// How many entries in `ranges` the service has; zero: every client may come.
    pub ranges_count: u32,
    /// New flows that are let in each second, as long as the long run goes; zero: no limit.
    pub new_flows_per_second: u32,
    /// The same for each source: an IPv4 address, or the first 64 bits of an IPv6 address.
    pub new_flows_per_source: u32,
    /// Name in UTF-8, filled up with zeros.
    pub name: [u8; NAME_BYTES],
}

assert_layout!(Service, size = 100, align = 4);

impl Service {
    /// Clients are remembered in `affinity`; otherwise every flow is chosen by itself.
    pub const AFFINITY: u16 = 1;

    /// Returns the port that the service's flows have at a backend.
    #[inline(always)]
    #[must_use]
    pub const fn port_at(&self, backend: &Backend) -> u16 {
        match backend.port {
            0 => self.backend_port,
            port => port,
        }
    }
}
