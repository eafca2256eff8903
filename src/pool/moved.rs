//! How many clients a change of the backends moves if a hash decides, found by asking for some
//! thousands of them.

use std::net::{IpAddr, Ipv4Addr};

use crate::pool::settings::{
    BackendSettings, BalanceSettings, HashKey, HashSettings, HealthCheckSettings, Method,
};
use crate::pool::{Choice, Pool, Selection, Tried};

/// Enough clients for whole per cents.
const CLIENTS: u32 = 20_000;

/// How many per cent of the clients have another backend in the second list than in the first, by
/// their addresses, or by some values of another `key`.
pub(crate) fn percent(
    key: &HashKey,
    old: &[BackendSettings],
    new: &[BackendSettings],
    health: &HealthCheckSettings,
) -> u64 {
    let pools = [old, new].map(|backends| by_hash(key, backends, health));
    let moved: u32 = (0..CLIENTS)
        .map(|number| {
            let client = IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + number));
            let value = format!("/{number}");
            let value = (*key != HashKey::Source).then_some(value.as_bytes());
            let [before, after] = pools.each_ref().map(|pool| name_for(pool, client, value));
            u32::from(before != after)
        })
        .sum();
    rounded(100 * u64::from(moved), CLIENTS.into())
}

/// `a` / `b` rounded to the nearest; `b` is not 0.
pub(crate) fn rounded(a: u64, b: u64) -> u64 {
    (2 * a + b) / (2 * b)
}

fn by_hash(key: &HashKey, backends: &[BackendSettings], health: &HealthCheckSettings) -> Pool {
    let balance = BalanceSettings {
        method: Method::Hash,
        hash: HashSettings {
            key: key.clone(),
            load_percent_max: None,
        },
        tries: 1,
        ..BalanceSettings::default()
    };
    Pool::new(backends.to_vec(), &balance, health)
}

fn name_for(pool: &Pool, client: IpAddr, key: Option<&[u8]>) -> Option<String> {
    let selection = Selection {
        client,
        key,
        cookie: None,
        tries_left: true,
        repeats: false,
    };
    match pool.choose(&selection, &mut Tried::default(), None) {
        Choice::Backend { in_flight, .. } => Some(in_flight.settings.name.clone()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::backend::tests::settings;
    use crate::pool::settings::Kind;
    use crate::pool::tests::health;

    #[test]
    fn a_backend_that_leaves_moves_its_own_clients_and_a_new_one_takes_its_share() {
        let all = ["a", "b", "c", "d"].map(settings);
        for key in [HashKey::Source, HashKey::Path] {
            let percent = |old: &[BackendSettings], new: &[BackendSettings]| {
                super::percent(&key, old, new, &health(Kind::None))
            };
            assert_eq!(percent(&all, &all[1..]), 25);
            assert_eq!(percent(&all[1..], &all), 25);
            assert_eq!(percent(&all, &all), 0);
        }
    }
}
