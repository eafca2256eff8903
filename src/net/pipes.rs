//! A worker's pipes, through which `splice` moves bodies that never enter this process.
//!
//! Read next: `exchange/relay.rs`, which uses them.

use std::os::fd::OwnedFd;

use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};

/// The most pipes that one worker keeps open.
pub(crate) const PIPES_MAX: usize = 32;

/// The capacity that a pipe is asked to have. The kernel may give less.
pub(crate) const PIPE_BYTES: usize = 256 * 1024;

/// A pipe between two splices.
#[derive(Debug)]
pub(crate) struct Pipe {
    /// Where bytes go in.
    pub into: OwnedFd,
    /// Where they come out.
    pub out_of: OwnedFd,
    /// Bytes in it.
    pub holds: usize,
    /// Bytes that it can hold.
    pub bytes_max: usize,
}

/// A worker's pipes: opened when first needed, used again when empty, bounded in number.
#[derive(Debug)]
pub(crate) struct Pipes {
    spare: Vec<Pipe>,
    lent: usize,
    max: usize,
}

impl Default for Pipes {
    fn default() -> Self {
        Self::new(PIPES_MAX)
    }
}

impl Pipes {
    /// At most `max` pipes.
    pub(crate) fn new(max: usize) -> Self {
        Self {
            spare: Vec::new(),
            lent: 0,
            max,
        }
    }

    /// At most `max` from now on. Those that are in use stay open until they are given back.
    pub(crate) fn set_max(&mut self, max: usize) {
        self.max = max;
        self.spare.truncate(max);
    }

    #[cfg(test)]
    pub(crate) fn lent(&self) -> usize {
        self.lent
    }

    /// An empty pipe, unless all are in use or the kernel refuses one: the body is copied then.
    pub(crate) fn take(&mut self) -> Option<Pipe> {
        if self.lent >= self.max {
            return None;
        }
        let pipe = self.spare.pop().or_else(Self::open)?;
        self.lent += 1;
        Some(pipe)
    }

    fn open() -> Option<Pipe> {
        let (out_of, into) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
        // Above the user's soft limit for pipes the kernel refuses; 16 pages are always granted.
        let bytes_max = fcntl_setpipe_size(&into, PIPE_BYTES).unwrap_or(16 * 4096);
        Some(Pipe {
            into,
            out_of,
            holds: 0,
            bytes_max,
        })
    }

    /// Takes a pipe back. One with bytes in it is closed: they belong to a body that broke off.
    pub(crate) fn put_back(&mut self, pipe: Pipe) {
        self.lent -= 1;
        if pipe.holds == 0 && self.spare.len() + self.lent < self.max {
            self.spare.push(pipe);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_pipes_are_lent_than_there_may_be_and_a_full_one_is_not_used_again() {
        let mut pipes = Pipes::default();
        let mut lent: Vec<Pipe> = std::iter::from_fn(|| pipes.take()).collect();
        assert_eq!(lent.len(), PIPES_MAX);
        lent[0].holds = 1;
        for pipe in lent {
            pipes.put_back(pipe);
        }
        assert_eq!((pipes.lent, pipes.spare.len()), (0, PIPES_MAX - 1));
    }
}
