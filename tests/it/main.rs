//! rondo from outside: the real binary between raw clients and raw backends.
//!
//! One binary, one module for each feature, `support` and the package `tests/kit` for what they share. A test reads as a script: client does, backend
//! does, expect. Whatever these tests say about behaviour stands in the documentation's contract; where they disagree, one of
//! the two is wrong.

// Unwrapping is how a test fails.
#![allow(clippy::unwrap_used)]
// A table of cases is long and still one thing.
#![allow(clippy::too_many_lines)]

mod support;

mod access_log;
mod admin;
mod admin_changes;
mod admin_documents;
mod admission;
mod architecture;
mod balancing;
mod behind_a_proxy;
mod bodies;
mod broken_bodies;
mod checks;
mod command_line;
mod configuration;
mod configuration_mistakes;
mod corpus;
mod decisions;
mod demo;
mod discovery;
mod ejection;
mod event_log;
mod failover;
mod forwarding;
mod hand_over;
mod health;
mod health_request;
mod http10;
mod interim_and_expect;
mod keep_alive_and_pipelining;
mod lenient;
mod lifecycle;
mod limits_of_memory;
mod metrics;
mod names;
mod paused;
mod persistence;
mod properties;
mod proxy_protocol;
mod queue;
mod reasons;
mod regressions;
mod reload;
mod replies;
mod retries;
mod round_robin;
mod schema;
mod simulation;
mod stubborn_peers;
mod tcp_mode;
mod test_tools;
mod threads;
mod timeouts;
mod upgrade;
