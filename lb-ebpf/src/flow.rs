//! The forward half of a flow: found, created, moved.

use lb_common::{
    addr::unmapped,
    flow::{Flow, FlowKey, FlowKey6},
    record::Claim,
    service::Service,
    verdict::DropReason,
};

use crate::{
    affinity, claim,
    maps::{BACKENDS, FLOWS, FLOWS6, RECORDS},
    parse::{Parsed, UDP},
    pipeline::Node,
    rewrite::Outgoing,
    select::Chosen,
    stats,
};

/// Flags of `bpf_map_update_elem`.
const BPF_ANY: u64 = 0;
const BPF_NOEXIST: u64 = 1;
/// What it returns when the key is there already.
const EEXIST: i32 = -17;

/// What is known of a packet's flow.
///
/// Plain fields, as the type is part of a BPF function's signature: the kernel refuses the type
/// information of Rust's enumerations with values there.
pub(crate) struct Known {
    /// There is a forward entry.
    entry: bool,
    /// The entry's record is live and the flow's; `flow` and `word` are set.
    live: bool,
    /// The backend may still serve the flow.
    serves: bool,
    /// The forward entry.
    flow: Flow,
    /// The claim of its record.
    word: u64,
}

impl Known {
    const UNKNOWN: Self = Self {
        entry: false,
        live: false,
        serves: false,
        flow: Flow::NONE,
        word: 0,
    };
    /// There is a forward entry, and nothing behind it.
    const STALE: Self = Self {
        entry: true,
        ..Self::UNKNOWN
    };

    /// Returns the flow, if its backend may still serve it.
    #[inline(always)]
    pub(crate) fn serving(&self) -> Option<&Flow> {
        self.serves.then_some(&self.flow)
    }
}

/// Looks the packet's flow up, and notes that it was seen.
#[inline(always)]
pub(crate) fn find(node: &Node, parsed: &Parsed) -> Known {
    let Some(flow) = lookup(parsed) else {
        return Known::UNKNOWN;
    };
    let Some(record) = RECORDS.get_ptr_mut(flow.record) else {
        return Known::STALE;
    };
    let word = claim::read(record);
    if Claim::unpack(word).generation != flow.generation || !claim::belongs(record, parsed) {
        return Known::STALE;
    }
    let Some(word) = claim::alive(record, word) else {
        return Known::STALE;
    };
    if claim::touch(node, parsed, record) {
        affinity::touch(node, flow.record);
    }
    let serves = BACKENDS
        .get(u32::from(flow.backend))
        .is_some_and(|backend| backend.serves_flow(flow.service));
    Known {
        entry: true,
        live: true,
        serves,
        flow,
        word,
    }
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
) -> Result<Flow, DropReason> {
    let backend_port = match chosen.backend.port {
        0 => service.backend_port,
        port => port,
    };
    let claimed = claim::allocate(node, parsed, chosen, backend_port)?;
    let flow = Flow {
        record: claimed.index,
        generation: claimed.claim.generation,
        backend: chosen.id,
        snat_port: claimed.snat_port,
        backend_port,
        snat_address: claimed.snat_address,
        service: service.id as u8,
    };
    let word = claim::publish(node, parsed, flow.service, &claimed);
    let flags = if known.entry { BPF_ANY } else { BPF_NOEXIST };
    match insert(parsed, &flow, flags) {
        Ok(()) => {
            if known.live {
                if let Some(record) = RECORDS.get_ptr_mut(known.flow.record) {
                    claim::free(node, record, known.word);
                }
                stats::flow_moved(flow.service, flow.backend);
            } else {
                stats::flow_new(flow.service, flow.backend);
            }
            Ok(flow)
        }
        Err(error) => {
            claim::free(node, claimed.record, word);
            if error != EEXIST {
                return Err(DropReason::FlowTableFull);
            }
            // Another processor was faster with the same flow: its choice holds.
            lookup(parsed).ok_or(DropReason::FlowTableFull)
        }
    }
}

/// Says where the packet goes: to the flow's backend, from our address and the flow's port.
#[inline(always)]
pub(crate) fn translate(
    node: &Node,
    flow: &Flow,
    outgoing: &mut Outgoing,
) -> Result<(), DropReason> {
    let backend = BACKENDS
        .get(u32::from(flow.backend))
        .ok_or(DropReason::Inconsistent)?;
    outgoing.source = *node
        .settings
        .snat_addresses
        .get(usize::from(flow.snat_address))
        .ok_or(DropReason::Inconsistent)?;
    outgoing.source_port = flow.snat_port;
    outgoing.destination = backend.address;
    outgoing.destination_port = flow.backend_port;
    outgoing.interface_index = backend.interface;
    outgoing.source_mac = backend.source_mac;
    outgoing.destination_mac = backend.mac;
    outgoing.vlan = backend.vlan;
    Ok(())
}

#[inline(always)]
fn lookup(parsed: &Parsed) -> Option<Flow> {
    // SAFETY: the value is copied at once. Its element may be reused for another flow meanwhile,
    // which is why `find` compares generation and client with the record.
    unsafe {
        if parsed.v6 {
            FLOWS6.get(&key6(parsed)).copied()
        } else {
            FLOWS.get(&key(parsed)).copied()
        }
    }
}

#[inline(always)]
fn insert(parsed: &Parsed, flow: &Flow, flags: u64) -> Result<(), i32> {
    if parsed.v6 {
        FLOWS6.insert(&key6(parsed), flow, flags)
    } else {
        FLOWS.insert(&key(parsed), flow, flags)
    }
}

#[inline(always)]
fn key(parsed: &Parsed) -> FlowKey {
    FlowKey::new(
        unmapped(&parsed.source),
        parsed.source_port,
        unmapped(&parsed.destination),
        parsed.destination_port,
        UDP,
    )
}

#[inline(always)]
fn key6(parsed: &Parsed) -> FlowKey6 {
    FlowKey6::new(
        parsed.source,
        parsed.source_port,
        parsed.destination,
        parsed.destination_port,
        UDP,
    )
}
