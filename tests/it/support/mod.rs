//! What every test stands on: the tools of `tests/kit`, and the program under test.

pub(crate) mod admin;
pub(crate) mod load;
pub(crate) mod proxy;

pub(crate) use kit::backend::{self, Addressed, Backend, Holding};
pub(crate) use kit::client::{self, Client};
pub(crate) use kit::dead::{Refusing, Unreachable};
pub(crate) use kit::origin::Origin;
pub(crate) use kit::wire::{End, Request, Response, Wire};
pub(crate) use kit::{EDGE_LENGTHS, PATIENCE, chunked, eventually, pattern};
pub(crate) use proxy::{Finished, Proxy, run};
