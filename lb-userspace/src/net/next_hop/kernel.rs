//! Reads the kernel's routes and neighbours, and has neighbours asked.

use std::{io, net::IpAddr};

use netlink_packet_route::{
    link::{LinkLayerType, LinkMessage},
    neighbour::{NeighbourAttribute, NeighbourState},
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteType, RouteVia},
};

use super::judge::{Link, NoWay, Observation, Route, Step};
use crate::net::{
    announce::{packet, send_frame},
    interfaces::describe,
    netlink::{NetError, Netlink},
};

/// Reads everything that concerns the way to `destination`. `former_interface` is looked at only
/// if there is no route.
pub(super) async fn observe(
    netlink: &Netlink,
    destination: IpAddr,
    former_interface: Option<u32>,
) -> Result<Observation, NetError> {
    let route = match netlink.route_to(destination).await {
        Ok(message) => read_route(netlink, destination, &message).await?,
        Err(error) => Err(no_way(&error).ok_or_else(|| {
            NetError::refused(format!("look up the route to {destination}"), error)
        })?),
    };
    let former_link = match (&route, former_interface) {
        (Err(NoWay::NoRoute), Some(index)) => link(netlink, index).await?,
        _ => None,
    };
    Ok(Observation { route, former_link })
}

/// Does what the observation of a neighbour calls for. Does nothing without a route.
pub(super) async fn act(
    netlink: &Netlink,
    step: Step,
    observation: &Observation,
) -> io::Result<()> {
    let Ok(route) = &observation.route else {
        return Ok(());
    };
    match step {
        Step::Resolve => {
            netlink
                .resolve_neighbour(route.link.index, route.neighbour)
                .await
        }
        Step::Verify => {
            netlink
                .verify_neighbour(route.link.index, route.neighbour)
                .await
        }
        Step::Ask => ask(route),
    }
}

/// Sends a question to everybody. The answer updates the kernel's entry, also if it is REACHABLE.
fn ask(route: &Route) -> io::Result<()> {
    let Some(mac) = route.link.mac else {
        return Ok(());
    };
    match (route.source, route.neighbour) {
        (Some(IpAddr::V4(source)), IpAddr::V4(neighbour)) => send_frame(
            route.link.index,
            &packet::arp_request(mac, source, neighbour),
        ),
        (Some(IpAddr::V6(source)), IpAddr::V6(neighbour)) => send_frame(
            route.link.index,
            &packet::neighbour_solicitation(mac, source, neighbour),
        ),
        // An IPv4 route through an IPv6 gateway: the kernel's own questions have to do.
        _ => Ok(()),
    }
}

async fn read_route(
    netlink: &Netlink,
    destination: IpAddr,
    message: &RouteMessage,
) -> Result<Result<Route, NoWay>, NetError> {
    if let Some(no_way) = refusal(message.header.kind) {
        return Ok(Err(no_way));
    }
    let mut interface = None;
    let mut via = None;
    let mut source = None;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => interface = Some(*index),
            RouteAttribute::Gateway(address) => via = ip(address),
            RouteAttribute::Via(RouteVia::Inet6(address)) => via = Some(IpAddr::V6(*address)),
            RouteAttribute::PrefSource(address) => source = ip(address),
            _ => {}
        }
    }
    let link = match interface {
        Some(index) => link(netlink, index).await?,
        None => None,
    };
    // The interface can go between two requests: the route goes with it.
    let Some(link) = link else {
        return Ok(Err(NoWay::NoRoute));
    };
    let neighbour = via.unwrap_or(destination);
    let (state, mac) = match netlink.neighbour(link.index, neighbour).await? {
        Some(entry) => {
            let mac = entry
                .attributes
                .iter()
                .find_map(|attribute| match attribute {
                    NeighbourAttribute::LinkLayerAddress(mac) => mac.as_slice().try_into().ok(),
                    _ => None,
                });
            (entry.header.state, mac)
        }
        None => (NeighbourState::None, None),
    };
    Ok(Ok(Route {
        link,
        via,
        source,
        neighbour,
        state,
        mac,
    }))
}

async fn link(netlink: &Netlink, index: u32) -> Result<Option<Link>, NetError> {
    Ok(netlink.link_by_index(index).await?.as_ref().map(read_link))
}

fn read_link(message: &LinkMessage) -> Link {
    let interface = describe(message, &[]);
    let is_ethernet = message.header.link_layer_type == LinkLayerType::Ether;
    Link {
        index: interface.index,
        name: interface.name,
        up: interface.up,
        mac: is_ethernet.then_some(interface.mac),
    }
}

/// Tells by its type whether a route leads nowhere (rtnetlink(7), `rtm_type`).
fn refusal(kind: RouteType) -> Option<NoWay> {
    match kind {
        RouteType::Unicast => None,
        RouteType::Local | RouteType::Anycast => Some(NoWay::OwnAddress),
        RouteType::Broadcast => Some(NoWay::Forbidden("broadcast")),
        RouteType::Multicast => Some(NoWay::Forbidden("multicast")),
        RouteType::BlackHole => Some(NoWay::Forbidden("blackhole")),
        RouteType::Unreachable => Some(NoWay::Forbidden("unreachable")),
        RouteType::Prohibit => Some(NoWay::Forbidden("prohibit")),
        _ => Some(NoWay::NoRoute),
    }
}

/// Tells by the kernel's error whether a lookup found that there is no way
/// (`fib_props` in the kernel's `fib_semantics.c`).
fn no_way(error: &io::Error) -> Option<NoWay> {
    match error.raw_os_error()? {
        libc::ENETUNREACH | libc::ENODEV => Some(NoWay::NoRoute),
        libc::EHOSTUNREACH => Some(NoWay::Forbidden("unreachable")),
        libc::EACCES => Some(NoWay::Forbidden("prohibit")),
        libc::EINVAL => Some(NoWay::Forbidden("blackhole")),
        _ => None,
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}
