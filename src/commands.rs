//! What the main thread is called for: commands, and news that it looks for elsewhere.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::net::bell::Bell;
use crate::net::lock::lock;

/// A command to the main thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Drain and end; the second time, end at once.
    Stop,
    /// Read the configuration again.
    Reload,
}

/// The way to the main thread; all clones are the same one.
#[derive(Debug, Clone, Default)]
pub struct Commands(Arc<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    commands: Mutex<VecDeque<Command>>,
    bell: Bell,
}

impl Commands {
    /// Gives the main thread a command.
    pub fn send(&self, command: Command) {
        lock(&self.0.commands).push_back(command);
        self.call();
    }

    /// Lets the main thread look around.
    pub(crate) fn call(&self) {
        self.0.bell.ring();
    }

    /// The next command, if there is one. Otherwise it waits for one, for a call or for as long as `patience`.
    pub(crate) fn next(&self, patience: Duration) -> Option<Command> {
        let next = || lock(&self.0.commands).pop_front();
        next().or_else(|| {
            self.0.bell.wait(patience);
            next()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_come_in_their_order_and_a_call_ends_the_wait() {
        let commands = Commands::default();
        let long = Duration::from_secs(3600);
        commands.send(Command::Reload);
        commands.send(Command::Stop);
        assert_eq!(commands.next(long), Some(Command::Reload));
        assert_eq!(commands.next(long), Some(Command::Stop));
        assert_eq!(commands.next(long), None, "they rang");
        commands.clone().call();
        assert_eq!(commands.next(long), None);
        assert_eq!(commands.next(Duration::ZERO), None);
    }
}
