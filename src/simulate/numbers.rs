//! Random numbers and the few functions of them that a simulation needs, the same on every machine.
//!
//! Only operations whose results IEEE 754 fixes are used, never the system's `ln` or `exp`, which
//! differ from machine to machine. A draw is a function of the seed, of what it is for and of a
//! number: so each method meets the same requests, whatever it did with those before.

#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    reason = "times stay far below 2^53 microseconds, and a conversion to an integer saturates"
)]

use std::time::Duration;

use crate::pool::hash::mix;

/// The longest that anything takes: 24 hours, in microseconds.
pub(super) const LONGEST_US: u64 = 24 * 3600 * 1_000_000;

/// One millionth, in millionths.
pub(super) const MILLION: u64 = 1_000_000;

/// What a number is drawn for.
#[derive(Debug, Clone, Copy)]
pub(super) enum For {
    /// The time until the next request comes.
    Gap,
    /// Whose it is.
    Client,
    /// Whether it is a dear one.
    Dear,
    /// How long a backend works on it.
    Work,
    /// Whether it fails.
    Error,
    /// How long a client thinks.
    Thought,
}

/// Draws numbers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Draws(u64);

impl Draws {
    pub(super) fn new(seed: u64) -> Draws {
        Draws(mix(seed.wrapping_add(0x9e37_79b9_7f4a_7c15)))
    }

    /// A number below `bound`.
    pub(super) fn below(self, bound: u64, what: For, number: u64) -> u64 {
        let product = u128::from(self.bits(what, number)) * u128::from(bound);
        (product >> 64) as u64
    }

    /// A time around this mean, as between events that do not know of each other, in whole units of
    /// the mean.
    pub(super) fn exponential(self, mean: f64, what: For, number: u64) -> u64 {
        (-ln(self.part(what, number)) * mean) as u64
    }

    /// A part of 1, neither 0 nor 1.
    fn part(self, what: For, number: u64) -> f64 {
        ((self.bits(what, number) >> 12) as f64 + 0.5) / (1_u64 << 52) as f64
    }

    fn bits(self, what: For, number: u64) -> u64 {
        let stream = mix(self.0 ^ (what as u64 + 1));
        mix(stream.wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }
}

/// Times whose logarithm is normally distributed, as the times of servers nearly are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Latency {
    /// The logarithm of half of them, in microseconds.
    middle: f64,
    spread: f64,
}

impl Latency {
    /// With half of the times below `p50` and 99 of 100 below `p99`, both in microseconds and at
    /// least 1.
    pub(super) fn through(p50_us: u64, p99_us: u64) -> Latency {
        let [middle, high] = [p50_us, p99_us].map(|us| ln(us as f64));
        Latency {
            middle,
            spread: (high - middle) / normal(0.99),
        }
    }

    /// One of them, in microseconds.
    pub(super) fn draw(self, draws: Draws, what: For, number: u64) -> u64 {
        self.at(draws.part(what, number))
    }

    /// The time below which this part of them is.
    fn at(self, part: f64) -> u64 {
        let us = exp(self.middle + self.spread * normal(part));
        ((us + 0.5) as u64).min(LONGEST_US)
    }
}

/// A duration in whole microseconds.
pub(super) fn us(duration: Duration) -> u64 {
    duration.as_secs() * 1_000_000 + u64::from(duration.subsec_micros())
}

/// A place in a list, none of which has four thousand million entries.
pub(super) fn index<N: TryInto<u32>>(place: N) -> u32 {
    place.try_into().unwrap_or(u32::MAX)
}

/// The mean time in nanoseconds between events of which so many come in a second.
pub(super) fn mean_gap_ns(per_second: u64) -> f64 {
    1e9 / per_second as f64
}

/// As a mean for [`Draws::exponential`].
pub(super) fn mean_us(us: u64) -> f64 {
    us as f64
}

/// The natural logarithm of a positive, normal number.
fn ln(x: f64) -> f64 {
    let bits = x.to_bits();
    let mut exponent = (bits >> 52) as i64 - 1023;
    let mut mantissa = f64::from_bits(bits & (u64::MAX >> 12) | 1023 << 52);
    if mantissa > std::f64::consts::SQRT_2 {
        mantissa /= 2.0;
        exponent += 1;
    }
    // ln m = 2 artanh((m - 1) / (m + 1)), whose argument is below 0.172.
    let s = (mantissa - 1.0) / (mantissa + 1.0);
    let square = s * s;
    let mut sum = 0.0;
    for divisor in [17.0, 15.0, 13.0, 11.0, 9.0, 7.0, 5.0, 3.0, 1.0] {
        sum = sum * square + 2.0 / divisor;
    }
    exponent as f64 * std::f64::consts::LN_2 + s * sum
}

/// The exponential function from -700 to 700.
fn exp(x: f64) -> f64 {
    let x = x.clamp(-700.0, 700.0);
    let half = if x < 0.0 { -0.5 } else { 0.5 };
    let power = (x / std::f64::consts::LN_2 + half) as i64;
    let rest = x - power as f64 * std::f64::consts::LN_2;
    let mut sum = 1.0;
    for number in (1..=13).rev() {
        sum = 1.0 + sum * rest / f64::from(number);
    }
    sum * f64::from_bits(((power + 1023) as u64) << 52)
}

/// The value below which this part of a standard normal distribution is, to 0.0005 (Abramowitz and
/// Stegun, 26.2.23).
fn normal(part: f64) -> f64 {
    let tail = if part > 0.5 { 1.0 - part } else { part };
    let t = (-2.0 * ln(tail)).sqrt();
    let above = 2.515_517 + t * (0.802_853 + t * 0.010_328);
    let below = 1.0 + t * (1.432_788 + t * (0.189_269 + t * 0.001_308));
    let value = t - above / below;
    if part > 0.5 { value } else { -value }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logarithm_and_exponential_are_those_of_the_tables() {
        for (x, expected) in [
            (1.0, 0.0),
            (std::f64::consts::E, 1.0),
            (2.0, std::f64::consts::LN_2),
            (10.0, std::f64::consts::LN_10),
            (0.5, -std::f64::consts::LN_2),
            (1e-16, -36.841_361_487_904_73),
            (8.64e10, 25.182_253_512_756_42),
        ] {
            assert!((ln(x) - expected).abs() < 1e-12, "ln {x}: {}", ln(x));
            assert!((exp(expected) / x - 1.0).abs() < 1e-12, "exp {expected}");
        }
        for step in 1..4000 {
            let x = f64::from(step) * 0.01;
            assert!((ln(exp(x)) - x).abs() < 1e-12, "{x}");
            assert!((exp(-x) * exp(x) - 1.0).abs() < 1e-12, "{x}");
        }
    }

    #[test]
    fn the_same_bits_come_out_on_every_machine() {
        let bits = [ln(3.0), exp(3.0), normal(0.999)].map(f64::to_bits);
        assert_eq!(
            bits,
            [
                0x3ff1_93ea_7aad_030a,
                0x4034_15e5_bf6f_b106,
                0x4008_b963_b77a_4bb3
            ]
        );
    }

    #[test]
    fn the_normal_quantiles_are_those_of_the_tables() {
        for (part, expected) in [
            (0.5, 0.0),
            (0.9, 1.281_552),
            (0.99, 2.326_348),
            (0.999, 3.090_232),
            (0.999_999, 4.753_424),
            (0.01, -2.326_348),
        ] {
            assert!((normal(part) - expected).abs() < 5e-4, "{part}");
        }
    }

    #[test]
    fn times_lie_below_their_quantiles_as_often_as_they_should() {
        let latency = Latency::through(10_000, 80_000);
        assert!((9_990..=10_010).contains(&latency.at(0.5)));
        assert!((79_999..=80_001).contains(&latency.at(0.99)));
        let draws = Draws::new(1);
        let mut times: Vec<u64> = (0..100_000)
            .map(|number| latency.draw(draws, For::Work, number))
            .collect();
        times.sort_unstable();
        assert!(
            (9_800..=10_200).contains(&times[50_000]),
            "{}",
            times[50_000]
        );
        assert!(
            (76_000..=84_000).contains(&times[99_000]),
            "{}",
            times[99_000]
        );
        let same = Latency::through(7_000, 7_000);
        assert_eq!(same.draw(draws, For::Work, 3), 7_000);
    }

    #[test]
    fn gaps_have_their_mean_and_what_is_drawn_for_one_thing_says_nothing_of_another() {
        let draws = Draws::new(7);
        let count = 100_000;
        let sum: u64 = (0..count)
            .map(|n| draws.exponential(1000.0, For::Gap, n))
            .sum();
        assert!((990..=1010).contains(&(sum / count)), "{}", sum / count);
        let both = (0..count).filter(|&n| {
            let is_low = |what| draws.below(10, what, n) == 0;
            is_low(For::Work) && is_low(For::Error)
        });
        assert!((850..=1150).contains(&both.count()));
    }
}
