//! From the client to the backend: addresses, ports, TTL, MAC addresses, checksums.

use lb_common::verdict::DropReason;

use crate::harness::{
    packet::Packet,
    plan::{CLIENT, CLIENT6, GATEWAY1, GATEWAY1_V6, Gateway, SNAT, SNAT6, VIP, VIP6},
    site::{Site, Verdict, from_client, towards},
};

/// Both families, with the gateway that each is to reach and the address that it comes from.
fn families() -> [(Packet, Gateway, &'static str); 2] {
    [
        (from_client(CLIENT, VIP), GATEWAY1, SNAT),
        (from_client(CLIENT6, VIP6), GATEWAY1_V6, SNAT6),
    ]
}

#[test]
fn a_packet_reaches_its_backend_from_our_address() {
    Site::with(|site| {
        for (packet, gateway, snat) in families() {
            site.only(gateway);

            let first = site.send(&packet);
            let second = site.send(&packet);

            let expected = Verdict::Sent(towards(gateway, &packet, snat));
            assert_eq!(first, expected, "the first packet");
            assert_eq!(second, expected, "the second packet");
        }
    });
}

#[test]
fn a_port_that_changes_is_in_the_checksum() {
    Site::with(|site| {
        for (packet, gateway, _) in families() {
            site.only(gateway);
            for port in [1, 40_000, 65_535] {
                let packet = packet.clone().port(port);

                let forwarded = site.forward(&packet);

                assert_ne!(forwarded.source.port(), port);
                let snat = forwarded.source.to_string();
                assert_eq!(forwarded, towards(gateway, &packet, &snat));
            }
        }
    });
}

#[test]
fn payloads_of_every_size_keep_right_checksums() {
    Site::with(|site| {
        for (packet, gateway, snat) in families() {
            site.only(gateway);
            for size in (0..64).chain([511, 1200, 1452]) {
                let payload: Vec<u8> = (0..size).map(|i| (i * 37 + 11) as u8).collect();
                let packet = packet.clone().payload(&payload);

                assert_eq!(site.forward(&packet), towards(gateway, &packet, snat));
            }
        }
    });
}

#[test]
fn every_checksum_value_is_updated_right() {
    Site::with(|site| {
        for (packet, gateway, snat) in families() {
            site.only(gateway);
            // The two bytes are a word of the sum: it takes each value of a stretch around zero,
            // and with them the UDP checksum that is sent as 0xffff.
            for word in (0..=u16::MAX).step_by(13) {
                let packet = packet.clone().payload(&word.to_be_bytes());
                assert_eq!(site.forward(&packet), towards(gateway, &packet, snat));
            }
        }
    });
}

#[test]
fn a_checksum_that_comes_out_as_zero_is_sent_as_all_ones() {
    Site::with(|site| {
        for (packet, gateway, snat) in families() {
            site.only(gateway);
            let packet = (0..=u16::MAX)
                .map(|word| packet.clone().payload(&word.to_be_bytes()))
                .find(|packet| {
                    let out = towards(gateway, packet, snat);
                    out.encode()[out.l4() + 6..][..2] == [0xff, 0xff]
                })
                .expect("a payload of that checksum");

            assert_eq!(site.forward(&packet), towards(gateway, &packet, snat));
        }
    });
}

#[test]
fn an_ipv4_packet_without_a_udp_checksum_stays_without() {
    Site::with(|site| {
        site.only(GATEWAY1);
        let packet = from_client(CLIENT, VIP).without_checksum();

        let verdict = site.send(&packet);

        let expected = towards(GATEWAY1, &packet, SNAT);
        assert!(!expected.checksum);
        assert_eq!(verdict, Verdict::Sent(expected));
    });
}

#[test]
fn an_ipv6_packet_without_a_udp_checksum_is_dropped() {
    Site::with(|site| {
        let packet = from_client(CLIENT6, VIP6).without_checksum();

        assert_eq!(
            site.send(&packet),
            Verdict::Dropped(DropReason::ChecksumMissing)
        );
        assert_eq!(site.pins.flow_count(), 0);
    });
}

#[test]
fn ipv4_options_are_kept() {
    Site::with(|site| {
        site.only(GATEWAY1);
        // No operation (RFC 791 section 3.1), from one word of them to the longest header.
        for words in 1..=10 {
            let packet = from_client(CLIENT, VIP).options(&vec![1; 4 * words]);

            assert_eq!(
                site.send(&packet),
                Verdict::Sent(towards(GATEWAY1, &packet, SNAT)),
                "{words} words of options"
            );
        }
    });
}

#[test]
fn a_packet_that_may_go_no_further_is_dropped() {
    Site::with(|site| {
        for (packet, gateway, snat) in families() {
            site.only(gateway);
            for (ttl, expected) in [
                (0, Verdict::Dropped(DropReason::TtlExpired)),
                (1, Verdict::Dropped(DropReason::TtlExpired)),
                (
                    2,
                    Verdict::Sent(towards(gateway, &packet.clone().ttl(2), snat)),
                ),
                (
                    255,
                    Verdict::Sent(towards(gateway, &packet.clone().ttl(255), snat)),
                ),
            ] {
                assert_eq!(site.send(&packet.clone().ttl(ttl)), expected, "TTL {ttl}");
            }
        }
    });
}

#[test]
fn the_padding_of_a_short_frame_is_no_part_of_the_packet() {
    Site::with(|site| {
        site.only(GATEWAY1);
        let packet = from_client(CLIENT, VIP).payload(b"short");
        let mut frame = packet.encode();
        let len = frame.len();
        frame.resize(60, 0);

        let (_, mut out) = site.kernel.test_run(&frame).expect("a run");

        assert_eq!(out.len(), 60);
        out.truncate(len);
        assert_eq!(Packet::decode(&out), towards(GATEWAY1, &packet, SNAT));
        assert_eq!(site.backend_counters(GATEWAY1).bytes_in, len as u64);
    });
}
