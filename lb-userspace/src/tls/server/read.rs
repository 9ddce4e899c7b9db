//! From the files of a certificate to what rustls signs with.

use std::{path::Path, sync::Arc};

use rustls::{
    SignatureAlgorithm,
    crypto::aws_lc_rs::sign::any_supported_type,
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject},
    sign::{CertifiedKey, SigningKey},
};

use super::{
    CertificateInfo,
    error::{
        CertificateError,
        CertificatePart::{self, Certificate, Key, PasswordFile},
    },
    leaf::{self, Leaf},
    pfx::{self, PfxError},
};
use crate::config::{model::CertificateFiles, quoted_path, read_named};

/// A certificate with its chain and key, and what it is for.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) info: CertificateInfo,
    pub(super) certified: Arc<CertifiedKey>,
}

/// What the files hold, before it is judged.
struct Material {
    certificates: Vec<CertificateDer<'static>>,
    /// At least one.
    keys: Vec<PrivateKeyDer<'static>>,
    /// Where the keys stand.
    part: CertificatePart,
}

/// Reads the files of one certificate, so it may block.
///
/// # Errors
///
/// [`CertificateError`] for what cannot be used. A certificate outside its time can.
pub(crate) fn read(files: &CertificateFiles) -> Result<Identity, CertificateError> {
    read_from(files, &|part, path| {
        read_named(path).map_err(|message| CertificateError::new(part, message))
    })
}

/// Where the content of a file is taken from.
pub(super) type Source<'a> =
    &'a dyn Fn(CertificatePart, &Path) -> Result<Vec<u8>, CertificateError>;

/// The same with files that `source` has.
pub(super) fn read_from(
    files: &CertificateFiles,
    source: Source<'_>,
) -> Result<Identity, CertificateError> {
    let content = source(Certificate, &files.certificate)?;
    let material = match content.first() {
        // The tag of a SEQUENCE: every DER file begins with it, and no PEM file does.
        Some(0x30) => from_pfx(files, &content, source)?,
        _ => from_pem(files, &content, source)?,
    };
    identity(files, &material)
}

fn from_pem(
    files: &CertificateFiles,
    content: &[u8],
    source: Source<'_>,
) -> Result<Material, CertificateError> {
    let file = quoted_path(&files.certificate);
    if files.password_file.is_some() {
        let message = format!("{file} is PEM, which has no password; remove it and name the key");
        return Err(CertificateError::new(PasswordFile, message));
    }
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(content)
        .collect::<Result<_, _>>()
        .map_err(|error| CertificateError::new(Certificate, not_pem(&file, &error)))?;
    if certificates.is_empty() {
        let message = format!(
            "{file} holds no certificate; name a PEM file with \"BEGIN CERTIFICATE\", or a PFX"
        );
        return Err(CertificateError::new(Certificate, message));
    }
    let keys = match &files.key {
        Some(path) => keys(&quoted_path(path), &source(Key, path)?)?,
        None => keys(&file, content)?,
    };
    if keys.is_empty() {
        let message = match &files.key {
            Some(path) => format!(
                "{} holds no private key; name a PEM file with \"BEGIN PRIVATE KEY\"",
                quoted_path(path)
            ),
            None => {
                format!("is missing, and {file} holds no private key; name the file with it (PEM)")
            }
        };
        return Err(CertificateError::new(Key, message));
    }
    Ok(Material {
        certificates,
        keys,
        part: Key,
    })
}

/// Returns the private keys of a PEM file, which are in the clear.
fn keys(file: &str, content: &[u8]) -> Result<Vec<PrivateKeyDer<'static>>, CertificateError> {
    // The label of PKCS #8 (RFC 7468 section 11), and the header of the older form (RFC 1421
    // section 4.6.1.1).
    let has = |mark: &[u8]| content.windows(mark.len()).any(|window| window == mark);
    if has(b"BEGIN ENCRYPTED PRIVATE KEY") || has(b"Proc-Type: 4,ENCRYPTED") {
        let message = format!(
            "the private key in {file} is encrypted, and nobody is there to type its password; \
             write it in the clear with `openssl pkey`, readable by vipd alone"
        );
        return Err(CertificateError::new(Key, message));
    }
    PrivateKeyDer::pem_slice_iter(content)
        .collect::<Result<_, _>>()
        .map_err(|error| CertificateError::new(Key, not_pem(file, &error)))
}

fn not_pem(file: &str, error: &pem::Error) -> String {
    let detail = match error {
        pem::Error::MissingSectionEnd { .. } => "a section has no end".to_owned(),
        pem::Error::IllegalSectionStart { .. } => "a section's first line is cut".to_owned(),
        other => other.to_string(),
    };
    format!("{file} is damaged PEM ({detail}); copy it again")
}

fn from_pfx(
    files: &CertificateFiles,
    content: &[u8],
    source: Source<'_>,
) -> Result<Material, CertificateError> {
    let file = quoted_path(&files.certificate);
    let fault = |part, message| Err(CertificateError::new(part, message));
    if Leaf::read(&CertificateDer::from(content.to_vec())).is_some() {
        let message = format!(
            "{file} is a certificate in DER; write it as PEM with `openssl x509 -inform der`"
        );
        return fault(Certificate, message);
    }
    if files.key.is_some() {
        let message = format!("{file} is a PFX, which holds its key; remove key");
        return fault(Key, message);
    }
    let password = match &files.password_file {
        Some(path) => password(path, &source(PasswordFile, path)?)?,
        None => String::new(),
    };
    let pfx = match pfx::read(content, &password) {
        Ok(pfx) => pfx,
        Err(PfxError::Password) => {
            let message = match &files.password_file {
                Some(path) => format!(
                    "the password in {} does not open {file}; write it on the first line",
                    quoted_path(path)
                ),
                None => format!(
                    "is missing, and {file} opens with a password only; name a file with it"
                ),
            };
            return fault(PasswordFile, message);
        }
        Err(PfxError::Other(detail)) => {
            let message = format!(
                "{file} is no PFX that can be read ({detail}); export it anew with its private \
                 key, or name a PEM file"
            );
            return fault(Certificate, message);
        }
    };
    for (what, missing) in [
        ("certificate", pfx.certificates.is_empty()),
        ("private key", pfx.keys.is_empty()),
    ] {
        if missing {
            let message = format!("{file} holds no {what}; export it with its private key");
            return fault(Certificate, message);
        }
    }
    Ok(Material {
        certificates: pfx.certificates,
        keys: pfx.keys,
        part: Certificate,
    })
}

/// Returns the first line of a password file, as an editor of any system may have left it.
fn password(path: &Path, content: &[u8]) -> Result<String, CertificateError> {
    let text = str::from_utf8(content).map_err(|_| {
        let message = format!("{} is not UTF-8; save it as text", quoted_path(path));
        CertificateError::new(PasswordFile, message)
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

/// Finds the key and the certificate that belong together, and puts the chain behind them.
fn identity(files: &CertificateFiles, material: &Material) -> Result<Identity, CertificateError> {
    let all = material
        .certificates
        .iter()
        .zip(1..)
        .map(|(der, number)| {
            Leaf::read(der).ok_or_else(|| {
                let file = quoted_path(&files.certificate);
                let message =
                    format!("certificate {number} in {file} cannot be read; issue it anew");
                CertificateError::new(Certificate, message)
            })
        })
        .collect::<Result<Vec<_>, _>>()?;
    let key_file = files.key.as_ref().unwrap_or(&files.certificate);
    let signers = material
        .keys
        .iter()
        .map(|key| {
            any_supported_type(key).map_err(|_| {
                let message = format!(
                    "the private key in {} is of a kind that cannot be used; make an RSA key of \
                     2048 bits or more, or an ECDSA key on P-256, P-384 or P-521",
                    quoted_path(key_file)
                );
                CertificateError::new(material.part, message)
            })
        })
        .collect::<Result<Vec<_>, _>>()?;
    let pair = all.iter().find_map(|leaf| {
        let signer = signers
            .iter()
            .find(|signer| belongs(signer.as_ref(), leaf))?;
        Some((leaf, Arc::clone(signer)))
    });
    let Some((leaf, signer)) = pair else {
        let message = format!(
            "the private key in {} does not belong to the certificate in {}; name the key that \
             the certificate was issued for",
            quoted_path(key_file),
            quoted_path(&files.certificate)
        );
        return Err(CertificateError::new(material.part, message));
    };
    Ok(Identity {
        info: CertificateInfo {
            file: files.certificate.clone(),
            names: leaf.names(),
            key: kind(signer.algorithm()),
            not_before: leaf.not_before(),
            not_after: leaf.not_after(),
        },
        certified: Arc::new(CertifiedKey::new(leaf::chain(leaf, &all), signer)),
    })
}

/// The same comparison as [`CertifiedKey::keys_match`], which refuses certificates of version 1 and
/// authorities before it comes to the key.
fn belongs(signer: &dyn SigningKey, leaf: &Leaf<'_>) -> bool {
    signer
        .public_key()
        .is_some_and(|key| key.as_ref() == leaf.key())
}

fn kind(algorithm: SignatureAlgorithm) -> &'static str {
    match algorithm {
        SignatureAlgorithm::RSA => "RSA",
        SignatureAlgorithm::ECDSA => "ECDSA",
        SignatureAlgorithm::ED25519 => "Ed25519",
        _ => "other",
    }
}
