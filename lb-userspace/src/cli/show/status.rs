//! The status as a page for people.

use std::fmt::Write;

use super::{count, rule};
use crate::{
    admin::{
        api::{Backend, Fill, Health, Proxied, Service, Status, Traffic, Usage, XdpMode},
        explain::duration,
    },
    cli::table::Table,
    config::model::AdminState,
    control::fill::percent,
};

/// Returns the status as a page.
pub(in crate::cli) fn status(status: &Status, colour: bool) -> String {
    let paint = Paint(colour);
    let mut page = head(status, paint);
    section(&mut page, "INTERFACES", interfaces(status, paint));
    section(&mut page, "SERVICES", services(&status.services));
    section(&mut page, "PROXY", proxied(&status.services, paint));
    section(&mut page, "CLIENTS", client_lists(&status.services));
    section(&mut page, "BACKENDS", backends(&status.backends, paint));
    section(&mut page, "SNAT PORTS", endpoints(status, paint));
    section(&mut page, "DROPPED", drops(status));
    section(&mut page, "FAILED", failures(&status.services));
    section(
        &mut page,
        "CERTIFICATES",
        certificates(&status.services, paint),
    );
    page
}

fn head(status: &Status, paint: Paint) -> String {
    let ready = if status.ready {
        paint.good("ready")
    } else {
        paint.bad("not ready")
    };
    let adopted = if status.adopted {
        ", took over a data path at work"
    } else {
        ""
    };
    let uptime = duration(u32::try_from(status.uptime_s).unwrap_or(u32::MAX));
    let mut head = format!(
        "vipd {} (process {}) is {ready}, up {uptime}{adopted}\n\
         configuration {} (generation {}, {})\n\
         flows {}, clients remembered {}\n",
        status.version,
        status.pid,
        status.configuration.path,
        status.configuration.generation,
        status.configuration.loaded,
        usage(&status.flows, paint),
        usage(&status.affinity, paint),
    );
    for reason in &status.not_ready {
        let _ = writeln!(head, "  {reason}");
    }
    if status.access_log_lost > 0 {
        let lost = format!("{} lines of the access log", status.access_log_lost);
        let _ = writeln!(head, "{} were lost", paint.warning(&lost));
    }
    head
}

fn usage(usage: &Usage, paint: Paint) -> String {
    let Usage { used, max, .. } = usage;
    match usage.fill {
        Fill::Ok => format!("{used} of {max}"),
        fill => format!(
            "{used} of {max} ({})",
            filled(*used, *max, fill, paint, ": ")
        ),
    }
}

/// Returns how full something is: the percentage, and a word where it matters.
fn filled(used: u32, max: u32, fill: Fill, paint: Paint, between: &str) -> String {
    let percent = percent(used, max);
    match fill {
        Fill::Ok => format!("{percent}%"),
        Fill::High => format!("{percent}%{between}{}", paint.warning("nearly full")),
        Fill::Full => format!("{percent}%{between}{}", paint.bad("full")),
    }
}

fn section(page: &mut String, title: &str, table: Option<Table>) {
    if let Some(table) = table {
        let _ = write!(page, "\n{title}\n{}", table.text());
    }
}

fn interfaces(status: &Status, paint: Paint) -> Option<Table> {
    let mut table = Table::new(&["NAME", "XDP MODE", "WHY"]);
    for interface in &status.interfaces {
        let mode = match interface.mode {
            XdpMode::Native => paint.good("native"),
            XdpMode::Generic => paint.warning("generic"),
            XdpMode::Detached => paint.bad("detached"),
        };
        table.row([interface.name.clone(), mode, interface.why.clone()]);
    }
    Some(table)
}

/// Services that the proxy serves have a table of their own.
fn services(services: &[Service]) -> Option<Table> {
    let mut table = Table::new(&[
        "NAME",
        "ADDRESS",
        "BY",
        "POOL",
        ">ELIGIBLE",
        ">FLOWS",
        ">NEW",
        ">MOVED",
        ">DROPPED",
        ">PACKETS/S",
        ">BITS/S",
    ]);
    let shown = || services.iter().filter(|service| service.proxy.is_none());
    for service in shown() {
        let traffic = &service.traffic;
        table.row([
            service.name.clone(),
            address(service),
            service.forwarding.clone(),
            service.pool.clone().unwrap_or_else(|| "-".to_owned()),
            service.eligible.to_string(),
            service.flows.to_string(),
            traffic.flows_new.to_string(),
            traffic.flows_moved.to_string(),
            traffic.dropped.to_string(),
            packet_rate(traffic),
            bit_rate(traffic),
        ]);
    }
    shown().next().map(|_| table)
}

fn address(service: &Service) -> String {
    if service.port == 0 {
        return "-".to_owned();
    }
    let listen = std::net::SocketAddr::new(service.vip, service.port);
    format!("{listen} {}", service.protocol)
}

fn proxied(services: &[Service], paint: Paint) -> Option<Table> {
    let mut table = Table::new(&[
        "NAME",
        "ADDRESS",
        "BY",
        "POOL",
        ">ELIGIBLE",
        ">OPEN",
        ">CONNECTIONS",
        ">REQUESTS",
        ">5XX",
        ">BYTES",
        ">FAILED",
        "STATE",
    ]);
    let mut any = false;
    for (service, proxy) in with_proxy(services) {
        any = true;
        let failed: u64 = proxy.failures.iter().map(|failure| failure.count).sum();
        let answers = proxy.answers.iter().find(|answers| answers.class == "5xx");
        // A connection that is passed through holds requests that nobody sees.
        let of_http = |count: u64| match service.forwarding.as_str() {
            "tcp" => "-".to_owned(),
            _ => count.to_string(),
        };
        table.row([
            service.name.clone(),
            address(service),
            service.forwarding.clone(),
            service.pool.clone().unwrap_or_else(|| "-".to_owned()),
            match service.pool {
                Some(_) => service.eligible.to_string(),
                None => "-".to_owned(),
            },
            proxy.connections_open.to_string(),
            proxy.connections.to_string(),
            of_http(proxy.requests),
            of_http(answers.map_or(0, |answers| answers.count)),
            format!(
                "{} / {}",
                short(proxy.bytes_in as f64),
                short(proxy.bytes_out as f64)
            ),
            failed.to_string(),
            match &proxy.closed {
                Some(why) => format!("{}: {why}", paint.bad("does not listen")),
                None if proxy.listening => paint.good("listens"),
                None => paint.bad("does not listen"),
            },
        ]);
    }
    any.then_some(table)
}

fn with_proxy(services: &[Service]) -> impl Iterator<Item = (&Service, &Proxied)> {
    let services = services.iter();
    services.filter_map(|service| Some((service, service.proxy.as_ref()?)))
}

/// What never occurred is left out.
fn failures(services: &[Service]) -> Option<Table> {
    let mut table = Table::new(&["SERVICE", "REASON", ">TIMES", "MEANING"]);
    let mut any = false;
    for (service, proxy) in with_proxy(services) {
        for failure in proxy.failures.iter().filter(|failure| failure.count > 0) {
            any = true;
            table.row([
                service.name.clone(),
                failure.reason.clone(),
                failure.count.to_string(),
                failure.meaning.clone(),
            ]);
        }
    }
    any.then_some(table)
}

/// Certificates of which nothing is to be said are left out.
fn certificates(services: &[Service], paint: Paint) -> Option<Table> {
    let mut table = Table::new(&["SERVICE", "FILE", "NAMES", "IT"]);
    let mut any = false;
    for (service, proxy) in with_proxy(services) {
        for certificate in &proxy.certificates {
            let Some(warning) = &certificate.warning else {
                continue;
            };
            any = true;
            table.row([
                service.name.clone(),
                certificate.file.clone(),
                certificate.names.join(" "),
                match certificate.expires_in_days {
                    0.. => paint.warning(warning),
                    _ => paint.bad(warning),
                },
            ]);
        }
    }
    any.then_some(table)
}

/// Services that take everybody are left out.
fn client_lists(services: &[Service]) -> Option<Table> {
    let mut table = Table::new(&["SERVICE", ">ALLOWED", ">BLOCKED", "OTHERS"]);
    let mut any = false;
    for service in services {
        let Some(clients) = &service.clients else {
            continue;
        };
        if clients.allow > 0 || clients.block > 0 {
            any = true;
            table.row([
                service.name.clone(),
                count(clients.allow, "prefix"),
                count(clients.block, "prefix"),
                rule(clients.others).to_owned(),
            ]);
        }
    }
    any.then_some(table)
}

fn backends(backends: &[Backend], paint: Paint) -> Option<Table> {
    let mut table = Table::new(&[
        "POOL/NAME",
        "ADDRESS",
        "HEALTH",
        "STATE",
        ">WEIGHT",
        ">FLOWS",
        ">CONNECTIONS",
        ">CLIENTS",
        ">PACKETS/S",
        ">BITS/S",
        "WHY",
    ]);
    for backend in backends {
        table.row([
            format!("{}/{}", backend.pool, backend.name),
            match backend.port {
                Some(port) => std::net::SocketAddr::new(backend.address, port).to_string(),
                None => backend.address.to_string(),
            },
            health(backend, paint),
            admin_state(backend, paint),
            match backend.starting_percent {
                Some(percent) => format!("{percent}% of {}", backend.weight),
                None => backend.weight.to_string(),
            },
            // Those in the kernel stand apart from those of the proxy.
            backend
                .flows
                .saturating_sub(backend.connections)
                .to_string(),
            backend.connections.to_string(),
            backend.clients.to_string(),
            packet_rate(&backend.traffic),
            bit_rate(&backend.traffic),
            why(backend),
        ]);
    }
    (!backends.is_empty()).then_some(table)
}

fn health(backend: &Backend, paint: Paint) -> String {
    match backend.health {
        Health::Down => paint.bad("down"),
        Health::Up if !backend.reachable => paint.bad("unreachable"),
        Health::Up => paint.good("up"),
    }
}

fn admin_state(backend: &Backend, paint: Paint) -> String {
    let state = match backend.admin_state {
        AdminState::Active if backend.full => paint.warning("full"),
        AdminState::Active if backend.backup => "backup".to_owned(),
        AdminState::Active => "active".to_owned(),
        AdminState::Drain => paint.warning("drain"),
        AdminState::Halt => paint.warning("halt"),
    };
    match &backend.admin_change {
        Some(change) => format!("{state} ({})", change.by),
        None => state,
    }
}

/// The most important reason first.
fn why(backend: &Backend) -> String {
    let mut reasons = vec![backend.health_reason.clone()];
    if !backend.reachable {
        reasons.insert(0, backend.reachable_reason.clone());
    }
    if backend.unreachable_per_s > 0.0 {
        reasons.push(format!(
            "answers with port unreachable, {} a second",
            short(backend.unreachable_per_s)
        ));
    }
    for check in &backend.service_checks {
        if check.health == Health::Down {
            reasons.push(format!("down for {}: {}", check.service, check.reason));
        }
    }
    if let Some(change) = &backend.admin_change
        && let Some(reason) = &change.reason
    {
        reasons.push(format!("{}: {reason}", change.by));
    }
    reasons.retain(|reason| !reason.is_empty());
    reasons.join("; ")
}

fn endpoints(status: &Status, paint: Paint) -> Option<Table> {
    let mut table = Table::new(&["FROM", "TO", ">IN USE", ">RESTING", ">OF", "USED"]);
    for endpoint in &status.endpoints {
        table.row([
            endpoint.snat.to_string(),
            format!("{} {}", endpoint.backend, endpoint.protocol),
            endpoint.ports_in_use.to_string(),
            endpoint.ports_resting.to_string(),
            endpoint.ports_total.to_string(),
            filled(
                endpoint.ports_in_use.saturating_add(endpoint.ports_resting),
                endpoint.ports_total,
                endpoint.fill,
                paint,
                " ",
            ),
        ]);
    }
    (!status.endpoints.is_empty()).then_some(table)
}

/// Reasons that never occurred are left out.
fn drops(status: &Status) -> Option<Table> {
    let mut table = Table::new(&["REASON", ">PACKETS", "MEANING"]);
    let occurred = || status.drops.iter().filter(|drops| drops.packets > 0);
    for drops in occurred() {
        table.row([
            drops.reason.clone(),
            drops.packets.to_string(),
            drops.meaning.clone(),
        ]);
    }
    occurred().next().map(|_| table)
}

fn packet_rate(traffic: &Traffic) -> String {
    format!(
        "{} / {}",
        short(traffic.packets_in_per_s),
        short(traffic.packets_out_per_s)
    )
}

fn bit_rate(traffic: &Traffic) -> String {
    format!(
        "{} / {}",
        short(traffic.bytes_in_per_s * 8.0),
        short(traffic.bytes_out_per_s * 8.0)
    )
}

/// Returns a number with three digits and a prefix of the SI.
fn short(number: f64) -> String {
    let mut number = number;
    for prefix in ["", "k", "M", "G"] {
        if number < 999.5 {
            let digits = if number < 9.95 { 1 } else { 0 };
            let text = format!("{number:.digits$}");
            return format!("{}{prefix}", text.strip_suffix(".0").unwrap_or(&text));
        }
        number /= 1000.0;
    }
    format!("{number:.0}T")
}

/// Colours, where they are understood (ECMA-48, Select Graphic Rendition). The words say the same.
#[derive(Clone, Copy)]
struct Paint(bool);

impl Paint {
    fn good(self, text: &str) -> String {
        self.with(text, 32)
    }

    fn warning(self, text: &str) -> String {
        self.with(text, 33)
    }

    fn bad(self, text: &str) -> String {
        self.with(text, 31)
    }

    fn with(self, text: &str, colour: u8) -> String {
        if self.0 {
            format!("\x1b[{colour}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        admin::{api, status},
        control::testing,
    };

    fn example() -> Status {
        let snapshot = status::tests::snapshot();
        status::status(
            &snapshot,
            &Default::default(),
            std::path::Path::new("/x.toml"),
            testing::now(),
        )
    }

    #[test]
    fn the_status_page_names_what_matters_in_words() {
        let mut status = example();
        status.ready = false;
        status.not_ready = vec!["ras/gw2 has not been probed yet".to_owned()];
        status.backends[1].reachable = false;
        status.backends[1].reachable_reason = "no route to 10.0.1.2".to_owned();
        status.backends[0].admin_state = AdminState::Drain;
        status.backends[0].unreachable_per_s = 12.3;

        let page = super::status(&status, false);

        for line in [
            "is not ready",
            "  ras/gw2 has not been probed yet",
            "eth0  native    the driver supports it",
            "10.0.0.100:443 udp",
            "unreachable  active",
            "no route to 10.0.1.2; connected",
            "up           drain",
            "connected; answers with port unreachable, 12 a second",
            "flows 3 of 64000, clients remembered 1 of 1024\n",
            "10.0.0.1  10.0.1.1:443 udp       1        7  1000  0%",
            "no_flow        4",
        ] {
            assert!(page.contains(line), "{line:?} in\n{page}");
        }
        assert!(
            !page.contains("malformed"),
            "what never occurred is left out"
        );
        assert!(!page.contains('\x1b'), "no colour unless asked for");
    }

    fn proxied(service: &mut Service) -> &mut Proxied {
        service.forwarding = "http".to_owned();
        service.protocol = "tcp".to_owned();
        let failure = |reason: &str, count, meaning: &str| api::Failures {
            reason: reason.to_owned(),
            count,
            meaning: meaning.to_owned(),
        };
        service.proxy.insert(Proxied {
            listening: true,
            closed: None,
            connections_open: 3,
            connections: 40,
            requests: 500,
            answers: vec![api::Answers {
                class: "5xx".to_owned(),
                count: 6,
            }],
            bytes_in: 7000,
            bytes_out: 8_000_000,
            backend_connections: 9,
            reused: 491,
            retries: 0,
            failures: vec![
                failure("no_backend", 6, "no backend is up, active and free"),
                failure("refused", 0, "the service does not take this client"),
            ],
            certificates: vec![api::Certificate {
                file: "/x/a.pem".to_owned(),
                names: vec!["a.example".to_owned()],
                not_after: "2027-01-20T08:00:00.000Z".to_owned(),
                expires_in_days: 5,
                warning: Some("runs out in 5 days".to_owned()),
            }],
        })
    }

    #[test]
    fn services_of_the_proxy_have_a_table_of_their_own() {
        let mut status = example();
        proxied(&mut status.services[0]);
        status.backends[0].flows = 5;
        status.backends[0].connections = 4;

        let page = super::status(&status, false);

        for text in [
            "PROXY\n\
             NAME     ADDRESS             BY    POOL  ELIGIBLE  OPEN  CONNECTIONS  REQUESTS  5XX    BYTES  FAILED  STATE\n\
             ras-udp  10.0.0.100:443 tcp  http  ras          2     3           40       500    6  7k / 8M       6  listens\n",
            "FAILED\n\
             SERVICE  REASON      TIMES  MEANING\n\
             ras-udp  no_backend      6  no backend is up, active and free\n",
            "CERTIFICATES\n\
             SERVICE  FILE      NAMES      IT\n\
             ras-udp  /x/a.pem  a.example  runs out in 5 days\n",
        ] {
            assert!(page.contains(text), "{text}\nin\n{page}");
        }
        assert!(!page.contains("SERVICES\n"), "none is left there:\n{page}");
        assert!(page.contains("100      1            4"), "{page}");
    }

    #[test]
    fn a_service_that_nobody_can_connect_to_says_why_in_red() {
        let mut status = example();
        let proxy = proxied(&mut status.services[0]);
        proxy.listening = false;
        proxy.closed = Some("another process has the port".to_owned());
        proxy.certificates[0].expires_in_days = -1;

        let page = super::status(&status, true);

        for text in [
            "\x1b[31mdoes not listen\x1b[0m: another process has the port",
            "\x1b[31mruns out in 5 days\x1b[0m",
        ] {
            assert!(page.contains(text), "{text}\nin\n{page}");
        }
    }

    #[test]
    fn lists_of_clients_are_on_the_page_only_where_there_are_any() {
        let mut status = example();
        assert!(!super::status(&status, false).contains("CLIENTS\n"));
        if let Some(clients) = &mut status.services[0].clients {
            (clients.allow, clients.block) = (1, 12);
        }

        let page = super::status(&status, false);

        let section = "CLIENTS\n\
             SERVICE   ALLOWED      BLOCKED  OTHERS\n\
             ras-udp  1 prefix  12 prefixes  allowed\n";
        assert!(page.contains(section), "{section} in\n{page}");
    }

    #[test]
    fn what_is_nearly_full_or_full_stands_out_in_words() {
        let mut status = example();
        status.flows = Usage {
            used: 230_000,
            max: 262_144,
            fill: Fill::High,
        };
        status.affinity = Usage {
            used: 1024,
            max: 1024,
            fill: Fill::Full,
        };
        status.endpoints[0].ports_in_use = 850;
        status.endpoints[0].fill = Fill::High;
        status.endpoints[1].ports_in_use = 1000;
        status.endpoints[1].fill = Fill::Full;

        let page = super::status(&status, false);

        for line in [
            "flows 230000 of 262144 (87%: nearly full), clients remembered 1024 of 1024 (100%: full)\n",
            "10.0.0.1  10.0.1.1:443 udp     850        7  1000  85% nearly full\n",
            "10.0.0.1  10.0.1.2:443 udp    1000        0  1000  100% full\n",
        ] {
            assert!(page.contains(line), "{line:?} in\n{page}");
        }
    }

    #[test]
    fn colour_adds_nothing_but_colour() {
        let status = example();
        let plain = super::status(&status, false);
        let mut coloured = super::status(&status, true);
        assert_ne!(coloured, plain);

        for code in ["\x1b[0m", "\x1b[31m", "\x1b[32m", "\x1b[33m"] {
            coloured = coloured.replace(code, "");
        }

        assert_eq!(coloured, plain);
    }

    #[test]
    fn numbers_are_short() {
        for (number, text) in [
            (0.0, "0"),
            (0.3, "0.3"),
            (9.0, "9"),
            (10.4, "10"),
            (999.4, "999"),
            (999.6, "1k"),
            (12_345.0, "12k"),
            (1_500_000.0, "1.5M"),
            (2.0e15, "2000T"),
        ] {
            assert_eq!(short(number), text);
        }
    }
}
