//! An event loop on a thread of its own. What it has, no other thread touches.

use std::{
    cell::RefCell, collections::HashMap, io, net::SocketAddr, rc::Rc, sync::Arc, time::Duration,
};

use arc_swap::ArcSwap;
use lb_common::affinity::TOUCH_S;
use tokio::{
    net::TcpListener,
    sync::mpsc,
    task::{JoinHandle, LocalSet},
    time::{MissedTickBehavior, interval, sleep},
};

use super::{
    access_log::{AccessLog, Side},
    choose::{self, Turns},
    connection,
    front::{Front, Upstream},
    guests::Guests,
    http::sign_on::Http1Only,
    live::{Bound, Live},
    loads::Loads,
    sources::Sources,
    upstream::{ConnectError, Idle},
};
use crate::{
    control::{Handle, event::BackendName},
    dataplane::affinity::Clients,
};

/// What a worker is told.
pub(crate) enum Command {
    /// Accept connections of a socket, for the front that is in force at the time.
    Listen(std::net::TcpListener, Arc<ArcSwap<Front>>),
    /// Accept no more on an address. Connections that are there stay.
    Close(SocketAddr),
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
        tracing::debug!(
            pool = upstream.backend.pool,
            backend = upstream.backend.backend,
            "no connection to {}: {}",
            upstream.label,
            error.detail
        );
        if error.failure.side() == Side::Backend {
            // A full queue has enough to look into.
            let _ = self.accused.try_send(upstream.backend.clone());
        }
    }
}

/// Runs a worker until its commands end.
pub(crate) fn run(
    index: usize,
    shared: Shared,
    clients: Box<dyn Clients>,
    commands: mpsc::UnboundedReceiver<Command>,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let worker = Rc::new(Worker {
        index,
        shared,
        clients: RefCell::new(clients),
        live: Rc::default(),
        guests: Guests::default(),
        bound: Bound::default(),
        turns: RefCell::default(),
        idle: Rc::default(),
    });
    LocalSet::new().block_on(&runtime, work(worker, commands));
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
                None => return,
            },
            _ = second.tick() => {
                seconds += 1;
                keep_house(&worker, seconds);
            }
        }
    }
}

fn keep_house(worker: &Worker, seconds: u32) {
    let snapshot = worker.handle.snapshot();
    let serves = |number| choose::still_serves(&snapshot, number);
    worker.bound.end(serves);
    worker
        .guests
        .pass(&snapshot.state.client_ranges, worker.index);
    worker.idle.expire();
    if seconds.is_multiple_of(TOUCH_S / 2) {
        worker.live.touch(worker.clients.borrow_mut().as_mut());
    }
}

/// Pause after a connection could not be accepted for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

async fn accept(worker: Rc<Worker>, listener: TcpListener, current: Arc<ArcSwap<Front>>) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let front = current.load_full();
                let worker = Rc::clone(&worker);
                tokio::task::spawn_local(connection::serve(worker, front, stream, peer));
            }
            // Of the connection that would have been: the next may be there.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
                ) => {}
            Err(error) => {
                tracing::debug!("a connection cannot be accepted: {error}");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
