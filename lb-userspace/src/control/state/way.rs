//! Ways: how a backend is reached, or why it is not.

use std::net::IpAddr;

use lb_common::{addr, backend::VlanTags, endpoint::EndpointKey};

use super::{BackendState, DesiredState};
use crate::config::model::{Backend, Pool, Protocol};

/// How frames reach a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// Index of the interface.
    pub interface: u32,
    /// Name of the interface.
    pub interface_name: String,
    /// MAC address of the next hop.
    pub mac: [u8; 6],
    /// MAC address of the interface.
    pub source_mac: [u8; 6],
    /// Tags of the frames.
    pub vlan: VlanTags,
    /// Largest IP packet that the interface carries, in bytes.
    pub mtu: u16,
    /// The gateway; `None`: on-link.
    pub via: Option<IpAddr>,
    /// Bits of the places of SNAT addresses that it may be reached from.
    pub snat_mask: u8,
}

impl DesiredState {
    /// Returns the way to a backend, or why there is none, as an administrator would say it.
    ///
    /// # Errors
    ///
    /// The reason, lower case, no full stop.
    pub fn way(&self, pool: &Pool, backend: &Backend) -> Result<Way, String> {
        let hop = match self.next_hops.get(&backend.address) {
            Some(Ok(hop)) => hop,
            Some(Err(reason)) => return Err(reason.clone()),
            None => return self.inherited_way(pool, backend),
        };
        let link = self.links.values().find(|link| link.index == hop.interface);
        let mut way = Way {
            interface: hop.interface,
            interface_name: hop.interface_name.clone(),
            mac: hop.mac,
            source_mac: link.map_or([0; 6], |link| link.mac),
            vlan: hop.vlan,
            mtu: link.map_or(0, |link| link.mtu),
            via: hop.via,
            snat_mask: 0,
        };
        if !self.is_in_xdp(&pool.name) {
            return Ok(way);
        }
        if link.is_none() {
            return Err(format!(
                "the route to {} leaves by {}, where vipd is not attached: add it to \
                 node.interfaces, or correct the route",
                backend.address, hop.interface_name
            ));
        }
        way.snat_mask = self.snat_mask(pool, backend)?;
        Ok(way)
    }

    /// The way that a former daemon found, until this one has looked.
    fn inherited_way(&self, pool: &Pool, backend: &Backend) -> Result<Way, String> {
        let inherited = self
            .backend(pool, backend)
            .and_then(|state| state.inherited)
            .filter(|kernel| kernel.reachable != 0);
        let Some(kernel) = inherited else {
            return Err("its next hop is not known yet".to_owned());
        };
        let link = self
            .links
            .values()
            .find(|link| link.index == kernel.interface);
        Ok(Way {
            interface: kernel.interface,
            interface_name: link.map_or_else(
                || format!("interface {}", kernel.interface),
                |link| link.name.clone(),
            ),
            mac: kernel.mac,
            source_mac: kernel.source_mac,
            vlan: kernel.vlan,
            mtu: kernel.mtu,
            via: None,
            snat_mask: self.snat_mask(pool, backend)?,
        })
    }

    /// Returns the addresses that a backend is reached from: those of the configuration that are
    /// of its family, or else the host's own towards it.
    #[must_use]
    pub fn sources(&self, backend: &Backend, state: &BackendState) -> Vec<IpAddr> {
        let same_family = |address: &&IpAddr| address.is_ipv4() == backend.address.is_ipv4();
        let configured: Vec<IpAddr> = self
            .config
            .node
            .snat_addresses
            .iter()
            .filter(same_family)
            .copied()
            .collect();
        if !configured.is_empty() {
            return configured;
        }
        // Another pool may have the same server: its way is known before this backend is.
        match self.next_hops.get(&backend.address) {
            Some(Ok(hop)) => vec![hop.source],
            _ => state.sources.iter().filter(same_family).copied().collect(),
        }
    }

    /// Returns the endpoints that flows to a backend need from one SNAT address: one for each of
    /// the ports that services reach it on.
    pub(super) fn endpoints_from<'a>(
        &'a self,
        source: IpAddr,
        pool: &'a Pool,
        backend: &'a Backend,
    ) -> impl Iterator<Item = EndpointKey> + 'a {
        self.snat_services()
            .filter(|service| service.pool.as_deref() == Some(pool.name.as_str()))
            .map(move |service| {
                EndpointKey::new(
                    addr::bytes(source),
                    addr::bytes(backend.address),
                    service.port_of(backend),
                    Protocol::Udp.number(),
                )
            })
    }

    /// Returns the places of the SNAT addresses that have an endpoint for each service.
    fn snat_mask(&self, pool: &Pool, backend: &Backend) -> Result<u8, String> {
        let sources = self
            .backend(pool, backend)
            .map(|state| self.sources(backend, state))
            .unwrap_or_default();
        if sources.is_empty() {
            return Err(format!(
                "the host has no address to reach {} from: give one in node.snat_addresses",
                backend.address
            ));
        }
        let mut mask = 0;
        for source in sources {
            let complete = self
                .endpoints_from(source, pool, backend)
                .all(|key| self.numbers.endpoints.get(&key).is_some());
            if let (Some(place), true) = (self.numbers.snat_addresses.get(&source), complete) {
                mask |= 1 << place;
            }
        }
        if mask == 0 {
            return Err(
                "no block of SNAT ports is free for it: those of removed backends rest until \
                 their flows have ended; raise node.max_flows if this lasts"
                    .to_owned(),
            );
        }
        Ok(mask)
    }
}
