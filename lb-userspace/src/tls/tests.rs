use std::{fs, io, net::Ipv4Addr};

use rustls::{
    pki_types::ServerName,
    version::{TLS12, TLS13},
};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

use super::{
    testing::{Authority, Identity},
    *,
};

const NAME: &str = "gw1.campus.example";

#[tokio::test]
async fn a_pinned_key_is_accepted_whatever_its_kind_and_version() {
    for algorithm in [
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &rcgen::PKCS_ECDSA_P384_SHA384,
        &rcgen::PKCS_ED25519,
        &rcgen::PKCS_RSA_SHA256,
    ] {
        let server = Identity::version_1(rcgen::KeyPair::generate_for(algorithm).unwrap());
        for version in [&TLS12, &TLS13] {
            let trust = Trust::Keys(vec![Pin([0; 32]), server.pin()]);

            let result = connect(&server, version, &client(trust)).await;

            assert_eq!(result, Ok(()), "{algorithm:?} {version:?}");
        }
    }
}

#[tokio::test]
async fn another_key_is_refused_with_its_pin() {
    let server = Identity::self_signed(NAME);
    let other = Identity::self_signed(NAME);

    let message = connect(&server, &TLS13, &client(Trust::Keys(vec![other.pin()])))
        .await
        .unwrap_err();

    assert_eq!(
        message,
        format!(
            "the certificate is not trusted: the server's key is {}, which is not pinned; if that \
             is the right server, add it to pins",
            pin_text(&server.pin())
        )
    );
}

#[tokio::test]
async fn showing_the_pinned_certificate_without_its_key_is_not_enough() {
    for version in [&TLS12, &TLS13] {
        let honest = Identity::self_signed(NAME);
        let thief = Identity {
            certificate: honest.certificate.clone(),
            key: rcgen::KeyPair::generate().unwrap(),
        };

        let message = connect(&thief, version, &client(Trust::Keys(vec![honest.pin()])))
            .await
            .unwrap_err();

        assert_eq!(
            message,
            "the certificate is not trusted: the server does not prove that it holds its key; if \
             that is an RSA key below 2048 bits, give the server a larger one",
            "{version:?}"
        );
        assert_eq!(
            connect(&honest, version, &client(Trust::Keys(vec![honest.pin()]))).await,
            Ok(())
        );
    }
}

#[tokio::test]
async fn a_signature_of_another_kind_of_key_is_refused() {
    let honest = Identity::version_1(rcgen::KeyPair::generate().unwrap());
    let thief = Identity {
        certificate: honest.certificate.clone(),
        key: rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap(),
    };

    let result = connect(&thief, &TLS13, &client(Trust::Keys(vec![honest.pin()]))).await;

    assert!(result.is_err());
}

#[tokio::test]
async fn anybody_is_accepted_when_nothing_is_verified() {
    for server in [
        Identity::self_signed("somebody.else.example"),
        Identity::calling_itself_authority(NAME),
        Identity::version_1(rcgen::KeyPair::generate().unwrap()),
    ] {
        assert_eq!(
            connect(&server, &TLS12, &client(Trust::Anybody)).await,
            Ok(())
        );
        assert_eq!(
            connect(&server, &TLS13, &client(Trust::Anybody)).await,
            Ok(())
        );
    }
}

#[tokio::test]
async fn a_ca_file_vouches_for_its_own_and_says_what_is_wrong_with_others() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let path = directory.path().join("campus-ca.pem");
    fs::write(&path, authority.pem()).unwrap();
    let tls = client(Trust::Ca(path.clone()));

    assert_eq!(connect(&authority.issue(NAME), &TLS13, &tls).await, Ok(()));

    for (what, server, text) in [
        (
            "another name",
            authority.issue("gw2.campus.example"),
            "it is for gw2.campus.example, not for gw1.campus.example; set health.host or the \
             backend's server_name",
        ),
        (
            "nobody's",
            Identity::self_signed(NAME),
            "campus-ca.pem vouches for it; set verify = \"ca\" with the file of its authority, or \
             verify = \"pin\"",
        ),
        (
            "another authority of that name",
            Authority::new().issue(NAME),
            "it is signed by another authority of the same name, or the server",
        ),
        (
            "ran out",
            Identity::expired(NAME, &authority),
            "it ran out ",
        ),
        (
            "version 1",
            Identity::version_1(rcgen::KeyPair::generate().unwrap()),
            "it is an X.509 version 1 certificate; replace it on the server, or set verify = \
             \"pin\" with its key",
        ),
        (
            "CA:TRUE",
            Identity::calling_itself_authority(NAME),
            "it is an authority's certificate (CA:TRUE) and not a server's",
        ),
    ] {
        let message = connect(&server, &TLS13, &tls).await.unwrap_err();
        assert!(
            message.starts_with("the certificate is not trusted: ") && message.contains(text),
            "{what}: {message}"
        );
    }
}

#[tokio::test]
async fn the_system_does_not_vouch_for_a_self_signed_certificate() {
    let tls = client(Trust::System);

    let message = match tls.config() {
        Ok(_) => connect(&Identity::self_signed(NAME), &TLS13, &tls)
            .await
            .unwrap_err(),
        // A machine without roots says so, and accepts nobody either.
        Err(error) => {
            assert!(matches!(error, TrustError::NoSystemRoots { .. }), "{error}");
            return;
        }
    };

    assert_eq!(
        message,
        "the certificate is not trusted: no authority that the system knows vouches for it; set \
         verify = \"ca\" with the file of its authority, or verify = \"pin\" with its key"
    );
}

#[test]
fn a_ca_file_that_cannot_be_used_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ca.pem");
    let tls = client(Trust::Ca(path.clone()));

    let missing = tls.config().unwrap_err().to_string();
    assert!(
        missing.starts_with(&format!(
            "cannot read the CA file {}: No such file",
            path.display()
        )),
        "{missing}"
    );

    for content in [
        "",
        "not PEM",
        "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n",
        "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n",
    ] {
        fs::write(&path, content).unwrap();
        assert_eq!(
            tls.config().unwrap_err(),
            TrustError::CaEmpty { path: path.clone() },
            "{content:?}"
        );
    }

    fs::write(&path, Authority::new().pem()).unwrap();
    assert!(tls.config().is_ok(), "repaired without a restart");
}

#[test]
fn pinning_without_a_pin_is_refused() {
    assert_eq!(
        client(Trust::Keys(Vec::new())).config().unwrap_err(),
        TrustError::NoPins
    );
}

#[test]
fn a_changed_ca_file_begins_a_new_generation_and_a_broken_one_does_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ca.pem");
    fs::write(&path, Authority::new().pem()).unwrap();
    let tls = client(Trust::Ca(path.clone()));

    let first = tls.config().unwrap();
    assert!(Arc::ptr_eq(&first, &tls.config().unwrap()));

    fs::write(&path, Authority::new().pem() + &Authority::new().pem()).unwrap();
    let second = tls.config().unwrap();
    assert!(!Arc::ptr_eq(&first, &second));

    fs::remove_file(&path).unwrap();
    assert!(Arc::ptr_eq(&second, &tls.config().unwrap()));

    fs::write(&path, Authority::new().pem()).unwrap();
    assert!(!Arc::ptr_eq(&second, &tls.config().unwrap()));
}

#[test]
fn the_own_pin_of_a_backend_stands_beside_the_common_ones() {
    let (own, common) = (Pin([1; 32]), Pin([2; 32]));

    assert_eq!(
        Trust::new(&Verify::Pin(vec![common]), Some(own)),
        Trust::Keys(vec![own, common])
    );
    assert_eq!(
        Trust::new(&Verify::Pin(vec![]), Some(own)),
        Trust::Keys(vec![own])
    );
    assert_eq!(Trust::new(&Verify::None, Some(own)), Trust::Anybody);
}

#[test]
fn text_from_outside_is_made_harmless() {
    assert_eq!(printable("a\x1b[31m\nb"), "a?[31m?b");
    assert_eq!(printable(&"ü".repeat(200)), "ü".repeat(200));
    assert_eq!(printable(&"ü".repeat(201)), "ü".repeat(200) + "...");
}

fn client(trust: Trust) -> ClientTls {
    ClientTls::new(trust, Arc::default(), &[], false)
}

/// Makes one handshake; returns the failure in words.
async fn connect(
    server: &Identity,
    version: &'static rustls::SupportedProtocolVersion,
    tls: &ClientTls,
) -> Result<(), String> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = server.acceptor(&[version]);
    let accepting = async {
        let (stream, _) = listener.accept().await.unwrap();
        acceptor.accept(stream).await.map(drop)
    };
    let connecting = async {
        let stream = TcpStream::connect(address).await.unwrap();
        let name = ServerName::try_from(NAME).unwrap();
        TlsConnector::from(tls.config().unwrap())
            .connect(name, stream)
            .await
            .map(drop)
    };
    let (_, result) = tokio::join!(accepting, connecting);
    result.map_err(|error: io::Error| {
        let tls_error = error.get_ref().and_then(|inner| inner.downcast_ref());
        describe(tls_error.expect("an error of TLS"), tls.trust())
    })
}
