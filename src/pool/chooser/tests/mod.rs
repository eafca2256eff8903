//! The chooser beside a plain model: a walk over all backends at each choice, which is how the pool
//! once chose.

mod fastest;
mod hash;
mod loads;
mod trust;
mod turns;

use std::collections::VecDeque;

use proptest::prelude::*;

use crate::net::lock::lock;
use crate::pool::backend::InFlight;
use crate::pool::chooser::*;
use crate::pool::hash::{log2, mix};
use crate::pool::persist;
use crate::pool::settings::{BackendSettings, BalanceSettings, Kind};
use crate::pool::state::Operator;
use crate::pool::tests::{backends, balance, down, health, hits, selection, tried, up};
use crate::pool::{Choice, Pool, Selection};

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

/// Backends of these weights, backups or not, with these limits.
fn settings(kinds: &[(u32, bool, Option<usize>)]) -> Vec<BackendSettings> {
    let with = |(backend, &(weight, backup, max_connections))| BackendSettings {
        weight,
        backup,
        max_connections,
        ..backend
    };
    backends(kinds.len())
        .into_iter()
        .zip(kinds)
        .map(with)
        .collect()
}

/// Those of the first 16 places that a mask has a bit for.
fn marked(mask: u16, count: usize) -> Vec<usize> {
    let is_marked = |&place: &usize| mask >> place & 1 == 1;
    (0..count.min(16)).filter(is_marked).collect()
}

/// Their weights turn by so many places.
fn turn_weights(settings: &mut [BackendSettings], by: usize) {
    let weights: Vec<u32> = settings.iter().map(|one| one.weight).collect();
    for (place, one) in settings.iter_mut().enumerate() {
        one.weight = weights[(place + by) % weights.len()];
    }
}

fn decide(pool: &Pool, place: usize, which: u8) {
    let all = [Operator::Enabled, Operator::Draining, Operator::Disabled];
    pool.backends()[place].set_operator(all[usize::from(which)]);
}

/// Lets these changes befall a pool; `choose` sends a request that has tried the backends of a mask.
fn play(
    mut pool: Pool,
    mut settings: Vec<BackendSettings>,
    balance: &BalanceSettings,
    changes: &[Change],
    mut choose: impl FnMut(&Pool, u16) -> Result<Option<InFlight>, TestCaseError>,
) -> Result<(), TestCaseError> {
    let count = settings.len();
    let mut held = VecDeque::new();
    for change in changes {
        match *change {
            Change::Down(at) => down(&pool, at % count),
            Change::Up(at) => up(&pool, at % count),
            Change::Operator(at, which) => decide(&pool, at % count, which),
            Change::Hold(number, mask) => {
                for _ in 0..number {
                    held.extend(choose(&pool, mask)?);
                }
            }
            Change::End(number) => drop(held.drain(..number.min(held.len()))),
            Change::Turns(number) => {
                for _ in 0..number {
                    drop(choose(&pool, 0)?);
                }
            }
            Change::Publish(by) => {
                turn_weights(&mut settings, by);
                pool = Pool::following(Some(&pool), settings.clone(), balance, &health(Kind::Tcp));
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn each_choice_is_one_that_a_walk_over_all_backends_allows(
        kinds in list(), changes in changes(), method in 0..5usize
    ) {
        let method = METHODS[method];
        let settings = settings(&kinds);
        let pool = Pool::new(settings.clone(), &balance(method), &health(Kind::Tcp));
        let count = kinds.len();
        let mut client = 0;
        let choose = |pool: &Pool, mask: u16| {
            client = (client + 1) % 40;
            let before = marked(mask, count);
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
        play(pool, settings, &balance(method), &changes, choose)?;
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
