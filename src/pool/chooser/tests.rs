//! The chooser beside a plain model: a walk over all backends at each choice, which is how the pool
//! once chose.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::Duration;

use proptest::prelude::*;

use crate::net::lock::lock;
use crate::pool::backend::InFlight;
use crate::pool::chooser::*;
use crate::pool::hash::{log2, mix};
use crate::pool::persist;
use crate::pool::settings::{BackendSettings, BalanceSettings, HashKey, HashSettings, Kind};
use crate::pool::state::Operator;
use crate::pool::tests::{backends, balance, down, health, hits, selection, tried, up};
use crate::pool::time::Sources;
use crate::pool::trace::Decision;
use crate::pool::{Choice, Pool, Selection, Served};

const METHODS: [Method; 5] = [
    Method::RoundRobin,
    Method::LeastConnections,
    Method::RandomTwo,
    Method::Fastest,
    Method::SourceHash,
];

fn weighted(weights: &[u32]) -> Vec<BackendSettings> {
    let mut list = backends(weights.len());
    for (backend, &weight) in list.iter_mut().zip(weights) {
        backend.weight = weight;
    }
    list
}

fn pool_of(method: Method, weights: &[u32]) -> Pool {
    Pool::new(weighted(weights), &balance(method), &health(Kind::Tcp))
}

fn by_path(load_percent_max: Option<u32>) -> BalanceSettings {
    let hash = HashSettings {
        key: HashKey::Path,
        load_percent_max,
    };
    BalanceSettings {
        hash,
        ..balance(Method::Hash)
    }
}

/// The backend of a request with this key, whose exchange goes on.
fn take_by_key(pool: &Pool, before: &[usize], key: &str) -> Option<InFlight> {
    let selection = Selection {
        key: Some(key.as_bytes()),
        ..selection()
    };
    match pool.choose(&selection, &mut tried(pool, before), None) {
        Choice::Backend { in_flight, .. } => Some(in_flight),
        _ => None,
    }
}

/// The backend of the next request, whose exchange goes on.
fn take(pool: &Pool, before: &[usize], client: u32) -> Option<InFlight> {
    let selection = Selection {
        client: std::net::Ipv4Addr::from_bits(client).into(),
        ..selection()
    };
    match pool.choose(&selection, &mut tried(pool, before), None) {
        Choice::Backend { in_flight, .. } => Some(in_flight),
        _ => None,
    }
}

/// What may be chosen: those with a free place of the first group that has any that were not tried.
fn eligible(pool: &Pool, before: &[usize]) -> Vec<usize> {
    let usable = |b: &&Arc<Backend>| b.operator() == Operator::Enabled && b.settings.weight > 0;
    let any_healthy = pool
        .backends()
        .iter()
        .filter(usable)
        .any(|b| b.is_healthy());
    let groups = [(true, false), (true, true), (false, false), (false, true)];
    let groups = groups.map(|(healthy, backup)| -> Vec<usize> {
        let all = pool.backends().iter().filter(usable);
        all.filter(|b| !before.contains(&b.index))
            .filter(|b| b.is_healthy() == healthy && b.settings.backup == backup)
            .filter(|_| healthy || !any_healthy)
            .map(|b| b.index)
            .collect()
    });
    let first = groups.into_iter().find(|group| !group.is_empty());
    let mut places = first.unwrap_or_default();
    places.retain(|&place| !pool.backends()[place].is_full());
    places
}

/// The best score, found by comparing all of them pair by pair.
fn highest_score_of_all(pool: &Pool, places: &[usize], client: u32) -> usize {
    let key = persist::client_key(std::net::Ipv4Addr::from_bits(client).into());
    highest_score_of_key(pool, places, key)
}

fn highest_score_of_key(pool: &Pool, places: &[usize], client: u64) -> usize {
    let score = |place: usize| {
        let backend = &pool.backends()[place];
        let hash = mix(client.wrapping_add(backend.name_key));
        let minus_log = (64 << 32) - log2(hash.max(1));
        (minus_log, u64::from(backend.settings.weight), hash)
    };
    let better = |best: usize, this: usize| {
        let (one, other) = (score(this), score(best));
        let (x, y) = (one.0 * other.1, other.0 * one.1);
        if x < y || x == y && one.2 > other.2 {
            this
        } else {
            best
        }
    };
    places.iter().copied().reduce(better).unwrap()
}

/// Whether `least_connections` may choose this one: of its weight none has fewer, and in proportion
/// to weight none would have as few with one more.
fn is_least_loaded(pool: &Pool, places: &[usize], chosen: usize) -> bool {
    let of = |place: usize| {
        let backend = &pool.backends()[place];
        (
            backend.in_flight() as u64,
            u64::from(backend.settings.weight),
        )
    };
    let (load, weight) = of(chosen);
    places
        .iter()
        .map(|&place| of(place))
        .all(|(other, its_weight)| {
            load * its_weight < (other + 1) * weight && (weight != its_weight || load <= other)
        })
}

/// What befalls the backends of one pool.
#[derive(Debug, Clone)]
enum Change {
    Down(usize),
    Up(usize),
    Operator(usize, u8),
    /// Requests that have tried these, and whose exchanges go on.
    Hold(usize, u16),
    /// So many of the first of them end.
    End(usize),
    /// Requests whose exchanges end at once.
    Turns(usize),
    /// The same backends, but these weights are turned by so many places.
    Publish(usize),
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let change = prop_oneof![
        3 => any::<usize>().prop_map(Change::Down),
        3 => any::<usize>().prop_map(Change::Up),
        2 => (any::<usize>(), 0..3u8).prop_map(|(at, operator)| Change::Operator(at, operator)),
        4 => (1..8usize, any::<u16>()).prop_map(|(n, tried)| Change::Hold(n, tried)),
        3 => (1..8usize).prop_map(Change::End),
        3 => (1..20usize).prop_map(Change::Turns),
        1 => (0..3usize).prop_map(Change::Publish),
    ];
    prop::collection::vec(change, 1..80)
}

fn list() -> impl Strategy<Value = Vec<(u32, bool, Option<usize>)>> {
    let weight = prop_oneof![4 => 1..4u32, 1 => 0..1001u32];
    let one = (
        weight,
        prop::bool::weighted(0.2),
        prop::option::weighted(0.3, 1..4usize),
    );
    prop::collection::vec(one, 1..24)
}

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
        let mut settings: Vec<BackendSettings> = backends(kinds.len());
        for (backend, &(weight, backup, max_connections)) in settings.iter_mut().zip(&kinds) {
            *backend = BackendSettings { weight, backup, max_connections, ..backend.clone() };
        }
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
                Change::Operator(at, which) => {
                    let all = [Operator::Enabled, Operator::Draining, Operator::Disabled];
                    pool.backends()[at % count].set_operator(all[usize::from(which)]);
                    continue
                }
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
                    let weights: Vec<u32> = settings.iter().map(|one| one.weight).collect();
                    for (place, one) in settings.iter_mut().enumerate() {
                        one.weight = weights[(place + by) % count];
                    }
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
                let before: Vec<usize> = (0..count).filter(|place| *place < 16 && mask >> place & 1 == 1).collect();
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

    #[test]
    fn each_choice_is_one_that_a_walk_over_all_backends_allows(
        kinds in list(), changes in changes(), method in 0..5usize
    ) {
        let method = METHODS[method];
        let mut settings: Vec<BackendSettings> = backends(kinds.len());
        for (backend, &(weight, backup, max_connections)) in settings.iter_mut().zip(&kinds) {
            *backend = BackendSettings { weight, backup, max_connections, ..backend.clone() };
        }
        let mut pool = Pool::new(settings.clone(), &balance(method), &health(Kind::Tcp));
        let count = kinds.len();
        let mut held = VecDeque::new();
        let mut client = 0;
        let mut choose = |pool: &Pool, mask: u16| {
            client = (client + 1) % 40;
            let before: Vec<usize> = (0..count).filter(|place| *place < 16 && mask >> place & 1 == 1).collect();
            let may = eligible(pool, &before);
            let least: Vec<bool> = (0..count).map(|place| is_least_loaded(pool, &may, place)).collect();
            let chosen = take(pool, &before, client);
            let Some(chosen) = chosen else {
                prop_assert!(may.is_empty());
                return Ok(None);
            };
            prop_assert!(may.contains(&chosen.index), "{} of {may:?}", chosen.index);
            let fails_open = !chosen.is_healthy();
            match method {
                Method::LeastConnections if !fails_open => prop_assert!(least[chosen.index]),
                Method::SourceHash if !fails_open =>
                    prop_assert_eq!(chosen.index, highest_score_of_all(pool, &may, client)),
                _ => {}
            }
            Ok(Some(chosen))
        };
        for change in &changes {
            match *change {
                Change::Down(at) => down(&pool, at % count),
                Change::Up(at) => up(&pool, at % count),
                Change::Operator(at, which) => {
                    let all = [Operator::Enabled, Operator::Draining, Operator::Disabled];
                    pool.backends()[at % count].set_operator(all[usize::from(which)]);
                }
                Change::Hold(number, mask) => for _ in 0..number {
                    held.extend(choose(&pool, mask)?);
                },
                Change::End(number) => drop(held.drain(..number.min(held.len()))),
                Change::Turns(number) => for _ in 0..number {
                    drop(choose(&pool, 0)?);
                },
                Change::Publish(by) => {
                    let weights: Vec<u32> = settings.iter().map(|one| one.weight).collect();
                    for (place, one) in settings.iter_mut().enumerate() {
                        one.weight = weights[(place + by) % count];
                    }
                    pool = Pool::following(Some(&pool), settings.clone(), &balance(method), &health(Kind::Tcp));
                }
            }
        }
    }

    #[test]
    fn turns_are_those_of_plain_smooth_round_robin_while_the_set_stays(
        weights in prop::collection::vec(1..1001u32, 1..40), turns in 1..400usize
    ) {
        let pool = pool_of(Method::RoundRobin, &weights);
        let total: i64 = weights.iter().map(|&weight| i64::from(weight)).sum();
        let mut credits = vec![0; weights.len()];
        for turn in 0..turns {
            for (credit, &weight) in credits.iter_mut().zip(&weights) {
                *credit += i64::from(weight);
            }
            let best = (0..weights.len()).rev().max_by_key(|&place| credits[place]).unwrap();
            credits[best] -= total;
            prop_assert_eq!(hits(&pool, 1), [best], "at turn {}", turn);
        }
    }

    #[test]
    fn retries_take_nothing_from_the_fairness_of_turns(
        weights in prop::collection::vec(1..10u32, 2..8), failing in any::<u8>(), requests in 1..1000usize
    ) {
        // Some backends refuse each request, which goes on to the next; none of them goes down.
        let pool = pool_of(Method::RoundRobin, &weights);
        let refuses = |place: usize| place > 0 && failing >> place & 1 == 1;
        let mut owed = vec![0f64; weights.len()];
        for _ in 0..requests {
            let mut before = Vec::new();
            loop {
                let left = || (0..weights.len()).filter(|place| !before.contains(place));
                let total: f64 = left().map(|place| f64::from(weights[place])).sum();
                for place in left() {
                    owed[place] += f64::from(weights[place]) / total;
                }
                let chosen = take(&pool, &before, 0).unwrap().index;
                owed[chosen] -= 1.0;
                if !refuses(chosen) {
                    break;
                }
                before.push(chosen);
            }
            prop_assert!(owed.iter().all(|owed| owed.abs() <= 2.0), "{:?}", owed);
        }
    }
}

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
        let mut list = backends(count);
        for (backend, &weight) in list.iter_mut().zip(&weights) {
            backend.weight = weight;
        }
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

/// Sends `requests` with `held` exchanges in flight at once, the oldest ending first.
fn spread(method: Method, weights: &[u32], held: usize, requests: u32) -> Vec<usize> {
    let pool = pool_of(method, weights);
    let mut open = VecDeque::new();
    let mut hits = vec![0; weights.len()];
    for request in 0..requests {
        if open.len() > held {
            open.pop_front();
        }
        let chosen = take(&pool, &[], request).unwrap();
        hits[chosen.index] += 1;
        open.push_back(chosen);
    }
    hits
}

/// Each backend gets its share of so many requests by weight; it may miss so many of those due.
fn expect_shares(
    method: Method,
    weights: &[u32],
    held: usize,
    requests: u32,
    missed_max: impl Fn(usize) -> usize,
) {
    let total: u32 = weights.iter().sum();
    let hits = spread(method, weights, held, requests);
    for (&weight, hits) in weights.iter().zip(hits) {
        let due = (requests * weight / total) as usize;
        assert!(
            hits.abs_diff(due) <= missed_max(due),
            "{weights:?}, {held} held: {hits} of {due}"
        );
    }
}

#[test]
fn unequal_weights_are_interleaved_and_not_bursts() {
    let pool = pool_of(Method::RoundRobin, &[5, 1, 1]);
    let order = [0, 0, 1, 0, 2, 0, 0, 0, 0, 1, 0, 2, 0, 0];
    assert_eq!(hits(&pool, 14), order);
}

#[test]
fn a_dead_backends_share_spreads_evenly_and_not_on_its_neighbour() {
    let pool = pool_of(Method::RoundRobin, &[1; 5]);
    let mut served = [0; 5];
    for request in 0..4000 {
        if request == 3 {
            down(&pool, 2);
        }
        served[hits(&pool, 1)[0]] += 1;
    }
    assert!(served[2] <= 1);
    for index in [0, 1, 3, 4] {
        assert!((999..=1000).contains(&served[index]), "{served:?}");
    }
}

#[test]
fn a_backend_that_comes_back_gets_its_turns_and_no_burst() {
    let pool = pool_of(Method::RoundRobin, &[1; 4]);
    hits(&pool, 2);
    down(&pool, 1);
    hits(&pool, 999);
    up(&pool, 1);
    let first = hits(&pool, 4);
    let mut sorted = first.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, [0, 1, 2, 3]);
    for _ in 0..1000 {
        assert_eq!(hits(&pool, 4), first);
    }
}

#[test]
fn a_backend_that_flaps_at_every_turn_gives_its_neighbour_no_double_traffic() {
    let pool = pool_of(Method::RoundRobin, &[1; 4]);
    let mut served = [0i32; 4];
    for request in 0..3000 {
        // Down whenever a fixed order would have hit it.
        if request % 3 == 1 {
            down(&pool, 1);
        } else {
            up(&pool, 1);
        }
        served[hits(&pool, 1)[0]] += 1;
    }
    // Due: 1/4 of 2000 turns for the flapping one, and for the others as much and a third of the
    // rest.
    for (index, due) in [833, 500, 833, 833].into_iter().enumerate() {
        assert!((served[index] - due).abs() <= 2, "{served:?}");
    }
}

#[test]
fn a_backend_that_is_full_at_every_other_turn_ends_no_period_of_the_others_unfairly() {
    let mut list = backends(5);
    list[4].max_connections = Some(1);
    let pool = Pool::new(list, &balance(Method::RoundRobin), &health(Kind::Tcp));
    let mut served = [0; 5];
    let mut held = None;
    for request in 0..5000 {
        let chosen = take(&pool, &[], 0).unwrap();
        served[chosen.index] += 1;
        match chosen.index {
            4 => held = Some(chosen),
            _ if request % 2 == 0 => drop(held.take()),
            _ => {}
        }
    }
    assert!(
        served[..4]
            .iter()
            .all(|count| usize::abs_diff(*count, served[0]) <= 2),
        "{served:?}"
    );
    assert!(served[4] > 500, "{served:?}");
}

#[test]
fn least_connections_of_an_idle_pool_goes_in_turns() {
    assert_eq!(
        spread(Method::LeastConnections, &[1; 4], 0, 4000),
        [1000; 4]
    );
    assert_eq!(
        spread(Method::LeastConnections, &[1, 3], 0, 4000),
        [1000, 3000]
    );
    assert_eq!(
        hits(&pool_of(Method::LeastConnections, &[1; 4]), 6),
        [0, 1, 2, 3, 0, 1]
    );
}

#[test]
fn least_connections_keeps_what_is_in_flight_in_proportion_to_weight() {
    let sets = [
        (&[1, 3][..], 39),
        (&[1, 3], 1),
        (&[1, 1000], 1),
        (&[10, 20, 30], 59),
        (&[2, 2, 5, 5, 5], 37),
    ];
    for (weights, held) in sets {
        // With few in flight the shares cannot be met exactly.
        let missed_max = |due| due / 4 + 60;
        expect_shares(Method::LeastConnections, weights, held, 6000, missed_max);
    }
}

#[test]
fn least_connections_gives_a_slow_backend_less() {
    let pool = pool_of(Method::LeastConnections, &[1; 3]);
    let mut held: Vec<InFlight> = (0..15).filter_map(|_| take(&pool, &[], 0)).collect();
    held.retain(|held| held.index == 0);
    assert!(hits(&pool, 20).iter().all(|&place| place != 0));
    drop(held);
    assert!(hits(&pool, 20).contains(&0), "what ends is known at once");
}

#[test]
fn random_two_honours_weights_idle_or_busy() {
    for held in [0, 1, 15, 63] {
        for weights in [&[1, 1, 1, 1][..], &[1, 3], &[1, 2, 5], &[2, 1, 2, 1, 3]] {
            // Five standard deviations of a fair draw are 350; load shifts the odds between light
            // and heavy a little.
            let missed_max = |due| due / 6 + 350;
            expect_shares(Method::RandomTwo, weights, held, 20_000, missed_max);
        }
    }
}

#[test]
fn random_two_avoids_the_busier_one() {
    let pool = pool_of(Method::RandomTwo, &[1, 1]);
    let held = take(&pool, &[], 0).unwrap();
    assert!(hits(&pool, 100).iter().all(|&place| place != held.index));
    let other = 1 - held.index;
    assert_eq!(
        take(&pool, &[other], 0).map(|one| one.index),
        Some(held.index),
        "it alone is left"
    );
}

#[test]
fn source_hash_spreads_clients_by_weight() {
    for weights in [&[1, 1, 1, 1][..], &[1, 3], &[1, 2, 5], &[1, 999]] {
        // Fixed keys: the result is the same in each run.
        expect_shares(Method::SourceHash, weights, 0, 40_000, |_| 500);
    }
}

#[test]
fn what_a_hash_remembers_of_clients_ends_when_a_backend_joins() {
    let pool = pool_of(Method::SourceHash, &[3; 40]);
    let answers = || -> Vec<usize> {
        let all = (0..2000)
            .chain(0..2000)
            .map(|client| take(&pool, &[], client).unwrap().index);
        all.collect()
    };
    let expected = |places: &[usize]| -> Vec<usize> {
        let all = (0..2000).chain(0..2000);
        all.map(|client| highest_score_of_all(&pool, places, client))
            .collect()
    };
    let all: Vec<usize> = (0..40).collect();
    assert_eq!(answers(), expected(&all));
    down(&pool, 7);
    assert_eq!(answers(), expected(&[&all[..7], &all[8..]].concat()));
    up(&pool, 7);
    assert_eq!(answers(), expected(&all));
}

/// The same among those that are below their bounds.
fn highest_below_bound(pool: &Pool, places: &[usize], percent: u32, key: u64) -> usize {
    let load = |place: usize| pool.backends()[place].in_flight() as u64;
    let weight = |place: usize| u64::from(pool.backends()[place].settings.weight);
    let all = places.iter().copied();
    let (in_flight, total): (u64, u64) =
        (all.clone().map(load).sum(), all.clone().map(weight).sum());
    let may_take = |&place: &usize| {
        let share = u64::from(percent) * (in_flight + 1) * weight(place);
        load(place) < share.div_ceil(100 * total)
    };
    let below: Vec<usize> = all.filter(may_take).collect();
    highest_score_of_key(pool, &below, key)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_backend_is_sent_more_than_its_bound_and_the_next_in_order_takes_it(
        kinds in list(), changes in changes(), percent in 101..1001u32
    ) {
        let mut settings: Vec<BackendSettings> = backends(kinds.len());
        for (backend, &(weight, backup, max_connections)) in settings.iter_mut().zip(&kinds) {
            *backend = BackendSettings { weight, backup, max_connections, ..backend.clone() };
        }
        let balance = by_path(Some(percent));
        let mut pool = Pool::new(settings.clone(), &balance, &health(Kind::Tcp));
        let count = kinds.len();
        let mut held = VecDeque::new();
        let mut number = 0;
        let mut choose = |pool: &Pool, mask: u16| {
            // Few keys, one of them often.
            number = (number + 1) % 16;
            let key = (number / 8 * number).to_string();
            let before: Vec<usize> = (0..count).filter(|place| *place < 16 && mask >> place & 1 == 1).collect();
            let may = eligible(pool, &before);
            let expected = (!may.is_empty())
                .then(|| highest_below_bound(pool, &may, percent, persist::request_key(key.as_bytes())));
            let chosen = take_by_key(pool, &before, &key);
            match &chosen {
                Some(chosen) if !chosen.is_healthy() => prop_assert!(may.contains(&chosen.index)),
                chosen => prop_assert_eq!(chosen.as_ref().map(|chosen| chosen.index), expected),
            }
            Ok(chosen)
        };
        for change in &changes {
            match *change {
                Change::Down(at) => down(&pool, at % count),
                Change::Up(at) => up(&pool, at % count),
                Change::Operator(at, which) => {
                    let all = [Operator::Enabled, Operator::Draining, Operator::Disabled];
                    pool.backends()[at % count].set_operator(all[usize::from(which)]);
                }
                Change::Hold(number, mask) => for _ in 0..number {
                    held.extend(choose(&pool, mask)?);
                },
                Change::End(number) => drop(held.drain(..number.min(held.len()))),
                Change::Turns(number) => for _ in 0..number {
                    drop(choose(&pool, 0)?);
                },
                Change::Publish(by) => {
                    let weights: Vec<u32> = settings.iter().map(|one| one.weight).collect();
                    for (place, one) in settings.iter_mut().enumerate() {
                        one.weight = weights[(place + by) % count];
                    }
                    pool = Pool::following(Some(&pool), settings.clone(), &balance, &health(Kind::Tcp));
                }
            }
        }
    }

    #[test]
    fn a_backend_that_leaves_moves_exactly_its_own_keys_and_one_that_joins_takes_its_share_of_each(
        weights in prop::collection::vec(1..6u32, 2..25), seed in any::<u32>(), at in any::<usize>()
    ) {
        const KEYS: usize = 2000;
        let at = at % weights.len();
        let pool = Pool::new(weighted(&weights), &by_path(None), &health(Kind::Tcp));
        let answers = |pool: &Pool| -> Vec<usize> {
            let key = |number: usize| format!("/{seed}/{number}");
            (0..KEYS).map(|number| take_by_key(pool, &[], &key(number)).unwrap().index).collect()
        };
        let all = answers(&pool);
        down(&pool, at);
        let without = answers(&pool);
        up(&pool, at);
        prop_assert_eq!(&all, &answers(&pool), "what joins takes back what was its own");
        for (&before, &after) in all.iter().zip(&without) {
            prop_assert_eq!(before == at, after != before);
            prop_assert!(after != at);
        }
        // Of what each of the others had without it, the same part.
        let total: u32 = weights.iter().sum();
        for other in (0..weights.len()).filter(|&other| other != at) {
            let had: f64 = without.iter().filter(|&&place| place == other).map(|_| 1.0).sum();
            let pairs = without.iter().zip(&all);
            let given: f64 = pairs.filter(|&(&b, &a)| b == other && a == at).map(|_| 1.0).sum();
            let due = had * f64::from(weights[at]) / f64::from(total);
            // Six standard deviations.
            prop_assert!((given - due).abs() <= 6.0 * due.sqrt() + 3.0, "{} of {}, due {}", given, had, due);
        }
    }
}

#[test]
fn hash_with_the_key_source_gives_what_source_hash_gives() {
    let weights = [1, 1, 3, 2, 1, 7];
    let one = pool_of(Method::SourceHash, &weights);
    let other = pool_of(Method::Hash, &weights);
    for client in 0..2000 {
        let [a, b] = [&one, &other].map(|pool| take(pool, &[], client).unwrap().index);
        assert_eq!(a, b, "{client}");
    }
}

// These answers are a promise: a release that changes one moves clients. Do not adapt the test.
#[test]
fn the_answers_are_the_same_in_every_release() {
    let weights = [1, 1, 1, 1, 5, 2];
    let pool = Pool::new(weighted(&weights), &by_path(None), &health(Kind::Tcp));
    let letters: String = (0..32)
        .map(|number| take_by_key(&pool, &[], &format!("/page/{number}")).unwrap())
        .map(|chosen| chosen.name.to_string())
        .collect();
    assert_eq!(letters, "eeeedcfaeefffedeeeecabbffeeeeeae");
    let by_source: String = (0..32)
        .map(|client| take(&pool, &[], 0xc000_0200 + client).unwrap())
        .map(|chosen| chosen.name.to_string())
        .collect();
    assert_eq!(
        by_source, "eaecddeafaefffacedfeeaeaebfaeece",
        "without a key the client's address decides"
    );
}

#[test]
fn the_bound_is_a_share_of_what_is_in_flight_rounded_up() {
    let pool = Pool::new(backends(4), &by_path(Some(150)), &health(Kind::Tcp));
    let held: Vec<InFlight> = (0..40)
        .map(|_| take_by_key(&pool, &[], "/one").unwrap())
        .collect();
    let counts = || {
        let mut counts: Vec<usize> = pool.backends().iter().map(|b| b.in_flight()).collect();
        counts.sort_unstable();
        counts
    };
    // 1.5 of a quarter of 40; the second in order takes as much as it may.
    assert_eq!(counts(), [0, 10, 15, 15]);
    assert!(pool.sent_on() > 20, "{}", pool.sent_on());
    drop(held);
    assert_eq!(counts(), [0; 4]);
    let sent_on = pool.sent_on();
    for _ in 0..20 {
        take_by_key(&pool, &[], "/one");
    }
    assert_eq!(pool.sent_on(), sent_on, "one at a time is never beyond it");
}

#[test]
fn a_record_says_which_were_at_their_bounds() {
    for count in [3, 40] {
        let pool = Pool::new(backends(count), &by_path(Some(101)), &health(Kind::Tcp));
        let selection = Selection {
            key: Some(b"/one"),
            ..selection()
        };
        let mut decision = Decision::default();
        let mut choose = || {
            let choice = pool.choose(&selection, &mut tried(&pool, &[]), Some(&mut decision));
            let text = decision.choice_text(|backend| pool.name(backend).unwrap());
            let Choice::Backend { in_flight, .. } = choice else {
                panic!("{choice:?}");
            };
            (in_flight, text)
        };
        let (first, text) = choose();
        assert!(
            text.starts_with(&format!("{}: the hash of its key", first.name)),
            "{text}"
        );
        let (second, text) = choose();
        let passed = format!(
            "{}: the next by hash; passed over: {} (at its bound)",
            second.name, first.name
        );
        assert!(text.starts_with(&passed), "{text}");
        if count == 40 {
            assert!(text.ends_with("others: 38 eligible"), "{text}");
        }
    }
}

/// How many backends a choice looks at, on average of many.
fn looks(pool: &Pool, requests: usize, before: &[usize]) -> usize {
    let looked_at = || lock(&pool.shared.state).chooser.looked_at;
    take(pool, before, 0);
    let begun = looked_at();
    for _ in 0..requests {
        take(pool, before, 0);
    }
    (looked_at() - begun).div_ceil(requests)
}

#[test]
fn a_choice_looks_at_as_many_of_ten_thousand_backends_as_of_four() {
    for method in METHODS {
        for size in [4, 1000, 10_000] {
            let mut list: Vec<BackendSettings> = (0..size)
                .map(|n| BackendSettings {
                    max_connections: (method != Method::SourceHash).then_some(1),
                    ..crate::pool::backend::tests::settings(&n.to_string())
                })
                .collect();
            list[1].backup = true;
            let pool = Pool::new(list, &balance(method), &health(Kind::Tcp));
            // Each fills a backend, so it is looked at when a place is taken and given back.
            assert!(looks(&pool, 500, &[]) <= 3, "{method:?} of {size}");
            down(&pool, 0);
            assert!(looks(&pool, 500, &[]) <= 3, "{method:?} of {size}");
            if method != Method::SourceHash {
                assert!(
                    looks(&pool, 500, &[2]) <= 3,
                    "{method:?} of {size}, once more"
                );
            }
        }
    }
}
