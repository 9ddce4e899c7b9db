//! What shall be: services, pools, backends, their health, their admin state and their numbers.
//!
//! Pure: no I/O and no clock. Events change it through the methods of the submodules, which also
//! give numbers to what needs one; [`mod@super::render`] says what the maps shall hold.
//!
//! The submodules: `start` (from a configuration and what a former daemon left), `transitions`
//! (what the events do), `clients` (whom services take), `reload` (a changed configuration),
//! `settle` (numbers), `warmth` (backends that start slowly), `way` (how backends are reached).

mod clients;
mod reload;
mod settle;
mod start;
mod transitions;
mod warmth;
mod way;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use lb_common::{endpoint::EndpointKey, settings::Settings};
use tokio::time::Instant;

use super::{
    event::{BackendName, Health, Link, NextHop},
    fill::Fills,
    numbers::Numbers,
    overrides::Overrides,
};
use crate::{
    config::model::{AdminState, Backend, Config, Forwarding, Pool, Service},
    dataplane::SweepReport,
};

pub use self::{
    clients::{ClientRanges, ClientsError, ClientsWish, Refuser},
    reload::Refusal,
    transitions::{Author, TargetError},
    warmth::Warmth,
    way::Way,
};

/// Everything that control decides by.
#[derive(Clone, Debug)]
pub struct DesiredState {
    /// The configuration in force.
    pub config: Arc<Config>,
    /// 1 at start, one more with each reload.
    pub generation: u64,
    /// When the configuration was applied.
    pub loaded: SystemTime,
    /// A former daemon's data path was taken over.
    pub adopted: bool,
    /// Settings that the data path was made with; `slots` among them.
    pub made_with: Settings,
    /// Which number stands for what.
    pub numbers: NumberSet,
    /// Every backend of the configuration.
    pub backends: BTreeMap<BackendName, BackendState>,
    /// The ways to the backends' addresses, as far as they are known, or why there is none.
    pub next_hops: BTreeMap<IpAddr, Result<NextHop, String>>,
    /// The interfaces of the configuration that the host has, by name.
    pub links: BTreeMap<String, Link>,
    /// What was changed at run time.
    pub overrides: Overrides,
    /// Whom each service takes.
    pub client_ranges: Arc<ClientRanges>,
    /// What the last sweep found.
    pub sweep: SweepReport,
    /// Connections and requests of the proxy, by backend number.
    pub connections: BTreeMap<u16, u32>,
    /// When a backend that starts slowly last got more of its weight.
    pub warmed: Option<Instant>,
    /// Last set of the program's flow cache that is in use.
    pub cache_mask: u32,
    /// How full the tables are by that.
    pub fills: Fills,
}

/// Which number stands for what in the maps.
#[derive(Clone, Debug)]
pub struct NumberSet {
    /// Places in `settings.interfaces`, by interface name.
    pub interfaces: Numbers<String>,
    /// Places in `settings.snat_addresses`.
    pub snat_addresses: Numbers<IpAddr>,
    /// Pools, by name.
    pub pools: Numbers<String>,
    /// Services that XDP forwards.
    pub services: Numbers<ServiceIdentity>,
    /// Backends of their pools.
    pub backends: Numbers<BackendIdentity>,
    /// Slots of `records`.
    pub endpoints: Numbers<EndpointKey>,
}

/// What makes a service the same service to its flows. Its name may change; where its flows go
/// may not: a service that leads elsewhere has another number, and its flows are chosen anew.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServiceIdentity {
    /// The VIP.
    pub vip: IpAddr,
    /// The port.
    pub port: u16,
    /// IANA protocol number.
    pub protocol: u8,
    /// The pool.
    pub pool: String,
    /// Port of backends that have none of their own.
    pub backend_port: u16,
}

impl ServiceIdentity {
    /// Returns the identity of a service; `None` unless XDP forwards it.
    #[must_use]
    pub fn of(service: &Service) -> Option<Self> {
        if service.forwarding != Forwarding::Snat {
            return None;
        }
        Some(Self {
            vip: service.vip,
            port: service.port,
            protocol: service.protocol.number(),
            pool: service.pool.clone()?,
            backend_port: service.backend_port.unwrap_or(service.port),
        })
    }
}

/// What makes a backend the same backend to its flows and clients: a server with another address
/// or port is another one, whatever its name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BackendIdentity {
    /// Its name.
    pub name: BackendName,
    /// Where it is reached.
    pub address: IpAddr,
    /// Its port for every service; zero: the service's.
    pub port: u16,
}

impl BackendIdentity {
    /// Returns the identity of a backend of `pool`.
    #[must_use]
    pub fn of(pool: &Pool, backend: &Backend) -> Self {
        Self {
            name: BackendName::new(pool.name.clone(), backend.name.clone()),
            address: backend.address,
            port: backend.port.unwrap_or(0),
        }
    }
}

/// What is known of a backend beyond the configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct BackendState {
    /// By the pool's check.
    pub check: CheckState,
    /// By the services' own checks.
    pub service_checks: BTreeMap<String, CheckState>,
    /// It has as many flows as it may.
    pub full: bool,
    /// How much of its weight it has, for pools with `slow_start`.
    pub warmth: Warmth,
    /// The host's addresses that it was last reached from; used where none is configured.
    pub sources: Vec<IpAddr>,
    /// The way that a former daemon found; it holds until this one has looked.
    pub inherited: Option<lb_common::backend::Backend>,
    /// The last sweep reported when its admin state was last changed at run time.
    pub changed_in_pass: Option<u64>,
    /// Since that change it has been seen without flows and clients.
    pub drained: bool,
}

/// What a check has found so far.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckState {
    /// The judgement.
    pub health: Health,
    /// It has run since the daemon started.
    pub probed: bool,
    /// Why, as an administrator would say it.
    pub reason: String,
    /// When the judgement last changed.
    pub since: Option<SystemTime>,
    /// How long the last successful probe took.
    pub latency: Option<Duration>,
}

impl CheckState {
    /// Returns the state before the first probe.
    fn unprobed(health: Health, reason: &str) -> Self {
        Self {
            health,
            probed: false,
            reason: reason.to_owned(),
            since: None,
            latency: None,
        }
    }
}

impl BackendState {
    /// Returns whether a service finds the backend up by its own check, if it has one.
    #[must_use]
    pub fn passes_check_of(&self, service: &str) -> bool {
        let check = self.service_checks.get(service);
        check.is_none_or(|check| check.health == Health::Up)
    }

    /// Returns the state of a backend that nothing is known of.
    fn unknown() -> Self {
        Self {
            check: CheckState::unprobed(Health::Down, "not probed yet"),
            service_checks: BTreeMap::new(),
            full: false,
            warmth: Warmth::Cold,
            sources: Vec::new(),
            inherited: None,
            changed_in_pass: None,
            drained: false,
        }
    }
}

impl DesiredState {
    /// Iterates over the services that XDP forwards, in the order of the configuration.
    pub fn snat_services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.config
            .services
            .iter()
            .filter(|service| service.forwarding == Forwarding::Snat)
    }

    /// Iterates over the services that clients come to, in the order of the configuration.
    pub fn client_services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.config
            .services
            .iter()
            .filter(|service| service.takes_clients())
    }

    /// Iterates over the services that choose backends for their clients, in XDP or in the proxy.
    pub fn balanced_services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.config
            .services
            .iter()
            .filter(|service| service.is_balanced())
    }

    /// Iterates over the backends of every pool, in the order of the configuration.
    pub fn pool_backends(&self) -> impl Iterator<Item = (&Arc<Pool>, &Backend)> {
        self.config
            .pools
            .iter()
            .flat_map(|pool| pool.backends.iter().map(move |backend| (pool, backend)))
    }

    /// Returns the pool with this name.
    #[must_use]
    pub fn pool(&self, name: &str) -> Option<&Arc<Pool>> {
        self.config.pools.iter().find(|pool| pool.name == name)
    }

    /// Returns whether a service chooses from the pool: its backends have numbers then, which
    /// affinity entries hold.
    #[must_use]
    pub fn is_in_maps(&self, pool: &str) -> bool {
        self.balanced_services()
            .any(|service| service.pools().any(|name| name == pool))
    }

    /// Returns whether XDP forwards to the pool: its backends need a next hop then.
    #[must_use]
    pub fn is_in_xdp(&self, pool: &str) -> bool {
        self.snat_services()
            .any(|service| service.pool.as_deref() == Some(pool))
    }

    /// Returns what is known of a backend of the configuration.
    #[must_use]
    pub fn backend(&self, pool: &Pool, backend: &Backend) -> Option<&BackendState> {
        self.backends
            .get(&BackendName::new(pool.name.clone(), backend.name.clone()))
    }

    /// Returns the admin state of a backend: changed at run time, or as configured.
    #[must_use]
    pub fn admin_state(&self, pool: &Pool, backend: &Backend) -> AdminState {
        let name = BackendName::new(pool.name.clone(), backend.name.clone());
        self.overrides
            .get(&name)
            .and_then(|change| change.state.as_ref())
            .map_or(backend.state, |change| change.to)
    }

    /// Returns the weight of a backend: changed at run time, or as configured.
    #[must_use]
    pub fn weight(&self, pool: &Pool, backend: &Backend) -> u16 {
        let name = BackendName::new(pool.name.clone(), backend.name.clone());
        self.overrides
            .get(&name)
            .and_then(|change| change.weight.as_ref())
            .map_or(backend.weight, |change| change.to)
    }

    /// Returns the number of a backend in the maps.
    #[must_use]
    pub fn backend_number(&self, pool: &Pool, backend: &Backend) -> Option<u16> {
        self.numbers
            .backends
            .get(&BackendIdentity::of(pool, backend))
            .and_then(|number| u16::try_from(number).ok())
    }

    /// Returns the number of a service in the maps.
    #[must_use]
    pub fn service_number(&self, service: &Service) -> Option<u16> {
        let identity = ServiceIdentity::of(service)?;
        self.numbers
            .services
            .get(&identity)
            .and_then(|number| u16::try_from(number).ok())
    }

    /// Returns the number of a pool in the maps.
    #[must_use]
    pub fn pool_number(&self, pool: &str) -> Option<u16> {
        self.numbers
            .pools
            .get(&pool.to_owned())
            .and_then(|number| u16::try_from(number).ok())
    }
}

#[cfg(test)]
mod tests;
