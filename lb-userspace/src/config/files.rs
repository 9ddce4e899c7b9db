//! The files that a configuration names: there, readable and of the right kind.

use std::{fs, io::Read, path::Path, time::SystemTime};

use super::{
    keys::{CertificatePlaces, FileKind, Report},
    model::CertificateFiles,
};
use crate::tls::{CertificatePart, read_certificate};

/// Longest certificate or key file that is looked into, in bytes.
const FILE_BYTES: u64 = 16 << 20;

/// Notes a fault for each noted file that cannot be used, and a warning for each certificate that
/// clients will not take.
pub(super) fn check(report: &Report) {
    for (place, path, kind) in report.files() {
        if let Err(message) = check_file(&path, kind) {
            report.fault(&place, message);
        }
    }
    for (places, files) in report.certificates() {
        check_certificate(report, &places, &files);
    }
}

fn check_file(path: &Path, kind: FileKind) -> Result<(), String> {
    let content = read_named(path)?;
    let mark = b"-----BEGIN CERTIFICATE-----";
    let has_mark = || content.windows(mark.len()).any(|window| window == mark);
    match kind {
        FileKind::Certificates if !has_mark() => Err(format!(
            "{} holds no certificate; name a PEM file with \"BEGIN CERTIFICATE\"",
            quoted_path(path)
        )),
        FileKind::Certificates | FileKind::Any => Ok(()),
    }
}

fn check_certificate(report: &Report, places: &CertificatePlaces, files: &CertificateFiles) {
    match read_certificate(files) {
        Ok(identity) => {
            if let Some(warning) = identity.info.warning(SystemTime::now()) {
                let file = quoted_path(&files.certificate);
                report.warn(&places.certificate, format!("{file} {warning}"));
            }
        }
        Err(error) => {
            let place = match error.part {
                CertificatePart::Certificate => &places.certificate,
                CertificatePart::Key => &places.key,
                CertificatePart::PasswordFile => &places.password_file,
            };
            report.fault(place, error.message);
        }
    }
}

/// Returns the content of a file that the configuration names.
///
/// # Errors
///
/// What is wrong with the file, and what to do.
pub(crate) fn read_named(path: &Path) -> Result<Vec<u8>, String> {
    let shown = quoted_path(path);
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
    Ok(content)
}

/// Returns a path as messages show it: whole, with control characters made visible.
pub(crate) fn quoted_path(path: &Path) -> String {
    format!("\"{}\"", path.to_string_lossy().escape_debug())
}
