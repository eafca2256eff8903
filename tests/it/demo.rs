//! `--demo`: the whole thing with one command.

use crate::support::Client;
use crate::support::admin::ask;
use rustix::process::{Pid, Signal};
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};

/// A demonstration that has said what it has to say.
struct Demo {
    child: Child,
    said: Vec<String>,
}

impl Demo {
    fn start() -> Demo {
        let mut child = Command::new(env!("CARGO_BIN_EXE_rondo"))
            .args(["--demo", "--log", "error"])
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let mut said = Vec::new();
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            said.push(line.unwrap());
            if said.last().unwrap().contains("Ctrl-C") {
                break;
            }
        }
        Demo { child, said }
    }

    /// The lines from the first that contains `begin` to the next empty one.
    #[track_caller]
    fn part(&self, begin: &str) -> Vec<&str> {
        let lines = self.said.iter().map(String::as_str);
        let part: Vec<&str> = lines
            .skip_while(|line| !line.contains(begin))
            .take_while(|line| !line.is_empty())
            .collect();
        assert!(!part.is_empty(), "no {begin:?} in {:#?}", self.said);
        part
    }

    /// Where rondo listens.
    fn address(&self) -> SocketAddr {
        let first = self.part("Four origin servers run")[0];
        let url = first.split("http://").nth(1).unwrap();
        url.trim_end_matches('/').parse().unwrap()
    }

    /// Where the origins listen, as their answers name them.
    fn origins(&self) -> Vec<SocketAddr> {
        let round = self.part("first round");
        let address = |line: &str| line.split(' ').rev().nth(1)?.parse().ok();
        let mut origins: Vec<SocketAddr> = round.iter().filter_map(|line| address(line)).collect();
        assert_eq!(origins.len(), 8, "{round:#?}");
        origins.sort_unstable();
        let twice = origins.clone();
        origins.dedup();
        for origin in &origins {
            let answers = twice.iter().filter(|each| *each == origin);
            assert_eq!(answers.count(), 2, "each has two of eight: {round:#?}");
        }
        origins
    }

    /// Where the admin page is.
    fn admin(&self) -> SocketAddr {
        let line = self.part("The admin page is http://")[0];
        let url = line.split("http://").nth(1).unwrap();
        url.trim_end_matches('/').parse().unwrap()
    }

    fn stop(mut self) {
        rustix::process::kill_process(Pid::from_child(&self.child), Signal::INT).unwrap();
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
    }
}

#[test]
fn the_demonstration_shows_each_origin_and_that_one_may_fail_and_come_back() {
    let demo = Demo::start();
    let origins = demo.origins();
    assert_eq!(origins.len(), 4);

    let failing = demo.part("Origin 3 fails now");
    let answers = failing.iter().filter(|line| line.contains(" answered"));
    assert_eq!(answers.count(), 8, "{failing:#?}");
    assert!(
        !failing.iter().any(|line| line.contains("origin 3 on ")),
        "{failing:#?}"
    );
    assert_eq!(failing.last(), Some(&"None of them failed."));
    let back = demo.part("Origin 3 runs again")[0];
    assert!(
        back.contains("has its turn after ") && back.ends_with(" of which none failed."),
        "{back}"
    );

    // What it says to try: the origin fails for a while, and no client sees it.
    let command = demo.part("Try it")[2];
    let address = command
        .split("http://")
        .nth(1)
        .unwrap()
        .split('/')
        .next()
        .unwrap();
    assert!(origins.contains(&address.parse().unwrap()), "{command}");
    let mut origin = Client::connect_to(address.parse().unwrap());
    assert_eq!(origin.get("/fail").status, 200);
    let mut client = Client::connect_to(demo.address());
    for _ in 0..12 {
        let response = client.get("/");
        assert_eq!(response.status, 200);
        assert!(!response.text().contains(address), "{response:?}");
    }
    let page = ask(demo.admin(), "GET", "/", "");
    assert_eq!(page.status, 200);
    for number in 1..=4 {
        assert!(
            page.text().contains(&format!("origin-{number}")),
            "{page:?}"
        );
    }
    demo.stop();
}

#[test]
fn a_port_that_is_taken_is_replaced_by_a_free_one_and_named() {
    // Where one cannot be had, another process has it, which is as good.
    let _taken = [8080, 8082, 9090].map(|port| TcpListener::bind(("127.0.0.1", port)));
    let demo = Demo::start();
    let address = demo.address();
    assert_ne!(address.port(), 8080);
    assert_ne!(demo.admin().port(), 9090);
    for (port, name) in [
        (8080, "rondo"),
        (8082, "origin 2"),
        (9090, "the admin page"),
    ] {
        let begin = format!("Port {port} is taken: {name} listens on port ");
        let named = demo.part(&begin)[0];
        let instead = named.trim_end_matches(" instead.").rsplit(' ').next();
        let instead: u16 = instead.unwrap().parse().unwrap();
        assert_ne!(instead, port);
        if port == 8080 {
            assert_eq!(instead, address.port());
        } else if port == 9090 {
            assert_eq!(instead, demo.admin().port());
        } else {
            assert!(demo.origins().iter().any(|each| each.port() == instead));
        }
    }
    assert_eq!(demo.origins().len(), 4);
    assert!(demo.part("Origin 3 runs again")[0].contains("has its turn after "));
    assert_eq!(Client::connect_to(address).get("/").status, 200);
    demo.stop();
}
