//! How much may be ejected at once: no more than a part of a group's weight, and never the last
//! backend that is healthy.
//!
//! Read next: `pool/ejection.rs`, one backend's ejections.

use crate::pool::chooser::Chooser;
use crate::pool::reasons::Since;
use crate::pool::settings::EjectionSettings;
use crate::pool::state::BackendState;

impl Chooser {
    /// Ejects a backend, unless too much is out already: returns for how many milliseconds.
    pub(in crate::pool) fn eject(
        &mut self,
        state: &BackendState,
        rules: &EjectionSettings,
        why: Since,
    ) -> Option<u64> {
        let place = self.place(state)?;
        let settings = &self.backends[place as usize].settings;
        let (weight, kind) = (u64::from(settings.weight), usize::from(settings.backup));
        let out = self.out[kind] + weight;
        let is_too_much = self.healthy == 1 || self.is_too_much(out, kind, rules.percent_max);
        if !self.seats[place as usize].is_healthy || is_too_much {
            return None;
        }
        let lasts_ms = state.ejection.begin(self.standing.now_ms(), rules, why);
        self.update(place);
        Some(lasts_ms)
    }

    /// Whether this weight is more than may be out of a group.
    fn is_too_much(&self, out: u64, kind: usize, percent_max: u32) -> bool {
        out * 100 > (self.fit[kind] + self.out[kind]) * u64::from(percent_max)
    }

    /// Ends ejections while too much is out, or no other backend is healthy: first the one that is
    /// over first.
    pub(in crate::pool) fn relieve(&mut self) {
        let Some(percent_max) = self.standing.ejected_percent_max else {
            return;
        };
        while let Some(kind) = (0..2).find(|&kind| {
            let out = self.out[kind];
            out > 0 && (self.healthy == 0 || self.is_too_much(out, kind, percent_max))
        }) {
            let of_kind = |place: &u32| {
                let backup = self.backends[*place as usize].settings.backup;
                self.seats[*place as usize].is_out && usize::from(backup) == kind
            };
            let until_ms = |place: &u32| self.backends[*place as usize].ejection.until_ms();
            let places = 0..u32::try_from(self.seats.len()).unwrap_or(u32::MAX);
            let Some(place) = places.filter(of_kind).min_by_key(until_ms) else {
                return;
            };
            let now_ms = self.standing.now_ms();
            self.backends[place as usize].ejection.end(now_ms);
            self.update(place);
        }
    }

    /// A backend whose ejection is over, each once.
    #[inline]
    pub(in crate::pool) fn take_back(&mut self) -> Option<usize> {
        self.back.pop().map(|place| place as usize)
    }
}
