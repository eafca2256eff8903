//! What goes out, byte for byte.

use crate::http::HeadLimits;
use crate::http::forward::*;

const LIMITS: HeadLimits = HeadLimits {
    head_bytes_max: 16384,
    fields_max: 100,
};

const HOW: RequestForwarding<'static> = RequestForwarding {
    peer: IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 105)),
    trusted: false,
    scheme: Scheme::Http,
    via: true,
    base_path: b"",
    authority: b"backend:8081",
    request_id: b"id-1",
};

const TRUSTED: RequestForwarding<'static> = RequestForwarding {
    trusted: true,
    ..HOW
};

const RESPONSE: ResponseForwarding<'static> = ResponseForwarding {
    body: Body::Length(5),
    keep_length_field: false,
    connection: ClientConnection::KeepAlive,
    set_cookie: None,
    date: None,
    trailers: false,
};

/// What we add when the request says nothing special.
const ADDED: &str = "X-Forwarded-For: 192.0.2.105\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: h\r\nVia: 1.1 rondo\r\nX-Request-Id: id-1\r\n";

fn forward(request: &str, how: &RequestForwarding<'_>) -> String {
    let mut head = RequestHead::default();
    assert_eq!(
        head.take(request.as_bytes(), &LIMITS),
        Ok(Some(request.len()))
    );
    let mut out = b"before ".to_vec();
    write_request(&head, how, &mut out);
    String::from_utf8(out.split_off(7)).unwrap()
}

/// The lines that `lines` beside Host become, without what is always added.
fn forward_lines(lines: &str, how: &RequestForwarding<'_>) -> String {
    let out = forward(&format!("GET / HTTP/1.1\r\nHost: h\r\n{lines}\r\n"), how);
    let out = out.strip_prefix("GET / HTTP/1.1\r\nHost: h\r\n").unwrap();
    out.strip_suffix("\r\n").unwrap().replace(ADDED, "")
}

fn respond(response: &str, how: &ResponseForwarding<'_>) -> String {
    let mut head = ResponseHead::default();
    assert_eq!(
        head.take(response.as_bytes(), &LIMITS),
        Ok(Some(response.len()))
    );
    let mut out = Vec::new();
    write_response(&head, how, &mut out);
    String::from_utf8(out).unwrap()
}

fn respond_lines(lines: &str, how: &ResponseForwarding<'_>) -> String {
    let out = respond(&format!("HTTP/1.1 200 OK\r\n{lines}\r\n"), how);
    let out = out.strip_prefix("HTTP/1.1 200 OK\r\n").unwrap();
    out.strip_suffix("\r\n").unwrap().to_owned()
}

#[test]
fn a_request_is_rewritten_with_what_a_proxy_adds() {
    assert_eq!(
        forward(
            "GET /a?b HTTP/1.1\r\nAccept:*/*\r\nhOST: \t h\t\r\nX-Y:  z \r\nX-Y:\r\n\r\n",
            &HOW
        ),
        format!("GET /a?b HTTP/1.1\r\nHost: h\r\nAccept: */*\r\nX-Y: z\r\nX-Y: \r\n{ADDED}\r\n")
    );
}

#[test]
fn the_base_path_goes_before_every_path_but_not_before_the_asterisk() {
    let how = RequestForwarding {
        base_path: b"/base/x",
        ..HOW
    };
    let line = |line: &str| {
        let out = forward(&format!("{line} HTTP/1.1\r\nHost: h\r\n\r\n"), &how);
        out.lines().next().unwrap().to_owned()
    };
    assert_eq!(line("GET /"), "GET /base/x/ HTTP/1.1");
    assert_eq!(
        line("GET /../a//b?c=/d&e%zz#f"),
        "GET /base/x/../a//b?c=/d&e%zz HTTP/1.1"
    );
    assert_eq!(line("GET http://h"), "GET /base/x/ HTTP/1.1");
    assert_eq!(line("GET http://h?q"), "GET /base/x/?q HTTP/1.1");
    assert_eq!(line("OPTIONS *"), "OPTIONS * HTTP/1.1");
    assert_eq!(line("OPTIONS http://h"), "OPTIONS * HTTP/1.1");
}

#[test]
fn host_is_the_clients_or_the_targets_or_the_backends() {
    let host = |request: &str| {
        let out = forward(request, &HOW);
        out.lines()
            .filter(|line| line.contains("Host: "))
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(
        host("GET / HTTP/1.1\r\nHost: a:1\r\n\r\n"),
        "Host: a:1 X-Forwarded-Host: a:1"
    );
    assert_eq!(
        host("GET http://B/ HTTP/1.1\r\nHost: a\r\n\r\n"),
        "Host: B X-Forwarded-Host: B"
    );
    assert_eq!(
        host("GET / HTTP/1.0\r\nHost: a\r\n\r\n"),
        "Host: a X-Forwarded-Host: a"
    );
    assert_eq!(host("GET / HTTP/1.0\r\n\r\n"), "Host: backend:8081");
}

#[test]
fn framing_is_written_from_the_body_never_copied() {
    let lines = |lines: &str| forward_lines(lines, &HOW);
    assert_eq!(
        lines("Content-Length: 007, 7\r\ncontent-length: 7\r\n"),
        "Content-Length: 7\r\n"
    );
    assert_eq!(lines("Content-Length: 0\r\n"), "Content-Length: 0\r\n");
    assert_eq!(
        lines("transfer-encoding: CHUNKED\t\r\n"),
        "Transfer-Encoding: chunked\r\n"
    );
    assert_eq!(lines(""), "");
    // Naming them in Connection takes nothing away.
    assert_eq!(
        lines(
            "Connection: Content-Length, Host, X-Forwarded-For, Via, X-Request-Id\r\nContent-Length: 7\r\n"
        ),
        "Content-Length: 7\r\n"
    );
    assert_eq!(
        lines("Connection: transfer-encoding\r\nTransfer-Encoding: chunked\r\n"),
        "Transfer-Encoding: chunked\r\n"
    );
}

#[test]
fn hop_by_hop_fields_end_here() {
    for line in [
        "Connection: close",
        "Connection: keep-alive",
        "Keep-Alive: timeout=5",
        "Proxy-Connection: keep-alive",
        "TE: gzip",
        "Trailer: X",
        "Upgrade: websocket",
        "HTTP2-Settings: AAMAAABk",
        "Proxy-Authorization: Basic x",
        "Proxy-Authenticate: Basic",
        "Proxy-Authentication-Info: x",
    ] {
        for line in [line.to_owned(), line.to_lowercase(), line.to_uppercase()] {
            assert_eq!(forward_lines(&format!("{line}\r\n"), &HOW), "", "{line}");
        }
    }
}

#[test]
fn fields_that_connection_names_end_here_and_others_do_not() {
    assert_eq!(
        forward_lines(
            "A: 1\r\nX-Hop: 2\r\nConnection: x-hop, , close\r\nx-HOP: 3\r\nCookie: c\r\nConnection: X-Other,cookie\r\nB: 4\r\nX-Hop2: 5\r\n",
            &HOW
        ),
        "A: 1\r\nB: 4\r\nX-Hop2: 5\r\n"
    );
}

#[test]
fn connection_cannot_take_what_others_rely_on() {
    let lines = "Via: 1.0 first\r\nX-Forwarded-For: 10.0.0.1\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: public\r\nForwarded: for=1\r\nX-Request-Id: id-1\r\nExpect: 100-continue\r\nContent-Length: 1\r\n";
    let named = "Connection: via, x-forwarded-for, x-forwarded-proto, x-forwarded-host, forwarded, x-request-id, expect\r\n";
    for how in [&HOW, &TRUSTED] {
        assert_eq!(
            forward_lines(&format!("{named}{lines}"), how),
            forward_lines(lines, how)
        );
    }
}

#[test]
fn what_an_untrusted_client_says_about_others_is_dropped() {
    for name in [
        "X-Forwarded-For",
        "X-Forwarded-Proto",
        "X-Forwarded-Host",
        "X-Forwarded-Port",
        "X-Forwarded-Server",
        "X-Forwarded-Prefix",
        "X-Forwarded-",
        "x-forwarded-anything-at-all",
        "Forwarded",
        "FORWARDED",
        "X-Real-IP",
        "X-Real-Ip",
        "X_Forwarded_For",
        "X-Forwarded_For",
        "x_forwarded-proto",
        "X_FORWARDED_HOST",
        "X_Real_IP",
        "X-Real_IP",
    ] {
        assert_eq!(
            forward_lines(&format!("{name}: 10.0.0.1\r\n"), &HOW),
            "",
            "{name}"
        );
    }
    for name in [
        "X-Forwarded",
        "Forwarded-For",
        "X-Forward-For",
        "XX-Forwarded-For",
        "X-Real-IP2",
        "X-RealIP",
        "X-Request-Idx",
        "X.Forwarded-For",
        "X-_orwarded-For",
    ] {
        assert_eq!(
            forward_lines(&format!("{name}: a\r\n"), &HOW),
            format!("{name}: a\r\n")
        );
    }
}

#[test]
fn what_a_trusted_client_says_about_others_is_kept() {
    let out = forward_lines(
        "X-Forwarded-For: 10.0.0.1\r\nX-Forwarded-Proto: https\r\nForwarded: for=10.0.0.1\r\nx-forwarded-for:\r\nX-Forwarded-For: 10.0.0.2,10.0.0.3\r\nX-Real-IP: 10.0.0.1\r\nX-Forwarded-Host: public\r\nX-Forwarded-Port: 443\r\nX_Forwarded_For: forged\r\nX_Real_IP: forged\r\n",
        &TRUSTED,
    );
    assert_eq!(
        out,
        "X-Forwarded-Proto: https\r\nForwarded: for=10.0.0.1\r\nX-Real-IP: 10.0.0.1\r\nX-Forwarded-Host: public\r\nX-Forwarded-Port: 443\r\nX-Forwarded-For: 10.0.0.1, 10.0.0.2,10.0.0.3, 192.0.2.105\r\nVia: 1.1 rondo\r\nX-Request-Id: id-1\r\n"
    );
    assert_eq!(
        forward_lines("", &TRUSTED),
        "",
        "what it does not say is added"
    );
}

#[test]
fn the_clients_address_is_written_plainly() {
    for (address, text) in [
        ("0.0.0.0", "0.0.0.0"),
        ("255.10.9.100", "255.10.9.100"),
        ("::1", "::1"),
        ("2001:DB8:0:0::1", "2001:db8::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
    ] {
        let how = RequestForwarding {
            peer: address.parse().unwrap(),
            ..HOW
        };
        assert!(forward_lines("", &how).contains(&format!("X-Forwarded-For: {text}\r\n")));
    }
}

#[test]
fn via_names_the_received_version_after_the_hops_before() {
    assert_eq!(
        forward_lines("Via: 1.0 a, 1.1 b\r\nX: y\r\n", &HOW),
        "Via: 1.0 a, 1.1 b\r\nX: y\r\n"
    );
    let old = "GET / HTTP/1.0\r\nHost: h\r\n\r\n";
    assert!(forward(old, &HOW).contains("\r\nVia: 1.0 rondo\r\n"));
    let off = RequestForwarding { via: false, ..HOW };
    assert!(!forward(old, &off).contains("Via"));
}

#[test]
fn a_good_request_id_stays_where_it_is_and_any_other_is_replaced() {
    let same = "x-request-ID: id-1\r\nX: y\r\n";
    assert!(forward_lines(same, &HOW).starts_with(same));
    assert_eq!(
        forward_lines(same, &HOW)
            .to_lowercase()
            .matches("x-request-id")
            .count(),
        1
    );
    for lines in [
        "X-Request-Id: other\r\n",
        "X-Request-Id:\r\n",
        "X-Request-Id: id-1\r\nX-Request-Id: id-1\r\n",
        "X-Request-Id: a b\r\n",
    ] {
        assert_eq!(forward_lines(lines, &HOW), "", "{lines:?}");
    }
}

#[test]
fn expect_passes_unless_it_means_nothing() {
    let lines = "Content-Length: 3\r\nExpect: 100-continue\r\n";
    assert_eq!(
        forward_lines(lines, &HOW),
        "Expect: 100-continue\r\nContent-Length: 3\r\n"
    );
    assert_eq!(
        forward_lines("Expect: other\r\n", &HOW),
        "Expect: other\r\n"
    );
    assert!(!forward(&format!("PUT / HTTP/1.0\r\n{lines}\r\n"), &HOW).contains("Expect"));
}

#[test]
fn te_and_upgrade_are_rewritten_with_their_connection_options() {
    let tail = |lines: &str| forward_lines(lines, &HOW);
    assert_eq!(
        tail("TE: gzip, trailers\r\n"),
        "Connection: TE\r\nTE: trailers\r\n"
    );
    assert_eq!(
        tail(
            "Connection: keep-alive, Upgrade\r\nUpgrade: h2c, websocket\r\nupgrade: foo/1,h2c\r\nSec-WebSocket-Key: x\r\n"
        ),
        "Sec-WebSocket-Key: x\r\nConnection: Upgrade\r\nUpgrade: websocket, foo/1\r\n"
    );
    assert_eq!(
        tail("Connection: Upgrade, TE\r\nTE: trailers\r\nUpgrade: websocket\r\n"),
        "Connection: TE, Upgrade\r\nTE: trailers\r\nUpgrade: websocket\r\n"
    );
    assert_eq!(
        tail("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n"),
        ""
    );
}

#[test]
fn http_1_0_goes_on_as_http_1_1_without_what_it_does_not_know() {
    let out = forward(
        "GET / HTTP/1.0\r\nHost: h\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nTE: trailers\r\n\r\n",
        &HOW,
    );
    assert_eq!(
        out,
        format!(
            "GET / HTTP/1.1\r\nHost: h\r\n{}\r\n",
            ADDED.replace("1.1 rondo", "1.0 rondo")
        )
    );
}

#[test]
fn a_response_is_rewritten() {
    assert_eq!(
        respond(
            "HTTP/1.0 404 \u{e9}\tx\r\nserver:x\r\nContent-Length: 05\r\nSet-Cookie: a\r\nSet-Cookie:  b \r\nVia: 1.1 v\r\n\r\n",
            &RESPONSE
        ),
        "HTTP/1.1 404 \u{e9}\tx\r\nserver: x\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nVia: 1.1 v\r\nContent-Length: 5\r\n\r\n"
    );
    assert_eq!(
        respond("HTTP/1.1 200\r\n\r\n", &RESPONSE),
        "HTTP/1.1 200 \r\nContent-Length: 5\r\n\r\n"
    );
}

#[test]
fn the_responses_hop_by_hop_fields_end_here() {
    for line in [
        "Connection: close",
        "Keep-Alive: timeout=5",
        "Proxy-Connection: x",
        "TE: x",
        "Upgrade: h2,h2c",
        "HTTP2-Settings: x",
        "Proxy-Authenticate: Basic",
        "Trailer: X",
        "Proxy-Authorization: x",
        "proxy-authentication-info: x",
        "Connection: X-Hop\r\nx-hop: 1",
        "Connection: via",
        "Content-Length: 5",
        "Transfer-Encoding: chunked",
    ] {
        let how = ResponseForwarding {
            body: Body::UntilClose,
            ..RESPONSE
        };
        assert_eq!(respond_lines(&format!("{line}\r\n"), &how), "", "{line}");
    }
    let named = "Connection: content-length, via\r\nVia: 1.1 v\r\nContent-Length: 5\r\n";
    assert_eq!(
        respond_lines(named, &RESPONSE),
        "Via: 1.1 v\r\nContent-Length: 5\r\n"
    );
}

#[test]
fn the_responses_framing_is_the_one_asked_for() {
    let framed = |body| {
        respond_lines(
            "Content-Length: 5\r\n",
            &ResponseForwarding { body, ..RESPONSE },
        )
    };
    assert_eq!(framed(Body::Length(5)), "Content-Length: 5\r\n");
    assert_eq!(framed(Body::Chunked), "Transfer-Encoding: chunked\r\n");
    assert_eq!(framed(Body::UntilClose), "");
    assert_eq!(framed(Body::None), "");
}

#[test]
fn a_length_without_a_body_is_kept_where_it_has_a_meaning() {
    let how = ResponseForwarding {
        body: Body::None,
        keep_length_field: true,
        ..RESPONSE
    };
    let length = |status| {
        respond(
            &format!("HTTP/1.1 {status} x\r\nContent-Length: 0123\r\n\r\n"),
            &how,
        )
        .contains("Content-Length: 123\r\n")
    };
    assert!(length(200) && length(304) && length(404));
    assert!(!length(204) && !length(101) && !length(103));
    assert_eq!(respond_lines("", &how), "");
}

#[test]
fn the_response_says_what_becomes_of_the_connection() {
    let connection = |connection| {
        respond_lines(
            "Upgrade: websocket\r\nConnection: upgrade\r\n",
            &ResponseForwarding {
                body: Body::None,
                connection,
                ..RESPONSE
            },
        )
    };
    assert_eq!(connection(ClientConnection::KeepAlive), "");
    assert_eq!(
        connection(ClientConnection::KeepAliveExplicit),
        "Connection: keep-alive\r\n"
    );
    assert_eq!(connection(ClientConnection::Close), "Connection: close\r\n");
    assert_eq!(
        connection(ClientConnection::Upgrade),
        "Connection: Upgrade\r\nUpgrade: websocket\r\n"
    );
}

#[test]
fn our_cookie_and_the_announcement_of_trailers_are_added_and_kept() {
    let how = ResponseForwarding {
        set_cookie: Some(b"rondo=x; Path=/"),
        trailers: true,
        ..RESPONSE
    };
    assert_eq!(
        respond_lines("Set-Cookie: a=b\r\nTrailer: X\r\n", &how),
        "Set-Cookie: a=b\r\nTrailer: X\r\nContent-Length: 5\r\nSet-Cookie: rondo=x; Path=/\r\n"
    );
}

#[test]
fn an_interim_response_has_fields_but_no_framing() {
    let mut head = ResponseHead::default();
    let input = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nContent-Length: 5\r\nConnection: close, x\r\nX: y\r\nTrailer: Z\r\n\r\n";
    head.take(input, &LIMITS).unwrap().unwrap();
    let mut out = Vec::new();
    write_interim(&head, &mut out);
    assert_eq!(
        str::from_utf8(&out).unwrap(),
        "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    );
}

#[test]
fn trailer_fields_that_change_the_message_are_not_written() {
    for name in [
        "Content-Type",
        "SET-COOKIE",
        "authorization",
        "cache-control",
        "date",
        "vary",
        "WWW-Authenticate",
    ] {
        assert!(
            !may_be_trailer(Known::of(name.as_bytes()), name.as_bytes()),
            "{name}"
        );
    }
    for name in [
        "Content-Length",
        "Transfer-Encoding",
        "Host",
        "Trailer",
        "TE",
        "Connection",
        "Upgrade",
        "Expect",
        "Cookie",
        "Via",
        "X-Forwarded-For",
    ] {
        assert!(
            !may_be_trailer(Known::of(name.as_bytes()), name.as_bytes()),
            "{name}"
        );
    }
    for name in [
        "X-Checksum",
        "grpc-status",
        "Server-Timing",
        "ETag",
        "Content-MD5",
    ] {
        assert!(
            may_be_trailer(Known::of(name.as_bytes()), name.as_bytes()),
            "{name}"
        );
    }
}

#[test]
fn max_forwards_is_counted_down_in_its_place() {
    let lines = |method: &str, value: &str| {
        let request = format!(
            "{method} / HTTP/1.1\r\nHost: h\r\nA: 1\r\nMAX-Forwards: {value}\r\nConnection: max-forwards\r\nB: 2\r\n\r\n"
        );
        let written = forward(&request, &HOW);
        let start = format!("{method} / HTTP/1.1\r\nHost: h\r\n");
        written
            .strip_prefix(&start)
            .and_then(|rest| rest.strip_suffix(&format!("{ADDED}\r\n")))
            .unwrap()
            .to_owned()
    };
    for method in ["OPTIONS", "TRACE"] {
        assert_eq!(lines(method, "7"), "A: 1\r\nMax-Forwards: 6\r\nB: 2\r\n");
        assert_eq!(lines(method, "1"), "A: 1\r\nMax-Forwards: 0\r\nB: 2\r\n");
        assert_eq!(
            lines(method, "99999999999999999999"),
            "A: 1\r\nMax-Forwards: 18446744073709551614\r\nB: 2\r\n"
        );
    }
    // Elsewhere it means nothing, and is a field like others.
    assert_eq!(lines("GET", "7"), "A: 1\r\nB: 2\r\n");
    let request = "GET / HTTP/1.1\r\nHost: h\r\nMax-Forwards: x\r\n\r\n";
    assert!(forward(request, &HOW).contains("Max-Forwards: x\r\n"));
}

#[test]
fn a_date_is_added_where_there_is_none() {
    let written = |lines: &str| {
        let mut head = ResponseHead::default();
        let response = format!("HTTP/1.1 200 OK\r\n{lines}\r\n");
        head.take(response.as_bytes(), &LIMITS).unwrap().unwrap();
        let how = ResponseForwarding {
            date: (!head.has_date()).then_some(b"now"),
            ..RESPONSE
        };
        respond_lines(lines, &how)
    };
    let length = "Content-Length: 5\r\n";
    assert_eq!(
        written("A: b\r\n"),
        format!("A: b\r\nDate: now\r\n{length}")
    );
    assert_eq!(
        written("date: then\r\nA: b\r\n"),
        format!("date: then\r\nA: b\r\n{length}")
    );
    assert_eq!(
        written("Date: then\r\nConnection: a\r\n"),
        format!("Date: then\r\n{length}")
    );
    // One that belongs to the backend's connection is left out, and replaced.
    assert_eq!(
        written("Date: then\r\nConnection: date\r\n"),
        format!("Date: now\r\n{length}")
    );
}

#[test]
fn an_answer_that_asks_for_another_protocol_says_which() {
    let written = |connection, lines: &str| {
        let response = format!("HTTP/1.1 426 Upgrade Required\r\n{lines}\r\n");
        let how = ResponseForwarding {
            body: Body::None,
            connection,
            ..RESPONSE
        };
        let written = respond(&response, &how);
        let start = "HTTP/1.1 426 Upgrade Required\r\n";
        let lines = written.strip_prefix(start).unwrap();
        lines.strip_suffix("\r\n").unwrap().to_owned()
    };
    let (keep, close) = (ClientConnection::KeepAlive, ClientConnection::Close);
    assert_eq!(
        written(
            keep,
            "Upgrade: websocket, TLS/1.3\r\nConnection: Upgrade\r\n"
        ),
        "Connection: Upgrade\r\nUpgrade: websocket, TLS/1.3\r\n"
    );
    // What it asks for is clear without the option, too.
    assert_eq!(
        written(close, "Upgrade: a\r\nUpgrade: b\r\n"),
        "Connection: close, Upgrade\r\nUpgrade: a, b\r\n"
    );
    assert_eq!(
        written(ClientConnection::KeepAliveExplicit, "Upgrade: a\r\n"),
        "Connection: keep-alive, Upgrade\r\nUpgrade: a\r\n"
    );
    for nothing in ["", "Upgrade: h2c\r\n", "Upgrade:\r\n", "Upgrade: a b\r\n"] {
        assert_eq!(written(keep, nothing), "", "{nothing}");
        assert_eq!(written(close, nothing), "Connection: close\r\n");
    }
    assert_eq!(
        written(keep, "Upgrade: h2c, websocket\r\n"),
        "Connection: Upgrade\r\nUpgrade: websocket\r\n"
    );
}
