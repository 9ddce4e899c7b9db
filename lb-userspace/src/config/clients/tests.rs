use lb_common::guard::is_blocked;
use proptest::prelude::*;

use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn list(others: Rule, allow: &[&str], block: &[&str]) -> ClientList {
    let of = |texts: &[&str], rule: Rule| -> Vec<(Prefix, Rule)> {
        let prefixes = texts.iter().map(|text| text.parse().expect("a prefix"));
        prefixes.map(|prefix| (prefix, rule)).collect()
    };
    ClientList {
        others,
        prefixes: of(allow, Rule::Allow)
            .into_iter()
            .chain(of(block, Rule::Block))
            .collect(),
    }
}

/// Returns the ranges as text: first address and answer.
fn shown(list: &ClientList) -> Vec<(String, bool)> {
    let ranges = list.ranges().into_iter();
    ranges
        .map(|range| {
            let start = std::net::Ipv6Addr::from(range.start);
            (start.to_string(), range.blocked == 1)
        })
        .collect()
}

fn row(start: &str, blocked: bool) -> (String, bool) {
    (start.to_owned(), blocked)
}

/// What the longest prefix of the client's family says, found one by one.
fn naive(list: &ClientList, client: IpAddr) -> Rule {
    let covers = |prefix: &Prefix| match (prefix.address, client) {
        (IpAddr::V4(network), IpAddr::V4(client)) => {
            let free = 32 - u32::from(prefix.length);
            u64::from(network.to_bits()) >> free == u64::from(client.to_bits()) >> free
        }
        (IpAddr::V6(network), IpAddr::V6(client)) => (0..u32::from(prefix.length)).all(|bit| {
            let mask = 1_u128 << (127 - bit);
            network.to_bits() & mask == client.to_bits() & mask
        }),
        _ => false,
    };
    list.prefixes
        .iter()
        .filter(|(prefix, _)| covers(prefix))
        .max_by_key(|(prefix, _)| prefix.length)
        .map_or(list.others, |(_, rule)| *rule)
}

/// Addresses that are near each other, so that prefixes nest and meet.
fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        4 => (0_u32..1 << 10).prop_map(|low| IpAddr::V4((0x0a00_0000 | low << 4).into())),
        1 => any::<u32>().prop_map(|bits| IpAddr::V4(bits.into())),
        1 => prop::sample::select(vec![
            ip("0.0.0.0"), ip("255.255.255.255"), ip("::"), ip("::fffe:ffff:ffff"),
            ip("::1:0:0:0"), ip("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
        ]),
        3 => (0_u128..1 << 12).prop_map(|low| {
            IpAddr::V6((0x2001_0db8 << 96 | low << 60).into())
        }),
        1 => any::<u128>().prop_map(|bits| IpAddr::V6(bits.into())),
    ]
    .prop_map(|address| address.to_canonical())
}

fn rule() -> impl Strategy<Value = Rule> {
    prop_oneof![Just(Rule::Allow), Just(Rule::Block)]
}

fn any_list() -> impl Strategy<Value = ClientList> {
    let prefix = (address(), 0_u8..=128, 0_u8..=8).prop_map(|(address, length, near)| {
        // Half of the lengths are near the end of the family's, where the addresses differ.
        let most = if address.is_ipv4() { 32 } else { 70 };
        let length = if length % 2 == 0 { most - near } else { length };
        Prefix::of(address, length)
    });
    let prefixes = prop::collection::btree_map(prefix, rule(), 0..24);
    (rule(), prefixes).prop_map(|(others, prefixes)| ClientList { others, prefixes })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn ranges_say_what_the_longest_prefix_says(
        list in any_list(), clients in prop::collection::vec(address(), 32),
    ) {
        let ranges = list.ranges();
        // Where answers may change: at both ends of every prefix, and right outside.
        let edges = list.prefixes.keys().flat_map(|prefix| {
            let span = Span::of(prefix);
            [span.first, span.last, span.first.wrapping_sub(1), span.last.wrapping_add(1)]
        });
        let edges = edges.map(|bits| addr::address(bits.to_be_bytes()));
        for client in clients.into_iter().chain(edges) {
            let expected = naive(&list, client);
            let blocked = is_blocked(&ranges, &addr::bytes(client));
            prop_assert_eq!(blocked, expected == Rule::Block, "{} of {:?}", client, list);
            let decided = list.decides(client).map_or(list.others, |(_, rule)| rule);
            prop_assert_eq!(decided, expected, "{} of {:?}", client, list);
        }
    }

    #[test]
    fn ranges_are_in_order_and_each_answers_otherwise_than_the_one_before(list in any_list()) {
        let ranges = list.ranges();

        if let Some(first) = ranges.first() {
            prop_assert_eq!(first.start, [0; 16]);
        }
        for pair in ranges.windows(2) {
            prop_assert!(pair[0].start < pair[1].start);
            prop_assert!(pair[0].blocked != pair[1].blocked);
        }
    }
}

#[test]
fn an_empty_list_has_no_ranges() {
    assert_eq!(shown(&list(Rule::Allow, &[], &[])), []);
    assert_eq!(
        shown(&list(Rule::Allow, &["10.0.0.0/8", "::/0"], &[])),
        [],
        "nobody is refused"
    );
}

#[test]
fn the_longest_prefix_decides() {
    let list = list(
        Rule::Block,
        &["10.0.0.0/8", "10.1.2.128/25"],
        &["10.1.2.0/24"],
    );

    assert_eq!(
        shown(&list),
        [
            row("::", true),
            row("::ffff:10.0.0.0", false),
            row("::ffff:10.1.2.0", true),
            row("::ffff:10.1.2.128", false),
            row("::ffff:11.0.0.0", true),
        ]
    );
    let decided = list.decides(ip("10.1.2.200")).expect("covered");
    assert_eq!(
        (decided.0.to_string().as_str(), decided.1),
        ("10.1.2.128/25", Rule::Allow)
    );
    assert_eq!(list.decides(ip("192.0.2.1")), None);
}

#[test]
fn neighbours_with_the_same_answer_are_one_range() {
    let list = list(
        Rule::Allow,
        &[],
        &["10.0.0.0/9", "10.128.0.0/9", "10.1.0.0/16"],
    );

    assert_eq!(
        shown(&list),
        [
            row("::", false),
            row("::ffff:10.0.0.0", true),
            row("::ffff:11.0.0.0", false),
        ]
    );
}

#[test]
fn the_families_are_apart() {
    let everybody6 = list(Rule::Allow, &[], &["::/0"]);
    assert_eq!(
        shown(&everybody6),
        [
            row("::", true),
            row("::ffff:0.0.0.0", false),
            row("::1:0:0:0", true),
        ]
    );
    let everybody4 = list(Rule::Allow, &[], &["0.0.0.0/0"]);
    assert_eq!(
        shown(&everybody4),
        [
            row("::", false),
            row("::ffff:0.0.0.0", true),
            row("::1:0:0:0", false),
        ]
    );
    assert_eq!(
        everybody6.decides(ip("::ffff:10.1.2.3")),
        None,
        "IPv4 in IPv6 notation is IPv4"
    );
}

#[test]
fn services_with_the_same_ranges_share_them() {
    let one = list(Rule::Allow, &[], &["10.0.0.0/8"]).ranges();
    let other = list(Rule::Allow, &[], &["10.0.0.0/9"]).ranges();

    let placed = Placed::new([one.clone(), other.clone(), Vec::new(), one.clone()]);
    let placed = placed.expect("it fits");

    assert_eq!(*placed.all, *[one.clone(), other].concat());
    let places: Vec<(u32, usize)> = placed
        .services
        .iter()
        .map(|(first, ranges)| (*first, ranges.len()))
        .collect();
    assert_eq!(places, [(0, 3), (3, 3), (6, 0), (0, 3)]);
}

#[test]
fn what_does_not_fit_the_map_is_refused_with_its_size() {
    let mut long = ClientList {
        others: Rule::Allow,
        prefixes: BTreeMap::new(),
    };
    for place in 0..MAX_RANGES / 2 {
        let network = IpAddr::V4((place << 9).into());
        long.prefixes.insert(Prefix::of(network, 24), Rule::Block);
    }
    let ranges = long.ranges();
    assert_eq!(ranges.len(), MAX_RANGES as usize + 1);

    let error = Placed::new([ranges.clone(), ranges]).expect_err("one too many");

    assert_eq!(
        error.to_string(),
        "the lists of clients of all services make 131073 ranges of addresses; keep at most 131072"
    );
}
