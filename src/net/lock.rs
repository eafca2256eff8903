//! Locks that are taken even when poisoned.
//!
//! What these locks guard is valid after every single statement, so a holder that panics leaves
//! nothing half done; to refuse would turn one lost connection into a dead balancer. Only this file
//! decides it.

use std::sync::{
    Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
};
use std::time::Duration;

/// Locks a mutex, poisoned or not.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Releases a mutex until another thread notifies, or for as long as `patience`.
pub(crate) fn wait<'a, T>(
    condition: &Condvar,
    guard: MutexGuard<'a, T>,
    patience: Duration,
) -> MutexGuard<'a, T> {
    let waited = condition.wait_timeout(guard, patience);
    waited.unwrap_or_else(PoisonError::into_inner).0
}

/// Locks for reading, poisoned or not.
pub(crate) fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

/// Locks for writing, poisoned or not.
pub(crate) fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_poisoned_lock_is_recovered() {
        let (mutex, shared) = (Mutex::new(7), RwLock::new(8));
        std::thread::scope(|scope| {
            let poisoner = scope.spawn(|| {
                let _mutex = mutex.lock().unwrap();
                let _shared = shared.write().unwrap();
                panic!("poison both, on purpose");
            });
            assert!(poisoner.join().is_err());
        });
        assert!(mutex.is_poisoned() && shared.is_poisoned());
        assert_eq!(*lock(&mutex), 7);
        assert_eq!(*wait(&Condvar::new(), lock(&mutex), Duration::ZERO), 7);
        assert_eq!(*read(&shared), 8);
        assert_eq!(*write(&shared), 8);
    }
}
