//! The thread that writes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{Receiver, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use tracing::warn;

use super::{Message, Shared, sink::Sink};

/// Lines are collected up to about this size, in bytes, and then written at once.
const BATCH: usize = 64 << 10;

/// How long records are left to gather once the queue was empty. Without the pause each record would
/// find the thread asleep, and whoever serves clients would pay for waking it.
const GATHER: Duration = Duration::from_millis(20);

/// Least time between two complaints about the same.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

/// The thread's state.
pub(super) struct Writer {
    messages: Receiver<Message>,
    shared: Arc<Shared>,
    sink: Sink,
    lines: Vec<u8>,
    refused: Complaint,
    failed: Complaint,
    /// Why the last write failed.
    error: Option<std::io::Error>,
}

impl Writer {
    pub(super) fn new(messages: Receiver<Message>, shared: Arc<Shared>, sink: Sink) -> Self {
        Self {
            messages,
            shared,
            sink,
            lines: Vec::with_capacity(BATCH),
            refused: Complaint::default(),
            failed: Complaint::default(),
            error: None,
        }
    }

    /// Writes until the last handle is gone and the queue is empty.
    pub(super) fn run(mut self) {
        loop {
            // Wakes now and then, so that what was lost is told.
            let first = self.messages.recv_timeout(COMPLAIN_EVERY);
            let ended = matches!(first, Err(RecvTimeoutError::Disconnected));
            self.write_all(first.ok());
            if ended {
                // Nobody will come to tell the rest.
                self.refused.last = None;
                self.failed.last = None;
            }
            self.complain();
            if ended {
                return;
            }
            thread::sleep(GATHER);
        }
    }

    /// Writes everything that is in the queue.
    fn write_all(&mut self, first: Option<Message>) {
        let mut next = first;
        loop {
            let more = self.collect(next);
            // After the last record was taken out: an order that was given before it holds for it.
            self.carry_out();
            self.flush();
            if !more {
                return;
            }
            next = None;
        }
    }

    /// Makes lines of records until there are enough for one write; says whether more may wait.
    fn collect(&mut self, first: Option<Message>) -> bool {
        let mut next = first;
        while self.lines.len() < BATCH {
            match next.take().or_else(|| self.messages.try_recv().ok()) {
                Some(Message::Record(record)) => record.line(&mut self.lines),
                Some(Message::Unserved(record)) => {
                    self.shared.unserved.fetch_sub(1, Relaxed);
                    record.line(&mut self.lines);
                }
                Some(Message::Wake) => {}
                None => return false,
            }
        }
        true
    }

    fn flush(&mut self) {
        if let Err((lost, error)) = self.sink.write(&self.lines) {
            self.shared.failed.fetch_add(lost, Relaxed);
            self.error = Some(error);
        }
        self.lines.clear();
    }

    /// Changes the destination or opens it again, if that is wanted.
    fn carry_out(&mut self) {
        let mut orders = self.shared.orders();
        let (sink, reopen) = (orders.sink.take(), std::mem::take(&mut orders.reopen));
        drop(orders);
        if let Some(sink) = sink {
            if !sink.is_on() {
                // Where the log ends, what is there still goes to the old destination.
                while self.collect(None) {
                    self.flush();
                }
                self.flush();
            }
            self.sink = sink;
        }
        if reopen && let Err(error) = self.sink.reopen() {
            warn!(
                file = self.sink.name(),
                "access log: cannot open the file again, and go on with the old one: {error}"
            );
        }
    }

    fn complain(&mut self) {
        if let Some(records) = self.refused.due(&self.shared.refused) {
            warn!(
                records,
                "access log: records were dropped, because more came than can be written"
            );
        }
        if let Some(lines) = self.failed.due(&self.shared.failed) {
            let why = self.error.as_ref().map(ToString::to_string);
            warn!(
                file = self.sink.name(),
                lines,
                "access log: lines could not be written: {}",
                why.unwrap_or_default()
            );
        }
    }
}

/// Something that gets lost now and then, and is told at once and then at most once a minute.
#[derive(Default)]
struct Complaint {
    told: u64,
    last: Option<Instant>,
}

impl Complaint {
    /// Returns how many were lost since it was last told, if that is to be told now.
    fn due(&mut self, count: &AtomicU64) -> Option<u64> {
        let count = count.load(Relaxed);
        let since = count - self.told;
        let quiet = self
            .last
            .is_some_and(|last| last.elapsed() < COMPLAIN_EVERY);
        if since == 0 || quiet {
            return None;
        }
        self.told = count;
        self.last = Some(Instant::now());
        Some(since)
    }
}
