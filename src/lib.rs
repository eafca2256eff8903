//! rondo: a round-robin HTTP/1.1 load balancer for Linux. One small binary, a fixed pool of
//! threads, no async runtime.
//!
//! # Threads
//!
//! | thread | file | what it does |
//! |---|---|---|
//! | main | `main.rs`, [`server`] | reads the configuration, starts the others, waits for a signal |
//! | listener | [`listener`] | accepts connections and hands each to the worker with the fewest |
//! | worker-N | [`worker`] | carries exchanges: each owns its connections and waits in one poller |
//! | checker | [`checker`] | checks every backend, all at once, and tells the [`pool`] |
//! | resolver | [`resolver`] | looks the backends' names up, so that nobody else waits for it |
//! | access-log, event-log | [`access_log`], [`event_log`] | write what the others put into bounded queues |
//! | signals | [`server`] | turns a signal into a message |
//!
//! # The way of a request
//!
//! [`listener`] accepts, [`mailbox`] hands over, [`worker`] takes turns, [`exchange`] is the spine:
//! `request_head` reads it ([`http`] understands it), `connecting` asks the [`pool`] for a backend,
//! `forwarding` runs one [`relay`] in each direction between two [`connection`]s. When something
//! fails, [`failure`] says what follows.
//!
//! # What always holds
//!
//! - A socket has one owner, and an exchange belongs to one thread. What threads share is in
//!   [`runtime`] and [`pool`], behind short locks under which nothing is logged, allocated or sent; what they
//!   tell each other goes through [`mailbox`], [`bell`] and the two logs.
//! - Nothing on a worker's path blocks but the one wait in [`poller`]. Every wait for a peer has a deadline.
//! - The received head is never edited: what goes out is written anew from what was understood.
//! - Everything that grows has a bound, named where it is defined.
//! - No panic is reachable from the network; one that happens all the same costs one connection.
//!
//! # What makes it fast
//!
//! `scripts/bench` measures it; the reasons stand where the code is.
//!
//! - Four system calls carry a small request through: two reads, two writes ([`connection`]). Sockets are registered once,
//!   edge-triggered ([`poller`]), and one wait brings the events of all of them.
//! - Long bodies never enter the process ([`relay`], [`pipes`]); a head and the beginning of its body leave in one write.
//! - No allocation on the way of a request without a body: buffers are the worker's or are used again
//!   ([`exchange`]), idle connections have none.
//! - Deadlines cost nothing to renew ([`poller::Alarms`]), ids and log lines no system call and no formatter.
//! - In a rush the [`listener`] takes connections many at a time. (It was planned to accept whatever is there at once:
//!   then it was woken for every single one, which cost a quarter of the CPU time of connections of one request.)
//!
//! # Layers
//!
//! Imports point one way (a test holds them to it), from the bottom: `escape`, `plain_text`, `slab`, `bell` <
//! `document`, `http`, `idle_list`, `proxy_protocol`, `timestamp` < `poller`, `decisions`, `access_log`, `event_log` < `connection`,
//! `mailbox`, `pipes` < `pool` < `config`, `failure` < `command_line`, `runtime` < `relay` < `exchange` < `worker`,
//! `listener`, `checker`, `resolver` < `server` < `demo` < `main`.

#![forbid(unsafe_code)]

pub mod access_log;
pub mod bell;
pub mod checker;
pub mod command_line;
pub mod config;
pub mod connection;
pub mod decisions;
pub mod demo;
pub mod document;
pub mod escape;
pub mod event_log;
pub mod exchange;
pub mod failure;
pub mod http;
pub mod idle_list;
pub mod listener;
pub mod mailbox;
pub mod pipes;
pub mod plain_text;
pub mod poller;
pub mod pool;
pub mod proxy_protocol;
pub mod relay;
pub mod resolver;
pub mod runtime;
pub mod server;
pub mod slab;
pub mod timestamp;
pub mod worker;
