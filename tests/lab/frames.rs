//! Ethernet frames with UDP in them, built and taken apart byte by byte.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::host::Mac;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
/// IEEE 802.1Q.
const ETHERTYPE_VLAN: u16 = 0x8100;
/// IEEE 802.1ad: the outer of two tags.
const ETHERTYPE_OUTER_VLAN: u16 = 0x88a8;
const PROTOCOL_UDP: u8 = 17;
/// Next header: fragment (RFC 8200 section 4.5).
const NEXT_FRAGMENT: u8 = 44;
const UDP_HEADER: usize = 8;

/// A UDP datagram in an Ethernet frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UdpFrame {
    /// Destination of the frame.
    pub to_mac: Mac,
    /// Source of the frame.
    pub from_mac: Mac,
    /// VLAN identifiers, outermost first; at most two.
    pub vlans: Vec<u16>,
    /// Source of the datagram.
    pub source: SocketAddr,
    /// Destination of the datagram, of the same family.
    pub destination: SocketAddr,
    /// TTL or hop limit.
    pub ttl: u8,
    /// What the datagram carries.
    pub payload: Vec<u8>,
}

impl UdpFrame {
    /// Returns the bytes of the frame, with right checksums.
    ///
    /// # Panics
    ///
    /// If source and destination differ in family, or there are more than two tags.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        assert!(self.vlans.len() <= 2, "a frame has at most two tags");
        let mut bytes = Vec::new();
        bytes.extend(self.to_mac);
        bytes.extend(self.from_mac);
        for (number, vlan) in self.vlans.iter().enumerate() {
            let outer_of_two = number == 0 && self.vlans.len() == 2;
            let tag = if outer_of_two {
                ETHERTYPE_OUTER_VLAN
            } else {
                ETHERTYPE_VLAN
            };
            bytes.extend(tag.to_be_bytes());
            bytes.extend(vlan.to_be_bytes());
        }
        let udp = self.udp();
        match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                bytes.extend(ETHERTYPE_IPV4.to_be_bytes());
                bytes.extend(ipv4_header(source, destination, self.ttl, udp.len()));
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                bytes.extend(ETHERTYPE_IPV6.to_be_bytes());
                bytes.extend(ipv6_header(source, destination, self.ttl, udp.len()));
            }
            _ => panic!("{} and {} differ in family", self.source, self.destination),
        }
        bytes.extend(udp);
        bytes
    }

    /// Returns the frames of the datagram's fragments, in order: with `length` bytes in each but the
    /// last, and `identification` in all.
    ///
    /// # Panics
    ///
    /// If `length` is no multiple of 8, or the datagram fits one piece.
    #[must_use]
    pub fn to_pieces(&self, identification: u16, length: usize) -> Vec<Vec<u8>> {
        assert!(
            length.is_multiple_of(8),
            "pieces are counted in eight bytes"
        );
        let whole = self.to_bytes();
        let udp = self.udp();
        assert!(udp.len() > length, "the datagram fits one piece");
        let ip = whole.len() - udp.len() - if self.source.is_ipv4() { 20 } else { 40 };
        let count = udp.chunks(length).count();
        udp.chunks(length)
            .enumerate()
            .map(|(number, piece)| {
                let offset = u16::try_from(number * length).expect("a datagram is short");
                let more = number + 1 < count;
                let mut bytes = whole[..ip].to_vec();
                bytes.extend(self.piece_header(identification, offset, more, piece.len()));
                bytes.extend(piece);
                bytes
            })
            .collect()
    }

    /// Returns the IP header of a fragment, with what stands between it and the piece.
    fn piece_header(&self, identification: u16, offset: u16, more: bool, length: usize) -> Vec<u8> {
        match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let mut header = ipv4_header(source, destination, self.ttl, length);
                header[4..6].copy_from_slice(&identification.to_be_bytes());
                let field = (offset / 8) | if more { 0x2000 } else { 0 };
                header[6..8].copy_from_slice(&field.to_be_bytes());
                header[10..12].fill(0);
                let checksum = !fold(sum(&header));
                header[10..12].copy_from_slice(&checksum.to_be_bytes());
                header.to_vec()
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let mut header = ipv6_header(source, destination, self.ttl, length + 8).to_vec();
                header[6] = NEXT_FRAGMENT;
                header.extend([PROTOCOL_UDP, 0]);
                // Offsets are multiples of eight: the low bits are free for the flag.
                header.extend((offset | u16::from(more)).to_be_bytes());
                header.extend(u32::from(identification).to_be_bytes());
                header
            }
            _ => panic!("{} and {} differ in family", self.source, self.destination),
        }
    }

    /// Takes a frame apart.
    ///
    /// Returns `None` for everything that is not whole UDP over IPv4 without options or over IPv6
    /// without extension headers.
    ///
    /// # Errors
    ///
    /// A sentence, if the frame is such a datagram but its checksum or a length is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, String> {
        Reader(bytes).frame()
    }

    fn udp(&self) -> Vec<u8> {
        let length = u16::try_from(UDP_HEADER + self.payload.len()).expect("a datagram is short");
        let mut udp = Vec::new();
        udp.extend(self.source.port().to_be_bytes());
        udp.extend(self.destination.port().to_be_bytes());
        udp.extend(length.to_be_bytes());
        udp.extend([0, 0]);
        udp.extend(&self.payload);
        // A sum of zero is sent as its other spelling (RFC 768).
        let checksum = match udp_sum(self.source.ip(), self.destination.ip(), &udp) {
            0 => 0xffff,
            sum => sum,
        };
        udp[6..8].copy_from_slice(&checksum.to_be_bytes());
        udp
    }
}

struct Reader<'a>(&'a [u8]);

/// What an IP header says, and what follows it.
struct Datagram<'a> {
    source: IpAddr,
    destination: IpAddr,
    ttl: u8,
    udp: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn word(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    fn frame(mut self) -> Result<Option<UdpFrame>, String> {
        let (Some(to_mac), Some(from_mac)) = (self.array(), self.array()) else {
            return Ok(None);
        };
        let mut vlans = Vec::new();
        let ethertype = loop {
            match self.word() {
                Some(ETHERTYPE_VLAN | ETHERTYPE_OUTER_VLAN) => {
                    let Some(tag) = self.word() else {
                        return Ok(None);
                    };
                    vlans.push(tag & 0x0fff);
                }
                Some(other) => break other,
                None => return Ok(None),
            }
        };
        let header = match ethertype {
            ETHERTYPE_IPV4 => self.ipv4()?,
            ETHERTYPE_IPV6 => self.ipv6(),
            _ => None,
        };
        let Some(Datagram {
            source,
            destination,
            ttl,
            udp,
        }) = header
        else {
            return Ok(None);
        };
        let stated = udp
            .get(4..6)
            .map(|length| u16::from_be_bytes([length[0], length[1]]));
        if stated.map(usize::from) != Some(udp.len()) {
            return Err(format!("a datagram of {} bytes says {stated:?}", udp.len()));
        }
        let absent = udp[6..8] == [0, 0];
        if absent && destination.is_ipv6() {
            return Err("a datagram over IPv6 has no checksum".to_owned());
        }
        if !absent && udp_sum(source, destination, udp) != 0 {
            return Err(format!(
                "the UDP checksum from {source} to {destination} is wrong"
            ));
        }
        let port = |at: usize| u16::from_be_bytes([udp[at], udp[at + 1]]);
        Ok(Some(UdpFrame {
            to_mac,
            from_mac,
            vlans,
            source: SocketAddr::new(source, port(0)),
            destination: SocketAddr::new(destination, port(2)),
            ttl,
            payload: udp[UDP_HEADER..].to_vec(),
        }))
    }

    fn ipv4(&mut self) -> Result<Option<Datagram<'a>>, String> {
        let Some(header) = self.array::<20>() else {
            return Ok(None);
        };
        let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0;
        if header[0] != 0x45 || header[9] != PROTOCOL_UDP || fragment {
            return Ok(None);
        }
        if fold(sum(&header)) != 0xffff {
            return Err("the checksum of an IPv4 header is wrong".to_owned());
        }
        let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
        // A short frame is padded to the least length of Ethernet.
        let Some(udp) = length.checked_sub(20).and_then(|length| self.take(length)) else {
            return Err(format!("an IPv4 packet says {length} bytes and has fewer"));
        };
        let address =
            |at: usize| IpAddr::from([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        Ok(Some(Datagram {
            source: address(12),
            destination: address(16),
            ttl: header[8],
            udp,
        }))
    }

    fn ipv6(&mut self) -> Option<Datagram<'a>> {
        let [version, .., length_high, length_low, next, ttl] = self.array::<8>()?;
        if version >> 4 != 6 || next != PROTOCOL_UDP {
            return None;
        }
        let source = IpAddr::from(self.array::<16>()?);
        let destination = IpAddr::from(self.array::<16>()?);
        let udp = self.take(usize::from(u16::from_be_bytes([length_high, length_low])))?;
        Some(Datagram {
            source,
            destination,
            ttl,
            udp,
        })
    }
}

fn ipv4_header(source: Ipv4Addr, destination: Ipv4Addr, ttl: u8, payload: usize) -> [u8; 20] {
    let length = u16::try_from(20 + payload).expect("a packet is short");
    let mut header = [0; 20];
    header[0] = 0x45;
    header[2..4].copy_from_slice(&length.to_be_bytes());
    header[8] = ttl;
    header[9] = PROTOCOL_UDP;
    header[12..16].copy_from_slice(&source.octets());
    header[16..20].copy_from_slice(&destination.octets());
    let checksum = !fold(sum(&header));
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
    header
}

fn ipv6_header(source: Ipv6Addr, destination: Ipv6Addr, ttl: u8, payload: usize) -> [u8; 40] {
    let length = u16::try_from(payload).expect("a packet is short");
    let mut header = [0; 40];
    header[0] = 0x60;
    header[4..6].copy_from_slice(&length.to_be_bytes());
    header[6] = PROTOCOL_UDP;
    header[7] = ttl;
    header[8..24].copy_from_slice(&source.octets());
    header[24..40].copy_from_slice(&destination.octets());
    header
}

/// Returns the checksum over the pseudo-header and `udp`; 0 if the one inside is right.
fn udp_sum(source: IpAddr, destination: IpAddr, udp: &[u8]) -> u16 {
    let addresses = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            sum(&source.octets()) + sum(&destination.octets())
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            sum(&source.octets()) + sum(&destination.octets())
        }
        _ => panic!("{source} and {destination} differ in family"),
    };
    let length = u32::try_from(udp.len()).expect("a datagram is short");
    !fold(addresses + u32::from(PROTOCOL_UDP) + length + sum(udp))
}

/// Returns the sum of 16-bit words, the last byte padded with zero (RFC 1071 section 1).
fn sum(bytes: &[u8]) -> u32 {
    bytes
        .chunks(2)
        .map(|pair| {
            u32::from(u16::from_be_bytes([
                pair[0],
                pair.get(1).copied().unwrap_or(0),
            ]))
        })
        .sum()
}

/// Returns the ones' complement sum of what `parts` hold, each but the last of even length.
pub(super) fn sum_of(parts: &[&[u8]]) -> u16 {
    fold(parts.iter().map(|part| sum(part)).sum())
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).expect("it was folded")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(source: &str, destination: &str, vlans: &[u16]) -> UdpFrame {
        UdpFrame {
            to_mac: [2, 0, 0, 0, 0, 1],
            from_mac: [2, 0, 0, 0, 0, 2],
            vlans: vlans.to_vec(),
            source: source.parse().expect("an address"),
            destination: destination.parse().expect("an address"),
            ttl: 64,
            payload: b"hello".to_vec(),
        }
    }

    #[test]
    fn what_is_built_can_be_taken_apart() {
        for vlans in [&[][..], &[7], &[7, 9]] {
            for frame in [
                frame("10.0.0.1:5", "10.0.0.2:6", vlans),
                frame("[fd00::1]:5", "[fd00::2]:6", vlans),
            ] {
                assert_eq!(UdpFrame::parse(&frame.to_bytes()), Ok(Some(frame)));
            }
        }
    }

    #[test]
    fn a_wrong_checksum_is_an_error() {
        let mut bytes = frame("10.0.0.1:5", "10.0.0.2:6", &[]).to_bytes();
        *bytes.last_mut().expect("a frame has bytes") ^= 1;

        assert!(UdpFrame::parse(&bytes).is_err());
    }

    #[test]
    fn the_checksum_is_the_one_of_a_known_packet() {
        // RFC 768 leaves no example; this is the sum by hand of 10.0.0.1:1 to 10.0.0.2:2, no data.
        let mut frame = frame("10.0.0.1:1", "10.0.0.2:2", &[]);
        frame.payload.clear();

        let bytes = frame.to_bytes();

        // 0x0a00 + 0x0001 + 0x0a00 + 0x0002 + 17 + 8 + 1 + 2 + 8 = 0x1427
        assert_eq!(bytes[40..42], (!0x1427_u16).to_be_bytes());
    }
}
