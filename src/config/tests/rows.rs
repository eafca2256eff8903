//! The rows of the sections: README, defaults, `--check` and the schema say what they say.

use std::time::Duration;

use super::*;
use crate::config::document::duration_text;

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
        Takes::Objects { .. } => return None,
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
    let readme = include_str!("../../../README.md");
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
        ("balance", "key" | "load_percent_max") => place.1.push(("method", r#""hash""#)),
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
    rows.filter(|(_, _, key)| !matches!(key.takes, Takes::Object(_)))
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
                "key" => "\"header:X-Other\"",
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
}
