//! Which clients each service takes: by the configuration, and by what was said at run time.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use lb_common::{guard::Range, limits::MAX_RANGES};

use super::{Author, DesiredState, Refusal, transitions::list};
use crate::{
    config::{
        clients::{ClientList, Placed, TooMany},
        model::{Config, Forwarding, Prefix, Rule, Service},
    },
    control::overrides::{Change, ClientRules, Overrides},
};

/// Most rules that run time may add; those of services that are gone count too.
const MAX_RULES: usize = MAX_RANGES as usize;

/// The ranges of every service that clients come to. Those of `snat` services stand in a map, whose
/// room the others do not take.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientRanges {
    /// Those of all `snat` services in a row.
    pub all: Arc<[Range]>,
    services: BTreeMap<String, Taken>,
}

/// Whom one service takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Where its ranges begin in [`ClientRanges::all`]; `None` unless it is an `snat` service.
    pub first: Option<u32>,
    /// Its ranges; none: it takes everybody.
    pub ranges: Arc<[Range]>,
    /// Prefixes that it allows.
    pub allow: u32,
    /// Prefixes that it blocks.
    pub block: u32,
    /// What becomes of clients that no prefix covers.
    pub others: Rule,
}

impl ClientRanges {
    /// Returns whom a service takes.
    #[must_use]
    pub fn get(&self, service: &str) -> Option<&Taken> {
        self.services.get(service)
    }

    /// Returns where the ranges of an `snat` service begin in the map, and what they are; `None`: it
    /// takes everybody.
    #[must_use]
    pub fn in_maps(&self, service: &str) -> Option<(u32, &Arc<[Range]>)> {
        let taken = self.get(service)?;
        let first = taken.first.filter(|_| !taken.ranges.is_empty())?;
        Some((first, &taken.ranges))
    }
}

/// What an administrator says of clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientsWish {
    /// The service; `None`: every service that clients come to, those of later configurations too.
    pub service: Option<String>,
    /// Whom it concerns.
    pub prefixes: Vec<Prefix>,
    /// What becomes of them; `None`: what the configuration says.
    pub to: Option<Rule>,
}

/// Why a wish about clients is refused; nothing has changed then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientsError {
    /// There is no such service.
    #[error(
        "no service that clients come to is called \"{wanted}\"; there are {}", list(.known)
    )]
    NoService {
        /// What was asked for.
        wanted: String,
        /// Those that there are.
        known: Vec<String>,
    },
    /// There is nothing to forget.
    #[error(
        "nothing was said at run time about {} {}; `vipd clients` lists what was", list(.prefixes),
        .service.as_ref().map_or_else(
            || "on any service".to_owned(), |service| format!("on {service} alone")
        )
    )]
    NoRule {
        /// The service that was named.
        service: Option<String>,
        /// Prefixes without a rule.
        prefixes: Vec<String>,
    },
    /// The map has no room.
    #[error(transparent)]
    TooMany(#[from] TooMany),
    /// The daemon keeps no more.
    #[error(
        "{0} prefixes would be blocked or allowed at run time; keep at most {MAX_RULES}, with \
         `vipd forget`"
    )]
    TooManyRules(usize),
}

/// Who refuses a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refuser<'a> {
    /// The longest prefix that covers it; `None`: none does, and the configuration allows only
    /// those that it names.
    pub prefix: Option<Prefix>,
    /// Who said so at run time; `None`: the configuration says so.
    pub change: Option<&'a Change<Rule>>,
}

impl DesiredState {
    /// Returns whom a service takes, with what was said at run time.
    #[must_use]
    pub fn client_list(&self, service: &Service) -> ClientList {
        client_list(service, self.overrides.clients())
    }

    /// Returns what was said at run time of a prefix on a service.
    #[must_use]
    pub fn client_rule(&self, service: &Service, prefix: &Prefix) -> Option<&Change<Rule>> {
        let rules = self.overrides.clients();
        let of = |service| rules.of(service).and_then(|rules| rules.get(prefix));
        of(Some(service.name.as_str())).or_else(|| of(None))
    }

    /// Returns who refuses `client` on a service; `None`: it may come.
    #[must_use]
    pub fn refuser(&self, service: &Service, client: IpAddr) -> Option<Refuser<'_>> {
        let list = self.client_list(service);
        let decided = list.decides(client);
        if decided.map_or(list.others, |(_, rule)| rule) == Rule::Allow {
            return None;
        }
        let prefix = decided.map(|(prefix, _)| prefix);
        Some(Refuser {
            prefix,
            change: prefix.and_then(|prefix| self.client_rule(service, &prefix)),
        })
    }

    /// Blocks, allows or forgets prefixes at run time: all of them or none.
    ///
    /// # Errors
    ///
    /// [`ClientsError`]; nothing has changed then.
    pub fn change_clients(
        &mut self,
        wish: &ClientsWish,
        author: &Author,
    ) -> Result<(), ClientsError> {
        let service = wish.service.as_deref();
        let mut rules = ClientRules::clone(self.overrides.clients());
        match wish.to {
            Some(to) => {
                self.check_service(service)?;
                for prefix in &wish.prefixes {
                    let rule = Change {
                        to,
                        by: author.by.clone(),
                        at: author.at,
                        reason: author.reason.clone(),
                    };
                    rules.set(service, *prefix, rule);
                }
            }
            None => forget(&mut rules, service, &wish.prefixes)?,
        }
        if rules.count() > MAX_RULES {
            return Err(ClientsError::TooManyRules(rules.count()));
        }
        self.client_ranges = Arc::new(place(&self.config, &rules)?);
        self.overrides.set_clients(rules);
        Ok(())
    }

    /// Only what is forgotten may have been said of a service that is gone.
    fn check_service(&self, service: Option<&str>) -> Result<(), ClientsError> {
        let Some(wanted) = service else { return Ok(()) };
        if self.client_services().any(|service| service.name == wanted) {
            return Ok(());
        }
        Err(ClientsError::NoService {
            wanted: wanted.to_owned(),
            known: self.client_services().map(|s| s.name.clone()).collect(),
        })
    }
}

fn forget(
    rules: &mut ClientRules,
    service: Option<&str>,
    prefixes: &[Prefix],
) -> Result<(), ClientsError> {
    // Twice in one wish is once.
    let distinct: BTreeSet<&Prefix> = prefixes.iter().collect();
    let unknown: Vec<String> = distinct
        .into_iter()
        .filter(|prefix| !rules.forget(service, prefix))
        .map(ToString::to_string)
        .collect();
    if unknown.is_empty() {
        return Ok(());
    }
    Err(ClientsError::NoRule {
        service: service.map(ToOwned::to_owned),
        prefixes: unknown,
    })
}

fn client_list(service: &Service, rules: &ClientRules) -> ClientList {
    let mut list = ClientList::of(service);
    for rules in [rules.of(None), rules.of(Some(&service.name))] {
        let said = rules.into_iter().flatten();
        list.prefixes
            .extend(said.map(|(prefix, rule)| (*prefix, rule.to)));
    }
    list
}

/// Returns the ranges of every service.
fn place(config: &Config, rules: &ClientRules) -> Result<ClientRanges, TooMany> {
    let services = config.services.iter();
    let services: Vec<_> = services.filter(|service| service.takes_clients()).collect();
    // Most services have the same lists, or none.
    let mut made: Vec<(ClientList, Arc<[Range]>)> = Vec::new();
    let mut taken = Vec::new();
    for service in &services {
        let list = client_list(service, rules);
        let count = |rule| list.prefixes.values().filter(|of| **of == rule).count();
        let count = |rule| u32::try_from(count(rule)).unwrap_or(u32::MAX);
        let known = made.iter().find(|(known, _)| *known == list);
        let ranges = match known {
            Some((_, ranges)) => Arc::clone(ranges),
            None => Arc::from(list.ranges()),
        };
        taken.push(Taken {
            first: None,
            ranges: Arc::clone(&ranges),
            allow: count(Rule::Allow),
            block: count(Rule::Block),
            others: list.others,
        });
        if known.is_none() {
            made.push((list, ranges));
        }
    }
    let in_maps = || {
        let services = services.iter().enumerate();
        services.filter(|(_, service)| service.forwarding == Forwarding::Snat)
    };
    let placed = Placed::new(in_maps().map(|(index, _)| taken[index].ranges.to_vec()))?;
    for ((index, _), (first, _)) in in_maps().zip(&placed.services) {
        taken[index].first = Some(*first);
    }
    let names = services.iter().map(|service| service.name.clone());
    Ok(ClientRanges {
        all: placed.all,
        services: names.zip(taken).collect(),
    })
}

/// Returns the ranges of a configuration with what was said at run time.
pub(super) fn client_ranges(
    config: &Config,
    overrides: &Overrides,
) -> Result<ClientRanges, Vec<Refusal>> {
    place(config, overrides.clients()).map_err(|error| {
        vec![Refusal {
            place: "service.block",
            message: format!(
                "{error}: shorten the lists of the file, or `vipd forget` prefixes of run time"
            ),
        }]
    })
}

#[cfg(test)]
mod tests;
