//! The real binary on a free port, with its logs, its signals and its /proc entry at hand.

use super::client::get;
use super::{Addressed, Client, PATIENCE, eventually};
use rustix::process::{Pid, Resource, Rlimit, Signal};
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Instant;

/// A running proxy; killed when dropped.
pub(crate) struct Proxy {
    /// As it was last written to its file.
    config: Value,
    child: Child,
    address: SocketAddr,
    events: Lines,
    access: Lines,
    directory: Directory,
}

/// What will run: a configuration and how the process is started.
pub(crate) struct Plan {
    config: Value,
    arguments: Vec<String>,
    /// By `--backends` and `--port`.
    is_without_file: bool,
    /// What else lies in its directory.
    files: Vec<(String, String)>,
    /// What a shell does before it becomes the proxy.
    shell: Option<String>,
    stdout: Option<Stdio>,
    after_start: Events,
}

/// What becomes of the event pipe once it listens.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Events {
    Read,
    Held,
    Closed,
}

impl Proxy {
    /// Over these backends, on a free port of 127.0.0.1, without active checks, everything else as by default.
    ///
    /// Without checks because most backends here are scripts, and a check would be their first connection.
    pub(crate) fn over(backends: &[&dyn Addressed]) -> Plan {
        let backends: Vec<Value> = backends
            .iter()
            .map(|backend| json!({ "url": backend.url() }))
            .collect();
        Plan {
            config: json!({
                "proxy": { "port": 0, "address": "127.0.0.1", "workers": 2 },
                "backends": backends,
                "health_check": { "kind": "none" },
            }),
            arguments: Vec::new(),
            is_without_file: false,
            files: Vec::new(),
            shell: None,
            stdout: None,
            after_start: Events::Read,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What `--check` says of its configuration.
    #[track_caller]
    pub(crate) fn check(&self) -> String {
        run_in(&self.directory.0, &["--check", "config.json"]).stdout
    }

    /// Whether it was built without a C library to be loaded.
    pub(crate) fn is_static(&self) -> bool {
        let maps =
            fs::read_to_string(format!("/proc/{}/maps", self.pid())).expect("the process runs");
        !maps.contains("libc.so")
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(self)
    }

    /// Sends a request that stays in flight, and waits until the backends hold one more, of so many.
    #[track_caller]
    pub(crate) fn hold(&self, held: impl Fn() -> usize) -> Client {
        let before = held();
        let mut client = self.client();
        client.send(get("/hold"));
        eventually("the request is held", || held() > before);
        client
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).expect("the process is ours and not reaped yet");
    }

    /// Whether a stop signal has reached every part of it.
    pub(crate) fn is_stopped(&self) -> bool {
        fs::read_dir(format!("/proc/{}/task", self.pid()))
            .expect("the process runs")
            .filter_map(|task| fs::read_to_string(task.ok()?.path().join("stat")).ok())
            .all(|stat| {
                stat.rsplit(')')
                    .next()
                    .is_some_and(|rest| rest.trim_start().starts_with('T'))
            })
    }

    /// From now on it gets no descriptor beyond this one; what is open stays open. Gives the limit that was.
    pub(crate) fn limit_descriptors(&self, limit: Option<u64>) -> Option<u64> {
        let pid = Some(Pid::from_child(&self.child));
        let before = rustix::process::getrlimit(Resource::Nofile);
        let limits = Rlimit {
            current: limit,
            maximum: before.maximum,
        };
        rustix::process::prlimit(pid, Resource::Nofile, limits)
            .expect("the process is ours")
            .current
    }

    /// The names of its threads.
    pub(crate) fn thread_names(&self) -> Vec<String> {
        fs::read_dir(format!("/proc/{}/task", self.pid()))
            .expect("the process runs")
            .filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok())
            .map(|name| name.trim_end().to_owned())
            .collect()
    }

    /// Changes its configuration, has it read again, and gives the event line that says what came of it.
    #[track_caller]
    pub(crate) fn reload(&mut self, change: impl FnOnce(&mut Value)) -> String {
        let mut config = self.config.clone();
        change(&mut config);
        let outcome = self.reload_text(&config.to_string());
        if !outcome.contains("not reloaded") {
            self.config = config;
        }
        outcome
    }

    /// The same with another text in its file.
    #[track_caller]
    pub(crate) fn reload_text(&mut self, text: &str) -> String {
        // As an editor does it, and a careful script: no half of it is ever read.
        let new = self.directory.0.join("config.new");
        fs::write(&new, text).expect("the temporary directory takes a file");
        fs::rename(new, self.directory.0.join("config.json")).expect("both are in one directory");
        let outcomes = |proxy: &Proxy| {
            let mut outcomes = proxy.events();
            outcomes.retain(|line| line.contains("reloaded"));
            outcomes
        };
        let before = outcomes(self).len();
        self.signal(Signal::HUP);
        eventually("the configuration is read again", || {
            outcomes(self).len() > before
        });
        outcomes(self).swap_remove(before)
    }

    /// Replaces a file in its directory at once.
    pub(crate) fn replace_file(&self, name: &str, text: &str) {
        let new = self.directory.0.join("replacing.new");
        fs::write(&new, text).expect("the temporary directory takes a file");
        fs::rename(new, self.directory.0.join(name)).expect("both are in one directory");
    }

    /// Its configuration file.
    pub(crate) fn config_file(&self) -> PathBuf {
        self.directory.0.join("config.json")
    }

    /// Asks it to stop, as a service manager would.
    pub(crate) fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Waits until its port takes no connection any more.
    #[track_caller]
    pub(crate) fn wait_until_closed(&self) {
        eventually("the port is closed", || {
            TcpStream::connect(self.address).is_err()
        });
    }

    /// The exit status, once it ended by itself.
    #[track_caller]
    pub(crate) fn wait_exit(&mut self) -> i32 {
        let mut status = None;
        eventually("the proxy exits", || {
            status = self.child.try_wait().expect("a child can be waited for");
            status.is_some()
        });
        self.events.finish();
        self.access.finish();
        status
            .and_then(|status| status.code())
            .expect("it was not killed by a signal")
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child
            .try_wait()
            .expect("a child can be waited for")
            .is_none()
    }

    /// The first event line that contains every one of `parts`, waited for.
    #[track_caller]
    pub(crate) fn wait_for_event(&self, parts: &[&str]) -> String {
        self.events.wait_for(parts)
    }

    pub(crate) fn events(&self) -> Vec<String> {
        self.events.all()
    }

    /// How many event lines contain every one of `parts` up to now.
    pub(crate) fn events_with(&self, parts: &[&str]) -> usize {
        self.events()
            .iter()
            .filter(|line| parts.iter().all(|part| line.contains(part)))
            .count()
    }

    /// Stops it and looks through everything it said: no event line contains every one of `parts`.
    #[track_caller]
    pub(crate) fn expect_no_event(mut self, parts: &[&str]) {
        self.terminate();
        self.wait_exit();
        assert_eq!(self.events_with(parts), 0, "{:?}", self.events());
    }

    /// The first access line that contains `part`, waited for.
    #[track_caller]
    pub(crate) fn wait_for_access(&self, part: &str) -> String {
        self.access.wait_for(&[part])
    }

    pub(crate) fn access_lines(&self) -> Vec<String> {
        self.access.all()
    }

    pub(crate) fn rss_kib(&self) -> usize {
        self.status("VmRSS:")
    }

    /// The most that was ever resident.
    pub(crate) fn rss_peak_kib(&self) -> usize {
        self.status("VmHWM:")
    }

    pub(crate) fn threads(&self) -> usize {
        self.status("Threads:")
    }

    fn status(&self, key: &str) -> usize {
        let status =
            fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("the process runs");
        let line = status
            .lines()
            .find(|line| line.starts_with(key))
            .expect("Linux writes this line");
        line.split_whitespace()
            .nth(1)
            .and_then(|number| number.parse().ok())
            .expect("a number follows")
    }

    /// The numbers of the open descriptors.
    pub(crate) fn descriptors(&self) -> Vec<u64> {
        fs::read_dir(format!("/proc/{}/fd", self.pid()))
            .expect("the process runs")
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .collect()
    }

    pub(crate) fn open_fds(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid()))
            .expect("the process runs")
            .count()
    }

    /// Of the open descriptors those that are sockets.
    pub(crate) fn open_sockets(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid()))
            .expect("the process runs")
            .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
            .filter(|target| target.to_string_lossy().starts_with("socket:"))
            .count()
    }

    /// Clock ticks of processor time used so far (a hundred a second on Linux).
    pub(crate) fn cpu_ticks(&self) -> u64 {
        let stat =
            fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("the process runs");
        let after_name = stat.rsplit(')').next().expect("the name is in parentheses");
        after_name
            .split_whitespace()
            .skip(11)
            .take(2)
            .filter_map(|ticks| ticks.parse::<u64>().ok())
            .sum()
    }
}

impl Addressed for Proxy {
    fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.events.finish();
        self.access.finish();
        if thread::panicking() {
            eprintln!("--- events of the proxy\n{}", self.events.last());
            eprintln!("--- access lines of the proxy\n{}", self.access.last());
            return;
        }
        // Whatever a test is about: a panic that was contained is still a mistake.
        for line in self.events() {
            assert!(
                !line.contains("internal error") && !line.contains("panicked"),
                "{line}"
            );
        }
    }
}

impl Plan {
    /// Sets one key, such as `timeouts.connect` or `backends.0.weight`.
    pub(crate) fn set(mut self, path: &str, value: impl Into<Value>) -> Plan {
        let mut place = &mut self.config;
        for step in path.split('.') {
            place = match step.parse::<usize>() {
                Ok(index) => &mut place[index],
                Err(_) => &mut place[step],
            };
        }
        *place = value.into();
        self
    }

    /// Leaves a section out.
    pub(crate) fn without(mut self, section: &str) -> Plan {
        if let Some(config) = self.config.as_object_mut() {
            config.remove(section);
        }
        self
    }

    /// Run by options instead of a file.
    pub(crate) fn without_a_file(mut self) -> Plan {
        self.is_without_file = true;
        self
    }

    /// One worker: the order of everything is the test's.
    pub(crate) fn one_worker(self) -> Plan {
        self.set("proxy.workers", 1)
    }

    /// With the active checks of `section` instead of none.
    pub(crate) fn checks(self, section: Value) -> Plan {
        self.set("health_check", section)
    }

    pub(crate) fn argument(mut self, argument: &str) -> Plan {
        self.arguments.push(argument.to_owned());
        self
    }

    /// Runs it with this limit of file descriptors, hard and soft.
    pub(crate) fn descriptors_max(mut self, count: usize) -> Plan {
        self.shell = Some(format!("ulimit -n {count}"));
        self
    }

    /// Runs it with this soft limit of file descriptors under a higher hard one.
    pub(crate) fn soft_descriptors(mut self, count: usize) -> Plan {
        self.shell = Some(format!("ulimit -S -n {count}"));
        self
    }

    /// With a file in its directory.
    pub(crate) fn file(mut self, name: &str, text: &str) -> Plan {
        self.files.push((name.to_owned(), text.to_owned()));
        self
    }

    /// Runs it where the file `hosts` in its directory is `/etc/hosts`.
    pub(crate) fn own_hosts(mut self) -> Plan {
        let unshare = r#"exec unshare --mount sh -c 'mount --bind hosts /etc/hosts && exec "$0" "$@"' "$0" "$@""#;
        self.shell = Some(unshare.to_owned());
        self
    }

    /// Runs it as PID 1 of a process namespace of its own; the process of the test is then `unshare`.
    pub(crate) fn pid_1(mut self) -> Plan {
        let unshare = r#"exec unshare --pid --fork --kill-child "$0" "$@""#;
        self.shell = Some(unshare.to_owned());
        self
    }

    /// Its access lines go where its events go.
    pub(crate) fn access_to_events(mut self) -> Plan {
        self.shell = Some("exec 1>&2".to_owned());
        self
    }

    /// Where its access lines go instead of into the test's buffer.
    pub(crate) fn stdout(mut self, stdout: Stdio) -> Plan {
        self.stdout = Some(stdout);
        self
    }

    /// Once it listens the test reads its events no more, and the pipe stays open.
    pub(crate) fn stop_reading_events(mut self) -> Plan {
        self.after_start = Events::Held;
        self
    }

    /// Once it listens the reading end of its event pipe is closed.
    pub(crate) fn close_events(mut self) -> Plan {
        self.after_start = Events::Closed;
        self
    }

    #[track_caller]
    pub(crate) fn start(self) -> Proxy {
        let directory = Directory::new();
        let file = directory.0.join("config.json");
        fs::write(&file, self.config.to_string()).expect("the temporary directory takes a file");
        for (name, text) in &self.files {
            fs::write(directory.0.join(name), text).expect("the temporary directory takes a file");
        }
        let mut command = match self.shell {
            None => Command::new(binary()),
            Some(first) => {
                let mut shell = Command::new("sh");
                shell.args(["-c", &format!("{first} && exec \"$0\" \"$@\""), &binary()]);
                shell
            }
        };
        if self.is_without_file {
            let urls = self.config["backends"].as_array().expect("it is a list");
            let urls: Vec<&str> = urls
                .iter()
                .filter_map(|each| each["url"].as_str())
                .collect();
            command.args(["--port", "0", "--backends", &urls.join(",")]);
        } else {
            command.arg(&file);
        }
        let mut child = command
            .args(&self.arguments)
            .current_dir(&directory.0)
            .stdin(Stdio::null())
            .stdout(self.stdout.unwrap_or_else(Stdio::piped))
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary was built");
        let access = child
            .stdout
            .take()
            .map_or_else(Lines::none, |pipe| Lines::read(pipe, Events::Read));
        let events = Lines::read(child.stderr.take().expect("piped above"), self.after_start);
        let listening = events.wait_for(&["listening on "]);
        let address = listening
            .split("listening on ")
            .nth(1)
            .and_then(|rest| rest.split([' ', ',']).next())
            .and_then(|address| address.parse().ok())
            .unwrap_or_else(|| panic!("no address in {listening:?}"));
        Proxy {
            config: self.config,
            child,
            address,
            events,
            access,
            directory,
        }
    }
}

/// What a run that ends by itself left.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs the binary with `arguments` until it ends by itself.
#[track_caller]
pub(crate) fn run(arguments: &[&str]) -> Finished {
    let directory = Directory::new();
    run_in(&directory.0, arguments)
}

/// Runs the binary on a configuration file with this content.
#[track_caller]
pub(crate) fn run_with_config(arguments: &[&str], config: impl AsRef<[u8]>) -> Finished {
    run_with_files(arguments, &[("config.json", config.as_ref())])
}

/// Runs the binary where there are these files.
#[track_caller]
pub(crate) fn run_with_files(arguments: &[&str], files: &[(&str, &[u8])]) -> Finished {
    let directory = Directory::new();
    for (name, content) in files {
        fs::write(directory.0.join(name), content).expect("the temporary directory takes a file");
    }
    run_in(&directory.0, arguments)
}

/// Runs the binary on this configuration until it ends because this thread has panicked at its start.
#[track_caller]
pub(crate) fn run_with_panic_in(thread: &str, config: &str, stderr: impl Into<Stdio>) -> Finished {
    let directory = Directory::new();
    fs::write(directory.0.join("config.json"), config)
        .expect("the temporary directory takes a file");
    let mut command = Command::new(binary());
    command.env("RONDO_TEST_PANIC", thread).stderr(stderr);
    finish(&directory.0, command)
}

#[track_caller]
fn run_in(directory: &Path, arguments: &[&str]) -> Finished {
    let mut command = Command::new(binary());
    command.args(arguments).stderr(Stdio::piped());
    finish(directory, command)
}

#[track_caller]
fn finish(directory: &Path, mut command: Command) -> Finished {
    let mut child = command
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary was built");
    let read = |mut pipe: Box<dyn Read + Send>| {
        thread::spawn(move || {
            let mut bytes = Vec::new();
            pipe.read_to_end(&mut bytes).expect("a pipe can be read");
            String::from_utf8_lossy(&bytes).into_owned()
        })
    };
    let stdout = read(Box::new(child.stdout.take().expect("piped above")));
    let stderr = match child.stderr.take() {
        Some(pipe) => read(Box::new(pipe)),
        None => read(Box::new(std::io::empty())),
    };
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            break status;
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            panic!("{command:?} does not end; it wrote {:?}", stderr.join());
        }
        thread::sleep(std::time::Duration::from_millis(2));
    };
    Finished {
        code: status.code().expect("it was not killed by a signal"),
        stdout: stdout.join().expect("the reader does not panic"),
        stderr: stderr.join().expect("the reader does not panic"),
    }
}

/// The program under test: the one that was built with the tests, or another build of it.
fn binary() -> String {
    std::env::var("RONDO_UNDER_TEST").unwrap_or_else(|_| env!("CARGO_BIN_EXE_rondo").to_owned())
}

/// The lines of a pipe, collected by a thread.
struct Lines {
    shared: Arc<(Mutex<Collected>, Condvar)>,
    reader: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Collected {
    lines: Vec<String>,
    ended: bool,
}

impl Lines {
    fn none() -> Lines {
        let collected = Collected {
            lines: Vec::new(),
            ended: true,
        };
        Lines {
            shared: Arc::new((Mutex::new(collected), Condvar::new())),
            reader: Mutex::new(None),
        }
    }

    /// Reads to the end, or up to the line that says where it listens.
    fn read(pipe: impl Read + Send + 'static, after_start: Events) -> Lines {
        let shared = Arc::new((Mutex::new(Collected::default()), Condvar::new()));
        let target = Arc::clone(&shared);
        let reader = thread::spawn(move || {
            let mut pipe = BufReader::new(pipe);
            let mut line = Vec::new();
            let mut stop = false;
            while !stop
                && pipe
                    .read_until(b'\n', &mut line)
                    .is_ok_and(|count| count > 0)
            {
                let text = String::from_utf8_lossy(&line)
                    .trim_end_matches('\n')
                    .to_owned();
                stop = after_start != Events::Read && text.contains("listening on ");
                target
                    .0
                    .lock()
                    .expect("no panic under this lock")
                    .lines
                    .push(text);
                target.1.notify_all();
                line.clear();
            }
            if stop && after_start == Events::Held {
                // Leaked on purpose: the pipe stays open and full as long as the tests run.
                std::mem::forget(pipe);
            }
            target.0.lock().expect("no panic under this lock").ended = true;
            target.1.notify_all();
        });
        Lines {
            shared,
            reader: Mutex::new(Some(reader)),
        }
    }

    #[track_caller]
    fn wait_for(&self, parts: &[&str]) -> String {
        let deadline = Instant::now() + PATIENCE;
        let (lock, changed) = &*self.shared;
        let mut collected = lock.lock().expect("no panic under this lock");
        loop {
            if let Some(line) = collected
                .lines
                .iter()
                .find(|line| parts.iter().all(|part| line.contains(part)))
            {
                return line.clone();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if collected.ended || left.is_zero() {
                drop(collected);
                panic!("no line with {parts:?} in:\n{}", self.last());
            }
            collected = changed
                .wait_timeout(collected, left)
                .expect("no panic under this lock")
                .0;
        }
    }

    fn all(&self) -> Vec<String> {
        self.shared
            .0
            .lock()
            .expect("no panic under this lock")
            .lines
            .clone()
    }

    /// What a failure shows of them.
    fn last(&self) -> String {
        const SHOWN: usize = 20;
        let lines = self.all();
        let skipped = lines.len().saturating_sub(SHOWN);
        format!("({skipped} before these)\n{}", lines[skipped..].join("\n"))
    }

    /// Waits for the end of the pipe: the process is gone.
    fn finish(&self) {
        if let Some(reader) = self.reader.lock().expect("no panic under this lock").take() {
            reader.join().expect("the reader does not panic");
        }
    }
}

/// A directory of its own, removed at the end.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Directory {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::SeqCst);
        let path = std::env::temp_dir().join(format!("rondo-test-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).expect("the temporary directory takes a directory");
        Directory(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // What is left behind lies in the temporary directory.
        let _ = fs::remove_dir_all(&self.0);
    }
}
