//! One chunked body: the same however it is cut; what was decoded and encoded again decodes to the same.

#![no_main]

use kit::strict;
use libfuzzer_sys::fuzz_target;
use rondo::http::{ChunkError, Decoder, HeadLimits, Step, encode_chunk, encode_end};

const LIMITS: HeadLimits = HeadLimits {
    head_bytes_max: 300,
    fields_max: 8,
};

type Fields = Vec<(Vec<u8>, Vec<u8>)>;

#[derive(Debug, PartialEq)]
struct Decoded {
    data: Vec<u8>,
    /// Where the body ended, if it did.
    end: Result<Option<usize>, ChunkError>,
    trailers: Fields,
}

fn decode<'a>(parts: impl Iterator<Item = &'a [u8]>) -> Decoded {
    let mut decoder = Decoder::new(&LIMITS);
    let (mut data, mut total) = (Vec::new(), 0);
    let end = 'parts: {
        for part in parts {
            let mut at = 0;
            while at < part.len() {
                match decoder.decode(&part[at..]) {
                    Err(error) => break 'parts Err(error),
                    Ok(Step::Data { used, data: piece }) => {
                        assert!(!piece.is_empty() && part[at..at + used].ends_with(piece));
                        data.extend_from_slice(piece);
                        at += used;
                    }
                    Ok(Step::More { used }) => {
                        at += used;
                        assert_eq!(
                            at,
                            part.len(),
                            "everything is used up before more is asked for"
                        );
                    }
                    Ok(Step::End { used }) => break 'parts Ok(Some(total + at + used)),
                }
            }
            total += part.len();
        }
        Ok(None)
    };
    let trailers = decoder
        .trailers()
        .map(|(n, v)| (n.to_vec(), v.to_vec()))
        .collect();
    Decoded {
        data,
        end,
        trailers,
    }
}

fuzz_target!(|input: (u16, &[u8])| {
    let (cut, bytes) = input;
    let whole = decode([bytes].into_iter());
    let cut = usize::from(cut) % (bytes.len() + 1);
    assert_eq!(
        decode([&bytes[..cut], &bytes[cut..]].into_iter()),
        whole,
        "cut at {cut}"
    );
    assert_eq!(decode(bytes.chunks(1)), whole, "byte by byte");

    let Ok(Some(end)) = whole.end else { return };
    assert!(end <= bytes.len());
    let mut coded = Vec::new();
    encode_chunk(&whole.data, &mut coded);
    encode_end(
        whole
            .trailers
            .iter()
            .map(|(n, v)| (n.as_slice(), v.as_slice())),
        &mut coded,
    );
    let (strict_end, data, trailers) = strict::chunks(&coded).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(
        (strict_end, &data, &trailers),
        (Some(coded.len()), &whole.data, &whole.trailers)
    );
});
