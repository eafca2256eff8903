//! Documents good and bad: places, paths, and one line for each error.

use super::*;
use crate::config::key::{Fallback, Takes};

/// The rows of the objects here.
const KEYS: &[Key] = &[
    row("port", Takes::Integer(8, 1000)),
    row("max_connections", Takes::Integer(0, 9)),
    row("idle", Takes::DURATION),
];

const fn row(name: &'static str, takes: Takes) -> Key {
    Key {
        name,
        takes,
        default: Fallback::Nothing("none"),
        meaning: "",
    }
}

const LIST: &[Key] = &[row("a", ANY)];
const PAIR: &[Key] = &[row("é", ANY), row("b", ANY)];
const ANY: Takes = Takes::Other {
    wanted: "anything",
    schema: "{}",
};

fn document(text: &str) -> Document {
    Document::from_bytes("c.json", text.as_bytes().to_vec(), &CONFIGURATION).unwrap()
}

#[test]
fn a_value_knows_its_line_its_column_and_its_path() {
    let document = document("{\n  \"a\": [1,\n    {\"é\": 2, \"b\": true}]\n}");
    let root = document.root().unwrap();
    let list = root.object(LIST).unwrap().value("a").unwrap().list();
    let second = list.unwrap().remove(1).object(PAIR).unwrap();
    let value = second.value("b").unwrap();
    assert_eq!(
        value.not("a word").to_string(),
        "c.json:3:19: a[1].b is true; must be a word"
    );
}

#[test]
fn unknown_keys_name_the_one_that_was_meant() {
    for (key, line) in [
        (
            "prot",
            r#"c.json:1:2: prot is not a known key; did you mean "port"?"#,
        ),
        (
            "Port",
            r#"c.json:1:2: Port is not a known key; did you mean "port"?"#,
        ),
        (
            "maxConnections",
            r#"c.json:1:2: maxConnections is not a known key; did you mean "max_connections"?"#,
        ),
        (
            "max-conections",
            r#"c.json:1:2: max-conections is not a known key; did you mean "max_connections"?"#,
        ),
        (
            "rub",
            "c.json:1:2: rub is not a known key; the keys here are port, max_connections and idle",
        ),
        (
            "a\\nb",
            r#"c.json:1:2: ["a\nb"] is not a known key; the keys here are port, max_connections and idle"#,
        ),
        (
            "",
            r#"c.json:1:2: [""] is not a known key; the keys here are port, max_connections and idle"#,
        ),
    ] {
        let document = document(&format!("{{\"{key}\": 1}}"));
        let error = document.root().unwrap().object(KEYS).unwrap_err();
        assert_eq!(error.to_string(), line);
    }
}

#[test]
fn a_repeated_key_is_an_error_even_when_it_is_escaped() {
    let document = document("{\"a\": 1,\n \"\\u0061\": 2}");
    let error = document.root().unwrap().object(LIST).unwrap_err();
    assert_eq!(
        error.to_string(),
        "c.json:2:2: a is given twice; keep one, the first value is at line 1, column 7"
    );
}

#[test]
fn what_is_not_json_is_shown_with_its_place() {
    for (text, line) in [
        (
            "{",
            "c.json:1:2: not valid JSON: the file ends before the { of line 1, column 1 is closed; add }",
        ),
        (
            "{\n \"é\": [\n  {}\n\n",
            "c.json:3:5: not valid JSON: the file ends before the [ of line 2, column 7 is closed; add ]",
        ),
        (
            "{\"a\": \"b}",
            "c.json:1:10: not valid JSON: the file ends before the \" of line 1, column 7 is closed; add \"",
        ),
        (
            "{\"a\":",
            "c.json:1:6: not valid JSON: the file ends before the { of line 1, column 1 is closed; add }",
        ),
        (
            "{\"a\": [1}",
            "c.json:1:9: not valid JSON: expected `,` or `]`; the [ of line 1, column 7 is still open",
        ),
        (
            "{}}",
            "c.json:1:3: not valid JSON: trailing characters; there is one } too many",
        ),
        (
            "# mine\nproxy:\n  port: 8080\n",
            "c.json:1:1: not valid JSON: this looks like YAML; write it as JSON, such as \
             {\"proxy\": {\"port\": 8080}, \"backends\": [{\"url\": \"http://127.0.0.1:8081\"}]}",
        ),
        (
            "\n[proxy]\nport = 8080\n",
            "c.json:2:1: not valid JSON: this looks like TOML; write it as JSON, such as \
             {\"proxy\": {\"port\": 8080}, \"backends\": [{\"url\": \"http://127.0.0.1:8081\"}]}",
        ),
        (
            "{\"a\":1,}",
            "c.json:1:8: not valid JSON: key must be a string; take out the comma before it",
        ),
        (
            "{\n  # no\n}",
            "c.json:2:3: not valid JSON: key must be a string; a comment begins with //, or stands between /* and */",
        ),
        (
            "{/* é */ x}",
            "c.json:1:10: not valid JSON: key must be a string",
        ),
        (
            "{'a':1}",
            "c.json:1:2: not valid JSON: key must be a string; JSON strings stand in double quotes",
        ),
        ("{} {}", "c.json:1:4: not valid JSON: trailing characters"),
        ("é", "c.json:1:1: not valid JSON: expected value"),
        ("{\"é\": é}", "c.json:1:7: not valid JSON: expected value"),
        (
            "\"a\nb\"",
            "c.json:1:2: not valid JSON: control character (\\u0000-\\u001F) found while parsing a string",
        ),
        ("[1 2]", "c.json:1:4: not valid JSON: expected `,` or `]`"),
        ("\0", "c.json:1:1: not valid JSON: expected value"),
    ] {
        let error = document(text).root().unwrap_err();
        assert_eq!(error.to_string(), line, "{text:?}");
    }
}

#[test]
fn comments_change_no_place() {
    let document = document("// é\n{ /* é\n é */ \"a\": // é\n /* é */ [1, /* é */ true]\n}");
    let root = document.root().unwrap();
    let list = root.object(LIST).unwrap().value("a").unwrap().list();
    let second = list.unwrap().remove(1);
    assert_eq!(
        second.not("a word").to_string(),
        "c.json:4:22: a[1] is true; must be a word"
    );
}

#[test]
fn a_comment_that_is_not_closed_is_shown_where_it_opens() {
    let error = Document::from_bytes("c.json", "{}\n é /* {}".into(), &CONFIGURATION).unwrap_err();
    assert_eq!(
        error.to_string(),
        "c.json:2:4: has a comment that is not closed; add */"
    );
}

#[test]
fn bytes_that_are_no_text_are_refused_in_one_line() {
    for (bytes, line) in [
        (
            &b"\xef\xbb\xbf{}"[..],
            "c.json: begins with a byte order mark; save it as UTF-8 without one",
        ),
        (b"\xff\xfe{\0}\0", "c.json: is UTF-16; save it as UTF-8"),
        (
            b"{\n \"\xff\"}",
            "c.json:2:3: is not UTF-8; save it as UTF-8",
        ),
    ] {
        let error = Document::from_bytes("c.json", bytes.to_vec(), &CONFIGURATION).unwrap_err();
        assert_eq!(error.to_string(), line);
    }
}

#[test]
fn an_empty_text_says_what_the_least_would_be() {
    for text in ["", " \n\t", "// nothing\n"] {
        let error = document(text).root().unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("c.json: is empty; the least is {")
        );
    }
}

#[test]
fn files_that_cannot_be_read_are_refused_in_one_line() {
    let directory = std::env::temp_dir().join(format!("rondo-document-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let large = directory.join("a\nlarge.json");
    std::fs::write(&large, vec![b' '; CONFIGURATION.bytes_max + 1]).unwrap();
    let largest = directory.join("largest.json");
    std::fs::write(&largest, vec![b' '; CONFIGURATION.bytes_max]).unwrap();

    let line = |path: &Path| {
        Document::read(path, &CONFIGURATION)
            .unwrap_err()
            .to_string()
    };
    let shown = directory.display();
    assert_eq!(
        line(&directory),
        format!("{shown}: cannot be read: Is a directory (os error 21); name the file in it")
    );
    assert_eq!(
        line(&directory.join("none.json")),
        format!(
            "{shown}/none.json: cannot be read: No such file or directory (os error 2); \
             name a configuration file, or use --backends with --port, or --demo"
        )
    );
    assert_eq!(
        line(&large),
        format!(
            "{shown}/a\\nlarge.json: is too large; the configuration has at most 1048576 bytes"
        )
    );
    assert!(Document::read(&largest, &CONFIGURATION).is_ok());
    std::fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn deep_nesting_costs_no_stack() {
    let deep = format!("{{\"a\": {}{}}}", "[".repeat(400_000), "]".repeat(400_000));
    let error = document(&deep).root().unwrap().object(KEYS).unwrap_err();
    assert_eq!(
        error.to_string(),
        "c.json:1:2: a is not a known key; the keys here are port, max_connections and idle"
    );
    let unclosed = "[{\"a\":".repeat(100_000);
    assert!(document(&unclosed).root().is_err());
}

#[test]
fn hostile_values_stay_short_and_on_one_line() {
    let long = "x".repeat(10_000);
    for value in [
        format!("\"{long}\""),
        "\"a\\nb\\u001b[31m\\u2028\\u202e\"".to_owned(),
        "1".repeat(10_000),
        "\"\\ud800\"".to_owned(),
    ] {
        let line = integer(&value).unwrap_err().to_string();
        assert!(line.len() < 200, "{line}");
        assert!(!line.chars().any(char::is_control), "{line:?}");
        assert!(!line.contains(['\u{2028}', '\u{202e}']), "{line:?}");
    }
}

fn integer(value: &str) -> Result<u16, ConfigError> {
    let document = document(&format!("{{\"port\":{value}}}"));
    document.root()?.object(KEYS)?.integer("port")
}

#[test]
fn text_with_half_a_surrogate_pair_is_no_text() {
    let document = document("{\"a\":\"\\ud800\"}");
    let node = document.root().unwrap().object(LIST).unwrap();
    let error = node.parsed("a", Node::text).unwrap_err();
    assert_eq!(
        error.to_string(),
        "c.json:1:6: a is a malformed string; must be anything"
    );
}

#[test]
fn integers_have_both_bounds() {
    for (text, expected) in [
        ("7", None),
        ("8", Some(8)),
        ("1000", Some(1000)),
        ("1001", None),
        ("-1", None),
        ("8.0", None),
        ("1e2", None),
        ("99999999999999999999999", None),
        ("\"8\"", None),
        ("null", None),
    ] {
        let number = integer(text);
        assert_eq!(number.as_ref().ok().copied(), expected, "{text}");
        if let Err(error) = number {
            assert_eq!(error.hint, "must be an integer from 8 to 1000");
        }
    }
}

#[test]
fn durations_are_an_integer_with_one_unit() {
    let duration = |value: &str| {
        let document = document(&format!("{{\"idle\":{value}}}"));
        let object = document.root().unwrap().object(KEYS).unwrap();
        object.duration("idle")
    };
    for (text, expected_ms) in [
        ("1ms", Some(1)),
        ("500ms", Some(500)),
        ("30s", Some(30_000)),
        ("1m", Some(60_000)),
        ("24h", Some(86_400_000)),
        ("1440m", Some(86_400_000)),
        ("25h", None),
        ("86400001ms", None),
        ("0s", None),
        ("0", None),
        ("s", None),
        ("", None),
        ("1", None),
        ("1.5s", None),
        ("-1s", None),
        ("+1s", None),
        (" 1s", None),
        ("1 s", None),
        ("1S", None),
        ("1d", None),
        ("1m30s", None),
        ("\u{663}s", None),
        ("18446744073709551615h", None),
        ("99999999999999999999h", None),
    ] {
        let found = duration(&format!("\"{text}\""));
        let found_ms = found.ok().map(|duration| duration.as_millis());
        assert_eq!(found_ms, expected_ms, "{text}");
    }
    assert_eq!(
        duration("30").unwrap_err().to_string(),
        "c.json:1:9: idle is 30; must be a duration from \"1ms\" to \"24h\", \
         an integer with one unit of ms, s, m or h"
    );
}

#[test]
fn durations_are_shown_as_they_are_written() {
    for (ms, text) in [
        (0, "0s"),
        (1, "1ms"),
        (1500, "1500ms"),
        (30_000, "30s"),
        (90_000, "90s"),
        (60_000, "1m"),
        (3_600_000, "1h"),
        (86_400_000, "24h"),
    ] {
        assert_eq!(duration_text(Duration::from_millis(ms)), text);
    }
}

#[test]
fn a_default_is_read_as_if_it_were_given() {
    const KEYS: &[Key] = &[Key {
        name: "idle",
        takes: Takes::DURATION,
        default: Fallback::Value("\"7s\""),
        meaning: "",
    }];
    let document = document("{}");
    let object = document.root().unwrap().object(KEYS).unwrap();
    assert_eq!(object.duration("idle").unwrap(), Duration::from_secs(7));
    assert!(object.given("idle").is_none());
    // A default has no place of its own: that of the whole stands for it.
    let error = object.value("idle").unwrap().not("seen");
    assert_eq!(
        error.to_string(),
        "c.json:1:1: idle is \"7s\"; must be seen"
    );
}
