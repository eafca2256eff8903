//! Thread: turns signals into messages to the main thread, says what the others do, and reaps orphans as PID 1.
//!
//! Most of these signals end a process by default; none of them ends this one without a word.

use std::io;
use std::process;

use crossbeam_channel::{Receiver, unbounded};
use rustix::process::{WaitOptions, wait};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;

use crate::net::thread;

/// What the main thread is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Finish what is in flight and end; asked a second time, end at once.
    Stop,
    /// Read the configuration again.
    Reload,
}

/// A command for each signal that has one, from now on.
pub(crate) fn watch() -> io::Result<Receiver<Command>> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGUSR1, SIGUSR2])?;
    let is_init = process::id() == 1;
    if is_init {
        signals.add_signal(SIGCHLD)?;
    }
    let (sender, receiver) = unbounded();
    let pass_on = move || {
        if is_init {
            // Those that ended before the signal was watched.
            reap_orphans();
        }
        for signal in signals.forever() {
            match signal {
                SIGUSR1 => {
                    log::info!("SIGUSR1: there is nothing to reopen, logs go to standard streams");
                }
                SIGUSR2 => log::warn!(
                    "SIGUSR2: this version does not replace its program while it runs; nothing is done"
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

/// Takes the exit status of every child that has ended. As PID 1 of a container this process inherits the orphans of
/// all others, and only it can free their entries in the process table. It starts no child of its own there, whose
/// status could be taken from who waits for it.
fn reap_orphans() {
    // An error says that there are no children.
    while let Ok(Some((pid, _))) = wait(WaitOptions::NOHANG) {
        log::debug!("reaped the orphaned process {}", pid.as_raw_nonzero());
    }
}
