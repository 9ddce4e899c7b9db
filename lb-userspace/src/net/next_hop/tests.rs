//! The resolver against a real kernel: a second host at the other end of a veth cable.

use super::*;
use crate::net::{
    announce::{packet, send_frame},
    interfaces::Interface,
    testbed::{Host, in_namespace, ip, next},
};

const OURS: &str = "02:00:00:00:00:01";
const THEIRS: [u8; 6] = [2, 0, 0, 0, 0, 6];
const THEIRS_TEXT: &str = "02:00:00:00:00:06";
const OURS_TOO: &str = "02:00:00:00:00:02";
const MOVED: [u8; 6] = [2, 0, 0, 0, 0, 7];
const MOVED_TEXT: &str = "02:00:00:00:00:07";

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// A cable between `v0` here (10.0.0.1, fd00::1) and `p0` there (10.0.0.6, fd00::6).
fn lab() -> Host {
    let host = Host::new();
    host.connect(("v0", OURS), ("p0", THEIRS_TEXT));
    ip("address add 10.0.0.1/24 dev v0");
    ip("address add fd00::1/64 dev v0 nodad");
    host.ip("address add 10.0.0.6/24 dev p0");
    host.ip("address add fd00::6/64 dev p0 nodad");
    host
}

/// The lab without IPv6, whose own activity on a new link causes further looks at all routes.
fn quiet_lab() -> Host {
    let host = lab();
    std::fs::write("/proc/sys/net/ipv6/conf/v0/disable_ipv6", "1")
        .expect("a setting of this namespace");
    host
}

async fn resolver(destinations: &[&str]) -> (Resolver, mpsc::Receiver<NextHopEvent>) {
    let (resolver, events) = Resolver::start().await.expect("netlink");
    resolver.set_destinations(destinations.iter().map(|text| address(text)).collect());
    (resolver, events)
}

/// Waits for the next event, which tells that the destination is reachable.
async fn resolved(events: &mut mpsc::Receiver<NextHopEvent>) -> NextHop {
    next(events).await.result.expect("resolved")
}

/// Waits for the next event, which tells why the destination is not reachable.
async fn reason(events: &mut mpsc::Receiver<NextHopEvent>) -> String {
    let result = next(events).await.result;
    result.expect_err("not resolved").to_string()
}

async fn v0() -> Interface {
    Interface::lookup("v0").await.expect("v0")
}

#[test]
fn backends_on_the_link_are_resolved_in_both_families() {
    in_namespace(async || {
        let _host = lab();
        let (_resolver, mut events) = resolver(&["10.0.0.6", "fd00::6"]).await;

        let mut found = BTreeMap::new();
        for _ in 0..2 {
            let event = next(&mut events).await;
            found.insert(event.destination, event.result);
        }

        for (destination, source) in [("10.0.0.6", "10.0.0.1"), ("fd00::6", "fd00::1")] {
            let expected = NextHop {
                interface_index: v0().await.index,
                mac: THEIRS,
                source: address(source),
                via: None,
            };
            assert_eq!(found.remove(&address(destination)), Some(Ok(expected)));
        }
    });
}

#[test]
fn a_backend_behind_a_gateway_has_the_gateways_mac() {
    in_namespace(async || {
        let _host = lab();
        ip("route add 10.11.20.0/24 via 10.0.0.6");
        ip("route add fd11::/64 via fd00::6");
        for (destination, gateway) in [("10.11.20.106", "10.0.0.6"), ("fd11::106", "fd00::6")] {
            let (_resolver, mut events) = resolver(&[destination]).await;

            let hop = resolved(&mut events).await;

            assert_eq!(hop.mac, THEIRS);
            assert_eq!(hop.via, Some(address(gateway)));
        }
    });
}

#[test]
fn an_announced_change_of_mac_is_followed_at_once() {
    in_namespace(async || {
        let host = quiet_lab();
        let (_resolver, mut events) = resolver(&["10.0.0.6"]).await;
        assert_eq!(resolved(&mut events).await.mac, THEIRS);

        host.ip(&format!("link set p0 address {MOVED_TEXT}"));
        host.run(|| {
            let p0 = interface_index("p0");
            let announcement = packet::gratuitous_arp(MOVED, [10, 0, 0, 6].into());
            send_frame(p0, &announcement).expect("announced");
        });

        // Left alone, the neighbour would not be asked again for fifteen seconds at least, which is
        // longer than `resolved` waits.
        assert_eq!(resolved(&mut events).await.mac, MOVED);
    });
}

#[test]
fn a_silent_change_of_mac_is_found_after_a_nudge() {
    for destination in ["10.0.0.6", "fd00::6"] {
        in_namespace(async move || {
            let host = lab();
            let (resolver, mut events) = resolver(&[destination]).await;
            assert_eq!(resolved(&mut events).await.mac, THEIRS);

            host.ip(&format!("link set p0 address {MOVED_TEXT}"));
            resolver.nudge(address(destination));

            assert_eq!(resolved(&mut events).await.mac, MOVED);
        });
    }
}

#[test]
fn a_stale_neighbour_is_used_and_verified_so_that_a_silent_change_leaves_no_gap() {
    in_namespace(async || {
        let host = quiet_lab();
        host.ip(&format!("link set p0 address {MOVED_TEXT}"));
        ip(&format!(
            "neighbour add 10.0.0.6 lladdr {THEIRS_TEXT} nud stale dev v0"
        ));

        let (_resolver, mut events) = resolver(&["10.0.0.6"]).await;

        assert_eq!(resolved(&mut events).await.mac, THEIRS);
        // `resolved` fails if the next event is anything but the new MAC.
        assert_eq!(resolved(&mut events).await.mac, MOVED);
    });
}

#[test]
fn an_address_that_nobody_has_is_reported_and_found_when_somebody_has_it() {
    in_namespace(async || {
        let host = lab();
        for (silent, question) in [("10.0.0.9", "ARP"), ("fd00::9", "neighbour solicitations")] {
            let (resolver, mut events) = resolver(&[silent]).await;
            assert_eq!(
                reason(&mut events).await,
                format!("{silent} does not answer {question} on v0")
            );

            let prefix = if silent.contains(':') { 64 } else { 24 };
            host.ip(&format!("address add {silent}/{prefix} dev p0"));
            resolver.nudge(address(silent));

            assert_eq!(resolved(&mut events).await.mac, THEIRS);
        }
    });
}

#[test]
fn a_route_that_appears_changes_or_goes_is_followed() {
    in_namespace(async || {
        let host = lab();
        host.connect(("v1", OURS_TOO), ("p1", MOVED_TEXT));
        ip("address add 10.0.1.1/24 dev v1");
        host.ip("address add 10.0.1.6/24 dev p1");
        let (_resolver, mut events) = resolver(&["10.11.20.106"]).await;
        assert_eq!(reason(&mut events).await, "no route to 10.11.20.106");

        ip("route add 10.11.20.0/24 via 10.0.0.6");
        let first = resolved(&mut events).await;
        ip("route replace 10.11.20.0/24 via 10.0.1.6");
        let second = resolved(&mut events).await;
        ip("route delete 10.11.20.0/24");

        assert_eq!((first.mac, second.mac), (THEIRS, MOVED));
        assert_eq!(first.source, address("10.0.0.1"));
        assert_eq!(second.source, address("10.0.1.1"));
        assert_eq!(reason(&mut events).await, "no route to 10.11.20.106");
    });
}

#[test]
fn routes_that_forbid_are_named() {
    in_namespace(async || {
        let _host = lab();
        for (network, destination) in [("10.11.20.0/24", "10.11.20.106"), ("fd11::/64", "fd11::6")]
        {
            for kind in ["blackhole", "unreachable", "prohibit"] {
                ip(&format!("route add {kind} {network}"));
                let (_resolver, mut events) = resolver(&[destination]).await;

                assert_eq!(
                    reason(&mut events).await,
                    format!("the route to {destination} is of type {kind}")
                );
                ip(&format!("route delete {kind} {network}"));
            }
        }
    });
}

#[test]
fn an_address_of_the_host_itself_is_no_backend() {
    in_namespace(async || {
        let _host = lab();
        for own in ["10.0.0.1", "fd00::1"] {
            let (_resolver, mut events) = resolver(&[own]).await;

            assert_eq!(
                reason(&mut events).await,
                format!("{own} is an address of this host")
            );
        }
    });
}

#[test]
fn an_interface_that_goes_down_is_named_until_it_is_up_again() {
    in_namespace(async || {
        let host = quiet_lab();
        let (_resolver, mut events) = resolver(&["10.0.0.6"]).await;
        let before = resolved(&mut events).await;

        host.ip("link set p0 down");
        assert_eq!(reason(&mut events).await, "interface v0 is down");
        host.ip("link set p0 up");
        assert_eq!(resolved(&mut events).await, before);

        ip("link set v0 down");
        assert_eq!(reason(&mut events).await, "interface v0 is down");
        ip("link set v0 up");
        assert_eq!(resolved(&mut events).await, before);
    });
}

#[test]
fn an_interface_that_is_made_anew_is_followed() {
    in_namespace(async || {
        let host = lab();
        let (_resolver, mut events) = resolver(&["10.0.0.6"]).await;
        let before = resolved(&mut events).await;

        ip("link delete v0");
        assert_eq!(reason(&mut events).await, "no route to 10.0.0.6");
        host.connect(("v0", OURS), ("p0", MOVED_TEXT));
        host.ip("address add 10.0.0.6/24 dev p0");
        ip("address add 10.0.0.1/24 dev v0");

        let after = resolved(&mut events).await;
        assert_eq!(after.mac, MOVED);
        assert_ne!(after.interface_index, before.interface_index);
    });
}

#[test]
fn a_destination_that_left_and_returned_is_reported_anew() {
    in_namespace(async || {
        let _host = lab();
        let (resolver, mut events) = resolver(&["10.0.0.6"]).await;
        let first = next(&mut events).await;

        resolver.set_destinations(BTreeSet::from([address("fd00::6")]));
        assert_eq!(next(&mut events).await.destination, address("fd00::6"));
        resolver.set_destinations(BTreeSet::from([address("10.0.0.6")]));

        assert_eq!(next(&mut events).await, first);
        drop(resolver);
        assert_eq!(events.recv().await, None);
    });
}

fn interface_index(name: &str) -> u32 {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let interface = runtime.block_on(Interface::lookup(name));
    interface.expect("the interface").index
}
