//! What changing a backend does, as the answer to the admin interface says it (src/admin/documents.md, "Change").
//!
//! Read next: `server.rs`, `answer`, where it is done.

use crate::ask::Reply;
use crate::config::by_name;
use crate::pool::settings::BackendSettings;
use crate::pool::state::Operator;
use crate::text::json::Json;

/// A change of one backend.
#[derive(Debug)]
pub(crate) struct Change<'a> {
    pub dry_run: bool,
    pub name: &'a str,
    /// `"drain"` and the like, or `"none"`.
    pub what: &'static str,
    /// What it has in flight.
    pub in_flight: usize,
    /// The shares of all backends before, in thousandths of a per cent.
    pub before: Vec<u32>,
    /// The same afterwards.
    pub after: Vec<u32>,
    /// What is wrong with the configuration from then on, and was not before.
    pub warnings: Vec<String>,
}

impl Change<'_> {
    /// The answer, for these backends before and afterwards.
    pub(crate) fn reply(&self, before: &[BackendSettings], after: &[BackendSettings]) -> Reply {
        let status = if self.what == "add" { 201 } else { 200 };
        let eligible = self.after.iter().filter(|share| **share > 0).count();
        let mut changed = Vec::new();
        let mut compare = |name: &str, before: u32, after: u32| {
            if before != after {
                changed.push(Json::object([
                    ("name", Json::text(name)),
                    ("before_percent", Json::thousandths(before.into())),
                    ("after_percent", Json::thousandths(after.into())),
                ]));
            }
        };
        let [were, are] = [before, after].map(by_name);
        for (backend, share) in after.iter().zip(&self.after) {
            let before = were.get(&*backend.name).map(|&place| self.before[place]);
            compare(&backend.name, before.unwrap_or(0), *share);
        }
        for (backend, share) in before.iter().zip(&self.before) {
            if !are.contains_key(&*backend.name) {
                compare(&backend.name, *share, 0);
            }
        }
        let document = Json::object([
            ("dry_run", Json::raw(self.dry_run)),
            ("name", Json::text(self.name)),
            ("change", Json::text(self.what)),
            ("in_flight", Json::raw(self.in_flight)),
            ("eligible", Json::raw(eligible)),
            ("shares", Json::List(changed)),
            (
                "warnings",
                Json::texts(self.warnings.iter().map(String::as_str)),
            ),
        ]);
        Reply::new(status, &document)
    }
}

/// What an operator does, and as a log line says it of a backend.
pub(crate) fn verb(operator: Operator) -> (&'static str, &'static str) {
    match operator {
        Operator::Enabled => ("enable", "is enabled"),
        Operator::Draining => ("drain", "takes no new clients"),
        Operator::Disabled => ("disable", "is disabled"),
    }
}
