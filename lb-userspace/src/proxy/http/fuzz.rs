//! What clients and backends may say in their heads.

use std::collections::BTreeSet;

use hyper::{
    HeaderMap, Method, Request, Response, StatusCode, Uri, Version,
    header::{
        AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, HOST, HeaderName, HeaderValue,
        TRANSFER_ENCODING, WWW_AUTHENTICATE,
    },
    http::{request, uri::Authority},
};

use super::{
    super::failure::Failure,
    cookie,
    headers::{self, Origin},
    names::Names,
    request as judge, response, sign_on,
};
use crate::config::model::Prefix;

/// The cookie's name.
const NAME: &str = "vipd";

/// Reads a head of three words and lines of headers. What cannot be a method, a target or a header
/// never gets past the engine, and is left out.
pub(crate) fn head(data: &[u8]) -> Option<request::Parts> {
    let mut lines = data.split(|byte| *byte == b'\n');
    let mut words = lines.next()?.trim_ascii().split(|byte| *byte == b' ');
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.method = Method::from_bytes(words.next()?).ok()?;
    parts.uri = Uri::try_from(words.next()?).ok()?;
    parts.version = match words.next()? {
        b"HTTP/1.0" => Version::HTTP_10,
        b"HTTP/1.1" => Version::HTTP_11,
        b"HTTP/2" => Version::HTTP_2,
        _ => return None,
    };
    parts.headers = header_lines(lines);
    Some(parts)
}

fn header_lines<'a>(lines: impl Iterator<Item = &'a [u8]>) -> HeaderMap {
    let mut map = HeaderMap::new();
    for line in lines {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            continue;
        };
        let name = HeaderName::from_bytes(&line[..colon]);
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            map.append(name, value);
        }
    }
    map
}

/// A request that is let through names one host and has one framing, and reaches the backend with
/// nothing of the client's connection, with one truth about its origin, and with all the rest.
pub(crate) fn request_head(data: &[u8]) {
    let Some(parts) = head(data) else { return };
    assert_sign_on_ignores_case(&parts.headers);
    assert_cookie_is_taken(&parts.headers);
    let names = Names::of(&parts.headers);
    let Ok(asked) = judge::check(&parts, names) else {
        return;
    };
    assert_one_meaning(&parts.headers);
    match &asked.host_header {
        None => assert!(asked.host.is_empty() && parts.version == Version::HTTP_10),
        Some(value) => {
            let authority = Authority::try_from(value.as_bytes()).expect("an authority");
            assert_eq!(asked.host, authority.host().to_ascii_lowercase());
            let port = value.to_str().expect("text").get(asked.host.len()..);
            let port = port.expect("what follows the host");
            assert!(
                port.is_empty() || port[1..].parse::<u16>().is_ok(),
                "{value:?}"
            );
            let read = Uri::try_from(format!("https://{}/", authority)).expect("a URI");
            assert_eq!(read.host(), Some(authority.host()));
            assert!(!asked.host.is_empty() && !asked.host.contains('@'));
            let in_brackets = asked.host.starts_with('[') && asked.host.ends_with(']');
            assert_eq!(asked.host.contains(['[', ']']), in_brackets, "{value:?}");
            let target = parts.uri.host();
            assert!(target.is_none_or(|target| target.eq_ignore_ascii_case(&asked.host)));
        }
    }
    let everybody = [Prefix {
        address: [0, 0, 0, 0].into(),
        length: 0,
    }];
    for trusted in [&[][..], &everybody] {
        let origin = Origin {
            client: [192, 0, 2, 7].into(),
            address: &HeaderValue::from_static("192.0.2.7"),
            port: &HeaderValue::from_static("443"),
            trusted,
            host: asked.host_header.as_ref(),
        };
        let mut prepared = parts.headers.clone();
        match headers::prepare_request(&mut prepared, names, &origin) {
            Err(failure) => {
                assert_eq!(failure, Failure::BadRequest);
                assert!(parts.headers.keys().any(is_alias));
            }
            Ok(upgrade) => {
                assert_prepared(&parts.headers, &prepared, &origin, upgrade.as_ref());
            }
        }
    }
    let mut trailers = parts.headers;
    headers::prepare_trailers(&mut trailers);
    let misplaced = |name: &HeaderName| {
        let name = name.as_str().replace('_', "-");
        is_managed(&name) || is_framing(&name) || HOP_BY_HOP.contains(&&*name)
    };
    assert!(!trailers.keys().any(misplaced), "{trailers:?}");
}

/// An answer that is passed on has one framing, and nothing of the backend's connection.
pub(crate) fn response_head(data: &[u8]) {
    let mut lines = data.split(|byte| *byte == b'\n');
    let status = lines.next().and_then(|line| {
        let mut words = line.trim_ascii().split(|byte| *byte == b' ');
        StatusCode::from_bytes(words.nth(1)?).ok()
    });
    let Some(status) = status else { return };
    let mut answer = Response::new(());
    *answer.status_mut() = status;
    *answer.headers_mut() = header_lines(lines);
    for upgrade in [false, true] {
        let names = Names::of(answer.headers());
        if response::check(&answer, names, upgrade).is_err() {
            continue;
        }
        assert_one_meaning(answer.headers());
        if status.is_informational() {
            assert!(upgrade && status == StatusCode::SWITCHING_PROTOCOLS);
        }
        let before = answer.headers();
        let mut prepared = before.clone();
        headers::prepare_response(&mut prepared, names);
        for gone in HOP_BY_HOP.iter().chain(&["proxy-authenticate"]) {
            assert!(!prepared.contains_key(*gone), "{gone}");
        }
        let named = named_by_connection(before);
        for name in before.keys().filter(|name| !named.contains(name.as_str())) {
            let gone = HOP_BY_HOP.contains(&name.as_str()) || name == "proxy-authenticate";
            assert!(gone || passed_on(before, name) == values(&prepared, name));
        }
    }
}

/// Headers of one connection (RFC 9110 section 7.6.1), and one that names a message's coding on it.
const HOP_BY_HOP: &[&str] = &[
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
];

/// What vipd sets; of a family of names, which servers believe where one of them is missing.
fn is_managed(name: &str) -> bool {
    name.starts_with("x-forwarded-") || ["forwarded", "x-real-ip"].contains(&name)
}

fn is_framing(name: &str) -> bool {
    ["content-length", "transfer-encoding"].contains(&name)
}

/// What some servers take for another header, because of an underscore.
fn is_alias(name: &HeaderName) -> bool {
    let name = name.as_str();
    let taken_for = name.replace('_', "-");
    name.contains('_') && (is_managed(&taken_for) || is_framing(&taken_for))
}

/// The values of a header as they are passed on: a length has no zeros in front.
fn passed_on(map: &HeaderMap, name: &HeaderName) -> Vec<HeaderValue> {
    let all = values(map, name);
    let length = |value: &HeaderValue| value.to_str().ok()?.parse::<u64>().ok();
    match &all[..] {
        [value] if name == CONTENT_LENGTH && value.as_bytes().starts_with(b"0") => {
            length(value).map_or(all, |length| vec![length.into()])
        }
        _ => all,
    }
}

fn values(map: &HeaderMap, name: impl hyper::header::AsHeaderName) -> Vec<HeaderValue> {
    map.get_all(name).iter().cloned().collect()
}

fn named_by_connection(map: &HeaderMap) -> BTreeSet<String> {
    let lists = map.get_all(CONNECTION).iter();
    lists
        .flat_map(|list| list.as_bytes().split(|byte| *byte == b','))
        .map(|name| String::from_utf8_lossy(name.trim_ascii()).to_lowercase())
        .filter(|name| !["host", "content-length"].contains(&name.as_str()))
        .collect()
}

/// RFC 9112 section 6.3: what two servers would read differently.
fn assert_one_meaning(map: &HeaderMap) {
    let lengths = values(map, CONTENT_LENGTH);
    let codings = values(map, TRANSFER_ENCODING);
    assert!(lengths.len() + codings.len() <= 1, "{map:?}");
    for coding in codings {
        assert!(coding.as_bytes().eq_ignore_ascii_case(b"chunked"));
    }
}

fn assert_prepared(
    before: &HeaderMap,
    after: &HeaderMap,
    origin: &Origin<'_>,
    upgrade: Option<&HeaderValue>,
) {
    let trusted = !origin.trusted.is_empty();
    let one = |name: &str| match &values(after, name)[..] {
        [value] => value.clone(),
        others => panic!("{name}: {others:?}"),
    };
    for gone in ["keep-alive", "proxy-connection", "transfer-encoding"] {
        assert!(!after.contains_key(gone), "{gone}");
    }
    for gone in ["http2-settings", "proxy-authorization"] {
        assert!(!after.contains_key(gone), "{gone}");
    }
    match upgrade {
        Some(upgrade) => {
            assert_eq!(
                (one("connection"), &one("upgrade")),
                (HeaderValue::from_static("upgrade"), upgrade)
            );
        }
        None => {
            assert!(!after.contains_key("upgrade"));
            let trailers = after.contains_key("te");
            assert_eq!(after.contains_key(CONNECTION), trailers);
            if trailers {
                assert_eq!(one("connection"), "te");
                assert_eq!(one("te"), "trailers");
            }
        }
    }
    let client = origin.client.to_string();
    let all = one("x-forwarded-for");
    let all = all.to_str().expect("text");
    assert_eq!(all.rsplit(", ").next(), Some(&*client), "{all}");
    for name in ["x-forwarded-proto", "x-forwarded-port"] {
        assert!(after.contains_key(name));
    }
    if let Some(host) = origin.host {
        assert_eq!(one("host"), host);
        assert!(after.contains_key("x-forwarded-host"));
    }
    if !trusted {
        assert_eq!(all, client);
        assert_eq!(one("x-forwarded-proto"), "https");
        assert_eq!(one("x-forwarded-port"), "443");
        let known = ["for", "proto", "port", "host"].map(|end| format!("x-forwarded-{end}"));
        for name in after.keys().filter(|name| is_managed(name.as_str())) {
            assert!(known.contains(&name.as_str().to_owned()), "{name}");
        }
    }
    assert!(values(after, COOKIE).len() <= 1);
    let named = named_by_connection(before);
    let is_ours = |name: &HeaderName| {
        HOP_BY_HOP.contains(&name.as_str())
            || is_managed(name.as_str())
            || [HOST, COOKIE].contains(name)
            || ["http2-settings", "proxy-authorization"].contains(&name.as_str())
    };
    for name in before.keys().filter(|name| !is_ours(name)) {
        let expected = match named.contains(name.as_str()) {
            true => vec![],
            false => passed_on(before, name),
        };
        assert_eq!(values(after, name), expected, "{name}");
    }
    for name in after.keys().filter(|name| !is_ours(name)) {
        assert!(before.contains_key(name), "{name}");
    }
}

fn pairs(map: &HeaderMap) -> Vec<Vec<u8>> {
    let lists = map.get_all(COOKIE).iter();
    lists
        .flat_map(|list| list.as_bytes().split(|byte| *byte == b';'))
        .map(|pair| pair.trim_ascii().to_vec())
        .filter(|pair| !pair.is_empty())
        .collect()
}

/// Our cookie is found wherever it stands and no backend sees it; the others stay as they are.
fn assert_cookie_is_taken(map: &HeaderMap) {
    let ours = format!("{NAME}=");
    let is_ours = |pair: &Vec<u8>| pair.starts_with(ours.as_bytes());
    let before = pairs(map);
    let mut left = map.clone();
    let found = cookie::take(&mut left, NAME);
    let first = before.iter().find(|pair| is_ours(pair));
    assert_eq!(
        found.as_deref(),
        first.map(|pair| &pair[ours.len()..]),
        "{map:?}"
    );
    let mut others = before.clone();
    others.retain(|pair| !is_ours(pair));
    assert_eq!(pairs(&left), others);
    left.remove(COOKIE);
    let mut rest = map.clone();
    rest.remove(COOKIE);
    assert_eq!(left, rest);
}

fn assert_sign_on_ignores_case(map: &HeaderMap) {
    let mut upper = HeaderMap::new();
    for name in [AUTHORIZATION, WWW_AUTHENTICATE] {
        for value in map.get_all(&name) {
            let value = HeaderValue::from_bytes(&value.as_bytes().to_ascii_uppercase());
            upper.append(&name, value.expect("letters stay letters"));
        }
    }
    let is_part = |map: &HeaderMap| sign_on::is_part_of(map, Names::of(map));
    assert_eq!(is_part(&upper), is_part(map));
    upper.append(WWW_AUTHENTICATE, HeaderValue::from_static("Basic, NTLM"));
    assert!(is_part(&upper));
}
