//! Writing to standard output and standard error so that every line stays whole.
//!
//! Lines go out in one write. A pipe may take a write in parts, so when both outputs are one file
//! (`2>&1`, a terminal, the log of a container) their two threads take turns: no line ends up
//! inside another.

use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::fstat;

use crate::net::lock::lock;

/// Between two looks at a pipe that another process has made non-blocking and that is full.
const FULL_LOOK: Duration = Duration::from_millis(10);

/// One of the two outputs, as the thread that writes to it owns it.
#[derive(Debug)]
pub(crate) struct Output<W> {
    file: W,
    /// Held while lines are written, if another thread writes to the same file.
    turn: Option<&'static Mutex<()>>,
    /// The last write found a pipe without a reader. A named pipe may get another reader.
    pub is_closed: bool,
    /// A write failed inside a line, which must be ended before the next one.
    is_mid_line: bool,
}

impl<W: Write> Output<W> {
    pub(crate) fn new(file: W, turn: Option<&'static Mutex<()>>) -> Self {
        Self {
            file,
            turn,
            is_closed: false,
            is_mid_line: false,
        }
    }

    /// Writes lines, waiting while a pipe is full. Returns what could not be written: complete
    /// lines, perhaps after the rest of one.
    pub(crate) fn write<'a>(&mut self, lines: &'a [u8]) -> &'a [u8] {
        if lines.is_empty() {
            return lines;
        }
        let _turn = self.turn.map(lock);
        if self.is_mid_line {
            self.is_mid_line = !self.put(b"\n").is_empty();
        }
        if self.is_mid_line {
            return lines;
        }
        let rest = self.put(lines);
        let bytes_written = lines.len() - rest.len();
        self.is_mid_line =
            !rest.is_empty() && bytes_written > 0 && lines[bytes_written - 1] != b'\n';
        rest
    }

    /// Writes as much as possible and returns the rest.
    fn put<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let mut rest = bytes;
        while !rest.is_empty() {
            let outcome = self.file.write(rest);
            let is_closed = |error: &io::Error| error.kind() == ErrorKind::BrokenPipe;
            self.is_closed = outcome.as_ref().is_err_and(is_closed);
            match outcome {
                Ok(written) if written > 0 => rest = &rest[written..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(FULL_LOOK),
                // A full disk or a closed pipe: the next lines may succeed.
                Ok(_) | Err(_) => break,
            }
        }
        rest
    }
}

/// Whether a write would succeed now, at least in part. False only for a full pipe: a file always
/// has room, and when the reader is gone the write returns an error.
pub(crate) fn has_room(output: impl AsFd) -> bool {
    let mut fds = [PollFd::new(&output, PollFlags::OUT)];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    poll(&mut fds, Some(&now)).is_ok_and(|ready| ready > 0)
}

/// The lock that the writers to standard output and standard error take; none when these are two
/// files.
pub(crate) fn turn() -> Option<&'static Mutex<()>> {
    static TURN: Mutex<()> = Mutex::new(());
    are_one_file(io::stdout(), io::stderr()).then_some(&TURN)
}

fn are_one_file(one: impl AsFd, other: impl AsFd) -> bool {
    match (fstat(one), fstat(other)) {
        (Ok(one), Ok(other)) => (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read as _;
    use std::sync::Arc;

    use super::*;

    #[test]
    fn lines_go_out_in_one_write() {
        struct Counting(Vec<Vec<u8>>);

        impl Write for Counting {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.push(bytes.to_vec());
                Ok(bytes.len())
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }

        let mut output = Output::new(Counting(Vec::new()), None);
        assert!(output.write(b"one\ntwo\n").is_empty());
        assert_eq!(output.file.0, [b"one\ntwo\n"]);
    }

    #[test]
    fn a_line_that_an_error_cut_is_ended_before_the_next() {
        /// Takes five bytes, fails once, then takes all.
        struct Disk {
            calls: u32,
            written: Vec<u8>,
        }

        impl Write for Disk {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.calls += 1;
                let bytes = match self.calls {
                    1 => &bytes[..5],
                    2 => return Err(ErrorKind::StorageFull.into()),
                    _ => bytes,
                };
                self.written.extend_from_slice(bytes);
                Ok(bytes.len())
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }

        let disk = Disk {
            calls: 0,
            written: Vec::new(),
        };
        let mut output = Output::new(disk, None);
        assert_eq!(
            output.write(b"first line\nsecond line\n"),
            b" line\nsecond line\n"
        );
        assert_eq!(output.write(b"third line\n"), b"");
        assert_eq!(output.file.written, b"first\nthird line\n");
    }

    #[test]
    fn a_closed_pipe_is_known_as_closed() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        assert!(has_room(&writer), "the write fails and does not wait");
        let mut output = Output::new(writer, None);
        assert_eq!(output.write(b"line\n"), b"line\n");
        assert!(output.is_closed);
    }

    #[test]
    fn a_full_pipe_has_no_room_and_a_file_always_has() {
        let (reader, writer) = io::pipe().unwrap();
        let writer = Arc::new(writer);
        let filling = Arc::clone(&writer);
        let filler =
            thread::spawn(move || io::copy(&mut io::repeat(0).take(4 << 20), &mut &*filling));
        while has_room(&*writer) {
            thread::yield_now();
        }
        io::copy(&mut reader.take(4 << 20), &mut io::sink()).unwrap();
        filler.join().unwrap().unwrap();
        assert!(has_room(&*writer));
        assert!(has_room(File::create("/dev/null").unwrap()));
        assert!(has_room(File::open("Cargo.toml").unwrap()));
    }

    #[test]
    fn two_descriptors_of_one_file_are_known_as_one() {
        let (reader, writer) = io::pipe().unwrap();
        assert!(are_one_file(&reader, &writer));
        assert!(are_one_file(
            &writer,
            writer.as_fd().try_clone_to_owned().unwrap()
        ));
        assert!(!are_one_file(&reader, io::pipe().unwrap().0));
    }
}
