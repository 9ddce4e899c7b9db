//! The name of each map, once. A pinned map stands under this name in [`PIN_DIRECTORY`].

/// Where everything is pinned.
pub const PIN_DIRECTORY: &str = "/sys/fs/bpf/vipd";

/// What the program must know of the node: one entry.
pub const SETTINGS: &str = "settings";
/// VIP, port and protocol to service.
pub const SERVICES: &str = "services";
/// Pool number to members and the active half of its Maglev table.
pub const POOLS: &str = "pools";
/// Backend number to address, next hop, health and admin state.
pub const BACKENDS: &str = "backends";
/// SNAT address and backend to the slot of its records.
pub const ENDPOINTS: &str = "endpoints";
/// IPv4 client to VIP: which backend and which record.
pub const FLOWS: &str = "flows";
/// IPv6 client to VIP: which backend and which record.
pub const FLOWS6: &str = "flows6";
/// Slot and SNAT port to the translation of replies.
pub const RECORDS: &str = "records";
/// Client and group to backend.
pub const AFFINITY: &str = "affinity";
/// Pool, half and slot to backend number.
pub const MAGLEV: &str = "maglev";
/// Counters of each service and backend, per processor.
pub const STATS: &str = "stats";
/// Dropped packets by reason, per processor.
pub const DROPS: &str = "drops";

/// Slot to the SNAT address and backend that it belongs to.
pub const SLOTS: &str = "slots";
/// Which clients each service takes, by ranges of addresses.
pub const RANGES: &str = "ranges";
/// First pieces of fragmented datagrams, and where their other pieces go.
pub const FRAGMENTS: &str = "fragments";

/// Every map that is pinned.
pub const ALL: [&str; 15] = [
    SETTINGS, SERVICES, POOLS, BACKENDS, ENDPOINTS, FLOWS, FLOWS6, RECORDS, AFFINITY, MAGLEV,
    STATS, DROPS, SLOTS, RANGES, FRAGMENTS,
];
