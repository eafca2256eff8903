//! Readiness, wake-up and deadlines: the one place where a worker waits.
//!
//! Every socket is registered once, edge-triggered, for both directions. So a request costs no
//! `epoll_ctl`, and an event means only that something *became* possible: the worker notes it in
//! the connection and tries until the kernel returns "would block".
//!
//! Read next: `net/connection.rs`, which remembers the events.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{Timespec, epoll};
use rustix::io::Errno;

use crate::net::slab::Key;
use crate::net::waker::Waker;

/// What an event says about a socket.
pub(crate) type Readiness = epoll::EventFlags;

/// Events taken from the kernel at once.
pub(crate) const EVENTS_MAX: usize = 256;

/// The token of the eventfd. No socket has it, since indices stay below 2^31.
const WAKE_TOKEN: u64 = u64::MAX;

/// In a token: the socket is a backend's.
const BACKEND_BIT: u64 = 1 << 63;

/// The socket of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// A client's connection.
    Client(Key),
    /// A backend's connection.
    Backend(Key),
}

impl Source {
    fn token(self) -> u64 {
        let (bit, key) = match self {
            Source::Client(key) => (0, key),
            Source::Backend(key) => (BACKEND_BIT, key),
        };
        bit | u64::from(key.generation) << 32 | u64::from(key.index)
    }

    fn from_token(token: u64) -> Self {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the halves of a token are cut out here"
        )]
        let key = Key {
            index: token as u32,
            generation: (token >> 32) as u32 & 0x7fff_ffff,
        };
        if token & BACKEND_BIT == 0 {
            Source::Client(key)
        } else {
            Source::Backend(key)
        }
    }
}

/// An epoll instance.
#[derive(Debug)]
pub(crate) struct Poller {
    epoll: OwnedFd,
}

/// Whether a wait has returned all that was ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Brought {
    /// All of it.
    All,
    /// Perhaps not all: no deadline may be judged before the next look.
    Part,
}

/// The events that a wait brought. It stays on the thread that waits.
pub(crate) struct Events(Vec<epoll::Event>);

impl Poller {
    /// A poller that `waker` wakes.
    pub(crate) fn new(waker: &Waker) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        // Edge-triggered: each write to the eventfd is an event, and it need not be read empty.
        let flags = Readiness::IN | Readiness::ET;
        epoll::add(&epoll, waker, epoll::EventData::new_u64(WAKE_TOKEN), flags)?;
        Ok(Self { epoll })
    }

    /// Registers a socket for every event. Closing the socket ends the registration.
    pub(crate) fn register(&self, socket: impl AsFd, source: Source) -> io::Result<()> {
        let flags = Readiness::IN | Readiness::OUT | Readiness::RDHUP | Readiness::ET;
        epoll::add(
            &self.epoll,
            socket,
            epoll::EventData::new_u64(source.token()),
            flags,
        )?;
        Ok(())
    }

    /// Waits for events, at most for `timeout` (`None`: for ever). The waker ends the wait without
    /// an event; so does a signal (EINTR), after which nothing is known about events.
    pub(crate) fn wait(
        &self,
        events: &mut Events,
        timeout: Option<Duration>,
    ) -> io::Result<Brought> {
        events.0.clear();
        let timeout = timeout.map(|left| Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        });
        let buffer = rustix::buffer::spare_capacity(&mut events.0);
        match epoll::wait(&self.epoll, buffer, timeout.as_ref()) {
            Ok(_) if events.0.len() < events.0.capacity() => Ok(Brought::All),
            Ok(_) | Err(Errno::INTR) => Ok(Brought::Part),
            Err(error) => Err(error.into()),
        }
    }
}

impl Default for Events {
    fn default() -> Self {
        Self(Vec::with_capacity(EVENTS_MAX))
    }
}

impl Events {
    /// What they take.
    pub(crate) const BYTES: usize = EVENTS_MAX * size_of::<epoll::Event>();

    /// What the last wait brought.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Source, Readiness)> + '_ {
        let of_socket = |event: &&epoll::Event| event.data.u64() != WAKE_TOKEN;
        self.0
            .iter()
            .filter(of_socket)
            .map(|event| (Source::from_token(event.data.u64()), event.flags))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;

    use super::*;

    const KEY: Key = Key {
        index: 7,
        generation: 3,
    };

    #[test]
    fn a_token_carries_the_source_there_and_back() {
        let edge = Key {
            index: 0x7fff_ffff,
            generation: 0x7fff_fffe,
        };
        for source in [
            Source::Client(KEY),
            Source::Backend(KEY),
            Source::Client(edge),
            Source::Backend(edge),
        ] {
            assert_eq!(Source::from_token(source.token()), source);
            assert_ne!(source.token(), WAKE_TOKEN);
        }
    }

    #[test]
    fn each_wake_up_ends_a_wait_though_none_is_cleared_in_between() {
        let waker = Waker::new().unwrap();
        let mut events = Events::default();
        let poller = Poller::new(&waker).unwrap();
        for _ in 0..3 {
            waker.wake();
            assert_eq!(poller.wait(&mut events, None).unwrap(), Brought::All);
            assert_eq!(events.iter().count(), 0);
        }
    }

    #[test]
    fn a_full_batch_is_not_taken_for_all_events() {
        let (one, other) = UnixStream::pair().unwrap();
        let waker = Waker::new().unwrap();
        let poller = Poller::new(&waker).unwrap();
        let mut events = Events::default();
        // Each copy of the descriptor is an entry of its own, writable from the start.
        let copies: Vec<UnixStream> = (0..EVENTS_MAX).map(|_| one.try_clone().unwrap()).collect();
        for copy in &copies {
            poller.register(copy, Source::Client(KEY)).unwrap();
        }
        let at_once = Some(Duration::ZERO);
        assert_eq!(poller.wait(&mut events, at_once).unwrap(), Brought::Part);
        assert_eq!(events.iter().count(), EVENTS_MAX);
        assert_eq!(poller.wait(&mut events, at_once).unwrap(), Brought::All);
        assert_eq!(events.iter().count(), 0);
        drop(other);
    }

    #[test]
    fn a_socket_reports_what_became_possible_and_then_keeps_silent() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (far, _) = listener.accept().unwrap();
        let mut events = Events::default();
        let poller = Poller::new(&Waker::new().unwrap()).unwrap();
        poller.register(&far, Source::Client(KEY)).unwrap();
        near.write_all(b"x").unwrap();
        let mut seen = Readiness::empty();
        while !seen.contains(Readiness::IN | Readiness::OUT) {
            poller.wait(&mut events, None).unwrap();
            for (source, flags) in events.iter() {
                assert_eq!(source, Source::Client(KEY));
                seen |= flags;
            }
        }
        poller.wait(&mut events, Some(Duration::ZERO)).unwrap();
        assert_eq!(events.iter().count(), 0);
        drop(near);
        poller.wait(&mut events, None).unwrap();
        assert!(
            events
                .iter()
                .all(|(_, flags)| flags.contains(Readiness::RDHUP))
        );
    }
}
