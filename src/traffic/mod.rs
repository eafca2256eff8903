//! What is counted of the traffic: plain numbers that each worker writes alone.
//!
//! A worker has a [`WorkerTraffic`], and of each backend a [`Traffic`] of its own. A [`Counter`] has
//! one writer, so that counting is an ordinary addition: no lock, no locked instruction, and no
//! cache line that another worker writes. A sum is made when it is asked for, from the counters of
//! all workers ([`Totals`], [`ProcessTotals`]); it may be a request ahead of one made before it.
//!
//! What counts as what is said in `admin/documents.md`, "Traffic"; where it is counted, in
//! `exchange/record.rs`.

pub(crate) mod histogram;

use std::sync::atomic::Ordering;

use crate::net::atomic::AtomicU64;
use crate::traffic::histogram::{Durations, Histogram};

/// A number that one thread writes and that all may read.
#[derive(Debug)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) const fn new() -> Counter {
        Counter(AtomicU64::new(0))
    }

    /// Adds; only the thread to which the counter belongs does.
    pub(crate) fn add(&self, number: u64) {
        self.0
            .store(self.get().wrapping_add(number), Ordering::Relaxed);
    }

    /// Takes one away, for what is counted as it stands.
    fn take_one(&self) {
        self.0.store(self.get().wrapping_sub(1), Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How a request failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FailureKind {
    ConnectFailed,
    ConnectTimedOut,
    /// A connection ended before a response head.
    Died,
    HeadTimedOut,
    /// What came instead of a response head cannot be forwarded.
    BadAnswer,
    /// A response ended in its midst, or did not go on in time.
    BrokeOff,
    /// No backend may take it. Not a backend's.
    NoBackend,
    /// This process was short of descriptors, ports or memory. Not a backend's.
    Shortage,
}

/// The kinds by name, in their order.
pub(crate) const FAILURE_KINDS: [&str; 8] = [
    "connect_failed",
    "connect_timed_out",
    "died",
    "head_timed_out",
    "bad_answer",
    "broke_off",
    "no_backend",
    "shortage",
];

/// So many of them can be a backend's.
pub(crate) const BACKEND_FAILURES: usize = FailureKind::NoBackend as usize;

/// The classes of a status by name, in their order.
pub(crate) const STATUS_CLASSES: [&str; 6] = ["1xx", "2xx", "3xx", "4xx", "5xx", "other"];

/// The states of a client's connection: no request has begun; a request or its answer is under way;
/// upgraded, or in tcp mode; answered, the client's end is waited for.
pub(crate) const CONNECTION_STATES: [&str; 4] = ["idle", "exchanging", "tunnels", "closing"];

/// The states that are counted when a connection enters them. Idle connections are counted by their
/// list, and the others are in an exchange: so no request costs a count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Apart {
    Tunnel,
    Closing,
}

/// Reasons for which a client's connection is closed; `exchange/close_reason.rs` has them.
pub(crate) const CLOSE_REASONS: usize = 18;

/// The places of the counters in their list.
const REQUESTS: usize = 0;
const RETRIES: usize = 1;
const FAILURES: usize = 2;
const ANSWERS: usize = FAILURES + FAILURE_KINDS.len();
const COUNTS: usize = ANSWERS + STATUS_CLASSES.len();

/// The place of the counter of a status.
fn place_of(status: u16) -> usize {
    let class = usize::from(status / 100).clamp(1, STATUS_CLASSES.len());
    ANSWERS + class - 1
}

/// What one worker has counted of all requests, or of those to one backend. Aligned so that no
/// other worker's is in its cache lines, nor in those that a processor fetches with them.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Traffic {
    counts: [Counter; COUNTS],
    head: Histogram,
}

impl Default for Traffic {
    fn default() -> Traffic {
        Traffic {
            counts: [const { Counter::new() }; COUNTS],
            head: Histogram::default(),
        }
    }
}

impl Traffic {
    /// Counts a request of a client, or a try that begins.
    pub(crate) fn request(&self) {
        self.counts[REQUESTS].add(1);
    }

    /// Counts a try that is not the first of its request.
    pub(crate) fn retry(&self) {
        self.counts[RETRIES].add(1);
    }

    /// Counts a failure.
    pub(crate) fn failure(&self, kind: FailureKind) {
        self.counts[FAILURES + kind as usize].add(1);
    }

    /// Counts a response by its status.
    pub(crate) fn answer(&self, status: u16) {
        self.counts[place_of(status)].add(1);
    }

    /// Counts a backend's response, here for all requests and in `own` for that backend, with the
    /// time to its head from the request and from the choice of the backend, in microseconds.
    pub(crate) fn answer_of(&self, own: &Traffic, status: u16, [all_us, own_us]: [u64; 2]) {
        let class = place_of(status);
        self.counts[class].add(1);
        own.counts[class].add(1);
        self.head.add_both(all_us, &own.head, own_us);
    }
}

/// What one worker has counted.
#[derive(Debug)]
pub(crate) struct WorkerTraffic {
    /// Of all requests.
    pub(crate) all: Traffic,
    /// The worker's place among the workers, from 0.
    pub(crate) worker: usize,
    /// The time of each exchange, to its end.
    pub(crate) duration: Histogram,
    /// The time of each wait in the queue, however it ended.
    pub(crate) queued: Histogram,
    /// Requests for which there was no room in the queue, and whose time there ran out.
    pub(crate) queue_full: Counter,
    pub(crate) queue_timed_out: Counter,
    /// Client connections taken over.
    pub(crate) accepted: Counter,
    closed: [Counter; CLOSE_REASONS],
    idle: Counter,
    apart: [Counter; 2],
    /// Bytes from and to clients, in exchanges that have ended.
    pub(crate) received_bytes: Counter,
    pub(crate) sent_bytes: Counter,
}

impl WorkerTraffic {
    /// Of the worker at this place.
    pub(crate) fn of(worker: usize) -> WorkerTraffic {
        WorkerTraffic {
            all: Traffic::default(),
            worker,
            duration: Histogram::default(),
            queued: Histogram::default(),
            queue_full: Counter::new(),
            queue_timed_out: Counter::new(),
            accepted: Counter::new(),
            closed: [const { Counter::new() }; CLOSE_REASONS],
            idle: Counter::new(),
            apart: [const { Counter::new() }; 2],
            received_bytes: Counter::new(),
            sent_bytes: Counter::new(),
        }
    }

    /// Says how many connections are idle.
    pub(crate) fn set_idle(&self, number: usize) {
        self.idle.0.store(number as u64, Ordering::Relaxed);
    }

    /// A connection changes its state.
    pub(crate) fn moved(&self, from: Option<Apart>, to: Option<Apart>) {
        if let Some(from) = from {
            self.apart[from as usize].take_one();
        }
        if let Some(to) = to {
            self.apart[to as usize].add(1);
        }
    }

    /// A connection has ended, for a reason given by its place.
    pub(crate) fn closed(&self, state: Option<Apart>, reason: usize) {
        self.moved(state, None);
        if let Some(counter) = self.closed.get(reason) {
            counter.add(1);
        }
    }
}

/// What all workers have counted of all requests, or of those to one backend.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    counts: [u64; COUNTS],
    /// The times to a response's head.
    pub(crate) head: Durations,
}

impl Totals {
    /// The sum over all workers.
    pub(crate) fn of<'a>(workers: impl IntoIterator<Item = &'a Traffic>) -> Totals {
        let mut totals = Totals::default();
        for traffic in workers {
            totals.add(traffic);
        }
        totals
    }

    fn add(&mut self, traffic: &Traffic) {
        for (sum, count) in self.counts.iter_mut().zip(&traffic.counts) {
            *sum += count.get();
        }
        traffic.head.add_to(&mut self.head);
    }

    /// Requests of clients, or tries.
    pub(crate) fn requests(&self) -> u64 {
        self.counts[REQUESTS]
    }

    /// Tries that were not the first of their request.
    pub(crate) fn retries(&self) -> u64 {
        self.counts[RETRIES]
    }

    /// Failures by kind, as in [`FAILURE_KINDS`].
    pub(crate) fn failures(&self) -> &[u64] {
        &self.counts[FAILURES..ANSWERS]
    }

    /// All failures.
    pub(crate) fn failed(&self) -> u64 {
        self.failures().iter().sum()
    }

    /// Answers by class, as in [`STATUS_CLASSES`].
    pub(crate) fn answers(&self) -> &[u64] {
        &self.counts[ANSWERS..]
    }

    /// Answers with a status of 500 to 599.
    pub(crate) fn answers_5xx(&self) -> u64 {
        self.answers()[4]
    }
}

/// What all workers have counted.
#[derive(Debug, Default)]
pub(crate) struct ProcessTotals {
    /// Of all requests.
    pub(crate) all: Totals,
    /// The times of exchanges, to their ends.
    pub(crate) duration: Durations,
    /// The times of waits in the queue.
    pub(crate) queued: Durations,
    /// Requests that found the queue full, and whose time in it ran out.
    pub(crate) queue_refused: [u64; 2],
    /// Client connections taken over.
    pub(crate) accepted: u64,
    /// Those that have ended, by the place of the reason.
    pub(crate) closed: [u64; CLOSE_REASONS],
    /// Those that are open, as in [`CONNECTION_STATES`].
    pub(crate) connections: [u64; CONNECTION_STATES.len()],
    /// Bytes from and to clients, in exchanges that have ended.
    pub(crate) received_bytes: u64,
    pub(crate) sent_bytes: u64,
}

impl ProcessTotals {
    /// Adds what one worker has counted.
    pub(crate) fn add(&mut self, worker: &WorkerTraffic) {
        self.all.add(&worker.all);
        worker.duration.add_to(&mut self.duration);
        worker.queued.add_to(&mut self.queued);
        self.queue_refused[0] += worker.queue_full.get();
        self.queue_refused[1] += worker.queue_timed_out.get();
        let mut open = worker.accepted.get();
        self.accepted += open;
        for (sum, count) in self.closed.iter_mut().zip(&worker.closed) {
            *sum += count.get();
            open = open.saturating_sub(count.get());
        }
        let [tunnels, closing] = [worker.apart[0].get(), worker.apart[1].get()];
        let idle = worker.idle.get().min(open);
        // All were read one after the other while the worker went on.
        let exchanging = open.saturating_sub(idle + tunnels + closing);
        let states = [idle, exchanging, tunnels, closing];
        for (sum, number) in self.connections.iter_mut().zip(states) {
            *sum += number;
        }
        self.received_bytes += worker.received_bytes.get();
        self.sent_bytes += worker.sent_bytes.get();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_status_counts_in_its_class_and_one_that_has_none_apart() {
        let traffic = Traffic::default();
        for status in [100, 199, 200, 204, 301, 404, 499, 500, 599, 600, 999] {
            traffic.answer(status);
        }
        assert_eq!(Totals::of([&traffic]).answers(), [2, 2, 1, 2, 2, 2]);
        assert_eq!(Totals::of([&traffic]).answers_5xx(), 2);
        let (none, most) = (Traffic::default(), Traffic::default());
        none.answer(0);
        most.answer(u16::MAX);
        assert_eq!(Totals::of([&none, &most]).answers(), [1, 0, 0, 0, 0, 1]);
    }

    #[test]
    fn the_sums_are_over_all_workers_and_each_counter_is_its_own() {
        use FailureKind::{BadAnswer, BrokeOff, ConnectFailed, ConnectTimedOut};
        use FailureKind::{Died, HeadTimedOut, NoBackend, Shortage};
        let all = [
            ConnectFailed,
            ConnectTimedOut,
            Died,
            HeadTimedOut,
            BadAnswer,
            BrokeOff,
            NoBackend,
            Shortage,
        ];
        assert_eq!(all.len(), FAILURE_KINDS.len());
        let workers = [Traffic::default(), Traffic::default()];
        for (times, kind) in all.into_iter().enumerate() {
            for _ in 0..=times {
                workers[times % 2].failure(kind);
            }
        }
        workers.iter().for_each(Traffic::request);
        workers[1].retry();
        let of_backend = Traffic::default();
        workers[1].answer_of(&of_backend, 200, [3, 3]);
        workers[1].answer_of(&of_backend, 204, [65, 1]);
        let totals = Totals::of(&workers);
        assert_eq!(totals.failures(), [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(totals.failed(), 36);
        assert_eq!((totals.requests(), totals.retries()), (2, 1));
        assert_eq!(totals.answers(), [0, 2, 0, 0, 0, 0]);
        assert_eq!((totals.head.buckets[0], totals.head.buckets[1]), (1, 1));
        let own = Totals::of([&of_backend]);
        assert_eq!((own.answers()[1], own.requests(), own.failed()), (2, 0, 0));
        assert_eq!((own.head.buckets[0], own.head.sum_us), (2, 4));
    }

    #[test]
    fn a_connection_is_counted_in_one_state_at_a_time() {
        let worker = WorkerTraffic::of(0);
        let states = |worker: &WorkerTraffic| {
            let mut totals = ProcessTotals::default();
            totals.add(worker);
            assert_eq!(totals.accepted, 7);
            totals.connections
        };
        worker.accepted.add(7);
        assert_eq!(states(&worker), [0, 7, 0, 0]);
        worker.set_idle(2);
        worker.moved(None, Some(Apart::Tunnel));
        worker.moved(None, Some(Apart::Tunnel));
        worker.moved(Some(Apart::Tunnel), Some(Apart::Closing));
        assert_eq!(states(&worker), [2, 3, 1, 1]);
        worker.closed(Some(Apart::Closing), 0);
        worker.closed(None, CLOSE_REASONS - 1);
        assert_eq!(states(&worker), [2, 2, 1, 0]);
        worker.set_idle(100);
        assert_eq!(
            states(&worker),
            [5, 0, 1, 0],
            "said before they were closed"
        );
    }

    #[test]
    fn no_two_workers_share_a_cache_line() {
        assert_eq!(align_of::<Traffic>(), 128);
        assert_eq!(align_of::<WorkerTraffic>(), 128);
    }
}
