//! The sweeper: the end of flows and of memories, and what is in use.

use std::{collections::BTreeMap, net::SocketAddr};

use lb_common::{
    affinity::{TOUCH_S, lifetime_s},
    endpoint::EndpointKey,
    record::{Claim, Record, State},
};
use lb_userspace::dataplane::{Dataplane as _, PortUse, image::MapOp, sweep::SweepSettings};

use crate::harness::{
    packet::Packet,
    plan::{
        AFFINITY_TIMEOUT_S, CLIENT, CLIENT6, FLOW_TIMEOUT_S, GATEWAY1, GATEWAY1_V6, GATEWAY2,
        GROUP, GROUP6, SERVICE, SERVICE_OTHER, SERVICE6, SNAT, SNAT_PORTS, UNREPLIED_TIMEOUT_S,
        VIP, VIP_OTHER, VIP6,
    },
    site::{Site, answer, from_client, ip, sweep_settings},
};

fn families() -> [Packet; 2] {
    [from_client(CLIENT, VIP), from_client(CLIENT6, VIP6)]
}

/// Makes the flow of a packet, answered, and returns the index of its record.
fn answered(site: &mut Site, packet: &Packet) -> u32 {
    let forwarded = site.forward(packet);
    site.answer(&forwarded);
    site.pins.flow(packet).expect("a flow").record
}

#[test]
fn an_idle_flow_ends_in_two_passes() {
    Site::with(|site| {
        for packet in families() {
            let record = answered(site, &packet);
            site.age(FLOW_TIMEOUT_S + 1);

            let first = site.sweep();
            assert_eq!(first.ended, 0);
            assert_eq!(site.pins.state(record), State::Closing);
            assert!(site.pins.flow(&packet).is_some());
            let second = site.sweep();

            assert_eq!(second.ended, 1);
            assert_eq!(site.pins.state(record), State::Free);
            assert_eq!(site.pins.flow(&packet), None);
            assert_eq!(site.sweep().ended, 0);
        }
    });
}

#[test]
fn a_flow_ends_at_an_endpoint_that_came_after_quiet_passes_and_has_gone() {
    const LATE_SLOT: u32 = 6;
    Site::with(|site| {
        let key = EndpointKey::new(ip(SNAT), ip(GATEWAY1.address), 443, 17);
        site.only(GATEWAY1);
        site.apply(MapOp::RemoveEndpoint(key));
        // Whatever has neither endpoint nor flows is passed over from here on.
        for _ in 0..3 {
            assert_eq!(site.sweep().flows_by_service, BTreeMap::new());
        }
        site.endpoint(GATEWAY1, 443, LATE_SLOT);
        let packet = from_client(CLIENT, VIP);
        let record = answered(site, &packet);
        assert_eq!(record / u32::from(SNAT_PORTS), LATE_SLOT);
        assert_eq!(site.sweep().flows_by_service, [(SERVICE as u8, 1)].into());
        site.apply(MapOp::RemoveEndpoint(key));
        for _ in 0..3 {
            assert_eq!(site.sweep().flows_by_service, [(SERVICE as u8, 1)].into());
        }
        site.age(FLOW_TIMEOUT_S + 1);
        site.sweep();

        assert_eq!(site.sweep().ended, 1);
        assert_eq!(site.pins.state(record), State::Free);
    });
}

#[test]
fn a_flow_within_its_timeout_lives() {
    Site::with(|site| {
        for packet in families() {
            let record = answered(site, &packet);
            site.age(FLOW_TIMEOUT_S - 3);

            for _ in 0..3 {
                assert_eq!(site.sweep().ended, 0);
            }

            assert_eq!(site.pins.state(record), State::Live);
            assert!(site.pins.flow(&packet).is_some());
            site.end_flows();
        }
    });
}

#[test]
fn a_packet_between_the_passes_keeps_its_flow() {
    Site::with(|site| {
        for packet in families() {
            let record = answered(site, &packet);
            let forwarded = site.forward(&packet);
            for from_client in [true, false] {
                site.age(FLOW_TIMEOUT_S + 1);
                site.sweep();
                assert_eq!(site.pins.state(record), State::Closing);

                if from_client {
                    assert_eq!(site.forward(&packet), forwarded);
                } else {
                    assert_eq!(site.answer(&forwarded).destination, packet.source);
                }

                assert_eq!(site.pins.state(record), State::Live);
                assert_eq!(site.sweep().ended, 0);
                assert_eq!(site.pins.state(record), State::Live);
                assert_eq!(site.forward(&packet), forwarded);
            }
            site.end_flows();
        }
    });
}

#[test]
fn a_flow_that_was_never_answered_ends_earlier() {
    Site::with(|site| {
        for packet in families() {
            let other = packet.clone().port(20_020);
            let replied = answered(site, &packet);
            site.forward(&other);
            let unreplied = site.pins.flow(&other).expect("a flow").record;
            site.age(UNREPLIED_TIMEOUT_S + 1);

            site.sweep();
            site.sweep();

            assert_eq!(site.pins.state(unreplied), State::Free);
            assert_eq!(site.pins.state(replied), State::Live);
            site.end_flows();
        }
    });
}

#[test]
fn a_record_without_its_entry_is_freed_in_time() {
    Site::with(|site| {
        for packet in families() {
            let record = answered(site, &packet);
            site.pins.remove_flow(&packet);
            site.age(FLOW_TIMEOUT_S + 1);

            site.sweep();
            let report = site.sweep();

            assert_eq!(report.ended, 1);
            assert_eq!(site.pins.state(record), State::Free);
        }
    });
}

#[test]
fn an_entry_that_names_another_record_survives_the_end_of_this_one() {
    Site::with(|site| {
        for packet in families() {
            // The flow's first record loses its entry to a second one.
            let first = answered(site, &packet);
            site.pins.remove_flow(&packet);
            site.reload();
            let second = site.forward(&packet);
            let entry = site.pins.flow(&packet).expect("a flow");
            assert_ne!(entry.record, first);
            let record = site.pins.record(first);
            let last_seen = record.last_seen - FLOW_TIMEOUT_S - 1;
            site.pins.set_record(
                first,
                Record {
                    last_seen,
                    ..record
                },
            );

            site.sweep();
            site.sweep();

            assert_eq!(site.pins.state(first), State::Free);
            assert_eq!(site.pins.flow(&packet), Some(entry));
            assert_eq!(site.forward(&packet), second);
            site.end_flows();
        }
    });
}

#[test]
fn ports_in_use_and_resting_are_reported_by_endpoint() {
    Site::with(|site| {
        site.only(GATEWAY1);
        for port in 1..=5 {
            let packet = from_client(CLIENT, VIP).port(port);
            site.forward(&packet);
        }
        site.end_flows();
        for port in 6..=8 {
            site.forward(&from_client(CLIENT, VIP).port(port));
        }

        let report = site.sweep();

        let used = PortUse {
            in_use: 3,
            resting: 5,
        };
        assert_eq!(report.ports_by_slot.get(&0), Some(&used));
        site.age(11);
        let rested = site.sweep().ports_by_slot[&0];
        assert_eq!(rested.resting, 0);
    });
}

#[test]
fn flows_and_clients_are_reported_by_service_and_backend() {
    Site::with(|site| {
        site.only(GATEWAY1);
        for host in 1..=3 {
            site.serve(&from_client(&format!("192.0.2.{host}:1"), VIP));
        }
        site.only(GATEWAY2);
        site.serve(&from_client("192.0.2.3:1", VIP_OTHER));
        site.serve(&from_client("192.0.2.4:1", VIP_OTHER));
        site.only(GATEWAY1_V6);
        site.serve(&from_client(CLIENT6, VIP6));

        let report = site.sweep_clients();

        let services = BTreeMap::from([
            (SERVICE as u8, 3),
            (SERVICE_OTHER as u8, 2),
            (SERVICE6 as u8, 1),
        ]);
        assert_eq!(report.flows_by_service, services);
        let flows = BTreeMap::from([
            (GATEWAY1.number, 4),
            (GATEWAY2.number, 1),
            (GATEWAY1_V6.number, 1),
        ]);
        assert_eq!(report.flows_by_backend, flows);
        let clients = BTreeMap::from([
            (GATEWAY1.number, 3),
            (GATEWAY2.number, 1),
            (GATEWAY1_V6.number, 1),
        ]);
        assert_eq!(report.affinity_by_backend, clients);
        assert_eq!(report.affinity_entries, 5);
    });
}

#[test]
fn clients_are_forgotten_when_their_time_has_run_out() {
    Site::with(|site| {
        site.serve(&from_client(CLIENT, VIP));
        site.serve(&from_client(CLIENT6, VIP6));
        site.pins
            .age(lifetime_s(AFFINITY_TIMEOUT_S, FLOW_TIMEOUT_S) - 5);
        assert_eq!(site.sweep_clients().affinity_entries, 2);

        site.age(6);
        let report = site.sweep_clients();

        assert_eq!(report.affinity_entries, 0);
        assert_eq!(site.pins.affinity("192.0.2.10", GROUP), None);
        assert_eq!(site.pins.affinity("2001:db8:2::10", GROUP6), None);
    });
}

#[test]
fn clients_of_a_backend_that_is_not_in_use_are_forgotten() {
    Site::with(|site| {
        site.only(GATEWAY1);
        site.serve(&from_client(CLIENT, VIP));
        site.only(GATEWAY2);
        site.serve(&from_client("192.0.2.11:1", VIP));
        let settings = SweepSettings {
            backends: [GATEWAY2.number].into(),
            ..sweep_settings()
        };

        let report = site.sweep_with(&settings);

        assert_eq!(report.affinity_entries, 1);
        assert_eq!(site.pins.affinity("192.0.2.10", GROUP), None);
        assert!(site.pins.affinity("192.0.2.11", GROUP).is_some());
    });
}

#[test]
fn a_client_of_a_group_that_is_not_configured_lives_as_long_as_its_flow() {
    Site::with(|site| {
        site.serve(&from_client(CLIENT, VIP));
        let settings = SweepSettings {
            affinity_timeouts_s: BTreeMap::new(),
            ..sweep_settings()
        };
        assert_eq!(site.sweep_with(&settings).affinity_entries, 1);

        site.end_flows();
        site.age(TOUCH_S - 4);
        assert_eq!(site.sweep_clients().affinity_entries, 1);
        site.age(4);
        let mut reports = std::iter::repeat_with(|| site.sweep_with(&settings)).take(100_000);

        assert!(reports.any(|report| report.affinity_entries == 0));
    });
}

#[test]
fn the_flows_that_the_daemon_lists_are_those_of_the_packets() {
    Site::with(|site| {
        site.only(GATEWAY1);
        let packet = from_client(CLIENT, VIP);
        let forwarded = site.forward(&packet);
        let [flow] = &site.kernel.flows(10, &|_| true)[..] else {
            panic!("there is one flow");
        };
        assert_eq!(SocketAddr::from(flow.client), packet.source);
        assert_eq!(SocketAddr::from(flow.vip), packet.destination);
        assert_eq!(SocketAddr::from(flow.snat), forwarded.source);
        assert_eq!(SocketAddr::from(flow.endpoint), forwarded.destination);
        assert_eq!(u16::from(flow.service), SERVICE);
        assert_eq!(flow.backend, GATEWAY1.number);
        assert!(!flow.replied);

        site.forward(&answer(&forwarded));
        site.age(15);
        let aged = &site.kernel.flows(10, &|_| true)[0];

        assert!(aged.replied);
        assert!(aged.idle.as_secs() >= 15);
        assert_eq!(site.kernel.flows(10, &|flow| !flow.replied), []);
        site.end_flows();
        assert_eq!(site.kernel.flows(10, &|_| true), []);
    });
}

#[test]
fn a_claim_that_was_never_published_is_counted_and_left_alone() {
    Site::with(|site| {
        let record = answered(site, &from_client(CLIENT, VIP));
        let value = site.pins.record(record);
        let claimed = Claim::unpack(value.claim).with_state(State::Claimed).pack();
        site.pins.set_record(
            record,
            Record {
                claim: claimed,
                ..value
            },
        );

        let report = site.sweep();

        assert_eq!(
            report.ports_by_slot.values().map(|p| p.in_use).sum::<u32>(),
            1
        );
        assert_eq!(report.flows_by_service, BTreeMap::new());
        assert_eq!(site.pins.state(record), State::Claimed);
    });
}
