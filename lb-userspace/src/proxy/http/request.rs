//! What a client asks for, if it can be understood in one way only (RFC 9112 section 3, RFC 9113
//! section 8.3).

use std::net::Ipv6Addr;

use hyper::{
    HeaderMap, Method, Version,
    header::{CONTENT_LENGTH, COOKIE, HOST, HeaderValue, TRANSFER_ENCODING},
    http::{request::Parts, uri::Authority},
};

use super::{super::failure::Failure, names::Names};

/// What a request is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    /// The host in lower case, without a port; empty if an HTTP/1.0 client named none.
    pub(crate) host: String,
    /// The host as it goes to the backend.
    pub(crate) host_header: Option<HeaderValue>,
}

/// Judges how many lines a head has, which the engine does of HTTP/1 alone. A client of HTTP/2 sends
/// each cookie in a line of its own (RFC 9113 section 8.2.3): they count as one.
///
/// # Errors
///
/// [`Failure::HeaderTooLarge`].
pub(crate) fn check_lines(headers: &HeaderMap, limit: u32) -> Result<(), Failure> {
    if headers.len() <= limit as usize {
        return Ok(());
    }
    let more_cookies = headers.get_all(COOKIE).iter().skip(1).count();
    match headers.len() - more_cookies > limit as usize {
        true => Err(Failure::HeaderTooLarge),
        false => Ok(()),
    }
}

/// Judges a request's head; `names` are those that it has.
///
/// # Errors
///
/// [`Failure::BadRequest`].
pub(crate) fn check(parts: &Parts, names: Names) -> Result<Asked, Failure> {
    if parts.method == Method::CONNECT {
        return Err(Failure::BadRequest);
    }
    if names.have(Names::TRANSFER_ENCODING | Names::CONTENT_LENGTH) {
        check_framing(&parts.headers)?;
    }
    if parts.version == Version::HTTP_2 && !parts.headers.values().all(is_trimmed) {
        return Err(Failure::BadRequest);
    }
    if !matches!(parts.uri.scheme_str(), None | Some("https" | "http")) {
        return Err(Failure::BadRequest);
    }
    let host_header = one_host(&parts.headers)?;
    let named = host_header.map(authority).transpose()?;
    let target = match parts.uri.authority() {
        // The authority form is for CONNECT alone, and "*" for OPTIONS (RFC 9112 section 3.2).
        Some(_) if parts.uri.path_and_query().is_none() => return Err(Failure::BadRequest),
        Some(target) => Some(host_and_port(target)?),
        None => None,
    };
    if parts.uri.path() == "*" && parts.method != Method::OPTIONS {
        return Err(Failure::BadRequest);
    }
    let authority = match (target, named) {
        (Some(target), Some(named)) if !same(target, &named) => return Err(Failure::BadRequest),
        (Some(target), None) if parts.version == Version::HTTP_2 => Some(target.clone()),
        (Some(_), None) => return Err(Failure::BadRequest),
        (_, Some(named)) => Some(named),
        (None, None) if parts.version == Version::HTTP_10 => None,
        (None, None) => return Err(Failure::BadRequest),
    };
    let Some(authority) = authority else {
        return Ok(Asked {
            host: String::new(),
            host_header: None,
        });
    };
    Ok(Asked {
        host: authority.host().to_ascii_lowercase(),
        host_header: match host_header {
            Some(value) => Some(value.clone()),
            None => HeaderValue::from_str(authority.as_str()).ok(),
        },
    })
}

/// hyper has refused most of what is ambiguous; what it lets through is refused here.
fn check_framing(headers: &HeaderMap) -> Result<(), Failure> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => {}
        (Some(one), None) if one.as_bytes().eq_ignore_ascii_case(b"chunked") => {}
        _ => return Err(Failure::BadRequest),
    }
    if headers.contains_key(TRANSFER_ENCODING) && headers.contains_key(CONTENT_LENGTH) {
        return Err(Failure::BadRequest);
    }
    if headers.get_all(CONTENT_LENGTH).iter().count() > 1 {
        return Err(Failure::BadRequest);
    }
    Ok(())
}

/// Returns whether a value has no space around it, which HTTP/2 takes for malformed (RFC 9113 section
/// 8.2.1) and a server of HTTP/1.1 takes away.
fn is_trimmed(value: &HeaderValue) -> bool {
    let is_space = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    let value = value.as_bytes();
    !is_space(value.first()) && !is_space(value.last())
}

fn one_host(headers: &HeaderMap) -> Result<Option<&HeaderValue>, Failure> {
    let mut hosts = headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (host, None) => Ok(host),
        _ => Err(Failure::BadRequest),
    }
}

fn authority(value: &HeaderValue) -> Result<Authority, Failure> {
    let authority = Authority::try_from(value.as_bytes()).map_err(|_| Failure::BadRequest)?;
    host_and_port(&authority)?;
    Ok(authority)
}

/// Judges what the library takes for an authority, which is less than a host and perhaps a port: no
/// user, and of brackets only those around an address of IPv6 (RFC 3986 section 3.2.2).
///
/// # Errors
///
/// [`Failure::BadRequest`].
pub(crate) fn host_and_port(authority: &Authority) -> Result<&Authority, Failure> {
    let host = authority.host();
    let address = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let is_host = match address {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => !host.is_empty() && !host.contains(['[', ']', '@']),
    };
    let port = authority.as_str().strip_prefix(host);
    let is_port = port.is_some_and(|port| match port.strip_prefix(':') {
        Some(port) => port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok(),
        None => port.is_empty(),
    });
    match is_host && is_port {
        true => Ok(authority),
        false => Err(Failure::BadRequest),
    }
}

fn same(one: &Authority, other: &Authority) -> bool {
    one.host().eq_ignore_ascii_case(other.host())
        && (one.port_u16() == other.port_u16()
            || matches!(
                (one.port_u16(), other.port_u16()),
                (None, Some(443)) | (Some(443), None)
            ))
}

#[cfg(test)]
mod tests {
    use hyper::Request;

    use super::*;

    fn judge(
        method: &str,
        target: &str,
        version: Version,
        headers: &[(&'static str, &'static str)],
    ) -> Result<String, Failure> {
        let mut request = Request::builder()
            .method(method)
            .uri(target)
            .version(version);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).expect("a request").into_parts();
        check(&parts, Names::of(&parts.headers)).map(|asked| asked.host)
    }

    #[test]
    fn lines_are_counted_and_cookies_are_one() {
        let lines = |name: &'static str, count| {
            (0..count)
                .map(|_| {
                    (
                        name.parse().expect("a name"),
                        HeaderValue::from_static("a=b"),
                    )
                })
                .collect::<HeaderMap>()
        };
        let check = |headers| check_lines(&headers, 3);
        let mut cookies = lines("cookie", 20);
        assert_eq!(check(HeaderMap::new()), Ok(()));
        assert_eq!(check(lines("x", 3)), Ok(()));
        assert_eq!(check(lines("x", 4)), Err(Failure::HeaderTooLarge));
        assert_eq!(check(cookies.clone()), Ok(()));
        cookies.extend(lines("x", 2));
        assert_eq!(check(cookies.clone()), Ok(()));
        cookies.extend(lines("y", 1));
        assert_eq!(check(cookies), Err(Failure::HeaderTooLarge));
    }

    #[test]
    fn usual_requests_name_their_host() {
        let h1 = Version::HTTP_11;
        let ok = |host: &str| Ok(host.to_owned());
        assert_eq!(
            judge("GET", "/", h1, &[("host", "A.Example")]),
            ok("a.example")
        );
        assert_eq!(
            judge("GET", "/", h1, &[("host", "a.example:8443")]),
            ok("a.example")
        );
        assert_eq!(
            judge("GET", "/", h1, &[("host", "[fd00::1]:443")]),
            ok("[fd00::1]")
        );
        assert_eq!(
            judge("OPTIONS", "*", h1, &[("host", "a.example")]),
            ok("a.example")
        );
        assert_eq!(
            judge("GET", "https://a.example/x", h1, &[("host", "a.example")]),
            ok("a.example")
        );
        assert_eq!(
            judge("GET", "https://a.example/x", Version::HTTP_2, &[]),
            ok("a.example")
        );
        assert_eq!(judge("GET", "/", Version::HTTP_10, &[]), ok(""));
    }

    #[test]
    fn a_value_of_http_2_has_no_space_around_it() {
        let request = |version, value| judge("GET", "https://a.example/", version, &[("x", value)]);
        for value in ["a ", " a", "\ta", " "] {
            let judged = request(Version::HTTP_2, value);
            assert_eq!(judged, Err(Failure::BadRequest), "{value:?}");
        }
        for value in ["", "a", "a b"] {
            assert!(request(Version::HTTP_2, value).is_ok(), "{value:?}");
        }
    }

    #[test]
    fn what_has_two_meanings_is_refused() {
        let h1 = Version::HTTP_11;
        for (method, target, headers) in [
            ("GET", "/", &[][..]),
            ("GET", "/", &[("host", "a.example"), ("host", "a.example")]),
            ("GET", "/", &[("host", "a.example, b.example")]),
            ("GET", "/", &[("host", "user@a.example")]),
            ("GET", "/", &[("host", "a.example/x")]),
            ("GET", "/", &[("host", "a.example:")]),
            ("GET", "/", &[("host", "")]),
            ("GET", "/", &[("host", "a[fd00::1].example")]),
            ("GET", "/", &[("host", "[fd00::1]a.example")]),
            ("GET", "/", &[("host", "[a.example]")]),
            ("GET", "/", &[("host", "a.example:65536")]),
            ("GET", "/", &[("host", "a.example:+80")]),
            ("GET", "https://a[b].example/", &[("host", "a.example")]),
            ("GET", "https://b.example/", &[("host", "a.example")]),
            ("GET", "https://u@a.example/", &[("host", "a.example")]),
            ("GET", "a.example:443", &[("host", "a.example:443")]),
            ("CONNECT", "a.example:443", &[("host", "a.example:443")]),
            ("GET", "*", &[("host", "a.example")]),
            ("GET", "ftp://a.example/", &[("host", "a.example")]),
            (
                "POST",
                "/",
                &[("host", "a"), ("transfer-encoding", "gzip, chunked")],
            ),
            (
                "POST",
                "/",
                &[("host", "a"), ("transfer-encoding", "identity")],
            ),
            (
                "POST",
                "/",
                &[
                    ("host", "a"),
                    ("transfer-encoding", "chunked"),
                    ("transfer-encoding", "chunked"),
                ],
            ),
            (
                "POST",
                "/",
                &[
                    ("host", "a"),
                    ("transfer-encoding", "chunked"),
                    ("content-length", "3"),
                ],
            ),
            (
                "POST",
                "/",
                &[
                    ("host", "a"),
                    ("content-length", "3"),
                    ("content-length", "3"),
                ],
            ),
        ] {
            assert_eq!(
                judge(method, target, h1, headers),
                Err(Failure::BadRequest),
                "{method} {target} {headers:?}"
            );
        }
    }
}
