//! Verifiers of a backend's certificate that do not go through the web PKI.

use std::sync::Arc;

use rustls::{
    CertificateError, DigitallySignedStruct, Error, OtherError, PeerMisbehaved, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms},
    pki_types::{CertificateDer, ServerName, UnixTime},
};

use super::key::{ServerKey, pin_text};
use crate::config::model::Pin;

/// The server holds another key than those that are pinned.
#[derive(Debug, thiserror::Error)]
#[error(
    "the server's key is {found}, which is not pinned; if that is the right server, add it to \
         pins"
)]
pub(super) struct NotPinned {
    found: String,
}

/// Accepts whoever proves to hold one of the pinned keys.
///
/// Names, dates, extensions and issuers are not looked at. The proof is the handshake's signature,
/// checked with the key itself.
#[derive(Debug)]
pub(super) struct PinnedKeys {
    pins: Vec<Pin>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl PinnedKeys {
    pub(super) fn new(pins: Vec<Pin>, provider: &CryptoProvider) -> Self {
        Self {
            pins,
            algorithms: provider.signature_verification_algorithms,
        }
    }

    /// Checks the handshake's signature with the certificate's key, by whichever algorithm of the
    /// scheme fits that key. With TLS 1.3 a scheme names its curve, so only the first fits
    /// (RFC 8446 section 4.2.3); with TLS 1.2 it does not.
    fn check_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
        version: Version,
    ) -> Result<HandshakeSignatureValid, Error> {
        let key = ServerKey::of(certificate).map_err(other)?;
        let algorithms = self
            .algorithms
            .mapping
            .iter()
            .find(|(scheme, _)| *scheme == signed.scheme)
            .map(|(_, algorithms)| *algorithms)
            .ok_or(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme)?;
        let usable = match version {
            Version::Tls12 => algorithms,
            Version::Tls13 => algorithms.get(..1).unwrap_or_default(),
        };
        let algorithm = usable
            .iter()
            .find(|algorithm| algorithm.public_key_alg_id().as_ref() == key.algorithm)
            .ok_or(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme)?;
        algorithm
            .verify_signature(key.bits, message, signed.signature())
            .map_err(|_| CertificateError::BadSignature)?;
        Ok(HandshakeSignatureValid::assertion())
    }
}

impl ServerCertVerifier for PinnedKeys {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let found = ServerKey::of(end_entity).map_err(other)?.pin();
        if self.pins.contains(&found) {
            return Ok(ServerCertVerified::assertion());
        }
        Err(other(NotPinned {
            found: pin_text(&found),
        }))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, cert, dss, Version::Tls12)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, cert, dss, Version::Tls13)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Accepts everybody: `verify = "none"`.
#[derive(Debug)]
pub(super) struct Anybody {
    schemes: Vec<SignatureScheme>,
}

impl Anybody {
    pub(super) fn new(provider: &CryptoProvider) -> Self {
        Self {
            schemes: provider
                .signature_verification_algorithms
                .supported_schemes(),
        }
    }
}

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes.clone()
    }
}

#[derive(Clone, Copy)]
enum Version {
    Tls12,
    Tls13,
}

fn other(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
}
