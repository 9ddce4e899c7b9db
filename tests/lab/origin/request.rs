//! A request's head as it came.

use std::net::SocketAddr;

use super::Agreed;
use crate::lab::http1;

/// The head of a request, and where it came on.
#[derive(Clone, Debug)]
pub struct Request {
    /// The number of the connection at this origin, counted from 1.
    pub connection: u64,
    /// The number of the request on its connection, counted from 1.
    pub number: u64,
    /// Where the connection came from.
    pub peer: SocketAddr,
    /// What TLS agreed on; `None` without TLS.
    pub tls: Option<Agreed>,
    /// Whose request it is, where one has to sign on: see [`super::sign_on`].
    pub user: Option<String>,
    /// The exact bytes to the empty line, inclusive.
    pub head: Vec<u8>,
}

impl Request {
    /// Returns the method.
    #[must_use]
    pub fn method(&self) -> String {
        self.word(0)
    }

    /// Returns the target as it was written.
    #[must_use]
    pub fn target(&self) -> String {
        self.word(1)
    }

    /// Returns the target without its query.
    #[must_use]
    pub fn path(&self) -> String {
        let target = self.target();
        target.split('?').next().unwrap_or_default().to_owned()
    }

    /// Returns the values of all header lines called `name`, in their order.
    #[must_use]
    pub fn headers(&self, name: &str) -> Vec<&str> {
        http1::values(&self.head, name)
    }

    /// Returns the value of the first header line called `name`.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers(name).first().copied()
    }

    /// Returns the head as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.head).into_owned()
    }

    fn word(&self, number: usize) -> String {
        let line = http1::first_line(&self.head);
        line.split(' ').nth(number).unwrap_or_default().to_owned()
    }
}
