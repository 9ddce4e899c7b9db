//! Bodies on their way: counted, limited, and given up when they stand still.

use std::{
    cell::Cell,
    pin::Pin,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf as _, Bytes};
use futures_util::task::AtomicWaker;
use hyper::{
    HeaderMap,
    body::{Body, Frame, Incoming, SizeHint},
};
use tokio::time::{Instant, Sleep, sleep_until};

use super::{
    super::failure::Failure,
    activity::{Activity, Owed, Upload},
    arriving::Arriving,
    conversation::Conversation,
    exchange::Exchange,
    headers,
};

/// Why a body ended early.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.meaning())]
pub(crate) struct BodyError(pub(crate) Failure);

/// A moment at which something that stands still is given up; there is no timer before it does.
#[derive(Debug)]
struct Patience {
    limit: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    waiting: bool,
}

impl Patience {
    fn new(limit: Duration) -> Self {
        Self {
            limit,
            timer: None,
            waiting: false,
        }
    }

    /// Something moved.
    fn renew(&mut self) {
        self.waiting = false;
    }

    /// Nothing moves: ready when that has lasted for too long.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let until = Instant::now() + self.limit;
        let timer = self.timer.get_or_insert_with(|| {
            self.waiting = true;
            Box::pin(sleep_until(until))
        });
        if !self.waiting {
            self.waiting = true;
            timer.as_mut().reset(until);
        }
        timer.as_mut().poll(cx)
    }
}

/// What is known of a request's body while it is on its way.
#[derive(Debug)]
pub(crate) struct Progress {
    /// Bytes so far.
    pub(crate) bytes: Cell<u64>,
    /// When something last came.
    pub(crate) moved: Cell<Instant>,
    /// The client is waited for, and how long it takes is its own matter.
    pub(crate) waits: Cell<bool>,
    /// All of it has come.
    pub(crate) ended: Cell<bool>,
    /// Trailers came over HTTP/1.
    pub(crate) trailers: Cell<bool>,
    /// Why it ended early.
    pub(crate) failure: Cell<Option<Failure>>,
}

/// A request's body on its way to the backend.
#[derive(Debug)]
pub(crate) enum RequestBody {
    /// None.
    Empty,
    /// As it comes.
    Streaming(Box<Streaming>),
}

/// A body that comes from a client.
#[derive(Debug)]
pub(crate) struct Streaming {
    body: Arriving,
    http2: bool,
    progress: Rc<Progress>,
    activity: Arc<Activity>,
    /// Until the body is over.
    upload: Option<Upload>,
    limit: u64,
    patience: Patience,
    gate: Option<Arc<Gate>>,
    gate_timer: Option<Pin<Box<Sleep>>>,
}

impl RequestBody {
    /// Returns a body and what will be known of it; `limit` is zero for none. With `gate` nothing is
    /// asked of the client before it opens.
    pub(crate) fn new(
        body: Option<Arriving>,
        limit: u64,
        idle: Duration,
        gate: Option<Arc<Gate>>,
        conversation: &Conversation,
    ) -> (Self, Option<Rc<Progress>>) {
        let Some(body) = body else {
            return (Self::Empty, None);
        };
        let activity = &conversation.activity;
        let progress = Rc::new(Progress {
            bytes: Cell::new(0),
            moved: Cell::new(Instant::now()),
            waits: Cell::new(false),
            ended: Cell::new(false),
            trailers: Cell::new(false),
            failure: Cell::new(None),
        });
        let streaming = Box::new(Streaming {
            body,
            http2: conversation.http2,
            progress: Rc::clone(&progress),
            activity: Arc::clone(activity),
            upload: Some(Upload::begin(activity)),
            limit,
            patience: Patience::new(idle),
            gate,
            gate_timer: None,
        });
        (Self::Streaming(streaming), Some(progress))
    }
}

impl Streaming {
    fn poll_gate(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        let Some(gate) = &self.gate else {
            return Poll::Ready(Ok(()));
        };
        gate.waker.register(cx.waker());
        let open = match gate.state.load(Ordering::Acquire) {
            OPEN => true,
            CANCELLED => return Poll::Ready(Err(BodyError(Failure::ClientClosed))),
            _ => {
                let timer = self
                    .gate_timer
                    .get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + PATIENCE)));
                timer.as_mut().poll(cx).is_ready()
            }
        };
        if !open {
            return Poll::Pending;
        }
        // It stays open: what follows waits for nothing but the client.
        gate.open();
        self.gate_timer = None;
        Poll::Ready(Ok(()))
    }

    fn end(&mut self) {
        self.upload = None;
        self.activity.body_ended();
        self.progress.ended.set(true);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Err(error) = ready!(self.poll_gate(cx)) {
            return Poll::Ready(Some(Err(error)));
        }
        let polled = self.body.poll_frame(cx);
        self.progress.waits.set(polled.is_pending());
        let failure = match polled {
            Poll::Ready(Some(Ok(mut frame))) => {
                if let Some(trailers) = frame.trailers_mut()
                    && let Err(failure) = self.judge_trailers(trailers)
                {
                    return self.fail(failure);
                }
                let length = frame.data_ref().map_or(0, |data| data.remaining() as u64);
                let bytes = self.progress.bytes.get() + length;
                self.progress.bytes.set(bytes);
                self.progress.moved.set(Instant::now());
                self.patience.renew();
                if self.limit == 0 || bytes <= self.limit {
                    if self.body.is_end_stream() {
                        self.end();
                    }
                    return Poll::Ready(Some(Ok(frame)));
                }
                Failure::BodyTooLarge
            }
            Poll::Ready(Some(Err(failure))) => failure,
            Poll::Ready(None) => {
                self.end();
                return Poll::Ready(None);
            }
            Poll::Pending => {
                ready!(self.patience.poll(cx));
                Failure::RequestTimeout
            }
        };
        self.fail(failure)
    }

    /// Makes trailers ready for the backend.
    fn judge_trailers(&self, trailers: &mut HeaderMap) -> Result<(), Failure> {
        if !self.http2 {
            // Lines that end otherwise than the engine thinks, where there are none in truth.
            if trailers.is_empty() {
                return Err(Failure::BadRequest);
            }
            self.progress.trailers.set(true);
        }
        headers::prepare_trailers(trailers);
        Ok(())
    }

    fn fail(&self, failure: Failure) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.progress.failure.set(Some(failure));
        Poll::Ready(Some(Err(BodyError(failure))))
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Streaming(streaming) => streaming.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Streaming(streaming) => streaming.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Streaming(streaming) => streaming.body.size_hint(),
        }
    }
}

/// What holds a body back until the backend has asked for it (`Expect: 100-continue`, RFC 9110
/// section 10.1.1): hyper asks the client for a body when it is first polled.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    state: AtomicU8,
    waker: AtomicWaker,
}

const OPEN: u8 = 1;
const CANCELLED: u8 = 2;
/// A backend that says nothing for so long may not know the expectation.
const PATIENCE: Duration = Duration::from_secs(1);

impl Gate {
    /// Lets the body come.
    pub(crate) fn open(&self) {
        let _ = self
            .state
            .compare_exchange(0, OPEN, Ordering::AcqRel, Ordering::Acquire);
        self.waker.wake();
    }

    /// Nobody wants the body any more.
    pub(crate) fn cancel(&self) {
        let _ = self
            .state
            .compare_exchange(0, CANCELLED, Ordering::AcqRel, Ordering::Acquire);
        self.waker.wake();
    }
}

/// An answer's body on its way to the client, and with it all that ends when it does.
#[derive(Debug)]
pub(crate) struct ResponseBody {
    source: Source,
    exchange: Option<Box<Exchange>>,
    /// The client has to take what it has before more is asked of it.
    owed: Option<Owed>,
}

#[derive(Debug)]
enum Source {
    Whole(Option<Bytes>),
    Streaming {
        body: Incoming,
        patience: Patience,
        ends: Option<Ends>,
    },
}

/// What ends an answer that has no end of its own, with the reason.
pub(crate) struct Ends(Pin<Box<dyn Future<Output = Failure>>>);

impl Ends {
    pub(crate) fn new(ends: impl Future<Output = Failure> + 'static) -> Self {
        Self(Box::pin(ends))
    }
}

impl std::fmt::Debug for Ends {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ends")
    }
}

impl ResponseBody {
    /// Returns no body, of an answer that another is responsible for.
    pub(crate) fn none() -> Self {
        Self {
            source: Source::Whole(None),
            exchange: None,
            owed: None,
        }
    }

    /// Returns a body of ours.
    pub(crate) fn whole(bytes: Bytes, exchange: Box<Exchange>) -> Self {
        Self {
            source: Source::Whole((!bytes.is_empty()).then_some(bytes)),
            owed: exchange.owes(),
            exchange: Some(exchange),
        }
    }

    /// Returns a backend's body, which is given up when it stands still for `idle`, or when `ends`
    /// says so.
    pub(crate) fn streaming(
        body: Incoming,
        idle: Duration,
        ends: Option<Ends>,
        exchange: Box<Exchange>,
    ) -> Self {
        let mut streaming = Self {
            source: Source::Streaming {
                body,
                patience: Patience::new(idle),
                ends,
            },
            owed: exchange.owes(),
            exchange: Some(exchange),
        };
        streaming.finish_if_ended();
        streaming
    }

    fn finish_if_ended(&mut self) {
        let ended = match &self.source {
            Source::Whole(bytes) => bytes.is_none(),
            Source::Streaming { body, .. } => body.is_end_stream(),
        };
        if ended && let Some(exchange) = self.exchange.take() {
            self.owed = None;
            exchange.complete();
        }
    }

    fn fail(&mut self, failure: Failure) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(exchange) = self.exchange.take() {
            exchange.fail(failure);
        }
        Poll::Ready(Some(Err(BodyError(failure))))
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        this.owed = None;
        let frame = match &mut this.source {
            Source::Whole(bytes) => bytes.take().map(Frame::data),
            Source::Streaming {
                body,
                patience,
                ends,
            } => match Pin::new(body).poll_frame(cx) {
                Poll::Ready(Some(Ok(mut frame))) => {
                    patience.renew();
                    if let Some(trailers) = frame.trailers_mut() {
                        headers::prepare_trailers(trailers);
                        // What the engine read behind them is lost.
                        if let Some(exchange) = &mut this.exchange {
                            exchange.used_up = true;
                        }
                    }
                    Some(frame)
                }
                Poll::Ready(Some(Err(_))) => return this.fail(Failure::ResponseCut),
                Poll::Ready(None) => None,
                Poll::Pending => {
                    if let Some(Ends(ends)) = ends
                        && let Poll::Ready(failure) = ends.as_mut().poll(cx)
                    {
                        return this.fail(failure);
                    }
                    ready!(patience.poll(cx));
                    return this.fail(Failure::ResponseStalled);
                }
            },
        };
        let Some(frame) = frame else {
            if let Some(exchange) = this.exchange.take() {
                exchange.complete();
            }
            return Poll::Ready(None);
        };
        if let (Some(exchange), Some(data)) = (&mut this.exchange, frame.data_ref()) {
            exchange.sent(data.len() as u64);
            this.owed = exchange.owes();
        }
        this.finish_if_ended();
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Whole(bytes) => bytes.is_none(),
            Source::Streaming { body, .. } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Source::Streaming { body, .. } => body.size_hint(),
        }
    }
}
