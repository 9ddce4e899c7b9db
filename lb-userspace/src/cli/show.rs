//! From answers to text for people.

use std::fmt::Write;

use super::table::Table;
use crate::admin::{
    api::{
        self, Audit, Backend, BackendState, Because, ClientRule, Clients, ClientsAction,
        ClientsChanged, Explanation, Fill, Flow, Flows, Health, Proxied, Rule, Service,
        ServiceExplanation, Status, Traffic, Usage, XdpMode,
    },
    explain::duration,
};
use crate::config::model::AdminState;
use crate::control::fill::percent;

/// Returns the status as a page.
pub(super) fn status(status: &Status, colour: bool) -> String {
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

fn rule(rule: Rule) -> &'static str {
    match rule {
        Rule::Allow => "allowed",
        Rule::Block => "blocked",
    }
}

/// Returns what was changed of clients.
pub(super) fn clients_changed(changed: &ClientsChanged) -> String {
    let done = match changed.action {
        ClientsAction::Block => "blocked",
        ClientsAction::Allow => "allowed",
        ClientsAction::Forget => "forgotten",
    };
    let service = changed.service.as_deref().unwrap_or("every service");
    format!(
        "{done} on {service}: {}\n",
        count(changed.prefixes, "prefix")
    )
}

/// Returns who is blocked and allowed, as a table.
pub(super) fn clients(clients: &Clients) -> String {
    let mut table = Table::new(&["SERVICE", "CLIENTS", "ARE", "BY", "WHEN", "WHY"]);
    for rule in &clients.rules {
        table.row(client_rule(rule));
    }
    let refusing = clients.services.iter();
    let refusing = refusing.filter(|service| service.clients.others == Rule::Block);
    for service in refusing.clone() {
        table.row([
            service.service.clone(),
            "everybody else".to_owned(),
            rule(Rule::Block).to_owned(),
            CONFIGURATION.to_owned(),
            String::new(),
            "it has an allow list".to_owned(),
        ]);
    }
    if clients.rules.is_empty() && refusing.count() == 0 {
        return "every service takes every client\n".to_owned();
    }
    table.text()
}

/// Who says what nobody said at run time.
const CONFIGURATION: &str = "configuration";

fn client_rule(of: &ClientRule) -> [String; 6] {
    let change = of.change.as_ref();
    let reason = change.and_then(|change| change.reason.clone());
    let idle = of.without_effect.as_ref();
    let idle = idle.map(|why| format!("(without effect: {why})"));
    let why: Vec<String> = reason.into_iter().chain(idle).collect();
    [
        of.service.clone().unwrap_or_else(|| "(every)".to_owned()),
        of.prefix.to_string(),
        rule(of.rule).to_owned(),
        change.map_or(CONFIGURATION, |change| &change.by).to_owned(),
        change.map(|change| change.at.clone()).unwrap_or_default(),
        why.join(" "),
    ]
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

/// Returns what an administrator changed.
pub(super) fn backend_state(state: &BackendState) -> String {
    let now = match state.state {
        AdminState::Active => "is in service",
        AdminState::Drain => "drains: it takes no new clients",
        AdminState::Halt => "is halted: its clients move",
    };
    format!(
        "{}/{} {now}; {}, {}\n",
        state.pool,
        state.backend,
        count(state.flows, "flow"),
        count(state.clients, "client")
    )
}

/// Returns a number of things in words.
pub(super) fn count(number: u32, what: &str) -> String {
    match number {
        1 => format!("1 {what}"),
        _ if what.ends_with('x') => format!("{number} {what}es"),
        _ => format!("{number} {what}s"),
    }
}

/// Returns which backend a client meets, and why.
pub(super) fn explanation(explanation: &Explanation) -> String {
    if explanation.services.is_empty() {
        return format!(
            "no service has an address of the family of {}\n",
            explanation.client
        );
    }
    let services = explanation.services.iter();
    let services = services.map(|service| explain_service(explanation, service));
    services.collect::<Vec<_>>().join("\n")
}

fn explain_service(explanation: &Explanation, service: &ServiceExplanation) -> String {
    let goes = match (&service.backend, service.because) {
        (_, Because::Blocked) => "is refused".to_owned(),
        (_, Because::Redirect) => "is answered here".to_owned(),
        (_, Because::NobodyEligible) => format!("finds nobody in {}", service.pool),
        (Some(backend), _) => format!("goes to {}/{backend}", service.pool),
        (None, _) => format!("goes to no certain backend of {}", service.pool),
    };
    let what = match service.forwarding.as_str() {
        "tcp" => "connection",
        "http" | "redirect" => "request",
        _ => "flow",
    };
    let host = service.host.as_ref();
    let host = host.map_or_else(String::new, |host| format!(", host {host}"));
    let mut text = format!(
        "{} ({} {}{host})\n  a new {what} of {} {goes}\n  because {}\n",
        service.service, service.vip, service.protocol, explanation.client, service.why
    );
    if let Some(held) = &service.affinity {
        let backend = held.backend.as_deref().unwrap_or("a removed backend");
        let _ = writeln!(
            text,
            "  remembered in group {}: {backend}, last seen {} ago, for {} more",
            held.group,
            duration(held.age_s),
            duration(held.expires_in_s)
        );
    }
    for flow in &service.flows {
        let _ = writeln!(
            text,
            "  flow {} as {} to {} ({}), idle {} s",
            flow.client,
            flow.snat,
            flow.endpoint,
            backend_name(flow),
            flow.idle_s
        );
    }
    text
}

/// Returns what an audit found.
pub(super) fn audit(audit: &Audit) -> String {
    let mut text = String::new();
    for finding in &audit.findings {
        let api::Finding {
            place,
            subject,
            detail,
            meaning,
            ..
        } = finding;
        let _ = writeln!(text, "{place}: {subject} {detail}\n  {meaning}");
    }
    if audit.more {
        text.push_str("there is more of it\n");
    }
    if !audit.complete {
        text.push_str("a table changed too fast to be seen whole: ask again at a quiet time\n");
    }
    let _ = writeln!(
        text,
        "{}: looked at {}, {}, {} and {} in {} ms",
        if audit.consistent {
            "the kernel's state agrees with the daemon's"
        } else {
            "the kernel's state does not agree with the daemon's"
        },
        count(audit.services, "service"),
        count(audit.backends, "backend"),
        count(audit.flows, "flow"),
        count(audit.clients, "client"),
        audit.took_ms,
    );
    text
}

/// Returns flows as a table.
pub(super) fn flows(flows: &Flows) -> String {
    let mut table = Table::new(&[
        "CLIENT", "SERVICE", "VIP", "AS", "BACKEND", "ENDPOINT", ">IDLE S", "REPLIED",
    ]);
    for flow in &flows.flows {
        table.row([
            flow.client.to_string(),
            flow.service
                .clone()
                .unwrap_or_else(|| "(removed)".to_owned()),
            flow.vip.to_string(),
            flow.snat.to_string(),
            backend_name(flow),
            flow.endpoint.to_string(),
            flow.idle_s.to_string(),
            if flow.replied { "yes" } else { "no" }.to_owned(),
        ]);
    }
    table.text()
}

fn backend_name(flow: &Flow) -> String {
    match (&flow.pool, &flow.backend) {
        (Some(pool), Some(backend)) => format!("{pool}/{backend}"),
        _ => "(removed)".to_owned(),
    }
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
        admin::{api, explain::explain, flows::tests::Held, status},
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
    fn who_is_blocked_is_a_table_with_those_who_said_so() {
        let rule = |service: Option<&str>, prefix: &str, by: Option<&str>| ClientRule {
            service: service.map(ToOwned::to_owned),
            prefix: prefix.parse().expect("a prefix"),
            rule: Rule::Block,
            change: by.map(|by| api::AdminChange {
                by: by.to_owned(),
                at: "2027-01-15T08:00:00.000Z".to_owned(),
                reason: Some("a scan".to_owned()),
            }),
            without_effect: None,
        };
        let mut gone = rule(Some("old"), "10.2.0.0/16", Some("ann"));
        gone.without_effect = Some("there is no such service now".to_owned());
        let mut clients = Clients {
            services: vec![api::ClientsOfService {
                service: "ras-udp".to_owned(),
                clients: api::ServiceClients {
                    allow: 0,
                    block: 2,
                    others: Rule::Block,
                },
            }],
            rules: vec![
                rule(None, "10.1.0.0/16", Some("root")),
                gone,
                rule(Some("ras-udp"), "10.3.0.0/16", None),
            ],
        };

        assert_eq!(
            super::clients(&clients),
            "SERVICE  CLIENTS         ARE      BY             WHEN                      WHY\n\
             (every)  10.1.0.0/16     blocked  root           2027-01-15T08:00:00.000Z  a scan\n\
             old      10.2.0.0/16     blocked  ann            2027-01-15T08:00:00.000Z  a scan (without effect: there is no such service now)\n\
             ras-udp  10.3.0.0/16     blocked  configuration\n\
             ras-udp  everybody else  blocked  configuration                            it has an allow list\n"
        );
        clients.rules.clear();
        clients.services[0].clients.others = Rule::Allow;
        assert_eq!(
            super::clients(&clients),
            "every service takes every client\n"
        );
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
    fn an_explanation_reads_as_a_sentence() {
        let held = Held {
            flows: Vec::new(),
            remembered: Some((0, 60)),
        };
        let snapshot = status::tests::snapshot();
        let told = explain(&held, &snapshot, testing::ip("10.9.9.9")).expect("nothing fails");

        assert_eq!(
            explanation(&told),
            "ras-udp (10.0.0.100:443 udp)\n  \
             a new flow of 10.9.9.9 goes to ras/gw1\n  \
             because it belongs there: last seen 1m 0s ago, for 5h 59m more\n  \
             remembered in group ras: ras/gw1, last seen 1m 0s ago, for 5h 59m more\n"
        );
    }

    #[test]
    fn an_audit_says_what_is_wrong_and_what_that_means() {
        let mut found = Audit {
            consistent: true,
            findings: Vec::new(),
            more: false,
            complete: true,
            services: 1,
            backends: 2,
            flows: 30,
            clients: 4,
            took_ms: 12,
        };
        let seen = "1 service, 2 backends, 30 flows and 4 clients in 12 ms\n";
        assert_eq!(
            audit(&found),
            format!("the kernel's state agrees with the daemon's: looked at {seen}")
        );
        found.consistent = false;
        found.more = true;
        found.complete = false;
        found.findings.push(api::Finding {
            fault: "missing".to_owned(),
            place: "services".to_owned(),
            subject: "10.0.0.100:443".to_owned(),
            detail: "is missing".to_owned(),
            meaning: "Somebody removed it.".to_owned(),
        });

        assert_eq!(
            audit(&found),
            format!(
                "services: 10.0.0.100:443 is missing\n  Somebody removed it.\nthere is more of \
                 it\na table changed too fast to be seen whole: ask again at a quiet time\nthe \
                 kernel's state does not agree with the daemon's: looked at {seen}"
            )
        );
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
