//! Health and admin state, per packet: a flow whose backend cannot serve it any more moves with
//! its next packet, and that packet is forwarded.

use lb_common::{
    backend::{ACTIVE, Backend, DOWN, DRAIN, HALT, UP},
    record::State,
    verdict::DropReason,
};

use crate::harness::{
    packet::Packet,
    plan::{
        CLIENT, CLIENT6, GATEWAY1, GATEWAY1_V6, GATEWAY2, GATEWAY2_V6, GROUP, Gateway, SERVICE,
        SERVICE_OTHER, SERVICE6, SNAT, SNAT6, VIP, VIP_OTHER, VIP6,
    },
    site::{Site, Verdict, answer, from_client, towards},
};

const CLIENT_IP: &str = "192.0.2.10";

type Change = fn(&mut Backend);

/// What takes a backend's flows away, and what gives it back.
const OUT: [(&str, Change, Change); 4] = [
    ("down", |b| b.health = DOWN, |b| b.health = UP),
    ("halted", |b| b.admin = HALT, |b| b.admin = ACTIVE),
    ("unreachable", |b| b.reachable = 0, |b| b.reachable = 1),
    ("removed", |b| b.present = 0, |b| b.present = 1),
];

fn families() -> [(Packet, [Gateway; 2], &'static str, u16); 2] {
    [
        (
            from_client(CLIENT, VIP),
            [GATEWAY1, GATEWAY2],
            SNAT,
            SERVICE,
        ),
        (
            from_client(CLIENT6, VIP6),
            [GATEWAY1_V6, GATEWAY2_V6],
            SNAT6,
            SERVICE6,
        ),
    ]
}

/// Marks the service's own check of a backend.
fn own_check(backend: &mut Backend, service: u16, down: bool) {
    let bit = 1 << (service % 32);
    let word = &mut backend.services_down[usize::from(service) / 32];
    *word = if down { *word | bit } else { *word & !bit };
}

#[test]
fn the_next_packet_of_a_lost_backend_s_flow_is_forwarded_to_another() {
    for (what, take_out, give_back) in OUT {
        Site::with(|site| {
            for (packet, [first, second], snat, service) in families() {
                site.only(first);
                let old = answer(&site.forward(&packet));
                let record = site.pins.flow(&packet).expect("a flow").record;

                site.backend(first, take_out);

                let moved = towards(second, &packet, snat);
                assert_eq!(site.send(&packet), Verdict::Sent(moved.clone()), "{what}");
                assert_eq!(
                    site.pins.state(record),
                    State::Free,
                    "{what}: its port is freed"
                );
                assert_eq!(
                    site.send(&old),
                    Verdict::Dropped(DropReason::NoFlow),
                    "{what}: the lost backend is not heard any more"
                );
                assert_eq!(site.answer(&moved).destination, packet.source);
                assert_eq!(site.service_counters(service).flows_moved, 1);
                assert_eq!(site.backend_counters(second).flows_moved, 1);
                assert_eq!(site.backend_counters(first).flows_moved, 0);

                site.backend(first, give_back);
                assert_eq!(site.send(&packet), Verdict::Sent(moved), "{what}: it stays");
                assert_eq!(site.service_counters(service).flows_moved, 1);
            }
        });
    }
}

#[test]
fn a_flow_that_nobody_can_take_is_dropped_and_lives_on_when_its_backend_is_back() {
    Site::with(|site| {
        for (packet, [first, second], ..) in families() {
            site.only(first);
            let before = site.forward(&packet);
            site.backend(first, |backend| backend.health = DOWN);
            site.backend(second, |backend| backend.health = DOWN);

            let lost = site.send(&packet);
            site.backend(first, |backend| backend.health = UP);

            assert_eq!(lost, Verdict::Dropped(DropReason::NoEligibleBackend));
            assert_eq!(site.forward(&packet), before);
            assert_eq!(site.answer(&before).destination, packet.source);
        }
    });
}

#[test]
fn a_moved_flow_keeps_the_client_s_port_where_it_is_free() {
    Site::with(|site| {
        site.only(GATEWAY1);
        let packet = from_client(CLIENT, VIP);
        site.forward(&packet);
        site.backend(GATEWAY1, |backend| backend.health = DOWN);

        assert_eq!(site.forward(&packet).source, packet_port(&packet));
    });
}

fn packet_port(packet: &Packet) -> std::net::SocketAddr {
    let mut snat: std::net::SocketAddr = SNAT.parse().expect("an address");
    snat.set_port(packet.source.port());
    snat
}

#[test]
fn a_backend_that_drains_keeps_its_clients_and_takes_no_new_ones() {
    Site::with(|site| {
        site.only(GATEWAY1);
        let packet = from_client(CLIENT, VIP);
        let before = site.serve(&packet);

        site.backend(GATEWAY1, |backend| backend.admin = DRAIN);

        assert_eq!(site.forward(&packet), before, "its flow");
        let other_flow = packet.clone().port(1);
        assert_eq!(
            site.gateway_of(&other_flow),
            GATEWAY1,
            "its client's next flow"
        );
        let other_service = from_client(CLIENT, VIP_OTHER);
        assert_eq!(
            site.gateway_of(&other_service),
            GATEWAY1,
            "on another service"
        );
        for host in 1..=50 {
            let stranger = from_client(&format!("198.51.100.{host}:40000"), VIP);
            assert_eq!(site.gateway_of(&stranger), GATEWAY2, "a new client");
        }
    });
}

#[test]
fn a_full_backend_keeps_its_clients_and_takes_no_new_ones() {
    Site::with(|site| {
        site.only(GATEWAY1);
        let packet = from_client(CLIENT, VIP);
        site.forward(&packet);

        site.backend(GATEWAY1, |backend| backend.full = 1);

        assert_eq!(site.gateway_of(&packet), GATEWAY1);
        assert_eq!(site.gateway_of(&packet.clone().port(1)), GATEWAY1);
        let stranger = from_client("198.51.100.1:40000", VIP);
        assert_eq!(site.gateway_of(&stranger), GATEWAY2);
        site.backend(GATEWAY1, |backend| backend.full = 0);
        let next = from_client("198.51.100.2:40000", VIP);
        assert_eq!(site.gateway_of(&next), GATEWAY1);
    });
}

#[test]
fn a_backend_that_only_one_service_finds_down_is_gone_round_by_that_service() {
    Site::with(|site| {
        site.only(GATEWAY1);
        let packet = from_client(CLIENT, VIP);
        let other_service = from_client(CLIENT, VIP_OTHER);
        site.serve(&packet);
        site.serve(&other_service);
        let remembered = |site: &Site| site.pins.affinity(CLIENT_IP, GROUP).map(|e| e.backend);

        site.backend(GATEWAY1, |backend| own_check(backend, SERVICE, true));

        assert_eq!(site.gateway_of(&packet), GATEWAY2, "its flow moves");
        let other_flow = packet.clone().port(1);
        assert_eq!(site.gateway_of(&other_flow), GATEWAY2, "as a new one does");
        assert_eq!(remembered(site), Some(GATEWAY1.number), "the memory stays");
        assert_eq!(site.gateway_of(&other_service), GATEWAY1, "others stay");
        site.backend(GATEWAY1, |backend| own_check(backend, SERVICE, false));
        let next_flow = packet.clone().port(2);
        assert_eq!(site.gateway_of(&next_flow), GATEWAY1, "and it is back");
    });
}

#[test]
fn a_new_client_s_detour_is_not_remembered() {
    Site::with(|site| {
        site.only(GATEWAY1);
        site.backend(GATEWAY1, |backend| own_check(backend, SERVICE, true));

        assert_eq!(site.gateway_of(&from_client(CLIENT, VIP)), GATEWAY2);

        let entry = site.pins.affinity(CLIENT_IP, GROUP).expect("a memory");
        assert_eq!(entry.backend, GATEWAY1.number);
        assert_eq!(site.gateway_of(&from_client(CLIENT, VIP_OTHER)), GATEWAY1);
    });
}

#[test]
fn a_service_without_any_backend_of_its_own_leaves_the_memory_alone() {
    // The client belongs to a backend that drains: chosen anew, it would come to the other one.
    Site::with(|site| {
        site.only(GATEWAY1);
        site.serve(&from_client(CLIENT, VIP_OTHER));
        site.backend(GATEWAY1, |backend| backend.admin = DRAIN);
        site.only(GATEWAY2);
        for gateway in [GATEWAY1, GATEWAY2] {
            site.backend(gateway, |backend| own_check(backend, SERVICE, true));
        }

        let lost = site.send(&from_client(CLIENT, VIP));

        assert_eq!(lost, Verdict::Dropped(DropReason::NoEligibleBackend));
        let entry = site.pins.affinity(CLIENT_IP, GROUP).expect("a memory");
        assert_eq!(entry.backend, GATEWAY1.number);
        let other_service = from_client(CLIENT, VIP_OTHER).port(1);
        assert_eq!(site.gateway_of(&other_service), GATEWAY1);
    });
}

#[test]
fn own_checks_of_services_with_high_numbers_count() {
    const { assert!(SERVICE_OTHER >= 32, "its bit is in another word") };
    Site::with(|site| {
        site.only(GATEWAY1);
        site.backend(GATEWAY1, |backend| own_check(backend, SERVICE_OTHER, true));

        assert_eq!(site.gateway_of(&from_client(CLIENT, VIP_OTHER)), GATEWAY2);
        let stranger = from_client("192.0.2.11:20011", VIP);
        assert_eq!(site.gateway_of(&stranger), GATEWAY1);
    });
}

#[test]
fn a_backend_s_new_mac_address_holds_for_flows_at_once() {
    const NEW_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x66];
    Site::with(|site| {
        site.only(GATEWAY1);
        let packet = from_client(CLIENT, VIP);
        site.forward(&packet);

        site.backend(GATEWAY1, |backend| backend.mac = NEW_MAC);

        assert_eq!(site.forward(&packet).destination_mac, NEW_MAC);
    });
}
