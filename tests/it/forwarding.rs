//! What is passed on, what is left out and what is added, in both directions.

use crate::support::{Addressed, Backend, Proxy, Refusing, Request, Response};

/// What the backend sees of one request. The base is added to the backend's URL; `set` is one more key.
struct Seen {
    request: Request,
    response: Response,
    raw: String,
    backend: String,
}

#[track_caller]
fn send_with(bytes: &str, base: &str, keys: &[(&str, serde_json::Value)], answer: &str) -> Seen {
    let backend = Backend::start();
    let url = format!("http://{}{base}", backend.address());
    let mut plan = Proxy::over(&[&backend]).set("backends.0.url", url);
    for (key, value) in keys {
        plan = plan.set(key, value.clone());
    }
    let proxy = plan.start();
    let mut client = proxy.client();
    client.send(bytes);
    let mut wire = backend.accept();
    let request = wire.expect_request();
    wire.send(answer);
    let response = client.read_response_to(bytes.split(' ').next().unwrap());
    let raw = String::from_utf8_lossy(wire.received()).into_owned();
    Seen {
        request,
        response,
        raw,
        backend: backend.address().to_string(),
    }
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

#[track_caller]
fn send(bytes: &str) -> Request {
    send_with(bytes, "/", &[], OK).request
}

#[track_caller]
fn trusted(bytes: &str) -> Request {
    send_with(bytes, "/", &[("proxy.trust_forwarded", true.into())], OK).request
}

#[track_caller]
fn answered(answer: &str) -> Response {
    send_with("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "/", &[], answer).response
}

#[test]
fn the_added_fields_are_there() {
    let request = send("GET /x HTTP/1.1\r\nHost: example.test:8080\r\n\r\n");
    assert_eq!(request.fields.one("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(request.fields.one("x-forwarded-proto"), Some("http"));
    assert_eq!(
        request.fields.one("x-forwarded-host"),
        Some("example.test:8080")
    );
    assert_eq!(request.fields.one("via"), Some("1.1 rondo"));
    let id = request.fields.one("x-request-id").unwrap();
    assert!(
        (8..=128).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic()),
        "{id:?}"
    );
    assert_eq!(
        request.fields.one("host"),
        Some("example.test:8080"),
        "the client's"
    );
}

#[test]
fn request_ids_differ_and_a_good_one_is_kept() {
    let ids: Vec<String> = (0..3)
        .map(|_| {
            send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                .fields
                .one("x-request-id")
                .unwrap()
                .to_owned()
        })
        .collect();
    assert!(ids[0] != ids[1] && ids[1] != ids[2], "{ids:?}");
    let longest = "i".repeat(128);
    for id in ["mine-1", "~!#$%", longest.as_str()] {
        let request = send(&format!(
            "GET / HTTP/1.1\r\nHost: a\r\nX-Request-ID: {id}\r\n\r\n"
        ));
        assert_eq!(request.fields.one("x-request-id"), Some(id));
    }
    let too_long = "i".repeat(129);
    for id in [too_long.as_str(), "with space", "\u{e4}", ""] {
        let request = send(&format!(
            "GET / HTTP/1.1\r\nHost: a\r\nX-Request-Id: {id}\r\n\r\n"
        ));
        let new = request.fields.one("x-request-id").unwrap();
        assert!(new != id && !new.is_empty(), "{id:?} became {new:?}");
    }
    let request =
        send("GET / HTTP/1.1\r\nHost: a\r\nX-Request-Id: one\r\nX-Request-Id: two\r\n\r\n");
    assert!(
        !["one", "two"].contains(&request.fields.one("x-request-id").unwrap()),
        "{request:?}"
    );
}

#[test]
fn forwarded_fields_of_a_stranger_are_dropped() {
    let request = send(
        "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1.2.3.4\r\nX_Forwarded_For: 1.2.3.5\r\nX-Forwarded-Proto: https\r\n\
         X-Forwarded-Host: evil\r\nX-Forwarded-Port: 443\r\nX-Forwarded-Anything: x\r\nx_forwarded_host: evil\r\n\
         Forwarded: for=1.2.3.4\r\nX-Real-IP: 1.2.3.4\r\nX_Real_IP: 1.2.3.4\r\nX-Real_Ip: 1.2.3.4\r\nX-Other: kept\r\n\r\n",
    );
    assert_eq!(request.fields.one("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(request.fields.one("x-forwarded-proto"), Some("http"));
    assert_eq!(request.fields.one("x-forwarded-host"), Some("a"));
    for (name, value) in &request.fields.0 {
        assert!(
            !value.contains("1.2.3.") && !value.contains("evil") && !name.contains('_'),
            "{name}: {value}"
        );
    }
    assert!(
        !request.fields.has("forwarded") && !request.fields.has("x-forwarded-port"),
        "{request:?}"
    );
    assert_eq!(request.fields.one("x-other"), Some("kept"));
}

#[test]
fn forwarded_fields_of_a_trusted_peer_are_kept_and_its_address_appended() {
    let request = trusted(
        "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1.2.3.4, 5.6.7.8\r\nX-Forwarded-Proto: https\r\n\
         X-Forwarded-Host: outer.test\r\nForwarded: for=1.2.3.4\r\nX-Real-IP: 1.2.3.4\r\n\r\n",
    );
    assert_eq!(
        request.fields.all("x-forwarded-for").join(", "),
        "1.2.3.4, 5.6.7.8, 127.0.0.1"
    );
    assert_eq!(request.fields.one("x-forwarded-proto"), Some("https"));
    assert_eq!(request.fields.one("x-forwarded-host"), Some("outer.test"));
    assert_eq!(request.fields.one("forwarded"), Some("for=1.2.3.4"));
    assert_eq!(request.fields.one("x-real-ip"), Some("1.2.3.4"));
    let request = trusted("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(request.fields.one("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(request.fields.one("x-forwarded-proto"), Some("http"));
}

#[test]
fn trust_may_be_for_networks() {
    for (networks, expected) in [
        (serde_json::json!(["127.0.0.0/8"]), "1.2.3.4, 127.0.0.1"),
        (
            serde_json::json!(["10.0.0.0/8", "127.0.0.1/32"]),
            "1.2.3.4, 127.0.0.1",
        ),
        (serde_json::json!(["10.0.0.0/8", "::/0"]), "127.0.0.1"),
        (serde_json::json!([]), "127.0.0.1"),
    ] {
        let request = send_with(
            "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n",
            "/",
            &[("proxy.trust_forwarded", networks.clone())],
            OK,
        )
        .request;
        assert_eq!(
            request.fields.all("x-forwarded-for").join(", "),
            expected,
            "{networks}"
        );
    }
}

#[test]
fn an_ipv4_client_of_a_listener_for_both_is_known_by_its_ipv4_address() {
    for (networks, expected, logged) in [
        (
            serde_json::json!(["127.0.0.0/8"]),
            "1.2.3.4, 127.0.0.1",
            "1.2.3.4",
        ),
        (serde_json::json!(["::/0"]), "127.0.0.1", "127.0.0.1"),
    ] {
        let backend = Backend::start();
        let proxy = Proxy::over(&[&backend])
            .set("proxy.address", "::")
            .set("proxy.trust_forwarded", networks)
            .start();
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], proxy.address().port()));
        let mut client = crate::support::Client::connect_to(address);
        client.send("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n");
        let request = backend.accept().serve("ok");
        assert_eq!(request.fields.all("x-forwarded-for").join(", "), expected);
        proxy.wait_for_access(&format!(" {logged} \"GET / "));
    }
}

#[test]
fn several_x_forwarded_for_of_a_trusted_peer_keep_their_order() {
    let request = trusted(
        "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1.1.1.1\r\nX: y\r\nX-Forwarded-For: 2.2.2.2\r\n\r\n",
    );
    let addresses = request.fields.all("x-forwarded-for").join(", ");
    assert_eq!(addresses, "1.1.1.1, 2.2.2.2, 127.0.0.1");
}

#[test]
fn via_is_appended_to_and_can_be_switched_off() {
    let request = send("GET / HTTP/1.1\r\nHost: a\r\nVia: 1.0 first\r\n\r\n");
    assert_eq!(request.fields.all("via").join(", "), "1.0 first, 1.1 rondo");
    let seen = send_with(
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "/",
        &[("proxy.via", false.into())],
        OK,
    );
    assert!(!seen.request.fields.has("via"));
}

#[test]
fn hop_by_hop_fields_of_a_request_are_left_out() {
    let request = send(
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, X-Named , ,x-other\r\nX-Named: 1\r\nX-Other: 2\r\nX-Third: 3\r\n\
         Keep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nTE: gzip\r\nTrailer: X-Sum\r\nUpgrade: x\r\n\
         Proxy-Authorization: secret\r\n\r\n",
    );
    for name in [
        "x-named",
        "x-other",
        "keep-alive",
        "proxy-connection",
        "upgrade",
    ] {
        assert!(!request.fields.has(name), "{name} in {request:?}");
    }
    assert_eq!(request.fields.one("x-third"), Some("3"));
    let te = request.fields.one("te");
    assert!(te.is_none() || te == Some("trailers"), "{te:?}");
    for value in request.fields.all("connection") {
        assert!(!value.to_lowercase().contains("named"), "{value}");
    }
}

#[test]
fn connection_cannot_remove_framing_host_or_our_own_fields() {
    let request = send(
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\
         Connection: Host, Content-Length, X-Forwarded-For, X-Forwarded-Proto, X-Request-Id, Via, close\r\n\r\nbody",
    );
    assert_eq!(request.body, b"body");
    assert_eq!(request.fields.one("host"), Some("a"));
    for name in [
        "x-forwarded-for",
        "x-forwarded-proto",
        "x-request-id",
        "via",
    ] {
        assert!(request.fields.has(name), "{name}");
    }
    let request = send(
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: Transfer-Encoding\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
    );
    assert_eq!(request.body, b"body");
}

#[test]
fn everything_else_passes_in_order_with_its_case_and_bytes() {
    let fields = "aCCept: */*\r\nX-Dup: 1\r\nx-dup: 2\r\nCookie: a=1; b=\"2\"\r\nX-Bytes: \u{e4}\u{f6} caf\u{e9}\r\nX-Empty:\r\n\
                  X-Inner:  a  b\tc\r\nAuthorization: Basic eDp5\r\nX-Dup: 3\r\nRange: bytes=0-1\r\n";
    let seen = send_with(
        &format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n"),
        "/",
        &[],
        OK,
    );
    let mut at = 0;
    for line in fields.split_terminator("\r\n") {
        let (name, value) = line.split_once(':').unwrap();
        let line = format!("{name}: {}", value.trim_matches([' ', '\t']));
        let line = line.trim_end();
        let found = seen.raw[at..]
            .find(line)
            .unwrap_or_else(|| panic!("no {line:?} in order in {:?}", seen.raw));
        at += found + line.len();
    }
}

#[test]
fn the_target_passes_byte_for_byte() {
    for target in [
        "/",
        "/a/../b/./c//d",
        "/%2e%2E/%00?x=%zz",
        "/?",
        "/?a=/b?c",
        "/a;b=c,d",
        "/~!$&'()*+,=:@",
        "//double",
        "/%",
    ] {
        let request = send(&format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert_eq!(request.target, target);
    }
}

#[test]
fn the_base_path_is_put_before_the_target() {
    for (base, target, expected) in [
        ("", "/x", "/x"),
        ("/", "/x", "/x"),
        ("/base", "/x", "/base/x"),
        ("/base/", "/x", "/base/x"),
        ("/base/", "/", "/base/"),
        ("/a/b", "/x?y=/z", "/a/b/x?y=/z"),
        ("/base", "/?q", "/base/?q"),
    ] {
        let seen = send_with(
            &format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"),
            base,
            &[],
            OK,
        );
        assert_eq!(seen.request.target, expected, "{base:?} and {target:?}");
    }
    let seen = send_with("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "/base", &[], OK);
    assert_eq!(seen.request.target, "*");
}

#[test]
fn an_absolute_target_gives_its_authority_to_host() {
    for (target, expected, host) in [
        ("http://other.test/x?y", "/x?y", "other.test"),
        ("http://other.test:81/", "/", "other.test:81"),
        ("HTTP://Other.test/x", "/x", "Other.test"),
        ("http://other.test", "/", "other.test"),
        ("http://other.test?q", "/?q", "other.test"),
    ] {
        let request = send(&format!(
            "GET {target} HTTP/1.1\r\nHost: ignored.test\r\n\r\n"
        ));
        assert_eq!(
            (request.target.as_str(), request.fields.one("host")),
            (expected, Some(host)),
            "{target}"
        );
        assert_eq!(request.fields.one("x-forwarded-host"), Some(host));
    }
}

#[test]
fn a_fragment_is_never_forwarded() {
    let backend = Backend::start();
    let proxy = Proxy::over(&[&backend]).start();
    let mut client = proxy.client();
    client.send("GET /x#part HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    // Refused or cut off; both keep it from the backend.
    crate::support::eventually("an answer or a request", || {
        client.has_input() || backend.has_connection()
    });
    if client.has_input() {
        assert_eq!(client.read_response().status, 400);
    } else {
        assert_eq!(backend.accept().serve("ok").target, "/x");
    }
}

#[test]
fn methods_are_case_sensitive_and_pass_whatever_they_are() {
    for method in ["PATCH", "DELETE", "PROPFIND", "get", "M-SEARCH", "X"] {
        assert_eq!(
            send(&format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n")).method,
            method
        );
    }
}

#[test]
fn hop_by_hop_fields_of_a_response_are_left_out_and_the_rest_passes_as_received() {
    let response = answered(
        "HTTP/1.1 201 Made It So\r\nserver: them\r\nConnection: X-Named, keep-alive\r\nX-Named: 1\r\nKeep-Alive: timeout=5\r\n\
         Proxy-Connection: x\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nUpgrade: x\r\nX-Bytes: caf\u{e9}\r\nContent-Length: 2\r\n\
         Date: Thu, 01 Jan 1970 00:00:00 GMT\r\n\r\nok",
    );
    assert_eq!(
        (response.status, response.reason.as_str()),
        (201, "Made It So")
    );
    assert_eq!(response.fields.all("set-cookie"), ["a=1", "b=2"]);
    assert_eq!(response.fields.all("server"), ["them"]);
    assert_eq!(response.fields.all("date").len(), 1);
    for name in ["x-named", "keep-alive", "proxy-connection"] {
        assert!(!response.fields.has(name), "{name} in {response:?}");
    }
    assert!(!response.says_close());
}

#[test]
fn connection_cannot_remove_the_framing_of_a_response() {
    let response =
        answered("HTTP/1.1 200 OK\r\nConnection: Content-Length\r\nContent-Length: 2\r\n\r\nok");
    assert_eq!(response.text(), "ok");
    let response = answered(
        "HTTP/1.1 200 OK\r\nConnection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    );
    assert_eq!(response.text(), "ok");
}

#[test]
fn an_empty_reason_phrase_passes() {
    for line in ["HTTP/1.1 200 ", "HTTP/1.1 200"] {
        let response = answered(&format!("{line}\r\nContent-Length: 2\r\n\r\nok"));
        assert_eq!(
            (
                response.status,
                response.reason.as_str(),
                response.text().as_str()
            ),
            (200, "", "ok")
        );
    }
}

#[test]
fn equal_lengths_that_are_repeated_become_one() {
    let response = answered("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok");
    // Refusing is right as well; two of them never go out.
    if response.status == 200 {
        assert_eq!(response.fields.one("content-length"), Some("2"));
    } else {
        assert_eq!(response.status, 502);
    }
}

#[test]
fn host_of_a_http_1_0_request_is_the_backends_that_gets_it() {
    let dead = Refusing::start();
    let backend = Backend::start();
    let proxy = Proxy::over(&[&dead, &backend]).start();
    let mut client = proxy.client();
    client.send("GET / HTTP/1.0\r\n\r\n");
    let request = backend.accept().serve("ok");
    assert_eq!(
        request.fields.one("host"),
        Some(backend.address().to_string().as_str())
    );
}

#[test]
fn the_authority_of_the_url_stands_as_it_was_written_without_port_80() {
    let seen = send_with("GET / HTTP/1.0\r\n\r\n", "/", &[], OK);
    assert_eq!(seen.request.fields.one("host"), Some(seen.backend.as_str()));
}

#[test]
fn max_forwards_is_counted_down() {
    for method in ["OPTIONS", "TRACE"] {
        let request = send(&format!(
            "{method} / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 2\r\n\r\n"
        ));
        assert_eq!(request.fields.one("max-forwards"), Some("1"), "{method}");
    }
    let request = send("GET / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 2\r\n\r\n");
    assert_eq!(request.fields.one("max-forwards"), Some("2"));
}

#[test]
fn a_date_is_added_to_a_response_without_one() {
    let response = answered("HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno");
    let date = response.fields.one("date").unwrap();
    let before_or_after = |seconds: i64| {
        let output = std::process::Command::new("date")
            .args([
                "-u",
                "-d",
                &format!("{seconds} seconds"),
                "+%a, %d %b %Y %H:%M:%S GMT",
            ])
            .env("LC_ALL", "C")
            .output()
            .expect("date is everywhere");
        String::from_utf8(output.stdout)
            .unwrap()
            .trim_end()
            .to_owned()
    };
    assert!(
        (-60..=1)
            .rev()
            .any(|seconds| before_or_after(seconds) == date),
        "{date:?} is not now, {:?}",
        before_or_after(0)
    );
    let theirs = "Thu, 01 Jan 1970 00:00:00 GMT";
    let response = answered(&format!(
        "HTTP/1.1 200 OK\r\nDATE: {theirs}\r\nContent-Length: 0\r\n\r\n"
    ));
    assert_eq!(response.fields.all("date"), [theirs]);
}

#[test]
fn statuses_of_every_class_pass() {
    for status in [200, 299, 499, 599, 600, 799, 999] {
        let response = answered(&format!(
            "HTTP/1.1 {status} Any\r\nContent-Length: 2\r\n\r\nok"
        ));
        assert_eq!((response.status, response.text().as_str()), (status, "ok"));
    }
    assert_eq!(
        answered("HTTP/1.1 099 Any\r\nContent-Length: 2\r\n\r\nok").status,
        502
    );
}
