//! `Accepted`: what comes before the first request on a new connection.
//!
//! Most connections have nothing of the kind and are `Idle` at once. With
//! `proxy.accept_proxy_protocol` the client's address comes first, and in tcp mode there is no
//! request at all.
//!
//! Read next: `exchange/request_head.rs`, or `exchange/connecting.rs` for tcp mode.

use crate::exchange::close_reason::CloseReason;
use crate::exchange::context::Context;
use crate::exchange::state::{Busy, ClientSide, Stage};
use crate::http::Scheme;
use crate::net::clock::{Clock, Millis, NEVER};
use crate::net::connection::Received;
use crate::net::proxy_protocol::{self, HEADER_BYTES_MAX};

/// A connection on which something comes before the first request.
#[derive(Debug)]
pub(super) struct Accepted {
    /// When it was accepted.
    pub(super) since: Millis,
    /// The same in microseconds.
    since_us: u64,
    /// The deadline of its PROXY protocol header.
    pub(super) until: Millis,
}

/// What comes next.
pub(super) enum Next {
    /// More of the header.
    Wait,
    /// A request.
    Idle,
    /// A backend: tcp mode.
    Connect(Box<Busy>),
    /// The connection ends without an answer: the peer is gone, or is not the proxy that may
    /// connect here.
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

    /// Reads the PROXY protocol header where one must come.
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
                .receive(&mut cx.buffers.scratch, HEADER_BYTES_MAX)
            {
                Ok(Received::Bytes(_)) => client.connection.consume(0, &cx.buffers.scratch),
                Ok(Received::Wait) => break,
                Ok(Received::End) => return Err(Next::Close(CloseReason::ClientDone)),
                Err(_) => return Err(Next::Close(CloseReason::ClientGone)),
            }
        }
        self.until = Clock::after(self.since, cx.snapshot.config.timeouts.client_head);
        Err(Next::Wait)
    }
}
