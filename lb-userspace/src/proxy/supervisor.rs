//! Makes the proxy what the configuration says: which addresses are listened on, and how each is
//! served.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::Path,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::Context as _;
use arc_swap::ArcSwap;
use tokio::{
    sync::{mpsc, watch},
    time::{MissedTickBehavior, interval},
};

use super::{
    access_log::AccessLog,
    complaints::Complaints,
    descriptors,
    front::{Front, Fronts},
    http::sign_on::Http1Only,
    listener,
    loads::Loads,
    sources::Sources,
    view::{Shown, View},
    worker::{self, Command, Shared},
};
use crate::{
    config::model,
    control::{Event, Handle, event::BackendName},
    dataplane::affinity::Table,
};

/// How often the proxy looks whether something has changed that nobody tells it.
const TICK: Duration = Duration::from_secs(1);
/// Files of certificates are looked at every so many ticks.
const FILES: u32 = 5;
/// An address that could not be listened on is tried again every so many ticks.
const RETRY: u32 = 5;

/// How far the end of the proxy has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ending {
    /// It is not in sight.
    #[default]
    No,
    /// Nothing new is begun; what is in flight has a few seconds to end.
    Finish,
    /// Every connection ends now.
    AtOnce,
}

/// The workers. They end, with their connections, when this is dropped.
pub struct Proxy {
    supervisor: Supervisor,
    threads: Vec<JoinHandle<()>>,
    view: View,
    reopen: watch::Sender<()>,
}

/// Has the access log opened anew.
#[derive(Clone, Debug)]
pub struct Reopen(watch::Sender<()>);

impl Reopen {
    /// Does so.
    pub fn now(&self) {
        self.0.send_replace(());
    }
}

impl Proxy {
    /// Starts the workers, and listens where the configuration says. `pins` is where the affinity
    /// table is; backends that refuse a connection are told to `accused`.
    ///
    /// # Errors
    ///
    /// The access log, the affinity table or a thread cannot be had.
    pub fn start(
        handle: &Handle,
        pins: &Path,
        accused: mpsc::Sender<BackendName>,
    ) -> anyhow::Result<Self> {
        let config = Arc::clone(&handle.snapshot().state.config);
        let access = AccessLog::open(&config.log.access)
            .with_context(|| format!("cannot write the access log ({:?})", config.log.access))?;
        if let Err(error) = descriptors::raise() {
            tracing::warn!("the limit of open files stays as it is: {error}");
        }
        let workers = workers(&config);
        let shared = Shared {
            handle: handle.clone(),
            loads: Loads::default(),
            sources: Sources::default(),
            http1_only: Http1Only::default(),
            access: access.clone(),
            complaints: Complaints::default(),
            accused,
        };
        let mut commands = Vec::new();
        let mut threads = Vec::new();
        for index in 0..workers {
            let (sender, receiver) = mpsc::unbounded_channel();
            let clients = Box::new(Table::open(pins)?);
            let shared = shared.clone();
            let thread = thread::Builder::new()
                .name(format!("worker-{index}"))
                .spawn(move || {
                    if let Err(error) = worker::run(index, shared, clients, receiver) {
                        tracing::error!("worker {index} cannot run: {error}");
                    }
                })
                .context("cannot start a worker of the proxy")?;
            commands.push(sender);
            threads.push(thread);
        }
        let view = View::default();
        let (reopen, _) = watch::channel(());
        let mut supervisor = Supervisor {
            handle: handle.clone(),
            access,
            access_goes_to: config.log.access.clone(),
            loads: shared.loads,
            fronts: Fronts::new(workers),
            slots: BTreeMap::new(),
            commands,
            view: view.clone(),
            told: BTreeMap::new(),
        };
        supervisor.reconcile();
        Ok(Self {
            supervisor,
            threads,
            view,
            reopen,
        })
    }

    /// Returns what the proxy shows of itself.
    #[must_use]
    pub fn view(&self) -> View {
        self.view.clone()
    }

    /// Returns what has the access log opened anew.
    #[must_use]
    pub fn reopen(&self) -> Reopen {
        Reopen(self.reopen.clone())
    }

    /// Follows the configuration until `ending` says otherwise, and returns when the workers have
    /// ended.
    pub async fn run(self, mut ending: watch::Receiver<Ending>) {
        let Self {
            mut supervisor,
            threads,
            reopen,
            ..
        } = self;
        let mut reopened = reopen.subscribe();
        tokio::select! {
            () = supervisor.follow(&mut reopened) => {}
            _ = ending.wait_for(|ending| *ending != Ending::No) => {}
        }
        supervisor.finish();
        let mut joined = tokio::task::spawn_blocking(move || {
            threads.into_iter().all(|thread| thread.join().is_ok())
        });
        let at_once = async {
            let _ = ending.wait_for(|ending| *ending == Ending::AtOnce).await;
        };
        let joined = tokio::select! {
            joined = &mut joined => joined,
            () = at_once => {
                // Workers end when nobody can tell them anything any more.
                drop(supervisor);
                joined.await
            }
        };
        if !matches!(joined, Ok(true)) {
            tracing::error!("a worker of the proxy failed");
        }
    }
}

/// Returns how many workers there are: one for each core unless the configuration says otherwise.
fn workers(config: &model::Config) -> usize {
    config.node.workers.map_or_else(
        || thread::available_parallelism().map_or(1, usize::from),
        usize::from,
    )
}

struct Supervisor {
    handle: Handle,
    access: AccessLog,
    access_goes_to: model::AccessLog,
    loads: Loads,
    fronts: Fronts,
    slots: BTreeMap<SocketAddr, Slot>,
    commands: Vec<mpsc::UnboundedSender<Command>>,
    view: View,
    /// Connections of backends as control was last told.
    told: BTreeMap<u16, u32>,
}

/// An address that is listened on, or shall be.
struct Slot {
    current: Arc<ArcSwap<Front>>,
    /// Why it is not.
    closed: Option<String>,
}

impl Supervisor {
    async fn follow(&mut self, reopened: &mut watch::Receiver<()>) {
        let mut generation = self.handle.generation();
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut ticks: u32 = 0;
        loop {
            tokio::select! {
                changed = generation.changed() => match changed {
                    Ok(()) => self.reconcile(),
                    Err(_) => return,
                },
                changed = reopened.changed() => if changed.is_ok() {
                    self.access.reopen();
                },
                _ = tick.tick() => {
                    ticks = ticks.wrapping_add(1);
                    self.look(ticks);
                    if self.tell_connections().await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    fn look(&mut self, ticks: u32) {
        descriptors::look();
        let closed = self.slots.values().any(|slot| slot.closed.is_some());
        let changed = ticks.is_multiple_of(FILES) && self.fronts.refresh();
        if changed || closed && ticks.is_multiple_of(RETRY) {
            self.reconcile();
        } else {
            self.fronts.number(&self.handle.snapshot().state);
        }
    }

    /// Has the workers end.
    fn finish(&self) {
        for worker in &self.commands {
            // One that has ended need not be told.
            let _ = worker.send(Command::Finish);
        }
    }

    async fn tell_connections(&mut self) -> Result<(), crate::control::RequestError> {
        let now: BTreeMap<u16, u32> = self.loads.all().collect();
        if now != self.told {
            self.told.clone_from(&now);
            self.handle.tell(Event::Connections(now)).await?;
        }
        Ok(())
    }

    /// Brings listeners and fronts to the configuration in force.
    fn reconcile(&mut self) {
        let snapshot = self.handle.snapshot();
        let state = &snapshot.state;
        let goes_to = &state.config.log.access;
        if *goes_to != self.access_goes_to {
            match self.access.set(goes_to) {
                Ok(()) => self.access_goes_to = goes_to.clone(),
                Err(error) => {
                    tracing::error!("the access log stays where it was: {goes_to:?}: {error}");
                }
            }
        }
        // Who asks for a reload wants the files as they are now.
        self.fronts.refresh();
        let fronts = self.fronts.make(state);
        let mut closed: BTreeMap<String, String> = state
            .config
            .services
            .iter()
            .filter(|service| service.is_proxied())
            .filter(|service| !fronts.iter().any(|front| *front.name == *service.name))
            .map(|service| {
                let why = "its certificates cannot be used; the log says why".to_owned();
                (service.name.clone(), why)
            })
            .collect();
        let wanted: BTreeMap<SocketAddr, &Arc<Front>> = fronts
            .iter()
            .map(|front| (front.service.listen(), front))
            .collect();
        let commands = &self.commands;
        self.slots.retain(|address, slot| {
            let stays = wanted.contains_key(address);
            if !stays && slot.closed.is_none() {
                for worker in commands {
                    // A worker that has ended listens no more.
                    let _ = worker.send(Command::Close(*address));
                }
            }
            stays
        });
        for (address, front) in wanted {
            if let Some(why) = self.serve(address, front) {
                closed.insert(front.service.name.clone(), why);
            }
        }
        self.view.show(Shown {
            fronts,
            closed,
            access: Some(self.access.clone()),
        });
    }

    /// Serves an address by a front; returns why nobody can connect.
    fn serve(&mut self, address: SocketAddr, front: &Arc<Front>) -> Option<String> {
        let slot = self.slots.entry(address).or_insert_with(|| Slot {
            current: Arc::new(ArcSwap::new(Arc::clone(front))),
            closed: Some(String::new()),
        });
        slot.current.store(Arc::clone(front));
        slot.closed.as_ref()?;
        match listener::open(address, self.commands.len()) {
            Ok(sockets) => {
                for (worker, socket) in self.commands.iter().zip(sockets) {
                    let _ = worker.send(Command::Listen(socket, Arc::clone(&slot.current)));
                }
                slot.closed = None;
                tracing::info!(
                    service = front.service.name,
                    "{} listens on {address}",
                    front.service.name
                );
                None
            }
            Err(error) => {
                let why = format!("cannot listen on {address}: {error}");
                if slot.closed.as_ref() != Some(&why) {
                    tracing::error!(
                        service = front.service.name,
                        "{why}; `ss -ltnp` shows who does. It is tried again"
                    );
                }
                slot.closed = Some(why.clone());
                Some(why)
            }
        }
    }
}
