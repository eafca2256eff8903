//! rondo: a round-robin HTTP/1.1 load balancer for Linux. One small binary, a fixed pool of
//! threads, no async runtime.
//!
//! # Threads
//!
//! A thread kind is a file at the top with its loop; a folder is a part that holds no thread.
//!
//! | thread | file | what it does |
//! |---|---|---|
//! | main | `main.rs`, [`server`] | reads the configuration, starts the others, does what it is told (stop, reload) |
//! | listener | [`listener`] | accepts connections and hands each to the worker with the fewest |
//! | worker-N | [`worker`] | carries exchanges: each owns its connections and waits in one poller |
//! | checker | [`checker`] | checks every backend, all at once, and tells the [`pool`] |
//! | resolver, lookup | [`resolver`] | have the backends' names looked up, so that no other thread waits for a name server |
//! | access-log, event-log | [`log`] | write what the others put into bounded queues |
//! | signals | [`signals`] | turns a signal into a command to the main thread, and reaps orphans as PID 1 |
//!
//! # Parts
//!
//! | folder | what it holds |
//! |---|---|
//! | [`exchange`] | the spine: one client connection, its exchange, and the backend connection that carries it |
//! | [`http`] | HTTP/1.1 as bytes in and values out |
//! | [`pool`] | the backends, and which of them takes a request |
//! | [`checks`] | the kinds of health check |
//! | [`config`] | the configuration file, one file a section |
//! | [`net`] | sockets, waiting, handing over; knows no HTTP |
//! | [`log`] | access lines and events |
//! | [`text`] | escaping, numbers, times, words |
//!
//! What all of it takes at the most is added up in [`memory`].
//!
//! # How it changes while it runs
//!
//! All that can change stands in a [`live::Snapshot`], and nothing in that changes: the main thread publishes the next one,
//! and each thread goes by it from its next round on. Backends are known by their identity ([`pool::state`]), which
//! outlives snapshots; an exchange keeps the snapshot with which it began, and chooses in the newest. [`reload`] compares
//! two configurations.
//!
//! # The way of a request
//!
//! [`listener`] accepts, [`net::mailbox`] hands over, [`worker`] takes turns, [`exchange`] is the spine:
//! `request_head` reads it ([`http`] understands it), `connecting` asks the [`pool`] for a backend, `sending` writes it,
//! `forwarding` runs one [`exchange::relay`] in each direction between two [`net::connection`]s. When something
//! fails, [`exchange::failure`] says what follows, and `ending` does it.
//!
//! # What always holds
//!
//! - A socket has one owner, and an exchange belongs to one thread. What threads share is in
//!   [`live`] and [`pool`], behind short locks under which nothing is logged, allocated or sent; what they
//!   tell each other goes through [`net::mailbox`], [`net::waker`] and the two logs.
//! - Nothing on a worker's path blocks but the one wait in [`net::poller`], and for a moment the access log where it has
//!   room and the worker is faster ([`log::access`]). Every wait for a peer has a deadline.
//! - The received head is never edited: what goes out is written from what was understood.
//! - Everything that grows has a bound, named where it is defined.
//! - No panic is reachable from the network; one in an exchange would cost that connection, one elsewhere ends the
//!   process ([`net::thread`], which starts every thread).
//!
//! # What makes it fast
//!
//! `scripts/bench` measures it; the reasons stand where the code is.
//!
//! - Four system calls carry a small request through: two reads, two writes ([`net::connection`]). Sockets are registered once,
//!   edge-triggered ([`net::poller`]), and one wait brings the events of all of them.
//! - Long bodies never enter the process ([`exchange::relay`], [`net::pipes`]); a head and the beginning of its body leave in one write.
//! - No allocation on the way of a request without a body: buffers are the worker's or are used again
//!   ([`exchange`]), idle connections have none.
//! - Deadlines cost nothing to renew ([`net::timers`]), ids and log lines no system call and no formatter.
//! - In a rush the [`listener`] takes connections many at a time. (It was planned to accept whatever is there at once:
//!   then it was woken for every single one, which cost a quarter of the CPU time of connections of one request.)
//!
//! # Layers
//!
//! Imports point one way (a test holds them to it), from the bottom: `text`, `net` < `http`, `log` < `pool` < `checks`,
//! `config` < `cli`, `live` < `exchange` < `worker`, `listener`, `checker`, `reload`, `resolver`, `signals` < `memory`, `server` < `demo`,
//! `health_request` < `main`.

#![forbid(unsafe_code)]

// What the command, the tests and the fuzz targets need is public; the compiler finds what else is dead.
pub mod cli;
pub mod config;
pub mod demo;
pub mod guide;
pub mod health_request;
#[doc(hidden)]
pub mod http;
pub mod log;
pub mod memory;
#[doc(hidden)]
pub mod pool;
pub mod reload;
pub mod server;

mod checker;
mod checks;
mod exchange;
mod listener;
mod live;
mod net;
mod resolver;
mod signals;
mod text;
mod worker;
