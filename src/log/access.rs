//! Thread: access lines on their way to standard output.
//!
//! Each worker owns an [`AccessLogWriter`]: it formats a line straight into a buffer that the log
//! thread swaps for an empty one. So a line costs no allocation and no system call. The thread
//! writes whole buffers at most 100 ms late, and sleeps while there is nothing to log.
//!
//! A full pipe is the only reason to drop a line: it blocks this thread alone, the buffers fill up,
//! and then whole lines are dropped and counted. While the output has room, a worker that is faster
//! than the log thread waits for it. What a line looks like is in `log/line.rs`.

use std::fmt;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{Thread, park, park_timeout};
use std::time::{Duration, Instant};

use crate::log::output::{Output, has_room, turn};
use crate::net::bell::Bell;
use crate::net::lock::{lock, wait};
use crate::net::thread;
use crate::text::timestamp::Clock;

pub(crate) use crate::log::line::{AccessLine, Details, Format};

/// What one worker's waiting lines may take, in bytes. Allocated once; only what is used is
/// touched.
pub(crate) const BUFFER_BYTES: usize = 256 * 1024;
/// A buffer this full does not wait for the end of the batch.
const URGENT_BYTES: usize = 64 * 1024;
/// How late a line may be.
const BATCH_INTERVAL: Duration = Duration::from_millis(100);
/// How often lost lines are reported.
const REPORT_INTERVAL: Duration = Duration::from_secs(5);
/// How long a worker waits when the output has room and yet takes nothing: a disk that hangs.
const WAIT_MAX: Duration = Duration::from_secs(1);
/// How often a waiting worker looks whether the output has become full.
const WAIT_LOOK: Duration = Duration::from_millis(1);

/// Standard output, unbuffered. `io::Stdout` looks for line ends and flushes at each: a system call
/// per line.
struct Unbuffered;

impl Write for Unbuffered {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::write(io::stdout(), bytes)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The log as a whole: gives out writers, and stops the thread.
#[derive(Debug)]
pub(crate) struct AccessLog {
    shared: Arc<Shared>,
    thread: Thread,
    done: Arc<Bell>,
}

/// One worker's end of the log.
#[derive(Debug)]
pub(crate) struct AccessLogWriter {
    lines: Arc<Lines>,
    /// The output was full or made no progress: lines are dropped until the buffer has room again.
    is_dropping: bool,
    clock: Clock,
    shared: Arc<Shared>,
    thread: Thread,
}

/// The unwritten lines of one worker.
#[derive(Debug)]
struct Lines {
    buffer: Mutex<Vec<u8>>,
    /// The thread has emptied the buffer.
    emptied: Condvar,
}

struct Shared {
    writers: Mutex<Vec<Arc<Lines>>>,
    /// A buffer has its first line: the thread wakes and begins a batch.
    begun: AtomicBool,
    /// A buffer is nearly full: the thread writes at once.
    urgent: AtomicBool,
    stopping: AtomicBool,
    lines_lost: AtomicUsize,
    has_room: Box<dyn Fn() -> bool + Send + Sync>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl AccessLog {
    /// Starts the thread that writes to standard output.
    pub(crate) fn start() -> io::Result<AccessLog> {
        let lines = Output::new(Unbuffered, turn());
        AccessLog::start_with(lines, || has_room(io::stdout()), BATCH_INTERVAL)
    }

    /// A writer for one more worker.
    pub(crate) fn writer(&self) -> AccessLogWriter {
        let lines = Arc::new(Lines {
            buffer: Mutex::new(Vec::with_capacity(BUFFER_BYTES)),
            emptied: Condvar::new(),
        });
        lock(&self.shared.writers).push(Arc::clone(&lines));
        AccessLogWriter {
            lines,
            is_dropping: false,
            clock: Clock::new(),
            shared: Arc::clone(&self.shared),
            thread: self.thread.clone(),
        }
    }

    /// Writes all lines and ends the thread, but waits no longer than `timeout`; returns whether
    /// all were written. The workers stop before: later lines are never written.
    pub(crate) fn stop(self, timeout: Duration) -> bool {
        self.shared.stopping.store(true, Ordering::Release);
        self.thread.unpark();
        let is_done = self.done.wait(timeout);
        if !is_done {
            // The output holds the thread up, so it cannot report the lost lines.
            let lines = self.shared.lines_lost.swap(0, Ordering::Relaxed);
            log::warn!(
                "standard output takes nothing: the last access lines are not written, {lines} were lost before"
            );
        }
        is_done
    }

    fn start_with(
        output: Output<impl Write + Send + 'static>,
        has_room: impl Fn() -> bool + Send + Sync + 'static,
        batch_interval: Duration,
    ) -> io::Result<AccessLog> {
        let shared = Arc::new(Shared {
            writers: Mutex::default(),
            begun: AtomicBool::new(false),
            urgent: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            lines_lost: AtomicUsize::new(0),
            has_room: Box::new(has_room),
        });
        let done = Arc::new(Bell::default());
        let is_done = Arc::clone(&done);
        let mut work = Work {
            output,
            shared: Arc::clone(&shared),
            batch: Vec::with_capacity(BUFFER_BYTES),
            batch_interval,
            reported: None,
        };
        let handle = thread::start("access-log", move || {
            work.run();
            is_done.ring();
        })?;
        Ok(AccessLog {
            shared,
            thread: handle.thread().clone(),
            done,
        })
    }
}

impl AccessLogWriter {
    /// Appends a line; drops and counts it if the output is full.
    pub(crate) fn write(&mut self, format: Format, line: &AccessLine<'_>) {
        let mut buffer = lock(&self.lines.buffer);
        // Asked before the line is written, so that the buffer never grows.
        let bytes_max = line.bytes_max();
        if buffer.len() + bytes_max > BUFFER_BYTES {
            drop(buffer);
            if self.is_dropping || !self.wait_for_the_thread(bytes_max) {
                self.is_dropping = true;
                self.shared.lines_lost.fetch_add(1, Ordering::Relaxed);
                return;
            }
            buffer = lock(&self.lines.buffer);
        }
        self.is_dropping = false;
        let bytes_before = buffer.len();
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

    /// Waits until the thread has made room in the buffer; false if the output is full or makes no
    /// progress.
    ///
    /// The one wait of a worker outside its poller. It is short, because the thread needs only the
    /// processor to go on; without it, lines were lost that the output would have taken.
    #[cold]
    fn wait_for_the_thread(&self, bytes: usize) -> bool {
        let deadline = Instant::now() + WAIT_MAX;
        while (self.shared.has_room)() && Instant::now() < deadline {
            let mut buffer = lock(&self.lines.buffer);
            if buffer.len() + bytes > BUFFER_BYTES {
                buffer = wait(&self.lines.emptied, buffer, WAIT_LOOK);
            }
            if buffer.len() + bytes <= BUFFER_BYTES {
                return true;
            }
        }
        false
    }
}

/// What the thread owns.
struct Work<W> {
    output: Output<W>,
    shared: Arc<Shared>,
    /// Empty, or the lines being written.
    batch: Vec<u8>,
    batch_interval: Duration,
    /// When lost lines were last reported.
    reported: Option<Instant>,
}

impl<W: Write> Work<W> {
    fn run(&mut self) {
        while !self.is_stopping() {
            self.wait_for_a_batch();
            self.write_buffers();
            self.report_losses(false);
        }
        // Lines that came between the last look at the buffers and the stop.
        self.write_buffers();
        self.report_losses(true);
    }

    fn is_stopping(&self) -> bool {
        self.shared.stopping.load(Ordering::Acquire)
    }

    /// Waits for a first line, then until the batch is old or large enough.
    fn wait_for_a_batch(&mut self) {
        while !self.shared.begun.swap(false, Ordering::AcqRel) && !self.is_stopping() {
            if self.shared.lines_lost.load(Ordering::Relaxed) == 0 {
                park();
            } else {
                park_timeout(REPORT_INTERVAL);
                self.report_losses(false);
            }
        }
        let deadline = Instant::now() + self.batch_interval;
        while !self.shared.urgent.swap(false, Ordering::AcqRel) && !self.is_stopping() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            park_timeout(left);
        }
    }

    /// Writes the contents of all buffers.
    fn write_buffers(&mut self) {
        let writers = lock(&self.shared.writers).clone();
        for lines in writers {
            std::mem::swap(&mut *lock(&lines.buffer), &mut self.batch);
            lines.emptied.notify_one();
            self.write();
        }
    }

    /// Writes the batch, and counts the lines that the output refused.
    fn write(&mut self) {
        let was_closed = self.output.is_closed;
        let rest = self.output.write(&self.batch);
        let lines_lost = rest.split_inclusive(|byte| *byte == b'\n').count();
        self.batch.clear();
        self.shared
            .lines_lost
            .fetch_add(lines_lost, Ordering::Relaxed);
        if self.output.is_closed && !was_closed {
            log::warn!("standard output is closed: access lines are no longer written");
        }
    }

    fn report_losses(&mut self, is_last: bool) {
        let is_early = self
            .reported
            .is_some_and(|reported| reported.elapsed() < REPORT_INTERVAL);
        if is_early && !is_last {
            return;
        }
        let lines = self.shared.lines_lost.swap(0, Ordering::Relaxed);
        if lines > 0 && !self.output.is_closed {
            self.reported = Some(Instant::now());
            log::warn!("{lines} access lines are lost: standard output did not take them");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read as _, Seek as _};

    use crossbeam_channel::{Receiver, Sender, bounded};

    use super::*;
    use std::fs::File;

    /// Passes on what is written, each write once there is room in the channel.
    struct Pipe(Arc<Sender<Vec<u8>>>);

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
        let sender = Arc::new(sender);
        let asked = Arc::downgrade(&sender);
        let has_room = move || asked.upgrade().is_some_and(|sender| !sender.is_full());
        let log = AccessLog::start_with(Output::new(Pipe(sender), None), has_room, batch_interval)
            .unwrap();
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
    fn a_pipe_that_takes_nothing_blocks_no_worker_and_loses_only_whole_lines() {
        let (log, output) = start(0, BATCH_INTERVAL);
        let mut writer = log.writer();
        let count = 3 * BUFFER_BYTES / 80;
        for _ in 0..count {
            writer.write(Format::Text, &LINE);
        }
        assert!(lock(&writer.lines.buffer).capacity() <= BUFFER_BYTES);
        let lost = log.shared.lines_lost.load(Ordering::Relaxed);
        assert!(lost > 0);
        let shared = Arc::clone(&log.shared);
        assert!(
            !log.stop(Duration::from_millis(10)),
            "nothing can be written"
        );
        // The reader is back.
        let all: Vec<u8> = output.iter().flatten().collect();
        let lines: Vec<&[u8]> = all.split_inclusive(|byte| *byte == b'\n').collect();
        assert_eq!(lines.len() + lost, count);
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
    fn a_worker_faster_than_the_thread_loses_nothing_while_the_output_has_room() {
        const LINES: usize = 10_000;
        let mut file = tempfile();
        let (output, asked) = (file.try_clone().unwrap(), file.try_clone().unwrap());
        let log = AccessLog::start_with(
            Output::new(output, None),
            move || has_room(&asked),
            BATCH_INTERVAL,
        )
        .unwrap();
        let request_line = "x".repeat(2000);
        let line = AccessLine {
            request_line: request_line.as_bytes(),
            ..LINE
        };
        std::thread::scope(|scope| {
            for mut writer in [log.writer(), log.writer()] {
                scope.spawn(move || {
                    for _ in 0..LINES {
                        writer.write(Format::Text, &line);
                    }
                    assert!(lock(&writer.lines.buffer).capacity() <= BUFFER_BYTES);
                });
            }
        });
        assert_eq!(log.shared.lines_lost.load(Ordering::Relaxed), 0);
        assert!(log.stop(Duration::from_secs(60)));
        let mut all = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut all).unwrap();
        assert_eq!(lines_in(&all), 2 * LINES);
        assert!(
            all.split(|byte| *byte == b'\n')
                .all(|line| line.is_empty() || line.ends_with(b" 1 id-1 -"))
        );
    }

    /// A file without a name.
    fn tempfile() -> File {
        let path = std::env::temp_dir().join(format!("rondo-access-{}", std::process::id()));
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .unwrap();
        std::fs::remove_file(path).unwrap();
        file
    }

    #[test]
    fn an_output_with_room_that_takes_nothing_holds_a_worker_up_once() {
        let (sender, stuck) = bounded(0);
        let log = AccessLog::start_with(
            Output::new(Pipe(Arc::new(sender)), None),
            || true,
            BATCH_INTERVAL,
        )
        .unwrap();
        let mut writer = log.writer();
        let count = 3 * BUFFER_BYTES / 80;
        let begin = Instant::now();
        for _ in 0..count {
            writer.write(Format::Text, &LINE);
        }
        assert!(begin.elapsed() >= WAIT_MAX);
        assert!(writer.is_dropping, "from then on lines are dropped at once");
        let lost = log.shared.lines_lost.load(Ordering::Relaxed);
        assert!(!log.stop(Duration::from_millis(10)));
        let all: Vec<u8> = stuck.iter().flatten().collect();
        assert_eq!(lines_in(&all) + lost, count);
    }
}
