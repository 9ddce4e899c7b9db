//! The sweeper: ends idle flows, forgets clients whose affinity ran out, and counts what is in
//! use. It reads records through their mapping, without system calls, and passes over those that no
//! endpoint has had.
//!
//! Ending an idle flow takes two passes: the first marks its record as closing, the next removes
//! the forward entry and frees the record. A packet between the two makes it live again, so no flow
//! is ended under a packet's feet. The flow of a client that has been blocked ends at once.
//!
//! Where places run out, what nobody has answered gives its place up early: see [`super::pressure`].

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use aya::maps::{Array, HashMap, MapData, MapError};
use lb_common::{
    addr::{is_mapped, unmapped},
    affinity::{Affinity, AffinityKey, lifetime_s},
    endpoint::{Endpoint, EndpointKey},
    flow::{Flow, FlowKey, FlowKey6},
    guard::{Range, is_blocked},
    limits::{MAX_BACKENDS, MAX_SERVICES, MAX_SNAT_ADDRESSES, SNAT_QUARANTINE_S},
    map_names,
    record::{Claim, Record, State},
    settings::Settings,
};

use super::{
    DataplaneError, PortUse, SweepReport, batch, clock,
    kernel::{Options, failed, pinned_array, pinned_hash},
    pressure::Pressure,
    records::{Epoch, Records},
};

/// `BPF_NOEXIST` of `bpf_map_update_elem`.
const NOEXIST: u64 = 1;

/// The affinity table is walked for at most this share of the time.
const AFFINITY_SHARE: u32 = 20;

/// What the sweeper goes by; the control task replaces it when the configuration changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SweepSettings {
    /// Seconds after which a flow without packets has ended.
    pub flow_timeout_s: u32,
    /// The same for a flow that was never answered.
    pub flow_timeout_unreplied_s: u32,
    /// The longest affinity timeout of each group in use, in seconds.
    pub affinity_timeouts_s: BTreeMap<u32, u32>,
    /// Backend numbers in use; clients of others are forgotten.
    pub backends: std::collections::BTreeSet<u16>,
    /// By service number: the ranges of clients whose flows may stay or end; services that take
    /// everybody are missing.
    pub ranges: BTreeMap<u8, Arc<[Range]>>,
}

/// Settings that another task may replace.
pub type SharedSettings = Arc<ArcSwap<SweepSettings>>;

/// Sweeps the tables of one data path.
pub struct Sweeper {
    records: Records,
    epoch: Epoch,
    flows: HashMap<MapData, FlowKey, Flow>,
    flows6: HashMap<MapData, FlowKey6, Flow>,
    affinity: HashMap<MapData, AffinityKey, Affinity>,
    /// The same map, for walks.
    affinity_data: MapData,
    endpoints: MapData,
    slots: Array<MapData, EndpointKey>,
    settings: Array<MapData, Settings>,
    snat_port_first: u16,
    snat_port_count: u32,
    program_log: Option<aya_log::EbpfLogger<&'static dyn log::Log>>,
    pass: u64,
    counts: Counts,
    /// By slot: in the last pass it was an endpoint's, or had a record that was ever claimed. In
    /// others no flow has begun since.
    watched: Vec<bool>,
    /// Flows in the last pass.
    flows_in_use: u32,
    affinity_by_backend: BTreeMap<u16, u32>,
    affinity_entries: u32,
    next_affinity_walk: Instant,
    /// The former daemon may have died between the two halves of a flow.
    unhealed: bool,
}

/// What a pass counts, by number.
struct Counts {
    services: Vec<u32>,
    backends: Vec<u32>,
    /// By slot.
    ports: Vec<PortUse>,
}

impl Counts {
    fn new(slots: u32) -> Self {
        Self {
            services: vec![0; MAX_SERVICES as usize],
            backends: vec![0; MAX_BACKENDS as usize],
            ports: vec![PortUse::default(); slots as usize],
        }
    }
}

impl Sweeper {
    pub(super) fn open(
        options: &Options,
        records: Records,
        epoch: Epoch,
        program_log: Option<aya_log::EbpfLogger<&'static dyn log::Log>>,
    ) -> Result<Self, DataplaneError> {
        let pin = |name: &str| -> PathBuf { options.pin_directory.join(name) };
        Ok(Self {
            records,
            epoch,
            flows: pinned_hash(&pin(map_names::FLOWS))?,
            flows6: pinned_hash(&pin(map_names::FLOWS6))?,
            affinity: pinned_hash(&pin(map_names::AFFINITY))?,
            affinity_data: MapData::from_pin(pin(map_names::AFFINITY))
                .map_err(|e| failed("open the pinned map affinity", e))?,
            endpoints: MapData::from_pin(pin(map_names::ENDPOINTS))
                .map_err(|e| failed("open the pinned map endpoints", e))?,
            slots: pinned_array(&pin(map_names::SLOTS))?,
            settings: pinned_array(&pin(map_names::SETTINGS))?,
            snat_port_first: options.snat_port_first,
            snat_port_count: u32::from(options.snat_port_count.max(1)),
            program_log,
            pass: 0,
            counts: Counts::new(options.slots()),
            watched: vec![true; options.slots() as usize],
            flows_in_use: 0,
            affinity_by_backend: BTreeMap::new(),
            affinity_entries: 0,
            next_affinity_walk: Instant::now(),
            unhealed: true,
        })
    }

    /// Makes one pass over the records, and one over the affinity table when that is due.
    ///
    /// # Errors
    ///
    /// [`DataplaneError`] when a map cannot be read or written; what was done is done.
    pub fn sweep(&mut self, settings: &SweepSettings) -> Result<SweepReport, DataplaneError> {
        let begun = Instant::now();
        if let Some(log) = &mut self.program_log {
            log.flush();
        }
        if self.unhealed {
            self.heal()?;
            self.unhealed = false;
        }
        let swept = self.sweep_records(settings);
        self.epoch.begin();
        let mut report = swept?;
        if begun >= self.next_affinity_walk {
            self.sweep_affinity(settings)?;
            self.pass += 1;
            let took = begun.elapsed();
            self.next_affinity_walk = Instant::now() + took * AFFINITY_SHARE;
        }
        report.pass = self.pass;
        report
            .affinity_by_backend
            .clone_from(&self.affinity_by_backend);
        report.affinity_entries = self.affinity_entries;
        report.took = begun.elapsed();
        Ok(report)
    }

    /// Gives live records the forward entries that they lack: a daemon that died between removing
    /// the one and freeing the other left them.
    fn heal(&mut self) -> Result<(), DataplaneError> {
        for index in 0..self.records.len() {
            let claim = Claim::unpack(self.records.claim(index));
            if matches!(claim.state, State::Live | State::Closing) {
                let record = self.records.copy(index);
                let flow = self.forward_of(&record, index, claim)?;
                if let Some(flow) = flow {
                    self.restore_forward(&record, claim, flow)?;
                }
            }
        }
        Ok(())
    }

    fn sweep_records(&mut self, settings: &SweepSettings) -> Result<SweepReport, DataplaneError> {
        let now = clock::seconds();
        let overall = Pressure::of(self.flows_in_use, self.records.len());
        let mut counts = Counts::new(self.counts.ports.len() as u32);
        let endpoints = self.endpoints()?;
        let mut ended = 0;
        let mut index = 0;
        for (slot, is_endpoints) in endpoints.into_iter().enumerate() {
            if !is_endpoints && !self.watched[slot] {
                index += self.snat_port_count;
                continue;
            }
            self.watched[slot] = is_endpoints;
            let former = self.counts.ports[slot].in_use;
            let pressure = overall.max(Pressure::of(former, self.snat_port_count));
            let timeouts = Timeouts {
                replied_s: settings.flow_timeout_s,
                unreplied_s: pressure.unreplied_timeout_s(settings.flow_timeout_unreplied_s),
            };
            for _ in 0..self.snat_port_count {
                let word = self.records.claim(index);
                if word != 0 {
                    self.watched[slot] = true;
                    let ports = &mut counts.ports[slot];
                    match self.sweep_record(index, word, now, settings, &timeouts)? {
                        Found::Free => {}
                        Found::Resting => ports.resting += 1,
                        Found::Ended => {
                            ports.resting += 1;
                            ended += 1;
                        }
                        Found::Closing => ports.in_use += 1,
                        Found::Live { service, backend } => {
                            ports.in_use += 1;
                            counts.services[usize::from(service)] += 1;
                            if let Some(flows) = counts.backends.get_mut(usize::from(backend)) {
                                *flows += 1;
                            }
                        }
                    }
                }
                index += 1;
            }
        }
        self.flows_in_use = counts.ports.iter().map(|ports| ports.in_use).sum();
        let report = SweepReport {
            flows_by_service: by_number(&counts.services),
            flows_by_backend: by_number(&counts.backends),
            ports_by_slot: counts
                .ports
                .iter()
                .enumerate()
                .filter(|(_, ports)| **ports != PortUse::default())
                .map(|(slot, ports)| (slot as u32, *ports))
                .collect(),
            ended,
            pressed: overall != Pressure::None
                || counts.ports.iter().any(|ports| {
                    Pressure::of(ports.in_use, self.snat_port_count) != Pressure::None
                }),
            ..SweepReport::default()
        };
        self.counts = counts;
        Ok(report)
    }

    /// Returns by slot whether it is that of an endpoint.
    fn endpoints(&self) -> Result<Vec<bool>, DataplaneError> {
        let mut is_endpoints = vec![false; self.watched.len()];
        batch::walk(&self.endpoints, |_: EndpointKey, endpoint: Endpoint| {
            if let Some(is_endpoints) = is_endpoints.get_mut(endpoint.slot as usize) {
                *is_endpoints = true;
            }
        })
        .map_err(|e| failed("walk the endpoints", e))?;
        Ok(is_endpoints)
    }

    #[inline]
    fn sweep_record(
        &mut self,
        index: u32,
        word: u64,
        now: u32,
        settings: &SweepSettings,
        timeouts: &Timeouts,
    ) -> Result<Found, DataplaneError> {
        let claim = Claim::unpack(word);
        let age = now.saturating_sub(self.records.last_seen(index));
        match claim.state {
            State::Free if age < SNAT_QUARANTINE_S => Ok(Found::Resting),
            State::Free => Ok(Found::Free),
            // An instant of the kernel's; the next pass sees what became of it.
            State::Claimed => Ok(Found::Closing),
            State::Live => {
                let record = self.records.copy(index);
                let blocked = settings
                    .ranges
                    .get(&record.service)
                    .is_some_and(|ranges| is_blocked(ranges, &record.client));
                if blocked {
                    return self.end(index, word, now);
                }
                let timeout = if record.replied == 0 {
                    timeouts.unreplied_s
                } else {
                    timeouts.replied_s
                };
                if age > timeout {
                    self.records
                        .swap(index, word, claim.with_state(State::Closing));
                }
                Ok(Found::Live {
                    service: record.service,
                    backend: claim.backend,
                })
            }
            State::Closing => self.end(index, word, now),
        }
    }

    /// Ends the flow of a record: removes the forward entry if it names this record, then frees the
    /// record.
    fn end(&mut self, index: u32, word: u64, now: u32) -> Result<Found, DataplaneError> {
        let claim = Claim::unpack(word);
        let record = self.records.copy(index);
        let removed = self.remove_forward(&record, index, claim)?;
        self.records.set_last_seen(index, now);
        if self
            .records
            .swap(index, word, claim.with_state(State::Free))
        {
            return Ok(Found::Ended);
        }
        // A packet made the flow live again while its forward entry was being removed. One that
        // moved it as well has freed the record: there is nothing to restore then.
        let present = Claim::unpack(self.records.claim(index));
        if let Some(flow) = removed
            && present == claim.with_state(State::Live)
        {
            self.restore_forward(&record, claim, flow)?;
        }
        Ok(Found::Closing)
    }

    /// Returns the forward entry that a record needs and lacks.
    fn forward_of(
        &self,
        record: &Record,
        index: u32,
        claim: Claim,
    ) -> Result<Option<Flow>, DataplaneError> {
        let present = if is_mapped(&record.client) {
            self.flows.get(&key(record, claim.protocol), 0)
        } else {
            self.flows6.get(&key6(record, claim.protocol), 0)
        };
        match present {
            Ok(_) => return Ok(None),
            Err(MapError::KeyNotFound) => {}
            Err(error) => return Err(failed("read a flow", error)),
        }
        let slot = index / self.snat_port_count;
        let endpoint = self
            .slots
            .get(&slot, 0)
            .map_err(|e| failed("read a slot", e))?;
        let snat_address = self
            .snat_addresses()?
            .iter()
            .position(|address| *address == endpoint.snat)
            .unwrap_or_default();
        Ok(Some(Flow {
            record: index,
            generation: claim.generation,
            backend: claim.backend,
            snat_port: self.snat_port_first + (index % self.snat_port_count) as u16,
            backend_port: endpoint.port,
            snat_address: snat_address as u8,
            service: record.service,
        }))
    }

    fn snat_addresses(&self) -> Result<[[u8; 16]; MAX_SNAT_ADDRESSES], DataplaneError> {
        self.settings
            .get(&0, 0)
            .map(|settings| settings.snat_addresses)
            .map_err(|e| failed("read settings", e))
    }

    fn remove_forward(
        &mut self,
        record: &Record,
        index: u32,
        claim: Claim,
    ) -> Result<Option<Flow>, DataplaneError> {
        let ours = |flow: &Flow| flow.record == index && flow.generation == claim.generation;
        if is_mapped(&record.client) {
            remove_if(&mut self.flows, &key(record, claim.protocol), ours)
        } else {
            remove_if(&mut self.flows6, &key6(record, claim.protocol), ours)
        }
    }

    fn restore_forward(
        &mut self,
        record: &Record,
        claim: Claim,
        flow: Flow,
    ) -> Result<(), DataplaneError> {
        let result = if is_mapped(&record.client) {
            self.flows
                .insert(key(record, claim.protocol), flow, NOEXIST)
        } else {
            self.flows6
                .insert(key6(record, claim.protocol), flow, NOEXIST)
        };
        match result {
            Ok(()) => Ok(()),
            // The flow has begun anew with another record; this one ends when it is idle.
            Err(MapError::SyscallError(error))
                if error.io_error.raw_os_error() == Some(libc::EEXIST) =>
            {
                Ok(())
            }
            Err(error) => Err(failed("restore a flow", error)),
        }
    }

    /// Walks the affinity table: forgets who has expired, counts the others.
    fn sweep_affinity(&mut self, settings: &SweepSettings) -> Result<(), DataplaneError> {
        let now = clock::seconds();
        let mut expired = Vec::new();
        let mut by_backend = BTreeMap::new();
        let mut entries = 0;
        batch::walk(&self.affinity_data, |key: AffinityKey, value: Affinity| {
            let timeout = settings
                .affinity_timeouts_s
                .get(&key.group)
                .copied()
                .unwrap_or(0);
            let lifetime = lifetime_s(timeout, settings.flow_timeout_s);
            let in_use = settings.backends.contains(&value.backend);
            if !in_use || now.saturating_sub(value.last_seen) > lifetime {
                expired.push(key);
            } else {
                *by_backend.entry(value.backend).or_default() += 1;
                entries += 1;
            }
        })
        .map_err(|e| failed("walk the affinity table", e))?;
        self.affinity_by_backend = by_backend;
        self.affinity_entries = entries;
        for key in expired {
            match self.affinity.remove(&key) {
                Ok(()) | Err(MapError::KeyNotFound) => {}
                Err(MapError::SyscallError(error))
                    if error.io_error.raw_os_error() == Some(libc::ENOENT) => {}
                Err(error) => return Err(failed("forget a client", error)),
            }
        }
        Ok(())
    }
}

/// When the flows of one endpoint end, in seconds without a packet.
struct Timeouts {
    replied_s: u32,
    unreplied_s: u32,
}

/// What a pass found a record to be.
enum Found {
    /// Free, and rested.
    Free,
    /// Free, not to be given away yet.
    Resting,
    /// Freed just now.
    Ended,
    /// Held, and by no flow that counts.
    Closing,
    /// Held by a flow.
    Live { service: u8, backend: u16 },
}

/// Returns the counts that are not zero, by number.
fn by_number<N: TryFrom<usize> + Ord>(counts: &[u32]) -> BTreeMap<N, u32> {
    counts
        .iter()
        .enumerate()
        .filter(|(_, count)| **count > 0)
        .filter_map(|(number, count)| Some((N::try_from(number).ok()?, *count)))
        .collect()
}

/// Removes the entry of `key` if it is the one meant, and returns it.
fn remove_if<K: aya::Pod>(
    map: &mut HashMap<MapData, K, Flow>,
    key: &K,
    meant: impl Fn(&Flow) -> bool,
) -> Result<Option<Flow>, DataplaneError> {
    let flow = match map.get(key, 0) {
        Ok(flow) if meant(&flow) => flow,
        Ok(_) | Err(MapError::KeyNotFound) => return Ok(None),
        Err(error) => return Err(failed("read a flow", error)),
    };
    match map.remove(key) {
        Ok(()) => Ok(Some(flow)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(error) => Err(failed("remove a flow", error)),
    }
}

fn key(record: &Record, protocol: u8) -> FlowKey {
    FlowKey::new(
        unmapped(&record.client),
        record.client_port,
        unmapped(&record.vip),
        record.vip_port,
        protocol,
    )
}

fn key6(record: &Record, protocol: u8) -> FlowKey6 {
    FlowKey6::new(
        record.client,
        record.client_port,
        record.vip,
        record.vip_port,
        protocol,
    )
}

/// How often the records are swept.
pub const INTERVAL: Duration = Duration::from_secs(1);
