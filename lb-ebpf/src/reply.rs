//! The reply half of a flow: from a backend's packet to the client.

use lb_common::{
    addr::words,
    endpoint::EndpointKey,
    limits::MAX_SNAT_ADDRESSES,
    record::{Claim, Record},
    settings::Settings,
    verdict::DropReason,
};

use crate::{
    affinity, claim,
    maps::{ENDPOINTS, RECORDS},
    parse::{Parsed, UDP},
    pipeline::{Exit, Node},
    rewrite::Outgoing,
};

/// A record that translates a reply.
pub(crate) struct Found {
    record: *mut Record,
    /// Index of the record.
    index: u32,
    /// Number of its backend.
    pub(crate) backend: u16,
    /// Number of its service.
    pub(crate) service: u8,
}

/// Looks up the record that a backend's packet belongs to.
///
/// `None`: the packet is no reply, but may be a client's.
///
/// # Errors
///
/// [`DropReason::NoFlow`] for an SNAT port without a flow. Passed on, the host would answer with
/// port unreachable.
#[inline(always)]
pub(crate) fn find(node: &Node, parsed: &Parsed) -> Result<Option<Found>, Exit> {
    let settings = node.settings;
    let offset =
        u32::from(parsed.destination_port).wrapping_sub(u32::from(settings.snat_port_first));
    let count = u32::from(settings.snat_port_count);
    if offset >= count {
        return Ok(None);
    }
    let key = EndpointKey::new(parsed.destination, parsed.source, parsed.source_port, UDP);
    // SAFETY: endpoints change by replacement of the whole value, seldom.
    let Some(endpoint) = (unsafe { ENDPOINTS.get(&key) }) else {
        if is_snat_address(settings, &parsed.destination) {
            return Err(Exit::Drop(DropReason::NoFlow));
        }
        return Ok(None);
    };
    let index = endpoint.slot * count + offset;
    let record = RECORDS.get_ptr_mut(index).ok_or(DropReason::Inconsistent)?;
    let word = claim::alive(record, claim::read(record)).ok_or(DropReason::NoFlow)?;
    // SAFETY: `record` points into the map, and is live.
    let service = unsafe { (*record).service };
    Ok(Some(Found {
        record,
        index,
        backend: Claim::unpack(word).backend,
        service,
    }))
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
pub(crate) fn translate(
    node: &Node,
    found: &Found,
    outgoing: &mut Outgoing,
) -> Result<(), DropReason> {
    // SAFETY: the record points into the map; its fields are plain values.
    let record = unsafe { &mut *found.record };
    if record.replied == 0 {
        record.replied = 1;
    }
    if record.last_seen != node.now {
        record.last_seen = node.now;
        affinity::touch(node, found.index);
    }
    let interface = node
        .settings
        .interfaces
        .get(usize::from(record.interface))
        .filter(|interface| interface.index != 0)
        .ok_or(DropReason::InterfaceGone)?;
    outgoing.source = record.vip;
    outgoing.source_port = record.vip_port;
    outgoing.destination = record.client;
    outgoing.destination_port = record.client_port;
    outgoing.interface_index = interface.index;
    outgoing.source_mac = interface.mac;
    outgoing.destination_mac = record.client_mac;
    outgoing.vlan = record.vlan;
    Ok(())
}

/// Returns whether flows are translated to `address`.
#[inline(always)]
fn is_snat_address(settings: &Settings, address: &[u8; 16]) -> bool {
    let count = settings.snat_address_count as usize;
    for place in 0..MAX_SNAT_ADDRESSES {
        if place < count && words(&settings.snat_addresses[place]) == words(address) {
            return true;
        }
    }
    false
}
