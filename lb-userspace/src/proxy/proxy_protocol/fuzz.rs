//! What a proxy in front of us may send first.

use super::{MOST_BYTES, Reading, accept, accept::AcceptError, read, write};
use crate::fuzz::{assert_one_short_line, block_on};

/// A header is recognised at its last byte and not before, whatever follows; its addresses survive
/// being written in both versions; and a stream with the same bytes gives the same.
pub(crate) fn header(data: &[u8]) {
    let reading = read(data);
    match &reading {
        Reading::Incomplete { at_least } => {
            assert!((data.len() + 1..=MOST_BYTES).contains(at_least));
        }
        Reading::Header {
            length,
            source,
            destination,
        } => {
            assert!(*length <= data.len().min(MOST_BYTES));
            assert_eq!(read(&data[..*length]), reading);
            for cut in 0..*length {
                let cut = read(&data[..cut]);
                assert!(
                    matches!(cut, Reading::Incomplete { at_least } if at_least <= *length),
                    "{cut:?}"
                );
            }
            assert_eq!(source.is_some(), destination.is_some());
            if let (Some(source), Some(destination)) = (*source, *destination) {
                for version in [1, 2] {
                    let mut out = Vec::new();
                    write(version, source, destination, &mut out);
                    assert_eq!(
                        read(&out),
                        Reading::header(out.len(), Some((source, destination)))
                    );
                }
            }
        }
        Reading::Invalid(why) => {
            assert_one_short_line(why);
            assert!(matches!(
                read(&[data, b"\r\n"].concat()),
                Reading::Invalid(_)
            ));
        }
    }
    let mut stream = data;
    match (block_on(accept(&mut stream)), reading) {
        (
            Ok((from, to, surplus)),
            Reading::Header {
                length,
                source,
                destination,
            },
        ) => {
            assert_eq!((from, to), (source, destination));
            assert!(length + surplus.len() <= MOST_BYTES);
            assert_eq!([&surplus[..], stream].concat(), &data[length..]);
        }
        (Err(AcceptError::Ended(count)), Reading::Incomplete { .. }) => {
            assert_eq!(count, data.len());
        }
        (Err(AcceptError::Invalid(_)), Reading::Invalid(_)) => {}
        (accepted, reading) => panic!("{accepted:?} is not {reading:?}"),
    }
}
