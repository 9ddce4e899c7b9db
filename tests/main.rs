//! Black-box tests of `vipd` in network namespaces: the binary, the wire and the API only.
//!
//! One file for each topic; the name of a test is what it promises. `cargo xtask test` runs them as
//! root with the binary under test in `VIPD_BIN`.

mod access_log;
mod admin_state;
mod affinity;
mod arms;
mod audit;
mod backend_trust;
mod block;
mod browser;
mod changes;
mod client_address;
mod config_cli;
mod crash;
mod fragments;
mod full_backends;
mod full_tables;
mod hairpin;
mod health;
mod http;
mod http1_attacks;
mod http2_attacks;
mod http_bodies;
mod http_choice;
mod http_failures;
mod http_framing;
mod http_parked;
mod http_servers;
mod icmp;
mod ipv6;
mod l4_nat;
mod lifecycle;
mod looking_in;
mod modes;
mod next_hop;
mod one_backend;
mod oracle;
mod pmtu;
mod redirect;
mod reload;
mod restart;
mod sign_on;
mod snat_ports;
mod soak;
mod spread;
mod tcp;
mod the_lab;
mod the_web_lab;
mod vlan;
mod web_reload;
mod web_soak;
