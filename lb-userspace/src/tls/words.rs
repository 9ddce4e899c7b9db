//! What a failed handshake means, as an administrator would say it.

use rustls::{
    AlertDescription, CertificateError, Error, OtherError,
    pki_types::{ServerName, UnixTime},
};

use super::{Trust, key::KeyError, verify::NotPinned};

/// Returns why a handshake with a backend failed, and what to do about it.
#[must_use]
pub fn describe(error: &Error, trust: &Trust) -> String {
    match error {
        Error::InvalidCertificate(reason) => describe_certificate(reason, trust),
        Error::PeerIncompatible(_)
        | Error::AlertReceived(
            AlertDescription::HandshakeFailure
            | AlertDescription::ProtocolVersion
            | AlertDescription::InsufficientSecurity,
        ) => format!(
            "the server and vipd have no TLS in common ({error}): vipd speaks TLS 1.3, and TLS 1.2 \
             with ECDHE and AES-GCM or ChaCha20, without a client certificate; Windows Server 2012 \
             R2 with an RSA certificate, and older servers, cannot: update the server, or probe \
             with type = \"connect\""
        ),
        Error::AlertReceived(AlertDescription::UnrecognisedName) => String::from(
            "the server does not know the name that it is asked for; set health.host or the \
             backend's server_name to a name that it serves",
        ),
        Error::AlertReceived(AlertDescription::CertificateRequired) => String::from(
            "the server asks for a client certificate, and a probe has none; probe another page, \
             or with type = \"connect\"",
        ),
        Error::AlertReceived(alert) => {
            format!("the server broke the TLS handshake off: {alert:?}")
        }
        Error::InvalidMessage(_) => {
            String::from("the answer is not TLS; is this port plain text or another service?")
        }
        other => format!(
            "the TLS handshake failed: {}",
            printable(&other.to_string())
        ),
    }
}

fn describe_certificate(reason: &CertificateError, trust: &Trust) -> String {
    let (why, remedy) = match reason {
        CertificateError::UnknownIssuer => (
            match trust {
                Trust::Ca(path) => format!("no certificate in {} vouches for it", path.display()),
                Trust::System | Trust::Keys(_) | Trust::Anybody => {
                    String::from("no authority that the system knows vouches for it")
                }
            },
            "set verify = \"ca\" with the file of its authority, or verify = \"pin\" with its key",
        ),
        CertificateError::BadSignature => match trust {
            Trust::Keys(_) => (
                String::from("the server does not prove that it holds its key"),
                "if that is an RSA key below 2048 bits, give the server a larger one",
            ),
            Trust::Ca(_) | Trust::System | Trust::Anybody => (
                String::from(
                    "it is signed by another authority of the same name, or the server does not \
                     prove that it holds its key",
                ),
                PIN_REMEDY,
            ),
        },
        CertificateError::NotValidForNameContext {
            expected,
            presented,
        } => (wrong_name(expected, presented), NAME_REMEDY),
        CertificateError::NotValidForName => {
            (String::from("it is made for another name"), NAME_REMEDY)
        }
        CertificateError::ExpiredContext { time, not_after } => (
            format!("it ran out {} ago", days(*not_after, *time)),
            "renew it on the server",
        ),
        CertificateError::Expired => (String::from("it has run out"), "renew it on the server"),
        CertificateError::NotValidYetContext { time, not_before } => (
            format!("it begins in {}", days(*time, *not_before)),
            "check the clocks of both machines",
        ),
        CertificateError::NotValidYet => (
            String::from("it is not valid yet"),
            "check the clocks of both machines",
        ),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => (
            String::from("it is not made for servers (extended key usage)"),
            PIN_REMEDY,
        ),
        CertificateError::Other(OtherError(inner)) => {
            if inner.is::<NotPinned>() || inner.is::<KeyError>() {
                return format!("the certificate is not trusted: {inner}");
            }
            (odd_certificate(&inner.to_string()), PIN_REMEDY)
        }
        other => (printable(&other.to_string()), PIN_REMEDY),
    };
    format!("the certificate is not trusted: {why}; {remedy}")
}

const NAME_REMEDY: &str = "set health.host or the backend's server_name to a name that it carries";
const PIN_REMEDY: &str = "replace it on the server, or set verify = \"pin\" with its key";

/// Returns in words what the web PKI holds against certificates that servers make for themselves;
/// `webpki` says it by the name of its error.
fn odd_certificate(name: &str) -> String {
    match name {
        "CaUsedAsEndEntity" => {
            String::from("it is an authority's certificate (CA:TRUE) and not a server's")
        }
        "UnsupportedCertVersion" => String::from("it is an X.509 version 1 certificate"),
        other => printable(other),
    }
}

fn wrong_name(expected: &ServerName<'_>, presented: &[String]) -> String {
    let expected = expected.to_str();
    if presented.is_empty() {
        return format!("it carries no subject alternative name, so it is not for {expected}");
    }
    let mut names: Vec<String> = presented
        .iter()
        .take(NAMES_SHOWN)
        .map(|name| printable(bare_name(name)))
        .collect();
    if presented.len() > NAMES_SHOWN {
        names.push(format!("{} more", presented.len() - NAMES_SHOWN));
    }
    format!("it is for {}, not for {expected}", names.join(", "))
}

const NAMES_SHOWN: usize = 4;

/// Returns the name out of its form `DnsName("gw1.example")`.
fn bare_name(name: &str) -> &str {
    name.strip_prefix("DnsName(\"")
        .and_then(|rest| rest.strip_suffix("\")"))
        .unwrap_or(name)
}

fn days(earlier: UnixTime, later: UnixTime) -> String {
    let seconds = later.as_secs().saturating_sub(earlier.as_secs());
    match seconds / 86_400 {
        0 => String::from("less than a day"),
        1 => String::from("1 day"),
        days => format!("{days} days"),
    }
}

/// Returns text from outside in a form that can stand in a log: no control characters, and at most
/// 200 characters.
pub(crate) fn printable(text: &str) -> String {
    let mut shown: String = text
        .chars()
        .take(PRINTABLE_CHARACTERS)
        .map(|c| if c.is_control() { '?' } else { c })
        .collect();
    if text.chars().nth(PRINTABLE_CHARACTERS).is_some() {
        shown.push_str("...");
    }
    shown
}

const PRINTABLE_CHARACTERS: usize = 200;
