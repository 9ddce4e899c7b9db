//! Start here: the way of a packet, in order.

use aya_ebpf::{helpers::bpf_ktime_get_coarse_ns, programs::XdpContext};
use lb_common::{flow::Flow, settings::Settings, verdict::DropReason};

use crate::{
    affinity, flow,
    maps::{SCRATCH, SETTINGS},
    packet::Truncated,
    parse::{self, Parsed},
    reply,
    rewrite::{self, Outgoing},
    select, service,
    stats::{self, Direction},
    transmit,
};

/// How a packet leaves the pipeline early.
pub(crate) enum Exit {
    /// It is the host's, untouched.
    Pass,
    /// It is ours, and cannot be forwarded.
    Drop(DropReason),
}

impl Exit {
    /// Returns the exit as a number above zero: a BPF function cannot return more.
    #[inline(always)]
    fn code(&self) -> u32 {
        match self {
            Self::Pass => 1,
            Self::Drop(reason) => 2 + *reason as u32,
        }
    }

    /// Returns the exit with this code as an error; zero is none.
    #[inline(always)]
    fn from_code(code: u32) -> Result<(), Self> {
        match code {
            0 => Ok(()),
            1 => Err(Self::Pass),
            _ => Err(Self::Drop(
                DropReason::from_number(code - 2).unwrap_or(DropReason::Inconsistent),
            )),
        }
    }
}

impl From<DropReason> for Exit {
    #[inline(always)]
    fn from(reason: DropReason) -> Self {
        Self::Drop(reason)
    }
}

impl From<Truncated> for Exit {
    /// A frame that ends inside its headers is the host's until it is known to be ours.
    #[inline(always)]
    fn from(_: Truncated) -> Self {
        Self::Pass
    }
}

/// What the program knows of the node and the moment while it handles a packet.
pub(crate) struct Node {
    /// The settings.
    pub(crate) settings: &'static Settings,
    /// Place of the interface that the packet came in by.
    pub(crate) interface: u8,
    /// Index of that interface.
    pub(crate) interface_index: u32,
    /// Seconds of the monotonic clock.
    pub(crate) now: u32,
}

/// What the program knows of the packet at hand.
pub(crate) struct Scratch {
    /// What it says.
    parsed: Parsed,
    /// What it becomes.
    outgoing: Outgoing,
    /// The flow that it belongs to. Here for its size: the functions of the program that call each
    /// other share 512 bytes of stack, and compilers differ in how much they take.
    known: flow::Known,
    /// The flow that it begins.
    begun: Flow,
}

/// Forwards one packet, or says why not.
#[inline(always)]
pub(crate) fn process(context: &XdpContext) -> Result<u32, Exit> {
    let scratch = SCRATCH.get_ptr_mut(0).ok_or(Exit::Pass)?;
    // SAFETY: the slot belongs to this processor, and XDP programs do not interrupt each other;
    // the types are plain, and each field is written before it is read.
    let Scratch {
        parsed,
        outgoing,
        known,
        begun,
    } = unsafe { &mut *scratch };

    let ports = parse::parse(context, parsed)?;
    let node = node(context, parsed)?;
    if let Err(reason) = ports {
        return Err(if service::is_vip(&parsed.destination) {
            Exit::Drop(reason)
        } else {
            Exit::Pass
        });
    }

    let (service, backend, direction) = if let Some(reply) = reply::find(&node, parsed)? {
        reply::translate(&node, &reply, outgoing)?;
        (reply.service, reply.backend, Direction::Out)
    } else {
        *known = flow::find(&node, parsed);
        let flow = match known.serving() {
            Some(flow) => flow,
            None => {
                Exit::from_code(begin(&node, parsed, known, begun))?;
                begun
            }
        };
        flow::translate(&node, flow, outgoing)?;
        (flow.service, flow.backend, Direction::In)
    };

    rewrite::rewrite(context, parsed, outgoing)?;
    let action = transmit::transmit(context, &node, parsed, outgoing)?;
    stats::count(service, backend, direction, parsed.bytes);
    Ok(action)
}

/// The part of the way that only a flow's first packet goes, and the first one after its backend
/// could not serve it any more: service, affinity or choice, new flow. Returns the code of an
/// [`Exit`], or zero when `begun` is set.
///
/// A function of its own at run time as well, because the stack of one BPF function is small.
#[inline(never)]
fn begin(node: &Node, parsed: &Parsed, known: &flow::Known, begun: &mut Flow) -> u32 {
    let service = match service::find(&parsed.destination, parsed.destination_port) {
        Ok(service) => service,
        Err(exit) => return exit.code(),
    };
    let chosen = match affinity::find(node, parsed, service) {
        Ok(Some(remembered)) => Ok(remembered),
        Ok(None) => select::select(node, parsed, service),
        Err(reason) => Err(reason),
    };
    match chosen.and_then(|chosen| flow::create(node, parsed, service, &chosen, known)) {
        Ok(flow) => {
            *begun = flow;
            0
        }
        Err(reason) => {
            stats::refused(service.id);
            Exit::Drop(reason).code()
        }
    }
}

/// Finds the interface that the packet came in by. A frame for a MAC address that is not the
/// interface's is the host's.
#[inline(always)]
fn node(context: &XdpContext, parsed: &Parsed) -> Result<Node, Exit> {
    let settings = SETTINGS.get(0).ok_or(Exit::Pass)?;
    let index = context.ingress_ifindex() as u32;
    for (place, interface) in settings.interfaces.iter().enumerate() {
        if interface.index == index {
            if mac_number(interface.mac) != mac_number(parsed.destination_mac) {
                return Err(Exit::Pass);
            }
            return Ok(Node {
                settings,
                interface: place as u8,
                interface_index: index,
                now: seconds(),
            });
        }
    }
    Err(Exit::Pass)
}

/// Returns a MAC address as a number: comparing arrays of six bytes calls a function that BPF
/// lacks.
#[inline(always)]
pub(crate) fn mac_number(mac: [u8; 6]) -> u64 {
    u64::from_be_bytes([0, 0, mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]])
}

/// Returns the seconds of the monotonic clock, at the cheap resolution of a timer tick.
#[inline(always)]
fn seconds() -> u32 {
    // SAFETY: the helper takes no argument.
    (unsafe { bpf_ktime_get_coarse_ns() } / 1_000_000_000) as u32
}
