//! PFX files (PKCS #12, RFC 7292), as Windows exports certificates.

use p12_keystore::{Pkcs12Archive, error::Error};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// The keys and certificates of a PFX, in the file's order.
pub(super) struct Pfx {
    pub(super) certificates: Vec<CertificateDer<'static>>,
    pub(super) keys: Vec<PrivateKeyDer<'static>>,
}

/// Why a PFX cannot be read.
pub(super) enum PfxError {
    /// The password does not fit.
    Password,
    /// Anything else, in words.
    Other(String),
}

/// Reads a PFX.
pub(super) fn read(content: &[u8], password: &str) -> Result<Pfx, PfxError> {
    let archive = Pkcs12Archive::from_pkcs12(content, password).map_err(|error| match error {
        // The first comes with a checksum of the file, the others where it has none.
        Error::MacError(_) | Error::UnpadError | Error::Pkcs5Error(_) => PfxError::Password,
        other => PfxError::Other(other.to_string()),
    })?;
    let certificates = archive.certs.iter().map(|bag| bag.cert.as_der().to_vec());
    let keys = archive.keys.iter().map(|bag| bag.key.as_der().to_vec());
    Ok(Pfx {
        certificates: certificates.map(CertificateDer::from).collect(),
        keys: keys
            .map(|key| PrivatePkcs8KeyDer::from(key).into())
            .collect(),
    })
}
