//! A backend that answers by itself, and can be killed and revived.

use crate::backend::Addressed;
use crate::dead::{address_of, hold_port};
use crate::lock;
use crate::wire::{Broken, Request, Wire, text};
use socket2::Socket;
use std::collections::HashMap;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

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
    /// What came that is no valid request.
    faults: Mutex<Vec<String>>,
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
            faults: Mutex::default(),
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
        let faults = lock(&self.shared.faults);
        assert!(
            faults.is_empty() || thread::panicking(),
            "not valid: {faults:?}"
        );
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

    /// Answers requests until the connection ends, which may be anywhere when it is killed.
    fn answer_all(&self, stream: TcpStream) {
        let mut wire = Wire::new(stream);
        // It waits for requests as long as the test lasts.
        let _ = wire.stream().set_read_timeout(None);
        loop {
            let request = match wire.try_request() {
                Ok(Some(request)) => request,
                Ok(None) | Err(Broken::Ended(_)) => return,
                Err(Broken::Invalid(rule)) => {
                    let fault = format!("{rule}, in {:?}", text(wire.received()));
                    return lock(&self.faults).push(fault);
                }
            };
            if !self.answer(&mut wire, request) {
                return;
            }
            wire.forget();
        }
    }

    /// Whether the connection persists.
    fn answer(&self, wire: &mut Wire, request: Request) -> bool {
        let close = request.fields.all("connection").contains(&"close");
        let body = if request.target == "/echo" {
            request.body.clone()
        } else {
            self.name.clone().into_bytes()
        };
        let head_only = request.method == "HEAD";
        lock(&self.requests).push(request);
        if self.fatal.load(Ordering::SeqCst) {
            // The port first: what the end of this connection brings about finds it shut.
            let _ = self.socket.shutdown(Shutdown::Both);
            return false;
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
        wire.try_send(&answer) && !close
    }
}
