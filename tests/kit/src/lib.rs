//! What the tests and the fuzz targets stand on: raw backends, raw clients, a strict reader of what
//! passes between them, and the corpus.
//!
//! Only `memory.rs` runs code of `src/`: a mistake in the product's parser must not be repeated by
//! what checks it. A test is a script that reads from the top: client does, backend does, expect.
//! Waiting is for a condition, under one generous limit (`PATIENCE`); what must *not* happen is
//! shown by something later that did. Read `strict.rs` next.

// Unwrapping is how a test fails.
#![allow(clippy::unwrap_used)]
#![allow(missing_docs, reason = "names say enough to those who write tests")]

pub mod backend;
pub mod case;
pub mod client;
pub mod dead;
pub mod exposition;
pub mod memory;
pub mod origin;
pub mod strict;
pub mod wire;

pub use backend::{Addressed, Backend, Holding};
pub use client::Client;
pub use dead::{Refusing, Unreachable};
pub use origin::Origin;
pub use wire::{End, Request, Response, Wire};

use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// How long anything may take before a test gives up; far beyond what the slowest machine needs.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `condition` holds.
#[track_caller]
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(
            Instant::now() < deadline,
            "waited {PATIENCE:?} in vain until {what}"
        );
        std::thread::sleep(Duration::from_millis(3));
    }
}

/// `length` bytes that show when some are lost, doubled or out of order.
pub fn pattern(length: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_u32;
    (0..length)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .collect()
}

/// The lengths at which buffers begin, end and overflow.
pub const EDGE_LENGTHS: [usize; 12] = [
    0, 1, 2, 4095, 4096, 16_383, 16_384, 16_385, 65_535, 65_536, 65_537, 300_000,
];

/// `data` in chunked coding, `size` bytes a chunk.
pub fn chunked(data: &[u8], size: usize) -> Vec<u8> {
    let mut coded = Vec::new();
    for chunk in data.chunks(size) {
        coded.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        coded.extend_from_slice(chunk);
        coded.extend_from_slice(b"\r\n");
    }
    coded.extend_from_slice(b"0\r\n\r\n");
    coded
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
