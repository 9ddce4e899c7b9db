//! Pieces of fragmented datagrams. Only the first has ports: what becomes of it is written down,
//! and the others follow it.

use aya_ebpf::programs::XdpContext;
use lb_common::{
    checksum::Delta,
    flow::Flow,
    fragment::{Fragment, FragmentKey},
    limits::FRAGMENT_LIFETIME_S,
    verdict::DropReason,
};
use network_types::ip::Ipv4Hdr;

use crate::{
    atomic, flow,
    maps::{FRAGMENTS, IDENTIFICATION},
    packet,
    parse::Parsed,
    pipeline::{Exit, Node},
    record::{self, Place},
    rewrite::raw,
    service,
    stats::Direction,
};

/// What a later piece follows.
pub(crate) struct Followed {
    /// The record of its flow.
    pub(crate) place: Place,
    /// Which way it goes.
    pub(crate) direction: Direction,
    /// The identification that the datagram leaves with.
    pub(crate) identification: u32,
}

/// Returns what a later piece follows.
///
/// # Errors
///
/// [`DropReason::Fragment`] for a VIP's datagram whose first piece has not come, or came too long
/// ago; [`DropReason::NoFlow`] if its flow has ended. Any other unknown piece is the host's.
#[inline(always)]
pub(crate) fn find(node: &Node, parsed: &Parsed) -> Result<Followed, Exit> {
    // SAFETY: the value is copied at once; one that is replaced meanwhile is compared with its
    // record by generation.
    let known = unsafe { FRAGMENTS.get(&key(parsed)).copied() }
        .filter(|known| node.now.saturating_sub(known.seen) <= FRAGMENT_LIFETIME_S);
    let Some(known) = known else {
        return Err(if service::is_vip(parsed.destination) {
            Exit::Drop(DropReason::Fragment)
        } else {
            Exit::Pass
        });
    };
    let direction = match known.direction {
        Fragment::FORWARD => Direction::In,
        Fragment::REPLY => Direction::Out,
        _ => return Err(Exit::Pass),
    };
    let named = Flow {
        record: known.record,
        generation: known.generation,
        ..Flow::NONE
    };
    let place = flow::place_of(node, &named).ok_or(DropReason::NoFlow)?;
    let Some(word) = record::alive(place.record, place.word) else {
        return Err(Exit::Drop(DropReason::NoFlow));
    };
    let place = Place { word, ..place };
    if direction == Direction::In && !flow::serves(&place) {
        return Err(Exit::Drop(DropReason::NoFlow));
    }
    Ok(Followed {
        place,
        direction,
        identification: known.identification,
    })
}

/// Writes down what becomes of a first piece; returns the identification that it leaves with.
///
/// The pieces of one datagram keep together by addresses and identification alone, and behind one
/// address of ours there are many senders: what leaves is numbered anew, by one counter.
#[inline(always)]
pub(crate) fn remember(node: &Node, parsed: &Parsed, place: &Place, direction: Direction) -> u32 {
    let identification = next_identification(parsed.v6);
    let direction = match direction {
        Direction::In => Fragment::FORWARD,
        Direction::Out => Fragment::REPLY,
    };
    write(
        parsed,
        Fragment {
            record: place.index,
            generation: place.word as u32,
            seen: node.now,
            identification,
            direction,
            _reserved: 0,
        },
    );
    identification
}

/// Writes down that a VIP's first piece is the host's.
#[inline(always)]
pub(crate) fn remember_host(node: &Node, parsed: &Parsed) {
    if service::is_vip(parsed.destination) {
        write(
            parsed,
            Fragment {
                record: 0,
                generation: 0,
                seen: node.now,
                identification: parsed.identification,
                direction: Fragment::HOST,
                _reserved: 0,
            },
        );
    }
}

/// Gives a piece another identification.
#[inline(always)]
pub(crate) fn renumber(
    context: &XdpContext,
    parsed: &Parsed,
    identification: u32,
) -> Result<(), Exit> {
    if parsed.v6 {
        let header: &mut [u8; 8] = packet::header(context, parsed.fragment)?;
        let [a, b, c, d] = identification.to_be_bytes();
        header[4] = a;
        header[5] = b;
        header[6] = c;
        header[7] = d;
        return Ok(());
    }
    let header: &mut Ipv4Hdr = packet::header(context, parsed.l3)?;
    let after = (identification as u16).to_be_bytes();
    let checksum = Delta::new()
        .word(raw(header.id), raw(after))
        .apply(raw(header.check));
    header.id = after;
    header.check = checksum.to_ne_bytes();
    Ok(())
}

#[inline(always)]
fn write(parsed: &Parsed, fragment: Fragment) {
    // The table makes room by itself; should it not, later pieces count as `fragment`.
    let _ = FRAGMENTS.insert(&key(parsed), &fragment, 0);
}

#[inline(always)]
fn key(parsed: &Parsed) -> FragmentKey {
    FragmentKey::new(
        parsed.source.bytes(),
        parsed.destination.bytes(),
        parsed.identification,
    )
}

#[inline(always)]
fn next_identification(v6: bool) -> u32 {
    let Some(counter) = IDENTIFICATION.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: `counter` points into the map, is aligned, and only ever changed here.
    let next = unsafe { atomic::increment(counter) };
    if v6 {
        next as u32
    } else {
        next as u32 & 0xffff
    }
}
