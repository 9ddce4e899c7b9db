//! Bytes from one socket to another that never come to user space (splice(2)).
//!
//! That pays for bulk: each move takes two calls of the kernel where small ones take two as well,
//! and saves both copies.

use std::{
    cell::{Cell, RefCell},
    io,
    mem::MaybeUninit,
    os::fd::{AsRawFd, FromRawFd as _, OwnedFd, RawFd},
    task::{Context, Poll, ready},
};

use socket2::SockRef;
use tokio::{io::Interest, net::TcpStream};

use super::descriptors;

/// Pipes that a worker keeps for the next to need one: making one costs more than a move.
const KEPT: usize = 64;
/// Pipes of a worker. Each takes two descriptors, and holds memory of the kernel while its receiver
/// is slow; further tunnels copy.
const IN_ALL: usize = 256;
/// Bytes that a pipe is asked to have room for, and so of one move: each costs two calls.
const ROOM: libc::c_int = 256 << 10;

thread_local! {
    static KEPT_PIPES: RefCell<Vec<Pipe>> = const { RefCell::new(Vec::new()) };
    static OPEN_PIPES: Cell<usize> = const { Cell::new(0) };
}

/// What went into a pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Filled {
    /// So many bytes.
    Bytes(usize),
    /// The peer has ended.
    Ended,
    /// There is something that has to be read.
    Stuck,
}

/// A pipe of the kernel, which holds what is between two sockets.
#[derive(Debug)]
pub(super) struct Pipe {
    exit: OwnedFd,
    entrance: OwnedFd,
    held: usize,
}

impl Pipe {
    /// Returns an empty pipe; `None`: the worker has enough, or the kernel none to give.
    pub(super) fn take() -> Option<Self> {
        let kept = KEPT_PIPES.with_borrow_mut(Vec::pop);
        kept.or_else(|| match OPEN_PIPES.get() {
            IN_ALL.. => None,
            _ => Self::make().ok(),
        })
    }

    #[expect(
        unsafe_code,
        reason = "pipes have no safe interface without a crate more"
    )]
    fn make() -> io::Result<Self> {
        let mut ends: [RawFd; 2] = [-1; 2];
        // SAFETY: the kernel writes two descriptors to where there is room for them.
        let made = unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK) };
        if made < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: both have just been made, and nobody else has them.
        let [exit, entrance] = ends.map(|end| unsafe { OwnedFd::from_raw_fd(end) });
        if [&exit, &entrance]
            .map(AsRawFd::as_raw_fd)
            .iter()
            .any(|end| descriptors::none_for_backends(*end))
        {
            return Err(io::Error::from_raw_os_error(libc::EMFILE));
        }
        OPEN_PIPES.set(OPEN_PIPES.get() + 1);
        // Without it there is less room: the kernel bounds what pipes of one user have in all.
        // SAFETY: the descriptor is open, and the argument is a number.
        let _ = unsafe { libc::fcntl(entrance.as_raw_fd(), libc::F_SETPIPE_SZ, ROOM) };
        Ok(Self {
            exit,
            entrance,
            held: 0,
        })
    }

    /// Gives an empty pipe back; one that holds bytes is closed with them.
    pub(super) fn give_back(self) {
        KEPT_PIPES.with_borrow_mut(|kept| {
            if self.held == 0 && kept.len() < KEPT {
                kept.push(self);
            }
        });
    }

    /// Returns how many bytes are in it.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// Moves what a socket has received into the empty pipe.
    pub(super) fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        from: &TcpStream,
    ) -> Poll<io::Result<Filled>> {
        debug_assert_eq!(
            self.held, 0,
            "a full pipe and an empty socket look the same"
        );
        loop {
            ready!(from.poll_read_ready(cx))?;
            match from.try_io(Interest::READABLE, || self.fill(from)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                filled => return Poll::Ready(filled),
            }
        }
    }

    fn fill(&mut self, from: &TcpStream) -> io::Result<Filled> {
        let moved = splice(from.as_raw_fd(), self.entrance.as_raw_fd(), ROOM as usize);
        let nothing = match &moved {
            Ok(count) => *count == 0,
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        };
        // Before urgent data it moves nothing, whatever comes behind.
        if nothing && SockRef::from(from).peek(&mut [MaybeUninit::uninit()])? > 0 {
            return Ok(Filled::Stuck);
        }
        let count = moved?;
        self.held = count;
        Ok(match count {
            0 => Filled::Ended,
            count => Filled::Bytes(count),
        })
    }

    /// Moves what it holds into a socket, as far as that has room.
    pub(super) fn poll_drain(
        &mut self,
        cx: &mut Context<'_>,
        to: &TcpStream,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(to.poll_write_ready(cx))?;
            let moved = to.try_io(Interest::WRITABLE, || {
                splice(self.exit.as_raw_fd(), to.as_raw_fd(), self.held)
            });
            match moved {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                moved => {
                    self.held -= *moved.as_ref().unwrap_or(&0);
                    return Poll::Ready(moved);
                }
            }
        }
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        // A thread that ends drops its pipes when its counter may have gone.
        let _ = OPEN_PIPES.try_with(|open| open.set(open.get().saturating_sub(1)));
    }
}

#[expect(
    unsafe_code,
    reason = "splice has no safe interface without a crate more"
)]
fn splice(from: RawFd, to: RawFd, most: usize) -> io::Result<usize> {
    // SAFETY: both descriptors are open while they are borrowed, and no offsets are given.
    let moved = unsafe {
        libc::splice(
            from,
            std::ptr::null_mut(),
            to,
            std::ptr::null_mut(),
            most,
            libc::SPLICE_F_MOVE | libc::SPLICE_F_NONBLOCK,
        )
    };
    usize::try_from(moved).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
#[expect(
    clippy::unwrap_used,
    reason = "a test may panic where its set-up fails"
)]
mod tests {
    use std::future::poll_fn;

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
        (near.unwrap(), far.unwrap().0)
    }

    #[tokio::test]
    async fn bytes_go_from_socket_to_socket_unchanged_and_the_end_is_seen() {
        let (mut sender, from) = pair().await;
        let (to, mut receiver) = pair().await;
        let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
        let expected = bytes.clone();
        let sending = tokio::spawn(async move {
            sender.write_all(&bytes).await.unwrap();
        });
        let receiving = tokio::spawn(async move {
            let mut got = Vec::new();
            receiver.read_to_end(&mut got).await.unwrap();
            got
        });
        let mut pipe = Pipe::take().unwrap();
        while poll_fn(|cx| pipe.poll_fill(cx, &from)).await.unwrap() != Filled::Ended {
            while pipe.held() > 0 {
                poll_fn(|cx| pipe.poll_drain(cx, &to)).await.unwrap();
            }
        }
        drop(to);
        sending.await.unwrap();
        assert!(receiving.await.unwrap() == expected);
        let number = pipe.exit.as_raw_fd();
        pipe.give_back();
        assert_eq!(Pipe::take().unwrap().exit.as_raw_fd(), number);
    }

    #[tokio::test]
    async fn urgent_data_is_left_to_be_read() {
        let (mut sender, mut from) = pair().await;
        sender.write_all(b"before").await.unwrap();
        SockRef::from(&sender).send_out_of_band(b"!").unwrap();
        sender.write_all(b"behind").await.unwrap();
        sender.shutdown().await.unwrap();

        let mut pipe = Pipe::take().unwrap();
        let filled = poll_fn(|cx| pipe.poll_fill(cx, &from)).await.unwrap();
        assert_eq!(filled, Filled::Bytes(6));
        let mut pipe = Pipe::take().unwrap();
        let filled = poll_fn(|cx| pipe.poll_fill(cx, &from)).await.unwrap();
        assert_eq!(filled, Filled::Stuck);
        let mut rest = Vec::new();
        from.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"behind");
    }

    #[tokio::test]
    async fn a_pipe_with_bytes_is_not_used_again() {
        let (mut sender, from) = pair().await;
        sender.write_all(b"somebody's").await.unwrap();
        let mut pipe = Pipe::take().unwrap();
        poll_fn(|cx| pipe.poll_fill(cx, &from)).await.unwrap();
        pipe.give_back();
        assert_eq!(Pipe::take().unwrap().held(), 0);
    }

    #[tokio::test]
    async fn a_worker_has_so_many_pipes_and_no_more() {
        let mut pipes: Vec<Pipe> = std::iter::from_fn(Pipe::take).collect();
        assert_eq!(pipes.len(), IN_ALL);
        drop(pipes.pop());
        assert!(Pipe::take().is_some());
    }
}
