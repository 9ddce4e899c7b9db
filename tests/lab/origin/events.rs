//! Server-sent events that a test releases one by one.

use std::{
    sync::{
        Condvar, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

/// How often a reader looks whether it still has somebody to tell.
const POLL: Duration = Duration::from_millis(20);

#[derive(Debug, Default)]
pub(super) struct Events {
    state: Mutex<State>,
    changed: Condvar,
    readers: AtomicUsize,
}

#[derive(Debug, Default)]
struct State {
    sent: Vec<String>,
    /// How often the answers were ended.
    ends: usize,
}

/// What a reader finds next.
pub(super) enum Next {
    Event(String),
    End,
    /// Nothing, and the reader shall see whether anybody still listens.
    Nothing,
}

/// How far one reader has come.
pub(super) struct Reader<'a> {
    events: &'a Events,
    next: usize,
    ends: usize,
}

impl Events {
    pub(super) fn send(&self, data: &str) {
        self.change(|state| state.sent.push(data.to_owned()));
    }

    pub(super) fn end(&self) {
        self.change(|state| state.ends += 1);
    }

    pub(super) fn readers(&self) -> usize {
        self.readers.load(Ordering::Relaxed)
    }

    pub(super) fn reader(&self) -> Reader<'_> {
        self.readers.fetch_add(1, Ordering::Relaxed);
        let state = self.state.lock().expect("nobody panics with the lock");
        Reader {
            events: self,
            next: state.sent.len(),
            ends: state.ends,
        }
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().expect("nobody panics with the lock"));
        self.changed.notify_all();
    }
}

impl Reader<'_> {
    pub(super) fn next(&mut self) -> Next {
        let state = self
            .events
            .state
            .lock()
            .expect("nobody panics with the lock");
        let nothing_new =
            |state: &mut State| state.sent.len() == self.next && state.ends == self.ends;
        let (state, _) = self
            .events
            .changed
            .wait_timeout_while(state, POLL, nothing_new)
            .expect("nobody panics with the lock");
        if let Some(event) = state.sent.get(self.next) {
            self.next += 1;
            Next::Event(event.clone())
        } else if state.ends > self.ends {
            Next::End
        } else {
            Next::Nothing
        }
    }
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        self.events.readers.fetch_sub(1, Ordering::Relaxed);
    }
}
