//! The admin interface of a proxy, asked as any client would.

use super::proxy::Plan;
use super::{Addressed, Client, Proxy, Response, eventually};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// The token that tests set.
pub(crate) const TOKEN: &str = "open-sesame";
/// How long the interface waits for a client.
pub(crate) const DEADLINE: Duration = Duration::from_secs(2);

/// With an admin interface, over these backends, each called by its letter: `a`, `b` and so on.
pub(crate) fn with_letters(backends: &[&dyn Addressed]) -> Plan {
    let entries: Vec<Value> = backends
        .iter()
        .zip('a'..)
        .map(|(backend, letter)| json!({ "url": backend.url(), "name": letter.to_string() }))
        .collect();
    Proxy::over(backends)
        .set("backends", entries)
        .set("admin.address", "127.0.0.1:0")
        .set("admin.token", TOKEN)
}

/// Where the admin interface of a proxy listens.
#[track_caller]
pub(crate) fn address(proxy: &Proxy) -> SocketAddr {
    address_of(&proxy.wait_for_event(&["admin interface on http://"]))
}

/// The address in such a line.
#[track_caller]
pub(crate) fn address_of(line: &str) -> SocketAddr {
    let address = line.split("admin interface on http://").nth(1);
    let address = address.and_then(|rest| rest.split('/').next());
    address.unwrap().parse().unwrap()
}

/// Sends a request as it stands, on a connection of its own, and reads the answer.
#[track_caller]
pub(crate) fn ask_raw(address: SocketAddr, request: impl AsRef<[u8]>) -> Response {
    let request = request.as_ref();
    let mut client = connect_and_send(address, request);
    let method = request.split(|byte| *byte == b' ').next().unwrap();
    client.read_response_to(&String::from_utf8_lossy(method))
}

/// A connection on which this request was sent. A client that a slow machine kept from sending until it was cut sends again.
#[track_caller]
fn connect_and_send(address: SocketAddr, request: &[u8]) -> Client {
    loop {
        let begin = Instant::now();
        let mut client = Client::connect_to(address);
        let is_sent = client.try_send(request);
        if begin.elapsed() < DEADLINE {
            assert!(is_sent, "the interface takes the request");
            return client;
        }
        eventually("an answer or the end comes", || client.has_input());
        if !client.has_ended() {
            return client;
        }
    }
}

/// One request with the token.
#[track_caller]
pub(crate) fn ask(address: SocketAddr, method: &str, target: &str, body: &str) -> Response {
    ask_raw(
        address,
        format!(
            "{method} {target} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ),
    )
}

/// The document of an answer.
#[track_caller]
pub(crate) fn json(response: &Response) -> Value {
    serde_json::from_slice(&response.body)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&response.body)))
}

/// A document.
#[track_caller]
pub(crate) fn get(address: SocketAddr, target: &str) -> Value {
    let response = ask(address, "GET", target, "");
    assert_eq!(response.status, 200, "{target}: {response:?}");
    json(&response)
}
