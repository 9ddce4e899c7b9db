//! Commands that ask the running daemon.

use std::{net::IpAddr, path::Path, time::Duration};

use tokio::runtime::Runtime;

use super::{
    Failure, FlowsArguments, LeaveArguments, Place,
    output::{self, Output},
    show, wait,
};
use crate::{
    admin::{api, client::Client},
    app,
    config::{self, model::AdminState, model::State},
};

/// Pause between two pictures of `status --watch`.
const WATCH_PAUSE: Duration = Duration::from_secs(1);
/// Clears a terminal: the cursor goes home, everything after it is erased (ECMA-48).
const CLEAR: &str = "\x1b[H\x1b[2J";

/// Returns a runtime for one question.
pub(super) fn runtime() -> Result<Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Failed(format!("cannot start the runtime: {error}")))
}

/// `vipd status`.
pub(super) fn status(
    out: &mut Output,
    client: &Client,
    json: bool,
    watch: bool,
) -> Result<(), Failure> {
    runtime()?.block_on(async {
        if watch {
            return watch_status(out, client, json).await;
        }
        let status = client.status().await?;
        if json {
            out.json(&status)?;
        } else {
            let text = show::status(&status, out.is_terminal());
            out.text(&text)?;
        }
        if status.ready {
            Ok(())
        } else {
            Err(Failure::Told)
        }
    })
}

/// Shows the status until Ctrl-C; a daemon that is restarted meanwhile is waited for.
async fn watch_status(out: &mut Output, client: &Client, json: bool) -> Result<(), Failure> {
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    let mut pause = tokio::time::interval(WATCH_PAUSE);
    loop {
        tokio::select! {
            _ = &mut interrupted => return Ok(()),
            _ = pause.tick() => {}
        }
        let answer = tokio::select! {
            _ = &mut interrupted => return Ok(()),
            answer = client.status() => answer,
        };
        match answer {
            Ok(status) if json => out.json(&status)?,
            Ok(status) => {
                let text = show::status(&status, out.is_terminal());
                redraw(out, &text)?;
            }
            Err(error) if json => output::error(&error.to_string()),
            Err(error) => redraw(out, &format!("{error}\n"))?,
        }
    }
}

fn redraw(out: &mut Output, text: &str) -> Result<(), Failure> {
    if out.is_terminal() {
        out.text(&format!("{CLEAR}{text}"))?;
    } else {
        out.text(&format!("{text}\n"))?;
    }
    Ok(())
}

/// `vipd drain` and `vipd halt`.
pub(super) fn take_out(
    out: &mut Output,
    client: &Client,
    state: AdminState,
    arguments: &LeaveArguments,
) -> Result<(), Failure> {
    runtime()?.block_on(async {
        let wanted = api::SetState {
            backend: arguments.backend.clone(),
            state,
            reason: arguments.reason.clone(),
        };
        let changed = client.set_state(&wanted).await?;
        if !arguments.wait {
            return tell(out, &changed, arguments.json);
        }
        if !arguments.json {
            output::remark(show::backend_state(&changed).trim_end());
        }
        let name = format!("{}/{}", changed.pool, changed.backend);
        let last = wait::until_empty(client, &name, state, arguments.timeout).await?;
        if arguments.json {
            out.json(&last)?;
        } else {
            out.text(&format!("{name} has no flows and no clients left\n"))?;
        }
        Ok(())
    })
}

/// `vipd enable`.
pub(super) fn enable(
    out: &mut Output,
    client: &Client,
    backend: String,
    reason: Option<String>,
    json: bool,
) -> Result<(), Failure> {
    let wanted = api::SetState {
        backend,
        state: AdminState::Active,
        reason,
    };
    let changed = runtime()?.block_on(client.set_state(&wanted))?;
    tell(out, &changed, json)
}

fn tell(out: &mut Output, changed: &api::BackendState, json: bool) -> Result<(), Failure> {
    if json {
        out.json(changed)?;
    } else {
        out.text(&show::backend_state(changed))?;
    }
    Ok(())
}

/// `vipd reload`.
pub(super) fn reload(out: &mut Output, client: &Client, json: bool) -> Result<(), Failure> {
    let answer = runtime()?.block_on(client.reload());
    let reloaded = answer.map_err(|error| match error {
        // The file is wrong, as `vipd check` would say.
        crate::admin::client::ClientError::Refused(refusal)
            if refusal.error == api::ErrorKind::Refused =>
        {
            Failure::Usage(refusal.message)
        }
        error => error.into(),
    })?;
    if json {
        out.json(&reloaded)?;
        return Ok(());
    }
    for warning in &reloaded.warnings {
        output::remark(&format!("warning: {warning}"));
    }
    out.text(&format!(
        "the configuration is in force (generation {})\n",
        reloaded.generation
    ))?;
    Ok(())
}

/// `vipd explain`.
pub(super) fn explain(
    out: &mut Output,
    client: &Client,
    address: IpAddr,
    json: bool,
) -> Result<(), Failure> {
    let explanation = runtime()?.block_on(client.explain(address))?;
    if json {
        out.json(&explanation)?;
    } else {
        out.text(&show::explanation(&explanation))?;
    }
    Ok(())
}

/// `vipd check --live`.
pub(super) fn audit(out: &mut Output, client: &Client, json: bool) -> Result<(), Failure> {
    let audit = runtime()?.block_on(client.audit())?;
    if json {
        out.json(&audit)?;
    } else {
        out.text(&show::audit(&audit))?;
    }
    if audit.consistent {
        Ok(())
    } else {
        Err(Failure::Told)
    }
}

/// `vipd flows`.
pub(super) fn flows(
    out: &mut Output,
    client: &Client,
    arguments: FlowsArguments,
) -> Result<(), Failure> {
    let query = api::FlowsQuery {
        client: arguments.client,
        service: arguments.service,
        backend: arguments.backend,
        limit: arguments.limit,
    };
    let flows = runtime()?.block_on(client.flows(&query))?;
    if arguments.json {
        out.json(&flows)?;
    } else {
        out.text(&show::flows(&flows))?;
        if flows.more {
            output::remark("there are more; --limit COUNT shows them");
        }
    }
    Ok(())
}

/// `vipd detach`.
pub(super) fn detach(out: &mut Output, place: &Place) -> Result<(), Failure> {
    let client = place.client()?;
    let state = state(place.file());
    let done = runtime()?
        .block_on(app::detach::detach(&client, &state))
        .map_err(|error| Failure::Failed(format!("{error:#}")))?;
    if done.is_empty() {
        out.text("there was nothing to remove\n")?;
    }
    for what in done {
        out.text(&format!("{what}\n"))?;
    }
    Ok(())
}

/// Where a daemon with this file keeps its state; a faulty file must not keep anybody from
/// detaching.
fn state(file: &Path) -> State {
    match config::load(file) {
        Ok(config) => config.state,
        Err(_) => State {
            directory: "/var/lib/vipd".into(),
        },
    }
}
