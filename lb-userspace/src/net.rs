//! What the daemon reads from, and changes in, the host's network configuration.
//!
//! - [`interfaces`]: an interface by its name, and events when it changes, goes or comes back.
//! - [`next_hop`]: for each destination the interface, MAC and source address to send with,
//!   kept warm and followed as routes and neighbours change.
//! - [`addresses`]: VIP and SNAT addresses, added where missing and removed again; the kernel
//!   itself remembers which are ours.
//! - [`announce`]: tells the network who has an address (gratuitous ARP, unsolicited neighbour
//!   advertisement).
//! - [`reserved_ports`]: keeps the host's own sockets off the SNAT port range.
//!
//! Nothing here knows services, backends or BPF. The watchers are tasks that end when their
//! receiver is dropped; all of them work in the network namespace of the thread that starts them.
//! Decisions (what an observation means, which bytes to send, which ports to write) are pure
//! functions beside a thin shell of sockets.

pub mod addresses;
pub mod announce;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
pub mod interfaces;
mod netlink;
pub mod next_hop;
pub mod reserved_ports;
#[cfg(test)]
mod testbed;

pub use netlink::NetError;
