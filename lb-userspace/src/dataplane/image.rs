//! What the maps hold, as plain data: the outcome of a plan's rendering and its input.

use std::{collections::BTreeMap, sync::Arc};

use lb_common::{
    backend::Backend,
    endpoint::{Endpoint, EndpointKey},
    guard::Range,
    limits::MAX_RANGES,
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
    /// `ranges`, as far as services name them.
    pub ranges: RangesImage,
}

/// The half of `ranges` that is in use.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RangesImage {
    /// 0 or 1; 0 as well where no service has ranges.
    pub half: u32,
    /// From the beginning of the half to the last entry that a service names.
    pub entries: Arc<[Range]>,
}

impl RangesImage {
    /// Returns what the services name; `read` returns that many entries of a half.
    ///
    /// A daemon that died between the services leaves some that name the other half. The half of
    /// most is taken for the one in use: whatever is written next, they keep what they have.
    pub fn named(
        services: &BTreeMap<ServiceKey, Service>,
        read: impl FnOnce(u32, u32) -> Arc<[Range]>,
    ) -> Self {
        let mut services_of = [0_u32; 2];
        let mut entries_of = [0_u32; 2];
        for service in services.values().filter(|service| service.ranges_count > 0) {
            let half = half_of(service);
            let first = service.ranges_first % MAX_RANGES;
            let end = first.saturating_add(service.ranges_count);
            services_of[half] += 1;
            entries_of[half] = entries_of[half].max(end.min(MAX_RANGES));
        }
        let half = usize::from(services_of[1] > services_of[0]);
        match entries_of[half] {
            0 => Self::default(),
            count => Self {
                half: half as u32,
                entries: read(half as u32, count),
            },
        }
    }
}

/// Returns the half of `ranges` that a service names.
fn half_of(service: &Service) -> usize {
    usize::from(service.ranges_first >= MAX_RANGES)
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
    /// Writes the beginning of a half of `ranges`; it must not be the one in use.
    Ranges {
        /// 0 or 1.
        half: u32,
        /// The ranges of all services.
        entries: Arc<[Range]>,
    },
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A service with these ranges.
    fn service(first: u32, count: u32) -> Service {
        Service {
            id: 0,
            pool: 0,
            backend_port: 0,
            flags: 0,
            group: 0,
            affinity_timeout_s: 0,
            ipv4_prefix: 0,
            ipv6_prefix: 0,
            _reserved: [0; 2],
            ranges_first: first,
            ranges_count: count,
            new_flows_per_second: 0,
            new_flows_per_source: 0,
            name: [0; lb_common::limits::NAME_BYTES],
        }
    }

    fn named(ranges: &[(u32, u32)]) -> Option<(u32, u32)> {
        let services = (1..).zip(ranges).map(|(port, &(first, count))| {
            let key = ServiceKey::new([0; 16], port, 17);
            (key, service(first, count))
        });
        let mut asked = None;
        RangesImage::named(&services.collect(), |half, count| {
            asked = Some((half, count));
            Arc::default()
        });
        asked
    }

    #[test]
    fn the_half_in_use_is_what_the_services_name() {
        assert_eq!(named(&[(0, 0), (0, 0)]), None);
        assert_eq!(named(&[(0, 0), (3, 4), (0, 3)]), Some((0, 7)));
        assert_eq!(named(&[(MAX_RANGES, 3), (MAX_RANGES + 3, 2)]), Some((1, 5)));
    }

    #[test]
    fn of_two_halves_in_use_that_of_most_services_is_kept() {
        let (old, new) = ((0, 3), (MAX_RANGES, 5));

        assert_eq!(named(&[old, new, new]), Some((1, 5)));
        assert_eq!(named(&[old, old, new]), Some((0, 3)));
    }

    #[test]
    fn a_service_that_names_what_cannot_be_is_read_to_the_end_of_the_half() {
        assert_eq!(named(&[(MAX_RANGES - 1, 9)]), Some((0, MAX_RANGES)));
        assert_eq!(named(&[(u32::MAX, u32::MAX)]), Some((1, MAX_RANGES)));
    }
}
