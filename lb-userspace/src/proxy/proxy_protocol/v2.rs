//! Version 2: binary (section 2.2).
//!
//! ```text
//!  0       12      13       14      16
//!  | signature | 2, command | family | length | addresses | TLVs |
//!                                             |<---- length ---->|
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Reading, crc32c::crc32c};

/// How a header begins; no text and no TLS does.
pub(super) const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Bytes up to and with the length.
pub(super) const FIXED: usize = 16;

/// The longest part behind the length that is accepted, in bytes.
pub(super) const MOST_LENGTH: usize = 4096;

const VERSION: u8 = 2;
const LOCAL: u8 = 0;
const PROXY: u8 = 1;

/// Families with their transport, and the bytes that their addresses take.
const UNSPECIFIED: u8 = 0x00;
const TCP4: u8 = 0x11;
const UDP4: u8 = 0x12;
const ADDRESSES4: usize = 12;
const TCP6: u8 = 0x21;
const UDP6: u8 = 0x22;
const ADDRESSES6: usize = 36;
const UNIX_STREAM: u8 = 0x31;
const UNIX_DATAGRAM: u8 = 0x32;
const ADDRESSES_UNIX: usize = 216;

/// The TLV with the checksum of the whole header.
const TLV_CRC32C: u8 = 0x03;

/// Reads a header. `bytes` begin with [`SIGNATURE`] as far as they go.
pub(super) fn read(bytes: &[u8]) -> Reading {
    let command = match bytes.get(12) {
        Some(byte) if byte >> 4 != VERSION => {
            return Reading::invalid(format!(
                "version {} of the PROXY protocol is not known in binary form",
                byte >> 4
            ));
        }
        Some(byte) if byte & 0x0f > PROXY => {
            return Reading::invalid(format!(
                "command {} of the PROXY protocol is not known",
                byte & 0x0f
            ));
        }
        Some(byte) => byte & 0x0f,
        None => return Reading::Incomplete { at_least: FIXED },
    };
    let Some((fixed, rest)) = bytes.split_first_chunk::<FIXED>() else {
        return Reading::Incomplete { at_least: FIXED };
    };
    let length = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if length > MOST_LENGTH {
        return Reading::invalid(format!(
            "the PROXY protocol header announces {length} bytes, more than {MOST_LENGTH}"
        ));
    }
    let total = FIXED + length;
    let (Some(header), Some(body)) = (bytes.get(..total), rest.get(..length)) else {
        return Reading::Incomplete { at_least: total };
    };
    if command == LOCAL {
        // The sender's own connection, such as a health check: the rest is to be discarded.
        return Reading::header(total, None);
    }
    match addresses(fixed[13], body).and_then(|(addresses, fields)| {
        check(header, fields)?;
        Ok(addresses)
    }) {
        Ok(addresses) => Reading::header(total, addresses),
        Err(why) => Reading::Invalid(why.into()),
    }
}

/// A pair of source and destination.
type Pair = (SocketAddr, SocketAddr);

/// Splits the body into addresses and TLVs. Addresses of what is no TCP over IP are passed over, as
/// the specification leaves to the receiver; unlisted families must be refused.
fn addresses(family: u8, body: &[u8]) -> Result<(Option<Pair>, &[u8]), &'static str> {
    let short = "the PROXY protocol header is too short for its addresses";
    match family {
        TCP4 => {
            let (block, fields) = body.split_first_chunk::<ADDRESSES4>().ok_or(short)?;
            Ok((Some(pair4(block)), fields))
        }
        TCP6 => {
            let (block, fields) = body.split_first_chunk::<ADDRESSES6>().ok_or(short)?;
            Ok((Some(pair6(block)), fields))
        }
        UDP4 => Ok((None, body.get(ADDRESSES4..).ok_or(short)?)),
        UDP6 => Ok((None, body.get(ADDRESSES6..).ok_or(short)?)),
        UNIX_STREAM | UNIX_DATAGRAM => Ok((None, body.get(ADDRESSES_UNIX..).ok_or(short)?)),
        // How long the addresses are, if there are any, nobody knows.
        UNSPECIFIED => Ok((None, &[])),
        _ => Err("the PROXY protocol header has an unknown family of addresses"),
    }
}

fn pair4(block: &[u8; ADDRESSES4]) -> Pair {
    let [a, b, c, d, e, f, g, h, ports @ ..] = *block;
    pair(
        Ipv4Addr::new(a, b, c, d).into(),
        Ipv4Addr::new(e, f, g, h).into(),
        ports,
    )
}

fn pair6(block: &[u8; ADDRESSES6]) -> Pair {
    let (mut from, mut to, mut ports) = ([0; 16], [0; 16], [0; 4]);
    from.copy_from_slice(&block[..16]);
    to.copy_from_slice(&block[16..32]);
    ports.copy_from_slice(&block[32..]);
    pair(
        Ipv6Addr::from(from).into(),
        Ipv6Addr::from(to).into(),
        ports,
    )
}

fn pair(source: IpAddr, destination: IpAddr, [a, b, c, d]: [u8; 4]) -> Pair {
    (
        SocketAddr::new(source, u16::from_be_bytes([a, b])),
        SocketAddr::new(destination, u16::from_be_bytes([c, d])),
    )
}

/// Walks over the TLVs: they must fill the header, and a checksum must be right (section 2.2.3).
/// All others are passed over.
fn check(header: &[u8], mut fields: &[u8]) -> Result<(), &'static str> {
    while let Some((&[kind, high, low], rest)) = fields.split_first_chunk::<3>() {
        let length = usize::from(u16::from_be_bytes([high, low]));
        let Some((value, rest)) = rest.split_at_checked(length) else {
            return Err("a field of the PROXY protocol header goes beyond its end");
        };
        if kind == TLV_CRC32C {
            let Ok(value): Result<[u8; 4], _> = value.try_into() else {
                return Err("the checksum of the PROXY protocol header is not four bytes long");
            };
            let before = &header[..header.len() - rest.len() - value.len()];
            let after = &header[header.len() - rest.len()..];
            // Its own bytes count as zero.
            if crc32c(&[before, &[0; 4], after]) != u32::from_be_bytes(value) {
                return Err("the checksum of the PROXY protocol header is wrong");
            }
        }
        fields = rest;
    }
    if fields.is_empty() {
        Ok(())
    } else {
        Err("a field of the PROXY protocol header goes beyond its end")
    }
}

/// Appends a header without TLVs.
pub(super) fn write(source: SocketAddr, destination: SocketAddr, out: &mut Vec<u8>) {
    let mut begin = |family, length: usize| {
        out.extend_from_slice(SIGNATURE);
        // 12 or 36.
        out.extend_from_slice(&[VERSION << 4 | PROXY, family, 0, length as u8]);
    };
    match (source.ip(), destination.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            begin(TCP4, ADDRESSES4);
            out.extend_from_slice(&from.octets());
            out.extend_from_slice(&to.octets());
        }
        (from, to) => {
            begin(TCP6, ADDRESSES6);
            out.extend_from_slice(&mapped(from).octets());
            out.extend_from_slice(&mapped(to).octets());
        }
    }
    out.extend_from_slice(&source.port().to_be_bytes());
    out.extend_from_slice(&destination.port().to_be_bytes());
}

/// Returns an address as one of IPv6, IPv4 mapped into it.
pub(super) fn mapped(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}
