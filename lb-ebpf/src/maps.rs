//! Every map of the program, on one page.
//!
//! Sizes of `flows`, `flows6`, `records` and `affinity` are set by the daemon when it loads the
//! program; the ones here are the defaults. All but the last few are pinned by their names, and all
//! carry BTF.

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    btf_maps::{Array, HashMap, LruHashMap, PerCpuArray},
    macros::btf_map,
};
use lb_common::{
    affinity::{Affinity, AffinityKey},
    backend::Backend,
    endpoint::{Endpoint, EndpointKey},
    flow::{Flow, FlowKey, FlowKey6},
    fragment::{Fragment, FragmentKey},
    guard::Range,
    limits::{
        CACHE_PLACES_PER_FLOW, CACHE_WAYS, DEFAULT_MAX_AFFINITY, DEFAULT_MAX_FLOWS, MAGLEV_ENTRIES,
        MAX_BACKENDS, MAX_ENDPOINTS, MAX_EXACT_SETS, MAX_FRAGMENTS, MAX_POOLS, MAX_SERVICE_ENTRIES,
        RANGE_ENTRIES,
    },
    pool::Pool,
    record::Record,
    service::{Service, ServiceKey},
    settings::Settings,
    stats::{Counters, STATS_ENTRIES},
    verdict::DROP_ENTRIES,
};

use crate::{
    cache::Set,
    exact,
    guard::BUCKET_ENTRIES,
    pipeline::Scratch,
    service::{self, SERVICE_COPIES},
};

/// What the program must know of the node. Written by: the daemon. One entry.
#[btf_map(name = "settings")]
pub(crate) static SETTINGS: Array<Settings, 1> = Array::new();

/// VIP, port and protocol to service, and a marker for each VIP. Written by: the daemon.
#[btf_map(name = "services")]
pub(crate) static SERVICES: HashMap<ServiceKey, Service, { MAX_SERVICE_ENTRIES as usize }> =
    HashMap::new();

/// Pool number to members and the active half of its table. Written by: the daemon.
#[btf_map(name = "pools")]
pub(crate) static POOLS: Array<Pool, { MAX_POOLS as usize }> = Array::new();

/// Pool, half and slot to backend number. Written by: the daemon, through its mapping; only ever
/// the half that is not in use.
#[btf_map(name = "maglev")]
pub(crate) static MAGLEV: Array<u32, { MAGLEV_ENTRIES as usize }, { BPF_F_MMAPABLE as usize }> =
    Array::new();

/// Backend number to address, next hop, health and admin state. Written by: the daemon.
#[btf_map(name = "backends")]
pub(crate) static BACKENDS: Array<Backend, { MAX_BACKENDS as usize }> = Array::new();

/// SNAT address and backend to the slot of its records. Written by: the daemon.
#[btf_map(name = "endpoints")]
pub(crate) static ENDPOINTS: HashMap<EndpointKey, Endpoint, { MAX_ENDPOINTS as usize }> =
    HashMap::new();

/// Slot to SNAT address and backend: `endpoints` the other way round. Written by: the daemon.
#[btf_map(name = "slots")]
pub(crate) static SLOTS: Array<EndpointKey, { MAX_ENDPOINTS as usize }> = Array::new();

/// Which clients a service takes; the service names its entries. Written by: the daemon, through
/// its mapping; only ever the half that is not in use.
#[btf_map(name = "ranges")]
pub(crate) static RANGES: Array<Range, { RANGE_ENTRIES as usize }, { BPF_F_MMAPABLE as usize }> =
    Array::new();

/// First pieces of fragmented datagrams. Written by: the program.
///
/// Full: the datagram that was longest without a piece is forgotten, and counted as `fragment`
/// should more of its pieces come.
#[btf_map(name = "fragments")]
pub(crate) static FRAGMENTS: LruHashMap<FragmentKey, Fragment, { MAX_FRAGMENTS as usize }> =
    LruHashMap::new();

/// IPv4 flows as clients send them. Written by: the program; the daemon removes ended flows.
///
/// Full: a new flow is dropped as `flow_table_full`, an active one is never harmed.
#[btf_map(name = "flows")]
pub(crate) static FLOWS: HashMap<FlowKey, Flow, { DEFAULT_MAX_FLOWS as usize }> = HashMap::new();

/// IPv6 flows as clients send them; otherwise as `flows`. Its entries are made when they are needed:
/// few sites have as many of them as of the others, and they are larger.
#[btf_map(name = "flows6")]
pub(crate) static FLOWS6: HashMap<
    FlowKey6,
    Flow,
    { DEFAULT_MAX_FLOWS as usize },
    { BPF_F_NO_PREALLOC as usize },
> = HashMap::new();

/// The translation of replies, and the allocation of SNAT ports. Written by: the program; the
/// daemon reads it through a mapping and frees records of ended flows.
#[btf_map(name = "records")]
pub(crate) static RECORDS: Array<
    Record,
    { DEFAULT_MAX_FLOWS as usize },
    { BPF_F_MMAPABLE as usize },
> = Array::new();

/// Client and group to backend. Written by: the program; the daemon removes expired entries.
///
/// Full: a new client is served by its hash and counted as `affinity_full`.
#[btf_map(name = "affinity")]
pub(crate) static AFFINITY: HashMap<AffinityKey, Affinity, { DEFAULT_MAX_AFFINITY as usize }> =
    HashMap::new();

/// Counters of each service and backend. Written by: the program.
#[btf_map(name = "stats")]
pub(crate) static STATS: PerCpuArray<Counters, { STATS_ENTRIES as usize }> = PerCpuArray::new();

/// Dropped packets by reason. Written by: the program.
#[btf_map(name = "drops")]
pub(crate) static DROPS: PerCpuArray<u64, { DROP_ENTRIES as usize }> = PerCpuArray::new();

// What follows is not pinned: nothing in it has to outlive the program.

/// Shortcuts to the records of flows; see [`crate::cache`]. Written by: the program. Mappable only
/// because that makes no set lie in two cache lines.
#[btf_map(name = "cache")]
pub(crate) static CACHE: Array<
    Set,
    { (DEFAULT_MAX_FLOWS * CACHE_PLACES_PER_FLOW / CACHE_WAYS) as usize },
    { BPF_F_MMAPABLE as usize },
> = Array::new();

/// Whole translations, each for a second; see [`crate::exact`]. Written by: the program. Mappable
/// for the same reason.
#[btf_map(name = "exact")]
pub(crate) static EXACT: Array<
    exact::Set,
    { MAX_EXACT_SETS as usize },
    { BPF_F_MMAPABLE as usize },
> = Array::new();

/// Counts the changes of what translations depend on; see [`crate::epoch`]. Written by: both.
#[btf_map(name = "epoch")]
pub(crate) static EPOCH: Array<u64, 1, { BPF_F_MMAPABLE as usize }> = Array::new();

/// Shortcuts to the slots of endpoints. Written by: the program.
#[btf_map(name = "endpoint_cache")]
pub(crate) static ENDPOINT_CACHE: Array<u32, { MAX_ENDPOINTS as usize }> = Array::new();

/// Copies of services, per processor; see [`crate::service`]. Written by: the program.
#[btf_map(name = "service_cache")]
pub(crate) static SERVICE_CACHE: PerCpuArray<service::Copied, { SERVICE_COPIES as usize }> =
    PerCpuArray::new();

/// Token buckets of sources and services; see [`crate::guard`]. Written by: the program.
#[btf_map(name = "buckets")]
pub(crate) static BUCKETS: Array<u64, { BUCKET_ENTRIES as usize }> = Array::new();

/// The next identification of a fragmented datagram. Written by: the program.
#[btf_map(name = "identification")]
pub(crate) static IDENTIFICATION: Array<u64, 1> = Array::new();

/// What the program knows of the packet at hand, per processor: the stack of a BPF program has 512
/// bytes.
#[btf_map(name = "scratch")]
pub(crate) static SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();
