//! Which certificate a client is shown.

use rustls::SignatureScheme::{ECDSA_NISTP256_SHA256, RSA_PSS_SHA256};

use super::*;

const ANY: &[rustls::SignatureScheme] = &[RSA_PSS_SHA256, ECDSA_NISTP256_SHA256];

/// Returns the index of the certificate that a client is shown.
fn shown(
    server: &ServerTls,
    made: &[&Made],
    name: impl Into<Option<&'static str>>,
    schemes: &[rustls::SignatureScheme],
) -> Option<usize> {
    let chosen = server.resolver.certificate(name.into(), schemes)?;
    made.iter().position(|made| made.der() == chosen.cert[0])
}

#[test]
fn an_exact_name_goes_before_a_wildcard_of_one_label() {
    let folder = Folder::new();
    let first = Made::ecdsa(&["first.example"]);
    let wildcard = Made::ecdsa(&["*.uni.edu", "uni.edu"]);
    let exact = Made::ecdsa(&["Apps.Uni.EDU"]);
    let made = [&first, &wildcard, &exact];
    let server = open(&[
        folder.put("first", &first),
        folder.put("wildcard", &wildcard),
        folder.put("exact", &exact),
    ]);
    let shown = |name| shown(&server, &made, name, ANY);

    assert_eq!(shown("apps.uni.edu"), Some(2), "whatever the letters' case");
    assert_eq!(shown("portal.uni.edu"), Some(1));
    assert_eq!(shown("uni.edu"), Some(1));
    assert_eq!(shown("a.b.uni.edu"), Some(0), "two labels: unknown");
    assert_eq!(shown("first.example"), Some(0));
    assert_eq!(shown("edu"), Some(0));
    assert_eq!(server.certificates()[2].names, ["apps.uni.edu"]);
}

#[test]
fn an_unknown_name_gets_the_first_certificate_or_none() {
    let folder = Folder::new();
    let (first, second) = (Made::ecdsa(&["a.example"]), Made::ecdsa(&["b.example"]));
    let made = [&first, &second];
    let mut tls = tls(&[folder.put("a", &first), folder.put("b", &second)]);

    let server = ServerTls::open(&tls).unwrap();
    assert_eq!(shown(&server, &made, "c.example", ANY), Some(0));
    assert_eq!(shown(&server, &made, None, ANY), Some(0));

    tls.refuse_unknown_name = true;
    let server = ServerTls::open(&tls).unwrap();
    assert_eq!(shown(&server, &made, "c.example", ANY), None);
    assert_eq!(shown(&server, &made, None, ANY), None);
    assert_eq!(shown(&server, &made, "b.example", ANY), Some(1));
}

#[test]
fn of_an_rsa_and_an_ecdsa_certificate_the_client_gets_what_it_can_verify() {
    let folder = Folder::new();
    let names = &["a.example", "b.example"];
    let (rsa, ecdsa) = (Made::rsa(names), Made::ecdsa(&["b.example", "a.example"]));
    let other = Made::ecdsa(&["c.example"]);
    let made = [&rsa, &ecdsa, &other];
    let server = open(&[
        folder.put("rsa", &rsa),
        folder.put("ecdsa", &ecdsa),
        folder.put("other", &other),
    ]);

    for name in [Some("a.example"), Some("unknown.example"), None] {
        assert_eq!(shown(&server, &made, name, ANY), Some(1), "{name:?}");
        assert_eq!(shown(&server, &made, name, &[RSA_PSS_SHA256]), Some(0));
        assert_eq!(
            shown(&server, &made, name, &[ECDSA_NISTP256_SHA256]),
            Some(1)
        );
    }
    // rustls then tells the client that there is no common signature scheme.
    assert_eq!(
        shown(&server, &made, "c.example", &[RSA_PSS_SHA256]),
        Some(2)
    );
    let kinds: Vec<_> = server.certificates().iter().map(|info| info.key).collect();
    assert_eq!(kinds, ["RSA", "ECDSA", "ECDSA"]);
}

#[test]
fn an_exact_name_that_the_client_cannot_verify_gives_way_to_a_wildcard() {
    let folder = Folder::new();
    let (exact, wildcard) = (Made::ecdsa(&["a.example"]), Made::rsa(&["*.example"]));
    let made = [&exact, &wildcard];
    let server = open(&[folder.put("a", &exact), folder.put("w", &wildcard)]);

    assert_eq!(shown(&server, &made, "a.example", ANY), Some(0));
    assert_eq!(
        shown(&server, &made, "a.example", &[RSA_PSS_SHA256]),
        Some(1)
    );
}

#[test]
fn the_common_name_counts_only_without_alternative_names() {
    let folder = Folder::new();
    let named = |names: &[&str]| {
        let mut params = params(names);
        params
            .distinguished_name
            .push(DnType::CommonName, "CN.example");
        Made::from_params(params, &KeyPair::generate().unwrap())
    };
    let names = |made: &Made| {
        open(&[folder.put("a", made)]).certificates()[0]
            .names
            .clone()
    };

    assert_eq!(names(&named(&[])), ["cn.example"]);
    assert_eq!(names(&named(&["a.example"])), ["a.example"]);
    assert_eq!(names(&named(&["10.0.0.1"])), [""; 0]);
}
