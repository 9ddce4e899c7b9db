//! The short run: the corpus as it is, then a fixed number of changes of it.

use std::{
    collections::BTreeSet,
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{
    TARGETS, Target,
    mutate::{Mutator, words},
};

/// Time for one input. Most take less than a millisecond; a machine may be busy.
const INPUT_TIME: Duration = Duration::from_secs(10);
const SEED: u64 = 0x5eed;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz")
        .join(name)
}

/// Replays the target called `name`.
fn replay(name: &str) {
    let target = TARGETS
        .iter()
        .find(|target| target.name == name)
        .expect("a target of this name");
    let mut paths: Vec<PathBuf> = fs::read_dir(folder("corpus").join(name))
        .expect("a corpus")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    paths.sort();
    let corpus: Vec<Vec<u8>> = paths
        .iter()
        .map(|path| fs::read(path).expect("an input"))
        .collect();
    let dictionary = fs::read_to_string(folder("dictionaries").join(name)).unwrap_or_default();
    let words = words(&dictionary);

    run(target, b"", "no bytes");
    for (path, input) in paths.iter().zip(&corpus) {
        run(target, input, &path.display().to_string());
    }
    let mut mutator = Mutator::new(&corpus, &words, SEED);
    for count in 1..=target.changes {
        run(target, &mutator.next(), &format!("change {count}"));
    }
}

/// Runs one input. If it breaks a promise, it is written to a file, for the corpus.
fn run(target: &Target, input: &[u8], origin: &str) {
    let began = Instant::now();
    let result = catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
    let took = began.elapsed();
    if result.is_ok() && took < INPUT_TIME {
        return;
    }
    let kept = std::env::temp_dir().join(format!("vipd-fuzz-{}", target.name));
    // The message has the beginning of the input too.
    let _ = fs::write(&kept, input);
    let shown = String::from_utf8_lossy(&input[..input.len().min(400)]);
    panic!(
        "{} broke a promise (above) or took too long ({took:?}) with {origin}, kept as {}:\n{shown}",
        target.name,
        kept.display()
    );
}

#[test]
fn every_target_has_a_corpus_and_a_test() {
    let names: BTreeSet<String> = TARGETS
        .iter()
        .map(|target| target.name.to_owned())
        .collect();
    let folders: BTreeSet<String> = fs::read_dir(folder("corpus"))
        .expect("a corpus")
        .map(|entry| {
            let name = entry.expect("an entry").file_name();
            name.into_string().expect("a name")
        })
        .collect();

    assert_eq!(names, folders);
    assert_eq!(names, TESTED.map(str::to_owned).into());
}

/// A corpus of configurations that are all refused would test little.
#[test]
fn configurations_of_the_corpus_are_valid_unless_their_name_says_otherwise() {
    for name in ["configuration", "site"] {
        for entry in fs::read_dir(folder("corpus").join(name)).expect("a corpus") {
            let path = entry.expect("an entry").path();
            let bytes = fs::read(&path).expect("an input");
            let valid = str::from_utf8(&bytes).is_ok_and(|text| crate::config::parse(text).is_ok());
            let file = path.file_name().expect("a name").to_string_lossy();

            assert_eq!(valid, !file.starts_with("faulty"), "{file}");
        }
    }
}

/// A test for each target, so that they run at once.
macro_rules! tests {
    ($($test:ident: $name:literal,)*) => {
        const TESTED: [&str; [$($name),*].len()] = [$($name),*];

        $(
            #[test]
            fn $test() {
                replay($name);
            }
        )*
    };
}

tests! {
    any_text_stays_in_its_line_of_the_access_log: "access-log",
    any_admin_request_is_answered: "admin-request",
    any_certificate_is_judged: "certificate",
    any_certificate_file_is_used_or_refused_in_words: "certificate-file",
    any_beginning_of_tls_has_a_name_or_none: "client-hello",
    any_command_line_is_understood_or_refused: "command-line",
    any_configuration_is_judged_and_expands_to_the_same: "configuration",
    any_answer_of_a_daemon_is_shown_or_refused: "daemon-answer",
    any_packet_is_an_echo_reply_or_is_not: "echo-reply",
    any_list_of_the_host_is_read_or_refused: "host-files",
    any_http_answer_of_a_backend_is_judged: "http-answer",
    any_file_of_run_time_changes_keeps_its_meaning: "overrides",
    any_proxy_header_is_read_or_refused: "proxy-protocol",
    any_request_is_redirected_to_its_own_host_or_refused: "redirect",
    any_request_that_is_let_through_has_one_meaning: "request-head",
    any_answer_that_is_passed_on_has_one_meaning: "response-head",
    any_site_that_can_be_run_is_carried_out: "site",
    any_tls_answer_of_a_backend_is_judged: "tls-answer",
    any_type_information_is_compared_or_refused: "type-information",
}
