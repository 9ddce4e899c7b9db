//! The way out: link-layer addresses, tags, and the interface.

use aya_ebpf::{bindings::xdp_action, helpers::bpf_redirect, programs::XdpContext};
use lb_common::{backend::VlanTags, verdict::DropReason};
use network_types::{eth::EthHdr, vlan::VlanHdr};

use crate::{packet, parse::Parsed, pipeline::Node, rewrite::Outgoing};

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
    let surplus = parsed.vlan.len_bytes() as i32 - to.vlan.len_bytes() as i32;
    if surplus != 0 {
        packet::move_start(context, surplus)?;
    }
    let network = if parsed.v6 { 0x86dd_u16 } else { 0x0800 };
    headers(context, to, network.to_be()).map_err(|_| DropReason::Malformed)?;
    if to.interface_index == node.interface_index {
        return Ok(xdp_action::XDP_TX);
    }
    // SAFETY: the helper takes numbers only; an interface that is gone counts in the kernel's
    // xdp_redirect_err tracepoint.
    Ok(unsafe { bpf_redirect(to.interface_index, 0) } as u32)
}

#[inline(always)]
fn headers(context: &XdpContext, to: &Outgoing, network: u16) -> Result<(), packet::Truncated> {
    let outer = to.vlan.outer_protocol.to_be();
    let ethernet = EthHdr {
        dst_addr: to.destination_mac,
        src_addr: to.source_mac,
        ether_type: if outer == 0 { network } else { outer },
    };
    packet::write(context, 0, ethernet)?;
    if outer == 0 {
        return Ok(());
    }
    let [outer_control, inner_control] = to.vlan.control;
    let doubly = inner_control != VlanTags::ABSENT;
    let tag = VlanHdr {
        tci: outer_control.to_be_bytes(),
        ether_type: if doubly { 0x8100_u16.to_be() } else { network },
    };
    packet::write(context, EthHdr::LEN, tag)?;
    if doubly {
        let tag = VlanHdr {
            tci: inner_control.to_be_bytes(),
            ether_type: network,
        };
        packet::write(context, EthHdr::LEN + VlanHdr::LEN, tag)?;
    }
    Ok(())
}
