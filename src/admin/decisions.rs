//! `/decisions`: the last exchanges, explained. Requests and ids are a client's own words.

use crate::admin::status::{ms, optional};
use crate::pool::Pool;
use crate::pool::state::BackendId;
use crate::pool::trace::{DECISIONS_MAX, Decision, Decisions, Outcome, Stage};
use crate::text::escape::printable;
use crate::text::json::Json;

/// What those of one worker take: twice as they are recorded, and each as text with 16 candidates and 8 tries.
pub(crate) const BYTES_EACH: usize = 2 * Decisions::BYTES + DECISIONS_MAX * 8192;

/// Which of the exchanges.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Selection {
    pub only: Only,
    /// The newest; all if there is no limit.
    pub limit: Option<usize>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Only {
    #[default]
    All,
    Errors,
    Retries,
}

/// The document: of `all`, the oldest first, those that are asked for, the newest first.
pub(crate) fn document(all: &[Decision], pool: &Pool, selection: Selection) -> String {
    let is_wanted = |decision: &&Decision| match selection.only {
        Only::All => true,
        Only::Errors => error(decision).is_some(),
        Only::Retries => {
            let (tries, more) = decision.tries();
            tries.len() + more > 1
        }
    };
    let wanted = all.iter().rev().filter(is_wanted);
    let mut out = String::from("[");
    for (place, decision) in wanted
        .take(selection.limit.unwrap_or(usize::MAX))
        .enumerate()
    {
        out.push_str(if place == 0 { "\n" } else { ",\n" });
        out.push_str(&explained(decision, pool).to_string());
    }
    out.push_str("\n]\n");
    out
}

/// Why it failed or was cut, or the error that a backend answered.
fn error(decision: &Decision) -> Option<String> {
    match (decision.reason, decision.status) {
        (Some(reason), _) => Some(reason.to_owned()),
        (None, Some(status @ 500..=599)) => Some(format!("status {status}")),
        _ => None,
    }
}

fn explained(decision: &Decision, pool: &Pool) -> Json {
    let name = |backend: BackendId| Json::text(&pool.name(backend).unwrap_or_default());
    let text = |bytes: &[u8]| Json::text(&printable(&String::from_utf8_lossy(bytes)));
    let (candidates, more_candidates) = decision.candidates();
    let candidates = candidates.iter().map(|candidate| {
        Json::object([
            ("backend", name(candidate.backend)),
            ("verdict", Json::text(candidate.verdict.text())),
        ])
    });
    let mut others = Vec::new();
    if more_candidates > 0 {
        others.push(("not shown".to_owned(), Json::raw(more_candidates)));
    }
    let (tries, more_tries) = decision.tries();
    let tries = tries.iter().map(|each| {
        let status = match each.outcome {
            Outcome::Answered(status) => Some(Json::raw(status)),
            _ => None,
        };
        Json::object([
            ("backend", name(each.backend)),
            ("rule", Json::text(each.rule.text())),
            ("outcome", Json::text(each.outcome.text())),
            ("status", optional(status)),
            ("began_ms", ms(each.began_us.into())),
            ("took_ms", ms(each.took_us.into())),
        ])
    });
    let took = |stage: Stage| ms(decision.stage_us(stage).into());
    let reached = |stage: Stage| optional(decision.has_reached(stage).then(|| took(stage)));
    // It was recorded when the head was complete.
    let head_ms = u64::from(decision.stage_us(Stage::RequestHead)) / 1000;
    Json::object([
        (
            "at_unix_ms",
            Json::raw(decision.at_unix_ms.saturating_sub(head_ms)),
        ),
        ("request_id", text(decision.request_id())),
        ("request", text(decision.request_line())),
        (
            "client",
            optional(
                decision
                    .client
                    .map(|client| Json::text(&client.to_string())),
            ),
        ),
        ("status", optional(decision.status.map(Json::raw))),
        (
            "error",
            optional(error(decision).map(|error| Json::text(&error))),
        ),
        ("candidates", Json::List(candidates.collect())),
        ("others", Json::Object(others)),
        ("tries", Json::List(tries.collect())),
        ("tries_more", Json::raw(more_tries)),
        ("request_head_ms", took(Stage::RequestHead)),
        ("connecting_ms", reached(Stage::Connecting)),
        ("response_head_ms", reached(Stage::ResponseHead)),
        ("response_body_ms", reached(Stage::ResponseBody)),
        ("total_ms", took(Stage::Total)),
    ])
}
