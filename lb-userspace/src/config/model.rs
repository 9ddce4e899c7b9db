//! The configuration as the rest of the daemon sees it: types that cannot be wrong.
//!
//! Every value here has been validated; the shape of the file is known to `config::raw` alone.
//! Names are unique where the documentation says so, references between tables are resolved, and
//! every default has been filled in.

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

/// A whole, valid configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// What concerns this node as a whole.
    pub node: Node,
    /// Every VIP, named in `[[vip]]` or implied by a service that listens; unique by address.
    pub vips: Vec<Vip>,
    /// Levels and form of the log.
    pub log: Log,
    /// Where the running daemon answers.
    pub admin: Admin,
    /// Where run-time changes are kept.
    pub state: State,
    /// Pools, unique by name, in the order of the file.
    pub pools: Vec<Arc<Pool>>,
    /// Services, unique by name and, `monitor` apart, by (VIP, port, protocol), in the order of
    /// the file.
    pub services: Vec<Arc<Service>>,
    /// What is legal but deserves a second look; shown by `check` and logged once at start.
    pub warnings: Vec<Warning>,
}

/// A remark about a legal configuration: where, and what it means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The place in the file, such as `pool[0].health.verify`.
    pub place: String,
    /// What it means, lower case, no full stop.
    pub message: String,
}

/// `[node]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Interfaces that the XDP program is attached to; one to eight, unique.
    pub interfaces: Vec<String>,
    /// How the program is attached.
    pub xdp_mode: XdpMode,
    /// Source addresses of translated flows; empty: the interface's own address towards the backend.
    pub snat_addresses: Vec<IpAddr>,
    /// Source ports of translated flows.
    pub snat_ports: PortRange,
    /// Capacity of the flow tables, in flows.
    pub max_flows: u32,
    /// Capacity of the affinity table, in entries.
    pub max_affinity: u32,
    /// A flow ends after this long without a packet.
    pub flow_timeout: Duration,
    /// A flow that never had a reply ends after this long.
    pub flow_timeout_unreplied: Duration,
    /// Event loops of the proxy; `None`: one per core.
    pub workers: Option<u16>,
    /// SIGTERM removes the data path as `vipd detach` does.
    pub forget_on_stop: bool,
}

/// `node.xdp_mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpMode {
    /// Native, else generic with a warning.
    Auto,
    /// Native or fail.
    Native,
    /// Generic.
    Generic,
}

/// An inclusive range of ports; `first <= last`, neither is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    /// The lowest port.
    pub first: u16,
    /// The highest port.
    pub last: u16,
}

impl PortRange {
    /// Returns how many ports the range has.
    #[must_use]
    pub fn count(self) -> u32 {
        u32::from(self.last) - u32::from(self.first) + 1
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

/// One VIP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vip {
    /// The address that clients connect to.
    pub address: IpAddr,
    /// The interface that carries it; `None`: the first of `node.interfaces`.
    pub interface: Option<String>,
    /// vipd adds and removes the address; otherwise it must be there.
    pub manage: bool,
    /// Gratuitous ARP or unsolicited neighbour advertisement when it is taken.
    pub announce: bool,
}

/// `[log]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// The least severe level that is written.
    pub level: LogLevel,
    /// Text for people or JSON for programs.
    pub format: LogFormat,
    /// Where the access log goes.
    pub access: AccessLog,
}

/// `log.level`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the levels of tracing, by name")]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// `log.format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One line of text an event.
    Text,
    /// One JSON object an event.
    Json,
}

/// `log.access`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessLog {
    /// None.
    Off,
    /// Standard output.
    Stdout,
    /// A file.
    File(PathBuf),
}

/// `[admin]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Path of the Unix socket.
    pub socket: PathBuf,
    /// Group that owns the socket; `None`: the daemon's own.
    pub group: Option<String>,
    /// Permission bits of the socket, such as `0o660`.
    pub mode: u32,
}

/// `[state]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// Directory that survives restarts.
    pub directory: PathBuf,
}

/// `[[pool]]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    /// Unique, 1 to 63 bytes of letters, digits, `-`, `_` and `.`.
    pub name: String,
    /// One to 64, unique by name within the pool.
    pub backends: Vec<Backend>,
    /// How a new client's backend is chosen.
    pub algorithm: Algorithm,
    /// How health is probed; shared by the pool's services; a `connect` check by default.
    pub health: HealthCheck,
    /// A backend that comes up reaches its full weight after this long; zero: at once.
    pub slow_start: Duration,
}

/// `pool.algorithm`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// Weighted Maglev on the source address.
    SourceHash,
    /// Each in turn, by weight.
    RoundRobin,
    /// The one with the fewest connections for its weight.
    LeastConnections,
}

/// One server of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Unique in its pool, 1 to 63 bytes; the address in text where the file gives none.
    pub name: String,
    /// Where it is reached.
    pub address: IpAddr,
    /// Port of the backend for every service of the pool; `None`: `service.backend_port`, else
    /// the service's own port.
    pub port: Option<u16>,
    /// Share of new clients relative to the others; 0 to 65535, zero takes no new clients.
    pub weight: u16,
    /// Admin state at start, unless it was changed at run time.
    pub state: AdminState,
    /// Serves only while no other backend of the pool is eligible.
    pub backup: bool,
    /// Connections or flows above which it takes no new clients; zero: no limit.
    pub max_connections: u32,
    /// A full backend takes new clients again below this.
    pub resume_connections: u32,
    /// Name to ask for and to verify, instead of the service's.
    pub server_name: Option<String>,
    /// Pinned key of this backend.
    pub pin: Option<Pin>,
}

/// Admin state of a backend: what the administrator wants of it.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum AdminState {
    /// In service.
    Active,
    /// No new clients; clients that belong here stay until their affinity runs out.
    Drain,
    /// Everybody is moved now.
    Halt,
}

impl fmt::Display for AdminState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Active => "active",
            Self::Drain => "drain",
            Self::Halt => "halt",
        })
    }
}

/// SHA-256 over a certificate's SubjectPublicKeyInfo, written `sha256:` and base64 or hexadecimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pin(pub [u8; 32]);

/// `[[service]]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// Unique, same rules as a pool's name.
    pub name: String,
    /// The address that clients connect to; unspecified only for `monitor`, which listens nowhere.
    pub vip: IpAddr,
    /// The port that clients connect to; zero only for `monitor`, which listens nowhere.
    pub port: u16,
    /// The transport.
    pub protocol: Protocol,
    /// What is done with the traffic.
    pub forwarding: Forwarding,
    /// Name of its pool; `None` only for `redirect`.
    pub pool: Option<String>,
    /// Port of the backends; `None`: the service's own.
    pub backend_port: Option<u16>,
    /// Pools by host name (`http`, `tcp` by SNI).
    pub routes: Vec<Route>,
    /// Which backend a client belongs to, and for how long.
    pub persistence: Persistence,
    /// This service's own check, on top of the pool's.
    pub health: Option<HealthCheck>,
    /// TLS towards clients (`http`).
    pub tls: Option<Tls>,
    /// TLS towards backends (`http`).
    pub backend_tls: BackendTls,
    /// Prefixes whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<Prefix>,
    /// PROXY protocol in and out.
    pub proxy_protocol: ProxyProtocol,
    /// The backend sees the client's own address.
    pub transparent: bool,
    /// Source addresses towards the backends, for the proxy.
    pub source_addresses: Vec<IpAddr>,
    /// Deadlines of the proxy.
    pub timeouts: Timeouts,
    /// Limits.
    pub limits: Limits,
    /// Prefixes of clients that may come, in the order of the file, none twice and none in
    /// `block`. Unless it is empty, everybody else is refused.
    pub allow: Vec<Prefix>,
    /// Prefixes of clients that are refused, in the order of the file, none twice.
    pub block: Vec<Prefix>,
    /// Where `redirect` sends clients.
    pub redirect: Redirect,
    /// `Strict-Transport-Security` max-age; `None`: not sent.
    pub hsts: Option<Duration>,
    /// Pages for 502, 503 and 504 by status.
    pub errors: Vec<(u16, PathBuf)>,
}

impl Service {
    /// Returns the address and port that clients connect to.
    #[must_use]
    pub fn listen(&self) -> SocketAddr {
        SocketAddr::new(self.vip, self.port)
    }

    /// Returns whether the service chooses a backend for each client.
    #[must_use]
    pub fn is_balanced(&self) -> bool {
        match self.forwarding {
            Forwarding::Snat | Forwarding::Tcp | Forwarding::Http => true,
            Forwarding::Redirect | Forwarding::Monitor => false,
        }
    }

    /// Returns whether the proxy accepts its clients.
    #[must_use]
    pub fn is_proxied(&self) -> bool {
        match self.forwarding {
            Forwarding::Tcp | Forwarding::Http | Forwarding::Redirect => true,
            Forwarding::Snat | Forwarding::Monitor => false,
        }
    }

    /// Returns whether clients come to it: `allow` and `block` say who may.
    #[must_use]
    pub fn takes_clients(&self) -> bool {
        self.forwarding != Forwarding::Monitor
    }

    /// Iterates over the names of its pools: its own, and those of its routes.
    pub fn pools(&self) -> impl Iterator<Item = &str> {
        let routes = self.routes.iter().map(|route| route.pool.as_str());
        self.pool.as_deref().into_iter().chain(routes)
    }

    /// Returns the affinity group of the service's clients in one of its pools: they belong to a
    /// backend in each.
    #[must_use]
    pub fn group_in<'a>(&'a self, pool: &'a str) -> &'a str {
        match self.pool.as_deref() == Some(pool) {
            true => &self.persistence.group,
            false => pool,
        }
    }

    /// Returns the port on which `backend` serves this service.
    #[must_use]
    pub fn port_of(&self, backend: &Backend) -> u16 {
        backend.port.or(self.backend_port).unwrap_or(self.port)
    }
}

/// `service.protocol`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// Transmission Control Protocol.
    Tcp,
    /// User Datagram Protocol.
    Udp,
}

impl Protocol {
    /// Returns the IANA protocol number.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// `service.forwarding`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forwarding {
    /// Source and destination translation in XDP.
    Snat,
    /// TCP proxy.
    Tcp,
    /// TLS and HTTP proxy.
    Http,
    /// HTTP to HTTPS.
    Redirect,
    /// Probed only.
    Monitor,
}

impl fmt::Display for Forwarding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Snat => "snat",
            Self::Tcp => "tcp",
            Self::Http => "http",
            Self::Redirect => "redirect",
            Self::Monitor => "monitor",
        })
    }
}

/// One of `service.routes`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Host name, lower case.
    pub host: String,
    /// Name of the pool.
    pub pool: String,
}

/// `service.persistence`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Persistence {
    /// What names a client.
    pub key: PersistenceKey,
    /// How long a client belongs to its backend after its last packet or connection.
    pub timeout: Duration,
    /// Services of one group share affinity; the pool's name unless the file says otherwise.
    pub group: String,
    /// Clients with the same leading bits of an IPv4 address are one client; 1 to 32.
    pub ipv4_prefix: u8,
    /// The same for IPv6; 1 to 128.
    pub ipv6_prefix: u8,
    /// Name of the cookie, for [`PersistenceKey::Cookie`].
    pub cookie: Option<String>,
}

/// `persistence.key`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PersistenceKey {
    /// The source address.
    SourceIp,
    /// A cookie (`http`).
    Cookie,
    /// Nothing: every flow is chosen by itself.
    None,
}

/// One way to find out whether a backend serves.
#[derive(Clone, Debug, PartialEq)]
pub struct HealthCheck {
    /// What is sent and expected.
    pub probe: ProbeSpec,
    /// Port to probe; `None`: the backend's port for the service or pool it is checked for.
    pub port: Option<u16>,
    /// From one probe's start to the next one's.
    pub interval: Duration,
    /// A probe without an answer after this long has failed.
    pub timeout: Duration,
    /// Successes in a row until up; at least 1.
    pub rise: u32,
    /// Failures in a row until down; at least 1.
    pub fall: u32,
}

/// What one probe sends and expects.
#[derive(Clone, Debug, PartialEq)]
pub enum ProbeSpec {
    /// A TCP connection is accepted.
    Connect,
    /// A TLS handshake is completed.
    Tls {
        /// How the certificate is judged.
        verify: Verify,
        /// Name sent as SNI and verified; `None`: the backend's `server_name`, else its address.
        server_name: Option<String>,
    },
    /// A request is answered as expected.
    Http(HttpProbe),
    /// An echo request is answered.
    Ping,
    /// A datagram is answered.
    Udp {
        /// Payload to send.
        send: Vec<u8>,
        /// Bytes that the reply must contain; `None`: any reply.
        expect: Option<Vec<u8>>,
    },
}

impl ProbeSpec {
    /// Returns the name as in `health.type`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Tls { .. } => "tls",
            Self::Http(HttpProbe { tls: None, .. }) => "http",
            Self::Http(_) => "https",
            Self::Ping => "ping",
            Self::Udp { .. } => "udp",
        }
    }
}

/// An HTTP or HTTPS probe.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpProbe {
    /// `Some`: over TLS.
    pub tls: Option<Verify>,
    /// `Host` header, SNI and name to verify; `None`: the backend's `server_name`, else its address.
    pub host: Option<String>,
    /// Path and query, beginning with `/`.
    pub path: String,
    /// Request method.
    pub method: String,
    /// Accepted status codes; never empty.
    pub expect_status: BTreeSet<u16>,
    /// Text that the body must contain.
    pub expect_body: Option<String>,
}

/// How a backend's certificate is judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verify {
    /// Against the system's roots.
    System,
    /// Against the certificates of a PEM file.
    Ca(PathBuf),
    /// By its key alone: the backend's own `pin`, or one of these.
    Pin(Vec<Pin>),
    /// Not at all.
    None,
}

/// `service.tls`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// Certificates, chosen by SNI; the first is the default.
    pub certificates: Vec<CertificateFiles>,
    /// The oldest version accepted.
    pub min_version: TlsVersion,
    /// HTTP/2 is offered.
    pub http2: bool,
    /// A client that asks for a name without a certificate is refused instead of served the default.
    pub refuse_unknown_name: bool,
}

/// One of `tls.certificates`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// Certificate chain, PEM; or a PFX, which holds the key too.
    pub certificate: PathBuf,
    /// Private key, PEM; `None`: it stands in `certificate`.
    pub key: Option<PathBuf>,
    /// A file with the password of the PFX on its first line; `None`: there is no password.
    pub password_file: Option<PathBuf>,
}

/// `tls.min_version`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsVersion {
    /// RFC 5246.
    Tls12,
    /// RFC 8446.
    Tls13,
}

/// `service.backend_tls`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendTls {
    /// How the certificate is judged.
    pub verify: Verify,
    /// SNI and the name to verify.
    pub server_name: Option<String>,
}

/// `service.proxy_protocol`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyProtocol {
    /// Version sent to the backend; `None`: off.
    pub send: Option<u8>,
    /// Peers from which it is accepted.
    pub accept_from: Vec<Prefix>,
}

/// An address prefix; the bits after `length` are zero. The order puts a prefix right before those
/// that lie in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    /// The network.
    pub address: IpAddr,
    /// Leading bits that count.
    pub length: u8,
}

/// What a service does with the clients of a prefix.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Rule {
    /// They may come.
    Allow,
    /// They are refused, and their flows end.
    Block,
}

/// `service.timeouts`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the keys of the file, explained in the README")]
pub struct Timeouts {
    pub handshake: Duration,
    pub header: Duration,
    pub idle: Duration,
    pub body: Duration,
    pub connect: Duration,
    pub response: Duration,
    pub tunnel: Duration,
}

/// `service.limits`; zero means no limit where the documentation says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the keys of the file, explained in the README")]
pub struct Limits {
    pub connections: u32,
    pub per_source: u32,
    pub header_size_bytes: u32,
    pub headers: u32,
    pub body_size_bytes: u64,
    pub streams: u32,
    pub new_flows_per_second: u32,
    pub new_flows_per_source: u32,
}

/// `service.redirect`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// 301 or 308.
    pub status: u16,
    /// Host names that are redirected; empty: every one.
    pub hosts: Vec<String>,
}
