//! What is asked for: method, path and query.

use crate::admin::answer::Answer;
use crate::admin::decisions::{Only, Selection};
use crate::ask::Wish;
use crate::pool::state::Operator;

/// A request that may be answered.
#[derive(Debug)]
pub(crate) struct Request {
    pub wanted: Wanted,
    /// HEAD: the answer has no body.
    pub head_only: bool,
    pub body: Vec<u8>,
}

/// What there is.
#[derive(Debug)]
pub(crate) enum Wanted {
    Page {
        takes_gzip: bool,
    },
    Status {
        with_history: bool,
    },
    Decisions(Selection),
    Config,
    Metrics,
    Live,
    Ready,
    /// A change, or what it would do.
    Change {
        wish: Wish,
        dry_run: bool,
    },
}

impl Wanted {
    /// Whether the answer is short, or the main thread's.
    pub(crate) fn is_short(&self) -> bool {
        self.is_for_probers() || matches!(self, Wanted::Change { .. })
    }

    /// Whether it says so little that it needs no token: probers have none.
    pub(crate) fn is_for_probers(&self) -> bool {
        matches!(self, Wanted::Live | Wanted::Ready)
    }
}

/// What a method and a target in origin form ask for, or why there is no such thing.
#[inline(never)]
pub(crate) fn find(method: &[u8], target: &[u8]) -> Result<Wanted, Answer> {
    let text = str::from_utf8(target).unwrap_or_default();
    let (path, query) = text.split_once('?').unwrap_or((text, ""));
    let mut steps = path.strip_prefix('/').unwrap_or_default().split('/');
    let [first, second, third] = [(); 3].map(|()| steps.next());
    if steps.next().is_some() {
        return Err(nothing_here());
    }
    let name = || second.and_then(decoded).filter(|name| !name.is_empty());
    let (allowed, wanted): (&str, &dyn Fn() -> Option<Wanted>) = match (first, second, third) {
        (Some(""), None, None) => (READING, &|| {
            plain(Wanted::Page { takes_gzip: false }, query)
        }),
        (Some("status"), None, None) => (READING, &|| match query {
            "" => Some(Wanted::Status { with_history: true }),
            "history=0" => Some(Wanted::Status {
                with_history: false,
            }),
            _ => None,
        }),
        (Some("decisions"), None, None) => {
            (READING, &|| Some(Wanted::Decisions(selection(query)?)))
        }
        (Some("config"), None, None) => (READING, &|| plain(Wanted::Config, query)),
        (Some("metrics"), None, None) => (READING, &|| plain(Wanted::Metrics, query)),
        (Some("live" | "healthz"), None, None) => (READING, &|| plain(Wanted::Live, query)),
        (Some("ready" | "readyz"), None, None) => (READING, &|| plain(Wanted::Ready, query)),
        (Some("reload"), None, None) => ("POST", &|| change(Wish::Reload, query)),
        (Some("backends"), Some(_), None) => ("PUT, DELETE", &|| {
            let name = name()?;
            let wish = match method {
                // The body comes later.
                b"PUT" => Wish::Put {
                    name,
                    entry: Vec::new(),
                },
                _ => Wish::Remove { name },
            };
            change(wish, query)
        }),
        (Some("backends"), Some(_), Some(verb)) => {
            let operator = match verb {
                "drain" => Operator::Draining,
                "disable" => Operator::Disabled,
                "enable" => Operator::Enabled,
                _ => return Err(nothing_here()),
            };
            ("POST", &move || {
                change(
                    Wish::Operator {
                        name: name()?,
                        operator,
                    },
                    query,
                )
            })
        }
        _ => return Err(nothing_here()),
    };
    if !allowed.split(", ").any(|each| each.as_bytes() == method) {
        let allow = format!("Allow: {allowed}\r\n");
        return Err(Answer::error(405, &format!("this takes {allowed} only")).with(&allow));
    }
    wanted().ok_or_else(|| Answer::error(400, "the name or the query is not right"))
}

const READING: &str = "GET, HEAD";

fn nothing_here() -> Answer {
    Answer::error(404, "there is no such thing here")
}

/// What takes no query.
fn plain(wanted: Wanted, query: &str) -> Option<Wanted> {
    query.is_empty().then_some(wanted)
}

/// Which decisions a query asks for.
#[inline(never)]
fn selection(query: &str) -> Option<Selection> {
    let mut selection = Selection::default();
    for part in query.split('&').filter(|_| !query.is_empty()) {
        match part.split_once('=')? {
            ("only", "errors") if selection.only == Only::All => selection.only = Only::Errors,
            ("only", "retries") if selection.only == Only::All => selection.only = Only::Retries,
            ("limit", number) if selection.limit.is_none() => {
                selection.limit = Some(number.parse().ok()?);
            }
            _ => return None,
        }
    }
    Some(selection)
}

/// A change with its query.
fn change(wish: Wish, query: &str) -> Option<Wanted> {
    let dry_run = match query {
        "" => false,
        "dry_run=1" => true,
        _ => return None,
    };
    Some(Wanted::Change { wish, dry_run })
}

/// Percent-decoded (RFC 3986 2.1) text.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut out = Vec::new();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                u8::try_from(digit()? << 4 | digit()?).ok()?
            }
            _ => byte,
        });
    }
    String::from_utf8(out).ok()
}
