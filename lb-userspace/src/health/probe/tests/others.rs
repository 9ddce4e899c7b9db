//! Probes of connections, datagrams and echoes.

use std::net::{Ipv4Addr, Ipv6Addr};

use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, UdpSocket};

use super::*;

const LOOPBACKS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::LOCALHOST),
    IpAddr::V6(Ipv6Addr::LOCALHOST),
];

#[tokio::test]
async fn a_listening_port_accepts() {
    for address in LOOPBACKS {
        let listener = TcpListener::bind((address, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();

        let outcome = probe(&check(ProbeSpec::Connect, AMPLE), &target(address)).await;

        assert_eq!(
            detail(&outcome),
            format!("port {} accepts connections", address.port())
        );
    }
}

#[tokio::test]
async fn a_closed_port_refuses() {
    let address = closed_port().await;

    let outcome = probe(&check(ProbeSpec::Connect, AMPLE), &target(address)).await;

    assert_eq!(
        reason(&outcome),
        format!("connection refused on port {}", address.port())
    );
}

#[tokio::test]
async fn the_port_of_the_check_comes_before_the_backends() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let mut check = check(ProbeSpec::Connect, AMPLE);
    check.port = Some(listener.local_addr().unwrap().port());

    let outcome = probe(&check, &target(closed_port().await)).await;

    assert!(matches!(outcome, ProbeOutcome::Passed { .. }), "{outcome}");
}

#[tokio::test]
async fn a_host_that_takes_no_connection_is_down_or_offline() {
    // One connection fills the queue of a listener without backlog; the kernel then drops SYNs.
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    socket.bind(&any.into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let _waiting = tokio::net::TcpStream::connect(address).await.unwrap();

    let outcome = probe(&check(ProbeSpec::Connect, SHORT), &target(address)).await;

    assert_eq!(reason(&outcome), "no answer within 150ms: down or offline");
}

#[tokio::test]
async fn a_datagram_is_answered() {
    for address in LOOPBACKS {
        let server = UdpSocket::bind((address, 0)).await.unwrap();
        let address = server.local_addr().unwrap();
        let answering = async {
            let mut received = [0; 64];
            let (length, from) = server.recv_from(&mut received).await.unwrap();
            assert_eq!(&received[..length], b"hello");
            server.send_to(b"well met", from).await.unwrap();
        };
        let (check, target) = (check(datagram(Some(b"met")), AMPLE), target(address));

        let (outcome, ()) = tokio::join!(probe(&check, &target), answering);

        assert_eq!(
            detail(&outcome),
            format!("port {} answered 8 bytes", address.port())
        );
    }
}

#[tokio::test]
async fn a_datagram_with_another_answer_fails() {
    let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = server.local_addr().unwrap();
    let answering = async {
        let (_, from) = server.recv_from(&mut [0; 64]).await.unwrap();
        server.send_to(b"go away", from).await.unwrap();
    };
    let (check, target) = (check(datagram(Some(b"met")), AMPLE), target(address));

    let (outcome, ()) = tokio::join!(probe(&check, &target), answering);

    assert_eq!(
        reason(&outcome),
        "the reply of 7 bytes does not contain the expected bytes"
    );
}

#[tokio::test]
async fn port_unreachable_is_refused_at_once() {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = socket.local_addr().unwrap();
    drop(socket);

    let outcome = probe(&check(datagram(None), AMPLE), &target(address)).await;

    assert_eq!(
        reason(&outcome),
        format!("connection refused on port {}", address.port())
    );
}

#[tokio::test]
async fn a_datagram_without_answer_is_down_or_offline() {
    let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();

    let outcome = probe(
        &check(datagram(None), SHORT),
        &target(server.local_addr().unwrap()),
    )
    .await;

    assert_eq!(reason(&outcome), "no answer within 150ms: down or offline");
}

#[tokio::test]
async fn an_echo_request_is_answered() {
    for address in LOOPBACKS {
        let target = target(SocketAddr::new(address, 443));

        let outcome = probe(&check(ProbeSpec::Ping, AMPLE), &target).await;

        assert_eq!(detail(&outcome), "echo request answered", "{address}");
    }
}

fn datagram(expect: Option<&[u8]>) -> ProbeSpec {
    ProbeSpec::Udp {
        send: b"hello".to_vec(),
        expect: expect.map(Vec::from),
    }
}

/// Returns an address on which nothing listens.
async fn closed_port() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    listener.local_addr().unwrap()
}
