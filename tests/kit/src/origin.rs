//! A backend that answers by itself, and can be killed and revived.

use crate::backend::Addressed;
use crate::dead::{address_of, hold_port};
use crate::lock;
use crate::wire::{Fields, Request};
use socket2::Socket;
use std::collections::HashMap;
use std::io::{Read, Write};
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
