//! The XDP program itself, run by the kernel on single frames (`BPF_PROG_TEST_RUN`): packet in,
//! map state, verdict, packet out, counters. A file for each feature. Needs root.
//!
//! Time does not pass in these tests: [`harness::pins::Pins::age`] makes what the maps remember
//! older instead.

mod adoption;
mod affinity;
mod arms;
mod audit;
mod counters;
mod exact;
mod extension_headers;
mod flow_table;
mod forward;
mod fragments;
mod guard;
mod hairpin;
mod harness;
mod health;
mod icmp;
mod parse;
mod ports;
mod race;
mod reply;
mod selection;
mod snat_ports;
mod sweep;
mod too_big;
mod vlan;
