//! A histogram of durations in a fixed number of buckets, four to each octave.
//!
//! From 64 microseconds to 134 seconds a bucket is at most a quarter wider than its lower bound; the
//! first holds all that is shorter, the last all that is longer. A bound belongs to the bucket below
//! it, as in the `le` of Prometheus.

use crate::traffic::Counter;

/// Both bounds in microseconds, as powers of two.
const SHORTEST: u32 = 6;
const LONGEST: u32 = 27;

/// Buckets of a histogram.
pub(crate) const BUCKETS: usize = 4 * (LONGEST - SHORTEST) as usize + 2;

/// Four times the octave plus the quarter in it (4 to 7) is the place of a bucket, counted from here.
const PLACE_OF_FIRST: u64 = 4 * SHORTEST as u64 + 3;

/// How many durations fell into each bucket; written by one thread.
#[derive(Debug)]
pub(crate) struct Histogram {
    buckets: [Counter; BUCKETS],
    sum_us: Counter,
}

/// What was read of one or several histograms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Durations {
    /// How many in each bucket.
    pub(crate) buckets: [u64; BUCKETS],
    /// Their sum in microseconds.
    pub(crate) sum_us: u64,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram {
            buckets: [const { Counter::new() }; BUCKETS],
            sum_us: Counter::new(),
        }
    }
}

impl Default for Durations {
    fn default() -> Durations {
        Durations {
            buckets: [0; BUCKETS],
            sum_us: 0,
        }
    }
}

impl Histogram {
    /// Counts a duration.
    pub(crate) fn add(&self, us: u64) {
        self.add_in(bucket_of(us), us);
    }

    /// Counts one duration in this histogram and another one in `other`: they are nearly always the
    /// same.
    pub(crate) fn add_both(&self, us: u64, other: &Histogram, other_us: u64) {
        let bucket = bucket_of(us);
        let is_same = other_us == us;
        self.add_in(bucket, us);
        other.add_in(if is_same { bucket } else { bucket_of(other_us) }, other_us);
    }

    fn add_in(&self, bucket: usize, us: u64) {
        if let Some(bucket) = self.buckets.get(bucket) {
            bucket.add(1);
        }
        self.sum_us.add(us);
    }

    /// Adds all that was counted to `durations`.
    pub(crate) fn add_to(&self, durations: &mut Durations) {
        for (sum, bucket) in durations.buckets.iter_mut().zip(&self.buckets) {
            *sum += bucket.get();
        }
        durations.sum_us = durations.sum_us.wrapping_add(self.sum_us.get());
    }
}

/// The bucket of a duration.
fn bucket_of(us: u64) -> usize {
    let below = (us.max(1 << SHORTEST) - 1).min(1 << LONGEST);
    let octave = below.ilog2();
    let quarter = below >> (octave - 2);
    usize::try_from(4 * u64::from(octave) + quarter - PLACE_OF_FIRST).unwrap_or(0)
}

/// The longest duration of a bucket, in microseconds; none for the last.
pub(crate) fn bound_us(bucket: usize) -> Option<u64> {
    if bucket + 1 >= BUCKETS {
        return None;
    }
    let place = bucket as u64 + PLACE_OF_FIRST + 1;
    Some((4 + place % 4) << (place / 4 - 3))
}

/// The bound, in microseconds, under which `percent` of these stayed, exact to the buckets; none
/// where there are none. Durations in the last bucket count as its lower bound.
pub(crate) fn quantile_us(buckets: &[u64; BUCKETS], percent: u64) -> Option<u64> {
    let count: u64 = buckets.iter().sum();
    let rank = (count.saturating_mul(percent)).div_ceil(100).max(1);
    let mut below = 0;
    for (place, number) in buckets.iter().enumerate() {
        below += number;
        if below >= rank {
            return bound_us(place).or_else(|| bound_us(place - 1));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(durations: &[u64]) -> Durations {
        let histogram = Histogram::default();
        for us in durations {
            histogram.add(*us);
        }
        let mut read = Durations::default();
        histogram.add_to(&mut read);
        read
    }

    #[test]
    fn the_first_bucket_begins_at_nothing_and_the_last_never_ends() {
        assert_eq!((bucket_of(0), bucket_of(1), bucket_of(64)), (0, 0, 0));
        assert_eq!((bucket_of(65), bucket_of(80), bucket_of(81)), (1, 1, 2));
        let longest = 1 << LONGEST;
        assert_eq!(bucket_of(longest), BUCKETS - 2);
        assert_eq!(bucket_of(longest + 1), BUCKETS - 1);
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
        assert_eq!(bound_us(0), Some(64));
        assert_eq!(bound_us(BUCKETS - 2), Some(longest));
        assert_eq!(bound_us(BUCKETS - 1), None);
    }

    #[test]
    fn each_bound_is_the_last_of_its_bucket_and_a_bucket_is_at_most_a_quarter_wide() {
        let mut before = 64;
        for bucket in 1..BUCKETS - 1 {
            let bound = bound_us(bucket).unwrap();
            assert_eq!(bucket_of(before + 1), bucket);
            assert_eq!(bucket_of(bound), bucket);
            assert!(bound > before && bound - before <= before / 4, "{bucket}");
            before = bound;
        }
    }

    #[test]
    fn a_whole_octave_ends_at_every_fourth_bucket() {
        for octave in SHORTEST..=LONGEST {
            let bucket = 4 * (octave - SHORTEST) as usize;
            assert_eq!(bound_us(bucket), Some(1 << octave));
        }
    }

    #[test]
    fn a_quantile_is_the_bound_below_which_that_part_stayed() {
        assert_eq!(quantile_us(&of(&[]).buckets, 50), None);
        let one = of(&[100]);
        assert_eq!(quantile_us(&one.buckets, 50), Some(112));
        assert_eq!(quantile_us(&one.buckets, 99), Some(112));
        let mut many = vec![100; 98];
        many.extend([5_000, 10_000_000]);
        let many = of(&many);
        assert_eq!(quantile_us(&many.buckets, 50), Some(112));
        assert_eq!(quantile_us(&many.buckets, 98), Some(112));
        assert_eq!(quantile_us(&many.buckets, 99), Some(5120));
        assert_eq!(quantile_us(&many.buckets, 100), Some(10_485_760));
        let endless = of(&[u64::MAX]);
        assert_eq!(quantile_us(&endless.buckets, 50), Some(1 << LONGEST));
    }

    #[test]
    fn what_is_read_of_several_adds_up() {
        let (one, other) = (Histogram::default(), Histogram::default());
        one.add(0);
        other.add(7);
        other.add(200_000_000);
        let mut sum = Durations::default();
        one.add_to(&mut sum);
        other.add_to(&mut sum);
        assert_eq!(sum.sum_us, 200_000_007);
        assert_eq!((sum.buckets[0], sum.buckets[BUCKETS - 1]), (2, 1));
    }
}
