//! How a backend is checked: the settings.

use std::ops::RangeInclusive;
use std::time::Duration;

/// The section `health_check`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheckSettings {
    /// What a check does.
    pub kind: Kind,
    /// Between checks of a backend that is up.
    pub interval: Duration,
    /// Between checks of a backend that is down.
    pub down_interval: Duration,
    /// For one check.
    pub timeout: Duration,
    /// Successes in a row to come up, 1 to 100.
    pub rise: u32,
    /// Failures in a row to go down, 1 to 100.
    pub fall: u32,
}

/// What a check does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// Connects (L4).
    Tcp,
    /// Sends a request (L7).
    Http {
        /// The request's target.
        path: String,
        /// The answers that count as success.
        status: StatusRanges,
    },
    /// Sends an echo request (L3).
    Icmp,
    /// There are no checks.
    None,
}

/// Statuses that count as success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusRanges(pub Vec<RangeInclusive<u16>>);

impl StatusRanges {
    /// Whether a status is one of them.
    pub fn contains(&self, status: u16) -> bool {
        self.0.iter().any(|range| range.contains(&status))
    }
}
