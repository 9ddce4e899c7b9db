//! Hellos of a real client, whole and in pieces, and what is none.

use std::sync::Arc;

use rustls::{ClientConnection, pki_types::ServerName};

use super::*;
use crate::tls::{ClientTls, Trust};

/// Returns what a client of rustls sends first.
fn hello_for(name: &'static str) -> Vec<u8> {
    let tls = ClientTls::new(Trust::Anybody, Arc::default(), &["h2", "http/1.1"], false);
    let name = ServerName::try_from(name).unwrap();
    let mut client = ClientConnection::new(tls.config().unwrap(), name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

fn named(name: &str) -> Hello {
    Hello::Name(Some(name.to_owned()))
}

/// Cuts the message of one record into records with `size` bytes of content each.
fn split(record: &[u8], size: usize) -> Vec<u8> {
    record[RECORD_HEADER..]
        .chunks(size)
        .flat_map(|part| {
            let [high, low] = u16::try_from(part.len()).unwrap().to_be_bytes();
            [&[HANDSHAKE, 3, 1, high, low], part].concat()
        })
        .collect()
}

/// Makes a hello with these extensions; there is nothing in it that need not be.
fn hand_made(extensions: &[u8]) -> Vec<u8> {
    let length = |bytes: &[u8]| u16::try_from(bytes.len()).unwrap().to_be_bytes();
    let body = [
        &[3, 3][..],
        &[7; 32],
        &[0],
        &[0, 2, 0xc0, 0x2f],
        &[1, 0],
        &length(extensions),
        extensions,
    ]
    .concat();
    let message = [&[CLIENT_HELLO, 0], &length(&body)[..], &body].concat();
    [&[HANDSHAKE, 3, 1], &length(&message)[..], &message].concat()
}

/// The extension of the name (RFC 6066 section 3).
fn name_extension(name: &[u8]) -> Vec<u8> {
    let length = |add: usize| u16::try_from(name.len() + add).unwrap().to_be_bytes();
    [&[0, 0][..], &length(5), &length(3), &[0], &length(0), name].concat()
}

/// The extension that lists one signature algorithm.
const ALGORITHMS: [u8; 8] = [0, 13, 0, 4, 0, 2, 4, 3];

#[test]
fn the_name_is_read_in_lower_case() {
    assert_eq!(
        server_name(&hello_for("Portal.Uni.edu")),
        named("portal.uni.edu")
    );
    let dotted = [&name_extension(b"Portal.Uni.edu.")[..], &ALGORITHMS].concat();
    assert_eq!(server_name(&hand_made(&dotted)), named("portal.uni.edu"));
}

#[test]
fn a_hello_without_a_name_has_none() {
    assert_eq!(server_name(&hello_for("10.1.2.3")), Hello::Name(None));
    assert_eq!(server_name(&hand_made(&ALGORITHMS)), Hello::Name(None));
    let address = [&name_extension(b"10.1.2.3")[..], &ALGORITHMS].concat();
    assert_eq!(server_name(&hand_made(&address)), Hello::Name(None));
}

#[test]
fn a_client_that_is_too_old_is_one_without_a_name() {
    let old = hand_made(&name_extension(b"portal.uni.edu"));
    assert_eq!(server_name(&old), Hello::Name(None));
}

#[test]
fn no_dns_name_is_no_hello() {
    for name in [
        &b"a b.example"[..],
        b"",
        b".",
        b"a..b",
        b"caf\xc3\xa9.example",
        b"a\n.example",
    ] {
        let extensions = [&name_extension(name)[..], &ALGORITHMS].concat();
        let hello = server_name(&hand_made(&extensions));
        assert_eq!(hello, Hello::NotTls, "{}", name.escape_ascii());
    }
}

#[test]
fn each_cut_is_incomplete_and_what_follows_changes_nothing() {
    let hello = hello_for("portal.uni.edu");
    for cut in 0..hello.len() {
        assert_eq!(server_name(&hello[..cut]), Hello::Incomplete, "{cut}");
    }
    for after in [&b"\x14\x03\x03\0\x01\x01"[..], b"\x17\x03\x03", b"garbage"] {
        let longer = [&hello[..], after].concat();
        assert_eq!(server_name(&longer), named("portal.uni.edu"));
    }
}

#[test]
fn a_hello_may_be_spread_over_records() {
    let hello = hello_for("portal.uni.edu");
    for size in [1, 2, 3, 4, 5, 100, hello.len() - RECORD_HEADER - 1] {
        let records = split(&hello, size);
        assert_eq!(server_name(&records), named("portal.uni.edu"), "{size}");
        let cut = &records[..records.len() - 1];
        assert_eq!(server_name(cut), Hello::Incomplete, "{size}");
    }
}

#[test]
fn other_protocols_are_known_by_their_first_bytes() {
    for bytes in [
        &b"G"[..],
        b"GET / HTTP/1.1\r\nHost: portal.uni.edu\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2p1\r\n",
        // A hello in the form of SSL 2.
        b"\x80\x2e\x01\x03\x01",
        b"\x15\x03\x01\0\x02\x02\x28",
        // A record without content, a server's hello, a message of 64 KiB, a long record.
        b"\x16\x03\x01\0\0",
        b"\x16\x03\x01\0\x04\x02",
        b"\x16\x03\x01\0\x04\x01\x01\0\0",
        b"\x16\x03\x01\x40\x01",
        b"\x16\x02",
        &[0; 100],
        &[0xff; 100],
    ] {
        assert_eq!(
            server_name(bytes),
            Hello::NotTls,
            "{}",
            bytes.escape_ascii()
        );
    }
    assert_eq!(server_name(b""), Hello::Incomplete);
    assert_eq!(server_name(b"\x16"), Hello::Incomplete);
}

#[test]
fn a_hello_that_breaks_off_inside_is_none() {
    let mut hello = hello_for("portal.uni.edu");
    // The length of the session identifier.
    hello[RECORD_HEADER + MESSAGE_HEADER + 34] = 200;
    assert_eq!(server_name(&hello), Hello::NotTls);
}

#[test]
fn a_long_hello_is_read_and_one_beyond_the_bound_is_not() {
    let padded = |length: usize| {
        let size = u16::try_from(length).unwrap().to_be_bytes();
        let padding = [&[0, 21], &size[..], &vec![0; length]].concat();
        hand_made(&[&name_extension(b"a.example")[..], &ALGORITHMS, &padding].concat())
    };
    let long = padded(16_000);
    assert_eq!(server_name(&long), named("a.example"));
    assert_eq!(server_name(&split(&long, 100)), named("a.example"));
    // So many records that they do not fit.
    let records = split(&long, 2);
    assert_eq!(server_name(&records[..MOST_BYTES - 1]), Hello::Incomplete);
    assert_eq!(server_name(&records[..MOST_BYTES]), Hello::NotTls);
    assert_eq!(server_name(&records), Hello::NotTls);
    assert_eq!(server_name(&padded(17_000)[..100]), Hello::NotTls);
}
