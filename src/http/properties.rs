//! What holds for every input: nothing panics, how the input is cut changes nothing, and what is
//! written is read again as what it was.

use crate::http::{
    Body, ClientConnection, Decoder, Grammar, HeadError, HeadLimits, RequestForwarding,
    RequestHead, ResponseForwarding, ResponseHead, Scheme, Step, encode_chunk, encode_end,
    write_request, write_response,
};
use proptest::collection::vec;
use proptest::prelude::*;
use std::fmt::Debug;

/// Small enough to be met.
const LIMITS: HeadLimits = HeadLimits {
    head_bytes_max: 300,
    fields_max: 8,
};

/// Everything that is known about a head, to compare it.
type Facts = (usize, Vec<u8>, Vec<(Vec<u8>, Vec<u8>)>, String);

fn owned<'a>(fields: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Vec<(Vec<u8>, Vec<u8>)> {
    fields
        .map(|(name, value)| (name.to_vec(), value.to_vec()))
        .collect()
}

fn how(head: &RequestHead) -> RequestForwarding<'_> {
    RequestForwarding {
        peer: "10.1.2.3".parse().unwrap(),
        trusted: false,
        scheme: Scheme::Http,
        via: true,
        base_path: b"/base",
        authority: b"backend",
        request_id: head.request_id().unwrap_or(b"new-id"),
    }
}

/// Offers `input` up to each of `cuts` and then whole.
fn take_request(
    head: &mut RequestHead,
    input: &[u8],
    cuts: &[usize],
) -> Result<Option<Facts>, HeadError> {
    head.clear();
    for cut in cuts.iter().chain([&input.len()]) {
        if let Some(used) = head.take(&input[..*cut], &LIMITS)? {
            assert!(used <= *cut);
            let mut out = Vec::new();
            write_request(head, &how(head), &mut out);
            let facts = format!(
                "{:?} {:?} {:?} {:?} {:?} {:?}",
                head.target(),
                head.version(),
                head.host(),
                head.body(),
                (
                    head.keep_alive(),
                    head.expects_continue(),
                    head.upgrade(),
                    head.accepts_trailers()
                ),
                (head.request_id(), head.request_line(), head.method()),
            );
            return Ok(Some((used, out, owned(head.fields()), facts)));
        }
    }
    Ok(None)
}

fn take_response(
    head: &mut ResponseHead,
    input: &[u8],
    cuts: &[usize],
) -> Result<Option<Facts>, HeadError> {
    take_response_as(head, input, cuts, Grammar::Response)
}

fn take_response_as(
    head: &mut ResponseHead,
    input: &[u8],
    cuts: &[usize],
    grammar: Grammar,
) -> Result<Option<Facts>, HeadError> {
    head.clear();
    for cut in cuts.iter().chain([&input.len()]) {
        if let Some(used) = head.take_as(&input[..*cut], &LIMITS, grammar)? {
            assert!(used <= *cut);
            let mut out = Vec::new();
            write_response(head, &plain(head.body(false)), &mut out);
            let facts = format!(
                "{:?} {:?} {:?} {:?} {:?}",
                head.status(),
                head.reason(),
                head.version(),
                (head.body(false), head.body(true), head.content_length()),
                (head.keep_alive(), head.is_interim(), head.upgrade()),
            );
            return Ok(Some((used, out, owned(head.fields()), facts)));
        }
    }
    Ok(None)
}

fn plain(body: Body) -> ResponseForwarding<'static> {
    ResponseForwarding {
        body,
        keep_length_field: true,
        connection: ClientConnection::KeepAlive,
        set_cookie: None,
        date: None,
        trailers: true,
    }
}

/// The same result for the whole input, byte by byte, and in two or three parts; and for no more
/// than the head.
fn cutting_changes_nothing<T: Debug + PartialEq>(
    input: &[u8],
    cuts: &[usize],
    mut take: impl FnMut(&[u8], &[usize]) -> Result<Option<T>, HeadError>,
    used: impl Fn(&T) -> usize,
) {
    let whole = take(input, &[]);
    let every: Vec<usize> = (0..input.len()).collect();
    assert_eq!(take(input, &every), whole, "byte by byte");
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (input.len() + 1)).collect();
    cuts.sort_unstable();
    assert_eq!(take(input, &cuts), whole, "cut at {cuts:?}");
    if let Ok(Some(facts)) = &whole {
        let used = used(facts);
        assert_eq!(
            take(&input[..used], &[]).as_ref(),
            Ok(&Some(whole.unwrap().unwrap()))
        );
        assert_eq!(
            take(&input[..used - 1], &[]),
            Ok(None),
            "the head has no byte too many"
        );
    }
}

/// Pieces of which some are wrong and some only in some places.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let pieces: &[&[u8]] = &[
        b"\r\n",
        b"\r\n",
        b"\r\n",
        b"\n",
        b"\r",
        b"\r\n ",
        b" ",
        b"\t",
        b":",
        b": ",
        b",",
        b";",
        b"\0",
        b"\x7f",
        b"\x80",
        b"\xc3\xa9",
        b"\"",
        b"=",
        b"#",
        b"?",
        b"/",
        b"*",
        b"http://",
        b"GET ",
        b"POST ",
        b"OPTIONS * ",
        b" HTTP/1.1\r\n",
        b" HTTP/1.0\r\n",
        b" HTTP/1.2\r\n",
        b" HTTP/2.0\r\n",
        b"HTTP/1.1 ",
        b"Host: a\r\n",
        b"Host: ",
        b"Host : a\r\n",
        b"Content-Length: 5\r\n",
        b"Content-Length: ",
        b"Transfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: ",
        b"chunked",
        b"gzip, ",
        b"5",
        b"6",
        b"+",
        b"Connection: ",
        b"close",
        b"keep-alive",
        b"Upgrade",
        b"Upgrade: websocket\r\n",
        b"h2c",
        b"TE: trailers\r\n",
        b"Expect: 100-continue\r\n",
        b"X-Forwarded-For: 1\r\n",
        b"X_Forwarded_For: 1\r\n",
        b"Via: 1.1 x\r\n",
        b"X-Request-Id: x\r\n",
        b"x: y\r\n",
        b"x:\r\n",
        b"x",
        b"200 OK\r\n",
        b"101",
        b"204",
        b"304 ",
        b"\r\n\r\n",
    ];
    prop_oneof![
        8 => proptest::sample::select(pieces).prop_map(<[u8]>::to_vec),
        1 => vec(any::<u8>(), 0..3),
    ]
}

/// A field line that is right in itself.
fn line() -> impl Strategy<Value = Vec<u8>> {
    let names: &[&str] = &[
        "Host",
        "Content-Length",
        "Transfer-Encoding",
        "transfer-encoding",
        "Connection",
        "connection",
        "Upgrade",
        "TE",
        "Expect",
        "X-Request-Id",
        "Trailer",
        "X-Forwarded-For",
        "X_Forwarded_For",
        "Via",
        "Cookie",
        "Keep-Alive",
        "X-A",
        "HTTP2-Settings",
    ];
    let values: &[&[u8]] = &[
        b"",
        b"a",
        b"a:80",
        b"5",
        b"5",
        b"05",
        b"5, 5",
        b"6",
        b"chunked",
        b"chunked",
        b"gzip",
        b"gzip, chunked",
        b",",
        b", ",
        b"close",
        b"keep-alive",
        b"upgrade",
        b"websocket",
        b"h2c",
        b"trailers",
        b"100-continue",
        b"x-a",
        b"host",
        b"content-length",
        b"\t",
        b"x=y; rondo=z",
        b"\xe9",
    ];
    let value = vec(proptest::sample::select(values), 1..3);
    (proptest::sample::select(names), value).prop_map(|(name, value)| {
        let line = [name.as_bytes(), b": ", &value.concat(), b"\r\n"];
        line.concat()
    })
}

/// A head that is right but for what some of its pieces make wrong.
fn head_like(first: &'static [&'static [u8]]) -> impl Strategy<Value = Vec<u8>> {
    let first = proptest::sample::select(first);
    let part = prop_oneof![12 => line(), 1 => piece()];
    let broken = (first.clone(), vec(piece(), 0..12))
        .prop_map(|(first, pieces)| [first, &pieces.concat()].concat());
    let mostly_right =
        (first, vec(part, 0..6)).prop_map(|(first, parts)| [first, &parts.concat()].concat());
    let ends: &[&[u8]] = &[b"\r\n", b"\r\n\r\n", b""];
    let end = proptest::sample::select(ends);
    (
        prop_oneof![1 => broken, 3 => mostly_right],
        end,
        vec(any::<u8>(), 0..4),
    )
        .prop_map(|(head, end, rest)| [&head, end, &rest].concat())
}

const REQUESTS: &[&[u8]] = &[
    b"",
    b"\r\n",
    b"GET / HTTP/1.1\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\n",
    b"POST http://b?c HTTP/1.1\r\nHost: a\r\n",
    b"OPTIONS * HTTP/1.0\r\n",
];

const RESPONSES: &[&[u8]] = &[
    b"",
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.0 304\r\n",
    b"HTTP/1.1 ",
    b"HTTP/1.1 101 \r\n",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 5_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn how_a_request_is_cut_changes_nothing(
        input in head_like(REQUESTS),
        cuts in vec(any::<usize>(), 1..3),
    ) {
        let mut head = RequestHead::default();
        cutting_changes_nothing(&input, &cuts, |input, cuts| take_request(&mut head, input, cuts), |facts| facts.0);
    }

    #[test]
    fn how_a_response_is_cut_changes_nothing(
        input in head_like(RESPONSES),
        cuts in vec(any::<usize>(), 1..3),
    ) {
        let mut head = ResponseHead::default();
        cutting_changes_nothing(&input, &cuts, |input, cuts| take_response(&mut head, input, cuts), |facts| facts.0);
    }

    #[test]
    fn any_bytes_are_a_head_or_an_error(input in vec(any::<u8>(), 0..400), cuts in vec(any::<usize>(), 0..3)) {
        let mut request = RequestHead::default();
        cutting_changes_nothing(&input, &cuts, |input, cuts| take_request(&mut request, input, cuts), |facts| facts.0);
        let mut response = ResponseHead::default();
        cutting_changes_nothing(&input, &cuts, |input, cuts| take_response(&mut response, input, cuts), |facts| facts.0);
    }

    #[test]
    fn a_refused_head_still_answers_every_question(input in head_like(REQUESTS)) {
        let mut head = RequestHead::default();
        let _ = head.take(&input, &LIMITS);
        let mut out = Vec::new();
        write_request(&head, &how(&head), &mut out);
        let _ = (head.is_head(), head.body(), head.cookie(b"x"), head.offers(b"x"), head.fields().count());
        prop_assert!(head.request_line().len() <= 1024);
    }

    #[test]
    fn what_is_forwarded_is_one_request_with_the_same_meaning(input in head_like(REQUESTS)) {
        let limits = HeadLimits { head_bytes_max: 4096, fields_max: 50 };
        let mut head = RequestHead::default();
        let Ok(Some(_)) = head.take(&input, &LIMITS) else { return Ok(()) };
        let mut out = Vec::new();
        write_request(&head, &how(&head), &mut out);

        let mut again = RequestHead::default();
        prop_assert_eq!(again.take(&out, &limits), Ok(Some(out.len())));
        prop_assert_eq!(again.method(), head.method());
        prop_assert_eq!(again.body(), head.body());
        prop_assert_eq!(again.host(), Some(head.host().unwrap_or(b"backend")));
        prop_assert_eq!(again.upgrade(), head.upgrade());
        prop_assert_eq!(again.accepts_trailers(), head.accepts_trailers());
        prop_assert!(again.keep_alive());
        let base: &[u8] = if head.target() == b"*" { b"" } else { b"/base" };
        prop_assert_eq!(again.target(), [base, head.target()].concat());
        // The second reader: httparse, which must see the same fields.
        let mut slots = [httparse::EMPTY_HEADER; 50];
        let mut parsed = httparse::Request::new(&mut slots);
        prop_assert_eq!(parsed.parse(&out), Ok(httparse::Status::Complete(out.len())));
        let seen = parsed.headers.iter().map(|field| (field.name.as_bytes(), field.value));
        prop_assert_eq!(owned(seen), owned(again.fields()));
        // Once more through another rondo changes only what a hop adds.
        let names = |head: &RequestHead| -> Vec<Vec<u8>> {
            owned(head.fields()).into_iter().map(|(name, _)| name).collect()
        };
        let count = |name: &str| names(&again).iter().filter(|n| n.eq_ignore_ascii_case(name.as_bytes())).count();
        for name in ["Host", "X-Forwarded-For", "X-Forwarded-Proto", "X-Request-Id"] {
            prop_assert_eq!(count(name), 1, "{}", name);
        }
        prop_assert!(count("Content-Length") + count("Transfer-Encoding") <= 1);
        prop_assert!(count("Connection") <= 1);
    }

    #[test]
    fn what_is_answered_is_one_response_with_the_same_meaning(input in head_like(RESPONSES)) {
        let limits = HeadLimits { head_bytes_max: 4096, fields_max: 50 };
        let mut head = ResponseHead::default();
        let Ok(Some(_)) = head.take(&input, &LIMITS) else { return Ok(()) };
        let mut out = Vec::new();
        write_response(&head, &plain(head.body(false)), &mut out);
        let mut again = ResponseHead::default();
        prop_assert_eq!(again.take(&out, &limits), Ok(Some(out.len())));
        prop_assert_eq!((again.status(), again.reason()), (head.status(), head.reason()));
        prop_assert_eq!(again.body(false), head.body(false));
        let mut rewritten = Vec::new();
        write_response(&again, &plain(again.body(false)), &mut rewritten);
        prop_assert_eq!(rewritten, out, "writing is stable");
    }

    #[test]
    fn a_lenient_reader_reads_sloppy_lines_as_the_clean_ones(
        input in head_like(RESPONSES),
        sloppy in vec(any::<bool>(), 1..20),
        empty in 0_usize..4,
        cuts in vec(any::<usize>(), 1..3),
    ) {
        let mut head = ResponseHead::default();
        let Ok(Some(clean)) = take_response(&mut head, &input, &[]) else { return Ok(()) };
        // Some lines of the head lose their CR, and some empty lines come before them.
        let mut lines = "\n".repeat(empty).into_bytes();
        let mut drop = sloppy.iter().cycle();
        for line in input[..clean.0].split_inclusive(|byte| *byte == b'\n') {
            let end = if *drop.next().unwrap() { "\r\n".len() } else { "\n".len() };
            lines.extend_from_slice(&line[..line.len() - end]);
            lines.push(b'\n');
        }
        let used = lines.len();
        lines.extend_from_slice(&input[clean.0..]);
        for cuts in [vec![], (0..lines.len()).collect(), sorted(&cuts, lines.len())] {
            let read = take_response_as(&mut head, &lines, &cuts, Grammar::LenientResponse);
            let (sloppy_used, out, fields, facts) = read.unwrap().unwrap();
            prop_assert_eq!(sloppy_used, used);
            prop_assert_eq!((&out, &fields, &facts), (&clean.1, &clean.2, &clean.3));
        }
    }

    #[test]
    fn a_lenient_reader_changes_nothing_of_what_a_strict_one_takes(
        input in head_like(RESPONSES),
        cuts in vec(any::<usize>(), 1..3),
    ) {
        let mut head = ResponseHead::default();
        let strict = take_response(&mut head, &input, &[]);
        cutting_changes_nothing(
            &input,
            &cuts,
            |input, cuts| take_response_as(&mut head, input, cuts, Grammar::LenientResponse),
            |facts| facts.0,
        );
        if strict.is_ok() {
            prop_assert_eq!(take_response_as(&mut head, &input, &[], Grammar::LenientResponse), strict);
        }
    }

    #[test]
    fn chunks_come_out_as_they_went_in(
        chunks in vec(vec(any::<u8>(), 0..40), 0..6),
        trailers in vec(("[a-z]{1,8}-x", "[!-~]{1,8}"), 0..3),
        rest in vec(any::<u8>(), 0..5),
        cuts in vec(any::<usize>(), 0..6),
    ) {
        let mut encoded = Vec::new();
        for chunk in &chunks {
            encode_chunk(chunk, &mut encoded);
        }
        let fields = || trailers.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        encode_end(fields(), &mut encoded);
        let len = encoded.len();
        encoded.extend_from_slice(&rest);
        for cuts in [vec![], (0..encoded.len()).collect(), sorted(&cuts, encoded.len())] {
            let (data, used, decoder) = decode(&encoded, &cuts).unwrap();
            prop_assert_eq!(data, chunks.concat());
            prop_assert_eq!(used, Some(len));
            prop_assert_eq!(owned(decoder.trailers()), owned(fields()));
        }
    }

    #[test]
    fn how_chunks_are_cut_changes_nothing(input in vec(chunk_piece(), 0..12), cuts in vec(any::<usize>(), 0..6)) {
        let input = input.concat();
        let strip = |result: Result<(Vec<u8>, Option<usize>, Decoder), _>| result.map(|(data, used, _)| (data, used));
        let whole = strip(decode(&input, &[]));
        let every: Vec<usize> = (0..input.len()).collect();
        prop_assert_eq!(&strip(decode(&input, &every)), &whole);
        prop_assert_eq!(&strip(decode(&input, &sorted(&cuts, input.len()))), &whole);
        let lenient = |cuts: &[usize]| strip(decode_as(&input, cuts, Grammar::LenientResponse));
        prop_assert_eq!(lenient(&every), lenient(&[]));
        prop_assert_eq!(lenient(&sorted(&cuts, input.len())), lenient(&[]));
        if whole.is_ok() {
            prop_assert_eq!(&lenient(&[]), &whole, "what is strict is read as ever");
        }
        // Whatever is accepted is the same body when rewritten.
        if let Ok((data, Some(_))) = whole {
            let mut again = Vec::new();
            encode_chunk(&data, &mut again);
            encode_end(std::iter::empty(), &mut again);
            prop_assert_eq!(strip(decode(&again, &[])), Ok((data, Some(again.len()))));
        }
    }
}

fn sorted(cuts: &[usize], len: usize) -> Vec<usize> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (len + 1)).collect();
    cuts.sort_unstable();
    cuts
}

fn chunk_piece() -> impl Strategy<Value = Vec<u8>> {
    let pieces: &[&[u8]] = &[
        b"5\r\nhello\r\n",
        b"1\r\nx\r\n",
        b"0\r\n\r\n",
        b"0\r\n",
        b"\r\n",
        b"\r\n",
        b"\n",
        b"\r",
        b"a",
        b"0",
        b"00",
        b"F",
        b";",
        b";a=b",
        b";a=\"b\\\"\"",
        b"=",
        b"\"",
        b" ",
        b"x: y\r\n",
        b"x",
        b":",
        b"\0",
        b"\xff",
        b"5",
        b"hello",
    ];
    proptest::sample::select(pieces).prop_map(<[u8]>::to_vec)
}

/// The data, where the body ended, and the decoder.
fn decode(
    input: &[u8],
    cuts: &[usize],
) -> Result<(Vec<u8>, Option<usize>, Decoder), crate::http::ChunkError> {
    decode_as(input, cuts, Grammar::Request)
}

fn decode_as(
    input: &[u8],
    cuts: &[usize],
    grammar: Grammar,
) -> Result<(Vec<u8>, Option<usize>, Decoder), crate::http::ChunkError> {
    let limits = HeadLimits {
        head_bytes_max: 64,
        fields_max: 3,
    };
    let mut decoder = Decoder::new(&limits);
    decoder.read_as(grammar);
    let (mut data_seen, mut at) = (Vec::new(), 0);
    for end in cuts.iter().copied().chain([input.len()]) {
        loop {
            match decoder.decode(&input[at..end])? {
                Step::Data { used, data } => {
                    data_seen.extend_from_slice(data);
                    at += used;
                }
                Step::More { used } => {
                    at += used;
                    assert_eq!(at, end, "all useful bytes are eaten");
                    break;
                }
                Step::End { used } => return Ok((data_seen, Some(at + used), decoder)),
            }
        }
    }
    Ok((data_seen, None, decoder))
}
