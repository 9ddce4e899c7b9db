//! What control is told: the only ways in which desired state changes.

use std::{
    fmt,
    net::IpAddr,
    time::{Duration, SystemTime},
};

use lb_common::backend::VlanTags;

/// A backend's name: unique in its pool.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendName {
    /// The pool.
    pub pool: String,
    /// The backend.
    pub backend: String,
}

impl BackendName {
    /// Returns the name of `backend` in `pool`.
    #[must_use]
    pub fn new(pool: impl Into<String>, backend: impl Into<String>) -> Self {
        Self {
            pool: pool.into(),
            backend: backend.into(),
        }
    }
}

impl fmt::Display for BackendName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.pool, self.backend)
    }
}

/// Health as a check sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It serves.
    Up,
    /// It does not.
    Down,
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Up => "up",
            Self::Down => "down",
        })
    }
}

/// What a check found, after each of its probes.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckReport {
    /// The backend.
    pub backend: BackendName,
    /// The service whose own check it is; `None`: the pool's.
    pub service: Option<String>,
    /// The judgement.
    pub health: Health,
    /// What the last probe met, as an administrator would say it.
    pub reason: String,
    /// When the judgement last changed, if that is known.
    pub since: Option<SystemTime>,
    /// There has been a result that counts.
    pub probed: bool,
    /// How long the probe took, if it succeeded.
    pub latency: Option<Duration>,
}

/// The way to a backend's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// Index of the interface that it leaves by.
    pub interface: u32,
    /// Name of that interface, or its index in text.
    pub interface_name: String,
    /// MAC address of the next hop.
    pub mac: [u8; 6],
    /// The host's own address towards it.
    pub source: IpAddr,
    /// The gateway; `None`: on-link.
    pub via: Option<IpAddr>,
    /// Tags of frames towards it.
    pub vlan: VlanTags,
}

/// An interface of the data path as the host has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its name.
    pub name: String,
    /// Its index.
    pub index: u32,
    /// Its MAC address.
    pub mac: [u8; 6],
    /// Largest IP packet that it carries, in bytes.
    pub mtu: u16,
}
