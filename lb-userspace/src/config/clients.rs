//! Which clients a service takes: prefixes, of which the longest decides, and the ranges of
//! addresses that they become. Pure.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use lb_common::{addr, guard::Range, limits::MAX_RANGES};

use super::model::{Prefix, Rule, Service};

/// The clients of one service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientList {
    /// What becomes of clients that no prefix covers.
    pub others: Rule,
    /// The longest prefix that covers a client decides.
    pub prefixes: BTreeMap<Prefix, Rule>,
}

impl ClientList {
    /// Returns the list that the configuration gives a service: whoever is not in an allow list
    /// is refused.
    #[must_use]
    pub fn of(service: &Service) -> Self {
        let allowed = service.allow.iter().map(|prefix| (*prefix, Rule::Allow));
        let blocked = service.block.iter().map(|prefix| (*prefix, Rule::Block));
        Self {
            others: if service.allow.is_empty() {
                Rule::Allow
            } else {
                Rule::Block
            },
            prefixes: allowed.chain(blocked).collect(),
        }
    }

    /// Returns the prefix that decides about `client`, and how; `None`: no prefix covers it.
    #[must_use]
    pub fn decides(&self, client: IpAddr) -> Option<(Prefix, Rule)> {
        let client = client.to_canonical();
        let longest: u8 = if client.is_ipv4() { 32 } else { 128 };
        (0..=longest).rev().find_map(|length| {
            let prefix = Prefix::of(client, length);
            Some((prefix, *self.prefixes.get(&prefix)?))
        })
    }

    /// Returns the list as ranges: in ascending order, the first from `::` on, neighbours with
    /// different answers. A list that refuses nobody has none.
    ///
    /// The families are apart: an IPv6 prefix says nothing of IPv4 clients, even where it covers
    /// the block that their addresses are mapped into.
    #[must_use]
    pub fn ranges(&self) -> Vec<Range> {
        let of_family = |ipv4: bool| {
            self.prefixes
                .iter()
                .filter(move |(prefix, _)| prefix.address.is_ipv4() == ipv4)
                .map(|(prefix, rule)| (Span::of(prefix), *rule))
        };
        let mapped = Span::of(&Prefix::of(IpAddr::V4([0; 4].into()), 0));
        let everything = Span {
            first: 0,
            last: u128::MAX,
        };
        let ipv6 = paint(everything, self.others, of_family(false));
        let behind = |limit: u128| {
            let place = ipv6.partition_point(|(first, _)| *first <= limit);
            place.checked_sub(1).map(|place| (limit, ipv6[place].1))
        };
        let below = ipv6.iter().filter(|(first, _)| *first < mapped.first);
        let above = ipv6.iter().filter(|(first, _)| *first > mapped.last + 1);
        let mut answers: Vec<(u128, Rule)> = below
            .copied()
            .chain(paint(mapped, self.others, of_family(true)))
            .chain(behind(mapped.last + 1))
            .chain(above.copied())
            .collect();
        answers.dedup_by_key(|(_, rule)| *rule);
        if answers == [(0, Rule::Allow)] {
            return Vec::new();
        }
        let range = |(first, rule): (u128, Rule)| Range {
            start: first.to_be_bytes(),
            blocked: u32::from(rule == Rule::Block),
            _reserved: 0,
        };
        answers.into_iter().map(range).collect()
    }
}

/// Addresses from `first` to `last`, as numbers of the 16-byte form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    first: u128,
    last: u128,
}

impl Span {
    fn of(prefix: &Prefix) -> Self {
        let first = u128::from_be_bytes(addr::bytes(prefix.address));
        let bits = if prefix.address.is_ipv4() { 32 } else { 128 };
        let free = bits - u32::from(prefix.length);
        let rest = u128::MAX.checked_shr(128 - free).unwrap_or(0);
        Self {
            first,
            last: first | rest,
        }
    }
}

/// Returns who is answered how within `canvas`: each first address with the answer from there on.
///
/// `spans` are those of prefixes of one family in ascending order, so each lies either within the
/// one before it or behind it.
fn paint(
    canvas: Span,
    others: Rule,
    spans: impl Iterator<Item = (Span, Rule)>,
) -> Vec<(u128, Rule)> {
    let mut answers = vec![(canvas.first, others)];
    // The spans that the address at hand lies in, the shortest last.
    let mut around: Vec<(Span, Rule)> = Vec::new();
    for (span, rule) in spans {
        leave(&mut answers, &mut around, others, span.first);
        set(&mut answers, span.first, rule);
        around.push((span, rule));
    }
    leave(&mut answers, &mut around, others, u128::MAX);
    answers.retain(|(first, _)| (canvas.first..=canvas.last).contains(first));
    answers
}

/// Leaves the spans that end before `address`: behind each, the one around it decides again.
fn leave(
    answers: &mut Vec<(u128, Rule)>,
    around: &mut Vec<(Span, Rule)>,
    others: Rule,
    address: u128,
) {
    while let Some((span, _)) = around.pop_if(|(span, _)| span.last < address) {
        let rule = around.last().map_or(others, |(_, rule)| *rule);
        set(answers, span.last + 1, rule);
    }
}

/// Sets the answer from `first` on, which is not before the last answer's first address.
fn set(answers: &mut Vec<(u128, Rule)>, first: u128, rule: Rule) {
    answers.pop_if(|(last, _)| *last == first);
    answers.push((first, rule));
}

/// The ranges of several services in one array. Services with the same ranges share them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placed {
    /// Everything in a row.
    pub all: Arc<[Range]>,
    /// Where the ranges of each service begin, and what they are, in the order that they were
    /// given in.
    pub services: Vec<(u32, Arc<[Range]>)>,
}

/// Too many ranges for the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the lists of clients of all services make {needed} ranges of addresses; keep at most \
     {MAX_RANGES}"
)]
pub struct TooMany {
    /// How many ranges all services would have together.
    pub needed: usize,
}

impl Placed {
    /// Puts the ranges of services in a row.
    ///
    /// # Errors
    ///
    /// [`TooMany`] when the map has no room for them.
    pub fn new(services: impl IntoIterator<Item = Vec<Range>>) -> Result<Self, TooMany> {
        let mut placed = Vec::new();
        let mut distinct: Vec<(u32, Arc<[Range]>)> = Vec::new();
        let mut needed = 0;
        for ranges in services {
            let same = distinct.iter().find(|(_, known)| **known == *ranges);
            if let Some(same) = same {
                placed.push(same.clone());
                continue;
            }
            // What does not fit is counted, and nowhere placed.
            let first = u32::try_from(needed).unwrap_or(u32::MAX);
            needed += ranges.len();
            let new = (first, Arc::from(ranges));
            distinct.push(new.clone());
            placed.push(new);
        }
        if needed > MAX_RANGES as usize {
            return Err(TooMany { needed });
        }
        let all: Vec<Range> = distinct
            .iter()
            .flat_map(|(_, ranges)| ranges.iter().copied())
            .collect();
        Ok(Self {
            all: all.into(),
            services: placed,
        })
    }
}

#[cfg(test)]
mod tests;
