//! The threads: a process that has lost one is worse than none.

use crate::support::proxy::run_with_panic_in;
use crate::support::{Proxy, eventually};
use serde_json::json;
use std::io::{Write, pipe};
use std::process::Stdio;

/// Something to do for every thread there is. The name is looked up, but the process ends before that.
fn config() -> String {
    let config = json!({
        "proxy": { "port": 0, "address": "127.0.0.1", "workers": 2 },
        "backends": [ { "url": "http://no-such-host.invalid:81/" } ],
        "admin": { "address": "127.0.0.1:0" },
    });
    config.to_string()
}

const THREADS: [&str; 10] = [
    "access-log",
    "admin",
    "checker",
    "discovery",
    "event-log",
    "listener",
    "resolver",
    "signals",
    "worker-1",
    "worker-2",
];

/// A panic is planted in debug builds only.
fn can_plant() -> bool {
    cfg!(debug_assertions)
}

#[test]
fn a_thread_that_fails_ends_the_process_with_1_and_is_named() {
    for name in THREADS.into_iter().chain(["lookup"]) {
        if !can_plant() {
            return;
        }
        let finished = run_with_panic_in(name, &config(), Stdio::piped());
        assert_eq!(finished.code, 1, "{name}: {finished:?}");
        let lines_with = |text: &str| {
            let lines = finished.stderr.lines();
            lines.filter(|line| line.contains(text)).count()
        };
        assert!(
            lines_with(&format!("planted in {name}")) >= 1,
            "{finished:?}"
        );
        if name != "event-log" {
            let panicked = format!("internal error: thread {name} panicked at src/");
            let failed = format!("internal error: thread {name} failed, exiting");
            assert_eq!(
                (lines_with(&panicked), lines_with(&failed)),
                (1, 1),
                "{finished:?}"
            );
        }
    }
}

#[test]
fn it_ends_the_process_when_nothing_can_be_said_about_it_too() {
    if !can_plant() {
        return;
    }
    // At once: each waits a moment for a log that takes nothing.
    std::thread::scope(|scope| {
        for name in THREADS {
            scope.spawn(move || {
                let (reader, closed) = pipe().unwrap();
                drop(reader);
                let finished = run_with_panic_in(name, &config(), closed);
                assert_eq!(finished.code, 1, "{name}, closed");

                let (_reader, mut full) = pipe().unwrap();
                let bytes = rustix::pipe::fcntl_getpipe_size(&full).unwrap();
                full.write_all(&vec![b'\n'; bytes]).unwrap();
                let finished = run_with_panic_in(name, &config(), full);
                assert_eq!(finished.code, 1, "{name}, full");
            });
        }
    });
}

#[test]
fn these_are_all_threads_and_each_has_a_name() {
    let proxy = Proxy::over(&[&std::net::SocketAddr::from(([127, 0, 0, 1], 1))])
        .set("backends.0.url", "http://no-such-host.invalid:81/")
        .set("admin.address", "127.0.0.1:0")
        .checks(json!({}))
        .start();
    // Each names itself when it begins, and lookups come and go.
    eventually("all have begun", || {
        let mut names = proxy.thread_names();
        names.retain(|name| name != "lookup" && name != "rondo");
        names.sort();
        names == THREADS
    });
}
