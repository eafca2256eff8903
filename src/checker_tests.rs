//! When checks are made, over real sockets.

use super::*;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};

use crate::checks::messages::PROXY_LOCAL;
use crate::checks::probe::may_send_echoes;
use crate::commands::Commands;
use crate::live::tests::snapshot_of;
use crate::pool::Event;
use crate::pool::Pool;
use crate::pool::backend::tests::settings as backend_settings;
use crate::pool::settings::Method;
use crate::pool::settings::StatusRanges;
use crate::pool::settings::{Host, HttpCheck};
use crate::pool::tests::{LONG, balance, health, until};

const AT_ONCE: usize = 64;

fn tcp() -> HealthCheckSettings {
    let down_interval = Duration::from_millis(20);
    HealthCheckSettings {
        interval: LONG * 2,
        down_interval,
        timeout: LONG,
        ..health(Kind::Tcp)
    }
}

fn http() -> HealthCheckSettings {
    let http = HttpCheck {
        path: "/health".to_owned(),
        status: StatusRanges(vec![200..=399]),
        ..HttpCheck::default()
    };
    HealthCheckSettings {
        kind: Kind::Http,
        http,
        interval: Duration::from_millis(20),
        ..tcp()
    }
}

fn pool(addresses: &[SocketAddr], settings: &HealthCheckSettings) -> Arc<Pool> {
    let backend = |address: &SocketAddr| {
        let mut backend = backend_settings(&address.to_string());
        backend.url.host = Host::Ip(address.ip());
        backend.url.port = address.port();
        backend.url.authority = address.to_string();
        backend
    };
    let backends = addresses.iter().map(backend).collect();
    Arc::new(Pool::new(backends, &balance(Method::RoundRobin), settings))
}

fn live(pool: &Arc<Pool>, settings: &HealthCheckSettings, at_once: usize) -> Arc<Live> {
    let snapshot = snapshot_of(Arc::clone(pool), settings.clone(), at_once);
    Arc::new(Live::new(snapshot, Commands::default()).unwrap())
}

fn start(pool: &Arc<Pool>, settings: &HealthCheckSettings) -> io::Result<Checker> {
    Checker::start(&live(pool, settings, AT_ONCE))
}

/// Rounds whose turns the test takes.
fn rounds(pool: &Arc<Pool>, settings: &HealthCheckSettings, at_once: usize) -> Rounds {
    let waker = Arc::new(Waker::new().unwrap());
    let follower = Follower::new(live(pool, settings, at_once), Arc::clone(&waker));
    Rounds::new(follower, waker, Arc::default())
}

fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// An address on which no server listens, for as long as the test wants: bound, but not
/// listening.
fn deaf() -> (socket2::Socket, SocketAddr) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket
        .bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
        .unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, address)
}

/// The bytes that came on one connection, and the error that ended it, if one did.
type Visit = (Vec<u8>, Option<io::Error>);

/// A server that reads one head for each connection, answers with what `answer` says at that
/// moment, and tells how the connection went.
fn server(answer: impl Fn() -> Vec<u8> + Send + 'static) -> (SocketAddr, Receiver<Visit>) {
    let (listener, address) = listen();
    let (tell, told) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut bytes = read_head(&mut stream);
            let end = stream
                .write_all(&answer())
                .and_then(|()| stream.shutdown(std::net::Shutdown::Write))
                .and_then(|()| stream.read_to_end(&mut bytes));
            if tell.send((bytes, end.err())).is_err() {
                return;
            }
        }
    });
    (address, told)
}

fn read_head(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 1024];
    while !bytes.ends_with(b"\r\n\r\n")
        || bytes.starts_with(&PROXY_LOCAL) && bytes.len() == PROXY_LOCAL.len()
    {
        match stream.read(&mut buffer) {
            Ok(length) if length > 0 => bytes.extend_from_slice(&buffer[..length]),
            _ => break,
        }
    }
    bytes
}

fn healthy(pool: &Pool, index: usize) -> bool {
    pool.backends()[index].is_healthy()
}

#[test]
fn the_checks_of_a_backend_go_on_where_the_list_changes() {
    let [a, b, c, new] = [1, 2, 3, 4].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    let first = pool(&[a, b, c], &tcp());
    let mut rounds = rounds(&first, &tcp(), AT_ONCE);
    let planned = Instant::now() + LONG;
    for (slot, seconds) in rounds.slots.iter_mut().zip(1..) {
        slot.due = planned + Duration::from_secs(seconds);
    }
    let list = pool(&[c, new, a], &tcp());
    let settings = list.backends().iter().map(|each| each.settings.clone());
    let balance = balance(Method::RoundRobin);
    let next = Pool::following(Some(&first), settings.collect(), &balance, &tcp());
    let next = snapshot_of(Arc::new(next), tcp(), AT_ONCE);
    rounds.follower.live().publish(next);
    assert!(rounds.follower.look());
    rounds.set_slots();
    let dues: Vec<Instant> = rounds.slots.iter().map(|slot| slot.due).collect();
    assert_eq!(dues[0], planned + Duration::from_secs(3));
    assert!(dues[1] <= Instant::now(), "a new one is checked at once");
    assert_eq!(dues[2], planned + Duration::from_secs(1));
}

#[test]
fn a_check_by_settings_that_no_longer_hold_is_made_again() {
    let (mut rounds, _listener) = hanging(1, &http(), AT_ONCE);
    let begin = rounds.slots[0].due;
    rounds.begin_due(begin);
    assert_eq!(running(&rounds), [0]);
    let settings = HealthCheckSettings {
        timeout: LONG / 2,
        ..http()
    };
    let pool = Arc::clone(&rounds.follower.pool);
    let next = snapshot_of(pool, settings, AT_ONCE);
    rounds.follower.live().publish(next);
    rounds.follower.look();
    rounds.set_slots();
    assert!(running(&rounds).is_empty());
    assert!(rounds.slots[0].due <= Instant::now());
}

#[test]
fn the_first_check_is_at_start_and_a_backend_that_comes_back_is_used_again() {
    let (up, up_address) = listen();
    let (down, down_address) = deaf();
    let pool = pool(&[up_address, down_address], &tcp());
    let _checker = start(&pool, &tcp()).unwrap();
    up.accept().unwrap();
    until(|| !healthy(&pool, 1));
    assert!(healthy(&pool, 0));
    let last = |index: usize| pool.backends()[index].last_check();
    until(|| last(0).is_some());
    let passed = last(0).unwrap();
    assert!(passed.passed && passed.kind == Kind::Tcp && passed.took < LONG);
    assert_eq!(passed.reason.get(), "connected");
    let failed = last(1).unwrap();
    assert!(!failed.passed && failed.reason.get().starts_with("connect to 127.0.0.1:"));
    let shown = pool.backends()[1].shown();
    assert_eq!(
        (shown.state, shown.since.reason.get()),
        ("down", failed.reason.get())
    );
    down.listen(16).unwrap();
    until(|| healthy(&pool, 1));
}

#[test]
fn a_check_that_hangs_delays_no_other() {
    let (hanging, hanging_address) = listen(); // accepts in the kernel and never answers
    let (address, told) = server(|| b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec());
    let (_deaf, deaf_address) = deaf();
    let pool = pool(&[hanging_address, address, deaf_address], &http());
    let checker = start(&pool, &http()).unwrap();
    for _ in 0..5 {
        told.recv_timeout(LONG).unwrap();
    }
    until(|| !healthy(&pool, 2));
    assert!(healthy(&pool, 0), "its check is still running");
    assert!(healthy(&pool, 1));
    let stopping = Instant::now();
    drop(checker);
    assert!(stopping.elapsed() < LONG / 2, "stopping waits for no check");
    drop(hanging);
}

/// Rounds whose turns the test takes, over backends that accept a connection and never answer.
fn hanging(number: usize, settings: &HealthCheckSettings, at_once: usize) -> (Rounds, TcpListener) {
    let (listener, address) = listen();
    let pool = pool(&vec![address; number], settings);
    (rounds(&pool, settings, at_once), listener)
}

fn running(rounds: &Rounds) -> Vec<usize> {
    let slots = rounds.slots.iter().enumerate();
    slots
        .filter(|(_, slot)| slot.probe.is_some())
        .map(|(place, _)| place)
        .collect()
}

#[test]
fn no_more_checks_run_at_once_than_may_and_the_next_begins_when_one_ends() {
    let (mut rounds, _listener) = hanging(10, &http(), 3);
    let start = rounds.slots[0].due;
    rounds.begin_due(start);
    assert_eq!(running(&rounds), [0, 1, 2]);
    rounds.begin_due(start + LONG / 4);
    assert_eq!(running(&rounds), [0, 1, 2], "none has ended");
    // The time of all three is over, and they are due again later than the others.
    let over = start + LONG * 2;
    rounds.go_on(over);
    rounds.begin_due(over);
    assert_eq!(running(&rounds), [3, 4, 5]);
    assert_eq!(
        (0..10)
            .filter(|&i| healthy(&rounds.follower.pool, i))
            .count(),
        7
    );
}

#[test]
fn a_check_that_waits_for_room_is_forgotten_with_its_backend() {
    let listeners = [listen(), listen(), listen()];
    let first = pool(&listeners.each_ref().map(|(_, address)| *address), &http());
    let mut rounds = rounds(&first, &http(), 1);
    let start = rounds.slots[0].due;
    rounds.begin_due(start);
    assert_eq!(running(&rounds), [0]);
    let kept = vec![first.backends()[0].settings.clone()];
    let next = Pool::following(Some(&first), kept, &balance(Method::RoundRobin), &http());
    let next = snapshot_of(Arc::new(next), http(), 1);
    rounds.follower.live().publish(next);
    rounds.follower.look();
    rounds.set_slots();
    // The time of this turn was taken before.
    rounds.begin_due(start);
    assert_eq!(running(&rounds), [0]);
}

#[test]
fn backends_that_are_up_are_checked_before_those_that_are_down() {
    let (mut rounds, _listener) = hanging(5, &http(), 2);
    let start = rounds.slots[0].due;
    for place in [0, 1, 3] {
        let pool = &rounds.follower.pool;
        pool.probed(&pool.backends()[place], Err("not in this test"));
    }
    for place in [0, 1] {
        rounds.slots[place].due = start + Duration::from_millis(1);
    }
    let start = start + Duration::from_millis(2);
    rounds.begin_due(start);
    assert_eq!(running(&rounds), [2, 4]);
    rounds.slots[2].probe = None;
    rounds.slots[2].due = start + LONG;
    rounds.begin_due(start);
    assert_eq!(running(&rounds), [3, 4], "then the one that waits longest");
}

#[test]
fn many_backends_are_looked_at_now_and_then_and_those_whose_checks_run_each_time() {
    let (mut rounds, _listener) = hanging(1280, &http(), 3);
    let start = rounds.slots[0].due;
    let after = |ms| start + Duration::from_millis(ms);
    for slot in &mut rounds.slots {
        slot.due = after(0) + LONG;
    }
    rounds.slots[7].due = start;
    rounds.begin_due(start);
    assert_eq!(running(&rounds), [7]);
    // As if the pool had woken the checker.
    (rounds.slots[9].due, rounds.next_look) = (after(1), after(1));
    rounds.begin_due(after(19));
    assert_eq!(running(&rounds), [7]);
    rounds.begin_due(after(20));
    assert_eq!(running(&rounds), [7, 9]);
    rounds.go_on(after(20) + LONG);
    let pool = &rounds.follower.pool;
    assert_eq!([7, 8, 9].map(|at| healthy(pool, at)), [false, true, false]);
}

#[test]
fn a_check_that_waits_for_a_name_keeps_no_other_waiting() {
    let (_listener, address) = listen();
    let mut backends = Vec::new();
    for number in 0..4 {
        let mut backend = backend_settings(&number.to_string());
        backend.url.host = Host::Name("a.example".to_owned());
        backends.push(backend);
    }
    backends[3].url.host = Host::Ip(address.ip());
    backends[3].url.port = address.port();
    let pool = Arc::new(Pool::new(backends, &balance(Method::RoundRobin), &http()));
    let mut rounds = rounds(&pool, &http(), 1);
    let start = rounds.slots[0].due;
    rounds.begin_due(start);
    assert_eq!(running(&rounds), [3]);
    // After the time of one check a name without an address is a failure, and needs no
    // connection for it.
    rounds.slots[3].due = start + 2 * LONG;
    rounds.slots[3].probe = None;
    rounds.begin_due(start + LONG);
    let failed = (0..3).filter(|&place| !healthy(&rounds.follower.pool, place));
    assert_eq!(failed.count(), 3);
    assert!(running(&rounds).is_empty());
}

#[test]
fn an_answer_that_arrived_while_the_process_was_paused_passes() {
    let (mut rounds, listener) = hanging(1, &http(), 1);
    rounds.settings.timeout = Duration::from_secs(1);
    // As if nothing had run since.
    let paused_at = Instant::now().checked_sub(Duration::from_secs(3)).unwrap();
    rounds.slots[0].due = paused_at;
    (rounds.next_look, rounds.rests_until) = (paused_at, paused_at);
    rounds.begin_due(paused_at);
    let (mut stream, _) = listener.accept().unwrap();
    let resumed_at = rounds.wait(paused_at);
    rounds.go_on(resumed_at);
    assert!(read_head(&mut stream).ends_with(b"\r\n\r\n"));
    stream
        .write_all(b"HTTP/1.1 204 No Content\r\n\r\n")
        .unwrap();
    rounds.wait(resumed_at);
    rounds.go_on(resumed_at + LONG);
    assert!(healthy(&rounds.follower.pool, 0) && running(&rounds).is_empty());
}

#[test]
fn a_check_takes_no_longer_than_its_timeout() {
    let (_hanging, address) = listen();
    let settings = HealthCheckSettings {
        timeout: Duration::from_millis(50),
        ..http()
    };
    let pool = pool(&[address], &settings);
    let _checker = start(&pool, &settings).unwrap();
    until(|| !healthy(&pool, 0));
}

#[test]
fn an_http_check_goes_by_the_status() {
    let good = Arc::new(AtomicBool::new(false));
    let answer = Arc::clone(&good);
    let (address, _told) = server(move || {
        let line = if answer.load(Ordering::Acquire) {
            "204 No Content"
        } else {
            "503 Busy"
        };
        format!("HTTP/1.1 {line}\r\n\r\n").into_bytes()
    });
    let pool = pool(&[address], &http());
    let _checker = start(&pool, &http()).unwrap();
    until(|| !healthy(&pool, 0));
    let last = || pool.backends()[0].last_check().unwrap();
    assert!(last().reason.get().ends_with("answered 503") && !last().passed);
    good.store(true, Ordering::Release);
    until(|| healthy(&pool, 0));
    assert_eq!((last().reason.get(), last().passed), ("status 204", true));
    assert_eq!(
        pool.backends()[0].shown().since.reason.get(),
        "check passed"
    );
}

#[test]
fn an_http_check_reads_a_long_answer_to_its_end_and_closes_without_a_reset() {
    let mut answer = b"HTTP/1.1 200 OK\r\nContent-Length: 50000\r\n\r\n".to_vec();
    answer.resize(answer.len() + 50_000, b'x');
    let (address, told) = server(move || answer.clone());
    let pool = pool(
        &[address],
        &HealthCheckSettings {
            interval: LONG,
            ..http()
        },
    );
    let _checker = start(&pool, &http()).unwrap();
    let (bytes, error) = told.recv_timeout(LONG).unwrap();
    assert!(error.is_none(), "{error:?}");
    let text = String::from_utf8(bytes).unwrap();
    assert!(text.starts_with(&format!("GET /health HTTP/1.1\r\nHost: {address}\r\n")));
}

#[test]
fn a_backend_that_wants_the_proxy_protocol_gets_a_local_header_first() {
    for settings in [tcp(), http()] {
        let (listener, address) = listen();
        let mut backend = backend_settings("a");
        backend.url.port = address.port();
        backend.send_proxy_protocol = true;
        let pool = Arc::new(Pool::new(
            vec![backend],
            &balance(Method::RoundRobin),
            &settings,
        ));
        let _checker = start(&pool, &settings).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        let bytes = read_head(&mut stream);
        assert_eq!(bytes[..16], PROXY_LOCAL);
        assert_eq!(bytes.len() == 16, settings.kind == Kind::Tcp);
    }
}

#[test]
fn a_backend_that_went_down_under_an_exchange_is_checked_after_the_down_interval() {
    let (listener, address) = listen();
    let pool = pool(&[address], &tcp());
    let fail = || {
        pool.report(
            &pool.backends()[0],
            Event::ConnectFailed,
            &"connect to it refused",
        );
    };
    // Down from the start: once it is up, no check is under way whose verdict could lift the
    // next failure.
    fail();
    let _checker = start(&pool, &tcp()).unwrap();
    for _ in 0..3 {
        until(|| healthy(&pool, 0));
        listener.accept().unwrap();
        fail();
    }
    until(|| healthy(&pool, 0));
}

#[test]
fn a_backend_that_died_under_an_exchange_is_checked_at_once_and_once_in_the_down_interval() {
    let (_listener, address) = listen();
    let settings = HealthCheckSettings {
        down_interval: Duration::from_secs(2),
        ..tcp()
    };
    let pool = pool(&[address], &settings);
    let backend = &pool.backends()[0];
    let mut rounds = rounds(&pool, &settings, AT_ONCE);
    let slot = &mut rounds.slots[0];
    let start = slot.due;
    let later = |seconds| start + Duration::from_secs(seconds);
    slot.due = later(60);
    let die = |slot: &mut Slot, now| {
        pool.report(backend, Event::Died, &"it closed before it answered");
        slot.hear_wish(backend, &settings, now);
        slot.due
    };
    assert_eq!(die(slot, later(5)), later(5), "at once");
    slot.due = later(60);
    assert_eq!(die(slot, later(6)), later(7), "not again at once");
    assert_eq!(die(slot, later(6)), later(7), "and what is planned stays");
    slot.due = later(60);
    assert_eq!(die(slot, later(8)), later(9));
    slot.due = later(60);
    assert_eq!(die(slot, later(30)), later(30));
    slot.hear_wish(backend, &settings, later(31));
    assert_eq!(slot.due, later(30), "asking once is answered once");
}

#[test]
fn addresses_are_tried_one_by_one_and_the_one_that_worked_goes_first() {
    let (listener, address) = listen();
    let (_deaf, deaf_address) = deaf();
    let mut backend = backend_settings("a");
    backend.url.host = Host::Name("a.example".to_owned());
    let pool = Arc::new(Pool::new(
        vec![backend],
        &balance(Method::RoundRobin),
        &tcp(),
    ));
    pool.backends()[0].set_addresses(vec![deaf_address, address]);
    let _checker = start(&pool, &tcp()).unwrap();
    listener.accept().unwrap();
    until(|| pool.backends()[0].addresses()[0] == address);
    assert!(healthy(&pool, 0));
}

#[test]
fn a_name_that_does_not_resolve_is_a_backend_that_is_down_until_it_does() {
    let (listener, address) = listen();
    let mut backend = backend_settings("a");
    backend.url.host = Host::Name("a.example".to_owned());
    let settings = HealthCheckSettings {
        down_interval: LONG,
        ..tcp()
    };
    let pool = Arc::new(Pool::new(
        vec![backend],
        &balance(Method::RoundRobin),
        &settings,
    ));
    let _checker = start(&pool, &settings).unwrap();
    assert!(healthy(&pool, 0), "the check has not ended yet");
    pool.backends()[0].lookup_failed();
    pool.wake_checker();
    until(|| !healthy(&pool, 0));
    pool.backends()[0].set_addresses(vec![address]);
    pool.wake_checker();
    listener.accept().unwrap();
    until(|| healthy(&pool, 0));
}

#[test]
fn icmp_checks_the_host_or_refuses_to_start_and_names_the_remedy() {
    let settings = HealthCheckSettings {
        kind: Kind::Icmp,
        ..tcp()
    };
    let (_deaf, address) = deaf();
    let pool = pool(
        &[
            address,
            SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, 1)),
        ],
        &settings,
    );
    match may_send_echoes().and_then(|()| start(&pool, &settings)) {
        Ok(_checker) => {
            for backend in pool.backends() {
                pool.report(backend, Event::NotHttp, &"its answer is not HTTP");
                until(|| backend.is_healthy());
            }
        }
        Err(error) => {
            assert!(
                error.to_string().contains("net.ipv4.ping_group_range"),
                "{error}"
            );
            assert!(healthy(&pool, 0), "no backend is marked down for it");
        }
    }
}

#[test]
fn after_the_first_round_checks_are_spread_over_the_interval_and_stay_so() {
    let addresses: Vec<SocketAddr> = (1..=8)
        .map(|port| SocketAddr::from(([127, 0, 0, 1], port)))
        .collect();
    let settings = HealthCheckSettings {
        interval: Duration::from_secs(80),
        ..tcp()
    };
    let pool = pool(&addresses, &settings);
    let mut rounds = rounds(&pool, &settings, AT_ONCE);
    let start = rounds.slots[0].due;
    for (place, slot) in rounds.slots.iter_mut().enumerate() {
        let expected = start + Duration::from_secs(10 * (place as u64 + 1));
        slot.plan(true, &settings, start + Duration::from_millis(3));
        assert_eq!(slot.due, expected);
        slot.plan(true, &settings, expected + Duration::from_millis(500));
        assert_eq!(slot.due, expected + settings.interval);
        slot.plan(false, &settings, expected + 3 * settings.interval);
        assert_eq!(
            slot.due,
            expected + 3 * settings.interval,
            "a late one is made up for at once"
        );
    }
}
