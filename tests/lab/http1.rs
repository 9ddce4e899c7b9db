//! HTTP/1.1 messages (RFC 9112), read strictly: what has two meanings is an error.

use std::io;

use super::wire::Wire;

/// How much of a body is returned at once, in bytes.
const PIECE: usize = 16 * 1024;

/// Returns the values of the header lines called `name` in `head`, in their order.
#[must_use]
pub fn values<'a>(head: &'a [u8], name: &str) -> Vec<&'a str> {
    lines(head)
        .skip(1)
        .filter_map(|line| std::str::from_utf8(line).ok()?.split_once(':'))
        .filter(|(found, _)| found.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim_matches([' ', '\t']))
        .collect()
}

/// Returns the first line of `head` without its CRLF.
#[must_use]
pub fn first_line(head: &[u8]) -> String {
    let line = lines(head).next().unwrap_or_default();
    String::from_utf8_lossy(line).into_owned()
}

fn lines(head: &[u8]) -> impl Iterator<Item = &[u8]> {
    head.split(|byte| *byte == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
        .take_while(|line| !line.is_empty())
}

/// Where a body ends (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// After this many bytes.
    Length(u64),
    /// With the chunk of length 0 and the trailers.
    Chunked,
    /// With the connection: responses only.
    UntilEnd,
}

impl Framing {
    /// Reads the framing of a request.
    ///
    /// # Errors
    ///
    /// What of `head` is against the rules or has more than one meaning.
    pub fn of_request(head: &[u8]) -> Result<Self, String> {
        check_lines(head)?;
        let first = first_line(head);
        if first.split(' ').count() != 3 || !first.ends_with(" HTTP/1.1") {
            return Err(format!("{first:?} is no request line of HTTP/1.1"));
        }
        if values(head, "host").len() != 1 {
            return Err("there is not one Host".to_owned());
        }
        Ok(Self::declared(head)?.unwrap_or(Self::Length(0)))
    }

    /// Reads the framing of a response to a request with `method`.
    ///
    /// # Errors
    ///
    /// What of `head` is against the rules or has more than one meaning.
    pub fn of_response(head: &[u8], status: u16, method: &str) -> Result<Self, String> {
        check_lines(head)?;
        if method == "HEAD" || matches!(status, 100..=199 | 204 | 304) {
            return Ok(Self::Length(0));
        }
        Ok(Self::declared(head)?.unwrap_or(Self::UntilEnd))
    }

    fn declared(head: &[u8]) -> Result<Option<Self>, String> {
        let lengths = values(head, "content-length");
        let codings = values(head, "transfer-encoding");
        match (lengths.as_slice(), codings.as_slice()) {
            ([], []) => Ok(None),
            ([], [coding]) if coding.eq_ignore_ascii_case("chunked") => Ok(Some(Self::Chunked)),
            ([length], []) if length.bytes().all(|byte| byte.is_ascii_digit()) => length
                .parse()
                .map(|length| Some(Self::Length(length)))
                .map_err(|error| format!("Content-Length {length:?}: {error}")),
            _ => Err(format!(
                "Content-Length {lengths:?} and Transfer-Encoding {codings:?} are not one length"
            )),
        }
    }
}

/// Checks the form of header lines (RFC 9112 section 5).
fn check_lines(head: &[u8]) -> Result<(), String> {
    for line in head.split_inclusive(|byte| *byte == b'\n') {
        let text = String::from_utf8_lossy(line);
        let Some(line) = line.strip_suffix(b"\r\n") else {
            return Err(format!("{text:?} does not end with CRLF"));
        };
        if line.iter().any(|byte| matches!(byte, b'\r' | 0)) {
            return Err(format!("{text:?} has a bare CR or a NUL"));
        }
    }
    for line in lines(head).skip(1) {
        let text = String::from_utf8_lossy(line);
        let Some((name, _)) = text.split_once(':') else {
            return Err(format!("{text:?} has no colon"));
        };
        if name.is_empty() || name.contains([' ', '\t']) {
            return Err(format!("{text:?} has no header's name before the colon"));
        }
    }
    Ok(())
}

/// What was read of a body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Piece {
    /// What it means; empty for the end of chunks.
    pub data: Vec<u8>,
    /// How it came: the same, with what chunks and trailers add.
    pub raw: Vec<u8>,
}

/// A body that is being read.
#[derive(Clone, Copy, Debug)]
pub struct BodyReader {
    rest: Rest,
}

#[derive(Clone, Copy, Debug)]
enum Rest {
    Nothing,
    Bytes(u64),
    ChunkHead,
    Chunk(u64),
    Everything,
}

impl BodyReader {
    /// Begins to read a body.
    #[must_use]
    pub fn new(framing: Framing) -> Self {
        let rest = match framing {
            Framing::Length(length) => Rest::Bytes(length),
            Framing::Chunked => Rest::ChunkHead,
            Framing::UntilEnd => Rest::Everything,
        };
        Self { rest }
    }

    /// Reads on; `None` at the end.
    ///
    /// # Errors
    ///
    /// What the stream says, or `InvalidData` for what is no chunk.
    pub fn next(&mut self, wire: &mut Wire) -> io::Result<Option<Piece>> {
        match self.rest {
            Rest::Nothing | Rest::Bytes(0) => Ok(None),
            Rest::Bytes(left) => {
                let data = wire.some(piece(left))?;
                self.rest = Rest::Bytes(left - data.len() as u64);
                let raw = data.clone();
                Ok(Some(Piece { data, raw }))
            }
            Rest::Everything => match wire.some(PIECE) {
                Ok(data) => {
                    let raw = data.clone();
                    Ok(Some(Piece { data, raw }))
                }
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    self.rest = Rest::Nothing;
                    Ok(None)
                }
                Err(error) => Err(error),
            },
            Rest::ChunkHead => self.chunk_head(wire).map(Some),
            Rest::Chunk(left) => self.chunk(wire, left).map(Some),
        }
    }

    fn chunk_head(&mut self, wire: &mut Wire) -> io::Result<Piece> {
        let mut raw = wire.line()?;
        let text = String::from_utf8_lossy(&raw);
        let digits = text.trim_end_matches("\r\n");
        let digits = digits.split(';').next().unwrap_or_default();
        if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(wrong(format!("{text:?} is no chunk's length")));
        }
        let length = u64::from_str_radix(digits, 16)
            .map_err(|error| wrong(format!("{text:?} is no chunk's length: {error}")))?;
        if length > 0 {
            self.rest = Rest::Chunk(length);
        } else {
            self.rest = Rest::Nothing;
            loop {
                let line = wire.line()?;
                raw.extend_from_slice(&line);
                if line == b"\r\n" {
                    break;
                }
            }
        }
        let data = Vec::new();
        Ok(Piece { data, raw })
    }

    fn chunk(&mut self, wire: &mut Wire, left: u64) -> io::Result<Piece> {
        let data = wire.some(piece(left))?;
        let mut raw = data.clone();
        let left = left - data.len() as u64;
        if left > 0 {
            self.rest = Rest::Chunk(left);
        } else {
            self.rest = Rest::ChunkHead;
            let end = wire.line()?;
            if end != b"\r\n" {
                let end = String::from_utf8_lossy(&end);
                return Err(wrong(format!("{end:?} follows a chunk")));
            }
            raw.extend_from_slice(&end);
        }
        Ok(Piece { data, raw })
    }
}

fn piece(left: u64) -> usize {
    usize::try_from(left).map_or(PIECE, |left| left.min(PIECE))
}

fn wrong(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framing(headers: &str) -> Result<Framing, String> {
        Framing::of_request(format!("POST / HTTP/1.1\r\nHost: a\r\n{headers}\r\n").as_bytes())
    }

    #[test]
    fn one_length_is_understood() {
        assert_eq!(framing(""), Ok(Framing::Length(0)));
        assert_eq!(framing("content-length:  12 \r\n"), Ok(Framing::Length(12)));
        assert_eq!(
            framing("Transfer-Encoding: Chunked\r\n"),
            Ok(Framing::Chunked)
        );
    }

    #[test]
    fn what_has_two_meanings_is_refused() {
        for headers in [
            "Content-Length: 1\r\nContent-Length: 1\r\n",
            "Content-Length: 1, 1\r\n",
            "Content-Length: +1\r\n",
            "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Content-Length : 1\r\n",
            "Host: b\r\n",
            "X: a\r\n folded\r\n",
            "X: a\n",
            "X: a\rb\r\n",
        ] {
            assert!(framing(headers).is_err(), "{headers:?}");
        }
        assert!(Framing::of_request(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n").is_err());
        assert!(Framing::of_request(b"GET / HTTP/1.1\r\n\r\n").is_err());
    }

    #[test]
    fn headers_are_found_whatever_their_case() {
        let head = b"HTTP/1.1 200 OK\r\nx-a: 1\r\nX-A:2\r\n\r\nX-A: 3\r\n";

        assert_eq!(first_line(head), "HTTP/1.1 200 OK");
        assert_eq!(values(head, "X-A"), ["1", "2"]);
    }
}
