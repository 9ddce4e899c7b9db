//! The maps that packets write, opened by their pins as `bpftool` would: to look at them, to let
//! time pass, and to make the contradictions that a crash would leave.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Command,
};

use aya::maps::{Array, HashMap, Map, MapData};
use lb_common::{
    addr::{bytes, unmapped},
    affinity::{Affinity, AffinityKey},
    backend::Backend,
    flow::{Flow, FlowKey, FlowKey6},
    fragment::{Fragment, FragmentKey},
    guard::Range,
    map_names,
    record::{Claim, Record, State},
};

use super::packet::Packet;

/// The pinned maps.
pub(crate) struct Pins {
    directory: PathBuf,
    backends: Array<MapData, Backend>,
    records: Array<MapData, Record>,
    flows: HashMap<MapData, FlowKey, Flow>,
    flows6: HashMap<MapData, FlowKey6, Flow>,
    affinity: HashMap<MapData, AffinityKey, Affinity>,
    fragments: HashMap<MapData, FragmentKey, Fragment>,
    ranges: Array<MapData, Range>,
}

impl Pins {
    pub(crate) fn open(directory: &Path) -> Self {
        let map = |name| MapData::from_pin(directory.join(name)).expect("a pinned map");
        let hash = |name| Map::HashMap(map(name));
        Self {
            directory: directory.to_owned(),
            backends: Map::Array(map(map_names::BACKENDS))
                .try_into()
                .expect("backends"),
            records: Map::Array(map(map_names::RECORDS))
                .try_into()
                .expect("records"),
            flows: hash(map_names::FLOWS).try_into().expect("flows"),
            flows6: hash(map_names::FLOWS6).try_into().expect("flows6"),
            affinity: hash(map_names::AFFINITY).try_into().expect("affinity"),
            fragments: Map::LruHashMap(map(map_names::FRAGMENTS))
                .try_into()
                .expect("fragments"),
            ranges: Map::Array(map(map_names::RANGES))
                .try_into()
                .expect("ranges"),
        }
    }

    /// Returns the forward entry of a client's packet.
    pub(crate) fn flow(&self, packet: &Packet) -> Option<Flow> {
        if packet.source.is_ipv4() {
            self.flows.get(&key(packet), 0).ok()
        } else {
            self.flows6.get(&key6(packet), 0).ok()
        }
    }

    /// Writes the forward entry of a client's packet.
    pub(crate) fn set_flow(&mut self, packet: &Packet, flow: Flow) {
        if packet.source.is_ipv4() {
            self.flows.insert(key(packet), flow, 0)
        } else {
            self.flows6.insert(key6(packet), flow, 0)
        }
        .expect("room for a flow");
    }

    /// Removes the forward entry of a client's packet.
    pub(crate) fn remove_flow(&mut self, packet: &Packet) {
        if packet.source.is_ipv4() {
            self.flows.remove(&key(packet))
        } else {
            self.flows6.remove(&key6(packet))
        }
        .expect("a flow to remove");
    }

    /// Returns how many forward entries there are, in both families.
    pub(crate) fn flow_count(&self) -> usize {
        self.flows.keys().filter(Result::is_ok).count()
            + self.flows6.keys().filter(Result::is_ok).count()
    }

    pub(crate) fn record(&self, index: u32) -> Record {
        self.records.get(&index, 0).expect("a record")
    }

    pub(crate) fn set_record(&mut self, index: u32, record: Record) {
        self.records.set(index, record, 0).expect("a record");
    }

    pub(crate) fn state(&self, index: u32) -> State {
        Claim::unpack(self.record(index).claim).state
    }

    /// Changes the health of a backend, as nobody but a hand at `bpftool` does.
    pub(crate) fn set_health(&mut self, number: u16, health: u8) {
        let number = u32::from(number);
        let backend = self.backends.get(&number, 0).expect("a backend");
        self.backends
            .set(number, Backend { health, ..backend }, 0)
            .expect("a backend");
    }

    /// Returns the records that were ever used.
    pub(crate) fn used(&self) -> Vec<(u32, Record)> {
        (0..self.records.len())
            .map(|index| (index, self.record(index)))
            .filter(|(_, record)| record.claim != 0)
            .collect()
    }

    /// Returns the records in a state.
    pub(crate) fn in_state(&self, state: State) -> Vec<u32> {
        self.used()
            .into_iter()
            .filter(|(_, record)| Claim::unpack(record.claim).state == state)
            .map(|(index, _)| index)
            .collect()
    }

    /// Returns what is remembered of a client in a group.
    pub(crate) fn affinity(&self, client: &str, group: u32) -> Option<Affinity> {
        self.affinity.get(&affinity_key(client, group), 0).ok()
    }

    pub(crate) fn set_affinity(&mut self, client: &str, group: u32, entry: Affinity) {
        self.affinity
            .insert(affinity_key(client, group), entry, 0)
            .expect("room for a client");
    }

    /// Returns what the first pieces of datagrams have left.
    pub(crate) fn fragments(&self) -> Vec<Fragment> {
        self.fragments
            .iter()
            .map(|entry| entry.expect("a first piece").1)
            .collect()
    }

    /// Writes an entry of `ranges`.
    pub(crate) fn set_range(&mut self, index: u32, start: [u8; 16], is_blocked: bool) {
        let range = Range {
            start,
            blocked: u32::from(is_blocked),
            _reserved: 0,
        };
        self.ranges.set(index, range, 0).expect("a range");
    }

    /// Makes everything that records, affinity and fragments remember `seconds` older.
    pub(crate) fn age(&mut self, seconds: u32) {
        for (index, record) in self.used() {
            self.set_record(
                index,
                Record {
                    last_seen: before(record.last_seen, seconds),
                    ..record
                },
            );
        }
        let entries: Vec<_> = self.affinity.iter().map(|e| e.expect("a client")).collect();
        for (key, entry) in entries {
            let entry = Affinity {
                last_seen: before(entry.last_seen, seconds),
                ..entry
            };
            self.affinity
                .insert(key, entry, 0)
                .expect("the same client");
        }
        let pieces: Vec<_> = self.fragments.iter().map(|e| e.expect("a piece")).collect();
        for (key, piece) in pieces {
            let piece = Fragment {
                seen: before(piece.seen, seconds),
                ..piece
            };
            self.fragments
                .insert(key, piece, 0)
                .expect("the same datagram");
        }
    }

    /// Runs the pinned program on a frame that has `metadata` bytes before it: as much less room
    /// for tags. Returns the XDP action.
    pub(crate) fn run_with_metadata(&self, frame: &[u8], metadata: u32) -> u32 {
        let data = [&vec![0; metadata as usize], frame].concat();
        // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, and
        // egress_ifindex.
        let context: Vec<u8> = [metadata, data.len() as u32, 0, 0, 0, 0]
            .into_iter()
            .flat_map(u32::to_ne_bytes)
            .collect();
        let files = tempfile::tempdir().expect("a temporary directory");
        let (data_in, context_in) = (files.path().join("data"), files.path().join("context"));
        std::fs::write(&data_in, &data).expect("a file");
        std::fs::write(&context_in, &context).expect("a file");
        let said = bpftool(&[
            "prog".as_ref(),
            "run".as_ref(),
            "pinned".as_ref(),
            self.directory.join("program").as_os_str(),
            "data_in".as_ref(),
            data_in.as_os_str(),
            "ctx_in".as_ref(),
            context_in.as_os_str(),
        ]);
        said["retval"].as_u64().expect("a return value") as u32
    }

    /// Returns a pinned map as `bpftool` shows it.
    pub(crate) fn dump(&self, map: &str) -> serde_json::Value {
        bpftool(&[
            "map".as_ref(),
            "dump".as_ref(),
            "pinned".as_ref(),
            self.directory.join(map).as_os_str(),
        ])
    }

    /// Returns what `bpftool` says of the pinned program.
    pub(crate) fn program(&self) -> serde_json::Value {
        bpftool(&[
            "prog".as_ref(),
            "show".as_ref(),
            "pinned".as_ref(),
            self.directory.join("program").as_os_str(),
        ])
    }

    /// Returns what `bpftool` says of a pinned link.
    pub(crate) fn link(&self, name: &str) -> serde_json::Value {
        bpftool(&[
            "link".as_ref(),
            "show".as_ref(),
            "pinned".as_ref(),
            self.directory.join(name).as_os_str(),
        ])
    }
}

/// Takes the program of a pinned link off its interface, and leaves the pin.
pub(crate) fn detach_link(path: &Path) {
    bpftool(&[
        "link".as_ref(),
        "detach".as_ref(),
        "pinned".as_ref(),
        path.as_os_str(),
    ]);
}

/// Runs `bpftool` in this thread's namespaces; returns what it says in JSON.
fn bpftool(arguments: &[&OsStr]) -> serde_json::Value {
    let output = Command::new("bpftool")
        .arg("-j")
        .args(arguments)
        .output()
        .expect("bpftool; run `cargo xtask setup`");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "bpftool {arguments:?} said {said}");
    serde_json::from_str(&said)
        .unwrap_or_else(|error| panic!("bpftool {arguments:?} said {said}: {error}"))
}

fn before(second: u32, seconds: u32) -> u32 {
    second
        .checked_sub(seconds)
        .expect("a machine that runs for some minutes")
}

fn key(packet: &Packet) -> FlowKey {
    FlowKey::new(
        unmapped(&bytes(packet.source.ip())),
        packet.source.port(),
        unmapped(&bytes(packet.destination.ip())),
        packet.destination.port(),
        17,
    )
}

fn key6(packet: &Packet) -> FlowKey6 {
    FlowKey6::new(
        bytes(packet.source.ip()),
        packet.source.port(),
        bytes(packet.destination.ip()),
        packet.destination.port(),
        17,
    )
}

fn affinity_key(client: &str, group: u32) -> AffinityKey {
    AffinityKey {
        client: bytes(client.parse().expect("an address")),
        group,
    }
}
