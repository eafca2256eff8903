//! Which part of the new requests each backend is meant to get: its part of the weight of those
//! that take requests.
//!
//! Full backends count: they take requests again a moment later.

use crate::pool::moved::rounded;
use crate::pool::settings::BackendSettings;
use crate::pool::state::Operator;
use crate::pool::trust::FULL;
use crate::pool::{Pool, Tier};
use crate::text::names::places;

/// A share of 100 per cent; shares are in thousandths of a per cent.
const ALL: u64 = 100_000;

impl Pool {
    /// The share of each backend now, in their order, in thousandths of a per cent.
    pub(crate) fn shares(&self) -> Vec<u32> {
        let stands = self.backends.iter().map(|backend| {
            let operator = backend.operator();
            let trust = self.trust(backend);
            stand(&backend.settings, trust, backend.is_fit(), operator)
        });
        shares(stands.collect())
    }

    /// The same once these were its backends, and the operator had decided this by their names.
    pub(crate) fn shares_of<'a>(
        &self,
        backends: impl IntoIterator<Item = &'a BackendSettings>,
        decision: impl Fn(&str) -> Option<Operator>,
    ) -> Vec<u32> {
        let by_name = places(self.backends.iter().map(|known| &*known.settings.name));
        let stands = backends.into_iter().map(|settings| {
            let known = by_name.get(&*settings.name);
            let known = known.map(|&place| &*self.backends[place]);
            let known = known.filter(|known| settings.is_same_backend(&known.settings));
            // As a pool that follows decides it.
            let unchanged = known.filter(|known| known.settings.disabled == settings.disabled);
            let operator = decision(&settings.name)
                .or_else(|| unchanged.map(|known| known.operator()))
                .unwrap_or_else(|| Operator::of(settings));
            let is_fit = known.is_none_or(|known| known.is_fit());
            let trust = known.map_or(FULL, |known| self.trust(known));
            stand(settings, trust, is_fit, operator)
        });
        shares(stands.collect())
    }
}

/// The group of a backend, and its weight there.
fn stand(settings: &BackendSettings, trust: u32, is_fit: bool, operator: Operator) -> (Tier, u64) {
    let tier = match (is_fit, settings.backup) {
        _ if operator != Operator::Enabled || settings.weight == 0 => Tier::Empty,
        (true, false) => Tier::Healthy,
        (true, true) => Tier::HealthyBackup,
        (false, false) => Tier::Unhealthy,
        (false, true) => Tier::UnhealthyBackup,
    };
    // Those that are down have turns by their whole weight.
    let tenths = if is_fit { trust } else { FULL };
    (tier, u64::from(settings.weight * tenths))
}

/// All requests go to the first group that has a backend.
fn shares(stands: Vec<(Tier, u64)>) -> Vec<u32> {
    let first = stands.iter().map(|(tier, _)| *tier).min();
    let takes = |tier: Tier| Some(tier) == first && tier != Tier::Empty;
    let weights = stands.iter().filter(|(tier, _)| takes(*tier));
    let total = weights.map(|(_, weight)| weight).sum::<u64>().max(1);
    let share = |(tier, weight)| {
        let part = if takes(tier) { weight } else { 0 };
        u32::try_from(rounded(part * ALL, total)).unwrap_or(0)
    };
    stands.into_iter().map(share).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::Event;
    use crate::pool::backend::tests::settings;
    use crate::pool::settings::{Kind, Method};
    use crate::pool::tests::{balance, health};

    fn pool(weights: &[(&str, u32, bool)]) -> Pool {
        let of = |&(name, weight, backup): &(&str, u32, bool)| BackendSettings {
            weight,
            backup,
            ..settings(name)
        };
        let backends = weights.iter().map(of).collect();
        Pool::new(backends, &balance(Method::RoundRobin), &health(Kind::Tcp))
    }

    fn settings_of(pool: &Pool) -> Vec<BackendSettings> {
        let backends = pool.backends().iter();
        backends.map(|backend| backend.settings.clone()).collect()
    }

    #[test]
    fn a_share_is_a_part_of_the_weight_in_the_first_group_that_has_a_backend() {
        let pool = pool(&[
            ("a", 1, false),
            ("b", 2, false),
            ("c", 5, true),
            ("d", 0, false),
        ]);
        assert_eq!(pool.shares(), [33_333, 66_667, 0, 0]);
        let backends = pool.backends();
        backends[0].set_operator(Operator::Draining);
        assert_eq!(pool.shares(), [0, 100_000, 0, 0]);
        pool.report(&backends[1], Event::ConnectFailed, &"it is off");
        assert_eq!(pool.shares(), [0, 0, 100_000, 0], "backups");
        backends[2].set_operator(Operator::Disabled);
        assert_eq!(pool.shares(), [0, 100_000, 0, 0], "one that is down");
        backends[1].set_operator(Operator::Disabled);
        assert_eq!(pool.shares(), [0; 4]);
    }

    #[test]
    fn what_a_change_would_make_of_the_shares_is_what_it_makes() {
        let pool = pool(&[("a", 1, false), ("b", 1, false)]);
        let backends = pool.backends();
        let mut wanted = settings_of(&pool);
        let drained = |name: &str| (name == "b").then_some(Operator::Draining);
        assert_eq!(pool.shares_of(&wanted, drained), [100_000, 0]);
        assert_eq!(pool.shares(), [50_000; 2], "nothing is done");
        backends[0].set_operator(Operator::Draining);
        wanted[1].weight = 3;
        wanted.push(settings("c"));
        assert_eq!(pool.shares_of(&wanted, |_| None), [0, 75_000, 25_000]);
        wanted[0].url.port = 7;
        assert_eq!(
            pool.shares_of(&wanted, |_| None),
            [20_000, 60_000, 20_000],
            "another address is another backend"
        );
        let next = Pool::following(
            Some(&pool),
            wanted,
            &balance(Method::RoundRobin),
            &health(Kind::Tcp),
        );
        assert_eq!(next.shares(), [20_000, 60_000, 20_000]);
        let mut wanted = settings_of(&next);
        wanted[0].disabled = true;
        assert_eq!(next.shares_of(&wanted, |_| None), [0, 75_000, 25_000]);
    }
}
