//! Random sites and random sequences, drawn from a seed.
//!
//! Everything is small on purpose: few clients, few ports, small SNAT ranges, so that what is rare
//! in a network happens in every sequence. Replies, pieces and errors are drawn from what the
//! model knows, as a backend or a router would send them, and then spoilt now and then.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use lb_common::{
    backend::{Backend, VlanTags},
    endpoint::{Endpoint, EndpointKey},
    fragment::Fragment,
    guard::Range,
    pool::Pool,
    record::Record,
    service::{Service, ServiceKey},
    settings::{Interface, Settings},
};
use lb_userspace::dataplane::image::MapOp;

use crate::{
    model::{CLOSING, FREE, INGRESS, LIVE, Model, claim},
    packet::{Checksum, Extension, Header, Link, icmp, icmp_protocol, udp},
    wire::{
        Address, DESTINATION_OPTIONS, FRAGMENT, HOP_BY_HOP, ROUTING, SERVICE_VLAN, Tags, UDP, VLAN,
        is_v4, mapped,
    },
};

/// Room of the site: records, entries of each flow table, clients.
pub(crate) const MAX_FLOWS: u32 = 2048;
pub(crate) const MAX_AFFINITY: u32 = 256;
/// Ranges in each half of `ranges`.
pub(crate) const HALF_RANGES: u32 = 131_072;

/// Pools by number, with the halves of their tables: IPv4, then IPv6.
pub(crate) const POOLS: [u16; 4] = [1, 2, 3, 4];
/// Backends of a pool have the numbers from sixteen times its own on.
const POOL_NUMBERS: u16 = 16;
const MOST_BACKENDS: u64 = 4;

/// Timeouts. Short ones: a machine that has just started can be told that they have passed.
const FLOW_TIMEOUT_S: u32 = 20;
pub(crate) const UNREPLIED_TIMEOUT_S: u32 = 8;

const MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x05];
const OTHER_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x95];
/// The index of an interface that frames leave by, and that does not exist.
const OTHER_INTERFACE: u32 = 7;

/// An address and a port.
type Port = (Address, u16);

/// Numbers that look random, from a seed (SplitMix64).
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Returns a number below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// Returns whether something happens that does once in `times`.
    pub(crate) fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    pub(crate) fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize].clone()
    }

    fn bytes(&mut self, len: u64) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }
}

/// One step of a sequence.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// A frame comes in.
    Frame(Vec<u8>),
    /// The daemon changes maps.
    Change(Vec<MapOp>),
    /// Time passes, in seconds.
    Age(u32),
    /// The daemon sweeps.
    Sweep,
    /// The daemon is replaced: the program is loaded again, on the same maps.
    Reload,
    /// A table is filled up, or made free again: IPv4 flows, IPv6 flows, affinity.
    Fill(usize, bool),
}

/// A site as it is when its sequence begins.
pub(crate) struct Plan {
    pub(crate) settings: Settings,
    pub(crate) operations: Vec<MapOp>,
}

/// Draws a site and its sequence.
pub(crate) struct Generator {
    random: Random,
    clients: Vec<Address>,
    ports: Vec<u16>,
    vips: Vec<Address>,
    /// Pieces of datagrams that are on their way.
    pieces: Vec<Vec<u8>>,
    /// Services that were taken away.
    removed: Vec<(ServiceKey, Service)>,
    /// Steps that belong together, the next one last.
    plot: Vec<Step>,
    next_slot: u32,
    /// Half of the ranges that is in use.
    ranges_half: u32,
    reloads: bool,
    steps: u64,
}

/// No service: the value of a VIP's marker.
pub(crate) const MARKER: Service = Service {
    id: 0,
    pool: 0,
    backend_port: 0,
    flags: 0,
    group: 0,
    affinity_timeout_s: 0,
    ipv4_prefix: 0,
    ipv6_prefix: 0,
    _reserved: [0; 2],
    ranges_first: 0,
    ranges_count: 0,
    new_flows_per_second: 0,
    new_flows_per_source: 0,
    name: [0; 64],
};

fn v6(high: u16, net: u16, host: u16) -> Address {
    let mut address = [0; 16];
    address[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
    address[4..6].copy_from_slice(&high.to_be_bytes());
    address[6..8].copy_from_slice(&net.to_be_bytes());
    address[14..].copy_from_slice(&host.to_be_bytes());
    address
}

fn vips(v4: bool) -> [Address; 2] {
    if v4 {
        [mapped(&[10, 20, 90, 105]), mapped(&[10, 20, 90, 106])]
    } else {
        [v6(0x20, 0, 0x105), v6(0x20, 0, 0x106)]
    }
}

fn backend_address(v4: bool, number: u64) -> Address {
    if v4 {
        mapped(&[10, 11, 20, 101 + number as u8])
    } else {
        v6(0x11, 0, 0x101 + number as u16)
    }
}

fn snat_address(v4: bool, number: u64) -> Address {
    if v4 {
        mapped(&[10, 11, 20, 5 + number as u8])
    } else {
        v6(0x11, 0, 5 + number as u16)
    }
}

/// Returns a table of a pool: mostly its own backends, some slots of nobody and of others.
pub(crate) fn table(pool: u16, random: &mut Random) -> Arc<[u32]> {
    let own = u32::from(pool * POOL_NUMBERS);
    (0..16_381)
        .map(|_| match random.next() {
            drawn if drawn % 16 == 0 => u32::MAX,
            drawn if drawn % 16 == 1 => (own + 9) ^ ((drawn >> 8) as u32 & 0x30),
            drawn => own + (drawn >> 8) as u32 % 4,
        })
        .collect()
}

impl Generator {
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        // A seed and the next one have nothing in common.
        random = Random::new(random.next());
        let reloads = random.once_in(100);
        let steps = 60 + random.below(140);
        Self {
            random,
            clients: Vec::new(),
            ports: Vec::new(),
            vips: Vec::new(),
            pieces: Vec::new(),
            removed: Vec::new(),
            plot: Vec::new(),
            next_slot: 0,
            ranges_half: 0,
            reloads,
            steps,
        }
    }

    /// Returns how many steps the sequence has.
    pub(crate) fn steps(&self) -> u64 {
        self.steps
    }

    /// Draws the site.
    pub(crate) fn plan(&mut self) -> Plan {
        let settings = self.settings();
        let mut services = BTreeMap::new();
        let mut operations = Vec::new();
        let limited = self.random.once_in(6);
        let listed = self.random.once_in(3);
        let families = self
            .random
            .pick(&[[true, true], [false, false], [true, false]]);
        let mut ids = BTreeSet::new();
        for number in 0..1 + self.random.below(3) {
            let v4 = families[number as usize % 2];
            let key = ServiceKey::new(
                self.random.pick(&vips(v4)),
                self.random
                    .pick(&[443, 443, 444, settings.snat_port_first + 1]),
                UDP,
            );
            let service = self.service(v4, limited);
            if !services.contains_key(&key) && ids.insert(service.id) {
                services.insert(key, service);
            }
        }
        let used: BTreeSet<u16> = services.values().map(|service| service.pool).collect();
        let mut backends = BTreeMap::new();
        for pool in POOLS {
            if used.contains(&pool) || self.random.once_in(2) {
                backends.extend(self.backends(pool, &settings));
            }
        }
        for pool in used {
            operations.push(MapOp::Pool(pool, Box::new(self.pool(pool, &backends))));
        }
        operations.extend(self.endpoints(&settings, &services, &backends));
        for (id, backend) in backends {
            operations.push(MapOp::Backend(id, Box::new(backend)));
        }
        let mut ranges = Vec::new();
        for (key, service) in &mut services {
            if listed && !self.random.once_in(3) {
                self.list(service, 0, &mut ranges);
            }
            operations.push(MapOp::Service(*key, Box::new(*service)));
            let marker = ServiceKey::new(key.vip, 0, 0);
            operations.push(MapOp::Service(marker, Box::new(MARKER)));
            self.vips.push(key.vip);
        }
        self.people(&settings);
        operations.push(MapOp::Ranges {
            half: 0,
            entries: ranges.into(),
        });
        Plan {
            settings,
            operations,
        }
    }

    fn settings(&mut self) -> Settings {
        let mut settings = Settings {
            flow_timeout_s: FLOW_TIMEOUT_S,
            quarantine_s: 10,
            snat_port_first: self.random.pick(&[20_000, 1024, 65_536_u32 - 64]) as u16,
            snat_port_count: self.random.pick(&[8, 9, 16, 31, 64]),
            ..Settings::default()
        };
        settings.slots = MAX_FLOWS / u32::from(settings.snat_port_count);
        let mut places: Vec<usize> = (0..8).collect();
        for v4 in [true, false] {
            for number in 0..1 + self.random.below(2) {
                let place = places.remove(self.random.below(places.len() as u64) as usize);
                settings.snat_addresses[place] = snat_address(v4, number);
                let count = settings.snat_address_count.max(place as u32 + 1);
                settings.snat_address_count = count;
            }
        }
        let mut places: Vec<usize> = (0..8).collect();
        for (index, mac) in [(INGRESS, MAC), (OTHER_INTERFACE, OTHER_MAC)] {
            let place = places.remove(self.random.below(places.len() as u64) as usize);
            let mtu = self.random.pick(&[0, 1280, 1400, 1500, 1500, 9000]);
            settings.interfaces[place] = Interface { index, mac, mtu };
        }
        settings
    }

    fn service(&mut self, v4: bool, limited: bool) -> Service {
        let pool = if v4 { [1, 1, 2] } else { [3, 3, 4] };
        let pool = self.random.pick(&pool);
        let rates = if limited { [0, 1, 3, 7, 40] } else { [0; 5] };
        Service {
            id: self.random.below(256) as u16,
            pool,
            backend_port: self.random.pick(&[443, 8443]),
            flags: u16::from(!self.random.once_in(4)),
            group: u32::from(if self.random.once_in(5) { 9 } else { pool }),
            affinity_timeout_s: self.random.pick(&[5, 30, 60]),
            ipv4_prefix: self.random.pick(&[128, 128, 120, 97, 127]),
            ipv6_prefix: self.random.pick(&[128, 128, 64, 48, 127, 1]),
            new_flows_per_second: self.random.pick(&rates),
            new_flows_per_source: self.random.pick(&rates),
            ..MARKER
        }
    }

    fn backends(&mut self, pool: u16, settings: &Settings) -> Vec<(u16, Backend)> {
        let v4 = pool <= 2;
        // The two pools of a family have some backends in common, with other numbers.
        let shift = u64::from(pool % 2);
        let count = 1 + self.random.below(MOST_BACKENDS);
        (0..count)
            .map(|number| {
                let id = pool * POOL_NUMBERS + number as u16;
                let elsewhere = self.random.once_in(4);
                let mut name = [0; 64];
                name[..5].copy_from_slice(format!("b{id:04}").as_bytes());
                let backend = Backend {
                    address: backend_address(v4, number + shift),
                    interface: if elsewhere { OTHER_INTERFACE } else { INGRESS },
                    mac: [0x02, 0, 0, 1, pool as u8, number as u8],
                    source_mac: if elsewhere { OTHER_MAC } else { MAC },
                    vlan: vlan_tags(&self.tags()),
                    mtu: if v4 {
                        self.random.pick(&[0, 300, 576, 1280, 1500, 1500])
                    } else {
                        self.random.pick(&[0, 1280, 1500, 1500])
                    },
                    port: self.random.pick(&[0, 0, 443, 9443]),
                    pool,
                    snat_mask: self.snat_mask(v4, settings),
                    health: u8::from(!self.random.once_in(8)),
                    admin: self.random.pick(&[0, 0, 0, 0, 0, 0, 1, 2]),
                    reachable: u8::from(!self.random.once_in(12)),
                    present: 1,
                    full: u8::from(self.random.once_in(12)),
                    name,
                    ..Backend::FREE
                };
                (id, backend)
            })
            .collect()
    }

    fn snat_mask(&mut self, v4: bool, settings: &Settings) -> u8 {
        let all: u8 = (0..8)
            .filter(|place| {
                let address = settings.snat_addresses[*place];
                address != [0; 16] && is_v4(&address) == v4
            })
            .map(|place| 1 << place)
            .sum();
        match self.random.next() as u8 & all {
            0 => all,
            some => some,
        }
    }

    fn pool(&mut self, pool: u16, backends: &BTreeMap<u16, Backend>) -> Pool {
        let own = backends.iter().filter(|(_, b)| b.pool == pool);
        let mut members = [0; 64];
        let mut count = 0;
        for (id, _) in own {
            // Some drain or have no share.
            if !self.random.once_in(6) {
                members[count] = *id;
                count += 1;
            }
        }
        Pool {
            half: self.random.below(2) as u32,
            eligible: count as u32,
            member_count: count as u32,
            members,
            name: [b'p'; 64],
        }
    }

    /// Gives a slot to each pair of addresses that a flow may need; leaves one out now and then.
    fn endpoints(
        &mut self,
        settings: &Settings,
        services: &BTreeMap<ServiceKey, Service>,
        backends: &BTreeMap<u16, Backend>,
    ) -> Vec<MapOp> {
        let mut keys = BTreeSet::new();
        for service in services.values() {
            for backend in backends.values().filter(|b| b.pool == service.pool) {
                keys.extend(endpoint_keys(settings, backend, service.backend_port));
            }
        }
        keys.retain(|_| !self.random.once_in(40));
        keys.into_iter()
            .filter_map(|key| self.endpoint(settings, key))
            .collect()
    }

    fn endpoint(&mut self, settings: &Settings, key: EndpointKey) -> Option<MapOp> {
        let slot = self.next_slot;
        (slot < settings.slots).then(|| {
            self.next_slot += 1;
            MapOp::Endpoint(key, Endpoint { slot })
        })
    }

    /// Gives a service a list of the clients that it takes.
    fn list(&mut self, service: &mut Service, half: u32, ranges: &mut Vec<Range>) {
        let edges = [
            mapped(&[0, 0, 0, 0]),
            mapped(&[192, 0, 2, 0]),
            mapped(&[192, 0, 2, 11]),
            mapped(&[192, 0, 2, 12]),
            mapped(&[198, 51, 100, 0]),
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0],
            v6(2, 0, 0),
            v6(2, 0, 0x11),
            v6(2, 1, 0),
            [0xff; 16],
        ];
        let mut starts = BTreeSet::from([[0; 16]]);
        for _ in 0..self.random.below(6) {
            starts.insert(self.random.pick(&edges));
        }
        service.ranges_first = half * HALF_RANGES + ranges.len() as u32;
        service.ranges_count = starts.len() as u32;
        ranges.extend(starts.into_iter().map(|start| Range {
            start,
            blocked: u32::from(self.random.once_in(3)),
            _reserved: 0,
        }));
    }

    /// Draws the clients and ports of the sequence; some backends are clients as well.
    fn people(&mut self, settings: &Settings) {
        self.clients = vec![
            mapped(&[192, 0, 2, 10]),
            mapped(&[192, 0, 2, 11]),
            mapped(&[192, 0, 3, 10]),
            v6(2, 0, 0x10),
            v6(2, 0, 0x11),
            v6(2, 1, 0x10),
        ];
        for v4 in [true, false] {
            if self.random.once_in(3) {
                let number = self.random.below(MOST_BACKENDS);
                self.clients.push(backend_address(v4, number));
            }
        }
        let first = settings.snat_port_first;
        let last = first + (settings.snat_port_count - 1);
        self.ports = vec![first, first + 1, first + 2, last, 443, 53, 8443, 65_535, 0];
        let crowd = self.random.below(12);
        for _ in 0..crowd {
            let port = first + self.random.below(u64::from(settings.snat_port_count)) as u16;
            self.ports.push(port);
        }
        self.vips.sort_unstable();
        self.vips.dedup();
    }

    /// Draws the next step; `model` is what there is.
    pub(crate) fn step(&mut self, model: &Model) -> Step {
        if self.plot.is_empty() && self.random.once_in(60) {
            self.take_over(model);
        }
        if let Some(step) = self.plot.pop() {
            return step;
        }
        match self.random.below(1000) {
            0..600 => self.datagram(model),
            600..700 => self.piece(model),
            700..760 => self.error(model),
            760..780 => self.noise(model),
            780..830 => Step::Age(
                self.random
                    .pick(&[1, 1, 2, 5, 9, 10, 11, 16, 17, 21, 31, 40, 80]),
            ),
            830..860 => Step::Sweep,
            860..864 => self.fill(model),
            864..868 if self.reloads => Step::Reload,
            _ => self.change(model),
        }
    }

    /// A packet of a client or a backend: whole, and right or spoilt.
    fn datagram(&mut self, model: &Model) -> Step {
        let (link, header, ports) = self.somebody(model);
        let checksum = self.random.pick(&CHECKSUMS);
        let len = if self.random.once_in(10) {
            self.edge(header.packet(UDP, &[]).len() as u64 + 8)
        } else {
            self.payload_len()
        };
        let payload = self.random.bytes(len);
        let datagram = udp(&header, ports.0, ports.1, checksum, &payload);
        let frame = link.frame(header.is_v6(), &header.packet(UDP, &datagram));
        Step::Frame(self.spoilt(frame, &link, &header))
    }

    /// Returns the length of a payload that, behind so many bytes of headers, is just as large as
    /// some way out carries, or a byte more or less.
    fn edge(&mut self, headers: u64) -> u64 {
        let mtu = self.random.pick(&[300, 548, 576, 1280, 1400, 1500]);
        (mtu - 1 + self.random.below(3)).saturating_sub(headers)
    }

    fn payload_len(&mut self) -> u64 {
        match self.random.below(40) {
            0 => 0,
            1..4 => self.random.below(64),
            4..7 => 200 + self.random.below(120),
            7..9 => 500 + self.random.below(120),
            9..13 => 1180 + self.random.below(100),
            13..15 => 1440 + self.random.below(80),
            15 if self.random.once_in(4) => 1500 + self.random.below(1400),
            16 if self.random.once_in(8) => 3000 + self.random.below(1500),
            _ => self.random.below(20),
        }
    }

    /// Draws whose packet it is: its link, the header without anything special, and its ports.
    fn somebody(&mut self, model: &Model) -> (Link, Header, (u16, u16)) {
        let drawn = self.random.below(100);
        let ((source, destination), ports) = match drawn {
            0..38 => self.client(model),
            38..55 => match self.flow(model) {
                Some(id) => ((id.0, id.2), (id.1, id.3)),
                None => self.client(model),
            },
            _ => match self.record(model) {
                Some((_, snat, endpoint)) if drawn < 90 => {
                    ((endpoint.0, snat.0), (endpoint.1, snat.1))
                }
                _ if drawn < 97 => self.client(model),
                _ => self.stranger(model),
            },
        };
        let mut header = Header::new(source, destination);
        self.adorn(&mut header);
        (self.link(), header, ports)
    }

    fn client(&mut self, model: &Model) -> ((Address, Address), (u16, u16)) {
        let services: Vec<_> = model.services.keys().filter(|key| key.port != 0).collect();
        let Some(key) = (!services.is_empty()).then(|| *self.random.pick(&services)) else {
            return self.stranger(model);
        };
        let same: Vec<_> = self
            .clients
            .iter()
            .filter(|client| is_v4(client) == is_v4(&key.vip))
            .copied()
            .collect();
        let client = self.random.pick(&same);
        let port = self.random.pick(&self.ports.clone());
        let vip_port = if self.random.once_in(20) {
            self.random.pick(&[80, 443, 444])
        } else {
            key.port
        };
        ((client, key.vip), (port, vip_port))
    }

    /// A packet for nobody in particular: of any client, to any address of ours.
    fn stranger(&mut self, model: &Model) -> ((Address, Address), (u16, u16)) {
        let v4 = self.random.once_in(2);
        let mut destinations: Vec<Address> = self.vips.clone();
        destinations.extend(model.settings.snat_addresses);
        destinations.push(mapped(&[10, 1, 1, 1]));
        destinations.push(v6(9, 9, 9));
        destinations.retain(|address| is_v4(address) == v4);
        let sources = [
            mapped(&[203, 0, 113, 9]),
            v6(0x77, 0, 1),
            backend_address(true, 0),
            backend_address(false, 0),
        ];
        let sources = sources.into_iter().chain(self.clients.clone());
        let sources: Vec<_> = sources.filter(|address| is_v4(address) == v4).collect();
        let destination = match destinations.is_empty() {
            true => v6(9, 9, 9),
            false => self.random.pick(&destinations),
        };
        let ports = self.ports.clone();
        (
            (self.random.pick(&sources), destination),
            (self.random.pick(&ports), self.random.pick(&ports)),
        )
    }

    fn flow(&mut self, model: &Model) -> Option<(Address, u16, Address, u16)> {
        let count = model.flows.len() as u64;
        let place = (count > 0).then(|| self.random.below(count) as usize)?;
        model.flows.keys().nth(place).copied()
    }

    /// Draws a record that was ever used, mostly a live one, with its SNAT address and port and
    /// the backend's.
    fn record(&mut self, model: &Model) -> Option<(Record, Port, Port)> {
        let wanted: &[u8] = match self.random.below(8) {
            0 => &[FREE],
            1 => &[CLOSING, LIVE],
            _ => &[LIVE],
        };
        let in_use = self.next_slot * u32::from(model.settings.snat_port_count);
        let used: Vec<u32> = (0..in_use)
            .filter(|index| model.records[*index as usize].claim != 0)
            .filter(|index| wanted.contains(&claim(&model.records[*index as usize]).state))
            .collect();
        let index = (!used.is_empty()).then(|| self.random.pick(&used))?;
        let count = u32::from(model.settings.snat_port_count);
        let (key, _) = model
            .endpoints
            .iter()
            .find(|(_, slot)| **slot == index / count)?;
        let port = model.settings.snat_port_first + (index % count) as u16;
        let record = model.records[index as usize];
        Some((record, (key.snat, port), (key.backend, key.port)))
    }

    /// Gives a header what is rare: a spent TTL, options, extension headers.
    fn adorn(&mut self, header: &mut Header) {
        header.ttl = match self.random.below(20) {
            0 => 0,
            1 => 1,
            2 => 2,
            3 => 255,
            _ => 64,
        };
        header.traffic_class = self.random.pick(&[0, 0xb8, 0xff]);
        header.identification = self.random.below(3) as u32 | self.random.pick(&[0, 0, 0x7_0000]);
        header.do_not_fragment = self.random.once_in(2);
        if header.is_v6() {
            if self.random.once_in(5) {
                for place in 0..2 {
                    for _ in 0..self.random.pick(&[0, 0, 1, 1, 2, 3]) {
                        let extension = self.extension();
                        header.extensions[place].push(extension);
                    }
                }
            }
            header.atomic = self.random.once_in(12);
        } else if self.random.once_in(8) {
            // No operation, or the end of the list (RFC 791 section 3.1).
            header.options =
                vec![self.random.below(2) as u8; 4 * (1 + self.random.below(10)) as usize];
        }
    }

    fn extension(&mut self) -> Extension {
        let usual = [HOP_BY_HOP, ROUTING, DESTINATION_OPTIONS];
        // One fragment header too many, or an authentication header.
        let kinds = if self.random.once_in(5) {
            &[FRAGMENT, 51]
        } else {
            &usual[..]
        };
        Extension {
            kind: self.random.pick(kinds),
            more: self.random.pick(&[0, 0, 0, 1, 2, 7, 15, 31]),
            segments_left: u8::from(self.random.once_in(5)),
        }
    }

    fn link(&mut self) -> Link {
        Link {
            destination: if self.random.once_in(30) {
                self.random
                    .pick(&[OTHER_MAC, [0xff; 6], [0x33, 0x33, 0, 0, 0, 1]])
            } else {
                MAC
            },
            source: self
                .random
                .pick(&[[0x02, 0, 0, 0, 0, 1], [0x02, 0, 0, 0, 0, 2]]),
            tags: self.tags(),
        }
    }

    fn tags(&mut self) -> Tags {
        let outer = self.random.pick(&[VLAN, SERVICE_VLAN]);
        let control = self.random.pick(&[7, 0x600a, 0]);
        match self.random.below(16) {
            0 => vec![(outer, control)],
            1 => vec![(outer, control), (VLAN, 0x2009)],
            _ => Vec::new(),
        }
    }

    /// Spoils a frame now and then.
    fn spoilt(&mut self, mut frame: Vec<u8>, link: &Link, header: &Header) -> Vec<u8> {
        let l3 = 14 + 4 * link.tags.len();
        match self.random.below(60) {
            0 | 1 => frame.truncate(14 + self.random.below(frame.len() as u64 - 13) as usize),
            2 => {
                let near =
                    l3 + if header.is_v6() { 40 } else { 20 } + self.random.below(24) as usize;
                frame.truncate(near);
            }
            3 => {
                // What the IP header says of the length.
                let at = l3 + if header.is_v6() { 4 } else { 2 };
                let len = self.lie(u16::from_be_bytes([frame[at], frame[at + 1]]));
                frame[at..at + 2].copy_from_slice(&len.to_be_bytes());
            }
            4 => {
                // What the UDP header says, where there are no extension headers.
                let at = l3
                    + 4
                    + if header.is_v6() {
                        40
                    } else {
                        20 + header.options.len()
                    };
                if let Some([high, low]) = frame.get_mut(at..at + 2) {
                    let len = self.lie(u16::from_be_bytes([*high, *low]));
                    [*high, *low] = len.to_be_bytes();
                }
            }
            5 => frame[l3] = self.random.next() as u8,
            6 => {
                let at = self.random.below(frame.len().min(120) as u64) as usize;
                frame[at] ^= 1 << self.random.below(8);
            }
            7 => {
                let ether_type = self
                    .random
                    .pick(&[0x0806_u16, 0x86dd, 0x0800, 0x8100, 0x88a8, 5]);
                frame[l3 - 2..l3].copy_from_slice(&ether_type.to_be_bytes());
            }
            // Padding to the least length of a frame, or more.
            8 | 9 => frame.extend(self.random.bytes(1 + frame.len() as u64 % 40)),
            10 if l3 >= 18 => frame[14..16].copy_from_slice(&[0xff, 0xff]),
            11 if l3 >= 22 => frame[18..20].copy_from_slice(&[0xff, 0xff]),
            _ => {}
        }
        frame
    }

    fn lie(&mut self, len: u16) -> u16 {
        match self.random.below(6) {
            0 => 0,
            1 => len.wrapping_sub(1 + self.random.below(9) as u16),
            2 => len.wrapping_add(1 + self.random.below(9) as u16),
            3 => 7 + self.random.below(2) as u16,
            4 => 0xffff,
            _ => self.random.next() as u16,
        }
    }

    /// A piece that is on its way; or a datagram is taken apart, and one of its pieces comes.
    fn piece(&mut self, model: &Model) -> Step {
        if self.random.once_in(4)
            && let Some(late) = self.late_piece(model)
        {
            return late;
        }
        if self.pieces.is_empty() || self.random.once_in(3) {
            self.take_apart(model);
        }
        if self.pieces.len() > 12 {
            self.pieces.remove(0);
        }
        let place = if self.random.once_in(2) {
            0
        } else {
            self.random.below(self.pieces.len() as u64) as usize
        };
        // A piece may come twice.
        if self.random.once_in(8) {
            Step::Frame(self.pieces[place].clone())
        } else {
            Step::Frame(self.pieces.remove(place))
        }
    }

    /// Has a flow end of which pieces are on their way, and begin again on the same port: a piece of
    /// before comes too late, though it comes in time.
    fn take_over(&mut self, model: &Model) {
        let unanswered = model.fragments.iter().find(|(_, fragment)| {
            let record = &model.records[fragment.record as usize];
            fragment.direction != Fragment::HOST
                && record.replied == 0
                && claim(record).state == LIVE
                && claim(record).generation == fragment.generation
        });
        let Some(((source, destination, identification), fragment)) = unanswered else {
            return;
        };
        let record = &model.records[fragment.record as usize];
        let header = Header::new(record.client, record.vip);
        let ports = (record.client_port, record.vip_port);
        let datagram = udp(&header, ports.0, ports.1, Checksum::Right, b"again");
        let again = header.packet(UDP, &datagram);
        let mut header = Header::new(*source, *destination);
        header.identification = *identification;
        header.piece = Some((3, false));
        let piece = header.packet(UDP, &[7; 16]);
        let frame = |packet: &[u8]| Step::Frame(plain_link().frame(header.is_v6(), packet));
        // Idle for long enough, ended by two passes, rested for long enough.
        self.plot = vec![
            frame(&piece),
            frame(&again),
            Step::Age(10),
            Step::Sweep,
            Step::Sweep,
            Step::Age(UNREPLIED_TIMEOUT_S + 1),
        ];
    }

    /// One more piece of a datagram whose first one was seen, however long ago, and whatever has
    /// become of its flow.
    fn late_piece(&mut self, model: &Model) -> Option<Step> {
        let all: Vec<_> = model.fragments.iter().collect();
        // Best of all is one whose port has another flow by now.
        let taken_over = all.iter().copied().filter(|(_, fragment)| {
            let claim = claim(&model.records[fragment.record as usize]);
            claim.state == LIVE && claim.generation != fragment.generation
        });
        let taken_over: Vec<_> = taken_over.collect();
        let from = if taken_over.is_empty() {
            all
        } else {
            taken_over
        };
        let chosen = (!from.is_empty()).then(|| self.random.pick(&from))?;
        let (source, destination, identification) = *chosen.0;
        let mut header = Header::new(source, destination);
        header.identification = identification;
        header.piece = Some((3, self.random.once_in(2)));
        let len = if self.random.once_in(3) {
            self.edge(header.packet(UDP, &[]).len() as u64)
        } else {
            16
        };
        let content = self.random.bytes(len);
        let protocol = self.random.pick(&[UDP, UDP, UDP, DESTINATION_OPTIONS, 6]);
        let frame = self
            .link()
            .frame(header.is_v6(), &header.packet(protocol, &content));
        Some(Step::Frame(frame))
    }

    fn take_apart(&mut self, model: &Model) {
        let (link, mut header, ports) = self.somebody(model);
        let checksum = self.random.pick(&CHECKSUMS);
        let len = 24 + self.payload_len();
        let payload = self.random.bytes(len);
        let datagram = udp(&header, ports.0, ports.1, checksum, &payload);
        header.do_not_fragment = false;
        let size = 8 * (1 + self.random.below(6)) as usize;
        let size = size.max(datagram.len().div_ceil(4).next_multiple_of(8));
        let count = datagram.len().div_ceil(size);
        for (number, content) in datagram.chunks(size).enumerate() {
            let more = number + 1 < count;
            header.piece = Some(((number * size / 8) as u16, more));
            // A whole datagram in a fragment header is atomic.
            if count == 1 {
                header.piece = None;
                header.atomic = true;
            }
            // What stands behind the fragment header is in the first piece alone, and all name it.
            let mut protocol = UDP;
            if number > 0
                && let Some(first) = header.extensions[1].first()
            {
                protocol = first.kind;
            }
            let of_piece = Header {
                extensions: match number {
                    0 => header.extensions.clone(),
                    _ => [header.extensions[0].clone(), Vec::new()],
                },
                ..header.clone()
            };
            let frame = link.frame(header.is_v6(), &of_piece.packet(protocol, content));
            let frame = self.spoilt(frame, &link, &header);
            self.pieces.push(frame);
        }
    }

    /// An ICMP message about a packet that was translated, or nearly so.
    fn error(&mut self, model: &Model) -> Step {
        let Some((record, snat, endpoint)) = self.record(model) else {
            return self.noise(model);
        };
        // What it is about: a packet on its way to the backend, or one to the client.
        let (mut from, mut to) = if self.random.once_in(2) {
            (snat, endpoint)
        } else {
            (
                (record.vip, record.vip_port),
                (record.client, record.client_port),
            )
        };
        match self.random.below(20) {
            0 => from.1 = from.1.wrapping_add(1),
            1 => to.1 = to.1.wrapping_add(1),
            2 => std::mem::swap(&mut from, &mut to),
            _ => {}
        }
        let mut inner = Header::new(from.0, to.0);
        self.adorn(&mut inner);
        if !inner.is_v6() || self.random.once_in(2) {
            inner.extensions = [Vec::new(), Vec::new()];
        }
        if self.random.once_in(8) {
            inner.piece = Some((u16::from(self.random.once_in(3)), true));
        }
        let checksum = self.random.pick(&CHECKSUMS);
        let len = self.random.pick(&[0, 0, 9, 40, 700]);
        let payload = self.random.bytes(len);
        let datagram = udp(&inner, from.1, to.1, checksum, &payload);
        let mut quoted = inner.packet(UDP, &datagram);
        if self.random.once_in(2) {
            // The least that there must be: eight bytes behind the header; or less than that.
            let least = quoted.len() - datagram.len() + 8;
            let missing = 1 + self.random.below(30) as usize;
            let cut = least.saturating_sub(if self.random.once_in(6) { missing } else { 0 });
            quoted.truncate(cut);
        }
        let itself = !self.random.once_in(3);
        let router = if is_v4(&to.0) {
            mapped(&[10, 9, 9, 9])
        } else {
            v6(9, 9, 9)
        };
        let outer_to = if self.random.once_in(15) {
            self.random.pick(&self.vips.clone())
        } else {
            from.0
        };
        let outer_from = if itself { to.0 } else { router };
        if is_v4(&outer_from) != is_v4(&outer_to) {
            return self.noise(model);
        }
        let mut header = Header::new(outer_from, outer_to);
        self.adorn(&mut header);
        if self.random.once_in(20) {
            header.piece = Some((0, true));
        }
        let kinds: &[(u8, u8)] = if header.is_v6() {
            &[
                (1, 4),
                (1, 4),
                (1, 0),
                (2, 0),
                (3, 0),
                (4, 1),
                (128, 0),
                (100, 0),
                (137, 0),
            ]
        } else {
            &[
                (3, 3),
                (3, 3),
                (3, 4),
                (3, 1),
                (11, 0),
                (12, 0),
                (8, 0),
                (5, 1),
                (4, 0),
            ]
        };
        let (kind, code) = self.random.pick(kinds);
        let message = icmp(&header, kind, code, self.random.pick(&[0, 1400]), &quoted);
        let protocol = icmp_protocol(&header);
        let link = self.link();
        let frame = link.frame(header.is_v6(), &header.packet(protocol, &message));
        Step::Frame(self.spoilt(frame, &link, &header))
    }

    /// Frames that are nobody's.
    fn noise(&mut self, model: &Model) -> Step {
        let link = self.link();
        let ((source, destination), _) = self.stranger(model);
        let mut header = Header::new(source, destination);
        self.adorn(&mut header);
        let frame = match self.random.below(5) {
            0 => {
                let len = 14 + self.random.below(120);
                self.random.bytes(len)
            }
            1 => {
                let content = self.random.bytes(60);
                link.frame_of(
                    self.random.pick(&[0x0800, 0x86dd, 0x0806, 0x8847]),
                    &content,
                )
            }
            2 => {
                let content = self.random.bytes(30);
                let protocol = self.random.pick(&[6, 17, 50, 58, 1, 132]);
                link.frame(header.is_v6(), &header.packet(protocol, &content))
            }
            3 => {
                let kind = if header.is_v6() { 128 } else { 8 };
                let message = icmp(&header, kind, 0, 7, b"ping");
                let protocol = icmp_protocol(&header);
                link.frame(header.is_v6(), &header.packet(protocol, &message))
            }
            _ => {
                let content = self.random.bytes(50);
                let kind = self.random.pick(&[1, 2, 3, 4, 11, 12]);
                let message = icmp(&header, kind, 3, 0, &content);
                let protocol = icmp_protocol(&header);
                link.frame(header.is_v6(), &header.packet(protocol, &message))
            }
        };
        Step::Frame(frame)
    }

    fn fill(&mut self, model: &Model) -> Step {
        let table = self.random.below(3) as usize;
        Step::Fill(table, model.filled[table] == 0)
    }

    /// What the daemon does to the maps.
    fn change(&mut self, model: &Model) -> Step {
        let backends: Vec<u16> = model.backends.keys().copied().collect();
        let services: Vec<(ServiceKey, Service)> = model
            .services
            .iter()
            .filter(|(key, _)| key.port != 0)
            .map(|(key, service)| (*key, *service))
            .collect();
        let operations = match self.random.below(20) {
            0..10 if !backends.is_empty() => {
                let id = self.random.pick(&backends);
                let mut backend = model.backends[&id];
                self.change_backend(&mut backend, &services);
                vec![MapOp::Backend(id, Box::new(backend))]
            }
            10..13 => self.change_pool(model),
            13 if !services.is_empty() => {
                // A service goes; its VIP stays known while another has it.
                let (key, service) = self.random.pick(&services);
                self.removed.push((key, service));
                let mut operations = vec![MapOp::RemoveService(key)];
                let shared = services.iter().filter(|(k, _)| k.vip == key.vip).count() > 1;
                if !shared {
                    operations.push(MapOp::RemoveService(ServiceKey::new(key.vip, 0, 0)));
                }
                operations
            }
            14 | 15 => match self.removed.pop() {
                Some((key, service)) => vec![
                    MapOp::Service(key, Box::new(service)),
                    MapOp::Service(ServiceKey::new(key.vip, 0, 0), Box::new(MARKER)),
                ],
                None => Vec::new(),
            },
            16 if !services.is_empty() => {
                let (key, mut service) = self.random.pick(&services);
                self.change_service(&mut service);
                vec![MapOp::Service(key, Box::new(service))]
            }
            17 if !services.is_empty() => self.change_lists(services),
            18 => self.change_settings(model),
            _ => self.new_snat_address(model, &services),
        };
        Step::Change(operations)
    }

    fn change_backend(&mut self, backend: &mut Backend, services: &[(ServiceKey, Service)]) {
        match self.random.below(12) {
            0..3 => backend.health ^= 1,
            3 | 4 => backend.reachable ^= 1,
            5 => backend.admin = self.random.pick(&[0, 1, 2]),
            6 => backend.full ^= 1,
            7 | 8 if !services.is_empty() => {
                let service = self.random.pick(services).1.id;
                backend.services_down[usize::from(service) / 32] ^= 1 << (service % 32);
            }
            9 => backend.mac[5] ^= 0x40,
            10 => backend.vlan = vlan_tags(&self.tags()),
            _ => {
                backend.health = 1;
                backend.reachable = 1;
                backend.admin = 0;
                backend.full = 0;
                backend.services_down = [0; 8];
            }
        }
    }

    /// Another table: the other half of the pool's, written anew now and then.
    fn change_pool(&mut self, model: &Model) -> Vec<MapOp> {
        let pools: Vec<u16> = model.pools.keys().copied().collect();
        if pools.is_empty() {
            return Vec::new();
        }
        let id = self.random.pick(&pools);
        let mut pool = self.pool(id, &model.backends);
        pool.half = 1 - model.pools[&id].half;
        let mut operations = Vec::new();
        if self.random.once_in(8) {
            operations.push(MapOp::Table {
                pool: id,
                half: pool.half,
                table: table(id, &mut self.random),
            });
        }
        operations.push(MapOp::Pool(id, Box::new(pool)));
        operations
    }

    fn change_service(&mut self, service: &mut Service) {
        match self.random.below(4) {
            0 => service.flags ^= Service::AFFINITY,
            1 => service.affinity_timeout_s = self.random.pick(&[5, 30, 60]),
            2 => service.ipv4_prefix = self.random.pick(&[128, 120]),
            _ => service.ranges_count = 0,
        }
    }

    /// Other lists of clients, in the other half of the ranges.
    fn change_lists(&mut self, mut services: Vec<(ServiceKey, Service)>) -> Vec<MapOp> {
        self.ranges_half = 1 - self.ranges_half;
        let half = self.ranges_half;
        let mut ranges = Vec::new();
        for (_, service) in &mut self.removed {
            service.ranges_count = 0;
        }
        for (_, service) in &mut services {
            service.ranges_count = 0;
            if self.random.once_in(2) {
                self.list(service, half, &mut ranges);
            }
        }
        let entries = ranges.into();
        let services = services
            .into_iter()
            .map(|(key, service)| MapOp::Service(key, Box::new(service)));
        std::iter::once(MapOp::Ranges { half, entries })
            .chain(services)
            .collect()
    }

    /// Interfaces come, go, and change their address and MTU.
    fn change_settings(&mut self, model: &Model) -> Vec<MapOp> {
        let mut settings = model.settings;
        let place = self.random.below(8) as usize;
        let interface = &mut settings.interfaces[place];
        match (interface.index, self.random.below(4)) {
            (0, _) => {
                // The same interface in another place, or back again.
                let other = self.random.pick(&[INGRESS, OTHER_INTERFACE]);
                let former = model
                    .settings
                    .interfaces
                    .iter()
                    .position(|i| i.index == other);
                let mac = if other == INGRESS { MAC } else { OTHER_MAC };
                settings.interfaces[place] = Interface {
                    index: other,
                    mac,
                    mtu: 1500,
                };
                if let Some(former) = former {
                    settings.interfaces[former] = Interface::default();
                }
            }
            (INGRESS, _) => interface.mtu = self.random.pick(&[0, 1280, 1500]),
            (_, 0) => *interface = Interface::default(),
            (_, 1) => interface.mac[4] ^= 1,
            _ => interface.mtu = self.random.pick(&[0, 1280, 1500]),
        }
        vec![MapOp::Settings(Box::new(settings))]
    }

    /// One more SNAT address, which some backends are reached from at once.
    fn new_snat_address(
        &mut self,
        model: &Model,
        services: &[(ServiceKey, Service)],
    ) -> Vec<MapOp> {
        let mut settings = model.settings;
        let free = settings.snat_addresses.iter().position(|a| *a == [0; 16]);
        let Some(place) = free else {
            return Vec::new();
        };
        let v4 = self.random.once_in(2);
        let address = snat_address(v4, 2 + place as u64);
        settings.snat_addresses[place] = address;
        settings.snat_address_count = settings.snat_address_count.max(place as u32 + 1);
        let mut operations = vec![MapOp::Settings(Box::new(settings))];
        let mut keys = BTreeSet::new();
        let mut changed = Vec::new();
        for (id, backend) in &model.backends {
            if is_v4(&backend.address) != v4 || self.random.once_in(2) {
                continue;
            }
            let mut backend = *backend;
            backend.snat_mask = if self.random.once_in(2) {
                1 << place
            } else {
                backend.snat_mask | 1 << place
            };
            for (_, service) in services.iter().filter(|(_, s)| s.pool == backend.pool) {
                keys.extend(endpoint_keys(&settings, &backend, service.backend_port));
            }
            changed.push(MapOp::Backend(*id, Box::new(backend)));
        }
        for key in keys {
            if !model.endpoints.contains_key(&key) {
                operations.extend(self.endpoint(&settings, key));
            }
        }
        operations.extend(changed);
        operations
    }
}

/// Returns the link of a frame that nothing is special about.
fn plain_link() -> Link {
    Link {
        destination: MAC,
        source: [0x02, 0, 0, 0, 0, 1],
        tags: Vec::new(),
    }
}

const CHECKSUMS: [Checksum; 10] = [
    Checksum::Right,
    Checksum::Right,
    Checksum::Right,
    Checksum::Right,
    Checksum::Right,
    Checksum::Right,
    Checksum::Right,
    Checksum::Absent,
    Checksum::Absent,
    Checksum::Wrong,
];

fn vlan_tags(tags: &Tags) -> VlanTags {
    let control = |place: usize| tags.get(place).map_or(0xffff, |tag| tag.1);
    VlanTags {
        outer_protocol: tags.first().map_or(0, |tag| tag.0),
        control: [control(0), control(1)],
    }
}

/// Returns the endpoints between the addresses that a backend may be reached from and itself.
fn endpoint_keys(settings: &Settings, backend: &Backend, service_port: u16) -> Vec<EndpointKey> {
    let port = match backend.port {
        0 => service_port,
        port => port,
    };
    (0..8)
        .filter(|place| backend.snat_mask >> place & 1 == 1)
        .map(|place| {
            let snat = settings.snat_addresses[place];
            EndpointKey::new(snat, backend.address, port, UDP)
        })
        .collect()
}
