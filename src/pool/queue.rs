//! The queue of requests that wait for a place, because all backends that they could go to are
//! full.
//!
//! It is a part of the balancer's state, under its one lock. A place that becomes free is given away
//! in the critical section in which it does: to the request that has waited longest, or first to one
//! that waits for another try. So a newcomer that finds a free place overtakes no other, and no
//! wake-up is lost: who was given a place holds it, and dropping a [`Waiting`] gives it to the next.
//!
//! One rule keeps this bounded: of the retries, which may have tried the free backend already, the
//! oldest [`RETRIES_LOOKED_AT`] are asked; of the others, which have tried none, the oldest speaks
//! for all.
//!
//! The list has all its room from the start of the pool; nothing here allocates.

use std::sync::{Arc, MutexGuard};

use crate::net::lock::lock;
use crate::net::mailbox::Mailbox;
use crate::pool::Pool;
use crate::pool::backend::InFlight;
use crate::pool::chooser::Chooser;
use crate::pool::chooser::draws::Random;
use crate::pool::following::{Shared, State};
use crate::pool::roster::Tried;
use crate::pool::state::BackendId;
use crate::pool::trace::Rule;

/// So many waiting retries are looked at for one free place.
const RETRIES_LOOKED_AT: usize = 64;

/// The lists that a place in the queue can be in; behind them one for each worker, of its requests
/// that were given a place and of which it has not been told.
const FREE: usize = 0;
const RETRIES: usize = 1;
const NEWCOMERS: usize = 2;
const TOLD: usize = 3;
const OF_WORKERS: usize = 4;

/// No place in the queue.
const NONE: u32 = u32::MAX;

/// Who waits: plain values, of which the pool understands the first.
#[derive(Debug, Clone, Copy, Default)]
pub struct Waiter {
    /// The worker that is told when there is a place, from 0.
    pub worker: usize,
    /// What the worker is told: which of its connections waits.
    pub connection: u64,
}

/// The requests that wait, and those that were given a place and have not taken it up.
#[derive(Debug)]
pub(in crate::pool) struct Queue {
    entries: Vec<Entry>,
    lists: Vec<List>,
    /// How many wait.
    waiting: usize,
}

/// A place in the queue, in one of the lists at any time.
#[derive(Debug)]
struct Entry {
    list: usize,
    before: u32,
    after: u32,
    request: Request,
}

#[derive(Debug, Clone, Copy)]
struct List {
    first: u32,
    last: u32,
}

/// All that its choice needs of a waiting request.
#[derive(Debug, Default)]
struct Request {
    waiter: Waiter,
    tried: Tried,
    /// For a method by hash.
    key: u64,
    /// The backend to which its client is bound.
    bound: Option<BackendId>,
    given: Option<Given>,
}

/// A place at a backend, for a request that waited for one.
#[derive(Debug)]
pub(crate) struct Given {
    pub(crate) in_flight: InFlight,
    pub(crate) set_cookie: bool,
    pub(crate) rule: Rule,
}

/// A request's place in the queue. Dropping it gives up what was waited for.
#[derive(Debug)]
pub struct Waiting {
    shared: Arc<Shared>,
    at: u32,
}

impl Queue {
    /// Bytes of each place.
    pub(in crate::pool) const BYTES_EACH: usize = size_of::<Entry>();

    /// With room for so many.
    #[inline(never)]
    pub(in crate::pool) fn new(room: usize, workers: usize) -> Queue {
        let list = List {
            first: NONE,
            last: NONE,
        };
        let mut queue = Queue {
            entries: Vec::with_capacity(room),
            lists: vec![list; OF_WORKERS + workers],
            waiting: 0,
        };
        for at in (0..).take(room) {
            queue.entries.push(Entry {
                list: FREE,
                before: NONE,
                after: NONE,
                request: Request::default(),
            });
            queue.append(at, FREE);
        }
        queue
    }

    /// How many wait.
    #[inline]
    pub(in crate::pool) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Places in all.
    #[cfg(test)]
    pub(in crate::pool) fn room(&self) -> usize {
        self.entries.len()
    }

    /// Whether any waits that is no retry.
    #[cfg(test)]
    pub(in crate::pool) fn has_newcomers(&self) -> bool {
        self.lists[NEWCOMERS].first != NONE
    }

    /// Whether there is room for one more of this worker's.
    fn has_room(&self, worker: usize) -> bool {
        self.lists[FREE].first != NONE && OF_WORKERS + worker < self.lists.len()
    }

    /// Takes up one more, for which there is room.
    fn add(&mut self, request: Request, is_retry: bool) -> u32 {
        let at = self.lists[FREE].first;
        self.entries[at as usize].request = request;
        self.shift(at, if is_retry { RETRIES } else { NEWCOMERS });
        at
    }

    /// Frees a place; what it held is to be dropped when the lock is released.
    fn free(&mut self, at: u32) -> Request {
        self.shift(at, FREE);
        std::mem::take(&mut self.entries[at as usize].request)
    }

    /// Moves a place to the end of another list.
    fn shift(&mut self, at: u32, list: usize) {
        let Entry {
            list: left,
            before,
            after,
            ..
        } = self.entries[at as usize];
        match self.entries.get_mut(before as usize) {
            Some(entry) => entry.after = after,
            None => self.lists[left].first = after,
        }
        match self.entries.get_mut(after as usize) {
            Some(entry) => entry.before = before,
            None => self.lists[left].last = before,
        }
        let waits = |list| usize::from(list == RETRIES || list == NEWCOMERS);
        self.waiting = self.waiting + waits(list) - waits(left);
        self.append(at, list);
    }

    fn append(&mut self, at: u32, list: usize) {
        let before = std::mem::replace(&mut self.lists[list].last, at);
        match self.entries.get_mut(before as usize) {
            Some(entry) => entry.after = at,
            None => self.lists[list].first = at,
        }
        let entry = &mut self.entries[at as usize];
        (entry.list, entry.before, entry.after) = (list, before, NONE);
    }
}

impl Request {
    /// The backend that takes it, if one does, why that one, and whether it binds the client.
    fn choose(&self, chooser: &mut Chooser, random: &mut Random) -> Option<(usize, Rule, bool)> {
        let roster = &chooser.backends().first()?.roster;
        let is_of_roster = self.tried.is_of(roster);
        let bound = self.bound.and_then(|bound| roster.place(bound));
        let bound = bound.filter(|&bound| {
            let backend = &chooser.backends()[bound];
            backend.serves_bound() && !self.tried.has(backend)
        });
        if let Some(bound) = bound
            && !chooser.backends()[bound].is_full()
        {
            return Some((bound, Rule::Cookie, false));
        }
        // No room here to translate what it tried in a pool that is not the one that chooses now.
        let none = Tried::default();
        let tried = if is_of_roster { &self.tried } else { &none };
        let (place, rule) = chooser.pick(tried, random, self.key).ok()?;
        let backend = &chooser.backends()[place];
        if !is_of_roster && self.tried.has(backend) {
            return None;
        }
        let rule = match rule {
            Rule::FailOpen => rule,
            _ => Rule::FreePlace,
        };
        let binds = bound.is_none() && self.bound != Some(backend.id);
        Some((place, rule, binds && backend.set_cookie.is_some()))
    }
}

impl State {
    /// Gives a free place, if there is one, to the first request that may have it. Returns the worker
    /// to be called when the lock is released.
    #[inline]
    fn give(&mut self) -> Option<usize> {
        if self.queue.waiting == 0 {
            return None;
        }
        self.give_to_oldest()
    }

    #[inline(never)]
    fn give_to_oldest(&mut self) -> Option<usize> {
        let State {
            chooser,
            random,
            queue,
            ..
        } = self;
        chooser.look_at_due();
        if !chooser.has_free() {
            return None;
        }
        let mut choice = None;
        'lists: for (list, most) in [(RETRIES, RETRIES_LOOKED_AT), (NEWCOMERS, 1)] {
            let (mut at, mut left) = (queue.lists[list].first, most);
            while at != NONE && left > 0 {
                let entry = &queue.entries[at as usize];
                choice = entry.request.choose(chooser, random).map(|it| (at, it));
                if choice.is_some() {
                    break 'lists;
                }
                (at, left) = (entry.after, left - 1);
            }
        }
        let (at, (place, rule, set_cookie)) = choice?;
        let in_flight = InFlight::take(&chooser.backends()[place]);
        chooser.took(place);
        let request = &mut queue.entries[at as usize].request;
        request.given = Some(Given {
            in_flight,
            set_cookie,
            rule,
        });
        let worker = request.waiter.worker;
        queue.shift(at, OF_WORKERS + worker);
        Some(worker)
    }
}

impl Shared {
    /// Gives free places to those that wait, after something has changed.
    #[inline]
    pub(in crate::pool) fn serve<'a>(&'a self, mut state: MutexGuard<'a, State>) {
        while let Some(worker) = state.give() {
            let may_go_on = state.queue.waiting > 0 && state.chooser.has_free();
            drop(state);
            self.call(worker);
            if !may_go_on {
                return;
            }
            state = lock(&self.state);
        }
    }

    /// Calls the worker of a request that was given a place; the lock is released.
    fn call(&self, worker: usize) {
        if let Some(mailbox) = self.mailboxes.get(worker).and_then(|place| place.get()) {
            mailbox.call();
        }
    }

    /// Makes room for so many, on the thread that makes the pool; fewer than before only if no
    /// request is in a place that would go.
    #[inline(never)]
    pub(in crate::pool) fn make_room(&self, room: usize) {
        let mut next = Queue::new(room, self.mailboxes.len());
        let mut state = lock(&self.state);
        let queue = &mut state.queue;
        let mut going = queue.entries.iter().skip(room);
        if queue.entries.len() == room || going.any(|entry| entry.list != FREE) {
            return;
        }
        for list in RETRIES..queue.lists.len() {
            while queue.lists[list].first != NONE {
                let at = queue.lists[list].first;
                next.entries[at as usize].request = queue.free(at);
                next.shift(at, list);
            }
        }
        // The old list is dropped when the lock is released.
        std::mem::swap(queue, &mut next);
    }
}

impl Pool {
    /// Bytes of the queue that a pool with these settings has.
    pub(crate) fn queue_bytes(length: usize) -> usize {
        2 * length * Queue::BYTES_EACH
    }

    /// The mailbox by which a worker is called when one of its requests is given a place. Only the
    /// first is kept.
    pub(crate) fn call_worker_with(&self, worker: usize, mailbox: Arc<Mailbox>) {
        if let Some(place) = self.shared.mailboxes.get(worker) {
            let _ = place.set(mailbox);
        }
    }

    /// How many requests wait, in all pools that follow each other.
    pub(crate) fn waiting(&self) -> usize {
        lock(&self.shared.state).queue.waiting
    }

    /// The next connection of a worker whose request was given a place.
    pub(crate) fn next_given(&self, worker: usize) -> Option<u64> {
        let mut state = lock(&self.shared.state);
        let queue = &mut state.queue;
        let at = queue.lists.get(OF_WORKERS + worker)?.first;
        let entry = queue.entries.get(at as usize)?;
        let connection = entry.request.waiter.connection;
        queue.shift(at, TOLD);
        Some(connection)
    }

    /// Gives the places that this pool has to those that wait, as it is the live one now.
    pub(crate) fn serve_waiting(&self) {
        let state = lock(&self.shared.state);
        if state.queue.waiting > 0 {
            drop(self.serve_first(state));
        }
    }

    /// Gives free places to those that wait, before a newcomer may have one.
    #[cold]
    pub(in crate::pool) fn serve_first<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
    ) -> MutexGuard<'a, State> {
        loop {
            let is_ours = state.chooser.is_of(&self.backends);
            let gone = (!is_ours).then(|| self.take_over(&mut state));
            let worker = state.give();
            if worker.is_none() && gone.is_none() {
                return state;
            }
            drop(state);
            drop(gone);
            if let Some(worker) = worker {
                self.shared.call(worker);
            }
            state = lock(&self.shared.state);
        }
    }

    /// Takes up a request that waits; none where the queue is full.
    #[cold]
    pub(in crate::pool) fn wait(
        &self,
        mut state: MutexGuard<'_, State>,
        waiter: Waiter,
        (key, bound): (u64, Option<usize>),
        tried: &mut Tried,
    ) -> Option<Waiting> {
        if state.queue.waiting >= self.queue_length || !state.queue.has_room(waiter.worker) {
            return None;
        }
        let is_retry = tried.choices > 1;
        let request = Request {
            waiter,
            key,
            bound: bound.map(|bound| self.backends[bound].id),
            tried: std::mem::take(tried),
            given: None,
        };
        let at = state.queue.add(request, is_retry);
        Some(Waiting {
            shared: Arc::clone(&self.shared),
            at,
        })
    }
}

impl Waiting {
    /// The place that it was given, if it was; and the backends that it has tried come back.
    pub(crate) fn take(&mut self, tried: &mut Tried) -> Option<Given> {
        let mut state = lock(&self.shared.state);
        let entry = state.queue.entries.get_mut(self.at as usize)?;
        let given = entry.request.given.take()?;
        let request = state.queue.free(self.at);
        drop(state);
        self.at = NONE;
        *tried = request.tried;
        Some(given)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.at == NONE {
            return;
        }
        // A place that it was given goes to the next when the lock is released.
        let request = lock(&self.shared.state).queue.free(self.at);
        drop(request);
    }
}
