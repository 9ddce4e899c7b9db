//! What a backend may answer to a probe.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Duration};

use rustls::{ClientConnection, pki_types::ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{
    Clock, ProbeTarget, http,
    ping::{Echo, Header},
};
use crate::{
    config::model::{HttpProbe, Pin},
    fuzz::{assert_one_short_line, block_on},
    tls::{ClientTls, Trust, describe},
};

/// More than any answer takes that is there at once.
const TIME: Duration = Duration::from_secs(20);
const TEXT: &str = "ready";

/// The answer is judged as soon as it has ended; success needs the status and the text.
pub(crate) fn http_answer(data: &[u8]) {
    let has = |part: &[u8]| data.windows(part.len()).any(|window| window == part);
    for expect_body in [None, Some(TEXT.to_owned())] {
        let with_text = expect_body.is_some();
        match block_on(exchange(data, expect_body)) {
            Ok(detail) => {
                assert!(has(b"HTTP/1.") && has(b"200"), "{detail}");
                assert!(!with_text || detail.contains(TEXT), "{detail}");
                // A text that is cut by chunks is not in one piece.
                assert!(!with_text || has(TEXT.as_bytes()) || has(b"\n"), "{detail}");
                assert_one_short_line(&detail);
            }
            Err(failure) => assert_one_short_line(&failure),
        }
    }
}

async fn exchange(answer: &[u8], expect_body: Option<String>) -> Result<String, String> {
    let spec = HttpProbe {
        tls: None,
        host: None,
        path: "/healthcheck".to_owned(),
        method: "GET".to_owned(),
        expect_status: BTreeSet::from([200]),
        expect_body,
    };
    let target = ProbeTarget {
        name: "gw1".to_owned(),
        address: IpAddr::from([10, 0, 0, 1]),
        port: 80,
        server_name: None,
        pin: None,
    };
    let clock = Clock::start(TIME);
    let (stream, mut backend) = tokio::io::duplex(16 << 10);
    let (result, ()) = tokio::join!(http::probe_on(stream, &spec, &target, &clock), async {
        // The probe may have seen enough and be gone.
        let _ = backend.write_all(answer).await;
        let _ = backend.shutdown().await;
        let _ = backend.read_to_end(&mut Vec::new()).await;
    });
    assert!(clock.began.elapsed() < TIME, "the end was not noticed");
    result
        .map(|passed| passed.detail)
        .map_err(|failure| failure.to_string())
}

/// Whoever cannot make keys does not get through a handshake, and the log says why.
pub(crate) fn tls_answer(data: &[u8]) {
    for trust in [Trust::Anybody, Trust::Keys(vec![Pin([0; 32])])] {
        let tls = ClientTls::new(trust.clone(), Arc::default(), &["http/1.1"], false);
        let config = tls.config().expect("nothing is read for this trust");
        let name = ServerName::try_from("gw1.example").expect("a name");
        let mut connection = ClientConnection::new(config, name).expect("a client");
        let mut rest = data;
        while !rest.is_empty() {
            match connection.read_tls(&mut rest) {
                Ok(1..) => {}
                Ok(0) | Err(_) => break,
            }
            if let Err(error) = connection.process_new_packets() {
                assert_one_short_line(&describe(&error, &trust));
                break;
            }
        }
        assert!(connection.is_handshaking(), "bytes alone made a handshake");
    }
}

/// A packet answers an echo request only if it carries its token behind the right type.
pub(crate) fn echo_reply(data: &[u8]) {
    for (address, reply_type) in [
        (IpAddr::from([10, 0, 0, 1]), 0),
        (IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 1]), 129),
    ] {
        let echo = Echo::with_token(address, *b"token-08");
        for header in [Header::None, Header::Ipv4] {
            let Some(message) = header.skip(data) else {
                continue;
            };
            let carries =
                message.first() == Some(&reply_type) && message.get(8..) == echo.request().get(8..);
            assert_eq!(echo.is_reply(message), carries);
        }
    }
}
