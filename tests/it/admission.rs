//! Which connections are admitted, wait, or make room at `proxy.max_connections`; and that no request is lost there.

use crate::support::client::get;
use crate::support::proxy::Plan;
use crate::support::{Addressed, Backend, Client, Holding, Origin, PATIENCE, Proxy, eventually};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

/// So long a connection without an answer stays when others wait.
const SILENCE: Duration = Duration::from_secs(1);

/// A backend that answers after `delay`, and keeps nothing.
fn origin(delay: Duration) -> impl Addressed {
    Backend::start().run(move |_, mut wire| {
        while wire.next_request().is_some() {
            wire.forget();
            thread::sleep(delay);
            if !wire.try_send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok") {
                return;
            }
        }
    })
}

/// Runs a scenario that has to be over within the time that silence is borne; on a machine that was slower, again.
fn before_silence(scenario: impl Fn() -> Result<(), String>) {
    loop {
        let begin = Instant::now();
        match scenario() {
            Ok(()) => return,
            Err(why) => assert!(begin.elapsed() > SILENCE, "{why}"),
        }
    }
}

#[test]
fn a_connection_that_has_had_no_answer_is_not_closed_for_a_newcomer() {
    before_silence(|| {
        let origin = Origin::start("one");
        let proxy = Proxy::over(&[&origin])
            .set("proxy.max_connections", 2)
            .start();
        let (mut a, mut b, mut c) = (proxy.client(), proxy.client(), proxy.client());
        c.send(get("/c"));
        thread::sleep(SILENCE / 5);
        for early in [&mut a, &mut b] {
            if early.has_ended() || !early.try_send(get("/")) {
                return Err("a connection was closed before its first request".to_owned());
            }
            if early.try_read_line().as_deref() != Some("HTTP/1.1 200 OK") {
                return Err("a request got no answer".to_owned());
            }
        }
        assert_eq!(c.read_response().status, 200);
        Ok(())
    });
}

#[test]
fn a_silent_connection_makes_room_after_a_second() {
    let origin = Origin::start("one");
    for limit in [1, 2] {
        let proxy = Proxy::over(&[&origin])
            .set("proxy.max_connections", limit)
            .start();
        let begin = Instant::now();
        let mut silent: Vec<Client> = (0..limit).map(|_| proxy.client()).collect();
        let mut newcomer = proxy.client();
        assert_eq!(newcomer.get("/").status, 200);
        // A worker's clock is that of its batch of events, which may have begun earlier.
        assert!(begin.elapsed() >= SILENCE / 2, "{:?}", begin.elapsed());
        // Those of one millisecond are equally old.
        assert!(silent.iter_mut().any(|client| client.has_ended()));
    }
}

#[test]
fn a_connection_without_its_proxy_header_makes_room_like_any_other_silent_one() {
    let origin = Origin::start("one");
    let proxy = Proxy::over(&[&origin])
        .set("proxy.max_connections", 1)
        .set("proxy.accept_proxy_protocol", true)
        .start();
    let mut silent = proxy.client();
    let mut newcomer = proxy.client();
    newcomer.send("PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n");
    // Far below `timeouts.client_head`, after which the silent one would go in any case.
    let begin = Instant::now();
    assert_eq!(newcomer.get("/").status, 200);
    assert!(begin.elapsed() < Duration::from_secs(9));
    silent.expect_closed();
    assert!(proxy.access_lines().len() <= 1, "silence is no request");
}

#[test]
fn a_connection_with_half_a_request_makes_no_room() {
    let origin = Origin::start("one");
    let proxy = Proxy::over(&[&origin])
        .set("proxy.max_connections", 1)
        .start();
    let mut slow = proxy.client();
    slow.send("GET / HTTP/1.1\r\n");
    let mut newcomer = proxy.client();
    newcomer.send(get("/"));
    thread::sleep(SILENCE + SILENCE / 2);
    slow.send("Host: a\r\n\r\n");
    let response = slow.read_response();
    assert_eq!((response.status, response.says_close()), (200, true));
    slow.expect_closed();
    assert_eq!(newcomer.read_response().status, 200);
}

#[test]
fn while_newcomers_wait_answers_say_close_and_afterwards_they_do_not() {
    let backend = Backend::start();
    let proxy = Proxy::over(&[&backend])
        .set("proxy.max_connections", 1)
        .start();
    let mut first = proxy.client();
    let mut wire = None;
    // The listener sees a moment after it happens that the newcomer has come, and that it was the last.
    eventually(
        "the first answer says close and the second does not",
        || {
            first.send(get("/first"));
            let mut held = backend.accept_or(wire.take());
            held.expect_request();
            let mut second = proxy.client();
            second.send(get("/second"));
            thread::sleep(Duration::from_millis(20));
            held.answer("one");
            let says_close = first.read_response().says_close();
            let mut held = backend.accept_or(Some(held));
            held.serve("two");
            let stays = !second.read_response().says_close();
            wire = Some(held);
            first.expect_closed();
            first = if stays { second } else { proxy.client() };
            says_close && stays
        },
    );
}

#[test]
fn while_newcomers_wait_our_own_answers_say_close_too() {
    let backend = Backend::start();
    let proxy = Proxy::over(&[&backend])
        .set("proxy.max_connections", 1)
        .start();
    let mut first = proxy.client();
    eventually(
        "the first answer says close and the second does not",
        || {
            first.send(get("/first"));
            let mut held = backend.accept();
            held.expect_request();
            let mut second = proxy.client();
            second.send(get("/second"));
            thread::sleep(Duration::from_millis(20));
            held.send("no HTTP\r\n\r\n");
            let response = first.read_response();
            assert_eq!(response.status, 502);
            let mut held = backend.accept();
            held.expect_request();
            held.send("no HTTP\r\n\r\n");
            let stays = !second.read_response().says_close();
            first = if stays { second } else { proxy.client() };
            response.says_close() && stays
        },
    );
}

#[test]
fn no_more_connections_are_closed_than_there_are_newcomers() {
    for workers in [1, 2, 4] {
        let origin = Origin::start("one");
        let proxy = Proxy::over(&[&origin])
            .set("proxy.max_connections", 40)
            .set("proxy.workers", workers)
            .start();
        let mut kept: Vec<Client> = (0..40).map(|_| proxy.client()).collect();
        for client in &mut kept {
            assert_eq!(client.get("/").status, 200);
        }
        for newcomers in [1, 3, 10] {
            let mut new: Vec<Client> = (0..newcomers).map(|_| proxy.client()).collect();
            for client in &mut new {
                client.send(get("/"));
            }
            new.retain_mut(|client| {
                let response = client.read_response();
                assert_eq!(response.status, 200);
                !response.says_close()
            });
            let before = kept.len();
            kept.retain(|client| !client.has_ended());
            let closed = before - kept.len();
            // One that was answered while others waited has made room itself.
            let wanted = if newcomers == 1 { 1..=1 } else { 1..=newcomers };
            assert!(
                wanted.contains(&closed),
                "{workers} workers: {closed} for {newcomers}"
            );
            kept.append(&mut new);
            while kept.len() < 40 {
                let mut client = proxy.client();
                if !client.get("/").says_close() {
                    kept.push(client);
                }
            }
        }
        for client in &mut kept {
            assert_eq!(client.get("/").status, 200);
        }
    }
}

#[test]
fn a_newcomer_that_gives_up_costs_at_most_one_connection() {
    let origin = Origin::start("one");
    let proxy = Proxy::over(&[&origin])
        .set("proxy.max_connections", 5)
        .start();
    let mut kept: Vec<Client> = (0..5).map(|_| proxy.client()).collect();
    for client in &mut kept {
        assert_eq!(client.get("/").status, 200);
    }
    proxy.client().close();
    eventually("its place was made", || {
        kept.iter().any(|client| client.has_ended())
    });
    kept.retain(|client| !client.has_ended());
    assert_eq!(kept.len(), 4);
    for client in &mut kept {
        assert_eq!(client.get("/").status, 200);
    }
}

/// What became of the requests of a load.
#[derive(Default, Debug)]
struct Tally {
    answered: AtomicUsize,
    /// On a connection of its own, or with part of an answer.
    lost: AtomicUsize,
    /// On a connection that was kept after an answer and that has ended without a byte: they crossed.
    crossed: AtomicUsize,
    /// Answers with another status than 200.
    refused: AtomicUsize,
    connections: AtomicUsize,
}

impl Tally {
    fn get(count: &AtomicUsize) -> usize {
        count.load(Ordering::SeqCst)
    }

    fn add(count: &AtomicUsize) {
        count.fetch_add(1, Ordering::SeqCst);
    }
}

#[derive(Clone, Copy, Debug)]
enum Use {
    OneRequest,
    /// As long as the answers allow it, with this pause between two requests.
    KeepAlive(Duration),
}

/// Lets `clients` make `requests` each, all at once.
fn load(address: SocketAddr, clients: usize, requests: usize, how: Use) -> Arc<Tally> {
    let tally = Arc::new(Tally::default());
    let barrier = Arc::new(Barrier::new(clients));
    let threads: Vec<_> = (0..clients)
        .map(|_| {
            let (tally, barrier) = (Arc::clone(&tally), Arc::clone(&barrier));
            let client = move || {
                barrier.wait();
                let mut kept = None;
                for _ in 0..requests {
                    kept = one_request(address, kept, how, &tally);
                    if let Use::KeepAlive(pause) = how {
                        thread::sleep(pause);
                    }
                }
            };
            thread::Builder::new()
                .stack_size(128 * 1024)
                .spawn(client)
                .unwrap()
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    tally
}

/// Makes one request, and gives the connection back if it may be used again.
fn one_request(
    address: SocketAddr,
    kept: Option<TcpStream>,
    how: Use,
    tally: &Tally,
) -> Option<TcpStream> {
    // As every client does that keeps connections: one that has ended meanwhile is not used again.
    let kept = kept.filter(|stream| !has_ended(stream));
    let reused = kept.is_some();
    let mut stream = kept.unwrap_or_else(|| {
        Tally::add(&tally.connections);
        let stream = TcpStream::connect(address).expect("the backlog has room");
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    });
    let mut answer = Vec::new();
    let result = stream
        .write_all(get("/").as_bytes())
        .and_then(|()| read_answer(&mut stream, &mut answer));
    let Ok(head) = result else {
        let crossed = reused && answer.is_empty();
        Tally::add(if crossed { &tally.crossed } else { &tally.lost });
        return None;
    };
    Tally::add(&tally.answered);
    if !head.starts_with("HTTP/1.1 200 ") {
        Tally::add(&tally.refused);
    }
    let is_kept = matches!(how, Use::KeepAlive(_)) && !head.contains("Connection: close");
    is_kept.then_some(stream)
}

fn has_ended(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let is_open = stream
        .peek(&mut [0])
        .is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
    stream.set_nonblocking(false).unwrap();
    !is_open
}

/// Reads one answer; gives its head.
fn read_answer(stream: &mut TcpStream, answer: &mut Vec<u8>) -> std::io::Result<String> {
    let mut buffer = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(answer);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .split("Content-Length: ")
                .nth(1)
                .and_then(|rest| rest.split("\r\n").next()?.parse().ok());
            if length == Some(body.len()) {
                return Ok(head.to_owned());
            }
        }
        match stream.read(&mut buffer)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            count => answer.extend_from_slice(&buffer[..count]),
        }
    }
}

/// Three times as many clients as there are places, over and over.
fn three_times(plan: Plan, limit: usize, requests: usize, how: Use) {
    let proxy = plan.set("proxy.access_log", false).start();
    // A longer run, to be sure: RONDO_LOAD=100 makes it a hundred times as long.
    let times = std::env::var("RONDO_LOAD").map_or(1, |times| times.parse().unwrap());
    let tally = load(proxy.address(), 3 * limit, requests * times, how);
    println!("{limit} places, {how:?}: {tally:?}");
    assert_eq!(
        Tally::get(&tally.lost),
        0,
        "{limit} places, {how:?}: {tally:?}"
    );
    assert_eq!(
        Tally::get(&tally.refused),
        0,
        "{limit} places, {how:?}: {tally:?}"
    );
    let crossed = Tally::get(&tally.crossed);
    assert!(
        crossed * 10_000 <= Tally::get(&tally.answered),
        "{limit} places, {how:?}: {tally:?}"
    );
}

#[test]
fn three_times_as_many_clients_as_places_lose_no_request_of_one_each() {
    for (limit, requests) in [(1, 200), (2, 200), (40, 40), (100, 20)] {
        for workers in [1, 2] {
            let origin = origin(Duration::from_millis(1));
            let plan = Proxy::over(&[&origin])
                .set("proxy.workers", workers)
                .set("proxy.max_connections", limit);
            three_times(plan, limit, requests, Use::OneRequest);
        }
    }
}

#[test]
fn three_times_as_many_clients_as_places_lose_no_request_on_kept_connections() {
    for (limit, requests) in [(1, 200), (2, 200), (40, 40), (100, 20)] {
        for workers in [1, 2] {
            let origin = origin(Duration::from_millis(1));
            let plan = Proxy::over(&[&origin])
                .set("proxy.workers", workers)
                .set("proxy.max_connections", limit);
            three_times(plan, limit, requests, Use::KeepAlive(Duration::ZERO));
        }
    }
}

#[test]
fn few_descriptors_lose_no_request_either() {
    for descriptors in [16, 20, 24, 32, 48, 64, 128, 256] {
        for how in [Use::OneRequest, Use::KeepAlive(Duration::ZERO)] {
            let origin = origin(Duration::from_millis(1));
            let plan = Proxy::over(&[&origin])
                .checks(json!({ "kind": "tcp" }))
                .descriptors_max(descriptors);
            three_times(plan, descriptors / 2, 10, how);
        }
    }
}

/// The number of clients that `--check` promises under this limit of descriptors.
fn promised(config: &Value, descriptors: usize) -> usize {
    let file = std::env::temp_dir().join(format!("rondo-promise-{}", std::process::id()));
    std::fs::write(&file, config.to_string()).unwrap();
    let checked = std::process::Command::new("sh")
        .arg("-c")
        .arg(format!(
            "ulimit -n {descriptors} && exec \"$0\" --check \"$1\""
        ))
        .arg(env!("CARGO_BIN_EXE_rondo"))
        .arg(&file)
        .output()
        .unwrap();
    std::fs::remove_file(&file).unwrap();
    let text = String::from_utf8(checked.stdout).unwrap();
    let number = text
        .split("at most ")
        .find_map(|rest| rest.split_once(" client connections")?.0.parse().ok());
    number.unwrap_or_else(|| panic!("no number of clients in {text}"))
}

#[test]
fn hanging_checks_of_many_backends_take_no_descriptor_from_the_clients_that_are_promised() {
    const DESCRIPTORS: usize = 1024;
    let held = Holding::start("one");
    // Accepts connections in the kernel and never answers a check.
    let hanging = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let hanging_url = format!("http://{}/", hanging.local_addr().unwrap());
    let mut backends = vec![json!({ "url": held.url() })];
    // Weight 0: they are checked and get no request.
    backends.extend((0..599).map(
        |number| json!({ "url": hanging_url, "name": format!("hanging-{number}"), "weight": 0 }),
    ));
    let health_check = json!({ "kind": "http", "down_interval": "100ms", "timeout": "1s" });
    let proxy_section = json!({ "port": 0, "address": "127.0.0.1", "workers": 2 });
    let config =
        json!({ "proxy": proxy_section, "backends": backends, "health_check": health_check });
    let clients = promised(&config, DESCRIPTORS);
    assert!(clients > 300, "{clients}");
    let proxy = Proxy::over(&[&held])
        .set("backends", backends)
        .checks(health_check)
        .descriptors_max(DESCRIPTORS)
        .start();
    proxy.wait_for_event(&[&format!("max_connections is {clients} instead of 10000")]);
    eventually("so many checks hang at once", || {
        proxy.events_with(&["is down"]) >= 64
    });
    for _ in 0..3 {
        let mut all: Vec<Client> = (0..clients).map(|_| proxy.client()).collect();
        for client in &mut all {
            client.send(get("/hold"));
        }
        eventually("all are with the backend", || held.held() == clients);
        held.release();
        for client in &mut all {
            assert_eq!(client.read_response().status, 200);
        }
        held.hold_again();
    }
}

#[test]
fn idle_connections_to_many_backends_take_no_descriptor_from_requests() {
    let origin = Origin::start("one");
    let backends: Vec<Value> = (0..30)
        .map(|number| json!({ "url": origin.url(), "name": number.to_string() }))
        .collect();
    let proxy = Proxy::over(&[&origin])
        .set("backends", backends)
        .descriptors_max(40)
        .start();
    // One after the other on one connection, and then one connection each.
    let mut kept = proxy.client();
    for _ in 0..100 {
        assert_eq!(kept.get("/").status, 200);
    }
    for _ in 0..100 {
        assert_eq!(proxy.client().get("/").status, 200);
    }
    assert!(origin.connections() > 100, "hardly one was used again");
}
