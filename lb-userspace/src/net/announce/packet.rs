//! The bytes of ARP (RFC 826) and neighbour discovery (RFC 4861) frames.

use std::net::{Ipv4Addr, Ipv6Addr};

/// Ethernet, ARP for IPv4 over Ethernet.
const ARP_FRAME_LEN: usize = 14 + 28;
/// Ethernet, IPv6, ICMPv6 header with target, link-layer address option.
const ND_FRAME_LEN: usize = 14 + 40 + ND_BODY_LEN;
const ND_BODY_LEN: usize = 24 + 8;

const BROADCAST: [u8; 6] = [0xff; 6];
const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];
const ICMPV6: u8 = 58;

/// RFC 4861 section 4.3.
const NEIGHBOUR_SOLICITATION: u8 = 135;
/// RFC 4861 section 4.4.
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
/// The override flag of an advertisement: replace what is cached (RFC 4861 section 4.4).
const OVERRIDE: u32 = 0x2000_0000;
/// Options that carry the sender's or the target's MAC (RFC 4861 section 4.6.1).
const SOURCE_LINK_LAYER: u8 = 1;
const TARGET_LINK_LAYER: u8 = 2;

/// Returns an ARP announcement: a broadcast request whose sender and target address are both
/// `address` (RFC 5227 section 3).
#[must_use]
pub fn gratuitous_arp(mac: [u8; 6], address: Ipv4Addr) -> [u8; ARP_FRAME_LEN] {
    arp_request(mac, address, address)
}

/// Returns a broadcast ARP request of `sender` at `mac` for the MAC of `target` (RFC 826).
#[must_use]
pub fn arp_request(mac: [u8; 6], sender: Ipv4Addr, target: Ipv4Addr) -> [u8; ARP_FRAME_LEN] {
    let mut frame = [0; ARP_FRAME_LEN];
    let mut writer = Writer::new(&mut frame);
    writer.put(&BROADCAST);
    writer.put(&mac);
    writer.put(&ETHERTYPE_ARP);
    writer.put(&[0, 1]); // hardware: Ethernet
    writer.put(&[0x08, 0x00]); // protocol: IPv4
    writer.put(&[6, 4]); // address lengths
    writer.put(&[0, 1]); // operation: request
    writer.put(&mac);
    writer.put(&sender.octets());
    writer.put(&[0; 6]); // the target's MAC is what is asked for
    writer.put(&target.octets());
    frame
}

/// Returns an unsolicited neighbour advertisement of `address` at `mac` to all nodes
/// (RFC 4861 sections 4.4 and 7.2.6).
#[must_use]
pub fn unsolicited_advertisement(mac: [u8; 6], address: Ipv6Addr) -> [u8; ND_FRAME_LEN] {
    // All nodes on the link (RFC 4291 section 2.7.1).
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    neighbour_discovery(&NeighbourDiscovery {
        mac,
        source: address,
        destination: all_nodes,
        kind: NEIGHBOUR_ADVERTISEMENT,
        flags: OVERRIDE,
        target: address,
        option: TARGET_LINK_LAYER,
    })
}

/// Returns a multicast neighbour solicitation of `source` at `mac` for the MAC of `target`
/// (RFC 4861 sections 4.3 and 7.2.2).
#[must_use]
pub fn neighbour_solicitation(
    mac: [u8; 6],
    source: Ipv6Addr,
    target: Ipv6Addr,
) -> [u8; ND_FRAME_LEN] {
    neighbour_discovery(&NeighbourDiscovery {
        mac,
        source,
        destination: solicited_node(target),
        kind: NEIGHBOUR_SOLICITATION,
        flags: 0,
        target,
        option: SOURCE_LINK_LAYER,
    })
}

/// Returns the multicast address that `address` listens on for solicitations
/// (RFC 4291 section 2.7.1).
fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    let mut octets = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 0).octets();
    octets[13..].copy_from_slice(&[a, b, c]);
    octets.into()
}

struct NeighbourDiscovery {
    mac: [u8; 6],
    source: Ipv6Addr,
    destination: Ipv6Addr,
    kind: u8,
    flags: u32,
    target: Ipv6Addr,
    option: u8,
}

fn neighbour_discovery(message: &NeighbourDiscovery) -> [u8; ND_FRAME_LEN] {
    let mut body = [0; ND_BODY_LEN];
    let mut writer = Writer::new(&mut body);
    writer.put(&[message.kind, 0, 0, 0]); // type, code, checksum still zero
    writer.put(&message.flags.to_be_bytes());
    writer.put(&message.target.octets());
    writer.put(&[message.option, 1]); // option length in units of eight bytes
    writer.put(&message.mac);
    let checksum = icmpv6_checksum(message.source, message.destination, &body);
    body[2..4].copy_from_slice(&checksum.to_be_bytes());

    // An IPv6 multicast MAC is 33:33 and the last four bytes of the address (RFC 2464 section 7).
    let [.., a, b, c, d] = message.destination.octets();
    let mut frame = [0; ND_FRAME_LEN];
    let mut writer = Writer::new(&mut frame);
    writer.put(&[0x33, 0x33, a, b, c, d]);
    writer.put(&message.mac);
    writer.put(&ETHERTYPE_IPV6);
    writer.put(&[0x60, 0, 0, 0]); // version 6
    writer.put(&(ND_BODY_LEN as u16).to_be_bytes());
    // A hop limit of 255 proves that no router passed it on (RFC 4861 section 7.1).
    writer.put(&[ICMPV6, 255]);
    writer.put(&message.source.octets());
    writer.put(&message.destination.octets());
    writer.put(&body);
    frame
}

/// Returns the ICMPv6 checksum of `body`, whose own checksum field is zero, over the
/// pseudo-header of RFC 8200 section 8.1 (RFC 4443 section 2.3).
fn icmpv6_checksum(source: Ipv6Addr, destination: Ipv6Addr, body: &[u8]) -> u16 {
    let words = source
        .segments()
        .into_iter()
        .chain(destination.segments())
        .chain([body.len() as u16, u16::from(ICMPV6)])
        .chain(body.chunks(2).map(|pair| match *pair {
            [high, low] => u16::from_be_bytes([high, low]),
            [high] => u16::from_be_bytes([high, 0]),
            _ => 0,
        }));
    let mut sum: u32 = words.map(u32::from).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Writes fields one after the other; the buffer has exactly the size of them all.
struct Writer<'a> {
    rest: &'a mut [u8],
}

impl<'a> Writer<'a> {
    fn new(buffer: &'a mut [u8]) -> Self {
        Self { rest: buffer }
    }

    fn put(&mut self, bytes: &[u8]) {
        let (field, rest) = std::mem::take(&mut self.rest).split_at_mut(bytes.len());
        field.copy_from_slice(bytes);
        self.rest = rest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [0x02, 0x11, 0x22, 0x33, 0x44, 0x55];

    #[test]
    fn a_gratuitous_arp_names_the_address_as_sender_and_target() {
        let frame = gratuitous_arp(MAC, [10, 20, 90, 105].into());

        #[rustfmt::skip]
        let expected = [
            0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02, 0x11, 0x22, 0x33, 0x44, 0x55, 0x08, 0x06,
            0x00, 0x01, 0x08, 0x00, 0x06, 0x04, 0x00, 0x01,
            0x02, 0x11, 0x22, 0x33, 0x44, 0x55, 10, 20, 90, 105,
            0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 10, 20, 90, 105,
        ];
        assert_eq!(frame, expected);
    }

    #[test]
    fn an_advertisement_goes_to_all_nodes_with_the_override_flag_and_hop_limit_255() {
        let frame = unsolicited_advertisement(MAC, "fd00::105".parse().expect("address"));

        // The checksum comes from a separate computation over these bytes.
        #[rustfmt::skip]
        let expected = [
            0x33, 0x33, 0x00, 0x00, 0x00, 0x01, 0x02, 0x11, 0x22, 0x33, 0x44, 0x55, 0x86, 0xdd,
            0x60, 0x00, 0x00, 0x00, 0x00, 0x20, 58, 255,
            0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x01, 0x05,
            0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x01,
            136, 0, 0xf1, 0xfa, 0x20, 0x00, 0x00, 0x00,
            0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x01, 0x05,
            2, 1, 0x02, 0x11, 0x22, 0x33, 0x44, 0x55,
        ];
        assert_eq!(frame[..], expected[..]);
    }

    #[test]
    fn a_solicitation_goes_to_the_solicited_node_address() {
        let frame = neighbour_solicitation(
            MAC,
            "fd00::1".parse().expect("address"),
            "fd00::ab:cdef".parse().expect("address"),
        );

        assert_eq!(frame[..6], [0x33, 0x33, 0xff, 0xab, 0xcd, 0xef]);
        assert_eq!(
            frame[38..54],
            [
                0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0xab, 0xcd, 0xef
            ]
        );
        assert_eq!(frame[54], 135);
        assert_eq!(frame[58..62], [0; 4]);
        assert_eq!(frame[78..], [1, 1, 0x02, 0x11, 0x22, 0x33, 0x44, 0x55]);
    }

    #[test]
    fn a_receiver_finds_the_checksum_right() {
        let frame = neighbour_solicitation(
            MAC,
            "2001:db8:ffff:ffff::1".parse().expect("address"),
            "2001:db8::fffe:ffff".parse().expect("address"),
        );

        // Summing a message with its checksum gives all ones (RFC 1071 section 1).
        let pseudo_header = frame[22..54].chunks(2);
        let message = frame[54..].chunks(2);
        let mut sum = pseudo_header
            .chain(message)
            .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
            .sum::<u32>()
            + 32
            + 58;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        assert_eq!(sum, 0xffff);
    }
}
