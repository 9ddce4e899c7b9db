//! An event loop on a thread of its own. What it has, no other thread touches.

use std::{
    cell::RefCell, collections::HashMap, io, net::SocketAddr, os::fd::AsRawFd as _, rc::Rc,
    sync::Arc, time::Duration,
};

use arc_swap::ArcSwap;
use lb_common::affinity::TOUCH_S;
use tokio::{
    net::TcpListener,
    runtime::LocalOptions,
    sync::mpsc,
    task::JoinHandle,
    time::{MissedTickBehavior, interval, sleep, timeout},
};

use super::{
    access_log::{AccessLog, Side},
    choose::{self, Memory, Turns},
    complaints::{Complaints, Subject},
    connection,
    descriptors::{self, Expected},
    failure::Failure,
    front::{Front, Upstream},
    guests::Guests,
    http::sign_on::Http1Only,
    live::{Bound, Live},
    loads::Loads,
    sources::Sources,
    stopping::Stopping,
    upstream::{ConnectError, Idle},
};
use crate::{
    allocator,
    control::{Handle, event::BackendName},
    dataplane::affinity::Clients,
};

/// What a worker is told.
pub(crate) enum Command {
    /// Accept connections of a socket, for the front that is in force at the time.
    Listen(std::net::TcpListener, Arc<ArcSwap<Front>>),
    /// Accept no more on an address. Connections that are there stay.
    Close(SocketAddr),
    /// Accept no more at all, and end when what is in flight has ended, or [`FAREWELL`] is over.
    Finish,
}

/// What all workers share.
#[derive(Clone)]
pub(crate) struct Shared {
    /// The snapshot.
    pub(crate) handle: Handle,
    /// Connections and requests of each backend.
    pub(crate) loads: Loads,
    /// Connections of each source.
    pub(crate) sources: Sources,
    /// Clients that sign on, and are offered HTTP/1.1 alone.
    pub(crate) http1_only: Http1Only,
    /// The access log.
    pub(crate) access: AccessLog,
    /// What the log has been told of late.
    pub(crate) complaints: Complaints,
    /// Backends that refused a connection.
    pub(crate) accused: mpsc::Sender<BackendName>,
}

/// One event loop's own.
pub(crate) struct Worker {
    /// Its number.
    pub(crate) index: usize,
    pub(crate) shared: Shared,
    /// The memory of clients, which the kernel has as well.
    pub(crate) clients: RefCell<Box<dyn Clients>>,
    /// Clients with connections.
    pub(crate) live: Rc<Live>,
    /// The same, to send them away when they are blocked.
    pub(crate) guests: Guests,
    /// Connections that end with their backend's service.
    pub(crate) bound: Bound,
    /// Whose turn it is.
    pub(crate) turns: RefCell<Turns>,
    /// Connections to backends that wait for a request.
    pub(crate) idle: Rc<Idle>,
    /// Its end.
    pub(crate) stopping: Stopping,
}

impl std::ops::Deref for Worker {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.shared
    }
}

impl Worker {
    /// Says that a backend could not be reached: its probe shall look.
    pub(crate) fn accuse(&self, upstream: &Upstream, error: &ConnectError) {
        let (pool, backend) = (&upstream.backend.pool, &upstream.backend.backend);
        let (label, address, detail) = (&upstream.label, upstream.address, &error.detail);
        if self.complaints.is_due(Subject::Upstream(upstream.id)) {
            tracing::warn!(
                pool,
                backend,
                "no connection to {label} ({address}): {detail}"
            );
        } else {
            tracing::debug!(
                pool,
                backend,
                "no connection to {label} ({address}): {detail}"
            );
        }
        if error.failure.side() == Side::Backend {
            // A full queue has enough to look into.
            let _ = self.accused.try_send(upstream.backend.clone());
        }
    }

    /// The backend has taken a client: from now on the client belongs where its memory says.
    pub(crate) fn remember(&self, memory: &Memory) {
        let mut clients = self.clients.borrow_mut();
        clients.remember(&memory.key, memory.belongs_to, memory.replace);
    }

    /// Waits until a tunnel must end, and returns why: its backend is out of service, or the worker
    /// has no more time.
    pub(crate) async fn tunnel_ends(&self, backend: u16) -> Failure {
        let gone = self.bound.to(backend);
        tokio::select! {
            () = gone.notified() => Failure::BackendGone,
            () = self.stopping.over.wait() => Failure::Stopping,
        }
    }
}

/// Runs a worker until it has finished, or its commands end.
pub(crate) fn run(
    index: usize,
    shared: Shared,
    clients: Box<dyn Clients>,
    commands: mpsc::UnboundedReceiver<Command>,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())?;
    let worker = Rc::new(Worker {
        index,
        shared,
        clients: RefCell::new(clients),
        live: Rc::default(),
        guests: Guests::default(),
        bound: Bound::default(),
        turns: RefCell::default(),
        idle: Rc::default(),
        stopping: Stopping::default(),
    });
    runtime.block_on(work(worker, commands));
    Ok(())
}

async fn work(worker: Rc<Worker>, mut commands: mpsc::UnboundedReceiver<Command>) {
    let mut listeners: HashMap<SocketAddr, JoinHandle<()>> = HashMap::new();
    let mut second = interval(Duration::from_secs(1));
    second.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seconds = 0;
    loop {
        tokio::select! {
            command = commands.recv() => match command {
                Some(Command::Listen(socket, current)) => {
                    let address = socket.local_addr();
                    match (address, TcpListener::from_std(socket)) {
                        (Ok(address), Ok(listener)) => {
                            let accepting = accept(Rc::clone(&worker), listener, current);
                            if let Some(former) = listeners.insert(address, tokio::task::spawn_local(accepting)) {
                                former.abort();
                            }
                        }
                        (Err(error), _) | (_, Err(error)) => {
                            tracing::error!("a listening socket cannot be used: {error}");
                        }
                    }
                }
                Some(Command::Close(address)) => {
                    if let Some(listener) = listeners.remove(&address) {
                        listener.abort();
                    }
                }
                Some(Command::Finish) => return finish(&worker, &mut commands).await,
                None => return,
            },
            _ = second.tick() => {
                seconds += 1;
                keep_house(&worker, seconds);
            }
        }
    }
}

/// How long requests in flight may take when the daemon stops.
pub(crate) const FAREWELL: Duration = Duration::from_secs(5);
/// How long connections may take to notice that this time is over.
const LAST: Duration = Duration::from_millis(500);
/// How often a worker that ends looks whether all have gone.
const GONE: Duration = Duration::from_millis(10);

/// Lets what is in flight end; connections that do not are told, and their worker ends all the same.
/// The end of the commands ends it at once.
async fn finish(worker: &Rc<Worker>, commands: &mut mpsc::UnboundedReceiver<Command>) {
    worker.stopping.finish.come();
    let told_again = async { while commands.recv().await.is_some() {} };
    tokio::select! {
        () = all_gone(worker) => {}
        () = sleep(FAREWELL) => {}
        () = told_again => {}
    }
    worker.stopping.over.come();
    let _ = timeout(LAST, all_gone(worker)).await;
}

/// Waits until nobody else has the worker: every connection and every listener does.
async fn all_gone(worker: &Rc<Worker>) {
    while Rc::strong_count(worker) > 1 {
        sleep(GONE).await;
    }
}

fn keep_house(worker: &Worker, seconds: u32) {
    let snapshot = worker.handle.snapshot();
    let serves = |number| choose::still_serves(&snapshot, number);
    worker.bound.end(serves);
    worker.guests.pass(&snapshot.state.client_ranges);
    // What a snapshot makes free nobody else tells.
    worker.loads.wake();
    worker.idle.expire();
    allocator::give_back();
    if seconds.is_multiple_of(TOUCH_S / 2) {
        worker.live.touch(worker.clients.borrow_mut().as_mut());
    }
}

/// Pause after a connection could not be accepted for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

async fn accept(worker: Rc<Worker>, listener: TcpListener, current: Arc<ArcSwap<Front>>) {
    loop {
        let accepted = tokio::select! {
            // Who has connected before the end is served.
            biased;
            accepted = listener.accept() => accepted,
            () = worker.stopping.finish.wait() => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                let expected = Expected::one();
                let is_last = descriptors::last_for_clients(stream.as_raw_fd());
                let front = current.load_full();
                let serving = connection::serve(Rc::clone(&worker), front, stream, peer, expected);
                tokio::task::spawn_local(serving);
                if is_last {
                    await_descriptors(&worker, &listener).await;
                }
            }
            // Of the connection that would have been: the next may be there.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
                ) => {}
            Err(error) => {
                if worker.complaints.is_due(Subject::Accept) {
                    tracing::error!("connections cannot be accepted, and wait: {error}");
                }
                if worker.stopping.finish.has_come() {
                    return;
                }
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Waits until descriptors are free. Clients wait in the listener's queue meanwhile.
async fn await_descriptors(worker: &Worker, listener: &TcpListener) {
    if worker.complaints.is_due(Subject::Accept) {
        tracing::error!(
            "connections wait to be accepted: the limit of open files is reached; raise it, such \
             as by LimitNOFILE= in the unit of vipd"
        );
    }
    while !descriptors::enough_for_clients(listener) && !worker.stopping.finish.has_come() {
        sleep(ACCEPT_PAUSE).await;
    }
}
