//! What the checker does: its checks of the simulated servers.

use crate::pool::settings::Kind;
use crate::simulate::agenda::{Event, What};
use crate::simulate::engine::Engine;
use crate::simulate::numbers::index;

impl Engine<'_> {
    fn is_checked(&self, place: usize) -> bool {
        self.times.kind != Kind::None && self.config.backends[place].check
    }

    pub(super) fn plan_check(&mut self, place: usize) {
        let schedule = &mut self.servers[place].schedule;
        schedule.stamp = schedule.stamp.wrapping_add(1);
        let (at_us, stamp) = (schedule.due_us.max(self.now_us), schedule.stamp);
        if self.is_checked(place) {
            self.agenda
                .plan_at(at_us, What::CheckBegins, 0, stamp, (index(place), 0));
        }
    }

    pub(super) fn begin_check(&mut self, event: Event) {
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

    pub(super) fn end_check(&mut self, event: Event) {
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
    pub(super) fn hear(&mut self, place: usize) {
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
