//! 802.1Q tags: kept towards the client, put on towards the backend as its next hop asks.

use lb_common::{backend::VlanTags, verdict::DropReason};

use crate::harness::{
    packet::Packet,
    plan::{CLIENT, CLIENT6, GATEWAY1, GATEWAY1_V6, Gateway, SNAT, SNAT6, VIP, VIP6},
    site::{Site, Verdict, XDP_DROP, answer, from_client, towards},
};

/// EtherTypes of the customer's and the provider's tag (IEEE 802.1Q-2018 table 9-1).
const C_TAG: u16 = 0x8100;
const S_TAG: u16 = 0x88a8;

/// Every way to be tagged. Control information is VLAN and priority.
const WAYS: [&[(u16, u16)]; 6] = [
    &[],
    &[(C_TAG, 30)],
    &[(C_TAG, 0xefff)],
    &[(S_TAG, 40)],
    &[(C_TAG, 40), (C_TAG, 30)],
    &[(S_TAG, 0xa028), (C_TAG, 0)],
];

fn backend_tags(tags: &[(u16, u16)]) -> VlanTags {
    let control = |place: usize| tags.get(place).map_or(VlanTags::ABSENT, |tag| tag.1);
    VlanTags {
        outer_protocol: tags.first().map_or(0, |tag| tag.0),
        control: [control(0), control(1)],
    }
}

#[test]
fn tags_change_on_the_way_to_the_backend_and_come_back_to_the_client() {
    Site::with(|site| {
        for (client, vip, gateway, snat) in [
            (CLIENT, VIP, GATEWAY1, SNAT),
            (CLIENT6, VIP6, GATEWAY1_V6, SNAT6),
        ] {
            site.only(gateway);
            for client_tags in WAYS {
                for tags in WAYS {
                    site.backend(gateway, |backend| backend.vlan = backend_tags(tags));
                    there_and_back(site, gateway, snat, client, vip, client_tags, tags);
                }
            }
        }
    });
}

fn there_and_back(
    site: &mut Site,
    gateway: Gateway,
    snat: &str,
    client: &str,
    vip: &str,
    client_tags: &[(u16, u16)],
    tags: &[(u16, u16)],
) {
    let packet = from_client(client, vip).tags(client_tags);
    let what = format!("client {client_tags:x?}, backend {tags:x?}");

    let forwarded = towards(gateway, &packet, snat).tags(tags);
    assert_eq!(
        site.send(&packet),
        Verdict::Sent(forwarded.clone()),
        "{what}"
    );
    let returned = site.answer(&forwarded);

    let expected = Packet {
        source: packet.destination,
        destination: packet.source,
        ..answer(&forwarded)
    }
    .macs(packet.destination_mac, packet.source_mac)
    .tags(client_tags)
    .ttl(answer(&forwarded).ttl - 1);
    assert_eq!(returned, expected, "{what}");
}

#[test]
fn a_frame_without_room_for_tags_is_dropped() {
    Site::with(|site| {
        site.only(GATEWAY1);
        site.backend(GATEWAY1, |backend| {
            backend.vlan = backend_tags(&[(S_TAG, 40), (C_TAG, 30)]);
        });
        let frame = from_client(CLIENT, VIP).encode();
        let no_headroom = |site: &Site| {
            let drops = site.counters().drops;
            drops
                .into_iter()
                .find(|(reason, _)| *reason == DropReason::NoHeadroom)
                .map(|(_, count)| count)
        };

        // The kernel leaves 256 bytes before the frame, needs 40 of them and forbids more
        // than 252 of metadata.
        let action = site.pins.run_with_metadata(&frame, 212);

        assert_eq!(action, XDP_DROP);
        assert_eq!(no_headroom(site), Some(1));
        site.backend(GATEWAY1, |backend| backend.vlan = VlanTags::NONE);
        assert_ne!(site.pins.run_with_metadata(&frame, 212), XDP_DROP);
        assert_eq!(no_headroom(site), Some(1));
    });
}
