//! The proxy: services that forward TCP, HTTP and redirects, in user space.
//!
//! A *worker* is an event loop on a thread of its own, one for each core; the kernel spreads
//! connections over their sockets. Workers share no lock on a request's way: each has its own
//! connections to backends, its own handle of the affinity table, its own counters. A *front* is a
//! service as one generation of the configuration has it, with its certificates and backends made
//! ready. A supervisor makes fronts and hands them to the workers; a connection keeps the front that
//! it began with, and meets the backends of the newest one. When the daemon stops, `stopping.rs` says
//! what the connections are told.
//!
//! The way of a connection is `way` in `connection.rs`, of a request `way` in `http.rs`. Both choose
//! backends from control's snapshot and the kernel's affinity table, by the same functions as the
//! XDP program.

mod access_log;
mod choose;
mod complaints;
mod connection;
mod counters;
mod descriptors;
mod drained;
mod failure;
mod front;
mod guests;
mod hello;
mod http;
mod listener;
mod live;
mod loads;
mod lost;
mod prefixed;
mod proxy_protocol;
mod redirect;
mod sources;
mod splice;
mod stopping;
mod supervisor;
mod tcp;
mod tunnel;
mod upstream;
mod view;
mod worker;

pub use self::{
    supervisor::{Ending, Proxy, Reopen},
    view::{FailureView, ServiceView, View},
};

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz {
    pub(crate) use super::{
        access_log::fuzz::record,
        hello::fuzz::client_hello,
        http::fuzz::{request_head, response_head},
        proxy_protocol::fuzz::header,
        redirect::fuzz::target,
    };
}
