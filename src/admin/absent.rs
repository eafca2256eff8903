//! What stands in for the admin interface in a build without it: nothing. `config/admin.rs` refuses its address.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::ask::Ask;
use crate::config::Config;
use crate::live::Live;

/// No admin interface.
#[derive(Debug, Default)]
pub(crate) struct Admin;

impl Admin {
    #[allow(clippy::unused_self)] // as the other has it
    pub(crate) fn prepare(
        &self,
        _: Option<&Config>,
        _: &Config,
        _: &Arc<Live>,
    ) -> Result<(), (SocketAddr, io::Error)> {
        Ok(())
    }

    #[allow(clippy::unused_self)]
    pub(crate) fn go_by(&self, (): ()) {}

    /// So the compiler leaves out what would be done.
    #[allow(clippy::unused_self)]
    pub(crate) fn asks(&self, _: &Live) -> [Ask; 0] {
        []
    }

    #[allow(clippy::unused_self)]
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        None
    }
}
