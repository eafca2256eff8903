//! The command line: arguments to a [`Command`], or one line that says what is wrong and a hint.
//!
//! Written by hand, because there are few options and each wrong combination has an error of its
//! own. An option is one row of [`OPTIONS`], from which reading and `--help` come.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use log::LevelFilter;

use crate::config::Source;
use crate::text::escape::printable;
use crate::text::words::{nearest, quoted};

/// An option.
struct Flag {
    name: &'static str,
    /// What `--help` shows in place of its value; empty when it takes none.
    value: &'static str,
    /// What its value is, for the error when it is missing.
    wanted: &'static str,
    help: &'static str,
}

const OPTIONS: &[Flag] = &[
    Flag {
        name: "--check",
        value: "",
        wanted: "",
        help: "check the configuration, print what would run, and exit",
    },
    Flag {
        name: "--explain",
        value: "N",
        wanted: "a number of choices, such as --explain 8",
        help: "with --check: also print the next N choices of backend",
    },
    Flag {
        name: "--against",
        value: "FILE",
        wanted: "the configuration file that is in use, such as --against /etc/rondo.json",
        help: "with --check: print what a reload from FILE would do",
    },
    Flag {
        name: "--schema",
        value: "",
        wanted: "",
        help: "print the JSON Schema of the configuration, for editors",
    },
    Flag {
        name: "--health",
        value: "URL",
        wanted: "a URL, such as --health http://127.0.0.1:8080/",
        help: "GET the URL within 2 s; exit 0 for a status of 200-399",
    },
    Flag {
        name: "--backends",
        value: "URL,URL",
        wanted: "URLs, such as --backends http://127.0.0.1:8081,http://127.0.0.1:8082",
        help: "run without a file, over these backends; needs --port",
    },
    Flag {
        name: "--port",
        value: "N",
        wanted: "a port, such as --port 8080",
        help: "the port to listen on; needs --backends",
    },
    Flag {
        name: "--demo",
        value: "",
        wanted: "",
        help: "start four small servers and balance over them",
    },
    Flag {
        name: "--simulate",
        value: "",
        wanted: "",
        help: "play a load against CONFIG and compare the methods",
    },
    Flag {
        name: "--json",
        value: "",
        wanted: "",
        help: "with --simulate: print the figures as JSON",
    },
    Flag {
        name: "--log",
        value: "LEVEL",
        wanted: "a level, such as --log debug",
        help: "error, warn, info (default), debug or trace",
    },
    Flag {
        name: "--help",
        value: "",
        wanted: "",
        help: "print this page",
    },
    Flag {
        name: "--version",
        value: "",
        wanted: "",
        help: "print the version",
    },
];

/// What `--version` prints.
pub const VERSION: &str = concat!("rondo ", env!("CARGO_PKG_VERSION"), "\n");

/// What `--help` prints.
pub fn help() -> String {
    let option = |flag: &Flag| {
        let shown = match flag.name {
            "--help" => "-h, --help".to_owned(),
            "--version" => "-V, --version".to_owned(),
            name => format!("{name} {}", flag.value),
        };
        format!("  {shown:<21} {}\n", flag.help)
    };
    let options: String = OPTIONS.iter().map(option).collect();
    format!(
        "\
rondo {}: a round-robin HTTP/1.1 load balancer

Usage: rondo [OPTIONS] [CONFIG]
       rondo --simulate [SCENARIO [CONFIG]] [--json]

  CONFIG                configuration file (JSON); ./config.json when left out

Options:
{options}
Examples:
  rondo --demo
  rondo --backends http://127.0.0.1:8081,http://127.0.0.1:8082 --port 8080
  rondo --check /etc/rondo.json
  rondo --simulate

SIGTERM, SIGINT, SIGQUIT: graceful stop; a second signal exits immediately.

Exit status:
  0  clean stop
  1  cannot run, or stopped by a second signal; --health: no good answer
  2  wrong command line, configuration or scenario
",
        env!("CARGO_PKG_VERSION")
    )
}

/// How many choices `--explain` may ask for.
const EXPLAINED_MAX: usize = 10_000;

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
        /// The running configuration, to which `--check` compares.
        against: Option<PathBuf>,
    },
    #[cfg(feature = "demo")]
    /// Balance over built-in servers until stopped.
    Demo {
        /// Which events are logged.
        log: LevelFilter,
    },
    #[cfg(feature = "simulate")]
    /// Play a load against the configuration, and print how each method takes it.
    Simulate {
        /// None: the default one.
        scenario: Option<PathBuf>,
        /// None: the usual one, or four equal backends.
        config: Option<PathBuf>,
        /// For a program.
        json: bool,
    },
    /// Print the JSON Schema of the configuration.
    Schema,
    /// Ask a server whether it is healthy.
    Health {
        /// What to ask for.
        url: String,
    },
    /// Print [`help`].
    Help,
    /// Print [`VERSION`].
    Version,
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
    // A user who asks for help gets it, whatever else is wrong.
    let first = arguments.first().and_then(|argument| argument.to_str());
    if asks_for(["--help", "-h"]) || first == Some("help") {
        return Ok(Command::Help);
    }
    if asks_for(["--version", "-V"]) || first == Some("version") {
        return Ok(Command::Version);
    }
    Given::read(arguments)?.command()
}

/// The arguments as given, each at most once.
#[derive(Debug, Default)]
struct Given {
    /// What is no option: CONFIG; with --simulate SCENARIO and CONFIG.
    files: Vec<OsString>,
    /// By the option's name; empty for an option without a value.
    options: Vec<(&'static str, String)>,
}

impl Given {
    fn read(arguments: Vec<OsString>) -> Result<Given, UsageError> {
        let mut given = Given::default();
        let simulates = arguments.iter().any(|argument| argument == "--simulate");
        let mut arguments = arguments.into_iter();
        let mut are_options = true;
        while let Some(argument) = arguments.next() {
            let is_option = are_options && argument.as_encoded_bytes().starts_with(b"-");
            // The default scenario.
            let is_option = is_option && (argument != "-" || !simulates);
            if argument == "--" && are_options {
                are_options = false;
            } else if is_option {
                given.read_option(&argument, &mut arguments)?;
            } else if argument.is_empty() {
                return Err(error("CONFIG is empty", "name a configuration file"));
            } else if given.files.len() > usize::from(simulates) {
                let [before, this] = [given.files.last(), Some(&argument)]
                    .map(|file| quoted(&file.map(|it| it.to_string_lossy()).unwrap_or_default()));
                let what = format!("two configuration files, {before} and {this}");
                return Err(error(what, "name one"));
            } else {
                given.files.push(argument);
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
        let Some(flag) = OPTIONS.iter().find(|flag| flag.name == name) else {
            let hint = match nearest(name, OPTIONS.iter().map(|flag| flag.name)) {
                Some(meant) => format!("did you mean {meant}?"),
                None => "see rondo --help".to_owned(),
            };
            return Err(error(format!("unknown option {}", quoted(name)), hint));
        };
        let value = match (value, flag.value.is_empty()) {
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
                        format!("give it {}", flag.wanted),
                    ));
                }
                _ => {
                    return Err(error(
                        format!("{name} has no value"),
                        format!("give it {}", flag.wanted),
                    ));
                }
            },
        };
        if self.take(flag.name).is_some() {
            return Err(error(format!("{name} is given twice"), "give it once"));
        }
        self.options.push((flag.name, value));
        Ok(())
    }

    /// Takes an option out, if it is given.
    fn take(&mut self, name: &str) -> Option<String> {
        let place = self.options.iter().position(|(given, _)| *given == name)?;
        Some(self.options.swap_remove(place).1)
    }

    fn command(mut self) -> Result<Command, UsageError> {
        if self.take("--simulate").is_some() {
            return simulation(self);
        }
        if self.take("--json").is_some() {
            return Err(error("--json without --simulate", "add --simulate"));
        }
        let config = self.files.pop();
        let mut take = |name: &str| self.take(name);
        let log = take("--log").map_or(Ok(LevelFilter::Info), |text| level(&text))?;
        for (name, why) in [
            ("--demo", "the demo brings its own configuration"),
            ("--schema", "the schema is that of every configuration"),
            ("--health", "a health request needs its URL only"),
        ] {
            let Some(value) = take(name) else {
                continue;
            };
            let other = OPTIONS
                .iter()
                .find_map(|flag| take(flag.name).map(|_| flag.name));
            return match other.or(config.map(|_| "CONFIG")) {
                Some(other) => Err(error(format!("{name} and {other} exclude each other"), why)),
                None => Ok(match name {
                    #[cfg(feature = "demo")]
                    "--demo" => Command::Demo { log },
                    #[cfg(not(feature = "demo"))]
                    "--demo" => {
                        let hint = "build rondo with the feature \"demo\"";
                        return Err(error("--demo is not in this build", hint));
                    }
                    "--schema" => Command::Schema,
                    _ => Command::Health { url: value },
                }),
            };
        }
        let is_check = take("--check").is_some();
        let explain = take("--explain").map(|text| choices(&text)).transpose()?;
        let against = take("--against").map(PathBuf::from);
        for (name, is_given) in [
            ("--explain", explain.is_some()),
            ("--against", against.is_some()),
        ] {
            if is_given && !is_check {
                return Err(error(format!("{name} without --check"), "add --check"));
            }
        }
        let source = match (take("--backends"), take("--port"), config) {
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
            Command::Check {
                source,
                explain,
                against,
            }
        } else {
            Command::Run { source, log }
        })
    }
}

#[cfg(not(feature = "simulate"))]
fn simulation(_: Given) -> Result<Command, UsageError> {
    let hint = "build rondo with the feature \"simulate\"";
    Err(error("--simulate is not in this build", hint))
}

#[cfg(feature = "simulate")]
fn simulation(mut given: Given) -> Result<Command, UsageError> {
    let json = given.take("--json").is_some();
    let mut others = OPTIONS.iter().map(|flag| flag.name);
    if let Some(other) = others.find(|name| given.take(name).is_some()) {
        let what = format!("--simulate and {other} exclude each other");
        return Err(error(what, "a simulation runs nothing"));
    }
    let mut files = given.files.into_iter().map(PathBuf::from);
    Ok(Command::Simulate {
        scenario: files.next().filter(|path| path.as_os_str() != "-"),
        config: files.next(),
        json,
    })
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
#[path = "cli_tests.rs"]
mod tests;
