//! ICMP errors find the end that they are about, and the VIP answers a ping.

use std::{
    io::{self, ErrorKind},
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use lb_tests::lab::{
    Daemon, Ends, Family, Gateways, HealthPage, Host, Lab,
    configuration::HEALTH_PORT,
    ends::receive,
    eventually::{eventually, eventually_some},
    socket_options::{report_every_error, set_hops},
};
use socket2::{Domain, Protocol, Socket, Type};

const BOUND: Duration = Duration::from_secs(5);
const SHORT: Duration = Duration::from_millis(200);

#[test]
fn a_client_of_a_service_that_stopped_is_told_that_its_port_is_unreachable() {
    for family in Family::BOTH {
        for lab in [
            Lab::one_arm().gateways(1).campus().build(),
            Lab::two_arm().gateways(1).campus().build(),
        ] {
            let mut gateways = Gateways::start(&lab);
            let daemon = Daemon::start(&lab, &family.configuration(lab.gateways()));
            let near = lab.client(1).udp(family.vip(443));
            let far = lab.campus().udp_from(family.campus(7), family.vip(443));
            near.ask("hello");
            far.ask("hello");

            gateways.named("gateway1").service.stop();

            for client in [near, far] {
                await_refusal(|| client.ask_within("anybody there?", SHORT).map(drop));
            }
            eventually(BOUND, "both errors are counted", || {
                daemon.status().backend("gateway1").unreachable() >= 2
            });
            assert_eq!(daemon.drops(), []);
        }
    }
}

#[test]
fn a_backend_is_told_that_its_client_has_gone() {
    for family in Family::BOTH {
        for lab in [
            Lab::one_arm().gateways(1).campus().build(),
            Lab::two_arm().gateways(1).campus().build(),
        ] {
            let _page = HealthPage::start(lab.gateway(1), HEALTH_PORT);
            let daemon = Daemon::start(&lab, &family.configuration(lab.gateways()));
            for client in [
                lab.client(1).udp(family.vip(443)),
                lab.campus().udp_from(family.campus(7), family.vip(443)),
            ] {
                let ends = Ends::meet(client, lab.gateway(1));

                drop(ends.client);
                ends.backend
                    .set_read_timeout(Some(SHORT))
                    .expect("a timeout can be set");
                await_refusal(|| {
                    ends.backend.send(b"still there?")?;
                    ends.backend.recv(&mut [0; 16]).map(drop)
                });
            }
            assert_eq!(daemon.drops(), []);
            // It is no fault of the backend.
            let status = daemon.status();
            assert_eq!(status.backend("gateway1").unreachable(), 0);
        }
    }
}

#[test]
fn both_ends_hear_from_routers_where_their_packets_ended() {
    for family in Family::BOTH {
        let lab = Lab::two_arm().campus().far_gateway().build();
        let far = lab.far_gateway();
        let _page = HealthPage::start(far, HEALTH_PORT);
        let configuration = family.configuration(std::slice::from_ref(far));
        let daemon = Daemon::start(&lab, &configuration);
        let client = lab.campus().udp_from(family.campus(7), family.vip(443));
        let ends = Ends::meet(client, far);

        // The router on the sender's own side, the balancer, the router behind it.
        for sender in [&ends.client, &ends.backend] {
            report_every_error(sender);
            set_hops(sender, 3);
            sender.send(b"how far?").expect("it can be sent");

            let error = eventually_error(sender);
            assert_eq!(error.raw_os_error(), Some(libc::EHOSTUNREACH), "{error}");
        }
        assert_eq!(daemon.drops(), []);
    }
}

#[test]
fn the_vip_answers_a_ping() {
    for family in Family::BOTH {
        let lab = Lab::one_arm().gateways(1).campus().build();
        let _gateways = Gateways::start(&lab);
        let daemon = Daemon::start(&lab, &family.configuration(lab.gateways()));

        ping(lab.client(1), family.vip(0));
        ping(lab.campus(), family.vip(0));

        assert_eq!(daemon.drops(), []);
        assert_eq!(daemon.status().flows(), 0);
    }
}

/// Asks until the answer is that the port is unreachable.
///
/// Once may be too early: a child that another thread has just begun holds the closed socket until
/// it becomes another program, and a host sends only so many errors in a second.
#[track_caller]
fn await_refusal(mut ask: impl FnMut() -> io::Result<()>) {
    eventually(BOUND, "the sender is refused", || {
        ask().is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    });
}

#[track_caller]
fn eventually_error(socket: &UdpSocket) -> io::Error {
    eventually_some(BOUND, "the sender is told", || {
        socket.take_error().expect("a socket has an error or none")
    })
}

/// Asks `address` for an echo and waits for it.
#[track_caller]
fn ping(host: &Host, address: SocketAddr) {
    host.net().sysctl("net/ipv4/ping_group_range", "0 0");
    let (protocol, request, reply) = if address.is_ipv4() {
        (Protocol::ICMPV4, 8, 0)
    } else {
        (Protocol::ICMPV6, 128, 129)
    };
    let socket: UdpSocket = host
        .net()
        .enter(|| Socket::new(Domain::for_address(address), Type::DGRAM, Some(protocol)))
        .expect("root's group may ping")
        .into();
    socket.connect(address).expect("there is a route");
    // The kernel puts in checksum and identifier.
    let message = [&[request, 0, 0, 0, 0, 0, 0, 1], &b"are you there"[..]].concat();
    socket.send(&message).expect("a ping can be sent");

    let answer = receive(&socket).unwrap_or_else(|error| panic!("no echo of {address}: {error}"));

    assert_eq!((answer[0], answer[1]), (reply, 0), "{answer:?}");
    assert_eq!(answer[6..], message[6..]);
}
