//! One site per test, its machines, and what runs on them.

pub mod backends;
pub mod capture;
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
pub mod load;
pub mod netns;
pub mod nginx;
pub mod process;
pub mod site;
pub mod socket_options;
pub mod status;
pub mod veth;
pub mod xdp_pass;

pub use backends::{Answer, IdentityServer};
pub use clients::UdpClient;
pub use configuration::Configuration;
pub use daemon::Daemon;
pub use ends::Ends;
pub use eventually::eventually;
pub use family::Family;
pub use gateways::{Gateway, Gateways};
pub use health_page::HealthPage;
pub use host::Host;
pub use load::Load;
pub use site::{Lab, LabBuilder};
pub use status::Status;
