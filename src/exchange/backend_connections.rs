//! A worker's connections to backends: lent to an exchange, or idle and waiting for the next.
//!
//! A connection moves between the two and is registered with the poller once, so its token leads
//! here, and here stands who has it now. Idle ones are used last in, first out: the fewest stay
//! open, and those that do are fresh.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::net::TcpStream;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use crate::net::clock::{Millis, NEVER};
use crate::net::connection::Connection;
use crate::net::poller::{Poller, Readiness, Source};
use crate::net::slab::{Key, Slab};
use crate::net::syscalls::connect;
use crate::pool::backend::Backend;

/// A connection to a backend in the hands of an exchange.
#[derive(Debug)]
pub(crate) struct BackendConnection {
    /// The socket.
    pub connection: Connection,
    /// Whether it has carried an exchange before.
    pub reused: bool,
    key: Key,
}

/// All of a worker's connections to backends.
#[derive(Debug)]
pub(crate) struct BackendConnections {
    places: Slab<Place>,
    /// For each backend by its index, the one idle longest first.
    idle: Vec<VecDeque<Idle>>,
    /// Before this none of them expires. It may be too early, since those that are lent again do not move it.
    next_expiry: Millis,
    /// How many there may be beyond one for each client.
    idle_max: usize,
    /// How many there may be.
    max: usize,
}

#[derive(Debug)]
enum Place {
    Lent {
        client: Key,
    },
    Idle {
        backend: usize,
        connection: Connection,
    },
}

#[derive(Debug)]
struct Idle {
    key: Key,
    expires: Millis,
}

impl BackendConnections {
    /// What one takes, idle or lent; the buffers of a lent one belong to its exchange.
    pub(crate) const BYTES_EACH: usize = Slab::<Place>::BYTES_EACH + 2 * size_of::<Idle>();

    /// What lies free beside them.
    pub(crate) const BLOCK_BYTES: usize = Slab::<Place>::BLOCK_BYTES;

    /// At most `idle_max` beyond one for each client.
    pub(crate) fn new(idle_max: usize) -> Self {
        Self {
            places: Slab::default(),
            idle: Vec::new(),
            next_expiry: NEVER,
            idle_max,
            max: idle_max,
        }
    }

    /// The worker has so many clients now: closes idle connections beyond what is left for them.
    pub(crate) fn set_clients(&mut self, count: usize, backends: &[std::sync::Arc<Backend>]) {
        self.max = self.idle_max.saturating_add(count);
        while self.places.len() > self.max && self.close_oldest(backends) {}
    }

    /// Closes the connection that has been idle longest, if there is an idle one.
    fn close_oldest(&mut self, backends: &[std::sync::Arc<Backend>]) -> bool {
        let all = self.idle.iter_mut().zip(backends);
        let oldest = all
            .filter(|(idle, _)| !idle.is_empty())
            .min_by_key(|(idle, _)| idle.front().map(|oldest| oldest.expires));
        let Some((closed, backend)) = oldest.and_then(|(idle, b)| Some((idle.pop_front()?, b)))
        else {
            return false;
        };
        self.places.remove(closed.key);
        backend.release_idle();
        true
    }

    /// How many there are, idle and lent.
    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there is memory to give back.
    pub(crate) fn has_unused(&self) -> bool {
        self.places.has_unused()
    }

    /// Gives back the memory of connections that are closed.
    pub(crate) fn give_back(&mut self) {
        self.places.give_back();
        for idle in &mut self.idle {
            if idle.is_empty() {
                idle.shrink_to_fit();
            }
        }
    }

    /// Begins to connect for `client`. The connection is there once the poller says it is writable. An idle connection
    /// to any of `backends` makes room for it where need be.
    pub(crate) fn open(
        &mut self,
        address: SocketAddr,
        client: Key,
        poller: &Poller,
        backends: &[std::sync::Arc<Backend>],
    ) -> io::Result<BackendConnection> {
        if self.places.len() >= self.max {
            self.close_oldest(backends);
        }
        let family = if address.is_ipv4() {
            AddressFamily::INET
        } else {
            AddressFamily::INET6
        };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = || rustix::net::socket_with(family, SocketType::STREAM, flags, None);
        let socket = match socket() {
            Err(Errno::MFILE | Errno::NFILE) if self.close_oldest(backends) => socket()?,
            opened => opened?,
        };
        match connect(&socket, &address) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        // Heads and chunks are sent in one piece; waiting for more would only delay them.
        sockopt::set_tcp_nodelay(&socket, true)?;
        let connection = Connection::connecting(TcpStream::from(socket));
        let key = self.places.insert_with(|_| Place::Lent { client });
        if let Err(error) = poller.register(&connection, Source::Backend(key)) {
            self.places.remove(key);
            return Err(error);
        }
        Ok(BackendConnection {
            connection,
            reused: false,
            key,
        })
    }

    /// Lends the idle connection of `backend` that was used last.
    pub(crate) fn take_idle(
        &mut self,
        backend: &Backend,
        client: Key,
        now: Millis,
    ) -> Option<BackendConnection> {
        let idle = self.idle.get_mut(backend.index)?;
        // The newest one is the last to expire.
        idle.back().filter(|newest| newest.expires > now)?;
        let Idle { key, .. } = idle.pop_back()?;
        backend.release_idle();
        let place = self
            .places
            .get_mut(key)
            .expect("an idle connection keeps its place until it is taken");
        match std::mem::replace(place, Place::Lent { client }) {
            Place::Idle { connection, .. } => Some(BackendConnection {
                connection,
                reused: true,
                key,
            }),
            Place::Lent { .. } => unreachable!("the idle list names idle connections only"),
        }
    }

    /// Keeps a connection whose exchange has ended cleanly until `expires`, or closes it when
    /// `backend` has `idle_max` of them already.
    pub(crate) fn park(
        &mut self,
        lent: BackendConnection,
        backend: &Backend,
        idle_max: usize,
        expires: Millis,
    ) {
        if !backend.reserve_idle(idle_max) {
            self.close(lent);
            return;
        }
        if self.idle.len() <= backend.index {
            self.idle.resize_with(backend.index + 1, VecDeque::new);
        }
        let BackendConnection {
            connection, key, ..
        } = lent;
        let place = self
            .places
            .get_mut(key)
            .expect("a lent connection keeps its place until it comes back");
        *place = Place::Idle {
            backend: backend.index,
            connection,
        };
        self.idle[backend.index].push_back(Idle { key, expires });
        self.next_expiry = self.next_expiry.min(expires);
    }

    /// Closes a lent connection.
    pub(crate) fn close(&mut self, lent: BackendConnection) {
        let BackendConnection {
            connection, key, ..
        } = lent;
        self.places.remove(key);
        drop(connection);
    }

    /// Takes an event. Gives the client whose exchange it is for, or nothing when the connection
    /// was idle: what comes then, bytes or an end, was not asked for, and discards it.
    pub(crate) fn note(
        &mut self,
        key: Key,
        readiness: Readiness,
        backends: &[std::sync::Arc<Backend>],
    ) -> Option<Key> {
        match self.places.get_mut(key)? {
            Place::Lent { client } => Some(*client),
            Place::Idle { backend, .. } => {
                let backend = *backend;
                if readiness != Readiness::OUT {
                    self.idle[backend].retain(|idle| idle.key != key);
                    self.places.remove(key);
                    backends[backend].release_idle();
                }
                None
            }
        }
    }

    /// Closes the connections that have been idle too long.
    pub(crate) fn expire(&mut self, now: Millis, backends: &[std::sync::Arc<Backend>]) {
        if self.next_expiry > now {
            return;
        }
        for (idle, backend) in self.idle.iter_mut().zip(backends) {
            while idle.front().is_some_and(|oldest| oldest.expires <= now) {
                let expired = idle.pop_front().expect("its front was just looked at");
                self.places.remove(expired.key);
                backend.release_idle();
            }
        }
        let oldest = self.idle.iter().filter_map(VecDeque::front);
        self.next_expiry = oldest.map(|idle| idle.expires).min().unwrap_or(NEVER);
    }

    /// When `expire` next has something to do, or earlier.
    pub(crate) fn next_expiry(&self) -> Millis {
        self.next_expiry
    }
}
