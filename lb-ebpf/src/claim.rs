//! Records: SNAT ports claimed, kept and freed by compare-and-swap. The states and who may change
//! them are described in `lb_common::record`.

use core::intrinsics::{AtomicOrdering, atomic_cxchg};

use lb_common::{
    addr::words,
    endpoint::EndpointKey,
    hash,
    limits::{MAX_SNAT_ADDRESSES, SNAT_PROBES},
    record::{Claim, Record, State},
    verdict::DropReason,
};

use crate::{
    maps::{ENDPOINTS, RECORDS, SETTINGS},
    parse::{Parsed, UDP},
    pipeline::{Node, mac_number},
    select::Chosen,
};

/// A record that has just been claimed: nobody else reads or writes it until it is published.
pub(crate) struct Claimed {
    /// The record.
    pub(crate) record: *mut Record,
    /// Its index.
    pub(crate) index: u32,
    /// What its claim was set to.
    pub(crate) claim: Claim,
    /// Place of the SNAT address in the settings.
    pub(crate) snat_address: u8,
    /// The SNAT port.
    pub(crate) snat_port: u16,
}

/// Claims an SNAT port towards a backend: the client's own port where it is free, else any.
///
/// # Errors
///
/// [`DropReason::SnatPortsExhausted`] when every port that was tried is taken or rests.
#[inline(always)]
pub(crate) fn allocate(
    node: &Node,
    parsed: &Parsed,
    chosen: &Chosen,
    backend_port: u16,
) -> Result<Claimed, DropReason> {
    let start = hash::source_and_port(&parsed.source, parsed.source_port);
    for turn in 0..MAX_SNAT_ADDRESSES {
        let place = (start as usize + turn) & (MAX_SNAT_ADDRESSES - 1);
        if (chosen.backend.snat_mask >> place) & 1 == 0 {
            continue;
        }
        let key = EndpointKey::new(
            node.settings.snat_addresses[place],
            chosen.backend.address,
            backend_port,
            UDP,
        );
        // SAFETY: endpoints change by replacement of the whole value, seldom.
        let Some(endpoint) = (unsafe { ENDPOINTS.get(&key) }) else {
            continue;
        };
        let index = take_in_slot(
            endpoint.slot,
            parsed.source_port,
            start,
            chosen.id,
            node.now,
        );
        let Some(record) = RECORDS.get_ptr_mut(index) else {
            continue;
        };
        let first = u32::from(node.settings.snat_port_first);
        let count = u32::from(node.settings.snat_port_count);
        return Ok(Claimed {
            record,
            index,
            claim: Claim::unpack(read(record)),
            snat_address: place as u8,
            snat_port: (first + index.wrapping_sub(endpoint.slot * count)) as u16,
        });
    }
    Err(DropReason::SnatPortsExhausted)
}

/// No record was claimed.
const NONE: u32 = u32::MAX;

/// Claims a record in one slot, preferably that of the port `preferred`; returns its index, or
/// [`NONE`].
///
/// A global function of the program, as `select::by_hash` is, for the verifier's sake.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn take_in_slot(slot: u32, preferred: u16, start: u32, backend: u16, now: u32) -> u32 {
    let Some(settings) = SETTINGS.get(0) else {
        return NONE;
    };
    let count = u32::from(settings.snat_port_count);
    let first = u32::from(settings.snat_port_first);
    if count == 0 {
        return NONE;
    }
    // A range that can be tried entirely is tried in order; a wider one in strides, so that a
    // block of taken ports does not lengthen the search. The strides grow, because equal ones that
    // divide the range would come back to the same few ports. The sign bit instead of a condition:
    // the verifier would follow both outcomes through the whole loop.
    let wide = SNAT_PROBES.wrapping_sub(count) >> 31;
    let mut stride = 1 + wide * ((start >> 16) % count);
    let mut offset = u32::from(preferred).wrapping_sub(first);
    if offset >= count {
        offset = start % count;
    }
    for _ in 0..SNAT_PROBES {
        let index = slot * count + offset;
        let Some(record) = RECORDS.get_ptr_mut(index) else {
            return NONE;
        };
        if take(record, backend, now, settings.quarantine_s) {
            return index;
        }
        offset = (offset + stride) % count;
        stride += wide;
    }
    NONE
}

/// Takes one record if it is free and has rested; returns whether it did.
#[inline(always)]
fn take(record: *mut Record, backend: u16, now: u32, quarantine_s: u32) -> bool {
    let word = read(record);
    if Claim::unpack(word).state != State::Free {
        return false;
    }
    // SAFETY: `record` points into the map.
    let freed = unsafe { (*record).last_seen };
    // A sum and no difference: the daemon's clock may be a timer tick ahead of ours, and a record
    // have been freed in a second that has not begun here.
    if word != 0 && now < freed.wrapping_add(quarantine_s) {
        return false;
    }
    let taken = Claim {
        generation: (word as u32).wrapping_add(1),
        backend,
        protocol: UDP,
        state: State::Claimed,
    };
    swap(record, word, taken.pack())
}

/// Fills a claimed record and makes it live.
#[inline(always)]
pub(crate) fn publish(node: &Node, parsed: &Parsed, service: u8, claimed: &Claimed) -> u64 {
    let word = claimed.claim.with_state(State::Live).pack();
    let record = claimed.record;
    // SAFETY: `record` points into the map, and in state `Claimed` it is ours alone.
    unsafe {
        (*record).client = parsed.source;
        (*record).vip = parsed.destination;
        (*record).client_port = parsed.source_port;
        (*record).vip_port = parsed.destination_port;
        (*record).last_seen = node.now;
        (*record).client_mac = parsed.source_mac;
        (*record).vlan = parsed.vlan;
        (*record).service = service;
        (*record).interface = node.interface;
        (*record).replied = 0;
        (&raw mut (*record).claim).write_volatile(word);
    }
    word
}

/// Frees a live record whose forward entry the caller has replaced, or never made.
#[inline(always)]
pub(crate) fn free(node: &Node, record: *mut Record, word: u64) {
    // SAFETY: `record` points into the map. The time of release is written first: from the swap
    // on, others read it.
    unsafe { (*record).last_seen = node.now };
    swap(
        record,
        word,
        Claim::unpack(word).with_state(State::Free).pack(),
    );
}

/// Returns the claim of a record as a word.
#[inline(always)]
pub(crate) fn read(record: *mut Record) -> u64 {
    // SAFETY: `record` points into the map; the word is read at once.
    unsafe { (&raw const (*record).claim).read_volatile() }
}

/// Returns the claim in state `Live` if the record translates. One that was about to be closed is
/// kept: this packet needs it.
#[inline(always)]
pub(crate) fn alive(record: *mut Record, word: u64) -> Option<u64> {
    let claim = Claim::unpack(word);
    match claim.state {
        State::Live => Some(word),
        State::Closing => {
            let live = claim.with_state(State::Live).pack();
            swap(record, word, live).then_some(live)
        }
        State::Free | State::Claimed => None,
    }
}

/// Returns whether the record is the one of the flow that `parsed` belongs to.
#[inline(always)]
pub(crate) fn belongs(record: *mut Record, parsed: &Parsed) -> bool {
    // SAFETY: `record` points into the map; it is checked again through its claim.
    let (client, port) = unsafe { (&(*record).client, (*record).client_port) };
    port == parsed.source_port && words(client) == words(&parsed.source)
}

/// Notes a packet of the client: the time, and where replies are to go. Returns whether a second
/// has passed since the last one.
#[inline(always)]
pub(crate) fn touch(node: &Node, parsed: &Parsed, record: *mut Record) -> bool {
    // SAFETY: `record` points into the map. The fields are stored plainly: two packets of one flow
    // on two processors both write what is true of one of them.
    unsafe {
        if mac_number((*record).client_mac) != mac_number(parsed.source_mac)
            || (*record).interface != node.interface
            || (*record).vlan != parsed.vlan
        {
            (*record).client_mac = parsed.source_mac;
            (*record).interface = node.interface;
            (*record).vlan = parsed.vlan;
        }
        let aged = (*record).last_seen != node.now;
        if aged {
            (*record).last_seen = node.now;
        }
        aged
    }
}

/// Sets a record's claim to `new` if it is still `old`.
#[inline(always)]
fn swap(record: *mut Record, old: u64, new: u64) -> bool {
    // SAFETY: `record` points into the map, and the claim is its first, aligned word.
    unsafe {
        atomic_cxchg::<u64, { AtomicOrdering::SeqCst }, { AtomicOrdering::SeqCst }>(
            &raw mut (*record).claim,
            old,
            new,
        )
        .1
    }
}
