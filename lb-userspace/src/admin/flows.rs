//! From the data path's flows to the answer of `GET /v1/flows`.

use super::{api, status};
use crate::{
    control::{
        event::BackendName,
        snapshot::Snapshot,
        state::{DesiredState, TargetError},
    },
    dataplane::{Dataplane, FlowView},
};

/// Flows that are listed unless the query says otherwise.
const LIMIT: usize = 1000;
/// Flows that one answer ever has.
const MOST: usize = 100_000;

/// Why flows cannot be listed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlowsError {
    /// There is no such backend, or there are several.
    #[error(transparent)]
    Backend(#[from] TargetError),
    /// There is no such service.
    #[error("no service is called \"{wanted}\"; there are {}", .known.join(", "))]
    Service {
        /// What was asked for.
        wanted: String,
        /// Names of the services that XDP forwards.
        known: Vec<String>,
    },
}

/// Lists the flows that `query` asks for.
///
/// # Errors
///
/// [`FlowsError`] when a name in the query is not known.
pub fn flows(
    dataplane: &dyn Dataplane,
    snapshot: &Snapshot,
    query: &api::FlowsQuery,
) -> Result<api::Flows, FlowsError> {
    let state = &snapshot.state;
    let filter = Filter::new(state, query)?;
    let limit = query.limit.unwrap_or(LIMIT).min(MOST);
    let mut flows: Vec<api::Flow> = dataplane
        .flows(limit.saturating_add(1), &|view| filter.accepts(view))
        .iter()
        .map(|view| flow(state, view))
        .collect();
    let more = flows.len() > limit;
    flows.truncate(limit);
    Ok(api::Flows { flows, more })
}

/// A query with its names resolved to numbers.
struct Filter {
    client: Option<std::net::IpAddr>,
    /// `Some(None)`: the name is known, but stands for nothing in the maps.
    service: Option<Option<u16>>,
    backend: Option<Option<u16>>,
}

impl Filter {
    fn new(state: &DesiredState, query: &api::FlowsQuery) -> Result<Self, FlowsError> {
        let service = query.service.as_ref().map(|wanted| {
            state
                .snat_services()
                .find(|service| service.name == *wanted)
                .map(|service| state.service_number(service))
                .ok_or_else(|| FlowsError::Service {
                    wanted: wanted.clone(),
                    known: state.snat_services().map(|of| of.name.clone()).collect(),
                })
        });
        let backend = query.backend.as_ref().map(|wanted| {
            let name = state.resolve(wanted)?;
            Ok::<_, FlowsError>(number(state, &name))
        });
        Ok(Self {
            client: query.client.map(|client| client.to_canonical()),
            service: service.transpose()?,
            backend: backend.transpose()?,
        })
    }

    fn accepts(&self, view: &FlowView) -> bool {
        self.client.is_none_or(|client| view.client.0 == client)
            && self
                .service
                .is_none_or(|service| service == Some(u16::from(view.service)))
            && self
                .backend
                .is_none_or(|backend| backend == Some(view.backend))
    }
}

fn number(state: &DesiredState, name: &BackendName) -> Option<u16> {
    let pool = state.pool(&name.pool)?;
    let backend = pool.backends.iter().find(|of| of.name == name.backend)?;
    state.backend_number(pool, backend)
}

/// Returns a flow with names in place of numbers.
pub(super) fn flow(state: &DesiredState, view: &FlowView) -> api::Flow {
    let service = state
        .snat_services()
        .find(|service| state.service_number(service) == Some(u16::from(view.service)));
    let backend = state
        .numbers
        .backends
        .key_of(u32::from(view.backend))
        .map(|identity| &identity.name);
    api::Flow {
        protocol: status::protocol(17),
        client: view.client.into(),
        vip: view.vip.into(),
        snat: view.snat.into(),
        endpoint: view.endpoint.into(),
        service: service.map(|service| service.name.clone()),
        pool: backend.map(|name| name.pool.clone()),
        backend: backend.map(|name| name.backend.clone()),
        idle_s: view.idle.as_secs(),
        replied: view.replied,
    }
}

#[cfg(test)]
pub(crate) mod tests;
