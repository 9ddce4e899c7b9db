//! Which backend a client belongs to.

use lb_common::{
    addr::is_mapped,
    affinity::{Affinity, AffinityKey, lifetime_s},
    record::Record,
    service::Service,
    verdict::DropReason,
};

use crate::{
    ip::Ip,
    maps::{AFFINITY, BACKENDS, RECORDS},
    parse::Parsed,
    pipeline::Node,
    select::{self, Chosen},
    service,
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
    // SAFETY: the element may be reused for another client while it is read; the backend found is
    // then a wrong but working choice, which the next packet does not depend on.
    let (last_seen, id) = unsafe { ((*entry).last_seen, (*entry).backend) };
    let lifetime = lifetime_s(service.affinity_timeout_s, node.settings.flow_timeout_s);
    if node.now.saturating_sub(last_seen) > lifetime {
        return Ok(None);
    }
    let Some(backend) = BACKENDS.get(u32::from(id)) else {
        return Ok(None);
    };
    if !backend.serves() || backend.pool != service.pool {
        return Ok(None);
    }
    // SAFETY: a plain store to a field of its own; a lost one costs some seconds of a client's age.
    unsafe { (*entry).last_seen = node.now };
    if backend.serves_service(service.id as u8) {
        return Ok(Some(Chosen { id, backend }));
    }
    select::detour(service, &client).map(Some)
}

/// Marks the client of a flow as seen.
#[inline(always)]
pub(crate) fn touch(node: &Node, record: u32) {
    mark_client(record, node.now, 0);
}

/// Marks the client of a flow as one that a backend has answered.
#[inline(always)]
pub(crate) fn confirm(node: &Node, record: u32) {
    mark_client(record, node.now, 1);
}

/// Returns whether the client of a record was remembered.
///
/// A global function of the program, as `select::by_hash` is, for the verifier's sake.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn mark_client(record: u32, now: u32, confirmed: u8) -> u32 {
    let Some(record) = RECORDS.get_ptr_mut(record) else {
        return 0;
    };
    // SAFETY: `record` points into the map, and its fields are plain values. Should it be given to
    // another flow meanwhile, a client is marked a second too late or too early.
    let record: &Record = unsafe { &*record };
    let client = Ip::of(&record.client).bytes();
    let Ok(service) = service::find(Ip::of(&record.vip), record.vip_port) else {
        return 0;
    };
    if service.flags & Service::AFFINITY == 0 {
        return 0;
    }
    let Some(entry) = AFFINITY.get_ptr_mut(&AffinityKey {
        client: select::client(&client, !is_mapped(&client), service),
        group: service.group,
    }) else {
        return 0;
    };
    // SAFETY: as in `find`.
    let entry: &mut Affinity = unsafe { &mut *entry };
    entry.last_seen = now;
    if confirmed != 0 {
        entry.confirmed = 1;
    }
    1
}
