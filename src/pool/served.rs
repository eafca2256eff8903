//! How a try ended, for what learns from it: methods that go by time, ejection.

use std::fmt;
use std::time::Duration;

use crate::net::lock::lock;
use crate::pool::Pool;
use crate::pool::backend::Backend;
use crate::pool::chooser::fastest::TryResult;
use crate::pool::reasons::Since;
use crate::pool::settings::EjectionSettings;
use crate::pool::settings::Method;
use crate::pool::trace::Outcome;
use crate::text::words::counted;

/// What an exchange tells of a try, as far as it says something about the backend.
///
/// Each try gives one of the first three: when its final response head is there (a 101 is one), or
/// when it fails before that. An answer that breaks off later gives [`Served::BrokeOff`] too. A try
/// that fails for want of descriptors, ports or memory of our own, a reused connection that ended
/// before a response byte, and a client that leaves give none. A whole answer gives
/// [`Served::Whole`] at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Served {
    /// The final response head came, so long after the backend was chosen.
    Answered {
        /// As the backend sent it.
        status: u16,
        /// With the connect.
        took: Duration,
    },
    /// In `tcp` mode, where no answer is read: it has taken the connection.
    Connected {
        /// Since the backend was chosen.
        took: Duration,
    },
    /// The try failed before a response head: no connection, a 504, a death, a bad answer.
    Failed {
        /// How.
        outcome: Outcome,
        /// Since the backend was chosen.
        took: Duration,
    },
    /// The answer broke off, or stopped for too long, after its head.
    BrokeOff,
    /// The exchange has ended with the whole answer.
    Whole {
        /// As in its head.
        status: u16,
    },
}

/// Why a backend is ejected: after so many bad exchanges, of which this is the last.
struct Reason(u32, Served);

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bad = counted(self.0 as usize, "bad exchange");
        write!(f, "{bad} in a row, the last one: ")?;
        match self.1 {
            Served::Answered { status, .. } | Served::Whole { status } => {
                write!(f, "status {status}")
            }
            Served::Failed { outcome, .. } => f.write_str(outcome.text()),
            Served::BrokeOff | Served::Connected { .. } => f.write_str(Outcome::BrokeOff.text()),
        }
    }
}

impl Pool {
    /// Takes how a try of a backend ended. Where nothing in this pool goes by it, this costs a
    /// look at a flag.
    #[inline]
    pub fn served(&self, backend: &Backend, served: Served) {
        #[cfg(test)]
        lock(&self.heard).push(served);
        if self.learns {
            self.learn(backend, served);
        }
    }

    /// Whether anything goes by how tries end.
    #[inline]
    pub(crate) fn learns(&self) -> bool {
        // Tests look at what is told.
        self.learns || cfg!(test)
    }

    #[inline(never)]
    fn learn(&self, backend: &Backend, served: Served) {
        if let Some(rules) = &self.ejection {
            self.note_bad(backend, served, rules);
        }
        if self.method != Method::Fastest {
            return;
        }
        let (took, result) = match served {
            Served::Answered { status, took } if self.bad_status.contains(status) => {
                (took, TryResult::Bad)
            }
            Served::Answered { took, .. } | Served::Connected { took } => (took, TryResult::Good),
            Served::Failed { took, .. } => (took, TryResult::Bad),
            Served::BrokeOff => (Duration::ZERO, TryResult::BrokeOff),
            Served::Whole { .. } => return,
        };
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let now_ms = self.now_ms();
        let chooser = &mut lock(&self.shared.state).chooser;
        chooser.served(&backend.state, took_us, result, now_ms);
    }

    /// Counts what is bad for `ejection`: not what health counts, nor a head that we refuse.
    fn note_bad(&self, backend: &Backend, served: Served, rules: &EjectionSettings) {
        let is_bad = match served {
            Served::Answered { status, .. } => self.bad_status.contains(status),
            Served::Failed { outcome, .. } => !matches!(
                outcome,
                Outcome::ConnectFailed | Outcome::RefusedHead | Outcome::NotHttp
            ),
            Served::BrokeOff => true,
            Served::Whole { status } if self.bad_status.contains(status) => false,
            Served::Connected { .. } | Served::Whole { .. } => {
                backend.ejection.forget();
                false
            }
        };
        if is_bad && backend.ejection.note_bad() >= rules.errors {
            self.eject(backend, served, rules);
        }
    }

    #[cold]
    fn eject(&self, backend: &Backend, served: Served, rules: &EjectionSettings) {
        let why = Reason(rules.errors, served);
        // Before the lock is taken: it writes text.
        let since = Since::now(&why);
        let lasts_ms = lock(&self.shared.state)
            .chooser
            .eject(&backend.state, rules, since);
        if let Some(lasts_ms) = lasts_ms {
            let time = Duration::from_millis(lasts_ms);
            log::warn!("backend {:?} is ejected for {time:?}: {why}", backend.name);
        }
    }
}
