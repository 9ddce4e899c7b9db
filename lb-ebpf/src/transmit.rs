//! The way out: link-layer addresses, tags, and the interface.

use aya_ebpf::{bindings::xdp_action, helpers::bpf_redirect, programs::XdpContext};
use lb_common::{backend::VlanTags, verdict::DropReason};

use crate::{
    link::{Tags, store_mac},
    packet::{self, EthHdr, VlanHdr},
    parse::{IPV4, IPV6, Parsed, VLAN},
    pipeline::Node,
    rewrite::Outgoing,
};

/// Writes the Ethernet header and tags, and returns the XDP action: back out of the interface
/// that the packet came in by, or out of another.
///
/// # Errors
///
/// [`DropReason::NoHeadroom`] when tags are to be added and the driver left no room.
#[inline(always)]
pub(crate) fn transmit(
    context: &XdpContext,
    node: &Node,
    parsed: &Parsed,
    to: &Outgoing,
) -> Result<u32, DropReason> {
    if parsed.tags != to.tags {
        retag(context, parsed.tags, to.tags, parsed.v6)?;
    }
    let ethernet: &mut EthHdr = packet::header(context, 0).map_err(|_| DropReason::Malformed)?;
    store_mac(to.destination_mac, &mut ethernet.dst_addr);
    store_mac(to.source_mac, &mut ethernet.src_addr);
    Ok(send(node.interface_index, to.interface_index))
}

/// Sends the frame out of the interface that it came in by, or out of another. Returns the XDP action.
#[inline(always)]
pub(crate) fn send(came_in_by: u32, goes_out_of: u32) -> u32 {
    if goes_out_of == came_in_by {
        return xdp_action::XDP_TX;
    }
    // SAFETY: the helper takes numbers only; an interface that is gone counts in the kernel's
    // xdp_redirect_err tracepoint.
    unsafe { bpf_redirect(goes_out_of, 0) as u32 }
}

/// Gives the frame other tags. Its MAC addresses are lost.
///
/// Takes values and no reference to what was parsed, which would then have to lie in memory.
#[inline(never)]
fn retag(context: &XdpContext, from: Tags, to: Tags, v6: bool) -> Result<(), DropReason> {
    let to = to.plain();
    let surplus = from.plain().len_bytes() as i32 - to.len_bytes() as i32;
    if surplus != 0 {
        packet::move_start(context, surplus)?;
    }
    write_tags(context, &to, ether_type(v6)).map_err(|_| DropReason::Malformed)
}

/// Returns the EtherType of a family.
#[inline(always)]
pub(crate) fn ether_type(v6: bool) -> u16 {
    if v6 { IPV6 } else { IPV4 }
}

/// Writes the EtherType of the frame and its tags.
#[inline(always)]
pub(crate) fn write_tags(
    context: &XdpContext,
    to: &VlanTags,
    network: u16,
) -> Result<(), packet::Truncated> {
    let outer = to.outer_protocol;
    let ethernet: &mut EthHdr = packet::header(context, 0)?;
    ethernet.ether_type = if outer == 0 { network } else { outer }.to_be_bytes();
    if outer == 0 {
        return Ok(());
    }
    let [outer_control, inner_control] = to.control;
    let doubly = inner_control != VlanTags::ABSENT;
    let tag: &mut VlanHdr = packet::header(context, EthHdr::LEN)?;
    tag.tci = outer_control.to_be_bytes();
    tag.ether_type = if doubly { VLAN } else { network }.to_be_bytes();
    if doubly {
        let tag: &mut VlanHdr = packet::header(context, EthHdr::LEN + VlanHdr::LEN)?;
        tag.tci = inner_control.to_be_bytes();
        tag.ether_type = network.to_be_bytes();
    }
    Ok(())
}
