//! Which backend a client meets, by the same functions and in the same order as in the kernel.

use std::net::IpAddr;

use lb_common::{
    addr::{bytes, is_mapped, masked},
    affinity::lifetime_s,
    hash,
    limits::MAGLEV_SLOTS,
    service::Service,
};

use super::plan::members;
use crate::dataplane::image::Image;

/// What is remembered of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// Number of the backend.
    pub backend: u16,
    /// Seconds since the client's last packet.
    pub age_s: u32,
}

/// Where the next new flow of a client goes, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Number of the backend; `None`: nobody, or the client's port decides.
    pub backend: Option<u16>,
    /// Why.
    pub because: Because,
}

/// Why a client meets a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Because {
    /// It belongs there.
    Affinity,
    /// The table says so for its address.
    SourceHash,
    /// The service remembers nobody: the client's port counts too.
    EachFlow,
    /// Only this service's own check finds the backend down that it belongs to.
    Detour {
        /// Number of that backend.
        from: u16,
    },
    /// The backend that it belonged to cannot serve any more.
    Moved {
        /// Number of that backend.
        from: u16,
    },
    /// No backend is eligible.
    NobodyEligible,
}

/// Returns the client's address as the service tells clients apart.
#[must_use]
pub fn client_of(service: &Service, client: IpAddr) -> [u8; 16] {
    let address = bytes(client);
    let prefix = if is_mapped(&address) {
        service.ipv4_prefix
    } else {
        service.ipv6_prefix
    };
    masked(&address, prefix)
}

/// Returns the seconds for which a client stays with its backend after its last packet.
#[must_use]
pub fn lifetime(image: &Image, service: &Service) -> u32 {
    lifetime_s(service.affinity_timeout_s, image.settings.flow_timeout_s)
}

/// What else decides whether a backend may serve.
pub struct Terms<'a> {
    /// The service finds the backend up by its own check, if it has one.
    pub own_check: &'a dyn Fn(u16) -> bool,
    /// The backend has room for another new client.
    pub has_room: &'a dyn Fn(u16) -> bool,
}

/// Returns whether a service that XDP forwards finds a backend up by its own check, if it has one.
pub fn own_check_in_maps<'a>(image: &'a Image, service: &'a Service) -> impl Fn(u16) -> bool + 'a {
    move |id| {
        let backend = image.backends.get(&id);
        backend.is_some_and(|backend| backend.serves_service(service.id as u8))
    }
}

/// Returns where the next new flow of `client` on `service` goes.
#[must_use]
pub fn choose(
    image: &Image,
    service: &Service,
    terms: &Terms<'_>,
    client: IpAddr,
    remembered: Option<Remembered>,
) -> Choice {
    let nobody = Choice {
        backend: None,
        because: Because::NobodyEligible,
    };
    if service.flags & Service::AFFINITY == 0 {
        let somebody = image.pools.get(&service.pool).is_some_and(|pool| {
            members(&pool.pool)
                .iter()
                .any(|&id| usable(image, service, terms, id) && (terms.own_check)(id))
        });
        return match somebody {
            true => Choice {
                backend: None,
                because: Because::EachFlow,
            },
            false => nobody,
        };
    }
    let hash = hash::source(&client_of(service, client));
    let remembered = remembered.filter(|held| held.age_s <= lifetime(image, service));
    let detour = |from| match by_hash(image, service, terms, hash, terms.own_check) {
        Some(backend) => Choice {
            backend: Some(backend),
            because: Because::Detour { from },
        },
        None => nobody,
    };
    if let Some(Remembered { backend: id, .. }) = remembered
        && let Some(backend) = image.backends.get(&id)
        && backend.serves()
        && backend.pool == service.pool
    {
        if (terms.own_check)(id) {
            return Choice {
                backend: Some(id),
                because: Because::Affinity,
            };
        }
        return detour(id);
    }
    let Some(id) = by_hash(image, service, terms, hash, &|_| true) else {
        return nobody;
    };
    if !(terms.own_check)(id) {
        return detour(id);
    }
    Choice {
        backend: Some(id),
        because: match remembered {
            Some(held) => Because::Moved { from: held.backend },
            None => Because::SourceHash,
        },
    }
}

/// The table's choice, or the next member that can serve and that `accepts` takes.
fn by_hash(
    image: &Image,
    service: &Service,
    terms: &Terms<'_>,
    hash: u32,
    accepts: &dyn Fn(u16) -> bool,
) -> Option<u16> {
    let pool = image.pools.get(&service.pool)?;
    let slot = (hash % MAGLEV_SLOTS) as usize;
    let chosen = pool
        .table
        .get(slot)
        .and_then(|&id| u16::try_from(id).ok())
        .filter(|&id| usable(image, service, terms, id) && accepts(id));
    if chosen.is_some() {
        return chosen;
    }
    let members = members(&pool.pool);
    let first = (hash as usize).checked_rem(members.len())?;
    members[first..]
        .iter()
        .chain(&members[..first])
        .copied()
        .find(|&id| usable(image, service, terms, id) && accepts(id))
}

fn usable(image: &Image, service: &Service, terms: &Terms<'_>, id: u16) -> bool {
    let backend = image.backends.get(&id);
    backend.is_some_and(|backend| backend.takes_new() && backend.pool == service.pool)
        && (terms.has_room)(id)
}

#[cfg(test)]
mod tests {
    use lb_common::affinity::TOUCH_S;

    use std::{collections::BTreeMap, sync::Arc};

    use super::*;
    use crate::{
        config::model::{AdminState, PersistenceKey},
        control::{
            event::Health,
            render::{Tables, render},
            state::{Author, DesiredState},
            testing::*,
        },
    };

    fn site() -> DesiredState {
        let mut config = ras();
        let mut checked = service("checked", "10.0.0.100", 444, "ras");
        checked.health = Some(connect());
        config.services.push(Arc::new(checked));
        let mut state = running(config);
        probed_for(&mut state, "ras/gw1", "checked", Health::Up);
        probed_for(&mut state, "ras/gw2", "checked", Health::Up);
        state
    }

    fn ask(state: &DesiredState, port: u16, remembered: Option<(u16, u32)>) -> Choice {
        let image = render(state, &mut Tables::default());
        let (_, service) = image
            .services
            .iter()
            .find(|(key, _)| key.port == port)
            .expect("the service");
        let remembered = remembered.map(|(backend, age_s)| Remembered { backend, age_s });
        choose(
            &image,
            service,
            &Terms {
                own_check: &own_check_in_maps(&image, service),
                has_room: &|_| true,
            },
            ip("10.9.9.9"),
            remembered,
        )
    }

    /// The backend that the table gives to the test's client, and the other one.
    fn table_and_other(state: &DesiredState) -> (u16, u16) {
        let id = ask(state, 443, None).backend.expect("two are up");
        (id, 1 - id)
    }

    #[test]
    fn a_client_without_memory_goes_where_its_address_says() {
        let state = site();
        let image = render(&state, &mut Tables::default());
        let slot = hash::source(&bytes(ip("10.9.9.9"))) % MAGLEV_SLOTS;

        let choice = ask(&state, 443, None);

        assert_eq!(choice.because, Because::SourceHash);
        assert_eq!(
            choice.backend.map(u32::from),
            Some(image.pools[&0].table[slot as usize])
        );
    }

    #[test]
    fn a_client_stays_where_it_belongs_until_its_time_is_over() {
        let state = site();
        let (by_table, other) = table_and_other(&state);

        let lifetime = 6 * 3600 + TOUCH_S;
        let stays = ask(&state, 443, Some((other, lifetime)));
        assert_eq!(
            (stays.backend, stays.because),
            (Some(other), Because::Affinity)
        );
        let over = ask(&state, 443, Some((other, lifetime + 1)));
        assert_eq!(
            (over.backend, over.because),
            (Some(by_table), Because::SourceHash)
        );
    }

    #[test]
    fn a_client_of_a_failed_backend_moves_and_one_of_a_draining_backend_stays() {
        let mut state = site();
        let (by_table, other) = table_and_other(&state);
        let gateway = name(&format!("ras/gw{}", other + 1));
        let author = Author {
            by: "root".to_owned(),
            at: now(),
            reason: None,
        };
        state.set_admin_state(&gateway, AdminState::Drain, author);
        assert_eq!(
            ask(&state, 443, Some((other, 1))).because,
            Because::Affinity
        );

        probed(&mut state, &gateway.to_string(), Health::Down);

        assert_eq!(
            ask(&state, 443, Some((other, 1))),
            Choice {
                backend: Some(by_table),
                because: Because::Moved { from: other },
            }
        );
    }

    #[test]
    fn a_service_that_finds_a_backend_down_detours_alone() {
        let mut state = site();
        let (by_table, other) = table_and_other(&state);
        let gateway = format!("ras/gw{}", by_table + 1);
        probed_for(&mut state, &gateway, "checked", Health::Down);

        for remembered in [None, Some((by_table, 1))] {
            assert_eq!(
                ask(&state, 444, remembered),
                Choice {
                    backend: Some(other),
                    because: Because::Detour { from: by_table },
                }
            );
        }
        assert_eq!(
            ask(&state, 443, Some((by_table, 1))).because,
            Because::Affinity
        );
    }

    #[test]
    fn without_an_eligible_backend_nobody_serves() {
        let mut state = site();
        probed(&mut state, "ras/gw1", Health::Down);
        probed(&mut state, "ras/gw2", Health::Down);

        for remembered in [None, Some((0, 1))] {
            assert_eq!(
                ask(&state, 443, remembered),
                Choice {
                    backend: None,
                    because: Because::NobodyEligible,
                }
            );
        }
    }

    #[test]
    fn a_service_that_remembers_nobody_decides_flow_by_flow() {
        let mut config = ras();
        let mut forgetful = (*config.services[0]).clone();
        forgetful.persistence.key = PersistenceKey::None;
        config.services = vec![Arc::new(forgetful)];
        let mut state = running(config);
        assert_eq!(ask(&state, 443, None).because, Because::EachFlow);

        probed(&mut state, "ras/gw1", Health::Down);
        probed(&mut state, "ras/gw2", Health::Down);
        assert_eq!(ask(&state, 443, None).because, Because::NobodyEligible);
    }

    #[test]
    fn a_choice_made_before_the_table_falls_to_the_next_member() {
        let state = site();
        let (by_table, other) = table_and_other(&state);
        let mut image = render(&state, &mut Tables::default());
        if let Some(backend) = image.backends.get_mut(&by_table) {
            backend.health = lb_common::backend::DOWN;
        }
        let service = image.services.values().find(|s| s.backend_port == 443);

        let choice = choose(
            &image,
            service.expect("it"),
            &Terms {
                own_check: &|_| true,
                has_room: &|_| true,
            },
            ip("10.9.9.9"),
            None,
        );

        assert_eq!(choice.backend, Some(other));
    }

    #[test]
    fn clients_of_one_prefix_are_one_client() {
        let mut config = ras();
        let mut coarse = (*config.services[0]).clone();
        coarse.persistence.ipv4_prefix = 24;
        coarse.persistence.ipv6_prefix = 64;
        config.services = vec![Arc::new(coarse)];
        let image = render(&running(config), &mut Tables::default());
        let service = image.services.values().find(|s| s.backend_port == 443);
        let service = service.expect("the service");

        let mut seen = BTreeMap::new();
        for client in ["10.9.9.1", "10.9.9.254", "fd00::1", "fd00::2", "10.9.8.1"] {
            *seen.entry(client_of(service, ip(client))).or_insert(0) += 1;
        }
        assert_eq!(seen.into_values().collect::<Vec<_>>(), [1, 2, 2]);
    }
}
