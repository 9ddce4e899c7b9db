//! The examples of the specification, its rules one by one, and what is written read again.

use std::net::SocketAddr;

use bytes::BytesMut;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{crc32c::crc32c, *};

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// Expects a whole header with these addresses.
fn assert_addresses(bytes: &[u8], source: &str, destination: &str) {
    let expected = Some((address(source), address(destination)));
    assert_eq!(read(bytes), Reading::header(bytes.len(), expected));
}

fn assert_invalid(bytes: &[u8], part: &str) {
    match read(bytes) {
        Reading::Invalid(why) if why.contains(part) => {}
        other => panic!("{}: {other:?}", bytes.escape_ascii()),
    }
}

/// Makes a header of version 2.
fn binary(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).expect("a short body");
    let fixed = [&[0x20 | command, family], &length.to_be_bytes()[..]].concat();
    [v2::SIGNATURE, &fixed, body].concat()
}

const BODY4: [u8; 12] = [10, 1, 2, 3, 10, 20, 90, 105, 0xc7, 0x38, 0x01, 0xbb];

#[test]
fn examples_of_version_1_are_read() {
    assert_addresses(
        b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n",
        "192.168.0.1:56324",
        "192.168.0.11:443",
    );
    assert_addresses(
        b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
        "255.255.255.255:65535",
        "255.255.255.255:65535",
    );
    let longest = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    assert_addresses(
        format!("PROXY TCP6 {longest} {longest} 65535 65535\r\n").as_bytes(),
        &format!("[{longest}]:65535"),
        &format!("[{longest}]:65535"),
    );
    let unknown = format!("PROXY UNKNOWN {longest} {longest} 65535 65535\r\n");
    assert_eq!(unknown.len(), 107);
    for line in ["PROXY UNKNOWN\r\n", &unknown] {
        assert_eq!(
            read(line.as_bytes()),
            Reading::header(line.len(), None),
            "{line}"
        );
    }
}

#[test]
fn a_mapped_address_is_read_as_ipv4() {
    assert_addresses(
        b"PROXY TCP6 ::ffff:10.1.2.3 fd00::1 1 0\r\n",
        "10.1.2.3:1",
        "[fd00::1]:0",
    );
}

#[test]
fn lines_that_are_not_as_specified_are_refused() {
    for (line, part) in [
        ("PROXY \r\n", "five fields"),
        ("PROXY TCP4\r\n", "five fields"),
        ("PROXY TCP4  10.0.0.1 10.0.0.2 1 2\r\n", "five fields"),
        ("PROXY TCP4 10.0.0.1 10.0.0.2 1 2 \r\n", "five fields"),
        ("PROXY TCP4 10.0.0.1 10.0.0.2 1 2 3\r\n", "five fields"),
        ("PROXY  TCP4 10.0.0.1 10.0.0.2 1 2\r\n", "five fields"),
        ("PROXY TCP4 10.0.0.1\t10.0.0.2 1 2\r\n", "five fields"),
        ("PROXY tcp4 10.0.0.1 10.0.0.2 1 2\r\n", "family"),
        ("PROXY UDP4 10.0.0.1 10.0.0.2 1 2\r\n", "family"),
        ("PROXY UNKNOWNS\r\n", "five fields"),
        ("PROXY TCP4 10.0.0.01 10.0.0.2 1 2\r\n", "address"),
        ("PROXY TCP4 10.0.1 10.0.0.2 1 2\r\n", "address"),
        ("PROXY TCP4 ::1 ::2 1 2\r\n", "address"),
        ("PROXY TCP6 10.0.0.1 10.0.0.2 1 2\r\n", "address"),
        ("PROXY TCP6 fe80::1%eth0 ::2 1 2\r\n", "address"),
        ("PROXY TCP4 10.0.0.1 10.0.0.2 65536 2\r\n", "port"),
        ("PROXY TCP4 10.0.0.1 10.0.0.2 +1 2\r\n", "port"),
        ("PROXY TCP4 10.0.0.1 10.0.0.2 1 02\r\n", "port"),
        ("PROXY TCP4 10.0.0.1 10.0.0.2 1 \r\n", "port"),
        ("PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r \r\n", "five fields"),
        ("PROXY TCP4 10.0.0.1 10.0.0.2 1 2\n\r\n", "port"),
        ("GET / HTTP/1.1\r\n", "does not begin"),
        ("PROXX", "does not begin"),
        ("\r\n\r\n\r", "does not begin"),
    ] {
        assert_invalid(line.as_bytes(), part);
    }
    assert_invalid(b"PROXY TCP4 10.0.0.\xff 10.0.0.2 1 2\r\n", "no text");
}

#[test]
fn a_line_has_107_bytes_at_most() {
    let line = |length: usize| format!("PROXY UNKNOWN {}", "x".repeat(length - 14));
    assert_eq!(
        read(line(105).as_bytes()),
        Reading::Incomplete { at_least: 107 }
    );
    assert_invalid(line(106).as_bytes(), "107");
    assert_eq!(
        read(format!("{}\r", line(105)).as_bytes()),
        Reading::Incomplete { at_least: 107 }
    );
    assert_invalid(format!("{}\r\n", line(106)).as_bytes(), "107");
}

#[test]
fn binary_headers_are_read_by_family() {
    assert_addresses(
        &binary(1, 0x11, &BODY4),
        "10.1.2.3:51000",
        "10.20.90.105:443",
    );

    let mut body6 = [0; 36];
    body6[..2].copy_from_slice(&[0xfd, 0]);
    body6[15] = 1;
    body6[26..32].copy_from_slice(&[0xff, 0xff, 10, 0, 0, 2]);
    body6[33] = 7;
    body6[34..].copy_from_slice(&443_u16.to_be_bytes());
    assert_addresses(&binary(1, 0x21, &body6), "[fd00::1]:7", "10.0.0.2:443");

    for (command, family, length) in [
        (0, 0x00, 0),
        (0, 0x11, 12),
        (0, 0x11, 3),
        (0, 0xff, 9),
        (1, 0x00, 0),
        (1, 0x00, 9),
        (1, 0x12, 12),
        (1, 0x22, 36),
        (1, 0x31, 216),
        (1, 0x32, 216),
    ] {
        let header = binary(command, family, &vec![0xff; length]);
        assert_eq!(
            read(&header),
            Reading::header(header.len(), None),
            "{command} {family:#x}"
        );
    }
}

#[test]
fn binary_headers_that_are_not_as_specified_are_refused() {
    for (family, length) in [(0x11, 11), (0x12, 0), (0x21, 35), (0x22, 12), (0x31, 215)] {
        assert_invalid(&binary(1, family, &vec![0; length]), "too short");
    }
    for family in [0x01, 0x10, 0x13, 0x20, 0x33, 0x41] {
        assert_invalid(&binary(1, family, &[0; 216]), "family");
    }
    assert_invalid(&binary(2, 0x11, &BODY4), "command 2");
    let version = [v2::SIGNATURE, &[0x11]].concat();
    assert_invalid(&version, "version 1");
    let length = [v2::SIGNATURE, &[0x21, 0x11, 0x10, 0x01]].concat();
    assert_invalid(&length, "4097 bytes");
    let longest = [v2::SIGNATURE, &[0x21, 0x11, 0x10, 0x00]].concat();
    assert_eq!(
        read(&longest),
        Reading::Incomplete {
            at_least: MOST_BYTES
        }
    );
}

#[test]
fn fields_behind_the_addresses_are_passed_over_if_they_fill_the_header() {
    let with = |fields: &[u8]| binary(1, 0x11, &[&BODY4, fields].concat());
    for fields in [&[4, 0, 2, 0, 0][..], &[1, 0, 2, b'h', b'2', 0xff, 0, 0]] {
        assert_addresses(&with(fields), "10.1.2.3:51000", "10.20.90.105:443");
    }
    for fields in [&[4][..], &[4, 0], &[4, 0, 1], &[4, 0, 0, 9]] {
        assert_invalid(&with(fields), "beyond its end");
    }
    assert_invalid(&with(&[3, 0, 1, 0]), "four bytes");
}

#[test]
fn a_checksum_must_be_right() {
    let fields = [4, 0, 1, 0, 3, 0, 4, 0, 0, 0, 0, 2, 0, 1, b'x'];
    let mut header = binary(1, 0x11, &[&BODY4[..], &fields].concat());
    let sum = crc32c(&[&header]).to_be_bytes();
    let at = 16 + 12 + 7;
    assert_invalid(&header, "checksum");
    header[at..at + 4].copy_from_slice(&sum);
    assert_addresses(&header, "10.1.2.3:51000", "10.20.90.105:443");

    header[16] ^= 1;
    assert_invalid(&header, "checksum");
}

#[test]
fn headers_are_written_as_the_specification_shows() {
    let written = |version, source, destination| {
        let mut out = b"before ".to_vec();
        write(version, address(source), address(destination), &mut out);
        out.split_off(7)
    };
    let line =
        |source, destination| String::from_utf8(written(1, source, destination)).expect("text");
    assert_eq!(
        line("192.168.0.1:56324", "192.168.0.11:443"),
        "PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n"
    );
    assert_eq!(
        line("[fd00::1]:1", "[fd00::2]:2"),
        "PROXY TCP6 fd00::1 fd00::2 1 2\r\n"
    );
    assert_eq!(
        line("10.0.0.1:1", "[fd00::2]:2"),
        "PROXY TCP6 ::ffff:10.0.0.1 fd00::2 1 2\r\n"
    );
    assert_eq!(
        line("[::ffff:10.0.0.1]:1", "[::ffff:10.0.0.2]:2"),
        "PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n"
    );
    assert_eq!(
        written(2, "10.1.2.3:51000", "10.20.90.105:443"),
        binary(1, 0x11, &BODY4)
    );
    assert_eq!(written(2, "[fd00::1]:1", "10.0.0.2:2").len(), 16 + 36);
}

#[tokio::test]
async fn a_header_in_pieces_is_accepted_and_the_surplus_kept() {
    for version in [1, 2] {
        let (source, destination) = (address("10.1.2.3:51000"), address("10.20.90.105:443"));
        let mut bytes = Vec::new();
        write(version, source, destination, &mut bytes);
        bytes.extend_from_slice(b"GET ");
        let (mut near, mut far) = tokio::io::duplex(3);
        let send = async {
            far.write_all(&bytes).await.expect("somebody reads");
            drop(far);
        };
        let read = async {
            let (from, to, mut surplus) = accept(&mut near).await.expect("a header");
            assert_eq!((from, to), (Some(source), Some(destination)));
            while near.read_buf(&mut surplus).await.expect("no error") > 0 {}
            assert_eq!(surplus, BytesMut::from("GET "));
        };
        tokio::join!(send, read);
    }
}

#[tokio::test]
async fn no_more_than_the_bound_is_read() {
    let mut header = binary(0, 0, &[0; 4096]);
    assert_eq!(header.len(), MOST_BYTES);
    header.extend_from_slice(&[b'x'; 100]);
    let mut stream = &header[..];
    let (_, _, surplus) = accept(&mut stream).await.expect("a header");
    assert_eq!((surplus.len(), stream.len()), (0, 100));

    let mut line = b"PROXY UNKNOWN\r\n".to_vec();
    line.resize(3 * MOST_BYTES, b'x');
    let mut stream = &line[..];
    let (_, _, surplus) = accept(&mut stream).await.expect("a header");
    assert!(15 + surplus.len() <= MOST_BYTES);
    assert_eq!(15 + surplus.len() + stream.len(), line.len());
}

#[tokio::test]
async fn an_end_or_another_protocol_is_no_header() {
    let error = accept(&mut &b"PROXY TCP4 "[..])
        .await
        .expect_err("cut short");
    assert_eq!(
        error.to_string(),
        "the connection ended after 11 bytes, before the end of the PROXY protocol header"
    );
    let error = accept(&mut &b"GET / HTTP/1.1\r\n"[..])
        .await
        .expect_err("HTTP");
    assert_eq!(
        error.to_string(),
        "\"GET / HTTP/1\" does not begin a PROXY protocol header"
    );
}

fn any_address() -> impl Strategy<Value = SocketAddr> {
    prop_oneof![
        (any::<[u8; 4]>(), any::<u16>()).prop_map(SocketAddr::from),
        (any::<[u16; 8]>(), any::<u16>()).prop_map(SocketAddr::from),
        (any::<[u8; 4]>(), any::<u16>()).prop_map(|(octets, port)| {
            let mapped = std::net::Ipv4Addr::from(octets).to_ipv6_mapped();
            SocketAddr::new(mapped.into(), port)
        }),
    ]
}

proptest! {
    #[test]
    fn what_is_written_is_read_again_and_needs_its_last_byte(
        version in 1_u8..=2,
        source in any_address(),
        destination in any_address(),
    ) {
        let mut out = Vec::new();
        write(version, source, destination, &mut out);
        let expected = Reading::header(out.len(), Some((source, destination)));
        prop_assert_eq!(&read(&out), &expected);
        for cut in 0..out.len() {
            let cut_short = read(&out[..cut]);
            prop_assert!(
                matches!(cut_short, Reading::Incomplete { at_least }
                    if at_least > cut && at_least <= out.len()),
                "{:?}", cut_short
            );
        }
        out.extend_from_slice(b"GET / HTTP/1.1\r\n");
        prop_assert_eq!(read(&out), expected);
    }
}
