//! A lock that the model checker knows; it is never poisoned, since a panic ends the check.

use crate::net::sync::{Mutex, MutexGuard};

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap()
}
