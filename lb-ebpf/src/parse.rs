//! From the frame to addresses and ports: Ethernet, 802.1Q, IPv4, IPv6, UDP, ICMP.

use aya_ebpf::programs::XdpContext;
use lb_common::{backend::VlanTags, limits::MAX_EXTENSION_HEADERS, verdict::DropReason};
use network_types::{
    ip::{Ipv4Hdr, Ipv6Hdr},
    udp::UdpHdr,
};

use crate::{
    ip::Ip,
    link::{Mac, Tags, mac},
    packet::{self, EthHdr, VlanHdr},
    pipeline::Exit,
};

/// EtherTypes (IEEE 802 numbers).
pub(crate) const IPV4: u16 = 0x0800;
pub(crate) const IPV6: u16 = 0x86dd;
pub(crate) const VLAN: u16 = 0x8100;
const SERVICE_VLAN: u16 = 0x88a8;

/// IANA protocol numbers.
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMP: u8 = 1;
pub(crate) const ICMPV6: u8 = 58;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;

/// Bytes that all extension headers of a packet may have. RFC 8504 section 5.3 lets hosts limit
/// them; offsets in the frame stay below [`packet`]'s bound.
const MAX_EXTENSION_BYTES: usize = 256;

/// More fragments, in the flags of an IPv4 header (RFC 791 section 3.1).
const IPV4_MORE: u16 = 0x2000;
/// The fragment offset of an IPv4 header.
const IPV4_OFFSET: u16 = 0x1fff;
/// More fragments, in an IPv6 fragment header (RFC 8200 section 4.5).
const IPV6_MORE: u16 = 1;
/// The fragment offset of an IPv6 fragment header.
const IPV6_OFFSET: u16 = 0xfff8;

/// What the frame is.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Kind {
    /// A whole UDP datagram.
    Datagram = 0,
    /// The first piece of one: it has ports.
    FirstPiece = 1,
    /// Another piece: it has none.
    LaterPiece = 2,
    /// A whole ICMP message of the packet's family.
    Icmp = 3,
    /// UDP without usable ports; `reason` says why.
    Unusable = 4,
}

/// What the program needs to know of a packet.
///
/// No field lies at an odd address of the stack: the compiler writes neighbours together, and the
/// verifier refuses a word there that is not aligned.
#[derive(Clone, Copy)]
pub(crate) struct Parsed {
    /// Source address.
    pub(crate) source: Ip,
    /// Destination address.
    pub(crate) destination: Ip,
    /// Source MAC address.
    pub(crate) source_mac: Mac,
    /// Bytes from the start of the frame to the IP header.
    pub(crate) l3: usize,
    /// Bytes from the start of the frame to the UDP or ICMP header.
    pub(crate) l4: usize,
    /// Bytes from the start of the frame to the IPv6 fragment header; zero: there is none.
    pub(crate) fragment: usize,
    /// Bytes of the IP packet, without the padding of the frame.
    pub(crate) ip_len: usize,
    /// Identification of a piece.
    pub(crate) identification: u32,
    /// 802.1Q tags.
    pub(crate) tags: Tags,
    /// Source port, of a datagram or first piece.
    pub(crate) source_port: u16,
    /// Destination port, of a datagram or first piece.
    pub(crate) destination_port: u16,
    /// What the frame is.
    pub(crate) kind: Kind,
    /// Why ports are unusable.
    pub(crate) reason: DropReason,
    /// TTL or hop limit.
    pub(crate) ttl: u32,
    /// The packet is IPv6.
    pub(crate) v6: bool,
}

impl Parsed {
    /// Returns the bytes of the frame, without padding.
    #[inline(always)]
    pub(crate) fn bytes(&self) -> u64 {
        (self.l3 + self.ip_len) as u64
    }

    /// Returns whether the packet has a UDP header that a translation must change.
    #[inline(always)]
    pub(crate) fn has_ports(&self) -> bool {
        matches!(self.kind, Kind::Datagram | Kind::FirstPiece)
    }

    #[inline(always)]
    fn unusable(self, reason: DropReason) -> Self {
        Self {
            kind: Kind::Unusable,
            reason,
            ..self
        }
    }
}

/// The Ethernet header's part of a frame.
#[derive(Clone, Copy)]
pub(crate) struct Ethernet {
    pub(crate) source_mac: Mac,
    pub(crate) destination_mac: Mac,
    tags: Tags,
    ether_type: u16,
    l3: usize,
}

/// Reads the Ethernet header and up to two tags.
#[inline(always)]
pub(crate) fn ethernet(context: &XdpContext) -> Result<Ethernet, Exit> {
    let header: &EthHdr = packet::header(context, 0)?;
    let (source_mac, destination_mac) = (mac(&header.src_addr), mac(&header.dst_addr));
    let ether_type = u16::from_be_bytes(header.ether_type);
    let (tags, ether_type, l3) = if ether_type == IPV4 || ether_type == IPV6 {
        (Tags::NONE, ether_type, EthHdr::LEN)
    } else {
        tags(context, ether_type)?
    };
    Ok(Ethernet {
        source_mac,
        destination_mac,
        tags,
        ether_type,
        l3,
    })
}

/// Reads up to two tags; returns them, the EtherType behind them, and where it leads.
#[inline(always)]
fn tags(context: &XdpContext, ether_type: u16) -> Result<(Tags, u16, usize), Exit> {
    if ether_type != VLAN && ether_type != SERVICE_VLAN {
        return Err(Exit::Pass);
    }
    let (outer, behind) = tag(context, EthHdr::LEN)?;
    let l3 = EthHdr::LEN + VlanHdr::LEN;
    if behind != VLAN {
        let tags = Tags::new(ether_type, [outer, VlanTags::ABSENT]);
        return Ok((tags, behind, l3));
    }
    let (inner, behind) = tag(context, l3)?;
    let tags = Tags::new(ether_type, [outer, inner]);
    Ok((tags, behind, l3 + VlanHdr::LEN))
}

/// Reads a tag's control information, and the EtherType behind it.
#[inline(always)]
fn tag(context: &XdpContext, offset: usize) -> Result<(u16, u16), Exit> {
    let header: &VlanHdr = packet::header(context, offset)?;
    let control = u16::from_be_bytes(header.tci);
    // VLAN 4095 is reserved (IEEE 802.1Q-2018 table 9-2), and stands for no tag here.
    if control == VlanTags::ABSENT {
        return Err(Exit::Pass);
    }
    Ok((control, u16::from_be_bytes(header.ether_type)))
}

/// Reads the headers behind the Ethernet header.
///
/// Frames that cannot be UDP or ICMP over IP, and frames that no host could make sense of, are the
/// host's: [`Exit::Pass`].
#[inline(always)]
pub(crate) fn network(context: &XdpContext, ethernet: &Ethernet) -> Result<Parsed, Exit> {
    match ethernet.ether_type {
        IPV4 => ipv4(context, ethernet),
        IPV6 => ipv6(context, ethernet),
        _ => Err(Exit::Pass),
    }
}

/// Reads an IPv4 header (RFC 791 section 3.1). Options are skipped, not read.
#[inline(always)]
fn ipv4(context: &XdpContext, ethernet: &Ethernet) -> Result<Parsed, Exit> {
    let l3 = ethernet.l3;
    let header: &Ipv4Hdr = packet::header(context, l3)?;
    // The mask repeats that the length is below 64, because the verifier must see the bound.
    let header_len = usize::from(header.ihl() & 0x3c);
    if header.version() != 4 || header_len < Ipv4Hdr::LEN {
        return Err(Exit::Pass);
    }
    let protocol = header.proto;
    if protocol != UDP && protocol != ICMP {
        return Err(Exit::Pass);
    }
    let ip_len = usize::from(u16::from_be_bytes(header.tot_len));
    let fragment = u16::from_be_bytes(header.frags);
    let parsed = Parsed {
        source: Ip::v4(header.src_addr),
        destination: Ip::v4(header.dst_addr),
        source_mac: ethernet.source_mac,
        l3,
        l4: l3 + header_len,
        fragment: 0,
        ip_len,
        identification: u32::from(u16::from_be_bytes(header.id)),
        tags: ethernet.tags,
        source_port: 0,
        destination_port: 0,
        kind: Kind::Datagram,
        reason: DropReason::Malformed,
        ttl: u32::from(header.ttl),
        v6: false,
    };
    let kind = piece(fragment & IPV4_OFFSET != 0, fragment & IPV4_MORE != 0);
    transport(
        context,
        parsed,
        protocol,
        ICMP,
        kind,
        ip_len.wrapping_sub(header_len),
        ip_len >= header_len,
    )
}

/// Reads an IPv6 header and its extension headers (RFC 8200 sections 3 and 4).
#[inline(always)]
fn ipv6(context: &XdpContext, ethernet: &Ethernet) -> Result<Parsed, Exit> {
    let l3 = ethernet.l3;
    let header: &Ipv6Hdr = packet::header(context, l3)?;
    if header.version() != 6 {
        return Err(Exit::Pass);
    }
    let payload_len = usize::from(u16::from_be_bytes(header.payload_len));
    let mut parsed = Parsed {
        source: Ip::of(&header.src_addr),
        destination: Ip::of(&header.dst_addr),
        source_mac: ethernet.source_mac,
        l3,
        l4: l3 + Ipv6Hdr::LEN,
        fragment: 0,
        ip_len: Ipv6Hdr::LEN + payload_len,
        identification: 0,
        tags: ethernet.tags,
        source_port: 0,
        destination_port: 0,
        kind: Kind::Datagram,
        reason: DropReason::Malformed,
        ttl: u32::from(header.hop_limit),
        v6: true,
    };
    let next = header.next_hdr;
    if next == UDP || next == ICMPV6 {
        return transport(
            context,
            parsed,
            next,
            ICMPV6,
            Kind::Datagram,
            payload_len,
            true,
        );
    }
    let (protocol, kind, len) = extensions(context, &mut parsed, next)?;
    let rest = payload_len.wrapping_sub(len);
    transport(
        context,
        parsed,
        protocol,
        ICMPV6,
        kind,
        rest,
        payload_len >= len,
    )
}

/// Walks over the extension headers in front of the transport header. Returns the protocol behind
/// them, what the fragment header says, and how many bytes they take.
#[inline(always)]
fn extensions(
    context: &XdpContext,
    parsed: &mut Parsed,
    first: u8,
) -> Result<(u8, Kind, usize), Exit> {
    let mut next = first;
    let mut kind = Kind::Datagram;
    let mut len = 0;
    for _ in 0..MAX_EXTENSION_HEADERS {
        let header: &[u8; 8] = packet::header(context, parsed.l3 + Ipv6Hdr::LEN + len)?;
        let behind = header[0];
        let size = match next {
            HOP_BY_HOP | DESTINATION_OPTIONS => (usize::from(header[1]) + 1) * 8,
            // With segments left the destination is not the last one.
            ROUTING if header[3] == 0 => (usize::from(header[1]) + 1) * 8,
            FRAGMENT if parsed.fragment == 0 => {
                let offset = u16::from_be_bytes([header[2], header[3]]);
                parsed.fragment = parsed.l3 + Ipv6Hdr::LEN + len;
                parsed.identification =
                    u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
                kind = piece(offset & IPV6_OFFSET != 0, offset & IPV6_MORE != 0);
                8
            }
            _ => return Err(Exit::Pass),
        };
        len += size;
        if len > MAX_EXTENSION_BYTES {
            return Err(Exit::Pass);
        }
        next = behind;
        if next == UDP || next == ICMPV6 || kind == Kind::LaterPiece {
            parsed.l4 = parsed.l3 + Ipv6Hdr::LEN + len;
            return Ok((next, kind, len));
        }
    }
    Err(Exit::Pass)
}

#[inline(always)]
fn piece(has_offset: bool, more: bool) -> Kind {
    if has_offset {
        Kind::LaterPiece
    } else if more {
        Kind::FirstPiece
    } else {
        Kind::Datagram
    }
}

/// Reads the transport header; `rest` is what the IP headers leave for it, if they `fit`.
#[inline(always)]
fn transport(
    context: &XdpContext,
    parsed: Parsed,
    protocol: u8,
    icmp: u8,
    kind: Kind,
    rest: usize,
    fit: bool,
) -> Result<Parsed, Exit> {
    if protocol == icmp {
        // An error message that was taken apart is nothing that can be translated.
        return match kind {
            Kind::Datagram => Ok(Parsed {
                kind: Kind::Icmp,
                ..parsed
            }),
            _ => Err(Exit::Pass),
        };
    }
    // Behind the fragment header of an IPv6 piece may stand what comes before UDP in the first one.
    let is_udp = protocol == UDP
        || (parsed.v6 && kind == Kind::LaterPiece && protocol == DESTINATION_OPTIONS);
    if !is_udp {
        return Err(Exit::Pass);
    }
    // The rest of a multi-buffer frame lies outside the part that pointers reach.
    let end = parsed.l3 + parsed.ip_len;
    if !fit || (end > packet::linear_len(context) && end > packet::len(context)) {
        return Ok(parsed.unusable(DropReason::Malformed));
    }
    if kind == Kind::LaterPiece {
        return Ok(Parsed { kind, ..parsed });
    }
    let Ok(header) = packet::header::<UdpHdr>(context, parsed.l4) else {
        return Ok(parsed.unusable(DropReason::Malformed));
    };
    let len = usize::from(u16::from_be_bytes(header.len));
    // The length of a first piece is that of the whole datagram.
    let too_long = kind == Kind::Datagram && len > rest;
    if len < UdpHdr::LEN || rest < UdpHdr::LEN || too_long {
        return Ok(parsed.unusable(DropReason::Malformed));
    }
    if parsed.v6 && header.check == [0, 0] {
        return Ok(parsed.unusable(DropReason::ChecksumMissing));
    }
    Ok(Parsed {
        source_port: u16::from_be_bytes(header.src),
        destination_port: u16::from_be_bytes(header.dst),
        kind,
        ..parsed
    })
}
