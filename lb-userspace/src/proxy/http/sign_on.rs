//! Sign-on that belongs to a connection: Kerberos and NTLM in HTTP (RFC 4559, MS-NTHT, MS-N2HT).
//!
//! A backend takes whoever has signed on over a connection for the sender of all that follows on it.
//! So such a connection is one client's alone, from the first sign of it on, and closes with the
//! client's.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use hyper::{
    HeaderMap,
    header::{AUTHORIZATION, HeaderValue, WWW_AUTHENTICATE},
};
use tokio::time::Instant;

use super::names::Names;

/// Returns whether a request or an answer signs on over its connection, or offers that: by any of
/// its headers, at any place in a list, in any case of letters. `names` are those that it has.
pub(crate) fn is_part_of(headers: &HeaderMap, names: Names) -> bool {
    if !names.have(Names::AUTHORIZATION | Names::WWW_AUTHENTICATE) {
        return false;
    }
    let asked = headers.get_all(AUTHORIZATION).iter();
    let offered = headers.get_all(WWW_AUTHENTICATE).iter();
    asked.chain(offered).any(names_a_scheme)
}

/// The schemes, in lower case.
const SCHEMES: [&[u8]; 3] = [b"negotiate", b"ntlm", b"nego2"];

/// Returns whether a challenge or credentials begin with one of the schemes, or one stands after a
/// comma: challenges may be listed (RFC 9110 section 11.6.1).
fn names_a_scheme(value: &HeaderValue) -> bool {
    value.as_bytes().split(|byte| *byte == b',').any(|item| {
        let item = item.trim_ascii_start();
        let end = item.iter().position(|byte| !byte.is_ascii_alphanumeric());
        let scheme = &item[..end.unwrap_or(item.len())];
        SCHEMES.iter().any(|of| scheme.eq_ignore_ascii_case(of))
    })
}

/// For how long a client that signs on is offered HTTP/1.1 alone.
const REMEMBERED: Duration = Duration::from_secs(10 * 60);
/// Clients that are remembered; when there are more, those whose time is over make room.
const MOST: usize = 65_536;

/// Clients that were sent back from HTTP/2 to HTTP/1.1 to sign on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Http1Only(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    count: AtomicUsize,
    until: Mutex<HashMap<IpAddr, Instant>>,
}

impl Http1Only {
    /// Remembers a client for a while.
    pub(crate) fn add(&self, client: IpAddr) {
        let now = Instant::now();
        let mut until = self.0.until.lock().unwrap_or_else(PoisonError::into_inner);
        if until.len() >= MOST {
            until.retain(|_, until| *until > now);
        }
        if until.len() < MOST {
            until.insert(client, now + REMEMBERED);
        }
        self.0.count.store(until.len(), Ordering::Relaxed);
    }

    /// Returns whether a client shall be offered HTTP/1.1 alone.
    pub(crate) fn contains(&self, client: IpAddr) -> bool {
        // Most sites have none, and pay for no lock.
        if self.0.count.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let until = self.0.until.lock().unwrap_or_else(PoisonError::into_inner);
        until
            .get(&client)
            .is_some_and(|until| *until > Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: hyper::header::HeaderName, values: &[&'static str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(&name, HeaderValue::from_static(value));
        }
        headers
    }

    fn signs_on(headers: &HeaderMap) -> bool {
        is_part_of(headers, Names::of(headers))
    }

    #[test]
    fn each_way_to_name_the_schemes_is_seen() {
        for value in [
            "Negotiate YIIF",
            "negotiate",
            "NTLM TlRMTVNTUAAB",
            "nTLM",
            "Nego2",
            "Basic realm=\"x\", Negotiate",
            "Basic realm=\"x\",NTLM",
            "  Negotiate  ",
            "Negotiate,Basic realm=\"x\"",
        ] {
            assert!(signs_on(&headers(WWW_AUTHENTICATE, &[value])), "{value}");
        }
        assert!(signs_on(&headers(AUTHORIZATION, &["Negotiate YII="])));
        assert!(signs_on(&headers(
            WWW_AUTHENTICATE,
            &["Basic realm=\"x\"", "Negotiate"]
        )));
    }

    #[test]
    fn other_schemes_are_not() {
        for value in [
            "Basic bmVnb3RpYXRl",
            "Bearer negotiate",
            "Negotiator x",
            "Digest username=\"ntlm\"",
            "",
        ] {
            assert!(!signs_on(&headers(AUTHORIZATION, &[value])), "{value}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_is_remembered_for_a_while() {
        let clients = Http1Only::default();
        let client: IpAddr = [10, 0, 0, 1].into();
        assert!(!clients.contains(client));
        clients.add(client);
        assert!(clients.contains(client));
        assert!(!clients.contains([10, 0, 0, 2].into()));
        tokio::time::advance(REMEMBERED).await;
        assert!(!clients.contains(client));
    }
}
