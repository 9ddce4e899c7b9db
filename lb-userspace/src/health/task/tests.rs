use std::sync::Mutex;

use super::{
    super::{Health, ProbeFailure},
    *,
};

const INTERVAL: Duration = Duration::from_secs(30);

/// A check whose probes take no time and end as the test says; the clock is paused, so waiting is
/// instant and exact.
struct Bench {
    events: mpsc::Receiver<HealthEvent>,
    nudge: Arc<Notify>,
    healthy: Arc<Mutex<bool>>,
    started: Instant,
}

impl Bench {
    fn start(rise: u32, fall: u32, initial: Health) -> Self {
        // Without room for a report ahead of the reader: what the test says counts from the next
        // probe on.
        let (sender, events) = mpsc::channel(1);
        let nudge = Arc::new(Notify::new());
        let healthy = Arc::new(Mutex::new(true));
        let task = task(Judge::new(rise, fall, initial), sender, Arc::clone(&nudge));
        let answers = Arc::clone(&healthy);
        tokio::spawn(task.run(move || {
            let outcome = if *answers.lock().unwrap() {
                ProbeOutcome::Passed {
                    latency: Duration::from_millis(3),
                    detail: String::from("it answered"),
                }
            } else {
                ProbeOutcome::Failed(ProbeFailure::Refused { port: 443 })
            };
            async move { outcome }
        }));
        Self {
            events,
            nudge,
            healthy,
            started: Instant::now(),
        }
    }

    fn answer(&self, healthy: bool) {
        *self.healthy.lock().unwrap() = healthy;
    }

    /// Returns the next report and when it came.
    async fn report(&mut self) -> (CheckReport, Duration) {
        let event = self.events.recv().await.unwrap();
        (event.report, self.started.elapsed())
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_probe_comes_at_once_and_decides() {
    let mut bench = Bench::start(2, 3, Health::Down);

    let (report, at) = bench.report().await;

    assert_eq!(at, Duration::ZERO);
    assert_eq!(
        (report.health, report.changed, report.probed),
        (Health::Up, true, true)
    );
    assert_eq!(report.latency, Some(Duration::from_millis(3)));
    assert_eq!(report.reason, "it answered");
}

#[tokio::test(start_paused = true)]
async fn later_probes_come_once_an_interval() {
    let mut bench = Bench::start(2, 3, Health::Down);
    bench.report().await;

    let (_, second) = bench.report().await;
    let (_, third) = bench.report().await;
    let (_, fourth) = bench.report().await;

    // The timer of tokio counts whole milliseconds.
    let tick = Duration::from_millis(2);
    assert!(second <= INTERVAL + tick, "{second:?}");
    for gap in [third - second, fourth - third] {
        assert!(gap.abs_diff(INTERVAL) <= tick, "{gap:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_nudge_one_failure_decides_at_once() {
    let mut bench = Bench::start(2, 3, Health::Down);
    bench.report().await;
    let (_, before) = bench.report().await;

    bench.answer(false);
    bench.nudge.notify_one();

    let (report, at) = bench.report().await;
    assert_eq!((report.health, report.changed), (Health::Down, true));
    assert_eq!(report.consecutive, 1);
    assert!(at - before < Duration::from_secs(1), "{:?}", at - before);
    let (_, next) = bench.report().await;
    assert!(
        next - before > Duration::from_secs(25),
        "back to the grid once decided: {:?}",
        next - before
    );
}

#[tokio::test(start_paused = true)]
async fn a_storm_of_nudges_makes_four_probes_a_second_at_most() {
    let mut bench = Bench::start(2, 3, Health::Down);
    bench.report().await;
    let start = Instant::now();
    let mut probes = 0;

    while start.elapsed() < Duration::from_secs(10) && probes < 100 {
        bench.nudge.notify_one();
        bench.report().await;
        probes += 1;
    }

    assert!((38..=41).contains(&probes), "{probes} in ten seconds");
}

#[tokio::test(start_paused = true)]
async fn a_nudge_to_a_serving_backend_costs_one_probe() {
    let mut bench = Bench::start(2, 3, Health::Down);
    bench.report().await;
    let (_, before) = bench.report().await;

    bench.nudge.notify_one();

    let (_, nudged) = bench.report().await;
    let (_, next) = bench.report().await;
    assert!(nudged - before < Duration::from_secs(1));
    assert!(
        next - nudged > Duration::from_secs(25),
        "{:?}",
        next - nudged
    );
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_was_taken_over_keeps_serving_until_fall() {
    let mut bench = Bench::start(2, 2, Health::Up);
    bench.answer(false);

    let (first, _) = bench.report().await;
    let (second, _) = bench.report().await;

    assert_eq!((first.health, first.changed), (Health::Up, false));
    assert_eq!(
        first.reason,
        "connection refused on port 443 (failure 1 of 2 until down)"
    );
    assert_eq!((second.health, second.changed), (Health::Down, true));
}

#[tokio::test(start_paused = true)]
async fn a_check_ends_when_nobody_listens() {
    let (sender, receiver) = mpsc::channel(1);
    let task = task(Judge::new(1, 1, Health::Down), sender, Arc::default());
    drop(receiver);

    task.run(|| async { ProbeOutcome::Failed(ProbeFailure::Refused { port: 1 }) })
        .await;
}

fn task(judge: Judge, events: mpsc::Sender<HealthEvent>, nudge: Arc<Notify>) -> Task {
    Task {
        id: CheckId {
            pool: String::from("ras-gateways"),
            backend: String::from("RAS_Server1"),
            service: None,
        },
        interval: INTERVAL,
        judge,
        events,
        nudge,
    }
}
