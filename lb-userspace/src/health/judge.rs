//! Turns the results of single probes into a state that can be acted on.
//!
//! Pure: time comes in as an argument, nothing is sent or read.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use super::probe::ProbeOutcome;

/// Whether a backend serves, as its checks see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Health {
    /// It serves.
    Up,
    /// It does not serve, or nobody knows yet.
    Down,
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Up => "up",
            Self::Down => "down",
        })
    }
}

/// News from a judge: the state that a result led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    /// The state that holds from this result on.
    pub health: Health,
    /// The first result of a judge that began with [`Health::Down`]: it is news even when the
    /// backend stays down, because nothing was known before it.
    pub first: bool,
}

/// The rise and fall of one check.
///
/// - A judge that begins with [`Health::Down`] knows nothing: its first result decides at once.
///   After that, `rise` successes in a row lead up and `fall` failures in a row lead down.
/// - A judge that begins with [`Health::Up`] takes over a backend that was serving before this
///   process existed: it stays up until `fall` failures in a row.
/// - A failure that confirms a suspicion, evidence from elsewhere that came before the probe, leads
///   down at once: two witnesses are as good as `fall` words of one. A suspicion alone decides
///   nothing.
/// - A failure that is our own fault ([`super::ProbeFailure::Local`]) says nothing about the
///   backend: it is remembered as the reason, and counts only where nothing is known at all.
#[derive(Clone, Debug)]
pub struct Judge {
    rise: u32,
    fall: u32,
    health: Health,
    probed: bool,
    since: Option<SystemTime>,
    passed: bool,
    consecutive: u32,
    confirmed: bool,
    result: String,
    latency: Option<Duration>,
}

impl Judge {
    /// Makes a judge that has seen no result yet; `rise` and `fall` below one count as one.
    #[must_use]
    pub fn new(rise: u32, fall: u32, initial: Health) -> Self {
        Self {
            rise: rise.max(1),
            fall: fall.max(1),
            health: initial,
            probed: false,
            since: None,
            passed: initial == Health::Up,
            consecutive: 0,
            confirmed: false,
            result: String::from("not probed yet"),
            latency: None,
        }
    }

    /// Takes in the result of one probe that ended at `now`, and whether the backend was suspected
    /// when it began; returns what changed, if anything.
    pub fn observe(
        &mut self,
        outcome: &ProbeOutcome,
        suspected: bool,
        now: SystemTime,
    ) -> Option<Transition> {
        let knows_nothing = !self.probed && self.health == Health::Down;
        self.result = outcome.to_string();
        if outcome.is_local() && !knows_nothing {
            return None;
        }
        self.count(outcome);
        self.confirmed = suspected && !self.passed;
        let health = self.verdict(knows_nothing);
        let changed = health != self.health || knows_nothing;
        if changed || !self.probed {
            self.since = Some(now);
        }
        self.probed = true;
        self.health = health;
        changed.then_some(Transition {
            health,
            first: knows_nothing,
        })
    }

    fn count(&mut self, outcome: &ProbeOutcome) {
        let passed = match outcome {
            ProbeOutcome::Passed { latency, .. } => {
                self.latency = Some(*latency);
                true
            }
            ProbeOutcome::Failed(_) => false,
        };
        if passed != self.passed {
            self.consecutive = 0;
        }
        self.passed = passed;
        self.consecutive = self.consecutive.saturating_add(1);
    }

    fn verdict(&self, knows_nothing: bool) -> Health {
        match (self.health, self.passed) {
            (Health::Down, true) if knows_nothing || self.consecutive >= self.rise => Health::Up,
            (Health::Up, false) if self.confirmed || self.consecutive >= self.fall => Health::Down,
            (health, _) => health,
        }
    }

    /// Returns the state that holds.
    #[must_use]
    pub fn health(&self) -> Health {
        self.health
    }

    /// Returns whether there has been a result.
    #[must_use]
    pub fn probed(&self) -> bool {
        self.probed
    }

    /// Returns when the state last changed; `None` before the first result. For a backend that was
    /// taken over while up, this is the first result of this process.
    #[must_use]
    pub fn since(&self) -> Option<SystemTime> {
        self.since
    }

    /// Returns whether the last result that counted was a success.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.passed
    }

    /// Returns how many results like the last one have come in a row.
    #[must_use]
    pub fn consecutive(&self) -> u32 {
        self.consecutive
    }

    /// Returns how long the last success took.
    #[must_use]
    pub fn latency(&self) -> Option<Duration> {
        self.latency
    }

    /// Returns the last result as an administrator would say it, with how far it is from changing
    /// the state where it has not done so.
    #[must_use]
    pub fn reason(&self) -> String {
        match (self.health, self.passed) {
            (Health::Up, false) => format!(
                "{} (failure {} of {} until down)",
                self.result, self.consecutive, self.fall
            ),
            (Health::Down, true) => format!(
                "{} (success {} of {} until up)",
                self.result, self.consecutive, self.rise
            ),
            (Health::Down, false) if self.confirmed => {
                format!("{}; packets of flows meet errors there too", self.result)
            }
            (Health::Up, true) | (Health::Down, false) => self.result.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        super::probe::ProbeFailure,
        Health::{Down, Up},
        *,
    };

    #[test]
    fn rise_and_fall_follow_the_table() {
        // what, rise, fall, initial, results (+ success, - failure, l our own fault; while the
        // backend is suspected: ? success, ! failure, L our own fault),
        // states after each (u up, d down; capital: reported as news)
        let table = [
            ("the first success decides", 2, 3, Down, "+", "U"),
            (
                "the first failure decides and is news",
                2,
                3,
                Down,
                "-",
                "D",
            ),
            ("up needs rise after a failure", 2, 3, Down, "-++", "DdU"),
            (
                "a failure starts the rise anew",
                2,
                3,
                Down,
                "-+-++",
                "DdddU",
            ),
            ("down needs fall", 2, 3, Down, "+---", "UuuD"),
            (
                "a success starts the fall anew",
                2,
                3,
                Down,
                "+--+---",
                "UuuuuuD",
            ),
            (
                "rise 1 and fall 1 follow each result",
                1,
                1,
                Down,
                "+-+-",
                "UDUD",
            ),
            ("taken over up stays up without news", 2, 3, Up, "+", "u"),
            ("taken over up needs fall", 2, 3, Up, "---", "uuD"),
            ("taken over up, fall 1", 2, 1, Up, "-", "D"),
            ("zero counts as one", 0, 0, Down, "+-+", "UDU"),
            (
                "our own fault does not count",
                2,
                3,
                Down,
                "+-l-l-",
                "UuuuuD",
            ),
            (
                "our own fault does not count for one taken over",
                2,
                3,
                Up,
                "lll",
                "uuu",
            ),
            (
                "our own fault counts where nothing is known",
                2,
                3,
                Down,
                "l++",
                "DdU",
            ),
            (
                "a failure that confirms a suspicion decides",
                2,
                3,
                Down,
                "+!++",
                "UDdU",
            ),
            (
                "a suspicion alone decides nothing",
                2,
                3,
                Down,
                "+???---",
                "UuuuuuD",
            ),
            ("taken over up and confirmed", 2, 3, Up, "!", "D"),
            ("our own fault confirms nothing", 2, 3, Down, "+LL!", "UuuD"),
            (
                "a suspicion does not hinder the rise",
                2,
                3,
                Down,
                "-??",
                "DdU",
            ),
            ("long runs stay", 3, 2, Down, "-----+++++--", "DddddddUuuuD"),
        ];

        for (what, rise, fall, initial, results, expected) in table {
            let mut judge = Judge::new(rise, fall, initial);
            let states: String = results
                .chars()
                .map(|result| {
                    let suspected = matches!(result, '?' | '!' | 'L');
                    let news = judge.observe(&outcome(result), suspected, SystemTime::UNIX_EPOCH);
                    if let Some(news) = news {
                        assert_eq!(news.health, judge.health(), "{what}");
                    }
                    match (judge.health(), news.is_some()) {
                        (Up, true) => 'U',
                        (Up, false) => 'u',
                        (Down, true) => 'D',
                        (Down, false) => 'd',
                    }
                })
                .collect();

            assert_eq!(states, expected, "{what}");
        }
    }

    #[test]
    fn since_is_the_time_of_the_last_change() {
        let mut judge = Judge::new(1, 2, Down);
        assert_eq!(judge.since(), None);

        judge.observe(&outcome('-'), false, at(1));
        judge.observe(&outcome('-'), false, at(2));
        assert_eq!(judge.since(), Some(at(1)));

        judge.observe(&outcome('+'), false, at(3));
        judge.observe(&outcome('-'), false, at(4));
        assert_eq!(judge.since(), Some(at(3)));

        judge.observe(&outcome('-'), false, at(5));
        assert_eq!(judge.since(), Some(at(5)));
    }

    #[test]
    fn the_reason_says_how_far_a_change_is() {
        let mut judge = Judge::new(2, 3, Down);
        assert_eq!(judge.reason(), "not probed yet");
        judge.observe(&outcome('+'), false, at(1));
        assert_eq!(judge.reason(), "it answered");

        judge.observe(&outcome('-'), false, at(2));
        assert_eq!(
            judge.reason(),
            "connection refused on port 443 (failure 1 of 3 until down)"
        );
        judge.observe(&outcome('-'), false, at(3));
        judge.observe(&outcome('-'), false, at(4));
        assert_eq!(judge.reason(), "connection refused on port 443");

        judge.observe(&outcome('+'), false, at(5));
        assert_eq!(judge.reason(), "it answered (success 1 of 2 until up)");
        assert_eq!(judge.latency(), Some(Duration::from_millis(7)));
    }

    #[test]
    fn a_confirmed_suspicion_is_part_of_the_reason() {
        let mut judge = Judge::new(2, 3, Up);

        judge.observe(&outcome('!'), true, at(1));
        assert_eq!(
            judge.reason(),
            "connection refused on port 443; packets of flows meet errors there too"
        );
        assert_eq!(judge.since(), Some(at(1)));

        judge.observe(&outcome('-'), false, at(2));
        assert_eq!(judge.reason(), "connection refused on port 443");
    }

    proptest! {
        /// Whatever comes in, a change needs exactly its run of equal results, or a confirmed
        /// suspicion.
        #[test]
        fn a_change_needs_its_whole_run(
            rise in 1_u32..6,
            fall in 1_u32..6,
            adopted in any::<bool>(),
            results in proptest::collection::vec(any::<(bool, bool)>(), 1..80),
        ) {
            let mut judge = Judge::new(rise, fall, if adopted { Up } else { Down });
            let mut seen: Vec<bool> = Vec::new();
            for (passed, suspected) in results {
                let before = judge.health();
                seen.push(passed);
                let result = if passed { '+' } else { '-' };
                let news = judge.observe(&outcome(result), suspected, at(0));
                let run = seen.iter().rev().take_while(|other| **other == passed).count() as u32;

                let first = seen.len() == 1 && !adopted;
                let expected = match (before, passed) {
                    (Down, true) if first || run >= rise => Up,
                    (Up, false) if suspected || run >= fall => Down,
                    (same, _) => same,
                };
                prop_assert_eq!(judge.health(), expected);
                prop_assert_eq!(news.is_some(), first || before != expected);
                prop_assert_eq!(judge.consecutive(), run);
                prop_assert!(judge.probed());
            }
        }
    }

    fn outcome(result: char) -> ProbeOutcome {
        match result {
            '+' | '?' => ProbeOutcome::Passed {
                latency: Duration::from_millis(7),
                detail: String::from("it answered"),
            },
            '-' | '!' => ProbeOutcome::Failed(ProbeFailure::Refused { port: 443 }),
            _ => ProbeOutcome::Failed(ProbeFailure::Local(String::from("no descriptors left"))),
        }
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }
}
