//! One body from one connection to the other: read in the source's framing, written in the sink's.
//!
//! A relay goes as far as the sockets let it and says which one it waits for. It holds at most one
//! scratch buffer's worth of bytes: nothing is read while something waits to be written. Long
//! bodies of known length are moved by `splice` through a pipe and never enter this process.
//!
//! Read next: net/pipes.rs. One relay in each direction is run by exchange/forwarding.rs and exchange/tunnel.rs.

use std::fmt;
use std::io;

use rustix::io::Errno;
use rustix::pipe::SpliceFlags;

use crate::http::{Body, ChunkError, Decoder, Grammar, HeadLimits, Step, encode_chunk, encode_end};
use crate::net::connection::{Connection, Received};
use crate::net::pipes::{Pipe, Pipes};
use crate::net::syscalls::splice;

/// The scratch buffer of a worker: the most that one read takes, and the most that one connection
/// holds back when its peer does not take it.
pub(crate) const SCRATCH_BYTES: usize = 64 * 1024;

/// What is read at once for a sink that has proved slow, because its remainder has to be kept.
const SLOW_SINK_BYTES: usize = 8 * 1024;

/// A body with less than this to come is copied: below it two system calls and the
/// pipe cost more than the copy they avoid.
const SPLICE_BYTES_MIN: u64 = 32 * 1024;

/// Bytes after which a relay lets the worker's other exchanges take their turn.
const TURN_BYTES_MAX: usize = 1024 * 1024;

/// Data up to this size is copied behind a head, so that one plain write sends both.
const COPY_BYTES_MAX: usize = 4 * 1024;

/// What a worker lends to a relay for one turn.
#[derive(Debug)]
pub(crate) struct Tools {
    /// Where every read lands first.
    pub scratch: Box<[u8]>,
    /// Where heads and chunks are put together before they are sent.
    pub out: Vec<u8>,
    /// Empty pipes.
    pub pipes: Pipes,
}

impl Default for Tools {
    fn default() -> Self {
        Self {
            scratch: vec![0; SCRATCH_BYTES].into(),
            out: Vec::new(),
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
    /// There is more to do at once; the others' turn comes first.
    Yield,
}

/// Why a relay cannot go on.
#[derive(Debug)]
pub(crate) enum RelayError {
    /// Reading failed.
    Source(io::Error),
    /// The source ended before its body did.
    SourceEnded,
    /// The body's framing is not valid.
    Malformed(ChunkError),
    /// The body is longer than allowed.
    TooLong,
    /// Writing failed.
    Sink(io::Error),
}

impl fmt::Display for RelayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RelayError::Source(error) => write!(f, "reading failed: {error}"),
            RelayError::SourceEnded => f.write_str("it ended before its body did"),
            RelayError::Malformed(error) => write!(f, "malformed body: {error}"),
            RelayError::TooLong => f.write_str("the body is longer than allowed"),
            RelayError::Sink(error) => write!(f, "writing failed: {error}"),
        }
    }
}

impl RelayError {
    /// What is wrong, in the words of an access line, for a client whose request body this is.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            RelayError::TooLong => "the request's body is too long",
            RelayError::Malformed(error) => error.reason(),
            RelayError::SourceEnded => "the request's body broke off",
            RelayError::Source(_) | RelayError::Sink(_) => "the connection broke",
        }
    }

    /// The status for a client whose request body this is.
    pub(crate) fn status(&self) -> u16 {
        match self {
            RelayError::TooLong => 413,
            RelayError::Malformed(error) => error.status(),
            RelayError::Source(_) | RelayError::SourceEnded | RelayError::Sink(_) => 400,
        }
    }
}

/// How the sink is told where the body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Writer {
    /// By its length, or by the end of the connection: the data alone is sent.
    Plain,
    /// In chunks, with the source's trailers if `trailers`.
    Chunked {
        /// Whether trailer fields are passed on.
        trailers: bool,
    },
}

#[derive(Debug)]
enum Reader {
    Length(u64),
    Chunked(Decoder),
    UntilClose,
    Finished,
}

/// One body on its way.
#[derive(Debug)]
pub(crate) struct Relay {
    reader: Reader,
    writer: Writer,
    pipe: Option<Pipe>,
    sink_is_slow: bool,
    /// The last read brought as much as one can.
    flows_in_bulk: bool,
    /// Bytes taken from the source, framing included.
    taken: u64,
    /// Bytes of the body itself.
    data: u64,
    data_max: u64,
}

impl Default for Relay {
    fn default() -> Self {
        Self {
            reader: Reader::Finished,
            writer: Writer::Plain,
            pipe: None,
            sink_is_slow: false,
            flows_in_bulk: false,
            taken: 0,
            data: 0,
            data_max: u64::MAX,
        }
    }
}

impl Relay {
    /// A relay for a body that comes framed as `body`. `data_max` bounds its data, and `limits`
    /// its trailer section.
    pub(crate) fn new(body: Body, writer: Writer, data_max: u64, limits: &HeadLimits) -> Self {
        let reader = match body {
            Body::None | Body::Length(0) => Reader::Finished,
            Body::Length(length) => Reader::Length(length),
            Body::Chunked => Reader::Chunked(Decoder::new(limits)),
            Body::UntilClose => Reader::UntilClose,
        };
        Self {
            reader,
            writer,
            data_max,
            ..Self::default()
        }
    }

    /// Reads chunks in this way instead of as a request's.
    pub(crate) fn read_as(&mut self, grammar: Grammar) {
        if let Reader::Chunked(decoder) = &mut self.reader {
            decoder.read_as(grammar);
        }
    }

    /// Leaves out the trailer fields that the head's Connection fields name; `options` are the values of these fields.
    pub(crate) fn leave_out_trailers<'a>(&mut self, options: impl Iterator<Item = &'a [u8]>) {
        if let Reader::Chunked(decoder) = &mut self.reader {
            decoder.leave_out(options);
        }
    }

    /// A relay for whatever comes until the source ends: one direction of a tunnel.
    pub(crate) fn tunnel() -> Self {
        Self {
            reader: Reader::UntilClose,
            ..Self::default()
        }
    }

    /// Whether the body has been read to its end.
    pub(crate) fn has_read_all(&self) -> bool {
        matches!(self.reader, Reader::Finished)
    }

    /// Bytes taken from the source; grows whenever it made progress.
    pub(crate) fn taken(&self) -> u64 {
        self.taken
    }

    /// Gives the pipe back, closed when bytes are left in it.
    pub(crate) fn release_pipe(&mut self, pipes: &mut Pipes) {
        if let Some(pipe) = self.pipe.take() {
            pipes.put_back(pipe);
        }
    }

    /// Translates the part of the body that lies at the front of `input` for the sink. It is
    /// appended to `out`, except that long plain data is left where it is and given as the second
    /// value, to be sent after `out`. The first value says how much of `input` was used.
    pub(crate) fn translate<'a>(
        &mut self,
        input: &'a [u8],
        out: &mut Vec<u8>,
    ) -> Result<(usize, &'a [u8]), RelayError> {
        let (used, plain): (usize, &[u8]) = match &mut self.reader {
            Reader::Finished => (0, &[]),
            Reader::Length(left) => {
                let count = usize::try_from(*left)
                    .unwrap_or(usize::MAX)
                    .min(input.len());
                *left -= count as u64;
                if *left == 0 {
                    self.reader = Reader::Finished;
                }
                (count, &input[..count])
            }
            Reader::UntilClose => (input.len(), input),
            Reader::Chunked(_) => (self.translate_chunks(input, out)?, &[]),
        };
        self.taken += used as u64;
        self.count_data(plain.len())?;
        match self.writer {
            Writer::Chunked { .. } => encode_chunk(plain, out),
            Writer::Plain if !out.is_empty() && plain.len() <= COPY_BYTES_MAX => {
                out.extend_from_slice(plain);
            }
            Writer::Plain => return Ok((used, plain)),
        }
        Ok((used, &[]))
    }

    fn count_data(&mut self, count: usize) -> Result<(), RelayError> {
        self.data += count as u64;
        if self.data > self.data_max {
            Err(RelayError::TooLong)
        } else {
            Ok(())
        }
    }

    fn translate_chunks(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<usize, RelayError> {
        let Reader::Chunked(decoder) = &mut self.reader else {
            return Ok(0);
        };
        let (mut used, mut data_count) = (0, 0);
        loop {
            match decoder
                .decode(&input[used..])
                .map_err(RelayError::Malformed)?
            {
                Step::Data { used: step, data } => {
                    used += step;
                    data_count += data.len();
                    match self.writer {
                        Writer::Plain => out.extend_from_slice(data),
                        Writer::Chunked { .. } => encode_chunk(data, out),
                    }
                }
                Step::More { used: step } => {
                    used += step;
                    break;
                }
                Step::End { used: step } => {
                    match self.writer {
                        Writer::Plain => {}
                        Writer::Chunked { trailers: true } => encode_end(decoder.trailers(), out),
                        Writer::Chunked { trailers: false } => encode_end(std::iter::empty(), out),
                    }
                    self.reader = Reader::Finished;
                    used += step;
                    break;
                }
            }
        }
        self.count_data(data_count)?;
        Ok(used)
    }

    /// Moves the body on as far as both sides allow.
    pub(crate) fn advance(
        &mut self,
        source: &mut Connection,
        sink: &mut Connection,
        tools: &mut Tools,
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
            let step = if self.should_splice(source, tools) {
                self.splice(source, sink, &mut tools.pipes)?
            } else {
                self.copy(source, sink, tools)?
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
        tools: &mut Tools,
    ) -> Result<Moved, RelayError> {
        let Tools { scratch, out, .. } = tools;
        out.clear();
        if !source.buffered().is_empty() {
            let (used, plain) = self.translate(source.buffered(), out)?;
            let sent = sink.send(out, plain);
            source.consume_buffered(used);
            sent.map_err(RelayError::Sink)?;
            // A chunk head may lie split here: only what arrives next can complete it.
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
            .receive(&mut scratch[..most])
            .map_err(RelayError::Source)?
        {
            Received::Wait => Ok(Moved::Wait(Flow::WaitSource)),
            Received::End => {
                if !matches!(self.reader, Reader::UntilClose) {
                    return Err(RelayError::SourceEnded);
                }
                self.reader = Reader::Finished;
                if let Writer::Chunked { .. } = self.writer {
                    encode_end(std::iter::empty(), out);
                    sink.send(out, &[]).map_err(RelayError::Sink)?;
                }
                Ok(Moved::Bytes(0))
            }
            Received::Bytes(bytes) => {
                let (used, plain) = self.translate(bytes, out)?;
                let sent = sink.send(out, plain);
                self.flows_in_bulk = used == most;
                // Whatever became of it: what follows the body is the next request.
                source.consume(used, scratch);
                sent.map_err(RelayError::Sink)?;
                Ok(Moved::Bytes(used))
            }
        }
    }

    /// Splicing pays for plain data of which much is to come, and must go on once begun.
    fn should_splice(&mut self, source: &Connection, tools: &mut Tools) -> bool {
        if self.pipe.is_some() {
            return true;
        }
        let pays = match self.reader {
            Reader::Length(left) => left >= SPLICE_BYTES_MIN,
            // How much is to come nobody knows; what came last is the best guess.
            Reader::UntilClose => self.flows_in_bulk,
            Reader::Chunked(_) | Reader::Finished => false,
        };
        if !pays
            || self.writer != Writer::Plain
            || !source.buffered().is_empty()
            || !source.is_readable()
        {
            return false;
        }
        self.pipe = tools.pipes.take();
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
        let left = match self.reader {
            Reader::Length(left) => left,
            Reader::UntilClose => u64::MAX,
            Reader::Chunked(_) | Reader::Finished => 0,
        };
        if left == 0 {
            self.release_pipe(pipes);
            return Ok(Moved::Bytes(0));
        }
        if !source.is_readable() {
            self.release_pipe(pipes);
            return Ok(Moved::Wait(Flow::WaitSource));
        }
        let most = usize::try_from(left)
            .unwrap_or(usize::MAX)
            .min(pipe.bytes_max);
        match splice(
            &*source,
            None,
            &pipe.into,
            None,
            most,
            SpliceFlags::MOVE | SpliceFlags::NONBLOCK,
        ) {
            Ok(0) if matches!(self.reader, Reader::UntilClose) => {
                self.reader = Reader::Finished;
                Ok(Moved::Bytes(0))
            }
            Ok(0) => Err(RelayError::SourceEnded),
            Ok(count) => {
                pipe.holds = count;
                self.taken += count as u64;
                self.flows_in_bulk = count as u64 >= SPLICE_BYTES_MIN;
                if let Reader::Length(left) = &mut self.reader {
                    *left -= count as u64;
                    if *left == 0 {
                        self.reader = Reader::Finished;
                    }
                }
                self.count_data(count)?;
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
        let mut relay = Relay::new(Body::Length(4), Writer::Plain, u64::MAX, &LIMITS);
        let result = relay.advance(&mut source, &mut sink, &mut Tools::default());
        assert!(matches!(result, Err(RelayError::Sink(_))), "{result:?}");
        assert_eq!(source.buffered(), b"NEXT");
    }

    /// Runs a relay between two real sockets: `sent` goes in, and what came out is given with how
    /// the relay ended.
    fn run(
        mut relay: Relay,
        sent: Vec<u8>,
        tools: &mut Tools,
    ) -> (Result<(), RelayError>, Vec<u8>) {
        let ((mut source, mut far_source), (mut sink, mut far_sink)) = (pair(), pair());
        let writer = std::thread::spawn(move || {
            // The relay may give up early; then nobody reads the rest.
            let _ = far_source.write_all(&sent);
        });
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            far_sink.read_to_end(&mut all).unwrap();
            all
        });
        let result = loop {
            match relay.advance(&mut source, &mut sink, tools) {
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
        relay.release_pipe(&mut tools.pipes);
        drop((source, sink));
        writer.join().unwrap();
        (result, reader.join().unwrap())
    }

    fn pattern(length: usize) -> Vec<u8> {
        (0..=250).cycle().take(length).collect()
    }

    #[test]
    fn bodies_of_every_edge_length_arrive_as_they_were_sent() {
        let mut tools = Tools::default();
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
            let relay = Relay::new(
                Body::Length(length as u64),
                Writer::Plain,
                u64::MAX,
                &LIMITS,
            );
            let (result, received) = run(relay, body.clone(), &mut tools);
            result.unwrap();
            assert!(received == body, "{length} bytes");
        }
        assert_eq!(tools.pipes.lent(), 0);
    }

    #[test]
    fn chunks_are_written_anew_and_plain_for_who_knows_no_chunks() {
        let mut tools = Tools::default();
        let sent = b"3;x=y\r\nabc\r\n0004\r\ndefg\r\n0\r\nA: b\r\n\r\n".to_vec();
        for (writer, expected) in [
            (
                Writer::Chunked { trailers: true },
                &b"3\r\nabc\r\n4\r\ndefg\r\n0\r\nA: b\r\n\r\n"[..],
            ),
            (
                Writer::Chunked { trailers: false },
                b"3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n",
            ),
            (Writer::Plain, b"abcdefg"),
        ] {
            let (result, received) = run(
                Relay::new(Body::Chunked, writer, u64::MAX, &LIMITS),
                sent.clone(),
                &mut tools,
            );
            result.unwrap();
            assert_eq!(received, expected);
        }
    }

    #[test]
    fn a_body_until_close_is_chunked_and_ended_when_the_source_ends() {
        let (result, received) = run(
            Relay::new(
                Body::UntilClose,
                Writer::Chunked { trailers: false },
                u64::MAX,
                &LIMITS,
            ),
            b"abc".to_vec(),
            &mut Tools::default(),
        );
        result.unwrap();
        assert!(received.ends_with(b"\r\n0\r\n\r\n"));
    }

    #[test]
    fn an_end_before_the_bodys_own_is_an_error() {
        let mut tools = Tools::default();
        for length in [5, 1 << 20] {
            let relay = Relay::new(Body::Length(length), Writer::Plain, u64::MAX, &LIMITS);
            let (result, received) = run(relay, b"abc".to_vec(), &mut tools);
            assert!(matches!(result, Err(RelayError::SourceEnded)));
            assert_eq!(received, b"abc");
        }
        assert_eq!(tools.pipes.lent(), 0);
    }

    #[test]
    fn only_the_data_counts_against_the_limit() {
        let mut tools = Tools::default();
        let sent = b"3;extension=long\r\nabc\r\n0\r\n\r\n".to_vec();
        for (max, fits) in [(3, true), (2, false)] {
            let relay = Relay::new(Body::Chunked, Writer::Plain, max, &LIMITS);
            let (result, _) = run(relay, sent.clone(), &mut tools);
            assert_eq!(result.is_ok(), fits, "{max}");
        }
    }

    #[test]
    fn malformed_chunks_end_the_relay() {
        let relay = Relay::new(Body::Chunked, Writer::Plain, u64::MAX, &LIMITS);
        let (result, _) = run(relay, b"3\r\nabcX\r\n".to_vec(), &mut Tools::default());
        assert!(matches!(result, Err(RelayError::Malformed(_))));
    }

    #[test]
    fn short_data_is_copied_behind_a_head_and_long_data_is_not() {
        for (length, copied) in [(COPY_BYTES_MAX, true), (COPY_BYTES_MAX + 1, false)] {
            let body = pattern(length);
            let mut relay = Relay::new(
                Body::Length(length as u64),
                Writer::Plain,
                u64::MAX,
                &LIMITS,
            );
            let mut out = b"head".to_vec();
            let (used, plain) = relay.translate(&body, &mut out).unwrap();
            assert_eq!(
                (used, plain.is_empty(), out.len() == 4),
                (length, copied, !copied)
            );
        }
    }
}
