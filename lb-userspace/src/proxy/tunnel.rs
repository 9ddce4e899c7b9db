//! Bytes both ways, until both sides have ended or nothing goes either way for too long.
//!
//! Bytes are copied until a direction proves to be bulk, and moved inside the kernel from then on.

use std::{
    cell::Cell,
    future::poll_fn,
    io,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::Duration,
};

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, sleep_until},
};

use super::{
    failure::Failure,
    splice::{Filled, Pipe},
};

/// Bytes on their way in one direction.
const BUFFER: usize = 16 * 1024;
/// So many full buffers in a row are bulk: what takes fewer is over before a pipe has paid.
const BULK: u8 = 8;
/// A move of fewer bytes ends the bulk.
const SMALL: usize = 4096;

/// One side of a tunnel.
pub(crate) trait Side: AsyncRead + AsyncWrite + Unpin {
    /// Returns whether the kernel has all of what it receives and sends, so that pipes can be used.
    fn can_splice(&self) -> bool {
        false
    }

    /// Moves what it has received into a pipe.
    fn poll_fill(&mut self, _: &mut Context<'_>, _: &mut Pipe) -> Poll<io::Result<Filled>> {
        Poll::Ready(Err(io::ErrorKind::Unsupported.into()))
    }

    /// Moves what a pipe holds out, as far as there is room.
    fn poll_drain(&mut self, _: &mut Context<'_>, _: &mut Pipe) -> Poll<io::Result<usize>> {
        Poll::Ready(Err(io::ErrorKind::Unsupported.into()))
    }
}

impl Side for TcpStream {
    fn can_splice(&self) -> bool {
        true
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>, pipe: &mut Pipe) -> Poll<io::Result<Filled>> {
        pipe.poll_fill(cx, self)
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>, pipe: &mut Pipe) -> Poll<io::Result<usize>> {
        pipe.poll_drain(cx, self)
    }
}

impl Side for TokioIo<Upgraded> {}

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
    C: Side,
    B: Side,
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

/// One direction. Its buffer or pipe is there only while bytes are on their way: an idle tunnel has
/// none.
#[derive(Default)]
struct Direction {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    pipe: Option<Pipe>,
    /// Full buffers in a row.
    full: u8,
    bytes: u64,
    unflushed: bool,
    ended: bool,
    shut: bool,
}

impl Direction {
    fn poll<R: Side, W: Side>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
        moved: &Cell<Instant>,
    ) -> Poll<Result<(), End>> {
        loop {
            ready!(self.poll_write(cx, to, moved))?;
            if self.ended {
                if !self.shut {
                    let shut = ready!(Pin::new(&mut *to).poll_shutdown(cx));
                    shut.map_err(|_| End::Write)?;
                    self.shut = true;
                    self.rest();
                }
                return Poll::Ready(Ok(()));
            }
            match self.poll_read(cx, from, to.can_splice()) {
                Poll::Ready(Ok(count)) => {
                    self.ended = count == 0;
                    moved.set(Instant::now());
                }
                Poll::Ready(Err(_)) => return Poll::Ready(Err(End::Read)),
                Poll::Pending => {
                    self.rest();
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

    /// Writes all that is on its way.
    fn poll_write<W: Side>(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut W,
        moved: &Cell<Instant>,
    ) -> Poll<Result<(), End>> {
        loop {
            let written = match &mut self.pipe {
                Some(pipe) if pipe.held() > 0 => ready!(to.poll_drain(cx, pipe)),
                _ if self.start < self.end => {
                    let bytes = &self.buffer[self.start..self.end];
                    let written = ready!(Pin::new(&mut *to).poll_write(cx, bytes));
                    self.start += *written.as_ref().unwrap_or(&0);
                    self.unflushed = true;
                    written
                }
                _ => return Poll::Ready(Ok(())),
            };
            match written {
                Ok(0) | Err(_) => return Poll::Ready(Err(End::Write)),
                Ok(written) => {
                    self.bytes += written as u64;
                    moved.set(Instant::now());
                }
            }
        }
    }

    /// Reads something when nothing is on its way; zero: the end.
    fn poll_read<R: Side>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to_can_splice: bool,
    ) -> Poll<io::Result<usize>> {
        if self.full >= BULK && to_can_splice && from.can_splice() {
            if self.pipe.is_none() {
                // Without a pipe there is still the buffer.
                self.pipe = Pipe::take();
            }
            if let Some(pipe) = &mut self.pipe {
                self.buffer = Vec::new();
                let filled = ready!(from.poll_fill(cx, pipe))?;
                if !matches!(filled, Filled::Bytes(SMALL..)) {
                    self.full = 0;
                }
                match filled {
                    Filled::Bytes(count) => return Poll::Ready(Ok(count)),
                    Filled::Ended => return Poll::Ready(Ok(0)),
                    Filled::Stuck => {}
                }
            }
        }
        if self.buffer.is_empty() {
            self.buffer = vec![0; BUFFER];
        }
        let mut room = ReadBuf::new(&mut self.buffer);
        ready!(Pin::new(from).poll_read(cx, &mut room))?;
        (self.start, self.end) = (0, room.filled().len());
        self.full = match self.end {
            BUFFER => self.full.saturating_add(1),
            _ => 0,
        };
        Poll::Ready(Ok(self.end))
    }

    /// Nothing is on its way.
    fn rest(&mut self) {
        self.buffer = Vec::new();
        (self.start, self.end) = (0, 0);
        if let Some(pipe) = self.pipe.take() {
            pipe.give_back();
        }
    }
}
