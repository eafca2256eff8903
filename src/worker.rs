//! A worker's thread: takes connections over, waits for events in one place, and carries each
//! connection that is ready as far as it goes.
//!
//! Everything that a worker has belongs to it alone. It shares the pool (one short lock for each
//! choice), the configuration, and its mailbox.
//!
//! Read next: net/poller.rs and net/connection.rs, on which it stands; then exchange/mod.rs, what it does with a connection.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use crate::config::Mode;
use crate::exchange::context::Context;
use crate::exchange::{Client, CloseReason, Stage, Turn};
use crate::live::Runtime;
use crate::log::access::{AccessLogWriter, Format};
use crate::net::clock::{Clock, Millis, NEVER};
use crate::net::idle_list::IdleList;
use crate::net::mailbox::{Accepted, Mailbox};
use crate::net::poller::{Events, Source};
use crate::net::slab::{Key, Slab};
use crate::net::timers::Alarms;

/// New connections taken over before those that are open have their turn.
const TAKEN_OVER_MAX: usize = 64;

/// How long an idle connection is kept open while the process drains, in case a request is on its way.
const DRAIN_IDLE: Duration = Duration::from_secs(1);

/// How often a worker looks whether it is done while the process drains.
const DRAIN_LOOK: Duration = Duration::from_millis(20);

/// One worker.
#[derive(Debug)]
pub(crate) struct Worker {
    mailbox: Arc<Mailbox>,
    clients: Slab<Client>,
    /// Those whose turn it is.
    queue: VecDeque<Key>,
    alarms: Alarms,
    idle: IdleList,
    context: Context,
}

impl Worker {
    /// A worker that is fed through `mailbox`.
    pub(crate) fn new(
        runtime: Arc<Runtime>,
        mailbox: Arc<Mailbox>,
        access_log: Option<(AccessLogWriter, Format)>,
    ) -> io::Result<Self> {
        Ok(Self {
            context: Context::new(runtime, &mailbox.bell, access_log)?,
            mailbox,
            clients: Slab::default(),
            queue: VecDeque::new(),
            alarms: Alarms::default(),
            idle: IdleList::default(),
        })
    }

    /// Works until the process drains and every connection has ended.
    pub(crate) fn run(&mut self) {
        let mut events = Events::default();
        loop {
            self.take_events(&mut events);
            let all_came = self.take_over();
            self.take_turns();
            self.close_late_ones();
            if self.drain(all_came) {
                return;
            }
            self.publish_oldest_idle();
        }
    }

    fn publish_oldest_idle(&self) {
        let since = self.oldest_idle().map_or(NEVER, |(_, since)| since);
        self.mailbox.publish_oldest_idle(since);
    }

    /// Waits, and notes what the events say before anybody acts on them: an idle connection to a
    /// backend that has just ended must not be lent to the request that came in the same moment.
    fn take_events(&mut self, events: &mut Events) {
        let may_sleep = self.queue.is_empty() && self.mailbox.fall_asleep();
        let timeout = if may_sleep {
            self.sleep_time()
        } else {
            Some(Duration::ZERO)
        };
        let waited = self.context.poller.wait(events, timeout);
        waited.expect("epoll_wait fails only for arguments that are never given here");
        self.mailbox.wake_up();
        let Context {
            clock,
            backends,
            runtime,
            draining,
            ..
        } = &mut self.context;
        clock.read();
        // Before anybody answers: what is answered from now on says that the connection ends.
        *draining = runtime.draining_since().is_some();
        for (source, readiness) in events.iter() {
            let key = match source {
                Source::Client(key) => Some(key),
                Source::Backend(key) => backends.note(key, readiness, runtime.pool.backends()),
            };
            let Some(client) = key.and_then(|key| self.clients.get_mut(key)) else {
                continue;
            };
            match source {
                Source::Client(_) => client.connection.note(readiness),
                Source::Backend(_) => client.note_backend(readiness),
            }
            if !std::mem::replace(&mut client.is_queued, true) {
                self.queue.extend(key);
            }
        }
    }

    /// How long nothing has to be done without an event. `None`: for ever.
    fn sleep_time(&self) -> Option<Duration> {
        if self.context.draining {
            return Some(DRAIN_LOOK);
        }
        let client_idle = self.context.runtime.config.timeouts.client_idle;
        let idle = self
            .oldest_idle()
            .map_or(NEVER, |(_, since)| Clock::after(since, client_idle));
        let next = self
            .alarms
            .next()
            .min(idle)
            .min(self.context.backends.next_expiry());
        (next != NEVER)
            .then(|| Duration::from_millis(next.saturating_sub(self.context.clock.now()).max(1)))
    }

    /// Takes new connections over. True: no more will come.
    fn take_over(&mut self) -> bool {
        for _ in 0..TAKEN_OVER_MAX {
            match self.mailbox.receive() {
                Ok(accepted) => self.open(accepted),
                Err(all_came) => return all_came,
            }
        }
        false
    }

    fn open(&mut self, (stream, address): Accepted) {
        let now = self.context.clock.now();
        let stage = self.first_stage();
        let key = self
            .clients
            .insert_with(|key| Client::new(stream, address, key, stage, now));
        let client = self
            .clients
            .get_mut(key)
            .expect("it was put in on the line above");
        if let Err(error) = self
            .context
            .poller
            .register(&client.connection, Source::Client(key))
        {
            log::warn!("{address}: not taken over: {error}");
            self.remove(key);
            return;
        }
        if stage == Stage::Idle {
            self.idle.touch(key.index);
        } else {
            client.is_queued = true;
            self.queue.push_back(key);
        }
    }

    /// What a new connection begins with.
    fn first_stage(&self) -> Stage {
        let proxy = &self.context.runtime.config.proxy;
        if proxy.accept_proxy_protocol || proxy.mode == Mode::Tcp {
            Stage::Accepted
        } else {
            Stage::Idle
        }
    }

    /// Gives everybody in the queue one turn. Who is not done yet has the next one after the
    /// events that came meanwhile.
    fn take_turns(&mut self) {
        for _ in 0..self.queue.len() {
            let Some(key) = self.queue.pop_front() else {
                return;
            };
            if let Some(client) = self.clients.get_mut(key) {
                client.is_queued = false;
                self.turn(key, Client::advance);
            }
        }
    }

    /// Lets one connection act, and does what follows from how it went.
    fn turn(&mut self, key: Key, act: fn(&mut Client, &mut Context) -> Turn) {
        let Some(client) = self.clients.get_mut(key) else {
            return;
        };
        let idle_since = (client.is_idle(), client.idle_since);
        let context = &mut self.context;
        let turn = catch_unwind(AssertUnwindSafe(|| act(client, context))).unwrap_or_else(|_| {
            log::error!("internal error: connection dropped; please report it");
            client.close(CloseReason::Panic, context)
        });
        match turn {
            Turn::Closed(_) => return self.remove(key),
            Turn::Again => {
                if !std::mem::replace(&mut client.is_queued, true) {
                    self.queue.push_back(key);
                }
            }
            Turn::Waiting => {}
        }
        let deadline = client.deadline();
        self.alarms.ensure(key.index, &mut client.alarm, deadline);
        if (client.is_idle(), client.idle_since) != idle_since {
            if client.is_idle() {
                self.idle.touch(key.index);
                self.publish_oldest_idle();
                self.context.runtime.open.room_may_be_made();
            } else {
                self.idle.remove(key.index);
            }
        }
    }

    /// Drops a connection that is over.
    fn remove(&mut self, key: Key) {
        self.idle.remove(key.index);
        if let Some(mut client) = self.clients.remove(key) {
            self.alarms.cancel(key.index, &mut client.alarm);
            // The descriptor is free before the place is: the limit must not be exceeded even for a moment.
            drop(client);
            self.mailbox.closed_one();
            self.context.runtime.open.remove();
        }
    }

    fn oldest_idle(&self) -> Option<(Key, Millis)> {
        let index = self.idle.oldest()?;
        self.clients
            .at(index)
            .map(|(key, client)| (key, client.idle_since))
    }

    /// Closes whatever has waited too long, and what must make room.
    fn close_late_ones(&mut self) {
        let now = self.context.clock.now();
        while let Some(index) = self.alarms.rung(now) {
            let Some((key, _)) = self.clients.at(index) else {
                continue;
            };
            if let Some(client) = self.clients.get_mut(key) {
                client.alarm = NEVER;
            }
            self.turn(key, Client::expire);
        }
        let client_idle = self.context.runtime.config.timeouts.client_idle;
        while let Some((key, since)) = self.oldest_idle() {
            if Clock::after(since, client_idle) > now {
                break;
            }
            self.close(key, CloseReason::IdleTimeout);
        }
        for _ in 0..self.mailbox.take_evictions() {
            let Some((key, _)) = self.oldest_idle() else {
                break;
            };
            self.close(key, CloseReason::MadeRoom);
        }
        let Context {
            backends, runtime, ..
        } = &mut self.context;
        backends.expire(now, runtime.pool.backends());
    }

    fn close(&mut self, key: Key, reason: CloseReason) {
        if let Some(client) = self.clients.get_mut(key) {
            client.close(reason, &mut self.context);
            self.remove(key);
        }
    }

    /// While the process drains: closes what is idle, and in the end everything. True: all is done.
    fn drain(&mut self, all_came: bool) -> bool {
        let Some(since) = self.context.runtime.draining_since() else {
            return false;
        };
        let drain = self.context.runtime.config.timeouts.drain;
        let drained_for = since.elapsed();
        if drained_for >= drain.min(DRAIN_IDLE) {
            while let Some((key, _)) = self.oldest_idle() {
                self.close(key, CloseReason::Stopping);
            }
        }
        if drained_for >= drain {
            for key in self.clients.keys() {
                self.close(key, CloseReason::Stopping);
            }
        }
        all_came && self.clients.is_empty()
    }
}
