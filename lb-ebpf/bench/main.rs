//! The programs that vipd is measured with and against: a generator of packets, and baselines.
//!
//! A program that rewrites packets cannot simply be run again on its own output. So [`generate`]
//! writes a packet's headers afresh each time and hands it to the program under measurement by a
//! tail call; the daemon's own program and the baselines are measured behind the same generator.
#![no_std]
#![no_main]

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, xdp_action},
    btf_maps::{Array, HashMap, ProgramArray},
    helpers::bpf_redirect,
    macros::{btf_map, xdp},
    programs::XdpContext,
};
use lb_common::{
    flow::{Flow, FlowKey},
    measure::{FRAME_BYTES, Generator, MAX_MEASURED_FLOWS},
};

/// What to generate. Written by the benchmark.
#[btf_map(name = "generator")]
static GENERATOR: Array<Generator, 1> = Array::new();

/// Which flow each packet belongs to, in the order of generation.
#[btf_map(name = "order")]
static ORDER: Array<u32, { MAX_MEASURED_FLOWS as usize }, { BPF_F_MMAPABLE as usize }> =
    Array::new();

/// The program under measurement, at index 0.
#[btf_map(name = "target")]
static TARGET: ProgramArray<1> = ProgramArray::new();

/// A table of the same key and size as `flows`.
#[btf_map(name = "table")]
static TABLE: HashMap<FlowKey, Flow, { MAX_MEASURED_FLOWS as usize }> = HashMap::new();

/// Flag of `bpf_map_update_elem`.
const BPF_NOEXIST: u64 = 1;

/// The headers of a generated packet: Ethernet, IPv4 without options, UDP.
type Frame = [u8; FRAME_BYTES];

/// Writes the next packet and hands it to the program under measurement, or sends it out of an
/// interface.
#[xdp(frags)]
fn generate(context: XdpContext) -> u32 {
    let Some(generator) = GENERATOR.get_ptr_mut(0) else {
        return xdp_action::XDP_ABORTED;
    };
    // SAFETY: one benchmark runs this at a time.
    let generator = unsafe { &mut *generator };
    let start = context.data();
    if start + FRAME_BYTES > context.data_end() {
        return xdp_action::XDP_ABORTED;
    }
    let position = generator.position;
    generator.position = if position + 1 < generator.count {
        position + 1
    } else {
        0
    };
    let Some(&number) = ORDER.get(position) else {
        return xdp_action::XDP_ABORTED;
    };
    // SAFETY: the frame is long enough, as compared above.
    let frame = unsafe { &mut *(start as *mut Frame) };
    copy::<u64>(frame, generator, 0);
    copy::<u32>(frame, generator, 8);
    copy::<u64>(frame, generator, 12);
    copy::<u32>(frame, generator, 20);
    copy::<u16>(frame, generator, 38);
    let (source, ports) = if generator.replies != 0 {
        let all = generator.ports.max(1);
        let (slot, port) = (number / all, generator.first_port + number % all);
        let backend = base_address(generator).wrapping_add(slot);
        (backend, [base_port(generator, 34), port as u16])
    } else {
        let client = base_address(generator).wrapping_add(number);
        let port = 1024 + (number as u16 & 0x7fff);
        (client, [port, base_port(generator, 36)])
    };
    let destination = u32::from_ne_bytes(part(&generator.frame, 30));
    let addresses = u64::from(source.to_be()) | u64::from(destination) << 32;
    store(frame, 26, addresses);
    let [from, to] = ports.map(|port| u32::from(port.to_be()));
    store(frame, 34, from | to << 16);
    let address = (source >> 16) + (source & 0xffff);
    let sum = generator.ip_sum + address;
    store(frame, 24, folded(sum).to_be());
    let sum = generator.udp_sum + address + u32::from(ports[0]) + u32::from(ports[1]);
    store(frame, 40, folded(sum).to_be());
    if generator.interface != 0 {
        // SAFETY: the helper takes numbers only.
        return unsafe { bpf_redirect(generator.interface, 0) } as u32;
    }
    // SAFETY: on success control never comes back.
    unsafe { TARGET.tail_call(&context, 0) };
    xdp_action::XDP_ABORTED
}

// A processor hands what was just stored to a load only if one store holds all of it. So the frame is
// written in the pieces that programs read; otherwise each of their loads would wait for every store
// before it.

/// Copies a piece of the frame from the generator.
#[inline(always)]
fn copy<T: Copy>(frame: &mut Frame, generator: &Generator, at: usize) {
    const { assert!(size_of::<T>() <= 8) };
    // SAFETY: every piece lies inside the frame, which is plain bytes.
    let piece = unsafe {
        generator
            .frame
            .as_ptr()
            .add(at)
            .cast::<T>()
            .read_unaligned()
    };
    store(frame, at, piece);
}

/// Writes a piece of the frame.
#[inline(always)]
fn store<T>(frame: &mut Frame, at: usize, piece: T) {
    // SAFETY: as in `copy`.
    unsafe {
        frame
            .as_mut_ptr()
            .add(at)
            .cast::<T>()
            .write_unaligned(piece)
    };
}

/// Returns the source address of the generator's frame.
#[inline(always)]
fn base_address(generator: &Generator) -> u32 {
    u32::from_be_bytes(part(&generator.frame, 26))
}

/// Returns a port of the generator's frame.
#[inline(always)]
fn base_port(generator: &Generator, at: usize) -> u16 {
    u16::from_be_bytes([generator.frame[at], generator.frame[at + 1]])
}

/// Returns four bytes of a frame.
#[inline(always)]
fn part(frame: &Frame, at: usize) -> [u8; 4] {
    [frame[at], frame[at + 1], frame[at + 2], frame[at + 3]]
}

/// Returns the checksum of a sum of words (RFC 1071).
#[inline(always)]
fn folded(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    !(sum as u16)
}

/// The floor: the frame goes back where it came from.
#[xdp(frags)]
fn reflect(context: XdpContext) -> u32 {
    let start = context.data();
    if start + FRAME_BYTES > context.data_end() {
        return xdp_action::XDP_PASS;
    }
    // SAFETY: the frame is long enough, as compared above.
    send_back(unsafe { &mut *(start as *mut Frame) })
}

/// The floor of a dropped packet.
#[xdp(frags)]
fn discard(_context: XdpContext) -> u32 {
    xdp_action::XDP_DROP
}

/// Passes every frame: the far end of a veth pair needs a program for native XDP to reach it.
#[xdp(frags)]
fn pass(_context: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

/// A bare lookup in a table of the same key and size as `flows`, and the frame goes back.
#[xdp(frags)]
fn lookup(context: XdpContext) -> u32 {
    on_table(&context, |key| {
        // SAFETY: nobody changes the table meanwhile.
        unsafe { TABLE.get(key) }.is_some()
    })
}

/// A bare insertion into the same table, and the frame goes back.
#[xdp(frags)]
fn insert(context: XdpContext) -> u32 {
    on_table(&context, |key| {
        TABLE.insert(key, &Flow::NONE, BPF_NOEXIST).is_ok()
    })
}

/// Does something with the flow's key in the table, and sends the frame back if that succeeds.
#[inline(always)]
fn on_table(context: &XdpContext, work: impl FnOnce(&FlowKey) -> bool) -> u32 {
    let start = context.data();
    if start + FRAME_BYTES > context.data_end() {
        return xdp_action::XDP_PASS;
    }
    // SAFETY: the frame is long enough, as compared above.
    let frame = unsafe { &mut *(start as *mut Frame) };
    if frame[12] != 8 || frame[13] != 0 || frame[14] != 0x45 || frame[23] != 17 {
        return xdp_action::XDP_PASS;
    }
    let key = FlowKey::new(
        [frame[26], frame[27], frame[28], frame[29]],
        u16::from_be_bytes([frame[34], frame[35]]),
        [frame[30], frame[31], frame[32], frame[33]],
        u16::from_be_bytes([frame[36], frame[37]]),
        17,
    );
    if !work(&key) {
        return xdp_action::XDP_DROP;
    }
    send_back(frame)
}

/// Swaps the MAC addresses. Returns the XDP action.
#[inline(always)]
fn send_back(frame: &mut Frame) -> u32 {
    // SAFETY: both words lie inside the frame.
    let (first, rest) = unsafe {
        let start = frame.as_ptr();
        (
            start.cast::<u64>().read_unaligned(),
            start.add(8).cast::<u32>().read_unaligned(),
        )
    };
    let destination = first & ((1 << 48) - 1);
    let source = first >> 48 | u64::from(rest) << 16;
    store(frame, 0, source | destination << 48);
    store(frame, 8, (destination >> 16) as u32);
    xdp_action::XDP_TX
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
