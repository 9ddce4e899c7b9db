//! Which backend a client of the proxy meets: the same memory, table and rules as in the kernel, and
//! the ways to choose that only a proxy has.

use std::{net::IpAddr, pin::pin, sync::Arc};

use lb_common::{affinity::AffinityKey, backend::ACTIVE, hash, service::Service as KernelService};
use tokio::time::{Instant, timeout_at};

use super::{
    failure::Failure,
    front::{Front, FrontPool, Numbered, Upstream},
    worker::Worker,
};
use crate::{
    config::model::Algorithm,
    control::{
        choice::{self, Because, Remembered, Terms},
        snapshot::Snapshot,
    },
};

/// Attempts that one request or connection has.
pub(crate) const ATTEMPTS: usize = 3;

/// A backend that was chosen, and what is to be remembered when it has answered.
#[derive(Clone, Debug)]
pub(crate) struct Chosen {
    /// Its number.
    pub(crate) number: u16,
    /// How it is reached.
    pub(crate) upstream: Arc<Upstream>,
    /// The client's entry, if its service remembers clients.
    pub(crate) memory: Option<Memory>,
}

/// An entry of the affinity table that a choice is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(crate) key: AffinityKey,
    /// The backend that the client belongs to from its answer on. Where the chosen one is but a
    /// detour, that is another.
    pub(crate) belongs_to: u16,
    /// What stood there before is over.
    pub(crate) replace: bool,
    /// The entry is good as it is, and only the time of the last sign is new.
    pub(crate) known: bool,
}

/// Whose turn it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asker<'a> {
    /// The client's address, unmapped.
    pub(crate) client: IpAddr,
    /// The client's port: services that remember nobody choose by it too.
    pub(crate) port: u16,
    /// Backends that have just failed for this client: it is detoured around them.
    pub(crate) failed: &'a [u16],
    /// The backend that the client's cookie names.
    pub(crate) cookie: Option<u16>,
}

/// Chooses a backend of the pool at `place` of a front; `None`: nobody is eligible.
pub(crate) fn choose(
    worker: &Worker,
    snapshot: &Snapshot,
    front: &Arc<Front>,
    place: usize,
    asker: Asker<'_>,
) -> Option<Chosen> {
    let (front, place) = &front.today(place);
    let numbered = front.numbered.load();
    let value = numbered.values.get(*place)?.as_ref()?;
    let pool = front.pools.get(*place)?;
    let good = |number: u16| {
        !asker.failed.contains(&number)
            && numbered
                .upstreams
                .get(&number)
                .is_some_and(|upstream| own_check_passes(snapshot, front, upstream))
    };
    let new = |number: u16| good(number) && has_room(worker, &numbered, number);
    let found = |number: u16, memory| {
        Some(Chosen {
            number,
            upstream: Arc::clone(numbered.upstreams.get(&number)?),
            memory,
        })
    };
    if let Some(number) = asker.cookie.filter(|number| {
        let backend = snapshot.image.backends.get(number);
        backend.is_some_and(|backend| backend.serves() && backend.pool == value.pool)
            && good(*number)
    }) {
        return found(number, None);
    }
    if value.flags & KernelService::AFFINITY == 0 {
        let number = spread(worker, snapshot, value, pool, asker, &new)?;
        return found(number, None);
    }
    let key = AffinityKey {
        client: choice::client_of(value, asker.client),
        group: value.group,
    };
    let entry = worker.clients.borrow().find(&key);
    let remembered = entry.map(|(backend, age_s)| Remembered { backend, age_s });
    let terms = Terms {
        own_check: &good,
        has_room: &|number| has_room(worker, &numbered, number),
    };
    let choice = choice::choose(&snapshot.image, value, &terms, asker.client, remembered);
    let memory = |belongs_to, known| {
        Some(Memory {
            key,
            belongs_to,
            replace: entry.is_some(),
            known,
        })
    };
    let by_hash = choice.backend?;
    match choice.because {
        Because::Affinity => found(by_hash, memory(by_hash, true)),
        Because::Detour { from } => {
            let known = entry.is_some_and(|(backend, _)| backend == from);
            found(by_hash, memory(from, known))
        }
        Because::SourceHash | Because::Moved { .. } => {
            // A new client may be spread otherwise than by its address; it stays all the same.
            let number = match pool.algorithm {
                Algorithm::SourceHash => by_hash,
                _ => {
                    let number = spread(worker, snapshot, value, pool, asker, &new)?;
                    claim(worker, &key, number, entry.is_some())
                }
            };
            found(number, memory(number, false))
        }
        Because::EachFlow | Because::NobodyEligible => None,
    }
}

/// Chooses a backend, and waits for room where those that could serve have as much as they may:
/// for as long as a connection may take, and not behind too many others.
///
/// # Errors
///
/// [`Failure::NoBackend`], [`Failure::BackendsFull`].
pub(crate) async fn choose_in_time(
    worker: &Worker,
    front: &Arc<Front>,
    place: usize,
    asker: Asker<'_>,
) -> Result<Chosen, Failure> {
    match choose(worker, &worker.handle.snapshot(), front, place, asker) {
        Some(chosen) => Ok(chosen),
        // That is rare, and every request would carry the room for it.
        None => Box::pin(await_room(worker, front, place, asker)).await,
    }
}

/// Waits until a backend has room, if one can have it.
async fn await_room(
    worker: &Worker,
    front: &Arc<Front>,
    place: usize,
    asker: Asker<'_>,
) -> Result<Chosen, Failure> {
    let deadline = Instant::now() + front.service.timeouts.connect;
    let mut waiting = None;
    loop {
        // Whatever becomes free after the look is heard of.
        let mut freed = pin!(worker.loads.freed());
        freed.as_mut().enable();
        let snapshot = worker.handle.snapshot();
        if let Some(chosen) = choose(worker, &snapshot, front, place, asker) {
            return Ok(chosen);
        }
        if !is_full(worker, &snapshot, front, place, asker) {
            return Err(Failure::NoBackend);
        }
        drop(snapshot);
        if waiting.is_none() {
            waiting = Some(worker.loads.wait().ok_or(Failure::BackendsFull)?);
        }
        if timeout_at(deadline, freed).await.is_err() {
            return Err(Failure::BackendsFull);
        }
    }
}

/// Returns whether a backend could serve if it had room.
fn is_full(
    worker: &Worker,
    snapshot: &Snapshot,
    front: &Arc<Front>,
    place: usize,
    asker: Asker<'_>,
) -> bool {
    let (front, place) = &front.today(place);
    let numbered = front.numbered.load();
    let Some(Some(value)) = numbered.values.get(*place) else {
        return false;
    };
    numbered.upstreams.iter().any(|(number, upstream)| {
        let backend = snapshot.image.backends.get(number);
        backend.is_some_and(|backend| {
            backend.pool == value.pool
                && backend.serves()
                && backend.admin == ACTIVE
                && (backend.full == 1 || !has_room(worker, &numbered, *number))
        }) && !asker.failed.contains(number)
            && own_check_passes(snapshot, front, upstream)
    })
}

/// Returns whether a backend may have one more. The image says so for flows in the kernel as well,
/// and a moment later.
fn has_room(worker: &Worker, numbered: &Numbered, number: u16) -> bool {
    numbered.upstreams.get(&number).is_some_and(|upstream| {
        let most = upstream.configured.max_connections;
        most == 0 || worker.loads.of(number) < most
    })
}

/// Remembers a new client at once, and returns the backend that it belongs to: another of its
/// connections, which all begin together, may have got another turn.
fn claim(worker: &Worker, key: &AffinityKey, number: u16, replace: bool) -> u16 {
    let mut clients = worker.clients.borrow_mut();
    clients.remember(key, number, replace);
    clients.find(key).map_or(number, |(first, _)| first)
}

/// Returns whether a backend may keep what it has of the proxy's connections.
pub(crate) fn still_serves(snapshot: &Snapshot, number: u16) -> bool {
    let backend = snapshot.image.backends.get(&number);
    backend.is_some_and(lb_common::backend::Backend::serves)
}

/// Chooses for a client that nobody remembers.
fn spread(
    worker: &Worker,
    snapshot: &Snapshot,
    value: &KernelService,
    pool: &FrontPool,
    asker: Asker<'_>,
    good: &dyn Fn(u16) -> bool,
) -> Option<u16> {
    let image = &snapshot.image;
    let members = crate::control::plan::members(&image.pools.get(&value.pool)?.pool);
    let usable: Vec<u16> = members
        .iter()
        .copied()
        .filter(|number| {
            let backend = image.backends.get(number);
            backend.is_some_and(|backend| backend.takes_new() && backend.pool == value.pool)
                && good(*number)
        })
        .collect();
    let weight = |number: u16| {
        let upstream = pool.upstreams.iter().find(|upstream| {
            let known = snapshot.state.numbers.backends.get(&upstream.identity);
            known == Some(u32::from(number))
        });
        upstream.map_or(1, |upstream| {
            let pool = snapshot.state.pool(&pool.name);
            let weight = pool.map_or(0, |pool| {
                snapshot.state.effective_weight(pool, &upstream.configured)
            });
            u64::from(weight.max(1))
        })
    };
    match pool.algorithm {
        Algorithm::SourceHash => {
            let client = choice::client_of(value, asker.client);
            let hash = hash::source_and_port(&client, asker.port);
            let first = (hash as usize).checked_rem(usable.len())?;
            usable.get(first).copied()
        }
        Algorithm::RoundRobin => worker.turns.borrow_mut().next(&usable, &weight),
        Algorithm::LeastConnections => {
            let least = least_loaded(&usable, &|number| worker.loads.of(number), &weight);
            // While nobody has much to do, that is many.
            worker.turns.borrow_mut().next(&least, &weight)
        }
    }
}

/// Returns those of `usable` that have the fewest connections for their weights.
fn least_loaded(
    usable: &[u16],
    load: &dyn Fn(u16) -> u32,
    weight: &dyn Fn(u16) -> u64,
) -> Vec<u16> {
    let is_least = |one: u16| {
        // load(one) / weight(one) <= load(other) / weight(other), without the division
        let no_more = |&other: &u16| {
            u64::from(load(one)) * weight(other) <= u64::from(load(other)) * weight(one)
        };
        usable.iter().all(no_more)
    };
    usable
        .iter()
        .copied()
        .filter(|one| is_least(*one))
        .collect()
}

fn own_check_passes(snapshot: &Snapshot, front: &Front, upstream: &Upstream) -> bool {
    if front.service.health.is_none() {
        return true;
    }
    let known = snapshot.state.backends.get(&upstream.backend);
    known.is_none_or(|known| known.passes_check_of(&front.service.name))
}

/// Smooth weighted round robin: each gets its share, and turns of one backend lie apart.
#[derive(Debug, Default)]
pub(crate) struct Turns(std::collections::BTreeMap<u16, i64>);

impl Turns {
    /// Returns whose turn it is among `usable`.
    fn next(&mut self, usable: &[u16], weight: &dyn Fn(u16) -> u64) -> Option<u16> {
        let mut total = 0;
        for &number in usable {
            let weight = i64::try_from(weight(number)).unwrap_or(1);
            *self.0.entry(number).or_default() += weight;
            total += weight;
        }
        let first = usable
            .iter()
            .copied()
            .max_by_key(|number| (self.0.get(number).copied(), std::cmp::Reverse(*number)))?;
        *self.0.entry(first).or_default() -= total;
        Some(first)
    }
}

#[cfg(test)]
mod tests {
    use super::{Turns, least_loaded};

    #[test]
    fn the_least_loaded_are_all_that_have_as_little_for_their_weight() {
        let weight = |number: u16| if number == 7 { 2 } else { 1 };
        let of = |loads: [u32; 3]| {
            let load = move |number: u16| match number {
                3 => loads[0],
                5 => loads[1],
                _ => loads[2],
            };
            least_loaded(&[3, 5, 7], &load, &weight)
        };

        assert_eq!(of([0, 0, 0]), [3, 5, 7]);
        assert_eq!(of([1, 0, 1]), [5]);
        assert_eq!(of([1, 2, 2]), [3, 7]);
        assert_eq!(of([4, 4, 7]), [7]);
        assert!(least_loaded(&[], &|_| 0, &|_| 1).is_empty());
    }

    #[test]
    fn turns_come_by_weight_and_lie_apart() {
        let mut turns = Turns::default();
        let weight = |number: u16| if number == 7 { 2 } else { 1 };

        let order: Vec<u16> = (0..8)
            .filter_map(|_| turns.next(&[3, 5, 7], &weight))
            .collect();

        assert_eq!(order, [7, 3, 5, 7, 7, 3, 5, 7]);
    }

    #[test]
    fn nobody_has_a_turn_among_nobody() {
        assert_eq!(Turns::default().next(&[], &|_| 1), None);
    }
}
