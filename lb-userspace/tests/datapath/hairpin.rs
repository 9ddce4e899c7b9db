//! Backends that are clients as well, and SNAT ports where flows meet at one backend.

use lb_common::{
    backend::DOWN,
    record::{Claim, State},
    verdict::DropReason,
};

use crate::harness::{
    packet::{Packet, udp},
    plan::{
        BALANCER_MAC, GATEWAY1, GATEWAY1_V6, GATEWAY2, GATEWAY2_V6, GROUP, Gateway, POOL, SERVICE,
        SNAT, SNAT6, VIP, VIP_OTHER, VIP6,
    },
    site::{Site, Verdict, answer, from_client, towards},
};

/// A second VIP, whose service has the same pool.
const SECOND_VIP: &str = "10.20.90.106:443";

fn families() -> [(&'static str, &'static str, [Gateway; 2]); 2] {
    [
        (VIP, SNAT, [GATEWAY1, GATEWAY2]),
        (VIP6, SNAT6, [GATEWAY1_V6, GATEWAY2_V6]),
    ]
}

/// Returns the packet of a backend to a VIP: it comes straight from the backend.
fn from_backend(gateway: Gateway, port: u16, vip: &str) -> Packet {
    udp(gateway.address, vip)
        .port(port)
        .macs(gateway.mac, BALANCER_MAC)
}

/// Returns an answer as it should get back to whoever sent `to`.
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

#[test]
fn a_backend_is_a_client_of_the_vip_and_is_served_by_the_other_one() {
    Site::with(|site| {
        for (vip, snat, [one, other]) in families() {
            site.only(other);
            let packet = from_backend(one, 20_010, vip);

            let forwarded = towards(other, &packet, snat);

            assert_eq!(site.send(&packet), Verdict::Sent(forwarded.clone()));
            let answer = answer(&forwarded);
            assert_eq!(
                site.send(&answer),
                Verdict::Sent(returned(&answer, &packet))
            );
        }
    });
}

#[test]
fn a_backend_is_a_client_of_the_vip_and_is_served_by_itself() {
    Site::with(|site| {
        for (vip, snat, [one, _]) in families() {
            site.only(one);
            let packet = from_backend(one, 20_010, vip);

            let forwarded = towards(one, &packet, snat);

            assert_eq!(site.send(&packet), Verdict::Sent(forwarded.clone()));
            let answer = answer(&forwarded);
            let back = returned(&answer, &packet);
            assert_eq!(site.send(&answer), Verdict::Sent(back));
            // Both directions again, now that they are known.
            assert_eq!(site.send(&packet), Verdict::Sent(forwarded));
            assert!(matches!(site.send(&answer), Verdict::Sent(_)));
        }
    });
}

#[test]
fn a_backend_that_serves_itself_from_its_service_s_port() {
    Site::with(|site| {
        for (vip, snat, [one, _]) in families() {
            site.only(one);
            let packet = from_backend(one, 443, vip);

            let Verdict::Sent(forwarded) = site.send(&packet) else {
                panic!("not sent");
            };

            let port = forwarded.source.port();
            assert_eq!(forwarded, towards(one, &packet, snat).port(port));
            let answer = answer(&forwarded);
            // From the same address and port as the packet, and told apart by where it goes.
            assert_eq!(answer.source, packet.source);
            assert_eq!(
                site.send(&answer),
                Verdict::Sent(returned(&answer, &packet))
            );
        }
    });
}

#[test]
fn a_service_whose_port_lies_in_the_snat_range_is_no_reply() {
    Site::with(|site| {
        site.only(GATEWAY1);
        site.add_service(60, "10.20.90.105:20033", POOL, GROUP);
        for packet in [
            from_client("192.0.2.10:20010", "10.20.90.105:20033"),
            from_backend(GATEWAY1, 443, "10.20.90.105:20033"),
            from_backend(GATEWAY2, 20_011, "10.20.90.105:20033"),
        ] {
            let Verdict::Sent(forwarded) = site.send(&packet) else {
                panic!("{packet:?} was not sent");
            };
            assert_eq!(forwarded.destination, udp(GATEWAY1.address, SNAT).source);
            let answer = answer(&forwarded);
            assert_eq!(
                site.send(&answer),
                Verdict::Sent(returned(&answer, &packet))
            );
        }
    });
}

#[test]
fn one_client_port_through_two_vips_gets_two_ports_towards_a_backend() {
    Site::with(|site| {
        site.add_service(61, SECOND_VIP, POOL, GROUP);
        site.only(GATEWAY1);
        let packets = [VIP, VIP_OTHER, SECOND_VIP].map(|vip| from_client("192.0.2.10:20010", vip));
        let forwarded = packets.each_ref().map(|packet| site.forward(packet));

        let mut ports = forwarded.each_ref().map(|packet| packet.source.port());
        assert_eq!(ports[0], 20_010);
        ports.sort_unstable();
        assert!(ports.windows(2).all(|pair| pair[0] != pair[1]), "{ports:?}");
        // The answers come back right, in any order, and again.
        for place in [2, 0, 1, 1, 0, 2] {
            let answer = answer(&forwarded[place]);
            let back = returned(&answer, &packets[place]);
            assert_eq!(site.send(&answer), Verdict::Sent(back));
            assert_eq!(site.forward(&packets[place]), forwarded[place]);
        }
    });
}

#[test]
fn two_clients_with_one_port_are_told_apart() {
    Site::with(|site| {
        for (vip, _, [gateway, _]) in families() {
            site.only(gateway);
            let clients = if gateway == GATEWAY1 {
                ["192.0.2.10:20010", "192.0.2.11:20010"]
            } else {
                ["[2001:db8:2::10]:20010", "[2001:db8:2::11]:20010"]
            };
            let packets = clients.map(|client| from_client(client, vip));
            let forwarded = packets.each_ref().map(|packet| site.forward(packet));

            assert_ne!(forwarded[0].source, forwarded[1].source);
            for place in [1, 0, 1] {
                let answer = answer(&forwarded[place]);
                let back = returned(&answer, &packets[place]);
                assert_eq!(site.send(&answer), Verdict::Sent(back));
            }
        }
    });
}

#[test]
fn a_backend_and_a_client_with_one_port_are_told_apart() {
    Site::with(|site| {
        for (vip, _, [gateway, other]) in families() {
            site.only(gateway);
            let client = if gateway == GATEWAY1 {
                "192.0.2.10:20010"
            } else {
                "[2001:db8:2::10]:20010"
            };
            let packets = [
                from_backend(gateway, 20_010, vip),
                from_client(client, vip),
                from_backend(other, 20_010, vip),
            ];
            let forwarded = packets.each_ref().map(|packet| site.forward(packet));
            for (packet, forwarded) in packets.iter().zip(&forwarded).rev() {
                let answer = answer(forwarded);
                let back = returned(&answer, packet);
                assert_eq!(site.send(&answer), Verdict::Sent(back));
            }
        }
    });
}

#[test]
fn a_backend_in_two_pools_shares_its_ports() {
    const POOL_TOO: u16 = 9;
    let again = Gateway {
        number: 31,
        name: "RAS_Server1_too",
        pool: POOL_TOO,
        ..GATEWAY1
    };
    Site::with(|site| {
        site.add_backend(again);
        site.shares(&[(again, 100)]);
        site.add_service(62, SECOND_VIP, POOL_TOO, 99);
        site.only(GATEWAY1);
        let packets = [VIP, SECOND_VIP].map(|vip| from_client("192.0.2.10:20010", vip));

        let forwarded = packets.each_ref().map(|packet| site.forward(packet));

        assert_eq!(forwarded[0].destination, forwarded[1].destination);
        assert_ne!(forwarded[0].source, forwarded[1].source);
        for (place, number) in [(0, GATEWAY1.number), (1, again.number)] {
            let entry = site.pins.flow(&packets[place]).expect("a flow");
            assert_eq!(entry.backend, number);
            let claim = Claim::unpack(site.pins.record(entry.record).claim);
            assert_eq!(claim.backend, number);
            let answer = answer(&forwarded[place]);
            let back = returned(&answer, &packets[place]);
            assert_eq!(site.send(&answer), Verdict::Sent(back));
            assert_eq!(site.backend_counters_of(number).packets_out, 1);
        }

        // One of the two is taken out: the other's flows stay.
        site.backend(GATEWAY1, |backend| backend.health = DOWN);
        assert_eq!(site.forward(&packets[1]), forwarded[1]);
        let moved = site.forward(&packets[0]);
        assert_eq!(moved.destination, udp(GATEWAY2.address, SNAT).source);
    });
}

#[test]
fn a_late_reply_to_a_freed_port_reaches_nobody() {
    let no_flow = Verdict::Dropped(DropReason::NoFlow);
    Site::with(|site| {
        for (vip, _, [gateway, other]) in families() {
            site.only(gateway);
            for packet in [
                from_backend(gateway, 20_010, vip),
                from_backend(other, 20_020, vip),
            ] {
                let forwarded = site.forward(&packet);
                let late = answer(&forwarded);
                site.answer(&forwarded);
                site.end_flows();

                assert_eq!(site.send(&late), no_flow);
                // Nor is it a client's packet: the port rests, and nothing has begun.
                assert_eq!(site.pins.flow_count(), 0);
                assert_eq!(site.pins.in_state(State::Live), Vec::<u32>::new());

                // The next flow with that port gets another one, and the late reply still nothing.
                let next = packet.clone().ttl(33);
                assert_ne!(site.forward(&next).source, forwarded.source);
                assert_eq!(site.send(&late), no_flow);
                site.end_flows();
            }
        }
    });
}

#[test]
fn a_late_reply_of_the_former_backend_of_a_moved_flow_reaches_nobody() {
    Site::with(|site| {
        for (vip, snat, [gateway, other]) in families() {
            site.only(gateway);
            let packet = from_backend(other, 20_010, vip);
            let before = site.forward(&packet);
            site.backend(gateway, |backend| backend.health = DOWN);

            // It moves to the backend that is its own client.
            let after = site.forward(&packet);

            assert_eq!(after, towards(other, &packet, snat));
            let late = answer(&before);
            assert_eq!(site.send(&late), Verdict::Dropped(DropReason::NoFlow));
            let answer = answer(&after);
            assert_eq!(
                site.send(&answer),
                Verdict::Sent(returned(&answer, &packet))
            );
        }
        assert_eq!(site.service_counters(SERVICE).flows_moved, 1);
    });
}
