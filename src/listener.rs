//! The listener's thread: accepts connections and hands each to the worker that has the fewest.
//!
//! It does little: in a rush it accepts many connections at a time, and out of descriptors it
//! pauses instead of spinning. At `proxy.max_connections` it leaves new clients in the kernel's
//! backlog until a connection closes, and asks the worker with the longest-idle client to close
//! that client: one at a time, so never more than there are clients waiting.
//!
//! Read next: `net/mailbox.rs`, how connections reach a worker.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{SocketFlags, acceptfrom_with};
use socket2::{Domain, Protocol, Socket, Type};

use crate::config::Proxy;
use crate::live::{Follower, Live};
use crate::net::admission::Admission;
use crate::net::clock::Clock;
use crate::net::lock::lock;
use crate::net::mailbox::MailboxSender;
use crate::net::waker::{Waker, timespec};

/// The kernel cuts this down to `net.core.somaxconn`; std would ask for 128.
const BACKLOG: i32 = 65_535;

/// Connections that arrive closer together than this are a rush.
const RUSH: Duration = Duration::from_micros(100);

/// How long the connections of a rush may gather before the next accept. Waking this thread for
/// each of them costs more than accepting it: with 64 clients that connect for every request,
/// waking took a quarter of the CPU time. In the backlog they wait no longer than they would for
/// the workers.
const GATHER: Duration = Duration::from_micros(500);

/// Connections accepted before sleeping workers are woken and the listener looks for a stop.
const AT_ONCE_MAX: u32 = 256;

/// How long accepting pauses when the process is out of descriptors or memory.
const PAUSE: Duration = Duration::from_millis(100);

/// How often the listener looks for room again if no worker wakes it.
const ROOM_LOOK: Duration = Duration::from_millis(100);

/// How long a stop waits for room for those in the backlog.
const LAST_ROOM: Duration = Duration::from_secs(1);

/// Opens the listening socket that `proxy` describes.
pub(crate) fn bind(proxy: &Proxy) -> io::Result<TcpListener> {
    match proxy.address {
        Some(address) => listen(SocketAddr::new(address, proxy.port), BACKLOG),
        // One socket for both families, or IPv4 alone where the kernel has no IPv6.
        None => listen((Ipv6Addr::UNSPECIFIED, proxy.port).into(), BACKLOG).or_else(|error| {
            let no_ipv6 = [Errno::AFNOSUPPORT, Errno::ADDRNOTAVAIL].map(Errno::raw_os_error);
            match error.raw_os_error() {
                Some(code) if no_ipv6.contains(&code) => {
                    listen((Ipv4Addr::UNSPECIFIED, proxy.port).into(), BACKLOG)
                }
                _ => Err(error),
            }
        }),
    }
}

/// The address that `bind` tries first.
pub(crate) fn wanted_address(proxy: &Proxy) -> SocketAddr {
    SocketAddr::new(
        proxy.address.unwrap_or(Ipv6Addr::UNSPECIFIED.into()),
        proxy.port,
    )
}

/// A listening socket that does not block. So many connections wait until they are accepted.
pub(crate) fn listen(address: SocketAddr, backlog: i32) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // A restart must not wait for the connections of the last run to be forgotten.
    socket.set_reuse_address(true)?;
    // Connections inherit this one: no system call for each of them.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(backlog)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// What the listener's thread owns.
pub(crate) struct Listener {
    /// The live socket last; before it those that a reload has replaced, until their backlogs are
    /// empty.
    sockets: Vec<TcpListener>,
    /// New sockets, each of which replaces the one before.
    replacements: Arc<Mutex<Vec<TcpListener>>>,
    workers: Vec<MailboxSender>,
    follower: Follower,
}

/// How the main thread reaches the listener.
#[derive(Debug)]
pub(crate) struct ListenerHandle {
    replacements: Arc<Mutex<Vec<TcpListener>>>,
    waker: Arc<Waker>,
}

impl ListenerHandle {
    /// Listens on this socket from now on. The backlog of the old one is still accepted.
    pub(crate) fn replace(&self, socket: TcpListener) {
        lock(&self.replacements).push(socket);
        self.waker.wake();
    }
}

impl Listener {
    /// Accepts from `socket` for these workers.
    pub(crate) fn new(
        socket: TcpListener,
        workers: Vec<MailboxSender>,
        live: &Arc<Live>,
    ) -> (Listener, ListenerHandle) {
        let waker = live.admission.listener.clone();
        let replacements = Arc::default();
        let listener = Listener {
            sockets: vec![socket],
            replacements: Arc::clone(&replacements),
            workers,
            follower: Follower::new(live.clone(), waker.clone()),
        };
        (
            listener,
            ListenerHandle {
                replacements,
                waker,
            },
        )
    }

    /// Accepts until the process drains, and then what the backlog still holds.
    pub(crate) fn run(&mut self) {
        let mut last_look = Instant::now();
        while self.follower.draining_since.is_none() {
            self.sockets.append(&mut lock(&self.replacements));
            self.close_replaced();
            if self.admission().has_room() {
                match self.accept_all() {
                    Ok(count) => {
                        let before = std::mem::replace(&mut last_look, Instant::now());
                        if !self.admission().has_room() {
                            // At the limit now: the next round looks for waiting clients.
                        } else if last_look - before < RUSH * count {
                            thread::sleep(GATHER);
                        } else {
                            self.wait();
                        }
                    }
                    Err(error) => self.pause(&error),
                }
            } else if self.has_newcomers() {
                self.admission().set_newcomers_wait(true);
                self.make_room();
            } else {
                self.admission().set_newcomers_wait(false);
                self.wait();
            }
            self.follower.look();
        }
        // Stops at the first error: closing the socket resets what is left in the backlog.
        let patience_until = Instant::now() + LAST_ROOM;
        while !self.sockets.is_empty() {
            while self.accept_all().is_ok_and(|count| count > 0) {}
            if !self.admission().has_room()
                && has_newcomers(&self.sockets[0])
                && Instant::now() < patience_until
            {
                self.make_room();
            } else {
                self.sockets.remove(0);
            }
        }
    }

    /// Closes each replaced socket once no client waits on it. At the limit too, where nothing is
    /// accepted that would show it.
    fn close_replaced(&mut self) {
        while self.sockets.len() > 1 && !has_newcomers(&self.sockets[0]) {
            self.sockets.remove(0);
        }
    }

    fn admission(&self) -> &Admission {
        &self.follower.live().admission
    }

    /// Accepts the waiting connections for which there is room, and wakes the workers that got one.
    /// Returns how many.
    fn accept_all(&self) -> io::Result<u32> {
        // Clients of a replaced socket have waited longest.
        let result = hand_over_all(&self.sockets[0], &self.workers, self.admission());
        self.workers.iter().for_each(MailboxSender::wake);
        result
    }

    /// Waits for a new connection or for the waker.
    fn wait(&self) {
        if self.sockets.len() > 1 {
            // The last client of a replaced socket has just been accepted: that is closed first.
            return;
        }
        let waker = &self.admission().listener;
        let socket = &self.sockets[0];
        let mut fds = [
            PollFd::new(socket, PollFlags::IN),
            PollFd::new(waker, PollFlags::IN),
        ];
        // The result does not matter: the caller looks at everything again.
        let _ = poll(&mut fds, None);
        waker.clear();
    }

    /// Whether clients wait in the backlog.
    fn has_newcomers(&self) -> bool {
        self.sockets.iter().any(has_newcomers)
    }

    /// At the connection limit, with a client waiting: waits until a connection has closed, and
    /// asks a worker to close its longest-idle client if that may be closed.
    fn make_room(&self) {
        let admission = self.admission();
        admission.wait_for_room(|| {
            let now = Clock::new(self.follower.live().epoch).now();
            let longest = self
                .workers
                .iter()
                .filter_map(|worker| Some((worker.idle_ms(now)?, worker)))
                .max_by_key(|(idle_ms, _)| *idle_ms);
            if let Some((_, worker)) = longest {
                worker.ask_for_room();
            }
            let next = self
                .workers
                .iter()
                .filter_map(|worker| worker.may_close_in(now));
            next.fold(ROOM_LOOK, Duration::min)
        });
    }

    /// Out of descriptors or memory: accepting again at once would only use up the processor.
    fn pause(&self, error: &io::Error) {
        log::warn!("accepting pauses for {} ms: {error}", PAUSE.as_millis());
        self.admission().listener.wait(PAUSE);
    }
}

fn hand_over_all(
    socket: &TcpListener,
    workers: &[MailboxSender],
    admission: &Admission,
) -> io::Result<u32> {
    let mut count = 0;
    while count < AT_ONCE_MAX && admission.has_room() {
        match acceptfrom_with(socket, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
            Ok((client, address)) => {
                let Some(address) = address.and_then(|address| SocketAddr::try_from(address).ok())
                else {
                    continue;
                };
                // An IPv4 client keeps its IPv4 address on a socket of both families.
                let address = SocketAddr::new(address.ip().to_canonical(), address.port());
                let Some(worker) = workers.iter().min_by_key(|worker| worker.load()) else {
                    return Ok(count);
                };
                count += 1;
                admission.add();
                // Before the worker gets it: when the last waiting client is in, its answer need
                // not say that the connection ends.
                if admission.newcomers_wait() {
                    admission.set_newcomers_wait(has_newcomers(socket));
                }
                worker.send((TcpStream::from(client), address));
            }
            Err(Errno::AGAIN) => {
                admission.set_newcomers_wait(false);
                return Ok(count);
            }
            // This connection is gone or was filtered out; the next one may be fine.
            Err(Errno::CONNABORTED | Errno::PROTO | Errno::PERM | Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(count)
}

/// Whether clients wait in the backlog of this socket.
fn has_newcomers(socket: &TcpListener) -> bool {
    let at_once = timespec(Duration::ZERO);
    let mut fds = [PollFd::new(socket, PollFlags::IN)];
    poll(&mut fds, Some(&at_once)).is_ok_and(|ready| ready > 0)
}
