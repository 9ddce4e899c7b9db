//! Backends that are clients of the VIP themselves.

use std::{collections::BTreeSet, net::IpAddr};

use lb_tests::lab::{Daemon, Family, Gateways, Lab, LabBuilder};

/// Each flow is chosen by itself.
const NO_AFFINITY: &str = r#"persistence = { key = "none" }"#;

#[test]
fn a_backend_is_answered_by_itself_and_by_the_others() {
    for (family, arms) in sites() {
        let lab = arms.build();
        let _gateways = Gateways::start(&lab);
        let configuration = family.configuration_with(lab.gateways(), NO_AFFINITY);
        let daemon = Daemon::start(&lab, &configuration);
        let gateway = lab.gateway(1);
        let ours = lab.address_towards_backends(family.address(gateway));
        lead_to_the_vip(&lab, family, ours);

        let mut met = BTreeSet::new();
        for number in 0..40 {
            let client = gateway.udp(family.vip(443));
            let answer = client.ask(&format!("hello {number}"));
            assert_eq!(answer.source.ip(), ours);
            // In pieces, both ways.
            let long = format!("{number}{}", "x".repeat(4000));
            assert_eq!(client.ask(&long).source, answer.source);
            met.insert(answer.backend);
        }

        let both = ["gateway1", "gateway2"].map(str::to_owned);
        assert_eq!(met, both.into());
        assert_eq!(daemon.drops(), []);
    }
}

#[test]
fn a_backend_that_is_the_only_one_is_answered_by_itself() {
    for (family, arms) in sites() {
        let lab = arms.gateways(1).build();
        let _gateways = Gateways::start(&lab);
        let _daemon = Daemon::start(&lab, &family.configuration(lab.gateways()));
        let gateway = lab.gateway(1);
        let ours = lab.address_towards_backends(family.address(gateway));
        lead_to_the_vip(&lab, family, ours);

        let answer = gateway.udp(family.vip(443)).ask("hello");

        assert_eq!(
            (answer.backend.as_str(), answer.source.ip()),
            ("gateway1", ours)
        );
    }
}

fn sites() -> Vec<(Family, LabBuilder)> {
    Family::BOTH
        .into_iter()
        .flat_map(|family| [(family, Lab::one_arm()), (family, Lab::two_arm())])
        .collect()
}

/// Gives the gateways of a two-arm site a way to the VIP, which is not on their link.
fn lead_to_the_vip(lab: &Lab, family: Family, balancer: IpAddr) {
    if lab.balancer_interfaces().len() == 1 {
        return;
    }
    let route = format!("route add {} via {balancer}", family.vip(443).ip());
    for gateway in lab.gateways() {
        gateway.net().ip(&[&route]);
    }
}
