use lb_common::affinity::TOUCH_S;

use std::sync::Arc;

use super::*;
use crate::{
    admin::{
        flows::tests::{Held, view},
        status::tests::snapshot,
    },
    config::model::PersistenceKey,
    control::testing::{self, ip},
};

/// The client of the tests; the table gives it one of the two gateways.
const CLIENT: &str = "10.9.9.9";

fn asked(snapshot: &Snapshot, remembered: Option<(u16, u32)>) -> api::ServiceExplanation {
    let held = Held {
        flows: vec![view(CLIENT, 0, 0), view("10.9.9.8", 0, 0)],
        remembered,
    };
    let mut explanation = explain(&held, snapshot, ip(CLIENT)).expect("nothing fails");
    explanation.services.remove(0)
}

/// A site after `change`.
fn after(change: impl FnOnce(&mut DesiredState)) -> Snapshot {
    let mut snapshot = snapshot();
    change(Arc::make_mut(&mut snapshot.state));
    snapshot.image = Arc::new(testing::carried_out(&snapshot.state, &snapshot.image));
    snapshot
}

#[test]
fn a_client_without_memory_is_explained_by_its_hash() {
    let told = asked(&snapshot(), None);

    assert_eq!(told.because, api::Because::SourceHash);
    assert_eq!(told.why, "the hash of its address says so");
    assert!(told.backend.is_some());
    assert_eq!(told.affinity, None);
    assert_eq!(told.flows.len(), 1, "its own flows only");
}

#[test]
fn a_client_that_belongs_somewhere_is_told_for_how_long() {
    let told = asked(&snapshot(), Some((1, 61 + TOUCH_S)));

    assert_eq!(told.because, api::Because::Affinity);
    assert_eq!(told.backend.as_deref(), Some("gw2"));
    assert_eq!(
        told.why,
        "it belongs there: last seen 1m 17s ago, for 5h 58m more"
    );
    assert_eq!(
        told.affinity,
        Some(api::Remembered {
            group: "ras".to_owned(),
            backend: Some("ras/gw2".to_owned()),
            age_s: 61 + TOUCH_S,
            expires_in_s: 6 * 3600 - 61,
        })
    );
}

#[test]
fn a_moved_client_is_told_why() {
    let down = after(|state| testing::probed(state, "ras/gw2", Health::Down));

    let told = asked(&down, Some((1, 5)));

    assert_eq!(told.because, api::Because::Moved);
    assert_eq!(told.backend.as_deref(), Some("gw1"));
    assert_eq!(
        told.why,
        "it belonged to gw2, which cannot serve it any more: it is down, connection refused"
    );
}

#[test]
fn an_expired_memory_is_told() {
    let told = asked(&snapshot(), Some((1, 6 * 3600 + TOUCH_S + 60)));

    assert_eq!(told.because, api::Because::SourceHash);
    assert_eq!(
        told.why,
        "the hash of its address says so; it belonged to gw2 until 1m 0s ago"
    );
}

#[test]
fn a_backend_that_was_removed_is_called_so() {
    let told = asked(&snapshot(), Some((900, 5)));

    assert_eq!(told.because, api::Because::Moved);
    assert_eq!(
        told.why,
        "it belonged to number 900, which cannot serve it any more: it has been removed"
    );
    assert_eq!(told.affinity.and_then(|held| held.backend), None);
}

#[test]
fn nobody_eligible_is_told() {
    let down = after(|state| {
        testing::probed(state, "ras/gw1", Health::Down);
        testing::probed(state, "ras/gw2", Health::Down);
    });

    let told = asked(&down, None);

    assert_eq!(told.because, api::Because::NobodyEligible);
    assert_eq!(told.backend, None);
}

fn say(state: &mut DesiredState, to: crate::config::model::Rule, prefix: &str) {
    let wish = crate::control::state::ClientsWish {
        service: None,
        prefixes: vec![prefix.parse().expect("a prefix")],
        to: Some(to),
    };
    let author = crate::control::state::Author {
        by: "root".to_owned(),
        at: testing::now(),
        reason: Some("a scan".to_owned()),
    };
    state
        .change_clients(&wish, &author)
        .expect("it may be said");
}

#[test]
fn a_blocked_client_is_told_by_whom_and_why() {
    let blocked = after(|state| say(state, api::Rule::Block, "10.9.0.0/16"));

    let told = asked(&blocked, Some((1, 5)));

    assert_eq!(told.because, api::Because::Blocked);
    assert_eq!(told.backend, None);
    assert_eq!(
        told.why,
        "10.9.0.0/16 was blocked by root at 2027-01-15T08:00:00.000Z: a scan"
    );
    let refused = told.refused.expect("it is refused");
    assert_eq!(
        refused.prefix.map(|prefix| prefix.to_string()).as_deref(),
        Some("10.9.0.0/16")
    );
    assert_eq!(
        refused.change.map(|change| change.by).as_deref(),
        Some("root")
    );
    let excepted = after(|state| {
        say(state, api::Rule::Block, "10.9.0.0/16");
        say(state, api::Rule::Allow, CLIENT);
    });
    let told = asked(&excepted, None);
    assert_eq!(
        (told.because, told.refused),
        (api::Because::SourceHash, None)
    );
}

#[test]
fn a_client_that_the_configuration_refuses_is_told_so() {
    let of = |allow: &[&str], block: &[&str]| {
        let mut config = testing::ras();
        let mut service = (*config.services[0]).clone();
        let read = |list: &[&str]| -> Vec<api::Prefix> {
            list.iter()
                .map(|text| text.parse().expect("a prefix"))
                .collect()
        };
        (service.allow, service.block) = (read(allow), read(block));
        config.services = vec![Arc::new(service)];
        let snapshot = after(|state| state.reload(config.into(), testing::now()).expect("it may"));
        asked(&snapshot, None).why
    };

    assert_eq!(
        of(&[], &["10.9.9.0/24"]),
        "the configuration blocks 10.9.9.0/24"
    );
    assert_eq!(
        of(&["192.0.2.0/24"], &[]),
        "the service allows some clients only, and no prefix that it allows covers this one"
    );
}

/// A service of the proxy beside the UDP service, after `change` of it and of its pool.
fn with_proxy(
    forwarding: Forwarding,
    change: impl FnOnce(&mut Service, &mut crate::config::model::Pool),
) -> Snapshot {
    let mut config = testing::ras();
    let mut web = testing::service("web", "10.0.0.100", 443, "ras");
    web.protocol = crate::config::model::Protocol::Tcp;
    web.forwarding = forwarding;
    change(&mut web, Arc::make_mut(&mut config.pools[0]));
    config.services.push(Arc::new(web));
    let mut snapshot = snapshot();
    snapshot.state = Arc::new(testing::running(config));
    snapshot.image = Arc::new(testing::carried_out(&snapshot.state, &snapshot.image));
    snapshot
}

fn asked_of_web(
    snapshot: &Snapshot,
    remembered: Option<(u16, u32)>,
) -> Vec<api::ServiceExplanation> {
    let held = Held {
        flows: vec![view(CLIENT, 0, 0)],
        remembered,
    };
    let explanation = explain(&held, snapshot, ip(CLIENT)).expect("nothing fails");
    let all = explanation.services.into_iter();
    all.filter(|told| told.service == "web").collect()
}

#[test]
fn a_client_of_the_proxy_meets_the_backend_of_the_kernel() {
    let site = with_proxy(Forwarding::Tcp, |_, _| {});

    for remembered in [None, Some((1, 5))] {
        let by_kernel = asked(&site, remembered);
        let told = asked_of_web(&site, remembered).remove(0);
        assert_eq!(told.backend, by_kernel.backend);
        assert_eq!(told.because, by_kernel.because);
        assert_eq!((told.forwarding.as_str(), told.host), ("tcp", None));
        assert_eq!(told.flows, [], "the kernel's are not the proxy's");
    }
}

#[test]
fn each_pool_that_a_host_leads_to_is_explained() {
    let site = with_proxy(Forwarding::Http, |service, _| {
        service.routes = vec![crate::config::model::Route {
            host: "apps.example".to_owned(),
            pool: "ras".to_owned(),
        }];
    });

    let told = asked_of_web(&site, None);

    let hosts: Vec<_> = told.iter().map(|told| told.host.as_deref()).collect();
    assert_eq!(hosts, [None, Some("apps.example")]);
}

#[test]
fn what_is_decided_later_says_by_what() {
    let told = |key, algorithm, remembered| {
        let site = with_proxy(Forwarding::Http, |service, pool| {
            service.persistence.key = key;
            service.persistence.cookie = (key == PersistenceKey::Cookie).then(|| "vipd".to_owned());
            pool.algorithm = algorithm;
        });
        let told = asked_of_web(&site, remembered).remove(0);
        (told.because, told.backend, told.why)
    };

    assert_eq!(
        told(PersistenceKey::Cookie, Algorithm::SourceHash, None),
        (
            api::Because::Cookie,
            None,
            "the cookie vipd names the backend; without it the client's port decides, connection \
             by connection"
                .to_owned()
        )
    );
    assert_eq!(
        told(PersistenceKey::None, Algorithm::RoundRobin, None),
        (
            api::Because::RoundRobin,
            None,
            "persistence.key = \"none\": the backends take turns by their weights".to_owned()
        )
    );
    let (because, backend, why) = told(PersistenceKey::SourceIp, Algorithm::LeastConnections, None);
    assert_eq!((because, backend), (api::Because::LeastConnections, None));
    assert!(why.ends_with("and it stays there"), "{why}");
    let known = told(
        PersistenceKey::SourceIp,
        Algorithm::LeastConnections,
        Some((1, 5)),
    );
    assert_eq!(
        (known.0, known.1.as_deref()),
        (api::Because::Affinity, Some("gw2"))
    );
}

#[test]
fn a_redirect_asks_nobody_and_may_refuse() {
    let mut site = with_proxy(Forwarding::Redirect, |service, _| service.pool = None);
    let told = asked_of_web(&site, None).remove(0);
    assert_eq!((told.because, told.backend), (api::Because::Redirect, None));

    let state = Arc::make_mut(&mut site.state);
    say(state, api::Rule::Block, "10.9.0.0/16");

    let told = asked_of_web(&site, None).remove(0);
    assert_eq!(told.because, api::Because::Blocked);
}

#[test]
fn services_of_the_other_family_have_nothing_to_say() {
    let held = Held {
        flows: Vec::new(),
        remembered: None,
    };

    let explanation = explain(&held, &snapshot(), ip("fd00::9")).expect("nothing fails");
    assert_eq!(explanation.services, []);
    let mapped = explain(&held, &snapshot(), ip("::ffff:10.9.9.9")).expect("nothing fails");
    assert_eq!(mapped.client, ip(CLIENT));
    assert_eq!(mapped.services.len(), 1);
}

#[test]
fn durations_are_short() {
    for (seconds, text) in [
        (0, "0s"),
        (59, "59s"),
        (60, "1m 0s"),
        (3599, "59m 59s"),
        (21_599, "5h 59m"),
        (90_000, "1d 1h"),
    ] {
        assert_eq!(duration(seconds), text);
    }
}
