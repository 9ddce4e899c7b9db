//! Steady traffic with numbered datagrams, and what became of each.

use std::{
    collections::BTreeSet,
    io,
    net::SocketAddr,
    os::fd::AsRawFd,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use socket2::SockRef;

use super::{backends::Answer, clients::UdpClient, eventually::holds_within};

/// Answers still count when they come this long after the last datagram was sent.
const LAST_ANSWERS: Duration = Duration::from_secs(2);
/// Datagrams sent at once at most: the queues of a veth pair take 256.
const BURST: u64 = 32;
/// A sender that was held up for longer than this does not make up for it.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long the sender rests between bursts.
const TICK: Duration = Duration::from_micros(500);

/// Traffic that flows until [`Load::finish`].
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    received: Arc<AtomicU64>,
    sender: JoinHandle<Sent>,
    receiver: JoinHandle<Vec<Received>>,
}

/// What became of the traffic.
#[derive(Clone, Debug)]
pub struct LoadReport {
    /// Datagrams sent.
    pub sent: u64,
    /// From the first datagram sent to the last.
    pub duration: Duration,
    /// Datagrams without an answer: number of the flow and of the datagram, both from 0.
    pub lost: Vec<(usize, u64)>,
    /// Answers that came more than once.
    pub duplicated: u64,
    /// Times that a port unreachable was reported to a client.
    pub refused: u64,
    /// Each flow, in the order of the clients given.
    pub flows: Vec<FlowReport>,
}

/// What was seen of one flow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlowReport {
    /// Names of the backends that answered.
    pub backends: BTreeSet<String>,
    /// Sources that the backends saw.
    pub sources: BTreeSet<SocketAddr>,
}

#[derive(Debug, Default)]
struct Sent {
    each: Vec<u64>,
    refused: u64,
    duration: Duration,
}

#[derive(Debug, Default)]
struct Received {
    numbers: BTreeSet<u64>,
    duplicated: u64,
    refused: u64,
    report: FlowReport,
}

impl Load {
    /// Starts to send `packets_per_second` datagrams in all, from each of `clients` in turn.
    ///
    /// One datagram of the first client goes ahead and is not counted: routers on the way keep only
    /// a few packets while they ask for a neighbour, and that loss is not what is measured.
    ///
    /// # Panics
    ///
    /// If there is no client, or that first datagram is not answered.
    #[must_use]
    #[track_caller]
    pub fn start(clients: Vec<UdpClient>, packets_per_second: u32) -> Self {
        clients
            .first()
            .expect("traffic needs a client")
            .ask("ahead");
        let clients = Arc::new(clients);
        let stop = Arc::new(AtomicBool::new(false));
        let all_sent = Arc::new(AtomicBool::new(false));
        let sent = Arc::new(AtomicU64::new(0));
        let received = Arc::new(AtomicU64::new(0));
        let sender = thread::spawn({
            let (clients, stop) = (Arc::clone(&clients), Arc::clone(&stop));
            let (sent, all_sent) = (Arc::clone(&sent), Arc::clone(&all_sent));
            move || {
                let result = send(&clients, packets_per_second, &stop, &sent);
                all_sent.store(true, Ordering::Release);
                result
            }
        });
        let receiver = thread::spawn({
            let (sent, received) = (Arc::clone(&sent), Arc::clone(&received));
            move || receive(&clients, &sent, &received, &all_sent)
        });
        Self {
            stop,
            sent,
            received,
            sender,
            receiver,
        }
    }

    /// Returns how many datagrams were sent so far.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Returns how many answers came so far.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Waits until `count` more answers have come.
    ///
    /// # Panics
    ///
    /// If they do not come within `bound`.
    #[track_caller]
    pub fn await_answers(&self, count: u64, bound: Duration) {
        let goal = self.received() + count;
        assert!(
            holds_within(bound, || self.received() >= goal),
            "{count} more answers did not come within {bound:?}: {} of {goal}, {} sent",
            self.received(),
            self.sent()
        );
    }

    /// Stops sending, waits for the last answers and tells what became of all.
    ///
    /// # Panics
    ///
    /// Passes on a panic of the sender or the receiver.
    #[must_use]
    pub fn finish(self) -> LoadReport {
        self.stop.store(true, Ordering::Relaxed);
        let sent = self.sender.join().expect("the sender does not panic");
        let received = self.receiver.join().expect("the receiver does not panic");
        let lost = sent
            .each
            .iter()
            .zip(&received)
            .enumerate()
            .flat_map(|(flow, (count, received))| {
                (0..*count)
                    .filter(|number| !received.numbers.contains(number))
                    .map(move |number| (flow, number))
            })
            .collect();
        LoadReport {
            sent: sent.each.iter().sum(),
            duration: sent.duration,
            lost,
            duplicated: received.iter().map(|received| received.duplicated).sum(),
            refused: sent.refused
                + received
                    .iter()
                    .map(|received| received.refused)
                    .sum::<u64>(),
            flows: received
                .into_iter()
                .map(|received| received.report)
                .collect(),
        }
    }
}

impl LoadReport {
    /// Checks that every datagram was answered exactly once.
    ///
    /// # Panics
    ///
    /// If one was not; the message says how many and the first of them.
    #[track_caller]
    pub fn assert_nothing_lost(&self) {
        let first = &self.lost[..self.lost.len().min(10)];
        assert!(
            self.lost.is_empty() && self.duplicated == 0 && self.refused == 0,
            "of {} datagrams {} were lost (first, as (flow, number): {first:?}), {} answered twice, \
             {} refused",
            self.sent,
            self.lost.len(),
            self.duplicated,
            self.refused
        );
    }

    /// Checks that each flow met one backend, from one source address and port.
    ///
    /// # Panics
    ///
    /// If one met more or none.
    #[track_caller]
    pub fn assert_nothing_moved(&self) {
        for (number, flow) in self.flows.iter().enumerate() {
            assert!(
                flow.backends.len() == 1 && flow.sources.len() == 1,
                "flow {number} did not stay where it was: {flow:?}"
            );
        }
    }

    /// Returns how many datagrams were sent in a second, on average.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.sent as f64 / self.duration.as_secs_f64()
    }
}

fn send(clients: &[UdpClient], rate: u32, stop: &AtomicBool, sent: &AtomicU64) -> Sent {
    let mut result = Sent {
        each: vec![0; clients.len()],
        ..Sent::default()
    };
    let mut next = 0;
    let (mut base, mut since_base) = (Instant::now(), 0_u64);
    let start = base;
    let most_behind = f64::from(rate) * PATIENCE.as_secs_f64();
    while !stop.load(Ordering::Relaxed) {
        let due = (base.elapsed().as_secs_f64() * f64::from(rate)) as u64;
        let behind = due.saturating_sub(since_base);
        if behind as f64 > most_behind {
            (base, since_base) = (Instant::now(), 0);
        }
        for _ in 0..behind.min(BURST) {
            let payload = format!("{next}.{}", result.each[next]);
            // An error is the port unreachable of an earlier datagram: this one was not sent.
            while clients[next].socket().send(payload.as_bytes()).is_err() {
                result.refused += 1;
            }
            result.each[next] += 1;
            next = (next + 1) % clients.len();
            since_base += 1;
            sent.fetch_add(1, Ordering::Relaxed);
        }
        thread::sleep(TICK);
    }
    result.duration = start.elapsed();
    result
}

fn receive(
    clients: &[UdpClient],
    sent: &AtomicU64,
    received: &AtomicU64,
    all_sent: &AtomicBool,
) -> Vec<Received> {
    let mut results: Vec<Received> = clients.iter().map(|_| Received::default()).collect();
    let mut polled: Vec<libc::pollfd> = clients
        .iter()
        .map(|client| libc::pollfd {
            fd: client.socket().as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        })
        .collect();
    let mut deadline = None;
    loop {
        if all_sent.load(Ordering::Acquire) {
            let end = *deadline.get_or_insert_with(|| Instant::now() + LAST_ANSWERS);
            let complete = received.load(Ordering::Relaxed) >= sent.load(Ordering::Relaxed);
            if complete || Instant::now() > end {
                return results;
            }
        }
        let count = polled.len() as libc::nfds_t;
        // SAFETY: the array is as long as is said, and lives through the call.
        let ready = unsafe { libc::poll(polled.as_mut_ptr(), count, 20) };
        if ready <= 0 {
            continue;
        }
        for (flow, (poll, result)) in polled.iter().zip(&mut results).enumerate() {
            if poll.revents != 0 {
                drain(&clients[flow], flow, result, received);
            }
        }
    }
}

fn drain(client: &UdpClient, flow: usize, result: &mut Received, received: &AtomicU64) {
    let mut buffer = [0; 2048];
    loop {
        let length = match receive_now(client, &mut buffer) {
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(_) => {
                result.refused += 1;
                continue;
            }
        };
        let answer = Answer::parse(&buffer[..length]).expect("backends are identity servers");
        let number = answer
            .payload
            .split_once('.')
            .filter(|(of, _)| of.parse() == Ok(flow))
            .and_then(|(_, number)| number.parse().ok())
            .unwrap_or_else(|| panic!("flow {flow} was given another one's answer: {answer:?}"));
        if result.numbers.insert(number) {
            received.fetch_add(1, Ordering::Relaxed);
        } else {
            result.duplicated += 1;
        }
        result.report.backends.insert(answer.backend);
        result.report.sources.insert(answer.source);
    }
}

fn receive_now(client: &UdpClient, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: initialised bytes may be written over; `recv` writes no uninitialised ones.
    let buffer = unsafe { &mut *(std::ptr::from_mut(buffer) as *mut [std::mem::MaybeUninit<u8>]) };
    SockRef::from(client.socket()).recv_with_flags(buffer, libc::MSG_DONTWAIT)
}
