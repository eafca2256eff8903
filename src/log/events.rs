//! Thread: events of the `log` facade on their way to standard error.
//!
//! `simple_logger` prints them, but it blocks while a pipe is full and panics when it is closed. So the facade's logger
//! is a bounded queue that never waits, and one thread owns `simple_logger`: it alone blocks, and its panics end there.
//! What does not fit is dropped and counted. The access lines have a log of their own in `access_log/mod.rs`.

use std::cell::Cell;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use log::{Level, LevelFilter, Log, Metadata, Record};
use simple_logger::SimpleLogger;

use crate::net::thread;
use crate::text::escape::printable;
use crate::text::timestamp::{Clock, since_epoch};

/// Events that may wait; a line has at most [`TEXT_BYTES_MAX`], so together they take at most 4 MiB.
const QUEUED_MAX: usize = 1024;
/// A longer text is cut.
const TEXT_BYTES_MAX: usize = 4000;
/// How often lost events are reported while it is busy.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// The handle that flushes; events go through the macros of `log`.
#[derive(Debug)]
pub struct EventLog {
    queue: Sender<Message>,
}

impl EventLog {
    /// Starts the thread and makes it the process's logger. To be called once.
    ///
    /// The thread's panics are kept from the panic hook that is set at this moment; a hook that is set later should
    /// be set on top of it.
    pub fn start(level: LevelFilter) -> io::Result<EventLog> {
        let (queue, logger) = start_thread(SimpleLogger::new().with_level(level), level)?;
        let earlier_hook = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !PRINTING.get() {
                earlier_hook(info);
            }
        }));
        log::set_boxed_logger(Box::new(logger)).map_err(io::Error::other)?;
        log::set_max_level(level);
        Ok(EventLog { queue })
    }

    /// Waits until everything logged so far is printed, but no longer than `timeout`; whether it was.
    pub fn flush(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        let (done, is_done) = bounded(1);
        self.queue
            .send_deadline(Message::Flush(done), deadline)
            .is_ok()
            && is_done.recv_deadline(deadline).is_ok()
    }
}

thread_local! {
    /// Whether this thread is inside of `simple_logger`, where a panic means a closed pipe and nothing else.
    static PRINTING: Cell<bool> = const { Cell::new(false) };
}

#[derive(Debug)]
enum Message {
    Event {
        level: Level,
        /// Time and module: what `simple_logger` prints in brackets. (Its own time would be that of the printing, and need
        /// another package.)
        origin: String,
        text: String,
    },
    /// Answered when everything before it is printed.
    Flush(Sender<()>),
}

/// What the macros of `log` call.
struct Queue {
    sender: Sender<Message>,
    level: LevelFilter,
    lost: Arc<AtomicU64>,
}

impl Log for Queue {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= self.level
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let event = Message::Event {
            level: record.level(),
            origin: origin(record.target()),
            text: one_line(&record.args().to_string()),
        };
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) =
            self.sender.try_send(event)
        {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn flush(&self) {}
}

fn start_thread(
    printer: impl Log + 'static,
    level: LevelFilter,
) -> io::Result<(Sender<Message>, Queue)> {
    let (queue, events) = bounded(QUEUED_MAX);
    let lost = Arc::new(AtomicU64::new(0));
    let logger = Queue {
        sender: queue.clone(),
        level,
        lost: Arc::clone(&lost),
    };
    thread::start("event-log", move || run(&events, &lost, &printer))?;
    Ok((queue, logger))
}

fn run(events: &Receiver<Message>, lost: &AtomicU64, printer: &dyn Log) {
    let mut reported = Instant::now();
    for message in events {
        match message {
            Message::Event {
                level,
                origin,
                text,
            } => {
                if !print(printer, level, &origin, &text) {
                    lost.fetch_add(1, Ordering::Relaxed);
                }
            }
            Message::Flush(done) => {
                // Who asked may have stopped waiting.
                let _ = done.try_send(());
            }
        }
        // Room again: the queue is empty, or it has been a while.
        let is_room = events.is_empty() || reported.elapsed() >= REPORT_INTERVAL;
        if is_room && lost.load(Ordering::Relaxed) > 0 {
            report(lost, printer);
            reported = Instant::now();
        }
    }
}

fn report(lost: &AtomicU64, printer: &dyn Log) {
    let count = lost.swap(0, Ordering::Relaxed);
    let text = format!("{count} events are lost: standard error did not take them");
    if !print(printer, Level::Warn, &origin(module_path!()), &text) {
        lost.fetch_add(count, Ordering::Relaxed);
    }
}

/// Prints one event; false when it could not be printed.
fn print(printer: &dyn Log, level: Level, origin: &str, text: &str) -> bool {
    PRINTING.set(true);
    let outcome = panic::catch_unwind(AssertUnwindSafe(|| {
        printer.log(
            &Record::builder()
                .level(level)
                .target(origin)
                .args(format_args!("{text}"))
                .build(),
        );
    }));
    PRINTING.set(false);
    outcome.is_ok()
}

fn origin(target: &str) -> String {
    let mut time = Vec::with_capacity(24);
    Clock::new().write(since_epoch(), &mut time);
    format!("{} {target}", String::from_utf8_lossy(&time))
}

/// The text without anything that could end the line, and not too long.
fn one_line(text: &str) -> String {
    let mut text = printable(text);
    if text.len() > TEXT_BYTES_MAX {
        let mut end = TEXT_BYTES_MAX;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push_str("...");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// A printer that waits for a permit before each line, and panics when told to.
    struct Printer {
        permits: Receiver<()>,
        lines: Arc<Mutex<Vec<String>>>,
    }

    impl Log for Printer {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }

        fn log(&self, record: &Record<'_>) {
            let _ = self.permits.recv();
            let text = record.args().to_string();
            assert!(!text.contains("closed"), "failed printing to stderr");
            let line = format!("{} {text}", record.level());
            self.lines.lock().unwrap().push(line);
        }

        fn flush(&self) {}
    }

    struct Fixture {
        permits: Option<Sender<()>>,
        lines: Arc<Mutex<Vec<String>>>,
        event_log: EventLog,
        logger: Queue,
    }

    impl Fixture {
        fn new(level: LevelFilter) -> Fixture {
            let (permits, receiver) = bounded(100_000);
            let lines = Arc::new(Mutex::new(Vec::new()));
            let printer = Printer {
                permits: receiver,
                lines: Arc::clone(&lines),
            };
            let (queue, logger) = start_thread(printer, level).unwrap();
            Fixture {
                permits: Some(permits),
                lines,
                event_log: EventLog { queue },
                logger,
            }
        }

        /// From now on lines are printed without waiting.
        fn unblock(&mut self) {
            self.permits = None;
        }

        fn log(&self, level: Level, text: &str) {
            self.logger.log(
                &Record::builder()
                    .level(level)
                    .target("t")
                    .args(format_args!("{text}"))
                    .build(),
            );
        }

        fn lines(&self) -> Vec<String> {
            assert!(self.event_log.flush(Duration::from_secs(10)));
            self.lines.lock().unwrap().clone()
        }
    }

    #[test]
    fn events_are_printed_in_order_and_by_level() {
        let mut fixture = Fixture::new(LevelFilter::Info);
        fixture.unblock();
        fixture.log(Level::Info, "one");
        fixture.log(Level::Debug, "unseen");
        fixture.log(Level::Error, "two");
        assert_eq!(fixture.lines(), ["INFO one", "ERROR two"]);
    }

    #[test]
    fn an_event_is_one_line_of_bounded_length() {
        let mut fixture = Fixture::new(LevelFilter::Info);
        fixture.unblock();
        fixture.log(Level::Info, "a\nERROR forged\r\0");
        fixture.log(Level::Info, &"é".repeat(5000));
        let lines = fixture.lines();
        assert_eq!(lines[0], "INFO a\\nERROR forged\\r\\0");
        assert!(lines[1].ends_with("é..."));
        assert!(lines[1].len() < TEXT_BYTES_MAX + 10);
    }

    #[test]
    fn a_pipe_that_takes_nothing_blocks_nobody_and_its_losses_are_counted_once() {
        let mut fixture = Fixture::new(LevelFilter::Info);
        for number in 0..QUEUED_MAX + 101 {
            fixture.log(Level::Info, &number.to_string());
        }
        assert!(!fixture.event_log.flush(Duration::from_millis(10)));
        fixture.unblock();
        // One line may or may not have left the queue for the printer before it was full.
        let lines = loop {
            let lines = fixture.lines();
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
            .split_whitespace()
            .nth(1)
            .and_then(|count| count.parse().ok())
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
            let lines = fixture.lines();
            if lines.len() == 2 {
                break lines;
            }
        };
        assert!(lines.contains(&"INFO open again".to_owned()));
        assert!(
            lines.contains(&"WARN 1 events are lost: standard error did not take them".to_owned())
        );
    }
}
