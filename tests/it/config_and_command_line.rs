//! The command line and the configuration file: what is right runs, what is wrong gets one clear
//! line and exit status 2.

use crate::support::proxy::run_with_config;
use crate::support::{Addressed, Client, Finished, Origin, Proxy, Refusing, run};
use serde_json::{Value, json};
use std::fmt::Write as _;

/// As the article prints it.
const ARTICLE: &str = r#"{
  "proxy": {
    "port": "8080"
  },
  "backends": [
    {
      "url": "http://localhost:8081/"
    },
    {
      "url": "http://localhost:8082/"
    },
    {
      "url": "http://localhost:8083/"
    },
    {
      "url": "http://localhost:8084/"
    }
  ]
}"#;

#[track_caller]
fn check(config: &str) -> Finished {
    run_with_config(&["--check", "config.json"], config)
}

#[track_caller]
fn expect_right(config: &str) -> Finished {
    let finished = check(config);
    assert_eq!(finished.code, 0, "{config}\n{finished:?}");
    assert_eq!(finished.stderr, "", "{config}");
    finished
}

/// One line on standard error that contains each of `parts`, nothing on standard output, exit
/// status 2.
#[track_caller]
fn expect_one_line_and_2(finished: &Finished, parts: &[&str]) {
    assert_eq!(finished.code, 2, "{finished:?}");
    assert_eq!(finished.stdout, "", "{finished:?}");
    assert!(finished.stderr.ends_with('\n'), "{finished:?}");
    assert_eq!(
        finished.stderr.lines().count(),
        1,
        "not one line: {finished:?}"
    );
    assert!(!finished.stderr.contains("panicked"), "{finished:?}");
    assert!(
        finished.stderr.len() < 500,
        "a line too long to read: {finished:?}"
    );
    assert!(
        !finished.stderr.trim_end().chars().any(char::is_control),
        "control characters: {finished:?}"
    );
    for part in parts {
        assert!(
            finished.stderr.contains(part),
            "no {part:?} in {:?}",
            finished.stderr
        );
    }
}

#[track_caller]
fn expect_wrong(config: &str, parts: &[&str]) {
    let finished = check(config);
    assert_eq!(finished.code, 2, "{config}\n{finished:?}");
    expect_one_line_and_2(&finished, parts);
}

/// A right configuration with one key set to `value`, which may be any JSON text.
fn with(section: &str, key: &str, value: &str) -> String {
    let mut sections = vec![("proxy", vec![("port", "8080")]), (section, vec![])];
    sections.dedup_by_key(|(name, _)| *name);
    let mut text = String::from("{\n");
    for (name, mut keys) in sections {
        if name == section {
            keys.retain(|(each, _)| *each != key);
            keys.push((key, value));
        }
        let keys: Vec<String> = keys
            .iter()
            .map(|(key, value)| format!("    \"{key}\": {value}"))
            .collect();
        write!(text, "  \"{name}\": {{\n{}\n  }},\n", keys.join(",\n")).unwrap();
    }
    text + "  \"backends\": [ { \"url\": \"http://127.0.0.1:1/\" } ]\n}"
}

fn with_backend(members: &str) -> String {
    format!(r#"{{ "proxy": {{ "port": 0 }}, "backends": [ {{ {members} }} ] }}"#)
}

#[test]
fn the_articles_file_is_right_as_it_stands() {
    let finished = expect_right(ARTICLE);
    for port in ["8080", "8081", "8082", "8083", "8084"] {
        assert!(
            finished.stdout.contains(port),
            "no {port} in {}",
            finished.stdout
        );
    }
    for word in ["round_robin", "memory"] {
        assert!(
            finished.stdout.contains(word),
            "no {word:?} in {}",
            finished.stdout
        );
    }
}

#[test]
fn the_file_in_the_repository_means_the_same_as_the_articles() {
    let ours: Value = serde_json::from_str(include_str!("../../config.json")).unwrap();
    let articles: Value = serde_json::from_str(ARTICLE).unwrap();
    assert_eq!(ours["proxy"], articles["proxy"]);
    assert_eq!(ours["backends"], articles["backends"]);
    expect_right(include_str!("../../config.json"));
}

#[test]
fn comments_are_passed_over_and_places_stay_right() {
    let config = |weight: &str| {
        format!(
            "// é\n{{ /* a\n b */ \"$schema\": \"./schema.json\", \"proxy\": {{ \"port\": 0 }},\n\
             \"backends\": [ {{ \"url\": \"http://a.test//b\", /* é */ \"weight\": {weight} }} ] }} // end"
        )
    };
    let finished = expect_right(&config("1"));
    assert!(finished.stdout.contains("http://a.test//b"), "{finished:?}");
    expect_wrong(&config("-7"), &["config.json:4:62", "backends[0].weight"]);
    expect_wrong(
        "{ \"proxy\": { \"port\": 0 },\n  /* \"backends\": [] }",
        &["config.json:2:3", "comment", "not closed"],
    );
    expect_wrong(
        "{ \"proxy\": { \"port\": 0 } } # no",
        &["config.json:1:28", "//"],
    );
}

#[test]
fn the_port_may_be_a_number_or_a_string() {
    expect_right(&with("proxy", "port", "8080"));
    expect_right(&with("proxy", "port", "\"8080\""));
    expect_right(&with("proxy", "port", "0"));
    expect_right(&with("proxy", "port", "\"0\""));
    expect_right(&with("proxy", "port", "65535"));
}

#[test]
fn without_an_argument_config_json_is_read() {
    let finished = run_with_config(&["--check"], ARTICLE);
    assert_eq!(finished.code, 0, "{finished:?}");
    expect_one_line_and_2(&run(&["--check"]), &["config.json"]);
    expect_one_line_and_2(&run(&[]), &["config.json"]);
}

#[test]
fn help_and_version_go_to_standard_output() {
    let help = run(&["--help"]);
    assert_eq!((help.code, help.stderr.as_str()), (0, ""));
    for option in [
        "CONFIG",
        "--check",
        "--explain",
        "--schema",
        "--health",
        "--backends",
        "--port",
        "--demo",
        "--log",
        "--help",
        "--version",
    ] {
        assert!(
            help.stdout.contains(option),
            "no {option} in {}",
            help.stdout
        );
    }
    assert_eq!(run(&["help"]).stdout, help.stdout);
    assert_eq!(run(&["version"]).stdout, run(&["-V"]).stdout);
    let version = run(&["--version"]);
    assert_eq!((version.code, version.stderr.as_str()), (0, ""));
    assert_eq!(
        version.stdout,
        format!("rondo {}\n", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn a_wrong_command_line_gets_one_line_and_exit_status_2() {
    for (arguments, part) in [
        (&["--nonsense"][..], "--nonsense"),
        (&["--simulate"], "--simulate is not built yet"),
        (
            &["--check", "--against", "old.json"],
            "--against is not built yet",
        ),
        (&["-x"], "-x"),
        (&["--prot", "8080"], "--prot"),
        (&["--log"], "--log"),
        (&["--log", "loud"], "loud"),
        (&["--port"], "--port"),
        (&["--port", "8080"], "--backends"),
        (&["--backends", "http://127.0.0.1:1/"], "--port"),
        (&["--backends"], "--backends"),
        (&["--backends", "", "--port", "0"], "--backends"),
        (&["--backends", "ftp://x/", "--port", "0"], "ftp"),
        (
            &[
                "--backends",
                "http://127.0.0.1:1/,,http://127.0.0.1:2/",
                "--port",
                "0",
            ],
            "--backends",
        ),
        (
            &["--backends", "http://127.0.0.1:1/", "--port", "70000"],
            "70000",
        ),
        (
            &["--backends", "http://127.0.0.1:1/", "--port", "x"],
            "--port",
        ),
        (
            &[
                "--backends",
                "http://127.0.0.1:1/",
                "--port",
                "0",
                "config.json",
            ],
            "config.json",
        ),
        (&["one.json", "two.json"], "two.json"),
        (&["--demo", "config.json"], "--demo"),
        (&["no-such-file.json"], "no-such-file.json"),
        (&["--check", "no-such-file.json"], "no-such-file.json"),
        (&["/"], "/"),
    ] {
        let finished = run_with_config(arguments, ARTICLE);
        assert_eq!(finished.code, 2, "{arguments:?}: {finished:?}");
        expect_one_line_and_2(&finished, &[part]);
    }
}

#[test]
fn an_argument_that_is_not_text_is_refused_in_one_line() {
    use std::os::unix::ffi::OsStrExt;
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_rondo"))
        .arg(std::ffi::OsStr::from_bytes(b"\xff\n\x1b[31m.json"))
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let finished = Finished {
        code: output.status.code().unwrap(),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    };
    expect_one_line_and_2(&finished, &[]);
}

#[test]
fn it_runs_without_a_file() {
    let [one, two] = Origin::several();
    let backends = format!("{},{}", one.url(), two.url());
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_rondo"))
        .args(["--backends", &backends, "--port", "0", "--log", "info"])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stderr.take().unwrap()));
    let address = lines
        .find_map(|line| Some(line.unwrap().split("listening on ").nth(1)?.to_owned()))
        .unwrap();
    let port: u16 = address.rsplit(':').next().unwrap().trim().parse().unwrap();
    // All interfaces, both families: reachable as either.
    let mut client = Client::connect_to(([127, 0, 0, 1], port).into());
    assert_eq!(client.get("/").status, 200);
    if let Ok(stream) = std::net::TcpStream::connect((std::net::Ipv6Addr::LOCALHOST, port)) {
        let mut wire = crate::support::Wire::new(stream);
        wire.send("GET / HTTP/1.1\r\nHost: [::1]\r\n\r\n");
        assert_eq!(wire.read_response().status, 200);
        let seen: Vec<_> = [one.seen(), two.seen()].concat();
        assert!(
            seen.iter()
                .any(|request| request.fields.one("x-forwarded-for") == Some("::1")),
            "{seen:?}"
        );
    }
    // A client over IPv4 is seen with its IPv4 address, not the mapped one.
    let seen: Vec<_> = [one.seen(), two.seen()].concat();
    assert!(
        seen.iter()
            .any(|request| request.fields.one("x-forwarded-for") == Some("127.0.0.1")),
        "{seen:?}"
    );
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn check_prints_what_would_run() {
    let finished = expect_right(
        &json!({
            "proxy": { "port": 8123, "address": "127.0.0.1", "max_connections": 1234, "workers": 3 },
            "backends": [ { "url": "http://10.0.0.1:81/", "name": "left" }, { "url": "http://[fd00::1]/base" } ],
        })
        .to_string(),
    );
    for part in [
        "127.0.0.1",
        "8123",
        "left",
        "10.0.0.1:81",
        "fd00::1",
        "round_robin",
        "1234",
        "memory",
    ] {
        assert!(
            finished.stdout.contains(part),
            "no {part:?} in {}",
            finished.stdout
        );
    }
}

#[test]
fn check_begins_with_its_verdict() {
    let finished = expect_right(&with_backend(r#""url": "http://a.test/""#));
    assert!(
        finished
            .stdout
            .starts_with("config.json: configuration is valid\nlistener "),
        "{finished:?}"
    );
    let finished = run(&["--check", "--port", "0", "--backends", "http://a.test/"]);
    assert!(
        finished
            .stdout
            .starts_with("--backends: configuration is valid\n"),
        "{finished:?}"
    );
}

#[test]
fn what_is_valid_but_cannot_work_is_a_warning_of_check_and_of_the_start() {
    let weightless = json!({ "url": "http://127.0.0.1:1/", "weight": 0 });
    let backup = json!({ "url": "http://127.0.0.1:1/", "backup": true });
    let plain = json!({ "url": "http://127.0.0.1:1/" });
    let own = json!({ "url": "http://localhost:8123/" });
    for (backends, expected) in [
        (json!([weightless]), "all backends have weight 0"),
        (
            json!([backup]),
            "all backends that take requests are backups",
        ),
        (
            json!([plain, plain]),
            "have the same url http://127.0.0.1:1;",
        ),
        (
            json!([plain, own]),
            "is the address that rondo itself listens on",
        ),
    ] {
        let config = json!({ "proxy": { "port": 8123 }, "backends": backends });
        let finished = expect_right(&config.to_string());
        let warnings: Vec<&str> = finished
            .stdout
            .lines()
            .filter(|line| line.starts_with("warning: "))
            .collect();
        assert_eq!(warnings.len(), 1, "{finished:?}");
        assert!(warnings[0].contains(expected), "{warnings:?}");
    }
    let proxy = Proxy::over(&[&Refusing::start()])
        .set("backends.0.weight", 0)
        .start();
    proxy.wait_for_event(&["WARN", " warning: all backends have weight 0"]);
    assert_eq!(proxy.client().get("/").status, 503);
}

#[test]
fn every_key_takes_its_bounds_and_nothing_beyond() {
    let durations = [
        "client_head",
        "client_idle",
        "client_body",
        "client_write",
        "connect",
        "response_head",
    ]
    .into_iter()
    .chain(["response_body", "backend_idle", "tunnel_idle", "drain"]);
    for key in durations {
        for right in [r#""1ms""#, r#""500ms""#, r#""30s""#, r#""1m""#, r#""24h""#] {
            expect_right(&with("timeouts", key, right));
        }
        for wrong in [
            r#""0s""#,
            r#""0ms""#,
            r#""25h""#,
            r#""86401s""#,
            r#""-1s""#,
            r#""30""#,
            r#""""#,
            r#""s""#,
            "30",
            "null",
        ] {
            expect_wrong(&with("timeouts", key, wrong), &[&format!("timeouts.{key}")]);
        }
    }
    expect_right(&with("timeouts", "drain_delay", r#""0s""#));
    for (section, key, right, wrong) in [
        (
            "proxy",
            "port",
            &["0", "65535"][..],
            &[
                "65536", "-1", "1.5", "true", r#""""#, r#""80a""#, r#"" 80""#, r#""+80""#,
            ][..],
        ),
        (
            "proxy",
            "address",
            &[r#""127.0.0.1""#, r#""::""#, r#""0.0.0.0""#],
            &[
                r#""localhost""#,
                r#""1.2.3""#,
                "1",
                r#""""#,
                r#""127.0.0.1:80""#,
            ],
        ),
        (
            "proxy",
            "workers",
            &["1", "1024"],
            &["0", "1025", "-1", r#""2""#, "1.5", "null"],
        ),
        (
            "proxy",
            "max_connections",
            &["1", "1000000"],
            &["0", "1000001", r#""10""#, "1e3000"],
        ),
        (
            "proxy",
            "access_log",
            &["true", "false"],
            &["1", r#""yes""#, "null", r#""JSON""#],
        ),
        ("proxy", "via", &["true", "false"], &["1", r#""true""#]),
        (
            "proxy",
            "mode",
            &[r#""http""#],
            &[r#""HTTP""#, r#""udp""#, "1"],
        ),
        (
            "balance",
            "method",
            &[r#""round_robin""#],
            &[r#""roundrobin""#, r#""Round_Robin""#, "1", "null"],
        ),
        (
            "balance",
            "tries",
            &["1", "10"],
            &["0", "11", r#""3""#, "2.5"],
        ),
        (
            "health_check",
            "kind",
            &[r#""tcp""#, r#""none""#],
            &[r#""TCP""#, r#""ping""#, "null", "true"],
        ),
        (
            "health_check",
            "interval",
            &[r#""1ms""#, r#""24h""#],
            &[r#""0s""#, "60", r#""1d""#],
        ),
        (
            "health_check",
            "down_interval",
            &[r#""1ms""#, r#""24h""#],
            &[r#""0s""#, "2"],
        ),
        (
            "health_check",
            "timeout",
            &[r#""1ms""#, r#""24h""#],
            &[r#""0s""#, "5"],
        ),
        (
            "health_check",
            "rise",
            &["1", "100"],
            &["0", "101", r#""1""#],
        ),
        ("health_check", "fall", &["1", "100"], &["0", "101", "-1"]),
        (
            "limits",
            "head_bytes",
            &["1024", "1048576"],
            &["1023", "1048577", r#""16384""#, r#""16k""#],
        ),
        ("limits", "fields", &["8", "1000"], &["7", "1001"]),
        (
            "limits",
            "body_bytes",
            &["1", "10000000000"],
            &["-1", r#""1""#, "1.5"],
        ),
        (
            "limits",
            "idle_backend_connections",
            &["1", "64"],
            &["-1", r#""64""#],
        ),
    ] {
        for value in right {
            expect_right(&with(section, key, value));
        }
        for value in wrong {
            expect_wrong(&with(section, key, value), &[&format!("{section}.{key}")]);
        }
    }
}

#[test]
fn a_duration_without_a_unit_says_what_would_be_right() {
    let finished = check(&with("timeouts", "connect", "5"));
    expect_one_line_and_2(&finished, &["timeouts.connect", "\"24h\""]);
}

#[test]
fn wrong_backends_are_named_by_their_place() {
    for (members, parts) in [
        (
            r#""url": "https://a.test/""#,
            &["backends[0].url", "https"][..],
        ),
        (r#""url": "ftp://a.test/""#, &["backends[0].url"]),
        (
            r#""url": "localhost:8081""#,
            &["backends[0].url", "http://"],
        ),
        (r#""url": "http://""#, &["backends[0].url"]),
        (r#""url": "http:///path""#, &["backends[0].url"]),
        (r#""url": "http://a.test:0/""#, &["backends[0].url"]),
        (r#""url": "http://a.test:70000/""#, &["backends[0].url"]),
        (r#""url": "http://a.test:80x/""#, &["backends[0].url"]),
        (r#""url": "http://a.test/?q=1""#, &["backends[0].url"]),
        (r#""url": "http://a.test/#part""#, &["backends[0].url"]),
        (r#""url": "http://user@a.test/""#, &["backends[0].url"]),
        (
            r#""url": "http://user:secret@a.test/""#,
            &["backends[0].url"],
        ),
        (r#""url": "http://a b/""#, &["backends[0].url"]),
        (r#""url": "http://a.test/a b""#, &["backends[0].url"]),
        (r#""url": "http://[::1/""#, &["backends[0].url"]),
        (r#""url": "http://[::g]/""#, &["backends[0].url"]),
        (r#""url": "http://256.1.1.1/""#, &["backends[0].url"]),
        (
            "\"url\": \"http://a.test/\\r\\nX: y\"",
            &["backends[0].url"],
        ),
        ("\"url\": \"http://a.test\\u0000/\"", &["backends[0].url"]),
        (r#""url": 8081"#, &["backends[0].url"]),
        (r#""url": null"#, &["backends[0].url"]),
        (r#""url": """#, &["backends[0].url"]),
        (r#""name": "a""#, &["backends[0]", "url"]),
        (
            r#""url": "http://a.test/", "name": """#,
            &["backends[0].name"],
        ),
        (
            r#""url": "http://a.test/", "name": "a b""#,
            &["backends[0].name"],
        ),
        (
            r#""url": "http://a.test/", "name": "ä""#,
            &["backends[0].name"],
        ),
        (
            r#""url": "http://a.test/", "name": 1"#,
            &["backends[0].name"],
        ),
        (
            r#""url": "http://a.test/", "weight": -1"#,
            &["backends[0].weight"],
        ),
        (
            r#""url": "http://a.test/", "weight": 1001"#,
            &["backends[0].weight"],
        ),
        (
            r#""url": "http://a.test/", "weight": "1""#,
            &["backends[0].weight"],
        ),
        (
            r#""url": "http://a.test/", "backup": 1"#,
            &["backends[0].backup"],
        ),
        (
            r#""url": "http://a.test/", "max_connections": 0"#,
            &["backends[0].max_connections"],
        ),
        (
            r#""url": "http://a.test/", "IsDead": "no""#,
            &["backends[0].IsDead"],
        ),
        (
            r#""url": "http://a.test/", "isdead": true"#,
            &["backends[0].isdead", "IsDead"],
        ),
        (
            r#""url": "http://a.test/", "wieght": 2"#,
            &["backends[0].wieght", "weight"],
        ),
        (
            r#""url": "http://a.test/", "url": "http://b.test/""#,
            &["backends[0].url"],
        ),
        (
            r#""url": "http://a.test/" }, { "url": "nonsense""#,
            &["backends[1].url"],
        ),
        (
            r#""url": "http://a.test/", "name": "x" }, { "url": "http://b.test/", "name": "x""#,
            &["backends[1].name"],
        ),
        (
            r#""url": "http://a.test/" }, "http://b.test/", { "url": "http://c.test/""#,
            &["backends[1]"],
        ),
    ] {
        expect_wrong(&with_backend(members), parts);
    }
    let long = format!(r#""url": "http://a.test/", "name": "{}""#, "x".repeat(65));
    expect_wrong(&with_backend(&long), &["backends[0].name"]);
}

#[test]
fn right_backends_are_taken() {
    for members in [
        r#""url": "http://localhost:8081/""#,
        r#""url": "http://localhost""#,
        r#""url": "HTTP://LOCALHOST/""#,
        r#""url": "http://127.0.0.1:1""#,
        r#""url": "http://[::1]:8081/base/path/""#,
        r#""url": "http://does-not-exist.invalid/""#,
        r#""url": "http://a.test/", "name": "A.z:0_#[]-""#,
        r#""url": "http://a.test/", "weight": 0"#,
        r#""url": "http://a.test/", "weight": 1000"#,
        r#""url": "http://a.test/", "backup": true"#,
        r#""url": "http://a.test/", "max_connections": 1"#,
        r#""url": "http://a.test/", "IsDead": true"#,
        r#""url": "http://a.test/" }, { "url": "http://a.test/""#,
    ] {
        expect_right(&with_backend(members));
    }
}

#[test]
fn wrong_shapes_of_the_whole_are_refused() {
    for (config, parts) in [
        ("", &[][..]),
        (" \n ", &[]),
        ("{", &[]),
        ("{}", &["proxy"]),
        ("[]", &[]),
        ("null", &[]),
        ("8080", &[]),
        ("\"text\"", &[]),
        (r#"{ "proxy": { "port": 1 } }"#, &["backends"]),
        (
            r#"{ "backends": [ { "url": "http://a.test/" } ] }"#,
            &["proxy"],
        ),
        (
            r#"{ "proxy": {}, "backends": [ { "url": "http://a.test/" } ] }"#,
            &["proxy.port"],
        ),
        (
            r#"{ "proxy": [], "backends": [ { "url": "http://a.test/" } ] }"#,
            &["proxy"],
        ),
        (
            r#"{ "proxy": "8080", "backends": [ { "url": "http://a.test/" } ] }"#,
            &["proxy"],
        ),
        (
            r#"{ "proxy": { "port": 1 }, "backends": {} }"#,
            &["backends"],
        ),
        (
            r#"{ "proxy": { "port": 1 }, "backends": [ ] }"#,
            &["backends"],
        ),
        (
            r#"{ "proxy": { "port": 1 }, "backends": [ {} ] }"#,
            &["backends[0]", "url"],
        ),
        (
            r#"{ "proxy": { "port": 1 }, "backends": [ null ] }"#,
            &["backends[0]"],
        ),
        (
            r#"{ "proxy": { "port": 1 }, "backends": [ "http://a.test/" ] }"#,
            &["backends[0]"],
        ),
        (
            r#"{ "proxy": { "port": 1 }, "backends": [ { "url": "http://a.test/" } ], }"#,
            &[],
        ),
        (
            r#"{ "proxy": { "port": 1 }, "backends": [ { "url": "http://a.test/" } ] } x"#,
            &[],
        ),
        (
            r#"{ "proxy": { "port": 1 }, "backends": [ { "url": "http://a.test/" } ] }{}"#,
            &[],
        ),
        (r"{ 'proxy': { 'port': 1 } }", &[]),
        (
            r#"{ "proxy": { "port": 1 }, "proxy": { "port": 2 }, "backends": [ { "url": "http://a.test/" } ] }"#,
            &["proxy"],
        ),
        (
            r#"{ "proxy": { "port": 1, "port": 1 }, "backends": [ { "url": "http://a.test/" } ] }"#,
            &["proxy.port"],
        ),
        (
            r#"{ "proxy": { "port": 1 }, "backends": [ { "url": "http://a.test/" } ], "timeouts": "5s" }"#,
            &["timeouts"],
        ),
        (
            r#"{ "proxy": { "port": 1 }, "backends": [ { "url": "http://a.test/" } ], "limits": null }"#,
            &["limits"],
        ),
        (
            r#"{ "proxy": { "port": 1 }, "backends": [ { "url": "http://a.test/" } ], "balance": 1 }"#,
            &["balance"],
        ),
        (
            r#"{ "proxy": { "port": 1 }, "backends": [ { "url": "http://a.test/" } ], "health_check": [] }"#,
            &["health_check"],
        ),
    ] {
        expect_wrong(config, parts);
    }
    expect_one_line_and_2(
        &run_with_config(&["--check"], b"\xff\xfe{\0}\0"),
        &["config.json"],
    );
    expect_one_line_and_2(
        &run_with_config(&["--check"], b"{ \"proxy\": \"\xc3\x28\" }"),
        &["config.json"],
    );
    expect_wrong(&"[".repeat(200_000), &[]);
    expect_wrong(
        &format!("{}1{}", r#"{"a":"#.repeat(100_000), "}".repeat(100_000)),
        &[],
    );
}

#[test]
fn a_near_miss_names_the_key_that_was_meant() {
    for (config, parts) in [
        (with("proxy", "prot", "1"), &["proxy.prot", "port"][..]),
        (with("proxy", "worker", "1"), &["proxy.worker", "workers"]),
        (
            with("proxy", "max_connection", "1"),
            &["proxy.max_connection", "max_connections"],
        ),
        (
            with("proxy", "acces_log", "true"),
            &["proxy.acces_log", "access_log"],
        ),
        (
            with("timeouts", "conect", r#""1s""#),
            &["timeouts.conect", "connect"],
        ),
        (
            with("timeouts", "clientHead", r#""1s""#),
            &["timeouts.clientHead", "client_head"],
        ),
        (
            with("limits", "head_byte", "2048"),
            &["limits.head_byte", "head_bytes"],
        ),
        (
            with("health_check", "intervall", r#""1s""#),
            &["health_check.intervall", "interval"],
        ),
        (
            with("timeout", "connect", r#""1s""#),
            &["timeout", "timeouts"],
        ),
        (
            with("healthcheck", "interval", r#""1s""#),
            &["healthcheck", "health_check"],
        ),
        (
            r#"{ "proxy": { "port": 1 }, "backend": [ { "url": "http://a.test/" } ] }"#.to_owned(),
            &["backend", "backends"],
        ),
        (
            with("balance", "method", r#""round-robin""#),
            &["balance.method", "round_robin"],
        ),
        (with("proxy", "Port", "1"), &["proxy.Port", "port"]),
    ] {
        expect_wrong(&config, parts);
    }
    // Far from everything: refused, without a guess.
    expect_wrong(&with("proxy", "zzzzzzzz", "1"), &["proxy.zzzzzzzz"]);
}

#[test]
fn an_error_says_file_line_and_column() {
    let config = "{\n  \"proxy\": { \"port\": 1 },\n  \"backends\": [\n    { \"url\": \"http://a.test/\", \"weight\": -7 }\n  ]\n}\n";
    // The value stands in line 4, column 42.
    expect_wrong(config, &["config.json:4:42", "backends[0].weight"]);
    // A comma is missing; the next key begins in line 3, column 3.
    expect_wrong(
        "{\n  \"proxy\": { \"port\": 1 }\n  \"backends\": []\n}\n",
        &["config.json:3:3"],
    );
}

#[test]
fn hostile_text_in_the_file_cannot_forge_a_line() {
    expect_wrong(&with("proxy", r"a\nerror: \u001b[31mb", "1"), &["proxy"]);
    expect_wrong(
        &with("timeouts", "connect", r#""1s\n2s\u0007""#),
        &["timeouts.connect"],
    );
    expect_wrong(&with("proxy", &"k".repeat(5000), "1"), &["proxy"]);
    expect_wrong(
        &with("timeouts", "connect", &format!("\"{}\"", "9".repeat(5000))),
        &["timeouts.connect"],
    );
}

/// A key whose feature is not built yet is refused by name; one that is built is taken. It is never
/// ignored, which the tests of the feature itself show.
#[test]
fn every_key_of_the_contract_is_taken_or_refused_by_name() {
    for (config, key) in [
        (with("proxy", "mode", r#""tcp""#), "proxy.mode"),
        (
            with("proxy", "accept_proxy_protocol", "true"),
            "proxy.accept_proxy_protocol",
        ),
        (
            with("balance", "hash", r#"{"key":"source"}"#),
            "balance.hash",
        ),
        (
            with("balance", "slow_start", r#""1s""#),
            "balance.slow_start",
        ),
        (with("balance", "queue", r#"{"length":1}"#), "balance.queue"),
        (
            with("balance", "retry_percent", "20"),
            "balance.retry_percent",
        ),
        (with("balance", "method", r#""fastest""#), "balance.method"),
        (with("balance", "method", r#""hash""#), "balance.method"),
        (with("discovery", "file", r#""a.json""#), "discovery"),
        (with("ejection", "errors", "5"), "ejection"),
        (
            with("health_check", "method", r#""HEAD""#),
            "health_check.method",
        ),
        (with("health_check", "host", r#""a""#), "health_check.host"),
        (with("health_check", "port", "81"), "health_check.port"),
        (with("health_check", "body", r#""ok""#), "health_check.body"),
        (
            with_backend(r#""url": "http://a.test/", "each_address": true"#),
            "backends[0].each_address",
        ),
        (with("proxy", "access_log", r#""json""#), "proxy.access_log"),
        (
            with("proxy", "trust_forwarded", r#"["10.0.0.0/8", "fd00::/8"]"#),
            "proxy.trust_forwarded",
        ),
        (
            with("balance", "method", r#""least_connections""#),
            "balance.method",
        ),
        (
            with("balance", "method", r#""random_two""#),
            "balance.method",
        ),
        (
            with("balance", "method", r#""source_hash""#),
            "balance.method",
        ),
        (
            with("balance", "persistence", r#"{"kind":"source_address"}"#),
            "balance.persistence",
        ),
        (
            with(
                "balance",
                "persistence",
                r#"{"kind":"cookie","name":"rondo"}"#,
            ),
            "balance.persistence",
        ),
        (
            with("health_check", "kind", r#""http""#),
            "health_check.kind",
        ),
        (
            with("health_check", "kind", r#""icmp""#),
            "health_check.kind",
        ),
        (with("admin", "address", r#""127.0.0.1:9090""#), "admin"),
        (
            with_backend(r#""url": "http://a.test/", "send_proxy_protocol": true"#),
            "backends[0].send_proxy_protocol",
        ),
    ] {
        let finished = check(&config);
        if finished.code != 0 {
            expect_one_line_and_2(&finished, &[key, "not built yet"]);
        }
    }
}

#[test]
fn other_programs_words_get_a_hint() {
    for (config, parts) in [
        (
            with("proxy", "listen", r#"":80""#),
            &["proxy.listen", r#""port""#][..],
        ),
        (with("listen", "a", "1"), &["listen", r#""proxy""#]),
        (with("servers", "a", "1"), &["servers", r#""backends""#]),
        (
            with("proxy", "tls", "{}"),
            &["proxy.tls", "put a terminator in front"],
        ),
        (
            with("balance", "algorithm", r#""rr""#),
            &["balance.algorithm", r#""method""#],
        ),
        (
            with("balance", "method", r#""least_conn""#),
            &["balance.method", r#"did you mean "least_connections"?"#],
        ),
        (
            with("balance", "method", r#""ip_hash""#),
            &["balance.method", r#"did you mean "source_hash"?"#],
        ),
        (
            with_backend(r#""host": "a.test", "port": 80"#),
            &["backends[0].host", "http://HOST:PORT"],
        ),
        (
            with_backend(r#""url": "http://a.test/", "health_check": {}"#),
            &["backends[0].health_check", r#"beside "backends""#],
        ),
        (
            r#"{ "proxy": { "port": 1 }, "backends": [ "a.test:80" ] }"#.to_owned(),
            &["backends[0]", r#"{"url": "http://a.test:80"}"#],
        ),
        (
            "proxy:\n  port: 8080\n".to_owned(),
            &["config.json:1:1", "looks like YAML"],
        ),
        (
            "# mine\n[proxy]\nport = 8080\n".to_owned(),
            &["looks like TOML"],
        ),
        (
            "{\n  \"proxy\": {\n    \"port\": 8080,\n".to_owned(),
            &["config.json:3:18", "the { of line 2, column 12", "add }"],
        ),
    ] {
        expect_wrong(&config, parts);
    }
}

#[test]
fn wrong_values_of_trust_are_refused() {
    for value in [
        r#"["10.0.0.0/33"]"#,
        r#"["x"]"#,
        r"[1]",
        r#""10.0.0.0/8""#,
        "1",
        "null",
        r#"["fd00::/129"]"#,
    ] {
        expect_wrong(
            &with("proxy", "trust_forwarded", value),
            &["proxy.trust_forwarded"],
        );
    }
}

#[test]
fn names_may_repeat_by_default_only() {
    let finished = expect_right(&with_backend(
        r#""url": "http://a.test:81/" }, { "url": "http://a.test:81/""#,
    ));
    assert!(
        finished.stdout.contains("a.test:81#2"),
        "{}",
        finished.stdout
    );
    // A given name that a default one would take is a clash, or the default one moves on; two
    // backends never share a name.
    let clash = check(&with_backend(
        r#""url": "http://a.test:81/" }, { "url": "http://b.test/", "name": "a.test:81""#,
    ));
    if clash.code != 0 {
        expect_one_line_and_2(&clash, &["backends[", "a.test:81"]);
    }
}

#[test]
fn a_wrong_file_stops_a_start_as_it_stops_a_check() {
    let config = r#"{ "proxy": { "port": 0 }, "backends": [] }"#;
    expect_one_line_and_2(&run_with_config(&["config.json"], config), &["backends"]);
    expect_one_line_and_2(
        &run_with_config(&["--log", "error", "config.json"], config),
        &["backends"],
    );
}

#[test]
fn a_log_level_of_error_still_serves() {
    // `listening on` is of level info: with it the port is known, so the other levels are tried by
    // what they print.
    for level in ["info", "debug", "trace"] {
        let origin = Origin::start("one");
        let proxy = Proxy::over(&[&origin])
            .argument("--log")
            .argument(level)
            .start();
        assert_eq!(proxy.client().get("/").status, 200);
    }
}
