//! The command `rondo`: command line, logger, exit status. Everything else is the library's.

#![forbid(unsafe_code)]

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use log::LevelFilter;
use rondo::cli::{self, Command, HELP, Source, VERSION};
use rondo::config::{Config, ConfigError, descriptor_limit, summary, warnings};
use rondo::log::events::EventLog;
use rondo::pool::explain::explain;
use rondo::{demo, server};

/// It cannot run, or was stopped twice.
const CANNOT_RUN: u8 = 1;
/// The command line or the configuration is wrong.
const WRONG_INPUT: u8 = 2;

/// How long a stop waits for the last events to be printed.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let command = match cli::parse(std::env::args_os().skip(1)) {
        Ok(command) => command,
        Err(error) => return fail(WRONG_INPUT, &error),
    };
    match command {
        Command::Help => print(HELP),
        Command::Version => print(VERSION),
        Command::Check { source, explain } => match configuration(&source) {
            Ok(config) => print(&check(&source, &config, explain.unwrap_or(0))),
            Err(error) => fail(WRONG_INPUT, &error),
        },
        Command::Run { source, log } => match configuration(&source) {
            Ok(config) => with_event_log(log, || run(config)),
            Err(error) => fail(WRONG_INPUT, &error),
        },
        Command::Demo { log } => with_event_log(log, demo),
    }
}

/// What would run, and the next `choices` choices of backend.
fn check(source: &Source, config: &Config, choices: usize) -> String {
    let mut text = format!("{source}: configuration is valid\n");
    for warning in warnings(config) {
        text.push_str("warning: ");
        text.push_str(&warning);
        text.push('\n');
    }
    text.push_str(&summary(config, descriptor_limit()));
    for line in explain(
        &config.backends,
        &config.balance,
        &config.health_check,
        choices,
    ) {
        text.push_str(&line);
        text.push('\n');
    }
    text
}

fn configuration(source: &Source) -> Result<Config, ConfigError> {
    match source {
        Source::File(path) => Config::read(path),
        Source::Flags { backends, port } => Config::from_flags(backends, port),
    }
}

fn with_event_log(level: LevelFilter, work: impl FnOnce() -> ExitCode) -> ExitCode {
    let event_log = match EventLog::start(level) {
        Ok(event_log) => event_log,
        Err(error) => return fail(CANNOT_RUN, &format!("cannot start the event log: {error}")),
    };
    let status = work();
    event_log.flush(FLUSH_TIMEOUT);
    status
}

fn run(config: Config) -> ExitCode {
    for warning in warnings(&config) {
        log::warn!("warning: {warning}");
    }
    match server::run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(CANNOT_RUN, &error),
    }
}

fn demo() -> ExitCode {
    match demo::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(CANNOT_RUN, &error),
    }
}

/// Prints to standard output. A reader that has gone away needs no text: not an error.
fn print(text: &str) -> ExitCode {
    let mut stdout = io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes());
    let _ = stdout.flush();
    ExitCode::SUCCESS
}

/// One line on standard error, closed or not.
fn fail(status: u8, error: &dyn std::fmt::Display) -> ExitCode {
    let _ = writeln!(io::stderr(), "rondo: {error}");
    ExitCode::from(status)
}
