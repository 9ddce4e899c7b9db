//! What was changed at run time: admin states, weights and lists of clients, by whom, when and why.
//!
//! They live in `admin.json` in the state directory and survive restarts. The file is replaced as
//! a whole, so a crash leaves the old or the new one.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use serde::{Deserialize, Serialize};

use super::event::BackendName;
use crate::{
    config::model::{AdminState, Prefix, Rule},
    telemetry,
};

/// Name of the file in the state directory.
const FILE: &str = "admin.json";
/// Version of its form.
const VERSION: u32 = 1;

/// Run-time changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    backends: BTreeMap<BackendName, Override>,
    /// There may be many, and every event copies the state.
    clients: Arc<ClientRules>,
}

/// What was said of clients at run time.
///
/// A rule of a service outranks one of every service, which outranks the configuration's, where
/// the prefix is the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientRules(BTreeMap<Option<String>, BTreeMap<Prefix, Change<Rule>>>);

impl ClientRules {
    /// Returns the rules of one service, or with `None` those of every service.
    #[must_use]
    pub fn of(&self, service: Option<&str>) -> Option<&BTreeMap<Prefix, Change<Rule>>> {
        self.0.get(&service.map(ToOwned::to_owned))
    }

    /// Iterates over all rules, those of every service first: service, prefix, rule.
    pub fn iter(&self) -> impl Iterator<Item = (Option<&str>, Prefix, &Change<Rule>)> {
        self.0.iter().flat_map(|(service, rules)| {
            rules
                .iter()
                .map(move |(prefix, rule)| (service.as_deref(), *prefix, rule))
        })
    }

    /// Returns how many rules there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.values().map(BTreeMap::len).sum()
    }

    /// Sets the rule of a prefix. One of every service takes the place of the services' own: who
    /// blocks an address everywhere means it.
    pub fn set(&mut self, service: Option<&str>, prefix: Prefix, rule: Change<Rule>) {
        if service.is_none() {
            self.forget(None, &prefix);
        }
        let rules = self.0.entry(service.map(ToOwned::to_owned)).or_default();
        rules.insert(prefix, rule);
    }

    /// Forgets the rule of a prefix: the service's own, or with `None` every one that there is.
    /// Returns whether there was any.
    pub fn forget(&mut self, service: Option<&str>, prefix: &Prefix) -> bool {
        let mut found = false;
        self.0.retain(|of, rules| {
            if service.is_none() || of.as_deref() == service {
                found |= rules.remove(prefix).is_some();
            }
            !rules.is_empty()
        });
        found
    }
}

/// What was changed of one backend.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Override {
    /// Admin state instead of the configuration's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<Change<AdminState>>,
    /// Weight instead of the configuration's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<Change<u16>>,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change<T> {
    /// What it was changed to.
    pub to: T,
    /// The user.
    pub by: String,
    /// When.
    #[serde(with = "rfc3339")]
    pub at: SystemTime,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The file as it is written.
#[derive(Serialize, Deserialize)]
struct Stored {
    version: u32,
    backends: Vec<StoredBackend>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    clients: Vec<StoredRule>,
}

#[derive(Serialize, Deserialize)]
struct StoredBackend {
    pool: String,
    backend: String,
    #[serde(flatten)]
    changes: Override,
}

/// A rule without a service is one of every service.
#[derive(Serialize, Deserialize)]
struct StoredRule {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    service: Option<String>,
    prefix: Prefix,
    #[serde(flatten)]
    rule: Change<Rule>,
}

impl Overrides {
    /// Returns what was said of clients.
    #[must_use]
    pub fn clients(&self) -> &Arc<ClientRules> {
        &self.clients
    }

    /// Replaces what was said of clients.
    pub fn set_clients(&mut self, clients: ClientRules) {
        self.clients = Arc::new(clients);
    }

    /// Returns what was changed of a backend.
    #[must_use]
    pub fn get(&self, backend: &BackendName) -> Option<&Override> {
        self.backends.get(backend)
    }

    /// Changes, or with `None` forgets, the admin state of a backend.
    pub fn set_state(&mut self, backend: &BackendName, change: Option<Change<AdminState>>) {
        self.backends.entry(backend.clone()).or_default().state = change;
        self.drop_empty();
    }

    /// Changes, or with `None` forgets, the weight of a backend.
    pub fn set_weight(&mut self, backend: &BackendName, change: Option<Change<u16>>) {
        self.backends.entry(backend.clone()).or_default().weight = change;
        self.drop_empty();
    }

    /// Forgets what was changed of backends that `keep` refuses.
    pub fn retain(&mut self, keep: impl Fn(&BackendName) -> bool) {
        self.backends.retain(|backend, _| keep(backend));
    }

    fn drop_empty(&mut self) {
        self.backends
            .retain(|_, change| change.state.is_some() || change.weight.is_some());
    }
}

/// What [`load`] found.
#[derive(Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The changes.
    pub overrides: Overrides,
    /// A remark for the log: the file could not be used, and where it is now.
    pub warning: Option<String>,
}

/// Reads the changes from `directory`.
///
/// No file is no change. A file that cannot be understood is put aside, so that nothing of it is
/// lost, and a warning says so: the daemon starts with the states of the configuration.
#[must_use]
pub fn load(directory: &Path) -> Loaded {
    let path = directory.join(FILE);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Loaded {
                overrides: Overrides::default(),
                warning: None,
            };
        }
        Err(error) => {
            return Loaded {
                overrides: Overrides::default(),
                warning: Some(format!(
                    "cannot read {}: {error}; admin states and lists of clients are those of the \
                     configuration",
                    path.display()
                )),
            };
        }
    };
    let fault = match read(&text) {
        Ok(overrides) => {
            return Loaded {
                overrides,
                warning: None,
            };
        }
        Err(fault) => fault,
    };
    let aside = path.with_extension("json.unreadable");
    let kept = match fs::rename(&path, &aside) {
        Ok(()) => format!("it is kept as {}", aside.display()),
        Err(error) => format!("it cannot be put aside: {error}"),
    };
    Loaded {
        overrides: Overrides::default(),
        warning: Some(format!(
            "cannot understand {}: {fault}; {kept}; admin states and lists of clients are those of \
             the configuration",
            path.display()
        )),
    }
}

/// Reads the content of the file, or says what is wrong with it.
pub(super) fn read(text: &[u8]) -> Result<Overrides, String> {
    let stored: Stored = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    if stored.version != VERSION {
        return Err(format!(
            "its version is {} (expected {VERSION})",
            stored.version
        ));
    }
    let mut clients = ClientRules::default();
    for stored in stored.clients {
        let rules = clients.0.entry(stored.service).or_default();
        rules.insert(stored.prefix, stored.rule);
    }
    let backends = stored.backends.into_iter().map(|stored| {
        let name = BackendName::new(stored.pool, stored.backend);
        (name, stored.changes)
    });
    Ok(Overrides {
        backends: backends.collect(),
        clients: Arc::new(clients),
    })
}

/// The changes could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}", path.display())]
pub struct SaveError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// Writes the changes to `directory`, which is made if it is missing.
///
/// # Errors
///
/// [`SaveError`]; the former file is then untouched.
pub fn save(overrides: &Overrides, directory: &Path) -> Result<(), SaveError> {
    let path = directory.join(FILE);
    write_whole(&path, overrides).map_err(|source| SaveError { path, source })
}

/// Returns the content of the file.
pub(super) fn written(overrides: &Overrides) -> serde_json::Result<Vec<u8>> {
    let stored = Stored {
        version: VERSION,
        backends: overrides
            .backends
            .iter()
            .map(|(backend, changes)| StoredBackend {
                pool: backend.pool.clone(),
                backend: backend.backend.clone(),
                changes: changes.clone(),
            })
            .collect(),
        clients: overrides
            .clients
            .iter()
            .map(|(service, prefix, rule)| StoredRule {
                service: service.map(ToOwned::to_owned),
                prefix,
                rule: rule.clone(),
            })
            .collect(),
    };
    let mut text = serde_json::to_vec_pretty(&stored)?;
    text.push(b'\n');
    Ok(text)
}

/// Replaces the file at `path` in one step that survives a loss of power.
fn write_whole(path: &Path, overrides: &Overrides) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(directory)?;
    let text = written(overrides)?;
    let temporary = path.with_extension("json.new");
    let mut file = File::create(&temporary)?;
    file.write_all(&text)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    File::open(directory)?.sync_all()
}

mod rfc3339 {
    use std::time::SystemTime;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use super::telemetry;

    pub(super) fn serialize<S: Serializer>(
        time: &SystemTime,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&telemetry::rfc3339(*time))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<SystemTime, D::Error> {
        let text = String::deserialize(deserializer)?;
        telemetry::parse_rfc3339(&text)
            .ok_or_else(|| D::Error::custom(format!("\"{text}\" is not a time as in RFC 3339")))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn example() -> Overrides {
        let mut overrides = Overrides::default();
        overrides.set_state(
            &BackendName::new("ras", "gw1"),
            Some(Change {
                to: AdminState::Drain,
                by: "root".to_owned(),
                at: SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000),
                reason: Some("patch day".to_owned()),
            }),
        );
        overrides.set_weight(
            &BackendName::new("ras", "gw2"),
            Some(Change {
                to: 10,
                by: "ann".to_owned(),
                at: SystemTime::UNIX_EPOCH + Duration::from_millis(1_800_000_000_250),
                reason: None,
            }),
        );
        let mut clients = ClientRules::default();
        clients.set(None, prefix("10.0.0.0/8"), rule(Rule::Block));
        clients.set(Some("ras-udp"), prefix("10.1.2.3"), rule(Rule::Allow));
        overrides.set_clients(clients);
        overrides
    }

    fn prefix(text: &str) -> Prefix {
        text.parse().expect("a prefix")
    }

    fn rule(to: Rule) -> Change<Rule> {
        Change {
            to,
            by: "root".to_owned(),
            at: SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000),
            reason: Some("a scan".to_owned()),
        }
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let directory = tempfile::tempdir().expect("a directory");

        save(&example(), &directory.path().join("deep/er")).expect("saved");
        let loaded = load(&directory.path().join("deep/er"));

        assert_eq!(loaded.overrides, example());
        assert_eq!(loaded.warning, None);
    }

    #[test]
    fn without_a_file_nothing_was_changed() {
        let directory = tempfile::tempdir().expect("a directory");

        let loaded = load(directory.path());

        assert_eq!(loaded.overrides, Overrides::default());
        assert_eq!(loaded.warning, None);
    }

    #[test]
    fn a_file_that_cannot_be_understood_is_kept_aside_with_a_warning() {
        for text in [
            "",
            "{",
            "[]",
            r#"{"version":9,"backends":[]}"#,
            r#"{"version":1,"backends":[],"clients":[{"prefix":"10.1.2.3/8","to":"block","by":"x","at":"2027-01-15T08:00:00Z"}]}"#,
            r#"{"version":1,"backends":[{"pool":"p","backend":"b","state":{"to":"active","by":"x","at":"yesterday"}}]}"#,
        ] {
            let directory = tempfile::tempdir().expect("a directory");
            fs::write(directory.path().join(FILE), text).expect("written");

            let loaded = load(directory.path());

            assert_eq!(loaded.overrides, Overrides::default());
            let warning = loaded.warning.expect("a warning");
            assert!(warning.contains("admin.json.unreadable"), "{warning}");
            let kept = fs::read_to_string(directory.path().join("admin.json.unreadable"));
            assert_eq!(kept.expect("kept"), text);
        }
    }

    #[test]
    fn a_failed_save_leaves_the_former_file() {
        let directory = tempfile::tempdir().expect("a directory");
        save(&example(), directory.path()).expect("saved");
        // A directory in the place of the temporary file: creating it fails, even as root.
        fs::create_dir(directory.path().join("admin.json.new")).expect("made");

        let error = save(&Overrides::default(), directory.path()).expect_err("no file can be made");

        assert!(error.to_string().contains("admin.json"), "{error}");
        assert_eq!(load(directory.path()).overrides, example());
    }

    #[test]
    fn a_change_that_is_taken_back_leaves_nothing() {
        let mut overrides = example();
        overrides.set_state(&BackendName::new("ras", "gw1"), None);
        overrides.set_weight(&BackendName::new("ras", "gw2"), None);

        overrides.set_clients(ClientRules::default());

        assert_eq!(overrides, Overrides::default());
    }

    #[test]
    fn a_file_without_lists_of_clients_is_understood() {
        let directory = tempfile::tempdir().expect("a directory");
        let text = r#"{"version":1,"backends":[]}"#;
        fs::write(directory.path().join(FILE), text).expect("written");

        let loaded = load(directory.path());

        assert_eq!(loaded.warning, None);
        assert_eq!(loaded.overrides, Overrides::default());
    }

    #[test]
    fn a_rule_of_every_service_takes_the_place_of_their_own() {
        let mut rules = ClientRules::default();
        let client = prefix("10.1.2.3");
        rules.set(Some("a"), client, rule(Rule::Allow));
        rules.set(Some("b"), client, rule(Rule::Block));
        rules.set(Some("b"), prefix("10.1.2.4"), rule(Rule::Block));

        rules.set(None, client, rule(Rule::Block));

        let left: Vec<(Option<&str>, String)> = rules
            .iter()
            .map(|(service, prefix, _)| (service, prefix.to_string()))
            .collect();
        assert_eq!(
            left,
            [
                (None, "10.1.2.3/32".to_owned()),
                (Some("b"), "10.1.2.4/32".to_owned())
            ]
        );
    }

    #[test]
    fn forgetting_without_a_service_forgets_every_rule_of_the_prefix() {
        let mut rules = ClientRules::default();
        let client = prefix("10.1.2.3");
        rules.set(None, client, rule(Rule::Block));
        rules.set(Some("a"), client, rule(Rule::Allow));

        assert!(!rules.forget(Some("b"), &client));
        assert!(rules.forget(Some("a"), &client));
        assert_eq!(rules.count(), 1);
        rules.set(Some("a"), client, rule(Rule::Allow));
        assert!(rules.forget(None, &client));
        assert_eq!(rules, ClientRules::default());
        assert!(!rules.forget(None, &client));
    }
}
