//! Thread: access lines on their way to standard output.
//!
//! Each worker owns an [`AccessLogWriter`]: it formats a line straight into a buffer that only the log thread ever looks
//! at besides, for the moment it takes to swap it for an empty one. So a line costs no allocation and no system call; the
//! thread writes whole buffers at most 100 ms late, and sleeps for good when there is nothing to log. A pipe
//! that is full blocks this thread alone: the buffers fill up, and then whole lines are dropped and counted. What a line looks like is in `log/line.rs`.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::Thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::net::thread;
use crate::text::timestamp::Clock;

pub(crate) use crate::log::line::{AccessLine, Details, Format};

/// What one worker's lines may take while they wait, in bytes. Allocated once, touched only as far as it is used.
const BUFFER_BYTES: usize = 256 * 1024;
/// A buffer this full is not left to wait for the end of the batch.
const URGENT_BYTES: usize = 64 * 1024;
/// How late a line may be.
const BATCH_INTERVAL: Duration = Duration::from_millis(100);
/// How often lost lines are reported.
const REPORT_INTERVAL: Duration = Duration::from_secs(5);
/// The log as a whole: gives out writers, and stops the thread.
#[derive(Debug)]
pub(crate) struct AccessLog {
    shared: Arc<Shared>,
    thread: Thread,
    is_done: Receiver<()>,
}

/// One worker's end of the log.
#[derive(Debug)]
pub(crate) struct AccessLogWriter {
    buffer: Arc<Mutex<Vec<u8>>>,
    clock: Clock,
    shared: Arc<Shared>,
    thread: Thread,
}

#[derive(Debug, Default)]
struct Shared {
    buffers: Mutex<Vec<Arc<Mutex<Vec<u8>>>>>,
    /// A buffer is not empty any more: the thread wakes and begins a batch.
    begun: AtomicBool,
    /// A buffer is nearly full: the thread does not wait for the end of the batch.
    urgent: AtomicBool,
    stopping: AtomicBool,
    lines_lost: AtomicU64,
}

impl AccessLog {
    /// Starts the thread that writes to standard output.
    pub(crate) fn start() -> io::Result<AccessLog> {
        // `io::Stdout` looks for line ends and flushes at each: a system call per line. The file is a second descriptor
        // of the same output; it is never seen by anyone else.
        let output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        AccessLog::start_with(output, BATCH_INTERVAL)
    }

    /// Another writer, for one worker.
    pub(crate) fn writer(&self) -> AccessLogWriter {
        let buffer = Arc::new(Mutex::new(Vec::with_capacity(BUFFER_BYTES)));
        lock(&self.shared.buffers).push(Arc::clone(&buffer));
        AccessLogWriter {
            buffer,
            clock: Clock::new(),
            shared: Arc::clone(&self.shared),
            thread: self.thread.clone(),
        }
    }

    /// Writes everything there is and ends the thread, but waits no longer than `timeout`; whether all was written.
    /// Lines that come later are never written: the workers stop first.
    pub(crate) fn stop(self, timeout: Duration) -> bool {
        self.shared.stopping.store(true, Ordering::Release);
        self.thread.unpark();
        self.is_done.recv_timeout(timeout).is_ok()
    }

    fn start_with(
        output: impl Write + Send + 'static,
        batch_interval: Duration,
    ) -> io::Result<AccessLog> {
        let shared = Arc::new(Shared::default());
        let (done, is_done) = bounded(1);
        let mut output = Output {
            file: output,
            shared: Arc::clone(&shared),
            is_closed: false,
            is_mid_line: false,
            reported: None,
        };
        let handle = thread::start("access-log", move || {
            run(&mut output, batch_interval, &done);
        })?;
        Ok(AccessLog {
            shared,
            thread: handle.thread().clone(),
            is_done,
        })
    }
}

impl AccessLogWriter {
    /// Appends a line, or drops and counts it when the log does not keep up. Never waits for the output.
    pub(crate) fn write(&mut self, format: Format, line: &AccessLine<'_>) {
        let mut buffer = lock(&self.buffer);
        let bytes_before = buffer.len();
        // Asked before and not after, so that the buffer never grows.
        if bytes_before + line.bytes_max() > BUFFER_BYTES {
            drop(buffer);
            self.shared.lines_lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        line.write(format, &mut self.clock, &mut buffer);
        let bytes_after = buffer.len();
        drop(buffer);
        if bytes_before < URGENT_BYTES && bytes_after >= URGENT_BYTES {
            self.shared.urgent.store(true, Ordering::Release);
            self.thread.unpark();
        } else if bytes_before == 0 && !self.shared.begun.swap(true, Ordering::AcqRel) {
            self.thread.unpark();
        }
    }
}

/// What the thread owns.
struct Output<W> {
    file: W,
    shared: Arc<Shared>,
    /// The reader is gone: nothing will ever be written again.
    is_closed: bool,
    /// A write failed in the middle of a line, which has to be ended before the next.
    is_mid_line: bool,
    /// When lost lines were last reported.
    reported: Option<Instant>,
}

fn run<W: Write>(output: &mut Output<W>, batch_interval: Duration, done: &Sender<()>) {
    let shared = Arc::clone(&output.shared);
    let is_stopping = || shared.stopping.load(Ordering::Acquire);
    let mut batch = Vec::with_capacity(BUFFER_BYTES);
    while !is_stopping() {
        while !shared.begun.swap(false, Ordering::AcqRel) && !is_stopping() {
            if shared.lines_lost.load(Ordering::Relaxed) == 0 {
                std::thread::park();
            } else {
                std::thread::park_timeout(REPORT_INTERVAL);
                output.report_losses(false);
            }
        }
        let deadline = Instant::now() + batch_interval;
        while !shared.urgent.swap(false, Ordering::AcqRel) && !is_stopping() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            std::thread::park_timeout(left);
        }
        output.write_buffers(&mut batch);
        output.report_losses(false);
    }
    // What came between the last look at the buffers and the stop.
    output.write_buffers(&mut batch);
    output.report_losses(true);
    // Who asked may have stopped waiting.
    let _ = done.try_send(());
}

impl<W: Write> Output<W> {
    /// Writes what the buffers hold, each of them whole.
    fn write_buffers(&mut self, batch: &mut Vec<u8>) {
        let buffers = lock(&self.shared.buffers).clone();
        for buffer in buffers {
            std::mem::swap(&mut *lock(&buffer), batch);
            self.write(batch);
            batch.clear();
        }
    }

    /// Writes lines, or counts those that cannot be written.
    fn write(&mut self, lines: &[u8]) {
        if self.is_mid_line && !lines.is_empty() {
            self.is_mid_line = !self.put(b"\n").is_empty();
        }
        let rest = if self.is_mid_line {
            lines
        } else {
            self.put(lines)
        };
        if rest.is_empty() {
            return;
        }
        let bytes_written = lines.len() - rest.len();
        self.is_mid_line |= bytes_written > 0 && lines[bytes_written - 1] != b'\n';
        let lines_lost = rest.split_inclusive(|byte| *byte == b'\n').count();
        self.shared
            .lines_lost
            .fetch_add(lines_lost as u64, Ordering::Relaxed);
    }

    /// Writes as much as can be written, and returns the rest.
    fn put<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let mut rest = bytes;
        while !rest.is_empty() && !self.is_closed {
            match self.file.write(rest) {
                Ok(written) if written > 0 => rest = &rest[written..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Somebody who shares the pipe made it non-blocking.
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                    self.is_closed = true;
                    log::warn!("standard output is closed: access lines are no longer written");
                }
                // A full disk, for one: this batch is lost, the next may fit.
                Ok(_) | Err(_) => break,
            }
        }
        rest
    }

    fn report_losses(&mut self, is_last: bool) {
        let is_early = self
            .reported
            .is_some_and(|reported| reported.elapsed() < REPORT_INTERVAL);
        if is_early && !is_last {
            return;
        }
        let lines = self.shared.lines_lost.swap(0, Ordering::Relaxed);
        if lines > 0 && !self.is_closed {
            self.reported = Some(Instant::now());
            log::warn!("{lines} access lines are lost: standard output did not take them");
        }
    }
}

/// A worker that panicked in the middle of a line leaves at worst a broken line.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Passes on what is written, each write once there is room in the channel.
    struct Pipe(Sender<Vec<u8>>);

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            match self.0.send(bytes.to_vec()) {
                Ok(()) => Ok(bytes.len()),
                Err(_) => Err(ErrorKind::BrokenPipe.into()),
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A log whose pipe holds this many writes.
    fn start(writes: usize, batch_interval: Duration) -> (AccessLog, Receiver<Vec<u8>>) {
        let (sender, receiver) = bounded(writes);
        let log = AccessLog::start_with(Pipe(sender), batch_interval).unwrap();
        (log, receiver)
    }

    fn lines_in(bytes: &[u8]) -> usize {
        bytes.split_inclusive(|byte| *byte == b'\n').count()
    }

    const NEVER: Duration = Duration::from_secs(3600);

    const LINE: AccessLine<'static> = AccessLine {
        client: std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
        request_line: b"GET /a HTTP/1.1",
        status: 200,
        bytes_sent: 1234,
        total_us: 5_007,
        backend: "localhost:8081",
        tries: 1,
        request_id: b"id-1",
        reason: None,
        details: Details::NONE,
    };

    #[test]
    fn lines_come_in_batches_without_a_stop() {
        let (log, output) = start(100, BATCH_INTERVAL);
        let mut writer = log.writer();
        for _ in 0..3 {
            writer.write(Format::Text, &LINE);
        }
        // One batch, unless this machine takes 100 ms for three lines.
        let mut lines = 0;
        while lines < 3 {
            lines += lines_in(&output.recv_timeout(Duration::from_secs(10)).unwrap());
        }
        assert_eq!(lines, 3);
        writer.write(Format::Text, &LINE);
        let batch = output.recv_timeout(Duration::from_secs(10)).unwrap();
        assert_eq!(lines_in(&batch), 1);
    }

    #[test]
    fn a_buffer_that_fills_up_is_written_at_once() {
        let (log, output) = start(100, NEVER);
        let mut writer = log.writer();
        for _ in 0..URGENT_BYTES / 80 {
            writer.write(Format::Text, &LINE);
        }
        output.recv_timeout(Duration::from_secs(10)).unwrap();
    }

    #[test]
    fn a_stop_writes_everything_of_every_writer() {
        let (log, output) = start(100, NEVER);
        let mut writers = [log.writer(), log.writer()];
        for writer in &mut writers {
            writer.write(Format::Text, &LINE);
            writer.write(Format::Json, &LINE);
        }
        assert!(log.stop(Duration::from_secs(10)));
        let all: Vec<u8> = output.iter().flatten().collect();
        assert_eq!(lines_in(&all), 4);
    }

    #[test]
    fn a_pipe_that_takes_nothing_blocks_nobody_and_loses_only_whole_lines() {
        let (log, output) = start(0, BATCH_INTERVAL);
        let mut writer = log.writer();
        let count = 3 * BUFFER_BYTES / 80;
        for _ in 0..count {
            writer.write(Format::Text, &LINE);
        }
        assert!(lock(&writer.buffer).capacity() <= BUFFER_BYTES);
        let lost = log.shared.lines_lost.load(Ordering::Relaxed);
        assert!(lost > 0);
        let shared = Arc::clone(&log.shared);
        assert!(
            !log.stop(Duration::from_millis(10)),
            "nothing can be written"
        );
        // Someone reads again.
        let all: Vec<u8> = output.iter().flatten().collect();
        let lines: Vec<&[u8]> = all.split_inclusive(|byte| *byte == b'\n').collect();
        assert_eq!(lines.len() as u64 + lost, count as u64);
        assert!(lines.iter().all(|line| line.ends_with(b" 1 id-1 -\n")));
        assert_eq!(
            shared.lines_lost.load(Ordering::Relaxed),
            0,
            "it was reported"
        );
    }

    #[test]
    fn a_closed_pipe_is_harmless() {
        let (log, output) = start(1, BATCH_INTERVAL);
        drop(output);
        let mut writer = log.writer();
        for _ in 0..10_000 {
            writer.write(Format::Text, &LINE);
        }
        assert!(log.stop(Duration::from_secs(10)));
        writer.write(Format::Text, &LINE);
    }

    #[test]
    fn a_line_that_an_error_cut_is_ended_before_the_next() {
        /// Takes five bytes, fails once, then takes all.
        struct Disk {
            calls: u32,
            written: Arc<Mutex<Vec<u8>>>,
        }

        impl Write for Disk {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.calls += 1;
                let bytes = match self.calls {
                    1 => &bytes[..5],
                    2 => return Err(ErrorKind::StorageFull.into()),
                    _ => bytes,
                };
                self.written.lock().unwrap().extend_from_slice(bytes);
                Ok(bytes.len())
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }

        let written = Arc::new(Mutex::new(Vec::new()));
        let mut output = Output {
            file: Disk {
                calls: 0,
                written: Arc::clone(&written),
            },
            shared: Arc::new(Shared::default()),
            is_closed: false,
            is_mid_line: false,
            reported: None,
        };
        output.write(b"first line\nsecond line\n");
        assert_eq!(output.shared.lines_lost.load(Ordering::Relaxed), 2);
        output.write(b"third line\n");
        assert_eq!(*written.lock().unwrap(), b"first\nthird line\n");
    }
}
