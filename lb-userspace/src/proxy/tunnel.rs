//! Bytes both ways, until both sides have ended or nothing goes either way for too long.

use std::{
    cell::Cell,
    future::poll_fn,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, sleep_until},
};

use super::failure::Failure;

/// Bytes on their way in one direction.
const BUFFER: usize = 16 * 1024;

/// How a tunnel ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    /// Bytes from the client.
    pub(crate) bytes_in: u64,
    /// Bytes to the client.
    pub(crate) bytes_out: u64,
    /// Why it ended, unless both sides have ended their direction.
    pub(crate) failure: Option<Failure>,
}

/// Copies between a client and a backend. An end in one direction is passed on, and the other goes
/// on; the tunnel ends early for the reason that `ends` returns.
pub(crate) async fn run<C, B>(
    client: &mut C,
    backend: &mut B,
    idle: Duration,
    ends: impl Future<Output = Failure>,
) -> Ended
where
    C: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let moved = Cell::new(Instant::now());
    let mut inbound = Direction::default();
    let mut outbound = Direction::default();
    let failure = {
        let mut copying = pin!(poll_fn(|cx| {
            // Both are looked at each time: one may wait for what the other has just done.
            let one = inbound.poll(cx, client, backend, &moved);
            let other = outbound.poll(cx, backend, client, &moved);
            match (one, other) {
                (Poll::Ready(Err(End::Read)), _) | (_, Poll::Ready(Err(End::Write))) => {
                    Poll::Ready(Some(Failure::ClientClosed))
                }
                (Poll::Ready(Err(End::Write)), _) | (_, Poll::Ready(Err(End::Read))) => {
                    Poll::Ready(Some(Failure::ResponseCut))
                }
                (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(None),
                _ => Poll::Pending,
            }
        }));
        let mut ends = pin!(ends);
        let mut deadline = pin!(sleep_until(moved.get() + idle));
        loop {
            tokio::select! {
                biased;
                failure = &mut copying => break failure,
                why = &mut ends => break Some(why),
                () = &mut deadline => {
                    let until = moved.get() + idle;
                    if until <= Instant::now() {
                        break Some(Failure::TunnelIdle);
                    }
                    deadline.as_mut().reset(until);
                }
            }
        }
    };
    Ended {
        bytes_in: inbound.bytes,
        bytes_out: outbound.bytes,
        failure,
    }
}

/// Which side of a direction broke.
enum End {
    Read,
    Write,
}

/// One direction. Its buffer is there only while bytes are on their way: an idle tunnel has none.
#[derive(Default)]
struct Direction {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    bytes: u64,
    unflushed: bool,
    ended: bool,
    shut: bool,
}

impl Direction {
    fn poll<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
        moved: &Cell<Instant>,
    ) -> Poll<Result<(), End>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        loop {
            while self.start < self.end {
                let bytes = &self.buffer[self.start..self.end];
                match ready!(Pin::new(&mut *to).poll_write(cx, bytes)) {
                    Ok(0) | Err(_) => return Poll::Ready(Err(End::Write)),
                    Ok(written) => {
                        self.start += written;
                        self.bytes += written as u64;
                        self.unflushed = true;
                        moved.set(Instant::now());
                    }
                }
            }
            if self.ended {
                if !self.shut {
                    let shut = ready!(Pin::new(&mut *to).poll_shutdown(cx));
                    shut.map_err(|_| End::Write)?;
                    self.shut = true;
                    self.buffer = Vec::new();
                }
                return Poll::Ready(Ok(()));
            }
            if self.buffer.is_empty() {
                self.buffer = vec![0; BUFFER];
            }
            let mut room = ReadBuf::new(&mut self.buffer);
            match Pin::new(&mut *from).poll_read(cx, &mut room) {
                Poll::Ready(Ok(())) => {
                    (self.start, self.end) = (0, room.filled().len());
                    self.ended = self.end == 0;
                    moved.set(Instant::now());
                }
                Poll::Ready(Err(_)) => return Poll::Ready(Err(End::Read)),
                Poll::Pending => {
                    self.buffer = Vec::new();
                    (self.start, self.end) = (0, 0);
                    if self.unflushed {
                        let flushed = ready!(Pin::new(&mut *to).poll_flush(cx));
                        flushed.map_err(|_| End::Write)?;
                        self.unflushed = false;
                    }
                    return Poll::Pending;
                }
            }
        }
    }
}
