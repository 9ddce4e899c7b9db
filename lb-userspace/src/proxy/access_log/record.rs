//! What is known about one request or connection, and its line.
//!
//! A line is one JSON object in ASCII: whatever a client sends, it can neither end the line nor
//! reach the terminal of who reads it. Keys whose value is not known are left out. Times are in UTC
//! with milliseconds (RFC 3339), durations are whole microseconds and their keys end in `_us`.

use std::{
    borrow::Cow,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::line::{Line, key};

/// The longest request target that is kept, in bytes.
const MOST_TARGET: usize = 2048;

/// The longest other text that a client or backend had a say in, in bytes: a host name's most.
const MOST_TEXT: usize = 256;

/// One request of an `http` or `redirect` service, or one connection of a `tcp` service.
///
/// The fields stand in the order of the line.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    /// When it began.
    pub time: SystemTime,
    /// The service's name.
    pub service: Arc<str>,
    /// What the service does with it.
    pub kind: Kind,
    /// The client, as the PROXY protocol says where it is used.
    pub client: SocketAddr,
    /// `pool/name` of the backend that answered or was tried last.
    pub backend: Option<Arc<str>>,
    /// Its address.
    pub backend_address: Option<SocketAddr>,
    /// The request's method.
    pub method: Option<Cow<'static, str>>,
    /// The request's target, its first 2048 bytes.
    pub target: Option<String>,
    /// The request's host.
    pub host: Option<String>,
    /// `HTTP/1.1` and the like, as the client speaks it.
    pub protocol: Option<&'static str>,
    /// The status that the client got.
    pub status: Option<u16>,
    /// Bytes from the client: of the request's body, or of the connection.
    pub bytes_in: u64,
    /// Bytes to the client.
    pub bytes_out: u64,
    /// How long the client's TLS handshake took.
    pub handshake: Option<Duration>,
    /// From the beginning until there was a connection to the backend.
    pub wait: Option<Duration>,
    /// From the beginning to the first byte of the backend's answer.
    pub first_byte: Option<Duration>,
    /// From the beginning to the end.
    pub total: Option<Duration>,
    /// The connection to the backend had served before.
    pub reused: bool,
    /// How many other attempts were made before.
    pub retries: u8,
    /// Whose fault it is that it did not end well.
    pub fault: Option<Side>,
    /// What happened then.
    pub reason: Option<Cow<'static, str>>,
    /// `1.3` and the like, towards the client.
    pub tls_version: Option<&'static str>,
    /// The name that the client asked for in TLS.
    pub sni: Option<String>,
}

/// What a service does: its `forwarding`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Http,
    Tcp,
    Redirect,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Tcp => "tcp",
            Self::Redirect => "redirect",
        }
    }
}

/// Who is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// The client broke off, was too slow, or sent what cannot be served.
    Client,
    /// The backend refused, failed, or was too slow.
    Backend,
    /// This daemon, or its configuration.
    Us,
}

impl Side {
    fn word(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Backend => "backend",
            Self::Us => "us",
        }
    }
}

impl Record {
    /// Returns what is known when a request or connection begins.
    pub(crate) fn begin(service: Arc<str>, kind: Kind, client: SocketAddr) -> Self {
        Self {
            time: SystemTime::now(),
            service,
            kind,
            client,
            backend: None,
            backend_address: None,
            method: None,
            target: None,
            host: None,
            protocol: None,
            status: None,
            bytes_in: 0,
            bytes_out: 0,
            handshake: None,
            wait: None,
            first_byte: None,
            total: None,
            reused: false,
            retries: 0,
            fault: None,
            reason: None,
            tls_version: None,
            sni: None,
        }
    }

    /// Cuts what strangers chose the length of, so that a full queue has a bounded size.
    pub(super) fn shorten(&mut self) {
        for (text, most) in [
            (&mut self.target, MOST_TARGET),
            (&mut self.host, MOST_TEXT),
            (&mut self.sni, MOST_TEXT),
        ] {
            if let Some(text) = text.as_mut().filter(|text| text.len() > most) {
                *text = beginning(text, most).to_owned();
            }
        }
        for text in [&mut self.method, &mut self.reason] {
            if let Some(text) = text.as_mut().filter(|text| text.len() > MOST_TEXT) {
                *text = beginning(text, MOST_TEXT).to_owned().into();
            }
        }
    }

    /// Appends the line.
    pub(super) fn line(&self, out: &mut Vec<u8>) {
        let mut line = Line::begin(out);
        line.time(key!("time"), self.time);
        line.text(key!("service"), &self.service);
        line.text(key!("kind"), self.kind.word());
        line.address(key!("client"), self.client);
        line.optional_text(key!("backend"), self.backend.as_deref());
        if let Some(address) = self.backend_address {
            line.address(key!("backend_address"), address);
        }
        line.optional_text(key!("method"), self.method.as_deref());
        line.optional_text(key!("target"), self.target.as_deref());
        line.optional_text(key!("host"), self.host.as_deref());
        line.optional_text(key!("protocol"), self.protocol);
        if let Some(status) = self.status {
            line.number(key!("status"), status.into());
        }
        line.number(key!("bytes_in"), self.bytes_in);
        line.number(key!("bytes_out"), self.bytes_out);
        for (key, duration) in [
            (key!("handshake_us"), self.handshake),
            (key!("wait_us"), self.wait),
            (key!("first_byte_us"), self.first_byte),
            (key!("total_us"), self.total),
        ] {
            if let Some(duration) = duration {
                line.number(key, u64::try_from(duration.as_micros()).unwrap_or(u64::MAX));
            }
        }
        line.truth(key!("reused"), self.reused);
        line.number(key!("retries"), self.retries.into());
        line.optional_text(key!("fault"), self.fault.map(Side::word));
        line.optional_text(key!("reason"), self.reason.as_deref());
        line.optional_text(key!("tls_version"), self.tls_version);
        line.optional_text(key!("sni"), self.sni.as_deref());
        line.end();
    }
}

/// Returns the first `most` bytes of a text, or a little less, so that it ends with a character.
fn beginning(text: &str, most: usize) -> &str {
    let end = (0..=most).rev().find(|&end| text.is_char_boundary(end));
    &text[..end.unwrap_or(0)]
}
