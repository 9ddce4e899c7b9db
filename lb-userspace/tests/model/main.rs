//! The XDP program against a model of it: random sites, random sequences of packets and events, and
//! after each step everything must be as the model says, byte by byte. Needs root.
//!
//! - [`model`]: what should happen, in plain Rust. Start here.
//! - [`wire`] and [`packet`]: frames read and made from scratch.
//! - [`generate`]: random sites and sequences.
//! - [`site`]: the real object, and the comparison.
//!
//! A failure names its seed. `LB_MODEL_SEED=n` runs that sequence alone, over and over for some
//! seconds, because the second in which a packet comes is not the seed's to choose.
//! `LB_MODEL_SEQUENCES=n` runs as many sequences as that, `LB_MODEL_FIRST=n` begins with that seed.
//!
//! What is not here: two processors at once, and the daemon's own sweeper, whose part the model
//! plays itself.

mod generate;
mod model;
#[path = "../datapath/harness/namespaces.rs"]
mod namespaces;
mod packet;
mod site;
mod wire;

use std::{
    collections::BTreeMap,
    env,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use site::{End, Site};

/// Sequences of an ordinary run.
const SEQUENCES: u64 = 3000;
/// How long one seed is run over and over.
const REPLAY: Duration = Duration::from_secs(20);

#[test]
fn the_program_does_what_the_model_says() {
    let number = |name| env::var(name).ok().and_then(|text| text.parse().ok());
    let seed: Option<u64> = number("LB_MODEL_SEED");
    let sequences = number("LB_MODEL_SEQUENCES").unwrap_or(SEQUENCES);
    let first = seed.or(number("LB_MODEL_FIRST")).unwrap_or(0);
    let threads = if seed.is_some() { 1 } else { 2 };
    let begun = Instant::now();
    let (next, steps) = (AtomicU64::new(first), AtomicU64::new(0));
    let stop = AtomicBool::new(false);

    let work = |thread| {
        let mut coverage = BTreeMap::new();
        namespaces::private(|bpffs| {
            let mut site = Site::open(bpffs, thread);
            loop {
                let seed = match seed {
                    Some(seed) if begun.elapsed() < REPLAY => seed,
                    Some(_) => break,
                    None => next.fetch_add(1, Ordering::Relaxed),
                };
                if stop.load(Ordering::Relaxed) || seed >= first + sequences {
                    break;
                }
                match until_clear(&mut site, seed) {
                    Ok(taken) => steps.fetch_add(taken, Ordering::Relaxed),
                    Err(story) => {
                        stop.store(true, Ordering::Relaxed);
                        panic!("{story}");
                    }
                };
            }
            coverage = site.coverage().clone();
        });
        coverage
    };

    let mut coverage: BTreeMap<&str, u64> = BTreeMap::new();
    thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = (0..threads)
            .map(|thread| scope.spawn(move || work(thread)))
            .collect();
        for thread in threads {
            match thread.join() {
                Ok(seen) => {
                    for (what, count) in seen {
                        *coverage.entry(what).or_default() += count;
                    }
                }
                Err(failure) => std::panic::resume_unwind(failure),
            }
        }
    });
    let steps = steps.into_inner();
    println!("{steps} steps in {:?}: {coverage:#?}", begun.elapsed());
    if seed.is_none() && sequences >= SEQUENCES {
        for what in MUST_HAPPEN {
            assert!(coverage.contains_key(what), "no sequence had: {what}");
        }
    }
}

/// Runs a sequence until no second changes under one of its steps; returns how many it had.
fn until_clear(site: &mut Site, seed: u64) -> Result<u64, String> {
    loop {
        match site.run(seed) {
            End::Good(steps) => return Ok(steps),
            End::Unclear => {}
            End::Bad(story) => return Err(story),
        }
    }
}

/// What an ordinary run must have had: a generator that no longer reaches it tests nothing.
const MUST_HAPPEN: [&str; 25] = [
    "ICMP error",
    "TTL expired",
    "a closing flow lives on",
    "a first piece",
    "a first piece for the host",
    "a flow begins",
    "a flow ends",
    "a flow marks its client",
    "a flow moves",
    "a later piece alone",
    "a later piece follows",
    "a later piece of a port's former flow",
    "affinity expired",
    "affinity kept",
    "affinity table full",
    "detour",
    "detour of a new client",
    "flow table full",
    "limited",
    "port unreachable",
    "ports exhausted",
    "too big",
    "too big without an answer",
    "unwelcome flow",
    "who answered is but a detour",
];
