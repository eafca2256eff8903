//! The pool as an exchange sees it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use crate::pool::backend::tests::settings;
use crate::pool::settings::{HttpCheck, Kind, Persistence, StatusRanges};
use crate::pool::*;

pub(super) const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

pub(crate) fn health(kind: Kind) -> HealthCheckSettings {
    HealthCheckSettings {
        kind,
        http: HttpCheck {
            path: "/".to_owned(),
            status: StatusRanges(vec![200..=399]),
            ..HttpCheck::default()
        },
        port: None,
        interval: Duration::from_secs(60),
        down_interval: Duration::from_secs(3600),
        timeout: Duration::from_secs(5),
        rise: 1,
        fall: 1,
    }
}

pub(crate) fn balance(method: Method) -> BalanceSettings {
    BalanceSettings {
        method,
        persistence: Persistence::None,
        tries: 3,
    }
}

pub(super) fn by_cookie() -> BalanceSettings {
    let persistence = Persistence::Cookie {
        name: "rondo".to_owned(),
    };
    BalanceSettings {
        method: Method::RoundRobin,
        persistence,
        tries: 3,
    }
}

/// Longer than anything here takes, on the slowest machine.
pub(crate) const LONG: Duration = Duration::from_secs(30);

/// Waits for another thread to bring something about.
pub(crate) fn until(condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < LONG, "it did not come about");
        thread::yield_now();
    }
}

/// Backends a, b, c, ...
pub(super) fn backends(n: usize) -> Vec<BackendSettings> {
    ('a'..)
        .take(n)
        .map(|name| settings(&name.to_string()))
        .collect()
}

pub(super) fn pool(n: usize) -> Pool {
    Pool::new(
        backends(n),
        &balance(Method::RoundRobin),
        &health(Kind::Tcp),
    )
}

pub(super) fn selection() -> Selection<'static> {
    Selection {
        client: CLIENT,
        cookie: None,
        tries_left: true,
    }
}

pub(super) fn tried(pool: &Pool, backends: &[usize]) -> Tried {
    let mut tried = Tried::default();
    for &backend in backends {
        tried.insert(&pool.backends()[backend]);
    }
    tried
}

/// The backend of an exchange that ends at once.
pub(super) fn hit(pool: &Pool) -> usize {
    hit_after(pool, &[])
}

pub(super) fn hit_after(pool: &Pool, before: &[usize]) -> usize {
    match pool.choose(&selection(), &mut tried(pool, before), None) {
        Choice::Backend { in_flight, .. } => in_flight.index,
        other => panic!("{other:?}"),
    }
}

pub(super) fn hits(pool: &Pool, n: usize) -> Vec<usize> {
    (0..n).map(|_| hit(pool)).collect()
}

pub(super) fn down(pool: &Pool, backend: usize) {
    pool.report(
        &pool.backends()[backend],
        Event::ConnectFailed,
        &"connect to it refused",
    );
}

pub(super) fn up(pool: &Pool, backend: usize) {
    pool.probed(&pool.backends()[backend], Ok(()));
}

#[test]
fn sequential_requests_hit_equal_backends_in_exact_turns() {
    assert_eq!(hits(&pool(4), 9), [0, 1, 2, 3, 0, 1, 2, 3, 0]);
}

#[test]
fn a_backend_that_is_down_is_passed_over_until_it_is_up_again() {
    let pool = pool(4);
    down(&pool, 1);
    down(&pool, 2);
    assert_eq!(hits(&pool, 4), [0, 3, 0, 3]);
    up(&pool, 1);
    up(&pool, 2);
    let mut back = hits(&pool, 4);
    back.sort_unstable();
    assert_eq!(back, [0, 1, 2, 3]);
}

#[test]
fn regression_the_neighbour_of_a_dead_backend_gets_no_double_traffic() {
    let pool = pool(4);
    let mut served = [0; 4];
    for _ in 0..3000 {
        let first = hit(&pool);
        // It fails for each request that meets it, and never goes down: the request goes to the
        // next one.
        let last = if first == 1 {
            hit_after(&pool, &[1])
        } else {
            first
        };
        served[last] += 1;
    }
    for index in [0, 2, 3] {
        assert!(served[index] >= 998 && served[index] <= 1002, "{served:?}");
    }
}

#[test]
fn a_request_goes_to_each_backend_once_and_then_none_is_left() {
    let pool = pool(3);
    assert_eq!(hit_after(&pool, &[0, 2]), 1);
    assert!(matches!(
        pool.choose(&selection(), &mut tried(&pool, &[0, 1, 2]), None),
        Choice::Exhausted
    ));
}

#[test]
fn with_no_tries_left_healthy_backends_are_not_tried_but_unhealthy_ones_are() {
    let pool = pool(2);
    let last = Selection {
        tries_left: false,
        ..selection()
    };
    assert!(matches!(
        pool.choose(&last, &mut tried(&pool, &[0]), None),
        Choice::Exhausted
    ));
    down(&pool, 0);
    down(&pool, 1);
    assert!(matches!(
        pool.choose(&last, &mut tried(&pool, &[0]), None),
        Choice::Backend { .. }
    ));
    assert!(matches!(
        pool.choose(&last, &mut tried(&pool, &[0, 1]), None),
        Choice::Exhausted
    ));
}

/// The backends that a request is sent to which fails at each of them.
fn fails_everywhere(pool: &Pool) -> Vec<usize> {
    let mut tried = Tried::default();
    let mut met = Vec::new();
    while let Choice::Backend { in_flight, .. } = pool.choose(&selection(), &mut tried, None) {
        tried.insert(&in_flight);
        met.push(in_flight.index);
    }
    met
}

#[test]
fn a_request_that_fails_everywhere_meets_each_backend_once_and_looks_at_it_a_bounded_number_of_times()
 {
    for n in [1, 15, 16, 17, 100, 1000] {
        for all_down in [true, false] {
            let mut list = backends(n);
            list[n / 2].backup = true;
            let pool = Pool::new(list, &balance(Method::RoundRobin), &health(Kind::Tcp));
            if all_down {
                (0..n).for_each(|backend| down(&pool, backend));
            }
            for _ in 0..3 {
                pool.looked_at.store(0, Ordering::Relaxed);
                let mut met = fails_everywhere(&pool);
                let looked_at = pool.looked_at.load(Ordering::Relaxed);
                let looks_max = CHOICES_MAX as usize + WALK.len();
                assert!(looked_at <= looks_max * n, "{looked_at} looks at {n}");
                assert_eq!(met.last(), Some(&(n / 2)), "the backup comes last");
                met.sort_unstable();
                assert!(met.into_iter().eq(0..n));
            }
        }
    }
}

#[test]
fn a_request_that_walks_through_the_list_takes_what_comes_up_meanwhile_and_fails_open_last() {
    let pool = pool(100);
    (0..90).for_each(|backend| down(&pool, backend));
    let mut tried = Tried::default();
    let mut next = |pool: &Pool| match pool.choose(&selection(), &mut tried, None) {
        Choice::Backend { in_flight, .. } => {
            tried.insert(&in_flight);
            Some(in_flight.index)
        }
        _ => None,
    };
    for _ in 90..100 {
        let met = next(&pool).unwrap();
        assert!(met >= 90, "{met} is down");
        down(&pool, met);
    }
    for _ in 0..20 {
        assert!(next(&pool).unwrap() < 90);
    }
    up(&pool, 95);
    assert_eq!(next(&pool), None, "it was tried, and is healthy again");
    down(&pool, 95);
    let met = next(&pool).unwrap();
    let fresh = (0..90).find(|&backend| backend != met && !tried.contains(backend));
    up(&pool, fresh.unwrap());
    let mut next = || match pool.choose(&selection(), &mut tried, None) {
        Choice::Backend { in_flight, .. } => Some(in_flight.index),
        _ => None,
    };
    assert_eq!(next(), fresh);
}

#[test]
fn what_refused_another_request_since_the_walk_began_is_not_asked_again() {
    let pool = pool(100);
    (0..100).for_each(|backend| down(&pool, backend));
    let mut tried = tried(&pool, &(0..20).collect::<Vec<_>>());
    tried.choices = CHOICES_MAX;
    let met = match pool.choose(&selection(), &mut tried, None) {
        Choice::Backend { in_flight, .. } => in_flight.index,
        other => panic!("{other:?}"),
    };
    tried.insert(&pool.backends()[met]);
    let began_ms = tried.walk.unwrap().began_ms;
    let fresh = (20..100).find(|&backend| backend != met).unwrap();
    for backend in (20..100).filter(|&backend| backend != fresh) {
        pool.backends()[backend].attempts.failed(began_ms + 1);
    }
    assert!(matches!(
        pool.choose(&selection(), &mut tried, None),
        Choice::Backend { in_flight, .. } if in_flight.index == fresh
    ));
    tried.insert(&pool.backends()[fresh]);
    assert!(matches!(
        pool.choose(&selection(), &mut tried, None),
        Choice::Exhausted
    ));
}

#[test]
fn what_another_request_is_just_trying_comes_last() {
    let pool = pool(40);
    (0..40).for_each(|backend| down(&pool, backend));
    let mut tried = tried(&pool, &(0..20).collect::<Vec<_>>());
    tried.choices = CHOICES_MAX;
    let later = [21, 30, 39];
    for backend in later {
        let attempts = &pool.backends()[backend].attempts;
        attempts.failed(0);
        attempts.began(1);
    }
    let mut met = Vec::new();
    while let Choice::Backend { in_flight, .. } = pool.choose(&selection(), &mut tried, None) {
        met.push(in_flight.index);
        tried.insert(&in_flight);
    }
    assert_eq!(met.len(), 20);
    assert_eq!(met[17..], later);
}

#[test]
fn a_request_that_walks_through_the_list_meets_no_healthy_backend_beyond_its_tries() {
    let pool = pool(40);
    let last = Selection {
        tries_left: false,
        ..selection()
    };
    let mut tried = tried(&pool, &(0..20).collect::<Vec<_>>());
    tried.choices = CHOICES_MAX;
    assert!(matches!(
        pool.choose(&last, &mut tried, None),
        Choice::Exhausted
    ));
    (0..40).for_each(|backend| down(&pool, backend));
    assert!(matches!(
        pool.choose(&last, &mut tried, None),
        Choice::Backend { in_flight, .. } if in_flight.index >= 20
    ));
}

#[test]
fn what_many_dead_backends_leave_to_others_is_spread_evenly() {
    // Twenty refuse and twenty answer, and no check brings any of them up.
    let pool = pool(40);
    (0..40).for_each(|backend| down(&pool, backend));
    let mut served = [0; 40];
    for _ in 0..4000 {
        let mut tried = Tried::default();
        let last = loop {
            match pool.choose(&selection(), &mut tried, None) {
                Choice::Backend { in_flight, .. } if in_flight.index < 20 => {
                    tried.insert(&in_flight);
                }
                Choice::Backend { in_flight, .. } => break in_flight.index,
                other => panic!("{other:?}"),
            }
        };
        served[last] += 1;
    }
    assert!(
        served[20..]
            .iter()
            .all(|&count| (100..=400).contains(&count)),
        "{served:?}"
    );
}

#[test]
fn when_all_are_down_each_is_tried_in_turn() {
    let pool = pool(3);
    (0..3).for_each(|backend| down(&pool, backend));
    assert_eq!(hits(&pool, 6), [0, 1, 2, 0, 1, 2]);
    assert_eq!(hit_after(&pool, &[0, 1]), 2);
}

#[test]
fn a_request_that_tried_the_healthy_ones_does_not_fall_back_on_the_unhealthy() {
    let pool = pool(2);
    down(&pool, 1);
    assert!(matches!(
        pool.choose(&selection(), &mut tried(&pool, &[0]), None),
        Choice::Exhausted
    ));
}

#[test]
fn disabled_drained_weightless_and_full_are_never_used_not_even_when_all_others_are_down() {
    let mut list = backends(5);
    list[0].disabled = true;
    list[2].weight = 0;
    list[3].max_connections = Some(0);
    let pool = Pool::new(list, &balance(Method::RoundRobin), &health(Kind::Tcp));
    pool.backends()[1].set_operator(Operator::Draining);
    assert_eq!(hits(&pool, 3), [4, 4, 4]);
    (0..5).for_each(|backend| down(&pool, backend));
    assert_eq!(hits(&pool, 3), [4, 4, 4]);
    pool.backends()[4].set_operator(Operator::Disabled);
    assert!(matches!(
        pool.choose(&selection(), &mut tried(&pool, &[]), None),
        Choice::Unavailable
    ));
}

#[test]
fn a_disabled_backend_that_is_healthy_does_not_keep_the_others_from_being_tried() {
    let mut list = backends(2);
    list[0].disabled = true;
    let pool = Pool::new(list, &balance(Method::RoundRobin), &health(Kind::Tcp));
    down(&pool, 1);
    assert_eq!(hit(&pool), 1);
}

#[test]
fn backups_serve_only_when_no_other_is_left() {
    let mut list = backends(4);
    list[0].backup = true;
    list[1].backup = true;
    let pool = Pool::new(list, &balance(Method::RoundRobin), &health(Kind::Tcp));
    assert_eq!(hits(&pool, 3), [2, 3, 2]);
    assert_eq!(
        hit_after(&pool, &[2, 3]),
        0,
        "for this request no other is left"
    );
    down(&pool, 2);
    down(&pool, 3);
    let mut both = hits(&pool, 2);
    both.sort_unstable();
    assert_eq!(both, [0, 1]);
    down(&pool, 0);
    down(&pool, 1);
    let mut fail_open = hits(&pool, 2);
    fail_open.sort_unstable();
    assert_eq!(
        fail_open,
        [2, 3],
        "when none is healthy, the backups come last again"
    );
    assert!(hit_after(&pool, &[2, 3]) < 2);
}

#[test]
fn a_full_backend_is_passed_over_and_a_place_that_comes_back_is_used_again() {
    let mut list = backends(2);
    list[0].max_connections = Some(1);
    list[1].max_connections = Some(2);
    let pool = Pool::new(list, &balance(Method::RoundRobin), &health(Kind::Tcp));
    let mut held: Vec<InFlight> = (0..3)
        .map(
            |_| match pool.choose(&selection(), &mut tried(&pool, &[]), None) {
                Choice::Backend { in_flight, .. } => in_flight,
                other => panic!("{other:?}"),
            },
        )
        .collect();
    assert_eq!(
        (
            pool.backends()[0].in_flight(),
            pool.backends()[1].in_flight()
        ),
        (1, 2)
    );
    assert!(matches!(
        pool.choose(&selection(), &mut tried(&pool, &[]), None),
        Choice::Unavailable
    ));
    assert!(matches!(
        pool.choose(&selection(), &mut tried(&pool, &[1]), None),
        Choice::Exhausted
    ));
    held.retain(|place| place.index != 0);
    assert_eq!(hit(&pool), 0);
}

#[test]
fn the_tried_set_holds_any_backend_and_forgets() {
    let pool = pool(2000);
    let mut tried = Tried::default();
    for place in [0, 1, 63, 64, 65, 127, 128, 1000] {
        assert!(!tried.contains(place));
        tried.insert(&pool.backends()[place]);
        assert!(tried.contains(place));
        assert!(!tried.contains(place + 2));
    }
    tried.clear();
    assert!((0..2000).all(|place| !tried.contains(place)));
}

#[test]
fn two_threads_that_choose_at_once_stay_fair() {
    let pool = pool(4);
    let counts = [const { AtomicUsize::new(0) }; 4];
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..10_000 {
                    counts[hit(&pool)].fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    for count in &counts {
        assert_eq!(count.load(Ordering::Relaxed), 5000);
    }
    assert!(
        pool.backends()
            .iter()
            .all(|backend| backend.in_flight() == 0)
    );
}

#[test]
fn a_panic_under_the_balancers_lock_does_not_end_the_pool() {
    let pool = pool(2);
    thread::scope(|scope| {
        let holder = scope.spawn(|| {
            let _state = pool.shared.state.lock().unwrap();
            panic!("while it chooses, on purpose");
        });
        assert!(holder.join().is_err());
    });
    assert_eq!(hits(&pool, 2), [0, 1]);
}

#[test]
fn poison_requests_take_no_backend_away_until_one_dies_the_third_time_in_a_row() {
    let pool = pool(4);
    let die = |backend: usize| {
        let reason = "it closed before it answered";
        pool.report(&pool.backends()[backend], Event::Died, &reason);
    };
    // One `Died` for each exchange, whatever number of backends it was sent to.
    for _ in 0..8 {
        die(hit(&pool));
    }
    assert!(pool.backends().iter().all(|backend| backend.is_healthy()));
    (0..4).for_each(die);
    assert!(!pool.has_healthy());
    let mut served = hits(&pool, 4);
    served.sort_unstable();
    assert_eq!(
        served,
        [0, 1, 2, 3],
        "fail open: each of them still gets requests"
    );
    pool.report(
        &pool.backends()[2],
        Event::Answered,
        &"it answered a request",
    );
    assert_eq!(
        hits(&pool, 2),
        [2, 2],
        "and the first that answers is up at once"
    );
}

#[test]
fn regression_state_sticks_because_it_is_not_copied() {
    let pool = pool(2);
    let kept = Arc::clone(&pool.backends()[0]);
    down(&pool, 0);
    assert!(!kept.is_healthy() && !pool.backends()[0].is_healthy());
}

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

/// What a client with this cookie gets: the backend, and whether it gets a new cookie.
pub(super) fn with_cookie(pool: &Pool, cookie: Option<&[u8]>, before: &[usize]) -> (usize, bool) {
    match pool.choose(
        &Selection {
            cookie,
            ..selection()
        },
        &mut tried(pool, before),
        None,
    ) {
        Choice::Backend {
            in_flight,
            set_cookie,
        } => (in_flight.index, set_cookie),
        other => panic!("{other:?}"),
    }
}

fn cookie_pool() -> Pool {
    Pool::new(backends(3), &by_cookie(), &health(Kind::Tcp))
}

#[test]
fn a_client_without_a_cookie_is_bound_and_then_stays() {
    let pool = cookie_pool();
    assert_eq!(pool.cookie_name(), Some("rondo"));
    assert_eq!(with_cookie(&pool, None, &[]), (0, true));
    let b = persist::cookie_value("b");
    for _ in 0..10 {
        assert_eq!(with_cookie(&pool, Some(&b), &[]), (1, false));
    }
    assert_eq!(
        with_cookie(&pool, Some(b"unknown"), &[]),
        (1, true),
        "an unknown cookie is replaced"
    );
    let field = pool.backends()[1].set_cookie(false).unwrap();
    assert!(field.starts_with(b"rondo=") && field[6..38] == b);
}

#[test]
fn a_bound_client_is_bound_to_another_when_its_backend_is_down_or_disabled() {
    let pool = cookie_pool();
    let b = persist::cookie_value("b");
    down(&pool, 1);
    let (index, set_cookie) = with_cookie(&pool, Some(&b), &[]);
    assert!(index != 1 && set_cookie);
    up(&pool, 1);
    pool.backends()[1].set_operator(Operator::Disabled);
    let (index, set_cookie) = with_cookie(&pool, Some(&b), &[]);
    assert!(index != 1 && set_cookie);
}

#[test]
fn a_bound_client_stays_with_a_drained_backend_and_one_of_weight_0() {
    let mut list = backends(3);
    list[2].weight = 0;
    let pool = Pool::new(list, &by_cookie(), &health(Kind::Tcp));
    pool.backends()[1].set_operator(Operator::Draining);
    assert_eq!(
        with_cookie(&pool, Some(&persist::cookie_value("b")), &[]),
        (1, false)
    );
    assert_eq!(
        with_cookie(&pool, Some(&persist::cookie_value("c")), &[]),
        (2, false)
    );
    assert_eq!(with_cookie(&pool, None, &[]), (0, true));
}

#[test]
fn a_client_of_a_full_backend_is_served_elsewhere_and_keeps_its_cookie() {
    let mut list = backends(3);
    list[1].max_connections = Some(0);
    let pool = Pool::new(list, &by_cookie(), &health(Kind::Tcp));
    let b = persist::cookie_value("b");
    let (index, set_cookie) = with_cookie(&pool, Some(&b), &[]);
    assert!(index != 1 && !set_cookie);
    let (again, set_cookie) = with_cookie(&pool, Some(&b), &[index]);
    assert!(
        again != 1 && again != index && !set_cookie,
        "also when that one failed"
    );
}

#[test]
fn a_retry_after_the_bound_backend_failed_binds_to_the_one_that_serves() {
    let pool = cookie_pool();
    let b = persist::cookie_value("b");
    let (index, set_cookie) = with_cookie(&pool, Some(&b), &[1]);
    assert!(index != 1 && set_cookie);
}

#[test]
fn a_bound_client_that_meets_its_backend_when_all_are_down_keeps_its_cookie() {
    let pool = cookie_pool();
    (0..3).for_each(|backend| down(&pool, backend));
    let b = persist::cookie_value("b");
    let served: Vec<_> = (0..3).map(|_| with_cookie(&pool, Some(&b), &[])).collect();
    assert_eq!(served, [(0, true), (1, false), (2, true)]);
}

#[test]
fn source_address_keeps_a_client_with_its_backend_on_top_of_any_method() {
    let persistence = Persistence::SourceAddress;
    let settings = BalanceSettings {
        method: Method::LeastConnections,
        persistence,
        tries: 3,
    };
    let pool = Pool::new(backends(5), &settings, &health(Kind::Tcp));
    let home = hit(&pool);
    assert!(hits(&pool, 20).iter().all(|&backend| backend == home));
    down(&pool, home);
    let refuge = hit(&pool);
    assert!(refuge != home && hits(&pool, 20).iter().all(|&backend| backend == refuge));
    up(&pool, home);
    assert_eq!(hit(&pool), home);
}

#[test]
fn the_record_says_why_each_was_passed_over() {
    use Verdict::{Backup, Chosen, Disabled, Down, Draining, Full, Weightless};

    let mut list = backends(8);
    list[1].weight = 0;
    list[2].disabled = true;
    list[3].backup = true;
    list[4].max_connections = Some(0);
    let pool = Pool::new(list, &balance(Method::RoundRobin), &health(Kind::Tcp));
    pool.backends()[5].set_operator(Operator::Draining);
    down(&pool, 6);
    let mut decision = Decision::default();
    let choice = pool.choose(&selection(), &mut tried(&pool, &[0]), Some(&mut decision));
    assert!(matches!(choice, Choice::Backend { in_flight, .. } if in_flight.index == 7));
    let verdicts: Vec<Verdict> = decision
        .candidates()
        .0
        .iter()
        .map(|candidate| candidate.verdict)
        .collect();
    assert_eq!(
        verdicts,
        [
            Verdict::Tried,
            Weightless,
            Disabled,
            Backup,
            Full,
            Draining,
            Down,
            Chosen
        ]
    );
    assert_eq!(decision.tries().0[0].rule, Rule::Method(Method::RoundRobin));
}

#[test]
fn of_many_backends_the_record_has_the_chosen_the_tried_and_how_many_others_stood_how() {
    use Verdict::{Chosen, Down, Eligible, Tried};

    let pool = pool(50);
    down(&pool, 3);
    down(&pool, 4);
    let mut decision = Decision::default();
    let mut before = tried(&pool, &[0, 3]);
    let choice = pool.choose(&selection(), &mut before, Some(&mut decision));
    let Choice::Backend { in_flight, .. } = choice else {
        panic!("{choice:?}");
    };
    let id = |place: usize| pool.backends()[place].id;
    let (candidates, more) = decision.candidates();
    let shown: Vec<_> = candidates.iter().map(|c| (c.backend, c.verdict)).collect();
    assert_eq!(
        shown,
        [(id(0), Tried), (id(3), Tried), (in_flight.id, Chosen)]
    );
    assert_eq!(more, 47);
    assert_eq!(
        decision.others().collect::<Vec<_>>(),
        [(Eligible, 46), (Down, 1)]
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn the_choice_is_always_from_the_first_group_that_has_a_candidate(
        kinds in prop::collection::vec((0..3u32, any::<bool>(), 0..4usize, any::<bool>(), any::<bool>(), 0..3u8), 1..6),
        before in any::<u8>(), method in 0..4usize, cookie in prop::option::of(0..6usize)
    ) {
        let method = [Method::RoundRobin, Method::LeastConnections, Method::RandomTwo, Method::SourceHash][method];
        let mut list = backends(kinds.len());
        for (backend, &(weight, backup, max, limited, ..)) in list.iter_mut().zip(&kinds) {
            backend.weight = weight;
            backend.backup = backup;
            backend.max_connections = limited.then_some(max);
        }
        let settings = BalanceSettings { method, ..by_cookie() };
        let pool = Pool::new(list, &settings, &health(Kind::Tcp));
        for (index, &(.., healthy, operator)) in kinds.iter().enumerate() {
            if !healthy {
                down(&pool, index);
            }
            let operator = [Operator::Enabled, Operator::Draining, Operator::Disabled][usize::from(operator)];
            pool.backends()[index].set_operator(operator);
        }
        let before: Vec<usize> = (0..kinds.len()).filter(|index| before >> index & 1 == 1).collect();
        let value = cookie.map(|index| persist::cookie_value(['a', 'b', 'c', 'd', 'e', 'f'][index].encode_utf8(&mut [0; 4])));
        let selection = Selection { cookie: value.as_ref().map(|value| &value[..]), ..selection() };
        let may = |b: &Backend| b.operator() == Operator::Enabled && b.settings.weight > 0;
        let mut held = Vec::new();
        for _ in 0..20 {
            let free = |b: &Backend| may(b) && !b.is_full() && !before.contains(&b.index);
            let any = |healthy: bool, backup: bool| pool.backends().iter().any(
                |b| free(b) && b.is_healthy() == healthy && b.settings.backup == backup);
            let any_healthy = pool.backends().iter().any(|b| may(b) && b.is_healthy());
            let group = [(true, false), (true, true), (false, false), (false, true)].into_iter()
                .find(|&(healthy, backup)| (healthy || !any_healthy) && any(healthy, backup));
            match pool.choose(&selection, &mut tried(&pool, &before), None) {
                Choice::Backend { in_flight, set_cookie: false } if Some(in_flight.index) == cookie => {
                    prop_assert!(in_flight.operator() != Operator::Disabled && !before.contains(&in_flight.index));
                    held.push(in_flight);
                }
                Choice::Backend { in_flight, .. } => {
                    prop_assert!(may(&in_flight) && !before.contains(&in_flight.index));
                    prop_assert_eq!(group, Some((in_flight.is_healthy(), in_flight.settings.backup)));
                    held.push(in_flight);
                }
                Choice::Exhausted => {
                    prop_assert_eq!(group, None);
                    prop_assert!(pool.backends().iter().any(|b| may(b) && before.contains(&b.index)));
                }
                Choice::Unavailable => {
                    prop_assert_eq!(group, None);
                    prop_assert!(!pool.backends().iter().any(|b| may(b) && before.contains(&b.index)));
                }
            }
            prop_assert!(pool.backends().iter().all(|b| b.settings.max_connections.is_none_or(|max| b.in_flight() <= max)));
        }
    }
}
