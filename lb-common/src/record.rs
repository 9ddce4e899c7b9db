//! The reply half of a flow, which is also the allocation of its SNAT port.
//!
//! `records` is a memory-mapped array; the daemon sweeps it without system calls. A record goes
//! through these states, each step a compare-and-swap of [`Record::claim`]:
//!
//! ```text
//!            kernel: a new flow             kernel: filled
//!   Free ---------------------> Claimed ---------------------> Live <---------+
//!    ^                                                          |             |
//!    |  daemon: forward entry removed                           | daemon:     | kernel:
//!    |  kernel: the flow has moved to another record            | idle        | a packet came
//!    +----------------------------------------- Closing <-------+             |
//!                                                  |                          |
//!                                                  +--------------------------+
//! ```
//!
//! Only whoever removed (or replaced) the forward entry frees the record. A freed record keeps
//! its generation and the time, and rests for the quarantine before it is claimed again.

use crate::{backend::VlanTags, layout::assert_layout};

/// Value of `records`: one cache line.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Record {
    /// Generation, backend, protocol and state; see [`Claim`].
    pub claim: u64,
    /// The client.
    pub client: [u8; 16],
    /// The VIP.
    pub vip: [u8; 16],
    /// The client's port.
    pub client_port: u16,
    /// The service's port.
    pub vip_port: u16,
    /// Second of the last packet in either direction; of the release, in a free record.
    pub last_seen: u32,
    /// Where the client's packets last came from: replies go there.
    pub client_mac: [u8; 6],
    /// The tags that the client's packets last had.
    pub vlan: VlanTags,
    /// Number of the service.
    pub service: u8,
    /// Place in `settings.interfaces` that the client's packets last came in by.
    pub interface: u8,
    /// 1 once the backend has answered.
    pub replied: u8,
    /// Zero.
    pub _reserved: u8,
}

assert_layout!(Record, size = 64, align = 8);

/// State of a record.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum State {
    /// Belongs to nobody; may rest in quarantine.
    Free = 0,
    /// Being filled by the kernel: an instant.
    Claimed = 1,
    /// Translates.
    Live = 2,
    /// Idle for too long: the daemon is about to remove its flow. Any packet makes it live again.
    Closing = 3,
}

impl State {
    /// Returns the state with this number; an unknown number is a free record.
    #[inline(always)]
    #[must_use]
    pub const fn from_number(number: u8) -> Self {
        match number {
            1 => Self::Claimed,
            2 => Self::Live,
            3 => Self::Closing,
            _ => Self::Free,
        }
    }
}

/// The contents of [`Record::claim`], which changes as one word.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Claim {
    /// Counts the flows that the record has had; the flow's forward entry holds the same number.
    pub generation: u32,
    /// Number of the backend.
    pub backend: u16,
    /// IANA protocol number.
    pub protocol: u8,
    /// State.
    pub state: State,
}

impl Claim {
    /// Returns the claim in a word.
    #[inline(always)]
    #[must_use]
    pub const fn unpack(word: u64) -> Self {
        Self {
            generation: word as u32,
            backend: (word >> 32) as u16,
            protocol: (word >> 48) as u8,
            state: State::from_number((word >> 56) as u8),
        }
    }

    /// Returns the word of a claim.
    #[inline(always)]
    #[must_use]
    pub const fn pack(self) -> u64 {
        self.generation as u64
            | (self.backend as u64) << 32
            | (self.protocol as u64) << 48
            | (self.state as u64) << 56
    }

    /// Returns the same claim in another state.
    #[inline(always)]
    #[must_use]
    pub const fn with_state(self, state: State) -> Self {
        Self { state, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_claim_survives_its_word(generation: u32, backend: u16, protocol: u8, state in 0_u8..4) {
            let claim = Claim { generation, backend, protocol, state: State::from_number(state) };
            prop_assert_eq!(Claim::unpack(claim.pack()), claim);
        }
    }

    #[test]
    fn a_record_that_was_never_used_is_free() {
        assert_eq!(Claim::unpack(0).state, State::Free);
    }
}
