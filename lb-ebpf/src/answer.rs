//! What a router answers to a packet that is larger than the way out carries: "fragmentation
//! needed" (RFC 1191 section 4) or "packet too big" (RFC 4443 section 3.2). The frame itself is made
//! into the answer.

use aya_ebpf::programs::XdpContext;
use lb_common::verdict::DropReason;
use network_types::{
    icmp::Icmpv4Hdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
};

use crate::{
    link::{mac, store_mac},
    packet::{self, EthHdr, Truncated},
    parse::{ICMP, ICMPV6, Parsed},
    transmit::{ether_type, write_tags},
};

/// Bytes of the packet that an ICMP error quotes: the whole message has 576 at most (RFC 1812
/// section 4.3.2.3).
const QUOTE: usize = 576 - Ipv4Hdr::LEN - size_of::<Icmpv4Hdr>();
/// The same of an ICMPv6 error: the message has 1280 at most (RFC 4443 section 2.4, point c).
const QUOTE6: usize = 1280 - Ipv6Hdr::LEN - size_of::<Icmpv4Hdr>();
/// TTL of our own packets.
const TTL: u8 = 64;
/// Precedence "internetwork control", as routers' errors have (RFC 1812 section 4.3.2.5).
const TOS: u8 = 0xc0;

/// Makes the frame into an ICMP error with the MTU, for its sender.
///
/// The source is the address that the packet was sent to, which is one of ours.
///
/// # Errors
///
/// [`DropReason::TooBig`] when no answer could be made: an IPv4 packet shorter than the quote, on a
/// way that carries even less, or a driver without headroom.
#[inline(always)]
pub(crate) fn too_big(context: &XdpContext, parsed: &Parsed, mtu: u16) -> Result<(), DropReason> {
    let quote = if parsed.v6 { QUOTE6 } else { QUOTE };
    if parsed.ip_len < quote {
        return Err(DropReason::TooBig);
    }
    make(context, parsed, mtu, quote).map_err(|_| DropReason::TooBig)
}

#[inline(always)]
fn make(context: &XdpContext, parsed: &Parsed, mtu: u16, quote: usize) -> Result<(), Truncated> {
    let ethernet: &EthHdr = packet::header(context, 0)?;
    let our_mac = mac(&ethernet.dst_addr);
    let headers = if parsed.v6 {
        Ipv6Hdr::LEN
    } else {
        Ipv4Hdr::LEN
    } + size_of::<Icmpv4Hdr>();
    let surplus = packet::len(context) as i32 - (parsed.l3 + quote) as i32;
    packet::move_end(context, -surplus).map_err(|_| Truncated)?;
    // What stays of the packet then begins right behind the new headers.
    packet::move_start(context, -(headers as i32)).map_err(|_| Truncated)?;

    write_tags(context, &parsed.tags.plain(), ether_type(parsed.v6))?;
    let ethernet: &mut EthHdr = packet::header(context, 0)?;
    store_mac(parsed.source_mac, &mut ethernet.dst_addr);
    store_mac(our_mac, &mut ethernet.src_addr);
    if parsed.v6 {
        ipv6(context, parsed, mtu)
    } else {
        ipv4(context, parsed, mtu)
    }
}

/// Writes an IPv4 and an ICMP header: type 3, code 4.
#[inline(always)]
fn ipv4(context: &XdpContext, parsed: &Parsed, mtu: u16) -> Result<(), Truncated> {
    const LEN: u16 = (Ipv4Hdr::LEN + size_of::<Icmpv4Hdr>() + QUOTE) as u16;
    let header: &mut Ipv4Hdr = packet::header(context, parsed.l3)?;
    header.vihl = 0x45;
    header.tos = TOS;
    header.tot_len = LEN.to_be_bytes();
    header.id = [0; 2];
    header.frags = [0; 2];
    header.ttl = TTL;
    header.proto = ICMP;
    header.check = [0; 2];
    header.src_addr = parsed.destination.to_v4();
    header.dst_addr = parsed.source.to_v4();
    let sum = packet::sum::<{ Ipv4Hdr::LEN }>(context, parsed.l3, 0)?;
    let header: &mut Ipv4Hdr = packet::header(context, parsed.l3)?;
    header.check = folded(u64::from(sum));

    let l4 = parsed.l3 + Ipv4Hdr::LEN;
    let icmp: &mut Icmpv4Hdr = packet::header(context, l4)?;
    let [high, low] = mtu.to_be_bytes();
    icmp.type_ = 3;
    icmp.code = 4;
    icmp.check = [0; 2];
    icmp.data = [0, 0, high, low];
    let sum = packet::sum::<512>(context, l4, 0)?;
    let sum = packet::sum::<{ size_of::<Icmpv4Hdr>() + QUOTE - 512 }>(context, l4 + 512, sum)?;
    let icmp: &mut Icmpv4Hdr = packet::header(context, l4)?;
    icmp.check = folded(u64::from(sum));
    Ok(())
}

/// Writes an IPv6 and an ICMPv6 header: type 2, code 0.
#[inline(always)]
fn ipv6(context: &XdpContext, parsed: &Parsed, mtu: u16) -> Result<(), Truncated> {
    const LEN: u16 = (size_of::<Icmpv4Hdr>() + QUOTE6) as u16;
    let header: &mut Ipv6Hdr = packet::header(context, parsed.l3)?;
    header.vcf = [0x60, 0, 0, 0];
    header.payload_len = LEN.to_be_bytes();
    header.next_hdr = ICMPV6;
    header.hop_limit = TTL;
    parsed.destination.store(&mut header.src_addr);
    parsed.source.store(&mut header.dst_addr);

    let l4 = parsed.l3 + Ipv6Hdr::LEN;
    let icmp: &mut Icmpv4Hdr = packet::header(context, l4)?;
    let [high, low] = mtu.to_be_bytes();
    icmp.type_ = 2;
    icmp.code = 0;
    icmp.check = [0; 2];
    icmp.data = [0, 0, high, low];
    let sum = packet::sum::<512>(context, l4, 0)?;
    let sum = packet::sum::<512>(context, l4 + 512, sum)?;
    let sum = packet::sum::<{ size_of::<Icmpv4Hdr>() + QUOTE6 - 1024 }>(context, l4 + 1024, sum)?;
    // The pseudo-header (RFC 8200 section 8.1): what the checksum covers besides.
    let mut covered =
        u64::from(sum) + u64::from(LEN.to_be()) + u64::from(u16::from(ICMPV6).to_be());
    for word in [
        parsed.source.high,
        parsed.source.low,
        parsed.destination.high,
        parsed.destination.low,
    ] {
        covered += (word & 0xffff_ffff) + (word >> 32);
    }
    let icmp: &mut Icmpv4Hdr = packet::header(context, l4)?;
    icmp.check = folded(covered);
    Ok(())
}

/// Returns the checksum of a sum of words in memory order (RFC 1071).
#[inline(always)]
fn folded(sum: u64) -> [u8; 2] {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    (!(sum as u16)).to_ne_bytes()
}
