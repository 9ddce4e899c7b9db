//! IPv6 extension headers (RFC 8200 section 4).

pub(crate) const HOP_BY_HOP: u8 = 0;
pub(crate) const ROUTING: u8 = 43;
pub(crate) const FRAGMENT: u8 = 44;
pub(crate) const ESP: u8 = 50;
pub(crate) const AUTHENTICATION: u8 = 51;
pub(crate) const NO_NEXT_HEADER: u8 = 59;
pub(crate) const DESTINATION_OPTIONS: u8 = 60;

/// An extension header: its number, and its bytes. The first of them, which names the next header,
/// is filled in by [`behind`].
pub(crate) type Extension = (u8, Vec<u8>);

/// Returns a header of options that is `len` bytes long and says so: options that say nothing
/// (PadN, RFC 8200 section 4.2).
pub(crate) fn options(number: u8, len: usize) -> Extension {
    assert!(len.is_multiple_of(8));
    let mut header = vec![0; len];
    header[1] = (len / 8 - 1) as u8;
    let mut at = 2;
    while at < len {
        let size = (len - at).min(257);
        if size == 1 {
            break;
        }
        header[at] = 1;
        header[at + 1] = (size - 2) as u8;
        at += size;
    }
    (number, header)
}

/// Returns a routing header of a type that nobody uses, with so many segments left.
pub(crate) fn routing(segments_left: u8) -> Extension {
    (ROUTING, vec![0, 0, 253, segments_left, 0, 0, 0, 0])
}

/// Returns a fragment header: flags and offset, and identification.
pub(crate) fn fragment(offset: u16, identification: u32) -> Extension {
    let mut header = vec![0, 0];
    header.extend(offset.to_be_bytes());
    header.extend(identification.to_be_bytes());
    (FRAGMENT, header)
}

/// Puts extension headers behind the IPv6 header of a frame, which begins at `l3`.
pub(crate) fn behind(frame: &[u8], l3: usize, extensions: &[Extension]) -> Vec<u8> {
    let mut out = frame[..l3 + 40].to_vec();
    let mut next = l3 + 6;
    let carried = frame[next];
    for (number, header) in extensions {
        out[next] = *number;
        next = out.len();
        out.extend(header);
    }
    out[next] = carried;
    out.extend(&frame[l3 + 40..]);
    let len = (out.len() - l3 - 40) as u16;
    out[l3 + 4..l3 + 6].copy_from_slice(&len.to_be_bytes());
    out
}

/// Takes `len` bytes of extension headers out again.
pub(crate) fn without(frame: &[u8], l3: usize, len: usize) -> Vec<u8> {
    let start = l3 + 40;
    let mut last = start;
    let mut next = frame[l3 + 6];
    while last < start + len {
        next = frame[last];
        last += (usize::from(frame[last + 1]) + 1) * 8;
    }
    assert_eq!(last, start + len, "the headers have other lengths");
    let mut out = frame[..start].to_vec();
    out[l3 + 6] = next;
    out.extend(&frame[last..]);
    let payload_len = (out.len() - start) as u16;
    out[l3 + 4..l3 + 6].copy_from_slice(&payload_len.to_be_bytes());
    out
}
