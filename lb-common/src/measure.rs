//! What the benchmark and its packet generator share.

use crate::layout::assert_layout;

/// The most flows that are measured at once.
pub const MAX_MEASURED_FLOWS: u32 = 1 << 20;

/// Bytes of a generated packet's headers: Ethernet, IPv4, UDP.
pub const FRAME_BYTES: usize = 42;

/// Value of the generator's one-entry map.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Generator {
    /// Next place in the order of flows.
    pub position: u32,
    /// Places in use.
    pub count: u32,
    /// Zero: packets of clients, numbered by the order. Otherwise replies, by index of a record.
    pub replies: u32,
    /// SNAT ports of each endpoint.
    pub ports: u32,
    /// Lowest SNAT port.
    pub first_port: u32,
    /// Zero: hand the packet to the program under measurement; otherwise send it out of here.
    pub interface: u32,
    /// Sum of the words of the IPv4 header but for the source address and the checksum.
    pub ip_sum: u32,
    /// Sum of the words that the UDP checksum covers but for the source address and the ports.
    pub udp_sum: u32,
    /// Headers of the first flow's packet.
    pub frame: [u8; FRAME_BYTES],
    /// Zero.
    pub _reserved: [u8; 2],
}

assert_layout!(Generator, size = 76, align = 4);
