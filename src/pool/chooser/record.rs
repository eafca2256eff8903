//! How the backends stand, for the record of a choice: each one if they are few, else how many stand
//! how.
//!
//! Read next: `pool/trace/mod.rs`, the record.

use crate::pool::chooser::Chooser;
use crate::pool::roster::Tried;
use crate::pool::trace::{Decision, Verdict};

impl Chooser {
    /// Records how the backends stand.
    pub(in crate::pool) fn record(&self, tried: &Tried, decision: &mut Decision) {
        if self.candidates.is_empty() {
            decision.begin_choice_of_many(&self.stand);
        } else {
            decision.begin_choice(&self.candidates);
        }
        if tried.is_empty() {
            return;
        }
        for place in tried.places() {
            let seat = &self.seats[place as usize];
            if seat.verdict.may_be_tried() {
                let backend = self.backends[place as usize].id;
                self.show(place as usize, decision);
                decision.passed_over(backend, Verdict::Tried);
            }
        }
    }

    /// Makes sure that a backend is among those recorded.
    pub(in crate::pool) fn show(&self, place: usize, decision: &mut Decision) {
        if self.candidates.is_empty() {
            decision.shows(self.backends[place].id, self.seats[place].verdict);
        }
    }

    /// How many backends it takes for standing like this.
    #[cfg(test)]
    pub(in crate::pool) fn number(&self, verdict: Verdict) -> u32 {
        self.stand[verdict as usize]
    }
}
