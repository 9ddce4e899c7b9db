//! Why a probe failed, as an administrator would say it.

use std::{error::Error, fmt, io, time::Duration};

use crate::tls::{Trust, TrustError, describe, printable};

/// Why a probe failed. The text is one line without a full stop, with the remedy where there is one
/// other than repairing the server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProbeFailure {
    /// Nothing listens on the port, or a firewall says so.
    #[error("connection refused on port {port}")]
    Refused {
        /// The port.
        port: u16,
    },
    /// The network says that the address cannot be reached.
    #[error("{detail}: down or offline")]
    Unreachable {
        /// What the system says, such as `no route to host`.
        detail: String,
    },
    /// No answer in time.
    #[error("no answer within {after:?}: down or offline{}", to.silence())]
    NoAnswer {
        /// What did not come.
        to: Awaited,
        /// The timeout of the check.
        after: Duration,
    },
    /// The connection was reset while an answer was awaited.
    #[error("connection reset {}", to.moment())]
    Reset {
        /// What did not come.
        to: Awaited,
    },
    /// The connection was closed while an answer was awaited.
    #[error("connection closed {}", to.moment())]
    Closed {
        /// What did not come.
        to: Awaited,
    },
    /// Another status than expected.
    #[error("{request} answered {status} (expected {expected}){}", meaning(*status, location.as_deref()))]
    Status {
        /// Method and path.
        request: String,
        /// The status of the answer.
        status: u16,
        /// What was expected, in words.
        expected: String,
        /// Where a redirect points to.
        location: Option<String>,
    },
    /// The status was right and the text was not there.
    #[error("{request} answered {status}, but the {part} does not contain {text:?}")]
    Body {
        /// Method and path.
        request: String,
        /// The status of the answer.
        status: u16,
        /// Which part was searched: `body`, or `first 1 MiB of the body`.
        part: &'static str,
        /// The expected text.
        text: String,
    },
    /// What came back is not HTTP.
    #[error("the answer is not HTTP ({detail}); is this port TLS or another service?")]
    NotHttp {
        /// What is wrong with it.
        detail: String,
    },
    /// The TLS handshake failed.
    #[error("{0}")]
    Tls(String),
    /// The check's own trust cannot be built.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// A datagram came back with other content than expected.
    #[error("the reply of {length} bytes does not contain the expected bytes")]
    Reply {
        /// Length of the reply, in bytes.
        length: usize,
    },
    /// The check cannot be sent as it is written.
    #[error("the check cannot be sent: {0}")]
    Unsendable(String),
    /// This machine could not send the probe: this says nothing about the backend.
    #[error("the probe could not be sent from here: {0}")]
    Local(String),
    /// Anything else that the system says.
    #[error("the connection failed: {0}")]
    Io(String),
}

impl ProbeFailure {
    /// Returns what an error of the system means while `awaited` was expected from `port`.
    pub(super) fn from_io(error: &io::Error, awaited: &Awaited, port: u16, trust: &Trust) -> Self {
        if let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref()) {
            return Self::Tls(describe(tls, trust));
        }
        if let Some(errno) = error.raw_os_error()
            && OUR_OWN_FAULT.contains(&errno)
        {
            return Self::Local(error.to_string());
        }
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused { port },
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe => Self::Reset {
                to: awaited.clone(),
            },
            io::ErrorKind::UnexpectedEof => Self::Closed {
                to: awaited.clone(),
            },
            io::ErrorKind::HostUnreachable => Self::unreachable("host unreachable"),
            io::ErrorKind::NetworkUnreachable => {
                Self::unreachable("network unreachable (no route from here)")
            }
            io::ErrorKind::TimedOut => Self::unreachable("connection timed out"),
            _ => Self::Io(printable(&error.to_string())),
        }
    }

    /// Returns what an error of a connection without TLS means.
    pub(super) fn from_plain_io(error: &io::Error, awaited: &Awaited, port: u16) -> Self {
        Self::from_io(error, awaited, port, &Trust::Anybody)
    }

    /// Returns what an error of the HTTP engine means; what the connection below it says comes
    /// first.
    pub(super) fn from_hyper(
        error: &hyper::Error,
        awaited: &Awaited,
        port: u16,
        trust: &Trust,
    ) -> Self {
        let mut cause = error.source();
        while let Some(inner) = cause {
            if let Some(io) = inner.downcast_ref::<io::Error>() {
                return Self::from_io(io, awaited, port, trust);
            }
            cause = inner.source();
        }
        if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
            return Self::Closed {
                to: awaited.clone(),
            };
        }
        Self::NotHttp {
            detail: printable(&error.to_string()),
        }
    }

    fn unreachable(detail: &str) -> Self {
        Self::Unreachable {
            detail: detail.to_owned(),
        }
    }
}

/// What this machine lacks, and no backend is to blame for: descriptors, memory, ports, addresses,
/// permission.
const OUR_OWN_FAULT: [i32; 8] = [
    libc::EMFILE,
    libc::ENFILE,
    libc::ENOBUFS,
    libc::ENOMEM,
    libc::EADDRNOTAVAIL,
    libc::EADDRINUSE,
    libc::EACCES,
    libc::EPERM,
];

/// The answer that a step of a probe waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Awaited {
    /// The TCP connection.
    Connection,
    /// The TLS handshake.
    Handshake,
    /// The head of the answer to this request.
    Answer(String),
    /// The body of the answer to this request.
    Body(String),
    /// The echo reply.
    Echo,
    /// The datagram.
    Datagram,
}

impl Awaited {
    /// Returns how far the probe came before the silence.
    fn silence(&self) -> String {
        match self {
            Self::Connection | Self::Echo | Self::Datagram => String::new(),
            Self::Handshake => {
                String::from(" (the connection opens, the TLS handshake is not answered)")
            }
            Self::Answer(request) => {
                format!(" (the connection opens, {request} is not answered)")
            }
            Self::Body(request) => format!(" (the answer to {request} does not end)"),
        }
    }

    /// Returns when in the probe something broke.
    fn moment(&self) -> String {
        match self {
            Self::Connection => String::from("before it was open"),
            Self::Handshake => String::from("during the TLS handshake"),
            Self::Answer(request) => format!("before {request} was answered"),
            Self::Body(request) => format!("inside the answer to {request}"),
            Self::Echo => String::from("before the echo reply"),
            Self::Datagram => String::from("before the reply"),
        }
    }
}

/// Returns what the vendors take a status to mean, as the end of a sentence.
fn meaning(status: u16, location: Option<&str>) -> Meaning<'_> {
    let word = match status {
        301 | 302 | 303 | 307 | 308 => "redirected",
        400 => "bad request",
        401 => "asks for a login",
        403 => "forbidden",
        404 => "not found",
        500 => "error",
        502 => "bad gateway",
        503 => "unavailable",
        504 => "gateway timeout",
        _ => "",
    };
    Meaning { word, location }
}

struct Meaning<'a> {
    word: &'static str,
    location: Option<&'a str>,
}

impl fmt::Display for Meaning<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.word.is_empty() {
            return Ok(());
        }
        write!(f, ": {}", self.word)?;
        match self.location {
            Some(location) => write!(f, " to {location}"),
            None => Ok(()),
        }
    }
}
