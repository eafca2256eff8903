//! Exchanges over real sockets, in which the kernel fails where a test wants it to.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use crate::config::Config;
use crate::exchange::context::Context;
use crate::exchange::{Client, CloseReason, First, State, Turn};
use crate::live::Follower;
use crate::live::tests::live_of;
use crate::log::access::AccessLog;
use crate::net::poller::{Events, Poller, Source};
use crate::net::slab::{Key, Slab};
use crate::net::syscalls::failing::{Call, fail_next, has_failed};
use crate::net::waker::Bell;

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
        let backends: Vec<String> = backends
            .iter()
            .map(|address| format!(r#"{{"url": "http://{address}"}}"#))
            .collect();
        let text = format!(
            r#"{{"proxy": {{"port": 0}}, "health_check": {{"kind": "none"}}, "backends": [{}]}}"#,
            backends.join(",")
        );
        let config = Config::from_text("test", &text).unwrap();
        let bell = Arc::new(Bell::new().unwrap());
        let follower = Follower::new(live_of(config), bell.clone());
        let log = AccessLog::start().unwrap().writer();
        let cx = Context::new(&follower, Poller::new(&bell).unwrap(), log);
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

    /// No exchange has said anything against a backend.
    fn expect_no_blame(&self) {
        for backend in self.cx.snapshot.pool.backends() {
            assert!(backend.is_healthy() && !backend.take_check_wish());
            assert_eq!(backend.in_flight(), 0);
        }
    }
}

/// A backend that plays `script` on its next connections, one after the other, and gives what it received on each.
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
        busy.stage.connection().unwrap().expect_input();
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
