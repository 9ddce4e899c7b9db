//! What the maps hold, as plain data: the outcome of a plan's rendering and its input.

use std::{collections::BTreeMap, sync::Arc};

use lb_common::{
    backend::Backend,
    endpoint::{Endpoint, EndpointKey},
    pool::Pool,
    service::{Service, ServiceKey},
    settings::Settings,
};

/// The maps that control owns. Flows, records and affinity belong to the packets.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Image {
    /// `settings`.
    pub settings: Settings,
    /// `services`, with the markers of VIPs.
    pub services: BTreeMap<ServiceKey, Service>,
    /// `pools` in use, by number, with the half of `maglev` that is in use.
    pub pools: BTreeMap<u16, PoolImage>,
    /// `backends` in use, by number.
    pub backends: BTreeMap<u16, Backend>,
    /// `endpoints`.
    pub endpoints: BTreeMap<EndpointKey, Endpoint>,
}

/// One pool in the maps.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolImage {
    /// Its value in `pools`.
    pub pool: Pool,
    /// The active half of its table: [`lb_common::limits::MAGLEV_SLOTS`] backend numbers.
    pub table: Arc<[u32]>,
}

/// One step towards another image.
#[derive(Clone, Debug, PartialEq)]
pub enum MapOp {
    /// Writes `settings`.
    Settings(Box<Settings>),
    /// Writes a backend.
    Backend(u16, Box<Backend>),
    /// Frees a backend's number.
    RemoveBackend(u16),
    /// Writes a half of a pool's table; it must not be the one in use.
    Table {
        /// Pool number.
        pool: u16,
        /// 0 or 1.
        half: u32,
        /// Backend numbers.
        table: Arc<[u32]>,
    },
    /// Writes a pool, and so switches its table.
    Pool(u16, Box<Pool>),
    /// Frees a pool's number.
    RemovePool(u16),
    /// Writes an endpoint.
    Endpoint(EndpointKey, Endpoint),
    /// Removes an endpoint: replies from there are dropped.
    RemoveEndpoint(EndpointKey),
    /// Writes a service or a VIP's marker.
    Service(ServiceKey, Box<Service>),
    /// Removes a service or a marker.
    RemoveService(ServiceKey),
    /// Sets the counters of a service to zero, before its number serves another.
    ClearServiceCounters(u16),
    /// The same for a backend.
    ClearBackendCounters(u16),
}
