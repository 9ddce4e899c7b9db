//! Counters, per processor. They never decide anything.

use aya_ebpf::programs::XdpContext;
use aya_log_ebpf::warn;
use lb_common::{
    record::Claim,
    stats::{Counters, backend_index, service_index},
    verdict::DropReason,
};

use crate::{
    maps::{DROPS, STATS},
    record::Place,
};

/// Which way a packet goes.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Direction {
    /// From a client.
    In = 0,
    /// To a client.
    Out = 1,
}

/// Whom a forwarded packet is counted for.
#[derive(Clone, Copy)]
pub(crate) struct Counted {
    /// Number of the service.
    pub(crate) service: u8,
    /// Number of the backend.
    pub(crate) backend: u16,
    /// Which way it goes.
    pub(crate) direction: Direction,
}

impl Counted {
    /// Returns whom the packets of a record are counted for.
    #[inline(always)]
    pub(crate) fn of(place: &Place, direction: Direction) -> Self {
        Self {
            // SAFETY: the record points into the map.
            service: unsafe { (*place.record).service },
            backend: Claim::unpack(place.word).backend,
            direction,
        }
    }
}

/// Counts a forwarded packet for its service and its backend.
#[inline(always)]
pub(crate) fn count(counted: &Counted, bytes: u64) {
    for index in [
        service_index(u32::from(counted.service)),
        backend_index(u32::from(counted.backend)),
    ] {
        update(index, |counters| match counted.direction {
            Direction::In => {
                counters.packets_in += 1;
                counters.bytes_in += bytes;
            }
            Direction::Out => {
                counters.packets_out += 1;
                counters.bytes_out += bytes;
            }
        });
    }
}

/// Counts a new flow.
#[inline(always)]
pub(crate) fn flow_new(service: u8, backend: u16) {
    update(service_index(u32::from(service)), |c| c.flows_new += 1);
    update(backend_index(u32::from(backend)), |c| c.flows_new += 1);
}

/// Counts a flow that came to `backend` from one that could not serve it any more.
#[inline(always)]
pub(crate) fn flow_moved(service: u8, backend: u16) {
    update(service_index(u32::from(service)), |c| c.flows_moved += 1);
    update(backend_index(u32::from(backend)), |c| c.flows_moved += 1);
}

/// Counts a client that was answered and is not remembered.
#[inline(always)]
pub(crate) fn affinity_full(service: u16) {
    update(service_index(u32::from(service)), |c| c.affinity_full += 1);
}

/// Counts an ICMP error in which a backend says that nothing listens on its port.
#[inline(always)]
pub(crate) fn unreachable(backend: u16) {
    update(backend_index(u32::from(backend)), |c| c.unreachable += 1);
}

/// Counts a packet of a service that could not be forwarded; the reason is counted by [`drop`].
#[inline(always)]
pub(crate) fn refused(service: u16) {
    update(service_index(u32::from(service)), |c| c.dropped += 1);
}

/// Counts a dropped packet, and logs what should not happen.
///
/// The log line comes with the first such packet, the second, the fourth and so on, of each
/// processor: a flood of packets is no flood of lines.
#[inline(always)]
pub(crate) fn drop(context: &XdpContext, reason: DropReason) {
    let Some(counter) = DROPS.get_ptr_mut(reason as u32) else {
        return;
    };
    // SAFETY: the slot belongs to this processor, and XDP programs do not interrupt each other.
    let count = unsafe {
        *counter += 1;
        *counter
    };
    if count & (count - 1) != 0 {
        return;
    }
    match reason {
        DropReason::SnatPortsExhausted => {
            warn!(
                context,
                "no free SNAT port towards a backend: {} packets", count
            );
        }
        DropReason::FlowTableFull => {
            warn!(context, "the flow table is full: {} packets", count);
        }
        DropReason::Inconsistent => {
            warn!(context, "the maps contradict each other: {} packets", count);
        }
        _ => {}
    }
}

#[inline(always)]
fn update(index: u32, change: impl FnOnce(&mut Counters)) {
    if let Some(counters) = STATS.get_ptr_mut(index) {
        // SAFETY: as in `drop`.
        change(unsafe { &mut *counters });
    }
}
