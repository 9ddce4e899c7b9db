//! When the next probe of a check is due. Pure: the clock comes in as an argument.

use std::{
    hash::{Hash, Hasher},
    time::Duration,
};

use tokio::time::Instant;

use super::CheckId;

/// The shortest time from one probe's start to the next one's when there is evidence that the
/// backend fails: a storm of evidence makes no more than four probes a second.
pub(super) const SUSPECT_SPACING: Duration = Duration::from_millis(250);

/// The grid of one check's probes.
///
/// The first probe comes at once. The others stand on a grid that begins a fraction of the interval
/// later, given by the check's name, so that the probes of many checks spread over the interval.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schedule {
    second: Instant,
    interval: Duration,
}

impl Schedule {
    /// Makes the grid of a check whose first probe starts at `first`.
    pub(super) fn new(id: &CheckId, first: Instant, interval: Duration) -> Self {
        let interval = interval.max(Duration::from_millis(1));
        Self {
            second: first + phase(id, interval),
            interval,
        }
    }

    /// Returns the first point of the grid after `now`. Points that passed while a probe was still
    /// running are left out: probes of one check never overlap and never bunch up.
    pub(super) fn next(&self, now: Instant) -> Instant {
        let Some(late) = now.checked_duration_since(self.second) else {
            return self.second;
        };
        let into = late.as_nanos() % self.interval.as_nanos();
        // The remainder of a division by the interval fits where the interval did.
        let into = Duration::from_nanos(u64::try_from(into).unwrap_or(u64::MAX));
        now + self.interval.saturating_sub(into)
    }

    /// Returns the earliest time for another probe after one that started at `began`.
    pub(super) fn soonest(&self, began: Instant) -> Instant {
        began + SUSPECT_SPACING.min(self.interval)
    }
}

/// Returns a fraction of `interval`, above zero and at most all of it, that is the same in every
/// process for the same check.
fn phase(id: &CheckId, interval: Duration) -> Duration {
    let mut hasher = Fnv(0xcbf2_9ce4_8422_2325);
    id.hash(&mut hasher);
    // The upper bits of the product are the well mixed ones.
    let fraction = (hasher.finish() >> 48) + 1;
    let nanos = interval.as_nanos() * u128::from(fraction) / (1 << 16);
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)).max(Duration::from_nanos(1))
}

/// FNV-1a with 64 bits and a final mix; unlike the standard library's hasher, the same in every
/// process and release.
struct Fnv(u64);

impl Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        let mixed = (self.0 ^ (self.0 >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed ^ (mixed >> 29)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const INTERVAL: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn the_checks_of_a_large_site_spread_over_the_interval() {
        let start = Instant::now();
        let mut thirds = [0; 3];
        for number in 0..300 {
            let second = Schedule::new(&id(number), start, INTERVAL).next(start);
            let offset = second - start;
            assert!(offset > Duration::ZERO && offset <= INTERVAL, "{offset:?}");
            thirds[((offset.as_secs_f64() / 10.0) as usize).min(2)] += 1;
        }

        assert!(
            thirds.iter().all(|count| (70..=130).contains(count)),
            "{thirds:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_check_has_the_same_phase_each_time() {
        let start = Instant::now();

        let once = Schedule::new(&id(7), start, INTERVAL).next(start);
        let again = Schedule::new(&id(7), start, INTERVAL).next(start);

        assert_eq!(once, again);
    }

    #[tokio::test(start_paused = true)]
    async fn points_missed_during_a_long_probe_are_left_out() {
        let start = Instant::now();
        let schedule = Schedule::new(&id(1), start, INTERVAL);
        let second = schedule.next(start);

        let after_long_probe = schedule.next(second + INTERVAL * 3 + Duration::from_secs(1));

        assert_eq!(after_long_probe, second + INTERVAL * 4);
    }

    #[tokio::test(start_paused = true)]
    async fn a_short_interval_is_never_lengthened_by_the_spacing() {
        let start = Instant::now();
        let short = Duration::from_millis(50);

        assert_eq!(
            Schedule::new(&id(1), start, short).soonest(start),
            start + short
        );
        assert_eq!(
            Schedule::new(&id(1), start, INTERVAL).soonest(start),
            start + SUSPECT_SPACING
        );
    }

    proptest! {
        /// The next probe is after now, within one interval, and on the grid.
        #[test]
        fn next_is_on_the_grid(
            number in any::<u32>(),
            interval_ms in 1_u64..4_000_000,
            later_ms in 0_u64..400_000_000,
        ) {
            let start = Instant::now();
            let interval = Duration::from_millis(interval_ms);
            let schedule = Schedule::new(&id(number), start, interval);
            let now = start + Duration::from_millis(later_ms);

            let next = schedule.next(now);

            prop_assert!(next > now && next <= now + interval);
            prop_assert_eq!((next - schedule.second).as_nanos() % interval.as_nanos(), 0);
        }
    }

    fn id(number: u32) -> CheckId {
        CheckId {
            pool: String::from("ras-gateways"),
            backend: format!("RAS_Server{number}"),
            service: None,
        }
    }
}
