//! The reply half of a flow: from a backend's packet to the client.

use lb_common::{
    endpoint::EndpointKey, limits::MAX_SNAT_ADDRESSES, record::Record, settings::Settings,
    verdict::DropReason,
};

use crate::{
    cache,
    ip::Ip,
    link::mac,
    maps::{ENDPOINTS, RECORDS},
    parse::{Parsed, UDP},
    pipeline::{Exit, Node},
    record::{self, Place},
    rewrite::Outgoing,
};

/// Looks up the record that a backend's packet belongs to.
///
/// `None`: the packet is no reply, but may be a client's.
///
/// # Errors
///
/// [`DropReason::NoFlow`] for an SNAT port without a flow. Passed on, the host would answer with
/// port unreachable.
#[inline(always)]
pub(crate) fn find(node: &Node, parsed: &Parsed) -> Result<Option<Place>, Exit> {
    let Some(offset) = node.snat_offset(parsed.destination_port) else {
        return Ok(None);
    };
    match slot_of(parsed.destination, parsed.source, parsed.source_port) {
        Some(slot) => Ok(Some(at(node, slot, offset)?)),
        None if is_snat_address(node.settings, parsed.destination) => {
            Err(Exit::Drop(DropReason::NoFlow))
        }
        None => Ok(None),
    }
}

/// Returns the record of an endpoint's SNAT port, if it translates.
///
/// # Errors
///
/// [`DropReason::NoFlow`].
#[inline(always)]
pub(crate) fn at(node: &Node, slot: u32, offset: u32) -> Result<Place, DropReason> {
    let index = node.index(slot, offset);
    let record = RECORDS.get_ptr_mut(index).ok_or(DropReason::Inconsistent)?;
    let word = record::alive(record, record::read(record)).ok_or(DropReason::NoFlow)?;
    Ok(Place {
        record,
        index,
        slot,
        word,
    })
}

/// Returns the slot of the endpoint between one of our addresses and a backend.
#[inline(always)]
pub(crate) fn slot_of(snat: Ip, backend: Ip, port: u16) -> Option<u32> {
    if let Some(slot) = cache::find_endpoint(snat, backend, port) {
        return Some(slot);
    }
    let key = EndpointKey::new(snat.bytes(), backend.bytes(), port, UDP);
    // SAFETY: endpoints change by replacement of the whole value, seldom.
    let slot = unsafe { ENDPOINTS.get(&key) }?.slot;
    cache::remember_endpoint(snat, backend, port, slot);
    Some(slot)
}

/// Says where the reply goes: to the flow's client, from the VIP, by the link that the client's
/// packets last came from.
///
/// A record that is freed while it is read keeps its fields for the length of the quarantine, so
/// the reply is never sent to another client.
///
/// # Errors
///
/// [`DropReason::InterfaceGone`].
#[inline(always)]
pub(crate) fn translate(node: &Node, place: &Place) -> Result<Outgoing, DropReason> {
    let link = record::client_link(place.record);
    let interface = node
        .settings
        .interfaces
        .get(usize::from(link.interface))
        .filter(|interface| interface.index != 0)
        .ok_or(DropReason::InterfaceGone)?;
    // SAFETY: the record points into the map; its fields are plain values.
    let record: &Record = unsafe { &*place.record };
    Ok(Outgoing {
        source: Ip::of(&record.vip),
        source_port: record.vip_port,
        destination: Ip::of(&record.client),
        destination_port: record.client_port,
        interface_index: interface.index,
        mtu: interface.mtu,
        source_mac: mac(&interface.mac),
        destination_mac: link.mac,
        tags: link.tags,
    })
}

/// Returns whether flows are translated to `address`.
#[inline(always)]
fn is_snat_address(settings: &Settings, address: Ip) -> bool {
    let count = settings.snat_address_count as usize;
    for place in 0..MAX_SNAT_ADDRESSES {
        if place < count && Ip::of(&settings.snat_addresses[place]) == address {
            return true;
        }
    }
    false
}
