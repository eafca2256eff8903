//! Sockets, waiting and handing over: what knows no HTTP.
//!
//! `connection` is a socket with its buffers, `poller` the one place where a worker waits, `clock` and `timers` its
//! time, `mailbox` and `waker` how a connection reaches it, `admission` how many may be open. `slab`, `idle_list` and
//! `pipes` are a worker's tables; `proxy_protocol` is a header in front of everything, `errno` sorts the kernel's
//! errors, `lock` takes a lock.

pub mod admission;
pub mod clock;
pub mod connection;
pub mod errno;
pub mod idle_list;
pub mod lock;
pub mod mailbox;
pub mod pipes;
pub mod poller;
pub mod proxy_protocol;
pub mod slab;
pub mod timers;
pub mod waker;
