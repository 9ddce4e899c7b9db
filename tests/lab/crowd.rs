//! A crowd that signs on over its connections, or begins to, or does not, at random; and a witness
//! who sees whose requests went over which connection to a backend.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use super::{
    host::Host,
    origin::{Origin, Request, sign_on},
    random::Random,
    raw::{Raw, RawAnswer},
    site::vip,
    stream::End,
    web_site::{PORTAL, WebSite},
};

/// Letters that make a token as long as a large ticket; the head stays below 72 KiB.
const LARGE: usize = 36_000;
/// The page that needs no sign-on.
pub const PUBLIC: &str = "/healthcheck";
/// The scheme of the crowd's origins.
pub const SCHEME: &str = "Negotiate";

/// What the crowd met, and what must not have happened.
#[derive(Debug, Default)]
pub struct Witness {
    /// By backend and number of the connection, then by number of the request on it.
    seen: Mutex<BTreeMap<(String, u64), BTreeMap<u64, Seen>>>,
    wrong: Mutex<Vec<String>>,
    clients: AtomicU64,
    /// Answers that were read.
    pub answers: AtomicU64,
    /// Answers to somebody who had signed on.
    pub signed_on: AtomicU64,
    /// Answers that were not those of a calm day, where some are expected.
    pub refused: AtomicU64,
    /// Connections that ended early, where some are expected.
    pub broken: AtomicU64,
    /// Backends end connections as they like.
    pub storm: AtomicBool,
    /// The crowd goes home.
    pub over: AtomicBool,
}

/// A request on a connection.
#[derive(Clone, Copy, Debug)]
struct Seen {
    client: u64,
    /// It signed on, or was offered that.
    private: bool,
}

impl Witness {
    /// Looks at every request that `origin` does not refuse.
    pub fn watch(self: &Arc<Self>, origin: &Origin) {
        let (witness, name) = (Arc::clone(self), origin.name().to_owned());
        origin.answer(move |request| {
            witness.arrived(&name, request);
            None
        });
    }

    fn arrived(&self, backend: &str, request: &Request) {
        // Probes say nothing of themselves.
        let client = request
            .header("x-client")
            .and_then(|text| text.parse().ok());
        let Some(client) = client else {
            return;
        };
        let private = request.header("authorization").is_some();
        self.see(
            backend,
            request.connection,
            request.number,
            Seen { client, private },
        );
        let claimed = request.header("x-claims").unwrap_or_default();
        if let Some(user) = request.user.as_deref().filter(|user| *user != claimed) {
            self.accuse(format!(
                "{backend} took {claimed:?}, client {client}, for {user} on connection {}",
                request.connection
            ));
        }
    }

    fn see(&self, backend: &str, connection: u64, number: u64, seen: Seen) {
        let mut all = self.seen.lock().expect("nobody panics with the lock");
        let requests = all.entry((backend.to_owned(), connection)).or_default();
        let known = requests.entry(number).or_insert(seen);
        known.private |= seen.private;
    }

    /// Notes what must not happen.
    pub fn accuse(&self, what: String) {
        self.wrong
            .lock()
            .expect("nobody panics with the lock")
            .push(what);
    }

    /// Notes an answer to `client`, who claims to be somebody; `private` if the request signed on.
    pub fn answered(
        &self,
        client: u64,
        claimed: &str,
        private: bool,
        header: impl Fn(&str) -> Option<String>,
    ) {
        self.answers.fetch_add(1, Ordering::Relaxed);
        if let Some(user) = header("x-user") {
            self.signed_on.fetch_add(1, Ordering::Relaxed);
            if user != claimed {
                self.accuse(format!(
                    "client {client}, {claimed:?}, was answered as {user}"
                ));
            }
        }
        let place = header("x-connection").and_then(|text| {
            let (connection, number) = text.split_once('/')?;
            Some((connection.parse().ok()?, number.parse().ok()?))
        });
        let private = private || header("www-authenticate").is_some();
        if let (Some(backend), Some((connection, number))) = (header("x-backend"), place) {
            self.see(&backend, connection, number, Seen { client, private });
        }
    }

    /// Returns the number of a new client.
    pub fn client(&self) -> u64 {
        self.clients.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Returns how many connections had somebody to themselves, and how many were used by several.
    #[must_use]
    pub fn connections(&self) -> (usize, usize) {
        let seen = self.seen.lock().expect("nobody panics with the lock");
        let is_private = |of: &BTreeMap<u64, Seen>| of.values().any(|one| one.private);
        let is_shared = |of: &BTreeMap<u64, Seen>| {
            let mut clients = of.values().map(|one| one.client);
            clients
                .next()
                .is_some_and(|first| clients.any(|other| other != first))
        };
        (
            seen.values().filter(|of| is_private(of)).count(),
            seen.values().filter(|of| is_shared(of)).count(),
        )
    }

    /// Returns everything that must not have happened.
    #[must_use]
    pub fn wrong(&self) -> Vec<String> {
        let mut wrong = self
            .wrong
            .lock()
            .expect("nobody panics with the lock")
            .clone();
        let seen = self.seen.lock().expect("nobody panics with the lock");
        for ((backend, connection), requests) in seen.iter() {
            let mut owner = None;
            for (number, seen) in requests {
                if owner.is_some_and(|owner| owner != seen.client) {
                    wrong.push(format!(
                        "connection {connection} of {backend} is client {owner:?}'s, but request \
                         {number} is of {}",
                        seen.client
                    ));
                }
                owner = owner.or(seen.private.then_some(seen.client));
            }
        }
        wrong
    }
}

/// One of the crowd: visits the site again and again.
#[derive(Debug)]
pub struct Visitor<'site> {
    /// Where it is.
    pub host: &'site Host,
    /// Its address.
    pub source: SocketAddr,
    /// The site.
    pub site: &'site WebSite,
    /// Who sees it.
    pub witness: &'site Witness,
    /// What it does.
    pub random: Random,
}

impl Visitor<'_> {
    /// Visits the site until `count` answers were read by all, or the crowd goes home.
    pub fn run(&mut self, count: u64) {
        let settings = self.site.client(&["http/1.1"]);
        while self.witness.answers.load(Ordering::Relaxed) < count
            && !self.witness.over.load(Ordering::Relaxed)
        {
            let connected = Raw::tcp_from(self.host, self.source, vip(443))
                .and_then(|raw| raw.tls(&settings, PORTAL));
            let visit = connected.and_then(|raw| {
                let client = self.witness.client();
                let mut visit = Visit {
                    raw,
                    client,
                    claims: "nobody".to_owned(),
                    witness: self.witness,
                };
                match visit.go(&mut self.random)? {
                    Some(end) => visit.raw.end(end),
                    None => drop(visit),
                }
                Ok(())
            });
            if let Err(error) = visit {
                self.witness.broken.fetch_add(1, Ordering::Relaxed);
                if !self.witness.storm.load(Ordering::Relaxed) {
                    self.witness
                        .accuse(format!("a visit broke on a calm day: {error}"));
                }
            }
        }
    }
}

/// One connection of a visitor.
struct Visit<'a> {
    raw: Raw,
    client: u64,
    claims: String,
    witness: &'a Witness,
}

impl Visit<'_> {
    /// Does one of the things that people do; returns how the connection ends, if it ends oddly.
    fn go(&mut self, random: &mut Random) -> io::Result<Option<End>> {
        let user = format!("user{}", self.client);
        let padding = match random.one_in(16) {
            true => LARGE,
            false => *random.of(&[0, 20, 700]),
        };
        let times = random.within(1..12);
        let scheme = *random.of(&[SCHEME, "negotiate", "NEGOTIATE"]);
        let token = sign_on::token(scheme, &user, padding);
        let leg = sign_on::first_leg(scheme, &user, padding);
        match random.within(0..9) {
            0 | 1 => self.stays_nobody(random, PUBLIC, 200, times)?,
            2 => {
                self.stays_nobody(random, "/", 401, 2)?;
                self.stays_nobody(random, PUBLIC, 200, times)?;
            }
            3 => {
                if self.signs_on(random, &user, &token, 200)?.is_some() {
                    self.stays(random, times)?;
                }
            }
            4 => {
                self.stays_nobody(random, PUBLIC, 200, 2)?;
                self.stays_nobody(random, "/", 401, 1)?;
                if self.signs_on(random, &user, &token, 200)?.is_some() {
                    self.stays(random, times)?;
                }
            }
            5 => {
                let challenge = self.signs_on(random, &user, &leg, 401)?;
                let answer = challenge
                    .and_then(|answer| answer.header("www-authenticate").map(str::to_owned))
                    .and_then(|challenge| sign_on::answer(&challenge, &user, padding));
                if let Some(answer) = answer
                    && self.signs_on(random, &user, &answer, 200)?.is_some()
                {
                    self.stays(random, times)?;
                }
            }
            6 => {
                self.signs_on(random, &user, &leg, 401)?;
                if random.one_in(2) {
                    self.stays_nobody(random, PUBLIC, 200, 2)?;
                }
                return Ok(Some(*random.of(&[End::Close, End::Fin, End::Reset])));
            }
            7 => {
                self.claims.clone_from(&user);
                let token = if random.one_in(2) { &token } else { &leg };
                self.raw.send(self.request("GET", "/", Some(token)))?;
                return Ok(Some(*random.of(&[End::Close, End::Fin, End::Reset])));
            }
            _ => {
                self.signs_on(random, &user, &token, 200)?;
                let other = format!("other{}", self.client);
                let token = sign_on::token(scheme, &other, padding);
                if self.signs_on(random, &other, &token, 200)?.is_some() {
                    self.stays(random, times)?;
                    self.signs_on(random, &other, "Negotiate AAAA", 401)?;
                    self.stays_nobody(random, "/", 401, 1)?;
                }
            }
        }
        Ok(None)
    }

    fn stays_nobody(
        &mut self,
        random: &mut Random,
        target: &str,
        status: u16,
        times: usize,
    ) -> io::Result<()> {
        for _ in 0..times {
            let answer = self.ask(random, target, None)?;
            self.expect(&answer, status, None);
        }
        Ok(())
    }

    /// Asks as the user that it has signed on as, without saying so again.
    fn stays(&mut self, random: &mut Random, times: usize) -> io::Result<()> {
        for _ in 0..times {
            let target = if random.one_in(3) { PUBLIC } else { "/" };
            let answer = self.ask(random, target, None)?;
            let user = self.claims.clone();
            if !self.expect(&answer, 200, Some(&user)) {
                return Ok(());
            }
        }
        Ok(())
    }

    fn signs_on(
        &mut self,
        random: &mut Random,
        user: &str,
        authorization: &str,
        status: u16,
    ) -> io::Result<Option<RawAnswer>> {
        user.clone_into(&mut self.claims);
        let answer = self.ask(random, "/", Some(authorization))?;
        let expected = self.expect(&answer, status, (status == 200).then_some(user));
        Ok(expected.then_some(answer))
    }

    /// Notes whether an answer is the one of a calm day.
    fn expect(&self, answer: &RawAnswer, status: u16, user: Option<&str>) -> bool {
        let expected = answer.status == status && answer.header("x-user") == user;
        if !expected {
            self.witness.refused.fetch_add(1, Ordering::Relaxed);
            if !self.witness.storm.load(Ordering::Relaxed) {
                self.witness.accuse(format!(
                    "client {} expected {status} and {user:?}: {:?}",
                    self.client,
                    String::from_utf8_lossy(&answer.head)
                ));
            }
        }
        expected
    }

    fn ask(
        &mut self,
        random: &mut Random,
        target: &str,
        authorization: Option<&str>,
    ) -> io::Result<RawAnswer> {
        let method = if random.one_in(5) { "POST" } else { "GET" };
        let answer = self
            .raw
            .ask(method, self.request(method, target, authorization))?;
        self.witness
            .answered(self.client, &self.claims, authorization.is_some(), |name| {
                answer.header(name).map(str::to_owned)
            });
        Ok(answer)
    }

    fn request(&self, method: &str, target: &str, authorization: Option<&str>) -> String {
        let authorization = authorization
            .map(|value| format!("Authorization: {value}\r\n"))
            .unwrap_or_default();
        let body = match method {
            "POST" => "Content-Length: 4\r\n\r\nbody",
            _ => "\r\n",
        };
        format!(
            "{method} {target} HTTP/1.1\r\nHost: {PORTAL}\r\nX-Client: {}\r\nX-Claims: {}\r\n\
             {authorization}{body}",
            self.client, self.claims
        )
    }
}
