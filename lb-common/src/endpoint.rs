//! Endpoints: the pairs of addresses between which SNAT ports are unique.

use crate::layout::assert_layout;

/// Key of `endpoints`, as the reply of a backend shows it; value of `slots`.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct EndpointKey {
    /// Our address towards the backend.
    pub snat: [u8; 16],
    /// The backend's address.
    pub backend: [u8; 16],
    /// The backend's port.
    pub port: u16,
    /// IANA protocol number.
    pub protocol: u8,
    _reserved: u8,
    _reserved2: u32,
}

assert_layout!(EndpointKey, size = 40, align = 8);

impl EndpointKey {
    /// Returns the key of the endpoint between `snat` and `backend`:`port`.
    #[inline(always)]
    #[must_use]
    pub const fn new(snat: [u8; 16], backend: [u8; 16], port: u16, protocol: u8) -> Self {
        Self {
            snat,
            backend,
            port,
            protocol,
            _reserved: 0,
            _reserved2: 0,
        }
    }
}

/// Value of `endpoints`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Endpoint {
    /// Its block of `records`: the record of SNAT port `p` is
    /// `slot * settings.snat_port_count + p - settings.snat_port_first`.
    pub slot: u32,
}

assert_layout!(Endpoint, size = 4, align = 4);
