//! Numbers that stand for names in the maps, and when one may stand for another.
//!
//! Flows, records and affinity entries hold numbers, not names. A number that was taken from one
//! name is given to another only when the sweeper has seen that nothing holds it any more.

use std::collections::BTreeMap;

/// Numbers below a limit, each for one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Numbers<K> {
    limit: u32,
    used: BTreeMap<K, u32>,
    resting: BTreeMap<u32, Resting<K>>,
}

/// A number that nobody has any more, but that something in the maps may still hold.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Resting<K> {
    /// Who had it; `None` where a former daemon may have used it.
    key: Option<K>,
    /// The first sweep that began after it was taken away.
    clean_pass: u64,
}

impl<K: Ord + Clone> Numbers<K> {
    /// Returns the numbers from 0 to `limit - 1`, all free.
    #[must_use]
    pub fn new(limit: u32) -> Self {
        Self {
            limit,
            used: BTreeMap::new(),
            resting: BTreeMap::new(),
        }
    }

    /// Returns the numbers as a former daemon left them: those in `used` belong to their keys, and
    /// each other one rests until a first sweep has found nothing that holds it.
    #[must_use]
    pub fn adopt(limit: u32, used: impl IntoIterator<Item = (K, u32)>) -> Self {
        let mut numbers = Self::new(limit);
        for (key, number) in used {
            if number < limit && !numbers.used.values().any(|&taken| taken == number) {
                numbers.used.entry(key).or_insert(number);
            }
        }
        let taken: std::collections::BTreeSet<u32> = numbers.used.values().copied().collect();
        numbers.resting = (0..limit)
            .filter(|number| !taken.contains(number))
            .map(|number| {
                (
                    number,
                    Resting {
                        key: None,
                        clean_pass: 1,
                    },
                )
            })
            .collect();
        numbers
    }

    /// Returns the number of `key`, if it has one.
    #[must_use]
    pub fn get(&self, key: &K) -> Option<u32> {
        self.used.get(key).copied()
    }

    /// Returns who has `number`.
    #[must_use]
    pub fn key_of(&self, number: u32) -> Option<&K> {
        self.used
            .iter()
            .find_map(|(key, &taken)| (taken == number).then_some(key))
    }

    /// Gives `key` a number: the one that it had a short time ago, or the lowest free one.
    ///
    /// Returns `None` while none is free; resting ones become free with the sweeps.
    pub fn assign(&mut self, key: &K) -> Option<u32> {
        if let Some(number) = self.get(key) {
            return Some(number);
        }
        let former = self
            .resting
            .iter()
            .find_map(|(&number, resting)| (resting.key.as_ref() == Some(key)).then_some(number));
        if let Some(number) = former {
            self.resting.remove(&number);
            self.used.insert(key.clone(), number);
            return Some(number);
        }
        let taken: std::collections::BTreeSet<u32> = self
            .used
            .values()
            .chain(self.resting.keys())
            .copied()
            .collect();
        let number = (0..self.limit).find(|number| !taken.contains(number))?;
        self.used.insert(key.clone(), number);
        Some(number)
    }

    /// Takes the numbers away from every key that `keep` refuses.
    ///
    /// `pass` is the last sweep that has been reported: the next one may have begun already, so
    /// the one after it is the first to count.
    pub fn retain(&mut self, pass: u64, keep: impl Fn(&K) -> bool) {
        let gone: Vec<K> = self.used.keys().filter(|key| !keep(key)).cloned().collect();
        for key in gone {
            if let Some(number) = self.used.remove(&key) {
                self.resting.insert(
                    number,
                    Resting {
                        key: Some(key),
                        clean_pass: pass + 2,
                    },
                );
            }
        }
    }

    /// Frees the resting numbers that `clean` approves, after the sweep `pass`.
    pub fn release(&mut self, pass: u64, clean: impl Fn(u32) -> bool) {
        self.resting
            .retain(|&number, resting| pass < resting.clean_pass || !clean(number));
    }

    /// Iterates over keys and numbers in the order of the keys.
    pub fn iter(&self) -> impl Iterator<Item = (&K, u32)> {
        self.used.iter().map(|(key, &number)| (key, number))
    }

    /// Iterates over resting numbers and who had them.
    pub fn resting(&self) -> impl Iterator<Item = (u32, Option<&K>)> {
        self.resting
            .iter()
            .map(|(&number, resting)| (number, resting.key.as_ref()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn number(numbers: &mut Numbers<&'static str>, key: &'static str) -> Option<u32> {
        numbers.assign(&key)
    }

    #[test]
    fn keys_get_the_lowest_free_number_and_keep_it() {
        let mut numbers = Numbers::new(3);

        assert_eq!(number(&mut numbers, "a"), Some(0));
        assert_eq!(number(&mut numbers, "b"), Some(1));
        assert_eq!(number(&mut numbers, "a"), Some(0));
        assert_eq!(numbers.key_of(1), Some(&"b"));
    }

    #[test]
    fn a_number_rests_until_a_sweep_that_began_later_finds_nothing() {
        let mut numbers = Numbers::new(1);
        number(&mut numbers, "a");
        numbers.retain(7, |_| false);

        assert_eq!(number(&mut numbers, "b"), None);
        numbers.release(8, |_| true);
        assert_eq!(number(&mut numbers, "b"), None, "sweep 8 had begun already");
        numbers.release(9, |_| false);
        assert_eq!(number(&mut numbers, "b"), None, "flows still hold it");
        numbers.release(10, |_| true);
        assert_eq!(number(&mut numbers, "b"), Some(0));
    }

    #[test]
    fn a_key_that_comes_back_has_its_number_back() {
        let mut numbers = Numbers::new(4);
        number(&mut numbers, "a");
        number(&mut numbers, "b");
        numbers.retain(1, |key| *key == "a");

        assert_eq!(number(&mut numbers, "c"), Some(2));
        assert_eq!(number(&mut numbers, "b"), Some(1));
    }

    #[test]
    fn numbers_that_a_former_daemon_may_have_used_wait_for_the_first_sweep() {
        let mut numbers = Numbers::adopt(3, [("a", 2)]);

        assert_eq!(number(&mut numbers, "a"), Some(2));
        assert_eq!(number(&mut numbers, "b"), None);
        numbers.release(1, |number| number != 0);
        assert_eq!(number(&mut numbers, "b"), Some(1));
        assert_eq!(number(&mut numbers, "c"), None);
    }

    #[test]
    fn an_adopted_number_belongs_to_one_key() {
        let numbers = Numbers::adopt(4, [("a", 1), ("b", 1), ("c", 9)]);

        assert_eq!(numbers.get(&"a"), Some(1));
        assert_eq!(numbers.get(&"b"), None);
        assert_eq!(numbers.get(&"c"), None);
    }

    proptest! {
        #[test]
        fn no_number_belongs_to_two_keys(
            steps in prop::collection::vec((0_u8..4, 0_u8..12), 0..80),
        ) {
            let mut numbers = Numbers::new(8);
            let mut pass = 0;
            for (what, key) in steps {
                match what {
                    0 | 1 => {
                        numbers.assign(&key);
                    }
                    2 => numbers.retain(pass, |kept| *kept != key),
                    _ => {
                        pass += 1;
                        numbers.release(pass, |number| number % 2 == u32::from(key) % 2);
                    }
                }
                let mut all: Vec<u32> = numbers.iter().map(|(_, number)| number)
                    .chain(numbers.resting().map(|(number, _)| number))
                    .collect();
                let count = all.len();
                all.sort_unstable();
                all.dedup();
                prop_assert_eq!(all.len(), count);
                prop_assert!(all.iter().all(|&number| number < 8));
            }
        }
    }
}
