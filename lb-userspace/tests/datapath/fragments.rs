//! Pieces of fragmented datagrams: the first one is forwarded like a whole packet, the others
//! follow it.

use std::collections::BTreeSet;

use lb_common::{
    backend::{DOWN, VlanTags},
    fragment::Fragment,
    limits::FRAGMENT_LIFETIME_S,
    record::State,
    stats::Counters,
    verdict::DropReason,
};

use crate::harness::{
    extension,
    fragment::{Piece, cut, join},
    packet::{Packet, udp},
    plan::{
        BALANCER_MAC, CLIENT, CLIENT6, FLOW_TIMEOUT_S, GATEWAY1, GATEWAY1_V6, GATEWAY2,
        GATEWAY2_V6, Gateway, ROUTER_MAC, SERVICE, SERVICE6, SNAT, SNAT6, VIP, VIP6,
    },
    site::{Site, Verdict, answer, from_client, towards},
};

/// An identification of a sender's.
const IDENTIFICATION: u32 = 0x7001;
/// One that needs all bits that a family has.
const LONG_IDENTIFICATION: [u32; 2] = [0xfffe, 0xfeed_beef];

/// One family's part of the site.
#[derive(Clone, Copy)]
struct Family {
    client: &'static str,
    other_client: &'static str,
    vip: &'static str,
    snat: &'static str,
    gateway: Gateway,
    other_gateway: Gateway,
    service: u16,
}

const FAMILIES: [Family; 2] = [
    Family {
        client: CLIENT,
        other_client: "192.0.2.11:20020",
        vip: VIP,
        snat: SNAT,
        gateway: GATEWAY1,
        other_gateway: GATEWAY2,
        service: SERVICE,
    },
    Family {
        client: CLIENT6,
        other_client: "[2001:db8:2::11]:20020",
        vip: VIP6,
        snat: SNAT6,
        gateway: GATEWAY1_V6,
        other_gateway: GATEWAY2_V6,
        service: SERVICE6,
    },
];

/// Runs `test` for each family, with one gateway in its table.
fn each_family(test: impl Fn(&mut Site, &Family) + Send + Sync) {
    Site::with(|site| {
        for family in &FAMILIES {
            site.only(family.gateway);
            test(site, family);
        }
    });
}

/// Returns a large datagram of the client's.
fn large(family: &Family) -> Packet {
    large_from(family.client, family)
}

fn large_from(client: &str, family: &Family) -> Packet {
    from_client(client, family.vip).payload(&payload(3000))
}

/// Returns bytes that differ from their neighbours: a piece in the wrong place is noticed.
fn payload(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 7 + at / 251) as u8).collect()
}

fn pieces(packet: &Packet) -> Vec<Piece> {
    cut(packet, IDENTIFICATION, &[1400, 1000])
}

/// Sends a piece that must be forwarded in one arm.
fn sent(site: &mut Site, piece: &Piece) -> Piece {
    match site.send_piece(piece) {
        Verdict::Sent(piece) => piece,
        other => panic!("{piece:?} was not sent: {other:?}"),
    }
}

fn all_sent(site: &mut Site, pieces: &[Piece]) -> Vec<Piece> {
    pieces.iter().map(|piece| sent(site, piece)).collect()
}

/// Returns an answer as the client's router should get it.
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

fn large_answer(site: &mut Site, family: &Family) -> Packet {
    let small = from_client(family.client, family.vip);
    answer(&site.forward(&small)).payload(&payload(2999))
}

#[test]
fn a_datagram_in_pieces_reaches_the_backend() {
    each_family(|site, family| {
        let packet = large(family);
        for sizes in [
            &[1448, 1448][..],
            &[1400, 1400],
            &[8, 8, 8, 1400, 8, 1200],
            &[1448, 1400, 152],
        ] {
            for identification in [0, IDENTIFICATION, LONG_IDENTIFICATION[0]] {
                let pieces = cut(&packet, identification, sizes);

                let sent = all_sent(site, &pieces);

                assert_eq!(join(&sent), towards(family.gateway, &packet, family.snat));
                for (before, after) in pieces.iter().zip(&sent) {
                    assert_eq!((after.offset, after.more), (before.offset, before.more));
                }
                for (before, after) in pieces.iter().zip(&sent).skip(1) {
                    assert_eq!(after.data, before.data, "what is behind the IP header");
                }
            }
        }
    });
}

#[test]
fn an_answer_in_pieces_reaches_the_client() {
    each_family(|site, family| {
        let answer = large_answer(site, family);
        let packet = from_client(family.client, family.vip);
        for sizes in [&[1448, 1448][..], &[8, 1400, 8, 1400], &[1448, 1400, 152]] {
            let pieces = cut(&answer, IDENTIFICATION, sizes);

            let sent = all_sent(site, &pieces);

            assert_eq!(join(&sent), returned(&answer, &packet));
            for (before, after) in pieces.iter().zip(&sent).skip(1) {
                assert_eq!(after.data, before.data, "what is behind the IP header");
            }
        }
    });
}

#[test]
fn later_pieces_follow_the_first_in_any_order() {
    each_family(|site, family| {
        let orders = [
            [1, 2, 3],
            [1, 3, 2],
            [2, 1, 3],
            [2, 3, 1],
            [3, 1, 2],
            [3, 2, 1],
        ];
        let answer = large_answer(site, family);
        let packet = large(family);
        for order in orders {
            for (whole, expected) in [
                (&packet, towards(family.gateway, &packet, family.snat)),
                (&answer, returned(&answer, &packet)),
            ] {
                let pieces = cut(whole, IDENTIFICATION, &[800, 800, 800]);
                let mut out = vec![sent(site, &pieces[0])];
                for place in order {
                    out.push(sent(site, &pieces[place]));
                    // A network may carry a piece twice.
                    assert_eq!(sent(site, &pieces[place]), out[out.len() - 1]);
                }
                assert_eq!(join(&out), expected, "{order:?}");
            }
        }
    });
}

#[test]
fn a_piece_that_comes_before_the_first_is_dropped_for_a_vip() {
    each_family(|site, family| {
        let pieces = pieces(&large(family));
        let dropped = Verdict::Dropped(DropReason::Fragment);

        assert_eq!(site.send_piece(&pieces[2]), dropped);
        assert_eq!(site.send_piece(&pieces[1]), dropped);
        assert_eq!(site.pins.in_state(State::Live), Vec::<u32>::new());
        sent(site, &pieces[0]);

        sent(site, &pieces[2]);
        sent(site, &pieces[1]);
        // Of another datagram, or another sender's.
        for (what, other) in [
            (
                "identification",
                Piece {
                    identification: IDENTIFICATION + 1,
                    ..pieces[1].clone()
                },
            ),
            (
                "sender",
                cut(
                    &large_from(family.other_client, family),
                    IDENTIFICATION,
                    &[1400],
                )[1]
                .clone(),
            ),
        ] {
            assert_eq!(site.send_piece(&other), dropped, "another {what}");
        }
        site.end_flows();
    });
}

#[test]
fn the_whole_identification_tells_datagrams_apart() {
    Site::with(|site| {
        for (family, identification) in FAMILIES.iter().zip(LONG_IDENTIFICATION) {
            site.only(family.gateway);
            let pieces = cut(&large(family), identification, &[1400, 1000]);
            all_sent(site, &pieces);
            let bits = if pieces[0].ip.is_v6() { 32 } else { 16 };
            for bit in 0..bits {
                let other = Piece {
                    identification: identification ^ 1 << bit,
                    ..pieces[1].clone()
                };
                let dropped = Verdict::Dropped(DropReason::Fragment);
                assert_eq!(site.send_piece(&other), dropped, "bit {bit}");
            }
        }
    });
}

#[test]
fn unknown_pieces_for_other_addresses_pass() {
    each_family(|site, family| {
        let answer = large_answer(site, family);
        for piece in &cut(&answer, IDENTIFICATION, &[800, 800])[1..] {
            // The SNAT address is the host's own: it may await the piece.
            assert_eq!(site.send_piece(piece), Verdict::Passed);
        }
        let elsewhere = if family.gateway == GATEWAY1 {
            "10.20.90.104:443"
        } else {
            "[2001:db8:20::104]:443"
        };
        for piece in pieces(&large(family).to(elsewhere)) {
            assert_eq!(site.send_piece(&piece), Verdict::Passed);
        }
        let stranger = large(family).macs(ROUTER_MAC, [2, 0, 0, 0, 0, 0x99]);
        for piece in pieces(&stranger) {
            assert_eq!(site.send_piece(&piece), Verdict::Passed);
        }
        assert_eq!(site.pins.fragments(), []);
    });
}

#[test]
fn the_host_s_own_datagrams_on_a_vip_pass() {
    each_family(|site, family| {
        let mut packet = large(family);
        packet.destination.set_port(53);
        let pieces = pieces(&packet);

        for place in [0, 2, 1] {
            assert_eq!(site.send_piece(&pieces[place]), Verdict::Passed);
        }

        let known = site.pins.fragments();
        assert!(known.iter().any(|piece| piece.direction == Fragment::HOST));
        assert_eq!(site.pins.flow_count(), 0);
    });
}

#[test]
fn an_identification_that_comes_again_stands_for_the_later_datagram() {
    each_family(|site, family| {
        let ours = large(family);
        let mut host = large(family);
        host.destination.set_port(53);
        let (ours, host) = (pieces(&ours), pieces(&host));

        all_sent(site, &ours);
        assert_eq!(site.send_piece(&host[0]), Verdict::Passed);
        assert_eq!(site.send_piece(&host[1]), Verdict::Passed);
        all_sent(site, &ours);
    });
}

#[test]
fn every_datagram_leaves_with_an_identification_of_its_own() {
    each_family(|site, family| {
        let mut seen = BTreeSet::new();
        for turn in 0..20 {
            let sent = all_sent(site, &pieces(&large(family)));
            assert_eq!(
                join(&sent),
                towards(family.gateway, &large(family), family.snat)
            );
            assert!(seen.insert(sent[0].identification), "datagram {turn}");
        }
        // Two clients count their datagrams each for themselves, and become one sender here.
        let one = pieces(&large(family));
        let other_packet = large_from(family.other_client, family);
        let other = pieces(&other_packet);
        let mut out = (Vec::new(), Vec::new());
        for (one, other) in one.iter().zip(&other) {
            out.0.push(sent(site, one));
            out.1.push(sent(site, other));
        }
        assert!(seen.insert(out.0[0].identification));
        assert!(seen.insert(out.1[0].identification));
        assert_eq!(
            join(&out.0),
            towards(family.gateway, &large(family), family.snat)
        );
        let snat = family.snat.replace("20010", "20020");
        assert_eq!(join(&out.1), towards(family.gateway, &other_packet, &snat));
    });
}

#[test]
fn answers_of_one_backend_to_one_client_are_told_apart() {
    each_family(|site, family| {
        let first = large_answer(site, family);
        let other_flow = from_client(family.client, family.vip).port(20_030);
        let second = answer(&site.forward(&other_flow)).payload(&payload(2000));

        // The backend has used its identification twice, towards two ports of ours.
        let one = all_sent(site, &pieces(&first));
        let other = all_sent(site, &cut(&second, IDENTIFICATION, &[1400]));

        assert_ne!(one[0].identification, other[0].identification);
        assert_eq!(join(&other), returned(&second, &other_flow));
    });
}

#[test]
fn the_pieces_may_follow_for_as_long_as_linux_waits_for_them() {
    each_family(|site, family| {
        let answer = large_answer(site, family);
        for (whole, too_late) in [
            (large(family), Verdict::Dropped(DropReason::Fragment)),
            (answer, Verdict::Passed),
        ] {
            let pieces = pieces(&whole);
            sent(site, &pieces[0]);

            site.age(FRAGMENT_LIFETIME_S - 3);
            sent(site, &pieces[1]);
            site.age(4);

            assert_eq!(site.send_piece(&pieces[1]), too_late);
            assert_eq!(site.send_piece(&pieces[2]), too_late);
            sent(site, &pieces[0]);
            sent(site, &pieces[2]);
        }
    });
}

#[test]
fn pieces_of_a_flow_that_moves_are_not_sent_to_two_backends() {
    each_family(|site, family| {
        let pieces = pieces(&large(family));
        let no_flow = Verdict::Dropped(DropReason::NoFlow);
        sent(site, &pieces[0]);
        site.backend(family.gateway, |backend| backend.health = DOWN);

        assert_eq!(site.send_piece(&pieces[1]), no_flow, "it may not go there");
        let small = from_client(family.client, family.vip);
        assert_eq!(site.gateway_of(&small), family.other_gateway);
        assert_eq!(site.send_piece(&pieces[1]), no_flow, "the flow has moved");
        site.backend(family.gateway, |backend| backend.health = 1);
        assert_eq!(site.send_piece(&pieces[2]), no_flow, "for good");

        let sent = all_sent(site, &pieces);
        let snat = family.snat;
        assert_eq!(
            join(&sent),
            towards(family.other_gateway, &large(family), snat)
        );
    });
}

#[test]
fn an_answer_s_pieces_reach_the_client_when_the_backend_goes_down() {
    each_family(|site, family| {
        let answer = large_answer(site, family);
        let pieces = pieces(&answer);
        let mut out = vec![sent(site, &pieces[0])];
        site.backend(family.gateway, |backend| backend.health = DOWN);
        out.extend(all_sent(site, &pieces[1..]));

        let packet = from_client(family.client, family.vip);
        assert_eq!(join(&out), returned(&answer, &packet));
    });
}

#[test]
fn pieces_do_not_follow_the_next_owner_of_a_port() {
    each_family(|site, family| {
        site.settings(|settings| settings.quarantine_s = 0);
        let no_flow = Verdict::Dropped(DropReason::NoFlow);
        let forward = pieces(&large(family));
        sent(site, &forward[0]);
        let answer = large_answer(site, family);
        let reply = pieces(&answer);
        sent(site, &reply[0]);
        site.end_flows();
        assert_eq!(site.send_piece(&forward[1]), no_flow);
        assert_eq!(site.send_piece(&reply[1]), no_flow);

        // Another client with the same port gets the same SNAT port.
        let other = family.other_client.replace("20020", "20010");
        let next = site.forward(&from_client(&other, family.vip));
        assert_eq!(next.source, answer.destination);

        assert_eq!(site.send_piece(&forward[2]), no_flow);
        assert_eq!(site.send_piece(&reply[2]), no_flow);
    });
}

#[test]
fn pieces_follow_into_a_closing_flow() {
    each_family(|site, family| {
        let pieces = pieces(&large(family));
        sent(site, &pieces[0]);
        site.age(FLOW_TIMEOUT_S + 1);
        site.sweep();
        assert_eq!(site.pins.in_state(State::Closing).len(), 1);

        sent(site, &pieces[1]);

        // The first piece of the next datagram makes it live again.
        sent(site, &pieces[0]);
        assert_eq!(site.pins.in_state(State::Closing), Vec::<u32>::new());
        site.end_flows();
    });
}

#[test]
fn a_first_piece_begins_a_flow_and_finds_it() {
    each_family(|site, family| {
        let pieces = pieces(&large(family));
        sent(site, &pieces[0]);

        let entry = site.pins.flow(&large(family)).expect("a flow");
        assert_eq!(entry.backend, family.gateway.number);
        sent(site, &pieces[0]);
        assert_eq!(site.pins.flow(&large(family)), Some(entry));
        assert_eq!(site.service_counters(family.service).flows_new, 1);
    });
}

#[test]
fn a_first_piece_for_a_port_without_a_flow_is_dropped() {
    each_family(|site, family| {
        let answer = udp(family.gateway.address, family.snat)
            .macs(family.gateway.mac, BALANCER_MAC)
            .payload(&payload(3000));
        let pieces = pieces(&answer);

        assert_eq!(
            site.send_piece(&pieces[0]),
            Verdict::Dropped(DropReason::NoFlow)
        );
        assert_eq!(
            site.send_piece(&pieces[1]),
            Verdict::Passed,
            "it is unknown"
        );
    });
}

#[test]
fn pieces_count_as_packets() {
    each_family(|site, family| {
        let answer = large_answer(site, family);
        let before = site.service_counters(family.service);
        let forward = pieces(&large(family));
        let reply = pieces(&answer);
        all_sent(site, &forward);
        all_sent(site, &reply);

        let bytes = |pieces: &[Piece]| pieces.iter().map(|p| p.encode().len() as u64).sum::<u64>();
        let expected = Counters {
            packets_in: before.packets_in + 3,
            bytes_in: before.bytes_in + bytes(&forward),
            packets_out: before.packets_out + 3,
            bytes_out: before.bytes_out + bytes(&reply),
            ..before
        };
        assert_eq!(site.service_counters(family.service), expected);
        let backend = site.backend_counters(family.gateway);
        assert_eq!(backend.packets_in, expected.packets_in);
        assert_eq!(backend.bytes_out, expected.bytes_out);
    });
}

#[test]
fn tags_change_on_every_piece() {
    let client_tags = [(0x88a8, 40), (0x8100, 30)];
    each_family(|site, family| {
        site.backend(family.gateway, |backend| {
            backend.vlan = VlanTags {
                outer_protocol: 0x8100,
                control: [50, VlanTags::ABSENT],
            };
        });
        let packet = large(family).tags(&client_tags);

        let out = all_sent(site, &pieces(&packet));

        let forwarded = towards(family.gateway, &packet, family.snat).tags(&[(0x8100, 50)]);
        assert_eq!(join(&out), forwarded);
        let answer = answer(&forwarded).payload(&payload(3001));
        let out = all_sent(site, &pieces(&answer));
        assert_eq!(join(&out), returned(&answer, &packet));
    });
}

#[test]
fn pieces_leave_by_the_interface_of_the_way_out() {
    each_family(|site, family| {
        site.backend(family.gateway, |backend| backend.interface = 9);
        let packet = large(family);
        let out: Vec<_> = pieces(&packet)
            .iter()
            .map(|piece| match site.send_piece(piece) {
                Verdict::Redirected(piece) => piece,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(join(&out), towards(family.gateway, &packet, family.snat));
    });
}

#[test]
fn a_piece_that_may_go_no_further_is_dropped() {
    each_family(|site, family| {
        let expired = Verdict::Dropped(DropReason::TtlExpired);
        let first = &pieces(&large(family).ttl(1))[0];
        assert_eq!(site.send_piece(first), expired);

        sent(site, &pieces(&large(family))[0]);
        for ttl in [0, 1] {
            let later = &pieces(&large(family).ttl(ttl))[1];
            assert_eq!(site.send_piece(later), expired);
        }
        let out = sent(site, &pieces(&large(family).ttl(2))[1]);
        assert_eq!(out.ip.ttl, 1);
    });
}

#[test]
fn a_missing_checksum_stays_missing_in_ipv4_and_is_refused_in_ipv6() {
    each_family(|site, family| {
        let packet = large(family).without_checksum();
        let pieces = pieces(&packet);
        if pieces[0].ip.is_v6() {
            let missing = Verdict::Dropped(DropReason::ChecksumMissing);
            assert_eq!(site.send_piece(&pieces[0]), missing);
            // Bytes of a later piece where a checksum would be are none.
            sent(site, &cut(&large(family), IDENTIFICATION, &[1400])[0]);
            let mut later = pieces[1].clone();
            later.data[..8].fill(0);
            assert_eq!(sent(site, &later).data, later.data);
        } else {
            let sent = all_sent(site, &pieces);
            assert_eq!(join(&sent), towards(family.gateway, &packet, family.snat));
        }
    });
}

#[test]
fn ipv4_options_are_kept() {
    Site::with(|site| {
        let family = &FAMILIES[0];
        site.only(family.gateway);
        let packet = large(family).options(&[1; 12]);

        let sent = all_sent(site, &pieces(&packet));

        assert_eq!(join(&sent), towards(family.gateway, &packet, family.snat));
    });
}

#[test]
fn a_first_piece_that_lies_is_dropped() {
    let malformed = Verdict::Dropped(DropReason::Malformed);
    each_family(|site, family| {
        let first = pieces(&large(family))[0].clone();
        for len in [0_u16, 7] {
            let mut lying = first.clone();
            lying.data[4..6].copy_from_slice(&len.to_be_bytes());
            assert_eq!(site.send_piece(&lying), malformed, "a length of {len}");
        }
        for len in [0, 4, 7] {
            let short = Piece {
                data: first.data[..len].to_vec(),
                ..first.clone()
            };
            assert_eq!(site.send_piece(&short), malformed, "{len} bytes of UDP");
        }
        let frame = first.encode();
        assert_eq!(
            site.send_bytes(&frame[..frame.len() - 1]).map(drop),
            Verdict::Dropped(DropReason::Malformed)
        );
        sent(site, &first);
        let frame = pieces(&large(family))[1].encode();
        assert_eq!(
            site.send_bytes(&frame[..frame.len() - 1]).map(drop),
            Verdict::Dropped(DropReason::Malformed)
        );
        site.end_flows();
    });
}

#[test]
fn another_protocol_s_pieces_pass() {
    each_family(|site, family| {
        all_sent(site, &pieces(&large(family)));
        for piece in pieces(&large(family)) {
            let mut frame = piece.encode();
            let protocol = if piece.ip.is_v6() { 14 + 40 } else { 14 + 9 };
            frame[protocol] = 6;
            assert_eq!(site.send_bytes(&frame), Verdict::Passed);
        }
    });
}

#[test]
fn an_atomic_fragment_is_a_whole_packet() {
    Site::with(|site| {
        let family = &FAMILIES[1];
        site.only(family.gateway);
        let packet = large(family).payload(&payload(600));
        let header = [extension::fragment(0, 0xfeed_beef)];
        let atomic = |packet: &Packet| extension::behind(&packet.encode(), 14, &header);

        let sent = site.send_bytes(&atomic(&packet));

        let forwarded = towards(family.gateway, &packet, family.snat);
        assert_eq!(
            sent,
            Verdict::Sent(atomic(&forwarded)),
            "with its identification"
        );
        let answer = answer(&forwarded);
        let sent = site.send_bytes(&atomic(&answer));
        assert_eq!(sent, Verdict::Sent(atomic(&returned(&answer, &packet))));
        assert_eq!(site.pins.fragments(), [], "there is nothing to follow");
    });
}

#[test]
fn whole_packets_keep_their_identification() {
    each_family(|site, family| {
        all_sent(site, &pieces(&large(family)));
        // `Packet::decode` compares the identification.
        let small = from_client(family.client, family.vip);
        let expected = towards(family.gateway, &small, family.snat);
        assert_eq!(site.send(&small), Verdict::Sent(expected));
    });
}

#[test]
fn pieces_behind_extension_headers_are_translated() {
    Site::with(|site| {
        let family = &FAMILIES[1];
        site.only(family.gateway);
        let packet = large(family);
        let headers = [
            extension::options(extension::HOP_BY_HOP, 8),
            extension::options(extension::DESTINATION_OPTIONS, 24),
            extension::routing(0),
        ];
        for count in 1..=headers.len() {
            let headers = &headers[..count];
            let len: usize = headers.iter().map(|(_, header)| header.len()).sum();
            let mut out = Vec::new();
            for piece in pieces(&packet) {
                let frame = extension::behind(&piece.encode(), 14, headers);
                let Verdict::Sent(sent) = site.send_bytes(&frame) else {
                    panic!("{piece:?} was not sent behind {count} headers");
                };
                let plain = extension::without(&sent, 14, len);
                assert_eq!(extension::behind(&plain, 14, headers), sent);
                out.push(Piece::decode(&plain));
            }
            assert_eq!(join(&out), towards(family.gateway, &packet, family.snat));
        }
    });
}
