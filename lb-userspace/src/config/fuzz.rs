//! A configuration file of any content.

use std::str;

use super::{
    ConfigErrors, Fault, Stages, expand, model::Config, not_text, parse, parse_stages,
    require_built, socket_in,
};

/// The file is a configuration or has faults that a person can act on; and what `config expand`
/// makes of a configuration is one, and means the same.
pub(crate) fn configuration(data: &[u8]) {
    let text = match str::from_utf8(data) {
        Ok(text) => text,
        Err(error) => {
            assert_actionable(&not_text(data, error.valid_up_to()), data);
            return;
        }
    };
    let runnable = parse_stages(text, Stages::Runnable, |_| {});
    let config = match parse(text) {
        Ok(config) => config,
        Err(errors) => {
            assert_actionable(&errors, data);
            assert!(runnable.is_err(), "a faulty file would be run");
            return;
        }
    };
    let built = require_built(&config);
    assert_eq!(runnable.is_ok(), built.is_ok(), "{built:?}");
    if let Err(errors) = &runnable {
        assert_actionable(errors, data);
    }
    assert_eq!(
        socket_in(text).as_ref(),
        Ok(&config.admin.socket),
        "commands look for the daemon where it does not answer"
    );

    let expanded = expand(text).unwrap_or_else(|errors| panic!("{errors}\n{text}"));
    let again = parse(&expanded).unwrap_or_else(|errors| panic!("{errors}\n{expanded}"));
    assert_eq!(without_places(again), without_places(config), "{expanded}");
    let twice = expand(&expanded).unwrap_or_else(|errors| panic!("{errors}\n{expanded}"));
    assert_eq!(expand(&twice), Ok(twice.clone()), "{expanded}");
}

/// Returns the configuration without warnings: they name places of the text.
fn without_places(mut config: Config) -> Config {
    config.warnings.clear();
    config
}

/// Every fault has a place in the file, and ends with what to do about it.
fn assert_actionable(errors: &ConfigErrors, text: &[u8]) {
    let lines = 1 + text.iter().filter(|byte| **byte == b'\n').count();
    assert!(!errors.faults().is_empty(), "refused without a reason");
    for fault in errors {
        assert!(has_place(fault, lines), "{fault:?} of {lines} lines");
        let (what, remedy) = fault.message.rsplit_once("; ").unwrap_or_default();
        assert!(!what.is_empty() && !remedy.is_empty(), "{fault:?}");
        let shown = fault.to_string();
        assert!(!shown.chars().any(char::is_control), "{shown:?}");
    }
}

fn has_place(fault: &Fault, lines: usize) -> bool {
    match fault.line {
        Some(line) => (1..=lines).contains(&line),
        // What is missing altogether has no line.
        None => !fault.place.is_empty(),
    }
}
