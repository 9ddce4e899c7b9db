//! Affinity: a client belongs to the backend that it was first given, on every service of the
//! group, for as long as its timeout says.

use lb_common::{
    affinity::{Affinity, TOUCH_S, is_touch_due, lifetime_s},
    backend::{DOWN, HALT},
    hash,
    service::Service,
};

use crate::harness::{
    plan::{
        AFFINITY_TIMEOUT_S, CLIENT, CLIENT6, FLOW_TIMEOUT_S, GATEWAY1, GATEWAY1_V6, GATEWAY2,
        GATEWAY2_V6, GROUP, GROUP6, Gateway, POOL, SERVICE, SERVICE_OTHER, SERVICE6, VIP,
        VIP_OTHER, VIP6,
    },
    site::{Site, from_client, ip},
};

const CLIENT_IP: &str = "192.0.2.10";
const CLIENT6_IP: &str = "2001:db8:2::10";

/// Returns the number of the backend that the client belongs to.
fn remembered(site: &Site, client: &str, group: u32) -> Option<u16> {
    site.pins.affinity(client, group).map(|entry| entry.backend)
}

#[test]
fn a_client_s_later_flows_go_where_its_first_went() {
    Site::with(|site| {
        for (client, ip, vip, group, first, second) in [
            (CLIENT, CLIENT_IP, VIP, GROUP, GATEWAY1, GATEWAY2),
            (CLIENT6, CLIENT6_IP, VIP6, GROUP6, GATEWAY1_V6, GATEWAY2_V6),
        ] {
            let packet = from_client(client, vip);
            site.only(first);
            assert_eq!(site.gateway_of(&packet), first);
            assert_eq!(remembered(site, ip, group), Some(first.number));

            site.only(second);

            for port in [1, 40_000, 65_535] {
                let other_flow = packet.clone().port(port);
                assert_eq!(site.gateway_of(&other_flow), first, "port {port}");
            }
        }
    });
}

#[test]
fn services_of_a_group_share_the_memory() {
    Site::with(|site| {
        site.only(GATEWAY1);
        site.serve(&from_client(CLIENT, VIP));
        site.only(GATEWAY2);

        assert_eq!(site.gateway_of(&from_client(CLIENT, VIP_OTHER)), GATEWAY1);
        let stranger = from_client("192.0.2.11:20010", VIP_OTHER);
        assert_eq!(site.gateway_of(&stranger), GATEWAY2);
    });
}

#[test]
fn services_of_two_groups_have_memories_of_their_own() {
    Site::with(|site| {
        site.service(SERVICE_OTHER, |service| service.group = 99);
        site.only(GATEWAY1);
        site.serve(&from_client(CLIENT, VIP));
        site.only(GATEWAY2);

        assert_eq!(site.gateway_of(&from_client(CLIENT, VIP_OTHER)), GATEWAY2);
        assert_eq!(remembered(site, CLIENT_IP, GROUP), Some(GATEWAY1.number));
        assert_eq!(remembered(site, CLIENT_IP, 99), Some(GATEWAY2.number));
    });
}

#[test]
fn a_client_is_chosen_anew_when_its_time_has_run_out() {
    Site::with(|site| {
        let packet = from_client(CLIENT, VIP);
        site.only(GATEWAY1);
        site.serve(&packet);
        site.only(GATEWAY2);

        let lifetime = lifetime_s(AFFINITY_TIMEOUT_S, FLOW_TIMEOUT_S);
        assert_eq!(lifetime, AFFINITY_TIMEOUT_S + TOUCH_S);
        site.age(lifetime - 2);
        let within = site.gateway_of(&packet.clone().port(1));
        site.age(lifetime + 1);
        let after = site.gateway_of(&packet.clone().port(2));

        assert_eq!(within, GATEWAY1);
        assert_eq!(after, GATEWAY2);
        assert_eq!(remembered(site, CLIENT_IP, GROUP), Some(GATEWAY2.number));
    });
}

#[test]
fn each_service_of_a_group_has_a_timeout_of_its_own() {
    Site::with(|site| {
        site.service(SERVICE_OTHER, |service| service.affinity_timeout_s = 25);
        site.only(GATEWAY1);
        site.serve(&from_client(CLIENT, VIP));
        site.only(GATEWAY2);

        let between = lifetime_s(25, FLOW_TIMEOUT_S) + 1;
        assert!(between < lifetime_s(AFFINITY_TIMEOUT_S, FLOW_TIMEOUT_S) - 2);

        site.age(between);

        let long = from_client(CLIENT, VIP).port(1);
        assert_eq!(site.gateway_of(&long), GATEWAY1);
        site.age(between);
        assert_eq!(site.gateway_of(&from_client(CLIENT, VIP_OTHER)), GATEWAY2);
    });
}

#[test]
fn no_client_is_forgotten_before_its_flow_is() {
    Site::with(|site| {
        site.service(SERVICE, |service| service.affinity_timeout_s = 1);
        site.only(GATEWAY1);
        site.serve(&from_client(CLIENT, VIP));
        site.only(GATEWAY2);

        site.age(FLOW_TIMEOUT_S + TOUCH_S - 2);

        let other_flow = from_client(CLIENT, VIP).port(1);
        assert_eq!(site.gateway_of(&other_flow), GATEWAY1);
    });
}

#[test]
fn packets_of_a_flow_keep_its_client_remembered() {
    Site::with(|site| {
        for (client, ip, vip, group) in [
            (CLIENT, CLIENT_IP, VIP, GROUP),
            (CLIENT6, CLIENT6_IP, VIP6, GROUP6),
        ] {
            let packet = from_client(client, vip);
            site.serve(&packet);
            let before = site.pins.affinity(ip, group).expect("a memory").last_seen;
            site.age(TOUCH_S);

            site.forward(&packet);

            let after = site.pins.affinity(ip, group).expect("a memory").last_seen;
            assert!(after >= before, "{client} is as old as before");
        }
    });
}

#[test]
fn answers_of_a_flow_keep_its_client_remembered() {
    // A backend that sends without pause would otherwise hide the client's packets: each second's
    // first packet is an answer.
    Site::with(|site| {
        for (client, ip, vip, group) in [
            (CLIENT, CLIENT_IP, VIP, GROUP),
            (CLIENT6, CLIENT6_IP, VIP6, GROUP6),
        ] {
            let forwarded = site.forward(&from_client(client, vip));
            site.answer(&forwarded);
            let before = site.pins.affinity(ip, group).expect("a memory").last_seen;
            site.age(TOUCH_S);

            site.answer(&forwarded);

            let after = site.pins.affinity(ip, group).expect("a memory").last_seen;
            assert!(after >= before, "{client} is as old as before");
        }
    });
}

#[test]
fn a_flow_marks_its_client_once_in_sixteen_seconds() {
    Site::with(|site| {
        let packet = from_client(CLIENT, VIP);
        let forwarded = site.forward(&packet);
        site.answer(&forwarded);
        let record = site.pins.flow(&packet).expect("a flow").record;
        // Away from the edges of sixteen seconds, at which every age crosses one.
        while !(2..TOUCH_S - 2).contains(&(site.pins.record(record).last_seen % TOUCH_S)) {
            site.forward(&packet);
        }
        let mut marks = 0;
        for seconds in 1..=TOUCH_S + 2 {
            // The clock stands still, so the marks that would have come meanwhile do not.
            let entry = Affinity {
                last_seen: site.pins.record(record).last_seen,
                ..site.pins.affinity(CLIENT_IP, GROUP).expect("a memory")
            };
            site.pins.set_affinity(CLIENT_IP, GROUP, entry);
            site.age(seconds);
            let flow_before = site.pins.record(record).last_seen;
            let before = site.pins.affinity(CLIENT_IP, GROUP).expect("a memory");

            if seconds % 2 == 0 {
                site.forward(&packet);
            } else {
                site.answer(&forwarded);
            }

            let now = site.pins.record(record).last_seen;
            let after = site.pins.affinity(CLIENT_IP, GROUP).expect("a memory");
            if is_touch_due(flow_before, now) {
                assert_eq!(after.last_seen, now);
                marks += 1;
            } else {
                assert_eq!(after, before, "marked between {flow_before} and {now}");
            }
        }
        assert!((3..TOUCH_S + 2).contains(&marks), "{marks} marks");
    });
}

#[test]
fn a_client_is_remembered_when_it_has_been_answered() {
    Site::with(|site| {
        for (client, ip, vip, group, gateways) in [
            (CLIENT, CLIENT_IP, VIP, GROUP, [GATEWAY1, GATEWAY2]),
            (
                CLIENT6,
                CLIENT6_IP,
                VIP6,
                GROUP6,
                [GATEWAY1_V6, GATEWAY2_V6],
            ),
        ] {
            let packet = from_client(client, vip);
            site.only(gateways[0]);
            let forwarded = site.forward(&packet);
            site.forward(&packet);
            assert_eq!(remembered(site, ip, group), None);
            site.only(gateways[1]);

            site.answer(&forwarded);

            assert_eq!(remembered(site, ip, group), Some(gateways[0].number));
            let other_flow = packet.clone().port(1);
            assert_eq!(site.gateway_of(&other_flow), gateways[0]);
        }
    });
}

#[test]
fn a_flow_that_nobody_has_answered_brings_no_expired_memory_back() {
    Site::with(|site| {
        let packet = from_client(CLIENT, VIP);
        site.only(GATEWAY1);
        site.serve(&packet);
        site.only(GATEWAY2);
        site.age(lifetime_s(AFFINITY_TIMEOUT_S, FLOW_TIMEOUT_S) + 1);
        let other_flow = packet.clone().port(1);
        let forwarded = site.forward(&other_flow);

        // It marks its client, if that belongs to somebody.
        site.age(TOUCH_S);
        site.forward(&other_flow);
        site.answer(&forwarded);

        assert_eq!(remembered(site, CLIENT_IP, GROUP), Some(GATEWAY2.number));
    });
}

#[test]
fn the_first_backend_that_answers_has_the_client() {
    Site::with(|site| {
        let packet = from_client(CLIENT, VIP);
        site.only(GATEWAY1);
        let first = site.forward(&packet);
        site.only(GATEWAY2);
        let second = site.forward(&packet.clone().port(1));

        site.answer(&second);
        site.answer(&first);

        assert_eq!(remembered(site, CLIENT_IP, GROUP), Some(GATEWAY2.number));
        assert_eq!(site.gateway_of(&packet), GATEWAY1, "a flow stays");
        assert_eq!(site.gateway_of(&packet.port(2)), GATEWAY2);
    });
}

#[test]
fn an_answer_brings_no_forgotten_client_back() {
    Site::with(|site| {
        let forwarded = site.serve(&from_client(CLIENT, VIP));
        site.service(SERVICE, |service| service.flags = 0);
        let entry = site.pins.affinity(CLIENT_IP, GROUP).expect("a memory");
        site.age(15);

        site.answer(&forwarded);

        let after = site.pins.affinity(CLIENT_IP, GROUP).expect("a memory");
        assert_eq!(after.last_seen, entry.last_seen - 15);
    });
}

#[test]
fn a_prefix_makes_one_client_of_a_network() {
    Site::with(|site| {
        site.service(SERVICE, |service| service.ipv4_prefix = 96 + 24);
        site.service(SERVICE6, |service| service.ipv6_prefix = 64);
        for (vip, group, gateways, network, first, neighbour, stranger) in [
            (
                VIP,
                GROUP,
                [GATEWAY1, GATEWAY2],
                "192.0.2.0",
                CLIENT,
                "192.0.2.99:20010",
                "192.0.3.10:20010",
            ),
            (
                VIP6,
                GROUP6,
                [GATEWAY1_V6, GATEWAY2_V6],
                "2001:db8:2::",
                CLIENT6,
                "[2001:db8:2::abcd:99]:20010",
                "[2001:db8:2:1::10]:20010",
            ),
        ] {
            site.only(gateways[0]);
            site.serve(&from_client(first, vip));
            site.only(gateways[1]);

            assert_eq!(remembered(site, network, group), Some(gateways[0].number));
            assert_eq!(site.gateway_of(&from_client(neighbour, vip)), gateways[0]);
            assert_eq!(site.gateway_of(&from_client(stranger, vip)), gateways[1]);
        }
    });
}

#[test]
fn without_affinity_each_flow_is_chosen_by_its_port_and_nobody_is_remembered() {
    Site::with(|site| {
        site.service(SERVICE, |service| service.flags &= !Service::AFFINITY);
        let client = ip(CLIENT);

        for port in 30_000..30_200 {
            let packet = from_client(CLIENT, VIP).port(port);
            let expected = site.in_table(POOL, hash::source_and_port(&client, port));
            let gateway = if site.pins.in_state(lb_common::record::State::Live).len() < 60 {
                site.gateway_of(&packet)
            } else {
                site.settings(|settings| settings.quarantine_s = 0);
                site.end_flows();
                site.gateway_of(&packet)
            };
            assert_eq!(gateway, expected, "port {port}");
        }
        assert_eq!(remembered(site, CLIENT_IP, GROUP), None);
    });
}

#[test]
fn a_client_of_a_backend_that_serves_nobody_is_chosen_anew_for_good() {
    Site::with(|site| {
        let changes: [fn(&mut lb_common::backend::Backend); 3] = [
            |backend| backend.health = DOWN,
            |backend| backend.admin = HALT,
            |backend| backend.reachable = 0,
        ];
        for (host, change) in (1..).zip(changes) {
            let client = format!("192.0.2.{host}");
            let packet = from_client(&format!("{client}:20010"), VIP);
            site.only(GATEWAY1);
            site.serve(&packet);
            let original = backend(site, GATEWAY1);
            site.backend(GATEWAY1, change);

            let other_flow = packet.clone().port(1);

            assert_eq!(site.gateway_of(&other_flow), GATEWAY2);
            assert_eq!(remembered(site, &client, GROUP), Some(GATEWAY2.number));
            site.backend(GATEWAY1, |backend| *backend = original);
            let third_flow = packet.port(2);
            assert_eq!(site.gateway_of(&third_flow), GATEWAY2, "the move holds");
        }
    });
}

fn backend(site: &Site, gateway: Gateway) -> lb_common::backend::Backend {
    use lb_userspace::dataplane::Dataplane as _;
    site.kernel.image().expect("an image").backends[&gateway.number]
}

#[test]
fn a_memory_of_another_pool_s_backend_does_not_count() {
    Site::with(|site| {
        site.only(GATEWAY1);
        site.serve(&from_client(CLIENT, VIP));
        let entry = site.pins.affinity(CLIENT_IP, GROUP).expect("a memory");
        site.pins.set_affinity(
            CLIENT_IP,
            GROUP,
            Affinity {
                backend: GATEWAY1_V6.number,
                ..entry
            },
        );

        let other_flow = from_client(CLIENT, VIP).port(1);

        assert_eq!(site.gateway_of(&other_flow), GATEWAY1);
        assert_eq!(remembered(site, CLIENT_IP, GROUP), Some(GATEWAY1.number));
    });
}

#[test]
fn a_full_memory_serves_new_clients_by_their_hash_and_counts_them() {
    Site::sized(
        |options| options.max_affinity = 4,
        |site| {
            let clients: Vec<_> = (1..=6)
                .map(|host| format!("192.0.2.{host}:20010"))
                .collect();
            for client in &clients {
                let expected = site.in_table(POOL, hash::source(&ip(client)));
                assert_eq!(site.gateway_of(&from_client(client, VIP)), expected);
            }

            assert_eq!(site.service_counters(SERVICE).affinity_full, 2);
            assert_eq!(remembered(site, "192.0.2.6", GROUP), None);
            assert!(remembered(site, "192.0.2.4", GROUP).is_some());
        },
    );
}

#[test]
fn the_daemon_reads_what_the_program_remembers() {
    use lb_userspace::dataplane::Dataplane as _;
    Site::with(|site| {
        site.only(GATEWAY2);
        site.serve(&from_client(CLIENT, VIP));
        site.age(15);

        let found = site
            .kernel
            .affinity(CLIENT_IP.parse().expect("an address"), GROUP)
            .expect("a map to read");
        let stranger = site
            .kernel
            .affinity("192.0.2.11".parse().expect("an address"), GROUP)
            .expect("a map to read");

        let (backend, age) = found.expect("a memory");
        assert_eq!(backend, GATEWAY2.number);
        assert!((15..=25).contains(&age), "{age} s");
        assert_eq!(stranger, None);
    });
}
