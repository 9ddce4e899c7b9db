//! What each product asks of a load balancer, as pools and services.
//!
//! The facts are the vendors': addresses of health pages and their texts, how often they are asked,
//! how long a client stays with its server, equal weights, and HTTPS all the way to the servers.

use super::raw::{Kind, Table, Value};

/// A product that vipd knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// Secure Gateways of Parallels RAS: TCP 443, HTTP 80 and UDP 443 of one address.
    ParallelsRas,
    /// The AppsAnywhere portal, with Kerberos sign-on.
    AppsAnywhere,
    /// The Cloudpaging Admin and License service.
    CloudpagingAdmin,
    /// The Cloudpaging Enterprise Portal.
    CloudpagingPortal,
    /// The Cloudpaging Paging service, which its clients balance themselves.
    CloudpagingPaging,
}

impl Preset {
    /// Every preset, in the order of the documentation.
    pub const ALL: [Self; 5] = [
        Self::ParallelsRas,
        Self::AppsAnywhere,
        Self::CloudpagingAdmin,
        Self::CloudpagingPortal,
        Self::CloudpagingPaging,
    ];

    /// Returns the name as in `site.preset`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ParallelsRas => "parallels-ras",
            Self::AppsAnywhere => "appsanywhere",
            Self::CloudpagingAdmin => "cloudpaging-admin",
            Self::CloudpagingPortal => "cloudpaging-portal",
            Self::CloudpagingPaging => "cloudpaging-paging",
        }
    }

    /// Returns the name of the product and its part.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::ParallelsRas => "Parallels RAS Secure Gateways",
            Self::AppsAnywhere => "AppsAnywhere",
            Self::CloudpagingAdmin => "Cloudpaging Admin and License service",
            Self::CloudpagingPortal => "Cloudpaging Enterprise Portal",
            Self::CloudpagingPaging => "Cloudpaging Paging service",
        }
    }

    /// Returns whether clients' TLS ends at vipd unless the site says otherwise.
    pub(super) const fn is_web(self) -> bool {
        matches!(
            self,
            Self::AppsAnywhere | Self::CloudpagingAdmin | Self::CloudpagingPortal
        )
    }

    /// Returns whether clients come through vipd at all.
    pub(super) const fn is_forwarded(self) -> bool {
        !matches!(self, Self::CloudpagingPaging)
    }
}

/// A `[[site]]` without faults.
pub(super) struct Site {
    pub(super) preset: Preset,
    /// Name of the pool, and the beginning of the services' names.
    pub(super) name: String,
    /// Where the block stands, such as `site[0]`.
    pub(super) place: String,
    pub(super) line: usize,
    /// The VIP in text; empty if the preset has none.
    pub(super) vip: String,
    pub(super) backends: Vec<Value>,
    pub(super) fqdn: Option<String>,
    /// The certificate's files, where TLS ends at vipd.
    pub(super) certificate: Option<SiteCertificate>,
    /// `verify`, `ca` and `pins` as they are to stand in `health` and `backend_tls`.
    pub(super) trust: Vec<(&'static str, Kind)>,
    pub(super) udp: bool,
}

/// `certificate`, `key` and `password_file` of a site.
pub(super) struct SiteCertificate {
    pub(super) certificate: String,
    pub(super) key: Option<String>,
    pub(super) password_file: Option<String>,
}

/// How long a client of RAS stays with its gateway: on TCP, and on UDP.
const RAS_TCP_TIMEOUT: &str = "6m";
const RAS_UDP_TIMEOUT: &str = "6h";
/// How long a client of the web products stays with its server, at least.
const WEB_TIMEOUT: &str = "30m";
/// How often the vendors ask for a probe.
const INTERVAL: &str = "30s";

impl Site {
    /// Returns the pool that the site stands for.
    pub(super) fn pool(&self) -> Table {
        let mut pool = self
            .block("pool", &self.name)
            .with("name", self.name.as_str());
        pool.comments = vec![format!(
            "{}, from {} (preset {})",
            self.preset.title(),
            self.place,
            self.preset.name()
        )];
        let pool = pool.with_reason(
            "backends",
            self.backends.iter().map(weighted).collect::<Vec<Value>>(),
            "equal weights, so that every server has an equal share",
        );
        match self.preset {
            Preset::ParallelsRas => pool.with_reason(
                "health",
                self.https_health("/RASHTML5Gateway", None),
                "the gateway's own page, for UDP as well: a ping answers while the gateway is dead",
            ),
            Preset::AppsAnywhere => pool.with_reason(
                "health",
                self.https_health("/healthcheck", None),
                "the service's own page, not the server's address; the vendor names no text for it",
            ),
            Preset::CloudpagingAdmin => pool.with_reason(
                "health",
                self.https_health(
                    "/jukeboxserver/do/license/token/renew.tok?msid=ping",
                    Some("Token service is ready."),
                ),
                "the token service says so when it works",
            ),
            Preset::CloudpagingPortal => pool.with_reason(
                "health",
                self.https_health("/jukeboxdrm/ping.do", Some("Enterprise service is ready.")),
                "the portal says so when it works",
            ),
            Preset::CloudpagingPaging => pool.with_reason(
                "health",
                self.http_health(
                    "/jukeboxserver/stream/client.do?msid=ping",
                    "Stream service is ready.",
                ),
                "the paging service says so when it works, over plain HTTP",
            ),
        }
    }

    /// Returns the services that the site stands for.
    pub(super) fn services(&self) -> Vec<Table> {
        match self.preset {
            Preset::ParallelsRas => {
                let mut services = vec![self.ras_https(), self.ras_http()];
                services.extend(self.udp.then(|| self.ras_udp()));
                services
            }
            Preset::AppsAnywhere | Preset::CloudpagingAdmin | Preset::CloudpagingPortal => {
                vec![self.web(), self.redirect()]
            }
            Preset::CloudpagingPaging => vec![self.watched()],
        }
    }

    fn ras_https(&self) -> Table {
        let reason = if self.certificate.is_some() {
            "TLS ends here and begins anew towards the gateways"
        } else {
            "TLS passes through: the gateways hold the certificates"
        };
        let way = if self.certificate.is_some() {
            "http"
        } else {
            "tcp"
        };
        let service = self
            .service("https", 443, "tcp")
            .with_reason("forwarding", way, reason)
            .with("pool", self.name.as_str());
        self.with_tls(service, None).with_reason(
            "persistence",
            persistence(RAS_TCP_TIMEOUT),
            "the vendor's 6 minutes; the same entry serves TCP and UDP, so both meet one gateway",
        )
    }

    fn ras_http(&self) -> Table {
        self.service("http", 80, "tcp")
            .with("forwarding", "tcp")
            .with("pool", self.name.as_str())
            .with("persistence", persistence(RAS_TCP_TIMEOUT))
            .with_reason(
                "health",
                Table::default()
                    .with("type", "connect")
                    .with("interval", INTERVAL),
                "port 80 itself, on top of the pool's check",
            )
    }

    fn ras_udp(&self) -> Table {
        let mut service = self.service("udp", 443, "udp");
        service.comments =
            vec!["RDP over DTLS, which cannot be terminated: it passes through in XDP".to_owned()];
        if self.certificate.is_some() {
            service.comments.push(
                "bridging TLS on TCP leaves UDP alone: the gateways' own certificates serve it"
                    .to_owned(),
            );
        }
        service
            .with("forwarding", "snat")
            .with("pool", self.name.as_str())
            .with_reason(
                "persistence",
                persistence(RAS_UDP_TIMEOUT),
                "the vendor's 6 hours: a session may be silent for long",
            )
    }

    fn web(&self) -> Table {
        let service = self
            .service("https", 443, "tcp")
            .with_reason(
                "forwarding",
                "http",
                "TLS ends here and begins anew: the servers take HTTPS only, and X-Forwarded-For \
                 is set",
            )
            .with("pool", self.name.as_str());
        // Sign-on by Kerberos belongs to one connection, which HTTP/2 would share.
        let http2 = (self.preset == Preset::AppsAnywhere).then_some(false);
        self.with_tls(service, http2).with_reason(
            "persistence",
            persistence(WEB_TIMEOUT),
            "at least 30 minutes by source address, as the vendor asks",
        )
    }

    fn with_tls(&self, service: Table, http2: Option<bool>) -> Table {
        let Some(files) = &self.certificate else {
            return service;
        };
        let files = self
            .own_keys()
            .with("certificate", files.certificate.as_str())
            .with_some("key", files.key.as_deref())
            .with_some("password_file", files.password_file.as_deref());
        let tls = Table::default()
            .with("certificates", vec![Value::from(files)])
            .with_some("http2", http2);
        let trust = self
            .with_trust(Table::default())
            .with_some("server_name", self.fqdn.as_deref());
        let service = match http2 {
            Some(false) => service.with_reason("tls", tls, "Kerberos sign-on needs HTTP/1.1"),
            _ => service.with("tls", tls),
        };
        service.with("backend_tls", trust)
    }

    fn redirect(&self) -> Table {
        let hosts: Vec<Value> = self
            .fqdn
            .iter()
            .map(|fqdn| Value::from(fqdn.as_str()))
            .collect();
        self.service("redirect", 80, "tcp")
            .with_reason(
                "forwarding",
                "redirect",
                "HTTP is sent to HTTPS, and the address stays as it is",
            )
            .with(
                "redirect",
                Table::default().with("status", 301).with("hosts", hosts),
            )
    }

    fn watched(&self) -> Table {
        let name = format!("{}-monitor", self.name);
        self.block("service", &name)
            .with("name", name.as_str())
            .with("port", 80)
            .with("protocol", "tcp")
            .with_reason(
                "forwarding",
                "monitor",
                "only watched: the player tries every paging server and takes the best itself",
            )
            .with("pool", self.name.as_str())
    }

    fn service(&self, part: &str, port: i64, protocol: &str) -> Table {
        let name = format!("{}-{part}", self.name);
        self.block("service", &name)
            .with("name", name.as_str())
            .with("vip", self.vip.as_str())
            .with("port", port)
            .with("protocol", protocol)
    }

    fn block(&self, kind: &str, name: &str) -> Table {
        let origin = Some(format!("{} > {kind} \"{name}\"", self.place));
        Table {
            line: self.line,
            origin,
            ..Table::default()
        }
    }

    /// A table whose keys are the site's own, so that faults of theirs are told at the site.
    fn own_keys(&self) -> Table {
        Table {
            line: self.line,
            origin: Some(self.place.clone()),
            ..Table::default()
        }
    }

    fn https_health(&self, path: &str, body: Option<&str>) -> Table {
        // Servers with names of their own are asked by them.
        let names_of_their_own = self.backends.iter().all(|backend| match &backend.kind {
            Kind::Table(table) => table.get("server_name").is_some(),
            _ => false,
        });
        let host = self.fqdn.as_deref().filter(|_| !names_of_their_own);
        let health = health("https", path, body)
            .with("port", 443)
            .with_some("host", host);
        self.with_trust(health)
    }

    fn http_health(&self, path: &str, body: &str) -> Table {
        health("http", path, Some(body))
            .with("port", 80)
            .with_some("host", self.fqdn.as_deref())
    }

    fn with_trust(&self, table: Table) -> Table {
        self.trust
            .iter()
            .fold(table, |table, (key, kind)| table.with(key, kind.clone()))
    }
}

fn health(kind: &str, path: &str, body: Option<&str>) -> Table {
    Table::default()
        .with("type", kind)
        .with("path", path)
        .with("expect_status", vec![Value::from(200)])
        .with_some("expect_body", body)
        .with("interval", INTERVAL)
}

fn persistence(timeout: &str) -> Table {
    Table::default()
        .with("key", "source-ip")
        .with("timeout", timeout)
}

/// Returns a backend as a table that states its weight.
fn weighted(backend: &Value) -> Value {
    let table = match &backend.kind {
        Kind::Table(table) => table.clone(),
        other => Table {
            line: backend.line,
            ..Table::default()
        }
        .with("address", other.clone()),
    };
    let table = if table.get("weight").is_some() {
        table
    } else {
        table.with("weight", 100)
    };
    Value {
        line: backend.line,
        kind: Kind::Table(table),
    }
}
