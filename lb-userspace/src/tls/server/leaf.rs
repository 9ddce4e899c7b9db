//! What a certificate says: its names, its time, its key and its issuer (RFC 5280 section 4.1).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::CertificateDer;
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer as _};

/// 9999-12-31T23:59:59Z in seconds since 1970: "no end" (RFC 5280 section 4.1.2.5).
const LATEST: i64 = 253_402_300_799;

/// One certificate that can be read.
pub(super) struct Leaf<'a> {
    /// As it stands in the file.
    pub(super) der: &'a CertificateDer<'static>,
    parsed: X509Certificate<'a>,
}

impl<'a> Leaf<'a> {
    /// Reads `der`; `None` if it is no certificate.
    pub(super) fn read(der: &'a CertificateDer<'static>) -> Option<Self> {
        let (rest, parsed) = X509Certificate::from_der(der).ok()?;
        rest.is_empty().then_some(Self { der, parsed })
    }

    /// Returns the DNS names in lower case: of the alternative names, else the common name.
    pub(super) fn names(&self) -> Vec<String> {
        let mut names = match self.parsed.subject_alternative_name() {
            Ok(Some(extension)) => dns_names(&extension.value.general_names),
            // RFC 6125 section 6.4.4: the common name counts only where nothing else names the host.
            Ok(None) => self.common_name().into_iter().collect(),
            Err(_) => Vec::new(),
        };
        let mut seen = std::collections::HashSet::new();
        names.retain(|name| seen.insert(name.clone()));
        names
    }

    fn common_name(&self) -> Option<String> {
        let name = self.parsed.subject().iter_common_name().last()?;
        host_name(name.as_str().ok()?)
    }

    /// Returns when it begins to be valid.
    pub(super) fn not_before(&self) -> SystemTime {
        time(self.parsed.validity().not_before.timestamp())
    }

    /// Returns when it stops being valid.
    pub(super) fn not_after(&self) -> SystemTime {
        time(self.parsed.validity().not_after.timestamp())
    }

    /// Returns the DER of its `SubjectPublicKeyInfo`.
    pub(super) fn key(&self) -> &[u8] {
        self.parsed.public_key().raw
    }

    fn issued(&self, other: &Self) -> bool {
        self.parsed.subject().as_raw() == other.parsed.issuer().as_raw()
    }

    /// Whether it vouches for itself. Clients have such a certificate or do not trust it, so it is
    /// not sent (RFC 8446 section 4.4.2).
    fn is_root(&self) -> bool {
        self.issued(self)
    }
}

/// Returns the chain that begins with `leaf`: each certificate is followed by its issuer's, as
/// RFC 5246 section 7.4.2 asks. What belongs to no chain, and the root, are left out.
pub(super) fn chain(leaf: &Leaf<'_>, all: &[Leaf<'_>]) -> Vec<CertificateDer<'static>> {
    let mut chain = vec![leaf.der.clone()];
    let mut last = leaf;
    while !last.is_root()
        && let Some(issuer) = all
            .iter()
            .find(|other| !other.is_root() && other.issued(last) && !chain.contains(other.der))
    {
        chain.push(issuer.der.clone());
        last = issuer;
    }
    chain
}

fn dns_names(names: &[GeneralName<'_>]) -> Vec<String> {
    names
        .iter()
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => host_name(name),
            _ => None,
        })
        .collect()
}

/// Returns a name that SNI can have (RFC 6066 section 3: ASCII, no dot at the end) in lower case,
/// or a wildcard of such.
fn host_name(name: &str) -> Option<String> {
    let host = name.strip_prefix("*.").unwrap_or(name);
    let usable = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (host.contains(char::is_alphabetic) && host.chars().all(usable) && !host.ends_with('.'))
        .then(|| name.to_ascii_lowercase())
}

/// Returns a time; one beyond what a calendar shows is moved to its end.
fn time(seconds: i64) -> SystemTime {
    let seconds = u64::try_from(seconds.min(LATEST)).unwrap_or(0);
    UNIX_EPOCH + Duration::from_secs(seconds)
}
