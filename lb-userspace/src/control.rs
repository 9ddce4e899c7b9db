//! The single owner of desired state: events in, maps and a snapshot out.
//!
//! One task reads as this list: an event changes [`state`], [`mod@render`] says what the maps shall
//! hold, [`mod@plan`] says in which steps, the data path carries them out, and a new [`snapshot`] is
//! there for readers. [`change`] tells the log what happened. Everybody else holds a [`Handle`].

pub mod audit;
pub mod change;
pub mod choice;
pub mod event;
pub mod evidence;
pub mod fill;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
pub mod numbers;
pub mod overrides;
pub mod plan;
pub mod render;
pub mod snapshot;
pub mod state;
#[cfg(any(test, fuzzing))]
#[cfg_attr(
    not(test),
    allow(dead_code, reason = "a fuzz target makes one of these sites only")
)]
pub(crate) mod testing;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::{ArcSwap, Guard};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, MissedTickBehavior, interval},
};

use self::{
    change::{Change, Level, changes},
    event::{BackendName, CheckReport, Link, NextHop},
    evidence::{Evidence, EvidenceWatch},
    fill::RefusalWatch,
    plan::plan,
    render::{Tables, render, sweep_settings},
    snapshot::{History, Snapshot, Traffic},
    state::{Author, ClientsError, ClientsWish, DesiredState, Refusal, TargetError},
};
use crate::{
    config::model::{AdminState, Config},
    dataplane::{
        CounterSnapshot, Dataplane, DataplaneError, SweepReport, image::Image,
        sweep::SharedSettings,
    },
};

/// How often counters are read, and what failed is tried again.
const TICK: Duration = Duration::from_secs(1);
/// Events that may wait; senders wait for room.
const QUEUE: usize = 1024;

/// What control is told.
pub enum Event {
    /// A check has run.
    Check(CheckReport),
    /// A way to an address was found or lost.
    NextHop {
        /// The address.
        destination: IpAddr,
        /// The way, or why there is none.
        result: Result<NextHop, String>,
    },
    /// An interface is there, or has another index or MAC address.
    Link(Link),
    /// An interface is gone.
    LinkGone(String),
    /// The sweeper has been through the records.
    Sweep(SweepReport),
    /// The proxy has so many connections and requests for each backend number; none for others.
    Connections(BTreeMap<u16, u32>),
    /// An administrator wants something.
    Request(Request),
    /// Somebody wants to look at the data path.
    Look(Look),
    /// The daemon stops; the data path stays as it is.
    Stop,
}

/// A look at the data path, at the moment of a snapshot.
pub type Look = Box<dyn FnOnce(&dyn Dataplane, &Snapshot) + Send>;

/// What administrators want, with the way for the answer.
pub enum Request {
    /// Apply a configuration.
    Reload {
        /// The configuration, valid in itself.
        config: Box<Config>,
        /// Generation that is in force, or why it is still the former.
        answer: oneshot::Sender<Result<u64, RequestError>>,
    },
    /// Change a backend's admin state.
    SetState {
        /// `BACKEND` or `POOL/BACKEND`.
        target: String,
        /// What it shall be.
        to: AdminState,
        /// Who wants it, and why.
        author: Author,
        /// The backend that was meant.
        answer: oneshot::Sender<Result<BackendName, RequestError>>,
    },
    /// Change a backend's weight.
    SetWeight {
        /// `BACKEND` or `POOL/BACKEND`.
        target: String,
        /// The weight; `None`: the configuration's.
        to: Option<u16>,
        /// Who wants it, and why.
        author: Author,
        /// The backend that was meant.
        answer: oneshot::Sender<Result<BackendName, RequestError>>,
    },
    /// Block, allow or forget clients.
    Clients {
        /// Who shall be what.
        wish: ClientsWish,
        /// Who wants it, and why.
        author: Author,
        /// It is in force.
        answer: oneshot::Sender<Result<(), RequestError>>,
    },
}

/// Why a request was not, or not entirely, carried out.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// No backend, or several, were meant.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// A wish about clients; nothing has changed.
    #[error(transparent)]
    Clients(#[from] ClientsError),
    /// Keys that cannot change; nothing was applied.
    #[error(
        "the configuration in force stays:\n  {}",
        .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n  ")
    )]
    Refused(Vec<Refusal>),
    /// The kernel refused a step; it is tried again every second.
    #[error("the kernel refused a step, which is tried again every second: {0}")]
    Dataplane(String),
    /// The change is in force and will be forgotten at a restart.
    #[error("the change is in force, but will not survive a restart: {0}")]
    NotSaved(String),
    /// The daemon is stopping.
    #[error("the daemon is stopping")]
    Stopped,
}

/// How everybody else speaks with control.
#[derive(Clone)]
pub struct Handle {
    events: mpsc::Sender<Event>,
    snapshot: Arc<ArcSwap<Snapshot>>,
    generation: watch::Receiver<u64>,
    evidence: watch::Receiver<Evidence>,
}

impl Handle {
    /// Returns the present moment. It costs nothing to speak of.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// Returns the present moment for a look that ends at once: unlike [`Self::snapshot`], it writes
    /// to no memory that threads share.
    #[must_use]
    pub fn glance(&self) -> Guard<Arc<Snapshot>> {
        self.snapshot.load()
    }

    /// Returns a receiver of the configuration's generation, which changes with each reload.
    #[must_use]
    pub fn generation(&self) -> watch::Receiver<u64> {
        self.generation.clone()
    }

    /// Returns a receiver of the evidence against backends, which changes with each second that
    /// brings some.
    #[must_use]
    pub fn evidence(&self) -> watch::Receiver<Evidence> {
        self.evidence.clone()
    }

    /// Returns whether control has ended: nobody takes in events any more.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.events.is_closed()
    }

    /// Tells control of an event, waiting for room in its queue.
    ///
    /// # Errors
    ///
    /// [`RequestError::Stopped`].
    pub async fn tell(&self, event: Event) -> Result<(), RequestError> {
        self.events
            .send(event)
            .await
            .map_err(|_| RequestError::Stopped)
    }

    /// The same from a thread that may block, such as the sweeper's.
    ///
    /// # Errors
    ///
    /// [`RequestError::Stopped`].
    pub fn tell_blocking(&self, event: Event) -> Result<(), RequestError> {
        self.events
            .blocking_send(event)
            .map_err(|_| RequestError::Stopped)
    }

    /// Applies a configuration and returns its generation.
    ///
    /// # Errors
    ///
    /// [`RequestError`].
    pub async fn reload(&self, config: Config) -> Result<u64, RequestError> {
        let config = Box::new(config);
        self.request(|answer| Request::Reload { config, answer })
            .await
    }

    /// Changes the admin state of the backend that `target` names, and returns its name.
    ///
    /// # Errors
    ///
    /// [`RequestError`].
    pub async fn set_state(
        &self,
        target: String,
        to: AdminState,
        author: Author,
    ) -> Result<BackendName, RequestError> {
        self.request(|answer| Request::SetState {
            target,
            to,
            author,
            answer,
        })
        .await
    }

    /// Changes the weight of the backend that `target` names, and returns its name.
    ///
    /// # Errors
    ///
    /// [`RequestError`].
    pub async fn set_weight(
        &self,
        target: String,
        to: Option<u16>,
        author: Author,
    ) -> Result<BackendName, RequestError> {
        self.request(|answer| Request::SetWeight {
            target,
            to,
            author,
            answer,
        })
        .await
    }

    /// Blocks, allows or forgets clients.
    ///
    /// # Errors
    ///
    /// [`RequestError`].
    pub async fn change_clients(
        &self,
        wish: ClientsWish,
        author: Author,
    ) -> Result<(), RequestError> {
        self.request(|answer| Request::Clients {
            wish,
            author,
            answer,
        })
        .await
    }

    /// Looks at the data path with `look` and returns what it saw.
    ///
    /// # Errors
    ///
    /// [`RequestError::Stopped`].
    pub async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&dyn Dataplane, &Snapshot) -> T + Send + 'static,
    ) -> Result<T, RequestError> {
        let (answer, answered) = oneshot::channel();
        self.tell(Event::Look(Box::new(move |dataplane, snapshot| {
            // Who asked may have gone away.
            let _ = answer.send(look(dataplane, snapshot));
        })))
        .await?;
        answered.await.map_err(|_| RequestError::Stopped)
    }

    /// The same as [`Self::look`] from a thread that may block.
    ///
    /// # Errors
    ///
    /// [`RequestError::Stopped`].
    pub fn look_blocking<T: Send + 'static>(
        &self,
        look: impl FnOnce(&dyn Dataplane, &Snapshot) -> T + Send + 'static,
    ) -> Result<T, RequestError> {
        let (answer, answered) = oneshot::channel();
        self.tell_blocking(Event::Look(Box::new(move |dataplane, snapshot| {
            // Who asked may have gone away.
            let _ = answer.send(look(dataplane, snapshot));
        })))?;
        answered.blocking_recv().map_err(|_| RequestError::Stopped)
    }

    async fn request<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, RequestError>>) -> Request,
    ) -> Result<T, RequestError> {
        let (answer, answered) = oneshot::channel();
        self.tell(Event::Request(request(answer))).await?;
        answered.await.map_err(|_| RequestError::Stopped)?
    }
}

/// The owner of desired state.
pub struct Control {
    dataplane: Box<dyn Dataplane>,
    events: mpsc::Receiver<Event>,
    state: Arc<DesiredState>,
    /// What the maps hold.
    image: Arc<Image>,
    /// The last step failed: the maps may hold something else.
    uncertain: bool,
    /// What the sweeper goes by.
    sweep: SharedSettings,
    tables: Tables,
    history: History,
    refusals: RefusalWatch,
    evidence_watch: EvidenceWatch,
    evidence: watch::Sender<Evidence>,
    traffic: Arc<Traffic>,
    started: SystemTime,
    directory: PathBuf,
    snapshot: Arc<ArcSwap<Snapshot>>,
    generation: watch::Sender<u64>,
}

impl Control {
    /// Takes the data path over and brings it to `state` for the first time.
    ///
    /// `image` is what the maps hold, `sweep` what the sweeper goes by, which control replaces,
    /// `started` the moment at which the daemon started.
    ///
    /// # Errors
    ///
    /// [`DataplaneError`] when the kernel refuses a step.
    pub fn new(
        dataplane: Box<dyn Dataplane>,
        image: Image,
        state: DesiredState,
        sweep: SharedSettings,
        started: SystemTime,
    ) -> Result<(Self, Handle), DataplaneError> {
        let (sender, events) = mpsc::channel(QUEUE);
        let image = Arc::new(image);
        let state = Arc::new(state);
        let traffic = Arc::new(Traffic::default());
        let snapshot = Arc::new(ArcSwap::from_pointee(Snapshot {
            started,
            state: Arc::clone(&state),
            image: Arc::clone(&image),
            attachments: dataplane.attachments().into(),
            traffic: Arc::clone(&traffic),
        }));
        let (generation, watched) = watch::channel(state.generation);
        let (evidence, seen) = watch::channel(Evidence::new());
        let handle = Handle {
            events: sender,
            snapshot: Arc::clone(&snapshot),
            generation: watched,
            evidence: seen,
        };
        let mut control = Self {
            dataplane,
            events,
            directory: state.config.state.directory.clone(),
            state,
            image,
            uncertain: false,
            sweep,
            tables: Tables::default(),
            history: History::default(),
            refusals: RefusalWatch::default(),
            evidence_watch: EvidenceWatch::default(),
            evidence,
            traffic,
            started,
            snapshot,
            generation,
        };
        control.carry_out()?;
        control.read_counters();
        control.publish();
        Ok((control, handle))
    }

    /// Works until it is told to stop, and returns the data path.
    pub async fn run(mut self) -> Box<dyn Dataplane> {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                event = self.events.recv() => match event {
                    None | Some(Event::Stop) => return self.dataplane,
                    Some(event) => self.handle(event),
                },
                _ = tick.tick() => self.tick(),
            }
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Check(report) => self.change(|state| state.on_check(report)),
            Event::NextHop {
                destination,
                result,
            } => self.change(|state| state.on_next_hop(destination, result)),
            Event::Link(link) => self.on_link(link),
            Event::LinkGone(name) => {
                tracing::error!(interface = %name, "interface {name} is gone");
                self.change(|state| state.on_link_gone(&name));
            }
            Event::Sweep(report) => self.change(|state| state.on_sweep(report)),
            Event::Connections(held) => self.change(|state| state.on_connections(held)),
            Event::Request(request) => self.answer(request),
            Event::Look(look) => look(self.dataplane.as_ref(), &self.snapshot.load()),
            Event::Stop => {}
        }
    }

    /// An interface that was made anew has lost the program.
    fn on_link(&mut self, link: Link) {
        let attached = self
            .dataplane
            .attachments()
            .iter()
            .any(|held| held.interface == link.name && held.index == link.index);
        if !attached && self.state.config.node.interfaces.contains(&link.name) {
            match self.dataplane.reattach(&link.name) {
                Ok(_) => tracing::info!(
                    interface = %link.name,
                    "interface {} was made anew: the program is attached again", link.name
                ),
                Err(error) => tracing::error!(
                    interface = %link.name,
                    "interface {} was made anew, and the program cannot be attached: {}",
                    link.name, chain(&error)
                ),
            }
        }
        self.change(|state| state.on_link(link));
    }

    fn answer(&mut self, request: Request) {
        // Who asked may have gone away: the answer is then nobody's.
        match request {
            Request::Reload { config, answer } => {
                let _ = answer.send(self.reload(*config));
            }
            Request::SetState {
                target,
                to,
                author,
                answer,
            } => {
                let done = self.override_backend(&target, |state, name| {
                    state.set_admin_state(name, to, author);
                });
                let _ = answer.send(done);
            }
            Request::SetWeight {
                target,
                to,
                author,
                answer,
            } => {
                let done = self
                    .override_backend(&target, |state, name| state.set_weight(name, to, author));
                let _ = answer.send(done);
            }
            Request::Clients {
                wish,
                author,
                answer,
            } => {
                let _ = answer.send(self.change_clients(wish, author));
            }
        }
    }

    fn reload(&mut self, config: Config) -> Result<u64, RequestError> {
        let former = Arc::clone(&self.state);
        Arc::make_mut(&mut self.state)
            .reload(Arc::new(config), SystemTime::now())
            .map_err(RequestError::Refused)?;
        let result = self.carry_out();
        self.tell_changes(&former);
        if former.overrides != self.state.overrides {
            self.save();
        }
        self.publish();
        let known = &self.state.backends;
        self.evidence_watch.retain(|name| known.contains_key(name));
        self.generation.send_replace(self.state.generation);
        result.map_err(|error| RequestError::Dataplane(chain(&error)))?;
        Ok(self.state.generation)
    }

    fn override_backend(
        &mut self,
        target: &str,
        set: impl FnOnce(&mut DesiredState, &BackendName),
    ) -> Result<BackendName, RequestError> {
        let name = self.state.resolve(target)?;
        let former = Arc::clone(&self.state);
        set(Arc::make_mut(&mut self.state), &name);
        let applied = self.carry_out();
        self.tell_changes(&former);
        self.publish();
        let saved = overrides::save(&self.state.overrides, &self.directory);
        applied.map_err(|error| RequestError::Dataplane(chain(&error)))?;
        saved.map_err(|error| RequestError::NotSaved(chain(&error)))?;
        Ok(name)
    }

    fn change_clients(&mut self, wish: ClientsWish, author: Author) -> Result<(), RequestError> {
        Arc::make_mut(&mut self.state).change_clients(&wish, &author)?;
        let applied = self.carry_out();
        log(&Change::Clients { wish, author });
        self.publish();
        let saved = overrides::save(&self.state.overrides, &self.directory);
        applied.map_err(|error| RequestError::Dataplane(chain(&error)))?;
        saved.map_err(|error| RequestError::NotSaved(chain(&error)))
    }

    fn save(&self) {
        if let Err(error) = overrides::save(&self.state.overrides, &self.directory) {
            tracing::error!("{}", chain(&error));
        }
    }

    /// Changes the state and carries the change out.
    fn change(&mut self, change: impl FnOnce(&mut DesiredState)) {
        let former = Arc::clone(&self.state);
        change(Arc::make_mut(&mut self.state));
        // A failure has been logged, and is tried again with the next tick.
        let _ = self.carry_out();
        self.tell_changes(&former);
        self.publish();
    }

    /// Brings the maps to the desired state.
    fn carry_out(&mut self) -> Result<(), DataplaneError> {
        let result = self.try_carry_out();
        if let Err(error) = &result {
            if !self.uncertain {
                tracing::error!("the data path is behind: {}", chain(error));
            }
            self.uncertain = true;
        }
        result
    }

    fn try_carry_out(&mut self) -> Result<(), DataplaneError> {
        if self.uncertain {
            self.image = Arc::new(self.dataplane.image()?);
        }
        let plan = plan(&self.image, render(&self.state, &mut self.tables));
        if !plan.operations.is_empty() {
            tracing::debug!(steps = plan.operations.len(), "the maps change");
            self.dataplane.apply(&plan.operations)?;
            self.image = Arc::new(plan.outcome);
        }
        let sweep = sweep_settings(&self.state, &self.image);
        if **self.sweep.load() != sweep {
            self.sweep.store(Arc::new(sweep));
        }
        if self.uncertain {
            tracing::info!("the data path has caught up");
            self.uncertain = false;
        }
        Ok(())
    }

    fn tick(&mut self) {
        if self.uncertain {
            let _ = self.carry_out();
        }
        let now = Instant::now();
        if self.state.is_to_warm_up(now) {
            self.change(|state| state.warm_up(now));
        }
        self.read_counters();
        self.publish();
    }

    fn read_counters(&mut self) {
        match self.dataplane.counters() {
            Ok(counters) => {
                let now = Instant::now();
                let refusals = self.refusals.read(now, &counters);
                self.pass_on_evidence(&counters);
                self.traffic = Arc::new(self.history.add(now, counters));
                if refusals != self.state.fills.refusals {
                    self.change(|state| state.on_refusals(refusals));
                }
            }
            Err(error) => tracing::debug!("{}", chain(&error)),
        }
    }

    fn pass_on_evidence(&mut self, counters: &CounterSnapshot) {
        let names = self.state.numbers.backends.iter();
        let names = names.map(|(identity, number)| (&identity.name, number));
        if let Some(evidence) = self.evidence_watch.read(&counters.backends, names) {
            self.evidence.send_replace(evidence.clone());
        }
    }

    fn publish(&self) {
        self.snapshot.store(Arc::new(Snapshot {
            started: self.started,
            state: Arc::clone(&self.state),
            image: Arc::clone(&self.image),
            attachments: self.dataplane.attachments().into(),
            traffic: Arc::clone(&self.traffic),
        }));
    }

    fn tell_changes(&self, former: &DesiredState) {
        for change in changes(former, &self.state) {
            log(&change);
        }
    }
}

fn log(change: &Change) {
    let pool = change.backend().map(|name| name.pool.as_str());
    let backend = change.backend().map(|name| name.backend.as_str());
    match change.level() {
        Level::Error => tracing::error!(pool, backend, "{change}"),
        Level::Warn => tracing::warn!(pool, backend, "{change}"),
        Level::Info => tracing::info!(pool, backend, "{change}"),
    }
}

/// Returns an error and what caused it in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests;
