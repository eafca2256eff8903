//! What starting takes: the workers, the limits of the system, and why the balancer cannot run.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use log::Level;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::checks::probe::may_send_echoes;
use crate::config::{Config, DescriptorBudget};
use crate::live::{Follower, Live, Running};
use crate::log::access::AccessLog;
use crate::net::mailbox::{MailboxSender, mailbox};
use crate::net::poller::Poller;
use crate::net::thread;
use crate::pool::settings::{BackendSettings, Kind};
use crate::worker::Worker;

/// Why the balancer cannot run.
#[derive(Debug)]
pub enum StartError {
    /// A listening socket cannot be opened: the key that names its port, and its address.
    Listen(&'static str, SocketAddr, io::Error),
    /// A resource that every process needs, such as a thread or a descriptor, cannot be had.
    System(&'static str, io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Listen(key, address, error) if error.kind() == io::ErrorKind::AddrInUse => {
                write!(
                    f,
                    "cannot listen on {address}: the port is in use; choose another in {key}"
                )
            }
            StartError::Listen(_, address, error)
                if error.kind() == io::ErrorKind::PermissionDenied =>
            {
                write!(
                    f,
                    "cannot listen on {address}: ports below 1024 need CAP_NET_BIND_SERVICE"
                )
            }
            StartError::Listen(_, address, error) => {
                write!(f, "cannot listen on {address}: {error}")
            }
            StartError::System(what, error) => write!(f, "cannot start: {what}: {error}"),
        }
    }
}

impl std::error::Error for StartError {}

/// Starts the workers. Returns the senders of their mailboxes.
pub(crate) fn start_workers(
    count: usize,
    live: &Arc<Live>,
    access_log: &AccessLog,
) -> Result<Vec<MailboxSender>, StartError> {
    let mut senders = Vec::new();
    for number in 1..=count {
        let no_eventfd = |error| StartError::System("an eventfd", error);
        let (mailbox, sender) = mailbox().map_err(no_eventfd)?;
        let poller =
            Poller::new(&mailbox.waker).map_err(|error| StartError::System("a poller", error))?;
        let follower = Follower::new(live.clone(), mailbox.waker.clone());
        // Built on this thread: what the worker keeps then lies in no heap from which loads come
        // and go (`net/room.rs`).
        let mut worker = Worker::new(follower, mailbox, poller, access_log.writer());
        let running = Running::new(live.clone());
        start(&format!("worker-{number}"), move || {
            worker.run();
            // Dropped with this closure, after the worker.
            let _ = &running;
        })?;
        senders.push(sender);
    }
    Ok(senders)
}

/// Whether this process may make checks of the configured kind.
pub(crate) fn may_check(config: &Config) -> io::Result<()> {
    let is_checked = |backend: &BackendSettings| backend.check;
    if config.health_check.kind == Kind::Icmp && config.backends.iter().any(is_checked) {
        may_send_echoes()?;
    }
    Ok(())
}

pub(crate) fn warn_of_few_descriptors(limit: u64, budget: &DescriptorBudget, config: &Config) {
    let (clients, exchanges) = (budget.clients, budget.exchanges);
    let wanted = config.proxy.max_connections;
    if clients < wanted {
        // A default that cannot be met in full is no reason to warn.
        let level = if config.proxy.max_connections_is_set {
            Level::Warn
        } else {
            Level::Info
        };
        log::log!(
            level,
            "proxy.max_connections is {clients} instead of {wanted}: the limit of {limit} descriptors allows no more"
        );
    }
    if exchanges < clients {
        log::info!(
            "{exchanges} of {clients} client connections can be in an exchange at once: the limit of {limit} descriptors allows no more"
        );
    }
}

pub(crate) fn start(name: &str, run: impl FnMut() + Send + 'static) -> Result<(), StartError> {
    thread::start(name, run)
        .map(drop)
        .map_err(|error| StartError::System("a thread", error))
}

/// Raises the soft limit of open descriptors to the hard one and returns the limit now in force.
pub fn raise_descriptor_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum.unwrap_or(u64::MAX),
        Err(_) => limit.current.unwrap_or(u64::MAX),
    }
}
