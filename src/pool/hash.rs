//! The fixed hashes: SipHash-2-4 under fixed keys, and a logarithm in integers.
//!
//! All releases and instances must compute the same values (a client stays with its backend across
//! a restart and between two balancers), so neither std's hasher, which promises no stability, nor
//! floating point is used. `persist.rs` and `chooser/rendezvous.rs` use them.

/// A `SipHash` key. These are not secrets: they make the results opaque, not unforgeable.
pub(crate) type Key = (u64, u64);

/// SipHash-2-4 with its 64-bit result.
pub(crate) fn hash_64(key: Key, data: &[u8]) -> u64 {
    let mut sip = Sip::new(key);
    sip.eat(data);
    sip.v[2] ^= 0xff;
    sip.finish()
}

/// SipHash-2-4 with its 128-bit result, as bytes in the reference implementation's order.
pub(crate) fn hash_128(key: Key, data: &[u8]) -> [u8; 16] {
    let mut sip = Sip::new(key);
    sip.v[1] ^= 0xee;
    sip.eat(data);
    sip.v[2] ^= 0xee;
    let first = sip.finish();
    sip.v[1] ^= 0xdd;
    let second = sip.finish();
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&first.to_le_bytes());
    bytes[8..].copy_from_slice(&second.to_le_bytes());
    bytes
}

/// Spreads the bits of one word over all of it (the finalizer of `MurmurHash3`).
pub(crate) fn mix(x: u64) -> u64 {
    let x = before_last_step(x);
    x ^ (x >> 33)
}

/// The same without the last step, which leaves the upper 33 bits as they are.
pub(crate) fn before_last_step(mut x: u64) -> u64 {
    x ^= x >> 33;
    x = x.wrapping_mul(0xff51_afd7_ed55_8ccd);
    x ^= x >> 33;
    x.wrapping_mul(0xc4ce_b9fe_1a85_ec53)
}

/// The binary logarithm of `x` (at least 1), in units of 2^-32, rounded down. Never decreases as
/// `x` grows.
pub(crate) fn log2(x: u64) -> u64 {
    let zeros = x.leading_zeros();
    let mut result = u64::from(63 - zeros);
    // `m` is x scaled to [1, 2) with 63 bits after the point; each squaring yields one more bit of
    // the result.
    let mut m = u128::from(x << zeros);
    for _ in 0..32 {
        let square = m * m;
        let bit = square >> 127;
        m = square >> (63 + bit);
        result = result << 1 | u64::from(bit == 1);
    }
    result
}

struct Sip {
    v: [u64; 4],
}

impl Sip {
    fn new((k0, k1): Key) -> Sip {
        let v = [
            k0 ^ 0x736f_6d65_7073_6575,
            k1 ^ 0x646f_7261_6e64_6f6d,
            k0 ^ 0x6c79_6765_6e65_7261,
            k1 ^ 0x7465_6462_7974_6573,
        ];
        Sip { v }
    }

    fn eat(&mut self, data: &[u8]) {
        let (words, rest) = data.as_chunks::<8>();
        for word in words {
            self.word(u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        // The length modulo 256, as SipHash is defined.
        last[7] = data.len().to_le_bytes()[0];
        self.word(u64::from_le_bytes(last));
    }

    fn word(&mut self, word: u64) {
        self.v[3] ^= word;
        self.round();
        self.round();
        self.v[0] ^= word;
    }

    fn finish(&mut self) -> u64 {
        for _ in 0..4 {
            self.round();
        }
        self.v[0] ^ self.v[1] ^ self.v[2] ^ self.v[3]
    }

    fn round(&mut self) {
        let [mut a, mut b, mut c, mut d] = self.v;
        a = a.wrapping_add(b);
        b = b.rotate_left(13) ^ a;
        a = a.rotate_left(32);
        c = c.wrapping_add(d);
        d = d.rotate_left(16) ^ c;
        a = a.wrapping_add(d);
        d = d.rotate_left(21) ^ a;
        c = c.wrapping_add(b);
        b = b.rotate_left(17) ^ c;
        c = c.rotate_left(32);
        self.v = [a, b, c, d];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFERENCE_KEY: Key = (0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908);

    #[test]
    fn sip_hash_gives_the_published_vectors() {
        let data: Vec<u8> = (0..64).collect();
        // Appendix A of the paper: 15 bytes.
        assert_eq!(hash_64(REFERENCE_KEY, &data[..15]), 0xa129_ca61_49be_45e5);
        // `vectors_sip64` and `vectors_sip128` of the reference implementation, lengths 0 and 1.
        assert_eq!(hash_64(REFERENCE_KEY, b""), 0x726f_db47_dd0e_0e31);
        assert_eq!(
            u128::from_be_bytes(hash_128(REFERENCE_KEY, b"")),
            0xa381_7f04_ba25_a8e6_6df6_7214_c755_0293
        );
        assert_eq!(
            u128::from_be_bytes(hash_128(REFERENCE_KEY, &data[..1])),
            0xda87_c1d8_6b99_af44_3476_5911_9b22_fc45
        );
    }

    #[test]
    #[allow(deprecated)]
    fn sip_hash_agrees_with_the_one_that_std_once_had_at_every_length() {
        use std::hash::{Hasher, SipHasher};
        let data: Vec<u8> = (0..=255).cycle().take(300).collect();
        for length in 0..data.len() {
            let mut theirs = SipHasher::new_with_keys(REFERENCE_KEY.0, REFERENCE_KEY.1);
            theirs.write(&data[..length]);
            assert_eq!(
                hash_64(REFERENCE_KEY, &data[..length]),
                theirs.finish(),
                "length {length}"
            );
        }
    }

    #[test]
    #[allow(clippy::cast_precision_loss)]
    fn the_logarithm_is_right_and_never_falls() {
        for power in 0..64u32 {
            assert_eq!(log2(1 << power), u64::from(power) << 32);
        }
        assert!(log2(u64::MAX) < 64 << 32);
        let mut last = 0;
        let mut x = 1u64;
        while x < u64::MAX / 2 {
            let value = log2(x);
            assert!(value >= last);
            let exact = (x as f64).log2();
            assert!(
                (value as f64 / (1u64 << 32) as f64 - exact).abs() < 1e-8,
                "{x}"
            );
            last = value;
            x += x / 97 + 1;
        }
    }
}
