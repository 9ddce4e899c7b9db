//! Whom services take: from a snapshot to the answer of `GET /v1/clients`, and from a request to
//! what control is asked for. Pure.

use super::{api, status::admin_change};
use crate::{
    config::{clients::ClientList, model::Service},
    control::state::{ClientsWish, DesiredState},
};

/// Returns every rule, and what is in force on each service.
#[must_use]
pub(super) fn clients(state: &DesiredState) -> api::Clients {
    let services = state.client_services().filter_map(|service| {
        Some(api::ClientsOfService {
            service: service.name.clone(),
            clients: service_clients(state, service)?,
        })
    });
    let mut rules: Vec<api::ClientRule> = state
        .client_services()
        .flat_map(|service| configured(state, service))
        .chain(said_at_run_time(state))
        .collect();
    rules.sort_by(|a, b| (&a.service, a.prefix).cmp(&(&b.service, b.prefix)));
    api::Clients {
        services: services.collect(),
        rules,
    }
}

/// Returns how many prefixes are in force on a service; `None` for one that
/// no client comes to.
#[must_use]
pub(super) fn service_clients(
    state: &DesiredState,
    service: &Service,
) -> Option<api::ServiceClients> {
    let taken = state.client_ranges.get(&service.name)?;
    Some(api::ServiceClients {
        allow: taken.allow,
        block: taken.block,
        others: taken.others,
    })
}

/// Returns what control is asked for.
#[must_use]
pub(super) fn wish(wanted: &api::ChangeClients) -> ClientsWish {
    ClientsWish {
        service: wanted.service.clone(),
        prefixes: wanted.prefixes.clone(),
        to: match wanted.action {
            api::ClientsAction::Allow => Some(api::Rule::Allow),
            api::ClientsAction::Block => Some(api::Rule::Block),
            api::ClientsAction::Forget => None,
        },
    }
}

fn configured(state: &DesiredState, service: &Service) -> Vec<api::ClientRule> {
    let prefixes = ClientList::of(service).prefixes.into_iter();
    prefixes
        .map(|(prefix, rule)| api::ClientRule {
            service: Some(service.name.clone()),
            prefix,
            rule,
            change: None,
            without_effect: state
                .client_rule(service, &prefix)
                .map(|_| "what was said of the prefix at run time takes its place".to_owned()),
        })
        .collect()
}

fn said_at_run_time(state: &DesiredState) -> impl Iterator<Item = api::ClientRule> {
    state
        .overrides
        .clients()
        .iter()
        .map(|(service, prefix, change)| {
            let is_there = |name: &str| state.client_services().any(|service| service.name == name);
            api::ClientRule {
                service: service.map(ToOwned::to_owned),
                prefix,
                rule: change.to,
                change: Some(admin_change(change)),
                without_effect: service
                    .filter(|name| !is_there(name))
                    .map(|_| "there is no such service now".to_owned()),
            }
        })
}
