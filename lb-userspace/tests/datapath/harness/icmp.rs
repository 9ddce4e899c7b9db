//! ICMP messages, made and read without the code under test.

use std::net::IpAddr;

use super::{
    ip::{Ip, Link, checksum},
    packet::Mac,
};

/// IANA protocol numbers.
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// An ICMP (RFC 792) or ICMPv6 (RFC 4443) message in an Ethernet frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Icmp {
    pub(crate) link: Link,
    pub(crate) ip: Ip,
    /// Type and code.
    pub(crate) kind: (u8, u8),
    /// Bytes 4 to 8: the MTU, the pointer, or nothing.
    pub(crate) rest: [u8; 4],
    /// What follows; of an error, the packet that it is about.
    pub(crate) body: Vec<u8>,
}

/// Returns an ICMP message between two addresses, of the family that they are of.
pub(crate) fn icmp(source: IpAddr, destination: IpAddr, kind: (u8, u8), body: &[u8]) -> Icmp {
    let v6 = source.is_ipv6();
    Icmp {
        link: Link::new([0; 6], [0; 6]),
        ip: Ip {
            source,
            destination,
            traffic_class: 0xc0,
            flow_label: if v6 { [0x0b, 0xee, 0xf1] } else { [0; 3] },
            identification: if v6 { 0 } else { 0x4711 },
            fragment: 0,
            ttl: 60,
            protocol: if v6 { ICMPV6 } else { ICMP },
            options: Vec::new(),
        },
        kind,
        rest: [0; 4],
        body: body.to_vec(),
    }
}

impl Icmp {
    pub(crate) fn macs(self, source_mac: Mac, destination_mac: Mac) -> Self {
        Self {
            link: Link {
                source_mac,
                destination_mac,
                ..self.link
            },
            ..self
        }
    }

    pub(crate) fn tags(self, tags: &[(u16, u16)]) -> Self {
        Self {
            link: self.link.tags(tags),
            ..self
        }
    }

    pub(crate) fn ttl(mut self, ttl: u8) -> Self {
        self.ip.ttl = ttl;
        self
    }

    /// Sets bytes 4 to 8.
    pub(crate) fn rest(self, rest: [u8; 4]) -> Self {
        Self { rest, ..self }
    }

    /// Returns the frame.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut message = vec![self.kind.0, self.kind.1, 0, 0];
        message.extend(self.rest);
        message.extend(&self.body);
        let sum = if self.ip.is_v6() {
            self.ip.transport_checksum(ICMPV6, &message)
        } else {
            checksum(&message)
        };
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        let mut frame = self.link.encode(self.ip.is_v6());
        frame.extend(self.ip.encode(&message));
        frame
    }

    /// Reads a frame, which must be what [`Icmp::encode`] makes of the message in it, bit by bit.
    pub(crate) fn decode(frame: &[u8]) -> Self {
        let message = Self::read(frame)
            .unwrap_or_else(|| panic!("an ICMP message ends too early: {frame:02x?}"));
        assert_eq!(
            message.encode(),
            frame,
            "checksums, lengths or fields are wrong in {message:?}"
        );
        message
    }

    fn read(frame: &[u8]) -> Option<Self> {
        let (link, packet) = Link::read(frame)?;
        let (ip, message) = Ip::read(packet)?;
        let (header, body) = message.split_at_checked(8)?;
        Some(Self {
            link,
            ip,
            kind: (header[0], header[1]),
            rest: header[4..].try_into().ok()?,
            body: body.to_vec(),
        })
    }
}
