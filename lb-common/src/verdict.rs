//! Why a packet is dropped: one closed list.
//!
//! The value that a function of the program gives up with, the index in `drops` and the label in
//! `status` are the same thing. Numbers are never reused.

macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $number:literal, $label:literal;)+) => {
        /// Why a packet for a VIP or an SNAT address was dropped.
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        #[repr(u32)]
        pub enum DropReason {
            $($(#[doc = $doc])+ $variant = $number,)+
        }

        impl DropReason {
            /// Every reason, in the order of its number.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// Returns the reason with this number.
            #[inline(always)]
            #[must_use]
            pub const fn from_number(number: u32) -> Option<Self> {
                match number {
                    $($number => Some(Self::$variant),)+
                    _ => None,
                }
            }

            /// Returns the name of the reason in `status` and metrics.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self {
                    $(Self::$variant => $label),+
                }
            }

            /// Returns what the reason means, for people.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$variant => concat!($($doc),+).trim_ascii()),+
                }
            }
        }
    };
}

drop_reasons! {
    /// The UDP header is cut short, or its length does not fit the packet's.
    Malformed = 0, "malformed";
    /// A piece of a fragmented datagram that came before the first piece, which alone has ports,
    /// or long after it.
    Fragment = 1, "fragment";
    /// The packet had been through as many routers as it may.
    TtlExpired = 2, "ttl_expired";
    /// A packet for an SNAT port that no flow holds, such as a late reply.
    NoFlow = 3, "no_flow";
    /// No backend of the pool is up, active and reachable.
    NoEligibleBackend = 4, "no_eligible_backend";
    /// Every SNAT port that was tried towards the backend is taken or rests.
    SnatPortsExhausted = 5, "snat_ports_exhausted";
    /// The flow table is full.
    FlowTableFull = 6, "flow_table_full";
    /// UDP over IPv6 without a checksum (RFC 8200 section 8.1).
    ChecksumMissing = 7, "checksum_missing";
    /// The interface that the client's packets came in by is not vipd's any more.
    InterfaceGone = 8, "interface_gone";
    /// The driver left no room for the tags of the frame.
    NoHeadroom = 9, "no_headroom";
    /// The maps contradict each other; this is a fault of vipd.
    Inconsistent = 10, "inconsistent";
    /// The service does not take clients of this address: it is blocked, or not allowed.
    Blocked = 11, "blocked";
    /// The client's address begins more flows than one source may.
    SourceLimited = 12, "source_limited";
    /// The service has more new flows than it may.
    ServiceLimited = 13, "service_limited";
    /// The packet is larger than the way out carries. Its sender was told by ICMP.
    TooBig = 14, "too_big";
}

/// Entries of `drops`: room for reasons of later versions.
pub const DROP_ENTRIES: u32 = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_count_up_and_labels_are_unique() {
        for (number, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, number);
            assert_eq!(DropReason::from_number(number as u32), Some(*reason));
            assert!(!reason.meaning().is_empty());
        }
        let mut labels: Vec<_> = DropReason::ALL.iter().map(|r| r.label()).collect();
        labels.sort_unstable();
        labels.dedup();
        assert_eq!(labels.len(), DropReason::ALL.len());
        assert!(DropReason::ALL.len() <= DROP_ENTRIES as usize);
    }
}
