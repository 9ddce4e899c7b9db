//! A request on its way to a backend, until the answer begins.

use std::{pin::pin, sync::Arc, time::Duration};

use hyper::{
    HeaderMap, Method, Request, Response, StatusCode, Uri, Version,
    body::Incoming,
    header::{CONTENT_LENGTH, EXPECT, HOST, HeaderValue, TRANSFER_ENCODING},
    http::request::Parts,
};
use tokio::time::{Instant, sleep_until};

use super::{
    super::failure::Failure,
    body::{Gate, Progress, RequestBody},
    conversation::Conversation,
    exchange::Exchange,
    headers,
    names::Names,
};

/// A request that can be sent, and perhaps sent again.
pub(crate) struct Outgoing {
    method: Method,
    uri: Uri,
    version: Version,
    headers: HeaderMap,
    body: Option<RequestBody>,
    /// It asks for nothing to be done, and has nothing that could have been taken.
    replayable: bool,
}

impl Outgoing {
    pub(crate) fn new(mut parts: Parts, body: RequestBody, signs_on: bool) -> Self {
        if matches!(body, RequestBody::Streaming(_)) && !parts.headers.contains_key(CONTENT_LENGTH)
        {
            // Unless it is told, the engine takes GET for a request without a body.
            let chunked = HeaderValue::from_static("chunked");
            parts.headers.insert(TRANSFER_ENCODING, chunked);
        }
        let target = parts.uri.path_and_query().cloned();
        let replayable = matches!(body, RequestBody::Empty)
            && !signs_on
            && matches!(
                parts.method,
                Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE
            );
        // HTTP/1.1 knows no request without a host (RFC 9112 section 3.2).
        let version = match parts.headers.contains_key(HOST) {
            true => Version::HTTP_11,
            false => Version::HTTP_10,
        };
        Self {
            version,
            method: parts.method,
            uri: target.map_or_else(|| Uri::from_static("/"), Uri::from),
            headers: parts.headers,
            body: Some(body),
            replayable,
        }
    }

    /// Returns the request; what cannot be sent again is moved into it.
    fn take(&mut self) -> Option<Request<RequestBody>> {
        let body = match self.replayable {
            true => RequestBody::Empty,
            false => self.body.take()?,
        };
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.version_mut() = self.version;
        *request.headers_mut() = match self.replayable {
            true => self.headers.clone(),
            false => std::mem::take(&mut self.headers),
        };
        Some(request)
    }

    /// Takes a request back that nothing was sent of.
    fn put_back(&mut self, request: Request<RequestBody>) {
        let (parts, body) = request.into_parts();
        self.headers = parts.headers;
        self.body = Some(body);
    }

    fn can_be_sent(&self) -> bool {
        self.body.is_some()
    }
}

/// Why a request has no answer.
pub(crate) enum Unsent {
    /// It can be sent to somebody.
    Again(Failure),
    /// It cannot.
    Failed(Failure),
}

/// Returns a request's body as it goes to the backend.
pub(crate) fn incoming_body(
    conversation: &Conversation,
    exchange: &mut Exchange,
    parts: &Parts,
    names: Names,
) -> Result<RequestBody, Failure> {
    let body = exchange.arriving.clone();
    let service = &conversation.front.service;
    let limit = service.limits.body_size_bytes;
    if limit > 0
        && body
            .as_ref()
            .is_some_and(|body| body.size_hint().lower() > limit)
    {
        return Err(Failure::BodyTooLarge);
    }
    let expects =
        names.have(Names::EXPECT) && headers::has_token(&parts.headers, &EXPECT, b"100-continue");
    let gate = expects.then(Arc::<Gate>::default);
    let (body, progress) = RequestBody::new(
        body,
        limit,
        service.timeouts.body,
        gate.clone(),
        conversation,
    );
    exchange.progress = progress;
    exchange.gate = gate;
    Ok(body)
}

/// Sends a request over the exchange's connection, and waits for the head of the answer.
pub(crate) async fn send(
    conversation: &Conversation,
    exchange: &mut Exchange,
    outgoing: &mut Outgoing,
) -> Result<Response<Incoming>, Unsent> {
    let signed_on = conversation.has_signed_on();
    let failure = match signed_on {
        true => Failure::SignOnLost,
        false => Failure::BackendClosed,
    };
    let (Some(mut request), Some(lease)) = (outgoing.take(), &mut exchange.lease) else {
        return Err(Unsent::Failed(failure));
    };
    if let Some(gate) = &exchange.gate {
        let gate = Arc::clone(gate);
        hyper::ext::on_informational(&mut request, move |informational| {
            if informational.status() == StatusCode::CONTINUE {
                gate.open();
            }
        });
    }
    let sent = lease.sender.try_send_request(request);
    let limit = conversation.front.service.timeouts.response;
    let mut error = match in_time(sent, limit, exchange.progress.as_deref()).await {
        None => return Err(Unsent::Failed(Failure::ResponseTimeout)),
        Some(Ok(response)) => {
            exchange.answered(response.status());
            // The engine would go on in HTTP/1.0 with it, which has no chunks for a body.
            exchange.used_up = response.version() != Version::HTTP_11;
            return Ok(response);
        }
        Some(Err(error)) => error,
    };
    if let Some(request) = error.take_message()
        && !signed_on
    {
        outgoing.put_back(request);
        return Err(Unsent::Again(failure));
    }
    let error = error.into_error();
    tracing::debug!(client = %conversation.client, "no answer: {error}");
    // What the client did wrong with its body is not the backend's fault.
    if let Some(failure) = exchange
        .progress
        .as_ref()
        .and_then(|body| body.failure.get())
    {
        return Err(Unsent::Failed(failure));
    }
    if error.is_parse() {
        return Err(Unsent::Failed(Failure::BadResponse));
    }
    match outgoing.replayable && outgoing.can_be_sent() && !signed_on {
        true => Err(Unsent::Again(failure)),
        false => Err(Unsent::Failed(failure)),
    }
}

/// Waits for an answer, for `limit` from the last bytes of the request on. While the client is
/// waited for, the backend has nothing to answer.
async fn in_time<F: Future>(
    sent: F,
    limit: Duration,
    progress: Option<&Progress>,
) -> Option<F::Output> {
    let mut sent = pin!(sent);
    let mut timer = pin!(sleep_until(Instant::now() + limit));
    loop {
        tokio::select! {
            biased;
            answer = &mut sent => return Some(answer),
            () = &mut timer => match progress {
                Some(body) if body.waits.get() => timer.as_mut().reset(Instant::now() + limit),
                Some(body) if body.moved.get() + limit > Instant::now() => {
                    timer.as_mut().reset(body.moved.get() + limit);
                }
                _ => return None,
            },
        }
    }
}
