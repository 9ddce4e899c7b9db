//! From the frame to addresses and ports: Ethernet, 802.1Q, IPv4, IPv6, UDP.

use aya_ebpf::programs::XdpContext;
use lb_common::{addr::mapped, backend::VlanTags, verdict::DropReason};
use network_types::{
    eth::EthHdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
    udp::UdpHdr,
    vlan::VlanHdr,
};

use crate::{packet, pipeline::Exit};

/// EtherTypes (IEEE 802 numbers), as they stand in the frame.
const IPV4: u16 = 0x0800_u16.to_be();
const IPV6: u16 = 0x86dd_u16.to_be();
const VLAN: u16 = 0x8100_u16.to_be();
const SERVICE_VLAN: u16 = 0x88a8_u16.to_be();

/// IANA protocol numbers.
pub(crate) const UDP: u8 = 17;
const IPV6_FRAGMENT: u8 = 44;

/// What the program needs to know of a UDP packet.
pub(crate) struct Parsed {
    /// Bytes from the start of the frame to the IP header.
    pub(crate) l3: usize,
    /// Bytes from the start of the frame to the UDP header.
    pub(crate) l4: usize,
    /// Bytes of the frame, without padding.
    pub(crate) bytes: u64,
    /// Source address.
    pub(crate) source: [u8; 16],
    /// Destination address.
    pub(crate) destination: [u8; 16],
    /// Source port; unset when the packet has no usable ports.
    pub(crate) source_port: u16,
    /// Destination port; unset when the packet has no usable ports.
    pub(crate) destination_port: u16,
    /// Source MAC address.
    pub(crate) source_mac: [u8; 6],
    /// Destination MAC address.
    pub(crate) destination_mac: [u8; 6],
    /// 802.1Q tags.
    pub(crate) vlan: VlanTags,
    /// TTL or hop limit.
    pub(crate) ttl: u8,
    /// The packet is IPv6.
    pub(crate) v6: bool,
}

/// Reads the headers of the frame into `parsed`.
///
/// Frames that cannot be UDP over IP, and frames that no host could make sense of, are the
/// host's: [`Exit::Pass`]. For UDP without usable ports the inner error says why; only the caller
/// knows whether the destination is ours.
#[inline(always)]
pub(crate) fn parse(
    context: &XdpContext,
    parsed: &mut Parsed,
) -> Result<Result<(), DropReason>, Exit> {
    let ethernet: EthHdr = packet::read(context, 0)?;
    let (vlan, ether_type) = vlan(context, ethernet.ether_type)?;
    parsed.source_mac = ethernet.src_addr;
    parsed.destination_mac = ethernet.dst_addr;
    parsed.vlan = vlan;
    parsed.l3 = EthHdr::LEN + vlan.len_bytes();
    match ether_type {
        IPV4 => ipv4(context, parsed),
        IPV6 => ipv6(context, parsed),
        _ => Err(Exit::Pass),
    }
}

/// Reads up to two tags; returns them and the EtherType behind them.
#[inline(always)]
fn vlan(context: &XdpContext, ether_type: u16) -> Result<(VlanTags, u16), Exit> {
    if ether_type != VLAN && ether_type != SERVICE_VLAN {
        return Ok((VlanTags::NONE, ether_type));
    }
    let outer: VlanHdr = packet::read(context, EthHdr::LEN)?;
    let mut tags = VlanTags {
        outer_protocol: u16::from_be(ether_type),
        control: [u16::from_be_bytes(outer.tci), VlanTags::ABSENT],
    };
    if outer.ether_type != VLAN {
        return Ok((tags, outer.ether_type));
    }
    let inner: VlanHdr = packet::read(context, EthHdr::LEN + VlanHdr::LEN)?;
    tags.control[1] = u16::from_be_bytes(inner.tci);
    Ok((tags, inner.ether_type))
}

/// Reads an IPv4 header (RFC 791 section 3.1). Options are skipped, not read.
#[inline(always)]
fn ipv4(context: &XdpContext, parsed: &mut Parsed) -> Result<Result<(), DropReason>, Exit> {
    let header: &Ipv4Hdr = packet::header(context, parsed.l3)?;
    // The mask repeats that the length is below 64, because the verifier must see the bound.
    let header_len = usize::from(header.ihl() & 0x3c);
    if header.version() != 4 || header_len < Ipv4Hdr::LEN || header.proto != UDP {
        return Err(Exit::Pass);
    }
    let total_len = usize::from(u16::from_be_bytes(header.tot_len));
    parsed.l4 = parsed.l3 + header_len;
    parsed.bytes = (parsed.l3 + total_len) as u64;
    parsed.source = mapped(header.src_addr);
    parsed.destination = mapped(header.dst_addr);
    parsed.ttl = header.ttl;
    parsed.v6 = false;
    // More fragments, or an offset: bits 13 and 0 to 12 (RFC 791 section 3.1).
    if u16::from_be_bytes(header.frags) & 0x3fff != 0 {
        return Ok(Err(DropReason::Fragment));
    }
    if total_len < header_len {
        return Ok(Err(DropReason::Malformed));
    }
    Ok(udp(context, parsed, total_len - header_len))
}

/// Reads an IPv6 header (RFC 8200 section 3). A packet whose UDP header stands behind extension
/// headers is the host's.
#[inline(always)]
fn ipv6(context: &XdpContext, parsed: &mut Parsed) -> Result<Result<(), DropReason>, Exit> {
    let header: &Ipv6Hdr = packet::header(context, parsed.l3)?;
    if header.version() != 6 || (header.next_hdr != UDP && header.next_hdr != IPV6_FRAGMENT) {
        return Err(Exit::Pass);
    }
    let payload_len = usize::from(u16::from_be_bytes(header.payload_len));
    parsed.l4 = parsed.l3 + Ipv6Hdr::LEN;
    parsed.bytes = (parsed.l4 + payload_len) as u64;
    parsed.source = header.src_addr;
    parsed.destination = header.dst_addr;
    parsed.ttl = header.hop_limit;
    parsed.v6 = true;
    if header.next_hdr == IPV6_FRAGMENT {
        return Ok(Err(DropReason::Fragment));
    }
    Ok(udp(context, parsed, payload_len))
}

/// Reads a UDP header (RFC 768); `payload_len` is what the IP header leaves for it.
#[inline(always)]
fn udp(context: &XdpContext, parsed: &mut Parsed, payload_len: usize) -> Result<(), DropReason> {
    let header: &UdpHdr = packet::header(context, parsed.l4).map_err(|_| DropReason::Malformed)?;
    let len = usize::from(u16::from_be_bytes(header.len));
    if len < UdpHdr::LEN || len > payload_len {
        return Err(DropReason::Malformed);
    }
    // The rest of a multi-buffer frame lies outside the part that pointers reach.
    let linear = context.data_end() - context.data();
    if parsed.l4 + payload_len > linear && parsed.l4 + payload_len > packet::len(context) {
        return Err(DropReason::Malformed);
    }
    if parsed.v6 && header.check == [0, 0] {
        return Err(DropReason::ChecksumMissing);
    }
    parsed.source_port = u16::from_be_bytes(header.src);
    parsed.destination_port = u16::from_be_bytes(header.dst);
    Ok(())
}
