//! An exchange without sockets: the bytes of both sides through `rondo::http`, cut as finely as a test likes.
//!
//! [`Requests`] takes what a client sends and gives what the backend would get; [`Response`] takes what a backend
//! answers and gives what the client would get. Both do with `rondo::http` what the product does, and nothing more, so
//! that a test can try every split of every message. Read next: `tests/it/properties.rs`.

use rondo::http::{
    Body, ClientConnection, Decoder, Grammar, HeadLimits, RequestForwarding, RequestHead,
    ResponseForwarding, ResponseHead, Scheme, Step, Version, encode_chunk, encode_end,
    write_interim, write_request, write_response,
};
use std::net::{IpAddr, Ipv4Addr};

/// What the configuration says about one exchange.
#[derive(Debug, Clone)]
pub struct Settings {
    pub limits: HeadLimits,
    pub trusted: bool,
    pub via: bool,
    /// How the backend's answers are read.
    pub grammar: Grammar,
    pub base_path: String,
}

impl Default for Settings {
    fn default() -> Self {
        let limits = HeadLimits {
            head_bytes_max: 16384,
            fields_max: 100,
        };
        Settings {
            limits,
            trusted: false,
            via: true,
            grammar: Grammar::Response,
            base_path: String::new(),
        }
    }
}

/// The value of a Date field that rondo adds.
const DATE: &[u8] = b"Sun, 06 Nov 1994 08:49:37 GMT";

/// The backend's authority and the generated request id in every message written here.
pub const AUTHORITY: &[u8] = b"127.0.0.1:8081";
pub const REQUEST_ID: &[u8] = b"0123456789abcdef";

/// The client's half: requests in, backend requests out.
pub struct Requests<'a> {
    settings: &'a Settings,
    head: RequestHead,
    stage: RequestStage,
    pending: Vec<u8>,
    /// What was written for each request so far.
    pub written: Vec<Written>,
    /// The status of our own answer, after which nothing is read.
    pub refused: Option<u16>,
}

/// One backend request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Everything that was written.
    pub bytes: Vec<u8>,
    pub head_bytes: usize,
    /// The content, however it was cut.
    pub content: Vec<u8>,
    /// To its last byte.
    pub whole: bool,
    pub asked: Asked,
}

/// What the response depends on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asked {
    pub is_head: bool,
    pub is_http10: bool,
    pub keep_alive: bool,
    pub accepts_trailers: bool,
    pub offers: Vec<Vec<u8>>,
}

enum RequestStage {
    Head,
    Length(u64),
    Chunked(Decoder),
    Ended,
}

impl<'a> Requests<'a> {
    pub fn new(settings: &'a Settings) -> Self {
        Requests {
            settings,
            head: RequestHead::default(),
            stage: RequestStage::Head,
            pending: Vec::new(),
            written: Vec::new(),
            refused: None,
        }
    }

    /// Takes the next bytes of the client.
    pub fn push(&mut self, part: &[u8]) {
        self.pending.extend_from_slice(part);
        while self.step() {}
    }

    /// Bytes that belong to no request yet, or to none at all.
    pub fn left(&self) -> &[u8] {
        &self.pending
    }

    /// One step; false when it needs more bytes.
    fn step(&mut self) -> bool {
        match &mut self.stage {
            RequestStage::Head => match self.head.take(&self.pending, &self.settings.limits) {
                Err(error) => self.refuse(error.status()),
                Ok(None) => false,
                Ok(Some(used)) => {
                    assert!(used <= self.pending.len(), "the head ends beyond its input");
                    self.pending.drain(..used);
                    self.begin();
                    true
                }
            },
            RequestStage::Length(left) => {
                let count = self
                    .pending
                    .len()
                    .min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= count as u64;
                let ended = *left == 0;
                let part: Vec<u8> = self.pending.drain(..count).collect();
                self.current().bytes.extend_from_slice(&part);
                self.current().content.extend_from_slice(&part);
                if ended {
                    self.end();
                }
                ended
            }
            RequestStage::Chunked(decoder) => {
                let mut data = Vec::new();
                let result = take_chunks(decoder, &mut self.pending, &mut data);
                encode_chunk(&data, &mut self.current().bytes);
                self.current().content.extend_from_slice(&data);
                match result {
                    Err(status) => self.refuse(status),
                    Ok(ended) => {
                        if ended {
                            encode_end(std::iter::empty(), &mut self.current().bytes);
                            self.end();
                        }
                        ended
                    }
                }
            }
            RequestStage::Ended => false,
        }
    }

    fn begin(&mut self) {
        let how = RequestForwarding {
            peer: IpAddr::V4(Ipv4Addr::LOCALHOST),
            trusted: self.settings.trusted,
            scheme: Scheme::Http,
            via: self.settings.via,
            base_path: self.settings.base_path.as_bytes(),
            authority: AUTHORITY,
            request_id: self.head.request_id().unwrap_or(REQUEST_ID),
        };
        let mut bytes = Vec::new();
        write_request(&self.head, &how, &mut bytes);
        let mut offers = Vec::new();
        if self.head.upgrade() {
            let named = self
                .head
                .fields()
                .filter(|(name, _)| name.eq_ignore_ascii_case(b"upgrade"));
            offers.extend(named.map(|(_, value)| value.to_vec()));
        }
        let asked = Asked {
            is_head: self.head.is_head(),
            is_http10: self.head.version() == Version::Http10,
            keep_alive: self.head.keep_alive(),
            accepts_trailers: self.head.accepts_trailers(),
            offers,
        };
        self.written.push(Written {
            head_bytes: bytes.len(),
            bytes,
            content: Vec::new(),
            whole: false,
            asked,
        });
        match self.head.body() {
            Body::None => self.end(),
            Body::Length(length) => self.stage = RequestStage::Length(length),
            Body::Chunked => {
                self.stage = RequestStage::Chunked(Decoder::new(&self.settings.limits));
            }
            Body::UntilClose => {
                panic!("a request never ends with its connection (RFC 9112 6.3 step 7)")
            }
        }
    }

    fn end(&mut self) {
        self.current().whole = true;
        self.stage = if self.head.keep_alive() {
            RequestStage::Head
        } else {
            RequestStage::Ended
        };
        self.head.clear();
    }

    fn refuse(&mut self, status: u16) -> bool {
        self.refused = Some(status);
        self.stage = RequestStage::Ended;
        false
    }

    fn current(&mut self) -> &mut Written {
        self.written.last_mut().expect("a body follows a head")
    }
}

/// Eats chunks from the front of `pending`; true at the end of the body.
fn take_chunks(
    decoder: &mut Decoder,
    pending: &mut Vec<u8>,
    data: &mut Vec<u8>,
) -> Result<bool, u16> {
    let mut at = 0;
    let result = loop {
        match decoder.decode(&pending[at..]) {
            Err(error) => break Err(error.status()),
            Ok(Step::Data { used, data: part }) => {
                assert!(
                    !part.is_empty() && used <= pending.len() - at,
                    "data lies inside the input"
                );
                data.extend_from_slice(part);
                at += used;
            }
            Ok(Step::More { used }) => {
                at += used;
                assert_eq!(
                    at,
                    pending.len(),
                    "everything is used up before more is asked for"
                );
                break Ok(false);
            }
            Ok(Step::End { used }) => {
                at += used;
                break Ok(true);
            }
        }
    };
    pending.drain(..at);
    result
}

/// The backend's half: a response in, the client's response out.
pub struct Response<'a> {
    settings: &'a Settings,
    asked: &'a Asked,
    head: ResponseHead,
    stage: ResponseStage,
    pending: Vec<u8>,
    /// What was written to the client.
    pub written: Vec<u8>,
    /// The heads and the content of it apart, however the content was cut.
    pub heads: Vec<u8>,
    pub content: Vec<u8>,
    /// How its content is framed towards the client.
    chunked: bool,
    /// A final head went out.
    pub started: bool,
    pub outcome: Option<Outcome>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The response is whole; the backend connection may serve another request, or not.
    Whole { reuse: bool },
    /// The connection became a tunnel.
    Tunnel,
    /// No answer that can be passed on: 502, or a cut connection if its head went out already.
    Bad,
}

enum ResponseStage {
    Head,
    Length(u64),
    Chunked(Decoder),
    UntilClose,
    Done,
}

impl<'a> Response<'a> {
    pub fn new(settings: &'a Settings, asked: &'a Asked) -> Self {
        Response {
            settings,
            asked,
            head: ResponseHead::default(),
            stage: ResponseStage::Head,
            pending: Vec::new(),
            written: Vec::new(),
            heads: Vec::new(),
            content: Vec::new(),
            chunked: false,
            started: false,
            outcome: None,
        }
    }

    /// Takes the next bytes of the backend.
    pub fn push(&mut self, part: &[u8]) {
        self.pending.extend_from_slice(part);
        if self.outcome == Some(Outcome::Tunnel) {
            self.written.append(&mut self.pending);
        }
        while self.outcome.is_none() && self.step() {}
        if !self.pending.is_empty() && matches!(self.outcome, Some(Outcome::Whole { .. })) {
            // Surplus bytes belong to no request, and the connection goes with them.
            self.outcome = Some(Outcome::Whole { reuse: false });
        }
    }

    /// The backend closed its connection.
    pub fn end(&mut self) {
        match (self.outcome, &self.stage) {
            (None, ResponseStage::UntilClose) => self.complete(),
            (None, _) => self.outcome = Some(Outcome::Bad),
            (Some(Outcome::Whole { .. }), _) => {
                self.outcome = Some(Outcome::Whole { reuse: false });
            }
            _ => {}
        }
    }

    fn step(&mut self) -> bool {
        match &mut self.stage {
            ResponseStage::Head => {
                match self
                    .head
                    .take_as(&self.pending, &self.settings.limits, self.settings.grammar)
                {
                    Err(_) => self.bad(),
                    Ok(None) => false,
                    Ok(Some(used)) => {
                        assert!(used <= self.pending.len(), "the head ends beyond its input");
                        self.pending.drain(..used);
                        self.begin()
                    }
                }
            }
            ResponseStage::Length(left) => {
                let count = self
                    .pending
                    .len()
                    .min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= count as u64;
                let ended = *left == 0;
                let part: Vec<u8> = self.pending.drain(..count).collect();
                self.take_content(&part);
                if ended {
                    self.complete();
                }
                false
            }
            ResponseStage::Chunked(decoder) => {
                let mut data = Vec::new();
                let result = take_chunks(decoder, &mut self.pending, &mut data);
                self.take_content(&data);
                match result {
                    Err(_) => self.bad(),
                    Ok(true) => {
                        self.complete();
                        false
                    }
                    Ok(false) => false,
                }
            }
            ResponseStage::UntilClose => {
                let part = std::mem::take(&mut self.pending);
                self.take_content(&part);
                false
            }
            ResponseStage::Done => false,
        }
    }

    fn begin(&mut self) -> bool {
        let before = self.written.len();
        let goes_on = self.write_head();
        self.heads.extend_from_slice(&self.written[before..]);
        if self.outcome == Some(Outcome::Tunnel) {
            self.written.append(&mut self.pending);
        }
        goes_on
    }

    fn write_head(&mut self) -> bool {
        let asked = self.asked;
        if self.head.is_interim() {
            if !asked.is_http10 {
                write_interim(&self.head, &mut self.written);
            }
            self.head.clear();
            return true;
        }
        if self.head.status() == 101 {
            let chosen = self.head.upgrade().map(<[u8]>::to_ascii_lowercase);
            let offered = asked
                .offers
                .iter()
                .flat_map(|offer| offer.split(|b| *b == b','));
            let is_offered = |chosen: &[u8]| {
                chosen != b"h2c"
                    && offered
                        .clone()
                        .any(|offer| offer.trim_ascii().eq_ignore_ascii_case(chosen))
            };
            if !chosen.is_some_and(|chosen| is_offered(&chosen)) {
                return self.bad();
            }
        }
        let body = self.head.body(asked.is_head);
        let to_client = match body {
            Body::Chunked if asked.is_http10 => Body::UntilClose,
            Body::UntilClose if !asked.is_http10 => Body::Chunked,
            body => body,
        };
        let connection = match () {
            () if self.head.status() == 101 => ClientConnection::Upgrade,
            () if !asked.keep_alive || to_client == Body::UntilClose => ClientConnection::Close,
            () if asked.is_http10 => ClientConnection::KeepAliveExplicit,
            () => ClientConnection::KeepAlive,
        };
        let how = ResponseForwarding {
            body: to_client,
            keep_length_field: asked.is_head || self.head.status() == 304,
            connection,
            set_cookie: None,
            date: (!self.head.has_date()).then_some(DATE),
            trailers: asked.accepts_trailers && body == Body::Chunked,
        };
        write_response(&self.head, &how, &mut self.written);
        self.started = true;
        self.chunked = to_client == Body::Chunked;
        self.stage = match body {
            Body::None => ResponseStage::Done,
            Body::Length(length) => ResponseStage::Length(length),
            Body::Chunked => {
                let mut decoder = Decoder::new(&self.settings.limits);
                decoder.read_as(self.settings.grammar);
                decoder.leave_out(self.head.connection_options());
                ResponseStage::Chunked(decoder)
            }
            Body::UntilClose => ResponseStage::UntilClose,
        };
        if self.head.status() == 101 {
            self.outcome = Some(Outcome::Tunnel);
        } else if body == Body::None {
            self.complete();
        }
        true
    }

    fn take_content(&mut self, part: &[u8]) {
        self.content.extend_from_slice(part);
        if self.chunked {
            encode_chunk(part, &mut self.written);
        } else {
            self.written.extend_from_slice(part);
        }
    }

    fn complete(&mut self) {
        let until_close = matches!(self.stage, ResponseStage::UntilClose);
        if self.chunked {
            match &self.stage {
                ResponseStage::Chunked(decoder) if self.asked.accepts_trailers => {
                    encode_end(decoder.trailers(), &mut self.written);
                }
                _ => encode_end(std::iter::empty(), &mut self.written),
            }
        }
        self.stage = ResponseStage::Done;
        self.outcome = Some(Outcome::Whole {
            reuse: self.head.keep_alive() && !until_close,
        });
    }

    fn bad(&mut self) -> bool {
        self.outcome = Some(Outcome::Bad);
        false
    }
}
