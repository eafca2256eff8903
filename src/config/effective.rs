//! A configuration as values by key, with defaults, for comparing it with another.

use crate::config::document::{Node, Object, parse_duration};
use crate::config::key::{Key, Takes};
use crate::config::{Config, ConfigError};

/// The keys of all sections but `backends`, by their paths, each with its value, empty where there is none.
pub(super) fn values(top: &Object<'_>, keys: &[Key]) -> Result<Vec<(String, String)>, ConfigError> {
    let mut all = Vec::new();
    for key in keys {
        match key.takes {
            Takes::Object(keys) => all.extend(values(&top.section(key.name)?, keys)?),
            Takes::Objects { .. } | Takes::NotBuilt(_) => {}
            _ => {
                let value = top.optional(key.name).map(|node| value(&node, key.takes));
                all.push((top.path_of(key.name), value.unwrap_or_default()));
            }
        }
    }
    Ok(all)
}

/// As JSON, the same for each way to write it.
fn value(node: &Node<'_>, takes: Takes) -> String {
    match (takes, node.text()) {
        (Takes::Duration(..), Some(text)) => {
            let ms = parse_duration(&text).map(|duration| duration.as_millis());
            ms.map_or_else(|| text.into_owned(), |ms| ms.to_string())
        }
        // A port may be a string.
        (_, Some(text)) => text.into_owned(),
        (_, None) => node.json().split_ascii_whitespace().collect(),
    }
}

impl Config {
    /// The keys whose values differ, by their paths; those of `backends` apart.
    pub(crate) fn keys_that_differ<'a>(&'a self, other: &'a Config) -> Vec<&'a str> {
        let pairs = self.values.iter().zip(&other.values);
        pairs
            .filter(|((_, one), (_, two))| one != two)
            .map(|((path, _), _)| path.as_str())
            .collect()
    }
}
