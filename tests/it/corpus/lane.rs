//! One proxy process with one scripted backend: sends a case over real sockets and has both ends
//! judged.
//!
//! A lane plays one case at a time, so every byte at its backend belongs to that case. After each
//! case a probe goes through a client connection of its own: its answer shows that the process
//! serves, that the one worker is done with what the case left, and on which backend connection the
//! next request went out. Read next: `judge.rs`, `backend.rs`.

use crate::corpus::backend::{CaseBackend, Log, Script, What};
use crate::corpus::judge::{
    AtClient, at, heads, ids_are_good, interpret, is_beginning, is_done, request_id, requests,
    without_ids,
};
use crate::support::Proxy;
use kit::case::{Case, escape, fill};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// How long anything may take that must come.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// Between two parts of a message, so that they arrive apart. No assertion depends on it.
const PAUSE: Duration = Duration::from_millis(1);

const PROBE: &[u8] = b"GET /rondo-probe HTTP/1.1\r\nHost: probe\r\n\r\n";
/// With a date, so that what comes back is what was sent.
pub(super) const PROBE_RESPONSE: &[u8] =
    b"HTTP/1.1 200 OK\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\nContent-Length: 5\r\n\r\nprobe";
pub(super) const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

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
    backend: Arc<CaseBackend>,
    probe: TcpStream,
    /// The backend connection that the last probe went out on.
    probe_connection: usize,
}

impl Lane {
    /// Starts a proxy whose configuration deviates from the default as a case says.
    pub(crate) fn start<'a>(config: impl Iterator<Item = (&'a String, &'a String)>) -> Lane {
        let backend = CaseBackend::start();
        let address = backend.address;
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
            backend,
            probe,
            probe_connection: 0,
        };
        lane.probe_connection = lane.probe().expect("a new proxy serves");
        lane
    }

    /// Plays a case; `Err` says what was wrong.
    pub(crate) fn play(&mut self, case: &Case, request: Cut, response: Cut) -> Result<(), String> {
        self.backend.begin(Script {
            response: case.backend_response.clone().unwrap_or_else(|| OK.to_vec()),
            cut: response,
            closes: case.backend_closes,
        });
        let at_client = self.client_side(case, request)?;
        if let Some(later) = &case.backend_response_later {
            self.backend.send_on_idle(later)?;
        } else if response != Cut::Whole && case.reuse == Some(false) {
            // What comes after a whole response may come after the next request, too, and no reader could tell; once it
            // came, the connection must go. In one piece with the response it must be seen before the next request.
            self.backend.wait_for_discard()?;
        }
        let probe_before = self.probe_connection;
        self.probe_connection = self.probe()?;
        let log = self.backend.settle(self.probe_connection)?;
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
        let log = self.backend.lock();
        log.events
            .iter()
            .rev()
            .find(|e| e.what == What::Probe)
            .map(|e| e.connection)
            .ok_or("no probe at the backend".into())
    }

    fn check_backend(&self, case: &Case, log: &Log) -> Result<(), String> {
        let backend = self.backend.address.to_string();
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

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the proxy listens");
    stream.set_nodelay(true).expect("a socket option");
    stream.set_read_timeout(Some(PATIENCE)).expect("not zero");
    stream
}

/// Sends a message in parts; each is read apart as far as a pause can bring it about.
pub(super) fn send(stream: &mut TcpStream, bytes: &[u8], cut: Cut) -> std::io::Result<()> {
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
