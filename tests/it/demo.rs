//! `--demo`: the whole thing with one command.

use crate::support::{Client, eventually};
use rustix::process::{Pid, Signal};
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

fn start() -> Child {
    Command::new(env!("CARGO_BIN_EXE_rondo"))
        .arg("--demo")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// One test, because both halves need the same ports. Where somebody else has them, the first half shows nothing.
#[test]
fn the_demonstration_shows_each_origin_or_names_the_port_that_is_taken() {
    let mut demo = start();
    let mut said = Vec::new();
    for line in BufReader::new(demo.stdout.take().unwrap()).lines() {
        said.push(line.unwrap());
        if said.last().unwrap().contains("Ctrl-C") {
            break;
        }
    }
    if said.last().is_some_and(|line| line.contains("Ctrl-C")) {
        for port in 8081..=8084 {
            let answers = said
                .iter()
                .filter(|line| line.contains(&format!("127.0.0.1:{port} answered")));
            assert_eq!(
                answers.count(),
                2,
                "each origin has two of eight: {said:#?}"
            );
        }
        let mut client = Client::connect_to(([127, 0, 0, 1], 8080).into());
        // One origin fails for a while; nobody notices.
        let mut origin = Client::connect_to(([127, 0, 0, 1], 8083).into());
        assert_eq!(origin.get("/fail").status, 200);
        for _ in 0..12 {
            let response = client.get("/");
            assert_eq!(response.status, 200);
            assert!(!response.text().contains("8083"), "{response:?}");
        }
        rustix::process::kill_process(Pid::from_child(&demo), Signal::INT).unwrap();
        assert_eq!(demo.wait().unwrap().code(), Some(0));
    } else {
        expect_taken(demo);
    }

    // A port of an origin and the one of the balancer.
    for port in [8082, 8080] {
        // Closing connections of the first half may still hold it for a moment.
        let mut taken = None;
        eventually("the port is ours or somebody else's", || {
            taken = TcpListener::bind(("127.0.0.1", port)).ok();
            taken.is_some() || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        expect_taken(start());
    }
}

fn expect_taken(mut demo: Child) {
    assert_eq!(demo.wait().unwrap().code(), Some(1));
    let mut said = String::new();
    demo.stderr
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    let named: Vec<&str> = said
        .lines()
        .filter(|line| line.contains("127.0.0.1:808"))
        .collect();
    assert_eq!(named.len(), 1, "{said}");
}
