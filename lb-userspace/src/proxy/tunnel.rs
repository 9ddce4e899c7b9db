//! Bytes both ways, until both sides have ended or nothing goes either way for too long.
//!
//! Bytes are copied until a direction proves to be bulk, and moved inside the kernel from then on.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    io,
    mem::MaybeUninit,
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

/// One direction. Its buffer or pipe is there only while bytes wait for room: an idle tunnel has none.
#[derive(Default)]
struct Direction {
    /// What was read and has not been written yet.
    buffer: Vec<u8>,
    start: usize,
    pipe: Option<Pipe>,
    /// Full buffers in a row.
    full: u8,
    bytes: u64,
    unflushed: bool,
    ended: bool,
    shut: bool,
}

thread_local! {
    /// What bytes are read into: most are written at once, so that one place serves all tunnels of a
    /// thread, and stays in the processor's cache.
    static ROOM: RefCell<Box<[MaybeUninit<u8>]>> = RefCell::new(Box::new_uninit_slice(BUFFER));
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
            ready!(self.poll_rest(cx, to, moved))?;
            if self.ended {
                if !self.shut {
                    let shut = ready!(Pin::new(&mut *to).poll_shutdown(cx));
                    shut.map_err(|_| End::Write)?;
                    self.shut = true;
                    self.rest();
                }
                return Poll::Ready(Ok(()));
            }
            let is_bulk = self.full >= BULK && from.can_splice() && to.can_splice();
            let pipe = match is_bulk {
                true => self.pipe.take().or_else(Pipe::take),
                false => None,
            };
            let polled = match pipe {
                Some(pipe) => self.poll_pipe(cx, from, pipe),
                // Without a pipe there is still the buffer.
                None => self.poll_copy(cx, from, to),
            };
            match polled {
                Poll::Ready(done) => {
                    done?;
                    moved.set(Instant::now());
                }
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
    fn poll_rest<W: Side>(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut W,
        moved: &Cell<Instant>,
    ) -> Poll<Result<(), End>> {
        loop {
            let written = match &mut self.pipe {
                Some(pipe) if pipe.held() > 0 => ready!(to.poll_drain(cx, pipe)),
                _ if self.start < self.buffer.len() => {
                    let bytes = &self.buffer[self.start..];
                    let written = ready!(Pin::new(&mut *to).poll_write(cx, bytes));
                    self.start += *written.as_ref().unwrap_or(&0);
                    written
                }
                _ => return Poll::Ready(Ok(())),
            };
            self.bytes += wrote(written)?;
            moved.set(Instant::now());
        }
    }

    /// Moves something into an empty pipe when nothing is on its way.
    fn poll_pipe<R: Side>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        mut pipe: Pipe,
    ) -> Poll<Result<(), End>> {
        self.buffer = Vec::new();
        let polled = from.poll_fill(cx, &mut pipe);
        self.pipe = Some(pipe);
        let filled = ready!(polled).map_err(|_| End::Read)?;
        if !matches!(filled, Filled::Bytes(SMALL..)) {
            self.full = 0;
        }
        self.ended = matches!(filled, Filled::Ended | Filled::Bytes(0));
        Poll::Ready(Ok(()))
    }

    /// Reads something when nothing is on its way, and writes as much of it as there is room for.
    fn poll_copy<R: Side, W: Side>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
    ) -> Poll<Result<(), End>> {
        ROOM.with_borrow_mut(|room| {
            let mut read = ReadBuf::uninit(room);
            ready!(Pin::new(from).poll_read(cx, &mut read)).map_err(|_| End::Read)?;
            let bytes = read.filled();
            self.full = match bytes.len() {
                BUFFER => self.full.saturating_add(1),
                _ => 0,
            };
            self.ended = bytes.is_empty();
            if self.ended {
                return Poll::Ready(Ok(()));
            }
            self.unflushed = true;
            let written = match Pin::new(to).poll_write(cx, bytes) {
                Poll::Ready(written) => wrote(written)?,
                Poll::Pending => 0,
            };
            self.bytes += written;
            self.start = 0;
            self.buffer.clear();
            self.buffer.extend_from_slice(&bytes[written as usize..]);
            Poll::Ready(Ok(()))
        })
    }

    /// Nothing is on its way.
    fn rest(&mut self) {
        self.buffer = Vec::new();
        self.start = 0;
        if let Some(pipe) = self.pipe.take() {
            pipe.give_back();
        }
    }
}

/// Returns how many bytes were written.
fn wrote(written: io::Result<usize>) -> Result<u64, End> {
    match written {
        Ok(0) | Err(_) => Err(End::Write),
        Ok(written) => Ok(written as u64),
    }
}
