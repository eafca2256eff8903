//! rondo: a round-robin HTTP/1.1 load balancer.

#![forbid(unsafe_code)]

pub mod bell;
pub mod checker;
pub mod decisions;
pub mod pool;
pub mod resolver;
