//! What a certificate file may hold.

use std::{path::Path, time::UNIX_EPOCH};

use rustls::pki_types::CertificateDer;

use super::{
    leaf::{self, Leaf},
    read::read_from,
};
use crate::{
    config::model::CertificateFiles,
    fuzz::assert_one_short_line,
    telemetry::{parse_rfc3339, rfc3339},
};

/// The password of those in the corpus that have one.
const PASSWORD: &[u8] = b"right\n";

/// A file, read as a certificate with its key by each kind of entry in a configuration, gives both,
/// which belong together, or is refused in words.
pub(crate) fn certificate_file(data: &[u8]) {
    let path = |name: &str| Some(Path::new(name).to_owned());
    for (key, password_file) in [(None, None), (path("key"), None), (None, path("password"))] {
        let files = CertificateFiles {
            certificate: "certificate".into(),
            key,
            password_file,
        };
        let source = |_, path: &Path| {
            Ok(match path == Path::new("password") {
                true => PASSWORD.to_vec(),
                false => data.to_vec(),
            })
        };
        match read_from(&files, &source) {
            Err(error) => assert_one_short_line(&error.to_string()),
            Ok(identity) => {
                let [first, ..] = &identity.certified.cert[..] else {
                    panic!("a key without a certificate");
                };
                let leaf = Leaf::read(first).expect("it has been read before");
                let key = identity.certified.key.public_key().expect("a public key");
                assert_eq!(key.as_ref(), leaf.key());
                assert_eq!(identity.info.names, leaf.names());
            }
        }
    }
}

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
