//! The forward half of a flow: found, created, moved.

use lb_common::{
    backend::Backend,
    flow::{Flow, FlowKey, FlowKey6},
    limits::MAX_SNAT_ADDRESSES,
    record::Claim,
    service::Service,
    verdict::DropReason,
};

use crate::{
    cache::{self, FlowHash},
    epoch,
    ip::Ip,
    link::{Tags, mac},
    maps::{BACKENDS, FLOWS, FLOWS6, RECORDS, SLOTS},
    parse::{Parsed, UDP},
    pipeline::Node,
    record::{self, Place},
    rewrite::Outgoing,
    select::Chosen,
    stats,
};

/// Flags of `bpf_map_update_elem`.
const BPF_ANY: u64 = 0;
const BPF_NOEXIST: u64 = 1;
/// What it returns when the key is there already.
const EEXIST: i32 = -17;

/// What the flow table knows of a packet's flow.
///
/// Plain numbers: where a pointer is there only sometimes, the verifier meets what was never set.
pub(crate) struct Known {
    /// There is a forward entry.
    entry: bool,
    /// The claim of the record that it names, if that translates and is the flow's; else zero.
    word: u64,
    index: u32,
    slot: u32,
}

impl Known {
    const NOTHING: Self = Self {
        entry: false,
        word: 0,
        index: 0,
        slot: 0,
    };

    /// Returns the flow's record.
    #[inline(always)]
    pub(crate) fn place(&self) -> Option<Place> {
        if self.word == 0 {
            return None;
        }
        Place::at(self.index, self.slot, self.word)
    }
}

/// Returns the packet's flow and its backend, if that may still serve it: by the cache alone.
#[inline(always)]
pub(crate) fn cached(
    node: &Node,
    parsed: &Parsed,
    hash: FlowHash,
) -> Option<(Place, &'static Backend)> {
    let place = cache::find(node, parsed, hash)?;
    let backend = backend(&place)?;
    serves_by(&place, backend).then_some((place, backend))
}

/// Returns whether the backend of a record may still serve its flow.
#[inline(always)]
pub(crate) fn serves(place: &Place) -> bool {
    backend(place).is_some_and(|backend| serves_by(place, backend))
}

#[inline(always)]
fn serves_by(place: &Place, backend: &Backend) -> bool {
    // SAFETY: `record` points into the map.
    backend.serves_flow(unsafe { (*place.record).service })
}

/// Returns the backend of a record.
#[inline(always)]
pub(crate) fn backend(place: &Place) -> Option<&'static Backend> {
    BACKENDS.get(u32::from(Claim::unpack(place.word).backend))
}

/// Looks the packet's flow up in the table.
#[inline(always)]
pub(crate) fn find(node: &Node, parsed: &Parsed) -> Known {
    let mut known = Known::NOTHING;
    let (client, vip) = (parsed.source, parsed.destination);
    let ports = (parsed.source_port, parsed.destination_port);
    let Some(flow) = lookup(parsed.v6, client, ports.0, vip, ports.1) else {
        return known;
    };
    known.entry = true;
    if let Some(place) = place_of(node, &flow)
        && record::belongs(place.record, client, ports.0, vip, ports.1)
        && let Some(word) = record::alive(place.record, place.word)
    {
        known.word = word;
        known.index = place.index;
        known.slot = place.slot;
    }
    known
}

/// Returns the record that a forward entry names, if it has that generation.
///
/// The entry's element may have been reused for another flow while it was read: the caller
/// compares the record with the packet.
#[inline(always)]
pub(crate) fn place_of(node: &Node, flow: &Flow) -> Option<Place> {
    let record = RECORDS.get_ptr_mut(flow.record)?;
    let word = record::read(record);
    if word as u32 != flow.generation || !record::translates(word) {
        return None;
    }
    Some(Place {
        record,
        index: flow.record,
        slot: node.slot_of(flow.record),
        word,
    })
}

/// Makes the packet's flow: a record, then the forward entry that names it. Where the flow was
/// with another backend, it moves: the entry is replaced, and the record it named is freed.
///
/// # Errors
///
/// [`DropReason::SnatPortsExhausted`], [`DropReason::FlowTableFull`]. Nothing is left behind.
#[inline(always)]
pub(crate) fn create(
    node: &Node,
    parsed: &Parsed,
    service: &Service,
    chosen: &Chosen,
    known: &Known,
) -> Result<Place, DropReason> {
    let backend_port = service.port_at(chosen.backend);
    let number = service.id as u8;
    let place = record::allocate(node, parsed, chosen, backend_port)?;
    let place = record::publish(node, parsed, number, place);
    let flow = Flow {
        record: place.index,
        generation: place.word as u32,
        backend: chosen.id,
        snat_port: node.snat_port(&place),
        backend_port,
        snat_address: snat_place(node, &place),
        service: number,
    };
    let flags = if known.entry { BPF_ANY } else { BPF_NOEXIST };
    match insert(parsed, &flow, flags) {
        Ok(()) => {
            if let Some(former) = known.place() {
                record::free(node, former.record, former.word);
                // Whoever took its backend out may not have come to say so.
                epoch::begin();
                stats::flow_moved(number, chosen.id);
            } else {
                stats::flow_new(number, chosen.id);
            }
            Ok(place)
        }
        Err(error) => {
            record::free(node, place.record, place.word);
            if error != EEXIST {
                return Err(DropReason::FlowTableFull);
            }
            // Another processor was faster with the same flow: its choice holds.
            find(node, parsed).place().ok_or(DropReason::FlowTableFull)
        }
    }
}

/// Returns the place in the settings of the address that a record's endpoint translates to.
#[inline(always)]
fn snat_place(node: &Node, place: &Place) -> u8 {
    let Some(endpoint) = SLOTS.get(place.slot) else {
        return 0;
    };
    let address = Ip::of(&endpoint.snat);
    for number in 0..MAX_SNAT_ADDRESSES {
        if Ip::of(&node.settings.snat_addresses[number]) == address {
            return number as u8;
        }
    }
    0
}

/// Says where the packet goes: to the flow's backend, from our address and the flow's port.
#[inline(always)]
pub(crate) fn translate(
    node: &Node,
    place: &Place,
    backend: &Backend,
) -> Result<Outgoing, DropReason> {
    let endpoint = SLOTS.get(place.slot).ok_or(DropReason::Inconsistent)?;
    Ok(Outgoing {
        source: Ip::of(&endpoint.snat),
        source_port: node.snat_port(place),
        destination: Ip::of(&endpoint.backend),
        destination_port: endpoint.port,
        interface_index: backend.interface,
        mtu: backend.mtu,
        source_mac: mac(&backend.source_mac),
        destination_mac: mac(&backend.mac),
        tags: Tags::of(&backend.vlan),
    })
}

/// Returns the forward entry of the flow from `client` to `vip`.
#[inline(always)]
pub(crate) fn lookup(
    v6: bool,
    client: Ip,
    client_port: u16,
    vip: Ip,
    vip_port: u16,
) -> Option<Flow> {
    // SAFETY: the value is copied at once. Its element may be reused for another flow meanwhile,
    // which is why generation and client are compared with the record.
    unsafe {
        if v6 {
            let key = FlowKey6::new(client.bytes(), client_port, vip.bytes(), vip_port, UDP);
            FLOWS6.get(&key).copied()
        } else {
            let key = FlowKey::new(client.to_v4(), client_port, vip.to_v4(), vip_port, UDP);
            FLOWS.get(&key).copied()
        }
    }
}

#[inline(always)]
fn insert(parsed: &Parsed, flow: &Flow, flags: u64) -> Result<(), i32> {
    let (client, vip) = (parsed.source, parsed.destination);
    let (client_port, vip_port) = (parsed.source_port, parsed.destination_port);
    if parsed.v6 {
        let key = FlowKey6::new(client.bytes(), client_port, vip.bytes(), vip_port, UDP);
        FLOWS6.insert(&key, flow, flags)
    } else {
        let key = FlowKey::new(client.to_v4(), client_port, vip.to_v4(), vip_port, UDP);
        FLOWS.insert(&key, flow, flags)
    }
}
