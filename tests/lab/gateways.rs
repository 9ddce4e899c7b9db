//! Gateways as the tests use them: a UDP service that tells its name, and a health page.

use super::{
    backends::IdentityServer, configuration::HEALTH_PORT, health_page::HealthPage, host::Host,
    site::Lab,
};

/// UDP port of the gateways' service.
pub const SERVICE_PORT: u16 = 443;

/// What runs on one gateway.
#[derive(Debug)]
pub struct Gateway {
    /// The service.
    pub service: IdentityServer,
    /// Its health page.
    pub page: HealthPage,
}

impl Gateway {
    /// Starts service and page on `host`.
    #[must_use]
    pub fn start(host: &Host) -> Self {
        Self {
            service: IdentityServer::start(host, SERVICE_PORT),
            page: HealthPage::start(host, HEALTH_PORT),
        }
    }

    /// Closes both ports, as when the software dies and the machine lives on.
    pub fn die(&mut self) {
        self.page.stop();
        self.service.stop();
    }

    /// Opens both ports again.
    pub fn revive(&mut self) {
        self.service.resume();
        self.page.resume();
    }
}

/// The gateways of a site.
#[derive(Debug)]
pub struct Gateways(Vec<Gateway>);

impl Gateways {
    /// Starts every gateway on the backends' link.
    #[must_use]
    pub fn start(lab: &Lab) -> Self {
        Self(lab.gateways().iter().map(Gateway::start).collect())
    }

    /// Returns the gateway called `name`.
    ///
    /// # Panics
    ///
    /// If the site has none of that name.
    #[track_caller]
    pub fn named(&mut self, name: &str) -> &mut Gateway {
        self.0
            .iter_mut()
            .find(|gateway| gateway.service.name() == name)
            .unwrap_or_else(|| panic!("there is no gateway called {name}"))
    }

    /// Returns all gateways.
    #[must_use]
    pub fn all(&self) -> &[Gateway] {
        &self.0
    }
}
