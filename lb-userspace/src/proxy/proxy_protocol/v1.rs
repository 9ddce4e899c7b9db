//! Version 1: a line of text (section 2.1).

use std::{
    io::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use super::Reading;

/// How a line begins.
pub(super) const SIGNATURE: &[u8] = b"PROXY ";

/// The shortest line, in bytes.
pub(super) const LEAST: usize = b"PROXY UNKNOWN\r\n".len();

/// The longest line with its end, in bytes.
const MOST: usize = 107;

/// Reads a line. `bytes` begin with [`SIGNATURE`] as far as they go.
pub(super) fn read(bytes: &[u8]) -> Reading {
    let window = &bytes[..bytes.len().min(MOST)];
    let Some(end) = window.windows(2).position(|pair| pair == b"\r\n") else {
        let missing = if window.ends_with(b"\r") { 1 } else { 2 };
        let at_least = LEAST.max(window.len() + missing);
        return if at_least > MOST {
            Reading::invalid("the line of the PROXY protocol does not end within 107 bytes")
        } else {
            Reading::Incomplete { at_least }
        };
    };
    let Some(line) = window.get(SIGNATURE.len()..end) else {
        return Reading::invalid("the line of the PROXY protocol is empty");
    };
    match addresses(line) {
        Ok(addresses) => Reading::header(end + 2, addresses),
        Err(why) => Reading::invalid(format!(
            "{why} in the line \"PROXY {}\"",
            line.escape_ascii()
        )),
    }
}

/// Reads what follows the signature; `None`: the sender does not know the addresses.
fn addresses(line: &[u8]) -> Result<Option<(SocketAddr, SocketAddr)>, &'static str> {
    // Whatever follows the word is to be passed over.
    if line == b"UNKNOWN" || line.starts_with(b"UNKNOWN ") {
        return Ok(None);
    }
    let line = str::from_utf8(line).map_err(|_| "there are bytes that are no text")?;
    let fields: Vec<&str> = line.split(' ').collect();
    let [family, source, destination, source_port, destination_port] = fields[..] else {
        return Err("there are not five fields with one space between them");
    };
    let address = match family {
        "TCP4" => ip::<Ipv4Addr>,
        "TCP6" => ip::<Ipv6Addr>,
        _ => return Err("the family is not TCP4, TCP6 or UNKNOWN"),
    };
    let source = SocketAddr::new(address(source)?, port(source_port)?);
    let destination = SocketAddr::new(address(destination)?, port(destination_port)?);
    Ok(Some((source, destination)))
}

fn ip<T: FromStr + Into<IpAddr>>(text: &str) -> Result<IpAddr, &'static str> {
    text.parse::<T>()
        .map(Into::into)
        .map_err(|_| "an address is not one of its family")
}

/// Reads a port: decimal digits without a zero in front.
fn port(text: &str) -> Result<u16, &'static str> {
    let canonical = text == "0" || !text.starts_with('0');
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    (canonical && digits)
        .then(|| text.parse().ok())
        .flatten()
        .ok_or("a port is not a number from 0 to 65535")
}

/// Appends a line.
pub(super) fn write(source: SocketAddr, destination: SocketAddr, out: &mut Vec<u8>) {
    let ports = (source.port(), destination.port());
    // Nothing that is written to memory fails.
    let _ = match (source.ip(), destination.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            write!(out, "PROXY TCP4 {from} {to} {} {}\r\n", ports.0, ports.1)
        }
        (from, to) => {
            let (from, to) = (super::v2::mapped(from), super::v2::mapped(to));
            write!(out, "PROXY TCP6 {from} {to} {} {}\r\n", ports.0, ports.1)
        }
    };
}
