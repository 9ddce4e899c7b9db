//! UDP packets, made and read without the code under test: every checksum is computed from
//! scratch (RFC 1071), never updated.

use std::net::{IpAddr, SocketAddr};

/// A MAC address.
pub(crate) type Mac = [u8; 6];

/// A UDP packet in an Ethernet frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) destination_mac: Mac,
    pub(crate) source_mac: Mac,
    /// EtherType and control information of each tag, outermost first.
    pub(crate) tags: Vec<(u16, u16)>,
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
    /// TTL or hop limit.
    pub(crate) ttl: u8,
    /// IPv4 options, a multiple of four bytes.
    pub(crate) options: Vec<u8>,
    /// Whether the UDP checksum is there; else it is zero.
    pub(crate) checksum: bool,
    pub(crate) payload: Vec<u8>,
}

/// Returns a packet between two addresses with ports, written as `192.0.2.1:443` or `[::1]:443`.
pub(crate) fn udp(source: &str, destination: &str) -> Packet {
    Packet {
        destination_mac: [0; 6],
        source_mac: [0; 6],
        tags: Vec::new(),
        source: address(source),
        destination: address(destination),
        ttl: 64,
        options: Vec::new(),
        checksum: true,
        payload: b"an odd payload".to_vec(),
    }
}

fn address(text: &str) -> SocketAddr {
    text.parse()
        .unwrap_or_else(|_| panic!("{text} is no address with a port"))
}

// What every packet of these tests carries, and no translation may change: traffic class (or flow
// label), identification, "don't fragment".
const TRAFFIC_CLASS: u8 = 0xb8;
const FLOW_LABEL: [u8; 3] = [0x0c, 0xaf, 0xfe];
const IDENTIFICATION: [u8; 2] = [0x12, 0x34];
const DO_NOT_FRAGMENT: [u8; 2] = [0x40, 0];
const UDP: u8 = 17;

impl Packet {
    pub(crate) fn from(self, source: &str) -> Self {
        Self {
            source: address(source),
            ..self
        }
    }

    /// Sets the source port.
    pub(crate) fn port(mut self, port: u16) -> Self {
        self.source.set_port(port);
        self
    }

    pub(crate) fn to(self, destination: &str) -> Self {
        Self {
            destination: address(destination),
            ..self
        }
    }

    pub(crate) fn macs(self, source_mac: Mac, destination_mac: Mac) -> Self {
        Self {
            source_mac,
            destination_mac,
            ..self
        }
    }

    pub(crate) fn ttl(self, ttl: u8) -> Self {
        Self { ttl, ..self }
    }

    pub(crate) fn tags(self, tags: &[(u16, u16)]) -> Self {
        Self {
            tags: tags.to_vec(),
            ..self
        }
    }

    pub(crate) fn options(self, options: &[u8]) -> Self {
        Self {
            options: options.to_vec(),
            ..self
        }
    }

    pub(crate) fn without_checksum(self) -> Self {
        Self {
            checksum: false,
            ..self
        }
    }

    pub(crate) fn payload(self, payload: &[u8]) -> Self {
        Self {
            payload: payload.to_vec(),
            ..self
        }
    }

    /// Returns the bytes from the start of the frame to the IP header.
    pub(crate) fn l3(&self) -> usize {
        14 + 4 * self.tags.len()
    }

    /// Returns the bytes from the start of the frame to the UDP header.
    pub(crate) fn l4(&self) -> usize {
        self.l3()
            + match self.source {
                SocketAddr::V4(_) => 20 + self.options.len(),
                SocketAddr::V6(_) => 40,
            }
    }

    /// Returns the frame.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut frame = [self.destination_mac, self.source_mac].concat();
        for (ether_type, control) in &self.tags {
            frame.extend(ether_type.to_be_bytes());
            frame.extend(control.to_be_bytes());
        }
        match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                frame.extend([0x08, 0x00]);
                frame.extend(self.ipv4_header(source.octets(), destination.octets()));
                frame.extend(self.datagram(&source.octets(), &destination.octets()));
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                frame.extend([0x86, 0xdd]);
                frame.extend([0x60 | TRAFFIC_CLASS >> 4]);
                frame.extend([
                    TRAFFIC_CLASS << 4 | FLOW_LABEL[0],
                    FLOW_LABEL[1],
                    FLOW_LABEL[2],
                ]);
                frame.extend((8 + self.payload.len() as u16).to_be_bytes());
                frame.extend([UDP, self.ttl]);
                frame.extend(source.octets());
                frame.extend(destination.octets());
                frame.extend(self.datagram(&source.octets(), &destination.octets()));
            }
            _ => panic!(
                "{} and {} are of two families",
                self.source, self.destination
            ),
        }
        frame
    }

    /// RFC 791 section 3.1.
    fn ipv4_header(&self, source: [u8; 4], destination: [u8; 4]) -> Vec<u8> {
        let header_len = 20 + self.options.len();
        let total_len = (header_len + 8 + self.payload.len()) as u16;
        let mut header = vec![0x40 | (header_len / 4) as u8, TRAFFIC_CLASS];
        header.extend(total_len.to_be_bytes());
        header.extend(IDENTIFICATION);
        header.extend(DO_NOT_FRAGMENT);
        header.extend([self.ttl, UDP, 0, 0]);
        header.extend(source);
        header.extend(destination);
        header.extend(&self.options);
        let checksum = checksum(&header);
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
        header
    }

    /// RFC 768; for IPv6 with the pseudo-header of RFC 8200 section 8.1.
    fn datagram(&self, source: &[u8], destination: &[u8]) -> Vec<u8> {
        let len = 8 + self.payload.len() as u16;
        let mut datagram = self.source.port().to_be_bytes().to_vec();
        datagram.extend(self.destination.port().to_be_bytes());
        datagram.extend(len.to_be_bytes());
        datagram.extend([0, 0]);
        datagram.extend(&self.payload);
        if self.checksum {
            let mut covered = [source, destination].concat();
            covered.extend([0, UDP]);
            covered.extend(len.to_be_bytes());
            covered.extend(&datagram);
            let sum = match checksum(&covered) {
                0 => 0xffff,
                sum => sum,
            };
            datagram[6..8].copy_from_slice(&sum.to_be_bytes());
        }
        datagram
    }

    /// Reads a frame, which must be what [`Packet::encode`] makes of the packet in it, bit by bit:
    /// right lengths, right checksums, and all that no translation may change.
    pub(crate) fn decode(frame: &[u8]) -> Self {
        let packet = Self::read(frame)
            .unwrap_or_else(|| panic!("a UDP packet ends too early: {frame:02x?}"));
        assert_eq!(
            packet.encode(),
            frame,
            "checksums, lengths or fields are wrong in {packet:?}"
        );
        packet
    }

    fn read(frame: &[u8]) -> Option<Self> {
        let (macs, mut rest) = frame.split_at_checked(12)?;
        let mut tags = Vec::new();
        let family = loop {
            let (ether_type, after) = take_u16(rest)?;
            rest = after;
            if !matches!(ether_type, 0x8100 | 0x88a8) {
                break ether_type;
            }
            let (control, after) = take_u16(rest)?;
            rest = after;
            tags.push((ether_type, control));
        };
        let (ttl, options, source, destination, datagram) = match family {
            0x0800 => {
                let header_len = usize::from(rest.first()? & 0xf) * 4;
                let (header, datagram) = rest.split_at_checked(header_len)?;
                (
                    *header.get(8)?,
                    header.get(20..)?.to_vec(),
                    IpAddr::from(<[u8; 4]>::try_from(header.get(12..16)?).ok()?),
                    IpAddr::from(<[u8; 4]>::try_from(header.get(16..20)?).ok()?),
                    datagram,
                )
            }
            0x86dd => {
                let (header, datagram) = rest.split_at_checked(40)?;
                (
                    header[7],
                    Vec::new(),
                    IpAddr::from(<[u8; 16]>::try_from(&header[8..24]).ok()?),
                    IpAddr::from(<[u8; 16]>::try_from(&header[24..40]).ok()?),
                    datagram,
                )
            }
            _ => return None,
        };
        let (source_port, rest) = take_u16(datagram)?;
        let (destination_port, rest) = take_u16(rest)?;
        let (_len, rest) = take_u16(rest)?;
        let (sum, payload) = take_u16(rest)?;
        Some(Self {
            destination_mac: macs[..6].try_into().ok()?,
            source_mac: macs[6..].try_into().ok()?,
            tags,
            source: SocketAddr::new(source, source_port),
            destination: SocketAddr::new(destination, destination_port),
            ttl,
            options,
            checksum: sum != 0,
            payload: payload.to_vec(),
        })
    }
}

fn take_u16(bytes: &[u8]) -> Option<(u16, &[u8])> {
    let (word, rest) = bytes.split_first_chunk()?;
    Some((u16::from_be_bytes(*word), rest))
}

/// RFC 1071 section 1: the complement of the one's complement sum.
fn checksum(bytes: &[u8]) -> u16 {
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
fn a_packet_that_another_program_made_is_read_and_made_alike() {
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

#[test]
#[should_panic = "checksums, lengths or fields are wrong"]
fn a_wrong_checksum_is_noticed() {
    let mut frame = udp("192.0.2.1:1", "192.0.2.2:2").encode();
    frame[40] ^= 1;
    Packet::decode(&frame);
}
