//! One request and its answer: what is counted and logged of them, and what happens when they are
//! over, however they end.

use std::{borrow::Cow, rc::Rc, sync::Arc, time::Duration};

use hyper::{Method, StatusCode, Version, http::request::Parts};
use tokio::time::Instant;

use super::{
    super::{
        access_log::{Kind, Record},
        failure::Failure,
        front::Upstream,
        upstream::Lease,
    },
    Conversation,
    activity::{Activity, Owed},
    arriving::Arriving,
    body::{Gate, Progress},
};

/// Who gives a request up after so long has waited for a backend, and done nothing to no purpose.
const WAITED: Duration = Duration::from_secs(1);

/// A request that is not over. Whoever drops it says that the client has gone.
#[derive(Debug)]
pub(crate) struct Exchange {
    conversation: Rc<Conversation>,
    begun: Instant,
    over: bool,
    /// The connection to the backend.
    pub(crate) lease: Option<Lease>,
    /// The connection belongs to the client from now on.
    pub(crate) bind: bool,
    /// Nobody else can use the connection afterwards.
    pub(crate) used_up: bool,
    /// The request's body.
    pub(crate) arriving: Option<Arriving>,
    /// What is known of it.
    pub(crate) progress: Option<Rc<Progress>>,
    /// What holds the request's body back.
    pub(crate) gate: Option<Arc<Gate>>,
    pub(crate) status: Option<StatusCode>,
    pub(crate) retries: u8,
    bytes_out: u64,
    failure: Option<Failure>,
    wait: Option<Duration>,
    first_byte: Option<Duration>,
    reused: bool,
    upstream: Option<Arc<Upstream>>,
    /// What is told of it, with what its head says. Only if there is an access log.
    record: Option<Box<Record>>,
}

impl Exchange {
    /// Begins an exchange with a request's head.
    pub(crate) fn begin(
        conversation: &Rc<Conversation>,
        parts: &Parts,
        arriving: Option<Arriving>,
    ) -> Box<Self> {
        conversation.activity.begin(arriving.is_some());
        conversation.counters().requests.add(1);
        let record = conversation
            .worker
            .access
            .is_on()
            .then(|| Box::new(head(conversation, parts)));
        Box::new(Self {
            conversation: Rc::clone(conversation),
            begun: Instant::now(),
            over: false,
            lease: None,
            bind: false,
            used_up: false,
            arriving,
            progress: None,
            gate: None,
            status: None,
            retries: 0,
            bytes_out: 0,
            failure: None,
            wait: None,
            first_byte: None,
            reused: false,
            upstream: None,
            record,
        })
    }

    /// Returns what its client does.
    pub(crate) fn activity(&self) -> &Arc<Activity> {
        &self.conversation.activity
    }

    /// Something of the answer is ready for the client, which may hold back a stream of HTTP/2 and
    /// take others; where there is but one answer, the connection tells.
    pub(crate) fn owes(&self) -> Option<Owed> {
        let activity = self.activity();
        self.conversation.http2.then(|| Owed::begin(activity))
    }

    /// Returns whether what follows a request of HTTP/1 may be lost. The engine takes a bare line feed
    /// for the end of a line of trailers but not for their own end, and drops whatever it has read
    /// beyond: the client would take the answer to a later request for that of the next one.
    pub(crate) fn ends_unclearly(&self) -> bool {
        let in_chunks = |arriving: &Arriving| {
            !self.conversation.http2 && arriving.size_hint().exact().is_none()
        };
        let ends_clearly = |body: &Rc<Progress>| body.ended.get() && !body.trailers.get();
        self.arriving.as_ref().is_some_and(in_chunks)
            && !self.progress.as_ref().is_some_and(ends_clearly)
    }

    /// There is a connection to a backend.
    pub(crate) fn connected(&mut self, lease: &Lease) {
        self.wait = Some(self.begun.elapsed());
        self.reused = lease.reused;
        self.upstream = Some(Arc::clone(&lease.upstream));
    }

    /// A backend is tried.
    pub(crate) fn trying(&mut self, upstream: &Arc<Upstream>) {
        self.upstream = Some(Arc::clone(upstream));
    }

    /// The answer has begun.
    pub(crate) fn answered(&mut self, status: StatusCode) {
        self.first_byte = Some(self.begun.elapsed());
        self.status = Some(status);
    }

    /// So many bytes of the answer went to the client.
    pub(crate) fn sent(&mut self, bytes: u64) {
        self.bytes_out += bytes;
    }

    /// So many bytes went both ways after an upgrade.
    pub(crate) fn tunnelled(&mut self, bytes_in: u64, bytes_out: u64) {
        self.bytes_out += bytes_out;
        self.conversation.counters().bytes_in.add(bytes_in);
    }

    /// Says that something has gone wrong which the client is told by an answer.
    pub(crate) fn failed(&mut self, failure: Failure) {
        self.failure = Some(failure);
        self.lease = None;
    }

    /// The answer is over, and was whole.
    pub(crate) fn complete(mut self) {
        self.over = true;
        if let (Some(arriving), true) = (&self.arriving, self.conversation.http2) {
            arriving.drop_rest();
        }
        let Some(lease) = self.lease.take() else {
            return;
        };
        if self.bind {
            self.conversation.bind(lease);
        } else if !self.used_up
            && self
                .progress
                .as_ref()
                .is_none_or(|progress| progress.ended.get())
        {
            self.conversation.worker.idle.give_back(lease);
        }
    }

    /// The answer ended early: nothing of it is used again.
    pub(crate) fn fail(mut self, failure: Failure) {
        self.over = true;
        self.failed(failure);
    }

    /// Puts in what is known now that it is over.
    fn complete_record(&self, record: &mut Record, total: Duration) {
        let conversation = &self.conversation;
        let upstream = self.upstream.as_ref();
        record.backend = upstream.map(|it| Arc::clone(&it.label));
        record.backend_address = upstream.map(|it| it.address);
        record.status = self.status.map(|status| status.as_u16());
        record.bytes_in = self.progress.as_ref().map_or(0, |body| body.bytes.get());
        record.bytes_out = self.bytes_out;
        record.handshake = conversation.first_handshake();
        record.wait = self.wait;
        record.first_byte = self.first_byte;
        record.total = Some(total);
        record.reused = self.reused;
        record.retries = self.retries;
        record.fault = self.failure.map(Failure::side);
        record.reason = self.failure.map(|failure| failure.label().into());
        record.tls_version = conversation.tls_version;
        record.sni = conversation.sni.as_deref().map(str::to_owned);
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if let Some(gate) = &self.gate {
            gate.cancel();
        }
        let total = self.begun.elapsed();
        if self.over || total >= WAITED {
            self.activity().answered();
        }
        if !self.over {
            let late = self.conversation.late();
            let gone = match self.conversation.worker.stopping.over.has_come() {
                true => Failure::Stopping,
                false => Failure::ClientClosed,
            };
            self.failure = self.failure.or(late).or(Some(gone));
        }
        if self.failure == Some(Failure::ClientClosed) && self.conversation.is_sent_away() {
            self.failure = Some(Failure::Refused);
        }
        let conversation = Rc::clone(&self.conversation);
        let counters = conversation.counters();
        if let Some(status) = self.status {
            counters.answered(status);
        }
        // A connection that ends for abuse has been counted, with whatever was under way on it.
        if let Some(failure) = self.failure.filter(|it| *it != Failure::Http2Abuse) {
            counters.failures.add(failure);
        }
        if let Some(progress) = &self.progress {
            counters.bytes_in.add(progress.bytes.get());
        }
        counters.bytes_out.add(self.bytes_out);
        counters.retries.add(u64::from(self.retries));
        if self.reused {
            counters.reused.add(1);
        }
        if let Some(mut record) = self.record.take() {
            self.complete_record(&mut record, total);
            conversation.worker.access.write(record);
        }
        conversation.activity.end();
    }
}

/// Returns what the access log says of a request's head.
fn head(conversation: &Conversation, parts: &Parts) -> Record {
    let host = parts.headers.get(hyper::header::HOST);
    let target = parts.uri.path_and_query();
    Record {
        method: Some(method(&parts.method)),
        target: Some(target.map_or_else(
            || parts.uri.to_string(),
            |target| target.as_str().to_owned(),
        )),
        host: host
            .and_then(|host| host.to_str().ok())
            .or(parts.uri.host())
            .map(str::to_owned),
        protocol: Some(protocol(parts.version)),
        ..Record::begin(
            Arc::clone(&conversation.front.name),
            Kind::Http,
            conversation.client,
        )
    }
}

/// Returns the name of a method.
pub(crate) fn method(method: &Method) -> Cow<'static, str> {
    match *method {
        Method::GET => "GET".into(),
        Method::HEAD => "HEAD".into(),
        Method::POST => "POST".into(),
        Method::PUT => "PUT".into(),
        _ => method.to_string().into(),
    }
}

/// Returns the name of a version of HTTP.
pub(crate) fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 => "HTTP/0.9",
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_11 => "HTTP/1.1",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/3",
    }
}
