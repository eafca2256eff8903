//! How the listener hands connections to a worker: a bounded channel, and a waker that is used only
//! when the worker sleeps.
//!
//! The worker announces that it is going to sleep and then looks at the channel once more; the
//! listener puts a connection in and then looks whether the worker sleeps. Whatever the order,
//! one of them sees the other, and a busy worker costs the listener no system call. In the same way
//! any thread can call a worker to look at what was left for it elsewhere.
//!
//! Read next: `worker.rs`, which takes them over.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use crate::net::admission::{PAUSE, SILENCE};
use crate::net::clock::{Millis, NEVER};
use crate::net::sync::{
    AtomicBool, AtomicU32, AtomicUsize, Ordering, Receiver, Sender, TryRecvError, TrySendError,
    bounded,
};
use crate::net::waker::Waker;

/// Connections that wait for a worker; with more the listener waits, and then the kernel's backlog.
const WAITING_MAX: usize = 1024;

/// A connection just accepted.
pub(crate) type Accepted = (TcpStream, SocketAddr);

/// One worker, as the listener sees it.
#[derive(Debug)]
pub(crate) struct Mailbox {
    /// Wakes the worker.
    pub waker: Arc<Waker>,
    receiver: Receiver<Accepted>,
    sleeps: AtomicBool,
    /// Something was left for the worker elsewhere.
    called: AtomicBool,
    /// Connections handed over and not yet closed.
    load: AtomicUsize,
    /// Since when the longest idle client that has had an answer has been idle.
    answered_since: Since,
    /// Since when the longest idle client that has had none has been idle.
    silent_since: Since,
    /// The worker is asked to close its longest idle client.
    room_asked: AtomicBool,
}

/// A moment on the workers' clock, or none. Its low 32 bits are enough: they turn over after 49
/// days, and no connection is idle for more than one.
#[derive(Debug)]
struct Since(AtomicU32);

impl Since {
    const NONE: u32 = u32::MAX;

    /// `NEVER` is none.
    fn set(&self, moment: Millis) {
        let low = low_bits(moment);
        // One moment has the low bits of none; a millisecond earlier does as well.
        let is_mistakable = low == Self::NONE && moment != NEVER;
        self.0
            .store(low - u32::from(is_mistakable), Ordering::Relaxed);
    }

    /// The time from this moment to `now`; none where another thread's clock is ahead.
    fn age(&self, now: Millis) -> Option<Duration> {
        let since = self.0.load(Ordering::Relaxed);
        let age = low_bits(now).wrapping_sub(since);
        let age = if age > u32::MAX / 2 { 0 } else { age };
        (since != Self::NONE).then_some(Duration::from_millis(age.into()))
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "what is cut off is the same for all moments that are compared"
)]
fn low_bits(moment: Millis) -> u32 {
    moment as u32
}

/// The listener's end of a mailbox. When it is gone, no more connections will come.
#[derive(Debug)]
pub(crate) struct MailboxSender {
    sender: Sender<Accepted>,
    mailbox: Arc<Mailbox>,
    // Fields are dropped in their order: when this one wakes the worker, the sender is gone.
    _last_wake: WakeOnDrop,
}

/// Tells the worker that its listener has ended.
#[derive(Debug)]
struct WakeOnDrop(Arc<Waker>);

impl Drop for WakeOnDrop {
    fn drop(&mut self) {
        self.0.wake();
    }
}

/// A mailbox and the end to put things into.
pub(crate) fn mailbox() -> io::Result<(Arc<Mailbox>, MailboxSender)> {
    let (sender, receiver) = bounded(WAITING_MAX);
    let mailbox = Arc::new(Mailbox {
        waker: Arc::new(Waker::new()?),
        receiver,
        sleeps: AtomicBool::new(false),
        called: AtomicBool::new(false),
        load: AtomicUsize::new(0),
        answered_since: Since(AtomicU32::new(Since::NONE)),
        silent_since: Since(AtomicU32::new(Since::NONE)),
        room_asked: AtomicBool::new(false),
    });
    let sender = MailboxSender {
        sender,
        mailbox: mailbox.clone(),
        _last_wake: WakeOnDrop(mailbox.waker.clone()),
    };
    Ok((mailbox, sender))
}

impl MailboxSender {
    /// Hands a connection over; `wake` must follow. Waits while the mailbox is full: a worker takes
    /// connections over before everything else.
    pub(crate) fn send(&self, accepted: Accepted) {
        self.mailbox.load.fetch_add(1, Ordering::Relaxed);
        if let Err(TrySendError::Full(accepted)) = self.sender.try_send(accepted) {
            self.wake();
            // `send` fails only when the receiver is gone, and we hold it through `mailbox`.
            let _ = self.sender.send(accepted);
        }
    }

    /// Wakes the worker if it sleeps. Once for all that was handed over since the last time: on
    /// connections of one request the hand-over is most of the cost.
    pub(crate) fn wake(&self) {
        self.mailbox.wake();
    }

    /// How many connections the worker has.
    pub(crate) fn load(&self) -> usize {
        self.mailbox.load.load(Ordering::Relaxed)
    }

    /// For how many milliseconds the worker's client that would make room has been idle, if one may
    /// make room now.
    pub(crate) fn idle_ms(&self, now: Millis) -> Option<u32> {
        let idle = self.idle(now).into_iter().flatten();
        idle.filter(|(age, wait)| age >= wait)
            .map(|(age, _)| u32::try_from(age.as_millis()).unwrap_or(u32::MAX))
            .max()
    }

    /// In how much time the worker's next client may make room that may not now.
    pub(crate) fn may_close_in(&self, now: Millis) -> Option<Duration> {
        let idle = self.idle(now).into_iter().flatten();
        idle.map(|(age, wait)| wait.saturating_sub(age))
            .filter(|left| !left.is_zero())
            .min()
    }

    /// Of each kind, for how long the longest idle client has been idle, and for how long it must
    /// be.
    fn idle(&self, now: Millis) -> [Option<(Duration, Duration)>; 2] {
        let Mailbox {
            answered_since,
            silent_since,
            ..
        } = &*self.mailbox;
        [
            answered_since.age(now).map(|age| (age, PAUSE)),
            silent_since.age(now).map(|age| (age, SILENCE)),
        ]
    }

    /// Asks the worker to close its longest idle client.
    pub(crate) fn ask_for_room(&self) {
        self.mailbox.room_asked.store(true, Ordering::SeqCst);
        self.mailbox.waker.wake();
    }
}

impl Mailbox {
    /// What a full one takes; the channel has a number beside each connection.
    pub(crate) const BYTES: usize = WAITING_MAX * (size_of::<Accepted>() + size_of::<usize>());

    /// Lets the worker wait for its waker and its sockets. `wait` is told whether it may sleep:
    /// neither with work left nor with a connection to take over.
    pub(crate) fn rest<T>(&self, has_work: bool, wait: impl FnOnce(bool) -> T) -> T {
        let may_sleep = !has_work && self.fall_asleep();
        let waited = wait(may_sleep);
        self.wake_up();
        waited
    }

    /// Wakes the worker if it sleeps.
    fn wake(&self) {
        if self.sleeps.load(Ordering::SeqCst) && self.sleeps.swap(false, Ordering::SeqCst) {
            self.waker.wake();
        }
    }

    /// Calls the worker, for which something was left elsewhere. A worker that calls itself is awake.
    pub(crate) fn call(&self) {
        self.called.store(true, Ordering::SeqCst);
        self.wake();
    }

    /// Whether the worker was called since the last time; to be asked before it looks.
    #[inline]
    pub(crate) fn take_call(&self) -> bool {
        self.called.load(Ordering::Relaxed) && self.called.swap(false, Ordering::SeqCst)
    }

    /// Announces that the worker is about to sleep. False: something is there, so it must not.
    fn fall_asleep(&self) -> bool {
        // Before the looks: a connection or a call that comes after them wakes it.
        self.sleeps.store(true, Ordering::SeqCst);
        self.receiver.is_empty() && !self.called.load(Ordering::SeqCst)
    }

    /// The worker is awake and needs no waker.
    fn wake_up(&self) {
        self.sleeps.store(false, Ordering::SeqCst);
    }

    /// The next connection. `Err(true)`: none will come any more. This end wakes the worker once; a
    /// worker that has not seen an `Err` since then must not sleep.
    pub(crate) fn receive(&self) -> Result<Accepted, bool> {
        self.receiver
            .try_recv()
            .map_err(|error| error == TryRecvError::Disconnected)
    }

    /// Counts a connection as closed.
    pub(crate) fn closed_one(&self) {
        self.load.fetch_sub(1, Ordering::Relaxed);
    }

    /// Tells the listener since when the longest idle clients have been idle: of those that have
    /// had an answer, and of those that have not; `NEVER` where there is none.
    pub(crate) fn publish_idle(&self, answered: Millis, silent: Millis) {
        self.answered_since.set(answered);
        self.silent_since.set(silent);
    }

    /// Whether the listener has asked for room since the last call.
    pub(crate) fn is_room_asked(&self) -> bool {
        self.room_asked.load(Ordering::Relaxed) && self.room_asked.swap(false, Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::net::poller::{Events, Poller};

    fn connection() -> Accepted {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let address = stream.local_addr().unwrap();
        (stream, address)
    }

    #[test]
    fn a_worker_that_falls_asleep_after_a_hand_over_is_told_not_to() {
        let (mailbox, sender) = mailbox().unwrap();
        assert!(mailbox.fall_asleep());
        mailbox.wake_up();
        sender.send(connection());
        assert!(!mailbox.fall_asleep());
        assert!(mailbox.receive().is_ok());
    }

    #[test]
    fn a_sleeping_worker_is_woken_by_a_hand_over() {
        let (mailbox, sender) = mailbox().unwrap();
        let poller = Poller::new(&mailbox.waker).unwrap();
        assert!(mailbox.fall_asleep());
        sender.send(connection());
        sender.send(connection());
        sender.wake();
        // Would wait for ever without the waker.
        poller.wait(&mut Events::default(), None).unwrap();
        assert_eq!(sender.load(), 2);
        assert!(mailbox.receive().is_ok());
        mailbox.closed_one();
        assert_eq!(sender.load(), 1);
    }

    #[test]
    fn the_worker_learns_that_no_more_will_come() {
        let (mailbox, sender) = mailbox().unwrap();
        sender.send(connection());
        drop(sender);
        assert!(mailbox.receive().is_ok());
        assert!(mailbox.receive().unwrap_err());
    }

    #[test]
    fn to_be_asked_for_room_twice_is_to_be_asked_once() {
        let (mailbox, sender) = mailbox().unwrap();
        sender.ask_for_room();
        sender.ask_for_room();
        assert!(mailbox.is_room_asked() && !mailbox.is_room_asked());
    }

    #[test]
    fn the_listener_sees_how_long_clients_have_been_idle() {
        let (mailbox, sender) = mailbox().unwrap();
        let seen = |now| (sender.idle_ms(now), sender.may_close_in(now));
        assert_eq!(seen(5), (None, None));
        for turns in [0, 1, 7] {
            // Around the moment at which the low bits turn over.
            let base = (turns << 32) - u64::from(turns > 0) * 10;
            let ms = |ms| Some(Duration::from_millis(ms));
            mailbox.publish_idle(base + 15, base);
            assert_eq!(seen(base + 5), (None, ms(100)), "a clock that is ahead");
            assert_eq!(seen(base + 114), (None, ms(1)));
            assert_eq!(seen(base + 115), (Some(100), ms(885)));
            assert_eq!(seen(base + 1000), (Some(1000), None));
            mailbox.publish_idle(NEVER, base);
            assert_eq!(seen(base + 999), (None, ms(1)));
        }
        // The one moment that means none is a millisecond earlier.
        mailbox.publish_idle(u64::from(u32::MAX), NEVER);
        assert_eq!(sender.idle_ms(u64::from(u32::MAX) + 200), Some(201));
    }
}
