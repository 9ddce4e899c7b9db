//! What can go wrong with a connection or a request, whose fault it is, and what the client is told.

use std::sync::atomic::{AtomicU64, Ordering};

use hyper::StatusCode;

use super::access_log::Side;

macro_rules! failures {
    ($($name:ident = $label:literal, $side:ident, $status:expr, $meaning:literal;)*) => {
        /// Why a connection or a request failed: the error, the counter and the label are one thing.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Failure {
            $(#[doc = $meaning] $name,)*
        }

        impl Failure {
            /// Every failure, in the order of its counters.
            pub(crate) const ALL: &[Self] = &[$(Self::$name),*];

            /// Returns the name in `status` and in the access log.
            pub(crate) fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)* }
            }

            /// Returns what it means, for people.
            pub(crate) fn meaning(self) -> &'static str {
                match self { $(Self::$name => $meaning,)* }
            }

            /// Returns who is at fault.
            pub(crate) fn side(self) -> Side {
                match self { $(Self::$name => Side::$side,)* }
            }

            /// Returns the status of the answer; `None`: nothing can be answered any more.
            pub(crate) fn status(self) -> Option<StatusCode> {
                match self { $(Self::$name => status($status),)* }
            }
        }
    };
}

const fn status(code: u16) -> Option<StatusCode> {
    match code {
        0 => None,
        code => match StatusCode::from_u16(code) {
            Ok(status) => Some(status),
            Err(_) => None,
        },
    }
}

failures! {
    BadRequest = "bad_request", Client, 400, "the request can be understood in more than one way, or in none";
    RequestTimeout = "request_timeout", Client, 408, "the request did not arrive in time";
    BodyTooLarge = "body_too_large", Client, 413, "the request's body is longer than limits.body_size";
    HeaderTooLarge = "header_too_large", Client, 431, "the request's head is longer than limits.header_size, or has more lines than limits.headers";
    TargetTooLong = "target_too_long", Client, 414, "the request's target is longer than 65,534 bytes";
    Misdirected = "misdirected", Client, 421, "the host is not one that this connection or service is for";
    Http11Required = "http_1_1_required", Client, 0, "sign-on that belongs to a connection was sent back to HTTP/1.1";
    ClientClosed = "client_closed", Client, 0, "the client went away before it had the whole answer";
    ClientStalled = "client_stalled", Client, 0, "the client took nothing of the answer for timeouts.body";
    Http2Abuse = "http2_abuse", Client, 0, "the client broke the rules of HTTP/2, or flooded its connection with frames that carry nothing or requests that it gave up";
    HandshakeFailed = "handshake_failed", Client, 0, "the client's TLS handshake failed";
    HandshakeTimeout = "handshake_timeout", Client, 0, "the client's TLS handshake took longer than timeouts.handshake";
    HeaderTimeout = "header_timeout", Client, 0, "the request's head took longer than timeouts.header";
    ProxyHeader = "proxy_header", Client, 0, "a trusted peer sent no valid PROXY header";
    Refused = "refused", Client, 0, "the service does not take this client";
    TooManyConnections = "too_many_connections", Us, 0, "the service has limits.connections open";
    TooManyPerSource = "too_many_per_source", Client, 0, "the source has limits.per_source connections open";
    NoBackend = "no_backend", Us, 503, "no backend is up, active and free";
    BackendsFull = "backends_full", Us, 503, "every backend that could serve has max_connections, and none became free in time";
    TrustUnusable = "trust_unusable", Us, 502, "TLS to the backend cannot be set up: see the log";
    OutOfDescriptors = "out_of_descriptors", Us, 503, "the limit of open files leaves none for another connection to a backend: raise LimitNOFILE";
    NoSource = "no_source", Us, 502, "the connection to the backend cannot leave from the address that is configured";
    ConnectFailed = "connect_failed", Backend, 502, "no backend accepted the connection";
    ConnectTimeout = "connect_timeout", Backend, 504, "the backend did not accept the connection within timeouts.connect";
    BackendTls = "backend_tls", Backend, 502, "the TLS handshake with the backend failed: see the log";
    BackendClosed = "backend_closed", Backend, 502, "the backend closed the connection before it had answered";
    SignOnLost = "sign_on_lost", Backend, 0, "the backend closed the connection that the client had signed on over";
    BadResponse = "bad_response", Backend, 502, "the backend's answer can be understood in more than one way, or in none";
    ResponseTimeout = "response_timeout", Backend, 504, "the backend did not begin its answer within timeouts.response";
    ResponseCut = "response_cut", Backend, 0, "the backend's answer ended in the middle";
    ResponseStalled = "response_stalled", Backend, 0, "the backend's answer stood still for timeouts.body";
    BackendGone = "backend_gone", Backend, 0, "the connection's backend went out of service";
    Stopping = "stopping", Us, 0, "vipd was stopped, and the connection had not ended when its time was over";
    TunnelIdle = "tunnel_idle", Client, 0, "nothing went either way for timeouts.tunnel";
}

/// How often each failure has happened.
#[derive(Debug)]
pub(crate) struct FailureCounters([AtomicU64; Failure::ALL.len()]);

impl Default for FailureCounters {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; Failure::ALL.len()])
    }
}

impl FailureCounters {
    /// Counts a failure.
    pub(crate) fn add(&self, failure: Failure) {
        self.0[failure as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Returns how often each has happened.
    pub(crate) fn read(&self) -> impl Iterator<Item = (Failure, u64)> + '_ {
        let counts = self.0.iter().map(|count| count.load(Ordering::Relaxed));
        Failure::ALL.iter().copied().zip(counts)
    }
}
