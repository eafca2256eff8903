//! Thread: turns signals into commands to the main thread, logs the others, and reaps orphans as
//! PID 1.
//!
//! Most of these signals would end a process by default; none ends this one silently.

use std::io;
use std::process;

use rustix::process::{WaitOptions, wait};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;

use crate::commands::{Command, Commands};
use crate::net::thread;

/// From now on, each signal that has a meaning becomes a command.
pub(crate) fn watch() -> io::Result<Commands> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGUSR1, SIGUSR2])?;
    let is_init = process::id() == 1;
    if is_init {
        signals.add_signal(SIGCHLD)?;
    }
    let commands = Commands::default();
    let main_thread = commands.clone();
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
                SIGHUP => main_thread.send(Command::Reload),
                _ => main_thread.send(Command::Stop),
            }
        }
    };
    thread::start("signals", pass_on)?;
    Ok(commands)
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
