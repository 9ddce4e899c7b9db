//! Translation of UDP: addresses, ports, TTL, and what is left alone.

use std::{
    collections::BTreeSet,
    io::ErrorKind,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use lb_tests::lab::{
    Configuration, Daemon, Gateways, IdentityServer, Lab,
    capture::Capture,
    configuration::{POOL, SERVICE, SIX_HOURS},
    dtls::{DtlsServer, DtlsSession},
    eventually::eventually,
    frames::UdpFrame,
    host::Mac,
    nginx::Nginx,
    site::{VIP, campus_v4, vip},
};

const BOUND: Duration = Duration::from_secs(5);
const SILENCE: Duration = Duration::from_millis(500);

#[test]
fn a_datagram_reaches_a_backend_from_our_address_and_its_answer_comes_from_the_vip() {
    let lab = Lab::one_arm().build();
    let _gateways = Gateways::start(&lab);
    let daemon = Daemon::start(&lab, &Configuration::ras(&lab));

    let client = lab.client(1).udp(vip(443));
    let first = client.ask("hello");
    let second = client.ask("again");

    assert_eq!(first.source.ip(), IpAddr::from(lab.balancer().v4()));
    assert!(
        (20_000..=32_767).contains(&first.source.port()),
        "{first:?}"
    );
    assert_eq!(
        (second.backend, second.source),
        (first.backend.clone(), first.source)
    );
    eventually(BOUND, "the packets are counted", || {
        let status = daemon.status();
        status.service(SERVICE).packets() == (2, 2)
            && status.backend(&first.backend).packets() == (2, 2)
    });
    assert_eq!(daemon.status().dropped(), 0);
}

#[test]
fn a_dtls_session_runs_end_to_end_with_https_as_its_health() {
    let lab = Lab::one_arm().clients(2).build();
    let _pages: Vec<Nginx> = lab
        .gateways()
        .iter()
        .map(|gateway| Nginx::start(&lab, gateway, 443, "/RASHTML5Gateway", "RAS"))
        .collect();
    let _servers: Vec<DtlsServer> = lab
        .gateways()
        .iter()
        .map(|gateway| DtlsServer::start(&lab, gateway, 443))
        .collect();
    let backends: Vec<String> = lab
        .gateways()
        .iter()
        .map(lb_tests::lab::configuration::backend)
        .collect();
    let health = r#"{ type = "https", path = "/RASHTML5Gateway", expect_status = [200], verify = "none", interval = "1s", timeout = "1s" }"#;
    let configuration =
        Configuration::new()
            .pool(POOL, &backends, health)
            .udp(SERVICE, vip(443), POOL, SIX_HOURS);
    let daemon = Daemon::start(&lab, &configuration);

    let mut session = DtlsSession::open(&lab, lab.client(1), vip(443));
    for number in 1..=20 {
        session.echo(&format!("line {number} of the session"));
    }
    let backend = session.peer();
    drop(session);
    let again = DtlsSession::open(&lab, lab.client(1), vip(443));

    assert_eq!(again.peer(), backend);
    assert!(["gateway1", "gateway2"].contains(&backend.as_str()));
    assert_eq!(daemon.status().dropped(), 0);
}

#[test]
fn the_backends_port_may_be_another_than_the_services() {
    let lab = Lab::one_arm().build();
    let _gateways = Gateways::start(&lab);
    let _others: Vec<IdentityServer> = lab
        .gateways()
        .iter()
        .map(|gateway| IdentityServer::start_as(&format!("{}-8443", gateway.name()), gateway, 8443))
        .collect();
    let configuration =
        Configuration::new()
            .ras_pool(&lab)
            .udp(SERVICE, vip(443), POOL, "backend_port = 8443");
    let _daemon = Daemon::start(&lab, &configuration);

    let backend = lab.client(1).udp(vip(443)).backend();

    assert!(backend.ends_with("-8443"), "{backend}");
}

#[test]
fn a_clients_port_is_kept_where_it_is_free_and_in_the_range() {
    let lab = Lab::one_arm().gateways(1).clients(2).build();
    let _gateways = Gateways::start(&lab);
    let _daemon = Daemon::start(&lab, &Configuration::ras(&lab));
    let source_of = |client: usize, port: u16| {
        let source = SocketAddr::new(lab.client(client).v4().into(), port);
        lab.client(client)
            .udp_from(source, vip(443))
            .ask("hello")
            .source
            .port()
    };

    assert_eq!(source_of(1, 21_000), 21_000);
    let taken = source_of(2, 21_000);
    assert!(
        taken != 21_000 && (20_000..=32_767).contains(&taken),
        "{taken}"
    );
    let outside = source_of(1, 50_000);
    assert!((20_000..=32_767).contains(&outside), "{outside}");
}

#[test]
fn flows_never_share_a_source_towards_one_backend() {
    let lab = Lab::one_arm().gateways(1).campus().build();
    let gateways = Gateways::start(&lab);
    let _daemon = Daemon::start(&lab, &Configuration::ras(&lab));
    // Every client has the same port, so all want the same one.
    let sources: Vec<SocketAddr> = (1..=200)
        .map(|number| SocketAddr::new(campus_v4(number).ip(), 25_000))
        .collect();

    let clients = lab.campus().udp_from_each(&sources, vip(443));
    let seen: BTreeSet<SocketAddr> = clients
        .iter()
        .map(|client| client.ask("hello").source)
        .collect();

    assert_eq!(seen.len(), clients.len());
    assert_eq!(gateways.all()[0].service.seen().len(), clients.len());
}

#[test]
fn the_hop_count_goes_down_by_one() {
    let lab = Lab::one_arm().gateways(1).build();
    let _gateways = Gateways::start(&lab);
    let _daemon = Daemon::start(&lab, &Configuration::ras(&lab));
    let wire = Capture::open(lab.gateway(1), "eth0");
    let client = lab.client(1).udp(vip(443));
    client.socket().set_ttl(33).expect("a hop count can be set");

    client.ask("counted");

    let frame = wire.next(BOUND, |frame| frame.payload == b"counted");
    assert_eq!(frame.ttl, 32);
}

#[test]
fn what_is_no_service_is_the_hosts_own() {
    let lab = Lab::one_arm().build();
    let _gateways = Gateways::start(&lab);
    let daemon = Daemon::start(&lab, &Configuration::ras(&lab));
    let _at_the_vip = IdentityServer::start_at("balancer", lab.balancer(), vip(5000));
    let at_home = SocketAddr::new(lab.balancer().v4().into(), 5001);
    let _at_home = IdentityServer::start_at("balancer", lab.balancer(), at_home);

    assert_eq!(lab.client(1).udp(vip(5000)).backend(), "balancer");
    assert_eq!(lab.client(1).udp(at_home).backend(), "balancer");
    let refused = lab.client(1).udp(vip(5002)).ask_within("hello", BOUND);
    assert_eq!(
        refused.map_err(|error| error.kind()),
        Err(ErrorKind::ConnectionRefused)
    );
    assert_eq!(daemon.status().dropped(), 0);
}

#[test]
fn a_packet_for_an_snat_port_without_a_flow_is_dropped_and_counted() {
    let lab = Lab::one_arm().build();
    let _gateways = Gateways::start(&lab);
    let daemon = Daemon::start(&lab, &Configuration::ras(&lab));
    let nobody = SocketAddr::new(lab.balancer().v4().into(), 25_000);
    let source = SocketAddr::new(lab.gateway(1).v4().into(), 4433);

    let late = lab
        .gateway(1)
        .udp_from(source, nobody)
        .ask_within("late reply", SILENCE);

    assert_ne!(
        late.map_err(|error| error.kind()),
        Err(ErrorKind::ConnectionRefused),
        "the host answered for a port that is the data path's"
    );
    eventually(BOUND, "the packet is counted", || {
        daemon.status().drops() == [("no_flow".to_owned(), 1)]
    });
}

#[test]
fn a_datagram_without_a_checksum_is_forwarded() {
    let lab = Lab::one_arm().build();
    let _gateways = Gateways::start(&lab);
    let _daemon = Daemon::start(&lab, &Configuration::ras(&lab));
    let wire = Capture::open(lab.client(1), "eth0");
    let question = frame_to_the_vip(&lab, lab.balancer().mac("eth0"));
    let mut bytes = question.to_bytes();
    // Ethernet, IPv4, and the last two of the eight bytes of the UDP header.
    bytes[14 + 20 + 6..14 + 20 + 8].fill(0);

    wire.send_bytes(&bytes);

    let answer = wire.next(BOUND, |frame| frame.source == vip(443));
    assert!(answer.payload.ends_with(&question.payload));
}

#[test]
fn frames_for_another_machine_are_left_alone() {
    let lab = Lab::one_arm().gateways(1).build();
    let gateways = Gateways::start(&lab);
    let daemon = Daemon::start(&lab, &Configuration::ras(&lab));
    let wire = Capture::open(lab.client(1), "eth0");
    let balancer = Capture::open(lab.balancer(), "eth0");
    let question = frame_to_the_vip(&lab, [2, 0, 0, 0, 0, 99]);

    // The switch does not know the address and floods the frame.
    wire.send(&question);

    assert_eq!(
        balancer.next(BOUND, |frame| frame.destination == vip(443)),
        question
    );
    lab.client(1).udp(vip(443)).ask("hello");
    assert_eq!(gateways.all()[0].service.received(), 1);
    assert_eq!(daemon.status().dropped(), 0);
}

#[test]
fn bpftool_shows_flows_with_the_names_of_their_fields() {
    let lab = Lab::one_arm().build();
    let _gateways = Gateways::start(&lab);
    let _daemon = Daemon::start(&lab, &Configuration::ras(&lab));
    let client = lab
        .client(1)
        .udp_from(SocketAddr::new(lab.client(1).v4().into(), 51_000), vip(443));
    let source = client.ask("hello").source;

    let dump = lab
        .balancer()
        .run("bpftool --json map dump pinned /sys/fs/bpf/vipd/flows")
        .ok();

    let entries: serde_json::Value = serde_json::from_str(&dump).expect("bpftool prints JSON");
    let entry = &entries[0]["formatted"];
    assert_eq!(
        entry["key"]["client"],
        serde_json::json!(lab.client(1).v4().octets()),
        "{dump}"
    );
    assert_eq!(entry["key"]["client_port"], 51_000);
    assert_eq!(entry["key"]["vip"], serde_json::json!(VIP.octets()));
    assert_eq!(entry["value"]["snat_port"], source.port());
}

fn frame_to_the_vip(lab: &Lab, to_mac: Mac) -> UdpFrame {
    UdpFrame {
        to_mac,
        from_mac: lab.client(1).mac("eth0"),
        vlans: Vec::new(),
        source: SocketAddr::new(lab.client(1).v4().into(), 40_000),
        destination: vip(443),
        ttl: 64,
        payload: b"hello".to_vec(),
    }
}
