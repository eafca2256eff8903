//! A limit on event lines that traffic causes: the first is written at once, then one every ten
//! seconds with the count of those held back.

use std::sync::Mutex;

use crate::net::clock::Millis;
use crate::net::lock::lock;

/// For this long after a line, others are only counted.
const QUIET_MS: Millis = 10_000;

/// Limits the lines of one kind.
#[derive(Debug, Default)]
pub(crate) struct LineLimit(Mutex<Lines>);

#[derive(Debug, Default)]
struct Lines {
    last: Option<Millis>,
    held_back: u32,
}

/// What a written line says about those held back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct HeldBack {
    /// Lines since the last one that was written.
    pub count: u32,
    /// How long ago that was, in milliseconds.
    pub since_ms: Millis,
}

impl LineLimit {
    /// Counts a line at `now`; if it may be written, returns what was held back before it.
    pub(crate) fn pass(&self, now: Millis) -> Option<HeldBack> {
        let mut lines = lock(&self.0);
        let since_ms = lines.last.map_or(0, |last| now.saturating_sub(last));
        if lines.last.is_some() && since_ms < QUIET_MS {
            lines.held_back = lines.held_back.saturating_add(1);
            return None;
        }
        lines.last = Some(now);
        Some(HeldBack {
            count: std::mem::take(&mut lines.held_back),
            since_ms,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_passes_at_once_and_then_one_in_ten_seconds_with_a_count() {
        let limit = LineLimit::default();
        assert_eq!(limit.pass(5), Some(HeldBack::default()));
        for now in [5, 6, 10_004] {
            assert_eq!(limit.pass(now), None);
        }
        let held_back = HeldBack {
            count: 3,
            since_ms: 10_000,
        };
        assert_eq!(limit.pass(10_005), Some(held_back));
        assert_eq!(limit.pass(10_006), None);
        assert_eq!(
            limit.pass(100_000).map(|held_back| held_back.count),
            Some(1)
        );
    }
}
