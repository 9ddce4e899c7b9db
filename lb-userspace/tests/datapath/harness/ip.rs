//! The headers in front of UDP and ICMP: Ethernet with its tags, IPv4 and IPv6.

use std::net::IpAddr;

use super::packet::Mac;

/// What stands before the IP header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) destination_mac: Mac,
    pub(crate) source_mac: Mac,
    /// EtherType and control information of each tag, outermost first.
    pub(crate) tags: Vec<(u16, u16)>,
}

impl Link {
    pub(crate) fn new(source_mac: Mac, destination_mac: Mac) -> Self {
        Self {
            destination_mac,
            source_mac,
            tags: Vec::new(),
        }
    }

    /// Sets the tags.
    pub(crate) fn tags(self, tags: &[(u16, u16)]) -> Self {
        Self {
            tags: tags.to_vec(),
            ..self
        }
    }

    /// Returns the start of a frame that carries IPv6, or IPv4.
    pub(crate) fn encode(&self, v6: bool) -> Vec<u8> {
        let mut frame = [self.destination_mac, self.source_mac].concat();
        for (ether_type, control) in &self.tags {
            frame.extend(ether_type.to_be_bytes());
            frame.extend(control.to_be_bytes());
        }
        frame.extend(if v6 { [0x86, 0xdd] } else { [0x08, 0x00] });
        frame
    }

    /// Reads the start of a frame; returns what comes behind it as well.
    pub(crate) fn read(frame: &[u8]) -> Option<(Self, &[u8])> {
        let (macs, mut rest) = frame.split_at_checked(12)?;
        let mut tags = Vec::new();
        loop {
            let (ether_type, after) = take_u16(rest)?;
            rest = after;
            if !matches!(ether_type, 0x8100 | 0x88a8) {
                break;
            }
            let (control, after) = take_u16(rest)?;
            rest = after;
            tags.push((ether_type, control));
        }
        let link = Self {
            destination_mac: macs[..6].try_into().ok()?,
            source_mac: macs[6..].try_into().ok()?,
            tags,
        };
        Some((link, rest))
    }
}

/// An IPv4 header (RFC 791 section 3.1) or an IPv6 header (RFC 8200 section 3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ip {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) traffic_class: u8,
    /// Of IPv6 only, as `identification` and `fragment` are of IPv4.
    pub(crate) flow_label: [u8; 3],
    pub(crate) identification: u16,
    /// Flags and fragment offset.
    pub(crate) fragment: u16,
    /// TTL or hop limit.
    pub(crate) ttl: u8,
    /// Protocol or next header.
    pub(crate) protocol: u8,
    /// IPv4 options, a multiple of four bytes.
    pub(crate) options: Vec<u8>,
}

impl Ip {
    /// Returns the packet that carries `payload`.
    pub(crate) fn encode(&self, payload: &[u8]) -> Vec<u8> {
        let mut packet = match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let header_len = 20 + self.options.len();
                let total_len = (header_len + payload.len()) as u16;
                let mut header = vec![0x40 | (header_len / 4) as u8, self.traffic_class];
                header.extend(total_len.to_be_bytes());
                header.extend(self.identification.to_be_bytes());
                header.extend(self.fragment.to_be_bytes());
                header.extend([self.ttl, self.protocol, 0, 0]);
                header.extend(source.octets());
                header.extend(destination.octets());
                header.extend(&self.options);
                let checksum = checksum(&header);
                header[10..12].copy_from_slice(&checksum.to_be_bytes());
                header
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let [high, middle, low] = self.flow_label;
                let mut header = vec![
                    0x60 | self.traffic_class >> 4,
                    self.traffic_class << 4 | high,
                    middle,
                    low,
                ];
                header.extend((payload.len() as u16).to_be_bytes());
                header.extend([self.protocol, self.ttl]);
                header.extend(source.octets());
                header.extend(destination.octets());
                header
            }
            (source, destination) => panic!("{source} and {destination} are of two families"),
        };
        packet.extend(payload);
        packet
    }

    /// Reads a packet; returns what it carries as well.
    pub(crate) fn read(packet: &[u8]) -> Option<(Self, &[u8])> {
        let word = |offset: usize| Some(take_u16(packet.get(offset..)?)?.0);
        if packet.first()? >> 4 == 4 {
            let header_len = usize::from(packet[0] & 0xf) * 4;
            let (header, payload) = packet.split_at_checked(header_len)?;
            let header4 = Self {
                source: IpAddr::from(<[u8; 4]>::try_from(header.get(12..16)?).ok()?),
                destination: IpAddr::from(<[u8; 4]>::try_from(header.get(16..20)?).ok()?),
                traffic_class: header[1],
                flow_label: [0; 3],
                identification: word(4)?,
                fragment: word(6)?,
                ttl: header[8],
                protocol: header[9],
                options: header[20..].to_vec(),
            };
            return Some((header4, payload));
        }
        let (header, payload) = packet.split_at_checked(40)?;
        let header6 = Self {
            source: IpAddr::from(<[u8; 16]>::try_from(&header[8..24]).ok()?),
            destination: IpAddr::from(<[u8; 16]>::try_from(&header[24..40]).ok()?),
            traffic_class: header[0] << 4 | header[1] >> 4,
            flow_label: [header[1] & 0xf, header[2], header[3]],
            identification: 0,
            fragment: 0,
            ttl: header[7],
            protocol: header[6],
            options: Vec::new(),
        };
        Some((header6, payload))
    }

    pub(crate) fn is_v6(&self) -> bool {
        self.source.is_ipv6()
    }

    /// Returns the checksum of what a transport protocol sends, with the pseudo-header of RFC 768
    /// or RFC 8200 section 8.1: the same sum.
    pub(crate) fn transport_checksum(&self, protocol: u8, payload: &[u8]) -> u16 {
        let mut covered = match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                [source.octets(), destination.octets()].concat()
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                [source.octets(), destination.octets()].concat()
            }
            (source, destination) => panic!("{source} and {destination} are of two families"),
        };
        covered.extend([0, protocol]);
        covered.extend((payload.len() as u16).to_be_bytes());
        covered.extend(payload);
        checksum(&covered)
    }
}

/// Returns the first two bytes as a number, and the others.
pub(crate) fn take_u16(bytes: &[u8]) -> Option<(u16, &[u8])> {
    let (word, rest) = bytes.split_first_chunk()?;
    Some((u16::from_be_bytes(*word), rest))
}

/// RFC 1071 section 1: the complement of the one's complement sum.
pub(crate) fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u64 = bytes
        .chunks(2)
        .map(|pair| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[test]
fn the_checksum_is_that_of_examples() {
    // RFC 1071 section 3 has no packet; this sum is its example's.
    assert_eq!(
        checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]),
        !0xddf2
    );
    // The header of the example in many textbooks, whose checksum is b861.
    let header = [
        0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0xb8, 0x61, 0xc0, 0xa8, 0x00,
        0x01, 0xc0, 0xa8, 0x00, 0xc7,
    ];
    assert_eq!(checksum(&header), 0);
}
