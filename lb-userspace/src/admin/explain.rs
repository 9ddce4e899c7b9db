//! From the data path to the answer of `GET /v1/explain`: which backend a client meets, and why.

use std::net::IpAddr;

use lb_common::{
    addr,
    service::{Service as KernelService, ServiceKey},
};

use super::{api, flows, status::admin_change};
use crate::{
    config::model::{Algorithm, Forwarding, Service},
    control::{
        chain,
        choice::{self, Because, Choice, Remembered, Terms, choose},
        event::Health,
        render,
        snapshot::Snapshot,
        state::{DesiredState, Refuser},
    },
    dataplane::Dataplane,
    telemetry::rfc3339,
};

/// Flows of the client that are listed for each service.
const FLOWS: usize = 100;

/// Explains where new flows, connections and requests of `client` go, service by service.
///
/// # Errors
///
/// What the kernel refused, in one line.
pub fn explain(
    dataplane: &dyn Dataplane,
    snapshot: &Snapshot,
    client: IpAddr,
) -> Result<api::Explanation, String> {
    let client = client.to_canonical();
    let explain = |service| explain_service(dataplane, snapshot, service, client);
    let mut services = Vec::new();
    for service in snapshot.state.client_services() {
        if service.vip.is_ipv4() == client.is_ipv4() {
            services.extend(explain(service)?);
        }
    }
    Ok(api::Explanation { client, services })
}

/// One for each pool of the service that has a number already.
fn explain_service(
    dataplane: &dyn Dataplane,
    snapshot: &Snapshot,
    service: &Service,
    client: IpAddr,
) -> Result<Vec<api::ServiceExplanation>, String> {
    let (state, image) = (&snapshot.state, &snapshot.image);
    match service.forwarding {
        Forwarding::Snat => {
            let (vip, protocol) = (addr::bytes(service.vip), service.protocol.number());
            let key = ServiceKey::new(vip, service.port, protocol);
            let Some(value) = image.services.get(&key) else {
                return Ok(Vec::new());
            };
            let asked = Asked {
                service,
                host: None,
                pool: service.pool.as_deref().unwrap_or_default(),
                client,
            };
            let own_check = choice::own_check_in_maps(image, value);
            Ok(vec![asked.explain(dataplane, snapshot, value, &own_check)?])
        }
        Forwarding::Tcp | Forwarding::Http => {
            let routes = service.routes.iter();
            let routes = routes.map(|route| (Some(route.host.as_str()), route.pool.as_str()));
            let own = service.pool.as_deref().map(|pool| (None, pool));
            let mut explained = Vec::new();
            for (host, pool) in own.into_iter().chain(routes) {
                let asked = Asked {
                    service,
                    host,
                    pool,
                    client,
                };
                let Some(value) = render::service_value(state, service, Some(pool)) else {
                    continue;
                };
                let own_check = |number| {
                    name(state, number)
                        .and_then(|name| state.backends.get(&name))
                        .is_none_or(|known| known.passes_check_of(&service.name))
                };
                explained.push(asked.explain(dataplane, snapshot, &value, &own_check)?);
            }
            Ok(explained)
        }
        Forwarding::Redirect => {
            let refuser = state.refuser(service, client);
            let explained = Asked {
                service,
                host: None,
                pool: "",
                client,
            };
            let because = (
                api::Because::Redirect,
                "every request is sent to HTTPS; no backend is asked".to_owned(),
            );
            Ok(vec![explained.told(refuser, because)])
        }
        Forwarding::Monitor => Ok(Vec::new()),
    }
}

/// Who is asked about, and where.
struct Asked<'a> {
    service: &'a Service,
    host: Option<&'a str>,
    pool: &'a str,
    client: IpAddr,
}

impl Asked<'_> {
    fn explain(
        &self,
        dataplane: &dyn Dataplane,
        snapshot: &Snapshot,
        value: &KernelService,
        own_check: &dyn Fn(u16) -> bool,
    ) -> Result<api::ServiceExplanation, String> {
        let (state, image) = (&snapshot.state, &snapshot.image);
        let (service, client) = (self.service, self.client);
        let cut = choice::client_of(value, client);
        let remembered = match value.flags & KernelService::AFFINITY {
            0 => None,
            _ => dataplane
                .affinity(addr::address(cut), value.group)
                .map_err(|error| chain(&error))?,
        };
        let remembered = remembered.map(|(backend, age_s)| Remembered { backend, age_s });
        let refuser = state.refuser(service, client);
        let terms = Terms {
            own_check,
            // What the image does not say of it changes from one moment to the next.
            has_room: &|_| true,
        };
        let choice = choose(image, value, &terms, client, remembered);
        let algorithm = match state.pool(self.pool) {
            Some(pool) => pool.algorithm,
            None => Algorithm::SourceHash,
        };
        let lifetime_s = choice::lifetime(image, value);
        let reason = match decided_later(service, choice.because, algorithm) {
            Some(reason) => reason,
            None => (
                because(choice.because),
                why(state, service, choice, remembered, lifetime_s),
            ),
        };
        let held = |view: &crate::dataplane::FlowView| {
            view.client.0 == client && view.vip == (service.vip, service.port)
        };
        let flows = match service.forwarding {
            Forwarding::Snat => dataplane.flows(FLOWS, &held),
            _ => Vec::new(),
        };
        let is_certain = matches!(
            reason.0,
            api::Because::Affinity
                | api::Because::SourceHash
                | api::Because::Detour
                | api::Because::Moved
        );
        Ok(api::ServiceExplanation {
            backend: choice
                .backend
                .filter(|_| refuser.is_none() && is_certain)
                .and_then(|id| name(state, id))
                .map(|name| name.backend),
            affinity: remembered.map(|held| api::Remembered {
                group: service.group_in(self.pool).to_owned(),
                backend: name(state, held.backend).map(|name| name.to_string()),
                age_s: held.age_s,
                expires_in_s: lifetime_s.saturating_sub(held.age_s),
            }),
            flows: flows.iter().map(|view| flows::flow(state, view)).collect(),
            ..self.told(refuser, reason)
        })
    }

    /// Returns an explanation without a backend and what is remembered.
    fn told(
        &self,
        refuser: Option<Refuser<'_>>,
        reason: (api::Because, String),
    ) -> api::ServiceExplanation {
        let (because, why) = match refuser {
            Some(refuser) => (api::Because::Blocked, refused_by(refuser)),
            None => reason,
        };
        api::ServiceExplanation {
            service: self.service.name.clone(),
            vip: self.service.listen(),
            protocol: self.service.protocol.to_string(),
            forwarding: self.service.forwarding.to_string(),
            host: self.host.map(ToOwned::to_owned),
            pool: self.pool.to_owned(),
            backend: None,
            refused: refuser.map(|refuser| api::Refused {
                prefix: refuser.prefix,
                change: refuser.change.map(admin_change),
            }),
            because,
            why,
            affinity: None,
            flows: Vec::new(),
        }
    }
}

/// Returns what decides where a service's choice is made only when the client comes; `None`: it is
/// certain already, or nobody can be chosen.
fn decided_later(
    service: &Service,
    found: Because,
    algorithm: Algorithm,
) -> Option<(api::Because, String)> {
    let (turns, how) = match algorithm {
        Algorithm::SourceHash => (None, "the client's port decides, connection by connection"),
        Algorithm::RoundRobin => (
            Some(api::Because::RoundRobin),
            "the backends take turns by their weights",
        ),
        Algorithm::LeastConnections => (
            Some(api::Because::LeastConnections),
            "the backend with the fewest connections and requests for its weight is taken",
        ),
    };
    match (found, &service.persistence.cookie) {
        (Because::EachFlow, _) if service.forwarding == Forwarding::Snat => None,
        (Because::EachFlow, Some(cookie)) => Some((
            api::Because::Cookie,
            format!("the cookie {cookie} names the backend; without it {how}"),
        )),
        (Because::EachFlow, None) => Some((
            turns.unwrap_or(api::Because::EachFlow),
            format!("persistence.key = \"none\": {how}"),
        )),
        (Because::SourceHash | Because::Moved { .. }, _) => Some((
            turns?,
            format!("it belongs to no backend that can serve it: {how}, and it stays there"),
        )),
        (Because::Affinity | Because::Detour { .. } | Because::NobodyEligible, _) => None,
    }
}

/// Says who refuses a client, to people.
fn refused_by(refuser: Refuser<'_>) -> String {
    let Some(prefix) = refuser.prefix else {
        return "the service allows some clients only, and no prefix that it allows covers this one"
            .to_owned();
    };
    let Some(change) = refuser.change else {
        return format!("the configuration blocks {prefix}");
    };
    let mut text = format!(
        "{prefix} was blocked by {} at {}",
        change.by,
        rfc3339(change.at)
    );
    if let Some(reason) = &change.reason {
        text.push_str(": ");
        text.push_str(reason);
    }
    text
}

fn because(because: Because) -> api::Because {
    match because {
        Because::Affinity => api::Because::Affinity,
        Because::SourceHash => api::Because::SourceHash,
        Because::EachFlow => api::Because::EachFlow,
        Because::Detour { .. } => api::Because::Detour,
        Because::Moved { .. } => api::Because::Moved,
        Because::NobodyEligible => api::Because::NobodyEligible,
    }
}

/// Says why, to people.
fn why(
    state: &DesiredState,
    service: &Service,
    choice: Choice,
    remembered: Option<Remembered>,
    lifetime_s: u32,
) -> String {
    let called =
        |id: u16| name(state, id).map_or_else(|| format!("number {id}"), |name| name.backend);
    match choice.because {
        Because::Affinity => {
            let age_s = remembered.map_or(0, |held| held.age_s);
            format!(
                "it belongs there: last seen {} ago, for {} more",
                duration(age_s),
                duration(lifetime_s.saturating_sub(age_s))
            )
        }
        Because::SourceHash => match remembered {
            Some(held) => format!(
                "the hash of its address says so; it belonged to {} until {} ago",
                called(held.backend),
                duration(held.age_s.saturating_sub(lifetime_s))
            ),
            None => "the hash of its address says so".to_owned(),
        },
        Because::EachFlow => {
            "persistence.key = \"none\": the client's port decides, flow by flow".to_owned()
        }
        Because::Detour { from } => format!(
            "{} is where it belongs, but the check of {} finds that down; only this service \
             goes elsewhere",
            called(from),
            service.name
        ),
        Because::Moved { from } => format!(
            "it belonged to {}, which cannot serve it any more: {}",
            called(from),
            out_of_service(state, from)
        ),
        Because::NobodyEligible => "no backend of the pool is up, active and reachable".to_owned(),
    }
}

/// Says why a backend does not serve its clients.
fn out_of_service(state: &DesiredState, id: u16) -> String {
    let found = state
        .pool_backends()
        .find(|(pool, backend)| state.backend_number(pool, backend) == Some(id));
    let Some((pool, backend)) = found else {
        return "it has been removed".to_owned();
    };
    if state.admin_state(pool, backend) == crate::config::model::AdminState::Halt {
        return "it is halted".to_owned();
    }
    if state.is_in_xdp(&pool.name)
        && let Err(reason) = state.way(pool, backend)
    {
        return format!("it is unreachable, {reason}");
    }
    match state.backend(pool, backend) {
        Some(known) if known.check.health == Health::Down => {
            format!("it is down, {}", known.check.reason)
        }
        _ => format!(
            "it is in pool {}, which the service does not use",
            pool.name
        ),
    }
}

fn name(state: &DesiredState, id: u16) -> Option<crate::control::event::BackendName> {
    let identity = state.numbers.backends.key_of(u32::from(id))?;
    Some(identity.name.clone())
}

/// Returns seconds as people say them, such as `5h 59m`.
#[must_use]
pub fn duration(seconds: u32) -> String {
    let (days, hours) = (seconds / 86_400, seconds / 3600 % 24);
    let (minutes, rest) = (seconds / 60 % 60, seconds % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{rest}s"),
        (0, 0, _) => format!("{minutes}m {rest}s"),
        (0, _, _) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

#[cfg(test)]
mod tests;
