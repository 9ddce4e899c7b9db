//! Health: what is found, what it is called, and who is moved by it.

use std::{net::SocketAddr, time::Duration};

use lb_tests::lab::{
    Configuration, Daemon, Gateways, HealthPage, Host, Lab, Load, UdpClient,
    configuration::{HEALTH, POOL, SERVICE, SIX_HOURS, backend},
    eventually::{always, eventually},
    nginx::Nginx,
    site::{VIP, campus_v4, vip},
};

/// Within this a check with three failures at 300 ms has found a change, on a busy machine too.
const FOUND: Duration = Duration::from_secs(10);

#[test]
fn flows_of_a_backend_that_goes_down_are_moved_by_their_next_packet_and_none_is_lost() {
    let lab = Lab::one_arm().campus().build();
    let mut gateways = Gateways::start(&lab);
    let daemon = Daemon::start(&lab, &Configuration::ras(&lab));
    let load = Load::start(campus_clients(&lab, 40), 1000);
    load.await_answers(500, FOUND);

    // The page fails while the service still answers: whatever is lost, we lost.
    gateways.named("gateway1").page.answer(503, "closed");
    eventually(FOUND, "gateway1 is found down", || {
        !daemon.status().backend("gateway1").is_up()
    });
    load.await_answers(500, FOUND);
    let before = gateways.named("gateway1").service.received();
    load.await_answers(500, FOUND);
    let report = load.finish();

    report.assert_nothing_lost();
    assert_eq!(
        gateways.named("gateway1").service.received(),
        before,
        "packets still came"
    );
    let moved = report
        .flows
        .iter()
        .filter(|flow| flow.backends.contains("gateway1"))
        .count();
    assert!(
        moved > 0 && moved < report.flows.len(),
        "{moved} flows were on gateway1"
    );
    for flow in &report.flows {
        assert!(flow.backends.contains("gateway2"), "{flow:?}");
        if !flow.backends.contains("gateway1") {
            assert_eq!(flow.sources.len(), 1, "{flow:?} was moved without need");
        }
    }
}

#[test]
fn the_status_says_why_a_backend_is_down_and_the_log_says_it_once() {
    let lab = Lab::one_arm().build();
    let mut gateways = Gateways::start(&lab);
    let daemon = Daemon::start(&lab, &Configuration::ras(&lab));

    gateways.named("gateway1").page.answer(503, "closed");
    eventually(FOUND, "gateway1 is found down", || {
        !daemon.status().backend("gateway1").is_up()
    });

    let status = daemon.status();
    let reason = status.backend("gateway1").health_reason();
    assert!(
        reason.contains("GET /health answered 503 (expected 200)"),
        "{reason}"
    );
    assert!(
        daemon
            .cli(&["status"])
            .text()
            .contains("answered 503 (expected 200)")
    );
    let log = daemon.log();
    let message = "gateway1 is down: GET /health answered 503 (expected 200)";
    assert_eq!(log.matches(message).count(), 1, "{log}");

    gateways.named("gateway1").die();
    eventually(FOUND, "the reason is the last one", || {
        daemon
            .status()
            .backend("gateway1")
            .health_reason()
            .contains("refused")
    });
}

#[test]
fn a_service_that_stopped_is_found_by_its_clients_packets_long_before_the_next_probe() {
    let lab = Lab::one_arm().campus().build();
    let mut gateways = Gateways::start(&lab);
    // By probes alone this would take a minute and a half.
    let health = r#"{ type = "http", port = 8080, path = "/health", interval = "30s", timeout = "5s", rise = 1, fall = 3 }"#;
    let backends: Vec<String> = lab.gateways().iter().map(backend).collect();
    let configuration =
        Configuration::new()
            .pool(POOL, &backends, health)
            .udp(SERVICE, vip(443), POOL, SIX_HOURS);
    let daemon = Daemon::start(&lab, &configuration);
    let load = Load::start(campus_clients(&lab, 40), 1000);
    load.await_answers(500, FOUND);

    gateways.named("gateway1").die();
    eventually(Duration::from_secs(5), "gateway1 is found down", || {
        !daemon.status().backend("gateway1").is_up()
    });

    let status = daemon.status();
    let gateway = status.backend("gateway1");
    assert!(gateway.unreachable() > 0);
    let reason = gateway.health_reason();
    assert!(
        reason.contains("packets of flows meet errors there too"),
        "{reason}"
    );
    load.await_answers(500, FOUND);
    for flow in load.finish().flows {
        assert!(flow.backends.contains("gateway2"), "{flow:?} was not moved");
    }
}

#[test]
fn a_service_that_stopped_behind_a_page_that_answers_stays_up_and_the_status_says_so() {
    let lab = Lab::one_arm().gateways(1).campus().build();
    let mut gateways = Gateways::start(&lab);
    let daemon = Daemon::start(&lab, &Configuration::ras(&lab));
    let load = Load::start(campus_clients(&lab, 4), 100);
    load.await_answers(50, FOUND);

    gateways.named("gateway1").service.stop();

    eventually(FOUND, "the status says so", || {
        let text = daemon.cli(&["status"]).text();
        text.contains("answers with port unreachable")
    });
    assert!(daemon.status().backend("gateway1").is_up());
    assert!(!load.finish().lost.is_empty());
}

#[test]
fn a_backend_that_returns_gets_new_clients_and_those_who_left_stay_where_they_are() {
    let lab = Lab::one_arm().campus().build();
    let mut gateways = Gateways::start(&lab);
    let daemon = Daemon::start(&lab, &Configuration::ras(&lab));
    gateways.named("gateway1").die();
    eventually(FOUND, "gateway1 is found down", || {
        !daemon.status().backend("gateway1").is_up()
    });
    let early = campus_clients(&lab, 20);
    for client in &early {
        assert_eq!(client.backend(), "gateway2");
    }

    gateways.named("gateway1").revive();
    eventually(FOUND, "gateway1 takes clients", || {
        daemon.status().backend("gateway1").is_eligible()
    });

    for client in &early {
        assert_eq!(client.backend(), "gateway2");
    }
    let late: Vec<SocketAddr> = (1000..1040).map(campus_v4).collect();
    let clients = lab.campus().udp_from_each(&late, vip(443));
    assert!(clients.iter().any(|client| client.backend() == "gateway1"));
}

#[test]
fn the_text_of_the_page_decides_where_a_text_is_expected() {
    let lab = Lab::one_arm().gateways(1).build();
    let mut gateways = Gateways::start(&lab);
    gateways
        .named("gateway1")
        .page
        .answer(200, "<p>Token service is ready.</p>");
    let health = HEALTH.replace(
        "rise = 1",
        r#"rise = 1, expect_body = "Token service is ready.""#,
    );
    let configuration = Configuration::new()
        .pool(POOL, &[backend(lab.gateway(1))], &health)
        .udp(SERVICE, vip(443), POOL, SIX_HOURS);
    let daemon = Daemon::start(&lab, &configuration);
    assert!(daemon.status().backend("gateway1").is_up());

    gateways
        .named("gateway1")
        .page
        .answer(200, "<p>Token service is starting.</p>");
    eventually(FOUND, "gateway1 is found down", || {
        !daemon.status().backend("gateway1").is_up()
    });

    let status = daemon.status();
    let reason = status.backend("gateway1").health_reason();
    assert!(reason.contains("Token service is ready."), "{reason}");
    gateways
        .named("gateway1")
        .page
        .answer(200, "Token service is ready.");
    eventually(FOUND, "gateway1 is found up", || {
        daemon.status().backend("gateway1").is_up()
    });
}

#[test]
fn without_an_eligible_backend_packets_are_dropped_with_that_reason() {
    let lab = Lab::one_arm().build();
    let mut gateways = Gateways::start(&lab);
    let daemon = Daemon::start(&lab, &Configuration::ras(&lab));
    let client = lab.client(1).udp(vip(443));
    client.ask("hello");

    for name in ["gateway1", "gateway2"] {
        gateways.named(name).page.stop();
    }
    eventually(FOUND, "nobody is eligible", || {
        daemon.status().service(SERVICE).eligible() == 0
    });
    assert_eq!(client.backend_within(Duration::from_millis(300)), None);
    eventually(FOUND, "the packet is counted", || {
        daemon.status().drops() == [("no_eligible_backend".to_owned(), 1)]
    });

    for name in ["gateway1", "gateway2"] {
        gateways.named(name).page.resume();
    }
    eventually(FOUND, "both are eligible", || {
        daemon.status().service(SERVICE).eligible() == 2
    });
    client.ask("hello again");
}

#[test]
fn a_services_own_check_detours_that_service_alone() {
    let lab = Lab::one_arm().build();
    let _gateways = Gateways::start(&lab);
    let mut extra: Vec<HealthPage> = lab
        .gateways()
        .iter()
        .map(|host| HealthPage::start(host, 8081))
        .collect();
    let own = format!(
        "backend_port = 443\nhealth = {}\n{SIX_HOURS}",
        HEALTH.replace("8080", "8081")
    );
    let configuration = Configuration::ras(&lab).udp("own-check", vip(4443), POOL, &own);
    let daemon = Daemon::start(&lab, &configuration);
    let client = lab.client(1);
    let home = client.udp(vip(443)).backend();
    let other = if home == "gateway1" {
        "gateway2"
    } else {
        "gateway1"
    };
    assert_eq!(client.udp(vip(4443)).backend(), home);

    let page = if home == "gateway1" { 0 } else { 1 };
    extra[page].stop();
    eventually(FOUND, "the service is detoured", || {
        client.udp(vip(4443)).backend() == other
    });
    assert_eq!(client.udp(vip(443)).backend(), home);
    assert!(daemon.status().backend(&home).is_up());

    extra[page].resume();
    eventually(FOUND, "the service comes home", || {
        client.udp(vip(4443)).backend() == home
    });
    assert_eq!(client.udp(vip(443)).backend(), home);
}

#[test]
fn each_kind_of_check_finds_a_gateway_up_and_then_down() {
    let lab = Lab::one_arm().gateways(1).build();
    let mut gateways = Gateways::start(&lab);
    let nginx = Nginx::start(&lab, lab.gateway(1), 8443, "/RASHTML5Gateway", "RAS");
    let often = r#"interval = "300ms", timeout = "300ms", rise = 1, fall = 3"#;
    let checks = [
        ("connect", r#"type = "connect", port = 8080"#),
        ("http", r#"type = "http", port = 8080, path = "/""#),
        ("tls", r#"type = "tls", port = 8443, verify = "none""#),
        (
            "https",
            r#"type = "https", port = 8443, path = "/RASHTML5Gateway", verify = "none""#,
        ),
        (
            "udp",
            r#"type = "udp", port = 443, send = "who?", expect = "gateway1|""#,
        ),
        ("ping", r#"type = "ping""#),
    ];
    let mut configuration = Configuration::ras(&lab);
    for (number, (name, check)) in checks.iter().enumerate() {
        let gateway = backend(lab.gateway(1)).replace("gateway1", name);
        configuration = configuration
            .pool(name, &[gateway], &format!("{{ {check}, {often} }}"))
            .text(&format!(
                "[[service]]\nname = \"{name}\"\nvip = \"{VIP}\"\nport = {}\n\
                 protocol = \"tcp\"\nforwarding = \"monitor\"\npool = \"{name}\"\n",
                1000 + number
            ));
    }
    let daemon = Daemon::start(&lab, &configuration);
    let up = |name: &str| daemon.status().backend(name).is_up();

    for (name, _) in checks {
        let status = daemon.status();
        assert!(up(name), "{name}: {}", status.backend(name).health_reason());
        assert_eq!(status.service(name).forwarding(), "monitor");
    }
    gateways.named("gateway1").die();
    for name in ["connect", "http", "udp"] {
        eventually(FOUND, &format!("{name} fails"), || !up(name));
    }
    for name in ["tls", "https", "ping"] {
        assert!(up(name), "{name} does not look at what is gone");
    }
    nginx.set_available(false);
    eventually(FOUND, "https fails", || !up("https"));
    assert!(up("tls"), "a server that says 503 still shakes hands");
    lab.set_cable(lab.gateway(1), false);
    for name in ["tls", "ping"] {
        eventually(FOUND, &format!("{name} fails"), || !up(name));
    }
}

#[test]
fn a_backend_that_nobody_answers_for_is_not_eligible_and_says_so() {
    let lab = Lab::one_arm().gateways(1).build();
    let _gateways = Gateways::start(&lab);
    let ghost = r#"{ name = "ghost", address = "10.20.90.200" }"#.to_owned();
    let configuration = Configuration::new()
        .pool(POOL, &[backend(lab.gateway(1)), ghost], HEALTH)
        .udp(SERVICE, vip(443), POOL, r#"persistence = { key = "none" }"#);

    let mut daemon = Daemon::launch(&lab, &configuration);
    daemon.await_ready();

    eventually(FOUND, "the status says who does not answer", || {
        let status = daemon.status();
        let ghost = status.backend("ghost");
        !ghost.is_reachable() && ghost.reachable_reason().contains("10.20.90.200")
    });
    assert!(!daemon.status().backend("ghost").is_eligible());
    eventually(FOUND, "the other backend serves", || {
        daemon.status().service(SERVICE).eligible() == 1
    });
    for _ in 0..20 {
        assert_eq!(lab.client(1).udp(vip(443)).backend(), "gateway1");
    }
}

#[test]
fn a_single_failure_moves_nobody() {
    let lab = Lab::one_arm().gateways(1).build();
    let mut gateways = Gateways::start(&lab);
    let patient = HEALTH.replace("fall = 3", "fall = 1000");
    let configuration = Configuration::new()
        .pool(POOL, &[backend(lab.gateway(1))], &patient)
        .udp(SERVICE, vip(443), POOL, SIX_HOURS);
    let daemon = Daemon::start(&lab, &configuration);
    let probes = gateways.named("gateway1").page.requests().len();

    gateways.named("gateway1").page.answer(500, "broken");
    eventually(FOUND, "three more probes fail", || {
        gateways.named("gateway1").page.requests().len() >= probes + 4
    });

    always(Duration::from_millis(300), "gateway1 is up", || {
        daemon.status().backend("gateway1").is_up()
    });
}

fn campus_clients(lab: &Lab, count: u16) -> Vec<UdpClient> {
    let campus: &Host = lab.campus();
    let sources: Vec<SocketAddr> = (1..=count).map(campus_v4).collect();
    campus.udp_from_each(&sources, vip(443))
}
