//! What changes with time alone: trials of backends that are down, tenths of weight, ends of
//! ejections. A choice looks at one number, the time of the first of them.
//!
//! Read next: `pool/chooser/members.rs`, what a look at a backend changes.

use crate::pool::chooser::Chooser;
use crate::pool::state::NEVER;
use crate::pool::trace::Verdict;

/// How many of those that wait are looked at in a millisecond, on average.
const LOOKS_PER_MS: u64 = 100;

impl Chooser {
    /// Changes those whose time has come.
    #[inline]
    pub(in crate::pool) fn look_at_due(&mut self) {
        if self.next_due_ms != NEVER {
            let now_ms = self.standing.now_ms();
            if self.next_due_ms <= now_ms {
                self.change_due(now_ms);
            }
        }
    }

    #[cold]
    fn change_due(&mut self, now_ms: u64) {
        self.next_due_ms = NEVER;
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.retain(|&place| {
            self.update(place);
            let waits = self.due_ms(place) != NEVER;
            self.seats[place as usize].waits = waits;
            waits
        });
        if self.next_due_ms != NEVER {
            // All are looked at each time: with ten thousand at most ten times a second.
            let gap_ms = waiting.len() as u64 / LOOKS_PER_MS;
            self.next_due_ms = self.next_due_ms.max(now_ms + gap_ms);
        }
        self.waiting = waiting;
        self.relieve();
    }

    /// When a backend changes by itself.
    pub(in crate::pool) fn due_ms(&self, place: u32) -> u64 {
        let state = &self.backends[place as usize].state;
        match self.seats[place as usize].verdict {
            Verdict::Down => state.trial_at_ms(),
            Verdict::Ejected => state.ejection.until_ms(),
            _ if self.grows => self.standing.next_tenth_ms(state),
            _ => NEVER,
        }
    }
}
