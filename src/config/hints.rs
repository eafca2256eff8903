//! What was probably meant by an unknown key or word: other programs' names, near misses, other
//! sections.

use crate::config::KEYS;
use crate::config::document::Form;
use crate::config::key::{Key, Takes, Word};
use crate::text::words::{listed, nearest};

/// Where other programs' words turn up (a section's path, `*` for any), the words, and what to
/// write instead.
const KEYS_OF_OTHERS: &[(&str, &[&str], &str)] = &[
    (
        "*",
        &[
            "tls",
            "ssl",
            "https",
            "cert",
            "certificate",
            "tls_certificate",
        ],
        "rondo does not speak TLS; put a terminator in front of it",
    ),
    (
        "*",
        &["http2", "h2", "http3", "quic"],
        "rondo speaks HTTP/1.1; put a terminator in front of it",
    ),
    (
        "",
        &[
            "listen", "bind", "host", "address", "port", "listener", "server", "frontend",
        ],
        r#"write "proxy": {"address": "127.0.0.1", "port": 8080}"#,
    ),
    (
        "",
        &[
            "servers",
            "upstream",
            "upstreams",
            "targets",
            "nodes",
            "pool",
            "origins",
        ],
        r#"write "backends": [{"url": "http://127.0.0.1:8081"}]"#,
    ),
    (
        "",
        &["algorithm", "strategy", "policy", "lb_policy", "method"],
        r#"write "balance": {"method": "round_robin"}"#,
    ),
    (
        "proxy",
        &["listen", "bind", "host", "ip"],
        r#"write "address": "127.0.0.1", "port": 8080"#,
    ),
    (
        "proxy",
        &["backends", "servers", "upstreams"],
        r#"write "backends": [...] beside "proxy""#,
    ),
    ("proxy", &["threads"], r#"did you mean "workers"?"#),
    (
        "balance",
        &[
            "algorithm",
            "strategy",
            "policy",
            "lb_policy",
            "kind",
            "type",
        ],
        r#"did you mean "method"?"#,
    ),
    (
        "balance",
        &["sticky", "stickiness", "session", "cookie", "affinity"],
        r#"write "persistence": {"kind": "cookie"}"#,
    ),
    (
        "balance",
        &["retries", "attempts"],
        r#"did you mean "tries"?"#,
    ),
    (
        "backends[]",
        &["host", "port", "address", "addr", "ip", "server", "target"],
        r#"write "url": "http://HOST:PORT""#,
    ),
    (
        "backends[]",
        &["health_check", "healthcheck", "health", "interval"],
        r#""health_check" stands beside "backends" and holds for all of them; "check": false leaves one out"#,
    ),
    (
        "",
        &[
            "service_discovery",
            "dns",
            "resolver",
            "resolvers",
            "providers",
        ],
        r#"write "discovery": {"file": "backends.json"}, or "each_address": true in an entry of "backends""#,
    ),
    (
        "backends[]",
        &["resolve", "expand", "dynamic", "all_addresses"],
        r#"did you mean "each_address"?"#,
    ),
    (
        "discovery",
        &["path", "list", "url"],
        r#"did you mean "file"?"#,
    ),
    (
        "backends[]",
        &["max_conns", "maxconn"],
        r#"did you mean "max_connections"?"#,
    ),
    (
        "health_check",
        &["type", "protocol", "mode"],
        r#"did you mean "kind"?"#,
    ),
    ("health_check", &["uri", "url"], r#"did you mean "path"?"#),
];

/// What to write instead of a key that is not one of `keys`, which belong to the object at `path`.
pub(super) fn about_unknown(path: &str, key: &str, keys: &[Key], form: &Form) -> String {
    let names = || {
        keys.iter()
            .map(|row| row.name)
            .filter(|name| !name.starts_with('$'))
    };
    if let Some(meant) = nearest(key, names()) {
        return format!("did you mean {meant:?}?");
    }
    let all = || {
        let names: Vec<&str> = names().collect();
        format!("the keys here are {}", listed(&names, "and"))
    };
    if !form.is_configuration {
        return all();
    }
    // Of an entry in a discovered list, and of an entry by itself.
    let is_entry = path.is_empty() && keys.first().is_some_and(|row| row.name == "url");
    let section = match without_numbers(path) {
        section if is_entry || section == "[]" => "backends[]".to_owned(),
        section => section,
    };
    let lower = key.to_ascii_lowercase();
    let of_others = KEYS_OF_OTHERS.iter().find(|(place, words, _)| {
        (*place == "*" || *place == section) && words.contains(&lower.as_str())
    });
    if let Some((_, _, hint)) = of_others {
        return (*hint).to_owned();
    }
    let elsewhere = places_of(key);
    if !elsewhere.is_empty() {
        return format!("did you mean {}?", listed(&elsewhere, "or"));
    }
    all()
}

/// The word that was probably meant.
pub(super) fn about_word(text: &str, words: &[Word]) -> Option<&'static str> {
    let of_others = words.iter().find(|word| word.also.contains(&text));
    of_others
        .map(|word| word.name)
        .or_else(|| nearest(text, words.iter().map(|word| word.name)))
}

/// The path of every section that has such a key.
fn places_of(key: &str) -> Vec<String> {
    let in_section = |section: &Key| {
        let (keys, list) = match section.takes {
            Takes::Object(keys) => (keys, ""),
            Takes::Objects { keys, .. } => (keys, "[]"),
            _ => return None,
        };
        let is_one = |row: &Key| row.name == key;
        let found = keys.iter().any(is_one);
        found.then(|| format!("{}{list}.{key}", section.name))
    };
    KEYS.iter().filter_map(in_section).collect()
}

/// `backends[]` for `backends[7]`.
fn without_numbers(path: &str) -> String {
    path.chars().filter(|char| !char.is_ascii_digit()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_word_of_others_is_a_key_of_ours() {
        for (place, words, _) in KEYS_OF_OTHERS {
            let sections = KEYS
                .iter()
                .filter(|row| *place == "*" || row.name == place.trim_end_matches("[]"));
            let mut keys: Vec<&str> = Vec::new();
            if matches!(*place, "" | "*") {
                keys.extend(KEYS.iter().map(|row| row.name));
            }
            for section in sections {
                if let Takes::Object(rows) | Takes::Objects { keys: rows, .. } = section.takes {
                    keys.extend(rows.iter().map(|row| row.name));
                }
            }
            assert!(!keys.is_empty(), "{place} is no section");
            for word in *words {
                assert!(!keys.contains(word), "{place} {word}");
            }
        }
    }
}
