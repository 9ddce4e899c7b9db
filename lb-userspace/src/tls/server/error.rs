//! Why a certificate cannot be used.

/// Which of a certificate's keys in the configuration names what is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificatePart {
    /// `certificate`.
    Certificate,
    /// `key`.
    Key,
    /// `password_file`.
    PasswordFile,
}

/// A certificate, its key or its password that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct CertificateError {
    /// Where the fault is.
    pub part: CertificatePart,
    /// The file, what is wrong with it and what to do.
    pub message: String,
}

impl CertificateError {
    pub(super) fn new(part: CertificatePart, message: String) -> Self {
        Self { part, message }
    }

    /// rustls refuses what has nothing to do with the files.
    pub(super) fn setup(error: &rustls::Error) -> Self {
        let message = format!("TLS cannot be set up: {error}");
        Self::new(CertificatePart::Certificate, message)
    }
}
