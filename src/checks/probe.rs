//! One check of one backend: what it sends, and which response passes.
//!
//! A [`Probe`] is a small state machine over a non-blocking socket that ends in a [`Verdict`]. It
//! holds no thread and no clock. `checker.rs` runs many at once; `pool/health.rs` decides what a
//! verdict means for the backend; the bytes on the socket are in `checks/messages.rs`. A new kind
//! of check is a kind here and an arm in [`Probe::advance`].

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::mem;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};

use crate::checks::messages::{Answer, PROXY_LOCAL, Reader, echo_request, is_echo_reply, request};
use crate::http::HeadLimits;
use crate::net::errno::is_our_shortage;
use crate::pool::backend::Backend;
use crate::pool::reasons::Checked;
use crate::pool::settings::{Choices, HealthCheckSettings, HttpCheck, Kind};

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The backend is up.
    Passed,
    /// It is not, for this reason.
    Failed(String),
    /// Inconclusive, because this machine was short of something; it says nothing about the
    /// backend.
    Nothing(String),
}

/// What is read of the body after the verdict, so that the close sends no reset into a response on
/// its way.
const REST_BYTES_MAX: usize = 64 * 1024;
/// How long that may take.
const REST_TIME_MAX: Duration = Duration::from_secs(1);

/// What is read of an answer at once.
const READ_BYTES: usize = 4096;
/// Its request, and the reasons of failed addresses.
const TEXT_BYTES: usize = 4096;

/// One check of one backend.
#[derive(Debug)]
pub(crate) struct Probe {
    stage: Stage,
    began: Instant,
    /// For all addresses together.
    deadline: Instant,
    /// For the present stage; while connecting, an equal share of the time left for the addresses
    /// left.
    stage_deadline: Instant,
    addresses: Arc<[SocketAddr]>,
    /// The port in place of theirs.
    port: Option<u16>,
    /// The address after the present one.
    next: usize,
    /// Why the addresses before it failed.
    failures: Vec<String>,
    /// Why an address could not be tried, through no fault of the backend.
    shortage: Option<String>,
    rest: Option<Rest>,
    /// The status of an answer that passed.
    status: Option<u16>,
    /// The bounds of a response's head.
    limits: HeadLimits,
}

#[derive(Debug)]
enum Stage {
    /// The next address; before the first, perhaps the name must still be looked up.
    NextAddress,
    Connecting(Socket),
    Sending {
        socket: Socket,
        bytes: Vec<u8>,
        sent: usize,
    },
    /// Until a final head is complete.
    Reading {
        socket: Socket,
        answer: Box<Reader>,
    },
    Echoing {
        socket: Socket,
        v6: bool,
    },
}

/// The result of a stage.
enum Step {
    Wait(Stage),
    Go(Stage),
    /// This address failed; the next one is tried.
    Failed(String),
    /// Inconclusive for this address: a shortage on this machine.
    Untold(String),
    End(Verdict),
}

impl Probe {
    /// What a check takes beside itself: the longest response, and some text.
    pub(crate) fn bytes_max(limits: &HeadLimits) -> usize {
        Reader::bytes_max(limits, READ_BYTES) + TEXT_BYTES
    }

    /// Begins a check; call [`Probe::advance`] at once.
    pub(crate) fn new(settings: &HealthCheckSettings, limits: &HeadLimits, now: Instant) -> Probe {
        let deadline = now + settings.timeout;
        Probe {
            stage: Stage::NextAddress,
            began: now,
            deadline,
            stage_deadline: deadline,
            addresses: Arc::default(),
            port: settings.port,
            next: 0,
            failures: Vec::new(),
            shortage: None,
            rest: None,
            status: None,
            limits: *limits,
        }
    }

    /// The socket to wait for, and for what. None while a name is looked up.
    pub(crate) fn interest(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        match &self.stage {
            Stage::NextAddress => None,
            Stage::Connecting(socket) | Stage::Sending { socket, .. } => {
                Some((socket.as_fd(), PollFlags::OUT))
            }
            Stage::Reading { socket, .. } | Stage::Echoing { socket, .. } => {
                Some((socket.as_fd(), PollFlags::IN))
            }
        }
    }

    /// When to call [`Probe::advance`] even if the socket is not ready.
    pub(crate) fn wake_at(&self) -> Instant {
        self.stage_deadline
    }

    /// Moves the deadlines by this time.
    pub(crate) fn postpone(&mut self, by: Duration) {
        self.deadline += by;
        self.stage_deadline += by;
    }

    /// Goes on without waiting, and returns the verdict at the end. `ready`: the socket was
    /// reported ready.
    pub(crate) fn advance(
        &mut self,
        backend: &Backend,
        settings: &HealthCheckSettings,
        now: Instant,
        mut ready: bool,
    ) -> Option<Verdict> {
        loop {
            let step = match mem::replace(&mut self.stage, Stage::NextAddress) {
                Stage::NextAddress => self.open_next(backend, settings, now),
                Stage::Connecting(socket) if ready => self.connected(socket, backend, settings),
                stage @ Stage::Connecting(_) => Step::Wait(stage),
                Stage::Sending {
                    socket,
                    bytes,
                    sent,
                } => self.send(socket, bytes, sent, backend, settings),
                Stage::Reading { socket, answer } => self.read(socket, answer, settings, now),
                Stage::Echoing { socket, v6 } => self.read_echo(socket, v6),
            };
            ready = false;
            match step {
                Step::Go(stage) => self.stage = stage,
                Step::Wait(stage) if now < self.stage_deadline => {
                    self.stage = stage;
                    return None;
                }
                Step::Wait(stage) => self.failures.push(self.late(&stage, backend)),
                Step::Failed(reason) => self.failures.push(reason),
                Step::Untold(reason) => self.shortage = Some(reason),
                Step::End(verdict) => return Some(verdict),
            }
        }
    }

    /// What a check has found that has just ended in this verdict; none if it found nothing.
    pub(crate) fn checked(&self, verdict: &Verdict, kind: Kind, now: Instant) -> Option<Checked> {
        let took = now.saturating_duration_since(self.began);
        let status = self.status.map(|status| format!("status {status}"));
        let answered = match kind {
            Kind::Icmp => "echo answered",
            _ => "connected",
        };
        let seen = status.as_deref().unwrap_or(answered);
        let result = match verdict {
            Verdict::Passed => Ok(&seen as &dyn fmt::Display),
            Verdict::Failed(reason) => Err(reason as &dyn fmt::Display),
            Verdict::Nothing(_) => return None,
        };
        Some(Checked::now(kind, took, result))
    }

    /// After the verdict: the connection, to be read to its end.
    pub(crate) fn into_rest(self) -> Option<Rest> {
        self.rest
    }

    fn open_next(
        &mut self,
        backend: &Backend,
        settings: &HealthCheckSettings,
        now: Instant,
    ) -> Step {
        if self.addresses.is_empty() {
            // Asked before the addresses, so that no address can arrive in between.
            let pending = backend.is_lookup_pending();
            self.addresses = backend.addresses();
            if self.addresses.is_empty() {
                if pending && now < self.deadline {
                    return Step::Wait(Stage::NextAddress);
                }
                let host = &backend.settings.url.host;
                return Step::End(Verdict::Failed(format!("the name {host} has no address")));
            }
        }
        if self.next == self.addresses.len() || now >= self.deadline {
            return Step::End(self.conclusion());
        }
        let addresses_left = u32::try_from(self.addresses.len() - self.next).unwrap_or(u32::MAX);
        self.stage_deadline = now + (self.deadline - now) / addresses_left;
        self.next += 1;
        let address = self.address();
        let opened = if settings.kind == Kind::Icmp {
            open_echo(address)
        } else {
            open_connection(address)
        };
        opened.map_or_else(|error| on_connect_error(address, &error), Step::Go)
    }

    /// The verdict over all addresses. One real failure outweighs an address that could not be
    /// tried: `localhost` may have an IPv6 address that this machine has not.
    fn conclusion(&mut self) -> Verdict {
        match self.shortage.take() {
            Some(reason) if self.failures.is_empty() => Verdict::Nothing(reason),
            _ => Verdict::Failed(self.failures.join("; ")),
        }
    }

    /// The present address, with the port that is checked.
    fn address(&self) -> SocketAddr {
        // Only asked after an address was opened, so `next` is at least 1.
        let mut address = self.addresses[self.next - 1];
        address.set_port(self.port.unwrap_or(address.port()));
        address
    }

    fn connected(
        &mut self,
        socket: Socket,
        backend: &Backend,
        settings: &HealthCheckSettings,
    ) -> Step {
        let address = self.address();
        if let Some(error) = socket.take_error().unwrap_or_else(Some) {
            return on_connect_error(address, &error);
        }
        // TCP self-connect: on loopback, a port of the ephemeral range can connect to itself when
        // nothing listens.
        if socket.local_addr().ok().and_then(|local| local.as_socket()) == Some(address) {
            return Step::Failed(format!(
                "connect to {address} reached itself: nothing listens there"
            ));
        }
        if settings.port.is_none() {
            backend.address_worked(address);
        }
        self.stage_deadline = self.deadline;
        let mut bytes = Vec::new();
        if backend.settings.send_proxy_protocol {
            bytes.extend_from_slice(&PROXY_LOCAL);
        }
        if settings.kind == Kind::Http {
            let authority = &backend.settings.url.authority;
            bytes.extend_from_slice(&request(&settings.http, authority));
        }
        Step::Go(Stage::Sending {
            socket,
            bytes,
            sent: 0,
        })
    }

    fn send(
        &self,
        socket: Socket,
        bytes: Vec<u8>,
        sent: usize,
        backend: &Backend,
        settings: &HealthCheckSettings,
    ) -> Step {
        if sent == bytes.len() {
            return match settings.kind {
                Kind::Http => Step::Go(Stage::Reading {
                    socket,
                    answer: Box::new(Reader::new(&self.limits, backend.settings.lenient)),
                }),
                // Dropping the socket closes it in order: the backend sent nothing that would make
                // it a reset.
                Kind::Tcp | Kind::Icmp | Kind::None => Step::End(Verdict::Passed),
            };
        }
        match (&socket).write(&bytes[sent..]) {
            Ok(written) => Step::Go(Stage::Sending {
                socket,
                bytes,
                sent: sent + written,
            }),
            Err(error) if is_not_yet(&error) => Step::Wait(Stage::Sending {
                socket,
                bytes,
                sent,
            }),
            Err(error) => self.broken(&error),
        }
    }

    fn read(
        &mut self,
        socket: Socket,
        mut answer: Box<Reader>,
        settings: &HealthCheckSettings,
        now: Instant,
    ) -> Step {
        let HttpCheck { method, path, .. } = &settings.http;
        let method = method.name();
        let mut buffer = [0; READ_BYTES];
        let length = match (&socket).read(&mut buffer) {
            Ok(length) => length,
            Err(error) if is_not_yet(&error) => {
                return Step::Wait(Stage::Reading { socket, answer });
            }
            Err(error) => return self.broken(&error),
        };
        let ended = length == 0;
        let failed = match answer.judge(&buffer[..length], &settings.http) {
            Answer::Good => {
                self.status = Some(answer.status());
                None
            }
            Answer::Status(status) => Some(format!(
                "{method} {path} at {} answered {status}",
                self.address()
            )),
            Answer::Refused(reason) => Some(format!(
                "the answer of {} to {method} {path} is refused: {reason}",
                self.address()
            )),
            Answer::Body(reason) => Some(format!(
                "the answer of {} to {method} {path} is no success: {reason}",
                self.address()
            )),
            Answer::Incomplete if ended => Some(format!(
                "{} closed before it had answered {method} {path}",
                self.address()
            )),
            Answer::Incomplete => return Step::Go(Stage::Reading { socket, answer }),
        };
        self.rest = (!ended).then_some(Rest {
            socket,
            bytes_left: REST_BYTES_MAX,
            deadline: now + REST_TIME_MAX,
        });
        Step::End(failed.map_or(Verdict::Passed, Verdict::Failed))
    }

    fn read_echo(&self, socket: Socket, v6: bool) -> Step {
        let mut bytes = [0; 64];
        match (&socket).read(&mut bytes) {
            Ok(length) if is_echo_reply(&bytes[..length], v6) => Step::End(Verdict::Passed),
            Ok(_) => Step::Go(Stage::Echoing { socket, v6 }),
            Err(error) if is_not_yet(&error) => Step::Wait(Stage::Echoing { socket, v6 }),
            Err(error) => self.broken(&error),
        }
    }

    fn broken(&self, error: &io::Error) -> Step {
        let reason = format!("{}: {error}", self.address());
        if is_our_shortage(error) {
            Step::End(Verdict::Nothing(reason))
        } else {
            Step::Failed(reason)
        }
    }

    fn late(&self, stage: &Stage, backend: &Backend) -> String {
        match stage {
            Stage::NextAddress => format!(
                "the name {} was not resolved in time",
                backend.settings.url.host
            ),
            Stage::Connecting(_) => format!("connect to {} timed out", self.address()),
            Stage::Sending { .. } | Stage::Reading { .. } => {
                format!("{} did not answer in time", self.address())
            }
            Stage::Echoing { .. } => format!("no echo from {} in time", self.address()),
        }
    }
}

/// A connection whose verdict is known: what still comes is discarded, so that the close is no
/// reset.
#[derive(Debug)]
pub(crate) struct Rest {
    socket: Socket,
    bytes_left: usize,
    deadline: Instant,
}

impl Rest {
    /// When to drop it at the latest.
    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// The socket to read from.
    pub(crate) fn interest(&self) -> (BorrowedFd<'_>, PollFlags) {
        (self.socket.as_fd(), PollFlags::IN)
    }

    /// Reads what has come; true when the connection can be dropped.
    pub(crate) fn advance(&mut self, now: Instant) -> bool {
        let mut buffer = [0; READ_BYTES];
        loop {
            match (&self.socket).read(&mut buffer) {
                Ok(length) if length > 0 && length < self.bytes_left => self.bytes_left -= length,
                Err(error) if is_not_yet(&error) => return now >= self.deadline,
                Ok(_) | Err(_) => return true,
            }
        }
    }
}

/// Whether this process may send echo requests, to be asked before the first check; an error names
/// the remedy.
pub(crate) fn may_send_echoes() -> io::Result<()> {
    match Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::ICMPV4)) {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Err(io::Error::new(
            ErrorKind::PermissionDenied,
            "health_check.kind \"icmp\": the kernel lets this process send no echoes; set the sysctl \
             net.ipv4.ping_group_range so that it includes the process's group (\"0 2147483647\" includes all)",
        )),
        Err(error) => Err(error),
        Ok(_) => Ok(()),
    }
}

fn open_connection(address: SocketAddr) -> io::Result<Stage> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking(),
        Some(Protocol::TCP),
    )?;
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(Errno::INPROGRESS.raw_os_error()) => Err(error),
        // Either way the socket becomes writable when it is connected.
        Ok(()) | Err(_) => Ok(Stage::Connecting(socket)),
    }
}

fn open_echo(address: SocketAddr) -> io::Result<Stage> {
    let v6 = address.is_ipv6();
    let protocol = if v6 {
        Protocol::ICMPV6
    } else {
        Protocol::ICMPV4
    };
    let socket = Socket::new(
        Domain::for_address(address),
        Type::DGRAM.nonblocking(),
        Some(protocol),
    )?;
    // Connected, it receives from this host only, and learns that the host is unreachable.
    socket.connect(&SocketAddr::new(address.ip(), 0).into())?;
    socket.send(&echo_request(v6))?;
    Ok(Stage::Echoing { socket, v6 })
}

fn on_connect_error(address: SocketAddr, error: &io::Error) -> Step {
    let reason = match error.kind() {
        ErrorKind::ConnectionRefused => format!("connect to {address} refused"),
        _ => format!("connect to {address}: {error}"),
    };
    match error.kind() {
        // Perhaps no shortage of ports but a missing address family: the next address shows.
        ErrorKind::AddrNotAvailable => Step::Untold(reason),
        // A firewall here, or echo requests that were forbidden after the start.
        ErrorKind::PermissionDenied => Step::End(Verdict::Nothing(reason)),
        _ if is_our_shortage(error) => Step::End(Verdict::Nothing(reason)),
        _ => Step::Failed(reason),
    }
}

fn is_not_yet(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shortage_here_is_no_verdict_on_a_backend() {
        let address = "127.0.0.1:80".parse().unwrap();
        for errno in [
            Errno::MFILE,
            Errno::NFILE,
            Errno::NOBUFS,
            Errno::NOMEM,
            Errno::PERM,
            Errno::ACCESS,
        ] {
            assert!(matches!(
                on_connect_error(address, &errno.into()),
                Step::End(Verdict::Nothing(_))
            ));
        }
        assert!(matches!(
            on_connect_error(address, &Errno::ADDRNOTAVAIL.into()),
            Step::Untold(_)
        ));
        assert!(matches!(
            on_connect_error(address, &Errno::CONNREFUSED.into()),
            Step::Failed(_)
        ));
    }

    #[test]
    fn one_real_failure_outweighs_an_address_that_could_not_be_tried() {
        let settings = crate::pool::tests::health(Kind::Tcp);
        let limits = HeadLimits {
            head_bytes_max: 1024,
            fields_max: 8,
        };
        let mut probe = Probe::new(&settings, &limits, Instant::now());
        probe.shortage = Some("no port".to_owned());
        assert_eq!(probe.conclusion(), Verdict::Nothing("no port".to_owned()));
        probe.shortage = Some("no IPv6".to_owned());
        probe.failures.push("refused".to_owned());
        assert_eq!(probe.conclusion(), Verdict::Failed("refused".to_owned()));
    }
}
