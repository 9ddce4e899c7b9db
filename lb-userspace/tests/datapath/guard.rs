//! Who may begin a flow: ranges of clients, and limits of new flows.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, Instant},
};

use lb_common::{
    addr::bytes, backend::DOWN, limits::MAX_RANGES, stats::Counters, verdict::DropReason,
};

use crate::harness::{
    fragment::cut,
    packet::Packet,
    plan::{
        CLIENT, CLIENT6, GATEWAY1, GATEWAY1_V6, GATEWAY2, GROUP, GROUP6, SERVICE, SERVICE_OTHER,
        SERVICE6, VIP, VIP_OTHER, VIP6,
    },
    site::{Site, Verdict, answer, from_client},
};

const BLOCKED: Verdict = Verdict::Dropped(DropReason::Blocked);
const SOURCE_LIMITED: Verdict = Verdict::Dropped(DropReason::SourceLimited);
const SERVICE_LIMITED: Verdict = Verdict::Dropped(DropReason::ServiceLimited);

/// A prefix with its length in bits of the 16-byte form, and whether its clients are blocked.
type Rule = ([u8; 16], u32, bool);

fn rule(prefix: &str, is_blocked: bool) -> Rule {
    let (address, len) = prefix.split_once('/').expect("a prefix");
    let address: IpAddr = address.parse().expect("an address");
    let len: u32 = len.parse().expect("a length");
    let len = if address.is_ipv4() { len + 96 } else { len };
    (bytes(address), len, is_blocked)
}

fn number(address: &[u8; 16]) -> u128 {
    u128::from_be_bytes(*address)
}

/// Returns the last address of a prefix.
fn last(rule: &Rule) -> u128 {
    number(&rule.0) | u128::MAX.checked_shr(rule.1).unwrap_or(0)
}

/// Returns what the longest prefix that covers an address says.
fn is_blocked(rules: &[Rule], otherwise: bool, address: u128) -> bool {
    rules
        .iter()
        .filter(|rule| (number(&rule.0)..=last(rule)).contains(&address))
        .max_by_key(|rule| rule.1)
        .map_or(otherwise, |rule| rule.2)
}

/// Returns the ranges that say the same as the prefixes.
fn flattened(rules: &[Rule], otherwise: bool) -> Vec<([u8; 16], bool)> {
    let mut starts: Vec<u128> = rules
        .iter()
        .flat_map(|rule| [Some(number(&rule.0)), last(rule).checked_add(1)])
        .flatten()
        .chain([0])
        .collect();
    starts.sort_unstable();
    starts.dedup();
    starts
        .into_iter()
        .map(|start| (start.to_be_bytes(), is_blocked(rules, otherwise, start)))
        .collect()
}

/// Returns the packet of a client with this address, with the service's VIP of its family.
fn packet_of(address: u128) -> Packet {
    match Ipv6Addr::from(address).to_canonical() {
        IpAddr::V4(v4) => from_client(&format!("{v4}:20010"), VIP),
        IpAddr::V6(v6) => from_client(&format!("[{v6}]:20010"), VIP6),
    }
}

fn admit(site: &mut Site, rules: &[Rule], otherwise: bool) {
    let ranges = flattened(rules, otherwise);
    site.ranges(SERVICE, 0, &ranges);
    // In the other half of the map, as the daemon would write it next.
    site.ranges(SERVICE6, MAX_RANGES, &ranges);
}

/// Asserts what becomes of a client's first packet.
fn assert_admitted(site: &mut Site, address: u128, expected: bool) {
    let packet = packet_of(address);
    match site.send(&packet) {
        Verdict::Sent(_) if expected => {}
        verdict if !expected => assert_eq!(verdict, BLOCKED, "{}", packet.source),
        verdict => panic!("{}: {verdict:?}", packet.source),
    }
}

fn v4(text: &str) -> u128 {
    number(&bytes(IpAddr::from(
        text.parse::<Ipv4Addr>().expect("an address"),
    )))
}

fn v6(text: &str) -> u128 {
    text.parse::<Ipv6Addr>().expect("an address").into()
}

#[test]
fn blocked_clients_are_refused_and_others_are_not() {
    Site::with(|site| {
        let rules = [
            rule("198.51.100.0/24", true),
            rule("2001:db8:bad::/48", true),
        ];
        admit(site, &rules, false);
        for (address, admitted) in [
            (v4("198.51.99.255"), true),
            (v4("198.51.100.0"), false),
            (v4("198.51.100.77"), false),
            (v4("198.51.100.255"), false),
            (v4("198.51.101.0"), true),
            (v4("1.0.0.1"), true),
            (v4("223.255.255.254"), true),
            (v6("2001:db8:bac:ffff:ffff:ffff:ffff:ffff"), true),
            (v6("2001:db8:bad::"), false),
            (v6("2001:db8:bad:ffff:ffff:ffff:ffff:ffff"), false),
            (v6("2001:db8:bae::"), true),
            (v6("2600::1"), true),
        ] {
            assert_admitted(site, address, admitted);
        }
    });
}

#[test]
fn where_only_some_are_allowed_all_others_are_refused() {
    Site::with(|site| {
        let rules = [rule("192.0.2.0/25", false), rule("2001:db8:2::/64", false)];
        admit(site, &rules, true);
        for (address, admitted) in [
            (v4("192.0.1.255"), false),
            (v4("192.0.2.0"), true),
            (v4("192.0.2.127"), true),
            (v4("192.0.2.128"), false),
            (v4("0.0.0.1"), false),
            (v4("255.255.255.254"), false),
            (v6("2001:db8:1:ffff:ffff:ffff:ffff:ffff"), false),
            (v6("2001:db8:2::"), true),
            (v6("2001:db8:2::ffff:ffff:ffff:ffff"), true),
            (v6("2001:db8:2:1::"), false),
            (v6("::1"), false),
            (u128::MAX, false),
        ] {
            assert_admitted(site, address, admitted);
        }
    });
}

#[test]
fn the_longest_prefix_decides() {
    let rules = [
        rule("10.0.0.0/8", true),
        rule("10.64.0.0/10", false),
        rule("10.64.7.0/24", true),
        rule("10.64.7.9/32", false),
        rule("2001:db8::/32", true),
        rule("2001:db8:40::/44", false),
        rule("2001:db8:47::/48", true),
        rule("2001:db8:47::9/128", false),
        rule("255.255.255.255/32", true),
        rule("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128", true),
    ];
    Site::with(|site| {
        for otherwise in [false, true] {
            admit(site, &rules, otherwise);
            // Each edge of each prefix, from both sides.
            for rule in &rules {
                let (first, last) = (number(&rule.0), last(rule));
                for address in [first, last, first - 1, last.saturating_add(1)] {
                    let refused = is_blocked(&rules, otherwise, address);
                    assert_admitted(site, address, !refused);
                }
            }
            site.settings(|settings| settings.quarantine_s = 0);
            site.end_flows();
        }
    });
}

#[test]
fn one_range_is_for_everybody() {
    Site::with(|site| {
        admit(site, &[], true);
        assert_admitted(site, v4("192.0.2.1"), false);
        assert_admitted(site, v6("2001:db8::1"), false);
        admit(site, &[], false);
        assert_admitted(site, v4("192.0.2.1"), true);
        assert_admitted(site, v6("2001:db8::1"), true);
    });
}

#[test]
fn every_count_of_ranges_is_searched_right() {
    Site::with(|site| {
        // Blocked and allowed by turns: a neighbour's range would give the other answer.
        for count in 1..=34_u32 {
            let ranges: Vec<_> = (0..count)
                .map(|place| {
                    let start = if place == 0 {
                        0
                    } else {
                        v4("198.18.0.0") + u128::from(place)
                    };
                    (start.to_be_bytes(), place % 2 == 1)
                })
                .collect();
            site.ranges(SERVICE, 1000 + count, &ranges);
            for place in 0..count {
                let refused = place % 2 == 1;
                let packet = packet_of(v4("198.18.0.0") + u128::from(place));
                // A flow that lives would not be asked about; its port is its range's.
                let packet = packet.port(count as u16);
                match site.send(&packet) {
                    Verdict::Dropped(DropReason::Blocked) => assert!(refused, "{place} of {count}"),
                    Verdict::Sent(_) => assert!(!refused, "{place} of {count}"),
                    other => panic!("{other:?}"),
                }
            }
            site.settings(|settings| settings.quarantine_s = 0);
            site.end_flows();
        }
    });
}

#[test]
fn ten_thousand_ranges_are_searched_right() {
    const COUNT: u128 = 10_000;
    Site::sized(
        |options| {
            options.snat_port_count = 1024;
            options.max_flows = 8 * 1024;
        },
        |site| {
            let bases = [v4("20.0.0.0"), v6("2001:db8:5::")];
            let mut ranges = vec![([0; 16], false)];
            // In each family 5000 blocks of 16 addresses, each followed by 16 that are allowed.
            for base in bases {
                for block in 0..COUNT / 4 {
                    let start = base + block * 32;
                    ranges.push((start.to_be_bytes(), true));
                    ranges.push(((start + 16).to_be_bytes(), false));
                }
            }
            assert_eq!(ranges.len() as u128, COUNT + 1);
            site.ranges(SERVICE, MAX_RANGES - 77, &ranges);
            site.ranges(SERVICE6, 0, &ranges);
            for base in bases {
                for block in [0, 1, 2, 1023, 1024, 1249, 2048, 2498, 2499] {
                    let start = base + block * 32;
                    assert_admitted(site, start - 1, true);
                    assert_admitted(site, start, false);
                    assert_admitted(site, start + 15, false);
                    assert_admitted(site, start + 16, true);
                }
                assert_admitted(site, base + COUNT * 8 + 1, true);
            }
        },
    );
}

#[test]
fn each_service_has_ranges_of_its_own() {
    Site::with(|site| {
        site.ranges(SERVICE, 0, &[([0; 16], true)]);
        site.ranges(SERVICE_OTHER, 1, &[([0; 16], false)]);

        assert_eq!(site.send(&from_client(CLIENT, VIP)), BLOCKED);
        assert!(matches!(
            site.send(&from_client(CLIENT, VIP_OTHER)),
            Verdict::Sent(_)
        ));
        assert!(matches!(
            site.send(&from_client(CLIENT6, VIP6)),
            Verdict::Sent(_)
        ));
        site.service(SERVICE, |service| service.ranges_count = 0);
        assert!(matches!(
            site.send(&from_client(CLIENT, VIP)),
            Verdict::Sent(_)
        ));
    });
}

#[test]
fn a_refused_packet_leaves_nothing_but_its_count() {
    Site::with(|site| {
        admit(site, &[], true);
        for (client, vip, address, group, service) in [
            (CLIENT, VIP, "192.0.2.10", GROUP, SERVICE),
            (CLIENT6, VIP6, "2001:db8:2::10", GROUP6, SERVICE6),
        ] {
            let packet = from_client(client, vip);
            for _ in 0..3 {
                assert_eq!(site.send(&packet), BLOCKED);
            }
            let piece = &cut(&packet, 7, &[16])[0];
            let refused = site.send_bytes(&piece.encode());
            assert_eq!(refused, Verdict::Dropped(DropReason::Blocked));

            assert_eq!(site.pins.used(), []);
            assert_eq!(site.pins.flow_count(), 0);
            assert_eq!(site.pins.fragments(), []);
            assert_eq!(site.pins.affinity(address, group), None);
            let expected = Counters {
                dropped: 4,
                ..Counters::default()
            };
            assert_eq!(site.service_counters(service), expected);
        }
        for gateway in [GATEWAY1, GATEWAY2, GATEWAY1_V6] {
            assert_eq!(site.backend_counters(gateway), Counters::default());
        }
    });
}

#[test]
fn a_client_that_is_blocked_later_is_refused_from_its_next_packet_on() {
    Site::with(|site| {
        for (client, vip, service, first) in [
            (CLIENT, VIP, SERVICE, 0),
            (CLIENT6, VIP6, SERVICE6, MAX_RANGES),
        ] {
            let packet = from_client(client, vip);
            let forwarded = site.forward(&packet);
            for _ in 0..3 {
                site.forward(&packet);
                site.answer(&forwarded);
            }
            let record = site.pins.flow(&packet).expect("a flow").record;
            let before = site.pins.record(record);
            site.ranges(service, first, &[([0; 16], true)]);

            assert_eq!(site.send(&packet), BLOCKED);
            assert_eq!(site.send(&packet.clone().port(1)), BLOCKED, "a new flow");
            assert_eq!(site.pins.record(record), before);
            // The backend is no client.
            assert_eq!(site.answer(&forwarded).destination, packet.source);
        }
    });
}

/// Runs `burst` with numbers of other clients, until one run was so short that no token can have
/// come in meanwhile: rates here are three in a second at most. The buckets are full each time: they
/// are a new program's.
fn quickly(site: &mut Site, mut burst: impl FnMut(&mut Site, u32)) {
    for turn in 0..20 {
        let begun = Instant::now();
        let failure = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| burst(site, turn)));
        let was_quick = begun.elapsed() < Duration::from_millis(300);
        match failure {
            Ok(()) => return,
            Err(failure) if was_quick => std::panic::resume_unwind(failure),
            Err(_) => site.reload(),
        }
    }
    panic!("the machine is too slow for this test");
}

#[test]
fn a_source_begins_no_more_flows_than_it_may() {
    Site::with(|site| {
        site.service(SERVICE, |service| service.new_flows_per_source = 2);
        site.service(SERVICE6, |service| service.new_flows_per_source = 2);
        quickly(site, |site, turn| {
            for packet in [
                from_client(&format!("192.0.2.{}:1", turn + 10), VIP),
                from_client(&format!("[2001:db8:2:{turn:x}::10]:1"), VIP6),
            ] {
                let (one, two, three) = (packet.clone(), packet.clone().port(2), packet.port(3));
                let first = site.forward(&one);
                site.forward(&two);

                assert_eq!(site.send(&three), SOURCE_LIMITED);
                assert_eq!(site.pins.flow(&three), None);

                // What lives goes on.
                assert_eq!(site.forward(&one), first);
                site.answer(&first);
                site.forward(&two);
                assert_eq!(site.send(&three), SOURCE_LIMITED);
            }
        });
    });
}

#[test]
fn each_source_has_a_limit_of_its_own() {
    Site::with(|site| {
        site.service(SERVICE, |service| service.new_flows_per_source = 1);
        site.service(SERVICE_OTHER, |service| service.new_flows_per_source = 1);
        quickly(site, |site, turn| {
            let packet = from_client(&format!("192.0.2.{}:1", 2 * turn + 10), VIP);
            site.forward(&packet);
            assert_eq!(site.send(&packet.clone().port(2)), SOURCE_LIMITED);
            site.forward(&packet.to(VIP_OTHER));
        });
        quickly(site, |site, turn| {
            // Neighbours are other sources.
            let packet = from_client(&format!("198.51.100.{}:1", 2 * turn + 1), VIP);
            let neighbour = from_client(&format!("198.51.100.{}:1", 2 * turn + 2), VIP);
            site.forward(&packet);
            assert_eq!(site.send(&packet.port(2)), SOURCE_LIMITED);
            site.forward(&neighbour);
        });
    });
}

#[test]
fn an_ipv6_source_is_a_network_of_64_bits() {
    Site::with(|site| {
        site.service(SERVICE6, |service| service.new_flows_per_source = 1);
        quickly(site, |site, turn| {
            let of = |network: u32, host: &str| {
                from_client(&format!("[2001:db8:{turn:x}:{network:x}:{host}]:1"), VIP6)
            };
            site.forward(&of(1, ":1"));
            assert_eq!(site.send(&of(1, ":2")), SOURCE_LIMITED);
            assert_eq!(site.send(&of(1, "ffff:ffff:ffff:ffff")), SOURCE_LIMITED);
            site.forward(&of(2, ":1"));
            site.forward(&of(0, "1:2:3:4"));
        });
    });
}

#[test]
fn a_service_takes_no_more_flows_than_it_may() {
    Site::with(|site| {
        site.service(SERVICE, |service| service.new_flows_per_second = 3);
        quickly(site, |site, turn| {
            let of = |host: u32| from_client(&format!("192.0.{turn}.{host}:20010"), VIP);
            for host in 1..=3 {
                site.forward(&of(host));
            }
            assert_eq!(site.send(&of(4)), SERVICE_LIMITED);
            assert_eq!(site.pins.flow(&of(4)), None);
            // Known flows, and other services, are not concerned.
            site.forward(&of(1));
            site.forward(&of(5).to(VIP_OTHER));
        });
    });
}

#[test]
fn tokens_come_back_with_time() {
    Site::with(|site| {
        site.service(SERVICE, |service| service.new_flows_per_second = 5);
        site.service(SERVICE_OTHER, |service| service.new_flows_per_source = 5);
        for (vip, limited) in [(VIP, SERVICE_LIMITED), (VIP_OTHER, SOURCE_LIMITED)] {
            let mut port = 1;
            let mut admitted_in = |site: &mut Site, tries: u16| {
                let first = port;
                port += tries;
                (first..port)
                    .filter(
                        |port| match site.send(&from_client(CLIENT, vip).port(*port)) {
                            Verdict::Sent(_) => true,
                            other => {
                                assert_eq!(other, limited);
                                false
                            }
                        },
                    )
                    .count()
            };
            let begun = Instant::now();
            let burst = admitted_in(site, 10);
            let by_time = (begun.elapsed().as_secs_f64() * 5.0) as usize;
            assert!((5..=6 + by_time).contains(&burst), "{burst} of ten");

            let mut later = 0;
            while later < 3 {
                later += admitted_in(site, 1);
                assert!(begun.elapsed() < Duration::from_secs(10), "{later} later");
            }
            let by_time = (begun.elapsed().as_secs_f64() * 5.0) as usize;
            assert!(burst + later <= 6 + by_time, "{burst} and {later}");
        }
    });
}

#[test]
fn refused_flows_count_for_the_service() {
    Site::with(|site| {
        site.service(SERVICE, |service| service.new_flows_per_source = 1);
        site.service(SERVICE_OTHER, |service| service.new_flows_per_second = 1);
        quickly(site, |site, turn| {
            let before = site.service_counters(SERVICE);
            let packet = from_client(&format!("192.0.2.{}:1", turn + 1), VIP);
            site.forward(&packet);
            for port in 2..5 {
                assert_eq!(site.send(&packet.clone().port(port)), SOURCE_LIMITED);
            }
            let after = site.service_counters(SERVICE);
            assert_eq!(after.dropped, before.dropped + 3);
            assert_eq!(after.flows_new, before.flows_new + 1);
            assert_eq!(after.packets_in, before.packets_in + 1);
        });
    });
}

#[test]
fn a_refused_flow_leaves_no_memory_of_its_client() {
    Site::with(|site| {
        site.service(SERVICE, |service| service.new_flows_per_second = 1);
        quickly(site, |site, turn| {
            let client = format!("192.0.{turn}.2");
            site.forward(&from_client(&format!("192.0.{turn}.1:20010"), VIP));
            let live = site.pins.used();
            assert_eq!(
                site.send(&from_client(&format!("{client}:20010"), VIP)),
                SERVICE_LIMITED
            );
            assert_eq!(site.pins.used(), live);
            assert_eq!(site.pins.affinity(&client, GROUP), None);
        });
    });
}

#[test]
fn flows_that_move_are_not_limited() {
    Site::with(|site| {
        site.only(GATEWAY1);
        let packets: Vec<_> = (1..=10)
            .map(|port| from_client(CLIENT, VIP).port(port))
            .collect();
        for packet in &packets {
            site.forward(packet);
        }
        site.service(SERVICE, |service| {
            service.new_flows_per_source = 1;
            service.new_flows_per_second = 1;
        });
        site.backend(GATEWAY1, |backend| backend.health = DOWN);

        for packet in &packets {
            assert_eq!(site.gateway_of(packet), GATEWAY2);
        }

        assert_eq!(site.service_counters(SERVICE).flows_moved, 10);
        // They took no token either.
        site.forward(&from_client(CLIENT, VIP).port(11));
    });
}

#[test]
fn packets_of_backends_are_not_limited() {
    Site::with(|site| {
        site.only(GATEWAY1);
        let forwarded = site.forward(&from_client(CLIENT, VIP));
        admit(site, &[], true);
        site.service(SERVICE, |service| {
            service.new_flows_per_source = 1;
            service.new_flows_per_second = 1;
        });
        let answer = answer(&forwarded);
        for _ in 0..10 {
            assert!(matches!(site.send(&answer), Verdict::Sent(_)));
        }
    });
}
