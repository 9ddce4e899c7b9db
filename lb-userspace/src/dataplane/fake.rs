//! A data path in memory, for tests of everything above it.

use std::net::IpAddr;

use lb_common::{guard::Range, limits::MAX_RANGES, service::Service};

use super::{
    Attachment, CounterSnapshot, Dataplane, DataplaneError, FlowView,
    image::{Image, MapOp, PoolImage, RangesImage},
};

/// An entry of `ranges` that was never written.
const NO_RANGE: Range = Range {
    start: [0; 16],
    blocked: 0,
    _reserved: 0,
};

/// Keeps an image in memory and every operation it was given.
#[derive(Debug, Default)]
pub struct Fake {
    /// What the maps would hold.
    pub image: Image,
    /// Every operation so far.
    pub applied: Vec<MapOp>,
    /// Tables written, by pool and half.
    tables: std::collections::BTreeMap<(u16, u32), std::sync::Arc<[u32]>>,
    /// Both halves of `ranges`.
    ranges: [Vec<Range>; 2],
}

impl Fake {
    /// Returns the ranges that a service names; what was never written is missing.
    #[must_use]
    pub fn ranges_of(&self, service: &Service) -> &[Range] {
        let half = &self.ranges[usize::from(service.ranges_first >= MAX_RANGES)];
        let first = (service.ranges_first % MAX_RANGES) as usize;
        let end = first + service.ranges_count as usize;
        half.get(first..end.min(half.len())).unwrap_or_default()
    }
}

impl Dataplane for Fake {
    fn image(&self) -> Result<Image, DataplaneError> {
        Ok(self.image.clone())
    }

    fn apply(&mut self, operations: &[MapOp]) -> Result<(), DataplaneError> {
        for operation in operations {
            self.applied.push(operation.clone());
            let image = &mut self.image;
            match operation.clone() {
                MapOp::Settings(settings) => image.settings = *settings,
                MapOp::Backend(id, backend) => {
                    image.backends.insert(id, *backend);
                }
                MapOp::RemoveBackend(id) => {
                    image.backends.remove(&id);
                }
                MapOp::Table { pool, half, table } => {
                    self.tables.insert((pool, half), table);
                }
                MapOp::Pool(id, pool) => {
                    let table = self
                        .tables
                        .get(&(id, pool.half))
                        .cloned()
                        .unwrap_or_default();
                    image.pools.insert(id, PoolImage { pool: *pool, table });
                }
                MapOp::RemovePool(id) => {
                    image.pools.remove(&id);
                }
                MapOp::Endpoint(key, endpoint) => {
                    image.endpoints.insert(key, endpoint);
                }
                MapOp::RemoveEndpoint(key) => {
                    image.endpoints.remove(&key);
                }
                MapOp::Service(key, service) => {
                    image.services.insert(key, *service);
                }
                MapOp::RemoveService(key) => {
                    image.services.remove(&key);
                }
                MapOp::Ranges { half, entries } => {
                    let held = &mut self.ranges[half as usize];
                    held.resize(held.len().max(entries.len()), NO_RANGE);
                    held[..entries.len()].copy_from_slice(&entries);
                }
                MapOp::ClearServiceCounters(_) | MapOp::ClearBackendCounters(_) => {}
            }
            let held = &self.ranges;
            let read = |half: u32, count: u32| {
                let held = &held[half as usize];
                held[..held.len().min(count as usize)].into()
            };
            image.ranges = RangesImage::named(&image.services, read);
        }
        Ok(())
    }

    fn counters(&self) -> Result<CounterSnapshot, DataplaneError> {
        Ok(CounterSnapshot::default())
    }

    fn affinity(&self, _client: IpAddr, _group: u32) -> Result<Option<(u16, u32)>, DataplaneError> {
        Ok(None)
    }

    fn flows(&self, _limit: usize, _filter: &dyn Fn(&FlowView) -> bool) -> Vec<FlowView> {
        Vec::new()
    }

    fn attachments(&self) -> Vec<Attachment> {
        Vec::new()
    }

    fn reattach(&mut self, interface: &str) -> Result<Attachment, DataplaneError> {
        Ok(Attachment {
            interface: interface.to_owned(),
            index: 1,
            native: true,
            why: "a fake has no driver".to_owned(),
        })
    }
}
