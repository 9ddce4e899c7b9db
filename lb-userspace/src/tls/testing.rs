//! Certificates and servers for tests, odd ones among them.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair,
    PublicKeyData as _,
};
use rustls::{
    ServerConfig, SupportedProtocolVersion,
    crypto::aws_lc_rs::sign::any_supported_type,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
    sign::{CertifiedKey, SingleCertAndKey},
};
use tokio_rustls::TlsAcceptor;

use super::{pin_of, provider};
use crate::config::model::Pin;

/// A certificate and the key that the server signs with.
pub(crate) struct Identity {
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) key: KeyPair,
}

impl Identity {
    /// Makes one as gateways make it for themselves, with this alternative name.
    pub(crate) fn self_signed(name: &str) -> Self {
        Self::from_params(server_params(name), key())
    }

    /// Makes one that calls itself an authority.
    pub(crate) fn calling_itself_authority(name: &str) -> Self {
        let mut params = server_params(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self::from_params(params, key())
    }

    /// Makes one that ran out in the year 2001.
    pub(crate) fn expired(name: &str, authority: &Authority) -> Self {
        let mut params = server_params(name);
        params.not_before = rcgen::date_time_ymd(2000, 1, 1);
        params.not_after = rcgen::date_time_ymd(2001, 1, 1);
        authority.sign(params)
    }

    /// Makes one of version 1 (RFC 5280 section 4.1: no version, no extensions, so no alternative
    /// name), with a signature that nobody can verify.
    pub(crate) fn version_1(key: KeyPair) -> Self {
        // ecdsa-with-SHA256 (RFC 5758 section 3.2)
        let algorithm = der(0x30, &[&der(0x06, &[b"\x2a\x86\x48\xce\x3d\x04\x03\x02"])]);
        let name = der(0x30, &[]);
        let validity = der(
            0x30,
            &[
                &der(0x17, &[b"200101000000Z"]),
                &der(0x17, &[b"491231235959Z"]),
            ],
        );
        let serial = der(0x02, &[&[1]]);
        let info = key.subject_public_key_info();
        let body = der(0x30, &[&serial, &algorithm, &name, &validity, &name, &info]);
        let signature = der(0x03, &[&[0, 1, 2, 3]]);
        Self {
            certificate: der(0x30, &[&body, &algorithm, &signature]).into(),
            key,
        }
    }

    pub(crate) fn pin(&self) -> Pin {
        pin_of(&self.certificate).unwrap()
    }

    /// Returns the server's side with the given versions; nothing about the certificate is checked.
    pub(crate) fn acceptor(&self, versions: &[&'static SupportedProtocolVersion]) -> TlsAcceptor {
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(self.key.serialize_der()));
        let certified = CertifiedKey::new(
            vec![self.certificate.clone()],
            any_supported_type(&key).unwrap(),
        );
        let config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
        TlsAcceptor::from(Arc::new(config))
    }

    fn from_params(params: CertificateParams, key: KeyPair) -> Self {
        let certificate = params.self_signed(&key).unwrap();
        Self {
            certificate: certificate.der().clone(),
            key,
        }
    }
}

/// An authority of a campus.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, "Campus CA");
        Self(CertifiedIssuer::self_signed(params, key()).unwrap())
    }

    pub(crate) fn issue(&self, name: &str) -> Identity {
        self.sign(server_params(name))
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    fn sign(&self, params: CertificateParams) -> Identity {
        let key = key();
        Identity {
            certificate: params.signed_by(&key, &self.0).unwrap().der().clone(),
            key,
        }
    }
}

fn key() -> KeyPair {
    KeyPair::generate().unwrap()
}

fn server_params(name: &str) -> CertificateParams {
    CertificateParams::new(vec![name.to_owned()]).unwrap()
}

/// Writes one DER element with the shortest form of its length (X.690 section 10.1).
fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let [high, low] = u16::try_from(content.len()).unwrap().to_be_bytes();
    let length = match (high, low) {
        (0, 0..=0x7f) => vec![low],
        (0, _) => vec![0x81, low],
        _ => vec![0x82, high, low],
    };
    [&[tag], &length[..], &content].concat()
}
