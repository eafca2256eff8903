//! A configuration as values by key, defaults filled in: to be compared with another one.

use serde_json::Value;

use crate::config::document::{Node, Object, parse_duration};
use crate::config::key::{Key, Takes};
use crate::config::{Config, ConfigError};

/// The keys of all sections but `backends`, by their paths, each with its value or null.
pub(super) fn values(top: &Object<'_>, keys: &[Key]) -> Result<Vec<(String, Value)>, ConfigError> {
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

/// The same for each way to write it.
fn value(node: &Node<'_>, takes: Takes) -> Value {
    if let (Takes::Duration(..), Some(text)) = (takes, node.text()) {
        let ms = parse_duration(&text).map(|duration| duration.as_millis());
        return ms.and_then(|ms| u64::try_from(ms).ok()).into();
    }
    let value = serde_json::from_str(node.json()).unwrap_or_default();
    match &value {
        // A port may be a string.
        Value::String(text) => text.parse::<u64>().map_or(value, Value::from),
        _ => value,
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
