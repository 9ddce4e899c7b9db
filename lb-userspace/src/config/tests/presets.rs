//! The presets against what the vendors ask for, and the texts that are made from them.

use std::{collections::BTreeSet, time::Duration};

use proptest::prelude::*;

use super::{
    super::{InitOptions, Preset, expand, init, model::*, parse, require_built},
    PLAIN, PRESETS, SMALL, faults, valid,
};

/// A site of each preset, each with all that it needs.
fn site(preset: Preset) -> String {
    let web = "vip = \"10.0.0.1\"\nfqdn = \"portal.uni.edu\"\ncertificate = \"/c.pem\"\nkey = \"/c.key\"\n";
    let keys = match preset {
        Preset::ParallelsRas => "vip = \"10.0.0.1\"\n",
        Preset::CloudpagingPaging => "",
        Preset::AppsAnywhere | Preset::CloudpagingAdmin | Preset::CloudpagingPortal => web,
    };
    format!(
        "[node]\ninterfaces = [\"eth0\"]\n[[site]]\npreset = \"{}\"\nbackends = [\"10.0.0.11\", \"10.0.0.12\"]\n{keys}",
        preset.name()
    )
}

fn probe(config: &Config) -> &HttpProbe {
    match &config.pools[0].health.probe {
        ProbeSpec::Http(probe) => probe,
        other => panic!("{other:?}"),
    }
}

/// Returns the services as (name, port, protocol, forwarding, persistence in minutes).
fn services(config: &Config) -> Vec<(String, u16, String, String, u64)> {
    config
        .services
        .iter()
        .map(|service| {
            (
                service.name.clone(),
                service.port,
                service.protocol.to_string(),
                service.forwarding.to_string(),
                service.persistence.timeout.as_secs() / 60,
            )
        })
        .collect()
}

fn row(
    name: &str,
    port: u16,
    protocol: &str,
    forwarding: &str,
    minutes: u64,
) -> (String, u16, String, String, u64) {
    (
        name.to_owned(),
        port,
        protocol.to_owned(),
        forwarding.to_owned(),
        minutes,
    )
}

#[test]
fn every_pool_is_weighted_equally_and_asked_every_thirty_seconds() {
    for preset in Preset::ALL {
        let config = valid(&site(preset));

        assert_eq!(config.pools.len(), 1);
        assert!(
            config.pools[0]
                .backends
                .iter()
                .all(|backend| backend.weight == 100)
        );
        assert_eq!(config.pools[0].health.interval, Duration::from_secs(30));
        assert_eq!(probe(&config).expect_status, BTreeSet::from([200]));
    }
}

#[test]
fn every_health_page_and_its_text_are_the_vendors() {
    let table = [
        (Preset::ParallelsRas, 443, "/RASHTML5Gateway", None),
        (Preset::AppsAnywhere, 443, "/healthcheck", None),
        (
            Preset::CloudpagingAdmin,
            443,
            "/jukeboxserver/do/license/token/renew.tok?msid=ping",
            Some("Token service is ready."),
        ),
        (
            Preset::CloudpagingPortal,
            443,
            "/jukeboxdrm/ping.do",
            Some("Enterprise service is ready."),
        ),
        (
            Preset::CloudpagingPaging,
            80,
            "/jukeboxserver/stream/client.do?msid=ping",
            Some("Stream service is ready."),
        ),
    ];
    for (preset, port, path, body) in table {
        let config = valid(&site(preset));

        let probe = probe(&config);
        assert_eq!(config.pools[0].health.port, Some(port), "{preset:?}");
        assert_eq!(
            (probe.path.as_str(), probe.expect_body.as_deref()),
            (path, body),
            "{preset:?}"
        );
        assert_eq!(probe.tls.is_some(), port == 443, "{preset:?}");
    }
}

#[test]
fn ras_has_three_services_that_share_affinity_with_a_timeout_each() {
    let config = valid(&site(Preset::ParallelsRas));

    assert_eq!(
        services(&config),
        [
            row("parallels-ras-https", 443, "tcp", "tcp", 6),
            row("parallels-ras-http", 80, "tcp", "tcp", 6),
            row("parallels-ras-udp", 443, "udp", "snat", 360),
        ]
    );
    let groups: BTreeSet<&str> = config
        .services
        .iter()
        .map(|service| service.persistence.group.as_str())
        .collect();
    assert_eq!(groups, BTreeSet::from(["parallels-ras"]));
    assert_eq!(
        probe(&config).tls,
        Some(Verify::None),
        "gateways sign their certificates themselves"
    );
    assert_eq!(
        config.services[1]
            .health
            .as_ref()
            .map(|health| &health.probe),
        Some(&ProbeSpec::Connect)
    );
}

#[test]
fn ras_without_udp_and_with_tls_that_ends_here() {
    let without = valid(&(site(Preset::ParallelsRas) + "udp = false\n"));
    assert!(
        without
            .services
            .iter()
            .all(|service| service.protocol == Protocol::Tcp)
    );

    let bridge = site(Preset::ParallelsRas)
        + "mode = \"bridge\"\ncertificate = \"/c.pem\"\nkey = \"/c.key\"\n";
    let config = valid(&bridge);
    assert_eq!(config.services[0].forwarding, Forwarding::Http);
    assert!(config.services[0].tls.is_some());
    assert_eq!(
        config.services[2].forwarding,
        Forwarding::Snat,
        "UDP stays its own service"
    );
    assert!(
        config
            .warnings
            .iter()
            .any(|warning| warning.place == "site[0].mode"),
        "{:?}",
        config.warnings
    );
    assert!(
        expand(&bridge)
            .expect("valid")
            .contains("# bridging TLS on TCP leaves UDP alone")
    );
}

#[test]
fn the_web_products_keep_a_client_for_thirty_minutes_and_redirect_port_80() {
    for preset in [
        Preset::AppsAnywhere,
        Preset::CloudpagingAdmin,
        Preset::CloudpagingPortal,
    ] {
        let config = valid(&site(preset));

        let name = preset.name();
        assert_eq!(
            services(&config)[..1],
            [row(&format!("{name}-https"), 443, "tcp", "http", 30)]
        );
        let redirect = &config.services[1];
        assert_eq!(
            (redirect.forwarding, redirect.port),
            (Forwarding::Redirect, 80)
        );
        assert_eq!(
            redirect.redirect,
            Redirect {
                status: 301,
                hosts: vec!["portal.uni.edu".to_owned()]
            }
        );
        let service = &config.services[0];
        assert_eq!(
            service.backend_tls,
            BackendTls {
                verify: Verify::System,
                server_name: Some("portal.uni.edu".to_owned())
            }
        );
        assert_eq!(probe(&config).host.as_deref(), Some("portal.uni.edu"));
        let http2 = service.tls.as_ref().map(|tls| tls.http2);
        assert_eq!(
            http2,
            Some(preset != Preset::AppsAnywhere),
            "Kerberos sign-on needs HTTP/1.1"
        );
    }
}

#[test]
fn a_site_may_have_a_pfx_instead_of_a_key() {
    let text = site(Preset::AppsAnywhere).replace(
        "certificate = \"/c.pem\"\nkey = \"/c.key\"\n",
        "certificate = \"/c.pfx\"\npassword_file = \"/c.password\"\n",
    );

    let expanded = expand(&text).expect("valid");

    let files = CertificateFiles {
        certificate: "/c.pfx".into(),
        key: None,
        password_file: Some("/c.password".into()),
    };
    for config in [valid(&text), valid(&expanded)] {
        let tls = config.services[0].tls.as_ref().expect("TLS ends here");
        assert_eq!(tls.certificates, std::slice::from_ref(&files));
    }
    assert!(
        expanded.contains(
            "certificates = [{ certificate = \"/c.pfx\", password_file = \"/c.password\" }]"
        ),
        "{expanded}"
    );
}

#[test]
fn paging_is_only_watched_and_runs_today() {
    let config = valid(&site(Preset::CloudpagingPaging));

    assert_eq!(services(&config)[0].3, "monitor");
    assert!(config.vips.is_empty());
    require_built(&config).expect("probing is built");
}

#[test]
fn sites_of_one_preset_are_numbered() {
    let first = site(Preset::ParallelsRas);
    let second =
        "[[site]]\npreset = \"parallels-ras\"\nvip = \"10.0.0.2\"\nbackends = [\"10.0.0.21\"]\n";

    let config = valid(&(first + second));

    let pools: Vec<&str> = config.pools.iter().map(|pool| pool.name.as_str()).collect();
    assert_eq!(pools, ["parallels-ras", "parallels-ras-2"]);
    assert_eq!(config.services[5].name, "parallels-ras-2-udp");
}

/// Two configurations are the same but for where warnings stand.
fn same(text: &str) -> Result<(), TestCaseError> {
    let mut config = parse(text).map_err(|errors| TestCaseError::fail(errors.to_string()))?;
    let expanded = expand(text).map_err(|errors| TestCaseError::fail(errors.to_string()))?;
    let mut again =
        parse(&expanded).map_err(|errors| TestCaseError::fail(format!("{errors}\n{expanded}")))?;
    config.warnings.clear();
    again.warnings.clear();
    prop_assert_eq!(config, again, "{}", expanded);
    prop_assert!(!expanded.contains("[[site]]"));
    prop_assert_eq!(expand(&expanded).ok(), Some(without_comments(&expanded)));
    Ok(())
}

/// Expanding a plain file keeps all but its comments.
fn without_comments(text: &str) -> String {
    text.lines()
        .enumerate()
        .filter(|(number, line)| *number == 0 || !line.starts_with("# "))
        .map(|(_, line)| format!("{line}\n"))
        .collect()
}

#[test]
fn what_expand_prints_means_the_same() {
    for text in [PLAIN, PRESETS, SMALL] {
        same(text).expect("the same");
    }
    for preset in Preset::ALL {
        same(&site(preset)).expect("the same");
    }
}

#[test]
fn what_expand_prints_runs() {
    let bridge = site(Preset::ParallelsRas)
        + "mode = \"bridge\"\ncertificate = \"/c.pem\"\nkey = \"/c.key\"\n";
    for text in Preset::ALL.map(site).into_iter().chain([bridge]) {
        let expanded = expand(&text).expect("valid");
        require_built(&valid(&expanded)).unwrap_or_else(|errors| panic!("{errors}\n{expanded}"));
    }
}

proptest! {
    #[test]
    fn any_site_expands_to_what_it_means(
        backends in prop::collection::vec((1_u8..255, 0_u16..200, prop::bool::ANY), 1..20),
        udp: bool,
        bridge: bool,
        with_fqdn: bool,
        body in "[ -~]{1,20}",
        sites in 1_usize..4,
    ) {
        let mut text = String::from("[node]\ninterfaces = [\"eth0\"]\nmax_flows = 16777216\n");
        for number in 0..sites {
            text += &format!("[[site]]\npreset = \"parallels-ras\"\nvip = \"10.1.0.{}\"\nudp = {udp}\nbackends = [\n", number + 1);
            let mut seen = BTreeSet::new();
            for (host, weight, named) in backends.iter().filter(|(host, ..)| seen.insert(*host)) {
                let name = if *named { format!("name = \"gw{host}\", ") } else { String::new() };
                text += &format!("  {{ {name}address = \"10.2.{number}.{host}\", weight = {weight} }},\n");
            }
            text += "]\n";
            if bridge {
                text += "mode = \"bridge\"\ncertificate = \"/c.pem\"\nkey = \"/k\\u00e9\\\"y\"\n";
            }
            if with_fqdn {
                text += "fqdn = \"ras.uni.edu\"\n";
            }
        }
        let body = body.replace('\\', "\\\\").replace('"', "\\\"");
        text += &format!("[[pool]]\nname = \"p\"\nbackends = [\"10.9.0.1\"]\nhealth = {{ type = \"http\", expect_body = \"{body}\" }}\n");
        same(&text)?;
    }
}

#[test]
fn init_writes_a_configuration_for_every_preset() {
    for preset in Preset::ALL {
        let options = InitOptions {
            preset: preset.name().to_owned(),
            vip: (preset != Preset::CloudpagingPaging).then(|| "10.0.0.1".to_owned()),
            backends: vec!["gw1=10.0.0.11".to_owned(), "10.0.0.12".to_owned()],
            fqdn: Some("portal.uni.edu".to_owned()),
            interface: Some("ens18".to_owned()),
            ..InitOptions::default()
        };

        let text = init(&options).unwrap_or_else(|errors| panic!("{preset:?}: {errors}"));

        let config = valid(&text);
        assert_eq!(config.node.interfaces, ["ens18"]);
        let names: Vec<&str> = config.pools[0]
            .backends
            .iter()
            .map(|backend| backend.name.as_str())
            .collect();
        assert_eq!(names, ["gw1", "10.0.0.12"]);
        require_built(&config).expect("it runs");
        assert!(text.contains(preset.title()));
    }
}

#[test]
fn init_takes_a_pfx_without_a_key() {
    let options = InitOptions {
        preset: "appsanywhere".to_owned(),
        vip: Some("10.0.0.1".to_owned()),
        backends: vec!["10.0.0.11".to_owned()],
        fqdn: Some("portal.uni.edu".to_owned()),
        certificate: Some("/tls/aa.PFX".to_owned()),
        ..InitOptions::default()
    };

    let config = valid(&init(&options).expect("valid"));

    let tls = config.services[0].tls.as_ref().expect("TLS ends here");
    assert_eq!(
        tls.certificates[0].certificate,
        std::path::Path::new("/tls/aa.PFX")
    );
    assert_eq!(tls.certificates[0].key, None);
}

#[test]
fn faults_of_init_name_the_option() {
    let options = InitOptions {
        preset: "appsanywhere".to_owned(),
        vip: Some("10.0.0.300".to_owned()),
        interface: Some("a b".to_owned()),
        key: Some("aa.key".to_owned()),
        ..InitOptions::default()
    };

    let shown = faults(init(&options).map(|text| valid(&text)));

    assert_eq!(
        shown,
        [
            "--interface: \"a b\" is not the name of an interface (1 to 15 bytes); `ip link` lists them",
            "--fqdn: is missing; write the name that users open, such as \"portal.uni.edu\"",
            "--vip: \"10.0.0.300\" is not an IP address; write one such as \"10.0.0.1\" or \"2001:db8::1\"",
            "--backend: is empty; list the servers, such as backends = [\"10.0.0.11\", \"10.0.0.12\"]",
            "--key: \"aa.key\" is not an absolute path; begin it with \"/\"",
        ]
    );
    let misspelt = InitOptions {
        preset: "paralels-ras".to_owned(),
        backends: vec!["10.0.0.1".to_owned()],
        ..InitOptions::default()
    };
    let shown = faults(init(&misspelt).map(|text| valid(&text)));
    assert_eq!(
        shown,
        ["PRESET: \"paralels-ras\" is not known here; did you mean \"parallels-ras\"?"]
    );
}
