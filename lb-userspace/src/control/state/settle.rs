//! Numbers: given to what is new, taken from what is gone, freed when nothing holds them.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use lb_common::{addr, endpoint::EndpointKey};

use super::{BackendIdentity, DesiredState, ServiceIdentity};
use crate::config::model::Forwarding;

impl DesiredState {
    /// Gives each name that shall stand in the maps its number, and lets the numbers of others
    /// rest. What finds no free number is left out of the maps until one is.
    pub(in crate::control) fn settle(&mut self) {
        let pass = self.sweep.pass;
        let config = Arc::clone(&self.config);
        let numbers = &mut self.numbers;

        let interfaces: BTreeSet<&String> = config.node.interfaces.iter().collect();
        numbers
            .interfaces
            .retain(pass, |name| interfaces.contains(name));
        for name in &config.node.interfaces {
            numbers.interfaces.assign(name);
        }

        let services: Vec<ServiceIdentity> = config
            .services
            .iter()
            .filter_map(|service| ServiceIdentity::of(service))
            .collect();
        let pools: BTreeSet<&str> = config
            .services
            .iter()
            .filter(|service| service.is_balanced())
            .flat_map(|service| service.pools())
            .collect();
        numbers
            .pools
            .retain(pass, |name| pools.contains(name.as_str()));
        for pool in config
            .pools
            .iter()
            .filter(|pool| pools.contains(pool.name.as_str()))
        {
            numbers.pools.assign(&pool.name);
        }
        numbers
            .services
            .retain(pass, |identity| services.contains(identity));
        for identity in &services {
            numbers.services.assign(identity);
        }

        let backends: Vec<BackendIdentity> = config
            .pools
            .iter()
            .filter(|pool| pools.contains(pool.name.as_str()))
            .flat_map(|pool| {
                pool.backends
                    .iter()
                    .map(|backend| BackendIdentity::of(pool, backend))
            })
            .collect();
        let wanted: BTreeSet<&BackendIdentity> = backends.iter().collect();
        numbers
            .backends
            .retain(pass, |identity| wanted.contains(identity));
        for identity in &backends {
            numbers.backends.assign(identity);
        }

        self.settle_endpoints(pass);
    }

    fn settle_endpoints(&mut self, pass: u64) {
        let (sources, endpoints) = self.wanted_endpoints();
        let numbers = &mut self.numbers;
        numbers
            .snat_addresses
            .retain(pass, |address| sources.contains(address));
        for address in &sources {
            numbers.snat_addresses.assign(address);
        }
        let wanted: BTreeSet<&EndpointKey> = endpoints.iter().collect();
        numbers.endpoints.retain(pass, |key| wanted.contains(key));
        for key in &endpoints {
            numbers.endpoints.assign(key);
        }
    }

    /// Returns the SNAT addresses and endpoints that the backends in the maps need.
    fn wanted_endpoints(&self) -> (BTreeSet<IpAddr>, Vec<EndpointKey>) {
        let mut addresses = BTreeSet::new();
        let mut endpoints = Vec::new();
        for (pool, backend) in self.pool_backends() {
            let Some(state) = self.backend(pool, backend) else {
                continue;
            };
            if !self.is_in_xdp(&pool.name) {
                continue;
            }
            for source in self.sources(backend, state) {
                addresses.insert(source);
                endpoints.extend(self.endpoints_from(source, pool, backend));
            }
        }
        (addresses, endpoints)
    }

    /// Frees the numbers that the last sweep found nothing of.
    ///
    /// An endpoint rests with its entry in the maps, so that its flows end in peace; an SNAT
    /// address rests as long as one of its endpoints does.
    pub(super) fn release(&mut self) {
        let sweep = &self.sweep;
        let pass = sweep.pass;
        let numbers = &mut self.numbers;
        let none = |count: Option<&u32>| count.is_none_or(|&count| count == 0);
        numbers.interfaces.release(pass, |_| true);
        numbers.pools.release(pass, |_| true);
        numbers.services.release(pass, |number| {
            none(sweep.flows_by_service.get(&(number as u8)))
        });
        numbers.backends.release(pass, |number| {
            let number = number as u16;
            none(sweep.flows_by_backend.get(&number))
                && none(self.connections.get(&number))
                && none(sweep.affinity_by_backend.get(&number))
        });
        numbers.endpoints.release(pass, |slot| {
            sweep
                .ports_by_slot
                .get(&slot)
                .is_none_or(|ports| ports.in_use == 0 && ports.resting == 0)
        });
        let held: BTreeSet<[u8; 16]> = numbers
            .endpoints
            .iter()
            .map(|(key, _)| key.snat)
            .chain(
                numbers
                    .endpoints
                    .resting()
                    .filter_map(|(_, key)| key.map(|key| key.snat)),
            )
            .collect();
        let address_of: Vec<(u32, [u8; 16])> = numbers
            .snat_addresses
            .resting()
            .filter_map(|(place, address)| Some((place, addr::bytes(*address?))))
            .collect();
        numbers.snat_addresses.release(pass, |place| {
            address_of
                .iter()
                .all(|(other, address)| *other != place || !held.contains(address))
        });
    }

    /// Returns the names of `snat` services and the backends that wait for a number.
    #[must_use]
    pub fn waiting(&self) -> Vec<String> {
        let services = self
            .config
            .services
            .iter()
            .filter(|service| service.forwarding == Forwarding::Snat)
            .filter(|service| self.service_number(service).is_none())
            .map(|service| format!("service {}", service.name));
        let backends = self
            .pool_backends()
            .filter(|(pool, _)| self.is_in_maps(&pool.name))
            .filter(|(pool, backend)| self.backend_number(pool, backend).is_none())
            .map(|(pool, backend)| format!("backend {}/{}", pool.name, backend.name));
        services.chain(backends).collect()
    }
}
