//! Commands about configuration files.

use std::{fs, io::Write, path::Path};

use serde::Serialize;

use super::{Failure, output, output::Output, show::count};
use crate::{
    config::{self, Fault, InitOptions, LoadError, model::Config},
    control::chain,
};

/// What `check --json` prints.
#[derive(Serialize)]
struct Checked<'a> {
    /// The file.
    path: String,
    /// It can be run with.
    valid: bool,
    /// What is wrong with it.
    faults: &'a [Fault],
    /// Why it cannot be read at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// Remarks.
    warnings: Vec<String>,
}

/// `vipd check`.
pub(super) fn check(out: &mut Output, path: &Path, json: bool) -> Result<(), Failure> {
    let loaded = config::load_runnable(path);
    if !json {
        let config = loaded?;
        for warning in warnings(&config) {
            output::remark(&format!("warning: {warning}"));
        }
        out.text(&summary(path, &config))?;
        return Ok(());
    }
    let faults = loaded.as_ref().err().map_or(&[][..], LoadError::faults);
    let unreadable = loaded
        .as_ref()
        .err()
        .filter(|error| error.faults().is_empty());
    out.json(&Checked {
        path: path.display().to_string(),
        valid: loaded.is_ok(),
        faults,
        error: unreadable.map(|error| chain(error)),
        warnings: loaded.as_ref().map(warnings).unwrap_or_default(),
    })?;
    loaded.map(|_| ()).map_err(Failure::from)
}

fn warnings(config: &Config) -> Vec<String> {
    config
        .warnings
        .iter()
        .map(|warning| format!("{}: {}", warning.place, warning.message))
        .collect()
}

fn summary(path: &Path, config: &Config) -> String {
    let backends = config.pools.iter().map(|pool| pool.backends.len()).sum();
    let count = |number: usize, what| count(u32::try_from(number).unwrap_or(u32::MAX), what);
    format!(
        "{} is valid: {}, {}, {}\n",
        path.display(),
        count(config.services.len(), "service"),
        count(config.pools.len(), "pool"),
        count(backends, "backend"),
    )
}

/// `vipd config expand`.
pub(super) fn expand(out: &mut Output, path: &Path) -> Result<(), Failure> {
    let text = fs::read_to_string(path).map_err(|source| LoadError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    let expanded = config::expand(&text).map_err(|errors| LoadError::Invalid {
        path: path.to_owned(),
        errors,
    })?;
    out.text(&expanded)?;
    Ok(())
}

/// `vipd init`.
pub(super) fn init(
    out: &mut Output,
    options: &InitOptions,
    path: Option<&Path>,
) -> Result<(), Failure> {
    let text = config::init(options)
        .map_err(|errors| Failure::Usage(format!("no configuration is written: {errors}")))?;
    let Some(path) = path else {
        out.text(&text)?;
        return Ok(());
    };
    let written = fs::File::create_new(path).and_then(|mut file| file.write_all(text.as_bytes()));
    written
        .map_err(|error| Failure::Failed(format!("cannot write {}: {error}", path.display())))?;
    output::remark(&format!(
        "wrote {}; look through it, then `vipd check --config {}`",
        path.display(),
        path.display()
    ));
    Ok(())
}
