//! What a backend may show as its certificate, and what a file may hold as ours.

use std::{sync::Arc, time::Duration};

use rustls::pki_types::{CertificateDer, ServerName, UnixTime};

pub(crate) use super::server::fuzz::certificate_file;
use super::{
    ClientTls, SystemRoots, Trust, describe,
    key::{pin_of, pin_text},
    server,
};
use crate::{config::model::Pin, fuzz::assert_one_short_line};

/// Some certificate authority, so that the web PKI has something to compare with.
const AUTHORITY: &[u8] = include_bytes!("../../fuzz/corpus/certificate/authority.der");

/// The certificate has a key whose pin can be written into the configuration, or has none; and
/// every judgement of it is told in words.
pub(crate) fn certificate(data: &[u8]) {
    server::fuzz::certificate(data, AUTHORITY);
    let pin = pin_of(data);
    if let Ok(pin) = pin {
        assert_eq!(pin_text(&pin).parse(), Ok(pin));
    }
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from(AUTHORITY))
        .expect("an authority's certificate");
    let system = Arc::new(SystemRoots(std::sync::Mutex::new(Some(Arc::new(roots)))));
    let name = ServerName::try_from("gw1.example").expect("a name");
    let now = UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000));
    for trust in [
        Trust::System,
        Trust::Keys(vec![Pin([0; 32])]),
        Trust::Keys(pin.into_iter().collect()),
    ] {
        let tls = ClientTls::new(trust.clone(), Arc::clone(&system), &[], false);
        let Ok(verifier) = tls.verifier(&super::provider()) else {
            continue;
        };
        let verdict = verifier.verify_server_cert(&data.into(), &[], &name, &[], now);
        if let Err(error) = &verdict {
            assert_one_short_line(&describe(error, &trust));
        }
        if let Trust::Keys(pins) = &trust {
            assert_eq!(verdict.is_ok(), pins.contains(&pin.unwrap_or(Pin([1; 32]))));
        }
    }
}
