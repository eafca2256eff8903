//! Command lines good and bad.

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
                against: None,
            },
        ),
        (
            &["--check"],
            Command::Check {
                source: file("config.json"),
                explain: None,
                against: None,
            },
        ),
        (
            &["--explain", "8", "--check", "a.json"],
            Command::Check {
                source: file("a.json"),
                explain: Some(8),
                against: None,
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
                against: None,
            },
        ),
        (
            &["--check", "--against", "old.json", "new.json"],
            Command::Check {
                source: file("new.json"),
                explain: None,
                against: Some("old.json".into()),
            },
        ),
        (&["--demo"], Command::Demo { log: info }),
        (&["--log", "debug", "--demo"], Command::Demo { log: debug }),
        (&["--schema"], Command::Schema),
    ] {
        assert_eq!(parse_words(words), Ok(command), "{words:?}");
    }
    assert_eq!(
        parse_words(&["--health", "http://a/"]),
        Ok(Command::Health {
            url: "http://a/".to_owned()
        })
    );
}

#[test]
fn a_simulation_takes_a_scenario_and_a_configuration() {
    let simulation = |scenario: Option<&str>, config: Option<&str>, json| Command::Simulate {
        scenario: scenario.map(PathBuf::from),
        config: config.map(PathBuf::from),
        json,
    };
    for (words, command) in [
        (&["--simulate"][..], simulation(None, None, false)),
        (&["--simulate", "-"], simulation(None, None, false)),
        (
            &["--json", "a.json", "--simulate"],
            simulation(Some("a.json"), None, true),
        ),
        (
            &["--simulate", "-", "c.json"],
            simulation(None, Some("c.json"), false),
        ),
        (
            &["--simulate", "--", "--json"],
            simulation(Some("--json"), None, false),
        ),
    ] {
        assert_eq!(parse_words(words), Ok(command), "{words:?}");
    }
}

#[test]
fn help_is_given_whatever_else_is_wrong() {
    for (words, command) in [
        (&["--help"][..], Command::Help),
        (&["--nonsense", "-h"], Command::Help),
        (&["--log", "--help"], Command::Help),
        (&["help"], Command::Help),
        (&["help", "x", "--check"], Command::Help),
        (&["version"], Command::Version),
        (&["-V"], Command::Version),
        (&["--version", "x", "y"], Command::Version),
    ] {
        assert_eq!(parse_words(words), Ok(command), "{words:?}");
    }
    // A file may be called help, where it is not the first argument.
    let check = Command::Check {
        source: file("help"),
        explain: None,
        against: None,
    };
    assert_eq!(parse_words(&["--check", "help"]), Ok(check));
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
        (
            &["--health"],
            "--health has no value; give it a URL, such as --health http://127.0.0.1:8080/",
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
        (
            &["--schema", "c.json"],
            "--schema and CONFIG exclude each other; the schema is that of every configuration",
        ),
        (
            &["--health", "http://a", "--port", "1"],
            "--health and --port exclude each other; a health request needs its URL only",
        ),
        (
            &["--simulate", "--log", "info"],
            "--simulate and --log exclude each other; a simulation runs nothing",
        ),
        (
            &["--json", "c.json"],
            "--json without --simulate; add --simulate",
        ),
        (
            &["--simulate", "a.json", "b.json", "c.json"],
            "two configuration files, \"b.json\" and \"c.json\"; name one",
        ),
        (
            &["--against", "old.json"],
            "--against without --check; add --check",
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
    for flag in OPTIONS {
        assert!(help().contains(flag.name), "{}", flag.name);
    }
    assert!(help().lines().all(|line| line.len() <= 80), "{}", help());
}

#[test]
fn readme_names_every_option() {
    let readme = include_str!("../README.md");
    let section = readme
        .split("\n## ")
        .find(|part| part.starts_with("Command line"));
    let section = section.unwrap();
    for flag in OPTIONS {
        let shown = format!("`{} {}", flag.name, flag.value);
        let shown = shown.trim_end();
        let is_named =
            section.contains(shown) || section.contains(&shown.replace('`', "`--check "));
        assert!(is_named, "no {shown} in {section}");
    }
}
