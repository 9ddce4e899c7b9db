//! `health` of a pool or a service, and how certificates of backends are judged.

use std::{collections::BTreeSet, time::Duration};

use super::{
    convert::{self, quoted, shown},
    duration,
    keys::{FileKind, Keys, Report},
    model::{HealthCheck, HttpProbe, ProbeSpec, Verify},
    raw::{Kind, Value},
};

const DAY: Duration = Duration::from_secs(24 * 3600);
const INTERVAL: std::ops::RangeInclusive<Duration> = Duration::from_millis(50)..=DAY;
const TIMEOUT: std::ops::RangeInclusive<Duration> = Duration::from_millis(10)..=DAY;
const DEFAULT_INTERVAL: Duration = Duration::from_secs(30);
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);
const DEFAULT_RISE: u32 = 2;
const DEFAULT_FALL: u32 = 3;
const JUDGED: std::ops::RangeInclusive<u32> = 1..=1000;
/// Longest datagram of a probe, in bytes: it fits every path unfragmented (RFC 8200 section 5).
const DATAGRAM_BYTES: usize = 1232;
/// Longest text that is looked for in a body, in bytes.
const BODY_TEXT_BYTES: usize = 1024;

const KINDS: &[(&str, &str)] = &[
    ("connect", "connect"),
    ("tls", "tls"),
    ("http", "http"),
    ("https", "https"),
    ("ping", "ping"),
    ("udp", "udp"),
];
const HTTP: &[&str] = &["http", "https"];
const TLS: &[&str] = &["tls", "https"];
const UDP: &[&str] = &["udp"];
const WITH_PORT: &[&str] = &["connect", "tls", "http", "https", "udp"];
const WITH_NAME: &[&str] = &["tls", "http", "https"];

/// Keys that only some kinds of probe have.
const ONLY_FOR: &[(&str, &[&str])] = &[
    ("port", WITH_PORT),
    ("host", WITH_NAME),
    ("path", HTTP),
    ("method", HTTP),
    ("expect_status", HTTP),
    ("expect_body", HTTP),
    ("send", UDP),
    ("expect", UDP),
    ("verify", TLS),
    ("ca", TLS),
    ("pins", TLS),
];

/// Returns the check of a pool that configures none: a TCP connection every 30 s.
pub(super) fn connect() -> HealthCheck {
    HealthCheck {
        probe: ProbeSpec::Connect,
        port: None,
        interval: DEFAULT_INTERVAL,
        timeout: DEFAULT_TIMEOUT,
        rise: DEFAULT_RISE,
        fall: DEFAULT_FALL,
    }
}

/// Reads a `health` table.
pub(super) fn read(keys: Keys<'_>, report: &Report) -> Option<HealthCheck> {
    let kind = keys.need(
        "type",
        "choose \"connect\", \"tls\", \"http\", \"https\", \"ping\" or \"udp\"",
        convert::one_of(KINDS),
    );
    let port = keys.get("port", convert::port);
    let (interval, timeout) = interval_and_timeout(&keys);
    let rise = keys.get("rise", convert::number(JUDGED));
    let fall = keys.get("fall", convert::number(JUDGED));
    let host = keys.get("host", convert::server_name);
    let http = http(&keys);
    let verify = verify(&keys, kind.is_some_and(|kind| TLS.contains(&kind)), report);
    let send = keys.get("send", convert::bytes(DATAGRAM_BYTES));
    let expect = keys.get("expect", convert::bytes(DATAGRAM_BYTES));
    if let Some(kind) = kind {
        refuse_keys_of_other_kinds(&keys, kind);
        if kind == "udp" && !keys.has("send") {
            keys.fault(
                "send",
                "is missing; write the datagram that the server answers, as text or as \"hex:...\"",
            );
        }
    }
    keys.finish();
    let probe = match kind? {
        "tls" => ProbeSpec::Tls {
            verify: verify?,
            server_name: host,
        },
        "http" => ProbeSpec::Http(HttpProbe {
            tls: None,
            host,
            ..http?
        }),
        "https" => ProbeSpec::Http(HttpProbe {
            tls: Some(verify?),
            host,
            ..http?
        }),
        "ping" => ProbeSpec::Ping,
        "udp" => ProbeSpec::Udp {
            send: send?,
            expect,
        },
        _ => ProbeSpec::Connect,
    };
    Some(HealthCheck {
        probe,
        port,
        interval,
        timeout,
        rise: rise.unwrap_or(DEFAULT_RISE),
        fall: fall.unwrap_or(DEFAULT_FALL),
    })
}

/// Reads both; without one of its own, a probe has 5 s but never longer than its interval.
fn interval_and_timeout(keys: &Keys<'_>) -> (Duration, Duration) {
    let interval = keys
        .get("interval", convert::duration(INTERVAL))
        .unwrap_or(DEFAULT_INTERVAL);
    let timeout = keys.get("timeout", convert::duration(TIMEOUT));
    if let Some(timeout) = timeout.filter(|timeout| *timeout > interval) {
        keys.fault(
            "timeout",
            format!(
                "\"{}\" is longer than interval = \"{}\"; lower the timeout or raise the interval",
                duration::format(timeout),
                duration::format(interval)
            ),
        );
    }
    (interval, timeout.unwrap_or(DEFAULT_TIMEOUT.min(interval)))
}

/// Reads what only HTTP has; `tls` and `host` are left open.
fn http(keys: &Keys<'_>) -> Option<HttpProbe> {
    let path = keys.get("path", path_and_query);
    let method = keys.get("method", method);
    let statuses = keys.list("expect_status", statuses);
    let expect_body = keys.get("expect_body", body_text);
    if statuses.as_ref().is_some_and(Vec::is_empty)
        && keys
            .items("expect_status")
            .is_some_and(|items| items.is_empty())
    {
        keys.fault(
            "expect_status",
            "is empty; list at least one status, such as [200]",
        );
    }
    if method.as_deref() == Some("HEAD") && expect_body.is_some() {
        keys.fault(
            "expect_body",
            "never matches with method = \"HEAD\", whose answers have no body; use \"GET\"",
        );
    }
    Some(HttpProbe {
        tls: None,
        host: None,
        path: path.unwrap_or_else(|| "/".to_owned()),
        method: method.unwrap_or_else(|| "GET".to_owned()),
        expect_status: statuses.map_or_else(
            || BTreeSet::from([200]),
            |statuses| statuses.into_iter().flatten().collect(),
        ),
        expect_body,
    })
}

fn path_and_query(value: &Value) -> Result<String, String> {
    let text = convert::text(value)?;
    let legal = text.starts_with('/')
        && text
            .bytes()
            .all(|byte| (0x21..=0x7e).contains(&byte) && byte != b'#');
    if legal {
        return Ok(text.to_owned());
    }
    Err(format!(
        "{} is not a path; begin it with \"/\", and write spaces and other letters as %XX (RFC \
         3986 section 2.1)",
        quoted(text)
    ))
}

fn method(value: &Value) -> Result<String, String> {
    let text = convert::text(value)?;
    if (1..=16).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_uppercase())
        && text != "CONNECT"
    {
        return Ok(text.to_owned());
    }
    Err(format!(
        "{} is not a method for a probe; write \"GET\", \"HEAD\" or another in capitals",
        quoted(text)
    ))
}

/// Reads one status, or a class such as `"2xx"`.
fn statuses(value: &Value) -> Result<std::ops::RangeInclusive<u16>, String> {
    let range = match &value.kind {
        Kind::Integer(number) => u16::try_from(*number)
            .ok()
            .filter(|status| (200..=599).contains(status))
            .map(|status| status..=status),
        Kind::Text(text) => match text.as_str() {
            "2xx" => Some(200..=299),
            "3xx" => Some(300..=399),
            "4xx" => Some(400..=499),
            "5xx" => Some(500..=599),
            _ => None,
        },
        _ => None,
    };
    range.ok_or_else(|| {
        format!(
            "{} is not a status; write one from 200 to 599, or a class such as \"2xx\"",
            shown(value)
        )
    })
}

fn body_text(value: &Value) -> Result<String, String> {
    match convert::text(value)? {
        "" => {
            Err("\"\" is empty, so every body has it; write the text or remove the key".to_owned())
        }
        text if text.len() > BODY_TEXT_BYTES => Err(format!(
            "has {} bytes; look for at most {BODY_TEXT_BYTES}",
            text.len()
        )),
        text => Ok(text.to_owned()),
    }
}

fn refuse_keys_of_other_kinds(keys: &Keys<'_>, kind: &str) {
    for (key, kinds) in ONLY_FOR {
        if keys.has(key) && !kinds.contains(&kind) {
            let kinds = convert::or_list(kinds.iter().copied());
            keys.fault(
                key,
                format!("has no meaning with type = \"{kind}\"; remove it or use type = {kinds}"),
            );
        }
    }
}

/// Reads `verify`, `ca` and `pins` of a table; `tls`: there is a certificate to judge at all.
pub(super) fn verify(keys: &Keys<'_>, tls: bool, report: &Report) -> Option<Verify> {
    if !tls {
        // Known, but refused with this kind of probe.
        for key in ["verify", "ca", "pins"] {
            keys.has(key);
        }
        return None;
    }
    let verify = check_trust(keys);
    match &verify {
        Some(Verify::Ca(ca)) => report.file(keys.at("ca"), ca, FileKind::Certificates),
        Some(Verify::None) => keys.warn(
            "verify",
            "\"none\" takes any certificate for the backend's; \"pin\" or \"ca\" is safer",
        ),
        Some(Verify::System | Verify::Pin(_)) | None => {}
    }
    verify
}

/// Reads the same three keys without a look at files, and without warnings.
pub(super) fn check_trust(keys: &Keys<'_>) -> Option<Verify> {
    let words = [
        ("system", "system"),
        ("ca", "ca"),
        ("pin", "pin"),
        ("none", "none"),
    ];
    let word = keys.get("verify", convert::one_of(&words));
    let ca = keys.get("ca", convert::path);
    let pins = keys.list("pins", convert::pin);
    if keys.has("verify") && word.is_none() {
        return None;
    }
    let word = word.unwrap_or("system");
    for (key, needed) in [("ca", "ca"), ("pins", "pin")] {
        if keys.has(key) && word != needed {
            keys.fault(
                key,
                format!(
                    "is not used with verify = \"{word}\"; write verify = \"{needed}\" or remove it"
                ),
            );
        }
    }
    if word == "ca" && !keys.has("ca") {
        keys.fault(
            "ca",
            "is missing; name the file with the certificates (PEM) that verify = \"ca\" trusts",
        );
    }
    match word {
        "ca" => ca.map(Verify::Ca),
        "pin" => Some(Verify::Pin(pins.unwrap_or_default())),
        "none" => Some(Verify::None),
        _ => Some(Verify::System),
    }
}
