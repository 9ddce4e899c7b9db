//! What the admin socket speaks: the JSON of every request and answer.
//!
//! These types are a promise to scripts: a field is added, never renamed or removed, and numbers
//! have their unit in the name. Readers ignore fields that they do not know. Addresses are text;
//! a port belongs to its address as `"10.1.2.3:51000"` or `"[fd00::1]:51000"`. Times are RFC 3339
//! in UTC.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

pub use crate::config::model::{AdminState, Prefix, Rule};

/// `GET /v1/status`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the running daemon.
    pub version: String,
    /// The data path is attached to every interface and every backend has had its first probe.
    pub ready: bool,
    /// What keeps `ready` from being true, for people; empty when it is true.
    pub not_ready: Vec<String>,
    /// Process id of the daemon.
    pub pid: u32,
    /// When the daemon started.
    pub started: String,
    /// Seconds since then.
    pub uptime_s: u64,
    /// The daemon found a data path at work and took it over.
    pub adopted: bool,
    /// The configuration that is in force.
    pub configuration: Configuration,
    /// Where the XDP program is attached.
    pub interfaces: Vec<Interface>,
    /// Services in the order of the configuration.
    pub services: Vec<Service>,
    /// Backends in the order of the configuration: pool by pool.
    pub backends: Vec<Backend>,
    /// SNAT ports of each pair of addresses.
    pub endpoints: Vec<Endpoint>,
    /// Flows that are alive, and how many there may be.
    pub flows: Usage,
    /// Clients remembered, and how many there may be.
    pub affinity: Usage,
    /// Dropped packets by reason: every reason, those without packets too.
    pub drops: Vec<Drops>,
    /// Lines of the access log that were lost, because they could not be written in time.
    #[serde(default)]
    pub access_log_lost: u64,
}

/// The configuration in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configuration {
    /// Path of the file.
    pub path: String,
    /// 1 at start, one more with each reload that was applied.
    pub generation: u64,
    /// When it was applied.
    pub loaded: String,
}

/// An interface with the XDP program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its index; zero: there is no such interface at the moment.
    pub index: u32,
    /// How the program is attached.
    pub mode: XdpMode,
    /// Why it is so, for people.
    pub why: String,
}

/// How the XDP program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum XdpMode {
    /// In the driver.
    Native,
    /// In the kernel's generic receive path: slower.
    Generic,
    /// Not at all.
    Detached,
}

/// A service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Its number in the maps; `null` unless `forwarding` is `snat`.
    pub id: Option<u16>,
    /// The address that clients connect to.
    pub vip: IpAddr,
    /// The port that clients connect to.
    pub port: u16,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// `snat`, `tcp`, `http`, `redirect` or `monitor`.
    pub forwarding: String,
    /// Its pool.
    pub pool: Option<String>,
    /// Backends that take new clients of this service.
    pub eligible: u32,
    /// Flows that are alive.
    pub flows: u32,
    /// Whom it takes; `null` if `forwarding` is `monitor`.
    #[serde(default)]
    pub clients: Option<ServiceClients>,
    /// What went through it.
    pub traffic: Traffic,
    /// What the proxy counts; missing for services that it does not serve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<Proxied>,
}

/// What the proxy counts of a service. Counts begin with the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proxied {
    /// Clients can connect.
    pub listening: bool,
    /// Why they cannot, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed: Option<String>,
    /// Connections from clients that are open.
    pub connections_open: u64,
    /// Connections from clients so far.
    pub connections: u64,
    /// Requests so far.
    pub requests: u64,
    /// Answers so far, by the first digit of their status: `1xx` to `5xx`.
    pub answers: Vec<Answers>,
    /// Bytes from clients: of bodies, or of the whole connection where it is passed through.
    pub bytes_in: u64,
    /// The same to clients.
    pub bytes_out: u64,
    /// Connections made to backends.
    pub backend_connections: u64,
    /// Requests that found a connection to their backend open.
    pub reused: u64,
    /// Requests and connections that were tried again.
    pub retries: u64,
    /// What has gone wrong: every reason, those that never happened too.
    pub failures: Vec<Failures>,
    /// Certificates that are shown to clients.
    pub certificates: Vec<Certificate>,
}

/// Answers of one class.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answers {
    /// `1xx` to `5xx`.
    pub class: String,
    /// How many.
    pub count: u64,
}

/// Failures of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failures {
    /// The kind, as in the access log.
    pub reason: String,
    /// How many.
    pub count: u64,
    /// What it means, for people.
    pub meaning: String,
}

/// A certificate that clients are shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// The file.
    pub file: String,
    /// Names that it is for.
    pub names: Vec<String>,
    /// When it runs out.
    pub not_after: String,
    /// Whole days until then; below zero: it has run out.
    #[serde(default)]
    pub expires_in_days: i64,
    /// What is to be said of it, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
}

/// Whom a service takes: how many prefixes are in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceClients {
    /// Prefixes that it allows.
    pub allow: u32,
    /// Prefixes that it blocks.
    pub block: u32,
    /// What becomes of clients that no prefix covers.
    pub others: Rule,
}

/// A backend in its pool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Backend {
    /// Its pool.
    pub pool: String,
    /// Its name, unique in the pool.
    pub name: String,
    /// Its number in the maps; `null` while no `snat` service uses the pool.
    pub id: Option<u16>,
    /// Where it is reached.
    pub address: IpAddr,
    /// Its port for every service; `null`: each service's own.
    pub port: Option<u16>,
    /// By the pool's check.
    pub health: Health,
    /// Why, as the last probe or the state before it says.
    pub health_reason: String,
    /// When `health` last changed; `null` before the first probe.
    pub health_since: Option<String>,
    /// It has been probed since the daemon started.
    pub probed: bool,
    /// How long the last successful probe took, in milliseconds.
    pub latency_ms: Option<f64>,
    /// What the services' own checks find.
    pub service_checks: Vec<ServiceCheck>,
    /// What the administrator wants of it.
    pub admin_state: AdminState,
    /// Who changed it at run time, why and when; `null`: as in the configuration.
    pub admin_change: Option<AdminChange>,
    /// Share of new clients relative to the others.
    pub weight: u16,
    /// Percent of its weight that it has while it starts slowly; missing otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starting_percent: Option<u8>,
    /// It serves only while no other backend of the pool is eligible.
    pub backup: bool,
    /// Its next hop is known and lies behind an interface of the data path.
    pub reachable: bool,
    /// How it is reached, or why it is not.
    pub reachable_reason: String,
    /// The way to it; `null` while unknown.
    pub next_hop: Option<NextHop>,
    /// It has as many flows as it may.
    pub full: bool,
    /// New clients come to it.
    pub eligible: bool,
    /// Flows that are alive, the proxy's connections among them.
    pub flows: u32,
    /// Connections and requests that the proxy has at it.
    #[serde(default)]
    pub connections: u32,
    /// Clients that belong to it.
    pub clients: u32,
    /// Clients' packets that it answered itself with port unreachable: nothing listens there.
    #[serde(default)]
    pub unreachable: u64,
    /// The same in a second.
    #[serde(default)]
    pub unreachable_per_s: f64,
    /// What went through it.
    pub traffic: Traffic,
}

/// Health as a check sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// It serves.
    Up,
    /// It does not.
    Down,
}

/// What a service's own check finds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceCheck {
    /// The service.
    pub service: String,
    /// What it finds.
    pub health: Health,
    /// Why.
    pub reason: String,
    /// When `health` last changed; `null` before the first probe.
    pub since: Option<String>,
    /// It has run since the daemon started.
    pub probed: bool,
}

/// A change of an admin state or a weight at run time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdminChange {
    /// The user.
    pub by: String,
    /// When.
    pub at: String,
    /// Why, if a reason was given.
    pub reason: Option<String>,
}

/// The way to a backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextHop {
    /// The interface.
    pub interface: String,
    /// MAC address that frames go to.
    pub mac: String,
    /// The gateway; `null`: the backend is on-link.
    pub via: Option<IpAddr>,
    /// Addresses that its packets come from.
    pub snat_addresses: Vec<IpAddr>,
}

/// SNAT ports between two addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Our address.
    pub snat: IpAddr,
    /// The backend's address and port.
    pub backend: SocketAddr,
    /// `udp`.
    pub protocol: String,
    /// Its block of `records`.
    pub slot: u32,
    /// Ports that flows hold.
    pub ports_in_use: u32,
    /// Ports that were freed a moment ago and are not given away yet.
    pub ports_resting: u32,
    /// Ports that there are.
    pub ports_total: u32,
    /// How full the range is: ports that rest count too.
    #[serde(default)]
    pub fill: Fill,
}

/// How full a table is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Entries.
    pub used: u32,
    /// Entries that it has room for.
    pub max: u32,
    /// The same in a word.
    #[serde(default)]
    pub fill: Fill,
}

/// How full something is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fill {
    /// There is room.
    #[default]
    Ok,
    /// From 80% on, until it is below 70% again.
    High,
    /// All is taken, or something was refused for want of it within the last ten seconds.
    Full,
}

/// Counters since the number was first used, and rates over the last seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Traffic {
    /// Packets from clients.
    pub packets_in: u64,
    /// Bytes from clients, with Ethernet headers.
    pub bytes_in: u64,
    /// Packets to clients.
    pub packets_out: u64,
    /// Bytes to clients, with Ethernet headers.
    pub bytes_out: u64,
    /// Packets from clients in a second.
    pub packets_in_per_s: f64,
    /// Bytes from clients in a second.
    pub bytes_in_per_s: f64,
    /// Packets to clients in a second.
    pub packets_out_per_s: f64,
    /// Bytes to clients in a second.
    pub bytes_out_per_s: f64,
    /// Flows begun.
    pub flows_new: u64,
    /// Flows that came here because their backend could not serve them any more.
    pub flows_moved: u64,
    /// Clients that were answered and not remembered because the affinity table was full.
    pub affinity_full: u64,
    /// Packets dropped, whatever the reason.
    pub dropped: u64,
}

/// Dropped packets of one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drops {
    /// Label of the reason.
    pub reason: String,
    /// Packets.
    pub packets: u64,
    /// What it means.
    pub meaning: String,
}

/// Query of `GET /v1/flows`; every condition narrows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowsQuery {
    /// Flows of this client.
    pub client: Option<IpAddr>,
    /// Flows of this service, by name.
    pub service: Option<String>,
    /// Flows of this backend: `BACKEND` or `POOL/BACKEND`.
    pub backend: Option<String>,
    /// At most this many; 1000 unless given.
    pub limit: Option<usize>,
}

/// Answer of `GET /v1/flows`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Flows {
    /// The flows.
    pub flows: Vec<Flow>,
    /// There are more than `limit`.
    pub more: bool,
}

/// One live flow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Flow {
    /// `udp`.
    pub protocol: String,
    /// The client.
    pub client: SocketAddr,
    /// The VIP and port.
    pub vip: SocketAddr,
    /// Our address and port towards the backend.
    pub snat: SocketAddr,
    /// The backend's address and port.
    pub endpoint: SocketAddr,
    /// Name of the service; `null`: it has been removed.
    pub service: Option<String>,
    /// Name of the pool; `null`: the backend has been removed.
    pub pool: Option<String>,
    /// Name of the backend; `null`: it has been removed.
    pub backend: Option<String>,
    /// Seconds since the last packet in either direction.
    pub idle_s: u64,
    /// The backend has answered.
    pub replied: bool,
}

/// Answer of `GET /v1/explain?client=ADDRESS`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// The client.
    pub client: IpAddr,
    /// One for each service of the client's address family, and each pool that a service has.
    pub services: Vec<ServiceExplanation>,
}

/// Where a client's next new flow on one service goes, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceExplanation {
    /// The service.
    pub service: String,
    /// Address and port that clients connect to.
    pub vip: SocketAddr,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// `snat`, `tcp`, `http` or `redirect`.
    #[serde(default)]
    pub forwarding: String,
    /// The host name that leads to the pool; `null`: every other one.
    #[serde(default)]
    pub host: Option<String>,
    /// The pool; empty for a redirect, which has none.
    pub pool: String,
    /// The backend; `null`: nobody may serve the client, or it is decided later.
    pub backend: Option<String>,
    /// Who refuses the client; `null`: it may come.
    #[serde(default)]
    pub refused: Option<Refused>,
    /// Why, for programs.
    pub because: Because,
    /// Why, for people.
    pub why: String,
    /// What is remembered of the client in the service's affinity group.
    pub affinity: Option<Remembered>,
    /// The client's flows on this service.
    pub flows: Vec<Flow>,
}

/// Why a client meets a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Because {
    /// The client belongs to it, and the time is not over.
    Affinity,
    /// The table of the pool says so for its address.
    SourceHash,
    /// The service remembers nobody: each flow, connection or request is decided by itself.
    EachFlow,
    /// The client's cookie decides, where it has one.
    Cookie,
    /// The client is new to the service, and turns decide.
    RoundRobin,
    /// The client is new to the service, and the load of the backends decides.
    LeastConnections,
    /// The service sends its clients to HTTPS and asks no backend.
    Redirect,
    /// It belongs to a backend that only this service's own check finds down.
    Detour,
    /// It belonged to a backend that cannot serve any more.
    Moved,
    /// No backend of the pool is eligible.
    NobodyEligible,
    /// The service does not take clients of this address.
    Blocked,
}

/// Who refuses a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// The longest prefix that covers the client; `null`: none does, and the configuration allows
    /// only those that it names.
    pub prefix: Option<Prefix>,
    /// Who said so at run time; `null`: the configuration says so.
    pub change: Option<AdminChange>,
}

/// An affinity entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    /// Name of the group.
    pub group: String,
    /// `POOL/BACKEND`; `null`: it has been removed.
    pub backend: Option<String>,
    /// Seconds since the client's last packet.
    pub age_s: u32,
    /// Seconds until the client belongs to nobody for this service; zero: it does not already.
    pub expires_in_s: u32,
}

/// Answer of `GET /v1/audit`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audit {
    /// Nothing was found.
    pub consistent: bool,
    /// What is wrong, and stayed so.
    pub findings: Vec<Finding>,
    /// There is more of it.
    pub more: bool,
    /// Every entry was seen: no table changed so fast that a walk through it came to no end.
    pub complete: bool,
    /// Services that were looked at.
    pub services: u32,
    /// Backends that were looked at.
    pub backends: u32,
    /// Flows that were looked at.
    pub flows: u32,
    /// Clients remembered that were looked at.
    pub clients: u32,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
}

/// One thing that is wrong in the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What, for programs.
    pub fault: String,
    /// The map; `link` for an interface, `status` for a number there.
    pub place: String,
    /// Which entry.
    pub subject: String,
    /// How it is, and how it should be.
    pub detail: String,
    /// What that means.
    pub meaning: String,
}

/// Body of `POST /v1/backends/state`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetState {
    /// `BACKEND`, if one pool alone has it, or `POOL/BACKEND`.
    pub backend: String,
    /// What it shall be.
    pub state: AdminState,
    /// Why.
    #[serde(default)]
    pub reason: Option<String>,
}

/// Body of `POST /v1/backends/weight`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetWeight {
    /// `BACKEND`, if one pool alone has it, or `POOL/BACKEND`.
    pub backend: String,
    /// The weight; `null`: the configuration's.
    pub weight: Option<u16>,
    /// Why.
    #[serde(default)]
    pub reason: Option<String>,
}

/// Answer of both, and what `drain --wait` looks at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendState {
    /// The pool.
    pub pool: String,
    /// The backend.
    pub backend: String,
    /// Its admin state.
    pub state: AdminState,
    /// Its weight.
    pub weight: u16,
    /// Flows that are alive on it.
    pub flows: u32,
    /// Clients that belong to it.
    pub clients: u32,
    /// `flows` and `clients` were counted after the change.
    pub counted: bool,
}

/// Body of `POST /v1/clients`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChangeClients {
    /// What becomes of them.
    pub action: ClientsAction,
    /// Whom it concerns; a lone address stands for itself.
    pub prefixes: Vec<Prefix>,
    /// The service; `null`: every one that clients come to, those of later configurations too.
    #[serde(default)]
    pub service: Option<String>,
    /// Why.
    #[serde(default)]
    pub reason: Option<String>,
}

/// What becomes of clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientsAction {
    /// They may come.
    Allow,
    /// They are refused, and their flows end.
    Block,
    /// What the configuration says.
    Forget,
}

/// Answer of `POST /v1/clients`: it is in force, for all of the prefixes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientsChanged {
    /// What became of them.
    pub action: ClientsAction,
    /// The service; `null`: every one.
    pub service: Option<String>,
    /// How many prefixes there were.
    pub prefixes: u32,
}

/// Answer of `GET /v1/clients`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clients {
    /// The services that clients come to, in the order of the configuration.
    pub services: Vec<ClientsOfService>,
    /// Every rule, whether it is in force or not: first those of every service, then those of
    /// each, by prefix.
    pub rules: Vec<ClientRule>,
}

/// Whom a service takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientsOfService {
    /// The service.
    pub service: String,
    /// What is in force.
    #[serde(flatten)]
    pub clients: ServiceClients,
}

/// What is said of the clients of one prefix. The longest prefix that covers a client decides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientRule {
    /// The service; `null`: every one.
    pub service: Option<String>,
    /// The clients.
    pub prefix: Prefix,
    /// What becomes of them.
    pub rule: Rule,
    /// Who said so at run time; `null`: the configuration says so.
    pub change: Option<AdminChange>,
    /// Why the rule is without effect; `null`: it is in force.
    pub without_effect: Option<String>,
}

/// Answer of `POST /v1/reload`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// Generation of the configuration in force.
    pub generation: u64,
    /// Remarks about it.
    pub warnings: Vec<String>,
}

/// Answer of `POST /v1/detach`: the daemon stops and takes the data path down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Detaching {
    /// Process id of the daemon, which is gone when all is done.
    pub pid: u32,
}

/// Every answer with a status other than 200.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiError {
    /// What kind of failure, for programs.
    pub error: ErrorKind,
    /// What failed, with its values and the remedy.
    pub message: String,
}

/// Kinds of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// 400: the request cannot be understood.
    BadRequest,
    /// 404: there is no such path, backend or service.
    NotFound,
    /// 409: several pools have a backend of that name.
    Ambiguous,
    /// 405: the path knows other methods only.
    MethodNotAllowed,
    /// 413: the body is too long.
    TooLarge,
    /// 422: the configuration has faults, or changes what cannot change at run time.
    Refused,
    /// 500: the kernel or the disk refused.
    Failed,
    /// 503: the daemon is starting or stopping.
    Unavailable,
}

impl ErrorKind {
    /// Returns the status code of an answer with this error.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::Ambiguous => 409,
            Self::TooLarge => 413,
            Self::Refused => 422,
            Self::Failed => 500,
            Self::Unavailable => 503,
        }
    }
}
