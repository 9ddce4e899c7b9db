//! Random choices that can be made again: each test has its seed.

use std::{env, ops::Range, time::Duration};

/// The seed of a run that names none.
const SEED: u64 = 0x5eed_0f5e_ed0f_5eed;

/// A sequence of random numbers (SplitMix64).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Returns the sequence of `LB_SEED`, or one that is the same in every run without it, and
    /// says which: a test that fails shows it.
    ///
    /// # Panics
    ///
    /// If `LB_SEED` is no number.
    #[must_use]
    pub fn of_the_run() -> Self {
        let seed = env::var("LB_SEED").map_or(SEED, |text| {
            text.parse()
                .unwrap_or_else(|_| panic!("LB_SEED is no number: {text}"))
        });
        eprintln!("LB_SEED={seed} draws the same again");
        Self(seed)
    }

    /// Returns a sequence of its own, for another thread.
    #[must_use]
    pub fn split(&mut self) -> Self {
        Self(self.number())
    }

    /// Returns the next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number in `range`, which must not be empty.
    pub fn within(&mut self, range: Range<usize>) -> usize {
        assert!(!range.is_empty(), "{range:?} has no number");
        let width = (range.end - range.start) as u64;
        range.start + usize::try_from(self.number() % width).expect("it is less than a usize")
    }

    /// Returns `true` once in `times`, on average.
    pub fn one_in(&mut self, times: usize) -> bool {
        self.within(0..times) == 0
    }

    /// Returns one of `choices`.
    pub fn of<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.within(0..choices.len())]
    }

    /// Returns a time of at most `most`.
    pub fn time(&mut self, most: Duration) -> Duration {
        most.mul_f64(self.within(0..10_001) as f64 / 10_000.0)
    }

    /// Returns `count` bytes.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.number().to_be_bytes()[0]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_draws_the_same_again_and_stays_in_its_range() {
        let (mut first, mut second) = (Random(7), Random(7));
        for _ in 0..1000 {
            let drawn = first.within(3..9);
            assert!((3..9).contains(&drawn));
            assert_eq!(drawn, second.within(3..9));
        }
        assert_ne!(Random(7).bytes(16), Random(8).bytes(16));
    }
}
