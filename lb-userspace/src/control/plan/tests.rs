use std::collections::{BTreeMap, BTreeSet};

use lb_common::{
    backend::Backend,
    limits::{MAX_POOL_MEMBERS, MAX_RANGES},
    pool::MAGLEV_EMPTY,
    service::Service,
    service::ServiceKey,
};
use proptest::prelude::*;

use super::*;
use crate::{
    config::model::{AdminState, Config, Forwarding, Prefix, Rule},
    control::{
        event::Health,
        render::{Tables, render},
        state::{Author, ClientsWish, DesiredState},
        testing::{self, backend, first_start, hop, ip, name, new_maps, now, pool, service},
    },
    dataplane::{Dataplane, fake::Fake},
};

/// What can happen to a site.
#[derive(Clone, Debug)]
enum Step {
    Probe {
        backend: usize,
        up: bool,
    },
    Check {
        backend: usize,
        up: bool,
    },
    Way {
        backend: usize,
        found: bool,
    },
    Source {
        backend: usize,
        last: u8,
    },
    Admin {
        backend: usize,
        state: AdminState,
    },
    Weight {
        backend: usize,
        weight: u16,
    },
    Sweep {
        busy: bool,
    },
    Clients {
        service: usize,
        blocked: u8,
        to: Option<bool>,
    },
    Reload(Vec<bool>, u16),
}

const NAMES: [(&str, &str, &str); 6] = [
    ("a", "a1", "10.0.1.1"),
    ("a", "a2", "10.0.1.2"),
    ("a", "a3", "10.0.1.3"),
    ("b", "b1", "10.0.2.1"),
    ("b", "b2", "10.0.1.1"),
    ("b", "b3", "10.0.2.3"),
];

fn step() -> impl Strategy<Value = Step> {
    let backend = 0..NAMES.len();
    prop_oneof![
        (backend.clone(), any::<bool>()).prop_map(|(backend, up)| Step::Probe { backend, up }),
        (backend.clone(), any::<bool>()).prop_map(|(backend, up)| Step::Check { backend, up }),
        (backend.clone(), any::<bool>()).prop_map(|(backend, found)| Step::Way { backend, found }),
        (backend.clone(), 1_u8..4).prop_map(|(backend, last)| Step::Source { backend, last }),
        (
            backend.clone(),
            prop_oneof![
                Just(AdminState::Active),
                Just(AdminState::Drain),
                Just(AdminState::Halt)
            ]
        )
            .prop_map(|(backend, state)| Step::Admin { backend, state }),
        (backend, 0_u16..200).prop_map(|(backend, weight)| Step::Weight { backend, weight }),
        any::<bool>().prop_map(|busy| Step::Sweep { busy }),
        (0_usize..3, 0_u8..4, any::<Option<bool>>()).prop_map(|(service, blocked, to)| {
            Step::Clients {
                service,
                blocked,
                to,
            }
        }),
        (
            prop::collection::vec(any::<bool>(), NAMES.len() + 2),
            443_u16..446
        )
            .prop_map(|(has, port)| Step::Reload(has, port)),
    ]
}

/// A site with the backends and services that `has` says.
fn site(has: &[bool], backend_port: u16) -> Config {
    let backends = |of: &str| {
        NAMES
            .iter()
            .zip(has)
            .filter(|((pool, _, _), has)| *pool == of && **has)
            .map(|((_, name, address), _)| {
                let mut backend = backend(name, address);
                backend.backup = *name == "a3";
                backend
            })
            .collect::<Vec<_>>()
    };
    let mut services = Vec::new();
    if has[NAMES.len()] {
        let mut listed = service("s-a", "10.0.0.100", 443, "a");
        listed.block = vec![prefix(200 + (backend_port % 2) as u8)];
        services.push(listed);
    }
    if has[NAMES.len() + 1] {
        let mut checked = service("s-b", "10.0.0.100", 444, "b");
        checked.health = Some(testing::connect());
        checked.backend_port = Some(backend_port);
        services.push(checked);
    }
    let mut monitor = service("watched", "10.0.0.101", 0, "a");
    monitor.forwarding = Forwarding::Monitor;
    services.push(monitor);
    testing::config(
        vec![pool("a", backends("a")), pool("b", backends("b"))],
        services,
    )
}

fn prefix(network: u8) -> Prefix {
    Prefix::of(std::net::IpAddr::V4([10, network, 0, 0].into()), 16)
}

fn take(state: &mut DesiredState, step: &Step) {
    let named = |index: usize| format!("{}/{}", NAMES[index].0, NAMES[index].1);
    let health = |up: bool| if up { Health::Up } else { Health::Down };
    match step {
        Step::Probe { backend, up } => testing::probed(state, &named(*backend), health(*up)),
        Step::Check { backend, up } => {
            testing::probed_for(state, &named(*backend), "s-b", health(*up));
        }
        Step::Way { backend, found } => {
            let result = found.then(hop).ok_or_else(|| "no route".to_owned());
            state.on_next_hop(ip(NAMES[*backend].2), result);
        }
        Step::Source { backend, last } => {
            let mut hop = hop();
            hop.source = ip(&format!("10.0.0.{last}"));
            state.on_next_hop(ip(NAMES[*backend].2), Ok(hop));
        }
        Step::Admin { backend, state: to } => {
            let author = Author {
                by: "root".to_owned(),
                at: now(),
                reason: None,
            };
            state.set_admin_state(&name(&named(*backend)), *to, author);
        }
        Step::Weight { backend, weight } => {
            let author = Author {
                by: "root".to_owned(),
                at: now(),
                reason: None,
            };
            state.set_weight(&name(&named(*backend)), Some(*weight), author);
        }
        Step::Sweep { busy } => testing::sweep(state, |report| {
            if *busy {
                report.flows_by_backend.insert(1, 5);
                report.flows_by_service.insert(0, 5);
                report.ports_by_slot.insert(0, Default::default());
            }
        }),
        Step::Clients {
            service,
            blocked,
            to,
        } => {
            let wish = ClientsWish {
                service: ["s-a", "s-b"].get(*service).map(|name| (*name).to_owned()),
                prefixes: vec![prefix(*blocked), prefix(100 + *blocked)],
                to: to.map(|block| if block { Rule::Block } else { Rule::Allow }),
            };
            let author = Author {
                by: "root".to_owned(),
                at: now(),
                reason: None,
            };
            // The service, or what shall be forgotten, may not be there.
            let _ = state.change_clients(&wish, &author);
        }
        Step::Reload(has, port) => {
            state
                .reload(site(has, *port).into(), now())
                .expect("nothing that cannot change");
        }
    }
}

fn fake(state: &DesiredState) -> Fake {
    let mut fake = Fake::default();
    fake.image = new_maps(&state.config);
    fake
}

/// Carries out one step, looks at the maps after it, and says what is wrong with them.
fn carry_out(
    fake: &mut Fake,
    used_halves: &BTreeMap<u16, u32>,
    step: &MapOp,
) -> Result<(), String> {
    if let MapOp::Table { pool, half, .. } = step
        && used_halves.get(pool) == Some(half)
    {
        return Err(format!(
            "half {half} of pool {pool} is written while in use"
        ));
    }
    if let MapOp::Ranges { half, .. } = step
        && fake
            .image
            .services
            .values()
            .any(|s| s.ranges_count > 0 && s.ranges_first / MAX_RANGES == *half)
    {
        return Err(format!("half {half} of ranges is written while in use"));
    }
    fake.apply(std::slice::from_ref(step))
        .map_err(|error| error.to_string())?;
    lists(fake)?;
    consistent(&fake.image)
}

/// Each service that names ranges names a whole list.
fn lists(fake: &Fake) -> Result<(), String> {
    for (key, service) in &fake.image.services {
        let ranges = fake.ranges_of(service);
        let whole = ranges.len() == service.ranges_count as usize
            && ranges.first().is_none_or(|range| range.start == [0; 16])
            && ranges.is_sorted_by(|a, b| a.start < b.start && a.blocked != b.blocked);
        if !whole {
            return Err(format!("{key:?} names {ranges:?}"));
        }
    }
    Ok(())
}

/// What must hold between any two steps.
fn consistent(image: &Image) -> Result<(), String> {
    for (number, pool) in &image.pools {
        let named = pool.table.iter().filter(|&&slot| slot != MAGLEV_EMPTY);
        let named = named.map(|&slot| slot as u16).collect::<BTreeSet<u16>>();
        if pool.table.is_empty() {
            return Err(format!("pool {number} names a half that was never written"));
        }
        if named.is_empty() != (pool.pool.eligible == 0) {
            return Err(format!("pool {number} and its table disagree"));
        }
        for backend in named.iter().chain(members(&pool.pool)) {
            let present = image.backends.get(backend);
            if present.is_none_or(|backend| backend.pool != *number) {
                return Err(format!(
                    "pool {number} names backend {backend}, which is not there"
                ));
            }
        }
    }
    let mut numbers = BTreeSet::new();
    for (key, service) in image.services.iter().filter(|(key, _)| key.protocol != 0) {
        if !image.pools.contains_key(&service.pool) {
            return Err(format!(
                "{key:?} names pool {}, which is not there",
                service.pool
            ));
        }
        if !image.services.contains_key(&ServiceKey::marker(key.vip)) {
            return Err(format!("{key:?} has no marker"));
        }
        if !numbers.insert(service.id) {
            return Err(format!("service number {} is there twice", service.id));
        }
    }
    let mut slots = BTreeSet::new();
    for (key, endpoint) in &image.endpoints {
        if !slots.insert(endpoint.slot) {
            return Err(format!("{key:?} shares slot {}", endpoint.slot));
        }
    }
    for (number, backend) in &image.backends {
        sources(image, *number, backend)?;
    }
    Ok(())
}

/// Each SNAT address that a backend may be reached from has an endpoint for every service. No
/// flow goes to a backend that does not serve, so a new one may be there before its services.
fn sources(image: &Image, number: u16, backend: &Backend) -> Result<(), String> {
    if !backend.serves() {
        return Ok(());
    }
    let services: Vec<(&ServiceKey, &Service)> = image
        .services
        .iter()
        .filter(|(key, service)| key.protocol != 0 && service.pool == backend.pool)
        .collect();
    for place in (0..8).filter(|place| (backend.snat_mask >> place) & 1 == 1) {
        for (_, service) in &services {
            let port = match backend.port {
                0 => service.backend_port,
                port => port,
            };
            let key = lb_common::endpoint::EndpointKey::new(
                image.settings.snat_addresses[place],
                backend.address,
                port,
                17,
            );
            if !image.endpoints.contains_key(&key) {
                return Err(format!("backend {number} has no endpoint {key:?}"));
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn the_maps_work_after_every_single_step(steps in prop::collection::vec(step(), 1..24)) {
        let all = [true; NAMES.len() + 2];
        let mut state = first_start(site(&all, 443));
        let mut fake = fake(&state);
        let mut tables = Tables::default();
        for step in &steps {
            take(&mut state, step);

            let present = fake.image.clone();
            let plan = plan(&present, render(&state, &mut tables));
            let mut halves: BTreeMap<u16, u32> = present.pools.iter()
                .map(|(&number, pool)| (number, pool.pool.half)).collect();
            for operation in &plan.operations {
                let result = carry_out(&mut fake, &halves, operation);
                prop_assert!(result.is_ok(), "{result:?} after {operation:?} for {step:?}");
                if let MapOp::Pool(number, pool) = operation {
                    halves.insert(*number, pool.half);
                }
            }

            prop_assert_eq!(&fake.image, &plan.outcome);
            let again = super::plan(&fake.image, render(&state, &mut tables));
            prop_assert_eq!(again.operations, vec![]);
        }
    }

    #[test]
    fn a_daemon_that_dies_between_two_steps_is_succeeded_without_harm(
        steps in prop::collection::vec(step(), 1..10), cut: prop::sample::Index,
    ) {
        let all = [true; NAMES.len() + 2];
        let mut state = first_start(site(&all, 443));
        let mut fake = fake(&state);
        let mut tables = Tables::default();
        for step in &steps {
            take(&mut state, step);
        }
        let operations = plan(&fake.image, render(&state, &mut tables)).operations;
        fake.apply(&operations[..cut.index(operations.len() + 1)]).expect("a fake never fails");

        let overrides = state.overrides.clone();
        let mut successor = DesiredState::start(
            state.config.clone(), &fake.image, true, vec![testing::link()], overrides, now(),
        ).expect("the same configuration");
        testing::sweep(&mut successor, |_| {});
        let target = plan(&fake.image, render(&successor, &mut tables));
        for operation in &target.operations {
            fake.apply(std::slice::from_ref(operation)).expect("a fake never fails");
            let result = consistent(&fake.image).and_then(|()| lists(&fake));
            prop_assert!(result.is_ok(), "{result:?} after {operation:?}");
        }
        prop_assert_eq!(&fake.image, &target.outcome);
    }
}

#[test]
fn an_unchanged_image_needs_no_step() {
    let state = testing::running(testing::ras());
    let image = testing::carried_out(&state, &new_maps(&state.config));

    assert_eq!(
        plan(&image, render(&state, &mut Tables::default())).operations,
        []
    );
}

#[test]
fn the_first_plan_writes_what_is_named_before_what_names_it() {
    let state = testing::running(testing::ras());

    let plan = plan(
        &new_maps(&state.config),
        render(&state, &mut Tables::default()),
    );

    let kinds: Vec<&str> = plan.operations.iter().map(kind).collect();
    assert_eq!(
        kinds,
        [
            "clear service",
            "clear backend",
            "clear backend",
            "settings",
            "endpoint",
            "endpoint",
            "backend",
            "backend",
            "table",
            "pool",
            "service",
            "service",
        ]
    );
}

#[test]
fn a_backend_that_fails_is_one_write_before_the_other_half_takes_over() {
    let mut state = testing::running(testing::ras());
    let before = testing::carried_out(&state, &new_maps(&state.config));
    testing::probed(&mut state, "ras/gw1", Health::Down);

    let plan = plan(&before, render(&state, &mut Tables::default()));

    let kinds: Vec<&str> = plan.operations.iter().map(kind).collect();
    assert_eq!(kinds, ["backend", "table", "pool"]);
    assert_eq!(plan.outcome.pools[&0].pool.half, 1);
    assert!(plan.outcome.pools[&0].table.iter().all(|&slot| slot == 1));
    assert_eq!(before.pools[&0].pool.half, 0);
}

#[test]
fn other_lists_of_clients_are_written_beside_those_in_use_and_then_named() {
    let mut config = testing::ras();
    let mut listed = service("listed", "10.0.0.100", 444, "ras");
    listed.block = vec![prefix(9)];
    config.services.push(listed.into());
    let mut state = testing::running(config);
    let before = testing::carried_out(&state, &new_maps(&state.config));
    let named = |image: &Image, port: u16| {
        let service = image.services.iter().find(|(key, _)| key.port == port);
        let (_, service) = service.expect("it is there");
        (service.ranges_first, service.ranges_count)
    };
    assert_eq!((named(&before, 443), named(&before, 444)), ((0, 0), (0, 3)));
    let wish = |to| ClientsWish {
        service: None,
        prefixes: vec![prefix(1)],
        to,
    };
    let author = Author {
        by: "root".to_owned(),
        at: now(),
        reason: None,
    };
    let blocked = state.change_clients(&wish(Some(Rule::Block)), &author);
    blocked.expect("it may be blocked");

    let blocked = plan(&before, render(&state, &mut Tables::default()));

    let kinds: Vec<&str> = blocked.operations.iter().map(kind).collect();
    assert_eq!(kinds, ["ranges", "service", "service"]);
    assert_eq!(named(&blocked.outcome, 443), (MAX_RANGES, 3));
    assert_eq!(named(&blocked.outcome, 444), (MAX_RANGES + 3, 5));
    state
        .change_clients(&wish(None), &author)
        .expect("it is there");
    let forgotten = plan(&blocked.outcome, render(&state, &mut Tables::default()));
    assert_eq!(named(&forgotten.outcome, 443), (0, 0));
    assert_eq!(named(&forgotten.outcome, 444), (0, 3));
    assert_eq!(forgotten.outcome, before);
}

#[test]
fn the_last_list_that_goes_is_not_named_any_more_and_nothing_is_written() {
    let mut config = testing::ras();
    let mut listed = service("listed", "10.0.0.100", 444, "ras");
    listed.block = vec![prefix(9)];
    config.services.push(listed.into());
    let mut state = testing::running(config.clone());
    let before = testing::carried_out(&state, &new_maps(&state.config));
    config.services.pop();
    config
        .services
        .push(service("listed", "10.0.0.100", 444, "ras").into());
    state.reload(config.into(), now()).expect("it may change");

    let plan = plan(&before, render(&state, &mut Tables::default()));

    let kinds: Vec<&str> = plan.operations.iter().map(kind).collect();
    assert_eq!(kinds, ["service"]);
    assert_eq!(plan.outcome.ranges, Default::default());
}

#[test]
fn removal_goes_from_what_names_to_what_is_named() {
    let mut state = testing::running(testing::ras());
    let before = testing::carried_out(&state, &new_maps(&state.config));
    state
        .reload(testing::config(Vec::new(), Vec::new()).into(), now())
        .expect("everything may go");

    let plan = plan(&before, render(&state, &mut Tables::default()));

    let kinds: Vec<&str> = plan.operations.iter().map(kind).collect();
    assert_eq!(
        kinds,
        [
            "remove service",
            "remove service",
            "remove pool",
            "remove backend",
            "remove backend",
        ],
        "endpoints stay until their flows have ended"
    );
    let first = MapOp::RemoveService(ServiceKey::new(
        lb_common::addr::mapped([10, 0, 0, 100]),
        443,
        17,
    ));
    assert_eq!(plan.operations[0], first, "the marker goes last");
}

#[test]
fn members_of_a_pool_are_never_read_past_its_end() {
    let state = testing::running(testing::ras());
    let image = testing::carried_out(&state, &new_maps(&state.config));
    let mut pool = image.pools[&0].pool;
    pool.member_count = 1000;

    assert_eq!(members(&pool).len(), MAX_POOL_MEMBERS);
}

fn kind(operation: &MapOp) -> &'static str {
    match operation {
        MapOp::Settings(_) => "settings",
        MapOp::Backend(..) => "backend",
        MapOp::RemoveBackend(_) => "remove backend",
        MapOp::Table { .. } => "table",
        MapOp::Ranges { .. } => "ranges",
        MapOp::Pool(..) => "pool",
        MapOp::RemovePool(_) => "remove pool",
        MapOp::Endpoint(..) => "endpoint",
        MapOp::RemoveEndpoint(_) => "remove endpoint",
        MapOp::Service(..) => "service",
        MapOp::RemoveService(_) => "remove service",
        MapOp::ClearServiceCounters(_) => "clear service",
        MapOp::ClearBackendCounters(_) => "clear backend",
    }
}
