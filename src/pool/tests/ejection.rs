//! A backend that answers badly is out for a time, by a clock that is set.

use std::sync::Arc;

use crate::net::atomic::AtomicU64;
use crate::pool::settings::EjectionSettings;
use crate::pool::tests::*;
use crate::pool::time::Sources;
use crate::pool::trace::Outcome;
use crate::pool::*;

fn rules(percent_max: u32) -> BalanceSettings {
    BalanceSettings {
        ejection: Some(EjectionSettings {
            percent_max,
            ..EjectionSettings::default()
        }),
        ..balance(Method::RoundRobin)
    }
}

fn set_pool(list: Vec<BackendSettings>, balance: &BalanceSettings) -> (Pool, Arc<AtomicU64>) {
    let (sources, now_us) = Sources::set(1);
    now_us.store(1_000_000, Ordering::Relaxed);
    let pool = Pool::with_sources(sources, list, balance, &health(Kind::Tcp));
    (pool, now_us)
}

fn answered(status: u16) -> Served {
    let took = Duration::from_millis(1);
    Served::Answered { status, took }
}

fn failed(outcome: Outcome) -> Served {
    let took = Duration::from_millis(1);
    Served::Failed { outcome, took }
}

/// So many exchanges in a row end with this status.
fn answer(pool: &Pool, backend: usize, status: u16, times: usize) {
    for _ in 0..times {
        pool.served(&pool.backends()[backend], answered(status));
        pool.served(&pool.backends()[backend], Served::Whole { status });
    }
}

fn is_out(pool: &Pool, backend: usize) -> bool {
    pool.backends()[backend].ejection.is_out()
}

fn out(pool: &Pool) -> Vec<usize> {
    (0..pool.backends().len())
        .filter(|&place| is_out(pool, place))
        .collect()
}

fn pass(now_us: &AtomicU64, seconds: u64) {
    now_us.fetch_add(seconds * 1_000_000, Ordering::Relaxed);
}

#[test]
fn so_many_bad_exchanges_in_a_row_and_not_one_less_eject_for_the_time() {
    let (pool, now_us) = set_pool(backends(3), &rules(50));
    hits(&pool, 3);
    answer(&pool, 1, 503, 4);
    answer(&pool, 1, 200, 1);
    answer(&pool, 1, 500, 4);
    assert_eq!(hits(&pool, 3), [0, 1, 2]);
    answer(&pool, 1, 599, 1);
    let shown = pool.backends()[1].shown();
    assert_eq!(shown.state, "ejected");
    let why = "5 bad exchanges in a row, the last one: status 599";
    assert_eq!(shown.since.reason.get(), why);
    assert!(pool.backends()[1].is_healthy(), "health is what checks say");
    assert_eq!(hits(&pool, 4), [0, 2, 0, 2]);
    assert_eq!(pool.shares(), [50_000, 0, 50_000]);
    now_us.fetch_add(29_999_999, Ordering::Relaxed);
    assert_eq!(hits(&pool, 4), [0, 2, 0, 2]);
    now_us.fetch_add(1, Ordering::Relaxed);
    let mut back = hits(&pool, 3);
    back.sort_unstable();
    assert_eq!(back, [0, 1, 2]);
    let shown = pool.backends()[1].shown();
    assert_eq!(
        (shown.state, shown.since.reason.get()),
        ("up", "back from ejection")
    );
    assert_eq!(pool.backends()[1].ejection.count(), 1);
    assert_eq!(
        pool.backends()[1].ejection.until_ms(),
        0,
        "no clock is read for it any more"
    );
}

#[test]
fn deaths_answers_that_do_not_come_and_answers_that_break_off_are_bad_and_failed_connects_are_not()
{
    let bad = [
        &[failed(Outcome::Died)][..],
        &[failed(Outcome::HeadTimedOut)],
        &[failed(Outcome::ConnectTimedOut)],
        // Its head was good.
        &[answered(200), Served::BrokeOff],
        &[answered(503)],
    ];
    let (pool, _) = set_pool(backends(2), &rules(50));
    hits(&pool, 1);
    for served in bad {
        assert!(!is_out(&pool, 0));
        for &served in served {
            pool.served(&pool.backends()[0], served);
        }
    }
    assert!(is_out(&pool, 0));
    let (pool, _) = set_pool(backends(2), &rules(50));
    hits(&pool, 1);
    for outcome in [
        Outcome::ConnectFailed,
        Outcome::RefusedHead,
        Outcome::NotHttp,
    ] {
        for _ in 0..10 {
            pool.served(&pool.backends()[0], failed(outcome));
        }
    }
    answer(&pool, 0, 404, 10);
    assert!(!is_out(&pool, 0));
}

/// Consul 11422: one user's errors ejected every backend.
#[test]
fn a_client_that_asks_for_errors_only_takes_no_more_out_than_the_share_and_all_others_are_served() {
    for (weights, percent_max, most) in [
        (&[1, 1, 1, 1][..], 50, 2),
        (&[1, 1, 1], 50, 1),
        (&[1, 1], 50, 1),
        (&[1], 50, 0),
        (&[1, 1, 1], 100, 2),
        (&[1, 1], 49, 0),
        (&[5, 1, 1, 1], 50, 3),
    ] {
        let mut list = backends(weights.len());
        for (backend, &weight) in list.iter_mut().zip(weights) {
            backend.weight = weight;
        }
        let (pool, now_us) = set_pool(list, &rules(percent_max));
        let all: u32 = weights.iter().sum();
        let mut highest = 0;
        for _ in 0..2000 {
            answer(&pool, hit(&pool), 500, 1);
            let out = out(&pool);
            let weight: u32 = out.iter().map(|&place| weights[place]).sum();
            assert!(weight * 100 <= all * percent_max, "{out:?} of {weights:?}");
            assert!(out.len() < weights.len());
            highest = highest.max(out.len());
            // The others.
            assert!(!is_out(&pool, hit(&pool)));
            now_us.fetch_add(50_000, Ordering::Relaxed);
        }
        assert_eq!(highest, most, "{weights:?} {percent_max}");
    }
}

#[test]
fn what_is_out_comes_back_when_no_other_is_healthy_or_the_rest_goes_down() {
    let (pool, _) = set_pool(backends(4), &rules(50));
    hits(&pool, 1);
    answer(&pool, 0, 500, 5);
    answer(&pool, 1, 500, 5);
    assert_eq!(out(&pool), [0, 1]);
    // Two of three would be more than half.
    down(&pool, 3);
    assert_eq!(out(&pool), [1], "the one that is over first is back");
    down(&pool, 2);
    assert_eq!(out(&pool), [1]);
    down(&pool, 0);
    assert!(out(&pool).is_empty());
    assert_eq!(hits(&pool, 2), [1, 1]);
}

#[test]
fn a_backup_serves_for_those_that_are_out_only_where_all_of_them_may_be() {
    let mut list = backends(2);
    list[1].backup = true;
    let (pool, _) = set_pool(list.clone(), &rules(99));
    hits(&pool, 1);
    answer(&pool, 0, 500, 5);
    assert_eq!(hits(&pool, 2), [0, 0]);
    let (pool, _) = set_pool(list, &rules(100));
    hits(&pool, 1);
    answer(&pool, 0, 500, 5);
    assert_eq!(hits(&pool, 2), [1, 1]);
    answer(&pool, 1, 500, 5);
    assert_eq!(hits(&pool, 2), [1, 1], "never the last");
    down(&pool, 1);
    assert!(out(&pool).is_empty(), "no other is healthy");
    assert_eq!(hits(&pool, 2), [0, 0]);
}

#[test]
fn one_that_is_out_and_full_keeps_no_other_from_serving() {
    let mut list = backends(2);
    list[0].max_connections = Some(1);
    list[1].backup = true;
    let (pool, _) = set_pool(list, &rules(100));
    let held = pool.choose(&selection(), &mut Tried::default(), None);
    assert!(matches!(&held, Choice::Backend { in_flight, .. } if in_flight.index == 0));
    answer(&pool, 0, 500, 5);
    assert_eq!(hits(&pool, 2), [1, 1]);
}

#[test]
fn what_was_under_way_when_it_went_out_does_not_count_when_it_is_back() {
    let (pool, now_us) = set_pool(backends(2), &rules(50));
    hits(&pool, 1);
    answer(&pool, 0, 500, 9);
    pass(&now_us, 30);
    hits(&pool, 1);
    answer(&pool, 0, 500, 4);
    assert!(!is_out(&pool, 0));
    answer(&pool, 0, 500, 1);
    assert!(is_out(&pool, 0));
}

#[test]
fn checks_do_not_end_an_ejection_and_the_operator_does() {
    let (pool, now_us) = set_pool(backends(3), &rules(50));
    hits(&pool, 1);
    answer(&pool, 0, 500, 5);
    up(&pool, 0);
    down(&pool, 0);
    assert_eq!(pool.backends()[0].shown().state, "down");
    up(&pool, 0);
    assert_eq!(pool.backends()[0].shown().state, "ejected");
    pool.backends()[0].set_operator(Operator::Disabled);
    assert_eq!(pool.backends()[0].shown().state, "disabled");
    pool.backends()[0].set_operator(Operator::Enabled);
    assert_eq!(pool.backends()[0].shown().state, "up");
    assert!(hits(&pool, 3).contains(&0));
    answer(&pool, 0, 500, 5);
    pass(&now_us, 30);
    hits(&pool, 1);
    assert!(!is_out(&pool, 0), "the row began again");
}

#[test]
fn it_returns_through_slow_start_and_by_hash_its_clients_go_to_the_next() {
    let settings = BalanceSettings {
        slow_start: Duration::from_secs(9),
        ..rules(50)
    };
    let (pool, now_us) = set_pool(backends(2), &settings);
    hits(&pool, 1);
    answer(&pool, 0, 500, 5);
    pass(&now_us, 30);
    let got = hits(&pool, 22).iter().filter(|place| **place == 0).count();
    assert_eq!(got, 2);
    assert_eq!(pool.trust(&pool.backends()[0]), 1);
    let settings = BalanceSettings {
        method: Method::SourceHash,
        ..rules(50)
    };
    let (pool, now_us) = set_pool(backends(5), &settings);
    let home = hit(&pool);
    answer(&pool, home, 500, 5);
    let refuge = hit(&pool);
    assert_ne!(refuge, home);
    pass(&now_us, 30);
    assert_eq!(hit(&pool), home);
}

#[test]
fn a_client_that_is_bound_by_a_cookie_leaves_a_backend_that_is_out() {
    let settings = BalanceSettings {
        ejection: rules(50).ejection,
        ..by_cookie()
    };
    let (pool, _) = set_pool(backends(2), &settings);
    let a = persist::cookie_value("a");
    assert_eq!(with_cookie(&pool, Some(&a), &[]), (0, false));
    answer(&pool, 0, 500, 5);
    assert_eq!(with_cookie(&pool, Some(&a), &[]), (1, true));
}

#[test]
fn a_reload_keeps_an_ejection_and_one_without_the_section_ends_it() {
    let (pool, _) = set_pool(backends(2), &rules(50));
    hits(&pool, 1);
    answer(&pool, 0, 500, 5);
    let next = Pool::following(Some(&pool), backends(2), &rules(60), &health(Kind::Tcp));
    assert_eq!(hits(&next, 2), [1, 1]);
    let settings = balance(Method::RoundRobin);
    let last = Pool::following(Some(&next), backends(2), &settings, &health(Kind::Tcp));
    assert!(hits(&last, 2).contains(&0));
    assert_eq!(last.backends()[0].shown().state, "up");
}

#[test]
fn a_decision_says_who_is_ejected() {
    let (pool, _) = set_pool(backends(2), &rules(50));
    hits(&pool, 1);
    answer(&pool, 0, 500, 5);
    let mut decision = Decision::default();
    let choice = pool.choose(&selection(), &mut Tried::default(), Some(&mut decision));
    assert!(matches!(choice, Choice::Backend { .. }));
    let verdicts: Vec<Verdict> = decision
        .candidates()
        .0
        .iter()
        .map(|one| one.verdict)
        .collect();
    assert_eq!(verdicts, [Verdict::Ejected, Verdict::Chosen]);
}

#[test]
fn a_retry_beyond_the_share_is_refused_and_one_after_a_failed_connect_is_not() {
    let (pool, now_us) = set_pool(backends(2), &balance(Method::RoundRobin));
    let retry = |repeats: bool| {
        let selection = Selection {
            repeats,
            ..selection()
        };
        let mut tried = tried(&pool, &[0]);
        tried.choices = 1;
        matches!(
            pool.choose(&selection, &mut tried, None),
            Choice::Backend { .. }
        )
    };
    assert_eq!((0..30).filter(|_| retry(true)).count(), 10);
    assert_eq!(pool.retries_refused(), 20);
    assert!((0..30).all(|_| retry(false)));
    pass(&now_us, 10);
    assert_eq!((0..30).filter(|_| retry(true)).count(), 10);
}
