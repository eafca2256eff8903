//! What changing a backend does, as the answer to the admin interface says it (src/admin/documents.md, "Change").
//!
//! Read next: `server.rs`, `answer`, where it is done.

use std::collections::HashMap;

use crate::ask::Reply;
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
    /// The names of the backends before, and their shares in thousandths of a per cent.
    pub before: (Vec<&'a str>, Vec<u32>),
    /// The same afterwards.
    pub after: (Vec<&'a str>, Vec<u32>),
    /// What is wrong with the configuration from then on, and was not before.
    pub warnings: Vec<String>,
}

impl Change<'_> {
    /// The answer.
    pub(crate) fn reply(&self) -> Reply {
        let status = if self.what == "add" { 201 } else { 200 };
        let (names, shares) = &self.after;
        let eligible = shares.iter().filter(|share| **share > 0).count();
        let (names_before, shares_before) = &self.before;
        let mut before: HashMap<&str, u32> = HashMap::new();
        before.extend(
            names_before
                .iter()
                .copied()
                .zip(shares_before.iter().copied()),
        );
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
        for (name, after) in names.iter().zip(shares) {
            compare(name, before.remove(name).unwrap_or(0), *after);
        }
        for name in names_before {
            if let Some(gone) = before.remove(name) {
                compare(name, gone, 0);
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
