//! What a test wants to be answered.

use std::time::Duration;

use super::End;
use crate::lab::gate::Gate;

/// What bodies of asked-for lengths consist of, again and again: the alphabet.
pub(super) static PATTERN: [u8; 26 * 1024] = {
    let mut pattern = [0; 26 * 1024];
    let mut place = 0;
    while place < pattern.len() {
        pattern[place] = b"abcdefghijklmnopqrstuvwxyz"[place % 26];
        place += 1;
    }
    pattern
};

/// Returns what `/bytes/N` and `/chunked/N` answer for a length of `length` bytes.
#[must_use]
pub fn filling(length: usize) -> Vec<u8> {
    PATTERN.iter().copied().cycle().take(length).collect()
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Response {
    pub(super) status: u16,
    pub(super) headers: Vec<u8>,
    pub(super) body: Body,
    pub(super) early: bool,
    pub(super) head_gate: Option<Gate>,
    pub(super) body_gate: Option<Gate>,
    pub(super) delay: Duration,
    pub(super) end: Option<End>,
}

/// What follows the head.
#[derive(Clone, Debug)]
pub(super) enum Body {
    /// Who answers whom.
    Identity,
    /// These bytes, with Content-Length.
    Bytes(Vec<u8>),
    /// As many bytes, with Content-Length.
    Filled(u64),
    /// As many bytes, in chunks.
    FilledChunks(u64),
    /// Each of these as one chunk.
    Chunks(Vec<Vec<u8>>),
    /// The request's body.
    Echo,
    /// Server-sent events.
    Events,
    /// A tunnel of messages that are echoed.
    WebSocket,
    /// These bytes instead of head and body.
    Verbatim(Vec<u8>),
    /// No answer at all.
    Nothing,
}

impl Response {
    /// Makes an answer with `status` and no body.
    #[must_use]
    pub fn status(status: u16) -> Self {
        Self::new(status, Body::Bytes(Vec::new()))
    }

    /// Makes the answer 200 with JSON: `backend`, `connection`, `request`, `client`
    /// (X-Forwarded-For), `host`, `method`, `path`, `body_length`, `user`, `server_name`.
    #[must_use]
    pub fn identity() -> Self {
        Self::new(200, Body::Identity)
    }

    /// Makes an answer of exactly these bytes; the connection goes on.
    #[must_use]
    pub fn verbatim(bytes: impl Into<Vec<u8>>) -> Self {
        Self::new(0, Body::Verbatim(bytes.into()))
    }

    /// Ends the connection without an answer.
    #[must_use]
    pub fn none(end: End) -> Self {
        Self::new(0, Body::Nothing).end(end)
    }

    pub(super) fn new(status: u16, body: Body) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body,
            early: false,
            head_gate: None,
            body_gate: None,
            delay: Duration::ZERO,
            end: None,
        }
    }

    /// Adds a header line.
    #[must_use]
    pub fn header(self, name: &str, value: &str) -> Self {
        self.raw_headers(format!("{name}: {value}\r\n").as_bytes())
    }

    /// Adds header lines as they are written here, with their line ends.
    #[must_use]
    pub fn raw_headers(mut self, lines: &[u8]) -> Self {
        self.headers.extend_from_slice(lines);
        self
    }

    /// Sends `body` with its Content-Length.
    #[must_use]
    pub fn body(self, body: impl Into<Vec<u8>>) -> Self {
        let body = Body::Bytes(body.into());
        Self { body, ..self }
    }

    /// Sends each of `chunks` as one chunk.
    #[must_use]
    pub fn chunks(self, chunks: &[&str]) -> Self {
        let chunks = chunks.iter().map(|chunk| chunk.as_bytes().to_vec());
        let body = Body::Chunks(chunks.collect());
        Self { body, ..self }
    }

    /// Answers before the request's body is read; it is read afterwards.
    #[must_use]
    pub fn early(self) -> Self {
        let early = true;
        Self { early, ..self }
    }

    /// Sends nothing before `gate` is open.
    #[must_use]
    pub fn after(self, gate: &Gate) -> Self {
        let head_gate = Some(gate.clone());
        Self { head_gate, ..self }
    }

    /// Sends the head, and the body not before `gate` is open.
    #[must_use]
    pub fn body_after(self, gate: &Gate) -> Self {
        let body_gate = Some(gate.clone());
        Self { body_gate, ..self }
    }

    /// Sends nothing before `delay` has passed.
    #[must_use]
    pub fn delay(self, delay: Duration) -> Self {
        Self { delay, ..self }
    }

    /// Whether the test's own headers say how long the body is.
    pub(super) fn declares_length(&self) -> bool {
        String::from_utf8_lossy(&self.headers)
            .to_ascii_lowercase()
            .lines()
            .any(|line| line.starts_with("content-length") || line.starts_with("transfer-encoding"))
    }

    /// Ends the connection after the answer. Nothing is said of it in the head.
    #[must_use]
    pub fn end(self, end: End) -> Self {
        let end = Some(end);
        Self { end, ..self }
    }
}
