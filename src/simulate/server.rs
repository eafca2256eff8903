//! A simulated server behind a backend: how many requests it works on, how fast, and whether it is
//! there at all.

use std::collections::VecDeque;

use crate::simulate::checks::Schedule;
use crate::simulate::numbers::{Draws, For, LONGEST_US, MILLION};
use crate::simulate::scenario::{Change, ServerPlan, State};

/// A server.
#[derive(Debug)]
pub(super) struct Server<'a> {
    pub(super) plan: &'a ServerPlan,
    /// When it is checked.
    pub(super) schedule: Schedule,
    pub(super) is_down: bool,
    /// How often it has gone: what was begun before is lost.
    pub(super) life: u32,
    /// Times as long as planned, in thousandths.
    slow: u64,
    /// In millionths.
    errors: u64,
    /// Requests that it works on.
    pub(super) busy: u64,
    /// Requests that wait in it: each with the stamp of its try.
    pub(super) waiting: VecDeque<(u32, u32)>,
    /// When each idle connection to it expires, the one used last at the end.
    idle: VecDeque<u64>,
}

/// What a request costs it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Work {
    /// Of the request and this try of it.
    pub(super) number: u64,
    /// As the log has it.
    pub(super) logged_us: u64,
    /// Times as long as others, in thousandths.
    pub(super) times: u64,
    /// It is answered with an error wherever it goes.
    pub(super) fails: bool,
}

impl<'a> Server<'a> {
    pub(super) fn new(plan: &'a ServerPlan, schedule: Schedule) -> Server<'a> {
        Server {
            plan,
            schedule,
            is_down: false,
            life: 0,
            slow: 1000,
            errors: plan.errors,
            busy: 0,
            waiting: VecDeque::new(),
            idle: VecDeque::new(),
        }
    }

    /// What happens to it. Whether all that it had is lost.
    pub(super) fn change(&mut self, change: Change) -> bool {
        match change.to {
            State::Slow => self.slow = change.value,
            State::Errors => self.errors = change.value,
            State::Up => self.is_down = false,
            State::Down => {
                self.is_down = true;
                self.life += 1;
                self.busy = 0;
                self.waiting.clear();
                self.idle.clear();
                return true;
            }
        }
        false
    }

    /// How long it works on a request, in microseconds, and the status of its answer.
    pub(super) fn work(&self, work: Work, draws: Draws) -> (u64, u16) {
        let fails = work.fails || draws.below(MILLION, For::Error, work.number) < self.errors;
        let by_plan = self.plan.error_latency.filter(|_| fails);
        let (us, times) = match by_plan.or(self.plan.latency) {
            Some(latency) => (latency.draw(draws, For::Work, work.number), work.times),
            None => (work.logged_us, 1000),
        };
        // Both factors are at most a thousand.
        let us = (us * times / 1000).min(LONGEST_US) * self.slow / 1000;
        (us.max(1), if fails { 500 } else { 200 })
    }

    /// How long a health check by a request takes, in microseconds.
    pub(super) fn check_us(&self, number: u64, draws: Draws) -> u64 {
        let us = self
            .plan
            .latency
            .map_or(1000, |latency| latency.draw(draws, For::Work, number));
        us * self.slow / 1000
    }

    /// Takes an idle connection, if there is one.
    pub(super) fn take_idle(&mut self, now_us: u64) -> bool {
        match self.idle.pop_back() {
            Some(expires_us) if expires_us > now_us => true,
            // It is the one used last.
            Some(_) => {
                self.idle.clear();
                false
            }
            None => false,
        }
    }

    /// Keeps a connection until then, if there are fewer than `most`.
    pub(super) fn keep_idle(&mut self, expires_us: u64, most: usize) {
        if self.idle.len() < most {
            self.idle.push_back(expires_us);
        }
    }
}
