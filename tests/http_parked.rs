//! Connections on which nothing goes on: they are parked, and their clients do not notice.

use std::time::Duration;

use lb_tests::lab::{
    Daemon, Lab, eventually,
    raw::Raw,
    stream::End,
    web_site::{PORTAL, SERVICE, WebSite, failures, open_clients},
};

const BOUND: Duration = Duration::from_secs(20);

/// Waits until so many connections have been parked since the daemon began.
fn await_parked(daemon: &Daemon<'_>, count: usize) {
    eventually(BOUND, &format!("{count} connections are parked"), || {
        daemon.log().matches("a connection is parked").count() >= count
    });
}

fn rests(site: &WebSite, lab: &Lab) -> Raw {
    let mut client = site.raw(lab.client(1));
    assert_eq!(client.get(PORTAL, "/", "").expect("an answer").status, 200);
    client
}

#[test]
fn a_parked_connection_goes_on_where_it_was() {
    let lab = Lab::one_arm().gateways(1).build();
    let site = WebSite::start(&lab);
    let daemon = Daemon::start(&lab, &site.configuration(&lab));
    let mut clients: Vec<Raw> = (0..20).map(|_| rests(&site, &lab)).collect();
    // This one has not asked yet.
    clients.push(site.raw(lab.client(1)));
    await_parked(&daemon, clients.len());
    for round in 0..3 {
        for (number, client) in clients.iter_mut().enumerate() {
            let body = format!("{round} of {number}");
            let length = body.len();
            let request = format!(
                "POST /echo HTTP/1.1\r\nHost: {PORTAL}\r\nContent-Length: {length}\r\n\r\n{body}"
            );
            let answer = client.ask("POST", request).expect("an answer");
            assert_eq!(answer.status, 200);
            let text = String::from_utf8_lossy(&answer.body);
            assert!(text.contains(&body), "{body:?} is not in {text:?}");
        }
    }
    await_parked(&daemon, 2 * clients.len());
    assert_eq!(open_clients(&daemon), clients.len() as u64);
}

#[test]
fn half_a_head_that_came_before_the_answer_is_not_lost() {
    let lab = Lab::one_arm().gateways(1).build();
    let site = WebSite::start(&lab);
    let timeouts = r#"timeouts = { header = "5s" }"#;
    let daemon = Daemon::start(&lab, &site.configuration_with(&lab, timeouts));
    let mut client = site.raw(lab.client(1));
    let head = format!("GET / HTTP/1.1\r\nHost: {PORTAL}\r\n");
    client
        .send(format!("{head}\r\n{head}"))
        .expect("a request and a half");
    assert_eq!(client.answer("GET").expect("an answer").status, 200);
    await_parked(&daemon, 1);
    client.send("X-Rest: yes\r\n\r\n").expect("the rest");
    assert_eq!(client.answer("GET").expect("an answer").status, 200);
    client.send(&head).expect("half a head");
    drop(client);
    eventually(BOUND, "who broke off in a head is told of", || {
        failures(&daemon, "client_closed") == 1
    });

    // Its rest may take no longer than that of any head.
    let mut late = site.raw(lab.client(1));
    late.send(format!("{head}\r\n{head}"))
        .expect("a request and a half");
    assert_eq!(late.answer("GET").expect("an answer").status, 200);
    late.await_end(BOUND).expect("an end");
    assert_eq!(failures(&daemon, "header_timeout"), 1);
}

#[test]
fn a_parked_connection_ends_in_its_time_and_with_the_daemon() {
    let lab = Lab::one_arm().gateways(1).build();
    let site = WebSite::start(&lab);
    let timeouts = r#"timeouts = { idle = "5s", header = "4s" }"#;
    let mut daemon = Daemon::start(&lab, &site.configuration_with(&lab, timeouts));
    let mut idle = rests(&site, &lab);
    let mut silent = site.raw(lab.client(1));
    await_parked(&daemon, 2);
    assert_eq!(idle.await_end(BOUND).expect("an end"), End::Close);
    silent.await_end(BOUND).expect("an end");
    let status = daemon.status();
    assert_eq!(status.service(SERVICE).failures("header_timeout"), 1);

    let mut gone = rests(&site, &lab);
    let mut last = rests(&site, &lab);
    await_parked(&daemon, 4);
    gone.finish().expect("its end");
    assert_eq!(gone.await_end(BOUND).expect("an end"), End::Close);
    eventually(BOUND, "who has gone is not counted", || {
        open_clients(&daemon) == 1
    });
    daemon.signal(libc::SIGTERM);
    let at_once = Duration::from_secs(2);
    assert_eq!(last.await_end(at_once).expect("an end"), End::Close);
    assert!(daemon.wait().success());
}
