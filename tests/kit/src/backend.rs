//! A backend whose every byte the test writes, and one that holds its answers back. Read next:
//! `origin.rs`, `dead.rs`.

use crate::wire::{self, Wire};
use crate::{PATIENCE, lock};
use rustix::event::{PollFd, PollFlags, poll};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
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
