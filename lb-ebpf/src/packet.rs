//! The frame: the only code that does pointer arithmetic on packets.

use aya_ebpf::{EbpfContext as _, helpers, programs::XdpContext};

use lb_common::verdict::DropReason;
use network_types::{
    icmp::Icmpv4Hdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
    udp::UdpHdr,
};

/// An Ethernet header (IEEE 802.3), of alignment 1.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct EthHdr {
    /// Destination MAC address.
    pub(crate) dst_addr: [u8; 6],
    /// Source MAC address.
    pub(crate) src_addr: [u8; 6],
    /// EtherType.
    pub(crate) ether_type: [u8; 2],
}

impl EthHdr {
    /// Bytes of the header.
    pub(crate) const LEN: usize = size_of::<Self>();
}

/// An 802.1Q tag without its own EtherType, which stands before it, of alignment 1.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct VlanHdr {
    /// Tag control information.
    pub(crate) tci: [u8; 2],
    /// EtherType of what follows.
    pub(crate) ether_type: [u8; 2],
}

impl VlanHdr {
    /// Bytes of the header.
    pub(crate) const LEN: usize = size_of::<Self>();
}

/// A header that may be read and written in the frame byte by byte.
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
// SAFETY: as above. ICMPv6 has the same header (RFC 4443 section 2.1).
unsafe impl Wire for Icmpv4Hdr {}
// SAFETY: as above.
unsafe impl<const N: usize> Wire for [u8; N] {}

/// Every header, and every part that is summed, begins within the first 2048 bytes: `parse` bounds
/// IPv6 extension headers. An offset that was kept in memory has lost its bound, and the verifier
/// must see one.
const OFFSET_MASK: usize = 0x7ff;

/// The frame ends before the header does.
pub(crate) struct Truncated;

/// Returns a header in place, `offset` bytes from the start of the frame: nothing is copied to the
/// small stack.
#[inline(always)]
pub(crate) fn header<T: Wire>(context: &XdpContext, offset: usize) -> Result<&mut T, Truncated> {
    const { assert!(align_of::<T>() == 1) };
    let start = context.data() + (offset & OFFSET_MASK);
    if start + size_of::<T>() > context.data_end() {
        return Err(Truncated);
    }
    // SAFETY: the line above keeps the whole header inside the frame; `Wire` promises that its
    // bytes are a valid value and its alignment is 1. Callers hold one header at a time.
    Ok(unsafe { &mut *(start as *mut T) })
}

/// Returns the bytes that pointers reach: the first buffer of the frame.
#[inline(always)]
pub(crate) fn linear_len(context: &XdpContext) -> usize {
    context.data_end() - context.data()
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

/// Moves the end of the frame by so many bytes; a negative number cuts.
///
/// # Errors
///
/// [`DropReason::NoHeadroom`] when the kernel refuses.
#[inline(always)]
pub(crate) fn move_end(context: &XdpContext, bytes: i32) -> Result<(), DropReason> {
    // SAFETY: the context is the one that the kernel gave.
    match unsafe { helpers::bpf_xdp_adjust_tail(context.as_ptr().cast(), bytes) } {
        0 => Ok(()),
        _ => Err(DropReason::NoHeadroom),
    }
}

/// Adds the words of a part of the frame to `sum`, in memory order (RFC 1071). The part is a
/// multiple of four bytes and at most 512 long.
#[inline(always)]
pub(crate) fn sum<const N: usize>(
    context: &XdpContext,
    offset: usize,
    sum: u32,
) -> Result<u32, Truncated> {
    const { assert!(N <= 512 && N.is_multiple_of(4)) };
    let part: &mut [u8; N] = header(context, offset)?;
    // SAFETY: `header` has found the part inside the frame.
    let result = unsafe {
        helpers::bpf_csum_diff(
            core::ptr::null_mut(),
            0,
            part.as_mut_ptr().cast(),
            N as u32,
            sum,
        )
    };
    Ok(result as u32)
}

/// A number of some bytes, in memory order.
///
/// # Safety
///
/// Every bit pattern is a valid value.
pub(crate) unsafe trait Word: Copy {}

// SAFETY: numbers.
unsafe impl Word for u16 {}
// SAFETY: as above.
unsafe impl Word for u32 {}
// SAFETY: as above.
unsafe impl Word for u64 {}

/// Returns the word that lies `AT` bytes from the start.
#[inline(always)]
pub(crate) fn load<const AT: usize, T: Word, const N: usize>(from: &[u8; N]) -> T {
    const { assert!(AT + size_of::<T>() <= N) };
    // SAFETY: the word lies inside, as asserted; nothing is assumed of its alignment.
    unsafe { from.as_ptr().add(AT).cast::<T>().read_unaligned() }
}

/// Writes the word that lies `AT` bytes from the start.
#[inline(always)]
pub(crate) fn store<const AT: usize, T: Word, const N: usize>(to: &mut [u8; N], word: T) {
    const { assert!(AT + size_of::<T>() <= N) };
    // SAFETY: as in `load`.
    unsafe { to.as_mut_ptr().add(AT).cast::<T>().write_unaligned(word) };
}

// Words of headers and map values, wherever they lie: one load or store each, where an array's bytes
// would be copied one by one.

/// Returns 16 bytes as two words in memory order.
#[inline(always)]
pub(crate) fn words(bytes: &[u8; 16]) -> [u64; 2] {
    // SAFETY: 16 bytes are there, and nothing is assumed of their alignment.
    unsafe {
        (bytes as *const [u8; 16])
            .cast::<[u64; 2]>()
            .read_unaligned()
    }
}

/// Writes two words in memory order.
#[inline(always)]
pub(crate) fn store_words(to: &mut [u8; 16], words: [u64; 2]) {
    // SAFETY: as in `words`.
    unsafe {
        (to as *mut [u8; 16])
            .cast::<[u64; 2]>()
            .write_unaligned(words)
    };
}

/// Returns six bytes as two numbers in memory order.
#[inline(always)]
pub(crate) fn six_bytes(bytes: &[u8; 6]) -> (u32, u16) {
    let start = bytes.as_ptr();
    // SAFETY: six bytes are there: four, and two behind them. Nothing is assumed of alignment.
    unsafe {
        (
            start.cast::<u32>().read_unaligned(),
            start.add(4).cast::<u16>().read_unaligned(),
        )
    }
}

/// Writes six bytes from two numbers in memory order.
#[inline(always)]
pub(crate) fn store_six_bytes(to: &mut [u8; 6], (low, high): (u32, u16)) {
    let start = to.as_mut_ptr();
    // SAFETY: as in `six_bytes`.
    unsafe {
        start.cast::<u32>().write_unaligned(low);
        start.add(4).cast::<u16>().write_unaligned(high);
    }
}
