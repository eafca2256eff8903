//! `rondo --health URL`: one GET, for the health check of a container that has no shell and no
//! curl.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::config::url;
use crate::net::bell::Bell;
use crate::net::lock::lock;
use crate::net::thread;
use crate::pool::settings::BackendUrl;
use crate::text::escape::printable;
use crate::text::words::quoted;

/// For all of it: the lookup of the name, the connection and the response.
const TIMEOUT: Duration = Duration::from_secs(2);

/// How much is read until the status is known.
const ANSWER_BYTES_MAX: u64 = 256 * 1024;

/// Why there was no good answer. Displayed as one line.
#[derive(Debug)]
pub enum HealthError {
    /// The URL cannot be asked.
    Url(String),
    /// There was no response with a status of 200 to 399 in time.
    Answer(String),
}

impl fmt::Display for HealthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (HealthError::Url(text) | HealthError::Answer(text)) = self;
        f.write_str(&printable(text))
    }
}

impl std::error::Error for HealthError {}

/// Sends a GET and waits at most 2 s for a status of 200 to 399.
pub fn ask(asked: &str) -> Result<(), HealthError> {
    let wrong = |text: String| HealthError::Url(format!("--health is {}, {text}", quoted(asked)));
    let (origin, target) = split(asked);
    let origin = url::parse(origin).map_err(|error| wrong(error.to_string()))?;
    if !target.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(wrong(
            "whose path has a character that a path cannot have; write it percent-encoded"
                .to_owned(),
        ));
    }
    let request = format!(
        "GET {target} HTTP/1.1\r\nHost: {}\r\nUser-Agent: rondo/{}\r\nConnection: close\r\n\r\n",
        origin.authority,
        env!("CARGO_PKG_VERSION")
    );
    // A thread of its own, since a name lookup has no time limit; it ends with the process.
    let done = Arc::new(Bell::default());
    let is_done = Arc::clone(&done);
    let answer = Arc::new(Mutex::new(None));
    let told = Arc::clone(&answer);
    let asking = thread::start("health-request", move || {
        *lock(&told) = Some(status(&origin, &request));
        is_done.ring();
    });
    let failure = if let Err(error) = asking {
        error.to_string()
    } else {
        done.wait(TIMEOUT);
        match lock(&answer).take() {
            Some(Ok(200..=399)) => return Ok(()),
            Some(Ok(status)) => format!("answered {status}"),
            Some(Err(error)) => error.to_string(),
            None => format!("no answer within {} s", TIMEOUT.as_secs()),
        }
    };
    let text = format!("--health {}: {failure}", quoted(asked));
    Err(HealthError::Answer(text))
}

/// The host and port to ask, and the target in origin form, without a fragment.
fn split(url: &str) -> (&str, String) {
    let url = url.split('#').next().unwrap_or_default();
    let authority = url.find("://").map_or(0, |scheme| scheme + 3);
    let end = url[authority..].find(['/', '?']);
    let (origin, target) = url.split_at(end.map_or(url.len(), |end| authority + end));
    let slash = if target.starts_with('/') { "" } else { "/" };
    (origin, format!("{slash}{target}"))
}

/// The status of the final response; each address of the host is tried until one connects.
fn status(origin: &BackendUrl, request: &str) -> io::Result<u16> {
    let addresses: Vec<SocketAddr> = match origin.host.fixed_addresses(origin.port) {
        Some(addresses) => addresses,
        None => (origin.host.to_string().as_str(), origin.port)
            .to_socket_addrs()?
            .collect(),
    };
    let mut stream = TcpStream::connect(addresses.as_slice())?;
    stream.write_all(request.as_bytes())?;
    let mut answer = BufReader::new(stream.take(ANSWER_BYTES_MAX));
    loop {
        let status = read_status(&mut answer)?;
        // 1xx responses come before the final one; after 101 there is none.
        if !(100..=199).contains(&status) || status == 101 {
            return Ok(status);
        }
        while !read_line(&mut answer)?.is_empty() {}
    }
}

fn read_status(answer: &mut impl BufRead) -> io::Result<u16> {
    let line = read_line(answer)?;
    let status = line
        .strip_prefix("HTTP/1.")
        .and_then(|rest| rest.split(' ').nth(1))
        .filter(|status| status.len() == 3);
    status
        .and_then(|status| status.parse().ok())
        .ok_or_else(|| io::Error::other("it did not answer in HTTP/1"))
}

fn read_line(answer: &mut impl BufRead) -> io::Result<String> {
    let mut line = Vec::new();
    answer.read_until(b'\n', &mut line)?;
    if line.pop() != Some(b'\n') {
        return Err(io::Error::other("it closed before it had answered"));
    }
    let line = String::from_utf8_lossy(&line).into_owned();
    Ok(line.trim_end_matches('\r').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_split_into_host_and_target() {
        for (url, origin, target) in [
            ("http://a", "http://a", "/"),
            ("http://a/", "http://a", "/"),
            ("http://a:1/b?c#d", "http://a:1", "/b?c"),
            ("http://a?b", "http://a", "/?b"),
            ("http://[::1]:1/ready", "http://[::1]:1", "/ready"),
            ("a/b", "a", "/b"),
        ] {
            assert_eq!(split(url), (origin, target.to_owned()), "{url}");
        }
    }
}
