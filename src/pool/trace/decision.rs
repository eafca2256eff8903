//! The record of one exchange.
//!
//! It is begun over and over in the same place and holds no more than that place: what does not fit
//! is counted or cut.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use crate::pool::state::BackendId;
use crate::pool::trace::codes::{Outcome, Rule, Stage, Verdict};
use crate::pool::trace::few::{Brief, Few};

/// Candidates recorded of one choice.
pub const CANDIDATES_MAX: usize = 16;
/// Tries recorded of one exchange.
pub const TRIES_MAX: usize = 8;

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

    /// Records why a backend that is among the candidates is passed over.
    pub fn passed_over(&mut self, backend: BackendId, why: Verdict) {
        let mut candidates = self.candidates.iter_mut();
        if let Some(candidate) = candidates.find(|candidate| candidate.backend == backend) {
            candidate.verdict = why;
        }
    }

    /// Records the verdict on a backend.
    fn stands(&mut self, backend: BackendId, verdict: Verdict) {
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

fn micros(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
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
}
