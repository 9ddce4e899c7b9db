//! Each fault, word for word as a person sees it.

mod across;
mod built;
mod health;
mod keys;
mod node;
mod pool;
mod service;
mod site;

use super::{super::parse, SMALL, faults};

/// What is written instead of what in the small file, and the faults that this makes.
type Case = (&'static str, &'static str, &'static [&'static str]);

fn check(cases: &[Case]) {
    for (old, new, expected) in cases {
        assert!(SMALL.contains(old), "{old}");
        let found = faults(parse(&SMALL.replacen(old, new, 1)));
        assert_eq!(found, *expected, "{new}");
    }
}
