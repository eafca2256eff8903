//! Thread: turns signals into commands to the main thread, logs the others, and reaps orphans as
//! PID 1.
//!
//! Most of these signals would end a process by default; none ends this one silently.

use std::io;
use std::process;

use crossbeam_channel::{Receiver, unbounded};
use rustix::process::{WaitOptions, wait};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;

use crate::net::thread;

/// A command to the main thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Drain and end; the second time, end at once.
    Stop,
    /// Read the configuration again.
    Reload,
}

/// From now on, each signal that has a meaning becomes a command.
pub(crate) fn watch() -> io::Result<Receiver<Command>> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGUSR1, SIGUSR2])?;
    let is_init = process::id() == 1;
    if is_init {
        signals.add_signal(SIGCHLD)?;
    }
    let (sender, receiver) = unbounded();
    let pass_on = move || {
        if is_init {
            // Children that ended before the signal was watched.
            reap_orphans();
        }
        for signal in signals.forever() {
            match signal {
                SIGUSR1 => {
                    log::info!(
                        "SIGUSR1 ignored: there is no log file to reopen, logs go to standard output and error"
                    );
                }
                SIGUSR2 => log::warn!(
                    "SIGUSR2 ignored: this version cannot replace its program while it runs"
                ),
                SIGCHLD => reap_orphans(),
                _ => {
                    let command = if signal == SIGHUP {
                        Command::Reload
                    } else {
                        Command::Stop
                    };
                    if sender.send(command).is_err() {
                        return;
                    }
                }
            }
        }
    };
    thread::start("signals", pass_on)?;
    Ok(receiver)
}

/// Takes the exit status of every child that has ended. As PID 1 of a container this process
/// inherits all orphans, and only it can free their entries in the process table. It starts no
/// child of its own whose status might be taken from a waiter.
fn reap_orphans() {
    // An error means that there are no children.
    while let Ok(Some((pid, _))) = wait(WaitOptions::NOHANG) {
        log::debug!("reaped the orphaned process {}", pid.as_raw_nonzero());
    }
}
