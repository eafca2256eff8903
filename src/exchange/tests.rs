//! Exchanges over real sockets, in which the kernel fails and time passes where a test wants it to.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use crate::config::Config;
use crate::exchange::context::Context;
use crate::exchange::ending;
use crate::exchange::failure::{Age, Failure, Next, Request};
use crate::exchange::state::{Busy, Stage, Step, To, Trouble, WaitFor};
use crate::exchange::{Client, CloseReason, First, State, Turn};
use crate::live::Follower;
use crate::live::tests::live_of;
use crate::log::access::AccessLog;
use crate::net::clock::{Clock, Millis};
use crate::net::poller::{Events, Poller, Source};
use crate::net::slab::{Key, Slab};
use crate::net::syscalls::failing::{Call, fail_next, has_failed};
use crate::net::waker::Waker;
use crate::pool::Event;
use crate::pool::trace::{Decision, Outcome, Rule};

const PATIENCE: Duration = Duration::from_secs(30);

const POST: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody";
const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const ANSWER: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// One client's connection, carried by the thread of the test.
struct Table {
    cx: Context,
    client: Client,
    key: Key,
    events: Events,
    /// The client's end.
    peer: TcpStream,
    closed: Option<CloseReason>,
}

impl Table {
    fn over(backends: &[SocketAddr]) -> Table {
        Table::with(r#""proxy": {"port": 0}"#, backends)
    }

    fn with(settings: &str, backends: &[SocketAddr]) -> Table {
        let backends: Vec<String> = backends
            .iter()
            .map(|address| format!(r#"{{"url": "http://{address}"}}"#))
            .collect();
        let text = format!(
            r#"{{{settings}, "health_check": {{"kind": "none"}}, "backends": [{}]}}"#,
            backends.join(",")
        );
        let config = Config::from_text("test", &text).unwrap();
        let waker = Arc::new(Waker::new().unwrap());
        let follower = Follower::new(live_of(config), waker.clone());
        let log = AccessLog::start().unwrap().writer();
        let cx = Context::new(&follower, Poller::new(&waker).unwrap(), log);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        peer.set_read_timeout(Some(PATIENCE)).unwrap();
        let (stream, address) = listener.accept().unwrap();
        stream.set_nonblocking(true).unwrap();
        let key = Slab::default().insert_with(|_| ());
        let client = Client::new(stream, address, key, First::Request, &cx.clock);
        cx.poller
            .register(&client.side.connection, Source::Client(key))
            .unwrap();
        Table {
            cx,
            client,
            key,
            events: Events::default(),
            peer,
            closed: None,
        }
    }

    /// Does what a worker does, until `is_done`.
    fn carry(&mut self, is_done: impl Fn(&mut Table) -> bool) {
        let begin = Instant::now();
        while !is_done(self) {
            assert!(begin.elapsed() < PATIENCE, "it did not come about");
            let timeout = Some(Duration::from_millis(5));
            self.cx.poller.wait(&mut self.events, timeout).unwrap();
            self.cx.clock.read();
            for (source, readiness) in self.events.iter() {
                match source {
                    Source::Client(_) => self.client.side.connection.note(readiness),
                    Source::Backend(key) => {
                        if self.cx.backends.note(key, readiness) == Some(self.key) {
                            self.client.note_backend(readiness);
                        }
                    }
                }
            }
            while self.closed.is_none() {
                match self.client.advance(&mut self.cx) {
                    Turn::Again => {}
                    Turn::Waiting => break,
                    Turn::Closed(reason) => self.closed = Some(reason),
                }
            }
        }
    }

    /// Sends a request and carries it until the answer has come whole.
    fn exchange(&mut self, request: &str) -> String {
        self.peer.write_all(request.as_bytes()).unwrap();
        self.carry(|table| {
            let mut bytes = [0; 4096];
            table.peer.set_nonblocking(true).unwrap();
            let length = table.peer.peek(&mut bytes).unwrap_or(0);
            table.peer.set_nonblocking(false).unwrap();
            length > 0 && (table.client.idle().is_some() || table.closed.is_some())
        });
        let mut bytes = [0; 4096];
        let length = self.peer.read(&mut bytes).unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    }

    fn send(&mut self, bytes: &str) {
        self.peer.write_all(bytes.as_bytes()).unwrap();
    }

    fn busy(&mut self) -> &mut Busy {
        match &mut self.client.state {
            State::Busy(busy) => busy,
            state => panic!("no exchange is under way: {state:?}"),
        }
    }

    /// Carries it until it waits for `what`.
    fn carry_until(&mut self, what: WaitFor) {
        self.carry(|table| match &table.client.state {
            State::Busy(busy) => {
                let Busy { exchange, .. } = &**busy;
                exchange.request_wait.what == what || exchange.response_wait.what == what
            }
            _ => false,
        });
    }

    /// Carries it until no exchange is under way.
    fn carry_to_the_end(&mut self) {
        self.carry(|table| table.closed.is_some() || !matches!(table.client.state, State::Busy(_)));
    }

    /// Lets the time come at which the worker would look, and tells the exchange.
    fn expire_at(&mut self, now: Millis) -> Turn {
        self.cx.clock.stand_at(now);
        let turn = self.client.expire(&mut self.cx);
        if let Turn::Closed(reason) = turn {
            self.closed = Some(reason);
        }
        turn
    }

    /// What began just now may take `timeout`, and nothing happens before.
    fn time_out_after(&mut self, timeout: Duration) -> Turn {
        let deadline = self.client.deadline();
        assert_eq!(deadline, Clock::after(self.cx.clock.now(), timeout));
        assert_eq!(self.expire_at(deadline - 1), Turn::Waiting);
        assert_eq!(self.client.deadline(), deadline);
        self.expire_at(deadline)
    }

    /// What the client has received so far.
    fn received(&mut self) -> String {
        let mut bytes = [0; 4096];
        let length = self.peer.read(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }

    fn in_flight(&self) -> usize {
        let backends = self.cx.snapshot.pool.backends();
        backends.iter().map(|backend| backend.in_flight()).sum()
    }

    /// What is written down of the last exchange; its reason is that of the access line.
    fn decision(&self) -> Decision {
        *self.cx.decisions.snapshot().last().unwrap()
    }

    fn outcome(&self) -> Outcome {
        self.decision().tries().0.last().unwrap().outcome
    }

    /// No exchange has said anything against a backend.
    fn expect_no_blame(&self) {
        for backend in self.cx.snapshot.pool.backends() {
            assert!(backend.is_healthy() && !backend.take_check_wish());
            assert_eq!(backend.in_flight(), 0);
        }
    }
}

/// A backend that plays `script` on its next connections, one after the other, and gives what it
/// received on each.
fn backend(scripts: Vec<&'static str>) -> (SocketAddr, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let thread = thread::spawn(move || {
        let mut received = Vec::new();
        for script in scripts {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut text = Vec::new();
            let mut bytes = [0; 4096];
            while let Ok(length @ 1..) = stream.read(&mut bytes) {
                text.extend_from_slice(&bytes[..length]);
                if text.ends_with(b"body") || text.ends_with(b"\r\n\r\n") {
                    stream.write_all(script.as_bytes()).unwrap();
                }
            }
            received.push(String::from_utf8(text).unwrap());
        }
        received
    });
    (address, thread)
}

fn received(table: Table, thread: JoinHandle<Vec<String>>) -> Vec<String> {
    drop(table);
    thread.join().unwrap()
}

#[test]
fn a_post_that_we_lack_memory_to_send_goes_to_another_backend_and_blames_none() {
    for errno in [Errno::NOBUFS, Errno::NOMEM] {
        let ((one, first), (two, second)) = (backend(vec![ANSWER]), backend(vec![ANSWER]));
        let mut table = Table::over(&[one, two]);
        fail_next(one, Call::Send, errno);
        assert!(table.exchange(POST).starts_with("HTTP/1.1 200 "));
        assert!(has_failed());
        table.expect_no_blame();
        drop(table);
        assert_eq!(first.join().unwrap(), [""]);
        let received = second.join().unwrap();
        assert!(received[0].ends_with("\r\n\r\nbody"), "{received:?}");
    }
}

#[test]
fn a_post_that_we_lack_memory_to_send_on_a_used_connection_goes_over_a_new_one() {
    let (one, thread) = backend(vec![ANSWER, ANSWER]);
    let mut table = Table::over(&[one]);
    assert!(table.exchange(GET).ends_with("ok"));
    fail_next(one, Call::Send, Errno::NOBUFS);
    assert!(table.exchange(POST).ends_with("ok"));
    assert!(has_failed());
    table.expect_no_blame();
    let received = received(table, thread);
    assert!(received[0].starts_with("GET ") && !received[0].contains("POST "));
    assert!(received[1].starts_with("POST ") && received[1].ends_with("body"));
}

#[test]
fn with_no_memory_to_send_to_the_only_backend_the_client_gets_503() {
    let (one, _thread) = backend(vec![ANSWER]);
    let mut table = Table::over(&[one]);
    fail_next(one, Call::Send, Errno::NOBUFS);
    let answer = table.exchange(POST);
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("\r\nRetry-After: "));
    assert!(has_failed());
    table.expect_no_blame();
}

#[test]
fn an_answer_that_we_lack_memory_to_receive_sends_a_get_on_and_a_post_never_again() {
    for (request, status) in [(GET, "200"), (POST, "503")] {
        let ((one, first), (two, second)) = (backend(vec![ANSWER]), backend(vec![ANSWER]));
        let mut table = Table::over(&[one, two]);
        fail_next(one, Call::Receive, Errno::NOMEM);
        let answer = table.exchange(request);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
        assert!(has_failed());
        table.expect_no_blame();
        drop(table);
        assert_eq!(first.join().unwrap().len(), 1);
        if status == "200" {
            assert_eq!(second.join().unwrap().len(), 1);
        }
    }
}

#[test]
fn an_answer_that_we_lack_memory_for_in_its_midst_is_cut_and_blames_none() {
    // The second one is long enough for splice.
    for head in [
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345",
        "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n12345",
    ] {
        let (one, thread) = backend(vec![head]);
        let mut table = Table::over(&[one]);
        table.peer.write_all(GET.as_bytes()).unwrap();
        table.carry(|table| {
            matches!(&table.client.state, State::Busy(busy) if busy.exchange.status.is_some())
        });
        fail_next(one, Call::Receive, Errno::NOMEM);
        let State::Busy(busy) = &mut table.client.state else {
            panic!("the exchange is under way");
        };
        busy.stage.connection().unwrap().mark_readable();
        table.carry(|table| table.closed.is_some());
        assert!(has_failed());
        assert_eq!(table.closed, Some(CloseReason::OurShortage));
        table.expect_no_blame();
        received(table, thread);
    }
}

#[test]
fn with_no_port_left_towards_one_backend_the_next_is_asked_and_none_is_blamed() {
    let ((one, _), (two, second)) = (backend(vec![ANSWER]), backend(vec![ANSWER]));
    let mut table = Table::over(&[one, two]);
    fail_next(one, Call::Connect, Errno::ADDRNOTAVAIL);
    assert!(table.exchange(POST).ends_with("ok"));
    assert!(has_failed());
    table.expect_no_blame();
    drop(table);
    assert!(second.join().unwrap()[0].ends_with("body"));
}

#[test]
fn with_no_port_left_towards_the_only_backend_the_client_gets_503() {
    let (one, _) = backend(vec![ANSWER]);
    let mut table = Table::over(&[one]);
    fail_next(one, Call::Connect, Errno::ADDRNOTAVAIL);
    let answer = table.exchange(GET);
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("\r\nRetry-After: "));
    assert!(has_failed());
    table.expect_no_blame();
}

#[test]
fn with_no_descriptor_left_no_other_backend_is_asked() {
    for errno in [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM] {
        let ((one, _), (two, _)) = (backend(vec![ANSWER]), backend(vec![ANSWER]));
        let mut table = Table::over(&[one, two]);
        fail_next(one, Call::Connect, errno);
        assert!(table.exchange(GET).starts_with("HTTP/1.1 503 "));
        table.expect_no_blame();
    }
}

/// Where a backend listens that the test itself plays: connections wait for `accept`.
fn origin() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// An address at which a connect neither succeeds nor fails: the queue of the listener is full.
fn silent_address() -> (SocketAddr, Vec<socket2::Socket>) {
    let new = || {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        socket.unwrap()
    };
    let listener = new();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    listener.bind(&any.into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    let mut held = vec![listener];
    for _ in 0..4 {
        let socket = new();
        socket.set_nonblocking(true).unwrap();
        // Those that do not fit in the queue are under way for good.
        let _ = socket.connect(&address);
        held.push(socket);
    }
    (address.as_socket().unwrap(), held)
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

#[test]
fn a_head_that_is_not_whole_in_time_is_answered_and_an_empty_line_is_not() {
    let (_origin, address) = origin();
    let mut table = Table::over(&[address]);
    table.send("GET / HTTP/1.1\r\nHo");
    table.carry_until(WaitFor::ClientHead);
    let timeout = table.cx.snapshot.config.timeouts.client_head;
    table.time_out_after(timeout);
    table.carry_to_the_end();
    assert!(table.received().starts_with("HTTP/1.1 408 "));
    assert!(matches!(table.client.state, State::Lingering(_)));

    let mut table = Table::over(&[address]);
    table.send("\r\n");
    table.carry_until(WaitFor::ClientHead);
    let closed = Turn::Closed(CloseReason::IdleTimeout);
    assert_eq!(table.time_out_after(timeout), closed);
    assert!(table.cx.decisions.snapshot().is_empty());
}

#[test]
fn a_body_that_stops_is_answered_and_gives_its_place_back() {
    let (origin, address) = origin();
    let mut table = Table::over(&[address]);
    table.send(POST.strip_suffix("dy").unwrap());
    table.carry_until(WaitFor::ClientBody);
    let mut backend = origin.accept().unwrap().0;
    let timeout = table.cx.snapshot.config.timeouts.client_body;
    table.time_out_after(timeout);
    table.carry_to_the_end();
    assert!(table.received().starts_with("HTTP/1.1 408 "));
    assert!(matches!(table.client.state, State::Lingering(_)));
    let decision = table.decision();
    let reason = CloseReason::ClientBodyTimeout.text();
    assert_eq!(
        (decision.status, decision.reason),
        (Some(408), Some(reason))
    );
    table.expect_no_blame();
    // The backend is not kept waiting for the rest either.
    backend.set_read_timeout(Some(PATIENCE)).unwrap();
    backend.read_to_end(&mut Vec::new()).unwrap();
}

#[test]
fn a_body_that_stops_behind_an_answer_closes_the_connection() {
    let (origin, address) = origin();
    let mut table = Table::over(&[address]);
    table.send(POST.strip_suffix("dy").unwrap());
    table.carry_until(WaitFor::ClientBody);
    let mut backend = origin.accept().unwrap().0;
    backend.write_all(ANSWER.as_bytes()).unwrap();
    table.carry(|table| table.busy().exchange.status.is_some());
    let deadline = table.client.deadline();
    let closed = Turn::Closed(CloseReason::ClientBodyTimeout);
    assert_eq!(table.expire_at(deadline - 1), Turn::Waiting);
    assert_eq!(table.expire_at(deadline), closed);
    let decision = table.decision();
    let reason = CloseReason::ClientBodyTimeout.text();
    assert_eq!(
        (decision.status, decision.reason),
        (Some(200), Some(reason))
    );
    assert_eq!(table.in_flight(), 0);
}

#[test]
fn a_client_that_expects_100_gets_it_after_a_second_and_then_has_the_time_for_its_body() {
    let (_origin, address) = origin();
    let mut table = Table::over(&[address]);
    table.send("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n");
    table.carry_until(WaitFor::ClientBodyExpected);
    assert_eq!(table.time_out_after(seconds(1)), Turn::Waiting);
    assert!(table.received().starts_with("HTTP/1.1 100 "));
    let timeout = table.cx.snapshot.config.timeouts.client_body;
    table.time_out_after(timeout);
    table.carry_to_the_end();
    assert!(table.received().starts_with("HTTP/1.1 408 "));
}

#[test]
fn a_client_that_takes_nothing_is_cut_when_one_more_write_brings_no_progress() {
    let (origin, address) = origin();
    let mut table = Table::over(&[address]);
    table.send(GET);
    table.carry_until(WaitFor::ResponseHead);
    let mut backend = origin.accept().unwrap().0;
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n";
    backend.write_all(head.as_bytes()).unwrap();
    let writer = thread::spawn(move || while backend.write_all(&[b'x'; 16384]).is_ok() {});
    table.carry_until(WaitFor::ClientWrite);
    // Each time that the kernel takes more, the time begins again.
    for _ in 0..10_000 {
        if table.closed.is_some() {
            break;
        }
        let deadline = table.client.deadline();
        assert_eq!(table.expire_at(deadline - 1), Turn::Waiting);
        table.expire_at(deadline);
    }
    assert_eq!(table.closed, Some(CloseReason::ClientWriteTimeout));
    assert_eq!(table.in_flight(), 0);
    drop(table);
    writer.join().unwrap();
}

#[test]
fn a_connect_that_takes_too_long_costs_a_try_and_goes_to_another_backend_or_gives_504() {
    let ((silent, _held), (origin, address)) = (silent_address(), origin());
    let mut table = Table::over(&[silent, address]);
    table.send(GET);
    table.carry(|table| {
        matches!(&table.client.state, State::Busy(busy) if matches!(busy.stage, Stage::Opening(_)))
    });
    let timeout = table.cx.snapshot.config.timeouts.connect;
    table.time_out_after(timeout);
    table.carry_until(WaitFor::ResponseHead);
    assert_eq!(table.busy().exchange.tries.used, 1);
    origin
        .accept()
        .unwrap()
        .0
        .write_all(ANSWER.as_bytes())
        .unwrap();
    table.carry_to_the_end();
    assert!(table.received().ends_with("ok"));
    let first = table.decision().tries().0[0].outcome;
    assert_eq!(first, Outcome::ConnectTimedOut);

    let mut table = Table::over(&[silent]);
    table.send(GET);
    table.carry(|table| matches!(table.client.state, State::Busy(_)));
    table.time_out_after(timeout);
    table.carry_to_the_end();
    assert!(table.received().starts_with("HTTP/1.1 504 "));
    assert_eq!(table.in_flight(), 0);
}

#[test]
fn an_answer_that_does_not_come_is_504_and_one_that_stops_is_cut() {
    let (origin, address) = origin();
    let mut table = Table::over(&[address]);
    table.send(GET);
    table.carry_until(WaitFor::ResponseHead);
    let timeout = table.cx.snapshot.config.timeouts.response_head;
    table.time_out_after(timeout);
    table.carry_to_the_end();
    assert!(table.received().starts_with("HTTP/1.1 504 "));
    assert!(matches!(table.client.state, State::Idle { .. }));
    assert_eq!(table.decision().reason, Some(Outcome::HeadTimedOut.text()));
    table.expect_no_blame();

    let _first = origin.accept().unwrap();
    table.send(GET);
    table.carry_until(WaitFor::ResponseHead);
    let mut backend = origin.accept().unwrap().0;
    let half = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345";
    backend.write_all(half.as_bytes()).unwrap();
    table.carry_until(WaitFor::ResponseBody);
    let timeout = table.cx.snapshot.config.timeouts.response_body;
    let closed = Turn::Closed(CloseReason::BackendTimeout);
    assert_eq!(table.time_out_after(timeout), closed);
    let decision = table.decision();
    let reason = CloseReason::BackendTimeout.text();
    assert_eq!(
        (decision.status, decision.reason),
        (Some(200), Some(reason))
    );
    table.expect_no_blame();
}

#[test]
fn a_client_that_has_closed_its_side_is_given_up_after_two_silent_seconds() {
    let (_origin, address) = origin();
    let mut table = Table::over(&[address]);
    table.send(GET);
    table.peer.shutdown(Shutdown::Write).unwrap();
    table.carry_until(WaitFor::HalfClosed);
    let closed = Turn::Closed(CloseReason::ClientGone);
    assert_eq!(table.time_out_after(seconds(2)), closed);
    assert_eq!(table.outcome(), Outcome::ClientGone);
    assert_eq!(table.in_flight(), 0);
}

#[test]
fn a_silent_tunnel_ends_and_one_with_a_closed_side_ends_sooner() {
    for half_closes in [false, true] {
        let (origin, address) = origin();
        let mut table = Table::over(&[address]);
        table.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n");
        table.carry_until(WaitFor::ResponseHead);
        let mut backend = origin.accept().unwrap().0;
        let switch = "HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
        backend.write_all(switch.as_bytes()).unwrap();
        table.carry_until(WaitFor::Tunnel);
        assert!(matches!(table.busy().stage, Stage::Tunnel(_)));
        let timeouts = &table.cx.snapshot.config.timeouts;
        let mut timeout = timeouts.tunnel_idle;
        if half_closes {
            timeout = timeouts.tunnel_half_closed;
            table.peer.shutdown(Shutdown::Write).unwrap();
            table.carry_until(WaitFor::HalfTunnel);
        }
        let closed = Turn::Closed(CloseReason::TunnelTimeout);
        assert_eq!(table.time_out_after(timeout), closed);
        let reason = CloseReason::TunnelTimeout.text();
        assert_eq!(table.decision().reason, Some(reason));
        assert_eq!(table.in_flight(), 0);
    }
}

#[test]
fn a_request_that_is_refused_is_answered_and_its_connection_lingers() {
    let (_origin, address) = origin();
    let mut table = Table::over(&[address]);
    table.send("GET / HTTP/1.1\r\n\r\n");
    table.carry(|table| matches!(table.client.state, State::Lingering(_)));
    let answer = table.received();
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("\r\nConnection: close\r\n"));
    assert_eq!(table.cx.backends.len(), 0);
}

#[test]
fn a_body_that_is_malformed_is_refused_and_its_backend_left() {
    let (origin, address) = origin();
    let mut table = Table::over(&[address]);
    table.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n");
    table.carry_until(WaitFor::ClientBody);
    let _backend = origin.accept().unwrap();
    table.send("zz\r\n");
    table.carry_to_the_end();
    assert!(table.received().starts_with("HTTP/1.1 400 "));
    assert!(matches!(table.client.state, State::Lingering(_)));
    let decision = table.decision();
    assert!(decision.status == Some(400) && decision.reason.is_some());
    assert_eq!(decision.tries().0.len(), 1);
    assert_eq!(table.cx.backends.len(), 0);
    table.expect_no_blame();
}

#[test]
fn a_client_that_leaves_without_a_request_leaves_nothing_behind() {
    let (_origin, address) = origin();
    let mut table = Table::over(&[address]);
    table.peer.shutdown(Shutdown::Write).unwrap();
    table.carry(|table| table.closed.is_some());
    assert_eq!(table.closed, Some(CloseReason::ClientDone));
    assert!(table.cx.decisions.snapshot().is_empty());
    let Table {
        mut peer, client, ..
    } = table;
    drop(client);
    assert_eq!(peer.read(&mut [0; 1]).unwrap(), 0);
}

#[test]
fn an_exchange_that_finishes_keeps_both_connections() {
    let (origin, address) = origin();
    let mut table = Table::over(&[address]);
    table.send(GET);
    table.carry_until(WaitFor::ResponseHead);
    let mut backend = origin.accept().unwrap().0;
    backend.write_all(ANSWER.as_bytes()).unwrap();
    table.carry_to_the_end();
    assert!(table.received().ends_with("ok"));
    assert!(matches!(table.client.state, State::Idle { .. }));
    let decision = table.decision();
    assert_eq!((decision.status, decision.reason), (Some(200), None));
    assert_eq!(table.outcome(), Outcome::Answered(200));
    assert_eq!(table.cx.snapshot.pool.backends()[0].idle(), 1);
    table.expect_no_blame();

    table.send(GET);
    table.carry_until(WaitFor::ResponseHead);
    let Stage::Forwarding(backend) = &table.busy().stage else {
        panic!("the request was sent");
    };
    assert!(backend.lent.reused);
}

#[test]
fn an_answer_that_ends_with_its_connection_is_broken_off_with_a_reset() {
    let (origin, address) = origin();
    let mut table = Table::over(&[address]);
    table.send("GET / HTTP/1.0\r\nHost: a\r\n\r\n");
    table.carry_until(WaitFor::ResponseHead);
    let mut backend = origin.accept().unwrap().0;
    let half = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12";
    backend.write_all(half.as_bytes()).unwrap();
    table.carry_until(WaitFor::ResponseBody);
    assert!(table.received().ends_with("12"));
    drop(backend);
    table.carry(|table| table.closed.is_some());
    assert_eq!(table.closed, Some(CloseReason::BackendBrokeOff));
    assert_eq!(table.outcome(), Outcome::BrokeOff);
    table.expect_no_blame();
    let Table {
        mut peer, client, ..
    } = table;
    drop(client);
    let error = peer.read(&mut [0; 1]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

/// An exchange whose request has gone out to the first of two backends, over a connection of that
/// age.
fn forwarding(age: Age, request: Request, origins: &[SocketAddr; 2]) -> Table {
    let mut table = Table::with(
        r#""proxy": {"port": 0}, "balance": {"method": "round_robin"}"#,
        origins,
    );
    table.send(if request == Request::Spent { POST } else { GET });
    table.carry_until(WaitFor::ResponseHead);
    let Stage::Forwarding(backend) = &mut table.busy().stage else {
        panic!("the request was sent");
    };
    backend.lent.reused = age == Age::Reused;
    if request == Request::Unsent {
        backend.sent_before = backend.lent.connection.sent();
    }
    table
}

/// The client's exchange leaves its backend for this reason.
fn leave(table: &mut Table, failure: Failure) -> Step {
    let State::Busy(busy) = &mut table.client.state else {
        panic!("an exchange is under way");
    };
    let Busy { stage, exchange } = &mut **busy;
    let trouble = Trouble::Failed(failure);
    let step = ending::leave(
        &mut table.client.side,
        stage,
        exchange,
        trouble,
        &mut table.cx,
    );
    if let Step::Go(to) = step {
        busy.go(to);
    }
    step
}

#[test]
fn after_each_failure_the_exchange_does_what_its_row_says() {
    let ((_one, first), (_two, second)) = (origin(), origin());
    let origins = [first, second];
    // While a connection opens it is fresh, and nothing has gone out.
    for failure in [
        Failure::NoAddress,
        Failure::ConnectRefused(first, Errno::CONNREFUSED),
        Failure::ConnectTimeout(first),
        Failure::NoPort(first),
        Failure::NoDescriptor(Errno::MFILE),
    ] {
        expect_row(failure, Age::Fresh, Request::Unsent, &origins);
    }
    for failure in [
        Failure::NoMemory(Errno::NOBUFS),
        Failure::Ended(None),
        Failure::HeadTimeout,
        Failure::RefusedHead("a bare LF"),
        Failure::NotHttp,
    ] {
        for age in [Age::Fresh, Age::Reused] {
            for request in [Request::Unsent, Request::Repeatable, Request::Spent] {
                expect_row(failure, age, request, &origins);
            }
        }
    }
}

/// The exchange does what the row of this failure says.
fn expect_row(failure: Failure, age: Age, request: Request, origins: &[SocketAddr; 2]) {
    let row = failure.row(age, request);
    let what = format!("{failure:?} {age:?} {request:?}");
    let mut table = forwarding(age, request, origins);
    let step = leave(&mut table, failure);
    let backends = table.cx.snapshot.pool.backends().to_vec();
    assert_eq!(table.cx.backends.len(), 0, "{what}");
    let used = table.busy().exchange.tries.used;
    assert_eq!(used, u32::from(row.costs_try), "{what}");
    let heard = match (backends[0].take_check_wish(), backends[0].is_healthy()) {
        (false, true) => None,
        (true, true) => Some(Event::Died),
        (_, false) => row.event.filter(|&event| event != Event::Died),
    };
    assert_eq!(heard, row.event, "{what}");
    match row.next {
        Next::SameBackend => {
            assert!(matches!(table.busy().stage, Stage::Again(_)), "{what}");
            table.carry_until(WaitFor::ResponseHead);
            let backend = table.busy().stage.chosen().unwrap().place.index;
            assert_eq!(backend, 0, "{what}");
            let rule = table.busy().exchange.decision.tries().0[1].rule;
            assert_eq!(rule, Rule::SameAgain, "{what}");
        }
        Next::OtherBackend => {
            assert_eq!(step, Step::Again, "{what}");
            assert_eq!(table.in_flight(), 0, "{what}");
            table.carry_until(WaitFor::ResponseHead);
            let backend = table.busy().stage.chosen().unwrap().place.index;
            assert_eq!(backend, 1, "{what}");
        }
        Next::Answer => {
            assert_eq!(step, Step::Go(To::Reply), "{what}");
            // Its place is held until the client has the answer.
            assert_eq!(table.in_flight(), 1, "{what}");
            table.carry_to_the_end();
            let decision = table.decision();
            let found = (decision.status, decision.reason);
            assert_eq!(found, (Some(row.status), Some(row.reason)), "{what}");
            assert!(matches!(table.client.state, State::Idle { .. }), "{what}");
            assert_eq!(table.in_flight(), 0, "{what}");
        }
    }
}

#[test]
fn a_request_that_kills_both_backends_is_blamed_on_the_first_alone() {
    let ((_one, first), (_two, second)) = (origin(), origin());
    let mut table = forwarding(Age::Fresh, Request::Repeatable, &[first, second]);
    leave(&mut table, Failure::Ended(None));
    table.carry_until(WaitFor::ResponseHead);
    leave(&mut table, Failure::Ended(None));
    table.carry_to_the_end();
    assert!(table.received().starts_with("HTTP/1.1 502 "));
    assert_eq!(table.decision().reason, Some(Outcome::Died.text()));
    let backends = table.cx.snapshot.pool.backends();
    assert!(backends[0].take_check_wish() && !backends[1].take_check_wish());
    table.expect_no_blame();
}
