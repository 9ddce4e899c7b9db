//! What is valid and cannot be run yet.

use super::super::{
    super::{Stages, parse_stages, require_built},
    PLAIN, SMALL, faults, valid,
};

#[test]
fn everything_but_udp_is_refused_by_name() {
    let errors = require_built(&valid(PLAIN)).expect_err("TCP and HTTP are not built");

    assert_eq!(
        errors.to_string(),
        "4 faults\n  \
         service[0] \"RAS-SG-HTTPS\": forwarding = \"tcp\" is not built yet; remove the service or use \"monitor\"\n  \
         service[1] \"RAS-Web-HTTP\": forwarding = \"tcp\" is not built yet; remove the service or use \"monitor\"\n  \
         service[3] \"AppsAnywhere\": forwarding = \"http\" is not built yet; remove the service or use \"monitor\"\n  \
         service[4] \"AppsAnywhere-redirect\": forwarding = \"redirect\" is not built yet; remove the service"
    );
    require_built(&valid(SMALL)).expect("UDP is built");
}

#[test]
fn what_xdp_cannot_do_yet_is_refused_by_name() {
    let refused = |old: &str, new: &str| {
        faults(require_built(&valid(&SMALL.replacen(old, new, 1))).map(|()| valid(SMALL)))
    };

    assert_eq!(
        refused("\"udp\"", "\"tcp\""),
        [
            "service[0] \"dns\": forwarding = \"snat\" with protocol = \"tcp\" is not built yet; remove the service or use \"monitor\""
        ]
    );
    assert_eq!(
        refused(
            "backends",
            "algorithm = \"round-robin\"\nslow_start = \"30s\"\nbackends"
        ),
        [
            "pool[0] \"web\": algorithm = \"round-robin\" is not built yet for \"snat\"; write \"source-hash\"",
            "pool[0] \"web\": slow_start = \"30s\" is not built yet for \"snat\"; remove it",
        ]
    );
    assert_eq!(refused("\"snat\"", "\"monitor\""), [""; 0]);
}

#[test]
fn a_preset_that_is_not_built_says_how_to_keep_the_rest() {
    let site = "[node]\ninterfaces = [\"eth0\"]\n[[site]]\npreset = \"parallels-ras\"\nvip = \"10.0.0.1\"\nbackends = [\"10.0.0.11\"]\n";

    let shown = faults(parse_stages(site, Stages::Runnable, |_| {}));

    let remedy = "write out the preset with `vipd config expand`, then remove the service or use \"monitor\"";
    assert_eq!(
        shown,
        [
            format!(
                "site[0] > service \"parallels-ras-https\" (line 3): forwarding = \"tcp\" is not built yet; {remedy}"
            ),
            format!(
                "site[0] > service \"parallels-ras-http\" (line 3): forwarding = \"tcp\" is not built yet; {remedy}"
            ),
        ]
    );
}

#[test]
fn lists_of_clients_are_for_udp_only() {
    let listed = |forwarding: &str| {
        let text = SMALL
            .replace("\"udp\"", "\"tcp\"")
            .replace("\"snat\"", forwarding)
            .replace("pool =", "block = [\"10.9.0.0/16\"]\npool =");
        faults(require_built(&valid(&text)).map(|()| valid(SMALL)))
    };

    assert_eq!(
        listed("\"tcp\""),
        [
            "service[0] \"dns\": forwarding = \"tcp\" is not built yet; remove the service or use \"monitor\"",
            "service[0] \"dns\": allow and block are built for \"snat\" only; remove them",
        ]
    );
    let forwarded = SMALL.replace(
        "pool =",
        "allow = [\"10.0.0.0/8\"]\nblock = [\"10.9.0.0/16\"]\n\
         limits = { new_flows_per_second = 9, new_flows_per_source = 3 }\npool =",
    );
    require_built(&valid(&forwarded)).expect("limits and lists are built");
}
