//! Sockets, waiting and handing over: what knows no HTTP.
//!
//! `connection` is a socket with its buffers, `poller` the one place where a worker waits, `clock`
//! and `timers` its time, `mailbox` and `waker` how a connection reaches it, `admission` how many
//! may be open, `published` how a thread learns of a change, `sync` what these are made of. `slab`,
//! `idle_list` and `pipes` are a worker's tables, `room` is how a buffer grows; `proxy_protocol` is
//! a header in front of everything, `errno` sorts the kernel's errors, `lock` takes a lock,
//! `thread` starts a thread, `bell` wakes one, `atomic` is what a small processor lacks.

pub(crate) mod admission;
pub(crate) mod atomic;
pub(crate) mod bell;
pub(crate) mod clock;
pub(crate) mod connection;
pub(crate) mod errno;
pub(crate) mod idle_list;
pub(crate) mod lock;
pub(crate) mod mailbox;
pub(crate) mod pipes;
pub(crate) mod poller;
pub(crate) mod proxy_protocol;
pub(crate) mod published;
pub(crate) mod room;
pub(crate) mod slab;
pub(crate) mod sync;
pub(crate) mod syscalls;
pub(crate) mod thread;
pub(crate) mod timers;
pub(crate) mod waker;
