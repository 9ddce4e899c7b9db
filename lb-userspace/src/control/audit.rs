//! What the maps should be like, compared with what they are. Pure.
//!
//! The halves are read in [`crate::dataplane::audit`], and who asks decides what a difference is
//! worth: packets go on meanwhile, so [`crate::admin::audit`] looks twice.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use lb_common::{
    addr,
    affinity::{Affinity, AffinityKey},
    backend::Backend,
    endpoint::EndpointKey,
    flow::Flow,
    map_names,
    pool::Pool,
    record::{Claim, Record, State},
    service::Service,
    settings::Settings,
};

use super::snapshot::Snapshot;
use crate::dataplane::{
    Dataplane, DataplaneError,
    audit::{Attached, Tuple},
    image::Image,
};

/// What the daemon holds true at one moment.
#[derive(Clone, Debug)]
pub struct Belief {
    /// What it wrote into the maps.
    pub wrote: Arc<Image>,
    /// What they hold.
    pub held: Image,
    /// The numbers of backends in use or resting, and their addresses as far as they are known.
    pub backends: BTreeMap<u16, Option<[u8; 16]>>,
    /// Interfaces that the program is attached to, with their index.
    pub interfaces: Vec<(String, u32)>,
    /// Live flows by the last sweep.
    pub flows: u32,
}

impl Belief {
    /// Returns what the daemon holds true at the moment of a snapshot, and reads the maps that it
    /// alone writes. In control's task both are of one moment.
    ///
    /// # Errors
    ///
    /// [`DataplaneError`] when a map cannot be read.
    pub fn of(dataplane: &dyn Dataplane, snapshot: &Snapshot) -> Result<Self, DataplaneError> {
        let state = &snapshot.state;
        let numbers = &state.numbers.backends;
        let used = numbers.iter().map(|(key, number)| (number, Some(key)));
        let backends = used.chain(numbers.resting());
        Ok(Self {
            wrote: Arc::clone(&snapshot.image),
            held: dataplane.image()?,
            backends: backends
                .filter_map(|(number, key)| {
                    let address = key.map(|key| addr::bytes(key.address));
                    Some((u16::try_from(number).ok()?, address))
                })
                .collect(),
            interfaces: snapshot
                .attachments
                .iter()
                .map(|held| (held.interface.clone(), held.index))
                .collect(),
            flows: state.flows_in_use(),
        })
    }

    /// Returns the endpoint of each slot.
    #[must_use]
    pub fn slots(&self) -> BTreeMap<u32, EndpointKey> {
        let endpoints = self.wrote.endpoints.iter();
        endpoints.map(|(key, of)| (of.slot, *key)).collect()
    }
}

macro_rules! faults {
    ($($(#[doc = $doc:literal])+ $variant:ident = $label:literal;)+) => {
        /// What can be wrong.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Fault {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Fault {
            /// Returns its name for programs.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self {
                    $(Self::$variant => $label),+
                }
            }

            /// Returns what it means, for people.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$variant => concat!($($doc),+).trim_ascii()),+
                }
            }
        }
    };
}

faults! {
    /// The daemon wrote it, and somebody else removed it; the next change of it or a restart of
    /// vipd writes it again.
    Missing = "missing";
    /// The daemon did not write it; a restart of vipd removes it.
    Unexpected = "unexpected";
    /// Somebody else changed what the daemon wrote; the next change of it or a restart of vipd
    /// writes it again.
    Different = "different";
    /// Packets of this slot's flows may be taken for another backend's, until `vipd detach`.
    SlotDifferent = "slot_different";
    /// Two endpoints share their SNAT ports: replies may reach the wrong client.
    SlotShared = "slot_shared";
    /// A new flow was never completed: its SNAT port is lost until `vipd detach`.
    ClaimStuck = "claim_stuck";
    /// The backend has been removed, and nobody waits for its last flows.
    BackendUnknown = "backend_unknown";
    /// Replies to the flow are dropped; its SNAT port is free again when the flow has been idle for
    /// its time.
    EndpointMissing = "endpoint_missing";
    /// The flow's packets go to one backend, and its replies are expected from another.
    EndpointOther = "endpoint_other";
    /// The client's packets may begin a new flow with another SNAT port; this one's port is free
    /// again when it has been idle for its time.
    EntryMissing = "entry_missing";
    /// The client's packets use another record; this one's SNAT port is free again when it has been
    /// idle for its time.
    EntryOther = "entry_other";
    /// A leftover that the client's next packet replaces; until then it takes room.
    RecordEnded = "record_ended";
    /// A leftover of a flow whose record belongs to another client now; the client's next packet
    /// replaces it.
    RecordOther = "record_other";
    /// The halves of a flow contradict each other: packets are dropped or reach the wrong server.
    EntryDifferent = "entry_different";
    /// The client belongs to a backend that does not exist; its next packet chooses another.
    ClientOfNobody = "client_of_nobody";
    /// The interface runs another program than the pinned one; a restart of vipd replaces it.
    ProgramOther = "program_other";
    /// Packets of this interface do not reach vipd; a restart of vipd attaches it again.
    ProgramDetached = "program_detached";
    /// The status counts other flows than there are: the sweeper is behind, or does not run.
    FlowsMiscounted = "flows_miscounted";
}

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What is wrong.
    pub fault: Fault,
    /// The map, or `link`.
    pub place: &'static str,
    /// Which entry of it.
    pub subject: String,
    /// How it is, and how it should be.
    pub detail: String,
}

impl Finding {
    fn new(
        fault: Fault,
        place: &'static str,
        subject: impl Into<String>,
        detail: impl Into<String>,
    ) -> Self {
        Self {
            fault,
            place,
            subject: subject.into(),
            detail: detail.into(),
        }
    }

    /// Returns whether both say the same of the same entry, whatever its values are now.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        (self.fault, self.place, &self.subject) == (other.fault, other.place, &other.subject)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} {}", self.place, self.subject, self.detail)
    }
}

/// Compares the maps that the daemon alone writes.
#[must_use]
pub fn maps(wrote: &Image, held: &Image) -> Vec<Finding> {
    let mut found = Vec::new();
    let differences = settings(&wrote.settings, &held.settings);
    if wrote.settings != held.settings {
        let detail = sentence(&differences);
        let finding = Finding::new(Fault::Different, map_names::SETTINGS, "entry 0", detail);
        found.push(finding);
    }
    let place = map_names::SERVICES;
    compare(place, &wrote.services, &held.services, &mut found, |key| {
        let address = addr::address(key.vip);
        match key.protocol {
            0 => format!("the marker of {address}"),
            _ => SocketAddr::new(address, key.port).to_string(),
        }
    });
    let pools = |image: &Image| -> BTreeMap<u16, Pool> {
        let pools = image.pools.iter();
        pools.map(|(number, of)| (*number, of.pool)).collect()
    };
    let number = |number: &u16| format!("entry {number}");
    compare(
        map_names::POOLS,
        &pools(wrote),
        &pools(held),
        &mut found,
        number,
    );
    let place = map_names::BACKENDS;
    compare(place, &wrote.backends, &held.backends, &mut found, number);
    let place = map_names::ENDPOINTS;
    compare(
        place,
        &wrote.endpoints,
        &held.endpoints,
        &mut found,
        endpoint,
    );
    tables(wrote, held, &mut found);
    ranges(wrote, held, &mut found);
    shared_slots(held, &mut found);
    found
}

/// Compares the tables of pools that are otherwise as they should be.
fn tables(wrote: &Image, held: &Image, found: &mut Vec<Finding>) {
    for (number, wanted) in &wrote.pools {
        let Some(present) = held.pools.get(number) else {
            continue;
        };
        let other = wanted
            .table
            .iter()
            .zip(present.table.iter())
            .filter(|(wanted, present)| wanted != present)
            .count();
        if other > 0 && wanted.pool.half == present.pool.half {
            found.push(Finding::new(
                Fault::Different,
                map_names::MAGLEV,
                format!("the table of pool {number}"),
                format!(
                    "differs in {other} of {} slots from what the daemon wrote",
                    wanted.table.len()
                ),
            ));
        }
    }
}

/// Compares the half of `ranges` that the daemon has in use. Services that name another one are
/// found as such.
fn ranges(wrote: &Image, held: &Image, found: &mut Vec<Finding>) {
    let (wanted, present) = (&wrote.ranges, &held.ranges);
    let other = wanted
        .entries
        .iter()
        .zip(present.entries.iter())
        .filter(|(wanted, present)| wanted != present)
        .count();
    if other > 0 && wanted.half == present.half {
        found.push(Finding::new(
            Fault::Different,
            map_names::RANGES,
            format!("half {}", wanted.half),
            format!(
                "differs in {other} of {} entries from what the daemon wrote: clients are refused \
                 or taken that should not be",
                wanted.entries.len()
            ),
        ));
    }
}

fn shared_slots(held: &Image, found: &mut Vec<Finding>) {
    let mut slots = BTreeMap::new();
    for (key, of) in &held.endpoints {
        if let Some(former) = slots.insert(of.slot, key) {
            found.push(Finding::new(
                Fault::SlotShared,
                map_names::ENDPOINTS,
                endpoint(key),
                format!("has slot {}, as {} has", of.slot, endpoint(former)),
            ));
        }
    }
}

/// Values whose fields can be compared by name.
trait Fields {
    /// Returns the fields that differ: name, as it is, as it should be.
    fn differences(&self, wanted: &Self) -> Vec<String>;
}

macro_rules! fields {
    ($function:ident, $type:ty: $($field:ident),+ $(,)?) => {
        fn $function(wanted: &$type, held: &$type) -> Vec<String> {
            let mut differences = Vec::new();
            $(
                if held.$field != wanted.$field {
                    differences.push(format!(
                        "{} is {:?} and should be {:?}",
                        stringify!($field), held.$field, wanted.$field
                    ));
                }
            )+
            differences
        }

        impl Fields for $type {
            fn differences(&self, wanted: &Self) -> Vec<String> {
                $function(wanted, self)
            }
        }
    };
}

fields!(settings, Settings: seed, flow_timeout_s, quarantine_s, layout_version, slots,
    snat_port_first, snat_port_count, snat_address_count, snat_addresses, interfaces);
fields!(service, Service: id, pool, backend_port, flags, group, affinity_timeout_s, ipv4_prefix,
    ipv6_prefix, ranges_first, ranges_count, new_flows_per_second, new_flows_per_source, name);
fields!(pool, Pool: half, eligible, member_count, members, name);
fields!(backend, Backend: address, interface, mac, source_mac, vlan, mtu, port, pool, snat_mask,
    health, admin, reachable, present, full, services_down, name);
fields!(endpoint_value, lb_common::endpoint::Endpoint: slot);

fn sentence(differences: &[String]) -> String {
    if differences.is_empty() {
        return "is not what the daemon wrote".to_owned();
    }
    format!("is not what the daemon wrote: {}", differences.join(", "))
}

fn compare<K: Ord, V: PartialEq + Fields>(
    place: &'static str,
    wrote: &BTreeMap<K, V>,
    held: &BTreeMap<K, V>,
    found: &mut Vec<Finding>,
    name: impl Fn(&K) -> String,
) {
    for (key, wanted) in wrote {
        match held.get(key) {
            None => found.push(Finding::new(Fault::Missing, place, name(key), "is missing")),
            Some(present) if present != wanted => found.push(Finding::new(
                Fault::Different,
                place,
                name(key),
                sentence(&present.differences(wanted)),
            )),
            Some(_) => {}
        }
    }
    let unexpected = held.keys().filter(|key| !wrote.contains_key(key));
    found.extend(unexpected.map(|key| {
        Finding::new(
            Fault::Unexpected,
            place,
            name(key),
            "is nothing that the daemon wrote",
        )
    }));
}

/// Compares an entry of `slots` with the endpoint that has the slot.
#[must_use]
pub fn slot(slot: u32, wanted: &EndpointKey, held: Option<&EndpointKey>) -> Option<Finding> {
    (held != Some(wanted)).then(|| {
        let detail = match held {
            Some(held) => format!(
                "names {} and should name {}",
                endpoint(held),
                endpoint(wanted)
            ),
            None => "does not exist".to_owned(),
        };
        let subject = format!("entry {slot}");
        Finding::new(Fault::SlotDifferent, map_names::SLOTS, subject, detail)
    })
}

/// Judges a record: `entry` is the forward entry of its flow.
#[must_use]
pub fn record(
    belief: &Belief,
    slots: &BTreeMap<u32, EndpointKey>,
    index: u32,
    record: &Record,
    entry: Option<&Flow>,
) -> Vec<Finding> {
    let claim = Claim::unpack(record.claim);
    let mut found = Vec::new();
    let mut find = |fault, detail: String| {
        let subject = format!("record {index} ({})", flow(&Tuple::of(record)));
        found.push(Finding::new(fault, map_names::RECORDS, subject, detail));
    };
    match claim.state {
        State::Free => return found,
        State::Claimed => {
            find(Fault::ClaimStuck, "is still being filled".to_owned());
            return found;
        }
        State::Live | State::Closing => {}
    }
    let count = u32::from(belief.wrote.settings.snat_port_count).max(1);
    let address = belief.backends.get(&claim.backend);
    if address.is_none() {
        let number = claim.backend;
        let detail = format!("belongs to backend {number}, which is not in use");
        find(Fault::BackendUnknown, detail);
    }
    match slots.get(&(index / count)) {
        None => find(
            Fault::EndpointMissing,
            format!("is in slot {}, which no endpoint has", index / count),
        ),
        Some(of) => {
            if let Some(Some(address)) = address
                && *address != of.backend
            {
                let detail = format!(
                    "belongs to backend {} at {}, and replies are expected from {}",
                    claim.backend,
                    addr::address(*address),
                    SocketAddr::new(addr::address(of.backend), of.port)
                );
                find(Fault::EndpointOther, detail);
            }
        }
    }
    if claim.state == State::Live {
        match entry {
            None => find(
                Fault::EntryMissing,
                format!(
                    "is live, and {} has no entry for it",
                    Tuple::of(record).map()
                ),
            ),
            Some(entry) if !names(entry, index, claim) => find(
                Fault::EntryOther,
                format!(
                    "is live, but its client's packets use record {}",
                    entry.record
                ),
            ),
            Some(_) => {}
        }
    }
    found
}

/// Judges a forward entry: `record` is what it names, `None` if there is no such record.
#[must_use]
pub fn entry(
    belief: &Belief,
    slots: &BTreeMap<u32, EndpointKey>,
    tuple: &Tuple,
    entry: &Flow,
    record: Option<&Record>,
) -> Vec<Finding> {
    let find = |fault, detail: String| {
        let subject = format!("the entry of {}", flow(tuple));
        vec![Finding::new(fault, tuple.map(), subject, detail)]
    };
    let index = entry.record;
    let Some(record) = record else {
        let detail = format!("names record {index}, which does not exist");
        return find(Fault::RecordEnded, detail);
    };
    let claim = Claim::unpack(record.claim);
    if !matches!(claim.state, State::Live | State::Closing) {
        let detail = format!("names record {index}, which is free");
        return find(Fault::RecordEnded, detail);
    }
    if !names(entry, index, claim) {
        let detail = format!(
            "names record {index} in its generation {}, which is {} now",
            entry.generation, claim.generation
        );
        return find(Fault::RecordEnded, detail);
    }
    if Tuple::of(record) != *tuple {
        let detail = format!(
            "names record {index}, which belongs to {}",
            flow(&Tuple::of(record))
        );
        return find(Fault::RecordOther, detail);
    }
    let settings = &belief.wrote.settings;
    let count = u32::from(settings.snat_port_count).max(1);
    let port = u32::from(settings.snat_port_first) + index % count;
    let of = slots.get(&(index / count));
    let address = settings
        .snat_addresses
        .get(usize::from(entry.snat_address))
        .copied();
    let differences: Vec<String> = [
        (
            "backend",
            u32::from(entry.backend),
            u32::from(claim.backend),
        ),
        ("service", entry.service.into(), record.service.into()),
        ("snat_port", entry.snat_port.into(), port),
        (
            "backend_port",
            entry.backend_port.into(),
            of.map_or(entry.backend_port, |of| of.port).into(),
        ),
    ]
    .into_iter()
    .filter(|(_, is, should)| is != should)
    .map(|(field, is, should)| format!("{field} is {is} and should be {should}"))
    .chain(of.filter(|of| address != Some(of.snat)).map(|of| {
        format!(
            "snat_address is {}, which does not stand for {}",
            entry.snat_address,
            addr::address(of.snat)
        )
    }))
    .collect();
    if differences.is_empty() {
        return Vec::new();
    }
    let detail = format!("differs from record {index}: {}", differences.join(", "));
    find(Fault::EntryDifferent, detail)
}

/// Judges what is remembered of a client.
#[must_use]
pub fn client(belief: &Belief, key: &AffinityKey, held: &Affinity) -> Option<Finding> {
    (!belief.backends.contains_key(&held.backend)).then(|| {
        Finding::new(
            Fault::ClientOfNobody,
            map_names::AFFINITY,
            format!(
                "the entry of {} in group {}",
                addr::address(key.client),
                key.group
            ),
            format!("names backend {}, which is not in use", held.backend),
        )
    })
}

/// Judges how the program is attached to an interface; `program` is the number of the pinned one.
#[must_use]
pub fn attached(
    interface: &str,
    index: u32,
    program: u32,
    held: Option<Attached>,
) -> Option<Finding> {
    let find = |fault, detail| Some(Finding::new(fault, "link", interface, detail));
    match held {
        None => find(
            Fault::ProgramDetached,
            format!("has index {index}, for which no link is pinned"),
        ),
        Some(held) if held.interface != index => find(
            Fault::ProgramDetached,
            "has a pinned link that is attached to nothing".to_owned(),
        ),
        Some(held) if held.program != program => find(
            Fault::ProgramOther,
            format!(
                "runs program {}, and program {program} is pinned",
                held.program
            ),
        ),
        Some(_) => None,
    }
}

/// The number of flows, counted and told, over the looks of one audit.
///
/// Flows come and go between a sweep and a look, so the two numbers need not be equal at any
/// moment; but what the sweeper tells now is what could be counted a moment ago.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    counted: BTreeSet<u32>,
    told: BTreeSet<u32>,
}

impl Tally {
    /// Takes in how many live records there are, and how many the status tells.
    pub fn add(&mut self, counted: u32, told: u32) {
        self.counted.insert(counted);
        self.told.insert(told);
    }

    /// Returns what is wrong unless some number that was told may have been counted.
    #[must_use]
    pub fn judge(&self) -> Option<Finding> {
        let range = |numbers: &BTreeSet<u32>| Some((*numbers.first()?, *numbers.last()?));
        let (counted, told) = (range(&self.counted)?, range(&self.told)?);
        let overlap = counted.0 <= told.1 && told.0 <= counted.1;
        (!overlap).then(|| {
            Finding::new(
                Fault::FlowsMiscounted,
                "status",
                "flows",
                format!("are told as {}, and {} are live", told.1, counted.1),
            )
        })
    }
}

/// Returns whether an entry names this record of this generation.
fn names(entry: &Flow, index: u32, claim: Claim) -> bool {
    entry.record == index && entry.generation == claim.generation
}

fn flow(tuple: &Tuple) -> String {
    let at = |address, port| SocketAddr::new(addr::address(address), port);
    format!(
        "{} to {}",
        at(tuple.client, tuple.client_port),
        at(tuple.vip, tuple.vip_port)
    )
}

fn endpoint(key: &EndpointKey) -> String {
    let snat: IpAddr = addr::address(key.snat);
    let backend = SocketAddr::new(addr::address(key.backend), key.port);
    format!("the endpoint from {snat} to {backend}")
}

#[cfg(test)]
mod tests;
