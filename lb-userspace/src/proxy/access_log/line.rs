//! A line of JSON, written key by key.
//!
//! By hand: a serializer and the formatting of the standard library would cost a twentieth of a
//! request.

use std::{io::Write as _, net::SocketAddr, time::SystemTime};

use crate::telemetry::rfc3339_bytes;

/// Bytes of a usual line.
const USUAL: usize = 512;

/// A key as it stands in a line, with the comma before it. Keys are of this program alone, and need no
/// escapes.
macro_rules! key {
    ($name:literal) => {
        $crate::proxy::access_log::line::Key(concat!(",\"", $name, "\":"))
    };
}
pub(super) use key;

/// What [`key!`] makes.
#[derive(Clone, Copy)]
pub(super) struct Key(pub(super) &'static str);

/// A line that is not whole yet.
pub(super) struct Line<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
}

impl<'a> Line<'a> {
    /// Begins a line at the end of others.
    pub(super) fn begin(out: &'a mut Vec<u8>) -> Self {
        out.reserve(USUAL);
        Self {
            start: out.len(),
            out,
        }
    }

    /// Ends a line, which has a key at least.
    pub(super) fn end(self) {
        // There is a comma before each key.
        self.out[self.start] = b'{';
        self.out.extend_from_slice(b"}\n");
    }

    /// Text, of which everything but printable ASCII is written as `\u` and four digits (RFC 8259
    /// section 7).
    pub(super) fn text(&mut self, key: Key, text: &str) {
        self.key(key);
        self.out.push(b'"');
        // No short cut: that lets the processor look at many bytes at a time.
        let is_plain = text.bytes().fold(true, |all, byte| all & is_plain(byte));
        match is_plain {
            true => self.out.extend_from_slice(text.as_bytes()),
            false => self.escaped(text),
        }
        self.out.push(b'"');
    }

    pub(super) fn optional_text(&mut self, key: Key, text: Option<&str>) {
        if let Some(text) = text {
            self.text(key, text);
        }
    }

    pub(super) fn number(&mut self, key: Key, number: u64) {
        self.key(key);
        self.digits(number);
    }

    pub(super) fn truth(&mut self, key: Key, is: bool) {
        self.key(key);
        self.out
            .extend_from_slice(if is { b"true" } else { b"false" });
    }

    pub(super) fn time(&mut self, key: Key, time: SystemTime) {
        self.key(key);
        self.out.push(b'"');
        self.out.extend_from_slice(&rfc3339_bytes(time));
        self.out.push(b'"');
    }

    pub(super) fn address(&mut self, key: Key, address: SocketAddr) {
        self.key(key);
        self.out.push(b'"');
        match address {
            SocketAddr::V4(address) => {
                for (place, byte) in address.ip().octets().into_iter().enumerate() {
                    if place > 0 {
                        self.out.push(b'.');
                    }
                    self.digits(byte.into());
                }
                self.out.push(b':');
                self.digits(address.port().into());
            }
            // Writing to memory does not fail.
            SocketAddr::V6(address) => drop(write!(self.out, "{address}")),
        }
        self.out.push(b'"');
    }

    fn key(&mut self, key: Key) {
        self.out.extend_from_slice(key.0.as_bytes());
    }

    fn digits(&mut self, number: u64) {
        let mut digits = itoa::Buffer::new();
        self.out.extend_from_slice(digits.format(number).as_bytes());
    }

    fn escaped(&mut self, text: &str) {
        let mut rest = text;
        while let Some(at) = rest.bytes().position(|byte| !is_plain(byte)) {
            let (plain, odd) = rest.split_at(at);
            self.out.extend_from_slice(plain.as_bytes());
            let mut odd = odd.chars();
            match odd.next() {
                Some(character @ ('"' | '\\')) => {
                    self.out.extend_from_slice(&[b'\\', character as u8]);
                }
                Some(character) => {
                    for unit in character.encode_utf16(&mut [0; 2]) {
                        drop(write!(self.out, "\\u{unit:04x}"));
                    }
                }
                None => {}
            }
            rest = odd.as_str();
        }
        self.out.extend_from_slice(rest.as_bytes());
    }
}

/// Returns whether a byte stands for itself in a text.
fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\'
}
