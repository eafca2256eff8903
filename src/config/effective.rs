//! A configuration as values by key, with defaults: for comparing it with another, and as the document that the admin
//! interface shows.

use crate::config::document::{Node, Object, duration_text, parse_duration};
use crate::config::health_check::HTTP_ONLY;
use crate::config::key::{Key, Takes};
use crate::config::{Config, ConfigError};
use crate::pool::settings::{HealthCheckSettings, Kind, Persistence};
use crate::text::json::Json;

/// What only the process itself may know.
const SECRET: &str = "admin.token";

/// A key that differs: its path, and what it was and is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Setting {
    pub path: String,
    pub from: String,
    pub to: String,
}

impl Setting {
    /// As the admin interface shows it.
    pub(crate) fn document(&self) -> Json {
        Json::object([
            ("key", Json::text(&self.path)),
            ("from", self.shown(&self.from)),
            ("to", self.shown(&self.to)),
        ])
    }

    fn shown(&self, value: &str) -> Json {
        let is_shown = !value.is_empty() && self.path != SECRET;
        Json::raw(if is_shown { value } else { "null" })
    }
}

/// The keys of all sections but `backends`, by their paths, each with its value as JSON, empty where there is none.
pub(super) fn values(top: &Object<'_>, keys: &[Key]) -> Result<Vec<(String, String)>, ConfigError> {
    let mut all = Vec::new();
    for key in keys {
        match key.takes {
            Takes::Object(keys) => all.extend(values(&top.section(key.name)?, keys)?),
            Takes::Objects { .. } => {}
            _ => {
                let value = top.optional(key.name).map(|node| value(&node, key));
                all.push((top.path_of(key.name), value.unwrap_or_default()));
            }
        }
    }
    Ok(all)
}

/// The same for each way to write it.
fn value(node: &Node<'_>, key: &Key) -> String {
    let Some(text) = node.text() else {
        return node.json().split_ascii_whitespace().collect();
    };
    let duration = match key.takes {
        Takes::Duration(..) => parse_duration(&text).map(duration_text),
        _ => None,
    };
    match duration {
        Some(duration) => Json::text(&duration).to_string(),
        // A port may be a string.
        None if key.name == "port" => text.into_owned(),
        None => Json::text(&text).to_string(),
    }
}

impl Config {
    /// Empties the values that mean nothing beside the others, and fills in a default that no text expresses.
    pub(super) fn settle_values(&mut self) {
        let workers = self.proxy.workers.to_string();
        let is_cookie = matches!(self.balance.persistence, Persistence::Cookie { .. });
        let HealthCheckSettings { kind, .. } = self.health_check;
        let has_admin = self.admin.is_some();
        let has_queue = self.balance.queue.is_some();
        let ejects = self.balance.ejection.is_some();
        for (path, value) in &mut self.values {
            let of_check = path.strip_prefix("health_check.");
            let is_http_only = of_check.is_some_and(|key| HTTP_ONLY.contains(&key));
            match &**path {
                "proxy.workers" => value.clone_from(&workers),
                "balance.persistence.name" if !is_cookie => value.clear(),
                "admin.hosts" if !has_admin => value.clear(),
                "balance.queue.length" | "balance.queue.timeout" if !has_queue => value.clear(),
                _ if path.starts_with("ejection.") && !ejects => value.clear(),
                _ if is_http_only && kind != Kind::Http => value.clear(),
                _ => {}
            }
        }
    }

    /// The keys whose values differ; those of `backends` apart.
    pub(crate) fn settings_that_differ(&self, other: &Config) -> Vec<Setting> {
        let pairs = self.values.iter().zip(&other.values);
        let differing = pairs.filter(|((_, from), (_, to))| from != to);
        let setting = |((path, from), (_, to)): (&(String, String), &(String, String))| Setting {
            path: path.clone(),
            from: from.clone(),
            to: to.clone(),
        };
        differing.map(setting).collect()
    }

    /// The configuration that would start the process as it runs now. What discovery found is among its backends, so it
    /// names no list.
    pub(crate) fn document(&self) -> Json {
        let mut all = Vec::new();
        let values = self.values.iter().filter(|(path, value)| {
            !value.is_empty() && path != SECRET && !path.starts_with("discovery.")
        });
        for (path, value) in values {
            let mut place = &mut all;
            let mut rest = &**path;
            while let Some((section, below)) = rest.split_once('.') {
                place = section_of(place, section);
                rest = below;
            }
            place.push((rest.to_owned(), Json::raw(value)));
        }
        let entries = self.discovery.entries().into_iter();
        let backends = entries.map(|(entry, _)| entry.document()).collect();
        all.push(("backends".to_owned(), Json::List(backends)));
        Json::Object(all)
    }
}

/// The section of this name; the values of one follow each other.
fn section_of<'a>(
    place: &'a mut Vec<(String, Json)>,
    section: &str,
) -> &'a mut Vec<(String, Json)> {
    if place.last().is_none_or(|(name, _)| name != section) {
        place.push((section.to_owned(), Json::Object(Vec::new())));
    }
    match place.last_mut() {
        Some((_, Json::Object(entries))) => entries,
        _ => unreachable!("a section is an object, which was put there"),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// A configuration with most of what there is.
    const LONG: &str = r#"{
        "proxy": {"port": "8080", "address": "127.0.0.1", "workers": 3, "access_log": "json", "trust_forwarded": ["10.0.0.0/8"]},
        "balance": {"persistence": {"kind": "cookie"}, "method": "hash", "hash": {"key": "header:X-Id", "load_percent_max": 150},
            "queue": {"length": 7}},
        "backends": [{"url": "http://a/x", "weight": 0}, {"url": "http://b", "name": "b", "max_connections": 7, "each_address": true}],
        "health_check": {"kind": "http", "path": "/\"h\"", "interval": "90s"},
        "timeouts": {"connect": "60s"}, "limits": {"body_bytes": 5},
        "admin": {"address": "127.0.0.1:9090", "hosts": ["lb.example"]}
    }"#;
    const SHORT: &str =
        r#"{"proxy": {"port": 1}, "backends": [{"url": "http://a"}, {"url": "http://a"}]}"#;

    fn config(text: &str) -> Config {
        Config::from_text("c.json", text).unwrap()
    }

    #[test]
    fn the_document_of_a_configuration_is_the_same_configuration() {
        for text in [LONG, SHORT] {
            let (config, document) = (config(text), config(text).document().to_string());
            let mut again = Config::from_text("c.json", &document).unwrap();
            again.proxy.max_connections_is_set = config.proxy.max_connections_is_set;
            assert_eq!(again, config, "{document}");
            assert!(again.settings_that_differ(&config).is_empty());
        }
        let secret = LONG.replace(r#""hosts""#, r#""token": "s3cret", "hosts""#);
        assert!(!config(&secret).document().to_string().contains("s3cret"));
        let document = config(SHORT).document().to_string();
        let read: serde_json::Value = serde_json::from_str(&document).unwrap();
        assert_eq!(read["timeouts"]["connect"], "5s");
        assert_eq!(read["backends"][1]["name"], "a:80#2");
        assert_eq!(read["backends"][1]["check"], true);
    }

    #[test]
    fn the_document_lists_what_discovery_found_and_names_no_list() {
        let list = std::env::temp_dir().join(format!("rondo-effective-{}", std::process::id()));
        std::fs::write(&list, r#"[{"url": "http://found"}]"#).unwrap();
        let file = Json::text(&list.to_string_lossy());
        let text = format!(r#"{{"proxy": {{"port": 1}}, "discovery": {{"file": {file}}}}}"#);
        let config = Config::from_document(
            &crate::config::Document::from_bytes("c", text.into(), &crate::config::CONFIGURATION)
                .unwrap(),
            Path::new("c"),
            None,
        );
        std::fs::remove_file(&list).unwrap();
        let document = config.unwrap().document().to_string();
        let again = Config::from_text("c.json", &document).unwrap();
        assert_eq!(again.backends[0].name, "found:80");
    }

    #[test]
    fn what_differs_is_shown_as_it_was_and_is() {
        let shown = |other: &str| -> Vec<String> {
            let settings = config(SHORT).settings_that_differ(&config(other));
            let settings = settings.iter();
            settings
                .map(|setting| setting.document().to_string().split_whitespace().collect())
                .collect()
        };
        let with =
            |sections: &str| SHORT.replace(r#""backends""#, &format!("{sections}, \"backends\""));
        for (sections, expected) in [
            (r#""timeouts": {"connect": "5000ms"}"#, ""),
            (
                r#""timeouts": {"connect": "90s"}"#,
                r#"{"key":"timeouts.connect","from":"5s","to":"90s"}"#,
            ),
            (
                r#""limits": {"body_bytes": 5}"#,
                r#"{"key":"limits.body_bytes","from":null,"to":5}"#,
            ),
            (
                r#""admin": {"address": "127.0.0.1:9090", "token": "s3cret"}"#,
                r#"{"key":"admin.address","from":null,"to":"127.0.0.1:9090"}{"key":"admin.hosts","from":null,"to":[]}{"key":"admin.token","from":null,"to":null}"#,
            ),
        ] {
            assert_eq!(shown(&with(sections)).concat(), expected);
        }
        assert_eq!(shown(&SHORT.replace("1}", "\"1\"}")), [""; 0]);
    }
}
