//! rondo: a round-robin HTTP/1.1 load balancer for Linux. One small binary, a fixed pool of
//! threads, no async runtime.
//!
//! # The core in an evening
//!
//! These files carry a request, in the order in which to read them: about 7,100 lines with their
//! comments and without their tests. Each names the next one at its head; the other files are
//! edges, to be read when needed.
//!
//! | file | what it holds |
//! |---|---|
//! | `server.rs` | starts the threads and stops them |
//! | `live.rs` | the snapshot by which all threads go, and how another takes its place |
//! | `listener.rs` | accepts connections |
//! | `net/mailbox.rs` | hands them to a worker |
//! | `worker.rs` | the worker's loop |
//! | `net/connection.rs` | a socket with its buffers |
//! | `exchange/mod.rs` | the spine: one client connection and the exchange on it |
//! | `exchange/state.rs` | what an exchange holds in each stage |
//! | `exchange/request_head.rs` | reads the request's head |
//! | `exchange/connecting.rs` | finds a backend and a connection to it |
//! | `pool/mod.rs` | chooses a backend |
//! | `pool/chooser/mod.rs` | keeps the backends in order |
//! | `pool/chooser/turns.rs` | round robin |
//! | `exchange/sending.rs` | sends the request |
//! | `exchange/forwarding.rs` | forwards both bodies and the response's head |
//! | `exchange/relay.rs` | moves a body between two connections |
//! | `exchange/failure.rs` | what follows when something fails |
//! | `exchange/ending.rs` | ends the exchange |
//! | `exchange/record.rs` | logs it |
//!
//! # Threads
//!
//! Each kind of thread is a file at the top with its loop; a folder is a part that holds no thread.
//! The one exception is `admin`, a folder with its thread.
//!
//! | thread | file | what it does |
//! |---|---|---|
//! | main | `main.rs`, [`server`] | reads the configuration, starts the others, acts on commands (stop, reload) |
//! | listener | [`listener`] | accepts connections and hands each to the worker with the fewest |
//! | worker-N | [`worker`] | carries exchanges: each owns its connections and waits in one poller |
//! | checker | [`checker`] | checks every backend, all at once, and reports to the [`pool`] |
//! | resolver, lookup | [`resolver`] | have the backends' names looked up, so that no other thread waits for a name server |
//! | admin | `admin/mod.rs` | serves the admin interface |
//! | discovery | [`discovery`] | looks at the list of backends that other programs write |
//! | access-log, event-log | [`log`] | write the contents of bounded queues |
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
//! | `admin` | the admin interface: its page, its documents, who may ask for what |
//! | [`net`] | sockets, waiting, handing over; knows no HTTP |
//! | [`log`] | access lines and events |
//! | [`metrics`] | what the counters say: the last minutes, and the text for Prometheus |
//! | [`traffic`] | what the workers count |
//! | `simulate` | a load played against the pool on a clock of its own |
//! | [`text`] | escaping, numbers, times, words |
//!
//! The most memory that all of it can take is added up in [`memory`].
//!
//! # How it changes while it runs
//!
//! All that can change is in a [`live::Snapshot`], and a snapshot never changes: the main thread
//! publishes another one, and each thread takes it up at its next round. A backend has an identity
//! ([`pool::state`]) that outlives snapshots; an exchange keeps the snapshot with which it began,
//! but chooses a backend in the newest. [`reload`] compares two configurations.
//!
//! # What always holds
//!
//! - A socket has one owner, and an exchange belongs to one thread. Threads share [`live`] and
//!   [`pool`], behind short locks under which nothing is logged, allocated or sent; messages go
//!   through [`net::mailbox`], [`net::waker`] and the two logs.
//! - Nothing on a worker's path blocks but the one wait in [`net::poller`], and for a moment the
//!   access log, if its output has room and the worker is faster ([`log::access`]). Every wait for a
//!   peer has a deadline.
//! - The received head is never edited: what is sent is written from what was understood.
//! - Everything that grows has a bound, named where it is defined.
//! - No panic is reachable from the network; one in an exchange would cost that connection, one
//!   elsewhere ends the process ([`net::thread`], which starts every thread).
//!
//! # What makes it fast
//!
//! `scripts/bench` measures it; the reasons stand beside the code.
//!
//! - A small request takes four system calls: two reads, two writes ([`net::connection`]). Sockets
//!   are registered once, edge-triggered ([`net::poller`]), and one wait returns the events of all.
//! - Long bodies never enter the process ([`exchange::relay`], [`net::pipes`]); a head and the
//!   beginning of its body are sent in one write.
//! - A request without a body allocates nothing: buffers are the worker's or are reused
//!   ([`exchange`]), idle connections have none.
//! - Renewing a deadline costs nothing ([`net::timers`]); ids and log lines cost no system call and
//!   no formatter.
//! - In a rush the [`listener`] accepts many connections at a time.
//!
//! # Layers
//!
//! Imports point one way, which a test enforces; from the bottom: `text`, `net` < `http`, `log`,
//! `traffic` < `pool` < `ask`, `checks`, `commands`, `config` < `cli`, `live` < `exchange` < `metrics` <
//! `worker`, `listener`, `checker`, `discovery`, `reload`, `resolver`, `signals`, `simulate` < `admin`
//! < `change`, `memory` < `server` < `demo`, `health_request` < `main`.

#![forbid(unsafe_code)]
// What the admin interface shows is noted in every build.
#![cfg_attr(not(feature = "admin"), allow(dead_code))]

// What the command, the tests and the fuzz targets need is public; the compiler finds what else is dead.
pub mod cli;
pub mod config;
#[cfg(feature = "demo")]
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
#[cfg(feature = "simulate")]
pub mod simulate;

#[cfg(feature = "admin")]
mod admin;
#[cfg(not(feature = "admin"))]
#[path = "admin/absent.rs"]
mod admin;
mod ask;
mod change;
mod checker;
mod checks;
mod commands;
mod discovery;
mod exchange;
mod listener;
mod live;
mod metrics;
mod net;
mod resolver;
mod signals;
mod text;
mod traffic;
mod worker;
