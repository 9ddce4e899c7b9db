//! What HTTP/2 lets a hostile client do: it costs that client its connection, and others nothing.

use std::{
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use lb_tests::lab::{
    Daemon, Host, Lab, eventually,
    gate::Gate,
    http2::{self, ACK, END_HEADERS, END_STREAM, Http2, block, frame, kind, settings, usual},
    origin::{Origin, Response},
    raw::Raw,
    site::vip,
    usage::Usage,
    web_site::{PORTAL, WebSite, failures, open_clients},
};

const BOUND: Duration = Duration::from_secs(20);

/// Requests that a client of HTTP/2 may have at one time, unless the configuration says otherwise.
const STREAMS: u32 = 100;

/// The flag of DATA and HEADERS whose payload begins with the length of its padding.
const PADDED: u8 = 8;
/// The flag of HEADERS that says what the stream depends on.
const PRIORITY: u8 = 0x20;

/// The code of a reset by a client that lost interest (RFC 9113 section 7).
const CANCEL: u32 = 8;
/// SETTINGS that say how much of each answer may come before room is made for more.
const INITIAL_WINDOW_SIZE: u16 = 4;

/// Requests of one attacker that may begin their way to a backend.
const MOST_REQUESTS: usize = 1500;
/// What the daemon may need more for attackers that come one after the other, in KiB: all that they
/// send is some megabytes each.
const ROOM_KIB: u64 = 16 * 1024;
/// What it may need for an answer that is not taken: what goes to the client, what has come from the
/// backend, and TLS.
const ROOM_OF_ANSWER_KIB: u64 = 256;

fn reset(stream: u32, code: u32) -> Vec<u8> {
    frame(kind::RST_STREAM, 0, stream, &code.to_be_bytes())
}

fn window_update(stream: u32, more: u32) -> Vec<u8> {
    frame(kind::WINDOW_UPDATE, 0, stream, &more.to_be_bytes())
}

/// Returns the frame of a request with a body that is to follow.
fn post(stream: u32, path: &str, length: &str) -> Vec<u8> {
    let mut fields = usual("POST", PORTAL, path);
    fields.push(("content-length", length));
    frame(kind::HEADERS, END_HEADERS, stream, &block(&fields))
}

/// Reads what has come and drops it; returns whether the connection has ended.
fn has_ended(client: &mut Http2) -> bool {
    client.raw().set_bound(Duration::from_millis(1));
    loop {
        match client.raw().wire().some(1 << 20) {
            Ok(_) => {}
            Err(error) => {
                let waits = [std::io::ErrorKind::WouldBlock, std::io::ErrorKind::TimedOut];
                return !waits.contains(&error.kind());
            }
        }
    }
}

/// Asks for something on 100 streams at once, again and again, and notes what is not as it should.
struct Bystander<'a> {
    stop: &'a AtomicBool,
    rounds: &'a AtomicU32,
}

impl Bystander<'_> {
    fn run(&self, site: &WebSite, host: &Host) {
        let mut client = site.http2(host);
        for round in 0.. {
            if self.stop.load(Ordering::Acquire) {
                return;
            }
            let begun = Instant::now();
            let streams = (0..STREAMS).map(|number| 1 + 2 * (round * STREAMS + number));
            let requests = streams
                .clone()
                .map(|it| http2::get(it, PORTAL, "/bystander"));
            client
                .send(requests.collect::<Vec<_>>().concat())
                .expect("sent");
            for stream in streams {
                let answered = client.answer(stream).expect("an answer");
                assert_eq!(answered.status, Some(200), "{answered:?}");
            }
            assert!(begun.elapsed() < BOUND, "{:?}", begun.elapsed());
            self.rounds.fetch_add(1, Ordering::AcqRel);
        }
    }
}

/// Stops a bystander, also when a test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// What an attacker sends, again and again, with a number that grows.
type Attack = (&'static str, fn(u32) -> Vec<u8>);

fn attacks() -> Vec<Attack> {
    const GET: fn(u32) -> Vec<u8> = |stream| http2::get(stream, PORTAL, "/attack");
    vec![
        ("a hundred requests and their resets at once", |time| {
            let requests = on_streams(time, 100, GET);
            [requests, on_streams(time, 100, |it| reset(it, CANCEL))].concat()
        }),
        ("requests, each with its reset", |time| {
            on_streams(time, 20, |it| [GET(it), reset(it, CANCEL)].concat())
        }),
        ("a window of a stream that grows too large", |time| {
            let breach = |it| [GET(it), window_update(it, 0x7fff_ffff)].concat();
            on_streams(time, 20, breach)
        }),
        ("a window of a stream that grows by nothing", |time| {
            on_streams(time, 20, |it| [GET(it), window_update(it, 0)].concat())
        }),
        ("a window that grows by nothing", |_| window_update(0, 0)),
        ("a window that grows too large", |_| {
            window_update(0, 0x7fff_ffff)
        }),
        ("a body after the end of a request", |time| {
            let more = |it| frame(kind::DATA, END_STREAM, it, b"more");
            on_streams(time, 20, |it| [GET(it), more(it)].concat())
        }),
        ("streams that depend on themselves", |time| {
            let itself = |it| frame(kind::PRIORITY, 0, it, &depends_on(it));
            on_streams(time, 20, |it| [GET(it), itself(it)].concat())
        }),
        ("requests that depend on themselves", |time| {
            on_streams(time, 20, |it| {
                let mut payload = depends_on(it);
                payload.extend(block(&usual("GET", PORTAL, "/attack")));
                head(PRIORITY, it, &payload)
            })
        }),
        ("bodies that are longer than was said", |time| {
            let longer = |it| frame(kind::DATA, END_STREAM, it, b"longer");
            let breach = |it| [post(it, "/attack", "3"), longer(it)].concat();
            on_streams(time, 20, breach)
        }),
        ("a head of small pieces without an end", |time| match time {
            0 => frame(
                kind::HEADERS,
                0,
                1,
                &block(&usual("GET", PORTAL, "/attack")),
            ),
            _ => frame(kind::CONTINUATION, 0, 1, &block(&[("x", "y")])).repeat(10),
        }),
        ("a head of empty pieces without an end", |time| match time {
            0 => frame(kind::HEADERS, END_STREAM, 1, &[]),
            _ => frame(kind::CONTINUATION, 0, 1, &[]).repeat(10),
        }),
        ("a head of large pieces without an end", |time| match time {
            0 => frame(
                kind::HEADERS,
                0,
                1,
                &block(&usual("GET", PORTAL, "/attack")),
            ),
            _ => {
                let long = "x".repeat(16_000);
                frame(kind::CONTINUATION, 0, 1, &block(&[("x", &long)]))
            }
        }),
        ("a field without an end", |time| match time {
            // A value of two million bytes (RFC 7541 section 5.1).
            0 => frame(kind::HEADERS, 0, 1, &[0, 1, b'x', 0x7f, 0x80, 0x80, 0x7f]),
            _ => frame(kind::CONTINUATION, 0, 1, &[b'x'; 16_000]),
        }),
        ("a head that grows to megabytes", |time| {
            head(0, stream(time, 1, 0), &growing(10_000))
        }),
        ("heads that grow to more than they may", |time| {
            on_streams(time, 20, |it| head(0, it, &growing(30)))
        }),
        ("heads without fields", |time| {
            on_streams(time, 20, |it| head(0, it, &[]))
        }),
        ("more requests than may be", |time| {
            on_streams(time, 200, GET)
        }),
        ("empty pieces of a body", |time| match time {
            0 => post(1, "/attack", "1000000"),
            _ => frame(kind::DATA, 0, 1, &[]).repeat(100),
        }),
        ("pieces of a body that are padding", |time| match time {
            0 => post(1, "/attack", "1000000"),
            _ => {
                let mut padding = [0; 256];
                padding[0] = 255;
                frame(kind::DATA, PADDED, 1, &padding).repeat(100)
            }
        }),
        ("SETTINGS", |_| {
            settings(&[(INITIAL_WINDOW_SIZE, 65_535)]).repeat(1000)
        }),
        ("empty SETTINGS", |_| settings(&[]).repeat(1000)),
        ("answers to SETTINGS that nobody sent", |_| {
            frame(kind::SETTINGS, ACK, 0, &[]).repeat(1000)
        }),
        ("PING", |_| frame(kind::PING, 0, 0, &[7; 8]).repeat(1000)),
        ("answers to PING that nobody sent", |_| {
            frame(kind::PING, ACK, 0, &[7; 8]).repeat(1000)
        }),
        ("PRIORITY", |_| {
            frame(kind::PRIORITY, 0, 1, &depends_on(0)).repeat(1000)
        }),
        ("PRIORITY while requests are under way", |time| match time {
            0 => on_streams(0, STREAMS, GET),
            _ => frame(kind::PRIORITY, 0, 1, &depends_on(3)).repeat(1000),
        }),
        ("a window that grows by little", |_| {
            window_update(0, 1).repeat(1000)
        }),
        ("resets of what is over", |time| match time {
            0 => [GET(1), reset(1, CANCEL)].concat(),
            _ => reset(1, CANCEL).repeat(1000),
        }),
        ("frames that nobody knows", |_| {
            frame(0xfa, 0, 0, &[7; 1000]).repeat(1000)
        }),
        ("a promise", |_| {
            frame(kind::PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2])
        }),
        ("a frame that is too large", |_| {
            frame(kind::DATA, 0, 1, &[7; 20_000])
        }),
    ]
}

/// Returns what `of` makes for so many new streams each time.
fn on_streams(time: u32, each: u32, of: impl Fn(u32) -> Vec<u8>) -> Vec<u8> {
    (0..each)
        .flat_map(|number| of(stream(time, each, number)))
        .collect()
}

fn stream(time: u32, each: u32, number: u32) -> u32 {
    1 + 2 * (time * each + number)
}

/// Returns a request's only frame.
fn head(more_flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let flags = END_STREAM | END_HEADERS | more_flags;
    frame(kind::HEADERS, flags, stream, payload)
}

/// Returns what PRIORITY says of a stream (RFC 9113 section 6.3).
fn depends_on(stream: u32) -> Vec<u8> {
    let mut payload = stream.to_be_bytes().to_vec();
    payload.push(15);
    payload
}

/// Returns fields of which one has 4000 bytes and is there once more for each byte here
/// (RFC 7541 section 6).
fn growing(more: usize) -> Vec<u8> {
    let mut fields = block(&usual("GET", PORTAL, "/attack"));
    fields.extend([0x40, 1, b'x', 0x7f, 0xa1, 0x1e]);
    fields.extend([b'y'; 4000]);
    fields.resize(fields.len() + more, 0xbe);
    fields
}

#[test]
fn each_flood_and_each_breach_ends_its_own_connection_and_harms_nobody_else() {
    let lab = Lab::one_arm().gateways(1).clients(2).build();
    let site = WebSite::start(&lab);
    let daemon = Daemon::start(&lab, &site.configuration_under_attack(&lab, ""));
    let origin = &site.origins[0];
    let never = Gate::new();
    {
        let never = never.clone();
        let held = move || Response::status(200).after(&never);
        origin.answer(move |request| (request.path() == "/attack").then(&held));
    }
    let (stop, rounds) = (AtomicBool::new(false), AtomicU32::new(0));
    let bystander = Bystander {
        stop: &stop,
        rounds: &rounds,
    };
    let lines = || daemon.log().lines().count();
    thread::scope(|scope| {
        let _stop = Stop(&stop);
        let running = scope.spawn(|| bystander.run(&site, lab.client(2)));
        eventually(BOUND, "the bystander is served", || {
            rounds.load(Ordering::Acquire) > 0 || running.is_finished()
        });
        let log = lines();
        let memory = Usage::of(daemon.pid()).anonymous_kib;
        for (what, attack) in attacks() {
            origin.forget();
            let before = failures(&daemon, "http2_abuse");
            let round = rounds.load(Ordering::Acquire);
            let mut client = site.http2(lab.client(1));
            let ended =
                (0..2000).any(|time| client.send(attack(time)).is_err() || has_ended(&mut client));
            assert!(ended, "{what}: it goes on\n{}", daemon.log());
            eventually(BOUND, &format!("{what} is counted"), || {
                failures(&daemon, "http2_abuse") == before + 1
            });
            assert!(attacks_at(origin) <= MOST_REQUESTS, "{what}");
            eventually(BOUND, "the bystander is served meanwhile", || {
                rounds.load(Ordering::Acquire) > round || running.is_finished()
            });
            assert!(!running.is_finished(), "{what} harms the bystander");
            let grown = Usage::of(daemon.pid()).anonymous_kib.saturating_sub(memory);
            assert!(grown < ROOM_KIB, "{what}: the daemon grew by {grown} KiB");
        }
        let more = lines() - log;
        assert!(more < 2 * attacks().len(), "{more} lines more in the log");
    });
    never.open();
}

/// Returns how many requests of attackers have come to the backend, of those that it remembers.
fn attacks_at(origin: &Origin) -> usize {
    let records = origin.records();
    let of_attackers = records.iter().filter(|record| record.path() == "/attack");
    of_attackers.count()
}

#[test]
fn requests_that_are_given_up_one_by_one_are_a_flood_in_the_end() {
    let lab = Lab::one_arm().gateways(1).build();
    let site = WebSite::start(&lab);
    let limits = "limits = { streams = 10 }";
    let daemon = Daemon::start(&lab, &site.configuration_under_attack(&lab, limits));
    let origin = &site.origins[0];
    let never = Gate::new();
    {
        let never = never.clone();
        let held = move || Response::status(200).after(&never);
        origin.answer(move |request| (request.path() == "/attack").then(&held));
    }
    let mut client = site.http2(lab.client(1));
    // Each has been seen when it is given up.
    let given_up = (0..2000).find(|time| {
        let stream = stream(*time, 1, 0);
        let ask = http2::get(stream, PORTAL, "/attack");
        let ping = frame(kind::PING, 0, 0, &[0; 8]);
        client.send([ask, ping].concat()).is_err()
            || !is_acknowledged(&mut client)
            || client.send(reset(stream, CANCEL)).is_err()
    });

    let given_up = given_up.unwrap_or_else(|| panic!("it goes on\n{}", daemon.log()));
    assert!(given_up as usize <= MOST_REQUESTS, "{given_up}");
    eventually(BOUND, "it is counted", || {
        failures(&daemon, "http2_abuse") == 1 && open_clients(&daemon) == 0
    });
    never.open();
    eventually(BOUND, "nothing is left at the backend", || {
        origin.open_connections() <= 1
    });
}

/// Reads to the answer to a PING; returns whether there is one.
fn is_acknowledged(client: &mut Http2) -> bool {
    loop {
        match client.next_frame() {
            Ok(frame) if frame.kind == kind::PING => return true,
            Ok(_) => {}
            Err(_) => return false,
        }
    }
}

#[test]
fn a_browser_that_leaves_pages_while_they_load_is_no_attacker() {
    let lab = Lab::one_arm().gateways(1).build();
    let site = WebSite::start(&lab);
    let daemon = Daemon::start(&lab, &site.configuration_under_attack(&lab, ""));
    let never = Gate::new();
    {
        let never = never.clone();
        let held = move || Response::status(200).after(&never);
        site.origins[0].answer(move |request| (request.path() == "/held").then(&held));
    }
    let mut client = site.http2(lab.client(1));
    let mut page = 0;
    let mut load = |given_up: u32, at_once: bool| {
        let streams: Vec<u32> = (0..STREAMS)
            .map(|number| stream(page, STREAMS, number))
            .collect();
        page += 1;
        let (left, wanted) = streams.split_at(given_up as usize);
        let path = if at_once { "/held" } else { "/bytes/100000" };
        let asked = left.iter().map(|it| http2::get(*it, PORTAL, path));
        let asked = asked.chain(wanted.iter().map(|it| http2::get(*it, PORTAL, "/part")));
        let resets = left.iter().map(|it| reset(*it, CANCEL));
        let (asked, resets): (Vec<_>, Vec<_>) = (asked.collect(), resets.collect());
        let mut sent = asked.concat();
        if at_once {
            sent.extend(resets.concat());
        }
        client.send(sent).expect("sent");
        for (number, stream) in wanted.iter().enumerate() {
            let answered = client.answer(*stream).expect("an answer");
            assert_eq!(answered.status, Some(200), "{answered:?}\n{}", daemon.log());
            if number == 0 && !at_once {
                client.send(resets.concat()).expect("sent");
            }
        }
    };

    // 30 of a hundred, 20 times.
    for page in 0..20 {
        load(30, page % 2 == 0);
    }
    // All of them, a few times in a row.
    for _ in 0..4 {
        load(STREAMS, true);
    }
    load(0, true);
    assert_eq!(failures(&daemon, "http2_abuse"), 0);
    assert_eq!(open_clients(&daemon), 1);
    never.open();
}

/// Short enough to wait for.
const TIMEOUTS: &str = r#"timeouts = { header = "800ms", idle = "900ms", body = "1s" }"#;

#[test]
fn a_hundred_answers_that_are_not_taken_need_no_memory_and_end() {
    let lab = Lab::one_arm().gateways(1).clients(2).build();
    let site = WebSite::start(&lab);
    let daemon = Daemon::start(&lab, &site.configuration_under_attack(&lab, TIMEOUTS));
    let origin = &site.origins[0];
    let memory = Usage::of(daemon.pid()).anonymous_kib;
    // None at all, and as much as a client gives that says nothing of it.
    for (attacks, window) in [(1, 0), (2, 65_535)] {
        let mut client = site.http2_with(lab.client(1), &[(INITIAL_WINDOW_SIZE, window)]);
        let get = |stream| http2::get(stream, PORTAL, "/bytes/10000000");
        client.send(on_streams(0, STREAMS, get)).expect("sent");
        let mut most = 0;
        eventually(BOUND, "every answer is given up", || {
            most = most.max(Usage::of(daemon.pid()).anonymous_kib);
            failures(&daemon, "client_stalled") == u64::from(attacks * STREAMS)
        });
        client.raw().await_end(BOUND).expect("an end");
        let grown = most.saturating_sub(memory);
        assert!(
            grown < u64::from(STREAMS) * ROOM_OF_ANSWER_KIB,
            "the daemon grew by {grown} KiB"
        );
        eventually(BOUND, "the backend's connections have ended", || {
            origin.open_connections() <= 3 && open_clients(&daemon) == 0
        });
        let mut bystander = site.http2(lab.client(2));
        bystander
            .send(http2::get(1, PORTAL, "/bystander"))
            .expect("sent");
        let answered = bystander.answer(1).expect("an answer");
        assert_eq!(answered.status, Some(200));
    }
}

#[test]
fn a_slow_beginning_ends_after_its_time_whatever_else_comes() {
    let lab = Lab::one_arm().gateways(1).build();
    let site = WebSite::start(&lab);
    let daemon = Daemon::start(&lab, &site.configuration_under_attack(&lab, TIMEOUTS));
    let get = http2::get(1, PORTAL, "/");
    // What is sent first, and then from time to time.
    let unfinished = frame(
        kind::HEADERS,
        END_STREAM,
        1,
        &block(&usual("GET", PORTAL, "/")),
    );
    let slow: [(&[u8], &[u8]); 4] = [
        (&http2::PREFACE[..10], &[]),
        (
            &[http2::PREFACE, &settings(&[])].concat(),
            &frame(kind::PING, 0, 0, &[0; 8]),
        ),
        (&[http2::PREFACE, &settings(&[]), &unfinished].concat(), &[]),
        (
            &[http2::PREFACE, &settings(&[]), &get[..get.len() - 1]].concat(),
            &[],
        ),
    ];
    for (number, (first, then)) in slow.into_iter().enumerate() {
        let mut client = Raw::tcp(lab.client(1), vip(443))
            .and_then(|client| client.tls(&site.client(&["h2"]), PORTAL))
            .expect("a connection");
        client.send(first).expect("sent");
        eventually(BOUND, "an end", || {
            let _ = client.send(then);
            client.await_end(Duration::from_millis(50)).is_ok()
        });
        eventually(BOUND, "it is counted", || {
            failures(&daemon, "header_timeout") == number as u64 + 1
        });
    }
    assert_eq!(failures(&daemon, "http2_abuse"), 0);
}

#[test]
fn a_head_of_http2_may_have_as_many_lines_as_one_of_http1() {
    let lab = Lab::one_arm().gateways(1).build();
    let site = WebSite::start(&lab);
    let limits = r#"limits = { headers = 20 }"#;
    let daemon = Daemon::start(&lab, &site.configuration_under_attack(&lab, limits));
    let mut client = site.http2(lab.client(1));
    let mut ask = |stream, name: &str, lines: usize| {
        let mut fields = usual("GET", PORTAL, "/");
        fields.extend(std::iter::repeat_n((name, "a=b"), lines));
        client.send(head(0, stream, &block(&fields))).expect("sent");
        client.answer(stream).expect("an answer").status
    };

    assert_eq!(ask(1, "x", 20), Some(200));
    assert_eq!(ask(3, "x", 21), Some(431), "{}", daemon.log());
    // Each cookie may have a line of its own, and all of them are one.
    assert_eq!(ask(5, "cookie", 50), Some(200), "{}", daemon.log());
    let mut http1 = site.raw(lab.client(1));
    let refused = http1.get(PORTAL, "/", &"x: a=b\r\n".repeat(30));
    assert_eq!(refused.expect("an answer").status, 431);
    eventually(BOUND, "both are counted", || {
        failures(&daemon, "header_too_large") == 2
    });
}
