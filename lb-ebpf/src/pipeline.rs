//! Start here: the way of a packet, in order.

use aya_ebpf::{
    bindings::xdp_action,
    helpers::{bpf_jiffies64, bpf_ktime_get_coarse_ns},
    programs::XdpContext,
};
use lb_common::{
    backend::Backend,
    service::Service,
    settings::{Settings, slot},
    verdict::DropReason,
};

use crate::{
    affinity, answer,
    cache::{self, FlowHash},
    epoch::Stamp,
    exact, flow, fragment, guard, icmp,
    link::{Mac, mac},
    maps::{SCRATCH, SETTINGS},
    packet::Truncated,
    parse::{self, Kind, Parsed},
    prefetch,
    record::{self, Place},
    reply,
    rewrite::{self, Outgoing},
    select, service,
    stats::{self, Counted, Direction},
    transmit,
    usual::{self, Translation},
};

/// How a packet leaves the pipeline early.
pub(crate) enum Exit {
    /// It is the host's, untouched.
    Pass,
    /// It is ours, and cannot be forwarded.
    Drop(DropReason),
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
#[derive(Clone, Copy)]
pub(crate) struct Node {
    /// The settings.
    pub(crate) settings: &'static Settings,
    /// Nanoseconds of the monotonic clock, at the resolution of a timer tick.
    pub(crate) now_ns: u64,
    /// Seconds of the same clock.
    pub(crate) now: u32,
    /// Index of the interface that the packet came in by.
    pub(crate) interface_index: u32,
    /// Its place in the settings.
    pub(crate) interface: u8,
}

impl Node {
    /// The same as [`quick`] has found.
    #[inline(always)]
    fn again(context: &XdpContext, scratch: &mut Scratch) -> Result<Self, Exit> {
        let settings = SETTINGS.get(0).ok_or(Exit::Pass)?;
        let (now_ns, now) = scratch.moment.time();
        Ok(Self {
            settings,
            now_ns,
            now,
            interface_index: context.ingress_ifindex() as u32,
            interface: scratch.interface,
        })
    }

    /// Returns how far into the SNAT range a port lies; `None` if it does not.
    #[inline(always)]
    pub(crate) fn snat_offset(&self, port: u16) -> Option<u32> {
        self.settings.snat_offset(port)
    }

    /// Returns the index of a slot's record.
    #[inline(always)]
    pub(crate) fn index(&self, slot: u32, offset: u32) -> u32 {
        slot * u32::from(self.settings.snat_port_count) + offset
    }

    /// Returns the slot that a record lies in.
    #[inline(always)]
    pub(crate) fn slot_of(&self, index: u32) -> u32 {
        slot(index, self.settings.slot_reciprocal)
    }

    /// Returns the SNAT port that a record stands for.
    #[inline(always)]
    pub(crate) fn snat_port(&self, place: &Place) -> u16 {
        let first = u32::from(self.settings.snat_port_first);
        let start = self.index(place.slot, 0);
        first.wrapping_add(place.index.wrapping_sub(start)) as u16
    }
}

/// What the parts of the program that are functions at run time too hand to each other: the stack
/// of a BPF program is small. No pointers: the verifier forgets what they point to.
pub(crate) struct Scratch {
    /// What the packet says.
    pub(crate) parsed: Parsed,
    /// What it becomes.
    pub(crate) outgoing: Outgoing,
    /// The flow that was found or begun.
    found: Found,
    /// The packet that an ICMP error quotes, and what that becomes.
    pub(crate) quoted: [icmp::Quoted; 2],
    /// Place in the settings of the interface that the packet came in by.
    interface: u8,
    moment: Moment,
}

/// What a processor remembers from one packet to the next.
pub(crate) struct Moment {
    /// The timer tick in which the clock was last read, and what it said.
    tick: u64,
    now_ns: u64,
    now: u32,
    /// The timer tick in which a service last refused a client.
    refused: u64,
}

impl Moment {
    /// Returns the monotonic clock in nanoseconds and in seconds, at the cheap resolution of a timer
    /// tick. The kernel is asked once in a tick, and not for each packet: reading the tick's number
    /// is one instruction, asking for the time is a call.
    #[inline(always)]
    pub(crate) fn time(&mut self) -> (u64, u32) {
        // SAFETY: the helper takes no argument.
        let tick = unsafe { bpf_jiffies64() };
        if tick != self.tick {
            self.tick = tick;
            // SAFETY: as above.
            self.now_ns = unsafe { bpf_ktime_get_coarse_ns() };
            self.now = (self.now_ns / 1_000_000_000) as u32;
        }
        (self.now_ns, self.now)
    }

    /// Returns whether a service has refused a client in this timer tick.
    ///
    /// Whom a service does not take comes in large numbers or not at all. While many do, each is
    /// refused before any cache is asked, which would learn nothing from them but cache misses.
    #[inline(always)]
    pub(crate) fn is_refusing(&self) -> bool {
        self.refused == self.tick
    }
}

/// Forwards one packet, or says why not.
///
/// Most packets are known to [`exact`]. Most others belong to flows that the caches know, and need no
/// more than [`quick`]. The parts are functions at run time too, one after the other, so that none
/// has to share the stack with another.
#[inline(always)]
pub(crate) fn process(context: &XdpContext) -> Result<u32, Exit> {
    let scratch = SCRATCH.get_ptr_mut(0).ok_or(Exit::Pass)?;
    // SAFETY: the slot belongs to this processor, and XDP programs do not interrupt each other;
    // the types are plain, and each field is written before it is read.
    let scratch = unsafe { &mut *scratch };
    if let Some(action) = exact::forward_at_once(context, &mut scratch.moment) {
        return Ok(action);
    }
    let mut code = usual(context, scratch);
    if code == code::UNREAD {
        code = quick(context, scratch);
    }
    if code != code::UNDECIDED {
        return code::outcome(code);
    }
    let mut found = code::UNDECIDED;
    if scratch.parsed.has_ports() {
        found = unknown(context, scratch);
    }
    if scratch.parsed.kind != Kind::Datagram {
        found = thorough(context, scratch, found);
    } else if found == code::DONE {
        found = datagram(context, scratch);
    }
    code::outcome(found)
}

/// [`quick`] for usual packets alone, at offsets that the compiler knows; what they become is kept in
/// [`exact`].
#[inline(never)]
fn usual(context: &XdpContext, scratch: &mut Scratch) -> u32 {
    let Some((frame, ip_len)) = usual::read(context) else {
        return code::UNREAD;
    };
    match node(context, usual::destination_mac(frame), scratch) {
        Ok(node) => decided(usual_flow(context, &node, frame, ip_len, scratch)),
        Err(exit) => code::of(Err(exit)),
    }
}

#[inline(always)]
fn usual_flow(
    context: &XdpContext,
    node: &Node,
    frame: &mut usual::Frame,
    ip_len: usize,
    scratch: &mut Scratch,
) -> Result<Option<u32>, Exit> {
    let parsed = &usual::parsed(frame, ip_len);
    let stamp = Stamp::now(node.now);
    if scratch.moment.is_refusing() {
        if node.snat_offset(parsed.destination_port).is_none() {
            serving(stamp, parsed, &mut scratch.moment)?;
        }
        let (index, place) = (node.interface_index, node.interface);
        if let Some(action) = exact::forward(node.settings, index, place, stamp, frame, ip_len) {
            return Ok(Some(action));
        }
    }
    let hash = FlowHash::of(node.settings.seed, parsed);
    let Some((outgoing, counted)) = known_flow(node, parsed, scratch, hash, stamp)? else {
        return Ok(None);
    };
    let Some(translation) = Translation::new(frame, &outgoing) else {
        return forward(context, node, parsed, &outgoing, &counted).map(Some);
    };
    exact::remember(node, parsed, stamp, &translation, &outgoing, &counted);
    translation.apply(frame);
    stats::count(&counted, usual::bytes(ip_len));
    Ok(Some(transmit::send(
        node.interface_index,
        outgoing.interface_index,
    )))
}

/// The way of a packet whose flow the caches know: parse, find, translate, send. Of any other packet
/// it leaves in `scratch` what it has read.
#[inline(never)]
fn quick(context: &XdpContext, scratch: &mut Scratch) -> u32 {
    let read = parse::ethernet(context).and_then(|ethernet| {
        let node = node(context, ethernet.destination_mac, scratch)?;
        let parsed = parse::network(context, &ethernet)?;
        let (stamp, hash) = (
            Stamp::now(node.now),
            FlowHash::of(node.settings.seed, &parsed),
        );
        match known_flow(&node, &parsed, scratch, hash, stamp)? {
            Some((outgoing, counted)) => {
                forward(context, &node, &parsed, &outgoing, &counted).map(Some)
            }
            None => Ok(None),
        }
    });
    decided(read)
}

#[inline(always)]
fn decided(outcome: Result<Option<u32>, Exit>) -> u32 {
    match outcome {
        Ok(Some(action)) => code::of(Ok(action)),
        Ok(None) => code::UNDECIDED,
        Err(exit) => code::of(Err(exit)),
    }
}

/// Returns what the packet becomes if the caches know its flow; else leaves in `scratch` what it is.
#[inline(always)]
fn known_flow(
    node: &Node,
    parsed: &Parsed,
    scratch: &mut Scratch,
    hash: FlowHash,
    stamp: Stamp,
) -> Result<Option<(Outgoing, Counted)>, Exit> {
    if parsed.kind == Kind::Datagram
        && let Some((outgoing, counted)) = known(node, parsed, scratch, hash, stamp)?
    {
        rewrite::may_pass(parsed)?;
        if fits(parsed, &outgoing) {
            return Ok(Some((outgoing, counted)));
        }
    }
    scratch.parsed = *parsed;
    scratch.interface = node.interface;
    Ok(None)
}

/// The rest of the way for whole datagrams that [`unknown`] has found a flow for. A function of its own:
/// code that new flows jump about in is read from memory again and again.
#[inline(never)]
fn datagram(context: &XdpContext, scratch: &mut Scratch) -> u32 {
    let result = Node::again(context, scratch).and_then(|node| {
        let direction = scratch.found.direction;
        let Some(place) = scratch.found.place() else {
            return Err(Exit::Drop(DropReason::Inconsistent));
        };
        if direction == Direction::In {
            cache::remember(&node, &scratch.parsed, place.index);
        }
        scratch.outgoing = translation(&node, &scratch.parsed, &place, direction)?;
        send(context, &node, scratch, &place, direction)
    });
    code::of(result)
}

/// The rest of the way for all but whole datagrams; `found` is what [`unknown`] said of a first piece.
#[inline(never)]
fn thorough(context: &XdpContext, scratch: &mut Scratch, found: u32) -> u32 {
    let result = match scratch.parsed.kind {
        Kind::FirstPiece => first_piece(context, scratch, found),
        Kind::LaterPiece => later_piece(context, scratch),
        Kind::Icmp => return icmp_error(context, scratch),
        Kind::Datagram | Kind::Unusable => Err(if service::is_vip(scratch.parsed.destination) {
            Exit::Drop(scratch.parsed.reason)
        } else {
            Exit::Pass
        }),
    };
    code::of(result)
}

/// ICMP; a function of its own at run time as well, for the stack's sake.
#[inline(never)]
fn icmp_error(context: &XdpContext, scratch: &mut Scratch) -> u32 {
    let result =
        Node::again(context, scratch).and_then(|node| icmp::forward(context, &node, scratch));
    code::of(result)
}

/// The first piece of a datagram goes the way of a whole one, and shows the others theirs.
#[inline(always)]
fn first_piece(context: &XdpContext, scratch: &mut Scratch, found: u32) -> Result<u32, Exit> {
    let node = Node::again(context, scratch)?;
    if found == code::PASS {
        fragment::remember_host(&node, &scratch.parsed);
    }
    code::done(found)?;
    let direction = scratch.found.direction;
    let Some(place) = scratch.found.place() else {
        return Err(Exit::Drop(DropReason::Inconsistent));
    };
    piece(context, &node, scratch, &place, direction, None)
}

/// The other pieces follow the first.
#[inline(always)]
fn later_piece(context: &XdpContext, scratch: &mut Scratch) -> Result<u32, Exit> {
    let node = Node::again(context, scratch)?;
    let followed = fragment::find(&node, &scratch.parsed)?;
    let (place, direction) = (followed.place, followed.direction);
    let identification = Some(followed.identification);
    piece(context, &node, scratch, &place, direction, identification)
}

/// Sends a piece with another identification: that of the first piece, or a new one for the others
/// to follow.
#[inline(always)]
fn piece(
    context: &XdpContext,
    node: &Node,
    scratch: &mut Scratch,
    place: &Place,
    direction: Direction,
    identification: Option<u32>,
) -> Result<u32, Exit> {
    scratch.outgoing = translation(node, &scratch.parsed, place, direction)?;
    let parsed = &scratch.parsed;
    rewrite::may_pass(parsed)?;
    if fits(parsed, &scratch.outgoing) {
        let identification = match identification {
            Some(identification) => identification,
            None => fragment::remember(node, parsed, place, direction),
        };
        fragment::renumber(context, parsed, identification)?;
    }
    send(context, node, scratch, place, direction)
}

/// Sends what `scratch` says, or answers that it is too big. Returns the XDP action.
#[inline(always)]
fn send(
    context: &XdpContext,
    node: &Node,
    scratch: &Scratch,
    place: &Place,
    direction: Direction,
) -> Result<u32, Exit> {
    let (parsed, outgoing) = (&scratch.parsed, &scratch.outgoing);
    rewrite::may_pass(parsed)?;
    if fits(parsed, outgoing) {
        let counted = Counted::of(place, direction);
        return forward(context, node, parsed, outgoing, &counted);
    }
    // RFC 1122 section 3.2.2: no ICMP error answers a piece other than the first.
    if parsed.kind == Kind::LaterPiece && !parsed.v6 {
        return Err(Exit::Drop(DropReason::TooBig));
    }
    code::done(too_big(context, scratch))?;
    stats::drop(context, DropReason::TooBig);
    Ok(xdp_action::XDP_TX)
}

/// A function of its own at run time as well, for the stack's sake.
#[inline(never)]
fn too_big(context: &XdpContext, scratch: &Scratch) -> u32 {
    match answer::too_big(context, &scratch.parsed, scratch.outgoing.mtu) {
        Ok(()) => code::DONE,
        Err(reason) => code::of(Err(Exit::Drop(reason))),
    }
}

/// Rewrites the packet, transmits and counts it. Returns the XDP action.
#[inline(always)]
fn forward(
    context: &XdpContext,
    node: &Node,
    parsed: &Parsed,
    outgoing: &Outgoing,
    counted: &Counted,
) -> Result<u32, Exit> {
    rewrite::rewrite(context, parsed, outgoing)?;
    let action = transmit::transmit(context, node, parsed, outgoing)?;
    stats::count(counted, parsed.bytes());
    Ok(action)
}

/// Returns whether the way out carries the packet.
#[inline(always)]
fn fits(parsed: &Parsed, outgoing: &Outgoing) -> bool {
    outgoing.mtu == 0 || parsed.ip_len <= usize::from(outgoing.mtu)
}

/// Returns what a packet with ports becomes and what it counts for, if the caches lead to its flow, and
/// notes it in the flow's record.
#[inline(always)]
fn known(
    node: &Node,
    parsed: &Parsed,
    scratch: &mut Scratch,
    hash: FlowHash,
    stamp: Stamp,
) -> Result<Option<(Outgoing, Counted)>, Exit> {
    let offset = node.snat_offset(parsed.destination_port);
    if let Some(offset) = offset
        && let Some(slot) =
            cache::find_endpoint(parsed.destination, parsed.source, parsed.source_port)
    {
        let place = reply::at(node, slot, offset)?;
        let outgoing = outwards(node, &place)?;
        return Ok(Some((outgoing, Counted::of(&place, Direction::Out))));
    }
    match serving(stamp, parsed, &mut scratch.moment) {
        Ok(service) => {
            let Some((place, backend)) = flow::cached(node, parsed, hash) else {
                prefetch::record(node, parsed, service);
                return Ok(None);
            };
            let outgoing = inwards(node, parsed, &place, backend)?;
            Ok(Some((outgoing, Counted::of(&place, Direction::In))))
        }
        // No service's packet may still be a reply.
        Err(Exit::Pass) if offset.is_some() => Ok(None),
        Err(exit) => Err(exit),
    }
}

/// Returns what the packet becomes, and notes it in the flow's record.
#[inline(always)]
fn translation(
    node: &Node,
    parsed: &Parsed,
    place: &Place,
    direction: Direction,
) -> Result<Outgoing, DropReason> {
    match direction {
        Direction::In => {
            let backend = flow::backend(place).ok_or(DropReason::Inconsistent)?;
            inwards(node, parsed, place, backend)
        }
        Direction::Out => outwards(node, place),
    }
}

/// [`translation`] of a client's packet.
#[inline(always)]
fn inwards(
    node: &Node,
    parsed: &Parsed,
    place: &Place,
    backend: &Backend,
) -> Result<Outgoing, DropReason> {
    record::touch(node, parsed, place);
    flow::translate(node, place, backend)
}

/// [`translation`] of a backend's packet.
#[inline(always)]
fn outwards(node: &Node, place: &Place) -> Result<Outgoing, DropReason> {
    record::touch_reply(node, place);
    reply::translate(node, place)
}

/// A flow, as it stands in [`Scratch`].
#[derive(Clone, Copy)]
struct Found {
    word: u64,
    index: u32,
    slot: u32,
    direction: Direction,
}

impl Found {
    #[inline(always)]
    fn place(&self) -> Option<Place> {
        Place::at(self.index, self.slot, self.word)
    }
}

/// Looks the flow of a packet with ports up in the tables, or begins it, and sets `scratch.found`.
#[inline(never)]
fn unknown(context: &XdpContext, scratch: &mut Scratch) -> u32 {
    let Ok(node) = Node::again(context, scratch) else {
        return code::PASS;
    };
    match find_or_begin(&node, scratch) {
        Ok((place, direction)) => {
            scratch.found = Found {
                word: place.word,
                index: place.index,
                slot: place.slot,
                direction,
            };
            code::DONE
        }
        Err(exit) => code::of(Err(exit)),
    }
}

/// A reply's record; or service, lists of clients and the flow table; or, for a flow's first packet
/// and the first one after its backend could not serve it any more: limits, affinity or choice, new
/// flow.
#[inline(always)]
fn find_or_begin(node: &Node, scratch: &mut Scratch) -> Result<(Place, Direction), Exit> {
    let parsed = &scratch.parsed;
    if let Some(place) = reply::find(node, parsed)? {
        return Ok((place, Direction::Out));
    }
    let stamp = Stamp::now(node.now);
    let service = serving(stamp, parsed, &mut scratch.moment)?;
    let refused = |reason| {
        stats::refused(service.id);
        Exit::Drop(reason)
    };
    let known = flow::find(node, parsed);
    if let Some(place) = known.place() {
        if flow::serves(&place) {
            return Ok((place, Direction::In));
        }
    } else {
        guard::limit(node, parsed, service).map_err(refused)?;
    }
    let chosen = match affinity::find(node, parsed, service).map_err(refused)? {
        Some(remembered) => remembered,
        None => select::select(parsed, service).map_err(refused)?,
    };
    let place = flow::create(node, parsed, service, &chosen, &known).map_err(refused)?;
    Ok((place, Direction::In))
}

/// Returns the packet's service, if that takes the client.
#[inline(always)]
fn serving(stamp: Stamp, parsed: &Parsed, moment: &mut Moment) -> Result<&'static Service, Exit> {
    let service = service::find_copied(stamp, parsed.destination, parsed.destination_port)?;
    guard::admit(parsed, service).map_err(|reason| {
        moment.refused = moment.tick;
        stats::refused(service.id);
        Exit::Drop(reason)
    })?;
    Ok(service)
}

/// Finds the interface that the packet came in by.
#[inline(always)]
fn node(context: &XdpContext, destination: Mac, scratch: &mut Scratch) -> Result<Node, Exit> {
    let settings = SETTINGS.get(0).ok_or(Exit::Pass)?;
    let interface_index = context.ingress_ifindex() as u32;
    let interface = interface(settings, interface_index, destination)?;
    let (now_ns, now) = scratch.moment.time();
    Ok(Node {
        settings,
        now_ns,
        now,
        interface_index,
        interface,
    })
}

/// Returns the place in the settings of the interface with this index. A frame for a MAC address that
/// is not the interface's is the host's.
#[inline(always)]
pub(crate) fn interface(settings: &Settings, index: u32, destination: Mac) -> Result<u8, Exit> {
    for (place, interface) in settings.interfaces.iter().enumerate() {
        if interface.index == index {
            if mac(&interface.mac) != destination {
                return Err(Exit::Pass);
            }
            return Ok(place as u8);
        }
    }
    Err(Exit::Pass)
}

/// Outcomes as numbers: a BPF function cannot return more.
mod code {
    use lb_common::verdict::DropReason;

    use super::Exit;

    /// Neither an action nor an exit.
    pub(super) const UNDECIDED: u32 = 0;
    /// The packet has not even been read.
    pub(super) const UNREAD: u32 = 1;
    /// What was to be done is done.
    pub(super) const DONE: u32 = 2;
    /// [`Exit::Pass`].
    pub(super) const PASS: u32 = 3;
    const DROP: u32 = 4;
    /// Added to an XDP action.
    const ACTION: u32 = 0x1000;

    /// Returns the code of an action or an exit.
    #[inline(always)]
    pub(super) fn of(outcome: Result<u32, Exit>) -> u32 {
        match outcome {
            Ok(action) => ACTION + action,
            Err(Exit::Pass) => PASS,
            Err(Exit::Drop(reason)) => DROP + reason as u32,
        }
    }

    /// Returns what a code stands for.
    #[inline(always)]
    pub(super) fn outcome(code: u32) -> Result<u32, Exit> {
        if code >= ACTION {
            return Ok(code - ACTION);
        }
        done(code)?;
        Err(Exit::Pass)
    }

    /// Returns the exit that a code stands for, as an error.
    #[inline(always)]
    pub(super) fn done(code: u32) -> Result<(), Exit> {
        match code {
            UNDECIDED | UNREAD | DONE => Ok(()),
            PASS => Err(Exit::Pass),
            _ => Err(Exit::Drop(
                DropReason::from_number(code - DROP).unwrap_or(DropReason::Inconsistent),
            )),
        }
    }
}
