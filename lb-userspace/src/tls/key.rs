//! The public key inside a certificate, for pins.
//!
//! Pinned keys are compared and used without the web PKI, because the certificates that gateways
//! make for themselves may be version 1, carry no alternative name or call themselves an authority.
//! So only the way to the key is read here; everything else in the certificate is skipped.

use std::fmt::Write as _;

use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;

use crate::config::model::Pin;

/// The certificate has no public key where one must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the certificate cannot be read: it is not DER with a public key inside")]
pub struct KeyError;

/// Returns the pin of the key in `certificate` (DER): SHA-256 over its SubjectPublicKeyInfo, as
/// RFC 7469 section 2.4 has it.
///
/// # Errors
///
/// [`KeyError`] if `certificate` is not the DER of a certificate.
pub fn pin_of(certificate: &[u8]) -> Result<Pin, KeyError> {
    Ok(ServerKey::of(certificate)?.pin())
}

/// Returns `pin` in the form that the configuration takes: `sha256:` and 64 hexadecimal digits.
#[must_use]
pub fn pin_text(pin: &Pin) -> String {
    let mut text = String::from("sha256:");
    for byte in pin.0 {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// A public key as it stands in a certificate (RFC 5280 section 4.1, `SubjectPublicKeyInfo`).
#[derive(Clone, Copy, Debug)]
pub(super) struct ServerKey<'a> {
    /// The whole structure with its tag and length.
    info: &'a [u8],
    /// Content of its `AlgorithmIdentifier`.
    pub(super) algorithm: &'a [u8],
    /// The key's bits.
    pub(super) bits: &'a [u8],
}

impl<'a> ServerKey<'a> {
    /// Reads the key out of a certificate (RFC 5280 section 4.1; version 1 has the same fields
    /// without the first).
    pub(super) fn of(certificate: &'a [u8]) -> Result<Self, KeyError> {
        let (outer, _) = element(certificate, SEQUENCE)?;
        let (to_be_signed, _) = element(outer.content, SEQUENCE)?;
        let mut rest = to_be_signed.content;
        if rest.first() == Some(&VERSION) {
            rest = element(rest, VERSION)?.1;
        }
        // serialNumber, signature, issuer, validity, subject
        for tag in [INTEGER, SEQUENCE, SEQUENCE, SEQUENCE, SEQUENCE] {
            rest = element(rest, tag)?.1;
        }
        let (info, _) = element(rest, SEQUENCE)?;
        let (algorithm, after) = element(info.content, SEQUENCE)?;
        let (key, _) = element(after, BIT_STRING)?;
        // The first byte of a bit string counts the unused bits at its end: a key has none.
        let bits = key.content.strip_prefix(&[0]).ok_or(KeyError)?;
        Ok(Self {
            info: info.whole,
            algorithm: algorithm.content,
            bits,
        })
    }

    /// Returns SHA-256 over the whole structure.
    pub(super) fn pin(&self) -> Pin {
        Pin(sha256(self.info))
    }
}

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const SEQUENCE: u8 = 0x30;
/// Context-specific, constructed, number 0.
const VERSION: u8 = 0xa0;

/// One DER element.
#[derive(Clone, Copy)]
struct Element<'a> {
    whole: &'a [u8],
    content: &'a [u8],
}

/// Splits off the element that `input` begins with, which must have this tag; returns it and what
/// follows it (X.690 section 8.1.3, definite form, lengths up to four bytes).
fn element(input: &[u8], tag: u8) -> Result<(Element<'_>, &[u8]), KeyError> {
    let (&found, after_tag) = input.split_first().ok_or(KeyError)?;
    let (&first, after_first) = after_tag.split_first().ok_or(KeyError)?;
    if found != tag {
        return Err(KeyError);
    }
    let (length, after_length) = match first {
        0..=0x7f => (usize::from(first), after_first),
        0x81..=0x84 => {
            let (bytes, after) = after_first
                .split_at_checked(usize::from(first & 0x7f))
                .ok_or(KeyError)?;
            let length = bytes
                .iter()
                .fold(0_usize, |length, byte| (length << 8) | usize::from(*byte));
            (length, after)
        }
        _ => return Err(KeyError),
    };
    let (content, rest) = after_length.split_at_checked(length).ok_or(KeyError)?;
    let whole = &input[..input.len() - rest.len()];
    Ok((Element { whole, content }, rest))
}

/// Returns SHA-256 of `data`, by the hash that rustls has for its own use.
fn sha256(data: &[u8]) -> [u8; 32] {
    let rustls::SupportedCipherSuite::Tls13(suite) = TLS13_AES_128_GCM_SHA256 else {
        unreachable!("a TLS 1.3 cipher suite by its name");
    };
    let mut digest = [0; 32];
    digest.copy_from_slice(suite.common.hash_provider.hash(data).as_ref());
    digest
}

#[cfg(test)]
#[expect(
    clippy::unwrap_used,
    reason = "a test may panic where its set-up fails"
)]
mod tests {
    use proptest::prelude::*;
    use rcgen::PublicKeyData as _;

    use super::*;

    #[test]
    fn the_pin_is_sha256_over_the_key_of_the_certificate() {
        let made = rcgen::generate_simple_self_signed([String::from("gw1.example")]).unwrap();

        let key = ServerKey::of(made.cert.der()).unwrap();

        assert_eq!(key.info, made.signing_key.subject_public_key_info());
        assert_eq!(key.bits, made.signing_key.der_bytes());
        assert_eq!(
            pin_of(made.cert.der()),
            Ok(Pin(sha256(&made.signing_key.subject_public_key_info())))
        );
    }

    #[test]
    fn sha256_gives_the_published_value() {
        // FIPS 180-4, the example "abc".
        assert_eq!(
            pin_text(&Pin(sha256(b"abc"))),
            "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn a_cut_certificate_is_refused_at_each_length() {
        let made = rcgen::generate_simple_self_signed([String::from("gw1.example")]).unwrap();
        let whole = made.cert.der().as_ref();

        for length in 0..whole.len() {
            assert_eq!(pin_of(&whole[..length]), Err(KeyError), "{length} bytes");
        }
    }

    #[test]
    fn lengths_beyond_the_input_are_refused() {
        for bytes in [
            &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff][..],
            &[0x30, 0x80, 0, 0],
            &[0x30, 0x85, 0, 0, 0, 0, 1, 0],
            &[0x30, 0x82, 0x01],
            &[0x30],
            &[],
        ] {
            assert_eq!(pin_of(bytes), Err(KeyError), "{bytes:x?}");
        }
    }

    proptest! {
        /// Nothing that a server can send as a certificate makes the reader panic.
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = pin_of(&bytes);
        }

        /// The same for a certificate with one byte changed; its pin changes only with its key.
        #[test]
        fn one_changed_byte_never_panics(at in any::<proptest::sample::Index>(), value in any::<u8>()) {
            let made = rcgen::generate_simple_self_signed([String::from("gw1.example")]).unwrap();
            let mut der = made.cert.der().to_vec();
            let at = at.index(der.len());
            der[at] = value;

            if let Ok(key) = ServerKey::of(&der) {
                let same = key.info == made.signing_key.subject_public_key_info();
                prop_assert_eq!(same, key.pin() == pin_of(made.cert.der()).unwrap());
            }
        }
    }
}
