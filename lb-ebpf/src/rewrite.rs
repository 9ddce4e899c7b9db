//! Translation: addresses, ports, TTL and checksums.

use aya_ebpf::programs::XdpContext;
use lb_common::{checksum::Delta, verdict::DropReason};
use network_types::{
    ip::{Ipv4Hdr, Ipv6Hdr},
    udp::UdpHdr,
};

use crate::{
    ip::Ip,
    link::{Mac, Tags},
    packet,
    parse::Parsed,
    pipeline::Exit,
};

/// What a packet becomes: its addresses and ports, and the link that it leaves by.
#[derive(Clone, Copy)]
pub(crate) struct Outgoing {
    /// Source address.
    pub(crate) source: Ip,
    /// Destination address.
    pub(crate) destination: Ip,
    /// Source MAC address.
    pub(crate) source_mac: Mac,
    /// Destination MAC address.
    pub(crate) destination_mac: Mac,
    /// Index of the interface.
    pub(crate) interface_index: u32,
    /// 802.1Q tags.
    pub(crate) tags: Tags,
    /// Source port.
    pub(crate) source_port: u16,
    /// Destination port.
    pub(crate) destination_port: u16,
    /// Largest IP packet that the interface carries, in bytes; zero: not known.
    pub(crate) mtu: u16,
}

/// Returns whether the packet may still pass a router (RFC 1812 section 5.3.1, RFC 8200 section 3).
///
/// # Errors
///
/// [`DropReason::TtlExpired`].
#[inline(always)]
pub(crate) fn may_pass(parsed: &Parsed) -> Result<(), DropReason> {
    if parsed.ttl <= 1 {
        return Err(DropReason::TtlExpired);
    }
    Ok(())
}

/// Writes the translation into the packet; every checksum is updated, none recomputed.
#[inline(always)]
pub(crate) fn rewrite(context: &XdpContext, parsed: &Parsed, to: &Outgoing) -> Result<(), Exit> {
    let addresses = network(context, parsed, to.source, to.destination)?;
    if !parsed.has_ports() {
        return Ok(());
    }
    let udp: &mut UdpHdr = packet::header(context, parsed.l4)?;
    let (source, destination) = (
        to.source_port.to_be_bytes(),
        to.destination_port.to_be_bytes(),
    );
    let checksum = addresses
        .word(raw(udp.src), raw(source))
        .word(raw(udp.dst), raw(destination))
        .apply_udp(raw(udp.check));
    udp.src = source;
    udp.dst = destination;
    udp.check = checksum.to_ne_bytes();
    Ok(())
}

/// Rewrites the IP header: addresses and TTL. Returns what the addresses change in checksums that
/// cover a pseudo-header.
///
/// Words are taken in memory order: the sum is the same but for the order of its two bytes
/// (RFC 1071 section 2, point B).
#[inline(always)]
pub(crate) fn network(
    context: &XdpContext,
    parsed: &Parsed,
    source: Ip,
    destination: Ip,
) -> Result<Delta, Exit> {
    if parsed.v6 {
        let header: &mut Ipv6Hdr = packet::header(context, parsed.l3)?;
        let delta = ip6_delta(Delta::new(), Ip::of(&header.src_addr), source);
        let delta = ip6_delta(delta, Ip::of(&header.dst_addr), destination);
        source.store(&mut header.src_addr);
        destination.store(&mut header.dst_addr);
        header.hop_limit = header.hop_limit.wrapping_sub(1);
        return Ok(delta);
    }
    let header: &mut Ipv4Hdr = packet::header(context, parsed.l3)?;
    let (source, destination) = (source.to_v4(), destination.to_v4());
    let addresses = Delta::new()
        .raw32(
            u32::from_ne_bytes(header.src_addr),
            u32::from_ne_bytes(source),
        )
        .raw32(
            u32::from_ne_bytes(header.dst_addr),
            u32::from_ne_bytes(destination),
        );
    let before = u16::from_ne_bytes([header.ttl, header.proto]);
    let ttl = header.ttl.wrapping_sub(1);
    let checksum = addresses
        .word(before, u16::from_ne_bytes([ttl, header.proto]))
        .apply(raw(header.check));
    header.src_addr = source;
    header.dst_addr = destination;
    header.ttl = ttl;
    header.check = checksum.to_ne_bytes();
    Ok(addresses)
}

/// Adds the change of an IPv6 address to a difference, in memory order.
#[inline(always)]
pub(crate) fn ip6_delta(delta: Delta, before: Ip, after: Ip) -> Delta {
    delta
        .raw64(before.high, after.high)
        .raw64(before.low, after.low)
}

/// Returns a word of a header in memory order.
#[inline(always)]
pub(crate) fn raw(bytes: [u8; 2]) -> u16 {
    u16::from_ne_bytes(bytes)
}
