//! The thread that checks backends: one [`Probe`] each, many at once, waiting in one place.
//!
//! Every backend has its own times. As many checks run at once as the descriptor budget allows;
//! while more are due, backends that are up come first, then those that have waited longest. The
//! first round is at once; after it the checks are spread over the interval in the order of the
//! backends. A backend that goes down under an exchange is checked `down_interval` later, one that
//! dies under an exchange at once: the pool wakes this thread.
//!
//! A turn looks at the backends whose checks run. All are looked at when this thread is woken or
//! one of them is due, and then not again for a while, which is long if they are many.
//!
//! Read next: `checks/probe.rs`, one check; `pool/health.rs`, what its verdict means.

use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use crate::checks::probe::{Probe, Rest, Verdict};
use crate::live::{Follower, Live, Snapshot};
use crate::net::thread;
use crate::net::waker::{Waker, timespec};
use crate::pool::backend::Backend;
use crate::pool::settings::{HealthCheckSettings, Kind};
use crate::pool::state::BackendId;

/// Waking this much later than planned means that the process was held up.
const STALL_MIN: Duration = Duration::from_millis(500);

/// Backends that are looked at for due checks in a millisecond, on average: of 10,000 a check begins
/// up to 156 ms late.
const LOOKS_PER_MS: u64 = 64;

/// A running checker; dropping it stops the thread at once.
#[derive(Debug)]
pub(crate) struct Checker {
    waker: Arc<Waker>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Checker {
    /// Starts the thread; its first round begins at once. It sleeps if nothing is to be checked.
    pub(crate) fn start(live: &Arc<Live>) -> io::Result<Checker> {
        let waker = Arc::new(Waker::new()?);
        let stop = Arc::new(AtomicBool::new(false));
        let follower = Follower::new(live.clone(), Arc::clone(&waker));
        follower.pool.wake_checker_with(Arc::clone(&waker));
        let mut rounds = Rounds::new(follower, Arc::clone(&waker), Arc::clone(&stop));
        let thread = thread::start("checker", move || rounds.run())?;
        Ok(Checker {
            waker,
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Checker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.waker.wake();
        if let Some(thread) = self.thread.take() {
            // No error is possible: a panic there ends the process.
            let _ = thread.join();
        }
    }
}

struct Rounds {
    follower: Follower,
    waker: Arc<Waker>,
    stop: Arc<AtomicBool>,
    /// The settings by which the slots were planned.
    settings: HealthCheckSettings,
    /// In the order of the backends.
    slots: Vec<Slot>,
    /// The places of those with an open connection.
    running: Vec<usize>,
    /// The places of those that are due and for which there was no room, the first to begin first.
    waiting: VecDeque<usize>,
    /// When to look at all of them for checks that are due.
    next_look: Instant,
    /// Not before this, even if this thread is woken.
    rests_until: Instant,
}

/// Bytes of one backend beside its running check.
pub(crate) const BYTES_EACH: usize = size_of::<Slot>()
    + 3 * size_of::<(PollFd<'_>, usize)>()
    + 2 * size_of::<(bool, Instant, usize)>();

/// The checks of one backend.
struct Slot {
    backend: BackendId,
    /// When the next check begins, or began.
    due: Instant,
    /// The part of the first interval after which the second check begins: (place + 1) / number of
    /// backends.
    first_share: Option<(u32, u32)>,
    probe: Option<Probe>,
    /// The last check's connection, being closed.
    rest: Option<Rest>,
    /// One of its sockets is ready.
    is_ready: bool,
    /// The last check failed because the backend had no address.
    without_address: bool,
    /// When the last check that a death asked for began or will begin.
    asked: Option<Instant>,
}

impl Rounds {
    fn new(follower: Follower, waker: Arc<Waker>, stop: Arc<AtomicBool>) -> Rounds {
        let now = Instant::now();
        let mut rounds = Rounds {
            settings: follower.config.health_check.clone(),
            follower,
            waker,
            stop,
            slots: Vec::new(),
            running: Vec::new(),
            waiting: VecDeque::new(),
            next_look: now,
            rests_until: now,
        };
        rounds.set_slots();
        rounds
    }

    fn run(&mut self) {
        let mut now = Instant::now();
        while !self.stop.load(Ordering::Acquire) {
            if self.follower.look() {
                self.set_slots();
            }
            self.go_on(now);
            self.begin_due(now);
            now = self.wait(now);
        }
    }

    /// A slot for each backend of the live pool. A backend that was there before keeps its slot;
    /// checks of removed backends end here.
    fn set_slots(&mut self) {
        let due = Instant::now();
        let pool = &self.follower.pool;
        let number = u32::try_from(pool.backends().len()).unwrap_or(u32::MAX);
        let slots = (1..=number).zip(pool.backends());
        let slots = slots.map(|(place, backend)| Slot {
            backend: backend.id,
            due,
            first_share: Some((place, number)),
            probe: None,
            rest: None,
            is_ready: false,
            without_address: false,
            asked: None,
        });
        for slot in std::mem::replace(&mut self.slots, slots.collect()) {
            if let Some(place) = pool.place(slot.backend) {
                self.slots[place] = slot;
            }
        }
        let places = 0..self.slots.len();
        self.running = places
            .filter(|&place| self.slots[place].open() > 0)
            .collect();
        // Places in the pool before; all are looked at again.
        self.waiting.clear();
        (self.next_look, self.rests_until) = (due, due);
        let settings = &self.follower.config.health_check;
        if self.settings != *settings {
            self.settings.clone_from(settings);
            self.slots
                .iter_mut()
                .for_each(|slot| slot.replan(settings, due));
        }
    }

    /// Carries the running checks on.
    fn go_on(&mut self, now: Instant) {
        let snapshot: &Snapshot = &self.follower;
        let settings = &snapshot.config.health_check;
        let backends = snapshot.pool.backends();
        let (slots, next_look) = (&mut self.slots, &mut self.next_look);
        self.running.retain(|&place| {
            let (slot, backend) = (&mut slots[place], &backends[place]);
            slot.close_rest(now);
            slot.go_on(snapshot, backend, now);
            if slot.probe.is_none() {
                *next_look = slot.begins_at(backend, settings).min(*next_look);
            }
            slot.open() > 0
        });
    }

    /// Looks at all backends for checks that are due.
    fn look(&mut self, now: Instant) {
        let snapshot: &Snapshot = &self.follower;
        let settings = &snapshot.config.health_check;
        let pause = self.slots.len() as u64 / LOOKS_PER_MS;
        self.rests_until = now + Duration::from_millis(pause);
        self.next_look = now + settings.interval;
        let mut due = Vec::new();
        let slots = self.slots.iter_mut().zip(snapshot.pool.backends());
        for (place, (slot, backend)) in slots.enumerate() {
            if !backend.settings.check || settings.kind == Kind::None || slot.probe.is_some() {
                continue;
            }
            if slot.is_due(backend, settings, now) {
                due.push((!backend.is_healthy(), slot.due, place));
            } else {
                self.next_look = slot.begins_at(backend, settings).min(self.next_look);
            }
        }
        due.sort_unstable();
        self.waiting = due.into_iter().map(|(.., place)| place).collect();
    }

    /// Begins the checks that are due, as many as may run.
    fn begin_due(&mut self, now: Instant) {
        if now >= self.next_look.max(self.rests_until) {
            self.look(now);
        }
        let snapshot: &Snapshot = &self.follower;
        let settings = &snapshot.config.health_check;
        let backends = snapshot.pool.backends();
        let running = self.running.iter();
        let mut open: usize = running.map(|&place| self.slots[place].open()).sum();
        while let Some(&place) = self.waiting.front() {
            let (slot, backend) = (&mut self.slots[place], &backends[place]);
            // Ending its own last check makes room.
            let own = slot.open();
            if open - own >= snapshot.descriptors.checks {
                break;
            }
            self.waiting.pop_front();
            // The time for a lookup runs from when the check was due.
            let begun = if awaits_name(backend) { slot.due } else { now };
            slot.rest = None;
            slot.probe = Some(Probe::new(settings, &snapshot.head_limits, begun));
            slot.go_on(snapshot, backend, now);
            if slot.probe.is_none() {
                self.next_look = slot.begins_at(backend, settings).min(self.next_look);
            }
            open = open - own + slot.open();
            if slot.open() > 0 && !self.running.contains(&place) {
                self.running.push(place);
            }
        }
    }

    /// Waits for the waker, a socket or the next due time, and marks the slots whose sockets are
    /// ready. Returns the time.
    fn wait(&mut self, before: Instant) -> Instant {
        let mut fds = vec![PollFd::new(&*self.waker, PollFlags::IN)];
        let mut places = Vec::new();
        let mut wake_at = self.next_look.max(self.rests_until);
        for &place in &self.running {
            let slot = &self.slots[place];
            if let Some(at) = slot.wake_at() {
                wake_at = wake_at.min(at);
            }
            for (fd, flags) in slot.interests() {
                fds.push(PollFd::from_borrowed_fd(fd, flags));
                places.push(place);
            }
        }
        let patience = wake_at.saturating_duration_since(Instant::now());
        // A signal ends it too: deadlines are judged only after a second look at the sockets.
        let waited = poll(&mut fds, Some(&timespec(patience)));
        let now = Instant::now();
        let looked = poll(&mut fds, Some(&timespec(Duration::ZERO)));
        if !fds[0].revents().is_empty() {
            self.next_look = now;
        }
        self.waker.clear();
        if looked.is_err() || waited.is_err_and(|error| error != Errno::INTR) {
            // Out of memory: do not spin.
            std::thread::sleep(Duration::from_millis(100));
            return before;
        }
        let sockets = fds[1..].iter().zip(places);
        let ready = sockets.filter(|(fd, _)| !fd.revents().is_empty());
        let ready: Vec<usize> = ready.map(|(_, place)| place).collect();
        for place in ready {
            self.slots[place].is_ready = true;
        }
        if now.saturating_duration_since(wake_at) > STALL_MIN {
            // The process was stopped or had no processor: no backend was late.
            for &place in &self.running {
                if let Some(probe) = &mut self.slots[place].probe {
                    probe.postpone(now.saturating_duration_since(before));
                }
            }
        }
        now
    }
}

impl Slot {
    /// Ends a check that runs under settings no longer in force, and brings forward what was
    /// planned by them.
    fn replan(&mut self, settings: &HealthCheckSettings, now: Instant) {
        if self.probe.take().is_some() {
            self.due = now;
        }
        self.due = self.due.min(now + settings.interval);
    }

    /// Closes the connection of the last check once it may be closed.
    fn close_rest(&mut self, now: Instant) {
        if self.rest.as_mut().is_some_and(|rest| rest.advance(now)) {
            self.rest = None;
        }
    }

    /// Whether a check must begin.
    fn is_due(&mut self, backend: &Backend, settings: &HealthCheckSettings, now: Instant) -> bool {
        if !backend.is_healthy() {
            self.due = self.due.min(now + settings.down_interval);
        }
        if self.without_address && !backend.addresses().is_empty() {
            self.due = now;
        }
        self.hear_wish(backend, settings, now);
        self.begins_at(backend, settings) <= now
    }

    /// When the next check begins, if there is room. During the first lookup of the name there is
    /// nothing to check; when that has taken the time of one check, that is the verdict.
    fn begins_at(&self, backend: &Backend, settings: &HealthCheckSettings) -> Instant {
        if awaits_name(backend) {
            self.due + settings.timeout
        } else {
            self.due
        }
    }

    /// Carries a running check on, unless the backend is not checked any more.
    fn go_on(&mut self, snapshot: &Snapshot, backend: &Backend, now: Instant) {
        let is_ready = std::mem::take(&mut self.is_ready);
        let Snapshot { pool, config, .. } = snapshot;
        let settings = &config.health_check;
        if !backend.settings.check || settings.kind == Kind::None {
            (self.probe, self.rest) = (None, None);
            return;
        }
        let Some(verdict) = self
            .probe
            .as_mut()
            .and_then(|probe| probe.advance(backend, settings, now, is_ready))
        else {
            return;
        };
        if let Some(probe) = self.probe.take() {
            if let Some(checked) = probe.checked(&verdict, settings.kind, now) {
                backend.checked(checked);
            }
            self.rest = probe.into_rest();
        }
        match verdict {
            Verdict::Passed => pool.probed(backend, Ok(())),
            Verdict::Failed(reason) => pool.probed(backend, Err(&reason)),
            Verdict::Nothing(reason) => {
                log::debug!(
                    "a check of backend {:?} could not be made: {reason}",
                    backend.settings.name
                );
            }
        }
        self.without_address = backend.addresses().is_empty();
        self.plan(backend.is_healthy(), settings, now);
        // A wish during this check may concern something that happened after the check had looked.
        self.hear_wish(backend, settings, now);
    }

    /// Checks a backend that died under an exchange: at once, but not more than once in
    /// `down_interval`.
    fn hear_wish(&mut self, backend: &Backend, settings: &HealthCheckSettings, now: Instant) {
        if !backend.take_check_wish() || self.asked.is_some_and(|planned| planned > now) {
            return;
        }
        let earliest = self.asked.map(|last| last + settings.down_interval);
        let at = earliest.map_or(now, |earliest| earliest.max(now));
        self.asked = Some(at);
        self.due = self.due.min(at);
    }

    /// Counts from when this check was due, so that checks stay spread; a late check is made up for
    /// at once, not twice.
    fn plan(&mut self, healthy: bool, settings: &HealthCheckSettings, now: Instant) {
        let mut pause = if healthy {
            settings.interval
        } else {
            settings.down_interval
        };
        if let Some((share, number)) = self.first_share.take() {
            pause = pause * share / number;
        }
        self.due = now.max(self.due + pause);
    }

    /// When to look at it without an event.
    fn wake_at(&self) -> Option<Instant> {
        let probe = self.probe.as_ref().map(Probe::wake_at);
        let rest = self.rest.as_ref().map(Rest::deadline);
        probe.into_iter().chain(rest).min()
    }

    /// Its open connections.
    fn open(&self) -> usize {
        usize::from(self.probe.is_some()) + usize::from(self.rest.is_some())
    }

    fn interests(&self) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        let probe = self.probe.as_ref().and_then(Probe::interest);
        probe
            .into_iter()
            .chain(self.rest.as_ref().map(Rest::interest))
    }
}

/// Whether the first lookup of its name is still to come.
fn awaits_name(backend: &Backend) -> bool {
    // Asked before the addresses, so that none can arrive in between.
    backend.is_lookup_pending() && backend.addresses().is_empty()
}

#[cfg(test)]
#[path = "checker_tests.rs"]
mod tests;
