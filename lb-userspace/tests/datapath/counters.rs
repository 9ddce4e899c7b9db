//! Counters: of services and backends, and of drops, each reason reached by a packet.

use lb_common::{
    backend::{DOWN, VlanTags},
    flow::Flow,
    stats::Counters,
    verdict::DropReason,
};

use crate::harness::{
    fragment::cut,
    packet::Packet,
    plan::{
        CLIENT, CLIENT6, GATEWAY1, GATEWAY1_V6, GATEWAY2, SERVICE, SERVICE_OTHER, SERVICE6,
        SNAT_PORTS, VIP, VIP_OTHER, VIP6,
    },
    site::{Site, Verdict, answer, from_client},
};

#[test]
fn packets_and_bytes_count_for_their_service_and_their_backend() {
    Site::with(|site| {
        for (packet, gateway, service) in [
            (from_client(CLIENT, VIP), GATEWAY1, SERVICE),
            (from_client(CLIENT6, VIP6), GATEWAY1_V6, SERVICE6),
        ] {
            site.only(gateway);
            let long = packet.clone().payload(&[7; 1000]).tags(&[(0x8100, 30)]);
            site.forward(&packet);
            let answer = answer(&site.forward(&long)).payload(&[9; 300]);
            site.forward(&answer);
            site.forward(&answer);
            site.forward(&answer);

            let expected = Counters {
                packets_in: 2,
                bytes_in: (packet.encode().len() + long.encode().len()) as u64,
                packets_out: 3,
                bytes_out: 3 * answer.encode().len() as u64,
                flows_new: 1,
                ..Counters::default()
            };
            assert_eq!(site.service_counters(service), expected);
            assert_eq!(site.backend_counters(gateway), expected);
        }
        for (id, counters) in site.counters().services.iter().enumerate() {
            let ours = [SERVICE, SERVICE6].contains(&(id as u16));
            assert_eq!(*counters != Counters::default(), ours, "service {id}");
        }
        for (id, counters) in site.counters().backends.iter().enumerate() {
            let ours = [GATEWAY1.number, GATEWAY1_V6.number].contains(&(id as u16));
            assert_eq!(*counters != Counters::default(), ours, "backend {id}");
        }
    });
}

#[test]
fn two_services_on_one_backend_are_told_apart() {
    Site::with(|site| {
        site.only(GATEWAY1);
        let first = site.forward(&from_client(CLIENT, VIP));
        site.forward(&from_client(CLIENT, VIP_OTHER));
        site.answer(&first);

        let [one, other] = [SERVICE, SERVICE_OTHER].map(|id| site.service_counters(id));
        assert_eq!((one.packets_in, one.packets_out, one.flows_new), (1, 1, 1));
        assert_eq!(
            (other.packets_in, other.packets_out, other.flows_new),
            (1, 0, 1)
        );
        assert_eq!(site.backend_counters(GATEWAY1).flows_new, 2);
    });
}

#[test]
fn a_moved_flow_counts_as_moved_and_not_as_new() {
    Site::with(|site| {
        site.only(GATEWAY1);
        let packet = from_client(CLIENT, VIP);
        site.forward(&packet);
        site.backend(GATEWAY1, |backend| backend.health = DOWN);
        site.forward(&packet);

        let service = site.service_counters(SERVICE);
        assert_eq!((service.flows_new, service.flows_moved), (1, 1));
        let from = site.backend_counters(GATEWAY1);
        assert_eq!(
            (from.flows_new, from.flows_moved, from.packets_in),
            (1, 0, 1)
        );
        let to = site.backend_counters(GATEWAY2);
        assert_eq!((to.flows_new, to.flows_moved, to.packets_in), (0, 1, 1));
    });
}

#[test]
fn counters_of_a_number_can_be_cleared_for_its_next_owner() {
    use lb_userspace::dataplane::image::MapOp;
    Site::with(|site| {
        site.only(GATEWAY1);
        site.forward(&from_client(CLIENT, VIP));

        site.apply(MapOp::ClearServiceCounters(SERVICE));

        assert_eq!(site.service_counters(SERVICE), Counters::default());
        assert_eq!(site.backend_counters(GATEWAY1).packets_in, 1);
        site.apply(MapOp::ClearBackendCounters(GATEWAY1.number));
        assert_eq!(site.backend_counters(GATEWAY1), Counters::default());
    });
}

#[test]
fn a_packet_that_is_dropped_on_its_way_is_not_counted_as_forwarded() {
    Site::with(|site| {
        site.only(GATEWAY1);
        let packet = from_client(CLIENT, VIP);
        let answer = answer(&site.forward(&packet));

        for expired in [packet.ttl(1), answer.ttl(1)] {
            assert_eq!(
                site.send(&expired),
                Verdict::Dropped(DropReason::TtlExpired)
            );
        }

        let service = site.service_counters(SERVICE);
        assert_eq!((service.packets_in, service.packets_out), (1, 0));
        let backend = site.backend_counters(GATEWAY1);
        assert_eq!((backend.packets_in, backend.packets_out), (1, 0));
    });
}

#[test]
fn every_reason_to_drop_is_counted_under_its_own_number() {
    for reason in DropReason::ALL {
        Site::with(|site| {
            site.only(GATEWAY1);
            let frame = bring_about(*reason, site);

            if *reason == DropReason::NoHeadroom {
                site.pins.run_with_metadata(&frame, 212);
            } else {
                match site.send_frame(&frame) {
                    Verdict::Dropped(counted) => {
                        assert_eq!(counted, *reason);
                        assert_ne!(counted, DropReason::TooBig, "the sender is not told");
                    }
                    Verdict::Answered(counted, _) => assert_eq!(counted, *reason),
                    other => panic!("not dropped, but {other:?}"),
                }
            }

            for (counted, count) in site.counters().drops {
                assert_eq!(count, u64::from(counted == *reason), "{}", counted.label());
            }
        });
    }
}

/// Prepares the site, and returns a frame that is dropped for the reason.
fn bring_about(reason: DropReason, site: &mut Site) -> Vec<u8> {
    let packet = from_client(CLIENT, VIP);
    let dropped: Packet = match reason {
        DropReason::Malformed => {
            let mut frame = packet.encode();
            frame.pop();
            return frame;
        }
        DropReason::Fragment => {
            let [_first, later] = &cut(&packet, 1, &[16])[..] else {
                panic!("two pieces")
            };
            return later.encode();
        }
        DropReason::TtlExpired => packet.ttl(1),
        DropReason::NoFlow => {
            let forwarded = site.forward(&packet);
            site.end_flows();
            answer(&forwarded)
        }
        DropReason::NoEligibleBackend => {
            site.backend(GATEWAY1, |backend| backend.health = DOWN);
            site.backend(GATEWAY2, |backend| backend.health = DOWN);
            packet
        }
        DropReason::SnatPortsExhausted => {
            for port in 0..SNAT_PORTS {
                site.forward(&packet.clone().port(port + 1));
            }
            packet
        }
        DropReason::FlowTableFull => {
            for port in 1..=8 * SNAT_PORTS {
                let stranger = packet.clone().port(port);
                site.pins.set_flow(&stranger, Flow::NONE);
            }
            packet
        }
        DropReason::ChecksumMissing => from_client(CLIENT6, VIP6).without_checksum(),
        DropReason::InterfaceGone => {
            let forwarded = site.forward(&packet);
            site.settings(|settings| settings.interfaces.swap(0, 1));
            answer(&forwarded)
        }
        DropReason::NoHeadroom => {
            site.backend(GATEWAY1, |backend| {
                backend.vlan = VlanTags {
                    outer_protocol: 0x88a8,
                    control: [40, 30],
                };
            });
            packet
        }
        DropReason::Blocked => {
            site.ranges(SERVICE, 0, &[([0; 16], true)]);
            packet
        }
        DropReason::SourceLimited => {
            site.service(SERVICE, |service| service.new_flows_per_source = 1);
            site.forward(&packet);
            packet.port(1)
        }
        DropReason::ServiceLimited => {
            site.service(SERVICE, |service| service.new_flows_per_second = 1);
            site.forward(&packet);
            packet.port(1)
        }
        DropReason::TooBig => packet.payload(&[7; 1500]),
        DropReason::Inconsistent => {
            let answer = answer(&site.forward(&packet));
            site.endpoint(GATEWAY1, 444, 1000);
            answer.from("10.11.20.106:444")
        }
    };
    dropped.encode()
}
