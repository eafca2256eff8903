//! Plays a scenario by one method: the pool as it is, on a clock that jumps from one event to the
//! next.
//!
//! Nothing is sent; a [`Server`] says when the answer would be there.
//!
//! Read next: `simulate/engine/clients.rs`, where requests come from; `requests.rs` beside it, what
//! becomes of them; then `serving.rs` (what a server does with a request) and `checking.rs` (health
//! checks).

mod checking;
mod clients;
mod requests;
mod serving;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::config::Config;
use crate::exchange::failure::Failure;
use crate::net::atomic::AtomicU64;
use crate::pool::Pool;
use crate::pool::time::Sources;
use crate::simulate::agenda::{Agenda, Event, What};
use crate::simulate::checks::{Schedule, Times};
use crate::simulate::engine::clients::{Call, Client};
use crate::simulate::engine::requests::{OnItsWay, address};
use crate::simulate::figures::Figures;
use crate::simulate::numbers::{Draws, index};
use crate::simulate::scenario::{Load, Scenario};
use crate::simulate::server::Server;

/// No client, no backend.
const NONE: u32 = u32::MAX;

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
    /// When the next one of a load by rate comes: at a high rate a gap has few microseconds.
    arrival_ns: u64,
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
        arrival_ns: 0,
        figures: Figures::new(servers.len()),
        servers,
    };
    engine.begin();
    engine.run();
    engine.end();
    engine.figures
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
            Load::Rate { .. } | Load::Log(_) => self.plan_arrival(),
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
}
