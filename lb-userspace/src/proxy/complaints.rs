//! Which complaints are made in the log, and which would only repeat it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// The same complaint is made once in so long: a backend that refuses each of a thousand requests a
/// second is one thing to know.
const SILENCE: Duration = Duration::from_secs(60);
/// Subjects that are remembered.
const MOST: usize = 1024;

/// What a complaint is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Subject {
    /// The backend that is reached by an upstream of this number.
    Upstream(u64),
    /// Connections that cannot be accepted.
    Accept,
}

/// The complaints of all workers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Complaints(Arc<Mutex<HashMap<Subject, Instant>>>);

impl Complaints {
    /// Returns whether the log shall have a complaint; the next ones about `subject` may be left out.
    pub(crate) fn is_due(&self, subject: Subject) -> bool {
        let now = Instant::now();
        let mut made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if made
            .get(&subject)
            .is_some_and(|at| now.duration_since(*at) < SILENCE)
        {
            return false;
        }
        if made.len() >= MOST {
            made.retain(|_, at| now.duration_since(*at) < SILENCE);
        }
        if made.len() < MOST {
            made.insert(subject, now);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_complaint_is_made_again_after_a_while() {
        let complaints = Complaints::default();
        assert!(complaints.is_due(Subject::Upstream(1)));
        assert!(!complaints.is_due(Subject::Upstream(1)));
        assert!(complaints.is_due(Subject::Upstream(2)) && complaints.is_due(Subject::Accept));

        tokio::time::advance(SILENCE).await;
        assert!(complaints.is_due(Subject::Upstream(1)));
    }
}
