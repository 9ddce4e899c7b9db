//! Hashes. Those that choose backends are the same in the kernel, in the daemon and on every node.
//!
//! They are not secret. Who can choose source addresses freely can load one backend, as with any
//! hash that nodes must agree on without talking.

use crate::{addr::words, limits::SOURCE_BUCKETS};

/// Returns the hash of a client's address, already cut to its prefix.
#[inline(always)]
#[must_use]
pub fn source(client: &[u8; 16]) -> u32 {
    let [high, low] = words(client);
    fold(mix(mix(high ^ 0x9e37_79b9_7f4a_7c15) ^ low))
}

/// Returns the hash of a client's address and port: for services that remember nobody.
#[inline(always)]
#[must_use]
pub fn source_and_port(client: &[u8; 16], port: u16) -> u32 {
    let [high, low] = words(client);
    fold(mix(
        mix(mix(high ^ 0x9e37_79b9_7f4a_7c15) ^ low) ^ port as u64
    ))
}

/// Returns the hash of the packets from one address and port to another, by a key that nobody outside
/// the node knows: senders cannot aim at a place in its caches. Addresses are two words in memory
/// order, the first of which is zero in IPv4.
#[inline(always)]
#[must_use]
pub const fn flow(seed: u64, from: [u64; 2], from_port: u16, to: [u64; 2], to_port: u16) -> u64 {
    let ports = from_port as u64 | (to_port as u64) << 16;
    // What differs in addresses stands in their last bytes, which are the number's first.
    let mut hash = (from[1].rotate_left(32) ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash = (hash ^ hash >> 32 ^ to[1] ^ ports).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    if from[0] != 0 {
        hash = (hash ^ hash >> 32 ^ from[0]).wrapping_mul(0x94d0_49bb_1331_11eb);
        hash = (hash ^ hash >> 32 ^ to[0]).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    hash ^ hash >> 32
}

/// Returns the set of the exact match cache, of sets up to `mask`, where packets between two IPv4
/// addresses and two ports are looked for: each pair one number, the source in its low half, in
/// memory order.
#[inline(always)]
#[must_use]
pub const fn exact_set(seed: u64, addresses: u64, ports: u32, mask: u32) -> u32 {
    let hash = (addresses ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let hash = (hash ^ hash >> 32 ^ ports as u64).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (hash >> 40) as u32 & mask
}

/// Returns the places in `buckets` of the two token buckets of a source on a service: one in each row.
/// A source is an IPv4 address in the last eight bytes of its mapped form, or the first eight bytes of
/// an IPv6 address, as a number in memory order.
#[inline(always)]
#[must_use]
pub const fn source_buckets(seed: u64, source: u64, service: u32) -> [u32; 2] {
    let mut hash = (source ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash = (hash ^ hash >> 32 ^ service as u64).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash ^= hash >> 31;
    let mask = SOURCE_BUCKETS - 1;
    [
        hash as u32 & mask,
        SOURCE_BUCKETS + ((hash >> 32) as u32 & mask),
    ]
}

/// Returns the hash of a name (FNV-1a, then mixed).
#[must_use]
pub fn bytes(bytes: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in bytes {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    mix(hash)
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): every bit of the input changes
/// each bit of the output with a probability near one half.
#[inline(always)]
const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[inline(always)]
const fn fold(z: u64) -> u32 {
    (z ^ (z >> 32)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::mapped;

    #[test]
    fn hashes_are_a_contract_between_versions_and_nodes() {
        assert_eq!(source(&mapped([10, 1, 2, 3])), EXPECTED_SOURCE);
        assert_eq!(
            source_and_port(&mapped([10, 1, 2, 3]), 51_000),
            EXPECTED_SOURCE_AND_PORT
        );
        assert_eq!(bytes(b"ras-gateways"), EXPECTED_BYTES);
    }

    #[test]
    fn flows_of_neighbours_spread_over_the_sets_of_the_cache() {
        const SETS: u32 = 65_536;
        let mut counts = std::vec![0_u8; SETS as usize];
        for host in 0..SETS / 2 {
            let [_, _, high, low] = host.to_be_bytes();
            let addresses = u64::from_ne_bytes([10, 1, high, low, 10, 0, 0, 1]);
            let set = exact_set(0x1234_5678_9abc_def0, addresses, 0xbb01_50c3, SETS - 1);
            counts[set as usize] += 1;
        }
        // By chance alone 98.6 % of so many sets have two at most.
        let crowded = counts.iter().filter(|count| **count > 2).count();
        assert!(crowded < counts.len() / 50, "{crowded} of {}", counts.len());
    }

    #[test]
    fn neighbouring_addresses_spread_evenly() {
        const BUCKETS: usize = 16;
        let mut counts = [0_u32; BUCKETS];
        for host in 0..=u16::MAX {
            let [high, low] = host.to_be_bytes();
            counts[source(&mapped([10, 1, high, low])) as usize % BUCKETS] += 1;
        }
        let expected = 65_536 / BUCKETS as u32;
        for count in counts {
            assert!(count.abs_diff(expected) < expected / 20, "{counts:?}");
        }
    }

    const EXPECTED_SOURCE: u32 = 0x782b_0735;
    const EXPECTED_SOURCE_AND_PORT: u32 = 0xa5ec_f220;
    const EXPECTED_BYTES: u64 = 0xb0da_d73d_ef10_2b5a;
}
