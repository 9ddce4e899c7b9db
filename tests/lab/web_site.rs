//! A site of the web behind the balancer: origins on the gateways' TCP 443 and 80, an authority that
//! everybody trusts, and the certificate that clients are shown.

use std::{fmt::Write, net::SocketAddr, sync::Arc};

use rustls::ClientConfig;

use super::{
    authority::Authority,
    configuration::{Configuration, backend},
    curl::Curl,
    daemon::Daemon,
    host::Host,
    http2::Http2,
    nginx::Certificate,
    origin::Origin,
    raw::Raw,
    site::{Lab, vip},
};

/// The name that clients ask for.
pub const PORTAL: &str = "portal.lab.example";
/// The name that the origins' certificates are for.
pub const INSIDE: &str = "inside.lab.example";
/// The pool of [`WebSite::configuration`].
pub const POOL: &str = "web";
/// The HTTPS service of [`WebSite::configuration`].
pub const SERVICE: &str = "portal";
/// A check that finds a change within a second or so.
pub const HEALTH: &str = r#"{ type = "https", path = "/healthcheck", interval = "300ms", timeout = "300ms", rise = 1, fall = 3, verify = "none" }"#;

/// The origins of a site, and who vouches for them.
#[derive(Debug)]
pub struct WebSite {
    /// Signs every certificate.
    pub authority: Authority,
    /// What clients are shown.
    pub certificate: Certificate,
    /// On each gateway's TCP 443, with TLS.
    pub origins: Vec<Origin>,
}

impl WebSite {
    /// Starts an origin on each gateway of `lab`.
    #[must_use]
    pub fn start(lab: &Lab) -> Self {
        Self::start_with(lab, |origin| origin)
    }

    /// The same with origins as `make` makes them.
    #[must_use]
    pub fn start_with(
        lab: &Lab,
        make: impl Fn(super::origin::OriginBuilder) -> super::origin::OriginBuilder,
    ) -> Self {
        let authority = Authority::new(lab.directory(), "web-ca");
        let inside = authority.certificate(&[INSIDE]);
        Self {
            certificate: authority.certificate(&[PORTAL, "*.apps.lab.example"]),
            origins: lab
                .gateways()
                .iter()
                .map(|host| make(Origin::on(host, 443).tls(&inside)).start())
                .collect(),
            authority,
        }
    }

    /// Returns the origin called `name`.
    ///
    /// # Panics
    ///
    /// If there is none.
    #[must_use]
    pub fn origin(&self, name: &str) -> &Origin {
        let found = self.origins.iter().find(|origin| origin.name() == name);
        found.unwrap_or_else(|| panic!("no origin is called {name}"))
    }

    /// Returns the site's configuration: pool [`POOL`], and service [`SERVICE`] on TCP 443 of the
    /// VIP, with 30 minutes of affinity.
    #[must_use]
    pub fn configuration(&self, lab: &Lab) -> Configuration {
        self.configuration_with(lab, "")
    }

    /// The same with `more` lines in the service's table.
    #[must_use]
    pub fn configuration_with(&self, lab: &Lab, more: &str) -> Configuration {
        self.configuration_checked(lab, HEALTH, more)
    }

    /// The same, but that a hundred checks have to fail: that some find no time on a machine which is
    /// kept busy takes no backend out.
    #[must_use]
    pub fn configuration_under_attack(&self, lab: &Lab, more: &str) -> Configuration {
        self.configuration_checked(lab, &HEALTH.replace("fall = 3", "fall = 100"), more)
    }

    fn configuration_checked(&self, lab: &Lab, health: &str, more: &str) -> Configuration {
        Configuration::new()
            .pool(POOL, &self.backends(lab), health)
            .text(&self.service(SERVICE, vip(443), POOL, more))
    }

    /// Returns the pool's backends: every gateway.
    #[must_use]
    pub fn backends(&self, lab: &Lab) -> Vec<String> {
        lab.gateways().iter().map(backend).collect()
    }

    /// Returns the table of an HTTPS service; keys in `more` replace the usual ones.
    #[must_use]
    pub fn service(&self, name: &str, vip: SocketAddr, pool: &str, more: &str) -> String {
        let has = |key: &str| more.lines().any(|line| line.trim_start().starts_with(key));
        let mut table = format!(
            "[[service]]\nname = \"{name}\"\nvip = \"{}\"\nport = {}\nprotocol = \"tcp\"\n\
             forwarding = \"http\"\npool = \"{pool}\"\n",
            vip.ip(),
            vip.port()
        );
        if !has("tls") {
            writeln!(table, "tls = {}", self.tls("")).expect("a string takes text");
        }
        if !has("backend_tls") {
            writeln!(table, "backend_tls = {}", self.backend_tls()).expect("a string takes text");
        }
        if !has("persistence") {
            table += "persistence = { key = \"source-ip\", timeout = \"30m\" }\n";
        }
        table + more + "\n"
    }

    /// Returns `tls` with the site's certificate and `more` keys.
    #[must_use]
    pub fn tls(&self, more: &str) -> String {
        let (certificate, key) = (&self.certificate.certificate, &self.certificate.key);
        let more = match more {
            "" => String::new(),
            more => format!(", {more}"),
        };
        format!(
            "{{ certificates = [{{ certificate = \"{}\", key = \"{}\" }}]{more} }}",
            certificate.display(),
            key.display()
        )
    }

    /// Returns `backend_tls` that trusts the site's authority and the origins' name.
    #[must_use]
    pub fn backend_tls(&self) -> String {
        format!(
            "{{ verify = \"ca\", ca = \"{}\", server_name = \"{INSIDE}\" }}",
            self.authority.file().display()
        )
    }

    /// Returns a curl on `host` that trusts the authority and knows where [`PORTAL`] is.
    #[must_use]
    pub fn curl(&self, lab: &Lab, host: &Host) -> Curl {
        Curl::on(lab, host)
            .resolve(PORTAL, vip(443))
            .trust(&self.authority.file())
    }

    /// Returns settings of a raw client that offers `alpn`.
    #[must_use]
    pub fn client(&self, alpn: &[&str]) -> Arc<ClientConfig> {
        self.authority.client(alpn)
    }

    /// Connects a raw client of HTTP/1.1 on `host` to the VIP.
    ///
    /// # Panics
    ///
    /// If nobody answers, or not as [`PORTAL`].
    #[must_use]
    pub fn raw(&self, host: &Host) -> Raw {
        Raw::tcp(host, vip(443))
            .and_then(|client| client.tls(&self.client(&["http/1.1"]), PORTAL))
            .expect("a connection to the portal")
    }

    /// Connects a raw client of HTTP/2 on `host` to the VIP.
    ///
    /// # Panics
    ///
    /// See [`raw`](Self::raw).
    #[must_use]
    pub fn http2(&self, host: &Host) -> Http2 {
        self.http2_with(host, &[])
    }

    /// The same with these settings.
    ///
    /// # Panics
    ///
    /// See [`raw`](Self::raw).
    #[must_use]
    pub fn http2_with(&self, host: &Host, settings: &[(u16, u32)]) -> Http2 {
        Raw::tcp(host, vip(443))
            .and_then(|client| client.tls(&self.client(&["h2"]), PORTAL))
            .and_then(|client| Http2::begin(client, settings))
            .expect("a connection to the portal")
    }
}

/// Returns how often something has gone wrong with [`SERVICE`].
#[must_use]
pub fn failures(daemon: &Daemon<'_>, reason: &str) -> u64 {
    daemon.status().service(SERVICE).failures(reason)
}

/// Returns how many clients' connections to [`SERVICE`] are open.
#[must_use]
pub fn open_clients(daemon: &Daemon<'_>) -> u64 {
    daemon.status().service(SERVICE).proxy("connections_open")
}

/// Returns the URL of a path on [`PORTAL`].
#[must_use]
pub fn url(path: &str) -> String {
    format!("https://{PORTAL}{path}")
}
