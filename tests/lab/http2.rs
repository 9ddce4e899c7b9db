//! A client that sends exactly the frames of HTTP/2 that a test wants (RFC 9113).

use std::{collections::VecDeque, io};

use super::raw::Raw;

/// Kinds of frames (RFC 9113 section 6).
pub mod kind {
    #![allow(missing_docs, reason = "they are what they are called")]

    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PUSH_PROMISE: u8 = 5;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

/// The flag of DATA and HEADERS that ends a stream.
pub const END_STREAM: u8 = 1;
/// The flag of HEADERS and CONTINUATION that ends a block of fields.
pub const END_HEADERS: u8 = 4;
/// The flag of SETTINGS and PING.
pub const ACK: u8 = 1;

/// What a client says first, before its SETTINGS.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Returns a frame (section 4.1).
#[must_use]
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short frame");
    let mut frame = length.to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Returns SETTINGS (section 6.5).
#[must_use]
pub fn settings(values: &[(u16, u32)]) -> Vec<u8> {
    let mut payload = Vec::new();
    for (name, value) in values {
        payload.extend(name.to_be_bytes());
        payload.extend(value.to_be_bytes());
    }
    frame(kind::SETTINGS, 0, 0, &payload)
}

/// Returns a block of literal fields without Huffman coding (RFC 7541 section 6.2.2).
#[must_use]
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            length(&mut block, text.len());
            block.extend(text.as_bytes());
        }
    }
    block
}

/// Adds an integer with a prefix of seven bits (RFC 7541 section 5.1).
fn length(block: &mut Vec<u8>, mut value: usize) {
    if value < 127 {
        block.push(u8::try_from(value).expect("seven bits"));
        return;
    }
    block.push(127);
    value -= 127;
    while value >= 128 {
        block.push(u8::try_from(value % 128 + 128).expect("eight bits"));
        value /= 128;
    }
    block.push(u8::try_from(value).expect("seven bits"));
}

/// Returns the fields of a usual request, to which others can be added.
#[must_use]
pub fn usual<'a>(method: &'a str, host: &'a str, path: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![
        (":method", method),
        (":scheme", "https"),
        (":authority", host),
        (":path", path),
    ]
}

/// Returns the frame of a request without a body.
#[must_use]
pub fn get(stream: u32, host: &str, path: &str) -> Vec<u8> {
    let fields = block(&usual("GET", host, path));
    frame(kind::HEADERS, END_STREAM | END_HEADERS, stream, &fields)
}

/// A frame that has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// See [`kind`].
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
    /// Zero: it is the connection's.
    pub stream: u32,
    /// What is in it.
    pub payload: Vec<u8>,
}

impl Frame {
    /// Returns the code of a RST_STREAM or a GOAWAY (section 7).
    #[must_use]
    pub fn error_code(&self) -> Option<u32> {
        let code = match self.kind {
            kind::RST_STREAM => self.payload.get(..4)?,
            kind::GOAWAY => self.payload.get(4..8)?,
            _ => return None,
        };
        Some(u32::from_be_bytes(code.try_into().ok()?))
    }
}

/// What became of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answered {
    /// `None`: no answer.
    pub status: Option<u16>,
    /// Bytes of its body.
    pub length: u64,
    /// The code of the reset that ended it early.
    pub reset: Option<u32>,
}

/// A connection.
#[derive(Debug)]
pub struct Http2 {
    raw: Raw,
    kept: VecDeque<Frame>,
}

impl Http2 {
    /// Begins HTTP/2 on a connection that agreed on it, with these settings. The other side is
    /// asked to keep no table of fields, so that each block can be read by itself.
    ///
    /// # Errors
    ///
    /// What the connection says.
    pub fn begin(mut raw: Raw, values: &[(u16, u32)]) -> io::Result<Self> {
        const HEADER_TABLE_SIZE: u16 = 1;
        let mut values = values.to_vec();
        values.push((HEADER_TABLE_SIZE, 0));
        raw.send([PREFACE, &settings(&values)].concat())?;
        let kept = VecDeque::new();
        Ok(Self { raw, kept })
    }

    /// Sends bytes, which need be no frames.
    ///
    /// # Errors
    ///
    /// What the connection says.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.raw.send(bytes)
    }

    /// Returns the connection.
    pub fn raw(&mut self) -> &mut Raw {
        &mut self.raw
    }

    /// Returns the next frame. SETTINGS and PING are answered and passed over; room for what comes is
    /// given to the connection at once.
    ///
    /// # Errors
    ///
    /// What the connection says.
    pub fn next_frame(&mut self) -> io::Result<Frame> {
        if let Some(frame) = self.kept.pop_front() {
            return Ok(frame);
        }
        loop {
            let head = self.raw.read_exactly(9)?;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let payload = self.raw.read_exactly(length)?;
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            match (head[3], head[4]) {
                (kind::SETTINGS, 0) => self.send(frame(kind::SETTINGS, ACK, 0, &[]))?,
                (kind::PING, 0) => self.send(frame(kind::PING, ACK, 0, &payload))?,
                (kind::SETTINGS, _) => {}
                (kind, flags) => {
                    if kind == kind::DATA {
                        self.take(0, payload.len())?;
                    }
                    return Ok(Frame {
                        kind,
                        flags,
                        stream,
                        payload,
                    });
                }
            }
        }
    }

    /// Returns what becomes of a stream, which is given room for what comes. Frames of other streams
    /// are kept for later.
    ///
    /// # Errors
    ///
    /// What the connection says, or that it is given up.
    pub fn answer(&mut self, stream: u32) -> io::Result<Answered> {
        let mut answered = Answered::default();
        let mut others = VecDeque::new();
        loop {
            let frame = self.next_frame()?;
            if frame.kind == kind::GOAWAY && frame.error_code() != Some(0) {
                return Err(io::Error::other(format!("the connection ends: {frame:?}")));
            }
            if frame.stream != stream {
                others.push_back(frame);
                continue;
            }
            match frame.kind {
                kind::HEADERS if answered.status.is_none() => {
                    answered.status = status(&frame.payload);
                }
                kind::DATA => {
                    answered.length += frame.payload.len() as u64;
                    self.take(stream, frame.payload.len())?;
                }
                kind::RST_STREAM => answered.reset = frame.error_code(),
                _ => {}
            }
            let ends =
                matches!(frame.kind, kind::HEADERS | kind::DATA) && frame.flags & END_STREAM != 0;
            if ends || frame.kind == kind::RST_STREAM {
                others.extend(self.kept.drain(..));
                self.kept = others;
                return Ok(answered);
            }
        }
    }

    /// Returns the frames that came while another stream was waited for.
    pub fn kept(&self) -> impl Iterator<Item = &Frame> {
        self.kept.iter()
    }

    /// Gives room for as many bytes again to a stream, or to the connection: 0.
    fn take(&mut self, stream: u32, length: usize) -> io::Result<()> {
        let Ok(length @ 1..) = u32::try_from(length) else {
            return Ok(());
        };
        let more = frame(kind::WINDOW_UPDATE, 0, stream, &length.to_be_bytes());
        match self.send(more) {
            // It may have said all that it has to say, and be read to the end.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            sent => sent,
        }
    }
}

/// Returns the status, which is the first field of a block (RFC 7541 section 6 and appendix A).
fn status(block: &[u8]) -> Option<u16> {
    const INDEXED: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];
    // A new size of the table (of which there is none) may come before it.
    let block = match block {
        [0x20, rest @ ..] => rest,
        block => block,
    };
    match block {
        [first @ 0x88..=0x8e, ..] => INDEXED.get(usize::from(first - 0x88)).copied(),
        [0x08 | 0x18 | 0x48, length, text @ ..] => {
            let text = text.get(..usize::from(length & 0x7f))?;
            match length & 0x80 {
                0 => std::str::from_utf8(text).ok()?.parse().ok(),
                _ => digits(text),
            }
        }
        _ => None,
    }
}

/// Returns the number of three digits in Huffman's code (RFC 7541 appendix B): 0 to 2 have five
/// bits, the others six.
fn digits(code: &[u8]) -> Option<u16> {
    let mut bits = code
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |place| u16::from(byte >> place & 1)));
    let mut number = 0;
    for _ in 0..3 {
        let mut digit = 0;
        for _ in 0..5 {
            digit = digit << 1 | bits.next()?;
        }
        if digit > 2 {
            digit = (digit << 1 | bits.next()?).checked_sub(0b01_1001)? + 3;
        }
        number = number * 10 + digit;
    }
    Some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_read_in_each_of_its_forms() {
        assert_eq!(status(&[0x88]), Some(200));
        assert_eq!(status(&[0x20, 0x8c, 1]), Some(400));
        assert_eq!(status(&[0x08, 3, b'4', b'3', b'1']), Some(431));
        // 0110_1000_0010_1100_1 and ones: "413".
        assert_eq!(status(&[0x48, 0x83, 0x68, 0x2c, 0xff]), Some(413));
        assert_eq!(status(&[0x48, 0x82, 0x64, 0x02]), Some(302));
        assert_eq!(status(&[0x48, 0x90, 0x64]), None);
    }

    #[test]
    fn lengths_of_more_than_a_byte_are_written_as_such() {
        let long = "x".repeat(1337);
        let block = block(&[("a", &long)]);
        assert_eq!(block[..6], [0, 1, b'a', 127, 0xba, 9]);
        assert_eq!(block.len(), 6 + 1337);
    }
}
