//! A data path in memory, for tests of everything above it.

use std::net::IpAddr;

use super::{
    Attachment, CounterSnapshot, Dataplane, DataplaneError, FlowView,
    image::{Image, MapOp, PoolImage},
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
                MapOp::ClearServiceCounters(_) | MapOp::ClearBackendCounters(_) => {}
            }
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
