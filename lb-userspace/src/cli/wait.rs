//! `drain --wait`: until the last client has gone.

use std::time::Duration;

use tokio::time::Instant;

use super::{Failure, show::count};
use crate::{
    admin::{api::BackendState, client::Client},
    config::{duration, model::AdminState},
};

/// Pause between two questions; the daemon counts about once a second.
const PAUSE: Duration = Duration::from_millis(500);

/// Waits until the backend has neither flows nor clients.
///
/// Fails when `timeout` is over, or when somebody puts the backend into another state.
pub(super) async fn until_empty(
    client: &Client,
    backend: &str,
    wanted: AdminState,
    timeout: Duration,
) -> Result<BackendState, Failure> {
    let deadline = Instant::now() + timeout;
    loop {
        let state = client.backend_state(backend).await?;
        if state.state != wanted {
            return Err(Failure::Failed(format!(
                "{backend} is not in {wanted} any more, but {}: somebody changed it",
                state.state
            )));
        }
        if state.counted && state.flows == 0 && state.clients == 0 {
            return Ok(state);
        }
        if Instant::now() >= deadline {
            return Err(Failure::Failed(remaining(backend, &state, timeout)));
        }
        tokio::time::sleep(PAUSE.min(deadline - Instant::now())).await;
    }
}

/// Says how many are left. What the last count found may be nobody, from before the change.
fn remaining(backend: &str, state: &BackendState, timeout: Duration) -> String {
    format!(
        "after {} {backend} still has {} and {}; it stays in {}",
        duration::format(timeout),
        count(state.flows, "flow"),
        count(state.clients, "client"),
        state.state
    )
}
