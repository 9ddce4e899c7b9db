//! What a client is shown when nobody can answer its request.

use bytes::Bytes;
use hyper::{
    Response, StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER, STRICT_TRANSPORT_SECURITY},
};

use super::{
    super::{failure::Failure, front::Front},
    body::ResponseBody,
    exchange::Exchange,
};

/// Seconds after which it makes sense to ask again: a backend that comes back is found by then.
const RETRY_S: u16 = 10;

/// Returns the page for a failure: the service's own, or the built-in one.
pub(crate) fn page(
    front: &Front,
    status: StatusCode,
    failure: Failure,
    exchange: Box<Exchange>,
) -> Response<ResponseBody> {
    let page = front.pages.get(&status.as_u16());
    let page = page.map_or_else(|| built_in(status, failure), Bytes::clone);
    let mut response = Response::new(ResponseBody::whole(page, exchange));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    let html = HeaderValue::from_static("text/html; charset=utf-8");
    headers.insert(CONTENT_TYPE, html);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(RETRY_AFTER, HeaderValue::from(RETRY_S));
    }
    if let Some(hsts) = &front.hsts {
        headers.insert(STRICT_TRANSPORT_SECURITY, hsts.clone());
    }
    response
}

/// Nothing in it comes from the client.
fn built_in(status: StatusCode, failure: Failure) -> Bytes {
    let title = status.canonical_reason().unwrap_or("Error");
    let advice = match status.as_u16() {
        502..=504 => "The service cannot be reached at the moment. Please try again in a minute.",
        _ => "The request could not be served.",
    };
    Bytes::from(format!(
        "<!doctype html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\"><title>{title}</title></head>\n\
         <body><h1>{title}</h1><p>{advice}</p><p><small>{} {}</small></p></body>\n</html>\n",
        status.as_u16(),
        failure.label(),
    ))
}
