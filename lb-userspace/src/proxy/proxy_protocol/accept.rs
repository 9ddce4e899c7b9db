//! Reads a header from a stream.

use std::{borrow::Cow, io, net::SocketAddr};

use bytes::{Buf as _, BufMut as _, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::{MOST_BYTES, Reading, read};

/// Room for the first read: most headers, and the first bytes of the client right behind.
const FIRST_READ: usize = 512;

/// Why there is no header.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AcceptError {
    /// The peer sent something else.
    #[error("{0}")]
    Invalid(Cow<'static, str>),
    /// The peer ended the connection before the header's end.
    #[error("the connection ended after {0} bytes, before the end of the PROXY protocol header")]
    Ended(usize),
    /// The connection failed.
    #[error("the PROXY protocol header cannot be read")]
    Io(#[source] io::Error),
}

/// Reads the header that must begin `stream`, and returns source and destination as
/// [`Reading::Header`] has them, and what was read beyond the header: the client's first bytes.
///
/// Reads [`MOST_BYTES`] at most, header and surplus together. The caller sets a deadline and drops
/// the stream when it passes.
///
/// # Errors
///
/// [`AcceptError`]: the connection is of no use, because nobody knows whose it is.
pub(crate) async fn accept<S: AsyncRead + Unpin>(
    stream: &mut S,
) -> Result<(Option<SocketAddr>, Option<SocketAddr>, BytesMut), AcceptError> {
    let mut bytes = BytesMut::with_capacity(FIRST_READ);
    loop {
        match read(&bytes) {
            Reading::Incomplete { at_least } => {
                bytes.reserve(at_least.saturating_sub(bytes.len()));
                let room = MOST_BYTES.saturating_sub(bytes.len());
                let read = stream.read_buf(&mut (&mut bytes).limit(room)).await;
                if read.map_err(AcceptError::Io)? == 0 {
                    return Err(AcceptError::Ended(bytes.len()));
                }
            }
            Reading::Header {
                length,
                source,
                destination,
            } => {
                bytes.advance(length);
                return Ok((source, destination, bytes));
            }
            Reading::Invalid(why) => return Err(AcceptError::Invalid(why)),
        }
    }
}
