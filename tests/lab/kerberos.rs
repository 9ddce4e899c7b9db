//! A sign-on site: a real KDC, users with tickets, and Apache servers that bind who signed on to the
//! connection (mod_auth_gssapi with `GssapiConnectionBound On`).
//!
//! All servers share one name, [`PORTAL`], and one key, as servers behind a balancer must. Nothing
//! of the machine's own Kerberos settings is read or written.

mod apache;
mod realm;

use std::{net::SocketAddr, path::PathBuf};

use super::{authority::Authority, host::Host, site::Lab};
use apache::Apache;
use realm::Realm;

/// The name that users know the servers by; `HTTP/` before it is the servers' principal.
pub const PORTAL: &str = "portal.lab.example";

/// The realm.
pub const REALM: &str = "LAB.EXAMPLE";

/// The TCP port of the servers.
const PORT: u16 = 443;

/// The site: it ends when this is dropped.
#[derive(Debug)]
pub struct Kerberos {
    realm: Realm,
    apaches: Vec<Apache>,
    servers: Vec<SocketAddr>,
}

impl Kerberos {
    /// Starts a KDC on `kdc`, which users' machines must reach, with users 1 to `users`, and a
    /// server on each of `backends`, with certificates of `authority`.
    ///
    /// # Panics
    ///
    /// If anything of it does not start.
    #[must_use]
    pub fn start(
        lab: &Lab,
        authority: &Authority,
        kdc: &Host,
        users: usize,
        backends: &[&Host],
    ) -> Self {
        let realm = Realm::start(lab, kdc, users);
        let apaches = backends
            .iter()
            .map(|host| Apache::start(lab, host, PORT, authority, &realm))
            .collect();
        let servers = backends
            .iter()
            .map(|host| SocketAddr::new(host.v4().into(), PORT))
            .collect();
        Self {
            realm,
            apaches,
            servers,
        }
    }

    /// Returns the address of server `number`, counted from 1.
    #[must_use]
    pub fn apache(&self, number: usize) -> SocketAddr {
        self.servers[number - 1]
    }

    /// Returns the log of server `number`, counted from 1: its errors and each request.
    #[must_use]
    pub fn log(&self, number: usize) -> String {
        self.apaches[number - 1].log()
    }

    /// Kills server `number`, counted from 1, and starts it anew.
    ///
    /// # Panics
    ///
    /// If it had ended before, or does not start.
    pub fn restart(&mut self, number: usize) {
        self.apaches[number - 1].restart();
    }

    /// Returns the name of user `number`, counted from 1, as servers tell it in `X-User`.
    #[must_use]
    pub fn name(&self, number: usize) -> String {
        format!("{}@{REALM}", realm::user(number))
    }

    /// Returns the name of the user whose tickets are large.
    #[must_use]
    pub fn large_name(&self) -> String {
        format!("{}@{REALM}", realm::LARGE_USER)
    }

    /// Returns the environment that makes a program user `number`, counted from 1, as in
    /// `curl --negotiate -u :`.
    #[must_use]
    pub fn user(&self, number: usize) -> Vec<(String, String)> {
        self.realm.environment(&realm::user(number))
    }

    /// Returns the environment of a user whose `Authorization` is about 49 kB long.
    #[must_use]
    pub fn large_user(&self) -> Vec<(String, String)> {
        self.realm.environment(realm::LARGE_USER)
    }

    /// Returns the servers' keytab.
    #[must_use]
    pub fn keytab(&self) -> PathBuf {
        self.realm.service_keytab()
    }
}
