use std::os::unix::fs::MetadataExt;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::Notify,
};

use super::*;
use crate::{
    admin::{
        api,
        client::{Client, ClientError},
    },
    config::model::AdminState,
    control::{Control, testing},
    dataplane::{Dataplane, fake::Fake},
};

/// A daemon without a kernel behind a socket.
struct Daemon {
    directory: tempfile::TempDir,
    detach: Arc<Notify>,
    client: Client,
    task: tokio::task::JoinHandle<()>,
}

impl Daemon {
    fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let mut config = testing::ras();
        config.state.directory = directory.path().to_owned();
        let mut fake = Fake::default();
        fake.image = testing::new_maps(&config);
        let image = fake.image().expect("a fake");
        let state = testing::first_start(config);
        let sweep = crate::dataplane::sweep::SharedSettings::default();
        let (control, handle) =
            Control::new(Box::new(fake), image, state, sweep, testing::now()).expect("a fake");
        tokio::spawn(control.run());
        let detach = Arc::new(Notify::new());
        let context = Context {
            proxy: Default::default(),
            handle,
            configuration: directory.path().join("vipd.toml"),
            detach: Arc::clone(&detach),
        };
        let server = Server::open(&admin(directory.path())).expect("nobody is there");
        Self {
            client: Client::new(directory.path().join("vipd.sock")),
            task: tokio::spawn(server.run(context)),
            directory,
            detach,
        }
    }

    /// Sends bytes and returns everything that is answered until the end of the connection.
    async fn raw(&self, request: &[u8]) -> String {
        let mut stream = UnixStream::connect(self.client.socket())
            .await
            .expect("it listens");
        // The server may answer, and close, before it has read everything.
        let _ = stream.write_all(request).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    }
}

fn admin(directory: &Path) -> Admin {
    Admin {
        socket: directory.join("vipd.sock"),
        group: None,
        mode: 0o660,
    }
}

fn refusal<T: std::fmt::Debug>(answer: Result<T, ClientError>) -> api::ApiError {
    match answer.expect_err("it is refused") {
        ClientError::Refused(error) => error,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn the_status_of_a_daemon_is_answered() {
    let daemon = Daemon::start();

    let status = daemon.client.status().await.expect("an answer");

    assert_eq!(status.pid, std::process::id());
    assert_eq!(status.backends.len(), 2);
    assert!(!status.ready);
}

#[tokio::test]
async fn a_backend_is_drained_by_the_user_behind_the_socket() {
    let daemon = Daemon::start();
    let wanted = api::SetState {
        backend: "gw1".to_owned(),
        state: AdminState::Drain,
        reason: Some("patch day".to_owned()),
    };

    let state = daemon.client.set_state(&wanted).await.expect("done");

    assert_eq!(
        (state.pool.as_str(), state.state),
        ("ras", AdminState::Drain)
    );
    let status = daemon.client.status().await.expect("an answer");
    let change = status.backends[0].admin_change.as_ref().expect("changed");
    assert_eq!(change.reason.as_deref(), Some("patch day"));
    assert!(!change.by.is_empty());
    let asked = daemon.client.backend_state("ras/gw1").await;
    assert_eq!(asked.expect("there").state, AdminState::Drain);
}

#[tokio::test]
async fn what_is_not_known_is_not_found() {
    let daemon = Daemon::start();

    let error = refusal(daemon.client.backend_state("gw/9 ö").await);
    assert_eq!(error.error, api::ErrorKind::NotFound);
    assert!(error.message.contains("\"gw/9 ö\""), "{}", error.message);
    let query = api::FlowsQuery {
        service: Some("x&y".to_owned()),
        ..api::FlowsQuery::default()
    };
    let error = refusal(daemon.client.flows(&query).await);
    assert!(error.message.contains("\"x&y\""), "{}", error.message);
}

#[tokio::test]
async fn a_daemon_without_a_kernel_has_nothing_to_audit() {
    let daemon = Daemon::start();

    let error = refusal(daemon.client.audit().await);

    assert_eq!(error.error, api::ErrorKind::Failed);
    assert_eq!(error.message, "there is no kernel to audit");
}

#[tokio::test]
async fn a_reload_without_a_file_changes_nothing_and_says_why() {
    let daemon = Daemon::start();

    let error = refusal(daemon.client.reload().await);

    assert_eq!(error.error, api::ErrorKind::Refused);
    assert!(error.message.contains("vipd.toml"), "{}", error.message);
    let status = daemon.client.status().await.expect("an answer");
    assert_eq!(status.configuration.generation, 1);
}

#[tokio::test]
async fn detach_reaches_the_daemon() {
    let daemon = Daemon::start();

    let answer = daemon.client.detach().await.expect("an answer");

    assert_eq!(answer.pid, std::process::id());
    daemon.detach.notified().await;
}

#[tokio::test]
async fn wrong_requests_are_answered_with_what_is_wrong() {
    let daemon = Daemon::start();
    let long = format!(
        "POST /v1/backends/state HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 70000\r\n\r\n{}",
        "x".repeat(70_000)
    );
    let headers = format!(
        "GET /v1/status HTTP/1.1\r\nHost: x\r\nA: {}\r\n\r\n",
        "x".repeat(40_000)
    );
    for (request, status, message) in [
        (
            "GET /v2 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
            "404",
            "there is no /v2",
        ),
        (
            "DELETE /v1/status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
            "405",
            "knows GET only",
        ),
        (
            "GET /v1/explain HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
            "400",
            "client= is missing",
        ),
        (
            "POST /v1/backends/state HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 1\r\n\r\n{",
            "400",
            "not what is expected here",
        ),
        (long.as_str(), "413", "longer than 65536 bytes"),
        (headers.as_str(), "431", ""),
        ("nonsense\r\n\r\n", "400", ""),
    ] {
        let answer = daemon.raw(request.as_bytes()).await;
        let head = &request[..request.len().min(40)];
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{head}: {answer}"
        );
        assert!(answer.contains(message), "{head}: {answer}");
    }
    assert!(daemon.client.status().await.is_ok(), "it still answers");
}

#[tokio::test]
async fn who_has_closed_its_side_after_asking_is_answered() {
    let daemon = Daemon::start();
    for request in [
        "GET /v1/explain?client=10.1.2.3 HTTP/1.1\r\nHost: x\r\n\r\n",
        "POST /v1/reload HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nnull",
        "nonsense\r\n\r\n",
    ] {
        let mut stream = UnixStream::connect(daemon.client.socket())
            .await
            .expect("it listens");
        stream.write_all(request.as_bytes()).await.expect("sent");
        stream.shutdown().await.expect("closed");

        let mut answer = String::new();
        let read = stream.read_to_string(&mut answer);
        let ended = tokio::time::timeout(Duration::from_secs(20), read).await;

        assert!(ended.is_ok(), "the connection stays open: {request}");
        assert!(answer.starts_with("HTTP/1.1 "), "{request}: {answer:?}");
    }
}

#[tokio::test]
async fn only_the_group_may_open_the_socket() {
    let daemon = Daemon::start();

    let mode = fs::metadata(daemon.client.socket()).expect("there").mode();

    assert_eq!(mode & 0o777, 0o660);
}

#[tokio::test]
async fn a_socket_that_a_dead_daemon_left_is_replaced() {
    let directory = tempfile::tempdir().expect("a directory");
    let admin = admin(directory.path());
    drop(std::os::unix::net::UnixListener::bind(&admin.socket).expect("bound"));
    assert!(admin.socket.exists(), "the file outlives its listener");

    assert!(Server::open(&admin).is_ok());
}

#[tokio::test]
async fn a_living_daemon_is_respected() {
    let daemon = Daemon::start();

    let error = Server::open(&admin(daemon.directory.path())).err();

    let message = error.expect("taken").to_string();
    assert!(message.starts_with("another vipd answers on "), "{message}");
    assert!(daemon.client.status().await.is_ok());
}

#[tokio::test]
async fn an_unknown_group_is_refused_with_the_remedy() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut admin = admin(directory.path());
    admin.group = Some("no-such-group".to_owned());

    let error = Server::open(&admin).err().expect("refused");

    assert_eq!(
        error.to_string(),
        "admin.group = \"no-such-group\": there is no such group; make it with `groupadd \
         no-such-group`"
    );
    assert!(!admin.socket.exists());
}

#[tokio::test]
async fn the_socket_goes_with_the_daemon_and_the_client_says_what_to_do() {
    let daemon = Daemon::start();
    daemon.task.abort();
    assert!(daemon.task.await.is_err(), "it was aborted");

    let error = daemon.client.status().await.expect_err("nobody is there");

    let socket = daemon.directory.path().join("vipd.sock");
    assert!(!socket.exists());
    assert_eq!(
        error.to_string(),
        format!(
            "no daemon answers on {}: start `vipd run`, or name its socket with --socket",
            socket.display()
        )
    );
}

fn wanted(action: api::ClientsAction, prefixes: &[&str]) -> api::ChangeClients {
    api::ChangeClients {
        action,
        prefixes: prefixes
            .iter()
            .map(|text| text.parse().expect("a prefix"))
            .collect(),
        service: None,
        reason: Some("a scan".to_owned()),
    }
}

#[tokio::test]
async fn clients_are_blocked_and_forgotten_by_the_user_behind_the_socket() {
    let daemon = Daemon::start();
    let prefixes = ["10.1.0.0/16", "10.1.2.3/32"];

    let blocked = wanted(api::ClientsAction::Block, &prefixes);
    let changed = daemon.client.change_clients(&blocked).await.expect("done");

    assert_eq!((changed.prefixes, changed.service), (2, None));
    let listed = daemon.client.clients().await.expect("an answer");
    assert_eq!(listed.services[0].clients.block, 2);
    let rule = &listed.rules[0];
    assert_eq!(
        (rule.service.clone(), rule.prefix.to_string(), rule.rule),
        (None, "10.1.0.0/16".to_owned(), api::Rule::Block)
    );
    let change = rule.change.as_ref().expect("said at run time");
    assert_eq!(change.reason.as_deref(), Some("a scan"));
    assert!(!change.by.is_empty());
    let status = daemon.client.status().await.expect("an answer");
    let in_force = status.services[0].clients.as_ref().expect("snat");
    assert_eq!((in_force.block, in_force.others), (2, api::Rule::Allow));

    let forgotten = wanted(api::ClientsAction::Forget, &prefixes);
    daemon
        .client
        .change_clients(&forgotten)
        .await
        .expect("done");
    let listed = daemon.client.clients().await.expect("an answer");
    assert_eq!(listed.rules, []);
}

#[tokio::test]
async fn a_wish_about_clients_that_cannot_be_is_refused_with_its_reason() {
    let daemon = Daemon::start();
    let mut elsewhere = wanted(api::ClientsAction::Block, &["10.1.2.3"]);
    elsewhere.service = Some("web".to_owned());
    let forgotten = wanted(api::ClientsAction::Forget, &["10.1.2.3"]);
    let nobody = wanted(api::ClientsAction::Allow, &[]);

    for (wanted, kind) in [
        (elsewhere, api::ErrorKind::NotFound),
        (forgotten, api::ErrorKind::NotFound),
        (nobody, api::ErrorKind::BadRequest),
    ] {
        let refused = refusal(daemon.client.change_clients(&wanted).await);
        assert_eq!(refused.error, kind, "{}", refused.message);
    }
    let body = r#"{"action":"block","prefixes":["10.1.2.3/8"]}"#;
    let request = format!(
        "POST /v1/clients HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = daemon.raw(request.as_bytes()).await;
    assert!(answer.contains("write \\\"10.0.0.0/8\\\""), "{answer}");
}

#[tokio::test]
async fn ten_thousand_prefixes_are_one_request_and_take_less_than_a_second() {
    let daemon = Daemon::start();
    let networks = (0_u32..10_000).map(|place| std::net::Ipv4Addr::from(0x0a00_0000 + place * 512));
    let mut many = wanted(api::ClientsAction::Block, &[]);
    many.prefixes = networks
        .map(|network| format!("{network}/24").parse().expect("a prefix"))
        .collect();

    let begun = std::time::Instant::now();
    let changed = daemon.client.change_clients(&many).await.expect("done");
    let took = begun.elapsed();

    assert_eq!(changed.prefixes, 10_000);
    assert!(took < Duration::from_secs(1), "{took:?}");
    let listed = daemon.client.clients().await.expect("an answer");
    assert_eq!(listed.rules.len(), 10_000);
}
