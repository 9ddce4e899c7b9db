//! A web site under churn for as long as one likes: nothing grows, nobody gets another's answer, and
//! at the end all is as it was. One daemon lives through everything.

use std::{
    env,
    sync::atomic::Ordering,
    thread,
    time::{Duration, Instant},
};

use lb_tests::lab::{
    Configuration, Daemon, Lab, Random,
    access_log::AccessLog,
    eventually::{eventually, holds_within},
    proxied::Proxied,
    site::vip,
    stream::End,
    tcp_server::TcpServer,
    traces::Entries,
    usage::Usage,
    web_churn::{REDIRECT, Report, TUNNELS, Visitor, Weather},
    web_site::{POOL, PORTAL, SERVICE, WebSite},
};

/// How long it takes without `LB_SOAK_MINUTES`, beside the quiet end.
const SHORT: Duration = Duration::from_secs(20);
const SAMPLES: u32 = 12;
const VISITORS: usize = 6;
/// Answers before the first sample: what is made once has been made by then.
const WARM: u64 = 300;
/// What the daemon's memory may grow by: its allocator keeps what was once in use.
const SLACK_KIB: u64 = 8192;
/// Descriptors that may be open at one moment and not at another: connections to backends wait for a
/// minute, also those that a reload has replaced.
const SLACK_DESCRIPTORS: u64 = 96;
/// Connections that may be open at one moment and not at another: each visitor has one, and what broke
/// off may linger for two seconds.
const SLACK_OPEN: u64 = 3 * VISITORS as u64;
const BOUND: Duration = Duration::from_secs(20);
/// How soon everything has been forgotten: 16 s after what is remembered, and the sweeper's time.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// A failure is found within a second or so; a busy machine may be late twice.
const HEALTH: &str = r#"{ type = "https", path = "/healthcheck", interval = "1s", timeout = "1s", rise = 1, fall = 3, verify = "none" }"#;
/// Short, so that what is remembered is soon forgotten.
const PERSISTENCE: &str = r#"persistence = { key = "source-ip", timeout = "1s" }"#;
const THROUGH: &str = "through";
const TO_HTTPS: &str = "to-https";

/// What of the configuration changes.
#[derive(Clone, Copy, Debug, Default)]
struct Variant {
    /// The third gateway takes fewer new clients.
    light_third: bool,
    /// There is one service more.
    second_service: bool,
    /// A limit that nobody reaches, which makes the front anew.
    limited: bool,
}

fn configuration(lab: &Lab, site: &WebSite, log: &AccessLog, variant: Variant) -> Configuration {
    let mut backends = site.backends(lab);
    if variant.light_third {
        backends[2] = backends[2].replace(" }", ", weight = 10 }");
    }
    let limits = match variant.limited {
        true => "limits = { streams = 50 }",
        false => "",
    };
    let service = |name: &str, forwarding: &str, port, more: &str| {
        format!(
            "[[service]]\nname = \"{name}\"\nvip = \"{}\"\nport = {port}\nprotocol = \"tcp\"\n\
             forwarding = \"{forwarding}\"\n{more}\n",
            vip(port).ip()
        )
    };
    let tunnels = format!("pool = \"{POOL}\"\n{PERSISTENCE}");
    let hosts = format!("redirect = {{ hosts = [\"{PORTAL}\"] }}");
    let configuration = Configuration::new()
        // What is remembered lives as long as a flow would.
        .node("flow_timeout = \"4s\"")
        .node("flow_timeout_unreplied = \"2s\"")
        // Small tables are read soon.
        .node("snat_ports = \"20000-20511\"")
        .node("max_flows = 16384")
        .pool(POOL, &backends, HEALTH)
        .text(&site.service(SERVICE, vip(443), POOL, &format!("{PERSISTENCE}\n{limits}")))
        .text(&service(THROUGH, "tcp", TUNNELS, &tunnels))
        .text(&service(TO_HTTPS, "redirect", REDIRECT, &hosts));
    let configuration = match variant.second_service {
        true => configuration.text(&site.service("second", vip(8443), POOL, PERSISTENCE)),
        false => configuration,
    };
    log.configured(configuration)
}

#[test]
fn a_web_site_under_churn_grows_nowhere_and_answers_nobody_wrongly() {
    let length = env::var("LB_SOAK_MINUTES").map_or(SHORT, |text| {
        let minutes: f64 = text
            .parse()
            .unwrap_or_else(|_| panic!("LB_SOAK_MINUTES is no number: {text}"));
        Duration::from_secs_f64(minutes * 60.0)
    });
    let mut random = Random::of_the_run();
    let lab = Lab::one_arm().campus().gateways(3).build();
    let mut site = WebSite::start(&lab);
    let gateways = lab.gateways().iter();
    let _echoes: Vec<TcpServer> = gateways
        .map(|host| TcpServer::echo(host, TUNNELS))
        .collect();
    let log = AccessLog::of(&lab);
    let daemon = Daemon::start(&lab, &configuration(&lab, &site, &log, Variant::default()));
    let at_first = (Entries::of(lab.balancer()), Usage::of(daemon.pid()));
    let (weather, report) = (Weather::default(), Report::default());
    let visitors: Vec<Visitor<'_>> = (0..VISITORS)
        .map(|_| Visitor::new(lab.campus(), &site, &weather, &report, random.split()))
        .collect();
    let mut taken = Vec::new();
    thread::scope(|scope| {
        for mut visitor in visitors {
            scope.spawn(move || visitor.run());
        }
        let _home = GoHome(&report);
        eventually(BOUND, "visitors are served", || {
            report.good.load(Ordering::Relaxed) >= WARM
        });
        let start = Instant::now();
        println!("{}", Sample::HEADING);
        let mut administrator = Administrator {
            lab: &lab,
            daemon: &daemon,
            log: &log,
            weather: &weather,
            random,
            made: 0,
        };
        for number in 1..=SAMPLES {
            while Instant::now() < start + length / SAMPLES * number {
                administrator.change(&mut site);
            }
            let sample = Sample::take(&lab, &daemon);
            sample.print(start.elapsed(), &report);
            taken.push(sample);
            let slow = || {
                let mut lines = log.lines();
                lines.retain(|line| line.number("total_us") > Some(5_000_000));
                lines
            };
            assert_eq!(report.wrong(), Vec::<String>::new(), "{:#?}", slow());
        }
        println!("{} changes; {report:?}", administrator.made);
        administrator.reload(&site, Variant::default());
    });

    eventually(FORGOTTEN, "connections and clients are gone", || {
        let open = |name| Proxied::of(&daemon, name).count("connections_open");
        let open: u64 = [SERVICE, THROUGH, TO_HTTPS].into_iter().map(open).sum();
        open + daemon.status().remembered() == 0
    });
    for origin in &site.origins {
        origin.end_connections(End::Close);
    }
    let (entries, usage) = at_first;
    let as_at_first = holds_within(BOUND, || {
        let now = Usage::of(daemon.pid());
        Entries::of(lab.balancer()) == entries && now.descriptors <= usage.descriptors + 8
    });
    let sample = Sample::take(&lab, &daemon);
    assert!(as_at_first, "{entries:?}, {usage:?} became {sample:?}");
    daemon.cli(&["check", "--live"]).ok();
    assert_eq!(report.wrong(), Vec::<String>::new());
    assert!(report.excused.load(Ordering::Relaxed) < report.good.load(Ordering::Relaxed) / 4);
    log.assert_agrees(&daemon, &[SERVICE, THROUGH, TO_HTTPS]);
    assert_no_growth(&taken);
}

/// Sends the visitors home, also where the test fails.
struct GoHome<'a>(&'a Report);

impl Drop for GoHome<'_> {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::Relaxed);
    }
}

/// Who changes things: each change is drawn.
struct Administrator<'a> {
    lab: &'a Lab,
    daemon: &'a Daemon<'a>,
    log: &'a AccessLog,
    weather: &'a Weather,
    random: Random,
    made: u64,
}

impl Administrator<'_> {
    /// Makes one change and waits for what it shall bring.
    #[track_caller]
    fn change(&mut self, site: &mut WebSite) {
        self.made += 1;
        match self.random.within(0..4) {
            0 => self.flap(site),
            1 => {
                let next = site.authority.certificate(&[PORTAL]);
                site.certificate.replace_by(&next);
                self.reload(site, Variant::default());
            }
            _ => {
                let variant = Variant {
                    light_third: self.random.one_in(2),
                    second_service: self.random.one_in(2),
                    limited: self.random.one_in(2),
                };
                self.reload(site, variant);
            }
        }
    }

    /// Lets a backend go down, until the daemon knows, and come back.
    #[track_caller]
    fn flap(&mut self, site: &mut WebSite) {
        let place = self.random.within(1..3);
        let end = *self.random.of(&[End::Close, End::Fin, End::Reset]);
        let is_up = |name: &str| self.daemon.status().backend(name).is_up();
        let origin = &mut site.origins[place];
        let name = origin.name().to_owned();
        self.weather.storm();
        origin.stop(end);
        eventually(BOUND, "it is found down", || !is_up(&name));
        origin.resume();
        eventually(BOUND, "all are back", || {
            self.daemon.status().backends().all(|it| it.is_eligible())
        });
        self.weather.calm();
    }

    #[track_caller]
    fn reload(&self, site: &WebSite, variant: Variant) {
        self.daemon
            .reload(&configuration(self.lab, site, self.log, variant));
    }
}

/// Compares the first third of the samples with the last one.
#[track_caller]
fn assert_no_growth(samples: &[Sample]) {
    let third = samples.len() / 3;
    let (first, last) = (&samples[..third], &samples[samples.len() - third..]);
    let compare = |name: &str, slack: u64, what: fn(&Sample) -> u64| {
        let of = |samples: &[Sample]| {
            let mut values: Vec<u64> = samples.iter().map(what).collect();
            values.sort_unstable();
            values[values.len() / 2]
        };
        let (at_first, at_last) = (of(first), of(last));
        println!("{name}: {at_first} in the first third, {at_last} in the last");
        assert!(at_last <= at_first + slack, "{name}: {samples:#?}");
    };
    compare("KiB", SLACK_KIB, |sample| sample.usage.pss_kib);
    compare("descriptors", SLACK_DESCRIPTORS, |sample| {
        sample.usage.descriptors as u64
    });
    compare("threads", 2, |sample| sample.usage.threads as u64);
    compare("connections", SLACK_OPEN, |sample| sample.open);
}

/// What is used at one moment.
#[derive(Clone, Debug)]
struct Sample {
    usage: Usage,
    open: u64,
    entries: Entries,
}

impl Sample {
    const HEADING: &'static str =
        " seconds  PSS KiB  files  threads  open  affinity     good  excused  broken off";

    #[track_caller]
    fn take(lab: &Lab, daemon: &Daemon<'_>) -> Self {
        let open = |name| Proxied::of(daemon, name).count("connections_open");
        Self {
            usage: Usage::of(daemon.pid()),
            open: [SERVICE, THROUGH, TO_HTTPS].into_iter().map(open).sum(),
            entries: Entries::of(lab.balancer()),
        }
    }

    fn print(&self, at: Duration, report: &Report) {
        println!(
            "{:8.1} {:8} {:6} {:8} {:5} {:9} {:8} {:8} {:11}",
            at.as_secs_f64(),
            self.usage.pss_kib,
            self.usage.descriptors,
            self.usage.threads,
            self.open,
            self.entries.count("affinity"),
            report.good.load(Ordering::Relaxed),
            report.excused.load(Ordering::Relaxed),
            report.broken_off.load(Ordering::Relaxed),
        );
    }
}
