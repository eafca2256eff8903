//! A worker's thread: takes connections over, waits for events in one place, and carries each
//! connection that is ready as far as it goes.
//!
//! A worker owns its connections. It shares the pool (one short lock for each choice), the
//! configuration and its mailbox.
//!
//! Read next: `net/connection.rs`, a socket with its buffers. The one wait is in `net/poller.rs`.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use crate::config::Mode;
use crate::exchange::context::Context;
use crate::exchange::{Client, CloseReason, First, Turn};
use crate::live::{Follower, Snapshot};
use crate::log::access::AccessLogWriter;
use crate::net::admission::{PAUSE, SILENCE};
use crate::net::clock::{Clock, Millis, NEVER};
use crate::net::idle_list::{IdleList, Kind};
use crate::net::mailbox::{Accepted, Mailbox};
use crate::net::poller::{Brought, EVENTS_MAX, Events, Poller, Readiness, Source};
use crate::net::room::{ITEMS_KEPT, fill_cache, merge_free};
use crate::net::slab::{Key, Slab};
use crate::net::timers::Timers;

/// New connections taken over before the open ones have their turn.
const TAKEN_OVER_MAX: usize = 64;

/// A batch of turns that takes longer was held up by something else than its work.
const STALL_MIN: Duration = Duration::from_millis(500);

/// Idle clients looked at when the listener asks for room, before all other connections have a
/// turn.
const ROOM_TRIES_MAX: usize = 64;

/// How long an idle connection is kept open while the process drains, in case a request is on its
/// way.
const DRAIN_IDLE: Duration = Duration::from_secs(1);

/// How long memory must have been unused before it is given back.
const UNUSED: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Worker {
    mailbox: Arc<Mailbox>,
    clients: Slab<Client>,
    /// Connections whose turn it is.
    queue: VecDeque<Key>,
    timers: Timers,
    idle: IdleList,
    follower: Follower,
    /// When unused memory is given back.
    give_back_at: Millis,
    context: Context,
}

impl Worker {
    /// A worker that takes connections from `mailbox`, whose waker wakes `poller`.
    pub(crate) fn new(
        follower: Follower,
        mailbox: Arc<Mailbox>,
        poller: Poller,
        access_log: AccessLogWriter,
    ) -> Self {
        let context = Context::new(&follower, poller, access_log);
        let worker = context.traffic.worker;
        follower.pool.call_worker_with(worker, mailbox.clone());
        Self {
            context,
            mailbox,
            clients: Slab::default(),
            queue: VecDeque::with_capacity(ITEMS_KEPT),
            timers: Timers::default(),
            idle: IdleList::default(),
            follower,
            give_back_at: NEVER,
        }
    }

    /// Works until the process drains and every connection has ended.
    pub(crate) fn run(&mut self) {
        fill_cache();
        let mut events = Events::default();
        loop {
            self.take_events(&mut events);
            self.take_places();
            let all_came = self.take_over();
            self.take_turns();
            self.forgive_stall();
            self.close_late_ones();
            self.make_room();
            self.give_back();
            if self.drain(all_came) {
                return;
            }
        }
    }

    /// Waits, and notes what the events say before any connection acts on them: a request must not
    /// be sent over an idle backend connection whose end has arrived in the same batch.
    fn take_events(&mut self, events: &mut Events) {
        let idle_until = self.publish_idle();
        let mut brought = self.mailbox.rest(!self.queue.is_empty(), |may_sleep| {
            let timeout = if may_sleep {
                self.sleep_time(idle_until)
            } else {
                Some(Duration::ZERO)
            };
            self.wait(events, timeout)
        });
        let mut looks = 0;
        loop {
            self.note(events);
            // The kernel returns ready sockets in turn, each once a round: after so many full
            // batches it has returned all that were ready at the first.
            looks += 1;
            if brought == Brought::All || looks > 1 + self.sockets() / EVENTS_MAX {
                break;
            }
            brought = self.wait(events, Some(Duration::ZERO));
        }
        self.context.clock.read();
        // Before any request is answered: while the process drains, an answer says that its
        // connection ends.
        self.follow();
    }

    #[inline(always)]
    fn wait(&self, events: &mut Events, timeout: Option<Duration>) -> Brought {
        let waited = self.context.poller.wait(events, timeout);
        waited.expect("epoll_wait fails only for arguments that are never given here")
    }

    /// Takes up the snapshot that is live.
    fn follow(&mut self) {
        if self.follower.look() {
            self.context.follow(self.follower.snapshot());
            self.share_descriptors();
        }
    }

    /// Notes what events say, and queues their connections.
    fn note(&mut self, events: &Events) {
        let backends = &mut self.context.backends;
        for (source, readiness) in events.iter() {
            let key = match source {
                Source::Client(key) => Some(key),
                Source::Backend(key) => backends.note(key, readiness),
            };
            let Some(client) = key.and_then(|key| self.clients.get_mut(key)) else {
                continue;
            };
            match source {
                Source::Client(_) => client.side.connection.note(readiness),
                Source::Backend(_) => client.note_backend(readiness),
            }
            if !std::mem::replace(&mut client.is_queued, true) {
                self.queue.extend(key);
            }
        }
    }

    /// How many sockets are registered with the poller.
    fn sockets(&self) -> usize {
        self.clients.len() + self.context.backends.len() + 1
    }

    /// Tells the listener since when the longest-idle clients have been idle; returns when the next
    /// one has been idle for too long.
    #[inline(always)]
    fn publish_idle(&self) -> Millis {
        let since = |kind| self.idle.oldest(kind).map_or(NEVER, |(_, since)| since);
        let (answered, silent) = (since(Kind::Answered), since(Kind::Silent));
        self.mailbox.publish_idle(answered, silent);
        self.context.traffic.set_idle(self.idle.len());
        answered.min(silent).saturating_add(self.client_idle_ms())
    }

    /// How long a client may be idle, in milliseconds.
    fn client_idle_ms(&self) -> Millis {
        Clock::after(0, self.context.snapshot.config.timeouts.client_idle)
    }

    /// How long the worker may sleep if no event comes. `None`: for ever.
    fn sleep_time(&self, idle_until: Millis) -> Option<Duration> {
        let next = self
            .timers
            .next()
            .min(idle_until)
            .min(self.give_back_at)
            .min(self.context.backends.next_expiry())
            .min(self.next_of_drain());
        (next != NEVER)
            .then(|| Duration::from_millis(next.saturating_sub(self.context.clock.now())))
    }

    /// Gives a turn to the requests that were given a place at a backend.
    fn take_places(&mut self) {
        if self.mailbox.take_call() {
            self.find_places();
        }
    }

    #[inline(never)]
    fn find_places(&mut self) {
        let Context {
            snapshot, traffic, ..
        } = &self.context;
        while let Some(connection) = snapshot.pool.next_given(traffic.worker) {
            let key = Key::from(connection);
            let client = self.clients.get_mut(key);
            if client.is_some_and(|client| !std::mem::replace(&mut client.is_queued, true)) {
                self.queue.push_back(key);
            }
        }
    }

    /// Takes new connections over. True: no more will come.
    fn take_over(&mut self) -> bool {
        for _ in 0..TAKEN_OVER_MAX {
            match self.mailbox.receive() {
                Ok(accepted) => self.open(accepted),
                Err(all_came) => return all_came,
            }
        }
        // There may be more, or the end, which has woken the worker already. The sockets just
        // registered are writable: their events end the next wait at once.
        false
    }

    fn open(&mut self, (stream, address): Accepted) {
        let clock = &self.context.clock;
        let first = self.first();
        if self.clients.len() >= self.queue.capacity() {
            // Grown like the buffers of `net/room.rs`; each client is in the queue once.
            let mut larger = VecDeque::with_capacity(2 * self.queue.capacity());
            larger.append(&mut self.queue);
            self.queue = larger;
        }
        let key = self
            .clients
            .insert_with(|key| Client::new(stream, address, key, first, clock));
        let now = clock.now();
        self.share_descriptors();
        let client = self.clients.get_mut(key).expect("it was put in above");
        self.context.traffic.accepted.add(1);
        if let Err(error) = self
            .context
            .poller
            .register(&client.side.connection, Source::Client(key))
        {
            log::warn!("connection from {address} dropped: {error}");
            self.remove(key, CloseReason::OurShortage);
            return;
        }
        self.idle.touch(Kind::Silent, key.index, now);
        if first != First::Request {
            client.is_queued = true;
            self.queue.push_back(key);
        }
    }

    /// Allows as many backend connections as the clients leave descriptors for.
    fn share_descriptors(&mut self) {
        self.context.backends.set_clients(self.clients.len());
    }

    /// What a new connection begins with.
    fn first(&self) -> First {
        let proxy = &self.context.snapshot.config.proxy;
        if proxy.accept_proxy_protocol || proxy.mode == Mode::Tcp {
            First::Preface
        } else {
            First::Request
        }
    }

    /// Gives each connection in the queue one turn. A connection with more to do has its next turn
    /// after the events that came meanwhile.
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

    /// Lets one connection act, and acts on the result.
    fn turn(&mut self, key: Key, act: fn(&mut Client, &mut Context) -> Turn) {
        let Some(client) = self.clients.get_mut(key) else {
            return;
        };
        let idle_before = client.idle();
        let context = &mut self.context;
        let turn = catch_unwind(AssertUnwindSafe(|| act(client, context))).unwrap_or_else(|_| {
            log::error!("internal error: connection dropped; please report it");
            client.close(CloseReason::Panic, context)
        });
        match turn {
            Turn::Closed(reason) => return self.remove(key, reason),
            Turn::Again => {
                if !std::mem::replace(&mut client.is_queued, true) {
                    self.queue.push_back(key);
                }
            }
            Turn::Waiting => {}
        }
        let deadline = client.deadline();
        self.timers.ensure(key.index, &mut client.timer, deadline);
        let idle_now = client.idle();
        if idle_now == idle_before {
            return;
        }
        self.idle.remove(key.index);
        if let Some((kind, since)) = idle_now {
            self.idle.touch(kind, key.index, since);
            if self.context.live.admission.is_room_wanted() {
                self.publish_idle();
                self.context.live.admission.room_may_be_made();
            }
        }
    }

    /// Drops a closed connection.
    fn remove(&mut self, key: Key, reason: CloseReason) {
        self.idle.remove(key.index);
        if let Some(mut client) = self.clients.remove(key) {
            let traffic = &self.context.traffic;
            traffic.closed(client.counted, reason as usize);
            self.timers.cancel(key.index, &mut client.timer);
            // Close the descriptors before the count falls, or the limit could be exceeded for a
            // moment.
            drop(client);
            self.share_descriptors();
            self.mailbox.closed_one();
            self.context.live.admission.remove();
        }
    }

    fn key_of(&self, index: u32) -> Option<Key> {
        self.clients.at(index).map(|(key, _)| key)
    }

    /// Closes the longest-idle client if the listener has asked for room: one that has had an
    /// answer, or that has been silent long enough. A request that has arrived on it meanwhile is
    /// served instead. A request that crosses the close is lost, as on every server: to close only
    /// our sending side first would not answer it either.
    fn make_room(&mut self) {
        if !self.mailbox.is_room_asked() {
            return;
        }
        let admission = &self.context.live.clone().admission;
        for _ in 0..ROOM_TRIES_MAX {
            if !admission.is_room_wanted() {
                return;
            }
            let Some(key) = self.client_to_close() else {
                break;
            };
            let Some(client) = self.clients.get_mut(key) else {
                break;
            };
            if client.side.connection.is_open_and_empty() {
                return admission.make_room(|| self.close(key, CloseReason::MadeRoom));
            }
            // Its event is on the way. The request begins now, so that the connection is no longer
            // idle.
            client.side.connection.note(Readiness::IN);
            self.turn(key, Client::advance);
        }
        // No client here may be closed; the listener may find one at another worker.
        self.publish_idle();
        admission.room_may_be_made();
    }

    /// The client to close for another.
    fn client_to_close(&self) -> Option<Key> {
        let now = self.context.clock.now();
        let may_close = |kind, pause| {
            let oldest = self.idle.oldest(kind);
            oldest.filter(|(_, since)| Clock::after(*since, pause) <= now)
        };
        let both = [
            may_close(Kind::Answered, PAUSE),
            may_close(Kind::Silent, SILENCE),
        ];
        let longest = both.into_iter().flatten().min_by_key(|(_, since)| *since);
        longest.and_then(|(index, _)| self.key_of(index))
    }

    /// The deadlines set in these turns count from the beginning of the turns. If the process was
    /// stopped or had no processor meanwhile, all deadlines move by as much: no peer was late.
    fn forgive_stall(&mut self) {
        let Some(stall) = self.context.clock.late_by(STALL_MIN) else {
            return;
        };
        for key in self.clients.keys() {
            if let Some(client) = self.clients.get_mut(key) {
                client.postpone(stall);
            }
        }
    }

    /// Acts on the deadlines that have passed.
    fn close_late_ones(&mut self) {
        let now = self.context.clock.settled();
        while let Some(index) = self.timers.expired(now) {
            let Some((key, _)) = self.clients.at(index) else {
                continue;
            };
            if let Some(client) = self.clients.get_mut(key) {
                client.timer = NEVER;
            }
            self.turn(key, Client::expire);
        }
        let idle_ms = self.client_idle_ms();
        while let Some((index, since)) = self.idle.longest() {
            if since.saturating_add(idle_ms) > now {
                break;
            }
            self.close_idle(index, CloseReason::IdleTimeout);
        }
        self.context.backends.expire(now);
    }

    /// Closes a client that is in the idle list.
    fn close_idle(&mut self, index: u32, reason: CloseReason) {
        match self.key_of(index) {
            Some(key) => self.close(key, reason),
            None => self.idle.remove(index),
        }
    }

    fn close(&mut self, key: Key, reason: CloseReason) {
        if let Some(client) = self.clients.get_mut(key) {
            client.close(reason, &mut self.context);
            self.remove(key, reason);
        }
    }

    /// Gives back memory that has been unused for a while, as after a load. The worker wakes for
    /// this only as long as there is memory to give back.
    fn give_back(&mut self) {
        let now = self.context.clock.now();
        if self.give_back_at <= now {
            self.context.give_back();
            self.clients.give_back();
            self.timers.give_back();
            self.idle.give_back();
            if self.queue.is_empty() && self.queue.capacity() > ITEMS_KEPT {
                self.queue = VecDeque::with_capacity(ITEMS_KEPT);
            }
            self.give_back_at = NEVER;
            if !self.has_unused() {
                merge_free();
            }
        }
        if self.give_back_at == NEVER && self.has_unused() {
            self.give_back_at = Clock::after(now, UNUSED);
        }
    }

    fn has_unused(&self) -> bool {
        self.context.has_unused() || self.clients.has_unused()
    }

    /// While the process drains: closes idle connections, and at the end all. True: all is done.
    fn drain(&mut self, all_came: bool) -> bool {
        let Some((begun, until)) = self.drain_times() else {
            return false;
        };
        let now = self.context.clock.settled();
        while let Some((index, since)) = self.idle.longest()
            && idle_until(begun, since) <= now
        {
            self.close_or_serve(index);
        }
        if until <= now {
            for key in self.clients.keys() {
                self.close(key, CloseReason::Stopping);
            }
        }
        all_came && self.clients.is_empty()
    }

    /// Closes an idle connection, unless a request has arrived on it whose event is on the way.
    #[cold]
    fn close_or_serve(&mut self, index: u32) {
        let before = self.idle.longest();
        if let Some(key) = self.key_of(index)
            && let Some(client) = self.clients.get_mut(key)
            && !client.side.connection.is_open_and_empty()
        {
            client.side.connection.note(Readiness::IN);
            self.turn(key, Client::advance);
            // Else it was less than a request, such as a line end.
            if self.idle.longest() != before {
                return;
            }
        }
        self.close_idle(index, CloseReason::Stopping);
    }

    /// While the process drains: since when, and until when connections are kept that are not idle.
    #[inline(always)]
    fn drain_times(&self) -> Option<(Millis, Millis)> {
        let Snapshot {
            config,
            draining_since,
            ..
        } = &**self.context.snapshot;
        let begun = self.context.clock.at((*draining_since)?);
        Some((begun, Clock::after(begun, config.timeouts.drain)))
    }

    /// When `drain` has something to do next, should no event come.
    fn next_of_drain(&self) -> Millis {
        let Some((begun, until)) = self.drain_times() else {
            return NEVER;
        };
        let idle = self.idle.longest();
        let idle_until = idle.map_or(NEVER, |(_, since)| idle_until(begun, since));
        let times = [idle_until, until].into_iter();
        times
            .filter(|time| *time > self.context.clock.settled())
            .min()
            .unwrap_or(NEVER)
    }
}

/// Until when a connection that has been idle `since` is kept by a process that has drained since
/// `begun`.
fn idle_until(begun: Millis, since: Millis) -> Millis {
    Clock::after(since.max(begun), DRAIN_IDLE)
}

#[cfg(test)]
#[path = "worker_tests.rs"]
mod tests;
