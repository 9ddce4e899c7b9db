//! How full the tables are, in words: before new flows are refused, and when they are. Pure.
//!
//! A table is *high* from 80% on and *full* when nothing is left or the kernel program has just
//! refused something for want of it. What the log has said holds until the table is back below 70%,
//! so a table that stays near a mark is not logged again and again.

use std::{collections::BTreeMap, fmt, time::Duration};

use lb_common::{endpoint::EndpointKey, verdict::DropReason};
use tokio::time::Instant;

use crate::dataplane::CounterSnapshot;

/// From here on people are warned.
const HIGH_PERCENT: u64 = 80;
/// Below this the warning is over.
const LOW_PERCENT: u64 = 70;
/// A refusal is news for this long: refusals come in bursts.
const REFUSAL: Duration = Duration::from_secs(10);

/// How full a table is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fill {
    /// There is room.
    #[default]
    Ok,
    /// It will be full soon.
    High,
    /// Nothing new has a place.
    Full,
}

/// One table that is looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gauge {
    /// Entries that are taken.
    pub used: u32,
    /// Entries that there are.
    pub max: u32,
    /// Something was refused a moment ago.
    refuses: bool,
    /// What the log says of it.
    told: Fill,
}

impl Gauge {
    /// Takes in how many entries are taken, and whether something was refused a moment ago.
    pub fn update(&mut self, used: u32, max: u32, refuses: bool) {
        self.used = used;
        self.max = max;
        self.refuses = refuses;
        self.told = if self.is_full() {
            Fill::Full
        } else if self.is_from(HIGH_PERCENT) {
            self.told.max(Fill::High)
        } else if self.is_from(LOW_PERCENT) {
            self.told.min(Fill::High)
        } else {
            Fill::Ok
        };
    }

    /// Returns how full the table is.
    #[must_use]
    pub fn fill(&self) -> Fill {
        if self.is_full() {
            Fill::Full
        } else {
            self.told.min(Fill::High)
        }
    }

    /// Returns what the log says of the table.
    #[must_use]
    pub fn told(&self) -> Fill {
        self.told
    }

    fn is_full(&self) -> bool {
        self.max > 0 && (self.refuses || self.used >= self.max)
    }

    fn is_from(&self, percent: u64) -> bool {
        self.max > 0 && u64::from(self.used) * 100 >= u64::from(self.max) * percent
    }
}

impl fmt::Display for Gauge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = percent(self.used, self.max);
        write!(f, "{} of {} ({percent}%)", self.used, self.max)
    }
}

/// Returns the share of `max` that is used, in whole per cent.
#[must_use]
pub fn percent(used: u32, max: u32) -> u64 {
    (u64::from(used) * 100)
        .checked_div(u64::from(max))
        .unwrap_or(0)
}

/// The tables that can be full.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fills {
    /// Flows, of `node.max_flows`.
    pub flows: Gauge,
    /// Clients remembered, of `node.max_affinity`.
    pub affinity: Gauge,
    /// SNAT ports of each endpoint, those that rest among them: neither can be given away.
    pub ports: BTreeMap<EndpointKey, Gauge>,
    /// What the kernel program has refused a moment ago.
    pub refusals: Refusals,
}

/// For want of what the kernel program has refused something a moment ago.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refusals {
    /// A new flow, for want of room in the flow table.
    pub flows: bool,
    /// A new flow, for want of an SNAT port.
    pub ports: bool,
    /// To remember a client.
    pub affinity: bool,
}

/// Finds refusals in the counters.
#[derive(Debug, Default)]
pub struct RefusalWatch {
    flows: Refused,
    ports: Refused,
    affinity: Refused,
}

impl RefusalWatch {
    /// Takes in the counters of this moment and returns what has been refused a moment ago. What
    /// was counted before the first reading is history.
    pub fn read(&mut self, now: Instant, counters: &CounterSnapshot) -> Refusals {
        let dropped = |reason: DropReason| {
            counters
                .drops
                .iter()
                .find(|(of, _)| *of == reason)
                .map_or(0, |(_, packets)| *packets)
        };
        let unremembered = counters.services.iter().map(|of| of.affinity_full).sum();
        Refusals {
            flows: self.flows.read(now, dropped(DropReason::FlowTableFull)),
            ports: self
                .ports
                .read(now, dropped(DropReason::SnatPortsExhausted)),
            affinity: self.affinity.read(now, unremembered),
        }
    }
}

/// One counter of refusals.
#[derive(Debug, Default)]
struct Refused {
    counted: Option<u64>,
    last: Option<Instant>,
}

impl Refused {
    fn read(&mut self, now: Instant, counted: u64) -> bool {
        // A sum that shrinks has lost a service whose number stands for another one.
        if self.counted.is_some_and(|former| counted > former) {
            self.last = Some(now);
        }
        self.counted = Some(counted);
        self.last
            .is_some_and(|last| now.duration_since(last) < REFUSAL)
    }
}

#[cfg(test)]
mod tests {
    use lb_common::stats::Counters;

    use super::*;

    #[test]
    fn a_table_is_told_of_at_80_per_cent_when_full_and_below_70_again() {
        // what, used of 1000, refused, how full, what the log says
        let table = [
            ("empty", 0, false, Fill::Ok, Fill::Ok),
            ("just below the mark", 799, false, Fill::Ok, Fill::Ok),
            ("at the mark", 800, false, Fill::High, Fill::High),
            ("below it again", 799, false, Fill::High, Fill::High),
            ("down to the lower mark", 700, false, Fill::High, Fill::High),
            ("below the lower mark", 699, false, Fill::Ok, Fill::Ok),
            (
                "between the marks from below",
                750,
                false,
                Fill::Ok,
                Fill::Ok,
            ),
            ("full at once", 1000, false, Fill::Full, Fill::Full),
            ("one left", 999, false, Fill::High, Fill::Full),
            ("full again is no news", 1000, false, Fill::Full, Fill::Full),
            ("below the upper mark", 790, false, Fill::High, Fill::High),
            (
                "refused before all is gone",
                900,
                true,
                Fill::Full,
                Fill::Full,
            ),
            ("no more refusals", 900, false, Fill::High, Fill::Full),
            ("empty again", 10, false, Fill::Ok, Fill::Ok),
            (
                "refused while it looks empty",
                10,
                true,
                Fill::Full,
                Fill::Full,
            ),
        ];
        let mut gauge = Gauge::default();

        for (what, used, refuses, fill, told) in table {
            gauge.update(used, 1000, refuses);
            assert_eq!((gauge.fill(), gauge.told()), (fill, told), "{what}");
        }
    }

    #[test]
    fn small_and_huge_tables_have_the_same_marks() {
        let fill = |used, max| {
            let mut gauge = Gauge::default();
            gauge.update(used, max, false);
            gauge.fill()
        };

        assert_eq!((fill(3, 4), fill(4, 4)), (Fill::Ok, Fill::Full));
        assert_eq!((fill(51, 64), fill(52, 64)), (Fill::Ok, Fill::High));
        assert_eq!(fill(u32::MAX - 1, u32::MAX), Fill::High);
        assert_eq!(fill(0, 0), Fill::Ok, "a table that nothing is known of");
        assert_eq!((percent(230_000, 262_144), percent(1, 0)), (87, 0));
    }

    #[test]
    fn a_refusal_is_news_for_ten_seconds() {
        let start = Instant::now();
        let second = |n| start + Duration::from_secs(n);
        let mut watch = RefusalWatch::default();
        let none = Refusals::default();
        let ports = Refusals {
            ports: true,
            ..none
        };

        assert_eq!(watch.read(second(0), &counted(7, 0)), none, "history");
        assert_eq!(watch.read(second(1), &counted(7, 0)), none);
        assert_eq!(watch.read(second(2), &counted(8, 0)), ports);
        assert_eq!(watch.read(second(11), &counted(8, 0)), ports);
        assert_eq!(watch.read(second(12), &counted(8, 0)), none);
    }

    #[test]
    fn clients_that_are_not_remembered_are_refusals_of_every_service() {
        let start = Instant::now();
        let mut watch = RefusalWatch::default();
        watch.read(start, &counted(0, 3));

        let refusals = watch.read(start + Duration::from_secs(1), &counted(0, 4));
        assert!(refusals.affinity && !refusals.flows && !refusals.ports);
        let later = start + Duration::from_secs(60);
        let removed = watch.read(later, &counted(0, 1));
        assert!(!removed.affinity, "a service that is gone refuses nothing");
    }

    fn counted(exhausted: u64, affinity_full: u64) -> CounterSnapshot {
        CounterSnapshot {
            services: vec![
                Counters::default(),
                Counters {
                    affinity_full,
                    ..Counters::default()
                },
            ],
            backends: Vec::new(),
            drops: vec![
                (DropReason::FlowTableFull, 5),
                (DropReason::SnatPortsExhausted, exhausted),
            ],
        }
    }
}
