//! What may come through the admin socket, and what is read to know who sent it.

use std::{
    cell::Cell,
    path::PathBuf,
    sync::{Arc, LazyLock},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    sync::Notify,
    task::JoinHandle,
};

use super::{api::ApiError, peer, server};
use crate::{
    config::{self, model::Config},
    control::{Control, overrides::Overrides, testing},
    dataplane::{Dataplane, fake::Fake},
    fuzz::block_on,
};

/// More than any answer takes.
const TIME: Duration = Duration::from_secs(20);
/// More than any answer of this daemon has, in bytes.
const ANSWER_BYTES: usize = 32 << 10;

/// Every complete request is answered, everything that is answered is HTTP with JSON, and control
/// outlives it.
pub(crate) fn request(data: &[u8]) {
    let answered = block_on(exchange(data));
    let answers = answers(&answered);
    let wanted = plain_requests(data);
    assert!(
        answers >= wanted,
        "{answers} answers to {wanted} requests: {}",
        String::from_utf8_lossy(&answered)
    );
}

/// Texts of the form of passwd(5) and group(5).
pub(crate) fn users(text: &str) {
    for number in [0, 1001, u32::MAX] {
        let name = peer::name_of(text, number);
        assert!(
            name.as_ref().is_none_or(|name| !name.is_empty()),
            "{name:?}"
        );
    }
    let _ = peer::number_of(text, "vipd");
}

/// Sends bytes to a daemon without a kernel and returns everything that it answers.
async fn exchange(request: &[u8]) -> Vec<u8> {
    let daemon = Daemon::take();
    let (here, there) = UnixStream::pair().expect("a pair of sockets");
    let client = async move {
        let (mut reader, mut writer) = here.into_split();
        let mut answer = Vec::new();
        tokio::join!(
            async {
                // The server may have answered, and be gone, before it has read everything.
                let _ = writer.write_all(request).await;
                let _ = writer.shutdown().await;
            },
            async {
                let _ = reader.read_to_end(&mut answer).await;
            }
        );
        answer
    };
    let both = async { tokio::join!(server::serve(there, &daemon.context), client).1 };
    let answer = tokio::time::timeout(TIME, both)
        .await
        .expect("an end of what is sent ends the connection");
    assert!(!daemon.context.handle.is_stopped(), "control has ended");
    daemon.put_back();
    answer
}

/// A daemon without a kernel. To start one takes time, so it serves until a request changes it.
struct Daemon {
    context: server::Context,
    control: JoinHandle<Box<dyn Dataplane>>,
}

thread_local! {
    static UNCHANGED: Cell<Option<Daemon>> = const { Cell::new(None) };
}

impl Daemon {
    fn take() -> Self {
        UNCHANGED.take().unwrap_or_else(Self::start)
    }

    fn put_back(self) {
        let state = Arc::clone(&self.context.handle.snapshot().state);
        if state.generation == 1 && state.overrides == Overrides::default() {
            UNCHANGED.set(Some(self));
        } else {
            self.control.abort();
        }
    }

    fn start() -> Self {
        let site = &*SITE;
        let mut fake = Fake::default();
        fake.image = testing::new_maps(&site.config);
        let image = fake.image().expect("a fake");
        let state = testing::running(site.config.clone());
        let (control, handle) =
            Control::new(Box::new(fake), image, state, Arc::default(), testing::now())
                .expect("a fake");
        Self {
            context: server::Context {
                proxy: Default::default(),
                handle,
                configuration: site.file.clone(),
                detach: Arc::new(Notify::new()),
            },
            control: tokio::spawn(control.run()),
        }
    }
}

/// The site of the daemon, and its file.
struct Site {
    config: Config,
    file: PathBuf,
}

static SITE: LazyLock<Site> = LazyLock::new(|| {
    let directory = std::env::temp_dir().join(format!("vipd-fuzz-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory");
    let text = format!(
        "[node]\n\
         interfaces = [\"eth0\"]\n\
         [state]\n\
         directory = \"{}\"\n\
         [[pool]]\n\
         name = \"ras\"\n\
         backends = [{{ name = \"gw1\", address = \"10.0.1.1\" }}, {{ name = \"gw2\", address = \
         \"10.0.1.2\" }}]\n\
         [[service]]\n\
         name = \"ras-udp\"\n\
         vip = \"10.0.0.100\"\n\
         port = 443\n\
         protocol = \"udp\"\n\
         forwarding = \"snat\"\n\
         pool = \"ras\"\n",
        directory.display()
    );
    let file = directory.join("vipd.toml");
    std::fs::write(&file, &text).expect("a file");
    Site {
        config: config::parse(&text).expect("a configuration"),
        file,
    }
});

/// Counts the answers, each of which must be whole and well formed.
fn answers(mut rest: &[u8]) -> usize {
    let mut count = 0;
    let mut last = false;
    while !rest.is_empty() {
        assert!(!last, "something follows the last answer");
        let Head {
            status,
            length,
            close,
        } = Head::read(&mut rest);
        last = close;
        if status < 200 {
            assert_eq!(length, None, "an interim answer has no body");
            continue;
        }
        count += 1;
        let length = length.expect("a length");
        assert!(length <= ANSWER_BYTES, "{length} bytes");
        // The answer to HEAD has a length and no body.
        if length > 0 && rest.first() == Some(&b'{') {
            let (body, after) = rest.split_at_checked(length).expect("a whole body");
            rest = after;
            let value: serde_json::Value = serde_json::from_slice(body).expect("JSON");
            if status != 200 {
                let error: ApiError = serde_json::from_value(value).expect("an error");
                assert_eq!(error.error.status(), status);
                assert!(!error.message.is_empty(), "an error without a message");
            }
        }
    }
    count
}

struct Head {
    status: u16,
    length: Option<usize>,
    close: bool,
}

impl Head {
    /// Takes the head of an answer (RFC 9112 section 2.1) off the bytes.
    fn read(rest: &mut &[u8]) -> Self {
        let end = rest
            .windows(4)
            .position(|window| window == b"\r\n\r\n")
            .expect("the end of a head");
        let head = std::str::from_utf8(&rest[..end]).expect("text");
        *rest = &rest[end + 4..];
        let mut lines = head.split("\r\n");
        let status = lines
            .next()
            .and_then(|line| {
                line.strip_prefix("HTTP/1.1 ")
                    .or_else(|| line.strip_prefix("HTTP/1.0 "))
            })
            .and_then(|line| line.get(..3)?.parse().ok())
            .expect("a status line");
        let mut found = Self {
            status,
            length: None,
            close: false,
        };
        for line in lines {
            let (name, value) = line.split_once(": ").expect("a header");
            assert!(!line.chars().any(char::is_control), "{line:?}");
            match name.to_ascii_lowercase().as_str() {
                "content-length" => {
                    assert_eq!(found.length, None, "two lengths");
                    found.length = Some(value.parse().expect("a number"));
                }
                "connection" => found.close = value == "close",
                _ => {}
            }
        }
        found
    }
}

/// Counts the requests without bodies and without anything that ends the connection, from the
/// start: those that must be answered whatever one makes of the rest.
fn plain_requests(data: &[u8]) -> usize {
    let mut rest = data;
    let mut count = 0;
    while let Some(end) = rest.windows(4).position(|window| window == b"\r\n\r\n") {
        let Some(head) = std::str::from_utf8(&rest[..end]).ok() else {
            break;
        };
        if !is_plain(head) {
            break;
        }
        count += 1;
        rest = &rest[end + 4..];
    }
    count
}

fn is_plain(head: &str) -> bool {
    let mut lines = head.split("\r\n");
    let request = lines.next().unwrap_or_default();
    let is_request = ["GET /", "POST /", "PUT /", "DELETE /"]
        .iter()
        .any(|start| request.starts_with(start))
        && request.ends_with(" HTTP/1.1")
        && request.len() < 1000
        && request.split(' ').count() == 3
        && request
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b" /.?=&%-".contains(&byte));
    is_request
        && head.len() < 4000
        && lines.clone().count() < 20
        && lines.all(|line| {
            line.split_once(": ").is_some_and(|(name, value)| {
                let known = ["Host", "Accept", "User-Agent"].contains(&name);
                known && value.bytes().all(|byte| byte.is_ascii_graphic())
            })
        })
}
