//! A request that fails often walks on through the list.

use crate::pool::tests::*;
use crate::pool::*;

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
