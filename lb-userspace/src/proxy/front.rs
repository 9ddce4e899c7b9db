//! The services that the proxy serves, made ready: TLS, backends, pages.

mod fronts;

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use arc_swap::{ArcSwap, ArcSwapOption};
use bytes::Bytes;
use hyper::header::HeaderValue;
use lb_common::service::Service as KernelService;
use rustls::{ClientConfig, pki_types::ServerName};

use super::counters::Counters;
use crate::{
    config::model::{self, Service},
    control::{
        event::BackendName,
        render::service_value,
        state::{BackendIdentity, DesiredState},
    },
    tls::{ClientTls, ServerTls, Trust},
};

pub(crate) use fronts::Fronts;

/// One service as the proxy serves it, from one generation of the configuration.
#[derive(Debug)]
pub(crate) struct Front {
    /// The configuration.
    pub(crate) service: Arc<Service>,
    /// Its name, for the access log.
    pub(crate) name: Arc<str>,
    /// TLS towards clients.
    pub(crate) tls: Option<Arc<ServerTls>>,
    /// Its own pool first, then those of its routes; empty for a redirect.
    pub(crate) pools: Vec<FrontPool>,
    /// Pages for failures by status.
    pub(crate) pages: BTreeMap<u16, Bytes>,
    /// Its port, as backends are told it.
    pub(crate) port: HeaderValue,
    /// `Strict-Transport-Security`.
    pub(crate) hsts: Option<HeaderValue>,
    /// Its counters, a set for each worker; they outlive the generation.
    pub(crate) counters: Arc<[Counters]>,
    /// What numbers stand for it in the maps.
    pub(crate) numbered: ArcSwap<Numbered>,
    /// The same service as the last generation has it; `None`: it has been removed.
    newest: Newest,
}

/// Shared by all generations of a service. The newest one holds itself by it until there is a newer
/// one or the service is removed.
type Newest = Arc<ArcSwapOption<Front>>;

/// One pool of a service.
#[derive(Debug)]
pub(crate) struct FrontPool {
    /// Its name.
    pub(crate) name: String,
    /// How new clients are spread.
    pub(crate) algorithm: model::Algorithm,
    /// Its backends in the order of the configuration.
    pub(crate) upstreams: Vec<Arc<Upstream>>,
}

/// The numbers of a front's pools and backends.
#[derive(Debug, Default)]
pub(crate) struct Numbered {
    /// The service as choices are made for it, for each of the front's pools.
    pub(crate) values: Vec<Option<KernelService>>,
    /// The backends by number.
    pub(crate) upstreams: BTreeMap<u16, Arc<Upstream>>,
}

/// A backend as one service reaches it.
#[derive(Debug)]
pub(crate) struct Upstream {
    /// Tells connections to it from those to others, and from those under another trust.
    pub(crate) id: u64,
    /// Pool and name.
    pub(crate) backend: BackendName,
    /// The same in text, for the access log.
    pub(crate) label: Arc<str>,
    /// What stands for it in cookies: the same on every node, and no address or name.
    pub(crate) token: Box<str>,
    /// What makes it the same backend to its clients.
    pub(crate) identity: BackendIdentity,
    /// Where it listens for this service.
    pub(crate) address: SocketAddr,
    /// The share of new clients that the configuration gives it.
    pub(crate) configured: model::Backend,
    /// TLS towards it; `None`: plain TCP.
    pub(crate) tls: Option<UpstreamTls>,
}

/// TLS towards a backend, under one generation of trust.
#[derive(Debug)]
pub(crate) struct UpstreamTls {
    /// Builds the configuration again when the CA file changes.
    source: Arc<ClientTls>,
    /// The configuration with its sessions, or why there is none.
    pub(crate) config: Result<Arc<ClientConfig>, String>,
    /// The name to ask for and to verify.
    pub(crate) name: ServerName<'static>,
}

impl UpstreamTls {
    /// Returns whom it trusts.
    pub(crate) fn trust(&self) -> &Trust {
        self.source.trust()
    }
}

impl Front {
    /// Returns the counters of a worker.
    pub(crate) fn counters(&self, worker: usize) -> &Counters {
        &self.counters[worker % self.counters.len()]
    }

    /// Returns the place of the pool that serves a host, given in lower case without a port.
    pub(crate) fn route(&self, host: &str) -> usize {
        let routes = self.service.routes.iter();
        let exact = routes.clone().position(|route| route.host == host);
        let place = exact.or_else(|| {
            routes
                .clone()
                .position(|route| host_matches(&route.host, host))
        });
        place.map_or(0, |place| place + 1)
    }

    /// Returns the service as it is now, and where the pool at `place` of this front is in it.
    ///
    /// Connections outlive reloads: what they go on with must be the backends of today. A number
    /// that stood for a backend when the connection began may stand for another one.
    pub(crate) fn today(self: &Arc<Self>, place: usize) -> (Arc<Self>, usize) {
        match self.newest.load_full() {
            None => (Arc::clone(self), place),
            Some(newest) if Arc::ptr_eq(&newest, self) => (newest, place),
            Some(newest) => {
                let routes = &self.service.routes;
                let route = place.checked_sub(1).and_then(|place| routes.get(place));
                let place = route.map_or(0, |route| newest.route(&route.host));
                (newest, place)
            }
        }
    }

    /// Looks up the numbers of pools and backends again, if they may have changed.
    pub(crate) fn number(&self, state: &DesiredState) {
        let numbered = Numbered {
            values: self
                .pools
                .iter()
                .map(|pool| service_value(state, &self.service, Some(&pool.name)))
                .collect(),
            upstreams: self
                .pools
                .iter()
                .flat_map(|pool| &pool.upstreams)
                .filter_map(|upstream| {
                    let number = state.numbers.backends.get(&upstream.identity)?;
                    Some((u16::try_from(number).ok()?, Arc::clone(upstream)))
                })
                .collect(),
        };
        let now = self.numbered.load();
        let same = now.values == numbered.values
            && now.upstreams.len() == numbered.upstreams.len()
            && now
                .upstreams
                .iter()
                .zip(&numbered.upstreams)
                .all(|((a, one), (b, other))| a == b && one.id == other.id);
        if !same {
            self.numbered.store(Arc::new(numbered));
        }
    }
}

/// Returns whether a host name is the configured one, or covered by a configured `*.` and one label.
pub(crate) fn host_matches(pattern: &str, host: &str) -> bool {
    match pattern.strip_prefix("*.") {
        Some(rest) => host
            .split_once('.')
            .is_some_and(|(label, of)| !label.is_empty() && of == rest),
        None => pattern == host,
    }
}

#[cfg(test)]
mod tests {
    use super::host_matches;

    #[test]
    fn a_wildcard_covers_one_label() {
        for (pattern, host, covered) in [
            ("portal.uni.edu", "portal.uni.edu", true),
            ("portal.uni.edu", "x.uni.edu", false),
            ("*.uni.edu", "portal.uni.edu", true),
            ("*.uni.edu", "a.b.uni.edu", false),
            ("*.uni.edu", "uni.edu", false),
            ("*.uni.edu", ".uni.edu", false),
        ] {
            assert_eq!(host_matches(pattern, host), covered, "{pattern} {host}");
        }
    }
}
