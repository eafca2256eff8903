//! A backend that is down, and that no check brings up, is tried by an exchange.

use crate::pool::tests::*;
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
