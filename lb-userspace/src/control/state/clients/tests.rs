use std::time::Duration;

use lb_common::guard::is_blocked;

use super::*;
use crate::control::{
    change::{Change as Said, changes},
    testing::{self, first_start, ip, now, service},
};

fn prefix(text: &str) -> Prefix {
    text.parse().expect("a prefix")
}

fn wish(to: Option<Rule>, service: Option<&str>, prefixes: &[&str]) -> ClientsWish {
    ClientsWish {
        service: service.map(ToOwned::to_owned),
        prefixes: prefixes.iter().map(|text| prefix(text)).collect(),
        to,
    }
}

fn author() -> Author {
    Author {
        by: "root".to_owned(),
        at: now(),
        reason: Some("a scan".to_owned()),
    }
}

fn change(state: &mut DesiredState, wish: &ClientsWish) -> Result<(), ClientsError> {
    state.change_clients(wish, &author())
}

fn block(state: &mut DesiredState, service: Option<&str>, prefixes: &[&str]) {
    change(state, &wish(Some(Rule::Block), service, prefixes)).expect("it may be blocked");
}

fn allow(state: &mut DesiredState, service: Option<&str>, prefixes: &[&str]) {
    change(state, &wish(Some(Rule::Allow), service, prefixes)).expect("it may be allowed");
}

/// Two services: one blocks by its configuration, the other takes everybody.
fn config() -> Config {
    let mut config = testing::ras();
    let mut listed = service("listed", "10.0.0.100", 444, "ras");
    listed.block = vec![prefix("10.9.0.0/16")];
    config.services.push(Arc::new(listed));
    config
}

fn refused(state: &DesiredState, service: &str, client: &str) -> bool {
    let by_ranges = state
        .client_ranges
        .get(service)
        .is_some_and(|taken| is_blocked(&taken.ranges, &lb_common::addr::bytes(ip(client))));
    let service = state.client_services().find(|of| of.name == service);
    let by_list = state.refuser(service.expect("it is there"), ip(client));
    assert_eq!(by_ranges, by_list.is_some(), "{client}");
    by_ranges
}

#[test]
fn what_is_said_at_run_time_comes_on_top_of_the_configuration() {
    let mut state = first_start(config());
    assert!(refused(&state, "listed", "10.9.1.1"));
    assert!(!refused(&state, "ras-udp", "10.9.1.1"));

    block(&mut state, None, &["192.0.2.0/24"]);
    allow(&mut state, Some("listed"), &["10.9.1.1/32"]);

    assert!(refused(&state, "ras-udp", "192.0.2.7"));
    assert!(refused(&state, "listed", "192.0.2.7"));
    assert!(!refused(&state, "listed", "10.9.1.1"));
    assert!(refused(&state, "listed", "10.9.1.2"));
}

#[test]
fn of_the_same_prefix_run_time_wins_and_a_services_own_rule_before_that_of_all() {
    let mut state = first_start(config());

    allow(&mut state, None, &["10.9.0.0/16"]);
    assert!(!refused(&state, "listed", "10.9.1.1"));
    block(&mut state, Some("ras-udp"), &["10.9.0.0/16"]);
    assert!(refused(&state, "ras-udp", "10.9.1.1"));
    assert!(!refused(&state, "listed", "10.9.1.1"));

    let forgotten = wish(None, None, &["10.9.0.0/16", "10.9.0.0/16"]);
    change(&mut state, &forgotten).expect("it is there");
    assert!(!refused(&state, "ras-udp", "10.9.1.1"));
    assert!(refused(&state, "listed", "10.9.1.1"), "as configured");
}

#[test]
fn allowing_somebody_at_run_time_shuts_nobody_else_out() {
    let mut state = first_start(config());
    allow(&mut state, None, &["10.1.0.0/16"]);
    assert!(!refused(&state, "ras-udp", "192.0.2.1"));

    let mut closed = config();
    let mut only = service("only", "10.0.0.100", 445, "ras");
    only.allow = vec![prefix("10.2.0.0/16")];
    closed.services.push(Arc::new(only));
    state.reload(Arc::new(closed), now()).expect("it fits");

    assert!(refused(&state, "only", "192.0.2.1"));
    assert!(!refused(&state, "only", "10.2.3.4"));
    assert!(!refused(&state, "only", "10.1.3.4"), "said at run time");
}

#[test]
fn a_refusal_names_who_said_so() {
    let mut closed = config();
    let mut only = service("only", "10.0.0.100", 445, "ras");
    only.allow = vec![prefix("10.2.0.0/16")];
    closed.services.push(Arc::new(only));
    let mut state = first_start(closed);
    block(&mut state, None, &["10.2.9.0/24"]);
    let of = |name: &str, client: &str| {
        let service = state.snat_services().find(|of| of.name == name);
        let refuser = state.refuser(service.expect("it is there"), ip(client));
        let refuser = refuser.expect("it is refused");
        let prefix = refuser.prefix.map(|prefix| prefix.to_string());
        (prefix, refuser.change.map(|change| change.by.clone()))
    };

    assert_eq!(
        of("only", "10.2.9.1"),
        (Some("10.2.9.0/24".to_owned()), Some("root".to_owned()))
    );
    assert_eq!(of("only", "192.0.2.1"), (None, None));
    assert_eq!(
        of("listed", "10.9.1.1"),
        (Some("10.9.0.0/16".to_owned()), None)
    );
}

#[test]
fn a_wish_that_cannot_be_carried_out_changes_nothing() {
    let mut state = first_start(config());
    block(&mut state, None, &["10.1.0.0/16"]);
    let before = (state.overrides.clone(), Arc::clone(&state.client_ranges));

    for (wish, message) in [
        (
            wish(Some(Rule::Block), Some("ras"), &["10.0.0.0/8"]),
            "no service that clients come to is called \"ras\"; there are ras-udp, listed",
        ),
        (
            wish(None, None, &["10.1.0.0/16", "10.2.0.0/16"]),
            "nothing was said at run time about 10.2.0.0/16 on any service; `vipd clients` lists \
             what was",
        ),
        (
            wish(None, Some("listed"), &["10.1.0.0/16"]),
            "nothing was said at run time about 10.1.0.0/16 on listed alone; `vipd clients` lists \
             what was",
        ),
    ] {
        let error = change(&mut state, &wish).expect_err(message);
        assert_eq!(error.to_string(), message);
    }

    assert_eq!(before.0, state.overrides);
    assert_eq!(before.1, state.client_ranges);
}

#[test]
fn the_log_has_a_line_for_each_change_and_does_not_name_thousands() {
    let said = |wish: ClientsWish| {
        let author = author();
        Said::Clients { wish, author }.to_string()
    };
    assert_eq!(
        said(wish(
            Some(Rule::Block),
            None,
            &["10.1.0.0/16", "2001:db8::/32"]
        )),
        "blocked on every service: 10.1.0.0/16, 2001:db8::/32 (root: a scan)"
    );
    let many = ClientsWish {
        service: Some("ras-udp".to_owned()),
        prefixes: scattered(10_000),
        to: None,
    };
    let line = said(many);
    assert!(
        line.starts_with(
            "neither blocked nor allowed at run time any more on ras-udp: 0.0.0.0/24,"
        ),
        "{line}"
    );
    assert!(line.ends_with(" and 9992 more (root: a scan)"), "{line}");

    let before = first_start(config());
    let mut after = before.clone();
    after
        .reload(Arc::new(testing::ras()), now())
        .expect("it may go");
    assert_eq!(changes(&before, &after), [], "a service that is gone");
    let mut open = config();
    open.services.pop();
    open.services
        .push(Arc::new(service("listed", "10.0.0.100", 444, "ras")));
    after.reload(Arc::new(open), now()).expect("it may change");
    let told: Vec<String> = changes(&before, &after)
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        told,
        [
            "the configuration of listed allows 0 and blocks 0 prefixes of clients; everybody else \
             is allowed"
        ]
    );
}

/// Blocked networks with a free one between each two.
fn scattered(count: u32) -> Vec<Prefix> {
    (0..count)
        .map(|place| Prefix::of(IpAddr::V4((place << 9).into()), 24))
        .collect()
}

#[test]
fn more_than_the_maps_hold_is_refused() {
    let mut state = first_start(config());
    let many = ClientsWish {
        service: None,
        prefixes: scattered(MAX_RANGES / 2),
        to: Some(Rule::Block),
    };

    let error = change(&mut state, &many).expect_err("two services of so many each");

    assert!(error.to_string().contains("keep at most 131072"), "{error}");
    assert_eq!(state.overrides.clients().count(), 0);
    let nested = ClientsWish {
        prefixes: (0..MAX_RANGES + 1)
            .map(|place| Prefix::of(IpAddr::V4(place.into()), 32))
            .collect(),
        ..many
    };
    let error = change(&mut state, &nested).expect_err("one range, and too many rules");
    assert!(
        matches!(error, ClientsError::TooManyRules(131_073)),
        "{error}"
    );
}

#[test]
fn lists_of_the_proxys_services_take_no_room_in_the_map() {
    let mut config = config();
    let mut web = service("web", "10.0.0.100", 80, "ras");
    web.protocol = crate::config::model::Protocol::Tcp;
    web.forwarding = Forwarding::Tcp;
    config.services.push(Arc::new(web));
    let mut watched = service("watched", "0.0.0.0", 0, "ras");
    watched.forwarding = Forwarding::Monitor;
    config.services.push(Arc::new(watched));
    let mut state = first_start(config);
    let in_map = Arc::clone(&state.client_ranges.all);
    let many = ClientsWish {
        service: Some("web".to_owned()),
        prefixes: scattered(MAX_RANGES),
        to: Some(Rule::Block),
    };

    change(&mut state, &many).expect("it takes no room");

    assert_eq!(state.client_ranges.all, in_map);
    assert_eq!(state.client_ranges.in_maps("web"), None);
    assert!(refused(&state, "web", "0.0.0.1") && !refused(&state, "web", "0.0.1.1"));
    assert!(!refused(&state, "ras-udp", "0.0.0.1"));
    let nobody = wish(Some(Rule::Block), Some("watched"), &["10.1.0.0/16"]);
    let error = change(&mut state, &nobody).expect_err("no client comes to it");
    assert!(
        error
            .to_string()
            .ends_with("there are ras-udp, listed, web"),
        "{error}"
    );
}

#[test]
fn lists_that_do_not_fit_together_with_run_time_are_refused() {
    let mut state = first_start(config());
    let many = ClientsWish {
        service: Some("ras-udp".to_owned()),
        prefixes: scattered(40_000),
        to: Some(Rule::Block),
    };
    change(&mut state, &many).expect("it fits");
    let mut longer = config();
    let mut more = service("more", "10.0.0.100", 445, "ras");
    more.block = scattered(40_001);
    longer.services.push(Arc::new(more));
    let longer = Arc::new(longer);

    let refusals = state.reload(Arc::clone(&longer), now());
    let refusals = refusals.expect_err("too many together");

    assert_eq!(refusals[0].place, "service.block");
    assert!(refusals[0].message.contains("vipd forget"), "{refusals:?}");
    assert_eq!(state.generation, 1);
    let restarted = DesiredState::start(
        longer,
        &testing::new_maps(&state.config),
        false,
        vec![testing::link()],
        state.overrides.clone(),
        now(),
    );
    assert_eq!(restarted.expect_err("the same")[0].place, "service.block");
}

#[test]
fn what_was_said_of_a_service_waits_for_its_return() {
    let mut state = first_start(config());
    block(&mut state, Some("listed"), &["10.1.0.0/16"]);

    let now = now() + Duration::from_secs(1);
    state
        .reload(Arc::new(testing::ras()), now)
        .expect("it may go");
    assert_eq!(state.client_ranges.get("listed"), None);
    state.reload(Arc::new(config()), now).expect("it is back");

    assert!(refused(&state, "listed", "10.1.2.3"));
    state
        .reload(Arc::new(testing::ras()), now)
        .expect("it may go");
    change(&mut state, &wish(None, Some("listed"), &["10.1.0.0/16"]))
        .expect("it can be forgotten while the service is gone");
}
