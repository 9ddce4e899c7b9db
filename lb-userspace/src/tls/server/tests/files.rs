//! PEM files as people leave them.

use super::{
    CertificatePart::{Certificate, Key, PasswordFile},
    *,
};

#[test]
fn the_chain_is_put_in_order_without_its_root() {
    let folder = Folder::new();
    let ([leaf, middle, root], key) = chain(&["a.example"]);
    let der = |pem: &String| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    let stranger = Made::ecdsa(&["b.example"]).certificate;

    for content in [
        [&leaf, &middle].map(String::as_str).concat(),
        [&root, &middle, &leaf].map(String::as_str).concat(),
        [&middle, &stranger, &middle, &root, &leaf]
            .map(String::as_str)
            .concat(),
    ] {
        let server = open(&[folder.put(
            "a",
            &Made {
                certificate: content,
                key: key.clone(),
            },
        )]);
        let chosen = server.resolver.certificate(None, &[]).unwrap();
        assert_eq!(chosen.cert, [der(&leaf), der(&middle)]);
    }
}

#[test]
fn a_key_may_stand_beside_its_certificate_and_have_any_usual_form() {
    let folder = Folder::new();
    let made = Made::rsa(&["a.example"]);
    let mut files = folder.put("a", &made);
    folder.openssl("pkey -in a.key -traditional -out old.key");
    files.key = Some(folder.path("old.key"));
    open(&[files.clone()]);

    files.key = None;
    folder.write("a.pem", made.key.clone() + &made.certificate);
    open(&[files]);

    folder.openssl("ecparam -name secp384r1 -genkey -out ec.key");
    folder.openssl("req -x509 -new -key ec.key -subj /CN=b.example -out ec.pem");
    let files = CertificateFiles {
        certificate: folder.path("ec.pem"),
        key: Some(folder.path("ec.key")),
        password_file: None,
    };
    let [info] = &open(&[files]).certificates()[..] else {
        panic!("one certificate")
    };
    assert_eq!(
        (&info.names[..], info.key),
        (&[String::from("b.example")][..], "ECDSA")
    );
}

#[test]
fn faults_name_the_file_and_what_to_do() {
    let folder = Folder::new();
    let made = Made::ecdsa(&["a.example"]);
    let good = folder.put("a", &made);
    let with = |certificate: &str, key: &str| CertificateFiles {
        certificate: folder.path(certificate),
        key: Some(folder.path(key)),
        password_file: None,
    };
    folder.put("b", &Made::ecdsa(&["b.example"]));
    folder.openssl("pkey -in a.key -aes256 -passout pass:x -out encrypted.key");
    folder.openssl("ec -in a.key -aes256 -passout pass:x -out old-encrypted.key");
    folder.openssl("genpkey -algorithm X25519 -out odd.key");
    folder.openssl("x509 -in a.pem -outform der -out a.der");
    folder.write("cut.pem", &made.certificate[..made.certificate.len() - 10]);
    folder.write(
        "garbage.pem",
        "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n",
    );
    folder.write("empty", "");

    for (files, part, words) in [
        (with("none.pem", "a.key"), Certificate, "cannot read"),
        (with("a.pem", "none.key"), Key, "cannot read"),
        (with("", "a.key"), Certificate, "is not a file"),
        (
            with("a.key", "a.key"),
            Certificate,
            "holds no certificate; name a PEM file",
        ),
        (
            with("empty", "a.key"),
            Certificate,
            "holds no certificate; name a PEM file",
        ),
        (
            with("a.pem", "a.pem"),
            Key,
            "holds no private key; name a PEM file",
        ),
        (
            with("a.pem", "b.key"),
            Key,
            "does not belong to the certificate in",
        ),
        (with("a.pem", "encrypted.key"), Key, "is encrypted"),
        (with("a.pem", "old-encrypted.key"), Key, "is encrypted"),
        (
            with("a.pem", "odd.key"),
            Key,
            "is of a kind that cannot be used",
        ),
        (
            with("cut.pem", "a.key"),
            Certificate,
            "is damaged PEM (a section has no end)",
        ),
        (
            with("garbage.pem", "a.key"),
            Certificate,
            "certificate 1 in",
        ),
        (
            with("a.der", "a.key"),
            Certificate,
            "is a certificate in DER",
        ),
        (
            CertificateFiles {
                key: None,
                ..good.clone()
            },
            Key,
            "is missing, and",
        ),
        (
            CertificateFiles {
                password_file: good.key.clone(),
                key: None,
                ..good.clone()
            },
            PasswordFile,
            "is PEM, which has no password",
        ),
    ] {
        let (found, message) = fault(files);
        assert_eq!(found, part, "{message}");
        assert!(message.contains(words), "{message}");
        assert!(
            !message.contains('\n') && !message.ends_with('.'),
            "{message}"
        );
    }
}

#[test]
fn a_certificate_outside_its_time_is_used_with_a_warning() {
    let folder = Folder::new();
    let mut expired = params(&["a.example"]);
    expired.not_before = rcgen::date_time_ymd(2000, 1, 1);
    expired.not_after = rcgen::date_time_ymd(2001, 1, 1);
    let files = folder.put(
        "a",
        &Made::from_params(expired, &KeyPair::generate().unwrap()),
    );
    let nameless = folder.put("b", &Made::ecdsa(&[]));

    let infos = open(&[files, nameless]).certificates();

    let at = |text: &str| crate::telemetry::parse_rfc3339(text).unwrap();
    assert_eq!(infos[0].not_before, at("2000-01-01T00:00:00Z"));
    assert_eq!(infos[0].not_after, at("2001-01-01T00:00:00Z"));
    let warning = |text: &str| infos[0].warning(at(text)).unwrap_or_default();
    assert!(warning("2001-01-02T00:00:00Z").starts_with("expired at 2001-01-01T00:00:00.000Z"));
    assert!(warning("1999-01-01T00:00:00Z").starts_with("is not valid before 2000-01-01"));
    assert_eq!(warning("2000-06-01T00:00:00Z"), "");
    let warning = infos[1].warning(at("2026-01-01T00:00:00Z")).unwrap();
    assert!(warning.starts_with("names no host"), "{warning}");
}
