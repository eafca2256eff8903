//! The command `rondo`: command line, logger, exit status. Everything else is the library's.
//!
//! Read next: `lib.rs`, the map.

#![forbid(unsafe_code)]

use std::fmt::Display;
use std::io::{self, Write as _};
use std::process::ExitCode;

use log::LevelFilter;
use rondo::cli::{self, Command, VERSION};
use rondo::config::{
    Config, Source, descriptor_budget, descriptor_limit, schema, summary, warnings,
};
use rondo::health_request::{self, HealthError};
use rondo::log::events;
use rondo::memory::MemoryBound;
use rondo::pool::explain::explain;
#[cfg(feature = "simulate")]
use rondo::simulate::Simulation;
use rondo::{reload, server};

/// It cannot run, was stopped by a second signal, or `--health` got no good answer.
const CANNOT_RUN: u8 = 1;
/// The command line or the configuration is wrong.
const WRONG_INPUT: u8 = 2;

fn main() -> ExitCode {
    let command = match cli::parse(std::env::args_os().skip(1)) {
        Ok(command) => command,
        Err(error) => return fail(WRONG_INPUT, &error),
    };
    match command {
        Command::Help => print(&cli::help()),
        Command::Version => print(VERSION),
        Command::Schema => print(&schema()),
        Command::Health { url } => match health_request::ask(&url) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error @ HealthError::Url(_)) => fail(WRONG_INPUT, &error),
            Err(error) => fail(CANNOT_RUN, &error),
        },
        Command::Check {
            source,
            explain,
            against,
        } => {
            let old = against.map(|file| Config::read(&file)).transpose();
            match old.and_then(|old| Ok((old, source.read()?))) {
                Ok((old, config)) => {
                    let mut text = check(&source, &config, explain.unwrap_or(0));
                    text.extend(old.map(|old| reload::preview(&old, &config)));
                    print(&text)
                }
                Err(error) => fail(WRONG_INPUT, &error),
            }
        }
        #[cfg(feature = "simulate")]
        Command::Simulate {
            scenario,
            config,
            json,
        } => match Simulation::read(scenario.as_deref(), config.as_deref()) {
            Ok(mut simulation) => print(&simulation.play(json)),
            Err(error) => fail(WRONG_INPUT, &error),
        },
        Command::Run { source, log } => match source.read() {
            Ok(config) => with_event_log(log, || run(&source, config)),
            Err(error) => fail(WRONG_INPUT, &error),
        },
        #[cfg(feature = "demo")]
        Command::Demo { log } => with_event_log(log, rondo::demo::run),
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
    let limit = descriptor_limit();
    let memory = MemoryBound::of(config, &descriptor_budget(limit, config));
    text.push_str(&summary(config, limit, &memory.summary()));
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

fn run(source: &Source, config: Config) -> Result<(), server::StartError> {
    for warning in warnings(&config) {
        log::warn!("{warning}");
    }
    server::run(config, source)
}

fn with_event_log<E: Display>(
    level: LevelFilter,
    work: impl FnOnce() -> Result<(), E>,
) -> ExitCode {
    if let Err(error) = events::start(level) {
        return fail(CANNOT_RUN, &format!("cannot start the event log: {error}"));
    }
    let outcome = work();
    // Events first: they explain the error.
    log::logger().flush();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(CANNOT_RUN, &error),
    }
}

/// Prints to standard output. A closed pipe is no error: its reader has seen enough.
fn print(text: &str) -> ExitCode {
    let mut stdout = io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes());
    let _ = stdout.flush();
    ExitCode::SUCCESS
}

/// Writes one line to standard error, which may be closed.
fn fail(status: u8, error: &dyn Display) -> ExitCode {
    // In one write, so that the line stays whole where processes share the output.
    let _ = io::stderr().write_all(format!("rondo: {error}\n").as_bytes());
    ExitCode::from(status)
}
