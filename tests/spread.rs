//! How many clients each backend gets.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use lb_tests::lab::{
    Configuration, Daemon, Gateways, Lab,
    configuration::{HEALTH, POOL, SERVICE, SIX_HOURS, backend_with},
    eventually::eventually,
    site::{campus_v4, vip},
};

#[test]
fn a_thousand_clients_are_spread_by_weight() {
    let lab = Lab::one_arm().gateways(3).campus().build();
    let _gateways = Gateways::start(&lab);
    let weights = [50, 150, 200];
    let backends: Vec<String> = lab
        .gateways()
        .iter()
        .zip(weights)
        .map(|(gateway, weight)| backend_with(gateway, &format!("weight = {weight}")))
        .collect();
    let configuration =
        Configuration::new()
            .pool(POOL, &backends, HEALTH)
            .udp(SERVICE, vip(443), POOL, SIX_HOURS);
    let daemon = Daemon::start(&lab, &configuration);
    let sources: Vec<SocketAddr> = (1..=1000).map(campus_v4).collect();

    let mut met = BTreeMap::<String, u32>::new();
    for client in lab.campus().udp_from_each(&sources, vip(443)) {
        *met.entry(client.backend()).or_default() += 1;
    }

    // A thousand clients cannot show a share better than a thousand throws of a die do: four
    // standard deviations of the most uneven share are 6 percent of all.
    for (gateway, weight) in lab.gateways().iter().zip(weights) {
        let expected = 1000 * weight / weights.iter().sum::<u32>();
        let got = met[gateway.name()];
        assert!(
            got.abs_diff(expected) <= 60,
            "weights {weights:?} gave {met:?}"
        );
    }
    eventually(
        Duration::from_secs(10),
        "every flow is counted where it is",
        || {
            let status = daemon.status();
            let counted = |name: &str| status.backend(name).flows() == u64::from(met[name]);
            status.flows() == 1000 && lab.gateways().iter().all(|host| counted(host.name()))
        },
    );
}

#[test]
fn a_backend_of_weight_zero_gets_no_clients() {
    let lab = Lab::one_arm().gateways(2).campus().build();
    let _gateways = Gateways::start(&lab);
    let backends = [
        backend_with(lab.gateway(1), "weight = 0"),
        backend_with(lab.gateway(2), "weight = 1"),
    ];
    let configuration =
        Configuration::new()
            .pool(POOL, &backends, HEALTH)
            .udp(SERVICE, vip(443), POOL, SIX_HOURS);
    let _daemon = Daemon::start(&lab, &configuration);
    let sources: Vec<SocketAddr> = (1..=50).map(campus_v4).collect();

    for client in lab.campus().udp_from_each(&sources, vip(443)) {
        assert_eq!(client.backend(), "gateway2");
    }
}

#[test]
fn a_backup_serves_only_while_nobody_else_does() {
    let lab = Lab::one_arm().gateways(2).build();
    let mut gateways = Gateways::start(&lab);
    let backends = [
        backend_with(lab.gateway(1), "backup = false"),
        backend_with(lab.gateway(2), "backup = true"),
    ];
    let configuration = Configuration::new().pool(POOL, &backends, HEALTH).udp(
        SERVICE,
        vip(443),
        POOL,
        r#"persistence = { key = "none" }"#,
    );
    let daemon = Daemon::start(&lab, &configuration);

    assert_eq!(lab.client(1).udp(vip(443)).backend(), "gateway1");
    gateways.named("gateway1").die();
    eventually(Duration::from_secs(10), "gateway1 is found down", || {
        !daemon.status().backend("gateway1").is_up()
    });
    assert_eq!(lab.client(1).udp(vip(443)).backend(), "gateway2");
}
