//! The laboratory itself: what it is built to show would otherwise be believed.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use lb_tests::lab::{
    HealthPage, Host, IdentityServer, Lab, Load,
    capture::Capture,
    daemon::pins,
    dtls::{DtlsServer, DtlsSession},
    eventually::eventually,
    frames::UdpFrame,
    netns::NetNs,
    nginx::Nginx,
    process::Process,
    site::{campus_v4, campus_v6},
    veth,
};

const BOUND: Duration = Duration::from_secs(5);

#[test]
fn clients_reach_the_gateways_of_a_one_arm_site_in_both_families() {
    let lab = Lab::one_arm().gateways(2).build();
    let _server = IdentityServer::start(lab.gateway(2), 443);

    for address in [
        IpAddr::from(lab.gateway(2).v4()),
        lab.gateway(2).v6().into(),
    ] {
        let client = lab.client(1).udp(SocketAddr::new(address, 443));

        let answer = client.ask("hello");

        assert_eq!(answer.backend, "gateway2");
        assert_eq!(answer.source, client.local());
        assert_eq!(answer.payload, "hello");
    }
}

#[test]
fn the_two_sides_of_a_two_arm_site_meet_only_at_the_balancer() {
    let lab = Lab::two_arm().far_gateway().build();
    let _servers: Vec<IdentityServer> = [lab.balancer(), lab.gateway(1), lab.far_gateway()]
        .map(|host| IdentityServer::start(host, 443))
        .into();
    let answers = |from: &Host, to: &Host| {
        let server = SocketAddr::new(to.v4().into(), 443);
        from.udp(server).backend_within(Duration::from_millis(500))
    };

    assert_eq!(
        answers(lab.client(1), lab.balancer()),
        Some("balancer".to_owned())
    );
    assert_eq!(
        answers(lab.balancer(), lab.gateway(1)),
        Some("gateway1".to_owned())
    );
    assert_eq!(
        answers(lab.balancer(), lab.far_gateway()),
        Some("far-gateway".to_owned())
    );
    assert_eq!(answers(lab.client(1), lab.gateway(1)), None);
}

#[test]
fn the_campus_is_as_many_clients_as_a_test_wants() {
    let lab = Lab::one_arm().campus().build();
    let server = IdentityServer::start(lab.balancer(), 9000);
    let sources: Vec<SocketAddr> = (1..=300).map(campus_v4).collect();
    let sources6: Vec<SocketAddr> = (1..=300).map(campus_v6).collect();

    for (sources, address) in [
        (sources, IpAddr::from(lab.balancer().v4())),
        (sources6, lab.balancer().v6().into()),
    ] {
        let clients = lab
            .campus()
            .udp_from_each(&sources, SocketAddr::new(address, 9000));
        for client in &clients {
            assert_eq!(client.ask("hello").source, client.local());
        }
    }

    assert_eq!(server.seen().len(), 600);
}

#[test]
fn a_wrong_checksum_is_noticed() {
    let lab = Lab::one_arm().build();
    let _server = IdentityServer::start(lab.gateway(1), 443);
    let wire = Capture::open(lab.client(1), "eth0");
    let mut bytes = UdpFrame {
        to_mac: lab.gateway(1).mac("eth0"),
        from_mac: lab.client(1).mac("eth0"),
        vlans: Vec::new(),
        source: SocketAddr::new(lab.client(1).v4().into(), 5000),
        destination: SocketAddr::new(lab.gateway(1).v4().into(), 443),
        ttl: 64,
        payload: b"hello".to_vec(),
    }
    .to_bytes();
    *bytes.last_mut().expect("a frame has bytes") ^= 1;
    lab.expect_checksum_errors();

    wire.send_bytes(&bytes);

    eventually(BOUND, "the gateway refuses the datagram", || {
        lab.checksum_errors() == [("gateway1".to_owned(), 1)]
    });
}

#[test]
fn frames_with_vlan_tags_arrive_with_them() {
    let lab = Lab::one_arm().build();
    let here = Capture::open(lab.client(1), "eth0");
    let there = Capture::open(lab.gateway(1), "eth0");
    let frame = UdpFrame {
        to_mac: lab.gateway(1).mac("eth0"),
        from_mac: lab.client(1).mac("eth0"),
        vlans: vec![20, 30],
        source: SocketAddr::new(lab.client(1).v4().into(), 5000),
        destination: SocketAddr::new(lab.gateway(1).v4().into(), 443),
        ttl: 64,
        payload: b"hello".to_vec(),
    };

    here.send(&frame);

    assert_eq!(there.next(BOUND, |seen| seen.source.port() == 5000), frame);
}

#[test]
fn traffic_is_counted_to_the_last_datagram() {
    let lab = Lab::one_arm().clients(1).build();
    let mut server = IdentityServer::start(lab.gateway(1), 443);
    let target = SocketAddr::new(lab.gateway(1).v4().into(), 443);
    let clients = (0..10).map(|_| lab.client(1).udp(target)).collect();

    let load = Load::start(clients, 10_000);
    load.await_answers(5_000, BOUND);
    let report = load.finish();

    report.assert_nothing_lost();
    report.assert_nothing_moved();
    // One went ahead.
    assert_eq!(server.received(), report.sent + 1);

    let load = Load::start(vec![lab.client(1).udp(target)], 1_000);
    load.await_answers(100, BOUND);
    server.stop();
    let seen = load.sent();
    eventually(BOUND, "more is sent to a closed port", || {
        load.sent() > seen + 10
    });
    let report = load.finish();
    assert!(report.lost.len() >= 10 && report.refused > 0, "{report:?}");
}

#[test]
fn a_dtls_session_tells_the_gateway_and_echoes() {
    let lab = Lab::one_arm().build();
    let _server = DtlsServer::start(&lab, lab.gateway(2), 443);
    let target = SocketAddr::new(lab.gateway(2).v4().into(), 443);

    for session in ["first", "second"] {
        let mut open = DtlsSession::open(&lab, lab.client(1), target);

        assert_eq!(open.peer(), "gateway2");
        open.echo(&format!("hello from the {session} session"));
        open.echo(&format!("good bye from the {session} session"));
    }
}

#[test]
fn health_pages_answer_what_they_are_told() {
    let lab = Lab::one_arm().build();
    let mut page = HealthPage::start(lab.gateway(1), 8080);
    let nginx = Nginx::start(&lab, lab.gateway(1), 443, "/RASHTML5Gateway", "welcome");
    let address = lab.gateway(1).v4();
    let curl = |url: &str| {
        lab.balancer()
            .run(&format!("curl -ks --max-time 3 -w :%{{http_code}} {url}"))
            .stdout
    };
    let http = format!("http://{address}:8080/health");
    let https = format!("https://{address}/RASHTML5Gateway");

    assert_eq!(curl(&http), "ok:200");
    page.answer(503, "closed");
    assert_eq!(curl(&http), "closed:503");
    page.stop();
    assert_eq!(curl(&http), ":000");
    page.resume();
    assert_eq!(curl(&http), "closed:503");
    assert!(page.requests()[0].starts_with("GET /health HTTP/1.1"));

    assert_eq!(curl(&https), "welcome:200");
    nginx.set_body("other");
    assert_eq!(curl(&https), "other:200");
    nginx.set_available(false);
    assert!(curl(&https).ends_with(":503"));
    nginx.set_available(true);
    assert_eq!(curl(&https), "other:200");
}

#[test]
fn the_balancer_has_a_bpffs_of_its_own_that_outlives_its_processes() {
    let first = Lab::one_arm().build();
    let second = Lab::one_arm().build();
    first.balancer().run("mkdir /sys/fs/bpf/vipd").ok();

    assert_eq!(pins(first.balancer()), ["/sys/fs/bpf/vipd/"]);
    assert!(pins(second.balancer()).is_empty());
}

#[test]
fn people_get_in_by_the_door_of_a_machine() {
    let lab = Lab::one_arm().build();
    lab.balancer().run("mkdir /sys/fs/bpf/vipd").ok();
    let through = |host, line: &str| {
        let mut command = std::process::Command::new(lab.door(host));
        command.args(line.split_whitespace());
        lb_tests::lab::process::Outcome::of(command).ok()
    };

    assert!(through(lab.balancer(), "ls /sys/fs/bpf").contains("vipd\n"));
    assert!(through(lab.gateway(1), "ip address").contains("10.20.90.11/24"));
}

#[test]
fn a_site_leaves_nothing_behind() {
    let outside = NetNs::new();
    let lab = Lab::two_arm().campus().far_gateway().build();
    let directory = lab.directory().to_owned();
    // A cable ends with the namespaces at both of its ends.
    for (number, host) in lab.hosts().enumerate() {
        veth::connect(&outside, &format!("probe{number}"), host.net(), "probe");
    }
    let probes = || {
        outside
            .enter(|| std::fs::read_to_string("/proc/thread-self/net/dev"))
            .expect("interfaces can be listed")
            .matches("probe")
            .count()
    };
    assert_eq!(probes(), lab.hosts().count());
    let mut sleeper = lab.gateway(1).command("sleep");
    sleeper.arg("1000");
    let child = Process::start("sleep", sleeper, &directory.join("sleep.log"));
    let proc_entry = format!("/proc/{}", child.id());
    assert!(std::path::Path::new(&proc_entry).exists());

    drop(child);
    drop(lab);

    eventually(BOUND, "every namespace is gone", || probes() == 0);
    assert!(!std::path::Path::new(&proc_entry).exists());
    assert!(!directory.exists());
}
