//! One proxy process with one scripted backend: sends a case over real sockets and judges both ends.
//!
//! A lane plays one case at a time, so every byte at its backend belongs to that case. After each case a probe goes
//! through a client connection of its own: its answer shows that the process serves, that the one worker is done with
//! whatever the case left, and on which backend connection the next request went out. Read next: `memory.rs` of `tests/kit`.

use crate::support::Proxy;
use kit::case::{Case, Outcome, escape, fill};
use kit::strict::{self, Message, Seen};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

/// How long anything may take that must come.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two parts of a message, so that they arrive apart. No assertion depends on it.
const PAUSE: Duration = Duration::from_millis(1);

const PROBE: &[u8] = b"GET /rondo-probe HTTP/1.1\r\nHost: probe\r\n\r\n";
/// With a date, so that what comes back is what was sent.
const PROBE_RESPONSE: &[u8] =
    b"HTTP/1.1 200 OK\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\nContent-Length: 5\r\n\r\nprobe";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// How one message is cut before it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    Whole,
    EachByte,
    /// In two parts, the first of this many bytes.
    At(usize),
}

pub(crate) struct Lane {
    proxy: Proxy,
    origin: Arc<Origin>,
    probe: TcpStream,
    /// The backend connection that the last probe went out on.
    probe_connection: usize,
}

impl Lane {
    /// Starts a proxy whose configuration deviates from the default as a case says.
    pub(crate) fn start<'a>(config: impl Iterator<Item = (&'a String, &'a String)>) -> Lane {
        let origin = Origin::start();
        let address = origin.address;
        let mut plan = Proxy::over(&[&address])
            .one_worker()
            .set("timeouts.backend_idle", "1h");
        plan = plan.set("proxy.access_log", false);
        for (key, value) in config {
            plan = match key.as_str() {
                "head_bytes" | "fields" | "body_bytes" => plan.set(
                    &format!("limits.{key}"),
                    value.parse::<u64>().expect("a number"),
                ),
                "lenient" => plan.set("backends.0.lenient", value == "true"),
                "trust_forwarded" | "via" => plan.set(&format!("proxy.{key}"), value == "true"),
                "base" => plan.set("backends.0.url", format!("http://{address}{value}")),
                _ => panic!("config: no such key: {key}"),
            };
        }
        let proxy = plan.start();
        let probe = connect(proxy.address());
        let mut lane = Lane {
            proxy,
            origin,
            probe,
            probe_connection: 0,
        };
        lane.probe_connection = lane.probe().expect("a new proxy serves");
        lane
    }

    /// Plays a case; `Err` says what was wrong.
    pub(crate) fn play(&mut self, case: &Case, request: Cut, response: Cut) -> Result<(), String> {
        self.origin.begin(Script {
            response: case.backend_response.clone().unwrap_or_else(|| OK.to_vec()),
            cut: response,
            closes: case.backend_closes,
        });
        let at_client = self.client_side(case, request)?;
        if let Some(later) = &case.backend_response_later {
            self.origin.send_on_idle(later)?;
        } else if response != Cut::Whole && case.reuse == Some(false) {
            // What comes after a whole response may come after the next request, too, and nobody could tell; once it
            // came, the connection must go. In one piece with the response it must be seen before the next request.
            self.origin.wait_for_discard()?;
        }
        let probe_before = self.probe_connection;
        self.probe_connection = self.probe()?;
        let log = self.origin.settle(self.probe_connection)?;
        self.check_backend(case, &log)?;
        self.check_reuse(case, &log, probe_before)?;
        let id = log.events.iter().find_map(|event| match &event.what {
            What::Request(bytes) => request_id(bytes),
            What::Probe => None,
        });
        at_client.check(case, &id.unwrap_or_default())
    }

    /// Sends the request and reads what comes back, until it is complete or the connection ends.
    fn client_side(&self, case: &Case, cut: Cut) -> Result<AtClient, String> {
        let mut stream = connect(self.proxy.address());
        // A proxy that already answered may close while we still send.
        let _ = send(&mut stream, &case.request, cut);
        if case.client_half_closes {
            let _ = stream.shutdown(Shutdown::Write);
        }
        let heads = heads(case);
        let mut bytes = Vec::new();
        let mut ended = false;
        let mut closing = false;
        loop {
            let (outcomes, responses) =
                interpret(&bytes, &heads, ended).map_err(|e| at(&e, "client got", &bytes))?;
            if ended {
                return Ok(AtClient {
                    bytes,
                    outcomes,
                    responses,
                });
            }
            if !closing && is_done(case, &bytes, &outcomes, &responses) {
                // Its close is the barrier after which a surplus byte would have come.
                let _ = stream.shutdown(Shutdown::Write);
                closing = true;
            }
            let mut part = [0; 16384];
            match stream.read(&mut part) {
                Ok(0) => ended = true,
                Ok(count) => bytes.extend_from_slice(&part[..count]),
                Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => {
                    return Err(at("the connection was reset", "client got", &bytes));
                }
                Err(e) => return Err(at(&format!("waiting for more: {e}"), "client got", &bytes)),
            }
        }
    }

    /// One exchange on a connection of its own; returns the backend connection it went out on.
    fn probe(&mut self) -> Result<usize, String> {
        let failed = |e: std::io::Error| format!("the process does not serve the probe: {e}");
        self.probe.write_all(PROBE).map_err(failed)?;
        let mut got = vec![0; PROBE_RESPONSE.len()];
        self.probe.read_exact(&mut got).map_err(failed)?;
        if got != PROBE_RESPONSE {
            return Err(at(
                "another client's bytes reached the probe",
                "probe got",
                &got,
            ));
        }
        let log = self.origin.lock();
        log.events
            .iter()
            .rev()
            .find(|e| e.what == What::Probe)
            .map(|e| e.connection)
            .ok_or("no probe at the backend".into())
    }

    fn check_backend(&self, case: &Case, log: &Log) -> Result<(), String> {
        let backend = self.origin.address.to_string();
        let seen: Vec<&Vec<u8>> = log
            .events
            .iter()
            .filter_map(|event| match &event.what {
                What::Request(bytes) => Some(bytes),
                What::Probe => None,
            })
            .collect();
        let unfinished: Vec<&Vec<u8>> = log.unfinished.iter().map(|(_, bytes)| bytes).collect();
        if let Some((fault, bytes)) = &log.fault {
            return Err(at(
                &format!("backend saw something invalid: {fault}"),
                "backend saw",
                bytes,
            ));
        }
        let id = seen
            .iter()
            .chain(&unfinished)
            .find_map(|bytes| request_id(bytes))
            .unwrap_or_default();
        let expected = case
            .backend_request
            .as_ref()
            .map(|bytes| fill(bytes, &id, backend.as_bytes()));
        let expected = expected.unwrap_or_default();
        if case.backend_unfinished {
            if !seen.is_empty() {
                return Err(at(
                    "the backend saw a whole request",
                    "backend saw",
                    seen[0],
                ));
            }
            return unfinished
                .iter()
                .try_for_each(|bytes| is_beginning(bytes, &expected));
        }
        if let Some(bytes) = unfinished.first() {
            return Err(at(
                "the backend saw an unfinished request",
                "backend saw",
                bytes,
            ));
        }
        let expected = requests(&expected, case.opens_tunnel())
            .map_err(|e| format!("the case's own backend request: {e}"))?;
        let seen: Vec<Vec<u8>> = seen
            .iter()
            .flat_map(|bytes| requests(bytes, case.opens_tunnel()).expect("it was read so before"))
            .collect();
        let same = if case.backend_retried {
            (1..=3).contains(&seen.len()) && seen.iter().all(|one| one == &expected[0])
        } else {
            without_ids(&seen) == without_ids(&expected) && ids_are_good(&seen)
        };
        if same {
            return Ok(());
        }
        Err(format!(
            "  backend should see\n    {}\n  backend saw\n    {}",
            escape(&expected.concat()),
            escape(&seen.concat())
        ))
    }

    fn check_reuse(&self, case: &Case, log: &Log, probe_before: usize) -> Result<(), String> {
        let last = log.last_used();
        let now = self.probe_connection;
        match (last, case.reuse) {
            (None, _) if !case.backend_unfinished && now != probe_before => Err(
                "the idle backend connection did not survive a request that was never forwarded"
                    .into(),
            ),
            (Some(last), Some(true)) if last != now => {
                Err("the backend connection was not reused".into())
            }
            (Some(last), Some(false)) if last == now => {
                Err("the backend connection was reused".into())
            }
            _ => Ok(()),
        }
    }
}

/// What the client got.
#[derive(Debug)]
pub(crate) struct AtClient {
    pub(crate) bytes: Vec<u8>,
    pub(crate) outcomes: Vec<Outcome>,
    /// Each in canonical form, the last maybe only a part.
    pub(crate) responses: Vec<Vec<u8>>,
}

impl AtClient {
    /// Compares it with what the case expects; `id` is the id that the request went out with.
    pub(crate) fn check(&self, case: &Case, id: &[u8]) -> Result<(), String> {
        if !case.expect.contains(&self.outcomes) {
            let why = format!(
                "client should get {:?}, got {:?}",
                case.expect, self.outcomes
            );
            return Err(at(&why, "client got", &self.bytes));
        }
        let keeps_date = has_date(case.backend_response.as_deref().unwrap_or(OK));
        let mut responses = Vec::new();
        for response in &self.responses {
            let added = added_date(response);
            if is_final(response) && added.is_none() && !(keeps_date && has_date(response)) {
                return Err(at(
                    "a final response without a date",
                    "client got",
                    response,
                ));
            }
            responses.push(without(response, added.filter(|_| !keeps_date)));
        }
        let (Some(expected), false) = (
            &case.response,
            self.outcomes.last() == Some(&Outcome::Status(502)),
        ) else {
            return Ok(());
        };
        let expected = fill(expected, id, b"");
        let broken = matches!(self.outcomes.last(), Some(Outcome::Broken(_)));
        let (_, wanted) = interpret(&expected, &heads(case), !broken)
            .map_err(|e| format!("the case's own response: {e}"))?;
        // A body that breaks off may be cut anywhere; what came of it must be its beginning.
        let same = if broken {
            responses
                .last()
                .is_some_and(|last| is_cut_of(last, &expected))
        } else {
            wanted == responses
        };
        if same {
            return Ok(());
        }
        Err(format!(
            "  client should get\n    {}\n  client got\n    {}",
            escape(&expected),
            escape(&self.bytes)
        ))
    }
}

fn is_final(response: &[u8]) -> bool {
    !response.starts_with(b"HTTP/1.1 1")
}

/// Whether a Date field stands in the head.
fn has_date(response: &[u8]) -> bool {
    let head = response.split(|byte| *byte == b'\n');
    head.take_while(|line| line.len() > 1)
        .any(|line| line.to_ascii_lowercase().starts_with(b"date:"))
}

/// Where the Date line stands that rondo added to a head: the only one, in the one form that is sent.
fn added_date(response: &[u8]) -> Option<Range<usize>> {
    const FORM: &[u8] = b"Date: Aaa, 00 Aaa 0000 00:00:00 GMT\r\n";
    let head_bytes = response.windows(4).position(|bytes| bytes == b"\r\n\r\n")? + 4;
    let fits = |line: &[u8]| {
        line.iter().zip(FORM).all(|(byte, form)| match form {
            b'0' => byte.is_ascii_digit(),
            b'A' => byte.is_ascii_uppercase(),
            b'a' => byte.is_ascii_lowercase() || form == byte,
            _ => byte == form,
        })
    };
    let lines = response[..head_bytes].windows(FORM.len());
    let mut places = lines.enumerate().filter(|(_, line)| fits(line));
    let (start, _) = places.next()?;
    places.next().is_none().then(|| start..start + FORM.len())
}

fn without(response: &[u8], part: Option<Range<usize>>) -> Vec<u8> {
    let part = part.unwrap_or(0..0);
    [&response[..part.start], &response[part.end..]].concat()
}

/// Whether both have the same head and the content of one begins that of the other.
fn is_cut_of(got: &[u8], whole: &[u8]) -> bool {
    let part = |bytes: &[u8]| match strict::response(bytes, false, false) {
        Ok(Seen::Part(Some(message)) | Seen::Whole(message)) => {
            Some((bytes[..message.head_bytes].to_vec(), message.content))
        }
        _ => None,
    };
    match (part(got), part(whole)) {
        (Some((head, content)), Some((whole_head, whole_content))) => {
            head == whole_head && whole_content.starts_with(&content)
        }
        _ => false,
    }
}

/// Nothing more is to come without our closing.
fn is_done(case: &Case, bytes: &[u8], outcomes: &[Outcome], responses: &[Vec<u8>]) -> bool {
    if outcomes.last() == Some(&Outcome::Status(101)) {
        return case
            .response
            .as_ref()
            .is_none_or(|expected| bytes.len() >= expected.len());
    }
    let count = case.expect.iter().map(Vec::len).min().unwrap_or(0);
    let closes = responses.last().is_some_and(|last| {
        let Ok(Seen::Whole(message)) = strict::response(last, true, true) else {
            return false;
        };
        message.all("Connection").contains(&b"close".as_slice())
    });
    case.expect.iter().any(|expected| expected == outcomes) && responses.len() >= count && !closes
}

/// Cuts what a client got into responses: whole ones in canonical form, then what became of the last.
pub(crate) fn interpret(
    mut bytes: &[u8],
    heads: &[bool],
    ended: bool,
) -> Result<(Vec<Outcome>, Vec<Vec<u8>>), String> {
    let (mut outcomes, mut responses) = (Vec::new(), Vec::new());
    let mut finals = 0;
    while !bytes.is_empty() {
        let to_head = heads.get(finals).copied().unwrap_or(false);
        let mut seen = strict::response(bytes, to_head, ended)?;
        if let (Seen::Part(Some(message)), true) = (&seen, ended)
            && message.status() >= 400
            && message.content.is_empty()
        {
            // Our own answer to a HEAD whose request could not be read.
            seen = strict::response(bytes, true, ended)?;
        }
        match seen {
            Seen::Whole(message) => {
                outcomes.push(Outcome::Status(message.status()));
                responses.push(message.canonical(bytes, true));
                finals += usize::from(message.status() >= 200);
                bytes = &bytes[message.total_bytes..];
            }
            Seen::Part(Some(message)) => {
                if ended {
                    outcomes.push(Outcome::Broken(message.status()));
                }
                responses.push(message.canonical(bytes, false));
                return Ok((outcomes, responses));
            }
            Seen::Part(None) if ended => return Err("the connection ended inside a head".into()),
            Seen::Part(None) => return Ok((outcomes, responses)),
        }
    }
    if ended && outcomes.is_empty() {
        outcomes.push(Outcome::Closed);
    }
    Ok((outcomes, responses))
}

/// Which of the case's requests are HEAD: its responses have no body.
pub(crate) fn heads(case: &Case) -> Vec<bool> {
    let expected = case.backend_request.clone().unwrap_or_default();
    let mut heads: Vec<bool> = requests(&expected, case.opens_tunnel())
        .unwrap_or_default()
        .iter()
        .map(|request| request.starts_with(b"HEAD "))
        .collect();
    if heads.is_empty() {
        heads.push(case.request.starts_with(b"HEAD "));
    }
    heads
}

/// Every request in canonical form; the bytes of a tunnel belong to the request that opened it.
pub(crate) fn requests(mut bytes: &[u8], tunnel: bool) -> Result<Vec<Vec<u8>>, String> {
    let mut requests = Vec::new();
    while !bytes.is_empty() {
        match strict::request(bytes)? {
            Seen::Whole(message) => {
                let end = if tunnel {
                    bytes.len()
                } else {
                    message.total_bytes
                };
                let mut request = message.canonical(bytes, true);
                request.extend_from_slice(&bytes[message.total_bytes..end]);
                requests.push(request);
                bytes = &bytes[end..];
            }
            Seen::Part(_) => return Err(at("an unfinished request", "", bytes)),
        }
    }
    Ok(requests)
}

/// `seen` begins the request `expected`, and does not end it.
pub(crate) fn is_beginning(seen: &[u8], expected: &[u8]) -> Result<(), String> {
    let no = |why: &str| {
        Err(format!(
            "  {why}: backend may see a beginning of\n    {}\n  backend saw\n    {}",
            escape(expected),
            escape(seen)
        ))
    };
    let part = |bytes: &[u8]| -> Result<Option<Message>, String> {
        match strict::request(bytes)? {
            Seen::Whole(message) => Ok(Some(message)),
            Seen::Part(message) => Ok(message),
        }
    };
    let Some(message) = part(seen)? else {
        return Ok(());
    };
    let Some(whole) = part(expected)? else {
        return no("nothing was to be forwarded");
    };
    if seen[..message.head_bytes] != expected[..whole.head_bytes] {
        return no("the head differs");
    }
    if !whole.content.starts_with(&message.content) {
        return no("the content differs");
    }
    Ok(())
}

fn request_id(request: &[u8]) -> Option<Vec<u8>> {
    match strict::request(request) {
        Ok(Seen::Whole(message) | Seen::Part(Some(message))) => {
            message.field("X-Request-Id").map(<[u8]>::to_vec)
        }
        _ => None,
    }
}

/// Pipelined requests each have an id of their own, of which `fill` knows only the first: compared without them.
fn without_ids(requests: &[Vec<u8>]) -> Vec<Vec<u8>> {
    if requests.len() < 2 {
        return requests.to_vec();
    }
    requests
        .iter()
        .map(|request| {
            request_id(request).map_or(request.clone(), |id| replace_once(request, &id, b"{id}"))
        })
        .collect()
}

fn ids_are_good(requests: &[Vec<u8>]) -> bool {
    let ids: Vec<Vec<u8>> = requests
        .iter()
        .filter_map(|request| request_id(request))
        .collect();
    let distinct = ids.iter().collect::<std::collections::BTreeSet<_>>().len();
    ids.len() == requests.len()
        && distinct == ids.len()
        && ids
            .iter()
            .all(|id| (1..=128).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic))
}

fn replace_once(bytes: &[u8], what: &[u8], with: &[u8]) -> Vec<u8> {
    match bytes.windows(what.len()).rposition(|window| window == what) {
        Some(at) => [&bytes[..at], with, &bytes[at + what.len()..]].concat(),
        None => bytes.to_vec(),
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the proxy listens");
    stream.set_nodelay(true).expect("a socket option");
    stream.set_read_timeout(Some(PATIENCE)).expect("not zero");
    stream
}

/// Sends a message in parts; each is read apart as far as a pause can bring it about.
fn send(stream: &mut TcpStream, bytes: &[u8], cut: Cut) -> std::io::Result<()> {
    match cut {
        Cut::Whole => stream.write_all(bytes),
        Cut::At(first) => {
            stream.write_all(&bytes[..first])?;
            thread::sleep(PAUSE);
            stream.write_all(&bytes[first..])
        }
        Cut::EachByte => {
            for byte in bytes {
                stream.write_all(&[*byte])?;
                if bytes.len() <= 512 || b"\r\n: ".contains(byte) {
                    thread::sleep(PAUSE);
                }
            }
            Ok(())
        }
    }
}

pub(crate) fn at(why: &str, what: &str, bytes: &[u8]) -> String {
    format!("{why}\n  {what}\n    {}", escape(bytes))
}

/// The scripted backend of a lane.
struct Origin {
    address: SocketAddr,
    log: Mutex<Log>,
    changed: Condvar,
}

struct Script {
    response: Vec<u8>,
    cut: Cut,
    closes: bool,
}

/// What happened at the backend since the case began.
#[derive(Default)]
struct Log {
    script: Option<Arc<Script>>,
    events: Vec<Event>,
    /// Open connections, with a handle to write on.
    open: Vec<(usize, TcpStream)>,
    /// Bytes of a request whose end has not come, by connection.
    unfinished: Vec<(usize, Vec<u8>)>,
    fault: Option<(String, Vec<u8>)>,
    count: usize,
}

impl Log {
    /// The connection of the last request that was not a probe.
    fn last_used(&self) -> Option<usize> {
        self.events
            .iter()
            .rev()
            .find(|event| matches!(event.what, What::Request(_)))
            .map(|event| event.connection)
    }
}

struct Event {
    connection: usize,
    what: What,
}

#[derive(PartialEq, Eq)]
enum What {
    Request(Vec<u8>),
    Probe,
}

impl Origin {
    fn start() -> Arc<Origin> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let origin = Arc::new(Origin {
            address,
            log: Mutex::default(),
            changed: Condvar::new(),
        });
        let acceptor = Arc::clone(&origin);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let origin = Arc::clone(&acceptor);
                let stream = stream.expect("the listener lives as long as the tests");
                let number = {
                    let mut log = origin.lock();
                    log.count += 1;
                    let number = log.count;
                    log.open
                        .push((number, stream.try_clone().expect("descriptors are left")));
                    number
                };
                thread::spawn(move || origin.serve(number, stream));
            }
        });
        origin
    }

    fn lock(&self) -> MutexGuard<'_, Log> {
        self.log.lock().expect("no panic under this lock")
    }

    fn begin(&self, script: Script) {
        let mut log = self.lock();
        log.script = Some(Arc::new(script));
        log.events.clear();
        log.unfinished.clear();
        log.fault = None;
    }

    fn serve(&self, connection: usize, mut stream: TcpStream) {
        stream.set_nodelay(true).expect("a socket option");
        let mut pending: Vec<u8> = Vec::new();
        let mut tunnel = false;
        let mut broken = false;
        let mut part = [0; 16384];
        while let Ok(count @ 1..) = stream.read(&mut part) {
            if tunnel {
                let mut log = self.lock();
                let last = log
                    .events
                    .iter_mut()
                    .rev()
                    .find(|e| e.connection == connection);
                if let Some(Event {
                    what: What::Request(bytes),
                    ..
                }) = last
                {
                    bytes.extend_from_slice(&part[..count]);
                }
                continue;
            }
            pending.extend_from_slice(&part[..count]);
            while !broken && !pending.is_empty() && !tunnel {
                match strict::request(&pending) {
                    Ok(Seen::Whole(message)) => {
                        let mut rest = pending.split_off(message.total_bytes);
                        tunnel = self.answer(
                            connection,
                            &mut stream,
                            &message,
                            std::mem::take(&mut pending),
                            &mut rest,
                        );
                        pending = rest;
                    }
                    Ok(Seen::Part(_)) => break,
                    Err(fault) => {
                        self.lock().fault = Some((fault, pending.clone()));
                        broken = true;
                    }
                }
            }
            let mut log = self.lock();
            log.unfinished.retain(|(number, _)| *number != connection);
            if !pending.is_empty() {
                log.unfinished.push((connection, pending.clone()));
            }
        }
        self.lock().open.retain(|(number, _)| *number != connection);
        self.changed.notify_all();
    }

    /// Notes a request and answers it; true when the connection is a tunnel from here.
    fn answer(
        &self,
        connection: usize,
        stream: &mut TcpStream,
        message: &Message,
        mut request: Vec<u8>,
        rest: &mut Vec<u8>,
    ) -> bool {
        let is_probe =
            message.start[1] == b"/rondo-probe" || message.start[1].ends_with(b"/rondo-probe");
        let script = self.lock().script.clone();
        let script = script.filter(|_| !is_probe);
        let tunnel = script
            .as_ref()
            .is_some_and(|script| script.response.starts_with(b"HTTP/1.1 101"));
        if tunnel {
            request.append(rest);
        }
        let what = if is_probe {
            What::Probe
        } else {
            What::Request(request)
        };
        self.lock().events.push(Event { connection, what });
        match script {
            None => _ = stream.write_all(PROBE_RESPONSE),
            Some(script) => {
                // The proxy may have closed: it did not like what it got so far.
                let _ = send(stream, &script.response, script.cut);
                if script.closes {
                    let _ = stream.shutdown(Shutdown::Write);
                }
            }
        }
        tunnel
    }

    /// Sends bytes on the idle connection that served the last request, and waits until the proxy discards it.
    fn send_on_idle(&self, bytes: &[u8]) -> Result<(), String> {
        let mut log = self.lock();
        let last = log.last_used().ok_or("no request came to the backend")?;
        if let Some((_, stream)) = log.open.iter_mut().find(|(number, _)| *number == last) {
            let _ = stream.write_all(bytes);
        }
        drop(log);
        self.wait_for_discard()
    }

    /// Waits until the proxy closed the connection that served the last request.
    fn wait_for_discard(&self) -> Result<(), String> {
        let log = self.lock();
        let Some(last) = log.last_used() else {
            return Ok(());
        };
        self.wait(
            log,
            "the proxy discards a connection that cannot be reused",
            |log| log.open.iter().all(|(number, _)| *number != last),
        )
        .map(drop)
    }

    /// Waits until every connection but the probe's is closed (one at a time is all a lane needs), then takes what
    /// happened.
    fn settle(&self, probe: usize) -> Result<Log, String> {
        let what = "the proxy closes the backend connection it does not reuse";
        let is_settled = |log: &Log| log.open.iter().all(|(number, _)| *number == probe);
        let mut log = self.wait(self.lock(), what, is_settled)?;
        Ok(Log {
            events: std::mem::take(&mut log.events),
            unfinished: std::mem::take(&mut log.unfinished),
            fault: log.fault.take(),
            ..Log::default()
        })
    }

    fn wait<'a>(
        &self,
        mut log: MutexGuard<'a, Log>,
        what: &str,
        done: impl Fn(&Log) -> bool,
    ) -> Result<MutexGuard<'a, Log>, String> {
        let deadline = Instant::now() + PATIENCE;
        while !done(&log) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(format!("waited in vain until {what}"));
            }
            log = self
                .changed
                .wait_timeout(log, left)
                .expect("no panic under this lock")
                .0;
        }
        Ok(log)
    }
}
