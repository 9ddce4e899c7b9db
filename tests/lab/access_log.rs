//! What the access log of a daemon says, as a program reads it.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;

use super::{
    configuration::Configuration, daemon::Daemon, eventually::eventually_some, proxied::Proxied,
    site::Lab,
};

/// How soon a line is there, and how long a daemon may take to count.
const BOUND: Duration = Duration::from_secs(10);

/// The access log of a site's daemon.
#[derive(Clone, Debug)]
pub struct AccessLog(PathBuf);

/// A line.
#[derive(Clone, Debug, PartialEq)]
pub struct Line(Value);

impl AccessLog {
    /// Returns the log of `lab`'s daemon, which is there once it is configured.
    #[must_use]
    pub fn of(lab: &Lab) -> Self {
        Self(lab.directory().join("access.log"))
    }

    /// Has the daemon write it.
    #[must_use]
    pub fn configured(&self, configuration: Configuration) -> Configuration {
        configuration.log(&format!("access = \"{}\"", self.0.display()))
    }

    /// Returns the file.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.0
    }

    /// Returns the lines that are there.
    ///
    /// # Panics
    ///
    /// If one of them, but for the end of the file, is no JSON object.
    #[must_use]
    #[track_caller]
    pub fn lines(&self) -> Vec<Line> {
        let text = fs::read_to_string(&self.0).unwrap_or_default();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let read = |line: &str| match serde_json::from_str(line) {
            Ok(value @ Value::Object(_)) => Line(value),
            other => panic!("{line:?} is no line: {other:?}"),
        };
        whole.lines().map(read).collect()
    }

    /// Waits for the only line about the client at `client`.
    ///
    /// # Panics
    ///
    /// If there is none, or there are several.
    #[track_caller]
    pub fn await_line_of(&self, client: SocketAddr) -> Line {
        let wanted = client.to_string();
        let mut found = eventually_some(BOUND, &format!("a line about {client}"), || {
            let mut lines = self.lines();
            lines.retain(|line| line.text("client") == Some(&wanted));
            (!lines.is_empty()).then_some(lines)
        });
        assert_eq!(found.len(), 1, "{found:#?}");
        found.remove(0)
    }

    /// Checks that each failure which the daemon has counted for `services` has one line, and each
    /// line its count.
    ///
    /// # Panics
    ///
    /// If they do not come to agree.
    #[track_caller]
    pub fn assert_agrees(&self, daemon: &Daemon<'_>, services: &[&str]) {
        let mut seen = (BTreeMap::new(), BTreeMap::new());
        let agrees = super::eventually::holds_within(BOUND, || {
            seen = (counted(daemon, services), self.told());
            seen.0 == seen.1
        });
        let (counted, told) = seen;
        assert!(agrees, "counted: {counted:#?}\ntold: {told:#?}");
    }

    fn told(&self) -> BTreeMap<(String, String), u64> {
        let mut told = BTreeMap::new();
        for line in self.lines() {
            let text = |key| line.text(key).unwrap_or_default().to_owned();
            if line.text("reason").is_some() {
                *told.entry((text("service"), text("reason"))).or_default() += 1;
            }
        }
        told
    }
}

fn counted(daemon: &Daemon<'_>, services: &[&str]) -> BTreeMap<(String, String), u64> {
    let of = |service: &&str| {
        let name = (*service).to_owned();
        let failures = Proxied::of(daemon, service).failures().into_iter();
        failures.map(move |(reason, count)| ((name.clone(), reason), count))
    };
    services.iter().flat_map(of).collect()
}

impl Line {
    /// Returns the value of a key that has text.
    #[must_use]
    pub fn text(&self, key: &str) -> Option<&str> {
        self.0[key].as_str()
    }

    /// Returns the value of a key that has a number.
    #[must_use]
    pub fn number(&self, key: &str) -> Option<u64> {
        self.0[key].as_u64()
    }

    /// Returns who is at fault, what went wrong, and the status that the client got.
    #[must_use]
    pub fn failure(&self) -> (&str, &str, Option<u64>) {
        (
            self.text("fault").unwrap_or_default(),
            self.text("reason").unwrap_or_default(),
            self.number("status"),
        )
    }
}
