//! Moves one body from one connection to the other. What its bytes mean is http/body.rs.
//!
//! A relay goes as far as the sockets let it and returns which one it waits for. It holds at most
//! one scratch buffer of bytes: nothing is read while something waits to be written. Long bodies of
//! known length are moved by `splice` through a pipe and never enter this process.
//!
//! Read next: `exchange/failure.rs`, what follows when something breaks. `exchange/forwarding.rs`
//! and `exchange/tunnel.rs` run one relay in each direction, over `net/pipes.rs`.

use std::fmt;
use std::io;

use rustix::io::Errno;
use rustix::pipe::SpliceFlags;

use crate::http::body::{BodyError, BodyTranslator, PlainLeft};
use crate::net::connection::{Connection, Received};
use crate::net::pipes::{Pipe, Pipes};
use crate::net::syscalls::splice;

/// The scratch buffer of a worker: the most that one read takes, and the most that one connection
/// holds back when its peer does not take it.
pub(crate) const SCRATCH_BYTES: usize = 32 * 1024;

/// Capacity that is kept of the buffer for heads and chunks: enough for all but the largest heads.
pub(crate) const OUT_BYTES_KEPT: usize = 64 * 1024;

/// The most that is read at once for a slow sink, because the unsent rest must be kept.
const SLOW_SINK_BYTES: usize = 8 * 1024;

/// A shorter rest of a body is copied: below this, two system calls and the pipe cost more than the
/// copy that they avoid.
const SPLICE_BYTES_MIN: u64 = 32 * 1024;

/// Bytes after which other exchanges of the worker have a turn.
const TURN_BYTES_MAX: usize = 1024 * 1024;

/// What a worker lends to an exchange for one turn.
#[derive(Debug)]
pub(crate) struct Buffers {
    /// Every read goes here first.
    pub scratch: Box<[u8]>,
    /// Heads and chunks are written here before they are sent.
    pub out: Vec<u8>,
    pub pipes: Pipes,
}

impl Default for Buffers {
    fn default() -> Self {
        Self {
            scratch: vec![0; SCRATCH_BYTES].into(),
            out: Vec::with_capacity(OUT_BYTES_KEPT),
            pipes: Pipes::default(),
        }
    }
}

/// How far a relay went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    /// The whole body has been read and sent.
    Done,
    /// The source has nothing now.
    WaitSource,
    /// The sink takes nothing now.
    WaitSink,
    /// There is more to do, but other connections have a turn first.
    Yield,
}

/// Why a relay cannot go on.
#[derive(Debug)]
pub(crate) enum RelayError {
    /// Reading failed.
    Source(io::Error),
    /// The body is malformed or too long.
    Body(BodyError),
    /// Writing failed.
    Sink(io::Error),
}

impl fmt::Display for RelayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RelayError::Source(error) => write!(f, "reading failed: {error}"),
            RelayError::Body(error) => error.fmt(f),
            RelayError::Sink(error) => write!(f, "writing failed: {error}"),
        }
    }
}

impl From<BodyError> for RelayError {
    fn from(error: BodyError) -> Self {
        RelayError::Body(error)
    }
}

/// One body on its way.
#[derive(Debug, Default)]
pub(crate) struct Relay {
    body: BodyTranslator,
    pipe: Option<Pipe>,
    sink_is_slow: bool,
    /// The last read filled the buffer.
    flows_in_bulk: bool,
}

impl Relay {
    pub(crate) fn new(body: BodyTranslator) -> Self {
        Self {
            body,
            ..Self::default()
        }
    }

    /// Whether the body has been read to its end.
    pub(crate) fn has_read_all(&self) -> bool {
        self.body.has_ended()
    }

    /// Bytes taken from the source; grows with all progress.
    pub(crate) fn taken(&self) -> u64 {
        self.body.taken()
    }

    /// Translates the bytes that came with the head; see [`BodyTranslator::translate`].
    pub(crate) fn translate<'a>(
        &mut self,
        input: &'a [u8],
        out: &mut Vec<u8>,
    ) -> Result<(usize, &'a [u8]), BodyError> {
        self.body.translate(input, out)
    }

    /// Gives the pipe back, closed when bytes are left in it.
    pub(crate) fn release_pipe(&mut self, pipes: &mut Pipes) {
        if let Some(pipe) = self.pipe.take() {
            pipes.put_back(pipe);
        }
    }

    /// Moves the body as far as both sides allow.
    pub(crate) fn advance(
        &mut self,
        source: &mut Connection,
        sink: &mut Connection,
        buffers: &mut Buffers,
    ) -> Result<Flow, RelayError> {
        let mut turn_bytes = 0;
        loop {
            if !sink.flush().map_err(RelayError::Sink)? {
                self.sink_is_slow = true;
                return Ok(Flow::WaitSink);
            }
            if self.has_read_all() && self.pipe.is_none() {
                return Ok(Flow::Done);
            }
            if turn_bytes >= TURN_BYTES_MAX {
                return Ok(Flow::Yield);
            }
            let step = if self.should_splice(source, buffers) {
                self.splice(source, sink, &mut buffers.pipes)?
            } else {
                self.copy(source, sink, buffers)?
            };
            match step {
                Moved::Bytes(count) => turn_bytes += count,
                Moved::Wait(flow) => return Ok(flow),
            }
        }
    }

    fn copy(
        &mut self,
        source: &mut Connection,
        sink: &mut Connection,
        buffers: &mut Buffers,
    ) -> Result<Moved, RelayError> {
        let Buffers { scratch, out, .. } = buffers;
        out.clear();
        if !source.buffered().is_empty() {
            let (used, plain) = self.translate(source.buffered(), out)?;
            let sent = sink.send(out, plain);
            source.consume_buffered(used);
            sent.map_err(RelayError::Sink)?;
            // A chunk head may be incomplete here: only new bytes can complete it.
            if used > 0 {
                return Ok(Moved::Bytes(used));
            }
        }
        let most = if self.sink_is_slow {
            SLOW_SINK_BYTES
        } else {
            scratch.len()
        };
        match source
            .receive(&mut scratch[..most], SCRATCH_BYTES)
            .map_err(RelayError::Source)?
        {
            Received::Wait => Ok(Moved::Wait(Flow::WaitSource)),
            Received::End => {
                self.body.end(out)?;
                if !out.is_empty() {
                    sink.send(out, &[]).map_err(RelayError::Sink)?;
                }
                Ok(Moved::Bytes(0))
            }
            Received::Bytes(bytes) => {
                let (used, plain) = self.translate(bytes, out)?;
                let sent = sink.send(out, plain);
                self.flows_in_bulk = used == most;
                // Even if the send failed: what follows the body is the next request.
                source.consume(used, scratch);
                sent.map_err(RelayError::Sink)?;
                Ok(Moved::Bytes(used))
            }
        }
    }

    /// Splicing pays for plain data of which much is left, and must go on once begun.
    fn should_splice(&mut self, source: &Connection, buffers: &mut Buffers) -> bool {
        if self.pipe.is_some() {
            return true;
        }
        let pays = match self.body.plain_left() {
            Some(PlainLeft::Bytes(left)) => left >= SPLICE_BYTES_MIN,
            // The length is unknown; the last read is the best guess.
            Some(PlainLeft::UntilClose) => self.flows_in_bulk,
            None => false,
        };
        if !pays || !source.buffered().is_empty() || !source.is_readable() {
            return false;
        }
        self.pipe = buffers.pipes.take();
        self.pipe.is_some()
    }

    fn splice(
        &mut self,
        source: &mut Connection,
        sink: &mut Connection,
        pipes: &mut Pipes,
    ) -> Result<Moved, RelayError> {
        let Some(pipe) = &mut self.pipe else {
            return Ok(Moved::Bytes(0));
        };
        if pipe.holds > 0 {
            if !sink.is_writable() {
                return Ok(Moved::Wait(Flow::WaitSink));
            }
            let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
            return match splice(&pipe.out_of, None, &*sink, None, pipe.holds, flags) {
                Ok(count) => {
                    pipe.holds -= count;
                    sink.count_sent(count as u64);
                    Ok(Moved::Bytes(count))
                }
                Err(Errno::AGAIN) => {
                    sink.write_would_block();
                    Ok(Moved::Wait(Flow::WaitSink))
                }
                Err(Errno::INTR) => Ok(Moved::Bytes(0)),
                Err(error) => Err(RelayError::Sink(error.into())),
            };
        }
        let left = match self.body.plain_left() {
            Some(PlainLeft::Bytes(left)) => usize::try_from(left).unwrap_or(usize::MAX),
            Some(PlainLeft::UntilClose) => usize::MAX,
            None => {
                self.release_pipe(pipes);
                return Ok(Moved::Bytes(0));
            }
        };
        if !source.is_readable() {
            self.release_pipe(pipes);
            return Ok(Moved::Wait(Flow::WaitSource));
        }
        let most = left.min(pipe.bytes_max);
        match splice(
            &*source,
            None,
            &pipe.into,
            None,
            most,
            SpliceFlags::MOVE | SpliceFlags::NONBLOCK,
        ) {
            Ok(0) => {
                // Nothing is written behind what is plain.
                self.body.end(&mut Vec::new())?;
                Ok(Moved::Bytes(0))
            }
            Ok(count) => {
                pipe.holds = count;
                self.flows_in_bulk = count as u64 >= SPLICE_BYTES_MIN;
                self.body.passed(count)?;
                Ok(Moved::Bytes(count))
            }
            // The pipe is empty here, so it is the socket that has nothing.
            Err(Errno::AGAIN) => {
                source.read_would_block();
                self.release_pipe(pipes);
                Ok(Moved::Wait(Flow::WaitSource))
            }
            Err(Errno::INTR) => Ok(Moved::Bytes(0)),
            Err(error) => Err(RelayError::Source(error.into())),
        }
    }
}

enum Moved {
    Bytes(usize),
    Wait(Flow),
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::http::body::Writer;
    use crate::http::{Body, HeadLimits};
    use crate::net::pipes::PIPE_BYTES;
    use crate::net::poller::Readiness;

    const LIMITS: HeadLimits = HeadLimits {
        head_bytes_max: 1024,
        fields_max: 16,
    };

    fn pair() -> (Connection, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let far = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (near, _) = listener.accept().unwrap();
        near.set_nonblocking(true).unwrap();
        (Connection::new(near), far)
    }

    #[test]
    fn what_follows_a_body_that_could_not_be_sent_is_kept() {
        let ((mut source, mut far_source), (mut sink, _far_sink)) = (pair(), pair());
        far_source.write_all(b"bodyNEXT").unwrap();
        let mut fds = [rustix::event::PollFd::new(
            &source,
            rustix::event::PollFlags::IN,
        )];
        rustix::event::poll(&mut fds, None).unwrap();
        source.note(Readiness::IN);
        sink.shutdown_write();
        let mut relay = Relay::new(BodyTranslator::new(
            Body::Length(4),
            Writer::Plain,
            u64::MAX,
            &LIMITS,
        ));
        let result = relay.advance(&mut source, &mut sink, &mut Buffers::default());
        assert!(matches!(result, Err(RelayError::Sink(_))), "{result:?}");
        assert_eq!(source.buffered(), b"NEXT");
    }

    /// Runs a relay between two real sockets: `sent` goes in, and what came out is given with how
    /// the relay ended.
    fn run(
        mut relay: Relay,
        sent: Vec<u8>,
        buffers: &mut Buffers,
    ) -> (Result<(), RelayError>, Vec<u8>) {
        let ((mut source, mut far_source), (mut sink, mut far_sink)) = (pair(), pair());
        let writer = std::thread::spawn(move || {
            // The relay may give up early; then the rest is not read.
            let _ = far_source.write_all(&sent);
        });
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            far_sink.read_to_end(&mut all).unwrap();
            all
        });
        let result = loop {
            match relay.advance(&mut source, &mut sink, buffers) {
                Ok(Flow::Done) => break Ok(()),
                Ok(Flow::Yield) => {}
                Ok(flow) => {
                    let (socket, wanted) = match flow {
                        Flow::WaitSource => (&mut source, rustix::event::PollFlags::IN),
                        _ => (&mut sink, rustix::event::PollFlags::OUT),
                    };
                    let mut fds = [rustix::event::PollFd::new(&*socket, wanted)];
                    rustix::event::poll(&mut fds, None).unwrap();
                    socket.note(if flow == Flow::WaitSource {
                        Readiness::IN
                    } else {
                        Readiness::OUT
                    });
                }
                Err(error) => break Err(error),
            }
        };
        relay.release_pipe(&mut buffers.pipes);
        drop((source, sink));
        writer.join().unwrap();
        (result, reader.join().unwrap())
    }

    fn pattern(length: usize) -> Vec<u8> {
        (0..=250).cycle().take(length).collect()
    }

    #[test]
    fn bodies_of_every_edge_length_arrive_as_they_were_sent() {
        let mut buffers = Buffers::default();
        let edges = [
            0,
            1,
            2,
            SCRATCH_BYTES - 1,
            SCRATCH_BYTES,
            SCRATCH_BYTES + 1,
            PIPE_BYTES + 1,
            3 << 20,
        ];
        for length in edges {
            let body = pattern(length);
            let relay = Relay::new(BodyTranslator::new(
                Body::Length(length as u64),
                Writer::Plain,
                u64::MAX,
                &LIMITS,
            ));
            let (result, received) = run(relay, body.clone(), &mut buffers);
            result.unwrap();
            assert!(received == body, "{length} bytes");
        }
        assert_eq!(buffers.pipes.lent(), 0);
    }

    #[test]
    fn a_body_until_close_is_chunked_and_ended_when_the_source_ends() {
        let (result, received) = run(
            Relay::new(BodyTranslator::new(
                Body::UntilClose,
                Writer::Chunked { trailers: false },
                u64::MAX,
                &LIMITS,
            )),
            b"abc".to_vec(),
            &mut Buffers::default(),
        );
        result.unwrap();
        assert!(received.ends_with(b"\r\n0\r\n\r\n"));
    }

    #[test]
    fn an_end_before_the_bodys_own_is_an_error() {
        let mut buffers = Buffers::default();
        for length in [5, 1 << 20] {
            let relay = Relay::new(BodyTranslator::new(
                Body::Length(length),
                Writer::Plain,
                u64::MAX,
                &LIMITS,
            ));
            let (result, received) = run(relay, b"abc".to_vec(), &mut buffers);
            assert!(matches!(result, Err(RelayError::Body(BodyError::BrokeOff))));
            assert_eq!(received, b"abc");
        }
        assert_eq!(buffers.pipes.lent(), 0);
    }
}
