//! Plays a scenario by one method: the pool as it is, on a clock that jumps from one event to the
//! next.
//!
//! What `exchange/connecting.rs` and `exchange/ending.rs` do with a request is done here, too: choose
//! a backend, take an idle connection or open one, send, and after a failure go by its row in
//! `exchange/failure.rs`. Nothing is sent; a [`Server`] says when the answer would be there.
//!
//! Read next: `pool/mod.rs`, what is played.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::io::Errno;

use crate::config::{Config, Mode};
use crate::exchange::failure::{Age, Failure, Next, Request};
use crate::net::atomic::AtomicU64;
use crate::pool::backend::{Backend, InFlight};
use crate::pool::queue::{Waiter, Waiting};
use crate::pool::settings::Kind;
use crate::pool::time::Sources;
use crate::pool::trace::Outcome;
use crate::pool::{Choice, Event as Sign, Pool, Selection, Served, Tried};
use crate::simulate::agenda::{Agenda, Event, What};
use crate::simulate::checks::{Schedule, Times};
use crate::simulate::figures::{Figures, PARTS};
use crate::simulate::numbers::{Draws, For, MILLION, index, mean_gap_us, mean_us, us};
use crate::simulate::scenario::{Load, REQUESTS_MAX, Scenario};
use crate::simulate::server::{Server, Work};

/// Requests that wait for room among `proxy.max_connections`, as in the kernel's queue; more are
/// refused.
const BACKLOG_MAX: usize = 4096;

/// What a client needs at least from an answer to its next request.
const THOUGHT_MIN_US: u64 = 100;

/// No client, no backend.
const NONE: u32 = u32::MAX;

/// Tries of one request that draw numbers of their own.
const TRIES: u64 = 16;

/// A request as it comes.
#[derive(Debug, Clone, Copy)]
struct Call {
    came_us: u64,
    client: u32,
    number: u64,
    logged_us: u64,
    is_idempotent: bool,
}

/// A request on its way.
#[derive(Debug)]
struct OnItsWay {
    call: Call,
    tried: Tried,
    /// Of `balance.tries`.
    used: u32,
    attempts: u32,
    has_blamed: bool,
    /// Its last try counts when it is repeated.
    repeats: bool,
    /// The status of the last failure.
    failure: Option<u16>,
    place: Option<InFlight>,
    /// In the queue, since then, and how long before.
    waiting: Option<Waiting>,
    waits_from_us: u64,
    waited_us: u64,
    stage: Stage,
    /// Changes with each try.
    stamp: u32,
    chosen_us: u64,
    sent_us: u64,
    is_reused: bool,
    /// The answer binds its client to the backend.
    set_cookie: bool,
    /// What the server will answer.
    status: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// There is none.
    Free,
    Connecting,
    Sent,
}

/// A client.
#[derive(Debug, Clone, Copy)]
struct Client {
    /// The backend that answered it last, and the one that its cookie names.
    last: u32,
    bound: u32,
    has_moved: bool,
    /// Its requests.
    number: u32,
}

pub(super) struct Engine<'a> {
    scenario: &'a Scenario,
    config: &'a Config,
    pool: Pool,
    clock: Arc<AtomicU64>,
    draws: Draws,
    now_us: u64,
    agenda: Agenda,
    servers: Vec<Server<'a>>,
    times: Times,
    requests: Vec<OnItsWay>,
    free: Vec<u32>,
    open: usize,
    backlog: VecDeque<Call>,
    clients: Vec<Client>,
    /// Requests that have come.
    came: u64,
    figures: Figures,
}

/// Plays the scenario by the method of the configuration.
#[inline(never)]
pub(super) fn play(scenario: &Scenario, config: &Config) -> Figures {
    let (sources, clock) = Sources::set(scenario.seed);
    let backends = config.backends.clone();
    let pool = Pool::with_sources(sources, backends, &config.balance, &config.health_check);
    let number = scenario.servers.len() as u64;
    let mut servers = Vec::with_capacity(scenario.servers.len());
    for (place, plan) in (1..).zip(&scenario.servers) {
        servers.push(Server::new(plan, Schedule::new(place, number)));
    }
    let client = Client {
        last: NONE,
        bound: NONE,
        has_moved: false,
        number: 0,
    };
    let mut engine = Engine {
        scenario,
        config,
        pool,
        clock,
        draws: Draws::new(scenario.seed),
        now_us: 0,
        agenda: Agenda::new(),
        times: Times::new(&config.health_check),
        requests: Vec::with_capacity(1024),
        free: Vec::with_capacity(1024),
        open: 0,
        backlog: VecDeque::new(),
        clients: vec![client; scenario.load.clients() as usize],
        came: 0,
        figures: Figures::new(servers.len()),
        servers,
    };
    engine.begin();
    engine.run();
    engine.end();
    engine.figures
}

/// The value in a backend's `Set-Cookie` field.
fn cookie_value(backend: &Backend) -> Option<&[u8]> {
    let field = backend.set_cookie(false)?;
    let equals = field.iter().position(|byte| *byte == b'=')?;
    let end = field.iter().position(|byte| *byte == b';')?;
    field.get(equals + 1..end)
}

impl Engine<'_> {
    #[inline(never)]
    fn begin(&mut self) {
        for place in 0..self.servers.len() {
            let server = index(place);
            for (number, change) in self.scenario.servers[place].events.iter().enumerate() {
                self.agenda
                    .plan_at(change.at_us, What::Change, 0, 0, (server, index(number)));
            }
            self.plan_check(place);
        }
        match self.scenario.load {
            Load::Rate { .. } | Load::Log(_) => self.plan_arrival(0),
            Load::Clients { clients, .. } => {
                for client in 0..clients {
                    self.let_think(client);
                }
            }
        }
    }

    #[inline(never)]
    fn run(&mut self) {
        while let Some(event) = self.agenda.next() {
            if event.at_us >= self.scenario.duration_us && self.open == 0 {
                break;
            }
            self.now_us = event.at_us;
            self.clock.store(event.at_us, Ordering::Relaxed);
            self.happen(event);
            if self.config.balance.queue.is_some() {
                self.take_places();
            }
            while self.open < self.config.proxy.max_connections
                && let Some(call) = self.backlog.pop_front()
            {
                self.take_in(call);
            }
        }
    }

    #[inline(never)]
    fn end(&mut self) {
        for backend in &mut self.figures.backends {
            backend.end(self.scenario.duration_us);
        }
        self.figures.requests = self.came;
        for client in &self.clients {
            self.figures.clients += u64::from(client.last != NONE);
            self.figures.moved += u64::from(client.has_moved);
        }
    }

    #[inline(never)]
    fn happen(&mut self, event: Event) {
        let id = event.who as usize;
        let is_current = |engine: &Self| {
            let request = engine.requests.get(id);
            request.is_some_and(|request| request.stamp == event.stamp)
        };
        match event.what {
            What::Arrival => self.arrive(),
            What::Asks => self.ask(event.who),
            What::Reached if is_current(self) => {
                let next = self.reach(id);
                self.go_on(id, next);
            }
            What::ConnectTimeout if is_current(self) => {
                let next = self.fail(id, Failure::ConnectTimeout(address()));
                self.go_on(id, next);
            }
            What::HeadTimeout if is_current(self) => {
                let next = self.fail(id, Failure::HeadTimeout);
                self.go_on(id, next);
            }
            What::QueueTimeout if is_current(self) => {
                let request = &mut self.requests[id];
                request.waiting = None;
                let status = request.failure.unwrap_or(503);
                self.finish(id, status);
            }
            What::Done => {
                self.free_server(event.server as usize, event.life);
                if is_current(self) {
                    self.answer(id);
                }
            }
            What::Reached | What::ConnectTimeout | What::HeadTimeout | What::QueueTimeout => {}
            What::CheckBegins => self.begin_check(event),
            What::CheckEnds => self.end_check(event),
            What::Change => self.change(event.server as usize, event.life as usize),
        }
    }

    fn plan_arrival(&mut self, last_us: u64) {
        let at_us = match &self.scenario.load {
            Load::Rate { per_second, .. } => {
                let mean_us = mean_gap_us(*per_second);
                last_us + self.draws.exponential(mean_us, For::Gap, self.came)
            }
            Load::Log(log) => match usize::try_from(self.came)
                .ok()
                .and_then(|at| log.calls.get(at))
            {
                Some(call) => call.at_us,
                None => return,
            },
            Load::Clients { .. } => return,
        };
        if at_us < self.scenario.duration_us {
            self.agenda.plan(at_us, What::Arrival, 0, 0);
        }
    }

    /// The next request of a load that does not wait for answers.
    fn arrive(&mut self) {
        let number = self.came;
        let mut call = Call {
            came_us: self.now_us,
            client: 0,
            number,
            logged_us: 0,
            is_idempotent: true,
        };
        match &self.scenario.load {
            Load::Rate { clients, .. } => {
                call.client = index(self.draws.below(u64::from(*clients), For::Client, number));
            }
            Load::Log(log) => {
                if let Some(logged) = usize::try_from(number)
                    .ok()
                    .and_then(|at| log.calls.get(at))
                {
                    call.client = logged.client;
                    call.logged_us = logged.work_us.into();
                    call.is_idempotent = logged.is_idempotent;
                }
            }
            Load::Clients { .. } => return,
        }
        self.came += 1;
        self.plan_arrival(self.now_us);
        self.take(call);
    }

    /// Plans the next request of a client that waits for answers.
    fn let_think(&mut self, client: u32) {
        let Load::Clients { think_us, .. } = self.scenario.load else {
            return;
        };
        let number = self.number_of_client(client);
        let thought_us = self
            .draws
            .exponential(mean_us(think_us), For::Thought, number);
        let at_us = self.now_us + thought_us.max(THOUGHT_MIN_US);
        if at_us < self.scenario.duration_us && self.came < REQUESTS_MAX {
            self.agenda.plan(at_us, What::Asks, client, 0);
        }
    }

    fn number_of_client(&self, client: u32) -> u64 {
        u64::from(client) << 32 | u64::from(self.clients[client as usize].number)
    }

    fn ask(&mut self, client: u32) {
        let call = Call {
            came_us: self.now_us,
            client,
            number: self.number_of_client(client),
            logged_us: 0,
            is_idempotent: true,
        };
        self.clients[client as usize].number += 1;
        self.came += 1;
        self.take(call);
    }

    /// Takes a request in, if there is room for it.
    fn take(&mut self, call: Call) {
        if self.open < self.config.proxy.max_connections {
            return self.take_in(call);
        }
        if self.backlog.len() < BACKLOG_MAX {
            self.backlog.push_back(call);
        } else {
            self.figures.failed += 1;
            self.let_think(call.client);
        }
    }

    fn take_in(&mut self, call: Call) {
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
    fn go_on(&mut self, id: usize, mut next: Option<Next>) {
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
    fn take_places(&mut self) {
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
    fn reach(&mut self, id: usize) -> Option<Next> {
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

    /// The server has the request: it begins at once, or the request waits in it.
    fn send(&mut self, id: usize) {
        let request = &mut self.requests[id];
        let Some(place) = request.place.as_ref().map(|place| place.index) else {
            return;
        };
        request.stage = Stage::Sent;
        request.sent_us = self.now_us;
        let server = &mut self.servers[place];
        if server.busy < server.plan.at_once {
            self.serve(id, place);
        } else {
            let stamp = request.stamp;
            server.waiting.push_back((index(id), stamp));
            self.plan_head_timeout(id);
        }
    }

    fn serve(&mut self, id: usize, place: usize) {
        let request = &mut self.requests[id];
        let call = request.call;
        let [dear, times] = self.scenario.dear;
        let is_dear = self.draws.below(MILLION, For::Dear, call.number) < dear;
        let server = &mut self.servers[place];
        let work = Work {
            number: call.number.wrapping_mul(TRIES) + u64::from(request.attempts) % TRIES,
            logged_us: call.logged_us,
            times: if is_dear { times } else { 1000 },
            fails: u64::from(call.client) < self.scenario.failing,
        };
        let (work_us, status) = server.work(work, self.draws);
        server.busy += 1;
        request.status = status;
        let done_us = self.now_us + work_us;
        let waits = request.sent_us < self.now_us;
        let (stamp, sent_us, life) = (request.stamp, request.sent_us, server.life);
        self.agenda
            .plan_at(done_us, What::Done, index(id), stamp, (index(place), life));
        // A request that has waited has its time-out already.
        if !waits && done_us > sent_us + us(self.config.timeouts.response_head) {
            self.plan_head_timeout(id);
        }
    }

    fn plan_head_timeout(&mut self, id: usize) {
        let request = &self.requests[id];
        let at_us = request.sent_us + us(self.config.timeouts.response_head);
        let stamp = request.stamp;
        self.agenda.plan(at_us, What::HeadTimeout, index(id), stamp);
    }

    /// A server has done its work on one request, and begins with the next that is not given up.
    fn free_server(&mut self, place: usize, life: u32) {
        let server = &mut self.servers[place];
        if server.life != life {
            return;
        }
        server.busy -= 1;
        while let Some((id, stamp)) = self.servers[place].waiting.pop_front() {
            if self.requests[id as usize].stamp == stamp {
                return self.serve(id as usize, place);
            }
        }
    }

    /// The answer is there.
    fn answer(&mut self, id: usize) {
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
    fn fail(&mut self, id: usize, failure: Failure) -> Option<Next> {
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
        if !matches!(row.outcome, Outcome::ReusedEnded | Outcome::OurShortage) {
            let outcome = row.outcome;
            self.pool.served(&backend, Served::Failed { outcome, took });
        }
        let event = match row.event {
            Some(Sign::Died | Sign::NotHttp) if request.has_blamed => None,
            event => event,
        };
        request.has_blamed |= matches!(event, Some(Sign::Died | Sign::NotHttp));
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
    fn finish(&mut self, id: usize, status: u16) {
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

    /// Something happens to a server.
    fn change(&mut self, place: usize, number: usize) {
        let change = self.scenario.servers[place].events[number];
        if !self.servers[place].change(change) {
            return;
        }
        for id in 0..self.requests.len() {
            let request = &self.requests[id];
            let is_there = request.place.as_ref().is_some_and(|it| it.index == place);
            if is_there && request.stage == Stage::Sent {
                let next = self.fail(id, Failure::Ended(None));
                self.go_on(id, next);
            }
        }
    }

    fn is_checked(&self, place: usize) -> bool {
        self.times.kind != Kind::None && self.config.backends[place].check
    }

    fn plan_check(&mut self, place: usize) {
        let schedule = &mut self.servers[place].schedule;
        schedule.stamp = schedule.stamp.wrapping_add(1);
        let (at_us, stamp) = (schedule.due_us.max(self.now_us), schedule.stamp);
        if self.is_checked(place) {
            self.agenda
                .plan_at(at_us, What::CheckBegins, 0, stamp, (index(place), 0));
        }
    }

    fn begin_check(&mut self, event: Event) {
        let place = event.server as usize;
        let server = &mut self.servers[place];
        if server.schedule.stamp != event.stamp {
            return;
        }
        server.schedule.is_running = true;
        let number = u64::from(event.server) << 32 | u64::from(event.stamp) | 1 << 63;
        let takes_us = match self.times.kind {
            Kind::Tcp => server.plan.connect_us,
            Kind::Http => server.plan.connect_us + server.check_us(number, self.draws),
            Kind::Icmp | Kind::None => 0,
        };
        let passes = takes_us <= self.times.timeout_us;
        let at_us = self.now_us + takes_us.min(self.times.timeout_us);
        let stamp = event.stamp;
        self.agenda.plan_at(
            at_us,
            What::CheckEnds,
            u32::from(passes),
            stamp,
            (event.server, server.life),
        );
    }

    fn end_check(&mut self, event: Event) {
        let place = event.server as usize;
        let server = &self.servers[place];
        // A host answers an echo request though its server is gone.
        let is_there =
            !server.is_down && server.life == event.life || self.times.kind == Kind::Icmp;
        let backend = &self.pool.backends()[place];
        self.pool.probed(
            backend,
            match (is_there, event.who) {
                (true, 1) => Ok(()),
                (true, _) => Err("check timed out"),
                (false, _) => Err("connection refused"),
            },
        );
        let schedule = &mut self.servers[place].schedule;
        schedule.is_running = false;
        schedule.plan(backend.is_healthy(), &self.times, self.now_us);
        schedule.hear(
            backend.is_healthy(),
            backend.take_check_wish(),
            &self.times,
            self.now_us,
        );
        self.plan_check(place);
    }

    /// An exchange has seen a backend fail: the next check may begin earlier.
    fn hear(&mut self, place: usize) {
        let schedule = &mut self.servers[place].schedule;
        if schedule.is_running {
            return;
        }
        let backend = &self.pool.backends()[place];
        let wish = backend.take_check_wish();
        if schedule.hear(backend.is_healthy(), wish, &self.times, self.now_us) {
            self.plan_check(place);
        }
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
fn address() -> SocketAddr {
    SocketAddr::from(([0, 0, 0, 0], 0))
}
