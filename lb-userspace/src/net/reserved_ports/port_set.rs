//! Sets of ports in the kernel's list syntax: `8080,20000-32767`.

use std::{fmt, ops::RangeInclusive, str::FromStr};

/// A set of port numbers, kept as sorted ranges that neither overlap nor touch.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PortSet {
    ranges: Vec<(u16, u16)>,
}

/// The text is no list of ports.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("no list of ports such as 8080,20000-32767")]
pub struct ParsePortSetError;

impl PortSet {
    /// Tells whether no port is in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Returns how many ports are in the set, 65536 at most.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.ranges
            .iter()
            .map(|&(first, last)| u32::from(last - first) + 1)
            .sum()
    }

    /// Returns the ports that are in this set, in the other, or in both.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let mut sorted: Vec<(u16, u16)> = [self.ranges.as_slice(), &other.ranges].concat();
        sorted.sort_unstable();
        let mut ranges: Vec<(u16, u16)> = Vec::with_capacity(sorted.len());
        for (first, last) in sorted {
            match ranges.last_mut() {
                Some(former) if first <= former.1.saturating_add(1) => {
                    former.1 = former.1.max(last);
                }
                _ => ranges.push((first, last)),
            }
        }
        Self { ranges }
    }

    /// Returns the ports that are in this set and not in the other.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        let mut ranges = Vec::new();
        for &(first, last) in &self.ranges {
            // Wider than a port, so that it can stand behind the last one.
            let mut rest = u32::from(first);
            for &(cut_first, cut_last) in &other.ranges {
                if u32::from(cut_last) < rest || cut_first > last {
                    continue;
                }
                if u32::from(cut_first) > rest {
                    ranges.push((rest as u16, cut_first - 1));
                }
                rest = u32::from(cut_last) + 1;
            }
            if rest <= u32::from(last) {
                ranges.push((rest as u16, last));
            }
        }
        Self { ranges }
    }
}

impl From<RangeInclusive<u16>> for PortSet {
    fn from(range: RangeInclusive<u16>) -> Self {
        let ranges = if range.is_empty() {
            Vec::new()
        } else {
            vec![range.into_inner()]
        };
        Self { ranges }
    }
}

impl FromStr for PortSet {
    type Err = ParsePortSetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.trim()
            .split(',')
            .filter(|part| !part.is_empty())
            .try_fold(Self::default(), |set, part| {
                let (first, last) = part.split_once('-').unwrap_or((part, part));
                let port = |text: &str| text.parse::<u16>().map_err(|_| ParsePortSetError);
                let (first, last) = (port(first)?, port(last)?);
                if first > last {
                    return Err(ParsePortSetError);
                }
                Ok(set.union(&Self::from(first..=last)))
            })
    }
}

impl fmt::Display for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, (first, last)) in self.ranges.iter().enumerate() {
            if position > 0 {
                f.write_str(",")?;
            }
            if first == last {
                write!(f, "{first}")?;
            } else {
                write!(f, "{first}-{last}")?;
            }
        }
        Ok(())
    }
}

/// Parses the kernel's syntax for one range, two numbers parted by white space; `None` if it is
/// anything else.
#[must_use]
pub fn parse_port_range(text: &str) -> Option<PortSet> {
    let mut numbers = text.split_whitespace().map(str::parse::<u16>);
    match (numbers.next(), numbers.next(), numbers.next()) {
        (Some(Ok(first)), Some(Ok(last)), None) if first <= last => {
            Some(PortSet::from(first..=last))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn set(text: &str) -> PortSet {
        text.parse().expect("a list of ports")
    }

    #[test]
    fn the_kernels_lists_are_read_and_written() {
        for (text, canonical) in [
            ("", ""),
            ("\n", ""),
            ("8080\n", "8080"),
            ("8080,20000-32767\n", "8080,20000-32767"),
            ("5,4,3", "3-5"),
            ("0-65535", "0-65535"),
            ("10-20,15-30", "10-30"),
        ] {
            assert_eq!(set(text).to_string(), canonical, "{text:?}");
        }
    }

    #[test]
    fn what_is_no_list_of_ports_is_refused() {
        for text in ["x", "1-", "-1", "70000", "9-3", "1 2", "1-2-3"] {
            assert_eq!(text.parse::<PortSet>(), Err(ParsePortSetError), "{text:?}");
        }
    }

    #[test]
    fn the_ephemeral_range_is_read() {
        assert_eq!(parse_port_range("32768\t60999\n"), Some(set("32768-60999")));
        for text in ["", "32768", "60999 32768", "1 2 3", "a b", "1 70000"] {
            assert_eq!(parse_port_range(text), None, "{text:?}");
        }
    }

    /// Few ports near both ends, so that ranges meet and arithmetic could wrap.
    fn ranges() -> impl Strategy<Value = Vec<(u16, u16)>> {
        let range = (prop_oneof![Just(0), Just(65_496)], 0..40_u16, 0..40_u16)
            .prop_map(|(base, a, b)| (base + a.min(b), base + a.max(b)));
        prop::collection::vec(range, 0..6)
    }

    fn both(ranges: &[(u16, u16)]) -> (PortSet, BTreeSet<u16>) {
        let mut set = PortSet::default();
        let mut model = BTreeSet::new();
        for &(first, last) in ranges {
            set = set.union(&PortSet::from(first..=last));
            model.extend(first..=last);
        }
        (set, model)
    }

    fn members(set: &PortSet) -> BTreeSet<u16> {
        set.ranges
            .iter()
            .flat_map(|&(first, last)| first..=last)
            .collect()
    }

    proptest! {
        #[test]
        fn it_behaves_as_a_set(a in ranges(), b in ranges()) {
            let ((a, model_a), (b, model_b)) = (both(&a), both(&b));

            prop_assert_eq!(members(&a), model_a.clone());
            prop_assert_eq!(a.len() as usize, model_a.len());
            prop_assert_eq!(members(&a.union(&b)), &model_a | &model_b);
            prop_assert_eq!(members(&a.difference(&b)), &model_a - &model_b);
        }

        #[test]
        fn writing_and_reading_gives_the_same_set(ranges in ranges()) {
            let (set, _) = both(&ranges);

            prop_assert_eq!(set.to_string().parse(), Ok(set));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in ".*") {
            let _ = text.parse::<PortSet>();
            let _ = parse_port_range(&text);
        }
    }
}
