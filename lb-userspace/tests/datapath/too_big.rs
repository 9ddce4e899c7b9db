//! Packets that the way out does not carry: their sender is told by ICMP, byte for byte as a
//! router would.

use lb_common::{settings::Interface, verdict::DropReason};

use crate::harness::{
    extension,
    fragment::{Piece, cut},
    icmp::{Icmp, icmp},
    packet::Packet,
    plan::{
        BALANCER_MAC, CLIENT, CLIENT6, GATEWAY1, GATEWAY1_V6, Gateway, MTU, SERVICE, SERVICE6,
        SNAT, SNAT6, VIP, VIP6,
    },
    site::{Site, Verdict, answer, from_client, towards},
};

/// Bytes of the packet that the answer quotes.
const QUOTE: usize = 548;
const QUOTE6: usize = 1232;

/// One family's part of the site.
struct Family {
    client: &'static str,
    vip: &'static str,
    snat: &'static str,
    gateway: Gateway,
    service: u16,
    /// Bytes of the headers in front of the payload.
    headers: usize,
    quote: usize,
}

const FAMILIES: [Family; 2] = [
    Family {
        client: CLIENT,
        vip: VIP,
        snat: SNAT,
        gateway: GATEWAY1,
        service: SERVICE,
        headers: 28,
        quote: QUOTE,
    },
    Family {
        client: CLIENT6,
        vip: VIP6,
        snat: SNAT6,
        gateway: GATEWAY1_V6,
        service: SERVICE6,
        headers: 48,
        quote: QUOTE6,
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

/// Returns a packet whose IP packet has so many bytes.
fn sized(packet: &Packet, family: &Family, ip_len: usize) -> Packet {
    let payload: Vec<_> = (0..ip_len - family.headers - packet.options.len())
        .map(|at| (at * 3 + at / 256) as u8)
        .collect();
    packet.clone().payload(&payload)
}

fn from(family: &Family) -> Packet {
    from_client(family.client, family.vip)
}

/// Returns what the sender of a frame is told, whose IP packet is `quoted`.
fn told(packet: &Packet, family: &Family, quoted: &[u8], mtu: u16) -> Vec<u8> {
    let v6 = packet.source.is_ipv6();
    let [high, low] = mtu.to_be_bytes();
    let kind = if v6 { (2, 0) } else { (3, 4) };
    let mut message: Icmp = icmp(
        packet.destination.ip(),
        packet.source.ip(),
        kind,
        &quoted[..family.quote],
    )
    .macs(packet.destination_mac, packet.source_mac)
    .tags(&packet.tags)
    .rest([0, 0, high, low])
    .ttl(64);
    message.ip.identification = 0;
    message.ip.flow_label = [0; 3];
    message.ip.traffic_class = if v6 { 0 } else { 0xc0 };
    message.encode()
}

fn answered(packet: &Packet, family: &Family, mtu: u16) -> Verdict {
    let frame = told(packet, family, &packet.quoted(), mtu);
    Verdict::Answered(DropReason::TooBig, frame)
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

#[test]
fn a_client_is_told_what_the_way_to_the_backend_carries() {
    each_family(|site, family| {
        for mtu in [1280, 1400, MTU] {
            site.backend(family.gateway, |backend| backend.mtu = mtu);
            let fitting = sized(&from(family), family, usize::from(mtu));
            let forwarded = towards(family.gateway, &fitting, family.snat);
            assert_eq!(site.send(&fitting), Verdict::Sent(forwarded));

            for surplus in [1, 2, 3, 100, 1500] {
                let packet = sized(&from(family), family, usize::from(mtu) + surplus);

                assert_eq!(
                    site.send(&packet),
                    answered(&packet, family, mtu),
                    "{mtu} + {surplus}"
                );
            }
        }
    });
}

#[test]
fn a_backend_is_told_what_the_way_to_the_client_carries() {
    each_family(|site, family| {
        let packet = from(family);
        let answer = answer(&site.forward(&packet));
        for mtu in [1280, 1400, MTU] {
            site.settings(|settings| settings.interfaces[0].mtu = mtu);
            let fitting = sized(&answer, family, usize::from(mtu));
            assert_eq!(
                site.send(&fitting),
                Verdict::Sent(returned(&fitting, &packet))
            );

            for surplus in [1, 2, 3, 100, 1500] {
                let large = sized(&answer, family, usize::from(mtu) + surplus);

                assert_eq!(
                    site.send(&large),
                    answered(&large, family, mtu),
                    "{mtu} + {surplus}"
                );
            }
        }
        site.settings(|settings| settings.interfaces[0].mtu = MTU);
    });
}

#[test]
fn the_first_packet_of_a_flow_may_be_too_big() {
    each_family(|site, family| {
        let packet = sized(&from(family), family, 1501);

        assert_eq!(site.send(&packet), answered(&packet, family, MTU));

        let small = from(family);
        let forwarded = towards(family.gateway, &small, family.snat);
        assert_eq!(site.send(&small), Verdict::Sent(forwarded));
    });
}

#[test]
fn what_is_too_big_counts_as_dropped_and_not_as_forwarded() {
    each_family(|site, family| {
        let answer = answer(&site.forward(&from(family)));
        let before = site.counters();
        for packet in [
            sized(&from(family), family, 1501),
            sized(&answer, family, 1501),
        ] {
            assert_eq!(site.send(&packet), answered(&packet, family, MTU));
        }
        let after = site.counters();
        assert_eq!(after.services, before.services);
        assert_eq!(after.backends, before.backends);
        assert_eq!(site.service_counters(family.service).packets_in, 1);
    });
}

#[test]
fn each_way_has_a_size_of_its_own() {
    each_family(|site, family| {
        let packet = from(family);
        let answer = answer(&site.forward(&packet));
        site.backend(family.gateway, |backend| backend.mtu = 1300);
        let large = sized(&answer, family, 1500);
        assert_eq!(site.send(&large), Verdict::Sent(returned(&large, &packet)));
        let large = sized(&packet, family, 1500);
        assert_eq!(site.send(&large), answered(&large, family, 1300));

        site.backend(family.gateway, |backend| backend.mtu = 1500);
        site.settings(|settings| {
            settings.interfaces[0].mtu = 1300;
            // Another interface's does not count.
            settings.interfaces[1] = Interface {
                index: 9,
                mac: BALANCER_MAC,
                mtu: 1299,
            };
        });
        let forwarded = towards(family.gateway, &large, family.snat);
        assert_eq!(site.send(&large), Verdict::Sent(forwarded));
        let large = sized(&answer, family, 1301);
        assert_eq!(site.send(&large), answered(&large, family, 1300));
        site.settings(|settings| settings.interfaces[0].mtu = MTU);
    });
}

#[test]
fn the_sender_is_told_by_the_interface_that_it_came_in_by() {
    each_family(|site, family| {
        site.backend(family.gateway, |backend| {
            backend.interface = 9;
            backend.source_mac = [2, 0, 0, 0, 0, 0x55];
            backend.mtu = 1400;
        });
        let packet = sized(&from(family), family, 1401);

        // `Answered` stands for the action "back out of the same interface".
        assert_eq!(site.send(&packet), answered(&packet, family, 1400));
        let fitting = sized(&from(family), family, 1400);
        assert!(matches!(site.send(&fitting), Verdict::Redirected(_)));
    });
}

#[test]
fn a_size_that_is_not_known_is_not_checked() {
    each_family(|site, family| {
        site.backend(family.gateway, |backend| backend.mtu = 0);
        site.settings(|settings| settings.interfaces[0].mtu = 0);
        let packet = sized(&from(family), family, 3000);
        let forwarded = towards(family.gateway, &packet, family.snat);
        assert_eq!(site.send(&packet), Verdict::Sent(forwarded.clone()));
        let answer = sized(&answer(&forwarded), family, 3001);
        assert_eq!(
            site.send(&answer),
            Verdict::Sent(returned(&answer, &packet))
        );
        site.settings(|settings| settings.interfaces[0].mtu = MTU);
    });
}

#[test]
fn don_t_fragment_makes_no_difference() {
    Site::with(|site| {
        let family = &FAMILIES[0];
        site.only(family.gateway);
        let packet = sized(&from(family), family, 1501);
        for fragment in [0x4000, 0] {
            let mut ip = packet.ip();
            ip.fragment = fragment;
            let quoted = ip.encode(&packet.datagram());
            let frame = [packet.link().encode(false), quoted.clone()].concat();

            let expected = told(&packet, family, &quoted, MTU);
            assert_eq!(
                site.send_bytes(&frame),
                Verdict::Answered(DropReason::TooBig, expected)
            );
        }
    });
}

#[test]
fn an_ipv4_packet_below_the_quote_is_dropped_without_an_answer() {
    Site::with(|site| {
        let family = &FAMILIES[0];
        site.only(family.gateway);
        let answer = answer(&site.forward(&from(family)));
        site.backend(family.gateway, |backend| backend.mtu = 100);
        site.settings(|settings| settings.interfaces[0].mtu = 100);
        for packet in [from(family), answer] {
            for ip_len in [101, 102, 500, QUOTE - 1] {
                let packet = sized(&packet, family, ip_len);
                assert_eq!(
                    site.send(&packet),
                    Verdict::Dropped(DropReason::TooBig),
                    "{ip_len} bytes"
                );
            }
            for ip_len in [QUOTE, QUOTE + 1] {
                let packet = sized(&packet, family, ip_len);
                assert_eq!(site.send(&packet), answered(&packet, family, 100));
            }
        }
    });
}

#[test]
fn a_packet_that_may_go_no_further_is_not_answered() {
    each_family(|site, family| {
        let answer = answer(&site.forward(&from(family)));
        for packet in [from(family), answer] {
            for ttl in [0, 1] {
                let packet = sized(&packet, family, 1501).ttl(ttl);
                assert_eq!(site.send(&packet), Verdict::Dropped(DropReason::TtlExpired));
            }
            let packet = sized(&packet, family, 1501).ttl(2);
            assert_eq!(site.send(&packet), answered(&packet, family, MTU));
        }
    });
}

#[test]
fn the_answer_has_the_tags_of_the_packet() {
    each_family(|site, family| {
        for tags in [&[(0x8100, 30)][..], &[(0x88a8, 40), (0x8100, 0xe01e)]] {
            let packet = from(family).tags(tags);
            // Tags are no part of the IP packet.
            let fitting = sized(&packet, family, usize::from(MTU));
            let forwarded = site.forward(&fitting);
            assert_eq!(
                forwarded,
                towards(family.gateway, &fitting, family.snat).tags(&[])
            );

            let large = sized(&packet, family, 1501);
            assert_eq!(site.send(&large), answered(&large, family, MTU));

            let large = sized(&answer(&forwarded), family, 1501).tags(tags);
            assert_eq!(site.send(&large), answered(&large, family, MTU));
        }
    });
}

#[test]
fn options_and_extension_headers_are_quoted() {
    each_family(|site, family| {
        if family.service == SERVICE {
            let packet = sized(&from(family).options(&[1; 40]), family, 1501);
            assert_eq!(site.send(&packet), answered(&packet, family, MTU));
            let fitting = sized(&packet, family, 1500);
            let forwarded = towards(family.gateway, &fitting, family.snat);
            assert_eq!(site.send(&fitting), Verdict::Sent(forwarded));
            return;
        }
        let headers = [
            extension::options(extension::HOP_BY_HOP, 8),
            extension::options(extension::DESTINATION_OPTIONS, 248),
        ];
        let packet = sized(&from(family), family, 1501 - 256);
        let frame = extension::behind(&packet.encode(), 14, &headers);
        let expected = told(&packet, family, &frame[14..], MTU);
        assert_eq!(
            site.send_bytes(&frame),
            Verdict::Answered(DropReason::TooBig, expected)
        );
        let packet = sized(&packet, family, 1500 - 256);
        let frame = extension::behind(&packet.encode(), 14, &headers);
        assert!(matches!(site.send_bytes(&frame), Verdict::Sent(_)));
    });
}

#[test]
fn padding_of_the_frame_does_not_count() {
    each_family(|site, family| {
        let fitting = sized(&from(family), family, usize::from(MTU));
        let mut frame = fitting.encode();
        frame.extend([0xaa; 20]);
        let Verdict::Sent(sent) = site.send_bytes(&frame) else {
            panic!("not sent");
        };
        let forwarded = towards(family.gateway, &fitting, family.snat).encode();
        assert_eq!(&sent[..forwarded.len()], forwarded);

        let packet = sized(&from(family), family, 1501);
        let mut frame = packet.encode();
        frame.extend([0xaa; 20]);
        assert_eq!(site.send_frame(&frame), answered(&packet, family, MTU));
    });
}

#[test]
fn a_checksum_is_not_looked_at_before_the_answer() {
    Site::with(|site| {
        let family = &FAMILIES[0];
        site.only(family.gateway);
        let packet = sized(&from(family).without_checksum(), family, 1501);
        assert_eq!(site.send(&packet), answered(&packet, family, MTU));
    });
}

#[test]
fn first_pieces_that_are_too_big_are_answered_as_they_came_and_later_ones_as_the_family_allows() {
    each_family(|site, family| {
        let answer = answer(&site.forward(&from(family)));
        for (packet, way) in [(from(family), "forward"), (answer, "reply")] {
            let packet = sized(&packet, family, 5000);
            let pieces = cut(&packet, 0x4321, &[1400, 1400]);
            let (first, later) = (&pieces[0], &pieces[1]);
            let mtu = first.quoted().len() as u16 - 1;
            set_mtu(site, family, mtu);
            assert_told(site, family, &packet, first, mtu, way);
            set_mtu(site, family, mtu + 1);
            assert!(matches!(site.send_piece(first), Verdict::Sent(_)), "{way}");
            set_mtu(site, family, mtu);
            if family.vip == VIP6 {
                assert_told(site, family, &packet, later, mtu, way);
            } else {
                // RFC 1122 section 3.2.2.
                let dropped = Verdict::Dropped(DropReason::TooBig);
                assert_eq!(site.send_piece(later), dropped, "{way}");
            }
            set_mtu(site, family, mtu + 1);
            assert!(matches!(site.send_piece(later), Verdict::Sent(_)), "{way}");
        }
        set_mtu(site, family, MTU);
    });
}

fn set_mtu(site: &mut Site, family: &Family, mtu: u16) {
    site.backend(family.gateway, |backend| backend.mtu = mtu);
    site.settings(|settings| settings.interfaces[0].mtu = mtu);
}

fn assert_told(
    site: &mut Site,
    family: &Family,
    packet: &Packet,
    piece: &Piece,
    mtu: u16,
    way: &str,
) {
    let expected = told(packet, family, &piece.quoted(), mtu);
    assert_eq!(
        site.send_piece(piece),
        Verdict::Answered(DropReason::TooBig, expected),
        "{way}, {piece:?}"
    );
}

/// The largest frame that the kernel puts into one buffer for a test has some 3500 bytes.
const LARGE: [usize; 6] = [3400, 3600, 4096, 5000, 8999, 9000];

#[test]
fn jumbo_packets_are_translated() {
    each_family(|site, family| {
        set_mtu(site, family, 9000);
        for ip_len in LARGE {
            for tags in [&[][..], &[(0x8100, 30)]] {
                let packet = sized(&from(family).tags(tags), family, ip_len);
                let forwarded = towards(family.gateway, &packet, family.snat).tags(&[]);
                assert_eq!(
                    site.send(&packet),
                    Verdict::Sent(forwarded.clone()),
                    "{ip_len}"
                );
                let answer = sized(&answer(&forwarded), family, ip_len);
                let returned = returned(&answer, &packet);
                assert_eq!(site.send(&answer), Verdict::Sent(returned), "{ip_len}");
            }
        }
        set_mtu(site, family, MTU);
    });
}

#[test]
fn jumbo_packets_that_are_too_big_are_answered() {
    each_family(|site, family| {
        let answer = answer(&site.forward(&from(family)));
        for ip_len in LARGE {
            let mtu = ip_len as u16 - 1;
            for mtu in [MTU, mtu] {
                set_mtu(site, family, mtu);
                for packet in [from(family), answer.clone()] {
                    let packet = sized(&packet, family, ip_len).tags(&[(0x8100, 30)]);
                    assert_eq!(
                        site.send(&packet),
                        answered(&packet, family, mtu),
                        "{ip_len}"
                    );
                }
            }
        }
        set_mtu(site, family, MTU);
    });
}

#[test]
fn a_jumbo_packet_that_lies_about_its_length_is_dropped() {
    each_family(|site, family| {
        set_mtu(site, family, 9000);
        let frame = sized(&from(family), family, 8000).encode();
        assert_eq!(
            site.send_frame(&frame[..frame.len() - 1]),
            Verdict::Dropped(DropReason::Malformed)
        );
        assert_eq!(site.pins.flow_count(), 0);
        set_mtu(site, family, MTU);
    });
}
