//! Frames made from scratch, right ones and wrong ones. Every checksum is computed over all that it
//! covers.

use crate::wire::{
    Address, DESTINATION_OPTIONS, FRAGMENT, HOP_BY_HOP, ICMP, ICMPV6, IPV4, IPV6, ROUTING, Tags,
    UDP, is_v4, pseudo_header, sum,
};

/// What stands before an IP packet.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) destination: [u8; 6],
    pub(crate) source: [u8; 6],
    pub(crate) tags: Tags,
}

impl Link {
    /// Returns the frame of an IP packet; `v6` is what the EtherType says.
    pub(crate) fn frame(&self, v6: bool, packet: &[u8]) -> Vec<u8> {
        self.frame_of(if v6 { IPV6 } else { IPV4 }, packet)
    }

    /// Returns the frame of anything.
    pub(crate) fn frame_of(&self, ether_type: u16, content: &[u8]) -> Vec<u8> {
        let mut frame = [self.destination, self.source].concat();
        for (ether_type, control) in &self.tags {
            frame.extend(ether_type.to_be_bytes());
            frame.extend(control.to_be_bytes());
        }
        frame.extend(ether_type.to_be_bytes());
        frame.extend(content);
        frame
    }
}

/// The header of an IP packet, with what stands between it and its protocol.
#[derive(Clone, Debug)]
pub(crate) struct Header {
    pub(crate) source: Address,
    pub(crate) destination: Address,
    pub(crate) ttl: u8,
    pub(crate) traffic_class: u8,
    /// IPv4; in IPv6 the fragment header has it.
    pub(crate) identification: u32,
    pub(crate) do_not_fragment: bool,
    /// Offset in units of eight bytes, and whether more follows.
    pub(crate) piece: Option<(u16, bool)>,
    /// IPv4 options, a multiple of four bytes.
    pub(crate) options: Vec<u8>,
    /// IPv6 extension headers before the fragment header, then those after it.
    pub(crate) extensions: [Vec<Extension>; 2],
    /// An IPv6 fragment header, although the packet is whole (RFC 6946).
    pub(crate) atomic: bool,
}

/// An IPv6 extension header.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extension {
    pub(crate) kind: u8,
    /// Length beyond the first eight bytes, in units of as many.
    pub(crate) more: u8,
    /// Of a routing header.
    pub(crate) segments_left: u8,
}

impl Header {
    pub(crate) fn new(source: Address, destination: Address) -> Self {
        Self {
            source,
            destination,
            ttl: 64,
            traffic_class: 0xb8,
            identification: 0x1234,
            do_not_fragment: false,
            piece: None,
            options: Vec::new(),
            extensions: [Vec::new(), Vec::new()],
            atomic: false,
        }
    }

    pub(crate) fn is_v6(&self) -> bool {
        !is_v4(&self.source)
    }

    /// Returns the IP packet with this content.
    pub(crate) fn packet(&self, protocol: u8, content: &[u8]) -> Vec<u8> {
        if self.is_v6() {
            self.packet_v6(protocol, content)
        } else {
            self.packet_v4(protocol, content)
        }
    }

    /// RFC 791 section 3.1.
    fn packet_v4(&self, protocol: u8, content: &[u8]) -> Vec<u8> {
        let header_len = 20 + self.options.len();
        let (offset, more) = self.piece.unwrap_or((0, false));
        let fragment =
            u16::from(self.do_not_fragment) << 14 | u16::from(more) << 13 | offset & 0x1fff;
        let mut packet = vec![0x40 | (header_len / 4) as u8, self.traffic_class];
        packet.extend(((header_len + content.len()) as u16).to_be_bytes());
        packet.extend((self.identification as u16).to_be_bytes());
        packet.extend(fragment.to_be_bytes());
        packet.extend([self.ttl, protocol, 0, 0]);
        packet.extend(&self.source[12..]);
        packet.extend(&self.destination[12..]);
        packet.extend(&self.options);
        let checksum = !sum(&packet);
        packet[10..12].copy_from_slice(&checksum.to_be_bytes());
        packet.extend(content);
        packet
    }

    /// RFC 8200 sections 3 and 4.
    fn packet_v6(&self, protocol: u8, content: &[u8]) -> Vec<u8> {
        let [before, after] = &self.extensions;
        let mut kinds: Vec<u8> = before.iter().map(|e| e.kind).collect();
        let mut bodies: Vec<Vec<u8>> = before.iter().map(Extension::body).collect();
        if self.piece.is_some() || self.atomic {
            let (offset, more) = self.piece.unwrap_or((0, false));
            kinds.push(FRAGMENT);
            let mut body = vec![0, 0];
            body.extend((offset << 3 | u16::from(more)).to_be_bytes());
            body.extend(self.identification.to_be_bytes());
            bodies.push(body);
        }
        kinds.extend(after.iter().map(|e| e.kind));
        bodies.extend(after.iter().map(Extension::body));
        kinds.push(protocol);
        for (body, next) in bodies.iter_mut().zip(&kinds[1..]) {
            body[0] = *next;
        }
        let payload = [bodies.concat(), content.to_vec()].concat();
        let mut packet = vec![
            0x60 | self.traffic_class >> 4,
            self.traffic_class << 4 | 0x0c,
            0xaf,
            0xfe,
        ];
        packet.extend((payload.len() as u16).to_be_bytes());
        packet.extend([kinds[0], self.ttl]);
        packet.extend(self.source);
        packet.extend(self.destination);
        packet.extend(payload);
        packet
    }
}

impl Extension {
    /// The header with its first byte left open. Options are padding (RFC 8200 section 4.2).
    fn body(&self) -> Vec<u8> {
        let len = 8 + 8 * usize::from(self.more);
        let mut body = vec![0; len];
        body[1] = self.more;
        match self.kind {
            ROUTING => body[3] = self.segments_left,
            HOP_BY_HOP | DESTINATION_OPTIONS => {
                // PadN up to 255 bytes, Pad1 behind it.
                body[2] = 1;
                body[3] = (len - 4).min(255) as u8;
            }
            _ => {}
        }
        body
    }
}

/// The checksum of a datagram.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Checksum {
    Right,
    Absent,
    Wrong,
}

/// Returns a UDP datagram (RFC 768).
pub(crate) fn udp(
    header: &Header,
    source_port: u16,
    destination_port: u16,
    checksum: Checksum,
    payload: &[u8],
) -> Vec<u8> {
    let len = 8 + payload.len();
    let mut datagram = source_port.to_be_bytes().to_vec();
    datagram.extend(destination_port.to_be_bytes());
    datagram.extend((len as u16).to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(payload);
    let mut covered = pseudo_header(&header.source, &header.destination, UDP, len);
    covered.extend(&datagram);
    let right = match !sum(&covered) {
        0 => 0xffff,
        sum => sum,
    };
    let written = match checksum {
        Checksum::Right => right,
        Checksum::Absent => 0,
        Checksum::Wrong => match right ^ 0x0100 {
            0 => 0x0101,
            wrong => wrong,
        },
    };
    datagram[6..8].copy_from_slice(&written.to_be_bytes());
    datagram
}

/// Returns an ICMP message of the header's family (RFC 792, RFC 4443) with a right checksum.
pub(crate) fn icmp(header: &Header, kind: u8, code: u8, word: u32, body: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, code, 0, 0];
    message.extend(word.to_be_bytes());
    message.extend(body);
    let mut covered = if header.is_v6() {
        pseudo_header(&header.source, &header.destination, ICMPV6, message.len())
    } else {
        Vec::new()
    };
    covered.extend(&message);
    let checksum = !sum(&covered);
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    message
}

/// Returns the protocol number of ICMP in the header's family.
pub(crate) fn icmp_protocol(header: &Header) -> u8 {
    if header.is_v6() { ICMPV6 } else { ICMP }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{self, mapped};

    fn link() -> Link {
        Link {
            destination: [2, 0, 0, 0, 0, 5],
            source: [2, 0, 0, 0, 0, 1],
            tags: vec![(0x88a8, 7), (0x8100, 9)],
        }
    }

    #[test]
    fn what_is_made_is_read_alike() {
        let mut header = Header::new(mapped(&[192, 0, 2, 1]), mapped(&[192, 0, 2, 2]));
        header.options = vec![1; 8];
        let datagram = udp(&header, 7, 9, Checksum::Right, b"odd");
        let frame = link().frame(false, &header.packet(UDP, &datagram));

        let ip = wire::read(&frame).expect("a packet");

        assert_eq!((ip.l3, ip.l4, ip.len), (22, 50, 39));
        assert_eq!(
            (ip.source, ip.destination),
            (header.source, header.destination)
        );
        assert_eq!(ip.tags, link().tags);
        assert_eq!(wire::faults(&frame), [""; 0]);
    }

    #[test]
    fn extension_headers_are_made_and_skipped() {
        let mut header = Header::new([0xfd; 16], [0xfc; 16]);
        let extension = |kind, more| Extension {
            kind,
            more,
            segments_left: 0,
        };
        header.extensions = [
            vec![extension(HOP_BY_HOP, 0), extension(ROUTING, 2)],
            vec![extension(DESTINATION_OPTIONS, 1)],
        ];
        header.piece = Some((0, true));
        let datagram = udp(&header, 7, 9, Checksum::Right, &[1; 16]);
        let frame = link().frame(true, &header.packet(UDP, &datagram));

        let ip = wire::read(&frame).expect("a packet");

        assert_eq!(ip.l4, 22 + 40 + 8 + 24 + 8 + 16);
        assert!(ip.is_first_piece());
        assert_eq!(ip.piece.map(|p| p.identification), Some(0x1234));
    }

    #[test]
    fn a_wrong_checksum_is_noticed() {
        let header = Header::new([0xfd; 16], [0xfc; 16]);
        let datagram = udp(&header, 7, 9, Checksum::Wrong, b"odd");
        let frame = link().frame(true, &header.packet(UDP, &datagram));
        assert_eq!(wire::faults(&frame), ["UDP checksum"]);

        let message = icmp(&header, 1, 4, 0, &[1; 48]);
        let mut frame = link().frame(true, &header.packet(ICMPV6, &message));
        assert_eq!(wire::faults(&frame), [""; 0]);
        frame[70] ^= 1;
        assert_eq!(wire::faults(&frame), ["ICMP checksum"]);
    }
}
