//! The site that is measured: one service, and as many backends as a million flows need.

use std::path::Path;

use anyhow::Result;
use lb_common::{
    addr::mapped,
    backend::Backend,
    endpoint::{Endpoint, EndpointKey},
    guard::Range,
    hash,
    limits::{DEFAULT_MAX_FLOWS, MAX_POOL_MEMBERS, MAX_RANGES, NAME_BYTES, cache_sets, exact_mask},
    maglev::{self, Candidate},
    measure::{FRAME_BYTES, Generator},
    pool::Pool,
    record::{Claim, State},
    service::{Service, ServiceKey},
    settings::Interface,
};
use lb_userspace::dataplane::{
    Dataplane as _,
    attach::Mode,
    image::MapOp,
    kernel::{Kernel, Options},
    sweep::SweepSettings,
};

pub(crate) const VIP: [u8; 4] = [10, 20, 90, 105];
pub(crate) const SERVICE_PORT: u16 = 443;
pub(crate) const SNAT: [u8; 4] = [10, 11, 20, 5];
/// The first client; the others follow.
const CLIENTS: [u8; 4] = [10, 64, 0, 0];
pub(crate) const FIRST_PORT: u16 = 1024;
pub(crate) const PORTS: u16 = 64_000;
/// Backends with room for a million flows.
const MOST_BACKENDS: u8 = 20;
const GROUP: u32 = 1;
/// MAC address of the clients' router and of every backend.
pub(crate) const OTHERS_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// Returns the address and port of a client.
pub(crate) fn client(number: u32) -> ([u8; 4], u16) {
    let address = u32::from_be_bytes(CLIENTS).wrapping_add(number);
    (address.to_be_bytes(), 1024 + (number as u16 & 0x7fff))
}

/// Returns the address of a backend.
pub(crate) fn backend(number: u8) -> [u8; 4] {
    [10, 200, 0, number]
}

/// The data path of the site.
pub(crate) struct Site {
    pub(crate) kernel: Kernel,
    mac: [u8; 6],
    service: Service,
    max_flows: u32,
    backends: u8,
    half: u32,
}

impl Site {
    /// Makes it under `pins`, for so many flows, on an interface with this index and MAC address.
    ///
    /// The tables are as large as the configuration makes them by default, or else as large as the
    /// flows need; there are as many backends as have room in them.
    pub(crate) fn open(
        pins: &Path,
        flows: u32,
        interface: u32,
        mac: [u8; 6],
        attach: &[&str],
    ) -> Result<Self> {
        let room = if flows < DEFAULT_MAX_FLOWS {
            DEFAULT_MAX_FLOWS
        } else {
            u32::from(MOST_BACKENDS) * u32::from(PORTS)
        };
        Self::sized(pins, flows, interface, mac, attach, room)
    }

    /// The same with tables of this size.
    pub(crate) fn sized(
        pins: &Path,
        flows: u32,
        interface: u32,
        mac: [u8; 6],
        attach: &[&str],
        max_flows: u32,
    ) -> Result<Self> {
        let mut kernel = Kernel::open(Options {
            pin_directory: pins.to_owned(),
            max_flows,
            max_affinity: max_flows,
            snat_port_first: FIRST_PORT,
            snat_port_count: PORTS,
            mode: Mode::Native,
            interfaces: attach.iter().map(|name| (*name).to_owned()).collect(),
        })?;
        let service = Service {
            id: 0,
            pool: 0,
            backend_port: SERVICE_PORT,
            flags: Service::AFFINITY,
            group: GROUP,
            affinity_timeout_s: 6 * 3600,
            ipv4_prefix: 128,
            ipv6_prefix: 128,
            _reserved: [0; 2],
            ranges_first: 0,
            ranges_count: 0,
            new_flows_per_second: 0,
            new_flows_per_source: 1000,
            name: name(),
        };
        let backends = (max_flows / u32::from(PORTS)) as u8;
        kernel.apply(&operations(
            &kernel, flows, max_flows, backends, interface, mac, &service,
        )?)?;
        Ok(Self {
            kernel,
            mac,
            service,
            max_flows,
            backends,
            half: 0,
        })
    }

    /// Returns the flows that the tables hold.
    pub(crate) fn max_flows(&self) -> u32 {
        self.max_flows
    }

    /// Returns a generator of the clients' packets, beginning with client number `first`.
    pub(crate) fn clients(&self, count: u32, first: u32) -> Generator {
        let (address, _) = client(first);
        generator(count, frame(self.mac, address, VIP, 0, SERVICE_PORT), false)
    }

    /// Returns a generator of the backends' answers, by indexes of records.
    pub(crate) fn answers(&self, count: u32) -> Generator {
        let frame = frame(self.mac, backend(0), SNAT, SERVICE_PORT, 0);
        generator(count, frame, true)
    }

    /// Returns the indexes of live records.
    pub(crate) fn records(&self) -> Vec<u32> {
        self.kernel
            .records()
            .filter(|(_, word)| Claim::unpack(*word).state == State::Live)
            .map(|(index, _)| index)
            .collect()
    }

    /// Blocks every client, by so many prefixes.
    pub(crate) fn block(&mut self, prefixes: u32) -> Result<()> {
        let range = |start: [u8; 16], blocked| Range {
            start,
            blocked,
            _reserved: 0,
        };
        let mut ranges = vec![range([0; 16], 0)];
        // Every second /24 a range of its own, and the clients' whole network the last.
        for number in 0..prefixes - 1 {
            let network = (u32::from_be_bytes([9, 0, 0, 0]) + number * 512).to_be_bytes();
            let next = (u32::from_be_bytes(network) + 256).to_be_bytes();
            ranges.push(range(mapped(network), 1));
            ranges.push(range(mapped(next), 0));
        }
        ranges.sort_by_key(|range| range.start);
        ranges.push(range(mapped([10, 0, 0, 0]), 1));
        ranges.push(range(mapped([11, 0, 0, 0]), 0));
        ranges.sort_by_key(|range| range.start);
        self.half ^= 1;
        self.service.ranges_first = self.half * MAX_RANGES;
        self.service.ranges_count = ranges.len() as u32;
        let entries: std::sync::Arc<[Range]> = ranges.into();
        self.kernel.apply(&[
            MapOp::Ranges {
                half: self.half,
                entries,
            },
            service_operation(&self.service),
        ])?;
        Ok(())
    }

    /// Returns what a sweeper goes by that finds nothing to end.
    pub(crate) fn sweep_settings(&self) -> SweepSettings {
        SweepSettings {
            flow_timeout_s: 300,
            flow_timeout_unreplied_s: 300,
            affinity_timeouts_s: [(GROUP, 6 * 3600)].into(),
            backends: (0..u16::from(self.backends)).collect(),
            ranges: [].into(),
        }
    }
}

fn operations(
    kernel: &Kernel,
    flows: u32,
    max_flows: u32,
    backends: u8,
    interface: u32,
    mac: [u8; 6],
    service: &Service,
) -> Result<Vec<MapOp>> {
    let mut settings = kernel.image()?.settings;
    settings.flow_timeout_s = 300;
    settings.cache_mask = cache_sets(flows.max(1024).saturating_mul(2)) - 1;
    settings.exact_mask = exact_mask(settings.cache_mask, flows, max_flows);
    settings.snat_address_count = 1;
    settings.snat_addresses[0] = mapped(SNAT);
    settings.interfaces[0] = Interface {
        index: interface,
        mac,
        mtu: 1500,
    };
    let mut operations = vec![MapOp::Settings(Box::new(settings))];
    let mut members = [0; MAX_POOL_MEMBERS];
    let mut candidates = Vec::new();
    for number in 0..backends {
        let address = mapped(backend(number));
        let key = EndpointKey::new(mapped(SNAT), address, SERVICE_PORT, 17);
        let slot = u32::from(number);
        operations.push(MapOp::Endpoint(key, Endpoint { slot }));
        let backend = Backend {
            address,
            interface,
            mac: OTHERS_MAC,
            source_mac: mac,
            mtu: 1500,
            snat_mask: 1,
            health: 1,
            admin: 0,
            reachable: 1,
            present: 1,
            ..Backend::FREE
        };
        operations.push(MapOp::Backend(u16::from(number), Box::new(backend)));
        members[usize::from(number)] = u16::from(number);
        candidates.push(Candidate {
            seed: hash::bytes(&[number]),
            backend: u32::from(number),
            weight: 100,
        });
    }
    operations.push(MapOp::Table {
        pool: 0,
        half: 0,
        table: maglev::table(&candidates).into(),
    });
    let pool = Pool {
        half: 0,
        eligible: u32::from(backends),
        member_count: u32::from(backends),
        members,
        name: name(),
    };
    operations.push(MapOp::Pool(0, Box::new(pool)));
    operations.push(service_operation(service));
    Ok(operations)
}

fn service_operation(service: &Service) -> MapOp {
    let key = ServiceKey::new(mapped(VIP), SERVICE_PORT, 17);
    MapOp::Service(key, Box::new(*service))
}

fn name() -> [u8; NAME_BYTES] {
    let mut name = [0; NAME_BYTES];
    name[0] = b'b';
    name
}

fn generator(count: u32, frame: [u8; FRAME_BYTES], replies: bool) -> Generator {
    let sum = |range: std::ops::Range<usize>| -> u32 {
        let words = frame[range].chunks(2);
        words
            .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
            .sum()
    };
    Generator {
        position: 0,
        count,
        replies: u32::from(replies),
        ports: u32::from(PORTS),
        first_port: u32::from(FIRST_PORT),
        interface: 0,
        ip_sum: sum(14..26) + sum(30..34),
        // The pseudo-header has destination, protocol and length; the data is zeros.
        udp_sum: sum(30..34) + 17 + sum(38..40) + sum(38..40),
        frame,
        _reserved: [0; 2],
    }
}

/// Returns the headers of a packet of 18 bytes of data: 60 bytes, the least that Ethernet carries.
fn frame(
    to: [u8; 6],
    source: [u8; 4],
    destination: [u8; 4],
    source_port: u16,
    destination_port: u16,
) -> [u8; FRAME_BYTES] {
    let mut frame = [0; FRAME_BYTES];
    frame[..6].copy_from_slice(&to);
    frame[6..12].copy_from_slice(&OTHERS_MAC);
    frame[12..14].copy_from_slice(&[0x08, 0x00]);
    frame[14..24].copy_from_slice(&[0x45, 0, 0, 46, 0, 0, 0x40, 0, 64, 17]);
    frame[26..30].copy_from_slice(&source);
    frame[30..34].copy_from_slice(&destination);
    frame[34..36].copy_from_slice(&source_port.to_be_bytes());
    frame[36..38].copy_from_slice(&destination_port.to_be_bytes());
    frame[38..40].copy_from_slice(&26_u16.to_be_bytes());
    frame
}
