//! Fragmented datagrams: only the first piece has ports, so the others go by what it met.

use crate::layout::assert_layout;

/// Key of `fragments`: what the pieces of a datagram have in common (RFC 791 section 3.2, RFC 8200
/// section 4.5). They are all UDP.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct FragmentKey {
    /// Source address.
    pub source: [u8; 16],
    /// Destination address.
    pub destination: [u8; 16],
    /// Identification: 16 bits in IPv4, 32 in IPv6.
    pub identification: u32,
    _reserved: u32,
}

assert_layout!(FragmentKey, size = 40, align = 8);

impl FragmentKey {
    /// Returns the key of the datagram with this identification.
    #[inline(always)]
    #[must_use]
    pub const fn new(source: [u8; 16], destination: [u8; 16], identification: u32) -> Self {
        Self {
            source,
            destination,
            identification,
            _reserved: 0,
        }
    }
}

/// Value of `fragments`: what the first piece met.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Fragment {
    /// Index of the flow's record.
    pub record: u32,
    /// Generation of the record.
    pub generation: u32,
    /// Second of the first piece.
    pub seen: u32,
    /// Identification that the pieces leave with: senders behind one SNAT address must not share
    /// identifications (RFC 6864 section 5.3.1).
    pub identification: u32,
    /// [`Fragment::FORWARD`], [`Fragment::REPLY`] or [`Fragment::HOST`].
    pub direction: u32,
    /// Zero.
    pub _reserved: u32,
}

assert_layout!(Fragment, size = 24, align = 8);

impl Fragment {
    /// From a client.
    pub const FORWARD: u32 = 1;
    /// To a client.
    pub const REPLY: u32 = 2;
    /// For no service: the host's.
    pub const HOST: u32 = 3;
}
