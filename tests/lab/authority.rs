//! A certificate authority that nobody else trusts, and both sides' TLS settings that rest on it.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use super::nginx::Certificate;

/// An authority with its files in one directory.
pub struct Authority {
    directory: PathBuf,
    issuer: CertifiedIssuer<'static, KeyPair>,
    made: AtomicU32,
}

impl Authority {
    /// Makes an authority whose files go below `directory`, such as [`super::Lab::directory`].
    ///
    /// # Panics
    ///
    /// If the directory has an authority of that name, or cannot be written.
    #[must_use]
    pub fn new(directory: &Path, name: &str) -> Self {
        let directory = directory.join(name);
        fs::create_dir(&directory).expect("the directory takes another");
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        parameters
            .distinguished_name
            .push(DnType::CommonName, format!("{name} of the laboratory"));
        let key = KeyPair::generate().expect("a key can be made");
        let issuer =
            CertifiedIssuer::self_signed(parameters, key).expect("an authority signs itself");
        fs::write(directory.join("ca.pem"), issuer.pem()).expect("the certificate can be written");
        Self {
            directory,
            issuer,
            made: AtomicU32::new(0),
        }
    }

    /// Returns the file with the authority's own certificate, PEM.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        self.directory.join("ca.pem")
    }

    /// Makes a server's certificate for `names`: host names, or addresses as text.
    ///
    /// # Panics
    ///
    /// If one of them can be no name.
    #[must_use]
    pub fn certificate(&self, names: &[&str]) -> Certificate {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let made = Certificate {
            certificate: self.directory.join(format!("server{number}.pem")),
            key: self.directory.join(format!("server{number}.key")),
        };
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut parameters =
            CertificateParams::new(names.clone()).expect("the names can be in a certificate");
        if let Some(name) = names.first() {
            parameters
                .distinguished_name
                .push(DnType::CommonName, name.as_str());
        }
        let key = KeyPair::generate().expect("a key can be made");
        let certificate = parameters
            .signed_by(&key, &self.issuer)
            .expect("the authority signs");
        fs::write(&made.certificate, certificate.pem()).expect("the certificate can be written");
        fs::write(&made.key, key.serialize_pem()).expect("the key can be written");
        made
    }

    /// Returns a client's settings that trust this authority only and offer `alpn`.
    #[must_use]
    pub fn client(&self, alpn: &[&str]) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots
            .add(self.issuer.der().clone())
            .expect("an authority's certificate can be a root");
        let mut settings = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("the provider has the usual versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        settings.alpn_protocols = protocols(alpn);
        Arc::new(settings)
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Authority")
            .field("directory", &self.directory)
            .finish_non_exhaustive()
    }
}

/// Returns a server's settings with `certificate`, for clients that offer one of `alpn` or nothing.
///
/// # Panics
///
/// If its files cannot be read.
#[must_use]
pub fn server(certificate: &Certificate, alpn: &[&str]) -> Arc<ServerConfig> {
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_file_iter(&certificate.certificate)
            .expect("the certificate can be read")
            .collect::<Result<_, _>>()
            .expect("the certificate is PEM");
    let key = PrivateKeyDer::from_pem_file(&certificate.key).expect("the key can be read");
    let mut settings = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("the provider has the usual versions")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("key and certificate belong together");
    settings.alpn_protocols = protocols(alpn);
    Arc::new(settings)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn protocols(names: &[&str]) -> Vec<Vec<u8>> {
    names.iter().map(|name| name.as_bytes().to_vec()).collect()
}
