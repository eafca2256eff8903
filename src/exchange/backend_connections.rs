//! A worker's connections to backends: lent to an exchange, or idle and waiting for the next.
//!
//! A connection moves between the two and is registered with the poller once, so its token leads
//! here, where its present holder is known. Idle connections are used last in, first out: the
//! fewest stay open, and those are fresh.

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
use crate::pool::Pool;
use crate::pool::backend::Backend;
use crate::pool::state::{BackendId, IdlePlace};

/// Connections to removed backends that are closed in one turn of the worker: closing one takes
/// some microseconds.
const CLOSED_AT_ONCE_MAX: usize = 64;

/// Idle lists that are looked through for expired connections in a millisecond, on average: with
/// 1,000 backends one may stay open 15 ms too long, which costs nothing, for none is lent then.
const LISTS_PER_MS: u64 = 64;

/// A connection to a backend, lent to an exchange.
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
    /// For each backend of the live pool, in its order.
    idle: Vec<IdleList>,
    /// Idle connections to removed backends, not yet closed.
    leaving: Vec<Key>,
    /// No idle connection expires before this. It may be too early, since lending does not move it.
    next_expiry: Millis,
    /// The lists are not looked through for expired ones before this.
    rests_until: Millis,
    /// How many idle connections there may be beyond one for each client.
    idle_max: usize,
    /// How many connections there may be, idle and lent.
    max: usize,
}

#[derive(Debug)]
enum Place {
    Lent {
        client: Key,
    },
    Idle {
        /// Released when the connection is closed or lent.
        place: IdlePlace,
        connection: Connection,
        /// Where the list of its backend was when it was parked.
        list: usize,
    },
}

/// The idle connections to one backend, longest idle first.
#[derive(Debug)]
struct IdleList {
    backend: BackendId,
    connections: VecDeque<Idle>,
}

#[derive(Debug)]
struct Idle {
    key: Key,
    expires: Millis,
}

impl BackendConnections {
    /// Bytes of one connection here; the buffers of a lent one belong to its exchange.
    pub(crate) const BYTES_EACH: usize = Slab::<Place>::BYTES_EACH + 2 * size_of::<Idle>();

    /// Bytes that lie free beside them.
    pub(crate) const BLOCK_BYTES: usize = Slab::<Place>::BLOCK_BYTES;

    /// Keeps idle connections to the backends of `pool`, at most `idle_max` beyond one for each
    /// client.
    pub(crate) fn new(idle_max: usize, pool: &Pool) -> Self {
        let mut connections = Self {
            places: Slab::default(),
            idle: Vec::new(),
            leaving: Vec::new(),
            next_expiry: NEVER,
            rests_until: 0,
            idle_max: 0,
            max: 0,
        };
        connections.follow(pool, idle_max);
        connections
    }

    /// From now on keeps idle connections to the backends of this pool only. The others are closed
    /// by `expire`, a few at a time: there may be many, and other clients wait.
    pub(crate) fn follow(&mut self, pool: &Pool, idle_max: usize) {
        let clients = self.max - self.idle_max;
        self.idle_max = idle_max;
        self.max = idle_max.saturating_add(clients);
        let order = pool.backends();
        let ids = order.iter().map(|backend| backend.id);
        if self.idle.iter().map(|list| list.backend).eq(ids.clone()) {
            return;
        }
        let new = ids.map(|backend| IdleList {
            backend,
            connections: VecDeque::new(),
        });
        let before = std::mem::replace(&mut self.idle, new.collect());
        for list in before {
            match pool.place(list.backend) {
                Some(place) => self.idle[place] = list,
                None => self
                    .leaving
                    .extend(list.connections.iter().map(|idle| idle.key)),
            }
        }
    }

    /// The worker has so many clients now: closes the idle connections for which no descriptor is
    /// left.
    pub(crate) fn set_clients(&mut self, count: usize) {
        self.max = self.idle_max.saturating_add(count);
        while self.places.len() > self.max && self.close_oldest() {}
    }

    /// Closes the connection that has been idle longest, if there is an idle one.
    fn close_oldest(&mut self) -> bool {
        let oldest = || {
            let lists = self.idle.iter_mut().map(|list| &mut list.connections);
            let oldest = lists
                .filter(|connections| !connections.is_empty())
                .min_by_key(|connections| connections.front().map(|oldest| oldest.expires));
            Some(oldest?.pop_front()?.key)
        };
        let closed = self.leaving.pop().or_else(oldest);
        closed.is_some_and(|key| self.places.remove(key).is_some())
    }

    /// How many connections there are, idle and lent.
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
        for IdleList { connections, .. } in &mut self.idle {
            if connections.is_empty() {
                connections.shrink_to_fit();
            }
        }
    }

    /// Begins to connect for `client`. The connection is open once the poller reports it writable.
    /// If need be, the longest-idle connection to any backend makes room for it.
    pub(crate) fn open(
        &mut self,
        address: SocketAddr,
        client: Key,
        poller: &Poller,
    ) -> io::Result<BackendConnection> {
        if self.places.len() >= self.max {
            self.close_oldest();
        }
        let family = if address.is_ipv4() {
            AddressFamily::INET
        } else {
            AddressFamily::INET6
        };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = || rustix::net::socket_with(family, SocketType::STREAM, flags, None);
        let socket = match socket() {
            Err(Errno::MFILE | Errno::NFILE) if self.close_oldest() => socket()?,
            opened => opened?,
        };
        match connect(&socket, &address) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        // Heads and chunks are sent in one piece; waiting for more (Nagle) would only delay them.
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

    /// Lends the connection to `backend` that was idle the shortest time.
    pub(crate) fn take_idle(
        &mut self,
        backend: &Backend,
        client: Key,
        now: Millis,
    ) -> Option<BackendConnection> {
        let idle = self.list(backend.id, backend.index)?;
        // The newest expires last.
        idle.back().filter(|newest| newest.expires > now)?;
        let Idle { key, .. } = idle.pop_back()?;
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

    /// The idle connections to a backend, unless it has been removed.
    fn list(&mut self, backend: BackendId, guess: usize) -> Option<&mut VecDeque<Idle>> {
        // Most often the pool from which it was chosen is the live one, and its place there the
        // same; otherwise search.
        let at = match self.idle.get(guess) {
            Some(list) if list.backend == backend => guess,
            _ => self.idle.iter().position(|list| list.backend == backend)?,
        };
        Some(&mut self.idle[at].connections)
    }

    /// Keeps a connection whose exchange has ended cleanly, until `expires`; closes it when
    /// `backend` has `idle_max` of them already or has been removed.
    pub(crate) fn park(
        &mut self,
        lent: BackendConnection,
        backend: &Backend,
        idle_max: usize,
        expires: Millis,
    ) {
        let Some(idle) = self.list(backend.id, backend.index) else {
            return self.close(lent);
        };
        let Some(idle_place) = backend.state().reserve_idle(idle_max) else {
            return self.close(lent);
        };
        let BackendConnection {
            connection, key, ..
        } = lent;
        // Where the time-out has become shorter, it is so for those that are idle longer, too.
        let longer = |older: &&mut Idle| older.expires > expires;
        for older in idle.iter_mut().rev().take_while(longer) {
            older.expires = expires;
        }
        idle.push_back(Idle { key, expires });
        let place = self
            .places
            .get_mut(key)
            .expect("a lent connection keeps its place until it comes back");
        *place = Place::Idle {
            place: idle_place,
            connection,
            list: backend.index,
        };
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

    /// Notes an event. Returns the client whose exchange it is for; none if the connection was
    /// idle: bytes or an end are then unexpected, and the connection is closed.
    pub(crate) fn note(&mut self, key: Key, readiness: Readiness) -> Option<Key> {
        match self.places.get_mut(key)? {
            Place::Lent { client } => Some(*client),
            Place::Idle { place, list, .. } => {
                if readiness != Readiness::OUT {
                    let (backend, list) = (place.backend(), *list);
                    match self.list(backend, list) {
                        Some(list) => list.retain(|idle| idle.key != key),
                        None => self.leaving.retain(|leaving| *leaving != key),
                    }
                    self.places.remove(key);
                }
                None
            }
        }
    }

    /// Closes connections that have been idle too long, and some of those whose backend has been
    /// removed.
    pub(crate) fn expire(&mut self, now: Millis) {
        if self.leaving.capacity() > 0 {
            let stay = self.leaving.len().saturating_sub(CLOSED_AT_ONCE_MAX);
            for key in self.leaving.drain(stay..) {
                self.places.remove(key);
            }
            if self.leaving.is_empty() {
                self.leaving = Vec::new();
            }
        }
        if now < self.next_expiry.max(self.rests_until) {
            return;
        }
        self.rests_until = now + self.idle.len() as u64 / LISTS_PER_MS;
        self.next_expiry = NEVER;
        for IdleList { connections, .. } in &mut self.idle {
            while let Some(oldest) = connections.front() {
                if oldest.expires > now {
                    self.next_expiry = self.next_expiry.min(oldest.expires);
                    break;
                }
                self.places.remove(oldest.key);
                connections.pop_front();
            }
        }
    }

    /// When `expire` has something to do next, or earlier.
    pub(crate) fn next_expiry(&self) -> Millis {
        if !self.leaving.is_empty() {
            return 0;
        }
        self.next_expiry.max(self.rests_until)
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::net::waker::Waker;
    use crate::pool::backend::tests::settings;
    use crate::pool::settings::{Kind, Method};
    use crate::pool::tests::{balance, health};

    const CLIENT: Key = Key {
        index: 0,
        generation: 0,
    };
    const LATER: Millis = 1000;
    const MANY: usize = 1 << 20;

    struct Bench {
        pool: Pool,
        connections: BackendConnections,
        poller: Poller,
        listener: TcpListener,
    }

    impl Bench {
        fn of(names: &[&str]) -> Bench {
            let pool = following(None, names);
            Bench {
                connections: BackendConnections::new(MANY, &pool),
                pool,
                poller: Poller::new(&Waker::new().unwrap()).unwrap(),
                listener: TcpListener::bind("127.0.0.1:0").unwrap(),
            }
        }

        /// Another list of backends is live.
        fn follow(&mut self, names: &[&str]) -> Pool {
            let next = following(Some(&self.pool), names);
            self.connections.follow(&next, MANY);
            std::mem::replace(&mut self.pool, next)
        }

        fn open(&mut self) -> BackendConnection {
            let address = self.listener.local_addr().unwrap();
            self.connections
                .open(address, CLIENT, &self.poller)
                .unwrap()
        }

        /// Keeps so many idle connections to the backend at a place.
        fn park(&mut self, place: usize, count: usize) -> Vec<Key> {
            (0..count).map(|_| self.park_until(place, LATER)).collect()
        }

        fn park_until(&mut self, place: usize, expires: Millis) -> Key {
            let lent = self.open();
            let key = lent.key;
            let backend = &self.pool.backends()[place];
            self.connections.park(lent, backend, MANY, expires);
            key
        }
    }

    fn following(previous: Option<&Pool>, names: &[&str]) -> Pool {
        Pool::following(
            previous,
            names.iter().map(|name| settings(name)).collect(),
            &balance(Method::RoundRobin),
            &health(Kind::Tcp),
        )
    }

    #[test]
    fn an_idle_connection_is_lent_for_its_backend_wherever_that_stands_now() {
        let mut bench = Bench::of(&["a", "b", "c"]);
        let [a, c] = [0, 2].map(|place| bench.park(place, 1)[0]);
        let before = bench.follow(&["new", "c", "a"]);
        assert_eq!(bench.connections.len(), 2);
        // An exchange that began before still holds the backend of the pool before.
        for (backend, expected) in [
            (&bench.pool.backends()[0], None),
            (&before.backends()[1], None),
            (&before.backends()[0], Some(a)),
            (&bench.pool.backends()[1], Some(c)),
        ] {
            let lent = bench.connections.take_idle(backend, CLIENT, 0);
            assert_eq!(lent.map(|lent| lent.key), expected);
            assert_eq!(backend.idle(), 0);
        }
    }

    #[test]
    fn idle_connections_to_a_backend_that_is_gone_are_closed_some_at_a_time_and_others_stay() {
        let mut bench = Bench::of(&["a", "b"]);
        bench.park(0, CLOSED_AT_ONCE_MAX + 3);
        bench.park(1, 2);
        let before = bench.follow(&["b"]);
        let (gone, kept) = (&before.backends()[0], &bench.pool.backends()[0]);
        for left in [3, 0, 0] {
            assert!(gone.idle() == 0 || bench.connections.next_expiry() == 0);
            bench.connections.expire(0);
            assert_eq!((gone.idle(), kept.idle()), (left, 2));
        }
        assert_eq!(bench.connections.len(), 2);
        assert_eq!(bench.connections.next_expiry(), LATER);
        bench.connections.expire(LATER);
        assert_eq!((kept.idle(), bench.connections.len()), (0, 0));
    }

    #[test]
    fn connections_expire_in_their_time_whichever_backend_they_are_to() {
        let mut bench = Bench::of(&["a", "b", "c"]);
        let [_, _, c] = [(0, 30), (1, 40), (2, 50)].map(|(at, time)| bench.park_until(at, time));
        let idle = |bench: &Bench| [0, 1, 2].map(|at| bench.pool.backends()[at].idle());
        assert_eq!(bench.connections.next_expiry(), 30);
        let lent = bench
            .connections
            .take_idle(&bench.pool.backends()[2], CLIENT, 0);
        assert_eq!(lent.map(|lent| lent.key), Some(c));
        bench.connections.expire(29);
        assert_eq!(idle(&bench), [1, 1, 0]);
        bench.connections.expire(30);
        assert_eq!(idle(&bench), [0, 1, 0]);
        assert_eq!(bench.connections.next_expiry(), 40);
        // By settings under which they are kept for a shorter time.
        bench.park_until(1, 35);
        assert_eq!(bench.connections.next_expiry(), 35);
        bench.connections.expire(35);
        assert_eq!(idle(&bench), [0, 0, 0], "the older one is kept no longer");
        assert_eq!(bench.connections.next_expiry(), NEVER);
    }

    #[test]
    fn with_many_backends_their_lists_are_looked_through_now_and_then() {
        let names: Vec<String> = (0..1280).map(|at| format!("b{at}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut bench = Bench::of(&names);
        for (at, time) in [(0, 100), (1, 101), (2, 300)] {
            bench.park_until(at, time);
        }
        bench.connections.expire(100);
        assert_eq!(bench.connections.next_expiry(), 120);
        bench.connections.expire(119);
        assert_eq!(bench.connections.len(), 2);
        let late = &bench.pool.backends()[1];
        let lent = bench.connections.take_idle(late, CLIENT, 119);
        assert!(lent.is_none(), "what has expired is never lent");
        bench.connections.expire(120);
        assert_eq!(bench.connections.len(), 1);
        assert_eq!(bench.connections.next_expiry(), 300);
    }

    #[test]
    fn what_is_lent_for_a_backend_that_goes_meanwhile_is_closed_and_not_kept() {
        let mut bench = Bench::of(&["a", "b"]);
        let lent = bench.open();
        let before = bench.follow(&["b"]);
        let gone = &before.backends()[0];
        bench.connections.park(lent, gone, MANY, LATER);
        assert_eq!((gone.idle(), bench.connections.len()), (0, 0));
    }

    #[test]
    fn what_a_backend_closes_is_forgotten_whether_it_stays_moves_or_is_gone() {
        let mut bench = Bench::of(&["a", "b", "c"]);
        let keys: Vec<Key> = (0..3).flat_map(|place| bench.park(place, 2)).collect();
        let before = bench.follow(&["a", "c"]);
        for (place, pair) in keys.chunks(2).enumerate() {
            assert_eq!(bench.connections.note(pair[0], Readiness::OUT), None);
            assert_eq!(bench.connections.note(pair[0], Readiness::IN), None);
            assert_eq!(before.backends()[place].idle(), 1);
        }
        // The other one of each goes where room is wanted, first that of the backend that is gone.
        assert!(bench.connections.close_oldest());
        assert_eq!(before.backends()[1].idle(), 0);
        assert!(bench.connections.close_oldest() && bench.connections.close_oldest());
        assert!(!bench.connections.close_oldest());
        assert!(before.backends().iter().all(|backend| backend.idle() == 0));
        assert_eq!(bench.connections.len(), 0);
    }

    #[test]
    fn a_limit_that_changes_leaves_one_connection_for_each_client() {
        let mut bench = Bench::of(&["a"]);
        bench.connections.set_clients(3);
        bench.connections.follow(&bench.pool, 2);
        bench.park(0, 7);
        assert_eq!(bench.connections.len(), 5);
        bench.connections.follow(&bench.pool, 0);
        bench.connections.set_clients(1);
        assert_eq!(
            (bench.connections.len(), bench.pool.backends()[0].idle()),
            (1, 1)
        );
    }
}
