//! One site per test, its machines, and what runs on them.

pub mod backends;
pub mod base64;
pub mod capture;
pub mod churn;
pub mod clients;
pub mod configuration;
pub mod daemon;
pub mod dtls;
pub mod ends;
pub mod eventually;
pub mod family;
pub mod frames;
pub mod gateways;
pub mod health_page;
pub mod host;
mod listening;
pub mod load;
pub mod netns;
pub mod nginx;
pub mod packets;
pub mod process;
pub mod random;
pub mod site;
pub mod socket_options;
pub mod status;
pub mod traces;
pub mod usage;
pub mod veth;
pub mod xdp_pass;

#[cfg(feature = "web")]
pub mod access_log;
#[cfg(feature = "web")]
pub mod authority;
#[cfg(feature = "web")]
pub mod browser;
#[cfg(feature = "web")]
pub mod crowd;
#[cfg(feature = "web")]
pub mod curl;
#[cfg(feature = "web")]
pub mod gate;
#[cfg(feature = "web")]
pub mod http1;
#[cfg(feature = "web")]
pub mod http2;
#[cfg(feature = "web")]
pub mod kerberos;
#[cfg(feature = "web")]
pub mod origin;
#[cfg(feature = "web")]
pub mod proxied;
#[cfg(feature = "web")]
pub mod raw;
#[cfg(feature = "web")]
pub mod stream;
#[cfg(feature = "web")]
pub mod tcp_server;
#[cfg(feature = "web")]
pub mod web_churn;
#[cfg(feature = "web")]
pub mod web_site;
#[cfg(feature = "web")]
pub mod websocket;
#[cfg(feature = "web")]
pub mod wire;

pub use backends::{Answer, IdentityServer};
pub use clients::UdpClient;
pub use configuration::Configuration;
pub use daemon::Daemon;
pub use ends::Ends;
pub use eventually::{always, eventually};
pub use family::Family;
pub use gateways::{Gateway, Gateways};
pub use health_page::HealthPage;
pub use host::Host;
pub use load::Load;
pub use random::Random;
pub use site::{Lab, LabBuilder};
pub use status::Status;
pub use traces::Traces;
