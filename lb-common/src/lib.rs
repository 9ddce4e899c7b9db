//! What kernel and daemon share: map keys and values, limits, names, drop reasons, arithmetic.
//!
//! Rules for everything that crosses the boundary:
//!
//! - **Addresses** are byte arrays as on the wire, 16 bytes, IPv4 mapped into IPv6 (RFC 4291
//!   section 2.5.5.2); only the key of `flows` holds the four bytes of IPv4 themselves.
//! - **Ports and numbers** are in host order, so that `bpftool map dump` prints what people read.
//! - **Padding has a name** (`_reserved`) and is zero: hash maps compare keys byte by byte.
//! - **Layouts are asserted** at compile time next to each type, and [`LAYOUT_VERSION`] changes
//!   with any of them: pinned maps outlive the daemon that made them.
//! - **Times** are whole seconds of `CLOCK_MONOTONIC`, as in `/proc/uptime`.
#![cfg_attr(not(any(test, feature = "user")), no_std)]
#![deny(missing_docs)]

pub mod addr;
pub mod affinity;
pub mod backend;
pub mod checksum;
pub mod endpoint;
pub mod flow;
pub mod fragment;
pub mod guard;
pub mod hash;
mod layout;
pub mod limits;
#[cfg(any(test, feature = "user"))]
pub mod maglev;
pub mod map_names;
pub mod measure;
#[cfg(feature = "user")]
mod pod;
pub mod pool;
pub mod record;
pub mod service;
pub mod settings;
pub mod stats;
pub mod verdict;

/// Changes whenever a map's key, value or meaning does; kept in `settings` and compared before a
/// pinned map is adopted.
pub const LAYOUT_VERSION: u32 = 3;
