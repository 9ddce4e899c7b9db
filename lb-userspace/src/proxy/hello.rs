//! The name that a TLS client asks for, read from a connection that is passed through.
//!
//! The client's first message is looked at and not answered: TLS is between the client and the
//! backend, and nothing here ever writes. rustls reads the message; this file finds its end first,
//! so that it is read once, however many pieces it comes in.

#[cfg(any(test, fuzzing))]
pub(super) mod fuzz;
#[cfg(test)]
#[expect(
    clippy::unwrap_used,
    reason = "a test may panic where its set-up fails"
)]
mod tests;

use rustls::{Error, server::Acceptor};

/// The most bytes that are looked at: a message of 16 KiB, and what its records add. Hellos have a
/// few hundred bytes, with post-quantum key shares and tickets some thousand.
pub(crate) const MOST_BYTES: usize = MOST_MESSAGE + 1024;

/// The longest message, its own header included, in bytes.
const MOST_MESSAGE: usize = 16 << 10;

/// The longest content of a record that is not encrypted, in bytes (RFC 8446 section 5.1).
const MOST_RECORD: usize = 1 << 14;

/// Bytes in front of each record's content: type, version, length.
const RECORD_HEADER: usize = 5;

/// Bytes in front of the message: type and length (RFC 8446 section 4).
const MESSAGE_HEADER: usize = 4;

/// The record type of handshake messages.
const HANDSHAKE: u8 = 22;

/// The message type of a client's hello.
const CLIENT_HELLO: u8 = 1;

/// What the first bytes of a connection say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Hello {
    /// It may be a client's hello, and its end is not there yet.
    Incomplete,
    /// It is something else, or a hello that breaks the rules or has more than [`MOST_BYTES`].
    NotTls,
    /// A client's hello: the name in lower case without a dot at the end, a valid DNS name.
    /// `None`: the client names nobody or an address, or is too old for rustls to read its name (it
    /// lists no signature algorithms, as before TLS 1.2).
    Name(Option<String>),
}

/// Returns the name that a client asks for (RFC 6066 section 3), from the first bytes that it sent.
///
/// What was once [`Hello::NotTls`] stays so whatever follows, and so does a name.
#[must_use]
pub(crate) fn server_name(bytes: &[u8]) -> Hello {
    match end(bytes) {
        Ok(Some(end)) => name(&bytes[..end]),
        Ok(None) if bytes.len() < MOST_BYTES => Hello::Incomplete,
        Ok(None) | Err(OtherProtocol) => Hello::NotTls,
    }
}

/// The bytes are no client's hello.
struct OtherProtocol;

/// Returns where the record ends that has the last byte of the hello, if it is there.
fn end(bytes: &[u8]) -> Result<Option<usize>, OtherProtocol> {
    let mut at = 0;
    let mut content = 0;
    // The header of the message may be spread over records as well.
    let mut header = Vec::with_capacity(MESSAGE_HEADER);
    while at < MOST_BYTES {
        let rest = bytes.get(at..).unwrap_or_default();
        // Said at the first byte, since the peer may wait for an answer.
        if !begins_like(rest, &[HANDSHAKE, 3]) {
            return Err(OtherProtocol);
        }
        let Some((&[_, _, _, high, low], rest)) = rest.split_first_chunk::<RECORD_HEADER>() else {
            return Ok(None);
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        if !(1..=MOST_RECORD).contains(&length) {
            return Err(OtherProtocol);
        }
        let missing = MESSAGE_HEADER.saturating_sub(header.len());
        header.extend(rest.iter().take(length.min(missing)));
        if !begins_like(&header, &[CLIENT_HELLO]) {
            return Err(OtherProtocol);
        }
        let message = match header[..] {
            [_, a, b, c] => Some(MESSAGE_HEADER + u32::from_be_bytes([0, a, b, c]) as usize),
            _ => None,
        };
        if message.is_some_and(|message| message > MOST_MESSAGE) {
            return Err(OtherProtocol);
        }
        if rest.len() < length {
            return Ok(None);
        }
        at += RECORD_HEADER + length;
        content += length;
        if message.is_some_and(|message| content >= message) {
            return if at <= MOST_BYTES {
                Ok(Some(at))
            } else {
                Err(OtherProtocol)
            };
        }
    }
    Err(OtherProtocol)
}

/// Whether `bytes` are the beginning of `expected` or begin with it.
fn begins_like(bytes: &[u8], expected: &[u8]) -> bool {
    bytes.iter().zip(expected).all(|(a, b)| a == b)
}

/// Has rustls read the records of a whole hello.
fn name(mut records: &[u8]) -> Hello {
    let mut acceptor = Acceptor::default();
    while let Ok(1..) = acceptor.read_tls(&mut records) {
        match acceptor.accept() {
            Ok(Some(accepted)) => {
                let hello = accepted.client_hello();
                let name = hello.server_name().map(|name| name.trim_end_matches('.'));
                return Hello::Name(name.map(str::to_ascii_lowercase));
            }
            Ok(None) => {}
            // A message by the rules, of somebody with whom rustls could not go on; we need not.
            Err((Error::PeerIncompatible(_), _)) => return Hello::Name(None),
            // The alert that rustls would have us send is dropped.
            Err(_) => return Hello::NotTls,
        }
    }
    Hello::NotTls
}
