//! IP packets with everything that may stand in them, built byte by byte, and their checksums.
//!
//! Where [`super::frames`] knows plain datagrams only, this knows options, extension headers, wrong
//! and absent checksums, and ICMP errors with what they quote.

use std::net::{IpAddr, SocketAddr};

use super::{frames::sum_of, host::Mac};

/// IANA protocol numbers.
pub const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// The checksum that a datagram is sent with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// The right one.
    Right,
    /// None: zero.
    Absent,
    /// One that is not right.
    Wrong,
}

/// What an IP header says beside addresses and lengths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// TOS or traffic class.
    pub tos: u8,
    /// IPv6 only.
    pub flow_label: u32,
    /// IPv4 only.
    pub identification: u16,
    /// IPv4 only.
    pub do_not_fragment: bool,
    /// TTL or hop limit.
    pub ttl: u8,
    /// IPv4 options, a multiple of four bytes.
    pub options: Vec<u8>,
    /// IPv6 extension headers with their numbers; the second byte of each is its length.
    pub extensions: Vec<(u8, Vec<u8>)>,
}

impl Header {
    /// Returns the packet from `source` to `destination` that carries `payload`.
    ///
    /// # Panics
    ///
    /// If the addresses differ in family, or the packet is too long.
    #[must_use]
    pub fn packet(
        &self,
        source: IpAddr,
        destination: IpAddr,
        protocol: u8,
        payload: &[u8],
    ) -> Vec<u8> {
        match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let header = 20 + self.options.len();
                let length = u16::try_from(header + payload.len()).expect("a packet is short");
                let words = u8::try_from(header / 4).expect("a header is short");
                let mut packet = vec![0x40 | words, self.tos];
                packet.extend(length.to_be_bytes());
                packet.extend(self.identification.to_be_bytes());
                packet.extend([u8::from(self.do_not_fragment) << 6, 0]);
                packet.extend([self.ttl, protocol, 0, 0]);
                packet.extend(source.octets());
                packet.extend(destination.octets());
                packet.extend(&self.options);
                let checksum = !sum_of(&[&packet]);
                packet[10..12].copy_from_slice(&checksum.to_be_bytes());
                packet.extend(payload);
                packet
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let mut body = Vec::new();
                let numbers = self.extensions.iter().map(|(number, _)| *number);
                let mut chain = numbers.chain([protocol]);
                let first = chain.next().expect("the protocol is in the chain");
                for ((_, extension), next) in self.extensions.iter().zip(chain) {
                    body.push(next);
                    body.extend(&extension[1..]);
                }
                body.extend(payload);
                let length = u16::try_from(body.len()).expect("a packet is short");
                let word = 6 << 28 | u32::from(self.tos) << 20 | self.flow_label & 0x000f_ffff;
                let mut packet = word.to_be_bytes().to_vec();
                packet.extend(length.to_be_bytes());
                packet.extend([first, self.ttl]);
                packet.extend(source.octets());
                packet.extend(destination.octets());
                packet.extend(body);
                packet
            }
            _ => panic!("{source} and {destination} differ in family"),
        }
    }
}

/// Returns a UDP datagram; `surplus` bytes of `payload` stand behind what its length covers.
///
/// # Panics
///
/// If it is too long.
#[must_use]
pub fn datagram(
    source: SocketAddr,
    destination: SocketAddr,
    payload: &[u8],
    surplus: usize,
    checksum: Checksum,
) -> Vec<u8> {
    let end = 8 + payload.len() - surplus;
    let length = u16::try_from(end).expect("a datagram is short");
    let mut udp = Vec::new();
    udp.extend(source.port().to_be_bytes());
    udp.extend(destination.port().to_be_bytes());
    udp.extend(length.to_be_bytes());
    udp.extend([0, 0]);
    udp.extend(payload);
    let right = match !transport_sum(source.ip(), destination.ip(), UDP, &udp[..end]) {
        0 => 0xffff,
        sum => sum,
    };
    let sent = match checksum {
        Checksum::Right => right,
        Checksum::Absent => 0,
        // Off by the same in ones' complement, whatever the right one is. Never zero, as `right` is not.
        Checksum::Wrong => sum_of(&[&right.to_be_bytes(), &[0x12, 0x34]]),
    };
    udp[6..8].copy_from_slice(&sent.to_be_bytes());
    udp
}

/// Returns an ICMP or ICMPv6 error, by the family of `source`, that quotes `quoted`.
#[must_use]
pub fn icmp_error(
    header: &Header,
    (source, destination): (IpAddr, IpAddr),
    (kind, code): (u8, u8),
    rest: [u8; 4],
    quoted: &[u8],
) -> Vec<u8> {
    let mut message = vec![kind, code, 0, 0];
    message.extend(rest);
    message.extend(quoted);
    let (protocol, sum) = match source {
        IpAddr::V4(_) => (ICMP, sum_of(&[&message])),
        IpAddr::V6(_) => (ICMPV6, transport_sum(source, destination, ICMPV6, &message)),
    };
    message[2..4].copy_from_slice(&(!sum).to_be_bytes());
    header.packet(source, destination, protocol, &message)
}

/// Returns the frame with `packet`.
#[must_use]
pub fn frame(to_mac: Mac, from_mac: Mac, packet: &[u8]) -> Vec<u8> {
    let ethertype: u16 = if packet[0] >> 4 == 4 { 0x0800 } else { 0x86dd };
    let mut frame = Vec::new();
    frame.extend(to_mac);
    frame.extend(from_mac);
    frame.extend(ethertype.to_be_bytes());
    frame.extend(packet);
    frame
}

/// A packet, or the beginning of one, and where things stand in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// From the IP header on, without what stands behind the packet in its frame.
    pub bytes: Vec<u8>,
    /// Where it comes from.
    pub source: IpAddr,
    /// Where it goes.
    pub destination: IpAddr,
    /// The protocol behind all headers of IP.
    pub protocol: u8,
    /// Where that begins.
    pub payload: usize,
}

impl Packet {
    /// Reads the packet in `frame`; `None` if it holds none of IP.
    #[must_use]
    pub fn in_frame(frame: &[u8]) -> Option<Self> {
        match frame.get(12..14)? {
            [0x08, 0x00] | [0x86, 0xdd] => Self::read(&frame[14..]),
            _ => None,
        }
    }

    /// Reads a packet whose end may be missing, as in a quotation.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
        if bytes.first()? >> 4 == 4 {
            let length = usize::from(word(2)?).min(bytes.len());
            let address =
                |at: usize| Some(<[u8; 4]>::try_from(bytes.get(at..at + 4)?).ok()?.into());
            return Some(Self {
                source: address(12)?,
                destination: address(16)?,
                protocol: *bytes.get(9)?,
                payload: usize::from(bytes[0] & 0x0f) * 4,
                bytes: bytes[..length].to_vec(),
            });
        }
        let length = (40 + usize::from(word(4)?)).min(bytes.len());
        let address = |at: usize| Some(<[u8; 16]>::try_from(bytes.get(at..at + 16)?).ok()?.into());
        let (mut protocol, mut payload) = (*bytes.get(6)?, 40);
        // Hop-by-hop options, routing, destination options.
        while [0, 43, 60].contains(&protocol) {
            protocol = *bytes.get(payload)?;
            payload += 8 + 8 * usize::from(*bytes.get(payload + 1)?);
        }
        Some(Self {
            source: address(8)?,
            destination: address(24)?,
            protocol,
            payload,
            bytes: bytes[..length].to_vec(),
        })
    }

    /// Returns the ports of a datagram.
    #[must_use]
    pub fn ports(&self) -> (u16, u16) {
        (self.word(self.payload), self.word(self.payload + 2))
    }

    /// Returns whether it is an ICMP error of its family.
    #[must_use]
    pub fn is_error(&self) -> bool {
        let kind = self.bytes.get(self.payload).copied().unwrap_or(u8::MAX);
        match self.source {
            IpAddr::V4(_) => self.protocol == ICMP && [3, 11, 12].contains(&kind),
            IpAddr::V6(_) => self.protocol == ICMPV6 && kind < 128,
        }
    }

    /// Returns the packet that an ICMP error quotes.
    #[must_use]
    pub fn quoted(&self) -> Option<Self> {
        Self::read(self.bytes.get(self.payload + 8..)?)
    }

    /// Returns which checksums are wrong when they are computed from scratch: that of the IPv4
    /// header, and that of the datagram (zero: there is none) or of the ICMP message.
    #[must_use]
    pub fn wrong_checksums(&self) -> Vec<&'static str> {
        let mut wrong = Vec::new();
        if self.source.is_ipv4() && sum_of(&[&self.bytes[..self.payload]]) != 0xffff {
            wrong.push("IPv4 header");
        }
        let rest = &self.bytes[self.payload..];
        if self.protocol == UDP {
            let length = usize::from(self.word(self.payload + 4)).min(rest.len());
            let sum = transport_sum(self.source, self.destination, UDP, &rest[..length]);
            if self.word(self.payload + 6) != 0 && sum != 0xffff {
                wrong.push("UDP");
            }
        } else {
            let sum = match self.source {
                IpAddr::V4(_) => sum_of(&[rest]),
                IpAddr::V6(_) => transport_sum(self.source, self.destination, ICMPV6, rest),
            };
            if sum != 0xffff {
                wrong.push("ICMP");
            }
        }
        wrong
    }

    /// Returns the bytes with one port of the datagram taken out: it is zero, and the checksum what
    /// it would be with that.
    #[must_use]
    pub fn without_port(&self, port: PortOf) -> Vec<u8> {
        let at = self.payload + if port == PortOf::Source { 0 } else { 2 };
        let mut bytes = self.bytes.clone();
        let (old, checksum) = (self.word(at), self.word(self.payload + 6));
        bytes[at..at + 2].fill(0);
        if checksum != 0 {
            // RFC 1624, equation 3, with a new value of zero.
            let [high, low] = (!checksum).to_be_bytes();
            let [old_high, old_low] = (!old).to_be_bytes();
            let updated = match !sum_of(&[&[high, low, old_high, old_low]]) {
                0 => 0xffff,
                sum => sum,
            };
            bytes[self.payload + 6..self.payload + 8].copy_from_slice(&updated.to_be_bytes());
        }
        bytes
    }

    fn word(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.bytes[at], self.bytes[at + 1]])
    }
}

/// One of the two ports of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortOf {
    /// The one it comes from.
    Source,
    /// The one it goes to.
    Destination,
}

/// Returns the sum over pseudo-header and `rest`: all ones if the checksum inside is right.
fn transport_sum(source: IpAddr, destination: IpAddr, protocol: u8, rest: &[u8]) -> u16 {
    let length = u16::try_from(rest.len()).expect("a packet is short");
    let tail = [length.to_be_bytes(), [0, protocol]].concat();
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            sum_of(&[&source.octets(), &destination.octets(), &tail, rest])
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            sum_of(&[&source.octets(), &destination.octets(), &tail, rest])
        }
        _ => panic!("{source} and {destination} differ in family"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_has_right_checksums_and_can_be_read() {
        for (source, destination) in [("10.0.0.1:5", "10.0.0.2:6"), ("[fd00::1]:5", "[fd00::2]:6")]
        {
            let source: SocketAddr = source.parse().expect("an address");
            let destination: SocketAddr = destination.parse().expect("an address");
            let header = Header {
                ttl: 9,
                options: vec![1, 1, 1, 0],
                extensions: vec![(60, vec![0, 0, 1, 4, 0, 0, 0, 0])],
                ..Header::default()
            };
            let udp = datagram(source, destination, b"odd", 0, Checksum::Right);
            let bytes = header.packet(source.ip(), destination.ip(), UDP, &udp);

            let packet = Packet::read(&bytes).expect("a packet");

            assert_eq!((packet.ports(), packet.protocol), ((5, 6), UDP));
            assert!(packet.wrong_checksums().is_empty());
            let error = icmp_error(
                &header,
                (destination.ip(), source.ip()),
                (if source.is_ipv4() { 3 } else { 1 }, 1),
                [0; 4],
                &bytes,
            );
            let error = Packet::read(&error).expect("a packet");
            assert!(error.is_error() && error.wrong_checksums().is_empty());
            assert_eq!(error.quoted(), Some(packet));
        }
    }

    #[test]
    fn a_port_is_taken_out_of_a_datagram_with_its_part_of_the_checksum() {
        let with = |port: u16| {
            let source = SocketAddr::from(([10, 0, 0, 1], port));
            let destination = SocketAddr::from(([10, 0, 0, 2], 6));
            let udp = datagram(source, destination, b"text", 0, Checksum::Right);
            let bytes = Header::default().packet(source.ip(), destination.ip(), UDP, &udp);
            Packet::read(&bytes).expect("a packet")
        };
        let (first, second) = (with(20_001), with(31_999));

        assert_ne!(first.bytes, second.bytes);
        assert_eq!(
            first.without_port(PortOf::Source),
            second.without_port(PortOf::Source)
        );
        assert_ne!(
            first.without_port(PortOf::Destination),
            second.without_port(PortOf::Destination)
        );
    }
}
