//! From a request to its answer.

use std::{path::PathBuf, sync::Arc, time::SystemTime};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue},
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::Notify;

use super::{
    api::{self, ErrorKind},
    audit::{AuditError, audit},
    clients::{clients, wish},
    explain::explain,
    flows::{FlowsError, flows},
    reload::{ReloadError, reload},
    status::{backend_state, status},
};
use crate::{
    control::{
        Handle, RequestError, chain,
        event::BackendName,
        state::{Author, ClientsError, TargetError},
    },
    proxy,
};

/// Longest body, in bytes.
const BODY_BYTES: usize = 64 << 10;
/// Longest list of clients, in bytes: as many as the maps can hold, each as long as can be.
const CLIENTS_BYTES: usize = 8 << 20;

/// What answers need.
#[derive(Clone)]
pub struct Context {
    /// Control.
    pub handle: Handle,
    /// Path of the configuration file.
    pub configuration: PathBuf,
    /// Told when the daemon shall stop and take the data path down.
    pub detach: Arc<Notify>,
    /// What the proxy shows of itself.
    pub proxy: proxy::View,
}

/// A failed request.
#[derive(Debug)]
pub(super) struct Failure {
    error: ErrorKind,
    message: String,
}

impl Failure {
    fn new(error: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            error,
            message: message.into(),
        }
    }
}

/// Answers one request of `user`.
pub(super) async fn answer(
    context: &Context,
    user: &str,
    request: Request<Incoming>,
) -> Response<Full<Bytes>> {
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let query = request.uri().query().unwrap_or("").to_owned();
    let result = match (&method, path.as_str()) {
        (&Method::GET, "/v1/status") => json(&status(
            &context.handle.snapshot(),
            &context.proxy,
            &context.configuration,
            SystemTime::now(),
        )),
        (&Method::GET, "/v1/flows") => list_flows(context, &query).await,
        (&Method::GET, "/v1/explain") => explain_client(context, &query).await,
        (&Method::GET, "/v1/audit") => audit_maps(context).await,
        (&Method::GET, "/v1/backends/state") => show_backend(context, &query),
        (&Method::POST, "/v1/backends/state") => set_state(context, user, request).await,
        (&Method::POST, "/v1/backends/weight") => set_weight(context, user, request).await,
        (&Method::GET, "/v1/clients") => json(&clients(&context.handle.snapshot().state)),
        (&Method::POST, "/v1/clients") => change_clients(context, user, request).await,
        (&Method::POST, "/v1/reload") => apply_configuration(context, user).await,
        (&Method::POST, "/v1/detach") => detach(context, user),
        (_, known) => Err(no_such_route(known)),
    };
    let allowed = allowed_methods(&path);
    match result {
        Ok(body) => respond(StatusCode::OK, body, None),
        Err(failure) => {
            let status = StatusCode::from_u16(failure.error.status())
                .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            let allow = (failure.error == ErrorKind::MethodNotAllowed).then_some(allowed);
            let body = json(&api::ApiError {
                error: failure.error,
                message: failure.message,
            });
            respond(status, body.unwrap_or_default(), allow.flatten())
        }
    }
}

/// Returns the methods that a path knows; `None`: there is no such path.
fn allowed_methods(path: &str) -> Option<&'static str> {
    match path {
        "/v1/status" | "/v1/flows" | "/v1/explain" | "/v1/audit" => Some("GET"),
        "/v1/backends/state" | "/v1/clients" => Some("GET, POST"),
        "/v1/backends/weight" | "/v1/reload" | "/v1/detach" => Some("POST"),
        _ => None,
    }
}

fn no_such_route(path: &str) -> Failure {
    match allowed_methods(path) {
        Some(methods) => Failure::new(
            ErrorKind::MethodNotAllowed,
            format!("{path} knows {methods} only"),
        ),
        None => Failure::new(ErrorKind::NotFound, format!("there is no {path}")),
    }
}

fn respond(
    status: StatusCode,
    body: Vec<u8>,
    allow: Option<&'static str>,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(allow) = allow {
        headers.insert(ALLOW, HeaderValue::from_static(allow));
    }
    response
}

async fn list_flows(context: &Context, query: &str) -> Result<Vec<u8>, Failure> {
    let query = flows_query(query)?;
    let flows = context
        .handle
        .look(move |dataplane, snapshot| flows(dataplane, snapshot, &query))
        .await?;
    json(&flows?)
}

fn flows_query(query: &str) -> Result<api::FlowsQuery, Failure> {
    let mut wanted = api::FlowsQuery::default();
    for (key, value) in parameters(query)? {
        match key.as_str() {
            "client" => wanted.client = Some(parse("client", &value, "an IP address")?),
            "limit" => wanted.limit = Some(parse("limit", &value, "a number")?),
            "service" => wanted.service = Some(value),
            "backend" => wanted.backend = Some(value),
            _ => return Err(unknown_parameter(&key, "client, service, backend, limit")),
        }
    }
    Ok(wanted)
}

async fn explain_client(context: &Context, query: &str) -> Result<Vec<u8>, Failure> {
    let client = one_parameter(query, "client")?;
    let client = parse("client", &client, "an IP address")?;
    let explanation = context
        .handle
        .look(move |dataplane, snapshot| explain(dataplane, snapshot, client))
        .await?
        .map_err(|message| Failure::new(ErrorKind::Failed, message))?;
    json(&explanation)
}

async fn audit_maps(context: &Context) -> Result<Vec<u8>, Failure> {
    json(&audit(&context.handle).await?)
}

fn show_backend(context: &Context, query: &str) -> Result<Vec<u8>, Failure> {
    let target = one_parameter(query, "backend")?;
    let name = context
        .handle
        .snapshot()
        .state
        .resolve(&target)
        .map_err(RequestError::from)?;
    backend_answer(context, &name)
}

async fn set_state(
    context: &Context,
    user: &str,
    request: Request<Incoming>,
) -> Result<Vec<u8>, Failure> {
    let wanted: api::SetState = body(request, BODY_BYTES).await?;
    let author = author(user, wanted.reason);
    let name = context
        .handle
        .set_state(wanted.backend, wanted.state, author)
        .await?;
    backend_answer(context, &name)
}

async fn set_weight(
    context: &Context,
    user: &str,
    request: Request<Incoming>,
) -> Result<Vec<u8>, Failure> {
    let wanted: api::SetWeight = body(request, BODY_BYTES).await?;
    let author = author(user, wanted.reason);
    let name = context
        .handle
        .set_weight(wanted.backend, wanted.weight, author)
        .await?;
    backend_answer(context, &name)
}

async fn change_clients(
    context: &Context,
    user: &str,
    request: Request<Incoming>,
) -> Result<Vec<u8>, Failure> {
    let wanted: api::ChangeClients = body(request, CLIENTS_BYTES).await?;
    if wanted.prefixes.is_empty() {
        return Err(Failure::new(
            ErrorKind::BadRequest,
            "prefixes is empty; name at least one",
        ));
    }
    let wish = wish(&wanted);
    let author = author(user, wanted.reason);
    context.handle.change_clients(wish, author).await?;
    json(&api::ClientsChanged {
        action: wanted.action,
        service: wanted.service,
        prefixes: u32::try_from(wanted.prefixes.len()).unwrap_or(u32::MAX),
    })
}

fn backend_answer(context: &Context, name: &BackendName) -> Result<Vec<u8>, Failure> {
    match backend_state(&context.handle.snapshot().state, name) {
        Some(state) => json(&state),
        None => Err(Failure::new(
            ErrorKind::NotFound,
            format!("{name} has just been removed by a reload"),
        )),
    }
}

async fn apply_configuration(context: &Context, user: &str) -> Result<Vec<u8>, Failure> {
    tracing::info!(user, "reload asked for");
    let reloaded = reload(&context.handle, &context.configuration).await;
    json(&reloaded.inspect_err(|error| tracing::warn!("no reload: {}", chain(error)))?)
}

fn detach(context: &Context, user: &str) -> Result<Vec<u8>, Failure> {
    tracing::info!(user, "detach asked for");
    context.detach.notify_one();
    json(&api::Detaching {
        pid: std::process::id(),
    })
}

fn author(user: &str, reason: Option<String>) -> Author {
    Author {
        by: user.to_owned(),
        at: SystemTime::now(),
        reason: reason.filter(|reason| !reason.trim().is_empty()),
    }
}

fn json(value: &impl Serialize) -> Result<Vec<u8>, Failure> {
    let mut text = serde_json::to_vec(value)
        .map_err(|error| Failure::new(ErrorKind::Failed, error.to_string()))?;
    text.push(b'\n');
    Ok(text)
}

async fn body<T: DeserializeOwned>(
    request: Request<Incoming>,
    longest: usize,
) -> Result<T, Failure> {
    let collected = Limited::new(request.into_body(), longest).collect().await;
    let bytes = match collected {
        Ok(collected) => collected.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => {
            return Err(Failure::new(
                ErrorKind::TooLarge,
                format!("the body is longer than {longest} bytes"),
            ));
        }
        Err(error) => return Err(Failure::new(ErrorKind::BadRequest, error.to_string())),
    };
    serde_json::from_slice(&bytes).map_err(|error| {
        Failure::new(
            ErrorKind::BadRequest,
            format!("the body is not what is expected here: {error}"),
        )
    })
}

fn one_parameter(query: &str, name: &str) -> Result<String, Failure> {
    let mut found = None;
    for (key, value) in parameters(query)? {
        if key != name {
            return Err(unknown_parameter(&key, name));
        }
        found = Some(value);
    }
    found.ok_or_else(|| Failure::new(ErrorKind::BadRequest, format!("{name}= is missing")))
}

fn unknown_parameter(key: &str, known: &str) -> Failure {
    Failure::new(
        ErrorKind::BadRequest,
        format!("there is no parameter \"{key}\"; there are {known}"),
    )
}

fn parse<T: std::str::FromStr>(key: &str, value: &str, what: &str) -> Result<T, Failure> {
    value.parse().map_err(|_| {
        Failure::new(
            ErrorKind::BadRequest,
            format!("{key} = \"{value}\" is not {what}"),
        )
    })
}

/// Takes a query apart (WHATWG URL, application/x-www-form-urlencoded, without `+` for a blank).
fn parameters(query: &str) -> Result<Vec<(String, String)>, Failure> {
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decode(key)?, decode(value)?))
        })
        .collect()
}

/// Undoes percent-encoding (RFC 3986 section 2.1).
fn decode(text: &str) -> Result<String, Failure> {
    let bad = || {
        Failure::new(
            ErrorKind::BadRequest,
            format!("\"{text}\" is badly encoded"),
        )
    };
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || {
            let digit = char::from(rest.next()?).to_digit(16)?;
            u8::try_from(digit).ok()
        };
        match (digit(), digit()) {
            (Some(high), Some(low)) => bytes.push(high << 4 | low),
            _ => return Err(bad()),
        }
    }
    String::from_utf8(bytes).map_err(|_| bad())
}

/// Percent-encodes everything but unreserved characters (RFC 3986 section 2.3).
pub(super) fn encode(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect()
}

impl From<RequestError> for Failure {
    fn from(error: RequestError) -> Self {
        let kind = match &error {
            RequestError::Target(TargetError::NotFound { .. }) => ErrorKind::NotFound,
            RequestError::Target(TargetError::Ambiguous { .. }) => ErrorKind::Ambiguous,
            RequestError::Clients(ClientsError::NoService { .. } | ClientsError::NoRule { .. }) => {
                ErrorKind::NotFound
            }
            RequestError::Clients(ClientsError::TooMany(_) | ClientsError::TooManyRules(_))
            | RequestError::Refused(_) => ErrorKind::Refused,
            RequestError::Dataplane(_) | RequestError::NotSaved(_) => ErrorKind::Failed,
            RequestError::Stopped => ErrorKind::Unavailable,
        };
        Self::new(kind, error.to_string())
    }
}

impl From<ReloadError> for Failure {
    fn from(error: ReloadError) -> Self {
        match error {
            ReloadError::Load(error) => Self::new(ErrorKind::Refused, chain(&error)),
            ReloadError::Apply(error) => error.into(),
            ReloadError::Read(error) => Self::new(ErrorKind::Failed, error.to_string()),
        }
    }
}

impl From<AuditError> for Failure {
    fn from(error: AuditError) -> Self {
        match error {
            AuditError::Request(error) => error.into(),
            AuditError::Dataplane(_) | AuditError::Unfinished => {
                Self::new(ErrorKind::Failed, chain(&error))
            }
        }
    }
}

impl From<FlowsError> for Failure {
    fn from(error: FlowsError) -> Self {
        match error {
            FlowsError::Backend(error) => RequestError::from(error).into(),
            FlowsError::Service { .. } => Self::new(ErrorKind::NotFound, error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(text in ".{0,40}") {
            let decoded = decode(&encode(&text)).map_err(|failure| failure.message);
            prop_assert_eq!(decoded, Ok(text));
        }

        #[test]
        fn any_query_is_taken_apart_or_refused(query in ".{0,60}") {
            let _ = parameters(&query);
            let _ = flows_query(&query);
        }
    }

    #[test]
    fn a_query_says_what_is_wrong_with_it() {
        for (query, message) in [
            ("client=x", "client = \"x\" is not an IP address"),
            ("limit=-1", "limit = \"-1\" is not a number"),
            (
                "colour=red",
                "there is no parameter \"colour\"; there are client, service, backend, limit",
            ),
            ("client=%zz", "\"%zz\" is badly encoded"),
            ("client=%ff", "\"%ff\" is badly encoded"),
        ] {
            let failure = flows_query(query).expect_err(query);
            assert_eq!(failure.message, message);
            assert_eq!(failure.error, ErrorKind::BadRequest);
        }
    }
}
