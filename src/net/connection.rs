//! The one owner of a socket: what events said about it, bytes read ahead, bytes not yet sent.
//!
//! Reading goes through a scratch buffer that all connections of a worker share, so a waiting
//! connection holds no memory but an unfinished remainder. `receive` returns the bytes at hand and
//! `consume` drops those that were used; only the rest is copied into the connection.
//!
//! Read next: `exchange/mod.rs`, what a connection is used for.

use std::io::{self, IoSlice};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

// Reading and writing go to the kernel directly: in a program of several threads libc makes each
// such call a cancellation point of its own, which took 2 % of the CPU time of a small request.
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use crate::net::syscalls::{recv, send, writev};

use crate::net::poller::Readiness;
use crate::net::room::{copy_of, is_too_large, make_room};

/// A non-blocking TCP connection.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    /// Whether a read may bring something: no read has found the kernel's buffer empty since the
    /// last event.
    readable: bool,
    /// Whether a write may succeed.
    writable: bool,
    /// The peer has closed its sending side or the connection is broken, so a short read does not
    /// mean that the kernel's buffer is empty.
    ended: bool,
    /// The connection is closed in both directions (reset, or closed by both sides).
    broken: bool,
    /// How many bytes of the last `receive` are in the scratch buffer and not in `input`.
    in_scratch: u32,
    input: Buffer,
    output: Buffer,
    sent: u64,
}

/// The result of `receive`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Received<'a> {
    /// All bytes at hand, the kept ones first; at least one is new.
    Bytes(&'a [u8]),
    /// Nothing now; an event will come.
    Wait,
    /// The peer will send nothing more.
    End,
}

impl Connection {
    /// Takes over a non-blocking stream, to be read after its first event; a write may be tried at
    /// once.
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            readable: false,
            writable: true,
            ended: false,
            broken: false,
            in_scratch: 0,
            input: Buffer::default(),
            output: Buffer::default(),
            sent: 0,
        }
    }

    /// Takes over a stream that is still connecting: it becomes writable when the connect ends.
    pub(crate) fn connecting(stream: TcpStream) -> Self {
        Self {
            writable: false,
            ..Self::new(stream)
        }
    }

    /// Notes what an event said.
    pub(crate) fn note(&mut self, readiness: Readiness) {
        let gone = Readiness::HUP | Readiness::ERR;
        if readiness.intersects(Readiness::IN | Readiness::RDHUP | gone) {
            self.readable = true;
        }
        if readiness.intersects(Readiness::OUT | gone) {
            self.writable = true;
        }
        if readiness.intersects(Readiness::RDHUP | gone) {
            self.ended = true;
        }
        if readiness.intersects(gone) {
            self.broken = true;
        }
    }

    /// Whether a read may bring something.
    pub(crate) fn is_readable(&self) -> bool {
        self.readable
    }

    /// Whether the peer is known to have closed its sending side (bytes may still be unread).
    pub(crate) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Whether the connection is known to be gone in both directions.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken
    }

    /// Makes the next `receive` ask the kernel, whatever the events said.
    pub(crate) fn mark_readable(&mut self) {
        self.readable = true;
        self.ended = true;
    }

    /// Makes the next `flush` ask the kernel, whatever the events said.
    pub(crate) fn mark_writable(&mut self) {
        self.writable = true;
    }

    /// Reads at most `scratch` bytes and returns them together with those kept from earlier:
    /// `kept_max` bytes in all, or `scratch` if that is more. `consume` must follow before the
    /// scratch buffer is used again.
    pub(crate) fn receive<'a>(
        &'a mut self,
        scratch: &'a mut [u8],
        kept_max: usize,
    ) -> io::Result<Received<'a>> {
        let kept = self.input.bytes().len();
        debug_assert!(
            kept == 0 || kept < kept_max,
            "who keeps all that he may has been refused"
        );
        let most = match kept {
            0 => scratch.len(),
            _ => scratch.len().min(kept_max.saturating_sub(kept).max(1)),
        };
        match self.read(&mut scratch[..most])? {
            Some(0) => Ok(Received::End),
            None => Ok(Received::Wait),
            Some(count) if self.input.is_empty() => {
                self.in_scratch =
                    u32::try_from(count).expect("the scratch buffer is far below 4 GiB");
                Ok(Received::Bytes(&scratch[..count]))
            }
            Some(count) => {
                self.input.extend(&scratch[..count], kept_max);
                Ok(Received::Bytes(self.input.bytes()))
            }
        }
    }

    /// Drops the first `used` bytes of what `receive` returned and keeps the rest.
    pub(crate) fn consume(&mut self, used: usize, scratch: &[u8]) {
        let in_scratch = std::mem::take(&mut self.in_scratch) as usize;
        if in_scratch > 0 {
            let rest = &scratch[used..in_scratch];
            self.input.extend(rest, rest.len());
        } else {
            self.input.consume(used);
        }
    }

    /// Reads into `buffer`. `None`: nothing now. `Some(0)`: the peer will send nothing more.
    ///
    /// A read that does not fill the buffer has emptied the kernel's, so no second read asks for
    /// "would block", unless the peer has ended: its end would bring no further event.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        if !self.readable {
            return Ok(None);
        }
        loop {
            return match recv(&self.stream, &mut *buffer, RecvFlags::empty()) {
                Ok((count, _)) => {
                    if count < buffer.len() && !self.ended {
                        self.readable = false;
                    }
                    if count == 0 {
                        self.ended = true;
                    }
                    Ok(Some(count))
                }
                Err(Errno::AGAIN) => {
                    self.readable = false;
                    Ok(None)
                }
                Err(Errno::INTR) => continue,
                Err(error) => {
                    self.broken = true;
                    Err(error.into())
                }
            };
        }
    }

    /// A splice from this socket returned "would block".
    pub(crate) fn read_would_block(&mut self) {
        // After an end or a reset the socket stays readable, so "would block" cannot have been the
        // result.
        self.readable = false;
    }

    /// A splice to this socket returned "would block".
    pub(crate) fn write_would_block(&mut self) {
        self.writable = false;
    }

    /// Whether a write may succeed at once.
    pub(crate) fn is_writable(&self) -> bool {
        self.writable
    }

    /// Bytes that were read and not consumed.
    #[inline(always)]
    pub(crate) fn buffered(&self) -> &[u8] {
        self.input.bytes()
    }

    /// Drops the first `used` of the buffered bytes.
    pub(crate) fn consume_buffered(&mut self, used: usize) {
        self.input.consume(used);
    }

    /// Moves the first `used` buffered bytes into `place`, replacing its contents.
    pub(crate) fn move_buffered(&mut self, used: usize, place: &mut Vec<u8>) {
        if used == 0 {
            *place = Vec::new();
        } else if self.input.start == 0 && used == self.input.bytes.len() {
            // Nearly every request: the whole allocation is handed over.
            *place = std::mem::take(&mut self.input).bytes;
        } else {
            *place = copy_of(&self.input.bytes()[..used]);
            self.input.consume(used);
        }
    }

    /// Puts bytes back in front of the buffered ones.
    pub(crate) fn unread(&mut self, bytes: &[u8]) {
        self.input.prepend(bytes);
    }

    /// Sends `head` and then `body`: at once what the kernel takes, the rest by `flush`. One system
    /// call when nothing is waiting.
    pub(crate) fn send(&mut self, head: &[u8], body: &[u8]) -> io::Result<()> {
        let mut written = 0;
        if self.output.is_empty() && self.writable {
            written = self.write_once(&[IoSlice::new(head), IoSlice::new(body)])?;
        }
        let head_left = &head[written.min(head.len())..];
        let body_left = &body[written.saturating_sub(head.len())..];
        let left = head_left.len() + body_left.len();
        if left > 0 {
            let left = self.output.bytes().len() + left;
            self.output.extend(head_left, left);
            self.output.extend(body_left, left);
        }
        Ok(())
    }

    /// Sends what is waiting. True when nothing is left.
    pub(crate) fn flush(&mut self) -> io::Result<bool> {
        while !self.output.is_empty() {
            if !self.writable {
                return Ok(false);
            }
            let mut output = std::mem::take(&mut self.output);
            let result = self.write_once(&[IoSlice::new(output.bytes())]);
            output.consume(*result.as_ref().unwrap_or(&0));
            self.output = output;
            result?;
        }
        Ok(true)
    }

    /// Bytes that the kernel has taken so far.
    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    /// Counts bytes that went out without `send` (splice).
    pub(crate) fn count_sent(&mut self, bytes: u64) {
        self.sent += bytes;
    }

    /// Closes the sending side.
    pub(crate) fn shutdown_write(&mut self) {
        // A peer that is gone need not be told.
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Makes the close a reset, so that the peer cannot take what it received for complete.
    pub(crate) fn reset_on_close(&mut self) {
        let _ = socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
    }

    /// Whether a connection is open and nothing has come on it, as it should be between exchanges.
    /// One system call.
    pub(crate) fn is_open_and_empty(&mut self) -> bool {
        let mut byte = [0];
        matches!(self.stream.peek(&mut byte), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// The address of our end.
    pub(crate) fn local_address(&self) -> io::Result<SocketAddr> {
        self.stream.local_addr()
    }

    /// TCP self-connect: whether the connection to `peer` has met its own end, as it can on one
    /// host.
    pub(crate) fn is_connected_to_itself(&self, peer: SocketAddr) -> bool {
        self.stream.local_addr().is_ok_and(|local| local == peer)
    }

    /// The error that a finished connect left, if it failed.
    pub(crate) fn take_error(&self) -> io::Result<Option<io::Error>> {
        self.stream.take_error()
    }

    /// One write of several parts; 0 when the kernel takes nothing now. A partial write has filled
    /// the kernel's buffer, so the next one waits for an event.
    fn write_once(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let wanted: usize = parts.iter().map(|part| part.len()).sum();
        if wanted == 0 {
            return Ok(0);
        }
        loop {
            let result = match parts {
                [only] | [only, _] | [_, only] if only.len() == wanted => {
                    send(&self.stream, only, SendFlags::NOSIGNAL)
                }
                _ => writev(&self.stream, parts),
            };
            return match result {
                Ok(written) => {
                    self.sent += written as u64;
                    if written < wanted {
                        self.writable = false;
                    }
                    Ok(written)
                }
                Err(Errno::AGAIN) => {
                    self.writable = false;
                    Ok(0)
                }
                Err(Errno::INTR) => continue,
                Err(error) => Err(error.into()),
            };
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// A queue of bytes whose capacity is at most twice what is left in it, or a page more.
#[derive(Debug, Default)]
struct Buffer {
    bytes: Vec<u8>,
    start: usize,
}

impl Buffer {
    #[inline(always)]
    fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    #[inline(always)]
    fn is_empty(&self) -> bool {
        self.start == self.bytes.len()
    }

    /// Appends `more`, of at most `max` bytes in all.
    fn extend(&mut self, more: &[u8], max: usize) {
        if more.is_empty() {
            return;
        }
        if self.start > 0 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        make_room(&mut self.bytes, more.len(), max);
        self.bytes.extend_from_slice(more);
    }

    fn prepend(&mut self, before: &[u8]) {
        if before.is_empty() {
            return;
        }
        let mut bytes = copy_of(before);
        make_room(&mut bytes, self.bytes().len(), 0);
        bytes.extend_from_slice(self.bytes());
        *self = Self { bytes, start: 0 };
    }

    fn consume(&mut self, count: usize) {
        self.start += count;
        debug_assert!(
            self.start <= self.bytes.len(),
            "only what is there can be consumed"
        );
        if self.is_empty() {
            *self = Self::default();
        } else if is_too_large(self.bytes.capacity(), self.bytes().len()) {
            *self = Self {
                bytes: copy_of(self.bytes()),
                start: 0,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    /// A connection and the far end of it.
    fn pair() -> (Connection, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let far = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (near, _) = listener.accept().unwrap();
        near.set_nonblocking(true).unwrap();
        (Connection::new(near), far)
    }

    /// What the poller would say once bytes or an end are there; waits until they are.
    fn note_input(connection: &mut Connection) {
        let mut fds = [rustix::event::PollFd::new(
            &connection.stream,
            rustix::event::PollFlags::IN,
        )];
        rustix::event::poll(&mut fds, None).unwrap();
        connection.note(Readiness::IN);
    }

    #[test]
    fn nothing_is_read_before_an_event_and_a_short_read_ends_reading() {
        let (mut near, mut far) = pair();
        let mut scratch = [0; 8];
        far.write_all(b"abc").unwrap();
        assert_eq!(near.receive(&mut scratch, 100).unwrap(), Received::Wait);
        note_input(&mut near);
        assert_eq!(
            near.receive(&mut scratch, 100).unwrap(),
            Received::Bytes(b"abc")
        );
        near.consume(3, &scratch);
        assert!(!near.is_readable() && near.buffered().is_empty());
    }

    #[test]
    fn a_full_read_goes_on_and_what_was_not_consumed_comes_first() {
        let (mut near, mut far) = pair();
        let mut scratch = [0; 4];
        far.write_all(b"abcdef").unwrap();
        note_input(&mut near);
        assert_eq!(
            near.receive(&mut scratch, 100).unwrap(),
            Received::Bytes(b"abcd")
        );
        near.consume(1, &scratch);
        assert_eq!(near.buffered(), b"bcd");
        assert_eq!(
            near.receive(&mut scratch, 100).unwrap(),
            Received::Bytes(b"bcdef")
        );
        near.consume(5, &scratch);
        assert!(near.buffered().is_empty());
    }

    #[test]
    fn bytes_that_come_with_the_end_are_read_before_the_end() {
        let (mut near, mut far) = pair();
        let mut scratch = [0; 8];
        far.write_all(b"abc").unwrap();
        drop(far);
        note_input(&mut near);
        near.note(Readiness::IN | Readiness::RDHUP);
        assert_eq!(
            near.receive(&mut scratch, 100).unwrap(),
            Received::Bytes(b"abc")
        );
        near.consume(3, &scratch);
        note_input(&mut near);
        assert_eq!(near.receive(&mut scratch, 100).unwrap(), Received::End);
        assert!(near.has_ended());
    }

    #[test]
    fn unread_bytes_come_first_again() {
        let (mut near, mut far) = pair();
        let mut scratch = [0; 8];
        far.write_all(b"abc").unwrap();
        note_input(&mut near);
        near.receive(&mut scratch, 100).unwrap();
        near.consume(2, &scratch);
        near.unread(b"ab");
        assert_eq!(near.buffered(), b"abc");
        near.consume_buffered(1);
        near.unread(b"xyz");
        assert_eq!(near.buffered(), b"xyzbc");
    }

    #[test]
    fn buffered_bytes_are_moved_whole_or_in_part_and_replace_what_was_there() {
        let (mut near, _far) = pair();
        near.unread(b"abcdef");
        let mut place = b"old".to_vec();
        for (used, moved, left) in [
            (2, &b"ab"[..], &b"cdef"[..]),
            (4, b"cdef", b""),
            (0, b"", b""),
        ] {
            near.move_buffered(used, &mut place);
            assert_eq!((&place[..], near.buffered()), (moved, left));
        }
        near.unread(b"whole");
        near.move_buffered(5, &mut place);
        assert_eq!((&place[..], near.buffered()), (&b"whole"[..], &b""[..]));
    }

    #[test]
    fn no_more_is_kept_than_was_asked_for() {
        let (mut near, mut far) = pair();
        let mut scratch = [0; 64];
        far.write_all(&[b'x'; 90]).unwrap();
        note_input(&mut near);
        for (received, taken) in [(64, 0), (80, 0)] {
            let bytes = near.receive(&mut scratch, 80).unwrap();
            assert_eq!(bytes, Received::Bytes(&[b'x'; 80][..received]));
            near.consume(taken, &scratch);
        }
        near.consume_buffered(80);
        assert_eq!(
            near.receive(&mut scratch, 80).unwrap(),
            Received::Bytes(&[b'x'; 10])
        );
    }

    #[test]
    fn what_was_consumed_takes_no_memory() {
        let (mut near, _far) = pair();
        near.unread(&vec![b'x'; 100_000]);
        near.consume_buffered(99_990);
        assert_eq!(near.buffered(), b"xxxxxxxxxx");
        assert!(near.input.bytes.capacity() < 2000);
        near.consume_buffered(10);
        assert_eq!(near.input.bytes.capacity(), 0);
    }

    #[test]
    fn what_waits_to_be_sent_takes_the_memory_of_its_length() {
        let (mut near, mut far) = pair();
        let big = vec![b'x'; 16 << 20];
        near.send(b"head", &big).unwrap();
        let waits = big.len() + 4 - usize::try_from(near.sent()).unwrap();
        assert_eq!(near.output.bytes.capacity(), waits);
        let mut buffer = vec![0; 1 << 20];
        while near.output.bytes().len() > waits / 4 {
            far.read_exact(&mut buffer).unwrap();
            near.mark_writable();
            near.flush().unwrap();
        }
        assert!(near.output.bytes.capacity() <= waits / 2);
    }

    #[test]
    fn what_the_kernel_does_not_take_is_kept_in_order_and_sent_later() {
        let (mut near, mut far) = pair();
        let big = vec![b'x'; 16 << 20];
        near.send(b"head", &big).unwrap();
        near.send(b"tail", b"").unwrap();
        assert!(!near.flush().unwrap() && !near.is_writable());
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            far.read_to_end(&mut all).unwrap();
            all
        });
        while !near.flush().unwrap() {
            let mut fds = [rustix::event::PollFd::new(
                &near.stream,
                rustix::event::PollFlags::OUT,
            )];
            rustix::event::poll(&mut fds, None).unwrap();
            near.note(Readiness::OUT);
        }
        assert_eq!(near.sent(), (big.len() + 8) as u64);
        near.shutdown_write();
        let all = reader.join().unwrap();
        assert!(all.starts_with(b"headx") && all.ends_with(b"xtail") && all.len() == big.len() + 8);
    }

    #[test]
    fn silence_differs_from_bytes_and_from_an_end() {
        let (mut near, mut far) = pair();
        assert!(near.is_open_and_empty());
        far.write_all(b"x").unwrap();
        note_input(&mut near);
        assert!(!near.is_open_and_empty());
        let (mut near, far) = pair();
        drop(far);
        note_input(&mut near);
        assert!(!near.is_open_and_empty());
    }
}
