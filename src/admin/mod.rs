//! The thread `admin`: the interface by which people and programs see and change the process while it runs.
//!
//! It has a listener, a thread and descriptors of its own, so that it answers when traffic is at its limits. One thread
//! serves all its connections: none may keep it waiting, each carries one request, and each has a deadline until its request
//! is read and another until its answer is written. What it shows are copies. What it changes it asks of the main thread,
//! and goes on serving others until the reply is there.
//!
//! The table of requests and their documents is in `documents.md`, what the page needs in `server.md`.
//!
//! Read next: `admin/connection.rs`, one connection; `admin/access.rs`, who may ask for what.

use std::fs::File;
use std::io;
use std::mem;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{DupFlags, dup3, fcntl_dupfd_cloexec};
use socket2::SockRef;

use crate::admin::connection::Connection;
use crate::admin::route::{Request, Wanted};
use crate::ask::{Ask, Wish};
use crate::config::Config;
use crate::listener;
use crate::live::{ASKS_MAX, Follower, Live};
use crate::metrics::prometheus;
use crate::metrics::sampler::Sampler;
use crate::net::clock::Clock;
use crate::net::lock::lock;
use crate::net::thread;
use crate::net::waker::{Waker, timespec};

use self::answer::Answer;
use self::status::Overview;

mod access;
mod answer;
mod connection;
mod decisions;
mod page;
mod route;
mod status;

/// Connections at once; more wait in the backlog.
const CONNECTIONS_MAX: usize = 32;
/// Connections that wait there.
const BACKLOG: i32 = 64;
/// What the kernel holds of an answer, about.
const SEND_BUFFER_BYTES: usize = 128 * 1024;
/// How long accepting pauses after an error.
const PAUSE: Duration = Duration::from_millis(100);
/// While answers of more bytes than this are being written, the next long one is not made: so the largest is in memory once,
/// and not once for each connection.
const ANSWERS_BYTES: usize = 256 * 1024;

/// The most memory that it takes: requests that are read, and the largest answer, while it grows.
pub(crate) fn bytes_max(config: &Config) -> usize {
    if config.admin.is_none() {
        return 0;
    }
    let status = config.backends.len() * status::BYTES_EACH;
    let decisions = config.proxy.workers * decisions::BYTES_EACH;
    let names = config.backends.iter().map(|backend| backend.name.len());
    let answer = (2 * status.max(decisions)).max(prometheus::bytes_max(names));
    // Of a client that gave up waiting the main thread still has the body, in a buffer that was doubled.
    let asks = ASKS_MAX * 2 * connection::BODY_BYTES_MAX;
    CONNECTIONS_MAX * connection::BYTES_MAX + asks + ANSWERS_BYTES + answer
}

/// The admin interface as the main thread holds it. Its thread ends when this is dropped.
#[derive(Debug, Default)]
pub(crate) struct Admin(Mutex<Option<Running>>);

/// A running thread.
#[derive(Debug)]
pub(crate) struct Running {
    shared: Arc<Shared>,
    /// Where it listens, with its real port.
    address: Option<SocketAddr>,
}

/// What the main thread tells the other.
#[derive(Debug)]
struct Shared {
    waker: Arc<Waker>,
    /// Takes the place of the socket before it.
    socket: Mutex<Option<TcpListener>>,
    is_over: AtomicBool,
}

/// What is ready to take effect with a configuration.
#[derive(Debug)]
pub(crate) enum Prepared {
    /// The interface stays as it is, or stays off.
    Same,
    /// It listens on this socket, with a thread that is new if there was none.
    Socket(TcpListener, Option<Running>),
    /// It ends.
    Off,
}

impl Admin {
    /// Does all that can fail before `new` takes effect: opens its socket, and starts the thread where there is none. An
    /// error comes with the address.
    #[inline(never)]
    pub(crate) fn prepare(
        &self,
        old: Option<&Config>,
        new: &Config,
        live: &Arc<Live>,
    ) -> Result<Prepared, (SocketAddr, io::Error)> {
        let address = |config: &Config| config.admin.as_ref().map(|admin| admin.address);
        let Some(wanted) = address(new) else {
            return Ok(Prepared::Off);
        };
        if old.and_then(address) == Some(wanted) {
            return Ok(Prepared::Same);
        }
        let cannot = |error| (wanted, error);
        let socket = listener::listen(wanted, BACKLOG).map_err(cannot)?;
        // Of what a client does not read the kernel would hold megabytes. Connections inherit it.
        let _ = SockRef::from(&socket).set_send_buffer_size(SEND_BUFFER_BYTES);
        let has_none = lock(&self.0).is_none();
        let running = has_none.then(|| Running::start(live)).transpose();
        Ok(Prepared::Socket(socket, running.map_err(cannot)?))
    }

    /// Lets what was prepared take effect.
    #[inline(never)]
    pub(crate) fn go_by(&self, prepared: Prepared) {
        let mut running = lock(&self.0);
        match (prepared, &mut *running) {
            (Prepared::Off, _) => *running = None,
            (Prepared::Socket(socket, new), known) => {
                if let Some(running) = new.or(known.take()) {
                    known.insert(running).listen(socket);
                }
            }
            (Prepared::Same, _) => {}
        }
    }

    /// What its clients ask of the main thread.
    #[allow(clippy::unused_self)] // as the one that is absent
    pub(crate) fn asks(&self, live: &Live) -> Vec<Ask> {
        live.take_asks()
    }

    /// Where it listens, with its real port; none if it is off.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        lock(&self.0).as_ref()?.address
    }
}

impl Running {
    fn start(live: &Arc<Live>) -> io::Result<Running> {
        let waker = Arc::new(Waker::new()?);
        let shared = Arc::new(Shared {
            waker: Arc::clone(&waker),
            socket: Mutex::default(),
            is_over: AtomicBool::new(false),
        });
        let mut interface = Interface::new(Arc::clone(&shared), live);
        thread::start("admin", move || interface.run())?;
        Ok(Running {
            shared,
            address: None,
        })
    }

    fn listen(&mut self, socket: TcpListener) {
        self.address = socket.local_addr().ok();
        if let Some(address) = self.address {
            log::info!("admin interface on http://{address}/");
        }
        *lock(&self.shared.socket) = Some(socket);
        self.shared.waker.wake();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Release);
        self.shared.waker.wake();
    }
}

/// What the thread owns.
struct Interface {
    shared: Arc<Shared>,
    follower: Follower,
    socket: Option<TcpListener>,
    connections: Vec<Connection>,
    spares: Spares,
    sampler: Sampler,
    clock: Clock,
    /// Where the kernel tells of this process: open, since later there may be no descriptor.
    memory: Option<File>,
    /// Until when nothing is accepted.
    paused_until: Option<Instant>,
}

impl Interface {
    fn new(shared: Arc<Shared>, live: &Arc<Live>) -> Interface {
        let mut clock = Clock::new(live.epoch);
        clock.read();
        Interface {
            follower: Follower::new(Arc::clone(live), Arc::clone(&shared.waker)),
            spares: Spares::new(&shared.waker),
            sampler: Sampler::new(live, clock.now()),
            clock,
            memory: File::open("/proc/self/status").ok(),
            shared,
            socket: None,
            connections: Vec::with_capacity(CONNECTIONS_MAX),
            paused_until: None,
        }
    }

    fn run(&mut self) {
        let mut scratch = vec![0; connection::SCRATCH_BYTES];
        loop {
            if self.shared.is_over.load(Ordering::Acquire) {
                // A client may wait for the reply to the very reload that ended the interface.
                self.socket = None;
                if self.connections.is_empty() {
                    return;
                }
            }
            self.clock.read();
            let live = self.follower.live();
            let sample_in = self.sampler.sample(live, self.clock.now()) - self.clock.now();
            let has_newcomers = self.wait(Duration::from_millis(sample_in));
            self.clock.read();
            self.shared.waker.clear();
            self.follower.look();
            if let Some(socket) = lock(&self.shared.socket).take() {
                self.socket = Some(socket);
            }
            if has_newcomers {
                self.accept();
            }
            self.serve(&mut scratch);
        }
    }

    /// Waits until there is something to do, at most so long. Says whether a client waits to be accepted.
    #[inline(never)]
    fn wait(&mut self, at_most: Duration) -> bool {
        let now = Instant::now();
        self.paused_until.take_if(|until| *until <= now);
        let has_room = self.connections.len() < CONNECTIONS_MAX && self.paused_until.is_none();
        let mut due = now + at_most;
        let mut fds = vec![PollFd::new(&self.shared.waker, PollFlags::IN)];
        for connection in &self.connections {
            due = due.min(connection.deadline());
            if let Some((socket, interest)) = connection.interest() {
                fds.push(PollFd::new(socket, interest));
            }
        }
        due = self.paused_until.map_or(due, |until| due.min(until));
        let socket = self.socket.as_ref().filter(|_| has_room);
        fds.extend(socket.map(|socket| PollFd::new(socket, PollFlags::IN)));
        let patience = timespec(due.saturating_duration_since(now));
        // An error is a wait that ended early.
        let is_ready = poll(&mut fds, Some(&patience)).is_ok_and(|ready| ready > 0);
        let is_readable = |fd: &PollFd<'_>| !fd.revents().is_empty();
        is_ready && socket.is_some() && fds.last().is_some_and(is_readable)
    }

    /// Accepts one connection: out of descriptors, a second one could not be told from none.
    #[inline(never)]
    fn accept(&mut self) {
        let Some(socket) = &self.socket else { return };
        let mut accepted = socket.accept();
        if accepted.is_err() && self.spares.give_one() {
            accepted = socket.accept();
        }
        let added = accepted.and_then(|(stream, _)| {
            stream.set_nonblocking(true)?;
            Ok(Connection::new(stream))
        });
        match added {
            Ok(connection) => self.connections.push(connection),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => {
                log::debug!(
                    "the admin interface pauses for {} ms: {error}",
                    PAUSE.as_millis()
                );
                self.paused_until = Some(Instant::now() + PAUSE);
            }
        }
    }

    /// Carries each connection as far as it goes.
    #[inline(never)]
    fn serve(&mut self, scratch: &mut [u8]) {
        let settings = self.follower.config.admin.clone();
        let now = Instant::now();
        let mut connections = mem::take(&mut self.connections);
        for connection in &mut connections {
            connection.go_on(settings.as_ref(), now, scratch);
        }
        let mut writing: usize = connections.iter().map(Connection::unwritten).sum();
        for connection in &mut connections {
            if let Some(request) = connection.take_request(writing <= ANSWERS_BYTES) {
                self.answer(connection, *request, now);
                connection.go_on(settings.as_ref(), now, scratch);
                writing += connection.unwritten();
            }
        }
        while let Some(at) = connections.iter().position(Connection::is_over) {
            let connection = connections.swap_remove(at);
            self.spares.take_back(connection, connections.len());
        }
        self.spares.fill(connections.len());
        self.connections = connections;
    }

    /// Answers a request, or asks the main thread to.
    fn answer(&self, connection: &mut Connection, request: Request, now: Instant) {
        let (live, pool) = (self.follower.live(), &self.follower.pool);
        let overview = || Overview::new(live, self.follower.snapshot(), &self.sampler);
        let answer = match request.wanted {
            Wanted::Page { takes_gzip } => page::page(&overview(), takes_gzip),
            Wanted::Status { with_history } => {
                let now_unix_ms = live.unix_ms(self.clock.now());
                let memory = self.memory.as_ref();
                Answer::json(200, overview().document(with_history, now_unix_ms, memory))
            }
            Wanted::Decisions(selection) => Answer::json(
                200,
                decisions::document(&live.decisions_by_worker(), pool, selection),
            ),
            Wanted::Config => Answer::json(200, self.follower.config.document().to_string() + "\n"),
            Wanted::Metrics => {
                let resident_bytes = self.memory.as_ref().map(status::resident_bytes);
                let text = prometheus::text(live, resident_bytes);
                Answer::new(200, prometheus::CONTENT_TYPE, text)
            }
            Wanted::Live => Answer::text("live"),
            Wanted::Ready => self.ready(),
            Wanted::Change { mut wish, dry_run } => {
                if let Wish::Put { entry, .. } = &mut wish {
                    *entry = request.body;
                }
                let asked = live.ask(wish, dry_run, &self.shared.waker);
                return connection.wait_for(asked);
            }
        };
        connection.answer(answer, request.head_only, now);
    }

    /// Whether new requests are welcome.
    fn ready(&self) -> Answer {
        if self.follower.live().is_stopping() {
            Answer::error(503, "the process is stopping")
        } else if self.follower.pool.has_healthy() {
            Answer::text("ready")
        } else {
            Answer::error(503, "no backend is healthy")
        }
    }
}

/// Descriptors that are held so that the interface has some when traffic has taken all others.
struct Spares {
    held: Vec<OwnedFd>,
    /// What each of them is: nothing but a number is needed.
    waker: Arc<Waker>,
}

impl Spares {
    /// With so many connections at once the interface goes on when there are no descriptors left.
    const COUNT: usize = 8;

    fn new(waker: &Arc<Waker>) -> Spares {
        let mut spares = Spares {
            held: Vec::with_capacity(Spares::COUNT),
            waker: Arc::clone(waker),
        };
        spares.fill(0);
        spares
    }

    /// Gives one up, which is then the next that the kernel hands out. Another thread may be faster; then there are others.
    fn give_one(&mut self) -> bool {
        self.held.pop().is_some()
    }

    /// Closes a connection; its descriptor becomes a spare where one is missing, with no moment in between in which another
    /// thread could take it.
    fn take_back(&mut self, connection: Connection, open: usize) {
        if self.held.len() + open < Spares::COUNT {
            let mut descriptor = connection.into_descriptor();
            if dup3(&self.waker, &mut descriptor, DupFlags::CLOEXEC).is_ok() {
                self.held.push(descriptor);
            }
        }
    }

    /// Fills up, beside so many open connections, as far as there are descriptors.
    fn fill(&mut self, open: usize) {
        while self.held.len() + open < Spares::COUNT
            && let Ok(descriptor) = fcntl_dupfd_cloexec(&self.waker, 0)
        {
            self.held.push(descriptor);
        }
    }
}
