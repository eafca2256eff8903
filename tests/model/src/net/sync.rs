//! What the hand-over is made of: shuttle's types, and a bounded channel made of them.

use std::collections::VecDeque;
use std::sync::Arc;

pub(crate) use crossbeam_channel::{SendError, TryRecvError, TrySendError};
pub(crate) use shuttle::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
pub(crate) use shuttle::sync::{Condvar, Mutex, MutexGuard};

use crate::net::lock::lock;

/// A full channel is a case of its own, and should be seen.
const ROOM_MAX: usize = 2;

#[derive(Debug)]
struct Channel<T> {
    state: Mutex<State<T>>,
    has_room: Condvar,
    room: usize,
}

#[derive(Debug)]
struct State<T> {
    waiting: VecDeque<T>,
    has_sender: bool,
}

#[derive(Debug)]
pub(crate) struct Sender<T>(Arc<Channel<T>>);

#[derive(Debug)]
pub(crate) struct Receiver<T>(Arc<Channel<T>>);

pub(crate) fn bounded<T>(room: usize) -> (Sender<T>, Receiver<T>) {
    let channel = Arc::new(Channel {
        state: Mutex::new(State {
            waiting: VecDeque::new(),
            has_sender: true,
        }),
        has_room: Condvar::new(),
        room: room.min(ROOM_MAX),
    });
    (Sender(channel.clone()), Receiver(channel))
}

impl<T> Sender<T> {
    pub(crate) fn try_send(&self, item: T) -> Result<(), TrySendError<T>> {
        let mut state = lock(&self.0.state);
        if state.waiting.len() == self.0.room {
            return Err(TrySendError::Full(item));
        }
        state.waiting.push_back(item);
        Ok(())
    }

    /// Waits while it is full.
    #[expect(
        clippy::unnecessary_wraps,
        reason = "crossbeam's fails without a receiver"
    )]
    pub(crate) fn send(&self, item: T) -> Result<(), SendError<T>> {
        let mut state = lock(&self.0.state);
        while state.waiting.len() == self.0.room {
            state = self.0.has_room.wait(state).unwrap();
        }
        state.waiting.push_back(item);
        Ok(())
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        lock(&self.0.state).has_sender = false;
    }
}

impl<T> Receiver<T> {
    /// As crossbeam's: an end that has come is no item.
    pub(crate) fn is_empty(&self) -> bool {
        lock(&self.0.state).waiting.is_empty()
    }

    pub(crate) fn try_recv(&self) -> Result<T, TryRecvError> {
        let mut state = lock(&self.0.state);
        match state.waiting.pop_front() {
            Some(item) => {
                self.0.has_room.notify_one();
                Ok(item)
            }
            None if state.has_sender => Err(TryRecvError::Empty),
            None => Err(TryRecvError::Disconnected),
        }
    }
}
