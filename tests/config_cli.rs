//! Configurations, good and bad, at the command line.

use std::{fs, time::Duration};

use lb_tests::lab::{
    Configuration, Daemon, Gateways, Lab,
    daemon::{pins, vipd},
    process::Outcome,
    site::vip,
};

const FAULTY: &str = r#"
[node]
interfaces = ["eth0"]
snat_ports = "32767-20000"

[[pool]]
name = "ras-gateways"
backends = [{ name = "gateway1", adress = "10.20.90.11" }]
health = { type = "htps", interval = "soon" }

[[service]]
name = "RAS-SG-UDP"
vip = "10.20.90.105"
port = 443
protocol = "udp"
forwarding = "snat"
pool = "ras-gatewys"
"#;

#[test]
fn every_fault_of_a_configuration_is_listed_and_nothing_is_started() {
    let lab = Lab::one_arm().build();
    let file = lab.directory().join("faulty.toml");
    fs::write(&file, FAULTY).expect("the site's directory takes files");
    let path = file.display().to_string();

    for command in ["check", "run"] {
        let outcome = vipd(lab.balancer(), &[command, "--config", &path]);

        assert_eq!(outcome.code, Some(2), "{}", outcome.text());
        let text = &outcome.stderr;
        for expected in [
            "node.snat_ports",
            "32767-20000",
            "adress",
            "address",
            "htps",
            "soon",
            "ras-gatewys",
        ] {
            assert!(
                text.contains(expected),
                "{command} does not mention {expected}:\n{text}"
            );
        }
    }
    assert!(pins(lab.balancer()).is_empty());
}

#[test]
fn forwarding_that_is_not_built_yet_is_refused_by_name() {
    let lab = Lab::one_arm().build();
    let file = lab.directory().join("snat.toml");
    let text = FAULTY
        .replace("snat_ports = \"32767-20000\"", "")
        .replace("adress", "address")
        .replace("\"htps\", interval = \"soon\"", "\"connect\"")
        .replace("ras-gatewys", "ras-gateways")
        .replace("protocol = \"udp\"", "protocol = \"tcp\"");
    fs::write(&file, text).expect("the site's directory takes files");

    let outcome = vipd(
        lab.balancer(),
        &["check", "--config", &file.display().to_string()],
    );

    assert_eq!(outcome.code, Some(2), "{}", outcome.text());
    assert!(outcome.stderr.contains("RAS-SG-UDP"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("use \"tcp\""), "{}", outcome.stderr);
}

#[test]
fn a_file_that_is_missing_or_no_toml_is_one_clear_fault() {
    let lab = Lab::one_arm().build();
    let file = lab.directory().join("broken.toml");
    fs::write(&file, "[node]\ninterfaces = [\"eth0\"\n").expect("the directory takes files");

    let broken = vipd(
        lab.balancer(),
        &["check", "--config", &file.display().to_string()],
    );
    let missing = vipd(lab.balancer(), &["check", "--config", "/nowhere/vipd.toml"]);

    assert_eq!((broken.code, missing.code), (Some(2), Some(2)));
    assert!(broken.stderr.contains("broken.toml"), "{}", broken.stderr);
    assert!(broken.stderr.contains("line"), "{}", broken.stderr);
    assert!(
        missing.stderr.contains("/nowhere/vipd.toml"),
        "{}",
        missing.stderr
    );
}

#[test]
fn a_good_configuration_passes_the_check() {
    let lab = Lab::one_arm().build();
    let file = lab.directory().join("good.toml");
    fs::write(
        &file,
        Configuration::ras(&lab).render(&["eth0"], lab.directory()),
    )
    .expect("the site's directory takes files");

    vipd(
        lab.balancer(),
        &["check", "--config", &file.display().to_string()],
    )
    .ok();
}

#[test]
fn a_written_configuration_runs_and_its_presets_can_be_expanded() {
    let lab = Lab::one_arm().build();
    let written = vipd(
        lab.balancer(),
        &[
            "init",
            "parallels-ras",
            "--vip",
            "10.20.90.105",
            "--backend",
            "10.20.90.11",
            "--backend",
            "10.20.90.12",
        ],
    )
    .ok();
    let file = lab.directory().join("init.toml");
    fs::write(&file, &written).expect("the site's directory takes files");
    let path = file.display().to_string();

    let expanded = vipd(lab.balancer(), &["config", "expand", "--config", &path]).ok();
    let again = lab.directory().join("expanded.toml");
    fs::write(&again, &expanded).expect("the site's directory takes files");
    let twice = vipd(
        lab.balancer(),
        &["config", "expand", "--config", &again.display().to_string()],
    )
    .ok();

    assert!(
        written.contains("parallels-ras") && written.contains("10.20.90.12"),
        "{written}"
    );
    for expected in [
        "[[pool]]",
        "[[service]]",
        "/RASHTML5Gateway",
        "\"6h\"",
        "\"6m\"",
        "udp",
    ] {
        assert!(expanded.contains(expected), "no {expected} in\n{expanded}");
    }
    assert!(!expanded.contains("[[site]]"), "{expanded}");
    let values = |text: &str| -> Vec<String> {
        text.lines()
            .map(|line| {
                line.split(" #")
                    .next()
                    .unwrap_or_default()
                    .trim()
                    .to_owned()
            })
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .collect()
    };
    assert_eq!(values(&twice), values(&expanded));
}

#[test]
fn every_preset_can_be_written_and_expanded() {
    let lab = Lab::one_arm().build();
    let vip = "--vip 10.20.90.105";
    let names = format!("{vip} --fqdn portal.uni.edu --certificate /tls/a.pem --key /tls/a.key");
    for (preset, more) in [
        ("parallels-ras", vip),
        ("appsanywhere", &names),
        ("cloudpaging-admin", &names),
        ("cloudpaging-portal", &names),
        // Its clients choose a server themselves: it is only watched.
        ("cloudpaging-paging", "--fqdn paging.uni.edu"),
    ] {
        let arguments = format!("init {preset} --backend 10.20.90.11 {more}");
        let arguments: Vec<&str> = arguments.split_whitespace().collect();
        let written = vipd(lab.balancer(), &arguments).ok();
        let file = lab.directory().join(format!("{preset}.toml"));
        fs::write(&file, &written).expect("the site's directory takes files");

        let expanded = vipd(
            lab.balancer(),
            &["config", "expand", "--config", &file.display().to_string()],
        )
        .ok();

        assert!(expanded.contains("10.20.90.11"), "{preset}:\n{expanded}");
    }
}

#[test]
fn wrong_usage_and_a_daemon_that_is_not_there_have_their_own_exit_codes() {
    let lab = Lab::one_arm().build();
    let exit = |arguments: &[&str]| -> Outcome { vipd(lab.balancer(), arguments) };

    assert_eq!(exit(&["statsu"]).code, Some(2));
    assert_eq!(exit(&["drain"]).code, Some(2));
    assert_eq!(exit(&["explain", "not-an-address"]).code, Some(2));
    let nobody = exit(&["status", "--socket", "/run/nobody.sock"]);
    assert_eq!(nobody.code, Some(1), "{}", nobody.text());
    assert!(
        nobody.stderr.contains("/run/nobody.sock"),
        "{}",
        nobody.stderr
    );
    assert!(nobody.stderr.contains("vipd run"), "{}", nobody.stderr);
}

#[test]
fn the_daemon_is_found_by_its_socket_or_its_configuration() {
    let lab = Lab::one_arm().build();
    let _gateways = Gateways::start(&lab);
    let daemon = Daemon::start(&lab, &Configuration::ras(&lab));
    let socket = lab.directory().join("vipd/vipd.sock");

    let by_socket = vipd(
        lab.balancer(),
        &[
            "status",
            "--json",
            "--socket",
            &socket.display().to_string(),
        ],
    )
    .ok();

    assert!(
        by_socket.contains(&format!("{}", daemon.pid())),
        "{by_socket}"
    );
    lab.client(1).udp(vip(443)).ask("hello");
    let mode = fs::metadata(&socket)
        .expect("the socket is there")
        .permissions();
    assert_eq!(
        std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777,
        0o660
    );
}

#[test]
fn the_status_fails_until_every_backend_has_been_probed() {
    let lab = Lab::one_arm().gateways(1).build();
    // Nobody answers here, and nobody refuses: the first probe lasts as long as it may.
    let slow = r#"{ type = "connect", port = 8080, interval = "3s", timeout = "3s" }"#;
    let ghost = r#"{ name = "ghost", address = "10.20.90.200" }"#.to_owned();
    let configuration = Configuration::new()
        .pool("p", &[ghost], slow)
        .udp("s", vip(443), "p", "");
    let mut daemon = Daemon::launch(&lab, &configuration);

    lb_tests::lab::eventually(Duration::from_secs(10), "the daemon answers", || {
        daemon.try_status().is_ok()
    });
    let early = daemon.cli(&["status"]);
    let ready = daemon.status().is_ready();
    daemon.await_ready();

    assert!(!ready && early.code == Some(1), "{}", early.text());
    assert!(!daemon.status().backend("ghost").is_up());
}
