//! What is wrong with a configuration: every fault, each with its place, the value and the remedy.

use std::{fmt, io, path::PathBuf};

use serde::Serialize;

/// Faults that are printed; a broken generator can make thousands.
const PRINTED_FAULTS: usize = 100;

/// One fault of a configuration file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// The key, such as `service[2].persistence.timeout`; empty where the text is not TOML.
    pub place: String,
    /// Line of the file, from 1; `None` where no text is at hand.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// Column in characters, from 1, where the text is not TOML.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<usize>,
    /// The value and the remedy, lower case, no full stop.
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.place.as_str(), self.line, self.column) {
            ("", Some(line), Some(column)) => write!(f, "line {line}, column {column}: ")?,
            ("", Some(line), None) => write!(f, "line {line}: ")?,
            ("", None, _) => {}
            (place, Some(line), _) => write!(f, "{place} (line {line}): ")?,
            (place, None, _) => write!(f, "{place}: ")?,
        }
        f.write_str(&self.message)
    }
}

/// Every fault of a configuration, in the order of the file; never empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct ConfigErrors {
    faults: Vec<Fault>,
}

impl ConfigErrors {
    /// Returns the faults as an error, or `None` if there are none.
    pub(super) fn new(mut faults: Vec<Fault>) -> Option<Self> {
        if faults.is_empty() {
            return None;
        }
        // A stable sort: faults of one line stay in the order in which they were found.
        faults.sort_by_key(|fault| fault.line.unwrap_or(usize::MAX));
        Some(Self { faults })
    }

    /// Returns a single fault as an error.
    pub(super) fn one(fault: Fault) -> Self {
        Self {
            faults: vec![fault],
        }
    }

    /// Returns the faults in the order of the file.
    #[must_use]
    pub fn faults(&self) -> &[Fault] {
        &self.faults
    }

    /// Returns the faults in the order of the file.
    pub fn iter(&self) -> std::slice::Iter<'_, Fault> {
        self.faults.iter()
    }
}

impl<'a> IntoIterator for &'a ConfigErrors {
    type Item = &'a Fault;
    type IntoIter = std::slice::Iter<'a, Fault>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.faults.len() {
            1 => f.write_str("1 fault")?,
            count => write!(f, "{count} faults")?,
        }
        for fault in self.faults.iter().take(PRINTED_FAULTS) {
            write!(f, "\n  {fault}")?;
        }
        match self.faults.len().saturating_sub(PRINTED_FAULTS) {
            0 => Ok(()),
            more => write!(f, "\n  and {more} more"),
        }
    }
}

impl std::error::Error for ConfigErrors {}

/// Why a configuration file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error(
        "cannot read {}; name the file with --config, or write one with `vipd init`",
        path.display()
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file was read and has faults.
    #[error("{} has {errors}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        errors: ConfigErrors,
    },
}

impl LoadError {
    /// Returns the faults; none if the file could not be read.
    #[must_use]
    pub fn faults(&self) -> &[Fault] {
        match self {
            Self::Unreadable { .. } => &[],
            Self::Invalid { errors, .. } => errors.faults(),
        }
    }
}
