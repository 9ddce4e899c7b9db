//! What the configuration can say and this version cannot do yet: refused by name.
//!
//! Everything is parsed and validated in full before it comes here, so that a file for a later
//! version can be checked today. A feature that is built loses its lines here and nowhere else.

use super::{
    error::{ConfigErrors, Fault},
    model::{Algorithm, Config, Forwarding, Pool, Protocol, Service},
};

/// Refuses what is not built yet.
///
/// # Errors
///
/// A fault for each service that this version cannot forward, and each pool that it cannot choose
/// from as configured.
pub fn require_built(config: &Config) -> Result<(), ConfigErrors> {
    let mut faults = Vec::new();
    for (index, service) in config.services.iter().enumerate() {
        let place = format!("service[{index}] \"{}\"", service.name);
        faults.extend(service_faults(&place, None, service));
    }
    for (index, pool) in config.pools.iter().enumerate() {
        let services = config.services.iter().map(AsRef::as_ref);
        let place = format!("pool[{index}] \"{}\"", pool.name);
        faults.extend(pool_faults(&place, None, pool, services));
    }
    ConfigErrors::new(faults).map_or(Ok(()), Err)
}

/// Returns what of `service`, which stands at `place`, is not built yet.
pub(super) fn service_faults(place: &str, line: Option<usize>, service: &Service) -> Vec<Fault> {
    let in_xdp = service.forwarding == Forwarding::Snat;
    if !in_xdp || service.protocol != Protocol::Tcp {
        return Vec::new();
    }
    vec![Fault {
        place: place.to_owned(),
        line,
        column: None,
        message: "forwarding = \"snat\" with protocol = \"tcp\" is not built yet; use \"tcp\""
            .to_owned(),
    }]
}

/// Returns what of `pool`, which stands at `place`, XDP cannot do yet.
pub(super) fn pool_faults<'a>(
    place: &str,
    line: Option<usize>,
    pool: &Pool,
    mut services: impl Iterator<Item = &'a Service>,
) -> Vec<Fault> {
    let in_xdp = services.any(|service| {
        service.forwarding == Forwarding::Snat && service.pool.as_ref() == Some(&pool.name)
    });
    let mut faults = Vec::new();
    let mut fault = |message: String| {
        faults.push(Fault {
            place: place.to_owned(),
            line,
            column: None,
            message,
        });
    };
    let algorithm = match pool.algorithm {
        Algorithm::SourceHash => None,
        Algorithm::RoundRobin => Some("round-robin"),
        Algorithm::LeastConnections => Some("least-connections"),
    };
    if let Some(algorithm) = algorithm.filter(|_| in_xdp) {
        fault(format!(
            "algorithm = \"{algorithm}\" is not built yet for \"snat\"; write \"source-hash\""
        ));
    }
    faults
}
