//! Starting, stopping, and running out of things.

use crate::support::client::get;
use crate::support::proxy::run_with_config;
use crate::support::{Addressed, Backend, Client, Holding, Origin, Proxy, Refusing, eventually};
use rustix::process::Signal;
use std::fs;
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

#[test]
fn sigterm_sigint_and_sigquit_stop_it_cleanly() {
    for signal in [Signal::TERM, Signal::INT, Signal::QUIT] {
        let origin = Origin::start("one");
        let mut proxy = Proxy::over(&[&origin]).start();
        let mut idle = proxy.client();
        assert_eq!(idle.get("/").status, 200);
        proxy.signal(signal);
        assert_eq!(proxy.wait_exit(), 0);
        idle.expect_gone();
        assert!(TcpStream::connect(proxy.address()).is_err());
    }
}

#[test]
fn what_is_in_flight_is_answered_with_connection_close() {
    let backend = Backend::start();
    let mut proxy = Proxy::over(&[&backend]).start();
    let mut client = proxy.client();
    client.send(get("/slow"));
    let mut wire = backend.accept();
    wire.expect_request();
    proxy.terminate();
    proxy.wait_until_closed();
    wire.answer("in the end");
    let response = client.read_response();
    assert_eq!(
        (response.text().as_str(), response.says_close()),
        ("in the end", true)
    );
    client.expect_closed();
    assert_eq!(proxy.wait_exit(), 0);
}

#[test]
fn a_body_under_way_is_finished() {
    let backend = Backend::start();
    let mut proxy = Proxy::over(&[&backend]).start();
    let mut client = proxy.client();
    client.send(get("/"));
    let mut wire = backend.accept();
    wire.expect_request();
    wire.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345");
    client.read_response_head();
    assert_eq!(client.read_exact(5), b"12345");
    proxy.terminate();
    proxy.wait_until_closed();
    wire.send("67890");
    assert_eq!(client.read_to_end(), b"67890");
    assert_eq!(proxy.wait_exit(), 0);
}

#[test]
fn what_does_not_end_is_cut_at_drain_and_the_exit_is_clean() {
    let backend = Backend::start();
    let mut proxy = Proxy::over(&[&backend])
        .set("timeouts.drain", "300ms")
        .start();
    let mut client = proxy.client();
    client.send(get("/slow"));
    let mut wire = backend.accept();
    wire.expect_request();
    let begin = Instant::now();
    proxy.terminate();
    assert_eq!(proxy.wait_exit(), 0);
    assert!(
        begin.elapsed() >= Duration::from_millis(280),
        "not given its time: {:?}",
        begin.elapsed()
    );
    client.read_until_gone();
    wire.expect_gone();
}

#[test]
fn an_open_tunnel_is_cut_at_drain() {
    let backend = Backend::start();
    let mut proxy = Proxy::over(&[&backend])
        .set("timeouts.drain", "300ms")
        .start();
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n");
    let mut wire = backend.accept();
    wire.expect_request();
    wire.send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n");
    assert_eq!(client.read_response().status, 101);
    proxy.terminate();
    assert_eq!(proxy.wait_exit(), 0);
    client.expect_gone();
    wire.expect_gone();
}

#[test]
fn a_kept_connection_may_bring_one_more_request() {
    // The stop and the request cross on the way in: a client that was idle a moment ago is still answered.
    let origin = Origin::start("one");
    let mut proxy = Proxy::over(&[&origin]).start();
    let mut client = proxy.client();
    assert_eq!(client.get("/").status, 200);
    let begin = Instant::now();
    proxy.terminate();
    proxy.wait_for_event(&["stopping"]);
    // The first ones may still be answered as if nothing had happened; the one that finds it stopping is the last.
    while client.try_send(get("/crossing")) && begin.elapsed() < Duration::from_millis(500) {
        let response = client.read_response();
        assert_eq!(response.status, 200);
        if response.says_close() {
            client.expect_closed();
            break;
        }
    }
    assert_eq!(proxy.wait_exit(), 0);
}

#[test]
fn a_connection_that_becomes_idle_late_in_the_drain_may_bring_one_more_request_too() {
    let backend = Backend::start();
    let mut proxy = Proxy::over(&[&backend]).one_worker().start();
    // Its head went out before the stop and does not say that the connection ends.
    let mut client = proxy.client();
    client.send(get("/"));
    let mut wire = backend.accept();
    wire.expect_request();
    wire.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345");
    assert!(!client.read_response_head().says_close());
    let mut idle = proxy.client();
    proxy.terminate();
    // The second for those that are idle from the start is over.
    idle.expect_closed();
    wire.send("67890");
    assert_eq!(client.read_exact(10), b"1234567890");
    // Once its line is written the worker has looked for idle connections.
    proxy.wait_for_access("GET / ");
    client.send(get("/crossing"));
    let mut wire = backend.accept_or(Some(wire));
    assert_eq!(wire.serve("one more").target, "/crossing");
    let response = client.read_response();
    assert_eq!(
        (response.text().as_str(), response.says_close()),
        ("one more", true)
    );
    client.expect_closed();
    assert_eq!(proxy.wait_exit(), 0);
}

#[test]
fn at_the_limit_of_connections_the_accept_queue_is_served_too() {
    let origin = Holding::start("one");
    let mut proxy = Proxy::over(&[&origin])
        .set("proxy.max_connections", 1)
        .one_worker()
        .start();
    let mut first = proxy.hold(|| origin.held());
    let mut waiting: Vec<Client> = (0..5).map(|_| proxy.client()).collect();
    for client in &mut waiting {
        client.send(get("/"));
    }
    let begin = Instant::now();
    proxy.terminate();
    proxy.wait_for_event(&["stopping"]);
    origin.release();
    assert_eq!(first.read_response().status, 200);
    for mut client in waiting {
        let (answer, _) = client.read_until_gone();
        // Room is waited for a second, which a busy machine may use up.
        let is_late = begin.elapsed() >= Duration::from_secs(1);
        assert!(answer.starts_with(b"HTTP/1.1 200 ") || is_late);
    }
    assert_eq!(proxy.wait_exit(), 0);
}

#[test]
fn clients_in_the_accept_queue_are_served() {
    for _ in 0..5 {
        let origin = Origin::start("one");
        let mut proxy = Proxy::over(&[&origin]).start();
        let mut clients: Vec<Client> = (0..30).map(|_| proxy.client()).collect();
        for client in &mut clients {
            client.send(get("/"));
        }
        proxy.terminate();
        for client in &mut clients {
            assert_eq!(client.read_response().status, 200);
        }
        assert_eq!(proxy.wait_exit(), 0);
    }
}

#[test]
fn a_second_signal_ends_it_at_once_with_1() {
    for (first, second) in [
        (Signal::TERM, Signal::TERM),
        (Signal::INT, Signal::TERM),
        (Signal::TERM, Signal::INT),
        (Signal::QUIT, Signal::TERM),
    ] {
        let backend = Backend::start();
        let mut proxy = Proxy::over(&[&backend]).set("timeouts.drain", "1h").start();
        let mut client = proxy.client();
        client.send(get("/slow"));
        let mut wire = backend.accept();
        wire.expect_request();
        proxy.signal(first);
        proxy.wait_until_closed();
        assert!(proxy.is_running());
        proxy.signal(second);
        assert_eq!(proxy.wait_exit(), 1);
        assert_eq!(proxy.events_with(&["stopped a second time"]), 1);
    }
}

#[test]
fn during_drain_delay_it_still_serves() {
    let origin = Origin::start("one");
    let mut proxy = Proxy::over(&[&origin])
        .set("timeouts.drain_delay", "600ms")
        .start();
    let begin = Instant::now();
    proxy.terminate();
    while begin.elapsed() < Duration::from_millis(300) {
        // A refusal is right only if this very step took us beyond the delay.
        match TcpStream::connect(proxy.address()) {
            Ok(stream) => {
                let mut wire = crate::support::Wire::new(stream);
                wire.send(get("/"));
                assert_eq!(wire.read_response().status, 200);
            }
            Err(error) => assert!(begin.elapsed() > Duration::from_millis(550), "{error}"),
        }
    }
    assert_eq!(proxy.wait_exit(), 0);
    assert!(begin.elapsed() >= Duration::from_millis(550));
}

#[test]
fn a_signal_before_anything_was_served_stops_it_too() {
    let dead = Refusing::start();
    let mut proxy = Proxy::over(&[&dead]).start();
    proxy.terminate();
    assert_eq!(proxy.wait_exit(), 0);
}

#[test]
fn other_signals_never_end_it_and_each_is_logged() {
    let origin = Origin::start("one");
    let mut proxy = Proxy::over(&[&origin]).start();
    for (signal, said) in [
        (Signal::HUP, Some("reloaded: backends: 1 kept")),
        (
            Signal::USR1,
            Some("SIGUSR1 ignored: there is no log file to reopen"),
        ),
        (
            Signal::USR2,
            Some("SIGUSR2 ignored: this version cannot replace"),
        ),
        (Signal::PIPE, None),
    ] {
        proxy.signal(signal);
        if let Some(said) = said {
            proxy.wait_for_event(&[said]);
        }
        assert_eq!(proxy.client().get("/").status, 200);
        assert!(proxy.is_running());
    }
}

/// The processes whose parent is this one, with their states.
fn children(parent: u32) -> Vec<(u32, char)> {
    let stat = |pid: u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (_, rest) = stat.rsplit_once(") ")?;
        let mut fields = rest.split(' ');
        let state = fields.next()?.chars().next()?;
        (fields.next()? == parent.to_string()).then_some((pid, state))
    };
    let pids = fs::read_dir("/proc").unwrap();
    pids.filter_map(|entry| stat(entry.ok()?.file_name().to_str()?.parse().ok()?))
        .collect()
}

#[test]
fn as_pid_1_it_reaps_orphans() {
    let unshare = |program: &str| {
        let status = Command::new("unshare")
            .args(["--pid", "--fork", program])
            .stderr(Stdio::null())
            .status();
        status.is_ok_and(|status| status.success())
    };
    if !unshare("true") || Command::new("nsenter").arg("-V").output().is_err() {
        println!("skipped: no process namespace may be made here");
        return;
    }
    let origin = Origin::start("one");
    let mut proxy = Proxy::over(&[&origin])
        .argument("--log")
        .argument("debug")
        .pid_1()
        .start();
    let (init, _) = children(proxy.pid())[0];
    for _ in 0..5 {
        // Four processes that end after their parent did, two at a time.
        let orphans = "sleep 0.05 & sleep 0.05 & sleep 0.1 & sleep 0.1 &";
        let status = Command::new("nsenter")
            .args(["--target", &init.to_string(), "--pid", "sh", "-c", orphans])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success());
    }
    eventually("all are reaped", || {
        proxy.events_with(&["reaped the orphaned process"]) == 20
    });
    assert_eq!(children(init), []);
    assert_eq!(proxy.client().get("/").status, 200);
    // A signal reaches PID 1 only if it has a handler.
    let pid = rustix::process::Pid::from_raw(init.try_into().unwrap());
    rustix::process::kill_process(pid.unwrap(), Signal::TERM).unwrap();
    assert_eq!(proxy.wait_exit(), 0);
}

#[test]
fn a_taken_port_is_one_clear_line_and_exit_status_1() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    for address in [r#", "address": "127.0.0.1""#, ""] {
        let finished = run_with_config(
            &["config.json"],
            format!(
                r#"{{ "proxy": {{ "port": {port}{address} }}, "backends": [ {{ "url": "http://127.0.0.1:1/" }} ] }}"#
            ),
        );
        assert_eq!(finished.code, 1, "{finished:?}");
        let said: Vec<&str> = finished
            .stderr
            .lines()
            .filter(|line| line.contains(&port.to_string()))
            .collect();
        assert_eq!(said.len(), 1, "{finished:?}");
        assert!(!finished.stderr.contains("panicked"), "{finished:?}");
    }
}

#[test]
fn a_second_one_on_the_same_port_is_refused_and_leaves_the_first_alone() {
    let origin = Origin::start("one");
    let proxy = Proxy::over(&[&origin]).start();
    let port = proxy.address().port();
    let finished = run_with_config(
        &["config.json"],
        format!(
            r#"{{ "proxy": {{ "port": {port}, "address": "127.0.0.1" }}, "backends": [ {{ "url": "{}" }} ] }}"#,
            origin.url()
        ),
    );
    assert_eq!(finished.code, 1, "{finished:?}");
    assert_eq!(proxy.client().get("/").text(), "one");
}

#[test]
fn an_address_that_is_not_ours_is_exit_status_1() {
    let finished = run_with_config(
        &["config.json"],
        r#"{ "proxy": { "port": 0, "address": "192.0.2.1" }, "backends": [ { "url": "http://127.0.0.1:1/" } ] }"#,
    );
    assert_eq!(finished.code, 1, "{finished:?}");
    assert!(finished.stderr.contains("192.0.2.1"), "{finished:?}");
}

#[test]
fn it_starts_again_at_once_on_the_port_it_had() {
    let origin = Origin::start("one");
    let mut proxy = Proxy::over(&[&origin]).start();
    let port = proxy.address().port();
    // The proxy closes first: its side of the connection lingers in TIME_WAIT.
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    client.read_response();
    client.expect_closed();
    proxy.terminate();
    assert_eq!(proxy.wait_exit(), 0);
    let again = Proxy::over(&[&origin]).set("proxy.port", port).start();
    assert_eq!(again.client().get("/").status, 200);
}

/// Two ends of a pipe: one for the process, one for the test.
fn pipe() -> (std::io::PipeReader, Stdio) {
    let (reader, writer) = std::io::pipe().unwrap();
    (reader, writer.into())
}

#[test]
fn a_closed_access_log_pipe_neither_ends_nor_blocks_it() {
    let origin = Origin::start("one");
    let (reader, writer) = pipe();
    let mut proxy = Proxy::over(&[&origin]).stdout(writer).start();
    drop(reader);
    let mut client = proxy.client();
    for _ in 0..300 {
        assert_eq!(client.get("/").status, 200);
    }
    proxy.terminate();
    assert_eq!(proxy.wait_exit(), 0);
}

#[test]
fn a_full_access_log_pipe_neither_ends_nor_blocks_it() {
    let origin = Origin::start("one");
    let (reader, writer) = pipe();
    let mut proxy = Proxy::over(&[&origin]).stdout(writer).start();
    let mut client = proxy.client();
    // A pipe takes 64 KiB; this is many times more.
    let target = format!("/{}", "x".repeat(1000));
    let begin_kib = proxy.rss_kib();
    for _ in 0..3000 {
        assert_eq!(client.get(&target).status, 200);
    }
    assert!(
        proxy.rss_kib() < begin_kib + 4096,
        "lines that do not fit are kept: {} KiB",
        proxy.rss_kib()
    );
    proxy.terminate();
    // The pipe is not read: rondo gives up on the rest, within its time, and ends cleanly.
    assert_eq!(proxy.wait_exit(), 0);
    drop(reader);
}

#[test]
fn a_full_event_log_pipe_neither_ends_nor_blocks_it() {
    let origin = Origin::start("one");
    let mut proxy = Proxy::over(&[&origin])
        .argument("--log")
        .argument("trace")
        .stop_reading_events()
        .start();
    // Connections and requests are what the lower levels write about.
    for _ in 0..500 {
        let mut client = proxy.client();
        for _ in 0..4 {
            assert_eq!(client.get("/").status, 200);
        }
    }
    proxy.terminate();
    eventually("it exits", || !proxy.is_running());
}

#[test]
fn a_closed_event_log_pipe_does_not_end_it() {
    let origins: [Origin; 2] = Origin::several();
    let mut proxy = Proxy::over(&[&origins[0], &origins[1]])
        .checks(serde_json::json!({ "down_interval": "20ms" }))
        .close_events()
        .start();
    let mut client = proxy.client();
    for _ in 0..5 {
        // Each change of state is an event that cannot be written.
        origins[0].kill();
        for _ in 0..4 {
            assert_eq!(client.get("/").status, 200);
        }
        origins[0].revive();
        origins[0].forget();
        eventually("it is used again", || {
            assert_eq!(client.get("/").status, 200);
            origins[0].requests() > 0
        });
    }
    proxy.terminate();
    eventually("it exits", || !proxy.is_running());
}

#[test]
fn the_soft_descriptor_limit_is_raised_to_the_hard_one() {
    let origin = Origin::start("one");
    let proxy = Proxy::over(&[&origin]).soft_descriptors(200).start();
    let limits = fs::read_to_string(format!("/proc/{}/limits", proxy.pid())).unwrap();
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))
        .unwrap();
    let numbers: Vec<&str> = line.split_whitespace().skip(3).take(2).collect();
    assert_eq!(numbers[0], numbers[1], "{line}");
}

#[test]
fn few_descriptors_lower_max_connections_and_it_says_so() {
    let origin = Origin::start("one");
    let few = || Proxy::over(&[&origin]).descriptors_max(100);
    // Only where the configuration asks for more is it a warning.
    for (plan, level) in [
        (few(), "INFO"),
        (few().set("proxy.max_connections", 200), "WARN"),
    ] {
        let proxy = plan.start();
        proxy.wait_for_event(&[level, "proxy.max_connections is", "descriptors"]);
        assert_eq!(proxy.client().get("/").status, 200);
    }
}

#[test]
fn out_of_descriptors_idle_connections_make_room_and_nothing_ends() {
    let origin = Origin::start("one");
    let mut proxy = Proxy::over(&[&origin]).descriptors_max(80).start();
    let mut clients = Vec::new();
    for number in 0..200 {
        let mut client = proxy.client();
        assert_eq!(client.get("/").status, 200, "client {number}");
        clients.push(client);
    }
    assert!(proxy.open_fds() <= 80);
    assert!(proxy.is_running());
    // The last one is still there, the first ones made room.
    assert_eq!(clients.last_mut().unwrap().get("/").status, 200);
    clients[0].expect_gone();
}

#[test]
fn out_of_descriptors_with_all_in_flight_it_waits_without_spinning_and_goes_on() {
    let backend = Backend::start();
    let mut proxy = Proxy::over(&[&backend])
        .descriptors_max(60)
        .one_worker()
        .start();
    let mut clients: Vec<Client> = (0..120).map(|_| proxy.client()).collect();
    for client in &mut clients {
        client.send(get("/"));
    }
    // As many as fit are with the backend now; the rest wait.
    let mut wires = vec![backend.accept()];
    wires[0].expect_request();
    eventually("nothing more comes", || {
        let before = wires.len();
        std::thread::sleep(Duration::from_millis(100));
        while backend.has_connection() {
            wires.push(backend.accept());
        }
        wires.len() == before
    });
    let (ticks, begin) = (proxy.cpu_ticks(), Instant::now());
    std::thread::sleep(Duration::from_millis(500));
    let used_ms = (proxy.cpu_ticks() - ticks) * 10;
    assert!(
        u128::from(used_ms) < begin.elapsed().as_millis() / 2,
        "it spins: {used_ms} ms"
    );
    assert!(proxy.is_running());
    // All clients leave: those in flight free their descriptors, and new ones are served.
    drop(clients);
    drop(wires);
    let _server = backend.run(|_, mut wire| {
        while wire.next_request().is_some() {
            if !wire.try_send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok") {
                return;
            }
        }
    });

    eventually("it serves again", || proxy.client().get("/").status == 200);
}

#[test]
fn at_max_connections_the_longest_idle_one_is_closed() {
    // Times are compared by the millisecond, over all workers.
    let apart = || std::thread::sleep(Duration::from_millis(20));
    let origin = Origin::start("one");
    let proxy = Proxy::over(&[&origin])
        .set("proxy.max_connections", 3)
        .start();
    let mut clients: Vec<Client> = (0..3).map(|_| proxy.client()).collect();
    for client in &mut clients {
        assert_eq!(client.get("/").status, 200);
        apart();
    }
    // Number 0 becomes the youngest, so number 1 is the oldest.
    assert_eq!(clients[0].get("/").status, 200);
    apart();
    let mut new = proxy.client();
    assert_eq!(new.get("/").status, 200);
    clients[1].expect_gone();
    assert_eq!(clients[0].get("/").status, 200);
    assert_eq!(clients[2].get("/").status, 200);
    assert_eq!(new.get("/").status, 200);
}

#[test]
fn at_max_connections_with_none_idle_new_ones_wait() {
    let backend = Backend::start();
    let proxy = Proxy::over(&[&backend])
        .set("proxy.max_connections", 1)
        .one_worker()
        .start();
    let mut first = proxy.client();
    first.send(get("/1"));
    let mut wire = backend.accept();
    wire.expect_request();
    let mut second = proxy.client();
    second.send(get("/2"));
    backend.expect_no_connection();
    wire.answer("one");
    assert_eq!(first.read_response().text(), "one");
    // Now the first one is idle and makes room.
    let mut wire = backend.accept_or(Some(wire));
    assert_eq!(wire.serve("two").target, "/2");
    assert_eq!(second.read_response().text(), "two");
    first.expect_gone();
}

#[test]
fn the_port_is_logged_when_it_was_picked() {
    let origin = Origin::start("one");
    let proxy = Proxy::over(&[&origin]).start();
    assert_ne!(proxy.address().port(), 0);
    proxy.wait_for_event(&["listening on", &proxy.address().port().to_string()]);
}

#[test]
fn the_start_says_version_file_workers_backends_and_address_in_one_line() {
    let (one, other) = (Origin::start("one"), Origin::start("other"));
    let proxy = Proxy::over(&[&one, &other]).start();
    let version = concat!("rondo ", env!("CARGO_PKG_VERSION"), ": ");
    let line = proxy.wait_for_event(&[version]);
    let said = format!(
        "config.json: 2 workers, 2 backends, listening on {}",
        proxy.address()
    );
    assert!(
        line.starts_with("INFO  [") && line.ends_with(&said),
        "{line}"
    );
}

#[test]
fn it_works_from_any_directory_and_with_a_relative_path() {
    let finished = run_with_config(
        &["--check", "./config.json"],
        r#"{ "proxy": { "port": 0 }, "backends": [ { "url": "http://127.0.0.1:1/" } ] }"#,
    );
    assert_eq!(finished.code, 0, "{finished:?}");
}
