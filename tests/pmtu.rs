//! Path-MTU discovery through the translation: whoever sends what does not fit a link further on is
//! told, on both sides and in both families.

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use lb_tests::lab::{
    Daemon, Ends, Family, HealthPage, Host, Lab, LabBuilder,
    configuration::HEALTH_PORT,
    ends::receive,
    eventually::eventually,
    socket_options::{discover_path_mtu, path_mtu},
};
use socket2::{Domain, Protocol, Socket, Type};

const BOUND: Duration = Duration::from_secs(5);
/// The MTU of everything but the narrow link.
const WIDE: usize = 1500;
/// The MTU of the narrow link; IPv6 asks for 1280 at least.
const NARROW: usize = 1300;

#[test]
fn a_client_learns_of_a_narrow_link_behind_the_balancer() {
    for (family, arms) in both_families_and_arms() {
        let lab = arms.far_gateway().build();
        let far = lab.far_gateway();
        narrow(lab.inner_router(), "eth1");
        narrow(far, "eth0");
        let _page = HealthPage::start(far, HEALTH_PORT);
        let configuration = family.configuration(std::slice::from_ref(far));
        let daemon = Daemon::start(&lab, &configuration);

        let ends = Ends::meet(lab.client(1).udp(family.vip(443)), far);

        assert_learns(family, &ends.client, &ends.backend);
        assert_eq!(daemon.drops(), []);
    }
}

#[test]
fn a_backend_learns_of_a_narrow_link_towards_its_client() {
    for (family, arms) in both_families_and_arms() {
        let lab = arms.gateways(1).campus().build();
        narrow(lab.router(), "eth1");
        narrow(lab.campus(), "eth0");
        let _page = HealthPage::start(lab.gateway(1), HEALTH_PORT);
        let daemon = Daemon::start(&lab, &family.configuration(lab.gateways()));
        let client = lab.campus().udp_from(family.campus(7), family.vip(443));

        let ends = Ends::meet(client, lab.gateway(1));

        assert_learns(family, &ends.backend, &ends.client);
        assert_eq!(daemon.drops(), []);
    }
}

#[test]
fn both_sides_are_told_by_the_balancer_of_its_own_narrow_link() {
    for family in Family::BOTH {
        for (interface, towards_backends) in [("eth1", true), ("eth0", false)] {
            let lab = Lab::two_arm().gateways(1).build();
            narrow(lab.balancer(), interface);
            let _page = HealthPage::start(lab.gateway(1), HEALTH_PORT);
            let daemon = Daemon::start(&lab, &family.configuration(lab.gateways()));
            let ends = Ends::meet(lab.client(1).udp(family.vip(443)), lab.gateway(1));

            if towards_backends {
                assert_learns(family, &ends.client, &ends.backend);
            } else {
                assert_learns(family, &ends.backend, &ends.client);
            }

            assert_eq!(daemon.drops(), [("too_big".to_owned(), 1)]);
        }
    }
}

#[test]
fn a_sender_that_may_cut_its_datagrams_does_so_once_it_was_told() {
    for family in Family::BOTH {
        let lab = Lab::two_arm().gateways(1).build();
        narrow(lab.balancer(), "eth1");
        let _page = HealthPage::start(lab.gateway(1), HEALTH_PORT);
        let daemon = Daemon::start(&lab, &family.configuration(lab.gateways()));
        let ends = Ends::meet(lab.client(1).udp(family.vip(443)), lab.gateway(1));
        let datagram = datagram(family, WIDE, b'a');

        ends.client.send(&datagram).expect("it fits the first link");
        assert_told(&ends.client);
        ends.client.send(&datagram).expect("it may be cut");

        assert_eq!(received(&ends.backend), datagram);
        assert_eq!(daemon.drops(), [("too_big".to_owned(), 1)]);
    }
}

#[test]
fn a_link_that_becomes_narrow_and_wide_again_is_followed() {
    let lab = Lab::two_arm().gateways(1).build();
    let _page = HealthPage::start(lab.gateway(1), HEALTH_PORT);
    let daemon = Daemon::start(&lab, &Family::V4.configuration(lab.gateways()));
    let ends = Ends::meet(lab.client(1).udp(Family::V4.vip(443)), lab.gateway(1));
    let wide = datagram(Family::V4, WIDE, b'w');
    ends.client.send(&wide).expect("the client can send");
    assert_eq!(received(&ends.backend), wide);

    narrow(lab.balancer(), "eth1");
    discover_path_mtu(&ends.client);
    eventually(BOUND, "the client is told", || {
        // Before the new MTU is known, the driver refuses what does not fit.
        let _ = ends.client.send(&wide);
        path_mtu(&ends.client) == NARROW
    });

    eventually(BOUND, "the packet is counted", || {
        daemon.status().drops_of("too_big") > 0
    });

    lab.balancer()
        .net()
        .ip(&[&format!("link set eth1 mtu {WIDE}")]);
    ends.backend
        .set_read_timeout(Some(Duration::from_millis(100)))
        .expect("a timeout can be set");
    eventually(BOUND, "what is wide passes again", || {
        // As long as the balancer refuses it, the client forgets that it was told.
        lab.client(1).net().ip(&["route flush cache"]);
        let _ = ends.client.send(&wide);
        let mut buffer = [0; 2 * WIDE];
        matches!(ends.backend.recv(&mut buffer), Ok(length) if buffer[..length] == wide)
    });
}

#[test]
fn eight_quoted_bytes_of_a_datagram_are_enough() {
    let lab = Lab::one_arm().gateways(1).build();
    let _page = HealthPage::start(lab.gateway(1), HEALTH_PORT);
    let _daemon = Daemon::start(&lab, &Family::V4.configuration(lab.gateways()));
    let ends = Ends::meet(lab.client(1).udp(Family::V4.vip(443)), lab.gateway(1));
    discover_path_mtu(&ends.client);

    // What an old router sends: the IP header and the first eight bytes behind it (RFC 792).
    let gateway = SocketAddr::new(lab.gateway(1).v4().into(), 443);
    send_fragmentation_needed(lab.gateway(1), ends.snat(), gateway);

    eventually(BOUND, "the client is told", || {
        path_mtu(&ends.client) == NARROW
    });
}

/// Sends what the narrow link does not take and checks that `sender` learns why, that it lost one
/// datagram by it, and that what just fits reaches `receiver`.
#[track_caller]
fn assert_learns(family: Family, sender: &UdpSocket, receiver: &UdpSocket) {
    discover_path_mtu(sender);
    assert_eq!(path_mtu(sender), WIDE);

    sender
        .send(&datagram(family, NARROW + 1, b'l'))
        .expect("it fits the first link");

    assert_told(sender);
    let refused = sender.send(&datagram(family, NARROW + 1, b'l'));
    assert_eq!(
        refused.map_err(|error| error.raw_os_error()),
        Err(Some(libc::EMSGSIZE))
    );
    let fits = datagram(family, NARROW, b'f');
    sender.send(&fits).expect("it fits the path");
    assert_eq!(received(receiver), fits);
}

/// Waits until `sender` knows the narrow link; the kernel reports it once.
#[track_caller]
fn assert_told(sender: &UdpSocket) {
    eventually(BOUND, "the sender is told", || {
        let error = sender.take_error().expect("a socket has an error or none");
        error.and_then(|error| error.raw_os_error()) == Some(libc::EMSGSIZE)
    });
    assert_eq!(path_mtu(sender), NARROW);
}

/// Returns the payload of a datagram whose packet is `packet` bytes long.
fn datagram(family: Family, packet: usize, byte: u8) -> Vec<u8> {
    vec![byte; packet - family.headers()]
}

#[track_caller]
fn received(socket: &UdpSocket) -> Vec<u8> {
    receive(socket).unwrap_or_else(|error| panic!("nothing arrives: {error}"))
}

fn both_families_and_arms() -> Vec<(Family, LabBuilder)> {
    Family::BOTH
        .into_iter()
        .flat_map(|family| [(family, Lab::one_arm()), (family, Lab::two_arm())])
        .collect()
}

fn narrow(host: &Host, interface: &str) {
    host.net()
        .ip(&[&format!("link set {interface} mtu {NARROW}")]);
}

/// Sends "fragmentation needed" from `host` about a datagram from `source` to `destination`.
fn send_fragmentation_needed(host: &Host, source: SocketAddr, destination: SocketAddr) {
    let (IpAddr::V4(from), IpAddr::V4(to)) = (source.ip(), destination.ip()) else {
        panic!("{source} and {destination} are not both IPv4");
    };
    let mut message = vec![3, 4, 0, 0, 0, 0];
    message.extend((NARROW as u16).to_be_bytes());
    let mut quoted = [0; 28];
    quoted[0] = 0x45;
    quoted[2..4].copy_from_slice(&(WIDE as u16).to_be_bytes());
    quoted[6] = 0x40;
    quoted[8] = 63;
    quoted[9] = 17;
    quoted[12..16].copy_from_slice(&from.octets());
    quoted[16..20].copy_from_slice(&to.octets());
    let checksum = internet_checksum(&quoted[..20]);
    quoted[10..12].copy_from_slice(&checksum.to_be_bytes());
    quoted[20..22].copy_from_slice(&source.port().to_be_bytes());
    quoted[22..24].copy_from_slice(&destination.port().to_be_bytes());
    quoted[24..26].copy_from_slice(&(WIDE as u16 - 20).to_be_bytes());
    quoted[26..28].copy_from_slice(&[0x12, 0x34]);
    message.extend(quoted);
    let checksum = internet_checksum(&message);
    message[2..4].copy_from_slice(&checksum.to_be_bytes());

    let to = SocketAddr::new(source.ip(), 0);
    let sent: io::Result<usize> = host.net().enter(|| {
        let socket = Socket::new(
            Domain::IPV4,
            Type::from(libc::SOCK_RAW),
            Some(Protocol::ICMPV4),
        )?;
        socket.send_to(&message, &to.into())
    });
    assert_eq!(sent.expect("a raw socket can send"), message.len());
}

/// Returns the checksum of RFC 1071 over `bytes`, whose own field is zero.
fn internet_checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks_exact(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
