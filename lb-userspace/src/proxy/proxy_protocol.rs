//! The PROXY protocol: whose connection this is, told by the proxy in front of us or to the backend
//! behind us ("The PROXY protocol, versions 1 & 2", proxy-protocol.txt of HAProxy).
//!
//! | version | form | longest header |
//! |---|---|---|
//! | 1 | a line of text | 107 bytes (section 2.1) |
//! | 2 | 16 bytes, addresses, further fields (TLVs) | [`MOST_BYTES`] |
//!
//! [`read()`] and [`write()`] are functions of bytes; [`accept()`] reads from a stream. Only peers that
//! the configuration trusts may send a header, and from them it must come: bytes without one are
//! refused, since the protocol must not be guessed (section 2).

mod accept;
mod crc32c;
#[cfg(any(test, fuzzing))]
pub(super) mod fuzz;
#[cfg(test)]
mod tests;
mod v1;
mod v2;

use std::{borrow::Cow, net::SocketAddr};

pub(crate) use self::accept::accept;

/// The longest header that is read, in bytes. Version 2 could announce 65,551; what senders put
/// behind the addresses (names, certificate fields) is far below this.
pub(crate) const MOST_BYTES: usize = v2::FIXED + v2::MOST_LENGTH;

/// What the first bytes of a connection say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// The header goes on.
    Incomplete {
        /// How many bytes there must be in all, those at hand included, before asking again makes
        /// sense. At most [`MOST_BYTES`].
        at_least: usize,
    },
    /// The header is whole.
    Header {
        /// Its length in bytes: what follows is the client's.
        length: usize,
        /// The client's address. None: the sender speaks for itself (`LOCAL`) or does not know
        /// (`UNKNOWN`), or it is no TCP over IP; the connection's own address counts.
        source: Option<SocketAddr>,
        /// The address that the client connected to; there whenever `source` is.
        destination: Option<SocketAddr>,
    },
    /// This is no header, whatever comes after. In words for a line of the log.
    Invalid(Cow<'static, str>),
}

/// Reads a header of either version from the first bytes of a connection.
///
/// IPv4 addresses that come mapped into IPv6 are returned as IPv4 (RFC 4291 section 2.5.5.2).
#[must_use]
pub(crate) fn read(bytes: &[u8]) -> Reading {
    if bytes.is_empty() {
        return Reading::Incomplete {
            at_least: v1::LEAST,
        };
    }
    if begins_like(bytes, v2::SIGNATURE) {
        v2::read(bytes)
    } else if begins_like(bytes, v1::SIGNATURE) {
        v1::read(bytes)
    } else {
        let shown = &bytes[..bytes.len().min(v2::SIGNATURE.len())];
        Reading::invalid(format!(
            "\"{}\" does not begin a PROXY protocol header",
            shown.escape_ascii()
        ))
    }
}

/// Appends a header of a TCP connection to `out`: version 1, or 2 for any other number.
///
/// The family is that of the addresses. Where they differ, the IPv4 address is mapped into IPv6,
/// because a header has one family only; addresses that are both mapped are written as IPv4.
pub(crate) fn write(version: u8, source: SocketAddr, destination: SocketAddr, out: &mut Vec<u8>) {
    let (source, destination) = (canonical(source), canonical(destination));
    match version {
        1 => v1::write(source, destination, out),
        _ => v2::write(source, destination, out),
    }
}

/// Whether `bytes` are the beginning of `signature` or begin with it.
fn begins_like(bytes: &[u8], signature: &[u8]) -> bool {
    bytes.iter().zip(signature).all(|(a, b)| a == b)
}

/// Returns an address without the mapping of IPv4 into IPv6, and without scope and flow label,
/// which mean nothing on another machine.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

impl Reading {
    fn header(length: usize, addresses: Option<(SocketAddr, SocketAddr)>) -> Self {
        Self::Header {
            length,
            source: addresses.map(|(source, _)| canonical(source)),
            destination: addresses.map(|(_, destination)| canonical(destination)),
        }
    }

    fn invalid(why: impl Into<Cow<'static, str>>) -> Self {
        Self::Invalid(why.into())
    }
}
