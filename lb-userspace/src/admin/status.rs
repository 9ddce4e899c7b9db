//! From a snapshot to the answer of `GET /v1/status`. Pure.

use std::{path::Path, time::SystemTime};

use lb_common::{addr, stats::Counters, verdict::DropReason};

use super::{api, clients};
use crate::{
    config::model::{Backend, Pool, Service},
    control::{
        event::{BackendName, Health},
        fill::{Fill, Gauge},
        overrides::Change,
        render,
        snapshot::{Rates, Snapshot},
        state::{CheckState, DesiredState},
    },
    dataplane::PortUse,
    proxy::{ServiceView, View},
    telemetry::rfc3339,
};

/// Returns the status of the daemon at the moment of the snapshot.
#[must_use]
pub fn status(
    snapshot: &Snapshot,
    proxy: &View,
    configuration: &Path,
    now: SystemTime,
) -> api::Status {
    let state = &snapshot.state;
    let mut not_ready = snapshot.not_ready();
    let closed = proxy.closed();
    not_ready.extend(closed.iter().map(|(name, why)| format!("{name}: {why}")));
    api::Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ready: not_ready.is_empty(),
        not_ready,
        pid: std::process::id(),
        started: rfc3339(snapshot.started),
        uptime_s: now
            .duration_since(snapshot.started)
            .unwrap_or_default()
            .as_secs(),
        adopted: state.adopted,
        configuration: api::Configuration {
            path: configuration.display().to_string(),
            generation: state.generation,
            loaded: rfc3339(state.loaded),
        },
        interfaces: interfaces(snapshot),
        services: state
            .config
            .services
            .iter()
            .map(|of| {
                service(
                    snapshot,
                    proxy.service(&of.name).map(|seen| proxied(seen, now)),
                    of,
                )
            })
            .collect(),
        backends: state
            .pool_backends()
            .map(|(pool, of)| backend(snapshot, pool, of))
            .collect(),
        endpoints: endpoints(snapshot),
        flows: api::Usage {
            used: state.flows_in_use(),
            max: state.config.node.max_flows,
            fill: fill(state.fills.flows.fill()),
        },
        affinity: api::Usage {
            used: state.sweep.affinity_entries,
            max: state.config.node.max_affinity,
            fill: fill(state.fills.affinity.fill()),
        },
        drops: drops(snapshot),
        access_log_lost: proxy.access_log_lost(),
    }
}

/// Returns what `drain --wait` looks at.
#[must_use]
pub fn backend_state(state: &DesiredState, name: &BackendName) -> Option<api::BackendState> {
    let pool = state.pool(&name.pool)?;
    let backend = pool.backends.iter().find(|of| of.name == name.backend)?;
    let known = state.backend(pool, backend)?;
    let pass = state.sweep.pass;
    Some(api::BackendState {
        pool: name.pool.clone(),
        backend: name.backend.clone(),
        state: state.admin_state(pool, backend),
        weight: state.weight(pool, backend),
        flows: state.flows_of(pool, backend),
        clients: state.clients_of(pool, backend),
        counted: known
            .changed_in_pass
            .is_none_or(|changed| pass >= changed + 2),
    })
}

fn interfaces(snapshot: &Snapshot) -> Vec<api::Interface> {
    let state = &snapshot.state;
    let names = state.config.node.interfaces.iter();
    names
        .map(|name| {
            let index = state.links.get(name).map(|link| link.index);
            let held = snapshot
                .attachments
                .iter()
                .find(|held| held.interface == *name && Some(held.index) == index);
            let (mode, why) = match (held, index) {
                (Some(held), _) if held.native => (api::XdpMode::Native, held.why.clone()),
                (Some(held), _) => (api::XdpMode::Generic, held.why.clone()),
                (None, Some(_)) => (
                    api::XdpMode::Detached,
                    "the program could not be attached; the log says why".to_owned(),
                ),
                (None, None) => (
                    api::XdpMode::Detached,
                    "there is no such interface at the moment".to_owned(),
                ),
            };
            api::Interface {
                name: name.clone(),
                index: index.unwrap_or(0),
                mode,
                why,
            }
        })
        .collect()
}

fn service(snapshot: &Snapshot, proxy: Option<api::Proxied>, service: &Service) -> api::Service {
    let state = &snapshot.state;
    let id = state.service_number(service);
    let pool = service.pool.as_deref().and_then(|name| state.pool(name));
    let eligible = pool.map_or(0, |pool| {
        pool.backends
            .iter()
            .filter(|backend| {
                render::is_eligible(state, pool, backend)
                    && state
                        .backend(pool, backend)
                        .is_none_or(|known| known.passes_check_of(&service.name))
            })
            .count()
    });
    let flows = id.and_then(|id| state.sweep.flows_by_service.get(&(id as u8)));
    api::Service {
        name: service.name.clone(),
        id,
        vip: service.vip,
        port: service.port,
        protocol: service.protocol.to_string(),
        forwarding: service.forwarding.to_string(),
        pool: service.pool.clone(),
        eligible: u32::try_from(eligible).unwrap_or(u32::MAX),
        flows: flows.copied().unwrap_or(0),
        clients: clients::service_clients(state, service),
        traffic: id.map_or_else(api::Traffic::default, |id| {
            let traffic = &snapshot.traffic;
            traffic_of(
                traffic.counters.services.get(usize::from(id)),
                traffic.service_rates.get(usize::from(id)),
            )
        }),
        proxy,
    }
}

fn proxied(seen: ServiceView, now: SystemTime) -> api::Proxied {
    let classes = (1..).zip(seen.answers);
    api::Proxied {
        listening: seen.closed.is_none(),
        closed: seen.closed,
        connections_open: seen.open,
        connections: seen.connections,
        requests: seen.requests,
        answers: classes
            .map(|(class, count)| api::Answers {
                class: format!("{class}xx"),
                count,
            })
            .collect(),
        bytes_in: seen.bytes_in,
        bytes_out: seen.bytes_out,
        backend_connections: seen.connects,
        reused: seen.reused,
        retries: seen.retries,
        failures: seen
            .failures
            .iter()
            .map(|failure| api::Failures {
                reason: failure.label.to_owned(),
                count: failure.count,
                meaning: failure.meaning.to_owned(),
            })
            .collect(),
        certificates: seen
            .certificates
            .into_iter()
            .map(|certificate| api::Certificate {
                warning: certificate.warning(now),
                expires_in_days: certificate.days_left(now),
                file: certificate.file.display().to_string(),
                names: certificate.names,
                not_after: rfc3339(certificate.not_after),
            })
            .collect(),
    }
}

fn backend(snapshot: &Snapshot, pool: &Pool, backend: &Backend) -> api::Backend {
    let state = &snapshot.state;
    let name = BackendName::new(pool.name.clone(), backend.name.clone());
    let id = state.backend_number(pool, backend);
    let known = state.backend(pool, backend);
    let check = known.map(|known| &known.check);
    let way = state.way(pool, backend);
    let in_xdp = state.is_in_xdp(&pool.name);
    let traffic = &snapshot.traffic;
    let counters = id.and_then(|id| traffic.counters.backends.get(usize::from(id)));
    let rates = id.and_then(|id| traffic.backend_rates.get(usize::from(id)));
    let overridden = state.overrides.get(&name);
    let change = overridden.and_then(|changes| {
        let state = changes.state.as_ref().map(admin_change);
        state.or_else(|| changes.weight.as_ref().map(admin_change))
    });
    api::Backend {
        pool: pool.name.clone(),
        name: backend.name.clone(),
        id,
        address: backend.address,
        port: backend.port,
        health: check.map_or(api::Health::Down, |check| health(check.health)),
        health_reason: check.map(|check| check.reason.clone()).unwrap_or_default(),
        health_since: check.and_then(|check| check.since).map(rfc3339),
        probed: check.is_some_and(|check| check.probed),
        latency_ms: check
            .and_then(|check| check.latency)
            .map(|latency| (latency.as_secs_f64() * 1e6).round() / 1e3),
        service_checks: known
            .into_iter()
            .flat_map(|known| &known.service_checks)
            .map(|(service, check)| service_check(service, check))
            .collect(),
        admin_state: state.admin_state(pool, backend),
        admin_change: change,
        weight: state.weight(pool, backend),
        starting_percent: known
            .filter(|_| !pool.slow_start.is_zero())
            .map(|known| known.warmth.percent())
            .filter(|&percent| percent < 100),
        backup: backend.backup,
        reachable: way.is_ok() || !in_xdp,
        reachable_reason: match &way {
            Ok(way) => match way.via {
                Some(gateway) => format!("by gateway {gateway} on {}", way.interface_name),
                None => format!("on {}", way.interface_name),
            },
            // The proxy goes the ways of the host.
            Err(_) if !in_xdp => "by the host's routes".to_owned(),
            Err(reason) => reason.clone(),
        },
        next_hop: way.ok().map(|way| api::NextHop {
            mac: mac(way.mac),
            via: way.via,
            snat_addresses: (0..)
                .zip(&snapshot.image.settings.snat_addresses)
                .filter(|(place, _)| (way.snat_mask >> place) & 1 == 1)
                .map(|(_, address)| addr::address(*address))
                .collect(),
            interface: way.interface_name,
        }),
        full: known.is_some_and(|known| known.full),
        eligible: render::is_eligible(state, pool, backend),
        flows: state.flows_of(pool, backend),
        connections: id
            .and_then(|id| state.connections.get(&id))
            .copied()
            .unwrap_or(0),
        clients: state.clients_of(pool, backend),
        unreachable: counters.map_or(0, |counters| counters.unreachable),
        unreachable_per_s: tenths(rates.map_or(0.0, |rates| rates.unreachable)),
        traffic: traffic_of(counters, rates),
    }
}

fn service_check(service: &str, check: &CheckState) -> api::ServiceCheck {
    api::ServiceCheck {
        service: service.to_owned(),
        health: health(check.health),
        reason: check.reason.clone(),
        since: check.since.map(rfc3339),
        probed: check.probed,
    }
}

pub(super) fn admin_change<T>(change: &Change<T>) -> api::AdminChange {
    api::AdminChange {
        by: change.by.clone(),
        at: rfc3339(change.at),
        reason: change.reason.clone(),
    }
}

fn endpoints(snapshot: &Snapshot) -> Vec<api::Endpoint> {
    let state = &snapshot.state;
    snapshot
        .image
        .endpoints
        .iter()
        .map(|(key, endpoint)| {
            let ports: PortUse = state
                .sweep
                .ports_by_slot
                .get(&endpoint.slot)
                .copied()
                .unwrap_or_default();
            api::Endpoint {
                snat: addr::address(key.snat),
                backend: (addr::address(key.backend), key.port).into(),
                protocol: protocol(key.protocol),
                slot: endpoint.slot,
                ports_in_use: ports.in_use,
                ports_resting: ports.resting,
                ports_total: state.config.node.snat_ports.count(),
                fill: fill(state.fills.ports.get(key).map_or(Fill::Ok, Gauge::fill)),
            }
        })
        .collect()
}

fn drops(snapshot: &Snapshot) -> Vec<api::Drops> {
    let counted = &snapshot.traffic.counters.drops;
    DropReason::ALL
        .iter()
        .map(|reason| api::Drops {
            reason: reason.label().to_owned(),
            packets: counted
                .iter()
                .find(|(of, _)| of == reason)
                .map_or(0, |(_, packets)| *packets),
            meaning: reason.meaning().to_owned(),
        })
        .collect()
}

fn traffic_of(counters: Option<&Counters>, rates: Option<&Rates>) -> api::Traffic {
    let counters = counters.copied().unwrap_or_default();
    let rates = rates.copied().unwrap_or_default();
    api::Traffic {
        packets_in: counters.packets_in,
        bytes_in: counters.bytes_in,
        packets_out: counters.packets_out,
        bytes_out: counters.bytes_out,
        packets_in_per_s: tenths(rates.packets_in),
        bytes_in_per_s: tenths(rates.bytes_in),
        packets_out_per_s: tenths(rates.packets_out),
        bytes_out_per_s: tenths(rates.bytes_out),
        flows_new: counters.flows_new,
        flows_moved: counters.flows_moved,
        affinity_full: counters.affinity_full,
        dropped: counters.dropped,
    }
}

fn fill(fill: Fill) -> api::Fill {
    match fill {
        Fill::Ok => api::Fill::Ok,
        Fill::High => api::Fill::High,
        Fill::Full => api::Fill::Full,
    }
}

fn tenths(rate: f64) -> f64 {
    (rate * 10.0).round() / 10.0
}

fn health(health: Health) -> api::Health {
    match health {
        Health::Up => api::Health::Up,
        Health::Down => api::Health::Down,
    }
}

/// Returns the name of an IANA protocol number.
pub(super) fn protocol(number: u8) -> String {
    match number {
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        other => other.to_string(),
    }
}

fn mac([a, b, c, d, e, f]: [u8; 6]) -> String {
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}

#[cfg(test)]
pub(crate) mod tests;
