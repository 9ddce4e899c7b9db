//! The state at start: a configuration on an empty data path, or on one that is at work.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::SystemTime};

use lb_common::{
    addr,
    backend::{Backend as KernelBackend, UP},
    limits::{
        MAX_BACKENDS, MAX_ENDPOINTS, MAX_INTERFACES, MAX_POOLS, MAX_SERVICES, MAX_SNAT_ADDRESSES,
    },
};

use super::{
    BackendIdentity, BackendState, CheckState, DesiredState, Health, NumberSet, Refusal,
    ServiceIdentity, clients::client_ranges, reload, transitions::cache_mask, warmth::Warmth,
};
use crate::{
    config::model::Config,
    control::{
        event::{BackendName, Link},
        fill::Fills,
        numbers::Numbers,
        overrides::Overrides,
    },
    dataplane::{SweepReport, image::Image},
};

/// Reason of a health that nothing but the maps vouches for.
const INHERITED: &str = "as before the daemon was restarted; not probed yet";

impl DesiredState {
    /// Returns the state to start with.
    ///
    /// Where the maps of a former daemon were `adopted`, the numbers, health and next hops of
    /// `image` are taken over: running traffic sees no change until this daemon has findings of
    /// its own. On new maps every backend is down until its first success.
    ///
    /// # Errors
    ///
    /// A [`Refusal`] for each key that the data path at work was made with another value of, and
    /// for lists of clients that are too long together with what was said at run time.
    pub fn start(
        config: Arc<Config>,
        image: &Image,
        adopted: bool,
        links: Vec<Link>,
        overrides: Overrides,
        now: SystemTime,
    ) -> Result<Self, Vec<Refusal>> {
        if adopted {
            reload::check_made_with(&config, &image.settings)?;
        }
        let client_ranges = client_ranges(&config, &overrides)?;
        let numbers = if adopted {
            adopted_numbers(image, &links)
        } else {
            free_numbers(image.settings.slots)
        };
        let cache_mask = match image.settings.cache_mask {
            0 => cache_mask(0, 0, config.node.max_flows),
            // What is in use is kept until it is known how many flows there are.
            in_use => in_use,
        };
        let mut state = Self {
            config,
            generation: 1,
            loaded: now,
            adopted,
            made_with: image.settings,
            cache_mask,
            numbers,
            backends: BTreeMap::new(),
            next_hops: BTreeMap::new(),
            links: links
                .into_iter()
                .map(|link| (link.name.clone(), link))
                .collect(),
            overrides,
            client_ranges: Arc::new(client_ranges),
            sweep: SweepReport::default(),
            connections: BTreeMap::new(),
            warmed: None,
            fills: Fills::default(),
        };
        state.add_backends(Some(image));
        state.settle();
        Ok(state)
    }

    /// Makes a state for each backend that has none, forgets those that are gone, and adds the
    /// services' own checks.
    pub(super) fn add_backends(&mut self, image: Option<&Image>) {
        let config = Arc::clone(&self.config);
        let mut former = std::mem::take(&mut self.backends);
        for pool in &config.pools {
            for backend in &pool.backends {
                let name = BackendName::new(pool.name.clone(), backend.name.clone());
                let mut state = former.remove(&name).unwrap_or_else(|| {
                    self.numbers
                        .backends
                        .get(&BackendIdentity::of(pool, backend))
                        .and_then(|number| u16::try_from(number).ok())
                        .and_then(|number| image?.backends.get(&number))
                        .map_or_else(BackendState::unknown, |kernel| {
                            inherited(kernel, image.map(|image| &image.settings.snat_addresses))
                        })
                });
                self.add_service_checks(&pool.name, &mut state);
                self.backends.insert(name, state);
            }
        }
        let known = &self.backends;
        self.overrides.retain(|name| known.contains_key(name));
    }

    /// A service's own check begins with the pool's view, or with what the maps say of it.
    fn add_service_checks(&self, pool: &str, state: &mut BackendState) {
        let mut former = std::mem::take(&mut state.service_checks);
        for service in &self.config.services {
            if service.pool.as_deref() != Some(pool) || service.health.is_none() {
                continue;
            }
            let check = former.remove(&service.name).unwrap_or_else(|| {
                let found_down = state
                    .inherited
                    .zip(self.service_number(service))
                    .is_some_and(|(kernel, number)| !kernel.serves_service(number as u8));
                let health = if found_down {
                    Health::Down
                } else {
                    state.check.health
                };
                CheckState::unprobed(health, &state.check.reason)
            });
            state.service_checks.insert(service.name.clone(), check);
        }
    }
}

/// Returns the state of a backend that the kernel knows.
fn inherited(
    kernel: &KernelBackend,
    snat_addresses: Option<&[[u8; 16]; MAX_SNAT_ADDRESSES]>,
) -> BackendState {
    let sources = snat_addresses
        .into_iter()
        .flatten()
        .enumerate()
        .filter(|(place, _)| (kernel.snat_mask >> place) & 1 == 1)
        .map(|(_, address)| addr::address(*address))
        .collect();
    let health = if kernel.health == UP {
        Health::Up
    } else {
        Health::Down
    };
    BackendState {
        check: CheckState::unprobed(health, INHERITED),
        full: kernel.full != 0,
        warmth: Warmth::Unknown,
        sources,
        inherited: Some(*kernel),
        ..BackendState::unknown()
    }
}

fn free_numbers(slots: u32) -> NumberSet {
    NumberSet {
        interfaces: Numbers::new(MAX_INTERFACES as u32),
        snat_addresses: Numbers::new(MAX_SNAT_ADDRESSES as u32),
        pools: Numbers::new(MAX_POOLS),
        services: Numbers::new(MAX_SERVICES),
        backends: Numbers::new(MAX_BACKENDS),
        endpoints: Numbers::new(slots.min(MAX_ENDPOINTS)),
    }
}

/// Returns who has which number, as the maps say.
fn adopted_numbers(image: &Image, links: &[Link]) -> NumberSet {
    let pool_name = |number: u16| {
        image
            .pools
            .get(&number)
            .map(|pool| text(&pool.pool.name).to_owned())
    };
    let services = image
        .services
        .iter()
        .filter(|(key, _)| key.protocol != 0)
        .filter_map(|(key, service)| {
            let identity = ServiceIdentity {
                vip: addr::address(key.vip),
                port: key.port,
                protocol: key.protocol,
                pool: pool_name(service.pool)?,
                backend_port: service.backend_port,
            };
            Some((identity, u32::from(service.id)))
        });
    let backends = image.backends.iter().filter_map(|(&number, backend)| {
        let identity = BackendIdentity {
            name: BackendName::new(pool_name(backend.pool)?, text(&backend.name)),
            address: addr::address(backend.address),
            port: backend.port,
        };
        Some((identity, u32::from(number)))
    });
    let settings = &image.settings;
    let interfaces = (0..).zip(&settings.interfaces).filter_map(|(place, held)| {
        let link = links.iter().find(|link| link.index == held.index)?;
        Some((link.name.clone(), place))
    });
    let snat_addresses = (0..)
        .zip(&settings.snat_addresses)
        .filter(|(_, address)| **address != [0; 16])
        .map(|(place, address)| (addr::address(*address), place))
        .collect::<Vec<(IpAddr, u32)>>();
    NumberSet {
        interfaces: Numbers::adopt(MAX_INTERFACES as u32, interfaces),
        snat_addresses: Numbers::adopt(MAX_SNAT_ADDRESSES as u32, snat_addresses),
        pools: Numbers::adopt(
            MAX_POOLS,
            image
                .pools
                .iter()
                .map(|(&number, pool)| (text(&pool.pool.name).to_owned(), u32::from(number))),
        ),
        services: Numbers::adopt(MAX_SERVICES, services),
        backends: Numbers::adopt(MAX_BACKENDS, backends),
        endpoints: Numbers::adopt(
            settings.slots.min(MAX_ENDPOINTS),
            image
                .endpoints
                .iter()
                .map(|(key, endpoint)| (*key, endpoint.slot)),
        ),
    }
}

/// Returns a name as it stands in a map, without the zeros that fill it up.
fn text(name: &[u8]) -> &str {
    let end = name
        .iter()
        .position(|&byte| byte == 0)
        .unwrap_or(name.len());
    std::str::from_utf8(&name[..end]).unwrap_or_default()
}
