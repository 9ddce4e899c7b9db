//! ICMP errors about translated packets reach whoever sent the packet, translated inside and out.

use std::net::IpAddr;

use lb_common::{
    backend::VlanTags,
    record::{Record, State},
    stats::Counters,
    verdict::DropReason,
};

use crate::harness::{
    extension,
    fragment::cut,
    icmp::{Icmp, icmp},
    packet::Packet,
    plan::{
        BALANCER_MAC, CLIENT, CLIENT6, FLOW_TIMEOUT_S, GATEWAY1, GATEWAY1_V6, Gateway, ROUTER_MAC,
        SNAT, SNAT6, VIP, VIP6,
    },
    site::{Site, Verdict, answer, from_client, socket},
};

/// A router between us and the backends, and one on the way to the clients.
const SERVERS_ROUTER: &str = "10.11.20.1";
const SERVERS_ROUTER6: &str = "2001:db8:11::1";
const CLIENTS_ROUTER: &str = "203.0.113.1";
const CLIENTS_ROUTER6: &str = "2001:db8:ffff::1";

/// One family's part of the site.
struct Family {
    client: &'static str,
    vip: &'static str,
    snat: &'static str,
    gateway: Gateway,
    servers_router: &'static str,
    clients_router: &'static str,
    /// Type and code of errors: all that are defined, with some codes.
    errors: &'static [(u8, u8)],
    port_unreachable: (u8, u8),
    too_big: (u8, u8),
}

const FAMILIES: [Family; 2] = [
    Family {
        client: CLIENT,
        vip: VIP,
        snat: SNAT,
        gateway: GATEWAY1,
        servers_router: SERVERS_ROUTER,
        clients_router: CLIENTS_ROUTER,
        errors: &[
            (3, 0),
            (3, 1),
            (3, 2),
            (3, 3),
            (3, 4),
            (3, 13),
            (11, 0),
            (11, 1),
            (12, 0),
        ],
        port_unreachable: (3, 3),
        too_big: (3, 4),
    },
    Family {
        client: CLIENT6,
        vip: VIP6,
        snat: SNAT6,
        gateway: GATEWAY1_V6,
        servers_router: SERVERS_ROUTER6,
        clients_router: CLIENTS_ROUTER6,
        errors: &[
            (1, 0),
            (1, 1),
            (1, 3),
            (1, 4),
            (2, 0),
            (3, 0),
            (3, 1),
            (4, 0),
            (4, 1),
        ],
        port_unreachable: (1, 4),
        too_big: (2, 0),
    },
];

fn host(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn host_of(text: &str) -> IpAddr {
    socket(text).ip()
}

/// A flow with an answer, as it looks on both sides.
struct Flow {
    /// From the client, before and after.
    packet: Packet,
    forwarded: Packet,
    /// From the backend, before and after.
    answer: Packet,
    returned: Packet,
}

fn flow(site: &mut Site, family: &Family) -> Flow {
    flow_of(site, family, from_client(family.client, family.vip))
}

fn flow_of(site: &mut Site, family: &Family, packet: Packet) -> Flow {
    site.only(family.gateway);
    let forwarded = site.forward(&packet);
    let answer = answer(&forwarded);
    let returned = site.forward(&answer);
    Flow {
        packet,
        forwarded,
        answer,
        returned,
    }
}

/// Returns an error about a packet that we sent to a backend.
fn from_servers(family: &Family, sender: IpAddr, kind: (u8, u8), about: &[u8]) -> Icmp {
    icmp(sender, host_of(family.snat), kind, about).macs(family.gateway.mac, BALANCER_MAC)
}

/// Returns that error as the client should get it, about its own packet.
fn to_client(family: &Family, error: &Icmp, about: &[u8]) -> Icmp {
    let mut expected = error.clone().macs(BALANCER_MAC, ROUTER_MAC);
    expected.ip.source = host_of(family.vip);
    expected.ip.destination = host_of(family.client);
    expected.ip.ttl -= 1;
    expected.body = about.to_vec();
    expected
}

/// Returns an error about a packet that we sent to a client.
fn from_clients(family: &Family, sender: IpAddr, kind: (u8, u8), about: &[u8]) -> Icmp {
    icmp(sender, host_of(family.vip), kind, about).macs(ROUTER_MAC, BALANCER_MAC)
}

/// Returns that error as the backend should get it, about its own packet.
fn to_backend(family: &Family, error: &Icmp, about: &[u8]) -> Icmp {
    let mut expected = error.clone().macs(BALANCER_MAC, family.gateway.mac);
    expected.ip.source = host_of(family.snat);
    expected.ip.destination = host_of(family.gateway.address);
    expected.ip.ttl -= 1;
    expected.body = about.to_vec();
    expected
}

/// Returns the first bytes of a packet, with eight bytes of UDP and `more` of what follows.
fn quoted(packet: &Packet, more: usize) -> Vec<u8> {
    let mut quoted = packet.quoted();
    quoted.truncate(packet.l4() - packet.l3() + 8 + more);
    quoted
}

#[test]
fn errors_about_packets_to_a_backend_reach_the_client() {
    Site::with(|site| {
        for family in &FAMILIES {
            let flow = flow(site, family);
            for sender in [
                host_of(family.gateway.address),
                host(family.servers_router),
                host_of(family.client),
            ] {
                for kind in family.errors {
                    for more in [0, 1, 6, 1000] {
                        // Some routers on the way have lowered the TTL that it left with.
                        let about = quoted(&flow.forwarded.clone().ttl(17), more);
                        let error = from_servers(family, sender, *kind, &about);

                        let expected = quoted(&flow.packet.clone().ttl(17), more);
                        let expected = to_client(family, &error, &expected);
                        assert_eq!(site.send_icmp(&error), Verdict::Sent(expected));
                    }
                }
            }
        }
    });
}

#[test]
fn errors_about_packets_to_a_client_reach_the_backend() {
    Site::with(|site| {
        for family in &FAMILIES {
            let flow = flow(site, family);
            for sender in [host_of(family.client), host(family.clients_router)] {
                for kind in family.errors {
                    for more in [0, 1, 7, 1000] {
                        let about = quoted(&flow.returned.clone().ttl(3), more);
                        let error = from_clients(family, sender, *kind, &about);

                        let expected = quoted(&flow.answer.clone().ttl(3), more);
                        let expected = to_backend(family, &error, &expected);
                        assert_eq!(site.send_icmp(&error), Verdict::Sent(expected));
                    }
                }
            }
        }
    });
}

#[test]
fn what_the_error_says_besides_is_kept() {
    Site::with(|site| {
        for family in &FAMILIES {
            let flow = flow(site, family);
            for rest in [[0, 0, 0x05, 0x78], [0xff; 4], [20, 0, 0, 0]] {
                let about = quoted(&flow.forwarded, 0);
                let sender = host(family.servers_router);
                let error = from_servers(family, sender, family.too_big, &about).rest(rest);
                let Verdict::Sent(sent) = site.send_icmp(&error) else {
                    panic!("not sent");
                };
                assert_eq!((sent.rest, sent.kind), (rest, family.too_big));

                let about = quoted(&flow.returned, 0);
                let sender = host(family.clients_router);
                let error = from_clients(family, sender, family.too_big, &about).rest(rest);
                let Verdict::Sent(sent) = site.send_icmp(&error) else {
                    panic!("not sent");
                };
                assert_eq!((sent.rest, sent.kind), (rest, family.too_big));
            }
        }
    });
}

#[test]
fn ipv4_options_inside_and_outside_are_kept() {
    Site::with(|site| {
        let family = &FAMILIES[0];
        let packet = from_client(CLIENT, VIP).options(&[1; 40]);
        let flow = flow_of(site, family, packet);
        for options in [vec![], vec![1; 4], vec![1; 40]] {
            let sender = host(family.servers_router);
            let mut error = from_servers(family, sender, (3, 1), &quoted(&flow.forwarded, 2));
            error.ip.options.clone_from(&options);
            let expected = to_client(family, &error, &quoted(&flow.packet.clone().ttl(63), 2));
            assert_eq!(site.send_icmp(&error), Verdict::Sent(expected));

            let sender = host(family.clients_router);
            let mut error = from_clients(family, sender, (3, 1), &quoted(&flow.returned, 2));
            error.ip.options = options;
            let expected = to_backend(family, &error, &quoted(&flow.answer.clone().ttl(127), 2));
            assert_eq!(site.send_icmp(&error), Verdict::Sent(expected));
        }
    });
}

#[test]
fn a_missing_checksum_inside_stays_missing() {
    Site::with(|site| {
        let family = &FAMILIES[0];
        let packet = from_client(CLIENT, VIP).without_checksum();
        let flow = flow_of(site, family, packet);

        let sender = host_of(family.gateway.address);
        let error = from_servers(family, sender, (3, 3), &quoted(&flow.forwarded, 0));
        let expected = to_client(family, &error, &quoted(&flow.packet.clone().ttl(63), 0));
        assert_eq!(site.send_icmp(&error), Verdict::Sent(expected));

        let sender = host_of(family.client);
        let error = from_clients(family, sender, (3, 3), &quoted(&flow.returned, 0));
        let expected = to_backend(family, &error, &quoted(&flow.answer.clone().ttl(127), 0));
        assert_eq!(site.send_icmp(&error), Verdict::Sent(expected));
    });
}

#[test]
fn an_error_about_a_first_piece_is_translated_and_about_a_later_piece_passes() {
    Site::with(|site| {
        for family in &FAMILIES {
            let flow = flow(site, family);
            let sender = host(family.servers_router);
            let forwarded = cut(&flow.forwarded, 0xabcd, &[8, 8]);
            let original = cut(&flow.packet.clone().ttl(63), 0xabcd, &[8, 8]);

            let error = from_servers(family, sender, family.errors[0], &forwarded[0].quoted());
            let expected = to_client(family, &error, &original[0].quoted());
            assert_eq!(site.send_icmp(&error), Verdict::Sent(expected));

            for later in &forwarded[1..] {
                let error = from_servers(family, sender, family.errors[0], &later.quoted());
                assert_eq!(site.send_icmp(&error), Verdict::Passed, "{later:?}");
            }

            let returned = cut(&flow.returned, 0xabcd, &[8, 8]);
            let answer = cut(&flow.answer.clone().ttl(127), 0xabcd, &[8, 8]);
            let sender = host(family.clients_router);
            let error = from_clients(family, sender, family.errors[0], &returned[0].quoted());
            let expected = to_backend(family, &error, &answer[0].quoted());
            assert_eq!(site.send_icmp(&error), Verdict::Sent(expected));
            let error = from_clients(family, sender, family.errors[0], &returned[1].quoted());
            assert_eq!(site.send_icmp(&error), Verdict::Passed);
        }
    });
}

#[test]
fn an_error_that_may_go_no_further_is_dropped() {
    Site::with(|site| {
        for family in &FAMILIES {
            let flow = flow(site, family);
            for (ttl, expired) in [(0, true), (1, true), (2, false), (255, false)] {
                let about = quoted(&flow.forwarded, 0);
                let sender = host(family.servers_router);
                let to_client = from_servers(family, sender, family.errors[0], &about).ttl(ttl);
                let about = quoted(&flow.returned, 0);
                let sender = host(family.clients_router);
                let to_backend = from_clients(family, sender, family.errors[0], &about).ttl(ttl);

                for error in [to_client, to_backend] {
                    match site.send_icmp(&error) {
                        Verdict::Dropped(DropReason::TtlExpired) if expired => {}
                        Verdict::Sent(sent) if !expired => assert_eq!(sent.ip.ttl, ttl - 1),
                        other => panic!("with TTL {ttl}: {other:?}"),
                    }
                }
            }
        }
    });
}

#[test]
fn tags_are_those_of_the_way_out() {
    let backend_tags = [(0x8100, 30)];
    let client_tags = [(0x88a8, 40), (0x8100, 0x6029)];
    Site::with(|site| {
        for family in &FAMILIES {
            site.backend(family.gateway, |backend| {
                backend.vlan = VlanTags {
                    outer_protocol: 0x8100,
                    control: [30, VlanTags::ABSENT],
                };
            });
            let packet = from_client(family.client, family.vip).tags(&client_tags);
            let flow = flow_of(site, family, packet);
            let plain = |packet: &Packet| quoted(packet, 3);

            let sender = host(family.servers_router);
            let error = from_servers(family, sender, family.errors[0], &plain(&flow.forwarded))
                .tags(&backend_tags);
            let expected =
                to_client(family, &error, &plain(&flow.packet.clone().ttl(63))).tags(&client_tags);
            assert_eq!(site.send_icmp(&error), Verdict::Sent(expected));

            // From another VLAN than the client's packets: an error does not move the client.
            let sender = host(family.clients_router);
            for tags in [&client_tags[..], &[], &[(0x8100, 99)]] {
                let about = plain(&flow.returned);
                let error = from_clients(family, sender, family.errors[0], &about).tags(tags);
                let about = plain(&flow.answer.clone().ttl(127));
                let expected = to_backend(family, &error, &about).tags(&backend_tags);
                assert_eq!(site.send_icmp(&error), Verdict::Sent(expected));
            }
            let again = site.forward(&flow.answer);
            assert_eq!(again, flow.returned);
        }
    });
}

#[test]
fn only_a_backend_s_own_port_unreachable_counts_against_it() {
    Site::with(|site| {
        for family in &FAMILIES {
            let flow = flow(site, family);
            let before = site.counters();
            let about = quoted(&flow.forwarded, 0);
            let backend = host_of(family.gateway.address);
            let router = host(family.servers_router);
            for kind in family.errors {
                let error = from_servers(family, router, *kind, &about);
                assert!(matches!(site.send_icmp(&error), Verdict::Sent(_)));
                if *kind != family.port_unreachable {
                    let error = from_servers(family, backend, *kind, &about);
                    assert!(matches!(site.send_icmp(&error), Verdict::Sent(_)));
                }
            }
            let client = host_of(family.client);
            let about_client = quoted(&flow.returned, 0);
            let error = from_clients(family, client, family.port_unreachable, &about_client);
            assert!(matches!(site.send_icmp(&error), Verdict::Sent(_)));
            assert_eq!(site.counters().backends, before.backends);
            assert_eq!(site.counters().services, before.services);

            for _ in 0..3 {
                let error = from_servers(family, backend, family.port_unreachable, &about);
                assert!(matches!(site.send_icmp(&error), Verdict::Sent(_)));
            }

            let expected = Counters {
                unreachable: 3,
                ..before.backends[usize::from(family.gateway.number)]
            };
            assert_eq!(site.backend_counters(family.gateway), expected);
            assert_eq!(site.counters().services, before.services);
        }
    });
}

#[test]
fn errors_leave_records_and_memories_as_they_are() {
    Site::with(|site| {
        for family in &FAMILIES {
            let flow = flow(site, family);
            site.age(FLOW_TIMEOUT_S + 1);
            let record = site.pins.flow(&flow.packet).expect("a flow").record;
            for state in [State::Live, State::Closing] {
                if state == State::Closing {
                    site.sweep();
                }
                assert_eq!(site.pins.state(record), state);
                let before = site.pins.used();

                let error = from_servers(
                    family,
                    host(family.servers_router),
                    family.errors[0],
                    &quoted(&flow.forwarded, 0),
                );
                let expected = to_client(family, &error, &quoted(&flow.packet.clone().ttl(63), 0));
                assert_eq!(site.send_icmp(&error), Verdict::Sent(expected));
                let error = from_clients(
                    family,
                    host(family.clients_router),
                    family.errors[0],
                    &quoted(&flow.returned, 0),
                )
                .macs([2, 0, 0, 0, 0, 0x77], BALANCER_MAC);
                assert!(matches!(site.send_icmp(&error), Verdict::Sent(_)));

                assert_eq!(site.pins.used(), before);
            }
            site.sweep();
            assert_eq!(site.pins.state(record), State::Free);

            // Of a flow that has ended nobody is told.
            let about = quoted(&flow.forwarded, 0);
            let sender = host(family.servers_router);
            let error = from_servers(family, sender, family.errors[0], &about);
            assert_eq!(site.send_icmp(&error), Verdict::Passed);
            let about = quoted(&flow.returned, 0);
            let sender = host(family.clients_router);
            let error = from_clients(family, sender, family.errors[0], &about);
            assert_eq!(site.send_icmp(&error), Verdict::Passed);
        }
    });
}

#[test]
fn an_error_of_a_backend_that_is_down_still_reaches_the_client() {
    Site::with(|site| {
        for family in &FAMILIES {
            let flow = flow(site, family);
            site.backend(family.gateway, |backend| backend.health = 0);

            let sender = host_of(family.gateway.address);
            let about = quoted(&flow.forwarded, 0);
            let error = from_servers(family, sender, family.port_unreachable, &about);
            let expected = to_client(family, &error, &quoted(&flow.packet.clone().ttl(63), 0));
            assert_eq!(site.send_icmp(&error), Verdict::Sent(expected));

            let sender = host_of(family.client);
            let about = quoted(&flow.returned, 0);
            let error = from_clients(family, sender, family.port_unreachable, &about);
            let expected = to_backend(family, &error, &quoted(&flow.answer.clone().ttl(127), 0));
            assert_eq!(site.send_icmp(&error), Verdict::Sent(expected));
        }
    });
}

#[test]
fn the_size_of_an_error_is_not_looked_at() {
    Site::with(|site| {
        let flows = FAMILIES.each_ref().map(|family| flow(site, family));
        site.settings(|settings| settings.interfaces[0].mtu = 60);
        for (family, flow) in FAMILIES.iter().zip(flows) {
            site.backend(family.gateway, |backend| backend.mtu = 60);
            let sender = host(family.servers_router);
            let about = quoted(&flow.forwarded, 1000);
            let error = from_servers(family, sender, family.errors[0], &about);
            assert!(matches!(site.send_icmp(&error), Verdict::Sent(_)));
            let sender = host(family.clients_router);
            let about = quoted(&flow.returned, 1000);
            let error = from_clients(family, sender, family.errors[0], &about);
            assert!(matches!(site.send_icmp(&error), Verdict::Sent(_)));
        }
    });
}

/// Returns an error with some bytes of the quoted packet replaced.
fn altered(error: &Icmp, offset: usize, bytes: &[u8]) -> Icmp {
    let mut altered = error.clone();
    altered.body[offset..][..bytes.len()].copy_from_slice(bytes);
    altered
}

#[test]
fn errors_about_nothing_of_ours_pass() {
    Site::with(|site| {
        for family in &FAMILIES {
            let v6 = host_of(family.vip).is_ipv6();
            let flow = flow(site, family);
            let kind = family.errors[0];
            let servers = host(family.servers_router);
            let clients = host(family.clients_router);
            let about_backend =
                |packet: &Packet| from_servers(family, servers, kind, &quoted(packet, 0));
            let about_client =
                |packet: &Packet| from_clients(family, clients, kind, &quoted(packet, 0));
            let (to, from) = (&flow.forwarded, &flow.returned);
            let protocol = if v6 { 6 } else { 9 };
            let elsewhere = |error: Icmp, to: &str| {
                let mut error = error;
                error.ip.destination = host_of(to);
                error
            };
            let other_client = if v6 {
                "[2001:db8:2::99]:20010"
            } else {
                "192.0.2.99:20010"
            };
            let table = [
                ("another SNAT port", about_backend(&to.clone().port(20_011))),
                (
                    "a port below the range",
                    about_backend(&to.clone().port(19_999)),
                ),
                (
                    "a port above the range",
                    about_backend(&to.clone().port(20_064)),
                ),
                ("no backend", about_backend(&to.clone().to(other_client))),
                ("TCP", altered(&about_backend(to), protocol, &[6])),
                ("ICMP", altered(&about_backend(to), protocol, &[1])),
                ("no IP", altered(&about_backend(to), 0, &[0x55])),
                (
                    "the other family's header",
                    altered(&about_backend(to), 0, &[if v6 { 0x45 } else { 0x60 }]),
                ),
                (
                    "a packet that the VIP did not send",
                    elsewhere(about_backend(to), family.vip),
                ),
                (
                    "a packet that the SNAT address did not send",
                    elsewhere(about_client(from), family.snat),
                ),
                (
                    "a packet of somebody else",
                    elsewhere(about_client(from), other_client),
                ),
                (
                    "another client",
                    about_client(&from.clone().to(other_client)),
                ),
                ("another client's port", {
                    let mut other = from.clone();
                    other.destination.set_port(20_011);
                    about_client(&other)
                }),
                (
                    "another port of the VIP",
                    about_client(&from.clone().port(53)),
                ),
                ("the client's packet", about_client(&flow.packet)),
                ("the backend's packet", about_backend(&flow.answer)),
            ];
            for (what, error) in table {
                assert_eq!(
                    site.send_bytes(&error.encode()),
                    Verdict::Passed,
                    "about {what}"
                );
            }
            let stranger = about_backend(to).macs(family.gateway.mac, [2, 0, 0, 0, 0, 0x99]);
            assert_eq!(
                site.send_icmp(&stranger),
                Verdict::Passed,
                "for another MAC"
            );
        }
    });
}

#[test]
fn other_messages_pass() {
    let echo_and_others: [&[u8]; 2] = [
        &[0, 4, 5, 8, 9, 10, 13, 14, 17, 18, 30, 40, 42, 255],
        &[0, 5, 100, 127, 128, 129, 133, 134, 135, 136, 137, 160, 255],
    ];
    Site::with(|site| {
        for (family, kinds) in FAMILIES.iter().zip(echo_and_others) {
            let flow = flow(site, family);
            for kind in kinds {
                let about = quoted(&flow.forwarded, 0);
                let message = from_servers(family, host(family.servers_router), (*kind, 0), &about);
                assert_eq!(site.send_icmp(&message), Verdict::Passed, "type {kind}");
                let about = quoted(&flow.returned, 0);
                let message = from_clients(family, host(family.clients_router), (*kind, 0), &about);
                assert_eq!(site.send_icmp(&message), Verdict::Passed, "type {kind}");
            }
            let echo = if flow.packet.source.is_ipv6() {
                (128, 0)
            } else {
                (8, 0)
            };
            let ping = from_clients(family, host_of(family.client), echo, b"0123456789");
            assert_eq!(site.send_icmp(&ping), Verdict::Passed);
        }
    });
}

#[test]
fn an_error_that_is_cut_off_passes_until_it_has_the_ports() {
    Site::with(|site| {
        for family in &FAMILIES {
            let packet = from_client(family.client, family.vip);
            let packet = if packet.source.is_ipv4() {
                packet.options(&[1; 12])
            } else {
                packet
            };
            let flow = flow_of(site, family, packet);
            let about = flow.forwarded.quoted();
            let needed = quoted(&flow.forwarded, 0).len();
            for len in 0..about.len() {
                let error = from_servers(
                    family,
                    host(family.servers_router),
                    family.errors[0],
                    &about[..len],
                );
                let verdict = site.send_icmp(&error);
                if len < needed {
                    assert_eq!(verdict, Verdict::Passed, "with {len} bytes");
                } else {
                    let expected = flow.packet.clone().ttl(63).quoted();
                    let expected = to_client(family, &error, &expected[..len]);
                    assert_eq!(verdict, Verdict::Sent(expected), "with {len} bytes");
                }
            }
            // Cut off by the frame: what the IP header says is longer.
            let whole = from_servers(
                family,
                host(family.servers_router),
                family.errors[0],
                &about[..needed],
            )
            .encode();
            for len in 14..whole.len() {
                assert_eq!(
                    site.send_bytes(&whole[..len]),
                    Verdict::Passed,
                    "{len} bytes"
                );
            }
        }
    });
}

#[test]
fn pieces_of_an_error_pass() {
    Site::with(|site| {
        for family in &FAMILIES {
            let flow = flow(site, family);
            let about = quoted(&flow.forwarded, 0);
            let sender = host(family.servers_router);
            let error = from_servers(family, sender, family.errors[0], &about);
            if flow.packet.source.is_ipv4() {
                for fragment in [0x2000, 0x0001, 0x2001, 0x1fff] {
                    let mut piece = error.clone();
                    piece.ip.fragment = fragment;
                    assert_eq!(site.send_icmp(&piece), Verdict::Passed, "{fragment:x}");
                }
                let mut whole = error.clone();
                whole.ip.fragment = 0x4000;
                assert!(matches!(site.send_icmp(&whole), Verdict::Sent(_)));
            } else {
                for offset in [1, 8, 9, 0xfff8] {
                    let header = [extension::fragment(offset, 77)];
                    let frame = extension::behind(&error.encode(), 14, &header);
                    assert_eq!(site.send_bytes(&frame), Verdict::Passed, "{offset:x}");
                }
            }
        }
    });
}

#[test]
fn an_icmpv6_error_behind_extension_headers_is_translated() {
    Site::with(|site| {
        let family = &FAMILIES[1];
        let flow = flow(site, family);
        let about = quoted(&flow.forwarded, 5);
        let sender = host_of(family.gateway.address);
        let error = from_servers(family, sender, (1, 4), &about);
        let expected = to_client(family, &error, &quoted(&flow.packet.clone().ttl(63), 5));
        let headers = [
            extension::options(extension::HOP_BY_HOP, 8),
            extension::options(extension::DESTINATION_OPTIONS, 16),
            extension::fragment(0, 1234),
        ];
        for count in 1..=headers.len() {
            let frame = extension::behind(&error.encode(), 14, &headers[..count]);

            let sent = site.send_bytes(&frame);

            let expected = extension::behind(&expected.encode(), 14, &headers[..count]);
            assert_eq!(sent, Verdict::Sent(expected));
        }
    });
}

#[test]
fn an_error_leaves_by_the_interface_of_the_way_out() {
    const OTHER_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x55];
    Site::with(|site| {
        for family in &FAMILIES {
            let flow = flow(site, family);
            site.settings(|settings| {
                settings.interfaces[1] = lb_common::settings::Interface {
                    index: 9,
                    mac: OTHER_MAC,
                    mtu: 1500,
                };
            });
            site.backend(family.gateway, |backend| {
                backend.interface = 9;
                backend.source_mac = OTHER_MAC;
            });
            let record = site.pins.flow(&flow.packet).expect("a flow").record;
            let value = site.pins.record(record);
            site.pins.set_record(
                record,
                Record {
                    interface: 1,
                    ..value
                },
            );

            let sender = host(family.servers_router);
            let error = from_servers(
                family,
                sender,
                family.errors[0],
                &quoted(&flow.forwarded, 0),
            );
            let expected = to_client(family, &error, &quoted(&flow.packet.clone().ttl(63), 0))
                .macs(OTHER_MAC, ROUTER_MAC);
            assert_eq!(site.send_icmp(&error), Verdict::Redirected(expected));

            let sender = host(family.clients_router);
            let error = from_clients(family, sender, family.errors[0], &quoted(&flow.returned, 0));
            let expected = to_backend(family, &error, &quoted(&flow.answer.clone().ttl(127), 0))
                .macs(OTHER_MAC, family.gateway.mac);
            assert_eq!(site.send_icmp(&error), Verdict::Redirected(expected));
        }
    });
}
