//! What a configuration is read as: each key with its default and its value.

use std::net::IpAddr;
use std::time::Duration;

use super::*;
use crate::config::document::CONFIGURATION;
use crate::pool::settings::{CheckMethod, HashKey, HashSettings, Host, Kind};
use crate::pool::settings::{Method, Persistence, QueueSettings, StatusRanges};

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn the_articles_file_works_unchanged() {
    let config = Config::from_text("config.json", include_str!("../../../config.json")).unwrap();
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
    std::fs::write(&path, include_str!("../../../config.json")).unwrap();
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
    assert_eq!(config.balance.queue, None);
    let queue = |text: &str| {
        let config = with(&format!(r#","balance":{{"queue":{text}}}"#));
        config.unwrap().balance.queue
    };
    let of = |length, timeout| Some(QueueSettings { length, timeout });
    assert_eq!(queue("{}"), of(100, seconds(1)));
    let given = r#"{"length":1,"timeout":"2m"}"#;
    assert_eq!(queue(given), of(1, seconds(120)));

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
    assert_eq!(config.balance.hash.key, HashKey::Path);
    assert_eq!(config.balance.hash.load_percent_max, Some(125));
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
        ("fastest", Method::Fastest),
        ("hash", Method::Hash),
        ("source_hash", Method::SourceHash),
    ] {
        let config = with(&format!(",\"balance\":{{\"method\":\"{name}\"}}")).unwrap();
        assert_eq!(config.balance.method, method);
    }
    let hash = |text: &str| {
        let config = with(&format!(",\"balance\":{{\"hash\":{text}}}"));
        config.unwrap().balance.hash
    };
    assert_eq!(hash("{}"), HashSettings::default());
    let name = |name: &str| name.to_owned();
    for (text, key) in [
        ("source", HashKey::Source),
        ("path", HashKey::Path),
        ("header:X-User", HashKey::Header(name("X-User"))),
        ("cookie:a|b", HashKey::Cookie(name("a|b"))),
    ] {
        let hash = hash(&format!(r#"{{"key":"{text}","load_percent_max":101}}"#));
        let load_percent_max = Some(101);
        assert_eq!(hash.key.to_string(), text);
        let expected = HashSettings {
            key,
            load_percent_max,
        };
        assert_eq!(hash, expected);
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
