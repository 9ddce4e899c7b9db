//! TLS towards clients: which certificate they are shown, and with what.
//!
//! [`ServerTls::open`] reads a service's certificates. The way of a handshake: rustls asks the
//! [`choose::Resolver`] with the client's SNI (RFC 6066 section 3) and signature schemes, and the
//! resolver looks into the set that is in force. [`ServerTls::refresh`] puts another set in force
//! without a new configuration, so that connections stay and tickets stay valid.
//!
//! A ticket is resumed only under the name that it was given for: rustls keeps the SNI inside the
//! ticket and compares it.

mod choose;
mod error;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod leaf;
mod pfx;
mod read;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use rustls::{
    ServerConfig, SupportedProtocolVersion,
    crypto::aws_lc_rs::Ticketer,
    server::{NoServerSessionStorage, ProducesTickets},
    version::{TLS12, TLS13},
};

pub use self::error::{CertificateError, CertificatePart};
pub(crate) use self::read::read;
use self::{
    choose::{Certificates, Resolver},
    read::Identity,
};
use super::{FileStamp, lock, provider};
use crate::{
    config::model::{CertificateFiles, Tls, TlsVersion},
    telemetry::rfc3339,
};

const HTTP_1_1: &[u8] = b"http/1.1";
const HTTP_2: &[u8] = b"h2";

/// What a service shows to its clients: certificates by SNI, versions, ALPN, tickets.
#[derive(Debug)]
pub struct ServerTls {
    files: Vec<CertificateFiles>,
    resolver: Arc<Resolver>,
    config: Arc<ServerConfig>,
    config_http1: Arc<ServerConfig>,
    /// What the files looked like when they were last read.
    seen: Mutex<Vec<Option<FileStamp>>>,
}

impl ServerTls {
    /// Reads the files of `tls`, so it may block.
    ///
    /// # Errors
    ///
    /// The first fault of the files.
    pub fn open(tls: &Tls) -> Result<Self, CertificateError> {
        let files = tls.certificates.clone();
        // Taken before the files are read: a change in between is seen by the next refresh.
        let seen = stamps(&files);
        let certificates = Certificates::new(read_all(&files)?);
        let resolver = Arc::new(Resolver::new(certificates, tls.refuse_unknown_name));
        let ticketer = Ticketer::new().map_err(|error| CertificateError::setup(&error))?;
        let config = |alpn: &[&[u8]]| config(tls.min_version, alpn, &resolver, &ticketer);
        let config_http1 = Arc::new(config(&[HTTP_1_1])?);
        let config = match tls.http2 {
            true => Arc::new(config(&[HTTP_2, HTTP_1_1])?),
            false => Arc::clone(&config_http1),
        };
        Ok(Self {
            files,
            resolver,
            config,
            config_http1,
            seen: Mutex::new(seen),
        })
    }

    /// Reads the files again if they have changed, so it may block; returns whether other
    /// certificates are in force now.
    ///
    /// # Errors
    ///
    /// The first fault of a set that has changed, once for each change; the former set stays in
    /// force.
    pub fn refresh(&self) -> Result<bool, CertificateError> {
        let mut seen = lock(&self.seen);
        let now = stamps(&self.files);
        if *seen == now {
            return Ok(false);
        }
        *seen = now;
        let certificates = Certificates::new(read_all(&self.files)?);
        Ok(self.resolver.replace(certificates))
    }

    /// Returns the configuration with HTTP/2 in ALPN if the service has it, else as
    /// [`Self::config_http1`].
    #[must_use]
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }

    /// Returns the configuration that offers HTTP/1.1 only, for a client that must not use HTTP/2.
    #[must_use]
    pub fn config_http1(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config_http1)
    }

    /// Returns what each certificate in force is for and until when, in the configuration's order.
    #[must_use]
    pub fn certificates(&self) -> Vec<CertificateInfo> {
        self.resolver.infos()
    }
}

/// What one certificate is for and until when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateInfo {
    /// The file that it was read from.
    pub file: PathBuf,
    /// DNS names in lower case; one that begins with `*.` stands for one label.
    pub names: Vec<String>,
    /// Kind of its key, such as `ECDSA`.
    pub key: &'static str,
    /// When it begins to be valid.
    pub not_before: SystemTime,
    /// When it stops being valid.
    pub not_after: SystemTime,
}

/// A certificate with fewer days left is warned of.
const WARNING_DAYS: i64 = 30;

impl CertificateInfo {
    /// Returns what is wrong with the certificate at the time `now`, although it is used.
    #[must_use]
    pub fn warning(&self, now: SystemTime) -> Option<String> {
        if now > self.not_after {
            let since = rfc3339(self.not_after);
            return Some(format!(
                "expired at {since}, so clients refuse it; renew it"
            ));
        }
        if now < self.not_before {
            let from = rfc3339(self.not_before);
            return Some(format!(
                "is not valid before {from}, so clients refuse it; check this machine's clock"
            ));
        }
        if self.names.is_empty() {
            return Some(String::from(
                "names no host, so clients refuse it; issue it with a subjectAltName",
            ));
        }
        let days = self.days_left(now);
        (days < WARNING_DAYS).then(|| {
            let until = rfc3339(self.not_after);
            format!("runs out in {days} days, at {until}; renew it")
        })
    }

    /// Returns the whole days until it runs out, below zero once it has.
    #[must_use]
    pub fn days_left(&self, now: SystemTime) -> i64 {
        const DAY_S: u64 = 86_400;
        let days = |span: Duration| i64::try_from(span.as_secs() / DAY_S).unwrap_or(i64::MAX);
        match self.not_after.duration_since(now) {
            Ok(left) => days(left),
            Err(error) => -1 - days(error.duration()),
        }
    }
}

fn config(
    min_version: TlsVersion,
    alpn: &[&[u8]],
    resolver: &Arc<Resolver>,
    ticketer: &Arc<dyn ProducesTickets>,
) -> Result<ServerConfig, CertificateError> {
    let versions: &[&SupportedProtocolVersion] = match min_version {
        TlsVersion::Tls12 => &[&TLS13, &TLS12],
        TlsVersion::Tls13 => &[&TLS13],
    };
    let resolver = Arc::clone(resolver);
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .map_err(|error| CertificateError::setup(&error))?
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    // Tickets hold the whole session: a cache beside them would put all handshakes behind one lock.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = Arc::clone(ticketer);
    config.send_tls13_tickets = 1;
    // Early data may be replayed (RFC 8446 section 8), and requests must not be.
    config.max_early_data_size = 0;
    Ok(config)
}

fn read_all(files: &[CertificateFiles]) -> Result<Vec<Identity>, CertificateError> {
    files.iter().map(read).collect()
}

fn stamps(files: &[CertificateFiles]) -> Vec<Option<FileStamp>> {
    files
        .iter()
        .flat_map(|files| {
            let named = [&files.key, &files.password_file];
            std::iter::once(&files.certificate).chain(named.into_iter().flatten())
        })
        .map(|path| FileStamp::of(path))
        .collect()
}

#[cfg(test)]
#[expect(
    clippy::unwrap_used,
    reason = "a test may panic where its set-up fails"
)]
mod tests;
