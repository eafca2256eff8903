//! A 64-bit atomic on every target: std's, or that of `portable-atomic` where the processor has
//! none (mips, powerpc).

#[cfg(not(target_has_atomic = "64"))]
pub(crate) use portable_atomic::AtomicU64;
#[cfg(target_has_atomic = "64")]
pub(crate) use std::sync::atomic::AtomicU64;
