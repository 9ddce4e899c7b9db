//! What an observation of the kernel's tables means for a destination, and what to do next. Pure:
//! time and randomness come in as arguments.

use std::{net::IpAddr, time::Duration};

use netlink_packet_route::neighbour::NeighbourState;
use tokio::time::Instant;

use super::{NextHop, Unresolved};

/// How long a neighbour may be in question before its former state no longer stands. The kernel
/// itself gives up after three questions, one second apart (arp(7), `mcast_solicit`).
const PENDING_LIMIT: Duration = Duration::from_secs(4);
/// Pause between two rounds of questions to a neighbour that does not answer.
const RESOLVE_SPACING: Duration = Duration::from_secs(5);
/// Pause between two looks at a neighbour in question, and between two questions of our own. The
/// kernel ignores an answer with another MAC within one second of the last (arp(7), `locktime`).
const QUESTION_SPACING: Duration = Duration::from_millis(1100);
/// Pause between two looks at a neighbour that is well: only a notification that was missed shows.
const QUIET_SPACING: Duration = Duration::from_secs(30);
/// Pause between two looks at a route that leads nowhere.
const NO_WAY_SPACING: Duration = Duration::from_secs(5);
/// Questions of our own after a nudge: the second in case the first fell into `locktime`.
const NUDGE_QUESTIONS: u8 = 2;

/// The kernel's tables, as far as they concern one destination.
#[derive(Clone, Debug)]
pub(super) struct Observation {
    /// Where the kernel would send to.
    pub(super) route: Result<Route, NoWay>,
    /// The interface of the destination's last route, if the kernel has no route at present.
    pub(super) former_link: Option<Link>,
}

/// A route with what is known of the neighbour at its end.
#[derive(Clone, Debug)]
pub(super) struct Route {
    pub(super) link: Link,
    pub(super) via: Option<IpAddr>,
    pub(super) source: Option<IpAddr>,
    /// The address whose MAC is needed: the gateway's, else the destination's.
    pub(super) neighbour: IpAddr,
    pub(super) state: NeighbourState,
    pub(super) mac: Option<[u8; 6]>,
}

/// Why the kernel would not send.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum NoWay {
    NoRoute,
    OwnAddress,
    Forbidden(&'static str),
}

/// The interface of a route.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) up: bool,
    /// `None` unless it is Ethernet.
    pub(super) mac: Option<[u8; 6]>,
}

/// What to do about a neighbour.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Step {
    /// Have the kernel find its MAC.
    Resolve,
    /// Have the kernel ask it, by unicast, whether it is still there.
    Verify,
    /// Ask for it by broadcast without touching the kernel's entry, which takes the answer over.
    Ask,
}

/// What is known of one destination.
#[derive(Debug)]
pub(super) struct Tracked {
    destination: IpAddr,
    reported: Option<Result<NextHop, Unresolved>>,
    next_look: Instant,
    /// Interface and address of the neighbour that was looked at last.
    neighbour: Option<(u32, IpAddr)>,
    pending_since: Option<Instant>,
    probing_since: Option<Instant>,
    last_resolve: Option<Instant>,
    last_question: Option<Instant>,
    questions_due: u8,
}

impl Tracked {
    pub(super) fn new(destination: IpAddr, now: Instant) -> Self {
        Self {
            destination,
            reported: None,
            next_look: now,
            neighbour: None,
            pending_since: None,
            probing_since: None,
            last_resolve: None,
            last_question: None,
            questions_due: 0,
        }
    }

    /// Returns the destination's address.
    pub(super) fn destination(&self) -> IpAddr {
        self.destination
    }

    /// Returns when the destination is to be looked at again.
    pub(super) fn next_look(&self) -> Instant {
        self.next_look
    }

    /// Returns the interface that the destination was last reached by.
    pub(super) fn last_interface(&self) -> Option<u32> {
        self.neighbour.map(|(index, _)| index)
    }

    /// Tells whether the destination is reached through this neighbour.
    pub(super) fn depends_on(&self, interface_index: u32, address: IpAddr) -> bool {
        self.neighbour == Some((interface_index, address))
    }

    /// Has the destination looked at no later than `when`.
    pub(super) fn look_again(&mut self, when: Instant) {
        self.next_look = self.next_look.min(when);
    }

    /// Has the destination left alone until `when`.
    pub(super) fn look_later(&mut self, when: Instant) {
        self.next_look = when;
    }

    /// Takes the hint that the destination does not answer.
    pub(super) fn nudge(&mut self, now: Instant) {
        self.questions_due = NUDGE_QUESTIONS;
        self.last_resolve = None;
        self.look_again(now);
    }

    /// Takes an observation in; returns what to report, if it is news, and what to do.
    pub(super) fn observed(
        &mut self,
        now: Instant,
        observation: &Observation,
        jitter: u64,
    ) -> (Option<Result<NextHop, Unresolved>>, Option<Step>) {
        let route = usable(observation);
        if let Some(route) = route {
            self.turn_to((route.link.index, route.neighbour));
        }
        let verdict = self.settle(now, assess(self.destination, observation));
        let news = verdict.filter(|verdict| self.reported.as_ref() != Some(verdict));
        if let Some(verdict) = &news {
            self.reported = Some(verdict.clone());
        }

        let (step, pause) = match route {
            Some(route) => self.care(now, route.state),
            None => {
                self.last_resolve = None;
                (None, NO_WAY_SPACING)
            }
        };
        self.next_look = now + jittered(pause, jitter);
        (news, step)
    }

    /// Another neighbour starts afresh: what was asked of the former one does not hold it up.
    fn turn_to(&mut self, neighbour: (u32, IpAddr)) {
        if self.neighbour.replace(neighbour) != Some(neighbour) {
            self.pending_since = None;
            self.last_resolve = None;
        }
    }

    /// A neighbour in question gets some time, in which what was reported stands.
    fn settle(
        &mut self,
        now: Instant,
        assessment: Assessment,
    ) -> Option<Result<NextHop, Unresolved>> {
        match assessment {
            Assessment::Certain(result) => {
                self.pending_since = None;
                Some(result)
            }
            Assessment::Pending(reason) => {
                let since = *self.pending_since.get_or_insert(now);
                (now >= since + PENDING_LIMIT).then_some(Err(reason))
            }
        }
    }

    /// Decides what a neighbour in `state` needs, and when to look again.
    fn care(&mut self, now: Instant, state: NeighbourState) -> (Option<Step>, Duration) {
        if state == NeighbourState::Probe {
            self.probing_since.get_or_insert(now);
        } else {
            self.probing_since = None;
        }
        match state {
            NeighbourState::None | NeighbourState::Failed => {
                self.questions_due = 0;
                let spacing = if state == NeighbourState::Failed {
                    RESOLVE_SPACING
                } else {
                    QUESTION_SPACING
                };
                if !passed(self.last_resolve, spacing, now) {
                    return (None, spacing);
                }
                self.last_resolve = Some(now);
                return (Some(Step::Resolve), QUESTION_SPACING);
            }
            NeighbourState::Incomplete => return (None, QUESTION_SPACING),
            // It has answered: should it fall silent, it is asked for again at once.
            _ => self.last_resolve = None,
        }
        match state {
            _ if self.questions_due > 0 => {
                if !passed(self.last_question, QUESTION_SPACING, now) {
                    return (None, QUESTION_SPACING);
                }
                self.questions_due -= 1;
                self.last_question = Some(now);
                (Some(Step::Ask), QUESTION_SPACING)
            }
            NeighbourState::Stale => (Some(Step::Verify), QUESTION_SPACING),
            // The unicast question goes to the MAC that is known: a second without an answer may
            // mean that it is another one now.
            NeighbourState::Probe
                if passed(self.probing_since, QUESTION_SPACING, now)
                    && passed(self.last_question, QUESTION_SPACING, now) =>
            {
                self.last_question = Some(now);
                (Some(Step::Ask), QUESTION_SPACING)
            }
            NeighbourState::Probe | NeighbourState::Delay => (None, QUESTION_SPACING),
            _ => (None, QUIET_SPACING),
        }
    }
}

/// What an observation says by itself.
#[derive(Debug, Eq, PartialEq)]
enum Assessment {
    Certain(Result<NextHop, Unresolved>),
    /// The kernel does not know yet; the reason holds if that lasts.
    Pending(Unresolved),
}

fn assess(destination: IpAddr, observation: &Observation) -> Assessment {
    let route = match &observation.route {
        Ok(route) => route,
        Err(no_way) => {
            return Assessment::Certain(Err(match (no_way, &observation.former_link) {
                (NoWay::NoRoute, Some(link)) if !link.up => interface_down(link),
                (NoWay::NoRoute, _) => Unresolved::NoRoute { destination },
                (NoWay::OwnAddress, _) => Unresolved::OwnAddress { destination },
                (NoWay::Forbidden(kind), _) => Unresolved::Forbidden { destination, kind },
            }));
        }
    };
    if !route.link.up {
        return Assessment::Certain(Err(interface_down(&route.link)));
    }
    let interface = route.link.name.clone();
    if route.link.mac.is_none() {
        return Assessment::Certain(Err(Unresolved::NotEthernet {
            destination,
            interface,
        }));
    }
    let Some(source) = route.source else {
        return Assessment::Certain(Err(Unresolved::NoSource {
            destination,
            interface,
        }));
    };
    match (route.state, route.mac) {
        (NeighbourState::None | NeighbourState::Incomplete, _) => {
            Assessment::Pending(no_answer(destination, route))
        }
        (NeighbourState::Failed, _) | (_, None) => {
            Assessment::Certain(Err(no_answer(destination, route)))
        }
        (_, Some(mac)) => Assessment::Certain(Ok(NextHop {
            interface_index: route.link.index,
            mac,
            source,
            via: route.via,
        })),
    }
}

/// The route of an observation, if its neighbour is worth asking for.
fn usable(observation: &Observation) -> Option<&Route> {
    let route = observation.route.as_ref().ok()?;
    (route.link.up && route.link.mac.is_some()).then_some(route)
}

fn interface_down(link: &Link) -> Unresolved {
    Unresolved::InterfaceDown {
        interface: link.name.clone(),
    }
}

fn no_answer(destination: IpAddr, route: &Route) -> Unresolved {
    let interface = route.link.name.clone();
    match route.via {
        None => Unresolved::NoAnswer {
            silent: destination,
            interface,
        },
        Some(silent) => Unresolved::NoAnswerFromGateway {
            silent,
            destination,
            interface,
        },
    }
}

/// Tells whether `spacing` has passed since `last`; true if there was none.
fn passed(last: Option<Instant>, spacing: Duration, now: Instant) -> bool {
    last.is_none_or(|last| now >= last + spacing)
}

/// Lengthens a pause by up to a quarter, so that destinations are not all asked at once.
fn jittered(pause: Duration, jitter: u64) -> Duration {
    let share = (jitter % 1024) as u32;
    pause + pause * share / 4096
}

#[cfg(test)]
mod tests;
