//! Whether a backend's answer can be understood in one way only.

use hyper::{
    HeaderMap, Response, StatusCode,
    header::{CONTENT_LENGTH, TRANSFER_ENCODING},
};

use super::{super::failure::Failure, names::Names};

/// Judges an answer's head (RFC 9112 section 6.3); `names` are those that it has, `upgrade`: the
/// request asked for one.
///
/// # Errors
///
/// [`Failure::BadResponse`]; the connection must not be used again.
pub(crate) fn check<B>(response: &Response<B>, names: Names, upgrade: bool) -> Result<(), Failure> {
    let status = response.status();
    if status == StatusCode::SWITCHING_PROTOCOLS && !upgrade {
        return Err(Failure::BadResponse);
    }
    if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
        return Err(Failure::BadResponse);
    }
    match names.have(Names::TRANSFER_ENCODING | Names::CONTENT_LENGTH) {
        true => check_framing(response.headers()),
        false => Ok(()),
    }
}

fn check_framing(headers: &HeaderMap) -> Result<(), Failure> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let chunked = match (codings.next(), codings.next()) {
        (None, _) => false,
        (Some(one), None) if one.as_bytes().eq_ignore_ascii_case(b"chunked") => true,
        _ => return Err(Failure::BadResponse),
    };
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    match (lengths.next(), lengths.next()) {
        (None, _) => Ok(()),
        (Some(length), None)
            if !chunked
                && !length.is_empty()
                && length.as_bytes().iter().all(u8::is_ascii_digit) =>
        {
            Ok(())
        }
        _ => Err(Failure::BadResponse),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(status: u16, headers: &[(&str, &str)], upgrade: bool) -> Result<(), Failure> {
        let mut response = Response::builder().status(status);
        for (name, value) in headers {
            response = response.header(*name, *value);
        }
        let response = response.body(()).expect("a response");
        check(&response, Names::of(response.headers()), upgrade)
    }

    #[test]
    fn usual_answers_pass() {
        assert_eq!(judge(200, &[("content-length", "3")], false), Ok(()));
        assert_eq!(
            judge(200, &[("transfer-encoding", "Chunked")], false),
            Ok(())
        );
        assert_eq!(judge(304, &[], false), Ok(()));
        assert_eq!(judge(101, &[], true), Ok(()));
    }

    #[test]
    fn what_has_two_meanings_is_refused() {
        let bad = Err(Failure::BadResponse);
        assert_eq!(judge(101, &[], false), bad);
        for headers in [
            &[("content-length", "3"), ("transfer-encoding", "chunked")][..],
            &[("content-length", "3"), ("content-length", "3")],
            &[("content-length", "3, 3")],
            &[("content-length", "+3")],
            &[("transfer-encoding", "gzip, chunked")],
            &[
                ("transfer-encoding", "chunked"),
                ("transfer-encoding", "chunked"),
            ],
        ] {
            assert_eq!(judge(200, headers, false), bad, "{headers:?}");
        }
    }
}
