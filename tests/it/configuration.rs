//! What a configuration file may say: the article's file, the bounds of every key, backends. What
//! is wrong gets one clear line and exit status 2. Read next: `configuration_mistakes.rs`.

use crate::support::Finished;
use crate::support::proxy::run_with_config;
use serde_json::Value;
use std::fmt::Write as _;

/// As the article prints it.
pub(crate) const ARTICLE: &str = r#"{
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
pub(crate) fn check(config: &str) -> Finished {
    run_with_config(&["--check", "config.json"], config)
}

#[track_caller]
pub(crate) fn expect_right(config: &str) -> Finished {
    let finished = check(config);
    assert_eq!(finished.code, 0, "{config}\n{finished:?}");
    assert_eq!(finished.stderr, "", "{config}");
    finished
}

/// One line on standard error that contains each of `parts`, nothing on standard output, exit
/// status 2.
#[track_caller]
pub(crate) fn expect_one_line_and_2(finished: &Finished, parts: &[&str]) {
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
pub(crate) fn expect_wrong(config: &str, parts: &[&str]) {
    let finished = check(config);
    assert_eq!(finished.code, 2, "{config}\n{finished:?}");
    expect_one_line_and_2(&finished, parts);
}

/// A right configuration with one key set to `value`, which may be any JSON text.
pub(crate) fn with(section: &str, key: &str, value: &str) -> String {
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

pub(crate) fn with_backend(members: &str) -> String {
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
