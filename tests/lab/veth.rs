//! Cables between namespaces.

use std::ffi::CString;

use super::{netns::NetNs, xdp_pass::XdpPass};

/// A veth pair from `near` to `far`, up on both ends, without offloads of checksums and tags.
///
/// With offloads on, a sender leaves checksums to the hardware that is not there, and a receiver
/// believes whatever it gets: wrong checksums would pass unseen. VLAN tags would travel beside the
/// frames, where an XDP program does not see them.
///
/// # Panics
///
/// If a command of iproute2 or ethtool fails.
pub fn connect(near: &NetNs, near_name: &str, far: &NetNs, far_name: &str) {
    near.ip(&[
        &format!(
            "link add {near_name} type veth peer name {far_name} netns {}",
            far.path()
        ),
        &format!("link set {near_name} up"),
    ]);
    far.ip(&[&format!("link set {far_name} up")]);
    offloads_off(near, near_name);
    offloads_off(far, far_name);
}

/// Attaches a program that passes everything, which the far end needs to transmit from XDP.
#[must_use]
pub fn pass_xdp(net: &NetNs, name: &str) -> XdpPass {
    net.enter(|| XdpPass::attach(index(name)))
}

/// Returns the index of the interface `name` in `net`.
#[must_use]
pub fn index_in(net: &NetNs, name: &str) -> u32 {
    net.enter(|| index(name))
}

fn index(name: &str) -> u32 {
    let terminated = CString::new(name).expect("an interface's name has no zero byte");
    // SAFETY: the string is terminated and lives through the call.
    let index = unsafe { libc::if_nametoindex(terminated.as_ptr()) };
    assert!(index != 0, "there is no interface {name}");
    index
}

fn offloads_off(net: &NetNs, name: &str) {
    let output = net
        .command("ethtool")
        .args(["-K", name, "tx", "off", "rx", "off", "txvlan", "off"])
        .args(["tx-vlan-stag-hw-insert", "off"])
        .output()
        .expect("ethtool (package ethtool) starts");
    assert!(
        output.status.success(),
        "ethtool cannot turn the offloads of {name} off: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
