//! Backends: where a flow goes, and whether it may.

use crate::{
    layout::assert_layout,
    limits::{MAX_SERVICES, NAME_BYTES},
};

/// Words of a bit set with a bit for each service.
pub const SERVICE_WORDS: usize = MAX_SERVICES as usize / 32;

/// Value of `backends`, an array by backend number.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Backend {
    /// Where it is reached.
    pub address: [u8; 16],
    /// Index of the interface towards it.
    pub interface: u32,
    /// Next hop: its own MAC or a gateway's.
    pub mac: [u8; 6],
    /// MAC of the interface towards it.
    pub source_mac: [u8; 6],
    /// Tags of frames towards it.
    pub vlan: VlanTags,
    /// Largest IP packet that the interface towards it carries, in bytes.
    pub mtu: u16,
    /// Its port for every service; zero: the service's.
    pub port: u16,
    /// Number of its pool.
    pub pool: u16,
    /// Bits of the places in `settings.snat_addresses` that it may be reached from.
    pub snat_mask: u8,
    /// [`UP`] or [`DOWN`], by the pool's health check.
    pub health: u8,
    /// [`ACTIVE`], [`DRAIN`] or [`HALT`].
    pub admin: u8,
    /// 1 when the next hop is resolved.
    pub reachable: u8,
    /// 1 when the number is in use.
    pub present: u8,
    /// 1 while it has as many flows as it may.
    pub full: u8,
    /// Zero.
    pub _reserved: u16,
    /// A bit for each service whose own check finds the backend down.
    pub services_down: [u32; SERVICE_WORDS],
    /// Name in UTF-8, filled up with zeros.
    pub name: [u8; NAME_BYTES],
}

assert_layout!(Backend, size = 148, align = 4);

// Health, presence, reachability and fullness are bits: 0 or 1.

/// Health: the check says that it does not serve.
pub const DOWN: u8 = 0;
/// Health: the check says that it serves.
pub const UP: u8 = 1;

/// Admin state: in service.
pub const ACTIVE: u8 = 0;
/// Admin state: keeps its clients, takes no new ones.
pub const DRAIN: u8 = 1;
/// Admin state: serves nobody.
pub const HALT: u8 = 2;

impl Backend {
    /// A number that is not in use.
    pub const FREE: Self = Self {
        address: [0; 16],
        interface: 0,
        mac: [0; 6],
        source_mac: [0; 6],
        vlan: VlanTags::NONE,
        mtu: 0,
        port: 0,
        pool: 0,
        snat_mask: 0,
        health: DOWN,
        admin: HALT,
        reachable: 0,
        present: 0,
        full: 0,
        _reserved: 0,
        services_down: [0; SERVICE_WORDS],
        name: [0; NAME_BYTES],
    };

    /// Returns whether clients that belong to this backend may stay: it is up, not halted, and
    /// its next hop is known. This is the pool's view, shared by every service.
    #[inline(always)]
    #[must_use]
    pub const fn serves(&self) -> bool {
        self.serves_bit() != 0
    }

    /// Returns whether new clients may come: it serves, and neither drains nor is full.
    #[inline(always)]
    #[must_use]
    pub const fn takes_new(&self) -> bool {
        self.takes_new_bit() != 0
    }

    /// Returns whether the service's own check, if it has one, finds the backend up.
    #[inline(always)]
    #[must_use]
    pub const fn serves_service(&self, service: u8) -> bool {
        self.service_down_bit(service) == 0
    }

    /// Returns whether a flow of the service may stay with this backend.
    #[inline(always)]
    #[must_use]
    pub const fn serves_flow(&self, service: u8) -> bool {
        self.serves_bit() & !self.service_down_bit(service) != 0
    }

    /// Returns whether a new client of the pool may come. With `service`, that service's own check
    /// counts as well.
    #[inline(always)]
    #[must_use]
    pub const fn takes_new_from(&self, pool: u16, service: u8, own_check: bool) -> bool {
        let refused = self.service_down_bit(service) & own_check as u32;
        let other_pool = (self.pool ^ pool) as u32;
        (self.takes_new_bit() ^ 1) | refused | other_pool == 0
    }

    // Bits instead of conditions: the kernel's verifier follows both ways of every branch, and
    // loops over backends would take it too long.

    #[inline(always)]
    const fn serves_bit(&self) -> u32 {
        (self.present & self.health & self.reachable & !(self.admin >> 1) & 1) as u32
    }

    #[inline(always)]
    const fn takes_new_bit(&self) -> u32 {
        self.serves_bit() & !(self.admin | self.full) as u32 & 1
    }

    #[inline(always)]
    const fn service_down_bit(&self, service: u8) -> u32 {
        let word = self.services_down[(service >> 5) as usize & (SERVICE_WORDS - 1)];
        (word >> (service & 31)) & 1
    }
}

/// The 802.1Q tags of a frame, outermost first (IEEE 802.1Q-2018 section 9.6).
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct VlanTags {
    /// EtherType of the outer tag, 0x8100 or 0x88a8; zero: the frame has no tag.
    pub outer_protocol: u16,
    /// Tag control information, host order; [`VlanTags::ABSENT`] where there is no tag.
    pub control: [u16; 2],
}

assert_layout!(VlanTags, size = 6, align = 2);

impl VlanTags {
    /// Control information that no frame carries: VLAN 4095 is reserved.
    pub const ABSENT: u16 = 0xffff;
    /// No tag.
    pub const NONE: Self = Self {
        outer_protocol: 0,
        control: [Self::ABSENT; 2],
    };

    /// Returns the bytes that the tags take in the frame: 0, 4 or 8.
    #[inline(always)]
    #[must_use]
    pub const fn len_bytes(&self) -> usize {
        if self.outer_protocol == 0 {
            0
        } else if self.control[1] == Self::ABSENT {
            4
        } else {
            8
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serving() -> Backend {
        Backend {
            health: UP,
            admin: ACTIVE,
            reachable: 1,
            present: 1,
            ..Backend::FREE
        }
    }

    #[test]
    fn a_backend_serves_only_when_present_up_reachable_and_not_halted() {
        assert!(serving().serves());
        assert!(!Backend::FREE.serves());
        assert!(
            !Backend {
                health: DOWN,
                ..serving()
            }
            .serves()
        );
        assert!(
            !Backend {
                reachable: 0,
                ..serving()
            }
            .serves()
        );
        assert!(
            !Backend {
                admin: HALT,
                ..serving()
            }
            .serves()
        );
        assert!(
            !Backend {
                present: 0,
                ..serving()
            }
            .serves()
        );
    }

    #[test]
    fn draining_and_full_backends_keep_their_clients_and_take_no_new_ones() {
        for backend in [
            Backend {
                admin: DRAIN,
                ..serving()
            },
            Backend {
                full: 1,
                ..serving()
            },
        ] {
            assert!(backend.serves());
            assert!(!backend.takes_new());
        }
        assert!(serving().takes_new());
    }

    #[test]
    fn bits_say_what_the_conditions_say() {
        for case in 0..48 {
            let backend = Backend {
                present: case & 1,
                health: (case >> 1) & 1,
                reachable: (case >> 2) & 1,
                full: (case >> 3) & 1,
                admin: case >> 4,
                pool: 3,
                ..Backend::FREE
            };
            let serves = backend.present == 1
                && backend.health == UP
                && backend.reachable == 1
                && backend.admin != HALT;
            let takes_new = serves && backend.admin == ACTIVE && backend.full == 0;
            assert_eq!(backend.serves(), serves);
            assert_eq!(backend.serves_flow(9), serves);
            assert_eq!(backend.takes_new(), takes_new);
            assert_eq!(backend.takes_new_from(3, 9, true), takes_new);
            assert!(!backend.takes_new_from(4, 9, true));
        }
        let mut down_for_nine = serving();
        down_for_nine.services_down[0] = 1 << 9;
        assert!(!down_for_nine.serves_flow(9));
        assert!(!down_for_nine.takes_new_from(0, 9, true));
        assert!(down_for_nine.takes_new_from(0, 9, false));
    }

    #[test]
    fn each_service_has_a_bit_of_its_own() {
        for service in 0..=u8::MAX {
            let mut backend = serving();
            backend.services_down[usize::from(service) / 32] = 1 << (service % 32);
            for other in 0..=u8::MAX {
                assert_eq!(backend.serves_service(other), other != service);
            }
        }
    }
}
