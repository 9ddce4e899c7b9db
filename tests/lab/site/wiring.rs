//! The machines of a site, one function each, and the cables between them.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::lab::{
    host::Host,
    netns::NetNs,
    veth::{self, pass_xdp},
    xdp_pass::XdpPass,
};

/// Interfaces of the balancer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arms {
    One,
    Two,
}

/// The two numbers that an IPv4 and an IPv6 network have in common: 10.A.B.0/24, fd00:A:B::/64.
#[derive(Clone, Copy, Debug)]
pub(super) struct Network(u8, u8);

const CLIENT_SIDE: Network = Network(20, 90);
const BACKEND_SIDE: Network = Network(11, 20);
const FAR: Network = Network(40, 0);
const CAMPUS_LINK: Network = Network(31, 0);

impl Network {
    pub(super) fn v4(self, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, self.0, self.1, host)
    }

    /// The digits are the decimal ones of the IPv4 address, as administrators like to number.
    pub(super) fn v6(self, host: u8) -> Ipv6Addr {
        let text = format!("fd00:{}:{}::{host}", self.0, self.1);
        text.parse().expect("decimal digits are hexadecimal ones")
    }
}

const ROUTER: u8 = 1;
pub(super) const BALANCER: u8 = 2;
const INNER_ROUTER: u8 = 3;
const FAR_GATEWAY: u8 = 11;
const FIRST_GATEWAY: u8 = 11;
const FIRST_CLIENT: u8 = 51;

/// The switches: one namespace with a bridge for each link.
#[derive(Debug)]
pub(super) struct Switches {
    pub(super) net: NetNs,
    arms: Arms,
}

impl Switches {
    pub(super) fn new(arms: Arms) -> Self {
        let net = NetNs::new();
        // Switches have no addresses: with some, they would answer neighbour discovery themselves.
        net.sysctl("net/ipv6/conf/default/disable_ipv6", "1");
        for bridge in ["clients", "backends"] {
            net.ip(&[
                &format!("link add {bridge} type bridge stp_state 0 mcast_snooping 0"),
                &format!("link set {bridge} up"),
            ]);
        }
        Self { net, arms }
    }

    pub(super) fn backend_network(&self) -> Network {
        match self.arms {
            Arms::One => CLIENT_SIDE,
            Arms::Two => BACKEND_SIDE,
        }
    }

    fn backend_bridge(&self) -> &'static str {
        match self.arms {
            Arms::One => "clients",
            Arms::Two => "backends",
        }
    }

    fn join_clients(&self, host: &mut Host, interface: u8, number: u8) {
        self.join(host, interface, "clients", CLIENT_SIDE, number);
    }

    fn join_backends(&self, host: &mut Host, interface: u8, number: u8) {
        self.join(
            host,
            interface,
            self.backend_bridge(),
            self.backend_network(),
            number,
        );
    }

    fn join(&self, host: &mut Host, interface: u8, bridge: &str, network: Network, number: u8) {
        let port = port_name(host.name(), interface);
        let name = format!("eth{interface}");
        veth::connect(&self.net, &port, host.net(), &name);
        self.net.ip(&[&format!("link set {port} master {bridge}")]);
        host.add_addresses(&name, (network.v4(number), 24), (network.v6(number), 64));
    }
}

/// Returns the name of the switch's port for `eth<interface>` of a machine; 15 characters at most.
pub(super) fn port_name(host: &str, interface: u8) -> String {
    format!(
        "{}-{interface}",
        host.replace("gateway", "gw").replace("router", "rt")
    )
}

pub(super) fn client(switches: &Switches, number: u8) -> Host {
    let mut host = Host::new(&format!("client{number}"));
    switches.join_clients(&mut host, 0, FIRST_CLIENT - 1 + number);
    host.net().ip(&[
        &format!("route add default via {}", CLIENT_SIDE.v4(ROUTER)),
        &format!("route add default via {}", CLIENT_SIDE.v6(ROUTER)),
    ]);
    host
}

pub(super) fn gateway(switches: &Switches, number: u8) -> Host {
    let mut host = Host::new(&format!("gateway{number}"));
    switches.join_backends(&mut host, 0, FIRST_GATEWAY - 1 + number);
    host
}

pub(super) fn balancer(switches: &Switches, inner_router: Option<&Host>) -> (Host, Vec<XdpPass>) {
    let mut host = Host::with_bpffs("balancer");
    switches.join_clients(&mut host, 0, BALANCER);
    let mut programs = vec![pass_xdp(&switches.net, &port_name("balancer", 0))];
    if switches.arms == Arms::Two {
        switches.join_backends(&mut host, 1, BALANCER);
        programs.push(pass_xdp(&switches.net, &port_name("balancer", 1)));
    }
    host.net().ip(&[
        &format!("route add default via {}", CLIENT_SIDE.v4(ROUTER)),
        &format!("route add default via {}", CLIENT_SIDE.v6(ROUTER)),
    ]);
    if let Some(router) = inner_router {
        host.net().ip(&[
            &format!("route add {}/24 via {}", FAR.v4(0), router.v4()),
            &format!("route add {}/64 via {}", FAR.v6(0), router.v6()),
        ]);
    }
    (host, programs)
}

pub(super) fn router(switches: &Switches) -> Host {
    let mut host = Host::new("router");
    forward(&host);
    switches.join_clients(&mut host, 0, ROUTER);
    host
}

pub(super) fn campus(router: &Host) -> Host {
    let mut host = Host::new("campus");
    let mut router = router.clone();
    veth::connect(router.net(), "eth1", host.net(), "eth0");
    router.add_addresses("eth1", (CAMPUS_LINK.v4(1), 24), (CAMPUS_LINK.v6(1), 64));
    host.add_addresses("eth0", (CAMPUS_LINK.v4(2), 24), (CAMPUS_LINK.v6(2), 64));
    let (near, far) = (CAMPUS_LINK.v4(2), CAMPUS_LINK.v4(1));
    let (near6, far6) = (CAMPUS_LINK.v6(2), CAMPUS_LINK.v6(1));
    router.net().ip(&[
        &format!("route add 10.30.0.0/16 via {near}"),
        &format!("route add fd00:30::/64 via {near6}"),
    ]);
    host.net().ip(&[
        &format!("route add default via {far}"),
        &format!("route add default via {far6}"),
        // Every address of the prefix is the machine's own.
        "route add local 10.30.0.0/16 dev lo",
        "route add local fd00:30::/64 dev lo",
    ]);
    host
}

pub(super) fn inner_router(switches: &Switches) -> Host {
    let mut host = Host::new("inner-router");
    forward(&host);
    switches.join_backends(&mut host, 0, INNER_ROUTER);
    host
}

pub(super) fn far_gateway(router: &Host) -> Host {
    let mut host = Host::new("far-gateway");
    let mut router = router.clone();
    veth::connect(router.net(), "eth1", host.net(), "eth0");
    router.add_addresses("eth1", (FAR.v4(1), 24), (FAR.v6(1), 64));
    host.add_addresses("eth0", (FAR.v4(FAR_GATEWAY), 24), (FAR.v6(FAR_GATEWAY), 64));
    host.net().ip(&[
        &format!("route add default via {}", FAR.v4(1)),
        &format!("route add default via {}", FAR.v6(1)),
    ]);
    host
}

fn forward(host: &Host) {
    host.net().sysctl("net/ipv4/ip_forward", "1");
    host.net().sysctl("net/ipv6/conf/all/forwarding", "1");
    // What the router could tell on-link machines would be right here, but it would change the
    // way that the test is about.
    host.net().sysctl("net/ipv4/conf/all/send_redirects", "0");
    host.net()
        .sysctl("net/ipv4/conf/default/send_redirects", "0");
}
