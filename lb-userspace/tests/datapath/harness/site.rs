//! A small site in the maps: one VIP of each family, two gateways behind each, in one arm. The
//! program runs on single frames, which come in by the loopback.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use lb_common::{
    addr::bytes,
    backend::{self, Backend},
    endpoint::{Endpoint, EndpointKey},
    hash,
    limits::{MAGLEV_SLOTS, MAX_POOL_MEMBERS, NAME_BYTES, exact_sets},
    maglev::{self, Candidate},
    pool::Pool,
    service::{Service, ServiceKey},
    settings::{Interface, Settings},
    stats::Counters,
    verdict::DropReason,
};
use lb_userspace::dataplane::{
    CounterSnapshot, Dataplane as _, SweepReport,
    attach::Mode,
    image::MapOp,
    kernel::{Kernel, Options},
    sweep::{SweepSettings, Sweeper},
};

use super::{
    fragment::Piece,
    icmp::Icmp,
    namespaces,
    packet::{Packet, udp},
    pins::Pins,
    plan::{
        AFFINITY_TIMEOUT_S, BALANCER_MAC, FLOW_TIMEOUT_S, GATEWAYS, GROUP, GROUP6, Gateway, MTU,
        POOL, POOL6, QUARANTINE_S, ROUTER_MAC, SERVICE, SERVICE_OTHER, SERVICE6, SNAT,
        SNAT_PORT_FIRST, SNAT_PORTS, SNAT6, UNREPLIED_TIMEOUT_S, VIP, VIP_OTHER, VIP6,
    },
};

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Verdict<T = Packet> {
    /// It is the host's, untouched.
    Passed,
    /// It was dropped, and counted for this reason.
    Dropped(DropReason),
    /// It was dropped and counted like that, and its sender is told by this frame.
    Answered(DropReason, Vec<u8>),
    /// It left by the interface that it came in by.
    Sent(T),
    /// It left by another interface.
    Redirected(T),
}

impl<T> Verdict<T> {
    /// Reads what left.
    pub(crate) fn map<U>(self, read: impl FnOnce(T) -> U) -> Verdict<U> {
        match self {
            Self::Passed => Verdict::Passed,
            Self::Dropped(reason) => Verdict::Dropped(reason),
            Self::Answered(reason, frame) => Verdict::Answered(reason, frame),
            Self::Sent(packet) => Verdict::Sent(read(packet)),
            Self::Redirected(packet) => Verdict::Redirected(read(packet)),
        }
    }
}

/// The site.
pub(crate) struct Site {
    pub(crate) options: Options,
    pub(crate) kernel: Kernel,
    pub(crate) pins: Pins,
    sweeper: Sweeper,
    settings: Settings,
    services: BTreeMap<u16, (ServiceKey, Service)>,
    backends: BTreeMap<u16, Backend>,
    pools: BTreeMap<u16, (Pool, Arc<[u32]>)>,
}

impl Site {
    /// Runs `test` with a site of its own.
    pub(crate) fn with(test: impl FnOnce(&mut Self) + Send) {
        Self::sized(|_| {}, test);
    }

    /// Runs `test` with a site of other sizes.
    pub(crate) fn sized(
        change: impl FnOnce(&mut Options) + Send,
        test: impl FnOnce(&mut Self) + Send,
    ) {
        namespaces::private(|directory| {
            let mut options = options(directory);
            change(&mut options);
            test(&mut Self::open(options));
        });
    }

    fn open(options: Options) -> Self {
        let directory = options.pin_directory.clone();
        let mut kernel = Kernel::open(options.clone()).expect("the data path");
        let mut site = Self {
            options,
            pins: Pins::open(&directory),
            sweeper: kernel.sweeper().expect("a sweeper"),
            settings: kernel.image().expect("an image").settings,
            kernel,
            services: BTreeMap::new(),
            backends: BTreeMap::new(),
            pools: BTreeMap::new(),
        };
        site.fill();
        site
    }

    /// Loads the program anew, on the same maps: its shortcuts begin empty.
    pub(crate) fn reload(&mut self) {
        self.kernel = Kernel::open(self.options.clone()).expect("the same data path");
    }

    /// Lets time pass.
    pub(crate) fn age(&mut self, seconds: u32) {
        self.pins.age(seconds);
        // Translations are kept until the second ends.
        self.kernel.begin_epoch();
    }

    fn fill(&mut self) {
        self.settings(|settings| {
            settings.exact_mask = exact_sets(8 * u32::from(SNAT_PORTS)) - 1;
            settings.flow_timeout_s = FLOW_TIMEOUT_S;
            settings.quarantine_s = QUARANTINE_S;
            settings.snat_address_count = 2;
            settings.snat_addresses[0] = ip(SNAT);
            settings.snat_addresses[1] = ip(SNAT6);
            settings.interfaces[0] = Interface {
                index: 1,
                mac: BALANCER_MAC,
                mtu: MTU,
            };
        });
        for (slot, gateway) in (0..).zip(GATEWAYS) {
            self.add_backend(gateway);
            self.endpoint(gateway, port(gateway.address), slot);
        }
        for pool in [POOL, POOL6] {
            let gateways = GATEWAYS.into_iter().filter(|g| g.pool == pool);
            self.shares(&gateways.map(|g| (g, 100)).collect::<Vec<_>>());
        }
        self.add_service(SERVICE, VIP, POOL, GROUP);
        self.add_service(SERVICE_OTHER, VIP_OTHER, POOL, GROUP);
        self.add_service(SERVICE6, VIP6, POOL6, GROUP6);
    }

    /// Changes the settings.
    pub(crate) fn settings(&mut self, change: impl FnOnce(&mut Settings)) {
        change(&mut self.settings);
        self.apply(MapOp::Settings(Box::new(self.settings)));
    }

    /// Adds a backend.
    pub(crate) fn add_backend(&mut self, gateway: Gateway) {
        self.backends.insert(gateway.number, backend(&gateway));
        self.backend(gateway, |_| {});
    }

    /// Changes a backend.
    pub(crate) fn backend(&mut self, gateway: Gateway, change: impl FnOnce(&mut Backend)) {
        let backend = self.backends.get_mut(&gateway.number).expect("a backend");
        change(backend);
        let operation = MapOp::Backend(gateway.number, Box::new(*backend));
        self.apply(operation);
    }

    /// Changes a service.
    pub(crate) fn service(&mut self, id: u16, change: impl FnOnce(&mut Service)) {
        let (key, service) = self.services.get_mut(&id).expect("a service");
        change(service);
        let operation = MapOp::Service(*key, Box::new(*service));
        self.apply(operation);
    }

    /// Adds a service, and the marker of its VIP.
    pub(crate) fn add_service(&mut self, id: u16, vip: &str, pool: u16, group: u32) {
        let key = ServiceKey::new(ip(vip), port(vip), 17);
        let service = Service {
            id,
            pool,
            backend_port: 443,
            flags: Service::AFFINITY,
            group,
            affinity_timeout_s: AFFINITY_TIMEOUT_S,
            ipv4_prefix: 128,
            ipv6_prefix: 128,
            _reserved: [0; 2],
            ranges_first: 0,
            ranges_count: 0,
            new_flows_per_second: 0,
            new_flows_per_source: 0,
            name: name(vip),
        };
        self.services.insert(id, (key, service));
        self.service(id, |_| {});
        self.apply(MapOp::Service(
            ServiceKey::marker(ip(vip)),
            Box::new(MARKER),
        ));
    }

    /// Sets the ranges of a service's clients: for each its lowest address, and whether they are
    /// blocked. They stand from `first` on in the map, in the order of addresses.
    pub(crate) fn ranges(&mut self, id: u16, first: u32, ranges: &[([u8; 16], bool)]) {
        assert!(ranges.is_sorted_by_key(|(start, _)| *start));
        for (index, (start, is_blocked)) in (first..).zip(ranges) {
            self.pins.set_range(index, *start, *is_blocked);
        }
        self.service(id, |service| {
            service.ranges_first = first;
            service.ranges_count = ranges.len() as u32;
        });
    }

    /// Gives a slot of records to a backend and port, from the SNAT address of its family.
    pub(crate) fn endpoint(&mut self, gateway: Gateway, port: u16, slot: u32) {
        let key = EndpointKey::new(ip(snat_towards(&gateway)), ip(gateway.address), port, 17);
        self.apply(MapOp::Endpoint(key, Endpoint { slot }));
    }

    /// Makes a new table of a pool from gateways and weights, and switches to it. The members are
    /// the gateways named.
    pub(crate) fn shares(&mut self, shares: &[(Gateway, u16)]) {
        let pool = shares.first().expect("a gateway").0.pool;
        let candidates: Vec<_> = shares
            .iter()
            .map(|(gateway, weight)| Candidate {
                seed: hash::bytes(gateway.name.as_bytes()),
                backend: u32::from(gateway.number),
                weight: *weight,
            })
            .collect();
        let table: Arc<[u32]> = maglev::table(&candidates).into();
        let half = self.pools.get(&pool).map_or(0, |(pool, _)| 1 - pool.half);
        let mut members = [0; MAX_POOL_MEMBERS];
        for (place, (gateway, _)) in members.iter_mut().zip(shares) {
            *place = gateway.number;
        }
        let value = Pool {
            half,
            eligible: shares.iter().filter(|(_, weight)| *weight > 0).count() as u32,
            member_count: shares.len() as u32,
            members,
            name: name("pool"),
        };
        self.apply(MapOp::Table {
            pool,
            half,
            table: table.clone(),
        });
        self.apply(MapOp::Pool(pool, Box::new(value)));
        self.pools.insert(pool, (value, table));
    }

    /// Leaves one gateway in its pool's table; the pool's others stay members.
    pub(crate) fn only(&mut self, gateway: Gateway) {
        let others = GATEWAYS.into_iter().filter(|g| g.pool == gateway.pool);
        let shares: Vec<_> = others
            .map(|other| (other, if other == gateway { 100 } else { 0 }))
            .collect();
        self.shares(&shares);
    }

    /// Carries out one operation.
    pub(crate) fn apply(&mut self, operation: MapOp) {
        self.kernel
            .apply(&[operation])
            .expect("a change of the maps");
    }

    /// Returns the gateway that a hash stands for in the pool's table.
    pub(crate) fn in_table(&self, pool: u16, hash: u32) -> Gateway {
        let (_, table) = &self.pools[&pool];
        numbered(table[(hash % MAGLEV_SLOTS) as usize] as u16)
    }

    /// Runs the program on a packet and says what became of it. Whatever it is, it must hold
    /// together: see [`Site::send_frame`].
    pub(crate) fn send(&mut self, packet: &Packet) -> Verdict {
        self.send_frame(&packet.encode())
    }

    /// Runs the program on a frame and says what became of it.
    ///
    /// See [`Site::send_bytes`]; a packet that leaves must be right in every checksum.
    pub(crate) fn send_frame(&mut self, frame: &[u8]) -> Verdict {
        self.send_bytes(frame).map(|out| Packet::decode(&out))
    }

    /// Runs the program on the piece of a datagram and says what became of it.
    pub(crate) fn send_piece(&mut self, piece: &Piece) -> Verdict<Piece> {
        self.send_bytes(&piece.encode())
            .map(|out| Piece::decode(&out))
    }

    /// Runs the program on an ICMP message and says what became of it.
    pub(crate) fn send_icmp(&mut self, message: &Icmp) -> Verdict<Icmp> {
        self.send_bytes(&message.encode())
            .map(|out| Icmp::decode(&out))
    }

    /// Runs the program on a frame and says what became of it, whatever it is.
    ///
    /// A frame that passes must be untouched and uncounted, one that is dropped must be counted
    /// once and for one reason, and only one that is too big is answered.
    pub(crate) fn send_bytes(&mut self, frame: &[u8]) -> Verdict<Vec<u8>> {
        let before = self.counters();
        let (action, out) = self.kernel.test_run(frame).expect("a run");
        let after = self.counters();
        let drops: Vec<_> = before
            .drops
            .iter()
            .zip(&after.drops)
            .filter(|((_, before), (_, after))| before != after)
            .map(|((reason, before), (_, after))| (*reason, after - before))
            .collect();
        let verdict = match action {
            XDP_PASS => {
                assert_eq!(out, frame, "a frame passed, but not untouched");
                assert_eq!(
                    before.services, after.services,
                    "a frame of the host's is counted"
                );
                assert_eq!(
                    before.backends, after.backends,
                    "a frame of the host's is counted"
                );
                Verdict::Passed
            }
            XDP_DROP => match drops[..] {
                [(reason, 1)] => return Verdict::Dropped(reason),
                _ => panic!("a frame was dropped, and counted as {drops:?}"),
            },
            XDP_TX => match drops[..] {
                [(DropReason::TooBig, 1)] => return Verdict::Answered(DropReason::TooBig, out),
                _ => Verdict::Sent(out),
            },
            XDP_REDIRECT => Verdict::Redirected(out),
            other => panic!("the program returned the action {other}"),
        };
        assert_eq!(
            drops,
            [],
            "a frame that was not dropped is counted as dropped"
        );
        verdict
    }

    /// Runs the program on a packet that it must forward in one arm; returns what left.
    ///
    /// The counters are not looked at: for tests of many packets.
    pub(crate) fn forward(&mut self, packet: &Packet) -> Packet {
        let (action, out) = self.kernel.test_run(&packet.encode()).expect("a run");
        assert_eq!(action, XDP_TX, "{packet:?} was not forwarded");
        Packet::decode(&out)
    }

    /// The same with the answer of the gateway, to which the client belongs then.
    pub(crate) fn serve(&mut self, packet: &Packet) -> Packet {
        let forwarded = self.forward(packet);
        self.answer(&forwarded);
        forwarded
    }

    /// Serves a client's packet, and returns the gateway that it went to.
    pub(crate) fn gateway_of(&mut self, packet: &Packet) -> Gateway {
        let forwarded = self.serve(packet);
        GATEWAYS
            .into_iter()
            .find(|gateway| ip(gateway.address) == bytes(forwarded.destination.ip()))
            .unwrap_or_else(|| panic!("{} is no gateway", forwarded.destination))
    }

    /// Sends the answer of a backend to a packet that was forwarded to it.
    pub(crate) fn answer(&mut self, forwarded: &Packet) -> Packet {
        self.forward(&answer(forwarded))
    }

    /// Returns all counters.
    pub(crate) fn counters(&self) -> CounterSnapshot {
        self.kernel.counters().expect("counters")
    }

    /// Returns the counters of a service.
    pub(crate) fn service_counters(&self, id: u16) -> Counters {
        self.counters().services[usize::from(id)]
    }

    /// Returns the counters of a backend.
    pub(crate) fn backend_counters(&self, gateway: Gateway) -> Counters {
        self.backend_counters_of(gateway.number)
    }

    /// Returns the counters of the backend with this number.
    pub(crate) fn backend_counters_of(&self, number: u16) -> Counters {
        self.counters().backends[usize::from(number)]
    }

    /// Makes one pass over the records.
    pub(crate) fn sweep(&mut self) -> SweepReport {
        self.sweep_with(&sweep_settings())
    }

    /// Makes one pass over the records with other settings.
    pub(crate) fn sweep_with(&mut self, settings: &SweepSettings) -> SweepReport {
        self.sweeper.sweep(settings).expect("a pass")
    }

    /// Makes passes until one has been over the affinity table, and returns its report.
    pub(crate) fn sweep_clients(&mut self) -> SweepReport {
        let before = self.sweep().pass;
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let report = self.sweep();
            if report.pass > before {
                return report;
            }
            assert!(
                Instant::now() < deadline,
                "the affinity table is never walked"
            );
            std::thread::yield_now();
        }
    }

    /// Ends every flow at once, as if all had been idle; their ports have rested for a second.
    pub(crate) fn end_flows(&mut self) {
        self.pins.age(FLOW_TIMEOUT_S + 1);
        self.sweep();
        self.sweep();
        assert_eq!(self.pins.flow_count(), 0);
        // The program's clock may lag behind the sweeper's by a timer tick.
        self.pins.age(1);
    }
}

/// `enum xdp_action` of the kernel's `include/uapi/linux/bpf.h`.
pub(crate) const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;
const XDP_REDIRECT: u32 = 4;

/// Returns the packet of a client as its router hands it over.
pub(crate) fn from_client(client: &str, vip: &str) -> Packet {
    udp(client, vip).macs(ROUTER_MAC, BALANCER_MAC)
}

/// Returns a client's packet as it should leave for the gateway, from `snat`.
pub(crate) fn towards(gateway: Gateway, packet: &Packet, snat: &str) -> Packet {
    packet
        .clone()
        .macs(BALANCER_MAC, gateway.mac)
        .from(snat)
        .to(gateway.address)
        .ttl(packet.ttl - 1)
}

/// Returns a backend's answer to a packet that was forwarded to it.
pub(crate) fn answer(forwarded: &Packet) -> Packet {
    Packet {
        source: forwarded.destination,
        destination: forwarded.source,
        source_mac: forwarded.destination_mac,
        destination_mac: BALANCER_MAC,
        payload: b"an even answer.".to_vec(),
        ttl: 128,
        ..forwarded.clone()
    }
}

/// Returns what the sweeper goes by on this site.
pub(crate) fn sweep_settings() -> SweepSettings {
    SweepSettings {
        flow_timeout_s: FLOW_TIMEOUT_S,
        flow_timeout_unreplied_s: UNREPLIED_TIMEOUT_S,
        affinity_timeouts_s: BTreeMap::from([
            (GROUP, AFFINITY_TIMEOUT_S),
            (GROUP6, AFFINITY_TIMEOUT_S),
        ]),
        backends: GATEWAYS.iter().map(|g| g.number).collect::<BTreeSet<_>>(),
        ranges: BTreeMap::new(),
    }
}

/// Returns the sizes of the site, with room for eight endpoints.
pub(crate) fn options(bpffs: &Path) -> Options {
    Options {
        pin_directory: pin_directory(bpffs),
        max_flows: 8 * u32::from(SNAT_PORTS),
        max_affinity: 4096,
        snat_port_first: SNAT_PORT_FIRST,
        snat_port_count: SNAT_PORTS,
        mode: Mode::Generic,
        interfaces: Vec::new(),
    }
}

fn pin_directory(bpffs: &Path) -> PathBuf {
    bpffs.join("vipd")
}

/// Returns the gateway with this number.
pub(crate) fn numbered(number: u16) -> Gateway {
    GATEWAYS
        .into_iter()
        .find(|gateway| gateway.number == number)
        .unwrap_or_else(|| panic!("no gateway has the number {number}"))
}

const MARKER: Service = Service {
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
    name: [0; NAME_BYTES],
};

fn backend(gateway: &Gateway) -> Backend {
    Backend {
        address: ip(gateway.address),
        interface: 1,
        mac: gateway.mac,
        source_mac: BALANCER_MAC,
        mtu: MTU,
        pool: gateway.pool,
        snat_mask: if is_v6(gateway) { 2 } else { 1 },
        health: backend::UP,
        admin: backend::ACTIVE,
        reachable: 1,
        present: 1,
        name: name(gateway.name),
        ..Backend::FREE
    }
}

fn snat_towards(gateway: &Gateway) -> &'static str {
    if is_v6(gateway) { SNAT6 } else { SNAT }
}

fn is_v6(gateway: &Gateway) -> bool {
    socket(gateway.address).is_ipv6()
}

/// Returns the address in `address:port` as the maps hold it.
pub(crate) fn ip(text: &str) -> [u8; 16] {
    bytes(socket(text).ip())
}

fn port(text: &str) -> u16 {
    socket(text).port()
}

pub(crate) fn socket(text: &str) -> std::net::SocketAddr {
    text.parse().expect("an address with a port")
}

fn name(text: &str) -> [u8; NAME_BYTES] {
    let mut name = [0; NAME_BYTES];
    name[..text.len()].copy_from_slice(text.as_bytes());
    name
}
