//! Links: the program on interfaces, each pinned under `link_<interface index>`.
//!
//! A link in generic mode has `_generic` after its name: the kernel does not say in a link's
//! information how it is attached.

use std::{ffi::CString, path::Path};

use aya::programs::{
    ProgramError, Xdp, XdpMode,
    links::{FdLink, PinnedLink},
    xdp::XdpLink,
};

use super::{
    Attachment, DataplaneError,
    kernel::{failed, message},
};

/// How the program is to be attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Native where the driver can, else generic.
    Auto,
    /// Native or an error.
    Native,
    /// Generic.
    Generic,
}

/// Attaches the program to an interface, or replaces the one that is there.
pub(super) fn attach(
    program: &mut Xdp,
    directory: &Path,
    interface: &str,
    mode: Mode,
) -> Result<Attachment, DataplaneError> {
    let index = interface_index(interface)?;
    let native = directory.join(format!("link_{index}"));
    let generic = directory.join(format!("link_{index}_generic"));
    for (path, is_native) in [(&native, true), (&generic, false)] {
        if !path.exists() {
            continue;
        }
        let wanted = match mode {
            Mode::Auto => true,
            Mode::Native => is_native,
            Mode::Generic => !is_native,
        };
        if !wanted {
            tracing::warn!(
                interface,
                "attaching anew in the mode that node.xdp_mode asks for"
            );
            unpin(path)?;
            continue;
        }
        if replace(program, path, interface)? {
            return Ok(Attachment {
                interface: interface.to_owned(),
                index,
                native: is_native,
                why: "adopted from the daemon before".to_owned(),
            });
        }
        tracing::info!(interface, "the interface was made anew; attaching again");
        unpin(path)?;
    }
    make(program, interface, index, mode, &native, &generic)
}

/// Unpins the links of interfaces other than these, and so detaches the program from them.
pub(super) fn forget_others(directory: &Path, keep: &[String]) -> Result<(), DataplaneError> {
    let keep: Vec<u32> = keep
        .iter()
        .filter_map(|name| interface_index(name).ok())
        .collect();
    let entries = std::fs::read_dir(directory)
        .map_err(|e| failed(&format!("list {}", directory.display()), e))?;
    for path in entries.filter_map(Result::ok).map(|entry| entry.path()) {
        if let Some(index) = link_index(&path)
            && !keep.contains(&index)
        {
            tracing::info!(index, "detaching from an interface that is not configured");
            unpin(&path)?;
        }
    }
    Ok(())
}

/// Pins the program in place of the one before.
pub(super) fn pin_program(program: &mut Xdp, path: &Path) -> Result<(), DataplaneError> {
    let fresh = path.with_file_name("program_new");
    // A daemon that was killed between the two steps leaves the first one's pin.
    let _ = std::fs::remove_file(&fresh);
    program
        .pin(&fresh)
        .map_err(|e| failed(&format!("pin the program as {}", fresh.display()), e))?;
    std::fs::rename(&fresh, path)
        .map_err(|e| failed(&format!("pin the program as {}", path.display()), e))
}

/// Returns whether a pin is a link's.
pub(super) fn is_link(path: &Path) -> bool {
    link_index(path).is_some()
}

fn link_index(path: &Path) -> Option<u32> {
    let name = path.file_name()?.to_str()?.strip_prefix("link_")?;
    name.strip_suffix("_generic").unwrap_or(name).parse().ok()
}

/// Replaces the program of a pinned link. `false`: the link is severed, its interface is gone.
fn replace(program: &mut Xdp, path: &Path, interface: &str) -> Result<bool, DataplaneError> {
    let what = || format!("replace the program on {interface}");
    let link: FdLink = PinnedLink::from_pin(path)
        .map_err(|e| failed(&what(), e))?
        .into();
    let link = XdpLink::try_from(link).map_err(|e| failed(&what(), e))?;
    match program.attach_to_link(link) {
        Ok(_) => Ok(true),
        Err(ProgramError::SyscallError(error))
            if error.io_error.raw_os_error() == Some(libc::ENOLINK) =>
        {
            Ok(false)
        }
        Err(error) => Err(failed(&what(), error)),
    }
}

fn make(
    program: &mut Xdp,
    interface: &str,
    index: u32,
    mode: Mode,
    native: &Path,
    generic: &Path,
) -> Result<Attachment, DataplaneError> {
    let attachment = |is_native, why: String| Attachment {
        interface: interface.to_owned(),
        index,
        native: is_native,
        why,
    };
    if mode == Mode::Generic {
        pin_new(program, interface, index, XdpMode::Skb, generic)?;
        return Ok(attachment(false, "node.xdp_mode asks for it".to_owned()));
    }
    let refusal = match pin_new(program, interface, index, XdpMode::Driver, native) {
        Ok(()) => return Ok(attachment(true, "the driver supports it".to_owned())),
        Err(error) if mode == Mode::Native => {
            return Err(failed(
                &format!(
                    "use native XDP on {interface}; with node.xdp_mode = \"auto\" vipd falls back \
                     to generic mode, which costs several times as much per packet"
                ),
                error,
            ));
        }
        Err(error) => chain(&error),
    };
    tracing::warn!(
        interface,
        reason = refusal,
        "generic XDP mode: the driver refused native mode; packets cost several times as much"
    );
    pin_new(program, interface, index, XdpMode::Skb, generic)?;
    Ok(attachment(
        false,
        format!("the driver refused native mode: {refusal}"),
    ))
}

fn pin_new(
    program: &mut Xdp,
    interface: &str,
    index: u32,
    mode: XdpMode,
    path: &Path,
) -> Result<(), DataplaneError> {
    let name = if mode == XdpMode::Skb {
        "generic"
    } else {
        "native"
    };
    let what = format!("attach the XDP program to {interface} in {name} mode");
    let id = program.attach_to_if_index(index, mode).map_err(|e| {
        if errno(&e) == Some(libc::EBUSY) {
            return message(format!(
                "cannot {what}: another XDP program is attached to {interface}; see `bpftool net \
                 show` and detach it first"
            ));
        }
        failed(&what, e)
    })?;
    let link = program.take_link(id).map_err(|e| failed(&what, e))?;
    let link = FdLink::try_from(link).map_err(|e| failed(&what, e))?;
    link.pin(path)
        .map_err(|e| failed(&format!("pin the link {}", path.display()), e))?;
    Ok(())
}

fn unpin(path: &Path) -> Result<(), DataplaneError> {
    std::fs::remove_file(path).map_err(|e| failed(&format!("remove the pin {}", path.display()), e))
}

fn errno(error: &ProgramError) -> Option<i32> {
    match error {
        ProgramError::SyscallError(error) => error.io_error.raw_os_error(),
        _ => None,
    }
}

/// Returns an error and its causes on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Returns the index of an interface of this network namespace.
pub(super) fn interface_index(interface: &str) -> Result<u32, DataplaneError> {
    let name = CString::new(interface)
        .map_err(|e| failed(&format!("look up the interface {interface:?}"), e))?;
    #[expect(unsafe_code, reason = "the standard library has no interface indices")]
    // SAFETY: the name ends with a zero byte and lives for the length of the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    if index == 0 {
        return Err(failed(
            &format!("find the interface {interface}; see `ip link`"),
            std::io::Error::last_os_error(),
        ));
    }
    Ok(index)
}
