//! Thread: turns signals into messages to the main thread.

use std::io;

use crossbeam_channel::{Receiver, unbounded};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::net::thread;

/// A message for each SIGTERM and SIGINT from now on.
pub(crate) fn watch() -> io::Result<Receiver<()>> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    let (sender, receiver) = unbounded();
    let pass_on = move || {
        for signal in signals.forever() {
            if signal == SIGHUP {
                // By default it would end the process.
                log::warn!(
                    "SIGHUP: this version does not reload; restart to apply a changed configuration"
                );
            } else if sender.send(()).is_err() {
                return;
            }
        }
    };
    thread::start("signals", pass_on)?;
    Ok(receiver)
}
