//! The balancing methods: candidates in, one out. No lock, no clock, no socket.
//!
//! `Pool::choose` finds the candidates and calls [`Balancer::pick`] under its lock. A new method is
//! an arm there and a function here.
//!
//! Read next: `exchange/sending.rs`, where the request goes to the chosen backend. Cookies are in
//! `pool/persist.rs`.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::net::atomic::AtomicU64;
use crate::pool::hash::{log2, mix};
use crate::pool::settings::Method;
use crate::pool::state::BackendId;

/// A backend that may be chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Its place in the pool that chooses.
    pub index: usize,
    /// Its identity in every pool.
    pub id: BackendId,
    /// 1 to 1000.
    pub weight: u32,
    /// Its exchanges now.
    pub in_flight: usize,
    /// The hash of its name.
    pub name_key: u64,
}

/// What the methods remember between two choices, shared by all pools that follow each other, so
/// that turns go on when the configuration changes.
#[derive(Debug)]
pub struct Balancer {
    turns: SmoothRoundRobin,
    random: Random,
}

impl Balancer {
    /// Without any backend yet.
    pub(in crate::pool) fn new() -> Balancer {
        Balancer {
            turns: SmoothRoundRobin::new(),
            random: Random::new(),
        }
    }

    /// Takes this empty list in place of a smaller one; returns the old one, to be dropped after
    /// the lock is released.
    pub(in crate::pool) fn swap_room(&mut self, mut members: Vec<Member>) -> Vec<Member> {
        if members.capacity() > self.turns.members.capacity() {
            members.extend_from_slice(&self.turns.members);
            std::mem::swap(&mut self.turns.members, &mut members);
        }
        members
    }

    /// Picks one of the candidates, at least one, and returns its index among them. May remove
    /// candidates that the method rules out. `turn` finds what round robin remembers of the backend
    /// at a place in the pool; only `source_hash` reads `client_key`.
    pub(in crate::pool) fn pick<'a>(
        &mut self,
        method: Method,
        candidates: &mut Vec<Candidate>,
        turn: impl Fn(usize) -> &'a Turn,
        client_key: u64,
    ) -> usize {
        match method {
            Method::RoundRobin => self.turns.next(candidates, turn),
            Method::LeastConnections => {
                least_loaded(candidates);
                self.turns.next(candidates, turn)
            }
            Method::RandomTwo => better_of_two(&mut self.random, candidates),
            Method::SourceHash => highest_score(candidates, client_key),
        }
    }
}

/// Smooth weighted round robin over a set that may differ at each turn.
///
/// Each backend has a *credit*: the share of the turns that was its due while it was eligible,
/// minus the turns it got. A turn goes to the greatest credit, the first of equals. The credit of a
/// backend that is not eligible rests: it neither earns nor loses, so a dead backend's share
/// spreads over the others by weight, a flapping one cannot push its turns on its neighbour, and
/// after any sequence of changes every backend is within one period of its due.
///
/// While the set and its weights stay the same, a period (the sum of the weights, divided by what
/// they have in common) gives each backend exactly its weight: its *quota*. Without it a credit
/// left over from earlier sets could be cashed in as a burst; with it, it only decides who comes
/// first.
///
/// Credits and quotas are part of a backend's state: they follow it to another place and go when it
/// is removed. A new backend is owed nothing.
#[derive(Debug)]
struct SmoothRoundRobin {
    /// The set that the quotas are for.
    members: Vec<Member>,
    /// The sum of the members' weights.
    total: u32,
    /// Turns left in this period.
    left: u32,
}

/// A backend and its weight in the counted set.
pub(in crate::pool) type Member = (BackendId, u32);

/// What round robin remembers of one backend, under the balancer's lock.
#[derive(Debug)]
pub(in crate::pool) struct Turn {
    /// An i64, in units of 1 / (`total` << `FINE`) of a turn: whole numbers, so no rounding while
    /// the set lasts.
    credit: AtomicU64,
    /// The sum of the weights in the set that it was in last.
    total: AtomicU32,
    /// What is left of its quota in this period.
    quota: AtomicU32,
}

/// Credits are rounded when the sum of the weights changes: this is how finely. 2^20 leaves room
/// for 65,536 backends of weight 1000 (2^26 x 2^20) with credits of many turns in an i64.
const FINE: u32 = 20;

impl Default for Turn {
    fn default() -> Turn {
        Turn {
            credit: AtomicU64::new(0),
            total: AtomicU32::new(1),
            quota: AtomicU32::new(0),
        }
    }
}

impl Turn {
    fn credit(&self) -> i64 {
        self.credit.load(Relaxed).cast_signed()
    }

    fn set_credit(&self, credit: i64) {
        self.credit.store(credit.cast_unsigned(), Relaxed);
    }

    /// Converts its credit to another set's units, at its first turn there.
    fn join(&self, total: u32) {
        let before = self.total.load(Relaxed);
        if before != total {
            self.set_credit(scaled(self.credit(), total, before));
            self.total.store(total, Relaxed);
        }
    }
}

impl SmoothRoundRobin {
    fn new() -> SmoothRoundRobin {
        SmoothRoundRobin {
            members: Vec::new(),
            total: 1,
            left: 0,
        }
    }

    fn next<'a>(&mut self, candidates: &[Candidate], turn: impl Fn(usize) -> &'a Turn) -> usize {
        let set = candidates.iter().map(|one| (one.id, one.weight));
        if !self.members.iter().copied().eq(set.clone()) {
            self.members.clear();
            self.members.extend(set);
            self.total = candidates.iter().map(|one| one.weight).sum();
            for candidate in candidates {
                turn(candidate.index).join(self.total);
            }
            self.begin_period(candidates, &turn);
        } else if self.left == 0 {
            self.begin_period(candidates, &turn);
        }
        let mut best = 0;
        let mut best_credit = i64::MIN;
        for (place, candidate) in candidates.iter().enumerate() {
            let turn = turn(candidate.index);
            let credit = turn.credit() + (i64::from(candidate.weight) << FINE);
            turn.set_credit(credit);
            if credit > best_credit && turn.quota.load(Relaxed) > 0 {
                (best, best_credit) = (place, credit);
            }
        }
        let winner = turn(candidates[best].index);
        winner.set_credit(winner.credit() - (i64::from(self.total) << FINE));
        let quota = winner.quota.load(Relaxed);
        debug_assert!(
            quota > 0,
            "as long as turns are left, a member has some of them"
        );
        winner.quota.store(quota.saturating_sub(1), Relaxed);
        self.left -= 1;
        best
    }

    fn begin_period<'a>(&mut self, candidates: &[Candidate], turn: impl Fn(usize) -> &'a Turn) {
        let common = candidates
            .iter()
            .fold(0, |common, one| gcd(common, one.weight));
        for candidate in candidates {
            let quota = candidate.weight / common;
            turn(candidate.index).quota.store(quota, Relaxed);
        }
        self.left = self.total / common;
    }
}

/// `value` x `to` / `from`, rounded to the nearest.
fn scaled(value: i64, to: u32, from: u32) -> i64 {
    let (value, to, from) = (i128::from(value), i128::from(to), i128::from(from));
    let scaled = (2 * value * to + from).div_euclid(2 * from);
    i64::try_from(scaled).unwrap_or(0)
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Keeps those that have no more than their share of the exchanges in flight.
///
/// In proportion to weight, a backend has too much when another one would, even with this exchange
/// added, have no more than it has now. With equal weights that leaves exactly those with the
/// fewest; with unequal ones an idle pool is left whole, so that turns follow the weights and the
/// lightest is not starved.
fn least_loaded(candidates: &mut Vec<Candidate>) {
    let load_with_one = |c: &Candidate| (c.in_flight as u64 + 1, u64::from(c.weight));
    let Some((load, weight)) = candidates
        .iter()
        .map(load_with_one)
        .min_by(|a, b| (a.0 * b.1).cmp(&(b.0 * a.1)))
    else {
        return;
    };
    candidates.retain(|c| (c.in_flight as u64) * weight < load * u64::from(c.weight));
}

/// Draws two by weight; takes the second only if it would, with this exchange added, have no more
/// in proportion to its weight than the first has without it.
fn better_of_two(random: &mut Random, candidates: &[Candidate]) -> usize {
    let total = candidates
        .iter()
        .map(|candidate| u64::from(candidate.weight))
        .sum();
    let first = draw(random.below(total), candidates, None);
    let rest = total - u64::from(candidates[first].weight);
    if rest == 0 {
        return first;
    }
    let second = draw(random.below(rest), candidates, Some(first));
    let (a, b) = (&candidates[first], &candidates[second]);
    if (b.in_flight as u64 + 1) * u64::from(a.weight) <= a.in_flight as u64 * u64::from(b.weight) {
        return second;
    }
    first
}

/// The holder of a ticket, when each candidate but `without` has as many tickets as its weight.
fn draw(mut ticket: u64, candidates: &[Candidate], without: Option<usize>) -> usize {
    let mut last = 0;
    for (place, candidate) in candidates.iter().enumerate() {
        if Some(place) == without {
            continue;
        }
        last = place;
        match ticket.checked_sub(u64::from(candidate.weight)) {
            Some(rest) => ticket = rest,
            None => break,
        }
    }
    last
}

/// Rendezvous hashing: each backend has a score with this client that depends on no other backend,
/// and the best score wins; so losing a backend moves its own clients only, and spreads them
/// evenly.
///
/// The score is an exponential variable, -log2(hash / 2^64) / weight, and the smallest wins with a
/// probability in proportion to its weight.
fn highest_score(candidates: &[Candidate], client_key: u64) -> usize {
    let hash = |candidate: &Candidate| mix(client_key.wrapping_add(candidate.name_key));
    let mut best = 0;
    for place in 1..candidates.len() {
        let (this, that) = (&candidates[place], &candidates[best]);
        let (a, b) = (hash(this), hash(that));
        let better = if this.weight == that.weight {
            a > b
        } else {
            // Crosswise instead of dividing; 38 bits by 10. Equal logarithms are decided as equal
            // weights are.
            let (x, y) = (
                minus_log2(a) * u64::from(that.weight),
                minus_log2(b) * u64::from(this.weight),
            );
            x < y || x == y && a > b
        };
        if better {
            best = place;
        }
    }
    best
}

/// -log2(hash / 2^64) in units of 2^-32, more than 0.
fn minus_log2(hash: u64) -> u64 {
    (64 << 32) - log2(hash.max(1))
}

/// A small generator (`SplitMix64`), seeded in each process: two balancers must not draw alike.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn new() -> Random {
        Random(RandomState::new().hash_one(0))
    }

    /// A number below `bound` (at least 1); the bias of 2^-54 for a bound of 1024 does not matter.
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let number = u128::from(mix(self.0)) * u128::from(bound);
        u64::try_from(number >> 64).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn candidates(weights: &[u32]) -> Vec<Candidate> {
        let new = |(index, &weight)| Candidate {
            index,
            id: BackendId(u32::try_from(index).unwrap() + 1),
            weight,
            in_flight: 0,
            name_key: crate::pool::persist::name_key(&format!("backend-{index}")),
        };
        weights.iter().enumerate().map(new).collect()
    }

    fn only(all: &[Candidate], up: impl Fn(usize) -> bool) -> Vec<Candidate> {
        all.iter()
            .copied()
            .filter(|candidate| up(candidate.index))
            .collect()
    }

    /// Turns, and what they remember of each backend.
    struct Bench {
        turns: SmoothRoundRobin,
        of_each: Vec<Turn>,
    }

    impl Bench {
        fn new(backends: usize) -> Bench {
            Bench {
                turns: SmoothRoundRobin::new(),
                of_each: of_each(backends),
            }
        }
    }

    fn of_each(backends: usize) -> Vec<Turn> {
        (0..backends).map(|_| Turn::default()).collect()
    }

    fn turn(bench: &mut Bench, set: &[Candidate]) -> usize {
        set[bench.turns.next(set, |index| &bench.of_each[index])].index
    }

    #[test]
    fn equal_backends_are_hit_in_exact_turns() {
        for n in [1, 2, 3, 4, 7, 64] {
            let set = candidates(&vec![5; n]);
            let mut bench = Bench::new(n);
            for request in 0..5 * n {
                assert_eq!(turn(&mut bench, &set), request % n);
            }
        }
    }

    #[test]
    fn unequal_weights_are_interleaved_and_not_bursts() {
        let set = candidates(&[5, 1, 1]);
        let mut bench = Bench::new(3);
        let order: Vec<usize> = (0..14).map(|_| turn(&mut bench, &set)).collect();
        assert_eq!(order, [0, 0, 1, 0, 2, 0, 0, 0, 0, 1, 0, 2, 0, 0]);
    }

    #[test]
    fn a_dead_backends_share_spreads_evenly_and_not_on_its_neighbour() {
        let all = candidates(&[1; 5]);
        let mut bench = Bench::new(5);
        let mut hits = [0; 5];
        for request in 0..4000 {
            let set = only(&all, |index| index != 2 || request < 3);
            hits[turn(&mut bench, &set)] += 1;
        }
        assert!(hits[2] <= 1);
        for index in [0, 1, 3, 4] {
            assert!((999..=1000).contains(&hits[index]), "{hits:?}");
        }
    }

    #[test]
    fn a_backend_that_comes_back_gets_its_turns_and_no_burst() {
        let all = candidates(&[1; 4]);
        let mut bench = Bench::new(4);
        for request in 0..1_001 {
            let set = only(&all, |index| index != 1 || request < 2);
            turn(&mut bench, &set);
        }
        let first: Vec<usize> = (0..4).map(|_| turn(&mut bench, &all)).collect();
        let mut sorted = first.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, [0, 1, 2, 3]);
        for request in 0..4000 {
            assert_eq!(turn(&mut bench, &all), first[request % 4]);
        }
    }

    #[test]
    fn a_backend_that_flaps_at_every_turn_gives_its_neighbour_no_double_traffic() {
        let all = candidates(&[1; 4]);
        let mut bench = Bench::new(4);
        let mut hits = [0i32; 4];
        for request in 0..3000 {
            // Down whenever a fixed order would have hit it.
            let set = only(&all, |index| index != 1 || request % 3 != 1);
            hits[turn(&mut bench, &set)] += 1;
        }
        // Due: 1/4 of 2000 turns for the flapping one, and for the others as much and a third of
        // the rest.
        for (index, due) in [833, 500, 833, 833].into_iter().enumerate() {
            assert!((hits[index] - due).abs() <= 2, "{hits:?}");
        }
    }

    /// What each backend was due and got, over a sequence of sets. Runs of (set, turns).
    fn drift(weights: &[u32], runs: &[(u64, u32)]) -> f64 {
        let all = candidates(weights);
        let mut bench = Bench::new(weights.len());
        let mut owed = vec![0f64; weights.len()];
        let mut worst = 0f64;
        for &(mask, length) in runs {
            let mut set = only(&all, |index| mask >> index & 1 == 1);
            if set.is_empty() {
                set.push(all[0]);
            }
            let total: u32 = set.iter().map(|candidate| candidate.weight).sum();
            for _ in 0..length {
                for candidate in &set {
                    owed[candidate.index] += f64::from(candidate.weight) / f64::from(total);
                }
                owed[turn(&mut bench, &set)] -= 1.0;
                worst = owed.iter().fold(worst, |worst, owed| worst.max(owed.abs()));
            }
        }
        worst
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn counts_stay_within_one_period_of_exact_for_any_weights_and_any_changes(
            weights in prop::collection::vec(1..20u32, 1..8),
            runs in prop::collection::vec((any::<u64>(), 1..40u32), 1..60)
        ) {
            let common = weights.iter().fold(0, |common, &weight| gcd(common, weight));
            let period = f64::from(weights.iter().sum::<u32>() / common);
            let worst = drift(&weights, &runs);
            prop_assert!(worst <= period, "{worst} of {period}");
        }

        #[test]
        fn a_period_is_exact_from_the_first_turn_after_any_changes(
            weights in prop::collection::vec(1..20u32, 1..8),
            runs in prop::collection::vec((any::<u64>(), 1..40u32), 0..20),
            offset in 0..100u32
        ) {
            let all = candidates(&weights);
            let mut bench = Bench::new(weights.len());
            for (mask, length) in runs {
                let set = only(&all, |index| mask >> index & 1 == 1);
                for _ in 0..if set.is_empty() { 0 } else { length } {
                    turn(&mut bench, &set);
                }
            }
            let common = weights.iter().fold(0, |common, &weight| gcd(common, weight));
            // A window that begins anywhere.
            bench.turns.members.clear();
            for _ in 0..offset {
                turn(&mut bench, &all);
            }
            let mut hits = vec![0; weights.len()];
            for _ in 0..weights.iter().sum::<u32>() / common {
                hits[turn(&mut bench, &all)] += common;
            }
            prop_assert_eq!(hits, weights);
        }

        #[test]
        fn every_method_picks_a_candidate(
            weights in prop::collection::vec(1..1000u32, 1..10), loads in prop::collection::vec(0..50usize, 10),
            masks in prop::collection::vec(any::<u64>(), 1..50), key in any::<u64>()
        ) {
            let all = candidates(&weights);
            let mut balancer = Balancer::new();
            let of_each = of_each(weights.len());
            for mask in masks {
                for method in [Method::RoundRobin, Method::LeastConnections, Method::RandomTwo, Method::SourceHash] {
                    let mut set = only(&all, |index| mask >> index & 1 == 1);
                    for candidate in &mut set {
                        candidate.in_flight = loads[candidate.index];
                    }
                    if set.is_empty() {
                        continue;
                    }
                    let before = set.clone();
                    let place = balancer.pick(method, &mut set, |index| &of_each[index], key);
                    prop_assert!(before.contains(&set[place]));
                }
            }
        }

        #[test]
        fn with_equal_weights_least_connections_picks_one_with_the_fewest(
            loads in prop::collection::vec(0..5usize, 1..10)
        ) {
            let mut set = candidates(&vec![3; loads.len()]);
            for candidate in &mut set {
                candidate.in_flight = loads[candidate.index];
            }
            least_loaded(&mut set);
            let fewest = *loads.iter().min().unwrap();
            let all_fewest: Vec<usize> = (0..loads.len()).filter(|&index| loads[index] == fewest).collect();
            prop_assert_eq!(set.iter().map(|candidate| candidate.index).collect::<Vec<_>>(), all_fewest);
        }

        #[test]
        fn a_hash_moves_only_the_clients_of_a_lost_backend(
            weights in prop::collection::vec(1..10u32, 2..10), lost in 0..10usize, keys in prop::collection::vec(any::<u64>(), 50)
        ) {
            let all = candidates(&weights);
            let lost = lost % weights.len();
            let left = only(&all, |index| index != lost);
            for key in keys {
                let (before, after) = (all[highest_score(&all, key)].index, left[highest_score(&left, key)].index);
                prop_assert!(before == lost || before == after);
            }
        }
    }

    /// Sends `requests` with `held` exchanges in flight at once, the oldest ending first.
    fn spread(method: Method, weights: &[u32], held: usize, requests: usize) -> Vec<usize> {
        let mut balancer = Balancer::new();
        let of_each = of_each(weights.len());
        let mut all = candidates(weights);
        let mut open = std::collections::VecDeque::new();
        let mut hits = vec![0; weights.len()];
        for request in 0..requests {
            if open.len() > held {
                let index: usize = open.pop_front().unwrap();
                all[index].in_flight -= 1;
            }
            let mut set = all.clone();
            let place = balancer.pick(
                method,
                &mut set,
                |index| &of_each[index],
                mix(request as u64),
            );
            let index = set[place].index;
            all[index].in_flight += 1;
            hits[index] += 1;
            open.push_back(index);
        }
        hits
    }

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
    }

    #[test]
    fn least_connections_keeps_what_is_in_flight_in_proportion_to_weight() {
        for (weights, held) in [
            (&[1, 3][..], 39),
            (&[1, 3], 1),
            (&[1, 1000], 1),
            (&[10, 20, 30], 59),
        ] {
            let hits = spread(Method::LeastConnections, weights, held, 6000);
            let total: u32 = weights.iter().sum();
            for (index, &weight) in weights.iter().enumerate() {
                let due = 6000 * weight as usize / total as usize;
                // With few in flight the shares cannot be met exactly.
                assert!(
                    hits[index].abs_diff(due) <= due / 4 + 60,
                    "{weights:?}, {held} held: {hits:?}"
                );
            }
        }
    }

    #[test]
    fn least_connections_gives_a_slow_backend_less() {
        let mut set = candidates(&[1, 1, 1]);
        set[0].in_flight = 5;
        let mut balancer = Balancer::new();
        let of_each = of_each(3);
        for _ in 0..20 {
            let mut left = set.clone();
            let place = balancer.pick(
                Method::LeastConnections,
                &mut left,
                |index| &of_each[index],
                0,
            );
            assert_ne!(left[place].index, 0);
        }
    }

    #[test]
    fn random_two_honours_weights_idle_or_busy() {
        for held in [0, 1, 15, 63] {
            for weights in [&[1, 1, 1, 1][..], &[1, 3], &[1, 2, 5]] {
                let hits = spread(Method::RandomTwo, weights, held, 20_000);
                let total: u32 = weights.iter().sum();
                for (index, &weight) in weights.iter().enumerate() {
                    let due = 20_000 * weight as usize / total as usize;
                    // Five standard deviations of a fair draw are 350; load shifts the odds between
                    // light and heavy a little.
                    assert!(
                        hits[index].abs_diff(due) <= due / 6 + 350,
                        "{weights:?}, {held} held: {hits:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn random_two_avoids_the_busier_one() {
        let mut set = candidates(&[1, 1]);
        set[0].in_flight = 1;
        let mut random = Random::new();
        assert!((0..100).all(|_| better_of_two(&mut random, &set) == 1));
        assert_eq!(better_of_two(&mut random, &set[..1]), 0);
    }

    #[test]
    fn source_hash_spreads_clients_by_weight() {
        for weights in [&[1, 1, 1, 1][..], &[1, 3], &[1, 2, 5], &[1, 999]] {
            let hits = spread(Method::SourceHash, weights, 0, 40_000);
            let total: u32 = weights.iter().sum();
            for (index, &weight) in weights.iter().enumerate() {
                let due = 40_000 * weight as usize / total as usize;
                // Fixed keys: the result is the same in each run.
                assert!(hits[index].abs_diff(due) <= 500, "{weights:?}: {hits:?}");
            }
        }
    }

    #[test]
    fn source_hash_does_not_depend_on_the_order_of_the_backends() {
        let set = candidates(&[1, 2, 3, 3]);
        let mut reversed = set.clone();
        reversed.reverse();
        for key in (0..1000).map(mix) {
            assert_eq!(
                set[highest_score(&set, key)].index,
                reversed[highest_score(&reversed, key)].index
            );
        }
    }
}
