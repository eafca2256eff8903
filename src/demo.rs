//! Demo mode, `rondo --demo`: the balancer and four built-in origin servers in one process.
//!
//! Each origin names itself in its answers and can be told to fail. The demonstration shows each in
//! turn, and then one that fails and comes back while requests go on. Balancer and origins talk
//! over real sockets and share no code: the origins are plain blocking threads, as small as a
//! server can be.
//!
//! Read next: `server.rs`, which starts the balancer.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::config::Config;
use crate::net::lock::lock;
use crate::server::{Server, StartError, watch_signals};
use crate::text::words::listed;

const PORT: u16 = 8080;
/// Of the admin page.
const ADMIN_PORT: u16 = 9090;
const ORIGIN_PORTS: [u16; 4] = [8081, 8082, 8083, 8084];

/// The index of the origin that fails.
const FAILING: usize = 2;

/// How long an origin that was asked to fail stays away.
const FAILURE: Duration = Duration::from_secs(10);

/// How often a failed origin looks whether it should come back, and a connection whether its origin
/// has failed.
const LOOK: Duration = Duration::from_millis(100);

/// How long requests go on until the failed origin has its turn again: checks come every 2 s.
const RETURN: Duration = Duration::from_secs(60);

/// Connections that may wait for an origin that has come back.
const BACKLOG: i32 = 128;

/// Longer than the demonstration takes to bring an origin back.
const UNTIL_TOLD: Duration = Duration::from_secs(3600);

/// Why the demonstration cannot run.
#[derive(Debug)]
pub enum DemoError {
    /// An origin cannot run.
    Origin(SocketAddr, io::Error),
    /// The balancer cannot run.
    Server(StartError),
}

impl fmt::Display for DemoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DemoError::Origin(address, error) => {
                write!(f, "--demo cannot listen on {address}: {error}")
            }
            DemoError::Server(error) => write!(f, "--demo: {error}"),
        }
    }
}

impl std::error::Error for DemoError {}

/// Starts the origins and the balancer, shows their answers while one fails, prints what to try,
/// and runs until stopped.
pub fn run() -> Result<(), DemoError> {
    let mut origins = Vec::new();
    for (index, port) in ORIGIN_PORTS.into_iter().enumerate() {
        origins.push(Origin::start(index + 1, port)?);
    }
    let commands = watch_signals().map_err(DemoError::Server)?;
    let (mut port, mut admin_port) = (PORT, ADMIN_PORT);
    let server = loop {
        let config = configuration(port, admin_port, &origins);
        let error = match Server::start(config, None, commands.clone()) {
            Ok(server) => break server,
            Err(error) => error,
        };
        let wanted = match &error {
            StartError::Listen(key, _, error) if error.kind() == io::ErrorKind::AddrInUse => {
                if *key == "admin.address" {
                    &mut admin_port
                } else {
                    &mut port
                }
            }
            _ => return Err(DemoError::Server(error)),
        };
        // A taken port is replaced by a free one, once.
        if std::mem::take(wanted) == 0 {
            return Err(DemoError::Server(error));
        }
    };
    let address = server.local_address();
    let admin = server.admin_address();
    introduce(address, admin, &origins);
    show(address, &origins[FAILING]);
    say(&format!(
        "\nTry it from another terminal:\n\
         \x20 curl http://{address}/         each origin in turn\n\
         \x20 curl http://{}/fail     origin {} breaks off and is gone for {} s; meanwhile\n\
         \x20 for i in $(seq 12); do curl -sS http://{address}/; done\n\
         \x20                                     shows no error: the others answer\n\
         {}Ctrl-C stops everything.",
        origins[FAILING].address,
        origins[FAILING].number,
        FAILURE.as_secs(),
        admin.map_or_else(String::new, |admin| {
            format!("And open http://{admin}/ in a browser: the admin page shows all of it.\n")
        })
    ));
    server.wait();
    Ok(())
}

/// Prints what runs where, with the real ports.
fn introduce(address: SocketAddr, admin: Option<SocketAddr>, origins: &[Arc<Origin>]) {
    let ports: Vec<String> = origins
        .iter()
        .map(|origin| origin.address.port().to_string())
        .collect();
    say(&format!(
        "Four origin servers run on 127.0.0.1, ports {}; rondo balances over them on http://{address}/",
        listed(&ports, "and")
    ));
    if let Some(admin) = admin {
        say(&format!("The admin page is http://{admin}/"));
    }
    let wanted = ORIGIN_PORTS.iter().zip(origins);
    let origins = wanted.map(|(port, origin)| {
        let name = format!("origin {}", origin.number);
        (*port, name, origin.address.port())
    });
    let own = (PORT, "rondo".to_owned(), address.port());
    let page = admin.map(|admin| (ADMIN_PORT, "the admin page".to_owned(), admin.port()));
    for (wanted, name, port) in origins.chain([own]).chain(page) {
        if port != wanted {
            say(&format!(
                "Port {wanted} is taken: {name} listens on port {port} instead."
            ));
        }
    }
}

/// A round over all origins, another without the one that fails, and its return while requests go
/// on.
fn show(address: SocketAddr, failing: &Origin) {
    let number = failing.number;
    say("\nA first round of eight requests:");
    ask_eight(address);
    failing.fail(UNTIL_TOLD);
    say(&format!(
        "\nOrigin {number} fails now. Eight more requests:"
    ));
    let failed = ask_eight(address);
    say(&format!("{} of them failed.", none_or(failed)));
    failing.come_back();
    let since = Instant::now();
    let (mut requests, mut failed) = (0, 0);
    let is_back = loop {
        requests += 1;
        match ask(address) {
            Ok(answer) if answer.contains(&failing.address.to_string()) => break true,
            Ok(_) => thread::sleep(LOOK / 2),
            Err(_) => failed += 1,
        }
        if since.elapsed() > RETURN {
            break false;
        }
    };
    let took_ms = since.elapsed().as_millis();
    say(&format!(
        "\nOrigin {number} runs again and {} after {}.{} s and {requests} more requests, of which {} failed.",
        if is_back {
            "has its turn"
        } else {
            "has no turn yet"
        },
        took_ms / 1000,
        took_ms / 100 % 10,
        none_or(failed).to_lowercase()
    ));
}

/// Sends eight requests and prints each answer; returns how many failed.
fn ask_eight(address: SocketAddr) -> usize {
    let mut failed = 0;
    for number in 1..=8 {
        let answer = ask(address).unwrap_or_else(|error| {
            failed += 1;
            format!("failed: {error}")
        });
        say(&format!("  {number}. {}", answer.trim_end()));
    }
    failed
}

fn none_or(number: usize) -> String {
    match number {
        0 => "None".to_owned(),
        _ => number.to_string(),
    }
}

fn configuration(port: u16, admin_port: u16, origins: &[Arc<Origin>]) -> Config {
    let backends: Vec<String> = origins
        .iter()
        .map(|origin| {
            format!(
                r#"{{ "name": "origin-{}", "url": "http://{}/" }}"#,
                origin.number, origin.address
            )
        })
        .collect();
    let admin = if cfg!(feature = "admin") {
        format!(r#", "admin": {{ "address": "127.0.0.1:{admin_port}" }}"#)
    } else {
        String::new()
    };
    // Without the access log: standard output belongs to the demonstration.
    let text = format!(
        r#"{{ "proxy": {{ "port": {port}, "address": "127.0.0.1", "access_log": false }}, "backends": [ {} ]{admin} }}"#,
        backends.join(", ")
    );
    Config::from_text("the demonstration's configuration", &text)
        .expect("the text above is a right configuration, which a test shows")
}

/// Prints for the user; a closed terminal is ignored.
fn say(text: &str) {
    let _ = writeln!(io::stdout(), "{text}");
}

/// One GET as any client would send it; returns the body.
fn ask(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(
        stream,
        "GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )?;
    let mut response = String::new();
    stream.read_to_string(&mut response)?;
    match response.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200 ") => Ok(body.to_owned()),
        _ => Err(io::Error::other(
            response.lines().next().unwrap_or("no answer").to_owned(),
        )),
    }
}

/// A server that names itself in each answer.
struct Origin {
    number: usize,
    address: SocketAddr,
    /// When it comes back, while it has failed.
    failed_until: Mutex<Option<Instant>>,
}

impl Origin {
    /// Listens on `port`, or on a free one if that is taken or 0, and serves on threads of its own.
    fn start(number: usize, port: u16) -> Result<Arc<Self>, DemoError> {
        let wanted = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let failure = |error: io::Error| DemoError::Origin(wanted, error);
        let listener = match TcpListener::bind(wanted) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            }
            bound => bound,
        };
        let listener = listener.map_err(failure)?;
        let address = listener.local_addr().map_err(failure)?;
        let origin = Arc::new(Self {
            number,
            address,
            failed_until: Mutex::new(None),
        });
        let running = Arc::clone(&origin);
        thread::Builder::new()
            .name(format!("origin-{number}"))
            .spawn(move || running.live(listener))
            .map_err(failure)?;
        Ok(origin)
    }

    /// Closes its connections and refuses new ones, at most for this long.
    fn fail(&self, at_most: Duration) {
        *lock(&self.failed_until) = Some(Instant::now() + at_most);
        // Wakes the accepting thread with a connection.
        let _ = TcpStream::connect(self.address);
    }

    /// Ends a failure.
    fn come_back(&self) {
        if let Some(until) = lock(&self.failed_until).as_mut() {
            *until = Instant::now();
        }
    }

    fn has_failed(&self) -> bool {
        lock(&self.failed_until).is_some()
    }

    /// Serves, fails when told to, and comes back, for ever.
    fn live(self: &Arc<Self>, mut listener: TcpListener) {
        loop {
            for stream in listener.incoming().flatten() {
                if self.has_failed() {
                    break;
                }
                let origin = Arc::clone(self);
                // If no thread can be had, the connection closes, as at any server short of
                // threads.
                let _ = thread::Builder::new().spawn(move || origin.serve(stream));
            }
            drop(listener);
            let closed = retried(|| closed_port(self.address));
            while lock(&self.failed_until).is_some_and(|until| Instant::now() < until) {
                thread::sleep(LOOK);
            }
            retried(|| closed.listen(BACKLOG));
            listener = closed.into();
            *lock(&self.failed_until) = None;
        }
    }

    /// Answers every request of one connection. An error of any kind ends it.
    fn serve(&self, stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        let _ = stream.set_read_timeout(Some(LOOK));
        let mut connection = BufReader::new(Patient {
            stream,
            origin: self,
        });
        while let Ok(Some(request)) = Request::read(&mut connection) {
            // Only a request sent to the origin itself may make it fail; one through the balancer
            // has `Via`.
            let fail = request.target == "/fail" && !request.forwarded;
            let text = if fail { "fails now" } else { "answered" };
            let body = format!("origin {} on {} {text}\n", self.number, self.address);
            let content = if request.head_only { "" } else { body.as_str() };
            let answer = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nX-Origin: {}\r\n\r\n{content}",
                body.len(),
                self.number
            );
            if fail {
                // Before the answer: a client that has it must find this origin gone.
                self.fail(FAILURE);
            }
            let written = connection.get_mut().stream.write_all(answer.as_bytes());
            if fail || request.close || written.is_err() {
                return;
            }
        }
    }
}

/// A port that refuses connections, and that no other process can take.
fn closed_port(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Repeats until it succeeds: another process may hold the port for a moment.
fn retried<T>(attempt: impl Fn() -> io::Result<T>) -> T {
    loop {
        match attempt() {
            Ok(done) => return done,
            Err(_) => thread::sleep(LOOK),
        }
    }
}

/// A reader that waits as long as nothing comes, and fails when its origin has failed.
struct Patient<'a> {
    stream: TcpStream,
    origin: &'a Origin,
}

impl Read for Patient<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let result = self.stream.read(buffer);
            if self.origin.has_failed() {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            match result {
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                    ) => {}
                result => return result,
            }
        }
    }
}

/// What an origin needs to know of a request.
#[derive(Debug, Default, PartialEq, Eq)]
struct Request {
    target: String,
    head_only: bool,
    forwarded: bool,
    close: bool,
}

impl Request {
    /// Reads one request and skips its body; none when the connection ends before it.
    fn read(connection: &mut impl BufRead) -> io::Result<Option<Self>> {
        let line = read_line(connection)?;
        let mut words = line.split(' ');
        let (Some(method), Some(target)) = (words.next(), words.next()) else {
            return Ok(None);
        };
        let mut request = Self {
            target: target.to_owned(),
            head_only: method == "HEAD",
            ..Self::default()
        };
        let (mut length, mut chunked) = (0, false);
        loop {
            let line = read_line(connection)?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').unwrap_or((&line, ""));
            match (name.to_ascii_lowercase().as_str(), value.trim()) {
                ("content-length", value) => length = value.parse().map_err(io::Error::other)?,
                ("transfer-encoding", _) => chunked = true,
                ("connection", value) => request.close = value.eq_ignore_ascii_case("close"),
                ("via", _) => request.forwarded = true,
                _ => {}
            }
        }
        if chunked {
            skip_chunks(connection)?;
        } else {
            skip(connection, length)?;
        }
        Ok(Some(request))
    }
}

fn read_line(connection: &mut impl BufRead) -> io::Result<String> {
    const LINE_BYTES_MAX: u64 = 64 * 1024;
    let mut line = String::new();
    connection.take(LINE_BYTES_MAX).read_line(&mut line)?;
    line.truncate(line.trim_end().len());
    Ok(line)
}

fn skip(connection: &mut impl BufRead, length: u64) -> io::Result<()> {
    match io::copy(&mut connection.take(length), &mut io::sink())? {
        skipped if skipped == length => Ok(()),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

fn skip_chunks(connection: &mut impl BufRead) -> io::Result<()> {
    loop {
        let line = read_line(connection)?;
        let digits = line.split(';').next().unwrap_or_default();
        let size = u64::from_str_radix(digits, 16).map_err(io::Error::other)?;
        skip(connection, size)?;
        if size == 0 {
            // The trailer section ends with an empty line.
            while !read_line(connection)?.is_empty() {}
            return Ok(());
        }
        read_line(connection)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_is_right() {
        let origins = [1, 2].map(|number| Origin::start(number, 0).unwrap());
        assert_eq!(configuration(0, 0, &origins).backends.len(), 2);
    }

    #[test]
    fn an_origin_names_itself() {
        let origin = Origin::start(3, 0).unwrap();
        let answer = ask(origin.address).unwrap();
        assert_eq!(answer, format!("origin 3 on {} answered\n", origin.address));
    }

    #[test]
    fn an_origin_passes_over_bodies() {
        let mut input = &b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc\
            PUT /b HTTP/1.1\r\nTransfer-Encoding: chunked\r\nVia: 1.1 x\r\n\r\n3\r\nabc\r\n0\r\nX: y\r\n\r\n\
            HEAD /c HTTP/1.1\r\nConnection: close\r\n\r\n"[..];
        let mut targets = Vec::new();
        while let Some(request) = Request::read(&mut input).unwrap() {
            targets.push((request.target, request.forwarded, request.close));
        }
        let expected = [
            ("/a", false, false),
            ("/b", true, false),
            ("/c", false, true),
        ];
        assert_eq!(
            targets,
            expected.map(|(target, forwarded, close)| (target.to_owned(), forwarded, close))
        );
    }

    #[test]
    fn an_origin_that_was_asked_to_fail_is_gone() {
        let origin = Origin::start(1, 0).unwrap();
        let mut kept = TcpStream::connect(origin.address).unwrap();
        let mut stream = TcpStream::connect(origin.address).unwrap();
        stream
            .write_all(b"GET /fail HTTP/1.1\r\nHost: a\r\n\r\n")
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.ends_with("fails now\n"), "{answer:?}");
        assert_eq!(
            kept.read(&mut [0]).unwrap_or(0),
            0,
            "other connections end as well"
        );
    }

    #[test]
    fn a_taken_port_is_replaced_by_a_free_one() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let origin = Origin::start(1, port).unwrap();
        assert_ne!(origin.address.port(), port);
        assert!(ask(origin.address).is_ok());
    }

    #[test]
    fn an_origin_comes_back_when_it_is_told_to() {
        let origin = Origin::start(1, 0).unwrap();
        origin.fail(UNTIL_TOLD);
        let since = Instant::now();
        // The connection that woke the listener may still be waiting in its queue.
        while ask(origin.address).is_ok() && since.elapsed() < RETURN {}
        assert!(ask(origin.address).is_err());
        origin.come_back();
        while ask(origin.address).is_err() && since.elapsed() < RETURN {
            thread::sleep(LOOK);
        }
        assert!(ask(origin.address).is_ok());
    }
}
