//! Real servers that die, hang and come back under load.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use lb_tests::lab::{
    Configuration, Daemon, Lab,
    eventually::eventually,
    nginx::Nginx,
    raw::Raw,
    site::{campus_v4, vip},
    web_site::{HEALTH, POOL, PORTAL, SERVICE, WebSite},
};

const BOUND: Duration = Duration::from_secs(30);
const CLIENTS: u16 = 20;

/// What clients have been answered so far.
#[derive(Default)]
struct Answers {
    stop: AtomicBool,
    good: AtomicU64,
    /// Everything else, by what it was.
    others: Mutex<BTreeMap<String, u64>>,
}

impl Answers {
    /// Asks again and again from an address, over one connection as long as that is there.
    fn gather(&self, lab: &Lab, site: &WebSite, source: SocketAddr) {
        let settings = site.client(&["http/1.1"]);
        let connect = || Raw::tcp_from(lab.campus(), source, vip(443))?.tls(&settings, PORTAL);
        let mut connection = None;
        while !self.stop.load(Ordering::Relaxed) {
            let mut client = match connection.take() {
                Some(client) => client,
                None => match connect() {
                    Ok(client) => client,
                    Err(error) => {
                        self.note(format!("no connection: {error}"));
                        continue;
                    }
                },
            };
            match client.get(PORTAL, "/", "") {
                Ok(answer) if answer.status == 200 => {
                    self.good.fetch_add(1, Ordering::Relaxed);
                    connection = Some(client);
                }
                Ok(answer) => {
                    self.note(answer.status.to_string());
                    connection = Some(client);
                }
                Err(error) => self.note(format!("broken: {error}")),
            }
        }
    }

    fn note(&self, what: String) {
        let mut others = self.others.lock().expect("no client panics");
        *others.entry(what).or_default() += 1;
    }

    /// Waits for so many more good answers.
    fn await_good(&self, count: u64) {
        let wanted = self.good.load(Ordering::Relaxed) + count;
        eventually(BOUND, &format!("{count} more answers"), || {
            self.good.load(Ordering::Relaxed) >= wanted
        });
    }

    fn take_others(&self) -> BTreeMap<String, u64> {
        std::mem::take(&mut *self.others.lock().expect("no client panics"))
    }
}

/// Ends the clients when it is dropped.
struct Stop<'a>(&'a Answers);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}

#[test]
fn servers_that_are_killed_hang_and_come_back_cost_what_hung_with_them_and_nothing_else() {
    let lab = Lab::one_arm().gateways(3).campus().build();
    let authority = WebSite::start_with(&lab, |origin| origin);
    let start =
        |number| Nginx::start_greeting(&lab, lab.gateway(number), 8443, "/healthcheck", "ok");
    let mut servers: Vec<Option<Nginx>> = (1..=3).map(|number| Some(start(number))).collect();
    let health = HEALTH.replace("type = \"https\"", "type = \"https\", port = 8443");
    let configuration = Configuration::new()
        .pool(POOL, &authority.backends(&lab), &health)
        .text(&authority.service(
            SERVICE,
            vip(443),
            POOL,
            "backend_port = 8443\nbackend_tls = { verify = \"none\" }\n\
             timeouts = { connect = \"1s\", response = \"2s\" }\n",
        ));
    let daemon = Daemon::start(&lab, &configuration);
    let answers = Answers::default();
    let await_health = |name: &str, up: bool| {
        eventually(BOUND, &format!("{name} is up: {up}"), || {
            daemon.status().backend(name).is_up() == up
        });
    };

    thread::scope(|scope| {
        // The clients must end even where an assertion fails.
        let _stop = Stop(&answers);
        for number in 1..=CLIENTS {
            let (answers, lab, site) = (&answers, &lab, &authority);
            scope.spawn(move || answers.gather(lab, site, campus_v4(number)));
        }
        answers.await_good(200);

        // Killed: its clients do not notice.
        servers[0] = None;
        await_health("gateway1", false);
        answers.await_good(200);
        servers[0] = Some(start(1));
        await_health("gateway1", true);
        answers.await_good(200);
        assert_eq!(answers.take_others(), BTreeMap::new());

        // Hung: what it has taken already is lost, and said so; its clients then move.
        let server = servers[1].as_mut().expect("a server");
        server.freeze();
        await_health("gateway2", false);
        answers.await_good(200);
        server.thaw();
        await_health("gateway2", true);
        answers.await_good(200);
        let others = answers.take_others();
        assert!(others.keys().all(|what| what == "504"), "{others:?}");
        // Each of its clients had one request there at most before it was found down.
        let lost: u64 = others.values().sum();
        assert!(lost <= u64::from(CLIENTS), "{others:?}");

        // All at once, one after the other, and back: somebody serves all the time.
        for (number, server) in (1..).zip(&mut servers) {
            *server = None;
            *server = Some(start(number));
            await_health(&format!("gateway{number}"), true);
            answers.await_good(100);
        }
    });

    assert_eq!(answers.take_others(), BTreeMap::new());
}
