//! What a client does on its connection, and how long it may take: one timer for each connection,
//! whatever happens on it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::{super::failure::Failure, flood::Budget};
use crate::config::model::Timeouts;

/// What is going on. Shared with the stream, which hyper wants to be able to send to other threads;
/// no other thread ever has it.
#[derive(Debug)]
pub(crate) struct Activity {
    begun: Instant,
    /// Requests whose answers are not over.
    in_flight: AtomicU32,
    /// Requests whose bodies are not over, though their answers may be.
    uploads: AtomicU32,
    /// Answers of which the client has to take something before there is more to do.
    owed: AtomicU32,
    /// Milliseconds from `begun` to the moment when it last took something.
    taken: AtomicU64,
    /// A request's head is awaited or has begun to arrive.
    in_head: AtomicBool,
    /// Some of it is there.
    head_begun: AtomicBool,
    /// Of the last request's body there is more to come.
    in_body: AtomicBool,
    /// Milliseconds from `begun` to the beginning of the present phase: of waiting, or of a head.
    since: AtomicU64,
    /// The same to the moment since which the client takes nothing; zero: it does.
    blocked: AtomicU64,
    /// The same to the moment until which the stream may take to end by itself; zero: it does not end.
    ending: AtomicU64,
    /// What a client of HTTP/2 may still do to no purpose.
    budget: Budget,
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
    /// Returns the activity of a connection that has just begun: the first head is awaited. So many
    /// requests may be under way at one time.
    pub(crate) fn new(streams: u32) -> Arc<Self> {
        Arc::new(Self {
            begun: Instant::now(),
            in_flight: AtomicU32::new(0),
            uploads: AtomicU32::new(0),
            owed: AtomicU32::new(0),
            taken: AtomicU64::new(0),
            in_head: AtomicBool::new(true),
            head_begun: AtomicBool::new(false),
            in_body: AtomicBool::new(false),
            since: AtomicU64::new(0),
            blocked: AtomicU64::new(0),
            ending: AtomicU64::new(0),
            budget: Budget::new(streams),
        })
    }

    /// A request has arrived, but for its body where it `has_body`.
    pub(crate) fn begin(&self, has_body: bool) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        self.in_head.store(false, Ordering::Relaxed);
        self.head_begun.store(false, Ordering::Relaxed);
        self.in_body.store(has_body, Ordering::Relaxed);
    }

    /// The body has been read to its end.
    pub(crate) fn body_ended(&self) {
        self.in_body.store(false, Ordering::Relaxed);
    }

    /// Returns whether a client of HTTP/1 has begun a request's head, and has not ended it.
    pub(crate) fn is_in_head(&self) -> bool {
        self.head_begun.load(Ordering::Relaxed)
    }

    /// Returns when the present phase began: that of waiting, or of a head.
    pub(crate) fn phase_begun(&self) -> Instant {
        self.begun + Duration::from_millis(self.since.load(Ordering::Relaxed))
    }

    /// Returns whether a client of HTTP/1 has more to send of what it began.
    pub(crate) fn is_receiving(&self) -> bool {
        self.is_in_head() || self.in_body.load(Ordering::Relaxed)
    }

    /// Its answer is over.
    pub(crate) fn end(&self) {
        if self.in_flight.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.since.store(self.now(), Ordering::Relaxed);
        }
    }

    /// Its answer is over, and nobody gave it up.
    pub(crate) fn answered(&self) {
        self.budget.answered();
    }

    /// Returns whether a client of HTTP/2 floods the connection with what is to no purpose.
    pub(crate) fn is_flood(&self) -> bool {
        self.budget.is_spent()
    }

    /// Returns whether there are requests whose answers are not over.
    pub(crate) fn is_busy(&self) -> bool {
        self.in_flight.load(Ordering::Relaxed) > 0
    }

    /// Returns whether nothing has gone on for so long.
    pub(crate) fn is_quiet(&self, long: Duration) -> bool {
        !self.is_busy()
            && !self.is_receiving()
            && self.uploads.load(Ordering::Relaxed) == 0
            && self.blocked.load(Ordering::Relaxed) == 0
            && self.now() >= self.since.load(Ordering::Relaxed) + millis(long)
    }

    /// Judges the connection; with HTTP/2 what arrives between requests need not be a head.
    pub(crate) fn verdict(&self, timeouts: &Timeouts, http2: bool) -> Verdict {
        let now = self.now();
        let blocked = self.blocked.load(Ordering::Relaxed);
        let in_flight = self.in_flight.load(Ordering::Relaxed);
        if in_flight > 0 {
            // A client of HTTP/2 can hold back each stream without holding back the connection. One
            // that takes something of another stream may have its reasons.
            let since = self.taken.load(Ordering::Relaxed);
            if http2 && self.owed.load(Ordering::Relaxed) == in_flight {
                return self.stalled_since(since, now, timeouts);
            }
            return match blocked {
                0 => self.at(now + millis(timeouts.body)),
                since => self.stalled_since(since, now, timeouts),
            };
        }
        // What is over for us may wait to be taken all the same.
        if blocked > 0 {
            return self.stalled_since(blocked, now, timeouts);
        }
        let in_head = self.in_head.load(Ordering::Relaxed)
            && (!http2 || self.since.load(Ordering::Relaxed) == 0);
        let (limit, over) = match in_head {
            true => (timeouts.header, Verdict::Late(Failure::HeaderTimeout)),
            false => (timeouts.idle, Verdict::Idle),
        };
        // A head that was refused is no late one, though its client goes on sending.
        let until = (self.since.load(Ordering::Relaxed) + millis(limit))
            .max(self.ending.load(Ordering::Relaxed));
        if now >= until { over } else { self.at(until) }
    }

    fn stalled_since(&self, since: u64, now: u64, timeouts: &Timeouts) -> Verdict {
        let until = since + millis(timeouts.body);
        match now >= until {
            true => Verdict::Late(Failure::ClientStalled),
            false => self.at(until),
        }
    }

    /// Returns whether the client has not taken yet what was written to it, and may still do so
    /// within `limit`.
    pub(crate) fn is_taking(&self, limit: Duration) -> bool {
        match self.blocked.load(Ordering::Relaxed) {
            0 => false,
            since => self.now().saturating_sub(since) < millis(limit),
        }
    }

    pub(super) fn has_read(&self) {
        if self.in_flight.load(Ordering::Relaxed) > 0 {
            return;
        }
        // The rest of a body that was answered early is no head.
        let rest = self.uploads.load(Ordering::Relaxed) > 0;
        self.head_begun.store(!rest, Ordering::Relaxed);
        if rest || !self.in_head.swap(true, Ordering::Relaxed) {
            self.since.store(self.now(), Ordering::Relaxed);
        }
    }

    pub(super) fn has_cost(&self, cost: u64) {
        self.budget.spend(cost, self.now());
    }

    pub(super) fn has_gained(&self, gain: u64) {
        self.budget.earn(gain);
    }

    pub(super) fn has_written(&self, went_on: bool) {
        if went_on {
            self.blocked.store(0, Ordering::Relaxed);
        } else if self.blocked.load(Ordering::Relaxed) == 0 {
            self.blocked.store(self.now().max(1), Ordering::Relaxed);
        }
    }

    /// The stream ends, and may wait for its client for so long.
    pub(super) fn ends_within(&self, limit: Duration) {
        let until = self.now() + millis(limit);
        self.ending.store(until, Ordering::Relaxed);
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

/// Something of an answer that its client has not asked for; it has, or is gone, when this is dropped.
#[derive(Debug)]
pub(crate) struct Owed(Arc<Activity>);

impl Owed {
    /// Something is ready for the client.
    pub(crate) fn begin(activity: &Arc<Activity>) -> Self {
        activity.taken.store(activity.now(), Ordering::Relaxed);
        activity.owed.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(activity))
    }
}

impl Drop for Owed {
    fn drop(&mut self) {
        self.0.taken.store(self.0.now(), Ordering::Relaxed);
        self.0.owed.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A request's body that is on its way; it is over when this is dropped.
#[derive(Debug)]
pub(crate) struct Upload(Arc<Activity>);

impl Upload {
    /// A body begins.
    pub(crate) fn begin(activity: &Arc<Activity>) -> Self {
        activity.uploads.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(activity))
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.0.uploads.fetch_sub(1, Ordering::Relaxed);
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
        let activity = Activity::new(100);
        let judge = || activity.verdict(&timeouts(), false);
        pass(9).await;
        assert!(matches!(judge(), Verdict::Until(_)));
        pass(1).await;
        assert_eq!(judge(), Verdict::Late(Failure::HeaderTimeout));

        activity.begin(false);
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
        let activity = Activity::new(100);
        activity.begin(false);
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
    async fn the_rest_of_a_body_after_its_answer_may_take_its_time() {
        let activity = Activity::new(100);
        activity.begin(false);
        let upload = Upload::begin(&activity);
        activity.end();
        for _ in 0..5 {
            pass(60).await;
            activity.has_read();
            let verdict = activity.verdict(&timeouts(), false);
            assert!(matches!(verdict, Verdict::Until(_)));
        }
        drop(upload);
        activity.has_read();
        pass(10).await;
        assert_eq!(
            activity.verdict(&timeouts(), false),
            Verdict::Late(Failure::HeaderTimeout)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_holds_back_every_stream_is_late() {
        let activity = Activity::new(100);
        activity.begin(false);
        activity.begin(false);
        let first = Owed::begin(&activity);
        pass(100).await;
        let judge = || activity.verdict(&timeouts(), true);
        assert!(
            matches!(judge(), Verdict::Until(_)),
            "one waits for the backend"
        );
        let second = Owed::begin(&activity);
        pass(59).await;
        assert!(matches!(judge(), Verdict::Until(_)));
        pass(1).await;
        assert_eq!(judge(), Verdict::Late(Failure::ClientStalled));
        drop(second);
        activity.end();
        assert!(
            matches!(judge(), Verdict::Until(_)),
            "it has just taken some"
        );
        drop(first);
    }

    #[tokio::test(start_paused = true)]
    async fn frames_between_requests_are_no_head() {
        let activity = Activity::new(100);
        pass(1).await;
        activity.begin(false);
        activity.end();
        activity.has_read();
        pass(11).await;
        assert!(matches!(
            activity.verdict(&timeouts(), true),
            Verdict::Until(_)
        ));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_over_is_to_be_taken_all_the_same() {
        let activity = Activity::new(100);
        activity.begin(false);
        activity.has_written(false);
        activity.end();
        pass(59).await;
        let judge = || activity.verdict(&timeouts(), false);
        assert!(matches!(judge(), Verdict::Until(_)));
        pass(2).await;
        assert_eq!(judge(), Verdict::Late(Failure::ClientStalled));
        activity.has_written(true);
        assert!(matches!(judge(), Verdict::Until(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_ends_may_wait_for_its_client() {
        let activity = Activity::new(100);
        pass(9).await;
        activity.ends_within(Duration::from_secs(3));
        pass(2).await;
        let judge = || activity.verdict(&timeouts(), false);
        assert!(matches!(judge(), Verdict::Until(_)));
        pass(1).await;
        assert_eq!(judge(), Verdict::Late(Failure::HeaderTimeout));
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_goes_on_between_an_answer_and_the_next_head() {
        let activity = Activity::new(100);
        let is_quiet = || activity.is_quiet(Duration::from_secs(2));
        activity.begin(true);
        pass(3).await;
        assert!(!is_quiet(), "an answer is awaited");
        activity.has_written(false);
        activity.end();
        pass(3).await;
        assert!(!is_quiet(), "it is not taken, and the body goes on");
        activity.has_written(true);
        assert!(!is_quiet(), "the body goes on");
        activity.body_ended();
        assert!(is_quiet());
        activity.has_read();
        assert!(!is_quiet(), "a head has begun");
        activity.begin(false);
        activity.end();
        assert!(!is_quiet(), "it has just ended");
        pass(2).await;
        assert!(is_quiet());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_late() {
        let activity = Activity::new(100);
        activity.begin(false);
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
