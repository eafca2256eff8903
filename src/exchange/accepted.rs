//! `Accepted`: what comes before the first request on a new connection.
//!
//! Most have nothing: they are `Idle` at once. A listener of `proxy.accept_proxy_protocol` reads
//! the client's address first, and in tcp mode there is no request to wait for at all.
//!
//! Read next: `request_head`, or `connecting` for tcp mode.

use crate::exchange::close_reason::CloseReason;
use crate::exchange::context::Context;
use crate::exchange::state::{Busy, ClientSide, Stage};
use crate::http::Scheme;
use crate::net::clock::{Clock, Millis, NEVER};
use crate::net::connection::Received;
use crate::net::proxy_protocol::{self, HEADER_BYTES_MAX};

/// A connection on which something else than a request comes first.
#[derive(Debug)]
pub(super) struct Accepted {
    /// Since when it is open.
    pub(super) since: Millis,
    /// The same in microseconds.
    since_us: u64,
    /// By when its PROXY protocol header must be whole.
    pub(super) until: Millis,
}

/// What follows.
pub(super) enum Next {
    /// The header is not whole yet.
    Wait,
    /// A request.
    Idle,
    /// A backend, in tcp mode.
    Connect(Box<Busy>),
    /// The connection ends without a word: what connected is not the proxy that may connect here, or is gone.
    Close(CloseReason),
}

impl Accepted {
    pub(super) fn new(clock: &Clock) -> Self {
        Self {
            since: clock.now(),
            since_us: clock.now_us(),
            until: NEVER,
        }
    }

    /// Reads the PROXY protocol header if there must be one, and goes on to what is served here.
    pub(super) fn advance(&mut self, client: &mut ClientSide, cx: &mut Context) -> Next {
        if cx.snapshot.config.proxy.accept_proxy_protocol
            && let Err(next) = self.read_proxy_header(client, cx)
        {
            return next;
        }
        if !cx.is_tcp() {
            return Next::Idle;
        }
        let mut busy = cx.take_exchange();
        busy.stage = Stage::Choosing;
        let exchange = &mut busy.exchange;
        exchange.begin_at(self.since, self.since_us, client.connection.sent());
        exchange.request_id = cx.request_ids.next_id();
        exchange.record_request(client.address.ip(), cx);
        Next::Connect(busy)
    }

    fn read_proxy_header(&mut self, client: &mut ClientSide, cx: &mut Context) -> Result<(), Next> {
        loop {
            match proxy_protocol::take(client.connection.buffered()) {
                Ok(Some(header)) => {
                    client.connection.consume_buffered(header.used);
                    client.address = header.client.unwrap_or(client.address);
                    client.scheme = header
                        .tls
                        .map(|tls| if tls { Scheme::Https } else { Scheme::Http });
                    return Ok(());
                }
                Ok(None) => {}
                Err(_) => return Err(Next::Close(CloseReason::NoProxyHeader)),
            }
            match client
                .connection
                .receive(&mut cx.tools.scratch, HEADER_BYTES_MAX)
            {
                Ok(Received::Bytes(_)) => client.connection.consume(0, &cx.tools.scratch),
                Ok(Received::Wait) => break,
                Ok(Received::End) => return Err(Next::Close(CloseReason::ClientDone)),
                Err(_) => return Err(Next::Close(CloseReason::ClientGone)),
            }
        }
        self.until = Clock::after(self.since, cx.snapshot.config.timeouts.client_head);
        Err(Next::Wait)
    }
}
