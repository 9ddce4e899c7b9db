//! A client's connection, and the backend that it keeps to.

use std::{
    cell::{Cell, RefCell},
    fmt,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use hyper::header::HeaderValue;
use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};

use super::{
    super::{
        choose::{self, Asker, Chosen},
        counters::Counters,
        failure::Failure,
        front::Front,
        guests::Fate,
        live::LiveClient,
        lost::Lost,
        stopping::Step,
        upstream::{self, Lease},
        worker::Worker,
    },
    activity::Activity,
    exchange::Exchange,
};

/// A client's connection.
pub(crate) struct Conversation {
    pub(crate) worker: Rc<Worker>,
    pub(crate) front: Arc<Front>,
    pub(crate) client: SocketAddr,
    /// Its address, as backends are told it.
    pub(crate) address: HeaderValue,
    /// The name that the client asked for in TLS, in lower case.
    pub(crate) sni: Option<Box<str>>,
    pub(crate) tls_version: Option<&'static str>,
    pub(crate) http2: bool,
    pub(crate) activity: Arc<Activity>,
    /// How long the TLS handshake took, until a request has told it.
    handshake: Cell<Option<Duration>>,
    /// Whether its client was sent away.
    fate: Fate,
    /// A request has told of that.
    told: Cell<bool>,
    /// The backend of the last request.
    chosen: RefCell<Option<Choice>>,
    /// The client's affinity entries, one for each pool that it has met, do not age while it is
    /// connected.
    live: RefCell<Vec<LiveClient>>,
    /// The connection to a backend that belongs to this client alone.
    bound: RefCell<Option<Lease>>,
    /// The end of a bound connection that somebody waits for already.
    watched: RefCell<Option<Rc<Step>>>,
    /// The connection shall end: what it was bound to has ended.
    close: Rc<Notify>,
    /// Why it is ended under its requests.
    late: Cell<Option<Failure>>,
    /// A backend's connection was bound to it, and no other will do any more.
    signed_on: Cell<bool>,
}

/// A choice that holds for some moments.
struct Choice {
    place: usize,
    until: Instant,
    chosen: Chosen,
}

/// How long a connection keeps to its backend without asking again.
const CHOICE_HOLDS: Duration = Duration::from_secs(1);
/// The same for a detour: to find that the client's own backend still accepts nothing may take each
/// time as long as a connection may take.
const DETOUR_HOLDS: Duration = Duration::from_secs(10);

impl fmt::Debug for Conversation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conversation")
            .field("client", &self.client)
            .finish_non_exhaustive()
    }
}

/// What a connection was found to be before the first request.
pub(crate) struct Opened {
    pub(crate) client: SocketAddr,
    pub(crate) sni: Option<Box<str>>,
    pub(crate) tls_version: Option<&'static str>,
    pub(crate) http2: bool,
    pub(crate) handshake: Option<Duration>,
    pub(crate) fate: Fate,
}

/// Why there is no connection to a backend.
pub(crate) enum Unconnected {
    /// Nobody is eligible, or has room.
    Nobody(Failure),
    /// This one could not be reached.
    Failed(u16, Failure),
    /// The one that the client has signed on over has ended. What it asks now it asks as somebody
    /// whom another connection does not know: it is left to the client to ask again.
    Lost,
}

impl Conversation {
    /// Returns a connection that has had no request yet.
    pub(crate) fn new(
        worker: Rc<Worker>,
        front: Arc<Front>,
        opened: Opened,
        activity: Arc<Activity>,
    ) -> Self {
        Self {
            worker,
            front,
            client: opened.client,
            address: written(opened.client.ip()),
            sni: opened.sni,
            tls_version: opened.tls_version,
            http2: opened.http2,
            activity,
            handshake: Cell::new(opened.handshake),
            fate: opened.fate,
            told: Cell::new(false),
            chosen: RefCell::default(),
            live: RefCell::default(),
            bound: RefCell::default(),
            watched: RefCell::default(),
            close: Rc::default(),
            late: Cell::new(None),
            signed_on: Cell::new(false),
        }
    }

    /// Returns whether a backend's connection was bound to it.
    pub(crate) fn has_signed_on(&self) -> bool {
        self.signed_on.get()
    }

    /// Waits until the connection shall end after what is in flight.
    pub(crate) async fn told_to_end(&self) {
        tokio::select! {
            () = self.close.notified() => {}
            () = self.worker.stopping.finish.wait() => {}
        }
    }

    /// Returns this worker's counters of the service.
    pub(crate) fn counters(&self) -> &Counters {
        self.front.counters(self.worker.index)
    }

    /// Says why the connection is about to be ended under its requests.
    pub(crate) fn end_late(&self, failure: Failure) {
        self.late.set(Some(failure));
    }

    /// Returns why the connection is ended under its requests; `None`: its client has done so.
    pub(crate) fn late(&self) -> Option<Failure> {
        self.late.get()
    }

    /// Returns whether a request ends because its client was sent away, and shall tell so.
    pub(crate) fn is_sent_away(&self) -> bool {
        let is_refused = self.fate.is_refused();
        self.told.set(self.told.get() || is_refused);
        is_refused
    }

    /// The connection has ended: tells what no request does.
    pub(crate) fn ended(&self, lost: Option<Lost>) {
        let lost = match self.fate.is_refused() {
            true if self.told.get() || self.activity.is_busy() => None,
            true => Some(Failure::Refused.into()),
            false => lost,
        };
        let Some(lost) = lost else {
            return;
        };
        let begun = self.activity.phase_begun();
        lost.tell(&self.worker, &self.front, self.client, begun, |record| {
            record.handshake = self.first_handshake();
            record.tls_version = self.tls_version;
            record.sni = self.sni.as_deref().map(str::to_owned);
        });
    }

    /// Returns how long the TLS handshake took, for the first request that asks.
    pub(crate) fn first_handshake(&self) -> Option<Duration> {
        self.handshake.take()
    }

    /// Returns the place of the pool that serves a host. The name in TLS must lead to the same one.
    pub(crate) fn route(&self, host: &str) -> Result<usize, Failure> {
        if self.front.service.routes.is_empty() {
            return Ok(0);
        }
        let place = self.front.route(host);
        match &self.sni {
            Some(name) if **name != *host && self.front.route(name) != place => {
                Err(Failure::Misdirected)
            }
            _ => Ok(place),
        }
    }

    /// A client that is bound to a backend of one pool asks another pool on another connection.
    pub(crate) fn keeps_to(&self, place: usize) -> Result<(), Failure> {
        let pool = self.front.pools.get(place).map(|pool| &pool.name);
        match &*self.bound.borrow() {
            Some(bound) if Some(&bound.upstream.backend.pool) != pool => Err(Failure::Misdirected),
            _ => Ok(()),
        }
    }

    /// Keeps a backend's connection for this client alone.
    pub(crate) fn bind(&self, lease: Lease) {
        self.signed_on.set(true);
        if lease.is_closed() {
            self.close.notify_one();
            return;
        }
        self.watch(&lease);
        *self.bound.borrow_mut() = Some(lease);
    }

    /// Ends the client's connection when a backend's ends or goes out of service.
    fn watch(&self, lease: &Lease) {
        let ended = lease.ended();
        let watched = self.watched.replace(Some(Rc::clone(&ended)));
        // It comes back after each request.
        if watched.is_some_and(|watched| Rc::ptr_eq(&watched, &ended)) {
            return;
        }
        let gone = self.worker.bound.to(lease.number);
        let close = Rc::clone(&self.close);
        tokio::task::spawn_local(async move {
            tokio::select! {
                () = ended.wait() => {}
                () = gone.notified() => {}
            }
            // Wakes nobody if the client has gone before.
            close.notify_one();
        });
    }

    /// Returns a connection to the client's backend: its own, one that waits, or a new one.
    pub(crate) async fn connection(
        &self,
        exchange: &mut Exchange,
        place: usize,
        cookie: Option<u16>,
        failed: &[u16],
        signs_on: bool,
    ) -> Result<Lease, Unconnected> {
        if self.signed_on.get() {
            let bound = self.bound.borrow_mut().take();
            let mut bound = bound.ok_or(Unconnected::Lost)?;
            let ready = timeout(self.front.service.timeouts.connect, bound.sender.ready());
            return match ready.await {
                Ok(Ok(())) => Ok(bound),
                _ => Err(Unconnected::Lost),
            };
        }
        let chosen = self
            .choose(place, cookie, failed)
            .await
            .map_err(Unconnected::Nobody)?;
        exchange.trying(&chosen.upstream);
        let worker = &self.worker;
        let load = worker.loads.take(chosen.number);
        let source = self.front.service.transparent.then_some(self.client.ip());
        let waiting = match signs_on || exchange.retries > 0 {
            // Nobody has signed on over a connection that nobody has used, and none that waits is
            // better than the one that has just been found dead.
            true => Err(load),
            false => worker
                .idle
                .take(&chosen.upstream, source, chosen.number, load),
        };
        let lease = match waiting {
            Ok(lease) => lease,
            Err(load) => {
                let client = self.client.ip();
                // Rare beside requests, none of which shall carry the room for it.
                let made = Box::pin(upstream::connect_http(
                    &self.front,
                    &chosen.upstream,
                    client,
                    chosen.number,
                    load,
                ));
                match made.await {
                    Ok(lease) => {
                        self.counters().connects.add(1);
                        lease
                    }
                    Err(error) => {
                        worker.accuse(&chosen.upstream, &error);
                        self.chosen.replace(None);
                        return Err(Unconnected::Failed(chosen.number, error.failure));
                    }
                }
            }
        };
        self.remember(&chosen);
        Ok(lease)
    }

    /// Returns the client's backend; asks again after a while.
    async fn choose(
        &self,
        place: usize,
        cookie: Option<u16>,
        failed: &[u16],
    ) -> Result<Chosen, Failure> {
        if failed.is_empty()
            && cookie.is_none()
            && let Some(chosen) = self.last_choice(place)
        {
            return Ok(chosen);
        }
        let asker = Asker {
            client: self.client.ip(),
            port: self.client.port(),
            failed,
            cookie,
        };
        let chosen = choose::choose_in_time(&self.worker, &self.front, place, asker).await?;
        let holds = match failed {
            [] => CHOICE_HOLDS,
            _ => DETOUR_HOLDS,
        };
        self.chosen.replace(Some(Choice {
            place,
            until: Instant::now() + holds,
            chosen: chosen.clone(),
        }));
        Ok(chosen)
    }

    /// Returns the backend of the last request, if that still holds.
    fn last_choice(&self, place: usize) -> Option<Chosen> {
        let choice = self.chosen.borrow();
        let choice = choice.as_ref()?;
        let snapshot = self.worker.handle.glance();
        let holds = choice.place == place
            && Instant::now() < choice.until
            && choose::still_serves(&snapshot, choice.chosen.number);
        holds.then(|| choice.chosen.clone())
    }

    /// The backend has taken the client: from now on it belongs there.
    fn remember(&self, chosen: &Chosen) {
        let Some(memory) = chosen.memory else {
            return;
        };
        let mut live = self.live.borrow_mut();
        let lives = live.iter().any(|one| one.key() == &memory.key);
        let mut choice = self.chosen.borrow_mut();
        let held = choice
            .as_mut()
            .and_then(|choice| choice.chosen.memory.as_mut());
        let known = match held {
            Some(held) if held.key == memory.key => {
                memory.known | std::mem::replace(&mut held.known, true)
            }
            _ => memory.known,
        };
        if !known || !lives {
            self.worker.remember(&memory);
        }
        if !lives {
            live.push(self.worker.live.enter(memory.key));
        }
    }
}

/// Returns an address as the value of a header.
fn written(address: IpAddr) -> HeaderValue {
    let text = Bytes::from(address.to_string());
    // Digits, dots and colons are always a value.
    HeaderValue::from_maybe_shared(text).unwrap_or_else(|_| HeaderValue::from_static("unknown"))
}
