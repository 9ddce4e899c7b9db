//! The admin socket: HTTP/1.1 with JSON over a Unix socket.
//!
//! | request | answer ([`super::api`]) |
//! |---|---|
//! | `GET /v1/status` | `Status` |
//! | `GET /v1/flows?client=&service=&backend=&limit=` | `Flows` |
//! | `GET /v1/explain?client=` | `Explanation` |
//! | `GET /v1/audit` | `Audit` |
//! | `GET /v1/backends/state?backend=` | `BackendState` |
//! | `POST /v1/backends/state` with `SetState` | `BackendState` |
//! | `POST /v1/backends/weight` with `SetWeight` | `BackendState` |
//! | `GET /v1/clients` | `Clients` |
//! | `POST /v1/clients` with `ChangeClients` | `ClientsChanged` |
//! | `POST /v1/reload` | `Reloaded` |
//! | `POST /v1/detach` | `Detaching` |
//!
//! Every other status than 200 comes with an `ApiError`. Whoever may open the socket may ask for
//! everything: `[admin]` sets its group and mode. By hand:
//! `curl --unix-socket /run/vipd/vipd.sock http://vipd/v1/status`.

use std::{
    convert::Infallible,
    fs, io,
    os::unix::{fs::PermissionsExt, net::UnixStream as StdUnixStream},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::Semaphore,
};

pub use super::routes::Context;
use super::{peer, routes};
use crate::config::model::Admin;

/// Connections at one time; others wait.
const CONNECTIONS: usize = 64;
/// Time for the headers of a request, from the end of the one before.
const HEADER_TIME: Duration = Duration::from_secs(30);
/// Time for a request and its answer.
const REQUEST_TIME: Duration = Duration::from_secs(60);
/// Longest request line and headers, in bytes.
const HEADER_BYTES: usize = 16 << 10;

/// The socket cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Another daemon answers there.
    #[error(
        "another vipd answers on {}: stop it first, or give this one another admin.socket",
        .0.display()
    )]
    Taken(PathBuf),
    /// There is no such group.
    #[error("admin.group = \"{0}\": there is no such group; make it with `groupadd {0}`")]
    NoGroup(String),
    /// The system refused.
    #[error("cannot open the admin socket {}", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The socket, ready to answer. It is removed when this is dropped.
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
}

impl Server {
    /// Opens the socket with its group and mode.
    ///
    /// A socket that a dead daemon left is replaced.
    ///
    /// # Errors
    ///
    /// [`ServerError`].
    pub fn open(admin: &Admin) -> Result<Self, ServerError> {
        let path = &admin.socket;
        if StdUnixStream::connect(path).is_ok() {
            return Err(ServerError::Taken(path.clone()));
        }
        let io_error = |source| ServerError::Io {
            path: path.clone(),
            source,
        };
        let group = match &admin.group {
            Some(name) => {
                let found = peer::group(name);
                Some(found.ok_or_else(|| ServerError::NoGroup(name.clone()))?)
            }
            None => None,
        };
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).map_err(io_error)?;
        }
        // Under another name until group and mode are right: nobody can come in before.
        let fresh = path.with_extension("sock.new");
        remove(&fresh).map_err(io_error)?;
        let listener = UnixListener::bind(&fresh).map_err(io_error)?;
        restrict(&fresh, admin.mode, group)
            .and_then(|()| fs::rename(&fresh, path))
            .map_err(io_error)?;
        Ok(Self {
            listener,
            path: path.clone(),
        })
    }

    /// Answers until the task is aborted.
    pub async fn run(self, context: Context) {
        let permits = Arc::new(Semaphore::new(CONNECTIONS));
        let context = Arc::new(context);
        // Dropped with this task: no connection outlives the socket.
        let mut connections = tokio::task::JoinSet::new();
        loop {
            let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
                return;
            };
            while connections.try_join_next().is_some() {}
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let context = Arc::clone(&context);
                    connections.spawn(async move {
                        serve(stream, &context).await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!("admin socket: {error}");
                    // Descriptors may be short: give others time to close theirs.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = fs::remove_file(&self.path);
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn restrict(path: &Path, mode: u32, group: Option<u32>) -> io::Result<()> {
    if group.is_some() {
        std::os::unix::fs::chown(path, None, group)?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

async fn serve(stream: UnixStream, context: &Context) {
    let user = match stream.peer_cred() {
        Ok(peer) => peer::user(peer.uid()),
        Err(error) => {
            tracing::debug!("admin socket: {error}");
            return;
        }
    };
    let service = service_fn(|request| {
        let user = &user;
        async move { Ok::<_, Infallible>(routes::answer(context, user, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME)
        .max_buf_size(HEADER_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(REQUEST_TIME, connection).await {
        Ok(Ok(())) | Err(_) => {}
        Ok(Err(error)) => tracing::debug!("admin socket: {error}"),
    }
}

#[cfg(test)]
mod tests;
