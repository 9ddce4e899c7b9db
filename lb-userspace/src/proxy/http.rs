//! HTTP between a client and the backends.
//!
//! [`serve`] has a connection, [`answer`] a request. [`way`] is the way of a request: check, route,
//! choose a backend, a connection to it, headers, send, judge the answer, stream it.

pub(crate) mod activity;
mod arriving;
pub(crate) mod body;
pub(crate) mod conversation;
mod cookie;
mod drive;
pub(crate) mod exchange;
mod flood;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod gathered;
mod headers;
mod names;
mod outgoing;
mod pages;
pub(crate) mod request;
mod response;
pub(crate) mod sign_on;
mod upgrade;
pub(crate) mod watched;

use std::{pin::Pin, rc::Rc, sync::Arc};

use hyper::{
    HeaderMap, Request, Response, StatusCode, Version,
    body::Incoming,
    header::{
        CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, STRICT_TRANSPORT_SECURITY, UPGRADE,
    },
    http::request::Parts,
    service::{HttpService, service_fn},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncBufRead, AsyncWrite};

pub(crate) use self::conversation::{Conversation, Opened};
use self::{
    activity::Activity,
    arriving::Arriving,
    body::{Ends, ResponseBody},
    conversation::Unconnected,
    drive::{Local, Outcome, drive, park},
    exchange::Exchange,
    gathered::Gathered,
    names::Names,
    outgoing::{Outgoing, Unsent, incoming_body, send},
    watched::Watched,
};
use super::{
    choose::ATTEMPTS,
    drained::{Drained, OnSocket},
    failure::Failure,
    front::Front,
    lost::Lost,
    worker::Worker,
};

/// Serves a client's connection until it ends.
pub(crate) async fn serve<S>(worker: Rc<Worker>, front: Arc<Front>, opened: Opened, stream: S)
where
    S: AsyncBufRead + AsyncWrite + OnSocket + Unpin + Send + 'static,
{
    let activity = Activity::new(front.service.limits.streams);
    let stream = Watched::new(Drained::new(stream), Arc::clone(&activity));
    let http2 = opened.http2;
    let conversation = Rc::new(Conversation::new(worker, front, opened, activity));
    let service = {
        let conversation = Rc::clone(&conversation);
        // In a place of its own: a connection that waits for a request has no room for it.
        service_fn(move |request| Box::pin(answer(Rc::clone(&conversation), request)))
    };
    let limits = &conversation.front.service.limits;
    if http2 {
        let mut builder = hyper::server::conn::http2::Builder::new(Local);
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(limits.streams)
            .max_header_list_size(limits.header_size_bytes)
            .max_send_buf_size(SEND_BUFFER)
            .max_pending_accept_reset_streams(flood::most_given_up(limits.streams));
        let engine = |stream| builder.serve_connection(TokioIo::new(stream), service);
        let mut connection = Gathered::under(engine, stream.counting());
        let outcome = drive(&conversation, Pin::new(&mut connection), false).await;
        if let Outcome::Over(lost) = outcome {
            conversation.ended(lost);
        }
    } else {
        let lost = serve_http1(&conversation, stream.lingering(), service).await;
        conversation.ended(lost);
    }
}

/// Serves a connection of HTTP/1, which is parked whenever nothing goes on; returns what went wrong
/// while no request was there to tell of it.
async fn serve_http1<S, F>(
    conversation: &Conversation,
    stream: Watched<S>,
    mut service: F,
) -> Option<Lost>
where
    S: AsyncBufRead + AsyncWrite + Unpin + Send + 'static,
    F: HttpService<Incoming, ResBody = ResponseBody, Error = Refusal>,
{
    let limits = &conversation.front.service.limits;
    let mut builder = hyper::server::conn::http1::Builder::new();
    if limits.headers != ENGINES_HEADERS {
        builder.max_headers(limits.headers as usize);
    }
    builder
        .timer(TokioTimer::new())
        // The activity knows more of what a client does.
        .header_read_timeout(None)
        .max_header_size(limits.header_size_bytes as usize)
        .half_close(false);
    let mut stream = TokioIo::new(stream);
    let mut told_to_end = false;
    loop {
        let mut connection = builder.serve_connection(stream, service).with_upgrades();
        let driven = drive(conversation, Pin::new(&mut connection), told_to_end);
        if let Outcome::Over(lost) = driven.await {
            return lost;
        }
        (stream, service) = {
            let mut parts = connection.into_parts()?;
            // Of a request that was sent before the answer to the last one was over.
            parts.io.inner_mut().put_back(&parts.read_buf);
            (parts.io, parts.service)
        };
        told_to_end = park(conversation, stream.inner_mut()).await;
    }
}

/// Headers that the engine takes unless it is told a number, for which it clears memory with each
/// request.
const ENGINES_HEADERS: u32 = 100;

/// Bytes of answers that one stream of HTTP/2 may keep while its client does not take them.
const SEND_BUFFER: usize = 64 * 1024;

type Refusal = Box<dyn std::error::Error + Send + Sync>;

/// Answers a request.
///
/// # Errors
///
/// Only where a stream of HTTP/2 is to be reset.
async fn answer(
    conversation: Rc<Conversation>,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Refusal> {
    let (parts, body) = request.into_parts();
    let version = parts.version;
    let mut exchange = Exchange::begin(&conversation, &parts, Arriving::new(body));
    let failure = match way(&conversation, &mut exchange, parts).await {
        Ok(response) => {
            let (parts, body) = response.into_parts();
            let timeouts = &conversation.front.service.timeouts;
            let (idle, ends) = match is_event_stream(&parts.headers) {
                // Events may be rare, and such an answer is as much of a tunnel as a WebSocket.
                true => (timeouts.tunnel, event_stream_ends(&conversation, &exchange)),
                false => (timeouts.body, None),
            };
            let body = ResponseBody::streaming(body, idle, ends, exchange);
            return Ok(Response::from_parts(parts, body));
        }
        Err(Stop::Upgraded(upgraded)) => {
            let (response, both) = *upgraded;
            tokio::task::spawn_local(upgrade::run(Rc::clone(&conversation), exchange, both));
            return Ok(response.map(|()| ResponseBody::none()));
        }
        Err(Stop::Failed(failure)) => failure,
    };
    exchange.failed(failure);
    if failure == Failure::Http11Required {
        conversation.worker.http1_only.add(conversation.client.ip());
        exchange.fail(failure);
        return Err(h2::Error::from(h2::Reason::HTTP_1_1_REQUIRED).into());
    }
    let Some(status) = failure.status() else {
        exchange.fail(failure);
        return Err(failure.label().into());
    };
    exchange.status = Some(status);
    let ends_unclearly = exchange.ends_unclearly();
    let mut response = pages::page(&conversation.front, status, failure, exchange);
    if version != Version::HTTP_2 && (closes(failure) || ends_unclearly) {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(CONNECTION, close);
    }
    Ok(response)
}

/// Returns whether what follows on the connection cannot be trusted to be a request.
fn closes(failure: Failure) -> bool {
    matches!(
        failure,
        Failure::BadRequest | Failure::RequestTimeout | Failure::BodyTooLarge
    )
}

/// Why there is no answer to stream.
enum Stop {
    Failed(Failure),
    /// The connection is something else from now on.
    Upgraded(Box<(Response<()>, upgrade::Both)>),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// The way of a request.
async fn way(
    conversation: &Conversation,
    exchange: &mut Exchange,
    mut parts: Parts,
) -> Result<Response<Incoming>, Stop> {
    let front = &conversation.front;
    request::check_lines(&parts.headers, front.service.limits.headers)?;
    let mut names = Names::of(&parts.headers);
    let asked = request::check(&parts, names)?;
    let place = conversation.route(&asked.host)?;
    conversation.keeps_to(place)?;
    let signs_on = sign_on::is_part_of(&parts.headers, names);
    if signs_on && conversation.http2 {
        return Err(Failure::Http11Required.into());
    }
    exchange.bind = signs_on;
    let cookie = cookie::named(conversation, place, &mut parts.headers);
    let origin = headers::Origin {
        client: conversation.client.ip(),
        address: &conversation.address,
        port: &front.port,
        trusted: &front.service.trusted_proxies,
        host: asked.host_header.as_ref(),
    };
    let begins_here = exchange.arriving.is_none() && parts.version == Version::HTTP_11;
    if names.have(Names::UPGRADE) && !begins_here {
        // A tunnel begins where the request ends, and only there (RFC 9110 section 7.8).
        parts.headers.remove(UPGRADE);
        names = names.without(Names::UPGRADE);
    }
    let upgrade = headers::prepare_request(&mut parts.headers, names, &origin)?;
    let on_client = upgrade
        .is_some()
        .then(|| parts.extensions.remove::<hyper::upgrade::OnUpgrade>())
        .flatten();
    let body = incoming_body(conversation, exchange, &parts, names)?;
    let mut outgoing = Outgoing::new(parts, body, signs_on);

    let mut failed: Vec<u16> = Vec::new();
    let mut last = Failure::NoBackend;
    let response = loop {
        if usize::from(exchange.retries) >= ATTEMPTS {
            return Err(last.into());
        }
        let lease = match conversation
            .connection(exchange, place, cookie, &failed, signs_on)
            .await
        {
            Ok(lease) => lease,
            Err(Unconnected::Nobody(failure)) => {
                return Err(if failed.is_empty() { failure } else { last }.into());
            }
            Err(Unconnected::Lost) => return Err(Failure::SignOnLost.into()),
            Err(Unconnected::Failed(number, failure)) => {
                last = failure;
                failed.push(number);
                exchange.retries += 1;
                continue;
            }
        };
        let number = lease.number;
        let reused = lease.reused;
        exchange.connected(&lease);
        exchange.lease = Some(lease);
        match send(conversation, exchange, &mut outgoing).await {
            Ok(response) => break response,
            Err(Unsent::Again(failure)) => {
                last = failure;
                exchange.lease = None;
                exchange.retries += 1;
                // A connection that had waited may have died alone.
                if !reused {
                    failed.push(number);
                }
            }
            Err(Unsent::Failed(failure)) => return Err(failure.into()),
        }
    };
    finish(conversation, exchange, response, upgrade, on_client, cookie)
}

/// Judges the answer and makes it ready for the client.
fn finish(
    conversation: &Conversation,
    exchange: &mut Exchange,
    mut response: Response<Incoming>,
    upgrade: Option<HeaderValue>,
    on_client: Option<hyper::upgrade::OnUpgrade>,
    cookie: Option<u16>,
) -> Result<Response<Incoming>, Stop> {
    let names = Names::of(response.headers());
    response::check(&response, names, upgrade.is_some())?;
    // A version is one hop's (RFC 9110 section 2.5): the engine says 1.0 to whom asks so.
    *response.version_mut() = Version::HTTP_11;
    let signs_on = sign_on::is_part_of(response.headers(), names);
    if signs_on && conversation.http2 {
        return Err(Failure::Http11Required.into());
    }
    let number = exchange.lease.as_ref().map(|lease| lease.number);
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let Some(on_client) = on_client else {
            return Err(Failure::BadResponse.into());
        };
        let on_backend = hyper::upgrade::on(&mut response);
        let (mut parts, _) = response.into_parts();
        let protocol = parts.headers.get(UPGRADE).cloned();
        headers::prepare_response(&mut parts.headers, names);
        parts.headers.remove(CONTENT_LENGTH);
        let upgrades = HeaderValue::from_static("upgrade");
        parts.headers.insert(CONNECTION, upgrades);
        if let Some(protocol) = protocol.or(upgrade) {
            parts.headers.insert(UPGRADE, protocol);
        }
        let both = upgrade::Both {
            on_client,
            on_backend,
        };
        let upgraded = (Response::from_parts(parts, ()), both);
        return Err(Stop::Upgraded(Box::new(upgraded)));
    }
    exchange.bind |= signs_on || conversation.has_signed_on();
    let headers = response.headers_mut();
    let closes = match exchange.bind {
        // Who signs on needs this connection, and shares it with nobody.
        true => headers::has_token(headers, &CONNECTION, b"close"),
        false => exchange.ends_unclearly(),
    };
    headers::prepare_response(headers, names);
    if closes {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if let Some(hsts) = &conversation.front.hsts {
        headers.insert(STRICT_TRANSPORT_SECURITY, hsts.clone());
    }
    if let Some(number) = number.filter(|number| cookie != Some(*number)) {
        cookie::set(conversation, number, headers);
    }
    Ok(response)
}

/// Returns whether an answer brings events one by one, and has no end of its own.
fn is_event_stream(headers: &HeaderMap) -> bool {
    let events = b"text/event-stream";
    headers
        .get(CONTENT_TYPE)
        .and_then(|kind| kind.as_bytes().get(..events.len()))
        .is_some_and(|kind| kind.eq_ignore_ascii_case(events))
}

fn event_stream_ends(conversation: &Conversation, exchange: &Exchange) -> Option<Ends> {
    let number = exchange.lease.as_ref()?.number;
    let worker = Rc::clone(&conversation.worker);
    Some(Ends::new(async move { worker.tunnel_ends(number).await }))
}
