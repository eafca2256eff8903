//! How an exchange with a backend fails, and what follows: one row for each failure.
//!
//! This is README's "What happens when something fails" as one table. Nothing else in the program
//! decides whether a request is sent again, whether the backend is to blame, or which status a
//! failure gives; each failure is looked up once.
//!
//! Read next: `exchange/ending.rs`, which acts on the rows.

use std::fmt;
use std::io;
use std::mem;
use std::net::SocketAddr;

use rustix::io::Errno;

use crate::net::errno::is_our_shortage;
use crate::pool::Event;
use crate::pool::trace::Outcome;

/// What went wrong between us and a backend, before its response head was passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Its name has no address.
    NoAddress,
    /// The connection was refused, or the address cannot be reached.
    ConnectRefused(SocketAddr, Errno),
    /// The connection did not open in time.
    ConnectTimeout(SocketAddr),
    /// No local port is left towards this backend, or this machine has no address of its family.
    NoPort(SocketAddr),
    /// We have no descriptor or no memory for a connection.
    NoDescriptor(Errno),
    /// The kernel had no memory for us to send or receive on an open connection.
    NoMemory(Errno),
    /// An open connection ended, or broke with an error, before the response head was whole.
    Ended(Option<Errno>),
    /// The response head did not come in time.
    HeadTimeout,
    /// The response head begins as HTTP and is not forwarded, for this reason.
    RefusedHead(&'static str),
    /// What came instead of a response head is no HTTP.
    NotHttp,
}

/// What the failed connection had carried before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Age {
    /// Nothing: it was opened for this exchange.
    Fresh,
    /// Other exchanges.
    Reused,
}

/// What may still be done with the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// No byte of it was sent: it can go to any backend, whatever it is.
    Unsent,
    /// No byte of a response came, the request is idempotent (RFC 9110 9.2.2), and every byte of
    /// its body sent so far is still held.
    Repeatable,
    /// It may have been acted upon and must not be sent again.
    Spent,
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

/// What follows from a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    /// Where the request goes now.
    pub next: Next,
    /// Whether it used up one of `balance.tries`.
    pub costs_try: bool,
    /// What the pool learns about the backend.
    pub event: Option<Event>,
    /// The status for the client when no backend is left to ask.
    pub status: u16,
    /// The failure in the record of decisions.
    pub outcome: Outcome,
    /// The failure in the access log.
    pub reason: &'static str,
}

impl Row {
    /// Whether a try after this one counts for `balance.retry_percent`: what cost a try had been
    /// sent, unless the connect was not in time.
    pub(crate) fn is_repeated(&self) -> bool {
        self.costs_try && self.outcome != Outcome::ConnectTimedOut
    }

    /// What the pool hears. A request may kill each backend that serves it: only one of them is
    /// blamed.
    pub(crate) fn blame(&self, has_blamed: &mut bool) -> Option<Event> {
        match self.event {
            Some(Event::Died | Event::NotHttp) if mem::replace(has_blamed, true) => None,
            event => event,
        }
    }

    /// Whether it says something about the backend: a reused connection may be closed at any time
    /// (RFC 9112 9.3.1).
    pub(crate) fn concerns_backend(&self) -> bool {
        !matches!(self.outcome, Outcome::ReusedEnded | Outcome::OurShortage)
    }
}

impl Failure {
    /// Looks the failure up.
    #[rustfmt::skip]
    pub(crate) fn row(self, connection: Age, request: Request) -> Row {
        use Age::{Fresh, Reused};
        use Next::{Answer, OtherBackend, SameBackend};
        use Request::{Repeatable, Spent, Unsent};
        let (next, costs_try, event, status, outcome) = match (self, connection, request) {
            (Failure::NoAddress | Failure::ConnectRefused(..), ..) =>
                (OtherBackend, false, Some(Event::ConnectFailed), 502, Outcome::ConnectFailed),
            (Failure::ConnectTimeout(_), ..) =>
                (OtherBackend, true, Some(Event::ConnectFailed), 504, Outcome::ConnectTimedOut),
            // Ports are counted for each address, so another backend may have a free one.
            (Failure::NoPort(_), ..) =>
                (OtherBackend, false, None, 503, Outcome::OurShortage),
            // Another backend would need the very thing that we lack.
            (Failure::NoDescriptor(_), ..) =>
                (Answer, false, None, 503, Outcome::OurShortage),
            (Failure::NoMemory(_), Reused, Unsent | Repeatable) =>
                (SameBackend, false, None, 503, Outcome::OurShortage),
            (Failure::NoMemory(_), Fresh, Unsent) =>
                (OtherBackend, false, None, 503, Outcome::OurShortage),
            (Failure::NoMemory(_), Fresh, Repeatable) =>
                (OtherBackend, true, None, 503, Outcome::OurShortage),
            (Failure::NoMemory(_), _, Spent) =>
                (Answer, true, None, 503, Outcome::OurShortage),
            // A backend closes an idle connection when it likes; that says nothing about its health
            // (RFC 9112 9.3.1). But it may have read the request.
            (Failure::Ended(_), Reused, Unsent | Repeatable) =>
                (SameBackend, false, None, 502, Outcome::ReusedEnded),
            (Failure::Ended(_), Reused, Spent) =>
                (Answer, true, None, 502, Outcome::ReusedEnded),
            (Failure::Ended(_), Fresh, Unsent | Repeatable) =>
                (OtherBackend, true, Some(Event::Died), 502, Outcome::Died),
            (Failure::Ended(_), Fresh, Spent) =>
                (Answer, true, Some(Event::Died), 502, Outcome::Died),
            // Slow is not dead, and the request may be running.
            (Failure::HeadTimeout, ..) =>
                (Answer, true, None, 504, Outcome::HeadTimedOut),
            // Otherwise one client could take every backend out with one request each.
            (Failure::RefusedHead(_), ..) =>
                (Answer, true, None, 502, Outcome::RefusedHead),
            (Failure::NotHttp, Fresh, _) =>
                (Answer, true, Some(Event::NotHttp), 502, Outcome::NotHttp),
            // The connection has carried HTTP before: these are rather surplus bytes of the last
            // response.
            (Failure::NotHttp, Reused, _) =>
                (Answer, true, None, 502, Outcome::NotHttp),
        };
        let reason = match self {
            Failure::RefusedHead(reason) => reason,
            _ => outcome.text(),
        };
        Row { next, costs_try, event, status, outcome, reason }
    }

    /// Sorts the error of a connect to `address`.
    pub(crate) fn of_connect(address: SocketAddr, error: &io::Error) -> Self {
        match errno(error) {
            Errno::ADDRNOTAVAIL => Failure::NoPort(address),
            errno if is_our_shortage(error) => Failure::NoDescriptor(errno),
            Errno::TIMEDOUT => Failure::ConnectTimeout(address),
            errno => Failure::ConnectRefused(address, errno),
        }
    }

    /// Sorts the error of an open connection.
    pub(crate) fn of_connection(error: &io::Error) -> Self {
        if is_our_shortage(error) {
            Failure::NoMemory(errno(error))
        } else {
            Failure::Ended(Some(errno(error)))
        }
    }

    /// Sorts a response head that is refused for `reason`; `bytes`: what there is of it.
    pub(crate) fn of_head(reason: &'static str, bytes: &[u8]) -> Self {
        const NAME: &[u8] = b"HTTP/";
        // An empty line before the status line is invalid, but still HTTP.
        let start = bytes
            .iter()
            .take_while(|byte| matches!(byte, b'\r' | b'\n'))
            .count();
        let name = &bytes[start..bytes.len().min(start + NAME.len())];
        if NAME.starts_with(name) {
            Failure::RefusedHead(reason)
        } else {
            Failure::NotHttp
        }
    }
}

/// For a log line, after the backend's name.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::NoAddress => f.write_str("its name has no address"),
            Failure::ConnectRefused(address, errno) => write!(f, "connect to {address}: {errno}"),
            Failure::ConnectTimeout(address) => write!(f, "connect to {address} timed out"),
            Failure::NoPort(address) => {
                write!(f, "connect to {address}: no local port or address is left")
            }
            Failure::NoDescriptor(errno) => write!(f, "no connection could be opened: {errno}"),
            Failure::NoMemory(errno) => write!(f, "rondo is out of memory: {errno}"),
            Failure::Ended(None) => f.write_str("it closed the connection before a response head"),
            Failure::Ended(Some(errno)) => write!(f, "{errno} before a response head"),
            Failure::HeadTimeout => f.write_str("no response head in time"),
            Failure::RefusedHead(reason) => write!(f, "its response head is refused: {reason}"),
            Failure::NotHttp => f.write_str("its answer is not HTTP"),
        }
    }
}

fn errno(error: &io::Error) -> Errno {
    // Every socket error has a number; an error made by std stands for a broken connection.
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::failure::Age::{Fresh, Reused};
    use crate::exchange::failure::Next::{Answer, OtherBackend, SameBackend};
    use crate::exchange::failure::Request::{Repeatable, Spent, Unsent};

    const REFUSED: Errno = Errno::CONNREFUSED;

    fn address() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 80))
    }

    /// The failure, on connections of which ages, with what requests; then where the request goes,
    /// whether that costs a try, what the pool hears, and the status.
    type Expected<'a> = (
        Failure,
        &'a [Age],
        &'a [Request],
        (Next, bool, Option<Event>, u16),
    );

    #[test]
    #[rustfmt::skip]
    fn the_table_is_the_contracts() {
        let any_age = &[Fresh, Reused][..];
        let any = &[Unsent, Repeatable, Spent][..];
        let (refused, timed_out) =
            (Failure::ConnectRefused(address(), REFUSED), Failure::ConnectTimeout(address()));
        let no_memory = Failure::NoMemory(Errno::NOBUFS);
        let ended = Failure::Ended(None);
        let (connect_failed, died) = (Some(Event::ConnectFailed), Some(Event::Died));
        let rows: [Expected<'_>; 17] = [
            (Failure::NoAddress, any_age, any, (OtherBackend, false, connect_failed, 502)),
            (refused, any_age, any, (OtherBackend, false, connect_failed, 502)),
            (timed_out, any_age, any, (OtherBackend, true, connect_failed, 504)),
            (Failure::NoPort(address()), any_age, any, (OtherBackend, false, None, 503)),
            (Failure::NoDescriptor(Errno::MFILE), any_age, any, (Answer, false, None, 503)),
            (no_memory, &[Reused], &[Unsent, Repeatable], (SameBackend, false, None, 503)),
            (no_memory, &[Fresh], &[Unsent], (OtherBackend, false, None, 503)),
            (no_memory, &[Fresh], &[Repeatable], (OtherBackend, true, None, 503)),
            (no_memory, any_age, &[Spent], (Answer, true, None, 503)),
            (ended, &[Reused], &[Unsent, Repeatable], (SameBackend, false, None, 502)),
            (ended, &[Reused], &[Spent], (Answer, true, None, 502)),
            (ended, &[Fresh], &[Unsent, Repeatable], (OtherBackend, true, died, 502)),
            (ended, &[Fresh], &[Spent], (Answer, true, died, 502)),
            (Failure::HeadTimeout, any_age, any, (Answer, true, None, 504)),
            (Failure::RefusedHead("bare LF"), any_age, any, (Answer, true, None, 502)),
            (Failure::NotHttp, &[Fresh], any, (Answer, true, Some(Event::NotHttp), 502)),
            (Failure::NotHttp, &[Reused], any, (Answer, true, None, 502)),
        ];
        for (failure, ages, requests, expected) in rows {
            for &age in ages {
                for &request in requests {
                    let row = failure.row(age, request);
                    let found = (row.next, row.costs_try, row.event, row.status);
                    assert_eq!(found, expected, "{failure:?} {age:?} {request:?}");
                    let is_repeated = row.costs_try && failure != timed_out;
                    assert_eq!(row.is_repeated(), is_repeated, "{failure:?}");
                }
            }
        }
    }

    #[test]
    fn a_request_of_which_nothing_went_out_is_answered_only_where_no_backend_could_help() {
        for failure in [
            Failure::NoAddress,
            Failure::ConnectRefused(address(), REFUSED),
            Failure::ConnectTimeout(address()),
            Failure::NoPort(address()),
            Failure::NoMemory(Errno::NOMEM),
            Failure::Ended(None),
        ] {
            for age in [Fresh, Reused] {
                assert_ne!(failure.row(age, Unsent).next, Answer, "{failure:?} {age:?}");
            }
        }
    }

    #[test]
    fn what_we_lack_is_no_backends_fault_and_a_missing_port_is_missing_for_one_address() {
        for errno in [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM] {
            assert_eq!(
                Failure::of_connect(address(), &errno.into()),
                Failure::NoDescriptor(errno)
            );
        }
        assert_eq!(
            Failure::of_connect(address(), &Errno::ADDRNOTAVAIL.into()),
            Failure::NoPort(address())
        );
        for errno in [
            Errno::CONNREFUSED,
            Errno::HOSTUNREACH,
            Errno::NETUNREACH,
            Errno::CONNRESET,
            Errno::ACCESS,
        ] {
            assert_eq!(
                Failure::of_connect(address(), &errno.into()),
                Failure::ConnectRefused(address(), errno)
            );
        }
        assert_eq!(
            Failure::of_connect(address(), &Errno::TIMEDOUT.into()),
            Failure::ConnectTimeout(address())
        );
        for errno in [Errno::NOBUFS, Errno::NOMEM] {
            assert_eq!(
                Failure::of_connection(&errno.into()),
                Failure::NoMemory(errno)
            );
        }
        assert_eq!(
            Failure::of_connection(&Errno::PIPE.into()),
            Failure::Ended(Some(Errno::PIPE))
        );
    }

    #[test]
    fn a_head_that_begins_as_http_is_refused_and_anything_else_is_no_http() {
        for bytes in [
            &b"HTTP/1.1 200 OK\r\n\0"[..],
            b"HTTP/2.0 200 OK\r\n",
            b"HTTP/1.1 abc",
            b"\r\nHTTP/1.1 200 OK\r\n",
            b"\n\nHTT",
            b"",
        ] {
            assert_eq!(
                Failure::of_head("why", bytes),
                Failure::RefusedHead("why"),
                "{bytes:?}"
            );
        }
        for bytes in [
            &b"SSH-2.0-OpenSSH\r\n"[..],
            b"http/1.1 200 OK\r\n",
            b"HTTPS",
            b" HTTP/1.1 200 OK",
            b"\0",
        ] {
            assert_eq!(
                Failure::of_head("why", bytes),
                Failure::NotHttp,
                "{bytes:?}"
            );
        }
    }

    #[test]
    fn the_words_of_a_refused_head_are_those_of_the_parser() {
        let row = Failure::RefusedHead("too many fields").row(Fresh, Spent);
        assert_eq!(row.reason, "too many fields");
        let row = Failure::Ended(None).row(Fresh, Spent);
        assert_eq!(row.reason, Outcome::Died.text());
    }
}
