//! A client's stream that tells what happens on it, and that ends so that its client hears why.

use std::{
    future::poll_fn,
    io::{self, IoSlice},
    mem::MaybeUninit,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

use super::{activity::Activity, flood::Frames};

/// How long a client that was refused may go on sending. What has come and was not read would make
/// the kernel reset the connection, and the answer could be lost with it (RFC 9112 section 9.6).
const LINGER: Duration = Duration::from_secs(2);

/// A client's stream that tells its activity.
#[derive(Debug)]
pub(crate) struct Watched<S> {
    stream: S,
    activity: Arc<Activity>,
    /// What was read before, and is to be read again.
    again: Bytes,
    /// Everything has come that will.
    ended: bool,
    /// The client closed the connection without an end of TLS, as browsers do, and reads nothing more.
    gone: bool,
    linger: Linger,
    frames: Option<BothWays>,
}

/// The frames of HTTP/2.
#[derive(Debug)]
struct BothWays {
    of_client: Frames,
    to_client: Frames,
}

#[derive(Debug)]
enum Linger {
    Never,
    IfNeeded,
    Until(Pin<Box<Sleep>>),
}

impl<S> Watched<S> {
    pub(crate) fn new(stream: S, activity: Arc<Activity>) -> Self {
        Self {
            stream,
            activity,
            again: Bytes::new(),
            ended: false,
            gone: false,
            linger: Linger::Never,
            frames: None,
        }
    }

    /// Makes the end wait for a client of HTTP/1 that is sending.
    pub(crate) fn lingering(self) -> Self {
        Self {
            linger: Linger::IfNeeded,
            ..self
        }
    }

    /// Counts what a client of HTTP/2 does to no purpose, and fails once that is a flood.
    pub(crate) fn counting(self) -> Self {
        Self {
            frames: Some(BothWays {
                of_client: Frames::of_client(),
                to_client: Frames::to_client(),
            }),
            ..self
        }
    }

    /// Gives back what was read of it, and shall be read again.
    pub(crate) fn put_back(&mut self, again: &[u8]) {
        // A copy: the buffer it was read into has room for much more.
        self.again = Bytes::copy_from_slice(again);
    }

    /// So many bytes of these went to the client.
    fn has_sent(&mut self, bufs: &[IoSlice<'_>], mut length: usize) {
        let Some(frames) = &mut self.frames else {
            return;
        };
        let mut gain = 0;
        for buf in bufs {
            let sent = length.min(buf.len());
            gain += frames.to_client.gain_in(&buf[..sent]);
            length -= sent;
        }
        self.activity.has_gained(gain);
    }
}

impl<S: AsyncBufRead + Unpin> Watched<S> {
    /// Waits until there is something to read: bytes, the end, or an error.
    pub(crate) async fn readable(&mut self) {
        if self.again.is_empty() {
            poll_fn(|cx| Pin::new(&mut self.stream).poll_fill_buf(cx).map(drop)).await;
        }
    }
}

impl<S: AsyncRead + Unpin> Watched<S> {
    /// Reads and drops what comes, to the client's end or for a while.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Linger::Until(timer) = &mut self.linger else {
            return Poll::Ready(());
        };
        let mut space = [MaybeUninit::uninit(); 4096];
        loop {
            if timer.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            let mut dropped = ReadBuf::uninit(&mut space);
            let read = ready!(Pin::new(&mut self.stream).poll_read(cx, &mut dropped));
            if read.is_err() || dropped.filled().is_empty() {
                return Poll::Ready(());
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.frames.is_some() && this.activity.is_flood() {
            return Poll::Ready(Err(io::Error::other("a flood of HTTP/2")));
        }
        let before = buf.filled().len();
        let polled = match this.again.len().min(buf.remaining()) {
            0 => Pin::new(&mut this.stream).poll_read(cx, buf),
            length => {
                buf.put_slice(&this.again.split_to(length));
                Poll::Ready(Ok(()))
            }
        };
        let read = &buf.filled()[before..];
        if !read.is_empty() {
            this.activity.has_read();
            if let Some(frames) = &mut this.frames {
                this.activity.has_cost(frames.of_client.cost_in(read));
            }
        } else if let Poll::Ready(read) = &polled {
            this.ended = true;
            this.gone = read.as_ref().is_err_and(is_gone);
        }
        polled
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.activity.has_written(polled.is_ready());
        if let Poll::Ready(Ok(length)) = polled {
            self.has_sent(&[IoSlice::new(buf)], length);
        }
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.activity.has_written(polled.is_ready());
        if let Poll::Ready(Ok(length)) = polled {
            self.has_sent(bufs, length);
        }
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(cx);
        self.activity.has_written(polled.is_ready());
        polled
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.gone {
            // A farewell would only be answered by a reset.
            return Poll::Ready(Ok(()));
        }
        if !matches!(self.linger, Linger::Until(_)) {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
            let sends = !self.ended && self.activity.is_receiving();
            if !sends || matches!(self.linger, Linger::Never) {
                return Poll::Ready(Ok(()));
            }
            self.linger = Linger::Until(Box::pin(sleep(LINGER)));
            self.activity.ends_within(LINGER + LINGER);
        }
        self.poll_linger(cx).map(Ok)
    }
}

/// Returns whether nobody is there who could be told something.
fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset
    )
}

#[cfg(test)]
#[expect(
    clippy::unwrap_used,
    reason = "a test may panic where its set-up fails"
)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader},
        time::Instant,
    };

    use super::*;

    /// Returns how many seconds the end of a stream takes whose client, in the midst of a request,
    /// does `what` once it was told of the end.
    async fn end(what: impl AsyncFnOnce(tokio::io::DuplexStream)) -> u64 {
        let (near, mut far) = tokio::io::duplex(64);
        let mut stream = Watched::new(near, Activity::new(100)).lingering();
        far.write_all(b"some").await.unwrap();
        stream.read_exact(&mut [0; 4]).await.unwrap();
        let proxy = async {
            let begun = Instant::now();
            stream.shutdown().await.unwrap();
            begun.elapsed().as_secs()
        };
        let client = async {
            far.read_to_end(&mut Vec::new()).await.unwrap();
            what(far).await;
        };
        tokio::join!(proxy, client).0
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_waits_for_a_client_that_sends_but_not_for_ever() {
        let takes = end(async |mut far| far.write_all(&[b'x'; 10_000]).await.unwrap()).await;
        assert_eq!(takes, 0);
        let takes = end(async |_far| sleep(Duration::from_secs(60)).await).await;
        assert_eq!(takes, LINGER.as_secs());
    }

    #[tokio::test]
    async fn what_is_put_back_comes_before_what_is_new() {
        let activity = Activity::new(100);
        let (near, mut far) = tokio::io::duplex(64);
        let mut stream = Watched::new(BufReader::new(near), activity);
        far.write_all(b" there").await.unwrap();
        stream.readable().await;
        stream.put_back(b"who is");
        stream.readable().await;
        let mut text = [0; 12];
        stream.read_exact(&mut text).await.unwrap();
        assert_eq!(&text, b"who is there");
        drop(far);
        stream.readable().await;
        assert_eq!(stream.read(&mut text).await.unwrap(), 0);
    }

    /// A client that has closed its connection without an end of TLS.
    struct Gone;

    impl AsyncRead for Gone {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()))
        }
    }

    impl AsyncWrite for Gone {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &[u8],
        ) -> Poll<io::Result<usize>> {
            panic!("something is written to nobody");
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            panic!("nobody is told of the end");
        }
    }

    #[tokio::test]
    async fn who_is_gone_is_told_nothing_more() {
        let mut stream = Watched::new(Gone, Activity::new(100)).lingering();
        let read = stream.read(&mut [0; 4]).await;
        assert!(read.is_err_and(|error| is_gone(&error)));
        stream.shutdown().await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_a_client_that_has_sent_all_of_its_request() {
        let activity = Activity::new(100);
        let (near, mut far) = tokio::io::duplex(64);
        let mut stream = Watched::new(near, Arc::clone(&activity)).lingering();
        far.write_all(b"request").await.unwrap();
        let mut request = [0; 7];
        stream.read_exact(&mut request).await.unwrap();
        activity.begin(true);
        activity.body_ended();
        let begun = Instant::now();
        stream.shutdown().await.unwrap();
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }
}
