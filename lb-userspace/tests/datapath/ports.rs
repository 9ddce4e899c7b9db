//! Port translation: the service's port on the VIP, another one on the backends.

use crate::harness::{
    packet::Packet,
    plan::{
        CLIENT, CLIENT6, GATEWAY1, GATEWAY1_V6, GATEWAY2, SERVICE, SERVICE6, SNAT, SNAT6, VIP,
        VIP_OTHER, VIP6,
    },
    site::{Site, Verdict, answer, from_client, towards},
};

#[test]
fn port_443_of_the_vip_is_port_8443_of_the_backend() {
    Site::with(|site| {
        for (packet, service, gateway, snat) in [
            (from_client(CLIENT, VIP), SERVICE, GATEWAY1, SNAT),
            (from_client(CLIENT6, VIP6), SERVICE6, GATEWAY1_V6, SNAT6),
        ] {
            site.only(gateway);
            site.service(service, |service| service.backend_port = 8443);
            site.endpoint(gateway, 8443, 4 + u32::from(gateway.pool));

            let verdict = site.send(&packet);

            let expected = to_port(&towards(gateway, &packet, snat), 8443);
            assert_eq!(verdict, Verdict::Sent(expected.clone()));
            let returned = site.answer(&expected);
            assert_eq!(returned.source, packet.destination);
            assert_eq!(returned.destination, packet.source);
        }
    });
}

#[test]
fn a_backend_s_own_port_counts_before_the_service_s() {
    Site::with(|site| {
        site.only(GATEWAY1);
        site.backend(GATEWAY1, |backend| backend.port = 9443);
        site.endpoint(GATEWAY1, 9443, 5);
        let packet = from_client(CLIENT, VIP);

        let verdict = site.send(&packet);

        let expected = to_port(&towards(GATEWAY1, &packet, SNAT), 9443);
        assert_eq!(verdict, Verdict::Sent(expected));
    });
}

#[test]
fn a_flow_keeps_its_backend_port_when_the_service_s_changes() {
    Site::with(|site| {
        site.only(GATEWAY1);
        let packet = from_client(CLIENT, VIP);
        let before = site.forward(&packet);

        site.service(SERVICE, |service| service.backend_port = 8443);
        site.endpoint(GATEWAY1, 8443, 5);

        assert_eq!(site.forward(&packet), before);
        let next = from_client("192.0.2.11:20011", VIP);
        assert_eq!(site.forward(&next).destination.port(), 8443);
    });
}

#[test]
fn one_client_port_to_two_services_on_one_backend_makes_two_flows() {
    Site::with(|site| {
        site.only(GATEWAY2);
        let packets = [from_client(CLIENT, VIP), from_client(CLIENT, VIP_OTHER)];

        let forwarded = packets.each_ref().map(|packet| site.forward(packet));

        assert_eq!(forwarded[0].destination, forwarded[1].destination);
        assert_ne!(forwarded[0].source, forwarded[1].source);
        for (packet, forwarded) in packets.iter().zip(&forwarded) {
            let returned = site.forward(&answer(forwarded));
            assert_eq!(returned.source, packet.destination);
            assert_eq!(returned.destination, packet.source);
        }
    });
}

fn to_port(packet: &Packet, port: u16) -> Packet {
    let mut packet = packet.clone();
    packet.destination.set_port(port);
    packet
}
