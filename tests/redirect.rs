//! HTTP that is sent to HTTPS: where to, for whom, and for whom not.

use std::time::{Duration, Instant};

use lb_tests::lab::{
    Configuration, Daemon, Lab,
    eventually::eventually,
    proxied::Proxied,
    raw::Raw,
    site::{vip, vip6},
    web_site::{PORTAL, WebSite, url},
};

const BOUND: Duration = Duration::from_secs(10);
const SERVICE: &str = "to-https";

fn configuration(more: &str) -> Configuration {
    let service = |name: &str, vip: std::net::SocketAddr| {
        format!(
            "[[service]]\nname = \"{name}\"\nvip = \"{}\"\nport = {}\nprotocol = \"tcp\"\n\
             forwarding = \"redirect\"\n{more}\n",
            vip.ip(),
            vip.port()
        )
    };
    Configuration::new()
        .text(&service(SERVICE, vip(80)))
        .text(&service("six", vip6(80)))
}

fn client(lab: &Lab) -> Raw {
    Raw::tcp(lab.client(1), vip(80)).expect("a connection")
}

/// Sends a whole request on a connection of its own, and returns everything that comes back.
fn ask(lab: &Lab, request: &str) -> String {
    let mut client = client(lab);
    client.send(request).expect("sent");
    client.finish().expect("an end");
    let bytes = client.read_to_end().expect("an end");
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn the_target_is_the_same_byte_for_byte_and_the_port_goes() {
    let lab = Lab::one_arm().gateways(1).build();
    let daemon = Daemon::start(&lab, &configuration(""));
    let mut client = client(&lab);

    for target in [
        "/",
        "/?",
        "/a?b=c&d=%20%2F&d",
        "/%e4%F6?x=%00",
        "/a//b/../c/./",
        "/a?b?c=/../",
        "/~user;v=1/*/@:!$'()+,",
        "//other.example/x",
        "/\\other.example",
        "/{x}|^[y]?{z}|^[",
        "/\u{e4}\u{f6}?\u{20ac}",
    ] {
        for host in [PORTAL, "portal.lab.example:80", "portal.lab.example:8080"] {
            let answer = client.get(host, target, "").expect("an answer");
            assert_eq!(answer.status, 301, "{target} {}", answer.text());
            let target = target.replace('\u{e4}', "%C3%A4");
            let target = target.replace('\u{f6}', "%C3%B6");
            let target = target.replace('\u{20ac}', "%E2%82%AC");
            let location = format!("https://{PORTAL}{target}");
            let head = String::from_utf8_lossy(&answer.head).into_owned();
            assert!(
                head.contains(&format!("ocation: {location}\r\n")),
                "{target}: {head}"
            );
        }
    }
    for target in ["*", "/<", "/>", "/`", "/?\"", "/?<", "/a b", "x", ""] {
        let text = ask(
            &lab,
            &format!("GET {target} HTTP/1.1\r\nHost: {PORTAL}\r\n\r\n"),
        );
        assert!(text.starts_with("HTTP/1.1 400 "), "{target}: {text}");
        assert!(
            !text.to_lowercase().contains("location"),
            "{target}: {text}"
        );
    }
    let mut six = Raw::tcp(lab.client(1), vip6(80)).expect("a connection");
    let host = format!("[{}]:80", vip6(80).ip());
    let answer = six.get(&host, "/x", "").expect("an answer");
    assert_eq!(
        answer.header("location"),
        Some(&*format!("https://[{}]/x", vip6(80).ip()))
    );
    assert_eq!(Proxied::of(&daemon, "six").count("requests"), 1);
}

#[test]
fn the_status_can_be_one_that_keeps_the_method() {
    let lab = Lab::one_arm().gateways(1).build();
    let _daemon = Daemon::start(&lab, &configuration("redirect = { status = 308 }"));
    let mut client = client(&lab);

    let request =
        format!("POST /form HTTP/1.1\r\nHost: {PORTAL}\r\nContent-Length: 5\r\n\r\nhello");
    let answer = client.ask("POST", request).expect("an answer");

    assert_eq!(answer.status, 308);
    assert_eq!(
        answer.header("location"),
        Some("https://portal.lab.example/form")
    );
    assert!(answer.body.is_empty());
}

#[test]
fn only_hosts_that_are_listed_are_redirected() {
    let lab = Lab::one_arm().gateways(1).build();
    let more = "redirect = { hosts = [\"portal.lab.example\", \"*.apps.lab.example\"] }";
    let daemon = Daemon::start(&lab, &configuration(more));

    for host in [
        "Portal.LAB.example",
        "portal.lab.example:80",
        "a.apps.lab.example",
    ] {
        let answer = client(&lab).get(host, "/x", "").expect("an answer");
        assert_eq!(answer.status, 301, "{host}");
        let location = answer.header("location").expect("a location");
        let name = host.split(':').next().unwrap_or(host);
        assert_eq!(
            location.to_lowercase(),
            format!("https://{}/x", name.to_lowercase())
        );
    }
    for host in [
        "evil.example",
        "a.b.apps.lab.example",
        "apps.lab.example",
        "10.20.90.105",
    ] {
        let answer = client(&lab).get(host, "/x", "").expect("an answer");
        assert_eq!(answer.status, 421, "{host}");
        assert_eq!(answer.header("location"), None);
    }
    eventually(BOUND, "the refused ones are counted", || {
        Proxied::of(&daemon, SERVICE).failed("misdirected") == 4
    });
}

#[test]
fn http_1_0_is_redirected_by_the_one_host_that_is_known() {
    let lab = Lab::one_arm().gateways(1).build();
    let more = "redirect = { hosts = [\"portal.lab.example\"] }";
    let daemon = Daemon::start(&lab, &configuration(more));

    let named = ask(&lab, &format!("GET /x HTTP/1.0\r\nHost: {PORTAL}\r\n\r\n"));
    let nameless = ask(&lab, "GET /x HTTP/1.0\r\n\r\n");
    for text in [&named, &nameless] {
        assert!(
            text.starts_with("HTTP/1.0 301 ") || text.starts_with("HTTP/1.1 301 "),
            "{text}"
        );
        assert!(
            text.contains("ocation: https://portal.lab.example/x\r\n"),
            "{text}"
        );
    }

    daemon.reload(&configuration(""));
    eventually(BOUND, "nobody is known", || {
        let text = ask(&lab, "GET /x HTTP/1.0\r\n\r\n");
        text.contains(" 400 ") && !text.to_lowercase().contains("location")
    });
}

#[test]
fn nobody_is_sent_to_a_host_that_his_browser_did_not_ask() {
    let lab = Lab::one_arm().gateways(1).build();
    let _daemon = Daemon::start(&lab, &configuration(""));

    for request in [
        "GET http://evil.example/x HTTP/1.1\r\nHost: portal.lab.example\r\n\r\n",
        "GET /x HTTP/1.1\r\nHost: portal.lab.example@evil.example\r\n\r\n",
        "GET http://portal.lab.example@evil.example/x HTTP/1.1\r\nHost: portal.lab.example\r\n\r\n",
        "GET /x HTTP/1.1\r\nHost: portal.lab.example\r\nHost: evil.example\r\n\r\n",
        "GET /x HTTP/1.1\r\nHost: evil.example/portal.lab.example\r\n\r\n",
        "GET /x HTTP/1.1\r\nHost: evil.example#portal\r\n\r\n",
        "GET /x HTTP/1.1\r\nHost: evil.example\\.portal\r\n\r\n",
        "GET /x HTTP/1.1\r\nHost: \r\n\r\n",
        "GET /x HTTP/1.1\r\n\r\n",
        "CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n",
    ] {
        let text = ask(&lab, request);
        assert!(text.starts_with("HTTP/1.1 400 "), "{request}: {text}");
        assert!(
            !text.to_lowercase().contains("location"),
            "{request}: {text}"
        );
        assert!(
            text.to_lowercase().contains("connection: close"),
            "{request}: {text}"
        );
    }
    let same = ask(
        &lab,
        "GET http://portal.lab.example:80/x?y HTTP/1.1\r\nHost: portal.lab.example\r\n\r\n",
    );
    assert!(
        same.contains("ocation: https://portal.lab.example/x?y\r\n"),
        "{same}"
    );
}

#[test]
fn a_connection_is_kept_and_one_that_says_nothing_or_half_a_head_is_cut() {
    let lab = Lab::one_arm().gateways(1).build();
    let more = "timeouts = { header = \"1s\", idle = \"2s\" }";
    let daemon = Daemon::start(&lab, &configuration(more));
    let ends = |mut client: Raw| {
        let begun = Instant::now();
        client.await_end(BOUND).expect("an end");
        begun.elapsed()
    };

    let mut kept = client(&lab);
    for number in 0..3 {
        let answer = kept
            .get(PORTAL, &format!("/{number}"), "")
            .expect("an answer");
        assert_eq!(answer.status, 301);
    }
    let idle = ends(kept);
    assert!(
        idle > Duration::from_millis(1500) && idle < Duration::from_secs(5),
        "{idle:?}"
    );

    let silent = ends(client(&lab));
    assert!(
        silent > Duration::from_millis(500) && silent < Duration::from_secs(3),
        "{silent:?}"
    );
    let mut slow = client(&lab);
    slow.send("GET /x HTTP/1.1\r\nHo").expect("sent");
    let begun = Instant::now();
    while slow.send("x").is_ok() && slow.await_end(Duration::from_millis(100)).is_err() {
        assert!(
            begun.elapsed() < Duration::from_secs(3),
            "{:?}",
            begun.elapsed()
        );
    }
    eventually(BOUND, "they are counted", || {
        Proxied::of(&daemon, SERVICE).failed("header_timeout") == 2
    });

    let mut long = client(&lab);
    let header = format!("X: {}\r\n", "x".repeat(20_000));
    let answer = long.get(PORTAL, "/", &header).expect("an answer");
    assert_eq!(answer.status, 431);
}

#[test]
fn answers_over_https_say_that_the_host_is_to_be_asked_by_https_only() {
    let lab = Lab::one_arm().gateways(1).build();
    let site = WebSite::start(&lab);
    let _daemon = Daemon::start(&lab, &site.configuration_with(&lab, "hsts = \"365d\""));

    let answers = site
        .curl(&lab, lab.client(1))
        .get(&url("/"))
        .get(&url("/status/404"))
        .run();

    for answer in answers {
        assert_eq!(
            answer.header("strict-transport-security"),
            Some("max-age=31536000")
        );
    }
}
