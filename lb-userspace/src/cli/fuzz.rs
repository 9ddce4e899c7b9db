//! Command lines, and answers of a daemon that may be of another version.

use std::str;

use clap::Parser as _;
use serde::{Serialize, de::DeserializeOwned};

use super::{Arguments, Command, show};
use crate::{
    admin::api,
    config::{self, InitOptions},
};

/// A command line, a word in each line of the input, is understood or refused with a message; what
/// `vipd init` writes is a configuration with what it was told.
pub(crate) fn command_line(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else {
        return;
    };
    let words = std::iter::once("vipd").chain(text.lines());
    match Arguments::try_parse_from(words) {
        Ok(arguments) => {
            if let Command::Init(arguments) = arguments.command {
                init(&arguments.into());
            }
        }
        Err(error) => assert!(!error.to_string().is_empty(), "a reason is missing"),
    }
}

fn init(options: &InitOptions) {
    let written = match config::init(options) {
        Ok(written) => written,
        Err(errors) => {
            for fault in &errors {
                assert!(!fault.place.is_empty(), "{fault:?}");
                assert!(fault.message.contains("; "), "{fault:?}");
            }
            return;
        }
    };
    let config = config::parse(&written).unwrap_or_else(|errors| panic!("{errors}\n{written}"));
    let vip = options.vip.as_ref().map(|vip| vip.parse());
    let listens = |address| config.vips.iter().any(|vip| Ok(vip.address) == address);
    assert!(vip.is_some_and(listens), "{written}");
    for pool in &config.pools {
        assert_eq!(pool.backends.len(), options.backends.len(), "{written}");
    }
    if let Some(interface) = &options.interface {
        assert_eq!(config.node.interfaces, [interface.as_str()], "{written}");
    }
}

/// What a daemon answers is shown, whichever numbers and names are in it.
pub(crate) fn daemon_answer(data: &[u8]) {
    if let Some(status) = read::<api::Status>(data) {
        for colour in [false, true] {
            assert!(!show::status(&status, colour).is_empty(), "no page");
        }
    }
    if let Some(flows) = read::<api::Flows>(data) {
        assert!(!show::flows(&flows).is_empty(), "no page");
    }
    if let Some(explanation) = read::<api::Explanation>(data) {
        assert!(!show::explanation(&explanation).is_empty(), "no page");
    }
    if let Some(state) = read::<api::BackendState>(data) {
        assert!(!show::backend_state(&state).is_empty(), "no page");
    }
    let _ = read::<api::ApiError>(data);
    let _ = read::<api::Reloaded>(data);
    let _ = read::<api::Detaching>(data);
}

/// Reads an answer, which can be read again after it was written by `--json`.
fn read<T: DeserializeOwned + Serialize>(data: &[u8]) -> Option<T> {
    let answer: T = serde_json::from_slice(data).ok()?;
    let written = serde_json::to_vec_pretty(&answer).expect("JSON can be written");
    assert!(
        serde_json::from_slice::<T>(&written).is_ok(),
        "{}",
        String::from_utf8_lossy(&written)
    );
    Some(answer)
}
