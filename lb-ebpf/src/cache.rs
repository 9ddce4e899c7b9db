//! Shortcuts past the hash tables: where the record of a flow, and the slot of an endpoint, was
//! last found.
//!
//! A shortcut is only a guess. Whoever follows it compares the record or the slot with the packet,
//! so one that leads nowhere, or elsewhere, costs a lookup and nothing else: nobody has to remove
//! any, and a program that replaces another begins with none.

use lb_common::{
    hash,
    limits::{CACHE_WAYS, MAX_ENDPOINTS, MAX_FLOWS},
    record::Record,
};

use crate::{
    ip::Ip,
    maps::{CACHE, ENDPOINT_CACHE, RECORDS, SLOTS},
    parse::{Parsed, UDP},
    pipeline::Node,
    record::{self, Place},
};

/// Places of one set of the flow cache: half a cache line.
const WAYS: usize = CACHE_WAYS as usize;

/// Value of `cache`: shortcuts whose hashes lead here. Zero: none.
#[repr(C, align(32))]
pub(crate) struct Set {
    ways: [u32; WAYS],
}

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

    /// The hash of packets from one address and port to another.
    #[inline(always)]
    pub(crate) fn new(seed: u64, from: Ip, from_port: u16, to: Ip, to_port: u16) -> Self {
        Self(hash::flow(
            seed,
            [from.high, from.low],
            from_port,
            [to.high, to.low],
            to_port,
        ))
    }

    /// Tells the flows of one set apart, as far as eight bits can; in the place of a shortcut. Never
    /// zero, as no place without a shortcut may look like one.
    #[inline(always)]
    fn tag(self) -> u32 {
        (self.0 >> 32) as u32 & TAG | 1 << INDEX_BITS
    }

    /// The place in its set where a flow is looked for first.
    #[inline(always)]
    fn way(self) -> usize {
        (self.0 >> 24) as usize
    }

    /// The set is drawn from the part of the cache that is in use.
    #[inline(always)]
    fn set(self, node: &Node) -> u32 {
        self.0 as u32 & node.settings.cache_mask
    }
}

/// Bits of a shortcut that are the record's index; the others are the tag.
const INDEX_BITS: u32 = 24;
const INDEX: u32 = (1 << INDEX_BITS) - 1;
const TAG: u32 = !INDEX;

const _: () = assert!(MAX_FLOWS <= INDEX + 1);

/// Returns the record of the packet's flow, if the cache knows it and it still translates.
#[inline(always)]
pub(crate) fn find(node: &Node, parsed: &Parsed, hash: FlowHash) -> Option<Place> {
    let set = CACHE.get(hash.set(node))?;
    // The first two of the places that follow are neighbours, and most flows are in one of them.
    let pair = (hash.way() & (WAYS - 1)) / 2;
    let pairs = (&raw const set.ways).cast::<[u64; WAYS / 2]>();
    // SAFETY: two words of the set, which is aligned; others may write them at the same time.
    let pair = unsafe { (&raw const (*pairs)[pair]).read_volatile() };
    let word = either(pair, hash.tag());
    if word & TAG == hash.tag()
        && let Some(place) = follow(node, parsed, word & INDEX)
    {
        return Some(place);
    }
    for turn in 0..WAYS {
        let way = (hash.way() ^ turn) & (WAYS - 1);
        // SAFETY: a word of the map that others may write at the same time.
        let word = unsafe { (&raw const set.ways[way]).read_volatile() };
        // Places are filled in this order, and never emptied.
        if word == 0 {
            return None;
        }
        if word & TAG == hash.tag()
            && let Some(place) = follow(node, parsed, word & INDEX)
        {
            return Some(place);
        }
    }
    None
}

/// Returns that of two shortcuts which has this tag, if one has. Without a branch: nobody foresees which
/// of the two it is, and a processor that guesses wrong loses what it has done ahead.
#[inline(always)]
fn either(pair: u64, tag: u32) -> u32 {
    let (one, other) = (pair as u32, (pair >> 32) as u32);
    let differs = u64::from((one & TAG ^ tag) >> INDEX_BITS);
    // All ones if they differ, else zero.
    let mask = (0_u64.wrapping_sub(differs) >> 32) as u32;
    one ^ (one ^ other) & mask
}

/// Returns the record that a shortcut leads to, if it is that of the packet's flow.
#[inline(always)]
fn follow(node: &Node, parsed: &Parsed, index: u32) -> Option<Place> {
    let record = RECORDS.get_ptr_mut(index)?;
    let word = record::read(record);
    let (client, vip) = (parsed.source, parsed.destination);
    let (client_port, vip_port) = (parsed.source_port, parsed.destination_port);
    if !record::translates(word) || !record::belongs(record, client, client_port, vip, vip_port) {
        return None;
    }
    Some(Place {
        record,
        index,
        slot: node.slot_of(index),
        word: record::alive(record, word)?,
    })
}

/// Remembers the record of a flow: in a free place of its set, in one whose shortcut leads nowhere
/// any more, or else in the place where it is looked for first.
///
/// A function of its own at run time as well, for the stack's sake.
#[inline(never)]
pub(crate) fn remember(node: &Node, parsed: &Parsed, index: u32) {
    let seed = node.settings.seed;
    let hash = FlowHash::of(seed, parsed);
    let Some(set) = CACHE.get_ptr_mut(hash.set(node)) else {
        return;
    };
    // SAFETY: `set` points into the map.
    let ways = unsafe { &raw mut (*set).ways };
    let mut chosen = hash.way() & (WAYS - 1);
    // What leads nowhere is looked for where nothing is free alone: each look is a cache miss.
    'search: for is_full in [false, true] {
        for turn in 0..WAYS {
            let way = (hash.way() ^ turn) & (WAYS - 1);
            // SAFETY: `way` is below the number of ways; as in `find`.
            let word = unsafe { (&raw const (*ways)[way]).read_volatile() };
            if word == 0 || word & TAG == hash.tag() || (is_full && leads_nowhere(seed, word)) {
                chosen = way;
                break 'search;
            }
        }
    }
    // SAFETY: as above. One of two that write at the same time wins, and neither is wrong.
    unsafe { (&raw mut (*ways)[chosen]).write_volatile(hash.tag() | index & INDEX) };
}

/// Returns whether a shortcut's record is not of the flow that it was made for.
#[inline(always)]
fn leads_nowhere(seed: u64, word: u32) -> bool {
    let Some(record) = RECORDS.get_ptr_mut(word & INDEX) else {
        return true;
    };
    // SAFETY: `record` points into the map; a guess is all that comes of it.
    !record::translates(record::read(record))
        || FlowHash::of_record(seed, unsafe { &*record }).tag() != word & TAG
}

/// Returns where an endpoint is looked for.
#[inline(always)]
fn endpoint_place(snat: Ip, backend: Ip, port: u16) -> u32 {
    let mut mixed =
        (backend.low.rotate_left(32) ^ backend.high).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ mixed >> 32 ^ snat.low ^ u64::from(port)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (mixed >> 44) as u32 & (MAX_ENDPOINTS - 1)
}

/// Returns the slot of the endpoint between one of our addresses and a backend, if the cache knows
/// it.
#[inline(always)]
pub(crate) fn find_endpoint(snat: Ip, backend: Ip, port: u16) -> Option<u32> {
    let slot = *ENDPOINT_CACHE.get(endpoint_place(snat, backend, port))?;
    let endpoint = SLOTS.get(slot)?;
    let is_it = endpoint.port == port
        && endpoint.protocol == UDP
        && Ip::of(&endpoint.snat) == snat
        && Ip::of(&endpoint.backend) == backend;
    is_it.then_some(slot)
}

/// Returns the slot that [`find_endpoint`] would look at.
#[inline(always)]
pub(crate) fn likely_slot(snat: Ip, backend: Ip, port: u16) -> Option<u32> {
    ENDPOINT_CACHE
        .get(endpoint_place(snat, backend, port))
        .copied()
}

/// Remembers the slot of an endpoint.
#[inline(always)]
pub(crate) fn remember_endpoint(snat: Ip, backend: Ip, port: u16, slot: u32) {
    if let Some(place) = ENDPOINT_CACHE.get_ptr_mut(endpoint_place(snat, backend, port)) {
        // SAFETY: `place` points into the map; a number is written at once.
        unsafe { place.write_volatile(slot) };
    }
}
