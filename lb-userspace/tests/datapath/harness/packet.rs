//! UDP packets, made and read without the code under test: every checksum is computed from
//! scratch (RFC 1071), never updated.

use std::net::SocketAddr;

use super::ip::{Ip, Link, take_u16};

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
const IDENTIFICATION: u16 = 0x1234;
const DO_NOT_FRAGMENT: u16 = 0x4000;
pub(crate) const UDP: u8 = 17;

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
        let ip = self.ip();
        let mut frame = self.link().encode(ip.is_v6());
        frame.extend(ip.encode(&self.datagram()));
        frame
    }

    /// Returns what stands before the IP header.
    pub(crate) fn link(&self) -> Link {
        Link::new(self.source_mac, self.destination_mac).tags(&self.tags)
    }

    /// Returns the IP header.
    pub(crate) fn ip(&self) -> Ip {
        let v6 = self.source.is_ipv6();
        Ip {
            source: self.source.ip(),
            destination: self.destination.ip(),
            traffic_class: TRAFFIC_CLASS,
            flow_label: if v6 { FLOW_LABEL } else { [0; 3] },
            identification: if v6 { 0 } else { IDENTIFICATION },
            fragment: if v6 { 0 } else { DO_NOT_FRAGMENT },
            ttl: self.ttl,
            protocol: UDP,
            options: self.options.clone(),
        }
    }

    /// Returns the IP packet without what stands before it, as ICMP errors quote it.
    pub(crate) fn quoted(&self) -> Vec<u8> {
        self.ip().encode(&self.datagram())
    }

    /// Returns the UDP header and the payload (RFC 768).
    pub(crate) fn datagram(&self) -> Vec<u8> {
        let len = 8 + self.payload.len() as u16;
        let mut datagram = self.source.port().to_be_bytes().to_vec();
        datagram.extend(self.destination.port().to_be_bytes());
        datagram.extend(len.to_be_bytes());
        datagram.extend([0, 0]);
        datagram.extend(&self.payload);
        if self.checksum {
            let sum = match self.ip().transport_checksum(UDP, &datagram) {
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
        let (link, packet) = Link::read(frame)?;
        let (ip, datagram) = Ip::read(packet)?;
        Self::of(&link, &ip, datagram)
    }

    /// Returns the packet with these headers that carries `datagram`.
    pub(crate) fn of(link: &Link, ip: &Ip, datagram: &[u8]) -> Option<Self> {
        let (source_port, rest) = take_u16(datagram)?;
        let (destination_port, rest) = take_u16(rest)?;
        let (_len, rest) = take_u16(rest)?;
        let (sum, payload) = take_u16(rest)?;
        Some(Self {
            destination_mac: link.destination_mac,
            source_mac: link.source_mac,
            tags: link.tags.clone(),
            source: SocketAddr::new(ip.source, source_port),
            destination: SocketAddr::new(ip.destination, destination_port),
            ttl: ip.ttl,
            options: ip.options.clone(),
            checksum: sum != 0,
            payload: payload.to_vec(),
        })
    }
}

#[test]
#[should_panic = "checksums, lengths or fields are wrong"]
fn a_wrong_checksum_is_noticed() {
    let mut frame = udp("192.0.2.1:1", "192.0.2.2:2").encode();
    frame[40] ^= 1;
    Packet::decode(&frame);
}
