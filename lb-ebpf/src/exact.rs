//! Translations that need nothing else: an exact match cache in front of [`crate::cache`].
//!
//! The first packet of a flow in a second goes the way of [`crate::cache`], notes itself in the
//! flow's record, and leaves here all that its translation came to. The others of that second find
//! it by one lookup. So no entry is older than the last packet that the record knows of, and the
//! sweeper has no reason to end a flow that is translated from here.
//!
//! An entry holds for the epoch that it was made in as well, see [`crate::epoch`].

use aya_ebpf::programs::XdpContext;
use lb_common::{
    checksum::FoldedDelta,
    hash,
    limits::{EXACT_WAYS, MAX_BACKENDS},
    record::Record,
    settings::Settings,
};

use crate::{
    atomic,
    epoch::Stamp,
    ip::Ip,
    link::Mac,
    maps::{EXACT, RECORDS, SETTINGS, SLOTS},
    parse::Parsed,
    pipeline::{Moment, Node, interface},
    rewrite::Outgoing,
    stats::{self, Counted, Direction},
    transmit,
    usual::{self, Translation, addresses_in_order, ports_in_order},
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

/// A usual packet's translation, in words that are loaded and stored at once. What stands in headers
/// is in their order.
///
/// | word | bits, from the lowest |
/// |---|---|
/// | 0 | the moment that it holds for, see [`Stamp`], perhaps with [`FORGOTTEN`]; zero: none; [`TAKEN`]: being written |
/// | 1 | the packet's source address (32), destination address (32) |
/// | 2 | its source MAC address (48), place of the interface that it came in by (16) |
/// | 3 | its source port (16), destination port (16); what the translation changes in the checksum of the IP header (16) and of UDP (16) |
/// | 4 | the new source address (32), destination address (32) |
/// | 5 | the new source port (16), destination port (16); index of the interface (24), the service (8) |
/// | 6 | the new destination MAC address (48), the first bytes of the source MAC address (16) |
/// | 7 | its other bytes (32), the longest IP packet (16), the backend (15), the direction (1) |
type Entry = [u64; 8];

/// An entry that somebody is writing.
const TAKEN: u64 = u64::MAX;

/// Added to the stamp of an entry that was forgotten: it stays as it is until the stamp is over, since
/// a reader between its two looks could not tell a new entry of the same moment from the old one. No
/// stamp has this bit before the machine has run for 68 years.
const FORGOTTEN: u64 = 1 << 63;

/// What a packet is known by: words 1 and 2 of an entry, and the lower half of word 3.
#[derive(Clone, Copy)]
struct Key {
    addresses: u64,
    link: u64,
    ports: u32,
}

impl Key {
    #[inline(always)]
    fn set(&self, settings: &Settings) -> u32 {
        hash::exact_set(
            settings.seed,
            self.addresses,
            self.ports,
            settings.exact_mask,
        )
    }

    /// Returns whether an entry is of such packets.
    #[inline(always)]
    fn is_of(&self, entry: *const Entry) -> bool {
        word(entry, 1) == self.addresses
            && word(entry, 2) == self.link
            && word(entry, 3) as u32 == self.ports
    }
}

/// Reads a word that others may write at the same time.
#[inline(always)]
fn word(entry: *const Entry, place: usize) -> u64 {
    // SAFETY: `entry` points into the map, and `place` is one of its words.
    unsafe { (&raw const (*entry)[place]).read_volatile() }
}

/// Forwards a usual packet whose translation is known in this second, unless its service has to be
/// asked first because clients are being refused. Returns the XDP action; `None`: the packet has to go
/// the way of all others.
#[inline(always)]
pub(crate) fn forward_at_once(context: &XdpContext, moment: &mut Moment) -> Option<u32> {
    let (_, now) = moment.time();
    if moment.is_refusing() {
        return None;
    }
    let settings = SETTINGS.get(0)?;
    if !is_in_use(settings) {
        return None;
    }
    let (frame, ip_len) = usual::read(context)?;
    let interface_index = context.ingress_ifindex() as u32;
    let place = interface(settings, interface_index, usual::destination_mac(frame)).ok()?;
    forward(
        settings,
        interface_index,
        place,
        Stamp::now(now),
        frame,
        ip_len,
    )
}

/// Forwards a usual packet, with an IP packet of `ip_len` bytes, whose translation is known in the
/// second of `stamp`; it came in by the interface of this index, which has this place in the settings.
/// Returns the XDP action; `None`: the packet is as it was.
///
/// While the cache is not in use nothing is remembered, so nothing is found.
///
/// All that this does to a packet the other parts of the program do as well. It is here because
/// nothing else is as much of the work: the frame is read and written in words, as entries have
/// them.
#[inline(always)]
pub(crate) fn forward(
    settings: &Settings,
    interface_index: u32,
    place: u8,
    stamp: Stamp,
    frame: &mut usual::Frame,
    ip_len: usize,
) -> Option<u32> {
    if usual::ttl(frame) <= 1 {
        return None;
    }
    let stamp = stamp.word();
    let key = Key {
        addresses: usual::addresses(frame),
        link: with_mac(usual::source_mac(frame), u16::from(place)),
        ports: usual::ports(frame),
    };
    let set = EXACT.get_ptr_mut(key.set(settings))?;
    for way in 0..WAYS {
        // SAFETY: `set` points into the map.
        let entry = unsafe { &raw const (*set).entries[way] };
        // Entries are taken in this order: behind one that is free there is seldom another, and
        // looking for it would cost strangers a cache miss.
        if word(entry, 0) != stamp {
            return None;
        }
        if key.is_of(entry) {
            let deltas = word(entry, 3) >> 32;
            let addresses = word(entry, 4);
            let ports_and_more = word(entry, 5);
            let macs = word(entry, 6);
            let mac_and_more = word(entry, 7);
            // Whoever gives the entry to another flow changes its stamp first, and to another one.
            if word(entry, 0) != stamp || ip_len > usize::from((mac_and_more >> 32) as u16) {
                return None;
            }
            let translation = Translation {
                addresses,
                ports: ports_and_more as u32,
                deltas: [deltas as u16, (deltas >> 16) as u16].map(FoldedDelta::from_bits),
                macs,
                rest_of_macs: mac_and_more as u32,
            };
            translation.apply(frame);
            let backend_and_direction = (mac_and_more >> 48) as u16;
            let counted = Counted {
                service: (ports_and_more >> 56) as u8,
                backend: backend_and_direction & !OUT,
                direction: if backend_and_direction & OUT == 0 {
                    Direction::In
                } else {
                    Direction::Out
                },
            };
            stats::count(&counted, usual::bytes(ip_len));
            let out = (ports_and_more >> 32) as u32 & MAX_INTERFACE_INDEX;
            return Some(transmit::send(interface_index, out));
        }
    }
    None
}

/// Returns whether there are so few flows that all find room.
#[inline(always)]
fn is_in_use(settings: &Settings) -> bool {
    KEEPS_ORDER && settings.exact_mask != 0
}

/// Remembers what usual packets like `parsed` become for the rest of the second that `stamp` was taken
/// in, if there is room for another flow.
#[inline(always)]
pub(crate) fn remember(
    node: &Node,
    parsed: &Parsed,
    stamp: Stamp,
    translation: &Translation,
    outgoing: &Outgoing,
    counted: &Counted,
) {
    if !is_in_use(node.settings) || outgoing.interface_index > MAX_INTERFACE_INDEX {
        return;
    }
    let key = Key {
        addresses: addresses_in_order(parsed.source, parsed.destination),
        link: with_mac(parsed.source_mac, u16::from(node.interface)),
        ports: ports_in_order(parsed.source_port, parsed.destination_port),
    };
    let Some(set) = EXACT.get_ptr_mut(key.set(node.settings)) else {
        return;
    };
    for way in 0..WAYS {
        // SAFETY: `set` points into the map.
        let entry = unsafe { &raw mut (*set).entries[way] };
        let before = word(entry, 0);
        if before & !FORGOTTEN == stamp.word() {
            if key.is_of(entry) {
                return;
            }
        } else if take(entry, before) {
            fill(entry, &key, stamp, translation, outgoing, counted);
            return;
        }
    }
}

/// Takes an entry that nobody is writing; returns whether it did.
#[inline(always)]
fn take(entry: *mut Entry, before: u64) -> bool {
    // SAFETY: `entry` points into the map, and its words are aligned.
    before != TAKEN && unsafe { atomic::swap(&raw mut (*entry)[0], before, TAKEN) }
}

/// Fills an entry that is taken, and puts its stamp there.
#[inline(always)]
fn fill(
    entry: *mut Entry,
    key: &Key,
    stamp: Stamp,
    translation: &Translation,
    outgoing: &Outgoing,
    counted: &Counted,
) {
    let [ip, udp] = translation.deltas.map(FoldedDelta::to_bits).map(u64::from);
    let direction = match counted.direction {
        Direction::In => 0,
        Direction::Out => OUT,
    };
    let mtu = match outgoing.mtu {
        0 => u16::MAX,
        mtu => mtu,
    };
    let words = [
        stamp.word(),
        key.addresses,
        key.link,
        u64::from(key.ports) | ip << 32 | udp << 48,
        translation.addresses,
        u64::from(translation.ports)
            | u64::from(outgoing.interface_index) << 32
            | u64::from(counted.service) << 56,
        translation.macs,
        u64::from(translation.rest_of_macs)
            | u64::from(mtu) << 32
            | u64::from(counted.backend | direction) << 48,
    ];
    for place in [1, 2, 3, 4, 5, 6, 7, 0] {
        // SAFETY: `entry` points into the map, and is ours alone until its stamp is there.
        unsafe { (&raw mut (*entry)[place]).write_volatile(words[place]) };
    }
}

/// Forgets both directions of the flow of a record, which lies in `slot` and stands for `snat_port`:
/// its client has come to another link.
///
/// A global function of the program, as `select::by_hash` is, for the verifier's sake; what it
/// returns says nothing.
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn forget_flow(index: u32, slot: u32, snat_port: u16) -> u32 {
    let (Some(settings), Some(record), Some(endpoint)) =
        (SETTINGS.get(0), RECORDS.get_ptr_mut(index), SLOTS.get(slot))
    else {
        return 0;
    };
    // SAFETY: `record` points into the map; its fields are plain values.
    let record: &Record = unsafe { &*record };
    forget(
        settings,
        addresses_in_order(Ip::of(&record.client), Ip::of(&record.vip)),
        ports_in_order(record.client_port, record.vip_port),
    );
    forget(
        settings,
        addresses_in_order(Ip::of(&endpoint.backend), Ip::of(&endpoint.snat)),
        ports_in_order(endpoint.port, snat_port),
    );
    1
}

/// Forgets the packets between these addresses and ports, whatever link they come from.
#[inline(always)]
fn forget(settings: &Settings, addresses: u64, ports: u32) {
    let place = hash::exact_set(settings.seed, addresses, ports, settings.exact_mask);
    let Some(set) = EXACT.get_ptr_mut(place) else {
        return;
    };
    for way in 0..WAYS {
        // SAFETY: `set` points into the map.
        let entry = unsafe { &raw mut (*set).entries[way] };
        let stamp = word(entry, 0);
        if stamp != TAKEN && word(entry, 1) == addresses && word(entry, 3) as u32 == ports {
            // SAFETY: as above; the word is aligned.
            unsafe { atomic::swap(&raw mut (*entry)[0], stamp, stamp | FORGOTTEN) };
        }
    }
}

/// Returns a MAC address and a number in one word.
#[inline(always)]
fn with_mac(mac: Mac, number: u16) -> u64 {
    mac | u64::from(number) << 48
}

/// The direction beside the number of a backend.
const OUT: u16 = 1 << 15;

const _: () = assert!(MAX_BACKENDS <= OUT as u32);

/// The largest index of an interface that an entry has room for.
const MAX_INTERFACE_INDEX: u32 = (1 << 24) - 1;
