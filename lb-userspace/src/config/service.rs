//! `[[service]]`.

mod proxy;

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use super::{
    convert, health,
    keys::{Keys, Place, Report},
    model::{Forwarding, Persistence, PersistenceKey, Prefix, Protocol, Service},
};

const PERSISTENCE: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(30 * 24 * 3600);
/// What the vendors ask for at least where they do not name another.
const DEFAULT_PERSISTENCE: Duration = Duration::from_secs(30 * 60);
const DEFAULT_COOKIE: &str = "vipd";

/// What a transparent service needs of the network: the kernel's networking/tproxy.rst, without its
/// rule for new connections. "socket transparent" is what tells replies from what is only routed.
const TRANSPARENT: &str = "needs routes that vipd does not set: what backends send to clients must \
     come through this machine, so make it the gateway of their default route; and this machine \
     must take it for its own, so run: \
     nft add table inet vipd && \
     nft 'add chain inet vipd replies { type filter hook prerouting priority mangle; }' && \
     nft add rule inet vipd replies meta l4proto tcp socket transparent 1 meta mark set 118 && \
     ip rule add fwmark 118 lookup 118 && ip route add local default dev lo table 118 && \
     ip -6 rule add fwmark 118 lookup 118 && ip -6 route add local default dev lo table 118; \
     the same must happen at each start of the machine";

use Forwarding::{Http, Monitor, Redirect, Snat, Tcp};

/// The words of `forwarding`.
const FORWARDING: &[(&str, Forwarding)] = &[
    ("snat", Snat),
    ("tcp", Tcp),
    ("http", Http),
    ("redirect", Redirect),
    ("monitor", Monitor),
];

/// Keys that only some ways of forwarding have.
const ONLY_FOR: &[(&str, &[Forwarding])] = &[
    ("pool", &[Snat, Tcp, Http, Monitor]),
    ("backend_port", &[Snat, Tcp, Http, Monitor]),
    ("routes", &[Tcp, Http]),
    ("persistence", &[Snat, Tcp, Http, Monitor]),
    ("health", &[Snat, Tcp, Http, Monitor]),
    ("tls", &[Http]),
    ("backend_tls", &[Http]),
    ("trusted_proxies", &[Http]),
    ("proxy_protocol", &[Tcp, Http]),
    ("transparent", &[Tcp, Http]),
    ("source_addresses", &[Tcp, Http]),
    ("timeouts", &[Tcp, Http, Redirect]),
    ("limits", &[Snat, Tcp, Http, Redirect]),
    ("allow", &[Snat, Tcp, Http, Redirect]),
    ("block", &[Snat, Tcp, Http, Redirect]),
    ("redirect", &[Redirect]),
    ("hsts", &[Http]),
    ("errors", &[Http]),
];

/// Reads one `[[service]]`.
pub(super) fn read(keys: Keys<'_>, report: &Report) -> Option<Service> {
    let name = keys.need(
        "name",
        "name the service, such as name = \"web\"",
        convert::name,
    );
    let forwarding = keys.need(
        "forwarding",
        "choose \"snat\", \"tcp\", \"http\", \"redirect\" or \"monitor\"",
        convert::one_of(FORWARDING),
    );
    let listens = forwarding != Some(Monitor);
    let vip = vip(&keys, listens);
    let port = port(&keys, listens);
    let protocol = protocol(&keys, forwarding);
    let pool = keys.get("pool", convert::name);
    if !keys.has("pool") && forwarding.is_some_and(|forwarding| forwarding != Redirect) {
        keys.fault(
            "pool",
            "is missing; name the pool whose backends serve this",
        );
    }
    let backend_port = keys.get("backend_port", convert::port);
    let persistence = persistence(&keys, forwarding, pool.as_deref());
    let health = keys.table("health").map(|keys| health::read(keys, report));
    let routes = proxy::routes(&keys);
    let tls = keys.table("tls").map(|keys| proxy::tls(keys, report));
    if forwarding == Some(Http) && !keys.has("tls") {
        keys.fault(
            "tls",
            "is missing; give tls = { certificates = [{ certificate = \
         \"/FILE.pem\", key = \"/FILE.key\" }] }",
        );
    }
    let backend_tls = proxy::backend_tls(keys.table("backend_tls"), report);
    let trusted_proxies = keys
        .list("trusted_proxies", convert::prefix)
        .unwrap_or_default();
    let proxy_protocol = proxy::proxy_protocol(keys.table("proxy_protocol"));
    let transparent = keys.get("transparent", convert::boolean);
    let source_addresses = keys
        .list("source_addresses", convert::outside_address)
        .unwrap_or_default();
    if transparent == Some(true) && !source_addresses.is_empty() {
        keys.fault(
            "source_addresses",
            "has no meaning with transparent = true, which uses the client's own; remove one",
        );
    }
    if transparent == Some(true) {
        keys.warn("transparent", TRANSPARENT);
    }
    if forwarding == Some(Http) && proxy_protocol.send.is_some() {
        keys.fault(
            "proxy_protocol",
            "send works with forwarding = \"tcp\" only, as requests of many clients share a \
             connection; remove it: backends find the client in X-Forwarded-For",
        );
    }
    let timeouts = proxy::timeouts(keys.table("timeouts"));
    let limits = proxy::limits(keys.table("limits"), forwarding);
    let (allow, block) = clients(&keys, report);
    let redirect = proxy::redirect(keys.table("redirect"));
    let hsts = keys.get("hsts", convert::duration(proxy::HSTS));
    let errors = proxy::errors(keys.table("errors"), report);
    if let Some(forwarding) = forwarding {
        refuse_keys_of_other_ways(&keys, forwarding);
    }
    keys.finish();
    let forwarding = forwarding?;
    Some(Service {
        name: name?,
        vip: vip?,
        port: port?,
        protocol: protocol?,
        forwarding,
        pool: if forwarding == Redirect {
            None
        } else {
            Some(pool?)
        },
        backend_port,
        routes,
        persistence: persistence?,
        health: match health {
            Some(health) => Some(health?),
            None => None,
        },
        tls: match tls {
            Some(tls) => Some(tls?),
            None => None,
        },
        backend_tls: backend_tls?,
        trusted_proxies,
        proxy_protocol,
        transparent: transparent.unwrap_or(false),
        source_addresses,
        timeouts,
        limits,
        allow,
        block,
        redirect,
        hsts,
        errors,
    })
}

fn vip(keys: &Keys<'_>, listens: bool) -> Option<IpAddr> {
    if listens {
        return keys.need(
            "vip",
            "write the address that clients connect to",
            convert::outside_address,
        );
    }
    if keys.has("vip") {
        return keys.get("vip", convert::outside_address);
    }
    Some(Ipv4Addr::UNSPECIFIED.into())
}

fn port(keys: &Keys<'_>, listens: bool) -> Option<u16> {
    if listens {
        return keys.need(
            "port",
            "write the port that clients connect to, such as port = 443",
            convert::port,
        );
    }
    if keys.has("port") {
        keys.get("port", convert::port)
    } else {
        Some(0)
    }
}

fn protocol(keys: &Keys<'_>, forwarding: Option<Forwarding>) -> Option<Protocol> {
    let words = convert::one_of(&[("tcp", Protocol::Tcp), ("udp", Protocol::Udp)]);
    if forwarding == Some(Monitor) && !keys.has("protocol") {
        return Some(Protocol::Tcp);
    }
    let protocol = keys.need("protocol", "write \"tcp\" or \"udp\"", words)?;
    if let Some(way @ (Tcp | Http | Redirect)) = forwarding
        && protocol == Protocol::Udp
    {
        keys.fault(
            "protocol",
            format!(
                "\"udp\" cannot be forwarded by \"{way}\"; write protocol \
         = \"tcp\", or forwarding = \"snat\""
            ),
        );
    }
    Some(protocol)
}

fn persistence(
    keys: &Keys<'_>,
    forwarding: Option<Forwarding>,
    pool: Option<&str>,
) -> Option<Persistence> {
    let group_of_pool = pool.unwrap_or_default().to_owned();
    let Some(keys) = keys.table("persistence") else {
        return (!keys.has("persistence")).then_some(Persistence {
            key: PersistenceKey::SourceIp,
            timeout: DEFAULT_PERSISTENCE,
            group: group_of_pool,
            ipv4_prefix: 32,
            ipv6_prefix: 128,
            cookie: None,
        });
    };
    let key = keys.get(
        "key",
        convert::one_of(&[
            ("source-ip", PersistenceKey::SourceIp),
            ("cookie", PersistenceKey::Cookie),
            ("none", PersistenceKey::None),
        ]),
    );
    let key = key.unwrap_or(PersistenceKey::SourceIp);
    let timeout = keys.get("timeout", convert::duration(PERSISTENCE));
    let group = keys.get("group", convert::name);
    let ipv4_prefix = keys.get("ipv4_prefix", convert::number(1..=32));
    let ipv6_prefix = keys.get("ipv6_prefix", convert::number(1..=128));
    let cookie = keys.table("cookie").map(cookie_name);
    if key == PersistenceKey::Cookie && forwarding.is_some_and(|way| way != Http) {
        keys.fault(
            "key",
            "\"cookie\" works with forwarding = \"http\" only; write \"source-ip\"",
        );
    }
    if key != PersistenceKey::Cookie && keys.has("cookie") {
        keys.fault(
            "cookie",
            "has no meaning without key = \"cookie\"; remove it",
        );
    }
    keys.finish();
    Some(Persistence {
        key,
        timeout: timeout.unwrap_or(DEFAULT_PERSISTENCE),
        group: group.unwrap_or(group_of_pool),
        ipv4_prefix: ipv4_prefix.unwrap_or(32),
        ipv6_prefix: ipv6_prefix.unwrap_or(128),
        cookie: (key == PersistenceKey::Cookie).then(|| {
            cookie
                .flatten()
                .unwrap_or_else(|| DEFAULT_COOKIE.to_owned())
        }),
    })
}

/// Reads `allow` and `block`: a prefix stands in one of them, once.
fn clients(keys: &Keys<'_>, report: &Report) -> (Vec<Prefix>, Vec<Prefix>) {
    let mut seen: HashMap<Prefix, Place> = HashMap::new();
    let mut read = |key: &'static str| {
        let mut prefixes = Vec::new();
        for (value, place) in keys.items(key).unwrap_or_default() {
            match convert::prefix(value) {
                Ok(prefix) => match seen.get(&prefix) {
                    Some(first) => report.fault(
                        &place,
                        format!("\"{prefix}\" is also {}; remove one of them", first.path),
                    ),
                    None => {
                        prefixes.push(prefix);
                        seen.insert(prefix, place);
                    }
                },
                Err(message) => report.fault(&place, message),
            }
        }
        prefixes
    };
    (read("allow"), read("block"))
}

fn cookie_name(keys: Keys<'_>) -> Option<String> {
    let name = keys.get("name", convert::name);
    keys.finish();
    name
}

fn refuse_keys_of_other_ways(keys: &Keys<'_>, forwarding: Forwarding) {
    for (key, ways) in ONLY_FOR {
        if keys.has(key) && !ways.contains(&forwarding) {
            let known = FORWARDING
                .iter()
                .filter(|(_, way)| ways.contains(way))
                .map(|(word, _)| *word);
            let known = convert::or_list(known);
            keys.fault(
                key,
                format!(
                    "has no meaning with forwarding = \"{forwarding}\"; remove \
             it or use forwarding = {known}"
                ),
            );
        }
    }
}
