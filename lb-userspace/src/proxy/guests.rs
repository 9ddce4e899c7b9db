//! Whom services of the proxy take: at accept, and for as long as a connection lives.
//!
//! A client that is blocked at run time loses the connections that it has, as its flows end in the
//! kernel. That is done at the client's stream, which is the same under TLS, HTTP and a tunnel:
//! from that moment on it gives an error to whoever reads or writes, so everything ends by the way
//! that it ends when a client breaks off; whoever accounts for it asks the client's [`Fate`]. Nothing
//! is asked for each request: a worker looks at its connections only when the lists have changed.

use std::{
    collections::HashMap,
    io,
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::Context,
};

use futures_util::task::AtomicWaker;
use lb_common::{addr, guard::is_blocked};

use super::failure::Failure;
use crate::control::state::ClientRanges;

/// Returns whether a service refuses a client.
pub(crate) fn refuses(ranges: &ClientRanges, service: &str, client: IpAddr) -> bool {
    let taken = ranges.get(service);
    taken.is_some_and(|taken| is_blocked(&taken.ranges, &addr::bytes(client)))
}

/// The clients that have connections in a worker.
#[derive(Clone, Debug, Default)]
pub(crate) struct Guests(Arc<Mutex<Present>>);

#[derive(Debug, Default)]
struct Present {
    guests: HashMap<u64, Entry>,
    next: u64,
    /// The lists that all of them passed.
    passed: Option<Arc<ClientRanges>>,
}

#[derive(Debug)]
struct Entry {
    service: Arc<str>,
    client: IpAddr,
    told: Arc<Told>,
}

/// What the connection of a guest is told.
#[derive(Debug, Default)]
struct Told {
    refused: AtomicBool,
    reader: AtomicWaker,
    writer: AtomicWaker,
}

impl Guests {
    /// Enters a client whom the service takes, until the returned value is dropped.
    pub(crate) fn enter(&self, service: &Arc<str>, client: IpAddr) -> Guest {
        let told = Arc::new(Told::default());
        let entry = Entry {
            service: Arc::clone(service),
            client,
            told: Arc::clone(&told),
        };
        let mut present = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let number = present.next;
        present.next += 1;
        present.guests.insert(number, entry);
        Guest {
            guests: self.clone(),
            number,
            told,
        }
    }

    /// Ends the connections of those whom `ranges` refuse.
    pub(crate) fn pass(&self, ranges: &Arc<ClientRanges>) {
        let mut present = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = present.passed.as_ref();
        if passed.is_some_and(|passed| Arc::ptr_eq(passed, ranges)) {
            return;
        }
        present.passed = Some(Arc::clone(ranges));
        for entry in present.guests.values() {
            if refuses(ranges, &entry.service, entry.client) {
                entry.told.refuse();
            }
        }
    }
}

impl Told {
    fn refuse(&self) {
        self.refused.store(true, Ordering::Release);
        self.reader.wake();
        self.writer.wake();
    }

    fn is_refused(&self) -> bool {
        self.refused.load(Ordering::Acquire)
    }
}

/// A client with a connection.
#[derive(Debug)]
pub(crate) struct Guest {
    guests: Guests,
    number: u64,
    told: Arc<Told>,
}

impl Guest {
    /// Returns what tells later whether the client was sent away.
    pub(crate) fn fate(&self) -> Fate {
        Fate(Arc::clone(&self.told))
    }

    /// # Errors
    ///
    /// The client has been sent away.
    pub(super) fn check(&self) -> io::Result<()> {
        match self.told.is_refused() {
            true => Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                Failure::Refused.meaning(),
            )),
            false => Ok(()),
        }
    }

    /// Wakes a reader that finds nothing to read when the client is sent away.
    pub(super) fn await_as_reader(&self, context: &Context<'_>) -> io::Result<()> {
        self.told.reader.register(context.waker());
        self.check()
    }

    /// The same for a writer that finds no room.
    pub(super) fn await_as_writer(&self, context: &Context<'_>) -> io::Result<()> {
        self.told.writer.register(context.waker());
        self.check()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut present = self.guests.0.lock().unwrap_or_else(PoisonError::into_inner);
        present.guests.remove(&self.number);
    }
}

/// Whether a client was sent away.
#[derive(Debug)]
pub(crate) struct Fate(Arc<Told>);

impl Fate {
    pub(crate) fn is_refused(&self) -> bool {
        self.0.is_refused()
    }
}

#[cfg(test)]
#[expect(
    clippy::unwrap_used,
    reason = "a test may panic where its set-up fails"
)]
mod tests {
    use std::time::Duration;

    use bytes::BytesMut;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        time::timeout,
    };

    use super::*;
    use crate::{
        config::model::{Forwarding, Protocol, Rule},
        control::{
            state::{Author, ClientsWish, DesiredState},
            testing::{self, ip, now},
        },
        proxy::prefixed::Prefixed,
    };

    /// A site with a service of the proxy.
    fn site() -> DesiredState {
        let mut config = testing::ras();
        let mut web = testing::service("web", "10.0.0.100", 443, "ras");
        web.protocol = Protocol::Tcp;
        web.forwarding = Forwarding::Tcp;
        config.services.push(Arc::new(web));
        testing::first_start(config)
    }

    fn block(state: &mut DesiredState, prefix: &str) {
        let wish = ClientsWish {
            service: Some("web".to_owned()),
            prefixes: vec![prefix.parse().unwrap()],
            to: Some(Rule::Block),
        };
        let author = Author {
            by: "root".to_owned(),
            at: now(),
            reason: None,
        };
        state.change_clients(&wish, &author).unwrap();
    }

    #[tokio::test]
    async fn a_client_that_is_blocked_loses_what_it_has_and_others_do_not() {
        let mut state = site();
        let guests = Guests::default();
        guests.pass(&state.client_ranges);
        let enter = |client: &str| {
            let (near, far) = tokio::io::duplex(8);
            let guest = guests.enter(&"web".into(), ip(client));
            let fate = guest.fate();
            let stream = Prefixed::new(BytesMut::new(), near).of(guest);
            (stream, far, fate)
        };
        let (mut reading, _far, fate) = enter("10.9.9.9");
        let (mut writing, _full, _) = enter("10.9.9.9");
        let (mut other, mut others_end, others_fate) = enter("10.8.8.8");
        let reader = tokio::spawn(async move { reading.read_u8().await.err() });
        let writer = tokio::spawn(async move { writing.write_all(&[0; 64]).await.err() });
        tokio::task::yield_now().await;

        block(&mut state, "10.9.0.0/16");
        guests.pass(&state.client_ranges);
        guests.pass(&state.client_ranges);

        for task in [reader, writer] {
            let error = timeout(Duration::from_secs(10), task).await;
            let error = error.expect("it is woken").unwrap().expect("it ends");
            assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
        }
        assert!(fate.is_refused() && !others_fate.is_refused());
        others_end.write_all(b"x").await.unwrap();
        assert_eq!(other.read_u8().await.unwrap(), b'x');
        drop(other);
        assert!(guests.0.lock().unwrap().guests.is_empty());
    }

    #[test]
    fn a_service_refuses_by_its_own_list_alone() {
        let mut state = site();
        block(&mut state, "10.9.0.0/16");
        let asked = |service, client| refuses(&state.client_ranges, service, ip(client));

        assert!(asked("web", "10.9.1.1"));
        assert!(!asked("web", "10.8.1.1"));
        assert!(!asked("ras-udp", "10.9.1.1"));
        assert!(!asked("gone", "10.9.1.1"));
    }
}
