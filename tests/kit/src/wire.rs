//! One TCP connection as a test sees it: raw bytes out, HTTP messages in.
//!
//! What comes in is read by `strict.rs`, as far as it is needed and as it comes. A test is a
//! script, so what it reads must be there and right, or the test fails; [`Wire::try_request`] is
//! for a backend that runs by itself.

use crate::PATIENCE;
use crate::strict::{self, Chunk, Framing};
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

/// Why nothing could be read.
#[derive(Debug, PartialEq, Eq, Clone)]
pub enum Broken {
    Ended(End),
    /// The rule that it breaks.
    Invalid(String),
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
    framing: Framing,
}

#[derive(Debug, Clone)]
pub struct Response {
    pub version: String,
    pub status: u16,
    pub reason: String,
    pub fields: Fields,
    pub body: Vec<u8>,
    pub trailers: Fields,
    framing: Framing,
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

    /// Sends until nothing more is taken: as much as the buffers on the way hold while the far end does not read.
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

    /// Reads until `parse` finds a part of a message at the front, and takes that: its value, and
    /// how many bytes it is.
    fn take<T>(
        &mut self,
        parse: impl Fn(&[u8]) -> Result<Option<(T, usize)>, String>,
    ) -> Result<T, Broken> {
        loop {
            if let Some((value, length)) = parse(&self.unread).map_err(Broken::Invalid)? {
                self.unread.drain(..length);
                return Ok(value);
            }
            self.fill().map_err(Broken::Ended)?;
        }
    }

    fn take_exact(&mut self, length: usize) -> Result<Vec<u8>, Broken> {
        self.take(|bytes| Ok(bytes.get(..length).map(|part| (part.to_vec(), length))))
    }

    fn take_line(&mut self) -> Result<String, Broken> {
        self.take(|bytes| {
            Ok(strict::line(bytes)?.map(|line| (latin1(line), line.len() + "\r\n".len())))
        })
    }

    fn take_request_head(&mut self) -> Result<Request, Broken> {
        let head = self.take(|bytes| {
            Ok(strict::request_head(bytes)?.map(|head| (head.clone(), head.bytes)))
        })?;
        let [method, target, version] = head.start.map(|part| latin1(&part));
        Ok(Request {
            method,
            target,
            version,
            fields: Fields::of(head.fields),
            body: Vec::new(),
            trailers: Fields(Vec::new()),
            framing: head.framing,
        })
    }

    fn take_response_head(&mut self, to_head: bool) -> Result<Response, Broken> {
        let head = self.take(|bytes| {
            Ok(strict::response_head(bytes, to_head)?.map(|head| (head.clone(), head.bytes)))
        })?;
        let [version, status, reason] = head.start.map(|part| latin1(&part));
        Ok(Response {
            version,
            status: status
                .parse()
                .expect("the strict reader takes three digits"),
            reason,
            fields: Fields::of(head.fields),
            body: Vec::new(),
            trailers: Fields(Vec::new()),
            framing: head.framing,
        })
    }

    fn take_body(&mut self, framing: Framing) -> Result<(Vec<u8>, Fields), Broken> {
        let mut body = Vec::new();
        match framing {
            // What comes through a tunnel is no content.
            Framing::None | Framing::Tunnel => {}
            Framing::Length(length) => {
                let length = usize::try_from(length).expect("the tests' bodies fit a usize");
                body = self.take_exact(length)?;
            }
            Framing::UntilClose => match self.read_until_gone() {
                (bytes, End::Closed) => body = bytes,
                (_, End::Reset) => return Err(Broken::Ended(End::Reset)),
            },
            Framing::Chunked => loop {
                let chunk = self.take_chunk()?;
                if chunk.is_empty() {
                    return Ok((body, self.take_trailers()?));
                }
                body.extend_from_slice(&chunk);
            },
        }
        Ok((body, Fields(Vec::new())))
    }

    fn take_chunk(&mut self) -> Result<Vec<u8>, Broken> {
        self.take(|bytes| {
            Ok(match strict::chunk(bytes)? {
                Chunk::Whole { data, bytes } => Some((data.to_vec(), bytes)),
                Chunk::Part(_) => None,
            })
        })
    }

    fn take_trailers(&mut self) -> Result<Fields, Broken> {
        self.take(strict::trailers).map(Fields::of)
    }

    /// What was to be read, or the failure of the test.
    #[track_caller]
    fn expect<T>(&self, taken: Result<T, Broken>, wanted: &str) -> T {
        taken.unwrap_or_else(|broken| {
            panic!(
                "{broken:?} instead of {wanted}; received so far: {:?}",
                text(&self.received)
            )
        })
    }

    #[track_caller]
    pub fn read_exact(&mut self, length: usize) -> Vec<u8> {
        let taken = self.take_exact(length);
        self.expect(taken, &format!("{length} bytes"))
    }

    /// Reads one line without its CRLF.
    #[track_caller]
    pub fn read_line(&mut self) -> String {
        let taken = self.take_line();
        self.expect(taken, "a line")
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
    #[track_caller]
    pub fn try_read_line(&mut self) -> Option<String> {
        match self.take_line() {
            Err(Broken::Ended(_)) => None,
            taken => Some(self.expect(taken, "a line")),
        }
    }

    /// Reads a request's head only; its body stays to be read.
    #[track_caller]
    pub fn expect_request_head(&mut self) -> Request {
        let taken = self.take_request_head();
        self.expect(taken, "the head of a request")
    }

    /// Reads one whole request.
    #[track_caller]
    pub fn expect_request(&mut self) -> Request {
        let mut request = self.expect_request_head();
        let taken = self.take_body(request.framing);
        (request.body, request.trailers) = self.expect(taken, "the body of a request");
        request
    }

    /// One whole request; None when the connection ends before it begins.
    pub fn try_request(&mut self) -> Result<Option<Request>, Broken> {
        if !self.begins() {
            return Ok(None);
        }
        let mut request = self.take_request_head()?;
        (request.body, request.trailers) = self.take_body(request.framing)?;
        Ok(Some(request))
    }

    /// Reads one whole request; None when the connection ends before it begins.
    #[track_caller]
    pub fn next_request(&mut self) -> Option<Request> {
        self.begins().then(|| self.expect_request())
    }

    /// Reads a request's head only; None when the connection ends before it begins.
    #[track_caller]
    pub fn next_request_head(&mut self) -> Option<Request> {
        self.begins().then(|| self.expect_request_head())
    }

    /// Whether another byte comes before the end.
    fn begins(&mut self) -> bool {
        !self.unread.is_empty() || self.fill().is_ok()
    }

    /// Reads the body that goes with a head; whether there was one before the connection ended.
    #[track_caller]
    pub fn pass_over_body(&mut self, request: &Request) -> bool {
        if request.framing != Framing::None && !self.begins() {
            return false;
        }
        let taken = self.take_body(request.framing);
        self.expect(taken, "the body of a request");
        true
    }

    /// Reads a response's head only; its body stays to be read.
    #[track_caller]
    pub fn read_response_head(&mut self) -> Response {
        let taken = self.take_response_head(false);
        self.expect(taken, "the head of a response")
    }

    /// Reads one response, interim ones included, to a request that was not HEAD.
    #[track_caller]
    pub fn read_response(&mut self) -> Response {
        self.read_response_to("GET")
    }

    #[track_caller]
    pub fn read_response_to(&mut self, method: &str) -> Response {
        let taken = self.take_response_head(method == "HEAD");
        let mut response = self.expect(taken, "the head of a response");
        let taken = self.take_body(response.framing);
        (response.body, response.trailers) = self.expect(taken, "the body of a response");
        response
    }

    /// Reads one chunk; the last one is empty, and the trailer section stays to be read.
    #[track_caller]
    pub fn read_chunk(&mut self) -> Vec<u8> {
        let taken = self.take_chunk();
        self.expect(taken, "a chunk")
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
        let taken = self.take_trailers();
        let trailers = self.expect(taken, "the trailer section");
        assert!(trailers.0.is_empty(), "no trailers were expected");
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

impl Fields {
    fn of(fields: strict::Fields) -> Fields {
        let text = |(name, value): (Vec<u8>, Vec<u8>)| (latin1(&name), latin1(&value));
        Fields(fields.into_iter().map(text).collect())
    }

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
