//! `[node]`, `[[vip]]`, `[log]`, `[admin]` and `[state]`.

use std::{collections::HashSet, hash::Hash, path::PathBuf, time::Duration};

use lb_common::limits;

use super::{
    convert::{self, quoted, shown},
    duration,
    keys::Keys,
    model::{AccessLog, Admin, Log, LogFormat, LogLevel, Node, PortRange, State, Vip, XdpMode},
    raw::{Kind, Value},
};

/// Capacities that the maps can be given.
pub(super) const CAPACITY: std::ops::RangeInclusive<u32> = 1024..=16_777_216;
const FLOW_TIMEOUT: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(24 * 3600);
/// Longest path of a Unix socket, in bytes (`sun_path` less its end).
const SOCKET_PATH_BYTES: usize = 107;

/// Reads `[node]`.
pub(super) fn node(keys: Keys<'_>) -> Option<Node> {
    let interfaces = interfaces(&keys);
    let xdp_mode = keys.get(
        "xdp_mode",
        convert::one_of(&[
            ("auto", XdpMode::Auto),
            ("native", XdpMode::Native),
            ("generic", XdpMode::Generic),
        ]),
    );
    let snat_addresses = keys
        .list("snat_addresses", convert::outside_address)
        .unwrap_or_default();
    distinct(&keys, "snat_addresses", &snat_addresses);
    if snat_addresses.len() > limits::MAX_SNAT_ADDRESSES {
        let most = limits::MAX_SNAT_ADDRESSES;
        keys.fault(
            "snat_addresses",
            format!(
                "has {} addresses; keep at most {most}",
                snat_addresses.len()
            ),
        );
    }
    let snat_ports = keys.get("snat_ports", convert::port_range);
    let max_flows = keys.get("max_flows", convert::number(CAPACITY));
    let max_affinity = keys.get("max_affinity", convert::number(CAPACITY));
    let (flow_timeout, flow_timeout_unreplied) = flow_timeouts(&keys);
    let workers = keys.get("workers", workers).unwrap_or(None);
    let forget_on_stop = keys.get("forget_on_stop", convert::boolean);
    keys.finish();
    Some(Node {
        interfaces: interfaces?,
        xdp_mode: xdp_mode.unwrap_or(XdpMode::Auto),
        snat_addresses,
        snat_ports: snat_ports.unwrap_or(PortRange {
            first: 20_000,
            last: 32_767,
        }),
        max_flows: max_flows.unwrap_or(limits::DEFAULT_MAX_FLOWS),
        max_affinity: max_affinity.unwrap_or(limits::DEFAULT_MAX_AFFINITY),
        flow_timeout,
        flow_timeout_unreplied,
        workers,
        forget_on_stop: forget_on_stop.unwrap_or(false),
    })
}

fn interfaces(keys: &Keys<'_>) -> Option<Vec<String>> {
    const REMEDY: &str =
        "name the interface that clients' packets arrive on, such as interfaces = [\"eth0\"]";
    let Some(interfaces) = keys.list("interfaces", convert::interface) else {
        if !keys.has("interfaces") {
            keys.fault("interfaces", format!("is missing; {REMEDY}"));
        }
        return None;
    };
    let written = keys.items("interfaces").map_or(0, |items| items.len());
    if written == 0 {
        keys.fault("interfaces", format!("is empty; {REMEDY}"));
    }
    if written > limits::MAX_INTERFACES {
        let most = limits::MAX_INTERFACES;
        keys.fault(
            "interfaces",
            format!("has {written} names; keep at most {most}"),
        );
    }
    distinct(keys, "interfaces", &interfaces);
    Some(interfaces)
}

/// Reads both timeouts; without one of its own, an unreplied flow lives 30 s but never longer than
/// the others.
fn flow_timeouts(keys: &Keys<'_>) -> (Duration, Duration) {
    let replied = keys
        .get("flow_timeout", convert::duration(FLOW_TIMEOUT))
        .unwrap_or(Duration::from_secs(300));
    let unreplied = keys.get("flow_timeout_unreplied", convert::duration(FLOW_TIMEOUT));
    if let Some(unreplied) = unreplied.filter(|unreplied| *unreplied > replied) {
        keys.fault(
            "flow_timeout_unreplied",
            format!(
                "\"{}\" is longer than flow_timeout = \"{}\"; lower it or raise flow_timeout",
                duration::format(unreplied),
                duration::format(replied)
            ),
        );
    }
    (
        replied,
        unreplied.unwrap_or(Duration::from_secs(30).min(replied)),
    )
}

fn workers(value: &Value) -> Result<Option<u16>, String> {
    match &value.kind {
        Kind::Text(text) if text == "auto" => Ok(None),
        Kind::Integer(_) => convert::number(1..=1024)(value).map(Some),
        _ => Err(format!(
            "{} is not a number of workers; write \"auto\" or 1 to 1024",
            shown(value)
        )),
    }
}

/// Notes a fault for each element of a list that stands there twice.
pub(super) fn distinct<T: Eq + Hash + ToString>(keys: &Keys<'_>, key: &'static str, items: &[T]) {
    let mut seen = HashSet::new();
    for item in items.iter().filter(|item| !seen.insert(*item)) {
        keys.fault(
            key,
            format!(
                "{} stands here twice; remove one",
                quoted(&item.to_string())
            ),
        );
    }
}

/// Reads one `[[vip]]`.
pub(super) fn vip(keys: Keys<'_>) -> Option<Vip> {
    let address = keys.need(
        "address",
        "write the VIP, such as \"10.0.0.1\"",
        convert::outside_address,
    );
    let interface = keys.get("interface", convert::interface);
    let manage = keys.get("manage", convert::boolean);
    let announce = keys.get("announce", convert::boolean);
    keys.finish();
    Some(Vip {
        address: address?,
        interface,
        manage: manage.unwrap_or(true),
        announce: announce.unwrap_or(true),
    })
}

/// Reads `[log]`.
pub(super) fn log(keys: Keys<'_>) -> Log {
    let level = keys.get(
        "level",
        convert::one_of(&[
            ("error", LogLevel::Error),
            ("warn", LogLevel::Warn),
            ("info", LogLevel::Info),
            ("debug", LogLevel::Debug),
            ("trace", LogLevel::Trace),
        ]),
    );
    let format = keys.get(
        "format",
        convert::one_of(&[("text", LogFormat::Text), ("json", LogFormat::Json)]),
    );
    let access = keys.get("access", access_log);
    keys.finish();
    Log {
        level: level.unwrap_or(LogLevel::Info),
        format: format.unwrap_or(LogFormat::Text),
        access: access.unwrap_or(AccessLog::Off),
    }
}

fn access_log(value: &Value) -> Result<AccessLog, String> {
    match convert::text(value)? {
        "off" => Ok(AccessLog::Off),
        "stdout" => Ok(AccessLog::Stdout),
        path if path.starts_with('/') => convert::path(value).map(AccessLog::File),
        other => Err(format!(
            "{} is no place for the access log; write \"off\", \"stdout\" or an absolute path",
            quoted(other)
        )),
    }
}

/// Reads `[admin]`.
pub(super) fn admin(keys: Keys<'_>) -> Admin {
    let socket = keys.get("socket", socket_path);
    let group = keys.get("group", convert::line_of_text);
    let mode = keys.get("mode", mode);
    keys.finish();
    Admin {
        socket: socket.unwrap_or_else(|| PathBuf::from("/run/vipd/vipd.sock")),
        group,
        mode: mode.unwrap_or(0o660),
    }
}

fn socket_path(value: &Value) -> Result<PathBuf, String> {
    let path = convert::path(value)?;
    match path.as_os_str().len() {
        length if length > SOCKET_PATH_BYTES => Err(format!(
            "{} has {length} bytes; the path of a socket has at most {SOCKET_PATH_BYTES}",
            shown(value)
        )),
        _ => Ok(path),
    }
}

fn mode(value: &Value) -> Result<u32, String> {
    let not_one = || {
        format!(
            "{} is not a file mode; write four octal digits in quotes, such as \"0660\"",
            shown(value)
        )
    };
    let Kind::Text(text) = &value.kind else {
        return Err(not_one());
    };
    let octal =
        (3..=4).contains(&text.len()) && text.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    let mode = u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| octal && *mode <= 0o777);
    mode.ok_or_else(not_one)
}

/// Reads `[state]`.
pub(super) fn state(keys: Keys<'_>) -> State {
    let directory = keys.get("directory", convert::path);
    keys.finish();
    State {
        directory: directory.unwrap_or_else(|| PathBuf::from("/var/lib/vipd")),
    }
}
