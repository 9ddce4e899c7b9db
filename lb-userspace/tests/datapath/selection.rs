//! The choice for a new client: the pool's weighted Maglev table at the hash of its address.

use lb_common::{
    affinity::lifetime_s,
    backend::{DOWN, DRAIN, HALT},
    hash,
    pool::{MAGLEV_EMPTY, Pool},
    verdict::DropReason,
};
use lb_userspace::dataplane::{Dataplane as _, image::MapOp};

use crate::harness::{
    plan::{
        AFFINITY_TIMEOUT_S, CLIENT, FLOW_TIMEOUT_S, GATEWAY1, GATEWAY1_V6, GATEWAY2, GATEWAY2_V6,
        POOL, POOL6, SERVICE, VIP, VIP6,
    },
    site::{Site, Verdict, from_client, ip},
};

/// A site whose range has room for the flows of a thousand clients with one backend.
fn wide(test: impl FnOnce(&mut Site) + Send) {
    Site::sized(
        |options| {
            options.snat_port_count = 4096;
            options.max_flows = 8 * 4096;
        },
        test,
    );
}

fn clients(count: u32) -> impl Iterator<Item = String> {
    (0..count).map(|client| {
        let [_, _, high, low] = client.to_be_bytes();
        format!("198.18.{high}.{low}:40000")
    })
}

fn clients6(count: u32) -> impl Iterator<Item = String> {
    (0..count).map(|client| format!("[2001:db8:{client:x}::{client:x}]:40000"))
}

#[test]
fn a_thousand_clients_go_where_the_daemon_would_send_them() {
    wide(|site| {
        for client in clients(1000) {
            let expected = site.in_table(POOL, hash::source(&ip(&client)));
            assert_eq!(
                site.gateway_of(&from_client(&client, VIP)),
                expected,
                "{client}"
            );
        }
        for client in clients6(1000) {
            let expected = site.in_table(POOL6, hash::source(&ip(&client)));
            assert_eq!(
                site.gateway_of(&from_client(&client, VIP6)),
                expected,
                "{client}"
            );
        }
    });
}

#[test]
fn clients_spread_by_weight() {
    wide(|site| {
        for (weights, expected) in [
            ([100, 100], 0.5),
            ([300, 100], 0.75),
            ([1, 9], 0.1),
            ([100, 0], 1.0),
        ] {
            site.shares(&[(GATEWAY1_V6, weights[0]), (GATEWAY2_V6, weights[1])]);
            site.settings(|settings| settings.quarantine_s = 0);
            let first = clients6(1000)
                .filter(|client| site.gateway_of(&from_client(client, VIP6)) == GATEWAY1_V6)
                .count();

            // Four standard deviations of a thousand throws at most.
            let share = first as f64 / 1000.0;
            let bound = 4.0 * f64::sqrt(expected * (1.0 - expected) / 1000.0);
            assert!((share - expected).abs() <= bound, "{share} for {weights:?}");
            forget_everybody(site);
        }
    });
}

/// Ends every flow, and lets the daemon forget every client.
fn forget_everybody(site: &mut Site) {
    site.pins
        .age(lifetime_s(AFFINITY_TIMEOUT_S, FLOW_TIMEOUT_S) + 1);
    site.sweep();
    site.sweep();
    let report = site.sweep_clients();
    assert_eq!(report.affinity_entries, 0);
}

#[test]
fn without_an_eligible_backend_the_packet_is_dropped() {
    let packet = from_client(CLIENT, VIP);
    let dropped = Verdict::Dropped(DropReason::NoEligibleBackend);
    Site::with(|site| {
        site.backend(GATEWAY1, |backend| backend.health = DOWN);
        site.backend(GATEWAY2, |backend| backend.admin = HALT);

        assert_eq!(site.send(&packet), dropped);
        assert_eq!(site.send(&packet), dropped);

        assert_eq!(site.service_counters(SERVICE).dropped, 2);
        assert_eq!(site.pins.used(), [], "nothing is left behind");
        assert_eq!(site.pins.affinity("192.0.2.10", 7), None);
        site.backend(GATEWAY2, |backend| backend.admin = 0);
        assert_eq!(site.gateway_of(&packet), GATEWAY2, "it serves again");
    });
}

#[test]
fn a_pool_without_members_serves_nobody() {
    Site::with(|site| {
        let pool = site.kernel.image().expect("an image").pools[&POOL].pool;
        let table = vec![MAGLEV_EMPTY; lb_common::limits::MAGLEV_SLOTS as usize];
        let half = 1 - pool.half;
        site.apply(MapOp::Table {
            pool: POOL,
            half,
            table: table.into(),
        });
        site.apply(MapOp::Pool(
            POOL,
            Box::new(Pool {
                half,
                eligible: 0,
                member_count: 0,
                ..pool
            }),
        ));

        assert_eq!(
            site.send(&from_client(CLIENT, VIP)),
            Verdict::Dropped(DropReason::NoEligibleBackend)
        );
    });
}

#[test]
fn a_table_that_is_older_than_a_backend_s_state_falls_to_the_members() {
    wide(|site| {
        let changes: [fn(&mut lb_common::backend::Backend); 5] = [
            |backend| backend.health = DOWN,
            |backend| backend.admin = HALT,
            |backend| backend.admin = DRAIN,
            |backend| backend.reachable = 0,
            |backend| backend.full = 1,
        ];
        for (turn, change) in (0..).zip(changes) {
            let original = site.kernel.image().expect("an image").backends[&GATEWAY1.number];
            site.backend(GATEWAY1, change);
            for host in 0..50 {
                let client = format!("203.0.{turn}.{host}:40000");

                assert_eq!(
                    site.gateway_of(&from_client(&client, VIP)),
                    GATEWAY2,
                    "{turn}"
                );
            }
            site.backend(GATEWAY1, |backend| *backend = original);
        }
    });
}

#[test]
fn a_backend_that_left_the_pool_is_not_chosen_by_an_old_table() {
    Site::with(|site| {
        site.only(GATEWAY1);
        site.backend(GATEWAY1, |backend| backend.pool = 50);

        assert_eq!(site.gateway_of(&from_client(CLIENT, VIP)), GATEWAY2);
    });
}

#[test]
fn a_new_table_is_switched_to_at_once() {
    Site::with(|site| {
        site.service(SERVICE, |service| service.flags = 0);
        for (port, gateway) in (1..).zip([GATEWAY1, GATEWAY2, GATEWAY1, GATEWAY2]) {
            site.only(gateway);

            let packet = from_client(CLIENT, VIP).port(port);
            assert_eq!(site.gateway_of(&packet), gateway);
        }
    });
}
