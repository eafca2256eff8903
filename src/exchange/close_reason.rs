//! Why a client's connection ended: one row for each reason.

use std::io;

use crate::exchange::relay::RelayError;
use crate::net::errno::is_our_shortage;
use crate::traffic::CLOSE_REASONS;

/// One row of the table.
#[derive(Debug)]
pub(crate) struct Row {
    /// For log lines.
    text: &'static str,
    /// The value of a metric's label.
    pub(crate) metric: &'static str,
    /// Whether something went wrong; the ordinary ends of a connection are no errors.
    pub(crate) is_error: bool,
}

/// Makes the enum and its table from the same rows, so that no variant is without one.
macro_rules! close_reasons {
    ($($name:ident, $metric:literal, $is_error:ident, $text:literal;)*) => {
        /// Why a client's connection ended.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum CloseReason {
            $($name),*
        }

        const ROWS: &[Row] = &[$(Row {
            text: $text,
            metric: $metric,
            is_error: $is_error,
        }),*];

        #[cfg(test)]
        const ALL: &[CloseReason] = &[$(CloseReason::$name),*];
    };
}

// The counters of a worker are in a part that knows the number only.
const _: () = assert!(ROWS.len() == CLOSE_REASONS);

/// The two kinds.
const USUAL: bool = false;
const ERROR: bool = true;

#[rustfmt::skip]
close_reasons! {
    Finished,           "finished",             USUAL, "closed after the last answer";
    ClientDone,         "client_done",          USUAL, "closed by the client between requests";
    IdleTimeout,        "idle_timeout",         USUAL, "no request in time";
    MadeRoom,           "made_room",            USUAL, "closed while idle, to make room";
    Stopping,           "stopping",             USUAL, "the process is stopping";
    ClientGone,         "client_gone",          ERROR, "the client went away";
    NoProxyHeader,      "no_proxy_header",      ERROR, "no PROXY protocol header";
    // In tcp mode, where there is no status to answer with.
    NoBackend,          "no_backend",           ERROR, "no backend could be connected to";
    // Both after the response had begun; before that, the failure is answered.
    ClientBodyTimeout,  "client_body_timeout",  ERROR, "the request's body did not come in time";
    BadRequestBody,     "bad_request_body",     ERROR, "the request's body was bad after its response had begun";
    ClientWriteTimeout, "client_write_timeout", ERROR, "the client did not take the response in time";
    BackendBrokeOff,    "backend_broke_off",    ERROR, "the backend's response broke off";
    BackendTimeout,     "backend_timeout",      ERROR, "the backend's response did not go on in time";
    TunnelTimeout,      "tunnel_timeout",       ERROR, "nothing passed through the tunnel in time";
    TunnelBroke,        "tunnel_broke",         ERROR, "one side of the tunnel broke";
    LingerTimeout,      "linger_timeout",       ERROR, "the client went on sending after the last answer";
    OurShortage,        "our_shortage",         ERROR, "rondo is out of memory";
    Panic,              "panic",                ERROR, "an internal error";
}

impl CloseReason {
    /// The table, in the order in which the reasons are counted.
    pub(crate) const ROWS: &'static [Row] = ROWS;

    fn row(self) -> &'static Row {
        &ROWS[self as usize]
    }

    /// The reason in words.
    pub(crate) fn text(self) -> &'static str {
        self.row().text
    }

    /// The reason when reading from or writing to the client failed.
    pub(super) fn of_client(error: &io::Error) -> Self {
        if is_our_shortage(error) {
            CloseReason::OurShortage
        } else {
            CloseReason::ClientGone
        }
    }

    /// The reason when reading or writing failed in a tunnel.
    pub(super) fn of_tunnel(error: &RelayError) -> Self {
        match error {
            RelayError::Source(error) | RelayError::Sink(error) if is_our_shortage(error) => {
                CloseReason::OurShortage
            }
            _ => CloseReason::TunnelBroke,
        }
    }

    /// What the access line of the exchange says: why it failed or was cut.
    pub(super) fn of_exchange(self) -> Option<&'static str> {
        (self != CloseReason::Finished).then(|| self.text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_close_reason_has_a_text_and_a_metric_of_its_own() {
        let mut metrics = Vec::new();
        let mut texts = Vec::new();
        for &reason in ALL {
            let Row { text, metric, .. } = reason.row();
            let is_name = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
            assert!(
                !text.is_empty() && metric.bytes().all(is_name),
                "{reason:?}"
            );
            metrics.push(*metric);
            texts.push(*text);
        }
        for names in [&mut metrics, &mut texts] {
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), ALL.len());
        }
        // The name is the variant's, so a row cannot have slipped.
        for &reason in ALL {
            let name = format!("{reason:?}").to_lowercase();
            assert_eq!(reason.row().metric.replace('_', ""), name);
        }
    }

    #[test]
    fn an_exchange_is_no_worse_for_a_connection_that_ended_after_it() {
        assert!(!CloseReason::Finished.row().is_error);
        assert_eq!(CloseReason::Finished.of_exchange(), None);
        assert!(CloseReason::BackendBrokeOff.row().is_error);
        assert_eq!(
            CloseReason::BackendBrokeOff.of_exchange(),
            Some("the backend's response broke off")
        );
    }
}
