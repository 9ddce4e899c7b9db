//! The XDP program of vipd: UDP load balancing with source translation.
//!
//! Start with [`pipeline`]: the way of a packet, in order. [`maps`] has every map on one page.
//! Everything that the daemon shares with the program stands in `lb-common`.
#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![expect(internal_features, reason = "compare-and-swap, see `atomic`")]

mod affinity;
mod answer;
mod atomic;
mod cache;
mod epoch;
mod exact;
mod flow;
mod fragment;
mod guard;
mod icmp;
mod ip;
mod link;
mod maps;
mod packet;
mod parse;
mod pipeline;
mod prefetch;
mod record;
mod reply;
mod rewrite;
mod select;
mod service;
mod stats;
mod transmit;
mod usual;

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};

use crate::pipeline::Exit;

/// The entry: turns the outcome of the pipeline into an XDP action.
#[xdp(frags)]
fn vipd(context: XdpContext) -> u32 {
    match pipeline::process(&context) {
        Ok(action) => action,
        Err(Exit::Pass) => xdp_action::XDP_PASS,
        Err(Exit::Drop(reason)) => {
            stats::drop(&context, reason);
            xdp_action::XDP_DROP
        }
    }
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The helpers that the program calls are open to GPL-compatible programs.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
