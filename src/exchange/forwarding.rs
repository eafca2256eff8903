//! Forwarding: the rest of the request on its way to the backend, and the response on its way back,
//! both at once.
//!
//! Each side goes as far as it can and then waits for one peer. A deadline runs only against the
//! peer that is waited for.
//!
//! Read next: `exchange/relay.rs`, which moves a body. `exchange/tunnel.rs` follows a 101.

use std::io;
use std::time::Duration;

use crate::exchange::close_reason::CloseReason;
use crate::exchange::context::Context;
use crate::exchange::failure::Failure;
use crate::exchange::record::tell_connected;
use crate::exchange::relay::{Buffers, Flow, Relay, RelayError};
use crate::exchange::sending::send_request;
use crate::exchange::state::{BackendSide, Chosen, ClientSide, End, Exchange};
use crate::exchange::state::{HALF_CLOSED, Heard, Persistence};
use crate::exchange::state::{RequestSide, ResponseSide, Step, To, Trouble, Wait, WaitFor};
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

/// How long `Expect: 100-continue` may hold a request up before rondo answers with 100 itself.
const CONTINUE_AFTER: Duration = Duration::from_secs(1);

/// What one side came to in one turn.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    /// It waits, or has ended.
    Rests,
    /// There is more to do at once.
    Yields,
    /// A tunnel follows.
    Switches,
}

/// What was read of a response's head.
enum Taken {
    /// Nothing complete.
    Nothing,
    /// An interim response.
    Interim,
    /// The final one, with as much of the body as came with it.
    Final,
    /// A 101 that the client asked for.
    Upgrade,
}

/// Carries both sides as far as they can go.
pub(super) fn forward(
    client: &mut ClientSide,
    backend: &mut BackendSide,
    exchange: &mut Exchange,
    cx: &mut Context,
) -> Result<Step, Trouble> {
    if exchange.request_side == RequestSide::Unsent {
        send_request(client, backend, exchange, cx)?;
        if cx.is_tcp() {
            tell_connected(exchange, &backend.chosen.place, cx);
            return Ok(Step::Go(To::Tunnel));
        }
    }
    let request = forward_request(client, backend, exchange, cx)?;
    let response = forward_response(client, backend, exchange, cx)?;
    if response == Side::Switches {
        return Ok(Step::Go(To::Tunnel));
    }
    if exchange.response_side == ResponseSide::Done
        && (exchange.request_side != RequestSide::Sending || exchange.waives_request_body())
    {
        return Ok(Step::Over(End::Forwarded));
    }
    if client.connection.is_broken() {
        return Ok(Step::Close(CloseReason::ClientGone));
    }
    if request == Side::Yields || response == Side::Yields {
        return Ok(Step::Yield);
    }
    Ok(Step::Wait)
}

/// The request side: the unsent rest of the head, then the body.
fn forward_request(
    client: &mut ClientSide,
    backend: &mut BackendSide,
    exchange: &mut Exchange,
    cx: &mut Context,
) -> Result<Side, Trouble> {
    if exchange.request_side != RequestSide::Sending {
        return Ok(Side::Rests);
    }
    let connection = &mut backend.lent.connection;
    let now = cx.clock.now();
    let timeouts = &exchange.settings.config.timeouts;
    let before = (exchange.request_relay.taken(), connection.sent());
    let flow = exchange
        .request_relay
        .advance(&mut client.connection, connection, &mut cx.buffers);
    let progress = before != (exchange.request_relay.taken(), connection.sent());
    if !exchange.held.is_empty() {
        let is_sent = connection.sent() != backend.sent_before;
        let has_more = exchange.request_relay.taken() > exchange.held.len() as u64;
        // It is never sent again.
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
        }
        Ok(Flow::Yield) => {
            // Progress: the last wait is over.
            *wait = Wait::default();
            return Ok(Side::Yields);
        }
        Ok(Flow::WaitSource) if expected && !has_begun => {
            wait.set(WaitFor::ClientBodyExpected, now, CONTINUE_AFTER, progress);
        }
        Ok(Flow::WaitSource) => {
            wait.set(WaitFor::ClientBody, now, timeouts.client_body, progress);
        }
        Ok(Flow::WaitSink) => {
            wait.set(WaitFor::BackendWrite, now, timeouts.response_body, progress);
        }
        Err(RelayError::Sink(error)) if is_our_shortage(&error) => {
            return Err(if has_begun {
                Trouble::Close(CloseReason::OurShortage)
            } else {
                Trouble::Failed(Failure::of_connection(&error))
            });
        }
        // The backend takes no more, but may have answered before: that response counts.
        Err(RelayError::Sink(_)) => {
            exchange.request_side = RequestSide::Refused;
            *wait = Wait::default();
            connection.mark_readable();
        }
        Err(RelayError::Source(error)) => return Err(Trouble::of_client(&error)),
        Err(RelayError::Body(_)) if has_begun => {
            return Err(Trouble::Close(CloseReason::BadRequestBody));
        }
        Err(RelayError::Body(error)) => {
            return Err(Trouble::Refused(error.status(), error.reason()));
        }
    }
    Ok(Side::Rests)
}

/// The response side: interim responses, the head, the body.
fn forward_response(
    client: &mut ClientSide,
    backend: &mut BackendSide,
    exchange: &mut Exchange,
    cx: &mut Context,
) -> Result<Side, Trouble> {
    match exchange.response_side {
        ResponseSide::Head => match read_response_head(client, backend, exchange, cx)? {
            Taken::Nothing => Ok(Side::Rests),
            // A backend may send interim responses without end: other connections have a turn after
            // each.
            Taken::Interim => Ok(Side::Yields),
            Taken::Upgrade => Ok(Side::Switches),
            Taken::Final => forward_response_body(client, backend, exchange, cx),
        },
        ResponseSide::Body => forward_response_body(client, backend, exchange, cx),
        ResponseSide::Done => Ok(Side::Rests),
    }
}

/// Reads a response head and forwards it.
fn read_response_head(
    client: &mut ClientSide,
    backend: &mut BackendSide,
    exchange: &mut Exchange,
    cx: &mut Context,
) -> Result<Taken, Trouble> {
    // Interim responses must not pile up for a client that does not read them.
    if !client
        .connection
        .flush()
        .map_err(|error| Trouble::of_client(&error))?
    {
        let timeout = exchange.settings.config.timeouts.client_write;
        exchange
            .response_wait
            .set(WaitFor::ClientWrite, cx.clock.now(), timeout, false);
        return Ok(Taken::Nothing);
    }
    let taken = exchange.take_response_head(backend, &mut client.connection, cx);
    if let Some(status) = exchange.status {
        exchange.record_answer(status, &backend.chosen.place, cx);
    }
    let taken = taken?;
    if matches!(taken, Taken::Nothing | Taken::Interim) {
        await_response_head(client, exchange, cx);
    }
    Ok(taken)
}

/// The final response has not come: sets the deadline for its head.
fn await_response_head(client: &ClientSide, exchange: &mut Exchange, cx: &Context) {
    let now = cx.clock.now();
    if exchange.request_side == RequestSide::Sending {
        // The backend may wait for the rest of the request: no time runs against it.
        exchange.response_wait = Wait::default();
    } else if exchange.response_wait.what == WaitFor::HalfClosed {
        // Runs on from the moment in which the client's end was seen.
    } else {
        exchange.response_wait.set(
            WaitFor::ResponseHead,
            now,
            exchange.settings.config.timeouts.response_head,
            false,
        );
        if client.connection.has_ended() {
            exchange.response_wait.half_close(now);
        }
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
    // A 100 was sent already, or the response has begun: a 100 now would corrupt it.
    if exchange.continued || exchange.status.is_some() {
        return Step::Again;
    }
    exchange.continued = true;
    match client.connection.send(CONTINUE, &[]) {
        Ok(()) => Step::Again,
        Err(error) => Step::Close(CloseReason::of_client(&error)),
    }
}

/// Forwards the response's body.
fn forward_response_body(
    client: &mut ClientSide,
    backend: &mut BackendSide,
    exchange: &mut Exchange,
    cx: &mut Context,
) -> Result<Side, Trouble> {
    let now = cx.clock.now();
    let timeouts = &exchange.settings.config.timeouts;
    let relay = &mut exchange.response_relay;
    let before = (relay.taken(), client.connection.sent());
    let flow = relay.advance(
        &mut backend.lent.connection,
        &mut client.connection,
        &mut cx.buffers,
    );
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
            return Ok(Side::Yields);
        }
        // A client that has closed its sending side may be gone, which a silent response would
        // never find out.
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
            return Err(Trouble::of_client(&error));
        }
        Err(error) => return Err(Trouble::Broke(error)),
    }
    Ok(Side::Rests)
}

impl Trouble {
    /// The client does not read its response, or broke off its request.
    fn of_client(error: &io::Error) -> Self {
        Trouble::Close(CloseReason::of_client(error))
    }
}

impl Chosen {
    /// The value of the cookie that binds the client to this backend, if it must be set.
    fn set_cookie(&self, scheme: Scheme) -> Option<&[u8]> {
        if self.set_cookie {
            self.place.set_cookie(scheme == Scheme::Https)
        } else {
            None
        }
    }

    /// How strictly the backend's responses are read.
    fn response_grammar(&self) -> Grammar {
        if self.place.settings.lenient {
            Grammar::LenientResponse
        } else {
            Grammar::Response
        }
    }
}

/// What a worker lends for forwarding a head, beside the buffer that holds the head.
struct Means<'a> {
    out: &'a mut Vec<u8>,
    pool: &'a Pool,
    date: &'a mut HttpDate,
    clock: &'a Clock,
    /// Whether the client's connection is closed after the response.
    closes: bool,
}

impl Exchange {
    /// Reads one response head from the backend and forwards it.
    fn take_response_head(
        &mut self,
        backend: &mut BackendSide,
        client: &mut Connection,
        cx: &mut Context,
    ) -> Result<Taken, Trouble> {
        let closes = cx.closes_after_answer();
        let Context {
            snapshot,
            buffers: Buffers { scratch, out, .. },
            date,
            clock,
            ..
        } = cx;
        let limits = &self.settings.head_limits;
        let BackendSide {
            chosen,
            lent,
            reusable,
            ..
        } = backend;
        let backend = &mut lent.connection;
        if self.heard == Heard::Switch {
            return self.pass_upgrade_on(client, out);
        }
        let grammar = chosen.response_grammar();
        let refused = |bytes: &[u8], error: HeadError| {
            Trouble::Failed(Failure::of_head(error.reason(), bytes))
        };
        let mut means = Means {
            out,
            pool: &snapshot.pool,
            date,
            clock,
            closes,
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
                return self.pass_upgrade_on(client, means.out);
            }
            let rest = &backend.buffered()[used..];
            let (taken, body_used) = self.pass_on(rest, client, chosen, reusable, &mut means)?;
            backend.consume_buffered(used + body_used);
            return Ok(taken);
        }
        loop {
            let bytes = match backend.receive(scratch, limits.input_bytes_max()) {
                Ok(Received::Bytes(bytes)) => bytes,
                Ok(Received::Wait) => return Ok(Taken::Nothing),
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
                    return self.pass_upgrade_on(client, means.out);
                }
                let rest = &bytes[used..];
                let (taken, body_used) =
                    self.pass_on(rest, client, chosen, reusable, &mut means)?;
                backend.consume(used + body_used, scratch);
                return Ok(taken);
            }
            backend.consume(0, scratch);
        }
    }

    /// Forwards the head in `response`, and what `rest` holds of the body. Returns how much of
    /// `rest` was used.
    fn pass_on(
        &mut self,
        rest: &[u8],
        client: &mut Connection,
        chosen: &mut Chosen,
        reusable: &mut bool,
        means: &mut Means<'_>,
    ) -> Result<(Taken, usize), Trouble> {
        let Means {
            out,
            pool,
            date,
            clock,
            closes,
        } = means;
        out.clear();
        if self.response.is_interim() {
            self.heard = Heard::Interim;
            // A 100 may have been sent here already (see `send_continue`), and an HTTP/1.0 client
            // knows no interim response (RFC 9110 15.2).
            let is_continue = self.response.status() == 100;
            if self.request.version() == Version::Http11 && !(is_continue && self.continued) {
                write_interim(&self.response, out);
                client
                    .send(out, &[])
                    .map_err(|error| Trouble::of_client(&error))?;
            }
            self.continued |= is_continue;
            self.response.clear();
            return Ok((Taken::Interim, 0));
        }
        let body = self.response.body(self.request.is_head());
        let (framing, writer) = self.frame_for_client(body);
        let request_is_whole = self.request_relay.has_read_all();
        *reusable = self.response.keep_alive() && body != Body::UntilClose;
        // A client that was never told to continue may send its body or not; there is no way to
        // know.
        let unasked =
            self.request.expects_continue() && !self.continued && self.request_relay.taken() == 0;
        self.persistence.close_if(
            *closes
                || (!request_is_whole
                    && (!*reusable || unasked || self.request_side == RequestSide::Refused)),
        );
        if framing == Body::UntilClose {
            self.persistence = Persistence::EndsBody;
        }
        let connection = match (self.persistence.is_kept(), self.request.version()) {
            (false, _) => ClientConnection::Close,
            (true, Version::Http10) => ClientConnection::KeepAliveExplicit,
            (true, Version::Http11) => ClientConnection::KeepAlive,
        };
        let trailers = matches!(writer, Writer::Chunked { trailers: true });
        let how = ResponseForwarding {
            body: framing,
            keep_length_field: body == Body::None,
            connection,
            set_cookie: chosen.set_cookie(self.scheme),
            date: (!self.response.has_date()).then(|| &date.at(clock.now())[..]),
            trailers,
        };
        write_response(&self.response, &how, out);
        let mut translator =
            BodyTranslator::new(body, writer, u64::MAX, &self.settings.head_limits);
        translator.read_as(chosen.response_grammar());
        if trailers {
            translator.leave_out_trailers(self.response.connection_options());
        }
        self.response_relay = Relay::new(translator);
        self.status = Some(self.response.status());
        // From here on the request is never sent again, and the response head is written.
        self.held = Vec::new();
        self.response.give_back();
        self.response_side = ResponseSide::Body;
        self.response_wait = Wait::default();
        let translated = self.response_relay.translate(rest, out);
        let reason = &"it answered a client's request";
        pool.report(&chosen.place, Event::Answered, reason);
        if self.response_relay.has_read_all() && self.request_side != RequestSide::Sending {
            chosen.place.give_back();
        }
        // Of a malformed body the client receives what was valid before the error.
        let (used, plain) = translated
            .as_ref()
            .map_or((0, &[][..]), |(used, plain)| (*used, *plain));
        client
            .send(out, plain)
            .map_err(|error| Trouble::of_client(&error))?;
        translated.map_err(|error| Trouble::Broke(error.into()))?;
        Ok((Taken::Final, used))
    }

    /// Forwards a 101 if the client asked for it (RFC 9110 15.2.2). The request's body goes out
    /// first: a client changes the protocol only behind its whole request (RFC 9110 7.8).
    fn pass_upgrade_on(
        &mut self,
        client: &mut Connection,
        out: &mut Vec<u8>,
    ) -> Result<Taken, Trouble> {
        let asked = self
            .response
            .upgrade()
            .is_some_and(|chosen| self.request.offers(chosen));
        if !asked {
            let reason = "it switched protocols unasked";
            return Err(Trouble::Failed(Failure::RefusedHead(reason)));
        }
        match self.request_side {
            RequestSide::Unsent | RequestSide::Sending => {
                self.heard = Heard::Switch;
                return Ok(Taken::Nothing);
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
        client
            .send(out, &[])
            .map_err(|error| Trouble::of_client(&error))?;
        self.status = Some(101);
        self.response_wait = Wait::default();
        Ok(Taken::Upgrade)
    }

    /// Whether the client's body is not waited for: the client was never told to send it, and its
    /// connection ends with the response.
    fn waives_request_body(&self) -> bool {
        !self.persistence.is_kept()
            && self.request.expects_continue()
            && !self.continued
            && self.request_relay.taken() == 0
    }

    /// The framing of a body towards the client, when it comes framed as `body`: a length stays a
    /// length, and a body without one is sent in chunks to a client that understands them (RFC 9112
    /// 6.1).
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
