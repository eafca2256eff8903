//! What the fields of a request say: host, framing, connection options, expectations, ids and
//! cookies. How a head is taken is tested in `request_tests.rs`.

use crate::http::request::tests::{status, status_with, take, with};
use crate::http::request::*;

#[test]
fn http_1_1_has_exactly_one_host() {
    assert_eq!(status("GET / HTTP/1.1\r\n\r\n"), 400);
    assert_eq!(status("GET / HTTP/1.1\r\nX: Host: a\r\n\r\n"), 400);
    assert_eq!(status_with("Host: a"), 400);
    assert_eq!(status_with("hOST: b"), 400);
    assert_eq!(status("GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n"), 400);
    assert_eq!(status("GET / HTTP/1.0\r\n\r\n"), 200);
    assert_eq!(take("GET / HTTP/1.0\r\n\r\n").unwrap().host(), None);
}

#[test]
fn host_is_a_valid_authority() {
    for host in [
        "a",
        "a.b",
        "A-1_2.~",
        "a.",
        "127.0.0.1",
        "[::1]",
        "[::ffff:1.2.3.4]:80",
        "a:80",
        "a:",
        "a:0",
        "a:65535",
        "a:00080",
        "%41b",
        "x!$&'()*+,;=",
        "\tb ",
    ] {
        assert_eq!(
            status(format!("GET / HTTP/1.1\r\nHost:{host}\r\n\r\n")),
            200,
            "{host:?}"
        );
    }
    for host in [
        "",
        " ",
        ":80",
        "a:65536",
        "a:99999999999999999999",
        "a:8o",
        "a:-1",
        "a:+1",
        "a: 80",
        "a:80:80",
        "a b",
        "a, b",
        "a/b",
        "a/",
        "/",
        "a?b",
        "a#b",
        "u@a",
        "@a",
        "a@",
        "[::1",
        "::1",
        "[::1]x",
        "[::1]80",
        "[]",
        "[:::1]",
        "[1.2.3.4]",
        "[fe80::1%25eth0]",
        "[v1.a]",
        "[::1]:x",
        "a%",
        "a%4",
        "a%4z",
        "a%z4",
        "a%zz",
        "a\\b",
        "a\"b",
        "<a>",
        "a{b}",
        "a|b",
        "a^b",
        "a`b",
        "http://a",
        "a\u{e9}",
        "a\tb",
    ] {
        assert_eq!(
            status(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")),
            400,
            "{host:?}"
        );
        assert_eq!(
            status(format!("GET / HTTP/1.0\r\nHost: {host}\r\n\r\n")),
            400,
            "{host:?}"
        );
    }
}

#[test]
fn content_length_is_one_decimal_number() {
    for (lines, expected) in [
        ("Content-Length: 0", Body::Length(0)),
        ("Content-Length: 5", Body::Length(5)),
        ("content-length:5", Body::Length(5)),
        ("Content-Length: \t5\t ", Body::Length(5)),
        ("Content-Length: 005", Body::Length(5)),
        ("Content-Length: 5, 5", Body::Length(5)),
        ("Content-Length: 5,05\t,5", Body::Length(5)),
        ("Content-Length: 5\r\nCONTENT-LENGTH: 5", Body::Length(5)),
        (
            "Content-Length: 18446744073709551615",
            Body::Length(u64::MAX),
        ),
        ("Content_Length: 7", Body::None),
    ] {
        assert_eq!(with(lines).unwrap().body(), expected, "{lines:?}");
    }
    for value in [
        "",
        " ",
        "+5",
        "-5",
        "-0",
        "0x5",
        "5x",
        "5 5",
        "5;5",
        "5.0",
        "5e0",
        "5,",
        ",5",
        "5,,5",
        "5, 6",
        "\"5\"",
        "five",
        "5\u{b2}",
        "18446744073709551616",
        "99999999999999999999999999999999",
        "5\t5",
        "0 5",
        "1_000",
    ] {
        assert_eq!(
            status_with(&format!("Content-Length: {value}")),
            400,
            "{value:?}"
        );
    }
    assert_eq!(status_with("Content-Length: 5\r\nContent-Length: 6"), 400);
    assert_eq!(
        status_with("Content-Length: 5\r\nX: y\r\nContent-Length: 5, 6"),
        400
    );
    assert_eq!(status_with("Content-Length: 5\r\nContent-Length:"), 400);
}

#[test]
fn a_transfer_coding_list_ends_in_exactly_one_chunked() {
    for lines in [
        "Transfer-Encoding: chunked",
        "transfer-encoding:ChUnKeD",
        "Transfer-Encoding: \tchunked\t ",
    ] {
        assert_eq!(with(lines).unwrap().body(), Body::Chunked, "{lines:?}");
    }
    for value in [
        "",
        " ",
        ",",
        "chunked,",
        ",chunked",
        "chunked,,",
        "chunked, chunked",
        "chunked,identity",
        "chunked, gzip",
        "identity",
        "gzip",
        "xchunked",
        "chunkedx",
        "chunke",
        "chunked chunked",
        "gzip chunked",
        "chunked;q=1",
        "chunked;",
        "gzip, chunked;a=b",
        "\"chunked\"",
        "'chunked'",
        "gzip;a=\"b\", chunked",
        "gzip;a=\"b, chunked\"",
        "chunked\u{b}",
        "\u{b}chunked",
        "chunked\u{c}",
        "gzip,, chunked",
        "chunked, gzip, chunked",
        "x/y, chunked",
        "identity, identity",
        "chunked\u{a0}",
        "none, gzip",
        "chunked\0",
    ] {
        assert_eq!(
            status_with(&format!("Transfer-Encoding: {value}")),
            400,
            "{value:?}"
        );
    }
    for value in [
        "gzip, chunked",
        "identity, chunked",
        "gzip,deflate , chunked",
        "gzip;a=b, chunked",
        "gzip ; a = b ,chunked",
        "xchunked, chunked",
    ] {
        assert_eq!(
            status_with(&format!("Transfer-Encoding: {value}")),
            501,
            "{value:?}"
        );
    }
}

#[test]
fn transfer_encoding_fields_are_one_list() {
    let twice = |a: &str, b: &str| {
        status_with(&format!(
            "Transfer-Encoding: {a}\r\nX: y\r\ntransfer-encoding: {b}"
        ))
    };
    assert_eq!(twice("chunked", "chunked"), 400);
    assert_eq!(twice("chunked", "identity"), 400);
    assert_eq!(twice("chunked", ""), 400);
    assert_eq!(twice("", "chunked"), 400);
    assert_eq!(twice("gzip", "chunked"), 501);
}

#[test]
fn two_framings_are_refused_in_any_order() {
    for lines in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
        "Transfer-Encoding: chunked\r\nContent-Length: 0",
        "Transfer-Encoding: gzip, chunked\r\nContent-Length: 5",
        "Transfer-Encoding: identity\r\nContent-Length: 5",
        "Transfer-Encoding:\r\nContent-Length: 5",
        "Connection: Content-Length\r\nTransfer-Encoding: chunked\r\nContent-Length: 5",
        "Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\nContent-Length: 5",
    ] {
        assert_eq!(status_with(lines), 400, "{lines:?}");
    }
}

#[test]
fn http_1_0_has_no_transfer_encoding() {
    assert_eq!(
        status("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"),
        400
    );
    assert_eq!(
        status("POST / HTTP/1.0\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"),
        400
    );
    assert_eq!(
        take("POST / HTTP/1.0\r\nContent-Length: 3\r\n\r\n")
            .unwrap()
            .body(),
        Body::Length(3)
    );
    assert_eq!(take("POST / HTTP/1.0\r\n\r\n").unwrap().body(), Body::None);
}

#[test]
fn the_connection_persists_unless_the_version_or_an_option_says_otherwise() {
    let keep_alive = |version: &str, lines: &str| {
        take(format!("GET / {version}\r\nHost: a\r\n{lines}\r\n"))
            .unwrap()
            .keep_alive()
    };
    assert!(keep_alive("HTTP/1.1", ""));
    assert!(!keep_alive("HTTP/1.1", "Connection: close\r\n"));
    assert!(!keep_alive(
        "HTTP/1.1",
        "connection: , x,\tCLOSE ,keep-alive\r\n"
    ));
    assert!(!keep_alive(
        "HTTP/1.1",
        "Connection: keep-alive\r\nConnection: close\r\n"
    ));
    assert!(keep_alive(
        "HTTP/1.1",
        "Connection: closed, xclose, \"close\"\r\n"
    ));
    assert!(keep_alive("HTTP/1.1", "Proxy-Connection: close\r\n"));
    assert!(!keep_alive("HTTP/1.0", ""));
    assert!(!keep_alive("HTTP/1.0", "Proxy-Connection: keep-alive\r\n"));
    assert!(keep_alive("HTTP/1.0", "Connection: Keep-Alive\r\n"));
    assert!(!keep_alive("HTTP/1.0", "Connection: keep-alive, close\r\n"));
}

#[test]
fn connection_options_are_bounded_like_fields() {
    assert_eq!(
        status_with(&format!("Connection: {}", "a,".repeat(100))),
        200
    );
    assert_eq!(
        status_with(&format!("Connection: {}", "a,".repeat(101))),
        431
    );
    assert_eq!(
        status_with(&format!("Connection: {}", ",".repeat(1000))),
        200
    );
}

#[test]
fn a_client_waits_for_100_only_in_http_1_1_and_with_a_body_to_come() {
    let expects = |head: &str| take(format!("{head}\r\n\r\n")).unwrap().expects_continue();
    let base = "PUT / HTTP/1.1\r\nHost: a\r\n";
    assert!(expects(&format!(
        "{base}Content-Length: 1\r\nExpect: 100-continue"
    )));
    assert!(expects(&format!(
        "{base}Transfer-Encoding: chunked\r\nexpect: x, 100-Continue"
    )));
    assert!(!expects(&format!("{base}Expect: 100-continue")));
    assert!(!expects(&format!(
        "{base}Content-Length: 0\r\nExpect: 100-continue"
    )));
    assert!(!expects(&format!(
        "{base}Content-Length: 1\r\nExpect: 100-continued"
    )));
    assert!(!expects(
        "PUT / HTTP/1.0\r\nContent-Length: 1\r\nExpect: 100-continue"
    ));
}

#[test]
fn an_upgrade_needs_its_connection_option_and_a_protocol_that_may_pass() {
    let upgrade = |lines: &str| with(lines).unwrap().upgrade();
    assert!(upgrade("Connection: Upgrade\r\nUpgrade: websocket"));
    assert!(upgrade(
        "Connection: keep-alive, UPGRADE\r\nupgrade: h2c, WebSocket/13"
    ));
    assert!(!upgrade("Upgrade: websocket"));
    assert!(!upgrade("Connection: Upgrade"));
    assert!(!upgrade("Connection: Upgrade\r\nUpgrade:"));
    assert!(!upgrade(
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__"
    ));
    assert!(!upgrade("Connection: Upgrade\r\nUpgrade: H2C,h2c/1,,h2c"));
    assert!(!upgrade(
        "Connection: Upgrade\r\nUpgrade: web socket, a/b/c, \"x\""
    ));
    let old = take("GET / HTTP/1.0\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").unwrap();
    assert!(!old.upgrade());
}

#[test]
fn only_an_offered_protocol_can_be_chosen() {
    let head = with("Connection: Upgrade\r\nUpgrade: h2c, websocket\r\nUpgrade: foo/2").unwrap();
    assert!(
        head.offers(b"websocket") && head.offers(b"WebSocket") && head.offers(b"foo/2, websocket")
    );
    for chosen in [
        &b"h2c"[..],
        b"",
        b"foo",
        b"foo/1",
        b"bar",
        b"websocket, bar",
        b"websocket,",
        b"foo/2,foo/2,foo/2,foo/2,foo/2",
    ] {
        assert!(!head.offers(chosen), "{}", chosen.escape_ascii());
    }
    assert!(!with("Upgrade: websocket").unwrap().offers(b"websocket"));
}

#[test]
fn trailers_are_for_http_1_1_clients_that_say_so() {
    let accepts = |lines: &str| with(lines).unwrap().accepts_trailers();
    assert!(accepts("TE: trailers"));
    assert!(accepts("te: gzip;q=0.5 ,\tTrailers\r\nConnection: TE"));
    assert!(!accepts("TE: gzip"));
    assert!(!accepts("TE: trailer, xtrailers, trailers;q=1"));
    assert!(
        !take("GET / HTTP/1.0\r\nTE: trailers\r\n\r\n")
            .unwrap()
            .accepts_trailers()
    );
}

#[test]
fn a_request_id_is_used_if_it_is_one_short_visible_word() {
    let id = |lines: &str| with(lines).unwrap().request_id().map(<[u8]>::to_vec);
    assert_eq!(id("X-Request-ID: a-1"), Some(b"a-1".to_vec()));
    assert_eq!(
        id(&format!("X-Request-ID: {}", "x".repeat(128))),
        Some(vec![b'x'; 128])
    );
    assert_eq!(id(&format!("X-Request-ID: {}", "x".repeat(129))), None);
    assert_eq!(id("X-Request-ID:"), None);
    assert_eq!(id("X-Request-ID: a b"), None);
    assert_eq!(id("X-Request-ID: \u{e9}"), None);
    assert_eq!(id("X-Request-ID: a\r\nX-Request-ID: a"), None);
    assert_eq!(
        id("X-Request-ID: a\r\nX-Request-ID: b\r\nX-Request-Id: c"),
        None
    );
    assert_eq!(id("X: y"), None);
}

#[test]
fn a_cookie_is_found_by_its_whole_name() {
    let head = with(
        "Cookie: xrondo=1; rondo =2;rondo=3=4; rondo=5\r\nX: y\r\ncookie: other=6;\tlast=\"7\"",
    )
    .unwrap();
    let cookie = |name: &str| {
        head.cookie(name.as_bytes())
            .map(|value| str::from_utf8(value).unwrap().to_owned())
    };
    assert_eq!(cookie("rondo").as_deref(), Some("3=4"));
    assert_eq!(cookie("other").as_deref(), Some("6"));
    assert_eq!(cookie("last").as_deref(), Some("\"7\""));
    assert_eq!(cookie("ondo"), None);
    assert_eq!(cookie("Rondo"), None);
    assert_eq!(cookie("rond"), None);
}

#[test]
fn max_forwards_counts_in_options_and_trace_alone() {
    let counted = |method: &str, lines: &str| {
        take(format!("{method} / HTTP/1.1\r\nHost: a\r\n{lines}\r\n"))
            .map(|head| head.max_forwards())
    };
    for method in ["OPTIONS", "TRACE"] {
        assert_eq!(counted(method, ""), Ok(None));
        for (value, expected) in [
            ("0", 0),
            ("1", 1),
            ("007", 7),
            ("18446744073709551615", u64::MAX),
            ("99999999999999999999999", u64::MAX),
        ] {
            let lines = format!("max-forwards: {value}\r\n");
            assert_eq!(counted(method, &lines), Ok(Some(expected)), "{value}");
        }
        for value in ["", "-1", "+1", "1.0", "0x1", "1, 1", "one", "1 1"] {
            let lines = format!("Max-Forwards: {value}\r\n");
            let error = counted(method, &lines).unwrap_err();
            assert_eq!(
                error,
                HeadError::Malformed("malformed Max-Forwards"),
                "{value}"
            );
        }
        assert_eq!(
            counted(method, "Max-Forwards: 1\r\nMax-Forwards: 1\r\n"),
            Err(HeadError::Malformed("repeated Max-Forwards"))
        );
    }
    for method in ["GET", "options", "POST"] {
        assert_eq!(counted(method, "Max-Forwards: 0\r\n"), Ok(None));
        assert_eq!(counted(method, "Max-Forwards: x\r\n"), Ok(None));
    }
}
