//! The tables of a service that concern the proxy.

use std::{ops::RangeInclusive, path::PathBuf, time::Duration};

use super::super::{
    convert, health,
    keys::{CertificatePlaces, FileKind, Keys, Report},
    model::{
        BackendTls, CertificateFiles, Forwarding, Limits, ProxyProtocol, Redirect, Route, Timeouts,
        Tls, TlsVersion, Verify,
    },
    node::distinct,
};

const DAY: Duration = Duration::from_secs(24 * 3600);
const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(100)..=DAY;
const TUNNEL: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(7 * 24 * 3600);
/// `Strict-Transport-Security` for up to two years, what preload lists ask for.
pub(super) const HSTS: RangeInclusive<Duration> =
    Duration::ZERO..=Duration::from_secs(730 * 24 * 3600);
const HEADER_SIZE: RangeInclusive<u64> = 1024..=1 << 20;
const DEFAULT_HEADER_SIZE: u32 = 72 * 1024;
/// No single client begins so many flows, and the users behind one NAT address stay far below.
const DEFAULT_NEW_FLOWS_PER_SOURCE: u32 = 1000;

/// Reads `routes`.
pub(super) fn routes(keys: &Keys<'_>) -> Vec<Route> {
    let routes: Vec<Route> = keys
        .tables("routes")
        .into_iter()
        .filter_map(route)
        .collect();
    let hosts: Vec<&str> = routes.iter().map(|route| route.host.as_str()).collect();
    distinct(keys, "routes", &hosts);
    routes
}

fn route(keys: Keys<'_>) -> Option<Route> {
    let host = keys.need(
        "host",
        "write the host name that clients ask for",
        convert::host_pattern,
    );
    let pool = keys.need("pool", "name the pool that serves this host", convert::name);
    keys.finish();
    Some(Route {
        host: host?,
        pool: pool?,
    })
}

/// Reads `tls`.
pub(super) fn tls(keys: Keys<'_>, report: &Report) -> Option<Tls> {
    if keys
        .items("certificates")
        .is_none_or(|items| items.is_empty())
    {
        keys.fault(
            "certificates",
            "is missing or empty; list at least one { certificate = \
         \"/FILE.pem\", key = \"/FILE.key\" }",
        );
    }
    let certificates: Vec<CertificateFiles> = keys
        .tables("certificates")
        .into_iter()
        .filter_map(|keys| certificate(keys, report))
        .collect();
    let min_version = keys.get(
        "min_version",
        convert::one_of(&[("1.2", TlsVersion::Tls12), ("1.3", TlsVersion::Tls13)]),
    );
    let http2 = keys.get("http2", convert::boolean);
    let refuse = keys.get(
        "unknown_name",
        convert::one_of(&[("default", false), ("refuse", true)]),
    );
    keys.finish();
    Some(Tls {
        certificates,
        min_version: min_version.unwrap_or(TlsVersion::Tls12),
        http2: http2.unwrap_or(true),
        refuse_unknown_name: refuse.unwrap_or(false),
    })
}

fn certificate(keys: Keys<'_>, report: &Report) -> Option<CertificateFiles> {
    let certificate = keys.need(
        "certificate",
        "name the file with the certificate chain (PEM), or a PFX",
        convert::path,
    );
    let key = keys.get("key", convert::path);
    let password_file = keys.get("password_file", convert::path);
    if keys.has("key") && keys.has("password_file") {
        keys.fault(
            "password_file",
            "has no meaning beside key, since it opens a PFX, which holds its key; remove one of \
             them",
        );
    }
    let places = CertificatePlaces {
        certificate: keys.at("certificate"),
        key: keys.at("key"),
        password_file: keys.at("password_file"),
    };
    let faulty = (keys.has("key") && key.is_none())
        || (keys.has("password_file") && (password_file.is_none() || keys.has("key")));
    keys.finish();
    let files = CertificateFiles {
        certificate: certificate?,
        key,
        password_file,
    };
    // Files of a table at fault would only be misjudged.
    if !faulty {
        report.certificate(places, &files);
    }
    Some(files)
}

/// Reads `backend_tls`.
pub(super) fn backend_tls(keys: Option<Keys<'_>>, report: &Report) -> Option<BackendTls> {
    let Some(keys) = keys else {
        return Some(BackendTls {
            verify: Verify::System,
            server_name: None,
        });
    };
    let verify = health::verify(&keys, true, report);
    let server_name = keys.get("server_name", convert::server_name);
    keys.finish();
    Some(BackendTls {
        verify: verify?,
        server_name,
    })
}

/// Reads `proxy_protocol`.
pub(super) fn proxy_protocol(keys: Option<Keys<'_>>) -> ProxyProtocol {
    let Some(keys) = keys else {
        return ProxyProtocol {
            send: None,
            accept_from: Vec::new(),
        };
    };
    let send = keys.get(
        "send",
        convert::one_of(&[("off", None), ("v1", Some(1)), ("v2", Some(2))]),
    );
    let accept_from = keys.list("accept_from", convert::prefix);
    keys.finish();
    ProxyProtocol {
        send: send.flatten(),
        accept_from: accept_from.unwrap_or_default(),
    }
}

/// Reads `timeouts`.
pub(super) fn timeouts(keys: Option<Keys<'_>>) -> Timeouts {
    let seconds = Duration::from_secs;
    let mut timeouts = Timeouts {
        handshake: seconds(10),
        header: seconds(10),
        idle: seconds(75),
        body: seconds(60),
        connect: seconds(5),
        response: seconds(60),
        tunnel: seconds(3600),
    };
    let Some(keys) = keys else { return timeouts };
    let read = |key, timeout: &mut Duration, range| {
        *timeout = keys.get(key, convert::duration(range)).unwrap_or(*timeout);
    };
    read("handshake", &mut timeouts.handshake, TIMEOUT);
    read("header", &mut timeouts.header, TIMEOUT);
    read("idle", &mut timeouts.idle, TIMEOUT);
    read("body", &mut timeouts.body, TIMEOUT);
    read("connect", &mut timeouts.connect, TIMEOUT);
    read("response", &mut timeouts.response, TIMEOUT);
    read("tunnel", &mut timeouts.tunnel, TUNNEL);
    keys.finish();
    timeouts
}

/// Reads `limits`.
pub(super) fn limits(keys: Option<Keys<'_>>, forwarding: Option<Forwarding>) -> Limits {
    let mut limits = Limits {
        connections: 0,
        per_source: 0,
        header_size_bytes: DEFAULT_HEADER_SIZE,
        headers: 100,
        body_size_bytes: 0,
        streams: 100,
        new_flows_per_second: 0,
        new_flows_per_source: match forwarding {
            Some(Forwarding::Snat) => DEFAULT_NEW_FLOWS_PER_SOURCE,
            _ => 0,
        },
    };
    let Some(keys) = keys else { return limits };
    let read = |key, limit: &mut u32, range| {
        *limit = keys.get(key, convert::number(range)).unwrap_or(*limit);
    };
    read("connections", &mut limits.connections, 0..=u32::MAX);
    read("per_source", &mut limits.per_source, 0..=u32::MAX);
    read("headers", &mut limits.headers, 1..=10_000);
    read("streams", &mut limits.streams, 1..=10_000);
    read(
        "new_flows_per_second",
        &mut limits.new_flows_per_second,
        0..=u32::MAX,
    );
    read(
        "new_flows_per_source",
        &mut limits.new_flows_per_source,
        0..=u32::MAX,
    );
    let header_size = keys.get("header_size", convert::size(HEADER_SIZE));
    limits.header_size_bytes = header_size
        .and_then(|bytes| u32::try_from(bytes).ok())
        .unwrap_or(DEFAULT_HEADER_SIZE);
    limits.body_size_bytes = keys
        .get("body_size", convert::size(0..=1 << 50))
        .unwrap_or(0);
    if let Some(forwarding) = forwarding {
        refuse_limits_of_other_ways(&keys, forwarding);
    }
    keys.finish();
    limits
}

fn refuse_limits_of_other_ways(keys: &Keys<'_>, forwarding: Forwarding) {
    use Forwarding::{Http, Redirect, Snat, Tcp};
    const ONLY_FOR: &[(&str, &[Forwarding], &str)] = &[
        (
            "connections",
            &[Tcp, Http, Redirect],
            "max_connections of the backends",
        ),
        ("per_source", &[Tcp, Http, Redirect], "new_flows_per_source"),
        ("header_size", &[Http, Redirect], "forwarding = \"http\""),
        ("headers", &[Http, Redirect], "forwarding = \"http\""),
        ("body_size", &[Http], "forwarding = \"http\""),
        ("streams", &[Http], "forwarding = \"http\""),
        ("new_flows_per_second", &[Snat], "limits.connections"),
        ("new_flows_per_source", &[Snat], "limits.per_source"),
    ];
    for (key, ways, instead) in ONLY_FOR {
        if keys.has(key) && !ways.contains(&forwarding) {
            keys.fault(
                key,
                format!(
                    "has no meaning with forwarding = \"{forwarding}\"; remove it or use {instead}"
                ),
            );
        }
    }
}

/// Reads `redirect`.
pub(super) fn redirect(keys: Option<Keys<'_>>) -> Redirect {
    let Some(keys) = keys else {
        return Redirect {
            status: 301,
            hosts: Vec::new(),
        };
    };
    let status = keys.get("status", |value| {
        match convert::number(1..=u16::MAX)(value)? {
            status @ (301 | 308) => Ok(status),
            other => Err(format!(
                "{other} does not redirect for good; write 301, or 308 to keep the method"
            )),
        }
    });
    let hosts = keys.list("hosts", convert::host_pattern);
    keys.finish();
    Redirect {
        status: status.unwrap_or(301),
        hosts: hosts.unwrap_or_default(),
    }
}

/// Reads `errors`.
pub(super) fn errors(keys: Option<Keys<'_>>, report: &Report) -> Vec<(u16, PathBuf)> {
    let Some(keys) = keys else { return Vec::new() };
    let mut pages = Vec::new();
    for (key, status) in [("502", 502), ("503", 503), ("504", 504)] {
        if let Some(path) = keys.get(key, convert::path) {
            report.file(keys.at(key), &path, FileKind::Any);
            pages.push((status, path));
        }
    }
    keys.finish();
    pages
}
