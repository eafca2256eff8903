//! A value that one thread replaces and other threads follow: each looks with one atomic load where
//! its next round begins, takes the lock only when there is another value, and is woken when there
//! is.
//!
//! Read next: `live.rs`, what is published.

use std::sync::Arc;

use crate::net::lock::lock;
use crate::net::sync::{AtomicUsize, Mutex, Ordering};
use crate::net::waker::Waker;

/// The value that is live.
#[derive(Debug)]
pub(crate) struct Published<T> {
    /// Counts the values. Written under the lock of `current`.
    generation: AtomicUsize,
    current: Mutex<Arc<T>>,
    /// Woken for each new value.
    followers: Mutex<Vec<Arc<Waker>>>,
}

impl<T> Published<T> {
    /// Begins with this value.
    pub(crate) fn new(first: T) -> Self {
        Self {
            generation: AtomicUsize::new(0),
            current: Mutex::new(Arc::new(first)),
            followers: Mutex::default(),
        }
    }

    /// The value that is live now.
    pub(crate) fn current(&self) -> Arc<T> {
        lock(&self.current).clone()
    }

    /// Makes `next` the value that is live and wakes the threads that follow.
    pub(crate) fn publish(&self, next: T) {
        let next = Arc::new(next);
        let mut current = lock(&self.current);
        let last = std::mem::replace(&mut *current, next);
        // After the value: a thread that sees the number finds at least that value under the lock.
        self.generation.fetch_add(1, Ordering::Release);
        drop(current);
        // It may be the last one that has it, and frees what it holds.
        drop(last);
        // After the number: a thread that is woken must see it.
        lock(&self.followers).iter().for_each(|waker| waker.wake());
    }
}

/// One thread's view: the value by which it goes until it looks again.
#[derive(Debug)]
pub(crate) struct View<T> {
    seen: usize,
    value: Arc<T>,
}

impl<T> View<T> {
    /// Begins with the value that is live. `waker` is woken for each that follows; see `look`.
    pub(crate) fn new(published: &Published<T>, waker: Arc<Waker>) -> Self {
        // Before the first look: one that is published in between is seen now or wakes it.
        lock(&published.followers).push(waker);
        View::unwoken(published)
    }

    /// The same for a thread that is woken in another way.
    pub(crate) fn unwoken(published: &Published<T>) -> Self {
        let current = lock(&published.current);
        let (seen, value) = (
            published.generation.load(Ordering::Relaxed),
            current.clone(),
        );
        drop(current);
        Self { seen, value }
    }

    /// Takes up the newest value; returns whether it is another one. To be called after the waker
    /// is cleared and before the thread waits for it.
    pub(crate) fn look(&mut self, published: &Published<T>) -> bool {
        if published.generation.load(Ordering::Acquire) == self.seen {
            return false;
        }
        let current = lock(&published.current);
        self.seen = published.generation.load(Ordering::Relaxed);
        let last = std::mem::replace(&mut self.value, current.clone());
        drop(current);
        drop(last);
        true
    }

    /// The value itself, for a thread that keeps it.
    pub(crate) fn value(&self) -> &Arc<T> {
        &self.value
    }
}
