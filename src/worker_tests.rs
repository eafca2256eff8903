//! A worker's turns, taken one by one.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Instant;

use super::*;
use crate::config::Config;
use crate::live::Live;
use crate::live::tests::live_of;
use crate::log::access::AccessLog;
use crate::net::mailbox::{MailboxSender, mailbox};

/// A worker whose turns the test takes, over a backend that refuses every connection: each
/// request gets a 502, and its connection is kept.
struct Fixture {
    worker: Worker,
    listener: MailboxSender,
    live: Arc<Live>,
    events: Events,
    accepting: TcpListener,
    _refusing: socket2::Socket,
}

impl Fixture {
    fn new() -> Fixture {
        let refusing =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        let any_port = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        refusing.bind(&any_port.into()).unwrap();
        let port = refusing.local_addr().unwrap().as_socket().unwrap().port();
        let text = format!(
            r#"{{"proxy": {{"port": 0, "max_connections": 2, "access_log": false}},
                "backends": [{{"url": "http://127.0.0.1:{port}/"}}]}}"#
        );
        let live = live_of(Config::from_text("test", &text).unwrap());
        let (mailbox, listener) = mailbox().unwrap();
        let follower = Follower::new(live.clone(), mailbox.waker.clone());
        let poller = Poller::new(&mailbox.waker).unwrap();
        let log = AccessLog::start().unwrap().writer();
        Fixture {
            worker: Worker::new(follower, mailbox, poller, log),
            listener,
            live,
            events: Events::default(),
            accepting: TcpListener::bind(any_port).unwrap(),
            _refusing: refusing,
        }
    }

    /// A client that has connected, and that the worker has taken over.
    fn client(&mut self) -> TcpStream {
        let client = TcpStream::connect(self.accepting.local_addr().unwrap()).unwrap();
        let (stream, address) = self.accepting.accept().unwrap();
        stream.set_nonblocking(true).unwrap();
        self.live.admission.add();
        self.worker.open((stream, address));
        client
    }

    /// Lets the worker act until `client` has something to read.
    fn answer(&mut self, client: &mut TcpStream) -> String {
        client.set_nonblocking(true).unwrap();
        while client.peek(&mut [0]).is_err() {
            self.worker.take_events(&mut self.events);
            self.worker.take_turns();
        }
        client.set_nonblocking(false).unwrap();
        let mut bytes = [0; 1024];
        let count = client.read(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..count]).into_owned()
    }

    /// A client that has had an answer and has been idle for long enough to make room.
    fn kept_client(&mut self) -> TcpStream {
        let mut client = self.client();
        client.write_all(REQUEST).unwrap();
        assert!(self.answer(&mut client).contains("Connection: keep-alive"));
        thread::sleep(PAUSE);
        self.worker.context.clock.read();
        client
    }

    fn ask_for_room(&mut self) {
        self.live.admission.want_room();
        self.listener.ask_for_room();
        self.worker.make_room();
    }
}

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

#[test]
fn an_end_behind_as_many_connections_as_are_taken_at_once_is_seen_without_another_wake_up() {
    let Fixture {
        mut worker,
        listener,
        mut events,
        accepting,
        ..
    } = Fixture::new();
    let address = accepting.local_addr().unwrap();
    let clients = [(); TAKEN_OVER_MAX].map(|()| TcpStream::connect(address).unwrap());
    for _ in &clients {
        listener.send(accepting.accept().unwrap());
    }
    drop(listener);
    worker.take_events(&mut events);
    assert!(!worker.take_over());
    // Would wait for as long as a client may be idle.
    let start = Instant::now();
    worker.take_events(&mut events);
    assert!(start.elapsed() < Duration::from_secs(30));
    assert!(worker.take_over());
}

#[test]
fn the_longest_idle_client_makes_room() {
    let mut fixture = Fixture::new();
    let mut first = fixture.kept_client();
    let _second = fixture.kept_client();
    fixture.ask_for_room();
    assert_eq!(first.read(&mut [0]).unwrap(), 0);
    assert_eq!(fixture.worker.clients.len(), 1);
    assert!(fixture.live.admission.has_room());
}

#[test]
fn a_client_whose_request_has_arrived_is_served_instead_of_closed() {
    let mut fixture = Fixture::new();
    let mut first = fixture.kept_client();
    let mut second = fixture.kept_client();
    // No event has been taken since: the worker still has it for idle.
    first.write_all(REQUEST).unwrap();
    fixture.ask_for_room();
    assert_eq!(second.read(&mut [0]).unwrap(), 0, "the next one goes");
    assert!(fixture.answer(&mut first).starts_with("HTTP/1.1 502 "));
}

#[test]
fn a_client_that_has_gone_makes_the_room_that_was_asked_for() {
    let mut fixture = Fixture::new();
    let first = fixture.kept_client();
    let _second = fixture.kept_client();
    drop(first);
    fixture.ask_for_room();
    assert_eq!(fixture.worker.clients.len(), 1);
}

#[test]
fn nothing_is_closed_for_a_listener_that_has_found_room_meanwhile() {
    let mut fixture = Fixture::new();
    let _client = fixture.kept_client();
    fixture.listener.ask_for_room();
    fixture.worker.make_room();
    assert_eq!(fixture.worker.clients.len(), 1);
}

#[test]
fn clients_that_may_not_make_room_yet_stay_and_the_listener_is_told() {
    let mut fixture = Fixture::new();
    let _silent = fixture.client();
    let mut answered = fixture.client();
    answered.write_all(REQUEST).unwrap();
    fixture.answer(&mut answered);
    fixture.ask_for_room();
    assert_eq!(fixture.worker.clients.len(), 2);
    // Would wait for an hour if it had not been woken.
    let waker = &fixture.live.admission.listener;
    waker.wait(Duration::from_secs(3600));
}

#[test]
fn a_client_is_listed_as_answered_from_its_first_answer_on() {
    let mut fixture = Fixture::new();
    let mut client = fixture.client();
    let listed = |fixture: &Fixture, kind| fixture.worker.idle.oldest(kind).is_some();
    assert!(listed(&fixture, Kind::Silent) && !listed(&fixture, Kind::Answered));
    client.write_all(REQUEST).unwrap();
    fixture.answer(&mut client);
    assert!(!listed(&fixture, Kind::Silent) && listed(&fixture, Kind::Answered));
}
