//! Starts the threads and stops them.
//!
//! Read next: `live.rs`, the snapshot that all threads share.

use std::fmt;
use std::mem;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::admin::Admin;
use crate::ask::{Ask, Reply, Wish};
use crate::change::{Change, verb};
use crate::checker::Checker;
use crate::config::{Config, EditError, Source, descriptor_budget, stands_for, warnings};
use crate::discovery::Discovery;
use crate::listener::{self, Listener, ListenerHandle};
use crate::live::{Live, Snapshot, Told};
use crate::log::access::AccessLog;
use crate::memory::MemoryBound;
use crate::net::lock::lock;
use crate::pool::Pool;
use crate::pool::state::{BackendState, Operator};
use crate::pool::trace::Decision;
use crate::reload::{Changes, Moved, ReloadError};
use crate::resolver::Resolver;
use crate::signals;
use crate::text::json::Json;
use crate::text::words::counted;

use self::start::{may_check, start, start_workers, warn_of_few_descriptors};

pub use self::start::{StartError, raise_descriptor_limit};
pub use crate::commands::{Command, Commands};

mod start;

/// The main thread looks around after this time, though nothing calls it.
const LONG: Duration = Duration::from_secs(3600);
/// Between two looks whether what was taken out of use has nothing in flight any more.
const LEAVING_LOOK: Duration = Duration::from_secs(1);
/// How long a stop waits for a log output that takes no more lines.
const LAST_LINES: Duration = Duration::from_secs(1);

/// A running balancer.
#[derive(Debug)]
pub struct Server {
    live: Arc<Live>,
    /// The configuration file, for a reload.
    file: Option<PathBuf>,
    descriptor_limit: u64,
    local_address: SocketAddr,
    commands: Commands,
    listener: ListenerHandle,
    admin: Admin,
    access_log: AccessLog,
    /// Backends that were taken out of use, until nothing is in flight there.
    leaving: Vec<Arc<BackendState>>,
    /// Their threads end when these are dropped.
    _checker: Checker,
    _resolver: Resolver,
    _discovery: Discovery,
}

impl Server {
    /// Starts everything that `config` describes. When this returns, connections are accepted.
    /// `file` is what a reload reads; see `wait`.
    pub fn start(
        config: Config,
        file: Option<&Path>,
        commands: Commands,
    ) -> Result<Self, StartError> {
        let descriptor_limit = raise_descriptor_limit();
        let descriptors = descriptor_budget(descriptor_limit, &config);
        may_check(&config).map_err(|error| StartError::System("health checks", error))?;
        let socket = listener::bind(&config.proxy).map_err(|error| {
            let address = listener::wanted_address(&config.proxy);
            StartError::Listen("proxy.port", address, error)
        })?;
        let local_address = socket
            .local_addr()
            .map_err(|error| StartError::System("the listening socket", error))?;

        let access_log =
            AccessLog::start().map_err(|error| StartError::System("the access log", error))?;
        let workers = config.proxy.workers;
        let pool = Pool::for_workers(
            workers,
            config.backends.clone(),
            &config.balance,
            &config.health_check,
        );
        let bound = MemoryBound::of(&config, &descriptors);
        let live = Live::new(Snapshot::new(config, pool, descriptors), commands.clone())
            .map_err(|error| StartError::System("an eventfd", error))?;
        let live = Arc::new(live);
        *lock(&live.told) = Told {
            file: file.map(|file| file.to_string_lossy().into_owned()),
            listener: Some(local_address),
            memory_bytes_max: bound.total(),
            reload_error: None,
        };
        let admin = Admin::default();
        let interface = admin.prepare(None, &live.current().config, &live);
        let interface = interface
            .map_err(|(address, error)| StartError::Listen("admin.address", address, error))?;
        // Once both ports are had: the demonstration tries several.
        let first = live.current();
        warn_of_few_descriptors(descriptor_limit, &first.descriptors, &first.config);

        let resolver =
            Resolver::start(&live).map_err(|error| StartError::System("the resolver", error))?;
        let discovery =
            Discovery::start(&live).map_err(|error| StartError::System("discovery", error))?;
        let checker =
            Checker::start(&live).map_err(|error| StartError::System("health checks", error))?;
        let senders = start_workers(workers, &live, &access_log)?;
        admin.go_by(interface);
        let (mut listener, handle) = Listener::new(socket, senders, &live);
        start("listener", move || listener.run())?;
        Ok(Self {
            live,
            file: file.map(Path::to_owned),
            descriptor_limit,
            local_address,
            commands,
            listener: handle,
            admin,
            access_log,
            leaving: Vec::new(),
            _checker: checker,
            _resolver: resolver,
            _discovery: discovery,
        })
    }

    /// The address that the listener listens on, with its real port.
    pub fn local_address(&self) -> SocketAddr {
        self.local_address
    }

    /// The address of the admin interface, with its real port; none if it is off.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.address()
    }

    /// The last exchanges, explained, the oldest first.
    pub fn decisions(&self) -> Vec<Decision> {
        self.live.decisions()
    }

    /// Runs until a command stops it, then drains. A second stop ends the process at once.
    pub fn wait(mut self) {
        loop {
            for ask in self.admin.asks(&self.live) {
                self.answer(ask);
            }
            let mut patience = match self.live.news_due() {
                None => LONG,
                Some(due) => due.saturating_duration_since(Instant::now()),
            };
            if patience.is_zero() {
                self.take_in_news();
                continue;
            }
            if self.look_after_leaving() {
                patience = patience.min(LEAVING_LOOK);
            }
            match self.commands.next(patience) {
                Some(Command::Reload) => {
                    let _ = self.reload(false, false);
                }
                Some(Command::Stop) => break,
                // News may not be due yet.
                None => {}
            }
        }
        self.live.begin_stop();
        log::info!("stopping: {} connections open", self.live.admission.count());
        let mut last = Snapshot::clone(&self.live.current());
        let delayed = Instant::now();
        let delay = last.config.timeouts.drain_delay;
        self.wait_or_stop_again(|| delay.saturating_sub(delayed.elapsed()));
        let since = Instant::now();
        last.draining_since = Some(since);
        self.live.publish(last);
        self.wait_or_stop_again(|| {
            if self.live.has_workers() {
                LONG
            } else {
                Duration::ZERO
            }
        });
        log::info!("stopped after {} ms", since.elapsed().as_millis());
        self.access_log.stop(LAST_LINES);
    }

    /// Waits for as long as `left` is not zero; it is asked again after each call. A second stop meanwhile ends the process.
    fn wait_or_stop_again(&self, left: impl Fn() -> Duration) {
        loop {
            let left = left();
            if left.is_zero() {
                return;
            }
            match self.commands.next(left) {
                Some(Command::Reload) => log::error!(
                    "not reloaded, nothing has changed: {}",
                    ReloadError::Stopping
                ),
                Some(Command::Stop) => stop_at_once(),
                None => {}
            }
        }
    }

    /// Does what the admin interface asks for, or only says what that would do.
    fn answer(&mut self, mut ask: Ask) {
        let dry_run = ask.dry_run;
        let reply = match mem::replace(&mut ask.wish, Wish::Reload) {
            Wish::Operator { name, operator } => self.operate(&name, operator, dry_run),
            Wish::Put { name, entry } => self.edit(&name, Some(entry), dry_run),
            Wish::Remove { name } => self.edit(&name, None, dry_run),
            Wish::Reload => match self.reload(dry_run, true) {
                Ok(document) => Reply::new(200, &document),
                Err(error) => error.reply(),
            },
        };
        ask.answer(reply);
    }

    /// Decides for the operator about one backend, or about all addresses of a name that are a backend each.
    fn operate(&mut self, name: &str, operator: Operator, dry_run: bool) -> Reply {
        let snapshot = self.live.current();
        let backends = snapshot.pool.backends();
        let meant = backends.iter();
        let meant: Vec<_> = meant.filter(|it| stands_for(name, &it.name)).collect();
        if meant.is_empty() {
            return no_such_backend(name);
        }
        let (what, words) = verb(operator);
        let mut change = Change {
            dry_run,
            name,
            what: "none",
            in_flight: 0,
            before: snapshot.pool.shares(),
            after: Vec::new(),
            warnings: Vec::new(),
        };
        let settings = backends.iter().map(|backend| &backend.settings);
        change.after = snapshot.pool.shares_of(settings, |backend| {
            stands_for(name, backend).then_some(operator)
        });
        for backend in meant {
            let in_flight = backend.in_flight();
            change.in_flight += in_flight;
            let ends_ejection = operator == Operator::Enabled && backend.ejection.is_out();
            if backend.operator() == operator && !ends_ejection {
                continue;
            }
            change.what = what;
            if dry_run {
                continue;
            }
            backend.set_operator(operator);
            log::info!(
                "backend {:?} {words}: admin interface; {in_flight} in flight",
                backend.name
            );
            if operator != Operator::Enabled {
                self.leaves(backend.state());
            }
        }
        let config = &snapshot.config;
        change.reply(&config.backends, &config.backends)
    }

    /// Adds or changes a backend, or removes it where there is no entry.
    fn edit(&mut self, name: &str, entry: Option<Vec<u8>>, dry_run: bool) -> Reply {
        let last = self.live.current();
        let edited = match entry {
            Some(entry) => last.config.with_entry(name, entry),
            None => (last.config.without_entry(name)).map(|config| (config, "remove")),
        };
        let (config, what) = match edited {
            Ok(edited) => edited,
            Err(EditError::Unknown) => return no_such_backend(name),
            Err(EditError::Entry(error)) => {
                let place = (None, error.line, error.column);
                return Reply::error_at(422, &error.sentence(), place);
            }
            Err(EditError::Refused(reason)) => return Reply::error(422, &reason),
        };
        if let Err(error) = may_check(&config) {
            return ReloadError::Checks(error).reply();
        }
        let meant = last.pool.backends().iter();
        let meant = meant.filter(|backend| stands_for(name, &backend.name));
        let change = Change {
            dry_run,
            name,
            what,
            in_flight: meant.map(|backend| backend.in_flight()).sum(),
            before: last.pool.shares(),
            after: last.pool.shares_of(&config.backends, |_| None),
            warnings: new_warnings(&last.config, &config),
        };
        let reply = change.reply(&last.config.backends, &config.backends);
        if !dry_run && what != "none" {
            for warning in &change.warnings {
                log::warn!("{warning}");
            }
            let changes = Changes::between(&last.config, &config);
            self.go_by(config, &last);
            log::info!("admin interface: {changes}");
            let pool = &self.live.current().pool;
            for backend in last.pool.backends() {
                if pool.place(backend.id).is_none() {
                    self.leaves(backend.state());
                }
            }
        }
        reply
    }

    /// Notes that a backend was taken out of use.
    fn leaves(&mut self, backend: &Arc<BackendState>) {
        if !self.leaving.iter().any(|other| other.id == backend.id) {
            self.leaving.push(Arc::clone(backend));
        }
    }

    /// Says of each backend that was taken out of use, once, that nothing is in flight there any more. True: it has to look
    /// again.
    fn look_after_leaving(&mut self) -> bool {
        let pool = &self.live.current().pool;
        self.leaving.retain(|backend| {
            let is_in_use =
                backend.operator() == Operator::Enabled && pool.place(backend.id).is_some();
            if is_in_use {
                return false;
            }
            let is_busy = backend.in_flight() > 0;
            if !is_busy {
                log::info!("backend {:?} has nothing in flight", backend.name);
            }
            is_busy
        });
        !self.leaving.is_empty()
    }

    /// Reads the configuration again and publishes it, or only says what that would do; on an error nothing changes. How
    /// many clients move is worked out where it `is_asked`.
    fn reload(&self, dry_run: bool, is_asked: bool) -> Result<Json, ReloadError> {
        // What was discovered before comes first.
        self.take_in_news();
        let result = self.read_and_publish(dry_run, is_asked);
        if !dry_run {
            lock(&self.live.told).reload_error = result.as_ref().err().map(ToString::to_string);
        }
        if let Err(error) = &result
            && !dry_run
        {
            log::error!("not reloaded, nothing has changed: {error}");
        }
        result
    }

    fn read_and_publish(&self, dry_run: bool, is_asked: bool) -> Result<Json, ReloadError> {
        let file = self.file.as_deref().ok_or(ReloadError::NoFile)?;
        let last = self.live.current();
        let config = Config::read_again(file, &last.config).map_err(ReloadError::Config)?;
        let changes = Changes::between(&last.config, &config);
        let document = |warnings: &[String]| {
            let moved = if is_asked {
                Moved::by(&last.config, &config)
            } else {
                Moved::None
            };
            changes.document(dry_run, &file.to_string_lossy(), moved, warnings)
        };
        if !changes.needs_restart.is_empty() {
            return if dry_run {
                Ok(document(&warnings(&config)))
            } else {
                Err(ReloadError::NeedsRestart(changes.needs_restart))
            };
        }
        may_check(&config).map_err(ReloadError::Checks)?;
        let socket = changes
            .moves_listener
            .then(|| listener::bind(&config.proxy));
        let socket = socket
            .transpose()
            .map_err(|error| ReloadError::Listen(listener::wanted_address(&config.proxy), error))?;
        let interface = self.admin.prepare(Some(&last.config), &config, &self.live);
        let interface =
            interface.map_err(|(address, error)| ReloadError::Listen(address, error))?;
        let warnings = warnings(&config);
        let document = document(&warnings);
        if dry_run {
            return Ok(document);
        }
        for warning in warnings {
            log::warn!("{warning}");
        }
        self.go_by(config, &last);
        self.admin.go_by(interface);
        if let Some(socket) = socket {
            lock(&self.live.told).listener = socket.local_addr().ok();
            self.listener.replace(socket);
        }
        log::info!("reloaded: {changes}");
        Ok(document)
    }

    /// Takes what was discovered into one snapshot, or changes nothing.
    fn take_in_news(&self) {
        let news = self.live.take_news();
        let last = self.live.current();
        let refused = |error: &dyn fmt::Display| {
            log::error!("discovery: nothing has changed: {error}");
        };
        let config = match last.config.with_news(news) {
            Ok(config) if config.backends == last.config.backends => return,
            Ok(config) => config,
            Err(error) => return refused(&error),
        };
        if let Err(error) = may_check(&config) {
            return refused(&ReloadError::Checks(error));
        }
        for warning in new_warnings(&last.config, &config) {
            log::warn!("{warning}");
        }
        let changes = Changes::between(&last.config, &config);
        self.go_by(config, &last);
        log::info!("discovery: {changes}");
    }

    /// Publishes another configuration.
    fn go_by(&self, config: Config, last: &Snapshot) {
        let descriptors = descriptor_budget(self.descriptor_limit, &config);
        if descriptors != last.descriptors {
            warn_of_few_descriptors(self.descriptor_limit, &descriptors, &config);
        }
        let bound = MemoryBound::of(&config, &descriptors);
        lock(&self.live.told).memory_bytes_max = bound.total();
        let (backends, balance) = (config.backends.clone(), &config.balance);
        let pool = Pool::following(Some(&last.pool), backends, balance, &config.health_check);
        self.live.publish(Snapshot::new(config, pool, descriptors));
    }
}

fn no_such_backend(name: &str) -> Reply {
    let error = format!("there is no backend {name:?}");
    Reply::error(404, &error)
}

/// What is wrong with `config` and was not with the one before.
fn new_warnings(last: &Config, config: &Config) -> Vec<String> {
    let before = warnings(last);
    let mut new = warnings(config);
    new.retain(|warning| !before.contains(warning));
    new
}

/// Runs what `config` describes, which was read from `source`, until a signal stops it.
pub fn run(config: Config, source: &Source) -> Result<(), StartError> {
    // Before any other thread of the balancer, so that no signal is lost.
    let commands = watch_signals()?;
    let workers = counted(config.proxy.workers, "worker");
    let backends = counted(config.backends.len(), "backend");
    let server = Server::start(config, source.file(), commands)?;
    log::info!(
        "rondo {}: {source}: {workers}, {backends}, listening on {}",
        env!("CARGO_PKG_VERSION"),
        server.local_address
    );
    server.wait();
    Ok(())
}

/// From now on, each signal that has a meaning becomes a command.
pub fn watch_signals() -> Result<Commands, StartError> {
    signals::watch().map_err(|error| StartError::System("signals", error))
}

fn stop_at_once() -> ! {
    log::warn!("stopped a second time: exiting at once");
    log::logger().flush();
    process::exit(1)
}

#[cfg(test)]
mod tests;
