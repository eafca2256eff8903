//! Why each exchange went to its backend: a bounded record in small codes.
//!
//! The pool records how it chose, the exchange how each try ended; both only store numbers in a
//! fixed place. The reader makes text of them. A [`Decision`] belongs to one exchange; each worker
//! keeps its last ones in a [`Decisions`] ring, which is locked only for a copy.
//!
//! Read next: `pool/mod.rs`, which decides what is recorded here.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::Duration;

use crate::net::lock::lock;
use crate::pool::settings::Method;
use crate::pool::state::BackendId;

/// Candidates recorded of one choice.
pub const CANDIDATES_MAX: usize = 16;
/// Tries recorded of one exchange.
pub const TRIES_MAX: usize = 8;
/// Exchanges recorded in each ring.
pub const DECISIONS_MAX: usize = 256;

/// How a backend stood at the last choice of an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Verdict {
    /// It could have been chosen.
    #[default]
    Eligible,
    /// It was chosen.
    Chosen,
    /// It was tried already.
    Tried,
    /// It had as many exchanges as it may have.
    Full,
    /// It is down.
    Down,
    /// It is a backup, and other backends are up.
    Backup,
    /// Its weight is 0.
    Weightless,
    /// An operator drains it.
    Draining,
    /// An operator disabled it.
    Disabled,
}

impl Verdict {
    /// All of them.
    pub const ALL: [Verdict; Verdict::COUNT] = [
        Verdict::Eligible,
        Verdict::Chosen,
        Verdict::Tried,
        Verdict::Full,
        Verdict::Down,
        Verdict::Backup,
        Verdict::Weightless,
        Verdict::Draining,
        Verdict::Disabled,
    ];

    /// How many there are.
    pub const COUNT: usize = 9;

    /// Whether it is for the state of the backend only, which a request may use.
    pub(in crate::pool) fn may_be_tried(self) -> bool {
        !matches!(
            self,
            Verdict::Weightless | Verdict::Draining | Verdict::Disabled
        )
    }

    /// For a reader.
    pub fn text(self) -> &'static str {
        match self {
            Verdict::Eligible => "eligible",
            Verdict::Chosen => "chosen",
            Verdict::Tried => "tried already",
            Verdict::Full => "full",
            Verdict::Down => "down",
            Verdict::Backup => "backup",
            Verdict::Weightless => "weight 0",
            Verdict::Draining => "draining",
            Verdict::Disabled => "disabled",
        }
    }
}

/// The rule by which a backend was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// The balancing method.
    Method(Method),
    /// The client's cookie is bound to it.
    Cookie,
    /// No backend was healthy: the unhealthy ones in turn.
    FailOpen,
    /// The same backend again, on a fresh connection.
    SameAgain,
    /// Many had failed: the next backend in the list.
    NextInList,
}

impl Default for Rule {
    fn default() -> Rule {
        Rule::Method(Method::RoundRobin)
    }
}

impl Rule {
    /// For a reader.
    pub fn text(self) -> &'static str {
        match self {
            Rule::Method(method) => method.reason(),
            Rule::Cookie => "the client's cookie",
            Rule::FailOpen => "none is healthy: each in turn",
            Rule::SameAgain => "the same again, on a fresh connection",
            Rule::NextInList => "many failed: the next in the list",
        }
    }
}

/// How a try ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Outcome {
    /// Nothing yet.
    #[default]
    Pending,
    /// A response head with this status arrived.
    Answered(u16),
    /// It refused the connection or was unreachable.
    ConnectFailed,
    /// The connection was not opened in time.
    ConnectTimedOut,
    /// A fresh connection ended before a response head.
    Died,
    /// A reused connection had been closed.
    ReusedEnded,
    /// No response head in time.
    HeadTimedOut,
    /// Its response head cannot be forwarded; [`Decision::reason`] says why.
    RefusedHead,
    /// What came instead of a response head is no HTTP.
    NotHttp,
    /// Its response broke off after it had begun.
    BrokeOff,
    /// The client was gone first.
    ClientGone,
    /// This process was short of descriptors, ports or memory.
    OurShortage,
}

impl Outcome {
    /// For a reader; a status is to be added to `Answered`.
    pub fn text(self) -> &'static str {
        match self {
            Outcome::Pending => "no outcome yet",
            Outcome::Answered(_) => "answered",
            Outcome::ConnectFailed => "connect failed",
            Outcome::ConnectTimedOut => "connect timed out",
            Outcome::Died => "ended before it answered",
            Outcome::ReusedEnded => "the reused connection had ended",
            Outcome::HeadTimedOut => "no response head in time",
            Outcome::RefusedHead => "its response head cannot be forwarded",
            Outcome::NotHttp => "its answer is not HTTP",
            Outcome::BrokeOff => "its answer broke off",
            Outcome::ClientGone => "the client was gone",
            Outcome::OurShortage => "we were short of descriptors, ports or memory",
        }
    }
}

/// The stages whose time is recorded, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// From the request's first byte to the end of its head.
    RequestHead,
    /// From the first choice to a connection that carried the request.
    Connecting,
    /// From there to the response head.
    ResponseHead,
    /// From there to the end of the response.
    ResponseBody,
    /// All of it.
    Total,
}

impl Stage {
    /// All of them.
    pub const ALL: [Stage; 5] = [
        Stage::RequestHead,
        Stage::Connecting,
        Stage::ResponseHead,
        Stage::ResponseBody,
        Stage::Total,
    ];

    /// For a reader.
    pub fn text(self) -> &'static str {
        match self {
            Stage::RequestHead => "request head",
            Stage::Connecting => "connecting",
            Stage::ResponseHead => "response head",
            Stage::ResponseBody => "response body",
            Stage::Total => "total",
        }
    }
}

/// A backend at the last choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Candidate {
    /// Its identity; `Pool::name` has the name, even after it was removed.
    pub backend: BackendId,
    /// Why it was or was not chosen.
    pub verdict: Verdict,
}

/// One try.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Try {
    /// The backend.
    pub backend: BackendId,
    /// Why this one.
    pub rule: Rule,
    /// How it ended.
    pub outcome: Outcome,
    /// When it began, in microseconds after the request's first byte.
    pub began_us: u32,
    /// From the choice to the outcome, in microseconds.
    pub took_us: u32,
}

/// The record of one exchange.
#[derive(Debug, Clone, Copy, Default)]
pub struct Decision {
    /// When it began, in milliseconds since 1970.
    pub at_unix_ms: u64,
    /// The client's address.
    pub client: Option<IpAddr>,
    /// The status that the client received.
    pub status: Option<u16>,
    /// Why the exchange failed or was cut, if it did.
    pub reason: Option<&'static str>,
    request_id: Brief<36>,
    request_line: Brief<64>,
    candidates: Few<Candidate, CANDIDATES_MAX>,
    /// Of the backends that are not among the candidates.
    others: [u32; Verdict::COUNT],
    tries: Few<Try, TRIES_MAX>,
    stages_us: [u32; Stage::ALL.len()],
    /// A bit for each stage that was reached.
    stages_reached: u8,
}

impl Decision {
    /// Clears the record for the next exchange.
    pub fn begin(
        &mut self,
        at_unix_ms: u64,
        client: IpAddr,
        request_id: &[u8],
        request_line: &[u8],
    ) {
        self.clear();
        self.at_unix_ms = at_unix_ms;
        self.client = Some(client);
        self.request_id.set(request_id);
        self.request_line.set(request_line);
    }

    /// Resets the counters only: stale elements beyond them are never read.
    pub fn clear(&mut self) {
        self.at_unix_ms = 0;
        self.client = None;
        self.status = None;
        self.reason = None;
        self.request_id.length = 0;
        self.request_line.length = 0;
        self.begin_choice(&[]);
        self.tries.clear();
        self.stages_us = Default::default();
        self.stages_reached = 0;
    }

    /// Begins another choice, with how each backend stands if there are few.
    pub fn begin_choice(&mut self, candidates: &[Candidate]) {
        self.candidates.set(candidates);
        self.others = [0; Verdict::COUNT];
    }

    /// Begins another choice among many backends, of which so many stand how.
    pub fn begin_choice_of_many(&mut self, stand: &[u32; Verdict::COUNT]) {
        self.candidates.clear();
        self.others = *stand;
    }

    /// Shows one of many backends, which is counted as standing like this.
    pub fn shows(&mut self, backend: BackendId, stands: Verdict) {
        let mut known = self.candidates.get().0.iter();
        if known.all(|candidate| candidate.backend != backend)
            && usize::from(self.candidates.length) < CANDIDATES_MAX
        {
            self.stands(backend, stands);
            let count = &mut self.others[stands as usize];
            *count = count.saturating_sub(1);
        }
    }

    /// Records that a backend is passed over because it was tried.
    pub fn tried(&mut self, backend: BackendId) {
        let mut candidates = self.candidates.iter_mut();
        if let Some(candidate) = candidates.find(|candidate| candidate.backend == backend) {
            candidate.verdict = Verdict::Tried;
        }
    }

    /// Records the verdict on a backend.
    pub fn stands(&mut self, backend: BackendId, verdict: Verdict) {
        self.candidates.push(Candidate { backend, verdict });
    }

    /// Records that a backend was chosen; its try begins.
    pub fn chosen(&mut self, backend: BackendId, rule: Rule) {
        for candidate in self.candidates.iter_mut() {
            if candidate.backend == backend {
                candidate.verdict = Verdict::Chosen;
            } else if candidate.verdict == Verdict::Chosen {
                // It was chosen in an earlier choice, and this one did not look at the others
                // again.
                candidate.verdict = Verdict::Tried;
            }
        }
        self.tries.push(Try {
            backend,
            rule,
            ..Try::default()
        });
    }

    /// Records when the last try began, after the request's first byte.
    pub fn began(&mut self, after: Duration) {
        if self.tries.more > 0 {
            return; // that try found no room
        }
        if let Some(last) = self.tries.iter_mut().next_back() {
            last.began_us = micros(after);
        }
    }

    /// Records how the last try ended, and how long after the choice.
    pub fn outcome(&mut self, outcome: Outcome, took: Duration) {
        if self.tries.more > 0 {
            return; // that try found no room
        }
        if let Some(last) = self.tries.iter_mut().next_back() {
            last.outcome = outcome;
            last.took_us = micros(took);
        }
    }

    /// Records how long a stage took.
    pub fn stage(&mut self, stage: Stage, took: Duration) {
        self.stages_us[stage as usize] = micros(took);
        self.stages_reached |= 1 << stage as u8;
    }

    /// How long a stage took, in microseconds; 0 for one that was not reached.
    pub fn stage_us(&self, stage: Stage) -> u32 {
        self.stages_us[stage as usize]
    }

    /// Whether a stage was reached.
    pub fn has_reached(&self, stage: Stage) -> bool {
        (self.stages_reached >> stage as u8) & 1 == 1
    }

    /// The first bytes of the request's id, unescaped: not fit for a log.
    pub fn request_id(&self) -> &[u8] {
        self.request_id.get()
    }

    /// The first bytes of the request line, unescaped: not fit for a log.
    pub fn request_line(&self) -> &[u8] {
        self.request_line.get()
    }

    /// The verdicts of the last choice, and how many more there were.
    pub fn candidates(&self) -> (&[Candidate], usize) {
        let (candidates, more) = self.candidates.get();
        let others: u32 = self.others.iter().sum();
        (candidates, more + others as usize)
    }

    /// How many of the backends that are not among the candidates stood how at the last choice;
    /// those beyond the first few that were tried count as they stood without that.
    pub fn others(&self) -> impl Iterator<Item = (Verdict, u32)> {
        let counts = Verdict::ALL.into_iter().zip(self.others);
        counts.filter(|(_, count)| *count > 0)
    }

    /// The tries, and how many more there were.
    pub fn tries(&self) -> (&[Try], usize) {
        self.tries.get()
    }

    /// The last choice as one line: the backend, the rule, and why others were passed over.
    pub fn choice_text<N: AsRef<str>>(&self, name: impl Fn(BackendId) -> N) -> String {
        let mut text = String::new();
        let (tries, _) = self.tries();
        match tries.last() {
            Some(last) => {
                text.push_str(name(last.backend).as_ref());
                text.push_str(": ");
                text.push_str(last.rule.text());
            }
            None => text.push_str("no backend"),
        }
        let (candidates, _) = self.candidates();
        let mut before = "; passed over: ";
        for candidate in candidates {
            if !matches!(candidate.verdict, Verdict::Chosen | Verdict::Eligible) {
                // Writing to a String cannot fail.
                let _ = write!(
                    text,
                    "{before}{} ({})",
                    name(candidate.backend).as_ref(),
                    candidate.verdict.text()
                );
                before = ", ";
            }
        }
        before = "; others: ";
        for (verdict, count) in self.others() {
            let _ = write!(text, "{before}{count} {}", verdict.text());
            before = ", ";
        }
        text
    }
}

/// The last exchanges of one worker.
#[derive(Debug, Default)]
pub struct Decisions(Mutex<Ring>);

#[derive(Debug)]
struct Ring {
    kept: Vec<Decision>,
    /// The oldest, once the ring is full.
    next: usize,
}

impl Default for Ring {
    fn default() -> Self {
        Ring {
            // Allocated at the start: a later allocation that stays would keep the memory below it
            // from being given back.
            kept: Vec::with_capacity(DECISIONS_MAX),
            next: 0,
        }
    }
}

impl Decisions {
    /// Bytes of a ring.
    pub(crate) const BYTES: usize = DECISIONS_MAX * size_of::<Decision>();

    /// Adds a record; the oldest goes when there are [`DECISIONS_MAX`].
    pub fn push(&self, decision: &Decision) {
        let mut ring = lock(&self.0);
        if ring.kept.len() < DECISIONS_MAX {
            ring.kept.push(*decision);
            return;
        }
        let next = ring.next;
        ring.kept[next] = *decision;
        ring.next = (next + 1) % DECISIONS_MAX;
    }

    /// A copy, the oldest first.
    pub fn snapshot(&self) -> Vec<Decision> {
        let ring = lock(&self.0);
        let (newer, older) = ring.kept.split_at(ring.next);
        [older, newer].concat()
    }
}

fn micros(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}

/// Up to `N` values in place, and a count of those beyond.
#[derive(Debug, Clone, Copy)]
struct Few<T, const N: usize> {
    kept: [T; N],
    length: u8,
    more: u16,
}

impl<T: Copy + Default, const N: usize> Default for Few<T, N> {
    fn default() -> Self {
        Few {
            kept: [T::default(); N],
            length: 0,
            more: 0,
        }
    }
}

impl<T: Copy, const N: usize> Few<T, N> {
    fn push(&mut self, value: T) {
        match self.kept.get_mut(usize::from(self.length)) {
            Some(place) => {
                *place = value;
                self.length += 1;
            }
            None => self.more = self.more.saturating_add(1),
        }
    }

    /// Takes these in place of all; only the first `N`.
    fn set(&mut self, values: &[T]) {
        let length = values.len().min(N);
        self.kept[..length].copy_from_slice(&values[..length]);
        self.length = u8::try_from(length).unwrap_or(0);
        self.more = 0;
    }

    fn get(&self) -> (&[T], usize) {
        (
            &self.kept[..usize::from(self.length)],
            usize::from(self.more),
        )
    }

    fn iter_mut(&mut self) -> std::slice::IterMut<'_, T> {
        self.kept[..usize::from(self.length)].iter_mut()
    }

    fn clear(&mut self) {
        self.length = 0;
        self.more = 0;
    }
}

/// The first `N` bytes of a text.
#[derive(Debug, Clone, Copy)]
struct Brief<const N: usize> {
    bytes: [u8; N],
    length: u8,
}

impl<const N: usize> Default for Brief<N> {
    fn default() -> Self {
        Brief {
            bytes: [0; N],
            length: 0,
        }
    }
}

impl<const N: usize> Brief<N> {
    fn set(&mut self, bytes: &[u8]) {
        const { assert!(N <= 255, "the length is one byte") };
        let length = bytes.len().min(N);
        self.bytes[..length].copy_from_slice(&bytes[..length]);
        self.length = u8::try_from(length).unwrap_or(0);
    }

    fn get(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKENDS: [BackendId; 4] = [BackendId(1), BackendId(2), BackendId(3), BackendId(4)];

    fn name(backend: BackendId) -> &'static str {
        ["a", "b", "c", "d"][backend.0 as usize - 1]
    }

    fn begun() -> Decision {
        let mut decision = Decision::default();
        decision.begin(1, IpAddr::from([192, 0, 2, 1]), b"id", b"GET / HTTP/1.1");
        decision
    }

    #[test]
    fn the_ring_keeps_the_last_ones_oldest_first() {
        let decisions = Decisions::default();
        assert!(decisions.snapshot().is_empty());
        for kept in [
            1,
            DECISIONS_MAX - 1,
            DECISIONS_MAX,
            DECISIONS_MAX + 1,
            3 * DECISIONS_MAX + 7,
        ] {
            let decisions = Decisions::default();
            for at_unix_ms in 0..kept as u64 {
                decisions.push(&Decision {
                    at_unix_ms,
                    ..Decision::default()
                });
            }
            let times: Vec<u64> = decisions
                .snapshot()
                .iter()
                .map(|decision| decision.at_unix_ms)
                .collect();
            let first = kept.saturating_sub(DECISIONS_MAX) as u64;
            assert_eq!(times, (first..kept as u64).collect::<Vec<_>>());
        }
    }

    #[test]
    fn what_does_not_fit_is_counted_or_cut() {
        let mut decision = begun();
        decision.begin(1, IpAddr::from([192, 0, 2, 1]), &[b'i'; 100], &[b'l'; 300]);
        assert_eq!(
            (decision.request_id().len(), decision.request_line().len()),
            (36, 64)
        );
        for backend in (1..).take(CANDIDATES_MAX + 5) {
            decision.stands(BackendId(backend), Verdict::Down);
        }
        assert_eq!(
            (decision.candidates().0.len(), decision.candidates().1),
            (CANDIDATES_MAX, 5)
        );
        for backend in (0..).take(TRIES_MAX + 1) {
            decision.chosen(BackendId(backend), Rule::FailOpen);
            decision.outcome(
                Outcome::ConnectFailed,
                Duration::from_micros(backend.into()),
            );
        }
        let (tries, more) = decision.tries();
        assert_eq!((tries.len(), more), (TRIES_MAX, 1));
        assert_eq!(
            tries[TRIES_MAX - 1].took_us,
            7,
            "the outcome of a try without room overwrites no other"
        );
    }

    #[test]
    fn a_choice_reads_as_one_line() {
        let mut decision = begun();
        assert_eq!(decision.choice_text(name), "no backend");
        decision.stands(BACKENDS[0], Verdict::Eligible);
        decision.stands(BACKENDS[1], Verdict::Down);
        decision.chosen(BACKENDS[0], Rule::default());
        decision.outcome(Outcome::ConnectFailed, Duration::from_millis(2));
        decision.begin_choice(&[]);
        for (backend, verdict) in [
            Verdict::Tried,
            Verdict::Down,
            Verdict::Eligible,
            Verdict::Backup,
        ]
        .iter()
        .enumerate()
        {
            decision.stands(BACKENDS[backend], *verdict);
        }
        decision.chosen(BACKENDS[2], Rule::default());
        assert_eq!(
            decision.choice_text(name),
            "c: its turn; passed over: a (tried already), b (down), d (backup)"
        );
        assert_eq!(decision.tries().0[0].outcome, Outcome::ConnectFailed);
        assert_eq!(decision.tries().0[0].took_us, 2000);
    }

    #[test]
    fn stages_are_kept_apart_and_a_new_exchange_forgets_the_last() {
        let mut decision = begun();
        for (n, stage) in Stage::ALL.into_iter().enumerate() {
            decision.stage(stage, Duration::from_micros(n as u64 + 1));
        }
        for (n, stage) in Stage::ALL.into_iter().enumerate() {
            assert_eq!(decision.stage_us(stage) as usize, n + 1);
        }
        decision.begin(2, IpAddr::from([192, 0, 2, 1]), b"", b"");
        assert_eq!(decision.stage_us(Stage::Total), 0);
    }

    #[test]
    fn a_ring_stays_small() {
        assert!(
            size_of::<Decision>() * DECISIONS_MAX <= 128 * 1024,
            "{} bytes each",
            size_of::<Decision>()
        );
    }
}
