//! Makes the fronts of a configuration, and keeps what they have in common with the former ones.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use hyper::header::HeaderValue;
use rustls::pki_types::ServerName;

use super::{Front, FrontPool, Newest, Upstream, UpstreamTls};
use crate::{
    config::model::{self, Forwarding, Service},
    control::{
        event::BackendName,
        state::{BackendIdentity, DesiredState},
    },
    proxy::counters::Counters,
    tls::{CertificateError, ClientTls, ServerTls, SystemRoots, Trust},
};

/// Makes fronts of configurations, and keeps what they have in common with the former ones.
#[derive(Debug)]
pub(crate) struct Fronts {
    workers: usize,
    roots: Arc<SystemRoots>,
    /// The last upstream that was made for each service and backend.
    upstreams: BTreeMap<(String, BackendName), Arc<Upstream>>,
    counters: BTreeMap<String, Arc<[Counters]>>,
    tls: BTreeMap<String, (model::Tls, Arc<ServerTls>)>,
    /// Services whose certificates could not be used the last time, and why.
    faulty: BTreeMap<String, String>,
    newest: BTreeMap<String, Newest>,
    /// Every front that some connection may have.
    all: Vec<Weak<Front>>,
}

impl Fronts {
    pub(crate) fn new(workers: usize) -> Self {
        Self {
            workers,
            roots: Arc::default(),
            upstreams: BTreeMap::new(),
            counters: BTreeMap::new(),
            tls: BTreeMap::new(),
            faulty: BTreeMap::new(),
            newest: BTreeMap::new(),
            all: Vec::new(),
        }
    }

    /// Makes the fronts of the configuration in force, by service name. Reads files.
    ///
    /// A service whose certificates cannot be used keeps what TLS it has; without any it is left
    /// out. Both are told, and tried again.
    pub(crate) fn make(&mut self, state: &DesiredState) -> Vec<Arc<Front>> {
        let services: Vec<&Arc<Service>> = state
            .config
            .services
            .iter()
            .filter(|service| service.is_proxied())
            .collect();
        let mut fronts = Vec::new();
        let mut upstreams = BTreeMap::new();
        let mut tls = BTreeMap::new();
        let mut counters = BTreeMap::new();
        let mut newest = BTreeMap::new();
        let mut faulty = BTreeMap::new();
        for service in services {
            let server = match &service.tls {
                None => None,
                Some(wanted) => match self.server_tls(&service.name, wanted) {
                    Ok(server) => {
                        tls.insert(service.name.clone(), (wanted.clone(), Arc::clone(&server)));
                        Some(server)
                    }
                    Err(error) => {
                        let held = self.tls.get(&service.name);
                        let told = self.faulty.get(&service.name);
                        let error = error.to_string();
                        if told != Some(&error) {
                            complain(&service.name, held.is_some(), &error);
                        }
                        faulty.insert(service.name.clone(), error);
                        let Some((of, server)) = held else {
                            continue;
                        };
                        // Files may be in the middle of being replaced: nobody is cut off for that.
                        tls.insert(service.name.clone(), (of.clone(), Arc::clone(server)));
                        Some(Arc::clone(server))
                    }
                },
            };
            let counted = self.counters.get(&service.name).map_or_else(
                || (0..self.workers).map(|_| Counters::default()).collect(),
                Arc::clone,
            );
            counters.insert(service.name.clone(), Arc::clone(&counted));
            let pools: Vec<FrontPool> = service
                .pools()
                .filter_map(|name| state.pool(name))
                .map(|pool| FrontPool {
                    name: pool.name.clone(),
                    algorithm: pool.algorithm,
                    upstreams: pool
                        .backends
                        .iter()
                        .map(|backend| {
                            let upstream = self.upstream(service, pool, backend);
                            upstreams.insert(
                                (service.name.clone(), upstream.backend.clone()),
                                Arc::clone(&upstream),
                            );
                            upstream
                        })
                        .collect(),
                })
                .collect();
            let front = Front {
                name: service.name.as_str().into(),
                tls: server,
                pools,
                pages: pages(service),
                port: service.port.into(),
                hsts: service.hsts.and_then(|age| {
                    HeaderValue::from_str(&format!("max-age={}", age.as_secs())).ok()
                }),
                counters: counted,
                numbered: ArcSwap::default(),
                newest: self
                    .newest
                    .get(&service.name)
                    .map_or_else(Newest::default, Arc::clone),
                service: Arc::clone(service),
            };
            front.number(state);
            let front = Arc::new(front);
            front.newest.store(Some(Arc::clone(&front)));
            newest.insert(service.name.clone(), Arc::clone(&front.newest));
            self.all.push(Arc::downgrade(&front));
            fronts.push(front);
        }
        for (name, removed) in &self.newest {
            if !newest.contains_key(name) {
                removed.store(None);
            }
        }
        self.newest = newest;
        self.upstreams = upstreams;
        self.tls = tls;
        self.faulty = faulty;
        self.counters = counters;
        fronts
    }

    /// Looks up the numbers of every front again by which choices are made: of today's, and of
    /// removed services with connections.
    pub(crate) fn number(&mut self, state: &DesiredState) {
        self.all.retain(|front| front.strong_count() > 0);
        for front in self.all.iter().filter_map(Weak::upgrade) {
            let newest = front.newest.load();
            if newest
                .as_ref()
                .is_none_or(|newest| Arc::ptr_eq(newest, &front))
            {
                front.number(state);
            }
        }
    }

    /// Looks at the files of certificates and authorities again; returns whether fronts must be
    /// made anew.
    pub(crate) fn refresh(&self) -> bool {
        for (service, (_, tls)) in &self.tls {
            match tls.refresh() {
                Ok(true) => tracing::info!(service, "new certificates are in force"),
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(service, "the former certificates stay in force: {error}");
                }
            }
        }
        let again = !self.faulty.is_empty();
        let trust_changed = self.upstreams.values().any(|upstream| {
            upstream
                .tls
                .as_ref()
                .is_some_and(|tls| match (&tls.config, tls.source.config()) {
                    (Ok(now), Ok(then)) => !Arc::ptr_eq(now, &then),
                    (Err(_), Ok(_)) => true,
                    (_, Err(_)) => false,
                })
        });
        again || trust_changed
    }

    fn server_tls(
        &self,
        service: &str,
        wanted: &model::Tls,
    ) -> Result<Arc<ServerTls>, CertificateError> {
        match self.tls.get(service) {
            Some((of, tls)) if of == wanted => Ok(Arc::clone(tls)),
            _ => ServerTls::open(wanted).map(Arc::new),
        }
    }

    fn upstream(
        &self,
        service: &Service,
        pool: &model::Pool,
        backend: &model::Backend,
    ) -> Arc<Upstream> {
        let name = BackendName::new(pool.name.clone(), backend.name.clone());
        let address = SocketAddr::new(backend.address, service.port_of(backend));
        let former = self.upstreams.get(&(service.name.clone(), name.clone()));
        let tls = match service.forwarding {
            Forwarding::Http => Some(self.upstream_tls(service, backend, former)),
            _ => None,
        };
        let same_tls = |former: &Upstream| match (&former.tls, &tls) {
            (None, None) => true,
            (Some(former), Some(tls)) => {
                former.name == tls.name
                    && match (&former.config, &tls.config) {
                        (Ok(former), Ok(config)) => Arc::ptr_eq(former, config),
                        _ => false,
                    }
            }
            _ => false,
        };
        if let Some(former) = former
            && former.address == address
            && former.configured == *backend
            && same_tls(former)
        {
            return Arc::clone(former);
        }
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Arc::new(Upstream {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            label: name.to_string().into(),
            token: token(&name),
            backend: name,
            identity: BackendIdentity::of(pool, backend),
            address,
            configured: backend.clone(),
            tls,
        })
    }

    fn upstream_tls(
        &self,
        service: &Service,
        backend: &model::Backend,
        former: Option<&Arc<Upstream>>,
    ) -> UpstreamTls {
        let trust = Trust::new(&service.backend_tls.verify, backend.pin);
        let former = former.and_then(|former| former.tls.as_ref());
        let source = match former {
            Some(former) if *former.source.trust() == trust => Arc::clone(&former.source),
            _ => Arc::new(ClientTls::new(
                trust,
                Arc::clone(&self.roots),
                &["http/1.1"],
                true,
            )),
        };
        let name = backend
            .server_name
            .as_ref()
            .or(service.backend_tls.server_name.as_ref())
            .and_then(|name| ServerName::try_from(name.clone()).ok())
            .unwrap_or_else(|| ServerName::from(backend.address));
        UpstreamTls {
            config: source.config().map_err(|error| error.to_string()),
            source,
            name,
        }
    }
}

fn complain(service: &str, is_served: bool, error: &str) {
    if is_served {
        tracing::warn!(
            service,
            "{service} goes on with its former TLS settings and certificates: {error}"
        );
    } else {
        tracing::error!(service, "{service} is not served: {error}");
    }
}

fn token(name: &BackendName) -> Box<str> {
    format!(
        "{:016x}",
        lb_common::hash::bytes(name.to_string().as_bytes())
    )
    .into()
}

/// Reads the pages of a service. One that cannot be read is left to the built-in one.
fn pages(service: &Service) -> BTreeMap<u16, Bytes> {
    let mut pages = BTreeMap::new();
    for (status, path) in &service.errors {
        match std::fs::read(path) {
            Ok(page) => {
                pages.insert(*status, Bytes::from(page));
            }
            Err(error) => tracing::warn!(
                service = service.name,
                "the page for {status} cannot be read, the built-in one is used: {}: {error}",
                path.display()
            ),
        }
    }
    pages
}
