//! An echo request is answered (RFC 792, RFC 4443 section 4).

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher as _, Hasher as _},
    io,
    net::{IpAddr, SocketAddr},
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;

use super::{Awaited, Clock, Passed, ProbeFailure};

pub(super) async fn probe(address: IpAddr, clock: &Clock) -> Result<Passed, ProbeFailure> {
    let awaited = Awaited::Echo;
    let failure = |error| ProbeFailure::from_plain_io(&error, &awaited, 0);

    let echo = Echo::new(address);
    let (socket, header) = open(address)?;
    socket.send(&echo.request()).await.map_err(failure)?;
    clock
        .wait(&awaited, receive(&socket, header, &echo))
        .await?
        .map_err(failure)?;
    Ok(clock.passed(String::from("echo request answered")))
}

/// Waits for the reply; a raw socket also shows other messages from the same address.
async fn receive(socket: &UdpSocket, header: Header, echo: &Echo) -> io::Result<()> {
    let mut packet = [0; 2048];
    loop {
        let length = socket.recv(&mut packet).await?;
        let message = packet.get(..length).and_then(|packet| header.skip(packet));
        if message.is_some_and(|message| echo.is_reply(message)) {
            return Ok(());
        }
    }
}

/// What stands before the ICMP message in a received packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Header {
    None,
    Ipv4,
}

impl Header {
    pub(super) fn skip(self, packet: &[u8]) -> Option<&[u8]> {
        match self {
            Self::None => Some(packet),
            // IHL counts words of four bytes (RFC 791 section 3.1).
            Self::Ipv4 => packet.get(usize::from(packet.first()? & 0x0f) * 4..),
        }
    }
}

/// Opens an unprivileged ping socket, else a raw one, connected to `address` so that the kernel
/// shows nobody else's messages.
fn open(address: IpAddr) -> Result<(UdpSocket, Header), ProbeFailure> {
    let (domain, protocol, raw_header) = match address {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, Header::Ipv4),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, Header::None),
    };
    let (socket, header) = Socket::new(domain, Type::DGRAM, Some(protocol))
        .map(|socket| (socket, Header::None))
        .or_else(|_| Socket::new(domain, Type::RAW, Some(protocol)).map(|raw| (raw, raw_header)))
        .map_err(|error| {
            ProbeFailure::Local(format!(
                "{error}; a ping needs the capability CAP_NET_RAW, or the daemon's group in \
                 net.ipv4.ping_group_range"
            ))
        })?;
    let connected = socket
        .set_nonblocking(true)
        .and_then(|()| socket.connect(&SocketAddr::new(address, 0).into()))
        // Sending and receiving on a connected socket is the same for all kinds of datagrams.
        .and_then(|()| UdpSocket::from_std(socket.into()))
        .map_err(|error| ProbeFailure::from_plain_io(&error, &Awaited::Echo, 0))?;
    Ok((connected, header))
}

/// One request and what its reply looks like. Replies are told apart by the payload: the kernel
/// chooses the identifier of an unprivileged ping socket.
pub(super) struct Echo {
    request_type: u8,
    reply_type: u8,
    token: [u8; 8],
}

impl Echo {
    fn new(address: IpAddr) -> Self {
        // The standard library's hasher begins with random keys.
        let token = RandomState::new().build_hasher().finish().to_be_bytes();
        Self::with_token(address, token)
    }

    pub(super) fn with_token(address: IpAddr, token: [u8; 8]) -> Self {
        let (request_type, reply_type) = match address {
            IpAddr::V4(_) => (8, 0),
            IpAddr::V6(_) => (128, 129),
        };
        Self {
            request_type,
            reply_type,
            token,
        }
    }

    /// Returns the message. The kernel fills in the checksum of ICMPv6, which covers addresses.
    pub(super) fn request(&self) -> Vec<u8> {
        let [first, second, ..] = self.token;
        let mut message = vec![self.request_type, 0, 0, 0, first, second, 0, 1];
        message.extend_from_slice(LABEL);
        message.extend_from_slice(&self.token);
        if self.request_type == 8 {
            let checksum = checksum(&message).to_be_bytes();
            message[2..4].copy_from_slice(&checksum);
        }
        message
    }

    pub(super) fn is_reply(&self, message: &[u8]) -> bool {
        let payload = message.get(8..).and_then(|data| data.strip_prefix(LABEL));
        message.first() == Some(&self.reply_type) && payload == Some(&self.token[..])
    }
}

/// Says in a packet capture whose echo this is.
const LABEL: &[u8] = b"vipd-health-echo";

/// RFC 1071.
fn checksum(message: &[u8]) -> u16 {
    let mut sum: u32 = message
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_reply_with_our_token_counts() {
        let echo = Echo::new(IpAddr::from([10, 0, 0, 1]));
        let mut reply = echo.request();
        assert!(
            !echo.is_reply(&reply),
            "the request itself, seen on loopback"
        );

        reply[0] = 0;
        assert!(echo.is_reply(&reply));
        assert!(
            !Echo::new(IpAddr::from([10, 0, 0, 1])).is_reply(&reply),
            "another probe's"
        );
        for length in 0..reply.len() {
            assert!(!echo.is_reply(&reply[..length]), "cut to {length} bytes");
        }
    }

    #[test]
    fn the_ipv4_header_is_skipped_by_its_length() {
        let packet: Vec<u8> = [0x46].into_iter().chain(1..30).collect();

        assert_eq!(Header::Ipv4.skip(&packet), Some(&packet[24..]));
        assert_eq!(Header::Ipv4.skip(&packet[..20]), None);
        assert_eq!(Header::Ipv4.skip(&[]), None);
        assert_eq!(Header::None.skip(&packet), Some(&packet[..]));
    }

    #[test]
    fn the_checksum_makes_the_message_sum_to_zero() {
        let request = Echo::new(IpAddr::from([10, 0, 0, 1])).request();

        assert_eq!(checksum(&request), 0);
    }
}
