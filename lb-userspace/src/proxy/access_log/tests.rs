//! Lines as programs read them, and that none is lost where none may be.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    time::{Instant, UNIX_EPOCH},
};

use serde_json::{Value, json};

use super::*;

/// A record with every field.
fn full() -> Record {
    Record {
        time: UNIX_EPOCH + Duration::from_millis(1_800_000_000_123),
        service: "AppsAnywhere".into(),
        kind: Kind::Http,
        client: "10.1.2.3:51000".parse().unwrap(),
        backend: Some("appsanywhere/aa01".into()),
        backend_address: Some("[fd00::21]:443".parse().unwrap()),
        method: Some("GET".into()),
        target: Some("/healthcheck?a=b".to_owned()),
        host: Some("appsanywhere.uni.edu".to_owned()),
        protocol: Some("HTTP/1.1"),
        status: Some(504),
        bytes_in: 1,
        bytes_out: 2,
        handshake: Some(Duration::from_micros(3)),
        wait: Some(Duration::from_micros(4)),
        first_byte: Some(Duration::from_nanos(5_999)),
        total: Some(Duration::from_secs(6)),
        reused: true,
        retries: 7,
        fault: Some(Side::Backend),
        reason: Some("no answer within 60s".into()),
        tls_version: Some("1.3"),
        sni: Some("appsanywhere.uni.edu".to_owned()),
    }
}

/// A record with nothing that may be missing.
fn bare(service: &str) -> Record {
    Record {
        time: UNIX_EPOCH,
        ..Record::begin(service.into(), Kind::Tcp, "[fd00::1]:1".parse().unwrap())
    }
}

fn line(mut record: Record) -> String {
    let mut out = b"before".to_vec();
    record.shorten();
    record.line(&mut out);
    String::from_utf8(out.split_off(6)).unwrap()
}

fn open(path: &Path) -> AccessLog {
    AccessLog::open(&model::AccessLog::File(path.to_owned())).unwrap()
}

/// The services of the lines of a file.
fn services(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'), "{text}");
    text.lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["service"].clone())
        .map(|service| service.as_str().unwrap().to_owned())
        .collect()
}

/// Waits until something holds.
fn eventually(what: &str, holds: impl Fn() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(20), "never: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_line_has_every_field() {
    let line = line(full());
    assert!(line.ends_with("}\n"), "{line}");
    assert_eq!(
        serde_json::from_str::<Value>(&line).unwrap(),
        json!({
            "time": "2027-01-15T08:00:00.123Z",
            "service": "AppsAnywhere",
            "kind": "http",
            "client": "10.1.2.3:51000",
            "backend": "appsanywhere/aa01",
            "backend_address": "[fd00::21]:443",
            "method": "GET",
            "target": "/healthcheck?a=b",
            "host": "appsanywhere.uni.edu",
            "protocol": "HTTP/1.1",
            "status": 504,
            "bytes_in": 1,
            "bytes_out": 2,
            "handshake_us": 3,
            "wait_us": 4,
            "first_byte_us": 5,
            "total_us": 6_000_000,
            "reused": true,
            "retries": 7,
            "fault": "backend",
            "reason": "no answer within 60s",
            "tls_version": "1.3",
            "sni": "appsanywhere.uni.edu",
        })
    );
}

#[test]
fn what_is_not_known_is_left_out() {
    assert_eq!(
        line(bare("tcp")),
        "{\"time\":\"1970-01-01T00:00:00.000Z\",\"service\":\"tcp\",\"kind\":\"tcp\",\
         \"client\":\"[fd00::1]:1\",\"bytes_in\":0,\"bytes_out\":0,\"reused\":false,\
         \"retries\":0}\n"
    );
}

#[test]
fn kinds_and_sides_are_words_of_the_configuration_and_of_people() {
    for (kind, side, words) in [
        (Kind::Http, Side::Client, ["http", "client"]),
        (Kind::Tcp, Side::Backend, ["tcp", "backend"]),
        (Kind::Redirect, Side::Us, ["redirect", "us"]),
    ] {
        let mut record = bare("words");
        record.kind = kind;
        record.fault = Some(side);
        let value: Value = serde_json::from_str(&line(record)).unwrap();
        assert_eq!([&value["kind"], &value["fault"]], words);
    }
}

#[test]
fn hostile_text_stays_in_one_line_of_ascii_and_keeps_its_meaning() {
    for text in [
        "/\n{\"service\":\"forged\"}\r\n",
        "\"\\\"},\\u0041",
        "\0\u{1}\u{1b}[2J\u{7f}\u{9b}2J",
        "caf\u{e9}\u{85}\u{2028}\u{2029}\u{202e}\u{1f600}z\u{10ffff}",
        "",
        " ~",
    ] {
        let mut record = full();
        record.target = Some(text.to_owned());
        record.host = Some(text.to_owned());
        record.method = Some(text.to_owned().into());
        let line = line(record);

        let (body, end) = line.split_at(line.len() - 1);
        assert_eq!(end, "\n");
        assert!(
            body.bytes().all(|byte| (b' '..=b'~').contains(&byte)),
            "{body:?}"
        );
        let value: Value = serde_json::from_str(body).unwrap();
        for key in ["target", "host", "method"] {
            assert_eq!(value[key], text);
        }
    }
}

#[test]
fn long_text_is_cut_between_characters() {
    let mut record = full();
    // 2048 is in the middle of a character.
    record.target = Some(format!("/{}", "\u{e9}".repeat(40_000)));
    record.host = Some("h".repeat(40_000));
    record.method = Some("M".repeat(257).into());
    record.reason = Some("r".repeat(256).into());
    record.shorten();

    assert_eq!(record.target.as_deref().map(str::len), Some(2047));
    assert!(record.target.as_ref().unwrap().capacity() < 4096);
    assert_eq!(record.host.as_deref().map(str::len), Some(256));
    assert_eq!(record.method.as_deref().map(str::len), Some(256));
    assert_eq!(record.reason.as_deref().map(str::len), Some(256));
    assert!(line(record).contains("hhh"));
}

#[test]
fn the_last_handle_writes_everything_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    fs::write(&path, "").unwrap();
    let log = open(&path);
    let other = log.clone();
    assert!(log.is_on());
    for number in 0..2000 {
        log.write(bare(&number.to_string()));
    }
    drop(log);
    other.write(bare("last"));
    assert_eq!(other.dropped(), 0);
    drop(other);

    let mut expected: Vec<String> = (0..2000).map(|number| number.to_string()).collect();
    expected.push("last".to_owned());
    assert_eq!(services(&path), expected);
}

#[test]
fn a_new_file_is_not_for_everybody() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    drop(open(&path));
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777 & !0o640, 0, "{mode:o}");
}

#[test]
fn a_single_record_is_written_soon() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let log = open(&path);
    log.write(bare("one"));
    eventually("the line is there", || services(&path) == ["one"]);
    log.write(bare("two"));
    eventually("the next one is", || services(&path) == ["one", "two"]);
}

#[test]
fn after_a_rotation_lines_go_to_the_new_file_and_none_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let log = open(&path);
    let mut names = vec![path.clone()];
    for rotation in 0..20 {
        for number in 0..100 {
            log.write(bare(&format!("{rotation} {number}")));
        }
        let rotated = folder.path().join(format!("access.log.{rotation}"));
        fs::rename(&path, &rotated).unwrap();
        log.reopen();
        names.push(rotated);
        log.write(bare(&format!("after {rotation}")));
        eventually("the file is there", || path.exists());
    }
    assert_eq!(log.dropped(), 0);
    drop(log);

    let current = services(&path);
    assert_eq!(current.last().unwrap(), "after 19");
    for rotation in 0..20 {
        let after = format!("after {rotation}");
        let old = services(&folder.path().join(format!("access.log.{rotation}")));
        assert!(!old.contains(&after), "{after}");
    }
    let lines: usize = names.iter().map(|name| services(name).len()).sum();
    assert_eq!(lines, 20 * 101);
}

#[test]
fn a_file_that_cannot_be_opened_again_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let inner = folder.path().join("inner");
    fs::create_dir(&inner).unwrap();
    let path = inner.join("access.log");
    let log = open(&path);
    fs::rename(&inner, folder.path().join("elsewhere")).unwrap();
    log.reopen();
    log.write(bare("kept"));
    drop(log);

    assert_eq!(
        services(&folder.path().join("elsewhere/access.log")),
        ["kept"]
    );
}

#[test]
fn the_destination_can_change_and_end_and_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let [first, second] = ["first", "second"].map(|name| folder.path().join(name));
    let log = open(&first);
    log.write(bare("1"));
    eventually("it is written", || services(&first) == ["1"]);

    log.set(&model::AccessLog::File(second.clone())).unwrap();
    log.write(bare("2"));
    log.set(&model::AccessLog::Off).unwrap();
    assert!(!log.is_on());
    log.write(bare("while off"));
    // What came before the end is written, also if the order to change is overtaken by this one.
    let written = || [services(&first), services(&second)].concat() == ["1", "2"];
    eventually("the rest is written", written);

    log.set(&model::AccessLog::File(second.clone())).unwrap();
    assert!(log.is_on());
    log.write(bare("3"));
    let nowhere = folder.path().join("missing/access.log");
    log.set(&model::AccessLog::File(nowhere)).unwrap_err();
    assert!(log.is_on());
    log.write(bare("4"));
    assert_eq!(log.dropped(), 0);
    drop(log);
    assert_eq!(services(&second).last().unwrap(), "4");
    assert_eq!(
        [services(&first), services(&second)].concat(),
        ["1", "2", "3", "4"]
    );
}

#[test]
fn a_log_that_is_off_takes_nothing_and_counts_nothing() {
    let log = AccessLog::open(&model::AccessLog::Off).unwrap();
    assert!(!log.is_on());
    log.write(full());
    log.reopen();
    assert_eq!(log.dropped(), 0);
}

/// Nobody reads the pipe, so the thread hangs in its write: the queue fills, nobody waits, and the
/// end does not either.
#[test]
fn a_full_queue_drops_and_counts() {
    let (mut reader, writer) = io::pipe().unwrap();
    let log = AccessLog::with_room(&model::AccessLog::Off, 64).unwrap();
    let sink = sink::of_file(File::from(std::os::fd::OwnedFd::from(writer)));
    log.0.order(|orders| orders.sink = Some(sink));
    log.0.shared.on.store(true, Release);

    let began = Instant::now();
    let mut sent = 0;
    while log.dropped() < 1000 {
        log.write(full());
        sent += 1;
        assert!(began.elapsed() < Duration::from_secs(60), "{sent}");
    }
    let dropped = log.dropped();
    let ending = thread::spawn(move || drop(log));
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    ending.join().unwrap();

    assert_eq!(text.lines().count() as u64 + dropped, sent);
    for line in text.lines() {
        serde_json::from_str::<Value>(line).unwrap();
    }
}

#[test]
fn connections_that_were_never_served_leave_room_for_the_others() {
    let (mut reader, writer) = io::pipe().unwrap();
    let log = AccessLog::with_room(&model::AccessLog::Off, 1000).unwrap();
    let sink = sink::of_file(File::from(std::os::fd::OwnedFd::from(writer)));
    log.0.order(|orders| orders.sink = Some(sink));
    log.0.shared.on.store(true, Release);

    let began = Instant::now();
    while log.dropped() < 1000 {
        log.write_if_quiet(bare("flood"));
        assert!(began.elapsed() < Duration::from_secs(60));
    }
    let dropped = log.dropped();
    (0..400).for_each(|_| log.write(bare("served")));
    assert_eq!(log.dropped(), dropped);

    let reading = thread::spawn(move || {
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        text
    });
    eventually("the flood is written", || {
        log.0.shared.unserved.load(Relaxed) == 0
    });
    log.write_if_quiet(bare("calm"));
    assert_eq!(log.dropped(), dropped);
    drop(log);
    let text = reading.join().unwrap();
    assert_eq!(text.matches("\"served\"").count(), 400);
    assert_eq!(text.matches("\"calm\"").count(), 1);
}

#[test]
fn the_end_does_not_wait_for_a_reader_that_has_stopped() {
    let (reader, writer) = io::pipe().unwrap();
    let log = AccessLog::with_room(&model::AccessLog::Off, 1000).unwrap();
    let sink = sink::of_file(File::from(std::os::fd::OwnedFd::from(writer)));
    log.0.order(|orders| orders.sink = Some(sink));
    log.0.shared.on.store(true, Release);
    (0..1000).for_each(|_| log.write(full()));

    let began = Instant::now();
    drop(log);
    let took = began.elapsed();
    assert!((FAREWELL..5 * FAREWELL).contains(&took), "{took:?}");
    drop(reader);
}

#[test]
fn lines_that_cannot_be_written_are_counted() {
    let full_disk = Path::new("/dev/full");
    let log = open(full_disk);
    for _ in 0..10 {
        log.write(full());
    }
    eventually("all are lost", || log.dropped() == 10);
}

/// A pipe that does not wait takes a part of the lines: the torn line must not spoil the next one.
#[test]
fn after_half_a_line_the_next_one_is_whole() {
    let (mut reader, writer) = io::pipe().unwrap();
    socket2::SockRef::from(&writer)
        .set_nonblocking(true)
        .unwrap();
    let mut sink = sink::of_file(File::from(std::os::fd::OwnedFd::from(writer)));
    let lines = b"0123456789\n".repeat(100_000);
    let (lost, error) = sink.write(&lines).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);

    let mut taken = vec![0; 1 << 20];
    let count = reader.read(&mut taken).unwrap();
    assert_ne!(taken[count - 1], b'\n');
    sink.write(b"next\n").unwrap();
    drop(sink);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "\nnext\n");
    let whole = taken[..count].iter().filter(|&&byte| byte == b'\n').count();
    assert_eq!(whole as u64 + lost, 100_000);
}
