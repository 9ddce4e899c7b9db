//! A request's body as it arrives, and what becomes of the part that nobody wants.

use std::{
    cell::RefCell,
    error::Error as _,
    future::poll_fn,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use tokio::time::timeout;

use super::super::failure::Failure;

/// How long a client may go on sending a body after its answer is over. A stream of HTTP/2 that is
/// reset while its client sends may lose its answer there, though NO_ERROR says that it is to be
/// read (RFC 9113 section 8.1).
const LINGER: Duration = Duration::from_secs(2);

/// A body that arrives, held by whoever passes it on and by its exchange.
#[derive(Clone, Debug)]
pub(crate) struct Arriving(Rc<RefCell<Slot>>);

#[derive(Debug)]
struct Slot {
    /// Until the rest is unwanted.
    body: Option<Incoming>,
    /// Whoever passes it on and waits for more.
    reader: Option<Waker>,
}

impl Arriving {
    /// Returns a request's body; `None`: it has none.
    pub(crate) fn new(body: Incoming) -> Option<Self> {
        (!body.is_end_stream()).then(|| {
            Self(Rc::new(RefCell::new(Slot {
                body: Some(body),
                reader: None,
            })))
        })
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        let slot = self.0.borrow();
        slot.body.as_ref().is_none_or(Incoming::is_end_stream)
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        let slot = self.0.borrow();
        slot.body
            .as_ref()
            .map(Incoming::size_hint)
            .unwrap_or_default()
    }

    /// Returns what comes next, or why nothing does.
    pub(crate) fn poll_frame(
        &self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        let mut slot = self.0.borrow_mut();
        let Some(body) = &mut slot.body else {
            // Whoever takes this for the end would take a part for the whole.
            return Poll::Ready(Some(Err(Failure::ClientClosed)));
        };
        let frame = Pin::new(body)
            .poll_frame(cx)
            .map_err(|error| broken(&error));
        if frame.is_pending() {
            slot.reader = Some(cx.waker().clone());
        }
        frame
    }

    /// Reads and drops the rest for a while, and ends the connection to the backend that waits for
    /// it. To be called by a task of the worker.
    pub(crate) fn drop_rest(&self) {
        let mut slot = self.0.borrow_mut();
        let (body, reader) = (slot.body.take(), slot.reader.take());
        drop(slot);
        let Some(mut body) = body.filter(|body| !body.is_end_stream()) else {
            return;
        };
        // From now on the body wakes who drops it.
        if let Some(reader) = reader {
            reader.wake();
        }
        let rest = async move {
            while let Some(Ok(_)) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {}
        };
        tokio::task::spawn_local(timeout(LINGER, rest));
    }
}

/// Returns whether a client broke its body off, or sent what is none.
fn broken(error: &hyper::Error) -> Failure {
    let mut cause = error.source();
    while let Some(found) = cause {
        if let Some(found) = found.downcast_ref::<io::Error>() {
            // Chunks that are none (RFC 9112 section 7.1).
            return match found.kind() {
                io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => Failure::BadRequest,
                _ => Failure::ClientClosed,
            };
        }
        if let Some(found) = found.downcast_ref::<h2::Error>() {
            return match found.is_remote() || found.is_io() {
                true => Failure::ClientClosed,
                false => Failure::BadRequest,
            };
        }
        cause = found.source();
    }
    Failure::ClientClosed
}
