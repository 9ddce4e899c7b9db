//! What is known about one request or connection, and its line.
//!
//! A line is one JSON object in ASCII: whatever a client sends, it can neither end the line nor
//! reach the terminal of who reads it. Keys whose value is not known are left out. Times are in UTC
//! with milliseconds (RFC 3339), durations are whole microseconds and their keys end in `_us`.

use std::{
    borrow::Cow,
    io::{self, Write},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde::{Serialize, Serializer};
use serde_json::ser::{CharEscape, Formatter};

use crate::telemetry::rfc3339;

/// The longest request target that is kept, in bytes.
const MOST_TARGET: usize = 2048;

/// The longest other text that a client or backend had a say in, in bytes: a host name's most.
const MOST_TEXT: usize = 256;

/// One request of an `http` or `redirect` service, or one connection of a `tcp` service.
///
/// The fields stand in the order of the line.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Record {
    /// When it began.
    #[serde(serialize_with = "time")]
    pub time: SystemTime,
    /// The service's name.
    #[serde(serialize_with = "text")]
    pub service: Arc<str>,
    /// What the service does with it.
    pub kind: Kind,
    /// The client, as the PROXY protocol says where it is used.
    pub client: SocketAddr,
    /// `pool/name` of the backend that answered or was tried last.
    #[serde(
        serialize_with = "optional_text",
        skip_serializing_if = "Option::is_none"
    )]
    pub backend: Option<Arc<str>>,
    /// Its address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend_address: Option<SocketAddr>,
    /// The request's method.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<Cow<'static, str>>,
    /// The request's target, its first 2048 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// The request's host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// `HTTP/1.1` and the like, as the client speaks it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<&'static str>,
    /// The status that the client got.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Bytes from the client: of the request's body, or of the connection.
    pub bytes_in: u64,
    /// Bytes to the client.
    pub bytes_out: u64,
    /// How long the client's TLS handshake took.
    #[serde(
        rename = "handshake_us",
        serialize_with = "micros",
        skip_serializing_if = "Option::is_none"
    )]
    pub handshake: Option<Duration>,
    /// From the beginning until there was a connection to the backend.
    #[serde(
        rename = "wait_us",
        serialize_with = "micros",
        skip_serializing_if = "Option::is_none"
    )]
    pub wait: Option<Duration>,
    /// From the beginning to the first byte of the backend's answer.
    #[serde(
        rename = "first_byte_us",
        serialize_with = "micros",
        skip_serializing_if = "Option::is_none"
    )]
    pub first_byte: Option<Duration>,
    /// From the beginning to the end.
    #[serde(
        rename = "total_us",
        serialize_with = "micros",
        skip_serializing_if = "Option::is_none"
    )]
    pub total: Option<Duration>,
    /// The connection to the backend had served before.
    pub reused: bool,
    /// How many other attempts were made before.
    pub retries: u8,
    /// Whose fault it is that it did not end well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<Side>,
    /// What happened then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Cow<'static, str>>,
    /// `1.3` and the like, towards the client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_version: Option<&'static str>,
    /// The name that the client asked for in TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sni: Option<String>,
}

/// What a service does: its `forwarding`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    Http,
    Tcp,
    Redirect,
}

/// Who is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Side {
    /// The client broke off, was too slow, or sent what cannot be served.
    Client,
    /// The backend refused, failed, or was too slow.
    Backend,
    /// This daemon, or its configuration.
    Us,
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
        let start = out.len();
        let mut json = serde_json::Serializer::with_formatter(&mut *out, Ascii);
        // Nothing here has no form in JSON, and writing to memory does not fail; half a line would
        // spoil the next one.
        if self.serialize(&mut json).is_err() {
            out.truncate(start);
            return;
        }
        out.push(b'\n');
    }
}

/// Returns the first `most` bytes of a text, or a little less, so that it ends with a character.
fn beginning(text: &str, most: usize) -> &str {
    let end = (0..=most).rev().find(|&end| text.is_char_boundary(end));
    &text[..end.unwrap_or(0)]
}

fn time<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&rfc3339(*time))
}

fn text<S: Serializer>(text: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text)
}

fn optional_text<S: Serializer>(text: &Option<Arc<str>>, serializer: S) -> Result<S::Ok, S::Error> {
    text.as_deref().serialize(serializer)
}

/// `None` is left out before.
fn micros<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    let micros = duration.unwrap_or_default().as_micros();
    serializer.serialize_u64(u64::try_from(micros).unwrap_or(u64::MAX))
}

/// JSON without spaces in which everything but printable ASCII is written as `\u` and four digits
/// (RFC 8259 section 7).
struct Ascii;

impl Formatter for Ascii {
    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let printable = |character: &char| matches!(character, ' '..='~');
        let mut rest = fragment;
        while let Some(at) = rest.find(|character| !printable(&character)) {
            let (plain, odd) = rest.split_at(at);
            writer.write_all(plain.as_bytes())?;
            let end = odd.find(|character| printable(&character));
            let (odd, after) = odd.split_at(end.unwrap_or(odd.len()));
            for unit in odd.encode_utf16() {
                write!(writer, "\\u{unit:04x}")?;
            }
            rest = after;
        }
        writer.write_all(rest.as_bytes())
    }

    fn write_char_escape<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        escape: CharEscape,
    ) -> io::Result<()> {
        serde_json::ser::CompactFormatter.write_char_escape(writer, escape)
    }
}
