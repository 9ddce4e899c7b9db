//! The host's interfaces: what they are, and when they change.

use std::net::IpAddr;

use netlink_packet_route::{
    RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
    link::{LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
};
use rtnetlink::MulticastGroup;
use tokio::sync::mpsc;

use super::netlink::{NetError, Netlink, Notification, Notifications, report};

/// Events that may wait for the reader of a watch.
const EVENT_QUEUE: usize = 64;

/// What tells of links and of their addresses.
const GROUPS: [MulticastGroup; 3] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
];

/// One network interface, as it was when it was read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Interface {
    /// The kernel's number for it; an interface that is made anew gets another one.
    pub index: u32,
    /// Its name, for example `eth0`.
    pub name: String,
    /// Its Ethernet address; zeros if it has none.
    pub mac: [u8; 6],
    /// The largest IP packet it carries, in bytes.
    pub mtu: u32,
    /// Switched on and with a carrier.
    pub up: bool,
    /// The kernel's word for a virtual interface (`veth`, `bridge`, `vlan`); `None` for hardware.
    pub kind: Option<String>,
    /// Its addresses with their prefix lengths in bits, in the kernel's order.
    pub addresses: Vec<(IpAddr, u8)>,
}

impl Interface {
    /// Reads the interface called `name`.
    ///
    /// # Errors
    ///
    /// [`NetError::NoSuchInterface`], which lists the names that exist; otherwise the kernel's
    /// refusal.
    pub async fn lookup(name: &str) -> Result<Self, NetError> {
        let netlink = Netlink::connect()?;
        match read(&netlink, name).await? {
            Some(interface) => Ok(interface),
            None => Err(NetError::NoSuchInterface {
                name: name.to_owned(),
                present: names(&netlink).await?,
            }),
        }
    }
}

/// What happened to a watched interface.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum InterfaceEvent {
    /// It exists (the first event after the watch began, or after it was missing).
    Appeared(Interface),
    /// It does not exist. `former_index` is what it was; `None` if it never was there.
    Missing {
        /// The name that is watched.
        name: String,
        /// The index it had.
        former_index: Option<u32>,
    },
    /// It was deleted and made anew: whatever was attached to the former one is gone.
    Recreated {
        /// The index it had.
        former_index: u32,
        /// What it is now.
        now: Interface,
    },
    /// The same interface, with another state, address, MTU or MAC.
    Changed {
        /// What it was.
        before: Interface,
        /// What it is now.
        now: Interface,
    },
}

/// Watches the interfaces called `names`.
///
/// The first event of each name tells its present state, so nothing is missed between a lookup and
/// the watch. The watch ends when the receiver is dropped.
///
/// # Errors
///
/// [`NetError::Open`].
pub async fn watch(names: Vec<String>) -> Result<mpsc::Receiver<InterfaceEvent>, NetError> {
    let (events, receiver) = mpsc::channel(EVENT_QUEUE);
    let subscription = Netlink::subscribe(&GROUPS)?;
    let watched = names.into_iter().map(|name| (name, None, true)).collect();
    tokio::spawn(run(subscription, watched, events));
    Ok(receiver)
}

/// A name, what it was when last read, and whether that was never reported.
type Watched = (String, Option<Interface>, bool);

async fn run(
    mut subscription: (Netlink, Notifications),
    mut watched: Vec<Watched>,
    events: mpsc::Sender<InterfaceEvent>,
) {
    loop {
        let (netlink, notifications) = &mut subscription;
        for (name, before, unreported) in &mut watched {
            let now = match read(netlink, name).await {
                Ok(now) => now,
                Err(error) => {
                    tracing::warn!(interface = %name, error = %report(&error), "interface not readable");
                    continue;
                }
            };
            let event = compare(name, before.as_ref(), now.as_ref(), *unreported);
            *before = now;
            *unreported = false;
            if let Some(event) = event
                && events.send(event).await.is_err()
            {
                return;
            }
        }
        tokio::select! {
            () = events.closed() => return,
            alive = relevant_change(notifications, &watched) => if !alive {
                subscription = Netlink::resubscribe(&GROUPS).await;
            }
        }
    }
}

/// Waits until something happened to one of `watched`; false if the socket failed.
async fn relevant_change(notifications: &mut Notifications, watched: &[Watched]) -> bool {
    loop {
        let Some(notification) = notifications.next().await else {
            return false;
        };
        if concerns(&notification, watched) {
            // One reading answers for everything that has been announced so far.
            while notifications.waiting().is_some() {}
            return true;
        }
    }
}

fn concerns(notification: &Notification, watched: &[Watched]) -> bool {
    let known_index = |index| {
        watched
            .iter()
            .any(|(_, now, _)| now.as_ref().is_some_and(|now| now.index == index))
    };
    match notification {
        Notification::Lost => true,
        Notification::Message(
            RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link),
        ) => {
            known_index(link.header.index)
                || watched.iter().any(|(name, ..)| *name == link_name(link))
        }
        Notification::Message(
            RouteNetlinkMessage::NewAddress(address) | RouteNetlinkMessage::DelAddress(address),
        ) => known_index(address.header.index),
        Notification::Message(_) => false,
    }
}

fn compare(
    name: &str,
    before: Option<&Interface>,
    now: Option<&Interface>,
    unreported: bool,
) -> Option<InterfaceEvent> {
    match (before, now) {
        (None, None) => unreported.then(|| InterfaceEvent::Missing {
            name: name.to_owned(),
            former_index: None,
        }),
        (Some(before), None) => Some(InterfaceEvent::Missing {
            name: name.to_owned(),
            former_index: Some(before.index),
        }),
        (None, Some(now)) => Some(InterfaceEvent::Appeared(now.clone())),
        (Some(before), Some(now)) if before.index != now.index => Some(InterfaceEvent::Recreated {
            former_index: before.index,
            now: now.clone(),
        }),
        (Some(before), Some(now)) => (before != now).then(|| InterfaceEvent::Changed {
            before: before.clone(),
            now: now.clone(),
        }),
    }
}

async fn read(netlink: &Netlink, name: &str) -> Result<Option<Interface>, NetError> {
    let Some(link) = netlink.link_by_name(name).await? else {
        return Ok(None);
    };
    let addresses = netlink.addresses().await?;
    Ok(Some(describe(&link, &addresses)))
}

async fn names(netlink: &Netlink) -> Result<String, NetError> {
    let links = netlink.links().await?;
    let names: Vec<&str> = links.iter().map(link_name).collect();
    Ok(names.join(", "))
}

/// Puts together what the kernel tells about one interface.
pub(super) fn describe(link: &LinkMessage, addresses: &[AddressMessage]) -> Interface {
    let mut interface = Interface {
        index: link.header.index,
        name: String::new(),
        mac: [0; 6],
        mtu: 0,
        up: link
            .header
            .flags
            .contains(LinkFlags::Up | LinkFlags::LowerUp),
        kind: None,
        addresses: addresses
            .iter()
            .filter(|address| address.header.index == link.header.index)
            .filter_map(|message| Some((own_address(message)?, message.header.prefix_len)))
            .collect(),
    };
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(name) => interface.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => interface.mtu = *mtu,
            LinkAttribute::Address(mac) => {
                interface.mac = mac.as_slice().try_into().unwrap_or_default();
            }
            LinkAttribute::LinkInfo(infos) => {
                interface.kind = infos.iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind.to_string()),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    interface
}

fn link_name(link: &LinkMessage) -> &str {
    link.attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name.as_str()),
            _ => None,
        })
        .unwrap_or_default()
}

/// Returns the host's own address in `message`: on a point-to-point link `Address` is the peer's
/// (rtnetlink(7), `IFA_LOCAL`).
pub(super) fn own_address(message: &AddressMessage) -> Option<IpAddr> {
    let attribute = |wanted: fn(&AddressAttribute) -> Option<IpAddr>| {
        message.attributes.iter().find_map(wanted)
    };
    attribute(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    })
    .or_else(|| {
        attribute(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::testbed::{in_namespace, ip, next};

    #[test]
    fn an_interface_is_found_by_name_with_its_addresses() {
        in_namespace(async || {
            ip("link add v0 type veth peer name v1");
            ip("link set v0 address 02:00:00:00:00:aa mtu 1400");
            ip("link set v0 up");
            ip("link set v1 up");
            ip("address add 10.1.0.1/24 dev v0");
            ip("address add fd00::1/64 dev v0 nodad");

            let v0 = Interface::lookup("v0").await.expect("v0 exists");

            assert_eq!(v0.name, "v0");
            assert_eq!(v0.mac, [2, 0, 0, 0, 0, 0xaa]);
            assert_eq!(v0.mtu, 1400);
            assert!(v0.up);
            assert_eq!(v0.kind.as_deref(), Some("veth"));
            assert!(
                v0.addresses
                    .contains(&("10.1.0.1".parse().expect("address"), 24))
            );
            assert!(
                v0.addresses
                    .contains(&("fd00::1".parse().expect("address"), 64))
            );
        });
    }

    #[test]
    fn a_wrong_name_is_refused_with_the_names_that_exist() {
        in_namespace(async || {
            ip("link add v0 type veth peer name v1");

            let error = Interface::lookup("eth7").await.expect_err("no such name");

            let text = error.to_string();
            assert!(text.contains("eth7") && text.contains("v0"), "{text}");
        });
    }

    #[test]
    fn a_watch_tells_of_the_end_and_the_return_of_an_interface() {
        in_namespace(async || {
            ip("link add v0 type veth peer name v1");
            let mut events = watch(vec!["v0".into()]).await.expect("watch");
            let InterfaceEvent::Appeared(first) = next(&mut events).await else {
                panic!("the first event tells the present state");
            };

            ip("link delete v0");
            let gone = next(&mut events).await;
            ip("link add v0 type veth peer name v1");
            let back = next(&mut events).await;

            assert_eq!(
                gone,
                InterfaceEvent::Missing {
                    name: "v0".into(),
                    former_index: Some(first.index)
                }
            );
            assert!(
                matches!(&back, InterfaceEvent::Appeared(now) if now.index != first.index),
                "{back:?}"
            );
        });
    }

    #[test]
    fn a_watch_tells_of_another_mac_and_of_the_carrier() {
        in_namespace(async || {
            ip("link add v0 type veth peer name v1");
            ip("link set v0 up");
            let mut events = watch(vec!["v0".into()]).await.expect("watch");
            assert!(matches!(
                next(&mut events).await,
                InterfaceEvent::Appeared(Interface { up: false, .. })
            ));

            ip("link set v1 up");
            loop {
                if let InterfaceEvent::Changed { now, .. } = next(&mut events).await
                    && now.up
                {
                    break;
                }
            }
            ip("link set v0 address 02:00:00:00:00:bb");
            loop {
                if let InterfaceEvent::Changed { before, now } = next(&mut events).await
                    && before.mac != now.mac
                {
                    assert_eq!(now.mac, [2, 0, 0, 0, 0, 0xbb]);
                    break;
                }
            }
        });
    }

    #[test]
    fn an_interface_that_is_renamed_is_missing_under_its_former_name() {
        in_namespace(async || {
            ip("link add v0 type veth peer name v1");
            let mut events = watch(vec!["v0".into()]).await.expect("watch");
            assert!(matches!(
                next(&mut events).await,
                InterfaceEvent::Appeared(_)
            ));

            ip("link set v0 name w0");

            assert!(matches!(
                next(&mut events).await,
                InterfaceEvent::Missing {
                    former_index: Some(_),
                    ..
                }
            ));
        });
    }

    #[test]
    fn deletion_and_return_between_two_readings_is_a_recreation() {
        let interface = |index| Interface {
            index,
            name: "eth0".into(),
            mac: [2, 0, 0, 0, 0, 1],
            mtu: 1500,
            up: true,
            kind: None,
            addresses: Vec::new(),
        };

        let event = compare("eth0", Some(&interface(3)), Some(&interface(9)), false);

        assert_eq!(
            event,
            Some(InterfaceEvent::Recreated {
                former_index: 3,
                now: interface(9)
            })
        );
        assert_eq!(
            compare("eth0", Some(&interface(3)), Some(&interface(3)), false),
            None
        );
    }
}
