//! What the tests of control share: small sites, and what happens to them.

use std::{
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use lb_common::{backend::VlanTags, settings::Settings};

use super::{
    event::{BackendName, CheckReport, Health, Link, NextHop},
    overrides::Overrides,
    plan::plan,
    render::{Tables, render},
    state::DesiredState,
};
use crate::{
    config::model::{
        AccessLog, Admin, AdminState, Algorithm, Backend, BackendTls, Config, Forwarding,
        HealthCheck, Limits, Log, LogFormat, LogLevel, Node, Persistence, PersistenceKey, Pool,
        PortRange, ProbeSpec, Protocol, ProxyProtocol, Redirect, Service, State, Timeouts, Verify,
        XdpMode,
    },
    dataplane::{SweepReport, image::Image},
};

/// Index of the interface of these sites.
pub(crate) const ETH0: u32 = 2;

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

pub(crate) fn name(text: &str) -> BackendName {
    let (pool, backend) = text.split_once('/').expect("POOL/BACKEND");
    BackendName::new(pool, backend)
}

/// A site of one node with these pools and services.
pub(crate) fn config(pools: Vec<Pool>, services: Vec<Service>) -> Config {
    Config {
        node: Node {
            interfaces: vec!["eth0".to_owned()],
            xdp_mode: XdpMode::Auto,
            snat_addresses: Vec::new(),
            snat_ports: PortRange {
                first: 20_000,
                last: 20_999,
            },
            max_flows: 64_000,
            max_affinity: 1024,
            flow_timeout: Duration::from_secs(300),
            flow_timeout_unreplied: Duration::from_secs(30),
            workers: None,
            forget_on_stop: false,
        },
        vips: Vec::new(),
        log: Log {
            level: LogLevel::Info,
            format: LogFormat::Text,
            access: AccessLog::Off,
        },
        admin: Admin {
            socket: PathBuf::from("/run/vipd/vipd.sock"),
            group: None,
            mode: 0o660,
        },
        state: State {
            directory: PathBuf::from("/var/lib/vipd"),
        },
        pools: pools.into_iter().map(Arc::new).collect(),
        services: services.into_iter().map(Arc::new).collect(),
        warnings: Vec::new(),
    }
}

pub(crate) fn pool(name: &str, backends: Vec<Backend>) -> Pool {
    Pool {
        name: name.to_owned(),
        backends,
        algorithm: Algorithm::SourceHash,
        health: connect(),
        slow_start: Duration::ZERO,
    }
}

pub(crate) fn backend(name: &str, address: &str) -> Backend {
    Backend {
        name: name.to_owned(),
        address: ip(address),
        port: None,
        weight: 100,
        state: AdminState::Active,
        backup: false,
        max_connections: 0,
        resume_connections: 0,
        server_name: None,
        pin: None,
    }
}

/// An `snat` service on UDP.
pub(crate) fn service(name: &str, vip: &str, port: u16, pool: &str) -> Service {
    Service {
        name: name.to_owned(),
        vip: ip(vip),
        port,
        protocol: Protocol::Udp,
        forwarding: Forwarding::Snat,
        pool: Some(pool.to_owned()),
        backend_port: None,
        routes: Vec::new(),
        persistence: Persistence {
            key: PersistenceKey::SourceIp,
            timeout: Duration::from_secs(6 * 3600),
            group: pool.to_owned(),
            ipv4_prefix: 32,
            ipv6_prefix: 128,
            cookie: None,
        },
        health: None,
        tls: None,
        backend_tls: BackendTls {
            verify: Verify::System,
            server_name: None,
        },
        trusted_proxies: Vec::new(),
        proxy_protocol: ProxyProtocol {
            send: None,
            accept_from: Vec::new(),
        },
        transparent: false,
        source_addresses: Vec::new(),
        timeouts: Timeouts {
            handshake: Duration::ZERO,
            header: Duration::ZERO,
            idle: Duration::ZERO,
            body: Duration::ZERO,
            connect: Duration::ZERO,
            response: Duration::ZERO,
            tunnel: Duration::ZERO,
        },
        limits: Limits {
            connections: 0,
            per_source: 0,
            header_size_bytes: 0,
            headers: 0,
            body_size_bytes: 0,
            streams: 0,
            new_flows_per_second: 0,
            new_flows_per_source: 0,
        },
        allow: Vec::new(),
        block: Vec::new(),
        redirect: Redirect {
            status: 301,
            hosts: Vec::new(),
        },
        hsts: None,
        errors: Vec::new(),
    }
}

pub(crate) fn connect() -> HealthCheck {
    HealthCheck {
        probe: ProbeSpec::Connect,
        port: None,
        interval: Duration::from_secs(30),
        timeout: Duration::from_secs(5),
        rise: 2,
        fall: 3,
    }
}

/// Two gateways behind one UDP service.
pub(crate) fn ras() -> Config {
    config(
        vec![pool(
            "ras",
            vec![backend("gw1", "10.0.1.1"), backend("gw2", "10.0.1.2")],
        )],
        vec![service("ras-udp", "10.0.0.100", 443, "ras")],
    )
}

pub(crate) fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

pub(crate) fn link() -> Link {
    Link {
        name: "eth0".to_owned(),
        index: ETH0,
        mac: [2, 0, 0, 0, 0, 1],
        mtu: 1500,
    }
}

/// Maps as they are when they have just been made for `config`.
pub(crate) fn new_maps(config: &Config) -> Image {
    Image {
        settings: Settings {
            layout_version: lb_common::LAYOUT_VERSION,
            slots: config.node.max_flows / config.node.snat_ports.count(),
            ..Settings::default()
        },
        ..Image::default()
    }
}

/// The state at the first start.
pub(crate) fn first_start(config: Config) -> DesiredState {
    let image = new_maps(&config);
    DesiredState::start(
        Arc::new(config),
        &image,
        false,
        vec![link()],
        Overrides::default(),
        now(),
    )
    .expect("nothing to disagree with")
}

/// The state of a daemon that takes over `image`.
pub(crate) fn restart(config: Config, image: &Image) -> DesiredState {
    DesiredState::start(
        Arc::new(config),
        image,
        true,
        vec![link()],
        Overrides::default(),
        now(),
    )
    .expect("the same configuration")
}

pub(crate) fn probed(state: &mut DesiredState, backend: &str, health: Health) {
    state.on_check(CheckReport {
        backend: name(backend),
        service: None,
        health,
        reason: match health {
            Health::Up => "connected".to_owned(),
            Health::Down => "connection refused".to_owned(),
        },
        since: Some(now()),
        probed: true,
        latency: None,
    });
}

pub(crate) fn probed_for(state: &mut DesiredState, backend: &str, service: &str, health: Health) {
    state.on_check(CheckReport {
        backend: name(backend),
        service: Some(service.to_owned()),
        health,
        reason: "as the test says".to_owned(),
        since: Some(now()),
        probed: true,
        latency: None,
    });
}

pub(crate) fn hop() -> NextHop {
    NextHop {
        interface: ETH0,
        interface_name: "eth0".to_owned(),
        mac: [2, 0, 0, 0, 0, 9],
        source: ip("10.0.0.1"),
        via: None,
        vlan: VlanTags::NONE,
    }
}

/// Every backend is up and has a way.
pub(crate) fn all_serve(state: &mut DesiredState) {
    let config = Arc::clone(&state.config);
    for pool in &config.pools {
        for backend in &pool.backends {
            state.on_next_hop(backend.address, Ok(hop()));
            probed(
                state,
                &format!("{}/{}", pool.name, backend.name),
                Health::Up,
            );
        }
    }
}

/// A running site: every backend serves.
pub(crate) fn running(config: Config) -> DesiredState {
    let mut state = first_start(config);
    all_serve(&mut state);
    state
}

/// The next sweep, with what the closure says that it found.
pub(crate) fn sweep(state: &mut DesiredState, found: impl FnOnce(&mut SweepReport)) {
    let mut report = SweepReport {
        pass: state.sweep.pass + 1,
        ..SweepReport::default()
    };
    found(&mut report);
    state.on_sweep(report);
}

/// What the maps hold once the state has been carried out.
pub(crate) fn carried_out(state: &DesiredState, present: &Image) -> Image {
    plan(present, render(state, &mut Tables::default())).outcome
}
