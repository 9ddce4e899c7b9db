//! What readers see: one moment of everything, never changed.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, SystemTime},
};

use lb_common::stats::Counters;
use tokio::time::Instant;

use super::state::DesiredState;
use crate::dataplane::{Attachment, CounterSnapshot, image::Image};

/// One moment of the daemon.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// When the daemon started.
    pub started: SystemTime,
    /// Configuration, health, admin states, next hops, numbers, and what the last sweep found.
    pub state: Arc<DesiredState>,
    /// What the maps hold.
    pub image: Arc<Image>,
    /// How the program is attached.
    pub attachments: Arc<[Attachment]>,
    /// Counters and rates.
    pub traffic: Arc<Traffic>,
}

impl Snapshot {
    /// Returns what keeps the daemon from being ready, for people: an interface without the
    /// program, a check that has not run yet, a name that is not in the maps yet.
    #[must_use]
    pub fn not_ready(&self) -> Vec<String> {
        let config = &self.state.config;
        let detached = config.node.interfaces.iter().filter(|name| {
            let index = self.state.links.get(*name).map(|link| link.index);
            !self
                .attachments
                .iter()
                .any(|held| held.interface == **name && Some(held.index) == index)
        });
        let detached = detached.map(|name| format!("the program is not attached to {name}"));
        let unprobed = self.state.backends.iter().flat_map(|(name, backend)| {
            let own = (!backend.check.probed).then(|| format!("{name} has not been probed yet"));
            let of_services = backend
                .service_checks
                .iter()
                .filter(|(_, check)| !check.probed)
                .map(move |(service, _)| format!("{name} has not been probed yet for {service}"));
            own.into_iter().chain(of_services)
        });
        let waiting = self.state.waiting().into_iter();
        let waiting = waiting.map(|name| format!("{name} is not in the data path yet"));
        detached.chain(unprobed).chain(waiting).collect()
    }
}

/// Counters, and how fast they grow.
#[derive(Clone, Debug, Default)]
pub struct Traffic {
    /// Counters at this moment.
    pub counters: CounterSnapshot,
    /// Growth of the services' counters, by number.
    pub service_rates: Vec<Rates>,
    /// Growth of the backends' counters, by number.
    pub backend_rates: Vec<Rates>,
}

/// Growth in a second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rates {
    /// Packets from clients.
    pub packets_in: f64,
    /// Bytes from clients.
    pub bytes_in: f64,
    /// Packets to clients.
    pub packets_out: f64,
    /// Bytes to clients.
    pub bytes_out: f64,
    /// ICMP errors in which a backend itself says that nothing listens on its port.
    pub unreachable: f64,
}

/// The counters of the last seconds.
#[derive(Debug, Default)]
pub struct History(VecDeque<(Instant, CounterSnapshot)>);

/// Time over which rates are taken.
const SPAN: Duration = Duration::from_secs(3);

impl History {
    /// Takes in the counters of this moment and returns them with their growth.
    pub fn add(&mut self, now: Instant, counters: CounterSnapshot) -> Traffic {
        // The oldest that is kept is the youngest that is at least `SPAN` old.
        while self
            .0
            .get(1)
            .is_some_and(|(at, _)| now.duration_since(*at) >= SPAN)
        {
            self.0.pop_front();
        }
        let traffic = match self.0.front() {
            Some((at, former)) => {
                let seconds = now.duration_since(*at).as_secs_f64();
                Traffic {
                    service_rates: rates(&former.services, &counters.services, seconds),
                    backend_rates: rates(&former.backends, &counters.backends, seconds),
                    counters: counters.clone(),
                }
            }
            None => Traffic {
                counters: counters.clone(),
                ..Traffic::default()
            },
        };
        self.0.push_back((now, counters));
        traffic
    }
}

fn rates(former: &[Counters], now: &[Counters], seconds: f64) -> Vec<Rates> {
    if seconds <= 0.0 {
        return Vec::new();
    }
    // A counter that is smaller than before began again with another name.
    let rate = |former: u64, now: u64| now.saturating_sub(former) as f64 / seconds;
    former
        .iter()
        .zip(now)
        .map(|(former, now)| Rates {
            packets_in: rate(former.packets_in, now.packets_in),
            bytes_in: rate(former.bytes_in, now.bytes_in),
            packets_out: rate(former.packets_out, now.packets_out),
            bytes_out: rate(former.bytes_out, now.bytes_out),
            unreachable: rate(former.unreachable, now.unreachable),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(packets: u64) -> CounterSnapshot {
        CounterSnapshot {
            services: vec![Counters {
                packets_in: packets,
                ..Counters::default()
            }],
            ..CounterSnapshot::default()
        }
    }

    #[test]
    fn rates_are_taken_over_the_last_seconds() {
        let start = Instant::now();
        let second = |n: u64| start + Duration::from_secs(n);
        let mut history = History::default();

        assert!(history.add(second(0), counted(0)).service_rates.is_empty());
        let rate = |traffic: Traffic| traffic.service_rates[0].packets_in;
        assert_eq!(rate(history.add(second(1), counted(100))), 100.0);
        assert_eq!(rate(history.add(second(2), counted(100))), 50.0);
        assert_eq!(rate(history.add(second(3), counted(400))), 400.0 / 3.0);
        assert_eq!(rate(history.add(second(4), counted(400))), 100.0);
        assert_eq!(rate(history.add(second(5), counted(400))), 100.0);
        assert_eq!(rate(history.add(second(6), counted(400))), 0.0);
    }

    #[test]
    fn a_counter_that_began_again_does_not_run_backwards() {
        let start = Instant::now();
        let mut history = History::default();
        history.add(start, counted(1000));

        let traffic = history.add(start + Duration::from_secs(1), counted(3));

        assert_eq!(traffic.service_rates[0].packets_in, 0.0);
    }

    #[test]
    fn two_readings_at_one_moment_have_no_rate() {
        let now = Instant::now();
        let mut history = History::default();
        history.add(now, counted(1));

        assert!(history.add(now, counted(2)).service_rates.is_empty());
    }
}
