//! `--schema`: the rows as a JSON Schema, with which an editor completes, explains and checks a
//! configuration.

use serde_json::{Map, Value, json};

use crate::config::KEYS;
use crate::config::key::{Fallback, Key, Takes};

/// The JSON Schema (draft 7) of the configuration, without comments, which it cannot express.
pub fn schema() -> String {
    let mut schema = object(KEYS);
    schema["$schema"] = json!("http://json-schema.org/draft-07/schema#");
    schema["title"] = json!("The configuration of rondo");
    format!("{schema:#}\n")
}

fn object(keys: &[Key]) -> Value {
    let built = || {
        keys.iter()
            .filter(|key| !matches!(key.takes, Takes::NotBuilt(_)))
    };
    let properties: Map<String, Value> = built()
        .map(|key| (key.name.to_owned(), property(key)))
        .collect();
    let required: Vec<&str> = built()
        .filter(|key| matches!(key.default, Fallback::Required))
        .map(|key| key.name)
        .collect();
    json!({
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}

fn property(key: &Key) -> Value {
    let mut property = value(&key.takes);
    property["description"] = json!(key.description());
    if let Fallback::Value(json) = key.default {
        property["default"] = parsed(json);
    }
    property
}

fn value(takes: &Takes) -> Value {
    match takes {
        Takes::Flag => json!({ "type": "boolean" }),
        Takes::Integer(least, u64::MAX) => json!({ "type": "integer", "minimum": least }),
        Takes::Integer(least, most) => {
            json!({ "type": "integer", "minimum": least, "maximum": most })
        }
        Takes::Duration(..) => json!({ "type": "string", "pattern": "^[0-9]+(ms|s|m|h)$" }),
        Takes::Word(words) => {
            let (names, meanings): (Vec<&str>, Vec<&str>) =
                words().iter().map(|word| (word.name, word.meaning)).unzip();
            json!({ "enum": names, "enumDescriptions": meanings })
        }
        Takes::Object(keys) | Takes::NotBuilt(keys) => object(keys),
        Takes::Objects { keys, .. } => {
            json!({ "type": "array", "minItems": 1, "items": object(keys) })
        }
        Takes::Other { schema, .. } => parsed(schema),
    }
}

fn parsed(json: &str) -> Value {
    serde_json::from_str(json).expect("a row holds valid JSON, which a test shows")
}
