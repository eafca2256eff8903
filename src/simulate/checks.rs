//! The health checks of the simulated servers, at the times at which the checker would make them.

use crate::pool::settings::{HealthCheckSettings, Kind};
use crate::simulate::numbers::us;

/// The checks of one backend.
#[derive(Debug)]
pub(super) struct Schedule {
    /// When the next check begins, or began, in microseconds.
    pub(super) due_us: u64,
    /// The part of the first interval after which the second check begins.
    first_share: Option<(u64, u64)>,
    /// When the last check that a death asked for began or will begin.
    asked_us: Option<u64>,
    /// Of the event that begins it: others are out of date.
    pub(super) stamp: u32,
    pub(super) is_running: bool,
}

/// Times of the configuration, in microseconds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    pub(super) kind: Kind,
    interval_us: u64,
    down_interval_us: u64,
    pub(super) timeout_us: u64,
}

impl Times {
    pub(super) fn new(settings: &HealthCheckSettings) -> Times {
        Times {
            kind: settings.kind,
            interval_us: us(settings.interval),
            down_interval_us: us(settings.down_interval),
            timeout_us: us(settings.timeout),
        }
    }
}

impl Schedule {
    /// Of the backend at `place` (from 1) of so many.
    pub(super) fn new(place: u64, number: u64) -> Schedule {
        Schedule {
            due_us: 0,
            first_share: Some((place, number)),
            asked_us: None,
            stamp: 0,
            is_running: false,
        }
    }

    /// After a check that has ended `now_us`.
    pub(super) fn plan(&mut self, is_healthy: bool, times: &Times, now_us: u64) {
        let mut pause_us = if is_healthy {
            times.interval_us
        } else {
            times.down_interval_us
        };
        if let Some((share, number)) = self.first_share.take() {
            pause_us = pause_us * share / number;
        }
        self.due_us = now_us.max(self.due_us + pause_us);
    }

    /// After an exchange has failed: `wish` if it asks for a check. Whether the next check begins
    /// earlier now.
    pub(super) fn hear(
        &mut self,
        is_healthy: bool,
        wish: bool,
        times: &Times,
        now_us: u64,
    ) -> bool {
        let before_us = self.due_us;
        if !is_healthy {
            self.due_us = self.due_us.min(now_us + times.down_interval_us);
        }
        if wish && self.asked_us.is_none_or(|planned_us| planned_us <= now_us) {
            let earliest_us = self
                .asked_us
                .map(|last_us| last_us + times.down_interval_us);
            let at_us = earliest_us.unwrap_or(0).max(now_us);
            self.asked_us = Some(at_us);
            self.due_us = self.due_us.min(at_us);
        }
        self.due_us < before_us
    }
}
