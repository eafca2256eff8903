//! How a try ended, for what learns from it: methods that go by time, ejection.

use std::time::Duration;

#[cfg(test)]
use crate::net::lock::lock;
use crate::pool::Pool;
use crate::pool::backend::Backend;
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

impl Served {
    /// Whether the exchange is a bad one; some statuses are bad.
    fn is_bad(self, is_bad_status: impl Fn(u16) -> bool) -> bool {
        match self {
            Served::Answered { status, .. } => is_bad_status(status),
            Served::Connected { .. } => false,
            Served::Failed { .. } | Served::BrokeOff => true,
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

    #[inline(never)]
    fn learn(&self, backend: &Backend, served: Served) {
        // Nothing listens yet.
        let _ = (
            backend,
            served.is_bad(|status| self.bad_status.contains(status)),
        );
    }
}
