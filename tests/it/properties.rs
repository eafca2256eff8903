//! Properties of `rondo::http` that hold for every message, tried on generated ones.
//!
//! Generators make messages from a description, so that the description says what must come out; mutated ones then
//! leave the valid path. What is forwarded is judged by `strict.rs` and by httparse, two readers that share no code
//! with each other. A failing input is printed smallest; it belongs into `tests/corpus`.

use kit::memory::{AUTHORITY, Asked, Outcome, REQUEST_ID, Requests, Response, Settings};
use kit::strict::{self, Framing, Message, Seen};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use rondo::http::{
    Decoder, Grammar, HeadLimits, RequestHead, ResponseHead, Step, encode_chunk, encode_end,
};

/// Fields that pass through: name and value, in order.
type Fields = Vec<(String, Vec<u8>)>;

/// A request as its sender meant it.
#[derive(Debug, Clone)]
struct Meant {
    method: String,
    target: String,
    host: String,
    fields: Fields,
    body: Content,
}

#[derive(Debug, Clone)]
enum Content {
    None,
    Length(Vec<u8>),
    /// Each chunk with its extension.
    Chunked(Vec<(Vec<u8>, String)>, Fields),
}

impl Content {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Content::None => Vec::new(),
            Content::Length(bytes) => bytes.clone(),
            Content::Chunked(chunks, _) => {
                chunks.iter().flat_map(|(data, _)| data.clone()).collect()
            }
        }
    }

    fn write_field(&self, out: &mut Vec<u8>) {
        match self {
            Content::None => {}
            Content::Length(bytes) => {
                out.extend(format!("Content-Length: {}\r\n", bytes.len()).bytes());
            }
            Content::Chunked(..) => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Content::None => {}
            Content::Length(bytes) => out.extend_from_slice(bytes),
            Content::Chunked(chunks, trailers) => {
                for (data, extension) in chunks {
                    out.extend(format!("{:x}{extension}\r\n", data.len()).bytes());
                    out.extend_from_slice(data);
                    out.extend_from_slice(b"\r\n");
                }
                out.extend_from_slice(b"0\r\n");
                write_fields(trailers, out);
                out.extend_from_slice(b"\r\n");
            }
        }
    }

    fn framing(&self) -> Framing {
        match self {
            Content::None => Framing::None,
            Content::Length(bytes) => Framing::Length(bytes.len() as u64),
            Content::Chunked(..) => Framing::Chunked,
        }
    }
}

impl Meant {
    fn bytes(&self) -> Vec<u8> {
        let mut out = format!(
            "{} {} HTTP/1.1\r\nHost: {}\r\n",
            self.method, self.target, self.host
        )
        .into_bytes();
        write_fields(&self.fields, &mut out);
        self.body.write_field(&mut out);
        out.extend_from_slice(b"\r\n");
        self.body.write(&mut out);
        out
    }
}

fn write_fields(fields: &Fields, out: &mut Vec<u8>) {
    for (name, value) in fields {
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value);
        out.extend_from_slice(b"\r\n");
    }
}

fn a_value() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![8 => b' '..=b'~', 1 => 0x80..=0xff_u8, 1 => Just(b'\t')];
    vec(byte, 0..40).prop_map(|value| trimmed(&value).to_vec())
}

fn trimmed(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// Fields with names that mean nothing to a proxy.
fn some_fields() -> impl Strategy<Value = Fields> {
    vec(("Y[!#$%&'*+.^_`|~0-9A-Za-z-]{0,20}", a_value()), 0..8)
}

fn some_content() -> impl Strategy<Value = Content> {
    let bytes = || vec(any::<u8>(), 0..300);
    let extension =
        select(vec!["", ";a", ";a=b", " ; a = \"b;\\\"c\"", ";a;b=c"]).prop_map(str::to_owned);
    let chunk = (vec(any::<u8>(), 1..60), extension);
    prop_oneof![
        Just(Content::None),
        bytes().prop_map(Content::Length),
        (vec(chunk, 0..6), some_fields())
            .prop_map(|(chunks, trailers)| Content::Chunked(chunks, trailers)),
    ]
}

fn a_request() -> impl Strategy<Value = Meant> {
    let method =
        "[!#$%&'*+.^_`|~0-9A-Za-z-]{1,10}".prop_filter("CONNECT is refused", |m| m != "CONNECT");
    let target = "/[!-\"$-~]{0,60}";
    let host = "[a-z0-9][a-z0-9.-]{0,20}(:[0-9]{1,4})?";
    (method, target, host, some_fields(), some_content()).prop_map(
        |(method, target, host, fields, body)| Meant {
            method,
            target,
            host,
            fields,
            body,
        },
    )
}

/// Bytes that are nearly a message: a valid one with some bytes changed, lost or added.
fn damaged(message: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let spice = select(b"\r\n \t:;,\0\x0b0159aAfFxX\"\x80\xff-+".to_vec());
    let change = (any::<Index>(), 0..4, prop_oneof![spice, any::<u8>()]);
    (message, vec(change, 0..4)).prop_map(|(mut bytes, changes)| {
        for (place, kind, byte) in changes {
            if bytes.is_empty() {
                break;
            }
            let at = place.index(bytes.len());
            match kind {
                0 => bytes[at] = byte,
                1 => _ = bytes.remove(at),
                2 => bytes.insert(at, byte),
                _ => {
                    let line = bytes[at..].iter().take(40).copied().collect::<Vec<_>>();
                    bytes.splice(at..at, line);
                }
            }
        }
        bytes
    })
}

/// What a backend would send for a request like this.
fn a_response() -> impl Strategy<Value = (u16, Fields, Content)> {
    let status = prop_oneof![4 => 200..=999_u16, 1 => select(vec![204, 304])];
    (status, some_fields(), some_content())
}

fn response_bytes((status, fields, content): &(u16, Fields, Content)) -> Vec<u8> {
    let mut out = format!("HTTP/1.1 {status} Some Reason\r\n").into_bytes();
    write_fields(fields, &mut out);
    content.write_field(&mut out);
    out.extend_from_slice(b"\r\n");
    if !matches!(status, 204 | 304) {
        content.write(&mut out);
    }
    out
}

fn whole_request(bytes: &[u8]) -> Message {
    match strict::request(bytes) {
        Ok(Seen::Whole(message)) => message,
        other => panic!(
            "not a whole strict request: {other:?}\n{}",
            String::from_utf8_lossy(bytes)
        ),
    }
}

/// Names that a message gains here.
const ADDED: [&str; 7] = [
    "Date",
    "Host",
    "X-Forwarded-For",
    "X-Forwarded-Proto",
    "X-Forwarded-Host",
    "Via",
    "X-Request-Id",
];
const FRAMING: [&str; 2] = ["Content-Length", "Transfer-Encoding"];

fn passed_on(message: &Message) -> Fields {
    let ours = |name: &str| {
        ADDED
            .iter()
            .chain(&FRAMING)
            .any(|known| known.eq_ignore_ascii_case(name))
    };
    message
        .fields
        .iter()
        .map(|(name, value)| (String::from_utf8(name.clone()).unwrap(), value.clone()))
        .filter(|(name, _)| !ours(name))
        .collect()
}

/// httparse agrees with us about a head that we wrote.
fn httparse_accepts_request(bytes: &[u8], head_bytes: usize) {
    let mut slots = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut slots);
    let used = request
        .parse(bytes)
        .expect("httparse takes what we write")
        .unwrap();
    assert_eq!(used, head_bytes, "httparse ends the head elsewhere");
}

/// Every way to cut `bytes` that a test can afford: all two-part splits, and byte by byte.
fn cuts(bytes: &[u8]) -> impl Iterator<Item = Vec<&[u8]>> {
    let halves = (0..=bytes.len()).map(|at| {
        let (first, second) = bytes.split_at(at);
        vec![first, second]
    });
    halves.chain(std::iter::once(bytes.chunks(1).collect()))
}

fn requests<'a>(settings: &'a Settings, parts: &[&[u8]]) -> Requests<'a> {
    let mut requests = Requests::new(settings);
    for part in parts {
        requests.push(part);
    }
    requests
}

fn grammar(lenient: bool) -> Grammar {
    if lenient {
        Grammar::LenientResponse
    } else {
        Grammar::Response
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn a_request_that_is_parsed_forwarded_and_parsed_again_is_the_same(meant in a_request()) {
        let settings = Settings::default();
        let got = requests(&settings, &[&meant.bytes()]);
        prop_assert_eq!(got.refused, None);
        prop_assert_eq!(got.written.len(), 1);
        prop_assert!(got.left().is_empty());
        let once = whole_request(&got.written[0].bytes);
        httparse_accepts_request(&got.written[0].bytes, once.head_bytes);
        prop_assert_eq!(once.method(), meant.method.as_bytes());
        prop_assert_eq!(&once.start[1], meant.target.as_bytes());
        prop_assert_eq!(once.field("Host"), Some(meant.host.as_bytes()));
        prop_assert_eq!(once.field("X-Request-Id"), Some(REQUEST_ID));
        prop_assert_eq!(&passed_on(&once), &meant.fields);
        prop_assert_eq!(once.framing, meant.body.framing());
        prop_assert_eq!(&once.content, &meant.body.bytes());

        // A second proxy behind the first changes nothing but what each adds.
        let trusting = Settings { trusted: true, ..Settings::default() };
        let again = requests(&trusting, &[&got.written[0].bytes]);
        prop_assert_eq!(again.refused, None);
        let twice = whole_request(&again.written[0].bytes);
        prop_assert_eq!(&passed_on(&twice), &meant.fields);
        prop_assert_eq!(&twice.content, &meant.body.bytes());
        prop_assert_eq!(twice.field("X-Forwarded-For"), Some(b"127.0.0.1, 127.0.0.1".as_slice()));
        prop_assert_eq!(twice.all("Via").len(), 2);
    }

    #[test]
    fn a_response_that_is_parsed_forwarded_and_parsed_again_is_the_same(meant in a_response(), trailers: bool) {
        let settings = Settings::default();
        let asked = Asked { keep_alive: true, accepts_trailers: trailers, ..Asked::default() };
        let (status, fields, content) = &meant;
        let bytes = response_bytes(&meant);
        let mut got = Response::new(&settings, &asked);
        got.push(&bytes);
        let until_close = matches!(content, Content::None) && !matches!(status, 204 | 304);
        if until_close {
            prop_assert_eq!(got.outcome, None);
            got.end();
        }
        prop_assert_eq!(got.outcome, Some(Outcome::Whole { reuse: !until_close }));
        let once = strict::response(&got.written, false, false).unwrap().whole().unwrap();
        prop_assert_eq!(once.status(), *status);
        prop_assert_eq!(&once.start[2], b"Some Reason");
        prop_assert_eq!(passed_on(&once), fields.clone());
        prop_assert_eq!(once.total_bytes, got.written.len());
        let has_none = matches!(status, 204 | 304);
        prop_assert_eq!(&once.content, &if has_none { Vec::new() } else { content.bytes() });
        if let (Content::Chunked(_, sent), false) = (content, has_none) {
            let expected = if trailers { sent.clone() } else { Vec::new() };
            let got: Fields = once.trailers.iter().map(|(n, v)| (String::from_utf8(n.clone()).unwrap(), v.clone())).collect();
            prop_assert_eq!(got, expected);
        }
    }

    #[test]
    fn requests_on_one_connection_are_as_many_as_were_sent(meant in vec(a_request(), 1..5)) {
        let settings = Settings::default();
        let bytes: Vec<u8> = meant.iter().flat_map(Meant::bytes).collect();
        let got = requests(&settings, &[&bytes]);
        prop_assert_eq!(got.refused, None);
        prop_assert_eq!(got.written.len(), meant.len());
        for (written, meant) in got.written.iter().zip(&meant) {
            prop_assert_eq!(whole_request(&written.bytes).content, meant.body.bytes());
        }
    }

    #[test]
    fn any_split_of_a_damaged_request_gives_the_same(bytes in damaged(a_request().prop_map(|meant| meant.bytes()))) {
        let settings = Settings { limits: HeadLimits { head_bytes_max: 1024, fields_max: 10 }, ..Settings::default() };
        let whole = requests(&settings, &[&bytes]);
        for parts in cuts(&bytes) {
            let got = requests(&settings, &parts);
            prop_assert_eq!(got.refused, whole.refused);
            prop_assert_eq!(got.written.len(), whole.written.len());
            for (a, b) in got.written.iter().zip(&whole.written) {
                prop_assert_eq!(&a.bytes[..a.head_bytes], &b.bytes[..b.head_bytes]);
                prop_assert_eq!((&a.content, a.whole, &a.asked), (&b.content, b.whole, &b.asked));
            }
        }
    }

    #[test]
    fn what_is_forwarded_of_a_damaged_request_is_strictly_valid(bytes in damaged(a_request().prop_map(|meant| meant.bytes()))) {
        let settings = Settings::default();
        let got = requests(&settings, &[&bytes]);
        for written in &got.written {
            match strict::request(&written.bytes) {
                Ok(Seen::Whole(message)) => {
                    prop_assert!(written.whole);
                    prop_assert_eq!(message.total_bytes, written.bytes.len());
                    httparse_accepts_request(&written.bytes, message.head_bytes);
                }
                Ok(Seen::Part(Some(message))) => {
                    prop_assert!(!written.whole);
                    prop_assert_eq!(message.content, written.content.clone());
                }
                other => prop_assert!(false, "{:?}", other),
            }
        }
    }

    #[test]
    fn any_split_of_a_damaged_response_gives_the_same(
        bytes in damaged(a_response().prop_map(|meant| response_bytes(&meant))),
        is_head: bool, is_http10: bool, keep_alive: bool, accepts_trailers: bool, lenient: bool,
    ) {
        let limits = HeadLimits { head_bytes_max: 1024, fields_max: 10 };
        let settings = Settings { limits, grammar: grammar(lenient), ..Settings::default() };
        let asked = Asked { is_head, is_http10, keep_alive, accepts_trailers, offers: Vec::new() };
        let answer = |parts: &[&[u8]]| {
            let mut response = Response::new(&settings, &asked);
            for part in parts {
                response.push(part);
            }
            response.end();
            (response.outcome, response.started, response.heads, response.content)
        };
        let whole = answer(&[&bytes]);
        for parts in cuts(&bytes) {
            prop_assert_eq!(&answer(&parts), &whole);
        }
    }

    #[test]
    fn what_is_forwarded_of_a_damaged_response_is_strictly_valid(
        bytes in damaged(a_response().prop_map(|meant| response_bytes(&meant))),
        is_head: bool, is_http10: bool, keep_alive: bool, accepts_trailers: bool, lenient: bool,
    ) {
        let settings = Settings { grammar: grammar(lenient), ..Settings::default() };
        let asked = Asked { is_head, is_http10, keep_alive, accepts_trailers, offers: Vec::new() };
        let mut got = Response::new(&settings, &asked);
        got.push(&bytes);
        got.end();
        let mut rest = got.written.as_slice();
        while !rest.is_empty() {
            // Interim responses, then one final response, whole exactly if the exchange is.
            let whole = matches!(got.outcome, Some(Outcome::Whole { .. }));
            match strict::response(rest, is_head, whole) {
                Ok(Seen::Whole(message)) => {
                    rest = &rest[message.total_bytes..];
                    prop_assert!(rest.is_empty() || message.status() < 200);
                    prop_assert!(!rest.is_empty() || whole || message.status() < 200);
                }
                Ok(Seen::Part(Some(_))) => {
                    prop_assert!(!whole);
                    break;
                }
                other => prop_assert!(false, "{:?}", other),
            }
        }
    }

    #[test]
    fn the_head_ends_at_its_empty_line_whatever_follows(meant in a_request(), after in vec(any::<u8>(), 0..100)) {
        let bytes = meant.bytes();
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
        let input = [&bytes[..end], &after].concat();
        let mut head = RequestHead::default();
        prop_assert_eq!(head.take(&input, &Settings::default().limits), Ok(Some(end)));
        // One byte less is not enough.
        let mut head = RequestHead::default();
        prop_assert_eq!(head.take(&input[..end - 1], &Settings::default().limits), Ok(None));
    }

    #[test]
    fn a_response_head_ends_at_its_empty_line_whatever_follows(meant in a_response(), after in vec(any::<u8>(), 0..100)) {
        let bytes = response_bytes(&meant);
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
        let input = [&bytes[..end], &after].concat();
        let mut head = ResponseHead::default();
        prop_assert_eq!(head.take(&input, &Settings::default().limits), Ok(Some(end)));
        let mut head = ResponseHead::default();
        prop_assert_eq!(head.take(&input[..end - 1], &Settings::default().limits), Ok(None));
    }

    #[test]
    fn encoding_and_decoding_of_chunks_are_inverses(
        pieces in vec(vec(any::<u8>(), 0..200), 0..8),
        trailers in some_fields(),
        after in vec(any::<u8>(), 0..20),
        parts in vec(any::<Index>(), 0..6),
    ) {
        let mut coded = Vec::new();
        for piece in &pieces {
            encode_chunk(piece, &mut coded);
        }
        encode_end(trailers.iter().map(|(n, v)| (n.as_bytes(), v.as_slice())), &mut coded);
        let (end, content, read) = strict::chunks(&coded).unwrap();
        prop_assert_eq!(end, Some(coded.len()));
        prop_assert_eq!(&content, &pieces.concat());
        prop_assert_eq!(read.len(), trailers.len());

        // The same through the decoder, cut anywhere, with bytes behind that are not its business.
        let end = coded.len();
        coded.extend_from_slice(&after);
        let mut places: Vec<usize> = parts.iter().map(|index| index.index(coded.len() + 1)).collect();
        places.push(coded.len());
        places.sort_unstable();
        let mut decoder = Decoder::new(&Settings::default().limits);
        let (mut decoded, mut at, mut ended) = (Vec::new(), 0, false);
        'input: for place in places {
            while at < place {
                match decoder.decode(&coded[at..place]).unwrap() {
                    Step::Data { used, data } => {
                        decoded.extend_from_slice(data);
                        at += used;
                    }
                    Step::More { used } => {
                        at += used;
                        prop_assert_eq!(at, place);
                    }
                    Step::End { used } => {
                        at += used;
                        ended = true;
                        break 'input;
                    }
                }
            }
        }
        prop_assert!(ended);
        prop_assert_eq!(at, end);
        prop_assert_eq!(decoded, pieces.concat());
        let read: Fields =
            decoder.trailers().map(|(n, v)| (String::from_utf8(n.to_vec()).unwrap(), v.to_vec())).collect();
        prop_assert_eq!(read, trailers);
    }

    #[test]
    fn arbitrary_bytes_are_taken_without_a_panic_and_refused_or_forwarded_validly(bytes in vec(any::<u8>(), 0..200)) {
        let settings = Settings::default();
        let got = requests(&settings, &[&bytes]);
        prop_assert!(got.written.iter().all(|written| strict::request(&written.bytes).is_ok()));
        let asked = Asked::default();
        let mut response = Response::new(&settings, &asked);
        response.push(&bytes);
        response.end();
        let mut decoder = Decoder::new(&settings.limits);
        let mut at = 0;
        while let Ok(Step::Data { used, .. }) = decoder.decode(&bytes[at..]) {
            at += used;
        }
    }
}

#[test]
fn a_request_without_host_goes_to_the_backends_own_authority() {
    let settings = Settings::default();
    let got = requests(&settings, &[b"GET / HTTP/1.0\r\n\r\n"]);
    assert_eq!(
        whole_request(&got.written[0].bytes).field("Host"),
        Some(AUTHORITY)
    );
}
