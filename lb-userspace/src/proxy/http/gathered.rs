//! What a connection of HTTP/2 writes at one time, in one piece.
//!
//! The engine gives each frame of data to the stream by itself and flushes it: a record of TLS, a call
//! of the kernel and perhaps a packet for each of the answers that are ready at one time. Here they
//! wait for each other until the engine has done what there is to do.

use std::{
    cell::RefCell,
    io::{self, IoSlice},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::drive::Connection;

/// Bytes that wait for others at most: a record of TLS (RFC 8446 section 5.1).
const ROOM: usize = 16 * 1024;
/// What is as long as this leaves without being copied.
const LONG: usize = ROOM / 2;

/// A stream whose writes wait until [`InOnePiece`] has run the engine that makes them.
#[derive(Debug)]
pub(crate) struct Gathered<S>(Rc<RefCell<Gathering<S>>>);

#[derive(Debug)]
struct Gathering<S> {
    stream: S,
    /// No memory while nothing waits.
    bytes: Vec<u8>,
    /// Why they could not leave, until the engine reads it: it has been told that they were written.
    failure: Option<io::Error>,
}

impl<S> Gathered<S> {
    fn new(stream: S) -> Self {
        Self(Rc::new(RefCell::new(Gathering {
            stream,
            bytes: Vec::new(),
            failure: None,
        })))
    }

    /// Returns the engine of a connection and the stream that it has.
    pub(crate) fn under<C>(engine: impl FnOnce(Self) -> C, stream: S) -> InOnePiece<C, S> {
        let stream = Self::new(stream);
        InOnePiece {
            connection: Box::pin(engine(Self(Rc::clone(&stream.0)))),
            stream,
        }
    }
}

impl<S: AsyncWrite + Unpin> Gathering<S> {
    /// Writes what has waited.
    fn poll_leave(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.bytes.is_empty() {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, &self.bytes))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => drop(self.bytes.drain(..written)),
            }
        }
        self.bytes = Vec::new();
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_leave(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gathered<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut gathering = self.0.borrow_mut();
        match gathering.failure.take() {
            Some(failure) => Poll::Ready(Err(failure)),
            None => Pin::new(&mut gathering.stream).poll_read(cx, buf),
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gathered<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut gathering = self.0.borrow_mut();
        let length = bufs.iter().map(|buf| buf.len()).sum();
        if length >= LONG || gathering.bytes.len() + length > ROOM {
            ready!(gathering.poll_leave(cx))?;
        }
        if length >= LONG {
            return Pin::new(&mut gathering.stream).poll_write_vectored(cx, bufs);
        }
        if gathering.bytes.capacity() == 0 {
            gathering.bytes = Vec::with_capacity(ROOM);
        }
        bufs.iter()
            .for_each(|buf| gathering.bytes.extend_from_slice(buf));
        Poll::Ready(Ok(length))
    }

    fn is_write_vectored(&self) -> bool {
        self.0.borrow().stream.is_write_vectored()
    }

    /// Nothing: the engine asks for it after each frame.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut gathering = self.0.borrow_mut();
        ready!(gathering.poll_leave(cx))?;
        Pin::new(&mut gathering.stream).poll_shutdown(cx)
    }
}

/// A connection whose writes leave together each time that it has been run.
pub(crate) struct InOnePiece<C, S> {
    /// On the heap: the future that serves a connection of HTTP/1 as well has no room for it.
    connection: Pin<Box<C>>,
    stream: Gathered<S>,
}

impl<C: Future, S: AsyncWrite + Unpin> Future for InOnePiece<C, S> {
    type Output = C::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let polled = self.connection.as_mut().poll(cx);
        if polled.is_pending() {
            let mut gathering = self.stream.0.borrow_mut();
            if let Poll::Ready(Err(failure)) = gathering.poll_flush(cx) {
                gathering.failure = Some(failure);
                cx.waker().wake_by_ref();
            }
        }
        polled
    }
}

impl<C: Connection, S: AsyncWrite + Unpin> Connection for InOnePiece<C, S> {
    const PARKS: bool = C::PARKS;

    fn finish(mut self: Pin<&mut Self>) {
        self.connection.as_mut().finish();
    }
}

#[cfg(test)]
#[expect(
    clippy::unwrap_used,
    reason = "a test may panic where its set-up fails"
)]
mod tests {
    use std::{future::poll_fn, task::Waker};

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// A stream that takes so many bytes at a time, none at first if it is `full`, and tells what it
    /// was given.
    #[derive(Default)]
    struct Wire {
        takes: usize,
        full: bool,
        broken: bool,
        written: Rc<RefCell<Vec<Vec<u8>>>>,
    }

    impl AsyncRead for Wire {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Wire {
        fn poll_write(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.poll_write_vectored(cx, &[IoSlice::new(buf)])
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bufs: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            if self.broken {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            if std::mem::take(&mut self.full) {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let mut bytes: Vec<u8> = bufs.iter().flat_map(|buf| buf.to_vec()).collect();
            bytes.truncate(self.takes);
            let length = bytes.len();
            self.written.borrow_mut().push(bytes);
            Poll::Ready(Ok(length))
        }

        fn is_write_vectored(&self) -> bool {
            true
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    type Engine = Pin<Box<dyn Future<Output = io::Result<()>>>>;

    /// Returns a connection whose engine writes and flushes these at its first turn, and then reads.
    fn connection(wire: Wire, texts: &'static [&str]) -> InOnePiece<Engine, Wire> {
        let engine = move |mut stream: Gathered<Wire>| -> Engine {
            Box::pin(async move {
                for text in texts {
                    stream.write_all(text.as_bytes()).await?;
                    stream.flush().await?;
                }
                stream.read_u8().await?;
                Ok(())
            })
        };
        Gathered::under(engine, wire)
    }

    fn run<C: Future, S: AsyncWrite + Unpin>(connection: &mut InOnePiece<C, S>) -> Poll<C::Output> {
        Pin::new(connection).poll(&mut Context::from_waker(Waker::noop()))
    }

    fn lengths(written: &RefCell<Vec<Vec<u8>>>) -> Vec<usize> {
        written.borrow().iter().map(Vec::len).collect()
    }

    #[test]
    fn what_is_written_at_one_time_leaves_in_one_piece_and_no_memory_stays() {
        let wire = Wire {
            takes: usize::MAX,
            ..Wire::default()
        };
        let written = Rc::clone(&wire.written);
        let mut connection = connection(wire, &["one ", "two ", "three"]);
        assert!(run(&mut connection).is_pending());
        assert_eq!(written.borrow().concat(), b"one two three");
        assert_eq!(lengths(&written), [13]);
        assert_eq!(connection.stream.0.borrow().bytes.capacity(), 0);
        assert!(run(&mut connection).is_pending());
        assert_eq!(lengths(&written), [13], "nothing is said twice");
    }

    #[tokio::test]
    async fn nothing_is_lost_where_little_is_taken_at_a_time() {
        for takes in 1..16 {
            for full in [false, true] {
                let wire = Wire {
                    takes,
                    full,
                    ..Wire::default()
                };
                let written = Rc::clone(&wire.written);
                let mut connection = connection(wire, &["one ", "two ", "three"]);
                poll_fn(|cx| {
                    assert!(Pin::new(&mut connection).poll(cx).is_pending());
                    match connection.stream.0.borrow().bytes.is_empty() {
                        true => Poll::Ready(()),
                        false => Poll::Pending,
                    }
                })
                .await;
                assert_eq!(written.borrow().concat(), b"one two three", "{takes}");
            }
        }
    }

    #[tokio::test]
    async fn long_pieces_are_not_copied_and_stay_in_order() {
        let wire = Wire {
            takes: usize::MAX,
            ..Wire::default()
        };
        let written = Rc::clone(&wire.written);
        let mut stream = Gathered::new(wire);
        let mut expected = Vec::new();
        for (letter, length) in [
            (b'a', 9),
            (b'b', LONG),
            (b'c', LONG - 1),
            (b'd', LONG - 1),
            (b'e', 3),
            (b'f', ROOM),
            (b'g', 5),
        ] {
            stream.write_all(&vec![letter; length]).await.unwrap();
            expected.extend(vec![letter; length]);
        }
        stream.shutdown().await.unwrap();
        assert!(written.borrow().concat() == expected);
        assert_eq!(lengths(&written), [9, LONG, ROOM - 2, 3, ROOM, 5]);
    }

    #[test]
    fn the_engine_hears_of_a_failure_when_it_reads() {
        let wire = Wire {
            broken: true,
            ..Wire::default()
        };
        let mut connection = connection(wire, &["one"]);
        assert!(run(&mut connection).is_pending());
        let Poll::Ready(Err(failure)) = run(&mut connection) else {
            panic!("the engine waits for ever");
        };
        assert_eq!(failure.kind(), io::ErrorKind::BrokenPipe);
    }
}
