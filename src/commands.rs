//! What the main thread is called for: commands, and news that it looks for elsewhere.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::net::bell::Bell;
use crate::net::lock::lock;
use crate::net::sync::Mutex;

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
    /// Gives the main thread a command. While one reload waits, or two stops, another would change
    /// nothing.
    pub fn send(&self, command: Command) {
        let most = match command {
            Command::Reload => 1,
            Command::Stop => 2,
        };
        let mut commands = lock(&self.0.commands);
        if commands.iter().filter(|it| **it == command).count() < most {
            commands.push_back(command);
        }
        drop(commands);
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
    fn no_more_commands_wait_than_the_main_thread_has_a_use_for() {
        let commands = Commands::default();
        for command in [Command::Reload, Command::Stop].into_iter().cycle().take(8) {
            commands.send(command);
        }
        let mut waiting = std::iter::from_fn(|| commands.next(Duration::ZERO));
        let expected = [Command::Reload, Command::Stop, Command::Stop];
        assert!(waiting.by_ref().eq(expected));
        commands.send(Command::Reload);
        assert_eq!(waiting.next(), Some(Command::Reload), "the first has begun");
    }

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
