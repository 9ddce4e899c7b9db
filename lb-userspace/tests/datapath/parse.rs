//! What is not ours passes, byte for byte; what is ours and makes no sense is dropped.

use lb_common::verdict::DropReason;

use crate::harness::{
    packet::{Packet, udp},
    plan::{BALANCER_MAC, CLIENT, CLIENT6, GATEWAY1, ROUTER_MAC, SNAT, VIP, VIP6},
    site::{Site, Verdict, from_client},
};

/// Returns a client's frame with some bytes replaced.
fn with(packet: &Packet, offset: usize, bytes: &[u8]) -> Vec<u8> {
    let mut frame = packet.encode();
    frame[offset..][..bytes.len()].copy_from_slice(bytes);
    frame
}

fn v4() -> Packet {
    from_client(CLIENT, VIP)
}

fn v6() -> Packet {
    from_client(CLIENT6, VIP6)
}

#[test]
fn what_is_not_ours_passes_untouched() {
    const STRANGER_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x99];
    const BROADCAST: [u8; 6] = [0xff; 6];
    let (l3, l3_tagged) = (v4().l3(), v4().l3() + 4);
    let tagged = v4().tags(&[(0x8100, 30)]);
    let doubly = v4().tags(&[(0x88a8, 40), (0x8100, 30)]);
    let arp = {
        let mut frame = [BROADCAST, ROUTER_MAC].concat();
        frame.extend([0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1]);
        frame.resize(60, 0);
        frame
    };
    let arp_to_us = [&BALANCER_MAC[..], &arp[6..]].concat();
    let table = [
        ("ARP to everybody", arp),
        ("ARP to us", arp_to_us),
        ("an unknown EtherType", with(&v4(), 12, &[0x12, 0x34])),
        (
            "IPv6 under IPv4's EtherType",
            with(&v6(), 12, &[0x08, 0x00]),
        ),
        (
            "IPv4 under IPv6's EtherType",
            with(&v4(), 12, &[0x86, 0xdd]),
        ),
        ("TCP to the VIP", with(&v4(), l3 + 9, &[6])),
        ("ICMP to the VIP", with(&v4(), l3 + 9, &[1])),
        ("TCP to the VIP in IPv6", with(&v6(), l3 + 6, &[6])),
        ("ICMPv6 to the VIP", with(&v6(), l3 + 6, &[58])),
        (
            "the bytes of UDP as hop-by-hop options",
            with(&v6(), l3 + 6, &[0]),
        ),
        (
            "another MAC address",
            v4().macs(ROUTER_MAC, STRANGER_MAC).encode(),
        ),
        (
            "another MAC address in IPv6",
            v6().macs(ROUTER_MAC, STRANGER_MAC).encode(),
        ),
        (
            "the broadcast MAC address",
            v4().macs(ROUTER_MAC, BROADCAST).encode(),
        ),
        ("the VIP's other port", v4().to("10.20.90.105:53").encode()),
        ("the VIP's port 0", v4().to("10.20.90.105:0").encode()),
        (
            "the VIP's other port in IPv6",
            v6().to("[2001:db8:20::105]:53").encode(),
        ),
        ("another address", v4().to("10.20.90.104:443").encode()),
        (
            "another address in IPv6",
            v6().to("[2001:db8:20::104]:443").encode(),
        ),
        ("IP version 5", with(&v4(), l3, &[0x55])),
        ("IP version 4 in IPv6", with(&v6(), l3, &[0x4b])),
        ("an IPv4 header of no length", with(&v4(), l3, &[0x40])),
        ("an IPv4 header of 16 bytes", with(&v4(), l3, &[0x44])),
        ("TCP in a tagged frame", with(&tagged, l3_tagged + 9, &[6])),
        ("ARP in a tagged frame", with(&tagged, 16, &[0x08, 0x06])),
        (
            "ARP in a doubly tagged frame",
            with(&doubly, 20, &[0x08, 0x06]),
        ),
        ("a third tag", with(&doubly, 20, &[0x81, 0x00])),
        ("two service tags", with(&doubly, 16, &[0x88, 0xa8])),
        ("the reserved VLAN inside", with(&doubly, 18, &[0xff, 0xff])),
    ];
    Site::with(|site| {
        for (what, frame) in table {
            assert_eq!(site.send_frame(&frame), Verdict::Passed, "{what}");
        }
        assert_eq!(site.pins.flow_count(), 0);
        assert_eq!(site.pins.used(), []);
    });
}

#[test]
fn a_frame_that_is_cut_off_passes_until_it_is_known_to_be_ours() {
    Site::with(|site| {
        for packet in [
            v4(),
            v4().options(&[1; 40]),
            v4().tags(&[(0x8100, 30)]),
            v4().tags(&[(0x88a8, 40), (0x8100, 30)]),
            v6(),
            v6().tags(&[(0x88a8, 40), (0x8100, 30)]),
        ] {
            let frame = packet.encode();
            // With its fixed header, an IP packet says for whom it is.
            let known = packet.l3() + if packet.source.is_ipv4() { 20 } else { 40 };
            for len in 14..frame.len() {
                let expected = if len < known {
                    Verdict::Passed
                } else {
                    Verdict::Dropped(DropReason::Malformed)
                };
                assert_eq!(
                    site.send_frame(&frame[..len]),
                    expected,
                    "{len} bytes of {packet:?}"
                );
            }
            assert!(matches!(site.send_frame(&frame), Verdict::Sent(_)));
        }
    });
}

#[test]
fn lengths_that_lie_are_dropped_where_the_packet_is_for_a_vip() {
    let (v4, v6) = (v4(), v6());
    let ip_len = (v4.encode().len() - v4.l3()) as u16;
    let udp_len = 8 + v4.payload.len() as u16;
    let table = [
        ("IPv4 longer than the frame", &v4, v4.l3() + 2, ip_len + 1),
        (
            "IPv4 much longer than the frame",
            &v4,
            v4.l3() + 2,
            u16::MAX,
        ),
        ("IPv4 shorter than its header", &v4, v4.l3() + 2, 19),
        ("IPv4 of no length", &v4, v4.l3() + 2, 0),
        ("IPv4 without room for UDP", &v4, v4.l3() + 2, 27),
        (
            "IPv4 shorter than its datagram",
            &v4,
            v4.l3() + 2,
            ip_len - 1,
        ),
        ("IPv6 longer than the frame", &v6, v6.l3() + 4, udp_len + 1),
        ("IPv6 without room for UDP", &v6, v6.l3() + 4, 7),
        ("IPv6 of no length (a jumbogram)", &v6, v6.l3() + 4, 0),
        ("UDP shorter than its header", &v4, v4.l4() + 4, 7),
        ("UDP of no length", &v4, v4.l4() + 4, 0),
        ("UDP longer than its packet", &v4, v4.l4() + 4, udp_len + 1),
        ("UDP shorter than its header in IPv6", &v6, v6.l4() + 4, 7),
        (
            "UDP longer than its packet in IPv6",
            &v6,
            v6.l4() + 4,
            udp_len + 1,
        ),
    ];
    Site::with(|site| {
        for (what, packet, offset, len) in table {
            let for_vip = with(packet, offset, &len.to_be_bytes());
            let other = if packet.source.is_ipv4() {
                packet.clone().to("10.20.90.104:443")
            } else {
                packet.clone().to("[2001:db8:20::104]:443")
            };
            let for_host = with(&other, offset, &len.to_be_bytes());

            assert_eq!(
                site.send_frame(&for_vip),
                Verdict::Dropped(DropReason::Malformed),
                "{what}"
            );
            assert_eq!(site.send_frame(&for_host), Verdict::Passed, "{what}");
        }
        assert_eq!(site.pins.used(), []);
    });
}

#[test]
fn without_settings_everything_passes() {
    Site::with(|site| {
        site.settings(|settings| *settings = lb_common::settings::Settings::default());

        for packet in [v4(), v6(), udp(GATEWAY1.address, SNAT)] {
            assert_eq!(site.send(&packet), Verdict::Passed);
        }
    });
}
