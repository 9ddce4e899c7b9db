//! What was changed at run time: admin states and weights, by whom, when and why.
//!
//! They live in `admin.json` in the state directory and survive restarts. The file is replaced as
//! a whole, so a crash leaves the old or the new one.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    time::SystemTime,
};

use serde::{Deserialize, Serialize};

use super::event::BackendName;
use crate::{config::model::AdminState, telemetry};

/// Name of the file in the state directory.
const FILE: &str = "admin.json";
/// Version of its form.
const VERSION: u32 = 1;

/// Run-time changes by backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides(BTreeMap<BackendName, Override>);

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
}

#[derive(Serialize, Deserialize)]
struct StoredBackend {
    pool: String,
    backend: String,
    #[serde(flatten)]
    changes: Override,
}

impl Overrides {
    /// Returns what was changed of a backend.
    #[must_use]
    pub fn get(&self, backend: &BackendName) -> Option<&Override> {
        self.0.get(backend)
    }

    /// Changes, or with `None` forgets, the admin state of a backend.
    pub fn set_state(&mut self, backend: &BackendName, change: Option<Change<AdminState>>) {
        self.0.entry(backend.clone()).or_default().state = change;
        self.drop_empty();
    }

    /// Changes, or with `None` forgets, the weight of a backend.
    pub fn set_weight(&mut self, backend: &BackendName, change: Option<Change<u16>>) {
        self.0.entry(backend.clone()).or_default().weight = change;
        self.drop_empty();
    }

    /// Forgets what was changed of backends that `keep` refuses.
    pub fn retain(&mut self, keep: impl Fn(&BackendName) -> bool) {
        self.0.retain(|backend, _| keep(backend));
    }

    fn drop_empty(&mut self) {
        self.0
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
                    "cannot read {}: {error}; admin states are those of the configuration",
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
            "cannot understand {}: {fault}; {kept}; admin states are those of the configuration",
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
    let overrides = stored.backends.into_iter().map(|stored| {
        let name = BackendName::new(stored.pool, stored.backend);
        (name, stored.changes)
    });
    Ok(Overrides(overrides.collect()))
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
            .0
            .iter()
            .map(|(backend, changes)| StoredBackend {
                pool: backend.pool.clone(),
                backend: backend.backend.clone(),
                changes: changes.clone(),
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
        overrides
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

        assert_eq!(overrides, Overrides::default());
    }
}
