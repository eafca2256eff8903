//! rondo: a round-robin HTTP/1.1 load balancer.

#![forbid(unsafe_code)]

pub mod access_log;
pub mod command_line;
pub mod config;
pub mod document;
pub mod escape;
pub mod event_log;
pub mod pool;
pub mod timestamp;
