//! Connections to the kernel's routing netlink (RFC 3549) and the few requests made over them.
//!
//! Notifications are used as hints only: whoever gets one reads the present state again. So a
//! notification that is lost, late or out of order can delay a reaction, never falsify it.

use std::{io, net::IpAddr, pin::Pin, time::Duration};

use futures_util::{FutureExt, Stream, StreamExt, TryStreamExt};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::AddressMessage,
    link::LinkMessage,
    neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
    route::{RouteAttribute, RouteMessage},
};
use rtnetlink::{
    Handle, MulticastGroup,
    packet_core::{
        NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
    },
};

/// Pause before a failed netlink socket is opened again.
const REOPEN_AFTER: Duration = Duration::from_secs(1);

/// Why something about the host's network could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// No netlink socket could be had.
    #[error("cannot open a netlink socket")]
    Open(#[source] io::Error),
    /// The kernel refused a request.
    #[error("cannot {attempt}")]
    Refused {
        /// What was tried, as it follows "cannot".
        attempt: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A name of the configuration is no interface of this host.
    #[error(
        "no interface is called {name}; this host has {present}: correct the name or make the interface"
    )]
    NoSuchInterface {
        /// The name that was asked for.
        name: String,
        /// The names that exist, parted by commas.
        present: String,
    },
    /// The kernel is too old to remember who added an address.
    #[error(
        "the kernel does not remember that {address} was added by vipd; \
         use Linux 5.18 or newer, or add the address yourself and set manage = false"
    )]
    NoAddressOwner {
        /// The address, which has been taken away again.
        address: IpAddr,
    },
}

impl NetError {
    /// Wraps the kernel's refusal of `attempt` (a phrase that follows "cannot").
    pub(super) fn refused(attempt: impl Into<String>, source: io::Error) -> Self {
        Self::Refused {
            attempt: attempt.into(),
            source,
        }
    }
}

/// What a subscription delivers.
#[derive(Debug)]
pub(super) enum Notification {
    /// Something changed.
    Message(RouteNetlinkMessage),
    /// The kernel dropped notifications because they were not read fast enough.
    Lost,
}

/// Notifications in the order in which the kernel sent them; ends when the socket fails.
pub(super) struct Notifications(Pin<Box<dyn Stream<Item = Notification> + Send>>);

impl Notifications {
    /// Waits for the next notification; `None` if the socket has failed. Safe to cancel.
    pub(super) async fn next(&mut self) -> Option<Notification> {
        self.0.next().await
    }

    /// Delivers what `notifications` yields instead of what a kernel says.
    #[cfg(test)]
    pub(super) fn made_of(notifications: Vec<Notification>) -> Self {
        Self(Box::pin(futures_util::stream::iter(notifications)))
    }

    /// Returns the next notification if one is waiting already.
    pub(super) fn waiting(&mut self) -> Option<Notification> {
        self.0.next().now_or_never().flatten()
    }
}

/// A connection to the kernel in the network namespace of the thread that opened it.
#[derive(Clone, Debug)]
pub(super) struct Netlink {
    handle: Handle,
}

impl Netlink {
    /// Opens a connection for requests. Must be called inside a Tokio runtime, which then drives it.
    pub(super) fn connect() -> Result<Self, NetError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(NetError::Open)?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// Opens a connection that also delivers the notifications of `groups`.
    pub(super) fn subscribe(groups: &[MulticastGroup]) -> Result<(Self, Notifications), NetError> {
        let (connection, handle, messages) =
            rtnetlink::new_multicast_connection(groups).map_err(NetError::Open)?;
        tokio::spawn(connection);
        let notifications = messages.filter_map(|(message, _)| {
            std::future::ready(match message.payload {
                NetlinkPayload::InnerMessage(inner) => Some(Notification::Message(inner)),
                NetlinkPayload::Overrun(_) => Some(Notification::Lost),
                _ => None,
            })
        });
        Ok((Self { handle }, Notifications(Box::pin(notifications))))
    }

    /// Subscribes again after the socket failed, once a second until it works.
    pub(super) async fn resubscribe(groups: &[MulticastGroup]) -> (Self, Notifications) {
        tracing::warn!("netlink socket failed; opening it again");
        loop {
            tokio::time::sleep(REOPEN_AFTER).await;
            match Self::subscribe(groups) {
                Ok(subscription) => return subscription,
                Err(error) => {
                    tracing::error!(error = %report(&error), "the network is not watched");
                }
            }
        }
    }

    /// Returns the interface called `name`, `None` if there is none.
    pub(super) async fn link_by_name(&self, name: &str) -> Result<Option<LinkMessage>, NetError> {
        let request = self.handle.link().get().match_name(name.to_owned());
        absent_as_none(request.execute().try_next().await)
            .map_err(|source| NetError::refused(format!("read interface {name}"), source))
    }

    /// Returns the interface with `index`, `None` if there is none.
    pub(super) async fn link_by_index(&self, index: u32) -> Result<Option<LinkMessage>, NetError> {
        let request = self.handle.link().get().match_index(index);
        absent_as_none(request.execute().try_next().await)
            .map_err(|source| NetError::refused(format!("read interface {index}"), source))
    }

    /// Returns every interface.
    pub(super) async fn links(&self) -> Result<Vec<LinkMessage>, NetError> {
        self.handle
            .link()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(|error| NetError::refused("list the interfaces", as_io(error)))
    }

    /// Returns every address of every interface.
    pub(super) async fn addresses(&self) -> Result<Vec<AddressMessage>, NetError> {
        self.handle
            .address()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(|error| NetError::refused("list the addresses", as_io(error)))
    }

    /// Adds the address that `message` describes; the kernel's error if it refuses.
    pub(super) async fn add_address(&self, message: AddressMessage) -> io::Result<()> {
        let mut request = self.handle.address().add(0, IpAddr::from([0, 0, 0, 0]), 32);
        *request.message_mut() = message;
        request.execute().await.map_err(as_io)
    }

    /// Removes the address that `message` describes; the kernel's error if it refuses.
    pub(super) async fn remove_address(&self, message: AddressMessage) -> io::Result<()> {
        self.handle
            .address()
            .del(message)
            .execute()
            .await
            .map_err(as_io)
    }

    /// Asks the kernel which way it sends packets to `destination` (`ip route get`).
    pub(super) async fn route_to(&self, destination: IpAddr) -> io::Result<RouteMessage> {
        let mut message = RouteMessage::default();
        message.header.address_family = family(destination);
        message.header.destination_prefix_length = if destination.is_ipv4() { 32 } else { 128 };
        message
            .attributes
            .push(RouteAttribute::Destination(destination.into()));
        self.handle
            .route()
            .get(message)
            .execute()
            .try_next()
            .await
            .map_err(as_io)?
            .ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))
    }

    /// Returns the neighbour entry of `address` on an interface, `None` if there is none.
    pub(super) async fn neighbour(
        &self,
        interface_index: u32,
        address: IpAddr,
    ) -> Result<Option<NeighbourMessage>, NetError> {
        let request =
            RouteNetlinkMessage::GetNeighbour(neighbour_message(interface_index, address));
        absent_as_none(self.request(request, NLM_F_REQUEST).await)
            .map(|answer| match answer {
                Some(RouteNetlinkMessage::NewNeighbour(entry)) => Some(entry),
                _ => None,
            })
            .map_err(|source| NetError::refused(format!("read the neighbour {address}"), source))
    }

    /// Has the kernel resolve `address` if it does not know it (`NTF_USE`, `neighbour.h`).
    pub(super) async fn resolve_neighbour(
        &self,
        interface_index: u32,
        address: IpAddr,
    ) -> io::Result<()> {
        let mut message = neighbour_message(interface_index, address);
        message.header.flags = NeighbourFlags::Use;
        self.request(
            RouteNetlinkMessage::NewNeighbour(message),
            NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE,
        )
        .await
        .map(drop)
        .map_err(as_io)
    }

    /// Has the kernel ask the known neighbour `address` at once whether it is still there
    /// (state PROBE, RFC 4861 section 7.3.2; the entry stays usable meanwhile).
    pub(super) async fn verify_neighbour(
        &self,
        interface_index: u32,
        address: IpAddr,
    ) -> io::Result<()> {
        let mut message = neighbour_message(interface_index, address);
        message.header.state = NeighbourState::Probe;
        self.request(
            RouteNetlinkMessage::NewNeighbour(message),
            NLM_F_REQUEST | NLM_F_ACK | NLM_F_REPLACE,
        )
        .await
        .map(drop)
        .map_err(as_io)
    }

    /// Sends one request and returns the first message of its answer, if it has one.
    async fn request(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Option<RouteNetlinkMessage>, rtnetlink::Error> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = flags;
        let mut answer = self.handle.clone().request(request)?;
        match answer.next().await.map(|message| message.payload) {
            Some(NetlinkPayload::InnerMessage(inner)) => Ok(Some(inner)),
            Some(NetlinkPayload::Error(error)) => Err(rtnetlink::Error::NetlinkError(error)),
            _ => Ok(None),
        }
    }
}

fn neighbour_message(interface_index: u32, address: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(address);
    message.header.ifindex = interface_index;
    message
        .attributes
        .push(NeighbourAttribute::Destination(address.into()));
    message
}

/// Returns the address family that netlink messages about `address` carry.
pub(super) fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

/// "No such entry" and "no such device" are answers, not faults.
fn absent_as_none<T>(answer: Result<Option<T>, rtnetlink::Error>) -> io::Result<Option<T>> {
    match answer.map_err(as_io) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) => Ok(None),
        other => other,
    }
}

fn as_io(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other.to_string()),
    }
}

/// Returns an error with its causes on one line, for a log field.
pub(super) fn report(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text.push_str(": ");
        text.push_str(&source.to_string());
        cause = source.source();
    }
    text
}
