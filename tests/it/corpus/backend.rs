//! The scripted backend of a lane: answers as the case at hand says, and keeps what it saw.

use crate::corpus::lane::{Cut, PATIENCE, PROBE_RESPONSE, send};
use kit::strict::{self, Message, Seen};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Instant;

pub(crate) struct CaseBackend {
    pub(crate) address: SocketAddr,
    log: Mutex<Log>,
    changed: Condvar,
}

pub(crate) struct Script {
    pub(crate) response: Vec<u8>,
    pub(crate) cut: Cut,
    pub(crate) closes: bool,
}

/// What happened at the backend since the case began.
#[derive(Default)]
pub(crate) struct Log {
    script: Option<Arc<Script>>,
    pub(crate) events: Vec<Event>,
    /// Open connections, with a handle to write on.
    open: Vec<(usize, TcpStream)>,
    /// Bytes of a request whose end has not come, by connection.
    pub(crate) unfinished: Vec<(usize, Vec<u8>)>,
    pub(crate) fault: Option<(String, Vec<u8>)>,
    count: usize,
}

impl Log {
    /// The connection of the last request that was not a probe.
    pub(crate) fn last_used(&self) -> Option<usize> {
        self.events
            .iter()
            .rev()
            .find(|event| matches!(event.what, What::Request(_)))
            .map(|event| event.connection)
    }
}

pub(crate) struct Event {
    pub(crate) connection: usize,
    pub(crate) what: What,
}

#[derive(PartialEq, Eq)]
pub(crate) enum What {
    Request(Vec<u8>),
    Probe,
}

impl CaseBackend {
    pub(crate) fn start() -> Arc<CaseBackend> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let backend = Arc::new(CaseBackend {
            address,
            log: Mutex::default(),
            changed: Condvar::new(),
        });
        let acceptor = Arc::clone(&backend);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let backend = Arc::clone(&acceptor);
                let stream = stream.expect("the listener lives as long as the tests");
                let number = {
                    let mut log = backend.lock();
                    log.count += 1;
                    let number = log.count;
                    log.open
                        .push((number, stream.try_clone().expect("descriptors are left")));
                    number
                };
                thread::spawn(move || backend.serve(number, stream));
            }
        });
        backend
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Log> {
        self.log.lock().expect("no panic under this lock")
    }

    pub(crate) fn begin(&self, script: Script) {
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
    pub(crate) fn send_on_idle(&self, bytes: &[u8]) -> Result<(), String> {
        let mut log = self.lock();
        let last = log.last_used().ok_or("no request came to the backend")?;
        if let Some((_, stream)) = log.open.iter_mut().find(|(number, _)| *number == last) {
            let _ = stream.write_all(bytes);
        }
        drop(log);
        self.wait_for_discard()
    }

    /// Waits until the proxy closed the connection that served the last request.
    pub(crate) fn wait_for_discard(&self) -> Result<(), String> {
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
    pub(crate) fn settle(&self, probe: usize) -> Result<Log, String> {
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
