//! A machine of the site: a network namespace with addresses.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    process::Command,
};

use super::{
    clients::UdpClient,
    netns::{Mounts, NetNs},
    process::Outcome,
};

/// An Ethernet address.
pub type Mac = [u8; 6];

/// A machine. Its first interface is `eth0`.
#[derive(Clone, Debug)]
pub struct Host {
    name: String,
    net: NetNs,
    mounts: Option<Mounts>,
    addresses: Option<(Ipv4Addr, Ipv6Addr)>,
}

impl Host {
    /// Makes a machine without interfaces.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            net: NetNs::new(),
            mounts: None,
            addresses: None,
        }
    }

    /// Makes a machine with a bpffs of its own.
    #[must_use]
    pub fn with_bpffs(name: &str) -> Self {
        let host = Self::new(name);
        let mounts = Mounts::new(&host.net);
        Self {
            mounts: Some(mounts),
            ..host
        }
    }

    /// Returns the name of the machine in the site, such as `gateway1`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns its network namespace.
    #[must_use]
    pub fn net(&self) -> &NetNs {
        &self.net
    }

    /// Returns its mount namespace, if it has one of its own.
    #[must_use]
    pub fn mounts(&self) -> Option<&Mounts> {
        self.mounts.as_ref()
    }

    /// Returns its main IPv4 address.
    ///
    /// # Panics
    ///
    /// If it was given no address.
    #[must_use]
    #[track_caller]
    pub fn v4(&self) -> Ipv4Addr {
        self.addresses.expect("the machine has addresses").0
    }

    /// Returns its main IPv6 address.
    ///
    /// # Panics
    ///
    /// If it was given no address.
    #[must_use]
    #[track_caller]
    pub fn v6(&self) -> Ipv6Addr {
        self.addresses.expect("the machine has addresses").1
    }

    /// Returns its main address of the family that `like` belongs to.
    #[must_use]
    #[track_caller]
    pub fn address_like(&self, like: IpAddr) -> IpAddr {
        match like {
            IpAddr::V4(_) => self.v4().into(),
            IpAddr::V6(_) => self.v6().into(),
        }
    }

    /// Gives `interface` an address of each family; the first ones given are the main ones.
    pub fn add_addresses(&mut self, interface: &str, v4: (Ipv4Addr, u8), v6: (Ipv6Addr, u8)) {
        self.net.ip(&[
            &format!("address add {}/{} dev {interface}", v4.0, v4.1),
            &format!("address add {}/{} dev {interface} nodad", v6.0, v6.1),
        ]);
        self.addresses.get_or_insert((v4.0, v6.0));
    }

    /// Returns a command that will run on this machine.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        self.net.command_with(program, self.mounts.as_ref())
    }

    /// Runs a program on this machine to its end; the words of `line` are parted by blanks.
    ///
    /// # Panics
    ///
    /// If it cannot be started.
    #[track_caller]
    pub fn run(&self, line: &str) -> Outcome {
        let mut words = line.split_whitespace();
        let mut command = self.command(words.next().expect("a command has a first word"));
        command.args(words);
        Outcome::of(command)
    }

    /// Returns the Ethernet address of `interface`.
    ///
    /// # Panics
    ///
    /// If there is no such interface.
    #[must_use]
    #[track_caller]
    pub fn mac(&self, interface: &str) -> Mac {
        let text = self
            .run(&format!("ip -json link show dev {interface}"))
            .ok();
        let links: serde_json::Value = serde_json::from_str(&text).expect("ip prints JSON");
        let address = links[0]["address"]
            .as_str()
            .expect("an interface has an address");
        let mut mac = Mac::default();
        for (byte, digits) in mac.iter_mut().zip(address.split(':')) {
            *byte = u8::from_str_radix(digits, 16).expect("an address is hexadecimal");
        }
        mac
    }

    /// Gives `interface` another Ethernet address, silently: nobody is told.
    pub fn set_mac(&self, interface: &str, mac: Mac) {
        let text = mac.map(|byte| format!("{byte:02x}")).join(":");
        self.net
            .ip(&[&format!("link set dev {interface} address {text}")]);
    }

    /// Returns a socket that talks to `server` only, from any address and port of this machine.
    #[must_use]
    #[track_caller]
    pub fn udp(&self, server: SocketAddr) -> UdpClient {
        let any: IpAddr = match server {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        self.udp_from(SocketAddr::new(any, 0), server)
    }

    /// Like [`Self::udp`], from the address and port `source`; port 0 lets the kernel choose.
    #[must_use]
    #[track_caller]
    pub fn udp_from(&self, source: SocketAddr, server: SocketAddr) -> UdpClient {
        self.udp_from_each(&[source], server).remove(0)
    }

    /// Like [`Self::udp_from`], one socket for each of `sources`.
    #[must_use]
    #[track_caller]
    pub fn udp_from_each(&self, sources: &[SocketAddr], server: SocketAddr) -> Vec<UdpClient> {
        self.net.enter(|| {
            sources
                .iter()
                .map(|source| UdpClient::connect(*source, server))
                .collect()
        })
    }
}
