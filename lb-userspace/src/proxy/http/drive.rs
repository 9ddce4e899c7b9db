//! Runs a connection of either version of HTTP, and ends it when it is time.

use std::{
    error::Error as _,
    pin::{Pin, pin},
    time::Duration,
};

use hyper::body::Incoming;
use tokio::time::{Instant, sleep_until};

use super::{
    super::{failure::Failure, lost::Lost},
    activity::Verdict,
    body::ResponseBody,
    conversation::Conversation,
};

/// How long a connection that is told to end may still take.
const FAREWELL: Duration = Duration::from_secs(5);

/// A connection of either version of HTTP.
pub(crate) trait Connection: Future<Output = hyper::Result<()>> {
    fn finish(self: Pin<&mut Self>);
}

impl<I, S> Connection for hyper::server::conn::http1::UpgradeableConnection<I, S>
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    S: hyper::service::HttpService<Incoming, ResBody = ResponseBody>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
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
    fn finish(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

/// Runs a connection, and ends it when its client takes too long. Returns what went wrong while no
/// request was there to tell of it.
pub(crate) async fn drive<C: Connection>(
    conversation: &Conversation,
    mut connection: Pin<&mut C>,
) -> Option<Lost> {
    let timeouts = &conversation.front.service.timeouts;
    let judge = || conversation.activity.verdict(timeouts, conversation.http2);
    let first = match judge() {
        Verdict::Until(moment) => moment,
        Verdict::Idle | Verdict::Late(_) => Instant::now(),
    };
    let mut timer = pin!(sleep_until(first));
    let mut finishing = false;
    loop {
        tokio::select! {
            biased;
            ended = connection.as_mut() => {
                let error = ended.err()?;
                let cause = error.source().map(ToString::to_string);
                tracing::debug!(client = %conversation.client, cause, "a connection ended: {error}");
                if !conversation.http2 {
                    return Lost::by_engine(&error, &conversation.activity);
                }
                let abused = conversation.activity.is_flood() || broke_http2(&error);
                return abused.then(|| {
                    conversation.end_late(Failure::Http2Abuse);
                    Failure::Http2Abuse.into()
                });
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
                _ if finishing => return None,
                Verdict::Until(moment) => timer.as_mut().reset(moment),
                Verdict::Idle => {
                    connection.as_mut().finish();
                    timer.as_mut().reset(Instant::now() + FAREWELL);
                    finishing = true;
                }
                Verdict::Late(failure) => {
                    // Requests that are under way end with it, and each of them counts it.
                    conversation.end_late(failure);
                    return (!conversation.activity.is_busy()).then_some(failure.into());
                }
            },
        }
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
