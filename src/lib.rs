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
//! | checker | [`checker`] | probes every backend, all at once |
//! | resolver | [`resolver`] | looks names up, in the background |
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
//!   [`runtime`] and [`pool`], behind short locks under which nothing is logged, allocated or sent.
//! - Nothing on a worker's path blocks but the one wait in [`poller`]. Every wait has a deadline.
//! - The received head is never edited: what goes out is written anew from what was understood.
//! - Everything that grows has a bound, named where it is defined.
//! - No panic is reachable from the network; one that happens all the same costs one connection.
//!
//! # Layers
//!
//! Imports point one way (a test holds them to it), from the bottom: `escape`, `plain_text`, `timestamp`, `slab`,
//! `idle_list`, `document`, `http`, `proxy_protocol` < `connection`, `poller`, `pipes`, `mailbox`, `bell`, `decisions`,
//! `access_log`, `event_log` < `pool` < `config`, `failure` < `runtime` < `relay` < `exchange` <
//! `worker`, `listener`, `checker`, `resolver` < `server` < `demo`.

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
