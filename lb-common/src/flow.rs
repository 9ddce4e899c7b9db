//! The forward half of a flow: from the client's packet to backend and record.

use crate::layout::assert_layout;

/// Key of `flows`: an IPv4 flow as the client sends it.
///
/// Aligned to eight bytes, so that the program writes it in whole words.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct FlowKey {
    /// The client.
    pub client: [u8; 4],
    /// The VIP.
    pub vip: [u8; 4],
    /// The client's port.
    pub client_port: u16,
    /// The service's port.
    pub vip_port: u16,
    /// IANA protocol number.
    pub protocol: u8,
    _reserved: u8,
    _reserved2: u16,
}

assert_layout!(FlowKey, size = 16, align = 8);

impl FlowKey {
    /// Returns the key of the flow from `client`:`client_port` to `vip`:`vip_port`.
    #[inline(always)]
    #[must_use]
    pub const fn new(
        client: [u8; 4],
        client_port: u16,
        vip: [u8; 4],
        vip_port: u16,
        protocol: u8,
    ) -> Self {
        Self {
            client,
            vip,
            client_port,
            vip_port,
            protocol,
            _reserved: 0,
            _reserved2: 0,
        }
    }
}

/// Key of `flows6`: an IPv6 flow as the client sends it; otherwise as [`FlowKey`].
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct FlowKey6 {
    /// The client.
    pub client: [u8; 16],
    /// The VIP.
    pub vip: [u8; 16],
    /// The client's port.
    pub client_port: u16,
    /// The service's port.
    pub vip_port: u16,
    /// IANA protocol number.
    pub protocol: u8,
    _reserved: u8,
    _reserved2: u16,
}

assert_layout!(FlowKey6, size = 40, align = 8);

impl FlowKey6 {
    /// Returns the key of the flow from `client`:`client_port` to `vip`:`vip_port`.
    #[inline(always)]
    #[must_use]
    pub const fn new(
        client: [u8; 16],
        client_port: u16,
        vip: [u8; 16],
        vip_port: u16,
        protocol: u8,
    ) -> Self {
        Self {
            client,
            vip,
            client_port,
            vip_port,
            protocol,
            _reserved: 0,
            _reserved2: 0,
        }
    }
}

/// Value of `flows` and `flows6`.
///
/// It repeats what the forward path needs of the record's place, so that a packet needs no other
/// table for it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Flow {
    /// Index of its record.
    pub record: u32,
    /// Generation of its record. A record of another generation belongs to another flow: the
    /// element was reused while it was read, or the other half is gone.
    pub generation: u32,
    /// Number of its backend.
    pub backend: u16,
    /// Our source port towards the backend.
    pub snat_port: u16,
    /// The backend's port.
    pub backend_port: u16,
    /// Place of our source address in `settings.snat_addresses`.
    pub snat_address: u8,
    /// Number of its service.
    pub service: u8,
}

assert_layout!(Flow, size = 16, align = 4);

impl Flow {
    /// No flow.
    pub const NONE: Self = Self {
        record: 0,
        generation: 0,
        backend: 0,
        snat_port: 0,
        backend_port: 0,
        snat_address: 0,
        service: 0,
    };
}
