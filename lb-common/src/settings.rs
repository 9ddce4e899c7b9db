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

assert_layout!(Settings, size = 256, align = 8);

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
