//! What valid files mean.

use std::{collections::BTreeSet, time::Duration};

use super::{super::model::*, PLAIN, SMALL, valid};

#[test]
fn a_small_file_has_every_documented_default() {
    let config = valid(SMALL);

    assert_eq!(
        config.node,
        Node {
            interfaces: vec!["eth0".to_owned()],
            xdp_mode: XdpMode::Auto,
            snat_addresses: Vec::new(),
            snat_ports: PortRange {
                first: 20_000,
                last: 32_767
            },
            max_flows: 262_144,
            max_affinity: 262_144,
            flow_timeout: Duration::from_secs(300),
            flow_timeout_unreplied: Duration::from_secs(30),
            workers: None,
            forget_on_stop: false,
        }
    );
    assert_eq!(
        config.log,
        Log {
            level: LogLevel::Info,
            format: LogFormat::Text,
            access: AccessLog::Off
        }
    );
    assert_eq!(config.admin.socket.to_str(), Some("/run/vipd/vipd.sock"));
    assert_eq!(
        (config.admin.mode, config.admin.group.clone()),
        (0o660, None)
    );
    assert_eq!(config.state.directory.to_str(), Some("/var/lib/vipd"));
    let vip = Vip {
        address: "10.0.0.1".parse().expect("an address"),
        interface: None,
        manage: true,
        announce: true,
    };
    assert_eq!(config.vips, [vip]);
    let pool = &config.pools[0];
    assert_eq!(
        (pool.algorithm, pool.slow_start),
        (Algorithm::SourceHash, Duration::ZERO)
    );
    assert_eq!(pool.health.probe, ProbeSpec::Connect);
    assert_eq!(
        (pool.health.interval, pool.health.timeout),
        (Duration::from_secs(30), Duration::from_secs(5))
    );
    assert_eq!((pool.health.rise, pool.health.fall), (2, 3));
    let backend = &pool.backends[0];
    assert_eq!(
        (backend.name.as_str(), backend.weight, backend.state),
        ("10.0.0.11", 100, AdminState::Active)
    );
    let service = &config.services[0];
    assert_eq!(service.persistence.group, "web");
    assert_eq!(
        (
            service.persistence.ipv4_prefix,
            service.persistence.ipv6_prefix
        ),
        (32, 128)
    );
    assert_eq!(service.limits.header_size_bytes, 72 * 1024);
    assert_eq!(
        (
            service.limits.new_flows_per_second,
            service.limits.new_flows_per_source
        ),
        (0, 1000)
    );
    assert!(service.allow.is_empty() && service.block.is_empty());
    assert_eq!(service.timeouts.tunnel, Duration::from_secs(3600));
    assert_eq!(config.warnings, []);
}

#[test]
fn the_documented_site_means_what_it_says() {
    let config = valid(PLAIN);

    let names: Vec<&str> = config
        .services
        .iter()
        .map(|service| service.name.as_str())
        .collect();
    assert_eq!(
        names,
        [
            "RAS-SG-HTTPS",
            "RAS-Web-HTTP",
            "RAS-SG-UDP",
            "AppsAnywhere",
            "AppsAnywhere-redirect"
        ]
    );
    let ways: Vec<String> = config
        .services
        .iter()
        .map(|service| service.forwarding.to_string())
        .collect();
    assert_eq!(ways, ["tcp", "tcp", "snat", "http", "redirect"]);
    let timeouts: Vec<u64> = config
        .services
        .iter()
        .map(|service| service.persistence.timeout.as_secs())
        .collect();
    assert_eq!(timeouts[..4], [360, 360, 21_600, 1800]);
    assert_eq!(config.vips.len(), 2, "one for each address");
    assert_eq!(config.pools[1].backends[2].state, AdminState::Halt);
    let own = config.services[1]
        .health
        .as_ref()
        .expect("a check of its own");
    assert_eq!(own.probe, ProbeSpec::Connect);
    let ProbeSpec::Http(probe) = &config.pools[0].health.probe else {
        panic!("an HTTPS probe")
    };
    assert_eq!(
        (probe.path.as_str(), &probe.expect_status),
        ("/RASHTML5Gateway", &BTreeSet::from([200]))
    );
    assert_eq!(probe.tls, Some(Verify::None));
    let ProbeSpec::Http(probe) = &config.pools[1].health.probe else {
        panic!("an HTTPS probe")
    };
    assert_eq!(
        probe.tls,
        Some(Verify::System),
        "verified unless the file says otherwise"
    );
    let warned: Vec<&str> = config
        .warnings
        .iter()
        .map(|warning| warning.place.as_str())
        .collect();
    assert_eq!(warned, ["pool[0].health.verify"]);
}

#[test]
fn a_transparent_service_is_told_what_it_needs_of_the_network() {
    let transparent = SMALL
        .replace("protocol = \"udp\"", "protocol = \"tcp\"")
        .replace(
            "forwarding = \"snat\"",
            "forwarding = \"tcp\"\ntransparent = true",
        );

    let config = valid(&transparent);

    let [warning] = &config.warnings[..] else {
        panic!("{:?}", config.warnings)
    };
    assert_eq!(warning.place, "service[0].transparent");
    for command in [
        "nft add table",
        "ip rule add fwmark 118",
        "ip -6 route add local default",
    ] {
        assert!(warning.message.contains(command), "{}", warning.message);
    }
}

#[test]
fn a_limit_of_zero_is_no_limit_and_only_snat_has_one_by_default() {
    let unlimited = SMALL.replace("pool =", "limits = { new_flows_per_source = 0 }\npool =");
    assert_eq!(valid(&unlimited).services[0].limits.new_flows_per_source, 0);

    let by_service = valid(PLAIN);
    let by_service = by_service.services.iter();
    let limits: Vec<u32> = by_service
        .map(|service| service.limits.new_flows_per_source)
        .collect();
    assert_eq!(limits, [0, 0, 1000, 0, 0]);
}

#[test]
fn lists_of_clients_keep_their_order() {
    let text = SMALL.replace(
        "pool =",
        "allow = [\"10.0.0.0/8\", \"10.1.2.3\"]\nblock = [\"2001:db8::/32\", \"10.1.0.0/16\"]\npool =",
    );

    let service = valid(&text).services[0].clone();

    let shown =
        |prefixes: &[Prefix]| -> Vec<String> { prefixes.iter().map(ToString::to_string).collect() };
    assert_eq!(shown(&service.allow), ["10.0.0.0/8", "10.1.2.3/32"]);
    assert_eq!(shown(&service.block), ["2001:db8::/32", "10.1.0.0/16"]);
}

#[test]
fn a_monitor_service_listens_nowhere_and_takes_no_address() {
    let config = valid(
        r#"
        [node]
        interfaces = ["eth0"]
        [[pool]]
        name = "paging"
        backends = ["10.0.0.11"]
        [[service]]
        name = "watched"
        forwarding = "monitor"
        pool = "paging"
        "#,
    );

    assert!(config.vips.is_empty());
    assert!(config.services[0].vip.is_unspecified());
    assert_eq!(config.services[0].port, 0);
}

#[test]
fn a_probe_never_outlasts_its_interval_and_an_unreplied_flow_no_other() {
    let text = SMALL
        .replace(
            "backends",
            "health = { type = \"connect\", interval = \"1s\" }\nbackends",
        )
        .replace("interfaces", "flow_timeout = \"10s\"\ninterfaces");

    let config = valid(&text);

    assert_eq!(config.pools[0].health.timeout, Duration::from_secs(1));
    assert_eq!(config.node.flow_timeout_unreplied, Duration::from_secs(10));
}

#[test]
fn status_classes_and_bytes_in_hexadecimal_are_read() {
    let with_health = |health: &str| {
        let config = valid(&SMALL.replace("backends", &format!("health = {health}\nbackends")));
        config.pools[0].health.probe.clone()
    };

    let ProbeSpec::Http(probe) = with_health(r#"{ type = "http", expect_status = ["2xx", 401] }"#)
    else {
        panic!("an HTTP probe")
    };
    assert_eq!(probe.expect_status.len(), 101);
    let probe = with_health(r#"{ type = "udp", send = "hex:00ff", expect = "pong" }"#);
    assert_eq!(
        probe,
        ProbeSpec::Udp {
            send: vec![0, 255],
            expect: Some(b"pong".to_vec())
        }
    );
}

#[test]
fn what_is_legal_and_odd_is_a_warning() {
    let warned = |old: &str, new: &str| -> Vec<(String, String)> {
        let config = valid(&SMALL.replacen(old, new, 1));
        config
            .warnings
            .into_iter()
            .map(|warning| (warning.place, warning.message))
            .collect()
    };
    let one = |place: &str, message: &str| vec![(place.to_owned(), message.to_owned())];

    assert_eq!(
        warned(
            "[\"10.0.0.11\"]",
            "[{ address = \"10.0.0.11\", weight = 0 }]"
        ),
        one(
            "pool[0].backends",
            "every weight is 0, so no client is ever sent to this pool"
        )
    );
    assert_eq!(
        warned(
            "[node]",
            "[[pool]]\nname = \"spare\"\nbackends = [\"10.0.0.9\"]\n[node]"
        ),
        one(
            "pool[0]",
            "no service uses pool \"spare\"; it is probed all the same"
        )
    );
    assert_eq!(
        warned("pool =", "allow = [\"2001:db8::/32\"]\npool ="),
        one(
            "service[0].allow",
            "has no IPv4 prefix, and \"10.0.0.1\" is IPv4: every client is refused"
        )
    );
    assert_eq!(
        warned("[node]", "[[vip]]\naddress = \"10.0.0.9\"\n[node]"),
        one(
            "vip[0]",
            "no service uses 10.0.0.9; the address is held all the same"
        )
    );
}

#[test]
fn host_names_are_lower_case_and_sizes_have_units() {
    let text = SMALL.replace(
        "port = 53\nprotocol = \"udp\"\nforwarding = \"snat\"",
        "port = 443\nprotocol = \"tcp\"\nforwarding = \"http\"\n\
         tls = { certificates = [{ certificate = \"/c.pem\", key = \"/c.key\" }], min_version = \"1.3\" }\n\
         routes = [{ host = \"*.Uni.EDU\", pool = \"web\" }]\n\
         limits = { header_size = \"16KiB\", body_size = \"1GiB\" }\n\
         persistence = { key = \"cookie\", timeout = \"1h\" }\n\
         trusted_proxies = [\"10.0.0.0/8\", \"2001:db8::1\"]\n\
         errors = { \"503\" = \"/sorry.html\" }",
    );

    let service = valid(&text).services[0].clone();

    assert_eq!(
        service.routes,
        [Route {
            host: "*.uni.edu".to_owned(),
            pool: "web".to_owned()
        }]
    );
    assert_eq!(service.limits.header_size_bytes, 16 * 1024);
    assert_eq!(service.limits.body_size_bytes, 1 << 30);
    assert_eq!(service.persistence.cookie.as_deref(), Some("vipd"));
    assert_eq!(
        service.tls.as_ref().map(|tls| tls.min_version),
        Some(TlsVersion::Tls13)
    );
    let proxies: Vec<String> = service
        .trusted_proxies
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(proxies, ["10.0.0.0/8", "2001:db8::1/128"]);
    assert_eq!(service.errors, [(503, "/sorry.html".into())]);
}
