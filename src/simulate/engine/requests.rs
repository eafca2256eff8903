//! A request's way through the pool.
//!
//! What `exchange/connecting.rs` and `exchange/ending.rs` do with a request is done here, too: choose
//! a backend, take an idle connection or open one, send, and after a failure go by its row in
//! `exchange/failure.rs`.
//!
//! Read next: `pool/mod.rs`, what is played.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use rustix::io::Errno;

use crate::config::Mode;
use crate::exchange::failure::{Age, Failure, Next, Request};
use crate::pool::backend::{Backend, InFlight};
use crate::pool::queue::{Waiter, Waiting};
use crate::pool::{Choice, Event as Sign, Selection, Served, Tried};
use crate::simulate::agenda::What;
use crate::simulate::engine::clients::Call;
use crate::simulate::engine::{Engine, NONE};
use crate::simulate::figures::PARTS;
use crate::simulate::numbers::{index, us};
use crate::simulate::scenario::Load;

/// A request on its way.
#[derive(Debug)]
pub(super) struct OnItsWay {
    pub(super) call: Call,
    pub(super) tried: Tried,
    /// Of `balance.tries`.
    pub(super) used: u32,
    pub(super) attempts: u32,
    pub(super) has_blamed: bool,
    /// Its last try counts when it is repeated.
    pub(super) repeats: bool,
    /// The status of the last failure.
    pub(super) failure: Option<u16>,
    pub(super) place: Option<InFlight>,
    /// In the queue, since then, and how long before.
    pub(super) waiting: Option<Waiting>,
    pub(super) waits_from_us: u64,
    pub(super) waited_us: u64,
    pub(super) stage: Stage,
    /// Changes with each try.
    pub(super) stamp: u32,
    pub(super) chosen_us: u64,
    pub(super) sent_us: u64,
    pub(super) is_reused: bool,
    /// The answer binds its client to the backend.
    pub(super) set_cookie: bool,
    /// What the server will answer.
    pub(super) status: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// There is none.
    Free,
    Connecting,
    Sent,
}

/// The value in a backend's `Set-Cookie` field.
fn cookie_value(backend: &Backend) -> Option<&[u8]> {
    let field = backend.set_cookie(false)?;
    let equals = field.iter().position(|byte| *byte == b'=')?;
    let end = field.iter().position(|byte| *byte == b';')?;
    field.get(equals + 1..end)
}

impl Engine<'_> {
    pub(super) fn take_in(&mut self, call: Call) {
        self.open += 1;
        let id = self.free.pop().unwrap_or_else(|| {
            self.requests.push(OnItsWay::none(call));
            index(self.requests.len() - 1)
        });
        let request = &mut self.requests[id as usize];
        request.call = call;
        request.tried.clear();
        request.used = 0;
        request.repeats = false;
        request.attempts = 0;
        request.has_blamed = false;
        request.failure = None;
        request.waited_us = 0;
        self.go_on(id as usize, Some(Next::OtherBackend));
    }

    /// Goes on with a request until there is something to wait for, or it is over.
    pub(super) fn go_on(&mut self, id: usize, mut next: Option<Next>) {
        while let Some(step) = next {
            next = match step {
                Next::OtherBackend if !self.choose(id) => return,
                Next::OtherBackend => self.connect(id, true),
                Next::SameBackend => self.connect(id, false),
                Next::Answer => {
                    let status = self.requests[id].failure;
                    return self.finish(id, status.unwrap_or(502));
                }
            };
        }
    }

    /// Chooses a backend for a request; it is over if there is none.
    fn choose(&mut self, id: usize) -> bool {
        let request = &mut self.requests[id];
        let client = request.call.client;
        let bound = self.clients[client as usize].bound as usize;
        let selection = Selection {
            client: match &self.scenario.load {
                Load::Log(log) => log.clients[client as usize],
                _ => IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0001 + client)),
            },
            // A client always asks for the same.
            key: None,
            cookie: self
                .pool
                .backends()
                .get(bound)
                .and_then(|it| cookie_value(it)),
            tries_left: request.used < self.config.balance.tries,
            repeats: request.repeats,
        };
        let waiter = self.config.balance.queue.map(|_| Waiter {
            worker: 0,
            connection: id as u64,
        });
        let tried = &mut request.tried;
        let status = match self.pool.choose_or_wait(&selection, tried, None, waiter) {
            Choice::Backend {
                in_flight,
                set_cookie,
            } => {
                self.begin_try(id, in_flight, set_cookie);
                return true;
            }
            Choice::Waiting(waiting) => {
                self.wait(id, waiting);
                return false;
            }
            Choice::Unavailable => 503,
            Choice::QueueFull => request.failure.unwrap_or(503),
            Choice::Exhausted => request.failure.unwrap_or(502),
        };
        self.finish(id, status);
        false
    }

    fn begin_try(&mut self, id: usize, in_flight: InFlight, set_cookie: bool) {
        let request = &mut self.requests[id];
        request.set_cookie = set_cookie;
        request.attempts += 1;
        self.figures.repeated += u64::from(request.attempts == 2);
        request.chosen_us = self.now_us;
        let part = self.now_us * PARTS as u64 / self.scenario.duration_us;
        let of_backend = &mut self.figures.backends[in_flight.index];
        let now_us = self.now_us.min(self.scenario.duration_us);
        of_backend.add(
            now_us,
            usize::try_from(part).unwrap_or(PARTS),
            in_flight.in_flight(),
        );
        request.place = Some(in_flight);
    }

    /// Waits for a place.
    fn wait(&mut self, id: usize, waiting: Waiting) {
        let most_us = self
            .config
            .balance
            .queue
            .map_or(0, |queue| us(queue.timeout));
        let request = &mut self.requests[id];
        request.waiting = Some(waiting);
        request.waits_from_us = self.now_us;
        let at_us = self.now_us + most_us.saturating_sub(request.waited_us);
        let stamp = request.stamp;
        self.agenda
            .plan(at_us, What::QueueTimeout, index(id), stamp);
        self.figures.queue_max = self.figures.queue_max.max(self.pool.waiting());
    }

    /// Goes on with those that were given places.
    pub(super) fn take_places(&mut self) {
        while let Some(connection) = self.pool.next_given(0) {
            let id = index(connection) as usize;
            let request = &mut self.requests[id];
            request.stamp = request.stamp.wrapping_add(1);
            request.waited_us += self.now_us - request.waits_from_us;
            let waiting = request.waiting.take();
            let given = waiting.and_then(|mut waiting| waiting.take(&mut request.tried));
            if let Some(given) = given {
                self.begin_try(id, given.in_flight, given.set_cookie);
                let next = self.connect(id, true);
                self.go_on(id, next);
            }
        }
    }

    /// Takes an idle connection, or begins to open one.
    fn connect(&mut self, id: usize, may_reuse: bool) -> Option<Next> {
        let request = &mut self.requests[id];
        let place = request.place.as_ref()?.index;
        let server = &mut self.servers[place];
        request.stage = Stage::Connecting;
        request.is_reused = may_reuse && server.take_idle(self.now_us);
        if request.is_reused {
            self.send(id);
            return None;
        }
        let connect_us = server.plan.connect_us;
        if connect_us == 0 {
            return self.reach(id);
        }
        let stamp = request.stamp;
        let most_us = us(self.config.timeouts.connect);
        let (after_us, what) = if connect_us > most_us {
            (most_us, What::ConnectTimeout)
        } else {
            (connect_us, What::Reached)
        };
        self.agenda
            .plan(self.now_us + after_us, what, index(id), stamp);
        None
    }

    /// A connection has opened, or is refused.
    pub(super) fn reach(&mut self, id: usize) -> Option<Next> {
        let backend = self.requests[id].place.as_ref()?;
        if self.servers[backend.index].is_down {
            return self.fail(id, Failure::ConnectRefused(address(), Errno::CONNREFUSED));
        }
        self.pool
            .report(backend, Sign::Connected, &"a client's exchange connected");
        if self.config.proxy.mode == Mode::Tcp {
            let took = self.took(id);
            self.pool.served(backend, Served::Connected { took });
        }
        self.send(id);
        None
    }

    /// The answer is there.
    pub(super) fn answer(&mut self, id: usize) {
        let took = self.took(id);
        let request = &mut self.requests[id];
        let status = request.status;
        let Some(backend) = request.place.take() else {
            return;
        };
        if self.config.proxy.mode == Mode::Http {
            self.pool
                .served(&backend, Served::Answered { status, took });
            self.pool.served(&backend, Served::Whole { status });
            self.pool
                .report(&backend, Sign::Answered, &"it answered a client's request");
            if !backend.settings.send_proxy_protocol {
                let expires_us = self.now_us + us(self.config.timeouts.backend_idle);
                let most = self.config.limits.idle_backend_connections;
                self.servers[backend.index].keep_idle(expires_us, most);
            }
        }
        let client = &mut self.clients[request.call.client as usize];
        let place = index(backend.index);
        client.has_moved |= client.last != NONE && client.last != place;
        client.last = place;
        if request.set_cookie {
            client.bound = place;
        }
        drop(backend);
        self.finish(id, status);
    }

    /// A try has failed.
    pub(super) fn fail(&mut self, id: usize, failure: Failure) -> Option<Next> {
        let took = self.took(id);
        let request = &mut self.requests[id];
        let backend = request.place.take()?;
        let age = if request.is_reused {
            Age::Reused
        } else {
            Age::Fresh
        };
        let state = match request.stage {
            Stage::Sent if !request.call.is_idempotent => Request::Spent,
            Stage::Sent => Request::Repeatable,
            Stage::Connecting | Stage::Free => Request::Unsent,
        };
        let row = failure.row(age, state);
        request.stamp = request.stamp.wrapping_add(1);
        request.used += u32::from(row.costs_try);
        request.repeats = row.is_repeated();
        request.failure = Some(row.status);
        if row.concerns_backend() {
            let outcome = row.outcome;
            self.pool.served(&backend, Served::Failed { outcome, took });
        }
        let event = row.blame(&mut request.has_blamed);
        let place = backend.index;
        if let Some(event) = event {
            self.pool.report(&backend, event, &failure);
        }
        match row.next {
            Next::SameBackend => request.place = Some(backend),
            Next::OtherBackend => request.tried.insert(&backend),
            Next::Answer => {}
        }
        if event.is_some() {
            self.hear(place);
        }
        Some(row.next)
    }

    /// A request is over.
    pub(super) fn finish(&mut self, id: usize, status: u16) {
        let request = &mut self.requests[id];
        let call = request.call;
        request.stamp = request.stamp.wrapping_add(1);
        request.stage = Stage::Free;
        request.place = None;
        if status >= 500 {
            self.figures.failed += 1;
        } else {
            self.figures.times.add(self.now_us - call.came_us);
        }
        self.free.push(index(id));
        self.open -= 1;
        self.let_think(call.client);
    }

    fn took(&self, id: usize) -> Duration {
        Duration::from_micros(self.now_us - self.requests[id].chosen_us)
    }
}

impl OnItsWay {
    fn none(call: Call) -> OnItsWay {
        OnItsWay {
            call,
            tried: Tried::default(),
            used: 0,
            attempts: 0,
            has_blamed: false,
            repeats: false,
            failure: None,
            place: None,
            waiting: None,
            waits_from_us: 0,
            waited_us: 0,
            stage: Stage::Free,
            stamp: 0,
            chosen_us: 0,
            sent_us: 0,
            is_reused: false,
            set_cookie: false,
            status: 0,
        }
    }
}

/// Where no connection goes to.
pub(super) fn address() -> SocketAddr {
    SocketAddr::from(([0, 0, 0, 0], 0))
}
