//! Translation: addresses, ports, TTL and checksums.

use aya_ebpf::programs::XdpContext;
use lb_common::{addr::unmapped, backend::VlanTags, checksum::Delta, verdict::DropReason};
use network_types::{
    ip::{Ipv4Hdr, Ipv6Hdr},
    udp::UdpHdr,
};

use crate::{packet, parse::Parsed, pipeline::Exit};

/// What a packet becomes: its addresses and ports, and the link that it leaves by.
pub(crate) struct Outgoing {
    /// Source address.
    pub(crate) source: [u8; 16],
    /// Destination address.
    pub(crate) destination: [u8; 16],
    /// Source port.
    pub(crate) source_port: u16,
    /// Destination port.
    pub(crate) destination_port: u16,
    /// Index of the interface.
    pub(crate) interface_index: u32,
    /// Source MAC address.
    pub(crate) source_mac: [u8; 6],
    /// Destination MAC address.
    pub(crate) destination_mac: [u8; 6],
    /// 802.1Q tags.
    pub(crate) vlan: VlanTags,
}

/// Writes the translation into the packet; every checksum is updated, none recomputed.
///
/// # Errors
///
/// [`DropReason::TtlExpired`] as any router would (RFC 1812 section 5.3.1, RFC 8200 section 3).
#[inline(always)]
pub(crate) fn rewrite(context: &XdpContext, parsed: &Parsed, to: &Outgoing) -> Result<(), Exit> {
    if parsed.ttl <= 1 {
        return Err(Exit::Drop(DropReason::TtlExpired));
    }
    let addresses = if parsed.v6 {
        ipv6(context, parsed, to)?
    } else {
        ipv4(context, parsed, to)?
    };
    let udp: &mut UdpHdr = packet::header(context, parsed.l4)?;
    let checksum = addresses
        .word(parsed.source_port, to.source_port)
        .word(parsed.destination_port, to.destination_port)
        .apply_udp(u16::from_be_bytes(udp.check));
    udp.src = to.source_port.to_be_bytes();
    udp.dst = to.destination_port.to_be_bytes();
    udp.check = checksum.to_be_bytes();
    Ok(())
}

/// Rewrites the IPv4 header; returns what the addresses change in the UDP checksum.
#[inline(always)]
fn ipv4(context: &XdpContext, parsed: &Parsed, to: &Outgoing) -> Result<Delta, Exit> {
    let header: &mut Ipv4Hdr = packet::header(context, parsed.l3)?;
    let (source, destination) = (unmapped(&to.source), unmapped(&to.destination));
    let addresses = Delta::new()
        .bytes4(header.src_addr, source)
        .bytes4(header.dst_addr, destination);
    let ttl = header.ttl.wrapping_sub(1);
    let checksum = addresses
        .word(
            u16::from_be_bytes([header.ttl, header.proto]),
            u16::from_be_bytes([ttl, header.proto]),
        )
        .apply(u16::from_be_bytes(header.check));
    header.src_addr = source;
    header.dst_addr = destination;
    header.ttl = ttl;
    header.check = checksum.to_be_bytes();
    Ok(addresses)
}

/// Rewrites the IPv6 header; returns what the addresses change in the UDP checksum.
#[inline(always)]
fn ipv6(context: &XdpContext, parsed: &Parsed, to: &Outgoing) -> Result<Delta, Exit> {
    let header: &mut Ipv6Hdr = packet::header(context, parsed.l3)?;
    let addresses = Delta::new()
        .bytes16(&header.src_addr, &to.source)
        .bytes16(&header.dst_addr, &to.destination);
    header.src_addr = to.source;
    header.dst_addr = to.destination;
    header.hop_limit = header.hop_limit.wrapping_sub(1);
    Ok(addresses)
}
