//! Backends: one whose every byte the test writes, one that answers by itself, and three kinds of dead ones.

use crate::PATIENCE;
use crate::wire::{self, Fields, Request, Wire};
use rustix::event::{PollFd, PollFlags, poll};
use socket2::{Domain, SockAddr, Socket, Type};
use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;

/// Something that can stand in the list of backends.
pub trait Addressed {
    fn address(&self) -> SocketAddr;

    fn url(&self) -> String {
        format!("http://{}/", self.address())
    }

    /// As it is named where no name is configured.
    fn name(&self) -> String {
        self.address().to_string()
    }
}

impl Addressed for SocketAddr {
    fn address(&self) -> SocketAddr {
        *self
    }
}

/// A scripted backend: the test accepts each connection and plays the server on it.
pub struct Backend {
    listener: TcpListener,
}

impl Backend {
    pub fn start() -> Backend {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        socket2::SockRef::from(&listener)
            .set_read_timeout(Some(PATIENCE))
            .expect("not zero");
        Backend { listener }
    }

    /// The next connection that the proxy opens.
    #[track_caller]
    pub fn accept(&self) -> Wire {
        match self.listener.accept() {
            Ok((stream, _)) => Wire::new(stream),
            Err(error) => panic!("the proxy opened no connection: {error}"),
        }
    }

    /// The connection on which the next request comes: the one given, or a new one.
    #[track_caller]
    pub fn accept_or(&self, held: Option<Wire>) -> Wire {
        let Some(held) = held else {
            return self.accept();
        };
        let mut ready = [
            PollFd::from_borrowed_fd(held.stream().as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.listener.as_fd(), PollFlags::IN),
        ];
        let patience = PATIENCE.try_into().expect("a minute fits");
        let count = poll(&mut ready, Some(&patience)).expect("two descriptors can be polled");
        assert!(count > 0, "nothing came");
        if ready[1].revents().is_empty() && !held.has_ended() {
            held
        } else {
            self.accept()
        }
    }

    /// Whether a connection waits to be accepted.
    pub fn has_connection(&self) -> bool {
        let mut ready = [PollFd::from_borrowed_fd(
            self.listener.as_fd(),
            PollFlags::IN,
        )];
        poll(
            &mut ready,
            Some(&rustix::event::Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            }),
        )
        .expect("it can be polled")
            > 0
    }

    /// No connection is waiting. Only meaningful after something else shows that one would be.
    #[track_caller]
    pub fn expect_no_connection(&self) {
        self.listener
            .set_nonblocking(true)
            .expect("a socket can be made non-blocking");
        let got = self.listener.accept();
        self.listener
            .set_nonblocking(false)
            .expect("a socket can be made blocking");
        match got {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => panic!("accept: {error}"),
            Ok((stream, _)) => {
                let mut wire = Wire::new(stream);
                let (bytes, _) = wire.read_until_gone();
                panic!(
                    "the proxy opened a connection and sent {:?}",
                    wire::text(&bytes)
                );
            }
        }
    }

    /// Plays `script` on a thread for each connection from now on, counted from 0.
    pub fn run(self, script: impl Fn(usize, Wire) + Send + Sync + 'static) -> Running {
        let address = self.address();
        let script = Arc::new(script);
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&connections);
        socket2::SockRef::from(&self.listener)
            .set_read_timeout(None)
            .expect("no limit is a limit");
        thread::spawn(move || {
            while let Ok((stream, _)) = self.listener.accept() {
                let number = counter.fetch_add(1, Ordering::SeqCst);
                let script = Arc::clone(&script);
                thread::spawn(move || script(number, Wire::new(stream)));
            }
        });
        Running {
            address,
            connections,
        }
    }
}

impl Addressed for Backend {
    fn address(&self) -> SocketAddr {
        self.listener
            .local_addr()
            .expect("a listener has an address")
    }
}

/// A backend whose script runs by itself until the test ends.
pub struct Running {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Running {
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Addressed for Running {
    fn address(&self) -> SocketAddr {
        self.address
    }
}

/// A backend that answers with its name, but holds every request for `/hold` until it is told to let go.
pub struct Holding {
    running: Running,
    gate: Arc<Gate>,
}

#[derive(Default)]
struct Gate {
    state: Mutex<Held>,
    changed: Condvar,
}

#[derive(Default)]
struct Held {
    now: usize,
    most: usize,
    released: bool,
}

impl Holding {
    pub fn start(name: &str) -> Holding {
        let gate = Arc::new(Gate::default());
        let (shared, name) = (Arc::clone(&gate), name.to_owned());
        let running = Backend::start().run(move |_, mut wire| {
            while let Some(request) = wire.next_request() {
                if request.target == "/hold" {
                    shared.hold();
                }
                // A client that left takes its backend's connection along.
                if !wire.try_send(format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nX-Origin: {name}\r\n\r\n{name}",
                    name.len()
                )) {
                    return;
                }
            }
        });
        Holding { running, gate }
    }

    pub fn several<const N: usize>() -> [Holding; N] {
        std::array::from_fn(|index| Holding::start(&format!("origin-{index}")))
    }

    /// How many requests it holds now.
    pub fn held(&self) -> usize {
        lock(&self.gate.state).now
    }

    /// The most that it ever held at once.
    pub fn held_most(&self) -> usize {
        lock(&self.gate.state).most
    }

    /// Answers what it holds, and what comes from now on at once.
    pub fn release(&self) {
        lock(&self.gate.state).released = true;
        self.gate.changed.notify_all();
    }

    /// Holds again what comes from now on.
    pub fn hold_again(&self) {
        lock(&self.gate.state).released = false;
    }
}

impl Addressed for Holding {
    fn address(&self) -> SocketAddr {
        self.running.address()
    }
}

impl Gate {
    fn hold(&self) {
        let mut held = lock(&self.state);
        held.now += 1;
        held.most = held.most.max(held.now);
        while !held.released {
            held = self
                .changed
                .wait(held)
                .unwrap_or_else(std::sync::PoisonError::into_inner);
        }
        held.now -= 1;
    }
}

/// A port that is held, so that nobody else gets it, and refuses every connection.
pub struct Refusing {
    socket: Socket,
}

impl Refusing {
    pub fn start() -> Refusing {
        Refusing {
            socket: hold_port(),
        }
    }
}

impl Addressed for Refusing {
    fn address(&self) -> SocketAddr {
        address_of(&self.socket)
    }
}

/// A port where connecting hangs: the kernel drops what it has no room for.
pub struct Unreachable {
    listener: Socket,
    _filling: Vec<TcpStream>,
}

impl Unreachable {
    pub fn start() -> Unreachable {
        let listener = hold_port();
        listener.listen(0).expect("a bound socket listens");
        let address = address_of(&listener);
        let filling = (0..2)
            .map_while(|_| {
                TcpStream::connect_timeout(&address, std::time::Duration::from_millis(100)).ok()
            })
            .collect();
        Unreachable {
            listener,
            _filling: filling,
        }
    }
}

impl Addressed for Unreachable {
    fn address(&self) -> SocketAddr {
        address_of(&self.listener)
    }
}

/// A server that answers every request with its name, keeps connections open, and can be killed and revived on its port.
///
/// `/echo` answers with the request's body.
pub struct Origin {
    shared: Arc<Shared>,
}

struct Shared {
    name: String,
    alive: AtomicBool,
    /// Whether a request ends it.
    fatal: AtomicBool,
    socket: Socket,
    connections: AtomicUsize,
    open: Mutex<HashMap<usize, TcpStream>>,
    requests: Mutex<Vec<Request>>,
}

impl Origin {
    pub fn start(name: &str) -> Origin {
        let origin = Origin::dead(name);
        origin.revive();
        origin
    }

    /// One that does not run yet but has its port.
    pub fn dead(name: &str) -> Origin {
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            alive: AtomicBool::new(false),
            fatal: AtomicBool::new(false),
            socket: hold_port(),
            connections: AtomicUsize::new(0),
            open: Mutex::default(),
            requests: Mutex::default(),
        });
        Origin { shared }
    }

    pub fn several<const N: usize>() -> [Origin; N] {
        std::array::from_fn(|index| Origin::start(&format!("origin-{index}")))
    }

    /// As a killed process: connections break, new ones are refused.
    pub fn kill(&self) {
        self.shared.alive.store(false, Ordering::SeqCst);
        self.shared
            .socket
            .shutdown(Shutdown::Both)
            .expect("a listening socket can be shut");
        for stream in lock(&self.shared.open).values() {
            // One that its client closed meanwhile is what it should be.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// As the process started again on its port.
    pub fn revive(&self) {
        self.shared.alive.store(true, Ordering::SeqCst);
        self.shared
            .socket
            .listen(1024)
            .expect("a bound socket listens");
        let listener: TcpListener = self
            .shared
            .socket
            .try_clone()
            .expect("descriptors are left")
            .into();
        let shared = Arc::clone(&self.shared);
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let shared = Arc::clone(&shared);
                thread::spawn(move || shared.serve(stream));
            }
        });
    }

    /// From now on as a process that a request kills: the connection breaks, and new ones are refused.
    pub fn die_under_requests(&self) {
        self.shared.fatal.store(true, Ordering::SeqCst);
    }

    pub fn requests(&self) -> usize {
        lock(&self.shared.requests).len()
    }

    pub fn seen(&self) -> Vec<Request> {
        lock(&self.shared.requests).clone()
    }

    pub fn forget(&self) {
        lock(&self.shared.requests).clear();
    }

    /// How many connections were ever opened, checks included.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }
}

impl Addressed for Origin {
    fn address(&self) -> SocketAddr {
        address_of(&self.shared.socket)
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        // The accepting thread ends with the listener; one that is dead already has none.
        let _ = self.shared.socket.shutdown(Shutdown::Both);
    }
}

impl Shared {
    fn serve(&self, stream: TcpStream) {
        let number = self.connections.fetch_add(1, Ordering::SeqCst);
        if let Ok(handle) = stream.try_clone() {
            lock(&self.open).insert(number, handle);
        }
        if self.alive.load(Ordering::SeqCst) {
            self.answer_all(stream);
        }
        lock(&self.open).remove(&number);
    }

    /// Answers requests until the connection ends. Forgiving by design: a kill may cut it anywhere.
    fn answer_all(&self, mut stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        let mut input = Vec::new();
        while let Some((request, used)) = read_request(&mut stream, &mut input) {
            input.drain(..used);
            let close = request.fields.all("connection").contains(&"close");
            let echo = request.target == "/echo";
            let body = if echo {
                request.body.clone()
            } else {
                self.name.clone().into_bytes()
            };
            let head_only = request.method == "HEAD";
            lock(&self.requests).push(request);
            if self.fatal.load(Ordering::SeqCst) {
                // The port first: what the end of this connection brings about finds it shut.
                let _ = self.socket.shutdown(Shutdown::Both);
                return;
            }
            let mut answer = format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nX-Origin: {}\r\n{}\r\n",
                body.len(),
                self.name,
                if close { "Connection: close\r\n" } else { "" }
            )
            .into_bytes();
            if !head_only {
                answer.extend_from_slice(&body);
            }
            if stream.write_all(&answer).is_err() || close {
                return;
            }
        }
    }
}

/// One request from `input` and then `stream`, and how many bytes it took; None when the connection ends first.
fn read_request(stream: &mut TcpStream, input: &mut Vec<u8>) -> Option<(Request, usize)> {
    loop {
        if let Some(found) = parse_request(input) {
            return Some(found);
        }
        let mut buffer = [0; 16_384];
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return None,
            Ok(count) => input.extend_from_slice(&buffer[..count]),
        }
    }
}

fn parse_request(input: &[u8]) -> Option<(Request, usize)> {
    let head_length = input.windows(4).position(|part| part == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&input[..head_length - 4]).into_owned();
    let mut lines = head.split("\r\n");
    let mut words = lines.next()?.split(' ').map(str::to_owned);
    let (method, target, version) = (words.next()?, words.next()?, words.next()?);
    let fields = Fields(
        lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.into(), value.trim().into()))
            .collect(),
    );
    let rest = &input[head_length..];
    let (body, length) = if fields.has("transfer-encoding") {
        parse_chunked(rest)?
    } else {
        let length = fields
            .all("content-length")
            .first()
            .map_or(0, |digits| digits.parse().unwrap_or(0));
        (rest.get(..length)?.to_vec(), length)
    };
    let trailers = Fields(Vec::new());
    Some((
        Request {
            method,
            target,
            version,
            fields,
            body,
            trailers,
        },
        head_length + length,
    ))
}

fn parse_chunked(input: &[u8]) -> Option<(Vec<u8>, usize)> {
    let mut body = Vec::new();
    let mut at = 0;
    loop {
        let line = input[at..].windows(2).position(|pair| pair == b"\r\n")?;
        let size =
            usize::from_str_radix(std::str::from_utf8(&input[at..at + line]).ok()?, 16).ok()?;
        at += line + 2;
        if size == 0 {
            let end = input.get(at..at + 2)?;
            return (end == b"\r\n").then_some((body, at + 2));
        }
        body.extend_from_slice(input.get(at..at + size)?);
        at += size + 2;
    }
}

/// A socket bound to a port of its own that does not listen. The port stays held while the socket lives, listening or not:
/// Linux lets go of a port at `shutdown` only when it was picked by itself, so it is asked for by number here.
fn hold_port() -> Socket {
    let bind = |port: u16| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("descriptors are left");
        socket
            .set_reuse_address(true)
            .expect("a TCP socket takes SO_REUSEADDR");
        socket
            .bind(&SockAddr::from(SocketAddr::from((
                Ipv4Addr::LOCALHOST,
                port,
            ))))
            .expect("the port is ours");
        socket
    };
    let picked = bind(0);
    bind(address_of(&picked).port())
}

fn address_of(socket: &Socket) -> SocketAddr {
    socket
        .local_addr()
        .ok()
        .and_then(|address| address.as_socket())
        .expect("a bound socket has an address")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
