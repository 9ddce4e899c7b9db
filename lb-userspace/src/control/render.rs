//! What the maps shall hold for a desired state. Pure.
//!
//! The halves of the pools' tables and of the ranges are not decided here: [`mod@super::plan`] knows
//! which are in use.

use std::{collections::BTreeMap, sync::Arc};

use lb_common::{
    LAYOUT_VERSION, addr, affinity,
    backend::{self, Backend as KernelBackend, SERVICE_WORDS},
    endpoint::Endpoint,
    hash,
    limits::{MAX_POOL_MEMBERS, NAME_BYTES, SNAT_QUARANTINE_S, exact_mask},
    maglev::{self, Candidate},
    pool::Pool as KernelPool,
    service::{Service as KernelService, ServiceKey},
    settings::{Interface, Settings, reciprocal},
};

use super::{
    event::Health,
    state::{BackendState, DesiredState, ServiceIdentity},
};
use crate::{
    config::model::{AdminState, Backend, PersistenceKey, Pool, Service},
    dataplane::{
        image::{Image, PoolImage, RangesImage},
        sweep::SweepSettings,
    },
};

/// Maglev tables that were made before, by pool: most events change none.
#[derive(Clone, Debug, Default)]
pub struct Tables(BTreeMap<u16, (Vec<Candidate>, Arc<[u32]>)>);

impl Tables {
    fn table(&mut self, pool: u16, candidates: Vec<Candidate>) -> Arc<[u32]> {
        match self.0.get(&pool) {
            Some((made_from, table)) if *made_from == candidates => Arc::clone(table),
            _ => {
                let table: Arc<[u32]> = maglev::table(&candidates).into();
                self.0.insert(pool, (candidates, Arc::clone(&table)));
                table
            }
        }
    }
}

/// Returns what the maps shall hold.
#[must_use]
pub fn render(state: &DesiredState, tables: &mut Tables) -> Image {
    let mut image = Image {
        settings: settings(state),
        ranges: RangesImage {
            half: 0,
            entries: Arc::clone(&state.client_ranges.all),
        },
        ..Image::default()
    };
    for pool in &state.config.pools {
        let Some(number) = state.pool_number(&pool.name) else {
            continue;
        };
        let members = members(state, pool);
        for (backend, kernel) in &members.all {
            if let Some(id) = state.backend_number(pool, backend) {
                image.backends.insert(id, *kernel);
            }
        }
        let table = tables.table(number, candidates(state, pool, &members));
        image.pools.insert(
            number,
            PoolImage {
                pool: kernel_pool(state, pool, &members),
                table,
            },
        );
    }
    for service in state.snat_services() {
        if let Some((key, value)) = kernel_service(state, service) {
            image.services.insert(ServiceKey::marker(key.vip), MARKER);
            image.services.insert(key, value);
        }
    }
    for (key, slot) in state.numbers.endpoints.iter() {
        image.endpoints.insert(*key, Endpoint { slot });
    }
    // The flows of an endpoint that nobody needs any more end in peace: it stays until a sweep
    // has found none.
    for (slot, key) in state.numbers.endpoints.resting() {
        if let Some(key) = key {
            image.endpoints.insert(*key, Endpoint { slot });
        }
    }
    image
}

/// Returns what the sweeper goes by.
#[must_use]
pub fn sweep_settings(state: &DesiredState, image: &Image) -> SweepSettings {
    let node = &state.config.node;
    let mut affinity_timeouts_s = BTreeMap::new();
    let values = state.balanced_services().flat_map(|service| {
        let pools = service.pools();
        pools.filter_map(|pool| service_value(state, service, Some(pool)))
    });
    for value in values {
        if value.flags & KernelService::AFFINITY != 0 {
            let longest = affinity_timeouts_s.entry(value.group).or_insert(0);
            *longest = value.affinity_timeout_s.max(*longest);
        }
    }
    SweepSettings {
        flow_timeout_s: seconds(node.flow_timeout),
        flow_timeout_unreplied_s: seconds(node.flow_timeout_unreplied),
        affinity_timeouts_s,
        backends: image.backends.keys().copied().collect(),
        ranges: state
            .snat_services()
            .filter_map(|service| {
                let number = u8::try_from(state.service_number(service)?).ok()?;
                let (_, ranges) = state.client_ranges.in_maps(&service.name)?;
                Some((number, Arc::clone(ranges)))
            })
            .collect(),
    }
}

/// The value of a VIP's marker.
const MARKER: KernelService = KernelService {
    id: 0,
    pool: 0,
    backend_port: 0,
    flags: 0,
    group: 0,
    affinity_timeout_s: 0,
    ipv4_prefix: 0,
    ipv6_prefix: 0,
    _reserved: [0; 2],
    ranges_first: 0,
    ranges_count: 0,
    new_flows_per_second: 0,
    new_flows_per_source: 0,
    name: [0; NAME_BYTES],
};

fn settings(state: &DesiredState) -> Settings {
    let node = &state.config.node;
    let mut settings = Settings {
        layout_version: LAYOUT_VERSION,
        flow_timeout_s: seconds(node.flow_timeout),
        seed: state.made_with.seed,
        cache_mask: state.cache_mask,
        exact_mask: exact_mask(state.cache_mask, state.flows_in_use(), node.max_flows),
        slot_reciprocal: reciprocal(u16::try_from(node.snat_ports.count()).unwrap_or(u16::MAX)),
        quarantine_s: SNAT_QUARANTINE_S,
        slots: state.made_with.slots,
        snat_port_first: node.snat_ports.first,
        // The range never has all 65,536 ports: zero is none.
        snat_port_count: u16::try_from(node.snat_ports.count()).unwrap_or(u16::MAX),
        ..Settings::default()
    };
    for (name, place) in state.numbers.interfaces.iter() {
        if let (Some(link), Some(held)) = (
            state.links.get(name),
            settings.interfaces.get_mut(place as usize),
        ) {
            *held = Interface {
                index: link.index,
                mac: link.mac,
                mtu: link.mtu,
            };
        }
    }
    let addresses = state.numbers.snat_addresses.iter();
    // A resting place keeps its meaning: flows that began there still leave from it.
    let resting = state
        .numbers
        .snat_addresses
        .resting()
        .filter_map(|(place, address)| Some((address?, place)));
    for (address, place) in addresses.chain(resting) {
        if let Some(held) = settings.snat_addresses.get_mut(place as usize) {
            *held = addr::bytes(*address);
            settings.snat_address_count = settings.snat_address_count.max(place + 1);
        }
    }
    settings
}

/// The backends of a pool as the kernel sees them, and those among which it chooses.
struct Members<'a> {
    /// Every backend of the pool.
    all: Vec<(&'a Backend, KernelBackend)>,
    /// The backup tier is in use.
    backups: bool,
}

/// A pool's backup backends are chosen from only while no other is eligible and one of them is.
fn members<'a>(state: &DesiredState, pool: &'a Pool) -> Members<'a> {
    let all: Vec<(&Backend, KernelBackend)> = pool
        .backends
        .iter()
        .map(|backend| (backend, backend_value(state, pool, backend)))
        .collect();
    let eligible = |backup: bool| {
        all.iter().any(|(backend, kernel)| {
            backend.backup == backup && state.weight(pool, backend) > 0 && kernel.takes_new()
        })
    };
    let backups = !eligible(false) && eligible(true);
    Members { all, backups }
}

impl Members<'_> {
    /// Iterates over the backends that may take new clients when they are up: the current tier.
    fn current(
        &self,
        state: &DesiredState,
        pool: &Pool,
    ) -> impl Iterator<Item = (u16, &Backend, &KernelBackend)> {
        self.all
            .iter()
            .filter(|(backend, kernel)| {
                backend.backup == self.backups
                    && kernel.admin == backend::ACTIVE
                    && state.weight(pool, backend) > 0
            })
            .filter_map(|(backend, kernel)| {
                Some((state.backend_number(pool, backend)?, *backend, kernel))
            })
            .take(MAX_POOL_MEMBERS)
    }
}

fn candidates(state: &DesiredState, pool: &Pool, members: &Members<'_>) -> Vec<Candidate> {
    members
        .current(state, pool)
        .filter(|(_, _, kernel)| kernel.takes_new())
        .map(|(id, backend, _)| Candidate {
            seed: hash::bytes(backend.name.as_bytes()),
            backend: u32::from(id),
            weight: state.effective_weight(pool, backend),
        })
        .collect()
}

fn kernel_pool(state: &DesiredState, pool: &Pool, members: &Members<'_>) -> KernelPool {
    let mut value = KernelPool {
        half: 0,
        eligible: 0,
        member_count: 0,
        members: [0; MAX_POOL_MEMBERS],
        name: name(&pool.name),
    };
    for ((id, _, kernel), member) in members.current(state, pool).zip(&mut value.members) {
        *member = id;
        value.member_count += 1;
        value.eligible += u32::from(kernel.takes_new());
    }
    value
}

/// Returns the value of a backend in the maps, whether it has a number there or not.
#[must_use]
pub fn backend_value(state: &DesiredState, pool: &Pool, configured: &Backend) -> KernelBackend {
    let known = state.backend(pool, configured);
    let mut value = KernelBackend {
        address: addr::bytes(configured.address),
        port: configured.port.unwrap_or(0),
        pool: state.pool_number(&pool.name).unwrap_or(0),
        health: match known.map(|known| known.check.health) {
            Some(Health::Up) => backend::UP,
            Some(Health::Down) | None => backend::DOWN,
        },
        admin: match state.admin_state(pool, configured) {
            AdminState::Active => backend::ACTIVE,
            AdminState::Drain => backend::DRAIN,
            AdminState::Halt => backend::HALT,
        },
        present: 1,
        full: u8::from(known.is_some_and(|known| known.full)),
        services_down: known.map_or([0; SERVICE_WORDS], |known| services_down(state, known)),
        name: name(&configured.name),
        ..KernelBackend::FREE
    };
    if !state.is_in_xdp(&pool.name) {
        // The proxy goes the ways of the host.
        value.reachable = 1;
    } else if let Ok(way) = state.way(pool, configured) {
        value.interface = way.interface;
        value.mac = way.mac;
        value.source_mac = way.source_mac;
        value.vlan = way.vlan;
        value.mtu = way.mtu;
        value.snat_mask = way.snat_mask;
        value.reachable = 1;
    }
    value
}

/// Returns whether new clients of any service come to a backend: it takes new ones, and it
/// belongs to the tier that its pool chooses from.
#[must_use]
pub fn is_eligible(state: &DesiredState, pool: &Pool, configured: &Backend) -> bool {
    let members = members(state, pool);
    members.all.iter().any(|(backend, kernel)| {
        backend.name == configured.name
            && backend.backup == members.backups
            && state.weight(pool, backend) > 0
            && kernel.takes_new()
    })
}

/// Sets the bit of each service whose own check finds the backend down, and of each service that
/// is gone: its flows shall be chosen anew.
fn services_down(state: &DesiredState, known: &BackendState) -> [u32; SERVICE_WORDS] {
    let found_down = state
        .snat_services()
        .filter(|service| {
            known
                .service_checks
                .get(&service.name)
                .is_some_and(|check| check.health == Health::Down)
        })
        .filter_map(|service| state.service_number(service))
        .map(u32::from);
    let gone = state
        .numbers
        .services
        .resting()
        .filter_map(|(number, key)| {
            let was_set = known
                .inherited
                .is_some_and(|kernel| !kernel.serves_service(number as u8));
            (key.is_some() || was_set).then_some(number)
        });
    let mut words = [0; SERVICE_WORDS];
    for number in found_down.chain(gone) {
        if let Some(word) = words.get_mut(number as usize / 32) {
            *word |= 1 << (number % 32);
        }
    }
    words
}

fn kernel_service(state: &DesiredState, service: &Service) -> Option<(ServiceKey, KernelService)> {
    let identity = ServiceIdentity::of(service)?;
    let key = ServiceKey::new(addr::bytes(identity.vip), identity.port, identity.protocol);
    let (ranges_first, ranges_count) = match state.client_ranges.in_maps(&service.name) {
        Some((first, ranges)) => (first, u32::try_from(ranges.len()).unwrap_or(u32::MAX)),
        None => (0, 0),
    };
    let value = KernelService {
        id: state.service_number(service)?,
        ranges_first,
        ranges_count,
        ..service_value(state, service, Some(&identity.pool))?
    };
    Some((key, value))
}

/// Returns a service as choices are made for it from one of its pools; `None` while the pool has no
/// number. Its own number is zero, and it has no ranges: those are for services that XDP forwards.
#[must_use]
pub fn service_value(
    state: &DesiredState,
    service: &Service,
    pool: Option<&str>,
) -> Option<KernelService> {
    let pool = pool?;
    let persistence = &service.persistence;
    Some(KernelService {
        id: 0,
        pool: state.pool_number(pool)?,
        backend_port: service.backend_port.unwrap_or(service.port),
        flags: match persistence.key {
            PersistenceKey::None | PersistenceKey::Cookie => 0,
            PersistenceKey::SourceIp => KernelService::AFFINITY,
        },
        group: affinity::group_number(service.group_in(pool)),
        affinity_timeout_s: seconds(persistence.timeout),
        ipv4_prefix: 96 + persistence.ipv4_prefix.min(32),
        ipv6_prefix: persistence.ipv6_prefix.min(128),
        _reserved: [0; 2],
        ranges_first: 0,
        ranges_count: 0,
        new_flows_per_second: service.limits.new_flows_per_second,
        new_flows_per_source: service.limits.new_flows_per_source,
        name: name(&service.name),
    })
}

/// Returns a duration in whole seconds, at least one: a fraction is rounded up.
fn seconds(duration: std::time::Duration) -> u32 {
    let whole = duration.as_secs() + u64::from(duration.subsec_nanos() > 0);
    u32::try_from(whole.max(1)).unwrap_or(u32::MAX)
}

/// Returns a name as it stands in a map; a longer one is cut at a character.
fn name(text: &str) -> [u8; NAME_BYTES] {
    let mut name = [0; NAME_BYTES];
    let mut end = text.len().min(NAME_BYTES - 1);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    name[..end].copy_from_slice(&text.as_bytes()[..end]);
    name
}
