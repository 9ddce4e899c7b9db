//! Pieces of UDP datagrams: cut, read and put together without the code under test.

use super::{
    ip::{Ip, Link},
    packet::{Packet, UDP},
};

/// Next header of a fragment header (RFC 8200 section 4.5).
const FRAGMENT_HEADER: u8 = 44;

/// A piece of a datagram in an Ethernet frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) link: Link,
    /// The header, as that of a whole packet would be.
    pub(crate) ip: Ip,
    pub(crate) identification: u32,
    /// Bytes of the datagram in front of this piece.
    pub(crate) offset: usize,
    /// Whether others come behind it.
    pub(crate) more: bool,
    pub(crate) data: Vec<u8>,
}

/// Cuts a packet into pieces of so many bytes, and a last one of what is left.
pub(crate) fn cut(packet: &Packet, identification: u32, sizes: &[usize]) -> Vec<Piece> {
    let datagram = packet.datagram();
    let mut pieces = Vec::new();
    let mut offset = 0_usize;
    for size in sizes.iter().copied().chain([usize::MAX]) {
        let end = datagram.len().min(offset.saturating_add(size));
        let data = datagram[offset..end].to_vec();
        assert!(!data.is_empty(), "no data is left for another piece");
        pieces.push(Piece {
            link: packet.link(),
            ip: packet.ip(),
            identification,
            offset,
            more: end < datagram.len(),
            data,
        });
        offset = end;
    }
    pieces
}

/// Puts pieces together, in any order. They must be those of one datagram, and it must be right in
/// its checksum.
pub(crate) fn join(pieces: &[Piece]) -> Packet {
    let mut ordered: Vec<_> = pieces.iter().collect();
    ordered.sort_by_key(|piece| piece.offset);
    let first = ordered[0];
    let mut datagram = Vec::new();
    for piece in &ordered {
        assert_eq!(piece.identification, first.identification, "{piece:?}");
        assert_eq!(piece.link, first.link);
        assert_eq!(piece.ip, first.ip);
        assert_eq!(piece.offset, datagram.len(), "a gap before {piece:?}");
        datagram.extend(&piece.data);
    }
    assert!(
        !ordered[ordered.len() - 1].more,
        "the last piece is missing"
    );
    let packet = Packet::of(&first.link, &first.ip, &datagram).expect("a UDP header");
    assert_eq!(
        packet.datagram(),
        datagram,
        "lengths or checksums are wrong"
    );
    packet
}

impl Piece {
    /// Returns the frame.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut frame = self.link.encode(self.ip.is_v6());
        frame.extend(self.quoted());
        frame
    }

    /// Returns the IP packet without what stands before it.
    pub(crate) fn quoted(&self) -> Vec<u8> {
        assert_eq!(self.offset % 8, 0, "offsets count in eights of bytes");
        let units = (self.offset / 8) as u16;
        if !self.ip.is_v6() {
            let header = Ip {
                identification: self.identification as u16,
                fragment: units | if self.more { 0x2000 } else { 0 },
                ..self.ip.clone()
            };
            return header.encode(&self.data);
        }
        let header = Ip {
            protocol: FRAGMENT_HEADER,
            ..self.ip.clone()
        };
        let mut payload = vec![UDP, 0];
        payload.extend((units << 3 | u16::from(self.more)).to_be_bytes());
        payload.extend(self.identification.to_be_bytes());
        payload.extend(&self.data);
        header.encode(&payload)
    }

    /// Reads a frame, which must be what [`Piece::encode`] makes of the piece in it, bit by bit.
    pub(crate) fn decode(frame: &[u8]) -> Self {
        let piece =
            Self::read(frame).unwrap_or_else(|| panic!("a piece ends too early: {frame:02x?}"));
        assert_eq!(
            piece.encode(),
            frame,
            "checksums, lengths or fields are wrong in {piece:?}"
        );
        piece
    }

    fn read(frame: &[u8]) -> Option<Self> {
        let (link, packet) = Link::read(frame)?;
        let (ip, payload) = Ip::read(packet)?;
        // What the headers of pieces and of the whole packet share.
        let whole = Packet::of(&link, &ip, &[0; 8])?.ip();
        let (identification, fragment, data) = if ip.is_v6() {
            let (header, data) = payload.split_at_checked(8)?;
            (
                u32::from_be_bytes(header[4..].try_into().ok()?),
                u16::from_be_bytes([header[2], header[3]]),
                data,
            )
        } else {
            // As IPv6 has it: the offset above the flags.
            let fragment = ip.fragment << 3 | (ip.fragment >> 13 & 1);
            (u32::from(ip.identification), fragment, payload)
        };
        Some(Self {
            link,
            ip: whole,
            identification,
            offset: usize::from(fragment & 0xfff8),
            more: fragment & 1 != 0,
            data: data.to_vec(),
        })
    }
}
