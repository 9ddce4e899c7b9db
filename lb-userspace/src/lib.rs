//! vipd: the daemon and its command line.
//!
//! # Where things are
//!
//! | module | job | may use |
//! |---|---|---|
//! | [`cli`] | the command line | everything |
//! | [`app`] | the order in which the parts start and stop, and what connects them | everything |
//! | [`admin`] | the socket on which the running daemon answers | control's snapshot |
//! | [`control`] | the single owner of desired state: events in, maps and a snapshot out | dataplane, config |
//! | [`dataplane`] | the kernel side: program, links, maps, the sweeper | `aya`, `lb-common` |
//! | [`health`] | probes and their judgement | config, tls |
//! | [`net`] | interfaces, next hops, addresses, announcements, reserved ports | netlink |
//! | [`config`] | from the file to types that cannot be wrong | `toml`, in `config::raw` alone; tls, to read the certificates that it names |
//! | [`proxy`] | TCP in user space: connections, requests, the access log | control's snapshot, tls |
//! | [`tls`] | how a server's certificate is judged, and what clients are shown | `rustls` |
//! | [`telemetry`] | the log | `tracing` |
//! | [`allocator`] | the memory of the process | `libmimalloc-sys` |
//! | `fuzz` | every reader of outside input as a function of bytes; not in the binary | everything |
//!
//! # The way of a health result
//!
//! A probe ([`health::probe`]) ends; the judge (`health::judge`, pure) counts it; the event goes
//! to [`control`], which changes its state ([`control::state`], pure), renders what the maps shall
//! hold ([`mod@control::render`], pure), plans the steps ([`mod@control::plan`], pure), has the
//! [`dataplane`] carry them out, and publishes a new [`control::snapshot`]. The next packet of each
//! flow meets the new state. A packet's own way is in `lb-ebpf`, `pipeline.rs`.
//!
//! # Invariants
//!
//! - Only [`dataplane`] names `aya`; only `config::raw` names `toml`.
//! - One task ([`control::Control`]) writes the maps of services, pools, backends and tables;
//!   flows, records and affinity entries belong to the packets, and the sweeper ends them.
//! - Flows need no map write by the daemon: if it is killed, forwarding goes on.
//! - Nothing is logged per packet.
//! - Judge, state, rendering and plan take time as an argument and do no I/O.
//! - Nothing from outside, be it a file, a reply, a certificate or a request, makes the daemon panic.
#![deny(unsafe_code)]

pub mod admin;
pub mod allocator;
pub mod app;
pub mod cli;
pub mod config;
pub mod control;
pub mod dataplane;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod health;
pub mod net;
pub mod proxy;
pub mod telemetry;
pub mod tls;
