//! Accepted: what comes before the first request on a new connection.
//!
//! Most have nothing: they are `Idle` at once. A listener of `proxy.accept_proxy_protocol` reads
//! the client's address first, and in tcp mode there is no request to wait for at all.
//!
//! Read next: `request_head`, or `connecting` for tcp mode.

use crate::config::Mode;
use crate::exchange::Client;
use crate::exchange::close_reason::CloseReason;
use crate::exchange::context::Context;
use crate::exchange::state::{Stage, Step, Wait, WaitFor};
use crate::http::Scheme;
use crate::net::connection::Received;
use crate::net::proxy_protocol;

impl Client {
    /// Reads the PROXY protocol header if there must be one, and goes on to what is served here.
    pub(super) fn accepted(&mut self, cx: &mut Context) -> Step {
        if self.exchange.is_none() {
            let mut exchange = cx.take_exchange();
            exchange.begin_at(&cx.clock, self.connection.sent());
            exchange.request_id = cx.request_ids.next_id();
            self.exchange = Some(exchange);
        }
        let config = &cx.runtime.config;
        if config.proxy.accept_proxy_protocol
            && let Err(step) = self.read_proxy_header(cx)
        {
            return step;
        }
        let Some(mut exchange) = self.exchange.take() else {
            return Step::Close(CloseReason::Finished);
        };
        exchange.request_wait = Wait::default();
        if cx.runtime.config.proxy.mode == Mode::Tcp {
            exchange.is_tcp = true;
            exchange.record_request(self.address.ip(), cx);
            self.exchange = Some(exchange);
            return Step::Go(Stage::Connecting);
        }
        cx.put_back(exchange);
        self.idle_since = cx.clock.now();
        Step::Go(Stage::Idle)
    }

    /// `Err`: the header is not there yet, or there is none and the connection ends without a word,
    /// since whoever sent it is not the proxy that may connect here.
    fn read_proxy_header(&mut self, cx: &mut Context) -> Result<(), Step> {
        loop {
            match proxy_protocol::take(self.connection.buffered()) {
                Ok(Some(header)) => {
                    self.connection.consume_buffered(header.used);
                    self.address = header.client.unwrap_or(self.address);
                    self.scheme = header
                        .tls
                        .map(|tls| if tls { Scheme::Https } else { Scheme::Http });
                    return Ok(());
                }
                Ok(None) => {}
                Err(_) => return Err(self.abandon(CloseReason::NoProxyHeader, cx)),
            }
            match self.connection.receive(&mut cx.tools.scratch) {
                Ok(Received::Bytes(_)) => self.connection.consume(0, &cx.tools.scratch),
                Ok(Received::Wait) => break,
                Ok(Received::End) => return Err(self.abandon(CloseReason::ClientDone, cx)),
                Err(_) => return Err(self.abandon(CloseReason::ClientGone, cx)),
            }
        }
        if let Some(exchange) = self.exchange.as_deref_mut() {
            let timeout = cx.runtime.config.timeouts.client_head;
            exchange
                .request_wait
                .set(WaitFor::ProxyHeader, exchange.started, timeout, false);
        }
        Err(Step::Wait)
    }
}
