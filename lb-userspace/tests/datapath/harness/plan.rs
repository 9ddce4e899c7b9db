//! The site on paper: its addresses, numbers and timeouts.

use super::packet::Mac;

/// The MAC address of the loopback, as the settings say.
pub(crate) const BALANCER_MAC: Mac = [0x02, 0, 0, 0, 0, 0x05];
/// The router that clients are behind.
pub(crate) const ROUTER_MAC: Mac = [0x02, 0, 0, 0, 0, 0x01];

/// The VIPs, with the port of the services that most tests use.
pub(crate) const VIP: &str = "10.20.90.105:443";
pub(crate) const VIP6: &str = "[2001:db8:20::105]:443";
/// Another service on the VIP, of the same pool and group.
pub(crate) const VIP_OTHER: &str = "10.20.90.105:444";
/// Clients; their port is one of the SNAT range, so that it is kept.
pub(crate) const CLIENT: &str = "192.0.2.10:20010";
pub(crate) const CLIENT6: &str = "[2001:db8:2::10]:20010";
/// The addresses that flows are translated to, with the clients' port.
pub(crate) const SNAT: &str = "10.11.20.5:20010";
pub(crate) const SNAT6: &str = "[2001:db8:11::5]:20010";

/// A backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gateway {
    pub(crate) number: u16,
    pub(crate) name: &'static str,
    pub(crate) address: &'static str,
    pub(crate) mac: Mac,
    pub(crate) pool: u16,
}

pub(crate) const GATEWAY1: Gateway = Gateway {
    number: 11,
    name: "RAS_Server1",
    address: "10.11.20.106:443",
    mac: [0x02, 0, 0, 0, 0, 0x06],
    pool: POOL,
};
pub(crate) const GATEWAY2: Gateway = Gateway {
    number: 12,
    name: "RAS_Server2",
    address: "10.11.20.107:443",
    mac: [0x02, 0, 0, 0, 0, 0x07],
    pool: POOL,
};
pub(crate) const GATEWAY1_V6: Gateway = Gateway {
    number: 21,
    name: "RAS_Server1_v6",
    address: "[2001:db8:11::106]:443",
    mac: [0x02, 0, 0, 0, 0, 0x06],
    pool: POOL6,
};
pub(crate) const GATEWAY2_V6: Gateway = Gateway {
    number: 22,
    name: "RAS_Server2_v6",
    address: "[2001:db8:11::107]:443",
    mac: [0x02, 0, 0, 0, 0, 0x07],
    pool: POOL6,
};
pub(crate) const GATEWAYS: [Gateway; 4] = [GATEWAY1, GATEWAY2, GATEWAY1_V6, GATEWAY2_V6];

/// Numbers of the pools.
pub(crate) const POOL: u16 = 1;
pub(crate) const POOL6: u16 = 2;
/// Numbers of the services on [`VIP`], [`VIP_OTHER`] and [`VIP6`].
pub(crate) const SERVICE: u16 = 3;
pub(crate) const SERVICE_OTHER: u16 = 40;
pub(crate) const SERVICE6: u16 = 5;
/// Affinity groups of the two pools.
pub(crate) const GROUP: u32 = 7;
pub(crate) const GROUP6: u32 = 8;

/// Timeouts. Short ones: a machine that has just started can be told that they have passed.
pub(crate) const FLOW_TIMEOUT_S: u32 = 20;
pub(crate) const UNREPLIED_TIMEOUT_S: u32 = 8;
pub(crate) const AFFINITY_TIMEOUT_S: u32 = 40;
pub(crate) const QUARANTINE_S: u32 = 10;

/// Largest IP packet that every interface carries, in bytes.
pub(crate) const MTU: u16 = 1500;

/// The SNAT range.
pub(crate) const SNAT_PORT_FIRST: u16 = 20_000;
pub(crate) const SNAT_PORTS: u16 = 64;
