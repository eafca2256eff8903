//! What stands in for the admin interface in a build without it: nothing. `config/admin.rs` refuses its address.

#![allow(
    clippy::unused_self,
    clippy::unnecessary_wraps,
    clippy::needless_pass_by_value,
    reason = "as the one that is absent has it"
)]

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::ask::Ask;
use crate::config::Config;
use crate::live::Live;

/// What it takes.
pub(crate) fn bytes_max(_: &Config) -> usize {
    0
}

/// No admin interface.
#[derive(Debug, Default)]
pub(crate) struct Admin(());

pub(crate) struct Prepared;

impl Admin {
    /// So the compiler leaves out what would be done.
    pub(crate) fn asks(&self, _: &Live) -> [Ask; 0] {
        []
    }

    pub(crate) fn prepare(
        &self,
        _: Option<&Config>,
        _: &Config,
        _: &Arc<Live>,
    ) -> Result<Prepared, (SocketAddr, io::Error)> {
        Ok(Prepared)
    }

    pub(crate) fn go_by(&self, _: Prepared) {}

    pub(crate) fn address(&self) -> Option<SocketAddr> {
        None
    }
}
