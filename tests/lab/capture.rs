//! Raw frames on an interface: what is really on the wire.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    time::{Duration, Instant},
};

use super::{frames::UdpFrame, host::Host, veth::index_in};

/// `ETH_P_ALL` of linux/if_ether.h.
const ETH_P_ALL: u16 = 0x0003;
const LONGEST_FRAME: usize = 65_536;

/// A packet socket on one interface: sends frames as they are and sees all that come and go.
#[derive(Debug)]
pub struct Capture {
    socket: OwnedFd,
}

impl Capture {
    /// Opens `interface` of `host`; frames are kept from this moment on.
    ///
    /// # Panics
    ///
    /// If the kernel refuses.
    #[must_use]
    pub fn open(host: &Host, interface: &str) -> Self {
        let index = index_in(host.net(), interface);
        let socket = host
            .net()
            .enter(|| packet_socket(index))
            .unwrap_or_else(|error| panic!("{interface} cannot be captured: {error}"));
        Self { socket }
    }

    /// Sends `frame`.
    ///
    /// # Panics
    ///
    /// If the kernel refuses.
    pub fn send(&self, frame: &UdpFrame) {
        self.send_bytes(&frame.to_bytes());
    }

    /// Sends the bytes of a frame.
    ///
    /// # Panics
    ///
    /// If the kernel refuses.
    pub fn send_bytes(&self, bytes: &[u8]) {
        // SAFETY: the pointer and the length are those of one slice, which is only read.
        let sent = unsafe {
            libc::send(
                self.socket.as_raw_fd(),
                bytes.as_ptr().cast(),
                bytes.len(),
                0,
            )
        };
        assert!(
            sent >= 0,
            "a frame cannot be sent: {}",
            io::Error::last_os_error()
        );
    }

    /// Returns the next UDP frame that `wanted` chooses.
    ///
    /// # Panics
    ///
    /// If none comes within `bound`, or a UDP frame with a wrong checksum does.
    #[must_use]
    #[track_caller]
    pub fn next(&self, bound: Duration, wanted: impl FnMut(&UdpFrame) -> bool) -> UdpFrame {
        self.next_within(bound, wanted)
            .unwrap_or_else(|| panic!("no such frame within {bound:?}"))
    }

    /// Returns the next UDP frame that `wanted` chooses, or `None` if none comes within `bound`.
    ///
    /// # Panics
    ///
    /// If a UDP frame with a wrong checksum comes.
    #[track_caller]
    pub fn next_within(
        &self,
        bound: Duration,
        mut wanted: impl FnMut(&UdpFrame) -> bool,
    ) -> Option<UdpFrame> {
        let deadline = Instant::now() + bound;
        loop {
            let bytes = self.receive(deadline.saturating_duration_since(Instant::now()))?;
            match UdpFrame::parse(&bytes) {
                Ok(Some(frame)) if wanted(&frame) => return Some(frame),
                Ok(_) => {}
                Err(fault) => panic!("a wrong packet is on the wire: {fault}: {bytes:02x?}"),
            }
        }
    }

    /// Returns what `read` makes of the next frame that it makes something of, or `None` if none comes
    /// within `bound`.
    pub fn read_within<T>(
        &self,
        bound: Duration,
        mut read: impl FnMut(&[u8]) -> Option<T>,
    ) -> Option<T> {
        let deadline = Instant::now() + bound;
        loop {
            let bytes = self.receive(deadline.saturating_duration_since(Instant::now()))?;
            if let Some(found) = read(&bytes) {
                return Some(found);
            }
        }
    }

    fn receive(&self, bound: Duration) -> Option<Vec<u8>> {
        let mut poll = libc::pollfd {
            fd: self.socket.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        let milliseconds = libc::c_int::try_from(bound.as_millis()).unwrap_or(libc::c_int::MAX);
        // SAFETY: one entry, as is said, that lives through the call.
        let ready = unsafe { libc::poll(&raw mut poll, 1, milliseconds) };
        if ready <= 0 {
            return None;
        }
        receive_frame(&self.socket)
            .map(Some)
            .unwrap_or_else(|error| {
                assert_eq!(
                    error.kind(),
                    io::ErrorKind::WouldBlock,
                    "a frame cannot be read: {error}"
                );
                None
            })
    }
}

fn packet_socket(index: u32) -> io::Result<OwnedFd> {
    let protocol = libc::c_int::from(ETH_P_ALL.to_be());
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: takes no pointer.
    let fd = unsafe { libc::socket(libc::AF_PACKET, kind, protocol) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // The kernel takes the tag out of a frame and hands it over beside it, if asked.
    let on: libc::c_int = 1;
    // SAFETY: the descriptor is open, and the value is an int of the length that is passed.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_AUXDATA,
            std::ptr::from_ref(&on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: every field of the structure may be zero.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as libc::c_ushort;
    address.sll_protocol = ETH_P_ALL.to_be();
    address.sll_ifindex = index.cast_signed();
    // SAFETY: the address is of the length that is passed and lives through the call.
    let result = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            std::ptr::from_ref(&address).cast(),
            size_of_val(&address) as libc::socklen_t,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(socket)
}

fn receive_frame(socket: &OwnedFd) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; LONGEST_FRAME];
    let mut control = [0_u64; 16];
    let mut part = libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: bytes.len(),
    };
    // SAFETY: every field of the structure may be zero.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control) as _;
    // SAFETY: the message points to buffers of the lengths it says, which live through the call.
    let length = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, 0) };
    let Ok(length) = usize::try_from(length) else {
        return Err(io::Error::last_os_error());
    };
    bytes.truncate(length);
    if let Some((protocol, tag)) = tag_beside(&message) {
        let mut header = protocol.to_be_bytes().to_vec();
        header.extend(tag.to_be_bytes());
        bytes.splice(12..12, header);
    }
    Ok(bytes)
}

/// Returns protocol and content of the tag that the kernel took out of the frame.
fn tag_beside(message: &libc::msghdr) -> Option<(u16, u16)> {
    // SAFETY: `recvmsg` filled the message; its control buffer is aligned for a header.
    let header = unsafe { libc::CMSG_FIRSTHDR(message).as_ref() }?;
    if header.cmsg_level != libc::SOL_PACKET || header.cmsg_type != libc::PACKET_AUXDATA {
        return None;
    }
    // SAFETY: a message of this type holds this structure; it is read without regard to alignment.
    let data = unsafe {
        libc::CMSG_DATA(header)
            .cast::<libc::tpacket_auxdata>()
            .read_unaligned()
    };
    let valid = data.tp_status & libc::TP_STATUS_VLAN_VALID != 0;
    valid.then_some((data.tp_vlan_tpid, data.tp_vlan_tci))
}
