//! Configurations good and bad: defaults, bounds on both sides, and one line for each error.

use std::net::IpAddr;
use std::time::Duration;

use super::*;
use crate::config::document::{CONFIGURATION, duration_text};
use crate::pool::settings::Host;
use crate::pool::settings::StatusRanges;
use crate::pool::settings::{CheckMethod, Kind};
use crate::pool::settings::{Method, Persistence};

/// A configuration with one backend and `extra` members beside it.
fn with(extra: &str) -> Result<Config, ConfigError> {
    let text =
        format!("{{\"proxy\":{{\"port\":80}},\"backends\":[{{\"url\":\"http://h\"}}]{extra}}}");
    Config::from_text("c.json", &text)
}

/// A configuration with `members` in its section `proxy`.
fn with_proxy(members: &str) -> Result<Config, ConfigError> {
    let text = format!("{{\"proxy\":{{{members}}},\"backends\":[{{\"url\":\"http://h\"}}]}}");
    Config::from_text("c.json", &text)
}

/// A configuration with this list of backends.
fn with_backends(list: &str) -> Result<Config, ConfigError> {
    let text = format!("{{\"proxy\":{{\"port\":80}},\"backends\":{list}}}");
    Config::from_text("c.json", &text)
}

/// The error's line without the place, which `document` has its own tests for.
fn line(result: Result<Config, ConfigError>) -> String {
    let line = match result {
        Ok(config) => panic!("accepted: {config:?}"),
        Err(error) => error.to_string(),
    };
    assert!(!line.contains('\n'));
    let (place, rest) = line.split_once(": ").unwrap();
    assert!(place.starts_with("c.json:1:"), "{line}");
    rest.to_owned()
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn the_articles_file_works_unchanged() {
    let config = Config::from_text("config.json", include_str!("../../config.json")).unwrap();
    assert_eq!(config.proxy.port, 8080);
    let backends: Vec<_> = config
        .backends
        .iter()
        .map(|backend| (backend.name.as_str(), backend.url.to_string()))
        .collect();
    assert_eq!(
        backends,
        [
            ("localhost:8081", "http://localhost:8081".to_owned()),
            ("localhost:8082", "http://localhost:8082".to_owned()),
            ("localhost:8083", "http://localhost:8083".to_owned()),
            ("localhost:8084", "http://localhost:8084".to_owned()),
        ]
    );
}

#[test]
fn the_file_may_come_from_disk() {
    let path = std::env::temp_dir().join(format!("rondo-config-{}.json", std::process::id()));
    std::fs::write(&path, include_str!("../../config.json")).unwrap();
    assert_eq!(Config::read(&path).unwrap().backends.len(), 4);
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn every_key_has_its_default() {
    let config = with("").unwrap();
    let proxy = &config.proxy;
    assert_eq!(proxy.address, None);
    assert_eq!(proxy.mode, Mode::Http);
    assert!((1..=1024).contains(&proxy.workers));
    assert_eq!(proxy.max_connections, 10_000);
    assert_eq!(proxy.access_log, AccessLog::Text);
    assert_eq!(proxy.trust_forwarded, Trust::None);
    assert_eq!(proxy.forwarded_proto, None);
    assert!(!proxy.accept_proxy_protocol);
    assert!(proxy.via);

    assert_eq!(config.balance.method, Method::RoundRobin);
    assert_eq!(config.balance.persistence, Persistence::None);
    assert_eq!(config.balance.tries, 3);

    let backend = &config.backends[0];
    assert_eq!(backend.name, "h:80");
    assert_eq!(backend.url.host, Host::Name("h".to_owned()));
    assert_eq!(backend.url.port, 80);
    assert_eq!(backend.url.base_path, "");
    assert_eq!(backend.url.authority, "h");
    assert_eq!(backend.weight, 1);
    assert!(!backend.backup);
    assert_eq!(backend.max_connections, None);
    assert!(backend.check && !backend.lenient);
    assert!(!backend.send_proxy_protocol);
    assert!(!backend.disabled);

    let check = &config.health_check;
    assert_eq!(check.kind, Kind::Tcp);
    assert_eq!(check.interval, seconds(60));
    assert_eq!(check.down_interval, seconds(2));
    assert_eq!(check.timeout, seconds(5));
    assert_eq!((check.rise, check.fall), (1, 1));

    let timeouts = &config.timeouts;
    assert_eq!(timeouts.client_head, seconds(10));
    assert_eq!(timeouts.client_idle, seconds(60));
    assert_eq!(timeouts.client_body, seconds(30));
    assert_eq!(timeouts.client_write, seconds(30));
    assert_eq!(timeouts.connect, seconds(5));
    assert_eq!(timeouts.response_head, seconds(60));
    assert_eq!(timeouts.response_body, seconds(60));
    assert_eq!(timeouts.backend_idle, seconds(4));
    assert_eq!(timeouts.tunnel_idle, seconds(3600));
    assert_eq!(timeouts.drain, seconds(30));
    assert_eq!(timeouts.drain_delay, seconds(0));

    let limits = &config.limits;
    assert_eq!(limits.head_bytes, 16_384);
    assert_eq!(limits.fields, 100);
    assert_eq!(limits.body_bytes, None);
    assert_eq!(limits.idle_backend_connections, 64);
    assert_eq!(config.admin, None);
}

#[test]
fn empty_sections_are_the_defaults() {
    let empty = r#","balance":{},"health_check":{},"timeouts":{},"limits":{}"#;
    assert_eq!(with(empty), with(""));
}

#[test]
fn comments_and_the_name_of_a_schema_change_nothing() {
    let extra = "/* \"limits\": {} */, \"$schema\": \"https://rondo.example/schema.json\" // ,";
    let config = with(&format!("{extra}\n"));
    assert_eq!(config, with(""));
    let url = r#"[{"url":"http://h/a//b"}]"#;
    assert_eq!(
        with_backends(url).unwrap().backends[0].url.base_path,
        "/a//b"
    );
    let line = Config::from_text("c.json", "{\"proxy\": {} /* }").unwrap_err();
    assert_eq!(
        line.to_string(),
        "c.json:1:14: has a comment that is not closed; add */"
    );
}

/// All keys but those of features that are not built yet.
const ALL_KEYS: &str = r#"{
  "proxy": {
    "port": 0, "address": "::1", "mode": "http", "workers": 3, "max_connections": 77, "access_log": "json",
    "trust_forwarded": ["10.0.0.0/8", "::1"], "accept_proxy_protocol": false, "forwarded_proto": "https", "via": false
  },
  "balance": {"method": "least_connections", "persistence": {"kind": "cookie", "name": "sticky"}, "tries": 10},
  "backends": [
    {
      "url": "http://[::1]:8081/base/path/", "name": "one", "weight": 0, "backup": true, "max_connections": 5,
      "check": false, "lenient": true,
      "send_proxy_protocol": false, "IsDead": true
    }
  ],
  "health_check": {
    "kind": "none", "interval": "30s", "down_interval": "500ms", "timeout": "1s", "rise": 2, "fall": 3
  },
  "timeouts": {
    "client_head": "1ms", "client_idle": "2ms", "client_body": "3ms", "client_write": "4ms", "connect": "5ms",
    "response_head": "6ms", "response_body": "7ms", "backend_idle": "8ms", "tunnel_idle": "24h", "drain": "10ms",
    "drain_delay": "0s"
  },
  "limits": {"head_bytes": 1024, "fields": 8, "body_bytes": 0, "idle_backend_connections": 0}
}"#;

#[test]
fn every_key_may_be_set() {
    let config = Config::from_text("c.json", ALL_KEYS).unwrap();
    let proxy = &config.proxy;
    assert_eq!(proxy.port, 0);
    assert_eq!(proxy.address, Some("::1".parse().unwrap()));
    assert_eq!(proxy.workers, 3);
    assert_eq!(proxy.max_connections, 77);
    assert_eq!(proxy.access_log, AccessLog::Json);
    let trusted: IpAddr = "10.9.9.9".parse().unwrap();
    assert!(proxy.trust_forwarded.trusts(trusted));
    assert_eq!(proxy.forwarded_proto, Some(crate::http::Scheme::Https));
    assert!(!proxy.via);

    assert_eq!(config.balance.method, Method::LeastConnections);
    let name = "sticky".to_owned();
    assert_eq!(config.balance.persistence, Persistence::Cookie { name });
    assert_eq!(config.balance.tries, 10);

    let backend = &config.backends[0];
    assert_eq!(backend.name, "one");
    assert_eq!(backend.url.host, Host::Ip("::1".parse().unwrap()));
    assert_eq!(backend.url.port, 8081);
    assert_eq!(backend.url.base_path, "/base/path");
    assert_eq!(backend.url.authority, "[::1]:8081");
    assert_eq!(backend.weight, 0);
    assert!(backend.backup);
    assert_eq!(backend.max_connections, Some(5));
    assert!(!backend.check && backend.lenient);
    assert!(backend.disabled);

    let check = &config.health_check;
    assert_eq!(check.kind, Kind::None);
    assert_eq!(check.interval, seconds(30));
    assert_eq!(check.down_interval, Duration::from_millis(500));
    assert_eq!(check.timeout, seconds(1));
    assert_eq!((check.rise, check.fall), (2, 3));

    let timeouts = &config.timeouts;
    let in_order_ms = [
        timeouts.client_head,
        timeouts.client_idle,
        timeouts.client_body,
        timeouts.client_write,
        timeouts.connect,
        timeouts.response_head,
        timeouts.response_body,
        timeouts.backend_idle,
    ]
    .map(|timeout| timeout.as_millis());
    assert_eq!(in_order_ms, [1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(timeouts.tunnel_idle, seconds(24 * 3600));
    assert_eq!(timeouts.drain, Duration::from_millis(10));

    let limits = &config.limits;
    assert_eq!((limits.head_bytes, limits.fields), (1024, 8));
    assert_eq!(limits.body_bytes, Some(0));
    assert_eq!(limits.idle_backend_connections, 0);
}

#[test]
fn every_error_is_one_clear_line() {
    let mut around = ("", "");
    let mut lines = include_str!("errors.txt").lines();
    let mut cases = 0;
    while let Some(text) = lines.next() {
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        if let Some(template) = text.strip_prefix("== ") {
            around = template.split_once('@').unwrap();
            continue;
        }
        let expected = lines.next().unwrap().trim_start();
        let text = format!("{}{text}{}", around.0, around.1);
        assert_eq!(line(Config::from_text("c.json", &text)), expected, "{text}");
        cases += 1;
    }
    assert!(cases > 100, "only {cases}");
}

#[test]
fn timeouts_and_limits_have_both_bounds() {
    for key in [
        "client_head",
        "client_idle",
        "client_body",
        "client_write",
        "connect",
        "response_head",
        "response_body",
        "backend_idle",
        "tunnel_idle",
        "drain",
    ] {
        for (value, fits) in [
            ("\"0s\"", false),
            ("\"1ms\"", true),
            ("\"24h\"", true),
            ("\"86400001ms\"", false),
            ("1", false),
        ] {
            let result = with(&format!(",\"timeouts\":{{\"{key}\":{value}}}"));
            assert_eq!(result.is_ok(), fits, "{key} {value}");
            if let Err(error) = result {
                assert_eq!(error.path, format!("timeouts.{key}"));
            }
        }
    }
    for extra in [
        r#","timeouts":{"drain_delay":"0s"}"#,
        r#","timeouts":{"drain_delay":"24h"}"#,
        r#","limits":{"head_bytes":1024,"fields":8,"body_bytes":18446744073709551615}"#,
        r#","limits":{"head_bytes":1048576,"fields":1000,"idle_backend_connections":1000000}"#,
    ] {
        assert!(with(extra).is_ok(), "{extra}");
    }
}

#[test]
fn names_have_at_most_64_bytes() {
    let long = format!("http://{}.example", "a".repeat(60));
    assert_eq!(
        line(with_backends(&format!("[{{\"url\":\"{long}\"}}]"))),
        "backends[0].url would make a name longer than 64 bytes; give the backend a \"name\""
    );
    assert!(with_backends(&format!("[{{\"url\":\"{long}\",\"name\":\"a\"}}]")).is_ok());
    let most = "n".repeat(64);
    assert!(with_backends(&format!("[{{\"url\":\"http://a\",\"name\":\"{most}\"}}]")).is_ok());
    assert_eq!(
        line(with_backends(&format!(
            "[{{\"url\":\"http://a\",\"name\":\"{most}n\"}}]"
        ))),
        format!(
            "backends[0].name is \"{most}n\"; must be 1 to 64 letters, digits or any of . _ : # [ ] -"
        )
    );
}

#[test]
fn the_place_is_that_of_the_value_the_key_or_the_object_that_lacks_it() {
    for (text, place) in [
        ("{\n \"proxy\": {\n  \"port\": -1}}", "c.json:3:11: "),
        ("{\n \"proxy\": {\n  \"prot\": -1}}", "c.json:3:3: "),
        ("{\n \"proxy\": {\n  }}", "c.json:2:11: "),
        ("\n {\n }", "c.json:2:2: "),
    ] {
        let error = Config::from_text("c.json", text).unwrap_err();
        assert!(error.to_string().starts_with(place), "{error}");
    }
}

#[test]
fn the_bounds_of_proxy_belong_to_it() {
    for members in [
        r#""port":65535"#,
        r#""port":"65535""#,
        r#""port":"0""#,
        r#""port":"08080""#,
        r#""port":1,"workers":1"#,
        r#""port":1,"workers":1024"#,
        r#""port":1,"max_connections":1"#,
        r#""port":1,"max_connections":1000000"#,
        r#""port":1,"access_log":false"#,
        r#""port":1,"trust_forwarded":[]"#,
        r#""port":1,"trust_forwarded":true"#,
        r#""port":1,"address":"0.0.0.0""#,
    ] {
        assert!(with_proxy(members).is_ok(), "{members}");
    }
}

#[test]
fn urls_are_taken_apart() {
    for (url, authority, port, base_path) in [
        ("http://localhost:8081/", "localhost:8081", 8081, ""),
        ("http://localhost:8081", "localhost:8081", 8081, ""),
        ("HTTP://Example.COM", "example.com", 80, ""),
        ("http://example.com:80/a", "example.com", 80, "/a"),
        ("http://example.com:080/a/", "example.com", 80, "/a"),
        ("http://10.0.0.1:1/a/b//", "10.0.0.1:1", 1, "/a/b/"),
        ("http://[::1]/%41;x=1,2", "[::1]", 80, "/%41;x=1,2"),
        ("http://[::FFFF:10.0.0.1]:81", "10.0.0.1:81", 81, ""),
    ] {
        let config = with_backends(&format!("[{{\"url\":\"{url}\"}}]")).unwrap();
        let found = &config.backends[0].url;
        assert_eq!(
            (
                found.authority.as_str(),
                found.port,
                found.base_path.as_str()
            ),
            (authority, port, base_path)
        );
        assert_eq!(found.to_string(), format!("http://{authority}{base_path}"));
    }
}

#[test]
fn backends_without_a_name_get_one_of_their_own() {
    let names = |list: &str| -> Vec<String> {
        let config = with_backends(list).unwrap();
        config
            .backends
            .into_iter()
            .map(|backend| backend.name)
            .collect()
    };
    assert_eq!(
        names(
            r#"[{"url":"http://a"},{"url":"http://a/x"},{"url":"http://b:1"},{"url":"http://A:80"},{"url":"http://[::1]"}]"#
        ),
        ["a:80", "a:80#2", "b:1", "a:80#3", "[::1]:80"]
    );
    assert_eq!(
        names(
            r#"[{"url":"http://a"},{"url":"http://a"},{"url":"http://b","name":"a:80#2"},{"url":"http://c","name":"a:80"}]"#
        ),
        ["a:80#3", "a:80#4", "a:80#2", "a:80"]
    );
    let many = vec![r#"{"url":"http://a"}"#; 10_000].join(",");
    let names = names(&format!("[{many}]"));
    assert_eq!(names[9_999], "a:80#10000");
}

#[test]
fn every_method_and_persistence_is_known() {
    for (name, method) in [
        ("round_robin", Method::RoundRobin),
        ("least_connections", Method::LeastConnections),
        ("random_two", Method::RandomTwo),
        ("source_hash", Method::SourceHash),
    ] {
        let config = with(&format!(",\"balance\":{{\"method\":\"{name}\"}}")).unwrap();
        assert_eq!(config.balance.method, method);
    }
    let persistence = |text: &str| {
        let config = with(&format!(
            ",\"balance\":{{\"persistence\":{text},\"tries\":1}}"
        ));
        config.unwrap().balance.persistence
    };
    assert_eq!(
        persistence(r#"{"kind":"source_address"}"#),
        Persistence::SourceAddress
    );
    let name = "rondo".to_owned();
    assert_eq!(
        persistence(r#"{"kind":"cookie"}"#),
        Persistence::Cookie { name }
    );
}

#[test]
fn http_checks_have_a_path_and_statuses() {
    let check = |text: &str| with(&format!(",{text}")).unwrap().health_check;
    let http = check(r#""health_check":{"kind":"http"}"#);
    assert_eq!(http.kind, Kind::Http);
    assert_eq!(http.http.path, "/");
    assert_eq!(http.http.status, StatusRanges(vec![200..=399]));
    let http = check(
        r#""health_check":{"kind":"http","path":"/up?deep=1","status":"100-199, 204,500-599"}"#,
    );
    assert_eq!(http.http.path, "/up?deep=1");
    let ranges = StatusRanges(vec![100..=199, 204..=204, 500..=599]);
    assert_eq!(http.http.status, ranges);
    assert_eq!(ranges.to_string(), "100-199,204,500-599");
    assert_eq!(check(r#""health_check":{"kind":"icmp"}"#).kind, Kind::Icmp);
}

#[test]
fn a_check_may_ask_another_port_and_host_in_another_way() {
    let check = |text: &str| {
        with(&format!(r#","health_check":{text}"#))
            .unwrap()
            .health_check
    };
    assert_eq!(check(r#"{"port":8079}"#).port, Some(8079));
    let asked = check(r#"{"kind":"http","method":"OPTIONS","host":"app.example:80","port":65535}"#);
    assert_eq!(asked.http.method, CheckMethod::Options);
    assert_eq!(asked.http.host.as_deref(), Some("app.example:80"));
    assert_eq!((asked.port, asked.http.body), (Some(65535), None));
    let longest = "é".repeat(512);
    let text = |text: &str| format!(r#"{{"kind":"http","body":"{text}"}}"#);
    assert_eq!(check(&text(&longest)).http.body, Some(longest.clone()));
    let error = with(&format!(
        r#","health_check":{}"#,
        text(&format!("{longest}."))
    ))
    .unwrap_err();
    assert!(
        error.to_string().contains("health_check.body is "),
        "{error}"
    );
}

#[test]
fn the_admin_section_is_read_whole() {
    let admin = |text: &str| {
        let text = format!("{{\"admin\":{text}}}");
        let document = Document::from_bytes("c.json", text.into_bytes(), &CONFIGURATION).unwrap();
        let top = document.root().unwrap().object(KEYS).unwrap();
        Admin::read(&top).unwrap()
    };
    assert_eq!(admin("{}"), None);
    assert_eq!(
        admin(r#"{"address":"0.0.0.0:9090","hosts":["LB.example"],"token":"s3cr3t"}"#),
        Some(Admin {
            address: "0.0.0.0:9090".parse().unwrap(),
            hosts: vec!["lb.example".to_owned()],
            token: Some("s3cr3t".to_owned()),
        })
    );
    for loopback in [
        "127.0.0.1:0",
        "127.8.8.8:1",
        "[::1]:9090",
        "[::ffff:127.0.0.1]:1",
        "localhost:1",
    ] {
        assert!(admin(&format!("{{\"address\":\"{loopback}\"}}")).is_some());
    }
}

#[test]
fn the_command_line_makes_a_configuration_too() {
    let config = Config::from_flags("http://a:1,http://b:2/x", "8080").unwrap();
    let file =
        r#"{"proxy":{"port":8080},"backends":[{"url":"http://a:1"},{"url":"http://b:2/x"}]}"#;
    assert_eq!(config, Config::from_text("c.json", file).unwrap());
}

#[test]
fn errors_on_the_command_line_name_the_option() {
    for (backends, port, expected) in [
        (
            "http://a",
            "x\n",
            "--port: the port is \"x\\n\"; must be a port from 0 to 65535, 0 picks a free one",
        ),
        (
            "http://a,https://b",
            "80",
            r#"--backends: backends[1] is "https://b", and rondo does not speak TLS to backends; use http, or a TLS tunnel beside rondo"#,
        ),
        (
            "",
            "80",
            r#"--backends: backends[0] is "", which has no scheme; must be "http://host[:port][/base/path]", such as "http://127.0.0.1:8081""#,
        ),
        (
            "http://a,",
            "80",
            r#"--backends: backends[1] is "", which has no scheme; must be "http://host[:port][/base/path]", such as "http://127.0.0.1:8081""#,
        ),
    ] {
        let error = Config::from_flags(backends, port).unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
}

proptest::proptest! {
    #[test]
    fn no_change_to_a_good_file_makes_a_panic_or_a_second_line(
        at in 0..ALL_KEYS.len(),
        cut in 0..20_usize,
        put in "[\\x00-\\x7fé\u{2028}]{0,4}",
    ) {
        let end = (at + cut).min(ALL_KEYS.len());
        let text = format!("{}{put}{}", &ALL_KEYS[..at], &ALL_KEYS[end..]);
        if let Err(error) = Config::from_text("c.json", &text) {
            let line = error.to_string();
            proptest::prop_assert!(!line.contains(['\n', '\r', '\u{2028}']), "{line:?}");
            proptest::prop_assert!(line.len() < 400, "{line:?}");
        }
    }
}

/// A section's rows, each with its path; nested ones behind the key that holds them.
fn rows(prefix: &str, keys: &'static [Key]) -> Vec<(String, &'static Key)> {
    let mut rows = Vec::new();
    for key in keys {
        let path = format!("{prefix}{}", key.name);
        rows.push((path.clone(), key));
        if let Takes::Object(below) = key.takes {
            rows.extend(self::rows(&format!("{path}."), below));
        }
    }
    rows
}

/// The sections that have rows.
fn sections() -> Vec<(&'static Key, &'static [Key])> {
    let section = |key: &'static Key| match key.takes {
        Takes::Object(keys) | Takes::Objects { keys, .. } => Some((key, keys)),
        _ => None,
    };
    KEYS.iter().filter_map(section).collect()
}

/// A row as README shows it; none for what is not built.
fn readme_row(path: &str, key: &Key) -> Option<String> {
    let value = match key.takes {
        Takes::Flag => "true or false".to_owned(),
        Takes::Integer(least, u64::MAX) => format!("{least} or more"),
        Takes::Integer(least, most) => format!("{least} to {most}"),
        Takes::Duration(least, most) => {
            let bounds = format!("{} to {}", duration_text(least), duration_text(most));
            match bounds.as_str() {
                "1ms to 24h" => "duration".to_owned(),
                _ => format!("duration, {bounds}"),
            }
        }
        Takes::Word(_) | Takes::Other { .. } => key.takes.wanted().replace('`', "\\`"),
        Takes::Object(_) => "object".to_owned(),
        Takes::Objects { .. } | Takes::NotBuilt(_) => return None,
    };
    let default = match key.default {
        Fallback::Required => "required".to_owned(),
        Fallback::Value(json) if json.starts_with('"') => format!("`{json}`"),
        Fallback::Value(json) => json.to_owned(),
        Fallback::Nothing(words) => words.to_owned(),
    };
    let cells = [value, default, key.explanation()].map(|cell| cell.replace('|', "\\|"));
    Some(format!("| `{path}` | {} |", cells.join(" | ")))
}

#[test]
fn the_tables_of_readme_are_the_rows() {
    let readme = include_str!("../../README.md");
    let mut wrong = Vec::new();
    for (section, keys) in sections() {
        let heading = format!("### {}", section.name);
        let mut table = vec!["| key | value | default | meaning |", "|---|---|---|---|"]
            .into_iter()
            .map(str::to_owned)
            .collect::<Vec<_>>();
        let rows = rows("", keys);
        table.extend(rows.iter().filter_map(|(path, key)| readme_row(path, key)));
        let found: Vec<&str> = readme
            .lines()
            .skip_while(|line| *line != heading)
            .skip_while(|line| !line.starts_with('|'))
            .take_while(|line| line.starts_with('|'))
            .collect();
        if found != table {
            wrong.push(format!("{heading}\n\n{}\n", table.join("\n")));
        }
    }
    assert!(
        wrong.is_empty(),
        "these tables of README differ from the rows in src/config; right is\n\n{}",
        wrong.join("\n")
    );
    assert!(readme.contains(r#"from `"1ms"` to `"24h"`"#));
}

/// A configuration in which one key is set; the others that it needs are there.
fn with_key(section: &Key, path: &str, value: &str) -> String {
    let key = path.split('.').next_back().unwrap();
    let mut sections = vec![
        ("proxy", vec![("port", "80")]),
        ("backends", vec![("url", r#""http://h""#)]),
    ];
    if sections.iter().all(|(name, _)| *name != section.name) {
        sections.push((section.name, Vec::new()));
    }
    let place = sections
        .iter_mut()
        .find(|(name, _)| *name == section.name)
        .unwrap();
    match (section.name, key) {
        // Keys that mean something beside another one only.
        ("health_check", "path" | "status" | "method" | "host" | "body") => {
            place.1.push(("kind", r#""http""#));
        }
        ("admin", "hosts" | "token") => place.1.push(("address", r#""127.0.0.1:1""#)),
        _ => {}
    }
    let below = match path.split_once('.') {
        Some((above, "name")) => (above, format!(r#"{{"kind":"cookie","name":{value}}}"#)),
        Some((above, _)) => (above, format!(r#"{{"{key}":{value}}}"#)),
        None => (key, value.to_owned()),
    };
    place.1.retain(|(given, _)| *given != below.0);
    place.1.push((below.0, &below.1));
    let object = |keys: &[(&str, &str)]| {
        let keys: Vec<String> = keys.iter().map(|(k, v)| format!("\"{k}\":{v}")).collect();
        format!("{{{}}}", keys.join(","))
    };
    let sections: Vec<String> = sections
        .iter()
        .map(|(name, keys)| match *name {
            "backends" => format!("\"backends\":[{}]", object(keys)),
            name => format!("\"{name}\":{}", object(keys)),
        })
        .collect();
    format!("{{{}}}", sections.join(","))
}

/// The rows of all sections that are built, but for objects, whose own rows follow them.
fn built_rows() -> Vec<(&'static Key, String, &'static Key)> {
    let rows = sections().into_iter().flat_map(|(section, keys)| {
        let rows = rows("", keys).into_iter();
        rows.map(move |(path, key)| (section, path, key))
    });
    rows.filter(|(_, _, key)| !matches!(key.takes, Takes::Object(_) | Takes::NotBuilt(_)))
        .collect()
}

#[test]
fn the_default_of_a_row_is_what_holds_when_it_is_left_out() {
    for (section, path, key) in built_rows() {
        if let Fallback::Value(json) = key.default {
            let config = |value| Config::from_text("c", &with_key(section, &path, value)).unwrap();
            let text = with_key(section, &path, json);
            let without = text.replace(&format!("\"{}\":{json}", key.name), "");
            let without = without.replace("{,", "{").replace(",}", "}");
            assert_ne!(text, without);
            let without = Config::from_text("c", &without).unwrap();
            let mut with = config(json);
            // That it stands there is another value than what it says.
            with.proxy.max_connections_is_set = false;
            assert_eq!(with, without, "{} {path}", section.name);
        }
    }
}

#[test]
fn every_row_is_read_and_none_is_ignored() {
    for (section, path, _) in built_rows() {
        let list = if section.name == "backends" {
            "[0]"
        } else {
            ""
        };
        let full = format!("{}{list}.{path}", section.name);
        let error = Config::from_text("c", &with_key(section, &path, "[[]]")).unwrap_err();
        assert!(error.path.starts_with(&full), "{full}: {error}");
    }
}

/// Values that a row takes, unlike its default.
fn other_values(section: &Key, key: &Key) -> Vec<String> {
    // A list that can be read.
    let list = format!(
        "{:?}",
        concat!(env!("CARGO_MANIFEST_DIR"), "/src/config/list.json")
    );
    let quoted = |duration| format!("\"{}\"", duration_text(duration));
    let values = match key.takes {
        Takes::Flag => vec!["true".to_owned(), "false".to_owned()],
        Takes::Integer(least, most) => vec![least.to_string(), most.to_string()],
        Takes::Duration(least, most) => vec![quoted(least), quoted(most)],
        Takes::Word(words) => words().iter().map(|w| format!("{:?}", w.name)).collect(),
        _ => vec![
            match key.name {
                "port" => "81",
                "address" if section.name == "admin" => "\"[::1]:2\"",
                "hosts" => "[\"lb.example\"]",
                "token" => "\"secret\"",
                "address" => "\"::1\"",
                "access_log" => "\"json\"",
                "trust_forwarded" => "[\"::1\"]",
                "url" => "\"http://other\"",
                "name" => "\"other\"",
                "path" => "\"/other\"",
                "status" => "\"204\"",
                "host" => "\"other\"",
                "body" => "\"other\"",
                "file" => &list,
                other => panic!("a value for {other} is missing here"),
            }
            .to_owned(),
        ],
    };
    let default = match key.default {
        Fallback::Value(json) => json,
        Fallback::Required | Fallback::Nothing(_) => "",
    };
    values
        .into_iter()
        .filter(|value| value != default)
        .collect()
}

#[test]
fn every_row_takes_its_bounds_and_nothing_beyond() {
    for (section, path, key) in built_rows() {
        let takes = |value: &str| {
            let result = Config::from_text("c", &with_key(section, &path, value));
            result.is_ok()
        };
        for value in other_values(section, key) {
            // A bound that exceeds what a machine word holds is that of the word.
            assert!(takes(&value), "{} {path} {value}", section.name);
        }
        let beyond = match key.takes {
            Takes::Integer(least, most) => [least.checked_sub(1), most.checked_add(1)]
                .iter()
                .flatten()
                .map(u64::to_string)
                .collect(),
            Takes::Duration(least, most) => [
                least.checked_sub(Duration::from_millis(1)),
                most.checked_add(Duration::from_millis(1)),
            ]
            .iter()
            .flatten()
            .map(|duration| format!("\"{}\"", duration_text(*duration)))
            .collect(),
            _ => Vec::new(),
        };
        for value in beyond {
            assert!(!takes(&value), "{} {path} {value}", section.name);
        }
    }
}

#[test]
fn check_shows_every_row() {
    for (section, path, key) in built_rows() {
        let summary = |text: &str| summary(&Config::from_text("c", text).unwrap(), 1_000_000, &[]);
        let plain = match key.default {
            Fallback::Value(json) => summary(&with_key(section, &path, json)),
            Fallback::Required | Fallback::Nothing(_) => summary(&with_key(
                KEYS.iter().find(|key| key.name == "proxy").unwrap(),
                "via",
                "true",
            )),
        };
        for value in other_values(section, key) {
            let other = summary(&with_key(section, &path, &value));
            // The number of workers is this machine's.
            let is_shown = other != plain || key.name == "workers";
            assert!(is_shown, "{} {path} {value}\n{other}", section.name);
        }
    }
}

#[test]
fn the_schema_says_what_the_rows_say() {
    let schema: serde_json::Value = serde_json::from_str(&schema()).unwrap();
    for (section, path, key) in built_rows() {
        let mut place = &schema["properties"][section.name];
        if section.name == "backends" {
            place = &place["items"];
        }
        for step in path.split('.') {
            place = &place["properties"][step];
        }
        assert!(place["description"].is_string(), "{} {path}", section.name);
        if let Fallback::Value(json) = key.default {
            let default: serde_json::Value = serde_json::from_str(json).unwrap();
            assert_eq!(place["default"], default);
        }
        if let Takes::Integer(least, _) = key.takes {
            assert_eq!(place["minimum"], least);
        }
    }
    let text = schema.to_string();
    for not_built in ["ejection", "slow_start"] {
        assert!(!text.contains(not_built), "{not_built}");
    }
}
