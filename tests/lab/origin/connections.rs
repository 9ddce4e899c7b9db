//! The open connections of an origin, as others than their threads see them.

use std::{
    collections::BTreeMap,
    net::{Shutdown, TcpStream},
    sync::{Arc, Mutex},
};

use super::End;

/// The connections of an origin.
#[derive(Debug, Default)]
pub(super) struct Connections(Mutex<Counted>);

#[derive(Debug, Default)]
struct Counted {
    accepted: u64,
    open: BTreeMap<u64, Arc<Handle>>,
}

/// A connection in the hands of others than its thread.
#[derive(Debug)]
pub(super) struct Handle {
    number: u64,
    state: Mutex<HandleState>,
}

#[derive(Debug)]
struct HandleState {
    /// Gone when the connection's thread ends it.
    socket: Option<TcpStream>,
    asked: Option<End>,
}

impl Connections {
    pub(super) fn add(&self, socket: &TcpStream) -> Arc<Handle> {
        let mut counted = self.0.lock().expect("nobody panics with the lock");
        counted.accepted += 1;
        let handle = Arc::new(Handle {
            number: counted.accepted,
            state: Mutex::new(HandleState {
                socket: socket.try_clone().ok(),
                asked: None,
            }),
        });
        counted.open.insert(handle.number, Arc::clone(&handle));
        handle
    }

    pub(super) fn accepted(&self) -> u64 {
        self.0.lock().expect("nobody panics with the lock").accepted
    }

    pub(super) fn open(&self) -> usize {
        self.0
            .lock()
            .expect("nobody panics with the lock")
            .open
            .len()
    }

    pub(super) fn is_open(&self, number: u64) -> bool {
        self.0
            .lock()
            .expect("nobody panics with the lock")
            .open
            .contains_key(&number)
    }

    /// Asks every open connection to end; returns their numbers.
    pub(super) fn ask(&self, end: End) -> Vec<u64> {
        let counted = self.0.lock().expect("nobody panics with the lock");
        for handle in counted.open.values() {
            handle.ask(end);
        }
        counted.open.keys().copied().collect()
    }

    pub(super) fn remove(&self, number: u64) {
        self.0
            .lock()
            .expect("nobody panics with the lock")
            .open
            .remove(&number);
    }
}

impl Handle {
    /// Returns the number of the connection, counted from 1.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    fn ask(&self, end: End) {
        let mut state = self.state.lock().expect("nobody panics with the lock");
        state.asked = Some(end);
        if let Some(socket) = &state.socket {
            // Ends the thread's read and sends nothing: how the connection ends is the thread's to say.
            let _ = socket.shutdown(Shutdown::Read);
        }
    }

    /// Returns how the connection shall end, if somebody has asked for it.
    pub(super) fn asked(&self) -> Option<End> {
        self.state
            .lock()
            .expect("nobody panics with the lock")
            .asked
    }

    /// Closes the descriptor that is kept here, so that the thread's own is the last one.
    pub(super) fn release(&self) {
        self.state
            .lock()
            .expect("nobody panics with the lock")
            .socket = None;
    }
}
