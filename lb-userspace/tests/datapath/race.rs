//! Two processors at the same flows: whatever they do at the same time, a flow has one port and one
//! translation.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use lb_common::{hash, record::State};
use lb_userspace::dataplane::{Dataplane as _, kernel::Kernel};

use crate::harness::{
    packet::Packet,
    plan::{VIP, VIP6},
    site::{Site, from_client},
};

/// `enum xdp_action` of the kernel's `include/uapi/linux/bpf.h`.
const XDP_TX: u32 = 3;

/// Runs the program on a packet that it must forward; returns what left.
fn forward(kernel: &Kernel, packet: &Packet) -> Packet {
    let (action, out) = kernel.test_run(&packet.encode()).expect("a run");
    assert_eq!(action, XDP_TX, "{packet:?} was not forwarded");
    Packet::decode(&out)
}

/// Lets threads come to the same point at the same time.
struct Meeting {
    arrived: AtomicU32,
    threads: u32,
}

impl Meeting {
    fn wait(&self, time: u32) {
        self.arrived.fetch_add(1, Ordering::AcqRel);
        let mut patience = 100_000;
        while self.arrived.load(Ordering::Acquire) < time * self.threads {
            std::hint::spin_loop();
            patience -= 1;
            if patience == 0 {
                // The other thread needs a processor.
                thread::yield_now();
                patience = 100_000;
            }
        }
    }
}

fn with_room(test: impl FnOnce(&mut Site) + Send) {
    Site::sized(
        |options| {
            options.snat_port_count = 4096;
            options.max_flows = 8 * 4096;
            options.max_affinity = 8 * 4096;
        },
        test,
    );
}

fn clients(count: u32) -> Vec<Packet> {
    (0..count)
        .map(|number| {
            let [_, _, high, low] = number.to_be_bytes();
            if number % 2 == 0 {
                from_client(&format!("10.77.{high}.{low}:20010"), VIP)
            } else {
                from_client(&format!("[2001:db8:77::{number:x}]:20010"), VIP6)
            }
        })
        .collect()
}

#[test]
fn a_flow_that_two_processors_begin_at_once_has_one_port() {
    const MOST: u32 = 12_000;
    const PART: u32 = 1000;
    with_room(|site| {
        let clients = clients(MOST);
        let mut begun = 0;
        for part in clients.chunks(PART as usize) {
            begun += part.len();
            let [one, other] = at_once(&site.kernel, part);

            assert_eq!(one, other);
            assert_eq!(site.pins.in_state(State::Live).len(), begun);
            assert_eq!(site.pins.in_state(State::Claimed), [0; 0]);
            assert_eq!(site.pins.flow_count(), begun);
            let ports: BTreeSet<_> = one.iter().map(|p| (p.source, p.destination)).collect();
            assert_eq!(ports.len(), part.len(), "each its own port");
            // Who lost a race gave its record back.
            if !site.pins.in_state(State::Free).is_empty() {
                return;
            }
        }
        let processors = thread::available_parallelism().map_or(1, usize::from);
        assert_eq!(processors, 1, "{MOST} flows, and nobody raced");
    });
}

/// Sends each packet on two processors at the same time; returns what left on each.
fn at_once(kernel: &Kernel, packets: &[Packet]) -> [Vec<Packet>; 2] {
    let meeting = Meeting {
        arrived: AtomicU32::new(0),
        threads: 2,
    };
    let begin = || -> Vec<Packet> {
        let times = (1..).zip(packets);
        let sent = times.map(|(time, packet)| {
            meeting.wait(time);
            forward(kernel, packet)
        });
        sent.collect()
    };
    thread::scope(|scope| {
        let other = scope.spawn(begin);
        [begin(), other.join().expect("the other processor")]
    })
}

/// Returns clients whose packets lead to one set of the exact match cache, more than it holds.
fn crowd(site: &Site) -> Vec<Packet> {
    const CROWD: usize = 6;
    let settings = site.kernel.image().expect("an image").settings;
    let octets = |end: SocketAddr| match end.ip() {
        IpAddr::V4(address) => address.octets(),
        IpAddr::V6(address) => panic!("the cache does not hold {address}"),
    };
    let set = |packet: &Packet| {
        let (from, to) = (packet.source, packet.destination);
        let [of_from, of_to] = [from, to].map(|end| u32::from_ne_bytes(octets(end)));
        let ports = [from, to].map(|end| u32::from(end.port().to_be()));
        hash::exact_set(
            settings.seed,
            u64::from(of_from) | u64::from(of_to) << 32,
            ports[0] | ports[1] << 16,
            settings.exact_mask,
        )
    };
    let first = from_client("10.77.0.1:1024", VIP);
    let wanted = set(&first);
    let ports = (1024..=u16::MAX).cycle();
    let crowd: Vec<_> = (0..4_000_000_u32)
        .zip(ports)
        .map(|(number, port)| {
            let source =
                SocketAddr::new(Ipv4Addr::from_bits(0x0a4d_0001 + number / 64).into(), port);
            Packet {
                source,
                ..first.clone()
            }
        })
        .filter(|packet| set(packet) == wanted)
        .take(CROWD)
        .collect();
    assert_eq!(crowd.len(), CROWD, "a hash that spreads");
    crowd
}

#[test]
fn two_processors_translate_alike_while_what_they_keep_changes() {
    const PACKETS: u32 = 60_000;
    with_room(|site| {
        let flows: Vec<(Packet, Packet)> = crowd(site)
            .into_iter()
            .map(|packet| {
                let forwarded = site.forward(&packet);
                (packet, forwarded)
            })
            .collect();
        let kernel = &site.kernel;
        let send = |mut random: u32| {
            for _ in 0..PACKETS {
                random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let (packet, forwarded) = &flows[(random >> 8) as usize % flows.len()];
                assert_eq!(&forward(kernel, packet), forwarded);
                if random.is_multiple_of(8) {
                    kernel.begin_epoch();
                }
            }
        };
        thread::scope(|scope| {
            let send = &send;
            let senders = [1, 2].map(|seed| scope.spawn(move || send(seed)));
            for sender in senders {
                sender.join().expect("every packet as ever");
            }
        });

        assert_eq!(site.pins.in_state(State::Live).len(), flows.len());
    });
}
