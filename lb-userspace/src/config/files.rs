//! The files that a configuration names: there, readable and of the right kind.

use std::{fs, io::Read, path::Path};

use super::{
    convert::quoted,
    keys::{FileKind, Report},
};

/// Longest certificate or key file that is looked into, in bytes.
const FILE_BYTES: u64 = 16 << 20;

/// Notes a fault for each noted file that cannot be used.
pub(super) fn check(report: &Report) {
    for (place, path, kind) in report.files() {
        if let Err(message) = check_file(&path, kind) {
            report.fault(&place, message);
        }
    }
}

fn check_file(path: &Path, kind: FileKind) -> Result<(), String> {
    let shown = quoted(&path.to_string_lossy());
    let unreadable =
        |error| format!("cannot read {shown} ({error}); check the path and its permissions");
    // Asked first: opening a FIFO would wait for a writer.
    if !fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(format!("{shown} is not a file; name a file"));
    }
    let mut content = Vec::new();
    let file = fs::File::open(path).map_err(unreadable)?;
    file.take(FILE_BYTES)
        .read_to_end(&mut content)
        .map_err(unreadable)?;
    let has = |mark: &str| {
        content
            .windows(mark.len())
            .any(|window| window == mark.as_bytes())
    };
    match kind {
        FileKind::Certificates if !has("-----BEGIN CERTIFICATE-----") => Err(format!(
            "{shown} holds no certificate; name a PEM file with \"BEGIN CERTIFICATE\""
        )),
        FileKind::PrivateKey if !has("PRIVATE KEY-----") => Err(format!(
            "{shown} holds no private key; name a PEM file with \"BEGIN PRIVATE KEY\""
        )),
        FileKind::Certificates | FileKind::PrivateKey | FileKind::Any => Ok(()),
    }
}
