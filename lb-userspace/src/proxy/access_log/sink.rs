//! Where the lines go.

use std::{
    fs::{File, OpenOptions},
    io::{self, ErrorKind, Write as _},
    os::{fd::AsFd as _, unix::fs::OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use crate::config::model::AccessLog;

/// The mode of a new file: for its owner, and for a group that may read it.
const MODE: u32 = 0o640;

/// A destination that is open.
#[derive(Debug, Default)]
pub(super) struct Sink {
    /// None: the log is off.
    file: Option<File>,
    /// The file's name; none for standard output.
    path: Option<PathBuf>,
    /// The last line is there in part.
    torn: bool,
}

impl Sink {
    /// # Errors
    ///
    /// The file cannot be opened for appending.
    pub(super) fn open(destination: &AccessLog) -> io::Result<Self> {
        let (file, path) = match destination {
            AccessLog::Off => (None, None),
            // Without the buffer of `Stdout`, which would hide what was written.
            AccessLog::Stdout => {
                let descriptor = io::stdout().as_fd().try_clone_to_owned()?;
                (Some(File::from(descriptor)), None)
            }
            AccessLog::File(path) => (Some(append_to(path)?), Some(path.clone())),
        };
        Ok(Self {
            file,
            path,
            torn: false,
        })
    }

    pub(super) fn is_on(&self) -> bool {
        self.file.is_some()
    }

    /// The file's name, for messages.
    pub(super) fn name(&self) -> String {
        self.path.as_ref().map_or_else(
            || "standard output".to_owned(),
            |path| path.display().to_string(),
        )
    }

    /// Closes the file and opens it again by its name. There is nothing to do where there is none.
    ///
    /// # Errors
    ///
    /// It cannot be opened; the old file is kept.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        if let Some(path) = &self.path {
            self.file = Some(append_to(path)?);
            self.torn = false;
        }
        Ok(())
    }

    /// Writes lines, each with its end.
    ///
    /// # Errors
    ///
    /// How many of the lines are lost, wholly or in part, and why.
    pub(super) fn write(&mut self, lines: &[u8]) -> Result<(), (u64, io::Error)> {
        let Some(file) = &mut self.file else {
            return Ok(());
        };
        let mut rest = lines;
        let error = loop {
            // What was torn off stays a line of its own and does not spoil the next one.
            let next = if self.torn { b"\n" } else { rest };
            if next.is_empty() {
                return Ok(());
            }
            match file.write(next) {
                Ok(0) => break ErrorKind::WriteZero.into(),
                Ok(_) if self.torn => self.torn = false,
                Ok(count) => rest = rest.get(count..).unwrap_or_default(),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => break error,
            }
        };
        let written = lines.len() - rest.len();
        self.torn |= written > 0 && lines.get(written - 1) != Some(&b'\n');
        let lost = rest.iter().filter(|&&byte| byte == b'\n').count();
        Err((lost as u64, error))
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(MODE)
        .open(path)
}

#[cfg(test)]
pub(super) fn of_file(file: File) -> Sink {
    Sink {
        file: Some(file),
        ..Sink::default()
    }
}
