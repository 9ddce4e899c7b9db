//! Where commands write: standard output, or a buffer in tests.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;

/// Standard output, and whether somebody looks at it.
pub(super) struct Output {
    writer: Box<dyn Write>,
    terminal: bool,
}

impl Output {
    pub(super) fn stdout() -> Self {
        let stdout = io::stdout();
        Self {
            terminal: stdout.is_terminal(),
            writer: Box::new(stdout),
        }
    }

    /// Writes text as it is.
    pub(super) fn text(&mut self, text: &str) -> io::Result<()> {
        self.writer.write_all(text.as_bytes())?;
        self.writer.flush()
    }

    /// Writes a value as JSON: indented for people, else in one line.
    pub(super) fn json(&mut self, value: &impl Serialize) -> io::Result<()> {
        let text = if self.terminal {
            serde_json::to_string_pretty(value)?
        } else {
            serde_json::to_string(value)?
        };
        self.text(&text)?;
        self.text("\n")
    }

    /// Returns whether colours and cursor movements are understood.
    pub(super) fn is_terminal(&self) -> bool {
        self.terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
    }
}

/// Writes an error to standard error.
pub(super) fn error(message: &str) {
    // Nobody may be reading; there is nothing left to say then.
    let _ = writeln!(io::stderr(), "error: {message}");
}

/// Writes a remark to standard error.
pub(super) fn remark(message: &str) {
    let _ = writeln!(io::stderr(), "{message}");
}
