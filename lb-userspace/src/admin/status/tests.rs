use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::{
    control::{
        snapshot::Traffic,
        testing::{self, now},
    },
    dataplane::{Attachment, CounterSnapshot},
};

/// A running site, with a little traffic.
pub(crate) fn snapshot() -> Snapshot {
    let mut state = testing::running(testing::ras());
    testing::sweep(&mut state, |report| {
        report.flows_by_service.insert(0, 3);
        report.flows_by_backend.insert(0, 1);
        report.flows_by_backend.insert(1, 2);
        report.affinity_by_backend.insert(0, 1);
        report.affinity_entries = 1;
        report.ports_by_slot.insert(
            0,
            PortUse {
                in_use: 1,
                resting: 7,
            },
        );
    });
    let image = testing::carried_out(&state, &testing::new_maps(&state.config));
    let counters = Counters {
        packets_in: 10,
        bytes_in: 1000,
        packets_out: 20,
        bytes_out: 2000,
        flows_new: 3,
        ..Counters::default()
    };
    Snapshot {
        started: now(),
        state: Arc::new(state),
        image: Arc::new(image),
        attachments: [Attachment {
            interface: "eth0".to_owned(),
            index: testing::ETH0,
            native: true,
            why: "the driver supports it".to_owned(),
        }]
        .into(),
        traffic: Arc::new(Traffic {
            counters: CounterSnapshot {
                services: vec![counters],
                backends: vec![counters, Counters::default()],
                drops: vec![(DropReason::NoFlow, 4)],
            },
            service_rates: vec![Rates {
                packets_in: 1.26,
                ..Rates::default()
            }],
            backend_rates: Vec::new(),
        }),
    }
}

fn as_json() -> Value {
    let later = now() + std::time::Duration::from_secs(90);
    let status = status(
        &snapshot(),
        &View::default(),
        Path::new("/etc/vipd/vipd.toml"),
        later,
    );
    serde_json::to_value(status).expect("plain data")
}

#[test]
fn the_shape_of_the_status_is_a_promise() {
    let mut status = as_json();
    let drops = status["drops"].take();
    status["pid"].take();

    assert_eq!(
        status,
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "ready": true,
            "not_ready": [],
            "pid": null,
            "started": "2027-01-15T08:00:00.000Z",
            "uptime_s": 90,
            "adopted": false,
            "configuration": {
                "path": "/etc/vipd/vipd.toml",
                "generation": 1,
                "loaded": "2027-01-15T08:00:00.000Z",
            },
            "interfaces": [{
                "name": "eth0",
                "index": 2,
                "mode": "native",
                "why": "the driver supports it",
            }],
            "services": [{
                "name": "ras-udp",
                "id": 0,
                "vip": "10.0.0.100",
                "port": 443,
                "protocol": "udp",
                "forwarding": "snat",
                "pool": "ras",
                "eligible": 2,
                "flows": 3,
                "clients": { "allow": 0, "block": 0, "others": "allow" },
                "traffic": traffic(1.3),
            }],
            "backends": [
                backend("gw1", 0, "10.0.1.1", 1, 1, traffic(0.0)),
                backend("gw2", 1, "10.0.1.2", 2, 0, serde_json::to_value(api::Traffic::default()).expect("plain data")),
            ],
            "endpoints": [
                {
                    "snat": "10.0.0.1",
                    "backend": "10.0.1.1:443",
                    "protocol": "udp",
                    "slot": 0,
                    "ports_in_use": 1,
                    "ports_resting": 7,
                    "ports_total": 1000,
                    "fill": "ok",
                },
                {
                    "snat": "10.0.0.1",
                    "backend": "10.0.1.2:443",
                    "protocol": "udp",
                    "slot": 1,
                    "ports_in_use": 0,
                    "ports_resting": 0,
                    "ports_total": 1000,
                    "fill": "ok",
                },
            ],
            "flows": { "used": 3, "max": 64000, "fill": "ok" },
            "affinity": { "used": 1, "max": 1024, "fill": "ok" },
            "drops": null,
            "access_log_lost": 0,
        })
    );
    let drops = drops.as_array().expect("a list");
    assert_eq!(drops.len(), DropReason::ALL.len(), "every reason is listed");
    assert_eq!(
        drops[3],
        json!({
            "reason": "no_flow",
            "packets": 4,
            "meaning": DropReason::NoFlow.meaning(),
        })
    );
}

#[test]
fn what_is_nearly_full_or_full_says_so() {
    let mut snapshot = snapshot();
    let mut state = testing::running(testing::ras());
    testing::sweep(&mut state, |report| {
        report.flows_by_service.insert(0, 60_000);
        report.affinity_entries = 1024;
        report.ports_by_slot.insert(
            1,
            PortUse {
                in_use: 400,
                resting: 400,
            },
        );
    });
    snapshot.state = Arc::new(state);

    let status = status(&snapshot, &View::default(), Path::new("x"), now());

    let fills = [status.flows.fill, status.affinity.fill];
    assert_eq!(fills, [api::Fill::High, api::Fill::Full]);
    let ports: Vec<_> = status.endpoints.iter().map(|of| of.fill).collect();
    assert_eq!(
        ports,
        [api::Fill::Ok, api::Fill::High],
        "those that rest count"
    );
}

fn traffic(packets_in_per_s: f64) -> Value {
    json!({
        "packets_in": 10,
        "bytes_in": 1000,
        "packets_out": 20,
        "bytes_out": 2000,
        "packets_in_per_s": packets_in_per_s,
        "bytes_in_per_s": 0.0,
        "packets_out_per_s": 0.0,
        "bytes_out_per_s": 0.0,
        "flows_new": 3,
        "flows_moved": 0,
        "affinity_full": 0,
        "dropped": 0,
    })
}

fn backend(name: &str, id: u16, address: &str, flows: u32, clients: u32, traffic: Value) -> Value {
    json!({
        "pool": "ras",
        "name": name,
        "id": id,
        "address": address,
        "port": null,
        "health": "up",
        "health_reason": "connected",
        "health_since": "2027-01-15T08:00:00.000Z",
        "probed": true,
        "latency_ms": null,
        "service_checks": [],
        "admin_state": "active",
        "admin_change": null,
        "weight": 100,
        "backup": false,
        "reachable": true,
        "reachable_reason": "on eth0",
        "next_hop": {
            "interface": "eth0",
            "mac": "02:00:00:00:00:09",
            "via": null,
            "snat_addresses": ["10.0.0.1"],
        },
        "full": false,
        "eligible": true,
        "flows": flows,
        "connections": 0,
        "clients": clients,
        "unreachable": 0,
        "unreachable_per_s": 0.0,
        "traffic": traffic,
    })
}

#[test]
fn what_is_written_is_read_back() {
    let status: api::Status = serde_json::from_value(as_json()).expect("its own shape");

    assert_eq!(
        serde_json::to_value(&status).expect("plain data"),
        as_json()
    );
}

#[test]
fn a_missing_interface_and_an_unprobed_backend_are_not_ready() {
    let mut snapshot = snapshot();
    let mut state = testing::first_start(testing::ras());
    state.on_link_gone("eth0");
    snapshot.state = Arc::new(state);

    let status = status(&snapshot, &View::default(), Path::new("x"), now());

    assert!(!status.ready);
    assert_eq!(
        status.not_ready,
        [
            "the program is not attached to eth0",
            "ras/gw1 has not been probed yet",
            "ras/gw2 has not been probed yet",
        ]
    );
    assert_eq!(status.interfaces[0].mode, api::XdpMode::Detached);
    assert_eq!(status.backends[0].health, api::Health::Down);
    assert_eq!(status.backends[0].next_hop, None);
}

#[test]
fn a_backend_with_connections_of_the_proxy_is_not_drained() {
    let mut state = testing::running(testing::ras());
    let name = testing::name("ras/gw1");
    let author = crate::control::state::Author {
        by: "root".to_owned(),
        at: now(),
        reason: None,
    };
    state.set_admin_state(&name, crate::config::model::AdminState::Drain, author);
    state.on_connections([(0, 2)].into());
    for _ in 0..2 {
        testing::sweep(&mut state, |_| {});
    }

    let seen = backend_state(&state, &name).expect("there");
    assert_eq!((seen.flows, seen.counted), (2, true));
    assert!(!state.backends[&name].drained);
    let mut shown = snapshot();
    shown.state = Arc::new(state.clone());
    let shown = status(&shown, &View::default(), Path::new("x"), now());
    assert_eq!(
        (shown.backends[0].flows, shown.backends[0].connections),
        (2, 2)
    );

    state.on_connections([].into());
    assert_eq!(backend_state(&state, &name).expect("there").flows, 0);
    assert!(state.backends[&name].drained);
}

#[test]
fn a_drained_backend_is_counted_only_by_sweeps_that_began_later() {
    let mut state = testing::running(testing::ras());
    let name = testing::name("ras/gw1");
    let author = crate::control::state::Author {
        by: "root".to_owned(),
        at: now(),
        reason: None,
    };
    assert!(backend_state(&state, &name).expect("there").counted);
    state.set_admin_state(&name, crate::config::model::AdminState::Drain, author);

    let mut counted = Vec::new();
    for _ in 0..2 {
        testing::sweep(&mut state, |_| {});
        counted.push(backend_state(&state, &name).expect("there").counted);
    }

    assert_eq!(counted, [false, true]);
    assert_eq!(backend_state(&state, &testing::name("ras/none")), None);
}
