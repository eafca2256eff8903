//! `balance.retry_percent`: how many requests may be sent again, as a share of all requests, so that
//! retries do not multiply the load on backends that fail.
//!
//! Only a retry that costs a try counts. Ten in any 10 s are always allowed. Beyond, they are
//! compared with the requests of those 10 s, counted by whole seconds and always a little low: the
//! last 9 s and the present second, without up to 63 requests of the first of these.
//!
//! Kept under the balancer's lock, by its clock.

/// So many are allowed in any [`SECONDS`], whatever the requests.
const ALWAYS: usize = 10;

const SECONDS: usize = 10;

/// The clock is read for one in so many requests.
const SAMPLED: u64 = 64;

/// What was requested and repeated in the last seconds.
#[derive(Debug)]
pub(in crate::pool) struct Retries {
    requests: u64,
    repeats: u64,
    /// How many there were when each of the last seconds began, by the number of the second.
    marks: [(u64, u64); SECONDS + 1],
    /// The second that is marked last.
    second: u64,
    /// When the last ones were allowed, in milliseconds; the oldest at `next`.
    last_ms: [Option<u64>; ALWAYS],
    next: usize,
    /// How many were refused.
    pub(in crate::pool) refused: u64,
}

impl Default for Retries {
    fn default() -> Retries {
        Retries {
            requests: 0,
            repeats: 0,
            marks: [(0, 0); SECONDS + 1],
            second: 0,
            last_ms: [None; ALWAYS],
            next: 0,
            refused: 0,
        }
    }
}

impl Retries {
    /// Counts a request.
    #[inline]
    pub(in crate::pool) fn request(&mut self, now_ms: impl FnOnce() -> u64) {
        if self.requests.is_multiple_of(SAMPLED) {
            self.mark(now_ms() / 1000);
        }
        self.requests += 1;
    }

    /// Allows one more retry, or counts it as refused.
    pub(in crate::pool) fn allow(&mut self, now_ms: u64, percent: u32) -> bool {
        self.mark(now_ms / 1000);
        let is_over = |at_ms: u64| now_ms.saturating_sub(at_ms) >= 1000 * SECONDS as u64;
        let is_allowed = self.last_ms[self.next].is_none_or(is_over) || {
            // From the beginning of the second 9 s ago, and of that 10 s ago.
            let requests = self.requests - self.marked(SECONDS - 1).0;
            let repeats = self.repeats - self.marked(SECONDS).1;
            (repeats + 1) * 100 <= requests * u64::from(percent)
        };
        if is_allowed {
            self.repeats += 1;
            self.last_ms[self.next] = Some(now_ms);
            self.next = (self.next + 1) % ALWAYS;
        } else {
            self.refused += 1;
        }
        is_allowed
    }

    /// Notes what there was when this second began.
    #[inline(never)]
    fn mark(&mut self, second: u64) {
        let passed = second.saturating_sub(self.second);
        for ago in 0..passed.min(SECONDS as u64 + 1) {
            self.marks[place(second - ago)] = (self.requests, self.repeats);
        }
        self.second = self.second.max(second);
    }

    /// What there was when the second so many ago began.
    fn marked(&self, ago: usize) -> (u64, u64) {
        let second = self.second.checked_sub(ago as u64);
        second.map_or((0, 0), |second| self.marks[place(second)])
    }
}

/// Where a second is marked.
fn place(second: u64) -> usize {
    usize::try_from(second % (SECONDS as u64 + 1)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(retries: &mut Retries, now_ms: u64, percent: u32, tries: usize) -> usize {
        (0..tries)
            .filter(|_| retries.allow(now_ms, percent))
            .count()
    }

    #[test]
    fn without_requests_ten_in_any_ten_seconds_are_allowed_and_the_eleventh_is_not() {
        for start_ms in [0, 1, 999, 1_234_567] {
            let mut retries = Retries::default();
            assert_eq!(allowed(&mut retries, start_ms, 20, 4), 4);
            assert_eq!(allowed(&mut retries, start_ms + 3000, 20, 20), 6);
            assert_eq!(retries.refused, 14);
            assert_eq!(allowed(&mut retries, start_ms + 9_999, 20, 1), 0);
            assert_eq!(allowed(&mut retries, start_ms + 10_000, 20, 9), 4);
            assert_eq!(allowed(&mut retries, start_ms + 12_999, 20, 9), 0);
            assert_eq!(allowed(&mut retries, start_ms + 13_000, 20, 9), 6);
        }
    }

    #[test]
    fn at_larger_rates_the_share_is_met_and_never_exceeded() {
        for (percent, per_second) in [
            (20, 1000),
            (20, 10_000),
            (1, 10_000),
            (100, 1000),
            (0, 1000),
        ] {
            let mut retries = Retries::default();
            // Each request wants to be repeated.
            let mut made = Vec::new();
            for number in 0..30 * per_second {
                let now_ms = number * 1000 / per_second;
                retries.request(|| now_ms);
                if retries.allow(now_ms, percent) {
                    made.push(now_ms);
                }
            }
            let window = |end: u64| {
                made.iter()
                    .filter(|at| (end - 10_000..end).contains(*at))
                    .count() as u64
            };
            let most = 10 * per_second * u64::from(percent) / 100;
            for end_ms in (10_000..30_000).step_by(100) {
                assert!(
                    window(end_ms) <= most.max(10),
                    "{percent} of {per_second} at {end_ms}"
                );
            }
            // The requests of 9 to 10 s against the repeats of 10 to 11.
            let got = window(30_000);
            assert!(got * 100 >= most * 80, "{got} of {most}");
        }
    }

    #[test]
    fn requests_of_long_ago_allow_nothing() {
        let mut retries = Retries::default();
        for number in 0..10_000 {
            retries.request(|| number);
        }
        // A fifth of the 9 s before, or of 63 less.
        assert!((1787..=1800).contains(&allowed(&mut retries, 10_000, 20, 5000)));
        assert_eq!(allowed(&mut retries, 60_000, 20, 5000), 10);
    }
}
