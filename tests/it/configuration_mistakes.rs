//! What a wrong configuration file is answered: one line that names the place and what would be right.

use crate::configuration::{check, expect_one_line_and_2, expect_wrong, with, with_backend};
use crate::support::proxy::run_with_config;

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
        (with("balance", "method", r#""hash""#), "balance.method"),
        (with("ejection", "errors", "5"), "ejection"),
        (
            with("health_check", "method", r#""HEAD", "kind": "http""#),
            "health_check.method",
        ),
        (
            with("health_check", "host", r#""a", "kind": "http""#),
            "health_check.host",
        ),
        (with("health_check", "port", "81"), "health_check.port"),
        (
            with("health_check", "body", r#""ok", "kind": "http""#),
            "health_check.body",
        ),
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
        (with("balance", "method", r#""fastest""#), "balance.method"),
        (
            with("balance", "method", r#""source_hash""#),
            "balance.method",
        ),
        (with("balance", "method", r#""hash""#), "balance.method"),
        (with("balance", "hash", r#"{"key":"path"}"#), "balance.hash"),
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
