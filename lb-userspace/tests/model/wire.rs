//! Frames read from scratch: where the IP packet, its protocol and its ports are, and the internet
//! checksum. Shares nothing with the program under test.

/// EtherTypes (IEEE 802 numbers).
pub(crate) const IPV4: u16 = 0x0800;
pub(crate) const IPV6: u16 = 0x86dd;
pub(crate) const VLAN: u16 = 0x8100;
pub(crate) const SERVICE_VLAN: u16 = 0x88a8;

/// IANA protocol numbers.
pub(crate) const HOP_BY_HOP: u8 = 0;
pub(crate) const ICMP: u8 = 1;
pub(crate) const UDP: u8 = 17;
pub(crate) const ROUTING: u8 = 43;
pub(crate) const FRAGMENT: u8 = 44;
pub(crate) const ICMPV6: u8 = 58;
pub(crate) const DESTINATION_OPTIONS: u8 = 60;

/// An address as the maps hold it.
pub(crate) type Address = [u8; 16];

/// The first twelve bytes of an IPv4 address in mapped form.
const MAPPED: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

/// Returns an IPv4 address as the maps hold it.
pub(crate) fn mapped(v4: &[u8]) -> Address {
    let mut address = [0; 16];
    address[..12].copy_from_slice(&MAPPED);
    address[12..].copy_from_slice(v4);
    address
}

/// Returns whether the address is an IPv4 address.
pub(crate) fn is_v4(address: &Address) -> bool {
    address[..12] == MAPPED
}

/// The tags of a frame: EtherType and control information of each, outermost first.
pub(crate) type Tags = Vec<(u16, u16)>;

/// What there is to know of an IP packet before its protocol is looked at.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Ip {
    pub(crate) destination_mac: [u8; 6],
    pub(crate) source_mac: [u8; 6],
    pub(crate) tags: Tags,
    /// Bytes before the IP header.
    pub(crate) l3: usize,
    /// Bytes before the header of the protocol.
    pub(crate) l4: usize,
    pub(crate) v6: bool,
    pub(crate) source: Address,
    pub(crate) destination: Address,
    pub(crate) ttl: u8,
    /// Bytes of the packet, as its header says.
    pub(crate) len: usize,
    /// UDP, ICMP or ICMPv6.
    pub(crate) protocol: u8,
    pub(crate) piece: Option<Piece>,
}

/// What a piece of a datagram says of itself. An IPv6 datagram in one piece (RFC 6946) is none.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Piece {
    /// Offset in units of eight bytes.
    pub(crate) offset: u16,
    pub(crate) identification: u32,
    /// Bytes before the identification.
    pub(crate) identification_at: usize,
}

impl Ip {
    /// Returns whether this piece has the ports of a datagram of which others follow.
    pub(crate) fn is_first_piece(&self) -> bool {
        self.piece.is_some_and(|piece| piece.offset == 0)
    }

    /// Returns whether this piece has no ports.
    pub(crate) fn is_later_piece(&self) -> bool {
        self.piece.is_some_and(|piece| piece.offset != 0)
    }
}

/// Reads a frame as far as the protocol; `None`: it is no IP packet with UDP or ICMP, or cannot be
/// read.
pub(crate) fn read(frame: &[u8]) -> Option<Ip> {
    let destination_mac = frame.get(..6)?.try_into().ok()?;
    let source_mac = frame.get(6..12)?.try_into().ok()?;
    let mut ether_type = u16_at(frame, 12)?;
    let mut tags = Vec::new();
    let mut l3 = 14;
    if matches!(ether_type, VLAN | SERVICE_VLAN) {
        tags.push((ether_type, u16_at(frame, 14)?));
        ether_type = u16_at(frame, 16)?;
        l3 = 18;
        if ether_type == VLAN {
            tags.push((ether_type, u16_at(frame, 18)?));
            ether_type = u16_at(frame, 20)?;
            l3 = 22;
        }
        // VLAN 4095 is reserved (IEEE 802.1Q-2018 table 9-2); with every other bit set it stands
        // for "no tag" in the maps.
        if tags.iter().any(|(_, control)| *control == 0xffff) {
            return None;
        }
    }
    let link = Ip {
        destination_mac,
        source_mac,
        tags,
        l3,
        l4: 0,
        v6: false,
        source: [0; 16],
        destination: [0; 16],
        ttl: 0,
        len: 0,
        protocol: 0,
        piece: None,
    };
    match ether_type {
        IPV4 => read_v4(frame, link),
        IPV6 => read_v6(frame, link),
        _ => None,
    }
}

fn read_v4(frame: &[u8], link: Ip) -> Option<Ip> {
    let at = link.l3;
    let header = frame.get(at..at + 20)?;
    let header_len = usize::from(header[0] & 0xf) * 4;
    let protocol = header[9];
    if header[0] >> 4 != 4 || header_len < 20 || !matches!(protocol, UDP | ICMP) {
        return None;
    }
    let fragment = u16_at(header, 6)?;
    let piece = (fragment & 0x3fff != 0).then_some(Piece {
        offset: fragment & 0x1fff,
        identification: u32::from(u16_at(header, 4)?),
        identification_at: at + 4,
    });
    Some(Ip {
        l4: at + header_len,
        source: mapped(&header[12..16]),
        destination: mapped(&header[16..20]),
        ttl: header[8],
        len: usize::from(u16_at(header, 2)?),
        protocol,
        piece,
        ..link
    })
}

/// Most extension headers that are skipped, and most bytes of them.
const MOST_HEADERS: usize = 4;
const MOST_HEADER_BYTES: usize = 256;

fn read_v6(frame: &[u8], link: Ip) -> Option<Ip> {
    let at = link.l3;
    let header = frame.get(at..at + 40)?;
    if header[0] >> 4 != 6 {
        return None;
    }
    let mut ip = Ip {
        l4: at + 40,
        v6: true,
        source: header[8..24].try_into().ok()?,
        destination: header[24..40].try_into().ok()?,
        ttl: header[7],
        len: 40 + usize::from(u16_at(header, 4)?),
        protocol: header[6],
        ..link
    };
    let mut headers = 0;
    let mut has_fragment_header = false;
    while !matches!(ip.protocol, UDP | ICMPV6) {
        // Whatever the header is, its first eight bytes must be there.
        let extension = frame.get(ip.l4..ip.l4 + 8)?;
        let len = 8 + 8 * usize::from(extension[1]);
        ip.l4 += match ip.protocol {
            HOP_BY_HOP | DESTINATION_OPTIONS => len,
            // RFC 8200 section 4.4: only a header with no segments left may be ignored.
            ROUTING if extension[3] == 0 => len,
            FRAGMENT if !has_fragment_header => {
                has_fragment_header = true;
                let control = u16_at(extension, 2)?;
                if control & 0xfff9 != 0 {
                    ip.piece = Some(Piece {
                        offset: control >> 3,
                        identification: u32_at(extension, 4)?,
                        identification_at: ip.l4 + 4,
                    });
                }
                8
            }
            _ => return None,
        };
        ip.protocol = extension[0];
        headers += 1;
        if headers > MOST_HEADERS || ip.l4 - at - 40 > MOST_HEADER_BYTES {
            return None;
        }
        if ip.is_later_piece() {
            // The header that it names is in the first piece: UDP, or what stands before it.
            let follows = matches!(ip.protocol, UDP | DESTINATION_OPTIONS);
            ip.protocol = UDP;
            return follows.then_some(ip);
        }
    }
    Some(ip)
}

/// Returns two bytes as a number.
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// Returns four bytes as a number.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Returns the one's complement sum of some bytes, a last odd one filled up with zero (RFC 1071
/// section 1).
pub(crate) fn sum(bytes: &[u8]) -> u16 {
    let mut pairs = bytes.chunks_exact(2);
    let mut sum = 0_u64;
    for pair in &mut pairs {
        sum += u64::from(pair[0]) << 8 | u64::from(pair[1]);
    }
    if let [last] = pairs.remainder() {
        sum += u64::from(*last) << 8;
    }
    fold(sum)
}

/// Returns a checksum after covered bytes have changed: taken out of the sum, and the new ones put
/// in (RFC 1624 section 3). What was wrong before is wrong after it by as much.
pub(crate) fn changed(checksum: u16, old: &[u8], new: &[u8]) -> u16 {
    !fold(u64::from(!checksum) + u64::from(!sum(old)) + u64::from(sum(new)))
}

/// Like [`changed`], for UDP, where zero says that there is no checksum.
pub(crate) fn changed_udp(checksum: u16, old: &[u8], new: &[u8]) -> u16 {
    match (checksum, changed(checksum, old, new)) {
        (0, _) => 0,
        (_, 0) => 0xffff,
        (_, changed) => changed,
    }
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Returns the pseudo-header that UDP and ICMPv6 checksums cover (RFC 768, RFC 8200 section 8.1).
/// An IPv4 address counts with its four bytes.
pub(crate) fn pseudo_header(
    source: &Address,
    destination: &Address,
    protocol: u8,
    len: usize,
) -> Vec<u8> {
    let mut header = addresses(source, destination);
    header.extend((len as u32).to_be_bytes());
    header.extend([0, 0, 0, protocol]);
    header
}

/// Returns the bytes of two addresses as they stand in their family's header.
pub(crate) fn addresses(source: &Address, destination: &Address) -> Vec<u8> {
    let from = if is_v4(source) { 12 } else { 0 };
    [&source[from..], &destination[from..]].concat()
}

/// What is wrong with the checksums of a frame that holds a whole UDP datagram or ICMP message;
/// empty if nothing is, or if the frame is too short to tell.
pub(crate) fn faults(frame: &[u8]) -> Vec<&'static str> {
    let mut faults = Vec::new();
    let Some(ip) = read(frame) else {
        return faults;
    };
    if !ip.v6 && frame.get(ip.l3..ip.l4).is_some_and(|h| sum(h) != 0xffff) {
        faults.push("IPv4 header checksum");
    }
    let end = ip.l3 + ip.len;
    if ip.piece.is_some() || end > frame.len() || end < ip.l4 + 8 {
        return faults;
    }
    if ip.protocol == UDP {
        let len = usize::from(u16_at(frame, ip.l4 + 4).unwrap_or(0));
        let checksum = u16_at(frame, ip.l4 + 6).unwrap_or(0);
        if len < 8 || ip.l4 + len > end || checksum == 0 {
            return faults;
        }
        let mut covered = pseudo_header(&ip.source, &ip.destination, UDP, len);
        covered.extend(&frame[ip.l4..ip.l4 + len]);
        if sum(&covered) != 0xffff {
            faults.push("UDP checksum");
        }
    } else {
        let mut covered = if ip.v6 {
            pseudo_header(&ip.source, &ip.destination, ICMPV6, end - ip.l4)
        } else {
            Vec::new()
        };
        covered.extend(&frame[ip.l4..end]);
        if sum(&covered) != 0xffff {
            faults.push("ICMP checksum");
        }
    }
    faults
}

#[test]
fn the_sums_are_those_of_the_rfcs() {
    // RFC 1071 section 3.
    assert_eq!(
        sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]),
        0xddf2
    );
    // RFC 1624 section 4.
    assert_eq!(changed(0xdd2f, &[0x55, 0x55], &[0x32, 0x85]), 0x0000);
    assert_eq!(changed_udp(0xdd2f, &[0x55, 0x55], &[0x32, 0x85]), 0xffff);
    assert_eq!(changed_udp(0, &[0x55, 0x55], &[0x32, 0x85]), 0);
}
