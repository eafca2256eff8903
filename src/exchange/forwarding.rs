//! Forwarding: the request on its way to the backend and the response on its way back, both at
//! once.
//!
//! Each side goes as far as it can and says what it waits for. A deadline runs only against the
//! peer that a side waits for.
//!
//! Read next: reply.rs, for what is answered when this fails; tunnel.rs, for what follows a 101.

use std::io;
use std::time::Duration;

use crate::exchange::close_reason::CloseReason;
use crate::exchange::context::Context;
use crate::exchange::ending::{fail, refuse};
use crate::exchange::failure::Failure;
use crate::exchange::record::log_failure;
use crate::exchange::relay::{Flow, Relay, RelayError, Tools};
use crate::exchange::state::ClientSide;
use crate::exchange::state::{
    End, Exchange, Heard, Persistence, RequestSide, ResponseSide, Route, Stage, Step, Wait, WaitFor,
};
use crate::http::Body;
use crate::http::body::{BodyTranslator, Writer};
use crate::http::forward::{ClientConnection, ResponseForwarding, write_interim, write_response};
use crate::http::reply::CONTINUE;
use crate::http::{Grammar, HeadError, Scheme, Version};
use crate::net::clock::Clock;
use crate::net::connection::{Connection, Received};
use crate::net::errno::is_our_shortage;
use crate::pool::{Event, Pool};
use crate::text::timestamp::HttpDate;

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

/// Carries both sides as far as they go.
pub(super) fn forward(client: &mut ClientSide, exchange: &mut Exchange, cx: &mut Context) -> Step {
    let mut yields = false;
    match forward_request(client, exchange, cx) {
        Side::Rests => {}
        Side::Yields => yields = true,
        Side::Leaves(step) => return step,
    }
    match forward_response(client, exchange, cx) {
        Side::Rests => {}
        Side::Yields => yields = true,
        Side::Leaves(step) => return step,
    }
    if exchange.response_side == ResponseSide::Done
        && (exchange.request_side != RequestSide::Sending || exchange.waives_request_body())
    {
        return Step::Over(End::Forwarded);
    }
    if client.connection.is_broken() {
        return Step::Close(CloseReason::ClientGone);
    }
    if yields { Step::Yield } else { Step::Wait }
}

/// The request side: what is left of the head, then the body.
fn forward_request(client: &mut ClientSide, exchange: &mut Exchange, cx: &mut Context) -> Side {
    let Some(lent) = &mut exchange.route.connection else {
        return Side::Rests;
    };
    if exchange.request_side != RequestSide::Sending {
        return Side::Rests;
    }
    let now = cx.clock.now();
    let timeouts = &exchange.settings.config.timeouts;
    let before = (exchange.request_relay.taken(), lent.connection.sent());
    let flow =
        exchange
            .request_relay
            .advance(&mut client.connection, &mut lent.connection, &mut cx.tools);
    let progress = before != (exchange.request_relay.taken(), lent.connection.sent());
    if !exchange.held.is_empty() {
        let is_sent = lent.connection.sent() != exchange.route.sent_before;
        let has_more = exchange.request_relay.taken() > exchange.held.len() as u64;
        // It is not sent again, whatever comes.
        if has_more || is_sent && !exchange.request.is_idempotent() {
            exchange.held = Vec::new();
        }
    }
    let expected = exchange.request.expects_continue()
        && !exchange.continued
        && exchange.request_relay.taken() == 0;
    if let Err(error) = &flow {
        log::debug!("{}: request body: {error}", client.address);
    }
    let has_begun = exchange.status.is_some();
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
        Ok(Flow::WaitSource) if expected && !has_begun => {
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
        Err(RelayError::Sink(error)) if is_our_shortage(&error) => Side::Leaves(if has_begun {
            Step::Close(CloseReason::OurShortage)
        } else {
            fail(client, exchange, Failure::of_connection(&error), cx)
        }),
        // The backend takes no more, but may have answered before: that answer counts.
        Err(RelayError::Sink(_)) => {
            exchange.request_side = RequestSide::Refused;
            *wait = Wait::default();
            lent.connection.expect_input();
            Side::Rests
        }
        Err(RelayError::Source(error)) => Side::Leaves(Step::Close(CloseReason::of_client(&error))),
        Err(RelayError::Body(_)) if has_begun => {
            Side::Leaves(Step::Close(CloseReason::BadRequestBody))
        }
        Err(RelayError::Body(error)) => {
            Side::Leaves(refuse(client, exchange, error.status(), error.reason(), cx))
        }
    }
}

/// The response side: interim responses, the head, the body.
fn forward_response(client: &mut ClientSide, exchange: &mut Exchange, cx: &mut Context) -> Side {
    loop {
        let side = match exchange.response_side {
            ResponseSide::Head => read_response_head(client, exchange, cx),
            ResponseSide::Body => Some(forward_response_body(client, exchange, cx)),
            ResponseSide::Done => Some(Side::Rests),
        };
        if let Some(side) = side {
            return side;
        }
    }
}

/// Reads a response head and passes it on. `None`: there is more to do.
fn read_response_head(
    client: &mut ClientSide,
    exchange: &mut Exchange,
    cx: &mut Context,
) -> Option<Side> {
    // Interim responses do not pile up for a client that does not take them.
    match client.connection.flush() {
        Ok(true) => {}
        Ok(false) => {
            let timeout = exchange.settings.config.timeouts.client_write;
            exchange
                .response_wait
                .set(WaitFor::ClientWrite, cx.clock.now(), timeout, false);
            return Some(Side::Rests);
        }
        Err(error) => {
            return Some(Side::Leaves(Step::Close(CloseReason::of_client(&error))));
        }
    }
    let Some(mut lent) = exchange.route.connection.take() else {
        return Some(Side::Rests);
    };
    let taken = exchange.take_response_head(&mut lent.connection, &mut client.connection, cx);
    exchange.route.connection = Some(lent);
    if let Some(status) = exchange.status {
        exchange.record_answer(status, cx.clock.now_us());
    }
    match taken {
        Ok(true)
            if exchange.response.status() == 101
                && exchange.response_side == ResponseSide::Done =>
        {
            exchange.begin_tunnel();
            Some(Side::Leaves(Step::Go(Stage::Tunnel)))
        }
        // A backend may send interim responses without end: the others' turn comes after each.
        Ok(true) if exchange.response_side == ResponseSide::Head => {
            await_response_head(client, exchange, cx);
            Some(Side::Yields)
        }
        Ok(true) => None,
        Ok(false) => Some(await_response_head(client, exchange, cx)),
        Err(Trouble::Failed(failure)) => Some(Side::Leaves(fail(client, exchange, failure, cx))),
        Err(Trouble::BodyBroke(error)) => {
            Some(Side::Leaves(response_broke(client, exchange, &error, cx)))
        }
        Err(Trouble::Client(error)) => {
            Some(Side::Leaves(Step::Close(CloseReason::of_client(&error))))
        }
    }
}

/// Nothing of the response is there yet.
fn await_response_head(client: &mut ClientSide, exchange: &mut Exchange, cx: &Context) -> Side {
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
            exchange.settings.config.timeouts.response_head,
            false,
        );
        if client.connection.has_ended() {
            let until = Clock::after(now, HALF_CLOSED).min(exchange.response_wait.until);
            exchange.response_wait = Wait {
                what: WaitFor::HalfClosed,
                until,
            };
        }
    }
    Side::Rests
}

/// The body of a response broke off after its head had been passed on: the client's connection
/// is cut, so that what it got cannot pass for complete.
fn response_broke(
    client: &mut ClientSide,
    exchange: &mut Exchange,
    error: &RelayError,
    cx: &mut Context,
) -> Step {
    log_failure(client, exchange, None, error, cx);
    match error {
        RelayError::Source(error) if is_our_shortage(error) => {
            Step::Close(CloseReason::OurShortage)
        }
        _ => Step::Close(CloseReason::BackendBrokeOff),
    }
}

/// The client may be waiting for a 100 (Continue) that the backend does not send (RFC 9110 10.1.1).
pub(super) fn send_continue(
    client: &mut ClientSide,
    exchange: &mut Exchange,
    cx: &mut Context,
) -> Step {
    let timeout = exchange.settings.config.timeouts.client_body;
    exchange
        .request_wait
        .set(WaitFor::ClientBody, cx.clock.now(), timeout, true);
    // The backend has said it meanwhile; or it has answered, and this would lie in the midst of that.
    if exchange.continued || exchange.status.is_some() {
        return Step::Go(Stage::Forwarding);
    }
    exchange.continued = true;
    match client.connection.send(CONTINUE, &[]) {
        Ok(()) => Step::Go(Stage::Forwarding),
        Err(error) => Step::Close(CloseReason::of_client(&error)),
    }
}

/// Passes the body on.
fn forward_response_body(
    client: &mut ClientSide,
    exchange: &mut Exchange,
    cx: &mut Context,
) -> Side {
    let Some(lent) = &mut exchange.route.connection else {
        return Side::Rests;
    };
    let now = cx.clock.now();
    let timeouts = &exchange.settings.config.timeouts;
    let relay = &mut exchange.response_relay;
    let before = (relay.taken(), client.connection.sent());
    let flow = relay.advance(&mut lent.connection, &mut client.connection, &mut cx.tools);
    let progress = before != (relay.taken(), client.connection.sent());
    if let Err(error) = &flow {
        log::debug!("{}: response body: {error}", client.address);
    }
    let wait = &mut exchange.response_wait;
    match flow {
        Ok(Flow::Done) => {
            exchange.response_side = ResponseSide::Done;
            *wait = Wait::default();
        }
        Ok(Flow::Yield) => {
            *wait = Wait::default();
            return Side::Yields;
        }
        // A client that has closed its sending side may be gone altogether, and an answer that
        // is silent would never find out.
        Ok(Flow::WaitSource)
            if client.connection.has_ended() && exchange.request_side != RequestSide::Sending =>
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
        Err(RelayError::Sink(error)) => {
            return Side::Leaves(Step::Close(CloseReason::of_client(&error)));
        }
        Err(error) => return Side::Leaves(response_broke(client, exchange, &error, cx)),
    }
    Side::Rests
}

/// Why a response head could not be passed on.
enum Trouble {
    /// There is none that can be forwarded.
    Failed(Failure),
    /// It has been passed on, and its body is malformed.
    BodyBroke(RelayError),
    /// The client does not take it.
    Client(io::Error),
}

impl Route {
    /// How the backend's answers are read.
    fn response_grammar(&self) -> Grammar {
        match &self.backend {
            Some(backend) if backend.settings.lenient => Grammar::LenientResponse,
            _ => Grammar::Response,
        }
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
            snapshot,
            tools: Tools { scratch, out, .. },
            date,
            clock,
            ..
        } = cx;
        let limits = &self.settings.head_limits;
        let grammar = self.route.response_grammar();
        if self.heard == Heard::Switch {
            return self.pass_upgrade_on(client, out);
        }
        let refused = |bytes: &[u8], error: HeadError| {
            Trouble::Failed(Failure::of_head(error.reason(), bytes))
        };
        let buffered = backend.buffered();
        if !buffered.is_empty()
            && let Some(used) = self
                .response
                .take_as(buffered, limits, grammar)
                .map_err(|error| refused(buffered, error))?
        {
            if self.response.status() == 101 {
                backend.consume_buffered(used);
                return self.pass_upgrade_on(client, out);
            }
            let rest = &backend.buffered()[used..];
            let body_used =
                self.pass_on(rest, client, out, &snapshot.pool, closes, (date, clock))?;
            backend.consume_buffered(used + body_used);
            return Ok(true);
        }
        loop {
            let bytes = match backend.receive(scratch, limits.input_bytes_max()) {
                Ok(Received::Bytes(bytes)) => bytes,
                Ok(Received::Wait) => return Ok(false),
                Ok(Received::End) => return Err(Trouble::Failed(Failure::Ended(None))),
                Err(error) => return Err(Trouble::Failed(Failure::of_connection(&error))),
            };
            if let Some(used) = self
                .response
                .take_as(bytes, limits, grammar)
                .map_err(|error| refused(bytes, error))?
            {
                if self.response.status() == 101 {
                    backend.consume(used, scratch);
                    return self.pass_upgrade_on(client, out);
                }
                let body_used = self.pass_on(
                    &bytes[used..],
                    client,
                    out,
                    &snapshot.pool,
                    closes,
                    (date, clock),
                )?;
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
        pool: &Pool,
        closes: bool,
        (date, clock): (&mut HttpDate, &Clock),
    ) -> Result<usize, Trouble> {
        out.clear();
        if self.response.is_interim() {
            self.heard = Heard::Interim;
            // One of them may have been made here already (see `send_continue`), and a client of
            // HTTP/1.0 knows none (RFC 9110 15.2).
            let is_continue = self.response.status() == 100;
            if self.request.version() == Version::Http11 && !(is_continue && self.continued) {
                write_interim(&self.response, out);
                client.send(out, &[]).map_err(Trouble::Client)?;
            }
            self.continued |= is_continue;
            self.response.clear();
            return Ok(0);
        }
        let body = self.response.body(self.request.is_head());
        let (framing, writer) = self.frame_for_client(body);
        let request_is_whole = self.request_relay.has_read_all();
        self.route.reusable = self.response.keep_alive() && body != Body::UntilClose;
        // A client that was told to wait before its body may send it or not; there is no way to know.
        let unasked =
            self.request.expects_continue() && !self.continued && self.request_relay.taken() == 0;
        self.persistence.close_if(
            closes
                || (!request_is_whole
                    && (!self.route.reusable
                        || unasked
                        || self.request_side == RequestSide::Refused)),
        );
        if framing == Body::UntilClose {
            self.persistence = Persistence::EndsBody;
        }
        let connection = match (self.persistence.is_kept(), self.request.version()) {
            (false, _) => ClientConnection::Close,
            (true, Version::Http10) => ClientConnection::KeepAliveExplicit,
            (true, Version::Http11) => ClientConnection::KeepAlive,
        };
        let set_cookie = match (&self.route.backend, self.route.set_cookie) {
            (Some(backend), true) => backend.set_cookie(self.scheme == Scheme::Https),
            _ => None,
        };
        let trailers = matches!(writer, Writer::Chunked { trailers: true });
        let how = ResponseForwarding {
            body: framing,
            keep_length_field: body == Body::None,
            connection,
            set_cookie,
            date: (!self.response.has_date()).then(|| &date.at(clock.now())[..]),
            trailers,
        };
        write_response(&self.response, &how, out);
        let mut translator =
            BodyTranslator::new(body, writer, u64::MAX, &self.settings.head_limits);
        translator.read_as(self.route.response_grammar());
        if trailers {
            translator.leave_out_trailers(self.response.connection_options());
        }
        self.response_relay = Relay::new(translator);
        self.status = Some(self.response.status());
        // From here on nothing is sent again, and the head has been written.
        self.held = Vec::new();
        self.response.give_back();
        self.response_side = ResponseSide::Body;
        self.response_wait = Wait::default();
        let translated = self.response_relay.translate(rest, out);
        if let Some(backend) = &mut self.route.backend {
            let reason = &"it answered a client's request";
            pool.report(backend, Event::Answered, reason);
            if self.response_relay.has_read_all() && self.request_side != RequestSide::Sending {
                backend.give_back();
            }
        }
        // Of a malformed body the client gets what was right, as it would if it had come later.
        let (used, plain) = translated
            .as_ref()
            .map_or((0, &[][..]), |(used, plain)| (*used, *plain));
        client.send(out, plain).map_err(Trouble::Client)?;
        translated.map_err(|error| Trouble::BodyBroke(error.into()))?;
        Ok(used)
    }

    /// Passes a 101 on, if it was asked for (RFC 9110 15.2.2). False: it waits until the request's body has gone out, for a
    /// client changes the protocol only behind its whole request (RFC 9110 7.8).
    fn pass_upgrade_on(
        &mut self,
        client: &mut Connection,
        out: &mut Vec<u8>,
    ) -> Result<bool, Trouble> {
        let asked = self
            .response
            .upgrade()
            .is_some_and(|chosen| self.request.offers(chosen));
        if !asked {
            let reason = "it switched protocols unasked";
            return Err(Trouble::Failed(Failure::RefusedHead(reason)));
        }
        match self.request_side {
            RequestSide::Sending => {
                self.heard = Heard::Switch;
                return Ok(false);
            }
            RequestSide::Sent => {}
            RequestSide::Refused => {
                let reason = "it switched protocols and did not take the request";
                return Err(Trouble::Failed(Failure::RefusedHead(reason)));
            }
        }
        out.clear();
        let how = ResponseForwarding {
            body: Body::None,
            keep_length_field: false,
            connection: ClientConnection::Upgrade,
            set_cookie: None,
            date: None,
            trailers: false,
        };
        write_response(&self.response, &how, out);
        client.send(out, &[]).map_err(Trouble::Client)?;
        self.status = Some(101);
        self.response_side = ResponseSide::Done;
        self.response_wait = Wait::default();
        Ok(true)
    }

    /// Whether the client was never told to send its body, and needs not: its connection ends with the answer.
    fn waives_request_body(&self) -> bool {
        !self.persistence.is_kept()
            && self.request.expects_continue()
            && !self.continued
            && self.request_relay.taken() == 0
    }

    /// How a body that comes framed as `body` is framed towards the client: a length stays a length,
    /// and what has none is sent in chunks to a client that understands them (RFC 9112 6.1).
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
}
