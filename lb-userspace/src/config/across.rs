//! What is right by itself and wrong together: names, references, addresses and capacity.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    net::IpAddr,
};

use lb_common::limits;

use super::{
    clients::{ClientList, Placed},
    convert::quoted,
    keys::{Found, Place, Report},
    model::{
        Backend, Forwarding, Node, PersistenceKey, Pool, Prefix, ProbeSpec, Service, Verify, Vip,
    },
    node::CAPACITY,
    suggest::nearest,
};

/// Everything that was read, with its places.
pub(super) struct Tables<'a> {
    pub(super) node: Option<Found<'a, Node>>,
    pub(super) vips: Vec<Found<'a, Vip>>,
    pub(super) pools: Vec<Found<'a, Pool>>,
    pub(super) services: Vec<Found<'a, Service>>,
    /// Names of pools that could not be read: what refers to them is not at fault. `None` is a
    /// pool whose name is unknown: any reference may mean it.
    pub(super) faulty_pools: Vec<Option<String>>,
}

impl<'a> Tables<'a> {
    /// Notes every fault between the tables.
    pub(super) fn check(&self, report: &Report) {
        self.check_counts(report);
        self.check_names(report);
        self.check_references(report);
        self.check_vips(report);
        self.check_listeners(report);
        self.check_groups(report);
        self.check_pins(report);
        for service in self.forwarded_in_xdp() {
            self.check_families(service, report);
            self.check_snat_ports(service, report);
        }
        self.check_capacity(report);
        self.check_client_lists(report);
        self.warn_of_unused(report);
    }

    fn check_counts(&self, report: &Report) {
        if let Some(beyond) = self.pools.get(limits::MAX_POOLS as usize) {
            let (count, most) = (self.pools.len(), limits::MAX_POOLS);
            report.fault(
                &beyond.place,
                format!("is one of {count} pools; keep at most {most}"),
            );
        }
        if let Some(beyond) = self.forwarded_in_xdp().nth(limits::MAX_SERVICES as usize) {
            let (count, most) = (self.forwarded_in_xdp().count(), limits::MAX_SERVICES);
            report.fault(
                &beyond.place,
                format!(
                    "is one of {count} services with forwarding = \"snat\"; keep at most {most}"
                ),
            );
        }
        let mut backends = 0;
        for pool in &self.pools {
            backends += pool.item.backends.len();
            if backends > limits::MAX_BACKENDS as usize {
                let most = limits::MAX_BACKENDS;
                report.fault(
                    &pool.at(&["backends"]),
                    format!("brings the backends of all pools to {backends}; keep at most {most}"),
                );
                break;
            }
        }
    }

    fn check_names(&self, report: &Report) {
        unique(
            self.pools
                .iter()
                .map(|pool| (&pool.item.name, pool.at(&["name"]), &pool.place)),
            report,
        );
        unique(
            self.services
                .iter()
                .map(|found| (&found.item.name, found.at(&["name"]), &found.place)),
            report,
        );
    }

    fn check_references(&self, report: &Report) {
        for service in &self.services {
            if let Some(pool) = &service.item.pool {
                self.check_pool(pool, || service.at(&["pool"]), report);
            }
            for route in &service.item.routes {
                self.check_pool(&route.pool, || service.at(&["routes"]), report);
            }
        }
    }

    fn check_pool(&self, name: &str, place: impl Fn() -> Place, report: &Report) {
        let known = || {
            self.pools
                .iter()
                .map(|pool| pool.item.name.as_str())
                .chain(self.faulty_pools.iter().flatten().map(String::as_str))
        };
        let maybe_nameless = self.faulty_pools.contains(&None);
        if maybe_nameless || known().any(|known| known == name) {
            return;
        }
        let remedy = match nearest(name, known()) {
            Some(known) => format!("did you mean {}?", quoted(known)),
            None => format!("add a [[pool]] with name = {}", quoted(name)),
        };
        report.fault(
            &place(),
            format!("no pool is called {}; {remedy}", quoted(name)),
        );
    }

    fn check_vips(&self, report: &Report) {
        let mut seen: HashMap<IpAddr, &Place> = HashMap::new();
        for vip in &self.vips {
            if let Some(first) = seen.insert(vip.item.address, &vip.place) {
                let address = vip.item.address;
                report.fault(
                    &vip.at(&["address"]),
                    format!("\"{address}\" is also that of {}; remove one", first.path),
                );
            }
            let (Some(interface), Some(node)) = (&vip.item.interface, &self.node) else {
                continue;
            };
            let interfaces = &node.item.interfaces;
            if !interfaces.contains(interface) {
                let remedy = match nearest(interface, interfaces.iter().map(String::as_str)) {
                    Some(known) => format!("did you mean {}?", quoted(known)),
                    None => "add it there".to_owned(),
                };
                report.fault(
                    &vip.at(&["interface"]),
                    format!("{} is not in node.interfaces; {remedy}", quoted(interface)),
                );
            }
        }
    }

    /// One service for each (VIP, port, protocol), and no VIP that is a server of its own service.
    fn check_listeners(&self, report: &Report) {
        let mut seen: HashMap<_, &Found<'_, Service>> = HashMap::new();
        for service in self
            .services
            .iter()
            .filter(|service| listens(&service.item))
        {
            let Service {
                name,
                vip,
                port,
                protocol,
                ..
            } = &service.item;
            if let Some(first) = seen.insert((*vip, *port, *protocol), service) {
                report.fault(
                    &service.at(&["port"]),
                    format!(
                        "{protocol} port {port} of {vip} also belongs to service {}; give {} \
                         another port or VIP",
                        quoted(&first.item.name),
                        quoted(name)
                    ),
                );
            }
            let Some(pool) = self.pool_of(&service.item) else {
                continue;
            };
            if let Some(backend) = pool
                .item
                .backends
                .iter()
                .find(|backend| backend.address == *vip)
            {
                report.fault(
                    &service.at(&["vip"]),
                    format!(
                        "\"{vip}\" is also the address of backend {}; use an address of its \
                     own for the VIP",
                        quoted(&backend.name)
                    ),
                );
            }
        }
    }

    /// Services that share affinity must mean the same backends and the same clients by it.
    fn check_groups(&self, report: &Report) {
        let mut first_of: HashMap<&str, &Found<'_, Service>> = HashMap::new();
        for service in &self.services {
            let persistence = &service.item.persistence;
            let shares = persistence.key == PersistenceKey::SourceIp
                && listens(&service.item)
                && service.item.pool.is_some();
            if !shares {
                continue;
            }
            let first = *first_of.entry(&persistence.group).or_insert(service);
            let (group, other) = (quoted(&persistence.group), quoted(&first.item.name));
            if first.item.pool != service.item.pool {
                report.fault(
                    &service.at(&["persistence", "group"]),
                    format!(
                        "group {group} is that of service {other}, which has another pool; \
                     give this service another group"
                    ),
                );
                continue;
            }
            let ours = (persistence.ipv4_prefix, persistence.ipv6_prefix);
            let theirs = (
                first.item.persistence.ipv4_prefix,
                first.item.persistence.ipv6_prefix,
            );
            if ours != theirs {
                report.fault(
                    &service.at(&["persistence"]),
                    format!(
                        "ipv4_prefix = {}, ipv6_prefix = {} differ from service {other} of the \
                         same group; write {} and {} or another group",
                        ours.0, ours.1, theirs.0, theirs.1
                    ),
                );
            }
        }
    }

    /// `verify = "pin"` without pins of its own needs one on every backend.
    fn check_pins(&self, report: &Report) {
        for pool in &self.pools {
            check_pins_of(
                probe_verify(&pool.item.health.probe),
                &pool.item.backends,
                || pool.at(&["health", "pins"]),
                report,
            );
        }
        for service in &self.services {
            let Some(pool) = self.pool_of(&service.item) else {
                continue;
            };
            let backends = &pool.item.backends;
            if let Some(health) = &service.item.health {
                check_pins_of(
                    probe_verify(&health.probe),
                    backends,
                    || service.at(&["health", "pins"]),
                    report,
                );
            }
            check_pins_of(
                Some(&service.item.backend_tls.verify),
                backends,
                || service.at(&["backend_tls", "pins"]),
                report,
            );
        }
    }

    fn check_families(&self, service: &Found<'_, Service>, report: &Report) {
        let Some(pool) = self.pool_of(&service.item) else {
            return;
        };
        let vip = service.item.vip;
        if let Some(other) = pool
            .item
            .backends
            .iter()
            .find(|backend| backend.address.is_ipv4() != vip.is_ipv4())
        {
            report.fault(
                &service.at(&["vip"]),
                format!(
                    "\"{vip}\" is {}, but backend {} is {}; \"snat\" keeps the family, so use a \
                     pool of {} backends",
                    family(vip),
                    quoted(&other.name),
                    family(other.address),
                    family(vip)
                ),
            );
        }
    }

    /// A reply to the SNAT range must never look like a client's packet for the service.
    fn check_snat_ports(&self, service: &Found<'_, Service>, report: &Report) {
        let Some(node) = &self.node else { return };
        let (vip, port, range) = (service.item.vip, service.item.port, node.item.snat_ports);
        if node.item.snat_addresses.contains(&vip) && (range.first..=range.last).contains(&port) {
            report.fault(
                &service.at(&["port"]),
                format!(
                    "{port} lies in node.snat_ports = \"{range}\", and \"{vip}\" is an SNAT \
                     address too; move the range or remove the address from node.snat_addresses"
                ),
            );
        }
    }

    /// Every SNAT port of every endpoint has a record.
    fn check_capacity(&self, report: &Report) {
        let Some(node) = &self.node else { return };
        let endpoints = self.endpoints(&node.item);
        if endpoints > u64::from(limits::MAX_ENDPOINTS) {
            let most = limits::MAX_ENDPOINTS;
            report.fault(
                &node.at(&["snat_addresses"]),
                format!(
                    "make {endpoints} endpoints, one for each SNAT address, backend and \
                 backend's port; keep at most {most} by using fewer addresses"
                ),
            );
            return;
        }
        let (ports, max_flows) = (u64::from(node.item.snat_ports.count()), node.item.max_flows);
        let needed = endpoints * ports;
        if needed <= u64::from(max_flows) {
            return;
        }
        let remedy = if needed <= u64::from(*CAPACITY.end()) {
            format!("write max_flows = {needed}, or a smaller snat_ports")
        } else {
            let most = u64::from(*CAPACITY.end()) / endpoints;
            format!(
                "narrow snat_ports to at most {most} ports and write max_flows = {}",
                most * endpoints
            )
        };
        report.fault(
            &node.at(&["max_flows"]),
            format!(
                "{max_flows} is too small: {ports} SNAT ports for each SNAT address, backend \
             and backend's port ({endpoints}) need {needed}; {remedy}"
            ),
        );
    }

    /// The ranges of every list stand in one map.
    fn check_client_lists(&self, report: &Report) {
        let services = || self.forwarded_in_xdp().map(|service| &service.item);
        let lists = services().map(|service| ClientList::of(service).ranges());
        if let (Err(error), Some(last)) = (Placed::new(lists), self.last_listed()) {
            report.fault(&last.at(&["block"]), error.to_string());
        }
        for service in &self.services {
            // Behind another balancer the client is whom that one names.
            if !service.item.proxy_protocol.accept_from.is_empty() {
                continue;
            }
            let (vip, allow) = (service.item.vip, &service.item.allow);
            let of_family = |prefix: &Prefix| prefix.address.is_ipv4() == vip.is_ipv4();
            if !allow.is_empty() && !allow.iter().any(of_family) {
                report.warn(
                    &service.at(&["allow"]),
                    format!(
                        "has no {} prefix, and \"{vip}\" is {0}: every client is refused",
                        family(vip)
                    ),
                );
            }
        }
    }

    fn last_listed(&self) -> Option<&Found<'a, Service>> {
        self.forwarded_in_xdp()
            .filter(|service| !service.item.allow.is_empty() || !service.item.block.is_empty())
            .last()
    }

    /// Counts (SNAT address, backend address and port) over the services in XDP. A family that has
    /// no SNAT address uses the interface's, which counts as one.
    fn endpoints(&self, node: &Node) -> u64 {
        let mut targets: HashSet<(IpAddr, u16)> = HashSet::new();
        for service in self.forwarded_in_xdp() {
            let backends = self
                .pool_of(&service.item)
                .map_or(&[][..], |pool| &pool.item.backends);
            targets.extend(
                backends
                    .iter()
                    .map(|backend| (backend.address, service.item.port_of(backend))),
            );
        }
        let of_family = |ipv4: bool| {
            let addresses = node
                .snat_addresses
                .iter()
                .filter(|address| address.is_ipv4() == ipv4)
                .count();
            let targets = targets
                .iter()
                .filter(|(address, _)| address.is_ipv4() == ipv4)
                .count();
            (addresses.max(1) as u64) * (targets as u64)
        };
        of_family(true) + of_family(false)
    }

    fn warn_of_unused(&self, report: &Report) {
        let used: HashSet<&str> = self
            .services
            .iter()
            .flat_map(|service| {
                let routes = service.item.routes.iter().map(|route| route.pool.as_str());
                service.item.pool.as_deref().into_iter().chain(routes)
            })
            .collect();
        for pool in self
            .pools
            .iter()
            .filter(|pool| !used.contains(pool.item.name.as_str()))
        {
            report.warn(
                &pool.place,
                format!(
                    "no service uses pool {}; it is probed all the same",
                    quoted(&pool.item.name)
                ),
            );
        }
        let vips: BTreeSet<IpAddr> = self
            .services
            .iter()
            .map(|service| service.item.vip)
            .collect();
        for vip in self
            .vips
            .iter()
            .filter(|vip| !vips.contains(&vip.item.address))
        {
            report.warn(
                &vip.place,
                format!(
                    "no service uses {}; the address is held all the same",
                    vip.item.address
                ),
            );
        }
    }

    fn forwarded_in_xdp(&self) -> impl Iterator<Item = &Found<'a, Service>> {
        self.services
            .iter()
            .filter(|service| service.item.forwarding == Forwarding::Snat)
    }

    fn pool_of(&self, service: &Service) -> Option<&Found<'a, Pool>> {
        let name = service.pool.as_deref()?;
        self.pools.iter().find(|pool| pool.item.name == name)
    }
}

/// Returns whether clients' packets reach the service through this node.
pub(super) fn listens(service: &Service) -> bool {
    service.forwarding != Forwarding::Monitor
}

fn unique<'n>(names: impl Iterator<Item = (&'n String, Place, &'n Place)>, report: &Report) {
    let mut seen: HashMap<&String, &Place> = HashMap::new();
    for (name, at, place) in names {
        if let Some(first) = seen.insert(name, place) {
            report.fault(
                &at,
                format!(
                    "{} is also the name of {}; choose another",
                    quoted(name),
                    first.path
                ),
            );
        }
    }
}

fn probe_verify(probe: &ProbeSpec) -> Option<&Verify> {
    match probe {
        ProbeSpec::Tls { verify, .. } => Some(verify),
        ProbeSpec::Http(probe) => probe.tls.as_ref(),
        ProbeSpec::Connect | ProbeSpec::Ping | ProbeSpec::Udp { .. } => None,
    }
}

fn check_pins_of(
    verify: Option<&Verify>,
    backends: &[Backend],
    place: impl Fn() -> Place,
    report: &Report,
) {
    let Some(Verify::Pin(pins)) = verify else {
        return;
    };
    if let Some(backend) = backends
        .iter()
        .find(|backend| pins.is_empty() && backend.pin.is_none())
    {
        report.fault(
            &place(),
            format!(
                "is missing, and backend {} has no pin; list pins = \
         [\"sha256:...\"], or give every backend its pin",
                quoted(&backend.name)
            ),
        );
    }
}

fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}
