//! A backend that has come grows into its weight, by a clock that is set.

use std::sync::Arc;

use crate::net::atomic::AtomicU64;
use crate::pool::tests::*;
use crate::pool::time::Sources;
use crate::pool::*;

const SLOW_START: Duration = Duration::from_secs(9);

fn slowly(method: Method) -> BalanceSettings {
    BalanceSettings {
        slow_start: SLOW_START,
        ..balance(method)
    }
}

fn set_pool(method: Method, n: usize) -> (Pool, Arc<AtomicU64>) {
    let (sources, now_us) = Sources::set(1);
    let pool = Pool::with_sources(sources, backends(n), &slowly(method), &health(Kind::Tcp));
    (pool, now_us)
}

/// How many of so many requests go to this backend.
fn share(pool: &Pool, requests: usize, backend: usize) -> usize {
    let hits = hits(pool, requests);
    hits.iter().filter(|place| **place == backend).count()
}

fn pass(now_us: &AtomicU64, time: Duration) {
    let us = u64::try_from(time.as_micros()).unwrap();
    now_us.fetch_add(us, Ordering::Relaxed);
}

#[test]
fn at_the_start_of_the_process_every_backend_has_all_its_weight() {
    let (pool, _) = set_pool(Method::RoundRobin, 3);
    assert_eq!(hits(&pool, 6), [0, 1, 2, 0, 1, 2]);
}

#[test]
fn a_backend_that_has_come_up_grows_in_tenths_to_its_weight() {
    for method in [Method::RoundRobin, Method::LeastConnections] {
        let (pool, now_us) = set_pool(method, 2);
        hits(&pool, 2);
        down(&pool, 0);
        hits(&pool, 2);
        up(&pool, 0);
        for tenths in 1..=10 {
            assert_eq!(pool.trust(&pool.backends()[0]), tenths);
            // Of 10 + tenths turns it gets its tenths, over and over.
            let period = 10 + tenths as usize;
            hits(&pool, period);
            let got = share(&pool, 10 * period, 0);
            assert_eq!(got, 10 * tenths as usize, "{method:?} at {tenths} tenths");
            pass(&now_us, SLOW_START / 9);
        }
    }
}

#[test]
fn it_is_known_how_far_each_backend_is_from_its_due() {
    let (pool, _) = set_pool(Method::RoundRobin, 4);
    assert_eq!(pool.turns_off(), [0; 4], "it has not chosen");
    for turns in [
        [750_000, 250_000, 250_000, 250_000],
        [500_000, 500_000, 500_000, 500_000],
    ] {
        hit(&pool);
        assert_eq!(pool.turns_off(), turns);
    }
    hits(&pool, 2);
    assert_eq!(pool.turns_off(), [0; 4]);
    assert!(set_pool(Method::RandomTwo, 2).0.turns_off().is_empty());
}

#[test]
fn by_chance_too_it_gets_the_tenths_that_it_has() {
    let (pool, _) = set_pool(Method::RandomTwo, 2);
    down(&pool, 0);
    hits(&pool, 1);
    up(&pool, 0);
    // 1 of 11 first draws; the second draw never wins in an idle pool.
    assert!((700..1100).contains(&share(&pool, 10_000, 0)));
}

#[test]
fn by_hash_it_has_all_its_clients_at_once() {
    let (pool, _) = set_pool(Method::SourceHash, 2);
    let home = hit(&pool);
    down(&pool, home);
    assert_eq!(hit(&pool), 1 - home);
    up(&pool, home);
    assert_eq!(pool.trust(&pool.backends()[home]), 10);
    assert_eq!(hit(&pool), home);
}

#[test]
fn one_that_is_enabled_or_added_grows_too_and_one_that_was_there_does_not() {
    let (pool, now_us) = set_pool(Method::RoundRobin, 2);
    hits(&pool, 2);
    for operator in [Operator::Disabled, Operator::Draining] {
        pool.backends()[0].set_operator(operator);
        pool.backends()[0].set_operator(Operator::Enabled);
        assert_eq!(pool.trust(&pool.backends()[0]), 1);
        pass(&now_us, SLOW_START);
        hits(&pool, 20);
        assert_eq!(pool.trust(&pool.backends()[0]), 10);
        pool.backends()[0].set_operator(Operator::Enabled);
        assert_eq!(
            pool.trust(&pool.backends()[0]),
            10,
            "it was enabled already"
        );
    }
    let settings = slowly(Method::RoundRobin);
    let next = Pool::following(Some(&pool), backends(3), &settings, &health(Kind::Tcp));
    assert_eq!(share(&next, 21, 2), 1);
    let trust = |pool: &Pool| {
        pool.backends()
            .iter()
            .map(|one| pool.trust(one))
            .collect::<Vec<_>>()
    };
    assert_eq!(trust(&next), [10, 10, 1]);
    pass(&now_us, SLOW_START / 9);
    let last = Pool::following(Some(&next), backends(3), &settings, &health(Kind::Tcp));
    assert_eq!(share(&last, 22, 2), 2, "it goes on growing");
    assert_eq!(trust(&last), [10, 10, 2]);
}

#[test]
fn what_has_grown_stays_grown_when_the_time_to_grow_becomes_longer_and_ends_with_it() {
    let (pool, now_us) = set_pool(Method::RoundRobin, 2);
    hits(&pool, 1);
    down(&pool, 0);
    up(&pool, 0);
    pass(&now_us, SLOW_START);
    hits(&pool, 1);
    let mut settings = slowly(Method::RoundRobin);
    settings.slow_start = 10 * SLOW_START;
    let next = Pool::following(Some(&pool), backends(2), &settings, &health(Kind::Tcp));
    assert_eq!(share(&next, 20, 0), 10);
    down(&next, 0);
    up(&next, 0);
    assert_eq!(share(&next, 11, 0), 1);
    settings.slow_start = Duration::ZERO;
    let last = Pool::following(Some(&next), backends(2), &settings, &health(Kind::Tcp));
    assert_eq!(share(&last, 20, 0), 10);
}

#[test]
fn a_step_that_is_due_costs_one_look_at_those_that_grow_and_none_in_between() {
    let (pool, now_us) = set_pool(Method::RoundRobin, 1000);
    hits(&pool, 1);
    for backend in 0..500 {
        down(&pool, backend);
        up(&pool, backend);
    }
    let looked_at = || lock(&pool.shared.state).chooser.looked_at;
    let begun = looked_at();
    hits(&pool, 100);
    assert_eq!(looked_at() - begun, 100);
    pass(&now_us, SLOW_START / 9);
    hits(&pool, 100);
    assert_eq!(looked_at() - begun, 200 + 500);
}

#[test]
fn with_ten_thousand_that_grow_at_different_times_all_are_looked_at_ten_times_a_second() {
    let (pool, now_us) = set_pool(Method::RoundRobin, 10_000);
    hits(&pool, 1);
    for backend in 0..10_000 {
        down(&pool, backend);
        up(&pool, backend);
        pass(&now_us, SLOW_START / 10_000);
    }
    let looked_at = || lock(&pool.shared.state).chooser.looked_at;
    let begun = looked_at();
    for _ in 0..9000 {
        pass(&now_us, Duration::from_millis(1));
        hit(&pool);
    }
    let rounds = (looked_at() - begun - 9000) / 10_000;
    assert!((50..=100).contains(&rounds), "{rounds}");
    assert!(
        pool.backends()
            .iter()
            .all(|backend| pool.trust(backend) == 10)
    );
}
