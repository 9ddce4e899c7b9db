//! The same packets through vipd and through the kernel's own NAT: both must send on the same.
//!
//! Two sites with the same addresses: in one vipd forwards, in the other nftables translates the
//! destination to the backend and the source to an address and a range of ports. Random packets
//! are sent into both, and what arrives is compared byte by byte from the IP header on.
//!
//! Where the two differ by design, and what is done about it here:
//!
//! - The SNAT port, where the client's own is outside the range or taken: each chooses another. The
//!   port is taken out of packet and checksum before they are compared; and where the client's own
//!   port is free, both must keep it.
//! - Fragments: Linux reassembles them before it translates and sends other pieces on; vipd
//!   translates each piece and gives it an identification of its own. Not sent here.
//! - A packet at the end of its hops: Linux tells the sender, which is kept from it here; vipd counts
//!   it. Neither may send it on.
//! - A packet larger than the way out: both tell the sender, with other quotations and from other
//!   addresses. Not sent here.
//! - UDP over IPv6 without a checksum: Linux translates it, vipd drops it (RFC 8200 section 8.1). Not
//!   sent here.
//! - A wrong checksum: Linux does not translate such packets unless told to, with
//!   `nf_conntrack_checksum=0`, which is done here. vipd leaves checking to the receiver. Both must
//!   keep it as wrong as it was.
//! - IPv4 options that ask each router for something (record route, time stamp, source route): Linux
//!   does what they ask, vipd leaves them as they are. Not sent here.
//! - An error about an IPv6 packet with extension headers: Linux translates it, vipd leaves it to the
//!   host. Only packets without any are quoted here.
//! - The end of a frame behind the packet: Linux cuts it off, vipd sends it on. Not compared.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use lb_tests::lab::{
    Configuration, Daemon, HealthPage, Lab, Random,
    capture::Capture,
    configuration::{HEALTH, HEALTH_PORT, backend, backend6},
    eventually::eventually,
    host::Mac,
    packets::{Checksum, Header, Packet, PortOf, UDP, datagram, frame, icmp_error},
    site::{VIP, VIP6, vip, vip6},
};

/// Packets in the ordinary run; `LB_ORACLE_PACKETS` asks for another number.
const PACKETS: usize = 3000;
const BACKEND_PORT: u16 = 8443;
const SNAT_PORTS: std::ops::RangeInclusive<u16> = 20_000..=32_767;
const BOUND: Duration = Duration::from_secs(10);
/// The least length of an Ethernet frame without its checksum.
const LEAST_FRAME: usize = 60;

#[test]
fn vipd_translates_as_the_kernel_does() {
    let count = env::var("LB_ORACLE_PACKETS").map_or(PACKETS, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("LB_ORACLE_PACKETS is no number: {text}"))
    });
    let (kernel_lab, vipd_lab) = (two_arms(), two_arms());
    translate_by_nftables(&kernel_lab);
    let _page = HealthPage::start(vipd_lab.gateway(1), HEALTH_PORT);
    let daemon = Daemon::start(&vipd_lab, &configuration(&vipd_lab));
    let mut sites = [
        Site::new("nftables", &kernel_lab),
        Site::new("vipd", &vipd_lab),
    ];
    let mut random = Random::of_the_run();
    let mut sent = BTreeMap::new();
    let mut flows = flows(&kernel_lab);
    // Each flow's first packet goes from the client.
    for flow in &mut flows {
        forward(&mut sites, &mut random, flow, false);
    }

    for _ in 0..count {
        let place = random.within(0..flows.len());
        let flow = &mut flows[place];
        let kind = match random.within(0..10) {
            0..4 => {
                forward(&mut sites, &mut random, flow, false);
                "forward"
            }
            4..7 => {
                reply(&mut sites, &mut random, flow, false);
                "reply"
            }
            7 if flow.replied.iter().all(Option::is_some) => {
                error_of_the_client(&mut sites, &mut random, flow);
                "error of the client"
            }
            7 | 8 if flow.forwarded.iter().all(Option::is_some) => {
                error_of_the_backend(&mut sites, &mut random, flow);
                "error of the backend"
            }
            7 | 8 => {
                forward(&mut sites, &mut random, flow, true);
                "forward, out of hops"
            }
            _ => {
                reply(&mut sites, &mut random, flow, true);
                "reply, out of hops"
            }
        };
        *sent.entry(kind).or_insert(0_u64) += 1;
    }

    eprintln!("compared: {sent:?}");
    assert!(sent.len() == 6 || count < PACKETS, "{sent:?}");
    let expired: u64 = sent
        .iter()
        .filter(|(kind, _)| kind.ends_with("out of hops"))
        .map(|(_, count)| count)
        .sum();
    eventually(BOUND, "nothing else was dropped", || {
        let expected: &[(String, u64)] = match expired {
            0 => &[],
            _ => &[("ttl_expired".to_owned(), expired)],
        };
        daemon.status().drops() == expected
    });
}

/// A site, seen from its client and from its backend.
struct Site {
    name: &'static str,
    client: Capture,
    backend: Capture,
    client_mac: Mac,
    backend_mac: Mac,
    /// The balancer's, towards clients and towards the backend.
    balancer_macs: [Mac; 2],
    backend_addresses: [IpAddr; 2],
    snat_addresses: [IpAddr; 2],
    /// Ports that flows hold, by address.
    taken: BTreeSet<SocketAddr>,
}

/// A flow, and what was last seen of it in each site.
struct Flow {
    client: SocketAddr,
    vip: SocketAddr,
    snat: [Option<SocketAddr>; 2],
    /// The client's last packet, as the backend received it; none if it had extension headers.
    forwarded: [Option<Packet>; 2],
    /// The backend's last packet, as the client received it; none if it had extension headers.
    replied: [Option<Packet>; 2],
}

impl Site {
    fn new(name: &'static str, lab: &Lab) -> Self {
        let (client, gateway) = (lab.client(1), lab.gateway(1));
        let addresses: [IpAddr; 2] = [gateway.v4().into(), gateway.v6().into()];
        // What the captures have seen is nobody's: the stacks shall not answer it.
        for host in [client, gateway] {
            host.run("nft add table inet silent").ok();
            host.run("nft add chain inet silent input { type filter hook input priority 0 ; }")
                .ok();
            host.run("nft add rule inet silent input meta l4proto udp drop")
                .ok();
        }
        Self {
            name,
            client: Capture::open(client, "eth0"),
            backend: Capture::open(gateway, "eth0"),
            client_mac: client.mac("eth0"),
            backend_mac: gateway.mac("eth0"),
            balancer_macs: [lab.balancer().mac("eth0"), lab.balancer().mac("eth1")],
            backend_addresses: addresses,
            snat_addresses: addresses.map(|address| lab.address_towards_backends(address)),
            taken: BTreeSet::new(),
        }
    }

    fn backend_address(&self, like: SocketAddr) -> IpAddr {
        self.backend_addresses[usize::from(like.is_ipv6())]
    }

    fn snat_address(&self, like: SocketAddr) -> IpAddr {
        self.snat_addresses[usize::from(like.is_ipv6())]
    }

    fn send_from_client(&self, packet: &[u8], rest: &[u8]) {
        let bytes = frame(self.balancer_macs[0], self.client_mac, packet);
        self.client.send_bytes(&[&bytes, rest].concat());
    }

    fn send_from_backend(&self, packet: &[u8], rest: &[u8]) {
        let bytes = frame(self.balancer_macs[1], self.backend_mac, packet);
        self.backend.send_bytes(&[&bytes, rest].concat());
    }

    /// Returns the next packet that comes to the client from the VIP.
    #[track_caller]
    fn at_client(&self, vip: SocketAddr) -> Packet {
        let macs = (self.client_mac, self.balancer_macs[0]);
        self.arrived(&self.client, macs, vip.ip())
    }

    /// Returns the next packet that comes to the backend from the balancer.
    #[track_caller]
    fn at_backend(&self, like: SocketAddr) -> Packet {
        let macs = (self.backend_mac, self.balancer_macs[1]);
        self.arrived(&self.backend, macs, self.snat_address(like))
    }

    #[track_caller]
    fn arrived(&self, capture: &Capture, (to, from): (Mac, Mac), source: IpAddr) -> Packet {
        capture
            .read_within(BOUND, |bytes| {
                let macs = bytes.get(..6) == Some(&to) && bytes.get(6..12) == Some(&from);
                Packet::in_frame(bytes).filter(|packet| {
                    let wanted = packet.protocol == UDP || packet.is_error();
                    macs && wanted && packet.source == source
                })
            })
            .unwrap_or_else(|| panic!("{}: nothing arrived from {source}", self.name))
    }
}

/// Sends a packet of the client; one that is `dying` must not arrive: what arrives next is the
/// next one.
#[track_caller]
fn forward(sites: &mut [Site; 2], random: &mut Random, flow: &mut Flow, dying: bool) {
    let header = header(random, flow.client, dying);
    let (udp, checksum) = random_datagram(random, flow.client, flow.vip);
    let packet = header.packet(flow.client.ip(), flow.vip.ip(), UDP, &udp);
    let rest = behind(random, &packet);
    for site in sites.iter() {
        site.send_from_client(&packet, &rest);
    }
    if dying {
        return;
    }
    let mut compared = Vec::new();
    for (place, site) in sites.iter_mut().enumerate() {
        let seen = site.at_backend(flow.client);
        check_checksums(site.name, &packet, &seen, checksum);
        let source = SocketAddr::new(seen.source, seen.ports().0);
        match flow.snat[place] {
            Some(known) => assert_eq!(source, known, "{}: {} moved", site.name, flow.client),
            None => {
                let own = SocketAddr::new(seen.source, flow.client.port());
                let free = SNAT_PORTS.contains(&own.port()) && !site.taken.contains(&own);
                assert!(SNAT_PORTS.contains(&source.port()), "{source}");
                assert!(
                    !free || source == own,
                    "{}: {} did not keep its port: {source}",
                    site.name,
                    flow.client
                );
                assert!(site.taken.insert(source), "{}: {source} twice", site.name);
                flow.snat[place] = Some(source);
            }
        }
        let to = SocketAddr::new(seen.destination, seen.ports().1);
        let backend = SocketAddr::new(site.backend_address(flow.client), BACKEND_PORT);
        assert_eq!(to, backend, "{}", site.name);
        compared.push(seen.without_port(PortOf::Source));
        flow.forwarded[place] = header.extensions.is_empty().then_some(seen);
    }
    assert_same(&packet, &compared);
}

/// Sends a packet of the backend.
#[track_caller]
fn reply(sites: &mut [Site; 2], random: &mut Random, flow: &mut Flow, dying: bool) {
    let header = header(random, flow.client, dying);
    // The same draws for both sites.
    let drawn = random.clone();
    let mut compared = Vec::new();
    let mut sent = Vec::new();
    for (place, site) in sites.iter().enumerate() {
        *random = drawn.clone();
        let snat = flow.snat[place].expect("the client's first packet was seen");
        let backend = SocketAddr::new(site.backend_address(flow.client), BACKEND_PORT);
        let (udp, checksum) = random_datagram(random, backend, snat);
        let packet = header.packet(backend.ip(), snat.ip(), UDP, &udp);
        site.send_from_backend(&packet, &behind(random, &packet));
        if dying {
            continue;
        }
        let seen = site.at_client(flow.vip);
        check_checksums(site.name, &packet, &seen, checksum);
        assert_eq!(
            (seen.destination, seen.ports()),
            (flow.client.ip(), (flow.vip.port(), flow.client.port())),
            "{}",
            site.name
        );
        compared.push(seen.bytes.clone());
        flow.replied[place] = header.extensions.is_empty().then_some(seen);
        sent = packet;
    }
    if !dying {
        assert_same(&sent, &compared);
    }
}

/// Sends an ICMP error about the client's last packet, from the backend or a router before it.
#[track_caller]
fn error_of_the_backend(sites: &mut [Site; 2], random: &mut Random, flow: &mut Flow) {
    let mut header = header(random, flow.client, false);
    header.extensions.clear();
    let (what, rest) = error_kind(random, flow.client);
    let router = router_beside(random.one_in(2), sites[0].backend_address(flow.client));
    let longest = random.within(0..600);
    let mut compared = Vec::new();
    let mut sent = Vec::new();
    for (place, site) in sites.iter().enumerate() {
        let about = flow.forwarded[place]
            .as_ref()
            .expect("the caller has looked");
        let packet = icmp_error(
            &header,
            (router, about.source),
            what,
            rest,
            &quotation(about, longest),
        );
        site.send_from_backend(&packet, &[]);
        let seen = site.at_client(flow.vip);
        check_checksums(site.name, &packet, &seen, Checksum::Right);
        let quoted = seen.quoted().expect("an error quotes a packet");
        assert_eq!(
            (seen.destination, quoted.source, quoted.destination),
            (flow.client.ip(), flow.client.ip(), flow.vip.ip()),
            "{}",
            site.name
        );
        assert_eq!(quoted.ports(), (flow.client.port(), flow.vip.port()));
        compared.push(seen.bytes);
        sent = packet;
    }
    assert_same(&sent, &compared);
}

/// Sends an ICMP error about the backend's last packet, from the client.
#[track_caller]
fn error_of_the_client(sites: &mut [Site; 2], random: &mut Random, flow: &mut Flow) {
    let mut header = header(random, flow.client, false);
    header.extensions.clear();
    let (what, rest) = error_kind(random, flow.client);
    let longest = random.within(0..600);
    let mut compared = Vec::new();
    let mut sent = Vec::new();
    for (place, site) in sites.iter().enumerate() {
        let about = flow.replied[place].as_ref().expect("the caller has looked");
        let packet = icmp_error(
            &header,
            (flow.client.ip(), flow.vip.ip()),
            what,
            rest,
            &quotation(about, longest),
        );
        site.send_from_client(&packet, &[]);
        let seen = site.at_backend(flow.client);
        check_checksums(site.name, &packet, &seen, Checksum::Right);
        let quoted = seen.quoted().expect("an error quotes a packet");
        let snat = flow.snat[place].expect("the client's first packet was seen");
        assert_eq!(
            (seen.destination, quoted.source, quoted.destination),
            (quoted.source, site.backend_address(flow.client), snat.ip()),
            "{}",
            site.name
        );
        assert_eq!(quoted.ports(), (BACKEND_PORT, snat.port()));
        // The quoted SNAT port may differ, and with it the message's checksum, which was right.
        let mut bytes = seen.bytes[..seen.payload + 8].to_vec();
        bytes[seen.payload + 2..seen.payload + 4].fill(0);
        bytes.extend(quoted.without_port(PortOf::Destination));
        compared.push(bytes);
        sent = packet;
    }
    assert_same(&sent, &compared);
}

#[track_caller]
fn assert_same(sent: &[u8], compared: &[Vec<u8>]) {
    let [kernel, vipd] = compared else {
        panic!("two sites are compared, not {}", compared.len());
    };
    let differ: Vec<usize> = (0..kernel.len().max(vipd.len()))
        .filter(|at| kernel.get(*at) != vipd.get(*at))
        .collect();
    assert!(
        differ.is_empty(),
        "bytes {differ:?} differ:\nsent     {sent:02x?}\nnftables {kernel:02x?}\nvipd     {vipd:02x?}"
    );
}

/// Computes every checksum of `seen` from scratch, and looks at the hop count.
#[track_caller]
fn check_checksums(site: &str, sent: &[u8], seen: &Packet, sent_with: Checksum) {
    let wrong = seen.wrong_checksums();
    match sent_with {
        Checksum::Wrong => assert_eq!(wrong, ["UDP"], "{site}: {seen:02x?}"),
        Checksum::Right | Checksum::Absent => {
            assert!(wrong.is_empty(), "{site}: {wrong:?} of {seen:02x?}");
        }
    }
    if seen.protocol == UDP {
        let at = seen.payload + 6;
        let absent = seen.bytes[at..at + 2] == [0, 0];
        assert_eq!(absent, sent_with == Checksum::Absent, "{site}: {seen:02x?}");
    }
    let hops = if seen.source.is_ipv4() { 8 } else { 7 };
    assert_eq!(seen.bytes[hops], sent[hops] - 1, "{site}: hops");
}

fn header(random: &mut Random, like: SocketAddr, dying: bool) -> Header {
    let bytes = random.bytes(8);
    let ttl = match dying {
        true => 1,
        false => bytes[0].max(2),
    };
    let v6 = like.is_ipv6();
    let options: &[&[u8]] = &[
        &[],
        &[],
        &[],
        // Nothing, three times, and the end.
        &[1, 1, 1, 0],
        // Router alert (RFC 2113).
        &[148, 4, 0, 0],
        // An experiment (RFC 4727) and padding.
        &[158, 6, 1, 2, 3, 4, 1, 0],
    ];
    // Each with room for the number of the next header.
    let padding = vec![0, 0, 1, 4, 0, 0, 0, 0];
    let unused_route = vec![0, 0, 253, 0, 0, 0, 0, 0];
    let extensions = match random.within(0..8) {
        0 if v6 => vec![(60, padding)],
        1 if v6 => vec![(0, padding)],
        2 if v6 => vec![(0, padding.clone()), (43, unused_route), (60, padding)],
        _ => Vec::new(),
    };
    Header {
        tos: bytes[1],
        flow_label: u32::from_be_bytes([0, bytes[2], bytes[3], bytes[4]]),
        identification: u16::from_be_bytes([bytes[5], bytes[6]]),
        do_not_fragment: bytes[7] & 1 == 1,
        ttl,
        options: random.of(options).to_vec(),
        extensions,
    }
}

fn random_datagram(
    random: &mut Random,
    source: SocketAddr,
    destination: SocketAddr,
) -> (Vec<u8>, Checksum) {
    let length = match random.within(0..4) {
        0 => random.within(0..8),
        1 => random.within(0..64),
        _ => random.within(0..1380),
    };
    let payload = random.bytes(length);
    let surplus = if random.one_in(12) {
        random.within(0..length + 1)
    } else {
        0
    };
    let checksum = match random.within(0..8) {
        0 if source.is_ipv4() => Checksum::Absent,
        1 => Checksum::Wrong,
        _ => Checksum::Right,
    };
    let udp = datagram(source, destination, &payload, surplus, checksum);
    (udp, checksum)
}

/// Returns what stands behind the packet in its frame: what fills it up, or a little more.
fn behind(random: &mut Random, packet: &[u8]) -> Vec<u8> {
    let missing = LEAST_FRAME.saturating_sub(14 + packet.len());
    let count = if random.one_in(3) {
        missing.max(random.within(0..5))
    } else {
        0
    };
    random.bytes(count)
}

/// Returns type and code of an error, and the four bytes behind the checksum.
fn error_kind(random: &mut Random, like: SocketAddr) -> ((u8, u8), [u8; 4]) {
    let kinds: &[(u8, u8)] = if like.is_ipv4() {
        &[
            (3, 0),
            (3, 1),
            (3, 3),
            (3, 4),
            (3, 13),
            (11, 0),
            (11, 1),
            (12, 0),
        ]
    } else {
        &[(1, 0), (1, 3), (1, 4), (2, 0), (3, 0), (4, 1)]
    };
    let kind = *random.of(kinds);
    let rest = match kind {
        (3, 4) if like.is_ipv4() => [0, 0, 5, 100],
        (2, 0) => [0, 0, 5, 20],
        _ => [0; 4],
    };
    (kind, rest)
}

/// Returns the beginning of a packet: at least the first eight bytes behind its headers, which is
/// what a router must quote (RFC 792), and at most `longest` more.
fn quotation(packet: &Packet, longest: usize) -> Vec<u8> {
    let end = (packet.payload + 8 + longest).min(packet.bytes.len());
    packet.bytes[..end].to_vec()
}

/// Returns the backend's address, or that of a router beside it.
fn router_beside(router: bool, backend: IpAddr) -> IpAddr {
    match backend {
        IpAddr::V4(_) if router => Ipv4Addr::new(10, 11, 20, 200).into(),
        IpAddr::V6(_) if router => Ipv6Addr::new(0xfd00, 0x11, 0x20, 0, 0, 0, 0, 0x200).into(),
        own => own,
    }
}

/// Clients with ports in the range and outside, and with ports that another one has.
fn flows(lab: &Lab) -> Vec<Flow> {
    let (v4, v6) = (lab.client(1).v4(), lab.client(1).v6());
    let [a, b, c, last] = v4.octets();
    let neighbour = Ipv4Addr::new(a, b, c, last + 10);
    let neighbour6 = Ipv6Addr::from_bits(v6.to_bits() + 0x100);
    let ports = [1, 1024, 20_000, 25_000, 32_767, 51_000, 65_535];
    let of = |client: IpAddr| {
        ports.map(|port| Flow {
            client: SocketAddr::new(client, port),
            vip: if client.is_ipv4() {
                vip(443)
            } else {
                vip6(443)
            },
            snat: [None; 2],
            forwarded: [None, None],
            replied: [None, None],
        })
    };
    [v4.into(), neighbour.into(), v6.into(), neighbour6.into()]
        .into_iter()
        .flat_map(of)
        .collect()
}

fn two_arms() -> Lab {
    let lab = Lab::two_arm().gateways(1).build();
    let neighbour = flows(&lab)
        .into_iter()
        .map(|flow| flow.client.ip())
        .filter(|ip| *ip != IpAddr::from(lab.client(1).v4()))
        .filter(|ip| *ip != IpAddr::from(lab.client(1).v6()))
        .collect::<BTreeSet<IpAddr>>();
    for address in neighbour {
        let length = if address.is_ipv4() { "24" } else { "64 nodad" };
        let (length, nodad) = length.split_once(' ').unwrap_or((length, ""));
        lab.client(1)
            .net()
            .ip(&[&format!("address add {address}/{length} dev eth0 {nodad}")]);
    }
    lab
}

fn configuration(lab: &Lab) -> Configuration {
    let gateway = lab.gateway(1);
    let more = format!("backend_port = {BACKEND_PORT}");
    Configuration::new()
        .node("flow_timeout_unreplied = \"5m\"")
        .pool("four", &[backend(gateway)], HEALTH)
        .pool("six", &[backend6(gateway)], HEALTH)
        .udp("four", vip(443), "four", &more)
        .udp("six", vip6(443), "six", &more)
}

/// Makes the balancer of `lab` a router that translates as vipd would.
fn translate_by_nftables(lab: &Lab) {
    let (balancer, gateway) = (lab.balancer(), lab.gateway(1));
    let net = balancer.net();
    net.ip(&[
        &format!("address add {VIP}/32 dev eth0"),
        &format!("address add {VIP6}/128 dev eth0 nodad"),
    ]);
    net.sysctl("net/ipv4/ip_forward", "1");
    net.sysctl("net/ipv6/conf/all/forwarding", "1");
    let range = format!("{}-{}", SNAT_PORTS.start(), SNAT_PORTS.end());
    let families: [(&str, IpAddr, IpAddr); 2] = [
        ("ip", VIP.into(), gateway.v4().into()),
        ("ip6", VIP6.into(), gateway.v6().into()),
    ];
    for (family, vip, backend) in families {
        let to_backend = SocketAddr::new(backend, BACKEND_PORT);
        let snat = SocketAddr::new(lab.address_towards_backends(backend), 0).to_string();
        let snat = snat.strip_suffix(":0").expect("the port is zero");
        for command in [
            format!("add table {family} nat"),
            format!("add chain {family} nat in {{ type nat hook prerouting priority dstnat ; }}"),
            format!("add chain {family} nat out {{ type nat hook postrouting priority srcnat ; }}"),
            format!(
                "add rule {family} nat in {family} daddr {vip} udp dport 443 dnat to {to_backend}"
            ),
            format!(
                "add rule {family} nat out {family} daddr {backend} meta l4proto udp snat to {snat}:{range}"
            ),
        ] {
            balancer.run(&format!("nft {command}")).ok();
        }
    }
    // What it says itself of packets out of hops; what it forwards goes another way.
    for command in [
        "add table inet silent",
        "add chain inet silent output { type filter hook output priority 0 ; }",
        "add rule inet silent output icmp type time-exceeded drop",
        "add rule inet silent output icmpv6 type time-exceeded drop",
    ] {
        balancer.run(&format!("nft {command}")).ok();
    }
    net.sysctl("net/netfilter/nf_conntrack_checksum", "0");
    net.sysctl("net/netfilter/nf_conntrack_udp_timeout", "600");
}
