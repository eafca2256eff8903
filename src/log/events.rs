//! Thread: events of the `log` facade on their way to standard error.
//!
//! Threads that log must never wait, and standard error may be a full or closed pipe. So the
//! facade's logger is a bounded queue, and only the thread that writes can block. What does not fit
//! is dropped and counted.
//!
//! `simple_logger` decides by level which events are wanted, and lines look like its own. It does
//! not write them: it needs two writes for a line, between which another process's line fits, and
//! panics when the pipe is closed.

use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal, Write};
use std::panic::{self, PanicHookInfo};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use log::{Level, LevelFilter, Log, Metadata, Record};
use simple_logger::SimpleLogger;

use crate::log::output::{Output, has_room, turn};
use crate::net::bell::Bell;
use crate::net::room::FIRST_BYTES;
use crate::net::thread;
use crate::text::escape::make_printable;
use crate::text::timestamp::{Clock, since_epoch};

const THREAD: &str = "event-log";
/// Events that may wait in the queue.
const QUEUED_MAX: usize = 1024;
/// A longer line is cut. A pipe takes this much in one piece (`PIPE_BUF`), however many processes
/// share it.
const LINE_BYTES_MAX: usize = 4096;
/// What all events that may wait take.
pub(crate) const BYTES_MAX: usize = QUEUED_MAX * (size_of::<Message>() + LINE_BYTES_MAX);
/// How often lost events are reported while it is busy.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// How long a flush waits for an output that takes no more lines.
const FLUSH_MAX: Duration = Duration::from_secs(1);

/// Starts the thread, makes it the process's logger, and has panics logged as events. To be called
/// once.
///
/// `log::logger().flush()` then waits until all events so far are written, but no longer than a
/// second.
pub fn start(level: LevelFilter) -> io::Result<()> {
    let stderr = io::stderr();
    let style = Style {
        has_colors: stderr.is_terminal() && wants_colors(),
    };
    // Before the thread, which could panic itself.
    panic::set_hook(Box::new(log_panic));
    let logger = start_thread(Output::new(stderr, turn()), level, style)?;
    log::set_boxed_logger(Box::new(logger)).map_err(io::Error::other)?;
    log::set_max_level(level);
    Ok(())
}

/// Whether a terminal is coloured (no-color.org).
fn wants_colors() -> bool {
    let is_unset = |key| std::env::var_os(key).is_none_or(|value| value.is_empty());
    is_unset("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Whether this is the writing thread, which cannot wait for itself.
fn is_own_thread() -> bool {
    std::thread::current().name() == Some(THREAD)
}

/// Logs a panic as an event: std's hook would block the panicking thread while standard error is a
/// full pipe.
fn log_panic(info: &PanicHookInfo<'_>) {
    let text = panic_text(info);
    if !is_own_thread() {
        log::error!("{text}");
    } else if has_room(io::stderr()) {
        // The queue is not read any more; an error here cannot be reported.
        let _ = io::stderr().write_all(format!("{text}\n").as_bytes());
    }
}

fn panic_text(info: &PanicHookInfo<'_>) -> String {
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("without a name").to_owned();
    let payload = info.payload();
    let text = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no text");
    match info.location() {
        Some(location) => format!("internal error: thread {name} panicked at {location}: {text}"),
        None => format!("internal error: thread {name} panicked: {text}"),
    }
}

enum Message {
    /// A whole line.
    Line(String),
    /// Rings when everything before it is written.
    Flush(Arc<Bell>),
}

/// What the macros of `log` call.
struct Queue {
    sender: Sender<Message>,
    /// Asked only which levels are wanted.
    levels: SimpleLogger,
    style: Style,
    lost: Arc<AtomicUsize>,
}

impl Log for Queue {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.levels.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let line = self
            .style
            .line(record.level(), record.target(), record.args());
        if self.sender.try_send(Message::Line(line)).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn flush(&self) {
        self.flush_within(FLUSH_MAX);
    }
}

impl Queue {
    /// Waits until all events so far are written; false after this time.
    fn flush_within(&self, timeout: Duration) -> bool {
        if is_own_thread() {
            return false;
        }
        let deadline = Instant::now() + timeout;
        let done = Arc::new(Bell::default());
        self.sender
            .send_deadline(Message::Flush(Arc::clone(&done)), deadline)
            .is_ok()
            && done.wait(deadline.saturating_duration_since(Instant::now()))
    }
}

/// How a line looks.
#[derive(Debug, Clone, Copy)]
struct Style {
    has_colors: bool,
}

impl Style {
    /// One line with its end: level, time, module, text.
    fn line(self, level: Level, target: &str, text: &fmt::Arguments<'_>) -> String {
        const CUT: &str = "...";
        let mut time = Vec::with_capacity(24);
        Clock::new().write(since_epoch(), &mut time);
        let time = String::from_utf8_lossy(&time);
        let (color, no_color) = self.color(level);
        // Workers write lines and another thread frees them: no small piece may be left behind
        // (`net/room.rs`).
        let [mut raw, mut line] = [(); 2].map(|()| String::with_capacity(FIRST_BYTES));
        // Writing to a String cannot fail.
        let _ = write!(raw, "{text}");
        let _ = write!(line, "{color}{level:<5}{no_color} [{time} {target}] ");
        make_printable(&raw, &mut line);
        if line.len() >= LINE_BYTES_MAX {
            let mut end = LINE_BYTES_MAX - CUT.len() - 1;
            while !line.is_char_boundary(end) {
                end -= 1;
            }
            line.truncate(end);
            line.push_str(CUT);
        }
        line.push('\n');
        line.shrink_to(LINE_BYTES_MAX);
        line
    }

    fn color(self, level: Level) -> (&'static str, &'static str) {
        if !self.has_colors {
            return ("", "");
        }
        let color = match level {
            Level::Error => "\x1b[31m",
            Level::Warn => "\x1b[33m",
            Level::Info => "\x1b[36m",
            Level::Debug => "\x1b[35m",
            Level::Trace => "",
        };
        (color, "\x1b[0m")
    }
}

fn start_thread(
    output: Output<impl Write + Send + 'static>,
    level: LevelFilter,
    style: Style,
) -> io::Result<Queue> {
    let (sender, messages) = bounded(QUEUED_MAX);
    let lost = Arc::new(AtomicUsize::new(0));
    let mut work = Work {
        messages,
        output,
        lost: Arc::clone(&lost),
        style,
    };
    thread::start(THREAD, move || work.run())?;
    Ok(Queue {
        sender,
        levels: SimpleLogger::new().with_level(level),
        style,
        lost,
    })
}

/// What the thread owns.
struct Work<W> {
    messages: Receiver<Message>,
    output: Output<W>,
    lost: Arc<AtomicUsize>,
    style: Style,
}

impl<W: Write> Work<W> {
    fn run(&mut self) {
        let mut reported = Instant::now();
        while let Ok(message) = self.messages.recv() {
            match message {
                Message::Line(line) => {
                    if !self.output.write(line.as_bytes()).is_empty() {
                        self.lost.fetch_add(1, Ordering::Relaxed);
                    }
                }
                Message::Flush(done) => done.ring(),
            }
            // There is room again: the queue is empty, or some time has passed.
            let is_room = self.messages.is_empty() || reported.elapsed() >= REPORT_INTERVAL;
            if is_room && self.lost.load(Ordering::Relaxed) > 0 {
                self.report();
                reported = Instant::now();
            }
        }
    }

    fn report(&mut self) {
        let count = self.lost.swap(0, Ordering::Relaxed);
        let line = self.style.line(
            Level::Warn,
            module_path!(),
            &format_args!("{count} events are lost: standard error did not take them"),
        );
        if !self.output.write(line.as_bytes()).is_empty() {
            self.lost.fetch_add(count, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::sync::Mutex;

    use super::*;

    const PLAIN: Style = Style { has_colors: false };

    /// An output that waits for a permit before each write, and is closed for some lines.
    struct Pipe {
        permits: Receiver<()>,
        writes: Arc<Mutex<Vec<String>>>,
    }

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.permits.recv();
            let text = String::from_utf8(bytes.to_vec()).unwrap();
            if text.contains("closed") {
                return Err(ErrorKind::BrokenPipe.into());
            }
            self.writes.lock().unwrap().push(text);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Fixture {
        permits: Option<Sender<()>>,
        writes: Arc<Mutex<Vec<String>>>,
        logger: Queue,
    }

    impl Fixture {
        fn new(level: LevelFilter) -> Fixture {
            let (permits, receiver) = bounded(100_000);
            let writes = Arc::new(Mutex::new(Vec::new()));
            let pipe = Pipe {
                permits: receiver,
                writes: Arc::clone(&writes),
            };
            Fixture {
                permits: Some(permits),
                writes,
                logger: start_thread(Output::new(pipe, None), level, PLAIN).unwrap(),
            }
        }

        /// From now on the output takes everything at once.
        fn unblock(&mut self) {
            self.permits = None;
        }

        fn log(&self, level: Level, text: &str) {
            let mut record = Record::builder();
            record.level(level).target("t");
            self.logger
                .log(&record.args(format_args!("{text}")).build());
        }

        /// What each write wrote, without the time.
        fn writes(&self) -> Vec<String> {
            assert!(self.logger.flush_within(Duration::from_secs(10)));
            let without_time = |line: &String| {
                let (level, rest) = line.split_once(" [").unwrap();
                let (origin, text) = rest.split_once("] ").unwrap();
                assert_eq!(origin.split(' ').next().map(str::len), Some(24));
                format!("{level}|{text}")
            };
            self.writes
                .lock()
                .unwrap()
                .iter()
                .map(without_time)
                .collect()
        }
    }

    #[test]
    fn each_event_is_one_write_in_order_and_by_level() {
        let mut fixture = Fixture::new(LevelFilter::Info);
        fixture.unblock();
        fixture.log(Level::Info, "one");
        fixture.log(Level::Debug, "unseen");
        fixture.log(Level::Error, "two");
        assert_eq!(fixture.writes(), ["INFO |one\n", "ERROR|two\n"]);
    }

    #[test]
    fn a_line_looks_as_simple_logger_prints_it_and_only_the_level_is_coloured() {
        let text = format_args!("text");
        let line = PLAIN.line(Level::Warn, "rondo::server", &text);
        assert!(line.starts_with("WARN  [20") && line.ends_with("Z rondo::server] text\n"));
        let colored = Style { has_colors: true }.line(Level::Warn, "rondo::server", &text);
        assert!(
            colored.starts_with("\x1b[33mWARN \x1b[0m [20"),
            "{colored:?}"
        );
        assert!(colored.ends_with("Z rondo::server] text\n"), "{colored:?}");
    }

    #[test]
    fn an_event_is_one_line_that_a_pipe_takes_as_a_whole() {
        let mut fixture = Fixture::new(LevelFilter::Info);
        fixture.unblock();
        fixture.log(Level::Info, "a\nERROR forged\r\0");
        fixture.log(Level::Info, &"é".repeat(5000));
        fixture.log(Level::Info, &"e".repeat(5000));
        assert_eq!(fixture.writes()[0], "INFO |a\\nERROR forged\\r\\0\n");
        let writes = fixture.writes.lock().unwrap();
        assert!(writes[1].ends_with("é...\n"));
        assert!((LINE_BYTES_MAX - 1..=LINE_BYTES_MAX).contains(&writes[1].len()));
        assert_eq!(writes[2].len(), LINE_BYTES_MAX);
    }

    #[test]
    fn a_pipe_that_takes_nothing_blocks_no_thread_and_its_losses_are_counted_once() {
        let mut fixture = Fixture::new(LevelFilter::Info);
        for number in 0..QUEUED_MAX + 101 {
            fixture.log(Level::Info, &number.to_string());
        }
        assert!(!fixture.logger.flush_within(Duration::from_millis(10)));
        fixture.unblock();
        // One line may or may not have left the queue for the pipe before the queue was full.
        let lines = loop {
            let lines = fixture.writes();
            if lines.iter().any(|line| line.starts_with("WARN")) {
                break lines;
            }
        };
        let reports: Vec<&String> = lines
            .iter()
            .filter(|line| line.starts_with("WARN"))
            .collect();
        assert_eq!(reports.len(), 1, "{reports:?}");
        let lost: usize = reports[0]
            .split(['|', ' '])
            .find_map(|word| word.parse().ok())
            .unwrap();
        assert!((100..=101).contains(&lost), "{lost}");
        assert_eq!(lines.len() - 1 + lost, QUEUED_MAX + 101);
    }

    #[test]
    fn a_closed_pipe_ends_nothing() {
        let mut fixture = Fixture::new(LevelFilter::Info);
        fixture.unblock();
        fixture.log(Level::Info, "closed");
        fixture.log(Level::Info, "open again");
        let lines = loop {
            let lines = fixture.writes();
            if lines.len() == 2 {
                break lines;
            }
        };
        assert!(lines.contains(&"INFO |open again\n".to_owned()));
        let report = "WARN |1 events are lost: standard error did not take them\n";
        assert!(lines.contains(&report.to_owned()));
    }
}
