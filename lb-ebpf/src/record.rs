//! Records: SNAT ports claimed, kept and freed by compare-and-swap. The states and who may change
//! them are described in `lb_common::record`.

use lb_common::{
    affinity::is_touch_due,
    backend::Backend,
    hash,
    limits::{MAX_SNAT_ADDRESSES, SNAT_PROBES},
    record::{Claim, Record, State},
    settings::Settings,
    verdict::DropReason,
};

use crate::{
    affinity, atomic, exact,
    ip::Ip,
    link::{Mac, Tags, mac, store_mac},
    maps::{RECORDS, SETTINGS},
    parse::{Parsed, UDP},
    pipeline::Node,
    reply,
    select::Chosen,
};

/// A record, found or claimed.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    /// The record.
    pub(crate) record: *mut Record,
    /// Its index.
    pub(crate) index: u32,
    /// The endpoint's slot that the index lies in.
    pub(crate) slot: u32,
    /// What its claim was when it was found live, or was set to.
    pub(crate) word: u64,
}

impl Place {
    /// Returns the place of a record whose claim was `word`.
    #[inline(always)]
    pub(crate) fn at(index: u32, slot: u32, word: u64) -> Option<Self> {
        let record = RECORDS.get_ptr_mut(index)?;
        Some(Self {
            record,
            index,
            slot,
            word,
        })
    }
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
) -> Result<Place, DropReason> {
    let mut search = Search::of(parsed, chosen.backend);
    for _ in 0..MAX_SNAT_ADDRESSES {
        let Some(place) = search.next() else {
            break;
        };
        let snat = Ip::of(&node.settings.snat_addresses[place]);
        let backend = Ip::of(&chosen.backend.address);
        let Some(slot) = reply::slot_of(snat, backend, backend_port) else {
            continue;
        };
        let index = take_in_slot(slot, parsed.source_port, search.start, chosen.id, node.now);
        let Some(place) = Place::at(index, slot, 0) else {
            continue;
        };
        return Ok(Place {
            word: read(place.record),
            ..place
        });
    }
    Err(DropReason::SnatPortsExhausted)
}

/// The SNAT addresses that a backend is reached from, in the order in which a flow tries them.
pub(crate) struct Search {
    /// A hash of the flow: the place in the settings that the order begins with.
    pub(crate) start: u32,
    /// A bit for each place from there on whose address is still to be tried.
    left: u32,
}

impl Search {
    /// Returns those of `backend`, for the packet's flow.
    #[inline(always)]
    pub(crate) fn of(parsed: &Parsed, backend: &Backend) -> Self {
        let start = hash::source_and_port(&parsed.source.bytes(), parsed.source_port);
        let both =
            u32::from(backend.snat_mask) << MAX_SNAT_ADDRESSES | u32::from(backend.snat_mask);
        Self {
            start,
            left: both >> (start as usize % MAX_SNAT_ADDRESSES) & ((1 << MAX_SNAT_ADDRESSES) - 1),
        }
    }

    /// Returns the place in the settings of the next one.
    #[inline(always)]
    pub(crate) fn next(&mut self) -> Option<usize> {
        if self.left == 0 {
            return None;
        }
        let turn = self.left.trailing_zeros();
        self.left &= self.left - 1;
        Some(self.start.wrapping_add(turn) as usize % MAX_SNAT_ADDRESSES)
    }
}

/// Returns the offset into the SNAT range that is tried first for a flow with this hash: that of the
/// client's own port, or any where that lies outside.
#[inline(always)]
pub(crate) fn first_offset(settings: &Settings, own_port: u16, hash: u32) -> u32 {
    if let Some(offset) = settings.snat_offset(own_port) {
        return offset;
    }
    // The upper half makes the strides.
    ((hash & 0xffff) * u32::from(settings.snat_port_count)) >> 16
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
    if count == 0 {
        return NONE;
    }
    // A range that can be tried entirely is tried in order; a wider one in strides that begin with an
    // eighth to seven eighths of it: clients of one kind use the same part of all ports, and a search
    // in short steps would not leave it. The strides grow, because equal ones that divide the range would
    // come back to the same few ports. The sign bit instead of a condition: the verifier would follow
    // both outcomes through the whole loop.
    let wide = SNAT_PROBES.wrapping_sub(count) >> 31;
    let eighth = count / 8;
    let mut stride = 1 + wide * (eighth + ((start >> 16) * (count - 2 * eighth) >> 16));
    let mut offset = first_offset(settings, preferred, start);
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

/// Fills a claimed record and makes it live; returns its place with the new claim.
#[inline(always)]
pub(crate) fn publish(node: &Node, parsed: &Parsed, service: u8, place: Place) -> Place {
    let word = Claim::unpack(place.word).with_state(State::Live).pack();
    let record = place.record;
    // SAFETY: `record` points into the map, and in state `Claimed` it is ours alone.
    unsafe {
        parsed.source.store(&mut (*record).client);
        parsed.destination.store(&mut (*record).vip);
        (*record).client_port = parsed.source_port;
        (*record).vip_port = parsed.destination_port;
        (*record).last_seen = node.now;
        store_mac(parsed.source_mac, &mut (*record).client_mac);
        (*record).vlan = parsed.tags.plain();
        (*record).service = service;
        (*record).interface = node.interface;
        (*record).replied = 0;
        (&raw mut (*record).claim).write_volatile(word);
    }
    Place { word, ..place }
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

/// Returns whether a record with this claim translates: it is live, or about to be closed.
#[inline(always)]
pub(crate) fn translates(word: u64) -> bool {
    // `Live` is 2 and `Closing` 3, in the top byte.
    word >> 57 == 1
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

/// Returns whether the record is that of the flow from `client` to `vip`.
#[inline(always)]
pub(crate) fn belongs(
    record: *mut Record,
    client: Ip,
    client_port: u16,
    vip: Ip,
    vip_port: u16,
) -> bool {
    // SAFETY: `record` points into the map; what it holds is checked again through its claim.
    let record = unsafe { &*record };
    record.client_port == client_port
        && record.vip_port == vip_port
        && Ip::of(&record.client) == client
        && Ip::of(&record.vip) == vip
}

/// Notes a packet of the client: the time, and where replies are to go.
#[inline(always)]
pub(crate) fn touch(node: &Node, parsed: &Parsed, place: &Place) {
    // SAFETY: `record` points into the map. The fields are stored plainly: two packets of one flow
    // on two processors both write what is true of one of them.
    let record = unsafe { &mut *place.record };
    if mac(&record.client_mac) != parsed.source_mac
        || Tags::of(&record.vlan) != parsed.tags
        || record.interface != node.interface
    {
        store_mac(parsed.source_mac, &mut record.client_mac);
        record.vlan = parsed.tags.plain();
        record.interface = node.interface;
        exact::forget_flow(place.index, place.slot, node.snat_port(place));
    }
    mark(node, place);
}

/// Notes a packet of the backend.
#[inline(always)]
pub(crate) fn touch_reply(node: &Node, place: &Place) {
    // SAFETY: as in `touch`.
    let record = unsafe { &mut *place.record };
    if record.replied == 0 {
        record.replied = 1;
        affinity::answered(node, place.index);
    }
    mark(node, place);
}

/// Notes the time of a packet in the record, and now and then in the client's affinity entry: it
/// does not age while a flow lives.
#[inline(always)]
fn mark(node: &Node, place: &Place) {
    // SAFETY: as in `touch`.
    let record = unsafe { &mut *place.record };
    let before = record.last_seen;
    if before != node.now {
        record.last_seen = node.now;
        if is_touch_due(before, node.now) {
            affinity::touch(node, place.index);
        }
    }
}

/// The link that the client's packets last came from.
pub(crate) struct ClientLink {
    /// Place in the settings of the interface.
    pub(crate) interface: u8,
    /// MAC address of whoever sent them.
    pub(crate) mac: Mac,
    /// Their tags.
    pub(crate) tags: Tags,
}

/// Returns where replies of the record go.
#[inline(always)]
pub(crate) fn client_link(record: *mut Record) -> ClientLink {
    // SAFETY: `record` points into the map; its fields are plain values.
    let record = unsafe { &*record };
    ClientLink {
        interface: record.interface,
        mac: mac(&record.client_mac),
        tags: Tags::of(&record.vlan),
    }
}

/// Sets a record's claim to `new` if it is still `old`.
#[inline(always)]
fn swap(record: *mut Record, old: u64, new: u64) -> bool {
    // SAFETY: `record` points into the map, and the claim is its first, aligned word.
    unsafe { atomic::swap(&raw mut (*record).claim, old, new) }
}
