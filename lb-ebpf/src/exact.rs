//! Translations that need nothing else: an exact match cache in front of [`crate::cache`].
//!
//! The first packet of a flow in a second goes the way of [`crate::cache`], notes itself in the
//! flow's record, and leaves here all that its translation came to. The others of that second find
//! it by one lookup. So no entry is older than the last packet that the record knows of, and the
//! sweeper has no reason to end a flow that is translated from here.
//!
//! An entry holds for the epoch that it was made in as well, see [`crate::epoch`].

use lb_common::{
    limits::{EXACT_SETS, EXACT_WAYS, MAX_BACKENDS},
    record::Record,
};

use crate::{
    atomic,
    cache::FlowHash,
    epoch::Stamp,
    ip::Ip,
    link::{Mac, Tags},
    maps::{EXACT, RECORDS, SLOTS},
    parse::Parsed,
    pipeline::Node,
    rewrite::Outgoing,
    stats::{Counted, Direction},
};

/// Entries are read without a lock, between two looks at their stamp, and written between taking it
/// away and putting it back. On processors that do not keep this order the cache stays empty.
const KEEPS_ORDER: bool = cfg!(bpf_target_arch = "x86_64");

const WAYS: usize = EXACT_WAYS as usize;

/// Value of `exact`: two cache lines.
#[repr(C, align(128))]
pub(crate) struct Set {
    entries: [Entry; WAYS],
}

/// A usual packet's translation, in words that are loaded and stored at once:
///
/// | word | bits |
/// |---|---|
/// | 0 | the moment that it holds for, see [`Stamp`]; zero: none; [`TAKEN`]: being written |
/// | 1 | the packet's source address (32), destination address (32) |
/// | 2 | its source MAC address (48), place of the interface that it came in by (16) |
/// | 3 | its source port (16), destination port (16); the service (32) |
/// | 4 | the new source address (32), destination address (32) |
/// | 5 | the new source port (16), destination port (16); index of the interface (32) |
/// | 6 | the new destination MAC address (48), the longest IP packet (16) |
/// | 7 | the new source MAC address (48), the backend (15), the direction (1) |
type Entry = [u64; 8];

/// An entry that somebody is writing.
const TAKEN: u64 = u64::MAX;

/// Returns the translation of a usual packet, if it is known in this second.
#[inline(always)]
pub(crate) fn find(
    node: &Node,
    parsed: &Parsed,
    hash: FlowHash,
    stamp: Stamp,
) -> Option<(Outgoing, Counted)> {
    if !is_in_use(node) {
        return None;
    }
    let set = EXACT.get_ptr_mut(hash.exact_set())?;
    for way in 0..WAYS {
        // SAFETY: `set` points into the map; others may write the word at the same time.
        let word =
            |place: usize| unsafe { (&raw const (*set).entries[way][place]).read_volatile() };
        // Entries are taken in this order: behind one that is free there is seldom another, and
        // looking for it would cost strangers a cache miss.
        if word(0) != stamp.word() {
            return None;
        }
        if word(1) == pair(parsed.source, parsed.destination)
            && word(2) == with_mac(parsed.source_mac, u16::from(node.interface))
            && word(3) as u32 == ports(parsed.source_port, parsed.destination_port)
        {
            let found = unpack(word(3), word(4), word(5), word(6), word(7));
            // Whoever gives the entry to another flow changes its stamp first.
            if word(0) == stamp.word() {
                return Some(found);
            }
        }
    }
    None
}

/// Returns whether there are so few flows that most find an entry: for many more, looking for one
/// is but another cache miss. The flow cache is sized by their number.
#[inline(always)]
fn is_in_use(node: &Node) -> bool {
    KEEPS_ORDER && node.settings.cache_mask < EXACT_SETS
}

#[inline(always)]
fn unpack(
    service: u64,
    addresses: u64,
    ports_and_interface: u64,
    to: u64,
    from: u64,
) -> (Outgoing, Counted) {
    let outgoing = Outgoing {
        source: Ip::v4((addresses as u32).to_ne_bytes()),
        destination: Ip::v4(((addresses >> 32) as u32).to_ne_bytes()),
        source_mac: from & LOW_48,
        destination_mac: to & LOW_48,
        interface_index: (ports_and_interface >> 32) as u32,
        tags: Tags::NONE,
        source_port: ports_and_interface as u16,
        destination_port: (ports_and_interface >> 16) as u16,
        mtu: (to >> 48) as u16,
    };
    let counted = Counted {
        service: (service >> 32) as u8,
        backend: (from >> 48) as u16 & !OUT,
        direction: if from >> 63 == 0 {
            Direction::In
        } else {
            Direction::Out
        },
    };
    (outgoing, counted)
}

/// Remembers the translation of a usual packet for the rest of the second that `stamp` was taken in,
/// if there is room for another flow.
#[inline(always)]
pub(crate) fn remember(
    node: &Node,
    parsed: &Parsed,
    hash: FlowHash,
    stamp: Stamp,
    outgoing: &Outgoing,
    counted: &Counted,
) {
    if !is_in_use(node) || outgoing.tags != Tags::NONE {
        return;
    }
    let Some(set) = EXACT.get_ptr_mut(hash.exact_set()) else {
        return;
    };
    for way in 0..WAYS {
        // SAFETY: `set` points into the map.
        let entry = unsafe { &raw mut (*set).entries[way] };
        if take(entry, stamp) {
            let direction = match counted.direction {
                Direction::In => 0,
                Direction::Out => OUT,
            };
            let words = [
                stamp.word(),
                pair(parsed.source, parsed.destination),
                with_mac(parsed.source_mac, u16::from(node.interface)),
                u64::from(ports(parsed.source_port, parsed.destination_port))
                    | u64::from(counted.service) << 32,
                pair(outgoing.source, outgoing.destination),
                u64::from(ports(outgoing.source_port, outgoing.destination_port))
                    | u64::from(outgoing.interface_index) << 32,
                with_mac(outgoing.destination_mac, outgoing.mtu),
                with_mac(outgoing.source_mac, counted.backend | direction),
            ];
            for place in [1, 2, 3, 4, 5, 6, 7, 0] {
                // SAFETY: `entry` points into the map, and is ours alone until its stamp is there.
                unsafe { (&raw mut (*entry)[place]).write_volatile(words[place]) };
            }
            return;
        }
    }
}

/// Takes an entry that holds for another moment; returns whether it did.
#[inline(always)]
fn take(entry: *mut Entry, stamp: Stamp) -> bool {
    // SAFETY: `entry` points into the map, and its words are aligned.
    unsafe {
        let before = (&raw const (*entry)[0]).read_volatile();
        before != stamp.word()
            && before != TAKEN
            && atomic::swap(&raw mut (*entry)[0], before, TAKEN)
    }
}

/// Forgets both directions of the flow of a record, which lies in `slot` and stands for `snat_port`:
/// its client has come to another link.
///
/// A global function of the program, as `select::by_hash` is, for the verifier's sake; what it
/// returns says nothing.
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn forget_flow(seed: u64, index: u32, slot: u32, snat_port: u16) -> u32 {
    let (Some(record), Some(endpoint)) = (RECORDS.get_ptr_mut(index), SLOTS.get(slot)) else {
        return 0;
    };
    // SAFETY: `record` points into the map; its fields are plain values.
    let record: &Record = unsafe { &*record };
    forget(
        seed,
        (Ip::of(&record.client), record.client_port),
        (Ip::of(&record.vip), record.vip_port),
    );
    forget(
        seed,
        (Ip::of(&endpoint.backend), endpoint.port),
        (Ip::of(&endpoint.snat), snat_port),
    );
    1
}

/// Forgets the packets from one address and port to another.
#[inline(always)]
fn forget(seed: u64, from: (Ip, u16), to: (Ip, u16)) {
    let hash = FlowHash::new(seed, from.0, from.1, to.0, to.1);
    let Some(set) = EXACT.get_ptr_mut(hash.exact_set()) else {
        return;
    };
    for way in 0..WAYS {
        // SAFETY: `set` points into the map, and its words are aligned.
        unsafe {
            let entry = &raw mut (*set).entries[way];
            let word = |place: usize| (&raw const (*entry)[place]).read_volatile();
            let stamp = word(0);
            if stamp != TAKEN
                && word(1) == pair(from.0, to.0)
                && word(3) as u32 == ports(from.1, to.1)
            {
                atomic::swap(&raw mut (*entry)[0], stamp, 0);
            }
        }
    }
}

/// Returns two IPv4 addresses in one word.
#[inline(always)]
fn pair(one: Ip, other: Ip) -> u64 {
    one.low >> 32 | other.low >> 32 << 32
}

/// Returns two ports in one word.
#[inline(always)]
fn ports(one: u16, other: u16) -> u32 {
    u32::from(one) | u32::from(other) << 16
}

/// Returns a MAC address and a number in one word.
#[inline(always)]
fn with_mac(mac: Mac, number: u16) -> u64 {
    mac | u64::from(number) << 48
}

/// The MAC address of such a word.
const LOW_48: u64 = (1 << 48) - 1;

/// The direction beside the number of a backend.
const OUT: u16 = 1 << 15;

const _: () = assert!(MAX_BACKENDS <= OUT as u32);
