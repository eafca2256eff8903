//! A backend that is down, and that no check brings up, is tried by an exchange.

use crate::pool::tests::*;
use crate::pool::time::Sources;
use crate::pool::*;

#[test]
fn without_checks_one_exchange_tries_a_down_backend_after_the_down_interval() {
    let mut settings = health(Kind::None);
    settings.down_interval = Duration::ZERO;
    let pool = Pool::new(backends(2), &balance(Method::RoundRobin), &settings);
    down(&pool, 0);
    let mut seen = hits(&pool, 4);
    seen.sort_unstable();
    assert_eq!(
        seen,
        [0, 0, 1, 1],
        "the interval is over at once, so it has its turns"
    );
    pool.report(&pool.backends()[0], Event::Connected, &"it connected");
    assert!(pool.backends()[0].is_healthy());

    let pool = Pool::new(
        backends(2),
        &balance(Method::RoundRobin),
        &health(Kind::None),
    );
    down(&pool, 0);
    assert_eq!(hits(&pool, 4), [1; 4], "the interval is not over");
    pool.backends()[0].allow_trial(0);
    let tries = hits(&pool, 6)
        .iter()
        .filter(|&&backend| backend == 0)
        .count();
    assert_eq!(tries, 1, "one exchange finds out, the next has to wait");
}

#[test]
fn the_down_interval_is_over_when_the_clock_of_the_pool_says_so_and_not_a_moment_earlier() {
    let (sources, now_us) = Sources::set(1);
    let settings = health(Kind::None);
    let interval_us = u64::try_from(settings.down_interval.as_micros()).unwrap();
    let balance = balance(Method::RoundRobin);
    let pool = Pool::with_sources(sources, backends(2), &balance, &settings);
    now_us.store(7_000_000, Ordering::Relaxed);
    down(&pool, 0);
    now_us.store(7_000_000 + interval_us - 1, Ordering::Relaxed);
    assert_eq!(hits(&pool, 4), [1; 4]);
    now_us.store(7_000_000 + interval_us, Ordering::Relaxed);
    let tries = hits(&pool, 4).iter().filter(|&&place| place == 0).count();
    assert_eq!(tries, 1, "the trial");
}

#[test]
fn pools_with_the_same_seed_draw_alike() {
    let drawn = |seed| {
        let balance = balance(Method::RandomTwo);
        let sources = Sources::set(seed).0;
        let pool = Pool::with_sources(sources, backends(8), &balance, &health(Kind::Tcp));
        hits(&pool, 100)
    };
    assert_eq!(drawn(1), drawn(1));
    assert_ne!(drawn(1), drawn(2));
}

#[test]
fn a_backend_that_is_not_checked_is_tried_again_beside_one_that_is() {
    let mut list = backends(2);
    list[0].check = false;
    let mut settings = health(Kind::Http);
    settings.down_interval = Duration::ZERO;
    let pool = Pool::new(list, &balance(Method::RoundRobin), &settings);
    down(&pool, 0);
    assert!(hits(&pool, 4).contains(&0), "one exchange finds out");
    pool.report(&pool.backends()[0], Event::Connected, &"it connected");
    assert!(
        pool.backends()[0].is_healthy(),
        "no check is waited for, as none will come"
    );
    down(&pool, 1);
    assert_eq!(hits(&pool, 4), [0; 4]);
    pool.report(&pool.backends()[1], Event::Connected, &"it connected");
    assert!(
        !pool.backends()[1].is_healthy(),
        "this one waits for its check"
    );
}

#[test]
fn without_checks_a_rise_of_two_does_not_wait_for_the_interval_again_after_the_first_success() {
    let mut settings = health(Kind::None);
    settings.rise = 2;
    let pool = Pool::new(backends(2), &balance(Method::RoundRobin), &settings);
    down(&pool, 0);
    for healthy in [false, true] {
        assert!(!pool.backends()[0].is_healthy());
        pool.backends()[0].allow_trial(0);
        while hit(&pool) != 0 {}
        pool.report(&pool.backends()[0], Event::Connected, &"it connected");
        assert_eq!(pool.backends()[0].is_healthy(), healthy);
        assert!(healthy || hits(&pool, 2).contains(&0));
    }
}

#[test]
fn with_icmp_an_echo_lets_one_exchange_try_what_a_failed_connect_took_down() {
    let pool = Pool::new(
        backends(2),
        &balance(Method::RoundRobin),
        &health(Kind::Icmp),
    );
    down(&pool, 0);
    assert_eq!(hits(&pool, 4), [1; 4]);
    up(&pool, 0);
    assert!(
        !pool.backends()[0].is_healthy(),
        "the host answers, which does not say that the server does"
    );
    assert_eq!(
        hits(&pool, 6)
            .iter()
            .filter(|&&backend| backend == 0)
            .count(),
        1
    );
    pool.report(&pool.backends()[0], Event::Connected, &"it connected");
    assert!(pool.backends()[0].is_healthy());
}
