//! What a certificate file may hold.

use std::time::UNIX_EPOCH;

use rustls::pki_types::CertificateDer;

use super::leaf::{self, Leaf};
use crate::telemetry::{parse_rfc3339, rfc3339};

/// The certificate is none, or says its names and its time so that they can be shown and compared;
/// a chain with it ends.
pub(crate) fn certificate(data: &[u8], authority: &[u8]) {
    let ders = [data, authority, data].map(|der| CertificateDer::from(der.to_vec()));
    let all: Vec<Leaf<'_>> = ders.iter().filter_map(Leaf::read).collect();
    let [found, .., _] = &all[..] else { return };
    for name in found.names() {
        assert_eq!(name, name.to_ascii_lowercase());
        assert!(name.bytes().all(|byte| byte.is_ascii_graphic()), "{name:?}");
    }
    for time in [found.not_before(), found.not_after()] {
        assert!(time >= UNIX_EPOCH);
        assert_eq!(parse_rfc3339(&rfc3339(time)), Some(time));
    }
    let chain = leaf::chain(found, &all);
    assert_eq!(&chain[0], found.der);
    assert!(chain.len() <= all.len());
}
