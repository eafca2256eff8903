//! What a server does with the requests that reach it, and what happens to the server.

use crate::exchange::failure::Failure;
use crate::simulate::agenda::What;
use crate::simulate::engine::Engine;
use crate::simulate::engine::requests::Stage;
use crate::simulate::numbers::{For, MILLION, index, us};
use crate::simulate::server::Work;

/// Tries of one request that draw numbers of their own.
const TRIES: u64 = 16;

impl Engine<'_> {
    /// The server has the request: it begins at once, or the request waits in it.
    pub(super) fn send(&mut self, id: usize) {
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
    pub(super) fn free_server(&mut self, place: usize, life: u32) {
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

    /// Something happens to a server.
    pub(super) fn change(&mut self, place: usize, number: usize) {
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
}
