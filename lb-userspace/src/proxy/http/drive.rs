//! Runs a connection of either version of HTTP, and ends it when it is time.
//!
//! The engine keeps the buffers of a connection as long as it has it. A connection of HTTP/1 on which
//! nothing goes on is taken from it, which is a third of the memory that it takes, and given to it
//! again when its client goes on.

use std::{
    error::Error as _,
    pin::{Pin, pin},
    time::Duration,
};

use hyper::body::Incoming;
use tokio::{
    io::AsyncBufRead,
    time::{Instant, sleep_until},
};

use super::{
    super::{failure::Failure, lost::Lost},
    activity::Verdict,
    body::ResponseBody,
    conversation::Conversation,
    watched::Watched,
};

/// How long a connection that is told to end may still take.
const FAREWELL: Duration = Duration::from_secs(5);
/// How long nothing goes on before a connection of HTTP/1 is parked. Clients that go on earlier keep
/// the engine's buffers, and pay for no new ones.
const QUIET: Duration = Duration::from_secs(2);

/// A connection of either version of HTTP.
pub(crate) trait Connection: Future<Output = hyper::Result<()>> {
    /// Whether it can be taken apart while nothing goes on, and put together again.
    const PARKS: bool;

    fn finish(self: Pin<&mut Self>);
}

/// What has become of a connection.
pub(crate) enum Outcome {
    /// It has ended; what went wrong while no request was there to tell of it.
    Over(Option<Lost>),
    /// Nothing goes on.
    Quiet,
}

impl From<Option<Lost>> for Outcome {
    fn from(lost: Option<Lost>) -> Self {
        Self::Over(lost)
    }
}

impl<I, S> Connection for hyper::server::conn::http1::UpgradeableConnection<I, S>
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    S: hyper::service::HttpService<Incoming, ResBody = ResponseBody>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    const PARKS: bool = true;

    fn finish(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

impl<I, S> Connection for hyper::server::conn::http2::Connection<I, S, Local>
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
    S: hyper::service::HttpService<Incoming, ResBody = ResponseBody>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    S::Future: 'static,
    Self: Future<Output = hyper::Result<()>>,
{
    const PARKS: bool = false;

    fn finish(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

/// Runs a connection, and ends it when its client takes too long, or at once if it was `told_to_end`
/// before.
pub(crate) async fn drive<C: Connection>(
    conversation: &Conversation,
    mut connection: Pin<&mut C>,
    told_to_end: bool,
) -> Outcome {
    let timeouts = &conversation.front.service.timeouts;
    let judge = || conversation.activity.verdict(timeouts, conversation.http2);
    let look_again = |moment: Instant| match C::PARKS {
        true => moment.min(Instant::now() + QUIET),
        false => moment,
    };
    let first = match judge() {
        Verdict::Until(moment) => look_again(moment),
        Verdict::Idle | Verdict::Late(_) => Instant::now(),
    };
    let mut timer = pin!(sleep_until(first));
    let mut finishing = told_to_end;
    if told_to_end {
        connection.as_mut().finish();
        timer.as_mut().reset(Instant::now() + FAREWELL);
    }
    loop {
        tokio::select! {
            biased;
            ended = connection.as_mut() => {
                let Err(error) = ended else {
                    return None.into();
                };
                let cause = error.source().map(ToString::to_string);
                tracing::debug!(client = %conversation.client, cause, "a connection ended: {error}");
                if !conversation.http2 {
                    return Lost::by_engine(&error, &conversation.activity).into();
                }
                let abused = conversation.activity.is_flood() || broke_http2(&error);
                let lost = abused.then(|| {
                    conversation.end_late(Failure::Http2Abuse);
                    Failure::Http2Abuse.into()
                });
                return lost.into();
            }
            () = conversation.told_to_end(), if !finishing => {
                connection.as_mut().finish();
                timer.as_mut().reset(Instant::now() + FAREWELL);
                finishing = true;
            }
            () = timer.as_mut() => match judge() {
                // The answer has left its backend and waits for a slow client.
                _ if finishing && conversation.activity.is_taking(timeouts.body) => {
                    timer.as_mut().reset(Instant::now() + FAREWELL);
                }
                _ if finishing => return None.into(),
                Verdict::Until(_) if C::PARKS && conversation.activity.is_quiet(QUIET) => {
                    return Outcome::Quiet;
                }
                Verdict::Until(moment) => timer.as_mut().reset(look_again(moment)),
                Verdict::Idle => {
                    connection.as_mut().finish();
                    timer.as_mut().reset(Instant::now() + FAREWELL);
                    finishing = true;
                }
                Verdict::Late(failure) => {
                    // Requests that are under way end with it, and each of them counts it.
                    conversation.end_late(failure);
                    let lost = (!conversation.activity.is_busy()).then_some(failure.into());
                    return lost.into();
                }
            },
        }
    }
}

/// Waits until something comes from the client of a parked connection, or it is time to end it.
/// Returns whether it was told to end.
pub(crate) async fn park<S: AsyncBufRead + Unpin>(
    conversation: &Conversation,
    stream: &mut Watched<S>,
) -> bool {
    let timeouts = &conversation.front.service.timeouts;
    let Verdict::Until(moment) = conversation.activity.verdict(timeouts, false) else {
        return false;
    };
    tracing::debug!(client = %conversation.client, "a connection is parked");
    tokio::select! {
        biased;
        () = stream.readable() => false,
        () = conversation.told_to_end() => true,
        () = sleep_until(moment) => false,
    }
}

/// Returns whether a client was told that it broke the rules of HTTP/2 (RFC 9113 section 5.4.1).
fn broke_http2(error: &hyper::Error) -> bool {
    let cause = error.source().and_then(|cause| cause.downcast_ref());
    cause.is_some_and(|cause: &h2::Error| cause.is_go_away() && cause.is_library())
}

/// Runs the streams of HTTP/2 on the thread of their connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Local;

impl<F> hyper::rt::Executor<F> for Local
where
    F: Future + 'static,
    F::Output: 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}
