//! What an event changed, for the log: each change once, as an administrator would say it.

use std::{fmt, sync::Arc};

use lb_common::{addr, endpoint::EndpointKey};

use super::{
    event::{BackendName, Health},
    fill::{Fill, Gauge},
    render,
    state::{Author, CheckState, ClientsWish, DesiredState},
};
use crate::config::model::{AdminState, Prefix, Rule, Service};

/// Prefixes that a line of the log names; there may be thousands.
const PREFIXES_SHOWN: usize = 8;

/// How much a change matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// A human must act.
    Error,
    /// Degraded.
    Warn,
    /// Planned, or back to normal.
    Info,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A check changed its judgement, or failed when it first ran.
    Health {
        /// The backend.
        backend: BackendName,
        /// The service whose own check it is.
        service: Option<String>,
        /// The judgement.
        health: Health,
        /// What the last probe met.
        reason: String,
    },
    /// A way was found or lost.
    Reachable {
        /// The backend.
        backend: BackendName,
        /// The way, or why there is none.
        way: Result<String, String>,
    },
    /// It has as many flows as it may, or fewer again.
    Full {
        /// The backend.
        backend: BackendName,
        /// As many as it may.
        full: bool,
        /// Its flows.
        flows: u32,
    },
    /// An administrator changed it.
    Admin {
        /// The backend.
        backend: BackendName,
        /// What it is.
        state: AdminState,
        /// By whom and why.
        by: Option<String>,
    },
    /// Another weight.
    Weight {
        /// The backend.
        backend: BackendName,
        /// The weight.
        weight: u16,
    },
    /// The last client of a drained or halted backend has gone.
    Drained(BackendName),
    /// A pool lost its last eligible backend, or has one again.
    Served {
        /// The pool.
        pool: String,
        /// It has one.
        served: bool,
        /// Its services.
        services: Vec<String>,
    },
    /// Names wait for a number, or do not any more.
    Waiting(Vec<String>),
    /// An administrator blocked, allowed or forgot clients.
    Clients {
        /// Who shall be what.
        wish: ClientsWish,
        /// By whom and why.
        author: Author,
    },
    /// The configuration has other lists of clients for a service.
    Lists {
        /// The service.
        service: String,
        /// Prefixes that it allows.
        allow: usize,
        /// Prefixes that it blocks.
        block: usize,
    },
    /// A table is nearly full, full, or has room again.
    Fill {
        /// Which table.
        table: Table,
        /// How full it is.
        fill: Fill,
        /// In numbers.
        gauge: Gauge,
    },
}

/// A table that can be full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// Flows.
    Flows,
    /// Clients remembered.
    Affinity,
    /// SNAT ports of an endpoint.
    Ports(EndpointKey),
}

impl Change {
    /// Returns how much the change matters.
    #[must_use]
    pub fn level(&self) -> Level {
        match self {
            Self::Served { served: false, .. }
            | Self::Fill {
                table: Table::Flows | Table::Ports(_),
                fill: Fill::Full,
                ..
            } => Level::Error,
            Self::Health {
                health: Health::Down,
                ..
            }
            | Self::Reachable { way: Err(_), .. }
            | Self::Full { full: true, .. }
            | Self::Fill {
                fill: Fill::High | Fill::Full,
                ..
            } => Level::Warn,
            Self::Waiting(names) if !names.is_empty() => Level::Warn,
            Self::Health { .. }
            | Self::Reachable { .. }
            | Self::Full { .. }
            | Self::Admin { .. }
            | Self::Weight { .. }
            | Self::Drained(_)
            | Self::Served { .. }
            | Self::Fill { .. }
            | Self::Waiting(_)
            | Self::Clients { .. }
            | Self::Lists { .. } => Level::Info,
        }
    }

    /// Returns the backend that changed.
    #[must_use]
    pub fn backend(&self) -> Option<&BackendName> {
        match self {
            Self::Health { backend, .. }
            | Self::Reachable { backend, .. }
            | Self::Full { backend, .. }
            | Self::Admin { backend, .. }
            | Self::Weight { backend, .. }
            | Self::Drained(backend) => Some(backend),
            Self::Served { .. }
            | Self::Waiting(_)
            | Self::Fill { .. }
            | Self::Clients { .. }
            | Self::Lists { .. } => None,
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Health {
                backend,
                service,
                health,
                reason,
            } => {
                write!(f, "{} is {health}", backend.backend)?;
                if let Some(service) = service {
                    write!(f, " for {service}")?;
                }
                write!(f, ": {reason}")
            }
            Self::Reachable { backend, way } => match way {
                Ok(way) => write!(f, "{} is reached {way}", backend.backend),
                Err(reason) => write!(f, "{} is unreachable: {reason}", backend.backend),
            },
            Self::Full {
                backend,
                full: true,
                flows,
            } => write!(
                f,
                "{} is full: it has {flows} flows and takes no new clients",
                backend.backend
            ),
            Self::Full { backend, flows, .. } => write!(
                f,
                "{} takes new clients again: it has {flows} flows",
                backend.backend
            ),
            Self::Admin { backend, state, by } => {
                let meaning = match state {
                    AdminState::Active => "is in service",
                    AdminState::Drain => "drains: it takes no new clients",
                    AdminState::Halt => "is halted: its clients move",
                };
                write!(f, "{} {meaning}", backend.backend)?;
                match by {
                    Some(by) => write!(f, " ({by})"),
                    None => Ok(()),
                }
            }
            Self::Weight { backend, weight } => {
                write!(f, "{} has weight {weight}", backend.backend)
            }
            Self::Drained(backend) => write!(
                f,
                "drain done: {} has no flows and no clients left",
                backend.backend
            ),
            Self::Served {
                pool,
                served,
                services,
            } => {
                let services = services.join(", ");
                if *served {
                    write!(f, "pool {pool} serves again: {services}")
                } else {
                    write!(
                        f,
                        "no backend of pool {pool} is up, active and reachable: new clients of \
                         {services} are refused"
                    )
                }
            }
            Self::Waiting(names) if names.is_empty() => {
                f.write_str("every service and backend is in the data path")
            }
            Self::Waiting(names) => write!(
                f,
                "no number is free yet for {}: those of removed ones rest until their flows have \
                 ended",
                names.join(", ")
            ),
            Self::Clients { wish, author } => write_clients(wish, author, f),
            Self::Lists {
                service,
                allow,
                block,
            } => {
                let others = if *allow > 0 { "refused" } else { "allowed" };
                write!(
                    f,
                    "the configuration of {service} allows {allow} and blocks {block} prefixes of \
                     clients; everybody else is {others}"
                )
            }
            Self::Fill { table, fill, gauge } => write_fill(f, *table, *fill, gauge),
        }
    }
}

fn write_clients(wish: &ClientsWish, author: &Author, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_str(match wish.to {
        Some(Rule::Block) => "blocked",
        Some(Rule::Allow) => "allowed",
        None => "neither blocked nor allowed at run time any more",
    })?;
    match &wish.service {
        Some(service) => write!(f, " on {service}: ")?,
        None => f.write_str(" on every service: ")?,
    }
    let shown: Vec<String> = wish
        .prefixes
        .iter()
        .take(PREFIXES_SHOWN)
        .map(ToString::to_string)
        .collect();
    f.write_str(&shown.join(", "))?;
    if let Some(more @ 1..) = wish.prefixes.len().checked_sub(PREFIXES_SHOWN) {
        write!(f, " and {more} more")?;
    }
    match &author.reason {
        Some(reason) => write!(f, " ({}: {reason})", author.by),
        None => write!(f, " ({})", author.by),
    }
}

/// Says how full a table is, what that means for clients, and what helps.
fn write_fill(f: &mut fmt::Formatter<'_>, table: Table, fill: Fill, gauge: &Gauge) -> fmt::Result {
    let (what, new) = match table {
        Table::Flows => ("the flow table".to_owned(), "new flows are refused"),
        Table::Affinity => (
            "the affinity table".to_owned(),
            "new clients are served, but not remembered",
        ),
        Table::Ports(key) => {
            let backend = std::net::SocketAddr::new(addr::address(key.backend), key.port);
            let from = addr::address(key.snat);
            (
                format!("the range of SNAT ports from {from} to {backend}"),
                "new flows are refused",
            )
        }
    };
    match fill {
        Fill::Ok => return write!(f, "{what} has room again: {gauge}"),
        Fill::High => write!(f, "{what} is nearly full: {gauge}")?,
        Fill::Full => write!(f, "{what} is full: {gauge}; {new}")?,
    }
    f.write_str(match table {
        Table::Flows => "; raise node.max_flows",
        Table::Affinity => "; raise node.max_affinity",
        Table::Ports(_) => "; give more node.snat_addresses, or more backends",
    })
}

/// Returns what changed between two states.
#[must_use]
pub fn changes(before: &DesiredState, after: &DesiredState) -> Vec<Change> {
    let mut changes = Vec::new();
    for (pool, backend) in after.pool_backends() {
        let name = BackendName::new(pool.name.clone(), backend.name.clone());
        let Some(now) = after.backends.get(&name) else {
            continue;
        };
        let former = before.backends.get(&name);
        check_change(
            &name,
            None,
            former.map(|f| &f.check),
            &now.check,
            &mut changes,
        );
        for (service, check) in &now.service_checks {
            let former = former.and_then(|former| former.service_checks.get(service));
            check_change(&name, Some(service), former, check, &mut changes);
        }
        let Some(former) = former else {
            continue;
        };
        let was = before.way(pool, backend).map(|way| on(&way));
        let is = after.way(pool, backend).map(|way| on(&way));
        let first_look = !before.next_hops.contains_key(&backend.address);
        if was != is && !(first_look && is.is_ok()) {
            changes.push(Change::Reachable {
                backend: name.clone(),
                way: is,
            });
        }
        if former.full != now.full {
            changes.push(Change::Full {
                backend: name.clone(),
                full: now.full,
                flows: after.flows_of(pool, backend),
            });
        }
        if !former.drained && now.drained {
            changes.push(Change::Drained(name.clone()));
        }
        let state = after.admin_state(pool, backend);
        if before.admin_state(pool, backend) != state {
            let by = after.overrides.get(&name).and_then(|o| o.state.as_ref());
            changes.push(Change::Admin {
                backend: name.clone(),
                state,
                by: by.map(|change| match &change.reason {
                    Some(reason) => format!("{}: {reason}", change.by),
                    None => change.by.clone(),
                }),
            });
        }
        let weight = after.weight(pool, backend);
        if before.weight(pool, backend) != weight {
            changes.push(Change::Weight {
                backend: name,
                weight,
            });
        }
    }
    served_changes(before, after, &mut changes);
    list_changes(before, after, &mut changes);
    let waiting = after.waiting();
    if before.waiting() != waiting {
        changes.push(Change::Waiting(waiting));
    }
    fill_changes(before, after, &mut changes);
    changes
}

/// Says where frames to a backend go.
fn on(way: &super::state::Way) -> String {
    let [a, b, c, d, e, f] = way.mac;
    let mac = format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}");
    match way.via {
        Some(gateway) => format!("by gateway {gateway} ({mac}) on {}", way.interface_name),
        None => format!("at {mac} on {}", way.interface_name),
    }
}

fn check_change(
    backend: &BackendName,
    service: Option<&String>,
    former: Option<&CheckState>,
    now: &CheckState,
    changes: &mut Vec<Change>,
) {
    let Some(former) = former else {
        return;
    };
    let changed = former.health != now.health;
    let failed_first = !former.probed && now.probed && now.health == Health::Down;
    if changed || failed_first {
        changes.push(Change::Health {
            backend: backend.clone(),
            service: service.cloned(),
            health: now.health,
            reason: now.reason.clone(),
        });
    }
}

fn served_changes(before: &DesiredState, after: &DesiredState, changes: &mut Vec<Change>) {
    for pool in &after.config.pools {
        let (was, is) = (serves(before, &pool.name), serves(after, &pool.name));
        let served = match (was, is) {
            (None | Some(true), Some(false)) => false,
            (Some(false), Some(true)) => true,
            _ => continue,
        };
        if !after.is_in_maps(&pool.name) {
            continue;
        }
        changes.push(Change::Served {
            pool: pool.name.clone(),
            served,
            services: after
                .balanced_services()
                .filter(|service| service.pools().any(|name| name == pool.name))
                .map(|service| service.name.clone())
                .collect(),
        });
    }
}

const NO_LISTS: (&[Prefix], &[Prefix]) = (&[], &[]);

fn lists(service: &Service) -> (&[Prefix], &[Prefix]) {
    (&service.allow, &service.block)
}

fn list_changes(before: &DesiredState, after: &DesiredState, changes: &mut Vec<Change>) {
    if Arc::ptr_eq(&before.config, &after.config) {
        return;
    }
    for service in after.client_services() {
        let former = before.client_services().find(|of| of.name == service.name);
        if former.map_or(NO_LISTS, |former| lists(former)) != lists(service) {
            changes.push(Change::Lists {
                service: service.name.clone(),
                allow: service.allow.len(),
                block: service.block.len(),
            });
        }
    }
}

/// Says what is new about how full the tables are: worse than what was said of them, or well again.
fn fill_changes(before: &DesiredState, after: &DesiredState, changes: &mut Vec<Change>) {
    let mut compare = |table, former: Option<&Gauge>, gauge: &Gauge| {
        let told = former.map(Gauge::told).unwrap_or_default();
        let fill = gauge.told();
        if fill > told || (fill == Fill::Ok && told != Fill::Ok) {
            changes.push(Change::Fill {
                table,
                fill,
                gauge: *gauge,
            });
        }
    };
    let (former, now) = (&before.fills, &after.fills);
    compare(Table::Flows, Some(&former.flows), &now.flows);
    compare(Table::Affinity, Some(&former.affinity), &now.affinity);
    for (key, gauge) in &now.ports {
        compare(Table::Ports(*key), former.ports.get(key), gauge);
    }
}

/// Returns whether a pool has an eligible backend; `None` while that is not known of each.
fn serves(state: &DesiredState, pool: &str) -> Option<bool> {
    let pool = state.pool(pool)?;
    if pool
        .backends
        .iter()
        .any(|backend| render::is_eligible(state, pool, backend))
    {
        return Some(true);
    }
    let looked_at = pool.backends.iter().all(|backend| {
        state
            .backend(pool, backend)
            .is_some_and(|known| known.check.probed)
            && state.next_hops.contains_key(&backend.address)
    });
    looked_at.then_some(false)
}
