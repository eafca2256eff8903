//! One connection of the admin interface: one request and its answer.
//!
//! The request is read by the program's own strict parser, and judged (`access.rs`) as soon as its head is there, so that
//! no body is read that would be refused. A request that was not read to its end is answered all the same: then the
//! connection lingers for a while, because closing it with unread bytes would reset it and take the answer away.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::mem;
use std::net::{Shutdown, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;

use crate::admin::access;
use crate::admin::answer::Answer;
use crate::admin::route::Request;
use crate::ask::Asked;
use crate::config::Admin as Settings;
use crate::http::{Body, CONTINUE, ChunkError, Decoder, HeadLimits, RequestHead, Step};

/// From the accept until the request is read, and from the answer until it is written or taken.
const DEADLINE: Duration = Duration::from_secs(2);
/// How long a request waits for another answer to be written, or for the main thread.
const PATIENCE: Duration = Duration::from_secs(10);
/// A larger body is refused with 413.
pub(crate) const BODY_BYTES_MAX: usize = 64 * 1024;
/// What is read and thrown away behind an answer.
const LINGER_BYTES_MAX: usize = 1024 * 1024;
/// The thread's one buffer for reading.
pub(crate) const SCRATCH_BYTES: usize = 16 * 1024;

/// What a request takes while it is read: its head and what came with it, or its body, each in a buffer that was doubled.
pub(crate) const BYTES_MAX: usize =
    2 * (LIMITS.head_bytes_max + SCRATCH_BYTES) + 2 * (BODY_BYTES_MAX + SCRATCH_BYTES);

/// As the defaults of the configuration: what it says of traffic must not close this interface.
const LIMITS: HeadLimits = HeadLimits {
    head_bytes_max: 16 * 1024,
    fields_max: 100,
};

/// One connection.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: TcpStream,
    deadline: Instant,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// The head is being read: what came of it.
    Head(Box<RequestHead>, Vec<u8>),
    /// The head was judged; the body is being read.
    Body(Box<Request>, Framing, Vec<u8>),
    /// The request is read, and is to be answered.
    Ready(Box<Request>),
    /// The main thread was asked.
    Asked(Asked),
    /// The answer is being written: head and body, and how much of both is gone. Then the connection closes, or lingers if
    /// something of the request may be unread.
    Answering {
        parts: [Vec<u8>; 2],
        written: usize,
        lingers: bool,
    },
    /// The client is told that nothing follows; what it still sends, so many bytes until now, is thrown away.
    Lingering(usize),
    Over,
}

/// How much of a body is left.
#[derive(Debug)]
enum Framing {
    Length(usize),
    Chunks(Box<Decoder>),
}

impl Connection {
    pub(crate) fn new(socket: TcpStream) -> Connection {
        Connection {
            socket,
            deadline: Instant::now() + DEADLINE,
            stage: Stage::Head(Box::default(), Vec::new()),
        }
    }

    /// When it is cut if it has not come further.
    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// What it waits for on its socket, if it does.
    pub(crate) fn interest(&self) -> Option<(&TcpStream, PollFlags)> {
        match self.stage {
            Stage::Head(..) | Stage::Body(..) | Stage::Lingering(_) => Some(PollFlags::IN),
            Stage::Answering { .. } => Some(PollFlags::OUT),
            Stage::Ready(_) | Stage::Asked(_) | Stage::Over => None,
        }
        .map(|flags| (&self.socket, flags))
    }

    pub(crate) fn is_over(&self) -> bool {
        matches!(self.stage, Stage::Over)
    }

    /// Bytes of its answer that are not sent yet.
    pub(crate) fn unwritten(&self) -> usize {
        match &self.stage {
            Stage::Answering {
                parts: [head, body],
                written,
                ..
            } => head.len() + body.len() - written,
            _ => 0,
        }
    }

    pub(crate) fn into_descriptor(self) -> OwnedFd {
        self.socket.into()
    }

    /// The request, if it is read and not answered yet, and if its answer is short or long ones `may` be made.
    pub(crate) fn take_request(&mut self, may: bool) -> Option<Box<Request>> {
        match mem::replace(&mut self.stage, Stage::Over) {
            Stage::Ready(request) if may || request.wanted.is_short() => Some(request),
            other => {
                self.stage = other;
                None
            }
        }
    }

    /// Begins to answer a request that is read.
    pub(crate) fn answer(&mut self, answer: Answer, head_only: bool, now: Instant) {
        self.deadline = now + DEADLINE;
        self.stage = answering(answer, head_only, false);
    }

    /// Waits for the main thread, which was asked.
    pub(crate) fn wait_for(&mut self, asked: Asked) {
        self.stage = Stage::Asked(asked);
    }

    /// Goes on as far as it can without waiting. Without `settings` the interface is about to end.
    pub(crate) fn go_on(&mut self, settings: Option<&Settings>, now: Instant, scratch: &mut [u8]) {
        loop {
            let stage = mem::replace(&mut self.stage, Stage::Over);
            let outcome = match stage {
                Stage::Head(head, input) => self.read_head(head, input, settings, scratch),
                Stage::Body(request, framing, input) => {
                    self.read_body(request, framing, input, scratch)
                }
                Stage::Answering {
                    parts,
                    written,
                    lingers,
                } => self.write(parts, written, lingers),
                Stage::Lingering(count) => self.linger(count, scratch),
                Stage::Asked(asked) => Ok(take_reply(asked)),
                Stage::Ready(_) | Stage::Over => Ok((stage, false)),
            };
            // An error means that the client is gone.
            let (stage, goes_on) = outcome.unwrap_or((Stage::Over, false));
            if goes_on {
                match stage {
                    Stage::Ready(_) => self.deadline = now + PATIENCE,
                    Stage::Answering { written: 0, .. } | Stage::Lingering(0) => {
                        self.deadline = now + DEADLINE;
                    }
                    _ => {}
                }
            }
            self.stage = stage;
            if !goes_on {
                break;
            }
        }
        if now >= self.deadline {
            let is_asked = matches!(self.stage, Stage::Asked(_));
            self.stage = if is_asked {
                self.deadline = now + DEADLINE;
                answering(
                    Answer::error(503, "the main thread is busy; it may still do this"),
                    false,
                    false,
                )
            } else {
                Stage::Over
            };
        }
    }

    /// Reads once. None: nothing is there now.
    fn read<'a>(&mut self, scratch: &'a mut [u8]) -> io::Result<Option<&'a [u8]>> {
        match self.socket.read(scratch) {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => Ok(Some(&scratch[..count])),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    #[inline(never)]
    fn read_head(
        &mut self,
        mut head: Box<RequestHead>,
        mut input: Vec<u8>,
        settings: Option<&Settings>,
        scratch: &mut [u8],
    ) -> io::Result<(Stage, bool)> {
        let Some(bytes) = self.read(scratch)? else {
            return Ok((Stage::Head(head, input), false));
        };
        input.extend_from_slice(bytes);
        let used = match head.take(&input, &LIMITS) {
            Ok(None) => return Ok((Stage::Head(head, input), true)),
            Ok(Some(used)) => used,
            Err(error) => return Ok(refuse(Answer::error(error.status(), error.reason()), false)),
        };
        input.drain(..used);
        let Some(settings) = settings else {
            return Ok((Stage::Over, false));
        };
        let request = match access::judge(&head, settings) {
            Ok(request) => request,
            Err(answer) => return Ok(refuse(answer, head.is_head())),
        };
        let framing = match head.body() {
            Body::Chunked => Framing::Chunks(Box::new(Decoder::without_trailers(&LIMITS))),
            Body::Length(length) => match usize::try_from(length) {
                Ok(length) if length <= BODY_BYTES_MAX => Framing::Length(length),
                _ => return Ok(refuse(too_long(), request.head_only)),
            },
            Body::None | Body::UntilClose => Framing::Length(0),
        };
        if head.expects_continue() {
            // The first bytes on this connection: there is room for them.
            self.socket.write_all(CONTINUE)?;
        }
        Ok(take_body(Box::new(request), framing, input))
    }

    #[inline(never)]
    fn read_body(
        &mut self,
        request: Box<Request>,
        framing: Framing,
        mut input: Vec<u8>,
        scratch: &mut [u8],
    ) -> io::Result<(Stage, bool)> {
        match self.read(scratch)? {
            None => Ok((Stage::Body(request, framing, input), false)),
            Some(bytes) => {
                input.extend_from_slice(bytes);
                Ok(take_body(request, framing, input))
            }
        }
    }

    #[inline(never)]
    fn write(
        &mut self,
        parts: [Vec<u8>; 2],
        mut written: usize,
        lingers: bool,
    ) -> io::Result<(Stage, bool)> {
        let [head, body] = &parts;
        let left = head.get(written..).filter(|left| !left.is_empty());
        let left = left.unwrap_or_else(|| &body[written - head.len()..]);
        if left.is_empty() {
            let _ = self.socket.shutdown(Shutdown::Write);
            return Ok(if lingers {
                (Stage::Lingering(0), true)
            } else {
                (Stage::Over, false)
            });
        }
        let goes_on = match self.socket.write(left) {
            Ok(count) => {
                written += count;
                true
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => false,
            Err(error) => return Err(error),
        };
        Ok((
            Stage::Answering {
                parts,
                written,
                lingers,
            },
            goes_on,
        ))
    }

    fn linger(&mut self, count: usize, scratch: &mut [u8]) -> io::Result<(Stage, bool)> {
        match self.read(scratch)? {
            None => Ok((Stage::Lingering(count), false)),
            Some(bytes) => {
                let count = count + bytes.len();
                let stage = if count > LINGER_BYTES_MAX {
                    Stage::Over
                } else {
                    Stage::Lingering(count)
                };
                Ok((stage, true))
            }
        }
    }
}

/// Takes what has come of a body.
fn take_body(mut request: Box<Request>, mut framing: Framing, mut input: Vec<u8>) -> (Stage, bool) {
    let is_whole = match &mut framing {
        Framing::Length(length) => {
            let is_whole = input.len() >= *length;
            if is_whole {
                input.truncate(*length);
                request.body = mem::take(&mut input);
            }
            is_whole
        }
        Framing::Chunks(decoder) => match decode(decoder, &input, &mut request.body) {
            Ok(is_whole) if request.body.len() <= BODY_BYTES_MAX => {
                input.clear();
                is_whole
            }
            Ok(_) => return refuse(too_long(), request.head_only),
            Err(error) => {
                let answer = Answer::error(error.status(), error.reason());
                return refuse(answer, request.head_only);
            }
        },
    };
    if is_whole {
        (Stage::Ready(request), true)
    } else {
        (Stage::Body(request, framing, input), true)
    }
}

/// Decodes chunks; says whether the body is complete.
#[inline(never)]
fn decode(decoder: &mut Decoder, mut input: &[u8], body: &mut Vec<u8>) -> Result<bool, ChunkError> {
    loop {
        match decoder.decode(input)? {
            Step::Data { used, data } => {
                body.extend_from_slice(data);
                input = &input[used..];
            }
            Step::More { .. } => return Ok(false),
            Step::End { .. } => return Ok(true),
        }
    }
}

/// Takes the main thread's reply, once it is there.
fn take_reply(asked: Asked) -> (Stage, bool) {
    match asked.take() {
        Some(reply) => (
            answering(Answer::json(reply.status, reply.body), false, false),
            true,
        ),
        None => (Stage::Asked(asked), false),
    }
}

fn too_long() -> Answer {
    Answer::error(413, "the body is longer than 64 KiB")
}

/// Answers a request that is not read to its end.
fn refuse(answer: Answer, head_only: bool) -> (Stage, bool) {
    (answering(answer, head_only, true), true)
}

fn answering(answer: Answer, head_only: bool, lingers: bool) -> Stage {
    Stage::Answering {
        parts: answer.into_parts(head_only),
        written: 0,
        lingers,
    }
}
