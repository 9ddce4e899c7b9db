//! ICMP errors about translated packets: translated as well, with the packet that they quote
//! (RFC 5508 section 4.2, RFC 4443). So path-MTU discovery works through the translation.
//!
//! Only the first eight bytes behind the quoted IP header are needed (RFC 792).

use aya_ebpf::programs::XdpContext;
use lb_common::{checksum::Delta, record::Claim, verdict::DropReason};
use network_types::{
    icmp::Icmpv4Hdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
    udp::UdpHdr,
};

use crate::{
    flow,
    ip::Ip,
    packet,
    parse::{Parsed, UDP},
    pipeline::{Exit, Node, Scratch},
    record::{self, Place},
    reply,
    rewrite::{self, ip6_delta, raw},
    stats, transmit,
};

/// ICMP types (RFC 792): destination unreachable, time exceeded, parameter problem.
const ERRORS: [u8; 3] = [3, 11, 12];
/// ICMPv6 types (RFC 4443 section 2.1): the errors that are defined.
const ERRORS6: [u8; 4] = [1, 2, 3, 4];
/// Type and code of "port unreachable".
const PORT_UNREACHABLE: [u8; 2] = [3, 3];
/// The same of ICMPv6.
const PORT_UNREACHABLE6: [u8; 2] = [1, 4];

const IPV6_FRAGMENT: u8 = 44;

/// The packet that an error quotes.
#[derive(Clone, Copy)]
pub(crate) struct Quoted {
    /// Bytes from the start of the frame to its IP header.
    l3: usize,
    /// Bytes from the start of the frame to its UDP header.
    l4: usize,
    source: Ip,
    destination: Ip,
    source_port: u16,
    destination_port: u16,
}

/// Translates an ICMP error and sends it to whoever must know. Returns the XDP action.
///
/// Every other ICMP message, and errors about packets that were not translated, are the host's.
#[inline(always)]
pub(crate) fn forward(
    context: &XdpContext,
    node: &Node,
    scratch: &mut Scratch,
) -> Result<u32, Exit> {
    let parsed = &scratch.parsed;
    let header: &Icmpv4Hdr = packet::header(context, parsed.l4)?;
    let kind = [header.type_, header.code];
    if !is_error(kind[0], parsed.v6) {
        return Err(Exit::Pass);
    }
    let quoted = quoted(context, parsed)?;
    // Whoever complains to us complains about a packet that left with that source.
    if quoted.source != parsed.destination {
        return Err(Exit::Pass);
    }
    let to = match of_backend(node, &quoted) {
        Some(place) => {
            let to = reply::translate(node, &place)?;
            let unreachable = if parsed.v6 {
                PORT_UNREACHABLE6
            } else {
                PORT_UNREACHABLE
            };
            if kind == unreachable && parsed.source == quoted.destination {
                stats::unreachable(Claim::unpack(place.word).backend);
            }
            to
        }
        None => {
            let place = of_client(node, parsed, &quoted).ok_or(Exit::Pass)?;
            let backend = flow::backend(&place).ok_or(DropReason::Inconsistent)?;
            flow::translate(node, &place, backend)?
        }
    };
    // The quoted packet went the other way.
    let after = Quoted {
        source: to.destination,
        source_port: to.destination_port,
        destination: to.source,
        destination_port: to.source_port,
        ..quoted
    };
    scratch.outgoing = to;
    scratch.quoted = [quoted, after];
    rewrite::may_pass(&scratch.parsed)?;
    translate(context, scratch)?;
    Ok(transmit::transmit(
        context,
        node,
        &scratch.parsed,
        &scratch.outgoing,
    )?)
}

#[inline(always)]
fn is_error(kind: u8, v6: bool) -> bool {
    if v6 {
        ERRORS6.contains(&kind)
    } else {
        ERRORS.contains(&kind)
    }
}

/// Reads the packet that an error quotes: UDP, and not a later piece.
#[inline(always)]
fn quoted(context: &XdpContext, parsed: &Parsed) -> Result<Quoted, Exit> {
    let l3 = parsed.l4 + size_of::<Icmpv4Hdr>();
    let (l4, source, destination) = if parsed.v6 {
        let header: &Ipv6Hdr = packet::header(context, l3)?;
        let (source, destination) = (Ip::of(&header.src_addr), Ip::of(&header.dst_addr));
        let mut l4 = l3 + Ipv6Hdr::LEN;
        let mut next = header.next_hdr;
        if header.version() != 6 {
            return Err(Exit::Pass);
        }
        if next == IPV6_FRAGMENT {
            let fragment: &[u8; 8] = packet::header(context, l4)?;
            if u16::from_be_bytes([fragment[2], fragment[3]]) & 0xfff8 != 0 {
                return Err(Exit::Pass);
            }
            next = fragment[0];
            l4 += 8;
        }
        if next != UDP {
            return Err(Exit::Pass);
        }
        (l4, source, destination)
    } else {
        let header: &Ipv4Hdr = packet::header(context, l3)?;
        // As in `parse`.
        let header_len = usize::from(header.ihl() & 0x3c);
        let is_later_piece = u16::from_be_bytes(header.frags) & 0x1fff != 0;
        if header.version() != 4
            || header_len < Ipv4Hdr::LEN
            || header.proto != UDP
            || is_later_piece
        {
            return Err(Exit::Pass);
        }
        (
            l3 + header_len,
            Ip::v4(header.src_addr),
            Ip::v4(header.dst_addr),
        )
    };
    // What lies behind the packet is not covered by its checksum.
    if l4 + UdpHdr::LEN > parsed.l3 + parsed.ip_len {
        return Err(Exit::Pass);
    }
    let udp: &UdpHdr = packet::header(context, l4)?;
    Ok(Quoted {
        l3,
        l4,
        source,
        destination,
        source_port: u16::from_be_bytes(udp.src),
        destination_port: u16::from_be_bytes(udp.dst),
    })
}

/// Returns the record of a packet that we sent to a backend.
#[inline(always)]
fn of_backend(node: &Node, quoted: &Quoted) -> Option<Place> {
    let offset = node.snat_offset(quoted.source_port)?;
    let slot = reply::slot_of(quoted.source, quoted.destination, quoted.destination_port)?;
    let index = node.index(slot, offset);
    let record = crate::maps::RECORDS.get_ptr_mut(index)?;
    let word = record::read(record);
    record::translates(word).then_some(Place {
        record,
        index,
        slot,
        word,
    })
}

/// Returns the record of a packet that we sent to a client.
#[inline(always)]
fn of_client(node: &Node, parsed: &Parsed, quoted: &Quoted) -> Option<Place> {
    let (client, client_port) = (quoted.destination, quoted.destination_port);
    let (vip, vip_port) = (quoted.source, quoted.source_port);
    let flow = flow::lookup(parsed.v6, client, client_port, vip, vip_port)?;
    flow::place_of(node, &flow)
        .filter(|place| record::belongs(place.record, client, client_port, vip, vip_port))
}

/// Rewrites the message: its own addresses, and those and the ports of the packet that it quotes.
#[inline(always)]
fn translate(context: &XdpContext, scratch: &Scratch) -> Result<(), Exit> {
    let (parsed, to) = (&scratch.parsed, &scratch.outgoing);
    let [before, after] = &scratch.quoted;
    let outer = rewrite::network(context, parsed, to.source, to.destination)?;
    let (addresses, mut changed) = if parsed.v6 {
        let header: &mut Ipv6Hdr = packet::header(context, before.l3)?;
        let delta = ip6_delta(Delta::new(), before.source, after.source);
        let delta = ip6_delta(delta, before.destination, after.destination);
        after.source.store(&mut header.src_addr);
        after.destination.store(&mut header.dst_addr);
        // ICMPv6 covers the addresses of its own packet as well (RFC 4443 section 2.3).
        (delta, outer.and(delta))
    } else {
        let header: &mut Ipv4Hdr = packet::header(context, before.l3)?;
        let (source, destination) = (after.source.to_v4(), after.destination.to_v4());
        let delta = Delta::new()
            .raw32(
                u32::from_ne_bytes(header.src_addr),
                u32::from_ne_bytes(source),
            )
            .raw32(
                u32::from_ne_bytes(header.dst_addr),
                u32::from_ne_bytes(destination),
            );
        let checksum = delta.apply(raw(header.check));
        let changed = delta.word(raw(header.check), checksum);
        header.src_addr = source;
        header.dst_addr = destination;
        header.check = checksum.to_ne_bytes();
        (delta, changed)
    };
    let udp: &mut UdpHdr = packet::header(context, before.l4)?;
    let (source, destination) = (
        after.source_port.to_be_bytes(),
        after.destination_port.to_be_bytes(),
    );
    let ports = Delta::new()
        .word(raw(udp.src), raw(source))
        .word(raw(udp.dst), raw(destination));
    let checksum = addresses.and(ports).apply_udp(raw(udp.check));
    changed = changed.and(ports).word(raw(udp.check), checksum);
    udp.src = source;
    udp.dst = destination;
    udp.check = checksum.to_ne_bytes();
    let icmp: &mut Icmpv4Hdr = packet::header(context, parsed.l4)?;
    icmp.check = changed.apply(raw(icmp.check)).to_ne_bytes();
    Ok(())
}
