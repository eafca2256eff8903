//! Forwarding: the request on its way to the backend and the response on its way back, both at
//! once.
//!
//! Each side goes as far as it can and says what it waits for. A deadline runs only against the
//! peer that a side waits for.
//!
//! Read next: reply.rs, for what is answered when this fails; tunnel.rs, for what follows a 101.

use std::time::Duration;

use crate::exchange::context::Context;
use crate::exchange::failure::Failure;
use crate::exchange::relay::{Flow, Relay, RelayError, Tools, Writer};
use crate::exchange::{
    Client, CloseReason, Exchange, RequestSide, ResponseSide, Stage, Step, Wait, WaitFor,
};
use crate::http::Body;
use crate::http::forward::{ClientConnection, ResponseForwarding, write_interim, write_response};
use crate::http::reply::CONTINUE;
use crate::http::{HeadError, Version};
use crate::live::Runtime;
use crate::net::clock::Clock;
use crate::net::connection::{Connection, Received};
use crate::pool::Passive;

/// The time that `Expect: 100-continue` may hold a request up before we say so ourselves.
const CONTINUE_AFTER: Duration = Duration::from_secs(1);

/// How long an answer may take for a client that has closed its sending side.
const HALF_CLOSED: Duration = Duration::from_secs(2);

/// What became of one side in one turn.
enum Side {
    /// It waits, or has ended.
    Rests,
    /// It could go on at once.
    Yields,
    /// The whole exchange turns to something else.
    Leaves(Step),
}

impl Client {
    /// Carries both sides as far as they go.
    pub(super) fn forward(&mut self, cx: &mut Context) -> Step {
        let mut yields = false;
        match self.forward_request(cx) {
            Side::Rests => {}
            Side::Yields => yields = true,
            Side::Leaves(step) => return step,
        }
        match self.forward_response(cx) {
            Side::Rests => {}
            Side::Yields => yields = true,
            Side::Leaves(step) => return step,
        }
        let Some(exchange) = self.exchange.as_deref_mut() else {
            return Step::Go(Stage::Idle);
        };
        if exchange.response_side == ResponseSide::Done
            && (exchange.request_side != RequestSide::Sending || exchange.waives_request_body())
        {
            return self.finish(cx);
        }
        if self.connection.is_broken() {
            return Step::Close(CloseReason::ClientGone);
        }
        if yields { Step::Yield } else { Step::Wait }
    }

    /// The request side: what is left of the head, then the body.
    fn forward_request(&mut self, cx: &mut Context) -> Side {
        let Some(exchange) = self.exchange.as_deref_mut() else {
            return Side::Rests;
        };
        let Some(lent) = &mut exchange.route.connection else {
            return Side::Rests;
        };
        if exchange.request_side != RequestSide::Sending {
            return Side::Rests;
        }
        let now = cx.clock.now();
        let timeouts = &cx.runtime.config.timeouts;
        let before = (exchange.request_relay.taken(), lent.connection.sent());
        let flow = exchange.request_relay.advance(
            &mut self.connection,
            &mut lent.connection,
            &mut cx.tools,
        );
        let progress = before != (exchange.request_relay.taken(), lent.connection.sent());
        let expected = exchange.request.expects_continue()
            && !exchange.continued
            && exchange.request_relay.taken() == 0;
        if let Err(error) = &flow {
            log::debug!("{}: request body: {error}", self.address);
        }
        let wait = &mut exchange.request_wait;
        match flow {
            Ok(Flow::Done) => {
                exchange.request_side = RequestSide::Sent;
                *wait = Wait::default();
                Side::Rests
            }
            Ok(Flow::Yield) => {
                // It goes on: what it last waited for has come.
                *wait = Wait::default();
                Side::Yields
            }
            Ok(Flow::WaitSource) if expected && exchange.status == 0 => {
                wait.set(WaitFor::ClientBodyExpected, now, CONTINUE_AFTER, progress);
                Side::Rests
            }
            Ok(Flow::WaitSource) => {
                wait.set(WaitFor::ClientBody, now, timeouts.client_body, progress);
                Side::Rests
            }
            Ok(Flow::WaitSink) => {
                wait.set(WaitFor::BackendWrite, now, timeouts.response_body, progress);
                Side::Rests
            }
            // The backend takes no more, but may have answered before: that answer counts.
            Err(RelayError::Sink(_)) => {
                exchange.request_side = RequestSide::Refused;
                *wait = Wait::default();
                lent.connection.expect_input();
                Side::Rests
            }
            Err(RelayError::Source(_)) => Side::Leaves(Step::Close(CloseReason::ClientGone)),
            Err(_) if exchange.status != 0 => {
                Side::Leaves(Step::Close(CloseReason::BadRequestBody))
            }
            Err(error) => Side::Leaves(self.refuse(error.status(), cx)),
        }
    }

    /// The response side: interim responses, the head, the body.
    fn forward_response(&mut self, cx: &mut Context) -> Side {
        loop {
            let Some(exchange) = self.exchange.as_deref_mut() else {
                return Side::Rests;
            };
            let side = match exchange.response_side {
                ResponseSide::Head => self.read_response_head(cx),
                ResponseSide::Body => self.forward_response_body(cx),
                ResponseSide::Done => Some(Side::Rests),
            };
            if let Some(side) = side {
                return side;
            }
        }
    }

    /// Reads a response head and passes it on. `None`: there is more to do.
    fn read_response_head(&mut self, cx: &mut Context) -> Option<Side> {
        let exchange = self.exchange.as_deref_mut()?;
        // Interim responses do not pile up for a client that does not take them.
        match self.connection.flush() {
            Ok(true) => {}
            Ok(false) => {
                let timeout = cx.runtime.config.timeouts.client_write;
                exchange
                    .response_wait
                    .set(WaitFor::ClientWrite, cx.clock.now(), timeout, false);
                return Some(Side::Rests);
            }
            Err(_) => return Some(Side::Leaves(Step::Close(CloseReason::ClientGone))),
        }
        let Some(mut lent) = exchange.route.connection.take() else {
            return Some(Side::Rests);
        };
        let taken = exchange.take_response_head(&mut lent.connection, &mut self.connection, cx);
        exchange.route.connection = Some(lent);
        if exchange.response_side != ResponseSide::Head {
            exchange.record_answer(cx.clock.now_us());
        }
        match taken {
            Ok(true)
                if exchange.response.status() == 101
                    && exchange.response_side == ResponseSide::Done =>
            {
                Some(Side::Leaves(Step::Go(Stage::Tunnel)))
            }
            // A backend may send interim responses without end: the others' turn comes after each.
            Ok(true) if exchange.response_side == ResponseSide::Head => {
                self.await_response_head(cx);
                Some(Side::Yields)
            }
            Ok(true) => None,
            Ok(false) => Some(self.await_response_head(cx)),
            Err(Trouble::Ended(why)) => Some(self.response_broke_off(&why, cx)),
            Err(Trouble::Bad(why)) => Some(Side::Leaves(self.fail(Failure::BadResponse, why, cx))),
            Err(Trouble::BodyBroke) => {
                Some(Side::Leaves(Step::Close(CloseReason::BackendBrokeOff)))
            }
            Err(Trouble::ClientGone) => Some(Side::Leaves(Step::Close(CloseReason::ClientGone))),
        }
    }

    /// Nothing of the response is there yet.
    fn await_response_head(&mut self, cx: &Context) -> Side {
        let Some(exchange) = self.exchange.as_deref_mut() else {
            return Side::Rests;
        };
        let now = cx.clock.now();
        if exchange.request_side == RequestSide::Sending {
            // The backend may wait for the rest of the request: no time runs against it.
            exchange.response_wait = Wait::default();
        } else if exchange.response_wait.what == WaitFor::HalfClosed {
            // Runs from when the end was seen.
        } else {
            exchange.response_wait.set(
                WaitFor::ResponseHead,
                now,
                cx.runtime.config.timeouts.response_head,
                false,
            );
            if self.connection.has_ended() {
                let until = Clock::after(now, HALF_CLOSED).min(exchange.response_wait.until);
                exchange.response_wait = Wait {
                    what: WaitFor::HalfClosed,
                    until,
                };
            }
        }
        Side::Rests
    }

    /// The backend's connection ended before the final head.
    fn response_broke_off(&mut self, why: &str, cx: &mut Context) -> Side {
        let Some(exchange) = self.exchange.as_deref_mut() else {
            return Side::Rests;
        };
        let Some(lent) = &exchange.route.connection else {
            return Side::Rests;
        };
        let byte_came = exchange.interim_came || !lent.connection.buffered().is_empty();
        let failure = match lent.reused {
            _ if byte_came => Failure::BadResponse,
            true if lent.connection.sent() == exchange.route.sent_before => Failure::ReusedClosed,
            true => Failure::ReusedEnded,
            false => Failure::FreshEnded,
        };
        Side::Leaves(self.fail(failure, why, cx))
    }

    /// The response head did not come in time.
    pub(super) fn response_head_timed_out(&mut self, cx: &mut Context) -> Step {
        self.fail(Failure::ResponseHeadTimeout, "no response head in time", cx)
    }

    /// The client may be waiting for a 100 (Continue) that the backend does not send (RFC 9110 10.1.1).
    pub(super) fn send_continue(&mut self, cx: &mut Context) -> Step {
        let Some(exchange) = self.exchange.as_deref_mut() else {
            return Step::Wait;
        };
        let timeout = cx.runtime.config.timeouts.client_body;
        exchange
            .request_wait
            .set(WaitFor::ClientBody, cx.clock.now(), timeout, true);
        // The backend has said it meanwhile; or it has answered, and this would lie in the midst of that.
        if exchange.continued || exchange.status != 0 {
            return Step::Go(Stage::Forwarding);
        }
        exchange.continued = true;
        match self.connection.send(CONTINUE, &[]) {
            Ok(()) => Step::Go(Stage::Forwarding),
            Err(_) => Step::Close(CloseReason::ClientGone),
        }
    }

    /// Passes the body on.
    fn forward_response_body(&mut self, cx: &mut Context) -> Option<Side> {
        let exchange = self.exchange.as_deref_mut()?;
        let Some(lent) = &mut exchange.route.connection else {
            return Some(Side::Rests);
        };
        let now = cx.clock.now();
        let timeouts = &cx.runtime.config.timeouts;
        let relay = &mut exchange.response_relay;
        let before = (relay.taken(), self.connection.sent());
        let flow = relay.advance(&mut lent.connection, &mut self.connection, &mut cx.tools);
        let progress = before != (relay.taken(), self.connection.sent());
        if let Err(error) = &flow {
            log::debug!("{}: response body: {error}", self.address);
        }
        let wait = &mut exchange.response_wait;
        match flow {
            Ok(Flow::Done) => {
                exchange.response_side = ResponseSide::Done;
                *wait = Wait::default();
            }
            Ok(Flow::Yield) => {
                *wait = Wait::default();
                return Some(Side::Yields);
            }
            // A client that has closed its sending side may be gone altogether, and an answer that
            // is silent would never find out.
            Ok(Flow::WaitSource)
                if self.connection.has_ended() && exchange.request_side != RequestSide::Sending =>
            {
                wait.set(
                    WaitFor::HalfClosed,
                    now,
                    HALF_CLOSED.min(timeouts.response_body),
                    progress,
                );
            }
            Ok(Flow::WaitSource) => {
                wait.set(WaitFor::ResponseBody, now, timeouts.response_body, progress);
            }
            Ok(Flow::WaitSink) => {
                wait.set(WaitFor::ClientWrite, now, timeouts.client_write, progress);
            }
            Err(RelayError::Sink(_)) => {
                return Some(Side::Leaves(Step::Close(CloseReason::ClientGone)));
            }
            Err(_) => return Some(Side::Leaves(Step::Close(CloseReason::BackendBrokeOff))),
        }
        Some(Side::Rests)
    }

    /// Both sides are done: the backend's connection is kept for the next exchange if it may be,
    /// and the client's goes on to its next request.
    pub(super) fn finish(&mut self, cx: &mut Context) -> Step {
        let Some(mut exchange) = self.exchange.take() else {
            return Step::Go(Stage::Idle);
        };
        self.record(&mut exchange, None, cx);
        exchange.keep_backend_connection(cx);
        let request_is_whole = exchange.request_relay.has_read_all();
        let close = exchange.close_client || !request_is_whole;
        cx.put_back(exchange);
        if !close {
            self.idle_since = cx.clock.now();
            return Step::Go(Stage::Idle);
        }
        // Closing with input unread sends a reset, which may overtake the answer (RFC 9112 9.6).
        if request_is_whole
            && self.connection.buffered().is_empty()
            && !self.connection.is_readable()
        {
            return Step::Close(CloseReason::Finished);
        }
        self.begin_linger(cx)
    }
}

/// Why a response head could not be passed on.
enum Trouble {
    /// The backend's connection ended or broke.
    Ended(String),
    /// What came is not a response that can be forwarded.
    Bad(&'static str),
    /// Its head has been passed on, and its body is malformed.
    BodyBroke,
    /// The client does not take it.
    ClientGone,
}

impl From<HeadError> for Trouble {
    fn from(error: HeadError) -> Self {
        Trouble::Bad(error.reason())
    }
}

impl Exchange {
    /// Takes one response head from the backend and passes it on, with as much of the body as came
    /// with it. False: nothing whole is there yet.
    fn take_response_head(
        &mut self,
        backend: &mut Connection,
        client: &mut Connection,
        cx: &mut Context,
    ) -> Result<bool, Trouble> {
        let closes = cx.closes_after_answer();
        let Context {
            runtime,
            tools: Tools { scratch, out, .. },
            ..
        } = cx;
        let limits = &runtime.head_limits;
        if !backend.buffered().is_empty()
            && let Some(used) = self.response.take(backend.buffered(), limits)?
        {
            let rest = &backend.buffered()[used..];
            let body_used = self.pass_on(rest, client, out, runtime, closes)?;
            backend.consume_buffered(used + body_used);
            return Ok(true);
        }
        loop {
            let bytes = match backend.receive(scratch) {
                Ok(Received::Bytes(bytes)) => bytes,
                Ok(Received::Wait) => return Ok(false),
                Ok(Received::End) => {
                    return Err(Trouble::Ended("it closed the connection".to_owned()));
                }
                Err(error) => return Err(Trouble::Ended(error.to_string())),
            };
            if let Some(used) = self.response.take(bytes, limits)? {
                let body_used = self.pass_on(&bytes[used..], client, out, runtime, closes)?;
                backend.consume(used + body_used, scratch);
                return Ok(true);
            }
            backend.consume(0, scratch);
        }
    }

    /// Passes the head in `response` on, and what `rest` holds of the body. Gives how much of `rest`
    /// was used.
    fn pass_on(
        &mut self,
        rest: &[u8],
        client: &mut Connection,
        out: &mut Vec<u8>,
        runtime: &Runtime,
        closes: bool,
    ) -> Result<usize, Trouble> {
        out.clear();
        if self.response.is_interim() {
            self.interim_came = true;
            // One of them may have been made here already (see `send_continue`), and a client of
            // HTTP/1.0 knows none (RFC 9110 15.2).
            let is_continue = self.response.status() == 100;
            if self.request.version() == Version::Http11 && !(is_continue && self.continued) {
                write_interim(&self.response, out);
                client.send(out, &[]).map_err(|_| Trouble::ClientGone)?;
            }
            self.continued |= is_continue;
            self.response.clear();
            return Ok(0);
        }
        if self.response.status() == 101 {
            return self.pass_upgrade_on(client, out);
        }
        let body = self.response.body(self.request.is_head());
        let (framing, writer) = self.frame_for_client(body);
        let request_is_whole = self.request_relay.has_read_all();
        self.route.reusable = self.response.keep_alive() && body != Body::UntilClose;
        // A client that was told to wait before its body may send it or not; nobody can know.
        let unasked =
            self.request.expects_continue() && !self.continued && self.request_relay.taken() == 0;
        self.close_client |= closes
            || framing == Body::UntilClose
            || (!request_is_whole
                && (!self.route.reusable || unasked || self.request_side == RequestSide::Refused));
        self.ends_with_connection = framing == Body::UntilClose;
        let connection = match (self.close_client, self.request.version()) {
            (true, _) => ClientConnection::Close,
            (false, Version::Http10) => ClientConnection::KeepAliveExplicit,
            (false, Version::Http11) => ClientConnection::KeepAlive,
        };
        let set_cookie = match (&self.route.backend, self.route.set_cookie) {
            (Some(backend), true) => backend.set_cookie(),
            _ => None,
        };
        let trailers = matches!(writer, Writer::Chunked { trailers: true });
        let how = ResponseForwarding {
            body: framing,
            keep_length_field: body == Body::None,
            connection,
            set_cookie,
            trailers,
        };
        write_response(&self.response, &how, out);
        self.response_relay = Relay::new(body, writer, u64::MAX, &runtime.head_limits);
        if trailers {
            self.response_relay
                .leave_out_trailers(self.response.connection_options());
        }
        self.status = self.response.status();
        self.response_side = ResponseSide::Body;
        self.response_wait = Wait::default();
        let translated = self.response_relay.translate(rest, out);
        if let Some(backend) = &mut self.route.backend {
            runtime.pool.report(backend, Passive::Answered);
            if self.response_relay.has_read_all() && self.request_side != RequestSide::Sending {
                backend.give_back();
            }
        }
        // Of a malformed body the client gets what was right, as it would if it had come later.
        let (used, plain) = translated
            .as_ref()
            .map_or((0, &[][..]), |(used, plain)| (*used, *plain));
        client.send(out, plain).map_err(|_| Trouble::ClientGone)?;
        translated.map_err(|_| Trouble::BodyBroke)?;
        Ok(used)
    }

    /// Passes a 101 on, if it was asked for (RFC 9110 15.2.2).
    fn pass_upgrade_on(
        &mut self,
        client: &mut Connection,
        out: &mut Vec<u8>,
    ) -> Result<usize, Trouble> {
        let asked = self
            .response
            .upgrade()
            .is_some_and(|chosen| self.request.offers(chosen));
        if !asked || self.request_side != RequestSide::Sent {
            return Err(Trouble::Bad("it switched protocols unasked"));
        }
        let how = ResponseForwarding {
            body: Body::None,
            keep_length_field: false,
            connection: ClientConnection::Upgrade,
            set_cookie: None,
            trailers: false,
        };
        write_response(&self.response, &how, out);
        client.send(out, &[]).map_err(|_| Trouble::ClientGone)?;
        self.status = 101;
        self.response_side = ResponseSide::Done;
        self.response_wait = Wait::default();
        Ok(0)
    }

    /// Whether the client was never told to send its body, and needs not: its connection ends with the answer.
    fn waives_request_body(&self) -> bool {
        self.close_client
            && self.request.expects_continue()
            && !self.continued
            && self.request_relay.taken() == 0
    }

    /// How a body that comes framed as `body` is framed towards the client: a length stays a length,
    /// and what has none is sent in chunks to whoever understands them (RFC 9112 6.1).
    fn frame_for_client(&self, body: Body) -> (Body, Writer) {
        match (body, self.request.version()) {
            (Body::None | Body::Length(_), _) => (body, Writer::Plain),
            (Body::Chunked | Body::UntilClose, Version::Http11) => {
                let trailers = body == Body::Chunked && self.request.accepts_trailers();
                (Body::Chunked, Writer::Chunked { trailers })
            }
            (Body::Chunked | Body::UntilClose, Version::Http10) => {
                (Body::UntilClose, Writer::Plain)
            }
        }
    }

    /// Keeps the backend's connection after an exchange that ended exactly; closes any other.
    fn keep_backend_connection(&mut self, cx: &mut Context) {
        let Some(mut lent) = self.route.connection.take() else {
            return;
        };
        let Some(backend) = &self.route.backend else {
            return cx.backends.close(lent);
        };
        let limits = &cx.runtime.config.limits;
        let connection = &mut lent.connection;
        let ended_exactly = self.route.reusable
            // That one has been told the address of this client.
            && !backend.settings.send_proxy_protocol
            && self.request_side == RequestSide::Sent
            && connection.buffered().is_empty()
            && !connection.has_ended()
            // A read that filled its buffer, or a splice, has not seen that nothing follows.
            && (!connection.is_readable() || connection.is_silent());
        if ended_exactly {
            let expires = Clock::after(cx.clock.now(), cx.runtime.config.timeouts.backend_idle);
            cx.backends
                .park(lent, backend, limits.idle_backend_connections, expires);
        } else {
            cx.backends.close(lent);
        }
    }
}
