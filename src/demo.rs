//! `rondo --demo`: the main job on a machine with nothing else.
//!
//! Four small origin servers and the balancer over them run in one process. The origins are on the other side of real
//! sockets and share nothing with the product: plain blocking threads on std, as simple as a server can be. What they are
//! good for is to be told apart, and to fail on request.
//!
//! Read next: server.rs, which starts what is shown here.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::config::Config;
use crate::server::{Server, StartError, watch_signals};

const PORT: u16 = 8080;
const ORIGIN_PORTS: [u16; 4] = [8081, 8082, 8083, 8084];

/// How long an origin that was asked to fail stays away.
const FAILURE: Duration = Duration::from_secs(10);

/// How often a connection looks whether its origin has failed meanwhile.
const LOOK: Duration = Duration::from_millis(100);

/// Why the demonstration cannot run.
#[derive(Debug)]
pub enum DemoError {
    /// Something else listens on a port that it needs.
    Taken(SocketAddr),
    /// An origin cannot run.
    Origin(SocketAddr, io::Error),
    /// The balancer cannot run.
    Server(StartError),
    /// The balancer runs, and a request through it failed.
    Request(io::Error),
}

impl fmt::Display for DemoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DemoError::Taken(address) => {
                write!(
                    f,
                    "--demo needs {address}, and something else listens there: stop it first"
                )
            }
            DemoError::Origin(address, error) => {
                write!(f, "--demo cannot listen on {address}: {error}")
            }
            DemoError::Server(error) => write!(f, "--demo: {error}"),
            DemoError::Request(error) => write!(f, "--demo: a request failed: {error}"),
        }
    }
}

impl std::error::Error for DemoError {}

/// Starts the origins and the balancer, shows a first round of requests and what to try, and runs until stopped.
pub fn run() -> Result<(), DemoError> {
    for (index, port) in ORIGIN_PORTS.into_iter().enumerate() {
        Origin::start(index + 1, port)?;
    }
    let stop = watch_signals().map_err(DemoError::Server)?;
    let server = Server::start(configuration(), stop).map_err(|error| match error {
        StartError::Listen(address, error) if error.kind() == io::ErrorKind::AddrInUse => {
            DemoError::Taken(address)
        }
        error => DemoError::Server(error),
    })?;
    let address = server.local_address();
    say(&format!(
        "Four origin servers run on 127.0.0.1:8081-8084; rondo balances over them on http://{address}/\n\n\
         A first round of eight requests:"
    ));
    for number in 1..=8 {
        let answer = ask(address).map_err(DemoError::Request)?;
        say(&format!("  {number}. {}", answer.trim_end()));
    }
    say(&format!(
        "\nTry it from another terminal:\n\
         \x20 curl http://{address}/         each origin in turn\n\
         \x20 curl http://127.0.0.1:8083/fail     origin 3 breaks off and is gone for {} s; meanwhile\n\
         \x20 for i in $(seq 12); do curl -sS http://{address}/; done\n\
         \x20                                     shows no error: the others answer\n\
         Ctrl-C stops everything.",
        FAILURE.as_secs()
    ));
    server.wait();
    Ok(())
}

fn configuration() -> Config {
    let backends: Vec<String> = ORIGIN_PORTS
        .iter()
        .enumerate()
        .map(|(index, port)| {
            format!(
                r#"{{ "name": "origin-{}", "url": "http://127.0.0.1:{port}/" }}"#,
                index + 1
            )
        })
        .collect();
    // Without the access log: standard output is for what the demonstration says.
    let text = format!(
        r#"{{ "proxy": {{ "port": {PORT}, "address": "127.0.0.1", "access_log": false }}, "backends": [ {} ] }}"#,
        backends.join(", ")
    );
    Config::from_text("the demonstration's configuration", &text)
        .expect("the text above is a right configuration, which a test shows")
}

/// Writes for the user; a closed terminal ends nothing.
fn say(text: &str) {
    let _ = writeln!(io::stdout(), "{text}");
}

/// One GET as any client would send it; gives the body.
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

/// A server that names itself in every answer.
struct Origin {
    number: usize,
    address: SocketAddr,
    failed: AtomicBool,
}

impl Origin {
    /// Listens on `port` (0 picks one) and serves on threads of its own.
    fn start(number: usize, port: u16) -> Result<Arc<Self>, DemoError> {
        let wanted = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let failure = |error: io::Error| match error.kind() {
            io::ErrorKind::AddrInUse => DemoError::Taken(wanted),
            _ => DemoError::Origin(wanted, error),
        };
        let listener = TcpListener::bind(wanted).map_err(failure)?;
        let address = listener.local_addr().map_err(failure)?;
        let origin = Arc::new(Self {
            number,
            address,
            failed: AtomicBool::new(false),
        });
        let running = Arc::clone(&origin);
        thread::Builder::new()
            .name(format!("origin-{number}"))
            .spawn(move || running.live(listener))
            .map_err(failure)?;
        Ok(origin)
    }

    /// Serves, fails when asked to, and comes back, for ever.
    fn live(self: &Arc<Self>, mut listener: TcpListener) {
        loop {
            for stream in listener.incoming().flatten() {
                if self.failed.load(Ordering::Acquire) {
                    break;
                }
                let origin = Arc::clone(self);
                // No thread for it: the connection closes, which is what a server short of threads does.
                let _ = thread::Builder::new().spawn(move || origin.serve(stream));
            }
            drop(listener);
            thread::sleep(FAILURE);
            listener = match TcpListener::bind(self.address) {
                Ok(listener) => listener,
                // Somebody took the port meanwhile: this origin stays away.
                Err(_) => return,
            };
            self.failed.store(false, Ordering::Release);
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
            // Only whoever asks this origin itself may break it; a request through the balancer has `Via`.
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
                // Before the answer: whoever has it must find this origin gone.
                self.failed.store(true, Ordering::Release);
            }
            let stream = &mut connection.get_mut().stream;
            let written = stream.write_all(answer.as_bytes());
            if fail {
                // The accepting thread waits for a connection: here is one.
                let _ = TcpStream::connect(self.address);
            }
            if fail || request.close || written.is_err() {
                return;
            }
        }
    }
}

/// Reads on while nothing comes, and breaks off when its origin fails.
struct Patient<'a> {
    stream: TcpStream,
    origin: &'a Origin,
}

impl Read for Patient<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let result = self.stream.read(buffer);
            if self.origin.failed.load(Ordering::Acquire) {
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

/// The little that an origin wants to know of a request.
#[derive(Debug, Default, PartialEq, Eq)]
struct Request {
    target: String,
    head_only: bool,
    forwarded: bool,
    close: bool,
}

impl Request {
    /// Reads one request and passes over its body; None when the connection ends before it.
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
        assert_eq!(configuration().backends.len(), ORIGIN_PORTS.len());
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
    fn a_taken_port_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let error = Origin::start(1, port).err().unwrap().to_string();
        assert!(
            error.contains(&format!("127.0.0.1:{port}")) && !error.contains('\n'),
            "{error}"
        );
    }
}
