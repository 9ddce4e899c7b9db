//! Servers that do exactly what a test says.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;

/// What a server does after it has read a request.
#[derive(Clone, Debug)]
pub(super) enum Then {
    /// Ends the connection in order.
    Close,
    /// Ends it by a reset.
    Reset,
    /// Says nothing more until the client goes.
    Hang,
}

/// A server that takes connections and answers each request with the same pieces.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    task: JoinHandle<()>,
    seen: tokio::sync::mpsc::UnboundedReceiver<String>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    pub(super) async fn start(pieces: Vec<Vec<u8>>, then: Then) -> Self {
        Self::bind(Ipv4Addr::LOCALHOST.into(), None, pieces, then).await
    }

    /// Starts a server on an address of its own, over TLS if `tls` is given. Each of `pieces` is
    /// written by itself.
    pub(super) async fn bind(
        address: IpAddr,
        tls: Option<TlsAcceptor>,
        pieces: Vec<Vec<u8>>,
        then: Then,
    ) -> Self {
        let listener = TcpListener::bind((address, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (requests, seen) = tokio::sync::mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                let answer = Answer {
                    pieces: pieces.clone(),
                    then: then.clone(),
                    requests: requests.clone(),
                };
                match &tls {
                    None => match answer.to_tcp(stream).await {
                        Ok(()) | Err(_) => {}
                    },
                    Some(acceptor) => {
                        if let Ok(stream) = acceptor.accept(stream).await {
                            let _ = answer.to(stream).await;
                        }
                    }
                }
            }
        });
        Self {
            address,
            task,
            seen,
        }
    }

    /// Returns the requests that came since the last call.
    pub(super) fn requests(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.seen.try_recv().ok()).collect()
    }
}

struct Answer {
    pieces: Vec<Vec<u8>>,
    then: Then,
    requests: tokio::sync::mpsc::UnboundedSender<String>,
}

impl Answer {
    async fn to_tcp(&self, mut stream: TcpStream) -> std::io::Result<()> {
        self.exchange(&mut stream).await?;
        if matches!(self.then, Then::Reset) {
            socket2::SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO))?;
            return Ok(());
        }
        self.end(stream).await
    }

    async fn to<S: AsyncRead + AsyncWrite + Unpin>(&self, mut stream: S) -> std::io::Result<()> {
        self.exchange(&mut stream).await?;
        self.end(stream).await
    }

    async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: &mut S,
    ) -> std::io::Result<()> {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            if stream.read(&mut byte).await? == 0 {
                return Ok(());
            }
            request.push(byte[0]);
        }
        let _ = self
            .requests
            .send(String::from_utf8_lossy(&request).into_owned());
        for piece in &self.pieces {
            stream.write_all(piece).await?;
            stream.flush().await?;
            // Lets the reader in, so that it meets the pieces one by one.
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    async fn end<S: AsyncRead + AsyncWrite + Unpin>(&self, mut stream: S) -> std::io::Result<()> {
        if matches!(self.then, Then::Close) {
            stream.shutdown().await?;
        }
        // Until the client goes.
        while stream.read(&mut [0; 1024]).await? > 0 {}
        Ok(())
    }
}
