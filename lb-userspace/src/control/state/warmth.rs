//! `slow_start`: a backend that comes into service gets its share of new clients by and by.

use std::time::Duration;

use tokio::time::Instant;

use super::DesiredState;
use crate::{
    config::model::{AdminState, Backend, Pool},
    control::event::{BackendName, Health},
};

/// Percent of its weight that a backend begins with.
const FIRST_PERCENT: u8 = 10;
/// Least time between two steps: each makes the tables of pools anew.
const STEP: Duration = Duration::from_secs(2);

/// How far a backend of a pool with `slow_start` has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Warmth {
    /// A former daemon has left it, and nobody has looked yet: what serves then goes on as it was.
    #[default]
    Unknown,
    /// It is out of service, or has come into service a moment ago.
    Cold,
    /// It has been in service since then, and has this percentage of its weight.
    Warming {
        /// When it came into service.
        since: Instant,
        /// Percent of its weight.
        percent: u8,
    },
    /// It has its whole weight.
    Warm,
}

impl Warmth {
    /// Returns the percentage of its weight that a backend has which serves.
    #[must_use]
    pub fn percent(self) -> u8 {
        match self {
            Self::Unknown | Self::Warm => 100,
            Self::Cold => FIRST_PERCENT,
            Self::Warming { percent, .. } => percent,
        }
    }

    /// Returns how far it is at `now`.
    fn at(self, now: Instant, serves: bool, slow_start: Duration) -> Self {
        if slow_start.is_zero() {
            return Self::Warm;
        }
        match self {
            _ if !serves => Self::Cold,
            Self::Unknown | Self::Warm => Self::Warm,
            Self::Cold => Self::Warming {
                since: now,
                percent: FIRST_PERCENT,
            },
            Self::Warming { since, .. } => {
                let gone = now.saturating_duration_since(since);
                let part = gone.as_millis() * u128::from(100 - FIRST_PERCENT);
                let more = part / slow_start.as_millis().max(1);
                match u8::try_from(u128::from(FIRST_PERCENT) + more) {
                    Ok(percent) if percent < 100 => Self::Warming { since, percent },
                    _ => Self::Warm,
                }
            }
        }
    }
}

impl DesiredState {
    /// Returns the weight that new clients are spread by: the whole one, or a part of it while
    /// the backend starts slowly. It is never zero unless the whole one is.
    #[must_use]
    pub fn effective_weight(&self, pool: &Pool, backend: &Backend) -> u16 {
        let weight = self.weight(pool, backend);
        if pool.slow_start.is_zero() {
            return weight;
        }
        let percent = self
            .backend(pool, backend)
            .map_or(100, |known| known.warmth.percent());
        let part = u32::from(weight) * u32::from(percent) / 100;
        u16::try_from(part).unwrap_or(weight).max(weight.min(1))
    }

    /// Returns whether [`Self::warm_up`] would change anything.
    #[must_use]
    pub fn is_to_warm_up(&self, now: Instant) -> bool {
        self.warmths(now).next().is_some()
    }

    /// Takes in that time passes: backends that start slowly get more of their weight, all of them
    /// at once and not too often.
    pub fn warm_up(&mut self, now: Instant) {
        let warmths: Vec<_> = self.warmths(now).collect();
        for (name, warmth) in warmths {
            let Some(known) = self.backends.get_mut(&name) else {
                continue;
            };
            if known.warmth.percent() != warmth.percent() {
                self.warmed = Some(now);
            }
            known.warmth = warmth;
        }
    }

    /// Iterates over the backends that are further at `now` than they were.
    fn warmths(&self, now: Instant) -> impl Iterator<Item = (BackendName, Warmth)> {
        let too_early = self
            .warmed
            .is_some_and(|last| now.saturating_duration_since(last) < STEP);
        self.pool_backends().filter_map(move |(pool, backend)| {
            let name = BackendName::new(pool.name.clone(), backend.name.clone());
            let known = self.backends.get(&name)?;
            let serves = known.check.health == Health::Up
                && self.admin_state(pool, backend) != AdminState::Halt;
            let warmth = known.warmth.at(now, serves, pool.slow_start);
            // Who leaves, or comes, changes no weight that clients are spread by.
            let is_step = serves && warmth.percent() != known.warmth.percent();
            (warmth != known.warmth && !(is_step && too_early)).then_some((name, warmth))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::control::{
        render::{Tables, render},
        state::Author,
        testing::{self, now as wall, probed},
    };

    const SLOW: Duration = Duration::from_secs(60);

    fn site() -> DesiredState {
        let mut config = testing::ras();
        Arc::make_mut(&mut config.pools[0]).slow_start = SLOW;
        let mut state = testing::running(config);
        state.warm_up(Instant::now());
        // They came up before: that start is over.
        for known in state.backends.values_mut() {
            known.warmth = Warmth::Warm;
        }
        state
    }

    fn weights(state: &DesiredState) -> [u16; 2] {
        let pool = Arc::clone(&state.config.pools[0]);
        [0, 1].map(|index| state.effective_weight(&pool, &pool.backends[index]))
    }

    /// Lets time pass as control does: second by second.
    fn pass(state: &mut DesiredState, from: Instant, seconds: u64) -> Instant {
        for second in 1..=seconds {
            let now = from + Duration::from_secs(second);
            if state.is_to_warm_up(now) {
                state.warm_up(now);
            }
        }
        from + Duration::from_secs(seconds)
    }

    #[test]
    fn a_backend_that_comes_up_gets_its_weight_by_and_by() {
        let mut state = site();
        let begun = Instant::now();
        probed(&mut state, "ras/gw1", Health::Down);
        let begun = pass(&mut state, begun, 3);
        probed(&mut state, "ras/gw1", Health::Up);

        assert_eq!(weights(&state), [10, 100], "from the first moment on");
        let up = pass(&mut state, begun, 1);
        assert_eq!(weights(&state), [10, 100]);
        let half = pass(&mut state, up, 30);
        assert!((53..=55).contains(&weights(&state)[0]), "{state:?}");
        pass(&mut state, half, 32);
        assert_eq!(weights(&state), [100, 100]);
        assert!(!state.is_to_warm_up(half + 10 * SLOW));
    }

    #[test]
    fn tables_are_made_at_most_every_two_seconds_for_whatever_starts() {
        let mut state = site();
        let mut now = Instant::now();
        probed(&mut state, "ras/gw1", Health::Down);
        now = pass(&mut state, now, 1);
        probed(&mut state, "ras/gw1", Health::Up);
        probed(&mut state, "ras/gw2", Health::Down);
        now = pass(&mut state, now, 1);
        probed(&mut state, "ras/gw2", Health::Up);

        let mut steps = Vec::new();
        let mut former = weights(&state);
        for second in 0..70 {
            now = pass(&mut state, now, 1);
            if weights(&state) != former {
                former = weights(&state);
                steps.push(second);
            }
        }

        assert!(
            steps.windows(2).all(|two| two[1] - two[0] >= 2),
            "{steps:?}"
        );
        assert_eq!(former, [100, 100]);
    }

    #[test]
    fn halted_backends_start_slowly_again_and_drained_ones_need_not() {
        for (from, weight) in [(AdminState::Halt, 10), (AdminState::Drain, 100)] {
            let mut state = site();
            let author = || Author {
                by: "root".to_owned(),
                at: wall(),
                reason: None,
            };
            state.set_admin_state(&testing::name("ras/gw1"), from, author());
            let now = pass(&mut state, Instant::now(), 3);
            state.set_admin_state(&testing::name("ras/gw1"), AdminState::Active, author());
            pass(&mut state, now, 1);

            assert_eq!(weights(&state), [weight, 100], "{from}");
        }
    }

    #[test]
    fn the_table_follows_and_a_small_weight_does_not_become_none() {
        let mut state = site();
        let count = |state: &DesiredState| {
            let image = render(state, &mut Tables::default());
            image.pools[&0].table.iter().filter(|id| **id == 0).count()
        };
        let whole = count(&state);
        if let Some(known) = state.backends.get_mut(&testing::name("ras/gw1")) {
            known.warmth = Warmth::Cold;
        }
        let part = count(&state);
        assert!(part * 4 < whole && part > 0, "{part} of {whole}");

        let author = Author {
            by: "root".to_owned(),
            at: wall(),
            reason: None,
        };
        state.set_weight(&testing::name("ras/gw1"), Some(3), author.clone());
        assert_eq!(weights(&state), [1, 100]);
        state.set_weight(&testing::name("ras/gw1"), Some(0), author);
        assert_eq!(weights(&state), [0, 100]);
    }

    #[test]
    fn what_a_former_daemon_left_in_service_keeps_its_weight() {
        let mut config = testing::ras();
        Arc::make_mut(&mut config.pools[0]).slow_start = SLOW;
        let state = testing::running(config.clone());
        let image = testing::carried_out(&state, &testing::new_maps(&config));
        let mut state = testing::restart(config, &image);

        pass(&mut state, Instant::now(), 3);

        assert_eq!(weights(&state), [100, 100]);
    }

    #[test]
    fn a_pool_that_is_to_start_slowly_from_now_on_does_not_start_anew() {
        let mut state = testing::running(testing::ras());
        let now = pass(&mut state, Instant::now(), 1);
        let mut slow = testing::ras();
        Arc::make_mut(&mut slow.pools[0]).slow_start = SLOW;

        state.reload(Arc::new(slow), wall()).expect("it may");
        assert_eq!(weights(&state), [100, 100]);
        pass(&mut state, now, 5);

        assert_eq!(weights(&state), [100, 100]);
    }
}
