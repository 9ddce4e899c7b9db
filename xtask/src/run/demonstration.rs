//! A small site in network namespaces: two clients, the balancer, three Parallels RAS gateways and
//! two AppsAnywhere servers.
//!
//! Each gateway is a real DTLS server on UDP 443 and a real HTTPS portal on TCP 443, which is passed
//! through and by which `vipd` knows its health. The AppsAnywhere servers are real HTTPS servers:
//! clients' TLS ends at `vipd` and begins anew. Nothing of the site is visible to the rest of this
//! machine, and everything is gone when this process ends.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use lb_tests::lab::configuration::backend;
use lb_tests::lab::daemon::binary;
use lb_tests::lab::dtls::{DtlsServer, DtlsSession};
use lb_tests::lab::nginx::{Certificate, Nginx};
use lb_tests::lab::process::Outcome;
use lb_tests::lab::site::vip;
use lb_tests::lab::{Configuration, Daemon, Host, Lab};

use super::signals::{self, Signals};

/// The port of both, sessions and health page.
const PORT: u16 = 443;

/// The page that the vendor's guide names.
const PAGE: &str = "/RASHTML5Gateway";

/// A check that finds a failure within some seconds, for people who watch.
const HEALTH: &str = r#"{ type = "https", port = 443, path = "/RASHTML5Gateway", expect_status = [200], verify = "none", interval = "1s", timeout = "1s", rise = 2, fall = 2 }"#;

/// The names and the time of the vendor's guide.
const POOL: &str = "ras-gateways";
const SERVICE: &str = "RAS-SG-UDP";
const PERSISTENCE: &str = r#"persistence = { key = "source-ip", timeout = "6h" }"#;

/// The AppsAnywhere site: its address, its name, and the page that the vendor's guide names.
const PORTAL: &str = "10.20.90.106";
const FQDN: &str = "appsanywhere.uni.example";
const PORTAL_PAGE: &str = "/healthcheck";

/// How many of the site's servers are RAS gateways; the others are AppsAnywhere's.
const GATEWAYS: usize = 3;

/// Ways to look at the data path from outside of vipd.
const LOOKS: [&str; 4] = [
    "bpftool map dump pinned /sys/fs/bpf/vipd/flows",
    "bpftool map dump pinned /sys/fs/bpf/vipd/backends",
    "bpftool prog show pinned /sys/fs/bpf/vipd/program",
    "bpftool net show",
];

/// Time between two rounds of sessions.
const PAUSE: Duration = Duration::from_secs(2);

/// Rounds until a change must have been seen in the run without hands.
const PATIENCE: usize = 20;

/// Builds the site, shows it, and cleans it up at the first signal.
pub(super) fn command(once: bool) -> Result<()> {
    signals::end_with_parent()?;
    let signals = Signals::block(&[libc::SIGINT, libc::SIGTERM])?;

    println!("\nbuilding the site");
    let lab = Lab::one_arm()
        .clients(2)
        .gateways(GATEWAYS as u8 + 2)
        .build();
    let (gateways, servers) = lab.gateways().split_at(GATEWAYS);
    let _dtls: Vec<_> = gateways
        .iter()
        .map(|gateway| DtlsServer::start(&lab, gateway, PORT))
        .collect();
    let pages = gateways.iter().map(|gateway| {
        let page = Nginx::start_greeting(&lab, gateway, PORT, PAGE, "RAS HTML5 Gateway\n");
        (gateway.name().to_owned(), page)
    });
    let pages: BTreeMap<_, _> = pages.collect();
    let _portal: Vec<_> = servers
        .iter()
        .map(|server| Nginx::start_greeting(&lab, server, PORT, PORTAL_PAGE, "ok\n"))
        .collect();
    println!("starting vipd");
    let certificate = Certificate::self_signed(lab.directory(), FQDN);
    let daemon = Daemon::start(&lab, &configuration(&lab, &certificate));

    let mut show = Show::new(&lab, &daemon);
    show.site();
    show.round();
    show.status();
    if once {
        return without_hands(&mut show, &pages, &signals);
    }
    show.what_to_try();
    while signals.wait(Some(PAUSE))?.is_none() {
        show.round();
    }
    println!("\ncleaning up");
    Ok(())
}

fn configuration(lab: &Lab, certificate: &Certificate) -> Configuration {
    let (gateways, servers) = lab.gateways().split_at(GATEWAYS);
    let gateways: Vec<_> = gateways.iter().map(backend).collect();
    let servers: Vec<_> = servers
        .iter()
        .map(|server| format!("\"{}\"", server.v4()))
        .collect();
    Configuration::new()
        .pool(POOL, &gateways, HEALTH)
        .udp(SERVICE, vip(PORT), POOL, PERSISTENCE)
        .text(&format!(
            "[[service]]\nname = \"RAS-SG-HTTPS\"\nvip = \"{}\"\nport = {PORT}\nprotocol = \"tcp\"\n\
             forwarding = \"tcp\"\npool = \"{POOL}\"\n\
             persistence = {{ key = \"source-ip\", timeout = \"6m\" }}\n",
            vip(PORT).ip()
        ))
        .text(&format!(
            "[[site]]\npreset = \"appsanywhere\"\nvip = \"{PORTAL}\"\nfqdn = \"{FQDN}\"\n\
             certificate = \"{}\"\nkey = \"{}\"\nbackends = [{}]\nverify = \"none\"\n",
            certificate.certificate.display(),
            certificate.key.display(),
            servers.join(", ")
        ))
}

/// Lets a gateway fail and return, and makes sure that its clients leave it and that what people are
/// told to try works.
fn without_hands(
    show: &mut Show<'_>,
    pages: &BTreeMap<String, Nginx>,
    signals: &Signals,
) -> Result<()> {
    let client = show.lab.client(1).name().to_owned();
    for line in LOOKS {
        let outcome = show.lab.balancer().run(line);
        ensure!(outcome.code == Some(0), "`{line}` said {}", outcome.text());
    }
    let Some(first) = show.gateway_of(&client) else {
        bail!("{client} has no session");
    };
    let portal = show.portal_of(show.lab.client(1));
    ensure!(
        portal == Some(first.clone()),
        "{client} has its session with {first} and its portal with {portal:?}"
    );
    let greeting = show.apps(show.lab.client(1));
    ensure!(
        greeting.contains(&show.lab.client(1).v4().to_string()),
        "AppsAnywhere says {greeting:?} to {client}"
    );
    let page = &pages[&first];
    println!("\n{first} answers 503 from now on");
    page.set_available(false);
    let moved = show.until(signals, |show| {
        show.gateway_of(&client).is_some_and(|now| now != first)
    })?;
    ensure!(
        moved,
        "{client} stayed with {first}, whose page answers 503"
    );
    show.status();

    println!("\n{first} is well again");
    page.set_available(true);
    let back = show.until(signals, |show| show.is_up(&first))?;
    ensure!(back, "{first} did not come up again");
    show.status();
    println!("\ndone: cleaning up");
    Ok(())
}

/// What is on the screen.
struct Show<'a> {
    lab: &'a Lab,
    daemon: &'a Daemon<'a>,
    /// Client to the gateway that served its last session; `None` if there was none.
    served: BTreeMap<String, Option<String>>,
    /// Backend to whether it was up, and why, when last looked at.
    health: BTreeMap<String, (bool, String)>,
    /// Whether the daemon answered when last asked.
    answers: bool,
    rounds: u64,
}

impl<'a> Show<'a> {
    fn new(lab: &'a Lab, daemon: &'a Daemon<'a>) -> Self {
        Self {
            lab,
            daemon,
            served: BTreeMap::new(),
            health: BTreeMap::new(),
            answers: true,
            rounds: 0,
        }
    }

    /// Draws the site.
    fn site(&self) {
        let lab = self.lab;
        println!(
            "\n  RAS: one DTLS session after the other, from each client to {0} (UDP), and its portal\n  \
             at https://{0} (TCP, passed through); AppsAnywhere: https://{PORTAL} (TLS ends at vipd)\n",
            vip(PORT)
        );
        for client in lab.clients() {
            println!(
                "  {:<10} {:<14} a user's device",
                client.name(),
                client.v4()
            );
        }
        println!(
            "  {:<10} {:<14} vipd, VIPs {} and {PORTAL}",
            lab.balancer().name(),
            lab.balancer().v4(),
            vip(PORT).ip()
        );
        let (gateways, servers) = lab.gateways().split_at(GATEWAYS);
        for server in servers {
            println!(
                "  {:<10} {:<14} AppsAnywhere, https://{}{PORTAL_PAGE}",
                server.name(),
                server.v4(),
                server.v4()
            );
        }
        for gateway in gateways {
            println!(
                "  {:<10} {:<14} DTLS on UDP {PORT}, https://{}{PAGE}",
                gateway.name(),
                gateway.v4(),
                gateway.v4()
            );
        }
        println!();
    }

    /// Opens a session from each client, and says what is new since the last round.
    fn round(&mut self) {
        self.rounds += 1;
        self.look_at_health();
        let lab = self.lab;
        for client in lab.clients() {
            let gateway = self.session(client);
            let before = self
                .served
                .insert(client.name().to_owned(), gateway.clone());
            if before.as_ref() == Some(&gateway) {
                continue;
            }
            let name = client.name();
            let portal = self
                .portal_of(client)
                .unwrap_or_else(|| "nobody".to_owned());
            match (gateway, before.flatten()) {
                (Some(now), None) => println!(
                    "  {name}: DTLS session with {now}, echo is right; portal with {portal}; \
                     AppsAnywhere: {}",
                    self.apps(client)
                ),
                (Some(now), Some(old)) => {
                    println!("  {name}: moved from {old} to {now}; portal with {portal}");
                }
                (None, _) => println!("  {name}: no DTLS session; it tries again"),
            }
        }
    }

    /// A whole session: handshake, a line there and back, goodbye. Returns who served it.
    fn session(&self, client: &Host) -> Option<String> {
        let mut session = DtlsSession::try_open(self.lab, client, vip(PORT)).ok()?;
        let line = format!("{} in round {}", client.name(), self.rounds);
        session.try_echo(&line).then(|| session.peer())
    }

    /// Returns the gateway whose portal a client meets on TCP.
    fn portal_of(&self, client: &Host) -> Option<String> {
        let page = fetch(client, &format!("https://{}/", vip(PORT)))?;
        page.split_whitespace().next().map(str::to_owned)
    }

    /// Returns what AppsAnywhere says to a client.
    fn apps(&self, client: &Host) -> String {
        let page = fetch(client, &format!("https://{PORTAL}/"));
        page.unwrap_or_else(|| "nobody answers".to_owned())
    }

    /// Says which backends have changed.
    fn look_at_health(&mut self) {
        let status = self.daemon.try_status();
        if self.answers != status.is_ok() {
            self.answers = status.is_ok();
            let now = if self.answers { "back" } else { "gone" };
            println!("  vipd is {now}");
        }
        let Ok(status) = status else { return };
        for gateway in &self.lab.gateways()[..GATEWAYS] {
            let backend = status.backend(gateway.name());
            let now = (backend.is_up(), backend.health_reason().to_owned());
            let before = self.health.insert(gateway.name().to_owned(), now.clone());
            if before.is_some_and(|before| before.0 != now.0) {
                let state = if now.0 { "up" } else { "down" };
                println!("  {} is {state}: {}", gateway.name(), now.1);
            }
        }
    }

    /// Prints what `vipd status` prints.
    fn status(&self) {
        let outcome = self.daemon.cli(&["status"]);
        println!("\n$ vipd status");
        print!("{}", outcome.text());
    }

    /// Makes rounds until `condition` holds; false if it does not in time, or a signal came.
    fn until(&mut self, signals: &Signals, condition: impl Fn(&Self) -> bool) -> Result<bool> {
        for _ in 0..PATIENCE {
            self.round();
            if condition(self) {
                return Ok(true);
            }
            if signals.wait(Some(PAUSE))?.is_some() {
                return Ok(false);
            }
        }
        Ok(false)
    }

    fn gateway_of(&self, client: &str) -> Option<String> {
        self.served.get(client).cloned().flatten()
    }

    fn is_up(&self, backend: &str) -> bool {
        self.health.get(backend).is_some_and(|(up, _)| *up)
    }

    /// Prints commands for another terminal.
    fn what_to_try(&self) {
        let lab = self.lab;
        let client = lab.client(1);
        let gateway = self
            .gateway_of(client.name())
            .unwrap_or_else(|| lab.gateway(1).name().to_owned());
        println!(
            "
what to try now: sessions go on here, and what changes is told here.
In another terminal, as root, first:

    SITE={site}
    vipd() {{ $SITE/balancer {binary} \"$@\" --config {file}; }}

  look at the state, live
    vipd status --watch
  ask why a client is where it is, and see its flows
    vipd explain {client}
    vipd flows
  read the kernel's own tables
{looks}
  ask the portals as {name}, with TLS passed through and with TLS ended at vipd; and the redirect
    $SITE/{name} curl -k https://{vip}/
    $SITE/{name} curl -k --resolve {FQDN}:443:{PORTAL} https://{FQDN}/
    $SITE/{name} curl -sI --resolve {FQDN}:80:{PORTAL} 'http://{FQDN}/any?path'
  the same in a browser, if this machine has one and a display
    $SITE/{name} chromium --no-sandbox --user-data-dir=/tmp/demonstration --ignore-certificate-errors \
      '--host-resolver-rules=MAP {FQDN} {PORTAL}' http://{FQDN}/
  let {gateway} die, watch its clients move, and bring it back
    $SITE/{gateway} ip link set eth0 down
    $SITE/{gateway} ip link set eth0 up
  take a gateway out of service, and back
    vipd halt {gateway}
    vipd enable {gateway}
  kill the daemon: the sessions do not notice; then start it again (Ctrl-C ends it)
    kill -9 {pid}
    vipd run

Ctrl-C here ends the site and cleans up.
",
            looks = LOOKS
                .map(|line| format!("    $SITE/balancer {line}"))
                .join("\n"),
            name = client.name(),
            vip = vip(PORT),
            site = lab.directory().display(),
            binary = binary().display(),
            file = self.daemon.configuration_file().display(),
            client = client.v4(),
            pid = self.daemon.pid()
        );
    }
}

/// Asks a page as a client does; nobody vouches for the site's certificates.
fn fetch(client: &Host, url: &str) -> Option<String> {
    let mut command = client.command("curl");
    command.args(["--silent", "--insecure", "--max-time", "5", url]);
    let outcome = Outcome::of(command);
    (outcome.code == Some(0)).then(|| outcome.text().trim().to_owned())
}
