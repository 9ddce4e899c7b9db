//! Headers on their way: what belongs to one connection is taken out, and what the backend is to
//! know of the client is put in.

use std::net::IpAddr;

use bytes::Bytes;
use hyper::{
    HeaderMap,
    header::{
        CONNECTION, CONTENT_LENGTH, COOKIE, HOST, HeaderName, HeaderValue, PROXY_AUTHENTICATE,
        PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE,
    },
};

use super::{
    super::failure::Failure,
    names::{Names, is_forwarded},
};
use crate::config::model::Prefix;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");

/// Headers that no other header may be taken for.
const UNMISTAKABLE: Names = Names::FORWARDED
    .with(Names::TRANSFER_ENCODING)
    .with(Names::CONTENT_LENGTH);

/// What a backend is to know of a request's origin.
#[derive(Clone, Debug)]
pub(crate) struct Origin<'a> {
    /// The peer of the connection.
    pub(crate) client: IpAddr,
    /// The same as it is told.
    pub(crate) address: &'a HeaderValue,
    /// The port that it connected to.
    pub(crate) port: &'a HeaderValue,
    /// Peers whose word is taken.
    pub(crate) trusted: &'a [Prefix],
    /// The host that it asked for.
    pub(crate) host: Option<&'a HeaderValue>,
}

/// Makes a request's headers ready for the backend; returns what it wants to upgrade to. `names` are
/// those that it has.
///
/// # Errors
///
/// [`Failure::BadRequest`] for another spelling of a header that vipd sets or that frames a message:
/// some servers take an underscore for a dash.
pub(crate) fn prepare_request(
    headers: &mut HeaderMap,
    names: Names,
    origin: &Origin<'_>,
) -> Result<Option<HeaderValue>, Failure> {
    let upgrade = match names.have(Names::UPGRADE) {
        true => wanted_upgrade(headers),
        false => None,
    };
    let trailers = names.have(Names::TE) && has_token(headers, &TE, b"trailers");
    remove_hop_by_hop(headers, names);
    for (bit, name) in [
        (Names::PROXY_AUTHORIZATION, PROXY_AUTHORIZATION),
        (Names::HTTP2_SETTINGS, HTTP2_SETTINGS),
    ] {
        if names.have(bit) {
            headers.remove(name);
        }
    }
    if names.have(Names::CONTENT_LENGTH) {
        write_length(headers);
    }
    if names.have(Names::COOKIE) {
        join_cookies(headers);
    }
    let trusted = is_trusted(origin.client, origin.trusted);
    if names.have(Names::FORWARDED | Names::UNDERSCORE) {
        judge_forwarded(headers, trusted)?;
    }
    tell_origin(headers, origin, trusted && names.have(Names::FORWARDED));
    if let Some(host) = origin.host
        && !names.have(Names::HOST)
    {
        headers.insert(HOST, host.clone());
    }
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert(CONNECTION, HeaderValue::from_static("te"));
    }
    if let Some(upgrade) = &upgrade {
        headers.insert(UPGRADE, upgrade.clone());
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }
    Ok(upgrade)
}

/// Says where a request comes from. What a trusted peer has said of it stays, if it `has_said`
/// something.
fn tell_origin(headers: &mut HeaderMap, origin: &Origin<'_>, has_said: bool) {
    let before = match has_said {
        true => joined(headers, &X_FORWARDED_FOR),
        false => None,
    };
    let addresses = before.and_then(|mut before| {
        before.extend_from_slice(b", ");
        before.extend_from_slice(origin.address.as_bytes());
        HeaderValue::from_maybe_shared(Bytes::from(before)).ok()
    });
    let addresses = addresses.unwrap_or_else(|| origin.address.clone());
    headers.insert(X_FORWARDED_FOR, addresses);
    let mut tell = |name: HeaderName, value: &HeaderValue| {
        if !has_said || !headers.contains_key(&name) {
            headers.insert(name, value.clone());
        }
    };
    tell(X_FORWARDED_PROTO, &HeaderValue::from_static("https"));
    tell(X_FORWARDED_PORT, origin.port);
    if let Some(host) = origin.host {
        tell(X_FORWARDED_HOST, host);
    }
}

/// Takes out of trailers what means something in a head only: framing, routing, authentication, the
/// origin (RFC 9110 section 6.5.1). The reader might take it for a header.
pub(crate) fn prepare_trailers(trailers: &mut HeaderMap) {
    let misplaced: Vec<HeaderName> = trailers
        .keys()
        .filter(|name| Names::named(&name.as_str().replace('_', "-")) != Names::default())
        .cloned()
        .collect();
    for name in misplaced {
        trailers.remove(name);
    }
}

/// Writes a length without zeros in front, which some servers take for an octal number.
fn write_length(headers: &mut HeaderMap) {
    let length = headers.get(CONTENT_LENGTH).and_then(|length| {
        let padded = length.as_bytes().starts_with(b"0") && length.len() > 1;
        let length: u64 = padded.then(|| length.to_str())?.ok()?.parse().ok()?;
        Some(HeaderValue::from(length))
    });
    if let Some(length) = length {
        headers.insert(CONTENT_LENGTH, length);
    }
}

/// Makes an answer's headers ready for the client; `names` are those that it has.
pub(crate) fn prepare_response(headers: &mut HeaderMap, names: Names) {
    remove_hop_by_hop(headers, names);
    if names.have(Names::PROXY_AUTHENTICATE) {
        headers.remove(PROXY_AUTHENTICATE);
    }
    if names.have(Names::CONTENT_LENGTH) {
        write_length(headers);
    }
}

/// Returns what a client wants to upgrade to, unless it is HTTP/2, which it may have by ALPN.
fn wanted_upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let wanted = headers.get(UPGRADE)?;
    let asked = has_token(headers, &CONNECTION, b"upgrade");
    let is_http2 = tokens(wanted).any(|token| token.eq_ignore_ascii_case(b"h2c"));
    (asked && !is_http2).then(|| wanted.clone())
}

/// Takes out what concerns one connection only (RFC 9110 section 7.6.1). What our own side says of
/// framing is written anew.
fn remove_hop_by_hop(headers: &mut HeaderMap, names: Names) {
    if names.have(Names::CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .flat_map(tokens)
            // Nearly every backend names it, and it is taken out anyway.
            .filter(|token| !token.eq_ignore_ascii_case(b"keep-alive"))
            .filter_map(|token| HeaderName::from_bytes(token).ok())
            .collect();
        for name in named {
            // These are no connection's business, whatever a client says.
            if name != HOST && name != CONTENT_LENGTH {
                headers.remove(name);
            }
        }
    }
    for (bit, name) in [
        (Names::CONNECTION, CONNECTION),
        (Names::KEEP_ALIVE, KEEP_ALIVE),
        (Names::PROXY_CONNECTION, PROXY_CONNECTION),
        (Names::TE, TE),
        (Names::TRANSFER_ENCODING, TRANSFER_ENCODING),
        (Names::UPGRADE, UPGRADE),
    ] {
        if names.have(bit) {
            headers.remove(name);
        }
    }
}

/// Makes one line of several: HTTP/2 clients send each cookie in a line of its own, which HTTP/1.1
/// does not know (RFC 9113 section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let lines = headers.get_all(COOKIE);
    if lines.iter().nth(1).is_none() {
        return;
    }
    let lines: Vec<&[u8]> = lines.iter().map(HeaderValue::as_bytes).collect();
    if let Ok(line) = HeaderValue::from_bytes(&lines.join(&b"; "[..])) {
        headers.insert(COOKIE, line);
    }
}

/// Takes out what says where a request comes from, unless the peer is trusted.
fn judge_forwarded(headers: &mut HeaderMap, trusted: bool) -> Result<(), Failure> {
    let mut forged = Vec::new();
    for name in headers.keys() {
        let text = name.as_str();
        if text.contains('_') && Names::named(&text.replace('_', "-")).have(UNMISTAKABLE) {
            return Err(Failure::BadRequest);
        }
        if is_forwarded(text) && !trusted {
            forged.push(name.clone());
        }
    }
    for name in forged {
        headers.remove(name);
    }
    Ok(())
}

pub(crate) fn is_trusted(peer: IpAddr, trusted: &[Prefix]) -> bool {
    trusted.iter().any(|prefix| prefix.contains(peer))
}

/// Returns the lines of a header as one list, as far as they are text; `None` without any.
fn joined(headers: &HeaderMap, name: &HeaderName) -> Option<Vec<u8>> {
    let values = headers.get_all(name).iter();
    let values: Vec<&[u8]> = values
        .filter(|value| value.to_str().is_ok())
        .map(HeaderValue::as_bytes)
        .collect();
    (!values.is_empty()).then(|| values.join(&b", "[..]))
}

/// Returns whether a list has a token, in any case of letters.
pub(crate) fn has_token(headers: &HeaderMap, name: &HeaderName, token: &[u8]) -> bool {
    headers
        .get_all(name)
        .iter()
        .flat_map(tokens)
        .any(|found| found.eq_ignore_ascii_case(token))
}

fn tokens(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    let items = value.as_bytes().split(|byte| *byte == b',');
    items
        .map(<[u8]>::trim_ascii)
        .filter(|item| !item.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    static CLIENT: HeaderValue = HeaderValue::from_static("10.9.9.9");
    static PORT: HeaderValue = HeaderValue::from_static("443");

    fn origin<'a>(trusted: &'a [Prefix], host: Option<&'a HeaderValue>) -> Origin<'a> {
        Origin {
            client: [10, 9, 9, 9].into(),
            address: &CLIENT,
            port: &PORT,
            trusted,
            host,
        }
    }

    fn map(headers: &[(&'static str, &'static str)]) -> HeaderMap {
        headers
            .iter()
            .map(|(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
            })
            .collect()
    }

    fn prepared(headers: &[(&'static str, &'static str)], trusted: &[Prefix]) -> HeaderMap {
        let mut headers = map(headers);
        let host = HeaderValue::from_static("a.example");
        let names = Names::of(&headers);
        let origin = origin(trusted, Some(&host));
        prepare_request(&mut headers, names, &origin).expect("good headers");
        headers
    }

    fn trust_all() -> Vec<Prefix> {
        vec![Prefix {
            address: [10, 0, 0, 0].into(),
            length: 8,
        }]
    }

    #[test]
    fn a_stranger_says_nothing_of_its_origin() {
        let headers = prepared(
            &[
                ("x-forwarded-for", "1.2.3.4"),
                ("x-forwarded-proto", "http"),
                ("x-forwarded-prefix", "/admin"),
                ("forwarded", "for=1.2.3.4"),
                ("x-real-ip", "1.2.3.4"),
            ],
            &[],
        );
        let expected = map(&[
            ("x-forwarded-for", "10.9.9.9"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-port", "443"),
            ("x-forwarded-host", "a.example"),
            ("host", "a.example"),
        ]);
        assert_eq!(headers, expected);
    }

    #[test]
    fn a_trusted_proxy_is_believed_and_its_own_address_added() {
        let headers = prepared(
            &[
                ("x-forwarded-for", "1.2.3.4, 5.6.7.8"),
                ("x-forwarded-proto", "http"),
            ],
            &trust_all(),
        );
        assert_eq!(headers["x-forwarded-for"], "1.2.3.4, 5.6.7.8, 10.9.9.9");
        assert_eq!(headers["x-forwarded-proto"], "http");
    }

    #[test]
    fn what_concerns_a_connection_stays_there() {
        let headers = prepared(
            &[
                ("connection", "close, X-Secret, host, x-forwarded-for"),
                ("x-secret", "1"),
                ("keep-alive", "timeout=5"),
                ("proxy-connection", "keep-alive"),
                ("te", "trailers, deflate"),
                ("transfer-encoding", "chunked"),
                ("upgrade", "websocket"),
                ("accept", "*/*"),
            ],
            &[],
        );
        for gone in [
            "x-secret",
            "keep-alive",
            "proxy-connection",
            "transfer-encoding",
            "upgrade",
        ] {
            assert!(!headers.contains_key(gone), "{gone}");
        }
        assert_eq!(headers["host"], "a.example");
        assert_eq!(headers["x-forwarded-for"], "10.9.9.9");
        assert_eq!(headers["te"], "trailers");
        assert_eq!(headers["accept"], "*/*");
    }

    #[test]
    fn cookies_are_one_line() {
        let mut headers = map(&[("accept", "*/*")]);
        for cookie in ["a=1", "b=2; c=3", "d=4"] {
            headers.append(COOKIE, HeaderValue::from_static(cookie));
        }
        join_cookies(&mut headers);
        let cookies: Vec<_> = headers.get_all(COOKIE).iter().collect();
        assert_eq!(cookies, ["a=1; b=2; c=3; d=4"]);
    }

    #[test]
    fn trailers_have_nothing_that_belongs_into_a_head() {
        let mut trailers = map(&[
            ("x-forwarded-for", "1.2.3.4"),
            ("x_real_ip", "1.2.3.4"),
            ("authorization", "Basic eDp5"),
            ("connection", "x-sum"),
            ("content_length", "3"),
            ("transfer-encoding", "chunked"),
            ("x-sum", "7"),
        ]);
        prepare_trailers(&mut trailers);
        assert_eq!(trailers, map(&[("x-sum", "7")]));
    }

    #[test]
    fn an_upgrade_is_passed_on_if_the_connection_names_it() {
        let wanted = prepared(
            &[
                ("connection", "keep-alive, Upgrade"),
                ("upgrade", "websocket"),
            ],
            &[],
        );
        assert_eq!(wanted["upgrade"], "websocket");
        assert_eq!(wanted["connection"], "upgrade");
        let http2 = prepared(
            &[
                ("connection", "Upgrade, HTTP2-Settings"),
                ("upgrade", "h2c"),
                ("http2-settings", "x"),
            ],
            &[],
        );
        assert!(!http2.contains_key("upgrade") && !http2.contains_key("http2-settings"));
    }

    #[test]
    fn another_spelling_of_a_managed_header_is_refused() {
        for name in [
            "x_forwarded_for",
            "x-forwarded_for",
            "x_real_ip",
            "content_length",
            "transfer_encoding",
        ] {
            let mut headers = map(&[(name, "1.2.3.4")]);
            let names = Names::of(&headers);
            assert_eq!(
                prepare_request(&mut headers, names, &origin(&trust_all(), None)),
                Err(Failure::BadRequest),
                "{name}"
            );
        }
        let mut headers = map(&[("my_header", "1")]);
        let names = Names::of(&headers);
        let prepared = prepare_request(&mut headers, names, &origin(&[], None));
        assert_eq!(prepared, Ok(None));
    }
}
