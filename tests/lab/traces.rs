//! What a daemon leaves on a machine, and what its tables hold.

use std::{collections::BTreeMap, net::IpAddr};

use serde_json::Value;

use super::{daemon::pins, host::Host};

/// Pins, programs on interfaces, addresses, reserved ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traces {
    pins: Vec<String>,
    attached: Vec<String>,
    addresses: Vec<String>,
    reserved: String,
}

impl Traces {
    /// Looks at `host`.
    ///
    /// # Panics
    ///
    /// If it has no bpffs of its own.
    #[must_use]
    pub fn of(host: &Host) -> Self {
        let links = host.run("ip -json link show").ok();
        let links: Value = serde_json::from_str(&links).expect("ip prints JSON");
        let addresses = host.run("ip -oneline address show").ok();
        let mut addresses: Vec<String> = addresses
            .lines()
            .filter_map(|line| {
                let mut words = line.split_whitespace().skip(1);
                Some(format!("{} {}", words.next()?, words.nth(1)?))
            })
            .collect();
        addresses.sort();
        Self {
            pins: pins(host),
            attached: links
                .as_array()
                .expect("ip prints a list")
                .iter()
                .filter(|link| link.get("xdp").is_some())
                .map(|link| link["ifname"].to_string())
                .collect(),
            addresses,
            reserved: host.net().read_sysctl("net/ipv4/ip_local_reserved_ports"),
        }
    }

    /// Returns how many pins there are.
    #[must_use]
    pub fn pins(&self) -> usize {
        self.pins.len()
    }

    /// Returns whether an interface has `address`.
    #[must_use]
    pub fn has_address(&self, address: IpAddr) -> bool {
        self.addresses
            .iter()
            .any(|line| line.contains(&format!(" {address}/")))
    }
}

/// The maps that have an entry for each thing there is.
const HASHES: [&str; 5] = ["services", "endpoints", "flows", "flows6", "affinity"];

/// How many entries the tables hold, counted by `bpftool`: independent of what the daemon says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entries(BTreeMap<&'static str, usize>);

impl Entries {
    /// Counts the entries of the tables that are pinned on `host`, and the records not free.
    ///
    /// # Panics
    ///
    /// If a table is not there, or `bpftool` does not know its fields.
    #[must_use]
    pub fn of(host: &Host) -> Self {
        let mut entries: BTreeMap<&'static str, usize> = HASHES
            .iter()
            .map(|name| (*name, dump(host, name).len()))
            .collect();
        let taken = dump(host, "records")
            .iter()
            .filter(|record| is_taken(record))
            .count();
        entries.insert("records", taken);
        Self(entries)
    }

    /// Returns the entries of the map `name`; of `records`, those that are not free.
    ///
    /// # Panics
    ///
    /// If the map is not counted.
    #[must_use]
    #[track_caller]
    pub fn count(&self, name: &str) -> usize {
        *self
            .0
            .get(name)
            .unwrap_or_else(|| panic!("{name} is not counted"))
    }
}

fn dump(host: &Host, name: &str) -> Vec<Value> {
    let text = host
        .run(&format!(
            "bpftool --json map dump pinned /sys/fs/bpf/vipd/{name}"
        ))
        .ok();
    match serde_json::from_str(&text) {
        Ok(Value::Array(entries)) => entries,
        other => panic!("bpftool prints no list of {name}: {other:?}"),
    }
}

/// The state of a record is the highest byte of its claim; 0 is free.
fn is_taken(record: &Value) -> bool {
    let claim = &record["formatted"]["value"]["claim"];
    let claim = claim
        .as_u64()
        .unwrap_or_else(|| panic!("a record has no claim: {record}"));
    claim >> 56 != 0
}
