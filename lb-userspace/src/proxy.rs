//! The proxy in user space for TCP: what it reads in front of a connection, and what it writes down.
//!
//! | module | job |
//! |---|---|
//! | `access_log` | one line a request or connection |
//! | `hello` | the name that a TLS client asks for, where TLS is passed through |
//! | `prefixed` | a stream of which some bytes have been read already |
//! | `proxy_protocol` | whose connection it is, as other proxies say it |
#![cfg_attr(
    not(test),
    expect(
        dead_code,
        unused_imports,
        reason = "these parts stand ready for the listeners"
    )
)]

pub(crate) mod access_log;
mod hello;
mod prefixed;
mod proxy_protocol;

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz {
    pub(crate) use super::{hello::fuzz::client_hello, proxy_protocol::fuzz::header};
}
