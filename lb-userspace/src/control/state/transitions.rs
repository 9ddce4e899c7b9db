//! What the events do to the state.

use std::{collections::BTreeMap, net::IpAddr, time::SystemTime};

use lb_common::limits::cache_sets;

use super::DesiredState;
use crate::{
    config::model::{AdminState, Backend},
    control::{
        event::{BackendName, CheckReport, Link, NextHop},
        fill::{Fill, Refusals},
        overrides::Change,
    },
    dataplane::SweepReport,
};

/// A name that does not say which backend is meant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// No pool has such a backend.
    #[error("no backend is called \"{wanted}\"; there are {}", list(.known))]
    NotFound {
        /// What was asked for.
        wanted: String,
        /// `POOL/BACKEND` of every backend.
        known: Vec<String>,
    },
    /// Several pools have one.
    #[error("several pools have a backend called \"{wanted}\": name one of {}", list(.candidates))]
    Ambiguous {
        /// What was asked for.
        wanted: String,
        /// `POOL/BACKEND` of each.
        candidates: Vec<String>,
    },
}

/// Joins names for a sentence, and does not let it grow without bound.
pub(super) fn list(names: &[String]) -> String {
    const SHOWN: usize = 20;
    let shown = names[..names.len().min(SHOWN)].join(", ");
    match names.len().checked_sub(SHOWN) {
        Some(more @ 1..) => format!("{shown} and {more} more"),
        _ => shown,
    }
}

/// Who changes something at run time, when and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Author {
    /// The user.
    pub by: String,
    /// When.
    pub at: SystemTime,
    /// Why.
    pub reason: Option<String>,
}

impl DesiredState {
    /// Takes in what a check found. A report about what the configuration does not have any more
    /// is ignored.
    pub fn on_check(&mut self, report: CheckReport) {
        let Some(state) = self.backends.get_mut(&report.backend) else {
            return;
        };
        let check = match &report.service {
            None => &mut state.check,
            Some(service) => match state.service_checks.get_mut(service) {
                Some(check) => check,
                None => return,
            },
        };
        check.health = report.health;
        check.probed |= report.probed;
        check.reason = report.reason;
        check.since = report.since.or(check.since);
        check.latency = report.latency.or(check.latency);
    }

    /// Takes in a way to an address, or why there is none.
    pub fn on_next_hop(&mut self, destination: IpAddr, result: Result<NextHop, String>) {
        if let Ok(hop) = &result {
            let config = std::sync::Arc::clone(&self.config);
            for pool in &config.pools {
                for backend in &pool.backends {
                    let name = BackendName::new(pool.name.clone(), backend.name.clone());
                    if backend.address == destination
                        && let Some(state) = self.backends.get_mut(&name)
                    {
                        state.sources = vec![hop.source];
                    }
                }
            }
        }
        self.next_hops.insert(destination, result);
        self.settle();
    }

    /// Takes in that an interface is there, or has another index or MAC address.
    pub fn on_link(&mut self, link: Link) {
        if self.config.node.interfaces.contains(&link.name) {
            self.links.insert(link.name.clone(), link);
        }
    }

    /// Takes in that an interface is gone.
    pub fn on_link_gone(&mut self, name: &str) {
        self.links.remove(name);
    }

    /// Takes in what a sweep found: frees numbers, and looks who is full or drained.
    pub fn on_sweep(&mut self, report: SweepReport) {
        self.sweep = report;
        self.cache_mask = cache_mask(
            self.cache_mask,
            self.flows_in_use(),
            self.config.node.max_flows,
        );
        self.release();
        self.settle();
        self.count();
        self.judge_fills();
    }

    /// Takes in the proxy's connections by backend number.
    pub fn on_connections(&mut self, connections: BTreeMap<u16, u32>) {
        self.connections = connections;
        self.count();
    }

    /// Marks backends as full or drained by what they have.
    fn count(&mut self) {
        let config = std::sync::Arc::clone(&self.config);
        for pool in &config.pools {
            for backend in &pool.backends {
                let flows = self.flows_of(pool, backend);
                let clients = self.clients_of(pool, backend);
                let out_of_service = self.admin_state(pool, backend) != AdminState::Active;
                let pass = self.sweep.pass;
                let name = BackendName::new(pool.name.clone(), backend.name.clone());
                let Some(state) = self.backends.get_mut(&name) else {
                    continue;
                };
                state.full = full(backend, state.full, flows);
                let counted = state
                    .changed_in_pass
                    .is_some_and(|changed| pass >= changed + 2);
                state.drained = out_of_service && counted && flows == 0 && clients == 0;
            }
        }
    }

    /// Takes in what the kernel program has refused a moment ago.
    pub fn on_refusals(&mut self, refusals: Refusals) {
        self.fills.refusals = refusals;
        self.judge_fills();
    }

    fn judge_fills(&mut self) {
        let refusals = self.fills.refusals;
        let flows = self.flows_in_use();
        let node = &self.config.node;
        let fills = &mut self.fills;
        fills.flows.update(flows, node.max_flows, refusals.flows);
        fills.affinity.update(
            self.sweep.affinity_entries,
            node.max_affinity,
            refusals.affinity,
        );
        let max = node.snat_ports.count();
        let mut former = std::mem::take(&mut fills.ports);
        for (key, slot) in self.numbers.endpoints.iter() {
            let ports = self.sweep.ports_by_slot.get(&slot);
            let ports = ports.copied().unwrap_or_default();
            let used = ports.in_use.saturating_add(ports.resting);
            let mut gauge = former.remove(key).unwrap_or_default();
            // The counter does not say which endpoint refused: one with many ports left did not.
            gauge.update(used, max, false);
            let refuses = refusals.ports && gauge.fill() != Fill::Ok;
            gauge.update(used, max, refuses);
            fills.ports.insert(*key, gauge);
        }
    }

    /// Returns the flows that are alive.
    #[must_use]
    pub fn flows_in_use(&self) -> u32 {
        self.sweep.flows_by_service.values().sum()
    }

    /// Returns the live flows of a backend: those in the kernel, and the proxy's connections.
    #[must_use]
    pub fn flows_of(&self, pool: &crate::config::model::Pool, backend: &Backend) -> u32 {
        let Some(number) = self.backend_number(pool, backend) else {
            return 0;
        };
        let flows = self.sweep.flows_by_backend.get(&number).copied();
        let connections = self.connections.get(&number).copied();
        flows.unwrap_or(0).saturating_add(connections.unwrap_or(0))
    }

    /// Returns the clients that belong to a backend.
    #[must_use]
    pub fn clients_of(&self, pool: &crate::config::model::Pool, backend: &Backend) -> u32 {
        self.backend_number(pool, backend)
            .and_then(|number| self.sweep.affinity_by_backend.get(&number))
            .copied()
            .unwrap_or(0)
    }

    /// Returns the backend that `target` names: `POOL/BACKEND`, or `BACKEND` if only one pool has
    /// it.
    ///
    /// # Errors
    ///
    /// [`TargetError`] lists what could have been meant.
    pub fn resolve(&self, target: &str) -> Result<BackendName, TargetError> {
        let matching: Vec<&BackendName> = match target.split_once('/') {
            Some((pool, backend)) => self
                .backends
                .keys()
                .filter(|name| name.pool == pool && name.backend == backend)
                .collect(),
            None => self
                .backends
                .keys()
                .filter(|name| name.backend == target)
                .collect(),
        };
        match matching.as_slice() {
            [] => Err(TargetError::NotFound {
                wanted: target.to_owned(),
                known: self.backends.keys().map(ToString::to_string).collect(),
            }),
            [one] => Ok((*one).clone()),
            several => Err(TargetError::Ambiguous {
                wanted: target.to_owned(),
                candidates: several.iter().map(ToString::to_string).collect(),
            }),
        }
    }

    /// Changes a backend's admin state at run time. What equals the configuration is no change
    /// any more, and follows the configuration from then on.
    pub fn set_admin_state(&mut self, name: &BackendName, to: AdminState, author: Author) {
        let Some(configured) = self.configured(name).map(|backend| backend.state) else {
            return;
        };
        let change = (to != configured).then_some(Change {
            to,
            by: author.by,
            at: author.at,
            reason: author.reason,
        });
        self.overrides.set_state(name, change);
        let pass = self.sweep.pass;
        if let Some(state) = self.backends.get_mut(name) {
            state.changed_in_pass = Some(pass);
            state.drained = false;
        }
    }

    /// Changes a backend's weight at run time; `None`: the configuration's again.
    pub fn set_weight(&mut self, name: &BackendName, to: Option<u16>, author: Author) {
        let Some(configured) = self.configured(name).map(|backend| backend.weight) else {
            return;
        };
        let change = to.filter(|&to| to != configured).map(|to| Change {
            to,
            by: author.by,
            at: author.at,
            reason: author.reason,
        });
        self.overrides.set_weight(name, change);
    }

    fn configured(&self, name: &BackendName) -> Option<&Backend> {
        self.pool(&name.pool)?
            .backends
            .iter()
            .find(|backend| backend.name == name.backend)
    }
}

/// Returns whether a backend takes no new clients for the number of its flows: from
/// `max_connections` on, until there are fewer than `resume_connections`.
fn full(backend: &Backend, was_full: bool, flows: u32) -> bool {
    if backend.max_connections == 0 {
        return false;
    }
    let resume = match backend.resume_connections {
        0 => backend.max_connections,
        resume => resume.min(backend.max_connections),
    };
    if was_full {
        flows >= resume
    } else {
        flows >= backend.max_connections
    }
}
/// Returns the last set of the flow cache that shall be in use with so many flows.
///
/// What the program has cached is lost with each change, so there is room between the bounds at
/// which the cache grows and shrinks.
pub(super) fn cache_mask(present: u32, flows: u32, max_flows: u32) -> u32 {
    /// The cache of so few flows costs nothing.
    const FEW: u32 = 1024;
    let sets = |flows: u32| cache_sets(flows.max(FEW).min(max_flows));
    let bounds = sets(flows)..=sets(flows.saturating_mul(16));
    if bounds.contains(&present.saturating_add(1)) {
        present
    } else {
        sets(flows.saturating_mul(4)) - 1
    }
}

#[cfg(test)]
mod tests {
    use lb_common::limits::CACHE_WAYS;

    use super::*;

    #[test]
    fn the_flow_cache_has_room_and_changes_seldom() {
        let max = 1 << 20;
        let mut mask = 0;
        let mut changes = 0;
        for flows in (0..max).step_by(1000).chain((0..max).rev().step_by(1000)) {
            let now = cache_mask(mask, flows, max);
            let places = (u64::from(now) + 1) * u64::from(CACHE_WAYS);
            assert!((now + 1).is_power_of_two());
            assert!(places >= 2 * u64::from(flows), "{places} for {flows}");
            assert!(places <= 2 * u64::from(max));
            changes += u32::from(now != mask);
            mask = now;
        }
        assert!(changes <= 14, "{changes} changes");
    }

    #[test]
    fn tables_for_few_flows_have_a_cache_too() {
        assert_eq!(cache_mask(0, 0, 64), cache_sets(64) - 1);
        assert_eq!(cache_mask(1000, 64, 64), cache_sets(64) - 1);
    }
}
