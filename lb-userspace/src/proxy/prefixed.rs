//! A client's stream: some bytes of it have been read already, and it ends when its client is sent
//! away.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf as _, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::{
    counters::Open,
    drained::OnSocket,
    guests::Guest,
    sources::Source,
    splice::{Filled, Pipe},
    tunnel::Side,
};

/// Gives the bytes that were read before first, then those of the stream. What is written goes to
/// the stream.
#[derive(Debug)]
pub(crate) struct Prefixed<S> {
    prefix: BytesMut,
    inner: S,
    guest: Option<Guest>,
    _counted: Option<(Open, Option<Source>)>,
}

impl<S> Prefixed<S> {
    pub(crate) fn new(prefix: BytesMut, inner: S) -> Self {
        Self {
            prefix,
            inner,
            guest: None,
            _counted: None,
        }
    }

    /// Says whose stream it is: it fails once that client is sent away.
    pub(crate) fn of(self, guest: Guest) -> Self {
        Self {
            guest: Some(guest),
            ..self
        }
    }

    /// Says as what the connection is counted until it ends.
    pub(crate) fn counted(self, open: Open, source: Option<Source>) -> Self {
        Self {
            _counted: Some((open, source)),
            ..self
        }
    }

    fn check(&self) -> io::Result<()> {
        self.guest.as_ref().map_or(Ok(()), Guest::check)
    }

    /// Keeps what a reader was answered, unless the client is sent away while it waits.
    fn or_away_as_reader<T>(
        &self,
        context: &Context<'_>,
        answer: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if let (Poll::Pending, Some(guest)) = (&answer, &self.guest) {
            guest.await_as_reader(context)?;
        }
        answer
    }

    /// The same for a writer.
    fn or_away_as_writer<T>(
        &self,
        context: &Context<'_>,
        answer: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if let (Poll::Pending, Some(guest)) = (&answer, &self.guest) {
            guest.await_as_writer(context)?;
        }
        answer
    }
}

impl<S: OnSocket> OnSocket for Prefixed<S> {
    fn poll_arrived(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        if !self.prefix.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let arrived = self.inner.poll_arrived(context);
        self.or_away_as_reader(context, arrived)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Prefixed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check()?;
        if self.prefix.is_empty() {
            let read = Pin::new(&mut self.inner).poll_read(context, buffer);
            return self.or_away_as_reader(context, read);
        }
        let count = self.prefix.len().min(buffer.remaining());
        buffer.put_slice(&self.prefix[..count]);
        self.prefix.advance(count);
        if self.prefix.is_empty() {
            // The connection may live for hours: the memory goes back now.
            self.prefix = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Prefixed<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        let written = Pin::new(&mut self.inner).poll_write(context, bytes);
        self.or_away_as_writer(context, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        let written = Pin::new(&mut self.inner).poll_write_vectored(context, slices);
        self.or_away_as_writer(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

impl Side for Prefixed<TcpStream> {
    fn can_splice(&self) -> bool {
        self.prefix.is_empty()
    }

    fn poll_fill(
        &mut self,
        context: &mut Context<'_>,
        pipe: &mut Pipe,
    ) -> Poll<io::Result<Filled>> {
        self.check()?;
        let filled = pipe.poll_fill(context, &self.inner);
        self.or_away_as_reader(context, filled)
    }

    fn poll_drain(
        &mut self,
        context: &mut Context<'_>,
        pipe: &mut Pipe,
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        let drained = pipe.poll_drain(context, &self.inner);
        self.or_away_as_writer(context, drained)
    }
}

#[cfg(test)]
#[expect(
    clippy::unwrap_used,
    reason = "a test may panic where its set-up fails"
)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn what_was_read_before_comes_first_and_writes_go_through() {
        let (near, mut far) = tokio::io::duplex(64);
        let mut stream = Prefixed::new(BytesMut::from("before "), near);
        assert!(stream.inner.is_write_vectored() && stream.is_write_vectored());
        far.write_all(b"after").await.unwrap();
        far.shutdown().await.unwrap();

        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "before after");

        let parts = [IoSlice::new(b"a"), IoSlice::new(b"b")];
        assert_eq!(stream.write_vectored(&parts).await.unwrap(), 2);
        stream.shutdown().await.unwrap();
        let mut back = String::new();
        far.read_to_string(&mut back).await.unwrap();
        assert_eq!(back, "ab");
    }

    #[tokio::test]
    async fn a_small_buffer_gets_the_prefix_in_pieces_and_the_rest_stays() {
        let mut stream = Prefixed::new(BytesMut::from("prefix"), tokio::io::empty());
        let mut piece = [0; 4];
        assert_eq!(stream.read(&mut piece).await.unwrap(), 4);
        assert_eq!(&piece, b"pref");
        assert_eq!(stream.read(&mut []).await.unwrap(), 0);

        let rest = stream.prefix;
        assert_eq!(&rest[..], b"ix");
    }
}
