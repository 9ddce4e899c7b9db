//! Next hops: with which MAC, out of which interface and from which address each destination is
//! reached, followed as the network changes.
//!
//! XDP sends frames past the kernel's neighbour code, so that traffic neither resolves a neighbour
//! nor keeps it fresh. [`Resolver`] does both: it asks the kernel for the route and the neighbour,
//! has it verify neighbours that grow stale, and follows routes, rules, addresses, links and
//! neighbours by notification. `judge` decides what an observation means and what to do next,
//! `kernel` observes and acts.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    time::Duration,
};

use netlink_packet_route::{
    RouteNetlinkMessage,
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage},
};
use rtnetlink::MulticastGroup;
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use super::netlink::{NetError, Netlink, Notification, Notifications, report};
use judge::Tracked;

mod judge;
mod kernel;

/// Results that may wait for the reader; the resolver stands still while it is full.
const EVENT_QUEUE: usize = 256;
/// Hints that may wait for the resolver; further ones are dropped.
const NUDGE_QUEUE: usize = 64;
/// A change of routes, rules, addresses or links concerns every destination: they are looked at
/// together, this often at most (a routing daemon can announce thousands of routes per second).
const ROUTING_SPACING: Duration = Duration::from_millis(250);
/// Pause after an observation that the kernel refused.
const REFUSED_RETRY: Duration = Duration::from_secs(5);

/// Everything that can change a way.
const GROUPS: [MulticastGroup; 9] = [
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv6Rule,
    MulticastGroup::Nexthop,
];

/// The way of a frame to a destination.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NextHop {
    /// The interface it leaves by.
    pub interface_index: u32,
    /// The Ethernet address of the destination, or of the gateway towards it.
    pub mac: [u8; 6],
    /// The host's own address that the kernel prefers towards the destination.
    pub source: IpAddr,
    /// The gateway; `None` if the destination is on the link.
    pub via: Option<IpAddr>,
}

/// Why a destination has no next hop, as an administrator would say it.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Unresolved {
    /// The routing table has no way.
    #[error("no route to {destination}")]
    NoRoute {
        /// The destination.
        destination: IpAddr,
    },
    /// The routing table forbids the way.
    #[error("the route to {destination} is of type {kind}")]
    Forbidden {
        /// The destination.
        destination: IpAddr,
        /// `blackhole`, `unreachable`, `prohibit`, `multicast`, `broadcast`.
        kind: &'static str,
    },
    /// The destination is this host.
    #[error("{destination} is an address of this host")]
    OwnAddress {
        /// The destination.
        destination: IpAddr,
    },
    /// The route leaves by an interface that cannot send.
    #[error("interface {interface} is down")]
    InterfaceDown {
        /// The interface's name.
        interface: String,
    },
    /// The route leaves by an interface that has no Ethernet addresses.
    #[error("the route to {destination} leaves by {interface}, which is no Ethernet interface")]
    NotEthernet {
        /// The destination.
        destination: IpAddr,
        /// The interface's name.
        interface: String,
    },
    /// The host has no address to send from.
    #[error("{interface} has no address to send to {destination} from")]
    NoSource {
        /// The destination.
        destination: IpAddr,
        /// The interface's name.
        interface: String,
    },
    /// Nobody says that it has the address.
    #[error("{silent} does not answer {} on {interface}", question(*silent))]
    NoAnswer {
        /// The destination, which is on the link.
        silent: IpAddr,
        /// The interface's name.
        interface: String,
    },
    /// The gateway does not say that it is there.
    #[error(
        "the gateway {silent} towards {destination} does not answer {} on {interface}",
        question(*silent)
    )]
    NoAnswerFromGateway {
        /// The gateway.
        silent: IpAddr,
        /// The destination.
        destination: IpAddr,
        /// The interface's name.
        interface: String,
    },
}

fn question(address: IpAddr) -> &'static str {
    match address {
        IpAddr::V4(_) => "ARP",
        IpAddr::V6(_) => "neighbour solicitations",
    }
}

/// A destination whose next hop was found, changed or lost.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NextHopEvent {
    /// The destination, as it was given to [`Resolver::set_destinations`].
    pub destination: IpAddr,
    /// Its way, or why there is none.
    pub result: Result<NextHop, Unresolved>,
}

/// Resolves next hops in a task of its own, which ends when this handle or the receiver is dropped.
#[derive(Debug)]
pub struct Resolver {
    wanted: watch::Sender<BTreeSet<IpAddr>>,
    nudges: mpsc::Sender<IpAddr>,
}

impl Resolver {
    /// Starts without destinations.
    ///
    /// Each destination yields its first event as soon as something is certain (a few milliseconds
    /// if it answers, up to four seconds if it does not), then one per change. While a known
    /// neighbour is being asked again its former way stands.
    ///
    /// # Errors
    ///
    /// [`NetError::Open`].
    pub async fn start() -> Result<(Self, mpsc::Receiver<NextHopEvent>), NetError> {
        let (netlink, notifications) = Netlink::subscribe(&GROUPS)?;
        let (wanted, destinations) = watch::channel(BTreeSet::new());
        let (nudges, nudged) = mpsc::channel(NUDGE_QUEUE);
        let (events, receiver) = mpsc::channel(EVENT_QUEUE);
        let task = Task {
            netlink,
            destinations,
            nudged,
            events,
            tracked: BTreeMap::new(),
            routing: Routing::default(),
            jitter: RandomState::new(),
        };
        tokio::spawn(task.run(notifications));
        Ok((Self { wanted, nudges }, receiver))
    }

    /// Replaces the whole set of destinations. Those that stay keep what is known of them; a new
    /// one yields an event; one that goes yields none, and one that returns is new.
    pub fn set_destinations(&self, destinations: BTreeSet<IpAddr>) {
        self.wanted.send_if_modified(|current| {
            let changed = *current != destinations;
            *current = destinations;
            changed
        });
    }

    /// Hints that `destination` does not answer, for example to a probe: it is asked for at once,
    /// by broadcast, so that another MAC that nobody announced is found within a second or two.
    ///
    /// Never waits; a hint too many is dropped, and unknown destinations are ignored.
    pub fn nudge(&self, destination: IpAddr) {
        // Full: as many destinations are being asked for already. Closed: nobody listens.
        let _ = self.nudges.try_send(destination);
    }
}

struct Task {
    netlink: Netlink,
    destinations: watch::Receiver<BTreeSet<IpAddr>>,
    nudged: mpsc::Receiver<IpAddr>,
    events: mpsc::Sender<NextHopEvent>,
    tracked: BTreeMap<IpAddr, Tracked>,
    routing: Routing,
    jitter: RandomState,
}

/// When every destination is to be looked at again because routing may have changed.
#[derive(Debug, Default)]
struct Routing {
    due: Option<Instant>,
    last: Option<Instant>,
}

impl Routing {
    fn changed(&mut self, now: Instant) {
        let earliest = self.last.map_or(now, |last| last + ROUTING_SPACING);
        self.due.get_or_insert(earliest.max(now));
    }

    fn take_due(&mut self, now: Instant) -> bool {
        let is_due = self.due.is_some_and(|due| due <= now);
        if is_due {
            self.due = None;
            self.last = Some(now);
        }
        is_due
    }
}

/// Ends the task: nobody holds the handle or the receiver any more.
struct Stopped;

impl Task {
    async fn run(mut self, mut notifications: Notifications) {
        while self.follow(&mut notifications).await.is_ok() {
            (self.netlink, notifications) = Netlink::resubscribe(&GROUPS).await;
            self.routing.changed(Instant::now());
        }
    }

    /// Works until the netlink socket fails.
    async fn follow(&mut self, notifications: &mut Notifications) -> Result<(), Stopped> {
        loop {
            self.look_at_due().await?;
            let next = self.next_due();
            tokio::select! {
                () = self.events.closed() => return Err(Stopped),
                changed = self.destinations.changed() => {
                    changed.map_err(|_| Stopped)?;
                    self.reconcile();
                }
                nudged = self.nudged.recv() => {
                    let destination = nudged.ok_or(Stopped)?;
                    if let Some(tracked) = self.tracked.get_mut(&destination) {
                        tracked.nudge(Instant::now());
                    }
                }
                notification = notifications.next() => match notification {
                    Some(notification) => self.notice(&notification),
                    None => return Ok(()),
                },
                () = sleep_until(next) => {}
            }
            while let Some(notification) = notifications.waiting() {
                self.notice(&notification);
            }
        }
    }

    fn reconcile(&mut self) {
        let wanted = self.destinations.borrow_and_update();
        self.tracked
            .retain(|destination, _| wanted.contains(destination));
        let now = Instant::now();
        for destination in wanted.iter() {
            self.tracked
                .entry(*destination)
                // An IPv4 destination stays one when it is written as an IPv6 address.
                .or_insert_with(|| Tracked::new(destination.to_canonical(), now));
        }
    }

    fn notice(&mut self, notification: &Notification) {
        let now = Instant::now();
        match hint(notification) {
            Hint::Everything => self.routing.changed(now),
            Hint::Neighbour(index, address) => {
                for tracked in self.tracked.values_mut() {
                    if tracked.depends_on(index, address) {
                        tracked.look_again(now);
                    }
                }
            }
            Hint::Nothing => {}
        }
    }

    async fn look_at_due(&mut self) -> Result<(), Stopped> {
        let all = self.routing.take_due(Instant::now());
        for (destination, tracked) in &mut self.tracked {
            let now = Instant::now();
            if !all && tracked.next_look() > now {
                continue;
            }
            let observation = match kernel::observe(
                &self.netlink,
                tracked.destination(),
                tracked.last_interface(),
            )
            .await
            {
                Ok(observation) => observation,
                Err(error) => {
                    tracing::warn!(%destination, error = %report(&error), "next hop not readable");
                    tracked.look_later(now + REFUSED_RETRY);
                    continue;
                }
            };
            let jitter = self.jitter.hash_one((destination, now));
            let (change, step) = tracked.observed(now, &observation, jitter);
            if let Some(step) = step {
                tracing::trace!(%destination, ?step, "keeping the next hop warm");
                if let Err(error) = kernel::act(&self.netlink, step, &observation).await {
                    tracing::debug!(%destination, ?step, %error, "neighbour cannot be asked");
                }
            }
            if let Some(result) = change {
                tracing::debug!(%destination, result = %Outcome(&result), "next hop");
                let event = NextHopEvent {
                    destination: *destination,
                    result,
                };
                self.events.send(event).await.map_err(|_| Stopped)?;
            }
        }
        Ok(())
    }

    fn next_due(&self) -> Option<Instant> {
        let looks = self.tracked.values().map(Tracked::next_look);
        looks.chain(self.routing.due).min()
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// What a notification asks to look at.
#[derive(Debug, Eq, PartialEq)]
enum Hint {
    Everything,
    Neighbour(u32, IpAddr),
    Nothing,
}

fn hint(notification: &Notification) -> Hint {
    use RouteNetlinkMessage as Message;
    match notification {
        Notification::Message(Message::NewNeighbour(entry) | Message::DelNeighbour(entry)) => {
            match neighbour_address(entry) {
                Some(address) => Hint::Neighbour(entry.header.ifindex, address),
                None => Hint::Nothing,
            }
        }
        // Whatever else was subscribed to changes routes or interfaces, and what was lost may have.
        Notification::Message(_) | Notification::Lost => Hint::Everything,
    }
}

fn neighbour_address(entry: &NeighbourMessage) -> Option<IpAddr> {
    entry
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => {
                Some(IpAddr::V4(*address))
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => {
                Some(IpAddr::V6(*address))
            }
            _ => None,
        })
}

/// A result as one phrase of a log line.
struct Outcome<'a>(&'a Result<NextHop, Unresolved>);

impl fmt::Display for Outcome<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Ok(hop) => {
                let [a, b, c, d, e, g] = hop.mac;
                write!(
                    f,
                    "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x} on interface {}",
                    hop.interface_index
                )?;
                match hop.via {
                    Some(gateway) => write!(f, " via {gateway}"),
                    None => Ok(()),
                }
            }
            Err(reason) => reason.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests;
