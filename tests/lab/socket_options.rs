//! Options of UDP sockets that the standard library does not have, for both families.

use std::{io, net::UdpSocket, os::fd::AsRawFd};

/// Has `socket` send each datagram in one piece or not at all, and heed what routers say of it.
///
/// # Panics
///
/// If the kernel refuses.
pub fn discover_path_mtu(socket: &UdpSocket) {
    let (level, name, value) = if is_ipv6(socket) {
        (
            libc::IPPROTO_IPV6,
            libc::IPV6_MTU_DISCOVER,
            libc::IPV6_PMTUDISC_DO,
        )
    } else {
        (
            libc::IPPROTO_IP,
            libc::IP_MTU_DISCOVER,
            libc::IP_PMTUDISC_DO,
        )
    };
    set(socket, level, name, value);
}

/// Has `socket` report ICMP errors that are no final ones too, such as an exceeded hop count.
///
/// # Panics
///
/// If the kernel refuses.
pub fn report_every_error(socket: &UdpSocket) {
    let (level, name) = if is_ipv6(socket) {
        (libc::IPPROTO_IPV6, libc::IPV6_RECVERR)
    } else {
        (libc::IPPROTO_IP, libc::IP_RECVERR)
    };
    set(socket, level, name, 1);
}

/// Has the datagrams of `socket` live for `hops` routers.
///
/// # Panics
///
/// If the kernel refuses.
pub fn set_hops(socket: &UdpSocket, hops: u8) {
    let (level, name) = if is_ipv6(socket) {
        (libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS)
    } else {
        (libc::IPPROTO_IP, libc::IP_TTL)
    };
    set(socket, level, name, hops.into());
}

/// Returns what the kernel knows of the path from `socket` to its peer.
///
/// # Panics
///
/// If the socket is not connected.
#[must_use]
#[track_caller]
pub fn path_mtu(socket: &UdpSocket) -> usize {
    let (level, name) = if is_ipv6(socket) {
        (libc::IPPROTO_IPV6, libc::IPV6_MTU)
    } else {
        (libc::IPPROTO_IP, libc::IP_MTU)
    };
    let mut mtu: libc::c_int = 0;
    let mut length = size_of_val(&mtu) as libc::socklen_t;
    // SAFETY: the descriptor is open; value and length live through the call and belong together.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            name,
            std::ptr::from_mut(&mut mtu).cast(),
            &raw mut length,
        )
    };
    assert!(
        result == 0,
        "the path MTU is not known: {}",
        io::Error::last_os_error()
    );
    usize::try_from(mtu).expect("an MTU is positive")
}

fn is_ipv6(socket: &UdpSocket) -> bool {
    socket
        .local_addr()
        .expect("a socket has an address")
        .is_ipv6()
}

#[track_caller]
fn set(socket: &UdpSocket, level: libc::c_int, name: libc::c_int, value: libc::c_int) {
    // SAFETY: the descriptor is open, and the value is an int of the length that is passed.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(&value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    assert!(
        result == 0,
        "the socket does not take option {name}: {}",
        io::Error::last_os_error()
    );
}
