//! `--schema`: the rows as a JSON Schema, with which an editor completes, explains and checks a
//! configuration.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use crate::config::KEYS;
use crate::config::key::{Fallback, Key, Takes};
use crate::text::json::Json;

/// The JSON Schema (draft 7) of the configuration, without comments, which it cannot express.
pub fn schema() -> String {
    let mut schema = vec![
        entry(
            "$schema",
            Json::text("http://json-schema.org/draft-07/schema#"),
        ),
        entry("title", Json::text("The configuration of rondo")),
    ];
    schema.extend(object(KEYS));
    // The backends, or where they come from.
    let either =
        ["backends", "discovery"].map(|key| Json::object([("required", Json::texts([key]))]));
    schema.push(entry("anyOf", Json::List(either.to_vec())));
    format!("{}\n", Json::Object(schema))
}

type Entries = Vec<(String, Json)>;

#[inline(never)]
fn entry(key: &str, value: Json) -> (String, Json) {
    (key.to_owned(), value)
}

fn object(keys: &[Key]) -> Entries {
    let required = keys
        .iter()
        .filter(|key| matches!(key.default, Fallback::Required))
        .map(|key| key.name);
    let properties = keys
        .iter()
        .map(|key| entry(key.name, Json::Object(property(key))));
    vec![
        entry("type", Json::text("object")),
        entry("properties", Json::Object(properties.collect())),
        entry("required", Json::texts(required)),
        entry("additionalProperties", Json::raw(false)),
    ]
}

fn property(key: &Key) -> Entries {
    let mut property = vec![entry("description", Json::text(&key.description()))];
    if let Fallback::Value(json) = key.default {
        property.push(entry("default", Json::raw(json)));
    }
    property.extend(value(&key.takes));
    property
}

fn value(takes: &Takes) -> Entries {
    let kind = |name| entry("type", Json::text(name));
    match takes {
        Takes::Flag => vec![kind("boolean")],
        Takes::Integer(least, most) => {
            let mut value = vec![kind("integer"), entry("minimum", Json::raw(least))];
            if *most < u64::MAX {
                value.push(entry("maximum", Json::raw(most)));
            }
            value
        }
        Takes::Duration(..) => vec![
            kind("string"),
            entry("pattern", Json::text("^[0-9]+(ms|s|m|h)$")),
        ],
        Takes::Word(words) => {
            let words = words();
            vec![
                entry("enum", Json::texts(words.iter().map(|word| word.name))),
                entry(
                    "enumDescriptions",
                    Json::texts(words.iter().map(|word| word.meaning)),
                ),
            ]
        }
        Takes::Object(keys) => object(keys),
        Takes::Objects { keys, .. } => vec![
            kind("array"),
            entry("minItems", Json::raw(1)),
            entry("items", Json::Object(object(keys))),
        ],
        Takes::Other { schema, .. } => schema_of(schema),
    }
}

/// The entries of a JSON object in a row, as text.
fn schema_of(json: &str) -> Entries {
    let entries: BTreeMap<String, &RawValue> =
        serde_json::from_str(json).expect("a row holds a JSON object, which a test shows");
    entries
        .into_iter()
        .map(|(key, value)| (key, Json::raw(value.get())))
        .collect()
}
