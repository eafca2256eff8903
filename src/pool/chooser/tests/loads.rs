//! `least_connections` and `random_two`.

use crate::pool::chooser::tests::*;

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
