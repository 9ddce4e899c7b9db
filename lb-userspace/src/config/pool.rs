//! `[[pool]]` and its backends.

use std::{collections::HashMap, time::Duration};

use lb_common::limits;

use super::{
    convert::{self, quoted},
    health,
    keys::{Keys, Place, Report},
    model::{AdminState, Algorithm, Backend, Pool},
    raw::{Kind, Value},
};

const SLOW_START: std::ops::RangeInclusive<Duration> =
    Duration::ZERO..=Duration::from_secs(24 * 3600);

/// Reads one `[[pool]]`.
pub(super) fn read(keys: Keys<'_>, report: &Report) -> Option<Pool> {
    let name = keys.need(
        "name",
        "name the pool, such as name = \"web\"",
        convert::name,
    );
    let backends = backends(&keys, report);
    if backends
        .as_ref()
        .is_some_and(|all| !all.is_empty() && all.iter().all(|one| one.weight == 0))
    {
        keys.warn(
            "backends",
            "every weight is 0, so no client is ever sent to this pool",
        );
    }
    let algorithm = keys.get(
        "algorithm",
        convert::one_of(&[
            ("source-hash", Algorithm::SourceHash),
            ("round-robin", Algorithm::RoundRobin),
            ("least-connections", Algorithm::LeastConnections),
        ]),
    );
    let health = match keys.table("health") {
        Some(keys) => health::read(keys, report),
        None => Some(health::connect()),
    };
    let slow_start = keys.get("slow_start", convert::duration(SLOW_START));
    keys.finish();
    Some(Pool {
        name: name?,
        backends: backends?,
        algorithm: algorithm.unwrap_or(Algorithm::SourceHash),
        health: health?,
        slow_start: slow_start.unwrap_or(Duration::ZERO),
    })
}

/// Reads `backends` of a pool or of a site: addresses, or tables.
pub(super) fn backends(keys: &Keys<'_>, report: &Report) -> Option<Vec<Backend>> {
    const REMEDY: &str = "list the servers, such as backends = [\"10.0.0.11\", \"10.0.0.12\"]";
    let Some(items) = keys.items("backends") else {
        if !keys.has("backends") {
            keys.fault("backends", format!("is missing; {REMEDY}"));
        }
        return None;
    };
    if items.is_empty() {
        keys.fault("backends", format!("is empty; {REMEDY}"));
    }
    if items.len() > limits::MAX_POOL_MEMBERS {
        let most = limits::MAX_POOL_MEMBERS;
        keys.fault(
            "backends",
            format!("has {} backends; a pool has at most {most}", items.len()),
        );
    }
    let read: Vec<(Backend, Place)> = items
        .into_iter()
        .filter_map(|(value, place)| Some((backend(value, &place, report)?, place)))
        .collect();
    check_unique(&read, report);
    Some(read.into_iter().map(|(backend, _)| backend).collect())
}

fn backend(value: &Value, place: &Place, report: &Report) -> Option<Backend> {
    let table = match &value.kind {
        Kind::Table(table) => table,
        _ => match convert::address(value) {
            Ok(address) => return Some(Backend::at(address)),
            Err(message) => {
                report.fault(place, message);
                return None;
            }
        },
    };
    let keys = Keys::new(table, place.clone(), report);
    let address = keys.need(
        "address",
        "write where the server is reached, such as \"10.0.0.11\"",
        convert::address,
    );
    let name = keys.get("name", convert::backend_name);
    let port = keys.get("port", convert::port);
    let weight = keys.get("weight", convert::number(0..=u16::MAX));
    let state = keys.get(
        "state",
        convert::one_of(&[
            ("active", AdminState::Active),
            ("drain", AdminState::Drain),
            ("halt", AdminState::Halt),
        ]),
    );
    let backup = keys.get("backup", convert::boolean);
    let max_connections = keys
        .get("max_connections", convert::number(0..=u32::MAX))
        .unwrap_or(0);
    let resume_connections = keys
        .get("resume_connections", convert::number(0..=u32::MAX))
        .unwrap_or(0);
    if resume_connections > 0 && resume_connections >= max_connections {
        keys.fault(
            "resume_connections",
            format!(
                "{resume_connections} is not below max_connections = {max_connections}; \
             lower it or raise max_connections"
            ),
        );
    }
    let server_name = keys.get("server_name", convert::server_name);
    let pin = keys.get("pin", convert::pin);
    keys.finish();
    let address = address?;
    Some(Backend {
        name: name.unwrap_or_else(|| address.to_string()),
        port,
        weight: weight.unwrap_or(100),
        state: state.unwrap_or(AdminState::Active),
        backup: backup.unwrap_or(false),
        max_connections,
        resume_connections,
        server_name,
        pin,
        address,
    })
}

fn check_unique(backends: &[(Backend, Place)], report: &Report) {
    let mut names = HashMap::new();
    let mut targets = HashMap::new();
    for (backend, place) in backends {
        if let Some(first) = names.insert(&backend.name, &place.path) {
            let name = quoted(&backend.name);
            report.fault(
                place,
                format!("name {name} is also that of {first}; give it another name"),
            );
        } else if let Some(first) = targets.insert((backend.address, backend.port), &place.path) {
            let address = backend.address;
            report.fault(
                place,
                format!(
                    "address \"{address}\" is also that of {first}; remove \
             one or give it another port"
                ),
            );
        }
    }
}

impl Backend {
    /// Returns a backend of which only the address is given.
    fn at(address: std::net::IpAddr) -> Self {
        Self {
            name: address.to_string(),
            address,
            port: None,
            weight: 100,
            state: AdminState::Active,
            backup: false,
            max_connections: 0,
            resume_connections: 0,
            server_name: None,
            pin: None,
        }
    }
}
