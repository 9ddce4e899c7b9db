//! The access log: one line of JSON for each request or connection (`log.access`).
//!
//! Whoever serves a client fills a [`Record`] and hands it over by [`AccessLog::write`], which never
//! waits: a thread of its own makes lines of the records and writes all that are there at once.
//! Where it cannot keep up, or nothing can be written, records are lost and counted, because traffic
//! counts for more than its log. Lines of connections that were never served give way to the others
//! ([`AccessLog::write_if_quiet`]): whoever floods a service with them shall not hide what it serves.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod line;
mod record;
mod sink;
#[cfg(test)]
#[expect(
    clippy::unwrap_used,
    reason = "a test may panic where its set-up fails"
)]
mod tests;
mod writer;

use std::{
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicBool, AtomicU64, AtomicUsize,
            Ordering::{Acquire, Relaxed, Release},
        },
        mpsc::{self, Receiver, SyncSender, TrySendError},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

pub(crate) use self::record::{Kind, Record, Side};
use self::{sink::Sink, writer::Writer};
use crate::config::model;

/// Records that may wait to be written.
const QUEUE: usize = 16_384;

/// How long the end of the log may take. A reader of standard output that has stopped reading must
/// not keep the daemon from stopping.
const FAREWELL: Duration = Duration::from_secs(2);

/// The log's handle. The last one that is dropped waits until everything is written, two seconds at
/// most.
#[derive(Clone, Debug)]
pub(crate) struct AccessLog(Arc<Handle>);

/// What all handles share.
#[derive(Debug)]
struct Handle {
    /// None while the log ends.
    queue: Option<SyncSender<Message>>,
    /// Records of connections that were never served, at most.
    unserved: usize,
    shared: Arc<Shared>,
    /// Closed by the thread as it ends.
    ended: Mutex<Receiver<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What the handles and the thread share.
#[derive(Debug, Default)]
struct Shared {
    on: AtomicBool,
    /// Records for which there was no room.
    refused: AtomicU64,
    /// Lines that could not be written.
    failed: AtomicU64,
    /// Records of connections that were never served, on their way through the queue.
    unserved: AtomicUsize,
    orders: Mutex<Orders>,
}

/// What the thread is to do before it writes again. Beside the queue, so that a full one delays and
/// loses none of it.
#[derive(Debug, Default)]
struct Orders {
    /// Write there from now on.
    sink: Option<Sink>,
    /// Open the file again.
    reopen: bool,
}

/// What goes through the queue.
#[derive(Debug)]
enum Message {
    /// On the heap: the queue has room for all its messages from the start.
    Record(Box<Record>),
    /// The same of a connection that was never served.
    Unserved(Box<Record>),
    /// There are orders.
    Wake,
}

impl AccessLog {
    /// Opens the destination and starts the thread that writes.
    ///
    /// # Errors
    ///
    /// The file cannot be opened, or the thread cannot be started.
    pub(crate) fn open(destination: &model::AccessLog) -> io::Result<Self> {
        Self::with_room(destination, QUEUE)
    }

    fn with_room(destination: &model::AccessLog, room: usize) -> io::Result<Self> {
        let sink = Sink::open(destination)?;
        let shared = Arc::new(Shared::default());
        shared.on.store(sink.is_on(), Release);
        let (queue, messages) = mpsc::sync_channel(room);
        let (ends, ended) = mpsc::channel();
        let writer = Writer::new(messages, Arc::clone(&shared), sink);
        let thread = thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || {
                let _ends = ends;
                writer.run();
            })?;
        Ok(Self(Arc::new(Handle {
            queue: Some(queue),
            unserved: room / 2,
            shared,
            ended: Mutex::new(ended),
            thread: Some(thread),
        })))
    }

    /// Whether records are wanted: nobody need fill one otherwise.
    #[must_use]
    pub(crate) fn is_on(&self) -> bool {
        self.0.shared.on.load(Acquire)
    }

    /// Hands a record over without waiting. It is dropped if the log is off, and dropped and counted
    /// if the queue is full.
    pub(crate) fn write(&self, record: impl Into<Box<Record>>) {
        self.hand_over(record.into(), Message::Record);
    }

    /// The same for a connection that was never served: it is dropped and counted if half of the
    /// queue is full of such.
    pub(crate) fn write_if_quiet(&self, record: impl Into<Box<Record>>) {
        let shared = &self.0.shared;
        if shared.unserved.fetch_add(1, Relaxed) >= self.0.unserved {
            shared.unserved.fetch_sub(1, Relaxed);
            if self.is_on() {
                shared.refused.fetch_add(1, Relaxed);
            }
        } else if !self.hand_over(record.into(), Message::Unserved) {
            shared.unserved.fetch_sub(1, Relaxed);
        }
    }

    /// Returns whether it is in the queue.
    fn hand_over(&self, mut record: Box<Record>, message: fn(Box<Record>) -> Message) -> bool {
        if !self.is_on() {
            return false;
        }
        record.shorten();
        let taken = self.0.send(message(record)).is_ok();
        if !taken {
            self.0.shared.refused.fetch_add(1, Relaxed);
        }
        taken
    }

    /// Returns how many records were lost so far: the queue was full, or writing failed.
    #[must_use]
    pub(crate) fn dropped(&self) -> u64 {
        self.0.shared.refused.load(Relaxed) + self.0.shared.failed.load(Relaxed)
    }

    /// Has the file closed and opened again by its name, after it was renamed. Records that are
    /// handed over from now on go to the new file. If it cannot be opened, the old one is kept and
    /// the ordinary log says why.
    pub(crate) fn reopen(&self) {
        self.0.order(|orders| orders.reopen = true);
    }

    /// Changes the destination. What was handed over before goes to the old or the new one; to the
    /// old one if the log ends.
    ///
    /// # Errors
    ///
    /// The file cannot be opened; the destination stays as it was.
    pub(crate) fn set(&self, destination: &model::AccessLog) -> io::Result<()> {
        let sink = Sink::open(destination)?;
        let on = sink.is_on();
        if !on {
            self.0.shared.on.store(false, Release);
        }
        self.0.order(|orders| {
            // It is open under its present name.
            orders.reopen = false;
            orders.sink = Some(sink);
        });
        // Whoever sees that the log is on finds its destination ordered.
        if on {
            self.0.shared.on.store(true, Release);
        }
        Ok(())
    }
}

impl Handle {
    fn send(&self, message: Message) -> Result<(), TrySendError<Message>> {
        match &self.queue {
            Some(queue) => queue.try_send(message),
            None => Err(TrySendError::Disconnected(message)),
        }
    }

    fn order(&self, give: impl FnOnce(&mut Orders)) {
        let mut orders = self.shared.orders();
        give(&mut orders);
        drop(orders);
        // A full queue keeps the thread awake anyway.
        let _ = self.send(Message::Wake);
    }
}

impl Shared {
    fn orders(&self) -> MutexGuard<'_, Orders> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // The thread ends once the queue is empty and nobody can fill it.
        self.queue = None;
        let ended = self.ended.get_mut().unwrap_or_else(PoisonError::into_inner);
        let waited = ended.recv_timeout(FAREWELL);
        if let (Err(mpsc::RecvTimeoutError::Disconnected), Some(thread)) =
            (waited, self.thread.take())
        {
            let _ = thread.join();
        }
    }
}
