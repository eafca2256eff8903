//! The record of decisions: what was chosen, why, and what came of it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use rondo::config::Config;
use rondo::pool::settings::Method;
use rondo::pool::trace::{Decision, Outcome, Rule, Stage, Verdict};
use rondo::server::{Command, Commands, Server};

use crate::support::backend::Addressed;
use crate::support::{Origin, Refusing};

fn exchange(address: SocketAddr, request: &str) -> String {
    let mut client = TcpStream::connect(address).unwrap();
    client.write_all(request.as_bytes()).unwrap();
    let mut response = String::new();
    client.read_to_string(&mut response).unwrap();
    response
}

/// What is recorded of `request`, sent to a balancer over `backends`.
fn recorded(backends: &str, request: &str) -> (Decision, String) {
    recorded_by("false", backends, request)
}

/// The same by a balancer that trusts `trust`.
fn recorded_by(trust: &str, backends: &str, request: &str) -> (Decision, String) {
    let text = format!(
        r#"{{ "proxy": {{ "port": 0, "address": "127.0.0.1", "access_log": false, "workers": 1,
             "trust_forwarded": {trust} }},
             "health_check": {{ "kind": "none" }}, "backends": [{backends}] }}"#
    );
    let commands = Commands::default();
    let config = Config::from_text("test", &text).unwrap();
    let server = Server::start(config, None, commands.clone()).unwrap();
    let response = exchange(server.local_address(), request);
    // The answer may be there before the record is; the next exchange on the only worker is not.
    exchange(
        server.local_address(),
        "GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    );
    let decisions = server.decisions();
    commands.send(Command::Stop);
    server.wait();
    (decisions[0], response)
}

#[test]
fn a_refused_connect_and_the_answer_of_the_next_are_both_recorded() {
    let (dead, origin) = (Refusing::start(), Origin::start("two"));
    let backends = format!(
        r#"{{ "name": "one", "url": "{}" }}, {{ "name": "two", "url": "{}" }}, {{ "name": "three", "url": "{0}", "weight": 0 }}"#,
        dead.url(),
        origin.url()
    );
    let request = "GET /x HTTP/1.1\r\nHost: a\r\nX-Request-Id: mine\r\nConnection: close\r\n\r\n";
    let (decision, response) = recorded(&backends, request);
    assert!(response.starts_with("HTTP/1.1 200 "), "{response}");
    assert_eq!(
        (decision.status, decision.request_id()),
        (Some(200), &b"mine"[..])
    );
    assert_eq!(decision.request_line(), b"GET /x HTTP/1.1");
    assert_eq!(decision.client, Some("127.0.0.1".parse().unwrap()));
    let (candidates, _) = decision.candidates();
    let stood: Vec<_> = candidates.iter().map(|one| one.verdict).collect();
    assert_eq!(
        stood,
        [Verdict::Tried, Verdict::Chosen, Verdict::Weightless]
    );
    let (one, two) = (candidates[0].backend, candidates[1].backend);
    assert_ne!(one, two);
    let (tries, more) = decision.tries();
    assert!(
        tries[1].began_us >= tries[0].began_us + tries[0].took_us,
        "{tries:?}"
    );
    let outcomes: Vec<_> = tries
        .iter()
        .map(|one| (one.backend, one.rule, one.outcome))
        .collect();
    let rule = Rule::Method(Method::RoundRobin);
    assert_eq!(
        (outcomes, more),
        (
            vec![
                (one, rule, Outcome::ConnectFailed),
                (two, rule, Outcome::Answered(200))
            ],
            0
        )
    );
    assert!(decision.stage_us(Stage::Total) > 0);
    assert!(decision.stage_us(Stage::ResponseHead) <= decision.stage_us(Stage::Total));
}

#[test]
fn an_answer_of_our_own_is_recorded_with_what_stood_in_the_way() {
    let dead = Refusing::start();
    let backends = format!(r#"{{ "name": "one", "url": "{}" }}"#, dead.url());
    let (decision, response) = recorded(
        &backends,
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    );
    assert!(response.starts_with("HTTP/1.1 502 "), "{response}");
    assert_eq!(decision.status, Some(502));
    assert_eq!(decision.reason, Some(Outcome::ConnectFailed.text()));
    assert_eq!(decision.tries().0[0].outcome, Outcome::ConnectFailed);
}

#[test]
fn the_client_is_the_one_that_a_trusted_proxy_names() {
    let origin = Origin::start("one");
    let backends = format!(r#"{{ "url": "{}" }}"#, origin.url());
    let request =
        "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1.2.3.4\r\nConnection: close\r\n\r\n";
    for (trust, expected) in [("true", "1.2.3.4"), ("false", "127.0.0.1")] {
        let (decision, _) = recorded_by(trust, &backends, request);
        assert_eq!(decision.client, Some(expected.parse().unwrap()), "{trust}");
    }
}
