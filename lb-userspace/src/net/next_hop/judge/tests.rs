//! Observations in, reports and steps out, on a clock of the test's own.

use super::*;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 6];

fn backend() -> IpAddr {
    [10, 11, 20, 106].into()
}

fn link() -> Link {
    Link {
        index: 3,
        name: "eth0".into(),
        up: true,
        mac: Some([2, 0, 0, 0, 0, 1]),
    }
}

fn seen(state: NeighbourState) -> Observation {
    let known = !matches!(
        state,
        NeighbourState::None | NeighbourState::Incomplete | NeighbourState::Failed
    );
    Observation {
        route: Ok(Route {
            link: link(),
            via: None,
            source: Some([10, 11, 20, 1].into()),
            neighbour: backend(),
            state,
            mac: known.then_some(MAC),
        }),
        former_link: None,
    }
}

fn no_route(former_link: Option<Link>) -> Observation {
    Observation {
        route: Err(NoWay::NoRoute),
        former_link,
    }
}

fn hop() -> NextHop {
    NextHop {
        interface_index: 3,
        mac: MAC,
        source: [10, 11, 20, 1].into(),
        via: None,
    }
}

fn silent() -> Unresolved {
    Unresolved::NoAnswer {
        silent: backend(),
        interface: "eth0".into(),
    }
}

/// A destination and a clock that starts at zero.
fn start() -> (Tracked, impl Fn(u64) -> Instant) {
    let zero = Instant::now();
    (Tracked::new(backend(), zero), move |milliseconds| {
        zero + Duration::from_millis(milliseconds)
    })
}

#[test]
fn a_known_neighbour_is_reported_once_in_every_usable_state() {
    let (mut tracked, at) = start();

    let first = tracked.observed(at(0), &seen(NeighbourState::Reachable), 0);
    assert_eq!(first, (Some(Ok(hop())), None));
    for state in [
        NeighbourState::Stale,
        NeighbourState::Delay,
        NeighbourState::Probe,
        NeighbourState::Permanent,
    ] {
        let (news, _) = tracked.observed(at(100), &seen(state), 0);
        assert_eq!(news, None, "{state:?}");
    }
}

#[test]
fn a_new_destination_is_resolved_and_reported_when_something_is_certain() {
    let (mut tracked, at) = start();

    assert_eq!(
        tracked.observed(at(0), &seen(NeighbourState::None), 0),
        (None, Some(Step::Resolve))
    );
    assert_eq!(
        tracked.observed(at(1), &seen(NeighbourState::Incomplete), 0),
        (None, None)
    );
    assert_eq!(
        tracked.observed(at(3000), &seen(NeighbourState::Failed), 0),
        (Some(Err(silent())), None)
    );
    assert_eq!(
        tracked.observed(at(5000), &seen(NeighbourState::Failed), 0),
        (None, Some(Step::Resolve))
    );
    assert_eq!(
        tracked.observed(at(5001), &seen(NeighbourState::Reachable), 0),
        (Some(Ok(hop())), None)
    );
}

#[test]
fn a_question_that_never_ends_is_reported_as_no_answer() {
    let (mut tracked, at) = start();

    let (early, _) = tracked.observed(at(0), &seen(NeighbourState::Incomplete), 0);
    let (late, _) = tracked.observed(at(4000), &seen(NeighbourState::Incomplete), 0);

    assert_eq!(early, None);
    assert_eq!(late, Some(Err(silent())));
}

#[test]
fn a_known_next_hop_stands_while_its_entry_is_made_anew() {
    let (mut tracked, at) = start();
    tracked.observed(at(0), &seen(NeighbourState::Reachable), 0);

    let (gone, step) = tracked.observed(at(10_000), &seen(NeighbourState::None), 0);
    let (back, _) = tracked.observed(at(10_002), &seen(NeighbourState::Reachable), 0);

    assert_eq!((gone, step), (None, Some(Step::Resolve)));
    assert_eq!(back, None);
}

#[test]
fn another_mac_is_news() {
    let (mut tracked, at) = start();
    tracked.observed(at(0), &seen(NeighbourState::Reachable), 0);
    let mut moved = seen(NeighbourState::Stale);
    if let Ok(route) = &mut moved.route {
        route.mac = Some([2, 0, 0, 0, 0, 7]);
    }

    let (news, step) = tracked.observed(at(100), &moved, 0);

    assert_eq!(
        news,
        Some(Ok(NextHop {
            mac: [2, 0, 0, 0, 0, 7],
            ..hop()
        }))
    );
    assert_eq!(step, Some(Step::Verify));
}

#[test]
fn a_stale_neighbour_is_verified_and_then_asked_for_by_broadcast() {
    let (mut tracked, at) = start();
    let mut steps = Vec::new();
    steps.push(tracked.observed(at(0), &seen(NeighbourState::Stale), 0).1);
    for milliseconds in [1, 1000, 1101, 1500, 2201] {
        steps.push(
            tracked
                .observed(at(milliseconds), &seen(NeighbourState::Probe), 0)
                .1,
        );
    }

    assert_eq!(
        steps,
        [
            Some(Step::Verify),
            None,
            None,
            Some(Step::Ask),
            None,
            Some(Step::Ask)
        ]
    );
}

#[test]
fn a_nudge_asks_twice_and_no_more() {
    let (mut tracked, at) = start();
    tracked.observed(at(0), &seen(NeighbourState::Reachable), 0);
    tracked.nudge(at(100));
    assert_eq!(tracked.next_look(), at(100));

    let steps: Vec<_> = [100, 600, 1200, 2400]
        .map(|milliseconds| {
            tracked
                .observed(at(milliseconds), &seen(NeighbourState::Reachable), 0)
                .1
        })
        .into();

    assert_eq!(steps, [Some(Step::Ask), None, Some(Step::Ask), None]);
}

#[test]
fn a_nudge_resolves_a_failed_neighbour_at_once() {
    let (mut tracked, at) = start();
    tracked.observed(at(0), &seen(NeighbourState::Failed), 0);
    let (_, waiting) = tracked.observed(at(100), &seen(NeighbourState::Failed), 0);
    tracked.nudge(at(200));

    let (_, nudged) = tracked.observed(at(200), &seen(NeighbourState::Failed), 0);

    assert_eq!((waiting, nudged), (None, Some(Step::Resolve)));
}

#[test]
fn reasons_read_as_an_administrator_would_say_them() {
    let down = Link {
        up: false,
        ..link()
    };
    let mut behind_gateway = seen(NeighbourState::Failed);
    let mut on_a_down_link = seen(NeighbourState::Reachable);
    let mut on_a_tunnel = seen(NeighbourState::Noarp);
    let mut without_source = seen(NeighbourState::Reachable);
    if let (Ok(gateway), Ok(dark), Ok(tunnel), Ok(nameless)) = (
        &mut behind_gateway.route,
        &mut on_a_down_link.route,
        &mut on_a_tunnel.route,
        &mut without_source.route,
    ) {
        gateway.via = Some([10, 11, 20, 254].into());
        dark.link = down.clone();
        tunnel.link.mac = None;
        nameless.source = None;
    }
    let no_way = |no_way| Observation {
        route: Err(no_way),
        former_link: None,
    };
    for (observation, text) in [
        (no_route(None), "no route to 10.11.20.106"),
        (no_route(Some(link())), "no route to 10.11.20.106"),
        (no_route(Some(down)), "interface eth0 is down"),
        (on_a_down_link, "interface eth0 is down"),
        (
            no_way(NoWay::OwnAddress),
            "10.11.20.106 is an address of this host",
        ),
        (
            no_way(NoWay::Forbidden("blackhole")),
            "the route to 10.11.20.106 is of type blackhole",
        ),
        (
            seen(NeighbourState::Failed),
            "10.11.20.106 does not answer ARP on eth0",
        ),
        (
            behind_gateway,
            "the gateway 10.11.20.254 towards 10.11.20.106 does not answer ARP on eth0",
        ),
        (
            on_a_tunnel,
            "the route to 10.11.20.106 leaves by eth0, which is no Ethernet interface",
        ),
        (
            without_source,
            "eth0 has no address to send to 10.11.20.106 from",
        ),
    ] {
        let (mut tracked, at) = start();
        let (news, _) = tracked.observed(at(0), &observation, 0);

        let reason = news.expect("news").expect_err("unresolved");
        assert_eq!(reason.to_string(), text);
    }
}

#[test]
fn a_neighbour_that_answered_is_asked_for_at_once_when_it_fails() {
    let (mut tracked, at) = start();
    tracked.observed(at(0), &seen(NeighbourState::None), 0);
    tracked.observed(at(1), &seen(NeighbourState::Reachable), 0);

    let (news, step) = tracked.observed(at(100), &seen(NeighbourState::Failed), 0);

    assert_eq!((news, step), (Some(Err(silent())), Some(Step::Resolve)));
}

#[test]
fn another_neighbour_does_not_wait_for_what_was_asked_of_the_former_one() {
    let (mut tracked, at) = start();
    tracked.observed(at(0), &seen(NeighbourState::None), 0);
    let mut elsewhere = seen(NeighbourState::None);
    if let Ok(route) = &mut elsewhere.route {
        route.via = Some([10, 11, 20, 254].into());
        route.neighbour = [10, 11, 20, 254].into();
    }

    let (news, step) = tracked.observed(at(4500), &elsewhere, 0);

    assert_eq!((news, step), (None, Some(Step::Resolve)));
}

#[test]
fn nobody_is_asked_where_there_is_no_way() {
    let (mut tracked, at) = start();

    let (_, step) = tracked.observed(at(0), &no_route(None), 0);

    assert_eq!(step, None);
    assert_eq!(tracked.next_look(), at(5000));
}

#[test]
fn looks_are_spread_by_a_quarter_at_most() {
    for jitter in [0, 1, 1023, 1024, u64::MAX] {
        let pause = jittered(Duration::from_secs(4), jitter);
        assert!(
            (Duration::from_secs(4)..Duration::from_secs(5)).contains(&pause),
            "{pause:?}"
        );
    }
}
