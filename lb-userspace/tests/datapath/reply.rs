//! From the backend to the client.

use std::net::{IpAddr, SocketAddr};

use lb_common::{backend::VlanTags, verdict::DropReason};

use crate::harness::{
    packet::{Packet, udp},
    plan::{
        BALANCER_MAC, CLIENT, CLIENT6, GATEWAY1, GATEWAY1_V6, GATEWAY2, Gateway, SNAT, SNAT6, VIP,
        VIP6,
    },
    site::{Site, Verdict, answer, from_client},
};

/// Returns the answer as the client's router should get it.
fn returned(answer: &Packet, to: &Packet) -> Packet {
    Packet {
        source: to.destination,
        destination: to.source,
        source_mac: BALANCER_MAC,
        destination_mac: to.source_mac,
        tags: to.tags.clone(),
        ttl: answer.ttl - 1,
        ..answer.clone()
    }
}

fn families() -> [(Packet, Gateway); 2] {
    [
        (from_client(CLIENT, VIP), GATEWAY1),
        (from_client(CLIENT6, VIP6), GATEWAY1_V6),
    ]
}

#[test]
fn an_answer_reaches_the_client_from_the_vip() {
    Site::with(|site| {
        for (packet, gateway) in families() {
            site.only(gateway);
            let answer = answer(&site.forward(&packet));

            let verdict = site.send(&answer);

            assert_eq!(verdict, Verdict::Sent(returned(&answer, &packet)));
        }
    });
}

#[test]
fn an_answer_without_a_checksum_stays_without_in_ipv4_and_is_refused_in_ipv6() {
    Site::with(|site| {
        let [(v4, _), (v6, _)] = families();
        let answer4 = answer(&site.forward(&v4)).without_checksum();
        let answer6 = answer(&site.forward(&v6)).without_checksum();

        assert_eq!(site.send(&answer4), Verdict::Sent(returned(&answer4, &v4)));
        // Nothing shows that it would have been for a flow: its address is no VIP.
        assert_eq!(site.send(&answer6), Verdict::Passed);
    });
}

#[test]
fn the_first_answer_marks_the_flow_as_answered() {
    Site::with(|site| {
        for (packet, _) in families() {
            let forwarded = site.forward(&packet);
            let record = site.pins.flow(&packet).expect("a flow").record;
            assert_eq!(site.pins.record(record).replied, 0);

            site.answer(&forwarded);

            assert_eq!(site.pins.record(record).replied, 1);
        }
    });
}

#[test]
fn answers_follow_the_router_that_the_client_is_behind() {
    const OTHER_ROUTER: [u8; 6] = [0x02, 0, 0, 0, 0, 0x02];
    Site::with(|site| {
        for (packet, _) in families() {
            let answer = answer(&site.forward(&packet));
            let moved = packet.clone().macs(OTHER_ROUTER, BALANCER_MAC);

            site.forward(&moved);

            assert_eq!(
                site.send(&answer),
                Verdict::Sent(returned(&answer, &moved)),
                "the MAC address that the last packet came from"
            );
        }
    });
}

#[test]
fn an_answer_that_may_go_no_further_is_dropped() {
    Site::with(|site| {
        for (packet, _) in families() {
            let answer = answer(&site.forward(&packet)).ttl(1);

            assert_eq!(site.send(&answer), Verdict::Dropped(DropReason::TtlExpired));
        }
    });
}

#[test]
fn ipv4_options_of_an_answer_are_kept() {
    Site::with(|site| {
        let [(packet, _), _] = families();
        let answer = answer(&site.forward(&packet)).options(&[1; 8]);

        assert_eq!(
            site.send(&answer),
            Verdict::Sent(returned(&answer, &packet))
        );
    });
}

#[test]
fn only_what_nobody_asked_for_at_our_snat_ports_is_dropped() {
    let dropped = Verdict::Dropped(DropReason::NoFlow);
    let table = [
        (
            "a port of the range without a flow",
            GATEWAY1.address,
            "10.11.20.5:20011",
            &dropped,
        ),
        (
            "the lowest port of the range",
            GATEWAY1.address,
            "10.11.20.5:20000",
            &dropped,
        ),
        (
            "the highest port of the range",
            GATEWAY1.address,
            "10.11.20.5:20063",
            &dropped,
        ),
        (
            "from another backend than the flow's",
            GATEWAY2.address,
            SNAT,
            &dropped,
        ),
        (
            "from another port of the flow's backend",
            "10.11.20.106:444",
            SNAT,
            &dropped,
        ),
        (
            "from a host that is no backend",
            "10.11.20.99:443",
            SNAT,
            &dropped,
        ),
        ("in IPv6", GATEWAY1_V6.address, SNAT6, &dropped),
        (
            "the port below the range",
            GATEWAY1.address,
            "10.11.20.5:19999",
            &Verdict::Passed,
        ),
        (
            "the port above the range",
            GATEWAY1.address,
            "10.11.20.5:20064",
            &Verdict::Passed,
        ),
        (
            "the host's own port",
            GATEWAY1.address,
            "10.11.20.5:53",
            &Verdict::Passed,
        ),
        (
            "another address of the host",
            GATEWAY1.address,
            "10.11.20.4:20010",
            &Verdict::Passed,
        ),
    ];
    Site::with(|site| {
        site.only(GATEWAY1);
        site.forward(&from_client(CLIENT, VIP));

        for (what, source, destination, expected) in table {
            let packet = udp(source, destination).macs(GATEWAY1.mac, BALANCER_MAC);
            assert_eq!(site.send(&packet), *expected, "{what}");
        }
    });
}

#[test]
fn a_client_at_a_backend_is_a_client() {
    Site::with(|site| {
        site.only(GATEWAY1);
        let SocketAddr::V4(gateway) = GATEWAY1.address.parse().expect("an address") else {
            panic!("gateway 1 has an IPv4 address");
        };
        let packet = from_client(&format!("{}:20010", gateway.ip()), VIP);

        let forwarded = site.forward(&packet);
        let answer = answer(&forwarded);

        assert_eq!(forwarded.destination.ip(), IpAddr::V4(*gateway.ip()));
        assert_eq!(
            site.send(&answer),
            Verdict::Sent(returned(&answer, &packet))
        );
    });
}

#[test]
fn a_vip_that_is_the_snat_address_as_well_serves_both() {
    const SHARED_VIP: &str = "10.11.20.5:443";
    Site::with(|site| {
        site.add_service(9, SHARED_VIP, GATEWAY1.pool, 9);
        let packet = from_client(CLIENT, SHARED_VIP);

        let answer = answer(&site.forward(&packet));

        assert_eq!(
            site.send(&answer),
            Verdict::Sent(returned(&answer, &packet))
        );
    });
}

#[test]
fn an_answer_whose_interface_is_gone_is_dropped() {
    Site::with(|site| {
        let answer = answer(&site.forward(&from_client(CLIENT, VIP)));
        site.settings(|settings| settings.interfaces.swap(0, 1));

        assert_eq!(
            site.send(&answer),
            Verdict::Dropped(DropReason::InterfaceGone)
        );
    });
}

#[test]
fn tags_towards_the_client_are_those_of_its_last_packet() {
    Site::with(|site| {
        let packet = from_client(CLIENT, VIP);
        let answer = answer(&site.forward(&packet));
        let record = site.pins.flow(&packet).expect("a flow").record;
        assert_eq!(site.pins.record(record).vlan, VlanTags::NONE);
        let tagged = packet.tags(&[(0x8100, 30)]);

        site.forward(&tagged);

        assert_eq!(
            site.send(&answer),
            Verdict::Sent(returned(&answer, &tagged))
        );
    });
}
