//! The kernel side: the only code that knows BPF.
//!
//! - [`image`]: what the maps hold, as plain data, and the operations that change it.
//! - [`kernel`]: the real thing; [`attach`] its links, [`layout`] whether its pins can be adopted,
//!   [`sweep`] the end of flows, [`audit`] what an audit reads.
//! - [`Dataplane`]: what the rest of the daemon may ask of the kernel. [`fake::Fake`] keeps an
//!   image in memory, for tests of everything above.

pub mod affinity;
pub mod attach;
pub mod audit;
mod batch;
mod clock;
pub mod fake;
pub mod image;
pub mod kernel;
pub mod layout;
mod pressure;
mod records;
pub mod sweep;

use std::{net::IpAddr, time::Duration};

use lb_common::{stats::Counters, verdict::DropReason};

use image::{Image, MapOp};

/// What the rest of the daemon may ask of the kernel.
///
/// Calls are short system calls and copies from mapped memory; none waits for the network.
pub trait Dataplane: Send {
    /// Returns what the maps hold: what a former daemon left, or an image without services.
    ///
    /// # Errors
    ///
    /// [`DataplaneError`] when a map cannot be read.
    fn image(&self) -> Result<Image, DataplaneError>;

    /// Carries out `operations` in order. Each is one step that packets see whole; the order is
    /// the plan's, so that packets find a working state after every step.
    ///
    /// # Errors
    ///
    /// [`DataplaneError`] names the first operation that failed; those before it are done.
    fn apply(&mut self, operations: &[MapOp]) -> Result<(), DataplaneError>;

    /// Returns the counters of every service and backend, summed over the processors.
    ///
    /// # Errors
    ///
    /// [`DataplaneError`] when a map cannot be read.
    fn counters(&self) -> Result<CounterSnapshot, DataplaneError>;

    /// Returns the backend number that `affinity` holds for a client already cut to its prefix,
    /// with the seconds since its last packet.
    ///
    /// # Errors
    ///
    /// [`DataplaneError`] when the map cannot be read.
    fn affinity(&self, client: IpAddr, group: u32) -> Result<Option<(u16, u32)>, DataplaneError>;

    /// Returns up to `limit` live flows that `filter` accepts.
    fn flows(&self, limit: usize, filter: &dyn Fn(&FlowView) -> bool) -> Vec<FlowView>;

    /// Returns how the program is attached to each interface.
    fn attachments(&self) -> Vec<Attachment>;

    /// Reattaches the program to an interface that was made anew, and forgets the one it replaced.
    ///
    /// # Errors
    ///
    /// [`DataplaneError`] when the interface cannot be attached to.
    fn reattach(&mut self, interface: &str) -> Result<Attachment, DataplaneError>;

    /// Returns a reader of all that the kernel holds, with handles of its own: what it reads may
    /// take long, and is for a thread that may block.
    ///
    /// # Errors
    ///
    /// [`DataplaneError`] when a pinned map cannot be opened again, or there is no kernel.
    fn auditor(&self) -> Result<audit::Auditor, DataplaneError> {
        Err(DataplaneError {
            what: "there is no kernel to audit".to_owned(),
            source: None,
        })
    }
}

/// A map or link that the kernel refused, in words.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct DataplaneError {
    /// What was tried, with its values.
    pub what: String,
    /// Why it failed.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// Counters at one moment.
#[derive(Clone, Debug, Default)]
pub struct CounterSnapshot {
    /// By service number.
    pub services: Vec<Counters>,
    /// By backend number.
    pub backends: Vec<Counters>,
    /// Dropped packets in the order of [`DropReason::ALL`].
    pub drops: Vec<(DropReason, u64)>,
}

/// How the program is attached to one interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Interface name.
    pub interface: String,
    /// Interface index.
    pub index: u32,
    /// `true`: native (in the driver); `false`: generic.
    pub native: bool,
    /// Why it is so, for people, such as "the driver veth supports it" or "asked for by
    /// node.xdp_mode" or "the driver refused native mode: operation not supported".
    pub why: String,
}

/// One live flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowView {
    /// The client.
    pub client: (IpAddr, u16),
    /// The VIP and port.
    pub vip: (IpAddr, u16),
    /// Our source address and port towards the backend.
    pub snat: (IpAddr, u16),
    /// The backend's address and port.
    pub endpoint: (IpAddr, u16),
    /// Number of the service.
    pub service: u8,
    /// Number of the backend.
    pub backend: u16,
    /// Time since the last packet in either direction.
    pub idle: Duration,
    /// The backend has answered.
    pub replied: bool,
}

/// What one pass over the records found and did; sent by the sweeper about once a second.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SweepReport {
    /// Passes since start; a number that was freed before pass `n` began is clean after it.
    pub pass: u64,
    /// Live flows by service number; services without flows may be missing.
    pub flows_by_service: std::collections::BTreeMap<u8, u32>,
    /// Live flows by backend number.
    pub flows_by_backend: std::collections::BTreeMap<u16, u32>,
    /// By endpoint slot: SNAT ports in use, and resting in quarantine.
    pub ports_by_slot: std::collections::BTreeMap<u32, PortUse>,
    /// Clients remembered, by backend number.
    pub affinity_by_backend: std::collections::BTreeMap<u16, u32>,
    /// Entries in the affinity table.
    pub affinity_entries: u32,
    /// Flows that ended in this pass.
    pub ended: u32,
    /// Places run out somewhere: the next pass should not wait long.
    pub pressed: bool,
    /// How long the pass took.
    pub took: Duration,
}

/// SNAT ports of one endpoint slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortUse {
    /// Held by flows.
    pub in_use: u32,
    /// Freed, not to be given away yet.
    pub resting: u32,
}
