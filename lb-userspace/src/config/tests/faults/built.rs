//! What is valid and cannot be run yet.

use super::super::{
    super::{Stages, parse_stages, require_built},
    PLAIN, PRESETS, SMALL, faults, valid,
};

#[test]
fn every_way_of_forwarding_is_built() {
    for text in [PLAIN, PRESETS, SMALL] {
        require_built(&valid(text)).expect("all of it is built");
    }
}

#[test]
fn what_xdp_cannot_do_yet_is_refused_by_name() {
    let refused = |old: &str, new: &str| {
        faults(require_built(&valid(&SMALL.replacen(old, new, 1))).map(|()| valid(SMALL)))
    };

    assert_eq!(
        refused("\"udp\"", "\"tcp\""),
        [
            "service[0] \"dns\": forwarding = \"snat\" with protocol = \"tcp\" is not built yet; use \"tcp\""
        ]
    );
    assert_eq!(
        refused(
            "backends",
            "algorithm = \"round-robin\"\nslow_start = \"30s\"\nbackends"
        ),
        [
            "pool[0] \"web\": algorithm = \"round-robin\" is not built yet for \"snat\"; write \"source-hash\""
        ]
    );
    assert_eq!(refused("\"snat\"", "\"monitor\""), [""; 0]);
}

#[test]
fn pools_of_the_proxy_choose_by_every_algorithm() {
    for algorithm in ["source-hash", "round-robin", "least-connections"] {
        let text = SMALL
            .replace("\"udp\"", "\"tcp\"")
            .replace("\"snat\"", "\"tcp\"")
            .replace(
                "backends",
                &format!("algorithm = \"{algorithm}\"\nbackends"),
            );
        require_built(&valid(&text)).expect(algorithm);
    }
}

#[test]
fn a_fault_of_a_file_names_its_line() {
    let text = SMALL.replace("backends", "algorithm = \"least-connections\"\nbackends");

    let shown = faults(parse_stages(&text, Stages::Runnable, |_| {}));

    assert_eq!(
        shown,
        [
            "pool[0] \"web\" (line 5): algorithm = \"least-connections\" is not built yet for \"snat\"; write \"source-hash\""
        ]
    );
}

#[test]
fn lists_of_clients_are_for_every_service_that_clients_come_to() {
    for (protocol, forwarding) in [("udp", "snat"), ("tcp", "tcp")] {
        let text = SMALL
            .replace("\"udp\"", &format!("\"{protocol}\""))
            .replace("\"snat\"", &format!("\"{forwarding}\""))
            .replace(
                "pool =",
                "allow = [\"10.0.0.0/8\"]\nblock = [\"10.9.0.0/16\"]\npool =",
            );
        require_built(&valid(&text)).expect(forwarding);
    }
    let limited = SMALL.replace(
        "pool =",
        "limits = { new_flows_per_second = 9, new_flows_per_source = 3 }\npool =",
    );
    require_built(&valid(&limited)).expect("limits are built");
}
