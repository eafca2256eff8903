//! The section `ejection`, whose settings belong to `pool/ejection.rs`.

use crate::config::document::{ConfigError, Object, duration_text};
use crate::config::health_check::status;
use crate::config::key::{Fallback, Key, Takes};
use crate::pool::settings::{BalanceSettings, EjectionSettings};
use crate::text::words::counted;

pub(super) const KEYS: &[Key] = &[
    Key {
        name: "errors",
        takes: Takes::Integer(1, 1000),
        default: Fallback::Value("5"),
        meaning: "so many bad exchanges in a row eject a backend: a status of `status`, a 504, an answer that broke off",
    },
    Key {
        name: "status",
        takes: Takes::Other {
            wanted: r#"statuses from 100 to 599 such as "503", "500-599" or "500,502-504""#,
            schema: r#"{"type": "string", "pattern": "^ *[1-5][0-9]{2}(-[1-5][0-9]{2})? *(, *[1-5][0-9]{2}(-[1-5][0-9]{2})? *)*$"}"#,
        },
        default: Fallback::Value(r#""500-599""#),
        meaning: "the statuses of a backend that are bad",
    },
    Key {
        name: "time",
        takes: Takes::DURATION,
        default: Fallback::Value(r#""30s""#),
        meaning: "for so long; doubled each time in a row, at most ten times as long",
    },
    Key {
        name: "percent_max",
        takes: Takes::Integer(1, 100),
        default: Fallback::Value("50"),
        meaning: "no more of the weight of its group, backends or backups, is ever out by ejection, and never the last backend",
    },
];

pub(super) fn read(top: &Object<'_>) -> Result<Option<EjectionSettings>, ConfigError> {
    if top.given("ejection").is_none() {
        return Ok(None);
    }
    let section = top.section("ejection")?;
    Ok(Some(EjectionSettings {
        errors: section.integer("errors")?,
        status: section.parsed("status", status)?,
        time: section.duration("time")?,
        percent_max: section.integer("percent_max")?,
    }))
}

/// The lines of `--check`.
pub(super) fn summary(balance: &BalanceSettings) -> Vec<String> {
    let rules = balance.ejection.as_ref();
    let line = |rules: &EjectionSettings| {
        format!(
            "after {} in a row (status {}, 504, broken off) for {}, at most {} % of the weight",
            counted(rules.errors as usize, "bad exchange"),
            rules.status,
            duration_text(rules.time),
            rules.percent_max
        )
    };
    rules.map(line).into_iter().collect()
}
