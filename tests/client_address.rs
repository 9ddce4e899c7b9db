//! From which address connections to backends leave.

use std::{net::IpAddr, time::Duration};

use lb_tests::lab::{
    Configuration, Daemon, HealthPage, Lab,
    configuration::{HEALTH, HEALTH_PORT, backend, backend6},
    daemon::vipd,
    eventually::eventually,
    raw::Raw,
    site::{campus_v4, campus_v6, vip, vip6},
    tcp_server::{EchoClient, TcpServer},
    web_site::{PORTAL, SERVICE, WebSite},
};

const BOUND: Duration = Duration::from_secs(10);

/// Has replies to clients come back through the balancer, as the warning of `vipd check` says.
fn route_replies_through_the_balancer(lab: &Lab, commands: &[String]) {
    for gateway in lab.gateways() {
        let four = lab.address_towards_backends(IpAddr::from(gateway.v4()));
        let six = lab.address_towards_backends(IpAddr::from(gateway.v6()));
        gateway.net().ip(&[
            &format!("route replace default via {four}"),
            &format!("route replace default via {six}"),
        ]);
    }
    for command in commands {
        let mut shell = lab.balancer().command("sh");
        shell.arg("-c").arg(command);
        lb_tests::lab::process::Outcome::of(shell).ok();
    }
}

/// Returns the commands in the warning of `vipd check`.
fn commands(lab: &Lab, configuration: &Configuration) -> Vec<String> {
    let file = lab.directory().join("transparent.toml");
    let text = configuration.render(lab.balancer_interfaces(), lab.directory());
    std::fs::write(&file, text).expect("written");
    let file = file.to_str().expect("text");
    let checked = vipd(lab.balancer(), &["check", "--config", file]);
    assert_eq!(checked.code, Some(0), "{}", checked.text());
    let text = checked.text();
    let warning = text.lines().find(|line| line.contains("].transparent: "));
    let warning = warning.unwrap_or_else(|| panic!("no warning: {text}"));
    let (_, list) = warning.split_once("run: ").expect("commands");
    list.split("; the same")
        .next()
        .unwrap_or(list)
        .split(" && ")
        .map(|command| command.trim().to_owned())
        .collect()
}

#[test]
fn a_transparent_service_shows_backends_the_clients_own_address() {
    let lab = Lab::two_arm().gateways(2).campus().build();
    let site = WebSite::start(&lab);
    let _echoes: Vec<TcpServer> = lab
        .gateways()
        .iter()
        .map(|host| TcpServer::echo(host, 7))
        .collect();
    let _pages: Vec<HealthPage> = lab
        .gateways()
        .iter()
        .map(|host| HealthPage::start(host, HEALTH_PORT))
        .collect();
    let backends: Vec<String> = lab.gateways().iter().map(backend6).collect();
    let through = |name: &str, vip: std::net::SocketAddr, pool: &str| {
        format!(
            "[[service]]\nname = \"{name}\"\nvip = \"{}\"\nport = 7\nprotocol = \"tcp\"\n\
             forwarding = \"tcp\"\npool = \"{pool}\"\ntransparent = true\n",
            vip.ip()
        )
    };
    let configuration = site
        .configuration_with(&lab, "transparent = true")
        .pool("six", &backends, HEALTH)
        .text(&through("four", vip(7), "web"))
        .text(&through("six", vip6(7), "six"));
    let commands = commands(&lab, &configuration);
    route_replies_through_the_balancer(&lab, &commands);
    let daemon = Daemon::start(&lab, &configuration);

    for number in [1, 2, 300] {
        for (source, server) in [(campus_v4(number), vip(7)), (campus_v6(number), vip6(7))] {
            let client = EchoClient::connect(lab.campus(), Some(source), server);
            let mut client = client.unwrap_or_else(|error| panic!("{error} {}", daemon.log()));
            assert_eq!(client.seen.ip(), source.ip());
            client.echo(&[1; 100_000]).expect("an echo");
        }
        let mut client = Raw::tcp_from(lab.campus(), campus_v4(number), vip(443))
            .and_then(|client| client.tls(&site.client(&["http/1.1"]), PORTAL))
            .expect("a connection");
        for _ in 0..3 {
            let answer = client.get(PORTAL, "/peer", "").expect("an answer");
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
    }
    for origin in &site.origins {
        for record in origin.records() {
            if record.path() != "/peer" {
                continue;
            }
            let told = record.header("x-forwarded-for").expect("the client");
            assert_eq!(
                record.peer.ip().to_string(),
                told,
                "nobody has another's connection"
            );
        }
    }
    assert!(site.origins.iter().any(|origin| origin.received() > 0));
}

#[test]
fn connections_leave_from_the_configured_addresses_and_a_client_from_one_of_them() {
    let lab = Lab::two_arm().gateways(1).campus().build();
    let _echo = TcpServer::echo(lab.gateway(1), 443);
    let _page = HealthPage::start(lab.gateway(1), HEALTH_PORT);
    let own = ["10.11.20.201", "10.11.20.202", "fd00:11:20::201"];
    for address in &own[..2] {
        lab.balancer()
            .net()
            .ip(&[&format!("address add {address}/24 dev eth1")]);
    }
    lab.balancer()
        .net()
        .ip(&[&format!("address add {}/64 dev eth1 nodad", own[2])]);
    let service = |name: &str, vip: std::net::SocketAddr, pool: &str| {
        format!(
            "[[service]]\nname = \"{name}\"\nvip = \"{}\"\nport = 443\nprotocol = \"tcp\"\n\
             forwarding = \"tcp\"\npool = \"{pool}\"\nsource_addresses = {own:?}\n",
            vip.ip()
        )
    };
    let configuration = Configuration::new()
        .pool("four", &[backend(lab.gateway(1))], HEALTH)
        .pool("six", &[backend6(lab.gateway(1))], HEALTH)
        .text(&service(SERVICE, vip(443), "four"))
        .text(&service("six", vip6(443), "six"));
    let _daemon = Daemon::start(&lab, &configuration);
    let seen = |number, server| {
        let source = match server {
            std::net::SocketAddr::V4(_) => campus_v4(number),
            std::net::SocketAddr::V6(_) => campus_v6(number),
        };
        let client = EchoClient::connect(lab.campus(), Some(source), server).expect("an echo");
        client.seen.ip().to_string()
    };

    let met: Vec<String> = (1..=16).map(|number| seen(number, vip(443))).collect();
    let again: Vec<String> = (1..=16).map(|number| seen(number, vip(443))).collect();
    assert_eq!(met, again, "a client has the same address each time");
    for address in &own[..2] {
        assert!(met.iter().any(|met| met == address), "{met:?}");
    }
    assert!(
        met.iter().all(|met| own[..2].contains(&met.as_str())),
        "{met:?}"
    );
    assert_eq!(seen(1, vip6(443)), own[2]);
}

#[test]
fn a_source_address_that_the_machine_lacks_is_said() {
    let lab = Lab::two_arm().gateways(1).build();
    let site = WebSite::start(&lab);
    let more = "source_addresses = [\"10.11.20.250\"]";
    let daemon = Daemon::start(&lab, &site.configuration_with(&lab, more));

    let answer = site
        .raw(lab.client(1))
        .get(PORTAL, "/", "")
        .expect("an answer");

    assert_eq!(answer.status, 502);
    assert!(answer.text().contains("no_source"), "{}", answer.text());
    eventually(BOUND, "the log says it", || {
        daemon.log().contains("it cannot leave from 10.11.20.250")
    });
}
