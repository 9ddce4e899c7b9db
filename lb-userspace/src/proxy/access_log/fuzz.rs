//! What strangers may have written into the access log.

use std::{borrow::Cow, net::SocketAddr};

use serde_json::Value;

use super::{Kind, Record};

/// Longest line that a record may become: each byte of text as six characters, and what else there is.
const MOST_LINE: usize = 6 * (2048 + 5 * 256) + 1024;

/// A record is one line of printable ASCII whatever its texts, stays short, and a program reads the
/// beginning of the same texts in it.
pub(crate) fn record(data: &[u8]) {
    let text = String::from_utf8_lossy(data).into_owned();
    let client = SocketAddr::from(([192, 0, 2, 7], 4000));
    let mut record = Record {
        method: Some(Cow::Owned(text.clone())),
        target: Some(text.clone()),
        host: Some(text.clone()),
        reason: Some(Cow::Owned(text.clone())),
        sni: Some(text.clone()),
        ..Record::begin("service".into(), Kind::Http, client)
    };
    record.shorten();
    let mut line = Vec::new();
    record.line(&mut line);
    assert!(line.len() <= MOST_LINE, "{} bytes", line.len());
    assert_eq!(line.pop(), Some(b'\n'));
    assert!(line.iter().all(|byte| (b' '..=b'~').contains(byte)));
    let read: Value = serde_json::from_slice(&line).expect("JSON");
    for (key, most) in [
        ("method", 256),
        ("target", 2048),
        ("host", 256),
        ("reason", 256),
        ("sni", 256),
    ] {
        let kept = read[key].as_str().expect("text");
        assert!(
            text.starts_with(kept) && kept.len() <= most,
            "{key}: {kept:?}"
        );
        assert!(
            kept.len() == text.len() || kept.len() + 4 > most,
            "{key}: {kept:?}"
        );
    }
}
