//! One corpus file: what it says, read into values.
//!
//! A file is a header and sections named after the four messages:
//!
//! ```text
//! # Why the case exists, in words.
//! rfc: 9112 6.1                  (and / or `attack:` or `contract:`; at least one of them)
//! config: head_bytes=1024        (left out: the defaults)
//! expect: 400                    (what the client gets, in order; see `Outcome`)
//! --- request
//! POST / HTTP/1.1\r\n
//! ...
//! --- backend request            (what the backend must see, byte for byte; `{id}` is the generated request id)
//! --- backend response           (what the backend sends; left out: a 200 with `ok`)
//! --- backend response, later    (sent by the backend once the connection is idle)
//! --- response                   (what the client must get, byte for byte; left out: only its status counts)
//! ```
//!
//! Each final response must have a Date. Where the backend sends none, rondo's is checked and left out of the comparison.
//!
//! The ends of the file's lines are not part of a message: `\r\n` is written where it is meant. Escapes: `\r \n \t \0
//! \\ \{ \xNN`; `{text*N}` repeats. Other header lines, each at its field in [`Case`]. Read next: `tests/it/corpus.rs`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// One case.
#[derive(Debug, Clone, Default)]
pub struct Case {
    pub path: PathBuf,
    /// `config:` deviations from the defaults, as `key=value` words.
    pub config: BTreeMap<String, String>,
    /// `expect:` alternatives (`|`), each a list of what the client gets.
    pub expect: Vec<Vec<Outcome>>,
    /// `backend: unfinished`: the backend may see a beginning of the backend request, never its end.
    pub backend_unfinished: bool,
    /// `backend: retried`: the backend sees the same request on up to three connections.
    pub backend_retried: bool,
    /// `reuse: yes | no`: whether the next request may go out on the backend connection.
    pub reuse: Option<bool>,
    /// `client: half-closes` after its request.
    pub client_half_closes: bool,
    /// `backend: closes` after its response.
    pub backend_closes: bool,
    /// `only: sockets`: what is looked at lies outside `http/`.
    pub only_sockets: bool,
    pub request: Vec<u8>,
    pub backend_request: Option<Vec<u8>>,
    pub backend_response: Option<Vec<u8>>,
    pub backend_response_later: Option<Vec<u8>>,
    pub response: Option<Vec<u8>>,
}

/// One thing the client gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A whole response with this status.
    Status(u16),
    /// `broken`: after the head of a response with this status, the connection ends before the body does.
    Broken(u16),
    /// `closed`: the connection ends without a byte.
    Closed,
}

impl Case {
    /// The backend switches protocols and the client is to see it.
    pub fn opens_tunnel(&self) -> bool {
        self.expect
            .iter()
            .all(|outcomes| outcomes.contains(&Outcome::Status(101)))
    }
}

/// Stands for the generated request id inside an expected message.
pub const ID: &[u8] = b"\0id\0";
/// Stands for the backend's authority.
pub const BACKEND: &[u8] = b"\0backend\0";

/// Reads every case of a group, in the order of the names.
pub fn group(name: &str) -> Vec<Case> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    let folder = tests
        .expect("this package lies in the folder of the tests")
        .join("corpus")
        .join(name);
    let mut paths: Vec<PathBuf> = std::fs::read_dir(&folder)
        .unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "case"))
        .collect();
    paths.sort();
    paths.iter().map(|path| read(path)).collect()
}

/// Reads one file; a mistake in it is a panic that names the file and the line.
pub fn read(path: &Path) -> Case {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    parse(path, &text).unwrap_or_else(|mistake| panic!("{}: {mistake}", path.display()))
}

fn parse(path: &Path, text: &str) -> Result<Case, String> {
    let mut case = Case {
        path: path.to_owned(),
        ..Case::default()
    };
    let (mut has_why, mut has_source) = (false, false);
    let mut section: Option<String> = None;
    let mut sections: BTreeMap<String, String> = BTreeMap::new();
    for (number, line) in text.lines().enumerate() {
        let mistake = |what: &str| Err(format!("line {}: {what}: {line:?}", number + 1));
        if let Some(name) = line.strip_prefix("--- ") {
            if sections.insert(name.to_owned(), String::new()).is_some() {
                return mistake("a second section of this name");
            }
            section = Some(name.to_owned());
        } else if let Some(name) = &section {
            if line.ends_with([' ', '\t']) {
                return mistake("an invisible end; write \\x20 or \\t");
            }
            sections.get_mut(name).unwrap().push_str(line);
        } else if line.starts_with("# ") {
            has_why = true;
        } else if let Some((key, value)) = line.split_once(": ") {
            match (key, value.trim()) {
                ("rfc" | "attack" | "contract", _) => has_source = true,
                ("config", words) => {
                    for word in words.split_whitespace() {
                        let Some((key, value)) = word.split_once('=') else {
                            return mistake("not key=value");
                        };
                        case.config.insert(key.to_owned(), value.to_owned());
                    }
                }
                ("expect", alternatives) => {
                    case.expect = alternatives
                        .split('|')
                        .map(outcomes)
                        .collect::<Result<_, _>>()?;
                }
                ("backend", "unfinished") => case.backend_unfinished = true,
                ("backend", "retried") => case.backend_retried = true,
                ("backend", "closes") => case.backend_closes = true,
                ("reuse", "yes") => case.reuse = Some(true),
                ("reuse", "no") => case.reuse = Some(false),
                ("client", "half-closes") => case.client_half_closes = true,
                ("only", "sockets") => case.only_sockets = true,
                _ => return mistake("no such header line"),
            }
        } else {
            return mistake("neither `# why`, `key: value` nor `--- section`");
        }
    }
    if !has_why || !has_source || case.expect.is_empty() {
        return Err(
            "needs `# why`, one of `rfc:`, `attack:` and `contract:`, and `expect:`".into(),
        );
    }
    for (name, text) in sections {
        let bytes = unescape(&text).map_err(|e| format!("{name}: {e}"))?;
        match name.as_str() {
            "request" => case.request = bytes,
            "backend request" => case.backend_request = Some(bytes),
            "backend response" => case.backend_response = Some(bytes),
            "backend response, later" => case.backend_response_later = Some(bytes),
            "response" => case.response = Some(bytes),
            _ => return Err(format!("no section is called {name:?}")),
        }
    }
    if case.request.is_empty() {
        case.request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec();
    }
    Ok(case)
}

fn outcomes(list: &str) -> Result<Vec<Outcome>, String> {
    let mut outcomes = Vec::new();
    for word in list.split_whitespace() {
        match (word, outcomes.last()) {
            ("broken", Some(Outcome::Status(status))) => {
                *outcomes.last_mut().unwrap() = Outcome::Broken(*status);
            }
            ("closed", _) => outcomes.push(Outcome::Closed),
            _ => outcomes.push(Outcome::Status(
                word.parse()
                    .map_err(|_| format!("not an outcome: {word:?}"))?,
            )),
        }
    }
    Ok(outcomes)
}

/// The bytes that an escaped text stands for.
pub fn unescape(text: &str) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        match c {
            '\\' => {
                let escape = rest.chars().next().ok_or("a lone backslash at the end")?;
                rest = &rest[escape.len_utf8()..];
                out.push(match escape {
                    'r' => b'\r',
                    'n' => b'\n',
                    't' => b'\t',
                    '0' => 0,
                    '\\' => b'\\',
                    '{' => b'{',
                    'x' => {
                        let digits = rest.get(..2).ok_or("\\x needs two digits")?;
                        rest = &rest[2..];
                        u8::from_str_radix(digits, 16).map_err(|_| format!("\\x{digits}"))?
                    }
                    other => return Err(format!("no escape \\{other}")),
                });
            }
            '{' => {
                let end = rest.find('}').ok_or("{ without }")?;
                let inner = &rest[..end];
                rest = &rest[end + 1..];
                match inner {
                    "id" => out.extend_from_slice(ID),
                    "backend" => out.extend_from_slice(BACKEND),
                    _ => {
                        let (unit, times) = inner
                            .rsplit_once('*')
                            .ok_or_else(|| format!("{{{inner}}}"))?;
                        let times: usize = times.parse().map_err(|_| format!("{{{inner}}}"))?;
                        out.extend(unescape(unit)?.repeat(times));
                    }
                }
            }
            _ => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    Ok(out)
}

/// Bytes as a case file would show them, for messages about failures.
pub fn escape(bytes: &[u8]) -> String {
    use std::fmt::Write;
    let mut out = String::new();
    for b in bytes {
        match b {
            b'\r' => out.push_str("\\r"),
            b'\n' => out.push_str("\\n\n    "),
            b'\t' => out.push_str("\\t"),
            b'\\' => out.push_str("\\\\"),
            b'{' => out.push_str("\\{"),
            b' '..=b'~' => out.push(char::from(*b)),
            _ => write!(out, "\\x{b:02x}").unwrap(),
        }
        if out.len() > 4000 {
            out.push_str("[...]");
            break;
        }
    }
    out
}

/// Puts the values of this run into an expected message.
pub fn fill(template: &[u8], id: &[u8], backend: &[u8]) -> Vec<u8> {
    replace(&replace(template, ID, id), BACKEND, backend)
}

fn replace(bytes: &[u8], what: &[u8], with: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at..].starts_with(what) {
            out.extend_from_slice(with);
            at += what.len();
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    out
}
