//! Exchanges over real sockets, in which the kernel fails and time passes where a test wants it to.

mod endings;
mod failures;
mod shortages;
mod timeouts;

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
use crate::net::lock::lock;
use crate::net::poller::{Events, Poller, Source};
use crate::net::slab::{Key, Slab};
use crate::net::syscalls::failing::{Call, fail_next, has_failed};
use crate::net::waker::Waker;
use crate::pool::trace::{Decision, Outcome, Rule};
use crate::pool::{Event, Served};

const PATIENCE: Duration = Duration::from_secs(30);

const POST: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody";
const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const OK: Served = Served::Answered {
    status: 200,
    took: Duration::ZERO,
};
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

    /// What the pool was told of tries since the last call, without the times.
    fn told(&self) -> Vec<Served> {
        let told = std::mem::take(&mut *lock(&self.cx.snapshot.pool.heard));
        let took = Duration::ZERO;
        let without_times = |served| match served {
            Served::Answered { status, .. } => Served::Answered { status, took },
            Served::Connected { .. } => Served::Connected { took },
            Served::Failed { outcome, .. } => Served::Failed { outcome, took },
            Served::BrokeOff | Served::Whole { .. } => served,
        };
        told.into_iter().map(without_times).collect()
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

/// Where a backend listens that the test itself plays: connections wait for `accept`.
fn origin() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}
