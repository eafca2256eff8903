//! How a try ended, for what learns from it: methods that go by time, ejection.

use std::time::Duration;

use crate::net::lock::lock;
use crate::pool::Pool;
use crate::pool::backend::Backend;
use crate::pool::chooser::fastest::TryResult;
use crate::pool::settings::Method;
use crate::pool::trace::Outcome;

/// What an exchange tells of a try, as far as it says something about the backend.
///
/// Each try gives one of the first three: when its final response head is there (a 101 is one), or
/// when it fails before that. An answer that breaks off later gives [`Served::BrokeOff`] too. A try
/// that fails for want of descriptors, ports or memory of our own, a reused connection that ended
/// before a response byte, and a client that leaves give none.
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

    #[inline(never)]
    fn learn(&self, backend: &Backend, served: Served) {
        let (took, result) = match served {
            Served::Answered { status, took } if self.bad_status.contains(status) => {
                (took, TryResult::Bad)
            }
            Served::Answered { took, .. } | Served::Connected { took } => (took, TryResult::Good),
            Served::Failed { took, .. } => (took, TryResult::Bad),
            Served::BrokeOff => (Duration::ZERO, TryResult::BrokeOff),
        };
        if self.method == Method::Fastest {
            let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
            let now_ms = self.now_ms();
            let chooser = &mut lock(&self.shared.state).chooser;
            chooser.served(&backend.state, took_us, result, now_ms);
        }
    }
}
