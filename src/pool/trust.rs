//! Trust: the tenths of its weight that a backend has just now. With `balance.slow_start` one that
//! has come up, was added, was enabled or returns from an ejection begins with one tenth and grows.
//!
//! Read next: `pool/chooser/mod.rs`, where the weight takes effect.

/// All of it, in tenths.
pub(in crate::pool) const FULL: u32 = 10;

const STEPS: u64 = FULL as u64 - 1;

/// The tenths of its weight that a backend has, so long after it began to grow.
pub(in crate::pool) fn tenths(since_ms: u64, slow_start_ms: u64) -> u32 {
    let steps = since_ms.saturating_mul(STEPS) / slow_start_ms.max(1);
    u32::try_from(steps.min(STEPS)).map_or(FULL, |steps| steps + 1)
}

/// How long after it began to grow it gets its next tenth, which it does not have yet.
pub(in crate::pool) fn next_tenth_ms(since_ms: u64, slow_start_ms: u64) -> u64 {
    let has = u64::from(tenths(since_ms, slow_start_ms));
    slow_start_ms.saturating_mul(has).div_ceil(STEPS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_grows_from_a_tenth_in_nine_equal_steps_and_has_all_at_the_end() {
        assert_eq!(tenths(0, 9000), 1);
        for step in 1..=9 {
            let at_ms = u64::from(step) * 1000;
            assert_eq!(tenths(at_ms - 1, 9000), step);
            assert_eq!(tenths(at_ms, 9000), step + 1);
            assert_eq!(next_tenth_ms(at_ms - 1, 9000), at_ms);
        }
        assert_eq!(tenths(u64::MAX, 9000), FULL);
        assert_eq!(tenths(1, 1), FULL);
    }

    #[test]
    fn at_its_time_a_step_has_come_and_not_a_millisecond_earlier() {
        for slow_start_ms in [1, 2, 7, 10, 999, 1000, 30_000, 86_400_000] {
            let mut since_ms = 0;
            while tenths(since_ms, slow_start_ms) < FULL {
                let before = tenths(since_ms, slow_start_ms);
                let next_ms = next_tenth_ms(since_ms, slow_start_ms);
                assert!(next_ms > since_ms);
                assert_eq!(tenths(next_ms - 1, slow_start_ms), before);
                assert!(tenths(next_ms, slow_start_ms) > before);
                since_ms = next_ms;
            }
            assert_eq!(since_ms, slow_start_ms);
        }
    }
}
