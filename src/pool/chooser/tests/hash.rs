//! `hash`: its answers, and its bounds.

use crate::pool::chooser::tests::*;
use crate::pool::settings::{HashKey, HashSettings};
use crate::pool::trace::Decision;

fn by_path(load_percent_max: Option<u32>) -> BalanceSettings {
    let hash = HashSettings {
        key: HashKey::Path,
        load_percent_max,
    };
    BalanceSettings {
        hash,
        ..balance(Method::Hash)
    }
}

/// The backend of a request with this key, whose exchange goes on.
fn take_by_key(pool: &Pool, before: &[usize], key: &str) -> Option<InFlight> {
    let selection = Selection {
        key: Some(key.as_bytes()),
        ..selection()
    };
    match pool.choose(&selection, &mut tried(pool, before), None) {
        Choice::Backend { in_flight, .. } => Some(in_flight),
        _ => None,
    }
}

/// The same among those that are below their bounds.
fn highest_below_bound(pool: &Pool, places: &[usize], percent: u32, key: u64) -> usize {
    let load = |place: usize| pool.backends()[place].in_flight() as u64;
    let weight = |place: usize| u64::from(pool.backends()[place].settings.weight);
    let all = places.iter().copied();
    let (in_flight, total): (u64, u64) =
        (all.clone().map(load).sum(), all.clone().map(weight).sum());
    let may_take = |&place: &usize| {
        let share = u64::from(percent) * (in_flight + 1) * weight(place);
        load(place) < share.div_ceil(100 * total)
    };
    let below: Vec<usize> = all.filter(may_take).collect();
    highest_score_of_key(pool, &below, key)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_backend_is_sent_more_than_its_bound_and_the_next_in_order_takes_it(
        kinds in list(), changes in changes(), percent in 101..1001u32
    ) {
        let settings = settings(&kinds);
        let balance = by_path(Some(percent));
        let pool = Pool::new(settings.clone(), &balance, &health(Kind::Tcp));
        let count = kinds.len();
        let mut number = 0;
        let choose = |pool: &Pool, mask: u16| {
            // Few keys, one of them often.
            number = (number + 1) % 16;
            let key = (number / 8 * number).to_string();
            let before = marked(mask, count);
            let may = eligible(pool, &before);
            let expected = (!may.is_empty())
                .then(|| highest_below_bound(pool, &may, percent, persist::request_key(key.as_bytes())));
            let chosen = take_by_key(pool, &before, &key);
            match &chosen {
                Some(chosen) if !chosen.is_healthy() => prop_assert!(may.contains(&chosen.index)),
                chosen => prop_assert_eq!(chosen.as_ref().map(|chosen| chosen.index), expected),
            }
            Ok(chosen)
        };
        play(pool, settings, &balance, &changes, choose)?;
    }

    #[test]
    fn a_backend_that_leaves_moves_exactly_its_own_keys_and_one_that_joins_takes_its_share_of_each(
        weights in prop::collection::vec(1..6u32, 2..25), seed in any::<u32>(), at in any::<usize>()
    ) {
        const KEYS: usize = 2000;
        let at = at % weights.len();
        let pool = Pool::new(weighted(&weights), &by_path(None), &health(Kind::Tcp));
        let answers = |pool: &Pool| -> Vec<usize> {
            let key = |number: usize| format!("/{seed}/{number}");
            (0..KEYS).map(|number| take_by_key(pool, &[], &key(number)).unwrap().index).collect()
        };
        let all = answers(&pool);
        down(&pool, at);
        let without = answers(&pool);
        up(&pool, at);
        prop_assert_eq!(&all, &answers(&pool), "what joins takes back what was its own");
        for (&before, &after) in all.iter().zip(&without) {
            prop_assert_eq!(before == at, after != before);
            prop_assert!(after != at);
        }
        // Of what each of the others had without it, the same part.
        let total: u32 = weights.iter().sum();
        for other in (0..weights.len()).filter(|&other| other != at) {
            let had: f64 = without.iter().filter(|&&place| place == other).map(|_| 1.0).sum();
            let pairs = without.iter().zip(&all);
            let given: f64 = pairs.filter(|&(&b, &a)| b == other && a == at).map(|_| 1.0).sum();
            let due = had * f64::from(weights[at]) / f64::from(total);
            // Six standard deviations.
            prop_assert!((given - due).abs() <= 6.0 * due.sqrt() + 3.0, "{} of {}, due {}", given, had, due);
        }
    }
}

#[test]
fn source_hash_spreads_clients_by_weight() {
    for weights in [&[1, 1, 1, 1][..], &[1, 3], &[1, 2, 5], &[1, 999]] {
        // Fixed keys: the result is the same in each run.
        expect_shares(Method::SourceHash, weights, 0, 40_000, |_| 500);
    }
}

#[test]
fn what_a_hash_remembers_of_clients_ends_when_a_backend_joins() {
    let pool = pool_of(Method::SourceHash, &[3; 40]);
    let answers = || -> Vec<usize> {
        let all = (0..2000)
            .chain(0..2000)
            .map(|client| take(&pool, &[], client).unwrap().index);
        all.collect()
    };
    let expected = |places: &[usize]| -> Vec<usize> {
        let all = (0..2000).chain(0..2000);
        all.map(|client| highest_score_of_all(&pool, places, client))
            .collect()
    };
    let all: Vec<usize> = (0..40).collect();
    assert_eq!(answers(), expected(&all));
    down(&pool, 7);
    assert_eq!(answers(), expected(&[&all[..7], &all[8..]].concat()));
    up(&pool, 7);
    assert_eq!(answers(), expected(&all));
}

#[test]
fn hash_with_the_key_source_gives_what_source_hash_gives() {
    let weights = [1, 1, 3, 2, 1, 7];
    let one = pool_of(Method::SourceHash, &weights);
    let other = pool_of(Method::Hash, &weights);
    for client in 0..2000 {
        let [a, b] = [&one, &other].map(|pool| take(pool, &[], client).unwrap().index);
        assert_eq!(a, b, "{client}");
    }
}

// These answers are a promise: a release that changes one moves clients. Do not adapt the test.
#[test]
fn the_answers_are_the_same_in_every_release() {
    let weights = [1, 1, 1, 1, 5, 2];
    let pool = Pool::new(weighted(&weights), &by_path(None), &health(Kind::Tcp));
    let letters: String = (0..32)
        .map(|number| take_by_key(&pool, &[], &format!("/page/{number}")).unwrap())
        .map(|chosen| chosen.name.to_string())
        .collect();
    assert_eq!(letters, "eeeedcfaeefffedeeeecabbffeeeeeae");
    let by_source: String = (0..32)
        .map(|client| take(&pool, &[], 0xc000_0200 + client).unwrap())
        .map(|chosen| chosen.name.to_string())
        .collect();
    assert_eq!(
        by_source, "eaecddeafaefffacedfeeaeaebfaeece",
        "without a key the client's address decides"
    );
}

#[test]
fn the_bound_is_a_share_of_what_is_in_flight_rounded_up() {
    let pool = Pool::new(backends(4), &by_path(Some(150)), &health(Kind::Tcp));
    let held: Vec<InFlight> = (0..40)
        .map(|_| take_by_key(&pool, &[], "/one").unwrap())
        .collect();
    let counts = || {
        let mut counts: Vec<usize> = pool.backends().iter().map(|b| b.in_flight()).collect();
        counts.sort_unstable();
        counts
    };
    // 1.5 of a quarter of 40; the second in order takes as much as it may.
    assert_eq!(counts(), [0, 10, 15, 15]);
    assert!(pool.sent_on() > 20, "{}", pool.sent_on());
    drop(held);
    assert_eq!(counts(), [0; 4]);
    let sent_on = pool.sent_on();
    for _ in 0..20 {
        take_by_key(&pool, &[], "/one");
    }
    assert_eq!(pool.sent_on(), sent_on, "one at a time is never beyond it");
}

#[test]
fn a_record_says_which_were_at_their_bounds() {
    for count in [3, 40] {
        let pool = Pool::new(backends(count), &by_path(Some(101)), &health(Kind::Tcp));
        let selection = Selection {
            key: Some(b"/one"),
            ..selection()
        };
        let mut decision = Decision::default();
        let mut choose = || {
            let choice = pool.choose(&selection, &mut tried(&pool, &[]), Some(&mut decision));
            let text = decision.choice_text(|backend| pool.name(backend).unwrap());
            let Choice::Backend { in_flight, .. } = choice else {
                panic!("{choice:?}");
            };
            (in_flight, text)
        };
        let (first, text) = choose();
        assert!(
            text.starts_with(&format!("{}: the hash of its key", first.name)),
            "{text}"
        );
        let (second, text) = choose();
        let passed = format!(
            "{}: the next by hash; passed over: {} (at its bound)",
            second.name, first.name
        );
        assert!(text.starts_with(&passed), "{text}");
        if count == 40 {
            assert!(text.ends_with("others: 38 eligible"), "{text}");
        }
    }
}
