//! How it went in the last minutes, for all requests and for each backend: the counters are read
//! every 5 s, and what they have grown by is kept.
//!
//! A sample costs a walk over the counters of all backends, and keeps about 2 KB for each
//! ([`Series`]). Times are the caller's, in milliseconds on the workers' clock.

use crate::live::Live;
use crate::net::clock::Millis;
use crate::pool::backend::Backend;
use crate::pool::state::BackendId;
use crate::traffic::Totals;
use crate::traffic::histogram::{BUCKETS, Durations, quantile_us};

/// The time between two samples.
pub(crate) const PERIOD_MS: Millis = 5000;

/// Samples of five minutes, and of one.
const HISTORY: usize = 60;
const MINUTE: usize = 12;

/// A histogram is kept with every third sample, and with four samples in all: percentiles are those
/// of the last 45 to 60 s.
const MARK_EVERY: usize = 3;
const MARKS: usize = MINUTE / MARK_EVERY;

/// What happened lately. To be asked for a sample every [`PERIOD_MS`]; see [`Sampler::sample`].
#[derive(Debug)]
pub(crate) struct Sampler {
    due: Millis,
    all: Series,
    /// In the order of the pool of the last sample.
    backends: Vec<Series>,
}

/// The last samples of one backend, or of all requests.
#[derive(Debug)]
pub(crate) struct Series {
    backend: BackendId,
    /// How many samples were taken.
    taken: usize,
    /// Requests by sample; the one taken as the nth is at n modulo the length, here and below.
    history: [u32; HISTORY],
    minute: [Few; MINUTE],
    /// The counts at the newest sample.
    newest: [u64; FEW],
    /// The histogram of the times to the response head as it was, the lower half of each count.
    marks: [[u32; BUCKETS]; MARKS],
}

/// Requests, failed, retries, answers of 500 to 599.
const FEW: usize = 4;
type Few = [u32; FEW];

/// What happened in the last minute.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Recent {
    /// Tenths of requests per second over the last whole period.
    pub(crate) rate_tenths: u64,
    /// In the twelve last samples and since the newest.
    pub(crate) requests: u64,
    pub(crate) failed: u64,
    pub(crate) retries: u64,
    pub(crate) answers_5xx: u64,
    /// The times to the response head that half of these stayed below, and 99 of 100.
    pub(crate) head_p50_us: Option<u64>,
    pub(crate) head_p99_us: Option<u64>,
}

impl Sampler {
    /// Begins at `now`. What was counted before belongs to no sample.
    pub(crate) fn new(live: &Live, now: Millis) -> Sampler {
        let mut sampler = Sampler {
            due: now + PERIOD_MS,
            all: Series::new(BackendId::default(), &live.traffic().all),
            backends: Vec::new(),
        };
        for backend in live.current().pool.backends() {
            let series = Series::new(backend.id, &backend.traffic());
            sampler.backends.push(series);
        }
        sampler
    }

    /// Takes the samples that are due, and follows the list of backends. Returns when the next one
    /// is due.
    #[inline(never)]
    pub(crate) fn sample(&mut self, live: &Live, now: Millis) -> Millis {
        if now < self.due {
            return self.due;
        }
        let periods = 1 + (now - self.due) / PERIOD_MS;
        self.due += periods * PERIOD_MS;
        let periods = usize::try_from(periods).map_or(HISTORY, |periods| periods.min(HISTORY));
        self.all.take(&live.traffic().all, periods);
        let pool = live.current().pool.clone();
        for (place, backend) in pool.backends().iter().enumerate() {
            self.put_in_place(place, backend.id);
            self.backends[place].take(&backend.traffic(), periods);
        }
        self.backends.truncate(pool.backends().len());
        self.due
    }

    /// Of all requests.
    pub(crate) fn all(&self) -> &Series {
        &self.all
    }

    /// Of one backend; none before the first sample of a new one.
    pub(crate) fn of(&self, backend: &Backend) -> Option<&Series> {
        let place = self.place(backend.index, backend.id)?;
        Some(&self.backends[place])
    }

    /// The place of a backend's series, which is the one given unless the list has changed.
    fn place(&self, guess: usize, id: BackendId) -> Option<usize> {
        let is_it = |series: &Series| series.backend == id;
        if self.backends.get(guess).is_some_and(is_it) {
            return Some(guess);
        }
        self.backends.iter().position(is_it)
    }

    /// Moves the series of a backend to this place, or begins one there. Those that are left over
    /// end up behind all others.
    fn put_in_place(&mut self, place: usize, id: BackendId) {
        let from = self.place(place, id).unwrap_or_else(|| {
            // All that a new backend has counted belongs to its first sample.
            let series = Series::new(id, &Totals::default());
            self.backends.push(series);
            self.backends.len() - 1
        });
        self.backends.swap(place, from);
    }
}

impl Series {
    /// Bytes of one in memory.
    pub(crate) const BYTES: usize = size_of::<Series>();

    fn new(backend: BackendId, totals: &Totals) -> Series {
        Series {
            backend,
            taken: 0,
            history: [0; HISTORY],
            minute: [[0; FEW]; MINUTE],
            newest: few(totals),
            marks: [low_halves(&totals.head); MARKS],
        }
    }

    /// Takes the sample of so many periods: one, unless the caller was late.
    fn take(&mut self, totals: &Totals, periods: usize) {
        let mut left = since(&self.newest, totals);
        self.newest = few(totals);
        for periods_left in (1..=periods as u64).rev() {
            let mut sample = [0; FEW];
            for (part, left) in sample.iter_mut().zip(&mut left) {
                let share = *left / periods_left;
                *left -= share;
                *part = u32::try_from(share).unwrap_or(u32::MAX);
            }
            self.history[self.taken % HISTORY] = sample[0];
            self.minute[self.taken % MINUTE] = sample;
            self.taken += 1;
            if self.taken.is_multiple_of(MARK_EVERY) {
                self.marks[self.taken / MARK_EVERY % MARKS] = low_halves(&totals.head);
            }
        }
    }

    /// Requests in each of the last periods, the newest last.
    pub(crate) fn history(&self) -> impl Iterator<Item = u32> {
        let first = self.taken.saturating_sub(HISTORY);
        (first..self.taken).map(|place| self.history[place % HISTORY])
    }

    /// What happened lately; `totals`: the counts as they are now.
    pub(crate) fn recent(&self, totals: &Totals) -> Recent {
        let mut sums = since(&self.newest, totals);
        for sample in &self.minute {
            for (sum, part) in sums.iter_mut().zip(sample) {
                *sum += u64::from(*part);
            }
        }
        let [requests, failed, retries, answers_5xx] = sums;
        // The one that is overwritten next.
        let oldest = &self.marks[(self.taken / MARK_EVERY + 1) % MARKS];
        let mut heads = [0; BUCKETS];
        for ((head, new), old) in heads.iter_mut().zip(low_halves(&totals.head)).zip(oldest) {
            *head = u64::from(new.wrapping_sub(*old));
        }
        Recent {
            rate_tenths: self
                .history()
                .last()
                .map_or(0, |newest| u64::from(newest) * 10 / (PERIOD_MS / 1000)),
            requests,
            failed,
            retries,
            answers_5xx,
            head_p50_us: quantile_us(&heads, 50),
            head_p99_us: quantile_us(&heads, 99),
        }
    }
}

fn few(totals: &Totals) -> [u64; FEW] {
    [
        totals.requests(),
        totals.failed(),
        totals.retries(),
        totals.answers_5xx(),
    ]
}

/// What the counts have grown by.
fn since(before: &[u64; FEW], totals: &Totals) -> [u64; FEW] {
    let mut grown = few(totals);
    for (now, before) in grown.iter_mut().zip(before) {
        *now = now.saturating_sub(*before);
    }
    grown
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "of two counts that are less than a minute apart, the lower halves give the difference"
)]
fn low_halves(durations: &Durations) -> [u32; BUCKETS] {
    durations.buckets.map(|count| count as u32)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::Config;
    use crate::live::Snapshot;
    use crate::live::tests::live_of;
    use crate::pool::Pool;
    use crate::traffic::{FailureKind, Traffic, WorkerTraffic};

    struct Fixture {
        live: Arc<Live>,
        worker: Arc<WorkerTraffic>,
        sampler: Sampler,
        now: Millis,
    }

    fn config(backends: &[&str]) -> Config {
        let entries: Vec<String> = backends
            .iter()
            .map(|name| format!(r#"{{"name": "{name}", "url": "http://127.0.0.1:1"}}"#))
            .collect();
        let text = format!(
            r#"{{"proxy": {{"port": 0}}, "backends": [{}]}}"#,
            entries.join(", ")
        );
        Config::from_text("test", &text).unwrap()
    }

    impl Fixture {
        /// Begins a while after the clock.
        fn new(backends: &[&str]) -> Fixture {
            let live = live_of(config(backends));
            let now = 123_456;
            Fixture {
                worker: live.new_traffic(),
                sampler: Sampler::new(&live, now),
                live,
                now,
            }
        }

        fn requests(&self, count: usize) {
            (0..count).for_each(|_| self.worker.all.request());
        }

        /// So many ms later.
        fn later(&mut self, ms: Millis) {
            self.now += ms;
            self.sampler.sample(&self.live, self.now);
        }

        fn recent(&self) -> Recent {
            self.sampler.all().recent(&self.live.traffic().all)
        }

        fn history(&self) -> Vec<u32> {
            self.sampler.all().history().collect()
        }

        fn backend(&self, name: &str) -> Arc<Backend> {
            let snapshot = self.live.current();
            let mut backends = snapshot.pool.backends().iter();
            let found = backends.find(|backend| &*backend.name == name);
            found.unwrap().clone()
        }

        fn tries(&self, name: &str, count: usize) {
            let backend = self.backend(name);
            (0..count).for_each(|_| backend.traffic_of(0).request());
        }

        fn history_of(&self, name: &str) -> Option<Vec<u32>> {
            let series = self.sampler.of(&self.backend(name))?;
            Some(series.history().collect())
        }

        /// Another list of backends is live.
        fn follow(&self, backends: &[&str]) {
            let last = self.live.current();
            let config = config(backends);
            let pool = Pool::following(
                Some(&last.pool),
                config.backends.clone(),
                &config.balance,
                &config.health_check,
            );
            self.live
                .publish(Snapshot::new(config, pool, last.descriptors));
        }
    }

    #[test]
    fn the_history_is_of_whole_periods_and_the_rate_of_the_last_one() {
        let mut it = Fixture::new(&["a"]);
        assert_eq!(it.recent(), Recent::default());
        it.requests(7);
        it.later(4999);
        assert_eq!((it.history(), it.recent().rate_tenths), (vec![], 0));
        assert_eq!(it.recent().requests, 7);
        it.later(1);
        assert_eq!((it.history(), it.recent().rate_tenths), (vec![7], 14));
        it.requests(1);
        it.later(5000);
        assert_eq!((it.history(), it.recent().rate_tenths), (vec![7, 1], 2));
        for _ in 0..70 {
            it.later(5000);
        }
        assert_eq!((it.history(), it.recent().rate_tenths), (vec![0; 60], 0));
    }

    #[test]
    fn the_last_minute_counts_what_came_after_the_newest_sample_and_forgets_after_twelve() {
        let mut it = Fixture::new(&["a"]);
        it.requests(3);
        it.worker.all.failure(FailureKind::Died);
        it.worker.all.retry();
        it.worker.all.answer(500);
        let seen = it.recent();
        let four = (seen.requests, seen.failed, seen.retries, seen.answers_5xx);
        assert_eq!(four, (3, 1, 1, 1));
        for _ in 0..12 {
            it.later(5000);
            assert_eq!(it.recent().requests, 3);
        }
        it.later(5000);
        assert_eq!(it.recent(), Recent::default());
        assert_eq!(it.live.traffic().all.requests(), 3);
    }

    #[test]
    fn what_was_counted_before_the_first_sample_is_in_no_period() {
        let live = live_of(config(&["a"]));
        live.new_traffic().all.request();
        let mut sampler = Sampler::new(&live, 0);
        sampler.sample(&live, 5000);
        assert_eq!(sampler.all().history().collect::<Vec<_>>(), [0]);
    }

    #[test]
    fn a_late_sample_is_spread_over_the_periods_that_it_stands_for() {
        let mut it = Fixture::new(&["a"]);
        it.requests(10);
        it.later(5000 + 10_000 + 4_999);
        assert_eq!(it.history(), [3, 3, 4]);
        it.requests(1);
        it.later(1);
        assert_eq!(it.history(), [3, 3, 4, 1], "the next is due as planned");
        it.requests(1);
        it.later(7 * 24 * 3600 * 1000);
        assert_eq!(it.history().len(), 60);
        assert_eq!(it.recent().requests, 1);
    }

    #[test]
    fn percentiles_are_those_of_the_last_minute() {
        let mut it = Fixture::new(&["a"]);
        let answer = |it: &Fixture, us| {
            it.worker.all.answer_of(&Traffic::default(), 200, [us, us]);
        };
        for us in [100, 100, 5000] {
            answer(&it, us);
        }
        let percentiles = |it: &Fixture| (it.recent().head_p50_us, it.recent().head_p99_us);
        assert_eq!(percentiles(&it), (Some(112), Some(5120)));
        for _ in 0..9 {
            it.later(5000);
            assert_eq!(percentiles(&it), (Some(112), Some(5120)));
        }
        answer(&it, 1000);
        for _ in 0..3 {
            it.later(5000);
        }
        assert_eq!(percentiles(&it), (Some(1024), Some(1024)));
        for _ in 0..12 {
            it.later(5000);
        }
        assert_eq!(percentiles(&it), (None, None));
    }

    #[test]
    fn a_backend_that_stays_keeps_its_history_wherever_it_stands_in_the_list() {
        let mut it = Fixture::new(&["a", "b", "c"]);
        it.tries("b", 5);
        it.later(5000);
        it.follow(&["c", "new", "b"]);
        assert_eq!(it.history_of("new"), None, "no sample yet");
        assert_eq!(it.history_of("b"), Some(vec![5]), "found at another place");
        it.tries("new", 2);
        it.tries("b", 1);
        it.later(5000);
        assert_eq!(it.history_of("new"), Some(vec![2]));
        assert_eq!(it.history_of("b"), Some(vec![5, 1]));
        assert_eq!(it.history_of("c"), Some(vec![0, 0]));
        assert_eq!(it.sampler.backends.len(), 3);
        it.follow(&["c"]);
        it.later(5000);
        assert_eq!(it.sampler.backends.len(), 1);
        it.follow(&["c", "b"]);
        it.later(5000);
        assert_eq!(
            it.history_of("b"),
            Some(vec![0]),
            "another one by that name"
        );
    }

    #[test]
    fn a_series_is_small() {
        assert_eq!(Series::BYTES / 2048, 0, "{} bytes", Series::BYTES);
    }
}
