//! Reading the configuration again, for the socket and for SIGHUP alike.

use std::path::Path;

use super::api;
use crate::{
    config::{self, LoadError, model::Config},
    control::{Handle, RequestError},
};

/// Why the configuration in force is still the former one, or only half applied.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The file cannot be read, or has faults.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// It asks for what cannot change, or the kernel refuses a step.
    #[error(transparent)]
    Apply(#[from] RequestError),
    /// The task that read the file failed.
    #[error("the configuration could not be read")]
    Read(#[from] tokio::task::JoinError),
}

/// Reads the file and applies it.
///
/// # Errors
///
/// [`ReloadError`]; nothing has changed unless it is [`RequestError::Dataplane`].
pub async fn reload(handle: &Handle, file: &Path) -> Result<api::Reloaded, ReloadError> {
    let path = file.to_owned();
    let config = tokio::task::spawn_blocking(move || config::load_runnable(&path)).await??;
    let mut warnings: Vec<String> = config
        .warnings
        .iter()
        .map(|warning| format!("{}: {}", warning.place, warning.message))
        .collect();
    warnings.extend(late(&handle.snapshot().state.config, &config));
    let generation = handle.reload(config).await?;
    tracing::info!(
        generation,
        "the configuration {} is in force",
        file.display()
    );
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    Ok(api::Reloaded {
        generation,
        warnings,
    })
}

/// Returns what the reload takes in, and only a new process applies.
fn late(former: &Config, new: &Config) -> Vec<String> {
    let admin = |config: &Config| (config.admin.group.clone(), config.admin.mode);
    // The access log follows the configuration at once.
    let log = |config: &Config| (config.log.level, config.log.format);
    [
        ("log", log(former) != log(new)),
        ("admin", admin(former) != admin(new)),
        ("node.workers", former.node.workers != new.node.workers),
    ]
    .into_iter()
    .filter(|(_, changed)| *changed)
    .map(|(place, _)| {
        format!(
            "{place}: the change takes effect when vipd is restarted; traffic goes on meanwhile"
        )
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
        [node]
        interfaces = ["eth0"]
        [[pool]]
        name = "p"
        backends = [{ name = "b", address = "10.0.0.9" }]
        [[service]]
        name = "s"
        vip = "10.0.0.100"
        port = 443
        protocol = "udp"
        forwarding = "snat"
        pool = "p"
    "#;

    #[test]
    fn what_only_a_new_process_applies_is_said() {
        let former = config::parse(FILE).expect("valid");
        let changed = format!("{FILE}\n[log]\nlevel = \"debug\"\n[admin]\nmode = \"0600\"");
        let changed = config::parse(&changed).expect("valid");

        assert!(late(&former, &former).is_empty());
        let said = late(&former, &changed);
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(said[0].starts_with("log: ") && said[1].starts_with("admin: "));

        let access = format!("{FILE}\n[log]\naccess = \"stdout\"");
        assert!(late(&former, &config::parse(&access).expect("valid")).is_empty());
    }
}
