//! What should happen: the program's behaviour written down a second time, in plain Rust, with a
//! hash, a checksum, tables and a notion of time of its own.
//!
//! Where the program is free to choose, the model checks that the choice is a right one, takes it
//! over and goes on from there:
//!
//! - which SNAT address and port a new flow has, when the client's own port is not free: any of
//!   the addresses that the backend may be reached from, any port of the range that is free and
//!   has rested. There must be one exactly when the program finds one;
//! - which identification the pieces of a datagram leave with;
//! - whether a token bucket that is being filled while the program looks at it has a token;
//! - which backend a slot of a pool's table names: that is read from the table it was given.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use lb_common::{
    affinity::Affinity,
    backend::{Backend, VlanTags},
    endpoint::EndpointKey,
    fragment::{Fragment, FragmentKey},
    guard::Range,
    pool::Pool,
    record::Record,
    service::{Service, ServiceKey},
    settings::Settings,
    stats::Counters,
    verdict::DropReason,
};

use crate::generate::HALF_RANGES;
use crate::wire::{self, Address, ICMP, Ip, UDP, addresses, is_v4, u16_at};

/// A client's tuple: client, its port, VIP, the service's port.
pub(crate) type FlowId = (Address, u16, Address, u16);

/// The forward half of a flow, as plain numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Flow {
    pub(crate) record: u32,
    pub(crate) generation: u32,
    pub(crate) backend: u16,
    pub(crate) snat_port: u16,
    pub(crate) backend_port: u16,
    pub(crate) snat_address: u8,
    pub(crate) service: u8,
}

/// States of a record, as its claim numbers them.
pub(crate) const FREE: u8 = 0;
pub(crate) const LIVE: u8 = 2;
pub(crate) const CLOSING: u8 = 3;

/// What a record's first word says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Claim {
    pub(crate) generation: u32,
    pub(crate) backend: u16,
    pub(crate) state: u8,
}

pub(crate) fn claim(record: &Record) -> Claim {
    Claim {
        generation: record.claim as u32,
        backend: (record.claim >> 32) as u16,
        state: (record.claim >> 56) as u8,
    }
}

pub(crate) fn word(claim: Claim) -> u64 {
    u64::from(claim.state) << 56
        | u64::from(UDP) << 48
        | u64::from(claim.backend) << 32
        | u64::from(claim.generation)
}

/// What the program did with a frame.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Observed {
    /// XDP action.
    pub(crate) action: u32,
    /// The frame that came out.
    pub(crate) frame: Vec<u8>,
    /// What it was counted as in `drops`.
    pub(crate) counted: Vec<DropReason>,
    /// Clock before and after, in nanoseconds; both in the second that the model is told.
    pub(crate) between_ns: (u64, u64),
}

/// `enum xdp_action` of the kernel's `include/uapi/linux/bpf.h`.
pub(crate) const XDP_DROP: u32 = 1;
pub(crate) const XDP_PASS: u32 = 2;
pub(crate) const XDP_TX: u32 = 3;
pub(crate) const XDP_REDIRECT: u32 = 4;

/// What the program has written, for the choices that are its own.
pub(crate) trait Tables {
    fn record(&self, index: u32) -> Record;
    fn fragment(&self, key: &FragmentKey) -> Option<Fragment>;
}

/// What should become of a frame.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Outcome {
    /// It is the host's, untouched.
    Pass,
    /// It is dropped and counted.
    Drop(DropReason),
    /// It leaves with this XDP action. Larger than the way out carries, it is counted, and the
    /// frame is the error that goes back.
    Leave {
        action: u32,
        frame: Vec<u8>,
        counted: Option<DropReason>,
    },
}

/// The model: what is in the maps, and what has been counted.
#[derive(Clone, Default)]
pub(crate) struct Model {
    pub(crate) settings: Settings,
    pub(crate) services: BTreeMap<ServiceKey, Service>,
    pub(crate) pools: BTreeMap<u16, Pool>,
    pub(crate) backends: BTreeMap<u16, Backend>,
    pub(crate) endpoints: BTreeMap<EndpointKey, u32>,
    /// By pool and half.
    pub(crate) tables: BTreeMap<(u16, u32), Arc<[u32]>>,
    /// By half.
    pub(crate) ranges: [Arc<[Range]>; 2],

    pub(crate) flows: BTreeMap<FlowId, Flow>,
    pub(crate) records: Vec<Record>,
    pub(crate) affinity: BTreeMap<(Address, u32), Affinity>,
    pub(crate) fragments: BTreeMap<(Address, Address, u32), Fragment>,
    /// Entries of nobody that fill the tables: of IPv4 flows, of IPv6 flows, of affinity.
    pub(crate) filled: [usize; 3],
    /// Identifications that the program has given since it was loaded, by whether they are of IPv6.
    pub(crate) numbered: BTreeSet<(bool, u32)>,
    /// Capacity of the tables.
    pub(crate) max_flows: usize,
    pub(crate) max_affinity: usize,

    pub(crate) buckets: Buckets,
    /// By index in `stats`.
    pub(crate) counters: BTreeMap<u32, Counters>,
    /// Which of them have changed since somebody last looked.
    pub(crate) just_counted: Vec<u32>,
    /// What happened, for people: how often each thing did.
    pub(crate) coverage: BTreeMap<&'static str, u64>,
}

/// Where a packet goes and what it becomes.
struct Translation {
    source: (Address, u16),
    destination: (Address, u16),
    interface: u32,
    source_mac: [u8; 6],
    destination_mac: [u8; 6],
    vlan: VlanTags,
    mtu: u16,
}

/// The services' numbers in `stats` come first, then the backends'.
const FIRST_BACKEND_COUNTER: u32 = 256;
/// Slots of a Maglev table.
const SLOTS: u32 = 16_381;
/// Seconds between two marks of a flow on its client's entry.
const TOUCH_S: u32 = 16;
/// Seconds for which the pieces of a datagram may follow the first one.
pub(crate) const FRAGMENT_LIFETIME_S: u32 = 30;
/// Bytes of an offending packet that an ICMP error carries (RFC 1812 section 4.3.2.3, RFC 4443
/// section 2.4).
const QUOTED_V4: usize = 548;
const QUOTED_V6: usize = 1232;

type Stop<T> = Result<T, Outcome>;

impl Model {
    /// Returns what should become of a frame, and changes what the maps should hold. `now` is the
    /// second of the monotonic clock.
    ///
    /// # Errors
    ///
    /// In words, when the program chose what it may not choose.
    pub(crate) fn receive(
        &mut self,
        frame: &[u8],
        now: u32,
        observed: &Observed,
        tables: &dyn Tables,
    ) -> Result<Outcome, String> {
        let mut run = Run {
            model: self,
            frame,
            now,
            place: 0,
            observed,
            tables,
            complaint: None,
        };
        let outcome = match run.decide() {
            Ok(outcome) | Err(outcome) => outcome,
        };
        match run.complaint {
            Some(complaint) => Err(complaint),
            None => Ok(outcome),
        }
    }

    pub(crate) fn saw(&mut self, what: &'static str) {
        *self.coverage.entry(what).or_default() += 1;
    }

    fn count(&mut self, index: u32, change: impl Fn(&mut Counters)) {
        change(self.counters.entry(index).or_default());
        self.just_counted.push(index);
    }

    fn count_both(&mut self, service: u8, backend: u16, change: impl Fn(&mut Counters)) {
        self.count(u32::from(service), &change);
        self.count(FIRST_BACKEND_COUNTER + u32::from(backend), &change);
    }

    fn is_vip(&self, address: &Address) -> bool {
        self.services.contains_key(&ServiceKey::new(*address, 0, 0))
    }

    fn service(&self, vip: &Address, port: u16) -> Option<Service> {
        self.services
            .get(&ServiceKey::new(*vip, port, UDP))
            .copied()
    }

    fn backend(&self, id: u16) -> Option<Backend> {
        self.backends.get(&id).copied()
    }

    fn is_snat_address(&self, address: &Address) -> bool {
        let count = self.settings.snat_address_count as usize;
        self.settings.snat_addresses[..count].contains(address)
    }

    fn port_offset(&self, port: u16) -> Option<u32> {
        let first = self.settings.snat_port_first;
        let offset = port.checked_sub(first)?;
        (offset < self.settings.snat_port_count).then_some(u32::from(offset))
    }

    /// Returns the index of the record of an SNAT address and port towards a backend's.
    fn record_index(
        &self,
        snat: Address,
        snat_port: u16,
        backend: Address,
        port: u16,
    ) -> Option<u32> {
        let offset = self.port_offset(snat_port)?;
        let slot = self
            .endpoints
            .get(&EndpointKey::new(snat, backend, port, UDP))?;
        Some(slot * u32::from(self.settings.snat_port_count) + offset)
    }

    /// Returns a flow whose two halves know each other.
    fn living(&self, id: &FlowId) -> Option<Flow> {
        let flow = *self.flows.get(id)?;
        let record = self.records.get(flow.record as usize)?;
        let claim = claim(record);
        let whole = (
            record.client,
            record.client_port,
            record.vip,
            record.vip_port,
        ) == *id
            && claim.generation == flow.generation
            && matches!(claim.state, LIVE | CLOSING);
        whole.then_some(flow)
    }

    /// Returns the backend that a client's entry names, if it may still serve the client, and marks the
    /// client as seen.
    fn belongs_to(&mut self, key: (Address, u32), service: &Service, now: u32) -> Option<u16> {
        let timeout = service.affinity_timeout_s;
        let lifetime = timeout.max(self.settings.flow_timeout_s) + TOUCH_S;
        let entry = self.affinity.get(&key).copied()?;
        if now.saturating_sub(entry.last_seen) > lifetime {
            self.saw("affinity expired");
            return None;
        }
        let backend = self.backend(entry.backend);
        if !backend.is_some_and(|b| serves(&b) && b.pool == service.pool) {
            self.saw("affinity to nobody");
            return None;
        }
        self.affinity
            .entry(key)
            .and_modify(|entry| entry.last_seen = now);
        Some(entry.backend)
    }

    /// Returns the service of a record, if that remembers clients.
    fn remembering(&self, record: &Record) -> Option<Service> {
        self.service(&record.vip, record.vip_port)
            .filter(|service| service.flags & Service::AFFINITY != 0)
    }

    /// Notes a packet in either direction.
    fn touch(&mut self, index: u32, now: u32) {
        let record = &mut self.records[index as usize];
        let before = record.last_seen;
        record.last_seen = now;
        let record = *record;
        if before / TOUCH_S != now / TOUCH_S
            && let Some(service) = self.remembering(&record)
        {
            let key = (cut(&record.client, &service), service.group);
            if self.belongs_to(key, &service, now).is_some() {
                self.saw("a flow marks its client");
            }
        }
    }

    fn revive(&mut self, index: u32) {
        let record = &mut self.records[index as usize];
        let claim = claim(record);
        record.claim = word(Claim {
            state: LIVE,
            ..claim
        });
        if claim.state == CLOSING {
            self.saw("a closing flow lives on");
        }
    }

    /// Makes everything that is remembered `seconds` older.
    pub(crate) fn age(&mut self, seconds: u32) {
        for record in self.records.iter_mut().filter(|record| record.claim != 0) {
            record.last_seen = record.last_seen.saturating_sub(seconds);
        }
        for entry in self.affinity.values_mut() {
            entry.last_seen = entry.last_seen.saturating_sub(seconds);
        }
        for entry in self.fragments.values_mut() {
            entry.seen = entry.seen.saturating_sub(seconds);
        }
    }

    /// Does what the daemon does every second: idle records are marked, and end with the next pass
    /// unless a packet came; clients that have expired are forgotten.
    pub(crate) fn sweep(&mut self, now: u32, unreplied_timeout_s: u32) {
        for index in 0..self.records.len() as u32 {
            let record = self.records[index as usize];
            let claim = claim(&record);
            let timeout = match record.replied {
                0 => unreplied_timeout_s,
                _ => self.settings.flow_timeout_s,
            };
            match claim.state {
                LIVE if now.saturating_sub(record.last_seen) > timeout => {
                    self.records[index as usize].claim = word(Claim {
                        state: CLOSING,
                        ..claim
                    });
                }
                CLOSING => {
                    let id = (
                        record.client,
                        record.client_port,
                        record.vip,
                        record.vip_port,
                    );
                    let names_it = self.flows.get(&id).is_some_and(|flow| {
                        flow.record == index && flow.generation == claim.generation
                    });
                    if names_it {
                        self.flows.remove(&id);
                    }
                    self.free(index, now);
                    self.saw("a flow ends");
                }
                _ => {}
            }
        }
        let longest = |group: u32| {
            let of_group = self.services.values().filter(|s| s.group == group);
            of_group.map(|s| s.affinity_timeout_s).max().unwrap_or(0)
        };
        let flow_timeout = self.settings.flow_timeout_s;
        let expired: Vec<_> = self
            .affinity
            .iter()
            .filter(|((_, group), entry)| {
                let lifetime = longest(*group).max(flow_timeout) + TOUCH_S;
                now.saturating_sub(entry.last_seen) > lifetime
            })
            .map(|(key, _)| *key)
            .collect();
        for key in expired {
            self.affinity.remove(&key);
        }
    }

    fn free(&mut self, index: u32, now: u32) {
        let record = &mut self.records[index as usize];
        record.last_seen = now;
        record.claim = word(Claim {
            state: FREE,
            ..claim(record)
        });
    }

    /// Returns whether a record may be given to a new flow.
    fn is_available(&self, index: u32, now: u32) -> bool {
        let record = &self.records[index as usize];
        claim(record).state == FREE
            && (record.claim == 0 || now >= record.last_seen + self.settings.quarantine_s)
    }
}

/// Returns whether clients that belong to the backend may stay.
fn serves(backend: &Backend) -> bool {
    backend.present == 1 && backend.health == 1 && backend.reachable == 1 && backend.admin < 2
}

/// Returns whether the service's own check, if it has one, finds the backend up.
fn serves_service(backend: &Backend, service: u16) -> bool {
    backend.services_down[usize::from(service) / 32] >> (service % 32) & 1 == 0
}

/// Returns the client's address with every bit behind the service's prefix cleared.
pub(crate) fn cut(client: &Address, service: &Service) -> Address {
    let prefix = if is_v4(client) {
        service.ipv4_prefix
    } else {
        service.ipv6_prefix
    };
    let kept = u128::MAX
        .checked_shl(128 - u32::from(prefix.min(128)))
        .unwrap_or(0);
    (u128::from_be_bytes(*client) & kept).to_be_bytes()
}

/// The hash that nodes agree on: SplitMix64's finalizer over the halves of the address, and the
/// port where a client is not remembered; the halves of the result are folded together.
pub(crate) fn hash(client: &Address, port: Option<u16>) -> u32 {
    let halves = u128::from_be_bytes(*client);
    let mut state = finalized((halves >> 64) as u64 ^ 0x9e37_79b9_7f4a_7c15);
    state = finalized(state ^ halves as u64);
    if let Some(port) = port {
        state = finalized(state ^ u64::from(port));
    }
    (state >> 32) as u32 ^ state as u32
}

fn finalized(z: u64) -> u64 {
    let z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

/// One frame on its way through the model.
struct Run<'a> {
    model: &'a mut Model,
    frame: &'a [u8],
    now: u32,
    /// Place of the interface that it came in by.
    place: u8,
    observed: &'a Observed,
    tables: &'a dyn Tables,
    complaint: Option<String>,
}

/// The interface that every frame comes in by: the loopback of a network namespace.
pub(crate) const INGRESS: u32 = 1;

impl Run<'_> {
    fn decide(&mut self) -> Stop<Outcome> {
        let ip = wire::read(self.frame).ok_or(Outcome::Pass)?;
        let interfaces = &self.model.settings.interfaces;
        let place = interfaces.iter().position(|i| i.index == INGRESS);
        let place = place.ok_or(Outcome::Pass)?;
        if interfaces[place].mac != ip.destination_mac {
            return Err(Outcome::Pass);
        }
        self.place = place as u8;
        if ip.protocol != UDP {
            return self.icmp(&ip);
        }
        if let Some(reason) = self.fault(&ip) {
            return Err(if self.model.is_vip(&ip.destination) {
                Outcome::Drop(reason)
            } else {
                Outcome::Pass
            });
        }
        if ip.is_later_piece() {
            return self.later_piece(&ip);
        }
        let ports = [0, 2].map(|at| u16_at(self.frame, ip.l4 + at).unwrap_or(0));
        match self.reply_record(&ip, ports)? {
            Some(index) => self.reply(&ip, ports, index),
            None => self.client_packet(&ip, ports),
        }
    }

    /// What is wrong with the lengths of a UDP packet, or with its checksum.
    fn fault(&self, ip: &Ip) -> Option<DropReason> {
        let malformed = Some(DropReason::Malformed);
        let Some(content) = ip.len.checked_sub(ip.l4 - ip.l3) else {
            return malformed;
        };
        if ip.l3 + ip.len > self.frame.len() {
            return malformed;
        }
        if ip.is_later_piece() {
            return None;
        }
        let len = u16_at(self.frame, ip.l4 + 4).map(usize::from);
        let checksum = u16_at(self.frame, ip.l4 + 6);
        let (Some(len), Some(checksum)) = (len, checksum) else {
            return malformed;
        };
        // The length of a first piece is that of the whole datagram.
        if len < 8 || content < 8 || (len > content && !ip.is_first_piece()) {
            return malformed;
        }
        (ip.v6 && checksum == 0).then_some(DropReason::ChecksumMissing)
    }

    /// Returns the record that a backend's packet belongs to; `None`: it is no reply.
    fn reply_record(&self, ip: &Ip, [source, destination]: [u16; 2]) -> Stop<Option<u32>> {
        if self.model.port_offset(destination).is_none() {
            return Ok(None);
        }
        let index = self
            .model
            .record_index(ip.destination, destination, ip.source, source);
        let Some(index) = index else {
            if self.model.is_snat_address(&ip.destination) {
                return Err(Outcome::Drop(DropReason::NoFlow));
            }
            return Ok(None);
        };
        let state = claim(&self.model.records[index as usize]).state;
        if !matches!(state, LIVE | CLOSING) {
            return Err(Outcome::Drop(DropReason::NoFlow));
        }
        Ok(Some(index))
    }

    fn reply(&mut self, ip: &Ip, ports: [u16; 2], index: u32) -> Stop<Outcome> {
        self.model.saw("reply");
        self.model.revive(index);
        self.replied(index);
        let record = self.model.records[index as usize];
        let fragment = Fragment {
            record: index,
            generation: claim(&record).generation,
            direction: Fragment::REPLY,
            seen: self.now,
            identification: 0,
            _reserved: 0,
        };
        let to = self.to_client(index)?;
        let bytes = (ip.l3 + ip.len) as u64;
        let outcome = self.forward(ip, Some(ports), &to, fragment)?;
        self.model
            .count_both(record.service, claim(&record).backend, |c| {
                c.packets_out += 1;
                c.bytes_out += bytes;
            });
        Ok(outcome)
    }

    /// Notes a packet of the backend.
    fn replied(&mut self, index: u32) {
        let record = &mut self.model.records[index as usize];
        if record.replied == 0 {
            record.replied = 1;
            self.answered(index);
        }
        self.model.touch(index, self.now);
    }

    /// Remembers the backend that has answered a client, if that belongs to none.
    fn answered(&mut self, index: u32) {
        let record = self.model.records[index as usize];
        let Some(service) = self.model.remembering(&record) else {
            return;
        };
        let client = cut(&record.client, &service);
        let key = (client, service.group);
        if self.model.belongs_to(key, &service, self.now).is_some() {
            return;
        }
        let of_pool = self.by_hash(&service, hash(&client, None), false);
        let is_avoided = |id: &u16| {
            let backend = self.model.backend(*id);
            !backend.is_some_and(|b| serves_service(&b, service.id))
        };
        let backend = match of_pool {
            Ok(id) if is_avoided(&id) => {
                self.model.saw("who answered is but a detour");
                id
            }
            _ => claim(&record).backend,
        };
        let full = self.model.affinity.len() + self.model.filled[2] >= self.model.max_affinity;
        if full && !self.model.affinity.contains_key(&key) {
            self.model.saw("affinity table full");
            self.model
                .count(u32::from(service.id), |c| c.affinity_full += 1);
            return;
        }
        let entry = Affinity {
            last_seen: self.now,
            backend,
            _reserved: 0,
        };
        self.model.affinity.insert(key, entry);
    }

    /// The way to the client of a record.
    fn to_client(&self, index: u32) -> Stop<Translation> {
        let record = &self.model.records[index as usize];
        let interface = self.model.settings.interfaces[usize::from(record.interface)];
        if interface.index == 0 {
            return Err(Outcome::Drop(DropReason::InterfaceGone));
        }
        Ok(Translation {
            source: (record.vip, record.vip_port),
            destination: (record.client, record.client_port),
            interface: interface.index,
            source_mac: interface.mac,
            destination_mac: record.client_mac,
            vlan: record.vlan,
            mtu: interface.mtu,
        })
    }

    /// The way to the backend of a flow.
    fn to_backend(&self, flow: &Flow) -> Stop<Translation> {
        let backend = self.model.backend(flow.backend);
        let backend = backend.ok_or(Outcome::Drop(DropReason::Inconsistent))?;
        let snat = self.model.settings.snat_addresses[usize::from(flow.snat_address)];
        Ok(Translation {
            source: (snat, flow.snat_port),
            destination: (backend.address, flow.backend_port),
            interface: backend.interface,
            source_mac: backend.source_mac,
            destination_mac: backend.mac,
            vlan: backend.vlan,
            mtu: backend.mtu,
        })
    }

    fn client_packet(&mut self, ip: &Ip, [port, vip_port]: [u16; 2]) -> Stop<Outcome> {
        let id = (ip.source, port, ip.destination, vip_port);
        let known = self.model.living(&id);
        let serving = known.filter(|flow| self.may_stay(flow));
        let service = self.model.service(&ip.destination, vip_port);
        let blocked = service.is_some_and(|service| self.is_blocked(&ip.source, &service));
        if service.is_none() || blocked {
            if known.is_some() {
                self.model.saw("unwelcome flow");
            }
            return Err(match service {
                None => self.of_no_service(ip),
                Some(service) => self.refused(&service, DropReason::Blocked),
            });
        }
        if let Some(flow) = known {
            self.model.revive(flow.record);
        }
        if let Some(flow) = serving {
            self.seen_from_client(ip, &flow);
        }
        let flow = match (serving, service) {
            (Some(flow), _) => flow,
            (None, Some(service)) => match self.begin(ip, &id, &service, known) {
                Ok(flow) => flow,
                Err(Outcome::Drop(reason)) => return Err(self.refused(&service, reason)),
                Err(other) => return Err(other),
            },
            (None, None) => return Err(Outcome::Pass),
        };
        self.forward_to_backend(ip, Some([port, vip_port]), &flow)
    }

    fn refused(&mut self, service: &Service, reason: DropReason) -> Outcome {
        self.model.count(u32::from(service.id), |c| c.dropped += 1);
        Outcome::Drop(reason)
    }

    /// A packet that no service takes. The other pieces of its datagram are the host's as well.
    fn of_no_service(&mut self, ip: &Ip) -> Outcome {
        if let Some(piece) = ip.piece
            && self.model.is_vip(&ip.destination)
        {
            let key = (ip.source, ip.destination, piece.identification);
            let fragment = Fragment {
                record: 0,
                generation: 0,
                seen: self.now,
                identification: piece.identification,
                direction: Fragment::HOST,
                _reserved: 0,
            };
            self.model.fragments.insert(key, fragment);
            self.model.saw("a first piece for the host");
        }
        Outcome::Pass
    }

    fn may_stay(&self, flow: &Flow) -> bool {
        let backend = self.model.backend(flow.backend);
        backend.is_some_and(|b| serves(&b) && serves_service(&b, u16::from(flow.service)))
    }

    fn seen_from_client(&mut self, ip: &Ip, flow: &Flow) {
        let record = &mut self.model.records[flow.record as usize];
        record.client_mac = ip.source_mac;
        record.vlan = vlan(ip);
        record.interface = self.place;
        self.model.touch(flow.record, self.now);
    }

    fn is_blocked(&self, client: &Address, service: &Service) -> bool {
        let half = &self.model.ranges[(service.ranges_first / HALF_RANGES) as usize];
        let ranges = half
            .iter()
            .skip((service.ranges_first % HALF_RANGES) as usize);
        let of_service = ranges.take(service.ranges_count as usize);
        let last = of_service.take_while(|range| range.start <= *client).last();
        last.is_some_and(|range| range.blocked == 1)
    }

    /// Begins a flow, or moves the one that is `known` to another backend.
    fn begin(
        &mut self,
        ip: &Ip,
        id: &FlowId,
        service: &Service,
        known: Option<Flow>,
    ) -> Stop<Flow> {
        if known.is_none() {
            self.limit(ip, service)?;
        }
        let backend = match self.remembered_backend(ip, service)? {
            Some(id) => id,
            None => self.choose(ip, id.1, service)?,
        };
        let flow = self.claimed(ip, id, service, backend)?;
        let full = !self.model.flows.contains_key(id) && self.is_full(id);
        if full {
            self.model.free(flow.record, self.now);
            self.model.saw("flow table full");
            return Err(Outcome::Drop(DropReason::FlowTableFull));
        }
        self.model.flows.insert(*id, flow);
        match known {
            Some(old) => {
                self.model.free(old.record, self.now);
                self.model.saw("a flow moves");
                self.model
                    .count_both(flow.service, flow.backend, |c| c.flows_moved += 1);
            }
            None => {
                self.model.saw("a flow begins");
                self.model
                    .count_both(flow.service, flow.backend, |c| c.flows_new += 1);
            }
        }
        Ok(flow)
    }

    fn is_full(&self, id: &FlowId) -> bool {
        let v4 = is_v4(&id.0);
        let own = self
            .model
            .flows
            .keys()
            .filter(|id| is_v4(&id.0) == v4)
            .count();
        own + self.model.filled[usize::from(!v4)] >= self.model.max_flows
    }

    /// Asks the token buckets of source and service for a token each.
    fn limit(&mut self, ip: &Ip, service: &Service) -> Stop<()> {
        let source = Bucket::Source(service.id, source_of(&ip.source));
        let source = (service.new_flows_per_source, source);
        let all = (service.new_flows_per_second, Bucket::Service(service.id));
        let outcome = [
            (source, DropReason::SourceLimited),
            (all, DropReason::ServiceLimited),
        ];
        for ((rate, bucket), reason) in outcome {
            if rate == 0 {
                continue;
            }
            let between = self.observed.between_ns;
            let taken = match self.model.buckets.may_take(bucket, between, rate) {
                May::Only(taken) => taken,
                May::Either => self.observed.counted != [reason],
            };
            self.model.buckets.took(bucket, between, rate, taken);
            if !taken {
                self.model.saw("limited");
                return Err(Outcome::Drop(reason));
            }
        }
        Ok(())
    }

    /// Returns the backend that the client belongs to, if it may still serve it.
    fn remembered_backend(&mut self, ip: &Ip, service: &Service) -> Stop<Option<u16>> {
        if service.flags & Service::AFFINITY == 0 {
            return Ok(None);
        }
        let client = cut(&ip.source, service);
        let key = (client, service.group);
        let Some(id) = self.model.belongs_to(key, service, self.now) else {
            return Ok(None);
        };
        let backend = self.model.backend(id);
        if backend.is_some_and(|b| serves_service(&b, service.id)) {
            self.model.saw("affinity kept");
            return Ok(Some(id));
        }
        self.model.saw("detour");
        self.by_hash(service, hash(&client, None), true).map(Some)
    }

    /// Chooses a backend by the client's hash.
    fn choose(&mut self, ip: &Ip, port: u16, service: &Service) -> Stop<u16> {
        let client = cut(&ip.source, service);
        let has_affinity = service.flags & Service::AFFINITY != 0;
        let hash = hash(&client, (!has_affinity).then_some(port));
        let chosen = self.by_hash(service, hash, false)?;
        let backend = self.model.backend(chosen);
        if backend.is_some_and(|b| serves_service(&b, service.id)) {
            return Ok(chosen);
        }
        self.model.saw("detour of a new client");
        self.by_hash(service, hash, true)
    }

    /// Returns the table's choice, else the next member in turn that takes new clients.
    fn by_hash(&self, service: &Service, hash: u32, own_check: bool) -> Stop<u16> {
        let takes = |id: u32| {
            let backend = u16::try_from(id).ok().and_then(|id| self.model.backend(id));
            backend.is_some_and(|b| {
                serves(&b)
                    && b.admin == 0
                    && b.full == 0
                    && b.pool == service.pool
                    && (!own_check || serves_service(&b, service.id))
            })
        };
        let nobody = Outcome::Drop(DropReason::NoEligibleBackend);
        let Some(pool) = self.model.pools.get(&service.pool) else {
            return Err(nobody);
        };
        let table = &self.model.tables[&(service.pool, pool.half)];
        let in_table = table[(hash % SLOTS) as usize];
        if takes(in_table) {
            return Ok(in_table as u16);
        }
        let members = &pool.members[..pool.member_count as usize];
        let begin = hash as usize % members.len().max(1);
        let turn = members[begin..].iter().chain(&members[..begin]);
        turn.copied().find(|id| takes(u32::from(*id))).ok_or(nobody)
    }

    /// Follows the program's choice of an SNAT address and port, which must be a right one.
    fn claimed(&mut self, ip: &Ip, id: &FlowId, service: &Service, chosen: u16) -> Stop<Flow> {
        let inconsistent = Outcome::Drop(DropReason::Inconsistent);
        let backend = self.model.backend(chosen).ok_or(inconsistent)?;
        let backend_port = match backend.port {
            0 => service.backend_port,
            port => port,
        };
        let count = u32::from(self.model.settings.snat_port_count);
        let first = self.model.settings.snat_port_first;
        let mut places = Vec::new();
        for (place, snat) in (0_u8..).zip(self.model.settings.snat_addresses) {
            let key = EndpointKey::new(snat, backend.address, backend_port, UDP);
            if backend.snat_mask >> place & 1 == 1
                && let Some(slot) = self.model.endpoints.get(&key)
            {
                places.push((place, slot * count));
            }
        }
        let available = |index: &u32| self.model.is_available(*index, self.now);
        let right: Vec<(u8, u32)> = places
            .iter()
            .flat_map(|(place, first)| (*first..first + count).map(move |index| (*place, index)))
            .filter(|(_, index)| available(index))
            .collect();
        if right.is_empty() {
            self.model.saw("ports exhausted");
            return Err(Outcome::Drop(DropReason::SnatPortsExhausted));
        }
        // The records say what was chosen, whatever became of the packet afterwards.
        let taken = right.iter().find(|(_, index)| {
            let record = self.tables.record(*index);
            record.claim != self.model.records[*index as usize].claim
        });
        let Some(&(place, index)) = taken else {
            self.complain(format!(
                "no SNAT port was taken for {id:?}, though {} are free",
                right.len()
            ));
            return Err(Outcome::Pass);
        };
        let own = self.model.port_offset(id.1).map(|offset| {
            let (_, first) = places.iter().find(|(p, _)| *p == place).expect("its place");
            first + offset
        });
        if let Some(own) = own
            && available(&own)
            && own != index
        {
            self.complain(format!(
                "port {} was free, and port {} was taken",
                id.1,
                u32::from(first) + index % count
            ));
        }
        self.model.saw(if own == Some(index) {
            "own port kept"
        } else {
            "another port taken"
        });
        let old = claim(&self.model.records[index as usize]);
        let generation = old.generation.wrapping_add(1);
        let flow = Flow {
            record: index,
            generation,
            backend: chosen,
            snat_port: first + (index % count) as u16,
            backend_port,
            snat_address: place,
            service: service.id as u8,
        };
        self.model.records[index as usize] = Record {
            claim: word(Claim {
                generation,
                backend: chosen,
                state: LIVE,
            }),
            client: id.0,
            vip: id.2,
            client_port: id.1,
            vip_port: id.3,
            last_seen: self.now,
            client_mac: ip.source_mac,
            vlan: vlan(ip),
            service: service.id as u8,
            interface: self.place,
            replied: 0,
            _reserved: 0,
        };
        Ok(flow)
    }

    fn forward_to_backend(
        &mut self,
        ip: &Ip,
        ports: Option<[u16; 2]>,
        flow: &Flow,
    ) -> Stop<Outcome> {
        self.model.saw("forward");
        let to = self.to_backend(flow)?;
        let fragment = Fragment {
            record: flow.record,
            generation: flow.generation,
            direction: Fragment::FORWARD,
            seen: self.now,
            identification: 0,
            _reserved: 0,
        };
        let outcome = self.forward(ip, ports, &to, fragment)?;
        let bytes = (ip.l3 + ip.len) as u64;
        self.model.count_both(flow.service, flow.backend, |c| {
            c.packets_in += 1;
            c.bytes_in += bytes;
        });
        Ok(outcome)
    }

    /// A piece without ports goes where the first one went.
    fn later_piece(&mut self, ip: &Ip) -> Stop<Outcome> {
        let piece = ip.piece.ok_or(Outcome::Pass)?;
        let key = (ip.source, ip.destination, piece.identification);
        let now = self.now;
        let entry = self.model.fragments.get(&key).copied();
        let entry = entry.filter(|e| now.saturating_sub(e.seen) <= FRAGMENT_LIFETIME_S);
        let Some(entry) = entry else {
            self.model.saw("a later piece alone");
            return Err(if self.model.is_vip(&ip.destination) {
                Outcome::Drop(DropReason::Fragment)
            } else {
                Outcome::Pass
            });
        };
        if entry.direction == Fragment::HOST {
            return Err(Outcome::Pass);
        }
        let no_flow = Outcome::Drop(DropReason::NoFlow);
        let record = self.model.records[entry.record as usize];
        let claim = claim(&record);
        if claim.generation != entry.generation || !matches!(claim.state, LIVE | CLOSING) {
            self.model.saw(if claim.state == LIVE {
                "a later piece of a port's former flow"
            } else {
                "a later piece of an ended flow"
            });
            return Err(no_flow);
        }
        self.model.saw("a later piece follows");
        self.model.revive(entry.record);
        if entry.direction == Fragment::REPLY {
            self.replied(entry.record);
            let to = self.to_client(entry.record)?;
            let outcome = self.forward(ip, None, &to, entry)?;
            let bytes = (ip.l3 + ip.len) as u64;
            self.model.count_both(record.service, claim.backend, |c| {
                c.packets_out += 1;
                c.bytes_out += bytes;
            });
            return Ok(outcome);
        }
        let id = (
            record.client,
            record.client_port,
            record.vip,
            record.vip_port,
        );
        let Some(flow) = self.model.living(&id) else {
            return Err(no_flow);
        };
        if !self.may_stay(&flow) {
            return Err(no_flow);
        }
        self.seen_from_client(ip, &flow);
        let to = self.to_backend(&flow)?;
        let outcome = self.forward(ip, None, &to, entry)?;
        let bytes = (ip.l3 + ip.len) as u64;
        self.model.count_both(flow.service, flow.backend, |c| {
            c.packets_in += 1;
            c.bytes_in += bytes;
        });
        Ok(outcome)
    }

    /// Translates a packet and sends it on. The first piece of a datagram is remembered as
    /// `fragment`; later ones, which have no ports, leave with its identification.
    fn forward(
        &mut self,
        ip: &Ip,
        ports: Option<[u16; 2]>,
        to: &Translation,
        mut fragment: Fragment,
    ) -> Stop<Outcome> {
        if ip.ttl <= 1 {
            self.model.saw("TTL expired");
            return Err(Outcome::Drop(DropReason::TtlExpired));
        }
        if to.mtu != 0 && ip.len > usize::from(to.mtu) {
            self.model.saw("too big");
            return Err(self.too_big(ip, to.mtu));
        }
        if let Some(piece) = ip.piece
            && ports.is_some()
        {
            fragment.identification = self.first_piece(ip, piece, &fragment);
        }
        let mut packet = self.frame[ip.l3..].to_vec();
        let identification = ip.piece.map(|_| fragment.identification);
        translate_ip(&mut packet, ip, to, identification);
        if ports.is_some() {
            translate_udp(&mut packet, ip.l4 - ip.l3, ip, to);
        }
        Ok(leave(packet, ip.v6, to))
    }

    /// Follows the program's choice of the identification that a datagram leaves with: one that no
    /// other has, since pieces keep together by it.
    fn first_piece(&mut self, ip: &Ip, piece: wire::Piece, fragment: &Fragment) -> u32 {
        let key = (ip.source, ip.destination, piece.identification);
        let written = self.tables.fragment(&FragmentKey::new(key.0, key.1, key.2));
        let Some(Fragment { identification, .. }) = written else {
            self.complain("a first piece was not remembered".to_owned());
            return 0;
        };
        if !ip.v6 && identification > 0xffff {
            self.complain(format!("{identification} is no IPv4 identification"));
        }
        if !self.model.numbered.insert((ip.v6, identification)) {
            self.complain(format!("identification {identification} is given again"));
        }
        let remembered = Fragment {
            identification,
            ..*fragment
        };
        self.model.fragments.insert(key, remembered);
        self.model.saw("a first piece");
        identification
    }

    /// The error that tells the sender how large its packets may be; sent where they come from.
    fn too_big(&mut self, ip: &Ip, mtu: u16) -> Outcome {
        let packet = &self.frame[ip.l3..ip.l3 + ip.len];
        let message = if ip.v6 {
            let quoted = &packet[..QUOTED_V6.min(packet.len())];
            [&[2, 0, 0, 0, 0, 0], &mtu.to_be_bytes()[..], quoted].concat()
        } else {
            // Only a way out that carries less than any host must take leaves too little to quote.
            // Errors about later pieces are not sent (RFC 1122 section 3.2.2).
            if packet.len() < QUOTED_V4 || ip.is_later_piece() {
                self.model.saw("too big without an answer");
                return Outcome::Drop(DropReason::TooBig);
            }
            let quoted = &packet[..QUOTED_V4];
            [&[3, 4, 0, 0, 0, 0], &mtu.to_be_bytes()[..], quoted].concat()
        };
        let (from, to) = (ip.destination, ip.source);
        let answer = answer(ip, from, to, message);
        let mac = self.model.settings.interfaces[usize::from(self.place)].mac;
        let mut frame = [ip.source_mac, mac].concat();
        for (ether_type, control) in &ip.tags {
            frame.extend(ether_type.to_be_bytes());
            frame.extend(control.to_be_bytes());
        }
        frame.extend(if ip.v6 { wire::IPV6 } else { wire::IPV4 }.to_be_bytes());
        frame.extend(answer);
        Outcome::Leave {
            action: XDP_TX,
            frame,
            counted: Some(DropReason::TooBig),
        }
    }

    /// An ICMP error about a packet of a flow goes the way of the flow, from the other end.
    fn icmp(&mut self, ip: &Ip) -> Stop<Outcome> {
        if ip.piece.is_some() {
            return Err(Outcome::Pass);
        }
        let about = self.embedded(ip).ok_or(Outcome::Pass)?;
        if ip.destination != about.source.0 {
            return Err(Outcome::Pass);
        }
        let (to, outer_source, unreachable) = self.way_of_error(ip, &about)?;
        if let Some(backend) = unreachable {
            self.model.saw("port unreachable");
            self.model
                .count(FIRST_BACKEND_COUNTER + u32::from(backend), |c| {
                    c.unreachable += 1;
                });
        }
        if ip.ttl <= 1 {
            return Err(Outcome::Drop(DropReason::TtlExpired));
        }
        self.model.saw("ICMP error");
        let mut packet = self.frame[ip.l3..].to_vec();
        let old_message = message_of(&packet, ip);
        // The embedded packet went the other way.
        let embedded_to = Translation {
            source: to.destination,
            destination: to.source,
            ..to
        };
        let at = about.at - ip.l3;
        let inside = Ip {
            l3: at,
            l4: about.l4 - ip.l3,
            source: about.source.0,
            destination: about.destination.0,
            ..ip.clone()
        };
        let mut embedded = packet[at..].to_vec();
        translate_addresses(&mut embedded, &inside, &embedded_to);
        translate_udp(&mut embedded, inside.l4 - at, &inside, &embedded_to);
        packet[at..].copy_from_slice(&embedded);
        let outer_to = Translation {
            source: (outer_source, 0),
            destination: (to.destination.0, 0),
            ..to
        };
        let new_message = message_of(&packet, ip);
        let checksum_at = ip.l4 - ip.l3 + 2;
        let mut checksum = u16_at(&packet, checksum_at).unwrap_or(0);
        checksum = wire::changed(checksum, &old_message, &new_message);
        if ip.v6 {
            checksum = wire::changed(
                checksum,
                &addresses(&ip.source, &ip.destination),
                &addresses(&outer_to.source.0, &outer_to.destination.0),
            );
        }
        packet[checksum_at..checksum_at + 2].copy_from_slice(&checksum.to_be_bytes());
        translate_ip(&mut packet, ip, &outer_to, None);
        Ok(leave(packet, ip.v6, &outer_to))
    }

    /// Returns the way of an error, its source address from then on, and the backend that says of
    /// itself that nothing listens there.
    fn way_of_error(&self, ip: &Ip, about: &Embedded) -> Stop<(Translation, Address, Option<u16>)> {
        let (snat, destination) = (about.source, about.destination);
        let index = self
            .model
            .record_index(snat.0, snat.1, destination.0, destination.1);
        if let Some(index) = index {
            let record = self.model.records[index as usize];
            let claim = claim(&record);
            if matches!(claim.state, LIVE | CLOSING) {
                let to = self.to_client(index)?;
                let kind = (self.frame[ip.l4], self.frame[ip.l4 + 1]);
                let unreachable = kind == if ip.v6 { (1, 4) } else { (3, 3) };
                let itself = ip.source == destination.0;
                let backend = (unreachable && itself).then_some(claim.backend);
                return Ok((to, record.vip, backend));
            }
        }
        let id = (destination.0, destination.1, snat.0, snat.1);
        let flow = self.model.living(&id).ok_or(Outcome::Pass)?;
        let to = self.to_backend(&flow)?;
        let source = to.source.0;
        Ok((to, source, None))
    }

    /// Reads the packet that an ICMP error is about.
    fn embedded(&self, ip: &Ip) -> Option<Embedded> {
        let frame = self.frame;
        let kind = *frame.get(ip.l4)?;
        let errors: &[u8] = if ip.v6 { &[1, 2, 3, 4] } else { &[3, 11, 12] };
        if !errors.contains(&kind) {
            return None;
        }
        let at = ip.l4 + 8;
        let (l4, source, destination) = if ip.v6 {
            let header = frame.get(at..at + 40)?;
            let (protocol, l4) = match header[6] {
                wire::FRAGMENT => {
                    let fragment = frame.get(at + 40..at + 48)?;
                    if u16_at(fragment, 2)? >> 3 != 0 {
                        return None;
                    }
                    (fragment[0], at + 48)
                }
                protocol => (protocol, at + 40),
            };
            if header[0] >> 4 != 6 || protocol != UDP {
                return None;
            }
            (
                l4,
                header[8..24].try_into().ok()?,
                header[24..40].try_into().ok()?,
            )
        } else {
            let header = frame.get(at..at + 20)?;
            let header_len = usize::from(header[0] & 0xf) * 4;
            let offset = u16_at(header, 6)? & 0x1fff;
            if header[0] >> 4 != 4 || header_len < 20 || header[9] != UDP || offset != 0 {
                return None;
            }
            (
                at + header_len,
                wire::mapped(&header[12..16]),
                wire::mapped(&header[16..20]),
            )
        };
        // What lies behind the packet is not covered by its checksum.
        if l4 + 8 > ip.l3 + ip.len {
            return None;
        }
        frame.get(l4..l4 + 8)?;
        Some(Embedded {
            at,
            l4,
            source: (source, u16_at(frame, l4)?),
            destination: (destination, u16_at(frame, l4 + 2)?),
        })
    }

    fn complain(&mut self, complaint: String) {
        self.complaint.get_or_insert(complaint);
    }
}

/// The packet inside an ICMP error.
struct Embedded {
    /// Bytes before it, and before its UDP header.
    at: usize,
    l4: usize,
    source: (Address, u16),
    destination: (Address, u16),
}

/// Returns what an ICMP checksum covers, without the checksum and the pseudo-header.
fn message_of(packet: &[u8], ip: &Ip) -> Vec<u8> {
    let mut message = packet[ip.l4 - ip.l3..].to_vec();
    message[2..4].fill(0);
    message
}

/// Writes addresses, TTL and identification into an IP packet.
fn translate_ip(packet: &mut [u8], ip: &Ip, to: &Translation, identification: Option<u32>) {
    let ttl_at = if ip.v6 { 7 } else { 8 };
    if ip.v6 {
        packet[ttl_at] -= 1;
        if let (Some(piece), Some(identification)) = (ip.piece, identification) {
            let at = piece.identification_at - ip.l3;
            packet[at..at + 4].copy_from_slice(&identification.to_be_bytes());
        }
    } else {
        let old = packet[..12].to_vec();
        packet[ttl_at] -= 1;
        if let Some(identification) = identification {
            packet[4..6].copy_from_slice(&(identification as u16).to_be_bytes());
        }
        let checksum = u16_at(packet, 10).unwrap_or(0);
        let checksum = wire::changed(checksum, &old[..10], &packet[..10]);
        packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    }
    translate_addresses(packet, ip, to);
}

/// Writes addresses into an IP packet, and only them.
fn translate_addresses(packet: &mut [u8], ip: &Ip, to: &Translation) {
    let new = addresses(&to.source.0, &to.destination.0);
    if ip.v6 {
        packet[8..40].copy_from_slice(&new);
        return;
    }
    let checksum = u16_at(packet, 10).unwrap_or(0);
    let checksum = wire::changed(checksum, &packet[12..20], &new);
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet[12..20].copy_from_slice(&new);
}

/// Writes ports and checksum into the UDP header at `at`.
fn translate_udp(packet: &mut [u8], at: usize, ip: &Ip, to: &Translation) {
    let ports = [to.source.1.to_be_bytes(), to.destination.1.to_be_bytes()].concat();
    let old = [
        addresses(&ip.source, &ip.destination),
        packet[at..at + 4].to_vec(),
    ];
    let new = [addresses(&to.source.0, &to.destination.0), ports.clone()];
    let checksum = u16_at(packet, at + 6).unwrap_or(0);
    let checksum = wire::changed_udp(checksum, &old.concat(), &new.concat());
    packet[at..at + 4].copy_from_slice(&ports);
    packet[at + 6..at + 8].copy_from_slice(&checksum.to_be_bytes());
}

/// Puts the link's headers before a packet.
fn leave(packet: Vec<u8>, v6: bool, to: &Translation) -> Outcome {
    let mut frame = [to.destination_mac, to.source_mac].concat();
    let VlanTags {
        outer_protocol,
        control: [outer, inner],
    } = to.vlan;
    if outer_protocol != 0 {
        frame.extend(outer_protocol.to_be_bytes());
        frame.extend(outer.to_be_bytes());
        if inner != 0xffff {
            frame.extend(wire::VLAN.to_be_bytes());
            frame.extend(inner.to_be_bytes());
        }
    }
    frame.extend(if v6 { wire::IPV6 } else { wire::IPV4 }.to_be_bytes());
    frame.extend(packet);
    let action = if to.interface == INGRESS {
        XDP_TX
    } else {
        XDP_REDIRECT
    };
    Outcome::Leave {
        action,
        frame,
        counted: None,
    }
}

/// Returns an ICMP error of the node itself: the IP packet.
fn answer(ip: &Ip, from: Address, to: Address, mut message: Vec<u8>) -> Vec<u8> {
    let mut covered = if ip.v6 {
        wire::pseudo_header(&from, &to, wire::ICMPV6, message.len())
    } else {
        Vec::new()
    };
    covered.extend(&message);
    let checksum = !wire::sum(&covered);
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    let mut packet = if ip.v6 {
        let mut header = vec![0x60, 0, 0, 0];
        header.extend((message.len() as u16).to_be_bytes());
        header.extend([wire::ICMPV6, 64]);
        header
    } else {
        let mut header = vec![0x45, 0xc0];
        header.extend((20 + message.len() as u16).to_be_bytes());
        header.extend([0, 0, 0, 0, 64, ICMP, 0, 0]);
        header
    };
    packet.extend(addresses(&from, &to));
    if !ip.v6 {
        let checksum = !wire::sum(&packet);
        packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    }
    packet.extend(message);
    packet
}

/// Returns the tags of a packet as records hold them.
fn vlan(ip: &Ip) -> VlanTags {
    let control = |place: usize| ip.tags.get(place).map_or(0xffff, |tag| tag.1);
    VlanTags {
        outer_protocol: ip.tags.first().map_or(0, |tag| tag.0),
        control: [control(0), control(1)],
    }
}

/// Returns what counts as one source: an IPv4 address, or the first 64 bits of an IPv6 address.
fn source_of(address: &Address) -> Address {
    let mut source = *address;
    if !is_v4(address) {
        source[8..].fill(0);
    }
    source
}

/// A token bucket.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Bucket {
    /// Of a service and a source.
    Source(u16, Address),
    Service(u16),
}

/// Token buckets in real time: for each the earliest and the latest moment, in nanoseconds, at
/// which it may be full again.
#[derive(Clone, Debug, Default)]
pub(crate) struct Buckets {
    full_at: BTreeMap<Bucket, (u64, u64)>,
}

/// Whether a token may be taken.
enum May {
    Only(bool),
    Either,
}

const SECOND_NS: u64 = 1_000_000_000;

impl Buckets {
    fn may_take(&self, bucket: Bucket, (before, after): (u64, u64), rate: u32) -> May {
        let (earliest, latest) = self.full_at.get(&bucket).copied().unwrap_or((0, 0));
        let token = SECOND_NS / u64::from(rate);
        let possible = earliest.max(after) + token - after <= SECOND_NS;
        let certain = latest.max(before) + token - before <= SECOND_NS;
        match (possible, certain) {
            (_, true) => May::Only(true),
            (false, _) => May::Only(false),
            (true, false) => May::Either,
        }
    }

    fn took(&mut self, bucket: Bucket, (before, after): (u64, u64), rate: u32, taken: bool) {
        let token = SECOND_NS / u64::from(rate);
        let (earliest, latest) = self.full_at.entry(bucket).or_insert((0, 0));
        if taken {
            *earliest = (*earliest).max(before) + token;
            *latest = ((*latest).max(after) + token).min(after + SECOND_NS);
        } else {
            *earliest = (*earliest).max(before + SECOND_NS - token);
            *latest = (*latest).max(*earliest);
        }
    }

    /// Forgets everything: the program was loaded anew, with empty tables of its own.
    pub(crate) fn clear(&mut self) {
        self.full_at.clear();
    }

    /// Returns the services and sources that have taken tokens.
    pub(crate) fn sources(&self) -> impl Iterator<Item = (u16, Address)> {
        self.full_at.keys().filter_map(|bucket| match bucket {
            Bucket::Source(service, source) => Some((*service, *source)),
            Bucket::Service(_) => None,
        })
    }

    /// Forgets the sources: with another seed they have other buckets, which are full.
    pub(crate) fn forget_sources(&mut self) {
        self.full_at
            .retain(|bucket, _| matches!(bucket, Bucket::Service(_)));
    }
}

#[test]
fn the_hash_is_the_one_that_nodes_agree_on() {
    let client = wire::mapped(&[10, 1, 2, 3]);
    assert_eq!(hash(&client, None), 0x782b_0735);
    assert_eq!(hash(&client, Some(51_000)), 0xa5ec_f220);
}

#[test]
fn an_address_is_cut_to_its_family_s_prefix() {
    let service = Service {
        ipv4_prefix: 96 + 24,
        ipv6_prefix: 64,
        ..crate::generate::MARKER
    };
    let v4 = wire::mapped(&[10, 1, 2, 3]);
    assert_eq!(cut(&v4, &service), wire::mapped(&[10, 1, 2, 0]));
    assert_eq!(cut(&[0xfd; 16], &service)[8..], [0; 8]);
    assert_eq!(cut(&[0xfd; 16], &service)[..8], [0xfd; 8]);
}
