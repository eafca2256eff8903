//! Round robin: the plain one, and the fairness of turns.

use crate::pool::chooser::tests::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn turns_are_those_of_plain_smooth_round_robin_while_the_set_stays(
        weights in prop::collection::vec(1..1001u32, 1..40), turns in 1..400usize
    ) {
        let pool = pool_of(Method::RoundRobin, &weights);
        let total: i64 = weights.iter().map(|&weight| i64::from(weight)).sum();
        let mut credits = vec![0; weights.len()];
        for turn in 0..turns {
            for (credit, &weight) in credits.iter_mut().zip(&weights) {
                *credit += i64::from(weight);
            }
            let best = (0..weights.len()).rev().max_by_key(|&place| credits[place]).unwrap();
            credits[best] -= total;
            prop_assert_eq!(hits(&pool, 1), [best], "at turn {}", turn);
        }
    }

    #[test]
    fn retries_take_nothing_from_the_fairness_of_turns(
        weights in prop::collection::vec(1..10u32, 2..8), failing in any::<u8>(), requests in 1..1000usize
    ) {
        // Some backends refuse each request, which goes on to the next; none of them goes down.
        let pool = pool_of(Method::RoundRobin, &weights);
        let refuses = |place: usize| place > 0 && failing >> place & 1 == 1;
        let mut owed = vec![0f64; weights.len()];
        for _ in 0..requests {
            let mut before = Vec::new();
            loop {
                let left = || (0..weights.len()).filter(|place| !before.contains(place));
                let total: f64 = left().map(|place| f64::from(weights[place])).sum();
                for place in left() {
                    owed[place] += f64::from(weights[place]) / total;
                }
                let chosen = take(&pool, &before, 0).unwrap().index;
                owed[chosen] -= 1.0;
                if !refuses(chosen) {
                    break;
                }
                before.push(chosen);
            }
            prop_assert!(owed.iter().all(|owed| owed.abs() <= 2.0), "{:?}", owed);
        }
    }
}

#[test]
fn unequal_weights_are_interleaved_and_not_bursts() {
    let pool = pool_of(Method::RoundRobin, &[5, 1, 1]);
    let order = [0, 0, 1, 0, 2, 0, 0, 0, 0, 1, 0, 2, 0, 0];
    assert_eq!(hits(&pool, 14), order);
}

#[test]
fn a_dead_backends_share_spreads_evenly_and_not_on_its_neighbour() {
    let pool = pool_of(Method::RoundRobin, &[1; 5]);
    let mut served = [0; 5];
    for request in 0..4000 {
        if request == 3 {
            down(&pool, 2);
        }
        served[hits(&pool, 1)[0]] += 1;
    }
    assert!(served[2] <= 1);
    for index in [0, 1, 3, 4] {
        assert!((999..=1000).contains(&served[index]), "{served:?}");
    }
}

#[test]
fn a_backend_that_comes_back_gets_its_turns_and_no_burst() {
    let pool = pool_of(Method::RoundRobin, &[1; 4]);
    hits(&pool, 2);
    down(&pool, 1);
    hits(&pool, 999);
    up(&pool, 1);
    let first = hits(&pool, 4);
    let mut sorted = first.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, [0, 1, 2, 3]);
    for _ in 0..1000 {
        assert_eq!(hits(&pool, 4), first);
    }
}

#[test]
fn a_backend_that_flaps_at_every_turn_gives_its_neighbour_no_double_traffic() {
    let pool = pool_of(Method::RoundRobin, &[1; 4]);
    let mut served = [0i32; 4];
    for request in 0..3000 {
        // Down whenever a fixed order would have hit it.
        if request % 3 == 1 {
            down(&pool, 1);
        } else {
            up(&pool, 1);
        }
        served[hits(&pool, 1)[0]] += 1;
    }
    // Due: 1/4 of 2000 turns for the flapping one, and for the others as much and a third of the
    // rest.
    for (index, due) in [833, 500, 833, 833].into_iter().enumerate() {
        assert!((served[index] - due).abs() <= 2, "{served:?}");
    }
}

#[test]
fn a_backend_that_is_full_at_every_other_turn_ends_no_period_of_the_others_unfairly() {
    let mut list = backends(5);
    list[4].max_connections = Some(1);
    let pool = Pool::new(list, &balance(Method::RoundRobin), &health(Kind::Tcp));
    let mut served = [0; 5];
    let mut held = None;
    for request in 0..5000 {
        let chosen = take(&pool, &[], 0).unwrap();
        served[chosen.index] += 1;
        match chosen.index {
            4 => held = Some(chosen),
            _ if request % 2 == 0 => drop(held.take()),
            _ => {}
        }
    }
    assert!(
        served[..4]
            .iter()
            .all(|count| usize::abs_diff(*count, served[0]) <= 2),
        "{served:?}"
    );
    assert!(served[4] > 500, "{served:?}");
}
