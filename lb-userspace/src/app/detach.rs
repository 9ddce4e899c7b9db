//! Taking everything away: the data path, addresses, reserved ports.

use std::{path::Path, time::Duration};

use anyhow::Context;
use lb_common::map_names::PIN_DIRECTORY;

use super::{
    host,
    lock::{Lock, LockError},
};
use crate::{
    admin::client::{Client, ClientError},
    config::model::State,
    dataplane::kernel,
};

/// Time for a running daemon to stop.
const PATIENCE: Duration = Duration::from_secs(30);

/// Takes the data path down and gives back what was added to the host. Says what was done.
///
/// The caller holds the lock.
///
/// # Errors
///
/// What could not be removed; the rest has been tried all the same.
pub async fn take_down(pins: &Path, state: &State) -> anyhow::Result<Vec<String>> {
    let mut done = Vec::new();
    let removed = kernel::remove_pins(pins);
    if matches!(removed, Ok(true)) {
        done.push(format!(
            "removed the data path: programs, maps and links in {}",
            pins.display()
        ));
    }
    let given_back = host::give_back(state).await;
    removed?;
    done.extend(given_back?);
    Ok(done)
}

/// `vipd detach`: asks the daemon behind `client` to do it, or does it where none runs. Says what
/// was done.
///
/// # Errors
///
/// Why it is not done, or not entirely.
pub async fn detach(client: &Client, state: &State) -> anyhow::Result<Vec<String>> {
    let pins = Path::new(PIN_DIRECTORY);
    let mut done = Vec::new();
    match client.detach().await {
        Ok(asked) => done.push(format!(
            "the daemon (process {}) has taken the data path down and stopped",
            asked.pid
        )),
        Err(ClientError::NoDaemon(_)) => {}
        Err(error) => return Err(error.into()),
    }
    let patience = if done.is_empty() {
        Duration::ZERO
    } else {
        PATIENCE
    };
    let _lock = match Lock::wait(pins, patience).await {
        Ok(lock) => Some(lock),
        // Without a BPF file system there are no pins; addresses and ports may be left.
        Err(LockError::Io { .. }) => None,
        Err(error) if done.is_empty() => {
            return Err(error).with_context(|| {
                format!(
                    "no daemon answers on {}, but one is running: name its socket with --socket",
                    client.socket().display()
                )
            });
        }
        Err(error) => return Err(error).context("the daemon was told to stop, and did not"),
    };
    done.extend(take_down(pins, state).await?);
    Ok(done)
}
