//! What a client may send first where TLS is passed through.

use super::{Hello, MOST_BYTES, server_name};

/// A name is one that a certificate can have; a verdict needs the whole hello and then stands.
pub(crate) fn client_hello(data: &[u8]) {
    let hello = server_name(data);
    match &hello {
        Hello::Incomplete => assert!(data.len() < MOST_BYTES),
        Hello::NotTls | Hello::Name(None) => {}
        Hello::Name(Some(name)) => {
            assert!((1..=253).contains(&name.len()), "{name:?}");
            for label in name.split('.') {
                assert!((1..=63).contains(&label.len()), "{name:?}");
                assert!(
                    label.bytes().all(|byte| byte.is_ascii_lowercase()
                        || byte.is_ascii_digit()
                        || b"-_".contains(&byte)),
                    "{name:?}"
                );
            }
        }
    }
    for cut in [data.len().saturating_sub(1), data.len() / 2, 6, 1] {
        let earlier = server_name(&data[..cut.min(data.len())]);
        assert!(
            earlier == Hello::Incomplete || earlier == hello,
            "{earlier:?} became {hello:?}"
        );
    }
    if hello != Hello::Incomplete {
        assert_eq!(server_name(&[data, b"\x17\x03\x03"].concat()), hello);
    }
}
