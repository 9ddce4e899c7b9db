use std::sync::Mutex;

use super::{event::Health, testing::*, *};
use crate::dataplane::{
    Attachment, CounterSnapshot, DataplaneError, FlowView, fake::Fake, image::MapOp,
};

/// A data path whose next steps fail when the test says so, and which the test can look into.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    fake: Fake,
    failures: u32,
    /// Counted for `ras/gw1`.
    unreachable: u64,
    reattached: Vec<String>,
}

impl Shared {
    fn new(config: &Config) -> Self {
        let shared = Self::default();
        shared.with(|inner| inner.fake.image = new_maps(config));
        shared
    }

    fn with<T>(&self, look: impl FnOnce(&mut Inner) -> T) -> T {
        look(&mut self.0.lock().expect("no test panics inside"))
    }
}

impl Dataplane for Shared {
    fn image(&self) -> Result<Image, DataplaneError> {
        self.with(|inner| inner.fake.image())
    }

    fn apply(&mut self, operations: &[MapOp]) -> Result<(), DataplaneError> {
        self.with(|inner| {
            if inner.failures > 0 {
                inner.failures -= 1;
                // The first step is done, the second fails.
                inner.fake.apply(&operations[..1])?;
                return Err(DataplaneError {
                    what: "cannot write backends".to_owned(),
                    source: None,
                });
            }
            inner.fake.apply(operations)
        })
    }

    fn counters(&self) -> Result<CounterSnapshot, DataplaneError> {
        self.with(|inner| {
            let gw1 = lb_common::stats::Counters {
                unreachable: inner.unreachable,
                ..lb_common::stats::Counters::default()
            };
            Ok(CounterSnapshot {
                backends: vec![gw1],
                ..inner.fake.counters()?
            })
        })
    }

    fn affinity(&self, client: IpAddr, group: u32) -> Result<Option<(u16, u32)>, DataplaneError> {
        self.with(|inner| inner.fake.affinity(client, group))
    }

    fn flows(&self, limit: usize, filter: &dyn Fn(&FlowView) -> bool) -> Vec<FlowView> {
        self.with(|inner| inner.fake.flows(limit, filter))
    }

    fn attachments(&self) -> Vec<Attachment> {
        vec![Attachment {
            interface: "eth0".to_owned(),
            index: ETH0,
            native: true,
            why: "the test says so".to_owned(),
        }]
    }

    fn reattach(&mut self, interface: &str) -> Result<Attachment, DataplaneError> {
        self.with(|inner| {
            inner.reattached.push(interface.to_owned());
            inner.fake.reattach(interface)
        })
    }
}

struct Site {
    shared: Shared,
    handle: Handle,
    sweep: SharedSettings,
    task: tokio::task::JoinHandle<Box<dyn Dataplane>>,
    _directory: tempfile::TempDir,
}

impl Site {
    fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let mut config = ras();
        config.state.directory = directory.path().to_owned();
        let shared = Shared::new(&config);
        let image = shared.with(|inner| inner.fake.image.clone());
        let state = first_start(config);
        let sweep = SharedSettings::default();
        let (control, handle) = Control::new(
            Box::new(shared.clone()),
            image,
            state,
            Arc::clone(&sweep),
            now(),
        )
        .expect("a fake refuses nothing");
        Self {
            shared,
            handle,
            sweep,
            task: tokio::spawn(control.run()),
            _directory: directory,
        }
    }

    async fn tell(&self, event: Event) {
        self.handle.tell(event).await.expect("it runs");
        // The answer to a look says that everything before has been handled.
        self.handle.look(|_, _| ()).await.expect("it runs");
    }

    async fn all_serve(&self) {
        for (backend, address) in [("gw1", "10.0.1.1"), ("gw2", "10.0.1.2")] {
            self.tell(Event::Check(report(backend, Health::Up))).await;
            self.tell(Event::NextHop {
                destination: ip(address),
                result: Ok(hop()),
            })
            .await;
        }
    }

    fn image(&self) -> Image {
        self.shared.with(|inner| inner.fake.image.clone())
    }

    fn config(&self) -> Config {
        (*self.handle.snapshot().state.config).clone()
    }
}

fn report(backend: &str, health: Health) -> CheckReport {
    CheckReport {
        backend: BackendName::new("ras", backend),
        service: None,
        health,
        reason: "as the test says".to_owned(),
        since: Some(now()),
        probed: true,
        latency: None,
    }
}

fn root() -> Author {
    Author {
        by: "root".to_owned(),
        at: now(),
        reason: None,
    }
}

#[tokio::test]
async fn events_reach_the_maps_and_the_snapshot() {
    let site = Site::start();
    assert_eq!(
        site.handle.snapshot().not_ready(),
        [
            "ras/gw1 has not been probed yet",
            "ras/gw2 has not been probed yet"
        ]
    );

    site.all_serve().await;

    assert_eq!(site.image().pools[&0].pool.eligible, 2);
    let snapshot = site.handle.snapshot();
    assert_eq!(*snapshot.image, site.image());
    assert!(snapshot.not_ready().is_empty());
}

#[tokio::test]
async fn an_event_without_a_change_writes_nothing() {
    let site = Site::start();
    site.all_serve().await;
    let written = site.shared.with(|inner| inner.fake.applied.len());

    site.tell(Event::Check(report("gw1", Health::Up))).await;
    site.tell(Event::Sweep(SweepReport::default())).await;

    assert_eq!(site.shared.with(|inner| inner.fake.applied.len()), written);
}

#[tokio::test(start_paused = true)]
async fn a_refused_step_is_tried_again_until_the_maps_are_right() {
    let site = Site::start();
    site.all_serve().await;
    site.shared.with(|inner| inner.failures = 2);

    let error = site
        .handle
        .set_state("gw1".to_owned(), AdminState::Halt, root())
        .await
        .expect_err("the kernel refuses");
    assert!(
        error.to_string().contains("cannot write backends"),
        "{error}"
    );
    assert_eq!(site.image().pools[&0].pool.eligible, 2);

    let mut ticks = 0;
    while site.image().pools[&0].pool.eligible != 1 {
        ticks += 1;
        assert!(ticks < 10, "it is never tried again");
        tokio::time::sleep(TICK).await;
    }
    site.handle.look(|_, _| ()).await.expect("it runs");
    assert_eq!(*site.handle.snapshot().image, site.image());
}

#[tokio::test(start_paused = true)]
async fn each_second_with_port_unreachables_is_evidence_against_the_backend() {
    let site = Site::start();
    let mut evidence = site.handle.evidence();

    for second in 1..=2 {
        site.shared.with(|inner| inner.unreachable += 50);
        evidence.changed().await.expect("control runs");
        let counted = evidence.borrow_and_update().clone();
        assert_eq!(counted, Evidence::from([(name("ras/gw1"), second)]));
    }

    tokio::time::sleep(TICK * 3).await;
    assert!(!evidence.has_changed().expect("control runs"));
}

#[tokio::test]
async fn a_change_at_run_time_survives_a_restart() {
    let site = Site::start();

    let name = site
        .handle
        .set_state("gw1".to_owned(), AdminState::Drain, root())
        .await;

    assert_eq!(name.expect("done"), BackendName::new("ras", "gw1"));
    let stored = overrides::load(&site.config().state.directory);
    assert_eq!(stored.overrides, site.handle.snapshot().state.overrides);
    assert!(
        stored
            .overrides
            .get(&BackendName::new("ras", "gw1"))
            .is_some()
    );
}

#[tokio::test]
async fn blocked_clients_reach_the_maps_the_sweeper_and_the_disk() {
    let site = Site::start();
    site.all_serve().await;
    let wish = ClientsWish {
        service: None,
        prefixes: vec!["10.1.0.0/16".parse().expect("a prefix")],
        to: Some(crate::config::model::Rule::Block),
    };

    let done = site.handle.change_clients(wish, root()).await;

    done.expect("nothing refuses it");
    let image = site.image();
    assert_eq!(image.ranges.entries.len(), 3);
    let named = image.services.values().map(|service| service.ranges_count);
    assert_eq!(named.collect::<Vec<_>>(), [0, 3], "the marker has none");
    let sweep = site.sweep.load();
    assert_eq!(
        sweep.ranges.keys().copied().collect::<Vec<_>>(),
        [0],
        "the service's number"
    );
    let client = lb_common::addr::bytes(ip("10.1.2.3"));
    assert!(lb_common::guard::is_blocked(&sweep.ranges[&0], &client));
    let stored = overrides::load(&site.config().state.directory);
    assert_eq!(stored.overrides, site.handle.snapshot().state.overrides);
    assert_eq!(stored.overrides.clients().count(), 1);
}

#[tokio::test]
async fn a_change_that_cannot_be_kept_is_in_force_and_says_so() {
    let site = Site::start();
    let blocked = site.config().state.directory.join("admin.json.new");
    std::fs::create_dir(blocked).expect("made");

    let error = site
        .handle
        .set_state("gw1".to_owned(), AdminState::Halt, root())
        .await
        .expect_err("it cannot be written");

    assert!(matches!(error, RequestError::NotSaved(_)), "{error}");
    assert_eq!(site.image().backends[&0].admin, lb_common::backend::HALT);
}

#[tokio::test]
async fn a_reload_is_told_by_its_generation_and_a_refused_one_is_not() {
    let site = Site::start();
    let mut generation = site.handle.generation();
    let mut refused = site.config();
    refused.node.max_flows += 1;
    let error = site.handle.reload(refused).await.expect_err("refused");
    assert!(error.to_string().contains("node.max_flows"), "{error}");
    assert!(!generation.has_changed().expect("it runs"));

    let mut smaller = site.config();
    smaller.services.clear();
    assert_eq!(site.handle.reload(smaller).await.expect("applied"), 2);

    assert!(generation.has_changed().expect("it runs"));
    assert_eq!(*generation.borrow_and_update(), 2);
    assert!(site.image().services.is_empty());
    assert!(site.sweep.load().affinity_timeouts_s.is_empty());
}

#[tokio::test]
async fn an_interface_that_was_made_anew_is_attached_to_again() {
    let site = Site::start();
    site.tell(Event::Link(link())).await;
    assert!(site.shared.with(|inner| inner.reattached.is_empty()));

    let mut anew = link();
    anew.index = 77;
    site.tell(Event::LinkGone("eth0".to_owned())).await;
    site.tell(Event::Link(anew)).await;

    assert_eq!(site.shared.with(|inner| inner.reattached.clone()), ["eth0"]);
    assert_eq!(site.image().settings.interfaces[0].index, 77);
}

#[tokio::test]
async fn once_stopped_it_leaves_the_data_path_as_it_is_and_answers_nobody() {
    let site = Site::start();
    site.all_serve().await;
    let image = site.image();
    site.handle.tell(Event::Stop).await.expect("it runs");

    let dataplane = site.task.await.expect("it ends well");

    assert_eq!(dataplane.image().expect("a fake"), image);
    let error = site.handle.look(|_, _| ()).await.expect_err("stopped");
    assert_eq!(error.to_string(), "the daemon is stopping");
}
