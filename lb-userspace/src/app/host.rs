//! What the daemon changes of the host's network configuration, and gives back at the end:
//! addresses and reserved ports.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::Path,
};

use lb_common::addr;
use tokio::sync::watch;

use crate::{
    config::model::{Config, State},
    control::{Handle, chain, snapshot::Snapshot},
    net::{
        NetError,
        addresses::{self, Addresses, Ensured},
        announce::announce,
        interfaces::Interface,
        reserved_ports::{ReservedPorts, ReservedPortsError},
    },
};

/// File in the state directory that remembers which ports vipd reserved.
const RESERVED_PORTS: &str = "reserved_ports";

/// Reserves the SNAT ports from the host's own sockets.
///
/// # Errors
///
/// [`ReservedPortsError`].
pub(super) fn reserve_ports(config: &Config) -> Result<(), ReservedPortsError> {
    let range = config.node.snat_ports;
    let left = reserved_ports(&config.state).reserve(range.first..=range.last)?;
    tracing::debug!(
        left,
        "ports {range} are reserved from the host's own sockets"
    );
    Ok(())
}

fn reserved_ports(state: &State) -> ReservedPorts {
    ReservedPorts::new(Path::new("/"), &state.directory.join(RESERVED_PORTS))
}

/// Gives back everything that vipd ever added to the host: addresses and reserved ports. Says
/// what it was.
///
/// # Errors
///
/// [`NetError`], [`ReservedPortsError`].
pub(super) async fn give_back(state: &State) -> anyhow::Result<Vec<String>> {
    let mut done: Vec<String> = Addresses::open()
        .await?
        .remove_ours()
        .await?
        .iter()
        .map(|own| format!("removed the address {}", own.address))
        .collect();
    let ports = reserved_ports(state).release()?;
    if !ports.is_empty() {
        done.push(format!("gave the ports {ports} back to the host"));
    }
    Ok(done)
}

/// An address that the host shall have.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wanted {
    /// Name of the interface.
    interface: String,
    /// Neighbours are told.
    announce: bool,
}

/// Keeps the addresses of the configuration on the host.
pub(super) struct Keeper {
    addresses: Addresses,
    handle: Handle,
    watched: watch::Sender<BTreeSet<IpAddr>>,
    /// Those that were there when a daemon started before are announced once all the same: the
    /// neighbours may have heard of another owner since.
    announced: BTreeSet<IpAddr>,
}

impl Keeper {
    /// Returns a keeper that has done nothing yet, and a receiver of addresses that were lost.
    ///
    /// # Errors
    ///
    /// [`NetError::Open`].
    pub(super) async fn open(
        handle: Handle,
    ) -> Result<(Self, tokio::sync::mpsc::Receiver<IpAddr>), NetError> {
        let (watched, wanted) = watch::channel(BTreeSet::new());
        let lost = addresses::watch(wanted).await?;
        let keeper = Self {
            addresses: Addresses::open().await?,
            handle,
            watched,
            announced: BTreeSet::new(),
        };
        Ok((keeper, lost))
    }

    /// Adds what is missing, announces it, and removes what vipd once added and nobody needs any
    /// more. An address that flows are still translated to stays.
    pub(super) async fn reconcile(&mut self) {
        let snapshot = self.handle.snapshot();
        let interfaces = present(&snapshot).await;
        let wanted = wanted(&snapshot.state.config, &interfaces);
        for (&address, want) in &wanted {
            match interfaces.get(&want.interface) {
                Some(interface) => self.ensure(address, want, interface).await,
                None => tracing::warn!(
                    "cannot add {address}: there is no interface {}",
                    want.interface
                ),
            }
        }
        self.remove_others(&snapshot, &wanted).await;
        self.watched.send_replace(wanted.into_keys().collect());
        self.warn_of_missing(&snapshot, &interfaces);
    }

    async fn ensure(&mut self, address: IpAddr, want: &Wanted, interface: &Interface) {
        match self.addresses.ensure(address, interface.index).await {
            Ok(Ensured::Added) => {
                tracing::info!("added {address} to {}", interface.name);
                self.announced.remove(&address);
            }
            Ok(Ensured::Ours | Ensured::Foreign) => {}
            Err(error) => {
                tracing::error!("cannot add {address}: {}", chain(&error));
                return;
            }
        }
        if want.announce && self.announced.insert(address) {
            let interface = interface.clone();
            tokio::spawn(async move {
                if let Err(error) = announce(&interface, address).await {
                    tracing::warn!("{}", chain(&error));
                }
            });
        }
    }

    async fn remove_others(&mut self, snapshot: &Snapshot, wanted: &BTreeMap<IpAddr, Wanted>) {
        let in_use: BTreeSet<IpAddr> = snapshot
            .image
            .settings
            .snat_addresses
            .iter()
            .map(|bytes| addr::address(*bytes))
            .collect();
        let ours = match self.addresses.ours().await {
            Ok(ours) => ours,
            Err(error) => {
                tracing::warn!("{}", chain(&error));
                return;
            }
        };
        let others = ours
            .iter()
            .map(|own| own.address)
            .filter(|address| !wanted.contains_key(address) && !in_use.contains(address));
        for address in others {
            match self.addresses.remove(address).await {
                Ok(true) => {
                    self.announced.remove(&address);
                    tracing::info!("removed {address}, which the configuration does not have");
                }
                Ok(false) => {}
                Err(error) => tracing::warn!("{}", chain(&error)),
            }
        }
    }

    /// A VIP that somebody else manages must be there.
    fn warn_of_missing(&self, snapshot: &Snapshot, interfaces: &BTreeMap<String, Interface>) {
        for vip in snapshot.state.config.vips.iter().filter(|vip| !vip.manage) {
            let there = interfaces
                .values()
                .flat_map(|interface| &interface.addresses)
                .any(|(address, _)| *address == vip.address);
            if !there {
                tracing::warn!(
                    "{} is on none of vipd's interfaces: add it, or set manage = true for it",
                    vip.address
                );
            }
        }
    }
}

async fn present(snapshot: &Snapshot) -> BTreeMap<String, Interface> {
    let config = &snapshot.state.config;
    let of_vips = config.vips.iter().filter_map(|vip| vip.interface.as_ref());
    let names: BTreeSet<&String> = config.node.interfaces.iter().chain(of_vips).collect();
    let mut present = BTreeMap::new();
    for name in names {
        if let Ok(interface) = Interface::lookup(name).await {
            present.insert(name.clone(), interface);
        }
    }
    present
}

/// Returns the addresses that the host shall have, and where.
fn wanted(config: &Config, interfaces: &BTreeMap<String, Interface>) -> BTreeMap<IpAddr, Wanted> {
    let first = config.node.interfaces.first().cloned().unwrap_or_default();
    let snat = config.node.snat_addresses.iter().map(|&address| {
        let wanted = Wanted {
            interface: snat_interface(config, interfaces, address),
            announce: true,
        };
        (address, wanted)
    });
    let vips = config.vips.iter().filter(|vip| vip.manage).map(|vip| {
        let wanted = Wanted {
            interface: vip.interface.clone().unwrap_or_else(|| first.clone()),
            announce: vip.announce,
        };
        (vip.address, wanted)
    });
    snat.chain(vips).collect()
}

/// An SNAT address belongs to the interface whose network it lies in; where none says so, to the
/// last one of the configuration, which is the backends' side of two arms.
fn snat_interface(
    config: &Config,
    interfaces: &BTreeMap<String, Interface>,
    address: IpAddr,
) -> String {
    let names = &config.node.interfaces;
    let on_link = names.iter().find(|name| {
        interfaces.get(*name).is_some_and(|interface| {
            interface
                .addresses
                .iter()
                .any(|&(own, length)| own != address && same_network(own, address, length))
        })
    });
    on_link.or(names.last()).cloned().unwrap_or_default()
}

fn same_network(own: IpAddr, other: IpAddr, length: u8) -> bool {
    let offset = if own.is_ipv4() { 96 } else { 0 };
    let prefix = length.saturating_add(offset);
    own.is_ipv4() == other.is_ipv4()
        && addr::masked(&addr::bytes(own), prefix) == addr::masked(&addr::bytes(other), prefix)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn interface(name: &str, index: u32, addresses: &[(&str, u8)]) -> (String, Interface) {
        let interface = Interface {
            index,
            name: name.to_owned(),
            mac: [2, 0, 0, 0, 0, 1],
            mtu: 1500,
            up: true,
            kind: None,
            addresses: addresses
                .iter()
                .map(|(address, length)| (address.parse().expect("an address"), *length))
                .collect(),
        };
        (name.to_owned(), interface)
    }

    fn places(text: &str) -> Vec<(String, String)> {
        let interfaces = BTreeMap::from([
            interface("eth0", 2, &[("10.0.0.1", 24), ("fd00::1", 64)]),
            interface("eth1", 3, &[("10.0.1.1", 24), ("10.0.1.50", 32)]),
        ]);
        let config = config::parse(text).expect("valid");
        wanted(&config, &interfaces)
            .into_iter()
            .map(|(address, wanted)| (address.to_string(), wanted.interface))
            .collect()
    }

    #[test]
    fn each_address_has_its_interface() {
        let text = r#"
            [node]
            interfaces = ["eth0", "eth1"]
            snat_addresses = ["10.0.1.50", "10.0.0.51", "192.0.2.1"]
            snat_ports = "20000-20999"
            [[vip]]
            address = "10.9.9.9"
            interface = "eth1"
            [[vip]]
            address = "10.8.8.8"
            manage = false
            [[pool]]
            name = "p"
            backends = [{ name = "b", address = "10.0.1.9" }]
            [[service]]
            name = "s"
            vip = "10.0.0.100"
            port = 443
            protocol = "udp"
            forwarding = "snat"
            pool = "p"
        "#;

        let expected = [
            ("10.0.0.51", "eth0"),
            ("10.0.0.100", "eth0"),
            ("10.0.1.50", "eth1"),
            ("10.9.9.9", "eth1"),
            ("192.0.2.1", "eth1"),
        ];
        let expected = expected.map(|(address, name)| (address.to_owned(), name.to_owned()));
        assert_eq!(places(text), expected);
    }
}
