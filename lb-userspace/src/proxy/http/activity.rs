//! What a client does on its connection, and how long it may take: one timer for each connection,
//! whatever happens on it.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use super::super::failure::Failure;
use crate::config::model::Timeouts;

/// What is going on. Shared with the stream, which hyper wants to be able to send to other threads;
/// no other thread ever has it.
#[derive(Debug)]
pub(crate) struct Activity {
    begun: Instant,
    /// Requests whose answers are not over.
    in_flight: AtomicU32,
    /// A request's head has begun to arrive.
    in_head: AtomicBool,
    /// Milliseconds from `begun` to the beginning of the present phase: of waiting, or of a head.
    since: AtomicU64,
    /// The same to the moment since which the client takes nothing; zero: it does.
    blocked: AtomicU64,
}

/// What shall become of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Look again at this moment.
    Until(Instant),
    /// It has waited long enough for a request.
    Idle,
    /// The client takes too long.
    Late(Failure),
}

impl Activity {
    /// Returns the activity of a connection that has just begun: the first head is awaited.
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            begun: Instant::now(),
            in_flight: AtomicU32::new(0),
            in_head: AtomicBool::new(true),
            since: AtomicU64::new(0),
            blocked: AtomicU64::new(0),
        })
    }

    /// A request has arrived.
    pub(crate) fn begin(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        self.in_head.store(false, Ordering::Relaxed);
    }

    /// Its answer is over.
    pub(crate) fn end(&self) {
        if self.in_flight.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.since.store(self.now(), Ordering::Relaxed);
        }
    }

    /// Judges the connection; with HTTP/2 what arrives between requests need not be a head.
    pub(crate) fn verdict(&self, timeouts: &Timeouts, http2: bool) -> Verdict {
        let now = self.now();
        let blocked = self.blocked.load(Ordering::Relaxed);
        if self.in_flight.load(Ordering::Relaxed) > 0 {
            return match blocked {
                0 => self.at(now + millis(timeouts.body)),
                since if now.saturating_sub(since) >= millis(timeouts.body) => {
                    Verdict::Late(Failure::ClientStalled)
                }
                since => self.at(since + millis(timeouts.body)),
            };
        }
        let in_head = self.in_head.load(Ordering::Relaxed)
            && (!http2 || self.since.load(Ordering::Relaxed) == 0);
        let (limit, over) = match in_head {
            true => (timeouts.header, Verdict::Late(Failure::HeaderTimeout)),
            false => (timeouts.idle, Verdict::Idle),
        };
        let until = self.since.load(Ordering::Relaxed) + millis(limit);
        if now >= until { over } else { self.at(until) }
    }

    fn has_read(&self) {
        if self.in_flight.load(Ordering::Relaxed) == 0
            && !self.in_head.swap(true, Ordering::Relaxed)
        {
            self.since.store(self.now(), Ordering::Relaxed);
        }
    }

    fn has_written(&self, went_on: bool) {
        if went_on {
            self.blocked.store(0, Ordering::Relaxed);
        } else if self.blocked.load(Ordering::Relaxed) == 0 {
            self.blocked.store(self.now().max(1), Ordering::Relaxed);
        }
    }

    fn now(&self) -> u64 {
        millis(self.begun.elapsed())
    }

    fn at(&self, moment: u64) -> Verdict {
        Verdict::Until(self.begun + Duration::from_millis(moment))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 4)
}

/// A client's stream that tells its activity.
#[derive(Debug)]
pub(crate) struct Watched<S> {
    stream: S,
    activity: Arc<Activity>,
}

impl<S> Watched<S> {
    pub(crate) fn new(stream: S, activity: Arc<Activity>) -> Self {
        Self { stream, activity }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.activity.has_read();
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.activity.has_written(polled.is_ready());
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.activity.has_written(polled.is_ready());
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(cx);
        self.activity.has_written(polled.is_ready());
        polled
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timeouts() -> Timeouts {
        let seconds = Duration::from_secs;
        Timeouts {
            handshake: seconds(10),
            header: seconds(10),
            idle: seconds(75),
            body: seconds(60),
            connect: seconds(5),
            response: seconds(60),
            tunnel: seconds(3600),
        }
    }

    async fn pass(seconds: u64) {
        tokio::time::advance(Duration::from_secs(seconds)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_head_has_its_time_and_later_ones_from_their_first_byte() {
        let activity = Activity::new();
        let judge = || activity.verdict(&timeouts(), false);
        pass(9).await;
        assert!(matches!(judge(), Verdict::Until(_)));
        pass(1).await;
        assert_eq!(judge(), Verdict::Late(Failure::HeaderTimeout));

        activity.begin();
        activity.end();
        pass(74).await;
        assert!(matches!(judge(), Verdict::Until(_)));
        activity.has_read();
        pass(9).await;
        activity.has_read();
        assert!(matches!(judge(), Verdict::Until(_)));
        pass(1).await;
        assert_eq!(judge(), Verdict::Late(Failure::HeaderTimeout));
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_without_requests_is_idle_after_a_while() {
        let activity = Activity::new();
        activity.begin();
        pass(1000).await;
        assert!(matches!(
            activity.verdict(&timeouts(), false),
            Verdict::Until(_)
        ));
        activity.end();
        pass(75).await;
        assert_eq!(activity.verdict(&timeouts(), false), Verdict::Idle);
    }

    #[tokio::test(start_paused = true)]
    async fn frames_between_requests_are_no_head() {
        let activity = Activity::new();
        pass(1).await;
        activity.begin();
        activity.end();
        activity.has_read();
        pass(11).await;
        assert!(matches!(
            activity.verdict(&timeouts(), true),
            Verdict::Until(_)
        ));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_late() {
        let activity = Activity::new();
        activity.begin();
        activity.has_written(false);
        pass(59).await;
        activity.has_written(true);
        pass(2).await;
        activity.has_written(false);
        pass(59).await;
        assert!(matches!(
            activity.verdict(&timeouts(), false),
            Verdict::Until(_)
        ));
        pass(1).await;
        assert_eq!(
            activity.verdict(&timeouts(), false),
            Verdict::Late(Failure::ClientStalled)
        );
    }
}
