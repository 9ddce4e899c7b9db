//! Usual packets: untagged, IPv4 without options, a whole UDP datagram.
//!
//! Everything in them lies at offsets that the compiler knows, so they are read and written in words
//! that need not be single fields. Words lie in each other or apart: a load waits for all stores
//! before it if no single one holds what it wants. [`crate::parse`] says the same of usual packets, at
//! a higher price.

use aya_ebpf::programs::XdpContext;
use lb_common::{
    checksum::{Delta, FoldedDelta},
    verdict::DropReason,
};

use crate::{
    ip::Ip,
    link::{Mac, Tags},
    packet::{self, load, store},
    parse::{Kind, Parsed},
    rewrite::Outgoing,
};

/// Ethernet, IPv4 and UDP header.
pub(crate) type Frame = [u8; UDP + UDP_BYTES];

// Where things lie in the frame, in bytes.
const MACS: usize = 0;
const REST_OF_MACS: usize = 8;
const ETHER_TYPE: usize = 12;
const IP: usize = 14;
const FLAGS: usize = IP + 6;
const TTL: usize = IP + 8;
const IP_CHECKSUM: usize = IP + 10;
const SOURCE: usize = IP + 12;
const UDP: usize = IP + IP_BYTES;
const UDP_LENGTH: usize = UDP + 4;
const UDP_CHECKSUM: usize = UDP + 6;
const IP_BYTES: usize = 20;
const UDP_BYTES: usize = 8;

/// Returns the headers of the packet and the length of its IP packet in bytes. `None`: it is not a
/// usual one, or something is wrong with it.
#[inline(always)]
pub(crate) fn read(context: &XdpContext) -> Option<(&mut Frame, usize)> {
    // EtherType, version and length of the header; flags and offset of a fragment, protocol.
    const FIRST: [u8; 8] = [0x08, 0x00, 0x45, 0, 0, 0, 0, 0];
    const FIRST_MASK: [u8; 8] = [0xff, 0xff, 0xff, 0, 0, 0, 0, 0];
    const SECOND: [u8; 4] = [0, 0, 0, 17];
    // Whether it may be fragmented does not matter.
    const SECOND_MASK: [u8; 4] = [0x3f, 0xff, 0, 0xff];
    let frame: &mut Frame = packet::header(context, 0).ok()?;
    let first: u64 = load::<ETHER_TYPE, _, _>(frame);
    let second: u32 = load::<FLAGS, _, _>(frame);
    // The total length is behind those and the TOS.
    let ip_len = usize::from(u16::from_be((first >> 32) as u16));
    let udp_len = usize::from(u16::from_be(load::<UDP_LENGTH, _, _>(frame)));
    let is_usual = first & u64::from_ne_bytes(FIRST_MASK) == u64::from_ne_bytes(FIRST)
        && second & u32::from_ne_bytes(SECOND_MASK) == u32::from_ne_bytes(SECOND)
        && IP + ip_len <= packet::linear_len(context)
        && udp_len >= UDP_BYTES
        && IP_BYTES + udp_len <= ip_len;
    is_usual.then_some((frame, ip_len))
}

/// Returns what the rest of the program needs to know of a packet that [`read`] has found usual.
#[inline(always)]
pub(crate) fn parsed(frame: &Frame, ip_len: usize) -> Parsed {
    let (addresses, ports) = (addresses(frame), ports(frame));
    Parsed {
        source: Ip::v4((addresses as u32).to_ne_bytes()),
        destination: Ip::v4(((addresses >> 32) as u32).to_ne_bytes()),
        source_mac: source_mac(frame),
        l3: IP,
        l4: UDP,
        fragment: 0,
        ip_len,
        identification: 0,
        tags: Tags::NONE,
        source_port: u16::from_be(ports as u16),
        destination_port: u16::from_be((ports >> 16) as u16),
        kind: Kind::Datagram,
        reason: DropReason::Malformed,
        ttl: ttl(frame),
        v6: false,
    }
}

/// Returns the destination MAC address.
#[inline(always)]
pub(crate) fn destination_mac(frame: &Frame) -> Mac {
    load::<MACS, u64, _>(frame) & MAC
}

/// Returns the source MAC address.
#[inline(always)]
pub(crate) fn source_mac(frame: &Frame) -> Mac {
    load::<MACS, u64, _>(frame) >> 48 | u64::from(load::<REST_OF_MACS, u32, _>(frame)) << 16
}

/// The bits of a MAC address in a word that begins with it.
const MAC: u64 = (1 << 48) - 1;

/// Returns the source address and, in the upper half, the destination address.
#[inline(always)]
pub(crate) fn addresses(frame: &Frame) -> u64 {
    load::<SOURCE, _, _>(frame)
}

/// Returns the source port and, in the upper half, the destination port, both in memory order.
#[inline(always)]
pub(crate) fn ports(frame: &Frame) -> u32 {
    load::<UDP, _, _>(frame)
}

/// Returns the TTL.
#[inline(always)]
pub(crate) fn ttl(frame: &Frame) -> u32 {
    u32::from(frame[TTL])
}

/// Returns the bytes of the frame, without padding.
#[inline(always)]
pub(crate) fn bytes(ip_len: usize) -> u64 {
    (IP + ip_len) as u64
}

/// What a usual packet becomes, in words as they stand in the frame.
pub(crate) struct Translation {
    /// Source address and destination address.
    pub(crate) addresses: u64,
    /// Source port and destination port.
    pub(crate) ports: u32,
    /// What those and a TTL that is one less change in the checksums of the IP header and of UDP.
    pub(crate) deltas: [FoldedDelta; 2],
    /// The first eight bytes of the MAC addresses.
    pub(crate) macs: u64,
    /// The other four.
    pub(crate) rest_of_macs: u32,
}

impl Translation {
    /// Returns what the packet becomes; `None` if it gets tags.
    #[inline(always)]
    pub(crate) fn new(frame: &Frame, to: &Outgoing) -> Option<Self> {
        if to.tags != Tags::NONE {
            return None;
        }
        let (addresses_before, ports_before) = (addresses(frame), ports(frame));
        let addresses = addresses_in_order(to.source, to.destination);
        let ports = ports_in_order(to.source_port, to.destination_port);
        let changed = Delta::new().raw64(addresses_before, addresses);
        Some(Self {
            addresses,
            ports,
            deltas: [
                changed.and(TTL_DELTA).folded(),
                changed.raw32(ports_before, ports).folded(),
            ],
            macs: to.destination_mac | to.source_mac << 48,
            rest_of_macs: (to.source_mac >> 16) as u32,
        })
    }

    /// Writes it into the frame.
    #[inline(always)]
    pub(crate) fn apply(&self, frame: &mut Frame) {
        let [ip, udp] = self.deltas;
        store::<SOURCE, _, _>(frame, self.addresses);
        store::<UDP, _, _>(frame, self.ports);
        frame[TTL] = frame[TTL].wrapping_sub(1);
        let checksum = ip.apply(load::<IP_CHECKSUM, _, _>(frame));
        store::<IP_CHECKSUM, _, _>(frame, checksum);
        let checksum = udp.apply_udp(load::<UDP_CHECKSUM, _, _>(frame));
        store::<UDP_CHECKSUM, _, _>(frame, checksum);
        store::<MACS, _, _>(frame, self.macs);
        store::<REST_OF_MACS, _, _>(frame, self.rest_of_macs);
    }
}

/// Returns two IPv4 addresses in one word, as they stand in the frame.
#[inline(always)]
pub(crate) fn addresses_in_order(source: Ip, destination: Ip) -> u64 {
    source.low >> 32 | destination.low >> 32 << 32
}

/// Returns two ports in one word, as they stand in the frame.
#[inline(always)]
pub(crate) fn ports_in_order(source: u16, destination: u16) -> u32 {
    u32::from(source.to_be()) | u32::from(destination.to_be()) << 16
}

/// What a TTL that is one less changes in the checksum of its header, in memory order.
const TTL_DELTA: Delta = Delta::new().word(1, 0);
