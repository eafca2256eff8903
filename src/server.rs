//! Starts the threads and stops them.
//!
//! Read next: listener.rs, where a connection comes in.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::process;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};
use log::Level;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::checker::Checker;
use crate::config::{Config, DescriptorBudget, descriptor_budget};
use crate::listener;
use crate::live::Runtime;
use crate::log::access::AccessLog;
use crate::net::mailbox::{Mailbox, mailbox};
use crate::net::thread;
use crate::pool::trace::Decision;
use crate::resolver::Resolver;
use crate::signals;
use crate::text::words::counted;
use crate::worker::Worker;

/// How long a stop waits for an output that does not take the last lines.
const LAST_LINES: Duration = Duration::from_secs(1);

/// A balancer that runs.
#[derive(Debug)]
pub struct Server {
    runtime: Arc<Runtime>,
    local_address: SocketAddr,
    stop: Receiver<()>,
    mailboxes: Vec<Arc<Mailbox>>,
    /// Closed when the last worker has ended.
    workers_done: Receiver<()>,
    access_log: Option<AccessLog>,
    /// They end when they are dropped.
    _checker: Checker,
    _resolver: Option<Resolver>,
}

/// Why the balancer cannot run.
#[derive(Debug)]
pub enum StartError {
    /// The listening socket cannot be opened.
    Listen(SocketAddr, io::Error),
    /// A thread, a descriptor or another thing that every process needs is not to be had.
    System(&'static str, io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Listen(address, error) if error.kind() == io::ErrorKind::AddrInUse => {
                write!(
                    f,
                    "cannot listen on {address}: the port is in use; choose another in proxy.port"
                )
            }
            StartError::Listen(address, error)
                if error.kind() == io::ErrorKind::PermissionDenied =>
            {
                write!(
                    f,
                    "cannot listen on {address}: ports below 1024 need CAP_NET_BIND_SERVICE"
                )
            }
            StartError::Listen(address, error) => write!(f, "cannot listen on {address}: {error}"),
            StartError::System(what, error) => write!(f, "cannot start: {what}: {error}"),
        }
    }
}

impl std::error::Error for StartError {}

impl Server {
    /// Starts everything that `config` describes. When this returns, connections are accepted.
    /// A message in `stop` ends it, see `wait`.
    pub fn start(config: Config, stop: Receiver<()>) -> Result<Self, StartError> {
        let limit = raise_descriptor_limit();
        let descriptors = descriptor_budget(limit, &config);
        warn_of_few_descriptors(limit, &descriptors, &config);
        let socket = listener::bind(&config.proxy)
            .map_err(|error| StartError::Listen(listener::wanted_address(&config.proxy), error))?;
        let local_address = socket
            .local_addr()
            .map_err(|error| StartError::System("the listening socket", error))?;

        let log_format = config.proxy.access_log.format();
        let access_log = log_format.map(|_| AccessLog::start()).transpose();
        let access_log = access_log.map_err(|error| StartError::System("the access log", error))?;
        let runtime = Runtime::new(config, descriptors)
            .map_err(|error| StartError::System("an eventfd", error))?;
        let runtime = Arc::new(runtime);

        let resolver = Resolver::start(&runtime.pool)
            .map_err(|error| StartError::System("the resolver", error))?;
        let checker = Checker::start(
            &runtime.pool,
            &runtime.config.health_check,
            &runtime.head_limits,
            descriptors.checks,
        )
        .map_err(|error| StartError::System("health checks", error))?;

        let (done, workers_done) = bounded(0);
        let (mut mailboxes, mut senders) = (Vec::new(), Vec::new());
        for number in 1..=runtime.config.proxy.workers {
            let (mailbox, sender) =
                mailbox().map_err(|error| StartError::System("an eventfd", error))?;
            let log = access_log.as_ref().map(AccessLog::writer).zip(log_format);
            let mut worker = Worker::new(runtime.clone(), mailbox.clone(), log)
                .map_err(|error| StartError::System("a poller", error))?;
            let done = done.clone();
            start(&format!("worker-{number}"), move || {
                worker.run();
                // Closed when this closure is dropped, after the worker's end.
                let _ = &done;
            })?;
            mailboxes.push(mailbox);
            senders.push(sender);
        }
        let accepting = runtime.clone();
        start("listener", move || {
            listener::run(&socket, &senders, &accepting);
        })?;
        Ok(Self {
            runtime,
            local_address,
            stop,
            mailboxes,
            workers_done,
            access_log,
            _checker: checker,
            _resolver: resolver,
        })
    }

    /// The address that is listened on, with the port that was really taken.
    pub fn local_address(&self) -> SocketAddr {
        self.local_address
    }

    /// The last exchanges, explained, the oldest first.
    pub fn decisions(&self) -> Vec<Decision> {
        self.runtime.decisions()
    }

    /// Runs until it is asked to stop, then drains. Asked a second time, it ends the process at once.
    pub fn wait(self) {
        let timeouts = &self.runtime.config.timeouts;
        // An end without a message means that no signal can come any more.
        let _ = self.stop.recv();
        log::info!(
            "stopping: {} connections open",
            self.runtime.admission.count()
        );
        match self.stop.recv_timeout(timeouts.drain_delay) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => stop_at_once(),
        }
        let since = Instant::now();
        self.runtime.drain();
        self.runtime.admission.listener.ring();
        self.mailboxes
            .iter()
            .for_each(|mailbox| mailbox.bell.ring());
        crossbeam_channel::select! {
            recv(self.workers_done) -> _ => {}
            recv(self.stop) -> _ => stop_at_once(),
        }
        log::info!("stopped after {} ms", since.elapsed().as_millis());
        if let Some(access_log) = self.access_log {
            access_log.stop(LAST_LINES);
        }
    }
}

fn warn_of_few_descriptors(limit: u64, budget: &DescriptorBudget, config: &Config) {
    let (clients, exchanges) = (budget.clients, budget.exchanges);
    let wanted = config.proxy.max_connections;
    if clients < wanted {
        // The default is no wish that is not granted.
        let level = if config.proxy.max_connections_is_set {
            Level::Warn
        } else {
            Level::Info
        };
        log::log!(
            level,
            "proxy.max_connections is {clients} instead of {wanted}: {limit} descriptors allow no more"
        );
    }
    if exchanges < clients {
        log::info!(
            "{exchanges} of {clients} client connections can be in an exchange at once: {limit} descriptors allow no more"
        );
    }
}

/// Runs what `config`, which comes from `source`, describes until a signal asks to stop.
pub fn run(config: Config, source: &dyn fmt::Display) -> Result<(), StartError> {
    // Before any other thread of the balancer, so that no signal is lost.
    let stop = watch_signals()?;
    let workers = counted(config.proxy.workers, "worker");
    let backends = counted(config.backends.len(), "backend");
    let server = Server::start(config, stop)?;
    log::info!(
        "rondo {}: {source}: {workers}, {backends}, listening on {}",
        env!("CARGO_PKG_VERSION"),
        server.local_address
    );
    server.wait();
    Ok(())
}

/// A message for each signal that asks to stop, from now on.
pub fn watch_signals() -> Result<Receiver<()>, StartError> {
    signals::watch().map_err(|error| StartError::System("signals", error))
}

fn stop_at_once() -> ! {
    log::warn!("stopped a second time: exiting at once");
    log::logger().flush();
    process::exit(1)
}

fn start(name: &str, run: impl FnMut() + Send + 'static) -> Result<(), StartError> {
    thread::start(name, run)
        .map(drop)
        .map_err(|error| StartError::System("a thread", error))
}

/// Raises the soft limit of open descriptors to the hard one and gives what it is now.
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
