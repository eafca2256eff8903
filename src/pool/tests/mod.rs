//! The pool as an exchange sees it.

mod ejection;
mod fastest;
mod persistence;
mod queue;
mod record;
mod slow_start;
mod trials;
mod walk;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use crate::pool::backend::tests::settings;
use crate::pool::settings::{HttpCheck, Kind, Persistence};
use crate::pool::*;

pub(super) const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

pub(crate) fn health(kind: Kind) -> HealthCheckSettings {
    HealthCheckSettings {
        kind,
        http: HttpCheck::default(),
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
        ..BalanceSettings::default()
    }
}

pub(super) fn by_cookie() -> BalanceSettings {
    let persistence = Persistence::Cookie {
        name: "rondo".to_owned(),
    };
    BalanceSettings {
        persistence,
        ..balance(Method::RoundRobin)
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
        key: None,
        cookie: None,
        tries_left: true,
        repeats: false,
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
fn a_backup_does_not_stand_in_for_backends_that_are_full() {
    let mut list = backends(3);
    list[0].max_connections = Some(1);
    list[1].max_connections = Some(1);
    list[2].backup = true;
    let pool = Pool::new(list, &balance(Method::RoundRobin), &health(Kind::Tcp));
    let choose = |before: &[usize]| pool.choose(&selection(), &mut tried(&pool, before), None);
    let held = [choose(&[]), choose(&[])];
    assert!(matches!(choose(&[]), Choice::Unavailable));
    assert!(matches!(choose(&[0]), Choice::Exhausted), "1 is not tried");
    assert_eq!(hit_after(&pool, &[0, 1]), 2);
    down(&pool, 0);
    assert!(matches!(choose(&[]), Choice::Unavailable));
    down(&pool, 1);
    assert_eq!(hit(&pool), 2, "the healthy ones are gone, full or not");
    up(&pool, 0);
    drop(held);
    assert_eq!(hit(&pool), 0);
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn the_choice_is_always_from_the_first_group_that_has_a_candidate(
        kinds in prop::collection::vec((0..3u32, any::<bool>(), 0..4usize, any::<bool>(), any::<bool>(), 0..3u8), 1..6),
        before in any::<u8>(), method in 0..5usize, cookie in prop::option::of(0..6usize)
    ) {
        let method = [Method::RoundRobin, Method::LeastConnections, Method::RandomTwo, Method::Fastest, Method::SourceHash][method];
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
            let not_tried = |b: &Backend| !before.contains(&b.index);
            let not_tried = &not_tried;
            let of_group = |healthy: bool, backup: bool| pool.backends().iter().filter(
                move |b| may(b) && not_tried(b) && b.is_healthy() == healthy && b.settings.backup == backup);
            let any_healthy = pool.backends().iter().any(|b| may(b) && b.is_healthy());
            let group = [(true, false), (true, true), (false, false), (false, true)].into_iter()
                .find(|&(healthy, backup)| (healthy || !any_healthy) && of_group(healthy, backup).next().is_some())
                .filter(|&(healthy, backup)| of_group(healthy, backup).any(|b| !b.is_full()));
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
                Choice::Waiting(_) | Choice::QueueFull => prop_assert!(false, "none waits"),
                Choice::Unavailable => {
                    prop_assert_eq!(group, None);
                    prop_assert!(!pool.backends().iter().any(|b| may(b) && before.contains(&b.index)));
                }
            }
            prop_assert!(pool.backends().iter().all(|b| b.settings.max_connections.is_none_or(|max| b.in_flight() <= max)));
        }
    }
}
