//! Who may begin a flow: the service's lists of clients, then the limits of its rate.

use lb_common::{
    guard::take_token,
    hash,
    limits::{MAX_SERVICES, SOURCE_BUCKETS},
    service::Service,
    verdict::DropReason,
};

use crate::{
    atomic,
    ip::Ip,
    maps::{BUCKETS, RANGES},
    parse::Parsed,
    pipeline::Node,
};

/// Entries of `buckets`: two rows for sources, and a bucket for each service.
pub(crate) const BUCKET_ENTRIES: u32 = 2 * SOURCE_BUCKETS + MAX_SERVICES;

/// Halvings that lead from every range to one.
const STEPS: u32 = lb_common::limits::MAX_RANGES.ilog2() + 1;

/// Attempts at a bucket that other processors change at the same time.
const ATTEMPTS: u32 = 4;

/// Refuses clients that the service does not take.
///
/// # Errors
///
/// [`DropReason::Blocked`].
#[inline(always)]
pub(crate) fn admit(parsed: &Parsed, service: &Service) -> Result<(), DropReason> {
    if service.ranges_count == 0 {
        return Ok(());
    }
    let client = parsed.source;
    let blocked = blocked(
        service.ranges_first,
        service.ranges_count,
        u64::from_be(client.high),
        u64::from_be(client.low),
    );
    if blocked != 0 {
        return Err(DropReason::Blocked);
    }
    Ok(())
}

/// Takes a new flow into account.
///
/// # Errors
///
/// [`DropReason::SourceLimited`], [`DropReason::ServiceLimited`].
#[inline(always)]
pub(crate) fn limit(node: &Node, parsed: &Parsed, service: &Service) -> Result<(), DropReason> {
    let id = u32::from(service.id);
    if service.new_flows_per_source != 0 {
        // An IPv6 source has at least 64 bits to choose from.
        let source = if parsed.v6 {
            parsed.source.high
        } else {
            parsed.source.low
        };
        let [one, other] = hash::source_buckets(node.settings.seed, source, id);
        let rate = service.new_flows_per_source;
        if take_from_either(one, other, node.now_ns, rate) == 0 {
            return Err(DropReason::SourceLimited);
        }
    }
    if service.new_flows_per_second != 0 {
        let bucket = 2 * SOURCE_BUCKETS + (id & (MAX_SERVICES - 1));
        if take_one(bucket, node.now_ns, service.new_flows_per_second) == 0 {
            return Err(DropReason::ServiceLimited);
        }
    }
    Ok(())
}

/// Takes a token; returns 1, or zero if there is none.
///
/// A global function of the program, as `select::by_hash` is, for the verifier's sake.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn take_one(bucket: u32, now_ns: u64, rate: u32) -> u32 {
    take(bucket, now_ns, rate)
}

/// Takes a token of each of two buckets; returns 1, or zero if neither has one. A source that shares
/// one bucket with a busy one still has the other to itself.
///
/// A global function of the program, as `select::by_hash` is, for the verifier's sake.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn take_from_either(one: u32, other: u32, now_ns: u64, rate: u32) -> u32 {
    take(one, now_ns, rate) | take(other, now_ns, rate)
}

/// Takes a token; returns 1, or zero if there is none.
#[inline(always)]
fn take(bucket: u32, now_ns: u64, rate: u32) -> u32 {
    let Some(bucket) = BUCKETS.get_ptr_mut(bucket) else {
        return 1;
    };
    if rate == 0 {
        return 1;
    }
    for _ in 0..ATTEMPTS {
        // SAFETY: `bucket` points into the map.
        let before = unsafe { bucket.read_volatile() };
        let Some(after) = take_token(before, now_ns, rate) else {
            return 0;
        };
        // SAFETY: as above; the word is aligned.
        if unsafe { atomic::swap(bucket, before, after) } {
            return 1;
        }
    }
    // Others took tokens each time: a few flows too many are better than one that had a right.
    1
}

/// Returns 1 if the client, as two numbers, lies in a blocked range.
///
/// A global function of the program, as `select::by_hash` is, for the verifier's sake.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn blocked(first: u32, count: u32, high: u64, low: u64) -> u32 {
    let mut base = first;
    let mut left = count;
    for _ in 0..STEPS {
        if left <= 1 {
            break;
        }
        let half = left / 2;
        let Some(range) = RANGES.get(base + half) else {
            return 0;
        };
        let start = Ip::of(&range.start);
        let (start_high, start_low) = (u64::from_be(start.high), u64::from_be(start.low));
        if start_high < high || (start_high == high && start_low <= low) {
            base += half;
        }
        left -= half;
    }
    RANGES.get(base).map_or(0, |range| range.blocked)
}
