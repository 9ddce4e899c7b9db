//! Who may begin a flow: ranges of addresses, and token buckets.

use crate::layout::assert_layout;

/// Value of `ranges`, an array: the clients from `start` on, up to the next range of the service.
///
/// The ranges of a service are in ascending order, and the first begins at `::`. Longest prefixes
/// have become ranges already: a range says what the longest prefix that covers it says.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Range {
    /// The lowest address.
    pub start: [u8; 16],
    /// 1: these clients are refused.
    pub blocked: u32,
    /// Zero.
    pub _reserved: u32,
}

assert_layout!(Range, size = 24, align = 4);

/// Nanoseconds of a second.
const SECOND_NS: u64 = 1_000_000_000;

/// Takes a token from a bucket that fills with `rate` tokens a second and holds as many; returns
/// the bucket after that, or `None` if it is empty.
///
/// A bucket is one number: the time at which it will be full again, in nanoseconds (the generic
/// cell rate algorithm, ITU-T I.371 annex A, which is a token bucket without the division by
/// time). `rate` must not be zero.
#[inline(always)]
#[must_use]
pub const fn take_token(full_at_ns: u64, now_ns: u64, rate: u32) -> Option<u64> {
    let token_ns = SECOND_NS / rate as u64;
    let base = if full_at_ns > now_ns {
        full_at_ns
    } else {
        now_ns
    };
    let after = base.saturating_add(token_ns);
    if after - now_ns > SECOND_NS {
        None
    } else {
        Some(after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_bucket_holds_the_tokens_of_a_second() {
        for rate in [1, 2, 3, 7, 1000, 999_983] {
            let mut bucket = 0;
            let mut taken = 0;
            while let Some(after) = take_token(bucket, 5_000_000_000, rate) {
                bucket = after;
                taken += 1;
                assert!(taken <= 2 * rate, "a bucket of {rate} never empties");
            }
            assert!(
                taken >= rate && taken <= rate + rate / 1000 + 1,
                "{taken} of {rate}"
            );
        }
    }

    #[test]
    fn an_empty_bucket_fills_with_time_and_never_above_its_size() {
        let mut bucket = 0;
        while let Some(after) = take_token(bucket, SECOND_NS, 10) {
            bucket = after;
        }

        assert_eq!(take_token(bucket, SECOND_NS + 99_999_999, 10), None);
        assert!(take_token(bucket, SECOND_NS + 100_000_000, 10).is_some());

        let mut taken = 0;
        while let Some(after) = take_token(bucket, 1000 * SECOND_NS, 10) {
            bucket = after;
            taken += 1;
        }
        assert_eq!(taken, 10);
    }
}
