//! Visitors of a web site of every kind: they come, do what people and programs do, and go, or break
//! off; and what they may meet only while the site is stormy, and what never.
//!
//! An answer must belong to its request, always. While a backend goes down and comes back, a request
//! may fail; on a calm day it may not.

use std::{
    fmt, io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use rustls::ClientConfig;

use super::{
    host::Host,
    http2::{self, Http2},
    origin::filling,
    random::Random,
    raw::{Raw, RawAnswer},
    site::{campus_v4, vip},
    stream::End,
    tcp_server::EchoClient,
    web_site::{PORTAL, WebSite},
    websocket::Frame,
};

/// Port of the service that passes connections through to echo servers.
pub const TUNNELS: u16 = 7;
/// Port of the service that redirects.
pub const REDIRECT: u16 = 80;
/// Longest body that is sent: less than what the kernels on the way take before anybody reads.
const UPLOAD: usize = 48_000;
/// Longest body that is asked for over HTTP/1.1.
const DOWNLOAD: usize = 100_000;
/// Longest body of a stream: those of a connection fit into its first window, so that they can be read
/// one after the other (RFC 9113 section 6.9.2).
const STREAM: usize = 5000;
/// How long a visitor waits for what is next: longer than the kernel takes to send again what a busy
/// machine has lost several times.
const PATIENCE: Duration = Duration::from_secs(45);
/// Longest pause between two visits.
const PAUSE: Duration = Duration::from_millis(30);
/// Numbers of the campus that visits come from.
const SOURCES: std::ops::Range<usize> = 1..4000;
/// Statuses that say that no backend could answer.
const EXCUSES: [u16; 3] = [502, 503, 504];

/// Whether backends go up and down. What is odd is a storm.
#[derive(Debug, Default)]
pub struct Weather(AtomicU64);

impl Weather {
    /// A backend is about to go.
    pub fn storm(&self) {
        self.0.fetch_or(1, Ordering::SeqCst);
    }

    /// Every backend is back.
    pub fn calm(&self) {
        self.0
            .fetch_add(self.0.load(Ordering::SeqCst) & 1, Ordering::SeqCst);
    }

    fn now(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// What visitors did and met.
#[derive(Debug, Default)]
pub struct Report {
    /// What was answered as it should be: requests, messages, tunnels.
    pub good: AtomicU64,
    /// Visits that broke off by themselves.
    pub broken_off: AtomicU64,
    /// Visits that failed in a storm.
    pub excused: AtomicU64,
    /// What must not have happened.
    wrong: Mutex<Vec<String>>,
    /// They go home.
    pub over: AtomicBool,
}

impl Report {
    /// Returns what must not have happened, the first of it.
    ///
    /// # Panics
    ///
    /// If a visitor has panicked.
    #[must_use]
    pub fn wrong(&self) -> Vec<String> {
        self.wrong.lock().expect("nobody panics with it").clone()
    }

    fn accuse(&self, what: String) {
        const MOST: usize = 20;
        let mut wrong = self.wrong.lock().expect("nobody panics with it");
        if wrong.len() < MOST {
            wrong.push(what);
        }
    }
}

/// Why a visit ended early.
enum Trouble {
    /// Excused in a storm.
    Failed(String),
    /// Never.
    Wrong(String),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

fn wrong<T>(what: impl fmt::Display) -> Result<T, Trouble> {
    Err(Trouble::Wrong(what.to_string()))
}

/// Somebody who visits the site again and again.
#[derive(Debug)]
pub struct Visitor<'site> {
    /// Where from.
    pub host: &'site Host,
    /// Settings with HTTP/1.1, and with HTTP/2.
    pub settings: [Arc<ClientConfig>; 2],
    /// Tells what is excused.
    pub weather: &'site Weather,
    /// Told of everything.
    pub report: &'site Report,
    /// Draws what is done.
    pub random: Random,
}

impl<'site> Visitor<'site> {
    /// Returns a visitor of `site` who draws by `random`.
    #[must_use]
    pub fn new(
        host: &'site Host,
        site: &WebSite,
        weather: &'site Weather,
        report: &'site Report,
        random: Random,
    ) -> Self {
        Self {
            host,
            settings: [site.client(&["http/1.1"]), site.client(&["h2"])],
            weather,
            report,
            random,
        }
    }

    /// Visits the site until it is over.
    pub fn run(&mut self) {
        while !self.report.over.load(Ordering::Relaxed) {
            let before = self.weather.now();
            match self.visit() {
                Ok(()) => {}
                Err(Trouble::Failed(_)) if before % 2 == 1 || self.weather.now() != before => {
                    self.report.excused.fetch_add(1, Ordering::Relaxed);
                }
                Err(Trouble::Failed(why)) => self.report.accuse(format!("on a calm day: {why}")),
                Err(Trouble::Wrong(why)) => self.report.accuse(why),
            }
            // A pace, so that there is time for changes on a small machine.
            thread::sleep(self.random.time(PAUSE));
        }
    }

    fn visit(&mut self) -> Result<(), Trouble> {
        let times = self.random.within(1..12);
        let (kind, done) = match self.random.within(0..9) {
            0..3 => ("requests over one connection", self.requests(times)),
            3 => ("a request over its own connection", self.requests(1)),
            4 => ("streams of HTTP/2", self.streams(times)),
            5 => ("a WebSocket", self.web_socket(times)),
            6 => ("a tunnel", self.tunnel(times)),
            7 => ("a redirect", self.redirected()),
            _ => {
                // Whatever becomes of it.
                let _ = self.break_off();
                self.report.broken_off.fetch_add(1, Ordering::Relaxed);
                return Ok(());
            }
        };
        done.map_err(|trouble| match trouble {
            Trouble::Failed(why) => Trouble::Failed(format!("{kind}: {why}")),
            Trouble::Wrong(why) => Trouble::Wrong(format!("{kind}: {why}")),
        })
    }

    fn requests(&mut self, times: usize) -> Result<(), Trouble> {
        let mut raw = self.connect(0)?;
        for _ in 0..times {
            self.request(&mut raw)?;
            self.good();
        }
        raw.end(*self.random.of(&[End::Close, End::Fin, End::Reset]));
        Ok(())
    }

    fn request(&mut self, raw: &mut Raw) -> Result<(), Trouble> {
        let number = self.random.number();
        let said =
            |target: String| move |error: io::Error| Trouble::Failed(format!("{target}: {error}"));
        match self.random.within(0..3) {
            0 => {
                let length = self.random.within(0..UPLOAD);
                let body = self.random.bytes(length);
                let head = format!(
                    "POST /echo?{number} HTTP/1.1\r\nHost: {PORTAL}\r\nContent-Length: {length}\r\n\r\n"
                );
                let target = format!("/echo?{number} with {length} bytes");
                raw.send([head.as_bytes(), &body].concat())
                    .map_err(said(format!("sending {target}")))?;
                let answer = judge(raw.answer("POST").map_err(said(target))?)?;
                if answer.body != body {
                    return wrong(format!("another body came back for {number}"));
                }
            }
            1 => {
                let length = self.random.within(0..DOWNLOAD);
                let kind = *self.random.of(&["bytes", "chunked"]);
                let target = format!("/{kind}/{length}");
                let answer = raw.get(PORTAL, &target, "");
                if judge(answer.map_err(said(target))?)?.body != filling(length) {
                    return wrong(format!("not the {length} bytes that were asked for"));
                }
            }
            _ => {
                let target = format!("/page/{number}");
                let answer = raw.get(PORTAL, &target, "");
                let answer = judge(answer.map_err(said(target.clone()))?)?;
                if answer.json()["path"] != *target {
                    return wrong(format!("{target} was answered by {}", answer.text()));
                }
            }
        }
        Ok(())
    }

    fn streams(&mut self, times: usize) -> Result<(), Trouble> {
        let raw = self.connect(1)?;
        let mut client = Http2::begin(raw, &[])?;
        let asked: Vec<(u32, usize)> = (1..)
            .step_by(2)
            .take(times)
            .map(|stream| (stream, self.random.within(1..STREAM)))
            .collect();
        for (stream, length) in &asked {
            client.send(http2::get(*stream, PORTAL, &format!("/bytes/{length}")))?;
        }
        for (stream, length) in asked {
            let answered = client.answer(stream)?;
            match answered.status {
                Some(200) if answered.reset.is_none() => {
                    if answered.length != length as u64 {
                        return wrong(format!("{length} bytes were asked for: {answered:?}"));
                    }
                    self.good();
                }
                Some(status) if status != 200 && !EXCUSES.contains(&status) => {
                    return wrong(format!("{answered:?}"));
                }
                _ => return Err(Trouble::Failed(format!("{answered:?}"))),
            }
        }
        Ok(())
    }

    fn web_socket(&mut self, times: usize) -> Result<(), Trouble> {
        let mut raw = self.connect(0)?;
        raw.send(format!(
            "GET /websocket HTTP/1.1\r\nHost: {PORTAL}\r\nConnection: Upgrade\r\n\
             Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        ))?;
        match raw.answer_head()?.0 {
            101 => {}
            status if EXCUSES.contains(&status) => {
                return Err(Trouble::Failed(status.to_string()));
            }
            status => return wrong(status),
        }
        for _ in 0..times {
            let text = self.random.number().to_string();
            Frame::text(&text).write(raw.wire(), Some([1, 2, 3, 4]))?;
            let back = Frame::read(raw.wire())?;
            if back.payload != text.as_bytes() {
                return wrong(format!("{back:?} came back for {text}"));
            }
            self.good();
        }
        raw.end(*self.random.of(&[End::Close, End::Fin, End::Reset]));
        Ok(())
    }

    fn tunnel(&mut self, times: usize) -> Result<(), Trouble> {
        let source = self.source();
        let mut client = EchoClient::connect(self.host, Some(source), vip(TUNNELS))?;
        for _ in 0..times {
            let length = self.random.within(1..4000);
            client.echo(&self.random.bytes(length))?;
            self.good();
        }
        if self.random.one_in(3) {
            client.reset();
        }
        Ok(())
    }

    fn redirected(&mut self) -> Result<(), Trouble> {
        let target = format!("/{}", self.random.number());
        let mut raw = Raw::tcp_from(self.host, self.source(), vip(REDIRECT))?;
        let answer = raw.get(PORTAL, &target, "")?;
        let location = format!("https://{PORTAL}{target}");
        if answer.status != 301 || answer.header("location") != Some(&location) {
            return wrong(format!("{answer:?}"));
        }
        self.good();
        Ok(())
    }

    /// Begins something and leaves in the midst of it.
    fn break_off(&mut self) -> Result<(), Trouble> {
        let end = *self.random.of(&[End::Close, End::Fin, End::Reset]);
        if self.random.one_in(4) {
            let raw = Raw::tcp_from(self.host, self.source(), vip(443))?;
            raw.end(end);
            return Ok(());
        }
        let (answers, begun) = match self.random.within(0..4) {
            0 => (
                false,
                format!("GET /half HTTP/1.1\r\nHost: {PORTAL}\r\nX: "),
            ),
            1 => (
                false,
                format!(
                    "POST /echo HTTP/1.1\r\nHost: {PORTAL}\r\nContent-Length: 100000\r\n\r\nhalf"
                ),
            ),
            2 => (
                true,
                format!("GET /bytes/2000000 HTTP/1.1\r\nHost: {PORTAL}\r\n\r\n"),
            ),
            _ => (true, "no HTTP at all\r\n\r\n".to_owned()),
        };
        let mut raw = self.connect(0)?;
        raw.send(begun)?;
        if answers && self.random.one_in(2) {
            let _ = raw.read_exactly(15);
        }
        raw.end(end);
        Ok(())
    }

    fn connect(&mut self, settings: usize) -> Result<Raw, Trouble> {
        let raw = Raw::tcp_from(self.host, self.source(), vip(443))?;
        raw.set_bound(PATIENCE);
        Ok(raw.tls(&self.settings[settings], PORTAL)?)
    }

    fn source(&mut self) -> SocketAddr {
        let number = self.random.within(SOURCES);
        campus_v4(u16::try_from(number).expect("the range is one of u16"))
    }

    fn good(&self) {
        self.report.good.fetch_add(1, Ordering::Relaxed);
    }
}

fn judge(answer: RawAnswer) -> Result<RawAnswer, Trouble> {
    match answer.status {
        200 => Ok(answer),
        status if EXCUSES.contains(&status) => Err(Trouble::Failed(status.to_string())),
        status => wrong(format!("{status}: {}", answer.text())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_is_odd_and_a_calm_after_it_is_not_the_one_before() {
        let weather = Weather::default();
        let before = weather.now();
        weather.calm();
        assert_eq!(weather.now(), before);
        weather.storm();
        weather.storm();
        assert_eq!(weather.now() % 2, 1);
        weather.calm();
        assert!(weather.now() % 2 == 0 && weather.now() != before);
    }
}
