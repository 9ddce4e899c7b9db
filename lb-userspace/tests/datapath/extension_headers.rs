//! IPv6 extension headers in front of UDP: the usual ones are skipped, anything else is the host's.

use lb_common::{limits::MAX_EXTENSION_HEADERS, verdict::DropReason};

use crate::harness::{
    extension::{
        AUTHENTICATION, DESTINATION_OPTIONS, ESP, Extension, HOP_BY_HOP, NO_NEXT_HEADER, behind,
        fragment, options, routing,
    },
    packet::Packet,
    plan::{BALANCER_MAC, CLIENT6, GATEWAY1_V6, ROUTER_MAC, SNAT6, VIP6},
    site::{Site, Verdict, answer, from_client, towards},
};

/// Bytes that the headers may have in all.
const MAX_BYTES: usize = 256;

fn packet() -> Packet {
    from_client(CLIENT6, VIP6)
}

fn forwarded() -> Packet {
    towards(GATEWAY1_V6, &packet(), SNAT6)
}

/// Returns the answer as the client's router should get it.
fn returned(answer: &Packet) -> Packet {
    Packet {
        source: packet().destination,
        destination: packet().source,
        ttl: answer.ttl - 1,
        ..answer.clone()
    }
    .macs(BALANCER_MAC, ROUTER_MAC)
}

/// Runs the program on the packet behind headers.
fn send(site: &mut Site, packet: &Packet, headers: &[Extension]) -> Verdict<Vec<u8>> {
    site.send_bytes(&behind(&packet.encode(), packet.l3(), headers))
}

/// Returns a site whose only IPv6 backend is [`GATEWAY1_V6`].
fn with(test: impl FnOnce(&mut Site) + Send) {
    Site::with(|site| {
        site.only(GATEWAY1_V6);
        test(site);
    });
}

/// Asserts that the packet is forwarded behind the headers, and its answer as well.
fn assert_translated(site: &mut Site, headers: &[Extension], what: &str) {
    let sent = send(site, &packet(), headers);
    let expected = behind(&forwarded().encode(), 14, headers);
    assert_eq!(sent, Verdict::Sent(expected), "{what}");

    let answer = answer(&forwarded());
    let sent = send(site, &answer, headers);
    let expected = behind(&returned(&answer).encode(), 14, headers);
    assert_eq!(sent, Verdict::Sent(expected), "{what}");
}

/// Asserts that the packet passes behind the headers, and its answer as well.
fn assert_passed(site: &mut Site, headers: &[Extension], what: &str) {
    assert_eq!(send(site, &packet(), headers), Verdict::Passed, "{what}");
    let answer = answer(&forwarded());
    assert_eq!(send(site, &answer, headers), Verdict::Passed, "{what}");
}

#[test]
fn packets_and_answers_are_translated_behind_each_header() {
    with(|site| {
        assert_translated(site, &[], "no header");
        for (what, header) in [
            ("hop-by-hop options", options(HOP_BY_HOP, 8)),
            ("destination options", options(DESTINATION_OPTIONS, 8)),
            ("a routing header", routing(0)),
            ("an atomic fragment", fragment(0, 0x0102_0304)),
            ("reserved bits of a fragment header", fragment(6, 0)),
        ] {
            assert_translated(site, &[header], what);
        }
    });
}

#[test]
fn up_to_four_headers_are_skipped() {
    let headers = [
        options(HOP_BY_HOP, 8),
        options(DESTINATION_OPTIONS, 16),
        routing(0),
        fragment(0, 77),
        options(DESTINATION_OPTIONS, 24),
    ];
    with(|site| {
        for count in 0..=headers.len() {
            let what = format!("{count} headers");
            if count <= MAX_EXTENSION_HEADERS {
                assert_translated(site, &headers[..count], &what);
                assert_translated(site, &headers[headers.len() - count..], &what);
            } else {
                assert_passed(site, &headers[..count], &what);
            }
        }
        let alike = vec![options(DESTINATION_OPTIONS, 8); 4];
        assert_translated(site, &alike, "four alike");
    });
}

#[test]
fn headers_of_256_bytes_are_skipped_and_longer_ones_are_not() {
    with(|site| {
        for (lens, fits) in [
            (&[MAX_BYTES][..], true),
            (&[MAX_BYTES + 8], false),
            (&[64, 64, 64, 64], true),
            (&[64, 64, 64, 72], false),
            (&[8, MAX_BYTES - 8], true),
            (&[16, MAX_BYTES - 8], false),
            (&[2048], false),
        ] {
            let headers: Vec<_> = lens
                .iter()
                .map(|len| options(DESTINATION_OPTIONS, *len))
                .collect();
            if fits {
                assert_translated(site, &headers, &format!("{lens:?}"));
            } else {
                assert_passed(site, &headers, &format!("{lens:?}"));
            }
        }
    });
}

#[test]
fn a_packet_on_its_way_by_a_route_passes() {
    with(|site| {
        assert_translated(site, &[], "no header");
        for segments_left in [1, 2, 255] {
            let what = format!("{segments_left} segments left");
            assert_passed(site, &[routing(segments_left)], &what);
            let headers = [options(HOP_BY_HOP, 8), routing(segments_left)];
            assert_passed(site, &headers, &what);
        }
    });
}

#[test]
fn headers_that_hide_or_end_the_packet_pass() {
    with(|site| {
        assert_translated(site, &[], "no header");
        for number in [
            AUTHENTICATION,
            ESP,
            NO_NEXT_HEADER,
            // Mobility, host identity, shim6, two for experiments, TCP, ICMP of IPv4.
            135,
            139,
            140,
            253,
            254,
            6,
            1,
        ] {
            let what = format!("header {number}");
            assert_passed(site, &[options(number, 8)], &what);
            let headers = [options(HOP_BY_HOP, 8), options(number, 8)];
            assert_passed(site, &headers, &what);
        }
        let twice = [fragment(0, 1), fragment(0, 1)];
        assert_passed(site, &twice, "two fragment headers");
    });
}

#[test]
fn headers_that_lie_about_their_length_make_no_flow() {
    with(|site| {
        let plain = packet();
        for number in [HOP_BY_HOP, DESTINATION_OPTIONS] {
            let frame = behind(&plain.encode(), 14, &[options(number, 8)]);
            for units in 1..=255 {
                let mut lying = frame.clone();
                lying[14 + 40 + 1] = units;
                let claimed = (usize::from(units) + 1) * 8;
                let left = frame.len() - 14 - 40;
                let expected = if claimed > MAX_BYTES {
                    Verdict::Passed
                } else if claimed + 8 > left {
                    // It is UDP for a VIP, by what it says.
                    Verdict::Dropped(DropReason::Malformed)
                } else {
                    // UDP begins in the payload: other ports, or lengths that do not fit.
                    match site.send_bytes(&lying) {
                        Verdict::Passed | Verdict::Dropped(DropReason::Malformed) => continue,
                        other => panic!("{other:?}"),
                    }
                };
                assert_eq!(site.send_bytes(&lying), expected, "{units} units");
            }
        }
        assert_eq!(site.pins.used(), []);
    });
}

#[test]
fn lengths_of_packet_and_datagram_count_behind_headers() {
    let malformed = Verdict::Dropped(DropReason::Malformed);
    with(|site| {
        let headers = [options(HOP_BY_HOP, 16), options(DESTINATION_OPTIONS, 8)];
        let frame = behind(&packet().encode(), 14, &headers);
        let payload_len = (frame.len() - 14 - 40) as u16;
        for len in [0, 23, 24, 31, payload_len - 1, payload_len + 1, u16::MAX] {
            let mut lying = frame.clone();
            lying[18..20].copy_from_slice(&len.to_be_bytes());
            assert_eq!(site.send_bytes(&lying), malformed, "payload of {len}");
        }
        let udp_len = 8 + packet().payload.len() as u16;
        for len in [0, 7, udp_len + 1] {
            let mut lying = frame.clone();
            lying[14 + 40 + 24 + 4..][..2].copy_from_slice(&len.to_be_bytes());
            assert_eq!(site.send_bytes(&lying), malformed, "datagram of {len}");
        }
        let missing = packet().without_checksum();
        assert_eq!(
            send(site, &missing, &headers),
            Verdict::Dropped(DropReason::ChecksumMissing)
        );
        assert_eq!(site.pins.used(), []);
    });
}

#[test]
fn a_packet_that_is_cut_off_passes_until_it_is_known_to_be_udp() {
    with(|site| {
        let headers = [
            options(HOP_BY_HOP, 8),
            routing(0),
            options(DESTINATION_OPTIONS, 32),
        ];
        let frame = behind(&packet().encode(), 14, &headers);
        // The last header's first eight bytes name UDP.
        let known = 14 + 40 + 8 + 8 + 8;
        for len in 14..frame.len() {
            let expected = if len < known {
                Verdict::Passed
            } else {
                Verdict::Dropped(DropReason::Malformed)
            };
            assert_eq!(site.send_bytes(&frame[..len]), expected, "{len} bytes");
        }
    });
}

#[test]
fn headers_stay_behind_tags() {
    with(|site| {
        let tags = [(0x88a8, 40), (0x8100, 30)];
        let tagged = packet().tags(&tags);
        let headers = [options(HOP_BY_HOP, 8), options(DESTINATION_OPTIONS, 248)];

        let sent = send(site, &tagged, &headers);

        let expected = behind(&forwarded().encode(), 14, &headers);
        assert_eq!(sent, Verdict::Sent(expected));
        let answer = answer(&forwarded());
        let expected = returned(&answer).tags(&tags);
        let expected = behind(&expected.encode(), expected.l3(), &headers);
        assert_eq!(send(site, &answer, &headers), Verdict::Sent(expected));
    });
}

#[test]
fn a_hop_limit_behind_headers_expires() {
    with(|site| {
        let expired = packet().ttl(1);
        let headers = [options(HOP_BY_HOP, 8)];
        assert_eq!(
            send(site, &expired, &headers),
            Verdict::Dropped(DropReason::TtlExpired)
        );
    });
}
