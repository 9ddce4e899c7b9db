//! Where a request may be sent.

use hyper::{Method, Request, Uri, Version};

use super::{super::http::fuzz::head, location};

/// Hosts as a configuration may list them.
const KNOWN: [&str; 2] = ["portal.example", "*.apps.example"];

/// A location is HTTPS on the host that was asked for, which is one that is known where any is, and
/// its target is that of the request.
pub(crate) fn target(data: &[u8]) {
    let Some(parts) = head(data) else { return };
    for known in [&[][..], &KNOWN[..1], &KNOWN] {
        let hosts: Vec<String> = known.iter().map(|host| (*host).to_owned()).collect();
        let request = Request::from_parts(parts.clone(), ());
        let Ok(location) = location(&hosts, &request) else {
            continue;
        };
        let location = location.to_str().expect("text");
        let rest = location.strip_prefix("https://").expect("HTTPS");
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (host, target) = rest.split_at(end);
        assert!(
            !host.contains(['@', '\\']) && !host.is_empty(),
            "{location}"
        );
        let host = host.to_ascii_lowercase();
        match request.headers().get("host") {
            Some(asked) => {
                let asked = asked.to_str().expect("text").to_ascii_lowercase();
                let port = asked
                    .strip_prefix(&host)
                    .expect("the host that was asked for");
                assert!(port.is_empty() || port.starts_with(':'), "{asked} {host}");
            }
            None => assert!(request.version() == Version::HTTP_10 && host == KNOWN[0]),
        }
        let is_app = || {
            let label = host.strip_suffix(".apps.example");
            label.is_some_and(|label| !label.is_empty() && !label.contains('.'))
        };
        match known.len() {
            0 => {}
            1 => assert_eq!(host, KNOWN[0]),
            _ => assert!(host == KNOWN[0] || is_app(), "{host}"),
        }
        let asked = request.uri().path_and_query().map_or("/", |it| it.as_str());
        match asked {
            "*" => assert!(request.method() == Method::OPTIONS && target == "/"),
            asked => assert_eq!(target, percent_encoded(asked)),
        }
        // A browser finds the same host in it.
        let read = Uri::try_from(location).expect("a URI");
        assert_eq!(read.host().map(str::to_ascii_lowercase), Some(host));
    }
}

/// A target without bytes beyond ASCII.
fn percent_encoded(target: &str) -> String {
    let encode = |byte: u8| match byte {
        0..0x80 => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    target.bytes().map(encode).collect()
}
