//! What is counted while a scenario is played.

/// Steps of an octave: a time is known to less than 0.8 per cent.
const STEPS: u64 = 128;

/// Parts of the duration for which the requests of each backend are counted.
pub(super) const PARTS: usize = 10;

/// Times by how long they are.
#[derive(Debug)]
pub(super) struct Histogram {
    counts: Vec<u64>,
    total: u64,
}

/// What one method made of the scenario.
#[derive(Debug)]
pub(super) struct Figures {
    pub(super) requests: u64,
    /// Answered with an error, or not at all.
    pub(super) failed: u64,
    /// Sent to more than one backend.
    pub(super) repeated: u64,
    /// The longest queue of requests that wait for a place.
    pub(super) queue_max: usize,
    /// Clients that had an answer, and those that had one of another backend than before.
    pub(super) clients: u64,
    pub(super) moved: u64,
    /// Until the answer, of requests that did not fail.
    pub(super) times: Histogram,
    pub(super) backends: Vec<OfBackend>,
}

/// What a backend got.
#[derive(Debug, Clone, Default)]
pub(super) struct OfBackend {
    /// Tries.
    pub(super) requests: u64,
    pub(super) by_part: [u64; PARTS],
    /// At once.
    pub(super) in_flight_max: usize,
    /// The longest time without a request, in microseconds, and when the last one came.
    pub(super) gap_us: u64,
    last_us: u64,
}

impl Figures {
    pub(super) fn new(backends: usize) -> Figures {
        Figures {
            requests: 0,
            failed: 0,
            repeated: 0,
            queue_max: 0,
            clients: 0,
            moved: 0,
            times: Histogram {
                counts: vec![0; place(u64::MAX) + 1],
                total: 0,
            },
            backends: vec![OfBackend::default(); backends],
        }
    }

    /// All tries.
    pub(super) fn tries(&self) -> u64 {
        self.backends.iter().map(|backend| backend.requests).sum()
    }
}

impl OfBackend {
    /// A request, in this part of the duration.
    pub(super) fn add(&mut self, now_us: u64, part: usize, in_flight: usize) {
        self.requests += 1;
        self.by_part[part.min(PARTS - 1)] += 1;
        self.in_flight_max = self.in_flight_max.max(in_flight);
        self.end(now_us);
    }

    /// No request comes after this.
    pub(super) fn end(&mut self, now_us: u64) {
        self.gap_us = self.gap_us.max(now_us.saturating_sub(self.last_us));
        self.last_us = now_us;
    }
}

impl Histogram {
    pub(super) fn add(&mut self, us: u64) {
        self.counts[place(us)] += 1;
        self.total += 1;
    }

    /// The time within which so many thousandths of all end; none if there are none.
    pub(super) fn quantile(&self, thousandths: u64) -> Option<u64> {
        let wanted = (self.total * thousandths).div_ceil(1000).max(1);
        let mut seen = 0;
        let found = self.counts.iter().position(|count| {
            seen += count;
            seen >= wanted
        });
        found.map(us_of)
    }
}

/// The place of a time: each microsecond at first, then so many steps to each octave.
fn place(us: u64) -> usize {
    let shift = us.max(1).ilog2().saturating_sub(STEPS.ilog2());
    let place = u64::from(shift) * STEPS + (us >> shift);
    usize::try_from(place).unwrap_or(0)
}

/// The shortest time at a place.
fn us_of(place: usize) -> u64 {
    let place = place as u64;
    let shift = (place / STEPS).saturating_sub(1);
    (place - shift * STEPS) << shift
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_known_to_less_than_one_per_cent() {
        for us in (0..5000).chain((0..63).map(|bit| (1 << bit) + 12_345)) {
            let known = us_of(place(us));
            assert!(known <= us && us - known <= us / 128, "{us}: {known}");
        }
        assert!(place(u64::MAX) < 8192);
    }

    #[test]
    fn quantiles_count_from_the_shortest() {
        let mut times = Figures::new(0).times;
        assert_eq!(times.quantile(500), None);
        for us in 1..=100 {
            times.add(us);
        }
        for (thousandths, us) in [
            (0, 1),
            (500, 50),
            (900, 90),
            (990, 99),
            (999, 100),
            (1000, 100),
        ] {
            assert_eq!(times.quantile(thousandths), Some(us), "{thousandths}");
        }
    }
}
