//! From one value of the file to one value of the model, or to the message that says what is wrong
//! with it.

use std::{
    net::{IpAddr, Ipv4Addr},
    ops::RangeInclusive,
    path::PathBuf,
    time::Duration,
};

use super::{
    duration,
    model::{Pin, PortRange, Prefix},
    prefix::PrefixError,
    raw::{Kind, Value},
    suggest::nearest,
};

/// Longest piece of a value that a message repeats, in characters.
const SHOWN_CHARS: usize = 60;

/// Longest name of a pool, service, backend or group, in bytes: with its end it fits a map value.
pub(super) const NAME_BYTES: usize = lb_common::limits::NAME_BYTES - 1;

/// Longest name of an interface, in bytes (`IFNAMSIZ` less its end).
const INTERFACE_BYTES: usize = 15;

type Converted<T> = Result<T, String>;

/// Returns a value as a message shows it: short, in one line.
pub(super) fn shown(value: &Value) -> String {
    match &value.kind {
        Kind::Text(text) => quoted(text),
        Kind::Integer(number) => number.to_string(),
        Kind::Boolean(value) => value.to_string(),
        Kind::List(_) => "a list".to_owned(),
        Kind::Table(_) => "a table".to_owned(),
        Kind::Other(text) => text.clone(),
    }
}

/// Returns text in quotes, shortened, with control characters made visible.
pub(super) fn quoted(text: &str) -> String {
    let short: String = text
        .chars()
        .take(SHOWN_CHARS)
        .flat_map(char::escape_debug)
        .collect();
    let rest = if text.chars().nth(SHOWN_CHARS).is_some() {
        "..."
    } else {
        ""
    };
    format!("\"{short}{rest}\"")
}

/// Returns a key as a place shows it.
pub(super) fn key_text(key: &str) -> String {
    if is_bare_key(key) && key.len() <= SHOWN_CHARS {
        key.to_owned()
    } else {
        quoted(key)
    }
}

/// Returns whether a key stands without quotes (TOML 1.0, "Keys").
pub(super) fn is_bare_key(key: &str) -> bool {
    !key.is_empty()
        && key
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
}

pub(super) fn text(value: &Value) -> Converted<&str> {
    match &value.kind {
        Kind::Text(text) => Ok(text),
        _ => Err(format!("{} is not text; put it in quotes", shown(value))),
    }
}

/// Text that is not empty and has no control characters.
pub(super) fn line_of_text(value: &Value) -> Converted<String> {
    let text = text(value)?;
    if text.is_empty() {
        return Err("\"\" is empty; write the text or remove the key".to_owned());
    }
    if text.chars().any(char::is_control) {
        return Err(format!(
            "{} has control characters; remove them",
            quoted(text)
        ));
    }
    Ok(text.to_owned())
}

pub(super) fn boolean(value: &Value) -> Converted<bool> {
    match value.kind {
        Kind::Boolean(value) => Ok(value),
        _ => Err(format!(
            "{} is neither true nor false; write one of them, without quotes",
            shown(value)
        )),
    }
}

/// A whole number within `range`.
pub(super) fn number<T>(range: RangeInclusive<T>) -> impl Fn(&Value) -> Converted<T>
where
    T: TryFrom<i64> + PartialOrd + std::fmt::Display,
{
    move |value| {
        let (least, most) = (range.start(), range.end());
        let Kind::Integer(number) = value.kind else {
            return Err(format!(
                "{} is not a whole number; write one from {least} to {most}, without quotes",
                shown(value)
            ));
        };
        T::try_from(number)
            .ok()
            .filter(|number| range.contains(number))
            .ok_or_else(|| format!("{number} is out of range; choose {least} to {most}"))
    }
}

pub(super) fn port(value: &Value) -> Converted<u16> {
    number(1..=u16::MAX)(value)
}

/// A duration within `range`.
pub(super) fn duration(range: RangeInclusive<Duration>) -> impl Fn(&Value) -> Converted<Duration> {
    move |value| {
        let not_one = || {
            let hint = match value.kind {
                Kind::Integer(number) if number >= 0 => {
                    format!("write the unit, such as \"{number}s\"")
                }
                _ => "write a whole number and ms, s, m, h or d, such as \"30s\"".to_owned(),
            };
            format!("{} is not a duration; {hint}", shown(value))
        };
        let Kind::Text(text) = &value.kind else {
            return Err(not_one());
        };
        let duration = duration::parse(text).ok_or_else(not_one)?;
        if range.contains(&duration) {
            return Ok(duration);
        }
        Err(format!(
            "{} is out of range; choose \"{}\" to \"{}\"",
            quoted(text),
            duration::format(*range.start()),
            duration::format(*range.end())
        ))
    }
}

/// A size in bytes: a number, or text with `B`, `KiB`, `MiB` or `GiB`.
pub(super) fn size(range: RangeInclusive<u64>) -> impl Fn(&Value) -> Converted<u64> {
    move |value| {
        let bytes = match &value.kind {
            Kind::Integer(number) => u64::try_from(*number).ok(),
            Kind::Text(text) => size_from(text),
            _ => None,
        };
        let bytes = bytes.ok_or_else(|| {
            format!(
                "{} is not a size; write a whole number and B, KiB, MiB or GiB, such as \"72KiB\"",
                shown(value)
            )
        })?;
        if range.contains(&bytes) {
            return Ok(bytes);
        }
        Err(format!(
            "{} is out of range; choose \"{}\" to \"{}\"",
            shown(value),
            size_text(*range.start()),
            size_text(*range.end())
        ))
    }
}

const SIZE_UNITS: [(&str, u64); 4] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
];

fn size_from(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let &(_, unit) = SIZE_UNITS
        .iter()
        .find(|(name, _)| *name == unit.trim_start())?;
    number.parse::<u64>().ok()?.checked_mul(unit)
}

fn size_text(bytes: u64) -> String {
    SIZE_UNITS
        .iter()
        .find(|(_, unit)| bytes >= *unit && bytes.is_multiple_of(*unit))
        .map_or_else(
            || format!("{bytes}B"),
            |(name, unit)| format!("{}{name}", bytes / unit),
        )
}

/// One of a closed list of words.
pub(super) fn one_of<T: Copy>(words: &[(&'static str, T)]) -> impl Fn(&Value) -> Converted<T> {
    move |value| {
        let text = text(value)?;
        if let Some((_, meaning)) = words.iter().find(|(word, _)| *word == text) {
            return Ok(*meaning);
        }
        let known = words.iter().map(|(word, _)| *word);
        let remedy = match nearest(text, known.clone()) {
            Some(word) => format!("did you mean \"{word}\"?"),
            None => format!("choose {}", or_list(known)),
        };
        Err(format!("{} is not known here; {remedy}", quoted(text)))
    }
}

/// Returns `"a", "b" or "c"`.
pub(super) fn or_list<'a>(words: impl Iterator<Item = &'a str>) -> String {
    let mut words: Vec<String> = words.map(|word| format!("\"{word}\"")).collect();
    match words.pop() {
        Some(last) if !words.is_empty() => format!("{} or {last}", words.join(", ")),
        Some(only) => only,
        None => String::new(),
    }
}

/// Name of a pool, a service, a site or a group.
pub(super) fn name(value: &Value) -> Converted<String> {
    name_with(value, b"-_.", "letters, digits, \"-\", \"_\" and \".\"")
}

/// Name of a backend: it may be an IPv6 address.
pub(super) fn backend_name(value: &Value) -> Converted<String> {
    name_with(
        value,
        b"-_.:",
        "letters, digits, \"-\", \"_\", \".\" and \":\"",
    )
}

fn name_with(value: &Value, marks: &[u8], allowed: &str) -> Converted<String> {
    let text = text(value)?;
    if text.is_empty() || text.len() > NAME_BYTES {
        return Err(format!(
            "{} has {} bytes; a name has 1 to {NAME_BYTES}",
            quoted(text),
            text.len()
        ));
    }
    if !text
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || marks.contains(&byte))
    {
        return Err(format!(
            "{} is not a name; use {allowed} only",
            quoted(text)
        ));
    }
    Ok(text.to_owned())
}

/// Name of a network interface, as the kernel allows it (`dev_valid_name`).
pub(super) fn interface(value: &Value) -> Converted<String> {
    let text = text(value)?;
    let legal = !text.is_empty()
        && text.len() <= INTERFACE_BYTES
        && text != "."
        && text != ".."
        && !text
            .chars()
            .any(|c| c == '/' || c == ':' || c.is_whitespace() || c.is_control());
    if legal {
        return Ok(text.to_owned());
    }
    Err(format!(
        "{} is not the name of an interface (1 to {INTERFACE_BYTES} bytes); `ip link` lists them",
        quoted(text)
    ))
}

/// A unicast address that packets can be sent to.
pub(super) fn address(value: &Value) -> Converted<IpAddr> {
    let text = text(value)?;
    let address: IpAddr = text.parse().map_err(|_| {
        format!(
            "{} is not an IP address; write one such as \"10.0.0.1\" or \"2001:db8::1\"",
            quoted(text)
        )
    })?;
    let wrong = match address {
        IpAddr::V4(v4) => v4.is_unspecified() || v4.is_multicast() || v4 == Ipv4Addr::BROADCAST,
        IpAddr::V6(v6) => v6.is_unspecified() || v6.is_multicast(),
    };
    if wrong {
        return Err(format!(
            "{} is not the address of one host; write a unicast address",
            quoted(text)
        ));
    }
    if let IpAddr::V6(v6) = address {
        if let Some(v4) = v6.to_ipv4_mapped() {
            return Err(format!(
                "{} is an IPv4 address in IPv6 notation; write \"{v4}\"",
                quoted(text)
            ));
        }
        if v6.is_unicast_link_local() {
            return Err(format!(
                "{} is a link-local address, which is not unique on this node; write a global or \
                 unique local one",
                quoted(text)
            ));
        }
    }
    Ok(address)
}

/// A unicast address that other hosts can reach: a VIP or a source address.
pub(super) fn outside_address(value: &Value) -> Converted<IpAddr> {
    let address = address(value)?;
    if address.is_loopback() {
        return Err(format!(
            "{} is a loopback address; write one that other hosts can reach",
            shown(value)
        ));
    }
    Ok(address)
}

/// An address prefix; a lone address stands for itself.
pub(super) fn prefix(value: &Value) -> Converted<Prefix> {
    text(value)?
        .parse()
        .map_err(|error: PrefixError| error.to_string())
}

/// `"FIRST-LAST"`, or one port.
pub(super) fn port_range(value: &Value) -> Converted<PortRange> {
    let text = text(value)?;
    let port = |digits: &str| {
        let digits = digits.trim();
        let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        digits.parse::<u16>().ok().filter(|port| plain && *port > 0)
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (Some(first), Some(last)) = (port(first), port(last)) else {
        return Err(format!(
            "{} is not a range of ports; write one such as \"20000-32767\"",
            quoted(text)
        ));
    };
    if first > last {
        return Err(format!(
            "{} runs backwards; write \"{last}-{first}\"",
            quoted(text)
        ));
    }
    Ok(PortRange { first, last })
}

/// A path from the root: a daemon has no useful working directory.
pub(super) fn path(value: &Value) -> Converted<PathBuf> {
    let text = text(value)?;
    if text.contains('\0') {
        return Err(format!(
            "{} has a zero byte, which no path can have; remove it",
            quoted(text)
        ));
    }
    if !text.starts_with('/') {
        return Err(format!(
            "{} is not an absolute path; begin it with \"/\"",
            quoted(text)
        ));
    }
    Ok(PathBuf::from(text))
}

/// A host name in lower case (RFC 1123 section 2.1); underscores, which Windows allows, are too.
pub(super) fn host(value: &Value) -> Converted<String> {
    let text = text(value)?;
    if is_host(text) {
        return Ok(text.to_ascii_lowercase());
    }
    Err(format!(
        "{} is not a host name; write one such as \"portal.uni.edu\"",
        quoted(text)
    ))
}

/// A host name, or `*.` and a host name for every name right below it.
pub(super) fn host_pattern(value: &Value) -> Converted<String> {
    let text = text(value)?;
    if is_host(text.strip_prefix("*.").unwrap_or(text)) {
        return Ok(text.to_ascii_lowercase());
    }
    Err(format!(
        "{} is not a host name; write one such as \"portal.uni.edu\" or \"*.uni.edu\"",
        quoted(text)
    ))
}

/// A host name or an address: what a certificate may be made out to.
pub(super) fn server_name(value: &Value) -> Converted<String> {
    match text(value)?.parse::<IpAddr>() {
        Ok(address) => Ok(address.to_string()),
        Err(_) => host(value),
    }
}

fn is_host(text: &str) -> bool {
    text.len() <= 253
        && text.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        })
}

/// A pinned key: `sha256:` and 64 hexadecimal digits or base64.
pub(super) fn pin(value: &Value) -> Converted<Pin> {
    let text = text(value)?;
    text.parse().map_err(|()| {
        format!(
            "{} is not a pin; write \"sha256:\" and the SHA-256 of the public key, in 64 \
             hexadecimal digits or base64",
            quoted(text)
        )
    })
}

/// Bytes to send or to expect: text as it is, or `hex:` and pairs of hexadecimal digits.
pub(super) fn bytes(most: usize) -> impl Fn(&Value) -> Converted<Vec<u8>> {
    move |value| {
        let text = text(value)?;
        let bytes = match text.strip_prefix("hex:") {
            None => text.as_bytes().to_vec(),
            Some(digits) => super::pin::hex(digits).ok_or_else(|| {
                format!(
                    "{} is not hexadecimal; write pairs of digits after \"hex:\"",
                    quoted(text)
                )
            })?,
        };
        match bytes.len() {
            0 => Err("\"\" is empty; write the bytes or remove the key".to_owned()),
            length if length > most => Err(format!("has {length} bytes; at most {most} fit")),
            _ => Ok(bytes),
        }
    }
}
