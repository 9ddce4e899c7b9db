//! Real handshakes: protocols, versions, tickets, and certificates that change underneath.

use rustls::{
    ClientConfig, HandshakeKind, NamedGroup, ProtocolVersion,
    client::{
        ClientSessionMemoryCache, ClientSessionStore, Resumption, Tls12ClientSessionValue,
        Tls13ClientSessionValue,
    },
    pki_types::ServerName,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use super::*;
use crate::tls::{ClientTls, Trust};

/// Returns a client that takes any certificate and remembers tickets.
fn client() -> ClientConfig {
    let tls = ClientTls::new(Trust::Anybody, Arc::default(), &["h2", "http/1.1"], true);
    ClientConfig::clone(&tls.config().unwrap())
}

fn only(version: &'static SupportedProtocolVersion) -> ClientConfig {
    let verifier = Arc::new(crate::tls::verify::Anybody::new(&provider()));
    ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[version])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth()
}

/// Both ends of a connection over which a byte has gone each way, so that the client has its ticket.
struct Pair {
    client: client::TlsStream<DuplexStream>,
    server: server::TlsStream<DuplexStream>,
}

impl Pair {
    async fn exchange(&mut self) {
        let mut byte = [0];
        self.client.write_all(b"?").await.unwrap();
        self.client.flush().await.unwrap();
        self.server.read_exact(&mut byte).await.unwrap();
        self.server.write_all(b"!").await.unwrap();
        self.server.flush().await.unwrap();
        self.client.read_exact(&mut byte).await.unwrap();
    }

    fn kind(&self) -> HandshakeKind {
        self.server.get_ref().1.handshake_kind().unwrap()
    }

    fn alpn(&self) -> Option<&[u8]> {
        self.server.get_ref().1.alpn_protocol()
    }

    fn leaf(&self) -> &CertificateDer<'static> {
        &self.client.get_ref().1.peer_certificates().unwrap()[0]
    }
}

async fn connect(
    server: &Arc<ServerConfig>,
    client: &Arc<ClientConfig>,
    name: &'static str,
) -> Result<Pair, String> {
    let (near, far) = duplex(16 * 1024);
    let accepting = TlsAcceptor::from(Arc::clone(server)).accept(far);
    let name = ServerName::try_from(name).unwrap();
    let connecting = TlsConnector::from(Arc::clone(client)).connect(name, near);
    let (server, client) = tokio::join!(accepting, connecting);
    let mut pair = Pair {
        server: server.map_err(|error| error.to_string())?,
        client: client.map_err(|error| error.to_string())?,
    };
    pair.exchange().await;
    Ok(pair)
}

#[tokio::test]
async fn the_protocols_are_those_that_the_service_has() {
    let folder = Folder::new();
    let mut tls = tls(&[folder.put("a", &Made::ecdsa(&["a.example"]))]);
    let client = Arc::new(client());

    let server = ServerTls::open(&tls).unwrap();
    let pair = connect(&server.config(), &client, "a.example")
        .await
        .unwrap();
    assert_eq!(pair.alpn(), Some(HTTP_2));
    let pair = connect(&server.config_http1(), &client, "a.example")
        .await
        .unwrap();
    assert_eq!(pair.alpn(), Some(HTTP_1_1));
    assert_eq!(
        pair.kind(),
        HandshakeKind::Resumed,
        "one ticketer for both configurations"
    );

    tls.http2 = false;
    let server = ServerTls::open(&tls).unwrap();
    let pair = connect(&server.config(), &client, "a.example")
        .await
        .unwrap();
    assert_eq!(pair.alpn(), Some(HTTP_1_1));
}

#[tokio::test]
async fn versions_below_the_oldest_accepted_are_refused() {
    let folder = Folder::new();
    let mut tls = tls(&[folder.put("a", &Made::rsa(&["a.example"]))]);
    let (old, new) = (Arc::new(only(&TLS12)), Arc::new(only(&TLS13)));

    let server = ServerTls::open(&tls).unwrap();
    let pair = connect(&server.config(), &old, "a.example").await.unwrap();
    assert_eq!(
        pair.server.get_ref().1.protocol_version(),
        Some(ProtocolVersion::TLSv1_2)
    );
    let pair = connect(&server.config(), &old, "a.example").await.unwrap();
    assert_eq!(pair.kind(), HandshakeKind::Resumed, "TLS 1.2 by ticket");

    tls.min_version = TlsVersion::Tls13;
    let server = ServerTls::open(&tls).unwrap();
    connect(&server.config(), &old, "a.example")
        .await
        .map(drop)
        .unwrap_err();
    connect(&server.config(), &new, "a.example").await.unwrap();
}

#[tokio::test]
async fn an_unknown_name_is_refused_with_an_alert() {
    let folder = Folder::new();
    let mut tls = tls(&[folder.put("a", &Made::ecdsa(&["a.example"]))]);
    tls.refuse_unknown_name = true;
    let server = ServerTls::open(&tls).unwrap();
    let mut nameless = client();
    nameless.enable_sni = false;

    for (client, name) in [(client(), "b.example"), (nameless, "a.example")] {
        let error = connect(&server.config(), &Arc::new(client), name)
            .await
            .map(drop)
            .unwrap_err();
        assert!(
            error.contains("no server certificate chain resolved"),
            "{error}"
        );
    }
    connect(&server.config(), &Arc::new(client()), "a.example")
        .await
        .unwrap();
}

#[tokio::test]
async fn other_certificates_leave_connections_and_tickets_as_they_are() {
    let folder = Folder::new();
    let (old, new) = (
        Made::ecdsa(&["a.example"]),
        Made::rsa(&["a.example", "b.example"]),
    );
    let server = open(&[folder.put("a", &old)]);
    let (config, known) = (server.config(), Arc::new(client()));
    let mut alive = connect(&config, &known, "a.example").await.unwrap();
    assert_eq!(alive.leaf(), &old.der());
    assert_eq!(server.refresh(), Ok(false), "nothing has changed");

    folder.put("a", &new);
    assert_eq!(server.refresh(), Ok(true));
    assert_eq!(server.refresh(), Ok(false));

    alive.exchange().await;
    let fresh = connect(&config, &Arc::new(client()), "a.example")
        .await
        .unwrap();
    assert_eq!(
        (fresh.kind(), fresh.leaf()),
        (HandshakeKind::Full, &new.der())
    );
    let resumed = connect(&config, &known, "a.example").await.unwrap();
    assert_eq!(resumed.kind(), HandshakeKind::Resumed);
    assert_eq!(server.certificates()[0].names, ["a.example", "b.example"]);
}

#[tokio::test]
async fn a_faulty_new_set_leaves_the_former_in_force_and_is_told_once() {
    let folder = Folder::new();
    let made = Made::ecdsa(&["a.example"]);
    let server = open(&[folder.put("a", &made)]);
    let before = server.certificates();

    folder.write("a.key", Made::ecdsa(&["a.example"]).key + "\n");
    let error = server.refresh().unwrap_err();
    assert_eq!(error.part, CertificatePart::Key);
    assert_eq!(server.refresh(), Ok(false), "told once");
    assert_eq!(server.certificates(), before);
    connect(&server.config(), &Arc::new(client()), "a.example")
        .await
        .unwrap();

    fs::remove_file(folder.path("a.key")).unwrap();
    server.refresh().unwrap_err();
    folder.write("a.key", &made.key);
    assert_eq!(server.refresh(), Ok(false), "the same certificates again");
}

#[test]
fn a_ticket_of_one_thread_is_resumed_on_another() {
    let folder = Folder::new();
    let server = Arc::new(open(&[folder.put("a", &Made::ecdsa(&["a.example"]))]));
    let client = Arc::new(client());
    let kinds: Vec<_> = (0..3)
        .map(|_| {
            let (server, client) = (Arc::clone(&server), Arc::clone(&client));
            let once = move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .build()
                    .unwrap();
                let config = Arc::new(ServerConfig::clone(&server.config()));
                runtime
                    .block_on(connect(&config, &client, "a.example"))
                    .unwrap()
                    .kind()
            };
            std::thread::spawn(once).join().unwrap()
        })
        .collect();

    use HandshakeKind::{Full, Resumed};
    assert_eq!(kinds, [Full, Resumed, Resumed]);
}

/// Offers every ticket to everybody, as no honest client does.
#[derive(Debug)]
struct Careless(ClientSessionMemoryCache);

fn anybody() -> ServerName<'static> {
    ServerName::try_from("anybody").unwrap()
}

impl ClientSessionStore for Careless {
    fn set_kx_hint(&self, _: ServerName<'static>, group: NamedGroup) {
        self.0.set_kx_hint(anybody(), group);
    }

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        self.0.kx_hint(&anybody())
    }

    fn set_tls12_session(&self, _: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.0.set_tls12_session(anybody(), value);
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.0.tls12_session(&anybody())
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {
        self.0.remove_tls12_session(&anybody());
    }

    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.0.insert_tls13_ticket(anybody(), value);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.0.take_tls13_ticket(&anybody())
    }
}

#[tokio::test]
async fn a_ticket_counts_only_under_the_name_that_it_was_given_for() {
    let folder = Folder::new();
    let server = open(&[folder.put("a", &Made::ecdsa(&["a.example", "b.example"]))]);
    for version in [&TLS12, &TLS13] {
        let mut client = only(version);
        client.resumption = Resumption::store(Arc::new(Careless(ClientSessionMemoryCache::new(8))));
        let client = Arc::new(client);
        let mut kinds = Vec::new();
        for name in ["a.example", "a.example", "b.example", "b.example"] {
            kinds.push(
                connect(&server.config(), &client, name)
                    .await
                    .unwrap()
                    .kind(),
            );
        }

        use HandshakeKind::{Full, Resumed};
        assert_eq!(kinds, [Full, Resumed, Full, Resumed], "{version:?}");
    }
}
