//! Which backend a client belongs to: the one that answered it.

use lb_common::{
    addr::is_mapped,
    affinity::{Affinity, AffinityKey, lifetime_s},
    backend::Backend,
    record::{Claim, Record},
    service::Service,
    settings::Settings,
    verdict::DropReason,
};

use crate::{
    ip::Ip,
    maps::{AFFINITY, BACKENDS, RECORDS, SETTINGS},
    parse::Parsed,
    pipeline::Node,
    record,
    select::{self, Chosen},
    service, stats,
};

/// Returns the backend that the client belongs to, if it may still serve it.
///
/// A backend that its pool's health or an administrator took out is no answer: the caller chooses
/// anew. One that only this service finds down is left in memory, and another serves meanwhile.
///
/// # Errors
///
/// [`DropReason::NoEligibleBackend`] when there is no other: that is this service's trouble, and no
/// reason to choose anew for the whole group.
#[inline(always)]
pub(crate) fn find(
    node: &Node,
    parsed: &Parsed,
    service: &Service,
) -> Result<Option<Chosen>, DropReason> {
    if service.flags & Service::AFFINITY == 0 {
        return Ok(None);
    }
    let client = select::client(&parsed.source.bytes(), parsed.v6, service);
    let Some(entry) = AFFINITY.get_ptr_mut(&AffinityKey {
        client,
        group: service.group,
    }) else {
        return Ok(None);
    };
    let Some((id, backend)) = valid(entry, service, node.settings, node.now) else {
        return Ok(None);
    };
    // SAFETY: a plain store to a field of its own; a lost one costs some seconds of a client's age.
    unsafe { (*entry).last_seen = node.now };
    if backend.serves_service(service.id as u8) {
        return Ok(Some(Chosen { id, backend }));
    }
    select::detour(service, &client).map(Some)
}

/// Returns the backend that an entry names, if the entry has not expired and the backend may still
/// serve the client.
#[inline(always)]
fn valid(
    entry: *mut Affinity,
    service: &Service,
    settings: &Settings,
    now: u32,
) -> Option<(u16, &'static Backend)> {
    // SAFETY: the element may be reused for another client while it is read; the backend found is
    // then a wrong but working choice, which the next packet does not depend on.
    let (last_seen, id) = unsafe { ((*entry).last_seen, (*entry).backend) };
    let lifetime = lifetime_s(service.affinity_timeout_s, settings.flow_timeout_s);
    if now.saturating_sub(last_seen) > lifetime {
        return None;
    }
    let backend = BACKENDS.get(u32::from(id))?;
    (backend.serves() && backend.pool == service.pool).then_some((id, backend))
}

/// Marks the client of a flow as seen.
#[inline(always)]
pub(crate) fn touch(node: &Node, record: u32) {
    mark_client(record, node.now, 0);
}

/// Remembers that the flow's backend has answered its client, which belongs to it from now on if it
/// belongs to nobody.
///
/// Not before: a client that nobody has answered may not exist at all.
#[inline(always)]
pub(crate) fn answered(node: &Node, record: u32) {
    mark_client(record, node.now, 1);
}

/// Returns whether the client of a record is remembered.
///
/// A global function of the program, as `select::by_hash` is, for the verifier's sake.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn mark_client(record: u32, now: u32, answered: u8) -> u32 {
    let (Some(settings), Some(record)) = (SETTINGS.get(0), RECORDS.get_ptr_mut(record)) else {
        return 0;
    };
    let answering = Claim::unpack(record::read(record)).backend;
    // SAFETY: `record` points into the map, and its fields are plain values. It is given to no other
    // flow meanwhile: a port rests after its flow.
    let record: &Record = unsafe { &*record };
    let client = Ip::of(&record.client).bytes();
    let Ok(service) = service::find(Ip::of(&record.vip), record.vip_port) else {
        return 0;
    };
    if service.flags & Service::AFFINITY == 0 {
        return 0;
    }
    let key = AffinityKey {
        client: select::client(&client, !is_mapped(&client), service),
        group: service.group,
    };
    if let Some(entry) = AFFINITY.get_ptr_mut(&key)
        && valid(entry, service, settings, now).is_some()
    {
        // SAFETY: as in `find`.
        unsafe { (*entry).last_seen = now };
        return 1;
    }
    if answered == 0 {
        return 0;
    }
    let entry = Affinity {
        last_seen: now,
        backend: select::of_group(service, &key.client, answering),
        _reserved: 0,
    };
    if AFFINITY.insert(&key, &entry, 0).is_err() {
        stats::affinity_full(service.id);
        return 0;
    }
    1
}
