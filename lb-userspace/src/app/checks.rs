//! From a snapshot to the checks that shall run. Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::{
    config::model::{Backend, HealthCheck, Pool, ProbeSpec, Protocol, Service},
    control::{
        event::Health,
        state::{CheckState, DesiredState},
    },
    health::{self, Check, CheckId, ProbeTarget},
};

/// Returns every check: the pools' and the services' own.
#[must_use]
pub(super) fn checks(state: &DesiredState) -> Vec<Check> {
    let mut checks = Vec::new();
    for (pool, backend) in state.pool_backends() {
        let known = state.backend(pool, backend);
        checks.push(Check {
            id: CheckId {
                pool: pool.name.clone(),
                backend: backend.name.clone(),
                service: None,
            },
            spec: pool.health.clone(),
            target: target(backend, pool_port(state, pool, backend)),
            initial: known.and_then(|known| initial(&known.check)),
        });
        let services = state.config.services.iter();
        let of_pool = services.filter(|of| of.pool.as_deref() == Some(pool.name.as_str()));
        for service in of_pool {
            let Some(spec) = &service.health else {
                continue;
            };
            let port = match service.port_of(backend) {
                0 => usual_port(spec),
                port => port,
            };
            checks.push(Check {
                id: CheckId {
                    pool: pool.name.clone(),
                    backend: backend.name.clone(),
                    service: Some(service.name.clone()),
                },
                spec: spec.clone(),
                target: target(backend, port),
                initial: known
                    .and_then(|known| known.service_checks.get(&service.name))
                    .and_then(initial),
            });
        }
    }
    checks
}

/// Returns the addresses to which ways are needed.
#[must_use]
pub(super) fn destinations(state: &DesiredState) -> BTreeSet<IpAddr> {
    state
        .pool_backends()
        .map(|(_, backend)| backend.address)
        .collect()
}

fn target(backend: &Backend, port: u16) -> ProbeTarget {
    ProbeTarget {
        name: backend.name.clone(),
        address: backend.address,
        port,
        server_name: backend.server_name.clone(),
        pin: backend.pin,
    }
}

/// A backend that serves stays up until its check has failed often enough; about any other the
/// first result decides.
fn initial(check: &CheckState) -> Option<health::Health> {
    (check.health == Health::Up).then_some(health::Health::Up)
}

/// Returns the port on which a pool's check meets a backend that has none of its own: that of the
/// first of the pool's services that speaks the check's transport, else of any, else the usual one
/// of the check's kind.
fn pool_port(state: &DesiredState, pool: &Pool, backend: &Backend) -> u16 {
    let transport = match pool.health.probe {
        ProbeSpec::Udp { .. } => Protocol::Udp,
        ProbeSpec::Connect | ProbeSpec::Tls { .. } | ProbeSpec::Http(_) | ProbeSpec::Ping => {
            Protocol::Tcp
        }
    };
    let services = state.config.services.iter();
    let ports: Vec<(&Service, u16)> = services
        .filter(|service| service.pool.as_deref() == Some(pool.name.as_str()))
        .map(|service| (service.as_ref(), service.port_of(backend)))
        .filter(|(_, port)| *port != 0)
        .collect();
    ports
        .iter()
        .find(|(service, _)| service.protocol == transport)
        .or_else(|| ports.first())
        .map_or_else(
            || backend.port.unwrap_or_else(|| usual_port(&pool.health)),
            |(_, port)| *port,
        )
}

fn usual_port(check: &HealthCheck) -> u16 {
    match check.probe.kind() {
        "http" => 80,
        _ => 443,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::control::testing::*;

    fn state(services: Vec<Service>, change: impl FnOnce(&mut Pool)) -> DesiredState {
        let mut pool = pool("ras", vec![backend("gw1", "10.0.1.1")]);
        change(&mut pool);
        first_start(config(vec![pool], services))
    }

    fn on(protocol: Protocol, port: u16) -> Service {
        let mut service = service(&format!("{protocol}-{port}"), "10.0.0.100", port, "ras");
        service.protocol = protocol;
        service
    }

    fn port(services: Vec<Service>) -> u16 {
        checks(&state(services, |_| {}))[0].target.port
    }

    #[test]
    fn a_pools_check_goes_to_the_port_of_a_service_that_speaks_its_transport() {
        assert_eq!(
            port(vec![on(Protocol::Udp, 444), on(Protocol::Tcp, 445)]),
            445
        );
        assert_eq!(port(vec![on(Protocol::Udp, 444)]), 444);
        assert_eq!(port(vec![on(Protocol::Tcp, 0)]), 443);
        assert_eq!(port(Vec::new()), 443);
    }

    #[test]
    fn a_backends_own_port_comes_first() {
        let state = state(vec![on(Protocol::Udp, 444)], |pool| {
            pool.backends[0].port = Some(8443);
        });

        assert_eq!(checks(&state)[0].target.port, 8443);
    }

    #[test]
    fn a_services_own_check_is_a_check_of_its_own() {
        let mut checked = on(Protocol::Udp, 444);
        checked.health = Some(connect());

        let checks = checks(&state(vec![on(Protocol::Udp, 443), checked], |_| {}));

        let ids: Vec<_> = checks.iter().map(|check| &check.id.service).collect();
        assert_eq!(ids, [&None, &Some("udp-444".to_owned())]);
        assert_eq!(checks[1].target.port, 444);
    }

    #[test]
    fn a_backend_that_was_found_up_by_a_former_daemon_starts_as_up() {
        let config = ras();
        let mut before = running(config.clone());
        probed(&mut before, "ras/gw2", Health::Down);
        let held = carried_out(&before, &new_maps(&config));

        let successor = restart(config, &held);

        let initial: Vec<_> = checks(&successor).iter().map(|c| c.initial).collect();
        assert_eq!(initial, [Some(health::Health::Up), None]);
        let first: Vec<_> = checks(&first_start(ras()))
            .iter()
            .map(|c| c.initial)
            .collect();
        assert_eq!(first, [None, None]);
    }

    #[test]
    fn ways_are_needed_to_every_backend_once() {
        let state = Arc::new(running(ras()));

        assert_eq!(
            destinations(&state).into_iter().collect::<Vec<_>>(),
            [ip("10.0.1.1"), ip("10.0.1.2")]
        );
    }
}
