//! Choosing a backend for a client that belongs to none: weighted Maglev on the source address.

use lb_common::{
    addr::masked,
    backend::Backend,
    hash,
    limits::{MAGLEV_SLOTS, MAX_POOL_MEMBERS},
    pool::maglev_index,
    service::Service,
    verdict::DropReason,
};

use crate::{
    maps::{BACKENDS, MAGLEV, POOLS},
    parse::Parsed,
};

/// A chosen backend.
#[derive(Clone, Copy)]
pub(crate) struct Chosen {
    /// Its number.
    pub(crate) id: u16,
    /// Its entry.
    pub(crate) backend: &'static Backend,
}

/// Chooses a backend. Where only this service's own check finds the pool's choice down, this
/// service's traffic takes a detour.
///
/// # Errors
///
/// [`DropReason::NoEligibleBackend`].
#[inline(always)]
pub(crate) fn select(parsed: &Parsed, service: &Service) -> Result<Chosen, DropReason> {
    let hash = choice_hash(parsed, service);
    let chosen = chosen(by_hash(service.pool, service.id, hash, 0))?;
    if chosen.backend.serves_service(service.id as u8) {
        return Ok(chosen);
    }
    self::chosen(by_hash(service.pool, service.id, hash, 1))
}

/// Returns what the pool's table names for a client, whether it can serve or not.
#[inline(always)]
pub(crate) fn by_table(parsed: &Parsed, service: &Service) -> Option<u32> {
    let pool = u32::from(service.pool);
    let slot = choice_hash(parsed, service) % MAGLEV_SLOTS;
    let index = maglev_index(pool, POOLS.get(pool)?.half, slot);
    MAGLEV.get(index).copied()
}

/// Returns the hash that a flow's backend is chosen by.
#[inline(always)]
fn choice_hash(parsed: &Parsed, service: &Service) -> u32 {
    let client = client(&parsed.source.bytes(), parsed.v6, service);
    if service.flags & Service::AFFINITY != 0 {
        hash::source(&client)
    } else {
        hash::source_and_port(&client, parsed.source_port)
    }
}

/// Chooses a backend for a client whose own cannot serve this one service.
///
/// # Errors
///
/// [`DropReason::NoEligibleBackend`].
#[inline(always)]
pub(crate) fn detour(service: &Service, client: &[u8; 16]) -> Result<Chosen, DropReason> {
    chosen(by_hash(service.pool, service.id, hash::source(client), 1))
}

/// Returns the backend that a client belongs to after `answering` has answered it for this service:
/// that one, or the pool's choice if `answering` is but the detour around it. Two services of a
/// group never change each other's choice.
#[inline(always)]
pub(crate) fn of_group(service: &Service, client: &[u8; 16], answering: u16) -> u16 {
    match chosen(by_hash(service.pool, service.id, hash::source(client), 0)) {
        Ok(chosen) if !chosen.backend.serves_service(service.id as u8) => chosen.id,
        _ => answering,
    }
}

/// Returns the client's address, cut to the prefix that the service tells clients apart by.
#[inline(always)]
pub(crate) fn client(source: &[u8; 16], v6: bool, service: &Service) -> [u8; 16] {
    let prefix = if v6 {
        service.ipv6_prefix
    } else {
        service.ipv4_prefix
    };
    if prefix >= 128 {
        return *source;
    }
    masked(source, prefix)
}

/// No backend can be chosen.
const NONE: u32 = u32::MAX;

/// Returns the table's choice, or the next member that can serve while the table is older than a
/// backend's state; else [`NONE`]. With `own_check` of 1 the service's own check counts as well.
///
/// A global function of the program: the verifier checks it once, by itself, instead of following
/// its loop at each call. That is why it takes and returns numbers only.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn by_hash(pool: u16, service: u16, hash: u32, own_check: u32) -> u32 {
    let Some(members) = POOLS.get(u32::from(pool)) else {
        return NONE;
    };
    let usable = |id: u32| {
        BACKENDS
            .get(id)
            .is_some_and(|backend| backend.takes_new_from(pool, service as u8, own_check != 0))
    };
    let slot = maglev_index(u32::from(pool), members.half, hash % MAGLEV_SLOTS);
    if let Some(&id) = MAGLEV.get(slot)
        && usable(id)
    {
        return id;
    }
    let count = members.member_count;
    if count == 0 {
        return NONE;
    }
    for turn in 0..MAX_POOL_MEMBERS as u32 {
        // A remainder each time, and no comparison with `count`: from comparisons the verifier
        // learns every pair of values there can be, and follows them all.
        let member = (hash % count + turn) % count;
        let id = u32::from(members.members[member as usize & (MAX_POOL_MEMBERS - 1)]);
        if usable(id) {
            return id;
        }
    }
    NONE
}

/// Returns the backend with this number.
#[inline(always)]
fn chosen(id: u32) -> Result<Chosen, DropReason> {
    let backend = BACKENDS.get(id).ok_or(DropReason::NoEligibleBackend)?;
    Ok(Chosen {
        id: id as u16,
        backend,
    })
}
