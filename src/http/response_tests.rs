//! The rules for response heads. What they share with requests (lines, fields, limits) is tried
//! there and by the properties; here is what a backend can do wrong in its own way.

use crate::http::response::*;

const LIMITS: HeadLimits = HeadLimits {
    head_bytes_max: 16384,
    fields_max: 100,
};

fn take(input: impl AsRef<[u8]>) -> Result<ResponseHead, HeadError> {
    let mut head = ResponseHead::default();
    match head.take(input.as_ref(), &LIMITS)? {
        Some(used) => assert_eq!(used, input.as_ref().len(), "the whole input is the head"),
        None => panic!(
            "incomplete: {:?}",
            input.as_ref().escape_ascii().to_string()
        ),
    }
    Ok(head)
}

fn with(lines: &str) -> Result<ResponseHead, HeadError> {
    take(format!("HTTP/1.1 200 OK\r\n{lines}\r\n\r\n"))
}

#[test]
fn a_plain_response_is_understood() {
    let head = take("HTTP/1.1 404 Not Found\r\nServer: x\r\nA:\r\n\r\n").unwrap();
    assert_eq!((head.status(), head.reason()), (404, &b"Not Found"[..]));
    assert_eq!(head.version(), Version::Http11);
    let fields: Vec<_> = head.fields().collect();
    assert_eq!(fields, [(&b"Server"[..], &b"x"[..]), (b"A", b"")]);
    assert_eq!(head.body(false), Body::UntilClose);
    assert!(head.keep_alive() && !head.is_interim() && head.upgrade().is_none());
}

#[test]
fn the_reason_phrase_is_free_text_or_missing() {
    for (line, reason) in [
        (&b"HTTP/1.1 200"[..], &b""[..]),
        (b"HTTP/1.1 200 ", b""),
        (b"HTTP/1.1 200 OK", b"OK"),
        (b"HTTP/1.0 200  a\tb ", b" a\tb "),
        (b"HTTP/1.1 200 d\xe9j\xe0", b"d\xe9j\xe0"),
        (b"HTTP/1.3 200 \xff", b"\xff"),
    ] {
        let head = take([line, b"\r\n\r\n"].concat()).unwrap();
        assert_eq!((head.status(), head.reason()), (200, reason));
    }
}

#[test]
fn a_status_line_is_version_and_three_digits() {
    for line in [
        "HTTP/1.1 000 x",
        "HTTP/1.1 099 x",
        "HTTP/1.1 20 x",
        "HTTP/1.1 2000 x",
        "HTTP/1.1 200x",
        "HTTP/1.1 2x0 x",
        "HTTP/1.1  200 x",
        "HTTP/1.1\t200 x",
        "HTTP/1.1 200\tx",
        "HTTP/1.1 +20 x",
        "HTTP/1.1 -20 x",
        "HTTP/1.1",
        "HTTP/1.1 ",
        "HTTP/1. 200 x",
        "http/1.1 200 x",
        "HTTP/1.10 200 x",
        " HTTP/1.1 200 x",
        "\r\nHTTP/1.1 200 x",
        "\nHTTP/1.1 200 x",
        "ICY 200 OK",
        "<html>",
        "200 OK",
        "",
        "HTTP/1.1 200 a\0b",
        "HTTP/1.1 200 a\rb",
        "HTTP/1.1 200 a\nb",
        "HTTP/1.1 200 a\x7fb",
        "HTTP/1.1 200 \x1b[2J",
    ] {
        assert!(take(format!("{line}\r\n\r\n")).is_err(), "{line:?}");
    }
    for version in ["HTTP/2.0", "HTTP/0.9", "HTTP/3.1"] {
        assert_eq!(
            take(format!("{version} 200 OK\r\n\r\n")).unwrap_err(),
            HeadError::Version
        );
    }
    for status in [100, 199, 200, 599, 600, 999] {
        assert_eq!(
            take(format!("HTTP/1.1 {status} x\r\n\r\n"))
                .unwrap()
                .status(),
            status
        );
    }
}

#[test]
fn an_answer_without_a_status_line_is_refused_at_its_first_byte() {
    for input in ["<", "HTTp", "\r\r", "\rH", "\n", "\0", "HTTP1", "SSH-"] {
        assert!(
            ResponseHead::default()
                .take(input.as_bytes(), &LIMITS)
                .is_err(),
            "{input:?}"
        );
    }
    for input in ["", "\r", "H", "HTTP/", "HTTP/1.1 200 OK\r\n"] {
        assert_eq!(
            ResponseHead::default().take(input.as_bytes(), &LIMITS),
            Ok(None),
            "{input:?}"
        );
    }
}

#[test]
fn lines_and_fields_are_as_strict_as_in_requests() {
    for lines in [
        "A: b\nC: d",
        "A: b\rC: d",
        "A : b",
        "A: b\r\n c",
        "A: b\r\n\tc",
        ": b",
        "A",
        "A\0: b",
        "A: b\0",
        "A: \x01",
        "A\u{e9}: b",
        " A: b",
    ] {
        assert!(with(lines).is_err(), "{lines:?}");
    }
    assert!(take("HTTP/1.1 200 OK\n\n").is_err());
    assert!(take("HTTP/1.1 200 OK\r\nA: b\n\r\n").is_err());
    assert!(take("HTTP/1.1 200 OK\r\nA: b\r\n\n").is_err());
    assert!(take("HTTP/1.1 200 OK\nA: b\r\n\r\n").is_err());
    assert!(take("HTTP/1.1 200\n\r\n").is_err());
    assert!(take("HTTP/1.1 200 OK\r\n A: b\r\n\r\n").is_err());
    let head = take(b"HTTP/1.1 200 OK\r\nA: \xe9\xff\r\n\r\n").unwrap();
    assert_eq!(head.fields().next().unwrap().1, b"\xe9\xff");
}

#[test]
fn limits_hold() {
    let small = HeadLimits {
        head_bytes_max: 32,
        fields_max: 2,
    };
    let take = |input: &str| ResponseHead::default().take(input.as_bytes(), &small);
    assert_eq!(take("HTTP/1.1 200 OK\r\nA:\r\nB:\r\n\r\n"), Ok(Some(27)));
    assert_eq!(
        take("HTTP/1.1 200 OK\r\nA:\r\nB:\r\nC:\r\n"),
        Err(HeadError::TooManyFields)
    );
    assert_eq!(
        take("HTTP/1.1 200 OK\r\nA: 012345678\r\n\r\n"),
        Err(HeadError::TooLong)
    );
    assert_eq!(take("HTTP/1.1 200 OK\r\nA: 01234567\r\n\r\n"), Ok(Some(32)));
    assert_eq!(
        take("HTTP/1.1 200 OK\r\nA: 01234567890123"),
        Err(HeadError::TooLong)
    );
    assert_eq!(take("HTTP/1.1 200 OK\r\nA: 0123456789"), Ok(None));
    assert_eq!(take(&"HTTP/1.1 200 ".repeat(4)), Err(HeadError::TooLong));
}

#[test]
fn the_body_follows_rfc_9112_section_6_3() {
    let body = |status: u16, lines: &str, request_is_head| {
        take(format!("HTTP/1.1 {status} x\r\n{lines}\r\n"))
            .unwrap()
            .body(request_is_head)
    };
    let (length, chunked) = ("Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n");
    for status in [100, 101, 103, 199, 204, 304] {
        for lines in ["", length, chunked] {
            assert_eq!(body(status, lines, false), Body::None, "{status} {lines:?}");
        }
    }
    for status in [
        200, 201, 203, 205, 206, 301, 303, 305, 400, 404, 500, 599, 600, 999,
    ] {
        assert_eq!(body(status, "", false), Body::UntilClose);
        assert_eq!(body(status, length, false), Body::Length(5));
        assert_eq!(body(status, chunked, false), Body::Chunked);
        for lines in ["", length, chunked] {
            assert_eq!(body(status, lines, true), Body::None);
        }
    }
    assert_eq!(
        take("HTTP/1.0 200 x\r\n\r\n").unwrap().body(false),
        Body::UntilClose
    );
    assert_eq!(
        with("Content-Length: 5, 5").unwrap().content_length(),
        Some(5)
    );
}

#[test]
fn ambiguous_framing_is_a_bad_answer_even_without_a_body() {
    for lines in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: x",
        "Content-Length:",
        "Content-Length: -1",
        "Transfer-Encoding: gzip",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding:",
        "Transfer-Encoding: xchunked",
    ] {
        for status in [200, 204, 304, 103] {
            assert!(
                take(format!("HTTP/1.1 {status} x\r\n{lines}\r\n\r\n")).is_err(),
                "{lines:?}"
            );
        }
    }
    assert!(take("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").is_err());
}

#[test]
fn interim_means_that_another_response_follows() {
    for (status, interim) in [
        (100, true),
        (101, false),
        (102, true),
        (103, true),
        (199, true),
        (200, false),
    ] {
        assert_eq!(
            take(format!("HTTP/1.1 {status}\r\n\r\n"))
                .unwrap()
                .is_interim(),
            interim
        );
    }
}

#[test]
fn the_connection_persists_unless_the_version_or_an_option_says_otherwise() {
    assert!(!with("Connection: close").unwrap().keep_alive());
    assert!(
        !with("Connection: keep-alive\r\nConnection: x, Close")
            .unwrap()
            .keep_alive()
    );
    assert!(!take("HTTP/1.0 200 OK\r\n\r\n").unwrap().keep_alive());
    assert!(
        take("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\n")
            .unwrap()
            .keep_alive()
    );
}

#[test]
fn an_upgrade_is_named_once_and_by_connection() {
    let upgrade = |lines: &str| {
        let head = take(format!("HTTP/1.1 101 x\r\n{lines}\r\n\r\n")).unwrap();
        head.upgrade().map(<[u8]>::to_vec)
    };
    assert_eq!(
        upgrade("Upgrade: WebSocket\r\nconnection: upgrade").unwrap(),
        b"WebSocket"
    );
    assert_eq!(upgrade("Upgrade: websocket"), None);
    assert_eq!(upgrade("Connection: upgrade"), None);
    assert_eq!(upgrade("Connection: upgrade\r\nUpgrade:"), None);
    assert_eq!(upgrade("Connection: upgrade\r\nUpgrade: h2c"), None);
    assert_eq!(
        upgrade("Connection: upgrade\r\nUpgrade: a\r\nUpgrade: a"),
        None
    );
}

#[test]
fn the_options_of_connection_can_be_asked_for() {
    let head = with("Connection: close, X-One\r\nConnection: x-two").unwrap();
    let options: Vec<_> = head.connection_options().collect();
    assert_eq!(options, [&b"close, X-One"[..], b"x-two"]);
    let head = with("Connection: close, keep-alive, upgrade").unwrap();
    assert_eq!(
        head.connection_options().count(),
        0,
        "none of them names a field"
    );
}

#[test]
fn nothing_is_known_before_the_head_is_complete() {
    let mut head = ResponseHead::default();
    let input = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: x\r\n\r\n";
    assert_eq!(head.take(&input[..input.len() - 1], &LIMITS), Ok(None));
    assert_eq!((head.fields().count(), head.reason()), (0, &b""[..]));
    assert_eq!(head.take(input, &LIMITS), Ok(Some(input.len())));
    assert_eq!((head.fields().count(), head.reason()), (2, &b"OK"[..]));
    head.clear();
    let error = head.take(b"x", &LIMITS).unwrap_err();
    assert_eq!(
        head.take(input, &LIMITS),
        Err(error),
        "an error stays until it is cleared"
    );
}

#[test]
fn an_ordinary_head_is_taken_in_one_go() {
    let whole = |input: &[u8]| {
        let HeadReader { head, facts, .. } = &mut ResponseHead::default().reader;
        facts.take_whole(head, input, &LIMITS)
    };
    for line in ["HTTP/1.1 200 OK", "HTTP/1.0 404 ", "HTTP/1.1 204"] {
        let input = format!("{line}\r\nA: b\r\n\r\n");
        assert_eq!(whole(input.as_bytes()), Some(input.len()));
    }
    for other in [
        &b"\r\nHTTP/1.1 200 OK\r\n\r\n"[..],
        b"HTTP/1.1 200 \xff\r\n\r\n",
        b"HTTP/1.1 200\n\n",
        b"HTTP/1.1 200 \n\n",
        b"HTTP/1.1 200 OK\r\n\n",
        b"HTTP/1.1 099 OK\r\n\r\n",
    ] {
        assert_eq!(whole(other), None, "{}", other.escape_ascii());
    }
}

#[test]
fn a_complete_head_keeps_its_version_and_its_limit_of_fields() {
    assert_eq!(
        take("HTTP/1.0 200 OK\r\n\r\n").unwrap().version(),
        Version::Http10
    );
    let small = HeadLimits {
        head_bytes_max: 64,
        fields_max: 2,
    };
    let input = b"HTTP/1.1 200 OK\r\nA:\r\nB:\r\nC:\r\n\r\n";
    assert_eq!(
        ResponseHead::default().take(input, &small),
        Err(HeadError::TooManyFields)
    );
}

/// Every way to cut `input` in two, and byte by byte: the same result as in one piece.
fn take_leniently(input: &[u8]) -> Result<Option<(usize, ResponseHead)>, HeadError> {
    let take = |cuts: &[usize]| {
        let mut head = ResponseHead::default();
        for cut in cuts.iter().chain([&input.len()]) {
            if let Some(used) = head.take_as(&input[..*cut], &LIMITS, Grammar::LenientResponse)? {
                return Ok(Some((used, head)));
            }
        }
        Ok(None)
    };
    let written = |taken: &Result<Option<(usize, ResponseHead)>, HeadError>| {
        let whole = taken.as_ref().map_err(|error| *error)?;
        Ok::<_, HeadError>(whole.as_ref().map(|(used, head)| {
            let fields = head.fields();
            let fields: Vec<_> = fields.map(|(name, value)| [name, value].concat()).collect();
            (*used, head.status(), head.reason().to_vec(), fields)
        }))
    };
    let whole = take(&[]);
    for cut in 0..input.len() {
        assert_eq!(written(&take(&[cut])), written(&whole), "cut at {cut}");
    }
    let every: Vec<usize> = (0..input.len()).collect();
    assert_eq!(written(&take(&every)), written(&whole), "byte by byte");
    whole
}

#[test]
fn a_lenient_reader_takes_line_ends_without_cr_and_empty_lines_before_the_status_line() {
    for input in [
        "HTTP/1.1 200 OK\nA: b\nContent-Length: 5\n\nhello",
        "HTTP/1.1 200 OK\r\nA: b\nContent-Length: 5\r\n\nhello",
        "HTTP/1.1 200 OK\nA:\t b \nContent-Length: 5\n\r\nhello",
        "\nHTTP/1.1 200 OK\r\nA: b\r\nContent-Length: 5\r\n\r\nhello",
        "\r\n\r\n\r\n\r\nHTTP/1.1 200 OK\nA: b\nContent-Length: 5\n\nhello",
        "\n\r\nHTTP/1.1 200 OK\r\nA: b\r\nContent-Length: 5\r\n\r\nhello",
    ] {
        let (used, head) = take_leniently(input.as_bytes()).unwrap().unwrap();
        assert_eq!(&input[used..], "hello");
        assert_eq!((head.status(), head.reason()), (200, &b"OK"[..]));
        assert_eq!(head.body(false), Body::Length(5));
        let fields: Vec<_> = head.fields().collect();
        assert_eq!(fields, [(&b"A"[..], &b"b"[..]), (b"Content-Length", b"5")]);
    }
}

#[test]
fn a_lenient_reader_refuses_everything_else() {
    for input in [
        "\rHTTP/1.1 200 OK\r\n\r\n",
        "\n\n\n\n\n\n\n\n\nHTTP/1.1 200 OK\r\n\r\n",
        "\r\n\r\n\r\n\r\n\nHTTP/1.1 200 OK\r\n\r\n",
        " \nHTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\r\n\r\n",
        "HTTP/1.1 200 OK\nA: b\rC: d\n\n",
        "HTTP/1.1 200 OK\nA: b\n C: d\n\n",
        "HTTP/1.1 200 OK\nA : b\n\n",
        "HTTP/1.1 200 OK\nA\n\n",
        "HTTP/1.1 200 OK\nA: \0\n\n",
        "HTTP/1.1 200 OK\nContent-Length: 5\nTransfer-Encoding: chunked\n\n",
        "HTTP/1.1 200 OK\nContent-Length: 5\nContent-Length: 6\n\n",
        "HTTP/2.0 200 OK\n\n",
        "200 OK\n\n",
    ] {
        assert!(take_leniently(input.as_bytes()).is_err(), "{input:?}");
    }
}

#[test]
fn a_refusal_names_the_setting_that_would_help_and_only_then() {
    const HINT: &str = " (backends[].lenient would accept it)";
    for (input, reason) in [
        ("HTTP/1.1 200 OK\n", "bare LF"),
        ("HTTP/1.1 200 OK\r\nA: b\nC: d\r\n\r\n", "bare LF"),
        ("\nHTTP/1.1 200 OK", "an empty line before the status line"),
        ("\r\n", "an empty line before the status line"),
    ] {
        let error = take(input).unwrap_err();
        assert_eq!(error.reason(), format!("{reason}{HINT}"), "{input:?}");
    }
    for input in ["HTTP/1.1 200 OK\rx", "\rx", "HTTP/1.1 200\tOK\r\n", "SSH"] {
        let error = take(input).unwrap_err();
        assert!(!error.reason().contains("lenient"), "{input:?}: {error}");
    }
    let lenient = take_leniently(b"HTTP/1.1 200 OK\nA : b\n\n").unwrap_err();
    assert!(!lenient.reason().contains("lenient"), "{lenient}");
}
