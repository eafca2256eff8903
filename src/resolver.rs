//! The thread that turns backends' names into addresses, so that nobody else ever waits for a name server.
//!
//! It looks every name up at start, again and again, and when a connect failed; what it finds it puts into the
//! backend. A failed lookup changes nothing but the log: old addresses are better than none. Addresses and `localhost`
//! are never looked up (`pool/backend.rs`), and without other names there is no such thread.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::net::thread;
use crate::net::waker::Bell;
use crate::pool::Pool;
use crate::pool::backend::Backend;
use crate::pool::settings::Host;

/// Between two lookups of a name that nobody asked for.
const INTERVAL: Duration = Duration::from_secs(30);
/// Between two lookups of a name at least, however often it is asked for.
const PAUSE_MIN: Duration = Duration::from_secs(1);

/// How a name is looked up; a test brings its own.
pub(crate) type Lookup = Box<dyn Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send>;

/// A running resolver. Dropping it tells the thread to end, which it does when its last lookup has returned; nobody
/// waits for that, since a lookup may take many seconds and cannot be interrupted.
#[derive(Debug)]
pub(crate) struct Resolver {
    bell: Arc<Bell>,
    stop: Arc<AtomicBool>,
}

impl Resolver {
    /// Starts the thread with the system's resolver; None where no name needs one.
    pub(crate) fn start(pool: &Arc<Pool>) -> io::Result<Option<Resolver>> {
        let system = |name: &str, port| Ok((name, port).to_socket_addrs()?.collect());
        Resolver::start_with(pool, Box::new(system), PAUSE_MIN)
    }

    /// Starts the thread with another way to look names up, and another pause between two lookups of one name.
    pub(crate) fn start_with(
        pool: &Arc<Pool>,
        lookup: Lookup,
        pause_min: Duration,
    ) -> io::Result<Option<Resolver>> {
        let now = Instant::now();
        let names: Vec<Name> = pool
            .backends()
            .iter()
            .filter_map(|backend| Name::new(Arc::clone(backend), now))
            .collect();
        if names.is_empty() {
            return Ok(None);
        }
        let bell = Arc::new(Bell::new()?);
        let stop = Arc::new(AtomicBool::new(false));
        pool.wake_resolver_with(Arc::clone(&bell));
        let resolver = Resolver {
            bell: Arc::clone(&bell),
            stop: Arc::clone(&stop),
        };
        let pool = Arc::clone(pool);
        let mut work = Work {
            pool,
            names,
            lookup,
            pause_min,
            bell,
            stop,
        };
        thread::start("resolver", move || work.run())?;
        Ok(Some(resolver))
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.bell.ring();
    }
}

struct Work {
    pool: Arc<Pool>,
    names: Vec<Name>,
    lookup: Lookup,
    pause_min: Duration,
    bell: Arc<Bell>,
    stop: Arc<AtomicBool>,
}

/// The name of one backend.
struct Name {
    backend: Arc<Backend>,
    host: String,
    port: u16,
    due: Instant,
    /// Not before this, even if asked.
    rests_until: Instant,
    failing: bool,
}

impl Work {
    fn run(&mut self) {
        loop {
            for name in &mut self.names {
                if self.stop.load(Ordering::Acquire) {
                    return;
                }
                if name.backend.take_lookup_wish() {
                    name.due = name.due.min(name.rests_until);
                }
                if name.due <= Instant::now() {
                    let found = (self.lookup)(&name.host, name.port);
                    if self.stop.load(Ordering::Acquire) {
                        return;
                    }
                    name.take(found);
                    let now = Instant::now();
                    name.due = now + INTERVAL;
                    name.rests_until = now + self.pause_min;
                    // A check may be waiting for this name, or may be worth making at once.
                    self.pool.wake_checker();
                }
            }
            let next = self.names.iter().map(|name| name.due).min();
            self.bell.wait(next.map_or(INTERVAL, |next| {
                next.saturating_duration_since(Instant::now())
            }));
        }
    }
}

impl Name {
    fn new(backend: Arc<Backend>, now: Instant) -> Option<Name> {
        let url = &backend.settings.url;
        let Host::Name(host) = &url.host else {
            return None;
        };
        let (host, port) = (host.clone(), url.port);
        backend.needs_lookup().then_some(Name {
            backend,
            host,
            port,
            due: now,
            rests_until: now,
            failing: false,
        })
    }

    /// Takes what a lookup found; says in the log what is new.
    fn take(&mut self, found: io::Result<Vec<SocketAddr>>) {
        let backend = &self.backend.settings.name;
        let host = &self.host;
        let reason = match found {
            Ok(addresses) if !addresses.is_empty() => {
                self.failing = false;
                if self.backend.set_addresses(addresses) {
                    log::info!(
                        "backend {backend:?}: {host:?} is {}",
                        list(&self.backend.addresses())
                    );
                }
                return;
            }
            Ok(_) => "it has no address".to_owned(),
            Err(error) => error.to_string(),
        };
        self.backend.lookup_failed();
        if !self.failing {
            self.failing = true;
            let known = self.backend.addresses();
            let rest = if known.is_empty() {
                String::new()
            } else {
                format!("; it is kept at {}", list(&known))
            };
            log::warn!("backend {backend:?}: {host:?} does not resolve: {reason}{rest}");
        }
    }
}

fn list(addresses: &[SocketAddr]) -> String {
    addresses
        .iter()
        .map(|address| address.ip().to_string())
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, Sender, channel};

    use crate::pool::Event;
    use crate::pool::settings::Kind;
    use crate::pool::tests::{LONG, balance, health, until};

    /// A name server in the test's hands: it says what is asked, and the test says what is answered.
    struct NameServer {
        asked: Receiver<String>,
        answer: Sender<io::Result<Vec<SocketAddr>>>,
    }

    impl NameServer {
        fn new() -> (NameServer, Lookup) {
            let (ask, asked) = channel();
            let (answer, answers) = channel();
            let lookup = move |name: &str, _| {
                // The test may be over already.
                let _ = ask.send(name.to_owned());
                answers.recv().unwrap_or_else(|_| Ok(Vec::new()))
            };
            (NameServer { asked, answer }, Box::new(lookup))
        }

        fn answers(&self, name: &str, addresses: io::Result<&[&str]>) {
            assert_eq!(self.asked.recv_timeout(LONG).unwrap(), name);
            let parse = |list: &[&str]| {
                list.iter()
                    .map(|address| address.parse().unwrap())
                    .collect()
            };
            self.answer.send(addresses.map(parse)).unwrap();
        }
    }

    fn pool(hosts: &[&str]) -> Arc<Pool> {
        let settings = |host: &&str| {
            let mut settings = crate::pool::backend::tests::settings(host);
            settings.url.host = Host::Name((*host).to_owned());
            settings
        };
        let backends = hosts.iter().map(settings).collect();
        Arc::new(Pool::new(
            backends,
            &balance(crate::pool::settings::Method::RoundRobin),
            &health(Kind::None),
        ))
    }

    fn first(pool: &Pool, index: usize) -> Option<String> {
        pool.backends()[index]
            .addresses()
            .first()
            .map(ToString::to_string)
    }

    #[test]
    fn names_are_looked_up_at_start_without_waiting_and_localhost_never() {
        let pool = pool(&["localhost", "a.example", "b.localhost", "b.example"]);
        let (server, lookup) = NameServer::new();
        let _resolver = Resolver::start_with(&pool, lookup, Duration::ZERO)
            .unwrap()
            .unwrap();
        assert!(
            pool.backends()[1].is_lookup_pending(),
            "the start did not wait for an answer"
        );
        server.answers("a.example", Ok(&["192.0.2.1:80"]));
        server.answers("b.example", Err(io::Error::other("no such name")));
        until(|| !pool.backends()[3].is_lookup_pending());
        assert_eq!(first(&pool, 1).as_deref(), Some("192.0.2.1:80"));
        assert_eq!(first(&pool, 3), None);
        assert_eq!(first(&pool, 0).as_deref(), Some("127.0.0.1:1"));
    }

    #[test]
    fn there_is_no_thread_where_no_name_needs_one() {
        let (_server, lookup) = NameServer::new();
        assert!(
            Resolver::start_with(&pool(&["localhost"]), lookup, Duration::ZERO)
                .unwrap()
                .is_none()
        );
    }

    #[test]
    fn a_failed_connect_has_the_name_looked_up_again_and_a_failed_lookup_keeps_the_addresses() {
        let pool = pool(&["a.example"]);
        let backend = &pool.backends()[0];
        let (server, lookup) = NameServer::new();
        let _resolver = Resolver::start_with(&pool, lookup, Duration::ZERO)
            .unwrap()
            .unwrap();
        server.answers("a.example", Ok(&["192.0.2.1:80"]));
        until(|| first(&pool, 0).as_deref() == Some("192.0.2.1:80"));
        pool.report(backend, Event::ConnectFailed, &"connect to it refused");
        server.answers("a.example", Err(io::Error::other("server failed")));
        pool.report(backend, Event::ConnectFailed, &"connect to it refused");
        server.answers("a.example", Ok(&[]));
        assert_eq!(first(&pool, 0).as_deref(), Some("192.0.2.1:80"));
        pool.report(backend, Event::ConnectFailed, &"connect to it refused");
        server.answers("a.example", Ok(&["192.0.2.2:80"]));
        until(|| first(&pool, 0).as_deref() == Some("192.0.2.2:80"));
    }

    #[test]
    fn asking_often_is_answered_after_the_pause() {
        let pool = pool(&["a.example"]);
        let (server, lookup) = NameServer::new();
        let pause = Duration::from_millis(200);
        let _resolver = Resolver::start_with(&pool, lookup, pause).unwrap().unwrap();
        server.answers("a.example", Ok(&["192.0.2.1:80"]));
        until(|| first(&pool, 0).is_some());
        let answered = Instant::now();
        for _ in 0..100 {
            pool.report(
                &pool.backends()[0],
                Event::ConnectFailed,
                &"connect to it refused",
            );
        }
        server.answers("a.example", Ok(&["192.0.2.1:80"]));
        // The pause began before `answered` was taken, by no more than the time between two threads.
        assert!(answered.elapsed() >= pause / 2);
    }

    #[test]
    fn stopping_does_not_wait_for_a_lookup() {
        let pool = pool(&["a.example"]);
        let (server, lookup) = NameServer::new();
        let resolver = Resolver::start_with(&pool, lookup, Duration::ZERO)
            .unwrap()
            .unwrap();
        assert_eq!(server.asked.recv_timeout(LONG).unwrap(), "a.example");
        drop(resolver); // returns, though the lookup does not
        server
            .answer
            .send(Ok(vec!["192.0.2.1:80".parse().unwrap()]))
            .unwrap();
        until(|| Arc::strong_count(&pool) == 1);
        assert_eq!(first(&pool, 0), None, "what came too late is not used");
    }
}
