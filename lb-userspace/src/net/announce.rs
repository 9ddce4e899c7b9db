//! Tells the network which MAC has an address: gratuitous ARP and unsolicited neighbour
//! advertisement.
//!
//! [`packet`] makes the bytes; this file sends them through packet sockets (packet(7)).

use std::{
    io::{self, Write},
    net::IpAddr,
    time::Duration,
};

use socket2::{Domain, SockAddr, Socket, Type};

use super::interfaces::Interface;

pub mod packet;

/// How often an address is announced: once may be lost (RFC 5227 section 2.3, `ANNOUNCE_NUM`).
const REPEATS: u32 = 2;

/// Pause between two announcements: the least that RFC 4861 section 7.2.6 allows (`RetransTimer`).
/// RFC 5227's two seconds are for hosts that come up; a takeover is more urgent.
const INTERVAL: Duration = Duration::from_secs(1);

/// An announcement that could not be sent.
#[derive(Debug, thiserror::Error)]
#[error("cannot announce {address} on {interface}; hosts there may send to its former owner")]
pub struct AnnounceError {
    address: IpAddr,
    interface: String,
    #[source]
    source: io::Error,
}

/// Announces that `address` is at the MAC of `interface`: twice, one second apart.
///
/// IPv4: an ARP request whose sender and target are `address` (RFC 5227 section 3). IPv6: a
/// neighbour advertisement with the override flag to all nodes (RFC 4861 section 7.2.6).
///
/// # Errors
///
/// [`AnnounceError`] if the interface is down, has gone or its queue is full.
pub async fn announce(interface: &Interface, address: IpAddr) -> Result<(), AnnounceError> {
    for repeat in 0..REPEATS {
        if repeat > 0 {
            tokio::time::sleep(INTERVAL).await;
        }
        let sent = match address {
            IpAddr::V4(address) => {
                let frame = packet::gratuitous_arp(interface.mac, address);
                send_frame(interface.index, &frame)
            }
            IpAddr::V6(address) => {
                let frame = packet::unsolicited_advertisement(interface.mac, address);
                send_frame(interface.index, &frame)
            }
        };
        sent.map_err(|source| AnnounceError {
            address,
            interface: interface.name.clone(),
            source,
        })?;
    }
    Ok(())
}

/// Sends one Ethernet frame out of an interface.
pub(super) fn send_frame(interface_index: u32, frame: &[u8]) -> io::Result<()> {
    // Protocol zero: this socket receives nothing.
    let mut socket = packet_socket(interface_index, 0)?;
    let written = socket.write(frame)?;
    if written == frame.len() {
        Ok(())
    } else {
        Err(io::ErrorKind::WriteZero.into())
    }
}

/// Opens a packet socket bound to an interface, for frames of `ethertype` (0: none, host order).
fn packet_socket(interface_index: u32, ethertype: u16) -> io::Result<Socket> {
    let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
    socket.bind(&link_layer_address(interface_index, ethertype)?)?;
    Ok(socket)
}

fn link_layer_address(interface_index: u32, ethertype: u16) -> io::Result<SockAddr> {
    let interface_index =
        libc::c_int::try_from(interface_index).map_err(|_| io::ErrorKind::InvalidInput)?;
    let family =
        libc::c_ushort::try_from(libc::AF_PACKET).map_err(|_| io::ErrorKind::InvalidInput)?;
    #[expect(
        unsafe_code,
        reason = "socket2 has no constructor for packet addresses"
    )]
    // SAFETY: the storage that `try_init` hands out is zeroed, aligned for and larger than every
    // address type, so it may be written as a `sockaddr_ll`; zeros are valid in its other fields;
    // the length is the one of that type.
    let ((), address) = unsafe {
        SockAddr::try_init(|storage, length| {
            let address = storage.cast::<libc::sockaddr_ll>();
            (*address).sll_family = family;
            (*address).sll_protocol = ethertype.to_be();
            (*address).sll_ifindex = interface_index;
            *length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            Ok(())
        })
    }?;
    Ok(address)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::net::testbed::{in_namespace, ip};

    const ETH_P_ALL: u16 = 0x0003;
    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x11];

    /// Returns the frames that arrive at `interface` while `address` is announced on `v0`.
    async fn capture(address: &str, ethertype: [u8; 2]) -> Vec<Vec<u8>> {
        ip("link add v0 address 02:00:00:00:00:11 type veth peer name v1");
        ip("link set v0 up");
        ip("link set v1 up");
        let v0 = Interface::lookup("v0").await.expect("v0");
        let v1 = Interface::lookup("v1").await.expect("v1");
        let mut socket = packet_socket(v1.index, ETH_P_ALL).expect("packet socket");
        socket.set_nonblocking(true).expect("non-blocking");

        announce(&v0, address.parse().expect("address"))
            .await
            .expect("announced");

        let mut frames = Vec::new();
        let mut buffer = [0; 2048];
        // A veth delivers while the sender is in its system call: everything is here by now.
        while let Ok(length) = socket.read(&mut buffer) {
            if buffer[12..14] == ethertype {
                frames.push(buffer[..length].to_vec());
            }
        }
        frames
    }

    #[test]
    fn an_ipv4_address_is_announced_twice_by_gratuitous_arp() {
        in_namespace(async || {
            let frames = capture("10.20.90.105", [0x08, 0x06]).await;

            let expected = packet::gratuitous_arp(MAC, [10, 20, 90, 105].into());
            assert_eq!(frames, [expected.to_vec(), expected.to_vec()]);
        });
    }

    #[test]
    fn an_ipv6_address_is_announced_twice_by_neighbour_advertisement() {
        in_namespace(async || {
            let frames = capture("fd00::105", [0x86, 0xdd]).await;

            let expected = packet::unsolicited_advertisement(MAC, "fd00::105".parse().expect("ip"));
            let ours: Vec<_> = frames
                .into_iter()
                .filter(|frame| frame[54] == expected[54])
                .collect();
            assert_eq!(ours, [expected.to_vec(), expected.to_vec()]);
        });
    }

    #[test]
    fn a_missing_interface_is_an_error_that_names_it() {
        in_namespace(async || {
            let interface = Interface {
                index: 4000,
                name: "eth7".into(),
                mac: MAC,
                mtu: 1500,
                up: true,
                kind: None,
                addresses: Vec::new(),
            };

            let error = announce(&interface, [10, 0, 0, 1].into())
                .await
                .expect_err("no such interface");

            assert!(error.to_string().contains("10.0.0.1 on eth7"), "{error}");
        });
    }
}
