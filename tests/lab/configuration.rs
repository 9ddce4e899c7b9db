//! The configuration of a daemon under test, as the text of its file.

use std::{fmt::Write, net::SocketAddr, path::Path};

use super::{
    host::Host,
    site::{Lab, vip},
};

/// TCP port of the health pages.
pub const HEALTH_PORT: u16 = 8080;

/// A check of the health page that finds a change within a second.
///
/// Three failures in a row: a busy machine may be late once.
pub const HEALTH: &str = r#"{ type = "http", port = 8080, path = "/health", interval = "300ms", timeout = "300ms", rise = 1, fall = 3 }"#;

/// Name of the pool of [`Configuration::ras`].
pub const POOL: &str = "ras-gateways";
/// Name of the service of [`Configuration::ras`].
pub const SERVICE: &str = "RAS-SG-UDP";
/// The vendor's time for which a client belongs to its gateway on UDP.
pub const SIX_HOURS: &str = r#"persistence = { key = "source-ip", timeout = "6h" }"#;

/// A configuration without the parts that depend on the site.
#[derive(Clone, Debug, Default)]
pub struct Configuration {
    node: Vec<String>,
    log: Vec<String>,
    body: String,
}

impl Configuration {
    /// Returns an empty configuration.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the usual site: every gateway of `lab` in the pool [`POOL`], and the service
    /// [`SERVICE`] on UDP 443 of the IPv4 VIP, with six hours of affinity.
    #[must_use]
    pub fn ras(lab: &Lab) -> Self {
        Self::new()
            .ras_pool(lab)
            .udp(SERVICE, vip(443), POOL, SIX_HOURS)
    }

    /// Adds the pool [`POOL`] with every gateway of `lab`.
    #[must_use]
    pub fn ras_pool(self, lab: &Lab) -> Self {
        let backends: Vec<String> = lab.gateways().iter().map(backend).collect();
        self.pool(POOL, &backends, HEALTH)
    }

    /// Adds a line to `[node]`; one that begins with `interfaces` replaces the site's.
    #[must_use]
    pub fn node(mut self, line: &str) -> Self {
        self.node.push(line.to_owned());
        self
    }

    /// Adds a line to `[log]`.
    #[must_use]
    pub fn log(mut self, line: &str) -> Self {
        self.log.push(line.to_owned());
        self
    }

    /// Adds a pool; `backends` are inline tables, `health` is one too.
    #[must_use]
    pub fn pool(mut self, name: &str, backends: &[String], health: &str) -> Self {
        let backends = backends.join(",\n  ");
        write!(
            self.body,
            "[[pool]]\nname = \"{name}\"\nbackends = [\n  {backends},\n]\nhealth = {health}\n\n"
        )
        .expect("a string takes text");
        self
    }

    /// Adds a UDP service in front of `pool`; `more` are further lines of its table.
    #[must_use]
    pub fn udp(mut self, name: &str, vip: SocketAddr, pool: &str, more: &str) -> Self {
        write!(
            self.body,
            "[[service]]\nname = \"{name}\"\nvip = \"{}\"\nport = {}\nprotocol = \"udp\"\n\
             forwarding = \"snat\"\npool = \"{pool}\"\n{more}\n\n",
            vip.ip(),
            vip.port()
        )
        .expect("a string takes text");
        self
    }

    /// Adds text as it is.
    #[must_use]
    pub fn text(mut self, text: &str) -> Self {
        self.body.push_str(text);
        self.body.push('\n');
        self
    }

    /// Returns the whole file, with socket and state below `directory`.
    #[must_use]
    pub fn render(&self, interfaces: &[&str], directory: &Path) -> String {
        let mut node = self.node.clone();
        if !node.iter().any(|line| line.starts_with("interfaces")) {
            node.insert(0, format!("interfaces = {interfaces:?}"));
        }
        let mut log = self.log.clone();
        if !log.iter().any(|line| line.starts_with("level")) {
            log.insert(0, "level = \"debug\"".to_owned());
        }
        let directory = directory.display();
        format!(
            "[node]\n{}\n\n[admin]\nsocket = \"{directory}/vipd.sock\"\n\n[state]\n\
             directory = \"{directory}/state\"\n\n[log]\n{}\n\n{}",
            node.join("\n"),
            log.join("\n"),
            self.body
        )
    }
}

/// Returns the table of a backend with the IPv4 address of `host`.
#[must_use]
pub fn backend(host: &Host) -> String {
    backend_with(host, "")
}

/// Returns the table of a backend with the IPv4 address of `host`, and `more` of its keys.
#[must_use]
pub fn backend_with(host: &Host, more: &str) -> String {
    table(host.name(), &host.v4().to_string(), more)
}

/// Returns the table of a backend with the IPv6 address of `host`.
#[must_use]
pub fn backend6(host: &Host) -> String {
    table(host.name(), &host.v6().to_string(), "")
}

fn table(name: &str, address: &str, more: &str) -> String {
    let more = if more.is_empty() {
        String::new()
    } else {
        format!(", {more}")
    };
    format!("{{ name = \"{name}\", address = \"{address}\"{more} }}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interfaces_of_the_site_stand_unless_the_test_names_others() {
        let directory = Path::new("/d");

        let plain = Configuration::new().render(&["eth0", "eth1"], directory);
        let own = Configuration::new()
            .node("interfaces = [\"mac0\"]")
            .render(&["eth0"], directory);

        assert!(plain.contains("interfaces = [\"eth0\", \"eth1\"]"));
        assert!(own.contains("interfaces = [\"mac0\"]") && !own.contains("eth0"));
    }
}
