mod choice;
mod connections;
mod files;
mod pfx;

use std::{fs, path::PathBuf, process::Command};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, PKCS_RSA_SHA256,
    RsaKeySize,
};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use tempfile::TempDir;

use super::*;

/// A folder with certificates.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        path
    }

    /// Writes a certificate and its key under this name.
    fn put(&self, name: &str, made: &Made) -> CertificateFiles {
        CertificateFiles {
            certificate: self.write(&format!("{name}.pem"), &made.certificate),
            key: Some(self.write(&format!("{name}.key"), &made.key)),
            password_file: None,
        }
    }

    /// Runs `openssl` here.
    fn openssl(&self, arguments: &str) {
        let output = Command::new("openssl")
            .args(arguments.split_whitespace())
            .current_dir(&self.0)
            .output()
            .expect("openssl is installed");
        assert!(output.status.success(), "openssl {arguments}: {output:?}");
    }
}

/// A certificate and its key, PEM.
struct Made {
    certificate: String,
    key: String,
}

impl Made {
    fn ecdsa(names: &[&str]) -> Self {
        Self::from_params(params(names), &KeyPair::generate().unwrap())
    }

    fn rsa(names: &[&str]) -> Self {
        Self::from_params(params(names), &rsa_key())
    }

    fn from_params(params: CertificateParams, key: &KeyPair) -> Self {
        Self {
            certificate: params.self_signed(key).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }

    fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.certificate.as_bytes()).unwrap()
    }
}

fn rsa_key() -> KeyPair {
    KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap()
}

fn params(names: &[&str]) -> CertificateParams {
    CertificateParams::new(
        names
            .iter()
            .map(|name| String::from(*name))
            .collect::<Vec<_>>(),
    )
    .unwrap()
}

/// An authority and one below it that issued a certificate for `names`; the chain from the leaf on.
fn chain(names: &[&str]) -> ([String; 3], String) {
    let authority = |name: &str| {
        let mut params = params(&[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        params
    };
    let root_key = KeyPair::generate().unwrap();
    let root = CertifiedIssuer::self_signed(authority("Root"), root_key).unwrap();
    let middle_key = KeyPair::generate().unwrap();
    let middle = CertifiedIssuer::signed_by(authority("Middle"), middle_key, &root).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = params(names).signed_by(&key, &middle).unwrap();
    ([leaf.pem(), middle.pem(), root.pem()], key.serialize_pem())
}

fn tls(certificates: &[CertificateFiles]) -> Tls {
    Tls {
        certificates: certificates.to_vec(),
        min_version: TlsVersion::Tls12,
        http2: true,
        refuse_unknown_name: false,
    }
}

fn open(certificates: &[CertificateFiles]) -> ServerTls {
    ServerTls::open(&tls(certificates)).unwrap()
}

/// Reads one certificate that is at fault.
fn fault(files: CertificateFiles) -> (CertificatePart, String) {
    let error = ServerTls::open(&tls(&[files])).unwrap_err();
    (error.part, error.message)
}
