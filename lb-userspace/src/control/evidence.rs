//! Passive evidence: backends that tell clients' packets themselves that nothing listens. Pure.
//!
//! The kernel program counts, control reads once a second, the probes come forward. Evidence alone
//! takes no backend out: whoever can send as one could take it out otherwise.

use std::collections::BTreeMap;

use lb_common::stats::Counters;

use super::event::BackendName;

/// For each backend that there has been evidence against: in how many readings it had grown. A
/// reader that missed some still sees a number that it does not know.
pub type Evidence = BTreeMap<BackendName, u64>;

/// Finds evidence in the counters.
#[derive(Debug, Default)]
pub struct EvidenceWatch {
    /// The former reading, by backend number; `None`: there was none.
    former: Option<Vec<u64>>,
    evidence: Evidence,
}

impl EvidenceWatch {
    /// Takes in the counters of the backends by their numbers, and whose numbers they are. Returns
    /// the evidence so far if there is more of it. What was counted before the first reading is
    /// history.
    pub fn read<'a>(
        &mut self,
        counters: &[Counters],
        names: impl Iterator<Item = (&'a BackendName, u32)>,
    ) -> Option<&Evidence> {
        let now: Vec<u64> = counters.iter().map(|of| of.unreachable).collect();
        let former = self.former.replace(now)?;
        let now = self.former.as_deref().unwrap_or_default();
        let at = |counted: &[u64], number: u32| counted.get(number as usize).copied().unwrap_or(0);
        let mut grown = false;
        for (name, number) in names {
            let (before, now) = (at(&former, number), at(now, number));
            // A smaller one began again at zero, with another name.
            if now > if now < before { 0 } else { before } {
                *self.evidence.entry(name.clone()).or_default() += 1;
                grown = true;
            }
        }
        grown.then_some(&self.evidence)
    }

    /// Forgets backends that are gone.
    pub fn retain(&mut self, keep: impl Fn(&BackendName) -> bool) {
        self.evidence.retain(|name, _| keep(name));
    }
}

/// Returns the backends that `now` has more evidence against than `before`.
pub fn news<'a>(before: &Evidence, now: &'a Evidence) -> impl Iterator<Item = &'a BackendName> {
    now.iter()
        .filter(|(name, count)| before.get(*name) != Some(*count))
        .map(|(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::testing::name;

    /// Reads two backends, `ras/gw1` with number 0 and `ras/gw2` with number 1.
    fn read(watch: &mut EvidenceWatch, gw1: u64, gw2: u64) -> Option<Evidence> {
        let counters = [gw1, gw2].map(|unreachable| Counters {
            unreachable,
            ..Counters::default()
        });
        let names = [name("ras/gw1"), name("ras/gw2")];
        let named = names.iter().zip(0..);
        watch.read(&counters, named).cloned()
    }

    #[test]
    fn only_growth_is_evidence_and_only_against_whom_it_names() {
        let mut watch = EvidenceWatch::default();

        assert_eq!(read(&mut watch, 7, 0), None, "history");
        assert_eq!(read(&mut watch, 7, 0), None);
        let first = read(&mut watch, 7, 1).expect("evidence");
        assert_eq!(first, Evidence::from([(name("ras/gw2"), 1)]));
        assert_eq!(read(&mut watch, 7, 1), None);
        let second = read(&mut watch, 900, 2).expect("evidence");
        assert_eq!(
            second,
            Evidence::from([(name("ras/gw1"), 1), (name("ras/gw2"), 2)]),
            "once for each reading, however many packets"
        );
    }

    #[test]
    fn a_counter_that_began_again_is_read_from_zero() {
        let mut watch = EvidenceWatch::default();
        read(&mut watch, 100, 100);

        let evidence = read(&mut watch, 3, 0).expect("evidence");

        assert_eq!(evidence, Evidence::from([(name("ras/gw1"), 1)]));
    }

    #[test]
    fn a_reader_that_missed_readings_misses_no_backend() {
        let mut watch = EvidenceWatch::default();
        read(&mut watch, 0, 0);
        let seen = read(&mut watch, 1, 0).expect("evidence");
        read(&mut watch, 2, 0);
        let now = read(&mut watch, 2, 1).expect("evidence");

        let told: Vec<_> = news(&seen, &now).collect();

        assert_eq!(told, [&name("ras/gw1"), &name("ras/gw2")]);
        assert_eq!(news(&now, &now).count(), 0);
    }

    #[test]
    fn a_number_without_a_name_and_a_name_without_a_counter_are_passed_over() {
        let mut watch = EvidenceWatch::default();
        let grown = [Counters {
            unreachable: 5,
            ..Counters::default()
        }];
        let gone = name("ras/gw9");
        watch.read(&[Counters::default()], std::iter::empty());

        assert_eq!(watch.read(&grown, [(&gone, 9)].into_iter()), None);
    }
}
