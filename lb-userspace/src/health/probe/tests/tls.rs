use std::{net::Ipv4Addr, path::PathBuf};

use rustls::version::{TLS12, TLS13};

use super::{
    server::{Server, Then},
    *,
};
use crate::tls::testing::{Authority, Identity};

const NAME: &str = "gw1.campus.example";

#[tokio::test]
async fn https_passes_over_both_versions_without_verification() {
    for version in [&TLS12, &TLS13] {
        let identity = Identity::self_signed("localhost");
        let server = https(&identity, &[version]).await;

        let outcome = send(page(Verify::None), target(server.address)).await;

        assert_eq!(detail(&outcome), "GET /RASHTML5Gateway answered 200");
    }
}

#[tokio::test]
async fn https_verifies_by_the_name_of_check_or_backend() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let ca = directory.path().join("ca.pem");
    std::fs::write(&ca, authority.pem()).unwrap();
    let mut server = https(&authority.issue(NAME), &[&TLS13]).await;

    let by_backend = ProbeTarget {
        server_name: Some(NAME.to_owned()),
        ..target(server.address)
    };
    assert_eq!(
        detail(&send(page(Verify::Ca(ca.clone())), by_backend).await),
        "GET /RASHTML5Gateway answered 200"
    );
    assert!(server.requests()[0].contains("\r\nhost: gw1.campus.example\r\n"));

    let by_check = HttpProbe {
        host: Some(format!("{NAME}:8443")),
        ..page(Verify::Ca(ca.clone()))
    };
    assert_eq!(
        detail(&send(by_check, target(server.address)).await),
        "GET /RASHTML5Gateway answered 200"
    );

    let by_address = send(page(Verify::Ca(ca)), target(server.address)).await;
    assert_eq!(
        reason(&by_address),
        "the certificate is not trusted: it is for gw1.campus.example, not for 127.0.0.1; set \
         health.host or the backend's server_name to a name that it carries"
    );
}

#[tokio::test]
async fn https_goes_by_the_backends_own_pin() {
    let identity = Identity::version_1(rcgen::KeyPair::generate().unwrap());
    let server = https(&identity, &[&TLS12, &TLS13]).await;
    let pinned = |pin| ProbeTarget {
        pin: Some(pin),
        ..target(server.address)
    };

    let right = send(page(Verify::Pin(Vec::new())), pinned(identity.pin())).await;
    assert_eq!(detail(&right), "GET /RASHTML5Gateway answered 200");

    let wrong = send(page(Verify::Pin(Vec::new())), pinned(Pin([7; 32]))).await;
    assert!(reason(&wrong).contains("which is not pinned"), "{wrong}");

    let none = send(page(Verify::Pin(Vec::new())), target(server.address)).await;
    assert_eq!(
        reason(&none),
        "verify = \"pin\" has no key to compare with; set the backend's pin, or pins"
    );
}

#[tokio::test]
async fn a_missing_ca_file_is_a_reason() {
    let server = https(&Identity::self_signed(NAME), &[&TLS13]).await;
    let missing = PathBuf::from("/nonexistent/ca.pem");

    let outcome = send(page(Verify::Ca(missing)), target(server.address)).await;

    let text = reason(&outcome);
    assert!(
        text.starts_with("cannot read the CA file /nonexistent/ca.pem: "),
        "{text}"
    );
}

#[tokio::test]
async fn a_handshake_alone_is_a_probe() {
    for (version, text) in [
        (&TLS12, "TLS 1.2 handshake completed"),
        (&TLS13, "TLS 1.3 handshake completed"),
    ] {
        let identity = Identity::self_signed(NAME);
        let server = https(&identity, &[version]).await;

        let outcome = probe(
            &check(handshake(Verify::Pin(vec![identity.pin()])), AMPLE),
            &target(server.address),
        )
        .await;

        assert_eq!(detail(&outcome), text);
    }
}

#[tokio::test]
async fn a_plain_text_port_is_told_from_tls() {
    let listener = raw(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n").await;

    let outcome = probe(&check(handshake(Verify::None), AMPLE), &target(listener)).await;

    assert_eq!(
        reason(&outcome),
        "the answer is not TLS; is this port plain text or another service?"
    );
}

#[tokio::test]
async fn an_old_server_is_told_from_a_broken_one() {
    // Alerts (RFC 5246 section 7.2): fatal handshake_failure, fatal protocol_version.
    for alert in [40, 70] {
        let listener = raw(&[0x15, 0x03, 0x03, 0x00, 0x02, 0x02, alert]).await;

        let text = reason(&probe(&check(handshake(Verify::None), AMPLE), &target(listener)).await);

        assert!(
            text.starts_with("the server and vipd have no TLS in common (")
                && text.contains("Windows Server 2012 R2"),
            "{text}"
        );
    }
}

#[tokio::test]
async fn a_handshake_without_answer_is_down_or_offline() {
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .unwrap();
    let address = listener.local_addr().unwrap();

    let outcome = probe(&check(handshake(Verify::None), SHORT), &target(address)).await;

    assert_eq!(
        reason(&outcome),
        "no answer within 150ms: down or offline (the connection opens, the TLS handshake is not \
         answered)"
    );
}

#[tokio::test]
async fn a_name_that_is_none_is_refused_before_anything_is_sent() {
    let spec = ProbeSpec::Tls {
        verify: Verify::None,
        server_name: Some(String::from("not a name")),
    };
    let nowhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));

    let outcome = probe(&check(spec, AMPLE), &target(nowhere)).await;

    assert_eq!(
        reason(&outcome),
        "the check cannot be sent: \"not a name\" is not a host name; correct it"
    );
}

fn page(verify: Verify) -> HttpProbe {
    HttpProbe {
        tls: Some(verify),
        ..get("/RASHTML5Gateway")
    }
}

fn handshake(verify: Verify) -> ProbeSpec {
    ProbeSpec::Tls {
        verify,
        server_name: None,
    }
}

async fn send(spec: HttpProbe, target: ProbeTarget) -> ProbeOutcome {
    probe(&check(ProbeSpec::Http(spec), AMPLE), &target).await
}

async fn https(
    identity: &Identity,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> Server {
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec();
    let acceptor = identity.acceptor(versions);
    Server::bind(
        Ipv4Addr::LOCALHOST.into(),
        Some(acceptor),
        vec![answer],
        Then::Close,
    )
    .await
}

/// Starts a server that answers the first connection's first bytes with `answer`, TLS or not.
async fn raw(answer: &[u8]) -> SocketAddr {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .unwrap();
    let address = listener.local_addr().unwrap();
    let answer = answer.to_vec();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        assert!(stream.read(&mut [0; 4096]).await.unwrap() > 0);
        stream.write_all(&answer).await.unwrap();
        // Until the client goes, so that the answer is not overtaken by a reset.
        while stream
            .read(&mut [0; 4096])
            .await
            .is_ok_and(|length| length > 0)
        {}
    });
    address
}
