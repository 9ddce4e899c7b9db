//! One connection of an origin, on a thread of its own.

use std::{
    io::{self, Write},
    net::{SocketAddr, TcpStream},
    sync::{Arc, atomic::Ordering},
    thread,
    time::{Duration, Instant},
};

use super::{
    Agreed, End, Record, Request, Response, Shared,
    connections::Handle,
    events::Next,
    pages,
    response::{Body, PATTERN},
    sign_on,
};
use crate::lab::{
    gate::Gate,
    http1::{BodyReader, Framing},
    stream::{Stream, peer_has_ended},
    websocket::{self, Frame},
    wire::Wire,
};

/// How often a thread that waits for something else than its socket looks whether it shall end.
const POLL: Duration = Duration::from_millis(20);

/// Serves a connection to its end.
pub(super) fn serve(shared: &Shared, handle: &Handle, socket: TcpStream, peer: SocketAddr) {
    // Neither fails on a TCP socket. A write that waits is how a thread sees that it shall end.
    let _ = socket.set_write_timeout(Some(POLL));
    let _ = socket.set_nodelay(true);
    let stream = match &shared.tls {
        None => Ok(Stream::Plain(socket)),
        Some(settings) => Stream::server(socket, Arc::clone(settings)),
    };
    match stream {
        Ok(stream) => {
            let mut connection = Connection {
                shared,
                handle,
                peer,
                tls: stream.agreed(),
                wire: Wire::new(stream),
                requests: 0,
                signed_on: sign_on::State::default(),
            };
            // An error is the peer's end, or has been answered or recorded.
            let end = connection.run().unwrap_or(End::Close);
            let stream = connection.wire.into_stream();
            handle.release();
            stream.end(handle.asked().unwrap_or(end));
        }
        Err(error) => {
            let mut log = shared.log.lock().expect("nobody panics with the lock");
            log.failed_handshakes += 1;
            log.handshake_failure = Some(error.to_string());
        }
    }
    shared.connections.remove(handle.number());
}

struct Connection<'a> {
    shared: &'a Shared,
    handle: &'a Handle,
    peer: SocketAddr,
    tls: Option<Agreed>,
    wire: Wire,
    requests: u64,
    signed_on: sign_on::State,
}

/// A request that is being read and answered.
struct Exchange {
    record: Record,
    body: BodyReader,
    framing: Framing,
    expects_continue: bool,
}

impl Connection<'_> {
    fn run(&mut self) -> io::Result<End> {
        loop {
            let head = match self.wire.head() {
                Ok(Some(head)) => head,
                Ok(None) => return Ok(End::Close),
                Err(error) => {
                    self.record_half_a_head(&error);
                    return Err(error);
                }
            };
            if let Some(end) = self.request(head)? {
                return Ok(end);
            }
        }
    }

    /// Answers one request; returns how the connection ends, if it does.
    fn request(&mut self, head: Vec<u8>) -> io::Result<Option<End>> {
        let mut request = self.begin(head);
        let framing = match Framing::of_request(&request.head) {
            Ok(framing) => framing,
            Err(fault) => {
                self.log(Record {
                    fault: Some(fault),
                    ..Record::new(request)
                });
                self.send(
                    b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
                )?;
                return Ok(Some(End::Close));
            }
        };
        let refusal = self.sign_on(&mut request);
        let response = refusal
            .or_else(|| self.rule(&request))
            .unwrap_or_else(|| pages::page(&request));
        let mut exchange = Exchange {
            expects_continue: request
                .header("expect")
                .is_some_and(|value| value.eq_ignore_ascii_case("100-continue")),
            record: Record::new(request),
            body: BodyReader::new(framing),
            framing,
        };
        if response.early {
            match response.body {
                Body::Echo => self.say_continue(&mut exchange)?,
                // After a final answer there is no interim one.
                _ => exchange.expects_continue = false,
            }
            let answered = self.answer(&mut exchange, &response);
            let drained = match (&answered, response.end) {
                (Ok(_), None) => self.drain(&mut exchange),
                _ => Ok(()),
            };
            self.log(exchange.record);
            return drained.and(answered);
        }
        let drained = self.drain(&mut exchange);
        // Before the answer: a test may look while the answer waits at a gate.
        self.log(exchange.record.clone());
        drained?;
        self.answer(&mut exchange, &response)
    }

    fn begin(&mut self, head: Vec<u8>) -> Request {
        self.requests += 1;
        Request {
            connection: self.handle.number(),
            number: self.requests,
            peer: self.peer,
            tls: self.tls.clone(),
            user: None,
            head,
        }
    }

    fn sign_on(&mut self, request: &mut Request) -> Option<Response> {
        let scheme = self.shared.sign_on.as_deref()?;
        if pages::is_public(&request.path()) {
            request.user = self.signed_on.user();
            return None;
        }
        let refusal = self.signed_on.next(
            scheme,
            self.handle.number(),
            request.header("authorization"),
        );
        if refusal.is_none() {
            request.user = self.signed_on.user();
        }
        refusal
    }

    fn rule(&self, request: &Request) -> Option<Response> {
        let rule = self
            .shared
            .rule
            .read()
            .expect("nobody panics with the lock")
            .clone();
        rule.and_then(|rule| rule(request))
    }

    /// Reads what is left of the request's body.
    fn drain(&mut self, exchange: &mut Exchange) -> io::Result<()> {
        while self.read_on(exchange)?.is_some() {}
        Ok(())
    }

    fn say_continue(&mut self, exchange: &mut Exchange) -> io::Result<()> {
        if std::mem::take(&mut exchange.expects_continue) {
            self.send(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        Ok(())
    }

    fn read_on(&mut self, exchange: &mut Exchange) -> io::Result<Option<Vec<u8>>> {
        self.say_continue(exchange)?;
        match exchange.body.next(&mut self.wire) {
            Ok(Some(piece)) => {
                exchange.record.add(&piece);
                let length = piece.data.len() as u64;
                self.shared
                    .body_received
                    .fetch_add(length, Ordering::Relaxed);
                Ok(Some(piece.data))
            }
            Ok(None) => {
                exchange.record.complete = true;
                Ok(None)
            }
            Err(error) => {
                exchange.record.fault = Some(format!("the body ends early: {error}"));
                Err(error)
            }
        }
    }

    fn answer(&mut self, exchange: &mut Exchange, response: &Response) -> io::Result<Option<End>> {
        self.pause(response.delay)?;
        self.pass(response.head_gate.as_ref())?;
        match &response.body {
            Body::Nothing => return Ok(response.end),
            Body::Verbatim(bytes) => {
                self.send(bytes)?;
                return Ok(response.end);
            }
            _ => {}
        }
        let identity;
        let body = if let Body::Identity = response.body {
            identity = Body::Bytes(self.identity(&exchange.record));
            &identity
        } else {
            &response.body
        };
        let mut out = self.head(exchange, response, body);
        if exchange.record.method() == "HEAD" {
            self.send(&out)?;
            return Ok(response.end);
        }
        if response.body_gate.is_some() {
            self.send(&std::mem::take(&mut out))?;
            self.pass(response.body_gate.as_ref())?;
        }
        self.body(exchange, out, body)
            .map(|end| end.or(response.end))
    }

    fn identity(&self, record: &Record) -> Vec<u8> {
        let server_name = record.tls.as_ref().and_then(|tls| tls.server_name.clone());
        let mut text = serde_json::json!({
            "backend": self.shared.name,
            "connection": record.connection,
            "request": record.number,
            "client": record.header("x-forwarded-for"),
            "host": record.header("host"),
            "method": record.method(),
            "path": record.target(),
            "body_length": record.body_length,
            "user": record.user,
            "server_name": server_name,
        })
        .to_string();
        text.push('\n');
        text.into_bytes()
    }

    fn head(&self, exchange: &Exchange, response: &Response, body: &Body) -> Vec<u8> {
        let status = response.status;
        let mut head = format!(
            "HTTP/1.1 {status} {}\r\nX-Backend: {}\r\n",
            reason(status),
            self.shared.name
        );
        if let Some(user) = &exchange.record.user {
            head += &format!("X-User: {user}\r\n");
        }
        if self.shared.sign_on.is_some() {
            let (connection, number) = (exchange.record.connection, exchange.record.number);
            head += &format!("X-Connection: {connection}/{number}\r\n");
        }
        head += &match body {
            // The test has its own idea of the body's length.
            _ if response.declares_length() => String::new(),
            _ if matches!(status, 100..=199 | 204 | 304) => String::new(),
            Body::Bytes(bytes) => content_length(bytes.len() as u64),
            Body::Filled(length) => content_length(*length),
            Body::Echo => match exchange.framing {
                Framing::Length(length) => content_length(length),
                Framing::Chunked | Framing::UntilEnd => CHUNKED.to_owned(),
            },
            Body::Events => format!("Content-Type: text/event-stream\r\n{CHUNKED}"),
            Body::FilledChunks(_) | Body::Chunks(_) => CHUNKED.to_owned(),
            Body::Identity | Body::WebSocket | Body::Verbatim(_) | Body::Nothing => String::new(),
        };
        if let (Body::WebSocket, Some(key)) = (body, exchange.record.header("sec-websocket-key")) {
            head += &format!(
                "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {}\r\n",
                websocket::accept(key)
            );
        }
        let mut head = head.into_bytes();
        head.extend_from_slice(&response.headers);
        head.extend_from_slice(b"\r\n");
        head
    }

    /// Sends `out`, which holds the head, and the body after it.
    fn body(
        &mut self,
        exchange: &mut Exchange,
        mut out: Vec<u8>,
        body: &Body,
    ) -> io::Result<Option<End>> {
        match body {
            Body::Bytes(bytes) => {
                out.extend_from_slice(bytes);
                self.send(&out)?;
            }
            Body::Filled(length) => {
                self.send(&out)?;
                self.fill(*length, |piece| piece.to_vec())?;
            }
            Body::FilledChunks(length) => {
                self.send(&out)?;
                self.fill(*length, chunk)?;
                self.send(LAST_CHUNK)?;
            }
            Body::Chunks(chunks) => {
                self.send(&out)?;
                for bytes in chunks {
                    self.send(&chunk(bytes))?;
                }
                self.send(LAST_CHUNK)?;
            }
            Body::Echo => {
                self.send(&out)?;
                self.echo(exchange)?;
            }
            Body::Events => {
                self.send(&out)?;
                self.events()?;
            }
            Body::WebSocket => {
                self.send(&out)?;
                self.echo_messages()?;
                return Ok(Some(End::Close));
            }
            Body::Identity | Body::Verbatim(_) | Body::Nothing => self.send(&out)?,
        }
        Ok(None)
    }

    fn fill(&mut self, length: u64, framed: impl Fn(&[u8]) -> Vec<u8>) -> io::Result<()> {
        let mut left = length;
        while left > 0 {
            let piece = usize::try_from(left).map_or(PATTERN.len(), |left| left.min(PATTERN.len()));
            self.send(&framed(&PATTERN[..piece]))?;
            left -= piece as u64;
        }
        Ok(())
    }

    fn echo(&mut self, exchange: &mut Exchange) -> io::Result<()> {
        let chunked = exchange.framing == Framing::Chunked;
        while let Some(data) = self.read_on(exchange)? {
            match (chunked, data.as_slice()) {
                // The lines of the request's chunks; a chunk of no bytes would end the answer.
                (_, []) => {}
                (true, data) => self.send(&chunk(data))?,
                (false, data) => self.send(data)?,
            }
        }
        if chunked {
            self.send(LAST_CHUNK)?;
        }
        Ok(())
    }

    fn events(&mut self) -> io::Result<()> {
        let mut reader = self.shared.events.reader();
        loop {
            match reader.next() {
                Next::Event(data) => self.send(&chunk(format!("data: {data}\n\n").as_bytes()))?,
                Next::End => return self.send(LAST_CHUNK),
                Next::Nothing if self.is_wanted() => {}
                Next::Nothing => return Err(io::ErrorKind::ConnectionAborted.into()),
            }
        }
    }

    fn echo_messages(&mut self) -> io::Result<()> {
        loop {
            let mut frame = Frame::read(&mut self.wire)?;
            if frame.opcode == websocket::PING {
                frame.opcode = websocket::PONG;
            }
            let mut bytes = Vec::new();
            frame.write(&mut bytes, None)?;
            self.send(&bytes)?;
            if frame.opcode == websocket::CLOSE {
                return Ok(());
            }
        }
    }

    fn pause(&self, delay: Duration) -> io::Result<()> {
        let end = Instant::now() + delay;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            if !self.is_wanted() {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            thread::sleep(left.min(POLL));
        }
    }

    fn pass(&self, gate: Option<&Gate>) -> io::Result<()> {
        match gate {
            Some(gate) if !gate.wait(|| self.is_wanted()) => {
                Err(io::ErrorKind::ConnectionAborted.into())
            }
            _ => Ok(()),
        }
    }

    /// Whether peer and test still want this connection.
    fn is_wanted(&self) -> bool {
        self.handle.asked().is_none() && !peer_has_ended(self.wire.stream().socket())
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut left = bytes;
        while !left.is_empty() {
            match self.wire.write(left) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(length) => left = &left[length..],
                Err(error) => self.wait_longer(error)?,
            }
        }
        while let Err(error) = self.wire.flush() {
            self.wait_longer(error)?;
        }
        Ok(())
    }

    fn wait_longer(&self, error: io::Error) -> io::Result<()> {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                if self.handle.asked().is_none() =>
            {
                Ok(())
            }
            io::ErrorKind::Interrupted => Ok(()),
            _ => Err(error),
        }
    }

    fn record_half_a_head(&mut self, error: &io::Error) {
        if self.wire.ahead().is_empty() || self.handle.asked().is_some() {
            return;
        }
        let request = self.begin(self.wire.ahead().to_vec());
        self.log(Record {
            fault: Some(format!("the head ends early: {error}")),
            ..Record::new(request)
        });
    }

    fn log(&self, record: Record) {
        self.shared
            .log
            .lock()
            .expect("nobody panics with the lock")
            .add(record);
    }
}

const CHUNKED: &str = "Transfer-Encoding: chunked\r\n";

const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

fn content_length(length: u64) -> String {
    format!("Content-Length: {length}\r\n")
}

fn chunk(bytes: &[u8]) -> Vec<u8> {
    let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
    chunk.extend_from_slice(bytes);
    chunk.extend_from_slice(b"\r\n");
    chunk
}

fn reason(status: u16) -> &'static str {
    match status {
        101 => "Switching Protocols",
        200..=299 => "Fine",
        300..=399 => "Elsewhere",
        401 => "Unauthorized",
        400..=499 => "Refused",
        500..=599 => "Failed",
        _ => "Whatever",
    }
}
