//! How an exchange with a backend fails: whose fault it was, and what happens next.
//!
//! This is README's "What happens when something fails" as one table. Nothing else in the program decides
//! whether a request is sent again.
//!
//! Read next: exchange/connecting.rs, which acts on the verdicts.

use std::io;

use crate::net::errno::is_our_shortage;
use crate::pool::trace::Outcome;

/// What went wrong between us and a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The connection was refused, or the address cannot be reached.
    ConnectRefused,
    /// The connection did not open in time.
    ConnectTimeout,
    /// We have no descriptor, port or memory for a connection.
    Shortage,
    /// A connection that had been used before was found closed before a byte of this request went out.
    ReusedClosed,
    /// A connection that had been used before ended after bytes went out, without a response byte.
    ReusedEnded,
    /// A connection opened for this exchange ended without a response byte.
    FreshEnded,
    /// The response head did not come in time.
    ResponseHeadTimeout,
    /// Some of a response came, and cannot be forwarded or broke off before its head was whole.
    BadResponse,
}

/// What is done about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Where the request goes now.
    pub next: Next,
    /// Whether it used up one of `balance.tries`.
    pub costs_try: bool,
    /// Whether the backend is to blame (a passive failure).
    pub blames_backend: bool,
    /// The status for the client when nobody is left to ask.
    pub status: u16,
}

/// Where a request goes after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// To the same backend, over a fresh connection.
    SameBackend,
    /// To a backend not yet tried.
    OtherBackend,
    /// Nowhere: the client gets the status.
    Answer,
}

impl Failure {
    /// Judges a failure. `may_repeat`: the request is idempotent (RFC 9110 9.2.2), and every byte
    /// of its body sent so far is still held.
    pub(crate) fn judge(self, may_repeat: bool) -> Verdict {
        use Next::{Answer, OtherBackend, SameBackend};
        let (next, costs_try, blames_backend, status) = match (self, may_repeat) {
            // No byte of the request has gone out: it can go anywhere, whatever it is.
            (Failure::ConnectRefused, _) => (OtherBackend, false, true, 502),
            (Failure::ConnectTimeout, _) => (OtherBackend, true, true, 504),
            (Failure::ReusedClosed, _) => (SameBackend, false, false, 502),
            // A backend closes an idle connection when it likes; that says nothing about its health
            // (RFC 9112 9.3.1). But it may have read the request.
            (Failure::ReusedEnded, true) => (SameBackend, false, false, 502),
            (Failure::ReusedEnded, false) => (Answer, true, false, 502),
            (Failure::FreshEnded, true) => (OtherBackend, true, true, 502),
            (Failure::FreshEnded, false) => (Answer, true, true, 502),
            // Slow is not dead, and the request may be running.
            (Failure::ResponseHeadTimeout, _) => (Answer, true, false, 504),
            (Failure::BadResponse, _) => (Answer, true, true, 502),
            // Another backend would need the same thing that we lack.
            (Failure::Shortage, _) => (Answer, false, false, 503),
        };
        Verdict {
            next,
            costs_try,
            blames_backend,
            status,
        }
    }

    /// The failure in the record of decisions.
    pub(crate) fn outcome(self) -> Outcome {
        match self {
            Failure::ConnectRefused => Outcome::ConnectFailed,
            Failure::ConnectTimeout => Outcome::ConnectTimedOut,
            Failure::Shortage => Outcome::OurShortage,
            Failure::ReusedClosed | Failure::ReusedEnded => Outcome::ReusedEnded,
            Failure::FreshEnded => Outcome::Died,
            Failure::ResponseHeadTimeout => Outcome::HeadTimedOut,
            Failure::BadResponse => Outcome::BadAnswer,
        }
    }

    /// Sorts the error of a connect.
    pub(crate) fn of_connect(error: &io::Error) -> Self {
        if is_our_shortage(error) {
            Failure::Shortage
        } else if error.kind() == io::ErrorKind::TimedOut {
            Failure::ConnectTimeout
        } else {
            Failure::ConnectRefused
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::failure::Failure::{
        BadResponse, ConnectRefused, ConnectTimeout, FreshEnded, ResponseHeadTimeout, ReusedClosed,
        ReusedEnded, Shortage,
    };
    use crate::exchange::failure::Next::{Answer, OtherBackend, SameBackend};
    use rustix::io::Errno;

    #[test]
    fn the_table_is_the_contracts() {
        let rows = [
            (
                ConnectRefused,
                (OtherBackend, false, true, 502),
                (OtherBackend, false, true, 502),
            ),
            (
                ConnectTimeout,
                (OtherBackend, true, true, 504),
                (OtherBackend, true, true, 504),
            ),
            (
                ReusedClosed,
                (SameBackend, false, false, 502),
                (SameBackend, false, false, 502),
            ),
            (
                ReusedEnded,
                (SameBackend, false, false, 502),
                (Answer, true, false, 502),
            ),
            (
                FreshEnded,
                (OtherBackend, true, true, 502),
                (Answer, true, true, 502),
            ),
            (
                ResponseHeadTimeout,
                (Answer, true, false, 504),
                (Answer, true, false, 504),
            ),
            (
                BadResponse,
                (Answer, true, true, 502),
                (Answer, true, true, 502),
            ),
            (
                Shortage,
                (Answer, false, false, 503),
                (Answer, false, false, 503),
            ),
        ];
        for (failure, repeatable, other) in rows {
            for (may_repeat, (next, costs_try, blames_backend, status)) in
                [(true, repeatable), (false, other)]
            {
                let expected = Verdict {
                    next,
                    costs_try,
                    blames_backend,
                    status,
                };
                assert_eq!(
                    failure.judge(may_repeat),
                    expected,
                    "{failure:?}, may repeat: {may_repeat}"
                );
            }
        }
    }

    #[test]
    fn what_we_lack_is_no_backends_fault() {
        for errno in [
            Errno::MFILE,
            Errno::NFILE,
            Errno::NOBUFS,
            Errno::NOMEM,
            Errno::ADDRNOTAVAIL,
        ] {
            assert_eq!(Failure::of_connect(&errno.into()), Shortage);
        }
        for errno in [
            Errno::CONNREFUSED,
            Errno::HOSTUNREACH,
            Errno::NETUNREACH,
            Errno::CONNRESET,
            Errno::ACCESS,
        ] {
            assert_eq!(Failure::of_connect(&errno.into()), ConnectRefused);
        }
        assert_eq!(Failure::of_connect(&Errno::TIMEDOUT.into()), ConnectTimeout);
    }
}
