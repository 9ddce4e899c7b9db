use std::{sync::Arc, time::Duration};

use lb_common::{
    addr, affinity,
    backend::{ACTIVE, DRAIN, HALT, UP},
    pool::MAGLEV_EMPTY,
    service::{Service as KernelService, ServiceKey},
};

use super::*;
use crate::{
    config::model::{Forwarding, PersistenceKey},
    control::{
        change::{Change, Level, changes},
        fill::Refusals,
        plan::{members, plan},
        render::{Tables, is_eligible, render, sweep_settings},
        testing::*,
    },
    dataplane::{PortUse, image::Image},
};

fn image(state: &DesiredState) -> Image {
    render(state, &mut Tables::default())
}

fn author() -> Author {
    Author {
        by: "root".to_owned(),
        at: now(),
        reason: Some("patch day".to_owned()),
    }
}

/// The share of a backend in its pool's table.
fn slots(image: &Image, pool: u16, backend: u32) -> usize {
    let table = &image.pools[&pool].table;
    table.iter().filter(|&&slot| slot == backend).count()
}

fn lines(before: &DesiredState, after: &DesiredState) -> Vec<String> {
    changes(before, after)
        .iter()
        .map(ToString::to_string)
        .collect()
}

// ---- a first start ----

#[test]
fn at_a_first_start_a_backend_is_down_until_its_first_success_and_its_way_is_known() {
    let mut state = first_start(ras());
    assert!(image(&state).backends.values().all(|b| !b.takes_new()));

    probed(&mut state, "ras/gw1", Health::Up);
    assert!(!image(&state).backends[&0].takes_new());
    state.on_next_hop(ip("10.0.1.1"), Ok(hop()));

    let image = image(&state);
    assert!(image.backends[&0].takes_new());
    assert_eq!(image.backends[&0].mac, hop().mac);
    assert_eq!(image.backends[&0].source_mac, link().mac);
    assert_eq!(image.pools[&0].pool.eligible, 1);
    assert!(image.pools[&0].table.iter().all(|&slot| slot == 0));
}

#[test]
fn a_service_stands_in_the_maps_with_the_marker_of_its_vip() {
    let mut config = ras();
    let mut service = service("ras-udp", "10.0.0.100", 443, "ras");
    service.persistence.ipv4_prefix = 24;
    service.persistence.ipv6_prefix = 64;
    service.backend_port = Some(8443);
    config.services = vec![Arc::new(service)];

    let image = image(&running(config));

    let vip = addr::mapped([10, 0, 0, 100]);
    let value = image.services[&ServiceKey::new(vip, 443, 17)];
    assert_eq!((value.ipv4_prefix, value.ipv6_prefix), (96 + 24, 64));
    assert_eq!(value.backend_port, 8443);
    assert_eq!(value.flags, KernelService::AFFINITY);
    assert_eq!(value.group, affinity::group_number("ras"));
    assert_eq!(value.affinity_timeout_s, 6 * 3600);
    assert_eq!(image.services[&ServiceKey::marker(vip)].name[0], 0);
    let ports: Vec<u16> = image.endpoints.keys().map(|key| key.port).collect();
    assert_eq!(ports, [8443, 8443]);
}

#[test]
fn a_service_without_persistence_remembers_nobody() {
    let mut config = ras();
    let mut service = service("ras-udp", "10.0.0.100", 443, "ras");
    service.persistence.key = PersistenceKey::None;
    config.services = vec![Arc::new(service)];

    let image = image(&running(config));

    assert!(image.services.values().all(|service| service.flags == 0));
}

#[test]
fn what_xdp_does_not_forward_stays_out_of_the_maps() {
    let mut config = ras();
    let mut watched = service("watched", "10.0.0.100", 0, "ras");
    watched.forwarding = Forwarding::Monitor;
    config.services = vec![Arc::new(watched)];

    let image = image(&running(config));

    assert!(image.services.is_empty());
    assert!(image.pools.is_empty());
    assert!(image.backends.is_empty());
    assert!(image.endpoints.is_empty());
}

#[test]
fn settings_say_what_the_program_must_know() {
    let settings = image(&running(ras())).settings;

    assert_eq!(settings.flow_timeout_s, 300);
    assert_eq!(
        (settings.snat_port_first, settings.snat_port_count),
        (20_000, 1000)
    );
    assert_eq!(settings.slots, 64);
    assert_eq!(settings.interfaces[0].index, ETH0);
    assert_eq!(settings.interfaces[0].mac, link().mac);
    assert_eq!(settings.interfaces[1].index, 0);
    assert_eq!(settings.snat_address_count, 1);
    assert_eq!(settings.snat_addresses[0], addr::mapped([10, 0, 0, 1]));
}

#[test]
fn the_sweeper_goes_by_the_longest_timeout_of_each_group() {
    let mut config = ras();
    let mut brief = service("brief", "10.0.0.100", 444, "ras");
    brief.persistence.timeout = Duration::from_secs(360);
    let mut apart = service("apart", "10.0.0.100", 445, "ras");
    apart.persistence.timeout = Duration::from_secs(60);
    apart.persistence.group = "other".to_owned();
    let mut forgetful = service("forgetful", "10.0.0.100", 446, "ras");
    forgetful.persistence.key = PersistenceKey::None;
    forgetful.persistence.group = "third".to_owned();
    for service in [brief, apart, forgetful] {
        config.services.push(Arc::new(service));
    }
    let state = running(config);

    let settings = sweep_settings(&state, &image(&state));

    assert_eq!(settings.flow_timeout_s, 300);
    assert_eq!(settings.flow_timeout_unreplied_s, 30);
    assert_eq!(
        settings.affinity_timeouts_s.into_iter().collect::<Vec<_>>(),
        {
            let mut groups = vec![
                (affinity::group_number("ras"), 6 * 3600),
                (affinity::group_number("other"), 60),
            ];
            groups.sort_unstable();
            groups
        }
    );
    assert_eq!(settings.backends.into_iter().collect::<Vec<_>>(), [0, 1]);
}

// ---- who takes clients ----

#[test]
fn shares_follow_the_weights_and_what_was_changed_at_run_time() {
    let mut state = running(ras());
    state.set_weight(&name("ras/gw2"), Some(300), author());

    let image = image(&state);

    let share = slots(&image, 0, 1) as f64 / image.pools[&0].table.len() as f64;
    assert!((share - 0.75).abs() < 0.01, "{share}");
}

#[test]
fn a_backend_of_weight_zero_keeps_its_clients_and_is_no_member() {
    let mut state = running(ras());
    state.set_weight(&name("ras/gw1"), Some(0), author());

    let image = image(&state);

    assert_eq!(members(&image.pools[&0].pool), [1]);
    assert!(image.backends[&0].serves());
    assert_eq!(slots(&image, 0, 0), 0);
}

#[test]
fn members_stay_members_while_they_are_down() {
    let mut state = running(ras());
    probed(&mut state, "ras/gw1", Health::Down);

    let image = image(&state);

    assert_eq!(members(&image.pools[&0].pool), [0, 1]);
    assert_eq!(image.pools[&0].pool.eligible, 1);
    assert_eq!(slots(&image, 0, 0), 0);
}

#[test]
fn drained_and_halted_backends_are_no_members() {
    for (to, number) in [(AdminState::Drain, DRAIN), (AdminState::Halt, HALT)] {
        let mut state = running(ras());
        state.set_admin_state(&name("ras/gw1"), to, author());

        let image = image(&state);

        assert_eq!(image.backends[&0].admin, number);
        assert_eq!(members(&image.pools[&0].pool), [1]);
        assert_eq!(slots(&image, 0, 0), 0);
    }
}

#[test]
fn backups_serve_only_while_no_other_is_eligible() {
    let mut config = ras();
    let mut spare = backend("spare", "10.0.1.9");
    spare.backup = true;
    let mut pool = (*config.pools[0]).clone();
    pool.backends.push(spare);
    config.pools = vec![Arc::new(pool)];
    let mut state = running(config);
    assert_eq!(members(&image(&state).pools[&0].pool), [0, 1]);
    assert!(!is_eligible(
        &state,
        &state.config.pools[0],
        &state.config.pools[0].backends[2]
    ));

    probed(&mut state, "ras/gw1", Health::Down);
    assert_eq!(members(&image(&state).pools[&0].pool), [0, 1]);
    probed(&mut state, "ras/gw2", Health::Down);
    assert_eq!(members(&image(&state).pools[&0].pool), [2]);

    probed(&mut state, "ras/spare", Health::Down);
    let nobody = image(&state);
    assert_eq!(members(&nobody.pools[&0].pool), [0, 1]);
    assert_eq!(nobody.pools[&0].pool.eligible, 0);
    assert!(nobody.pools[&0].table.iter().all(|&s| s == MAGLEV_EMPTY));
}

#[test]
fn a_full_backend_takes_new_clients_again_below_its_lower_mark() {
    let mut config = ras();
    let mut pool = (*config.pools[0]).clone();
    pool.backends[0].max_connections = 100;
    pool.backends[0].resume_connections = 80;
    config.pools = vec![Arc::new(pool)];
    let mut state = running(config);

    for (flows, full) in [(99, 0), (100, 1), (80, 1), (79, 0), (99, 0), (101, 1)] {
        sweep(&mut state, |report| {
            report.flows_by_backend.insert(0, flows);
        });
        assert_eq!(image(&state).backends[&0].full, full, "{flows} flows");
    }
}

#[test]
fn a_services_own_check_parts_that_service_from_the_backend_and_no_other() {
    let mut config = ras();
    let mut other = service("ras-other", "10.0.0.100", 444, "ras");
    other.health = Some(connect());
    config.services.push(Arc::new(other));
    let mut state = running(config);
    probed_for(&mut state, "ras/gw1", "ras-other", Health::Up);
    probed_for(&mut state, "ras/gw2", "ras-other", Health::Up);
    assert_eq!(image(&state).backends[&0].services_down, [0; 8]);

    probed_for(&mut state, "ras/gw1", "ras-other", Health::Down);

    let image = image(&state);
    assert!(image.backends[&0].serves_service(0));
    assert!(!image.backends[&0].serves_service(1));
    assert!(image.backends[&1].serves_service(1));
    assert_eq!(image.pools[&0].pool.eligible, 2, "the table is the pool's");
}

// ---- ways ----

#[test]
fn a_backend_behind_a_foreign_interface_is_unreachable_and_says_why() {
    let mut state = running(ras());
    let mut elsewhere = hop();
    elsewhere.interface = 7;
    elsewhere.interface_name = "docker0".to_owned();

    state.on_next_hop(ip("10.0.1.1"), Ok(elsewhere));

    let reason = state
        .way(&state.config.pools[0], &state.config.pools[0].backends[0])
        .expect_err("not attached there");
    assert_eq!(
        reason,
        "the route to 10.0.1.1 leaves by docker0, where vipd is not attached: add it to \
         node.interfaces, or correct the route"
    );
    assert!(!image(&state).backends[&0].serves());
}

#[test]
fn a_backend_with_the_address_of_another_has_its_way_at_once() {
    let mut state = running(ras());
    let mut config = ras();
    let mut pool = (*config.pools[0]).clone();
    pool.backends[1] = backend("gw3", "10.0.1.2");
    config.pools = vec![Arc::new(pool)];

    state.reload(Arc::new(config), now()).expect("applied");

    let pool = &state.config.pools[0];
    let way = state.way(pool, &pool.backends[1]).expect("known");
    assert_eq!(way.snat_mask, 1);
}

#[test]
fn configured_snat_addresses_count_for_their_family() {
    let mut config = ras();
    config.node.snat_addresses = vec![ip("10.0.0.50"), ip("fd00::50"), ip("10.0.0.51")];
    let mut pool = (*config.pools[0]).clone();
    pool.backends.push(backend("gw6", "fd00::1"));
    config.pools = vec![Arc::new(pool)];
    let image = image(&running(config));

    let places = |backend: u16| -> Vec<IpAddr> {
        (0..8)
            .filter(|place| (image.backends[&backend].snat_mask >> place) & 1 == 1)
            .map(|place| addr::address(image.settings.snat_addresses[place]))
            .collect()
    };
    assert_eq!(places(0), [ip("10.0.0.50"), ip("10.0.0.51")]);
    assert_eq!(places(2), [ip("fd00::50")]);
    assert_eq!(image.endpoints.len(), 5);
}

#[test]
fn an_address_that_flows_still_use_keeps_its_place_and_endpoints() {
    let mut state = running(ras());
    let before = image(&state);
    let mut moved = hop();
    moved.source = ip("10.0.0.2");
    state.on_next_hop(ip("10.0.1.1"), Ok(moved.clone()));
    state.on_next_hop(ip("10.0.1.2"), Ok(moved));
    let busy = |report: &mut SweepReport| {
        let ports = PortUse {
            in_use: 3,
            resting: 0,
        };
        report.ports_by_slot.insert(0, ports);
    };
    for _ in 0..3 {
        sweep(&mut state, busy);
    }

    let image = image(&state);
    assert_eq!(
        image.settings.snat_addresses[0],
        before.settings.snat_addresses[0]
    );
    assert_eq!(
        image.settings.snat_addresses[1],
        addr::mapped([10, 0, 0, 2])
    );
    assert_eq!(image.backends[&0].snat_mask, 0b10);
    assert_eq!(image.endpoints.len(), 3, "slot 1 had no flow and is free");

    for _ in 0..3 {
        sweep(&mut state, |_| {});
    }
    let image = tests::image(&state);
    assert_eq!(image.endpoints.len(), 2);
    assert_eq!(image.settings.snat_addresses[0], [0; 16]);
}

#[test]
fn a_backend_without_a_free_block_of_ports_is_unreachable_and_says_why() {
    let mut config = ras();
    config.node.max_flows = 1000;
    let state = running(config);

    let pool = &state.config.pools[0];
    assert!(state.way(pool, &pool.backends[0]).is_ok());
    let reason = state.way(pool, &pool.backends[1]).expect_err("one block");
    assert!(reason.contains("raise node.max_flows"), "{reason}");
    assert!(!image(&state).backends[&1].serves());
}

// ---- restarts ----

#[test]
fn a_restart_changes_nothing_for_running_traffic() {
    let mut config = ras();
    let mut other = service("ras-other", "10.0.0.100", 444, "ras");
    other.health = Some(connect());
    config.services.push(Arc::new(other));
    let mut state = running(config.clone());
    probed(&mut state, "ras/gw2", Health::Down);
    probed_for(&mut state, "ras/gw1", "ras-other", Health::Down);
    let held = carried_out(&state, &new_maps(&config));

    let successor = restart(config, &held);

    assert_eq!(
        plan(&held, render(&successor, &mut Tables::default())).operations,
        []
    );
    assert!(successor.adopted);
}

#[test]
fn after_a_restart_findings_replace_what_was_inherited() {
    let state = running(ras());
    let held = carried_out(&state, &new_maps(&state.config));
    let mut successor = restart(ras(), &held);

    let mut gateway = hop();
    gateway.mac = [2, 0, 0, 0, 0, 0x77];
    successor.on_next_hop(ip("10.0.1.1"), Ok(gateway));
    probed(&mut successor, "ras/gw2", Health::Down);

    let image = image(&successor);
    assert_eq!(image.backends[&0].mac, [2, 0, 0, 0, 0, 0x77]);
    assert_eq!(image.backends[&0].health, UP);
    assert!(!image.backends[&1].serves());
    assert_eq!(image.endpoints, held.endpoints);
}

#[test]
fn numbers_survive_a_restart_with_another_order_of_names() {
    let mut config = config(
        vec![
            pool("a", vec![backend("a1", "10.0.1.1")]),
            pool(
                "b",
                vec![backend("b1", "10.0.2.1"), backend("b2", "10.0.2.2")],
            ),
        ],
        vec![
            service("s-a", "10.0.0.100", 443, "a"),
            service("s-b", "10.0.0.100", 444, "b"),
        ],
    );
    let held = carried_out(&running(config.clone()), &new_maps(&config));
    config.pools.reverse();
    config.services.reverse();

    let successor = restart(config, &held);

    assert_eq!(
        plan(&held, render(&successor, &mut Tables::default())).operations,
        []
    );
}

#[test]
fn what_a_restart_adds_waits_for_the_first_sweep() {
    let held = carried_out(&running(ras()), &new_maps(&ras()));
    let mut larger = ras();
    let mut pool = (*larger.pools[0]).clone();
    pool.backends.push(backend("gw3", "10.0.1.3"));
    larger.pools = vec![Arc::new(pool)];

    let mut successor = restart(larger, &held);

    assert_eq!(successor.waiting(), ["backend ras/gw3"]);
    sweep(&mut successor, |report| {
        report.affinity_by_backend.insert(2, 1);
    });
    assert_eq!(successor.waiting(), [""; 0]);
    let image = image(&successor);
    assert!(
        !image.backends.contains_key(&2),
        "clients still belong to 2"
    );
    assert_eq!(image.backends[&3].name[..3], *b"gw3");
}

#[test]
fn a_data_path_with_other_ports_is_not_taken_over() {
    let held = carried_out(&running(ras()), &new_maps(&ras()));
    let mut other = ras();
    other.node.snat_ports.last = 20_499;

    let refusals = DesiredState::start(
        Arc::new(other),
        &held,
        true,
        vec![link()],
        Overrides::default(),
        now(),
    )
    .expect_err("the records are laid out by the range");

    assert_eq!(
        refusals[0].to_string(),
        "node.snat_ports: 20000-20499 (in force: 20000-20999): it cannot change while the data \
         path is at work: run `vipd detach`, which ends all flows, and start vipd again"
    );
}

// ---- reloads ----

#[test]
fn a_reload_leaves_alone_what_it_does_not_concern() {
    let state = running(ras());
    let held = carried_out(&state, &new_maps(&state.config));
    let mut after = state.clone();
    let mut larger = ras();
    let mut pool = (*larger.pools[0]).clone();
    pool.backends.insert(0, backend("gw0", "10.0.1.3"));
    larger.pools = vec![Arc::new(pool)];

    after.reload(Arc::new(larger), now()).expect("applied");

    assert_eq!(after.generation, 2);
    let image = image(&after);
    for number in [0, 1] {
        assert_eq!(image.backends[&number], held.backends[&number]);
    }
    assert_eq!(image.backends[&2].name[..3], *b"gw0");
    assert!(!image.backends[&2].serves());
    assert_eq!(image.pools[&0].table, held.pools[&0].table);
}

#[test]
fn keys_that_cannot_change_are_refused_all_at_once_and_nothing_happens() {
    let mut state = running(ras());
    let before = image(&state);
    let mut config = ras();
    config.pools.clear();
    config.services.clear();
    config.node.max_flows = 1;
    config.node.max_affinity = 2;
    config.node.snat_ports.first = 1;
    config.node.interfaces.push("eth1".to_owned());
    config.admin.socket = "/run/other.sock".into();
    config.state.directory = "/var/other".into();
    config.node.xdp_mode = crate::config::model::XdpMode::Generic;

    let refusals = state.reload(Arc::new(config), now()).expect_err("refused");

    let places: Vec<&str> = refusals.iter().map(|refusal| refusal.place).collect();
    assert_eq!(
        places,
        [
            "node.snat_ports",
            "node.max_flows",
            "node.max_affinity",
            "node.xdp_mode",
            "node.interfaces",
            "admin.socket",
            "state.directory",
        ]
    );
    assert_eq!(image(&state), before);
    assert_eq!(state.generation, 1);
}

#[test]
fn a_backend_with_another_address_is_another_backend() {
    let mut state = running(ras());
    let mut config = ras();
    let mut pool = (*config.pools[0]).clone();
    pool.backends[0].address = ip("10.0.1.77");
    config.pools = vec![Arc::new(pool)];

    state.reload(Arc::new(config), now()).expect("applied");

    let image = image(&state);
    assert!(
        !image.backends.contains_key(&0),
        "its flows are chosen anew"
    );
    assert_eq!(image.backends[&2].address, addr::mapped([10, 0, 1, 77]));
    assert!(!image.backends[&2].serves(), "not probed yet");
}

#[test]
fn the_flows_of_a_service_that_leads_elsewhere_are_chosen_anew() {
    let mut state = running(ras());
    let mut config = ras();
    let mut changed = (*config.services[0]).clone();
    changed.backend_port = Some(8443);
    config.services = vec![Arc::new(changed)];

    state.reload(Arc::new(config), now()).expect("applied");

    let rendered = image(&state);
    let service = rendered.services.values().find(|s| s.backend_port != 0);
    assert_eq!(service.map(|service| service.id), Some(1));
    assert!(!rendered.backends[&0].serves_service(0));
    assert!(rendered.backends[&0].serves_service(1));
    for _ in 0..2 {
        sweep(&mut state, |report| {
            report.flows_by_service.insert(0, 1);
        });
    }
    assert!(!image(&state).backends[&0].serves_service(0));
    sweep(&mut state, |_| {});
    assert!(image(&state).backends[&0].serves_service(0));
}

#[test]
fn a_renamed_service_keeps_its_number_and_its_flows() {
    let mut state = running(ras());
    let mut config = ras();
    let mut renamed = (*config.services[0]).clone();
    renamed.name = "dtls".to_owned();
    config.services = vec![Arc::new(renamed)];

    state.reload(Arc::new(config), now()).expect("applied");

    assert_eq!(state.service_number(&state.config.services[0]), Some(0));
    assert!(image(&state).backends[&0].serves_service(0));
}

#[test]
fn changes_at_run_time_survive_a_reload_unless_their_backend_is_gone() {
    let mut state = running(ras());
    state.set_admin_state(&name("ras/gw1"), AdminState::Drain, author());
    state.set_admin_state(&name("ras/gw2"), AdminState::Halt, author());
    let mut smaller = ras();
    let mut pool = (*smaller.pools[0]).clone();
    pool.backends.truncate(1);
    smaller.pools = vec![Arc::new(pool)];

    state.reload(Arc::new(smaller), now()).expect("applied");
    state.reload(Arc::new(ras()), now()).expect("applied");

    let image = image(&state);
    assert_eq!(image.backends[&0].admin, DRAIN);
    assert_eq!(image.backends[&1].admin, ACTIVE);
}

// ---- administrators ----

#[test]
fn a_backend_is_named_alone_or_with_its_pool() {
    let state = running(config(
        vec![
            pool(
                "a",
                vec![backend("gw1", "10.0.1.1"), backend("x", "10.0.1.2")],
            ),
            pool("b", vec![backend("gw1", "10.0.2.1")]),
        ],
        Vec::new(),
    ));

    assert_eq!(state.resolve("x"), Ok(name("a/x")));
    assert_eq!(state.resolve("b/gw1"), Ok(name("b/gw1")));
    assert_eq!(
        state.resolve("gw1").expect_err("two").to_string(),
        "several pools have a backend called \"gw1\": name one of a/gw1, b/gw1"
    );
    assert_eq!(
        state.resolve("b/x").expect_err("none").to_string(),
        "no backend is called \"b/x\"; there are a/gw1, a/x, b/gw1"
    );
}

#[test]
fn going_back_to_the_configuration_leaves_no_change_behind() {
    let mut state = running(ras());
    state.set_admin_state(&name("ras/gw1"), AdminState::Halt, author());
    assert!(state.overrides.get(&name("ras/gw1")).is_some());

    state.set_admin_state(&name("ras/gw1"), AdminState::Active, author());

    assert_eq!(state.overrides, Overrides::default());
}

#[test]
fn a_drain_is_done_when_a_later_sweep_finds_neither_flows_nor_clients() {
    let mut state = running(ras());
    sweep(&mut state, |_| {});
    state.set_admin_state(&name("ras/gw1"), AdminState::Drain, author());
    let mut told = Vec::new();
    let mut pass = |state: &mut DesiredState, flows: u32, clients: u32| {
        let before = state.clone();
        sweep(state, |report| {
            report.flows_by_backend.insert(0, flows);
            report.affinity_by_backend.insert(0, clients);
        });
        told.extend(lines(&before, state));
        told.len()
    };

    assert_eq!(
        pass(&mut state, 0, 0),
        0,
        "this sweep may have begun before"
    );
    assert_eq!(pass(&mut state, 2, 1), 0);
    assert_eq!(pass(&mut state, 0, 1), 0);
    assert_eq!(pass(&mut state, 0, 0), 1);
    assert_eq!(pass(&mut state, 0, 0), 1, "it is said once");

    assert_eq!(told, ["drain done: gw1 has no flows and no clients left"]);
}

// ---- the log ----

#[test]
fn a_change_of_health_is_told_once_with_its_reason() {
    let before = first_start(ras());
    let mut up = before.clone();
    probed(&mut up, "ras/gw1", Health::Up);
    assert_eq!(lines(&before, &up), ["gw1 is up: connected"]);

    let mut still = up.clone();
    probed(&mut still, "ras/gw1", Health::Up);
    assert_eq!(lines(&up, &still), [""; 0]);

    let mut down = still.clone();
    probed(&mut down, "ras/gw1", Health::Down);
    let told = changes(&still, &down);
    assert_eq!(told[0].to_string(), "gw1 is down: connection refused");
    assert_eq!(told[0].level(), Level::Warn);
}

#[test]
fn a_first_probe_that_fails_is_told() {
    let before = first_start(ras());
    let mut after = before.clone();
    probed(&mut after, "ras/gw1", Health::Down);

    assert_eq!(lines(&before, &after), ["gw1 is down: connection refused"]);
}

#[test]
fn a_pool_without_an_eligible_backend_is_an_error() {
    let before = running(ras());
    let mut half = before.clone();
    probed(&mut half, "ras/gw1", Health::Down);
    let mut after = half.clone();
    probed(&mut after, "ras/gw2", Health::Down);

    let told = changes(&half, &after);

    assert_eq!(told[1].level(), Level::Error);
    assert_eq!(
        told[1].to_string(),
        "no backend of pool ras is up, active and reachable: new clients of ras-udp are refused"
    );
    let mut again = after.clone();
    probed(&mut again, "ras/gw2", Health::Up);
    assert_eq!(
        lines(&after, &again),
        ["gw2 is up: connected", "pool ras serves again: ras-udp"]
    );
}

#[test]
fn a_pool_whose_new_backend_has_not_been_probed_does_not_serve_again() {
    let mut before = running(ras());
    probed(&mut before, "ras/gw1", Health::Down);
    probed(&mut before, "ras/gw2", Health::Down);
    let mut after = before.clone();
    let mut config = ras();
    let mut pool = (*config.pools[0]).clone();
    pool.backends.push(backend("gw3", "10.0.1.3"));
    config.pools = vec![Arc::new(pool)];

    after.reload(Arc::new(config), now()).expect("applied");

    assert_eq!(lines(&before, &after), [""; 0]);
}

#[test]
fn a_lost_way_and_a_new_one_are_told() {
    let before = running(ras());
    let mut lost = before.clone();
    lost.on_next_hop(
        ip("10.0.1.1"),
        Err("10.0.1.1 does not answer ARP on eth0".to_owned()),
    );
    assert_eq!(
        lines(&before, &lost),
        ["gw1 is unreachable: 10.0.1.1 does not answer ARP on eth0"]
    );

    let mut found = lost.clone();
    found.on_next_hop(ip("10.0.1.1"), Ok(hop()));
    assert_eq!(
        lines(&lost, &found),
        ["gw1 is reached at 02:00:00:00:00:09 on eth0"]
    );
}

#[test]
fn an_administrators_change_is_told_with_name_and_reason() {
    let before = running(ras());
    let mut after = before.clone();
    after.set_admin_state(&name("ras/gw1"), AdminState::Drain, author());

    let told = changes(&before, &after);

    assert_eq!(
        told,
        [Change::Admin {
            backend: name("ras/gw1"),
            state: AdminState::Drain,
            by: Some("root: patch day".to_owned()),
        }]
    );
    assert_eq!(
        told[0].to_string(),
        "gw1 drains: it takes no new clients (root: patch day)"
    );
}

#[test]
fn an_interface_that_is_made_anew_keeps_its_place() {
    let mut state = running(ras());
    state.on_link_gone("eth0");
    assert_eq!(image(&state).settings.interfaces[0].index, 0);

    let mut anew = link();
    anew.index = 9;
    state.on_link(anew);

    assert_eq!(image(&state).settings.interfaces[0].index, 9);
    let mut hop = hop();
    hop.interface = 9;
    state.on_next_hop(ip("10.0.1.1"), Ok(hop));
    assert!(image(&state).backends[&0].serves());
}

#[test]
fn reports_about_what_is_gone_are_ignored() {
    let mut state = running(ras());
    let before = image(&state);

    probed(&mut state, "ras/gone", Health::Down);
    probed_for(&mut state, "ras/gw1", "gone", Health::Down);
    state.on_link(Link {
        name: "eth9".to_owned(),
        index: 9,
        mac: [0; 6],
        mtu: 1500,
    });

    assert_eq!(image(&state), before);
}

#[test]
fn the_latency_of_the_last_success_is_kept() {
    let mut state = running(ras());
    state.on_check(crate::control::event::CheckReport {
        backend: name("ras/gw1"),
        service: None,
        health: Health::Up,
        reason: "connected".to_owned(),
        since: Some(now()),
        probed: true,
        latency: Some(Duration::from_millis(3)),
    });
    probed(&mut state, "ras/gw1", Health::Down);

    let check = &state.backends[&name("ras/gw1")].check;
    assert_eq!(check.latency, Some(Duration::from_millis(3)));
}

#[test]
fn a_range_of_ports_is_told_of_before_it_is_full_when_it_is_and_when_it_has_room_again() {
    let ports = |state: &mut DesiredState, in_use, resting| {
        sweep(state, |report| {
            report.ports_by_slot.insert(0, PortUse { in_use, resting });
        });
    };
    let mut state = running(ras());
    let mut told = Vec::new();
    for (in_use, resting) in [
        (799, 0),
        (500, 300),
        (900, 0),
        (1000, 0),
        (950, 0),
        (699, 0),
    ] {
        let before = state.clone();
        ports(&mut state, in_use, resting);
        for change in changes(&before, &state) {
            told.push((change.level(), change.to_string()));
        }
    }

    let range = "the range of SNAT ports from 10.0.0.1 to 10.0.1.1:443";
    let remedy = "give more node.snat_addresses, or more backends";
    assert_eq!(
        told,
        [
            (
                Level::Warn,
                format!("{range} is nearly full: 800 of 1000 (80%); {remedy}")
            ),
            (
                Level::Error,
                format!("{range} is full: 1000 of 1000 (100%); new flows are refused; {remedy}")
            ),
            (
                Level::Info,
                format!("{range} has room again: 699 of 1000 (69%)")
            ),
        ]
    );
}

#[test]
fn a_refused_flow_makes_a_range_full_that_has_few_ports_left_and_no_other() {
    let mut before = running(ras());
    sweep(&mut before, |report| {
        for (slot, in_use) in [(0, 990), (1, 500)] {
            report
                .ports_by_slot
                .insert(slot, PortUse { in_use, resting: 0 });
        }
    });
    let mut after = before.clone();
    after.on_refusals(Refusals {
        ports: true,
        ..Refusals::default()
    });

    let told = changes(&before, &after);

    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0].level(), Level::Error);
    assert!(told[0].to_string().contains("990 of 1000"), "{}", told[0]);
}

#[test]
fn a_full_flow_table_is_an_error_and_a_full_affinity_table_a_warning() {
    let before = running(ras());
    let mut after = before.clone();
    after.on_refusals(Refusals {
        flows: true,
        affinity: true,
        ports: false,
    });

    let told: Vec<_> = changes(&before, &after)
        .iter()
        .map(|change| (change.level(), change.to_string()))
        .collect();

    assert_eq!(
        told,
        [
            (
                Level::Error,
                "the flow table is full: 0 of 64000 (0%); new flows are refused; raise \
                 node.max_flows"
                    .to_owned()
            ),
            (
                Level::Warn,
                "the affinity table is full: 0 of 1024 (0%); new clients are served, but not \
                 remembered; raise node.max_affinity"
                    .to_owned()
            ),
        ]
    );
}
