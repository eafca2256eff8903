//! The clients: when their requests come, and whether there is room for them.

use crate::simulate::agenda::What;
use crate::simulate::engine::Engine;
use crate::simulate::numbers::{For, index, mean_gap_ns, mean_us};
use crate::simulate::scenario::{Load, REQUESTS_MAX};

/// Requests that wait for room among `proxy.max_connections`, as in the kernel's queue; more are
/// refused.
const BACKLOG_MAX: usize = 4096;

/// What a client needs at least from an answer to its next request.
const THOUGHT_MIN_US: u64 = 100;

/// A request as it comes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call {
    pub(super) came_us: u64,
    pub(super) client: u32,
    pub(super) number: u64,
    pub(super) logged_us: u64,
    pub(super) is_idempotent: bool,
}

/// A client.
#[derive(Debug, Clone, Copy)]
pub(super) struct Client {
    /// The backend that answered it last, and the one that its cookie names.
    pub(super) last: u32,
    pub(super) bound: u32,
    pub(super) has_moved: bool,
    /// Its requests.
    pub(super) number: u32,
}

impl Engine<'_> {
    pub(super) fn plan_arrival(&mut self) {
        let at_us = match &self.scenario.load {
            Load::Rate { per_second, .. } => {
                let mean_ns = mean_gap_ns(*per_second);
                self.arrival_ns += self.draws.exponential(mean_ns, For::Gap, self.came);
                self.arrival_ns / 1000
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
    pub(super) fn arrive(&mut self) {
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
        self.plan_arrival();
        self.take(call);
    }

    /// Plans the next request of a client that waits for answers.
    pub(super) fn let_think(&mut self, client: u32) {
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

    pub(super) fn ask(&mut self, client: u32) {
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
}
