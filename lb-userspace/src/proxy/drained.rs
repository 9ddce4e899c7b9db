//! TLS that is not asked again for what has not come.
//!
//! An engine of HTTP looks for its peer's end at each step of a request, and most looks find nothing.
//! Each would go down through TLS to the socket; this one remembers that the last found nothing, and
//! asks the socket first.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// What stands on a socket.
pub(crate) trait OnSocket {
    /// Returns whether the socket may have something to read, which may be its end or an error;
    /// otherwise the task is woken once it has.
    fn poll_arrived(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
}

impl OnSocket for TcpStream {
    fn poll_arrived(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_read_ready(cx)
    }
}

impl<S: OnSocket> OnSocket for tokio_rustls::client::TlsStream<S> {
    fn poll_arrived(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_ref().0.poll_arrived(cx)
    }
}

impl<S: OnSocket> OnSocket for tokio_rustls::server::TlsStream<S> {
    fn poll_arrived(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_ref().0.poll_arrived(cx)
    }
}

impl<S: OnSocket> OnSocket for Box<S> {
    fn poll_arrived(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        (**self).poll_arrived(cx)
    }
}

/// A stream that remembers whether there was something to read.
#[derive(Debug)]
pub(crate) struct Drained<S> {
    stream: S,
    /// The last look found nothing, so that whatever comes next comes through the socket.
    drained: bool,
}

impl<S: OnSocket> Drained<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self {
            stream,
            drained: false,
        }
    }

    /// Waits until a look can find something.
    fn poll_worth_a_look(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.drained {
            true => self.stream.poll_arrived(cx),
            false => Poll::Ready(Ok(())),
        }
    }
}

impl<S: AsyncRead + OnSocket + Unpin> AsyncRead for Drained<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_worth_a_look(cx))?;
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.drained = polled.is_pending();
        polled
    }
}

impl<S: AsyncBufRead + OnSocket + Unpin> AsyncBufRead for Drained<S> {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let this = self.get_mut();
        ready!(this.poll_worth_a_look(cx))?;
        let polled = Pin::new(&mut this.stream).poll_fill_buf(cx);
        this.drained = polled.is_pending();
        polled
    }

    fn consume(mut self: Pin<&mut Self>, amount: usize) {
        Pin::new(&mut self.stream).consume(amount);
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Drained<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
#[expect(
    clippy::unwrap_used,
    reason = "a test may panic where its set-up fails"
)]
mod tests {
    use std::{cell::Cell, future::poll_fn, rc::Rc};

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    /// A socket whose reads are counted.
    struct Counted {
        stream: TcpStream,
        reads: Rc<Cell<u32>>,
    }

    impl OnSocket for Counted {
        fn poll_arrived(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.stream.poll_arrived(cx)
        }
    }

    impl AsyncRead for Counted {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            self.reads.set(self.reads.get() + 1);
            Pin::new(&mut self.stream).poll_read(cx, buf)
        }
    }

    #[tokio::test]
    async fn nothing_is_asked_twice_and_everything_comes() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
        let mut far = far.unwrap().0;
        let reads = Rc::default();
        let mut stream = Drained::new(Counted {
            stream: near.unwrap(),
            reads: Rc::clone(&reads),
        });
        let mut bytes = [0; 16];
        for _ in 0..3 {
            let before = reads.get();
            let mut looks = 0;
            let length = poll_fn(|cx| {
                looks += 1;
                let mut room = ReadBuf::new(&mut bytes);
                let polled = Pin::new(&mut stream).poll_read(cx, &mut room);
                match (looks, polled.is_pending()) {
                    (1..5, true) => cx.waker().wake_by_ref(),
                    // It waits now, and what comes wakes it.
                    (5, true) => assert_eq!(far.try_write(b"something").unwrap(), 9),
                    _ => {}
                }
                polled.map_ok(|()| room.filled().len())
            })
            .await
            .unwrap();
            assert_eq!(&bytes[..length], b"something");
            assert_eq!(
                reads.get() - before,
                2,
                "one in vain, and one for the bytes"
            );
        }
        far.shutdown().await.unwrap();
        assert_eq!(
            stream.read(&mut bytes).await.unwrap(),
            0,
            "its end comes too"
        );
    }
}
