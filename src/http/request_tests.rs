//! The rules for request heads, each with what keeps it and what breaks it.

use crate::http::request::*;

const LIMITS: HeadLimits = HeadLimits {
    head_bytes_max: 16384,
    fields_max: 100,
};

pub(super) fn take(input: impl AsRef<[u8]>) -> Result<RequestHead, HeadError> {
    let mut head = RequestHead::default();
    match head.take(input.as_ref(), &LIMITS)? {
        Some(used) => assert_eq!(used, input.as_ref().len(), "the whole input is the head"),
        None => panic!(
            "incomplete: {:?}",
            input.as_ref().escape_ascii().to_string()
        ),
    }
    Ok(head)
}

/// A request for `/` with these lines beside Host.
pub(super) fn with(lines: &str) -> Result<RequestHead, HeadError> {
    take(format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n"))
}

pub(super) fn status(input: impl AsRef<[u8]>) -> u16 {
    take(input).map_or_else(|error| error.status(), |_| 200)
}

pub(super) fn status_with(lines: &str) -> u16 {
    with(lines).map_or_else(|error| error.status(), |_| 200)
}

/// The same for a request line, with Host where HTTP/1.1 needs it.
pub(super) fn status_of_line(line: impl AsRef<[u8]>) -> u16 {
    status([line.as_ref(), b"\r\nHost: a\r\n\r\n"].concat())
}

pub(super) fn target(line: &str) -> String {
    let head = take(format!("{line}\r\nHost: a\r\n\r\n")).unwrap();
    String::from_utf8(head.target().to_vec()).unwrap()
}

#[test]
fn a_plain_request_is_understood() {
    let head =
        take("POST /a%20b?c=d%zz HTTP/1.1\r\nHost: Example.com:8080\r\nX: \t y z \t\r\nX:\r\n\r\n")
            .unwrap();
    assert_eq!(head.request_line(), b"POST /a%20b?c=d%zz HTTP/1.1");
    assert_eq!(head.method(), b"POST");
    assert_eq!(head.target(), b"/a%20b?c=d%zz");
    assert_eq!(head.version(), Version::Http11);
    assert_eq!(head.host(), Some(&b"Example.com:8080"[..]));
    let fields: Vec<_> = head.fields().collect();
    assert_eq!(
        fields,
        [
            (&b"Host"[..], &b"Example.com:8080"[..]),
            (b"X", b"y z"),
            (b"X", b"")
        ]
    );
    assert_eq!(head.body(), Body::None);
    assert!(head.keep_alive() && !head.is_idempotent() && !head.is_head());
}

#[test]
fn bytes_after_the_head_stay_where_they_are() {
    let mut head = RequestHead::default();
    let input = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /2";
    assert_eq!(head.take(input, &LIMITS), Ok(Some(input.len() - 6)));
    assert_eq!(
        head.take(&input[input.len() - 6..], &LIMITS),
        Ok(None),
        "cleared by itself"
    );
    assert_eq!(head.request_line(), b"GET /2");
}

#[test]
fn the_request_line_is_three_parts_with_single_spaces() {
    assert_eq!(status_of_line("GET / HTTP/1.1"), 200);
    for line in [
        " GET / HTTP/1.1",
        "GET  / HTTP/1.1",
        "GET /  HTTP/1.1",
        "GET / HTTP/1.1 ",
        "GET /a b HTTP/1.1",
        "GET\t/ HTTP/1.1",
        "GET /\tHTTP/1.1",
        "GET / HTTP/1.1\t",
        "GET /",
        "GET",
        "/ HTTP/1.1",
        "GET HTTP/1.1",
        " / HTTP/1.1",
        "GE(T / HTTP/1.1",
        "GET: / HTTP/1.1",
        "\"GET\" / HTTP/1.1",
        "G\u{c9}T / HTTP/1.1",
    ] {
        assert_eq!(status_of_line(line), 400, "{line:?}");
    }
}

#[test]
fn any_token_is_a_method() {
    for method in ["get", "M-SEARCH", "x!#$%&'*+-.^_`|~9", "PROPFIND"] {
        let head = take(format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n")).unwrap();
        assert_eq!(head.method(), method.as_bytes());
        assert!(!head.is_idempotent());
    }
    for method in ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE"] {
        let head = take(format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n")).unwrap();
        assert!(head.is_idempotent());
        assert_eq!(head.is_head(), method == "HEAD");
    }
}

#[test]
fn a_minor_version_is_read_as_one_and_another_major_version_refused() {
    for (version, expected) in [
        ("HTTP/1.0", 200),
        ("HTTP/1.1", 200),
        ("HTTP/1.2", 200),
        ("HTTP/1.9", 200),
        ("HTTP/0.9", 505),
        ("HTTP/2.0", 505),
        ("HTTP/3.0", 505),
        ("HTTP/9.9", 505),
        ("HTTP/2", 400),
        ("HTTP/1", 400),
        ("HTTP/1.", 400),
        ("HTTP/.1", 400),
        ("HTTP/1.10", 400),
        ("HTTP/11.1", 400),
        ("HTTP/01.1", 400),
        ("HTTP/1,1", 400),
        ("HTTP/1.x", 400),
        ("HTTP/+1.1", 400),
        ("HTTP 1.1", 400),
        ("http/1.1", 400),
        ("Http/1.1", 400),
        ("HTTPS/1.1", 400),
        ("HTTP/1.1\u{e9}", 400),
        ("", 400),
    ] {
        assert_eq!(
            status_of_line(format!("GET / {version}")),
            expected,
            "{version:?}"
        );
    }
    let head = take("GET / HTTP/1.7\r\nHost: a\r\n\r\n").unwrap();
    assert_eq!(head.version(), Version::Http11);
    assert!(
        take("GET / HTTP/1.7\r\n\r\n").is_err(),
        "HTTP/1.7 needs Host as HTTP/1.1 does"
    );
}

#[test]
fn the_http2_preface_is_answered_at_its_first_line() {
    let mut head = RequestHead::default();
    assert_eq!(
        head.take(b"PRI * HTTP/2.0\r\n", &LIMITS),
        Err(HeadError::Version)
    );
    assert_eq!(status("PRI * HTTP/2.0\r\n\r\n"), 505);
}

#[test]
fn what_is_not_http_is_refused_at_its_first_wrong_byte() {
    for (input, expected) in [
        (&b"\x16"[..], 400),
        (b"\0", 400),
        (b"{", 400),
        (b"\n", 400),
        (b"\rG", 400),
        (b" ", 400),
        (b"GE\r", 400),
        (b"GET /\0", 400),
        (b"GET / HTTP/1.1\n", 400),
        (b"GET / HTTP/1.1\rX", 400),
        (b"GET / HTTP/1.2\r\n: a\r\n", 400),
        (b"GET / HTTP/3.0\r\n", 505),
        (b"GET / HTTP/1.1\r\n folded\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\x7f", 400),
    ] {
        let mut head = RequestHead::default();
        let error = head.take(input, &LIMITS).unwrap_err();
        assert_eq!(error.status(), expected, "{}", input.escape_ascii());
        assert_eq!(
            head.take(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", &LIMITS),
            Err(error),
            "it stays"
        );
        assert_eq!(
            RequestHead::default().take(&input[..input.len() - 1], &LIMITS),
            Ok(None)
        );
    }
}

#[test]
fn every_line_ends_in_crlf() {
    let good = "GET / HTTP/1.1\r\nHost: a\r\nX: b\r\nY:\r\n\r\n";
    assert_eq!(status(good), 200);
    for (at, _) in good.match_indices("\r\n") {
        for wrong in ["\n", "\r", "\n\r", "\r\r\n", " \n"] {
            let mut bad = good.to_owned();
            bad.replace_range(at..at + 2, wrong);
            // What a lenient reader would take for more of the head.
            bad.push_str("Z: z\r\n\r\n");
            assert_eq!(status_or_incomplete(&bad), 400, "{bad:?}");
        }
    }
}

fn status_or_incomplete(input: &str) -> u16 {
    match RequestHead::default().take(input.as_bytes(), &LIMITS) {
        Ok(Some(_)) => 200,
        Ok(None) => 0,
        Err(error) => error.status(),
    }
}

#[test]
fn controls_are_refused_wherever_they_stand() {
    for byte in (0..0x20)
        .chain([0x7f])
        .filter(|byte| !b"\t\r\n".contains(byte))
    {
        for head in [
            &b"G?T / HTTP/1.1\r\nHost: a\r\n\r\n"[..],
            b"GET /? HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET / HTTP/1.?\r\nHost: a\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a?\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nX?: b\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nX: ?b\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nX: b?\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n?\r\n\r\n",
        ] {
            let head: Vec<u8> = head
                .iter()
                .map(|b| if *b == b'?' { byte } else { *b })
                .collect();
            assert_eq!(status(&head), 400, "{}", head.escape_ascii());
        }
    }
}

#[test]
fn the_target_is_visible_ascii() {
    for byte in 0x80..=0xff_u8 {
        assert_eq!(
            status_of_line([b"GET /", &[byte][..], b" HTTP/1.1"].concat()),
            400
        );
    }
    assert_eq!(
        status_of_line("GET /\u{e9} HTTP/1.1"),
        400,
        "valid UTF-8 as well"
    );
    let visible: String = ('!'..='~').filter(|c| *c != '#').collect();
    assert_eq!(
        target(&format!("GET /{visible} HTTP/1.1")),
        format!("/{visible}")
    );
    assert_eq!(target("GET //../%2e%2E/%zz% HTTP/1.1"), "//../%2e%2E/%zz%");
}

#[test]
fn a_fragment_is_cut_off() {
    assert_eq!(target("GET /a?b#c?d#e HTTP/1.1"), "/a?b");
    assert_eq!(target("GET /# HTTP/1.1"), "/");
    assert_eq!(target("GET http://h#x/y HTTP/1.1"), "/");
    assert_eq!(status_of_line("GET #a HTTP/1.1"), 400);
    assert_eq!(status_of_line("OPTIONS *#a HTTP/1.1"), 400);
    assert_eq!(status_of_line("GET http://#/ HTTP/1.1"), 400);
}

#[test]
fn an_absolute_target_gives_its_authority_to_host() {
    let head = take("GET HTTP://H.example:81/p?q HTTP/1.1\r\nHost: other\r\n\r\n").unwrap();
    assert_eq!(head.host(), Some(&b"H.example:81"[..]));
    assert_eq!(head.target(), b"/p?q");
    assert_eq!(head.request_line(), b"GET HTTP://H.example:81/p?q HTTP/1.1");
    assert_eq!(target("GET https://h HTTP/1.1"), "/");
    assert_eq!(target("GET http://h?q/r HTTP/1.1"), "/?q/r");
    assert_eq!(target("GET http://h/ HTTP/1.1"), "/");
    assert_eq!(target("GET http://h//x HTTP/1.1"), "//x");
    for wrong in [
        "http://",
        "http:///p",
        "http://?q",
        "http://u@h/",
        "http://u:p@h/",
        "http://h:x/",
        "http://h:65536/",
        "http://[::1/",
        "http://a b/",
        "http:/h/",
        "http:h",
        "ftp://h/",
        "ws://h/",
        "h/p",
        "h",
        "h:80",
        "?q",
        "://h/",
    ] {
        assert_eq!(
            status_of_line(format!("GET {wrong} HTTP/1.1")),
            400,
            "{wrong:?}"
        );
    }
}

#[test]
fn an_absolute_target_does_not_replace_a_valid_host_field() {
    assert_eq!(status("GET http://h/ HTTP/1.1\r\n\r\n"), 400);
    assert_eq!(
        status("GET http://h/ HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"),
        400
    );
    assert_eq!(status("GET http://h/ HTTP/1.1\r\nHost: a b\r\n\r\n"), 400);
    assert_eq!(status("GET http://h/ HTTP/1.1\r\nHost:\r\n\r\n"), 200);
    assert_eq!(status("GET http://h/ HTTP/1.0\r\n\r\n"), 200);
}

#[test]
fn an_asterisk_is_for_options_only() {
    assert_eq!(target("OPTIONS * HTTP/1.1"), "*");
    assert_eq!(target("OPTIONS http://h HTTP/1.1"), "*");
    assert_eq!(target("OPTIONS http://h/ HTTP/1.1"), "/");
    assert_eq!(target("OPTIONS http://h?q HTTP/1.1"), "/?q");
    assert_eq!(target("OPTIONS /x HTTP/1.1"), "/x");
    for line in [
        "GET * HTTP/1.1",
        "options * HTTP/1.1",
        "OPTIONS ** HTTP/1.1",
        "OPTIONS *?q HTTP/1.1",
    ] {
        assert_eq!(status_of_line(line), 400, "{line}");
    }
}

#[test]
fn connect_is_not_implemented() {
    assert_eq!(status_of_line("CONNECT a:443 HTTP/1.1"), 501);
    assert_eq!(status_of_line("CONNECT / HTTP/1.1"), 501);
    assert_eq!(status_of_line("CONNECT a:443 HTTP/1.0"), 501);
    assert_eq!(
        status_of_line("connect a:443 HTTP/1.1"),
        400,
        "another method, with no right to this target"
    );
}

#[test]
fn field_names_are_tokens_right_before_their_colon() {
    for line in [
        "X : y",
        "X\t: y",
        ": y",
        " X: y",
        "\tX: y",
        "X",
        "X y",
        "X y: z",
        "(X): y",
        "X\u{e9}: y",
        "X;: y",
        "\"X\": y",
        "X/Y: z",
        "X@: z",
        "X: y\r\n folded",
        "X: y\r\n\tfolded",
        "X: y\r\n ",
        "X: y\r\n :",
        "Content-Length : 5",
        "Transfer-Encoding\t: chunked",
    ] {
        assert_eq!(status_with(line), 400, "{line:?}");
    }
    assert_eq!(status("GET / HTTP/1.1\r\n Host: a\r\n\r\n"), 400);
    assert_eq!(status("GET / HTTP/1.1\r\n\tX: y\r\nHost: a\r\n\r\n"), 400);
    let head = with("!#$%&'*+-.^_`|~09azAZ: y:z").unwrap();
    assert_eq!(
        head.fields().nth(1).unwrap(),
        (&b"!#$%&'*+-.^_`|~09azAZ"[..], &b"y:z"[..])
    );
}

#[test]
fn field_values_keep_every_byte_that_is_no_control() {
    let value: Vec<u8> = (0x21..=0x7e).chain(*b"\t ").chain(0x80..=0xff).collect();
    let head = take(
        [
            b"GET / HTTP/1.1\r\nHost: a\r\nX:",
            &value[..],
            b" \t\r\n\r\n",
        ]
        .concat(),
    )
    .unwrap();
    assert_eq!(head.fields().nth(1).unwrap().1, value);
}

#[test]
fn some_empty_lines_before_a_request_are_skipped() {
    let request = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let head = take(format!("\r\n\r\n{request}")).unwrap();
    assert_eq!(head.request_line(), b"GET / HTTP/1.1");
    assert_eq!(status(format!("{}{request}", "\r\n".repeat(4))), 200);
    assert_eq!(status(format!("{}{request}", "\r\n".repeat(5))), 400);
    for wrong in [
        "\n",
        "\r",
        "\r\r\n",
        "\n\r\n",
        " \r\n",
        "\r\n\n",
        "\r\n \r\n",
    ] {
        assert_eq!(status(format!("{wrong}{request}")), 400, "{wrong:?}");
    }
    assert_eq!(
        RequestHead::default().take(b"\r\n\r\n\r", &LIMITS),
        Ok(None)
    );
}

#[test]
fn limits_hold_to_the_byte() {
    let small = HeadLimits {
        head_bytes_max: 64,
        fields_max: 3,
    };
    let take = |input: &[u8]| RequestHead::default().take(input, &small);
    let fill = |prefix: &str, len: usize| {
        let mut head = prefix.to_owned();
        head.push_str(&"x".repeat(len - prefix.len() - 4));
        head + "\r\n\r\n"
    };
    let fields = "GET / HTTP/1.1\r\nHost: a\r\nX: ";
    assert_eq!(take(fill(fields, 64).as_bytes()), Ok(Some(64)));
    assert_eq!(take(fill(fields, 65).as_bytes()), Err(HeadError::TooLong));
    assert_eq!(
        take(&fill(fields, 100).as_bytes()[..64]),
        Err(HeadError::TooLong)
    );
    assert_eq!(take(&fill(fields, 100).as_bytes()[..63]), Ok(None));
    let line = format!("GET /{}", "x".repeat(100));
    assert_eq!(take(&line.as_bytes()[..63]), Ok(None));
    assert_eq!(
        take(&line.as_bytes()[..64]),
        Err(HeadError::RequestLineTooLong)
    );
    assert_eq!(take(line.as_bytes()), Err(HeadError::RequestLineTooLong));
    assert_eq!(
        take("X".repeat(64).as_bytes()),
        Err(HeadError::RequestLineTooLong),
        "a method without end"
    );
    // Empty lines before it do not count.
    assert_eq!(
        take(format!("\r\n\r\n{}", fill(fields, 64)).as_bytes()),
        Ok(Some(68))
    );

    let three = b"GET / HTTP/1.1\r\nHost: a\r\nA:\r\nB:\r\n\r\n";
    assert_eq!(take(three), Ok(Some(three.len())));
    let four = b"GET / HTTP/1.1\r\nHost: a\r\nA:\r\nB:\r\nC:\r\n\r\n";
    assert_eq!(take(four), Err(HeadError::TooManyFields));
    assert_eq!(
        take(&four[..four.len() - 2]),
        Err(HeadError::TooManyFields),
        "as soon as it is there"
    );
}

#[test]
fn more_fields_than_fit_in_one_go_are_taken_as_well() {
    let limits = HeadLimits {
        head_bytes_max: 1 << 20,
        fields_max: 1000,
    };
    for count in [FIELDS_AT_ONCE - 1, FIELDS_AT_ONCE, FIELDS_AT_ONCE + 1, 1000] {
        let input = format!(
            "GET / HTTP/1.1\r\nHost: a\r\n{}\r\n",
            "X: y\r\n".repeat(count - 1)
        );
        let mut head = RequestHead::default();
        assert_eq!(head.take(input.as_bytes(), &limits), Ok(Some(input.len())));
        assert_eq!(head.fields().count(), count);
    }
}

#[test]
fn the_log_has_the_request_line_of_a_refused_or_unfinished_head() {
    let mut head = RequestHead::default();
    assert_eq!(head.request_line(), b"");
    for (input, line) in [
        (&b"\r\n"[..], &b""[..]),
        (b"\r\nGE", b"GE"),
        (b"\r\nGET /a HTTP/1.1\r", b"GET /a HTTP/1.1"),
        (b"\r\nGET /a HTTP/1.1\r\nX", b"GET /a HTTP/1.1"),
        (b"\r\nGET /a HTTP/1.1\r\nX: y\r\n", b"GET /a HTTP/1.1"),
    ] {
        assert_eq!(head.take(input, &LIMITS), Ok(None));
        assert_eq!(head.request_line(), line);
        assert_eq!(
            (head.fields().count(), head.host(), head.target()),
            (0, None, &b""[..])
        );
    }
    assert!(
        head.take(b"\r\nGET /a HTTP/1.1\r\nX: y\r\n\r\n", &LIMITS)
            .is_err(),
        "no Host"
    );
    assert_eq!(head.request_line(), b"GET /a HTTP/1.1");
    assert_eq!((head.method(), head.fields().count()), (&b"GET"[..], 0));

    let long = format!("HEAD /{} HTTP/1.1\r\n", "x".repeat(5000));
    head.clear();
    assert_eq!(head.take(long.as_bytes(), &LIMITS), Ok(None));
    assert_eq!(head.request_line(), &long.as_bytes()[..1024]);
    let whole = long.clone() + "Host: a\r\n\r\n";
    assert_eq!(head.take(whole.as_bytes(), &LIMITS), Ok(Some(whole.len())));
    assert_eq!(head.request_line(), long.trim_end().as_bytes());
    head.clear();
    assert_eq!(
        head.take((long + "\r\n").as_bytes(), &LIMITS)
            .unwrap_err()
            .status(),
        400
    );
    assert!(head.is_head() && head.request_line().len() == 1024);
}

#[test]
fn clearing_keeps_ordinary_memory_and_gives_back_the_rest() {
    let mut head = RequestHead::default();
    let input = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    head.take(input.as_bytes(), &LIMITS).unwrap();
    let kept = (
        head.reader.head.bytes.capacity(),
        head.reader.head.fields.capacity(),
    );
    head.clear();
    assert_eq!(
        (
            head.reader.head.bytes.capacity(),
            head.reader.head.fields.capacity()
        ),
        kept
    );
    assert_eq!(
        (head.method(), head.target(), head.host()),
        (&b""[..], &b""[..], None)
    );
    head.take(input.as_bytes(), &LIMITS).unwrap();
    assert_eq!(
        (
            head.reader.head.bytes.capacity(),
            head.reader.head.fields.capacity()
        ),
        kept
    );
    head.clear();
    let large = format!(
        "GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n",
        "x".repeat(10_000)
    );
    head.take(large.as_bytes(), &LIMITS).unwrap();
    head.clear();
    assert_eq!(head.reader.head.bytes.capacity(), 0);
}

#[test]
fn an_ordinary_head_is_taken_in_one_go() {
    let take_whole = |head: &mut RequestHead, input: &[u8]| {
        let HeadReader { head, facts, .. } = &mut head.reader;
        facts.take_whole(head, input, &LIMITS)
    };
    let input = b"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\nZ:\r\n\r\nrest";
    let mut head = RequestHead::default();
    assert_eq!(take_whole(&mut head, input), Some(input.len() - 4));
    for other in [
        &b"GET / HTTP/1.1\nHost: a\r\n\r\n"[..],
        b"GET / HTTP/1.1\r\nHost: a\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n\n",
        b"GET / HTTP/1.1\n\n",
        b"GET / HTTP/1.1\r\n\n",
        b"GET /\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        let mut head = RequestHead::default();
        assert_eq!(
            take_whole(&mut head, other),
            None,
            "{}",
            other.escape_ascii()
        );
        assert_eq!(
            (head.reader.head.bytes.len(), head.reader.head.fields.len()),
            (0, 0),
            "nothing is left of it"
        );
    }
}

#[test]
fn an_error_says_what_is_wrong() {
    for (input, reason) in [
        ("\nGET", "bare LF"),
        ("\rGET", "bare CR"),
        (
            "\r\n\r\n\r\n\r\n\r\n",
            "too many empty lines before the request",
        ),
        ("GET / HTTP/1.1\nX", "bare LF"),
        ("GET / HTTP/1.1\rX", "bare CR"),
        ("GET / HTTP/1.1\r\nA\0", "control character"),
        ("GET / HTTP/2.0\r\n", "HTTP major version is not 1"),
        (
            "GET / HTTP/1.1\r\n A: b\r\n",
            "white space before a field name",
        ),
        ("GET / HTTP/1.1\r\nA : b\r\n", "invalid field name"),
        ("GET / HTTP/1.1\r\n\r\n", "missing Host"),
        ("CONNECT a HTTP/1.1\r\n\r\n", "CONNECT"),
    ] {
        let error = RequestHead::default()
            .take(input.as_bytes(), &LIMITS)
            .unwrap_err();
        assert_eq!(
            (error.reason(), error.to_string().as_str()),
            (reason, reason)
        );
    }
}
