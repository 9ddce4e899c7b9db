//! Clients with connections: their affinity entries do not age while one lives.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    rc::Rc,
};

use lb_common::affinity::{AffinityKey, TOUCH_S};
use tokio::sync::Notify;

use crate::dataplane::affinity::Clients;

/// Entries are touched twice in [`TOUCH_S`] seconds, so that one which is left out at this age is not
/// older than that at the next time.
const YOUNG_S: u32 = TOUCH_S / 4;

/// The clients that have connections in this worker, and how many.
#[derive(Debug, Default)]
pub(crate) struct Live(RefCell<HashMap<AffinityKey, u32>>);

impl Live {
    /// Keeps a client's entry young until the returned value is dropped.
    pub(crate) fn enter(self: &Rc<Self>, key: AffinityKey) -> LiveClient {
        *self.0.borrow_mut().entry(key).or_default() += 1;
        LiveClient {
            live: Rc::clone(self),
            key,
        }
    }

    /// Marks the entries of all of them as seen now.
    ///
    /// One that is young is left alone: its client may just have been moved by somebody else.
    pub(crate) fn touch(&self, clients: &mut dyn Clients) {
        for key in self.0.borrow().keys() {
            if let Some((backend, age_s)) = clients.find(key)
                && age_s >= YOUNG_S
            {
                clients.remember(key, backend, true);
            }
        }
    }
}

/// A client that has a connection.
#[derive(Debug)]
pub(crate) struct LiveClient {
    live: Rc<Live>,
    key: AffinityKey,
}

impl LiveClient {
    /// Returns what its entry is found by.
    pub(crate) fn key(&self) -> &AffinityKey {
        &self.key
    }
}

impl Drop for LiveClient {
    fn drop(&mut self) {
        let mut live = self.live.0.borrow_mut();
        if let Some(count) = live.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                live.remove(&self.key);
            }
        }
    }
}

/// Connections that end when their backend goes out of service, by backend number.
#[derive(Debug, Default)]
pub(crate) struct Bound(RefCell<BTreeMap<u16, Rc<Notify>>>);

impl Bound {
    /// Returns what tells the connections of a backend that it is out of service.
    pub(crate) fn to(&self, backend: u16) -> Rc<Notify> {
        Rc::clone(self.0.borrow_mut().entry(backend).or_default())
    }

    /// Ends the connections of the backends that `serves` refuses.
    pub(crate) fn end(&self, serves: impl Fn(u16) -> bool) {
        self.0.borrow_mut().retain(|&backend, told| {
            if !serves(backend) {
                told.notify_waiters();
            }
            Rc::strong_count(told) > 1
        });
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Entries by the last byte of the client's address: backend and age in seconds.
    struct Fake(BTreeMap<u8, (u16, u32)>);

    impl Clients for Fake {
        fn find(&self, key: &AffinityKey) -> Option<(u16, u32)> {
            self.0.get(&key.client[15]).copied()
        }

        fn remember(&mut self, key: &AffinityKey, backend: u16, _replace: bool) -> bool {
            self.0.insert(key.client[15], (backend, 0));
            true
        }
    }

    fn key(number: u8) -> AffinityKey {
        let mut key = AffinityKey::default();
        key.client[15] = number;
        key
    }

    #[test]
    fn entries_stay_young_while_their_clients_live() {
        let live = Rc::<Live>::default();
        let mut clients = Fake([(1, (7, 9)), (2, (7, YOUNG_S - 1)), (3, (7, 9))].into());
        let first = live.enter(key(1));
        let second = live.enter(key(1));
        let _young = live.enter(key(2));
        let _forgotten = live.enter(key(4));

        drop(first);
        live.touch(&mut clients);
        assert_eq!(
            clients.0,
            [(1, (7, 0)), (2, (7, YOUNG_S - 1)), (3, (7, 9))].into()
        );

        drop(second);
        clients.0.insert(1, (7, 9));
        live.touch(&mut clients);
        assert_eq!(clients.0[&1], (7, 9));
    }

    #[tokio::test]
    async fn the_connections_of_a_backend_out_of_service_are_told() {
        let bound = Bound::default();
        let (one, other) = (bound.to(1), bound.to(2));
        let (told, not_told) = (one.notified(), other.notified());

        bound.end(|backend| backend != 1);

        told.await;
        let waits = tokio::time::timeout(std::time::Duration::ZERO, not_told);
        assert!(waits.await.is_err());
    }
}
