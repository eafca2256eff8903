//! The command line: arguments to a [`Command`], or one line that says what is wrong and what would be right.
//!
//! By hand, because there are eight options and each wrong combination gets a line of its own.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use log::LevelFilter;

use crate::text::escape::printable;
use crate::text::words::{nearest, quoted};

/// What `--help` prints.
pub const HELP: &str = concat!(
    "rondo ",
    env!("CARGO_PKG_VERSION"),
    ": a round-robin HTTP/1.1 load balancer

Usage: rondo [OPTIONS] [CONFIG]

  CONFIG                configuration file (JSON); ./config.json when left out

Options:
  --check               check the configuration, print what would run, and exit
  --explain N           with --check: also print the next N choices of backend
  --backends URL,URL    run without a file, over these backends; needs --port
  --port N              the port to listen on; needs --backends
  --demo                start four small servers and balance over them
  --log LEVEL           error, warn, info (default), debug or trace
  -h, --help            print this page
  -V, --version         print the version

Examples:
  rondo --demo
  rondo --backends http://127.0.0.1:8081,http://127.0.0.1:8082 --port 8080
  rondo --check /etc/rondo.json

SIGTERM and SIGINT end it when all is answered, a second one at once.

Exit status:
  0  after a clean stop
  1  when it cannot run, or was stopped twice
  2  for a wrong command line or configuration
"
);

/// What `--version` prints.
pub const VERSION: &str = concat!("rondo ", env!("CARGO_PKG_VERSION"), "\n");

/// How many choices `--explain` may ask for.
const EXPLAINED_MAX: usize = 10_000;

const OPTIONS: [&str; 8] = [
    "--check",
    "--explain",
    "--backends",
    "--port",
    "--demo",
    "--log",
    "--help",
    "--version",
];

/// What the command line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Balance until stopped.
    Run {
        /// Where the configuration comes from.
        source: Source,
        /// Which events are logged.
        log: LevelFilter,
    },
    /// Print what would run.
    Check {
        /// Where the configuration comes from.
        source: Source,
        /// How many choices of backend to explain.
        explain: Option<usize>,
    },
    /// Balance over servers of our own until stopped.
    Demo {
        /// Which events are logged.
        log: LevelFilter,
    },
    /// Print [`HELP`].
    Help,
    /// Print [`VERSION`].
    Version,
}

/// Where the configuration comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A file.
    File(PathBuf),
    /// `--backends` and `--port`.
    Flags {
        /// URLs with commas between them.
        backends: String,
        /// The port as given.
        port: String,
    },
}

/// Displayed as the file's name on one line, or as the option.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::File(path) => f.write_str(&printable(&path.to_string_lossy())),
            Source::Flags { .. } => f.write_str("--backends"),
        }
    }
}

/// A wrong command line, displayed as one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageError {
    what: String,
    hint: String,
}

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&printable(&format!("{}; {}", self.what, self.hint)))
    }
}

impl std::error::Error for UsageError {}

fn error(what: impl Into<String>, hint: impl Into<String>) -> UsageError {
    UsageError {
        what: what.into(),
        hint: hint.into(),
    }
}

/// Reads the arguments that follow the program's name.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, UsageError> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let asks_for = |names: [&str; 2]| {
        let options = arguments.iter().take_while(|argument| *argument != "--");
        options
            .into_iter()
            .any(|argument| names.iter().any(|name| argument == name))
    };
    // Whoever asks for help gets it, whatever else is wrong.
    if asks_for(["--help", "-h"]) {
        return Ok(Command::Help);
    }
    if asks_for(["--version", "-V"]) {
        return Ok(Command::Version);
    }
    Given::read(arguments)?.command()
}

/// The arguments as given, each at most once.
#[derive(Debug, Default)]
struct Given {
    config: Option<OsString>,
    check: Option<String>,
    demo: Option<String>,
    explain: Option<String>,
    backends: Option<String>,
    port: Option<String>,
    log: Option<String>,
}

impl Given {
    fn read(arguments: Vec<OsString>) -> Result<Given, UsageError> {
        let mut given = Given::default();
        let mut arguments = arguments.into_iter();
        let mut are_options = true;
        while let Some(argument) = arguments.next() {
            let is_option = are_options && argument.as_encoded_bytes().starts_with(b"-");
            if argument == "--" && are_options {
                are_options = false;
            } else if is_option {
                given.read_option(&argument, &mut arguments)?;
            } else if argument.is_empty() {
                return Err(error("CONFIG is empty", "name a configuration file"));
            } else if let Some(first) = &given.config {
                return Err(error(
                    format!(
                        "two configuration files, {} and {}",
                        quoted(&first.to_string_lossy()),
                        quoted(&argument.to_string_lossy())
                    ),
                    "name one",
                ));
            } else {
                given.config = Some(argument);
            }
        }
        Ok(given)
    }

    fn read_option(
        &mut self,
        argument: &OsString,
        following: &mut impl Iterator<Item = OsString>,
    ) -> Result<(), UsageError> {
        let Some(text) = argument.to_str() else {
            let shown = quoted(&argument.to_string_lossy());
            return Err(error(
                format!("the option {shown} is not UTF-8"),
                "see rondo --help",
            ));
        };
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (text, None),
        };
        let (place, wanted) = match name {
            "--check" => (&mut self.check, ""),
            "--demo" => (&mut self.demo, ""),
            "--explain" => (
                &mut self.explain,
                "a number of choices, such as --explain 8",
            ),
            "--backends" => (
                &mut self.backends,
                "URLs, such as --backends http://127.0.0.1:8081,http://127.0.0.1:8082",
            ),
            "--port" => (&mut self.port, "a port, such as --port 8080"),
            "--log" => (&mut self.log, "a level, such as --log debug"),
            _ => {
                let hint = match nearest(name, OPTIONS.into_iter()) {
                    Some(meant) => format!("did you mean {meant}?"),
                    None => "see rondo --help".to_owned(),
                };
                return Err(error(format!("unknown option {}", quoted(name)), hint));
            }
        };
        let value = match (value, wanted.is_empty()) {
            (None, true) => String::new(),
            (Some(_), true) => {
                return Err(error(
                    format!("{name} takes no value"),
                    "leave out what follows the =",
                ));
            }
            (Some(value), false) => value,
            (None, false) => match following.next().map(OsString::into_string) {
                Some(Ok(value)) if !value.starts_with("--") => value,
                Some(Err(value)) => {
                    let shown = quoted(&value.to_string_lossy());
                    return Err(error(
                        format!("the value {shown} of {name} is not UTF-8"),
                        format!("give it {wanted}"),
                    ));
                }
                _ => {
                    return Err(error(
                        format!("{name} has no value"),
                        format!("give it {wanted}"),
                    ));
                }
            },
        };
        if place.replace(value).is_some() {
            return Err(error(format!("{name} is given twice"), "give it once"));
        }
        Ok(())
    }

    fn command(self) -> Result<Command, UsageError> {
        let log = self.log.as_deref().map_or(Ok(LevelFilter::Info), level)?;
        let is_check = self.check.is_some();
        if self.demo.is_some() {
            let others = [
                (is_check, "--check"),
                (self.explain.is_some(), "--explain"),
                (self.backends.is_some(), "--backends"),
                (self.port.is_some(), "--port"),
                (self.config.is_some(), "CONFIG"),
            ];
            return match others.iter().find(|(is_given, _)| *is_given) {
                Some((_, name)) => Err(error(
                    format!("--demo and {name} exclude each other"),
                    "the demo brings its own configuration",
                )),
                None => Ok(Command::Demo { log }),
            };
        }
        if self.explain.is_some() && !is_check {
            return Err(error("--explain without --check", "add --check"));
        }
        let explain = self.explain.as_deref().map(choices).transpose()?;
        let source = match (self.backends, self.port, self.config) {
            (None, None, config) => Source::File(config.unwrap_or("config.json".into()).into()),
            (Some(backends), Some(port), None) => Source::Flags { backends, port },
            (Some(_), None, None) => {
                return Err(error(
                    "--backends without --port",
                    "add the port to listen on, such as --port 8080",
                ));
            }
            (None, Some(_), None) => {
                return Err(error(
                    "--port without --backends",
                    "add --backends URL,URL, or set proxy.port in the configuration file",
                ));
            }
            (backends, _, Some(config)) => {
                let option = if backends.is_some() {
                    "--backends"
                } else {
                    "--port"
                };
                return Err(error(
                    format!(
                        "{option} and the configuration file {} exclude each other",
                        quoted(&config.to_string_lossy())
                    ),
                    "leave out one of them",
                ));
            }
        };
        Ok(if is_check {
            Command::Check { source, explain }
        } else {
            Command::Run { source, log }
        })
    }
}

fn level(text: &str) -> Result<LevelFilter, UsageError> {
    match text {
        "error" => Ok(LevelFilter::Error),
        "warn" => Ok(LevelFilter::Warn),
        "info" => Ok(LevelFilter::Info),
        "debug" => Ok(LevelFilter::Debug),
        "trace" => Ok(LevelFilter::Trace),
        _ => Err(error(
            format!("--log is {}", quoted(text)),
            "must be error, warn, info, debug or trace",
        )),
    }
}

fn choices(text: &str) -> Result<usize, UsageError> {
    Some(text)
        .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|text| text.parse().ok())
        .filter(|number| (1..=EXPLAINED_MAX).contains(number))
        .ok_or_else(|| {
            error(
                format!("--explain is {}", quoted(text)),
                format!("must be an integer from 1 to {EXPLAINED_MAX}"),
            )
        })
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt as _;

    use super::*;

    fn parse_words(words: &[&str]) -> Result<Command, UsageError> {
        parse(words.iter().map(OsString::from))
    }

    fn assert_lines(cases: &[(&[&str], &str)]) {
        for (words, line) in cases {
            let shown = parse_words(words).unwrap_err().to_string();
            assert_eq!(shown, *line, "{words:?}");
        }
    }

    fn file(path: &str) -> Source {
        Source::File(path.into())
    }

    #[test]
    fn good_command_lines_become_commands() {
        let flags = || Source::Flags {
            backends: "http://a,http://b".to_owned(),
            port: "8080".to_owned(),
        };
        let (info, debug) = (LevelFilter::Info, LevelFilter::Debug);
        for (words, command) in [
            (
                &[][..],
                Command::Run {
                    source: file("config.json"),
                    log: info,
                },
            ),
            (
                &["a.json"],
                Command::Run {
                    source: file("a.json"),
                    log: info,
                },
            ),
            (
                &["--log", "debug", "a.json"],
                Command::Run {
                    source: file("a.json"),
                    log: debug,
                },
            ),
            (
                &["a.json", "--log=debug"],
                Command::Run {
                    source: file("a.json"),
                    log: debug,
                },
            ),
            (
                &["--", "--check"],
                Command::Run {
                    source: file("--check"),
                    log: info,
                },
            ),
            (
                &["--check", "--", "--"],
                Command::Check {
                    source: file("--"),
                    explain: None,
                },
            ),
            (
                &["--check"],
                Command::Check {
                    source: file("config.json"),
                    explain: None,
                },
            ),
            (
                &["--explain", "8", "--check", "a.json"],
                Command::Check {
                    source: file("a.json"),
                    explain: Some(8),
                },
            ),
            (
                &["--backends", "http://a,http://b", "--port", "8080"],
                Command::Run {
                    source: flags(),
                    log: info,
                },
            ),
            (
                &["--port=8080", "--backends=http://a,http://b", "--check"],
                Command::Check {
                    source: flags(),
                    explain: None,
                },
            ),
            (&["--demo"], Command::Demo { log: info }),
            (&["--log", "debug", "--demo"], Command::Demo { log: debug }),
            (&["--help"], Command::Help),
            (&["--nonsense", "-h"], Command::Help),
            (&["--log", "--help"], Command::Help),
            (&["-V"], Command::Version),
            (&["--version", "x", "y"], Command::Version),
        ] {
            assert_eq!(parse_words(words), Ok(command), "{words:?}");
        }
    }

    #[test]
    fn wrong_options_are_one_line_each() {
        assert_lines(&[
            (
                &["--chekc"],
                "unknown option \"--chekc\"; did you mean --check?",
            ),
            (
                &["--backend=x"],
                "unknown option \"--backend\"; did you mean --backends?",
            ),
            (
                &["--nonsense"],
                "unknown option \"--nonsense\"; see rondo --help",
            ),
            (&["-c"], "unknown option \"-c\"; see rondo --help"),
            (&["-"], "unknown option \"-\"; see rondo --help"),
            (&["--a\nb"], "unknown option \"--a\\nb\"; see rondo --help"),
            (
                &["--check", "--check"],
                "--check is given twice; give it once",
            ),
            (
                &["--log", "info", "--log=info"],
                "--log is given twice; give it once",
            ),
            (
                &["--check=yes"],
                "--check takes no value; leave out what follows the =",
            ),
            (
                &["--log"],
                "--log has no value; give it a level, such as --log debug",
            ),
            (
                &["--port", "--backends"],
                "--port has no value; give it a port, such as --port 8080",
            ),
            (
                &["--backends"],
                "--backends has no value; give it URLs, such as --backends http://127.0.0.1:8081,http://127.0.0.1:8082",
            ),
            (
                &["--log", "loud"],
                "--log is \"loud\"; must be error, warn, info, debug or trace",
            ),
            (
                &["--log", ""],
                "--log is \"\"; must be error, warn, info, debug or trace",
            ),
            (
                &["--log", "INFO"],
                "--log is \"INFO\"; must be error, warn, info, debug or trace",
            ),
        ]);
    }

    #[test]
    fn wrong_combinations_are_one_line_each() {
        assert_lines(&[
            (
                &["--explain", "8"],
                "--explain without --check; add --check",
            ),
            (
                &["--check", "--explain", "0"],
                "--explain is \"0\"; must be an integer from 1 to 10000",
            ),
            (
                &["--check", "--explain", "10001"],
                "--explain is \"10001\"; must be an integer from 1 to 10000",
            ),
            (
                &["--check", "--explain", "+1"],
                "--explain is \"+1\"; must be an integer from 1 to 10000",
            ),
            (
                &["--check", "--explain="],
                "--explain is \"\"; must be an integer from 1 to 10000",
            ),
            (
                &["--backends", "http://a"],
                "--backends without --port; add the port to listen on, such as --port 8080",
            ),
            (
                &["--port", "80"],
                "--port without --backends; add --backends URL,URL, or set proxy.port in the configuration file",
            ),
            (
                &["--backends", "http://a", "--port", "80", "c.json"],
                "--backends and the configuration file \"c.json\" exclude each other; leave out one of them",
            ),
            (
                &["--port", "80", "c.json"],
                "--port and the configuration file \"c.json\" exclude each other; leave out one of them",
            ),
            (
                &["a.json", "b.json"],
                "two configuration files, \"a.json\" and \"b.json\"; name one",
            ),
            (&[""], "CONFIG is empty; name a configuration file"),
            (
                &["--demo", "c.json"],
                "--demo and CONFIG exclude each other; the demo brings its own configuration",
            ),
            (
                &["--check", "--demo"],
                "--demo and --check exclude each other; the demo brings its own configuration",
            ),
        ]);
    }

    #[test]
    fn a_file_name_may_be_any_bytes_but_an_option_may_not() {
        let bytes = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
        let odd = bytes(b"\xff.json");
        assert_eq!(
            parse([odd.clone()]),
            Ok(Command::Run {
                source: Source::File(odd.into()),
                log: LevelFilter::Info
            })
        );
        assert_eq!(
            parse([bytes(b"--\xff")]).unwrap_err().to_string(),
            "the option \"--\u{fffd}\" is not UTF-8; see rondo --help"
        );
        assert_eq!(
            parse(["--port".into(), bytes(b"\xff")])
                .unwrap_err()
                .to_string(),
            "the value \"\u{fffd}\" of --port is not UTF-8; give it a port, such as --port 8080"
        );
    }

    #[test]
    fn the_help_names_every_option() {
        for option in OPTIONS {
            assert!(HELP.contains(option), "{option}");
        }
        assert!(HELP.lines().all(|line| line.len() <= 80));
    }
}
