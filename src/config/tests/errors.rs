//! What is refused: bounds on both sides, and one line for each error.

use super::*;

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

#[test]
fn every_error_is_one_clear_line() {
    let mut around = ("", "");
    let mut lines = include_str!("../errors.txt").lines();
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
