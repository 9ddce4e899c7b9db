//! What a client of HTTP/2 makes the balancer do to no purpose: frames that carry nothing, and
//! requests that are not to be served. A browser does some of both; a flood does nothing else.

use std::sync::atomic::{AtomicU64, Ordering};

/// What comes back in a second.
const PER_SECOND: u64 = 100;
/// What a request costs when it comes.
const REQUEST: u64 = 10;
/// What it brings when it is answered: of two requests one may be given up.
const ANSWERED: u64 = 2 * REQUEST;
/// How often in a row a client may give up all that it can ask for at one time, as with a page that
/// is left while it loads.
const PAGES: u64 = 10;
/// What can be spent at once, where few requests can be asked for at one time.
const LEAST: u64 = 2_000;
/// Bytes of a frame that carries nothing which cost as much as another frame.
const FRAME_BYTES: u64 = 1024;
/// Bytes of an answer's frame that bring as much as a frame costs, up to [`MADE_ROOM`] of them. Who
/// has each byte sent by itself makes work to no purpose, too.
const ANSWER_BYTES: u64 = 64;
/// What a client may do for each frame of an answer: make room for as much on the connection and on
/// the stream, and measure the way by a PING; and one for good measure.
const MADE_ROOM: u64 = 4;

/// Returns how many requests in a row a client may give up that may have so many at one time.
pub(super) fn most_given_up(streams: u32) -> usize {
    usize::try_from(most(streams) / REQUEST).unwrap_or(usize::MAX)
}

fn most(streams: u32) -> u64 {
    LEAST.max(u64::from(streams) * REQUEST * PAGES)
}

/// What is left to a client.
#[derive(Debug)]
pub(super) struct Budget {
    most: u64,
    left: AtomicU64,
    /// Milliseconds, up to which time has been credited.
    credited: AtomicU64,
}

impl Budget {
    /// Returns the budget of a client that may have so many requests at one time.
    pub(super) fn new(streams: u32) -> Self {
        let most = most(streams);
        Self {
            most,
            left: AtomicU64::new(most),
            credited: AtomicU64::new(0),
        }
    }

    /// Frames of so much cost have come, at this millisecond.
    pub(super) fn spend(&self, cost: u64, now: u64) {
        if cost == 0 {
            return;
        }
        let since = self.credited.swap(now, Ordering::Relaxed);
        let passed = now.saturating_sub(since).saturating_mul(PER_SECOND);
        // What is less than one is kept for the next time.
        self.credited
            .fetch_sub((passed % 1000) / PER_SECOND, Ordering::Relaxed);
        self.earn(passed / 1000);
        let left = self.left.load(Ordering::Relaxed);
        self.left
            .store(left.saturating_sub(cost), Ordering::Relaxed);
    }

    /// A request was answered.
    pub(super) fn answered(&self) {
        self.earn(ANSWERED);
    }

    /// Frames of answers went to the client that bring so much.
    pub(super) fn earn(&self, gain: u64) {
        let left = self.left.load(Ordering::Relaxed);
        // Who has spent everything is on the way out.
        if left > 0 {
            self.left
                .store(left.saturating_add(gain).min(self.most), Ordering::Relaxed);
        }
    }

    /// Returns whether nothing is left.
    pub(super) fn is_spent(&self) -> bool {
        self.left.load(Ordering::Relaxed) == 0
    }
}

/// Finds frames in what goes one way (RFC 9113 section 4.1).
#[derive(Debug)]
pub(super) struct Frames {
    /// Bytes to pass over before the next frame's head.
    pass: usize,
    head: [u8; HEAD],
    /// Bytes of the head that are there.
    filled: usize,
}

const HEAD: usize = 9;
/// The length of what a client says first (section 3.4).
const PREFACE: usize = 24;

/// Kinds of frames (section 6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;

impl Frames {
    /// Returns what finds a client's frames, from the connection's first byte on.
    pub(super) fn of_client() -> Self {
        Self::after(PREFACE)
    }

    /// The same for those that go to the client.
    pub(super) fn to_client() -> Self {
        Self::after(0)
    }

    fn after(pass: usize) -> Self {
        Self {
            pass,
            head: [0; HEAD],
            filled: 0,
        }
    }

    /// Returns the cost of a client's frames that begin in these bytes.
    pub(super) fn cost_in(&mut self, bytes: &[u8]) -> u64 {
        self.sum(bytes, |kind, length| match kind {
            DATA if length > 0 => 0,
            HEADERS => REQUEST,
            // Its bytes are a request's.
            CONTINUATION => 1,
            _ => 1 + length / FRAME_BYTES,
        })
    }

    /// Returns what frames to the client bring that begin in these bytes.
    pub(super) fn gain_in(&mut self, bytes: &[u8]) -> u64 {
        self.sum(bytes, |kind, length| match kind {
            DATA => (length / ANSWER_BYTES).min(MADE_ROOM),
            _ => 0,
        })
    }

    fn sum(&mut self, mut bytes: &[u8], value: impl Fn(u8, u64) -> u64) -> u64 {
        let mut sum = 0;
        loop {
            let passed = self.pass.min(bytes.len());
            self.pass -= passed;
            bytes = &bytes[passed..];
            let taken = (HEAD - self.filled).min(bytes.len());
            self.head[self.filled..self.filled + taken].copy_from_slice(&bytes[..taken]);
            self.filled += taken;
            bytes = &bytes[taken..];
            if self.filled < HEAD {
                return sum;
            }
            self.filled = 0;
            let [high, middle, low, kind, ..] = self.head;
            let length = u32::from_be_bytes([0, high, middle, low]);
            self.pass = length as usize;
            sum += value(kind, length.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, length: usize) -> Vec<u8> {
        let [_, head @ ..] = u32::try_from(length).expect("a length").to_be_bytes();
        let mut frame = head.to_vec();
        frame.extend([kind, 0, 0, 0, 0, 1]);
        frame.resize(HEAD + length, 0xff);
        frame
    }

    #[test]
    fn frames_are_found_however_they_come() {
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        for (kind, length) in [
            (4, 18),
            (1, 300),
            (9, 5000),
            (0, 70_000),
            (6, 8),
            (0, 0),
            (8, 4),
            (99, 3000),
        ] {
            bytes.extend(frame(kind, length));
        }
        for piece in [1, 2, 7, 9, 1000, bytes.len()] {
            let mut frames = Frames::of_client();
            let costs = bytes.chunks(piece).map(|piece| frames.cost_in(piece));
            assert_eq!(
                costs.sum::<u64>(),
                1 + REQUEST + 1 + 1 + 1 + 1 + 3,
                "{piece}"
            );
        }
    }

    #[test]
    fn what_comes_back_in_time_can_be_spent_for_ever_and_no_more() {
        let budget = Budget::new(1);
        for tick in 0..10 * LEAST {
            budget.spend(1, tick * 1000 / PER_SECOND);
        }
        assert!(!budget.is_spent());
        for _ in 0..LEAST {
            budget.spend(1, 10 * LEAST * 1000 / PER_SECOND);
        }
        assert!(budget.is_spent());
        budget.answered();
        assert!(budget.is_spent(), "what is over is over");
    }

    #[test]
    fn half_of_the_requests_may_be_given_up_and_all_of_them_for_a_while() {
        for streams in [20, 100, 10_000] {
            let budget = Budget::new(streams);
            for _ in 0..100 {
                for _ in 0..2 * streams {
                    budget.spend(REQUEST, 0);
                }
                for _ in 0..streams {
                    budget.answered();
                }
            }
            for _ in 1..PAGES * u64::from(streams) {
                assert!(!budget.is_spent());
                budget.spend(REQUEST, 0);
            }
            budget.spend(REQUEST, 0);
            assert!(budget.is_spent());
        }
    }

    #[test]
    fn room_for_an_answer_costs_nothing_however_often_it_is_given() {
        let mut frames = Frames::to_client();
        for (length, free) in [(1, false), (127, false), (128, true), (16_384, true)] {
            let budget = Budget::new(1);
            for _ in 0..2 * LEAST {
                budget.earn(frames.gain_in(&frame(DATA, length)));
                budget.spend(2, 0);
            }
            assert_eq!(!budget.is_spent(), free, "{length}");
        }
    }
}
