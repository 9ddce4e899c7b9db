//! Connections to backends: made, kept, and given out again.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr},
    os::fd::AsRawFd as _,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::{TcpSocket, TcpStream},
    time::{Instant, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    descriptors,
    drained::Drained,
    failure::Failure,
    front::{Front, Upstream},
    http::body::RequestBody,
    loads::Load,
    stopping::Step,
};
use crate::tls::describe;

/// How long a connection waits for its next request. Servers close after as little as 5 seconds
/// (Apache's KeepAliveTimeout), which is seen at once; this is for those that never do.
const IDLE: Duration = Duration::from_secs(60);
/// Connections to one backend that wait in one worker.
const MAX_IDLE: usize = 256;

/// Why there is no connection.
#[derive(Debug)]
pub(crate) struct ConnectError {
    pub(crate) failure: Failure,
    /// For the log, in words.
    pub(crate) detail: String,
}

/// Whose connections may be given to whom: those that leave from a client's own address are for
/// that client alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    upstream: u64,
    source: Option<IpAddr>,
}

/// Connections that wait for a request, in one worker.
#[derive(Default)]
pub(crate) struct Idle(RefCell<BTreeMap<Key, Vec<Waiting>>>);

struct Waiting {
    sender: SendRequest<RequestBody>,
    ended: Rc<Step>,
    since: Instant,
}

/// A connection that carries a request.
pub(crate) struct Lease {
    pub(crate) sender: SendRequest<RequestBody>,
    pub(crate) upstream: Arc<Upstream>,
    /// The backend's number.
    pub(crate) number: u16,
    /// It has carried a request before.
    pub(crate) reused: bool,
    source: Option<IpAddr>,
    ended: Rc<Step>,
    _load: Load,
}

impl Lease {
    /// Returns whether the connection has ended.
    pub(crate) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Returns what tells the end of the connection.
    pub(crate) fn ended(&self) -> Rc<Step> {
        Rc::clone(&self.ended)
    }
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lease")
            .field("upstream", &self.upstream.label)
            .field("reused", &self.reused)
            .finish_non_exhaustive()
    }
}

impl Idle {
    /// Gives a connection out that waits for a request; the youngest, which is the least likely to
    /// be closed by its backend in this moment.
    pub(crate) fn take(
        &self,
        upstream: &Arc<Upstream>,
        source: Option<IpAddr>,
        number: u16,
        load: Load,
    ) -> Result<Lease, Load> {
        let key = Key {
            upstream: upstream.id,
            source,
        };
        let mut idle = self.0.borrow_mut();
        let Some(waiting) = idle.get_mut(&key) else {
            return Err(load);
        };
        waiting.retain(|one| !one.sender.is_closed());
        match waiting.iter().rposition(|one| one.sender.is_ready()) {
            None => Err(load),
            Some(place) => {
                let found = waiting.remove(place);
                Ok(Lease {
                    sender: found.sender,
                    upstream: Arc::clone(upstream),
                    number,
                    reused: true,
                    source,
                    ended: found.ended,
                    _load: load,
                })
            }
        }
    }

    /// Takes a connection back whose request and answer are over.
    pub(crate) fn give_back(&self, lease: Lease) {
        if lease.sender.is_closed() {
            return;
        }
        let key = Key {
            upstream: lease.upstream.id,
            source: lease.source,
        };
        let mut idle = self.0.borrow_mut();
        let waiting = idle.entry(key).or_default();
        if waiting.len() < MAX_IDLE {
            waiting.push(Waiting {
                sender: lease.sender,
                ended: lease.ended,
                since: Instant::now(),
            });
        }
    }

    /// Closes what has waited too long or is closed.
    pub(crate) fn expire(&self) {
        let now = Instant::now();
        self.0.borrow_mut().retain(|_, waiting| {
            waiting.retain(|one| !one.sender.is_closed() && now.duration_since(one.since) < IDLE);
            !waiting.is_empty()
        });
    }
}

/// Makes a connection to a backend that speaks HTTP.
pub(crate) async fn connect_http(
    front: &Front,
    upstream: &Arc<Upstream>,
    client: IpAddr,
    number: u16,
    load: Load,
) -> Result<Lease, ConnectError> {
    let stream = connect(front, upstream, client).await?;
    let deadline = front.service.timeouts.connect;
    let (sender, ended) = match &upstream.tls {
        None => handshake(stream, front).await,
        Some(_) => {
            let stream = timeout(deadline, connect_tls(upstream, stream))
                .await
                .map_err(|_| ConnectError {
                    failure: Failure::ConnectTimeout,
                    detail: format!(
                        "no TLS handshake within {}",
                        crate::config::duration::format(deadline)
                    ),
                })??;
            handshake(Drained::new(stream), front).await
        }
    }
    .map_err(|error| ConnectError {
        failure: Failure::BackendClosed,
        detail: error.to_string(),
    })?;
    Ok(Lease {
        sender,
        upstream: Arc::clone(upstream),
        number,
        reused: false,
        source: front.service.transparent.then_some(client),
        ended,
        _load: load,
    })
}

async fn handshake<S>(
    stream: S,
    front: &Front,
) -> hyper::Result<(SendRequest<RequestBody>, Rc<Step>)>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let limit = front.service.limits.header_size_bytes as usize;
    let (sender, connection) = http1::Builder::new()
        // Any number of headers but its own makes the engine clear memory for each answer.
        .max_header_size(limit)
        .handshake(TokioIo::new(stream))
        .await?;
    let ended = Rc::<Step>::default();
    let over = Rc::clone(&ended);
    let connection = connection.with_upgrades();
    tokio::task::spawn_local(async move {
        // How it ends is seen by whoever waits for an answer.
        if let Err(error) = connection.await {
            tracing::debug!("a connection to a backend ended: {error}");
        }
        over.come();
    });
    Ok((sender, ended))
}

async fn connect_tls(
    upstream: &Upstream,
    stream: TcpStream,
) -> Result<TlsStream<TcpStream>, ConnectError> {
    let Some(tls) = &upstream.tls else {
        return Err(ConnectError {
            failure: Failure::TrustUnusable,
            detail: "TLS is not configured".to_owned(),
        });
    };
    let config = tls.config.as_ref().map_err(|detail| ConnectError {
        failure: Failure::TrustUnusable,
        detail: detail.clone(),
    })?;
    let name: ServerName<'static> = tls.name.clone();
    TlsConnector::from(Arc::clone(config))
        .connect(name, stream)
        .await
        .map_err(|error| ConnectError {
            failure: Failure::BackendTls,
            detail: tls_detail(tls, &error),
        })
}

fn tls_detail(tls: &super::front::UpstreamTls, error: &io::Error) -> String {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
    match cause {
        Some(cause) => describe(cause, tls.trust()),
        None => error.to_string(),
    }
}

/// Makes a TCP connection to a backend, from the address that the service says.
pub(crate) async fn connect(
    front: &Front,
    upstream: &Upstream,
    client: IpAddr,
) -> Result<TcpStream, ConnectError> {
    let address = upstream.address;
    let deadline = front.service.timeouts.connect;
    let socket = socket(front, address, client).map_err(|error| ConnectError {
        failure: match error.raw_os_error() {
            Some(libc::EMFILE | libc::ENFILE) => Failure::OutOfDescriptors,
            _ => Failure::NoSource,
        },
        detail: error.to_string(),
    })?;
    match timeout(deadline, socket.connect(address)).await {
        Ok(Ok(stream)) => {
            // An answer is written whole, and nothing is gained by waiting for more.
            let _ = stream.set_nodelay(true);
            Ok(stream)
        }
        Ok(Err(error)) => Err(ConnectError {
            failure: Failure::ConnectFailed,
            detail: error.to_string(),
        }),
        Err(_) => Err(ConnectError {
            failure: Failure::ConnectTimeout,
            detail: format!(
                "not accepted within {}",
                crate::config::duration::format(deadline)
            ),
        }),
    }
}

fn socket(front: &Front, to: SocketAddr, client: IpAddr) -> io::Result<TcpSocket> {
    let socket = Socket::new(
        Domain::for_address(to),
        Type::STREAM.nonblocking().cloexec(),
        Some(Protocol::TCP),
    )?;
    if descriptors::none_for_backends(socket.as_raw_fd()) {
        return Err(io::Error::from_raw_os_error(libc::EMFILE));
    }
    let service = &front.service;
    let source = if service.transparent {
        (client.is_ipv4() == to.is_ipv4()).then_some(client)
    } else {
        source_address(&service.source_addresses, to, client)
    };
    if let Some(source) = source {
        // The port is chosen with the connection: one port serves connections to many backends.
        bind_address_no_port(&socket)?;
        if service.transparent {
            if source.is_ipv4() {
                socket.set_ip_transparent_v4(true)?;
            } else {
                socket.set_ip_transparent_v6(true)?;
            }
        }
        socket
            .bind(&SocketAddr::new(source, 0).into())
            .map_err(|error| {
                let what = format!("it cannot leave from {source}: {error}");
                io::Error::new(error.kind(), what)
            })?;
    }
    Ok(TcpSocket::from_std_stream(socket.into()))
}

/// Sets `IP_BIND_ADDRESS_NO_PORT` (ip(7)), which serves both families.
#[expect(unsafe_code, reason = "the option has no safe interface")]
fn bind_address_no_port(socket: &Socket) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the option takes an int, which outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Spreads clients over the source addresses of the backend's family, the same client always the
/// same way.
fn source_address(addresses: &[IpAddr], to: SocketAddr, client: IpAddr) -> Option<IpAddr> {
    let usable: Vec<IpAddr> = addresses
        .iter()
        .copied()
        .filter(|address| address.is_ipv4() == to.is_ipv4())
        .collect();
    let hash = lb_common::hash::source(&lb_common::addr::bytes(client)) as usize;
    usable.get(hash.checked_rem(usable.len())?).copied()
}
