//! One TCP connection as a test sees it: raw bytes out, strictly read HTTP messages in.
//!
//! The reader is deliberately unforgiving: CRLF only, one framing, no surplus. What rondo writes must pass it.

use crate::PATIENCE;
use std::fmt::Write as _;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

/// A connection, and what was read from it but not yet asked for.
pub struct Wire {
    stream: TcpStream,
    unread: Vec<u8>,
    /// Every byte that ever arrived.
    received: Vec<u8>,
}

/// How a peer ended the connection.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum End {
    Closed,
    Reset,
}

#[derive(Debug, Clone)]
pub struct Fields(pub Vec<(String, String)>);

#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    pub target: String,
    pub version: String,
    pub fields: Fields,
    pub body: Vec<u8>,
    pub trailers: Fields,
}

#[derive(Debug, Clone)]
pub struct Response {
    pub version: String,
    pub status: u16,
    pub reason: String,
    pub fields: Fields,
    pub body: Vec<u8>,
    pub trailers: Fields,
}

struct Head {
    start: String,
    fields: Fields,
}

impl Wire {
    pub fn new(stream: TcpStream) -> Wire {
        stream
            .set_nodelay(true)
            .expect("a TCP socket takes TCP_NODELAY");
        stream.set_read_timeout(Some(PATIENCE)).expect("not zero");
        stream.set_write_timeout(Some(PATIENCE)).expect("not zero");
        Wire {
            stream,
            unread: Vec::new(),
            received: Vec::new(),
        }
    }

    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Every byte that was read so far.
    pub fn received(&self) -> &[u8] {
        &self.received
    }

    /// Lets go of the record, for a test that moves a lot.
    pub fn forget(&mut self) {
        self.received.clear();
    }

    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        if let Err(error) = self.stream.write_all(bytes.as_ref()) {
            panic!(
                "cannot send: {error}; received so far: {:?}",
                text(&self.received)
            );
        }
    }

    /// Sends what the peer still takes; whether it took all.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).is_ok()
    }

    /// Sends until nothing more is taken: as much as the way holds while nobody reads at its end.
    pub fn fill_up(&mut self) {
        let part = [b'x'; 16_384];
        self.stream
            .set_nonblocking(true)
            .expect("a socket can be made non-blocking");
        let mut full_since = Instant::now();
        // The buffers of a connection grow while they are used: full is what stays full.
        while full_since.elapsed() < Duration::from_millis(30) {
            match self.stream.write(&part) {
                Ok(_) => full_since = Instant::now(),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(_) => break,
            }
        }
        self.stream
            .set_nonblocking(false)
            .expect("a socket can be made blocking");
    }

    /// Sends `bytes` in two parts that very likely arrive as two; both orders of events are right.
    #[track_caller]
    pub fn send_split(&mut self, bytes: impl AsRef<[u8]>, at: usize) {
        let (first, second) = bytes.as_ref().split_at(at);
        self.send(first);
        std::thread::sleep(Duration::from_millis(2));
        self.send(second);
    }

    /// Ends the sending side; what the peer sends is still read.
    pub fn half_close(&self) {
        // The peer may have gone already: then there is no side left to close.
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Ends with a reset: the peer's reads and writes fail at once.
    pub fn reset(self) {
        socket2::SockRef::from(&self.stream)
            .set_linger(Some(Duration::ZERO))
            .expect("a TCP socket takes SO_LINGER");
    }

    pub fn close(self) {
        drop(self);
    }

    /// Reads more; None at the end.
    fn fill(&mut self) -> Result<usize, End> {
        let mut buffer = [0; 16_384];
        match self.stream.read(&mut buffer) {
            Ok(0) => Err(End::Closed),
            Ok(count) => {
                self.unread.extend_from_slice(&buffer[..count]);
                self.received.extend_from_slice(&buffer[..count]);
                Ok(count)
            }
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
                ) =>
            {
                Err(End::Reset)
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!(
                    "nothing came for {PATIENCE:?}; received so far: {:?}",
                    text(&self.received)
                )
            }
            Err(error) => panic!("cannot read: {error}"),
        }
    }

    #[track_caller]
    fn fill_or_panic(&mut self, wanted: &str) {
        if let Err(end) = self.fill() {
            panic!(
                "{end:?} instead of {wanted}; received so far: {:?}",
                text(&self.received)
            );
        }
    }

    #[track_caller]
    pub fn read_exact(&mut self, length: usize) -> Vec<u8> {
        while self.unread.len() < length {
            self.fill_or_panic(&format!("{length} bytes"));
        }
        self.unread.drain(..length).collect()
    }

    /// Reads one line without its CRLF.
    #[track_caller]
    pub fn read_line(&mut self) -> String {
        let mut searched = 0;
        loop {
            if let Some(at) = self.unread[searched..]
                .windows(2)
                .position(|pair| pair == b"\r\n")
            {
                let line: Vec<u8> = self.unread.drain(..searched + at + 2).collect();
                let line = latin1(&line[..line.len() - 2]);
                assert!(
                    !line.contains(['\r', '\n', '\0']),
                    "control characters in the line {line:?}"
                );
                return line;
            }
            searched = self.unread.len().saturating_sub(1);
            self.fill_or_panic("a line");
        }
    }

    /// Reads to the end; a reset is a failure.
    #[track_caller]
    pub fn read_to_end(&mut self) -> Vec<u8> {
        let (bytes, end) = self.read_until_gone();
        assert_eq!(end, End::Closed, "after {:?}", text(&bytes));
        bytes
    }

    /// Reads until the peer ended the connection, one way or the other.
    pub fn read_until_gone(&mut self) -> (Vec<u8>, End) {
        loop {
            if let Err(end) = self.fill() {
                return (std::mem::take(&mut self.unread), end);
            }
        }
    }

    /// The peer sends nothing more and ends in order.
    #[track_caller]
    pub fn expect_closed(&mut self) {
        let (bytes, end) = self.read_until_gone();
        assert_eq!((text(&bytes), end), (String::new(), End::Closed));
    }

    /// The peer sends nothing more and ends, in order or by a reset.
    #[track_caller]
    pub fn expect_gone(&mut self) {
        let (bytes, _) = self.read_until_gone();
        assert_eq!(text(&bytes), "");
    }

    /// Nothing has arrived up to now. Only meaningful after something else shows that it would have.
    #[track_caller]
    pub fn expect_nothing_yet(&mut self) {
        self.stream
            .set_nonblocking(true)
            .expect("a socket can be made non-blocking");
        let mut buffer = [0; 4096];
        let got = self.stream.read(&mut buffer);
        self.stream
            .set_nonblocking(false)
            .expect("a socket can be made blocking");
        assert!(
            self.unread.is_empty(),
            "unexpected: {:?}",
            text(&self.unread)
        );
        match got {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Ok(count) => panic!("unexpected: {:?}", text(&buffer[..count])),
            Err(error) => panic!("unexpected end: {error}"),
        }
    }

    /// Whether something waits to be read: bytes, or the end.
    pub fn has_input(&self) -> bool {
        self.stream
            .set_nonblocking(true)
            .expect("a socket can be made non-blocking");
        let peeked = self.stream.peek(&mut [0]);
        self.stream
            .set_nonblocking(false)
            .expect("a socket can be made blocking");
        !matches!(peeked, Err(error) if error.kind() == ErrorKind::WouldBlock)
    }

    /// Whether the end is the next thing to read.
    pub fn has_ended(&self) -> bool {
        self.has_input() && self.stream.peek(&mut [0]).map_or(true, |count| count == 0)
    }

    /// Takes in what waits to be read; whether the peer has ended.
    pub fn drain_input(&mut self) -> bool {
        while self.has_input() {
            if self.fill().is_err() {
                return true;
            }
        }
        false
    }

    /// Reads one line; None when the connection ends before it does.
    pub fn try_read_line(&mut self) -> Option<String> {
        while !self.unread.windows(2).any(|pair| pair == b"\r\n") {
            self.fill().ok()?;
        }
        Some(self.read_line())
    }

    #[track_caller]
    fn read_head(&mut self) -> Head {
        let start = self.read_line();
        Head {
            start,
            fields: self.read_fields(),
        }
    }

    #[track_caller]
    fn read_fields(&mut self) -> Fields {
        let mut fields = Vec::new();
        loop {
            let line = self.read_line();
            if line.is_empty() {
                return Fields(fields);
            }
            let (name, value) = line
                .split_once(':')
                .unwrap_or_else(|| panic!("no colon in the field line {line:?}"));
            assert!(
                !name.is_empty() && name.bytes().all(is_token),
                "bad field name in {line:?}"
            );
            fields.push((name.to_owned(), value.trim_matches([' ', '\t']).to_owned()));
        }
    }

    /// Reads a request's head only; its body stays to be read.
    #[track_caller]
    pub fn expect_request_head(&mut self) -> Request {
        let Head { start, fields } = self.read_head();
        let parts: Vec<&str> = start.split(' ').collect();
        let [method, target, version] = parts[..] else {
            panic!("bad request line {start:?}")
        };
        assert!(
            method.bytes().all(is_token) && !method.is_empty(),
            "bad method in {start:?}"
        );
        assert_eq!(version, "HTTP/1.1", "{start:?}");
        assert_eq!(
            fields.all("host").len(),
            1,
            "exactly one Host in {fields:?}"
        );
        Request {
            method: method.to_owned(),
            target: target.to_owned(),
            version: version.to_owned(),
            fields,
            body: Vec::new(),
            trailers: Fields(Vec::new()),
        }
    }

    /// Reads one whole request.
    #[track_caller]
    pub fn expect_request(&mut self) -> Request {
        let mut request = self.expect_request_head();
        (request.body, request.trailers) = match request.fields.framing() {
            Framing::Length(length) => (self.read_exact(length), Fields(Vec::new())),
            Framing::Chunked => self.read_chunked(),
            Framing::None => (Vec::new(), Fields(Vec::new())),
        };
        request
    }

    /// Reads one whole request; None when the connection ends before it begins.
    #[track_caller]
    pub fn next_request(&mut self) -> Option<Request> {
        (!self.unread.is_empty() || self.fill().is_ok()).then(|| self.expect_request())
    }

    /// Reads a request's head only; None when the connection ends before it begins.
    #[track_caller]
    pub fn next_request_head(&mut self) -> Option<Request> {
        (!self.unread.is_empty() || self.fill().is_ok()).then(|| self.expect_request_head())
    }

    /// Reads the body that goes with a head; whether there was one before the connection ended.
    #[track_caller]
    pub fn pass_over_body(&mut self, request: &Request) -> bool {
        match request.fields.framing() {
            Framing::None => {}
            _ if self.unread.is_empty() && self.fill().is_err() => return false,
            Framing::Length(length) => drop(self.read_exact(length)),
            Framing::Chunked => drop(self.read_chunked()),
        }
        true
    }

    /// Reads a response's head only; its body stays to be read.
    #[track_caller]
    pub fn read_response_head(&mut self) -> Response {
        let Head { start, fields } = self.read_head();
        let mut parts = start.splitn(3, ' ');
        let version = parts.next().unwrap_or_default().to_owned();
        assert_eq!(version, "HTTP/1.1", "{start:?}");
        let status = parts.next().unwrap_or_default();
        assert_eq!(status.len(), 3, "{start:?}");
        let status = status
            .parse()
            .unwrap_or_else(|_| panic!("bad status in {start:?}"));
        let reason = parts
            .next()
            .unwrap_or_else(|| panic!("no space after the status in {start:?}"))
            .to_owned();
        Response {
            version,
            status,
            reason,
            fields,
            body: Vec::new(),
            trailers: Fields(Vec::new()),
        }
    }

    /// Reads one response, interim ones included, to a request that was not HEAD.
    #[track_caller]
    pub fn read_response(&mut self) -> Response {
        self.read_response_to("GET")
    }

    #[track_caller]
    pub fn read_response_to(&mut self, method: &str) -> Response {
        let mut response = self.read_response_head();
        let framing = response.fields.framing();
        if response.status < 200 || response.status == 204 {
            assert!(
                matches!(framing, Framing::None),
                "framing fields in {response:?}"
            );
            return response;
        }
        if method == "HEAD" || response.status == 304 {
            return response;
        }
        match framing {
            Framing::Length(length) => response.body = self.read_exact(length),
            Framing::Chunked => (response.body, response.trailers) = self.read_chunked(),
            Framing::None => response.body = self.read_to_end(),
        }
        response
    }

    #[track_caller]
    fn read_chunked(&mut self) -> (Vec<u8>, Fields) {
        let mut body = Vec::new();
        loop {
            let chunk = self.read_chunk();
            if chunk.is_empty() {
                return (body, self.read_fields());
            }
            body.extend_from_slice(&chunk);
        }
    }

    /// Reads one chunk; the last one is empty, and the trailer section stays to be read.
    #[track_caller]
    pub fn read_chunk(&mut self) -> Vec<u8> {
        let line = self.read_line();
        assert!(
            !line.is_empty() && line.bytes().all(|byte| byte.is_ascii_hexdigit()),
            "bad chunk size line {line:?}"
        );
        let size = usize::from_str_radix(&line, 16)
            .unwrap_or_else(|_| panic!("bad chunk size line {line:?}"));
        let data = self.read_exact(size);
        if size > 0 {
            assert_eq!(self.read_line(), "", "after a chunk of {size}");
        }
        data
    }

    /// Reads chunks until `length` bytes of the body came.
    #[track_caller]
    pub fn read_chunks(&mut self, length: usize) -> Vec<u8> {
        let mut body = Vec::new();
        while body.len() < length {
            let chunk = self.read_chunk();
            assert!(
                !chunk.is_empty(),
                "the body ended after {} bytes",
                body.len()
            );
            body.extend_from_slice(&chunk);
        }
        body
    }

    /// Reads the final chunk and the empty trailer section.
    #[track_caller]
    pub fn expect_last_chunk(&mut self) {
        assert_eq!(text(&self.read_chunk()), "");
        assert!(self.read_fields().0.is_empty(), "no trailers were expected");
    }

    /// Reads one request and answers it with 200 and `body`.
    #[track_caller]
    pub fn serve(&mut self, body: &str) -> Request {
        let request = self.expect_request();
        self.answer(body);
        request
    }

    /// Sends a 200 with `body`.
    #[track_caller]
    pub fn answer(&mut self, body: &str) {
        self.send(format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ));
    }
}

enum Framing {
    None,
    Length(usize),
    Chunked,
}

impl Fields {
    /// The only value of `name`; None when absent, a failure when repeated.
    #[track_caller]
    pub fn one(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() < 2, "{name} is repeated in {self:?}");
        all.first().copied()
    }

    pub fn all(&self, name: &str) -> Vec<&str> {
        self.0
            .iter()
            .filter(|(each, _)| each.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
            .collect()
    }

    pub fn has(&self, name: &str) -> bool {
        !self.all(name).is_empty()
    }

    #[track_caller]
    fn framing(&self) -> Framing {
        let coding = self.one("transfer-encoding");
        let length = self.one("content-length");
        match (coding, length) {
            (None, None) => Framing::None,
            (Some("chunked"), None) => Framing::Chunked,
            (None, Some(digits))
                if !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit()) =>
            {
                Framing::Length(digits.parse().expect("the tests' bodies fit a usize"))
            }
            _ => panic!("ambiguous framing in {self:?}"),
        }
    }
}

impl Response {
    /// The body as text.
    pub fn text(&self) -> String {
        latin1(&self.body)
    }

    /// Whether the answer says that the connection ends after it.
    pub fn says_close(&self) -> bool {
        self.fields
            .all("connection")
            .iter()
            .any(|value| value.eq_ignore_ascii_case("close"))
    }
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|&byte| char::from(byte)).collect()
}

/// `bytes` for a failure's message, cut where it gets long.
pub fn text(bytes: &[u8]) -> String {
    let mut text = latin1(&bytes[..bytes.len().min(2000)]);
    if bytes.len() > 2000 {
        write!(text, "... ({} bytes in all)", bytes.len()).expect("a String takes everything");
    }
    text
}
