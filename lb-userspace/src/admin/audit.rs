//! `GET /v1/audit`: whether the maps are as they should be.
//!
//! Packets, the sweeper and the daemon go on meanwhile, so a difference that is seen once may be
//! nothing but two moments. What looks wrong is looked at again until it looks right, or until
//! there has been time enough for everything that is under way to end: two passes of the sweeper.
//! Only what is wrong in the same way at the last look is told.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use lb_common::affinity::AffinityKey;
use tokio::sync::Mutex;

use super::api;
use crate::{
    control::{
        Handle, RequestError,
        audit::{self as judge, Belief, Finding, Tally},
    },
    dataplane::{
        DataplaneError,
        audit::{Auditor, Tuple},
    },
};

/// Time for what is under way to end, from the end of the first look.
const PATIENCE: Duration = Duration::from_secs(4);
/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(100);
/// Entries that are looked at again, and told.
const MOST: usize = 1000;

/// Why there is no audit.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// A map cannot be read.
    #[error(transparent)]
    Dataplane(#[from] DataplaneError),
    /// Control has ended.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The thread that looks has failed.
    #[error("the audit was not finished")]
    Unfinished,
}

/// Audits the data path of the daemon behind `handle`, in a thread that may block.
///
/// # Errors
///
/// [`AuditError`].
pub async fn audit(handle: &Handle) -> Result<api::Audit, AuditError> {
    // One at a time: each is as much work as the tables are large.
    static ALONE: Mutex<()> = Mutex::const_new(());
    let alone = ALONE.lock().await;
    let auditor = handle.look(|dataplane, _| dataplane.auditor()).await??;
    let handle = handle.clone();
    let job = move || {
        // Whoever asked may go away; the next one waits for the end all the same.
        let _alone = alone;
        let mut belief = || Ok(handle.look_blocking(Belief::of)??);
        look(&auditor, &mut belief, PATIENCE)
    };
    tokio::task::spawn_blocking(job)
        .await
        .map_err(|_| AuditError::Unfinished)?
}

/// Compares what `auditor` reads with what `belief` returns, which is asked at every look. What
/// looks wrong is given at least `patience` to come right.
///
/// # Errors
///
/// [`AuditError`] when a map cannot be read, or `belief` fails.
pub fn look(
    auditor: &Auditor,
    belief: &mut dyn FnMut() -> Result<Belief, AuditError>,
    patience: Duration,
) -> Result<api::Audit, AuditError> {
    let begun = Instant::now();
    let mut now = Look::new(auditor, belief()?);
    let mut seen = now.everything()?;
    let mut tally = Tally::default();
    tally.add(auditor.live(), now.belief.flows);
    // A pass of the sweeper through large tables takes long, as this look did.
    let deadline = Instant::now() + patience + begun.elapsed();
    while !seen.suspects.is_empty() || tally.judge().is_some() {
        if Instant::now() >= deadline {
            break;
        }
        std::thread::sleep(PAUSE);
        now = Look::new(auditor, belief()?);
        seen.suspects = now.again(&seen.suspects)?;
        if tally.judge().is_some() {
            tally.add(auditor.live(), now.belief.flows);
        }
    }
    let suspects = seen.suspects.into_values().flatten();
    let findings: Vec<api::Finding> = suspects.chain(tally.judge()).map(finding).collect();
    Ok(api::Audit {
        consistent: findings.is_empty(),
        findings,
        more: seen.more,
        complete: seen.complete,
        services: count(
            now.belief
                .wrote
                .services
                .keys()
                .filter(|key| key.protocol != 0),
        ),
        backends: count(now.belief.wrote.backends.keys()),
        flows: seen.flows,
        clients: seen.clients,
        took_ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
    })
}

fn count<T>(items: impl Iterator<Item = T>) -> u32 {
    u32::try_from(items.count()).unwrap_or(u32::MAX)
}

fn finding(finding: Finding) -> api::Finding {
    api::Finding {
        fault: finding.fault.label().to_owned(),
        place: finding.place.to_owned(),
        subject: finding.subject,
        detail: finding.detail,
        meaning: finding.fault.meaning().to_owned(),
    }
}

/// What is looked at again. It stays the same thing only while what makes it up does.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    /// The maps that the daemon alone writes.
    Maps,
    /// An entry of `slots`.
    Slot(u32),
    /// An interface, by name.
    Interface(String),
    /// A record, with the flow that it has.
    Record {
        index: u32,
        generation: u32,
        flow: Tuple,
    },
    /// A forward entry, with the record that it names.
    Entry {
        flow: Tuple,
        record: u32,
        generation: u32,
    },
    /// What is remembered of a client: address and group.
    Client([u8; 16], u32),
}

type Suspects = BTreeMap<Subject, Vec<Finding>>;

/// What the first look has seen.
#[derive(Default)]
struct Seen {
    suspects: Suspects,
    more: bool,
    complete: bool,
    flows: u32,
    clients: u32,
}

impl Seen {
    fn suspect(&mut self, subject: impl FnOnce() -> Subject, found: Vec<Finding>) {
        if found.is_empty() {
            return;
        }
        if self.suspects.len() < MOST {
            self.suspects.insert(subject(), found);
        } else {
            self.more = true;
        }
    }
}

/// One look at everything, or again at what looked wrong.
struct Look<'a> {
    auditor: &'a Auditor,
    belief: Belief,
    slots: BTreeMap<u32, lb_common::endpoint::EndpointKey>,
}

impl<'a> Look<'a> {
    fn new(auditor: &'a Auditor, belief: Belief) -> Self {
        Self {
            auditor,
            slots: belief.slots(),
            belief,
        }
    }

    fn everything(&self) -> Result<Seen, AuditError> {
        let auditor = self.auditor;
        let mut seen = Seen::default();
        let fixed = [Subject::Maps].into_iter();
        let slots = self.slots.keys().map(|&slot| Subject::Slot(slot));
        let interfaces = self.belief.interfaces.iter();
        let interfaces = interfaces.map(|(name, _)| Subject::Interface(name.clone()));
        for subject in fixed.chain(slots).chain(interfaces) {
            let found = self.judge(&subject)?;
            seen.suspect(|| subject, found);
        }
        for index in 0..auditor.records() {
            let claim = auditor.claim(index);
            if claim.state == lb_common::record::State::Free {
                continue;
            }
            let (subject, found) = self.record(index)?;
            seen.suspect(|| subject, found);
        }
        seen.complete = auditor.entries(|flow, entry| {
            seen.flows = seen.flows.saturating_add(1);
            let record = auditor.record(entry.record);
            let found = judge::entry(&self.belief, &self.slots, &flow, &entry, record.as_ref());
            let subject = || Subject::Entry {
                flow,
                record: entry.record,
                generation: entry.generation,
            };
            seen.suspect(subject, found);
            Ok(())
        })?;
        seen.complete &= auditor.clients(|key, held| {
            seen.clients = seen.clients.saturating_add(1);
            let found = judge::client(&self.belief, &key, &held);
            let subject = || Subject::Client(key.client, key.group);
            seen.suspect(subject, found.into_iter().collect());
            Ok(())
        })?;
        Ok(seen)
    }

    /// Looks again at what looked wrong, and returns what is wrong in the same way.
    fn again(&self, suspects: &Suspects) -> Result<Suspects, AuditError> {
        let mut left = Suspects::new();
        for (subject, former) in suspects {
            let mut found = self.judge(subject)?;
            found.retain(|now| former.iter().any(|former| former.is_same(now)));
            if !found.is_empty() {
                left.insert(subject.clone(), found);
            }
        }
        Ok(left)
    }

    fn judge(&self, subject: &Subject) -> Result<Vec<Finding>, AuditError> {
        let (auditor, belief) = (self.auditor, &self.belief);
        Ok(match subject {
            Subject::Maps => judge::maps(&belief.wrote, &belief.held),
            Subject::Slot(slot) => {
                // The endpoint may have gone meanwhile.
                let Some(wanted) = self.slots.get(slot) else {
                    return Ok(Vec::new());
                };
                let held = auditor.slot(*slot)?;
                judge::slot(*slot, wanted, held.as_ref())
                    .into_iter()
                    .collect()
            }
            Subject::Interface(name) => {
                let interfaces = belief.interfaces.iter();
                let mut found = Vec::new();
                for (name, index) in interfaces.filter(|(of, _)| of == name) {
                    let held = auditor.attached(*index)?;
                    found.extend(judge::attached(name, *index, auditor.program()?, held));
                }
                found
            }
            Subject::Record { index, .. } => {
                let (now, found) = self.record(*index)?;
                if now == *subject { found } else { Vec::new() }
            }
            Subject::Entry {
                flow,
                record,
                generation,
            } => match auditor.entry(flow)? {
                Some(entry) if (entry.record, entry.generation) == (*record, *generation) => {
                    let named = auditor.record(entry.record);
                    judge::entry(belief, &self.slots, flow, &entry, named.as_ref())
                }
                _ => Vec::new(),
            },
            Subject::Client(client, group) => {
                let key = AffinityKey {
                    client: *client,
                    group: *group,
                };
                let held = auditor.client(&key)?;
                let found = held.and_then(|held| judge::client(belief, &key, &held));
                found.into_iter().collect()
            }
        })
    }

    fn record(&self, index: u32) -> Result<(Subject, Vec<Finding>), AuditError> {
        // The record may change while its entry is read: then it is another one at the next look.
        let record = self.auditor.record(index).ok_or(AuditError::Unfinished)?;
        let flow = Tuple::of(&record);
        let entry = self.auditor.entry(&flow)?;
        let found = judge::record(&self.belief, &self.slots, index, &record, entry.as_ref());
        let subject = Subject::Record {
            index,
            generation: lb_common::record::Claim::unpack(record.claim).generation,
            flow,
        };
        Ok((subject, found))
    }
}
