//! TLS on both sides.
//!
//! Towards clients, [`ServerTls`] holds a service's certificates. Towards backends, it is about whom
//! to trust, and what to say when the trust fails: a backend's certificate is judged by the system's roots, by a CA file, by its key alone, or not
//! at all ([`Trust`]). [`ClientTls`] turns that into a configuration of rustls and builds a new one
//! when the CA file changes.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod key;
mod server;
mod verify;
mod words;

use std::{
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use rustls::{
    ClientConfig, RootCertStore,
    client::{Resumption, WebPkiServerVerifier, danger::ServerCertVerifier},
    crypto::CryptoProvider,
    pki_types::{CertificateDer, pem::PemObject},
};

pub use self::{
    key::{KeyError, pin_of, pin_text},
    server::{CertificateError, CertificateInfo, CertificatePart, ServerTls},
    words::describe,
};
pub(crate) use self::{server::read as read_certificate, words::printable};
use crate::config::model::{Pin, Verify};

/// Whom to trust at the other end of a connection to a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// A certificate that the system's roots vouch for, with the right name.
    System,
    /// A certificate that one of this PEM file vouches for, with the right name.
    Ca(PathBuf),
    /// Whoever proves to hold one of these keys; the rest of the certificate does not matter.
    Keys(Vec<Pin>),
    /// Anybody.
    Anybody,
}

impl Trust {
    /// Returns the trust that the configuration asks for; `own` is the backend's own pin, which
    /// stands beside the common ones.
    #[must_use]
    pub fn new(verify: &Verify, own: Option<Pin>) -> Self {
        match verify {
            Verify::System => Self::System,
            Verify::Ca(path) => Self::Ca(path.clone()),
            Verify::Pin(pins) => Self::Keys(own.iter().chain(pins).copied().collect()),
            Verify::None => Self::Anybody,
        }
    }
}

/// Why no configuration can be built. The cause is on this machine, not at the backend.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// The CA file cannot be read.
    #[error("cannot read the CA file {path}: {detail}; put a PEM file there or name another one")]
    CaUnreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        detail: String,
    },
    /// The CA file has nothing in it that can be used.
    #[error(
        "the CA file {path} holds no usable certificate; it must be PEM, beginning with \
             -----BEGIN CERTIFICATE-----"
    )]
    CaEmpty {
        /// The file.
        path: PathBuf,
    },
    /// The system has no roots.
    #[error(
        "the system has no root certificates ({detail}); install ca-certificates, or set \
             verify = \"ca\" or \"pin\""
    )]
    NoSystemRoots {
        /// What was found instead.
        detail: String,
    },
    /// Keys are to be compared, and there is none.
    #[error("verify = \"pin\" has no key to compare with; set the backend's pin, or pins")]
    NoPins,
    /// rustls refuses what was put together.
    #[error("TLS cannot be set up: {0}")]
    Refused(String),
}

/// The roots of the system, read once for all that need them. They change with a restart.
#[derive(Debug, Default)]
pub struct SystemRoots(Mutex<Option<Arc<RootCertStore>>>);

impl SystemRoots {
    /// Returns the roots; reads files the first time.
    fn load(&self) -> Result<Arc<RootCertStore>, TrustError> {
        let mut loaded = lock(&self.0);
        if let Some(roots) = &*loaded {
            return Ok(Arc::clone(roots));
        }
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            let detail = found
                .errors
                .first()
                .map_or_else(|| String::from("none found"), ToString::to_string);
            return Err(TrustError::NoSystemRoots { detail });
        }
        Ok(Arc::clone(loaded.insert(Arc::new(roots))))
    }
}

/// The client's side of TLS towards one backend for one purpose.
///
/// Each generation of trust has a configuration, and so a verifier and a session store, of its own:
/// a session that was made under older trust is never resumed under newer trust.
#[derive(Debug)]
pub struct ClientTls {
    trust: Trust,
    system: Arc<SystemRoots>,
    alpn: Vec<Vec<u8>>,
    resume: bool,
    built: Mutex<Option<Built>>,
}

/// One generation: what the CA file looked like, and the configuration made from it.
#[derive(Debug)]
struct Built {
    seen: Option<FileStamp>,
    config: Arc<ClientConfig>,
}

/// What tells one version of a file from another without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileStamp {
    modified: Option<SystemTime>,
    length: u64,
    inode: u64,
}

impl FileStamp {
    /// Looks at a file, or at what a link leads to; `None` if nothing is there.
    fn of(path: &Path) -> Option<Self> {
        let metadata = std::fs::metadata(path).ok()?;
        Some(Self {
            modified: metadata.modified().ok(),
            length: metadata.len(),
            inode: metadata.ino(),
        })
    }
}

impl ClientTls {
    /// Makes the client's side. `alpn` lists the protocols to offer, the preferred one first;
    /// without `resume` each connection makes the whole handshake.
    #[must_use]
    pub fn new(trust: Trust, system: Arc<SystemRoots>, alpn: &[&str], resume: bool) -> Self {
        Self {
            trust,
            system,
            alpn: alpn.iter().map(|name| name.as_bytes().to_vec()).collect(),
            resume,
            built: Mutex::new(None),
        }
    }

    /// Returns whom this side trusts.
    #[must_use]
    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    /// Returns the configuration of the present generation; reads the CA file the first time and
    /// when it has changed, so it may block.
    ///
    /// A changed CA file that cannot be used leaves the last generation in force, with a warning.
    ///
    /// # Errors
    ///
    /// [`TrustError`], until the first configuration could be built.
    pub fn config(&self) -> Result<Arc<ClientConfig>, TrustError> {
        let seen = self.stamp();
        let mut built = lock(&self.built);
        if let Some(built) = &*built
            && built.seen == seen
        {
            return Ok(Arc::clone(&built.config));
        }
        match (self.build(), &mut *built) {
            (Ok(config), slot) => {
                let config = Arc::new(config);
                *slot = Some(Built {
                    seen,
                    config: Arc::clone(&config),
                });
                Ok(config)
            }
            (Err(error), Some(last)) => {
                tracing::warn!(%error, "the last usable CA certificates stay in force");
                last.seen = seen;
                Ok(Arc::clone(&last.config))
            }
            (Err(error), None) => Err(error),
        }
    }

    fn stamp(&self) -> Option<FileStamp> {
        let Trust::Ca(path) = &self.trust else {
            return None;
        };
        FileStamp::of(path)
    }

    fn build(&self) -> Result<ClientConfig, TrustError> {
        let provider = provider();
        let verifier = self.verifier(&provider)?;
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| TrustError::Refused(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        config.alpn_protocols.clone_from(&self.alpn);
        if !self.resume {
            config.resumption = Resumption::disabled();
        }
        Ok(config)
    }

    fn verifier(
        &self,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Arc<dyn ServerCertVerifier>, TrustError> {
        let roots = match &self.trust {
            Trust::System => self.system.load()?,
            Trust::Ca(path) => Arc::new(read_roots(path)?),
            Trust::Keys(pins) if pins.is_empty() => return Err(TrustError::NoPins),
            Trust::Keys(pins) => {
                return Ok(Arc::new(verify::PinnedKeys::new(pins.clone(), provider)));
            }
            Trust::Anybody => return Ok(Arc::new(verify::Anybody::new(provider))),
        };
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(provider))
            .build()
            .map_err(|error| TrustError::Refused(error.to_string()))?;
        Ok(verifier)
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn read_roots(path: &Path) -> Result<RootCertStore, TrustError> {
    let pem = std::fs::read(path).map_err(|error| TrustError::CaUnreadable {
        path: path.to_owned(),
        detail: error.to_string(),
    })?;
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok));
    if roots.is_empty() {
        return Err(TrustError::CaEmpty {
            path: path.to_owned(),
        });
    }
    Ok(roots)
}

/// A panic while one of these locks was held leaves nothing half done: each value is replaced whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[expect(
    clippy::unwrap_used,
    reason = "a test may panic where its set-up fails"
)]
pub(crate) mod testing;
#[cfg(test)]
#[expect(
    clippy::unwrap_used,
    reason = "a test may panic where its set-up fails"
)]
mod tests;
