//! VIP and SNAT addresses on the host's interfaces.
//!
//! An address that vipd adds carries [`OWNER`] in the kernel (`IFA_PROTO`, Linux 5.18). So what
//! was added can be read back, and removed again, without a record of our own that could be wrong:
//! it outlives the daemon, and ends with the address itself.

use std::{collections::BTreeSet, io, net::IpAddr};

use netlink_packet_route::{
    RouteNetlinkMessage,
    address::{
        AddressAttribute, AddressFlags, AddressMessage, AddressProtocol, AddressScope, CacheInfo,
    },
};
use rtnetlink::MulticastGroup;
use tokio::sync::{mpsc, watch};

use super::{
    interfaces::own_address,
    netlink::{NetError, Netlink, Notification, Notifications, family, report},
};

/// The mark of an address that vipd added: `V` in ASCII. Numbers up to 3 belong to the kernel
/// (`if_addr.h`); `ip -d address show` prints it as `proto 86`.
pub const OWNER: u8 = 86;

/// Losses that may wait for the reader of a watch.
const EVENT_QUEUE: usize = 64;

/// What tells of addresses.
const GROUPS: [MulticastGroup; 2] = [MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];

/// What [`Addresses::ensure`] found or did.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ensured {
    /// It was missing (or was ours on another interface) and has been added.
    Added,
    /// It was there, added by this or an earlier vipd.
    Ours,
    /// It was there, added by somebody else, who keeps it: it will not be removed.
    Foreign,
}

/// An address that vipd added.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct OwnAddress {
    /// The address.
    pub address: IpAddr,
    /// The interface that has it.
    pub interface_index: u32,
}

/// Adds and removes addresses.
#[derive(Clone, Debug)]
pub struct Addresses {
    netlink: Netlink,
}

impl Addresses {
    /// Opens a connection to the kernel, driven by the current Tokio runtime.
    ///
    /// # Errors
    ///
    /// [`NetError::Open`].
    pub async fn open() -> Result<Self, NetError> {
        Ok(Self {
            netlink: Netlink::connect()?,
        })
    }

    /// Makes sure that the host has `address`: adds it as /32 or /128 to the interface with
    /// `interface_index` unless some interface has it already.
    ///
    /// An IPv6 address comes without duplicate address detection (it must work at once, and its
    /// former owner may be alive during a takeover), without a prefix route, and deprecated
    /// (RFC 6724 section 5, rule 3), so that the host never takes it as source on its own account.
    /// Announcing it is the caller's.
    ///
    /// # Errors
    ///
    /// [`NetError::Refused`] if the interface is missing or the right to change it (`CAP_NET_ADMIN`);
    /// [`NetError::NoAddressOwner`] on a kernel before 5.18, with the address taken away again.
    pub async fn ensure(&self, address: IpAddr, interface_index: u32) -> Result<Ensured, NetError> {
        for present in self.present(address).await? {
            if !is_ours(&present) {
                return Ok(Ensured::Foreign);
            }
            if present.header.index == interface_index {
                return Ok(Ensured::Ours);
            }
            self.delete(address, present.header.index).await?;
        }
        let attempt = || format!("add {address} to interface {interface_index}");
        self.netlink
            .add_address(owned_message(address, interface_index))
            .await
            .map_err(|source| NetError::refused(attempt(), source))?;
        let added = self.present(address).await?;
        if added.iter().any(is_ours) {
            return Ok(Ensured::Added);
        }
        self.delete(address, interface_index).await?;
        Err(NetError::NoAddressOwner { address })
    }

    /// Removes `address` if it is ours; tells whether it was.
    ///
    /// # Errors
    ///
    /// [`NetError::Refused`].
    pub async fn remove(&self, address: IpAddr) -> Result<bool, NetError> {
        let mut removed = false;
        for message in self.present(address).await?.iter().filter(|m| is_ours(m)) {
            self.delete(address, message.header.index).await?;
            removed = true;
        }
        Ok(removed)
    }

    /// Returns every address that vipd added, sorted.
    ///
    /// # Errors
    ///
    /// [`NetError::Refused`].
    pub async fn ours(&self) -> Result<Vec<OwnAddress>, NetError> {
        let mut ours: Vec<OwnAddress> = self
            .netlink
            .addresses()
            .await?
            .iter()
            .filter(|message| is_ours(message))
            .filter_map(|message| {
                Some(OwnAddress {
                    address: own_address(message)?,
                    interface_index: message.header.index,
                })
            })
            .collect();
        ours.sort_unstable();
        Ok(ours)
    }

    /// Removes every address that vipd added and returns them; addresses of others stay.
    ///
    /// # Errors
    ///
    /// [`NetError::Refused`]; what was removed before stays removed.
    pub async fn remove_ours(&self) -> Result<Vec<OwnAddress>, NetError> {
        let ours = self.ours().await?;
        for own in &ours {
            self.delete(own.address, own.interface_index).await?;
        }
        Ok(ours)
    }

    async fn present(&self, address: IpAddr) -> Result<Vec<AddressMessage>, NetError> {
        let mut messages = self.netlink.addresses().await?;
        messages.retain(|message| own_address(message) == Some(address));
        Ok(messages)
    }

    /// Removes an address; that it has gone already is no error.
    async fn delete(&self, address: IpAddr, interface_index: u32) -> Result<(), NetError> {
        let message = plain_message(address, interface_index);
        match self.netlink.remove_address(message).await {
            Err(source) if !is_gone(&source) => Err(NetError::refused(
                format!("remove {address} from interface {interface_index}"),
                source,
            )),
            _ => Ok(()),
        }
    }
}

/// Reports each address of `wanted` that the host loses, by whomever it was removed.
///
/// An address is reported once per loss (seldom twice), and also if it is missing when the watch begins or when
/// it enters `wanted`: [`Addresses::ensure`] first, or take the report as the order to do it.
/// The watch ends when the receiver or the sender of `wanted` is dropped.
///
/// # Errors
///
/// [`NetError::Open`].
pub async fn watch(
    wanted: watch::Receiver<BTreeSet<IpAddr>>,
) -> Result<mpsc::Receiver<IpAddr>, NetError> {
    let (events, receiver) = mpsc::channel(EVENT_QUEUE);
    let subscription = Netlink::subscribe(&GROUPS)?;
    tokio::spawn(run(subscription, wanted, events));
    Ok(receiver)
}

async fn run(
    mut subscription: (Netlink, Notifications),
    mut wanted: watch::Receiver<BTreeSet<IpAddr>>,
    events: mpsc::Sender<IpAddr>,
) {
    let mut missing = BTreeSet::new();
    loop {
        let (netlink, notifications) = &mut subscription;
        let watched = wanted.borrow_and_update().clone();
        match netlink.addresses().await {
            Ok(present) => {
                let present: BTreeSet<IpAddr> = present.iter().filter_map(own_address).collect();
                let absent: BTreeSet<IpAddr> = watched.difference(&present).copied().collect();
                for address in absent.difference(&missing) {
                    if events.send(*address).await.is_err() {
                        return;
                    }
                }
                missing = absent;
            }
            Err(error) => tracing::warn!(error = %report(&error), "addresses not readable"),
        }
        tokio::select! {
            () = events.closed() => return,
            changed = wanted.changed() => if changed.is_err() {
                return;
            },
            alive = relevant_change(notifications, &watched, &mut missing) => if !alive {
                subscription = Netlink::resubscribe(&GROUPS).await;
                missing.clear();
            }
        }
    }
}

/// Waits until one of `watched` came or went; false if the socket failed.
///
/// That address leaves `missing`: if it has come and gone between two readings, it was lost once
/// more, and is reported once more.
async fn relevant_change(
    notifications: &mut Notifications,
    watched: &BTreeSet<IpAddr>,
    missing: &mut BTreeSet<IpAddr>,
) -> bool {
    loop {
        match notifications.next().await {
            None => return false,
            Some(Notification::Lost) => {
                missing.clear();
                return true;
            }
            Some(Notification::Message(
                RouteNetlinkMessage::NewAddress(message) | RouteNetlinkMessage::DelAddress(message),
            )) => {
                if let Some(address) = own_address(&message)
                    && watched.contains(&address)
                {
                    missing.remove(&address);
                    return true;
                }
            }
            Some(Notification::Message(_)) => {}
        }
    }
}

fn is_ours(message: &AddressMessage) -> bool {
    message
        .attributes
        .contains(&AddressAttribute::Protocol(AddressProtocol::Other(OWNER)))
}

/// The host's own way of saying that there is nothing to remove.
fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EADDRNOTAVAIL | libc::ENODEV | libc::ENXIO)
    )
}

/// Names an address and nothing else about it.
fn plain_message(address: IpAddr, interface_index: u32) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(address);
    message.header.prefix_len = if address.is_ipv4() { 32 } else { 128 };
    message.header.index = interface_index;
    message.header.scope = AddressScope::Universe;
    message.attributes = vec![
        AddressAttribute::Local(address),
        AddressAttribute::Address(address),
    ];
    message
}

/// Describes an address as vipd adds it.
fn owned_message(address: IpAddr, interface_index: u32) -> AddressMessage {
    let mut message = plain_message(address, interface_index);
    message
        .attributes
        .push(AddressAttribute::Protocol(AddressProtocol::Other(OWNER)));
    if address.is_ipv6() {
        message.attributes.push(AddressAttribute::Flags(
            AddressFlags::Nodad | AddressFlags::Noprefixroute,
        ));
        let mut lifetimes = CacheInfo::default();
        lifetimes.ifa_preferred = 0;
        lifetimes.ifa_valid = u32::MAX; // for ever (RFC 4861 section 4.6.2)
        message
            .attributes
            .push(AddressAttribute::CacheInfo(lifetimes));
    }
    message
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;
    use crate::net::{
        interfaces::Interface,
        testbed::{in_namespace, ip, next},
    };

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    async fn veth() -> Interface {
        ip("link add v0 type veth peer name v1");
        ip("link set v0 up");
        ip("link set v1 up");
        Interface::lookup("v0").await.expect("v0")
    }

    #[test]
    fn a_missing_address_is_added_once_and_removed_again() {
        in_namespace(async || {
            let v0 = veth().await;
            let addresses = Addresses::open().await.expect("netlink");
            for vip in [address("10.20.90.105"), address("fd00::105")] {
                let first = addresses.ensure(vip, v0.index).await.expect("added");
                let second = addresses.ensure(vip, v0.index).await.expect("there");

                assert_eq!((first, second), (Ensured::Added, Ensured::Ours));
                let now = Interface::lookup("v0").await.expect("v0");
                let full = if vip.is_ipv4() { 32 } else { 128 };
                assert!(now.addresses.contains(&(vip, full)), "{now:?}");
                // The address is usable at once: no duplicate address detection holds it back.
                std::net::UdpSocket::bind((vip, 443)).expect("bound to the address");
            }

            let removed = addresses.remove_ours().await.expect("removed");

            let removed: Vec<IpAddr> = removed.iter().map(|own| own.address).collect();
            assert_eq!(removed, [address("10.20.90.105"), address("fd00::105")]);
            assert_eq!(addresses.ours().await.expect("list"), []);
            let now = Interface::lookup("v0").await.expect("v0");
            assert!(!now.addresses.iter().any(|(ip, _)| removed.contains(ip)));
        });
    }

    #[test]
    fn an_address_of_somebody_else_is_left_alone() {
        in_namespace(async || {
            let v0 = veth().await;
            ip("address add 10.20.90.105/24 dev v1");
            let vip = address("10.20.90.105");
            let addresses = Addresses::open().await.expect("netlink");

            assert_eq!(
                addresses.ensure(vip, v0.index).await.expect("there"),
                Ensured::Foreign
            );
            assert!(!addresses.remove(vip).await.expect("nothing of ours"));
            assert_eq!(addresses.remove_ours().await.expect("nothing"), []);
            let v1 = Interface::lookup("v1").await.expect("v1");
            assert!(v1.addresses.contains(&(vip, 24)));
        });
    }

    #[test]
    fn an_address_of_ours_moves_to_the_interface_that_is_asked_for() {
        in_namespace(async || {
            let v0 = veth().await;
            let v1 = Interface::lookup("v1").await.expect("v1");
            let vip = address("10.20.90.105");
            let addresses = Addresses::open().await.expect("netlink");
            addresses.ensure(vip, v0.index).await.expect("added");

            let moved = addresses.ensure(vip, v1.index).await.expect("moved");

            assert_eq!(moved, Ensured::Added);
            assert_eq!(
                addresses.ours().await.expect("list"),
                [OwnAddress {
                    address: vip,
                    interface_index: v1.index
                }]
            );
        });
    }

    #[test]
    fn an_ipv6_vip_is_not_taken_as_source_by_the_host() {
        in_namespace(async || {
            let v0 = veth().await;
            ip("address add fd00::1/64 dev v0 nodad");
            let addresses = Addresses::open().await.expect("netlink");
            // Without deprecation fd00::6:105 would win: more leading bits are those of fd00::6:106.
            addresses
                .ensure(address("fd00::6:105"), v0.index)
                .await
                .expect("added");

            let socket = std::net::UdpSocket::bind("[::]:0").expect("socket");
            socket.connect("[fd00::6:106]:53").expect("a route");

            let source = socket.local_addr().expect("a source").ip();
            assert_eq!(source, address("fd00::1"));
        });
    }

    #[test]
    fn the_loss_of_an_address_is_reported_each_time() {
        in_namespace(async || {
            let v0 = veth().await;
            let vip = address("10.20.90.105");
            let addresses = Addresses::open().await.expect("netlink");
            let (wanted, watched) = watch::channel(BTreeSet::from([vip]));
            let mut losses = watch(watched).await.expect("watch");
            assert_eq!(next(&mut losses).await, vip);
            addresses.ensure(vip, v0.index).await.expect("added");

            ip("address delete 10.20.90.105/32 dev v0");
            assert_eq!(next(&mut losses).await, vip);
            addresses.ensure(vip, v0.index).await.expect("added again");
            ip("link delete v0");
            assert_eq!(next(&mut losses).await, vip);

            drop(wanted);
            assert_eq!(losses.recv().await, None);
        });
    }

    #[test]
    fn a_missing_interface_is_an_error_that_names_the_address() {
        in_namespace(async || {
            let addresses = Addresses::open().await.expect("netlink");

            let error = addresses
                .ensure(address("10.20.90.105"), 4000)
                .await
                .expect_err("no such interface");

            assert!(error.to_string().contains("10.20.90.105"), "{error}");
        });
    }

    #[test]
    fn an_address_that_came_and_went_between_two_readings_is_lost_once_more() {
        in_namespace(async || {
            let vip = address("10.20.90.105");
            let other = address("10.20.90.106");
            let mut missing = BTreeSet::from([vip, other]);
            let mut notifications = Notifications::made_of(vec![Notification::Message(
                RouteNetlinkMessage::NewAddress(owned_message(vip, 1)),
            )]);

            let watched = BTreeSet::from([vip, other]);
            assert!(relevant_change(&mut notifications, &watched, &mut missing).await);
            assert_eq!(missing, BTreeSet::from([other]));
            assert!(!relevant_change(&mut notifications, &watched, &mut missing).await);
        });
    }

    #[test]
    fn only_the_mark_of_vipd_makes_an_address_ours() {
        let ours = owned_message(IpAddr::V4(Ipv4Addr::LOCALHOST), 1);
        assert!(is_ours(&ours));
        let kernels = {
            let mut message = plain_message(IpAddr::V6(Ipv6Addr::LOCALHOST), 1);
            message
                .attributes
                .push(AddressAttribute::Protocol(AddressProtocol::LinkLocal));
            message
        };
        assert!(!is_ours(&kernels));
    }
}
