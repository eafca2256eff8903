//! The ids under which requests are logged and forwarded when the client sends none.

use std::hash::{BuildHasher, RandomState};

/// Makes ids that cannot be guessed and do not repeat: a counter, scrambled under a key drawn
/// at start. No system call, no lock.
#[derive(Debug)]
pub(crate) struct RequestIds {
    key: u64,
    salt: u64,
    count: u64,
}

/// The length of an id of ours, in hexadecimal digits.
pub(crate) const REQUEST_ID_LEN: usize = 32;

impl Default for RequestIds {
    fn default() -> Self {
        let random = RandomState::new();
        Self {
            key: random.hash_one(0),
            salt: random.hash_one(1),
            count: 0,
        }
    }
}

impl RequestIds {
    /// The next id.
    pub(crate) fn next_id(&mut self) -> [u8; REQUEST_ID_LEN] {
        self.count = self.count.wrapping_add(1);
        let high = scramble(self.key.wrapping_add(self.count));
        let low = scramble(high ^ self.salt);
        let mut id = [0; REQUEST_ID_LEN];
        id[..16].copy_from_slice(&hexadecimal(high));
        id[16..].copy_from_slice(&hexadecimal(low));
        id
    }
}

/// The sixteen digits of a number, the highest first: all at once, eight to a word, since an id is
/// made for every request.
#[inline(always)]
fn hexadecimal(bits: u64) -> [u8; 16] {
    const LOW_NIBBLES: u64 = 0x0f0f_0f0f_0f0f_0f0f;
    let half = |bits: u32| {
        // Each nibble in a byte of its own, in order.
        let mut nibbles = u64::from(bits);
        nibbles = (nibbles | nibbles << 16) & 0x0000_ffff_0000_ffff;
        nibbles = (nibbles | nibbles << 8) & 0x00ff_00ff_00ff_00ff;
        nibbles = (nibbles | nibbles << 4) & LOW_NIBBLES;
        // 1 in each byte whose nibble is over 9: those are letters, 39 places behind the digits.
        let letters = (nibbles + 0x0606_0606_0606_0606) >> 4 & 0x0101_0101_0101_0101;
        (nibbles + 0x3030_3030_3030_3030 + letters * 39).to_be_bytes()
    };
    let mut digits = [0; 16];
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the two halves are cut out here"
    )]
    let (high, low) = ((bits >> 32) as u32, bits as u32);
    digits[..8].copy_from_slice(&half(high));
    digits[8..].copy_from_slice(&half(low));
    digits
}

/// A bijection on 64 bits in which every input bit touches every output bit (the finalizer of
/// `SplitMix64`, Steele, Lea and Flood 2014).
fn scramble(mut bits: u64) -> u64 {
    bits = bits.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ bits >> 31
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn request_ids_do_not_repeat_and_are_hexadecimal() {
        let mut ids = RequestIds::default();
        let seen: HashSet<_> = (0..10_000).map(|_| ids.next_id()).collect();
        assert_eq!(seen.len(), 10_000);
        assert!(seen.iter().flatten().all(u8::is_ascii_hexdigit));
    }

    #[test]
    fn hexadecimal_is_what_the_formatter_writes() {
        for bits in [
            0,
            1,
            0x0123_4567_89ab_cdef,
            0xfedc_ba98_7654_3210,
            0x9a9a_a9a9_0909_9090,
            u64::MAX,
        ] {
            assert_eq!(hexadecimal(bits), format!("{bits:016x}").as_bytes());
        }
    }

    #[test]
    fn two_workers_draw_different_ids() {
        assert_ne!(
            RequestIds::default().next_id(),
            RequestIds::default().next_id()
        );
    }
}
