//! Clients that stay with their backend: by a cookie, by their address.

use crate::pool::tests::*;
use crate::pool::*;

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
        persistence,
        ..balance(Method::LeastConnections)
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
