//! Reading the maps for an audit, beside packets and sweeper, on handles of its own.
//!
//! Nothing is changed here and nothing is judged: what belongs together is for
//! [`mod@crate::control::audit`] to say. Packets and sweeper go on meanwhile, so two things that are read
//! one after the other may differ without any fault.

use std::path::PathBuf;

use aya::{
    maps::{Array, HashMap, Map, MapData, MapError},
    programs::ProgramInfo,
};
use lb_common::{
    addr::{is_mapped, mapped, unmapped},
    affinity::{Affinity, AffinityKey},
    endpoint::EndpointKey,
    flow::{Flow, FlowKey, FlowKey6},
    map_names,
    record::{Claim, Record, State},
};

use super::{
    DataplaneError,
    kernel::{Options, PROGRAM_PIN, failed, pinned_hash},
    layout,
    records::Records,
};

/// A flow as the client sends it: the key of its forward entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tuple {
    /// The client.
    pub client: [u8; 16],
    /// The client's port.
    pub client_port: u16,
    /// The VIP.
    pub vip: [u8; 16],
    /// The service's port.
    pub vip_port: u16,
    /// IANA protocol number.
    pub protocol: u8,
}

impl Tuple {
    /// Returns the flow whose other half a record is.
    #[must_use]
    pub fn of(record: &Record) -> Self {
        Self {
            client: record.client,
            client_port: record.client_port,
            vip: record.vip,
            vip_port: record.vip_port,
            protocol: Claim::unpack(record.claim).protocol,
        }
    }

    /// Returns the name of the map that its forward entry stands in.
    #[must_use]
    pub fn map(&self) -> &'static str {
        if is_mapped(&self.client) {
            map_names::FLOWS
        } else {
            map_names::FLOWS6
        }
    }

    fn key(&self) -> FlowKey {
        FlowKey::new(
            unmapped(&self.client),
            self.client_port,
            unmapped(&self.vip),
            self.vip_port,
            self.protocol,
        )
    }

    fn key6(&self) -> FlowKey6 {
        FlowKey6::new(
            self.client,
            self.client_port,
            self.vip,
            self.vip_port,
            self.protocol,
        )
    }
}

impl From<FlowKey> for Tuple {
    fn from(key: FlowKey) -> Self {
        Self {
            client: mapped(key.client),
            client_port: key.client_port,
            vip: mapped(key.vip),
            vip_port: key.vip_port,
            protocol: key.protocol,
        }
    }
}

impl From<FlowKey6> for Tuple {
    fn from(key: FlowKey6) -> Self {
        Self {
            client: key.client,
            client_port: key.client_port,
            vip: key.vip,
            vip_port: key.vip_port,
            protocol: key.protocol,
        }
    }
}

/// What the kernel runs at an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attached {
    /// Number of the program that the pinned link holds.
    pub program: u32,
    /// Index of the interface that it is attached to; zero: none any more.
    pub interface: u32,
}

/// Reads the maps of one data path.
pub struct Auditor {
    records: Records,
    flows: HashMap<MapData, FlowKey, Flow>,
    flows6: HashMap<MapData, FlowKey6, Flow>,
    affinity: HashMap<MapData, AffinityKey, Affinity>,
    slots: Array<MapData, EndpointKey>,
    directory: PathBuf,
    max_flows: u32,
    max_affinity: u32,
}

impl Auditor {
    pub(super) fn open(options: &Options, records: Records) -> Result<Self, DataplaneError> {
        let pin = |name: &str| options.pin_directory.join(name);
        let slots = MapData::from_pin(pin(map_names::SLOTS))
            .and_then(|data| Array::try_from(Map::Array(data)))
            .map_err(|e| failed("open the map slots", e))?;
        Ok(Self {
            records,
            flows: pinned_hash(&pin(map_names::FLOWS))?,
            flows6: pinned_hash(&pin(map_names::FLOWS6))?,
            affinity: pinned_hash(&pin(map_names::AFFINITY))?,
            slots,
            directory: options.pin_directory.clone(),
            max_flows: options.max_flows,
            max_affinity: options.max_affinity,
        })
    }

    /// Returns how many records there are.
    #[must_use]
    pub fn records(&self) -> u32 {
        self.records.len()
    }

    /// Returns a record; `None` if there is none with this index.
    #[must_use]
    pub fn record(&self, index: u32) -> Option<Record> {
        (index < self.records.len()).then(|| self.records.copy(index))
    }

    /// Returns the claim of a record, below [`Self::records`].
    #[must_use]
    pub fn claim(&self, index: u32) -> Claim {
        Claim::unpack(self.records.claim(index))
    }

    /// Returns how many records are live.
    #[must_use]
    pub fn live(&self) -> u32 {
        let live = (0..self.records()).filter(|&index| self.claim(index).state == State::Live);
        u32::try_from(live.count()).unwrap_or(u32::MAX)
    }

    /// Returns the forward entry of a flow.
    ///
    /// # Errors
    ///
    /// [`DataplaneError`] when the map cannot be read.
    pub fn entry(&self, tuple: &Tuple) -> Result<Option<Flow>, DataplaneError> {
        if is_mapped(&tuple.client) {
            present(self.flows.get(&tuple.key(), 0))
        } else {
            present(self.flows6.get(&tuple.key6(), 0))
        }
        .map_err(|e| failed("read a flow", e))
    }

    /// Returns what is remembered of a client.
    ///
    /// # Errors
    ///
    /// [`DataplaneError`] when the map cannot be read.
    pub fn client(&self, key: &AffinityKey) -> Result<Option<Affinity>, DataplaneError> {
        present(self.affinity.get(key, 0)).map_err(|e| failed("read a client", e))
    }

    /// Shows every forward entry to `see`, some of them perhaps twice. Returns whether the walk came
    /// to its end: a table that changes very fast is given up on.
    ///
    /// # Errors
    ///
    /// [`DataplaneError`] when a map cannot be read.
    pub fn entries(
        &self,
        mut see: impl FnMut(Tuple, Flow) -> Result<(), DataplaneError>,
    ) -> Result<bool, DataplaneError> {
        let four = walk(&self.flows, self.max_flows, |key, flow| {
            see(key.into(), flow)
        })?;
        let six = walk(&self.flows6, self.max_flows, |key, flow| {
            see(key.into(), flow)
        })?;
        Ok(four && six)
    }

    /// The same for every client that is remembered.
    ///
    /// # Errors
    ///
    /// [`DataplaneError`] when the map cannot be read.
    pub fn clients(
        &self,
        see: impl FnMut(AffinityKey, Affinity) -> Result<(), DataplaneError>,
    ) -> Result<bool, DataplaneError> {
        walk(&self.affinity, self.max_affinity, see)
    }

    /// Returns the endpoint that `slots` names for a slot; `None` if there is no such slot.
    ///
    /// # Errors
    ///
    /// [`DataplaneError`] when the map cannot be read.
    pub fn slot(&self, slot: u32) -> Result<Option<EndpointKey>, DataplaneError> {
        match self.slots.get(&slot, 0) {
            Ok(key) => Ok(Some(key)),
            Err(MapError::OutOfBounds { .. }) => Ok(None),
            Err(error) => Err(failed("read slots", error)),
        }
    }

    /// Returns the number of the pinned program.
    ///
    /// # Errors
    ///
    /// [`DataplaneError`] when it is not there.
    pub fn program(&self) -> Result<u32, DataplaneError> {
        ProgramInfo::from_pin(self.directory.join(PROGRAM_PIN))
            .map(|info| info.id())
            .map_err(|e| failed("look at the pinned program", e))
    }

    /// Returns what the pinned link of an interface holds; `None`: no link is pinned for it.
    ///
    /// # Errors
    ///
    /// [`DataplaneError`] when the kernel does not say.
    pub fn attached(&self, interface: u32) -> Result<Option<Attached>, DataplaneError> {
        for name in [
            format!("link_{interface}"),
            format!("link_{interface}_generic"),
        ] {
            let link = layout::link(&self.directory.join(&name))
                .map_err(|e| failed(&format!("look at the pin {name}"), e))?;
            if let Some((program, interface)) = link {
                return Ok(Some(Attached { program, interface }));
            }
        }
        Ok(None)
    }
}

fn present<T>(result: Result<T, MapError>) -> Result<Option<T>, MapError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Shows every entry of a hash to `see`. Returns whether the walk came to its end.
///
/// When an entry is removed in the very moment at which the walk stands on it, the kernel begins
/// anew. That is rare; a table where it keeps happening is given up on after twice its capacity.
fn walk<K: aya::Pod, V: aya::Pod>(
    map: &HashMap<MapData, K, V>,
    capacity: u32,
    mut see: impl FnMut(K, V) -> Result<(), DataplaneError>,
) -> Result<bool, DataplaneError> {
    let mut steps = 0;
    for entry in map.iter() {
        let (key, value) = entry.map_err(|e| failed("walk through a map", e))?;
        see(key, value)?;
        steps += 1;
        if steps > 2 * u64::from(capacity) {
            return Ok(false);
        }
    }
    Ok(true)
}
