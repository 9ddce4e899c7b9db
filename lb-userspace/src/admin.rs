//! The admin socket: how people and programs ask the running daemon.
//!
//! - [`api`]: what is said, as JSON. [`server`]: who answers. [`client`]: who asks.
//! - [`status`], [`flows`], [`explain`]: from a snapshot to answers; pure.
//! - [`audit`]: looks at the kernel's state until it is sure.

pub mod api;
pub mod audit;
pub mod client;
mod clients;
pub mod explain;
pub mod flows;
mod peer;
pub mod reload;
mod routes;
pub mod server;
pub mod status;
