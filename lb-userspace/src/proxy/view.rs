//! What the proxy shows of itself.

use std::{collections::BTreeMap, sync::Arc};

use arc_swap::ArcSwap;

use super::{access_log::AccessLog, front::Front};

/// The proxy's services at any moment. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct View(Arc<ArcSwap<Shown>>);

/// The fronts in force, and why some addresses are not listened on.
#[derive(Debug, Default)]
pub(crate) struct Shown {
    pub(crate) fronts: Vec<Arc<Front>>,
    pub(crate) closed: BTreeMap<String, String>,
    pub(crate) access: Option<AccessLog>,
}

/// One service of the proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceView {
    /// Its name.
    pub name: String,
    /// Why nobody can connect; `None`: they can.
    pub closed: Option<String>,
    /// Connections from clients that are open.
    pub open: u64,
    /// Connections from clients so far.
    pub connections: u64,
    /// Requests so far.
    pub requests: u64,
    /// Answers by the first digit of their status, 1 to 5.
    pub answers: [u64; 5],
    /// Bytes from clients: of bodies, or of the whole connection where it is passed through.
    pub bytes_in: u64,
    /// The same to clients.
    pub bytes_out: u64,
    /// Connections made to backends.
    pub connects: u64,
    /// Requests that found a connection to their backend open.
    pub reused: u64,
    /// Requests and connections that were tried again.
    pub retries: u64,
    /// What has gone wrong, and how often.
    pub failures: Vec<FailureView>,
    /// Certificates, with what is to be said of them.
    pub certificates: Vec<crate::tls::CertificateInfo>,
}

/// One kind of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailureView {
    /// Its name.
    pub label: &'static str,
    /// What it means, for people.
    pub meaning: &'static str,
    /// How often it has happened.
    pub count: u64,
}

impl View {
    pub(crate) fn show(&self, shown: Shown) {
        self.0.store(Arc::new(shown));
    }

    /// Returns a service; `None` unless the proxy serves it.
    #[must_use]
    pub fn service(&self, name: &str) -> Option<ServiceView> {
        let shown = self.0.load();
        if let Some(why) = shown.closed.get(name)
            && !shown.fronts.iter().any(|front| *front.name == *name)
        {
            return Some(ServiceView::closed(name, why));
        }
        let front = shown.fronts.iter().find(|front| *front.name == *name)?;
        Some(ServiceView::of(front, shown.closed.get(name).cloned()))
    }

    /// Returns how many lines of the access log were lost so far.
    #[must_use]
    pub fn access_log_lost(&self) -> u64 {
        self.0.load().access.as_ref().map_or(0, AccessLog::dropped)
    }

    /// Returns the services that nobody can connect to, and why.
    #[must_use]
    pub fn closed(&self) -> BTreeMap<String, String> {
        self.0.load().closed.clone()
    }
}

impl ServiceView {
    fn closed(name: &str, why: &str) -> Self {
        Self {
            name: name.to_owned(),
            closed: Some(why.to_owned()),
            open: 0,
            connections: 0,
            requests: 0,
            answers: [0; 5],
            bytes_in: 0,
            bytes_out: 0,
            connects: 0,
            reused: 0,
            retries: 0,
            failures: Vec::new(),
            certificates: Vec::new(),
        }
    }

    fn of(front: &Front, closed: Option<String>) -> Self {
        let mut view = Self {
            closed,
            certificates: front
                .tls
                .as_ref()
                .map(|tls| tls.certificates())
                .unwrap_or_default(),
            ..Self::closed(&front.name, "")
        };
        let mut failures = BTreeMap::new();
        for of_worker in front.counters.iter() {
            view.open += of_worker.open.read();
            view.connections += of_worker.connections.read();
            view.requests += of_worker.requests.read();
            for (sum, count) in view.answers.iter_mut().zip(&of_worker.answers) {
                *sum += count.read();
            }
            view.bytes_in += of_worker.bytes_in.read();
            view.bytes_out += of_worker.bytes_out.read();
            view.connects += of_worker.connects.read();
            view.reused += of_worker.reused.read();
            view.retries += of_worker.retries.read();
            for (failure, count) in of_worker.failures.read() {
                *failures.entry(failure as usize).or_insert(0) += count;
            }
        }
        view.failures = super::failure::Failure::ALL
            .iter()
            .map(|failure| FailureView {
                label: failure.label(),
                meaning: failure.meaning(),
                count: failures.get(&(*failure as usize)).copied().unwrap_or(0),
            })
            .collect();
        view
    }
}
