//! A changed configuration while traffic runs.

use std::{fmt, sync::Arc, time::SystemTime};

use lb_common::settings::Settings;

use super::{BackendIdentity, DesiredState, clients::client_ranges};
use crate::{config::model::Config, control::event::BackendName};

/// A key that cannot be changed as the configuration asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The key, such as `node.snat_ports`.
    pub place: &'static str,
    /// The values and the remedy.
    pub message: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}

/// What to do about a key that the maps were made with.
const NEW_MAPS: &str = "it cannot change while the data path is at work: run `vipd detach`, \
                        which ends all flows, and start vipd again";
/// What to do about another way to attach.
const NEW_MODE: &str = "the program is attached anew for it: restart vipd, which interrupts traffic \
                        for a moment and keeps the flows";
/// What to do about a key that only a new process can apply.
const NEW_PROCESS: &str = "it takes effect with a new process only: restart vipd, traffic goes on";

impl DesiredState {
    /// Replaces the configuration. Backends keep what is known of them while their address and
    /// port stay; run-time changes of backends that are gone are forgotten. What was said of clients
    /// stays, as a service that is gone may come back.
    ///
    /// # Errors
    ///
    /// A [`Refusal`] for each key that cannot change, and for lists of clients that are too long
    /// together with what was said at run time; the state is then as before.
    pub fn reload(&mut self, config: Arc<Config>, now: SystemTime) -> Result<(), Vec<Refusal>> {
        let refusals = self.refusals(&config);
        if !refusals.is_empty() {
            return Err(refusals);
        }
        self.client_ranges = Arc::new(client_ranges(&config, &self.overrides)?);
        let former = std::mem::replace(&mut self.config, config);
        for pool in &former.pools {
            for backend in &pool.backends {
                if !self.has(&BackendIdentity::of(pool, backend)) {
                    let name = BackendName::new(pool.name.clone(), backend.name.clone());
                    self.backends.remove(&name);
                }
            }
        }
        self.generation += 1;
        self.loaded = now;
        self.add_backends(None);
        let addresses: std::collections::BTreeSet<_> = self
            .pool_backends()
            .map(|(_, backend)| backend.address)
            .collect();
        self.next_hops
            .retain(|address, _| addresses.contains(address));
        self.settle();
        Ok(())
    }

    /// Returns whether the configuration has this very backend.
    fn has(&self, identity: &BackendIdentity) -> bool {
        self.pool_backends()
            .any(|(pool, backend)| BackendIdentity::of(pool, backend) == *identity)
    }

    fn refusals(&self, new: &Config) -> Vec<Refusal> {
        let old = &self.config;
        let mut refusals = Vec::new();
        let mut compare = |place, remedy, old: String, new: String| {
            if old != new {
                refusals.push(Refusal {
                    place,
                    message: format!("{new} (in force: {old}): {remedy}"),
                });
            }
        };
        compare(
            "node.snat_ports",
            NEW_MAPS,
            old.node.snat_ports.to_string(),
            new.node.snat_ports.to_string(),
        );
        compare(
            "node.max_flows",
            NEW_MAPS,
            old.node.max_flows.to_string(),
            new.node.max_flows.to_string(),
        );
        compare(
            "node.max_affinity",
            NEW_MAPS,
            old.node.max_affinity.to_string(),
            new.node.max_affinity.to_string(),
        );
        compare(
            "node.xdp_mode",
            NEW_MODE,
            format!("{:?}", old.node.xdp_mode).to_lowercase(),
            format!("{:?}", new.node.xdp_mode).to_lowercase(),
        );
        compare(
            "node.interfaces",
            NEW_PROCESS,
            old.node.interfaces.join(", "),
            new.node.interfaces.join(", "),
        );
        compare(
            "admin.socket",
            NEW_PROCESS,
            old.admin.socket.display().to_string(),
            new.admin.socket.display().to_string(),
        );
        compare(
            "state.directory",
            NEW_PROCESS,
            old.state.directory.display().to_string(),
            new.state.directory.display().to_string(),
        );
        refusals
    }
}

/// Compares a configuration with what the data path at work was made with.
pub(super) fn check_made_with(config: &Config, made_with: &Settings) -> Result<(), Vec<Refusal>> {
    let wanted = config.node.snat_ports;
    let count = u32::from(made_with.snat_port_count);
    let unset = count == 0;
    if unset || (made_with.snat_port_first == wanted.first && count == wanted.count()) {
        return Ok(());
    }
    let first = u32::from(made_with.snat_port_first);
    Err(vec![Refusal {
        place: "node.snat_ports",
        message: format!(
            "{wanted} (in force: {first}-{}): {NEW_MAPS}",
            first + count - 1
        ),
    }])
}
