//! A connection read through a buffer that shows the bytes as they came.

use std::io::{self, Read, Write};

use super::stream::Stream;

/// The longest head or line read here, in bytes: more than any balancer lets through.
const LONGEST_HEAD: usize = 1024 * 1024;

/// How much is read at once, in bytes.
const READ_SIZE: usize = 16 * 1024;

/// A connection and what has been read of it ahead.
#[derive(Debug)]
pub struct Wire {
    stream: Stream,
    ahead: Vec<u8>,
}

impl Wire {
    /// Begins to read `stream`.
    #[must_use]
    pub fn new(stream: Stream) -> Self {
        Self {
            stream,
            ahead: Vec::new(),
        }
    }

    /// Returns the connection.
    #[must_use]
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Returns the connection for writing.
    pub fn stream_mut(&mut self) -> &mut Stream {
        &mut self.stream
    }

    /// Returns the connection, without what was read ahead.
    #[must_use]
    pub fn into_stream(self) -> Stream {
        self.stream
    }

    /// Returns what has been read and not been asked for.
    #[must_use]
    pub fn ahead(&self) -> &[u8] {
        &self.ahead
    }

    /// Reads a head to its empty line, inclusive; `None` if the peer ended before its first byte.
    ///
    /// # Errors
    ///
    /// What the stream says; what came of the head is then in [`Self::ahead`].
    pub fn head(&mut self) -> io::Result<Option<Vec<u8>>> {
        if self.ahead.is_empty() && self.fill()? == 0 {
            return Ok(None);
        }
        self.up_to(b"\r\n\r\n").map(Some)
    }

    /// Reads a line with its CRLF.
    ///
    /// # Errors
    ///
    /// What the stream says; what came of the line is then in [`Self::ahead`].
    pub fn line(&mut self) -> io::Result<Vec<u8>> {
        self.up_to(b"\r\n")
    }

    /// Reads at least one and at most `most` bytes.
    ///
    /// # Errors
    ///
    /// What the stream says, or `UnexpectedEof`.
    pub fn some(&mut self, most: usize) -> io::Result<Vec<u8>> {
        if self.ahead.is_empty() && self.fill()? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let length = most.min(self.ahead.len());
        Ok(self.ahead.drain(..length).collect())
    }

    fn up_to(&mut self, mark: &[u8]) -> io::Result<Vec<u8>> {
        let mut searched = 0;
        loop {
            let found = self.ahead[searched..]
                .windows(mark.len())
                .position(|window| window == mark);
            if let Some(place) = found {
                let length = searched + place + mark.len();
                return Ok(self.ahead.drain(..length).collect());
            }
            // The mark may begin in what is there.
            searched = (self.ahead.len() + 1).saturating_sub(mark.len());
            if self.ahead.len() > LONGEST_HEAD {
                let message = format!("no end within {LONGEST_HEAD} bytes");
                return Err(io::Error::new(io::ErrorKind::InvalidData, message));
            }
            if self.fill()? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    fn fill(&mut self) -> io::Result<usize> {
        let before = self.ahead.len();
        self.ahead.resize(before + READ_SIZE, 0);
        let result = loop {
            match self.stream.read(&mut self.ahead[before..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result,
            }
        };
        self.ahead
            .truncate(before + result.as_ref().copied().unwrap_or(0));
        result
    }
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.ahead.is_empty() {
            return self.stream.read(buffer);
        }
        let length = buffer.len().min(self.ahead.len());
        buffer[..length].copy_from_slice(&self.ahead[..length]);
        self.ahead.drain(..length);
        Ok(length)
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}
