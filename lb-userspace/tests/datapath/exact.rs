//! Translations that the program keeps for a moment: what they save, and how soon they end.

use std::time::{Duration, Instant};

use lb_common::{
    addr::bytes, backend::DOWN, limits::MAX_RANGES, record::Record, verdict::DropReason,
};

use crate::harness::{
    packet::Packet,
    plan::{BALANCER_MAC, CLIENT, GATEWAY1, GATEWAY2, MTU, SERVICE, VIP},
    site::{Site, Verdict, answer, from_client},
};

const OTHER_ROUTER: [u8; 6] = [0x02, 0, 0, 0, 0, 0x02];

/// Lets a flow begin whose translations are kept in both directions; returns its packet, what that
/// becomes, and the index of its record.
fn kept(site: &mut Site) -> (Packet, Packet, u32) {
    let packet = from_client(CLIENT, VIP);
    let forwarded = site.forward(&packet);
    for _ in 0..3 {
        assert_eq!(site.forward(&packet), forwarded);
        site.answer(&forwarded);
    }
    let record = site.pins.flow(&packet).expect("a flow").record;
    (packet, forwarded, record)
}

/// Returns the second that the program believes to be in.
fn second(site: &mut Site) -> u32 {
    let packet = from_client("192.0.2.99:30000", VIP);
    site.kernel.begin_epoch();
    site.forward(&packet);
    let record = site.pins.flow(&packet).expect("a flow").record;
    site.pins.record(record).last_seen
}

/// Runs `test` until no second ended meanwhile; what it returns is true.
fn within_a_second(site: &mut Site, test: impl Fn(&mut Site) -> bool) {
    for _ in 0..10 {
        let before = second(site);
        let result = test(site);
        if second(site) == before {
            assert!(result);
            return;
        }
    }
    panic!("ten seconds ended while a few packets were sent");
}

#[test]
fn the_record_of_a_flow_is_looked_at_once_in_an_epoch() {
    Site::with(|site| {
        within_a_second(site, |site| {
            let (packet, forwarded, index) = kept(site);
            let record = site.pins.record(index);
            // Behind the program's back.
            let planted = Record {
                last_seen: record.last_seen - 1,
                ..record
            };
            site.pins.set_record(index, planted);
            site.forward(&packet);
            site.answer(&forwarded);
            let is_untouched = site.pins.record(index) == planted;

            site.kernel.begin_epoch();
            site.forward(&packet);
            assert!(site.pins.record(index).last_seen >= record.last_seen);
            is_untouched
        });
    });
}

#[test]
fn packets_of_kept_translations_are_counted() {
    Site::with(|site| {
        let (packet, forwarded, _) = kept(site);
        let before = site.service_counters(SERVICE);

        for _ in 0..5 {
            site.forward(&packet);
            site.answer(&forwarded);
        }

        let after = site.service_counters(SERVICE);
        assert_eq!(after.packets_in, before.packets_in + 5);
        assert_eq!(after.packets_out, before.packets_out + 5);
        let bytes = packet.encode().len() as u64;
        assert_eq!(after.bytes_in, before.bytes_in + 5 * bytes);
    });
}

#[test]
fn a_packet_from_another_router_is_noticed_at_once() {
    Site::with(|site| {
        let (packet, forwarded, _) = kept(site);
        let moved = packet.clone().macs(OTHER_ROUTER, BALANCER_MAC);
        for _ in 0..4 {
            for packet in [&moved, &packet] {
                for _ in 0..3 {
                    assert_eq!(site.forward(packet), forwarded);
                    let returned = site.answer(&forwarded);
                    assert_eq!(returned.destination_mac, packet.source_mac);
                }
            }
        }
    });
}

#[test]
fn a_flow_leaves_a_backend_that_fails_at_once_and_its_old_port_is_dead() {
    Site::with(|site| {
        site.only(GATEWAY1);
        let (packet, forwarded, _) = kept(site);
        assert_eq!(site.gateway_of(&packet), GATEWAY1);
        site.only(GATEWAY2);
        site.backend(GATEWAY1, |backend| backend.health = DOWN);

        assert_eq!(site.gateway_of(&packet), GATEWAY2);
        assert_eq!(
            site.send(&answer(&forwarded)),
            Verdict::Dropped(DropReason::NoFlow)
        );
        site.backend(GATEWAY1, |backend| backend.health = 1);
        assert_eq!(site.gateway_of(&packet), GATEWAY2);
    });
}

#[test]
fn a_change_that_nobody_announced_holds_from_the_next_second_on() {
    Site::with(|site| {
        site.only(GATEWAY1);
        let (packet, forwarded, index) = kept(site);
        site.only(GATEWAY2);
        kept(site);
        let before = site.pins.record(index).last_seen;
        site.pins.set_health(GATEWAY1.number, DOWN);
        let deadline = Instant::now() + Duration::from_secs(10);
        while site.pins.record(index).last_seen == before {
            site.answer(&forwarded);
            assert!(Instant::now() < deadline, "no second ends");
        }
        site.answer(&forwarded);

        assert_eq!(site.gateway_of(&packet), GATEWAY2);
        assert_eq!(
            site.send(&answer(&forwarded)),
            Verdict::Dropped(DropReason::NoFlow)
        );
    });
}

#[test]
fn a_packet_that_may_not_be_forwarded_is_none_of_its_flow_s_translation() {
    Site::with(|site| {
        let (packet, forwarded, _) = kept(site);
        let dies = packet.clone().ttl(1);
        let too_big = packet.clone().payload(&vec![0; usize::from(MTU)]);
        for _ in 0..2 {
            assert_eq!(site.send(&dies), Verdict::Dropped(DropReason::TtlExpired));
            assert!(matches!(
                site.send_bytes(&too_big.encode()),
                Verdict::Answered(DropReason::TooBig, _)
            ));
            assert_eq!(site.forward(&packet), forwarded);
        }
    });
}

#[test]
fn while_some_are_refused_others_are_served_as_ever() {
    Site::with(|site| {
        let (packet, forwarded, _) = kept(site);
        let blocked = "198.51.100.7:4000";
        let address = |text: &str| bytes(text.parse().expect("an address"));
        site.ranges(
            SERVICE,
            MAX_RANGES,
            &[
                ([0; 16], false),
                (address("198.51.100.0"), true),
                (address("198.51.101.0"), false),
            ],
        );
        for client in 0..20 {
            let refused = site.send(&from_client(blocked, VIP));
            assert_eq!(refused, Verdict::Dropped(DropReason::Blocked));
            assert_eq!(site.forward(&packet), forwarded);
            assert_eq!(site.answer(&forwarded).destination, packet.source);
            site.forward(&from_client(&format!("192.0.2.{}:5000", 100 + client), VIP));
            let host = from_client(CLIENT, "203.0.113.80:53");
            assert_eq!(site.send(&host), Verdict::Passed);
        }
    });
}
