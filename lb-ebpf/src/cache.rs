//! Shortcuts past the hash tables: where the record of a flow, and the slot of an endpoint, was
//! last found.
//!
//! A shortcut is only a guess. Whoever follows it compares the record or the slot with the packet,
//! so one that leads nowhere, or elsewhere, costs a lookup and nothing else: nobody has to remove
//! any, and a program that replaces another begins with none.

use lb_common::{limits::MAX_ENDPOINTS, record::Record};

use crate::{
    ip::Ip,
    maps::{CACHE, ENDPOINT_CACHE, RECORDS, SLOTS},
    parse::{Parsed, UDP},
    record::{self, Place},
};

/// Places of one set of the flow cache: a cache line.
const WAYS: usize = 8;

/// Value of `cache`: shortcuts whose hashes lead here. Zero: none.
#[repr(C, align(64))]
pub(crate) struct Set {
    ways: [u64; WAYS],
}

/// The last index of `cache`, whose size is a power of two. Set by the daemon when it loads the
/// program.
#[unsafe(no_mangle)]
static CACHE_MASK: u32 = 0;

/// The hash of a flow, by a key that nobody outside knows: senders cannot aim at a set.
#[derive(Clone, Copy)]
pub(crate) struct FlowHash(u64);

impl FlowHash {
    #[inline(always)]
    pub(crate) fn of(seed: u64, parsed: &Parsed) -> Self {
        Self::new(
            seed,
            parsed.source,
            parsed.source_port,
            parsed.destination,
            parsed.destination_port,
        )
    }

    /// The hash of the flow that a record is of.
    #[inline(always)]
    fn of_record(seed: u64, record: &Record) -> Self {
        Self::new(
            seed,
            Ip::of(&record.client),
            record.client_port,
            Ip::of(&record.vip),
            record.vip_port,
        )
    }

    #[inline(always)]
    fn new(seed: u64, client: Ip, client_port: u16, vip: Ip, vip_port: u16) -> Self {
        let ports = u64::from(client_port) | u64::from(vip_port) << 16;
        let mut hash = (client.low ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        hash = (hash ^ hash >> 32 ^ vip.low ^ ports).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        if client.high != 0 {
            hash = (hash ^ hash >> 32 ^ client.high).wrapping_mul(0x94d0_49bb_1331_11eb);
            hash = (hash ^ hash >> 32 ^ vip.high).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        }
        Self(hash ^ hash >> 29)
    }

    /// Tells the flows of one set apart, as far as 28 bits can; never zero.
    #[inline(always)]
    fn tag(self) -> u64 {
        self.0 >> 36 | 1
    }

    /// The place in its set where a flow is looked for first.
    #[inline(always)]
    fn way(self) -> usize {
        self.0 as usize
    }

    #[inline(always)]
    fn set(self) -> u32 {
        // SAFETY: a plain number in read-only data.
        let mask = unsafe { (&raw const CACHE_MASK).read_volatile() };
        (self.0 >> 3) as u32 & mask
    }
}

/// A shortcut: 28 bits of tag, 12 of slot, 24 of record.
#[inline(always)]
fn pack(hash: FlowHash, index: u32, slot: u32) -> u64 {
    hash.tag() << 36 | u64::from(slot & 0xfff) << 24 | u64::from(index & 0xff_ffff)
}

const _: () = assert!(MAX_ENDPOINTS == 1 << 12);

/// Returns the record of the packet's flow, if the cache knows it and it still translates.
#[inline(always)]
pub(crate) fn find(parsed: &Parsed, hash: FlowHash) -> Option<Place> {
    let set = CACHE.get(hash.set())?;
    for turn in 0..WAYS {
        // SAFETY: a word of the map that others may write at the same time.
        let word =
            unsafe { (&raw const set.ways[(hash.way() + turn) & (WAYS - 1)]).read_volatile() };
        if word >> 36 != hash.tag() {
            continue;
        }
        let index = word as u32 & 0xff_ffff;
        let record = RECORDS.get_ptr_mut(index)?;
        let claim = record::read(record);
        let slot = (word >> 24) as u32 & 0xfff;
        if record::translates(claim)
            && record::belongs(
                record,
                parsed.source,
                parsed.source_port,
                parsed.destination,
                parsed.destination_port,
            )
        {
            return Some(Place {
                record,
                index,
                slot,
                word: record::alive(record, claim)?,
            });
        }
    }
    None
}

/// Remembers the record of a flow: in a free place of its set, in one whose shortcut leads nowhere
/// any more, or else in the place where it is looked for first.
///
/// A function of its own at run time as well, for the stack's sake.
#[inline(never)]
pub(crate) fn remember(parsed: &Parsed, seed: u64, index: u32, slot: u32) {
    let hash = FlowHash::of(seed, parsed);
    let Some(set) = CACHE.get_ptr_mut(hash.set()) else {
        return;
    };
    // SAFETY: `set` points into the map.
    let ways = unsafe { &raw mut (*set).ways };
    let mut chosen = hash.way() & (WAYS - 1);
    for turn in 0..WAYS {
        let way = (hash.way() + turn) & (WAYS - 1);
        // SAFETY: `way` is below the number of ways; as in `find`.
        let word = unsafe { (&raw const (*ways)[way]).read_volatile() };
        if word == 0 || word >> 36 == hash.tag() || leads_nowhere(seed, word) {
            chosen = way;
            break;
        }
    }
    // SAFETY: as above. One of two that write at the same time wins, and neither is wrong.
    unsafe { (&raw mut (*ways)[chosen]).write_volatile(pack(hash, index, slot)) };
}

/// Returns whether a shortcut's record is not of the flow that it was made for.
#[inline(always)]
fn leads_nowhere(seed: u64, word: u64) -> bool {
    let Some(record) = RECORDS.get_ptr_mut(word as u32 & 0xff_ffff) else {
        return true;
    };
    // SAFETY: `record` points into the map; a guess is all that comes of it.
    !record::translates(record::read(record))
        || FlowHash::of_record(seed, unsafe { &*record }).tag() != word >> 36
}

/// Returns where the endpoint that a reply came from is looked for first.
#[inline(always)]
fn endpoint_place(parsed: &Parsed) -> u32 {
    let mixed = (parsed.source.low ^ parsed.source.high).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        ^ (parsed.destination.low ^ u64::from(parsed.source_port))
            .wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (mixed >> 40) as u32 & (MAX_ENDPOINTS - 1)
}

/// Returns the slot of the endpoint that a reply came from, if the cache knows it.
#[inline(always)]
pub(crate) fn find_endpoint(parsed: &Parsed) -> Option<u32> {
    let slot = *ENDPOINT_CACHE.get(endpoint_place(parsed))?;
    let endpoint = SLOTS.get(slot)?;
    let is_it = endpoint.port == parsed.source_port
        && endpoint.protocol == UDP
        && Ip::of(&endpoint.snat) == parsed.destination
        && Ip::of(&endpoint.backend) == parsed.source;
    is_it.then_some(slot)
}

/// Remembers the slot of an endpoint.
#[inline(always)]
pub(crate) fn remember_endpoint(parsed: &Parsed, slot: u32) {
    if let Some(place) = ENDPOINT_CACHE.get_ptr_mut(endpoint_place(parsed)) {
        // SAFETY: `place` points into the map; a number is written at once.
        unsafe { place.write_volatile(slot) };
    }
}
