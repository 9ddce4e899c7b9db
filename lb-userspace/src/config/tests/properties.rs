//! Whatever is in a file, reading it ends with a configuration or with faults, never with a panic.

use proptest::{prelude::*, sample::Index};

use super::{
    super::{Fault, expand, load_runnable, parse},
    PLAIN, PRESETS, SMALL,
};

/// Every place, value and remedy is there, and the line lies in the file.
fn complete(fault: &Fault, text: &str) -> Result<(), TestCaseError> {
    let lines = text.split('\n').count();
    prop_assert!(
        fault.line.is_some_and(|line| (1..=lines).contains(&line)),
        "{fault:?} of {lines} lines"
    );
    prop_assert!(
        !fault.message.is_empty() && !fault.message.ends_with('.'),
        "{fault:?}"
    );
    prop_assert!(!fault.to_string().contains('\n'), "{fault:?}");
    Ok(())
}

fn judged(text: &str) -> Result<(), TestCaseError> {
    match parse(text) {
        Ok(_) => prop_assert!(expand(text).is_ok_and(|expanded| parse(&expanded).is_ok())),
        Err(errors) => {
            prop_assert!(!errors.faults().is_empty());
            for fault in &errors {
                complete(fault, text)?;
            }
        }
    }
    Ok(())
}

/// Pieces that mean something to the reader, in any place.
const WORDS: [&str; 24] = [
    "[node]\n",
    "[[pool]]\n",
    "[[service]]\n",
    "[[site]]\n",
    "[[vip]]\n",
    "name = ",
    "backends = ",
    "\"10.0.0.1\"",
    "\"::ffff:10.0.0.1\"",
    "\"fe80::1\"",
    "-1",
    "65536",
    "9223372036854775808",
    "1e400",
    "1979-05-27",
    "\"6m\"",
    "\"hex:0\"",
    "\"sha256:==\"",
    "[",
    "{",
    "}",
    "=",
    "\u{1f6a8}",
    "\0",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_judged(text in "\\PC{0,200}") {
        judged(&text)?;
    }

    #[test]
    fn any_row_of_words_is_judged(words in prop::collection::vec(prop::sample::select(&WORDS[..]), 0..30)) {
        judged(&words.concat())?;
    }

    #[test]
    fn a_valid_file_with_a_piece_cut_out_and_another_put_in_is_judged(
        file in prop::sample::select(&[PLAIN, PRESETS, SMALL][..]),
        at: Index,
        length in 0_usize..40,
        word in prop::sample::select(&WORDS[..]),
    ) {
        let mut text: Vec<char> = file.chars().collect();
        let start = at.index(text.len());
        let end = (start + length).min(text.len());
        text.splice(start..end, word.chars());
        judged(&text.into_iter().collect::<String>())?;
    }

    #[test]
    fn a_valid_file_with_one_value_replaced_is_judged(
        file in prop::sample::select(&[PLAIN, PRESETS, SMALL][..]),
        at: Index,
        value in prop::sample::select(&[
            "0", "-1", "70000", "true", "\"\"", "\"x\"", "[]", "{}", "[[]]", "[{}]", "{ a = 1 }", "1.5",
            "\"0s\"", "\"999d\"", "\"::1\"", "\"0.0.0.0\"", "\"*.uni.edu\"", "9223372036854775807",
        ][..]),
    ) {
        let lines: Vec<&str> = file.lines().collect();
        let keys: Vec<usize> = (0..lines.len()).filter(|line| lines[*line].contains(" = ")).collect();
        let replaced = keys[at.index(keys.len())];
        let key = lines[replaced].split(" = ").next().unwrap_or_default();
        let line = format!("{key} = {value}");
        let mut lines = lines.clone();
        lines[replaced] = &line;
        judged(&lines.join("\n"))?;
    }

    #[test]
    fn any_bytes_in_a_file_are_judged(bytes: Vec<u8>) {
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), &bytes)?;
        let error = load_runnable(file.path()).expect_err("no bytes by chance name an interface");
        prop_assert!(!error.faults().is_empty());
    }
}

#[test]
fn deep_nesting_is_a_fault() {
    for text in [
        "a = ".to_owned() + &"[".repeat(100_000),
        "a = ".to_owned() + &"{ a = ".repeat(50_000),
    ] {
        assert!(parse(&text).is_err());
    }
}
