//! The command line: its options, what `--check` prints, and how a start ends that cannot be one.

use crate::configuration::{ARTICLE, expect_one_line_and_2, expect_right, with_backend};
use crate::support::proxy::run_with_config;
use crate::support::{Addressed, Client, Finished, Origin, Proxy, Refusing, run};
use serde_json::json;

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
        "--simulate",
        "--json",
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
        (&["--json"], "--json without --simulate"),
        (&["--simulate", "--check"], "--simulate and --check"),
        (&["--simulate", "a", "b", "c"], "two configuration files"),
        (&["--simulate", "none.json"], "none.json: cannot be read"),
        (
            &["--check", "--against", "old.json"],
            "old.json: cannot be read",
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
fn check_against_another_file_says_what_a_reload_would_do() {
    // The one file that is there, against itself.
    let arguments = ["--check", "--against", "config.json", "config.json"];
    let finished = run_with_config(&arguments, ARTICLE);
    assert_eq!(finished.code, 0, "{finished:?}");
    let last = finished.stdout.lines().last().unwrap();
    assert_eq!(last, "reload        backends: 4 kept");
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
    proxy.wait_for_event(&["WARN", "] all backends have weight 0"]);
    assert_eq!(proxy.client().get("/").status, 503);
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
