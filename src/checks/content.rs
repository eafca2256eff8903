//! Whether the body of an answer contains a text, found without holding the body.
//!
//! Read next: `checks/probe.rs`.

use crate::http::body::{BodyTranslator, Writer};
use crate::http::{Body, Grammar, HeadLimits};
use crate::pool::settings::HttpCheck;

/// How much of a body is searched, in bytes.
const SEARCHED_MAX: usize = 64 * 1024;

/// A search in one body under way.
#[derive(Debug)]
pub(crate) struct Search {
    body: BodyTranslator,
    /// The last bytes searched, too few to contain the text: its beginning may be among them.
    tail: Vec<u8>,
    /// How much more is searched.
    left: usize,
}

/// What a search has found so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// The text is there.
    Text,
    /// It is not in what has come.
    NotYet,
    /// It is not in the part that is searched, or the body broke off or is malformed.
    Nothing(&'static str),
}

impl Search {
    /// Bytes that a search holds, with `read_max` bytes at hand.
    pub(crate) const fn bytes_max(read_max: usize) -> usize {
        size_of::<Self>() + 2 * (HttpCheck::BODY_TEXT_MAX + read_max)
    }

    /// In a body that is framed so.
    pub(crate) fn new(body: Body, grammar: Grammar, limits: &HeadLimits) -> Search {
        let mut body = BodyTranslator::new(body, Writer::Plain, u64::MAX, limits);
        body.read_as(grammar);
        Search {
            body,
            tail: Vec::new(),
            left: SEARCHED_MAX,
        }
    }

    /// Searches `more` of the body; `ended`: nothing comes after it. Returns how much of it was
    /// used as well.
    pub(crate) fn go_on(&mut self, more: &[u8], ended: bool, text: &[u8]) -> (usize, Found) {
        let data_from = self.tail.len();
        let (used, plain) = match self.body.translate(more, &mut self.tail) {
            Ok((used, plain)) => (used, plain.len()),
            Err(_) => return (0, Found::Nothing("its body is malformed")),
        };
        // Plain data stays where it is.
        self.tail.extend_from_slice(&more[used - plain..used]);
        let new = self.tail.len() - data_from;
        self.tail.truncate(data_from + new.min(self.left));
        self.left -= new.min(self.left);
        if self.tail.windows(text.len()).any(|part| part == text) {
            return (used, Found::Text);
        }
        if self.left == 0 {
            return (
                used,
                Found::Nothing("the first 64 KiB of its body do not contain the text"),
            );
        }
        if self.body.has_ended() || ended && self.body.end(&mut Vec::new()).is_ok() {
            return (used, Found::Nothing("its body does not contain the text"));
        }
        if ended {
            return (used, Found::Nothing("its body broke off"));
        }
        let kept = self.tail.len().min(text.len() - 1);
        self.tail.drain(..self.tail.len() - kept);
        (used, Found::NotYet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: HeadLimits = HeadLimits {
        head_bytes_max: 1024,
        fields_max: 8,
    };

    /// What is found in these parts of a body, the last of which is its end if `ended`.
    fn search(framing: Body, parts: &[&[u8]], ended: bool) -> Found {
        let mut search = Search::new(framing, Grammar::Response, &LIMITS);
        let mut held = Vec::new();
        let mut found = Found::NotYet;
        for (at, part) in parts.iter().enumerate() {
            if found != Found::NotYet {
                break;
            }
            held.extend_from_slice(part);
            let (used, now) = search.go_on(&held, ended && at + 1 == parts.len(), b"is fine");
            held.drain(..used);
            found = now;
        }
        found
    }

    #[test]
    fn a_text_is_found_wherever_the_body_is_split_and_however_it_is_framed() {
        let chunked = b"9\r\nall is fi\r\n6\r\nne now\r\n0\r\n\r\n";
        let plain = b"all is fine now";
        for (framing, body) in [
            (Body::Chunked, &chunked[..]),
            (Body::Length(15), plain),
            (Body::UntilClose, plain),
        ] {
            for cut in 0..=body.len() {
                let (first, second) = body.split_at(cut);
                let found = match search(framing, &[first], false) {
                    Found::NotYet => search(framing, &[first, second], true),
                    found => found,
                };
                assert_eq!(found, Found::Text, "{framing:?} {cut}");
            }
            let bytes: Vec<&[u8]> = body.chunks(1).collect();
            let found =
                (1..=bytes.len()).any(|n| search(framing, &bytes[..n], false) == Found::Text);
            assert!(found, "{framing:?}");
        }
    }

    #[test]
    fn a_body_without_the_text_says_how_it_ended() {
        let not_there = Found::Nothing("its body does not contain the text");
        let broke_off = Found::Nothing("its body broke off");
        let malformed = Found::Nothing("its body is malformed");
        for (framing, body, ended, expected) in [
            (Body::None, &b""[..], false, not_there),
            (Body::Length(4), b"is f", false, not_there),
            (Body::Length(5), b"is f", false, Found::NotYet),
            (Body::Length(5), b"is f", true, broke_off),
            (Body::UntilClose, b"is f", false, Found::NotYet),
            (Body::UntilClose, b"is f", true, not_there),
            (Body::Chunked, b"4\r\nis f\r\n", false, Found::NotYet),
            (Body::Chunked, b"4\r\nis f\r\n0\r\n\r\n", false, not_there),
            (Body::Chunked, b"4\r\nis f\r\n", true, broke_off),
            (Body::Chunked, b"4\r\nis fine", false, malformed),
            // Framing is no content.
            (
                Body::Chunked,
                b"3\r\nis \r\n4\r\nfine\r\n",
                false,
                Found::Text,
            ),
            (Body::Chunked, b"0\r\nX: is fine\r\n\r\n", false, not_there),
        ] {
            assert_eq!(
                search(framing, &[body], ended),
                expected,
                "{framing:?} {body:?}"
            );
        }
    }

    #[test]
    fn the_first_64_kib_are_searched_and_no_more() {
        let text = b"is fine";
        for (before, expected) in [
            (SEARCHED_MAX - text.len(), Found::Text),
            (
                SEARCHED_MAX - text.len() + 1,
                Found::Nothing("the first 64 KiB of its body do not contain the text"),
            ),
        ] {
            let body = [&vec![b'-'; before][..], text, b"more"].concat();
            for size in [1000, 4096, body.len()] {
                let parts: Vec<&[u8]> = body[..before + text.len()].chunks(size).collect();
                assert_eq!(search(Body::UntilClose, &parts, false), expected);
            }
        }
    }
}
