//! The little of WebSocket (RFC 6455) that an echo needs: the handshake's key, and whole frames.

use std::io::{self, Read, Write};

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

use super::base64;

/// What the server appends to the key (RFC 6455 section 1.3).
const HANDSHAKE_SUFFIX: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The longest payload read here, in bytes.
const LONGEST_PAYLOAD: u64 = 16 * 1024 * 1024;

/// Frames' opcodes (RFC 6455 section 5.2).
pub const TEXT: u8 = 1;
/// See [`TEXT`].
pub const BINARY: u8 = 2;
/// See [`TEXT`].
pub const CLOSE: u8 = 8;
/// See [`TEXT`].
pub const PING: u8 = 9;
/// See [`TEXT`].
pub const PONG: u8 = 10;

/// Returns the `Sec-WebSocket-Accept` that answers a `Sec-WebSocket-Key`.
#[must_use]
pub fn accept(key: &str) -> String {
    let joined = format!("{key}{HANDSHAKE_SUFFIX}");
    base64::encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, joined.as_bytes()).as_ref())
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Whether it is the last of its message.
    pub last: bool,
    /// What it is.
    pub opcode: u8,
    /// What it carries, unmasked.
    pub payload: Vec<u8>,
}

impl Frame {
    /// Makes a text that is one frame.
    #[must_use]
    pub fn text(text: &str) -> Self {
        Self {
            last: true,
            opcode: TEXT,
            payload: text.as_bytes().to_vec(),
        }
    }

    /// Reads a frame from either side.
    ///
    /// # Errors
    ///
    /// What the stream says, or `InvalidData` for more than 16 MiB.
    pub fn read(stream: &mut impl Read) -> io::Result<Self> {
        let mut start = [0; 2];
        stream.read_exact(&mut start)?;
        let length = match start[1] & 0x7f {
            126 => {
                let mut length = [0; 2];
                stream.read_exact(&mut length)?;
                u64::from(u16::from_be_bytes(length))
            }
            127 => {
                let mut length = [0; 8];
                stream.read_exact(&mut length)?;
                u64::from_be_bytes(length)
            }
            short => u64::from(short),
        };
        if length > LONGEST_PAYLOAD {
            let message = format!("a frame of {length} bytes is longer than {LONGEST_PAYLOAD}");
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        let mut mask = [0; 4];
        if start[1] & 0x80 != 0 {
            stream.read_exact(&mut mask)?;
        }
        let mut payload = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        stream.read_exact(&mut payload)?;
        apply(mask, &mut payload);
        Ok(Self {
            last: start[0] & 0x80 != 0,
            opcode: start[0] & 0x0f,
            payload,
        })
    }

    /// Writes the frame as a server does, or with `mask` as a client must.
    ///
    /// # Errors
    ///
    /// What the stream says.
    pub fn write(&self, stream: &mut impl Write, mask: Option<[u8; 4]>) -> io::Result<()> {
        let masked = if mask.is_some() { 0x80 } else { 0 };
        let mut bytes = vec![if self.last { 0x80 } else { 0 } | self.opcode];
        let length = self.payload.len();
        if let Ok(short @ 0..=125) = u8::try_from(length) {
            bytes.push(masked | short);
        } else if let Ok(long) = u16::try_from(length) {
            bytes.push(masked | 126);
            bytes.extend_from_slice(&long.to_be_bytes());
        } else {
            bytes.push(masked | 127);
            bytes.extend_from_slice(&(length as u64).to_be_bytes());
        }
        let start = bytes.len() + mask.map_or(0, |mask| mask.len());
        bytes.extend(mask.iter().flatten());
        bytes.extend_from_slice(&self.payload);
        apply(mask.unwrap_or_default(), &mut bytes[start..]);
        stream.write_all(&bytes)?;
        stream.flush()
    }
}

fn apply(mask: [u8; 4], payload: &mut [u8]) {
    for (byte, mask) in payload.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_the_rfc() {
        // Sections 1.3 and 5.7.
        assert_eq!(
            accept("dGhlIHNhbXBsZSBub25jZQ=="),
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
        let masked = b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58";
        let mut written = Vec::new();
        Frame::text("Hello")
            .write(&mut written, Some([0x37, 0xfa, 0x21, 0x3d]))
            .expect("a vector takes bytes");
        assert_eq!(written, masked);
        assert_eq!(
            Frame::read(&mut masked.as_slice()).expect("a frame"),
            Frame::text("Hello")
        );
    }

    #[test]
    fn long_frames_are_read_as_written() {
        for length in [125, 126, 65_535, 65_536] {
            let frame = Frame {
                last: false,
                opcode: BINARY,
                payload: vec![7; length],
            };
            let mut written = Vec::new();
            frame
                .write(&mut written, None)
                .expect("a vector takes bytes");
            assert_eq!(
                Frame::read(&mut written.as_slice()).expect("a frame"),
                frame
            );
        }
    }
}
