//! HTTP between a client and the backends.
//!
//! [`serve`] has a connection, [`answer`] a request. [`way`] is the way of a request: check, route,
//! choose a backend, a connection to it, headers, send, judge the answer, stream it.

pub(crate) mod activity;
pub(crate) mod body;
mod cookie;
pub(crate) mod exchange;
mod headers;
mod pages;
mod request;
mod response;
pub(crate) mod sign_on;
mod upgrade;

use std::{
    cell::{Cell, RefCell},
    fmt,
    net::SocketAddr,
    pin::{Pin, pin},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use hyper::{
    HeaderMap, Method, Request, Response, StatusCode, Uri, Version,
    body::{Body as _, Incoming},
    header::{
        CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HOST, HeaderValue,
        STRICT_TRANSPORT_SECURITY, TRANSFER_ENCODING, UPGRADE,
    },
    http::request::Parts,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Notify,
    time::{Instant, sleep_until, timeout},
};

use super::{
    choose::{self, Asker, Chosen},
    counters::Counters,
    failure::Failure,
    front::Front,
    live::LiveClient,
    upstream::{self, Ended, Lease},
    worker::Worker,
};
use crate::config::model::Service;
use activity::{Activity, Verdict, Watched};
use body::{Gate, Progress, RequestBody, ResponseBody};
use exchange::Exchange;

/// A client's connection.
pub(crate) struct Conversation {
    pub(crate) worker: Rc<Worker>,
    pub(crate) front: Arc<Front>,
    pub(crate) client: SocketAddr,
    /// The name that the client asked for in TLS, in lower case.
    pub(crate) sni: Option<Box<str>>,
    pub(crate) tls_version: Option<&'static str>,
    pub(crate) http2: bool,
    pub(crate) activity: Arc<Activity>,
    /// How long the TLS handshake took, until a request has told it.
    handshake: Cell<Option<Duration>>,
    /// The backend of the last request.
    chosen: RefCell<Option<Choice>>,
    /// The client's affinity entries, one for each pool that it has met, do not age while it is
    /// connected.
    live: RefCell<Vec<LiveClient>>,
    /// The connection to a backend that belongs to this client alone.
    bound: RefCell<Option<Lease>>,
    /// The end of a bound connection that somebody waits for already.
    watched: RefCell<Option<Rc<Ended>>>,
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
/// Backends that are tried for one request.
const ATTEMPTS: u8 = 3;

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
}

/// Serves a client's connection until it ends.
pub(crate) async fn serve<S>(worker: Rc<Worker>, front: Arc<Front>, opened: Opened, stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let activity = Activity::new();
    let io = TokioIo::new(Watched::new(stream, Arc::clone(&activity)));
    let conversation = Rc::new(Conversation {
        worker,
        front,
        client: opened.client,
        sni: opened.sni,
        tls_version: opened.tls_version,
        http2: opened.http2,
        activity,
        handshake: Cell::new(opened.handshake),
        chosen: RefCell::default(),
        live: RefCell::default(),
        bound: RefCell::default(),
        watched: RefCell::default(),
        close: Rc::default(),
        late: Cell::new(None),
        signed_on: Cell::new(false),
    });
    let service = {
        let conversation = Rc::clone(&conversation);
        service_fn(move |request| answer(Rc::clone(&conversation), request))
    };
    let limits = &conversation.front.service.limits;
    if opened.http2 {
        let connection = hyper::server::conn::http2::Builder::new(Local)
            .timer(TokioTimer::new())
            .max_concurrent_streams(limits.streams)
            .max_header_list_size(limits.header_size_bytes)
            .max_send_buf_size(SEND_BUFFER)
            .serve_connection(io, service);
        drive(&conversation, pin!(connection)).await;
    } else {
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            // The activity knows more of what a client does.
            .header_read_timeout(None)
            .max_headers(limits.headers as usize)
            .max_header_size(limits.header_size_bytes as usize)
            .half_close(false)
            .serve_connection(io, service)
            .with_upgrades();
        drive(&conversation, pin!(connection)).await;
    }
}

/// Bytes of answers that one stream of HTTP/2 may keep while its client does not take them.
const SEND_BUFFER: usize = 64 * 1024;
/// How long a connection that is told to end may still take.
const FAREWELL: Duration = Duration::from_secs(5);

/// A connection of either version of HTTP.
trait Connection: Future<Output = hyper::Result<()>> {
    fn finish(self: Pin<&mut Self>);
}

impl<I, S> Connection for hyper::server::conn::http1::UpgradeableConnection<I, S>
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    S: hyper::service::HttpService<Incoming, ResBody = ResponseBody>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    fn finish(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

impl<I, S> Connection for hyper::server::conn::http2::Connection<I, S, Local>
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
    S: hyper::service::HttpService<Incoming, ResBody = ResponseBody>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    S::Future: 'static,
    Self: Future<Output = hyper::Result<()>>,
{
    fn finish(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

/// Runs a connection, and ends it when its client takes too long.
async fn drive<C: Connection>(conversation: &Conversation, mut connection: Pin<&mut C>) {
    let timeouts = &conversation.front.service.timeouts;
    let judge = || conversation.activity.verdict(timeouts, conversation.http2);
    let first = match judge() {
        Verdict::Until(moment) => moment,
        Verdict::Idle | Verdict::Late(_) => Instant::now(),
    };
    let mut timer = pin!(sleep_until(first));
    let mut finishing = false;
    loop {
        tokio::select! {
            biased;
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(client = %conversation.client, "a connection ended: {error}");
                    // The engine has answered, and nobody else has seen the request.
                    if error.is_parse() {
                        conversation.counters().failures.add(Failure::BadRequest);
                    }
                }
                return;
            }
            () = conversation.told_to_end(), if !finishing => {
                connection.as_mut().finish();
                timer.as_mut().reset(Instant::now() + FAREWELL);
                finishing = true;
            }
            () = timer.as_mut() => match judge() {
                // The answer has left its backend and waits for a slow client.
                _ if finishing && conversation.activity.is_taking(timeouts.body) => {
                    timer.as_mut().reset(Instant::now() + FAREWELL);
                }
                _ if finishing => return,
                Verdict::Until(moment) => timer.as_mut().reset(moment),
                Verdict::Idle => {
                    connection.as_mut().finish();
                    timer.as_mut().reset(Instant::now() + FAREWELL);
                    finishing = true;
                }
                Verdict::Late(failure) => {
                    // Requests that are under way end with it, and each of them counts it.
                    conversation.late.set(Some(failure));
                    if !conversation.activity.is_busy() {
                        conversation.counters().failures.add(failure);
                    }
                    return;
                }
            },
        }
    }
}

/// Runs the streams of HTTP/2 on the thread of their connection.
#[derive(Clone, Copy, Debug)]
struct Local;

impl<F: Future + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(async move {
            future.await;
        });
    }
}

type Refusal = Box<dyn std::error::Error + Send + Sync>;

/// Answers a request.
///
/// # Errors
///
/// Only where a stream of HTTP/2 is to be reset.
async fn answer(
    conversation: Rc<Conversation>,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Refusal> {
    let (parts, body) = request.into_parts();
    let version = parts.version;
    let mut exchange = Exchange::begin(&conversation, &parts);
    let failure = match way(&conversation, &mut exchange, parts, body).await {
        Ok(Answer { response, idle }) => {
            let (parts, body) = response.into_parts();
            let body = ResponseBody::streaming(body, idle, exchange);
            return Ok(Response::from_parts(parts, body));
        }
        Err(Stop::Upgraded(response, tunnel)) => {
            tokio::task::spawn_local(upgrade::run(Rc::clone(&conversation), exchange, tunnel));
            return Ok(response.map(|()| ResponseBody::none()));
        }
        Err(Stop::Failed(failure)) => failure,
    };
    exchange.failed(failure);
    if failure == Failure::Http11Required {
        conversation.worker.http1_only.add(conversation.client.ip());
        exchange.fail(failure);
        return Err(h2::Error::from(h2::Reason::HTTP_1_1_REQUIRED).into());
    }
    let Some(status) = failure.status() else {
        exchange.fail(failure);
        return Err(failure.label().into());
    };
    exchange.status = Some(status);
    let mut response = pages::page(&conversation.front, status, failure, exchange);
    if version != Version::HTTP_2 && closes(failure) {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(CONNECTION, close);
    }
    Ok(response)
}

/// Returns whether what follows on the connection cannot be trusted to be a request.
fn closes(failure: Failure) -> bool {
    matches!(
        failure,
        Failure::BadRequest | Failure::RequestTimeout | Failure::BodyTooLarge
    )
}

/// A backend's answer, and how long its body may stand still.
struct Answer {
    response: Response<Incoming>,
    idle: Duration,
}

/// Why there is no answer to stream.
enum Stop {
    Failed(Failure),
    /// The connection is something else from now on.
    Upgraded(Response<()>, upgrade::Both),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// The way of a request.
async fn way(
    conversation: &Conversation,
    exchange: &mut Exchange,
    mut parts: Parts,
    body: Incoming,
) -> Result<Answer, Stop> {
    let front = &conversation.front;
    let asked = request::check(&parts)?;
    let place = conversation.route(&asked.host)?;
    conversation.keeps_to(place)?;
    let signs_on = sign_on::is_part_of(&parts.headers);
    if signs_on && conversation.http2 {
        return Err(Failure::Http11Required.into());
    }
    exchange.bind = signs_on;
    let cookie = cookie::named(conversation, place, &mut parts.headers);
    let origin = headers::Origin {
        client: conversation.client,
        port: front.service.port,
        trusted: &front.service.trusted_proxies,
        host: asked.host_header.as_ref(),
    };
    if !body.is_end_stream() || parts.version != Version::HTTP_11 {
        // A tunnel begins where the request ends, and only there (RFC 9110 section 7.8).
        parts.headers.remove(UPGRADE);
    }
    let upgrade = headers::prepare_request(&mut parts.headers, &origin)?;
    let on_client = upgrade
        .is_some()
        .then(|| parts.extensions.remove::<hyper::upgrade::OnUpgrade>())
        .flatten();
    let body = incoming_body(conversation, exchange, &parts, body)?;
    let mut outgoing = Outgoing::new(parts, body, signs_on);

    let mut failed: Vec<u16> = Vec::new();
    let mut last = Failure::NoBackend;
    let response = loop {
        if exchange.retries >= ATTEMPTS {
            return Err(last.into());
        }
        let lease = match conversation
            .connection(exchange, place, cookie, &failed, signs_on)
            .await
        {
            Ok(lease) => lease,
            Err(Unconnected::Nobody) => return Err(last.into()),
            Err(Unconnected::Lost) => return Err(Failure::SignOnLost.into()),
            Err(Unconnected::Failed(number, failure)) => {
                last = failure;
                failed.push(number);
                exchange.retries += 1;
                continue;
            }
        };
        let number = lease.number;
        let reused = lease.reused;
        exchange.connected(&lease);
        exchange.lease = Some(lease);
        match send(conversation, exchange, &mut outgoing).await {
            Ok(response) => break response,
            Err(Unsent::Again(failure)) => {
                last = failure;
                exchange.lease = None;
                exchange.retries += 1;
                // A connection that had waited may have died alone.
                if !reused {
                    failed.push(number);
                }
            }
            Err(Unsent::Failed(failure)) => return Err(failure.into()),
        }
    };
    finish(conversation, exchange, response, upgrade, on_client, cookie)
}

/// Why there is no connection to a backend.
enum Unconnected {
    /// Nobody is eligible.
    Nobody,
    /// This one could not be reached.
    Failed(u16, Failure),
    /// The one that the client has signed on over has ended. What it asks now it asks as somebody
    /// whom another connection does not know: it is left to the client to ask again.
    Lost,
}

impl Conversation {
    /// Waits until the connection shall end after what is in flight.
    async fn told_to_end(&self) {
        tokio::select! {
            () = self.close.notified() => {}
            () = self.worker.stopping.finish.wait() => {}
        }
    }

    /// Returns this worker's counters of the service.
    pub(crate) fn counters(&self) -> &Counters {
        self.front.counters(self.worker.index)
    }

    /// Returns why the connection is ended under its requests; `None`: its client has done so.
    pub(crate) fn late(&self) -> Option<Failure> {
        self.late.get()
    }

    /// Returns how long the TLS handshake took, for the first request that asks.
    pub(crate) fn first_handshake(&self) -> Option<Duration> {
        self.handshake.take()
    }

    /// Returns the place of the pool that serves a host. The name in TLS must lead to the same one.
    fn route(&self, host: &str) -> Result<usize, Failure> {
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
    fn keeps_to(&self, place: usize) -> Result<(), Failure> {
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
    async fn connection(
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
            .ok_or(Unconnected::Nobody)?;
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
                let made = upstream::connect_http(
                    &self.front,
                    &chosen.upstream,
                    client,
                    chosen.number,
                    load,
                );
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
    fn choose(&self, place: usize, cookie: Option<u16>, failed: &[u16]) -> Option<Chosen> {
        let snapshot = self.worker.handle.snapshot();
        if failed.is_empty()
            && cookie.is_none()
            && let Some(choice) = &*self.chosen.borrow()
            && choice.place == place
            && Instant::now() < choice.until
            && choose::still_serves(&snapshot, choice.chosen.number)
        {
            return Some(choice.chosen.clone());
        }
        let asker = Asker {
            client: self.client.ip(),
            port: self.client.port(),
            failed,
            cookie,
        };
        let chosen = choose::choose(&self.worker, &snapshot, &self.front, place, asker)?;
        let holds = match failed {
            [] => CHOICE_HOLDS,
            _ => DETOUR_HOLDS,
        };
        self.chosen.replace(Some(Choice {
            place,
            until: Instant::now() + holds,
            chosen: chosen.clone(),
        }));
        Some(chosen)
    }

    /// The backend has taken the client: from now on it belongs there.
    fn remember(&self, chosen: &Chosen) {
        let Some(memory) = chosen.memory else {
            return;
        };
        let mut live = self.live.borrow_mut();
        let lives = live.iter().any(|one| one.key() == &memory.key);
        let known = memory.known
            || self.chosen.borrow().as_ref().is_some_and(|choice| {
                choice
                    .chosen
                    .memory
                    .is_some_and(|held| held.known && held.key == memory.key)
            });
        if !known || !lives {
            let mut clients = self.worker.clients.borrow_mut();
            clients.remember(
                &memory.key,
                memory.belongs_to,
                memory.replace || memory.known,
            );
        }
        if let Some(choice) = &mut *self.chosen.borrow_mut()
            && let Some(held) = &mut choice.chosen.memory
        {
            held.known = true;
        }
        if !lives {
            live.push(self.worker.live.enter(memory.key));
        }
    }
}

/// A request that can be sent, and perhaps sent again.
struct Outgoing {
    method: Method,
    uri: Uri,
    version: Version,
    headers: HeaderMap,
    body: Option<RequestBody>,
    /// It asks for nothing to be done, and has nothing that could have been taken.
    replayable: bool,
    expects: bool,
}

impl Outgoing {
    fn new(mut parts: Parts, body: RequestBody, signs_on: bool) -> Self {
        if matches!(body, RequestBody::Streaming(_)) && !parts.headers.contains_key(CONTENT_LENGTH)
        {
            // Unless it is told, the engine takes GET for a request without a body.
            let chunked = HeaderValue::from_static("chunked");
            parts.headers.insert(TRANSFER_ENCODING, chunked);
        }
        let target = parts.uri.path_and_query().cloned();
        let replayable = matches!(body, RequestBody::Empty)
            && !signs_on
            && matches!(
                parts.method,
                Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE
            );
        let expects = parts.headers.contains_key(EXPECT);
        // HTTP/1.1 knows no request without a host (RFC 9112 section 3.2).
        let version = match parts.headers.contains_key(HOST) {
            true => Version::HTTP_11,
            false => Version::HTTP_10,
        };
        Self {
            version,
            method: parts.method,
            uri: target.map_or_else(|| Uri::from_static("/"), Uri::from),
            headers: parts.headers,
            body: Some(body),
            replayable,
            expects,
        }
    }

    /// Returns the request; what cannot be sent again is moved into it.
    fn take(&mut self) -> Option<Request<RequestBody>> {
        let body = match self.replayable {
            true => RequestBody::Empty,
            false => self.body.take()?,
        };
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.version_mut() = self.version;
        *request.headers_mut() = match self.replayable {
            true => self.headers.clone(),
            false => std::mem::take(&mut self.headers),
        };
        Some(request)
    }

    /// Takes a request back that nothing was sent of.
    fn put_back(&mut self, request: Request<RequestBody>) {
        let (parts, body) = request.into_parts();
        self.headers = parts.headers;
        self.body = Some(body);
    }

    fn can_be_sent(&self) -> bool {
        self.body.is_some()
    }
}

/// Why a request has no answer.
enum Unsent {
    /// It can be sent to somebody.
    Again(Failure),
    /// It cannot.
    Failed(Failure),
}

/// Returns a request's body as it goes to the backend.
fn incoming_body(
    conversation: &Conversation,
    exchange: &mut Exchange,
    parts: &Parts,
    body: Incoming,
) -> Result<RequestBody, Failure> {
    let service = &conversation.front.service;
    let limit = service.limits.body_size_bytes;
    if limit > 0 && body.size_hint().lower() > limit {
        return Err(Failure::BodyTooLarge);
    }
    let expects = headers::has_token(&parts.headers, &EXPECT, b"100-continue");
    let gate = expects.then(Arc::<Gate>::default);
    let (body, progress) = RequestBody::new(
        body,
        limit,
        service.timeouts.body,
        gate.clone(),
        &conversation.activity,
    );
    exchange.progress = progress;
    exchange.gate = gate;
    Ok(body)
}

/// Sends a request over the exchange's connection, and waits for the head of the answer.
async fn send(
    conversation: &Conversation,
    exchange: &mut Exchange,
    outgoing: &mut Outgoing,
) -> Result<Response<Incoming>, Unsent> {
    let signed_on = conversation.signed_on.get();
    let failure = match signed_on {
        true => Failure::SignOnLost,
        false => Failure::BackendClosed,
    };
    let (Some(mut request), Some(lease)) = (outgoing.take(), &mut exchange.lease) else {
        return Err(Unsent::Failed(failure));
    };
    if let (true, Some(gate)) = (outgoing.expects, &exchange.gate) {
        let gate = Arc::clone(gate);
        hyper::ext::on_informational(&mut request, move |informational| {
            if informational.status() == StatusCode::CONTINUE {
                gate.open();
            }
        });
    }
    let sent = lease.sender.try_send_request(request);
    let limit = conversation.front.service.timeouts.response;
    let mut error = match in_time(sent, limit, exchange.progress.as_deref()).await {
        None => return Err(Unsent::Failed(Failure::ResponseTimeout)),
        Some(Ok(response)) => {
            exchange.answered(response.status());
            // The engine would go on in HTTP/1.0 with it, which has no chunks for a body.
            exchange.used_up = response.version() != Version::HTTP_11;
            return Ok(response);
        }
        Some(Err(error)) => error,
    };
    if let Some(request) = error.take_message()
        && !signed_on
    {
        outgoing.put_back(request);
        return Err(Unsent::Again(failure));
    }
    let error = error.into_error();
    tracing::debug!(client = %conversation.client, "no answer: {error}");
    // What the client did wrong with its body is not the backend's fault.
    if let Some(failure) = exchange
        .progress
        .as_ref()
        .and_then(|body| body.failure.get())
    {
        return Err(Unsent::Failed(failure));
    }
    if error.is_parse() {
        return Err(Unsent::Failed(Failure::BadResponse));
    }
    match outgoing.replayable && outgoing.can_be_sent() && !signed_on {
        true => Err(Unsent::Again(failure)),
        false => Err(Unsent::Failed(failure)),
    }
}

/// Waits for an answer, for `limit` from the last bytes of the request on. While the client is
/// waited for, the backend has nothing to answer.
async fn in_time<F: Future>(
    sent: F,
    limit: Duration,
    progress: Option<&Progress>,
) -> Option<F::Output> {
    let mut sent = pin!(sent);
    let mut timer = pin!(sleep_until(Instant::now() + limit));
    loop {
        tokio::select! {
            biased;
            answer = &mut sent => return Some(answer),
            () = &mut timer => match progress {
                Some(body) if body.waits.get() => timer.as_mut().reset(Instant::now() + limit),
                Some(body) if body.moved.get() + limit > Instant::now() => {
                    timer.as_mut().reset(body.moved.get() + limit);
                }
                _ => return None,
            },
        }
    }
}

/// Judges the answer and makes it ready for the client.
fn finish(
    conversation: &Conversation,
    exchange: &mut Exchange,
    mut response: Response<Incoming>,
    upgrade: Option<HeaderValue>,
    on_client: Option<hyper::upgrade::OnUpgrade>,
    cookie: Option<u16>,
) -> Result<Answer, Stop> {
    let service = &conversation.front.service;
    response::check(&response, upgrade.is_some())?;
    // A version is one hop's (RFC 9110 section 2.5): the engine says 1.0 to whom asks so.
    *response.version_mut() = Version::HTTP_11;
    let signs_on = sign_on::is_part_of(response.headers());
    if signs_on && conversation.http2 {
        return Err(Failure::Http11Required.into());
    }
    let number = exchange.lease.as_ref().map(|lease| lease.number);
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let Some(on_client) = on_client else {
            return Err(Failure::BadResponse.into());
        };
        let on_backend = hyper::upgrade::on(&mut response);
        let (mut parts, _) = response.into_parts();
        let protocol = parts.headers.get(UPGRADE).cloned();
        headers::prepare_response(&mut parts.headers);
        parts.headers.remove(CONTENT_LENGTH);
        let upgrades = HeaderValue::from_static("upgrade");
        parts.headers.insert(CONNECTION, upgrades);
        if let Some(protocol) = protocol.or(upgrade) {
            parts.headers.insert(UPGRADE, protocol);
        }
        let both = upgrade::Both {
            on_client,
            on_backend,
        };
        return Err(Stop::Upgraded(Response::from_parts(parts, ()), both));
    }
    exchange.bind |= signs_on || conversation.signed_on.get();
    let backend_closes = headers::has_token(response.headers(), &CONNECTION, b"close");
    let idle = idle_of(&response, service);
    let headers = response.headers_mut();
    headers::prepare_response(headers);
    if exchange.bind && backend_closes {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if let Some(hsts) = &conversation.front.hsts {
        headers.insert(STRICT_TRANSPORT_SECURITY, hsts.clone());
    }
    if let Some(number) = number.filter(|number| cookie != Some(*number)) {
        cookie::set(conversation, number, headers);
    }
    Ok(Answer { response, idle })
}

/// Returns how long an answer's body may stand still: events may be rare.
fn idle_of(response: &Response<Incoming>, service: &Service) -> Duration {
    let kind = response.headers().get(CONTENT_TYPE);
    let events = b"text/event-stream";
    let is_events = kind
        .and_then(|kind| kind.as_bytes().get(..events.len()))
        .is_some_and(|kind| kind.eq_ignore_ascii_case(events));
    match is_events {
        true => service.timeouts.tunnel,
        false => service.timeouts.body,
    }
}
