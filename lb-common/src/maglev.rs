//! Weighted Maglev tables (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load
//! Balancer", NSDI 2016, section 3.4): even shares, and few clients moved when backends change.

use crate::{limits::MAGLEV_SLOTS, pool::MAGLEV_EMPTY};

/// One backend that takes a share of the table.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Candidate {
    /// What its preferences are drawn from: [`crate::hash::bytes`] of its name, so that nodes
    /// agree whatever numbers they use.
    pub seed: u64,
    /// Number written into the table.
    pub backend: u32,
    /// Share relative to the others; zero: none.
    pub weight: u16,
}

/// Returns the table: [`MAGLEV_SLOTS`] backend numbers.
///
/// It depends on the set of candidates alone, not on their order. Without a candidate of positive
/// weight every slot is [`MAGLEV_EMPTY`].
#[must_use]
pub fn table(candidates: &[Candidate]) -> Vec<u32> {
    let mut table = vec![MAGLEV_EMPTY; MAGLEV_SLOTS as usize];
    let mut turns: Vec<Turn> = candidates
        .iter()
        .filter(|c| c.weight > 0)
        .map(Turn::new)
        .collect();
    turns.sort_unstable_by_key(|turn| (turn.seed, turn.backend));
    let Some(heaviest) = turns.iter().map(|turn| turn.weight).max() else {
        return table;
    };
    let mut left = table.len();
    // The heaviest takes a slot in each round, the others in proportion.
    loop {
        for turn in &mut turns {
            turn.credit += turn.weight;
            while turn.credit >= heaviest {
                turn.credit -= heaviest;
                turn.take(&mut table);
                left -= 1;
                if left == 0 {
                    return table;
                }
            }
        }
    }
}

/// A candidate while the table is filled.
struct Turn {
    seed: u64,
    backend: u32,
    weight: u32,
    credit: u32,
    /// The next slot of its preference list.
    next: u64,
    /// Step of its preference list: 1 to `MAGLEV_SLOTS - 1`, so that it visits every slot of the
    /// prime number of them.
    skip: u64,
}

impl Turn {
    fn new(candidate: &Candidate) -> Self {
        let slots = u64::from(MAGLEV_SLOTS);
        Self {
            seed: candidate.seed,
            backend: candidate.backend,
            weight: u32::from(candidate.weight),
            credit: 0,
            next: (candidate.seed >> 32) % slots,
            skip: (candidate.seed & 0xffff_ffff) % (slots - 1) + 1,
        }
    }

    /// Takes the most preferred slot that is free. One must be.
    fn take(&mut self, table: &mut [u32]) {
        while table[self.next as usize] != MAGLEV_EMPTY {
            self.step();
        }
        table[self.next as usize] = self.backend;
        self.step();
    }

    fn step(&mut self) {
        self.next = (self.next + self.skip) % u64::from(MAGLEV_SLOTS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::MAX_POOL_MEMBERS;
    use proptest::prelude::*;

    fn candidates(weights: &[u16]) -> Vec<Candidate> {
        weights
            .iter()
            .enumerate()
            .map(|(i, &weight)| Candidate {
                seed: crate::hash::bytes(format!("gw{i}").as_bytes()),
                backend: i as u32,
                weight,
            })
            .collect()
    }

    fn slots_of(table: &[u32], backend: u32) -> usize {
        table.iter().filter(|&&b| b == backend).count()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn each_share_is_within_one_percent_of_its_weight(
            weights in prop::collection::vec(1_u16..=1000, 1..=MAX_POOL_MEMBERS),
        ) {
            let table = table(&candidates(&weights));

            let total: u64 = weights.iter().map(|&w| u64::from(w)).sum();
            for (i, &weight) in weights.iter().enumerate() {
                let share = slots_of(&table, i as u32) as f64 / f64::from(MAGLEV_SLOTS);
                let expected = f64::from(weight) / total as f64;
                prop_assert!((share - expected).abs() < 0.01, "{share} for {expected}");
            }
        }

        #[test]
        fn equal_weights_have_shares_equal_within_one_percent(
            count in 1_usize..=MAX_POOL_MEMBERS, weight in 1_u16..,
        ) {
            let table = table(&candidates(&vec![weight; count]));

            let expected = f64::from(MAGLEV_SLOTS) / count as f64;
            for backend in 0..count as u32 {
                let slots = slots_of(&table, backend) as f64;
                prop_assert!((slots - expected).abs() < 0.01 * expected, "{slots} of {expected}");
            }
        }

        #[test]
        fn losing_one_backend_moves_few_clients_of_the_others(
            count in 2_usize..=MAX_POOL_MEMBERS, lost: prop::sample::Index,
        ) {
            let all = candidates(&vec![100; count]);
            let lost = lost.index(count);
            let before = table(&all);
            let mut fewer = all.clone();
            fewer.remove(lost);
            let after = table(&fewer);

            let kept = before.iter().filter(|&&b| b != lost as u32).count();
            let moved = before.iter().zip(&after)
                .filter(|&(&b, &a)| b != lost as u32 && a != b)
                .count();
            prop_assert!((moved as f64) < 0.06 * kept as f64, "{moved} of {kept} moved");
        }

        #[test]
        fn the_order_of_backends_does_not_matter(
            weights in prop::collection::vec(0_u16..=200, 1..=MAX_POOL_MEMBERS),
        ) {
            let mut shuffled = candidates(&weights);
            let table_before = table(&shuffled);
            shuffled.reverse();
            prop_assert_eq!(table(&shuffled), table_before);
        }
    }

    #[test]
    fn without_a_candidate_every_slot_is_empty() {
        assert!(table(&[]).iter().all(|&slot| slot == MAGLEV_EMPTY));
        assert!(
            table(&candidates(&[0, 0]))
                .iter()
                .all(|&slot| slot == MAGLEV_EMPTY)
        );
    }

    #[test]
    fn a_backend_of_weight_zero_has_no_slot() {
        assert_eq!(slots_of(&table(&candidates(&[100, 0, 100])), 1), 0);
    }

    #[test]
    fn extreme_weights_end_and_fill_the_table() {
        let table = table(&candidates(&[u16::MAX, 1]));
        assert!(!table.contains(&MAGLEV_EMPTY));
    }
}
