//! One arm: out of the interface that the packet came in by. Two arms: out of another.

use lb_common::settings::Interface;

use crate::harness::{
    packet::Packet,
    plan::{
        BALANCER_MAC, CLIENT, CLIENT6, GATEWAY1, GATEWAY1_V6, Gateway, MTU, SNAT, SNAT6, VIP, VIP6,
    },
    site::{Site, Verdict, answer, from_client, towards},
};

/// The interface towards the servers, or towards the clients: whichever the frame at hand does
/// not come in by.
const OTHER_INTERFACE: u32 = 9;
const OTHER_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x55];

fn families() -> [(Packet, Gateway, &'static str); 2] {
    [
        (from_client(CLIENT, VIP), GATEWAY1, SNAT),
        (from_client(CLIENT6, VIP6), GATEWAY1_V6, SNAT6),
    ]
}

#[test]
fn a_backend_behind_the_same_interface_is_sent_to_by_it() {
    Site::with(|site| {
        for (packet, gateway, snat) in families() {
            site.only(gateway);

            let expected = towards(gateway, &packet, snat);

            assert_eq!(site.send(&packet), Verdict::Sent(expected));
        }
    });
}

#[test]
fn a_backend_behind_another_interface_is_redirected_to() {
    Site::with(|site| {
        for (packet, gateway, snat) in families() {
            site.only(gateway);
            site.backend(gateway, |backend| {
                backend.interface = OTHER_INTERFACE;
                backend.source_mac = OTHER_MAC;
            });

            let expected = towards(gateway, &packet, snat).macs(OTHER_MAC, gateway.mac);

            assert_eq!(site.send(&packet), Verdict::Redirected(expected));
        }
    });
}

#[test]
fn answers_are_redirected_to_the_interface_of_the_client() {
    Site::with(|site| {
        for (packet, gateway, _) in families() {
            site.only(gateway);
            let answer = answer(&site.forward(&packet));
            // The flow remembers the first place, which becomes the clients' side; frames keep
            // coming in by the loopback, which becomes the servers' side.
            site.settings(|settings| {
                settings.interfaces[1] = settings.interfaces[0];
                settings.interfaces[0] = Interface {
                    index: OTHER_INTERFACE,
                    mac: OTHER_MAC,
                    mtu: MTU,
                };
            });

            let expected = Packet {
                source: packet.destination,
                destination: packet.source,
                ..answer.clone()
            }
            .macs(OTHER_MAC, packet.source_mac)
            .ttl(answer.ttl - 1);

            assert_eq!(site.send(&answer), Verdict::Redirected(expected));
            site.settings(|settings| {
                settings.interfaces[0] = settings.interfaces[1];
                settings.interfaces[1] = Interface::default();
            });
        }
    });
}

#[test]
fn answers_follow_a_client_to_another_interface() {
    Site::with(|site| {
        for (packet, gateway, _) in families() {
            site.only(gateway);
            let answer = answer(&site.forward(&packet));
            site.settings(|settings| settings.interfaces.swap(0, 3));

            site.forward(&packet);

            assert!(matches!(site.send(&answer), Verdict::Sent(_)));
            assert_eq!(answer.destination_mac, BALANCER_MAC);
            site.settings(|settings| settings.interfaces.swap(0, 3));
        }
    });
}
