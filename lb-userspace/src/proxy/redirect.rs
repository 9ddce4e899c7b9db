//! HTTP that is sent to HTTPS, with the address as it came.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;

use std::{
    borrow::Cow,
    net::SocketAddr,
    pin::pin,
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http_body_util::Empty;
use hyper::{
    Method, Request, Response, StatusCode, Version,
    body::{Body as _, Incoming},
    header::{CONNECTION, HOST, HeaderValue, LOCATION},
    http::uri::Authority,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::TcpStream,
    time::{Instant, sleep_until},
};

use super::{
    access_log::{Kind, Record},
    failure::Failure,
    front::{Front, host_matches},
    guests::Fate,
    http::{
        activity::{Activity, Verdict},
        exchange::{method, protocol},
        request::host_and_port,
        watched::Watched,
    },
    lost::Lost,
    prefixed::Prefixed,
    worker::Worker,
};

/// Bytes that a request's head may have at most: nobody signs on here.
const HEAD: usize = 16 * 1024;

/// Serves a connection until it ends.
pub(crate) async fn serve(
    worker: Rc<Worker>,
    front: Arc<Front>,
    stream: Prefixed<TcpStream>,
    client: SocketAddr,
    fate: Fate,
) {
    let activity = Activity::new(front.service.limits.streams);
    let io = TokioIo::new(Watched::new(stream, Arc::clone(&activity)).lingering());
    let timeouts = front.service.timeouts;
    let counted = (Rc::clone(&worker), Arc::clone(&front));
    let mut finishing = false;
    let service = {
        let activity = Arc::clone(&activity);
        service_fn(move |request: Request<Incoming>| {
            activity.begin(!request.body().is_end_stream());
            let response = answer(&worker, &front, client, &request);
            activity.end();
            async move { Ok::<_, std::convert::Infallible>(response) }
        })
    };
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .max_header_size(HEAD)
        // Scripts end their direction after the request; the answer is there at once.
        .half_close(true)
        .serve_connection(io, service);
    let mut connection = pin!(connection);
    let mut timer = pin!(sleep_until(Instant::now() + timeouts.header));
    let lost = loop {
        tokio::select! {
            biased;
            ended = connection.as_mut() => break match ended {
                Err(error) => Lost::by_engine(&error, &activity),
                Ok(()) => None,
            },
            () = counted.0.stopping.finish.wait(), if !finishing => {
                connection.as_mut().graceful_shutdown();
                finishing = true;
            }
            () = timer.as_mut() => match activity.verdict(&timeouts, false) {
                Verdict::Until(moment) => timer.as_mut().reset(moment),
                Verdict::Idle => {
                    connection.as_mut().graceful_shutdown();
                    timer.as_mut().reset(Instant::now() + Duration::from_secs(1));
                }
                Verdict::Late(failure) => break Some(failure.into()),
            },
        }
    };
    let lost = match fate.is_refused() {
        true => Some(Failure::Refused.into()),
        false => lost,
    };
    if let Some(lost) = lost {
        let (worker, front) = counted;
        lost.tell(&worker, &front, client, activity.phase_begun(), |_| {});
    }
}

fn answer(
    worker: &Worker,
    front: &Front,
    client: SocketAddr,
    request: &Request<Incoming>,
) -> Response<Empty<Bytes>> {
    let begun = Instant::now();
    let time = SystemTime::now();
    let result = location(&front.service.redirect.hosts, request);
    let mut response = Response::new(Empty::new());
    let failure = match result {
        Ok(location) => {
            let status = StatusCode::from_u16(front.service.redirect.status);
            *response.status_mut() = status.unwrap_or(StatusCode::MOVED_PERMANENTLY);
            response.headers_mut().insert(LOCATION, location);
            None
        }
        Err(failure) => {
            *response.status_mut() = failure.status().unwrap_or(StatusCode::BAD_REQUEST);
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
            Some(failure)
        }
    };
    let counters = front.counters(worker.index);
    counters.requests.add(1);
    let status = response.status();
    counters.answered(status);
    if let Some(failure) = failure {
        counters.failures.add(failure);
    }
    if worker.access.is_on() {
        let host = request.headers().get(HOST);
        worker.access.write(Record {
            time,
            method: Some(method(request.method())),
            target: Some(request.uri().to_string()),
            host: host.and_then(|host| host.to_str().ok()).map(str::to_owned),
            protocol: Some(protocol(request.version())),
            status: Some(status.as_u16()),
            total: Some(begun.elapsed()),
            fault: failure.map(Failure::side),
            reason: failure.map(|failure| failure.label().into()),
            ..Record::begin(Arc::clone(&front.name), Kind::Redirect, client)
        });
    }
    response
}

/// Returns where a request is sent: the same host without its port, the same target.
///
/// # Errors
///
/// [`Failure::BadRequest`] without one good host, for CONNECT, and for `*` unless it is asked for its
/// options; [`Failure::Misdirected`] for a host that is not among `hosts`, which the configuration
/// lists; none: every host will do.
fn location<B>(hosts: &[String], request: &Request<B>) -> Result<HeaderValue, Failure> {
    if request.method() == Method::CONNECT {
        return Err(Failure::BadRequest);
    }
    let mut named = request.headers().get_all(HOST).iter();
    let authority = match (named.next(), named.next()) {
        (Some(host), None) => {
            Authority::try_from(host.as_bytes()).map_err(|_| Failure::BadRequest)?
        }
        // A client of HTTP/1.0 names none; there is one answer if there is one host.
        (None, _) if request.version() == Version::HTTP_10 && hosts.len() == 1 => {
            Authority::try_from(hosts[0].as_str()).map_err(|_| Failure::BadRequest)?
        }
        _ => return Err(Failure::BadRequest),
    };
    host_and_port(&authority)?;
    if let Some(target) = request.uri().authority()
        && !target.host().eq_ignore_ascii_case(authority.host())
    {
        return Err(Failure::BadRequest);
    }
    let host = authority.host().to_ascii_lowercase();
    if !hosts.is_empty() && !hosts.iter().any(|known| host_matches(known, &host)) {
        return Err(Failure::Misdirected);
    }
    let target = match request.uri().path_and_query() {
        Some(target) if target.as_str() != "*" => target.as_str(),
        Some(_) if request.method() != Method::OPTIONS => return Err(Failure::BadRequest),
        _ => "/",
    };
    let location = format!("https://{}{}", authority.host(), in_ascii(target));
    HeaderValue::from_maybe_shared(Bytes::from(location)).map_err(|_| Failure::BadRequest)
}

/// Returns a target as a URI has it: bytes beyond ASCII in percent-encoding (RFC 3986 section 2.1).
fn in_ascii(target: &str) -> Cow<'_, str> {
    if target.is_ascii() {
        return target.into();
    }
    let mut encoded = String::with_capacity(target.len() * 3);
    for byte in target.bytes() {
        match byte.is_ascii() {
            true => encoded.push(char::from(byte)),
            false => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded.into()
}
