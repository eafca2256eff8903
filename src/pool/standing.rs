//! How a backend stands for requests that come now, and when one that is down may be tried.
//!
//! The chooser asks when something about the backend has changed, a walk through the list asks for
//! each backend.

use std::time::Duration;

use crate::pool::backend::Backend;
use crate::pool::health::{Check, Rules};
use crate::pool::settings::{BalanceSettings, HealthCheckSettings};
use crate::pool::state::{BackendState, NEVER, Operator};
use crate::pool::time::Time;
use crate::pool::trace::Verdict;
use crate::pool::trust::{self, FULL};

/// The settings of one pool that matter here, and its clock.
#[derive(Debug, Clone)]
pub(in crate::pool) struct Standing {
    rules: Rules,
    down_interval: Duration,
    pub(in crate::pool) slow_start_ms: u64,
    /// How much of a group's weight may be ejected at once; none: nothing is.
    pub(in crate::pool) ejected_percent_max: Option<u32>,
    time: Time,
}

impl Standing {
    /// `time` is the same for all pools that follow each other.
    pub(in crate::pool) fn new(
        balance: &BalanceSettings,
        health: &HealthCheckSettings,
        time: Time,
    ) -> Standing {
        Standing {
            slow_start_ms: millis(balance.slow_start),
            ejected_percent_max: balance.ejection.as_ref().map(|rules| rules.percent_max),
            rules: Rules::new(health),
            down_interval: health.down_interval,
            time,
        }
    }

    /// A backend that is not checked follows the rules of `none`.
    pub(in crate::pool) fn rules(&self, backend: &Backend) -> Rules {
        if backend.settings.check {
            return self.rules;
        }
        Rules {
            check: Check::None,
            ..self.rules
        }
    }

    pub(in crate::pool) fn now_ms(&self) -> u64 {
        self.time.now_ms()
    }

    /// How a backend stands for a request that has not tried it.
    pub(in crate::pool) fn verdict(&self, backend: &Backend, is_healthy: bool) -> Verdict {
        match backend.operator() {
            Operator::Draining => Verdict::Draining,
            Operator::Disabled => Verdict::Disabled,
            Operator::Enabled if backend.settings.weight == 0 => Verdict::Weightless,
            Operator::Enabled if is_healthy && self.is_ejected(backend) => Verdict::Ejected,
            Operator::Enabled if backend.is_full() => Verdict::Full,
            Operator::Enabled if !is_healthy && !self.may_be_tried(backend) => Verdict::Down,
            Operator::Enabled if backend.settings.backup => Verdict::Backup,
            Operator::Enabled => Verdict::Eligible,
        }
    }

    fn is_ejected(&self, backend: &Backend) -> bool {
        let until_ms = backend.ejection.until_ms();
        self.ejected_percent_max.is_some() && until_ms != 0 && until_ms > self.now_ms()
    }

    /// Whether an exchange may try a backend that is down, because no check would find out.
    fn may_be_tried(&self, backend: &Backend) -> bool {
        let at_ms = backend.trial_at_ms();
        if at_ms != NEVER {
            return self.now_ms() >= at_ms;
        }
        if self.rules(backend).check == Check::None {
            // It went down in a pool whose checks covered it; here no check will bring it up.
            backend.set_trial(self.next_trial_ms(backend));
        }
        false
    }

    /// The tenths of its weight that a backend has now.
    pub(in crate::pool) fn trust(&self, state: &BackendState) -> u32 {
        let from_ms = state.kept.grows_from_ms();
        if from_ms == NEVER {
            return FULL;
        }
        let since_ms = self.now_ms().saturating_sub(from_ms);
        trust::tenths(since_ms, self.slow_start_ms)
    }

    /// When it has its next tenth; `NEVER`: it has all of them.
    pub(in crate::pool) fn next_tenth_ms(&self, state: &BackendState) -> u64 {
        let from_ms = state.kept.grows_from_ms();
        if from_ms == NEVER {
            return NEVER;
        }
        let since_ms = self.now_ms().saturating_sub(from_ms);
        from_ms + trust::next_tenth_ms(since_ms, self.slow_start_ms)
    }

    /// With `none`, an exchange may try after `down_interval`; else after the next check that
    /// allows it.
    pub(in crate::pool) fn next_trial_ms(&self, backend: &Backend) -> u64 {
        match self.rules(backend).check {
            Check::None => self.now_ms() + millis(self.down_interval),
            Check::Tcp | Check::Http | Check::Icmp => NEVER,
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
