//! What an origin remembers.

use std::{collections::VecDeque, ops::Deref};

use super::Request;
use crate::lab::http1::Piece;

/// How many requests are remembered.
const KEPT_RECORDS: usize = 4096;

/// How much of a body is remembered, in bytes.
const KEPT_BODY: usize = 64 * 1024;

/// A request that came, with its body.
#[derive(Clone, Debug)]
pub struct Record {
    /// Its head.
    pub request: Request,
    /// How long its body was, in bytes, without what chunks add.
    pub body_length: u64,
    /// The first 64 KiB of its body.
    pub body: Vec<u8>,
    /// The first 64 KiB of its body with the lines of chunks and the trailers.
    pub raw_body: Vec<u8>,
    /// Whether the body was read to its end.
    pub complete: bool,
    /// Why it was not understood, or not read to its end.
    pub fault: Option<String>,
}

impl Record {
    pub(super) fn new(request: Request) -> Self {
        Self {
            request,
            body_length: 0,
            body: Vec::new(),
            raw_body: Vec::new(),
            complete: false,
            fault: None,
        }
    }

    pub(super) fn add(&mut self, piece: &Piece) {
        self.body_length += piece.data.len() as u64;
        append(&mut self.body, &piece.data);
        append(&mut self.raw_body, &piece.raw);
    }
}

impl Deref for Record {
    type Target = Request;

    fn deref(&self) -> &Request {
        &self.request
    }
}

fn append(kept: &mut Vec<u8>, more: &[u8]) {
    let room = KEPT_BODY.saturating_sub(kept.len());
    kept.extend_from_slice(&more[..room.min(more.len())]);
}

#[derive(Debug, Default)]
pub(super) struct Log {
    pub(super) records: VecDeque<Record>,
    pub(super) received: u64,
    pub(super) failed_handshakes: u64,
    pub(super) handshake_failure: Option<String>,
}

impl Log {
    pub(super) fn add(&mut self, record: Record) {
        self.received += 1;
        if self.records.len() == KEPT_RECORDS {
            self.records.pop_front();
        }
        self.records.push_back(record);
    }
}
