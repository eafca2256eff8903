//! How the listener hands connections to a worker: a bounded channel, and a bell that is rung only
//! when the worker sleeps.
//!
//! The worker announces that it is going to sleep and then looks at the channel once more; the
//! listener puts a connection in and then looks whether the worker sleeps. Whatever the order,
//! one of them sees the other, and a busy worker costs the listener no system call.
//!
//! Read next: worker.rs.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use crossbeam_channel::{Receiver, Sender, TryRecvError, TrySendError, bounded};

use crate::net::atomic::AtomicU64;
use crate::net::clock::{Millis, NEVER};
use crate::net::waker::Bell;

/// Connections that wait for a worker; with more the listener waits, and then the kernel's backlog.
const WAITING_MAX: usize = 1024;

/// A connection just accepted.
pub(crate) type Accepted = (TcpStream, SocketAddr);

/// One worker, as the listener sees it.
#[derive(Debug)]
pub(crate) struct Mailbox {
    /// Wakes the worker.
    pub bell: Bell,
    receiver: Receiver<Accepted>,
    sleeps: AtomicBool,
    /// Connections handed over and not yet closed.
    load: AtomicUsize,
    /// Since when the worker's longest idle client has been idle.
    oldest_idle: AtomicU64,
    /// Idle clients that the worker is asked to close, to make room.
    to_evict: AtomicU32,
}

/// The listener's end of a mailbox. When it is gone, no more connections will come.
#[derive(Debug)]
pub(crate) struct MailboxSender {
    mailbox: std::sync::Arc<Mailbox>,
    sender: Sender<Accepted>,
}

/// A mailbox and the end to put things into.
pub(crate) fn mailbox() -> io::Result<(std::sync::Arc<Mailbox>, MailboxSender)> {
    let (sender, receiver) = bounded(WAITING_MAX);
    let mailbox = std::sync::Arc::new(Mailbox {
        bell: Bell::new()?,
        receiver,
        sleeps: AtomicBool::new(false),
        load: AtomicUsize::new(0),
        oldest_idle: AtomicU64::new(NEVER),
        to_evict: AtomicU32::new(0),
    });
    Ok((mailbox.clone(), MailboxSender { mailbox, sender }))
}

impl MailboxSender {
    /// Hands a connection over; `wake` must follow. Waits while the mailbox is full: a worker takes connections over
    /// before everything else.
    pub(crate) fn send(&self, accepted: Accepted) {
        self.mailbox.load.fetch_add(1, Ordering::Relaxed);
        if let Err(TrySendError::Full(accepted)) = self.sender.try_send(accepted) {
            self.wake();
            // It fails without a receiver only, and the mailbox, which is ours too, has it.
            let _ = self.sender.send(accepted);
        }
    }

    /// Rings if the worker sleeps. Once for all that was handed over since the last time: on
    /// connections of one request the hand-over is most of the cost.
    pub(crate) fn wake(&self) {
        if self.mailbox.sleeps.load(Ordering::SeqCst)
            && self.mailbox.sleeps.swap(false, Ordering::SeqCst)
        {
            self.mailbox.bell.ring();
        }
    }

    /// How many connections the worker has.
    pub(crate) fn load(&self) -> usize {
        self.mailbox.load.load(Ordering::Relaxed)
    }

    /// Since when the worker's longest idle client has been idle.
    pub(crate) fn oldest_idle(&self) -> Millis {
        self.mailbox.oldest_idle.load(Ordering::Relaxed)
    }

    /// Asks the worker to close its longest idle client.
    pub(crate) fn ask_for_room(&self) {
        self.mailbox.to_evict.fetch_add(1, Ordering::SeqCst);
        self.mailbox.bell.ring();
    }
}

impl Mailbox {
    /// Announces that the worker is about to sleep. False: something is there, so it must not.
    pub(crate) fn fall_asleep(&self) -> bool {
        self.sleeps.store(true, Ordering::SeqCst);
        self.receiver.is_empty()
    }

    /// The worker is awake and needs no bell.
    pub(crate) fn wake_up(&self) {
        self.sleeps.store(false, Ordering::SeqCst);
    }

    /// The next connection. `Err(true)`: none will come any more.
    pub(crate) fn receive(&self) -> Result<Accepted, bool> {
        self.receiver
            .try_recv()
            .map_err(|error| error == TryRecvError::Disconnected)
    }

    /// Counts a connection as closed.
    pub(crate) fn closed_one(&self) {
        self.load.fetch_sub(1, Ordering::Relaxed);
    }

    /// Tells the listener how old the longest idle client is.
    pub(crate) fn publish_oldest_idle(&self, since: Millis) {
        self.oldest_idle.store(since, Ordering::Relaxed);
    }

    /// How many idle clients the listener has asked to close since the last call.
    pub(crate) fn take_evictions(&self) -> u32 {
        if self.to_evict.load(Ordering::Relaxed) == 0 {
            0
        } else {
            self.to_evict.swap(0, Ordering::SeqCst)
        }
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
        let poller = Poller::new(&mailbox.bell).unwrap();
        assert!(mailbox.fall_asleep());
        sender.send(connection());
        sender.send(connection());
        sender.wake();
        // Would wait for ever if nobody had rung.
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
    fn evictions_are_taken_once() {
        let (mailbox, sender) = mailbox().unwrap();
        sender.ask_for_room();
        sender.ask_for_room();
        assert_eq!((mailbox.take_evictions(), mailbox.take_evictions()), (2, 0));
    }
}
