//! The daemon as a whole: the order in which its parts start and stop.
//!
//! Start: configuration, log, lock, admin socket (bound, not answering), reserved ports, data path,
//! control, then the watchers of the host (interfaces, next hops, addresses), the probes and the
//! sweeper, then answers. Stop goes backwards and leaves data path and addresses in place, so that
//! traffic goes on; `vipd detach` and `node.forget_on_stop` take them away as well.

mod checks;
pub mod detach;
mod host;
pub mod lock;
mod watch;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::SystemTime,
};

use anyhow::Context as _;
use lb_common::map_names::PIN_DIRECTORY;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{Notify, mpsc, watch::channel as watch_channel},
    task::JoinSet,
};

use crate::{
    admin::{
        reload::reload,
        server::{self, Server},
    },
    config::model::{Config, XdpMode},
    control::{
        Control, Event, Handle,
        event::Link,
        overrides,
        state::{DesiredState, Refusal},
    },
    dataplane::{Dataplane, attach::Mode, kernel::Kernel, kernel::Options, sweep::SharedSettings},
    net::interfaces::Interface,
    proxy::{Ending, Proxy, Reopen},
    telemetry,
};

use self::lock::Lock;

/// Why the daemon ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// The data path stays.
    Leave,
    /// The data path and what was added to the host go.
    Forget,
}

/// Runs the daemon until it is told to stop.
///
/// # Errors
///
/// What kept it from starting, or from taking the data path down.
pub fn run(config: Config, file: &Path) -> anyhow::Result<ExitCode> {
    telemetry::start(&config.log);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let result = runtime.block_on(live(config, file));
    // A task that blocks must not keep the process.
    runtime.shutdown_background();
    result.map(|()| ExitCode::SUCCESS)
}

async fn live(config: Config, file: &Path) -> anyhow::Result<()> {
    let mut signals = Signals::open()?;
    let started = SystemTime::now();
    let pins = PathBuf::from(PIN_DIRECTORY);
    let _lock = Lock::take(&pins)?;
    let server = Server::open(&config.admin)?;
    prepare_state_directory(&config)?;
    for warning in &config.warnings {
        tracing::warn!("{}: {}", warning.place, warning.message);
    }
    host::reserve_ports(&config)?;
    let links = links(&config).await?;
    let (mut kernel, sweep) = open_dataplane(&config)?;
    let sweeper = kernel.sweeper()?;
    let adopted = kernel.adopted();
    let (control, handle) = take_over(kernel, config.clone(), links, &sweep, started)?;
    let control = tokio::spawn(control.run());
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        adopted,
        "vipd runs with {}",
        file.display()
    );

    let detach = Arc::new(Notify::new());
    let sweeping = watch::sweep(sweeper, sweep, handle.clone())?;
    let (accused, accusations) = mpsc::channel(ACCUSATIONS);
    let proxy = Proxy::start(&handle, &pins, accused)?;
    let view = proxy.view();
    signals.reopen = Some(proxy.reopen());
    let (end_proxy, proxy_ends) = watch_channel(Ending::No);
    let mut proxying = tokio::spawn(proxy.run(proxy_ends));
    let mut watchers = watch::start(&handle, accusations).await?;
    let mut answers = JoinSet::new();
    answers.spawn(server.run(server::Context {
        handle: handle.clone(),
        configuration: file.to_owned(),
        detach: Arc::clone(&detach),
        proxy: view,
    }));

    let stop = signals.wait(&handle, file, &detach).await;
    watchers.shutdown().await;
    end_proxy.send_replace(Ending::Finish);
    let proxied = tokio::select! {
        proxied = &mut proxying => proxied,
        () = signals.again() => {
            end_proxy.send_replace(Ending::AtOnce);
            proxying.await
        }
    };
    proxied.context("the proxy failed")?;
    drop(sweeping);
    let _ = handle.tell(Event::Stop).await;
    let dataplane = control.await.context("control failed")?;
    drop(dataplane);
    let forget = stop == Stop::Forget || handle.snapshot().state.config.node.forget_on_stop;
    let result = if forget {
        let state = handle.snapshot().state.config.state.clone();
        detach::take_down(&pins, &state).await.map(|done| {
            for what in done {
                tracing::info!("{what}");
            }
        })
    } else {
        Ok(())
    };
    // Last, as the answer to `vipd detach` may still be on its way.
    answers.shutdown().await;
    tracing::info!(
        "vipd stops; {}",
        if forget {
            "the data path is gone"
        } else {
            "the data path goes on"
        }
    );
    result
}

/// The state directory must be there before anything is written into it.
fn prepare_state_directory(config: &Config) -> anyhow::Result<()> {
    let directory = &config.state.directory;
    std::fs::create_dir_all(directory).with_context(|| {
        format!(
            "cannot make the state directory {}; give another in state.directory",
            directory.display()
        )
    })
}

/// Reads the interfaces of the configuration; each must be there.
async fn links(config: &Config) -> anyhow::Result<Vec<Link>> {
    let mut links = Vec::new();
    for name in &config.node.interfaces {
        let interface = Interface::lookup(name)
            .await
            .with_context(|| format!("node.interfaces names {name}"))?;
        links.push(watch::link(&interface));
    }
    Ok(links)
}

fn open_dataplane(config: &Config) -> anyhow::Result<(Kernel, SharedSettings)> {
    let node = &config.node;
    let kernel = Kernel::open(Options {
        pin_directory: PathBuf::from(PIN_DIRECTORY),
        max_flows: node.max_flows,
        max_affinity: node.max_affinity,
        snat_port_first: node.snat_ports.first,
        snat_port_count: u16::try_from(node.snat_ports.count()).unwrap_or(u16::MAX),
        mode: match node.xdp_mode {
            XdpMode::Auto => Mode::Auto,
            XdpMode::Native => Mode::Native,
            XdpMode::Generic => Mode::Generic,
        },
        interfaces: node.interfaces.clone(),
    })?;
    Ok((kernel, SharedSettings::default()))
}

/// Brings the maps to the configuration, from what a former daemon left in them.
fn take_over(
    kernel: Kernel,
    config: Config,
    links: Vec<Link>,
    sweep: &SharedSettings,
    started: SystemTime,
) -> anyhow::Result<(Control, Handle)> {
    let loaded = overrides::load(&config.state.directory);
    if let Some(warning) = loaded.warning {
        tracing::warn!("{warning}");
    }
    let adopted = kernel.adopted();
    let image = kernel.image()?;
    let state = DesiredState::start(
        Arc::new(config),
        &image,
        adopted,
        links,
        loaded.overrides,
        started,
    )
    .map_err(|refusals| anyhow::anyhow!(join(&refusals)))?;
    let dataplane = Box::new(kernel);
    Ok(Control::new(
        dataplane,
        image,
        state,
        Arc::clone(sweep),
        started,
    )?)
}

fn join(refusals: &[Refusal]) -> String {
    let lines: Vec<String> = refusals.iter().map(ToString::to_string).collect();
    lines.join("\n  ")
}

/// Backends that refused the proxy and wait for a probe.
const ACCUSATIONS: usize = 64;

/// What the system may tell the daemon.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
    user: Signal,
    /// What SIGUSR1 is for.
    reopen: Option<Reopen>,
}

impl Signals {
    fn open() -> anyhow::Result<Self> {
        let open = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self {
            terminate: open(SignalKind::terminate())?,
            interrupt: open(SignalKind::interrupt())?,
            hang_up: open(SignalKind::hangup())?,
            user: open(SignalKind::user_defined1())?,
            reopen: None,
        })
    }

    /// Waits until the daemon is told once more to stop.
    async fn again(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// Waits for the reason to stop; meanwhile reloads on SIGHUP, and opens the access log anew on
    /// SIGUSR1.
    async fn wait(&mut self, handle: &Handle, file: &Path, detach: &Notify) -> Stop {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return Stop::Leave,
                _ = self.interrupt.recv() => return Stop::Leave,
                () = detach.notified() => return Stop::Forget,
                _ = self.user.recv() => if let Some(reopen) = &self.reopen {
                    reopen.now();
                },
                _ = self.hang_up.recv() => {
                    if let Err(error) = reload(handle, file).await {
                        tracing::error!(
                            "the configuration is not applied: {}",
                            crate::control::chain(&error)
                        );
                    }
                }
            }
        }
    }
}
