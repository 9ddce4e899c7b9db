//! Sizes of the maps and bounds that both sides rely on.

/// Services that XDP forwards; a record names one in a byte.
pub const MAX_SERVICES: u32 = 256;
/// Entries of `services`: each service, and a marker for each VIP.
pub const MAX_SERVICE_ENTRIES: u32 = 2 * MAX_SERVICES;
/// Pools that XDP chooses from.
pub const MAX_POOLS: u32 = 64;
/// Backends of all pools together; a backend in two pools counts twice.
pub const MAX_BACKENDS: u32 = 1024;
/// Backends of one pool.
pub const MAX_POOL_MEMBERS: usize = 64;
/// Endpoints: (SNAT address, backend address and port, protocol).
pub const MAX_ENDPOINTS: u32 = 4096;
/// Interfaces that the program is attached to.
pub const MAX_INTERFACES: usize = 8;
/// SNAT addresses of a node, both families together; a backend names its own by a bit each.
pub const MAX_SNAT_ADDRESSES: usize = 8;
/// Slots of one Maglev table: a prime, a hundred times the backends of a full pool, so that each
/// share is within one percent of its weight (Eisenbud et al., NSDI 2016, section 5.3).
pub const MAGLEV_SLOTS: u32 = 16_381;
/// Entries of `maglev`: two halves for each pool, one in use while the other is written.
pub const MAGLEV_ENTRIES: u32 = MAX_POOLS * 2 * MAGLEV_SLOTS;
/// The most flows that the tables can be made for.
pub const MAX_FLOWS: u32 = 1 << 24;
/// Places of the flow cache for each flow that the tables hold.
pub const CACHE_PLACES_PER_FLOW: u32 = 2;
/// Places of a set of the flow cache.
pub const CACHE_WAYS: u32 = 8;

/// Returns how many sets the flow cache needs for so many flows: a power of two.
#[must_use]
pub const fn cache_sets(flows: u32) -> u32 {
    let sets = flows.saturating_mul(CACHE_PLACES_PER_FLOW) / CACHE_WAYS;
    if sets < 1 {
        1
    } else {
        sets.next_power_of_two()
    }
}

/// The most sets that the exact match cache can have.
pub const MAX_EXACT_SETS: u32 = 65_536;
/// Entries of a set of the exact match cache.
pub const EXACT_WAYS: u32 = 2;

/// Returns how many sets the exact match cache has beside tables for so many flows: a power of two.
/// Both directions of each have an entry, as far as that takes no more than 8 MB.
#[must_use]
pub const fn exact_sets(max_flows: u32) -> u32 {
    if max_flows > MAX_EXACT_SETS {
        MAX_EXACT_SETS
    } else {
        max_flows.next_power_of_two()
    }
}

/// Returns the last set of the exact match cache that shall be in use for so many flows, while
/// `cache_mask` is that of the flow cache; zero: none.
///
/// None where not all have room: those that do gain less than the others lose, new flows above all,
/// which pay for another cache miss.
#[must_use]
pub const fn exact_mask(cache_mask: u32, flows: u32, max_flows: u32) -> u32 {
    let sets = exact_sets(max_flows);
    let wanted = cache_mask.saturating_add(1).saturating_mul(4);
    if flows > sets {
        0
    } else if wanted > sets {
        sets - 1
    } else {
        wanted - 1
    }
}

/// Flows that the tables hold unless the configuration says otherwise.
pub const DEFAULT_MAX_FLOWS: u32 = 262_144;
/// Affinity entries that the table holds unless the configuration says otherwise.
pub const DEFAULT_MAX_AFFINITY: u32 = 262_144;
/// Seconds for which a freed SNAT port is not given to another flow: late replies to the old one
/// must not reach the new one's client.
pub const SNAT_QUARANTINE_S: u32 = 10;
/// SNAT ports that are tried for a new flow before its endpoint counts as full.
pub const SNAT_PROBES: u32 = 128;
/// Ranges of addresses that all services together may have in `ranges`.
pub const MAX_RANGES: u32 = 131_072;
/// Entries of `ranges`: two halves, one in use while the other is written.
pub const RANGE_ENTRIES: u32 = 2 * MAX_RANGES;
/// Fragmented datagrams that are followed at the same time.
pub const MAX_FRAGMENTS: u32 = 16_384;
/// Seconds for which the pieces of a datagram may follow the first one: what Linux waits for them
/// (`net.ipv4.ipfrag_time`); RFC 791 section 3.2 suggests half of it.
pub const FRAGMENT_LIFETIME_S: u32 = 30;
/// Extension headers that may stand before UDP in an IPv6 packet.
pub const MAX_EXTENSION_HEADERS: usize = 4;
/// Token buckets of sources in each of two rows.
pub const SOURCE_BUCKETS: u32 = 32_768;
/// Bytes of a name in a map value.
pub const NAME_BYTES: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_much_of_the_exact_match_cache_is_in_use_as_the_flows_fill() {
        for max_flows in [1, 64, 100, DEFAULT_MAX_FLOWS, MAX_FLOWS] {
            let all = exact_sets(max_flows);
            let mut flows = 1;
            while flows <= max_flows {
                let mask = exact_mask(cache_sets(flows) - 1, flows, max_flows);
                assert!((mask + 1).is_power_of_two() && mask < all);
                if flows <= all {
                    let entries = (mask + 1) * EXACT_WAYS;
                    assert!(entries >= 2 * flows, "{entries} for {flows}");
                } else {
                    assert_eq!(mask, 0, "{flows}");
                }
                flows *= 2;
            }
        }
    }
}
