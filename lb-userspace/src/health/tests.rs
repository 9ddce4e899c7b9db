use std::{net::Ipv4Addr, time::Duration};

use tokio::{net::TcpListener, sync::mpsc};

use super::*;
use crate::config::model::ProbeSpec;

#[tokio::test]
async fn each_check_reports_its_first_result_at_once() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let open = listener.local_addr().unwrap().port();
    let (mut prober, mut events) = prober();

    prober.reconcile(vec![check("gw1", open), check("gw2", closed_port().await)]);

    let mut reports = [next(&mut events).await, next(&mut events).await];
    reports.sort_by(|a, b| a.id.cmp(&b.id));
    let [gw1, gw2] = reports;
    assert_eq!((gw1.report.health, gw1.report.changed), (Health::Up, true));
    assert_eq!(
        (gw2.report.health, gw2.report.changed),
        (Health::Down, true)
    );
    assert!(gw2.report.reason.starts_with("connection refused on port "));
}

#[tokio::test]
async fn a_reload_starts_anew_only_what_changed() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (mut prober, mut events) = prober();
    prober.reconcile(vec![check("gw1", port), check("gw2", port)]);
    next(&mut events).await;
    next(&mut events).await;

    let mut changed = check("gw2", port);
    changed.spec.fall = 9;
    changed.initial = Some(Health::Up);
    prober.reconcile(vec![check("gw1", port), changed]);
    let again = next(&mut events).await;
    prober.nudge(&id("gw1"));
    let kept = next(&mut events).await;

    assert_eq!(again.id, id("gw2"));
    assert_eq!((again.report.consecutive, again.report.changed), (1, false));
    assert_eq!(kept.id, id("gw1"));
    assert_eq!(kept.report.consecutive, 2, "its history goes on");
}

#[tokio::test]
async fn evidence_against_a_backend_brings_all_its_checks_forward_and_no_others() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (mut prober, mut events) = prober();
    let mut of_service = check("gw1", port);
    of_service.id.service = Some(String::from("ras-udp"));
    prober.reconcile(vec![
        check("gw1", port),
        of_service.clone(),
        check("gw2", port),
    ]);
    for _ in 0..3 {
        next(&mut events).await;
    }

    prober.nudge_backend("ras-gateways", "gw1");
    let mut again = [next(&mut events).await.id, next(&mut events).await.id];
    prober.nudge_backend("ras-gateways", "gw2");

    again.sort();
    assert_eq!(again, [id("gw1"), of_service.id]);
    assert_eq!(next(&mut events).await.id, id("gw2"));
}

#[tokio::test]
async fn a_check_that_is_not_listed_ends() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (mut prober, mut events) = prober();
    let mut quick = check("gw1", port);
    quick.spec.interval = Duration::from_millis(5);
    prober.reconcile(vec![quick]);
    next(&mut events).await;

    prober.reconcile(Vec::new());
    prober.nudge(&id("gw1"));

    // The prober keeps one sender; the task gives up its own when it ends.
    let ended = async {
        while prober.events.strong_count() > 1 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), ended)
        .await
        .expect("the task ends");
}

#[tokio::test]
async fn dropping_the_prober_ends_all_checks() {
    let (mut prober, mut events) = prober();
    prober.reconcile(vec![check("gw1", closed_port().await)]);

    drop(prober);

    // The channel closes once the last task has given up its sender.
    let closed = async { while events.recv().await.is_some() {} };
    tokio::time::timeout(Duration::from_secs(20), closed)
        .await
        .expect("the task ends");
}

fn prober() -> (Prober, mpsc::Receiver<HealthEvent>) {
    let (sender, receiver) = mpsc::channel(16);
    (Prober::new(sender), receiver)
}

fn check(backend: &str, port: u16) -> Check {
    Check {
        id: id(backend),
        spec: HealthCheck {
            probe: ProbeSpec::Connect,
            port: None,
            interval: Duration::from_secs(3600),
            timeout: Duration::from_secs(20),
            rise: 2,
            fall: 3,
        },
        target: ProbeTarget {
            name: backend.to_owned(),
            address: Ipv4Addr::LOCALHOST.into(),
            port,
            server_name: None,
            pin: None,
        },
        initial: None,
    }
}

fn id(backend: &str) -> CheckId {
    CheckId {
        pool: String::from("ras-gateways"),
        backend: backend.to_owned(),
        service: None,
    }
}

async fn next(events: &mut mpsc::Receiver<HealthEvent>) -> HealthEvent {
    tokio::time::timeout(Duration::from_secs(20), events.recv())
        .await
        .expect("a report in time")
        .expect("a running prober")
}

async fn closed_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    listener.local_addr().unwrap().port()
}
