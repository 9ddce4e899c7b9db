//! The frame: the only code that does pointer arithmetic on packets.

use aya_ebpf::{EbpfContext as _, helpers, programs::XdpContext};

use lb_common::verdict::DropReason;
use network_types::{
    eth::EthHdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
    udp::UdpHdr,
    vlan::VlanHdr,
};

/// A header that may be copied to and from the frame byte by byte.
///
/// # Safety
///
/// Every bit pattern is a valid value, and the type has no padding.
pub(crate) unsafe trait Wire: Copy {}

// SAFETY: plain integers and byte arrays without padding.
unsafe impl Wire for EthHdr {}
// SAFETY: as above.
unsafe impl Wire for VlanHdr {}
// SAFETY: as above.
unsafe impl Wire for Ipv4Hdr {}
// SAFETY: as above.
unsafe impl Wire for Ipv6Hdr {}
// SAFETY: as above.
unsafe impl Wire for UdpHdr {}

/// Every header begins within the first 82 bytes: Ethernet, two tags, the longest IPv4 header. An
/// offset that was kept in memory has lost its bound, and the verifier must see one.
const OFFSET_MASK: usize = 0x7f;

/// The frame ends before the header does.
pub(crate) struct Truncated;

/// Copies a header out of the frame, `offset` bytes from its start.
#[inline(always)]
pub(crate) fn read<T: Wire>(context: &XdpContext, offset: usize) -> Result<T, Truncated> {
    let start = context.data() + (offset & OFFSET_MASK);
    if start + size_of::<T>() > context.data_end() {
        return Err(Truncated);
    }
    // SAFETY: the line above keeps the whole header inside the frame; `Wire` promises that its
    // bytes are a valid value, and nothing is assumed of the alignment.
    Ok(unsafe { (start as *const T).read_unaligned() })
}

/// Copies a header into the frame, `offset` bytes from its start.
#[inline(always)]
pub(crate) fn write<T: Wire>(
    context: &XdpContext,
    offset: usize,
    header: T,
) -> Result<(), Truncated> {
    let start = context.data() + (offset & OFFSET_MASK);
    if start + size_of::<T>() > context.data_end() {
        return Err(Truncated);
    }
    // SAFETY: as in `read`.
    unsafe { (start as *mut T).write_unaligned(header) };
    Ok(())
}

/// Returns a header in place, `offset` bytes from the start of the frame: nothing is copied to the
/// small stack.
#[inline(always)]
pub(crate) fn header<T: Wire>(context: &XdpContext, offset: usize) -> Result<&mut T, Truncated> {
    const { assert!(align_of::<T>() == 1) };
    let start = context.data() + (offset & OFFSET_MASK);
    if start + size_of::<T>() > context.data_end() {
        return Err(Truncated);
    }
    // SAFETY: as in `read`; the type needs no alignment, and callers hold one header at a time.
    Ok(unsafe { &mut *(start as *mut T) })
}

/// Returns the length of the frame in bytes, with the pieces of a multi-buffer frame.
#[inline(always)]
pub(crate) fn len(context: &XdpContext) -> usize {
    // SAFETY: the context is the one that the kernel gave.
    unsafe { helpers::bpf_xdp_get_buff_len(context.as_ptr().cast()) as usize }
}

/// Moves the start of the frame: a positive number of bytes is cut off, a negative one is made
/// room for. What was read before has other offsets after it.
///
/// # Errors
///
/// [`DropReason::NoHeadroom`] when the driver left too little room.
#[inline(always)]
pub(crate) fn move_start(context: &XdpContext, bytes: i32) -> Result<(), DropReason> {
    // SAFETY: the context is the one that the kernel gave.
    match unsafe { helpers::bpf_xdp_adjust_head(context.as_ptr().cast(), bytes) } {
        0 => Ok(()),
        _ => Err(DropReason::NoHeadroom),
    }
}
