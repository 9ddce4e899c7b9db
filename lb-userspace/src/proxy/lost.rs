//! What goes wrong with a connection while no request is there to tell of it: each such failure is
//! counted and has a line of its own in the access log, as those of requests are and have.

use std::{net::SocketAddr, sync::Arc, time::SystemTime};

use tokio::time::Instant;

use super::{
    access_log::{Kind, Record},
    failure::Failure,
    front::Front,
    http::activity::Activity,
    worker::Worker,
};
use crate::config::model::Forwarding;

/// A failure outside of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lost {
    failure: Failure,
    /// A request's head was refused, and its client was told by the status of the failure.
    answered: bool,
}

impl From<Failure> for Lost {
    fn from(failure: Failure) -> Self {
        Self {
            failure,
            answered: false,
        }
    }
}

/// What the engine calls a target that is longer than it takes: it tells by these words alone.
const TARGET_TOO_LONG: &str = "URI too long";

impl Lost {
    /// Judges why the engine of HTTP/1 ended a connection: a head that it refused is seen by nobody
    /// else, nor is one that its client broke off. `None`: the requests tell of it, or there is
    /// nothing to tell.
    pub(crate) fn by_engine(error: &hyper::Error, activity: &Activity) -> Option<Self> {
        if error.is_parse_version_h2() {
            return Some(Failure::BadRequest.into());
        }
        if error.is_parse() {
            let failure = match error.is_parse_too_large() {
                true if error.to_string() == TARGET_TOO_LONG => Failure::TargetTooLong,
                true => Failure::HeaderTooLarge,
                false => Failure::BadRequest,
            };
            return Some(Self {
                failure,
                answered: true,
            });
        }
        activity
            .is_in_head()
            .then_some(Failure::ClientClosed.into())
    }

    /// Counts it and writes its line. It is about what began at `begun`: the connection, or the head.
    /// `more` says what else is known.
    pub(crate) fn tell(
        self,
        worker: &Worker,
        front: &Front,
        client: SocketAddr,
        begun: Instant,
        more: impl FnOnce(&mut Record),
    ) {
        let Self { failure, answered } = self;
        let counters = front.counters(worker.index);
        counters.failures.add(failure);
        let status = failure.status().filter(|_| answered);
        if let Some(status) = status {
            counters.requests.add(1);
            counters.answered(status);
        }
        if !worker.access.is_on() {
            return;
        }
        let kind = match front.service.forwarding {
            Forwarding::Http => Kind::Http,
            Forwarding::Redirect => Kind::Redirect,
            Forwarding::Tcp | Forwarding::Snat | Forwarding::Monitor => Kind::Tcp,
        };
        let took = begun.elapsed();
        let now = SystemTime::now();
        let mut record = Record {
            time: now.checked_sub(took).unwrap_or(now),
            status: status.map(|status| status.as_u16()),
            total: Some(took),
            fault: Some(failure.side()),
            reason: Some(failure.label().into()),
            ..Record::begin(Arc::clone(&front.name), kind, client)
        };
        more(&mut record);
        worker.access.write_if_quiet(record);
    }
}
