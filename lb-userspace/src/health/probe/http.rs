//! A request is answered with an expected status and, where one is expected, a text in the body.
//!
//! HTTP/1.1, one request on a connection of its own, redirects not followed.

use std::{collections::BTreeSet, pin::pin, sync::Arc};

use bytes::Bytes;
use futures_util::future::{Either, select};
use http_body_util::{BodyExt as _, Empty};
use hyper::{
    Method, Request, Response, Uri,
    body::Incoming,
    client::conn::http1,
    header::{ACCEPT, ACCEPT_ENCODING, CONNECTION, HOST, HeaderValue, LOCATION, USER_AGENT},
    http::uri::Authority,
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};

use super::{
    Awaited, Clock, Passed, ProbeFailure, ProbeTarget, connect,
    tls::{FAREWELL, handshake, server_name},
};
use crate::{
    config::model::HttpProbe,
    tls::{ClientTls, Trust, printable},
};

/// The body is searched and read up to here, in bytes.
pub(super) const BODY_LIMIT: usize = 1 << 20;

/// The head of an answer may be this large, in bytes.
const HEAD_LIMIT: usize = 72 << 10;

const AGENT: &str = concat!("vipd-health/", env!("CARGO_PKG_VERSION"));

pub(super) async fn probe(
    spec: &HttpProbe,
    target: &ProbeTarget,
    tls: Option<&Arc<ClientTls>>,
    clock: &Clock,
) -> Result<Passed, ProbeFailure> {
    let host = Host::new(spec, target);
    let request = request(spec, &host)?;
    let trust = tls.map_or(&Trust::Anybody, |tls| tls.trust());
    let exchange = Exchange::new(spec, target.port, trust, clock);
    match tls {
        None => {
            let stream = connect::open(target, clock).await?;
            exchange.run(stream, request).await
        }
        Some(tls) => {
            let name = server_name(host.name(), target)?;
            let stream = connect::open(target, clock).await?;
            let stream = handshake(stream, name, target.port, tls, clock).await?;
            exchange.run(stream, request).await
        }
    }
}

/// Sends the request on a connection that is there.
#[cfg(any(test, fuzzing))]
pub(super) async fn probe_on(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    spec: &HttpProbe,
    target: &ProbeTarget,
    clock: &Clock,
) -> Result<Passed, ProbeFailure> {
    let request = request(spec, &Host::new(spec, target))?;
    Exchange::new(spec, target.port, &Trust::Anybody, clock)
        .run(stream, request)
        .await
}

fn request(spec: &HttpProbe, host: &Host) -> Result<Request<Empty<Bytes>>, ProbeFailure> {
    let unsendable = |what: &str, value: &str| {
        ProbeFailure::Unsendable(format!("{value:?} is not a valid {what}; correct it"))
    };
    let method = Method::from_bytes(spec.method.as_bytes())
        .ok()
        .filter(|method| method != Method::CONNECT)
        .ok_or_else(|| unsendable("method", &spec.method))?;
    let path: Uri = spec
        .path
        .parse()
        .ok()
        .filter(|path: &Uri| path.authority().is_none())
        .ok_or_else(|| unsendable("path", &spec.path))?;
    let host = HeaderValue::from_str(&host.header).map_err(|_| unsendable("host", &host.header))?;

    let mut request = Request::new(Empty::new());
    *request.method_mut() = method;
    *request.uri_mut() = path;
    let headers = request.headers_mut();
    headers.insert(HOST, host);
    headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
    headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
    // The expected text is searched in the bytes as they come.
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    Ok(request)
}

/// Whom the request asks for.
struct Host {
    /// The `Host` header.
    header: String,
    named: bool,
}

impl Host {
    /// Takes the check's `host` or the backend's `server_name` as it stands: what the clients send.
    /// Only an address gets the port that RFC 9110 section 7.2 asks for.
    fn new(spec: &HttpProbe, target: &ProbeTarget) -> Self {
        if let Some(name) = spec.host.as_ref().or(target.server_name.as_ref()) {
            return Self {
                header: name.clone(),
                named: true,
            };
        }
        let default_port = if spec.tls.is_some() { 443 } else { 80 };
        let mut header = target.socket().to_string();
        if target.port == default_port {
            let port = header.rfind(':').unwrap_or(header.len());
            header.truncate(port);
        }
        Self {
            header,
            named: false,
        }
    }

    /// Returns the name without port and brackets; `None` for the target's own address.
    fn name(&self) -> Option<&str> {
        if !self.named {
            return None;
        }
        let bare = match self.header.parse::<Authority>() {
            Ok(authority) => authority.host().len(),
            Err(_) => self.header.len(),
        };
        let name = self.header.get(..bare).unwrap_or(&self.header);
        Some(name.trim_start_matches('[').trim_end_matches(']'))
    }
}

/// One request and the judgement of its answer.
struct Exchange<'a> {
    spec: &'a HttpProbe,
    /// Method and path, for messages.
    title: String,
    port: u16,
    trust: &'a Trust,
    clock: &'a Clock,
}

impl<'a> Exchange<'a> {
    fn new(spec: &'a HttpProbe, port: u16, trust: &'a Trust, clock: &'a Clock) -> Self {
        Self {
            spec,
            title: format!("{} {}", spec.method, spec.path),
            port,
            trust,
            clock,
        }
    }

    async fn run<S>(
        &self,
        stream: S,
        request: Request<Empty<Bytes>>,
    ) -> Result<Passed, ProbeFailure>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let awaited = &Awaited::Answer(self.title.clone());
        let failure = |error| ProbeFailure::from_hyper(&error, awaited, self.port, self.trust);
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(HEAD_LIMIT)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(failure)?;

        let verdict = pin!(async move {
            let response = self
                .clock
                .wait(awaited, sender.send_request(request))
                .await?
                .map_err(failure)?;
            self.judge(response).await
        });
        // The connection works only while it is polled. When it ends first, everything that it
        // brought is with the verdict already.
        match select(verdict, pin!(connection)).await {
            Either::Left((verdict, connection)) => {
                // The verdict stands: how the peer takes the end does not matter.
                let _ = timeout(FAREWELL, connection).await;
                verdict
            }
            Either::Right((_ended, verdict)) => verdict.await,
        }
    }

    async fn judge(&self, response: Response<Incoming>) -> Result<Passed, ProbeFailure> {
        let status = response.status().as_u16();
        if !self.spec.expect_status.contains(&status) {
            let location = response
                .headers()
                .get(LOCATION)
                .map(|value| printable(&String::from_utf8_lossy(value.as_bytes())));
            let _ = timeout(FAREWELL, drain(response.into_body())).await;
            return Err(ProbeFailure::Status {
                request: self.title.clone(),
                status,
                expected: expected(&self.spec.expect_status),
                location,
            });
        }
        match &self.spec.expect_body {
            Some(text) => self.search(response.into_body(), status, text).await,
            None => {
                let passed = self
                    .clock
                    .passed(format!("{} answered {status}", self.title));
                let _ = timeout(FAREWELL, drain(response.into_body())).await;
                Ok(passed)
            }
        }
    }

    async fn search(
        &self,
        mut body: Incoming,
        status: u16,
        text: &str,
    ) -> Result<Passed, ProbeFailure> {
        let awaited = Awaited::Body(self.title.clone());
        let mut search = Search::new(text.as_bytes());
        let mut read = 0;
        while !search.found {
            let part = if read < BODY_LIMIT {
                match self.clock.wait(&awaited, body.frame()).await? {
                    Some(frame) => {
                        let frame = frame.map_err(|error| {
                            ProbeFailure::from_hyper(&error, &awaited, self.port, self.trust)
                        })?;
                        if let Ok(data) = frame.into_data() {
                            let wanted = data.len().min(BODY_LIMIT - read);
                            read += wanted;
                            search.feed(&data[..wanted]);
                        }
                        continue;
                    }
                    None => "body",
                }
            } else {
                "first 1 MiB of the body"
            };
            return Err(ProbeFailure::Body {
                request: self.title.clone(),
                status,
                part,
                text: text.to_owned(),
            });
        }
        let passed = self
            .clock
            .passed(format!("{} answered {status} with {text:?}", self.title));
        let _ = timeout(FAREWELL, drain(body)).await;
        Ok(passed)
    }
}

/// Reads what is left of a body, within limits, so that the connection ends without a reset.
async fn drain(mut body: Incoming) {
    let mut read = 0;
    while let Some(Ok(frame)) = body.frame().await {
        read += frame.data_ref().map_or(0, Bytes::len);
        if read > BODY_LIMIT {
            return;
        }
    }
}

/// Looks for a text in a body that comes in pieces, keeping no more than the text is long.
struct Search<'a> {
    text: &'a [u8],
    /// The end of what came before, shorter than the text.
    tail: Vec<u8>,
    found: bool,
}

impl<'a> Search<'a> {
    fn new(text: &'a [u8]) -> Self {
        Self {
            text,
            tail: Vec::new(),
            found: text.is_empty(),
        }
    }

    fn feed(&mut self, piece: &[u8]) {
        if self.found {
            return;
        }
        let overlap = self.text.len() - 1;
        self.tail
            .extend_from_slice(&piece[..overlap.min(piece.len())]);
        self.found = contains(&self.tail, self.text) || contains(piece, self.text);
        if piece.len() >= overlap {
            self.tail = piece[piece.len() - overlap..].to_vec();
        } else {
            let surplus = self.tail.len().saturating_sub(overlap);
            self.tail.drain(..surplus);
        }
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// Returns a set of status codes in words, runs of them as ranges: `200`, `200-299 or 401`.
fn expected(codes: &BTreeSet<u16>) -> String {
    let mut runs: Vec<(u16, u16)> = Vec::new();
    for code in codes {
        match runs.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(*code) => *last = *code,
            _ => runs.push((*code, *code)),
        }
    }
    let words: Vec<String> = runs
        .into_iter()
        .map(|(first, last)| {
            if first == last {
                first.to_string()
            } else {
                format!("{first}-{last}")
            }
        })
        .collect();
    words.join(" or ")
}

#[cfg(test)]
#[expect(
    clippy::unwrap_used,
    reason = "a test may panic where its set-up fails"
)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn expected_statuses_read_well() {
        for (codes, text) in [
            (vec![200], "200"),
            (vec![200, 204], "200 or 204"),
            (vec![200, 201, 202, 401], "200-202 or 401"),
            (vec![301, 302], "301-302"),
        ] {
            assert_eq!(expected(&codes.into_iter().collect()), text);
        }
    }

    #[test]
    fn the_host_is_what_clients_send() {
        for (host, server_name, address, port, over_tls, header, name) in [
            (
                Some("a.uni.edu"),
                Some("b.uni.edu"),
                "10.0.0.1",
                8443,
                true,
                "a.uni.edu",
                Some("a.uni.edu"),
            ),
            (
                None,
                Some("b.uni.edu"),
                "10.0.0.1",
                8443,
                true,
                "b.uni.edu",
                Some("b.uni.edu"),
            ),
            (
                Some("a.uni.edu:8443"),
                None,
                "10.0.0.1",
                8443,
                true,
                "a.uni.edu:8443",
                Some("a.uni.edu"),
            ),
            (
                Some("[fd00::7]:8443"),
                None,
                "10.0.0.1",
                8443,
                true,
                "[fd00::7]:8443",
                Some("fd00::7"),
            ),
            (None, None, "10.0.0.1", 443, true, "10.0.0.1", None),
            (None, None, "10.0.0.1", 443, false, "10.0.0.1:443", None),
            (None, None, "10.0.0.1", 80, false, "10.0.0.1", None),
            (None, None, "fd00::1", 443, true, "[fd00::1]", None),
            (None, None, "fd00::1", 8443, true, "[fd00::1]:8443", None),
        ] {
            let spec = HttpProbe {
                tls: over_tls.then_some(crate::config::model::Verify::None),
                host: host.map(str::to_owned),
                path: String::from("/"),
                method: String::from("GET"),
                expect_status: BTreeSet::from([200]),
                expect_body: None,
            };
            let target = ProbeTarget {
                name: String::from("aa01"),
                address: address.parse().unwrap(),
                port,
                server_name: server_name.map(str::to_owned),
                pin: None,
            };

            let host = Host::new(&spec, &target);

            assert_eq!((host.header.as_str(), host.name()), (header, name));
        }
    }

    proptest! {
        /// Searching pieces finds exactly what searching the whole finds.
        #[test]
        fn a_text_is_found_however_the_body_is_cut(
            text in "[ab]{1,6}",
            body in "[ab]{0,40}",
            cuts in proptest::collection::vec(0_usize..8, 0..40),
        ) {
            let mut search = Search::new(text.as_bytes());
            let mut rest = body.as_bytes();
            for cut in cuts {
                let (piece, after) = rest.split_at(cut.min(rest.len()));
                search.feed(piece);
                rest = after;
            }
            search.feed(rest);

            prop_assert_eq!(search.found, body.contains(&text));
        }
    }
}
