//! What `vipd status --json` says of a service of the proxy.

use serde_json::Value;

use super::daemon::Daemon;

/// A service as the proxy serves it.
#[derive(Clone, Debug, PartialEq)]
pub struct Proxied(Value);

impl Proxied {
    /// Asks the daemon for the service called `name`.
    ///
    /// # Panics
    ///
    /// If the proxy has none of that name.
    #[must_use]
    #[track_caller]
    pub fn of(daemon: &Daemon<'_>, name: &str) -> Self {
        let outcome = daemon.cli(&["status", "--json"]);
        let status: Value = serde_json::from_str(&outcome.stdout)
            .unwrap_or_else(|error| panic!("no status: {error}: {}", outcome.text()));
        let services = status["services"].as_array().expect("a list of services");
        let found = services.iter().find(|service| service["name"] == name);
        let proxied = found.unwrap_or_else(|| panic!("no {name} in {services:?}"))["proxy"].clone();
        assert!(proxied.is_object(), "{name} is no service of the proxy");
        Self(proxied)
    }

    /// Returns a number of the status, such as `connections_open`.
    ///
    /// # Panics
    ///
    /// If there is none of that name.
    #[must_use]
    #[track_caller]
    pub fn count(&self, name: &str) -> u64 {
        let count = self.0[name].as_u64();
        count.unwrap_or_else(|| panic!("no number {name} in {}", self.0))
    }

    /// Returns how often something has failed for `reason`.
    ///
    /// # Panics
    ///
    /// If the status does not know the reason.
    #[must_use]
    #[track_caller]
    pub fn failed(&self, reason: &str) -> u64 {
        let failures = self.0["failures"].as_array().expect("a list of failures");
        let found = failures.iter().find(|of| of["reason"] == reason);
        found.unwrap_or_else(|| panic!("no reason {reason} in {failures:?}"))["count"]
            .as_u64()
            .expect("a number")
    }

    /// Returns the failures that have happened.
    #[must_use]
    pub fn failures(&self) -> Vec<(String, u64)> {
        let failures = self.0["failures"].as_array().expect("a list of failures");
        failures
            .iter()
            .map(|of| (of["reason"].as_str(), of["count"].as_u64()))
            .map(|(reason, count)| (reason.unwrap_or_default().to_owned(), count.unwrap_or(0)))
            .filter(|(_, count)| *count > 0)
            .collect()
    }

    /// Returns why nobody can connect, if nobody can.
    #[must_use]
    pub fn closed(&self) -> Option<&str> {
        self.0["closed"].as_str()
    }
}
