//! The sweeper: ends idle flows, forgets clients whose affinity ran out, and counts what is in
//! use. It reads records through their mapping, without system calls.
//!
//! Ending a flow takes two passes: the first marks its record as closing, the next removes the
//! forward entry and frees the record. A packet between the two makes it live again, so no flow
//! is ended under a packet's feet.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use aya::maps::{HashMap, MapData, MapError};
use lb_common::{
    addr::{is_mapped, unmapped},
    affinity::{Affinity, AffinityKey, lifetime_s},
    flow::{Flow, FlowKey, FlowKey6},
    guard::Range,
    limits::SNAT_QUARANTINE_S,
    map_names,
    record::{Claim, Record, State},
};

use super::{
    DataplaneError, SweepReport, clock,
    kernel::{Options, failed, pinned_hash},
    records::Records,
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
    flows: HashMap<MapData, FlowKey, Flow>,
    flows6: HashMap<MapData, FlowKey6, Flow>,
    affinity: HashMap<MapData, AffinityKey, Affinity>,
    snat_port_count: u32,
    program_log: Option<aya_log::EbpfLogger<&'static dyn log::Log>>,
    pass: u64,
    affinity_by_backend: BTreeMap<u16, u32>,
    affinity_entries: u32,
    next_affinity_walk: Instant,
}

impl Sweeper {
    pub(super) fn open(
        options: &Options,
        records: Records,
        program_log: Option<aya_log::EbpfLogger<&'static dyn log::Log>>,
    ) -> Result<Self, DataplaneError> {
        let pin = |name: &str| -> PathBuf { options.pin_directory.join(name) };
        Ok(Self {
            records,
            flows: pinned_hash(&pin(map_names::FLOWS))?,
            flows6: pinned_hash(&pin(map_names::FLOWS6))?,
            affinity: pinned_hash(&pin(map_names::AFFINITY))?,
            snat_port_count: u32::from(options.snat_port_count.max(1)),
            program_log,
            pass: 0,
            affinity_by_backend: BTreeMap::new(),
            affinity_entries: 0,
            next_affinity_walk: Instant::now(),
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
        let mut report = SweepReport::default();
        let now = clock::seconds();
        for index in 0..self.records.len() {
            let word = self.records.claim(index);
            if word != 0 {
                self.sweep_record(index, word, now, settings, &mut report)?;
            }
        }
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

    fn sweep_record(
        &mut self,
        index: u32,
        word: u64,
        now: u32,
        settings: &SweepSettings,
        report: &mut SweepReport,
    ) -> Result<(), DataplaneError> {
        let claim = Claim::unpack(word);
        let age = now.saturating_sub(self.records.last_seen(index));
        let ports = report
            .ports_by_slot
            .entry(index / self.snat_port_count)
            .or_default();
        match claim.state {
            State::Free => {
                if age < SNAT_QUARANTINE_S {
                    ports.resting += 1;
                }
            }
            // An instant of the kernel's; the next pass sees what became of it.
            State::Claimed => ports.in_use += 1,
            State::Live => {
                ports.in_use += 1;
                let record = self.records.copy(index);
                *report.flows_by_service.entry(record.service).or_default() += 1;
                *report.flows_by_backend.entry(claim.backend).or_default() += 1;
                let timeout = if record.replied == 0 {
                    settings.flow_timeout_unreplied_s
                } else {
                    settings.flow_timeout_s
                };
                if age > timeout {
                    self.records
                        .swap(index, word, claim.with_state(State::Closing));
                }
            }
            State::Closing => {
                if self.end(index, word, now)? {
                    report.ended += 1;
                    ports.resting += 1;
                } else {
                    ports.in_use += 1;
                }
            }
        }
        Ok(())
    }

    /// Ends the flow of a closing record: removes the forward entry if it names this record, then
    /// frees the record. Returns whether it was freed.
    fn end(&mut self, index: u32, word: u64, now: u32) -> Result<bool, DataplaneError> {
        let claim = Claim::unpack(word);
        let record = self.records.copy(index);
        let removed = self.remove_forward(&record, index, claim)?;
        self.records.set_last_seen(index, now);
        if self
            .records
            .swap(index, word, claim.with_state(State::Free))
        {
            return Ok(true);
        }
        // A packet made the flow live again while its forward entry was being removed. One that
        // moved it as well has freed the record: there is nothing to restore then.
        let present = Claim::unpack(self.records.claim(index));
        if let Some(flow) = removed
            && present == claim.with_state(State::Live)
        {
            self.restore_forward(&record, claim, flow)?;
        }
        Ok(false)
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
        self.affinity_by_backend.clear();
        self.affinity_entries = 0;
        for entry in self.affinity.iter() {
            // A key that packets' work removed under the walk ends the walk early; the next one
            // begins again.
            let Ok((key, value)) = entry else { break };
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
                *self.affinity_by_backend.entry(value.backend).or_default() += 1;
                self.affinity_entries += 1;
            }
        }
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
