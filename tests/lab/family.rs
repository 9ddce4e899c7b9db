//! IPv4 and IPv6, for tests that promise the same of both.

use std::net::{IpAddr, SocketAddr};

use super::{
    configuration::{Configuration, HEALTH, POOL, SERVICE, SIX_HOURS, backend, backend6},
    host::Host,
    site::{campus_v4, campus_v6, vip, vip6},
};

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both of them.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// Returns the VIP of this family, with `port`.
    #[must_use]
    pub fn vip(self, port: u16) -> SocketAddr {
        match self {
            Self::V4 => vip(port),
            Self::V6 => vip6(port),
        }
    }

    /// Returns address `number` of the campus; any port.
    #[must_use]
    pub fn campus(self, number: u16) -> SocketAddr {
        match self {
            Self::V4 => campus_v4(number),
            Self::V6 => campus_v6(number),
        }
    }

    /// Returns the main address of `host`.
    #[must_use]
    #[track_caller]
    pub fn address(self, host: &Host) -> IpAddr {
        match self {
            Self::V4 => host.v4().into(),
            Self::V6 => host.v6().into(),
        }
    }

    /// Returns the table of a backend with the address of `host`.
    #[must_use]
    #[track_caller]
    pub fn backend(self, host: &Host) -> String {
        match self {
            Self::V4 => backend(host),
            Self::V6 => backend6(host),
        }
    }

    /// Returns how many bytes of a packet are the headers of IP and UDP.
    #[must_use]
    pub fn headers(self) -> usize {
        match self {
            Self::V4 => 20 + 8,
            Self::V6 => 40 + 8,
        }
    }

    /// Returns the pool [`POOL`] of `hosts` and the service [`SERVICE`] on UDP 443 of the VIP, with
    /// six hours of affinity.
    #[must_use]
    pub fn configuration(self, hosts: &[Host]) -> Configuration {
        self.configuration_with(hosts, SIX_HOURS)
    }

    /// Like [`Self::configuration`], with `more` lines in the service's table instead.
    #[must_use]
    pub fn configuration_with(self, hosts: &[Host], more: &str) -> Configuration {
        let backends: Vec<String> = hosts.iter().map(|host| self.backend(host)).collect();
        Configuration::new()
            .pool(POOL, &backends, HEALTH)
            .udp(SERVICE, self.vip(443), POOL, more)
    }
}
