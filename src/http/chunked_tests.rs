//! The chunked coding: what is accepted, what is not, and that neither depends on how the input is
//! cut.

use crate::http::chunked::*;
use crate::http::trailers::LEFT_OUT_BYTES_MAX;

const LIMITS: HeadLimits = HeadLimits {
    head_bytes_max: 1024,
    fields_max: 10,
};

/// All data and the bytes used, if the body ends; an error; or `None` if it goes on.
fn decode(mut input: &[u8]) -> Result<Option<(Vec<u8>, usize)>, ChunkError> {
    let whole = input.len();
    let mut decoder = Decoder::new(&LIMITS);
    let mut all = Vec::new();
    loop {
        match decoder.decode(input)? {
            Step::Data { used, data } => {
                assert!(!data.is_empty());
                assert_eq!(input[..used][used - data.len()..].as_ptr(), data.as_ptr());
                all.extend_from_slice(data);
                input = &input[used..];
            }
            Step::More { used } => {
                assert_eq!(used, input.len());
                return Ok(None);
            }
            Step::End { used } => return Ok(Some((all, whole - input.len() + used))),
        }
    }
}

fn is_refused(input: &str) -> bool {
    decode(input.as_bytes()).is_err()
}

#[test]
fn chunks_are_taken_apart() {
    let body = b"4\r\nWiki\r\n5\r\npedia\r\nE\r\n in\r\n\r\nchunks.\r\n0\r\n\r\nGET ";
    let (data, used) = decode(body).unwrap().unwrap();
    assert_eq!(data, b"Wikipedia in\r\n\r\nchunks.");
    assert_eq!(used, body.len() - 4);
    assert_eq!(decode(b"0\r\n\r\n").unwrap().unwrap(), (vec![], 5));
    assert_eq!(decode(b"000\r\n\r\n").unwrap().unwrap(), (vec![], 7));
    assert_eq!(
        decode(b"0000000000000001\r\nx\r\n0\r\n\r\n")
            .unwrap()
            .unwrap()
            .0,
        b"x"
    );
    assert_eq!(decode(b"aA\r\n").unwrap(), None);
}

#[test]
fn after_the_end_nothing_more_is_taken() {
    let mut decoder = Decoder::new(&LIMITS);
    assert_eq!(decoder.decode(b"0\r\n\r\n5\r\n"), Ok(Step::End { used: 5 }));
    assert_eq!(decoder.decode(b"5\r\n"), Ok(Step::End { used: 0 }));
    assert_eq!(decoder.decode(b""), Ok(Step::End { used: 0 }));
}

#[test]
fn data_passes_as_it_comes() {
    let mut decoder = Decoder::new(&LIMITS);
    assert_eq!(
        decoder.decode(b"5\r\nhe"),
        Ok(Step::Data {
            used: 5,
            data: b"he"
        })
    );
    assert_eq!(decoder.decode(b""), Ok(Step::More { used: 0 }));
    assert_eq!(
        decoder.decode(b"l"),
        Ok(Step::Data {
            used: 1,
            data: b"l"
        })
    );
    assert_eq!(
        decoder.decode(b"lo\r\n0\r\n\r\n"),
        Ok(Step::Data {
            used: 2,
            data: b"lo"
        })
    );
    assert_eq!(decoder.decode(b"\r\n0\r\n\r\n"), Ok(Step::End { used: 7 }));
}

#[test]
fn a_chunk_size_is_hexadecimal_digits_and_nothing_else() {
    for size in [
        "",
        " 5",
        "5 ",
        "5\t",
        "\t5",
        "+5",
        "-5",
        "0x5",
        "x5",
        "5h",
        "5,",
        "5\0",
        "5_0",
        "five",
        "5\u{b}",
        "\u{ff15}",
        "00000000000000005",
        "10000000000000000",
        "fffffffffffffffff",
        "\"5\"",
        "5 5",
        "5\n",
        "5\r",
        "\r\n5",
        "\n5",
    ] {
        assert!(
            is_refused(&format!("{size}\r\nhello\r\n0\r\n\r\n")),
            "{size:?}"
        );
    }
    assert_eq!(decode(b"ffffffffffffffff\r\n"), Ok(None), "2^64 - 1 fits");
    let mut decoder = Decoder::new(&LIMITS);
    assert_eq!(
        decoder.decode(b"ffffffffffffffff\r\nx"),
        Ok(Step::Data {
            used: 19,
            data: b"x"
        })
    );
    assert_eq!(decoder.left, u64::MAX - 1);
}

#[test]
fn every_line_ends_in_crlf() {
    for body in [
        "5\nhello\r\n0\r\n\r\n",
        "5\rhello\r\n0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "5\r\nhello!\r\n0\r\n\r\n",
        "5\r\nhello\r0\r\n\r\n",
        "5\r\nhello\r\r\n0\r\n\r\n",
        "5\r\nhell\r\n0\r\n\r\n",
        "5\r\nhello\r\n\r\n0\r\n\r\n",
        "0\n\r\n",
        "0\r\n\n",
        "0\r\n\rX",
        "0\r\r\n\r\n",
        "0\r\nA: b\n\r\n",
        "0\r\nA: b\r\n\n",
        "5;a\nhello\r\n0\r\n\r\n",
        "5;a=b\rhello\r\n0\r\n\r\n",
        "5;a=\"\n\"\r\nhello\r\n0\r\n\r\n",
    ] {
        assert!(is_refused(body), "{body:?}");
    }
}

#[test]
fn extensions_follow_their_grammar_and_are_dropped() {
    for extension in [
        ";a",
        ";a=b",
        ";a=\"\"",
        ";a=\"b c;\t\u{e9}\\\"\\\\\"",
        ";a;b=c;d",
        " ;a",
        "\t ; \ta \t= \tb ;c",
        ";a = \"x\" ; b",
        " ;a=b",
    ] {
        let body = format!("1{extension}\r\nx\r\n0{extension}\r\n\r\n");
        assert_eq!(
            decode(body.as_bytes()).unwrap().unwrap().0,
            b"x",
            "{extension:?}"
        );
    }
    for extension in [
        ";",
        ";;a",
        ";=b",
        ";a=",
        ";a==b",
        ";a=b=c",
        ";a b",
        ";a=b c",
        ";a ",
        ";a=b ",
        ";a=\"b\" ",
        "; ",
        " ",
        ";a=\"b",
        ";a=\"b\"c",
        ";a=b\"c\"",
        ";a=\"\\\0\"",
        ";a=\"\x01\"",
        ";a\0",
        ";a=\x7f",
        ";\u{e9}",
        ";a=\u{e9}",
        ";a,b",
        ";a=(b)",
        ";a=\"\\\r\n\"",
        ";a=\"\x7f\"",
    ] {
        let body = format!("1{extension}\r\nx\r\n0\r\n\r\n");
        assert!(is_refused(&body), "{extension:?}");
    }
}

#[test]
fn a_lenient_reader_takes_white_space_behind_a_size_and_line_ends_without_cr() {
    let read = |input: &str, grammar| {
        let mut decoder = Decoder::new(&LIMITS);
        decoder.read_as(grammar);
        let (mut data, mut at) = (Vec::new(), 0);
        loop {
            match decoder.decode(&input.as_bytes()[at..])? {
                Step::Data { used, data: part } => {
                    data.extend_from_slice(part);
                    at += used;
                }
                Step::End { used } => {
                    return Ok::<_, ChunkError>((data, input[at + used..].to_owned()));
                }
                Step::More { .. } => return Ok((data, "more".to_owned())),
            }
        }
    };
    for (input, reason) in [
        (
            "5 \r\nhello\r\n0\r\n\r\nrest",
            "white space behind a chunk size",
        ),
        (
            "5\t \nhello\r\n0  \r\n\r\nrest",
            "bare LF behind a chunk size",
        ),
        (
            "5;a=b \r\nhello\r\n0\r\n\r\nrest",
            "white space behind a chunk size",
        ),
        ("5\nhello\r\n0\r\n\r\nrest", "bare LF behind a chunk size"),
        (
            "5;a=\"b\"\nhello\r\n0\r\n\r\nrest",
            "bare LF behind a chunk size",
        ),
        ("5;a\nhello\n0\n\nrest", "bare LF behind a chunk size"),
        ("5\r\nhello\n0\r\n\r\nrest", "bare LF behind chunk data"),
        ("5\r\nhello\r\n0\n\r\nrest", "bare LF behind a chunk size"),
        ("5\r\nhello\r\n0\r\n\nrest", "bare LF"),
        ("5\r\nhello\r\n0\r\nA: b\n\r\nrest", "bare LF"),
    ] {
        let data = b"hello".to_vec();
        assert_eq!(
            read(input, Grammar::LenientResponse),
            Ok((data, "rest".to_owned())),
            "{input:?}"
        );
        let strict = read(input, Grammar::Request).unwrap_err();
        assert_eq!(strict.reason(), reason, "{input:?}");
        let named = read(input, Grammar::Response).unwrap_err();
        let expected = format!("{reason} (backends[].lenient would accept it)");
        assert_eq!(named.reason(), expected, "{input:?}");
    }
    for input in [
        "\n5\r\nhello\r\n",
        " 5\r\nhello\r\n",
        "5 5\r\nhello\r\n",
        "5\rhello\r\n",
        "5\r\nhello0\r\n",
        "5\r\nhello\r0\r\n",
        "5\r\nhello\n\n0\r\n",
        "5;a \r\nhello\r\n",
        "5;a=\nhello\r\n",
        "5;a=\"\nhello\r\n",
        "0\r\nA : b\n\n",
    ] {
        let refused = read(input, Grammar::LenientResponse).unwrap_err();
        assert!(
            !refused.reason().contains("lenient"),
            "{input:?}: {refused}"
        );
    }
}

#[test]
fn extensions_without_end_are_refused() {
    let mut decoder = Decoder::new(&LIMITS);
    assert_eq!(decoder.decode(b"5;"), Ok(Step::More { used: 2 }));
    let taken = (0..20_000)
        .take_while(|_| decoder.decode(b"a").is_ok())
        .count();
    assert_eq!(taken, 16 * 1024 - 1, "16 KiB, one of them the semicolon");

    // Many short ones with hardly any data between them have an end too.
    let mut decoder = Decoder::new(&LIMITS);
    assert!(!(0..10_000).all(|_| decoder.decode(b"1;aaaa\r\n").is_ok()
        && decoder.decode(b"x").is_ok()
        && decoder.decode(b"\r\n").is_ok()));
}

#[test]
fn honest_extensions_go_on_for_ever() {
    let mut decoder = Decoder::new(&LIMITS);
    let data = [b'x'; 0x100];
    for _ in 0..10_000 {
        decoder.decode(b"100;chunk-signature=ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648\r\n").unwrap();
        decoder.decode(&data).unwrap();
        decoder.decode(b"\r\n").unwrap();
    }
}

#[test]
fn trailer_fields_are_kept_without_those_that_may_not_be_there() {
    let mut decoder = Decoder::new(&LIMITS);
    let body = b"0\r\nX-Sum: \t1 \r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\nhost: a\r\nSet-Cookie: a=b\r\ngrpc-status:0\r\nConnection: x\r\n\r\nrest";
    assert_eq!(
        decoder.decode(body),
        Ok(Step::End {
            used: body.len() - 4
        })
    );
    let trailers: Vec<_> = decoder.trailers().collect();
    assert_eq!(
        trailers,
        [(&b"X-Sum"[..], &b"1"[..]), (b"grpc-status", b"0")]
    );
    assert_eq!(Decoder::new(&LIMITS).trailers().count(), 0);
}

#[test]
fn trailer_fields_that_connection_names_are_left_out() {
    let body = b"0\r\nX-Hop: 1\r\nX-Sum: 2\r\nx-other: 3\r\n\r\n";
    let passed = |options: &[&[u8]]| {
        let mut decoder = Decoder::new(&LIMITS);
        decoder.leave_out(options.iter().copied());
        decoder.decode(body).unwrap();
        decoder
            .trailers()
            .map(|(name, _)| name.to_vec())
            .collect::<Vec<_>>()
    };
    assert_eq!(passed(&[]), [&b"X-Hop"[..], b"X-Sum", b"x-other"]);
    assert_eq!(passed(&[b""]), [&b"X-Hop"[..], b"X-Sum", b"x-other"]);
    assert_eq!(passed(&[b"close, x-hop"]), [&b"X-Sum"[..], b"x-other"]);
    assert_eq!(passed(&[b"x-hop", b" ,\tX-OTHER"]), [b"X-Sum"]);
    assert_eq!(passed(&[b"x", b"x-hop x-sum"]).len(), 3);
    // As many names as are remembered, and one byte more: then none of the fields passes.
    let long = vec![b'x'; LEFT_OUT_BYTES_MAX - 1];
    assert_eq!(passed(&[&long]).len(), 3);
    assert_eq!(passed(&[&long, b""]), Vec::<Vec<u8>>::new());
}

#[test]
fn trailer_fields_are_as_strict_as_others() {
    for line in [
        "A",
        "A : b",
        ": b",
        " A: b",
        "A: b\r\n c: d",
        "A: \0",
        "A: b\rC: d",
        "A: b\nC: d",
        "A\u{e9}: b",
        "A: \x7f",
    ] {
        assert!(is_refused(&format!("0\r\n{line}\r\n\r\n")), "{line:?}");
    }
}

#[test]
fn a_trailer_section_has_the_limits_of_a_head() {
    let eleven = format!("0\r\n{}\r\n", "A: b\r\n".repeat(11));
    assert_eq!(
        decode(eleven.as_bytes()),
        Err(ChunkError::Trailers(HeadError::TooManyFields))
    );
    assert!(decode(&eleven.as_bytes()[6..]).is_err());
    let section = |len: usize| format!("0\r\nA: {}\r\n\r\n", "x".repeat(len - 7));
    assert_eq!(decode(section(1024).as_bytes()).unwrap().unwrap().1, 1027);
    let error = decode(section(1025).as_bytes()).unwrap_err();
    assert_eq!(
        (error, error.status()),
        (ChunkError::Trailers(HeadError::TooLong), 431)
    );
    assert_eq!(decode(&section(2000).as_bytes()[..3 + 1023]), Ok(None));
    assert!(decode(&section(2000).as_bytes()[..3 + 1024]).is_err());
}

#[test]
fn a_trailer_section_in_parts_has_the_same_limits() {
    let body = format!("0\r\nA: {}\r\n\r\n", "x".repeat(1018)).into_bytes();
    let (start, end) = body.split_at(500);
    let mut decoder = Decoder::new(&LIMITS);
    assert_eq!(decoder.decode(start), Ok(Step::More { used: 500 }));
    assert!(decoder.decode(end).is_err(), "1025 bytes");
    assert!(decoder.trailers().next().is_none());
}

#[test]
fn unwanted_trailers_are_judged_the_same_and_not_kept() {
    let mut decoder = Decoder::without_trailers(&LIMITS);
    let body = b"0\r\nA: b\r\n\r\n";
    assert_eq!(decoder.decode(body), Ok(Step::End { used: body.len() }));
    assert!(decoder.trailers().next().is_none());
    for (wrong, status) in [
        ("0\r\nA\r\n\r\n".to_owned(), 400),
        (format!("0\r\nA: {}\r\n\r\n", "x".repeat(1024)), 431),
        (format!("0\r\n{}\r\n", "A: b\r\n".repeat(17)), 431),
    ] {
        let mut decoder = Decoder::without_trailers(&LIMITS);
        let error = decoder.decode(wrong.as_bytes()).unwrap_err();
        assert_eq!(error.status(), status, "{wrong}");
    }
}

#[test]
fn an_error_says_what_is_wrong() {
    for (body, reason) in [
        ("\r\n", "chunk size without a digit"),
        ("5 5\r\n", "invalid chunk extension"),
        ("5x", "invalid character in a chunk size"),
        ("00000000000000000", "chunk size too long"),
        ("1\r\nxy", "chunk data without CRLF at its end"),
        ("0\r\n\rx", "bare CR"),
        ("0\r\nA\r\n", "field line without a colon"),
    ] {
        let error = decode(body.as_bytes()).unwrap_err();
        assert_eq!(
            (error.reason(), error.to_string().as_str()),
            (reason, reason)
        );
    }
}

#[test]
fn an_error_stays() {
    let mut decoder = Decoder::new(&LIMITS);
    let error = decoder.decode(b"x").unwrap_err();
    assert_eq!(error.status(), 400);
    assert_eq!(decoder.decode(b"0\r\n\r\n"), Err(error));
    assert_eq!(decoder.decode(b""), Err(error));
}

#[test]
fn chunks_are_written_in_the_plainest_form() {
    let mut out = Vec::new();
    encode_chunk(b"", &mut out);
    assert_eq!(out, b"", "an empty chunk would end the body");
    encode_chunk(b"hello", &mut out);
    encode_chunk(&[b'x'; 16], &mut out);
    encode_chunk_head(0xabc0, &mut out);
    out.extend_from_slice(CHUNK_END);
    encode_end([(&b"A"[..], &b"b"[..])].into_iter(), &mut out);
    encode_end(std::iter::empty(), &mut out);
    assert_eq!(
        str::from_utf8(&out).unwrap(),
        "5\r\nhello\r\n10\r\nxxxxxxxxxxxxxxxx\r\nabc0\r\n\r\n0\r\nA: b\r\n\r\n0\r\n\r\n"
    );
}

#[test]
fn a_decoder_is_small() {
    assert!(size_of::<Decoder>() <= 96, "{}", size_of::<Decoder>());
}
