//! Which set each backend is in: a look at one that has changed, and its way from set to set.
//!
//! Read next: `pool/chooser/turns.rs`, a set in turns. Beside it: `groups.rs` (a set without turns),
//! `loads.rs` (a heap).

use crate::pool::Tier;
use crate::pool::chooser::loads::{By, settle};
use crate::pool::chooser::{Chooser, Seat};
use crate::pool::settings::Method;
use crate::pool::state::NEVER;
use crate::pool::trace::Verdict;
use crate::pool::trust::FULL;

impl Chooser {
    /// Looks at a backend again, and moves it where it belongs now.
    pub(in crate::pool) fn update(&mut self, place: u32) {
        let Seat {
            tier: before,
            group: before_in,
            ..
        } = self.seats[place as usize];
        let (tier, group) = self.look(place, true);
        if (tier, group) == (before, before_in) {
            return;
        }
        self.leave(place);
        let seat = &mut self.seats[place as usize];
        (seat.tier, seat.group) = (tier, group);
        for set in [before, tier] {
            if let Some(turns) = self.turns.get_mut(set as usize) {
                turns.has_changed = true;
            }
            if let Some(groups) = self.groups.get_mut(set as usize) {
                groups.begin_again();
            }
        }
        if let Some(turns) = self.turns.get(tier as usize) {
            turns.set_quota_left(&mut self.seats[place as usize], None);
            self.answers.forget();
        }
        self.join(place);
    }

    /// Looks at a backend, and notes everything but its set and its group there, which it returns.
    /// `begins`: if it has come to be healthy, it begins to grow.
    #[inline(never)]
    pub(in crate::pool) fn look(&mut self, place: u32, begins: bool) -> (Tier, u32) {
        #[cfg(test)]
        {
            self.looked_at += 1;
        }
        let backend = &self.backends[place as usize];
        let state = &*backend.state;
        let is_healthy = state.is_healthy();
        let mut verdict = self.standing.verdict(backend, is_healthy);
        if verdict == Verdict::Full && !self.hears_ends {
            state.tell_ends(true);
            // One may have ended just before it was to be told.
            verdict = self.standing.verdict(backend, is_healthy);
        }
        if verdict != Verdict::Full && !self.hears_ends {
            state.tell_ends(false);
        }
        let seat = &mut self.seats[place as usize];
        let is_out = verdict == Verdict::Ejected;
        let counts = is_healthy && verdict.may_be_tried() && !is_out;
        let grows = self.grows && counts;
        if grows && begins && !seat.is_healthy {
            state.kept.grows_from(self.standing.now_ms());
        }
        let trust = if grows {
            self.standing.trust(state)
        } else {
            FULL
        };
        if trust == FULL {
            state.kept.grows_from(NEVER);
        }
        self.healthy += usize::from(counts);
        self.healthy -= usize::from(seat.is_healthy);
        let weight = u64::from(backend.settings.weight);
        let kind = usize::from(backend.settings.backup);
        for (sum, was, is) in [
            (&mut self.fit[kind], seat.is_healthy, counts),
            (&mut self.out[kind], seat.is_out, is_out),
        ] {
            *sum = *sum + weight * u64::from(is) - weight * u64::from(was);
        }
        if counts && state.ejection.until_ms() != 0 {
            state.ejection.finish();
        }
        if is_out != state.ejection.is_out() {
            state.ejection.set_out(is_out);
            if counts {
                state.ejection.note_back();
                // There is room for each once.
                if self.back.len() < self.back.capacity() {
                    self.back.push(place);
                }
            }
        }
        seat.is_out = is_out;
        seat.is_healthy = counts;
        self.stand[seat.verdict as usize] -= 1;
        self.stand[verdict as usize] += 1;
        seat.verdict = verdict;
        let full = match (verdict, is_healthy, backend.settings.backup) {
            (Verdict::Full, true, false) => Tier::Healthy,
            (Verdict::Full, true, true) => Tier::HealthyBackup,
            (Verdict::Full, false, false) => Tier::Unhealthy,
            (Verdict::Full, false, true) => Tier::UnhealthyBackup,
            _ => Tier::Empty,
        };
        if full != seat.full {
            if let Some(count) = self.full.get_mut(seat.full as usize) {
                *count -= 1;
            }
            if let Some(count) = self.full.get_mut(full as usize) {
                *count += 1;
            }
            seat.full = full;
        }
        if let Some(candidate) = self.candidates.get_mut(place as usize) {
            candidate.verdict = verdict;
        }
        let group = seat.weight + self.weights * (FULL - trust);
        let tier = Tier::of(verdict, backend.settings.backup).unwrap_or(Tier::Empty);
        let due_ms = self.due_ms(place);
        if due_ms != NEVER {
            self.next_due_ms = self.next_due_ms.min(due_ms);
            let seat = &mut self.seats[place as usize];
            if !seat.waits {
                seat.waits = true;
                self.waiting.push(place);
            }
        }
        (tier, group)
    }

    /// Puts a backend into its set, if it is in one.
    #[inline(never)]
    pub(in crate::pool) fn join(&mut self, place: u32) {
        let tier = self.seats[place as usize].tier;
        let Some(count) = self.counts.get_mut(tier as usize) else {
            return;
        };
        *count += 1;
        if self.is_by_turns(tier) {
            return self.turns[tier as usize].join(place, &mut self.seats);
        }
        let key = self.backends[place as usize].name_key;
        let key = self.method.is_by_hash().then_some(key);
        self.groups[tier as usize].join(place, key, &mut self.seats);
        self.loads[tier as usize] += u64::from(self.seats[place as usize].load);
        if self.hears_ends {
            self.weigh(place);
        }
        if self.method == Method::Fastest {
            self.fastest.join(tier as usize, place, &mut self.seats);
        }
    }

    /// Takes a backend out of its set, if it is in one.
    #[inline(never)]
    pub(in crate::pool) fn leave(&mut self, place: u32) {
        let Seat {
            tier, group, at, ..
        } = self.seats[place as usize];
        let Some(count) = self.counts.get_mut(tier as usize) else {
            return;
        };
        *count -= 1;
        if self.is_by_turns(tier) {
            return self.turns[tier as usize].leave(place, &mut self.seats);
        }
        let groups = &mut self.groups[tier as usize];
        groups.leave(place, &mut self.seats);
        self.loads[tier as usize] -= u64::from(self.seats[place as usize].load);
        if matches!(self.method, Method::LeastConnections | Method::Fastest) {
            let members = &mut groups.groups[group as usize].members;
            let at = at[By::Load as usize] as usize;
            if at < members.len() {
                settle(members, at, &mut self.seats, By::Load);
            }
        }
        if self.method == Method::Fastest {
            self.fastest.leave(tier as usize, place, &mut self.seats);
        }
    }

    /// Notes how many exchanges a backend has.
    pub(in crate::pool) fn weigh(&mut self, place: u32) {
        let load = self.backends[place as usize].in_flight();
        let seat = &mut self.seats[place as usize];
        let Some(groups) = self.groups.get_mut(seat.tier as usize) else {
            return;
        };
        let (tier, group) = (seat.tier, seat.group as usize);
        let sum = &mut self.loads[tier as usize];
        *sum -= u64::from(seat.load);
        seat.load = u32::try_from(load).unwrap_or(u32::MAX);
        *sum += u64::from(seat.load);
        let (load, at) = (u64::from(seat.load), seat.at[By::Load as usize] as usize);
        let group = &mut groups.groups[group];
        seat.order = match self.method {
            Method::LeastConnections => load,
            Method::Fastest => self.fastest.order(place, load, group.weight),
            _ => return,
        };
        settle(&mut group.members, at, &mut self.seats, By::Load);
    }

    /// Whether the groups are heaps.
    pub(in crate::pool) fn is_by_load(&self) -> bool {
        matches!(self.method, Method::LeastConnections | Method::Fastest)
    }

    fn is_by_turns(&self, tier: Tier) -> bool {
        tier >= Tier::Unhealthy || self.method == Method::RoundRobin
    }
}
