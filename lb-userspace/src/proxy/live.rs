//! Clients with connections: their affinity entries do not age while one lives.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    rc::Rc,
};

use lb_common::affinity::AffinityKey;
use tokio::sync::Notify;

use crate::dataplane::affinity::Clients;

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
    pub(crate) fn touch(&self, clients: &mut dyn Clients) {
        for key in self.0.borrow().keys() {
            if let Some((backend, _)) = clients.find(key) {
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
