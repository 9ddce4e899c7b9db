//! Asking the daemon, for the command line.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::net::UnixStream;

use super::{api, routes::encode};

/// Longest time for one answer.
const ANSWER_TIME: Duration = Duration::from_secs(70);
/// Longest answer, in bytes.
const ANSWER_BYTES: usize = 256 << 20;

/// Why there is no answer, or what the daemon refused.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error(
        "no daemon answers on {}: start `vipd run`, or name its socket with --socket",
        .0.display()
    )]
    NoDaemon(PathBuf),
    /// The socket may not be opened.
    #[error(
        "may not open {}: ask as root, or as a member of the group that admin.group names",
        .0.display()
    )]
    Forbidden(PathBuf),
    /// The connection failed.
    #[error("the daemon on {} gave no answer: {reason}", path.display())]
    Broken {
        /// The socket.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The daemon answered with an error.
    #[error("{}", .0.message)]
    Refused(api::ApiError),
}

/// Asks the daemon behind one socket.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// Returns a client of the daemon behind `socket`. Nothing is opened yet.
    #[must_use]
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self {
            socket: socket.into(),
        }
    }

    /// Returns the path of the socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Asks for the status.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub async fn status(&self) -> Result<api::Status, ClientError> {
        self.get("/v1/status").await
    }

    /// Asks for flows.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub async fn flows(&self, query: &api::FlowsQuery) -> Result<api::Flows, ClientError> {
        let client = query.client.map(|client| client.to_string());
        let limit = query.limit.map(|limit| limit.to_string());
        let parameters: Vec<String> = [
            ("client", client.as_ref()),
            ("service", query.service.as_ref()),
            ("backend", query.backend.as_ref()),
            ("limit", limit.as_ref()),
        ]
        .into_iter()
        .filter_map(|(key, value)| Some(format!("{key}={}", encode(value?))))
        .collect();
        self.get(&format!("/v1/flows?{}", parameters.join("&")))
            .await
    }

    /// Asks which backend a client meets, and why.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub async fn explain(&self, client: std::net::IpAddr) -> Result<api::Explanation, ClientError> {
        self.get(&format!(
            "/v1/explain?client={}",
            encode(&client.to_string())
        ))
        .await
    }

    /// Asks for an audit of the kernel's state.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub async fn audit(&self) -> Result<api::Audit, ClientError> {
        self.get("/v1/audit").await
    }

    /// Asks for the admin state, flows and clients of a backend.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub async fn backend_state(&self, backend: &str) -> Result<api::BackendState, ClientError> {
        self.get(&format!("/v1/backends/state?backend={}", encode(backend)))
            .await
    }

    /// Changes the admin state of a backend.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub async fn set_state(
        &self,
        wanted: &api::SetState,
    ) -> Result<api::BackendState, ClientError> {
        self.post("/v1/backends/state", wanted).await
    }

    /// Asks whom the services take.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub async fn clients(&self) -> Result<api::Clients, ClientError> {
        self.get("/v1/clients").await
    }

    /// Blocks, allows or forgets clients.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub async fn change_clients(
        &self,
        wanted: &api::ChangeClients,
    ) -> Result<api::ClientsChanged, ClientError> {
        self.post("/v1/clients", wanted).await
    }

    /// Applies the configuration file.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub async fn reload(&self) -> Result<api::Reloaded, ClientError> {
        self.post("/v1/reload", &()).await
    }

    /// Tells the daemon to stop and to take the data path down.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub async fn detach(&self) -> Result<api::Detaching, ClientError> {
        self.post("/v1/detach", &()).await
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.ask(Method::GET, path, Bytes::new()).await
    }

    async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(|error| self.broken(error))?;
        self.ask(Method::POST, path, body.into()).await
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T, ClientError> {
        match tokio::time::timeout(ANSWER_TIME, self.exchange(method, path, body)).await {
            Ok(answer) => answer,
            Err(_) => Err(self.broken(format!("it took more than {} s", ANSWER_TIME.as_secs()))),
        }
    }

    async fn exchange<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T, ClientError> {
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|error| self.no_connection(&error))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.broken(error))?;
        let driver = tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "vipd")
            .header(header::CONNECTION, "close")
            .body(Full::new(body))
            .map_err(|error| self.broken(error))?;
        let response = sender
            .send_request(request)
            .await
            .map_err(|error| self.broken(error))?;
        let status = response.status();
        let bytes = Limited::new(response.into_body(), ANSWER_BYTES)
            .collect()
            .await
            .map_err(|error| self.broken(error))?
            .to_bytes();
        driver.abort();
        if status == StatusCode::OK {
            return serde_json::from_slice(&bytes).map_err(|error| self.broken(error));
        }
        match serde_json::from_slice(&bytes) {
            Ok(error) => Err(ClientError::Refused(error)),
            Err(_) => Err(self.broken(format!("status {status}"))),
        }
    }

    fn no_connection(&self, error: &io::Error) -> ClientError {
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ClientError::NoDaemon(self.socket.clone())
            }
            io::ErrorKind::PermissionDenied => ClientError::Forbidden(self.socket.clone()),
            _ => self.broken(error),
        }
    }

    fn broken(&self, reason: impl ToString) -> ClientError {
        ClientError::Broken {
            path: self.socket.clone(),
            reason: reason.to_string(),
        }
    }
}
