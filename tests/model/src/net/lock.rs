//! Locks that the model checker knows; they are never poisoned, since a panic ends the check.

use std::time::Duration;

use crate::net::sync::{Condvar, Mutex, MutexGuard};

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap()
}

/// As the model's waker, it waits for a notice however short the patience.
pub(crate) fn wait<'a, T>(
    condition: &Condvar,
    guard: MutexGuard<'a, T>,
    _patience: Duration,
) -> MutexGuard<'a, T> {
    condition.wait(guard).unwrap()
}
