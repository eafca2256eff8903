//! Backends that grow into their weight.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::pool::chooser::tests::*;
use crate::pool::time::Sources;

/// What befalls backends that grow into their weight.
#[derive(Debug, Clone)]
enum Event {
    Pass(u64),
    Down(usize),
    Up(usize),
    Operator(usize, bool),
    Turns(usize),
    /// A request that each backend of these refuses.
    Retries(u8),
    /// The same backends with another time to grow, in milliseconds.
    Publish(u64),
}

/// What a backend that came then has at a time.
fn tenths(came_ms: u64, now_ms: u64, slow_start_ms: u64) -> u32 {
    let steps = (now_ms - came_ms) * 9;
    let steps = steps.checked_div(slow_start_ms);
    steps.map_or(10, |steps| u32::try_from(steps.min(9)).unwrap() + 1)
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        4 => (0..3000u64).prop_map(Event::Pass),
        2 => any::<usize>().prop_map(Event::Down),
        3 => any::<usize>().prop_map(Event::Up),
        2 => (any::<usize>(), any::<bool>()).prop_map(|(at, on)| Event::Operator(at, on)),
        5 => (1..40usize).prop_map(Event::Turns),
        1 => any::<u8>().prop_map(Event::Retries),
        1 => (0..3000u64).prop_map(Event::Publish),
    ];
    prop::collection::vec(event, 1..200)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// The model keeps nothing but when each backend came, and adds up what is due to each.
    #[test]
    fn with_any_history_of_trust_no_backend_is_more_than_two_turns_from_its_due(
        weights in prop::collection::vec(1..10u32, 1..8), events in events()
    ) {
        let count = weights.len();
        let list = weighted(&weights);
        let (sources, now_us) = Sources::set(1);
        let mut slow_start_ms = 1000;
        let settings = |slow_start_ms| BalanceSettings {
            slow_start: Duration::from_millis(slow_start_ms),
            ..balance(Method::RoundRobin)
        };
        let mut pool = Pool::with_sources(sources, list.clone(), &settings(slow_start_ms), &health(Kind::Tcp));
        // The chooser of the first pool takes up the backends as they are.
        hits(&pool, 1);
        let mut came = vec![None; count];
        let mut was_in = vec![true; count];
        let mut owed: Vec<f64> = weights.iter().map(|&weight| f64::from(weight)).collect();
        let total: f64 = owed.iter().sum();
        for owed in &mut owed {
            *owed /= total;
        }
        owed[weights.iter().enumerate().rev().max_by_key(|(_, weight)| **weight).unwrap().0] -= 1.0;
        for event in &events {
            let now_ms = now_us.load(Ordering::Relaxed) / 1000;
            // One that has had all its weight keeps it.
            for came in &mut came {
                *came = came.filter(|&came| tenths(came, now_ms, slow_start_ms) < 10);
            }
            let mut refusing = 0;
            let mut turns = 0;
            match *event {
                Event::Pass(ms) => {
                    now_us.fetch_add(ms * 1000, Ordering::Relaxed);
                }
                Event::Down(at) => down(&pool, at % count),
                Event::Up(at) => up(&pool, at % count),
                Event::Operator(at, on) => pool.backends()[at % count]
                    .set_operator(if on { Operator::Enabled } else { Operator::Disabled }),
                Event::Turns(number) => turns = number,
                Event::Retries(mask) => (turns, refusing) = (1, mask),
                Event::Publish(ms) => {
                    slow_start_ms = ms;
                    pool = Pool::following(Some(&pool), list.clone(), &settings(ms), &health(Kind::Tcp));
                    // Now it chooses.
                    turns = 1;
                }
            }
            let now_ms = now_us.load(Ordering::Relaxed) / 1000;
            let is_in: Vec<bool> = pool.backends().iter()
                .map(|b| b.is_healthy() && b.operator() == Operator::Enabled).collect();
            for place in 0..count {
                if is_in[place] && !was_in[place] {
                    came[place] = (slow_start_ms > 0).then_some(now_ms);
                }
            }
            was_in.clone_from(&is_in);
            for _ in 0..turns {
                let mut before = Vec::new();
                loop {
                    let tenths: Vec<u32> = came.iter().map(|came| came.map_or(10, |came| tenths(came, now_ms, slow_start_ms))).collect();
                    let any = is_in.contains(&true);
                    let due: Vec<f64> = (0..count).map(|place| match (is_in[place], before.contains(&place)) {
                        (_, true) => 0.0,
                        (true, false) => f64::from(weights[place] * tenths[place]),
                        (false, _) if any || pool.backends()[place].operator() != Operator::Enabled => 0.0,
                        // Fail open.
                        (false, _) => f64::from(weights[place]),
                    }).collect();
                    let total: f64 = due.iter().sum();
                    let Some(chosen) = take(&pool, &before, 0) else {
                        prop_assert!(total == 0.0);
                        break;
                    };
                    prop_assert!(due[chosen.index] > 0.0);
                    for (owed, due) in owed.iter_mut().zip(&due) {
                        *owed += due / total;
                    }
                    owed[chosen.index] -= 1.0;
                    if refusing >> (chosen.index % 8) & 1 == 0 {
                        break;
                    }
                    before.push(chosen.index);
                }
                prop_assert!(owed.iter().all(|owed| owed.abs() <= 2.0), "{:?}", owed);
            }
        }
    }
}
