//! `/decisions`: the last exchanges, explained. Requests and ids are a client's own words.

use crate::pool::Pool;
use crate::pool::state::BackendId;
use crate::pool::trace::{DECISIONS_MAX, Decision, Decisions, Outcome, Stage};
use crate::text::escape::printable;
use crate::text::json::Writer;

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

/// The document: of the exchanges of each worker, the oldest first, those that are asked for, the newest first.
#[inline(never)]
pub(crate) fn document(rings: &[Vec<Decision>], pool: &Pool, selection: Selection) -> String {
    let mut json = Writer::default();
    let mut left = selection.limit.unwrap_or(usize::MAX);
    let mut rings: Vec<&[Decision]> = rings.iter().map(Vec::as_slice).collect();
    json.open("", '[');
    while left > 0
        && let Some((ring, newest)) = newest(&rings)
    {
        let rest = rings[ring].len() - 1;
        rings[ring] = &rings[ring][..rest];
        if is_wanted(newest, selection.only) {
            write(newest, pool, &mut json);
            left -= 1;
        }
    }
    json.close(']');
    json.out.push('\n');
    json.out
}

/// The newest exchange, and its place among the workers.
fn newest<'a>(rings: &[&'a [Decision]]) -> Option<(usize, &'a Decision)> {
    let lasts = rings.iter().enumerate();
    let lasts = lasts.filter_map(|(place, ring)| Some((place, ring.last()?)));
    lasts.max_by_key(|(_, decision)| decision.at_unix_ms)
}

fn is_wanted(decision: &Decision, only: Only) -> bool {
    match only {
        Only::All => true,
        Only::Errors => error(decision).is_some(),
        Only::Retries => {
            let (tries, more) = decision.tries();
            tries.len() + more > 1
        }
    }
}

/// Why it failed or was cut, or the error that a backend answered.
fn error(decision: &Decision) -> Option<String> {
    match (decision.reason, decision.status) {
        (Some(reason), _) => Some(reason.to_owned()),
        (None, Some(status @ 500..=599)) => Some(format!("status {status}")),
        _ => None,
    }
}

#[inline(never)]
fn write(decision: &Decision, pool: &Pool, json: &mut Writer) {
    let name = |backend: BackendId| pool.name(backend).unwrap_or_default();
    let shown = |bytes: &[u8]| printable(&String::from_utf8_lossy(bytes));
    // It was recorded when the head was complete.
    let head_ms = u64::from(decision.stage_us(Stage::RequestHead)) / 1000;
    json.open("", '{');
    json.number("at_unix_ms", decision.at_unix_ms.saturating_sub(head_ms));
    json.text("request_id", &shown(decision.request_id()));
    json.text("request", &shown(decision.request_line()));
    let client = decision.client.map(|client| client.to_string());
    json.text_or_null("client", client.as_deref());
    json.number_or_null("status", decision.status.map(u64::from));
    json.text_or_null("error", error(decision).as_deref());
    let (candidates, _) = decision.candidates();
    json.open("candidates", '[');
    for candidate in candidates {
        json.open("", '{');
        json.text("backend", &name(candidate.backend));
        json.text("verdict", candidate.verdict.text());
        json.close('}');
    }
    json.close(']');
    json.open("others", '{');
    for (verdict, count) in decision.others() {
        json.number(verdict.text(), count.into());
    }
    json.close('}');
    let (tries, more) = decision.tries();
    json.open("tries", '[');
    for each in tries {
        let status = match each.outcome {
            Outcome::Answered(status) => Some(u64::from(status)),
            _ => None,
        };
        json.open("", '{');
        json.text("backend", &name(each.backend));
        json.text("rule", each.rule.text());
        json.text("outcome", each.outcome.text());
        json.number_or_null("status", status);
        json.thousandths("began_ms", each.began_us.into());
        json.thousandths("took_ms", each.took_us.into());
        json.close('}');
    }
    json.close(']');
    json.number("tries_more", more as u64);
    for (key, stage, is_always) in [
        ("request_head_ms", Stage::RequestHead, true),
        ("queued_ms", Stage::Queued, false),
        ("connecting_ms", Stage::Connecting, false),
        ("response_head_ms", Stage::ResponseHead, false),
        ("response_body_ms", Stage::ResponseBody, false),
        ("total_ms", Stage::Total, true),
    ] {
        let is_shown = is_always || decision.has_reached(stage);
        let took = is_shown.then(|| decision.stage_us(stage).into());
        json.thousandths_or_null(key, took);
    }
    json.close('}');
}
