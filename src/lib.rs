//! rondo: a round-robin HTTP/1.1 load balancer.

#![forbid(unsafe_code)]

pub mod config;
pub mod document;
pub mod pool;
