//! Datagrams that are longer than a packet, in pieces.

use std::{net::SocketAddr, time::Duration};

use lb_tests::lab::{
    Daemon, Family, Gateways, IdentityServer, Lab, UdpClient, capture::Capture,
    eventually::eventually, frames::UdpFrame,
};

const BOUND: Duration = Duration::from_secs(5);
/// Bytes of the UDP datagram in each piece but the last.
const PIECE: usize = 1400;
/// The identification of every datagram that the tests cut themselves.
const IDENTIFICATION: u16 = 7;

#[test]
fn long_datagrams_pass_both_ways_with_one_arm_and_with_two() {
    for family in Family::BOTH {
        for lab in [
            Lab::one_arm().campus().build(),
            Lab::two_arm().campus().build(),
        ] {
            let gateways = Gateways::start(&lab);
            let daemon = Daemon::start(&lab, &family.configuration(lab.gateways()));
            let near = lab.client(1).udp(family.vip(443));
            let far = lab.campus().udp_from(family.campus(7), family.vip(443));

            for client in [&near, &far] {
                let source = client.ask("a short one").source;
                for length in [1473, 4000, 8000] {
                    // The answer is the question and a few bytes: it comes in pieces too.
                    assert_eq!(client.ask(&text(client, length)).source, source);
                }
            }

            assert_eq!(received(&gateways), 8);
            eventually(BOUND, "both flows are counted", || {
                daemon.status().flows() == 2
            });
            assert_eq!(daemon.drops(), []);
        }
    }
}

#[test]
fn a_flow_may_begin_with_a_long_datagram() {
    for family in Family::BOTH {
        let lab = Lab::one_arm().gateways(1).build();
        let _gateways = Gateways::start(&lab);
        let daemon = Daemon::start(&lab, &family.configuration(lab.gateways()));
        let client = lab.client(1).udp(family.vip(443));

        client.ask(&text(&client, 4000));

        assert_eq!(daemon.drops(), []);
    }
}

/// Backends see one sender: pieces of datagrams with the same identification would be put together
/// as if they were of one.
#[test]
fn a_hundred_clients_may_use_the_same_identification_at_the_same_time() {
    for family in Family::BOTH {
        let lab = Lab::one_arm().gateways(1).campus().build();
        let gateways = Gateways::start(&lab);
        let daemon = Daemon::start(&lab, &family.configuration(lab.gateways()));
        let wire = Wire::of_campus(&lab);
        let sources: Vec<SocketAddr> = (1..=100).map(|number| family.campus(number)).collect();
        let clients = lab.campus().udp_from_each(&sources, family.vip(443));
        clients[0].ask("the router knows the way");

        // A few at a time: the queues of a veth pair take 256 frames.
        for clients in clients.chunks(20) {
            let texts: Vec<String> = clients.iter().map(|client| text(client, 4000)).collect();
            let pieces: Vec<Vec<Vec<u8>>> = clients
                .iter()
                .zip(&texts)
                .map(|(client, text)| wire.pieces(client, text))
                .collect();
            for number in 0..pieces[0].len() {
                pieces
                    .iter()
                    .for_each(|pieces| wire.capture.send_bytes(&pieces[number]));
            }
            for (client, text) in clients.iter().zip(&texts) {
                if let Err(error) = client.answer_within(text, BOUND) {
                    panic!("{} is not answered: {error}", client.local());
                }
            }
        }

        assert_eq!(received(&gateways), 101);
        assert_eq!(daemon.drops(), []);
    }
}

#[test]
fn pieces_may_come_in_any_order_after_the_first_one() {
    for family in Family::BOTH {
        let lab = Lab::one_arm().gateways(1).campus().build();
        let _gateways = Gateways::start(&lab);
        let daemon = Daemon::start(&lab, &family.configuration(lab.gateways()));
        let wire = Wire::of_campus(&lab);
        let client = lab.campus().udp_from(family.campus(7), family.vip(443));
        client.ask("the router knows the way");
        let text = text(&client, 6000);
        let pieces = wire.pieces(&client, &text);
        assert_eq!(pieces.len(), 5);

        for number in [0, 4, 2, 3, 1] {
            wire.capture.send_bytes(&pieces[number]);
        }

        client
            .answer_within(&text, BOUND)
            .unwrap_or_else(|error| panic!("the datagram did not pass: {error}"));
        assert_eq!(daemon.drops(), []);
    }
}

#[test]
fn a_piece_that_overtakes_the_first_one_is_refused_and_counted() {
    for family in Family::BOTH {
        let lab = Lab::one_arm().gateways(1).campus().build();
        let gateways = Gateways::start(&lab);
        let daemon = Daemon::start(&lab, &family.configuration(lab.gateways()));
        let wire = Wire::of_campus(&lab);
        let client = lab.campus().udp_from(family.campus(7), family.vip(443));
        client.ask("the router knows the way");
        let long = text(&client, 4000);
        let pieces = wire.pieces(&client, &long);

        for number in [1, 0, 2] {
            wire.capture.send_bytes(&pieces[number]);
        }

        eventually(BOUND, "the piece is counted", || {
            daemon.drops() == [("fragment".to_owned(), 1)]
        });
        client.ask("a short one");
        assert_eq!(received(&gateways), 2);
        // The whole datagram, sent again.
        wire.pieces(&client, &long)
            .iter()
            .for_each(|piece| wire.capture.send_bytes(piece));
        client
            .answer_within(&long, BOUND)
            .unwrap_or_else(|error| panic!("the datagram did not pass: {error}"));
    }
}

#[test]
fn long_datagrams_for_what_is_no_service_are_the_hosts_own() {
    for family in Family::BOTH {
        let lab = Lab::one_arm().gateways(1).build();
        let _gateways = Gateways::start(&lab);
        let daemon = Daemon::start(&lab, &family.configuration(lab.gateways()));
        let _server = IdentityServer::start_at("balancer", lab.balancer(), family.vip(5000));
        let client = lab.client(1).udp(family.vip(5000));

        assert_eq!(client.ask(&text(&client, 8000)).backend, "balancer");

        assert_eq!(daemon.drops(), []);
    }
}

/// Frames of the campus on their way to the router.
struct Wire {
    capture: Capture,
    to_mac: [u8; 6],
    from_mac: [u8; 6],
}

impl Wire {
    fn of_campus(lab: &Lab) -> Self {
        Self {
            capture: Capture::open(lab.campus(), "eth0"),
            to_mac: lab.router().mac("eth1"),
            from_mac: lab.campus().mac("eth0"),
        }
    }

    /// Returns the pieces of a datagram that `client` might have sent.
    fn pieces(&self, client: &UdpClient, payload: &str) -> Vec<Vec<u8>> {
        let frame = UdpFrame {
            to_mac: self.to_mac,
            from_mac: self.from_mac,
            vlans: Vec::new(),
            source: client.local(),
            destination: client.socket().peer_addr().expect("it is connected"),
            ttl: 64,
            payload: payload.as_bytes().to_vec(),
        };
        frame.to_pieces(IDENTIFICATION, PIECE)
    }
}

/// Returns a text of `length` bytes that no other client sends, and where each part says its place.
fn text(client: &UdpClient, length: usize) -> String {
    let mut text = format!("{length} from {};", client.local());
    while text.len() < length {
        text = format!("{text}{};", text.len());
    }
    text.truncate(length);
    text
}

fn received(gateways: &Gateways) -> u64 {
    gateways
        .all()
        .iter()
        .map(|gateway| gateway.service.received())
        .sum()
}
