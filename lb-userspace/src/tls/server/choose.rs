//! The certificate for a client: by name, then by what the client can verify.

use std::{collections::HashMap, sync::Arc};

use arc_swap::ArcSwap;
use rustls::{
    SignatureAlgorithm, SignatureScheme,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use super::{CertificateInfo, read::Identity};

/// Certificates for the same name; the first one that the client can verify is shown.
type Candidates = Vec<Arc<CertifiedKey>>;

/// A set of certificates, ready to choose from.
#[derive(Debug, Default)]
pub(super) struct Certificates {
    infos: Vec<CertificateInfo>,
    all: Candidates,
    exact: HashMap<String, Candidates>,
    /// By what follows the first label: `x.example` for `*.x.example`.
    wildcard: HashMap<String, Candidates>,
    /// For a client that names nobody, or nobody known.
    default: Candidates,
}

impl Certificates {
    pub(super) fn new(identities: Vec<Identity>) -> Self {
        let mut set = Self::default();
        let default_names = identities.first().map(|first| sorted(&first.info.names));
        for Identity { info, certified } in identities {
            for name in &info.names {
                let (names, name) = match name.strip_prefix("*.") {
                    Some(parent) => (&mut set.wildcard, parent),
                    None => (&mut set.exact, name.as_str()),
                };
                let candidates = names.entry(name.to_owned()).or_default();
                add(candidates, &certified);
            }
            if default_names.as_ref() == Some(&sorted(&info.names)) {
                add(&mut set.default, &certified);
            }
            set.all.push(certified);
            set.infos.push(info);
        }
        set
    }

    /// Returns the certificate for `name` (lower case), an exact name before a wildcard.
    fn named(&self, name: &str, schemes: &[SignatureScheme]) -> Option<&Arc<CertifiedKey>> {
        let exact = self.exact.get(name);
        let wildcard = name
            .split_once('.')
            .and_then(|(_, parent)| self.wildcard.get(parent));
        // RFC 9525 section 6.3: a wildcard stands for one whole label.
        choose(exact.into_iter().chain(wildcard).flatten(), schemes)
    }
}

/// Puts ECDSA first, since its signatures cost the server far less, and otherwise keeps the
/// configuration's order.
fn add(candidates: &mut Candidates, certified: &Arc<CertifiedKey>) {
    candidates.push(Arc::clone(certified));
    candidates.sort_by_key(|candidate| candidate.key.algorithm() == SignatureAlgorithm::RSA);
}

fn sorted(names: &[String]) -> Vec<String> {
    let mut names = names.to_vec();
    names.sort_unstable();
    names
}

/// Returns the first certificate that can be signed with as the client asks; if there is none, the
/// first of all, so that rustls says what the client lacks.
fn choose<'a>(
    mut candidates: impl Iterator<Item = &'a Arc<CertifiedKey>> + Clone,
    schemes: &[SignatureScheme],
) -> Option<&'a Arc<CertifiedKey>> {
    candidates
        .clone()
        .find(|candidate| candidate.key.choose_scheme(schemes).is_some())
        .or_else(|| candidates.next())
}

/// What rustls asks; the set inside can be replaced at any time.
#[derive(Debug)]
pub(super) struct Resolver {
    certificates: ArcSwap<Certificates>,
    refuse_unknown_name: bool,
}

impl Resolver {
    pub(super) fn new(certificates: Certificates, refuse_unknown_name: bool) -> Self {
        Self {
            certificates: ArcSwap::from_pointee(certificates),
            refuse_unknown_name,
        }
    }

    /// Puts `certificates` in force; returns whether they are others than before.
    pub(super) fn replace(&self, certificates: Certificates) -> bool {
        let chains =
            |set: &Certificates| -> Vec<_> { set.all.iter().map(|one| one.cert.clone()).collect() };
        let new = chains(&certificates);
        let before = self.certificates.swap(Arc::new(certificates));
        chains(&before) != new
    }

    pub(super) fn infos(&self) -> Vec<CertificateInfo> {
        self.certificates.load().infos.clone()
    }

    /// Returns the certificate for a client with this SNI (lower case) and these schemes.
    pub(super) fn certificate(
        &self,
        name: Option<&str>,
        schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        let certificates = self.certificates.load();
        let named = name.and_then(|name| certificates.named(name, schemes));
        let chosen = match self.refuse_unknown_name {
            true => named,
            false => named.or_else(|| choose(certificates.default.iter(), schemes)),
        };
        chosen.map(Arc::clone)
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // rustls has put the name into lower case, and taken away schemes that go with none of the
        // client's cipher suites.
        self.certificate(hello.server_name(), hello.signature_schemes())
    }
}
