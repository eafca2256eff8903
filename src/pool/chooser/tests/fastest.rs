//! `fastest` beside plain arithmetic.

use std::collections::VecDeque;
use std::time::Duration;

use crate::pool::Served;
use crate::pool::chooser::tests::*;
use crate::pool::time::Sources;

/// What is known of a backend's times by plain arithmetic.
#[derive(Debug, Clone, Default)]
struct Known {
    average_us: f64,
    last_us: f64,
    answered_ms: u64,
    chosen_ms: u64,
    number: usize,
    is_awaited: bool,
}

impl Known {
    fn answered(&mut self, took_us: u32, now_ms: u64) {
        let age_ms = f64::from(u32::try_from(now_ms - self.answered_ms).unwrap());
        let took_us = f64::from(took_us);
        let left = (-age_ms / 3000.0).exp2();
        let mean_us = self.average_us * left + took_us * (1.0 - left);
        let is_old = self.average_us == 0.0 || age_ms >= 9000.0;
        let jump_us = took_us.min(self.last_us);
        self.average_us = if is_old {
            took_us
        } else {
            mean_us.max(jump_us)
        };
        (self.last_us, self.answered_ms, self.is_awaited) = (took_us, now_ms, false);
    }

    /// A class, and in it the expected time.
    fn expects(&self, backend: &Backend, now_ms: u64) -> (u32, f64) {
        let in_flight = u32::try_from(backend.in_flight()).unwrap();
        let age_ms = f64::from(u32::try_from(now_ms - self.answered_ms).unwrap());
        let faded_us = self.average_us * (-age_ms / 3000.0).exp2();
        let expected_us = faded_us * f64::from(in_flight + 1) / f64::from(backend.settings.weight);
        match in_flight {
            0 if self.average_us == 0.0 => (0, 0.0),
            _ if self.average_us == 0.0 => (3, f64::from(in_flight)),
            0 => (1, expected_us),
            _ => (1 + u32::from(self.is_awaited), expected_us),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn fastest_chooses_what_a_walk_over_all_expected_times_would(
        kinds in list(), changes in changes(), times in prop::collection::vec((0..3000u64, 1..50_000u32), 200)
    ) {
        let mut settings = settings(&kinds);
        let (sources, now_us) = Sources::set(1);
        let balance = balance(Method::Fastest);
        let mut pool = Pool::with_sources(sources, settings.clone(), &balance, &health(Kind::Tcp));
        let count = kinds.len();
        let mut known = vec![Known::default(); count];
        let mut held = VecDeque::new();
        let mut times = times.into_iter().cycle();
        let (mut now_ms, mut number) = (0, 0);
        for change in &changes {
            let (passed_ms, took_us) = times.next().unwrap();
            now_ms += passed_ms;
            now_us.store(now_ms * 1000, std::sync::atomic::Ordering::Relaxed);
            let (chosen, mask) = match *change {
                Change::Down(at) => { down(&pool, at % count); continue }
                Change::Up(at) => { up(&pool, at % count); continue }
                Change::Operator(at, which) => { decide(&pool, at % count, which); continue }
                Change::End(number) => {
                    for ended in held.drain(..number.min(held.len())) {
                        let ended: InFlight = ended;
                        let (status, took) = (200, Duration::from_micros(took_us.into()));
                        pool.served(&ended, Served::Answered { status, took });
                        known[ended.index].answered(took_us, now_ms);
                    }
                    continue
                }
                Change::Publish(by) => {
                    turn_weights(&mut settings, by);
                    pool = Pool::following(Some(&pool), settings.clone(), &balance, &health(Kind::Tcp));
                    for known in &mut known {
                        known.is_awaited = false;
                    }
                    continue
                }
                Change::Hold(number, mask) => (number, mask),
                Change::Turns(number) => (number, 0),
            };
            for _ in 0..chosen {
                let before = marked(mask, count);
                let may = eligible(&pool, &before);
                let of = |place: usize| known[place].expects(&pool.backends()[place], now_ms);
                let expected: Vec<(u32, f64)> = (0..count).map(of).collect();
                let Some(chosen) = take(&pool, &before, 0) else {
                    prop_assert!(may.is_empty());
                    continue;
                };
                let place = chosen.index;
                prop_assert!(may.contains(&place));
                let longest_ago = may.iter().copied().min_by_key(|&place| (known[place].number, place)).unwrap();
                let is_due = known[longest_ago].number == 0 || now_ms - known[longest_ago].chosen_ms >= 10_000;
                if !chosen.is_healthy() {
                } else if is_due {
                    prop_assert_eq!(place, longest_ago);
                } else {
                    let (class, expected_us) = expected[place];
                    for &other in &may {
                        let (its_class, its_us) = expected[other];
                        prop_assert!(class < its_class || class == its_class && expected_us <= its_us * 1.05,
                            "{place} {other} {expected:?} {known:?}");
                    }
                }
                number += 1;
                let known = &mut known[place];
                (known.number, known.chosen_ms) = (number, now_ms);
                known.is_awaited |= now_ms - known.answered_ms >= 3000;
                held.push_back(chosen);
            }
        }
    }
}
