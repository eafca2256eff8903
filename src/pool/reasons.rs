//! Since when a backend is in its state, why, and what its last check found: for people to read.
//!
//! Written only when a state changes or a check ends. The texts are bounded and lie in place, so
//! that nothing is allocated under a lock.
//!
//! Read next: `pool/state.rs`, which keeps these.

use std::fmt::{self, Write as _};
use std::time::Duration;

use crate::pool::settings::Kind;
use crate::text::timestamp::since_epoch;

/// Bytes kept of a reason.
const REASON_BYTES_MAX: usize = 120;

/// The first bytes of a text.
#[derive(Clone, Copy)]
pub(crate) struct Words {
    bytes: [u8; REASON_BYTES_MAX],
    length: u8,
}

impl Words {
    /// The beginning of what is displayed, whole characters of it.
    pub(crate) fn of(text: &dyn fmt::Display) -> Words {
        let mut words = Words {
            bytes: [0; REASON_BYTES_MAX],
            length: 0,
        };
        // An error says that it is full.
        let _ = write!(words, "{text}");
        words
    }

    /// The text.
    pub(crate) fn get(&self) -> &str {
        // Cut between characters, so it is always a text.
        str::from_utf8(&self.bytes[..usize::from(self.length)]).unwrap_or_default()
    }
}

impl fmt::Write for Words {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        const { assert!(REASON_BYTES_MAX <= 255, "the length is one byte") };
        let start = usize::from(self.length);
        let mut taken = text.len().min(REASON_BYTES_MAX - start);
        while !text.is_char_boundary(taken) {
            taken -= 1;
        }
        self.bytes[start..start + taken].copy_from_slice(&text.as_bytes()[..taken]);
        self.length = u8::try_from(start + taken).unwrap_or(self.length);
        if taken == text.len() {
            Ok(())
        } else {
            Err(fmt::Error)
        }
    }
}

impl fmt::Debug for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.get())
    }
}

/// When something became so, and why.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Since {
    pub(crate) unix_ms: u64,
    pub(crate) reason: Words,
}

impl Since {
    /// Now, for this reason.
    pub(crate) fn now(reason: &dyn fmt::Display) -> Since {
        Since {
            unix_ms: now_unix_ms(),
            reason: Words::of(reason),
        }
    }
}

/// What a health check found.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Checked {
    pub(crate) kind: Kind,
    /// When it ended.
    pub(crate) at_unix_ms: u64,
    pub(crate) took: Duration,
    pub(crate) passed: bool,
    pub(crate) reason: Words,
}

impl Checked {
    /// One that ends now. An error is why it failed, the other text what it saw.
    pub(crate) fn now(
        kind: Kind,
        took: Duration,
        result: Result<&dyn fmt::Display, &dyn fmt::Display>,
    ) -> Checked {
        let (Ok(reason) | Err(reason)) = result;
        Checked {
            kind,
            at_unix_ms: now_unix_ms(),
            took,
            passed: result.is_ok(),
            reason: Words::of(reason),
        }
    }
}

/// The time of day, in milliseconds since 1970.
pub(crate) fn now_unix_ms() -> u64 {
    u64::try_from(since_epoch().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_cut_between_two_characters() {
        assert_eq!(Words::of(&"").get(), "");
        for length in [1, 119, 120] {
            let text = "x".repeat(length);
            assert_eq!(Words::of(&text).get(), text);
        }
        assert_eq!(Words::of(&"x".repeat(121)).get(), "x".repeat(120));
        let long = format!("{}ü and more", "x".repeat(119));
        assert_eq!(Words::of(&long).get(), "x".repeat(119));
        let pieces = format_args!("{} {}", "y".repeat(118), "üü").to_string();
        assert_eq!(Words::of(&pieces).get().len(), 119);
    }
}
