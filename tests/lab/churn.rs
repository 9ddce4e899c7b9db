//! A site that never rests: flows that run and flows that begin, an administrator who changes
//! things, and backends that come and go.
//!
//! Four gateways serve in two pools, one for each family. The first two are left alone; the others
//! fail, are drained, halted and taken out of the configuration. Their service always answers, so
//! a datagram that is lost was lost by the balancer.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use super::{
    clients::UdpClient,
    configuration::{Configuration, POOL, SERVICE, backend, backend6},
    gateways::Gateways,
    random::Random,
    site::{Lab, campus_v4, campus_v6, vip, vip6},
};

/// Name of the pool of the gateways' IPv6 addresses.
const POOL6: &str = "ras-gateways-6";
/// Clients of the campus with numbers from here on are those that are blocked and allowed.
const BLOCKED_FROM: u16 = 0xc800;
/// Their prefixes.
const BLOCKED: [&str; 2] = ["10.30.200.0/24", "fd00:30::c800/120"];
/// A failure is found within a second. A busy machine may be late twice.
const HEALTH: &str = r#"{ type = "http", port = 8080, path = "/health", interval = "200ms", timeout = "200ms", rise = 1, fall = 3 }"#;
/// Short, so that what is remembered is soon forgotten.
const PERSISTENCE: &str = r#"persistence = { key = "source-ip", timeout = "1s" }"#;
/// How long a flow lives after its last packet; longer than a busy machine keeps a sender waiting.
const FLOW_TIMEOUT: &str = "4s";

/// Steady clients of each family.
const STEADY: usize = 20;
/// Pause of the client that begins flows.
const PAUSE: Duration = Duration::from_millis(10);
/// How long an answer may take before the datagram is sent again.
const ANSWER: Duration = Duration::from_millis(500);
/// Datagrams sent before a client gives up. Those of a flow that is moved meanwhile may be lost
/// on their way back, since the endpoint that they come from is taken away.
const ATTEMPTS: usize = 4;

/// What of the configuration changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Variant {
    /// The fourth gateway is in no pool.
    pub without_fourth: bool,
    /// There is one service more.
    pub second_service: bool,
}

/// Returns the configuration of the site.
#[must_use]
pub fn configuration(lab: &Lab, variant: Variant) -> Configuration {
    let last = if variant.without_fourth { 3 } else { 4 };
    let gateways = &lab.gateways()[..last];
    let backends: Vec<String> = gateways.iter().map(backend).collect();
    let backends6: Vec<String> = gateways.iter().map(backend6).collect();
    let configuration = Configuration::new()
        .node(&format!("flow_timeout = \"{FLOW_TIMEOUT}\""))
        .node("flow_timeout_unreplied = \"2s\"")
        // Small tables: a port that leaks is soon missed, and a record is soon used again. Twice what two
        // gateways need on a machine where a start takes seconds, and nobody sweeps meanwhile.
        .node("snat_ports = \"20000-21023\"")
        .node("max_flows = 32768")
        .pool(POOL, &backends, HEALTH)
        .pool(POOL6, &backends6, HEALTH)
        .udp(SERVICE, vip(443), POOL, PERSISTENCE)
        .udp("RAS-SG-UDP-6", vip6(443), POOL6, PERSISTENCE);
    if variant.second_service {
        let more = format!("backend_port = 443\n{PERSISTENCE}");
        return configuration.udp("second", vip(4443), POOL, &more);
    }
    configuration
}

/// Returns clients of both families that met one of the gateways that are left alone.
///
/// # Panics
///
/// If too few of the campus do.
#[must_use]
#[track_caller]
pub fn steady_clients(lab: &Lab) -> Vec<UdpClient> {
    let candidates = 1..=5 * STEADY as u16;
    let steady = |sources: Vec<SocketAddr>, server: SocketAddr| {
        let clients = lab.campus().udp_from_each(&sources, server);
        let steady: Vec<UdpClient> = clients
            .into_iter()
            .filter(|client| ["gateway1", "gateway2"].contains(&client.backend().as_str()))
            .take(STEADY)
            .collect();
        assert_eq!(steady.len(), STEADY, "too few clients of {server}");
        steady
    };
    let mut clients = steady(candidates.clone().map(campus_v4).collect(), vip(443));
    clients.extend(steady(candidates.map(campus_v6).collect(), vip6(443)));
    clients
}

/// Who changes things: each change is drawn.
#[derive(Debug)]
pub struct Administrator {
    random: Random,
}

impl Administrator {
    /// Appoints somebody whose changes `random` draws.
    #[must_use]
    pub fn new(random: Random) -> Self {
        Self { random }
    }

    /// Returns the arguments of a command for the daemon.
    pub fn command(&mut self) -> Vec<String> {
        match self.random.within(0..7) {
            0 | 1 => vec!["reload".to_owned()],
            2 => self.about_clients("block"),
            3 => self.about_clients("allow"),
            4 => self.about_clients("forget"),
            5 => self.about_a_backend("enable"),
            _ => {
                let state = *self.random.of(&["drain", "halt"]);
                self.about_a_backend(state)
            }
        }
    }

    /// Returns a configuration for the next reload or start.
    pub fn variant(&mut self) -> Variant {
        Variant {
            without_fourth: self.random.one_in(2),
            second_service: self.random.one_in(2),
        }
    }

    /// Lets the health page of a backend fail or work; both families notice.
    pub fn flap(&mut self, gateways: &Gateways) {
        let gateway = &gateways.all()[self.random.within(2..4)];
        let status = *self.random.of(&[200, 503]);
        gateway.page.answer(status, "ok");
    }

    fn about_clients(&mut self, verb: &str) -> Vec<String> {
        vec![verb.to_owned(), (*self.random.of(&BLOCKED)).to_owned()]
    }

    fn about_a_backend(&mut self, verb: &str) -> Vec<String> {
        let pool = self.random.of(&[POOL, POOL6]);
        let gateway = self.random.of(&["gateway3", "gateway4"]);
        vec![verb.to_owned(), format!("{pool}/{gateway}")]
    }
}

/// Returns the commands that undo everything that an [`Administrator`] may have said, for the
/// configuration with every gateway.
#[must_use]
pub fn amends() -> Vec<Vec<String>> {
    let mut commands = Vec::new();
    for pool in [POOL, POOL6] {
        for gateway in ["gateway3", "gateway4"] {
            commands.push(vec!["enable".to_owned(), format!("{pool}/{gateway}")]);
        }
    }
    for prefix in BLOCKED {
        commands.push(vec!["forget".to_owned(), prefix.to_owned()]);
    }
    commands
}

/// Clients that come, stay for a while and go.
#[derive(Debug)]
pub struct NewFlows {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<NewFlowsReport>,
}

/// What became of the clients.
#[derive(Clone, Debug, Default)]
pub struct NewFlowsReport {
    /// Flows begun.
    pub begun: u64,
    /// Questions asked, by new and by older flows.
    pub asked: u64,
    /// Datagrams sent once more because no answer came.
    pub repeated: u64,
    /// Questions that were never answered: the flow's source.
    pub unanswered: Vec<SocketAddr>,
}

impl NewFlows {
    /// Begins flows from addresses of the campus of `lab` that `random` draws, until
    /// [`Self::finish`].
    #[must_use]
    pub fn start(lab: &Lab, random: Random) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let net = lab.campus().net().clone();
        let thread = thread::spawn({
            let stop = Arc::clone(&stop);
            move || net.enter(|| begin_flows(random, &stop))
        });
        Self { stop, thread }
    }

    /// Stops and tells what became of all.
    ///
    /// # Panics
    ///
    /// Passes on a panic of the clients.
    #[must_use]
    pub fn finish(self) -> NewFlowsReport {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the clients do not panic")
    }
}

impl NewFlowsReport {
    /// Checks that every client was answered.
    ///
    /// # Panics
    ///
    /// If one was not.
    #[track_caller]
    pub fn assert_answered(&self) {
        assert!(self.begun > 0, "no flow was begun");
        assert!(self.unanswered.is_empty(), "nobody answered: {self:?}");
    }
}

fn begin_flows(mut random: Random, stop: &AtomicBool) -> NewFlowsReport {
    /// Flows that go on while new ones begin.
    const KEPT: usize = 32;
    let mut report = NewFlowsReport::default();
    let mut kept: Vec<UdpClient> = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        if random.one_in(8) {
            // May be blocked, and ends then: nothing is expected.
            let blocked = client(&mut random, BLOCKED_FROM..BLOCKED_FROM + 0x100);
            let _ = blocked.socket().send(b"blocked or not");
        }
        let new = client(&mut random, 1..BLOCKED_FROM);
        report.begun += 1;
        ask(&new, &mut report);
        if kept.len() == KEPT {
            let place = random.within(0..KEPT);
            ask(&kept[place], &mut report);
            kept.swap_remove(place);
        }
        kept.push(new);
        thread::sleep(PAUSE);
    }
    report
}

fn client(random: &mut Random, numbers: std::ops::Range<u16>) -> UdpClient {
    let numbers = usize::from(numbers.start)..usize::from(numbers.end);
    let number = u16::try_from(random.within(numbers)).expect("the range was one of u16");
    let source = if random.one_in(2) {
        campus_v4(number)
    } else {
        campus_v6(number)
    };
    match source.ip() {
        IpAddr::V4(_) => UdpClient::connect(source, vip(443)),
        IpAddr::V6(_) => UdpClient::connect(source, vip6(443)),
    }
}

fn ask(client: &UdpClient, report: &mut NewFlowsReport) {
    report.asked += 1;
    for attempt in 0..ATTEMPTS {
        let payload = format!("{}.{attempt}", report.asked);
        if client.ask_within(&payload, ANSWER).is_ok() {
            return;
        }
        report.repeated += 1;
    }
    report.unanswered.push(client.local());
}
