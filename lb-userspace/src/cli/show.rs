//! From answers to text for people.

mod status;

use std::fmt::Write;

pub(in crate::cli) use self::status::status;
use super::table::Table;
use crate::admin::{
    api::{
        self, Audit, BackendState, Because, ClientRule, Clients, ClientsAction, ClientsChanged,
        Explanation, Flow, Flows, Rule, ServiceExplanation,
    },
    explain::duration,
};
use crate::config::model::AdminState;

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        admin::{api, explain::explain, flows::tests::Held, status},
        control::testing,
    };

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
}
