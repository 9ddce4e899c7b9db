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

/// Returns whether the ranges of a service refuse a client; no ranges refuse nobody.
#[must_use]
pub fn is_blocked(ranges: &[Range], client: &[u8; 16]) -> bool {
    let above = ranges.partition_point(|range| range.start <= *client);
    // A client below the first range, which begins at `::`, is nobody's.
    above
        .checked_sub(1)
        .and_then(|place| ranges.get(place))
        .is_some_and(|range| range.blocked != 0)
}

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

    fn range(first: u8, blocked: u32) -> Range {
        let mut start = [0; 16];
        start[15] = first;
        Range {
            start,
            blocked,
            _reserved: 0,
        }
    }

    fn client(last: u8) -> [u8; 16] {
        range(last, 0).start
    }

    #[test]
    fn a_range_reaches_to_the_next_one() {
        let ranges = [range(0, 0), range(10, 1), range(20, 0), range(30, 1)];

        for last in 0..=u8::MAX {
            let expected = (10..20).contains(&last) || last >= 30;
            assert_eq!(is_blocked(&ranges, &client(last)), expected, "{last}");
        }
        assert!(is_blocked(&ranges, &[0xff; 16]));
    }

    #[test]
    fn without_ranges_nobody_is_blocked_and_one_range_is_everybody() {
        assert!(!is_blocked(&[], &client(1)));
        assert!(is_blocked(&[range(0, 1)], &[0; 16]));
        assert!(is_blocked(&[range(0, 1)], &[0xff; 16]));
        assert!(!is_blocked(&[range(0, 0)], &[0xff; 16]));
    }

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
