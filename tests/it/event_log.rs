//! Events on standard error: each line whole, the last ones too, coloured for a person.

use crate::support::client::get;
use crate::support::{Backend, Origin, Proxy};
use rustix::process::Signal;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

#[test]
fn a_second_signal_is_said_before_the_exit() {
    for _ in 0..10 {
        let backend = Backend::start();
        let mut proxy = Proxy::over(&[&backend]).set("timeouts.drain", "1h").start();
        let mut client = proxy.client();
        client.send(get("/slow"));
        let mut wire = backend.accept();
        wire.expect_request();
        proxy.terminate();
        proxy.wait_for_event(&["stopping"]);
        proxy.signal(Signal::TERM);
        assert_eq!(proxy.wait_exit(), 1);
        proxy.wait_for_event(&["WARN", "stopped a second time"]);
    }
}

#[test]
fn in_one_pipe_with_the_access_log_every_line_is_whole() {
    const CLIENTS: usize = 4;
    const REQUESTS: usize = 250;
    let origin = Origin::start("one");
    let mut proxy = Proxy::over(&[&origin])
        .access_to_events()
        .argument("--log")
        .argument("debug")
        .start();
    // More in a batch than a pipe holds.
    let target = format!("/{}", "x".repeat(2000));
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                for _ in 0..REQUESTS {
                    // Its own connection, whose end is an event.
                    assert_eq!(proxy.client().get(&target).status, 200);
                }
            });
        }
    });
    proxy.terminate();
    assert_eq!(proxy.wait_exit(), 0);
    let (mut access_lines, mut event_lines) = (0, 0);
    for line in proxy.events() {
        let is_access = line.starts_with("20") && line.matches("GET /x").count() == 1;
        let is_event = ["INFO  [20", "DEBUG [20", "WARN  [20"]
            .iter()
            .any(|start| line.starts_with(start) && line.matches(" [20").count() == 1);
        assert!(is_access != is_event, "{line:?}");
        access_lines += usize::from(is_access);
        event_lines += usize::from(is_event);
    }
    assert_eq!(access_lines, CLIENTS * REQUESTS);
    assert!(event_lines > CLIENTS * REQUESTS, "{event_lines}");
}

#[test]
fn levels_are_coloured_in_a_terminal_unless_no_color_is_set() {
    for (key, value, is_colored) in [
        ("NO_COLOR", "", true),
        ("NO_COLOR", "1", false),
        ("TERM", "dumb", false),
    ] {
        let text = in_a_terminal(key, value);
        let info = if is_colored {
            "\x1b[36mINFO \x1b[0m [20"
        } else {
            "INFO  [20"
        };
        assert!(text.contains(info), "{key}={value}: {text:?}");
        assert_eq!(text.contains('\x1b'), is_colored, "{key}={value}: {text:?}");
    }
}

/// What it writes to a terminal up to the line that says where it listens.
fn in_a_terminal(key: &str, value: &str) -> String {
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    let name = ptsname(&terminal, Vec::new()).unwrap();
    let open = |path: &Path| File::options().read(true).write(true).open(path).unwrap();
    let other_side = open(Path::new(std::ffi::OsStr::from_bytes(name.as_bytes())));
    let mut child = Command::new(env!("CARGO_BIN_EXE_rondo"))
        .args(["--port", "0", "--backends", "http://127.0.0.1:1/"])
        .env_remove("NO_COLOR")
        .env("TERM", "xterm")
        .env(key, value)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(other_side)
        .spawn()
        .unwrap();
    let mut terminal = File::from(terminal);
    let (mut text, mut part) = (String::new(), [0; 4096]);
    while !text.contains("listening on") || !text.ends_with('\n') {
        let count = terminal.read(&mut part).unwrap();
        assert_ne!(count, 0, "{text:?}");
        text.push_str(&String::from_utf8_lossy(&part[..count]));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    text
}
