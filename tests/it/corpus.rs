//! The corpus: raw messages, each with what must become of it, through the real binary and through `rondo::http`.
//!
//! The cases are files under `tests/corpus`, one message each; `case.rs` says what is in them. Over sockets each is
//! sent whole, byte by byte, and in two parts at every boundary (of long ones: next to every CR, LF, colon and space);
//! `judge.rs` judges both ends. In memory every split of every case gives the same result. `tests/corpus/RFC9112.md`
//! says which clause each case pins. Read next: `corpus/lane.rs`.

mod backend;
mod judge;
mod lane;

use judge::AtClient;
use kit::case::{self, Case, Outcome};
use kit::memory::{self, Requests, Response, Settings};
use lane::{Cut, Lane};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

const GROUPS: [&str; 6] = [
    "framing",
    "smuggling",
    "fields",
    "limits",
    "upgrade",
    "responses",
];

/// Proxies at once for the cases of one configuration. More than cores: most of a case is waiting.
const LANES_MAX: usize = 16;
/// A lane is worth its process from so many exchanges on.
const EXCHANGES_PER_LANE_MIN: usize = 50;
/// Longer messages are cut only next to what means something.
const CUT_EVERYWHERE_BYTES_MAX: usize = 512;

#[test]
fn framing_cases_over_sockets() {
    over_sockets("framing");
}

#[test]
fn smuggling_cases_over_sockets() {
    over_sockets("smuggling");
}

#[test]
fn field_cases_over_sockets() {
    over_sockets("fields");
}

#[test]
fn limit_cases_over_sockets() {
    over_sockets("limits");
}

#[test]
fn upgrade_cases_over_sockets() {
    over_sockets("upgrade");
}

#[test]
fn response_cases_over_sockets() {
    over_sockets("responses");
}

#[test]
fn every_split_of_every_case_gives_the_same_in_memory() {
    let cases: Vec<Case> = GROUPS.iter().flat_map(|name| case::group(name)).collect();
    assert!(
        cases.len() >= 300,
        "the corpus shrank to {} cases",
        cases.len()
    );
    let failures = Failures::default();
    let splits = AtomicUsize::new(0);
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    match in_memory(case) {
                        Ok(count) => _ = splits.fetch_add(count, Ordering::Relaxed),
                        Err(why) => failures.add(case, "in memory", &why),
                    }
                }
            });
        }
    });
    tell(format_args!(
        "corpus: {} cases in memory, {} splits",
        cases.len(),
        splits.into_inner()
    ));
    failures.report();
}

#[test]
fn a_repetition_and_every_escape_become_their_bytes() {
    assert_eq!(
        case::unescape(r"a\r\n\t\0\\\{\x7f{ab*3}").unwrap(),
        b"a\r\n\t\0\\{\x7fababab"
    );
    assert!(case::unescape(r"\q").is_err());
}

#[test]
fn every_case_and_test_that_the_reading_of_the_rfc_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let table = fs::read_to_string(root.join("corpus/RFC9112.md")).unwrap();
    let mut missing = Vec::new();
    // What stands between backticks is every second part.
    for name in table.split('`').skip(1).step_by(2) {
        let exists = if let Some((module, test)) = name.split_once("::") {
            let file = root.join("it").join(module).with_extension("rs");
            fs::read_to_string(file).is_ok_and(|text| text.contains(&format!("fn {test}(")))
        } else if let Some((group, case)) = name
            .split_once('/')
            .filter(|(group, _)| GROUPS.contains(group))
        {
            let names = case::group(group);
            let names = names
                .iter()
                .filter_map(|case| case.path.file_stem()?.to_str());
            match case.split_once('*') {
                Some((start, "")) => names.into_iter().any(|name| name.starts_with(start)),
                _ => names.into_iter().any(|name| name == case),
            }
        } else {
            continue;
        };
        if !exists && !["module::test", "group/name"].contains(&name) {
            missing.push(name);
        }
    }
    assert!(
        missing.is_empty(),
        "RFC9112.md names what does not exist: {missing:?}"
    );
}

/// Sends every case of a group in every way and fails with the list of those that went wrong.
fn over_sockets(group: &str) {
    let cases = case::group(group);
    let failures = Failures::default();
    let mut by_config: BTreeMap<_, Vec<(&Case, Cut, Cut)>> = BTreeMap::new();
    for case in &cases {
        by_config
            .entry(&case.config)
            .or_default()
            .extend(ways(group, case));
    }
    let exchanges: usize = by_config.values().map(Vec::len).sum();
    thread::scope(|scope| {
        for (config, ways) in &by_config {
            let lanes = (ways.len() / EXCHANGES_PER_LANE_MIN).clamp(1, LANES_MAX);
            let next = std::sync::Arc::new(AtomicUsize::new(0));
            for _ in 0..lanes {
                let (next, failures) = (next.clone(), &failures);
                scope.spawn(move || {
                    let mut lane = Lane::start(config.iter());
                    while let Some((case, request, response)) =
                        ways.get(next.fetch_add(1, Ordering::Relaxed))
                    {
                        if failures.has(case) {
                            continue;
                        }
                        if let Err(why) = lane.play(case, *request, *response) {
                            failures.add(
                                case,
                                &format!("request {request:?}, response {response:?}"),
                                &why,
                            );
                            // What it left behind is not the next case's fault.
                            lane = Lane::start(config.iter());
                        }
                    }
                });
            }
        }
    });
    tell(format_args!(
        "corpus: {} {group} cases over sockets, {exchanges} exchanges",
        cases.len()
    ));
    failures.report();
}

/// The ways to send a case: whole, byte by byte, and in two parts.
fn ways<'a>(group: &str, case: &'a Case) -> Vec<(&'a Case, Cut, Cut)> {
    let mut ways = vec![(case, Cut::Whole, Cut::Whole)];
    if group != "responses" {
        ways.push((case, Cut::EachByte, Cut::Whole));
        ways.extend(boundaries(&case.request).map(|at| (case, Cut::At(at), Cut::Whole)));
    }
    if let (Some(response), "responses" | "upgrade") = (&case.backend_response, group) {
        ways.push((case, Cut::Whole, Cut::EachByte));
        ways.extend(boundaries(response).map(|at| (case, Cut::Whole, Cut::At(at))));
    }
    ways
}

fn boundaries(message: &[u8]) -> impl Iterator<Item = usize> + use<> {
    let all = 1..message.len();
    let chosen: BTreeSet<usize> = if message.len() <= CUT_EVERYWHERE_BYTES_MAX {
        all.collect()
    } else {
        let means_something = |at: usize| b"\r\n: ".contains(&message[at]);
        all.filter(|at| means_something(*at) || means_something(at - 1))
            .collect()
    };
    chosen.into_iter()
}

/// Every split of a case through `rondo::http`; the number of splits.
fn in_memory(case: &Case) -> Result<usize, String> {
    if case.only_sockets {
        return Ok(0);
    }
    let settings = settings(case);
    let take = |parts: &[&[u8]]| {
        let mut requests = Requests::new(&settings);
        for part in parts {
            requests.push(part);
        }
        requests
    };
    let whole = take(&[&case.request]);
    check_requests(case, &whole)?;
    let same = |requests: &Requests<'_>| {
        requests.refused == whole.refused
            && requests.written.len() == whole.written.len()
            && requests.written.iter().zip(&whole.written).all(|(a, b)| {
                a.bytes[..a.head_bytes] == b.bytes[..b.head_bytes]
                    && a.content == b.content
                    && a.whole == b.whole
            })
    };
    let mut count = 0;
    for at in 0..=case.request.len() {
        let (first, second) = case.request.split_at(at);
        count += 1;
        if !same(&take(&[first, second])) {
            return Err(format!("the request cut at {at} is read differently"));
        }
    }
    if !same(&take(&case.request.chunks(1).collect::<Vec<_>>())) {
        return Err("the request byte by byte is read differently".into());
    }

    let ([asked], Some(bytes)) = (whole.written.as_slice(), &case.backend_response) else {
        return Ok(count);
    };
    let answer = |parts: &[&[u8]]| {
        let mut response = Response::new(&settings, &asked.asked);
        for part in parts {
            response.push(part);
        }
        if case.backend_closes {
            response.end();
        }
        response
    };
    let whole = answer(&[bytes]);
    check_response(case, &whole)?;
    let same = |response: &Response<'_>| {
        response.outcome == whole.outcome
            && response.heads == whole.heads
            && response.content == whole.content
    };
    for at in 0..=bytes.len() {
        let (first, second) = bytes.split_at(at);
        count += 1;
        if !same(&answer(&[first, second])) {
            return Err(format!("the response cut at {at} is read differently"));
        }
    }
    if !same(&answer(&bytes.chunks(1).collect::<Vec<_>>())) {
        return Err("the response byte by byte is read differently".into());
    }
    Ok(count)
}

fn settings(case: &Case) -> Settings {
    let mut settings = Settings::default();
    for (key, value) in &case.config {
        match key.as_str() {
            "head_bytes" => settings.limits.head_bytes_max = value.parse().unwrap(),
            "fields" => settings.limits.fields_max = value.parse().unwrap(),
            "trust_forwarded" => settings.trusted = value == "true",
            "via" => settings.via = value == "true",
            "lenient" => settings.grammar = rondo::http::Grammar::LenientResponse,
            "base" => value
                .trim_end_matches('/')
                .clone_into(&mut settings.base_path),
            "body_bytes" => {}
            other => panic!("{}: config: no such key: {other}", case.path.display()),
        }
    }
    settings
}

/// Compares what became of the requests with what the case says.
fn check_requests(case: &Case, got: &Requests<'_>) -> Result<(), String> {
    let expected = case.backend_request.as_deref().unwrap_or_default();
    let expected = case::fill(expected, memory::REQUEST_ID, memory::AUTHORITY);
    let seen: Vec<&[u8]> = got.written.iter().map(|one| one.bytes.as_slice()).collect();
    if case.backend_unfinished {
        if got.written.iter().any(|one| one.whole) {
            return Err(judge::at(
                "a whole request was written",
                "backend would see",
                seen[0],
            ));
        }
        return seen
            .iter()
            .try_for_each(|bytes| judge::is_beginning(bytes, &expected));
    }
    let differs = |seen: &[u8]| {
        Err(format!(
            "  backend should see\n    {}\n  would see\n    {}",
            case::escape(&expected),
            case::escape(seen)
        ))
    };
    if case.opens_tunnel() {
        return if expected.starts_with(seen[0]) {
            Ok(())
        } else {
            differs(seen[0])
        };
    }
    let wanted = judge::requests(&expected, false)
        .map_err(|e| format!("the case's own backend request: {e}"))?;
    let seen = judge::requests(&seen.concat(), false)
        .map_err(|e| format!("what was written is invalid: {e}"))?;
    if wanted != seen {
        return differs(&seen.concat());
    }
    let finals = case.expect[0]
        .iter()
        .filter(|outcome| !matches!(outcome, Outcome::Status(100..=199)));
    let refusal = finals.copied().nth(wanted.len());
    match (refusal, got.refused) {
        (None | Some(Outcome::Broken(_)), None) => Ok(()),
        (Some(Outcome::Status(status)), Some(refused)) if status == refused => Ok(()),
        // Whether an end that comes too early is worth an answer is not decided in `http`.
        (_, None) if case.client_half_closes => Ok(()),
        (expected, refused) => Err(format!(
            "should be refused with {expected:?}, was with {refused:?}"
        )),
    }
}

/// Compares what became of the response with what the case says.
fn check_response(case: &Case, got: &Response<'_>) -> Result<(), String> {
    let bytes = got.written.clone();
    let ended = got.outcome.is_some();
    let (mut outcomes, responses) = judge::interpret(&bytes, &judge::heads(case), ended)
        .map_err(|e| judge::at(&e, "client would get", &bytes))?;
    if got.outcome == Some(memory::Outcome::Bad) && !got.started {
        outcomes.retain(|outcome| *outcome != Outcome::Closed);
        outcomes.push(Outcome::Status(502));
    }
    AtClient {
        bytes,
        outcomes,
        responses,
    }
    .check(case, memory::REQUEST_ID)?;
    match (got.outcome, case.reuse) {
        (Some(memory::Outcome::Whole { reuse }), Some(expected)) if reuse != expected => {
            Err(format!("reuse should be {expected}, is {reuse}"))
        }
        _ => Ok(()),
    }
}

/// Prints a line that a passing test run shows, too: the harness captures only what `println` writes.
fn tell(line: std::fmt::Arguments<'_>) {
    // Without a standard error there is nowhere to write.
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// What went wrong, once for each case.
#[derive(Default)]
struct Failures(Mutex<BTreeMap<String, String>>);

impl Failures {
    fn add(&self, case: &Case, way: &str, why: &str) {
        let name = Failures::name(case);
        self.0
            .lock()
            .unwrap()
            .entry(name)
            .or_insert_with(|| format!("{way}: {why}"));
    }

    fn has(&self, case: &Case) -> bool {
        self.0.lock().unwrap().contains_key(&Failures::name(case))
    }

    fn name(case: &Case) -> String {
        let path = case
            .path
            .strip_prefix(env!("CARGO_MANIFEST_DIR"))
            .unwrap_or(&case.path);
        path.display().to_string()
    }

    fn report(self) {
        let failures = self.0.into_inner().unwrap();
        let text: Vec<String> = failures
            .iter()
            .map(|(name, why)| {
                format!(
                    "
{name}
  {why}
"
                )
            })
            .collect();
        assert!(
            failures.is_empty(),
            "{} cases failed:
{}",
            failures.len(),
            text.concat()
        );
    }
}
