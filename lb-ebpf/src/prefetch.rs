//! Loads what will be needed before it is known to be.
//!
//! A client without a past has the backend that its pool's table names, and its flow gets the first port
//! that is tried for it, if that is free. So the packet alone tells where the records of most new flows
//! will lie. The record is read as soon as [`crate::cache`] has no flow for the packet: while new flows
//! come one after the other the processor takes that for granted, and waits for both at once.

use lb_common::service::Service;

use crate::{
    cache,
    ip::Ip,
    maps::{BACKENDS, RECORDS},
    parse::Parsed,
    pipeline::Node,
    record::{self, Search},
    select,
};

/// Loads the record that the packet's flow most likely gets, or has if the cache has forgotten it.
#[inline(always)]
pub(crate) fn record(node: &Node, parsed: &Parsed, service: &Service) {
    if let Some(index) = likely_index(node, parsed, service)
        && let Some(record) = RECORDS.get_ptr_mut(index)
    {
        record::read(record);
    }
}

#[inline(always)]
fn likely_index(node: &Node, parsed: &Parsed, service: &Service) -> Option<u32> {
    let backend = BACKENDS.get(select::by_table(parsed, service)?)?;
    let mut search = Search::of(parsed, backend);
    let snat = Ip::of(&node.settings.snat_addresses[search.next()?]);
    let address = Ip::of(&backend.address);
    let slot = cache::likely_slot(snat, address, service.port_at(backend))?;
    let offset = record::first_offset(node.settings, parsed.source_port, search.start);
    Some(node.index(slot, offset))
}
