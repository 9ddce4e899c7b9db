//! From what the maps hold to what they shall hold, one step at a time. Pure.
//!
//! Packets flow between any two steps, and the daemon may die there, so the maps are in a working
//! state after each: what is named is written before what names it, and removed after it. The
//! half of a table that is in use is never written; one write of the pool switches to the other.

use std::collections::BTreeSet;

use lb_common::{limits::MAX_RANGES, pool::Pool};

use crate::dataplane::image::{Image, MapOp};

/// The steps, and what the maps hold after them.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// In this order.
    pub operations: Vec<MapOp>,
    /// The target with the halves of the tables that were chosen.
    pub outcome: Image,
}

/// Returns the steps from `present` to `target`. Where nothing differs there are none.
#[must_use]
pub fn plan(present: &Image, target: Image) -> Plan {
    let outcome = with_halves(present, target);
    let mut operations = Vec::new();
    clear_counters(present, &outcome, &mut operations);
    if present.settings != outcome.settings {
        operations.push(MapOp::Settings(Box::new(outcome.settings)));
    }
    write_endpoints(present, &outcome, &mut operations);
    write_backends(present, &outcome, &mut operations);
    write_pools(present, &outcome, &mut operations);
    remove_backends(present, &outcome, true, &mut operations);
    write_ranges(present, &outcome, &mut operations);
    write_services(present, &outcome, &mut operations);
    remove(present, &outcome, &mut operations);
    Plan {
        operations,
        outcome,
    }
}

/// Chooses the half of each table and of the ranges: the one in use if it is right already, else
/// the other.
fn with_halves(present: &Image, mut target: Image) -> Image {
    for (number, pool) in &mut target.pools {
        pool.pool.half = match present.pools.get(number) {
            None => 0,
            Some(former) if former.table == pool.table => former.pool.half,
            Some(former) => former.pool.half ^ 1,
        };
    }
    let ranges = &mut target.ranges;
    let former = &present.ranges;
    ranges.half = match (former.entries.is_empty(), ranges.entries.is_empty()) {
        (true, _) | (_, true) => 0,
        _ if former.entries == ranges.entries => former.half,
        _ => former.half ^ 1,
    };
    for service in target.services.values_mut() {
        if service.ranges_count > 0 {
            service.ranges_first += target.ranges.half * MAX_RANGES;
        }
    }
    target
}

/// A number that begins to stand for something starts to count at zero.
fn clear_counters(present: &Image, target: &Image, operations: &mut Vec<MapOp>) {
    let numbers = |image: &Image| -> BTreeSet<u16> {
        image
            .services
            .iter()
            .filter(|(key, _)| key.protocol != 0)
            .map(|(_, service)| service.id)
            .collect()
    };
    let services = numbers(target);
    let new = services
        .difference(&numbers(present))
        .copied()
        .collect::<Vec<_>>();
    operations.extend(new.into_iter().map(MapOp::ClearServiceCounters));
    let new = target
        .backends
        .keys()
        .filter(|number| !present.backends.contains_key(number));
    operations.extend(new.copied().map(MapOp::ClearBackendCounters));
}

fn write_endpoints(present: &Image, target: &Image, operations: &mut Vec<MapOp>) {
    for (key, endpoint) in &target.endpoints {
        if present.endpoints.get(key) != Some(endpoint) {
            operations.push(MapOp::Endpoint(*key, *endpoint));
        }
    }
}

/// Backends that begin to serve come before those that cease to: in between, packets find both.
fn write_backends(present: &Image, target: &Image, operations: &mut Vec<MapOp>) {
    let changed = target
        .backends
        .iter()
        .filter(|(number, backend)| present.backends.get(number) != Some(backend));
    let (serving, others): (Vec<_>, Vec<_>) = changed.partition(|(_, backend)| backend.takes_new());
    for (number, backend) in serving.into_iter().chain(others) {
        operations.push(MapOp::Backend(*number, Box::new(*backend)));
    }
}

fn write_pools(present: &Image, target: &Image, operations: &mut Vec<MapOp>) {
    for (&number, pool) in &target.pools {
        let former = present.pools.get(&number);
        if former.is_none_or(|former| former.table != pool.table) {
            operations.push(MapOp::Table {
                pool: number,
                half: pool.pool.half,
                table: pool.table.clone(),
            });
        }
        if former.map(|former| &former.pool) != Some(&pool.pool) {
            operations.push(MapOp::Pool(number, Box::new(pool.pool)));
        }
    }
}

fn write_ranges(present: &Image, target: &Image, operations: &mut Vec<MapOp>) {
    let ranges = &target.ranges;
    if !ranges.entries.is_empty() && *ranges != present.ranges {
        operations.push(MapOp::Ranges {
            half: ranges.half,
            entries: ranges.entries.clone(),
        });
    }
}

/// The marker of a VIP sorts before its services: fragments are known as ours from the beginning.
fn write_services(present: &Image, target: &Image, operations: &mut Vec<MapOp>) {
    for (key, service) in &target.services {
        if present.services.get(key) != Some(service) {
            operations.push(MapOp::Service(*key, Box::new(*service)));
        }
    }
}

/// Removes in the reverse order of writing: nothing is ever named that is not there.
fn remove(present: &Image, target: &Image, operations: &mut Vec<MapOp>) {
    let services = present.services.keys().rev();
    let gone = services.filter(|key| !target.services.contains_key(key));
    operations.extend(gone.copied().map(MapOp::RemoveService));
    let pools = present.pools.keys();
    let gone = pools.filter(|number| !target.pools.contains_key(number));
    operations.extend(gone.copied().map(MapOp::RemovePool));
    remove_backends(present, target, false, operations);
    let endpoints = present.endpoints.keys();
    let gone = endpoints.filter(|key| !target.endpoints.contains_key(key));
    operations.extend(gone.copied().map(MapOp::RemoveEndpoint));
}

/// Removes the backends of pools that stay, or those of pools that go.
///
/// A pool that stays does not name them any more once it is written, and its services come next:
/// remembered clients shall not meet a backend that the new services have no endpoint for.
fn remove_backends(present: &Image, target: &Image, of_staying: bool, operations: &mut Vec<MapOp>) {
    let gone = present.backends.iter().filter(|(number, backend)| {
        !target.backends.contains_key(number)
            && target.pools.contains_key(&backend.pool) == of_staying
    });
    operations.extend(gone.map(|(number, _)| MapOp::RemoveBackend(*number)));
}

/// Returns the numbers that a pool names as members.
#[must_use]
pub fn members(pool: &Pool) -> &[u16] {
    let count = (pool.member_count as usize).min(pool.members.len());
    &pool.members[..count]
}

#[cfg(test)]
mod tests;
