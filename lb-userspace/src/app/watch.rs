//! The tasks between the host, the backends and control: what they see becomes events, and what
//! the configuration wants becomes their work.

use std::{
    collections::BTreeSet,
    sync::{Arc, mpsc as std_mpsc},
    thread::{self, JoinHandle},
    time::Duration,
};

use lb_common::backend::VlanTags;
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

use super::{
    checks::{checks, destinations},
    host::Keeper,
};
use crate::{
    control::{
        Event, Handle, chain,
        event::{BackendName, CheckReport, Health, Link, NextHop},
        evidence::{Evidence, news},
    },
    dataplane::sweep::{SharedSettings, Sweeper},
    health::{self, HealthEvent, Prober},
    net::{
        interfaces::{self, Interface, InterfaceEvent},
        next_hop::{NextHopEvent, Resolver, Unresolved},
    },
};

/// Pause between two sweeps.
const SWEEP_PAUSE: Duration = Duration::from_secs(1);
/// The same while places run out.
const SWEEP_PAUSE_PRESSED: Duration = Duration::from_millis(250);
/// Pause between two looks at addresses that may be given up.
const ADDRESS_PAUSE: Duration = Duration::from_secs(10);
/// Probe reports that may wait.
const REPORTS: usize = 256;

/// Starts the watchers, and what follows the configuration. They end when the set is dropped.
///
/// # Errors
///
/// When netlink cannot be opened.
pub(super) async fn start(
    handle: &Handle,
    accusations: mpsc::Receiver<BackendName>,
) -> anyhow::Result<JoinSet<()>> {
    let snapshot = handle.snapshot();
    let names = snapshot.state.config.node.interfaces.clone();
    let mut tasks = JoinSet::new();
    tasks.spawn(follow_interfaces(
        interfaces::watch(names).await?,
        handle.clone(),
    ));
    let (resolver, ways) = Resolver::start().await?;
    tasks.spawn(follow_ways(ways, handle.clone()));
    let (keeper, lost) = Keeper::open(handle.clone()).await?;
    tasks.spawn(keep_addresses(keeper, lost, handle.clone()));
    tasks.spawn(probe(resolver, handle.clone(), accusations));
    Ok(tasks)
}

/// Returns an interface as control knows it.
pub(super) fn link(interface: &Interface) -> Link {
    Link {
        name: interface.name.clone(),
        index: interface.index,
        mac: interface.mac,
        mtu: u16::try_from(interface.mtu).unwrap_or(u16::MAX),
    }
}

async fn follow_interfaces(mut events: mpsc::Receiver<InterfaceEvent>, handle: Handle) {
    while let Some(event) = events.recv().await {
        let told = match event {
            InterfaceEvent::Appeared(now)
            | InterfaceEvent::Recreated { now, .. }
            | InterfaceEvent::Changed { now, .. } => Event::Link(link(&now)),
            InterfaceEvent::Missing { name, .. } => Event::LinkGone(name),
        };
        if handle.tell(told).await.is_err() {
            return;
        }
    }
    if !handle.is_stopped() {
        tracing::error!("interfaces are no longer watched: restart vipd, traffic goes on");
    }
}

async fn follow_ways(mut events: mpsc::Receiver<NextHopEvent>, handle: Handle) {
    while let Some(event) = events.recv().await {
        let state = Arc::clone(&handle.snapshot().state);
        let known = state.next_hops.get(&event.destination);
        if let Err(Unresolved::InterfaceDown { interface }) = &event.result
            && matches!(known, Some(Ok(_)))
        {
            // Whoever is behind a link of ours that is down for a moment is not at fault, and the
            // ways behind it come back one by one: clients would gather at the first backend that
            // is found again. What was known stands until a look with the link up says otherwise,
            // or the backend's health.
            tracing::warn!(
                interface = %interface,
                "interface {interface} is down: {} cannot be reached, its clients are not moved",
                event.destination
            );
            continue;
        }
        let links = &state.links;
        let result = event.result.map(|hop| NextHop {
            interface: hop.interface_index,
            interface_name: links
                .values()
                .find(|link| link.index == hop.interface_index)
                .map_or_else(
                    || format!("interface {} (see `ip link`)", hop.interface_index),
                    |link| link.name.clone(),
                ),
            mac: hop.mac,
            source: hop.source,
            via: hop.via,
            vlan: VlanTags::NONE,
        });
        let told = Event::NextHop {
            destination: event.destination,
            result: result.map_err(|error| error.to_string()),
        };
        if handle.tell(told).await.is_err() {
            return;
        }
    }
    if !handle.is_stopped() {
        tracing::error!("next hops are no longer watched: restart vipd, traffic goes on");
    }
}

async fn keep_addresses(
    mut keeper: Keeper,
    mut lost: mpsc::Receiver<std::net::IpAddr>,
    handle: Handle,
) {
    let mut generation = handle.generation();
    let mut pause = interval(ADDRESS_PAUSE);
    pause.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            changed = generation.changed() => if changed.is_err() {
                return;
            },
            address = lost.recv() => match address {
                Some(address) => tracing::warn!("somebody removed {address}; it is added again"),
                None => {
                    tracing::error!("addresses are no longer watched: restart vipd");
                    return;
                }
            },
            _ = pause.tick() => {}
        }
        keeper.reconcile().await;
    }
}

/// Runs the checks of the configuration in force, and resolves the ways to what they probe.
async fn probe(resolver: Resolver, handle: Handle, mut accusations: mpsc::Receiver<BackendName>) {
    let (sender, mut reports) = mpsc::channel(REPORTS);
    let mut prober = Prober::new(sender);
    let mut generation = handle.generation();
    let mut evidence = handle.evidence();
    let mut known = Evidence::new();
    loop {
        generation.borrow_and_update();
        {
            let snapshot = handle.snapshot();
            prober.reconcile(checks(&snapshot.state));
            resolver.set_destinations(destinations(&snapshot.state));
        }
        loop {
            tokio::select! {
                changed = generation.changed() => match changed {
                    Ok(()) => break,
                    Err(_) => return,
                },
                changed = evidence.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let now = evidence.borrow_and_update().clone();
                    for name in news(&known, &now) {
                        tracing::debug!(
                            pool = name.pool,
                            backend = name.backend,
                            "{} answers with port unreachable: probing at once", name.backend
                        );
                        prober.nudge_backend(&name.pool, &name.backend);
                    }
                    known = now;
                }
                Some(name) = accusations.recv() => {
                    tracing::debug!(
                        pool = name.pool,
                        backend = name.backend,
                        "{} takes no connection: probing at once", name.backend
                    );
                    prober.nudge_backend(&name.pool, &name.backend);
                }
                report = reports.recv() => match report {
                    Some(report) => if forward(report, &resolver, &handle).await.is_err() {
                        return;
                    },
                    None => return,
                },
            }
        }
    }
}

async fn forward(
    event: HealthEvent,
    resolver: &Resolver,
    handle: &Handle,
) -> Result<(), crate::control::RequestError> {
    let HealthEvent { id, report } = event;
    if !report.passed {
        let snapshot = handle.snapshot();
        let addresses: BTreeSet<std::net::IpAddr> = snapshot
            .state
            .pool_backends()
            .filter(|(pool, backend)| pool.name == id.pool && backend.name == id.backend)
            .map(|(_, backend)| backend.address)
            .collect();
        // Its MAC address may have changed without a word.
        addresses
            .into_iter()
            .for_each(|address| resolver.nudge(address));
    }
    handle
        .tell(Event::Check(CheckReport {
            backend: BackendName::new(id.pool, id.backend),
            service: id.service,
            health: match report.health {
                health::Health::Up => Health::Up,
                health::Health::Down => Health::Down,
            },
            reason: report.reason,
            since: report.since,
            probed: report.probed,
            latency: report.latency,
        }))
        .await
}

/// The thread that sweeps; it ends when this is dropped.
pub(super) struct Sweeping {
    stop: Option<std_mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Sweeping {
    fn drop(&mut self) {
        // The thread waits on the other end.
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the sweeper failed");
        }
    }
}

/// Sweeps in a thread of its own: a pass over a large table takes milliseconds.
///
/// # Errors
///
/// When no thread can be started.
pub(super) fn sweep(
    mut sweeper: Sweeper,
    settings: SharedSettings,
    handle: Handle,
) -> anyhow::Result<Sweeping> {
    let (stop, stopped) = std_mpsc::channel::<()>();
    let thread = thread::Builder::new()
        .name("sweeper".to_owned())
        .spawn(move || {
            let mut failing = false;
            loop {
                let mut pause = SWEEP_PAUSE;
                match sweeper.sweep(&settings.load()) {
                    Ok(report) => {
                        failing = false;
                        if report.pressed {
                            pause = SWEEP_PAUSE_PRESSED;
                        }
                        if handle.tell_blocking(Event::Sweep(report)).is_err() {
                            return;
                        }
                    }
                    Err(error) => {
                        if !failing {
                            tracing::error!("cannot sweep the flow tables: {}", chain(&error));
                        }
                        failing = true;
                    }
                }
                match stopped.recv_timeout(pause) {
                    Err(std_mpsc::RecvTimeoutError::Timeout) => {}
                    Ok(()) | Err(std_mpsc::RecvTimeoutError::Disconnected) => return,
                }
            }
        })?;
    Ok(Sweeping {
        stop: Some(stop),
        thread: Some(thread),
    })
}
