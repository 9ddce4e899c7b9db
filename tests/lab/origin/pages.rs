//! What an origin answers by path.

use super::{Request, Response, response::Body};

/// Pages that health checks ask for: nobody signs on to see them.
pub(super) fn is_public(path: &str) -> bool {
    matches!(path, "/healthcheck" | "/RASHTML5Gateway")
}

pub(super) fn page(request: &Request) -> Response {
    let path = request.path();
    if is_public(&path) {
        return Response::status(200).body("ok");
    }
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    let answer = match parts.as_slice() {
        ["bytes", count] => count
            .parse()
            .ok()
            .map(|count| Response::new(200, Body::Filled(count))),
        ["chunked", count] => count
            .parse()
            .ok()
            .map(|count| Response::new(200, Body::FilledChunks(count))),
        ["status", status] => status.parse().ok().map(Response::status),
        ["echo"] => Some(Response::new(200, Body::Echo).early()),
        ["sse"] => Some(Response::new(200, Body::Events)),
        ["websocket"] => Some(websocket(request)),
        _ => Some(Response::identity()),
    };
    answer.unwrap_or_else(|| Response::status(404))
}

fn websocket(request: &Request) -> Response {
    let asked = request
        .header("upgrade")
        .is_some_and(|upgrade| upgrade.eq_ignore_ascii_case("websocket"));
    match request.header("sec-websocket-key") {
        Some(_) if asked => Response::new(101, Body::WebSocket),
        _ => Response::status(426).header("Upgrade", "websocket"),
    }
}
