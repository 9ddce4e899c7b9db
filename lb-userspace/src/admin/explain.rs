//! From the data path to the answer of `GET /v1/explain`: which backend a client meets, and why.

use std::net::IpAddr;

use lb_common::{addr, service::ServiceKey};

use super::{api, flows, status::admin_change};
use crate::{
    config::model::Service,
    control::{
        chain,
        choice::{self, Because, Choice, Remembered, choose},
        snapshot::Snapshot,
        state::{DesiredState, Refuser},
    },
    dataplane::Dataplane,
    telemetry::rfc3339,
};

/// Flows of the client that are listed for each service.
const FLOWS: usize = 100;

/// Explains where new flows of `client` go, service by service.
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
    let services = snapshot
        .state
        .snat_services()
        .filter(|service| service.vip.is_ipv4() == client.is_ipv4())
        .filter_map(|service| explain_service(dataplane, snapshot, service, client).transpose())
        .collect::<Result<_, _>>()?;
    Ok(api::Explanation { client, services })
}

/// `None`: the service is not in the maps yet.
fn explain_service(
    dataplane: &dyn Dataplane,
    snapshot: &Snapshot,
    service: &Service,
    client: IpAddr,
) -> Result<Option<api::ServiceExplanation>, String> {
    let (state, image) = (&snapshot.state, &snapshot.image);
    let key = ServiceKey::new(
        addr::bytes(service.vip),
        service.port,
        service.protocol.number(),
    );
    let Some(value) = image.services.get(&key) else {
        return Ok(None);
    };
    let cut = choice::client_of(value, client);
    let remembered = dataplane
        .affinity(addr::address(cut), value.group)
        .map_err(|error| chain(&error))?
        .map(|(backend, age_s)| Remembered { backend, age_s });
    let refuser = state.refuser(service, client);
    let own_check = choice::own_check_in_maps(image, value);
    let choice = choose(image, value, &own_check, client, remembered);
    let lifetime_s = choice::lifetime(image, value);
    let held = |view: &crate::dataplane::FlowView| {
        view.client.0 == client && view.vip == (service.vip, service.port)
    };
    Ok(Some(api::ServiceExplanation {
        service: service.name.clone(),
        vip: service.listen(),
        protocol: service.protocol.to_string(),
        pool: service.pool.clone().unwrap_or_default(),
        backend: choice
            .backend
            .filter(|_| refuser.is_none())
            .and_then(|id| name(state, id))
            .map(|name| name.backend),
        refused: refuser.map(|refuser| api::Refused {
            prefix: refuser.prefix,
            change: refuser.change.map(admin_change),
        }),
        because: match refuser {
            Some(_) => api::Because::Blocked,
            None => because(choice.because),
        },
        why: match refuser {
            Some(refuser) => refused_by(refuser),
            None => why(state, service, choice, remembered, lifetime_s),
        },
        affinity: remembered.map(|held| api::Remembered {
            group: service.persistence.group.clone(),
            backend: name(state, held.backend).map(|name| name.to_string()),
            age_s: held.age_s,
            expires_in_s: lifetime_s.saturating_sub(held.age_s),
        }),
        flows: dataplane
            .flows(FLOWS, &held)
            .iter()
            .map(|view| flows::flow(state, view))
            .collect(),
    }))
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
    if let Err(reason) = state.way(pool, backend) {
        return format!("it is unreachable, {reason}");
    }
    match state.backend(pool, backend) {
        Some(known) if known.check.health == crate::control::event::Health::Down => {
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
