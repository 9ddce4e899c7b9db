//! SNAT ports: the client's own where it is free, unique towards each backend, rested before they
//! are given away again, refused when all are taken.

use std::collections::BTreeSet;

use lb_common::{
    endpoint::{Endpoint, EndpointKey},
    record::{Record, State},
    verdict::DropReason,
};

use lb_userspace::dataplane::image::MapOp;

use crate::harness::{
    packet::Packet,
    plan::{
        CLIENT, CLIENT6, GATEWAY1, GATEWAY1_V6, GATEWAY2, QUARANTINE_S, SNAT_PORT_FIRST,
        SNAT_PORTS, VIP, VIP6,
    },
    site::{Site, Verdict, answer, from_client, ip},
};

/// Returns the packets of as many clients as there are SNAT ports, each with the same port.
fn as_many_clients_as_ports() -> Vec<Packet> {
    (0..SNAT_PORTS)
        .map(|host| from_client(&format!("198.51.100.{host}:40000"), VIP))
        .collect()
}

fn one_more_client() -> Packet {
    from_client("198.51.100.200:40000", VIP)
}

fn in_range(port: u16) -> bool {
    (SNAT_PORT_FIRST..SNAT_PORT_FIRST + SNAT_PORTS).contains(&port)
}

#[test]
fn the_client_s_port_is_kept_at_both_ends_of_the_range() {
    Site::with(|site| {
        site.only(GATEWAY1);
        for port in [SNAT_PORT_FIRST, SNAT_PORT_FIRST + SNAT_PORTS - 1] {
            let packet = from_client(CLIENT, VIP).port(port);

            assert_eq!(site.forward(&packet).source.port(), port);
        }
    });
}

#[test]
fn a_port_outside_the_range_gets_one_of_the_range() {
    Site::with(|site| {
        site.only(GATEWAY1);
        for port in [
            1,
            SNAT_PORT_FIRST - 1,
            SNAT_PORT_FIRST + SNAT_PORTS,
            u16::MAX,
        ] {
            let packet = from_client(CLIENT, VIP).port(port);

            let forwarded = site.forward(&packet);

            assert!(in_range(forwarded.source.port()), "{}", forwarded.source);
            assert_eq!(site.answer(&forwarded).destination.port(), port);
        }
    });
}

#[test]
fn two_clients_with_one_port_get_two_towards_one_backend() {
    Site::with(|site| {
        site.only(GATEWAY1);
        let first = site.forward(&from_client("192.0.2.1:20010", VIP));
        let second = site.forward(&from_client("192.0.2.2:20010", VIP));

        assert_eq!(first.source.port(), 20_010);
        assert_ne!(second.source.port(), 20_010);
        assert!(in_range(second.source.port()));
    });
}

#[test]
fn two_clients_with_one_port_keep_it_towards_two_backends() {
    Site::with(|site| {
        for (client, gateway) in [("192.0.2.1:20010", GATEWAY1), ("192.0.2.2:20010", GATEWAY2)] {
            site.only(gateway);
            let forwarded = site.forward(&from_client(client, VIP));

            assert_eq!(forwarded.source.port(), 20_010);
        }
    });
}

#[test]
fn a_range_of_64_ports_takes_64_flows_and_refuses_the_65th() {
    Site::with(|site| {
        site.only(GATEWAY1);
        let clients = as_many_clients_as_ports();
        let forwarded: Vec<_> = clients.iter().map(|packet| site.forward(packet)).collect();

        let refused = site.send(&one_more_client());

        assert_eq!(refused, Verdict::Dropped(DropReason::SnatPortsExhausted));
        let ports: BTreeSet<_> = forwarded
            .iter()
            .map(|packet| packet.source.port())
            .collect();
        assert_eq!(ports.len(), usize::from(SNAT_PORTS));
        assert!(ports.into_iter().all(in_range));
        for (client, forwarded) in clients.iter().zip(&forwarded) {
            assert_eq!(site.forward(client), *forwarded, "a flow was harmed");
            assert_eq!(site.answer(forwarded).destination, client.source);
        }
        assert_eq!(site.pins.flow_count(), usize::from(SNAT_PORTS));
    });
}

#[test]
fn one_backend_s_ports_are_not_the_other_s() {
    Site::with(|site| {
        site.only(GATEWAY1);
        for packet in as_many_clients_as_ports() {
            site.forward(&packet);
        }

        site.only(GATEWAY2);

        assert_eq!(site.gateway_of(&one_more_client()), GATEWAY2);
    });
}

#[test]
fn a_second_snat_address_gives_as_many_ports_again() {
    Site::with(|site| {
        site.only(GATEWAY1);
        add_second_snat_address(site);
        site.backend(GATEWAY1, |backend| backend.snat_mask = 0b101);
        let clients: Vec<_> = (0..2 * SNAT_PORTS)
            .map(|host| from_client(&format!("198.51.100.{host}:40000"), VIP))
            .collect();

        let sources: BTreeSet<_> = clients
            .iter()
            .map(|packet| {
                let forwarded = site.forward(packet);
                assert_eq!(site.answer(&forwarded).destination, packet.source);
                forwarded.source
            })
            .collect();

        assert_eq!(sources.len(), usize::from(2 * SNAT_PORTS));
        assert_eq!(
            site.send(&one_more_client()),
            Verdict::Dropped(DropReason::SnatPortsExhausted)
        );
    });
}

#[test]
fn a_backend_is_reached_from_its_own_snat_addresses_only() {
    Site::with(|site| {
        site.only(GATEWAY1);
        add_second_snat_address(site);
        for (mask, address) in [(0b001, "10.11.20.5"), (0b100, "10.11.20.4")] {
            site.backend(GATEWAY1, |backend| backend.snat_mask = mask);
            for host in 0..16 {
                let packet = from_client(&format!("203.0.{mask}.{host}:40000"), VIP);
                assert_eq!(site.forward(&packet).source.ip().to_string(), address);
            }
        }
    });
}

/// Adds the address 10.11.20.4 in the third place, with ports towards gateway 1.
fn add_second_snat_address(site: &mut Site) {
    let second = ip("10.11.20.4:1");
    site.settings(|settings| {
        settings.snat_addresses[2] = second;
        settings.snat_address_count = 3;
    });
    let key = EndpointKey::new(second, ip(GATEWAY1.address), 443, 17);
    site.apply(MapOp::Endpoint(key, Endpoint { slot: 6 }));
}

#[test]
fn a_freed_port_rests_for_the_quarantine() {
    Site::with(|site| {
        site.only(GATEWAY1);
        for packet in as_many_clients_as_ports() {
            site.forward(&packet);
        }
        site.end_flows();
        let exhausted = Verdict::Dropped(DropReason::SnatPortsExhausted);

        assert_eq!(site.send(&one_more_client()), exhausted, "all ports rest");
        site.age(QUARANTINE_S - 5);
        assert_eq!(site.send(&one_more_client()), exhausted, "not long enough");
        site.age(5);

        assert!(matches!(site.send(&one_more_client()), Verdict::Sent(_)));
    });
}

#[test]
fn without_a_quarantine_a_freed_port_serves_at_once() {
    Site::with(|site| {
        site.only(GATEWAY1);
        site.settings(|settings| settings.quarantine_s = 0);
        for packet in as_many_clients_as_ports() {
            site.forward(&packet);
        }
        site.end_flows();

        assert!(matches!(site.send(&one_more_client()), Verdict::Sent(_)));
    });
}

#[test]
fn a_late_answer_at_a_resting_port_reaches_nobody() {
    Site::with(|site| {
        let forwarded = site.forward(&from_client(CLIENT, VIP));
        site.end_flows();

        let late = answer(&forwarded);

        assert_eq!(site.send(&late), Verdict::Dropped(DropReason::NoFlow));
    });
}

#[test]
fn a_port_that_was_freed_in_a_second_yet_to_come_rests_too() {
    // The daemon's clock is finer than the program's, which lags by up to a timer tick: seen from
    // the program, a port may have been freed in the next second.
    Site::with(|site| {
        site.only(GATEWAY1);
        for packet in as_many_clients_as_ports() {
            site.forward(&packet);
        }
        site.end_flows();
        for (index, record) in site.pins.used() {
            let last_seen = record.last_seen + 3;
            site.pins.set_record(
                index,
                Record {
                    last_seen,
                    ..record
                },
            );
        }

        assert_eq!(
            site.send(&one_more_client()),
            Verdict::Dropped(DropReason::SnatPortsExhausted)
        );
    });
}

#[test]
fn the_first_client_of_a_port_is_another_than_the_last() {
    Site::with(|site| {
        site.settings(|settings| settings.quarantine_s = 0);
        for (first, second) in [
            (
                from_client(CLIENT, VIP),
                from_client("192.0.2.77:20010", VIP),
            ),
            (
                from_client(CLIENT6, VIP6),
                from_client("[2001:db8:2::77]:20010", VIP6),
            ),
        ] {
            let gateway = if first.source.is_ipv4() {
                GATEWAY1
            } else {
                GATEWAY1_V6
            };
            site.only(gateway);
            let before = site.forward(&first);
            let stale = site.pins.flow(&first).expect("a flow");
            site.end_flows();
            let after = site.forward(&second);
            assert_eq!(before.source, after.source, "the port is used again");
            // What a crash between the two halves would leave: an entry that names the record of
            // another flow.
            site.pins.set_flow(&first, stale);

            let again = site.forward(&first);

            assert_ne!(again.source, after.source, "two flows share a port");
            assert_eq!(site.answer(&after).destination, second.source);
            assert_eq!(site.answer(&again).destination, first.source);
            assert_eq!(site.pins.in_state(State::Live).len(), 2);
            site.end_flows();
        }
    });
}

#[test]
fn a_wide_range_that_is_nearly_full_still_gives_ports() {
    const PORTS: u16 = 4096;
    with_ports(PORTS, |site| {
        // Nine tenths of the ports are taken: 128 tries find one of the rest all but always.
        let clients = u32::from(PORTS) / 10 * 9;
        let mut sources = BTreeSet::new();
        for number in 0..clients {
            let port = site.forward(&client(number, 40_000)).source.port();
            assert!((SNAT_PORT_FIRST..SNAT_PORT_FIRST + PORTS).contains(&port));
            assert!(sources.insert(port), "port {port} was given twice");
        }
        assert_eq!(site.pins.flow_count(), clients as usize);
    });
}

#[test]
fn clients_that_all_use_the_same_part_of_the_ports_get_others() {
    const PORTS: u16 = 60_000;
    const OWN: u32 = 4096;
    with_ports(PORTS, |site| {
        // Their own ports are all taken soon: whoever searches only near them finds none.
        for number in 0..u32::from(PORTS) / 2 {
            site.forward(&client(number, SNAT_PORT_FIRST + (number % OWN) as u16));
        }
        assert_eq!(site.pins.flow_count(), usize::from(PORTS) / 2);
    });
}

/// Runs a test on a site with one backend, and so many SNAT ports towards it.
fn with_ports(ports: u16, test: impl FnOnce(&mut Site) + Send) {
    Site::sized(
        |options| {
            options.snat_port_count = ports;
            options.max_flows = 8 * u32::from(ports);
        },
        |site| {
            site.only(GATEWAY1);
            test(site);
        },
    );
}

/// Returns the packet of one of many clients, from this port.
fn client(number: u32, port: u16) -> Packet {
    let [_, _, high, low] = number.to_be_bytes();
    from_client(&format!("198.18.{high}.{low}:{port}"), VIP)
}
