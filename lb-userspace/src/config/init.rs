//! A first configuration, written for somebody who has an address and some servers.

use super::{
    error::{ConfigErrors, Fault},
    expand::quote,
    preset::Preset,
};

/// What `vipd init` is told; everything as text, checked here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InitOptions {
    /// Name of the preset, such as `parallels-ras`.
    pub preset: String,
    /// The address that clients connect to.
    pub vip: Option<String>,
    /// Servers: `ADDRESS`, or `NAME=ADDRESS`.
    pub backends: Vec<String>,
    /// The name that users open.
    pub fqdn: Option<String>,
    /// Certificate chain, PEM; or a PFX.
    pub certificate: Option<String>,
    /// Private key, PEM; a PFX has it inside.
    pub key: Option<String>,
    /// The interface that clients' packets arrive on; `eth0` if nothing is said.
    pub interface: Option<String>,
}

/// Interface that stands in the file until somebody writes another.
const DEFAULT_INTERFACE: &str = "eth0";

/// Returns a configuration with comments for the preset; [`super::parse`] accepts it.
///
/// # Errors
///
/// Every fault of the options; the place of a fault is the option, such as `--vip`.
pub fn init(options: &InitOptions) -> Result<String, ConfigErrors> {
    let preset = Preset::ALL
        .into_iter()
        .find(|preset| preset.name() == options.preset);
    let text = text(options, preset);
    super::parse(&text).map_err(|errors| of_options(&errors))?;
    Ok(text)
}

fn text(options: &InitOptions, preset: Option<Preset>) -> String {
    let mut file = head(options, preset);
    file += "[[site]]\n";
    file += "# What the preset stands for, and why: `vipd config expand`.\n";
    file += &setting("preset", &options.preset);
    if let Some(vip) = &options.vip {
        file += "# The address that clients connect to; vipd adds it to the interface and \
         announces it.\n";
        file += &setting("vip", vip);
    }
    file += "# The servers, in equal shares. One that is prepared and not used yet:\n";
    file += "#   { name = \"NAME\", address = \"ADDRESS\", state = \"halt\" }\n";
    file += &backends(&options.backends);
    if let Some(fqdn) = &options.fqdn {
        file += "# The name that users open: vipd asks the servers by it and expects it in their \
         certificates.\n";
        file += &setting("fqdn", fqdn);
    }
    file + &certificates(options, preset) + hints(preset)
}

fn head(options: &InitOptions, preset: Option<Preset>) -> String {
    let title = preset.map_or("", Preset::title);
    let interface = options.interface.as_deref().unwrap_or(DEFAULT_INTERFACE);
    format!(
        "# {title}, behind vipd. Written by `vipd init`; `vipd check` finds every fault in it.\n\
         \n\
         [node]\n\
         # The interfaces that clients' and servers' packets arrive on; `ip link` lists them.\n\
         # One name: clients and servers are behind the same interface (one-arm).\n\
         interfaces = [{}]\n\
         # The address that servers see as the client; without it, the interface's own.\n\
         # snat_addresses = [\"10.0.0.10\"]\n\n",
        quote(interface)
    )
}

fn setting(key: &str, value: &str) -> String {
    format!("{key} = {}\n", quote(value))
}

fn backends(backends: &[String]) -> String {
    let lines: String = backends
        .iter()
        .map(|backend| match backend.split_once('=') {
            Some((name, address)) => {
                format!(
                    "  {{ name = {}, address = {} }},\n",
                    quote(name),
                    quote(address)
                )
            }
            None => format!("  {},\n", quote(backend)),
        })
        .collect();
    format!("backends = [\n{lines}]\n")
}

/// Returns the certificate's lines; where TLS ends at vipd and no file is named, usual names.
fn certificates(options: &InitOptions, preset: Option<Preset>) -> String {
    let ends_tls = preset.is_some_and(Preset::is_web);
    let usual =
        |suffix: &str| ends_tls.then(|| format!("/etc/vipd/tls/{}.{suffix}", options.preset));
    let mut lines = String::new();
    if ends_tls {
        lines += "# Certificate chain and private key (PEM) that clients are shown; or a PFX, \
         without key:\n\
         # password_file = \"/etc/vipd/tls/password\"\n";
    }
    let pfx = options.certificate.as_deref().filter(|path| is_pfx(path));
    if let (Some(path), None) = (pfx, &options.key) {
        return lines + &setting("certificate", path);
    }
    for (key, given, suffix) in [
        ("certificate", &options.certificate, "pem"),
        ("key", &options.key, "key"),
    ] {
        if let Some(path) = given.clone().or_else(|| usual(suffix)) {
            lines += &setting(key, &path);
        }
    }
    lines
}

/// Whether a file that may not be there yet is named as PFX files are.
fn is_pfx(path: &str) -> bool {
    let suffix = std::path::Path::new(path).extension();
    suffix.is_some_and(|suffix| {
        ["pfx", "p12"]
            .iter()
            .any(|pfx| suffix.eq_ignore_ascii_case(pfx))
    })
}

/// Returns what else the preset takes, as comments.
fn hints(preset: Option<Preset>) -> &'static str {
    match preset {
        Some(Preset::ParallelsRas) => {
            "# Gateways sign their certificates themselves, so the health check takes any. \
             Better:\n\
             # verify = \"pin\"\n\
             # pins = [\"sha256:...\"]\n\
             # Without RDP over UDP:\n\
             # udp = false\n"
        }
        Some(Preset::AppsAnywhere | Preset::CloudpagingAdmin | Preset::CloudpagingPortal) => {
            "# Servers' certificates are verified by the system's roots. By roots of your own:\n\
             # verify = \"ca\"\n\
             # ca = \"/etc/vipd/tls/ca.pem\"\n"
        }
        Some(Preset::CloudpagingPaging) | None => "",
    }
}

/// Returns the faults with options as places: there is no file yet.
fn of_options(errors: &ConfigErrors) -> ConfigErrors {
    let faults: Vec<Fault> = errors
        .iter()
        .map(|fault| Fault {
            place: option_of(&fault.place).to_owned(),
            line: None,
            column: None,
            message: fault.message.clone(),
        })
        .collect();
    ConfigErrors::new(faults).unwrap_or_else(|| errors.clone())
}

fn option_of(place: &str) -> &str {
    const OPTIONS: [(&str, &str); 7] = [
        ("node.interfaces", "--interface"),
        ("site[0].preset", "PRESET"),
        ("site[0].vip", "--vip"),
        ("site[0].backends", "--backend"),
        ("site[0].fqdn", "--fqdn"),
        ("site[0].certificate", "--certificate"),
        ("site[0].key", "--key"),
    ];
    OPTIONS
        .iter()
        .find(|(start, _)| place.starts_with(start))
        .map_or(place, |(_, option)| option)
}
